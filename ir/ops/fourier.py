"""Discrete Fourier transforms: pocketfft through scipy, or numpy where it is not installed (Kind.EXTERN), with gradients in terms of each
other.

`dims` are the axes, the last of them halved by the transforms of real numbers. `scale` is what a transform is multiplied with: "none",
"root" (1 / sqrt(n)) or "all" (1 / n), for n elements along the axes together. A transform is a symmetric matrix times a vector, so its
gradient is the transform in the other direction.
"""
from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.common import Dims, Types, iota_along, need_dim, not_implemented
from treadle.ir.types import TensorType

_FORWARD: dict[str, Any] = {"none": "backward", "root": "ortho", "all": "forward"}  # numpy names the direction that is divided
_BACKWARD: dict[str, Any] = {"none": "forward", "root": "ortho", "all": "backward"}
_Z = np.array([[1.5 - 0.5j, -0.75 + 1.25j, 0.5j], [-1.25 + 0.5j, 0.25 - 1.0j, 2.0 + 0.75j]], np.complex64)


def _check(name: str, x: TensorType, dims: Dims, real: bool) -> None:
    wanted = (dtypes.float32, dtypes.float64) if real else dtypes.COMPLEXES
    if x.dtype not in wanted:
        raise not_implemented(name, x.dtype, (x,))
    for d in dims:
        need_dim(name, d, x.ndim)
        if x.shape[d] < 1:
            raise RuntimeError(f"{name}: Invalid number of data points ({x.shape[d]}) specified")


def _resized(x: TensorType, dim: int, size: int, dtype: dtypes.DType) -> TensorType:
    return x.with_((*x.shape[:dim], size, *x.shape[dim + 1:]), dtype)


def _c2c_type(types: Types, dims: Dims, scale: str, forward: bool) -> TensorType:
    _check("fft_c2c", types[0], dims, False)
    return types[0]


def _r2c_type(types: Types, dims: Dims, scale: str) -> TensorType:
    x = types[0]
    _check("fft_r2c", x, dims, True)
    return _resized(x, dims[-1], x.shape[dims[-1]] // 2 + 1, dtypes.to_complex(x.dtype))


def _c2r_type(types: Types, dims: Dims, scale: str, size: int) -> TensorType:
    x = types[0]
    _check("fft_c2r", x, dims, False)
    if size < 1 or x.shape[dims[-1]] != size // 2 + 1:
        raise RuntimeError(f"fft_c2r: {size} real numbers have {size // 2 + 1} coefficients, but got {x.shape[dims[-1]]} ({x})")
    return _resized(x, dims[-1], size, dtypes.to_real(x.dtype))


@functools.cache
def _library() -> Any:
    """scipy transforms several lines at once, in vectors: two to five times as fast as numpy, and no faster for a single line."""
    try:
        return importlib.import_module("scipy.fft")
    except ImportError:
        return np.fft


def _np_c2c(x: np.ndarray, dims: Dims, scale: str, forward: bool) -> np.ndarray:
    name, norm = ("fft", _FORWARD[scale]) if forward else ("ifft", _BACKWARD[scale])
    found: np.ndarray = (getattr(_library(), name)(x, None, dims[0], norm) if len(dims) == 1 else
                         getattr(_library(), f"{name}n")(x, axes=dims, norm=norm))
    return found


def _np_r2c(x: np.ndarray, dims: Dims, scale: str) -> np.ndarray:
    found: np.ndarray = _library().rfftn(x, axes=dims, norm=_FORWARD[scale])
    return found


def _np_c2r(x: np.ndarray, dims: Dims, scale: str, size: int) -> np.ndarray:
    sizes = [*[x.shape[d] for d in dims[:-1]], size]
    found: np.ndarray = _library().irfftn(x, sizes, axes=dims, norm=_BACKWARD[scale])
    return found


def _r2c_vjp(b: Any, g: Any, x_type: TensorType, dims: Dims, scale: str) -> Any:
    """The halved axis padded with zeros, transformed back; the operand is real."""
    more = x_type.shape[dims[-1]] - g.type.shape[dims[-1]]
    high = tuple([more if d == dims[-1] else 0 for d in range(len(x_type.shape))])
    return b.real(b.fft_c2c(b.pad(g, 0, (0,) * len(high), high), dims, scale, False))


def _c2r_vjp(b: Any, g: Any, x_type: TensorType, dims: Dims, scale: str, size: int) -> Any:
    """What stands for two coefficients, itself and its conjugate, counts twice."""
    half, last = b.fft_r2c(g, dims, scale), dims[-1]
    at = iota_along(b, half.type, last)
    twice = b.logical_and(b.gt(at, 0), b.lt(at, size - x_type.shape[last] + 1))
    return b.where(twice, b.mul(half, 2), half)


_ATTRS = [((1,), "none"), ((0, 1), "root"), ((1, 0), "all")]
declare("fft_c2c", Kind.EXTERN, "x", "dims scale forward", batch="leading", field=Field.COMPLEX, type_rule=_c2c_type, reference=_np_c2c,
        vjp=(lambda b, g, dims, scale, forward: b.fft_c2c(g, dims, scale, not forward),),
        samples=[((_Z,), (*attrs, forward)) for attrs, forward in zip(_ATTRS, (True, False, True), strict=True)],
        doc="The transform of complex numbers; forward has exp(-2 pi i jk / n).")
declare("fft_r2c", Kind.EXTERN, "x", "dims scale", batch="leading", field=Field.COMPLEX, type_rule=_r2c_type,
        reference=_np_r2c, vjp=(_r2c_vjp,),
        samples=[*[(((3, 4),), attrs) for attrs in _ATTRS], (((2, 5),), ((1,), "none"))],
        doc="The forward transform of real numbers: n // 2 + 1 coefficients along the last axis named, the others are their conjugates.")
declare("fft_c2r", Kind.EXTERN, "x", "dims scale size", batch="leading", field=Field.COMPLEX, type_rule=_c2r_type, reference=_np_c2r,
        vjp=(_c2r_vjp,), samples=[((_Z,), ((1,), "all", 4)), ((_Z,), ((1,), "none", 5)), ((_Z,), ((0, 1), "root", 5))],
        doc="The backward transform to `size` real numbers along the last axis named, from the coefficients that `fft_r2c` gives.")
