"""Shapes and strides: `Size`, and where a view's elements lie in its storage.

A tensor's memory is contiguous; a view's strides follow from the chain of view ops between its storage and itself.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import index
from typing import Any

import treadle.ir.ops  # noqa: F401  (declares the op table)
from treadle.ir import op as op_table
from treadle.ir.op import Attrs, Op
from treadle.tensor import Tensor

AS_REAL, AS_COMPLEX, CONJ = (op_table.get(n) for n in ("view_as_real", "view_as_complex", "conj"))
RESHAPE, PERMUTE, EXPAND, SLICE, AS_STRIDED = (op_table.get(n) for n in ("reshape", "permute", "expand", "slice", "as_strided"))

Ints = tuple[int, ...]


class _Count(int):
    """`x.size` for the array API standard, which wants a number there; called, it is PyTorch's method."""

    def __call__(self, dim: int | None = None) -> Any:
        return self._size(dim)  # type: ignore[attr-defined]


class SizeMethod:
    """The attribute `size` of tensors: the number of elements, and the method `size(dim=None)`."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method, self.__doc__ = method, method.__doc__

    def __get__(self, t: Tensor | None, cls: type) -> Any:
        if t is None:
            return self.method
        found = _Count(t._data.type.numel)
        found._size = partial(self.method, t)  # type: ignore[attr-defined]
        return found


class Size(tuple):
    """A shape: a tuple of ints with `numel()`."""

    __slots__ = ()

    def numel(self) -> int:
        return math.prod(self)

    def __repr__(self) -> str:
        return f"treadle.Size([{', '.join(map(str, self))}])"

    def __getitem__(self, i: Any) -> Any:
        found = tuple.__getitem__(self, i)
        return Size(found) if isinstance(i, slice) else found

    def __add__(self, other: Any) -> Size:
        return Size(tuple.__add__(self, tuple(other)))

    def __radd__(self, other: Any) -> Size:
        return Size(tuple(other) + tuple(self))

    def __mul__(self, count: Any) -> Size:
        return Size(tuple.__mul__(self, count))

    __rmul__ = __mul__


def ints(args: Sequence[Any]) -> Ints:
    """Ints given one by one or as one sequence, as plain ones: those of a captured call are not. TypeError for anything that is no int."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = args[0]
    return tuple([a if a.__class__ is int else int(index(a)) for a in args])


_RANKS = {"channels_last": 4, "channels_last_3d": 5}


def format_fits(memory_format: Any, ndim: int) -> bool:
    return _RANKS.get(getattr(memory_format, "name", ""), ndim) == ndim


def check_format(memory_format: Any, ndim: int) -> None:
    """RuntimeError where PyTorch's memory format is one for tensors with another number of axes."""
    if not format_fits(memory_format, ndim):
        raise RuntimeError(f"required rank {_RANKS[memory_format.name]} tensor to use {memory_format.name} format")


