"""Statistics, truth and products: the standard's signatures on `treadle`'s functions."""
from __future__ import annotations

from typing import Any

import treadle
from treadle.array_api.arguments import Axis, array, axes, promoted
from treadle.ir import dtypes
from treadle.ir.dtypes import INT, DType
from treadle.tensor import Tensor

__all__ = ["all", "any", "cumulative_prod", "cumulative_sum", "diff", "matmul", "matrix_transpose", "max", "mean", "min", "prod", "std",
           "sum", "tensordot", "var", "vecdot"]


def _truth(name: str, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    array(name, x)
    if axis == ():
        return x.to(dtypes.bool_)
    found: Tensor = getattr(treadle, name)(x, axes(axis, x.ndim), keepdims)
    return found.to(dtypes.bool_)


def all(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether every element is other than 0."""
    return _truth("all", x, axis, keepdims)


def any(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether any element is other than 0."""
    return _truth("any", x, axis, keepdims)


def max(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element. IndexError for no elements."""
    return x.clone() if axis == () else treadle.amax(array("max", x), axes(axis, x.ndim), keepdims)


def min(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element. IndexError for no elements."""
    return x.clone() if axis == () else treadle.amin(array("min", x), axes(axis, x.ndim), keepdims)


def mean(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean of floats."""
    return x.clone() if axis == () else treadle.mean(array("mean", x), axes(axis, x.ndim), keepdims)


def _accumulator(x: Tensor, dtype: DType | None) -> DType:
    """Integers narrower than the default are accumulated in it."""
    return dtype or (dtypes.int64 if x.dtype.category <= INT else x.dtype)


def sum(x: Tensor, /, *, axis: Axis = None, dtype: DType | None = None, keepdims: bool = False) -> Tensor:
    """The sum; integers and bools in int64 unless a dtype is given."""
    target = _accumulator(array("sum", x), dtype)
    return x.to(target) if axis == () else treadle.sum(x.to(target), axes(axis, x.ndim), keepdims, dtype=target)


def prod(x: Tensor, /, *, axis: Axis = None, dtype: DType | None = None, keepdims: bool = False) -> Tensor:
    """The product; integers and bools in int64 unless a dtype is given."""
    found = x = x.to(_accumulator(array("prod", x), dtype))
    if not x.ndim:
        return x.clone()
    for a in sorted([a % x.ndim for a in axes(axis, x.ndim)], reverse=True):
        found = treadle.prod(found, a, keepdims)
    return found


def _spread(name: str, x: Tensor, axis: Axis, correction: float, keepdims: bool) -> Tensor:
    array(name, x)
    if axis == ():
        return treadle.zeros_like(x)
    found: Tensor = getattr(treadle, name)(x, axes(axis, x.ndim), correction=correction, keepdim=keepdims)
    return found


def std(x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The root of `var`."""
    return _spread("std", x, axis, correction, keepdims)


def var(x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The sum of squared distances from the mean, over count - correction."""
    return _spread("var", x, axis, correction, keepdims)


def _running(name: str, x: Tensor, axis: int | None, dtype: DType | None, include_initial: bool, start: int) -> Tensor:
    if array(name, x).ndim != 1 and axis is None:
        raise ValueError(f"{name}: axis is needed for an array of {x.ndim} axes")
    axis = 0 if axis is None else axis
    target = _accumulator(x, dtype)
    found: Tensor = (treadle.cumsum if start == 0 else treadle.cumprod)(x.to(target), axis)
    if include_initial:
        shape = [1 if d == axis % x.ndim else n for d, n in enumerate(x.shape)]
        found = treadle.cat([treadle.full(shape, start, dtype=target, device=x.device), found], axis)
    return found


def cumulative_sum(x: Tensor, /, *, axis: int | None = None, dtype: DType | None = None, include_initial: bool = False) -> Tensor:
    """Running sums along an axis, after a 0 if `include_initial`. `axis` may be left out for a 1-d array."""
    return _running("cumulative_sum", x, axis, dtype, include_initial, 0)


def cumulative_prod(x: Tensor, /, *, axis: int | None = None, dtype: DType | None = None, include_initial: bool = False) -> Tensor:
    """Running products along an axis, after a 1 if `include_initial`. `axis` may be left out for a 1-d array."""
    return _running("cumulative_prod", x, axis, dtype, include_initial, 1)


def diff(x: Tensor, /, *, axis: int = -1, n: int = 1, prepend: Tensor | None = None, append: Tensor | None = None) -> Tensor:
    """Differences of neighbours along an axis, n times."""
    return treadle.diff(array("diff", x), n, axis, prepend, append)


def matmul(x1: Tensor, x2: Tensor, /) -> Tensor:
    """The matrix product, leading axes broadcast."""
    a, b = promoted("matmul", array("matmul", x1), array("matmul", x2))
    return treadle.matmul(a, b)


def matrix_transpose(x: Tensor, /) -> Tensor:
    """The last two axes exchanged. ValueError for fewer than two."""
    if array("matrix_transpose", x).ndim < 2:
        raise ValueError(f"matrix_transpose: expected two axes at least, got an array of shape {tuple(x.shape)}")
    return treadle.transpose(x, -2, -1)


def tensordot(x1: Tensor, x2: Tensor, /, *, axes: Any = 2) -> Tensor:
    """The sum of products over pairs of axes."""
    a, b = promoted("tensordot", array("tensordot", x1), array("tensordot", x2))
    return treadle.tensordot(a, b, axes if isinstance(axes, int) else (list(axes[0]), list(axes[1])))


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The sum of conj(x1) * x2 over an axis, the others broadcast."""
    a, b = promoted("vecdot", array("vecdot", x1), array("vecdot", x2))
    if a.shape[axis] != b.shape[axis]:
        raise ValueError(f"vecdot: sizes {a.shape[axis]} and {b.shape[axis]} of axis {axis} differ")
    found: Tensor = treadle.sum((a.conj() if a.dtype.is_complex else a) * b, axis)
    return found.to(a.dtype)
