"""`treadle.sparse`: sparse tensors in the layouts COO, CSR and CSC, and what there is to do with them alone."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from treadle import legacy
from treadle.creation import adopt, as_tensor, to_array
from treadle.device import device_name
from treadle.emitter import EMITTER
from treadle.functions import as_dtype, tensor_argument
from treadle.ir import dtypes
from treadle.ir.ops.indexing import refuse_negative
from treadle.ir.types import normalize_dim
from treadle.linear_algebra import addmm as _addmm
from treadle.linear_algebra import matmul as _matmul
from treadle.reductions import sum as _sum
from treadle.results import cast
from treadle.runtime.recorder import STATE
from treadle.sparse.pattern import COO, CSC, CSR, Pattern, coalesced, make, mark_of, pattern_of, values_of
from treadle.sparse.rules import softmax as _softmax
from treadle.sparse.rules import unsupported
from treadle.tensor import Tensor, alias, assign

__all__ = ["addmm", "check_sparse_tensor_invariants", "log_softmax", "mm", "sampled_addmm", "softmax", "spdiags", "sum"]


# -- making them -------------------------------------------------------------------------------------------------------------------------
def _shared(values: Tensor) -> Tensor:
    """The values on the memory of the tensor given, off the tape but for its edge."""
    if values._node is not None:
        return values
    found = alias(values)
    found._edge = values._edge
    return found


def _new(pattern: Pattern, values: Tensor, requires_grad: bool) -> Tensor:
    made = make(pattern, _shared(values))
    return made.requires_grad_() if requires_grad else made


def _inside(axes: Sequence[Tensor], shape: Sequence[int]) -> tuple[Tensor, ...]:
    """The places, checked where they are known; else ops on them will find the fault."""
    if STATE.here.capture is not None:
        return tuple([refuse_negative(EMITTER, a, n) for a, n in zip(axes, shape, strict=True)])
    for d, (axis, n) in enumerate(zip(axes, shape, strict=True)):
        places = to_array(axis)
        if places.size and places.min() < 0:
            raise RuntimeError(f"found negative index {places.min()} for dim {d}")
        if places.size and places.max() >= n:
            raise RuntimeError(f"size is inconsistent with indices: for dim {d}, size is {n} but found index {places.max()}")
    return tuple(axes)


def sparse_coo_tensor(indices: Any = None, values: Any = None, size: Any = None, *, dtype: Any = None, device: Any = None,
                      pin_memory: bool = False, requires_grad: bool = False, check_invariants: bool | None = None,
                      is_coalesced: bool | None = None) -> Tensor:
    """The tensor with `values` (elements, dense axes...) at `indices` (sparse axes, elements); values at the same place add up.

    Without a size, the smallest that holds all. Indices are always checked: RuntimeError where they do not fit the size or the values.
    """
    where = None if device is None else device_name(device)
    if isinstance(indices, tuple | list) and size is None and values is None and all(isinstance(n, int) for n in indices):
        indices, size = None, indices
    if indices is None:
        kind = dtypes.default_float() if dtype is None else as_dtype(dtype)
        indices, values = np.zeros((len(tuple(size)), 0), np.int64), as_tensor(np.zeros(0, kind.np))
    places = cast(as_tensor(indices, device=where), dtypes.int64)
    values = as_tensor(values, dtype=None if dtype is None else as_dtype(dtype), device=where or places._data.type.device)
    if places._data.type.shape == (0,):
        places = EMITTER.reshape(places, (len(size) if size is not None else 1, 0))
    have, many = places._data.type, values._data.type.shape
    if have.ndim != 2:
        raise RuntimeError(f"indices must be sparse_dim x nnz, but got: {list(have.shape)}")
    if not many or have.shape[1] != many[0]:
        raise RuntimeError(f"indices and values must have same nnz, but got nnz from indices: {have.shape[1]}, nnz from values: "
                           f"{many[0] if many else 1}")
    axes = [EMITTER.reshape(EMITTER.slice(places, (d, 0), (d + 1, have.shape[1]), (1, 1)), (have.shape[1],)) for d in range(have.shape[0])]
    if size is None:
        size = (*[int(to_array(a).max(initial=-1)) + 1 for a in axes], *many[1:])
    if len(size) != have.shape[0] + len(many) - 1:
        raise RuntimeError(f"'len(size) == sparse_dim + dense_dim' is not satisfied: len(size) = {len(size)}, "
                           f"sparse_dim = {have.shape[0]}, dense_dim = {len(many) - 1}")
    shape = tuple([int(n) for n in size])
    if shape[have.shape[0]:] != many[1:]:
        raise RuntimeError(f"values has incorrect size, expected {[many[0], *shape[have.shape[0]:]]}, got {list(many)}")
    pattern = Pattern(_inside(axes, shape[:have.shape[0]]), shape[:have.shape[0]], bool(is_coalesced))
    return _new(pattern, values, requires_grad)


def _compressed(name: str, starts: Any, plain: Any, values: Any, size: Any, dtype: Any, device: Any, requires_grad: bool,
                rows: bool) -> Tensor:
    where = None if device is None else device_name(device)
    starts, plain = (cast(as_tensor(t, device=where), dtypes.int64) for t in (starts, plain))
    values = as_tensor(values, dtype=None if dtype is None else as_dtype(dtype), device=where or plain._data.type.device)
    at, other = to_array(starts), to_array(plain)
    if at.ndim != 1 or other.ndim != 1 or values._data.type.shape != other.shape:
        raise RuntimeError(f"{name}: expected one vector of starts and one of indices, as long as the values, but got shapes "
                           f"{list(at.shape)}, {list(other.shape)} and {list(values._data.type.shape)}")
    n, crossing = len(at) - 1, int(other.max(initial=-1)) + 1
    shape = tuple([int(m) for m in size]) if size is not None else (n, crossing) if rows else (crossing, n)
    height, width = shape if rows else shape[::-1]
    if at[0] != 0 or at[-1] != len(other) or (at[1:] < at[:-1]).any() or n != height:
        raise RuntimeError(f"{name}: {'crow' if rows else 'ccol'}_indices have to go from 0 to nnz = {len(other)} in {height} steps, "
                           "none of them down")
    if len(other) and (other.min() < 0 or other.max() >= width):
        raise RuntimeError(f"{name}: {'col' if rows else 'row'}_indices have to be at least 0 and below {width}")
    line = adopt(np.repeat(np.arange(n), np.diff(at)), plain)
    flat = to_array(line) * width + other
    pattern = Pattern((line, plain), (height, width), bool((flat[1:] > flat[:-1]).all()), CSR)
    pattern.products()
    return _new(pattern if rows else pattern.flipped(), values, requires_grad)


def sparse_csr_tensor(crow_indices: Any, col_indices: Any, values: Any, size: Any = None, *, dtype: Any = None, device: Any = None,
                      pin_memory: bool = False, requires_grad: bool = False, check_invariants: bool | None = None) -> Tensor:
    """The matrix whose row i has `values[crow_indices[i]:crow_indices[i + 1]]` in the columns `col_indices` of the same places."""
    return _compressed("sparse_csr_tensor", crow_indices, col_indices, values, size, dtype, device, requires_grad, True)


def sparse_csc_tensor(ccol_indices: Any, row_indices: Any, values: Any, size: Any = None, *, dtype: Any = None, device: Any = None,
                      pin_memory: bool = False, requires_grad: bool = False, check_invariants: bool | None = None) -> Tensor:
    """The matrix whose column j has `values[ccol_indices[j]:ccol_indices[j + 1]]` in the rows `row_indices` of the same places."""
    return _compressed("sparse_csc_tensor", ccol_indices, row_indices, values, size, dtype, device, requires_grad, False)


def sparse_compressed_tensor(compressed_indices: Any, plain_indices: Any, values: Any, size: Any = None, *, layout: Any,
                             **options: Any) -> Tensor:
    """`sparse_csr_tensor` or `sparse_csc_tensor`, by layout."""
    if layout not in (legacy.sparse_csr, legacy.sparse_csc):
        raise RuntimeError(f"sparse_compressed_tensor: the layout is sparse_csr or sparse_csc, got {layout!r}")
    make_it = sparse_csr_tensor if layout is legacy.sparse_csr else sparse_csc_tensor
    return make_it(compressed_indices, plain_indices, values, size, **options)


def spdiags(diagonals: Tensor, offsets: Tensor, shape: tuple[int, int], layout: Any = None) -> Tensor:
    """The matrix with the rows of `diagonals` on its diagonals `offsets`: element j of a row is in column j."""
    rows = diagonals if diagonals._data.type.ndim == 2 else EMITTER.reshape(diagonals, (1, -1))
    count = min(rows._data.type.shape[1], shape[1])
    starts = to_array(offsets).reshape(-1).tolist()
    places = [(k, j - off, j) for k, off in enumerate(starts) for j in range(count) if 0 <= j - off < shape[0]]
    which, i, j = np.array(places, np.int64).reshape(-1, 3).T.copy()
    made = sparse_coo_tensor(adopt(np.stack([i, j])), EMITTER.index(rows, adopt(which), adopt(j), dims=(0, 1)), shape)
    return made if layout is None else made.coalesce().to_sparse(layout=layout)


# -- functions ---------------------------------------------------------------------------------------------------------------------------
def mm(mat1: Tensor, mat2: Tensor, reduce: str | None = None) -> Tensor:
    """The product of two matrices, of which any may be sparse; two sparse ones give a sparse one. Gradients are as `mat1`, `mat2` are."""
    for name, t in (("mat1", mat1), ("mat2", mat2)):
        if tensor_argument("sparse.mm", t, name)._data.type.ndim != 2:
            raise RuntimeError(f"sparse.mm: {name} must be a matrix, got a tensor of shape {list(t._data.type.shape)}")
    p = pattern_of(mat1)
    if reduce is None or reduce == "sum":
        return _matmul(mat1, mat2)
    if reduce != "mean" or p is None or p.layout != CSR:
        raise NotImplementedError(f"sparse.mm: reduce={reduce!r} is not supported, only 'sum' and, of a CSR mat1, 'mean'")
    starts = p.products()[0]
    counts = EMITTER.sub(EMITTER.slice(starts, (1,), (p.shape[0] + 1,), (1,)), EMITTER.slice(starts, (0,), (p.shape[0],), (1,)))
    return EMITTER.div(_matmul(mat1, mat2), EMITTER.reshape(EMITTER.clamp_min(counts, 1), (p.shape[0], 1)))


def spmm(input: Tensor, mat2: Tensor) -> Tensor:
    """`mm`."""
    return mm(input, mat2)


dsmm = spmm


def smm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of a sparse matrix and a dense one as a sparse tensor."""
    found: Tensor = mm(input, mat2).to_sparse()
    return found


