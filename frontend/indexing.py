"""`x[...]` and `x[...] = v`: basic indexing is a chain of views, advanced indexing a gather or scatter."""
from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from treadle.creation import adopt, tensor, to_array
from treadle.ir import dtypes
from treadle.ir import op as op_table
from treadle.ir.ops.common import refuse_overflow
from treadle.ir.types import tensor_type
from treadle.layout import strides_of
from treadle.runtime import memory
from treadle.runtime.recorder import STATE, computed
from treadle.tensor import Tensor, alias, apply, assign, check_writable, is_batched, storage_of, view, wrap

SLICE, RESHAPE, PERMUTE = op_table.get("slice"), op_table.get("reshape"), op_table.get("permute")


class _Parsed:
    """An index split into its view part and its advanced part.

    `slices`: one slice per axis of the tensor, integers as slices of length one; `shape`: the shape after dropping integer
    axes and inserting None; `advanced`: (axis of that shape, index tensor) pairs. `cuts`: an integer, `-1:` or `:n` would cut other sizes,
    so it is recorded as a slice if it takes everything, too. `apart`: axes under a mask are not joined.
    """

    def __init__(self, apart: bool) -> None:
        self.apart = apart
        self.cuts = False
        self.slices: list[tuple[int, int, int]] = []
        self.shape: list[int] = []
        self.advanced: list[tuple[int, Tensor]] = []


def _items(index: Any) -> tuple[Any, ...]:
    if isinstance(index, tuple):
        return index
    if isinstance(index, list) and any(isinstance(i, slice | Tensor | list | np.ndarray) or i is None or i is Ellipsis for i in index):
        return tuple(index)
    return (index,)


def _normalize(item: Any) -> Any:
    """Numpy scalars and arrays, lists and 0-d integer tensors in their plain form."""
    if isinstance(item, bool | int | slice) or item is None or item is Ellipsis:
        return item
    if isinstance(item, Tensor):
        t = item._data.type
        if t.dtype.category >= dtypes.FLOAT or t.dtype in dtypes.WIDE_UNSIGNED:
            raise IndexError(f"tensors used as indices must be long, int, byte or bool tensors, got {t.dtype.name}")
        return item
    if isinstance(item, np.bool_):
        return bool(item)
    if isinstance(item, np.ndarray | list | range):
        array = np.asarray(item)
        return adopt(array.astype(np.int64) if array.size == 0 or array.dtype.kind in "iu" else array.copy())
    if hasattr(item, "__index__"):
        return operator.index(item)
    raise IndexError("only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices "
                    f"(got {type(item).__name__})")


def _axes_used(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Tensor) and item._data.type.dtype in (dtypes.bool_, dtypes.uint8):
        return item._data.type.ndim
    return 1


def _parse(x: Tensor, index: Any, apart: bool = False) -> _Parsed:
    shape = x._data.type.shape
    items = [_normalize(i) for i in _items(index)]
    used = sum(_axes_used(i) for i in items)
    if used > len(shape):
        raise IndexError(f"too many indices for tensor of dimension {len(shape)}")
    if sum(1 for i in items if i is Ellipsis) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    rest = [slice(None)] * (len(shape) - used)
    at = next((k for k, i in enumerate(items) if i is Ellipsis), None)
    items = items + rest if at is None else items[:at] + rest + items[at + 1:]
    parsed = _Parsed(apart)
    for item in items:
        _take(parsed, item, shape)
    return parsed


