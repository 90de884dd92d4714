"""Order statistics: medians, quantiles and their like, and counts of elements in bins."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from treadle.arguments import Omitted, misfit
from treadle.functions import ADD, COPY, MUL, SUB, TABLE, cast, tensor_argument, where
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT
from treadle.ir.ops.common import need_real, not_implemented
from treadle.ir.types import normalize_dim
from treadle.layout import RESHAPE
from treadle.modes import listed
from treadle.per_example import for_each_example
from treadle.reductions import PAIRS, all, any, between, sum
from treadle.results import numpy_names, with_out
from treadle.shaping import expand, flatten, unsqueeze
from treadle.tensor import Tensor, apply

__all__ = ["histc", "kthvalue", "median", "mode", "nanmedian", "nanquantile", "quantile"]


def _sorted(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    return apply(TABLE["sort"], (x,), (dim, False, True))


def _at(x: Tensor, dim: int, i: int, keepdim: bool) -> Tensor:
    piece = between(x, dim, i, i + 1)
    shape = piece._data.type.shape
    return piece if keepdim else apply(RESHAPE, (piece,), (shape[:dim] + shape[dim + 1:],))


@numpy_names
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest element along an axis (from 1): (values, indices)."""
    if not input._data.type.shape:
        normalize_dim("kthvalue", dim, 0)
        if k != 1:
            raise RuntimeError("kthvalue(): selected number k out of range for dimension 0")
        return PAIRS["kthvalue"](apply(COPY, (input,)), cast(apply(MUL, (input, 0)), dtypes.int64))
    dim = normalize_dim("kthvalue", dim, input._data.type.ndim)
    _need_size("kthvalue", input, dim)
    if not 1 <= k <= input._data.type.shape[dim]:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {dim}")
    values, places = _sorted(input, dim)
    return PAIRS["kthvalue"](_at(values, dim, k - 1, keepdim), _at(places, dim, k - 1, keepdim))


def _need_size(name: str, x: Tensor, dim: int) -> None:
    if x._data.type.shape[dim:dim + 1] == (0,):
        raise IndexError(f"{name}(): Expected reduction dim {dim} to have non-zero size.")


@numpy_names
def median(input: Tensor, dim: int | Omitted = None, keepdim: bool = False) -> Any:
    """The lower median: of all elements, or (values, indices) along an axis. NaN when an element is NaN."""
    if input._data.type.dtype.category == BOOL and (dim is not None or input._data.type.numel):
        raise not_implemented("median", input._data.type.dtype, (input._data.type,))
    if dim is None:
        flat = flatten(input)
        if not flat._data.type.numel and flat._data.type.dtype.category == FLOAT:
            return apply(ADD, (sum(flat), math.nan))
        if not flat._data.type.numel:
            return cast(apply(TABLE["full"], (math.nan,), ((), dtypes.float32, flat._data.type.device)), flat._data.type.dtype)
        return _median(flat, 0, False)[0]
    if not input._data.type.shape:
        return PAIRS["median"](*kthvalue(input, 1, dim))
    return PAIRS["median"](*_median(input, normalize_dim("median", dim, input._data.type.ndim), keepdim))


