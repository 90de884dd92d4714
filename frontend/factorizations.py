"""LU, LDL and Householder forms of `treadle.linalg` and their older names."""
from __future__ import annotations

from collections import namedtuple
from typing import Any

from treadle.functions import TABLE, tensor_argument
from treadle.ir.ops.linalg import LinAlgError
from treadle.linear_algebra import matmul
from treadle.results import with_out
from treadle.tensor import Tensor, apply, is_batched

linalg_lu_factor = namedtuple("linalg_lu_factor", "LU pivots")
linalg_lu_factor_ex = namedtuple("linalg_lu_factor_ex", "LU pivots info")
linalg_lu = namedtuple("linalg_lu", "P L U")
linalg_ldl_factor = namedtuple("linalg_ldl_factor", "LD pivots")
linalg_ldl_factor_ex = namedtuple("linalg_ldl_factor_ex", "LD pivots info")
lu_unpacked = namedtuple("lu_unpacked", "P L U")
geqrf_result = namedtuple("geqrf_result", "a tau")


def _checked(name: str, info: Tensor, what: str) -> None:
    if is_batched(info):  # inside vmap nobody can look
        return
    worst = int(info.max().item()) if info.numel() else 0
    if worst > 0:
        raise LinAlgError(f"linalg.{name}: {what} {worst} is zero, and using it to solve a system would divide by it")


def _factored(name: str, A: Any, pivot: bool) -> tuple[Tensor, Tensor, Tensor]:
    if not pivot:
        raise RuntimeError(f"linalg.{name}: LU without pivoting is not implemented on the CPU")
    found: tuple[Tensor, Tensor, Tensor] = apply(TABLE["lu_factor"], (tensor_argument(f"linalg.{name}", A, "A"),))
    return found


@with_out
def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """(LU, pivots, info) of (..., m, n): L without its unit diagonal and U in one matrix, pivots (..., min(m, n)) from 1, int32.

    info is 0, or the place of a zero on U's diagonal; LinAlgError for one when `check_errors`.
    """
    found = _factored("lu_factor_ex", A, pivot)
    if check_errors:
        _checked("lu_factor_ex", found[2], "U's diagonal element")
    return linalg_lu_factor_ex(*found)


@with_out
def lu_factor(A: Tensor, *, pivot: bool = True) -> Any:
    """(LU, pivots): see `lu_factor_ex`. LinAlgError for a zero on U's diagonal, by which a solver would divide."""
    LU, pivots, info = _factored("lu_factor", A, pivot)
    _checked("lu_factor", info, "U's diagonal element")
    return linalg_lu_factor(LU, pivots)


def _triangles(lu: Tensor) -> tuple[Tensor, Tensor]:
    from treadle.creation import eye
    m, n = lu._data.type.shape[-2:]
    k = min(m, n)
    lower = lu[..., :k].tril(-1) + eye(m, k, dtype=lu.dtype, device=lu.device)
    return lower, lu[..., :k, :].triu()


@with_out
def lu(A: Tensor, *, pivot: bool = True) -> Any:
    """(P, L, U) with P @ L @ U = A: (..., m, m), (..., m, k), (..., k, n), k = min(m, n)."""
    LU, pivots, _ = _factored("lu", A, pivot)
    P = apply(TABLE["permutation_matrix"], (pivots,), (LU._data.type.shape[-2], LU._data.type.dtype))
    return linalg_lu(P, *_triangles(LU))