def hspmm(mat1: Tensor, mat2: Tensor) -> Tensor:
    """The product of a sparse matrix and a dense one as the rows that have elements: one sparse axis and one dense."""
    p = pattern_of(_sparse("hspmm", mat1))
    assert p is not None
    rows = adopt(np.unique(p.host()[0]), p.axes[0])
    return make(Pattern((rows,), p.shape[:1], True), EMITTER.index_select(mm(mat1, mat2), rows, 0))


def sspaddmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2) of sparse `input` and `mat1` and a dense `mat2`, as a sparse tensor."""
    into, more = pattern_of(_sparse("sspaddmm", input)), hspmm(mat1, mat2)
    p, width = pattern_of(more), mat2._data.type.shape[1]
    assert into is not None and p is not None
    if input._data.type.shape != more._data.type.shape:
        raise RuntimeError(f"sspaddmm: input {list(input._data.type.shape)} has not the shape of the product, "
                           f"{list(more._data.type.shape)}")
    rows, columns = np.repeat(p.host()[0], width), np.tile(np.arange(width), p.nnz)
    axes = tuple([EMITTER.cat(a, adopt(b, a), dim=0) for a, b in zip(into.axes, (rows, columns), strict=True)])
    values = EMITTER.mul(EMITTER.reshape(values_of(more), (p.nnz * width,)), alpha)
    return make(Pattern(axes, into.shape, False), EMITTER.cat(EMITTER.mul(values_of(input), beta), values, dim=0))


def addmm(mat: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * mat + alpha * (mat1 @ mat2), mat1 sparse."""
    return _addmm(mat, mat1, mat2, beta=beta, alpha=alpha)


