"""`treadle.linalg`: decompositions, solvers and norms, through LAPACK."""
from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Sequence
from operator import index
from typing import Any

from treadle import linear_algebra as _products
from treadle.arguments import Order, guard
from treadle.factorizations import (
    householder_product,
    ldl_factor,
    ldl_factor_ex,
    ldl_solve,
    lu,
    lu_factor,
    lu_factor_ex,
    lu_solve,
)
from treadle.functions import TABLE, as_dtype, cast, into, tensor_argument
from treadle.ir.dtypes import FLOAT, bfloat16, bool_, float16, float32, int32, int64, to_real
from treadle.ir.ops.linalg import LinAlgError
from treadle.ir.types import normalize_dim
from treadle.layout import PERMUTE
from treadle.linear_algebra import matmul
from treadle.linear_algebra import matrix_power as _matrix_power
from treadle.linear_algebra import vector_norm as _vector_norm
from treadle.modes import listed
from treadle.reductions import amax, amin, sum
from treadle.results import with_out
from treadle.shaping import diagonal as _diagonal
from treadle.tensor import Tensor, apply, may_be_differentiated

linalg_svd = namedtuple("linalg_svd", "U S Vh")
linalg_qr = namedtuple("linalg_qr", "Q R")
linalg_eig = namedtuple("linalg_eig", "eigenvalues eigenvectors")
linalg_eigh = namedtuple("linalg_eigh", "eigenvalues eigenvectors")
linalg_slogdet = namedtuple("linalg_slogdet", "sign logabsdet")
linalg_inv_ex = namedtuple("linalg_inv_ex", "inverse info")
linalg_cholesky_ex = namedtuple("linalg_cholesky_ex", "L info")
linalg_solve_ex = namedtuple("linalg_solve_ex", "result info")
linalg_lstsq = namedtuple("linalg_lstsq", "solution residuals rank singular_values")


_EPSILON = {4: 1.1920929e-07, 8: 2.220446049250313e-16}


def _matrix(name: str, x: Any) -> Tensor:
    return tensor_argument(f"linalg.{name}", x, "A")


def _adjoint(x: Tensor) -> Tensor:
    n = x._data.type.ndim
    x = apply(TABLE["conj"], (x,)) if x._data.type.dtype.is_complex else x
    return apply(PERMUTE, (x,), ((*range(n - 2), n - 1, n - 2),))


def _info(x: Tensor) -> Tensor:
    """LAPACK's success code for each matrix of a batch: zeros, as failures raise."""
    from treadle.creation import zeros
    return zeros(x._data.type.shape[:-2], dtype=int32)


