"""Special functions that a library computes on the host: scipy's, and those of numpy that have no kernel.

The gradients are in terms of other ops of the table (Abramowitz and Stegun, chapters 6 to 9 and 26).
"""
from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, need_float
from treadle.ir.ops.elementwise import elementwise_rule
from treadle.ir.types import TensorType


def library() -> Any:
    """scipy.special; ModuleNotFoundError naming the extra where it is not installed."""
    try:
        return importlib.import_module("scipy.special")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("this function needs scipy: pip install 'treadle[special]'") from error


def _host(name: str, function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """In float64, rounded once."""
    def reference(*args: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(function(library(), *[np.asarray(x, np.float64) for x in args])).astype(args[0].dtype)
    reference.__name__ = name
    return reference


_MEANINGS = {
    "i0": "The modified Bessel function of the first kind and order 0", "i1": "The modified Bessel function of the first kind and order 1",
    "i0e": "exp(-|x|) * i0(x)", "i1e": "exp(-|x|) * i1(x)", "erfcx": "exp(x * x) * erfc(x)",
    "ndtri": "The quantile of the standard normal distribution at x in [0, 1]",
    "log_ndtr": "The logarithm of the standard normal distribution function",
    "zeta": "The Hurwitz zeta function: the sum over k >= 0 of (k + q) ** -x",
    "igamma": "The regularised lower incomplete gamma function; no gradient in a",
    "igammac": "The regularised upper incomplete gamma function; no gradient in a",
    "bessel_j0": "The Bessel function of the first kind and order 0", "bessel_j1": "The Bessel function of the first kind and order 1",
    "bessel_y0": "The Bessel function of the second kind and order 0", "bessel_y1": "The Bessel function of the second kind and order 1",
    "modified_bessel_k0": "The modified Bessel function of the second kind and order 0",
    "modified_bessel_k1": "The modified Bessel function of the second kind and order 1",
    "scaled_modified_bessel_k0": "exp(x) * modified_bessel_k0(x)", "scaled_modified_bessel_k1": "exp(x) * modified_bessel_k1(x)",
    "airy_ai": "The Airy function Ai",
    "chebyshev_polynomial_t": "The Chebyshev polynomial of the first kind and degree n",
    "chebyshev_polynomial_u": "The Chebyshev polynomial of the second kind and degree n",
    "chebyshev_polynomial_v": "The Chebyshev polynomial of the third kind and degree n",
    "chebyshev_polynomial_w": "The Chebyshev polynomial of the fourth kind and degree n",
    "hermite_polynomial_h": "The physicist's Hermite polynomial of degree n",
    "hermite_polynomial_he": "The probabilist's Hermite polynomial of degree n",
    "laguerre_polynomial_l": "The Laguerre polynomial of degree n", "legendre_polynomial_p": "The Legendre polynomial of degree n",
}


def _meaning(name: str) -> str:
    """What a function computes; degrees are rounded towards 0, and the polynomials of negative ones are 0."""
    if name.startswith("shifted_"):
        return f"{name.removeprefix('shifted_')} at 2 * x - 1"
    return _MEANINGS[name]


def _special(name: str, operands: str, function: Callable[..., Any], vjp: Any = None, domain: tuple[float, float] = (0.3, 2.0)) -> None:
    # As in PyTorch, the first of two operands has no gradient: in the samples it is a number.
    shapes: tuple[Any, ...] = ((3, 4),) if len(operands.split()) == 1 else (2.5, (3, 4)) if vjp else ((3, 4), (3, 4))
    declare(name, Kind.EXTERN, operands, batch="elementwise",
            type_rule=elementwise_rule(name, "float", False, ()), compute="float", vjp=vjp, domain=domain,
            reference=_host(name, function), samples=[(shapes, ())], doc=f"{_meaning(name)}. Computed by scipy.special in float64.",
            differentiable=vjp is not None)


def _nonzero(b: Any, x: Any, value: Any, at_zero: float) -> Any:
    return b.where(b.eq(x, 0), at_zero, value)


_special("i0", "x", lambda s, x: s.i0(x), (lambda b, g, x: b.mul(g, b.i1(x)),))
_special("i1", "x", lambda s, x: s.i1(x), (lambda b, g, x, out: b.mul(g, _nonzero(b, x, b.sub(b.i0(x), b.div(out, x)), 0.5)),))
_special("i0e", "x", lambda s, x: s.i0e(x), (lambda b, g, x, out: b.mul(g, b.sub(b.i1e(x), b.mul(b.sign(x), out))),))
_special("i1e", "x", lambda s, x: s.i1e(x), (
    lambda b, g, x, out: b.mul(g, _nonzero(b, x, b.sub(b.i0e(x), b.mul(out, b.add(b.sign(x), b.reciprocal(x)))), 0.5)),))
_special("erfcx", "x", lambda s, x: s.erfcx(x), (
    lambda b, g, x, out: b.mul(g, b.sub(b.mul(b.mul(x, out), 2.0), 2 / math.sqrt(math.pi))),))
_special("ndtri", "x", lambda s, x: s.ndtri(x), (
    lambda b, g, out: b.mul(g, b.mul(b.exp(b.mul(b.mul(out, out), 0.5)), math.sqrt(2 * math.pi))),), (0.2, 0.8))
_special("log_ndtr", "x", lambda s, x: s.log_ndtr(x), (
    lambda b, g, x: b.div(b.mul(g, math.sqrt(2 / math.pi)), b.erfcx(b.mul(x, -math.sqrt(0.5)))),))
_special("zeta", "x q", lambda s, x, q: s.zeta(x, q), (
    None, lambda b, g, x, q: b.neg(b.mul(b.mul(g, x), b.zeta(b.add(x, 1.0), q)))), (1.5, 3.0))


def _igamma_density(b: Any, a: Any, x: Any) -> Any:
    return b.exp(b.sub(b.sub(b.mul(b.sub(a, 1.0), b.log(x)), x), b.lgamma(a)))


_special("igamma", "a x", lambda s, a, x: s.gammainc(a, x), (None, lambda b, g, a, x: b.mul(g, _igamma_density(b, a, x))))
_special("igammac", "a x", lambda s, a, x: s.gammaincc(a, x), (None, lambda b, g, a, x: b.neg(b.mul(g, _igamma_density(b, a, x)))))
_TABLE: dict[str, Callable[..., Any]] = {
    "bessel_j0": lambda s, x: s.j0(x), "bessel_j1": lambda s, x: s.j1(x), "bessel_y0": lambda s, x: s.y0(x),
    "bessel_y1": lambda s, x: s.y1(x), "modified_bessel_k0": lambda s, x: s.k0(x), "modified_bessel_k1": lambda s, x: s.k1(x),
    "scaled_modified_bessel_k0": lambda s, x: s.k0e(x), "scaled_modified_bessel_k1": lambda s, x: s.k1e(x),
    "airy_ai": lambda s, x: s.airy(x)[0],
}
for _name, _function in _TABLE.items():
    _special(_name, "x", _function)


# -- polynomials of a degree per element ---------------------------------------------------------------------------------------------
def _second_kind(s: Any, n: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(n < 0, 0.0, s.eval_chebyu(np.maximum(n, 0), x))


def _third_kind(sign: int) -> Callable[..., np.ndarray]:
    return lambda s, n, x: _second_kind(s, n, x) + sign * _second_kind(s, n - 1, x)


def _polynomial(name: str, function: Callable[..., Any]) -> None:
    def evaluate(s: Any, x: np.ndarray, n: np.ndarray) -> np.ndarray:
        degree = np.trunc(n).astype(np.int64)
        return np.where(degree < 0, 0.0, function(s, np.maximum(degree, 0), x))
    _special(name, "x n", evaluate)


_POLYNOMIALS: dict[str, Callable[..., Any]] = {
    "chebyshev_polynomial_t": lambda s, n, x: s.eval_chebyt(n, x), "chebyshev_polynomial_u": _second_kind,
    "chebyshev_polynomial_v": _third_kind(-1), "chebyshev_polynomial_w": _third_kind(1),
    "hermite_polynomial_h": lambda s, n, x: s.eval_hermite(n, x), "hermite_polynomial_he": lambda s, n, x: s.eval_hermitenorm(n, x),
    "laguerre_polynomial_l": lambda s, n, x: s.eval_laguerre(n, x), "legendre_polynomial_p": lambda s, n, x: s.eval_legendre(n, x),
    "shifted_chebyshev_polynomial_t": lambda s, n, x: s.eval_chebyt(n, 2 * x - 1),
    "shifted_chebyshev_polynomial_u": lambda s, n, x: _second_kind(s, n, 2 * x - 1),
    "shifted_chebyshev_polynomial_v": lambda s, n, x: _third_kind(-1)(s, n, 2 * x - 1),
    "shifted_chebyshev_polynomial_w": lambda s, n, x: _third_kind(1)(s, n, 2 * x - 1),
}
for _name, _function in _POLYNOMIALS.items():
    _polynomial(_name, _function)


def _polygamma_type(types: Types, n: int) -> TensorType:
    if n < 0:
        raise RuntimeError(f"polygamma(n, x) does not support negative n, got n={n}")
    result: TensorType = elementwise_rule("polygamma", "float", False, ())(types)
    return result


declare("polygamma", Kind.EXTERN, "x", "n", batch="elementwise", type_rule=_polygamma_type, compute="float",
        reference=lambda x, n: np.asarray(library().polygamma(n, np.asarray(x, np.float64))).astype(x.dtype),
        vjp=(lambda b, g, x, n: b.mul(g, b.polygamma(x, n + 1)),), domain=(0.5, 3.0), samples=[(((3, 4),), (1,)), (((5,), ), (2,))],
        doc="The n-th derivative of digamma.")


# -- numpy's -------------------------------------------------------------------------------------------------------------------------
def _integer_rule(name: str) -> Callable[..., TensorType]:
    plain = elementwise_rule(name, "promote", False, (dtypes.BOOL, FLOAT))

    def type_rule(types: Types) -> TensorType:
        result: TensorType = plain(types)
        return result
    return type_rule


_INTS = np.array([[4, 6, -9, 0], [12, 8, 3, 7]])
for _name, _function in {"gcd": np.gcd, "lcm": np.lcm}.items():
    declare(_name, Kind.EXTERN, "x y", batch="elementwise",
            type_rule=_integer_rule(_name), compute="promote", reference=_function, differentiable=False,
            samples=[((_INTS, _INTS[::-1].copy()), ())],
            doc=f"The {'greatest common divisor' if _name == 'gcd' else 'least common multiple'} of integers, never negative.")
declare("nextafter", Kind.EXTERN, "x y", batch="elementwise",
        type_rule=elementwise_rule("nextafter", "promote", False, (dtypes.BOOL, dtypes.INT)),
        compute="promote", reference=lambda x, y: np.nextafter(x, y).astype(x.dtype),
        vjp=(lambda b, g, x, y: b.where(b.ne(x, y), g, 0.0), lambda b, g: b.mul(g, 0.0)),
        samples=[(((3, 4), (3, 4)), ())], doc="The next representable number after x in the direction of y.")


def _frexp_type(types: Types) -> tuple[TensorType, TensorType]:
    need_float("frexp", types[0])
    return types[0], types[0].with_(dtype=dtypes.int32)


def _np_frexp(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    return np.asarray(mantissa).astype(x.dtype), np.asarray(exponent, np.int32)


declare("frexp", Kind.EXTERN, "x", batch="elementwise", type_rule=_frexp_type, reference=_np_frexp, samples=[(((3, 4),), ())],
        vjp=(lambda b, g, out: b.div(g[0], b.exp2(b.cast(out[1], g[0].type.dtype))),),
        doc="x = mantissa * 2^exponent, 0.5 <= |mantissa| < 1.")