def sum(input: Tensor, dim: Any = None, dtype: Any = None) -> Tensor:
    """Of all elements, dense; or over axes, sparse while sparse axes are left."""
    return _sum(_sparse("sparse.sum", input), dim, dtype=dtype)


def softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Along an axis over the elements that there are: the others count as minus infinity."""
    x = _sparse("sparse.softmax", input)
    return _softmax(x if dtype is None else cast(x, as_dtype(dtype)), normalize_dim("softmax", dim, x._data.type.ndim), False)


def log_softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """The logarithm of `softmax`."""
    x = _sparse("sparse.log_softmax", input)
    return _softmax(x if dtype is None else cast(x, as_dtype(dtype)), normalize_dim("log_softmax", dim, x._data.type.ndim), True)


def sampled_addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1.0, alpha: float = 1.0,
                  out: Tensor | None = None) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2) at the places of `input` alone, a CSR matrix; both others are dense."""
    p = pattern_of(_sparse("sparse.sampled_addmm", input))
    assert p is not None
    if p.layout != CSR:
        raise unsupported("sparse_sampled_addmm", p, "there is no sampled product")
    a, b = mat1._data.type, mat2._data.type
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or (a.shape[0], b.shape[1]) != p.shape:
        raise RuntimeError(f"sampled_addmm: mat1 {list(a.shape)} and mat2 {list(b.shape)} cannot be multiplied to {list(p.shape)}")
    rows, columns = EMITTER.index_select(mat1, p.axes[0], 0), EMITTER.index_select(EMITTER.permute(mat2, (1, 0)), p.axes[1], 0)
    products = EMITTER.mul(EMITTER.sum(EMITTER.mul(rows, columns), (1,), False, None), alpha)
    found = make(p, EMITTER.add(EMITTER.mul(values_of(input), beta), products))
    return found if out is None else assign(out, found, "sampled_addmm")


