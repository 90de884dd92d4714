"""Dtypes and what the namespace can do: `astype`, `can_cast`, `isdtype`, `result_type`, `finfo`, `iinfo`, `__array_namespace_info__`."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import treadle
from treadle.array_api.arguments import array, fitting, on
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, COMPLEX, FLOAT, INT, DType
from treadle.tensor import Tensor

__all__ = ["__array_namespace_info__", "astype", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]

# The standard's dtypes that exist here.
_DTYPES = (dtypes.bool_, dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64, dtypes.uint8, dtypes.float32, dtypes.float64,
           dtypes.complex64, dtypes.complex128)
_KINDS = {
    "bool": lambda d: d.category == BOOL, "signed integer": lambda d: d.category == INT and d.signed,
    "unsigned integer": lambda d: d.category == INT and not d.signed, "integral": lambda d: d.category == INT,
    "real floating": lambda d: d.category == FLOAT, "complex floating": lambda d: d.category == COMPLEX,
    "numeric": lambda d: d.category != BOOL,
}


def _dtype(x: Any) -> DType:
    return x.dtype if isinstance(x, Tensor) else x


def astype(x: Tensor, dtype: DType, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """x in another dtype, and on another device if given; x itself when nothing changes and no copy is asked for."""
    if array("astype", x).dtype.is_complex and not dtype.is_complex and dtype.category != BOOL:
        raise TypeError("astype: complex numbers cannot become real ones; take the real part")
    moved = x if device is None else x.to(on(device))
    if moved.dtype is dtype:
        return moved.clone() if copy and moved is x else moved
    return moved.to(dtype)


def can_cast(from_: Any, to: DType, /) -> bool:
    """Whether an array or dtype promotes to `to`."""
    return dtypes.promote(_dtype(from_), to) is to


def isdtype(dtype: DType, kind: Any) -> bool:
    """Whether a dtype is of a kind: a dtype, a kind's name ("integral", "real floating", ...), or a tuple of them."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, str):
        if kind not in _KINDS:
            raise ValueError(f"isdtype: unknown kind {kind!r}, expected one of {', '.join(_KINDS)}")
        return bool(_KINDS[kind](dtype))
    if not isinstance(kind, DType):
        raise TypeError(f"isdtype: expected a dtype, a string or a tuple of them, got {type(kind).__name__}")
    return dtype is kind


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype to which arrays and dtypes promote; Python numbers must fit and change nothing."""
    numbers = [x for x in arrays_and_dtypes if isinstance(x, (bool, int, float, complex))]
    found: DType | None = None
    for x in arrays_and_dtypes:
        if not isinstance(x, (bool, int, float, complex)):
            found = _dtype(x) if found is None else dtypes.promote(found, _dtype(x))
    if found is None:
        raise TypeError("result_type: at least one argument must be an array or a dtype")
    for number in numbers:
        fitting("result_type", number, found)
    return found


@dataclass(frozen=True)
class finfo_object:
    """Limits of a floating dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class iinfo_object:
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: DType


def finfo(type: Any, /) -> finfo_object:
    """Limits of a floating dtype, or of that of an array; of the parts of a complex one."""
    real = dtypes.to_real(_dtype(type))
    info = treadle.finfo(real)
    return finfo_object(info.bits, info.eps, info.max, info.min, info.smallest_normal, real)


def iinfo(type: Any, /) -> iinfo_object:
    """Limits of an integer dtype, or of that of an array."""
    info = treadle.iinfo(_dtype(type))
    return iinfo_object(info.bits, info.max, info.min, _dtype(type))


class __array_namespace_info__:
    """What the namespace offers: capabilities, devices, dtypes."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean indexing and shapes that depend on data are there; arrays have at most 64 axes, numpy's limit."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Any:
        """The device on which arrays are made."""
        return treadle.get_default_device()

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        """The dtypes of new arrays: real and complex floating point, integers, indices."""
        real = treadle.get_default_dtype()
        return {"real floating": real, "complex floating": dtypes.to_complex(real), "integral": dtypes.int64, "indexing": dtypes.int64}

    def devices(self) -> list[Any]:
        """The devices of this machine."""
        from treadle import cuda
        return [treadle.device("cpu"), *[treadle.device(f"cuda:{i}") for i in range(cuda.device_count())]]

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        """Names and dtypes, all or those of a kind."""
        return {d.name: d for d in _DTYPES if kind is None or isdtype(d, kind)}
