"""`treadle.masked`: reductions and normalisations of the elements where a mask is true. Without a mask they are the ordinary ones."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import treadle
from treadle.arguments import guard
from treadle.ir.dtypes import to_real
from treadle.ir.types import normalize_dim
from treadle.tensor import Tensor

Dim = int | Sequence[int] | None
__all__ = ["amax", "amin", "argmax", "argmin", "cumprod", "cumsum", "log_softmax", "logaddexp", "logsumexp", "mean", "median", "norm",
           "normalize", "prod", "softmax", "softmin", "std", "sum", "var"]


def _filled(x: Tensor, mask: Tensor | None, value: float) -> Tensor:
    if mask is None:
        return x
    if mask.dim() > x.dim():
        raise IndexError("_input_mask expected broadcastable mask (got mask dimensionality higher than of the input)")
    found = treadle.where(mask.to(treadle.bool), x, value)
    if found.shape != x.shape:
        raise RuntimeError(f"masked: a mask of size {list(mask.shape)} does not broadcast to an input of size {list(x.shape)}")
    return found


def _cast(x: Tensor, dtype: Any) -> Tensor:
    return x if dtype is None else x.to(dtype)


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    return tuple(range(x.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)


def _one(x: Tensor, dim: Any) -> int:
    """The axis of what works along one: the first of several, of which none may come twice; of all of them where none is given."""
    if isinstance(dim, int):
        return dim
    dims = sorted([normalize_dim("masked", d, x.dim()) for d in _dims(x, dim or None)])
    for d in dims:
        if dims.count(d) > 1:
            raise RuntimeError(f"dim={d} appears multiple times in the list of dims")
    return dims[0] if dims else 0


def _extreme(x: Tensor, mask: Tensor | None, smallest: bool) -> float:
    if mask is None or x.dtype.is_floating_point or x.dtype.is_complex:
        return math.inf if smallest else -math.inf
    if x.dtype is treadle.bool:
        return smallest
    info = treadle.iinfo(x.dtype)
    return info.max if smallest else info.min


def _hidden(x: Tensor, mask: Tensor | None) -> Tensor:
    """x with its dtype's lowest number where the mask does not hold."""
    return _filled(x, mask, _extreme(x, mask, False))


