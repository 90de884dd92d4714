"""LU and LDL factorisations by LAPACK through scipy, pivots included; the gradients are in terms of the table's ops.

LU's gradient follows from d(PA) = dL U + L dU with L^-1 dL strictly lower and dU U^-1 upper triangular (M. Giles, 2008).
"""
from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.linalg import need_matrix
from treadle.ir.ops.matmul import adjoint, transposed
from treadle.ir.types import TensorType, broadcast_shapes

Types = tuple[TensorType, ...]
_MATRIX = np.array([[0.5, 3.0, -0.25], [2.0, 0.25, 0.5], [-0.5, 0.25, 4.0]], np.float32)
_WIDE = np.array([[0.5, 3.0, -0.25, 1.0], [2.0, 0.25, 0.5, -1.0]], np.float32)


def _lapack(*names: str, like: np.ndarray) -> Any:
    """LAPACK's functions for the dtype; ModuleNotFoundError naming the extra where scipy is not installed."""
    try:
        lapack = importlib.import_module("scipy.linalg.lapack")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("this factorisation needs scipy: pip install 'treadle[special]'") from error
    return lapack.get_lapack_funcs(names, (like,))


def _each(function: Callable[..., Any], batch: tuple[int, ...], results: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """`function(i)` for every matrix of a batch, its results stored."""
    for i in np.ndindex(*batch):
        for whole, part in zip(results, function(i), strict=True):
            whole[i] = part
    return tuple(results)


def _factor_types(name: str, square: bool) -> Callable[..., tuple[TensorType, TensorType, TensorType]]:
    def type_rule(types: Types, *attrs: bool) -> tuple[TensorType, TensorType, TensorType]:
        x = types[0]
        need_matrix(name, x, square=square)
        batch = x.shape[:-2]
        return x, x.with_((*batch, min(x.shape[-2:])), dtypes.int32), x.with_(batch, dtypes.int32)
    return type_rule


def _np_lu(x: np.ndarray) -> tuple[np.ndarray, ...]:
    batch, k = x.shape[:-2], min(x.shape[-2:])
    results = [np.empty_like(x), np.empty((*batch, k), np.int32), np.zeros(batch, np.int32)]
    if not x.size:
        return tuple(results)
    getrf, = _lapack("getrf", like=x)

    def one(i: tuple[int, ...]) -> Any:
        lu, pivots, info = getrf(x[i])
        return lu, pivots + 1, info
    return _each(one, batch, results)


def _part(b: Any, x: Any, rows: tuple[int, int], columns: tuple[int, int]) -> Any:
    rank = len(x.type.shape) - 2
    return b.slice(x, (0,) * rank + (rows[0], columns[0]), (*x.type.shape[:-2], rows[1], columns[1]), (1,) * (rank + 2))


def _lu_vjp(b: Any, g: Any, out: Any, x_type: TensorType) -> Any:
    g, (lu, pivots, _) = g[0], out
    m, n = x_type.shape[-2:]
    k = min(m, n)
    square, gs = _part(b, lu, (0, k), (0, k)), _part(b, g, (0, k), (0, k))
    lower, upper = b.tril(square, -1), b.triu(square, 0)  # without L's unit diagonal
    gl, gu = b.tril(gs, -1), b.triu(gs, 0)
    below = b.add(gl, b.matmul(transposed(b, lower), gl))
    above = b.matmul(gu, transposed(b, upper))
    rest = None
    if n > m:  # the columns to the right are L U2
        u2, g2 = _part(b, lu, (0, k), (k, n)), _part(b, g, (0, k), (k, n))
        below = b.sub(below, b.matmul(g2, transposed(b, u2)))
        rest = b.solve_triangular(transposed(b, square), g2, True, True)
    elif m > n:  # the rows below are L2 U
        l2, g2 = _part(b, lu, (k, m), (0, k)), _part(b, g, (k, m), (0, k))
        above = b.sub(above, b.matmul(transposed(b, l2), g2))
        rest = transposed(b, b.solve_triangular(square, transposed(b, g2), True, False))
    inner = b.add(b.tril(below, -1), b.triu(above, 0))
    inner = b.solve_triangular(transposed(b, square), inner, True, True)
    found = transposed(b, b.solve_triangular(square, transposed(b, inner), True, False))
    if rest is not None:
        found = b.cat(found, rest, dim=len(x_type.shape) - (1 if n > m else 2))
    return b.matmul(b.permutation_matrix(pivots, m, x_type.dtype), found)


declare("lu_factor", Kind.EXTERN, "x", batch="leading", field=Field.ANALYTIC,
        type_rule=_factor_types("lu_factor", False), reference=_np_lu, vjp=(_lu_vjp,),
        samples=[((_MATRIX,), ()), ((_WIDE,), ()), ((_WIDE.T.copy(),), ()), ((np.stack([_MATRIX, _MATRIX.T]),), ())],
        doc="(LU, pivots, info): L without its unit diagonal and U in one matrix, rows exchanged with pivots[i] - 1 for i = 0, 1, ...")


def _np_permutation(pivots: np.ndarray, rows: int, dtype: DType) -> np.ndarray:
    order = np.broadcast_to(np.arange(rows), (*pivots.shape[:-1], rows)).copy()
    for i in range(pivots.shape[-1]):
        j = pivots[..., i:i + 1].astype(np.int64) - 1
        here, there = order[..., i:i + 1].copy(), np.take_along_axis(order, j, -1)
        np.put_along_axis(order, j, here, -1)
        order[..., i:i + 1] = there
    return (np.arange(rows)[:, None] == order[..., None, :]).astype(dtype.np)


declare("permutation_matrix", Kind.EXTERN, "pivots", "rows dtype", batch="leading", reference=_np_permutation,
        differentiable=False,
        type_rule=lambda types, rows, dtype: types[0].with_((*types[0].shape[:-1], rows, rows), dtype),
        samples=[((np.array([2, 3, 3], np.int32),), (3, dtypes.float32))],
        doc="P with A = P L U for the pivots of `lu_factor`.")


def _np_ldl(x: np.ndarray, hermitian: bool) -> tuple[np.ndarray, ...]:
    batch = x.shape[:-2]
    results = [np.empty_like(x), np.empty(x.shape[:-1], np.int32), np.zeros(batch, np.int32)]
    if not x.size:
        return tuple(results)
    factor, = _lapack("hetrf" if hermitian and x.dtype.kind == "c" else "sytrf", like=x)

    def one(i: tuple[int, ...]) -> Any:
        ld, pivots, info = factor(x[i], lower=1)
        return np.tril(ld), pivots, info
    return _each(one, batch, results)


declare("ldl_factor", Kind.EXTERN, "x", "hermitian", batch="leading", field=Field.ANALYTIC,
        type_rule=_factor_types("ldl_factor", True), reference=_np_ldl, differentiable=False,
        samples=[((_MATRIX + _MATRIX.T,), (False,))],
        doc="(LD, pivots, info) of symmetric or Hermitian matrices, of which the lower triangle is read (LAPACK's sytrf and hetrf).")


def _ldl_solve_type(types: Types, hermitian: bool) -> TensorType:
    ld, pivots, rhs = types
    need_matrix("ldl_solve", ld)
    if rhs.ndim < 2 or ld.shape[-1] != rhs.shape[-2]:
        kind = RuntimeError if rhs.ndim > 1 else IndexError
        raise kind(f"linalg.ldl_solve: Incompatible shapes of A and B for the equation AX = B ({list(ld.shape)} and "
                           f"{list(rhs.shape)})")
    if pivots.shape != ld.shape[:-1]:
        raise RuntimeError(f"linalg.ldl_solve: Expected LD.shape[:-1] and pivots.shape to be the same, but got pivots with shape "
                           f"{list(pivots.shape)} instead")
    if pivots.dtype.category != dtypes.INT:
        raise RuntimeError(f"linalg.ldl_solve: Expected pivots to be integers. Got {pivots.dtype.name}")
    if ld.dtype is not rhs.dtype:
        raise RuntimeError(f"linalg.ldl_solve: Expected LD and B to have the same dtype, got {ld.dtype.name} and {rhs.dtype.name}")
    return rhs.with_((*broadcast_shapes("ldl_solve", ld.shape[:-2], rhs.shape[:-2]), *rhs.shape[-2:]))


def _check_ldl_pivots(pivots: np.ndarray) -> None:
    """RuntimeError unless they are what sytrf gives: rows from 1 to n, negative ones in equal pairs. LAPACK would write anywhere."""
    n = pivots.shape[-1]
    for row in pivots.reshape(-1, n).tolist():
        i = 0
        while i < n:
            step = 2 if row[i] < 0 else 1
            if not 1 <= abs(row[i]) <= n or (step == 2 and row[i:i + 2] != [row[i]] * 2):
                raise RuntimeError(f"linalg.ldl_solve: pivots {row} are not those of an LDL factorization of {n} x {n} matrices")
            i += step


def _np_ldl_solve(ld: np.ndarray, pivots: np.ndarray, rhs: np.ndarray, hermitian: bool) -> np.ndarray:
    batch = broadcast_shapes("ldl_solve", ld.shape[:-2], rhs.shape[:-2])
    n, k = rhs.shape[-2:]
    result = np.empty((*batch, n, k), rhs.dtype)
    if not result.size:
        return result
    _check_ldl_pivots(pivots)
    ld, pivots = np.broadcast_to(ld, (*batch, n, n)), np.broadcast_to(pivots, (*batch, n))
    rhs = np.broadcast_to(rhs, (*batch, n, k))
    solve, = _lapack("hetrs" if hermitian and ld.dtype.kind == "c" else "sytrs", like=result)
    return _each(lambda i: solve(ld[i], pivots[i], rhs[i], lower=1)[:1], batch, [result])[0]


declare("ldl_solve", Kind.EXTERN, "ld pivots rhs", "hermitian", batch="leading", field=Field.ANALYTIC,
        type_rule=_ldl_solve_type, reference=_np_ldl_solve, differentiable=False,
        samples=[((_MATRIX + _MATRIX.T + 9 * np.eye(3, dtype=np.float32), np.array([1, 2, 3], np.int32), (3, 2)), (False,))],
        doc="X with A @ X = rhs, given A's LDL factorisation.")


def _geqrf_type(types: Types) -> tuple[TensorType, TensorType]:
    x = types[0]
    need_matrix("geqrf", x, square=False)
    return x, x.with_((*x.shape[:-2], min(x.shape[-2:])))


def _np_geqrf(x: np.ndarray) -> tuple[np.ndarray, ...]:
    results = [np.empty_like(x), np.empty((*x.shape[:-2], min(x.shape[-2:])), x.dtype)]
    if not x.size:
        return tuple(results)
    raw = np.linalg.qr(x, "raw")
    return np.ascontiguousarray(np.swapaxes(raw[0], -1, -2)), raw[1]


declare("geqrf", Kind.EXTERN, "x", batch="leading", field=Field.COMPLEX,
        type_rule=_geqrf_type, reference=_np_geqrf, differentiable=False, samples=[((_MATRIX,), ())],
        doc="(R above Householder vectors without their leading ones, their factors tau).")


def _np_pinv(x: np.ndarray, atol: np.ndarray, rtol: np.ndarray, hermitian: bool) -> np.ndarray:
    if not x.size:
        return np.swapaxes(x, -1, -2).copy()
    if hermitian:
        values, u = np.linalg.eigh(x)
        s, vh = np.abs(values), np.swapaxes(u.conj(), -1, -2) * np.sign(values)[..., None]
    else:
        u, s, vh = np.linalg.svd(x, full_matrices=False)
    bound = np.maximum(np.asarray(atol)[..., None], s.max(-1, keepdims=True) * np.asarray(rtol)[..., None])
    inverse = np.where(s > bound, 1 / np.where(s > bound, s, 1), 0).astype(x.dtype)
    return np.swapaxes(vh.conj(), -1, -2) @ (inverse[..., None] * np.swapaxes(u.conj(), -1, -2))


def _pinv_vjp(b: Any, g: Any, x: Any, out: Any) -> Any:
    """Golub and Pereyra, "The differentiation of pseudo-inverses" (1973), for a constant rank."""
    pt, gt = adjoint(b, out), adjoint(b, g)
    right, left = b.matmul(gt, b.matmul(out, pt)), b.matmul(b.matmul(pt, out), gt)
    found = b.sub(right, b.matmul(x, b.matmul(out, right)))
    found = b.add(found, b.sub(left, b.matmul(b.matmul(left, out), x)))
    return b.sub(found, b.matmul(b.matmul(pt, g), pt))


def _pinv_type(types: Types, hermitian: bool) -> TensorType:
    x = types[0]
    need_matrix("pinv", x, square=hermitian)
    return x.with_((*x.shape[:-2], x.shape[-1], x.shape[-2]))


declare("pinv", Kind.EXTERN, "x atol rtol", "hermitian", batch="leading", field=Field.COMPLEX,
        type_rule=_pinv_type, reference=_np_pinv, vjp=(_pinv_vjp, None, None),
        samples=[((_MATRIX, 0.0, 1e-6), (False,)), ((_WIDE, 0.0, 1e-6), (False,))],
        doc="The Moore-Penrose inverse; singular values up to max(atol, rtol * the largest) count as zero.")
