"""The standard's linear algebra extension, on `treadle.linalg`."""
from __future__ import annotations

from typing import Any, NamedTuple

import treadle
from treadle.array_api.arguments import Axis, array, promoted
from treadle.array_api.statistical import matmul as matmul
from treadle.array_api.statistical import matrix_transpose as matrix_transpose
from treadle.array_api.statistical import tensordot as tensordot
from treadle.array_api.statistical import vecdot as vecdot
from treadle.ir import dtypes
from treadle.ir.dtypes import INT, DType
from treadle.tensor import Tensor

__all__ = ["cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm", "matrix_power", "matrix_rank",
           "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm"]


class EighResult(NamedTuple):
    eigenvalues: Tensor
    eigenvectors: Tensor


class QRResult(NamedTuple):
    Q: Tensor
    R: Tensor


class SlogdetResult(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


class SVDResult(NamedTuple):
    U: Tensor
    S: Tensor
    Vh: Tensor


def cholesky(x: Tensor, /, *, upper: bool = False) -> Tensor:
    """L with L @ L^H = x for positive-definite matrices, or its conjugate transpose. LinAlgError for others."""
    return treadle.linalg.cholesky(array("cholesky", x), upper=upper)


def cross(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The cross product over an axis of size 3."""
    a, b = promoted("cross", array("cross", x1), array("cross", x2))
    return treadle.linalg.cross(a, b, dim=axis)


def det(x: Tensor, /) -> Tensor:
    """The determinant of square matrices."""
    return treadle.linalg.det(array("det", x))


def diagonal(x: Tensor, /, *, offset: int = 0) -> Tensor:
    """The diagonals of matrices as the last axis."""
    return treadle.linalg.diagonal(array("diagonal", x), offset=offset)


def eigh(x: Tensor, /) -> EighResult:
    """Eigenvalues in ascending order and eigenvectors as columns, of Hermitian matrices."""
    return EighResult(*treadle.linalg.eigh(array("eigh", x)))


def eigvalsh(x: Tensor, /) -> Tensor:
    """Eigenvalues of Hermitian matrices in ascending order."""
    return treadle.linalg.eigvalsh(array("eigvalsh", x))


def inv(x: Tensor, /) -> Tensor:
    """The inverse of square matrices. LinAlgError for a singular one."""
    return treadle.linalg.inv(array("inv", x))


def matrix_norm(x: Tensor, /, *, keepdims: bool = False, ord: Any = "fro") -> Tensor:
    """A norm of matrices."""
    return treadle.linalg.matrix_norm(array("matrix_norm", x), ord, keepdim=keepdims)


def matrix_power(x: Tensor, n: int, /) -> Tensor:
    """The n-th power of square matrices."""
    return treadle.linalg.matrix_power(array("matrix_power", x), n)


def matrix_rank(x: Tensor, /, *, rtol: Any = None) -> Tensor:
    """How many singular values exceed rtol times the largest."""
    return treadle.linalg.matrix_rank(array("matrix_rank", x), rtol=rtol)


def outer(x1: Tensor, x2: Tensor, /) -> Tensor:
    """The outer product of two vectors."""
    a, b = promoted("outer", array("outer", x1), array("outer", x2))
    return treadle.outer(a, b)


def pinv(x: Tensor, /, *, rtol: Any = None) -> Tensor:
    """The pseudo-inverse."""
    return treadle.linalg.pinv(array("pinv", x), rtol=rtol)


def qr(x: Tensor, /, *, mode: str = "reduced") -> QRResult:
    """Q with orthonormal columns and the upper triangular R. `mode` is "reduced" or "complete"."""
    return QRResult(*treadle.linalg.qr(array("qr", x), mode))


def slogdet(x: Tensor, /) -> SlogdetResult:
    """The sign and the logarithm of the absolute value of the determinant."""
    return SlogdetResult(*treadle.linalg.slogdet(array("slogdet", x)))


def solve(x1: Tensor, x2: Tensor, /) -> Tensor:
    """X with x1 @ X = x2; x2 is a vector only when it has one axis."""
    a, b = promoted("solve", array("solve", x1), array("solve", x2))
    if b.ndim == 1:
        return treadle.linalg.solve(a, b.reshape(-1, 1))[..., 0]
    return treadle.linalg.solve(a, treadle.broadcast_to(b, (*a.shape[:-2], *b.shape[-2:])) if b.ndim < a.ndim else b)


def svd(x: Tensor, /, *, full_matrices: bool = True) -> SVDResult:
    """U, S in descending order and Vh with U @ diag(S) @ Vh = x."""
    return SVDResult(*treadle.linalg.svd(array("svd", x), full_matrices))


def svdvals(x: Tensor, /) -> Tensor:
    """Singular values in descending order."""
    return treadle.linalg.svdvals(array("svdvals", x))


def trace(x: Tensor, /, *, offset: int = 0, dtype: DType | None = None) -> Tensor:
    """The sum of a diagonal; integers in int64 unless a dtype is given."""
    target = dtype or (dtypes.int64 if array("trace", x).dtype.category <= INT else x.dtype)
    return treadle.sum(treadle.linalg.diagonal(x, offset=offset).to(target), -1, dtype=target)


def vector_norm(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False, ord: Any = 2) -> Tensor:
    """A norm over axes, of the flattened array when None."""
    return treadle.linalg.vector_norm(array("vector_norm", x), ord, axis, keepdims)
