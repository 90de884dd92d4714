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

`workspace` is 0 where a thread's scratch memory is large enough, else the address of `workspace_step` bytes for each row.
"""
from __future__ import annotations

from typing import NamedTuple

# Bytes of scratch memory a routine may count on.
SCRATCH_BYTES = 16 << 20

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "scan": ("error", "x", "out", "index", "totals", "n", "inner", "block", "blocks", "phase", "chunk"),
    "sort": ("error", "x", "values", "index", "n", "workspace", "workspace_step"),
    "topk": ("error", "x", "values", "index", "n", "k", "room", "workspace", "workspace_step"),
    "scatter": ("error", "out", "place", "src", "rows", "count", "inner", "chunk"),
}


class Routine(NamedTuple):
    """family: a key of ARGUMENTS. kind: which scan (the op's name), how a scatter combines (set, add, prod, amax, amin),
    or "" . source and dtype: element types read and written. descending: the order of sort and topk. splat: every place
    of a scatter gets the same single element."""

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
