"""Sums, averages and maxima over sliding windows of the last axes.

A window op folds slices of the padded operand, one for each place in the window, so that a window of ordinary size is one
kernel that reads every operand once. The gradients gather instead of scattering: an operand's element at q * stride + r asks
the windows q, q - 1, ... whether they hold it.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, in_float32, need_float, need_number, not_implemented, zeros
from treadle.ir.size import Size, evenly, maximum, minimum
from treadle.ir.types import Shape, TensorType

Ints = tuple[int, ...]
# Windows of more places are folded axis by axis.
MOST_PLACES = 16
# Vectors read every element, or every second one; what is farther apart is gathered, which is better done with fewer elements.
NEAR = 2
ATTRS = "kernel stride padding dilation size"


class Windows(NamedTuple):
    """Per pooled axis: the window's size and step, the width of padding before, the step inside, and how many windows."""

    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    size: Ints

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def reach(self) -> Ints:
        """The padded size that the windows need."""
        return tuple([(o - 1) * s + d * (k - 1) + 1 for k, s, d, o in zip(self.kernel, self.stride, self.dilation, self.size, strict=True)])

    @property
    def turns(self) -> Ints:
        """How many windows can hold one element."""
        return tuple([-(-k // s) for k, s in zip(self.kernel, self.stride, strict=True)])

    @property
    def pitch(self) -> Ints:
        """What a step along each axis adds to the number of a place; rows are long enough that no two places share one."""
        sizes = [s * t for s, t in zip(self.stride, self.turns, strict=True)]
        return tuple([math.prod(sizes[a + 1:]) for a in range(self.rank)])


def _pooled(x: TensorType, w: Windows) -> Shape:
    return x.shape[:x.ndim - w.rank] + w.size


def _padded(b: Any, x: Any, value: Any, w: Windows) -> Any:
    shape = x.type.shape
    lead = (0,) * (len(shape) - w.rank)
    high = tuple([maximum(r - p - n, 0) for r, p, n in zip(w.reach, w.padding, shape[len(lead):], strict=True)])
    return b.pad(x, value, lead + w.padding, lead + high) if any(w.padding) or any(high) else x


def _slice(b: Any, x: Any, w: Windows, place: dict[int, int]) -> Any:
    """The elements at `place` (by pooled axis) of every window; other axes whole."""
    shape = x.type.shape
    lead = len(shape) - w.rank
    starts, stops, steps = [0] * len(shape), list(shape), [1] * len(shape)
    for a, i in place.items():
        at = i * w.dilation[a]
        starts[lead + a], stops[lead + a], steps[lead + a] = at, at + (w.size[a] - 1) * w.stride[a] + 1, w.stride[a]
    return b.slice(x, tuple(starts), tuple(stops), tuple(steps))


def _places(w: Windows, axes: tuple[int, ...]) -> list[dict[int, int]]:
    return [dict(zip(axes, p, strict=True)) for p in itertools.product(*[range(w.kernel[a]) for a in axes])]


def _folds(w: Windows) -> list[tuple[int, ...]]:
    """The axes folded together, one fold after the other: the last axis first."""
    every = tuple(range(w.rank))
    return [every] if math.prod(w.kernel) <= MOST_PLACES and w.stride[-1] <= NEAR else [(a,) for a in reversed(every)]


def _sum_folds(w: Windows) -> list[tuple[int, ...]]:
    """`_folds`, but whole rows are added up before what is far apart in them. Of the largest in a window the first counts, of sums none."""
    every, last = tuple(range(w.rank)), w.rank - 1
    return [every[:last], (last,)] if last and w.stride[last] > NEAR and math.prod(w.kernel) <= MOST_PLACES else _folds(w)


# -- sums --------------------------------------------------------------------------------------------------------------------
def _sum_type(types: Types, *attrs: Ints) -> TensorType:
    need_number("avg_pool", types[0])
    return types[0].with_(_pooled(types[0], Windows(*attrs)))


def _tiles(x: TensorType, w: Windows) -> bool:
    """Whether large windows cut the operand into blocks without rest."""
    sizes = x.shape[x.ndim - w.rank:]
    return (math.prod(w.kernel) > MOST_PLACES and w.kernel == w.stride and not any(w.padding) and set(w.dilation) == {1}
            and tuple([k * o for k, o in zip(w.kernel, w.size, strict=True)]) == sizes)


def _sum_pool(b: Any, x: Any, *attrs: Ints) -> Any:
    w = Windows(*attrs)
    shape = x.type.shape
    if _tiles(x.type, w):
        lead, last = len(shape) - w.rank, w.rank - 1
        cut = tuple(itertools.chain(*zip(w.size[:last], w.kernel[:last], strict=True)))
        total = b.sum(b.reshape(x, shape[:lead] + cut + shape[-1:]), tuple(range(lead + 1, lead + 2 * last, 2)), False, None) if last else x
        return b.sum(b.reshape(total, shape[:lead] + w.size + w.kernel[last:]), (lead + w.rank,), False, None)
    total = _padded(b, x, 0, w)
    for axes in _sum_folds(w):
        parts = [_slice(b, total, w, place) for place in _places(w, axes)]
        total = parts[0]
        for part in parts[1:]:
            total = b.add(total, part)
    return total


def _shifted(b: Any, g: Any, w: Windows, turn: Ints, counts: Ints) -> Any:
    """g[q - turn] for q < counts, 0 where there is no such window, with an axis of size 1 after every pooled one."""
    shape = g.type.shape
    lead = len(shape) - w.rank
    held = [minimum(o, n - t) for o, n, t in zip(w.size, counts, turn, strict=True)]
    part = b.slice(g, (0,) * len(shape), shape[:lead] + tuple(held), (1,) * len(shape))
    high = tuple([n - t - h for n, t, h in zip(counts, turn, held, strict=True)])
    if any(turn) or any(high):
        part = b.pad(part, 0, (0,) * lead + turn, (0,) * lead + high)
    return b.reshape(part, shape[:lead] + tuple(itertools.chain(*[(n, 1) for n in counts])))


def _spread(b: Any, shape: Shape, w: Windows, lead: int, term: Callable[[Ints, Ints], Any]) -> Any:
    """The gradient of an operand of `shape`: the sum over turns of `term(turn, counts)`, cut to the operand's elements.

    A term broadcasts to (..., count, stride, count, stride): block and place in the block of every pooled axis.
    """
    counts = tuple([(n - 1 + p) // s + 1 for n, p, s in zip(shape[lead:], w.padding, w.stride, strict=True)])
    turns = [t for t in itertools.product(*map(range, w.turns)) if all(n > i for n, i in zip(counts, t, strict=True))]
    terms = [term(t, counts) for t in turns]
    total = terms[0]
    for more in terms[1:]:
        total = b.add(total, more)
    blocks = tuple(itertools.chain(*zip(counts, w.stride, strict=True)))
    joined = shape[:lead] + tuple([n * s for n, s in zip(counts, w.stride, strict=True)])
    whole = b.reshape(b.expand(total, shape[:lead] + blocks), joined)
    stops = shape[:lead] + tuple([p + n for p, n in zip(w.padding, shape[lead:], strict=True)])
    return b.slice(whole, (0,) * lead + w.padding, stops, (1,) * len(shape))


def _lane(b: Any, g: Any, w: Windows, axis: int) -> Any:
    """0, 1, ..., stride - 1 along the axis that holds the place in a block of pooled axis `axis`, as int32."""
    lead = len(g.type.shape) - w.rank
    at = lead + 2 * axis + 1
    return b.reshape(b.iota(w.stride[axis], dtypes.int32, g.type.device),
                     tuple([w.stride[axis] if d == at else 1 for d in range(lead + 2 * w.rank)]))


def _sum_pool_backward(b: Any, g: Any, *attrs: Any) -> Any:
    shape, w = attrs[0], Windows(*attrs[1:])
    if set(w.dilation) != {1}:
        raise RuntimeError(f"sum_pool: windows with gaps {list(w.dilation)} have no gradient rule")

    def term(turn: Ints, counts: Ints) -> Any:
        part = _shifted(b, g, w, turn, counts)
        for a, t in enumerate(turn):
            inside = w.kernel[a] - t * w.stride[a]
            if inside < w.stride[a]:
                part = b.where(b.lt(_lane(b, g, w, a), inside), part, 0.0)
        return part
    return _spread(b, shape, w, len(shape) - w.rank, term)


_SAMPLES: list[Any] = [((2, 5), ((2,), (2,), (0,), (1,), (2,))), ((2, 5, 6), ((3, 3), (2, 2), (1, 1), (1, 1), (3, 3))),
                       ((2, 4, 4), ((2, 2), (2, 2), (0, 0), (1, 1), (2, 2))), ((1, 7, 6), ((5, 4), (1, 2), (2, 1), (1, 1), (7, 3))),
                       ((2, 3, 4, 3), ((2, 2, 2), (1, 3, 1), (0, 1, 0), (1, 1, 1), (2, 2, 2)))]
_TILES: Any = ((2, 10, 5), ((5, 5), (5, 5), (0, 0), (1, 1), (2, 1)))


def _result(sample: Any) -> Shape:
    shape, attrs = sample
    return shape[:len(shape) - len(attrs[0])] + attrs[-1]


declare("sum_pool", Kind.COMPOSITE, "x", ATTRS, batch="leading", type_rule=_sum_type, decompose=in_float32(_sum_pool),
        vjp=(lambda b, g, x_type, kernel, stride, padding, dilation, size: b.sum_pool_backward(
            g, x_type.shape, kernel, stride, padding, dilation, size),),
        samples=[((s,), a) for s, a in (*_SAMPLES, _TILES)],
        doc="Sums over windows; what lies outside the operand counts as 0.")
declare("sum_pool_backward", Kind.COMPOSITE, "g", f"shape {ATTRS}", batch="leading", type_rule=lambda t, shape, *a: t[0].with_(shape),
        decompose=in_float32(_sum_pool_backward),
        vjp=(lambda b, g, kernel, stride, padding, dilation, size: b.sum_pool(g, kernel, stride, padding, dilation, size),),
        samples=[((_result(s),), (s[0], *s[1])) for s in _SAMPLES], doc="Each element gets the sum of g over the windows that hold it.")


def _divisors(b: Any, x: TensorType, w: Windows, include_pad: bool) -> Any:
    """How many elements each window averages, as a value of shape (size...); a number when all are alike."""
    sizes = x.shape[x.ndim - w.rank:]
    inside = all(r <= n + (2 * p if include_pad else 0) for r, n, p in zip(w.reach, sizes, w.padding, strict=True))
    if inside and (include_pad or not any(w.padding)):
        return math.prod(w.kernel)
    total: Any = None
    for a, n in enumerate(sizes):
        k, s, p = w.kernel[a], w.stride[a], w.padding[a]
        first = b.sub(b.mul(b.iota(w.size[a], dtypes.int64, x.device), s), p)
        last = b.minimum(b.add(first, k), n + p)
        if not include_pad:
            first, last = b.maximum(first, 0), b.minimum(last, n)
        count = b.reshape(b.sub(last, first), tuple([w.size[a] if i == a else 1 for i in range(w.rank)]))
        total = count if total is None else b.mul(total, count)
    return total


def _avg_pool(b: Any, x: Any, *attrs: Any) -> Any:
    *window, include_pad, divisor = attrs
    w = Windows(*window)
    by = divisor or _divisors(b, x.type, w, include_pad)
    total = b.sum_pool(x, *w)
    divide = b.div if x.type.dtype.category == FLOAT else b.trunc_divide
    return divide(total, by if isinstance(by, int) else b.cast(by, x.type.dtype))


declare("avg_pool", Kind.COMPOSITE, "x", f"{ATTRS} count_include_pad divisor", batch="leading",
        type_rule=lambda t, *a: _sum_type(t, *a[:-2]),
        decompose=in_float32(_avg_pool),
        samples=[((s,), (*a, pad, d)) for s, a in _SAMPLES for pad, d in ((True, 0), (False, 0))] + [((_TILES[0],), (*_TILES[1], True, 7))],
        onnx="AveragePool", doc="Averages over windows; `divisor`, unless 0, is what sums are divided by.")


# -- maxima ------------------------------------------------------------------------------------------------------------------
def lowest(x: TensorType) -> Any:
    """What no element is below."""
    return -math.inf if x.dtype.category == FLOAT else int(np.iinfo(x.dtype.name).min)


def _max_type(types: Types, *attrs: Ints) -> tuple[TensorType, TensorType]:
    x, w = types[0], Windows(*attrs)
    if x.dtype.category == BOOL:
        raise not_implemented("max_pool", x.dtype, types)
    shape = _pooled(x, w)
    codes = w.pitch[0] * w.stride[0] * w.turns[0]
    return x.with_(shape), x.with_(shape, dtypes.uint8 if codes <= 256 else dtypes.int32)


def _larger(b: Any, best: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    """The first of the largest wins; of NaNs the last, as in PyTorch."""
    take = b.gt(other[0], best[0])
    if best[0].type.dtype.category == FLOAT:
        take = b.logical_or(take, b.isnan(other[0]))
    return b.where(take, other[0], best[0]), b.where(take, other[1], best[1])


def _max_pool(b: Any, x: Any, *attrs: Ints) -> tuple[Any, Any]:
    w = Windows(*attrs)
    value, code = _padded(b, x, lowest(x.type), w), None
    for axes in _folds(w):
        found = []
        for place in _places(w, axes):
            number = b.cast(sum(i * w.pitch[a] for a, i in place.items()), dtypes.int32)
            found.append((_slice(b, value, w, place), number if code is None else b.add(_slice(b, code, w, place), number)))
        best = found[0]
        for other in found[1:]:
            best = _larger(b, best, other)
        value, code = best
    kind = _max_type((x.type,), *attrs)[1]
    return value, b.cast(b.expand(code, kind.shape), kind.dtype)


def _max_pool_backward(b: Any, g: Any, place: Any, *attrs: Any) -> Any:
    shape, w = attrs[0], Windows(*attrs[1:])
    lead = len(shape) - w.rank
    if set(w.dilation) != {1}:
        flat = shape[:lead] + (math.prod(shape[lead:]),)
        index = b.max_pool_index(place, *attrs)
        rows = shape[:lead] + (math.prod(w.size),)
        found = b.scatter_add(b.full(0, flat, g.type.dtype, g.type.device), b.reshape(index, rows), b.reshape(g, rows), lead)
        return b.reshape(found, shape)

    def term(turn: Ints, counts: Ints) -> Any:
        wanted: Any = None
        for a, t in enumerate(turn):
            code = b.mul(b.add(_lane(b, g, w, a), t * w.stride[a]), w.pitch[a])
            wanted = code if wanted is None else b.add(wanted, code)
        chosen = b.eq(b.cast(_shifted(b, place, w, turn, counts), dtypes.int32), wanted)
        return b.where(chosen, _shifted(b, g, w, turn, counts), 0.0)
    return _spread(b, shape, w, lead, term)


def _max_pool_index(b: Any, place: Any, *attrs: Any) -> Any:
    shape, w = attrs[0], Windows(*attrs[1:])
    lead = len(shape) - w.rank
    rest, flat = b.cast(place, dtypes.int64), None
    for a in range(w.rank):
        step = b.floor_divide(rest, w.pitch[a])
        rest = b.remainder(rest, w.pitch[a])
        start = b.sub(b.mul(b.iota(w.size[a], dtypes.int64, place.type.device), w.stride[a]), w.padding[a])
        start = b.reshape(start, tuple([w.size[a] if d == lead + a else 1 for d in range(len(shape))]))
        at = b.maximum(b.add(start, b.mul(step, w.dilation[a])), 0)  # a window of -inf alone may have chosen its padding
        flat = at if flat is None else b.add(b.mul(flat, shape[lead + a]), at)
    return flat


def _max_pool_vjp(b: Any, g: Any, out: Any, x_type: TensorType, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints,
                  size: Ints) -> Any:
    return b.max_pool_backward(g[0], out[1], x_type.shape, kernel, stride, padding, dilation, size)


_GAPS: Any = ((2, 6, 6), ((2, 2), (1, 2), (1, 0), (2, 3), (6, 2)))
declare("max_pool", Kind.COMPOSITE, "x", ATTRS, batch="leading", type_rule=_max_type, decompose=_max_pool, vjp=(_max_pool_vjp,),
        samples=[((s,), a) for s, a in (*_SAMPLES, _GAPS)], onnx="MaxPool", rewritable="out",
        doc="(maxima over windows, the number of the chosen place in each window).")
_CODES = [((_result(s), np.zeros(_result(s), np.uint8)), (s[0], *s[1])) for s in (*_SAMPLES[:3], _SAMPLES[4])]
declare("max_pool_backward", Kind.COMPOSITE, "g place", f"shape {ATTRS}", batch="leading", type_rule=lambda t, shape, *a: t[0].with_(shape),
        decompose=in_float32(_max_pool_backward), samples=_CODES, doc="g, added where `place` says that the maxima were.")
declare("max_pool_index", Kind.COMPOSITE, "place", f"shape {ATTRS}", batch="leading",
        type_rule=lambda t, *a: t[0].with_(dtype=dtypes.int64),
        decompose=_max_pool_index, differentiable=False, samples=[((c[0][1],), c[1]) for c in _CODES],
        doc="The places of a `max_pool` as positions in the pooled axes taken as one.")


# -- adaptive pooling ------------------------------------------------------------------------------------------------------------
def _adaptive_shape(types: Types, size: Ints) -> TensorType:
    return types[0].with_(types[0].shape[:types[0].ndim - len(size)] + size)


def _bounds(b: Any, window: Any, n: int, count: int) -> tuple[Any, Any]:
    """Where the windows of these numbers begin among n elements, and where they end."""
    return b.floor_divide(b.mul(window, n), count), b.floor_divide(b.add(b.mul(b.add(window, 1), n), count - 1), count)


def _members(b: Any, x: TensorType, axis: int, count: int) -> Any:
    """Which elements of an axis are in which of `count` windows, as (1, count, n, 1)."""
    n = x.shape[axis]
    first, last = _bounds(b, b.reshape(b.iota(count, dtypes.int64, x.device), (1, count, 1, 1)), n, count)
    at = b.reshape(b.iota(n, dtypes.int64, x.device), (1, 1, n, 1))
    return b.logical_and(b.ge(at, first), b.lt(at, last))


def _lines(b: Any, x: Any, axis: int) -> Any:
    """x as (outer, 1, n, inner) around `axis`."""
    shape = x.type.shape
    return b.reshape(x, (math.prod(shape[:axis]), 1, shape[axis], math.prod(shape[axis + 1:])))


def _adaptive_sum(b: Any, x: Any, size: Ints) -> Any:
    """Axis by axis, first those that become shorter; of those that become longer the last one first, while rows are few."""
    lead = len(x.type.shape) - len(size)
    more = [a for a, count in enumerate(size, lead) if count > x.type.shape[a]]
    fewer = [a for a, count in enumerate(size, lead) if count < x.type.shape[a]]
    for axis in (*fewer, *reversed(more)):
        n, count = x.type.shape[axis], size[axis - lead]
        along = axis == len(x.type.shape) - 1 and axis in fewer
        if evenly(n, count) or evenly(count, n):
            x = _block_sums(b, x, axis, n, count)
        else:
            x = (_line_sums if along else _row_sums)(b, x, axis, count)
    return x


def _block_sums(b: Any, x: Any, axis: int, n: int, count: int) -> Any:
    """Where windows are blocks without rest, or an element is in as many windows as any other."""
    before, behind = x.type.shape[:axis], x.type.shape[axis + 1:]
    if n > count:
        return b.sum(b.reshape(x, (*before, count, n // count, *behind)), (axis + 1,), False, None)
    repeated = b.expand(b.reshape(x, (*before, n, 1, *behind)), (*before, n, count // n, *behind))
    return b.reshape(repeated, (*before, count, *behind))


def _row_sums(b: Any, x: Any, axis: int, count: int) -> Any:
    """The rows of each window are looked up, and those behind its end left out: windows have one or two sizes."""
    shape, device = x.type.shape, x.type.device
    n, rest = shape[axis], shape[axis] % count
    longest = n // count + (2 if rest.__class__ is Size else 0 if not rest else 2 if count % rest else 1)  # or one or two too many
    first, last = _bounds(b, b.iota(count, dtypes.int64, device), n, count)
    place = b.add(first, b.reshape(b.iota(longest, dtypes.int64, device), (longest, 1)))
    rows = b.index_select(x, b.minimum(place, n - 1), axis)
    inside = b.reshape(b.lt(place, last), (longest, count) + (1,) * (len(shape) - 1 - axis))
    return b.sum(b.where(inside, rows, 0.0), (axis,), False, None)


def _line_sums(b: Any, x: Any, axis: int, count: int) -> Any:
    """What is not in a window is left out of a sum of everything: neighbours are read in vectors, and lines are short."""
    shape = x.type.shape
    total = b.sum(b.where(_members(b, x.type, axis, count), _lines(b, x, axis), 0.0), (2,), False, None)
    return b.reshape(total, shape[:axis] + (count,) + shape[axis + 1:])


def _adaptive_avg(b: Any, x: Any, size: Ints) -> Any:
    total = b.adaptive_sum_pool(x, size)
    for a, (n, count) in enumerate(zip(x.type.shape[len(x.type.shape) - len(size):], size, strict=True)):
        first, last = _bounds(b, b.iota(count, dtypes.int64, x.type.device), n, count)
        members = b.reshape(b.sub(last, first), tuple([count if i == a else 1 for i in range(len(size))]))
        total = b.div(total, b.cast(members, total.type.dtype))
    return total


def _adaptive_max_type(types: Types, size: Ints) -> tuple[TensorType, TensorType]:
    need_float("adaptive_max_pool", types[0])
    out = _adaptive_shape(types, size)
    return out, out.with_(dtype=dtypes.int64)


def _adaptive_max(b: Any, x: Any, size: Ints) -> tuple[Any, Any]:
    first, index, span = len(x.type.shape) - len(size), None, 1
    for axis in reversed(range(first, first + len(size))):
        shape, count = x.type.shape, size[axis - first]
        masked = b.where(_members(b, x.type, axis, count), _lines(b, x, axis), -math.inf)
        own = b.argmax(masked, 2, False)
        new = shape[:axis] + (count,) + shape[axis + 1:]
        x = b.reshape(b.amax(masked, (2,), False), new)
        at = b.reshape(own, new)
        index = at if index is None else b.add(b.gather(index, at, axis), b.mul(at, span))
        span *= shape[axis]
    return x, index


def _adaptive_max_vjp(b: Any, g: Any, out: Any, x_type: TensorType, size: Ints) -> Any:
    lead = x_type.ndim - len(size)
    flat = x_type.with_(x_type.shape[:lead] + (math.prod(x_type.shape[lead:]),))
    rows = x_type.shape[:lead] + (math.prod(size),)
    found = b.scatter_add(zeros(b, flat, g[0].type.dtype), b.reshape(out[1], rows), b.reshape(g[0], rows), lead)
    return b.reshape(found, x_type.shape)


_ADAPTIVE = [(((2, 5),), ((3,),)), (((2, 5, 7),), ((3, 2),)), (((1, 3, 4, 5),), ((2, 5, 1),))]


def _adaptive_avg_type(types: Types, size: Ints) -> TensorType:
    need_float("adaptive_avg_pool", types[0])
    return _adaptive_shape(types, size)


# Window i holds place p where floor(i n / m) <= p < ceil((i + 1) n / m), which is where floor(p m / n) <= i < ceil((p + 1) m / n).
declare("adaptive_sum_pool", Kind.COMPOSITE, "x", "size", batch="leading",
        type_rule=_adaptive_avg_type, decompose=in_float32(_adaptive_sum),
        vjp=(lambda b, g, x_type, size: b.adaptive_sum_pool(g, x_type.shape[x_type.ndim - len(size):]),),
        samples=_ADAPTIVE, doc="Sums over the windows of `adaptive_avg_pool`. The gradient is the same with both sizes exchanged.")
declare("adaptive_avg_pool", Kind.COMPOSITE, "x", "size", batch="leading",
        type_rule=_adaptive_avg_type, decompose=in_float32(_adaptive_avg),
        samples=_ADAPTIVE, doc="Averages over `size` windows for each of the last axes: from floor(i n / size) to ceil((i + 1) n / size).")
declare("adaptive_max_pool", Kind.COMPOSITE, "x", "size", batch="leading",
        type_rule=_adaptive_max_type, decompose=_adaptive_max, vjp=(_adaptive_max_vjp,), rewritable="out",
        samples=_ADAPTIVE, doc="(maxima over the windows of `adaptive_avg_pool`, their positions in the pooled axes taken as one).")
