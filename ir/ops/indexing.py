"""Reading and writing at data-dependent places.

Every index tensor counts from the end where it is negative; out of range it raises IndexError in PyTorch's words, from the
reference here and from compiled code alike. Where two writes meet, the last one in index order wins unless they accumulate.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.batching import LOOP, BatchedCall, batch
from treadle.ir.op import TABLE, Field, Kind, declare
from treadle.ir.ops.common import Dims, Types, need_dim, need_index, refuse_complex_number, zeros
from treadle.ir.types import Shape, TensorType, broadcast_shapes

Key = tuple[Any, ...]


class OutOfBounds(IndexError, RuntimeError):
    """An index outside its axis: in PyTorch an IndexError of some functions and a RuntimeError of others."""


# -- references ------------------------------------------------------------------------------------------------------------
def wrapped(index: np.ndarray, size: int, dim: int) -> np.ndarray:
    """`index` with negative entries counted from the end; IndexError naming the first one out of range."""
    index = np.asarray(index).astype(np.int64)
    bad = (index < -size) | (index >= size)
    if bad.any():
        raise OutOfBounds(f"index {int(index[bad].flat[0])} is out of bounds for dimension {dim} with size {size}")
    return np.where(index < 0, index + size, index)


def _along(index: np.ndarray, shape: Shape, dim: int) -> Key:
    """The numpy key that addresses, for each element of `index`, its own place with `dim` replaced by the index."""
    places: list[Any] = list(np.indices(index.shape, sparse=True))
    if not shape:
        wrapped(index, 1, dim)
        return ()
    places[dim] = wrapped(index, shape[dim], dim)
    return tuple(places)


def _np_gather(x: np.ndarray, index: np.ndarray, dim: int) -> np.ndarray:
    return x[_along(index, x.shape, dim)]


def _written(x: np.ndarray, key: Key, src: np.ndarray) -> np.ndarray:
    out = x.copy()
    out[key] = np.asarray(src).astype(x.dtype)
    return out


def _accumulated(ufunc: Any, x: np.ndarray, key: Key, src: np.ndarray) -> np.ndarray:
    """`ufunc.at` on a copy of x; 16-bit floats in float32."""
    wide = np.dtype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x.dtype
    out = np.array(x, dtype=wide)
    ufunc.at(out, key, np.asarray(src).astype(wide))
    return out.astype(x.dtype)


def _add_to(x: np.ndarray, key: Key, src: np.ndarray) -> np.ndarray:
    return _accumulated(np.logical_or if x.dtype == bool else np.add, x, key, src)


# -- batches ---------------------------------------------------------------------------------------------------------------
def _spot(x: TensorType, indices: Types, dims: Dims) -> tuple[int, int]:
    """Where `indexed_shape` puts the indices' common axes, and how many these are."""
    together = dims == tuple(range(dims[0], dims[0] + len(dims)))
    return dims[0] if together else 0, max([t.ndim for t in indices])


def _front(at: int, width: int, ndim: int, batched: bool = True) -> Dims:
    """The permutation that moves `width` axes at `at` to the front, behind a batch axis if there is one."""
    lead = int(batched)
    block = range(lead + at, lead + at + width)
    return (*range(lead), *block, *[d for d in range(lead, ndim) if d not in block])


def _inverse(dims: Dims) -> Dims:
    return tuple(sorted(range(len(dims)), key=dims.__getitem__))


def _examples(c: BatchedCall, width: int) -> Any:
    """Which example each index is for: (batch, 1, ...)."""
    b, device = c.b, c.types[0].device
    return b.reshape(b.iota(c.size, dtypes.int64, device), (c.size,) + (1,) * width)


