"""Element types and PyTorch's type promotion."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

# Categories order promotion: a higher category wins over a lower one whatever the widths.
BOOL, INT, FLOAT, COMPLEX = 0, 1, 2, 3  # from FLOAT on, numbers have gradients


class DType:
    """An element type. There is one object per type, so `is` and identity hashing are right. `title` is its name in PyTorch's messages."""

    __slots__ = ("category", "itemsize", "mlir", "name", "np", "signed", "title")

    def __init__(self, name: str, title: str, np_type: Any, category: int, mlir: str, signed: bool = True) -> None:
        self.name = name
        self.title = title
        self.np = np.dtype(np_type)
        self.category = category
        self.itemsize = self.np.itemsize
        self.mlir = mlir
        self.signed = signed

    @property
    def is_floating_point(self) -> bool:
        return self.category == FLOAT

    @property
    def is_complex(self) -> bool:
        return self.category == COMPLEX

    @property
    def is_signed(self) -> bool:
        return self.signed

    def __repr__(self) -> str:
        return f"treadle.{self.name}"

    def __reduce__(self) -> tuple:
        return by_name, (self.name,)


float16 = DType("float16", "Half", np.float16, FLOAT, "f16")
bfloat16 = DType("bfloat16", "BFloat16", ml_dtypes.bfloat16, FLOAT, "bf16")
float32 = DType("float32", "Float", np.float32, FLOAT, "f32")
float64 = DType("float64", "Double", np.float64, FLOAT, "f64")
complex32 = DType("complex32", "ComplexHalf", [("real", np.float16), ("imag", np.float16)], COMPLEX, "complex<f16>")
complex64 = DType("complex64", "ComplexFloat", np.complex64, COMPLEX, "complex<f32>")
complex128 = DType("complex128", "ComplexDouble", np.complex128, COMPLEX, "complex<f64>")
int8 = DType("int8", "Char", np.int8, INT, "i8")
int16 = DType("int16", "Short", np.int16, INT, "i16")
int32 = DType("int32", "Int", np.int32, INT, "i32")
int64 = DType("int64", "Long", np.int64, INT, "i64")
uint8 = DType("uint8", "Byte", np.uint8, INT, "ui8", signed=False)
uint16 = DType("uint16", "UInt16", np.uint16, INT, "ui16", signed=False)
uint32 = DType("uint32", "UInt32", np.uint32, INT, "ui32", signed=False)
uint64 = DType("uint64", "UInt64", np.uint64, INT, "ui64", signed=False)
bool_ = DType("bool", "Bool", np.bool_, BOOL, "i1", signed=False)

ALL = (float16, bfloat16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64, bool_, complex32, complex64,
       complex128)
FLOATS = tuple(d for d in ALL if d.category == FLOAT)
COMPLEXES = (complex64, complex128)  # those that numpy and LAPACK compute in
REALS = tuple(d for d in ALL if d.category != COMPLEX)
INTS = tuple(d for d in ALL if d.category == INT)
WIDE_UNSIGNED = (uint16, uint32, uint64)  # PyTorch has no promotion of them but to floating-point types

_BY_NAME = {d.name: d for d in ALL} | {"half": float16, "float": float32, "double": float64, "short": int16, "int": int32, "long": int64,
                                         "chalf": complex32, "cfloat": complex64, "cdouble": complex128}
_BY_MLIR = {d.mlir: d for d in ALL}
_BY_NP = {d.np: d for d in ALL}


def by_name(name: str) -> DType:
    return _BY_NAME[name]


def by_mlir(text: str) -> DType:
    return _BY_MLIR[text]


def from_numpy(np_type: np.dtype) -> DType:
    """The DType of a numpy dtype; TypeError if Treadle has none."""
    found = _BY_NP.get(np.dtype(np_type).newbyteorder("="))
    if found is None:
        raise TypeError(f"can't convert an array of numpy dtype {np_type}; supported are {', '.join(d.name for d in ALL)}")
    return found


def _promote_ints(a: DType, b: DType) -> DType:
    if a.signed == b.signed:
        return a if a.itemsize >= b.itemsize else b
    signed, unsigned = (a, b) if a.signed else (b, a)
    return signed if signed.itemsize > unsigned.itemsize else int16


def check_promotion(a: DType, b: DType) -> None:
    """RuntimeError in PyTorch's words for a wide unsigned type beside another one that is not floating-point."""
    if a is not b and (a in WIDE_UNSIGNED or b in WIDE_UNSIGNED) and FLOAT not in (a.category, b.category):
        raise RuntimeError(f"Promotion for uint16, uint32, uint64 types is not supported, attempted to promote {a.title} and {b.title}")


def promote(a: DType, b: DType) -> DType:
    """The common type of two types of equal standing (PyTorch's `promote_types`). RuntimeError where there is none."""
    if a is b:
        return a
    check_promotion(a, b)
    if a.category != b.category:
        high, low = (a, b) if a.category > b.category else (b, a)
        return promote(high, to_complex(low)) if high.category == COMPLEX and low.category == FLOAT else high
    if a.category >= FLOAT:
        if a.itemsize == b.itemsize:  # float16 with bfloat16
            return float32
        return a if a.itemsize > b.itemsize else b
    return _promote_ints(a, b)


def to_real(dtype: DType) -> DType:
    """The dtype of the parts of a complex number; any other dtype itself."""
    return {complex32: float16, complex64: float32, complex128: float64}.get(dtype, dtype)


def to_complex(dtype: DType) -> DType:
    """The complex dtype whose parts hold `dtype` (complex64 for bfloat16 and integers)."""
    return {float16: complex32, complex32: complex32, float64: complex128, complex128: complex128}.get(dtype, complex64)


def plain(array: np.ndarray) -> np.ndarray:
    """An array in a dtype that numpy computes in: complex32, which it sees as pairs of float16, becomes complex64."""
    if array.dtype != complex32.np:
        return array
    parts = np.ascontiguousarray(array).reshape(-1).view(np.float16)
    return parts.astype(np.float32).view(np.complex64).reshape(array.shape)


def converted(array: np.ndarray, dtype: DType) -> np.ndarray:
    """`array.astype(dtype.np)`, to and from complex32 too."""
    array = plain(array)
    if dtype is not complex32:
        return array.astype(dtype.np)
    parts = np.ascontiguousarray(array, np.complex128).reshape(-1).view(np.float64).astype(np.float16)
    return parts.view(complex32.np).reshape(array.shape)


_default = [float32]


def default_float() -> DType:
    """The dtype of new floating tensors and of integer inputs to floating functions (`set_default_dtype`)."""
    return _default[0]


def default_complex() -> DType:
    """The dtype of new complex tensors: its parts have the default float dtype."""
    return to_complex(_default[0])


def set_default_float(dtype: DType) -> None:
    if dtype.category != FLOAT:
        raise TypeError(f"only floating-point types are supported as the default type, got {dtype!r}")
    _default[0] = dtype
