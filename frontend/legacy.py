"""PyTorch's old tensor classes (`FloatTensor`, `LongTensor`, ...) and its memory formats, which Treadle accepts and ignores."""
from __future__ import annotations

from typing import Any

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.tensor import Tensor


class _OldClass(type):
    """`isinstance(x, LongTensor)` asks for a tensor of that dtype."""

    dtype: DType

    def __instancecheck__(cls, x: object) -> bool:
        return isinstance(x, Tensor) and x._data.type.dtype is cls.dtype

    def __call__(cls, *args: Any) -> Tensor:
        from treadle.creation import tensor, zeros
        if len(args) == 1 and not isinstance(args[0], int) and type(args[0]).__name__ != "Size":
            return tensor(args[0], dtype=cls.dtype)
        return zeros(*(args or (0,)), dtype=cls.dtype)


NAMES = {"FloatTensor": dtypes.float32, "DoubleTensor": dtypes.float64, "HalfTensor": dtypes.float16, "BFloat16Tensor": dtypes.bfloat16,
         "LongTensor": dtypes.int64, "IntTensor": dtypes.int32, "ShortTensor": dtypes.int16, "CharTensor": dtypes.int8,
         "ByteTensor": dtypes.uint8, "BoolTensor": dtypes.bool_}
globals().update({name: _OldClass(name, (), {"dtype": dtype, "__doc__": f"Makes tensors of {dtype!r}: from sizes, or from data."})
                  for name, dtype in NAMES.items()})


class _VariableClass(type):
    """`isinstance(x, Variable)` holds for every tensor."""

    def __instancecheck__(cls, x: object) -> bool:
        return isinstance(x, Tensor)

    def __call__(cls, data: Tensor, requires_grad: bool = False, volatile: bool = False) -> Tensor:
        from treadle.tensor import alias
        found: Tensor = alias(data).requires_grad_(requires_grad)
        return found


class Variable(metaclass=_VariableClass):
    """What PyTorch 0.3 wrapped tensors in: another tensor on the same memory, off the tape. `volatile` is ignored, as it is there."""


class _OldCudaClass(_OldClass):
    """The same, of tensors on a CUDA device."""

    def __instancecheck__(cls, x: object) -> bool:
        return super().__instancecheck__(x) and isinstance(x, Tensor) and x.is_cuda

    def __call__(cls, *args: Any) -> Tensor:
        return super().__call__(*args).to("cuda")


def on_cuda(name: str) -> Any:
    """`treadle.cuda.FloatTensor` and its like. Making one needs a device."""
    return _OldCudaClass(name, (), {"dtype": NAMES[name], "__doc__": f"Makes CUDA tensors of {NAMES[name]!r}: from sizes, or from data."})


class memory_format:
    """How PyTorch would lay out axes in memory. Treadle chooses layouts itself: accepted everywhere, of no effect."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"treadle.{self.name}"


class layout(memory_format):
    """PyTorch's layouts: a tensor is `strided` unless it is one of `treadle.sparse`."""


contiguous_format, channels_last, channels_last_3d, preserve_format = (
    memory_format(name) for name in ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format"))
strided, sparse_coo, sparse_csr, sparse_csc = (layout(name) for name in ("strided", "sparse_coo", "sparse_csr", "sparse_csc"))
LAYOUTS = {each.name: each for each in (strided, sparse_coo, sparse_csr, sparse_csc)}

__all__ = [*NAMES, "channels_last", "channels_last_3d", "contiguous_format", "memory_format", "preserve_format", "sparse_coo", "sparse_csc",
           "sparse_csr", "strided"]
