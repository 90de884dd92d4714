"""Names that PyTorch keeps under `torch.*` beside newer ones: another function's result copied, unchecked or renamed; and windows."""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import treadle
from treadle import ops, special
from treadle.arguments import Flag, guard, misfit
from treadle.factorizations import geqrf, lu_unpack, orgqr, ormqr
from treadle.factorizations import older_lu as lu
from treadle.factorizations import older_lu_solve as lu_solve
from treadle.functions import tensor_argument
from treadle.ir.ops.common import not_implemented
from treadle.ir.types import normalize_dim
from treadle.nn import dropout_functions
from treadle.per_example import for_each_example
from treadle.reductions import Dim
from treadle.results import into, with_out
from treadle.shaping import whole, window
from treadle.signal import windows
from treadle.tensor import Tensor
from treadle.view_writes import refuse_overlap

_COPIED = ("as_strided", "diagonal", "expand", "narrow", "permute", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
           "unfold", "unsqueeze", "view")
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
# The names that `treadle` takes from here, when they are first asked for.
__all__ = [
    *(f"{name}_copy" for name in _COPIED), "alias_copy", "as_strided_scatter", "bartlett_window", "blackman_window",
    *_DROPOUTS, *(f"{name}_" for name in _DROPOUTS), "constant_pad_nd", "fill", "histogramdd", "empty_permuted", "frexp", "gcd",
    "gradient", "grid_sampler_2d", "geqrf", "grid_sampler_3d",
    "hamming_window", "hann_window", "histogram", "i0", "igamma", "igammac", "kaiser_window", "lcm", "lu", "lu_solve", "lu_unpack",
    "mvlgamma", "nextafter", "nonzero_static", "orgqr", "ormqr", "pca_lowrank", "polygamma",
    "renorm", "svd", "svd_lowrank", "triangular_solve", "unsafe_chunk", "unsafe_split",
]
i0, igamma, igammac = special.i0, special.gammainc, special.gammaincc
mvlgamma, polygamma = special.multigammaln, special.polygamma


class SVD(NamedTuple):
    U: Tensor
    S: Tensor
    V: Tensor


class TriangularSolution(NamedTuple):
    solution: Tensor
    cloned_coefficient: Tensor


class Histogram(NamedTuple):
    hist: Tensor
    bin_edges: Tensor


# -- memory --------------------------------------------------------------------------------------------------------------------------
def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], *, dtype: Any = None, device: Any = None,
                   requires_grad: Flag = False) -> Tensor:
    """An uninitialised tensor whose axes lie in memory in the order `physical_layout`."""
    if sorted(physical_layout) != list(range(len(size))):
        raise RuntimeError(f"empty_permuted: physical_layout {tuple(physical_layout)} is not a permutation of the axes of size "
                           f"{tuple(size)}")
    strides, step = [0] * len(size), 1
    for axis in reversed(physical_layout):
        strides[axis], step = step, step * size[axis]
    return treadle.empty_strided(size, strides, dtype=dtype, device=device, requires_grad=requires_grad)


def as_strided_scatter(input: Tensor, src: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = 0) -> Tensor:
    """`input` with `src` written where `as_strided` would show it."""
    if tuple(src.shape) != tuple(size):
        raise RuntimeError(f"as_strided_scatter: expected src to have a size equal to the slice of self. src size = {list(src.shape)}, "
                           f"slice size = {list(size)}")
    place = window("as_strided_scatter", input, size, stride, storage_offset)
    if any(n > 1 and not step for n, step in zip(*place[:2], strict=True)):
        refuse_overlap()
    if not input._chain:
        plain: Tensor = ops.as_strided_scatter(input, src, *place)
        return plain
    layout = tuple(input.shape), tuple(input.stride()), input.storage_offset()
    storage = whole(input).detach().reshape(-1)
    storage = ops.as_strided_scatter(ops.as_strided_scatter(storage, input, *layout), src, *place)
    return treadle.as_strided(storage, *layout)


def constant_pad_nd(input: Tensor, pad: Sequence[int], value: float = 0) -> Tensor:
    """`nn.functional.pad` with a constant."""
    return treadle.nn.functional.pad(input, list(pad), value=value)


