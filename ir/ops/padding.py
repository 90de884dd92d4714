"""Padding with an operand's own elements: each place of the padded axis names the element that stands there."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.ir import dtypes
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.common import Types
from treadle.ir.types import TensorType

Ints = tuple[int, ...]


def _reflect(b: Any, at: Any, n: int) -> Any:
    return b.sub(n - 1, b.abs(b.sub(n - 1, b.abs(at))))


_SOURCES: dict[str, Callable[[Any, Any, int], Any]] = {
    "reflect": _reflect, "replicate": lambda b, at, n: b.minimum(b.maximum(at, 0), n - 1), "circular": lambda b, at, n: b.remainder(at, n)}
MODES = tuple(_SOURCES)


def _type(types: Types, low: Ints, high: Ints, mode: str) -> TensorType:
    x = types[0]
    if mode not in _SOURCES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    for d, (n, lo, hi) in enumerate(zip(x.shape, low, high, strict=True)):
        if mode == "reflect" and max(lo, hi) >= n and (lo or hi):
            raise RuntimeError(f"Argument #4: Padding size should be less than the corresponding input dimension, but got: padding "
                               f"({lo}, {hi}) at dimension {d} of input {list(x.shape)}")
        if mode == "circular" and max(lo, hi) > n:
            raise RuntimeError(f"Padding value causes wrapping around more than once: padding ({lo}, {hi}) at dimension {d} of input "
                               f"{list(x.shape)}")
        if (lo or hi) and (n < 1 or n + lo + hi < 1):
            raise RuntimeError(f"pad: input of size {list(x.shape)} with padding ({lo}, {hi}) at dimension {d} gives an output that is "
                               f"too small")
    return x.with_(tuple([n + lo + hi for n, lo, hi in zip(x.shape, low, high, strict=True)]))


def _mirrored(b: Any, x: Any, axis: int, start: int, count: int) -> Any:
    return b.flip(_part(b, x, axis, start, count), (axis,))


def _edge(b: Any, x: Any, axis: int, start: int, count: int) -> Any:
    shape = x.type.shape
    return b.expand(_part(b, x, axis, start, 1), shape[:axis] + (count,) + shape[axis + 1:])


def _part(b: Any, x: Any, axis: int, start: int, count: int) -> Any:
    """`count` elements along the axis from `start` on."""
    shape = x.type.shape
    low, high = [0] * len(shape), list(shape)
    low[axis], high[axis] = start, start + count
    return b.slice(x, tuple(low), tuple(high), (1,) * len(shape))


# What stands before and behind the n elements of an axis: how it is read, and where that begins for `count` elements.
_BORDERS: dict[str, tuple[Callable[..., Any], Callable[[int, int], int], Callable[[int, int], int]]] = {
    "reflect": (_mirrored, lambda n, count: 1, lambda n, count: n - 1 - count),
    "replicate": (_edge, lambda n, count: 0, lambda n, count: n - 1),
    "circular": (_part, lambda n, count: n - count, lambda n, count: 0)}


def _bordered(b: Any, x: Any, axis: int, lo: int, hi: int, mode: str) -> Any:
    """Nothing is cropped: x between two borders, all of them read and written as neighbours."""
    read, before, behind = _BORDERS[mode]
    n = x.type.shape[axis]
    parts = [x]
    if lo:
        parts.insert(0, read(b, x, axis, before(n, lo), lo))
    if hi:
        parts.append(read(b, x, axis, behind(n, hi), hi))
    return b.cat(*parts, dim=axis)


def _pad(b: Any, x: Any, low: Ints, high: Ints, mode: str) -> Any:
    if not x.type.numel:
        return b.full(0, _type((x.type,), low, high, mode).shape, x.type.dtype, x.type.device)
    for axis, (lo, hi) in reversed(list(enumerate(zip(low, high, strict=True)))):
        if (lo or hi) and min(lo, hi) >= 0:
            x = _bordered(b, x, axis, lo, hi, mode)
        elif lo or hi:
            n = x.type.shape[axis]
            at = b.sub(b.iota(n + lo + hi, dtypes.int64, x.type.device), lo)
            crop = max(0, -lo) if mode == "circular" else 0  # what is cropped does not come round again
            source = _SOURCES[mode](b, b.sub(at, crop) if crop else at, n - crop - max(0, -hi) if mode == "circular" else n)
            x = b.index_select(x, b.add(source, crop) if crop else source, axis)
    return x


declare("pad_mode", Kind.COMPOSITE, "x", "low high mode", field=Field.ANALYTIC, batch="leading",
        type_rule=_type, decompose=_pad, onnx="Pad",
        samples=[*[(((2, 4),), ((0, 3), (0, 2), m)) for m in MODES], *[(((2, 3, 4),), ((0, 2, -1), (0, 1, 3), m)) for m in MODES]],
        doc="x with `low` elements more before and `high` after, by axis: mirrored, the edge repeated, or from the other end.")
