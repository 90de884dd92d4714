"""`treadle.fft`: discrete Fourier transforms, as `torch.fft`.

`norm`: "backward" (the default: the backward transform is divided by n), "forward" (the forward one) or "ortho" (both, by sqrt(n)).
`n` and `s` cut or pad the operand with zeros along the axes first. Results of float32 are complex64.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle import creation
from treadle.arguments import guard
from treadle.functions import TABLE, tensor_argument
from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT
from treadle.ir.types import normalize_dim
from treadle.joining import roll
from treadle.results import cast, with_out
from treadle.tensor import Tensor, apply

Ints = tuple[int, ...]
_CONJ = TABLE["conj"]

__all__ = ["fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "hfft2", "hfftn", "ifft", "ifft2", "ifftn", "ifftshift", "ihfft", "ihfft2",
           "ihfftn", "irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftfreq", "rfftn"]


# -- arguments ---------------------------------------------------------------------------------------------------------------
def _scale(norm: str | None, forward: bool) -> str:
    """What the transform in that direction is divided by."""
    if norm == "ortho":
        return "root"
    if norm not in (None, "backward", "forward"):
        raise RuntimeError(f'Invalid normalization mode: "{norm}"')
    return "all" if (norm == "forward") is forward else "none"


def _operand(name: str, input: Any, real: bool = False) -> Tensor:
    """`input` as floating point, complex unless `real`."""
    x = tensor_argument(name, input)
    dtype = x._data.type.dtype
    if real and dtype.is_complex:
        raise RuntimeError(f"{name} expects a real input tensor, but got {dtype.title}")
    if dtype in (dtypes.float16, dtypes.bfloat16):
        raise RuntimeError(f"Unsupported dtype {dtype.title}")
    if dtype.category < FLOAT:
        dtype = dtypes.default_float()
    return cast(x, dtype if real else dtypes.to_complex(dtype))


def _resized(x: Tensor, dims: Ints, sizes: Sequence[int]) -> Tensor:
    """Cut, or padded with zeros, to these sizes along the axes; -1 keeps one."""
    for dim, size in zip(dims, sizes, strict=True):
        have = x._data.type.shape
        if size == -1 or size == have[dim]:
            continue
        if size < 1:
            raise RuntimeError(f"Invalid number of data points ({size}) specified")
        if size < have[dim]:
            x = x.narrow(dim, 0, size)
        else:
            high = tuple([size - n if d == dim else 0 for d, n in enumerate(have)])
            x = apply(TABLE["pad"], (x, 0), ((0,) * len(have), high))
    return x


def _axis(name: str, x: Tensor, dim: int) -> Ints:
    if not x._data.type.shape:
        raise IndexError(f"{name}: Dimension specified as {dim} but tensor has no dimensions")
    return (normalize_dim(name, dim, x._data.type.ndim),)


def _axes(name: str, x: Tensor, s: Any, dim: Any) -> tuple[Ints, Ints]:
    """The axes, and the sizes wanted along them (-1: as it is)."""
    ndim = x._data.type.ndim
    sizes = None if s is None else (s,) if isinstance(s, int) else tuple(s)
    if dim is not None:
        dims = tuple([normalize_dim(name, d, ndim) for d in ((dim,) if isinstance(dim, int) else dim)])
        if dims and not ndim:
            raise IndexError(f"{name}: Dimension specified as {dim} but tensor has no dimensions")
        if len(set(dims)) != len(dims):
            raise RuntimeError("FFT dims must be unique")
        if sizes is not None and len(sizes) != len(dims):
            raise RuntimeError("When given, dim and shape arguments must have the same length")
    elif sizes is not None:
        if len(sizes) > ndim:
            raise RuntimeError(f"Got shape with {len(sizes)} values but input tensor only has {ndim} dimensions.")
        dims = tuple(range(ndim - len(sizes), ndim))
    else:
        dims = tuple(range(ndim))
    return dims, sizes or (-1,) * len(dims)


# -- transforms ----------------------------------------------------------------------------------------------------------------
def _c2c(x: Tensor, dims: Ints, norm: str | None, forward: bool) -> Tensor:
    return apply(TABLE["fft_c2c"], (x,), (dims, _scale(norm, forward), forward)) if dims else x


def _r2c(x: Tensor, dims: Ints, scale: str) -> Tensor:
    return apply(TABLE["fft_r2c"], (x,), (dims, scale))


def _c2r(name: str, x: Tensor, dims: Ints, sizes: Ints, scale: str) -> Tensor:
    """`sizes` of the result; the operand gets n // 2 + 1 along the last axis."""
    last = dims[-1]
    size = 2 * (x._data.type.shape[last] - 1) if sizes[-1] == -1 else sizes[-1]
    if size < 1:
        raise RuntimeError(f"Invalid number of data points ({size}) specified")
    x = _resized(x, dims, (*sizes[:-1], size // 2 + 1))
    return apply(TABLE["fft_c2r"], (x,), (dims, scale, size))


def _some(name: str, dims: Ints) -> None:
    if not dims:
        raise RuntimeError(f"{name} must transform at least one axis")


@with_out
def fftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The transform along the axes `dim`: all, or as many last ones as `s` has sizes."""
    x = _operand("fftn", input)
    dims, sizes = _axes("fftn", x, s, dim)
    return _c2c(_resized(x, dims, sizes), dims, norm, True)


@with_out
def ifftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of `fftn`."""
    x = _operand("ifftn", input)
    dims, sizes = _axes("ifftn", x, s, dim)
    return _c2c(_resized(x, dims, sizes), dims, norm, False)


@with_out
def rfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """`fftn` of real numbers: along the last axis the n // 2 + 1 coefficients of which the others are conjugates."""
    x = _operand("rfftn", input, real=True)
    dims, sizes = _axes("rfftn", x, s, dim)
    _some("rfftn", dims)
    return _r2c(_resized(x, dims, sizes), dims, _scale(norm, True))


@with_out
def irfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of `rfftn`: real numbers, an even number 2 (m - 1) along the last axis unless `s` says."""
    x = _operand("irfftn", input)
    dims, sizes = _axes("irfftn", x, s, dim)
    _some("irfftn", dims)
    return _c2r("irfftn", x, dims, sizes, _scale(norm, False))


@with_out
def hfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The forward transform, real, of numbers that are Hermitian: the second half along the last axis is left out."""
    x = _operand("hfftn", input)
    dims, sizes = _axes("hfftn", x, s, dim)
    _some("hfftn", dims)
    return _c2r("hfftn", apply(_CONJ, (x,)), dims, sizes, _scale(norm, True))


@with_out
def ihfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of `hfftn`."""
    x = _operand("ihfftn", input, real=True)
    dims, sizes = _axes("ihfftn", x, s, dim)
    _some("ihfftn", dims)
    return apply(_CONJ, (_r2c(_resized(x, dims, sizes), dims, _scale(norm, False)),))


def _one_axis(several: Any, name: str, real: bool) -> Any:
    def function(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
        x = _operand(name, input, real)
        if n is not None and n < 1:
            raise RuntimeError(f"Invalid number of data points ({n}) specified")
        found: Tensor = several(x, None if n is None else (n,), _axis(name, x, dim), norm)
        return found
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{several.__name__}` along one axis."
    return with_out(function)


def _two_axes(several: Any, name: str) -> Any:
    def function(input: Tensor, s: Any = None, dim: Ints = (-2, -1), norm: str | None = None) -> Tensor:
        found: Tensor = several(input, s, dim, norm)
        return found
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{several.__name__}` along two axes."
    return with_out(function)


fft, ifft, rfft, irfft, hfft, ihfft = (_one_axis(f, f.__name__[:-1], f in (rfftn, ihfftn)) for f in (
    fftn, ifftn, rfftn, irfftn, hfftn, ihfftn))
fft2, ifft2, rfft2, irfft2, hfft2, ihfft2 = (_two_axes(f, f"{f.__name__[:-1]}2") for f in (fftn, ifftn, rfftn, irfftn, hfftn, ihfftn))


# -- frequencies -----------------------------------------------------------------------------------------------------------------
def _frequencies(counts: Tensor, n: int, d: float, options: dict[str, Any]) -> Tensor:
    dtype = options.get("dtype") or dtypes.default_float()
    made: Tensor = cast(counts, dtype) * (1.0 / (n * d))
    return made.requires_grad_(options.get("requires_grad", False))


@with_out
def fftfreq(n: int, d: float = 1.0, *, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The frequencies of the coefficients of `fft`, in cycles per unit of the sample spacing `d`."""
    half = creation.arange(n, device=device)
    counts = half - (half > (n - 1) // 2).to(dtypes.int64) * n
    return _frequencies(counts, n, d, {"dtype": dtype, "requires_grad": requires_grad})


@with_out
def rfftfreq(n: int, d: float = 1.0, *, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The frequencies of the coefficients of `rfft`."""
    return _frequencies(creation.arange(n // 2 + 1, device=device), n, d, {"dtype": dtype, "requires_grad": requires_grad})


def _shifted(name: str, input: Tensor, dim: Any, by: Any) -> Tensor:
    shape = tensor_argument(name, input)._data.type.shape
    given = range(len(shape)) if dim is None else (dim,) if isinstance(dim, int) else dim
    dims = tuple([normalize_dim(name, d, len(shape)) for d in given])
    if dims and not shape:
        raise IndexError(f"{name}: Dimension specified as {dims[0]} but tensor has no dimensions")
    if not dims:
        raise RuntimeError(f"{name}: `shifts` required, but there are no axes to shift: shape {list(shape)}, dim {dim}")
    return roll(input, tuple([by(shape[d]) for d in dims]), dims)


def fftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The coefficient of frequency 0 moved to the middle of the axes `dim` (all)."""
    return _shifted("fftshift", input, dim, lambda n: n // 2)


def ifftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The inverse of `fftshift`."""
    return _shifted("ifftshift", input, dim, lambda n: (n + 1) // 2)


guard(globals(), __all__)
