"""Resizing and sampling of the last axes. An output element is a weighted sum of a few input elements along each axis in turn."""
from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from treadle.ir import dtypes
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, in_float32, need_float, not_implemented
from treadle.ir.types import TensorType

Ints = tuple[int, ...]
Scales = tuple[float | None, ...]


class Axis(NamedTuple):
    """One axis to resize: its input and output size, the given factor, and whether the corners' centres coincide."""

    n: int
    out: int
    factor: float | None
    align: bool

    @property
    def step(self) -> float:
        """Input elements per output element."""
        if self.align:
            return (self.n - 1) / (self.out - 1) if self.out > 1 else 0.0
        return 1.0 / self.factor if self.factor else self.n / self.out

    @property
    def unchanged(self) -> bool:
        return self.n == self.out and (self.align or self.factor in (None, 1.0))


def _positions(b: Any, x: TensorType, count: int, shift: float, step: float, i: Any = None) -> Any:
    """(i + shift) * step for i < count (or the whole numbers i), in the precision of x."""
    i = b.cast(b.iota(count, dtypes.int64, x.device) if i is None else i, x.dtype)
    return b.mul(b.add(i, shift) if shift else i, b.cast(step, x.dtype))


def _whole(b: Any, at: Any) -> Any:
    return b.cast(at, dtypes.int64)


def _held(b: Any, index: Any, n: int) -> Any:
    return b.minimum(b.maximum(index, 0), n - 1)


def cubic_weights(b: Any, t: Any, a: float = -0.75) -> list[Any]:
    """Weights of the elements at -1, 0, 1, 2 for a place t in [0, 1) (Keys 1981)."""
    def near(d: Any) -> Any:
        return b.add(b.mul(b.mul(b.sub(b.mul(d, a + 2), a + 3), d), d), 1)

    def far(d: Any) -> Any:
        return b.sub(b.mul(b.add(b.mul(b.sub(b.mul(d, a), 5 * a), d), 8 * a), d), 4 * a)
    return [far(b.add(t, 1)), near(t), near(b.sub(1, t)), far(b.sub(2, t))]


def _taps(b: Any, x: TensorType, axis: Axis, mode: str, outputs: Any = None) -> list[tuple[Any, Any]]:
    """(index, weight) pairs of vectors over an output axis, or for the places `outputs` of it."""
    source = _positions(b, x, axis.out, 0.0 if axis.align else 0.5, axis.step, outputs)
    source = source if axis.align else b.sub(source, 0.5)
    if mode == "cubic":
        base = b.floor(source)
        weights = cubic_weights(b, b.sub(source, base))
        return [(_held(b, b.add(_whole(b, base), j - 1), axis.n), w) for j, w in enumerate(weights)]
    source = b.maximum(source, 0)
    first = b.minimum(_whole(b, source), axis.n - 1)
    weight = b.minimum(b.sub(source, b.cast(first, x.dtype)), 1)
    return [(first, b.sub(1, weight)), (b.minimum(b.add(first, 1), axis.n - 1), weight)]


def _along(value: Any, axis: int, rank: int) -> Ints:
    """The shape of a vector that lies along `axis`."""
    return tuple([value.type.numel if d == axis else 1 for d in range(rank)])


def _resized(types: Types, size: Ints) -> TensorType:
    return types[0].with_(types[0].shape[:types[0].ndim - len(size)] + size)


def _resample(b: Any, x: Any, size: Ints, factors: Scales, mode: str, align: bool) -> Any:
    rank = len(x.type.shape)
    for d, (out, factor) in enumerate(zip(size, factors, strict=True), rank - len(size)):
        axis = Axis(x.type.shape[d], out, factor, align)
        if axis.unchanged:
            continue
        total: Any = None
        for index, weight in _taps(b, x.type, axis, mode):
            part = b.mul(b.index_select(x, index, d), b.reshape(weight, _along(weight, d, rank)))
            total = part if total is None else b.add(total, part)
        x = total
    return x


