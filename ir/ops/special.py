"""Numpy references of functions numpy itself lacks, in float64 rounded to the operand's dtype."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def _elementwise(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    ufunc = np.frompyfunc(function, 1, 1)

    def reference(x: np.ndarray) -> np.ndarray:
        return np.asarray(ufunc(np.asarray(x, np.float64)), dtype=np.float64).astype(x.dtype)
    return reference


erf = _elementwise(math.erf)
erfc = _elementwise(math.erfc)


def _lgamma(x: float) -> float:
    if math.isinf(x) or (x <= 0 and x == math.floor(x)):
        return math.inf
    return math.lgamma(x)


def _digamma(x: float) -> float:
    """Recurrence up to 10 and the asymptotic series (Abramowitz & Stegun 6.3.5, 6.3.7, 6.3.18)."""
    if math.isnan(x) or x == math.inf:
        return x
    if x == -math.inf:
        return math.nan
    if x == 0:
        return math.copysign(math.inf, -x)
    if x < 0:
        if x == math.floor(x):
            return math.nan
        return _digamma(1 - x) - math.pi / math.tan(math.pi * x)
    total = 0.0
    while x < 10:
        total -= 1 / x
        x += 1
    s = 1 / (x * x)
    return total + math.log(x) - 0.5 / x - s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s / 132))))


def _erfinv(y: float) -> float:
    """Winitzki's approximation refined by three Newton steps on erf."""
    if not -1 < y < 1:
        return math.copysign(math.inf, y) if abs(y) == 1 else math.nan
    a = 0.147
    ln = math.log1p(-y * y)
    t = 2 / (math.pi * a) + ln / 2
    x = math.copysign(math.sqrt(max(math.sqrt(t * t - ln / a) - t, 0.0)), y)
    for _ in range(3):
        error = math.erf(x) - y if abs(y) < 0.9 else math.copysign(1.0, y) * ((1 - abs(y)) - math.erfc(abs(x)))
        x -= error * math.sqrt(math.pi) / 2 * math.exp(x * x)
    return x


lgamma = _elementwise(_lgamma)
digamma = _elementwise(_digamma)
erfinv = _elementwise(_erfinv)


def sigmoid(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "c":
        return 1 / (1 + np.exp(-x))
    z = np.exp(-np.abs(x))
    one = np.ones((), x.dtype)
    return np.where(x >= 0, one / (one + z), z / (one + z)).astype(x.dtype)


def _checked(function: Callable[..., Any], name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind in "iu" and np.any(y == 0):
            raise RuntimeError(f"{name}: ZeroDivisionError: an integer was divided by zero")
        return function(x, y)
    return reference


floor_divide = _checked(np.floor_divide, "floor_divide")
fmod = _checked(np.fmod, "fmod")
remainder = _checked(np.remainder, "remainder")


def _trunc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "iu":
        return ((x - np.fmod(x, y)) // y).astype(x.dtype)
    return np.trunc(np.true_divide(x, y))


trunc_divide = _checked(_trunc, "trunc_divide")