def sum(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The sum of the elements in the mask."""
    return _filled(_cast(input, dtype), mask, 0).sum(_dims(input, dim), keepdim=keepdim)


def prod(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The product of the elements in the mask."""
    x = _filled(_cast(input, dtype), mask, 1)
    if not (x.dtype.is_floating_point or x.dtype.is_complex):
        x = x.long()
    for d in sorted([d % max(input.dim(), 1) for d in _dims(input, dim)], reverse=True):
        x = x.prod(d, keepdim=keepdim)
    return x


def amax(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The largest element in the mask."""
    return _filled(_cast(input, dtype), mask, _extreme(input, mask, False)).amax(_dims(input, dim), keepdim=keepdim)


def amin(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The smallest element in the mask."""
    return _filled(_cast(input, dtype), mask, _extreme(input, mask, True)).amin(_dims(input, dim), keepdim=keepdim)


def argmax(input: Tensor, dim: int | None = None, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The index of the largest element in the mask, in the input's dtype unless another is given, as in PyTorch."""
    return _filled(input, mask, _extreme(input, mask, False)).argmax(dim, keepdim=keepdim).to(dtype or input.dtype)


def argmin(input: Tensor, dim: int | None = None, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The index of the smallest element in the mask, in the input's dtype unless another is given, as in PyTorch."""
    return _filled(input, mask, _extreme(input, mask, True)).argmin(dim, keepdim=keepdim).to(dtype or input.dtype)


def _count(input: Tensor, dim: Any, keepdim: bool, mask: Tensor | None, dtype: Any) -> Tensor:
    ones = treadle.ones_like(input, dtype=dtype)
    return sum(ones, dim, keepdim=keepdim, mask=mask)


def mean(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The mean of the elements in the mask; NaN where there are none."""
    x = _cast(input, dtype)
    if not (x.dtype.is_floating_point or x.dtype.is_complex):
        raise ValueError("masked.mean(): Could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
                         f"Got: {x.dtype}")
    return sum(x, dim, keepdim=keepdim, mask=mask) / _count(x, dim, keepdim, mask, x.dtype)


def var(input: Tensor, dim: Any = None, unbiased: bool | None = None, *, correction: Any = None, keepdim: bool = False,
        dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The variance of the elements in the mask."""
    given = float(correction) if correction is not None else 1 if unbiased or unbiased is None else 0
    x = _cast(input, dtype)
    away = x - sum(x, dim, keepdim=True, mask=mask) / _count(x, dim, True, mask, x.dtype)
    count = _count(x, dim, keepdim, mask, to_real(away.dtype)) - given
    return sum(away * away.conj(), dim, keepdim=keepdim, mask=mask) / count.clamp(min=0)


def std(input: Tensor, dim: Any = None, unbiased: bool | None = None, *, correction: Any = None, keepdim: bool = False,
        dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The standard deviation of the elements in the mask."""
    return var(input, dim, unbiased, correction=correction, keepdim=keepdim, dtype=dtype, mask=mask).sqrt()


def norm(input: Tensor, ord: float = 2.0, dim: Any = None, *, keepdim: bool = False, dtype: Any = None,
         mask: Tensor | None = None) -> Tensor:
    """The vector norm of the elements in the mask."""
    fill = math.inf if ord == -math.inf else 0
    return treadle.linalg.vector_norm(_filled(_cast(input, dtype), mask, fill), ord, _dims(input, dim), keepdim)


def median(input: Tensor, dim: Dim = -1, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The (lower) median of the elements in the mask; NaN where there are none."""
    x = _cast(input, dtype)
    dim = _one(input, dim)
    normalize_dim("masked.median", dim, x.dim())
    if mask is not None and not x.dtype.is_floating_point:
        if not bool(mask.broadcast_to(x.shape).any(dim).all()):
            raise ValueError("masked median expects no fully masked out rows if dtype is not floating point")
        return median(x.double(), dim, keepdim=keepdim, mask=mask).to(x.dtype)
    values: Tensor = x.median(dim, keepdim=keepdim)[0] if mask is None else _filled(x, mask, math.nan).nanmedian(dim, keepdim=keepdim)[0]
    return values


def logsumexp(input: Tensor, dim: Any = None, *, keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """log(sum of exp) of the elements in the mask."""
    x = _cast(input, dtype)
    floating = x if x.dtype.is_floating_point or x.dtype.is_complex else x.to(treadle.get_default_dtype())
    return treadle.logsumexp(_filled(floating, mask, -math.inf), _dims(input, dim), keepdim).to(x.dtype)


def logaddexp(input: Tensor, other: Tensor, *, dtype: Any = None, input_mask: Tensor | None = None,
              other_mask: Tensor | None = None) -> Tensor:
    """log(exp(input) + exp(other)), either counted where its mask holds."""
    return treadle.logaddexp(_hidden(_cast(input, dtype), input_mask), _hidden(_cast(other, dtype), other_mask))


def cumsum(input: Tensor, dim: Dim, *, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """Running sums of the elements in the mask."""
    return _filled(_cast(input, dtype), mask, 0).cumsum(_one(input, dim), dtype=dtype or input.dtype)


def cumprod(input: Tensor, dim: Dim, *, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """Running products of the elements in the mask."""
    return _filled(_cast(input, dtype), mask, 1).cumprod(_one(input, dim), dtype=dtype or input.dtype)


def softmax(input: Tensor, dim: Dim, *, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """softmax over the elements in the mask."""
    return treadle.softmax(_hidden(_cast(input, dtype), mask), _one(input, dim))


def log_softmax(input: Tensor, dim: Dim, *, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """log_softmax over the elements in the mask."""
    return treadle.log_softmax(_hidden(_cast(input, dtype), mask), _one(input, dim))


def softmin(input: Tensor, dim: Dim, *, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """softmin over the elements in the mask."""
    if input.dtype is treadle.bool and dtype is None:
        raise NotImplementedError("masked.softmin(): a bool tensor has no negative")
    return treadle.softmax(_hidden(-_cast(input, dtype), mask), _one(input, dim))


def normalize(input: Tensor, ord: float, dim: Dim, *, eps: float = 1e-12, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
    """The elements in the mask divided by their norm."""
    x = _cast(input, dtype)
    return _filled(x, mask, 0.0) / norm(x, ord, dim, keepdim=True, mask=mask).clamp(min=eps)


guard(globals(), __all__)
