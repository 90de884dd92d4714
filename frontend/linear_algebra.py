"""Products of matrices and vectors, einsum, norms and distances, diagonals and triangles."""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from treadle.arguments import Choice, Tensors, direct, misfit
from treadle.emitter import fast_path
from treadle.functions import ADD, COPY, MUL, POW, SUB, TABLE, WHERE, as_dtype, cast, full_like, into, tensor_argument
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT, DType
from treadle.ir.ops.common import HALVES
from treadle.ir.types import normalize_dim
from treadle.joining import meshgrid, roll
from treadle.layout import PERMUTE, RESHAPE
from treadle.modes import listed
from treadle.reductions import amax, amin, sum
from treadle.results import numpy_names, with_out
from treadle.runtime.recorder import STATE
from treadle.shaping import atleast_2d, cat, diagonal, movedim, reshape, stack, unsqueeze
from treadle.tensor import Tensor, apply

MATMUL = TABLE["matmul"]

__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "block_diag", "bmm", "cartesian_prod", "cdist", "chain_matmul", "combinations",
    "cross", "diag", "diag_embed", "diagflat", "dist", "dot", "einsum", "ger", "inner", "kron", "matmul", "matrix_power", "mm", "mv",
    "norm", "outer", "tensordot", "trace", "tril", "tril_indices", "triu", "triu_indices", "vdot",
]


def _shaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x._data.type.shape == shape else apply(RESHAPE, (x,), (shape,))


