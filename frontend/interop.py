"""Exchange with numpy and DLPack, sharing memory as PyTorch does.

A recorded program treats values as immutable, so a storage that numpy can see is handled apart: every read takes a
snapshot, every write is carried out at once and copied back, for as long as anything outside still refers to the memory.
"""
from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from treadle.creation import adopt, from_array, to_array
from treadle.ir import dtypes
from treadle.ir.op import Attrs, Op
from treadle.ir.types import tensor_type
from treadle.runtime import engine, memory
from treadle.runtime.recorder import STATE, Data, computed
from treadle.tensor import Storage, Tensor, apply, read, seen, still_shared, storage_of, wrap


def to_numpy(t: Tensor, *, force: bool = False) -> np.ndarray:
    """The tensor as an array that shares its memory (`Tensor.numpy`)."""
    if not force and (t._requires_grad or t._node is not None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
    if t._data.type.dtype is dtypes.complex32:
        raise TypeError("Got unsupported ScalarType ComplexHalf: numpy has no such dtype; use view_as_real or .to(complex64)")
    if force:
        return to_array(t).copy()
    if t._data.buffer is None:
        t = _seen(t)
    if t._data.type.device != "cpu":
        raise TypeError(f"can't convert {t._data.type.device} device type tensor to numpy. "
                        "Use Tensor.cpu() to copy the tensor to host memory first.")
    if sum([op.name == "conj" for op, _ in t._chain]) % 2:
        raise RuntimeError("Can't call numpy() on Tensor that has conjugate bit set. Use tensor.resolve_conj().numpy() instead.")
    storage = storage_of(t)
    if storage.export is None or not still_shared(storage):
        base = read(storage.base)
        engine.materialize(base, "numpy")
        array = memory.array_of(base.buffer, base.type)
        storage.export = Exported(array, base.buffer.ptr)
    else:
        array = storage.export.array
    return through_chain(array, t)


def _seen(t: Tensor) -> Tensor:
    """`t`, or what it shows as a value of a running transform."""
    data = read(t)
    found = seen(data, "numpy")
    return t if found is data else wrap(found)


class Imported:
    """Holds an array that came from outside: everything of ours refers to this object, so the array's other references are theirs."""

    __slots__ = ("address", "array")

    def __init__(self, array: np.ndarray, address: int) -> None:
        self.array = array
        self.address = address

    def alive(self) -> bool:
        """Whether anything outside can still see the memory."""
        return sys.getrefcount(self.array) > 2  # ours, and this call's


class Exported:
    """Refers to an array of ours that was given away, without keeping it."""

    __slots__ = ("address", "ref")

    def __init__(self, array: np.ndarray, address: int) -> None:
        self.ref = weakref.ref(array)
        self.address = address

    def alive(self) -> bool:
        return self.ref() is not None

    @property
    def array(self) -> np.ndarray:
        found = self.ref()
        assert found is not None
        return found


def through_chain(array: np.ndarray, t: Tensor) -> np.ndarray:
    """The view of the whole array that `t` is. Numpy expresses every view op without a copy."""
    for op, attrs in t._chain:
        if op.name == "reshape":
            array = array.reshape(attrs[0])
        elif op.name == "as_strided":
            shape, strides, offset = attrs
            flat = array.reshape(-1)[offset:]
            array = np.lib.stride_tricks.as_strided(flat, shape, [s * array.itemsize for s in strides])
        else:
            assert op.reference is not None
            array = op.reference(array, *attrs)
    return array


def snapshot(t: Tensor, storage: Storage) -> Data:
    """A private copy of what `t` shows of shared memory at this moment."""
    array = through_chain(storage.export.array, t)
    type = tensor_type(array.shape, t._data.type.dtype)
    return computed(type, memory.own_copy(array, type))


def looked_up(op: Op, t: Tensor, rest: Sequence[Any], attrs: Attrs) -> Tensor | None:
    """`op`, which reads a few places of `t`, on shared memory itself, at once: no snapshot of the whole is taken for them. None where the
    memory is shared no more, where a snapshot costs little, or where the result has to stay a recorded value."""
    storage, state = storage_of(t), STATE.here
    if (t._data.type.nbytes < memory.LARGE or state.capture is not None or state.levels or (t._edge is not None and state.grad)
            or storage.export is None or not still_shared(storage)):
        return None
    array = through_chain(storage.export.array, t)
    if not array.flags.c_contiguous:
        return None
    found: Tensor = apply(op, (wrap(computed(t._data.type, memory.from_numpy(array))), *rest), attrs)
    engine.materialize(found._data, "memory shared with numpy")
    return found


def write_back(storage: Storage, old: Data) -> None:
    """Carry out a write to shared memory now."""
    data = storage.base._data
    engine.materialize(data, "write to memory shared with numpy")
    target = storage.export.array
    np.copyto(target, memory.array_of(data.buffer, data.type))


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor sharing memory with the array; TypeError when it is not an array or has no matching dtype."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    dtype = dtypes.from_numpy(array.dtype)
    if any(s < 0 for s in array.strides):
        raise ValueError("At least one stride in the given numpy array is negative, and tensors with negative strides are not currently "
                         "supported. (You can probably work around this by making a copy of your array with array.copy().)")
    if not array.flags.c_contiguous or array.dtype.byteorder == ">" or not array.flags.writeable:
        return from_array(array.astype(dtype.np))
    address = array.__array_interface__["data"][0]
    imported = Imported(array, address)
    t = wrap(computed(tensor_type(array.shape, dtype), memory.Buffer(address, array.nbytes, imported)))
    storage = storage_of(t)
    storage.export = imported
    return t


def legacy_type(t: Tensor, dtype: Any) -> Any:
    """`Tensor.type()`: its old name; `Tensor.type(dtype)`: cast."""
    if dtype is None:
        return f"treadle.{t._data.type.dtype.title}Tensor"
    if isinstance(dtype, str):
        wanted = dtype.rpartition(".")[2].removesuffix("Tensor")
        found = [d for d in dtypes.ALL if d.title == wanted]
        if not found:
            raise ValueError(f"invalid type: '{dtype}'")
        dtype = found[0]
    return t.to(getattr(dtype, "dtype", dtype))


def to_dlpack(t: Tensor, **kwargs: Any) -> Any:
    """A DLPack capsule of the tensor's memory (`Tensor.__dlpack__`); BufferError for dtypes that numpy cannot export."""
    array = to_numpy(t.detach())
    if array.dtype.kind not in "iufbc":
        raise BufferError(f"DLPack export of {t._data.type.dtype.name} is not supported")
    return array.__dlpack__(**{k: v for k, v in kwargs.items() if k in ("max_version", "copy")})


def from_dlpack(source: Any) -> Tensor:
    """A tensor sharing memory with any object that speaks DLPack."""
    array = np.from_dlpack(source)
    return from_numpy(array) if array.flags.writeable else from_array(array)


def array_namespace(self: Tensor, /, *, api_version: str | None = None) -> Any:
    """`treadle.array_api`, the array API standard's functions. ValueError for a version later than 2024.12."""
    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
        raise ValueError(f"version {api_version!r} of the array API standard is not supported; up to 2024.12 are")
    return importlib.import_module("treadle.array_api")


def to_device(self: Tensor, device: Any, /, *, stream: Any = None) -> Tensor:
    """The tensor on a device; `stream` must be None."""
    if stream is not None:
        raise ValueError("to_device: streams are not supported, expected None")
    return self.to(device)


ARRAY_PROTOCOL = {
    "__dlpack__": to_dlpack, "__dlpack_device__": lambda self: (1, 0), "__array_namespace__": array_namespace, "to_device": to_device,
}


def host_call(function: Any, *tensors: Tensor) -> Any:
    """Run a numpy function on the tensors' values (a flush) and wrap its results."""
    result = function(*[to_array(t) for t in tensors])
    return tuple([adopt(np.asarray(r)) for r in result]) if isinstance(result, tuple) else adopt(np.asarray(result))


__all__ = ["from_dlpack", "from_numpy"]
