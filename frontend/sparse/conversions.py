"""Methods of tensors about sparse layouts: made into them and back, their parts."""
from __future__ import annotations

from typing import Any

import numpy as np

from treadle import legacy
from treadle.creation import adopt, to_array
from treadle.emitter import EMITTER
from treadle.functions import as_dtype, cast
from treadle.sparse.pattern import BACKENDS, COO, CSC, CSR, Pattern, at_places, coalesced, make, mark_of, pattern_of, values_of
from treadle.sparse.pattern import to_dense as _to_dense
from treadle.sparse.rules import as_layout
from treadle.tensor import Tensor, alias

_KINDS = {COO: "sparse coordinate", CSR: "sparse row compressed", CSC: "sparse column compressed"}


def _need(t: Tensor, name: str, *layouts: str) -> Pattern:
    """The pattern; RuntimeError in PyTorch's words when the tensor has another layout."""
    p = pattern_of(t)
    if p is None or p.layout not in layouts:
        raise RuntimeError(f"{name} expected {'sparse' if len(layouts) > 1 else _KINDS[layouts[0]]} tensor layout but got "
                           f"{'Strided' if p is None else BACKENDS[p.layout]}")
    return p


def to_dense(self: Tensor, dtype: Any = None, *, masked_grad: bool | None = None) -> Tensor:
    """The dense tensor, zero where there is no element; a dense tensor itself."""
    found = _to_dense(self)
    return found if dtype is None else cast(found, as_dtype(dtype))


def to_sparse(self: Tensor, sparse_dim: int | None = None, *, layout: Any = None, blocksize: Any = None,
              dense_dim: int | None = None) -> Tensor:
    """The elements that are not zero, along the first `sparse_dim` axes (all unless given), in layout `sparse_coo` or another."""
    wanted = COO if layout is None else layout.name
    if wanted not in _KINDS:
        raise RuntimeError(f"to_sparse: there is no layout {layout!r}; sparse_coo, sparse_csr and sparse_csc there are")
    if pattern_of(self) is not None:
        return as_layout(self, wanted)
    ndim = self._data.type.ndim
    k = ndim - (dense_dim or 0) if sparse_dim is None else sparse_dim
    if not 0 < k <= ndim:
        raise RuntimeError(f"to_sparse: sparse_dim has to be at least 1 and at most {ndim}, got {k}")
    array = to_array(self)
    there = array != np.zeros((), array.dtype)
    places = np.nonzero(there.any(axis=tuple(range(k, ndim))) if k < ndim else there)
    axes = tuple([adopt(np.ascontiguousarray(a.astype(np.int64)), self) for a in places])
    pattern = Pattern(axes, self._data.type.shape[:k], True)
    return as_layout(make(pattern, at_places(self, pattern)), wanted)


def to_sparse_csr(self: Tensor, dense_dim: int | None = None) -> Tensor:
    """The matrix in layout `sparse_csr`: elements by row."""
    return to_sparse(self, layout=legacy.sparse_csr)


def to_sparse_csc(self: Tensor, dense_dim: int | None = None) -> Tensor:
    """The matrix in layout `sparse_csc`: elements by column."""
    return to_sparse(self, layout=legacy.sparse_csc)


def to_sparse_coo(self: Tensor) -> Tensor:
    """The tensor in layout `sparse_coo`."""
    return to_sparse(self)


def coalesce(self: Tensor) -> Tensor:
    """The places in order, each once, values of one place summed up."""
    _need(self, "coalesce", COO)
    return coalesced(self)


def is_coalesced(self: Tensor) -> bool:
    """Whether it is known that places are in order, each once."""
    return _need(self, "is_coalesced", COO).coalesced


def _ordered(self: Tensor, name: str) -> Pattern:
    p = _need(self, name, COO)
    if not p.coalesced:
        raise RuntimeError(f"Cannot get {name} on an uncoalesced tensor, please call .coalesce() first")
    return p


