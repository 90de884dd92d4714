"""Sets and counts: functions of where elements stand among others, computed on the host, which flushes."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from treadle.arguments import misfit
from treadle.functions import TABLE, cast, tensor_argument
from treadle.gathering import from_host, host_array, take_along_dim
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, INT
from treadle.ir.ops.common import need_real, not_implemented
from treadle.ir.types import normalize_dim
from treadle.per_example import for_each_example
from treadle.results import with_out
from treadle.tensor import Tensor, apply

__all__ = ["bincount", "bucketize", "isin", "searchsorted", "unique", "unique_consecutive", "unravel_index"]


CLOSE = 1024  # so many places are counted, however few elements there are


def _distinct_axis(x: np.ndarray, dim: int | None) -> int | None:
    """RuntimeError for slices without elements, which are neither equal nor different."""
    if dim is None:
        return None
    dim = normalize_dim("unique", dim, x.ndim)
    if not x.ndim:
        raise IndexError("unique: Dimension specified as 0 but tensor has no dimensions")
    if any(not n for d, n in enumerate(x.shape) if d != dim):
        raise RuntimeError("There are 0 sized dimensions, and they aren't selected, so unique cannot be applied")
    return dim


def unique(input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None) -> Any:
    """The distinct elements in ascending order (or distinct slices of an axis); optionally where each went, and how often it occurs."""
    kind = tensor_argument("unique", input)._data.type
    if dim is None and kind.numel and not kind.dtype.is_complex and kind.device == "cpu":
        flat = apply(TABLE["reshape"], (input.detach(),), ((kind.numel,),))
        distinct = _counted(flat, return_inverse) or _in_order(flat, return_inverse)
        at = None if distinct.inverse is None else distinct.inverse.reshape(kind.shape)
        return _set_result(input, distinct.values, at, distinct.counts if return_counts else None)
    x = host_array(input)
    dim = _distinct_axis(x, dim)
    options: dict[str, Any] = {"return_inverse": return_inverse, "return_counts": return_counts, "axis": dim}
    found: Any = np.unique(x, **options, equal_nan=False)  # NaNs stay apart
    values, *rest = found if isinstance(found, tuple) else (found,)
    inverse = rest[0].reshape(x.shape if dim is None else (x.shape[dim],)) if return_inverse else None
    return _set_result(input, values, inverse, rest[-1] if return_counts else None)


class Distinct(NamedTuple):
    """The distinct elements of a vector in order, where each element is among them if that is wanted, and how often each occurs."""

    values: np.ndarray
    inverse: np.ndarray | None
    counts: np.ndarray


def _range(x: Tensor) -> tuple[int, int]:
    """The smallest and the largest of a vector of whole numbers."""
    low, high = (apply(TABLE[name], (x,), ((0,), False)) for name in ("amin", "amax"))
    return int(host_array(low)), int(host_array(high))


def _counted(x: Tensor, inverse: bool) -> Distinct | None:
    """Of whole numbers that are close together, by counting each; None for others."""
    dtype = x._data.type.dtype
    if dtype.category != INT or dtype is dtypes.uint64:
        return None
    low, high = _range(x)
    if high - low >= max(x._data.type.numel, CLOSE):
        return None
    places = apply(TABLE["sub"], (cast(x, dtypes.int64), low))
    counts = host_array(apply(TABLE["bincount"], (places,), (high - low + 1,)))
    values = np.flatnonzero(counts)
    at = (np.cumsum(counts != 0) - 1)[host_array(places)] if inverse else None
    return Distinct((values + low).astype(dtype.np), at, counts[values])


def _in_order(x: Tensor, inverse: bool) -> Distinct:
    """By sorting. NaNs stay apart."""
    ordered, order = apply(TABLE["sort"], (x,), (0, False, True))
    array = host_array(ordered)
    fresh = np.ones(array.size, bool)
    np.not_equal(array[1:], array[:-1], out=fresh[1:])
    starts, at = np.flatnonzero(fresh), None
    if inverse:
        at = np.empty(array.size, np.int64)
        at[host_array(order)] = np.cumsum(fresh) - 1
    return Distinct(array[starts], at, np.diff(np.append(starts, array.size)))


def _set_result(x: Tensor, values: np.ndarray, inverse: np.ndarray | None, counts: np.ndarray | None) -> Any:
    results = [from_host(values, x), *[from_host(a.astype(np.int64), x) for a in (inverse, counts) if a is not None]]
    return results[0] if len(results) == 1 else tuple(results)


def unique_consecutive(input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None) -> Any:
    """Runs of equal elements (or of equal slices of an axis) reduced to one."""
    x = host_array(input)
    shape, dim = x.shape, _distinct_axis(x, dim)
    rows = x.reshape(-1) if dim is None else np.moveaxis(x, dim, 0)
    flat = rows.reshape(rows.shape[0], -1) if rows.size else rows.reshape(rows.shape[0], 0)
    fresh = np.ones(len(flat), bool)
    fresh[1:] = np.any(flat[1:] != flat[:-1], axis=1)
    starts = np.flatnonzero(fresh)
    values = rows[starts] if dim is None else np.moveaxis(rows[starts], 0, dim)
    inverse = np.cumsum(fresh) - 1 if return_inverse else None
    counts = np.diff(np.append(starts, len(flat))) if return_counts else None
    return _set_result(input, values, inverse.reshape(shape) if inverse is not None and dim is None else inverse, counts)


@with_out
@for_each_example
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element occurs among the test elements."""
    if not isinstance(elements, Tensor):
        tensor_argument("isin", test_elements, "test_elements", 2)
    for name, x in (("elements", elements), ("test_elements", test_elements)):
        if not isinstance(x, Tensor | int | float | complex | np.number):
            tensor_argument("isin", x, name)
        if isinstance(x, Tensor) and x._data.type.dtype.category == BOOL:
            raise RuntimeError(f"Unsupported input type encountered for isin(): {name} is of bool")
    a, b = (host_array(x) if isinstance(x, Tensor) else np.asarray(x) for x in (elements, test_elements))
    return from_host(np.asarray(np.isin(a, b, invert=invert)), elements if isinstance(elements, Tensor) else test_elements)


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each non-negative integer occurs, or the sum of its weights."""
    x = tensor_argument("bincount", input)
    if minlength < 0:
        raise RuntimeError(f"bincount: minlength should be >= 0, got {minlength}")
    if x._data.type.dtype.category != INT:
        raise not_implemented("bincount_cpu", x._data.type.dtype, (x._data.type,))
    if x._data.type.ndim != 1:
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is None and x._data.type.numel:
        whole = cast(x.detach(), dtypes.int64)
        low, high = _range(whole)
        if low < 0:
            raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
        return apply(TABLE["bincount"], (whole,), (max(high + 1, minlength),))
    array = host_array(x)
    try:
        counts = np.bincount(array, None if weights is None else host_array(weights).astype(np.float64), minlength)
    except ValueError:
        if array.size and array.min() < 0:
            raise RuntimeError("bincount only supports 1-d non-negative integral inputs.") from None
        raise
    if weights is None:
        return from_host(counts.astype(np.int64), x)
    return from_host(counts.astype(np.float32 if weights._data.type.dtype is dtypes.float32 else np.float64), x)


@with_out
@for_each_example
def searchsorted(sorted_sequence: Tensor, values: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
                 sorter: Tensor | None = None) -> Tensor:
    """Where to insert values into sorted rows so that they stay sorted."""
    if side is not None and side not in ("left", "right"):
        raise RuntimeError(f"searchsorted(): side can only be 'left' or 'right' but got {side}")
    if not hasattr(values, "__float__"):
        raise misfit("searchsorted", "values", 2, "Tensor or number", values)
    need_real("searchsorted", *[t._data.type for t in (sorted_sequence, values) if isinstance(t, Tensor)])
    if sorter is not None:
        if sorter._data.type.shape != sorted_sequence._data.type.shape:
            raise RuntimeError(f"searchsorted(): boundary and sorter must have the same size, but got boundary tensor "
                               f"{list(sorted_sequence._data.type.shape)} and got sorter tensor {list(sorter._data.type.shape)}")
        if sorter._data.type.dtype is not dtypes.int64:
            raise RuntimeError("searchsorted(): sorter must be a tensor of long dtype but got dtype " + sorter._data.type.dtype.name)
        sorted_sequence = take_along_dim(sorted_sequence, sorter, -1) if sorter._data.type.shape else sorted_sequence
    if isinstance(values, Tensor) and values._data.type.dtype is sorted_sequence._data.type.dtype:
        places = apply(TABLE["searchsorted"], (sorted_sequence, values), (right or side == "right",))
        return cast(places, dtypes.int32) if out_int32 else places
    rows = host_array(sorted_sequence)
    if rows.ndim == 0:
        raise RuntimeError("searchsorted(): boundaries tensor should have positive dimension, but got 0 dimension")
    wanted = host_array(values) if isinstance(values, Tensor) else np.asarray(values)
    where_to: Any = "right" if right or side == "right" else "left"
    if rows.ndim == 1:
        found = np.asarray(np.searchsorted(rows, wanted, where_to))
    else:
        if rows.shape[:-1] != wanted.shape[:-1]:
            raise RuntimeError(f"searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries tensor "
                               f"and input value tensor must match, but we got boundaries tensor {list(rows.shape)} and input value tensor "
                               f"{list(wanted.shape)}")
        found = np.empty(wanted.shape, np.int64)
        for i in np.ndindex(*rows.shape[:-1]):
            found[i] = np.searchsorted(rows[i], wanted[i], where_to)
    return from_host(found.astype(np.int32 if out_int32 else np.int64), sorted_sequence)


@with_out
@for_each_example
def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The bucket between boundaries in which each value lies."""
    if not isinstance(input, Tensor | int | float | np.number):
        tensor_argument("bucketize", input)
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


def unravel_index(indices: Tensor, shape: int | Sequence[int]) -> tuple[Tensor, ...]:
    """Coordinates in `shape` of indices into the flat tensor."""
    if tensor_argument("unravel_index", indices)._data.type.dtype.category != INT:
        raise TypeError(f"unravel_index: expected 'indices' to be integer dtype, but got {indices._data.type.dtype.name}")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all([hasattr(n, "__index__") for n in shape]):
        raise TypeError(f"unravel_index: expected 'shape' sequence to only contain ints, but got {shape}")
    if any(n < 0 for n in shape):
        raise ValueError(f"'shape' cannot have negative values, but got {shape}")
    at = cast(indices, dtypes.int64)
    out: list[Tensor] = []
    for n in reversed(shape):
        out.append(apply(TABLE["remainder"], (at, n)))
        at = apply(TABLE["floor_divide"], (at, n))
    return tuple(reversed(out))