def _batch_index(c: BatchedCall) -> Any:
    """A batched operand is indexed by the example, too: then the indices' axes come first."""
    (x, *_), dims, ndim = c.types, c.attrs[0], len(c.out_types[0].shape) + 1
    at, width = _spot(x, c.types[1:], dims)
    index = [c.aligned(i, width) for i in range(1, len(c.values))]
    if not c.flags[0]:
        found = c.b.index(c.values[0], *index, dims=dims)
        return c.b.permute(found, (at, *[d for d in range(ndim) if d != at]))
    if not any(c.flags[1:]) and dims == tuple(range(dims[0], dims[0] + len(dims))):
        return c.b.index(c.values[0], *index, dims=c.shifted[0])
    found = c.b.index(c.values[0], _examples(c, width), *index, dims=(0, *c.shifted[0]))
    return c.b.permute(found, _inverse(_front(at, width, ndim)))


def _batch_index_put(c: BatchedCall) -> Any:
    x, indices, (dims, accumulate), b = c.types[0], c.types[2:], c.attrs, c.b
    shape = indexed_shape(x, indices, dims)
    at, width = _spot(x, indices, dims)
    index = [c.aligned(i, width) for i in range(2, len(c.values))]
    source = c.values[1] if c.is_number(1) else c.aligned(1, len(shape))
    if not any(c.flags[2:]) and dims == tuple(range(dims[0], dims[0] + len(dims))):
        return b.index_put(c.full(0), source, *index, dims=c.shifted[0], accumulate=accumulate)
    if not c.is_number(1):
        source = b.permute(b.expand(source, (c.size, *shape)), _front(at, width, len(shape) + 1))
    return b.index_put(c.full(0), source, _examples(c, width), *index, dims=(0, *c.shifted[0]), accumulate=accumulate)


def _batch_select(c: BatchedCall) -> Any:
    x, dim = c.types[0], c.attrs[0]
    if not x.shape:  # which counts as having one axis
        line = c.b.reshape(c.full(0), (c.size, 1))
        if not c.flags[1]:
            return c.b.index_select(line, c.values[1], 1)
        found = c.b.gather(line, c.b.reshape(c.full(1), (c.size, c.types[1].numel)), 1)
        return c.b.reshape(found, (c.size, *c.types[1].shape))
    if not c.flags[1]:
        return c.b.index_select(c.values[0], c.values[1], dim + 1)
    return batch(c.b, TABLE["index"], c.values, c.flags, c.types, ((dim,),), c.size)


def _batch_into_axis(accumulate: bool) -> Callable[[BatchedCall], Any]:
    def rule(c: BatchedCall) -> Any:
        x, dim = c.types[0], c.attrs[0]
        if not c.flags[1]:
            into = c.full(0) if x.shape else c.b.reshape(c.full(0), (c.size, 1))
            shape = _select_shape(x, c.types[1], dim) if x.shape else c.types[1].shape
            src = c.values[2] if c.is_number(2) else c.b.expand(c.aligned(2, len(shape)), (c.size, *shape))
            found = c.apply([into, c.values[1], src], (dim + 1,))
            return found if x.shape else c.b.reshape(found, (c.size,))
        if not x.shape:
            return None
        order, flags, types = (0, 2, 1), c.flags, c.types
        return batch(c.b, TABLE["index_put"], [c.values[i] for i in order], [flags[i] for i in order],
                     tuple([types[i] for i in order]), ((dim,), accumulate), c.size)
    return rule


def _batch_rows(c: BatchedCall) -> Any:
    """The rows of all examples, one below the other."""
    b, (n, w), (m,) = c.b, c.types[0].shape, c.types[1].shape
    place = b.cast(c.full(1), dtypes.int64)
    place = b.add(b.where(b.lt(place, 0), b.add(place, n), place), b.mul(_examples(c, 1), n))
    src = c.types[2].shape
    if not c.flags[2] and src == (1,):
        rows = c.values[2]
    else:
        rows = b.reshape(b.expand(c.aligned(2, 2), (c.size, m, w)), (c.size * m, w))
    found = b.scatter_rows(b.reshape(c.full(0), (c.size * n, w)), b.reshape(place, (c.size * m,)), rows, *c.attrs)
    return b.reshape(found, (c.size, n, w))