@with_out
def lu_unpack(LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:
    """(P, L, U) of what `lu_factor` gives; empty tensors for what is not unpacked."""
    from treadle.creation import empty
    if unpack_pivots and LU_pivots._data.type.dtype.name != "int32":
        raise RuntimeError("lu_unpack: LU_pivots is expected to be a contiguous tensor of int32 dtype. "
                           "Note: this function is intended to be used with the output produced by linalg.lu_factor")
    shape = LU_data._data.type.shape
    if len(shape) < 2:
        raise RuntimeError(f"lu_unpack: Expected tensor with 2 or more dimensions. Got size: {list(shape)} instead")
    if unpack_pivots and LU_pivots._data.type.shape != (*shape[:-2], min(shape[-2:])):
        raise RuntimeError(f"lu_unpack: Expected LU_pivots of size {[*shape[:-2], min(shape[-2:])]} for LU_data of size {list(shape)}, "
                           f"but got {list(LU_pivots.shape)}")
    nothing = empty(0, dtype=LU_data.dtype)
    P = nothing
    if unpack_pivots:
        P = apply(TABLE["permutation_matrix"], (LU_pivots,), (LU_data._data.type.shape[-2], LU_data._data.type.dtype))
    return lu_unpacked(P, *(_triangles(LU_data) if unpack_data else (nothing, nothing)))


@with_out
def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """X with A @ X = B (X @ A = B when not `left`; A.H in A's place when `adjoint`), given A's LU factorisation."""
    if LU._data.type.ndim < 2 or B._data.type.ndim < 2:
        raise RuntimeError(f"linalg.lu_solve: expected matrices, got LU of shape {list(LU.shape)} and B of shape {list(B.shape)}")
    n = LU._data.type.shape[-1]
    if LU._data.type.shape[-2] != n:
        raise RuntimeError(f"linalg.lu_solve: A must be batches of square matrices, but they are {LU._data.type.shape[-2]} by {n} matrices")
    if B._data.type.dtype is not LU._data.type.dtype:
        raise RuntimeError(f"linalg.lu_solve: Expected LU and B to have the same dtype, but found LU of type {LU.dtype} and B of type "
                           f"{B.dtype} instead")
    if pivots._data.type.dtype.name != "int32":
        raise RuntimeError("linalg.lu_solve: pivots should be a Tensor of scalar type int32")
    if pivots._data.type.shape != LU._data.type.shape[:-1]:
        kind = RuntimeError if pivots._data.type.ndim else IndexError
        raise kind(f"linalg.lu_solve: Number of pivots per batch should be same as the dimension of the matrix, got pivots "
                           f"{list(pivots.shape)} for LU {list(LU.shape)}")
    if not left:
        return lu_solve(LU, pivots, B.mH, adjoint=not adjoint).mH
    P = apply(TABLE["permutation_matrix"], (pivots,), (n, LU._data.type.dtype))
    solve = lambda a, b, upper, unit: apply(TABLE["solve_triangular"], (a, b), (upper, unit))
    if adjoint:
        return matmul(P, solve(LU.mH, solve(LU.mH, B, False, False), True, True))
    return solve(LU, solve(LU, matmul(P.mT, B), False, True), True, False)


def older_lu_solve(b: Tensor, LU_data: Tensor, LU_pivots: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`linalg.lu_solve` with the right-hand side first."""
    found: Tensor = lu_solve(LU_data, LU_pivots, b, out=out)
    return found


@with_out
def older_lu(A: Tensor, pivot: bool = True, get_infos: Any = False) -> Any:
    """(LU, pivots), and info when `get_infos`."""
    found = lu_factor_ex(A, pivot=pivot)
    return tuple(found) if get_infos else tuple(found[:2])


@with_out
def ldl_factor_ex(A: Tensor, *, hermitian: bool = False, check_errors: bool = False) -> Any:
    """(LD, pivots, info) of symmetric matrices (`hermitian`: Hermitian ones), of which the lower triangle is read."""
    found = apply(TABLE["ldl_factor"], (tensor_argument("linalg.ldl_factor_ex", A, "A"),), (bool(hermitian),))
    if check_errors:
        _checked("ldl_factor_ex", found[2], "D's diagonal element")
    return linalg_ldl_factor_ex(*found)


@with_out
def ldl_factor(A: Tensor, *, hermitian: bool = False) -> Any:
    """(LD, pivots): see `ldl_factor_ex`. LinAlgError when D has a zero on its diagonal."""
    found = ldl_factor_ex(A, hermitian=hermitian)
    _checked("ldl_factor", found[2], "D's diagonal element")
    return linalg_ldl_factor(*found[:2])


@with_out
def ldl_solve(LD: Tensor, pivots: Tensor, B: Tensor, *, hermitian: bool = False) -> Tensor:
    """X with A @ X = B, given A's LDL factorisation."""
    found: Tensor = apply(TABLE["ldl_solve"], (LD, pivots, B), (bool(hermitian),))
    return found


# -- Householder reflectors ----------------------------------------------------------------------------------------------------------
@with_out
def geqrf(input: Tensor) -> Any:
    """(a, tau): R on and above a's diagonal, Householder vectors (a leading one left out) below."""
    return geqrf_result(*apply(TABLE["geqrf"], (tensor_argument("geqrf", input),)))


def _reflect(A: Tensor, tau: Tensor, x: Tensor, order: range) -> Tensor:
    """(I - tau_i v_i v_i^H) applied to the rows of x for each i in turn."""
    from treadle.creation import eye
    m, k = A._data.type.shape[-2], tau._data.type.shape[-1]
    vectors = A[..., :k].tril(-1) + eye(m, k, dtype=A.dtype, device=A.device)
    for i in order:
        v = vectors[..., i:i + 1]
        x = x - tau[..., i:i + 1].unsqueeze(-1) * v * matmul(v.mH, x)
    return x


@with_out
def householder_product(input: Tensor, tau: Tensor) -> Tensor:
    """The first n columns of H_1 H_2 ... H_k for reflectors as `geqrf` gives them: (..., m, n), (..., k) -> (..., m, n)."""
    from treadle.creation import eye
    t, f = tensor_argument("linalg.householder_product", input)._data.type, tensor_argument("tau", tau)._data.type
    if t.ndim < 2 or t.shape[-2] < t.shape[-1]:
        raise RuntimeError(f"linalg.householder_product: input.shape[-2] must be greater than or equal to input.shape[-1], got {t}")
    if f.ndim != t.ndim - 1 or f.shape[:-1] != t.shape[:-2] or f.shape[-1] > t.shape[-1]:
        kind = RuntimeError if f.ndim else IndexError
        raise kind(f"linalg.householder_product: Expected batch dimensions and length of tau to fit input, got tau {list(f.shape)} "
                           f"for input {list(t.shape)}")
    if t.dtype is not f.dtype:
        raise RuntimeError(f"linalg.householder_product: tau dtype {f.dtype.name} does not match input dtype {t.dtype.name}")
    start = eye(t.shape[-2], t.shape[-1], dtype=t.dtype, device=t.device).expand(t.shape)
    if not (t.numel and f.numel):
        return input.clone().copy_(start)
    return _reflect(input, tau, start, range(f.shape[-1] - 1, -1, -1))


orgqr = householder_product


@with_out
def ormqr(input: Tensor, tau: Tensor, other: Tensor, left: bool = True, transpose: bool = False) -> Tensor:
    """Q @ other, or other @ Q when not `left`, with Q (or Q.H when `transpose`) given by reflectors as `geqrf` gives them."""
    t, f, o = (x._data.type for x in (input, tau, other))
    if t.ndim < 2 or o.ndim < 2:
        raise RuntimeError(f"ormqr: input and other must have at least 2 dimensions, got {t} and {o}")
    if o.shape[-2 if left else -1] < f.shape[-1] or o.shape[-2 if left else -1] != t.shape[-2]:
        raise RuntimeError(f"ormqr: other.shape[{-2 if left else -1}] must be greater than or equal to tau.shape[-1] and equal to "
                           f"input.shape[-2], got other {list(o.shape)}, tau {list(f.shape)}, input {list(t.shape)}")
    if f.ndim != t.ndim - 1 or o.ndim != t.ndim or f.shape[:-1] != t.shape[:-2] or o.shape[:-2] != t.shape[:-2]:
        raise RuntimeError(f"ormqr: Expected batch dimensions of tau and other to be equal to input.shape[:-2], got {t}, {f} and {o}")
    if not t.dtype is f.dtype is o.dtype:
        raise RuntimeError(f"ormqr: Expected input, tau and other to have the same dtype, got {t}, {f} and {o}")
    forth, back = range(f.shape[-1]), range(f.shape[-1] - 1, -1, -1)
    if left:
        return _reflect(input, tau.conj() if transpose else tau, other, forth if transpose else back)
    return _reflect(input, tau if transpose else tau.conj(), other.mH, back if transpose else forth).mH
