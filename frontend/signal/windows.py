"""Window functions of `treadle.signal.windows`, and PyTorch's older names for some of them.

`sym`: symmetric, for filters; otherwise periodic, for spectra: the first M of M + 1 values. F. Harris, "On the use of windows for
harmonic analysis with the discrete Fourier transform" (1978).
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import treadle
from treadle.tensor import Tensor

__all__ = ["bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine", "general_hamming", "hamming", "hann", "kaiser",
           "nuttall"]


def _made(m: int, values: np.ndarray, dtype: Any, layout: Any, device: Any, requires_grad: bool | None) -> Tensor:
    if layout not in (None, treadle.strided):
        raise ValueError(f"is implemented for strided tensors only, got: {layout}")
    if dtype is not None and dtype not in (treadle.float32, treadle.float64):
        raise ValueError(f"expects float32 or float64 dtypes, got: {dtype}")
    tracked = False if requires_grad is None else requires_grad
    return treadle.tensor(values[:m], dtype=dtype or treadle.get_default_dtype(), device=device, requires_grad=tracked)


def _places(name: str, m: int, sym: bool) -> np.ndarray:
    """0 .. 1 over the whole window."""
    if m < 0:
        raise ValueError(f"{name}: requires non-negative window length, got M={m}")
    span = m - 1 if sym else m
    return np.arange(m, dtype=np.float64) / max(span, 1)


def general_cosine(M: int, *, a: Sequence[float], sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
                   requires_grad: bool = False) -> Tensor:
    """Sum over i of (-1)^i a[i] cos(2 pi i n / span)."""
    if requires_grad is None:
        raise TypeError("general_cosine(): argument 'requires_grad' must be bool, not NoneType")
    if not isinstance(a, Iterable):
        raise TypeError(f"Coefficients must be a list/tuple, got {type(a).__name__}")
    a = list(a)
    if not a:
        raise ValueError("Coefficients must contain at least one element")
    if not all([hasattr(c, "__float__") for c in a]):
        raise (ValueError if isinstance(a[0], str) else TypeError)(f"general_cosine: coefficients must be real numbers, got {a}")
    place = _places("general_cosine", M, sym)
    values = sum((-1) ** i * c * np.cos(2 * np.pi * i * place) for i, c in enumerate(a))
    return _made(M, np.ones(1) if M == 1 else np.asarray(values), dtype, layout, device, requires_grad)


def general_hamming(M: int, *, alpha: float = 0.54, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
                    requires_grad: bool = False) -> Tensor:
    """alpha - (1 - alpha) cos(2 pi n / span)."""
    return general_cosine(M, a=[alpha, 1 - alpha], sym=sym, dtype=dtype, layout=layout, device=device, requires_grad=requires_grad)


def hamming(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The general Hamming window with alpha = 0.54."""
    return general_hamming(M, sym=sym, dtype=dtype, layout=layout, device=device, requires_grad=requires_grad)


def hann(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The general Hamming window with alpha = 0.5."""
    return general_hamming(M, alpha=0.5, sym=sym, dtype=dtype, layout=layout, device=device, requires_grad=requires_grad)


def blackman(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The general cosine window of 0.42, 0.5, 0.08."""
    return general_cosine(M, a=[0.42, 0.5, 0.08], sym=sym, dtype=dtype, layout=layout, device=device, requires_grad=requires_grad)


def nuttall(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The general cosine window of Nuttall's four coefficients."""
    return general_cosine(M, a=[0.3635819, 0.4891775, 0.1365995, 0.0106411], sym=sym, dtype=dtype, layout=layout, device=device,
                          requires_grad=requires_grad)


def bartlett(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A triangle that begins (and, symmetric, ends) at 0."""
    values = 1 - np.abs(2 * _places("bartlett", M, sym) - 1)
    return _made(M, np.ones(1) if M == 1 else values, dtype, layout, device, requires_grad)


def cosine(M: int, *, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Half a wave of a sine, sampled between its ends."""
    place = _places("cosine", M, sym) * max(M - 1 if sym else M, 1)
    return _made(M, np.sin(np.pi * (place + 0.5) / (M if sym else M + 1)), dtype, layout, device, requires_grad)


def exponential(M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, dtype: Any = None,
                layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """exp(-|n - center| / tau)."""
    if tau <= 0:
        raise ValueError(f"Tau must be positive, got: {tau} instead.")
    if sym and center is not None:
        raise ValueError("Center must be None for symmetric windows")
    middle = (M - 1 if sym or M == 1 else M) / 2 if center is None else center
    place = _places("exponential", M, sym) * max(M - 1 if sym else M, 1)
    return _made(M, np.exp(-np.abs(place - middle) / tau), dtype, layout, device, requires_grad)


def gaussian(M: int, *, std: float = 1.0, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:
    """exp(-(n - middle)^2 / (2 std^2))."""
    if std <= 0:
        raise ValueError(f"Standard deviation must be positive, got: {std} instead.")
    span = M - 1 if sym or M == 1 else M
    place = _places("gaussian", M, sym) * max(span, 1) - span / 2
    return _made(M, np.exp(-(place / std) ** 2 / 2), dtype, layout, device, requires_grad)


def kaiser(M: int, *, beta: float = 12.0, sym: bool = True, dtype: Any = None, layout: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:
    """i0(beta sqrt(1 - t^2)) / i0(beta), t from -1 to 1."""
    if beta < 0:
        raise ValueError(f"beta must be non-negative, got: {beta} instead.")
    t = 2 * _places("kaiser", M, sym) - 1
    values = np.i0(beta * np.sqrt(np.maximum(0.0, 1 - t * t))) / np.i0(beta)
    return _made(M, np.ones(1) if M == 1 else values, dtype, layout, device, requires_grad)
