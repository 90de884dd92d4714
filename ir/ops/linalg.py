"""Matrix decompositions and solvers: LAPACK through numpy (Kind.EXTERN), with gradients in terms of the table's ops.

Matrices are the last two axes, in single or double precision, real or complex. Gradients: M. Giles, "An extended collection of matrix
derivative results for forward and reverse mode algorithmic differentiation" (2008); for the SVD, J. Townsend (2016).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.matmul import adjoint, transposed
from treadle.ir.ops.view import sum_to
from treadle.ir.types import TensorType, broadcast_shapes

Types = tuple[TensorType, ...]


class LinAlgError(RuntimeError):
    """A matrix that a factorisation or solver cannot handle (singular, not positive definite, no convergence)."""


def need_matrix(name: str, t: TensorType, square: bool = True) -> None:
    """RuntimeError unless `t` is a batch of (square) matrices in single or double precision.

    For other dtypes NotImplementedError, which is one: some functions of PyTorch raise the one, some the other.
    """
    if t.ndim < 2:
        raise RuntimeError(f"linalg.{name}: The input tensor A must have at least 2 dimensions, but got {t}")
    if square and t.shape[-1] != t.shape[-2]:
        raise RuntimeError(f"linalg.{name}: A must be batches of square matrices, but they are {t.shape[-2]} by {t.shape[-1]} matrices")
    if t.dtype not in (dtypes.float32, dtypes.float64, *dtypes.COMPLEXES):
        raise NotImplementedError(f"linalg.{name}: Expected a floating point tensor in float32 or float64 as input. Got {t.dtype.name}")


def _guarded(name: str, function: Callable[..., Any], why: str) -> Callable[..., Any]:
    """numpy's LinAlgError as ours, which is a RuntimeError as PyTorch's is."""
    def reference(*args: Any) -> Any:
        try:
            return function(*args)
        except np.linalg.LinAlgError as error:
            raise LinAlgError(f"linalg.{name}: {why} ({error})") from error
    return reference


def _tril(b: Any, x: Any, strict: bool = False) -> Any:
    return b.tril(x, -1 if strict else 0)


def _halved_diagonal(b: Any, x: Any) -> Any:
    """The lower triangle, its diagonal halved."""
    return b.mul(b.add(b.tril(x, 0), b.tril(x, -1)), 0.5)


def _symmetric(b: Any, x: Any) -> Any:
    """The nearest matrix that equals its adjoint."""
    return b.mul(b.add(x, adjoint(b, x)), 0.5)


def _square_type(name: str) -> Callable[..., TensorType]:
    def type_rule(types: Types, *attrs: Any) -> TensorType:
        need_matrix(name, types[0])
        return types[0]
    return type_rule


# -- inverse, solve, determinant ---------------------------------------------------------------------------------------------------
def _inverse_vjp(b: Any, g: Any, out: Any) -> Any:
    t = transposed(b, out)
    return b.neg(b.matmul(b.matmul(t, g), t))


_WELL = np.array([[3.0, 0.5, -0.25], [0.25, 2.0, 0.5], [-0.5, 0.25, 4.0]], np.float32)
_PAIR = np.stack([_WELL, _WELL.T + np.float32(0.5) * np.eye(3, dtype=np.float32)])
_POSITIVE = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, -0.5], [0.5, -0.5, 2.0]], np.float32)

declare("inverse", Kind.EXTERN, "x", batch="leading", field=Field.ANALYTIC, type_rule=_square_type("inv"), reference=_guarded(
    "inv", np.linalg.inv, "The diagonal element is zero, the inversion could not be completed because the input matrix is singular."),
    vjp=(_inverse_vjp,), samples=[((_WELL,), ()), ((_PAIR,), ()), ((np.zeros((0, 0), np.float32),), ())],
    doc="The inverse of square matrices; LinAlgError when one is singular.")


def _solve_type(types: Types) -> TensorType:
    a, rhs = types
    need_matrix("solve", a)
    if rhs.ndim < 2 or a.shape[-1] != rhs.shape[-2]:
        raise RuntimeError(f"linalg.solve: Incompatible shapes of A and B for the equation AX = B ({list(a.shape)} and {list(rhs.shape)})")
    if a.dtype is not rhs.dtype:
        raise RuntimeError(f"linalg.solve: Expected A and B to have the same dtype, but found A of type {a.dtype.name} and B of type "
                           f"{rhs.dtype.name} instead")
    return rhs.with_(broadcast_shapes("linalg.solve", a.shape[:-2], rhs.shape[:-2]) + rhs.shape[-2:])


def _np_solve(a: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    batch = np.broadcast_shapes(a.shape[:-2], rhs.shape[:-2])
    return np.linalg.solve(np.broadcast_to(a, batch + a.shape[-2:]), np.broadcast_to(rhs, batch + rhs.shape[-2:]))


def _solve_da(b: Any, g: Any, a: Any, out: Any, a_type: TensorType) -> Any:
    gb = b.solve(transposed(b, a), g)
    return sum_to(b, b.neg(b.matmul(gb, transposed(b, out))), a_type.shape)


declare("solve", Kind.EXTERN, "a rhs", batch="matrices", field=Field.ANALYTIC, type_rule=_solve_type,
        reference=_guarded("solve", _np_solve, "The solver failed because the input matrix is singular."),
        vjp=(_solve_da, lambda b, g, a, rhs_type: sum_to(b, b.solve(transposed(b, a), g), rhs_type.shape)),
        samples=[((_WELL, (3, 2)), ()), ((_PAIR, (3, 1)), ()), ((_WELL, (2, 3, 2)), ())],
        doc="X with a @ X = rhs, leading axes broadcast; LinAlgError when a matrix is singular.")


def _np_triangular(a: np.ndarray, rhs: np.ndarray, upper: bool, unitriangular: bool) -> np.ndarray:
    part = np.triu(a) if upper else np.tril(a)
    if unitriangular:
        n = a.shape[-1]
        part = np.where(np.eye(n, dtype=bool), np.ones((), a.dtype), part)
    elif not np.all(np.diagonal(part, axis1=-2, axis2=-1)):
        return _np_substitute(part, rhs, upper)
    return _np_solve(part, rhs)


def _np_substitute(a: np.ndarray, rhs: np.ndarray, upper: bool) -> np.ndarray:
    """Row by row: a zero on the diagonal gives infinities and NaN, as LAPACK's own routine does, which does not look for it."""
    batch, n = np.broadcast_shapes(a.shape[:-2], rhs.shape[:-2]), a.shape[-1]
    x = np.array(np.broadcast_to(rhs, batch + rhs.shape[-2:]))
    with np.errstate(all="ignore"):
        for i in range(n)[::-1 if upper else 1]:
            x[..., i, :] /= a[..., i, i, None]
            others = slice(0, i) if upper else slice(i + 1, n)
            x[..., others, :] -= a[..., others, i, None] * x[..., i, None, :]
    return x


