"""Gather and scatter, indexing functions, sorting, and functions whose result's size depends on the data.

The last kind looks at its operands (a flush) and runs numpy on the host.
"""
from __future__ import annotations

from typing import Any

import numpy as np

import treadle.ir.ops  # noqa: F401  (declares the op table)
from treadle.creation import adopt, to_array
from treadle.ir import op as op_table
from treadle.ir.random_reference import philox_bits
from treadle.ir.types import normalize_dim
from treadle.random import Generator, reserve
from treadle.reductions import PAIRS
from treadle.tensor import Tensor, apply

TABLE = op_table.TABLE

__all__ = [
    "argsort", "argwhere", "bincount", "bucketize", "gather", "index_add", "index_copy", "index_fill",
    "index_put", "index_select", "isin", "masked_fill", "masked_scatter", "masked_select", "msort", "multinomial", "nonzero", "put",
    "scatter", "scatter_add", "scatter_reduce", "searchsorted", "sort", "take", "take_along_dim", "topk", 
    "unique", "unique_consecutive",
]


def _dim(name: str, dim: int, x: Tensor) -> int:
    return normalize_dim(name, dim, x._data.type.ndim)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


# -- along an axis -----------------------------------------------------------------------------------------------------------
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False, out: Any = None) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0, and so on. `index` has input's number of axes."""
    return apply(TABLE["gather"], (input, index), (_dim("gather", dim, input),))


def _source(name: str, input: Tensor, index: Tensor, src: Any) -> Any:
    t = input._data.type
    if not isinstance(src, Tensor):
        return apply(TABLE["full"], (_number(src),), (index._data.type.shape, t.dtype, t.device))
    if src._data.type.dtype is not t.dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype, got {t.dtype.name} and {src._data.type.dtype.name}")
    return src


def scatter(input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Tensor:
    """input with src written at `index` along dim; the last write to a place wins."""
    src = _source("scatter", input, index, value if src is None else src)
    axis = _dim("scatter", dim, input)
    if reduce is not None:
        mode = {"add": "sum", "multiply": "prod"}.get(reduce, reduce)
        return apply(TABLE["scatter_reduce"], (input, index, src), (axis, mode, True))
    return apply(TABLE["scatter"], (input, index, src), (axis,))


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    return apply(TABLE["scatter_add"], (input, index, _source("scatter_add", input, index, src)), (_dim("scatter_add", dim, input),))


def scatter_reduce(input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True) -> Tensor:
    """reduce: "sum", "prod", "mean", "amax" or "amin"."""
    return apply(TABLE["scatter_reduce"], (input, index, src), (_dim("scatter_reduce", dim, input), reduce, include_self))


def index_select(input: Tensor, dim: int, index: Tensor, *, out: Any = None) -> Tensor:
    return apply(TABLE["index_select"], (input, index), (_dim("index_select", dim, input),))


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    if alpha != 1:
        source = apply(TABLE["mul"], (source, alpha))
    return apply(TABLE["index_add"], (input, index, source), (_dim("index_add", dim, input),))


def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return apply(TABLE["index_copy"], (input, index, source), (_dim("index_copy", dim, input),))


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    axis = _dim("index_fill", dim, input)
    t = input._data.type
    shape = t.shape[:axis] + (index.numel(),) + t.shape[axis + 1:]
    filled = apply(TABLE["full"], (_number(value.item() if isinstance(value, Tensor) else value),), (shape, t.dtype, t.device))
    return apply(TABLE["index_copy"], (input, index, filled), (axis,))


def index_put(input: Tensor, indices: Any, values: Any, accumulate: bool = False) -> Tensor:
    from treadle.indexing import index_put_with
    return index_put_with(input, tuple(indices), values, accumulate)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """As `gather`, with broadcasting; dim None works on flattened tensors."""
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    axis = _dim("take_along_dim", dim, input)
    lead = np.broadcast_shapes(*[s[:axis] + (1,) + s[axis + 1:] for s in (input._data.type.shape, indices._data.type.shape)])
    wide = [x.expand(lead[:axis] + (x._data.type.shape[axis],) + lead[axis + 1:]) for x in (input, indices)]
    return gather(wide[0], axis, wide[1])


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of the flattened input."""
    return index_select(input.reshape(-1), 0, index.reshape(-1)).reshape(index._data.type.shape)


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    op = "index_add" if accumulate else "index_copy"
    flat = apply(TABLE[op], (input.reshape(-1), index.reshape(-1), source.reshape(-1)), (0,))
    return flat.reshape(input._data.type.shape)


# -- masks -------------------------------------------------------------------------------------------------------------------
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """input where mask is False, else `value` (a number or 0-d tensor)."""
    if isinstance(value, Tensor) and value._data.type.ndim:
        raise RuntimeError(f"masked_fill only supports a 0-dimensional value tensor, but got tensor with {value._data.type.ndim} dimension(s).")
    return apply(TABLE["masked_fill"], (input, mask, _number(value)))


def masked_select(input: Tensor, mask: Tensor, *, out: Any = None) -> Tensor:
    """The elements where mask (broadcast with input) is True, in order, as a 1-d tensor."""
    shape = np.broadcast_shapes(input._data.type.shape, mask._data.type.shape)
    wide, where = input.expand(shape), np.broadcast_to(to_array(mask), shape)
    places = adopt(np.flatnonzero(where))
    return index_select(wide.reshape(-1), 0, places)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with the places where mask is True filled from source's elements in order."""
    shape = input._data.type.shape
    places = np.flatnonzero(np.broadcast_to(to_array(mask), shape))
    if places.size > source.numel():
        raise RuntimeError(f"masked_scatter: expected self and source to have same dtypes and enough elements: {places.size} wanted, {source.numel()} given")
    flat = apply(TABLE["index_copy"], (input.reshape(-1), adopt(places), source.reshape(-1)[:places.size]), (0,))
    return flat.reshape(shape)


def nonzero(input: Tensor, *, out: Any = None, as_tuple: bool = False) -> Any:
    """Places of non-zero elements: a (count, ndim) tensor, or one tensor an axis."""
    found = np.nonzero(np.atleast_1d(to_array(input)))
    if as_tuple:
        return tuple([adopt(f.astype(np.int64)) for f in found])
    if not input._data.type.ndim:
        return adopt(np.zeros((found[0].size, 0), np.int64))
    return adopt(np.stack(found, axis=1).astype(np.int64))


def argwhere(input: Tensor) -> Tensor:
    return nonzero(input)


# -- order -------------------------------------------------------------------------------------------------------------------
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False, *, out: Any = None) -> Any:
    """(values, indices) in order along dim; NaN counts as largest."""
    return PAIRS["sort"](*apply(TABLE["sort"], (input,), (_dim("sort", dim, input), bool(descending), True)))


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    return sort(input, dim, descending)[1]