def _take(parsed: _Parsed, item: Any, shape: tuple[int, ...]) -> None:
    axis = len(parsed.slices)
    if item is None:
        parsed.shape.append(1)
    elif isinstance(item, bool):
        parsed.advanced.append((len(parsed.shape), tensor([0] if item else [], dtype=dtypes.int64)))
        parsed.shape.append(1)
    elif isinstance(item, int):
        size = shape[axis]
        if not -size <= item < size:
            raise IndexError(f"index {item} is out of bounds for dimension {axis} with size {size}")
        item += size if item < 0 else 0
        parsed.slices.append((item, item + 1, 1))
        parsed.cuts = True
    elif isinstance(item, slice):
        parsed.slices.append(_bounds(item, shape[axis]))
        lo, hi, step = parsed.slices[-1]
        parsed.cuts = parsed.cuts or item.stop is not None or (item.start.__class__ is int and item.start == -1)
        parsed.shape.append(max(0, -(-(hi - lo) // step)))
    elif item._data.type.dtype in (dtypes.bool_, dtypes.uint8):
        _take_mask(parsed, item, shape)
    else:
        parsed.slices.append((0, shape[axis], 1))
        parsed.advanced.append((len(parsed.shape), item))
        parsed.shape.append(shape[axis])


def _take_mask(parsed: _Parsed, mask: Tensor, shape: tuple[int, ...]) -> None:
    """A mask selects where it is true: it is looked at (a flush) and becomes an index tensor, or one an axis if these stay apart."""
    if is_batched(mask):
        raise RuntimeError("vmap: We do not support batching operators that can support dynamic shape. Attempting to batch over indexing "
                           "with a boolean mask: use torch.where, or masked_fill.")
    axis, have = len(parsed.slices), mask._data.type.shape
    for d, n in enumerate(have):
        if n != shape[axis + d]:
            raise IndexError(f"The shape of the mask {list(have)} at index {d} does not match the shape of the indexed tensor "
                             f"{list(shape)} at index {axis + d}")
    parsed.slices += [(0, n, 1) for n in have]
    if parsed.apart and have:
        for n, places in zip(have, np.nonzero(to_array(mask)), strict=True):
            parsed.advanced.append((len(parsed.shape), adopt(places)))
            parsed.shape.append(n)
        return
    # The mask's axes become one, and so do its indices.
    parsed.advanced.append((len(parsed.shape), adopt(np.flatnonzero(to_array(mask)))))
    parsed.shape.append(math.prod(have))


def _bounds(item: slice, size: int) -> tuple[int, int, int]:
    parts = [int(p) if isinstance(p, Tensor) else p for p in (item.start, item.stop, item.step)]
    step = 1 if parts[2] is None else operator.index(parts[2])
    if step <= 0:
        raise ValueError("step must be greater than zero")
    lo, hi, step = slice(parts[0], parts[1], step).indices(size)
    return lo, max(lo, hi), step


def _basic(x: Tensor, parsed: _Parsed) -> Tensor:
    """The view part. Always a tensor of its own, even for `x[...]`."""
    shape = x._data.type.shape
    out = x
    if parsed.cuts or any(s != (0, n, 1) for s, n in zip(parsed.slices, shape, strict=True)):
        starts, stops, steps = zip(*parsed.slices, strict=True)
        out = view(SLICE, out, (starts, stops, steps))
    if tuple(parsed.shape) != out._data.type.shape:
        out = view(RESHAPE, out, (tuple(parsed.shape),))
    if out is x:
        out = alias(x)
        out._detached = x._detached
        out._edge = x._edge
    return out


@functools.lru_cache(4096)
def _row_parts(shape: tuple[int, ...], count: int) -> tuple[Any, ...]:
    """What all `x[i]` of a shape share: the other axes of the slice, its steps, the reshape, elements per row."""
    rest = shape[1:]
    return (0,) * len(rest), rest, (1,) * len(shape), (RESHAPE, (rest,)), count // shape[0]


def row(x: Tensor, index: int) -> Tensor:
    """`x[index]` for an integer in range: as a window of a computed value when it can be, without going through two views."""
    data = x._data
    storage = storage_of(x)
    starts, stops, steps, reshape, count = _row_parts(data.type.shape, data.type.numel)
    index += data.type.shape[0] if index < 0 else 0
    cut = ((index, *starts), (index + 1, *stops), steps)
    if (x._edge is not None or storage.export is not None or x._seen != storage.version or data.buffer is None
            or STATE.here.capture is not None or data.type.device != "cpu"):
        return view(RESHAPE, view(SLICE, x, cut), reshape[1])
    type = tensor_type(stops, data.type.dtype, data.type.device)
    size = type.dtype.itemsize * count
    t = wrap(computed(type, memory.Buffer(data.buffer.ptr + index * size, size, data.buffer)))
    t._storage, t._seen = storage, storage.version
    t._chain = (*x._chain, (SLICE, cut), reshape)
    if x._detached:
        t._detached = True
    return t


def getitem(x: Tensor, index: Any) -> Tensor:
    """`x[index]`: a view for integers, slices, None and `...`; a copy when an index is a tensor, list or mask."""
    parsed = _parse(x, index)
    if not parsed.advanced:
        return _basic(x, parsed)
    shape = x._data.type.shape
    whole = tuple(parsed.shape) == shape and all(s == (0, n, 1) for s, n in zip(parsed.slices, shape, strict=True))
    out = x if whole else _basic(x, parsed)
    dims = tuple([d for d, _ in parsed.advanced])
    return lookup(op_table.TABLE["index"], out, [i for _, i in parsed.advanced], (dims,))


def lookup(op: op_table.Op, x: Tensor, indices: Sequence[Tensor], attrs: op_table.Attrs) -> Tensor:
    """Record `op`, which reads places of `x`; of memory shared with numpy it reads them now."""
    if x._storage is not None and x._storage.export is not None:
        from treadle.interop import looked_up
        found = looked_up(op, x, indices, attrs)
        if found is not None:
            return found
    result: Tensor = apply(op, (x, *indices), attrs)
    return result


def _is_mask(index: Any) -> bool:
    """Whether the index is a mask alone: then one number is filled in, of any dtype."""
    return isinstance(index, Tensor) and index._data.type.dtype in (dtypes.bool_, dtypes.uint8)


def setitem(x: Tensor, index: Any, value: Any) -> None:
    """`x[index] = value`, broadcasting value and casting it to x's dtype."""
    check_writable(x, "__setitem__")
    parsed = _parse(x, index, bool(x._chain) and 0 in strides_of(x))
    target = _basic(x, parsed)
    if not isinstance(value, Tensor):
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or isinstance(value, str):
            raise TypeError(f"can't assign a {type(value).__name__} to a tensor")
        if not isinstance(value, int | float | bool | complex):
            value = tensor(value)
    dtype = x._data.type.dtype
    if parsed.advanced:
        if isinstance(value, Tensor) and value._data.type.dtype is not dtype:
            if value._data.type.numel != 1 or not _is_mask(index):
                raise RuntimeError(f"Index put requires the source and destination dtypes match, got {dtype.title} for the destination and "
                                   f"{value._data.type.dtype.title} for the source.")
            value = apply(op_table.TABLE["cast"], (value,), (dtype,))
        dims = tuple([d for d, _ in parsed.advanced])
        if not isinstance(value, Tensor):
            refuse_overflow(value, dtype)
        if x._chain and 0 in strides_of(x) and _put_overlapping(x, target, index, value):
            return
        new = apply(op_table.TABLE["index_put"], (target, value, *[i for _, i in parsed.advanced]), (dims, False))
    else:
        new = broadcast_to(value, target)
    assign(target, new, "__setitem__")
    if target._storage is not None and target._storage is x._storage:
        from treadle.tensor import read
        read(x)


def _put_overlapping(x: Tensor, target: Tensor, index: Any, value: Any) -> bool:
    """Write to an expanded tensor if elements of `target`, the part of it that is indexed, are one place of memory; whether they were."""
    from treadle import overlapping
    if not overlapping.shared_axes(x) or not (_is_mask(index) or overlapping.shared_axes(target)):
        return False
    found, type = apply(op_table.TABLE["copy"], (x,)), x._data.type
    written = apply(op_table.TABLE["full"], (False,), (type.shape, dtypes.bool_, type.device))
    setitem(found, index, value)
    setitem(written, index, True)
    overlapping.write(x, found, written, "index_put_")
    return True


def index_put_with(x: Tensor, index: Any, value: Any, accumulate: bool) -> Tensor:
    """x with `value` written (or added) at tensor indices, as a new tensor."""
    parsed = _parse(x, index)
    target = _basic(x, parsed)
    dims = tuple([d for d, _ in parsed.advanced])
    return apply(op_table.TABLE["index_put"], (target, value, *[i for _, i in parsed.advanced]), (dims, accumulate))


def broadcast_to(value: Any, target: Tensor) -> Tensor:
    """`value` as a fresh tensor of target's shape and dtype: what an in-place copy stores."""
    t = target._data.type
    if not isinstance(value, Tensor):
        refuse_overflow(value, t.dtype)
        return apply(op_table.TABLE["full"], (value,), (t.shape, t.dtype, t.device))
    have = value._data.type
    if have.shape != t.shape:
        shape = have.shape
        while len(shape) > len(t.shape) and shape[0] == 1:
            shape = shape[1:]
        if len(shape) > len(t.shape) or any(n not in (1, m) for n, m in zip(reversed(shape), reversed(t.shape), strict=False)):
            raise RuntimeError(f"shape mismatch: value tensor of shape {list(have.shape)} cannot be broadcast to "
                               f"indexing result of shape {list(t.shape)}")
        if shape != have.shape:
            value = apply(RESHAPE, (value,), (shape,))
        value = apply(op_table.TABLE["expand"], (value,), (t.shape,))
    if have.dtype is not t.dtype:
        return apply(op_table.TABLE["cast"], (value,), (t.dtype,))
    return apply(op_table.TABLE["copy"], (value,), ())


__all__ = ["getitem", "setitem"]