# -- gather and scatter: an index of the operand's rank ------------------------------------------------------------------------
def _gather_type(types: Types, dim: int) -> TensorType:
    x, index = types
    _check_along("gather", x, index, dim)
    return x.with_(index.shape)


def _check_along(name: str, x: TensorType, index: TensorType, dim: int) -> None:
    need_index(name, index)
    need_dim(name, dim, x.ndim)
    if index.ndim != x.ndim:
        raise RuntimeError(f"{name}(): Index tensor must have the same number of dimensions as input tensor "
                           f"(index {list(index.shape)}, input {list(x.shape)})")
    for d, (n, m) in enumerate(zip(index.shape, x.shape, strict=True)):
        if d != dim and n > m:
            raise RuntimeError(f"{name}(): Size does not match at dimension {d} expected index {list(index.shape)} to be no larger than "
                               f"self {list(x.shape)} apart from dimension {dim}")


def _check_source(name: str, x: TensorType, src: TensorType, shape: Shape) -> None:
    if src.weak:
        refuse_complex_number(src, x.dtype)
        return
    if src.dtype is not x.dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype, but got {x.dtype.name} and {src.dtype.name}")
    if src.shape not in ((), shape):
        raise RuntimeError(f"{name}(): expected a source of shape {list(shape)} like the indexed places, but got {list(src.shape)}")


def _scatter_type(name: str) -> Callable[..., TensorType]:
    def type_rule(types: Types, dim: int, *attrs: Any) -> TensorType:
        x, index, src = types
        _check_along(name, x, index, dim)
        _check_source(name, x, src, index.shape)
        return x
    return type_rule


_IDX = np.array([[0, 2, 1], [3, 0, -1]])
_UNIQUE = np.array([[0, 2, 1], [3, 0, 2]])
declare("gather", Kind.GATHER, "x index", "dim", field=Field.ANALYTIC, type_rule=_gather_type, reference=_np_gather,
        vjp=(lambda b, g, index, x_type, dim: b.scatter_add(zeros(b, x_type, g.type.dtype), index, g, dim), None),
        samples=[(((2, 4), _IDX), (1,)), (((4, 3), _IDX), (0,)), (((), np.array(0)), (0,)), (((3, 4), np.zeros((0, 2), np.int64)), (1,))],
        onnx="GatherElements", doc="out[i][j] = x[i][index[i][j]] for dim 1: picks along one axis.")
declare("scatter", Kind.SCATTER, "x index src", "dim", field=Field.ANALYTIC, batch="written", type_rule=_scatter_type("scatter"),
        reference=lambda x, index, src, dim: _written(x, _along(index, x.shape, dim), src),
        vjp=(lambda b, g, index, dim: b.scatter(g, index, 0, dim), None, lambda b, g, index, dim: b.gather(g, index, dim)),
        samples=[(((2, 4), _UNIQUE, (2, 3)), (1,)), (((4, 3), _UNIQUE, 2.5), (0,)), (((4, 3), _UNIQUE, ()), (0,))],
        onnx="ScatterElements", doc="x with src written where `gather` would read.")
declare("scatter_add", Kind.SCATTER, "x index src", "dim", field=Field.ANALYTIC, batch="written", type_rule=_scatter_type("scatter_add"),
        reference=lambda x, index, src, dim: _add_to(x, _along(index, x.shape, dim), src),
        vjp=(lambda b, g: g, None, lambda b, g, index, dim: b.gather(g, index, dim)),
        samples=[(((2, 4), _IDX, (2, 3)), (1,)), (((4, 3), _IDX, (2, 3)), (0,))], doc="As `scatter`, adding.")

_REDUCERS: dict[str, Any] = {"prod": np.multiply, "amax": np.maximum, "amin": np.minimum}
_IDENTITY = {"prod": 1.0, "amax": -np.inf, "amin": np.inf}