# -- matrices ------------------------------------------------------------------------------------------------------------------------
@with_out
def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> SVD:
    """(U, S, V) with input = U diag(S) V^H: `linalg.svd` gives V^H."""
    if not compute_uv:
        s = treadle.linalg.svdvals(input)
        zeros = treadle.zeros((*input.shape[:-2], input.shape[-2], input.shape[-2]), dtype=input.dtype, device=input.device)
        return SVD(zeros, s, treadle.zeros((*input.shape[:-2], input.shape[-1], input.shape[-1]), dtype=input.dtype, device=input.device))
    u, s, vh = treadle.linalg.svd(input, full_matrices=not some)
    return SVD(u, s, vh.mH)


def svd_lowrank(A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None) -> SVD:
    """The q largest singular values with their vectors, by random projections (Halko, Martinsson and Tropp, 2009, algorithm 5.1)."""
    x = A if M is None else A - M
    rank = min(q or 6, *x.shape[-2:])
    basis = treadle.linalg.qr(x @ treadle.randn(*x.shape[:-2], x.shape[-1], rank, dtype=x.dtype))[0]
    for _ in range(niter or 0):
        basis = treadle.linalg.qr(x @ treadle.linalg.qr(x.mH @ basis)[0])[0]
    u, s, vh = treadle.linalg.svd(basis.mH @ x, full_matrices=False)
    return SVD(basis @ u, s, vh.mH)


def pca_lowrank(A: Tensor, q: int | None = None, center: bool = True, niter: int = 2) -> SVD:
    """Principal components: `svd_lowrank` of the rows less their mean."""
    x = A - A.mean(-2, keepdim=True) if center else A
    return svd_lowrank(x, min(6, *A.shape[-2:]) if q is None else q, niter)