def _backward_taps(b: Any, g: TensorType, axis: Axis, mode: str) -> list[tuple[Any, Any]]:
    """For each input element of an axis the outputs that may read it, as (index, weight) pairs: their sources are within the
    filter's radius, and they lie side by side."""
    radius, shift = (2 if mode == "cubic" else 1), 0.0 if axis.align else 0.5
    i = b.cast(b.iota(axis.n, dtypes.int64, g.device), g.dtype)
    if axis.step == 0.0:  # one output, whose source is the first element
        count, first = 1, b.mul(i, 0.0)
    else:
        count = math.floor(2 * radius / axis.step) + 3
        first = b.floor(b.sub(b.div(b.add(i, shift - radius), b.cast(axis.step, g.dtype)), shift))
    at = b.add(b.reshape(_whole(b, first), (1, axis.n)), b.reshape(b.iota(count, dtypes.int64, g.device), (count, 1)))
    inside = b.logical_and(b.ge(at, 0), b.lt(at, axis.out))
    at = _held(b, at, axis.out)
    weight = b.where(inside, _weight_of(b, g, axis, mode, at), 0.0)

    def row(v: Any, t: int) -> Any:
        return b.reshape(b.slice(v, (t, 0), (t + 1, axis.n), (1, 1)), (axis.n,))
    return [(row(at, t), row(weight, t)) for t in range(count)]


def _weight_of(b: Any, g: TensorType, axis: Axis, mode: str, outputs: Any) -> Any:
    """The weight of element i in the outputs (count, i)."""
    i = b.iota(axis.n, dtypes.int64, g.device)
    total: Any = None
    for index, weight in _taps(b, g, axis, mode, outputs):
        part = b.where(b.eq(index, i), weight, 0.0)
        total = part if total is None else b.add(total, part)
    return total


def _resample_backward(b: Any, g: Any, shape: Ints, factors: Scales, mode: str, align: bool) -> Any:
    rank = len(shape)
    for d in range(rank - len(factors), rank):
        axis = Axis(shape[d], g.type.shape[d], factors[d - rank + len(factors)], align)
        if axis.unchanged:
            continue
        total: Any = None
        for index, weight in _backward_taps(b, g.type, axis, mode):
            part = b.mul(b.index_select(g, index, d), b.reshape(weight, _along(weight, d, rank)))
            total = part if total is None else b.add(total, part)
        g = total
    return g


def _resample_again(b: Any, gg: Any, g_type: TensorType, factors: Scales, mode: str, align: bool) -> Any:
    return b.resample(gg, g_type.shape[g_type.ndim - len(factors):], factors, mode, align)


def _resample_type(types: Types, size: Ints, factors: Scales, mode: str, align: bool) -> TensorType:
    need_float(f"upsample_{mode}", types[0])
    return _resized(types, size)


def _backward_type(types: Types, shape: Ints, *attrs: Any) -> TensorType:
    need_float("resample_backward", types[0])
    return types[0].with_(shape)


_N: Any = (None, None)
_RESIZED: list[Any] = [((1, 2, 5), (8,), (None,), "linear", False), ((2, 3, 4), (5, 3), _N, "linear", True),
                       ((1, 3, 4), (6, 6), (2.2, 1.5), "cubic", False), ((2, 3, 4), (3, 7), _N, "cubic", True)]
declare("resample", Kind.COMPOSITE, "x", "size factors mode align", batch="leading",
        type_rule=_resample_type, decompose=in_float32(_resample),
        vjp=(lambda b, g, x_type, factors, mode, align: b.resample_backward(g, x_type.shape, factors, mode, align),),
        samples=[((x,), tuple(attrs)) for x, *attrs in _RESIZED],
        onnx="Resize", doc="The last axes resized by linear or cubic (Keys 1981) interpolation.")
declare("resample_backward", Kind.COMPOSITE, "g", "shape factors mode align", batch="leading", type_rule=_backward_type,
        decompose=in_float32(_resample_backward),
        vjp=(_resample_again,),
        samples=[((x[:len(x) - len(size)] + size,), (x, *rest)) for x, size, *rest in _RESIZED],
        doc="Each input element of a `resample` gathers the gradients of the outputs that read it, times its weights there.")


# -- nearest -----------------------------------------------------------------------------------------------------------------
def _repeated(b: Any, x: Any, d: int, times: int) -> Any:
    shape = x.type.shape
    wide = b.expand(b.reshape(x, (*shape[:d + 1], 1, *shape[d + 1:])), (*shape[:d + 1], times, *shape[d + 1:]))
    return b.reshape(wide, (*shape[:d], shape[d] * times, *shape[d + 1:]))


