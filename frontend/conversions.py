"""Tensors in other dtypes, on other devices, with memory of their own: `to` and the methods that are short for it."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle import layout, legacy
from treadle.device import device_name
from treadle.functions import TABLE, as_dtype, cast
from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.runtime import engine
from treadle.runtime.recorder import computed
from treadle.tensor import Tensor, apply, read, wrap


def to(self: Tensor, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False, copy: bool = False,
       memory_format: Any = None, other: Tensor | None = None) -> Tensor:
    """`x.to(dtype)`, `x.to(device[, dtype])`, `x.to(other)`."""
    flags = [arg for arg in args if arg is True or arg is False]
    if len(flags) > 1:  # non_blocking, copy
        copy = flags[1]
    for arg in args if other is None else (other, *args):
        if isinstance(arg, Tensor):
            dtype, device = arg._data.type.dtype, arg._data.type.device
        elif isinstance(arg, DType) or arg in (float, int, bool, complex):
            dtype = as_dtype(arg)
        elif not isinstance(arg, bool | legacy.memory_format) and arg is not None:
            device = arg
        elif arg is not None and not isinstance(arg, bool):
            memory_format = arg
    if memory_format is not None:
        layout.check_format(memory_format, self._data.type.ndim)
    name = self._data.type.device if device is None else device_name(device)
    if name != self._data.type.device:
        self = apply(TABLE["to_device"], (self,), (name,))
        copy = False
    if dtype is not None and dtype is not self._data.type.dtype:
        return apply(TABLE["cast"], (self,), (as_dtype(dtype),))
    return clone(self) if copy else self


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy, with memory of its own; gradients flow through."""
    if memory_format is not None:
        layout.check_format(memory_format, input._data.type.ndim)
    return apply(TABLE["copy"], (input,))


def contiguous(self: Tensor, memory_format: Any = None) -> Tensor:
    if memory_format is not None:
        layout.check_format(memory_format, self._data.type.ndim)
    return self if layout.is_contiguous(self) else clone(self)


def cuda(self: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
    """The tensor on a CUDA device: by default where it is, if it is on one, else the current one."""
    if device is None and self._data.type.device != "cpu":
        return self
    return to(self, device="cuda" if device is None else device, non_blocking=non_blocking)


def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """A copy in page-locked memory, which the device reads while the host goes on."""
    if self._data.type.device != "cpu":
        raise RuntimeError(f"cannot pin '{self._data.type.device}': only dense CPU tensors can be pinned")
    from treadle.runtime import cuda_driver, cuda_memory
    cuda_driver.driver()
    data = read(self)
    engine.materialize(data, "pin_memory")
    buffer = cuda_memory.pinned(data.type.nbytes)
    engine.memory.as_numpy(buffer, (data.type.nbytes,), "u1")[:] = engine.memory.as_numpy(data.buffer, (data.type.nbytes,), "u1")
    return wrap(computed(data.type, buffer))


def casting(dtype: DType) -> Callable[..., Tensor]:
    def method(self: Tensor, memory_format: Any = None) -> Tensor:
        if memory_format is not None:
            layout.check_format(memory_format, self._data.type.ndim)
        return cast(self, dtype)
    return method


CASTS = {"float": dtypes.float32, "double": dtypes.float64, "half": dtypes.float16, "bfloat16": dtypes.bfloat16, "long": dtypes.int64,
         "chalf": dtypes.complex32, "cfloat": dtypes.complex64, "cdouble": dtypes.complex128,
         "int": dtypes.int32, "short": dtypes.int16, "char": dtypes.int8, "byte": dtypes.uint8, "bool": dtypes.bool_}