@with_out
def triangular_solve(b: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> TriangularSolution:
    """(x, A) with A x = b for a triangular A."""
    matrix = A.mT if transpose else A
    x = treadle.linalg.solve_triangular(matrix, b, upper=upper != transpose, unitriangular=unitriangular)
    return TriangularSolution(x, A.clone())


# -- others --------------------------------------------------------------------------------------------------------------------------
def gradient(input: Tensor, *, spacing: Any = 1, dim: Dim = None, edge_order: int = 1) -> tuple[Tensor, ...]:
    """Differences of second order inside and of order `edge_order` at the ends, along each axis; spacing is one number, or one per axis."""
    dims = list(range(input.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    axes = [normalize_dim("gradient", d, input.dim()) for d in dims]
    for d in axes:
        if axes.count(d) > 1:
            raise RuntimeError(f"gradient: dim {d} appears multiple times in the list of dims")
    if spacing is None and isinstance(dim, tuple | list):
        raise misfit("gradient", "spacing", 2, "a number, or tuple of numbers or Tensors", spacing)
    spacing = 1 if spacing is None else spacing
    steps = [spacing] * len(dims) if isinstance(spacing, int | float) else list(spacing)
    if isinstance(spacing, str) or any(not isinstance(h, int | float | Tensor) for h in steps):
        raise misfit("gradient", "spacing", 2, "a number, or tuple of numbers or Tensors", spacing)
    if edge_order not in (1, 2):
        raise RuntimeError(f"gradient: only supports edge_order=1 and edge_order=2, got {edge_order}")
    if len(steps) != len(dims):
        raise RuntimeError(f"gradient: expected spacing to be unspecified, a scalar, or it's spacing and dim arguments to have the same "
                           f"length, but got {len(steps)} for the axes {dims}")
    if input.dtype in (treadle.uint8, treadle.bool):
        raise RuntimeError(f"torch.gradient does not support {input.dtype} input.")
    if not input.dtype.is_floating_point and not input.dtype.is_complex:
        input = input.to(treadle.get_default_dtype())
    return tuple([_over(input, d, h, edge_order) if isinstance(h, Tensor) else _along(input, d, float(h), edge_order)
                  for d, h in zip(axes, steps, strict=True)])


def _over(x: Tensor, d: int, places: Tensor, order: int) -> Tensor:
    """The derivative along axis `d` of values at uneven places (a vector): second order inside (numpy.gradient's formula)."""
    n = x.shape[d]
    if places.dim() != 1 or places.numel() != n:
        raise RuntimeError(f"gradient: expected each element of spacing to have {n} coordinates, got {list(places.shape)}")
    if n < order + 1:
        raise RuntimeError(f"gradient: expected each dimension size to be at least edge_order+1, got {n} along dimension {d}")
    shape = [-1 if i == d else 1 for i in range(x.dim())]
    h = treadle.diff(places.to(x.dtype))
    before, after = h[:-1].reshape(shape), h[1:].reshape(shape)
    at = lambda i, count=1: x.narrow(d, i, count)
    inner = (-after / (before * (before + after)) * at(0, n - 2) + (after - before) / (before * after) * at(1, n - 2)
             + before / (after * (before + after)) * at(2, n - 2)) if n > 2 else x.narrow(d, 0, 0)
    if order == 1:
        first, last = (at(1) - at(0)) / h[0], (at(n - 1) - at(n - 2)) / h[-1]
    else:
        a, b = h[0], h[1]
        first = -(2 * a + b) / (a * (a + b)) * at(0) + (a + b) / (a * b) * at(1) - a / (b * (a + b)) * at(2)
        a, b = h[-2], h[-1]
        last = b / (a * (a + b)) * at(n - 3) - (a + b) / (a * b) * at(n - 2) + (2 * b + a) / (b * (a + b)) * at(n - 1)
    return treadle.cat([first, inner, last], d)


def _along(x: Tensor, d: int, h: float, order: int) -> Tensor:
    n = x.shape[d]
    if n < order + 1:
        raise RuntimeError(f"gradient: expected each dimension size to be at least edge_order+1, got {n} along dimension {d}")
    at = lambda i, count=1: x.narrow(d, i, count)
    if order == 1:
        first, last = (at(1) - at(0)) / h, (at(n - 1) - at(n - 2)) / h
    else:
        first = (-1.5 * at(0) + 2 * at(1) - 0.5 * at(2)) / h
        last = (0.5 * at(n - 3) - 2 * at(n - 2) + 1.5 * at(n - 1)) / h
    return treadle.cat([first, *([(at(2, n - 2) - at(0, n - 2)) / (2 * h)] if n > 2 else []), last], d)


@with_out
def histogram(input: Tensor, bins: Any = 100, *, range: tuple[float, float] | None = None, weight: Tensor | None = None,
              density: bool = False) -> Histogram:
    """Counts (or weights) in bins, the last of which holds its upper edge; computed by numpy."""
    _check_bins("histogram", input, 1, range, weight)
    if isinstance(bins, Tensor):
        found = histogramdd(input.reshape(-1, 1), (bins,), weight=None if weight is None else weight.reshape(-1), density=density)
        return Histogram(found.hist, bins.clone())
    if not isinstance(bins, int):
        raise misfit("histogram", "bins", 2, "int or Tensor", bins)
    weights = None if weight is None else weight.detach().numpy()
    counts, edges = _by_numpy("histogram", np.histogram, input.detach().numpy(), bins, range, density=density, weights=weights)
    dtype = input.dtype
    return Histogram(treadle.tensor(counts, dtype=dtype), treadle.tensor(edges, dtype=dtype))


class HistogramDD(NamedTuple):
    hist: Tensor
    bin_edges: tuple[Tensor, ...]


def histogramdd(input: Tensor, bins: Any, *, range: Sequence[float] | None = None, weight: Tensor | None = None,
                density: bool = False) -> HistogramDD:
    """Counts of points (..., D) in a grid of bins: one number for all axes, one each, or their edges; computed by numpy."""
    if input.dim() < 2:
        raise RuntimeError(f"histogramdd: expected points in rows, got an input of shape {list(input.shape)}")
    width = input.shape[-1]
    if not isinstance(bins, int | tuple | list) or (not isinstance(bins, int) and len({_is_edges(b, input) for b in bins}) > 1):
        raise misfit("histogramdd", "bins", 2, "int, tuple of ints or tuple of Tensors", bins)
    counted = isinstance(bins, int) or not any(isinstance(b, Tensor) for b in bins)
    _check_bins("histogramdd", input, width, range if counted else None, weight)
    if not input.dtype.is_floating_point:
        raise not_implemented("histogramdd", input.dtype, (input._data.type,))
    points = input.detach().numpy().reshape(-1, width)
    if not isinstance(bins, int) and len(bins) != width:
        raise RuntimeError(f"histogramdd: expected {width} sequences of bin edges for a {width}-dimensional histogram but got {len(bins)}")
    pairs = None if range is None or not counted else list(zip(range[::2], range[1::2], strict=True))
    weights = None if weight is None else weight.detach().numpy().reshape(-1)
    points = points.astype(np.float64)
    if counted:
        bins = _by_numpy("histogramdd", np.histogramdd, points[:0] if pairs else points, bins, pairs)[1]
        bins = [treadle.tensor(edges, dtype=input.dtype) for edges in bins]
    edges = [b.detach().numpy() for b in bins]
    counts = _count_points(points, edges, weights)
    if density:
        with np.errstate(invalid="ignore"):
            counts /= functools.reduce(np.multiply.outer, map(np.diff, edges)) * counts.sum()
    return HistogramDD(treadle.tensor(counts, dtype=input.dtype), tuple(bins))


def _check_bins(name: str, input: Tensor, width: int, range: Sequence[float] | None, weight: Tensor | None) -> None:
    """RuntimeError for ends or weights of points of `width` coordinates that do not fit them."""
    if range is not None and len(range) != 2 * width:
        raise RuntimeError(f"{name}: for a {width}-dimensional histogram range should have {2 * width} elements, but got {len(range)}")
    want = input.shape if name == "histogram" else input.shape[:-1]
    if weight is not None and (weight.shape != want or weight.dtype is not input.dtype):
        raise RuntimeError(f"{name}: weight should have shape {list(want)} and dtype {input.dtype.name}, got {list(weight.shape)} and "
                           f"{weight.dtype.name}")


def _is_edges(b: Any, input: Tensor) -> bool:
    """Whether bins of one axis are given by their edges. RuntimeError for a tensor that is no vector, TypeError for what is no int."""
    if not isinstance(b, Tensor):
        if not hasattr(b, "__index__"):
            raise misfit("histogramdd", "bins", 2, "int, tuple of ints or tuple of Tensors", b)
        return False
    if b.dim() != 1 or b.numel() < 2 or b.dtype is not input.dtype:
        raise RuntimeError(f"histogramdd: bins should be vectors of at least 2 elements in {input.dtype.name}, got {b._data.type}")
    return True


def _by_numpy(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What numpy's function finds; what it refuses is a RuntimeError here."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        raise RuntimeError(f"{name}: {error}") from error


def _count_points(points: np.ndarray, edges: Sequence[np.ndarray], weights: np.ndarray | None) -> np.ndarray:
    """How many points lie in each cell. Edges that do not ascend are searched as if they did, as PyTorch does."""
    shape = [len(e) - 1 for e in edges]
    inside = np.ones(len(points), bool)
    cells = []
    for x, e in zip(points.T, edges, strict=True):
        inside &= (x >= e[0]) & (x <= e[-1])
        cells.append(np.minimum(np.searchsorted(e, x, "right") - 1, len(e) - 2))
    counts = np.zeros(shape)
    np.add.at(counts, tuple([c[inside] for c in cells]), 1.0 if weights is None else weights[inside])
    return counts


def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor like the input, every element of it `value` (a number or a 0-d tensor)."""
    if isinstance(value, Tensor) and value.dim():
        raise RuntimeError(f"fill only supports 0-dimension value tensor but got tensor with {value.dim()} dimensions.")
    return input.clone().fill_(value)


_MODES = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


def grid_sampler_2d(input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Tensor:
    """`nn.functional.grid_sample` with its modes as numbers."""
    for what, mode in (("interpolation", interpolation_mode), ("padding", padding_mode)):
        if mode not in (0, 1, 2):
            raise RuntimeError(f"grid_sampler(): {what}_mode must be 0, 1 or 2, got {mode}")
    return treadle.nn.functional.grid_sample(input, grid, _MODES[0][interpolation_mode], _MODES[1][padding_mode], align_corners)


grid_sampler_3d = grid_sampler_2d


# -- copies, and windows -------------------------------------------------------------------------------------------------------------
def _copying(name: str) -> Callable[..., Any]:
    def function(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        input = input.contiguous() if name == "view" else input  # a copy may have any shape
        if name in ("expand", "permute", "view") and not kwargs and (len(args) != 1 or isinstance(args[0], int)):
            raise TypeError(f"{name}_copy(): argument 'size' (position 2) must be one tuple of ints, got {args}")
        if name == "narrow" and (args[0] if args else kwargs["dim"]) >= input.dim():
            raise RuntimeError(f"narrow_copy: Expected dim < {input.dim()}, the number of dimensions")
        found = getattr(input, name)(*args, **kwargs)
        return tuple([x.clone() for x in found]) if isinstance(found, tuple | list) else found.clone()
    function.__name__ = function.__qualname__ = f"{name}_copy"
    function.__doc__ = f"A copy of `input.{name}(...)`, which shares no memory with it."
    return with_out(function)


globals().update({f"{name}_copy": _copying(name) for name in _COPIED})


@with_out
def alias_copy(input: Tensor) -> Tensor:
    """A copy of the input."""
    return input.clone()


def _dropping(name: str, inplace: bool) -> Callable[..., Tensor]:
    plain = getattr(dropout_functions, name)

    def function(input: Tensor, p: float, train: bool) -> Tensor:
        result: Tensor = plain(input, p, train, inplace)
        return result
    function.__name__ = function.__qualname__ = f"{name}_" if inplace else name
    function.__doc__ = "In place: see the function without the underscore." if inplace else f"{plain.__doc__}"
    return function


globals().update({f"{name}_" if inplace else name: _dropping(name, inplace) for name in _DROPOUTS for inplace in (False, True)})


def unsafe_chunk(input: Tensor, chunks: int, dim: int = 0) -> Any:
    """`chunk`; the pieces are views here too."""
    return input.chunk(chunks, dim)


def unsafe_split(input: Tensor, split_size: int, dim: int = 0) -> Any:
    """`split` into pieces of one size; they are views here too."""
    return input.split(split_size, dim)


@with_out
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """The slices along `dim` whose p-norm exceeds `maxnorm` scaled down to it."""
    if input.dim() < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {input.dim()} dimensions")
    own = normalize_dim("renorm", dim, input.dim())
    dims = [d for d in range(input.dim()) if d != own]
    if p <= 0:
        raise RuntimeError(f"renorm: non-positive-norm not supported, got p={p}")
    if maxnorm < 0:
        raise RuntimeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm}")
    norms = treadle.linalg.vector_norm(input, p, dims, True)
    return input * treadle.where(norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)


@for_each_example
@with_out
def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first `size` indices of elements that are not zero, filled up with `fill_value`."""
    found = input.nonzero()[:size]
    return treadle.nn.functional.pad(found, (0, 0, 0, size - found.shape[0]), value=fill_value)


def _window(name: str) -> Callable[..., Tensor]:
    def function(window_length: int, periodic: bool = True, *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
                 **kwargs: Any) -> Tensor:
        given = dict(zip({"hamming": ("alpha", "beta"), "kaiser": ("beta",)}.get(name, ()), args, strict=False)) | kwargs
        made, options = name, given
        if name == "hamming" and given:
            made, options = "general_cosine", {"a": [given.get("alpha", 0.54), given.get("beta", 0.46)]}
        made_by = getattr(windows, made)
        if dtype is not None and not dtype.is_floating_point:
            raise RuntimeError(f"{name}_window expects floating point dtypes, got: {dtype}")
        wide = treadle.float32 if dtype in (treadle.float16, treadle.bfloat16) else dtype
        result: Tensor = made_by(window_length, sym=not periodic, dtype=wide, device=device, **options)
        return result.to(dtype or result.dtype).requires_grad_(requires_grad)
    function.__name__ = function.__qualname__ = f"{name}_window"
    function.__doc__ = f"`signal.windows.{name}`, periodic unless told."
    return function


bartlett_window, blackman_window, hamming_window = _window("bartlett"), _window("blackman"), _window("hamming")
hann_window, kaiser_window = _window("hann"), _window("kaiser")


def _pairwise(name: str, doc: str) -> Callable[..., Tensor]:
    op = getattr(ops, name)

    def function(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
        x, y = tensor_argument(name, input), tensor_argument(name, other, "other", 2)
        result: Tensor = into(out, op(*treadle.broadcast_tensors(x, y)), name)
        return result
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


gcd, lcm = _pairwise("gcd", "The greatest common divisor of integers."), _pairwise("lcm", "The least common multiple of integers.")
nextafter = _pairwise("nextafter", "The next representable number after input in the direction of other.")


@with_out
def frexp(input: Tensor) -> tuple[Tensor, Tensor]:
    """(mantissa, exponent) with input = mantissa * 2^exponent and 0.5 <= |mantissa| < 1."""
    mantissa, exponent = ops.frexp(input)
    return mantissa, exponent


guard(globals(), __all__)
