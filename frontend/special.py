"""`treadle.special`: PyTorch's special functions. Scipy computes those without a kernel of ours (`pip install 'treadle[special]'`)."""
from __future__ import annotations

import math
from collections.abc import Callable
from operator import index
from typing import Any

import treadle
from treadle import ops
from treadle.arguments import guard
from treadle.functions import checked, tensor_argument
from treadle.ir.ops.common import need_real
from treadle.ir.types import result_dtype
from treadle.results import cast, into
from treadle.tensor import Tensor

__all__ = [
    "airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "chebyshev_polynomial_t", "chebyshev_polynomial_u",
    "chebyshev_polynomial_v", "chebyshev_polynomial_w", "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1",
    "gammainc", "gammaincc", "gammaln", "hermite_polynomial_h", "hermite_polynomial_he", "i0", "i0e", "i1", "i1e", "laguerre_polynomial_l",
    "legendre_polynomial_p", "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp", "modified_bessel_i0", "modified_bessel_i1",
    "modified_bessel_k0", "modified_bessel_k1", "multigammaln", "ndtr", "ndtri", "polygamma", "psi", "round", "scaled_modified_bessel_k0",
    "scaled_modified_bessel_k1", "shifted_chebyshev_polynomial_t", "shifted_chebyshev_polynomial_u", "shifted_chebyshev_polynomial_v",
    "shifted_chebyshev_polynomial_w", "sinc", "softmax", "spherical_bessel_j0", "xlog1py", "xlogy", "zeta",
]

digamma = psi = treadle.digamma
erf, erfc, erfinv, exp2, expm1, log1p = treadle.erf, treadle.erfc, treadle.erfinv, treadle.exp2, treadle.expm1, treadle.log1p
expit, gammaln, logit, logsumexp = treadle.sigmoid, treadle.lgamma, treadle.logit, treadle.logsumexp
round, sinc, softmax, log_softmax, xlogy = treadle.round, treadle.sinc, treadle.softmax, treadle.log_softmax, treadle.xlogy


def _floats(name: str, *tensors: Tensor) -> list[Tensor]:
    """The tensors in the floating dtype to which they promote; NotImplementedError for complex ones."""
    types = tuple([tensor_argument(name, t)._data.type for t in tensors])
    need_real(name, *types)
    dtype = result_dtype(types)
    return [cast(t, dtype if dtype.is_floating_point else treadle.get_default_dtype()) for t in tensors]


def _returned(result: Tensor, out: Tensor | None) -> Tensor:
    returned: Tensor = into(out, result, "special function")
    return returned


