"""Adding up windows: the gradient of strided views that overlap, as those of `unfold`.

Where each axis of a view runs along one axis of the tensor, the axis of windows and those within a window are told apart, and the sum
is one over the places within a window: a few shifted slices, which fuse to one loop. Any other view adds element by element.
"""
from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from treadle.ir import dtypes
from treadle.ir.ops.common import iota_along

Ints = tuple[int, ...]
MOST_TAPS = 64


class Place(NamedTuple):
    """One axis of the tensor: where the view starts on it, which of the view's axes holds the windows (-1: none), with which step, and
    the others that run along it, with theirs."""

    start: int
    axis: int
    step: int
    taps: tuple[tuple[int, int], ...]


def places(sizes: Ints, shape: Ints, strides: Ints, offset: int) -> list[Place] | None:
    """The view by the axes of a contiguous tensor; None where its axes cross those, or too many share one."""
    steps = [math.prod(sizes[d + 1:]) for d in range(len(sizes))]
    along: list[list[tuple[int, int]]] = [[] for _ in sizes]
    for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        if n > 1:
            d = next((d for d, step in enumerate(steps) if sizes[d] > 1 and 0 < step <= stride), -1)
            if d < 0 or stride % steps[d]:
                return None
            along[d].append((axis, stride // steps[d]))
    found, number = [], 1
    for d, (size, step) in enumerate(zip(sizes, steps, strict=True)):
        start, offset = offset // step, offset % step
        if start + sum([(shape[axis] - 1) * s for axis, s in along[d]]) >= size:
            return None
        longest = max(along[d], key=lambda a: shape[a[0]], default=(-1, 1))
        taps = tuple([a for a in along[d] if a != longest])
        number *= math.prod([shape[axis] for axis, _ in taps])
        found.append(Place(start, *longest, taps))
    return found if number <= MOST_TAPS else None


def strided_add(b: Any, x: Any, y: Any, shape: Ints, strides: Ints, offset: int) -> Any:
    """x with y added to the elements of its strided view."""
    sizes = x.type.shape
    if 0 in (x.type.numel, y.type.numel):
        return x
    found = places(sizes, shape, strides, offset)
    if found is None:
        return _element_by_element(b, x, y, shape, strides, offset)
    counts = tuple([-(-n // p.step) for n, p in zip(sizes, found, strict=True)])
    phases: dict[Ints, Any] = {}
    taps = [tap for p in found for tap in p.taps]
    for at in itertools.product(*[range(shape[axis]) for axis, _ in taps]):
        given = dict(zip([axis for axis, _ in taps], at, strict=True))
        starts = [p.start + sum([given[axis] * step for axis, step in p.taps]) for p in found]
        part = _shifted(b, _tap(b, y, given, found), starts, counts, found)
        phase = tuple([int(s % p.step) for s, p in zip(starts, found, strict=True)])  # a key: it has to be known
        phases[phase] = part if phase not in phases else b.add(phases[phase], part)
    return b.add(x, _interleaved(b, phases, counts, found, sizes, x.type))


def _tap(b: Any, y: Any, given: dict[int, int], found: list[Place]) -> Any:
    """One place of all windows, with one axis for each of the tensor's."""
    shape = y.type.shape
    starts = tuple([given.get(axis, 0) for axis in range(len(shape))])
    part = b.slice(y, starts, tuple([s + 1 if axis in given else n for axis, (s, n) in enumerate(zip(starts, shape, strict=True))]),
                   (1,) * len(shape))
    kept = sorted([p.axis for p in found if p.axis >= 0])
    part = b.reshape(part, tuple([shape[axis] for axis in kept]))
    order = tuple([kept.index(p.axis) for p in found if p.axis >= 0])
    part = part if order == tuple(range(len(order))) else b.permute(part, order)
    return b.reshape(part, tuple([shape[p.axis] if p.axis >= 0 else 1 for p in found]))


def _shifted(b: Any, part: Any, starts: list[int], counts: Ints, found: list[Place]) -> Any:
    """With zeros around, among the elements of its phase."""
    low = tuple([s // p.step for s, p in zip(starts, found, strict=True)])
    high = tuple([n - lo - have for n, lo, have in zip(counts, low, part.type.shape, strict=True)])
    return b.pad(part, 0, low, high) if any(low) or any(high) else part


def _interleaved(b: Any, phases: dict[Ints, Any], counts: Ints, found: list[Place], sizes: Ints, type: Any) -> Any:
    steps, rank = tuple([p.step for p in found]), len(found)
    if math.prod(steps) == 1:
        return phases[(0,) * rank]
    parts = [phases.get(phase) for phase in itertools.product(*[range(s) for s in steps])]
    parts = [b.full(0, counts, type.dtype, type.device) if part is None else part for part in parts]
    whole = b.reshape(b.cat(*[b.reshape(part, (1, *counts)) for part in parts], dim=0), (*steps, *counts))
    whole = b.permute(whole, tuple([axis for d in range(rank) for axis in (rank + d, d)]))
    whole = b.reshape(whole, tuple([n * s for n, s in zip(counts, steps, strict=True)]))
    return whole if whole.type.shape == sizes else b.slice(whole, (0,) * rank, sizes, (1,) * rank)


def _element_by_element(b: Any, x: Any, y: Any, shape: Ints, strides: Ints, offset: int) -> Any:
    at = b.full(offset, (1,) * len(shape), dtypes.int64, x.type.device)
    for axis, stride in enumerate(strides):
        at = b.add(at, b.mul(iota_along(b, y.type, axis), stride))
    at = b.reshape(at if at.type.shape == shape else b.expand(at, shape), (y.type.numel,))
    flat = b.index_add(b.reshape(x, (x.type.numel,)), at, b.reshape(y, (y.type.numel,)), 0)
    return b.reshape(flat, x.type.shape)