def _np_scatter_reduce(x: np.ndarray, index: np.ndarray, src: np.ndarray, dim: int, reduce: str, include_self: bool) -> np.ndarray:
    key = _along(index, x.shape, dim)
    if not include_self:
        identity = _IDENTITY[reduce]
        if x.dtype.kind in "iu" and reduce != "prod":
            identity = np.iinfo(x.dtype).min if reduce == "amax" else np.iinfo(x.dtype).max
        if x.dtype.kind == "b":
            identity = reduce != "amax"
        x = _written(x, key, np.asarray(identity))
    return _accumulated(_REDUCERS[reduce], x, key, src)


def _scatter_reduce_type(types: Types, dim: int, reduce: str, include_self: bool) -> TensorType:
    if reduce not in _REDUCERS:
        raise RuntimeError(f"scatter_reduce(): reduce argument must be one of {', '.join(_REDUCERS)}, but got {reduce!r}")
    return _scatter_type("scatter_reduce")(types, dim)


def _others(b: Any, factor: Any, product: Any, zeros: Any) -> Any:
    """The product of the other factors, from the product of the non-zero ones and the number of zeros."""
    zero = b.eq(factor, 0)
    alone = b.where(b.eq(zeros, 1), product, 0.0)
    return b.where(zero, alone, b.where(b.eq(zeros, 0), b.div(product, b.where(zero, 1.0, factor)), 0.0))


def _scatter_reduce_vjp(b: Any, g: Any, operands: tuple[Any, ...], out: Any, dim: int, reduce: str, include_self: bool) -> tuple[Any, ...]:
    """Ties share the gradient; a product's factors get g times the product of the others."""
    x, index, src = operands
    seen = x if include_self else b.scatter(x, index, 1 if reduce == "prod" else 0, dim)
    own = b.scatter(b.full(1, x.type.shape, g.type.dtype, g.type.device), index, 1 if include_self else 0, dim)
    if reduce == "prod":
        kept, added = b.eq(seen, 0), b.eq(src, 0)
        product = b.scatter_reduce(b.where(kept, 1.0, seen), index, b.where(added, 1.0, src), dim, "prod", True)
        zeros = b.scatter_add(b.cast(kept, g.type.dtype), index, b.cast(added, g.type.dtype), dim)
        others = _others(b, src, b.gather(product, index, dim), b.gather(zeros, index, dim))
        return b.mul(b.mul(g, own), _others(b, seen, product, zeros)), None, b.mul(b.gather(g, index, dim), others)
    mine = b.mul(b.cast(b.eq(x, out), g.type.dtype), own)
    theirs = b.cast(b.eq(src, b.gather(out, index, dim)), g.type.dtype)
    share = b.div(g, b.maximum(b.scatter_add(mine, index, theirs, dim), 1))
    return b.mul(mine, share), None, b.mul(theirs, b.gather(share, index, dim))


declare("scatter_reduce", Kind.SCATTER, "x index src", "dim reduce include_self", batch="written", type_rule=_scatter_reduce_type,
        reference=_np_scatter_reduce,
        vjp=_scatter_reduce_vjp, samples=[(((2, 4), _IDX, (2, 3)), (1, r, s)) for r in _REDUCERS for s in (True, False)],
        domain=(0.3, 2.0), doc="As `scatter`, combining by prod, amax or amin; include_self says whether x's own values take part.")


# -- index_select and index_add: an index in place of one axis ---------------------------------------------------------------------
def _select_shape(x: TensorType, index: TensorType, dim: int) -> Shape:
    return x.shape[:dim] + index.shape + x.shape[dim + 1:]


def _select_type(types: Types, dim: int) -> TensorType:
    x, index = types
    need_index("index_select", index)
    need_dim("index_select", dim, x.ndim)
    return x.with_(_select_shape(x, index, dim) if x.ndim else index.shape)


def _select_key(x: np.ndarray, index: np.ndarray, dim: int) -> Key:
    return (slice(None),) * dim + (wrapped(index, x.shape[dim], dim),)