def _unary(name: str, doc: str) -> Callable[..., Tensor]:
    op = getattr(ops, name)

    def function(input: Tensor, *, out: Tensor | None = None) -> Tensor:
        return _returned(op(*_floats(name, input)), out)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _binary(name: str, doc: str, numbers: bool = True) -> Callable[..., Tensor]:
    """`numbers`: whether one of the operands may be a number."""
    op = getattr(ops, name)

    def function(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
        if not isinstance(input, Tensor) and (not numbers or not isinstance(other, Tensor)):
            tensor_argument(name, input)
        if not numbers:
            tensor_argument(name, other, "other", 2)
        input, other = checked(name, input, "input", 1), checked(name, other)
        like = input if isinstance(input, Tensor) else other
        x, y = (v if isinstance(v, Tensor) else treadle.tensor(v, dtype=like.dtype, device=like.device) for v in (input, other))
        x, y = treadle.broadcast_tensors(*_floats(name, x, y))
        return _returned(op(x, y), out)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


i0, i0e = _unary("i0", "Modified Bessel function of order 0."), _unary("i0e", "exp(-|x|) i0(x).")
i1, i1e = _unary("i1", "Modified Bessel function of order 1."), _unary("i1e", "exp(-|x|) i1(x).")
erfcx, ndtri = _unary("erfcx", "exp(x^2) erfc(x)."), _unary("ndtri", "The quantile of the normal distribution.")
log_ndtr = _unary("log_ndtr", "The logarithm of the normal distribution function.")
bessel_j0, bessel_j1 = _unary("bessel_j0", "Bessel function J0."), _unary("bessel_j1", "Bessel function J1.")
bessel_y0, bessel_y1 = _unary("bessel_y0", "Bessel function Y0."), _unary("bessel_y1", "Bessel function Y1.")
modified_bessel_i0, modified_bessel_i1 = i0, i1
modified_bessel_k0 = _unary("modified_bessel_k0", "Bessel function K0.")
modified_bessel_k1 = _unary("modified_bessel_k1", "Bessel function K1.")
scaled_modified_bessel_k0 = _unary("scaled_modified_bessel_k0", "exp(x) K0(x).")
scaled_modified_bessel_k1 = _unary("scaled_modified_bessel_k1", "exp(x) K1(x).")
airy_ai = _unary("airy_ai", "Airy function Ai.")
zeta = _binary("zeta", "Hurwitz zeta function.")
gammainc, gammaincc = (_binary(*names, numbers=False) for names in (
    ("igamma", "Regularised lower incomplete gamma function."), ("igammac", "1 - gammainc.")))
chebyshev_polynomial_t, chebyshev_polynomial_u = _binary("chebyshev_polynomial_t", "T_n(x)."), _binary("chebyshev_polynomial_u", "U_n(x).")
chebyshev_polynomial_v, chebyshev_polynomial_w = _binary("chebyshev_polynomial_v", "V_n(x)."), _binary("chebyshev_polynomial_w", "W_n(x).")
hermite_polynomial_h, hermite_polynomial_he = _binary("hermite_polynomial_h", "H_n(x)."), _binary("hermite_polynomial_he", "He_n(x).")
laguerre_polynomial_l, legendre_polynomial_p = _binary("laguerre_polynomial_l", "L_n(x)."), _binary("legendre_polynomial_p", "P_n(x).")
shifted_chebyshev_polynomial_t = _binary("shifted_chebyshev_polynomial_t", "T_n(2 x - 1).")
shifted_chebyshev_polynomial_u = _binary("shifted_chebyshev_polynomial_u", "U_n(2 x - 1).")
shifted_chebyshev_polynomial_v = _binary("shifted_chebyshev_polynomial_v", "V_n(2 x - 1).")
shifted_chebyshev_polynomial_w = _binary("shifted_chebyshev_polynomial_w", "W_n(2 x - 1).")


def polygamma(n: int, input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The n-th derivative of digamma."""
    n = index(n)
    return _returned(treadle.digamma(input) if n == 0 else ops.polygamma(*_floats("polygamma", input), n), out)


def entr(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """-x log(x); 0 at 0, -inf for negative numbers."""
    input = _floats("entr", input)[0]
    inner = treadle.where(input > 0, input, 1.0)
    rest = treadle.where(input < 0, -math.inf, treadle.where(input == 0, 0.0, treadle.full_like(input, math.nan)))
    return _returned(treadle.where(input > 0, -inner * inner.log(), rest), out)


def ndtr(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The normal distribution function."""
    return _returned(0.5 * treadle.erfc(input * -math.sqrt(0.5)), out)


def xlog1py(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
    """x * log(1 + y), and 0 where x is 0 unless y is NaN."""
    one = treadle.log1p(other) if isinstance(other, Tensor) else math.log1p(other)
    x = input if isinstance(input, Tensor) else treadle.full_like(other, input)
    need_real("xlog1py", *[t._data.type for t in (x, one) if isinstance(t, Tensor)])
    y = treadle.where((x == 0) & ~treadle.isnan(treadle.as_tensor(other)), 0.0, x * one)
    return _returned(y, out)


def multigammaln(input: Tensor, p: int, *, out: Tensor | None = None) -> Tensor:
    """The logarithm of the multivariate gamma function of dimension p."""
    if tensor_argument("multigammaln", input).dtype is treadle.bool:
        raise RuntimeError("multigammaln: The input tensor may not be a boolean tensor.")
    input = _floats("multigammaln", input)[0]
    if p < 1:
        raise RuntimeError("mvlgamma: p has to be greater than or equal to 1")
    total = input * 0.0 + p * (p - 1) / 4 * math.log(math.pi)
    for j in range(p):
        total = total + treadle.lgamma(input - j / 2)
    return _returned(total, out)


def spherical_bessel_j0(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """sin(x) / x, and 1 at 0."""
    input = _floats("spherical_bessel_j0", input)[0]
    near = input.abs() < 0.5
    small = input * input
    series = 1 + small * (-1 / 6 + small * (1 / 120 + small * (-1 / 5040 + small * (1 / 362880 - small / 39916800))))
    return _returned(treadle.where(near, series, treadle.sin(input) / treadle.where(near, 1.0, input)), out)


guard(globals(), __all__)
