"""Searching, sorting, indexing and sets: the standard's signatures on `treadle`'s functions."""
from __future__ import annotations

from typing import Any, NamedTuple

import treadle
from treadle.array_api.arguments import Axis, array, axes, promoted
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, INT
from treadle.tensor import Tensor

__all__ = ["argmax", "argmin", "argsort", "count_nonzero", "isin", "nonzero", "searchsorted", "sort", "take", "take_along_axis",
           "unique_all", "unique_counts", "unique_inverse", "unique_values", "where"]


class UniqueAll(NamedTuple):
    """Different elements, where each is first, which one each element is, and how often each comes."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """Different elements and how often each comes."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """Different elements and which one each element is."""

    values: Tensor
    inverse_indices: Tensor


def _extreme(name: str, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    function = getattr(treadle, name)
    if axis is None:
        found: Tensor = function(x.reshape(-1), 0)
        return found.reshape((1,) * x.ndim) if keepdims else found
    found = function(x, axis, keepdims)
    return found


def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index of the first largest element, of the flattened array when axis is None."""
    return _extreme("argmax", array("argmax", x), axis, keepdims)


def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index of the first smallest element, of the flattened array when axis is None."""
    return _extreme("argmin", array("argmin", x), axis, keepdims)


def argsort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The indices that put an axis in order."""
    return treadle.argsort(array("argsort", x), axis, descending, True)


def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """An axis in order."""
    found: Tensor = treadle.sort(array("sort", x), axis, descending, True)[0]
    return found


def count_nonzero(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements are not 0."""
    return treadle.sum(array("count_nonzero", x) != 0, axes(axis, x.ndim), keepdims) if axis != () else (x != 0).to(dtypes.int64)


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Tensor:
    """Whether each element of x1 is among those of x2."""
    a, b = promoted("isin", x1, x2)
    return treadle.isin(a, b, invert=invert)


def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """Indices of the elements that are not 0, one array for each axis. ValueError for a 0-d array."""
    if not array("nonzero", x).ndim:
        raise ValueError("nonzero: expected an array of one axis at least, got a 0-d array")
    return tuple(treadle.nonzero(x, as_tuple=True))


def searchsorted(x1: Tensor, x2: Any, /, *, side: str = "left", sorter: Tensor | None = None) -> Tensor:
    """Where elements of x2 would be put into the ordered x1."""
    a, b = promoted("searchsorted", x1, x2)
    return treadle.searchsorted(a, b, side=side, sorter=sorter)


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    """Entries of an axis by a 1-d array of indices. `axis` may be left out for a 1-d array."""
    if axis is None:
        if array("take", x).ndim != 1:
            raise ValueError(f"take: axis is needed for an array of {x.ndim} axes")
        axis = 0
    if axis < -x.ndim or axis >= x.ndim:
        raise IndexError(f"take: axis {axis} is out of range for an array of {x.ndim} axes")
    place = tuple([slice(None)] * (axis % x.ndim))
    found: Tensor = x[(*place, array("take", indices))]
    return found


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    """Elements along an axis by indices of the same number of axes."""
    return treadle.take_along_dim(array("take_along_axis", x), indices.to(dtypes.int64), axis)


def unique_all(x: Tensor, /) -> UniqueAll:
    """Different elements in order, with where each is first, which one each element is, and how often each comes; each NaN is its own."""
    flat = array("unique_all", x).reshape(-1)
    order = treadle.argsort(flat, 0, False, True)
    ordered = flat[order]
    new = treadle.ones_like(ordered, dtype=dtypes.bool_)
    if flat.shape[0] > 1:
        new = treadle.cat([new[:1], ordered[1:] != ordered[:-1]])
    starts = treadle.nonzero(new).reshape(-1)
    ends = treadle.cat([starts[1:], treadle.full((1,), flat.shape[0], dtype=dtypes.int64)]) if starts.shape[0] else starts
    places = treadle.cumsum(new.to(dtypes.int64), 0) - 1
    inverse = treadle.zeros_like(order).scatter(0, order, places)
    return UniqueAll(ordered[starts], order[starts], inverse.reshape(x.shape), ends - starts)


def unique_counts(x: Tensor, /) -> UniqueCounts:
    """Different elements in order and how often each comes."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Tensor, /) -> UniqueInverse:
    """Different elements in order and which one each element is."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Tensor, /) -> Tensor:
    """Different elements in order."""
    return unique_all(x).values


def where(condition: Tensor, x1: Any, x2: Any, /) -> Tensor:
    """x1 where the condition holds, x2 elsewhere."""
    if array("where", condition).dtype.category != BOOL:
        kind = "integers" if condition.dtype.category == INT else condition.dtype.name
        raise TypeError(f"where: expected a condition of bool, got {kind}")
    if not isinstance(x1, Tensor) and not isinstance(x2, Tensor):
        return treadle.where(condition, x1, x2)
    a, b = promoted("where", x1, x2)
    return treadle.where(condition, a, b)
