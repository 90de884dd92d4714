"""Sparse tensors as text, in PyTorch's layout."""
from __future__ import annotations

from treadle.ir import dtypes
from treadle.printing import elements, join
from treadle.sparse.pattern import COO, CSR, mark_of
from treadle.tensor import Tensor


def _part(name: str, t: Tensor) -> str:
    """`values=tensor([1., 2.])`, its lines below each other; dtypes are said once, of the whole."""
    prefix, type = f"{name}=tensor(", t._data.type
    return prefix + elements(t, len("tensor(" + prefix)) + ("" if type.numel else f", size={tuple(type.shape)}") + ")"


def sparse_repr(t: Tensor) -> str:
    """`tensor(indices=..., values=..., size=(2, 3), nnz=4, layout=treadle.sparse_coo)`."""
    mark = mark_of(t)
    assert mark is not None
    p, type = mark.level, t._data.type
    if p.layout == COO:
        parts = [("indices", p.indices())]
    else:
        compressed, plain = ("crow_indices", "col_indices") if p.layout == CSR else ("ccol_indices", "row_indices")
        parts = [(compressed, p.products()[0 if p.layout == CSR else 2]), (plain, p.axes[1 if p.layout == CSR else 0])]
    text = "tensor(" + ",\n       ".join([_part(*part) for part in [*parts, ("values", mark.value)]])
    sizes = [f"size={tuple(type.shape)}", f"nnz={p.nnz}"]
    if p.layout == COO:
        text += ",\n       " + sizes.pop(0)
    suffixes = [] if type.device == "cpu" else [f"device='{type.device}'"]
    if type.dtype not in (dtypes.default_float(), dtypes.int64, dtypes.bool_, dtypes.default_complex()):
        suffixes.append(f"dtype={type.dtype!r}")
    suffixes.append(f"layout=treadle.{p.layout}")
    if t._node is not None:
        suffixes.append(f"grad_fn=<{t._node.name()}>")
    elif t._requires_grad:
        suffixes.append("requires_grad=True")
    return join(text, [*sizes, *suffixes], len("tensor("))