def _sparse(name: str, x: Any) -> Tensor:
    if pattern_of(tensor_argument(name, x)) is None:
        raise RuntimeError(f"{name}: expected a sparse tensor, got one of layout treadle.strided")
    found: Tensor = x
    return found


class check_sparse_tensor_invariants:
    """PyTorch's switch for checks of indices. They are always checked here: it changes nothing, as a context, decorator or call."""

    def __init__(self, enable: bool = True) -> None:
        """Either way."""

    @staticmethod
    def is_enabled() -> bool:
        return True

    @staticmethod
    def enable() -> None:
        """They are."""

    @staticmethod
    def disable() -> None:
        """They stay on."""

    def __enter__(self) -> None:
        """Nothing changes."""

    def __exit__(self, *exc: Any) -> None:
        """Nothing changes."""

    def __call__(self, function: Any) -> Any:
        return function


class _OldSparse(legacy._OldClass):
    """`isinstance(x, FloatTensor)` asks for a sparse tensor of that dtype."""

    def __instancecheck__(cls, x: object) -> bool:
        return super().__instancecheck__(x) and pattern_of(x) is not None

    def __call__(cls, *args: Any) -> Tensor:
        if args and not isinstance(args[0], Tensor):
            return sparse_coo_tensor(size=args[0] if len(args) == 1 and isinstance(args[0], tuple) else args, dtype=cls.dtype)
        return sparse_coo_tensor(*args, dtype=cls.dtype) if args else sparse_coo_tensor(size=(0,), dtype=cls.dtype)


globals().update({name: _OldSparse(name, (), {"dtype": dtype, "__doc__": f"Makes sparse tensors of {dtype!r}: from indices, values and a "
                                              "size, or empty ones from sizes."}) for name, dtype in legacy.NAMES.items()})
