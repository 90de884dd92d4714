"""Elementwise functions: the standard's names for ops of the table."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treadle
from treadle.array_api.arguments import array, fitting, promoted
from treadle.ir.dtypes import BOOL, FLOAT, INT
from treadle.tensor import Tensor

_UNARY = ("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp", "expm1", "imag", "isfinite", "isinf",
          "isnan",
          "log", "log10", "log1p", "log2", "logical_not", "positive", "real", "reciprocal", "signbit", "sin", "sinh", "sqrt", "square",
          "tan", "tanh")
_BINARY = ("add", "atan2", "bitwise_and", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "copysign", "divide",
           "floor_divide", "greater", "greater_equal", "hypot", "less", "less_equal", "logaddexp", "logical_and", "logical_or",
           "logical_xor", "maximum", "minimum", "multiply", "nextafter", "not_equal", "pow", "remainder", "subtract")
_ROUNDING = ("ceil", "floor", "round", "trunc")
# The standard's name, and Treadle's where it is another.
_OTHER = {"bitwise_invert": "bitwise_not", "negative": "neg"}

__all__ = sorted([*_UNARY, *_BINARY, *_ROUNDING, *_OTHER, "clip", "conj", "equal", "sign"])


def _unary(name: str, function: Callable[..., Any]) -> Callable[..., Tensor]:
    def elementwise(x: Tensor, /) -> Tensor:
        result: Tensor = function(array(name, x))
        return result
    return elementwise


def _rounding(name: str, function: Callable[..., Any]) -> Callable[..., Tensor]:
    def elementwise(x: Tensor, /) -> Tensor:
        if array(name, x).dtype.is_complex and name == "round":
            return treadle.complex(function(x.real), function(x.imag))
        result: Tensor = function(x)
        return result
    return elementwise


def _binary(name: str, function: Callable[..., Any]) -> Callable[..., Tensor]:
    def elementwise(x1: Any, x2: Any, /) -> Tensor:
        a, b = promoted(name, x1, x2)
        if not isinstance(a, Tensor):
            a = treadle.full((), a, dtype=b.dtype, device=b.device)
        result: Tensor = function(a, b)
        return result
    return elementwise


def _declare() -> None:
    for names, make in ((_UNARY, _unary), (_BINARY, _binary), (_ROUNDING, _rounding), (_OTHER, _unary)):
        for name in names:
            original = getattr(treadle, _OTHER.get(name, name))
            function = make(name, original)
            function.__name__ = function.__qualname__ = name
            function.__doc__ = original.__doc__
            function.__module__ = "treadle.array_api"
            globals()[name] = function


_declare()


def sign(x: Tensor, /) -> Tensor:
    """-1, 0 or 1, and NaN for NaN; z / |z| of complex numbers."""
    if array("sign", x).dtype.category == FLOAT:
        return treadle.where(treadle.isnan(x), x, treadle.sign(x))
    return treadle.sgn(x)


def conj(x: Tensor, /) -> Tensor:
    """The complex conjugate."""
    return treadle.conj(array("conj", x)).resolve_conj()


def equal(x1: Any, x2: Any, /) -> Tensor:
    """Where x1 == x2, as bool."""
    a, b = promoted("equal", x1, x2)
    return treadle.eq(a, b) if isinstance(a, Tensor) else treadle.eq(b, a)


def _bound(x: Tensor, bound: Any) -> Any:
    if bound is None or isinstance(bound, Tensor):
        return bound if bound is None else bound.to(x.dtype)
    if x.dtype.category == INT and isinstance(bound, float):
        fitting("clip", bound, x.dtype)
    return bound


def clip(x: Tensor, /, min: Any = None, max: Any = None) -> Tensor:
    """Elements moved into [min, max], numbers or arrays; the dtype of x is kept."""
    if array("clip", x).dtype.category == BOOL:
        raise TypeError("clip: expected a numeric dtype, got bool")
    shape = treadle.broadcast_shapes(x.shape, *[b.shape for b in (min, max) if isinstance(b, Tensor)])
    result = treadle.broadcast_to(x, shape)
    low, high = _bound(x, min), _bound(x, max)
    if low is None and high is None:
        return result.clone()
    kept: Tensor = treadle.clamp(result, low, high)
    return kept.to(x.dtype)