def indices(self: Tensor) -> Tensor:
    """The places of all elements, int64 (sparse axes, elements). RuntimeError unless coalesced."""
    return _ordered(self, "indices").indices()


def _indices(self: Tensor) -> Tensor:
    """The places of all elements, in whatever order."""
    return _need(self, "_indices", COO).indices()


def _values(self: Tensor) -> Tensor:
    """The values (elements, dense axes...), on the tensor's own memory."""
    _need(self, "_values", COO, CSR, CSC)
    return _given(self)


def values(self: Tensor) -> Tensor:
    """The values (elements, dense axes...). RuntimeError for a COO tensor that is not coalesced."""
    if _need(self, "values", COO, CSR, CSC).layout == COO:
        _ordered(self, "values")
    return _given(self)


def _given(t: Tensor) -> Tensor:
    found = values_of(t)
    mark = mark_of(t)
    assert mark is not None
    return found if found._edge is not None else alias(mark.value)


def _nnz(self: Tensor) -> int:
    """How many elements there are."""
    if pattern_of(self) is None:
        raise NotImplementedError("Could not run 'aten::_nnz' with arguments from the 'CPU' backend: the tensor is not sparse")
    return _need(self, "_nnz", COO, CSR, CSC).nnz


def crow_indices(self: Tensor) -> Tensor:
    """Where each row starts, and the number of elements."""
    return _need(self, "crow_indices", CSR).products()[0]


def col_indices(self: Tensor) -> Tensor:
    """The column of each element."""
    return _need(self, "col_indices", CSR).axes[1]


def ccol_indices(self: Tensor) -> Tensor:
    """Where each column starts, and the number of elements."""
    return _need(self, "ccol_indices", CSC).products()[2]


def row_indices(self: Tensor) -> Tensor:
    """The row of each element."""
    return _need(self, "row_indices", CSC).axes[0]


def sparse_dim(self: Tensor) -> int:
    """How many axes are sparse; 0 of a dense tensor."""
    p = pattern_of(self)
    return 0 if p is None else len(p.axes)


def dense_dim(self: Tensor) -> int:
    """How many axes are dense."""
    return self._data.type.ndim - sparse_dim(self)


def sparse_mask(self: Tensor, mask: Tensor) -> Tensor:
    """The elements of a dense tensor at the places of a sparse one."""
    p = pattern_of(mask)
    if p is None:
        raise RuntimeError("sparse_mask: the mask has to be sparse")
    if self._data.type.shape != mask._data.type.shape:
        raise RuntimeError(f"sparse_mask(): operands have incompatible sizes; self has size {list(self._data.type.shape)} but mask has "
                           f"size {list(mask._data.type.shape)}")
    p = p.coalesce().pattern
    return make(p, at_places(_to_dense(self), p))


def zero_(self: Tensor) -> Tensor:
    """Without elements."""
    p = _need(self, "zero_", COO)
    empty = Pattern(tuple([adopt(np.zeros(0, np.int64), a) for a in p.axes]), p.shape, True)
    type = values_of(self)._data.type
    from treadle.tensor import assign
    return assign(self, make(empty, EMITTER.full(0, (0, *type.shape[1:]), type.dtype, type.device)), "zero_")


def rebuild(indices: tuple[Tensor, ...], values: Tensor, size: tuple[int, ...], layout: str, is_coalesced: bool,
            requires_grad: bool) -> Tensor:
    """What `copy` and `pickle` make a sparse tensor of."""
    made = make(Pattern(indices, size[:len(indices)], is_coalesced, layout), values)
    return made.requires_grad_() if requires_grad else made


def reduced(t: Tensor) -> Any:
    """For pickle: `rebuild` and its arguments."""
    mark = mark_of(t)
    assert mark is not None
    p = mark.level
    return rebuild, (p.axes, mark.value, tuple(t._data.type.shape), p.layout, p.coalesced, t._requires_grad)

