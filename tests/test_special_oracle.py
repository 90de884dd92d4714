"""Special functions, windows, masked reductions and renamed functions against PyTorch; `m` is either library."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle

torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
pytestmark = pytest.mark.oracle

ENV = {"X": np.array([[0.3, 1.7, 2.5], [0.9, 4.2, 0.05]]), "S": np.array([[-2.0, 0.0, 1.5], [0.4, -0.3, 3.0]]),
       "P": np.array([0.1, 0.5, 0.97]), "K": np.array([[True, False, True], [False, True, True]]), "N": np.array([0.0, 1.0, 3.0]),
       "I": np.array([12, -18, 7]),
       "J": np.array([8, 27, 0])}
# Differentiable by the variable after the bar, if any.
CASES = """
m.special.entr(X)|X ;; m.special.ndtr(S)|S ;; m.special.ndtri(P)|P ;; m.special.log_ndtr(S)|S ;; m.special.erfcx(S)|S ;; m.special.i0(S)|S
m.special.i0e(S)|S ;; m.special.i1(S)|S ;; m.special.i1e(S)|S ;; m.special.zeta(X+1.1,X) ;; m.special.zeta(2.0,X)
m.special.polygamma(1,X)|X
m.special.polygamma(0,X)|X ;; m.special.polygamma(3,X)|X ;; m.special.gammainc(X,X+1) ;; m.special.gammaincc(X,X+1)
m.special.xlog1py(X,X)|X
m.special.xlog1py(S,X) ;; m.special.multigammaln(X+2,3)|X ;; m.special.spherical_bessel_j0(S) ;; m.special.bessel_j0(S)
m.special.bessel_j1(S)
m.special.bessel_y0(X) ;; m.special.bessel_y1(X) ;; m.special.modified_bessel_i0(S) ;; m.special.modified_bessel_i1(S)
m.special.airy_ai(S)
m.special.modified_bessel_k0(X) ;; m.special.modified_bessel_k1(X) ;; m.special.scaled_modified_bessel_k0(X) ;; m.special.psi(X)|X
m.special.scaled_modified_bessel_k1(X) ;; m.special.chebyshev_polynomial_t(P,N) ;; m.special.chebyshev_polynomial_u(P,N)
m.special.chebyshev_polynomial_v(P,N) ;; m.special.chebyshev_polynomial_w(P,N) ;; m.special.hermite_polynomial_h(S,N)
m.special.hermite_polynomial_he(S,N) ;; m.special.laguerre_polynomial_l(S,N) ;; m.special.legendre_polynomial_p(P,N)
m.special.shifted_chebyshev_polynomial_t(P,N) ;; m.special.shifted_chebyshev_polynomial_u(P,N) ;; m.special.expit(S)|S
m.special.sinc(S)|S
m.special.shifted_chebyshev_polynomial_v(P,N) ;; m.special.shifted_chebyshev_polynomial_w(P,N) ;; m.special.gammaln(X)|X
m.special.exp2(S)|S
m.signal.windows.bartlett(7) ;; m.signal.windows.blackman(7,sym=False) ;; m.signal.windows.cosine(6) ;; m.signal.windows.cosine(6,sym=False)
m.signal.windows.exponential(7,tau=2.0) ;; m.signal.windows.exponential(7,center=2.0,sym=False) ;; m.signal.windows.gaussian(8,std=0.7)
m.signal.windows.general_cosine(6,a=[0.5,0.3,0.2]) ;; m.signal.windows.general_hamming(6,alpha=0.6) ;; m.signal.windows.hamming(5)
m.signal.windows.hann(1) ;; m.signal.windows.hann(9,sym=False) ;; m.signal.windows.kaiser(8,beta=3.0) ;; m.signal.windows.nuttall(9)
m.hann_window(8) ;; m.hann_window(8,periodic=False) ;; m.hamming_window(7) ;; m.hamming_window(7,True,0.5,0.5) ;; m.blackman_window(6)
m.bartlett_window(6) ;; m.kaiser_window(7,True,4.0) ;; m.masked.sum(X,1,mask=K)|X ;; m.masked.sum(X,mask=K) ;; m.masked.mean(X,0,mask=K)|X
m.masked.prod(X,1,mask=K)|X ;; m.masked.amax(X,1,mask=K)|X ;; m.masked.amin(X,0,keepdim=True,mask=K)
m.masked.var(X,1,mask=K)|X ;; m.masked.std(X,1,unbiased=False,mask=K) ;; m.masked.norm(X,2,1,mask=K)|X
m.masked.median(X,1,mask=K) ;; m.masked.logsumexp(X,1,mask=K)|X ;; m.masked.cumsum(X,1,mask=K) ;; m.masked.cumprod(X,1,mask=K)
m.masked.softmax(X,1,mask=K)|X ;; m.masked.log_softmax(X,1) ;; m.masked.softmin(X,1,mask=K) ;; m.masked.normalize(X,2.0,1,mask=K)|X
m.masked.logaddexp(X,S) ;; m.gcd(I,J) ;; m.lcm(I,J) ;; m.nextafter(S,X) ;; m.frexp(S)[0]|S ;; m.frexp(S)[1] ;; m.renorm(X,2,0,1.5)|X
m.i0(S) ;; m.igamma(X,X) ;; m.igammac(X,X) ;; m.mvlgamma(X+1,2) ;; m.polygamma(2,X) ;; m.transpose_copy(X,0,1) ;; m.split_copy(X,1)[1]
m.unbind_copy(X)[0] ;; m.alias_copy(X) ;; m.unsafe_chunk(X,2)[0] ;; m.unsafe_split(X,1)[0] ;; m.nonzero_static(S,size=7)
"""
EXPRESSIONS = [e.strip() for line in CASES.strip().splitlines() for e in line.split(";;")]


@pytest.mark.parametrize("case", EXPRESSIONS)
def test_expressions(case: str) -> None:
    text, _, by = case.partition("|")
    found: list[list[Any]] = []
    for lib in (treadle, torch):
        env = {k: lib.from_numpy(v.copy()) for k, v in ENV.items()}
        if by:
            env[by].requires_grad_()
        y = eval(text, {"m": lib, **env})
        out = [y.detach().numpy()]
        if by:
            (y * y).sum().backward()
            out.append(env[by].grad.numpy())
        found.append(out)
    for a, e in zip(*found, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-9 if a.dtype == np.float64 else 2e-7)


ERRORS = ["m.special.polygamma(-1, X)", "m.signal.windows.hann(-1)", "m.signal.windows.gaussian(5, std=0.0)", "m.gcd(X, X)",
          "m.special.multigammaln(X, 0)"]


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str) -> None:
    with pytest.raises(Exception) as want:
        eval(text, {"m": torch, "X": torch.ones(3)})
    with pytest.raises(type(want.value)):
        eval(text, {"m": treadle, "X": treadle.ones(3)})
