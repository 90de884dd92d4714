"""Reading and writing at data-dependent places, sorting, and functions whose result's size depends on data.

The latter (nonzero, unique, masked_select, ...) look at their operands, which flushes, and work on the host.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from treadle.arguments import Omitted, misfit
from treadle.creation import drawn
from treadle.functions import COPY, DIV, MUL, TABLE, cast, checked, into, tensor_argument, where
from treadle.indexing import lookup
from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT, INT
from treadle.ir.ops.common import need_real, not_implemented, refuse_overflow
from treadle.ir.types import broadcast_shapes, normalize_dim
from treadle.layout import EXPAND, RESHAPE, SLICE
from treadle.per_example import for_each_example
from treadle.reductions import PAIRS
from treadle.results import numpy_names, with_out
from treadle.shaping import stack
from treadle.tensor import Tensor, apply, assign, is_batched, read

__all__ = [
    "argsort", "argwhere", "diagonal_scatter", "gather", "index_add", "index_copy", "index_fill", "index_put", "index_reduce",
    "index_select", "masked_fill", "masked_scatter", "masked_select", "msort", "multinomial", "nonzero", "put", "repeat_interleave",
    "scatter", "scatter_add", "scatter_reduce", "select_scatter", "slice_scatter", "sort", "take", "take_along_dim", "topk",
]


def host_array(x: Tensor) -> np.ndarray:
    """The elements, which are looked at."""
    from treadle.creation import to_array
    return to_array(x)


def from_host(array: np.ndarray, like: Tensor) -> Tensor:
    """An array that was computed from `like`, on its device."""
    from treadle.creation import adopt
    return adopt(np.ascontiguousarray(array).reshape(array.shape), like)


def _axis(name: str, x: Tensor, dim: int) -> int:
    return normalize_dim(name, dim, x._data.type.ndim)


# -- gather and scatter ----------------------------------------------------------------------------------------------------
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False, out: Tensor | None = None) -> Tensor:
    """out[i][j] = input[i][index[i][j]] for dim 1: picks along one axis."""
    if not tensor_argument("gather", index, "index", 3)._data.type.numel:  # of any rank
        _axis("gather", tensor_argument("gather", input), dim)
        dtype = tensor_argument("gather", input)._data.type.dtype
        return into(out, input.reshape(-1)[:0].reshape(index._data.type.shape).to(dtype), "gather")
    shape = index._data.type.shape
    if {tensor_argument("gather", input).dim(), len(shape)} == {0, 1}:  # a 0-d tensor counts as having one element along one axis
        input, index = input.reshape(-1), index.reshape(-1)
    found = apply(TABLE["gather"], (tensor_argument("gather", input), index), (_axis("gather", input, dim),))
    return into(out, found if found._data.type.shape == shape else found.reshape(shape), "gather", (input, index))


@with_out
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` with broadcasting; over the flat tensor without `dim`."""
    _need_long("take_along_dim", indices, RuntimeError)
    if dim is None:
        return gather(apply(RESHAPE, (input,), ((input._data.type.numel,),)), 0, apply(RESHAPE, (indices,), ((indices._data.type.numel,),)))
    a, b = list(input._data.type.shape), list(indices._data.type.shape)
    if len(a) != len(b):
        raise RuntimeError("take_along_dim(): input and indices should have the same number of dimensions, but got "
                           f"{len(a)} dimensions for input, and {len(b)} dimensions for indices")
    dim = _axis("take_along_dim", input, dim)
    if not a:
        raise IndexError(f"take_along_dim: Dimension specified as {dim} but tensor has no dimensions")
    common = broadcast_shapes("take_along_dim", (*a[:dim], 1, *a[dim + 1:]), (*b[:dim], 1, *b[dim + 1:]))
    x = apply(EXPAND, (input,), ((*common[:dim], a[dim], *common[dim + 1:]),))
    return gather(x, dim, apply(EXPAND, (indices,), ((*common[:dim], b[dim], *common[dim + 1:]),)))