# -- strides ---------------------------------------------------------------------------------------------------------------
def contiguous_strides(shape: Ints) -> Ints:
    """Strides of a C-contiguous array, in elements."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


Layout = tuple[Ints, Ints, int]  # shape, strides and offset, in elements of the storage


def _expanded(layout: Layout, shape: Ints) -> Layout:
    have, strides, offset = layout
    lead = len(shape) - len(have)
    if not have:
        return shape, (0,) * lead, offset
    new = [0 if have[i] == 1 and shape[i + lead] != 1 else s for i, s in enumerate(strides)]
    for n in reversed(shape[:lead]):  # a new axis of size 1 steps over all that follow
        new.insert(0, 0 if n != 1 else shape[len(shape) - len(new)] * new[0])
    return shape, tuple(new), offset


def _sliced(layout: Layout, starts: Ints, stops: Ints, steps: Ints) -> Layout:
    _, strides, offset = layout
    shape = tuple([max(0, -(-(hi - lo) // st)) for lo, hi, st in zip(starts, stops, steps, strict=True)])
    offset += sum([lo * s for lo, s in zip(starts, strides, strict=True)])
    return shape, tuple([s * st for s, st in zip(strides, steps, strict=True)]), offset


def _restrided(layout: Layout, shape: Ints, strides: Ints, offset: int) -> Layout:
    """`strides` and `offset` count elements of the logical tensor; translated digit by digit into steps of its axes."""
    have, actual, start = layout
    logical = contiguous_strides(have)
    if logical == actual:
        return shape, strides, start + offset

    def translate(step: int) -> int:
        total = 0
        for n, c, s in zip(have, logical, actual, strict=True):
            if n > 1:
                total += step // c * s
                step %= c
        return total
    return shape, tuple([translate(s) for s in strides]), start + translate(offset)


def _step(layout: Layout, op: Op, attrs: Attrs) -> Layout:
    shape, strides, offset = layout
    if op is PERMUTE:
        return tuple([shape[d] for d in attrs[0]]), tuple([strides[d] for d in attrs[0]]), offset
    if op is EXPAND:
        return _expanded(layout, attrs[0])
    if op is SLICE:
        return _sliced(layout, *attrs)
    if op is AS_STRIDED:
        return _restrided(layout, *attrs)
    if op is RESHAPE:
        new = viewed_strides(shape, strides, attrs[0])
        return attrs[0], contiguous_strides(attrs[0]) if new is None else new, offset
    if op is AS_REAL:
        return (*shape, 2), (*[2 * s for s in strides], 1), 2 * offset
    if op is AS_COMPLEX:
        return shape[:-1], tuple([s // 2 for s in strides[:-1]]), offset // 2
    if op is CONJ:
        return layout
    raise RuntimeError(f"{op.name} is not a view whose strides are known")


@lru_cache(maxsize=4096)
def layout_of_chain(shape: Ints, chain: tuple[tuple[Op, Attrs], ...]) -> Layout:
    """What a chain of views makes of a contiguous storage of that shape."""
    layout: Layout = (shape, contiguous_strides(shape), 0)
    for op, attrs in chain:
        layout = _step(layout, op, attrs)
    return layout


def layout_of(x: Tensor) -> Layout:
    """Shape, strides and offset of `x` in its storage."""
    if not x._chain:
        shape = x._data.type.shape
        return shape, contiguous_strides(shape), 0
    assert x._storage is not None
    return layout_of_chain(x._storage.base._data.type.shape, x._chain)


def strides_of(x: Tensor) -> Ints:
    """Strides of `x` in elements of its storage."""
    return layout_of(x)[1]


def is_contiguous(x: Tensor, memory_format: Any = None) -> bool:
    """Whether the elements lie in C order without gaps; False for a memory format that needs another number of axes."""
    if memory_format is not None and not format_fits(memory_format, x._data.type.ndim):
        return False
    if not x._chain:
        return True
    shape, strides, _ = layout_of(x)
    if 0 in shape:
        return True
    return all([n == 1 or s == c for n, s, c in zip(shape, strides, contiguous_strides(shape), strict=True)])


def viewed_strides(shape: Ints, strides: Ints, new: Ints) -> Ints | None:
    """Strides under which memory of this layout reads as shape `new`; None when a copy is needed.

    Neighbouring axes that step evenly form runs; each run must split into whole axes of the new shape.
    """
    if 0 in shape:
        return strides if new == shape else contiguous_strides(new)
    out = [0] * len(new)
    j = len(new) - 1
    run, base = 1, strides[-1] if strides else 1
    for i in range(len(shape) - 1, -1, -1):
        run *= shape[i]
        if i > 0 and (shape[i - 1] == 1 or strides[i - 1] == run * base):
            continue
        filled = 1
        while j >= 0 and (filled < run or new[j] == 1):
            out[j] = filled * base
            filled *= new[j]
            j -= 1
        if filled != run:
            return None
        if i > 0:
            run, base = 1, strides[i - 1]
    while j >= 0:  # leading axes of size 1
        out[j] = out[j + 1] * new[j + 1] if j + 1 < len(new) else 1
        j -= 1
    return tuple(out)


def resolve_shape(shape: Ints, numel: int) -> Ints:
    """`shape` with its -1 worked out. RuntimeError, as PyTorch's, when it cannot hold `numel` elements."""
    if -1 in shape:
        if shape.count(-1) > 1:
            raise RuntimeError("only one dimension can be inferred")
        known = -math.prod(shape)
        if known == 0:
            raise RuntimeError(f"cannot reshape tensor of 0 elements into shape {list(shape)} because the unspecified dimension size -1 "
                               "can be any value and is ambiguous")
        if numel % known == 0:
            at = shape.index(-1)
            return (*shape[:at], numel // known, *shape[at + 1:])
    for n in shape:
        if n < -1:
            raise RuntimeError(f"invalid shape dimension {n}")
    if math.prod(shape) != numel or -1 in shape:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {numel}")
    return shape


class TypeOf:
    """What `x.type` is: the value's type for the op table's rules, and, called, PyTorch's `Tensor.type([dtype])`."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    shape = property(lambda self: self._tensor._data.type.shape)
    dtype = property(lambda self: self._tensor._data.type.dtype)
    numel = property(lambda self: self._tensor._data.type.numel)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor._data.type, name)

    def __call__(self, dtype: Any = None, non_blocking: bool = False) -> Any:
        from treadle.interop import legacy_type
        return legacy_type(self._tensor, dtype)


Tensor.type = property(TypeOf)  # type: ignore[attr-defined]