def _np_select(x: np.ndarray, index: np.ndarray, dim: int) -> np.ndarray:
    x = x if x.ndim else x.reshape(1)
    return x[_select_key(x, index, dim)]


def _into_axis_type(name: str) -> Callable[..., TensorType]:
    def type_rule(types: Types, dim: int) -> TensorType:
        x, index, src = types
        need_index(name, index)
        need_dim(name, dim, x.ndim)
        _check_source(name, x, src, _select_shape(x, index, dim))
        return x
    return type_rule


def _into_axis(write: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def reference(x: np.ndarray, index: np.ndarray, src: np.ndarray, dim: int) -> np.ndarray:
        flat = x if x.ndim else x.reshape(1)
        return write(flat, _select_key(flat, index, dim), src).reshape(x.shape)
    return reference


_PICK, _PICK_UNIQUE = np.array([2, 0, 2]), np.array([2, 0])
declare("index_select", Kind.GATHER, "x index", "dim", field=Field.ANALYTIC, batch=_batch_select,
        type_rule=_select_type, reference=_np_select,
        vjp=(lambda b, g, index, x_type, dim: b.index_add(zeros(b, x_type, g.type.dtype), index, g, dim), None),
        samples=[(((3, 4), _PICK), (0,)), (((4, 3), _PICK), (1,)), (((3, 2), np.array([[0, 1], [-1, 2]])), (0,)),
                 (((3, 4), np.array(1)), (1,))],
        onnx="Gather", doc="Entries of one axis; the index, of any shape, takes the place of the axis.")
declare("index_add", Kind.SCATTER, "x index src", "dim", field=Field.ANALYTIC, batch=_batch_into_axis(True),
        type_rule=_into_axis_type("index_add"), reference=_into_axis(_add_to),
        vjp=(lambda b, g: g, None, lambda b, g, index, dim: b.index_select(g, index, dim)),
        samples=[(((3, 4), _PICK, (3, 4)), (0,)), (((4, 3), _PICK, (4, 3)), (1,))],
        doc="x plus src at the entries `index_select` would read.")
declare("index_copy", Kind.SCATTER, "x index src", "dim", field=Field.ANALYTIC, batch=_batch_into_axis(False),
        type_rule=_into_axis_type("index_copy"), reference=_into_axis(_written),
        vjp=(lambda b, g, index, dim: b.index_copy(g, index, 0, dim), None, lambda b, g, index, dim: b.index_select(g, index, dim)),
        samples=[(((3, 4), _PICK_UNIQUE, (2, 4)), (0,)), (((4, 3), _PICK_UNIQUE, 1.5), (1,))],
        doc="x with src, or one number, written over entries of an axis.")


# -- advanced indexing ---------------------------------------------------------------------------------------------------------------
def indexed_shape(x: TensorType, indices: Types, dims: Dims) -> Shape:
    """Where `dims` are consecutive the indices' common shape stands in their place, else it comes first (numpy's rule)."""
    try:
        common = broadcast_shapes("index", *[t.shape for t in indices])
    except RuntimeError as error:
        shapes = ", ".join(str(list(t.shape)) for t in indices)
        raise IndexError(f"shape mismatch: indexing tensors could not be broadcast together with shapes {shapes}") from error
    rest = tuple([n for d, n in enumerate(x.shape) if d not in dims])
    at = dims[0] if dims == tuple(range(dims[0], dims[0] + len(dims))) else 0
    return rest[:at] + common + rest[at:]


def _check_indices(name: str, x: TensorType, indices: Types, dims: Dims) -> None:
    if len(indices) != len(dims) or not dims:
        raise IndexError(f"{name}: got {len(indices)} index tensors for the dimensions {list(dims)}")
    if len(dims) > x.ndim:
        raise IndexError(f"too many indices for tensor of dimension {x.ndim}")
    for t, dim in zip(indices, dims, strict=True):
        need_index(name, t)
        need_dim(name, dim, x.ndim)


def _index_type(types: Types, dims: Dims) -> TensorType:
    x, *indices = types
    _check_indices("index", x, tuple(indices), dims)
    return x.with_(indexed_shape(x, tuple(indices), dims))


def _index_key(shape: Shape, indices: tuple[np.ndarray, ...], dims: Dims) -> Key:
    key: list[Any] = [slice(None)] * len(shape)
    for index, dim in zip(indices, dims, strict=True):
        key[dim] = wrapped(index, shape[dim], dim)
    return tuple(key)


def _np_index(x: np.ndarray, *rest: Any) -> np.ndarray:
    *indices, dims = rest
    return x[_index_key(x.shape, tuple(indices), dims)]


def _index_vjp(b: Any, g: Any, operand_types: Types, idx: tuple[Any, ...], dims: Dims) -> tuple[Any, ...]:
    dx = b.index_put(zeros(b, operand_types[0], g.type.dtype), g, *idx, dims=dims, accumulate=True)
    return (dx, *(None,) * len(idx))


def _index_put_type(types: Types, dims: Dims, accumulate: bool) -> TensorType:
    x, value, *indices = types
    _check_indices("index_put", x, tuple(indices), dims)
    shape = indexed_shape(x, tuple(indices), dims)
    refuse_complex_number(value, x.dtype)
    if not value.weak and value.dtype is not x.dtype:
        raise RuntimeError(f"Index put requires the source and destination dtypes match, got {x.dtype.name} for the destination and "
                           f"{value.dtype.name} for the source.")
    if not value.weak and broadcast_shapes("index_put", value.shape, shape) != shape:
        raise RuntimeError(f"shape mismatch: value tensor of shape {list(value.shape)} cannot be broadcast to indexing result of shape "
                           f"{list(shape)}")
    return x


def _np_index_put(x: np.ndarray, value: np.ndarray, *rest: Any) -> np.ndarray:
    *indices, dims, accumulate = rest
    return (_add_to if accumulate else _written)(x, _index_key(x.shape, tuple(indices), dims), value)


def _index_put_vjp(b: Any, g: Any, idx: tuple[Any, ...], dims: Dims, accumulate: bool) -> tuple[Any, ...]:
    dx = g if accumulate else b.index_put(g, 0, *idx, dims=dims, accumulate=False)
    return (dx, b.index(g, *idx, dims=dims), *(None,) * len(idx))


_ROW, _COLUMN = np.array([[0], [2]]), np.array([1, 0, -1])
declare("index", Kind.GATHER, "x idx*", "dims", field=Field.ANALYTIC, batch=_batch_index,
        type_rule=_index_type, reference=_np_index, vjp=_index_vjp,
        samples=[(((3, 4), _PICK), ((0,),)), (((3, 4, 2), _ROW, _COLUMN), ((0, 1),)), (((3, 2, 4), _ROW, _COLUMN), ((0, 2),)),
                 (((2, 3, 4), _ROW, _COLUMN), ((1, 2),)), (((3, 4), np.array(1)), ((0,),))],
        doc="Advanced indexing: tensors at `dims`, broadcast together, full slices elsewhere.")
declare("index_put", Kind.SCATTER, "x value idx*", "dims accumulate", field=Field.ANALYTIC, batch=_batch_index_put,
        type_rule=_index_put_type, reference=_np_index_put,
        vjp=_index_put_vjp,
        samples=[(((3, 4), (3, 4), _PICK), ((0,), True)), (((3, 4, 2), (2,), _ROW, _COLUMN), ((0, 1), False)),
                 (((3, 2, 4), 1.5, _ROW, _COLUMN), ((0, 2), False))],
        doc="x with a value broadcast over the places `index` would read, written or added.")


# -- what all writes become ----------------------------------------------------------------------------------------------------------
_WRITES: dict[str, Callable[[np.ndarray, Key, np.ndarray], np.ndarray]] = {
    "set": _written, "add": _add_to, **{name: partial(_accumulated, ufunc) for name, ufunc in _REDUCERS.items()}}


def _scatter_rows_type(types: Types, reduce: str) -> TensorType:
    x, place, src = types
    if reduce not in _WRITES or x.ndim != 2 or place.shape != (place.numel,) or src.shape not in ((1,), (place.numel, x.shape[1])):
        raise RuntimeError(f"scatter_rows(): cannot write {src} by {reduce!r} to the rows {place} of {x}")
    need_index("scatter_rows", place)
    return x


declare("scatter_rows", Kind.SCATTER, "x place src", "reduce", routine="scatter", field=Field.ANALYTIC, batch=_batch_rows,
        type_rule=_scatter_rows_type, differentiable=False,
        reference=lambda x, place, src, reduce: _WRITES[reduce](x, (wrapped(place, len(x), 0),), src),
        samples=[(((4, 3), np.array([2, 0, 2]), (3, 3)), ("add",)), (((4, 3), np.array([2, -1]), (1,)), ("set",)),
                 (((4, 1), np.array([1, 1, 3]), (3, 1)), ("amax",))],
        doc="x[N, w] with rows src[M, w], or a single element, written to (or combined with) the rows `place`, in order.")


# -- embedding -----------------------------------------------------------------------------------------------------------------------
def refuse_negative(b: Any, index: Any, size: int) -> Any:
    """An index whose negative entries are out of range instead of counting from the end."""
    wide = index if index.type.dtype is dtypes.int64 else b.cast(index, dtypes.int64)
    return b.where(b.lt(wide, 0), b.sub(wide, size), wide)


def _embedding_type(types: Types, padding_idx: int, by_frequency: bool) -> TensorType:
    weight, index = types
    if index.dtype is not dtypes.int64 and index.dtype is not dtypes.int32:
        raise RuntimeError(f"embedding: Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; "
                           f"but got {index.dtype.name} instead")
    if weight.ndim != 2:
        raise RuntimeError(f"embedding: 'weight' must be 2-D, but got shape {list(weight.shape)}")
    return weight.with_(index.shape + weight.shape[1:])


def _embedding_vjp(b: Any, g: Any, index: Any, weight_type: TensorType, padding_idx: int, by_frequency: bool) -> Any:
    if padding_idx >= 0:
        g = b.where(b.eq(b.reshape(index, (*index.type.shape, 1)), padding_idx), 0.0, g)
    if by_frequency:
        ones = b.full(1, index.type.shape, dtypes.int64, index.type.device)
        counts = b.index_add(b.full(0, weight_type.shape[:1], dtypes.int64, weight_type.device), index, ones, 0)
        g = b.div(g, b.cast(b.reshape(b.index_select(counts, index, 0), (*index.type.shape, 1)), g.type.dtype))
    return b.index_add(zeros(b, weight_type, g.type.dtype), index, g, 0)


def _batch_embedding(c: BatchedCall) -> Any:
    """With a weight for each example no row of all of them is the one without a gradient."""
    if not c.flags[0]:
        return c.apply(c.values)
    return None if c.attrs[0] < 0 and not c.attrs[1] else LOOP


declare("embedding", Kind.COMPOSITE, "weight index", "padding_idx by_frequency", batch=_batch_embedding, type_rule=_embedding_type,
        decompose=lambda b, weight, index, *attrs: b.index_select(weight, refuse_negative(b, index, weight.type.shape[0]), 0),
        vjp=(_embedding_vjp, None),
        samples=[(((5, 3), np.array([[0, 4], [2, 2]])), (-1, False)), (((5, 3), np.array([1, 2])), (2, False)),
                 (((5, 3), np.array([1, 3])), (-1, True))],
        onnx="Gather", doc="Rows of `weight`; the row `padding_idx` (unless negative) gets no gradient, that of others is divided by how "
                           "often they were taken if `by_frequency`. Negative indices are errors.")
