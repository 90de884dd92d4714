"""The standard's Fourier transform extension, on `treadle.fft`."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treadle
from treadle.array_api.arguments import array, on
from treadle.ir.dtypes import DType
from treadle.tensor import Tensor

_ONE = ("fft", "hfft", "ifft", "ihfft", "irfft", "rfft")
_MANY = ("fftn", "ifftn", "irfftn", "rfftn")
__all__ = [*_ONE, *_MANY, "fftfreq", "fftshift", "ifftshift", "rfftfreq"]


def _one(function: Callable[..., Any]) -> Callable[..., Tensor]:
    def transform(x: Tensor, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
        result: Tensor = function(array(function.__name__, x), n, axis, norm)
        return result
    return transform


def _many(function: Callable[..., Any]) -> Callable[..., Tensor]:
    def transform(x: Tensor, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Tensor:
        result: Tensor = function(array(function.__name__, x), s, axes, norm)
        return result
    return transform


for _names, _make in ((_ONE, _one), (_MANY, _many)):
    for _name in _names:
        _original = getattr(treadle.fft, _name)
        _function = _make(_original)
        _function.__name__ = _function.__qualname__ = _name
        _function.__doc__, _function.__module__ = _original.__doc__, __name__
        globals()[_name] = _function


def fftfreq(n: int, /, *, d: float = 1.0, dtype: DType | None = None, device: Any = None) -> Tensor:
    """The frequencies of `fft` of n samples at distance d."""
    return treadle.fft.fftfreq(n, d, dtype=dtype, device=on(device))


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: DType | None = None, device: Any = None) -> Tensor:
    """The frequencies of `rfft` of n samples at distance d."""
    return treadle.fft.rfftfreq(n, d, dtype=dtype, device=on(device))


def fftshift(x: Tensor, /, *, axes: Any = None) -> Tensor:
    """Frequency 0 moved to the middle."""
    return treadle.fft.fftshift(array("fftshift", x), axes)


def ifftshift(x: Tensor, /, *, axes: Any = None) -> Tensor:
    """The inverse of `fftshift`."""
    return treadle.fft.ifftshift(array("ifftshift", x), axes)