def _triangular_da(b: Any, g: Any, a: Any, out: Any, a_type: TensorType, upper: bool, unitriangular: bool) -> Any:
    gb = b.solve_triangular(transposed(b, a), g, not upper, unitriangular)
    full = sum_to(b, b.neg(b.matmul(gb, transposed(b, out))), a_type.shape)
    offset = int(unitriangular)
    return b.triu(full, offset) if upper else b.tril(full, -offset)


declare("solve_triangular", Kind.EXTERN, "a rhs", "upper unitriangular", batch="matrices", field=Field.ANALYTIC,
        type_rule=lambda types, *attrs: _solve_type(types),
        reference=_guarded("solve_triangular", _np_triangular, "The solver failed because the input matrix is singular."),
        vjp=(_triangular_da, lambda b, g, a, rhs_type, upper, unitriangular: sum_to(
            b, b.solve_triangular(transposed(b, a), g, not upper, unitriangular), rhs_type.shape)),
        samples=[((_WELL, (3, 2)), (True, False)), ((_PAIR, (3, 1)), (False, True))],
        doc="X with tri(a) @ X = rhs, where tri takes the upper or lower triangle, with ones on its diagonal if `unitriangular`; "
            "infinities and NaN where a zero lies on it.")


def _det_type(types: Types) -> TensorType:
    need_matrix("det", types[0])
    return types[0].with_(types[0].shape[:-2])


def _unsqueezed(b: Any, x: Any) -> Any:
    return b.reshape(x, (*x.type.shape, 1, 1))


