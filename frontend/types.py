"""Facts about dtypes: `finfo`, `iinfo`, `promote_types`, `result_type`, default dtype."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT, INT, DType
from treadle.ir.types import SCALARS
from treadle.ir.types import result_dtype as _result_dtype
from treadle.runtime import recorder
from treadle.runtime.recorder import STATE
from treadle.tensor import Tensor


class finfo:
    """Limits of a floating dtype: bits, eps, max, min, tiny, smallest_normal, resolution."""

    def __init__(self, dtype: DType | None = None) -> None:
        dtype = dtype or dtypes.default_float()
        dtype = dtypes.to_real(dtype)
        if dtype.category != FLOAT:
            raise TypeError(f"finfo() requires a floating point input type. Use iinfo to handle '{dtype.name}'")
        info: Any = ml_dtypes.finfo(dtype.np)
        self.dtype = dtype.name
        self.bits = dtype.itemsize * 8
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.smallest_normal)
        self.resolution = float(info.resolution)

    def __repr__(self) -> str:
        return (f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, eps={self.eps:g}, "
                f"smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}, dtype={self.dtype})")


class iinfo:
    """Limits of an integer dtype: bits, max, min."""

    def __init__(self, dtype: DType) -> None:
        if dtype.category != INT:
            raise TypeError(f"iinfo() requires an integer input type, got '{dtype.name}'")
        info: Any = np.iinfo(dtype.np)
        self.dtype, self.bits, self.max, self.min = dtype.name, int(info.bits), int(info.max), int(info.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"


def promote_types(type1: DType, type2: DType) -> DType:
    """The dtype to which tensors of two dtypes promote."""
    return dtypes.promote(type1, type2)


def result_type(a: Any, b: Any) -> DType:
    """The dtype of an operation on two tensors or numbers."""
    return _result_dtype(tuple([x._data.type if isinstance(x, Tensor) else SCALARS[type(x)] for x in (a, b)]))


def can_cast(from_: DType, to: DType) -> bool:
    """Whether a cast stays within or goes up the order bool, integer, floating point, complex."""
    return from_.category <= to.category


def get_default_dtype() -> DType:
    """The dtype of new floating-point tensors."""
    return dtypes.default_float()


def set_default_dtype(d: DType) -> None:
    """Dtype of new floating-point tensors. What was recorded so far is computed first."""
    from treadle.runtime import engine
    engine.flush("default dtype changed")
    dtypes.set_default_float(d)
    STATE.here.trace = recorder.fresh_trace()


def is_tensor(obj: Any) -> bool:
    """Whether an object is a Tensor."""
    return isinstance(obj, Tensor)


Number = int | float | bool  # annotations of programs
Device = Any

__all__ = ["can_cast", "finfo", "get_default_dtype", "iinfo", "is_tensor", "promote_types", "result_type", "set_default_dtype"]