def msort(input: Tensor) -> Tensor:
    return sort(input, 0)[0]


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, *, out: Any = None) -> Any:
    """The k largest (or smallest) elements along dim, in order: (values, indices)."""
    axis = _dim("topk", dim, input)
    size = input._data.type.shape[axis] if input._data.type.ndim else 1
    if not 0 <= k <= size:
        raise RuntimeError(f"selected index k out of range (k is {k}, dimension {axis} has {size} elements)")
    return PAIRS["topk"](*apply(TABLE["topk"], (input,), (int(k), axis, bool(largest), True)))


def searchsorted(sorted_sequence: Tensor, input: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
                 sorter: Any = None) -> Tensor:
    """Where each value would be inserted into the (last axis of the) sorted sequence."""
    edges = to_array(sorted_sequence)
    values = to_array(input) if isinstance(input, Tensor) else np.asarray(input)
    where = "right" if right or side == "right" else "left"
    if edges.ndim == 1:
        found = np.searchsorted(edges, values, side=where)  # type: ignore[call-overload]
    else:
        rows = zip(edges.reshape(-1, edges.shape[-1]), values.reshape(-1, values.shape[-1]), strict=True)
        found = np.stack([np.searchsorted(e, v, side=where) for e, v in rows]).reshape(values.shape)  # type: ignore[call-overload]
    return adopt(np.asarray(found).astype(np.int32 if out_int32 else np.int64))


def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


# -- sets and counts -----------------------------------------------------------------------------------------------------------
def unique(input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None) -> Any:
    """Distinct elements (or slices along dim) in order, with the inverse mapping and counts on request."""
    found = np.unique(to_array(input), return_inverse=True, return_counts=True, axis=dim)
    values, inverse, counts = (np.asarray(f) for f in found)
    inverse = inverse.reshape(input._data.type.shape if dim is None else -1)
    return _chosen(values, inverse, counts, return_inverse, return_counts)


def _chosen(values: np.ndarray, inverse: np.ndarray, counts: np.ndarray, return_inverse: bool, return_counts: bool) -> Any:
    out = [adopt(values)]
    if return_inverse:
        out.append(adopt(inverse.astype(np.int64)))
    if return_counts:
        out.append(adopt(counts.astype(np.int64)))
    return out[0] if len(out) == 1 else tuple(out)


def unique_consecutive(input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None) -> Any:
    """The input with runs of equal elements (or slices along dim) reduced to one."""
    array = to_array(input)
    rows = array.reshape(-1) if dim is None else np.moveaxis(array, dim, 0)
    flat = rows.reshape(len(rows), -1)
    starts = np.ones(len(rows), bool)
    starts[1:] = np.any(flat[1:] != flat[:-1], axis=1)
    at = np.flatnonzero(starts)
    values = rows[at] if dim is None else np.moveaxis(rows[at], 0, dim)
    inverse = (np.cumsum(starts) - 1).reshape(array.shape if dim is None else -1)
    return _chosen(values, inverse, np.diff(np.append(at, len(rows))), return_inverse, return_counts)


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each non-negative integer occurs in a 1-d tensor, or the sums of its weights."""
    array = to_array(input)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and array.min() < 0):
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    return adopt(np.bincount(array, None if weights is None else to_array(weights), minlength))


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    arrays = [to_array(x) if isinstance(x, Tensor) else np.asarray(x) for x in (elements, test_elements)]
    return adopt(np.asarray(np.isin(*arrays, invert=invert)))


def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None) -> Tensor:
    """Indices drawn with probabilities proportional to each row of input: int64 (rows, num_samples)."""
    weights = to_array(input).astype(np.float64)
    if weights.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    rows = np.atleast_2d(weights)
    if np.any(rows.sum(1) <= 0):
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    if not replacement and num_samples > rows.shape[1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    count = rows.shape[0] * (num_samples if replacement else rows.shape[1])
    seed, offset = reserve(count, generator)
    u = (philox_bits(seed, offset, count) + 0.5) * 2.0 ** -32
    if replacement:
        edges = np.cumsum(rows, axis=1) / rows.sum(1, keepdims=True)
        u = u.reshape(rows.shape[0], num_samples)
        found = np.stack([np.minimum(np.searchsorted(e, r, side="right"), rows.shape[1] - 1) for e, r in zip(edges, u, strict=True)])
    else:  # the order of exponential arrival times is a draw without replacement
        with np.errstate(divide="ignore"):
            arrival = -np.log(u.reshape(rows.shape)) / rows
        found = np.argsort(arrival, axis=1, kind="stable")[:, :num_samples]
    return adopt(found.reshape(weights.shape[:-1] + (num_samples,)).astype(np.int64))