def _nearest_axis(b: Any, x: Any, d: int, axis: Axis, exact: bool) -> Any:
    """Whole multiples are views; else elements are looked up, at places computed in float32 as PyTorch does."""
    if axis.out % axis.n == 0 and axis.factor in (None, axis.out / axis.n):
        return _repeated(b, x, d, axis.out // axis.n)
    if axis.n % axis.out == 0 and axis.factor in (None, axis.out / axis.n):
        step, shape = axis.n // axis.out, x.type.shape
        starts = tuple([step // 2 if exact and i == d else 0 for i in range(len(shape))])
        return b.slice(x, starts, shape, tuple([step if i == d else 1 for i in range(len(shape))]))
    single = x.type.with_(dtype=dtypes.float32)
    at = _positions(b, single, axis.out, 0.5 if exact else 0.0, axis.step)
    return b.index_select(x, b.minimum(_whole(b, b.floor(at)), axis.n - 1), d)


def _nearest(b: Any, x: Any, size: Ints, factors: Scales, exact: bool) -> Any:
    for d, (out, factor) in enumerate(zip(size, factors, strict=True), len(x.type.shape) - len(size)):
        axis = Axis(x.type.shape[d], out, factor, False)
        x = x if axis.unchanged else _nearest_axis(b, x, d, axis, exact)
    return x


declare("resample_nearest", Kind.COMPOSITE, "x", "size factors exact", batch="leading",
        type_rule=lambda t, size, *a: _resized(t, size), decompose=_nearest,
        samples=[(((2, 3, 4),), ((6, 8), _N, False)), (((2, 3, 6),), ((4, 3), _N, True)), (((2, 5),), ((3,), (0.7,), False))],
        onnx="Resize", doc="The last axes resized; each element is the nearest one, by its corner or (exact) its centre.")


# -- resizing with a filter as wide as the step -------------------------------------------------------------------------------------
def _filter(b: Any, d: Any, mode: str) -> Any:
    d = b.abs(d)
    if mode == "linear":
        return b.maximum(b.sub(1, d), 0)
    a = -0.5
    near = b.add(b.mul(b.mul(b.sub(b.mul(d, a + 2), a + 3), d), d), 1)
    far = b.sub(b.mul(b.add(b.mul(b.sub(b.mul(d, a), 5 * a), d), 8 * a), d), 4 * a)
    return b.where(b.lt(d, 1), near, b.where(b.lt(d, 2), far, 0.0))


def _filter_matrix(b: Any, x: TensorType, axis: Axis, mode: str) -> Any:
    """Weights (out, n): the filter around each output's centre, cut to the input, its sum one."""
    support = (1 if mode == "linear" else 2) * max(axis.step, 1.0)
    centre = b.reshape(_positions(b, x, axis.out, 0.5, axis.step), (axis.out, 1))
    at = b.reshape(b.iota(axis.n, dtypes.int64, x.device), (1, axis.n))
    low, high = _whole(b, b.add(centre, 0.5 - support)), _whole(b, b.add(centre, 0.5 + support))
    inside = b.logical_and(b.ge(at, low), b.lt(at, high))
    distance = b.mul(b.sub(b.add(b.cast(at, x.dtype), 0.5), centre), 1.0 / max(axis.step, 1.0))
    weight = b.where(inside, _filter(b, distance, mode), 0.0)
    return b.div(weight, b.sum(weight, (1,), True, None))


def _weighted(b: Any, x: Any, d: int, weight: Any) -> Any:
    """Axis d of x multiplied by the matrix weight (out, n)."""
    shape, (out, n) = x.type.shape, weight.type.shape
    outer, inner = math.prod(shape[:d]), math.prod(shape[d + 1:])
    if inner == 1:
        found = b.matmul(b.reshape(x, (outer, n)), b.permute(weight, (1, 0)))
    else:
        found = b.matmul(b.expand(b.reshape(weight, (1, out, n)), (outer, out, n)), b.reshape(x, (outer, n, inner)))
    return b.reshape(found, shape[:d] + (out,) + shape[d + 1:])


def _resample_filtered(b: Any, x: Any, size: Ints, factors: Scales, mode: str, align: bool) -> Any:
    for d, (out, factor) in enumerate(zip(size, factors, strict=True), len(x.type.shape) - len(size)):
        axis = Axis(x.type.shape[d], out, factor, align)
        x = x if axis.unchanged else _weighted(b, x, d, _filter_matrix(b, x.type, axis, mode))
    return x


declare("resample_filtered", Kind.COMPOSITE, "x", "size factors mode align", batch="leading", type_rule=_resample_type,
        decompose=in_float32(_resample_filtered),
        samples=[(((2, 7, 6),), ((3, 4), _N, "linear", False)), (((1, 9, 4),), ((4, 6), (0.45, None), "cubic", False))],
        doc="As `resample`, with the filter stretched over the input elements that an output element covers.")


# -- bytes: PyTorch's fixed-point arithmetic, one axis after the other, the last one first ---------------------------------------------
def _tap_matrix(b: Any, x: TensorType, axis: Axis, mode: str) -> Any:
    """Weights (out, n) of `resample`."""
    at = b.reshape(b.iota(axis.n, dtypes.int64, x.device), (1, axis.n))
    total: Any = None
    for index, weight in _taps(b, x, axis, mode):
        part = b.where(b.eq(b.reshape(index, (axis.out, 1)), at), b.reshape(weight, (axis.out, 1)), 0.0)
        total = part if total is None else b.add(total, part)
    return total


def _fixed_point(b: Any, weight: Any) -> tuple[Any, Any]:
    """(whole numbers, what they are multiples of 1 / ...): as many bits as leave the largest weight below 2^15."""
    powers = b.cast(b.shift_left(2, b.iota(22, dtypes.int64, weight.type.device)), weight.type.dtype)
    top = b.amax(weight, (0, 1), False)
    bits = b.sum(b.lt(b.floor(b.add(b.mul(top, powers), 0.5)), 2.0 ** 15), (0,), False, None)
    steps = b.cast(b.shift_left(1, bits), weight.type.dtype)
    scaled = b.mul(weight, steps)
    return b.trunc(b.add(scaled, b.where(b.lt(scaled, 0), -0.5, 0.5))), steps


def _resample_bytes(b: Any, x: Any, size: Ints, factors: Scales, mode: str, align: bool, filtered: bool) -> Any:
    rank, matrix = len(x.type.shape), _filter_matrix if filtered else _tap_matrix
    x = b.cast(x, dtypes.float64)  # holds the sums exactly
    for d, out, factor in zip(range(rank)[::-1], size[::-1], factors[::-1], strict=False):
        axis = Axis(x.type.shape[d], out, factor, align)
        if axis.unchanged:
            continue
        weight, steps = _fixed_point(b, matrix(b, x.type, axis, mode))
        total = b.add(_weighted(b, x, d, weight), b.mul(steps, 0.5))
        x = b.clamp(b.floor(b.div(total, steps)), 0, 255)
    return b.cast(x, dtypes.uint8)


def _bytes_type(types: Types, size: Ints, factors: Scales, mode: str, *attrs: Any) -> TensorType:
    if types[0].dtype is not dtypes.uint8:
        raise not_implemented(f"upsample_{mode}", types[0].dtype, types)
    return _resized(types, size)


_BYTES = np.arange(2 * 7 * 6).reshape(2, 7, 6).astype(np.uint8)
declare("resample_bytes", Kind.COMPOSITE, "x", "size factors mode align filtered", batch="leading", type_rule=_bytes_type,
        decompose=_resample_bytes, differentiable=False,
        samples=[((_BYTES,), ((3, 9), _N, mode, False, filtered)) for mode in ("linear", "cubic") for filtered in (False, True)],
        doc="`resample` (or `resample_filtered`) of bytes, rounded after each axis.")


# -- sampling at given places ------------------------------------------------------------------------------------------------------
def _reflected(b: Any, at: Any, low: float, span: float) -> Any:
    """`at` folded into [low, low + span]."""
    if span == 0:
        return b.mul(at, 0.0)
    d = b.abs(b.sub(at, low))
    rest, turns = b.fmod(d, span), b.floor(b.div(d, span))
    return b.add(b.where(b.eq(b.fmod(turns, 2.0), 0), rest, b.sub(span, rest)), low)


def _placed(b: Any, at: Any, n: int, padding: str, align: bool) -> Any:
    """Where a coordinate outside the input is looked up."""
    if padding == "reflection":
        at = _reflected(b, at, 0.0 if align else -0.5, n - 1.0 if align else float(n))
    if padding != "zeros":
        at = b.minimum(b.maximum(at, 0.0), n - 1.0)
    return at


def _coordinate(b: Any, c: Any, n: int, align: bool) -> Any:
    """From [-1, 1] to elements."""
    return b.mul(b.add(c, 1.0), (n - 1) / 2) if align else b.div(b.sub(b.mul(b.add(c, 1.0), float(n)), 1.0), 2.0)


def _axis_taps(b: Any, c: Any, n: int, mode: str, padding: str, align: bool) -> list[tuple[Any, Any]]:
    """(coordinate of whole value, weight or None) pairs along one axis."""
    at = _coordinate(b, c, n, align)
    if mode == "bicubic":
        base = b.floor(at)
        weights = cubic_weights(b, b.sub(at, base))
        return [(_placed(b, b.add(base, j - 1.0), n, padding, align), w) for j, w in enumerate(weights)]
    at = _placed(b, at, n, padding, align)
    if mode == "nearest":
        return [(b.round(at), None)]
    base = b.floor(at)
    part = b.sub(at, base)
    return [(base, b.sub(1, part)), (b.add(base, 1.0), part)]


def _tap_index(b: Any, at: Any, n: int) -> tuple[Any, Any]:
    """An element that exists, and whether it is the one asked for."""
    inside = b.logical_and(b.ge(at, 0.0), b.le(at, n - 1.0))
    return _whole(b, b.where(inside, at, 0.0)), inside


def _grid_sample(b: Any, x: Any, grid: Any, mode: str, padding: str, align: bool) -> Any:
    n, channels, *sizes = x.type.shape
    rank, shape = len(sizes), grid.type.shape
    count = math.prod(shape[1:-1])
    flat = b.reshape(x, (n, channels, math.prod(sizes)))
    taps = []
    for a, size in enumerate(sizes):
        last = rank - 1 - a  # the grid names the last axis first
        c = b.slice(grid, (0,) * (rank + 1) + (last,), (*shape[:-1], last + 1), (1,) * (rank + 2))
        found = _axis_taps(b, b.reshape(c, (n, 1, count)), size, mode, padding, align)
        taps.append([(*_tap_index(b, at, size), weight) for at, weight in found])
    total: Any = None
    for corner in itertools.product(*taps):
        index, inside, weight = corner[0]
        for size, (i, ok, w) in zip(sizes[1:], corner[1:], strict=True):
            index, inside = b.add(b.mul(index, size), i), b.logical_and(inside, ok)
            weight = w if weight is None else b.mul(weight, w)
        value = b.gather(flat, b.expand(index, (n, channels, count)), 2)
        value = b.where(inside, value if weight is None else b.mul(value, weight), 0.0)
        total = value if total is None else b.add(total, value)
    return b.reshape(total, (n, channels, *shape[1:-1]))


def _grid_type(types: Types, mode: str, padding: str, align: bool) -> TensorType:
    x, grid = types
    need_float("grid_sampler", x, grid)
    if x.dtype is not grid.dtype:
        raise RuntimeError(f"grid_sampler(): expected input and grid to have same dtype, but input has {x.dtype.name} and grid has "
                           f"{grid.dtype.name}")
    if x.ndim not in (4, 5) or grid.ndim != x.ndim:
        raise RuntimeError(f"grid_sampler(): expected 4D or 5D input and grid with same number of dimensions, but got input with sizes "
                           f"{list(x.shape)} and grid with sizes {list(grid.shape)}")
    if x.shape[0] != grid.shape[0] or grid.shape[-1] != x.ndim - 2:
        raise RuntimeError(f"grid_sampler(): expected grid to have batch size {x.shape[0]} and size {x.ndim - 2} in last dimension, but "
                           f"got grid with sizes {list(grid.shape)} for input with sizes {list(x.shape)}")
    if any(size == 0 for size in x.shape[2:]):
        raise RuntimeError(f"grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes {list(x.shape)}")
    if mode == "bicubic" and x.ndim == 5:
        raise RuntimeError("grid_sampler(): bicubic interpolation only supports 4D input")
    return x.with_(x.shape[:2] + grid.shape[1:-1])


declare("grid_sample", Kind.COMPOSITE, "x grid", "mode padding align", batch="fold",
        type_rule=_grid_type, decompose=in_float32(_grid_sample),
        samples=[(((1, 2, 4, 5), (1, 2, 3, 2)), (m, p, a)) for m, p, a in (("bilinear", "zeros", False), ("bilinear", "border", True),
                                                                         ("bicubic", "reflection", False), ("bicubic", "zeros", True))]
        + [(((1, 1, 3, 2, 3), (1, 2, 1, 2, 3)), ("bilinear", "reflection", True))], onnx="GridSample",
        doc="x (N, C, sizes) at the places that grid (N, ..., rank) names in [-1, 1], last axis first (Jaderberg et al. 2015, "
            "arXiv:1506.02025).")