def _corner(src: Tensor, index: Tensor) -> Tensor:
    """The part of a source that an index of smaller size refers to. RuntimeError where they have not as many axes."""
    have, want = src._data.type.shape, index._data.type.shape
    if len(have) != len(want):
        raise RuntimeError(f"Index tensor must have the same number of dimensions as src tensor (index {list(want)}, src {list(have)})")
    if have == want or any([n < m for n, m in zip(have, want, strict=True)]):
        return src
    return apply(SLICE, (src,), ((0,) * len(want), want, (1,) * len(want)))


def _lines(scattering: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorates a scattering function: an empty index changes nothing, and a 0-d tensor beside vectors is a vector."""
    @functools.wraps(scattering)
    def function(input: Tensor, dim: int, index: Tensor, src: Any = None, *rest: Any, **named: Any) -> Tensor:
        shapes = [x._data.type.shape for x in (input, index, src) if isinstance(x, Tensor)]
        if 0 in shapes[1]:
            normalize_dim(scattering.__name__, dim, len(shapes[0]))
            found: Tensor = apply(COPY, (input,))
            # On the tape, where the source is: its gradient is zero.
            return found + src.reshape(-1)[:0].sum().to(found.dtype) if isinstance(src, Tensor) and src.requires_grad else found
        if () in shapes and {len(shape) for shape in shapes} == {0, 1}:
            line = [x.reshape(-1) if isinstance(x, Tensor) else x for x in (input, index, src)]
            return scattering(line[0], dim, *line[1:], *rest, **named).reshape(shapes[0])
        return scattering(input, dim, index, src, *rest, **named)
    return function


_REDUCTIONS = {"add": "sum", "multiply": "prod", "sum": "sum", "prod": "prod", "amax": "amax", "amin": "amin", "mean": "mean"}


@with_out
@_lines
def scatter(input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | Omitted = None) -> Tensor:
    """A copy of input with src (a tensor or a number) written at the places that `gather` would read."""
    source = checked("scatter", value if src is None else src, "src", 4)
    if reduce is not None:
        if reduce not in ("add", "multiply"):
            raise RuntimeError(f"reduce argument must be either add or multiply, but got {reduce}")
        if not isinstance(source, Tensor):
            source = apply(TABLE["full"], (source,), (index._data.type.shape, input._data.type.dtype, input._data.type.device))
        return scatter_reduce(input, dim, index, source, _REDUCTIONS[reduce])
    source = _corner(source, index) if isinstance(source, Tensor) else source
    return apply(TABLE["scatter"], (tensor_argument("scatter", input), index, source), (_axis("scatter", input, dim),))


@with_out
@_lines
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with src added at the places that `gather` would read."""
    tensor_argument("scatter_add", src, "src", 4)
    x = tensor_argument("scatter_add", input)
    axis = _axis("scatter_add", x, dim)
    return apply(TABLE["scatter_add"], (x, index, _corner(src, index)), (axis,))


@with_out
@_lines
def scatter_reduce(input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True) -> Tensor:
    """A copy of input combined with src by "sum", "prod", "mean", "amax" or "amin"."""
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError(f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}")
    dim, src = _axis("scatter_reduce", input, dim), _corner(src, index)
    if reduce in ("prod", "amax", "amin"):
        return apply(TABLE["scatter_reduce"], (input, index, src), (dim, reduce, include_self))
    base = input if include_self else apply(TABLE["scatter"], (input, index, 0), (dim,))
    total = apply(TABLE["scatter_add"], (base, index, src), (dim,))
    if reduce == "sum":
        return total
    type = input._data.type
    ones = apply(TABLE["full"], (1,), (src._data.type.shape, type.dtype, type.device))
    start = apply(TABLE["full"], (1 if include_self else 0,), (type.shape, type.dtype, type.device))
    counts = apply(TABLE["maximum"], (apply(TABLE["scatter_add"], (start, index, ones), (dim,)), 1))
    return apply(DIV if type.dtype.category >= FLOAT else TABLE["floor_divide"], (total, counts))


# -- entries of one axis -------------------------------------------------------------------------------------------------------
def _vector(name: str, index: Tensor) -> Tensor:
    if tensor_argument(name, index, "index")._data.type.ndim > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector")
    return index if index._data.type.ndim else apply(RESHAPE, (index,), ((1,),))


def _need_long(name: str, index: Tensor, error: type[Exception]) -> None:
    if tensor_argument(name, index, "index")._data.type.dtype is not dtypes.int64:
        raise error(f"{name}(): Expected a long tensor for index, but got {index._data.type.dtype.name}")


def _check_rows(name: str, input: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    """RuntimeError unless `source` has the input's shape but for one axis, along which it has an entry for each index."""
    axis, have, want = _axis(name, input, dim), list(source._data.type.shape), list(input._data.type.shape)
    if want and len(want) == len(have):
        want[axis] = index._data.type.numel
    if have != want:
        raise RuntimeError(f"{name}_(): source tensor shape must match self tensor shape, excluding the specified dimension, and have an "
                           f"entry for each index: {list(input._data.type.shape)}, {index._data.type.numel} indices and source {have}")


def index_select(input: Tensor, dim: int, index: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The entries `index` (a vector) of an axis."""
    axis = _axis("index_select", input, dim)
    found = lookup(TABLE["index_select"], tensor_argument("index_select", input), (_vector("index_select", index),), (axis,))
    return into(out, found if input._data.type.ndim else apply(RESHAPE, (found,), ((),)), "index_select", (input, index))


@with_out
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """A copy of input with alpha * source added to entries of an axis."""
    _check_rows("index_add", input, dim, index, source)
    src = source if alpha == 1 else apply(MUL, (source, alpha))
    return apply(TABLE["index_add"], (input, _vector("index_add", index), src), (_axis("index_add", input, dim),))


@with_out
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of input with source written over entries of an axis."""
    have, rank, count = source._data.type.shape, input._data.type.ndim, index._data.type.numel
    if have and rank and len(have) != rank:
        raise IndexError(f"index_copy_(): When source and destination are not scalars, their dimensionality must match. Source "
                         f"dimensionality ({len(have)}), destination dimensionality ({rank})")
    _need_long("index_copy", index, RuntimeError)
    if count != (have[_axis("index_copy", source, dim)] if have else 1):
        raise IndexError(f"index_copy_(): Number of indices ({count}) should be equal to source.size(dim), of a source of {list(have)}")
    return apply(TABLE["index_copy"], (input, _vector("index_copy", index), source), (_axis("index_copy", input, dim),))


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy of input with a number written over entries of an axis."""
    if tensor_argument("index_fill", index, "index")._data.type.ndim > 1:
        raise RuntimeError(f"index_fill(): Index has to be a vector or a scalar, got one of shape {list(index._data.type.shape)}")
    if isinstance(value, Tensor):
        if value._data.type.ndim:
            raise RuntimeError(f"index_fill_ only supports a 0-dimensional value tensor, but got tensor with {value._data.type.ndim} "
                               "dimension(s)")
        if input._data.type.dtype.category == INT and value._data.type.dtype.category == FLOAT:
            refuse_overflow(value.item(), input._data.type.dtype)
        nowhere = apply(TABLE["full"], (False,), (input._data.type.shape, dtypes.bool_, input._data.type.device))
        written = index_fill(nowhere, dim, index, True)
        return where(written, cast(value, input._data.type.dtype), input)
    _need_long("index_fill", index, IndexError)
    refuse_overflow(value, input._data.type.dtype)
    return apply(TABLE["index_copy"], (input, _vector("index_fill", index), value), (_axis("index_fill", input, dim),))


@with_out
def index_reduce(input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True) -> Tensor:
    """A copy of input with entries of an axis combined with source by "prod", "mean", "amax" or "amin"."""
    axis, shape = _axis("index_reduce", input, dim), source._data.type.shape
    _check_rows("index_reduce", input, dim, index, source)
    lanes = tuple([shape[axis] if d == axis else 1 for d in range(len(shape))])
    places = apply(RESHAPE, (_vector("index_reduce", index),), (lanes,))
    return scatter_reduce(input, axis, apply(EXPAND, (places,), (shape,)), source, reduce, include_self=include_self)


def index_put(input: Tensor, indices: Sequence[Tensor | None], values: Any, accumulate: bool = False) -> Tensor:
    """A copy of input with values written (or added) where `input[indices]` would read."""
    parts: list[Tensor] = []
    dims: list[int] = []
    axis = 0
    for item in indices:
        if item is None:
            axis += 1
        elif item._data.type.dtype is dtypes.bool_:
            if axis + item._data.type.ndim > input._data.type.ndim or not item._data.type.shape:
                raise IndexError(f"index_put: too many indices for tensor of dimension {input._data.type.ndim}, got a mask of shape "
                                 f"{list(item._data.type.shape)} at axis {axis}")
            for d, n in enumerate(item._data.type.shape):
                if n != input._data.type.shape[axis + d]:
                    raise IndexError(f"The shape of the mask {list(item._data.type.shape)} at index {d} does not match the shape of the "
                                     f"indexed tensor {list(input._data.type.shape)} at index {axis + d}")
            for places in np.nonzero(host_array(item)):
                parts.append(from_host(places, item))
                dims.append(axis)
                axis += 1
        else:
            parts.append(item)
            dims.append(axis)
            axis += 1
    if not parts:
        raise (TypeError if indices else RuntimeError)(f"index_put(): expected an index tensor at least, got {tuple(indices)}")
    return apply(TABLE["index_put"], (input, tensor_argument("index_put", values, "values", 3), *parts), (tuple(dims), accumulate))


@with_out
def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flat tensor."""
    _need_long("take", index, RuntimeError)
    if not input._data.type.numel and index._data.type.numel:
        raise IndexError("take(): tried to take from an empty tensor")
    flat = apply(RESHAPE, (input,), ((input._data.type.numel,),))
    return apply(TABLE["index_select"], (flat, index), (0,))


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of input with elements of the flat tensor written or added."""
    _need_long("put_", index, RuntimeError)
    type = input._data.type
    if source._data.type.numel != index._data.type.numel:
        raise IndexError(f"put_(): Expected source and index to have the same number of elements, but got {source._data.type.numel} and "
                         f"{index._data.type.numel}")
    if not type.numel and index._data.type.numel:
        raise IndexError("put_(): Tried to put elements into an empty tensor")
    flat = apply(RESHAPE, (input,), ((type.numel,),))
    source = apply(RESHAPE, (source,), (index._data.type.shape,))
    return apply(RESHAPE, (apply(TABLE["index_put"], (flat, source, index), ((0,), accumulate)),), (type.shape,))


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of input with src written over one entry of an axis."""
    dim = _axis("select_scatter", input, dim)
    size = input._data.type.shape[dim] if input._data.type.shape else 1
    if not -size <= index < size:
        raise IndexError(f"select_scatter: index {index} out of range for dimension {dim} of size {size}")
    at = index % size
    shape = src._data.type.shape
    return slice_scatter(input, apply(RESHAPE, (src,), ((*shape[:dim], 1, *shape[dim:]),)), dim, at, at + 1)


@with_out
def slice_scatter(input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    """A copy of input with src written over start:end:step of an axis."""
    dim = _axis("slice_scatter", input, dim)
    shape = input._data.type.shape
    if step <= 0:
        raise RuntimeError(f"slice_scatter: slice step must be positive, got {step}")
    lo, hi, by = slice(start, end, step).indices(shape[dim])
    starts, stops, steps = [0] * len(shape), list(shape), [1] * len(shape)
    starts[dim], stops[dim], steps[dim] = lo, max(lo, hi), by
    want = (*shape[:dim], max(0, -(-(hi - lo) // by)), *shape[dim + 1:])
    if src._data.type.shape != want:
        raise RuntimeError(f"expected src to have a size equal to the slice of self. src size = {list(src._data.type.shape)}, "
                           f"slice size = {list(want)}")
    return apply(TABLE["slice_scatter"], (input, cast(src, input._data.type.dtype)), (tuple(starts), tuple(stops), tuple(steps)))


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A copy of input with src written over the diagonal of two axes."""
    out = apply(COPY, (input,))
    target = out.diagonal(offset, dim1, dim2)
    if src._data.type.shape != target._data.type.shape:
        raise RuntimeError(f"expected src to have a size equal to the slice of self. src size = {list(src._data.type.shape)}, "
                           f"slice size = {list(target._data.type.shape)}")
    assign(target, apply(COPY, (cast(src, input._data.type.dtype),)), "diagonal_scatter")
    read(out)
    return out


# -- masks -----------------------------------------------------------------------------------------------------------------------
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`value` where the mask holds, input elsewhere."""
    tensor_argument("masked_fill", mask, "mask", 2)
    if isinstance(value, Tensor) and value._data.type.dtype.is_complex and not input._data.type.dtype.is_complex:
        raise RuntimeError(f"masked_fill: value cannot be converted to type {input._data.type.dtype.name} without overflow")
    if not isinstance(value, Tensor):
        refuse_overflow(value, input._data.type.dtype)
    return apply(TABLE["masked_fill"], (input, mask, checked("masked_fill", value, "value", 3)))


@with_out
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask (broadcast) holds, as a vector."""
    if mask._data.type.dtype is not dtypes.bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    shape = broadcast_shapes("masked_select", input._data.type.shape, mask._data.type.shape)
    places = np.flatnonzero(np.broadcast_to(host_array(mask), shape))
    count = int(np.prod(shape, dtype=np.int64))
    flat = apply(RESHAPE, (apply(EXPAND, (input,), (tuple(shape),)),), ((count,),))
    return apply(TABLE["index_select"], (flat, from_host(places, input)), (0,))


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """A copy of input where the mask's true places take the elements of source, in order."""
    if tensor_argument("masked_scatter", mask, "mask", 2)._data.type.dtype is not dtypes.bool_:
        raise RuntimeError(f"masked_scatter_ only supports boolean masks, but got mask with dtype {mask._data.type.dtype.name}")
    if input._data.type.dtype is not source._data.type.dtype:
        raise RuntimeError(f"masked_scatter: expected self and source to have same dtypes but got {input._data.type.dtype.name} and "
                           f"{source._data.type.dtype.name}")
    input = input.expand(broadcast_shapes("masked_scatter", input._data.type.shape, mask._data.type.shape))
    type = input._data.type
    if is_batched(mask):
        return _scattered_unseen(input, mask, source)
    places = np.flatnonzero(np.broadcast_to(host_array(mask), type.shape))
    if places.size > source._data.type.numel:
        raise RuntimeError(f"masked_scatter: expected self and source to have same dtypes and source to hold at least {places.size} "
                           f"elements, but it has {source._data.type.numel}")
    head = apply(SLICE, (apply(RESHAPE, (source,), ((source._data.type.numel,),)),), ((0,), (places.size,), (1,)))
    flat = apply(RESHAPE, (input,), ((type.numel,),))
    return apply(RESHAPE, (apply(TABLE["index_copy"], (flat, from_host(places, input), head), (0,)),), (type.shape,))


def _scattered_unseen(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`masked_scatter` inside vmap, where the mask cannot be looked at: each true place counts those before it."""
    count, shape = source._data.type.numel, input._data.type.shape
    if not count:
        return apply(COPY, (input,))
    flat = apply(RESHAPE, (mask.expand(shape),), ((input._data.type.numel,),))
    place = apply(TABLE["sub"], (apply(TABLE["cumsum"], (flat,), (0,)), 1))
    taken = apply(TABLE["index_select"], (apply(RESHAPE, (source,), ((count,),)), apply(TABLE["clamp"], (place, 0, count - 1))), (0,))
    return apply(TABLE["where"], (mask, apply(RESHAPE, (taken,), (shape,)), input))


@with_out
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Indices of the elements that are not zero: one row each, or a tuple of one vector an axis."""
    x = dtypes.plain(host_array(tensor_argument("nonzero", input)))
    flat = np.flatnonzero(x if x.dtype == np.bool_ else x != np.zeros((), x.dtype))  # numpy is fastest at truth values
    found = np.unravel_index(flat, x.shape) if x.ndim > 1 else (flat,)
    if as_tuple:
        return tuple([from_host(i.astype(np.int64), input) for i in found])
    rows = np.stack(found, 1) if x.ndim != 1 else found[0].reshape(-1, 1)
    return from_host(rows.astype(np.int64, copy=False) if x.ndim else np.zeros((found[0].size, 0), np.int64), input)


def argwhere(input: Tensor) -> Tensor:
    """Indices of the elements that are not zero, one row each."""
    return nonzero(input)


# -- sorting -----------------------------------------------------------------------------------------------------------------------
@numpy_names
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """(values, indices) sorted along an axis; NaN sorts as largest, equal elements keep their order."""
    x = tensor_argument("sort", input)
    need_real("sort", x._data.type)
    if not x._data.type.shape:
        _axis("sort", x, dim)
        return PAIRS["sort"](apply(COPY, (x,)), apply(TABLE["full"], (0,), ((), dtypes.int64, x._data.type.device)))
    return PAIRS["sort"](*apply(TABLE["sort"], (x,), (_axis("sort", x, dim), descending, True)))


@numpy_names
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """Indices that sort along an axis."""
    return sort(input, dim, descending)[1]


@with_out
def msort(input: Tensor) -> Tensor:
    """Sorted along the first axis."""
    return sort(input, 0)[0]


@numpy_names
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the k largest (or smallest) elements along an axis, in order."""
    x = tensor_argument("topk", input)
    need_real("topk", x._data.type)
    if x._data.type.dtype is dtypes.bool_:
        raise RuntimeError("topk does not support bool dtypes")
    axis, k = _axis("topk", x, dim), int(k)
    if not 0 <= k <= (x._data.type.shape[axis] if x._data.type.shape else 1):
        raise RuntimeError("selected index k out of range")
    if not x._data.type.shape:
        return PAIRS["topk"](*sort(x))
    return PAIRS["topk"](*apply(TABLE["topk"], (x,), (k, axis, largest, sorted)))


# -- repetition and sampling -----------------------------------------------------------------------------------------------------------
def _counts(repeats: Tensor) -> np.ndarray:
    """How often each entry is repeated, as `repeat_interleave` takes it."""
    if repeats._data.type.dtype not in (dtypes.int32, dtypes.int64):
        raise not_implemented("repeat_interleave_cpu", repeats._data.type.dtype, (repeats._data.type,))
    if repeats._data.type.ndim != 1:
        raise RuntimeError(f"repeat_interleave only accept 1D vector as repeat, got one of shape {list(repeats._data.type.shape)}")
    counts = host_array(repeats)
    if counts.size and counts.min() < 0:
        raise RuntimeError("repeats can not be negative")
    return counts


def _check_length(output_size: int | None, length: int) -> None:
    if output_size is not None and output_size != length:
        raise RuntimeError(f"repeat_interleave: Invalid output_size, expected {length} but got {output_size}")


@numpy_names
def repeat_interleave(input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None) -> Tensor:
    """Each entry of an axis (of the flat tensor without `dim`) repeated in place; `repeats` a number or one count an entry."""
    if repeats.__class__ is float or (repeats is None and dim is not None):
        raise misfit("repeat_interleave", "repeats", 2, "int or Tensor", repeats)
    if repeats is None:
        counts = _counts(input)
        return from_host(np.repeat(np.arange(counts.size), counts), input)
    x = apply(RESHAPE, (input,), ((input._data.type.numel,),)) if dim is None else input
    axis = 0 if dim is None else _axis("repeat_interleave", input, dim)
    if not x._data.type.shape:
        raise IndexError(f"repeat_interleave: Dimension specified as {dim} but tensor has no dimensions")
    shape = x._data.type.shape
    if isinstance(repeats, Tensor):
        if repeats._data.type.numel == 1:
            repeats = int(repeats.item())
        else:
            if repeats._data.type.numel != shape[axis]:
                raise RuntimeError("repeats must have the same size as input along dim, but got repeats.size(0) = "
                                   f"{repeats._data.type.numel} and input.size({axis}) = {shape[axis]}")
            index = from_host(np.repeat(np.arange(shape[axis]), _counts(repeats)), x)
            _check_length(output_size, index._data.type.numel)
            return apply(TABLE["index_select"], (x, index), (axis,))
    if repeats < 0:
        raise RuntimeError("repeats can not be negative")
    _check_length(output_size, repeats * shape[axis])
    wide = apply(RESHAPE, (x,), ((*shape[:axis + 1], 1, *shape[axis + 1:]),))
    wide = apply(EXPAND, (wide,), ((*shape[:axis + 1], repeats, *shape[axis + 1:]),))
    return apply(RESHAPE, (wide,), ((*shape[:axis], shape[axis] * repeats, *shape[axis + 1:]),))


@with_out
@for_each_example
def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """Indices drawn by non-negative weights, with or without replacement: (n) or (rows, n) -> (num_samples) or (rows, num_samples).

    RuntimeError for negative or non-finite weights, or for fewer non-zero weights than samples without replacement.
    """
    x = tensor_argument("multinomial", input)
    type = x._data.type
    if type.dtype.category != FLOAT:
        raise RuntimeError(f"multinomial only supports floating-point dtypes for input, got: {type.dtype.name}")
    if type.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > type.shape[-1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    weights = x.detach() if type.dtype.itemsize >= 4 else x.detach().float()
    _check_weights(weights, 1 if replacement else num_samples)
    if replacement:
        return _drawn_again(weights, num_samples, generator)
    # The first to arrive of processes with rates `weights`: arrival times are exponential, and what has no weight never comes.
    times = drawn("random_exponential", weights, weights._data.type.dtype, generator)
    least = float(np.finfo(weights._data.type.dtype.np).tiny)
    found: Tensor = apply(TABLE["topk"], (weights / times.clamp(min=least),), (num_samples, type.ndim - 1, True, True))[1]
    return found


def _check_weights(weights: Tensor, wanted: int) -> None:
    """One look at weights to draw from, for all that may be wrong with them."""
    good, some, enough = stack([(weights.isfinite() & (weights >= 0)).all(), (weights.sum(-1) > 0).all(),
                                ((weights > 0).sum(-1) >= wanted).all()]).tolist()
    if not good:
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    if not some:
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    if not enough:
        raise RuntimeError("invalid multinomial distribution (with replacement=False, not enough non-negative category to sample)")


def _drawn_again(weights: Tensor, count: int, generator: Any) -> Tensor:
    """Places where uniform numbers lie among running sums of the weights."""
    rows = host_array(weights).astype(np.float64).reshape(-1, weights._data.type.shape[-1])
    numbers = host_array(drawn("random_uniform", weights.new_empty(len(rows), count), dtypes.float32, generator)).astype(np.float64)
    edges = np.cumsum(rows, 1)
    out = np.stack([np.searchsorted(e, u * e[-1], "right") for e, u in zip(edges, numbers, strict=True)])
    last = rows.shape[1] - 1 - np.argmax(rows[:, ::-1] > 0, axis=1)
    return from_host(np.minimum(out, last[:, None]).reshape(*weights._data.type.shape[:-1], count).astype(np.int64), weights)