def _np_adjugate(x: np.ndarray) -> np.ndarray:
    """The transposed cofactors, also of singular matrices: U adj(S) Vh times the determinants of U and Vh."""
    if not x.shape[-1]:
        return x
    u, s, vh = np.linalg.svd(x)
    rest = np.stack([np.prod(np.delete(s, i, -1), -1) for i in range(s.shape[-1])], -1)
    sign = np.linalg.det(u) * np.linalg.det(vh)
    return (sign[..., None, None] * np.swapaxes(vh.conj(), -1, -2) * rest[..., None, :] @ np.swapaxes(u.conj(), -1, -2)).astype(x.dtype)


declare("adjugate", Kind.EXTERN, "x", batch="leading", field=Field.ANALYTIC,
        type_rule=_square_type("adjugate"), reference=_np_adjugate, samples=[((_WELL,), ()), ((_PAIR,), ())],
        differentiable=False, doc="The transposed matrix of cofactors: the gradient of the determinant, transposed.")
declare("det", Kind.EXTERN, "x", batch="leading", field=Field.ANALYTIC, type_rule=_det_type, reference=np.linalg.det, vjp=(
    lambda b, g, x: b.mul(_unsqueezed(b, g), transposed(b, b.adjugate(x))),), samples=[((_WELL,), ()), ((_PAIR,), ())],
    doc="The determinant of square matrices.")


def _slogdet_type(types: Types) -> tuple[TensorType, TensorType]:
    need_matrix("slogdet", types[0])
    sign = types[0].with_(types[0].shape[:-2])
    return sign, sign.with_(dtype=dtypes.to_real(sign.dtype))


def _slogdet_vjp(b: Any, g: Any, x: Any, out: Any) -> Any:
    """d(log |det| + i arg det) = tr(x^-1 dx), and d sign = i sign d arg."""
    gain = g[1]
    if x.type.dtype.is_complex:
        gain = b.complex(gain, b.neg(b.imag(b.mul(b.conj(g[0]), out[0]))))
    return b.mul(_unsqueezed(b, gain), adjoint(b, b.inverse(x)))


declare("slogdet", Kind.EXTERN, "x", batch="leading", field=Field.COMPLEX,
        type_rule=_slogdet_type, reference=lambda x: tuple(np.linalg.slogdet(x)), vjp=(_slogdet_vjp,),
        samples=[((_WELL,), ()), ((_PAIR,), ())], doc="(sign, log of the absolute value) of the determinant.")


# -- decompositions ----------------------------------------------------------------------------------------------------------------
def _np_cholesky(x: np.ndarray, upper: bool) -> np.ndarray:
    found = np.linalg.cholesky(np.swapaxes(x.conj(), -1, -2) if upper else x)
    return np.swapaxes(found.conj(), -1, -2) if upper else found


def _cholesky_vjp(b: Any, g: Any, out: Any, upper: bool) -> Any:
    low, g = (adjoint(b, out), adjoint(b, g)) if upper else (out, g)
    up = adjoint(b, low)
    product = b.matmul(up, g)
    inner = b.mul(b.add(b.tril(product, 0), adjoint(b, b.tril(product, -1))), 0.5)
    half = b.solve_triangular(up, inner, True, False)
    return adjoint(b, b.solve_triangular(up, adjoint(b, half), True, False))


declare("cholesky", Kind.EXTERN, "x", "upper", batch="leading", field=Field.COMPLEX, type_rule=_square_type("cholesky"), reference=_guarded(
    "cholesky", _np_cholesky, "The factorization could not be completed because the input is not positive-definite"),
    vjp=(_cholesky_vjp,), samples=[((_POSITIVE,), (False,)), ((np.stack([_POSITIVE, _POSITIVE * 2]),), (True,))],
    doc="L with L @ L.T = x (or its transpose) for symmetric positive-definite matrices; LinAlgError for others.")


def _eigh_type(types: Types, upper: bool) -> tuple[TensorType, TensorType]:
    need_matrix("eigh", types[0])
    return types[0].with_(types[0].shape[:-1], dtypes.to_real(types[0].dtype)), types[0]


def _np_eigh(x: np.ndarray, upper: bool) -> tuple[np.ndarray, np.ndarray]:
    w, v = np.linalg.eigh(x, "U" if upper else "L")
    return w, v


