"""Kernels whose loops the kernel IR has no words for: prefix operations, sorting, writes at data-dependent places.

A `Routine` plays the part that `treadle.ir.kernel.Kernel` plays for regular loops: a hashable description without sizes,
which are run-time arguments. The names in ARGUMENTS say what the int64 argument table of each family holds.

    scan          out[o, i, c] = combination of x[o, 0..i, c]; `index` (extremes only) holds where the winner is.
                  Rows (inner = 1) are cut into `blocks` of `block` elements; `phase` 0 writes each block's total to
                  `totals`, `phase` 1 the results. Columns (inner > 1) go in chunks of `chunk`.
    sort          every row of n elements in order, and where each came from; stable, NaN largest.
    topk          the first k of the same order. `room`: records that fit in the workspace.
    scatter       out[place[m], :] combined with src[m, :] in the order of m; a place below 0 counts from the end, one
                  outside [-rows, rows) is reported in the error cell.
    bincount      out[i] = how many of the n elements of x are i < size. `phase` 0 counts each of `blocks` of `block` elements in `totals`,
                  `phase` 1 adds these up, `chunk` of them a unit; an element outside [-size, size) is reported in the error cell.
    sparse_matmul  out[i, :] = sum of values[e] x[cols[e], :] over e = order[starts[i]..starts[i + 1]]; a column outside [0, columns)
                  is reported in the error cell. count: elements; inner: columns of x.
    attention     out[b, h, i, :] = sum over j of softmax(scale q[b, h, i] . k[b, g, j] + mask)[j] v[b, g, j, :] with g = h / group, and
                  lse, the logarithm of the sum of exponentials. A unit is `block` queries, of which a head has `blocks`.
    attention_backward  dq, dk and dv (contiguous) from g, the gradient of out. `phase`: what units own, see ALL.

`workspace` is 0 where a thread's scratch memory is large enough, else the address of `workspace_step` bytes for each row.
"""
from __future__ import annotations

from typing import NamedTuple

# Bytes of scratch memory a routine may count on.
SCRATCH_BYTES = 16 << 20
# Keys that attention looks at together.
KEY_BLOCK = 64
# What the units of attention's gradient own: a head of keys with its queries, `block` queries, or `block` keys.
ALL, ONLY_QUERIES, ONLY_KEYS = 0, 1, 2


def _strided(*names: str) -> tuple[str, ...]:
    """An operand's address and its strides over batch, head and row, in elements."""
    return tuple([word for name in names for word in (name, f"{name}_batch", f"{name}_head", f"{name}_row")])


# Rows are queries; `size` is the length of a query and a key, `depth` that of a value. scale and p are float32 numbers.
_ATTENTION = ("rows", "keys", "heads", "group", "size", "depth", "scale", "p", "seed", "offset", "mask", "mask_batch", "mask_head",
              "mask_key", "block", "blocks")

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "scan": ("error", "x", "out", "index", "totals", "n", "inner", "block", "blocks", "phase", "chunk"),
    "sort": ("error", "x", "values", "index", "n", "workspace", "workspace_step"),
    "topk": ("error", "x", "values", "index", "n", "k", "room", "workspace", "workspace_step"),
    "scatter": ("error", "out", "place", "src", "rows", "count", "inner", "chunk"),
    "bincount": ("error", "x", "out", "totals", "n", "size", "block", "blocks", "phase", "chunk"),
    "sparse_matmul": ("error", "x", "out", "values", "cols", "starts", "order", "count", "columns", "inner"),
    "attention": ("error", *_strided("q", "k", "v", "out"), "lse", *_ATTENTION),
    "attention_backward": ("error", *_strided("q", "k", "v", "out", "g"), "lse", "dq", "dk", "dv", *_ATTENTION, "phase"),
}


class Routine(NamedTuple):
    """family: a key of ARGUMENTS. kind: which scan (the op's name), how a scatter combines (set, add, prod, amax, amin), words
    for what attention does besides (causal, bool or float: its mask; keys: one for all queries; dropout), or "". source and
    dtype: element types read and written. descending: the order of sort and topk. splat: every place of a scatter gets the
    same single element."""

    family: str
    kind: str
    source: str
    dtype: str
    descending: bool = False
    splat: bool = False


def print_routine(routine: Routine, name: str = "routine") -> str:
    """One line of text."""
    words = [routine.family, routine.kind, f"{routine.source} -> {routine.dtype}", "descending" if routine.descending else "",
             "splat" if routine.splat else ""]
    return f"routine @{name}: {' '.join(w for w in words if w)} ({', '.join(ARGUMENTS[routine.family])})"