def _matrices_into(x: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
    return into(out, apply(MATMUL, (x, y)), "matmul")


_matrices = fast_path(MATMUL, _matrices_into) or _matrices_into  # with `out` by name


# -- products ----------------------------------------------------------------------------------------------------------------
@direct
def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The matrix product with PyTorch's rules: vectors act as rows or columns, leading axes broadcast.

    RuntimeError when sizes or dtypes do not fit or an operand is 0-d.
    """
    x, y = input, other
    if x.__class__ is not Tensor or y.__class__ is not Tensor:
        x, y = tensor_argument("matmul", input), tensor_argument("matmul", other, "other", 2)
    xs, ys = x._data.type.shape, y._data.type.shape
    if len(xs) == 2 == len(ys):
        product: Tensor = _matrices(x, y, out=out)
        return product
    return into(out, _any_rank(x, y, xs, ys), "matmul")


def _any_rank(x: Tensor, y: Tensor, xs: tuple[int, ...], ys: tuple[int, ...]) -> Tensor:
    if not xs or not ys:
        raise RuntimeError(f"both arguments to matmul need to be at least 1D, but they are {len(xs)}D and {len(ys)}D")
    if len(xs) == 1 == len(ys):
        if STATE.here.autocast is not None:  # which lists the product, but not `dot`
            return _shaped(apply(MATMUL, (_shaped(x, (1, *xs)), _shaped(y, (*ys, 1)))), ())
        return dot(x, y)
    if len(xs) == 1:
        found = apply(MATMUL, (_shaped(x, (1, *xs)), y))
        return _shaped(found, (*ys[:-2], ys[-1]))
    if len(ys) == 1:
        if ys[0] != xs[-1]:
            raise RuntimeError(f"size mismatch, got input ({math.prod(xs[:-1])}), mat ({math.prod(xs[:-1])}x{xs[-1]}), vec ({ys[0]})")
        return _shaped(_any_rank(x, _shaped(y, (ys[0], 1)), xs, (ys[0], 1)), xs[:-1])
    if len(ys) == 2 and len(xs) > 2 and xs[-1] == ys[0]:  # one product instead of a batch of them
        rows = math.prod(xs[:-1])
        return _shaped(apply(MATMUL, (_shaped(x, (rows, xs[-1])), y)), (*xs[:-1], ys[1]))
    return apply(MATMUL, (x, y))


def _need(name: str, x: Tensor, ndim: int, argument: str) -> Tensor:
    if tensor_argument(name, x, argument)._data.type.ndim != ndim:
        kind = {1: "1D", 2: "a matrix", 3: "a 3D tensor"}[ndim]
        raise RuntimeError(f"{name}: {argument} must be {kind}, got a tensor of shape {list(x._data.type.shape)}")
    return x


@direct
def mm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The product of two matrices."""
    return into(out, apply(MATMUL, (_need("mm", input, 2, "self"), _need("mm", mat2, 2, "mat2"))), "mm")


@direct
def bmm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Products of two equally long stacks of matrices."""
    x, y = _need("bmm", input, 3, "batch1"), _need("bmm", mat2, 3, "batch2")
    xs, ys = x._data.type.shape, y._data.type.shape
    if xs[0] != ys[0] or xs[2] != ys[1]:
        raise RuntimeError(f"Expected size for first two dimensions of batch2 tensor to be: [{xs[0]}, {xs[2]}] but got: "
                           f"[{ys[0]}, {ys[1]}].")
    return into(out, apply(MATMUL, (x, y)), "bmm")


def _matrix_times_vector(input: Tensor, vec: Tensor) -> Tensor:
    return matmul(_need("mv", input, 2, "input"), _need("mv", vec, 1, "vec"))


@with_out
@listed
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector."""
    if not tensor_argument("mv", input)._data.type.shape:
        raise IndexError("mv: Dimension specified as 0 but tensor has no dimensions")
    return _matrix_times_vector(input, vec)


@with_out
@listed
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors."""
    x, y = tensor_argument("dot", input), tensor_argument("dot", tensor, "tensor", 2)
    a, b = x._data.type, y._data.type
    if a.ndim != 1 or b.ndim != 1:
        raise RuntimeError(f"1D tensors expected, but got {a.ndim}D and {b.ndim}D tensors")
    if a.numel != b.numel:
        raise RuntimeError(f"inconsistent tensor size, expected tensor [{a.numel}] and src [{b.numel}] to have the same number of "
                           f"elements, but got {a.numel} and {b.numel} elements respectively")
    if a.dtype is not b.dtype:
        raise RuntimeError(f"dot : expected both vectors to have same dtype, but found {a.dtype.name} and {b.dtype.name}")
    return sum(apply(MUL, (x, y)), dtype=a.dtype)


@with_out
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """The inner product of two vectors, the first conjugated."""
    x = tensor_argument("vdot", input)
    return dot(apply(TABLE["conj"], (x,)) if x._data.type.dtype.is_complex else x, other)


@with_out
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last axis of both."""
    if not input._data.type.shape or not other._data.type.shape:
        return apply(MUL, (input, other))
    if len(input._data.type.shape) == 1 == len(other._data.type.shape):
        return dot(input, other)
    if input._data.type.shape[-1] != other._data.type.shape[-1]:
        raise RuntimeError(f"inner() the last dimension must match on both input tensors but got shapes {list(input._data.type.shape)} and "
                           f"{list(other._data.type.shape)}")
    return tensordot(input, other, ([-1], [-1]))


@with_out
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of the elements of two vectors."""
    x, y = _need("outer", input, 1, "self"), _need("outer", vec2, 1, "vec2")
    return apply(MUL, (_shaped(x, (x._data.type.numel, 1)), y))


ger = outer


def _combine(base: Tensor, product: Tensor, beta: Any, alpha: Any, promotes: bool = False,
             factors: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """beta * base + alpha * product; with beta 0 the base is not looked at. RuntimeError when its rank or dtype does not fit.

    `factors`: (stacks of) matrices whose product it is, from which the sum of 16-bit floats is computed, to be rounded once.
    """
    have, want = base._data.type, product._data.type
    if have.ndim > want.ndim:
        raise RuntimeError(f"the input has shape {list(have.shape)}, which cannot be expanded to that of the product, {list(want.shape)}")
    if have.dtype is not want.dtype and not promotes and STATE.here.autocast is None:
        raise RuntimeError(f"the input and the product must have the same dtype, but got {have.dtype.name} and {want.dtype.name}")
    if product._data.type.dtype.category < FLOAT:  # numbers are cut to integers, as in PyTorch
        alpha, beta = int(alpha), int(beta)
    if factors is not None and want.dtype in HALVES and (have.dtype is want.dtype or beta == 0) and STATE.here.autocast is None:
        return apply(TABLE["addmm"], (base if beta else full_like(product, 0), *factors, beta, alpha))
    if alpha != 1:
        product = apply(MUL, (product, alpha))
    if beta == 0:
        return product
    if STATE.here.autocast is not None:
        base = cast(base, product.dtype)
    return apply(ADD, (base if beta == 1 else apply(MUL, (base, beta)), product))


@with_out
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2)."""
    if beta == 0:
        return _combine(input, mm(mat1, mat2), 0, alpha, factors=(mat1, mat2))
    return apply(TABLE["addmm"], (input, _need("addmm", mat1, 2, "mat1"), _need("addmm", mat2, 2, "mat2"), beta, alpha))


@with_out
@listed
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * (mat @ vec)."""
    product = _matrix_times_vector(mat, vec)
    if product._data.type.dtype not in HALVES or input._data.type.ndim > 1:
        return _combine(input, product, beta, alpha)
    column = input.unsqueeze(1) if input._data.type.ndim else input
    return _combine(column, product.unsqueeze(1), beta, alpha, factors=(mat, vec.unsqueeze(1))).squeeze(1)


@with_out
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * outer(vec1, vec2); of bools, whether that is other than 0."""
    product = outer(vec1, vec2)
    found = _combine(input, product, beta, alpha, promotes=True)
    return cast(found, dtypes.bool_) if input._data.type.dtype is product._data.type.dtype is dtypes.bool_ else found


def _stacked(batch1: Tensor, batch2: Tensor) -> Tensor:
    """`bmm`, with IndexErrors for axes that are missing, as in PyTorch."""
    for batch in (batch1, batch2):
        normalize_dim("bmm", 2, tensor_argument("bmm", batch)._data.type.ndim)
    return bmm(batch1, batch2)


@with_out
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * bmm(batch1, batch2)."""
    return _combine(input, _stacked(batch1, batch2), beta, alpha, factors=(batch1, batch2))


@with_out
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * the sum of the products of two stacks."""
    product = _stacked(batch1, batch2)
    rows, columns = product._data.type.shape[1:]
    factors = batch1.permute(1, 0, 2).reshape(rows, -1), batch2.reshape(-1, columns)
    return _combine(input, sum(product, 0, dtype=product.dtype), beta, alpha, factors=factors if product._data.type.numel else None)


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of several matrices, left to right."""
    out = matrices[0]
    for m in matrices[1:]:
        out = mm(out, m)
    return out


def matrix_power(input: Tensor, n: int) -> Tensor:
    """A square matrix to a non-negative power, by repeated squaring."""
    shape = input._data.type.shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise RuntimeError(f"matrix_power: expected square matrices, got shape {list(shape)}")
    if n < 0:
        from treadle.linalg import inv
        return matrix_power(inv(input), -n)
    if n == 0:
        from treadle.creation import eye
        return apply(COPY, (input,)).copy_(eye(shape[-1], dtype=input._data.type.dtype))
    out: Tensor | None = None
    square = input
    while n:
        if n & 1:
            out = square if out is None else matmul(out, square)
        n >>= 1
        if n:
            square = matmul(square, square)
    assert out is not None
    return apply(COPY, (out,)) if out is input else out


def tensordot(a: Tensor, b: Tensor, dims: Any = 2, out: Tensor | None = None) -> Tensor:
    """Sums of products over the last `dims` axes of a and the first of b, or over the two lists of axes given."""
    na, nb = a._data.type.ndim, b._data.type.ndim
    if isinstance(dims, Tensor):
        dims = int(dims) if dims.numel() == 1 else dims.tolist()
    if isinstance(dims, int):
        if not 0 <= dims <= min(na, nb):
            raise RuntimeError(f"tensordot expects dims >= 0 and at most the number of axes, but got dims={dims}")
        left, right = list(range(na - dims, na)), list(range(dims))
    else:
        if not isinstance(dims, tuple | list):
            raise RuntimeError(f"tensordot expects dims to be int or a tuple of two lists of ints, but got dims={dims}")
        if len(dims) != 2:
            raise ValueError(f"tensordot: expected dims of two lists, but got {len(dims)}: {dims}")
        for axes in dims:
            if not isinstance(axes, tuple | list):
                raise misfit("tensordot", "dims", 3, "int or tuple of two tuples of ints", axes)
        if len(dims[0]) != len(dims[1]):
            raise RuntimeError(f"tensordot: both dimension lists should have same length, but got dims={dims}")
        left = [normalize_dim("tensordot", d, na) for d in dims[0]]
        right = [normalize_dim("tensordot", d, nb) for d in dims[1]]
    sizes = a._data.type.shape, b._data.type.shape
    for i, j in zip(left, right, strict=True):
        if sizes[0][i] != sizes[1][j] and 1 in (sizes[0][i], sizes[1][j]):  # an axis of size 1 meets the sum of the other's
            if sizes[0][i] == 1:
                b = sum(b, j, True, dtype=b._data.type.dtype)
            else:
                a = sum(a, i, True, dtype=a._data.type.dtype)
            sizes = a._data.type.shape, b._data.type.shape
        elif sizes[0][i] != sizes[1][j]:
            raise RuntimeError(f"contracted dimensions need to match, but first has size {sizes[0][i]} in dim {i} and second has size "
                               f"{sizes[1][j]} in dim {j}")
    keep_a, keep_b = [d for d in range(na) if d not in left], [d for d in range(nb) if d not in right]
    k = math.prod([sizes[0][d] for d in left])
    rows, columns = [sizes[0][d] for d in keep_a], [sizes[1][d] for d in keep_b]
    x = _shaped(apply(PERMUTE, (a,), (tuple(keep_a + left),)), (math.prod(rows), k))
    y = _shaped(apply(PERMUTE, (b,), (tuple(right + keep_b),)), (k, math.prod(columns)))
    return into(out, _shaped(apply(MATMUL, (x, y)), (*rows, *columns)), "tensordot")


def einsum(equation: str, *operands: Tensors) -> Tensor:
    """Einstein summation, `einsum("bij,bjk->bik", x, y)`, as a sequence of products of two operands."""
    from treadle.contraction import evaluate
    xs = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    return evaluate(equation, list(xs))


@with_out
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product."""
    n = max(input._data.type.ndim, other._data.type.ndim)
    xs = (1,) * (n - input._data.type.ndim) + input._data.type.shape
    ys = (1,) * (n - other._data.type.ndim) + other._data.type.shape
    wide = _shaped(input, tuple([s for m in xs for s in (m, 1)]))
    narrow = _shaped(other, tuple([s for m in ys for s in (1, m)]))
    return _shaped(apply(MUL, (wide, narrow)), tuple([a * b for a, b in zip(xs, ys, strict=True)]))


@with_out
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The cross product of vectors of three elements along an axis (the first of size 3 unless given)."""
    from treadle.shaping import broadcast_tensors
    if input._data.type.ndim != other._data.type.ndim or input._data.type.dtype is not other._data.type.dtype:
        kind = NotImplementedError if input._data.type.dtype.category == BOOL else RuntimeError
        raise kind(f"linalg.cross: inputs must be of one dtype and rank, got {input._data.type} and {other._data.type}")
    x, y = broadcast_tensors(input, other)
    shape = x._data.type.shape
    if dim is None:
        if 3 not in shape:
            raise RuntimeError("no dimension of size 3 in input")
        dim = shape.index(3)
    dim = normalize_dim("cross", dim, len(shape))
    if shape[dim] != 3:
        raise RuntimeError(f"linalg.cross: inputs dimension {dim} must have length 3. Got {shape[dim]}")
    return apply(SUB, (apply(MUL, (roll(x, -1, dim), roll(y, -2, dim))), apply(MUL, (roll(x, -2, dim), roll(y, -1, dim)))))


# -- norms and distances ---------------------------------------------------------------------------------------------------------
def safe_sqrt(square: Tensor) -> Tensor:
    """The square root with gradient 0 at 0."""
    zero = apply(TABLE["eq"], (square, 0))
    return apply(WHERE, (zero, 0.0, apply(TABLE["sqrt"], (apply(WHERE, (zero, 1.0, square)),))))


@numpy_names
def norm(input: Tensor, p: float | str | None = "fro", dim: int | Sequence[int] | None = None, keepdim: bool = False,
         out: Tensor | None = None, dtype: Any = None) -> Tensor:
    """The p-norm of vectors over axes (all unless given): p a number, inf, -inf, 0, or "fro" for 2."""
    x = tensor_argument("norm", input) if dtype is None else cast(input, as_dtype(dtype))
    if isinstance(p, str) and p != "fro":
        from treadle.linalg import matrix_norm
        axes = tuple(range(x._data.type.ndim)) if dim is None else (dim,) if isinstance(dim, int) else dim
        return into(out, matrix_norm(x, p, axes, keepdim), "norm")
    return into(out, vector_norm(x, 2 if p is None or p == "fro" else p, dim, keepdim), "norm")


def vector_norm(x: Tensor, p: Any, dim: Any, keepdim: bool) -> Tensor:
    """(sum |x|**p) ** (1/p) over axes, with its limits for p = 0 and infinities. RuntimeError for integers."""
    if x._data.type.dtype.category < FLOAT:
        raise RuntimeError(f"linalg.vector_norm: Expected a floating point or complex tensor as input. Got {x._data.type.dtype.name}")
    if x._data.type.dtype.itemsize == 2 and abs(p) not in (0, 1, math.inf):  # sums of powers overflow 16 bits
        return cast(vector_norm(cast(x, dtypes.float32), p, dim, keepdim), x._data.type.dtype)
    if x._data.type.dtype.is_complex:
        return vector_norm(apply(TABLE["abs"], (x,)), p, dim, keepdim)
    if p == 2:
        return safe_sqrt(sum(apply(MUL, (x, x)), dim, keepdim))
    size = apply(TABLE["abs"], (x,))
    if p == math.inf:
        return amax(size, dim, keepdim)
    if p == -math.inf:
        return amin(size, dim, keepdim)
    if p == 0:
        count = apply(WHERE, (apply(TABLE["ne"], (x, 0)), 1.0, apply(TABLE["sign"], (x,))))  # a zero gradient, not none
        return sum(count, dim, keepdim)
    if p == 1:
        return sum(size, dim, keepdim)
    powers = _power(size, float(p)) if p < 1 else apply(POW, (size, float(p)))
    return _power(sum(powers, dim, keepdim), 1.0 / p)


def _power(x: Tensor, p: float) -> Tensor:
    """x ** p of numbers that are not negative, with no gradient for zeros, where the slope may be infinite."""
    zero = apply(TABLE["eq"], (x, 0))
    return apply(WHERE, (zero, 0.0 if p > 0 else math.inf, apply(POW, (apply(WHERE, (zero, 1.0, x)), p))))


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of input - other."""
    return norm(apply(SUB, (input, other)), p)


@listed
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Choice = "use_mm_for_euclid_dist_if_necessary") -> Tensor:
    """Distances between all rows of x1 (..., P, M) and of x2 (..., R, M): (..., P, R).

    The Euclidean distance of more than 25 rows goes through a matrix product, as in PyTorch.
    """
    a, b = tensor_argument("cdist", x1, "x1")._data.type, tensor_argument("cdist", x2, "x2", 2)._data.type
    for name, t in (("X1", a), ("X2", b)):
        if t.dtype.category != FLOAT:
            raise RuntimeError(f"cdist only supports floating-point dtypes, {name} got: {t.dtype.title}")
    if a.dtype is not b.dtype or p < 0:
        kind = NotImplementedError if a.dtype.itemsize == 2 else RuntimeError
        raise kind(f"cdist expects one dtype and p >= 0, but got {a.dtype.title}, {b.dtype.title} and p={p}")
    if compute_mode not in ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist"):
        raise ValueError(f"{compute_mode} is not a valid value for compute_mode")
    if a.ndim < 2 or b.ndim < 2:
        raise RuntimeError(f"cdist only supports at least 2D tensors, X1 got: {a.ndim}D, X2 got: {b.ndim}D")
    if a.shape[-1] != b.shape[-1]:
        raise RuntimeError(f"X1 and X2 must have the same number of columns. X1: {a.shape[-1]} X2: {b.shape[-1]}")
    large = a.shape[-2] > 25 or b.shape[-2] > 25
    if p == 2 and compute_mode != "donot_use_mm_for_euclid_dist" and (large or compute_mode == "use_mm_for_euclid_dist"):
        rows = sum(apply(MUL, (x1, x1)), -1, True)
        columns = sum(apply(MUL, (x2, x2)), -1, True).transpose(-1, -2)
        product = apply(MUL, (matmul(x1, x2.transpose(-1, -2)), -2.0))
        return safe_sqrt(apply(TABLE["clamp_min"], (apply(ADD, (apply(ADD, (rows, columns)), product)), 0.0)))
    return norm(apply(SUB, (unsqueeze(x1, -2), unsqueeze(x2, -3))), p, -1)