def _gaps(b: Any, w: Any) -> Any:
    """1 / (w_j - w_i), zero on the diagonal."""
    shape = w.type.shape
    d = b.sub(b.reshape(w, (*shape[:-1], 1, shape[-1])), b.reshape(w, (*shape, 1)))
    return b.where(b.eq(d, 0.0), 0.0, b.div(1.0, b.where(b.eq(d, 0.0), 1.0, d)))


def _scaled_columns(b: Any, x: Any, w: Any) -> Any:
    return b.mul(x, b.reshape(w, (*w.type.shape[:-1], 1, w.type.shape[-1])))


def _diagonal_matrix(b: Any, w: Any) -> Any:
    """diag(w): the lower triangle of a matrix of equal rows, without what lies below the diagonal."""
    n = w.type.shape[-1]
    rows = b.expand(b.reshape(w, (*w.type.shape[:-1], 1, n)), (*w.type.shape, n))
    return b.triu(b.tril(rows, 0), 0)


def _eigh_vjp(b: Any, g: Any, out: Any) -> Any:
    w, v = out
    gw, gv = g
    vt = adjoint(b, v)
    inner = b.add(_diagonal_matrix(b, gw), b.mul(_gaps(b, w), b.matmul(vt, gv)))
    return _symmetric(b, b.matmul(b.matmul(v, inner), vt))


declare("eigh", Kind.EXTERN, "x", "upper", batch="leading", field=Field.COMPLEX, type_rule=_eigh_type,
        reference=_guarded("eigh", _np_eigh, "The algorithm failed to converge"), vjp=(_eigh_vjp,),
        samples=[((_POSITIVE,), (False,)), ((np.stack([_POSITIVE, _POSITIVE - np.eye(3, dtype=np.float32)]),), (True,))],
        doc="(eigenvalues in ascending order, eigenvectors as columns) of symmetric matrices, of which one triangle is read.")


def _eig_type(types: Types) -> tuple[TensorType, TensorType]:
    need_matrix("eig", types[0])
    dtype = dtypes.to_complex(types[0].dtype)
    return types[0].with_(types[0].shape[:-1], dtype), types[0].with_(dtype=dtype)


def _eig_vjp(b: Any, g: Any, x: Any, out: Any) -> Any:
    """For eigenvectors v of length 1, whose phase the loss does not depend on (C. Boeddeker et al., "On the computation of complex-valued
    gradients with application to statistically optimum beamforming", 2017)."""
    w, v = out
    vh = adjoint(b, v)
    shape = w.type.shape
    turned = b.matmul(vh, g[1])
    along = b.real(b.reshape(b.sum(_diagonal_matrix_of(b, turned), (len(shape) - 1,), False, None), (*shape[:-1], 1, shape[-1])))
    inner = b.mul(b.sub(turned, b.matmul(vh, b.mul(v, along))), _gaps(b, b.conj(w)))
    inner = b.add(inner, _diagonal_matrix(b, g[0]))
    return b.solve(vh, b.matmul(inner, vh))


def _diagonal_matrix_of(b: Any, x: Any) -> Any:
    """x without what is off the diagonal."""
    return b.triu(b.tril(x, 0), 0)


declare("eig", Kind.EXTERN, "x", batch="leading", field=Field.COMPLEX, type_rule=_eig_type, vjp=(_eig_vjp,),
        reference=_guarded("eig", lambda x: tuple(np.linalg.eig(x)), "The algorithm failed to converge"),
        samples=[((_WELL,), ()), ((_PAIR,), ()), ((np.array([[0.5, 2.0], [-1.5, 0.25]], np.float32),), ())],
        doc="(eigenvalues, eigenvectors as columns, of length 1) of square matrices, complex.")


def _svd_type(types: Types, full: bool) -> tuple[TensorType, TensorType, TensorType]:
    x = types[0]
    need_matrix("svd", x, square=False)
    *batch, m, n = x.shape
    k = min(m, n)
    return x.with_((*batch, m, m if full else k)), x.with_((*batch, k), dtypes.to_real(x.dtype)), x.with_((*batch, n if full else k, n))