def inv(A: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The inverse of square matrices (..., n, n). LinAlgError when one is singular."""
    return into(out, apply(TABLE["inverse"], (_matrix("inv", A),)), "linalg.inv")


@with_out
def inv_ex(A: Tensor, *, check_errors: bool = False) -> Any:
    """(inverse, info)."""
    return linalg_inv_ex(inv(A), _info(A))


def _is_vector(a: Tensor, b: Tensor) -> bool:
    s, t = a._data.type.shape, b._data.type.shape
    return len(t) == 1 or (len(s) - 1 == len(t) and s[:-1] == t)


def solve(A: Tensor, B: Tensor, *, left: bool = True, out: Tensor | None = None) -> Tensor:
    """X with A @ X = B, or X @ A = B when not `left`; B holds vectors (..., n) or matrices (..., n, k)."""
    a, b = _matrix("solve", A), tensor_argument("linalg.solve", B, "B", 2)
    if not left:
        return into(out, _adjoint(apply(TABLE["solve"], (_adjoint(a), _adjoint(b)))), "linalg.solve")
    if _is_vector(a, b):
        return into(out, apply(TABLE["solve"], (a, b.unsqueeze(-1))).squeeze(-1), "linalg.solve")
    return into(out, apply(TABLE["solve"], (a, b)), "linalg.solve")


@with_out
def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> Any:
    """(solution, info)."""
    return linalg_solve_ex(solve(A, B, left=left), _info(A))


def solve_triangular(A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False,
                     out: Tensor | None = None) -> Tensor:
    """X with tri(A) @ X = B (X @ tri(A) = B when not `left`)."""
    a, b = _matrix("solve_triangular", A), tensor_argument("linalg.solve_triangular", B, "B", 2)
    op = TABLE["solve_triangular"]
    if left:
        return into(out, apply(op, (a, b), (bool(upper), bool(unitriangular))), "linalg.solve_triangular")
    return into(out, _adjoint(apply(op, (_adjoint(a), _adjoint(b)), (not upper, bool(unitriangular)))), "linalg.solve_triangular")


def det(A: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The determinant of square matrices: (..., n, n) -> (...)."""
    return into(out, apply(TABLE["det"], (_matrix("det", A),)), "linalg.det")


def slogdet(A: Tensor, *, out: Any = None) -> Any:
    """(sign, log |det|)."""
    return into(out, linalg_slogdet(*apply(TABLE["slogdet"], (_matrix("slogdet", A),))), "linalg.slogdet")


def logdet(input: Tensor) -> Tensor:
    """log det; NaN where the determinant is negative."""
    sign, value = slogdet(input)
    if sign._data.type.dtype.is_complex:
        return apply(TABLE["log"], (sign,)) + value
    from treadle.functions import where
    return where(sign < 0, math.nan, value)


def cholesky(A: Tensor, *, upper: bool = False, out: Tensor | None = None) -> Tensor:
    """L with L @ L.H = A, or U with U.H @ U = A. LinAlgError unless A is positive definite."""
    return into(out, apply(TABLE["cholesky"], (_matrix("cholesky", A),), (bool(upper),)), "linalg.cholesky")


@with_out
def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """(L, info)."""
    return linalg_cholesky_ex(cholesky(A, upper=upper), _info(A))


def eigh(A: Tensor, UPLO: str = "L", *, out: Any = None) -> Any:
    """(eigenvalues ascending, eigenvectors as columns) of symmetric matrices."""
    if UPLO.upper() not in ("L", "U"):
        raise RuntimeError(f"linalg.eigh: Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    return into(out, linalg_eigh(*apply(TABLE["eigh"], (_matrix("eigh", A),), (UPLO.upper() == "U",))), "linalg.eigh")


def eig(A: Tensor, *, out: Any = None) -> Any:
    """(eigenvalues, eigenvectors as columns), complex, of square matrices."""
    return into(out, linalg_eig(*apply(TABLE["eig"], (_matrix("eig", A),))), "linalg.eig")


def eigvals(A: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The eigenvalues, complex, of square matrices."""
    return into(out, eig(A)[0], "linalg.eigvals")


def eigvalsh(A: Tensor, UPLO: str = "L", *, out: Tensor | None = None) -> Tensor:
    """The eigenvalues of symmetric matrices, ascending."""
    return into(out, eigh(A, UPLO)[0], "linalg.eigvalsh")


def svd(A: Tensor, full_matrices: bool = True, *, driver: str | None = None, out: Any = None) -> Any:
    """(U, S, Vh) with U @ diag(S) @ Vh = A."""
    return into(out, linalg_svd(*apply(TABLE["svd"], (_matrix("svd", A),), (bool(full_matrices),))), "linalg.svd")


def svdvals(A: Tensor, *, driver: str | None = None, out: Tensor | None = None) -> Tensor:
    """The singular values, descending."""
    return into(out, svd(A, False)[1], "linalg.svdvals")


def qr(A: Tensor, mode: str = "reduced", *, out: Any = None) -> Any:
    """(Q, R) with Q @ R = A; mode "reduced", "complete" or "r" (Q is empty)."""
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), 'r', or 'complete'")
    return into(out, linalg_qr(*apply(TABLE["qr"], (_matrix("qr", A),), (mode,))), "linalg.qr")


def pinv(A: Tensor, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None, out: Tensor | None = None) -> Tensor:
    """The Moore-Penrose inverse; singular values below max(atol, rtol * largest) count as zero."""
    t = _matrix("pinv", A)._data.type
    if t.ndim < 2:
        raise RuntimeError(f"linalg.pinv: expected a tensor with 2 or more dimensions of a floating dtype, got {t}")
    rtol = rtol if rcond is None else rcond
    if rtol is None:
        rtol = 0.0 if atol is not None else max(t.shape[-2:]) * _EPSILON.get(to_real(t.dtype).itemsize, 0.0)
    return into(out, apply(TABLE["pinv"], (A, 0.0 if atol is None else atol, rtol), (bool(hermitian),)), "linalg.pinv")


def _bound(A: Tensor, s: Tensor, atol: Any, rtol: Any) -> Tensor:
    t = A._data.type
    if rtol is None:
        rtol = 0.0 if atol is not None else max(t.shape[-2:]) * _EPSILON.get(to_real(t.dtype).itemsize, 0.0)
    largest = amax(s, -1, True) if s._data.type.shape[-1] else sum(s, -1, True)
    from treadle.functions import maximum
    per_matrix = lambda x: x.unsqueeze(-1) if isinstance(x, Tensor) and x._data.type.shape else x
    bound = largest * per_matrix(rtol)
    return maximum(bound, bound * 0 + per_matrix(atol)) if atol is not None else bound


def matrix_rank(A: Tensor, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None, out: Any = None) -> Tensor:
    """How many singular values exceed max(atol, rtol * largest)."""
    s = (eigvalsh(A).abs() if hermitian else svdvals(A)).detach()
    return into(out, sum(s > _bound(A, s, atol if tol is None else tol, rtol), -1), "linalg.matrix_rank")


@with_out
def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """(solution, residuals, rank, singular values) of the least squares problem |A X - B|.

    `driver` "gels" (for full rank), "gelsy", "gelsd" or "gelss" says, as in PyTorch, which of the last two are computed.
    """
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(f"linalg.lstsq: parameter `driver` should be one of (gels, gelsy, gelsd, gelss), got {driver}")
    from treadle.creation import empty
    a, b = _matrix("lstsq", A), tensor_argument("linalg.lstsq", B, "B", 2)
    vector = _is_vector(a, b)
    rhs = b.unsqueeze(-1) if vector else b
    if a._data.type.ndim < 2 or rhs._data.type.ndim < 2:
        raise RuntimeError(f"linalg.lstsq: input must have at least 2 dimensions, got shapes {list(a.shape)} and {list(b.shape)}")
    found = matmul(pinv(a), rhs) if may_be_differentiated(a) or may_be_differentiated(b) else apply(TABLE["lstsq"], (a, rhs))
    m, n = a._data.type.shape[-2:]
    nothing = empty(0, dtype=to_real(a._data.type.dtype))
    residuals = sum((matmul(a, found) - rhs).abs() ** 2, -2) if m > n else found.abs().reshape(-1)[:0]
    rank = empty(0, dtype=int64) if driver == "gels" else matrix_rank(a, rtol=rcond)
    values = svdvals(a).detach() if driver in ("gelsd", "gelss") else nothing
    return linalg_lstsq(found.squeeze(-1) if vector else found, residuals, rank, values)


def norm(A: Tensor, ord: Order | None = None, dim: Any = None, keepdim: bool = False, *, out: Tensor | None = None,
         dtype: Any = None) -> Tensor:
    """The vector norm over one axis (or all), the matrix norm over two."""
    if ord is not None and dim is None and A._data.type.ndim not in (1, 2):
        raise RuntimeError(f"linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got {A._data.type.ndim}D.")
    if ord is not None and (isinstance(ord, str) or (dim is not None and not isinstance(dim, int) and len(dim) == 2)
                            or (dim is None and A._data.type.ndim == 2)):
        return into(out, matrix_norm(A, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype), "linalg.norm")
    return into(out, vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype), "linalg.norm")


def vector_norm(x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, out: Tensor | None = None,
                dtype: Any = None) -> Tensor:
    """(sum |x|**ord) ** (1/ord) over axes, all unless given."""
    x = tensor_argument("linalg.vector_norm", x, "x")
    return into(out, _vector_norm(x if dtype is None else cast(x, as_dtype(dtype)), ord, dim, keepdim), "linalg.vector_norm")


def _largest(x: Tensor, dim: int, keepdim: bool) -> Tensor:
    """The largest of numbers that are not negative: 0 of none."""
    return amax(x, dim, keepdim) if x.size(dim) else sum(x, dim, keepdim)


def matrix_norm(A: Tensor, ord: Order = "fro", dim: Sequence[int] = (-2, -1), keepdim: bool = False, *, out: Tensor | None = None,
                dtype: Any = None) -> Tensor:
    """ord: "fro", "nuc", inf, -inf, 1, -1, 2 or -2, over the two axes `dim`."""
    x = _matrix("matrix_norm", A)
    if dtype is not None:
        x = cast(x, as_dtype(dtype))
    if x._data.type.dtype.category < FLOAT or x._data.type.ndim < 2:
        raise RuntimeError(f"linalg.matrix_norm: expected floating-point matrices, got {x._data.type}")
    n = x._data.type.ndim
    if len(dim) != 2:
        raise RuntimeError(f"linalg.matrix_norm: dim must be a 2-tuple. Got {tuple(dim)}")
    rows, columns = (normalize_dim("linalg.matrix_norm", d, n) for d in dim)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different. Got {tuple(dim)}")
    if ord == "fro":
        return into(out, _vector_norm(x, 2, (rows, columns), keepdim), "linalg.matrix_norm")
    if ord in ("nuc", 2, -2):
        found = svdvals(x.movedim((rows, columns), (-2, -1)))
        found = sum(found, -1) if ord == "nuc" else _largest(found, -1, False) if ord == 2 else amin(found, -1)
        for d in sorted((rows, columns)) if keepdim else ():
            found = found.unsqueeze(d)
        return into(out, found, "linalg.matrix_norm")
    if ord not in (1, -1, math.inf, -math.inf):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    first, second = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = sum(x.abs(), first, True)
    found = _largest(sums, second, True) if ord > 0 else amin(sums, second, True)
    return into(out, found if keepdim else found.squeeze((rows, columns)), "linalg.matrix_norm")


def cond(A: Tensor, p: Order | None = None, *, out: Tensor | None = None) -> Tensor:
    """The condition number with respect to a matrix norm (2 unless given)."""
    if p is None or p == 2 or p == -2:
        s = svdvals(A)
        found = amax(s, -1) / amin(s, -1)
        return into(out, 1 / found if p == -2 else found, "linalg.cond")
    return into(out, matrix_norm(A, p) * matrix_norm(inv(A), p), "linalg.cond")


def multi_dot(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """The product of two or more matrices (vectors at the ends) in the cheapest order."""
    if len(tensors) < 2:
        raise RuntimeError(f"multi_dot(): expected at least 2 tensors but got {len(tensors)}")
    first, last = tensors[0], tensors[-1]
    chain = [first.unsqueeze(0) if first.ndim == 1 else first, *tensors[1:-1], last.unsqueeze(1) if last.ndim == 1 else last]
    found = _products.chain_matmul(*chain)
    found = found.squeeze(0) if first.ndim == 1 else found
    return into(out, found.squeeze(-1) if last.ndim == 1 else found, "linalg.multi_dot")


@listed
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1, out: Tensor | None = None) -> Tensor:
    """sum(conj(x) * y) over an axis."""
    if x._data.type.dtype.category < FLOAT:
        raise RuntimeError(f"linalg.vecdot: Expected a floating point or complex tensor as input. Got {x._data.type.dtype.title}")
    if x._data.type.dtype is not y._data.type.dtype:
        raise RuntimeError(f"linalg.vecdot: Expected x and y to have the same dtype, but found x of type {x._data.type.dtype.title} and y "
                           f"of type {y._data.type.dtype.title} instead")
    axis = index(dim)
    return into(out, sum(x.conj() * y, axis if max(x.dim(), y.dim()) != 1 else -1), "linalg.vecdot")


@listed
def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """`treadle.pinverse`, which autocast lists where it does not list `pinv`."""
    return pinv(input, rcond)


def cross(input: Tensor, other: Tensor, *, dim: int = -1, out: Tensor | None = None) -> Tensor:
    """The cross product of 3-vectors along an axis."""
    if input._data.type.ndim != other._data.type.ndim:
        raise RuntimeError("linalg.cross: inputs must have the same number of dimensions.")
    for x in (input, other):
        if x._data.type.shape[normalize_dim("linalg.cross", dim, x.dim())] != 3:
            raise RuntimeError(f"linalg.cross: inputs dimension {dim} must have length 3. Got {x._data.type.shape[dim]}")
    return into(out, _products.cross(input, other, dim), "linalg.cross")


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonals of matrices."""
    return _diagonal(A, offset, dim1, dim2)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """Rows of powers 0 .. N - 1 of each element."""
    from treadle.creation import arange
    if x._data.type.dtype in (float16, bfloat16, bool_):
        raise RuntimeError(f"linalg.vander supports floating point, complex, and integer tensors, but got {x._data.type.dtype.title}")
    x = x if x._data.type.shape else x.reshape(1)
    n = x._data.type.shape[-1] if N is None else N
    if n <= 1 and N is not None:
        raise RuntimeError("N must be greater than 1.")
    return x.unsqueeze(-1) ** arange(n)


@with_out
def matrix_power(A: Tensor, n: int) -> Tensor:
    """A square matrix to an integer power; negative powers are of the inverse."""
    return _matrix_power(A, n)


def matrix_exp(A: Tensor) -> Tensor:
    """The matrix exponential."""
    dtype = _matrix("matrix_exp", A)._data.type.dtype
    if dtype in (float16, bfloat16):
        return cast(apply(TABLE["matrix_exp"], (cast(A, float32),)), dtype)
    return apply(TABLE["matrix_exp"], (A,))


def tensorinv(A: Tensor, ind: int = 2, *, out: Tensor | None = None) -> Tensor:
    """The inverse of tensordot's linear map: the first `ind` axes against the rest."""
    shape = A._data.type.shape
    if not 0 < ind <= len(shape) or math.prod(shape[:ind]) != math.prod(shape[ind:]):
        raise RuntimeError(f"Expected self to satisfy the requirement prod(self.shape[ind:]) == prod(self.shape[:ind]), got {list(shape)}")
    n = math.prod(shape[:ind])
    return into(out, inv(A.reshape(n, n)).reshape(*shape[ind:], *shape[:ind]), "linalg.tensorinv")


def tensorsolve(A: Tensor, B: Tensor, dims: Any = None, *, out: Tensor | None = None) -> Tensor:
    """X with tensordot(A, X, X.ndim) = B."""
    if dims is not None:
        A = A.movedim(tuple(dims), tuple(range(-len(dims), 0)))
    rest = A._data.type.shape[B._data.type.ndim:]
    n = math.prod(rest)
    return into(out, solve(A.reshape(n, n), B.reshape(n)).reshape(rest), "linalg.tensorsolve")


def cholesky_solve(B: Tensor, L: Tensor, upper: bool = False, *, out: Tensor | None = None) -> Tensor:
    """X with A @ X = B, given A's Cholesky factor."""
    low = _adjoint(L) if upper else L
    return into(out, solve_triangular(_adjoint(low), solve_triangular(low, B, upper=False), upper=True), "cholesky_solve")


def cholesky_inverse(L: Tensor, upper: bool = False, *, out: Tensor | None = None) -> Tensor:
    """The inverse of A, given its Cholesky factor."""
    from treadle.creation import eye
    t = _matrix("cholesky_inverse", L)._data.type
    if t.ndim < 2:
        raise RuntimeError(f"cholesky_inverse: The input tensor L must have at least 2 dimensions, got {t.ndim}")
    return into(out, cholesky_solve(eye(t.shape[-1], dtype=t.dtype).expand(t.shape), L, upper), "cholesky_inverse")


__all__ = [
    "LinAlgError", "cholesky", "cholesky_ex", "cond", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh",
    "householder_product", "inv",
    "inv_ex", "ldl_factor", "ldl_factor_ex", "ldl_solve", "lstsq", "lu", "lu_factor", "lu_factor_ex", "lu_solve", "matmul",
    "matrix_exp", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot", "norm", "pinv", "qr", "slogdet", "solve", "solve_ex",
    "solve_triangular", "svd", "svdvals", "tensorinv", "tensorsolve", "vander", "vecdot", "vector_norm",
]

guard(globals(), __all__)
