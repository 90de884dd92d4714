"""What rules of several families share: PyTorch's dtype names in messages, 16-bit arithmetic, sizes and positions as values."""
from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT, DType
from treadle.ir.types import TensorType, result_dtype

Types = tuple[TensorType, ...]
Dims = tuple[int, ...]

HALVES = (dtypes.float16, dtypes.bfloat16)


def not_implemented(name: str, dtype: DType, types: Types) -> NotImplementedError:
    """PyTorch's error for an op without a kernel for `dtype` (NotImplementedError is a RuntimeError)."""
    return NotImplementedError(f'"{name}" not implemented for \'{dtype.title}\' (operands: {", ".join(map(str, types))})')


def need_float(name: str, *types: TensorType) -> None:
    """NotImplementedError unless every type is floating point, or complex where the op takes complex numbers."""
    for t in types:
        if t.dtype.category < FLOAT:
            raise not_implemented(name, t.dtype, types)


def need_real(name: str, *types: TensorType) -> None:
    """NotImplementedError for complex operands: of numbers without an order, or functions known for real ones only."""
    for t in types:
        if t.dtype.is_complex:
            raise not_implemented(name, t.dtype, types)


def need_number(name: str, *types: TensorType) -> None:
    """NotImplementedError for bools."""
    need_float(name, *[t for t in types if t.dtype.category == dtypes.BOOL])


def same_as_second(name: str) -> Callable[..., TensorType]:
    """The type rule of a gradient op `(g, x, ...)`: the type of x, which must be floating point."""
    def type_rule(types: Types, *attrs: Any) -> TensorType:
        need_float(name, types[1])
        return types[1]
    return type_rule


def need_index(name: str, index: TensorType) -> None:
    """RuntimeError, as PyTorch's, unless `index` holds integers of 32 or 64 bits; IndexError where it stands in brackets."""
    if index.dtype is not dtypes.int64 and index.dtype is not dtypes.int32:
        raise (IndexError if name in ("index", "index_put") else RuntimeError)(
            f"{name}: Expected dtype int32 or int64 for index, but got {index.dtype.name} (index {index})")


def need_dim(name: str, dim: int, ndim: int) -> None:
    """IndexError unless `dim` is a normalised axis; a 0-d tensor counts as having one."""
    if not 0 <= dim < max(ndim, 1):
        span = max(ndim, 1)
        raise IndexError(f"{name}: Dimension out of range (expected to be in range of [{-span}, {span - 1}], but got {dim})")


def axes(x: Any, dim: int) -> Dims:
    """The axes that `dim` names: none for a 0-d value."""
    return (dim,) if x.type.shape else ()


def _map(function: Callable[[Any], Any], arg: Any) -> Any:
    return tuple([_map(function, a) for a in arg]) if isinstance(arg, tuple) else function(arg)


def in_float32(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a rule: 16-bit float operands are widened to float32 and float32 results rounded once, at the end.

    The results take the dtype to which the operands promote, as the type rules of these ops say.
    """
    @wraps(rule)
    def wrapped(b: Any, *args: Any) -> Any:
        types: list[TensorType] = []

        def widen(a: Any) -> Any:
            t: Any = getattr(a, "type", None)
            if not hasattr(t, "weak"):
                return a
            t = t if isinstance(t, TensorType) else t.with_()  # a tensor's `type` is more than that
            types.append(t)
            return b.cast(a, dtypes.float32) if t.dtype in HALVES else a

        wide = [_map(widen, a) for a in args]
        result = rule(b, *wide)
        if not any(t.dtype in HALVES for t in types):
            return result
        dtype = result_dtype(tuple(types))
        return _map(lambda r: b.cast(r, dtype) if r is not None and r.type.dtype is dtypes.float32 and dtype in HALVES else r, result)
    return wrapped


def iota_along(b: Any, type: TensorType, dim: int) -> Any:
    """0, 1, ... along axis `dim` as int64 of shape (1, ..., n, ..., 1): the position of each element of a value of `type`."""
    n = type.shape[dim]
    return b.reshape(b.iota(n, dtypes.int64, type.device), tuple([n if d == dim else 1 for d in range(len(type.shape))]))


def refuse_complex_number(number: TensorType, dtype: DType) -> None:
    """RuntimeError, as PyTorch's, for a complex number that is to be stored as a real `dtype`."""
    if number.dtype.is_complex and not dtype.is_complex:
        raise RuntimeError(f"value cannot be converted to type {dtype.name} without overflow: it is complex")


def refuse_overflow(value: Any, dtype: DType) -> None:
    """RuntimeError, as PyTorch's, for a Python number that `dtype` does not hold; negative integers wrap in unsigned dtypes."""
    if value.__class__ is complex:
        fits = dtype.is_complex
    elif dtype.category != dtypes.INT or value.__class__ not in (int, float):
        return
    else:
        info: Any = np.iinfo(dtype.np)
        low = -int(info.max) if value.__class__ is int and not info.min else int(info.min)
        fits = low <= value <= int(info.max)
    if not fits:
        raise RuntimeError(f"value cannot be converted to type {dtype.name} without overflow")


def real_part(b: Any, x: Any) -> Any:
    """x itself when it is real."""
    return b.real(x) if x.type.dtype.is_complex else x


def zeros(b: Any, type: TensorType, dtype: DType | None = None) -> Any:
    """Zeros of the shape, device and (unless given) dtype of `type`."""
    return b.full(0, type.shape, dtype or type.dtype, type.device)


def number(b: Any, value: Any, dtype: DType = dtypes.float64) -> Any:
    """A Python number or scalar as a 0-d value, so that arithmetic on numbers alone keeps Python's precision."""
    return b.cast(value, dtype)
