"""Shapes: the standard's signatures on `treadle`'s functions."""
from __future__ import annotations

import math
from typing import Any

import treadle
from treadle.array_api.arguments import Axis, array, axes, promoted
from treadle.tensor import Tensor

__all__ = ["broadcast_arrays", "broadcast_shapes", "broadcast_to", "concat", "expand_dims", "flip", "moveaxis", "permute_dims", "repeat",
           "reshape", "roll", "squeeze", "stack", "tile", "unstack"]


def broadcast_arrays(*arrays: Tensor) -> tuple[Tensor, ...]:
    """The arrays expanded to their common shape."""
    return tuple(treadle.broadcast_tensors(*arrays))


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of arrays of these shapes; ValueError when there is none."""
    try:
        return tuple(treadle.broadcast_shapes(*shapes))
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def broadcast_to(x: Tensor, /, shape: tuple[int, ...]) -> Tensor:
    """x expanded to a shape; RuntimeError when it does not fit."""
    return treadle.broadcast_to(array("broadcast_to", x), shape)


def concat(arrays: Any, /, *, axis: int | None = 0) -> Tensor:
    """The arrays one after another along an axis, flattened first when it is None."""
    found = promoted("concat", *arrays)
    if axis is None:
        return treadle.cat([x.reshape(-1) for x in found], 0)
    return treadle.cat(found, axis)


def expand_dims(x: Tensor, /, axis: int) -> Tensor:
    """A new axis of size 1 at a position; IndexError when it is out of range."""
    return treadle.unsqueeze(array("expand_dims", x), axis)


def flip(x: Tensor, /, *, axis: Axis = None) -> Tensor:
    """x in reverse order along axes, all when None."""
    return treadle.flip(array("flip", x), axes(axis, x.ndim))


def moveaxis(x: Tensor, source: Any, destination: Any, /) -> Tensor:
    """Axes moved to other positions, the others in their order."""
    return treadle.moveaxis(array("moveaxis", x), source, destination)


def permute_dims(x: Tensor, /, axes: tuple[int, ...]) -> Tensor:
    """The axes in another order."""
    return treadle.permute(array("permute_dims", x), tuple(axes))


def repeat(x: Tensor, repeats: Any, /, *, axis: int | None = None) -> Tensor:
    """Every element, or entry of an axis, repeated; the flattened array when axis is None."""
    array("repeat", x)
    if isinstance(repeats, Tensor) and repeats.ndim and repeats.shape[0] == 1:
        repeats = repeats.item()
    return treadle.repeat_interleave(x.reshape(-1) if axis is None else x, repeats, 0 if axis is None else axis)


def reshape(x: Tensor, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Tensor:
    """The elements in row-major order under another shape; one size may be -1."""
    found = treadle.reshape(array("reshape", x), tuple(shape))
    return found.clone() if copy else found


def roll(x: Tensor, /, shift: Any, *, axis: Axis = None) -> Tensor:
    """Elements shifted along axes, round the end; the flattened array when axis is None."""
    array("roll", x)
    if isinstance(axis, tuple) and isinstance(shift, int):
        shift = (shift,) * len(axis)
    return treadle.roll(x, shift, axis)


def squeeze(x: Tensor, /, axis: int | tuple[int, ...]) -> Tensor:
    """Without axes of size 1; ValueError when one has another size."""
    array("squeeze", x)
    for a in axes(axis, x.ndim):
        if not -x.ndim <= a < x.ndim:
            raise IndexError(f"squeeze: axis {a} is out of range for an array of shape {tuple(x.shape)}")
        if x.shape[a] != 1:
            raise ValueError(f"squeeze: axis {a} of an array of shape {tuple(x.shape)} has size {x.shape[a]}, not 1")
    return treadle.squeeze(x, axes(axis, x.ndim))


def stack(arrays: Any, /, *, axis: int = 0) -> Tensor:
    """Arrays of one shape along a new axis."""
    return treadle.stack(promoted("stack", *arrays), axis)


def tile(x: Tensor, repetitions: tuple[int, ...], /) -> Tensor:
    """x repeated along its axes, counted from the last."""
    array("tile", x)
    if math.prod(repetitions) == 0 or not x.numel():
        lead = max(len(repetitions), x.ndim)
        have, times = (1,) * (lead - x.ndim) + tuple(x.shape), (1,) * (lead - len(repetitions)) + tuple(repetitions)
        return treadle.empty([n * r for n, r in zip(have, times, strict=True)], dtype=x.dtype, device=x.device)
    return treadle.tile(x, tuple(repetitions))


def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The entries of an axis; IndexError when it is out of range."""
    return tuple(treadle.unbind(array("unstack", x), axis))
