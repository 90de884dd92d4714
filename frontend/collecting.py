"""Joining many small tensors that are in memory, such as the transitions of a batch: copied at once, not recorded.

Which of them are the same tensor, and how many there are, is another each time: every such program would be a new one to plan.
"""
from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from treadle.ir.types import TensorType, tensor_type
from treadle.runtime import memory
from treadle.runtime.engine import materialize
from treadle.runtime.recorder import STATE, Data, Wrapped, computed
from treadle.tensor import Tensor, read, wrap

MANY = 16                 # tensors; fewer are recorded
MOST_BYTES = 4 << 20      # of the result: larger ones are worth all threads
MOST_PENDING = 8          # one in so many may have to be computed first


def _values(tensors: Sequence[Tensor]) -> list[Data] | None:
    """What is joined, when all of it has one dtype, lies in the host's memory and no gradient is wanted; nearly all of it already."""
    state = STATE.here
    if state.capture is not None or state.autocast is not None:
        return None
    found, pending, total, dtype = [], 0, 0, tensors[0]._data.type.dtype
    for x in tensors:
        if x._edge is not None and state.grad:
            return None
        data = read(x)
        kind = data.type
        total += kind.nbytes
        pending += data.buffer is None
        if (kind.dtype is not dtype or kind.device != "cpu" or kind.layout != "strided" or total > MOST_BYTES
                or pending * MOST_PENDING > len(tensors) or data.trace.__class__ is Wrapped):
            return None
        found.append(data)
    return found


def joined(tensors: Sequence[Tensor], dim: int, new_axis: bool) -> Tensor | None:
    """`cat`, or with `new_axis` `stack`, of at least `MANY` tensors along the axis `dim` (not negative). None when they are to be recorded,
    also because they do not fit one another: recording words the error."""
    datas = _values(tensors)
    if datas is None:
        return None
    shape = datas[0].type.shape
    rest = shape[:dim] + shape[dim + (not new_axis):]
    for data in datas:
        have = data.type.shape
        if len(have) != len(shape) or (have != shape if new_axis else have[:dim] + have[dim + 1:] != rest):
            return None
        if data.buffer is None:
            materialize(data, "many tensors joined")
    along = len(datas) if new_axis else sum([d.type.shape[dim] for d in datas])
    type = tensor_type((*rest[:dim], along, *rest[dim:]), datas[0].type.dtype)
    return wrap(computed(type, _copied(datas, dim, new_axis, type)))


def _copied(datas: list[Data], dim: int, new_axis: bool, type: TensorType) -> memory.Buffer:
    out = memory.allocate(type.nbytes)
    if all([n == 1 for n in type.shape[:dim]]):  # one behind the other
        at = out.ptr
        for data in datas:
            nbytes = data.type.nbytes
            ctypes.memmove(at, data.buffer.ptr, nbytes)
            at += nbytes
        return out
    arrays = [memory.array_of(d.buffer, d.type) for d in datas]
    whole = memory.as_numpy(out, type.shape, type.dtype.np)
    if new_axis:
        np.stack(arrays, dim, out=whole)
    else:
        np.concatenate(arrays, dim, out=whole)
    return out