def _np_svd(x: np.ndarray, full: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, s, vh = np.linalg.svd(x, full_matrices=full)
    return u, s, vh


def _corner(b: Any, x: Any, rows: int, columns: int) -> Any:
    """The first rows and columns of matrices."""
    stops = (*x.type.shape[:-2], rows, columns)
    return x if stops == x.type.shape else b.slice(x, (0,) * len(stops), stops, (1,) * len(stops))


def _svd_vjp(b: Any, g: Any, out: Any, x_type: TensorType) -> Any:
    """As in PyTorch, the vectors that full matrices add are taken to be without gradient: nothing determines them."""
    s, gs = out[1], g[1]
    m, k, n = x_type.shape[-2], s.type.shape[-1], x_type.shape[-1]
    (u, gu), (vh, gvh) = [_corner(b, x, m, k) for x in (out[0], g[0])], [_corner(b, x, k, n) for x in (out[2], g[2])]
    v, gv, ut = adjoint(b, vh), adjoint(b, gvh), adjoint(b, u)
    square = b.mul(s, s)
    gaps = _gaps(b, square)  # 1 / (s_j^2 - s_i^2)
    inverse = b.div(1.0, s)

    def skew(x: Any) -> Any:
        return b.sub(x, adjoint(b, x))
    rows = b.reshape(s, (*s.type.shape, 1))
    inner = b.add(_scaled_columns(b, b.mul(gaps, skew(b.matmul(ut, gu))), s), b.mul(rows, b.mul(gaps, skew(b.matmul(vh, gv)))))
    inner = b.add(inner, _diagonal_matrix(b, gs))
    if x_type.dtype.is_complex:  # a phase of a column of U is one of Vh, unless their singular value is 0
        turn = b.div(skew(b.matmul(ut, gu)), b.where(b.eq(rows, 0.0), 1.0, b.mul(rows, 2.0)))
        inner = b.add(inner, _diagonal_matrix_of(b, turn))
    result = b.matmul(b.matmul(u, inner), vh)
    if m > k:  # the part of gu outside the range of u
        outside = b.sub(gu, b.matmul(u, b.matmul(ut, gu)))
        result = b.add(result, b.matmul(_scaled_columns(b, outside, inverse), vh))
    if n > k:
        outside = b.sub(gv, b.matmul(v, b.matmul(vh, gv)))
        result = b.add(result, b.matmul(u, adjoint(b, _scaled_columns(b, outside, inverse))))
    return result


declare("svd", Kind.EXTERN, "x", "full_matrices", batch="leading", field=Field.COMPLEX, type_rule=_svd_type,
        reference=_guarded("svd", _np_svd, "The algorithm failed to converge"),
        vjp=(_svd_vjp,),
        samples=[((_WELL,), (False,)), ((_WELL[:, :2].copy(),), (False,)), ((_PAIR[:, :2].copy(),), (False,))],
        doc="(U, S, Vh) with U @ diag(S) @ Vh = x, S in descending order.")


def _qr_type(types: Types, mode: str) -> tuple[TensorType, TensorType]:
    x = types[0]
    need_matrix("qr", x, square=False)
    *batch, m, n = x.shape
    k = m if mode == "complete" else min(m, n)
    return x.with_((*batch, m, k)) if mode != "r" else x.with_((0,)), x.with_((*batch, k, n))


def _np_qr(x: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    if mode == "r":
        return np.zeros(0, x.dtype), np.asarray(np.linalg.qr(x, "r"))
    q, r = np.linalg.qr(x, "complete" if mode == "complete" else "reduced")
    return q, r


def _columns(b: Any, x: Any, start: int, stop: int) -> Any:
    rank = len(x.type.shape) - 1
    return b.slice(x, (0,) * rank + (start,), (*x.type.shape[:-1], stop), (1,) * (rank + 1))


def _qr_vjp(b: Any, g: Any, x: Any, out: Any, mode: str) -> Any:
    rows, n = x.type.shape[-2:]
    if mode != "reduced" and (mode == "r" or rows > n):
        raise RuntimeError("linalg.qr: the gradient needs mode='reduced', or mode='complete' of a matrix with no more rows than columns")
    (q, r), (gq, gr) = out, g
    rest = None
    if rows < n:  # A = [X Y], R = [U V] with X = Q U and V = Q^H Y
        gv = _columns(b, gr, rows, n)
        gq = b.add(gq, b.matmul(_columns(b, x, rows, n), adjoint(b, gv)))
        rest = b.matmul(q, gv)
        r, gr = _columns(b, r, 0, rows), _columns(b, gr, 0, rows)
    half = _halved_diagonal(b, b.sub(b.matmul(r, adjoint(b, gr)), b.matmul(adjoint(b, gq), q)))
    rhs = b.add(gq, b.matmul(q, b.add(half, adjoint(b, half))))
    found = adjoint(b, b.solve_triangular(r, adjoint(b, rhs), True, False))
    return found if rest is None else b.cat(found, rest, dim=len(x.type.shape) - 1)


declare("qr", Kind.EXTERN, "x", "mode", batch="leading", field=Field.COMPLEX, type_rule=_qr_type, reference=_np_qr, vjp=(_qr_vjp,),
        rewritable="x", samples=[((_WELL,), ("reduced",)), ((_WELL[:, :2].copy(),), ("reduced",)), ((_PAIR,), ("reduced",)),
                 ((_WELL[:2].copy(),), ("reduced",))],
        doc="(Q, R) with Q @ R = x, Q's columns orthonormal, R upper triangular.")


# -- least squares, exponential ------------------------------------------------------------------------------------------------------
def _lstsq_type(types: Types) -> TensorType:
    a, rhs = types
    need_matrix("lstsq", a, square=False)
    if a.dtype is not rhs.dtype:
        raise RuntimeError(f"linalg.lstsq: Expected input and other to have the same dtype, but got {a.dtype.name} and {rhs.dtype.name}")
    if rhs.ndim != a.ndim or a.shape[:-1] != rhs.shape[:-1]:
        raise RuntimeError(f"linalg.lstsq: input and other must have as many rows and the same batches, got {a} and {rhs}")
    return rhs.with_((*a.shape[:-2], a.shape[-1], rhs.shape[-1]))


def _np_lstsq(a: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    out = np.empty((*a.shape[:-2], a.shape[-1], rhs.shape[-1]), a.dtype)
    for i in np.ndindex(*a.shape[:-2]):
        out[i] = np.linalg.lstsq(a[i], rhs[i], rcond=None)[0]
    return out


declare("lstsq", Kind.EXTERN, "a rhs", batch="leading", field=Field.ANALYTIC,
        type_rule=_lstsq_type, reference=_np_lstsq, differentiable=False,
        samples=[((_WELL[:, :2].copy(), (3, 2)), ())], doc="X with the smallest |a @ X - rhs|, column by column.")


def _np_expm(x: np.ndarray) -> np.ndarray:
    """Scaling and squaring with the Taylor series of degree 18, in float64 (Moler and Van Loan, 2003, method 3)."""
    y = x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)
    norm = np.abs(y).sum(-2).max(initial=0.0)
    squarings = max(0, int(np.ceil(np.log2(norm))) + 1) if norm > 0.5 else 0
    y = y / 2.0**squarings
    term: Any = np.broadcast_to(np.eye(x.shape[-1]), y.shape)
    result = term
    for i in range(1, 19):
        term = term @ y / i
        result = result + term
    for _ in range(squarings):
        result = result @ result
    return result.astype(x.dtype)


def _expm_vjp(b: Any, g: Any, x: Any) -> Any:
    """The upper right block of exp([[x.T, g], [0, x.T]]) (Higham, Functions of Matrices, 2008, theorem 3.6)."""
    n = x.type.shape[-1]
    t = transposed(b, x)
    rank = len(x.type.shape)
    top, bottom = b.cat(t, g, dim=rank - 1), b.cat(b.mul(t, 0.0), t, dim=rank - 1)
    whole = b.matrix_exp(b.cat(top, bottom, dim=rank - 2))
    starts = (0,) * (rank - 1) + (n,)
    stops = (*x.type.shape[:-2], n, 2 * n)
    return b.slice(whole, starts, stops, (1,) * rank)


declare("matrix_exp", Kind.EXTERN, "x", batch="leading", field=Field.ANALYTIC,
        type_rule=_square_type("matrix_exp"), reference=_np_expm, vjp=(_expm_vjp,),
        samples=[((_WELL,), ()), ((_PAIR,), ())], doc="The matrix exponential.")