def _median(x: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    _need_size("median", x, dim)
    size = x._data.type.shape[dim]
    values, places = _sorted(x, dim)
    middle, at = _at(values, dim, (size - 1) // 2, keepdim), _at(places, dim, (size - 1) // 2, keepdim)
    if x._data.type.dtype.category != FLOAT:
        return middle, at
    last, last_at = _at(values, dim, size - 1, keepdim), _at(places, dim, size - 1, keepdim)  # NaN sorts last
    bad = apply(TABLE["isnan"], (last,))
    return where(bad, last, middle), where(bad, last_at, at)


@numpy_names
def nanmedian(input: Tensor, dim: int | Omitted = None, keepdim: bool = False) -> Any:
    """The lower median of the elements that are not NaN."""
    if input._data.type.dtype.category != FLOAT or not input._data.type.numel:
        if dim is None:
            return median(input)
        return PAIRS["nanmedian"](*median(input, dim, keepdim))
    x, axis = (flatten(input), 0) if dim is None else (input, normalize_dim("nanmedian", dim, input._data.type.ndim))
    from treadle.gathering import gather
    values, places = _sorted(x, axis)
    valid = sum(apply(TABLE["logical_not"], (apply(TABLE["isnan"], (x,)),)), axis, True)
    middle = apply(TABLE["floor_divide"], (apply(TABLE["maximum"], (apply(SUB, (valid, 1)), 0)), 2))
    found, at = gather(values, axis, middle), gather(places, axis, middle)
    if dim is None:
        return found.reshape(())
    return PAIRS["nanmedian"](found, at) if keepdim else PAIRS["nanmedian"](found.squeeze(axis), at.squeeze(axis))


@numpy_names
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent element along an axis (the smallest of equals): (values, index of its last occurrence). Computed at once."""
    from treadle.creation import adopt, to_array
    need_real("mode", tensor_argument("mode", input)._data.type)
    axis = normalize_dim("mode", dim, input._data.type.ndim)
    _need_size("mode", input, axis)
    array = np.moveaxis(np.atleast_1d(to_array(input)), axis, -1)
    places = np.empty(array.shape[:-1], np.int64)
    for i in np.ndindex(*places.shape):
        values, counts = np.unique(array[i], return_counts=True)
        places[i] = np.flatnonzero(array[i] == values[counts.argmax()])[-1]
    from treadle.gathering import gather
    if not input._data.type.shape:
        return PAIRS["mode"](apply(COPY, (input,)), adopt(places.reshape(()), input))
    index = adopt(np.expand_dims(places, axis), input)
    found = gather(input, axis, index)
    return PAIRS["mode"](found, index) if keepdim else PAIRS["mode"](found.squeeze(axis), index.squeeze(axis))


@listed
@numpy_names
def quantile(input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear") -> Tensor:
    """The q-th quantiles (q in [0, 1], a number or a vector) over an axis or all elements."""
    return _quantile("quantile", input, q, dim, keepdim, interpolation)


@listed
@numpy_names
def nanquantile(input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear") -> Tensor:
    """`quantile` of the elements that are not NaN."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation)


def _quantile(name: str, input: Tensor, q: Any, dim: int | None, keepdim: bool, interpolation: str) -> Tensor:
    from treadle.creation import tensor
    from treadle.gathering import gather
    if input._data.type.dtype not in (dtypes.float32, dtypes.float64):
        raise RuntimeError(f"{name}() input tensor must be either float or double dtype")
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(f"{name}() interpolation must be one of linear, lower, higher, midpoint or nearest, but got {interpolation}")
    if not input._data.type.numel:
        raise RuntimeError(f"{name}() input tensor must be non-empty")
    dim = dim if dim is None else normalize_dim(name, dim, input._data.type.ndim)
    if not isinstance(q, int | float | Tensor):
        raise misfit(name, "q", 2, "Tensor or float", q)
    if not isinstance(q, Tensor) and not 0 <= q <= 1:
        raise RuntimeError(f"quantile() q must be in the range [0, 1] but got {q}")
    if isinstance(q, Tensor) and (q._data.type.ndim > 1 or q._data.type.dtype is not input._data.type.dtype):
        raise RuntimeError(f"{name}() q must be a scalar or 1D tensor of the dtype of the input {input._data.type}, got {q._data.type}")
    levels = q if isinstance(q, Tensor) else tensor(float(q), dtype=input._data.type.dtype, device=input._data.type.device)
    shape = input._data.type.shape
    x = flatten(input) if dim is None or not shape else input.movedim(dim, -1)
    values = apply(TABLE["sort"], (x,), (x._data.type.ndim - 1, False, True))[0]
    isnan = apply(TABLE["isnan"], (x,))
    last = apply(SUB, (sum(apply(TABLE["logical_not"], (isnan,)), -1, True), 1))  # NaN sorts last
    width = levels._data.type.numel
    rank = apply(MUL, (levels.reshape((1,) * (x._data.type.ndim - 1) + (width,)), last))
    rank = expand(rank, (*x._data.type.shape[:-1], width))
    rank = apply(TABLE["clamp_min"], (rank, 0.0))
    low, high = (cast(apply(TABLE[n], (rank,)), dtypes.int64) for n in ("floor", "ceil"))
    if interpolation == "nearest":
        low = high = cast(apply(TABLE["round"], (rank,)), dtypes.int64)
    below = gather(values, -1, high if interpolation == "higher" else low)
    weight: Any = {"linear": apply(SUB, (rank, low)), "midpoint": 0.5}.get(interpolation)
    if weight is not None:
        below = apply(ADD, (below, apply(MUL, (weight, apply(SUB, (gather(values, -1, high), below))))))
    bad = any(isnan, -1, True) if name == "quantile" else all(isnan, -1, True)
    out = where(bad, math.nan, below).movedim(-1, 0)
    if keepdim:
        out = out.reshape((width, *([1] * len(shape)))) if dim is None else unsqueeze(out, dim + 1)
    return out if levels._data.type.shape else out.reshape(out._data.type.shape[1:])


@for_each_example
@with_out
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts of elements in `bins` equal bins between min and max (the data's extremes when both are 0). Computed at once."""
    from treadle.creation import adopt, to_array
    array = to_array(input).reshape(-1)
    if bins <= 0 or max < min:
        raise RuntimeError(f"histc: bins must be > 0 and max not less than min, but got bins={bins}, min={min}, max={max}")
    if input._data.type.dtype.is_complex or input._data.type.dtype.category == BOOL:
        raise not_implemented("histc", input._data.type.dtype, (input._data.type,))
    low, high = (float(array.min()), float(array.max())) if min == max == 0 and array.size else (float(min), float(max))
    if low == high:
        low, high = low - 1, high + 1
    counts, _ = np.histogram(array, bins, (low, high))
    return adopt(counts.astype(input._data.type.dtype.np), input)