# -- diagonals and triangles -------------------------------------------------------------------------------------------------------
@with_out
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, zeros above the diagonal."""
    return apply(TABLE["tril"], (input,), (int(diagonal),))


@with_out
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, zeros below the diagonal."""
    return apply(TABLE["triu"], (input,), (int(diagonal),))


def _triangle_indices(row: int, col: int, offset: int, upper: bool, dtype: Any) -> Tensor:
    import numpy as np

    from treadle.creation import adopt
    for what, n in (("row", row), ("col", col)):
        if n < 0:
            raise RuntimeError(f"{'triu' if upper else 'tril'}_indices: {what} must be non-negative, got {n}")
    inside = (np.triu if upper else np.tril)(np.ones((row, col), bool), offset)
    return adopt(np.stack(np.nonzero(inside)).astype(dtype.np if dtype else np.int64))


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Row and column indices of the lower triangle, as a 2 x n tensor."""
    return _triangle_indices(row, col, offset, False, dtype).to(device=device)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Row and column indices of the upper triangle, as a 2 x n tensor."""
    return _triangle_indices(row, col, offset, True, dtype).to(device=device)


@with_out
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A vector's matrix with it on a diagonal; a matrix's diagonal (a copy)."""
    from treadle.shaping import diagonal as diagonal_view
    ndim = tensor_argument("diag", input)._data.type.ndim
    if ndim == 1:
        return diag_embed(input, diagonal)
    if ndim != 2:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {ndim}D")
    return apply(COPY, (diagonal_view(input, diagonal),))


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices with the last axis of the input on a diagonal, spanned by axes dim1 and dim2 of the result."""
    shape = input._data.type.shape
    if not shape:
        raise IndexError("diag_embed: Dimension specified as -1 but tensor has no dimensions")
    n = shape[-1] + abs(offset)
    pad = (max(-offset, 0), max(offset, 0))
    rows = reshape(apply(TABLE["iota"], (), (n, dtypes.int64, input._data.type.device)), n, 1)
    columns = reshape(apply(TABLE["iota"], (), (n, dtypes.int64, input._data.type.device)), 1, n)
    on = apply(TABLE["eq"], (columns, apply(ADD, (rows, offset))))
    low = (0,) * (len(shape) - 1)
    padded = apply(TABLE["pad"], (input, 0), ((*low, pad[0]), (*low, pad[1])))  # element of row i stands at i
    out = apply(WHERE, (on, unsqueeze(padded, -1), full_like(input.new_empty(()), 0)))
    ndim = len(shape) + 1
    target = (normalize_dim("diag_embed", dim1, ndim), normalize_dim("diag_embed", dim2, ndim))
    return out if target == (ndim - 2, ndim - 1) else apply(COPY, (movedim(out, (-2, -1), target),))


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with the flattened input on a diagonal."""
    return diag_embed(reshape(input, -1), offset)


@listed
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    return sum(diagonal(_need("trace", input, 2, "input")))


# -- combinations ------------------------------------------------------------------------------------------------------------------
def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All combinations of r elements of a vector, one a row."""
    from treadle.creation import tensor
    if input._data.type.ndim != 1 or r < 0:
        raise RuntimeError(f"combinations: Expect a 1D vector and r >= 0, but got shape {list(input._data.type.shape)} and r = {r}")
    pick = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = list(pick(range(input._data.type.numel), r))
    index = tensor(rows, dtype=dtypes.int64).reshape(-1)
    return reshape(apply(TABLE["index_select"], (input, index), (0,)), len(rows), r)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of elements of vectors, one a row."""
    for x in tensors:
        if x._data.type.ndim != 1:
            raise RuntimeError(f"cartesian_prod: Expect a 1D vector, but got shape {list(x._data.type.shape)}")
    if len(tensors) == 1:
        return tensors[0]
    return stack([reshape(g, -1) for g in meshgrid(*tensors)], 1)


def block_diag(*tensors: Tensor) -> Tensor:
    """A matrix with the given matrices along its diagonal."""
    blocks = [atleast_2d(x) for x in tensors]
    columns = 0
    for i, b in enumerate(blocks):
        if b._data.type.ndim != 2:
            raise RuntimeError(f"block_diag: Input tensors must have 2 or fewer dimensions. Input {i} has {b._data.type.ndim} dimensions")
        columns += b._data.type.shape[1]
    rows, at = [], 0
    for b in blocks:
        width = b._data.type.shape[1]
        rows.append(apply(TABLE["pad"], (b, 0), ((0, at), (0, columns - at - width))))
        at += width
    return cat(rows, 0)
