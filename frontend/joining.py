"""Tensors stacked, repeated, reversed, rolled and spread over grids: copies made of views and `cat`."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.arguments import Shape, Tensors
from treadle.ir import op as op_table
from treadle.ir.types import normalize_dim
from treadle.layout import EXPAND, RESHAPE, ints
from treadle.results import COPY, with_out
from treadle.shaping import atleast_1d, atleast_2d, atleast_3d, cat, expand, reshape, sliced, transpose
from treadle.tensor import Tensor, apply

__all__ = ["column_stack", "dstack", "flip", "fliplr", "flipud", "hstack", "meshgrid", "roll", "rot90", "row_stack", "tile", "vstack"]


def _some(name: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    if not len(tensors):
        raise RuntimeError(f"{name} expects a non-empty TensorList")
    return tensors


@with_out
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along columns (vectors: end to end)."""
    xs = [atleast_1d(x) for x in _some("hstack", tensors)]
    return cat(xs, 0 if xs[0]._data.type.ndim == 1 else 1)


@with_out
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along rows; vectors become rows."""
    return cat([atleast_2d(x) for x in _some("vstack", tensors)], 0)


row_stack = vstack


@with_out
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the third axis."""
    return cat([atleast_3d(x) for x in _some("dstack", tensors)], 2)


@with_out
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along columns; vectors become columns."""
    return cat([reshape(x, x._data.type.numel, 1) if x._data.type.ndim < 2 else x for x in _some("column_stack", tensors)], 1)


def repeat(input: Tensor, *counts: Any, repeats: Any = None) -> Tensor:
    """The tensor repeated along each axis, new leading axes included."""
    times, have = ints(counts if repeats is None else (repeats,)), input._data.type.shape
    if len(times) < len(have):
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    shape = (1,) * (len(times) - len(have)) + have
    if any(n * size < 0 for n, size in zip(times, shape, strict=True)):
        raise RuntimeError(f"Trying to create tensor with negative dimension: repeat{times} of {list(have)}")
    times = tuple([max(n, 0) for n in times])  # none are as many as fewer, of nothing
    if all(n == 1 for n in times):
        return apply(COPY, (apply(RESHAPE, (input,), (shape,)),))
    split = tuple([n for size in shape for n in (1, size)])
    wide = tuple([n for r, size in zip(times, shape, strict=True) for n in (r, size)])
    out = apply(EXPAND, (apply(RESHAPE, (input,), (split,)),), (wide,))
    return apply(RESHAPE, (out,), (tuple([r * size for r, size in zip(times, shape, strict=True)]),))


def tile(input: Tensor, *counts: Shape, dims: Any = None) -> Tensor:
    """As `repeat`, with missing leading counts taken as 1."""
    if not counts and dims is None:
        raise TypeError("tile(): dims are missing")
    times = ints(counts if dims is None else (dims,))
    return repeat(input, (1,) * (input._data.type.ndim - len(times)) + times)


def flip(input: Tensor, *axes: Shape, dims: Any = None) -> Tensor:
    """The order of elements reversed along axes; a copy."""
    ndim = input._data.type.ndim
    if not axes and not isinstance(dims, tuple | list):
        raise TypeError(f"flip(): argument 'dims' must be tuple of ints, not {type(dims).__name__}")
    chosen = tuple(sorted([normalize_dim("flip", d, ndim) for d in ints(axes if dims is None else (dims,))]))
    if len(set(chosen)) != len(chosen):
        raise RuntimeError(f"dim {chosen[0]} appears multiple times in the list of dims")
    return apply(op_table.TABLE["flip"], (input,), (chosen,)) if chosen else apply(COPY, (input,))


def fliplr(input: Tensor) -> Tensor:
    """Columns in reverse order."""
    if input._data.type.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """Rows in reverse order."""
    if input._data.type.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, 0)


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Rotated by 90 degrees k times in the plane of two axes."""
    ndim = input._data.type.ndim
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if ndim < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {ndim}")
    if dims[0] == dims[1] or abs(dims[0] - dims[1]) == ndim:
        raise RuntimeError(f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}")
    a, b = (normalize_dim("rot90", d, ndim) for d in dims)
    turns = k % 4
    if turns == 0:
        return apply(COPY, (input,))
    if turns == 2:
        return flip(input, a, b)
    return apply(COPY, (transpose(flip(input, b), a, b) if turns == 1 else flip(transpose(input, a, b), b),))


def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """Elements shifted along axes, re-entering at the other end; without axes, over the flat tensor."""
    if (dims is None or dims == ()) and shifts != ():
        return reshape(roll(reshape(input, -1), shifts, 0), input._data.type.shape)
    out, steps, axes = input, ints((shifts,)), ints((dims or (),)) if dims != 0 else (0,)
    if not steps:
        raise RuntimeError("`shifts` required")
    if len(steps) != len(axes):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(steps)}, dims:{len(axes)}")
    if not input._data.type.numel:
        return apply(COPY, (input,))
    for shift, dim in zip(steps, axes, strict=True):
        dim = normalize_dim("roll", dim, input._data.type.ndim)
        size = input._data.type.shape[dim]
        cut = -shift % size if size else 0
        if cut:
            out = cat([sliced(out, dim, cut, size), sliced(out, dim, 0, cut)], dim)
    return apply(COPY, (input,)) if out is input else out


def meshgrid(*tensors: Tensors, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Coordinate grids of vectors, by matrix ("ij") or by Cartesian ("xy") order of the first two axes."""
    if indexing not in ("ij", "xy", None):
        raise RuntimeError(f"treadle.meshgrid: indexing must be one of \"xy\" or \"ij\", but received: {indexing}")
    xs = list(tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors)
    if not xs:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    if len({x._data.type.dtype for x in xs}) > 1:
        raise RuntimeError("meshgrid expects all tensors to have the same dtype")
    for x in xs:
        if x._data.type.ndim > 1:
            raise RuntimeError(f"treadle.meshgrid: Expected 0D or 1D tensor in the tensor list but got: {x._data.type}")
    swap = indexing == "xy" and len(xs) > 1
    order = [1, 0, *range(2, len(xs))] if swap else list(range(len(xs)))
    shape = tuple([xs[i]._data.type.numel for i in order])
    grids = []
    for i, x in enumerate(xs):
        at = order.index(i)
        grids.append(expand(reshape(x, tuple([-1 if d == at else 1 for d in range(len(xs))])), shape))
    return tuple(grids)
