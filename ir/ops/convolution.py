"""Convolutions over any number of spatial axes, and their two gradients, which are closed under differentiation.

x is [N, C, *S], w is [O, C / groups, *K], the result [N, O, *P]. The general way is a matrix product with the windows of x (im2col:
Chellapilla et al., 2006); with one channel a group (depthwise) it is a sum over the taps of the kernel, which fuses to one loop.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from treadle.ir import dtypes
from treadle.ir.batching import BatchedCall
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.common import in_float32, need_number, zeros
from treadle.ir.ops.matmul import transposed
from treadle.ir.size import at_least, maximum, surely
from treadle.ir.types import Shape, TensorType

Types = tuple[TensorType, ...]
# With fewer places in an image than this, one product takes all images: its columns fill whole tiles.
FEW_PLACES = 256
Ints = tuple[int, ...]


# -- types ---------------------------------------------------------------------------------------------------------------------------
def _check(types: Types, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> None:
    """What the arguments of all three ops must fulfil; RuntimeError."""
    need_number("convolution", *types)
    if types[0].dtype is not types[1].dtype:
        kind = RuntimeError if types[0].dtype.category >= dtypes.FLOAT else NotImplementedError
        raise kind(f"convolution: Input type ({types[0].dtype.name}) and weight type ({types[1].dtype.name}) should be the same")
    if any(s <= 0 for s in stride):
        raise RuntimeError(f"convolution: non-positive stride is not supported, got {list(stride)}")
    if any(p < 0 for p in padding):
        raise RuntimeError(f"convolution: negative padding is not supported, got {list(padding)}")
    if any(d <= 0 for d in dilation):
        raise RuntimeError(f"convolution: dilation should be greater than zero, got {list(dilation)}")
    if groups <= 0:
        raise RuntimeError(f"convolution: non-positive groups is not supported, got {groups}")


def _check_weight(w: Shape, groups: int) -> None:
    if w[0] < groups or w[0] % groups:
        raise RuntimeError(f"convolution: Given groups={groups}, expected weight to be at least {groups} at dimension 0 and divisible by "
                           f"{groups}, but got weight of size {list(w)} instead")
    if any(k <= 0 for k in w[2:]):
        raise RuntimeError(f"convolution: kernel size should be greater than zero, but got {list(w[2:])}")


def _extent(kernel: Ints, dilation: Ints) -> Ints:
    """How many elements a dilated kernel spans."""
    return tuple([d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)])


def _convolution_type(types: Types, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> TensorType:
    x, w = types
    _check(types, stride, padding, dilation, groups)
    _check_weight(w.shape, groups)
    if x.shape[1] != w.shape[1] * groups:
        raise RuntimeError(f"convolution: Given groups={groups}, weight of size {list(w.shape)}, expected input{list(x.shape)} to have "
                           f"{w.shape[1] * groups} channels, but got {x.shape[1]} channels instead")
    padded = [n + 2 * p for n, p in zip(x.shape[2:], padding, strict=True)]
    span = _extent(w.shape[2:], dilation)
    if any(n < k for n, k in zip(padded, span, strict=True)):
        raise RuntimeError(f"convolution: Calculated padded input size per channel: ({_by(padded)}). Kernel size: ({_by(span)}). "
                           "Kernel size can't be greater than actual input size")
    return x.with_((x.shape[0], w.shape[0], *[(n - k) // s + 1 for n, k, s in zip(padded, span, stride, strict=True)]))


def _by(sizes: Any) -> str:
    return " x ".join(map(str, sizes))


def _input_type(types: Types, shape: Shape, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> TensorType:
    g, w = types
    _check(types, stride, padding, dilation, groups)
    _check_weight(w.shape, groups)
    if g.shape[1] != w.shape[0]:
        raise RuntimeError(f"conv_transpose: Given transposed=1, weight of size {list(w.shape)}, expected input{list(g.shape)} to have "
                           f"{w.shape[0]} channels, but got {g.shape[1]} channels instead")
    _check_output("convolution_input", g.with_(shape), w.shape, g, stride, padding, dilation, groups)
    return g.with_(shape)


def _weight_type(types: Types, shape: Shape, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> TensorType:
    _check(types, stride, padding, dilation, groups)
    _check_output("convolution_weight", types[0], shape, types[1], stride, padding, dilation, groups)
    return types[0].with_(shape)


def _check_output(name: str, x: TensorType, w: Shape, y: TensorType, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> None:
    """RuntimeError unless `y` has the shape of the convolution of `x` with a weight of the shape `w`; of large images some of it may do."""
    made = _convolution_type((x, x.with_(w)), stride, padding, dilation, groups)
    if made.shape[:2] != y.shape[:2] or any(n < m for n, m in zip(made.shape, y.shape, strict=True)):
        raise RuntimeError(f"{name}: expected the output of an input of shape {list(x.shape)} and a weight of {list(w)} to have "
                           f"the shape {list(made.shape)}, but got {list(y.shape)}")


# -- windows -------------------------------------------------------------------------------------------------------------------------
def _padded(b: Any, x: Any, low: Ints, high: Ints) -> Any:
    """x with zeros around its spatial axes; negative widths crop."""
    shape, ones = x.type.shape, (1,) * x.type.ndim
    if not all([surely(p, 0) for p in (*low, *high)]):
        starts = (0, 0, *[maximum(-p, 0) for p in low])
        stops = (*shape[:2], *[n - maximum(-p, 0) for n, p in zip(shape[2:], high, strict=True)])
        x = b.slice(x, starts, stops, ones)
    if not all([surely(0, p) for p in (*low, *high)]):
        x = b.pad(x, 0.0, (0, 0, *[maximum(p, 0) for p in low]), (0, 0, *[maximum(p, 0) for p in high]))
    return x


def _strides(shape: Shape) -> Ints:
    return tuple([math.prod(shape[i + 1:]) for i in range(len(shape))])


def _taps(kernel: Ints) -> Iterator[Ints]:
    return itertools.product(*[range(k) for k in kernel])


def _tap_of(b: Any, xp: Any, tap: Ints, out: Ints, stride: Ints, dilation: Ints, origin: Ints = ()) -> Any:
    """The elements of padded x under one tap of the kernel: [N, C, *out]. `origin`: where the first window begins."""
    starts = [o + t * d for o, t, d in zip(origin or (0,) * len(tap), tap, dilation, strict=True)]
    stops = [lo + (n - 1) * s + 1 if n else lo for lo, n, s in zip(starts, out, stride, strict=True)]
    return b.slice(xp, (0, 0, *starts), (*xp.type.shape[:2], *stops), (1, 1, *stride))


def _weight_of(b: Any, w: Any, tap: Ints, shape: Shape) -> Any:
    """The weights of one tap, reshaped."""
    at = b.slice(w, (0, 0, *tap), (*w.type.shape[:2], *[t + 1 for t in tap]), (1,) * w.type.ndim)
    return b.reshape(at, shape)


# -- the three products --------------------------------------------------------------------------------------------------------------
def _forward(b: Any, xp: Any, w: Any, out: Ints, stride: Ints, dilation: Ints, groups: int, turned: bool = False,
             origin: Ints = ()) -> Any:
    """The convolution of x, which has its padding already; `turned`: with the kernel's axes reversed. `origin`: of the first window."""
    n, (o, depth), kernel = xp.type.shape[0], w.type.shape[:2], w.type.shape[2:]
    if depth == 1 and groups > 1:
        return _depthwise(b, xp, b.flip(w, tuple(range(2, w.type.ndim))) if turned else w, out, stride, dilation, groups, origin)
    rows, places = depth * math.prod(kernel), math.prod(out)
    weights = b.reshape(w, (groups, o // groups, rows))
    if n != 1 and not at_least(places, FEW_PLACES):
        windows = _windows(b, xp, kernel, out, stride, dilation, True, turned, origin)
        y = b.matmul(weights, b.reshape(windows, (groups, rows, n * places)))
        return b.reshape(b.permute(b.reshape(y, (o, n, places)), (1, 0, 2)), (n, o, *out))
    windows = _windows(b, xp, kernel, out, stride, dilation, False, turned, origin)
    if groups == 1:
        y = b.matmul(b.reshape(w, (o, rows)), b.reshape(windows, (n, rows, places)))
    else:
        y = b.matmul(weights, b.reshape(windows, (n, groups, rows, places)))
    return b.reshape(y, (n, o, *out))


def _windows(b: Any, xp: Any, kernel: Ints, out: Ints, stride: Ints, dilation: Ints, together: bool, turned: bool = False,
             origin: Ints = ()) -> Any:
    """The windows of padded x: [N, C, *kernel, *out]; `together`: [C, *kernel, N, *out], where batch and places make one axis."""
    n, c = xp.type.shape[:2]
    steps = _strides(xp.type.shape)
    within = [s * d for s, d in zip(steps[2:], dilation, strict=True)]
    across = [s * t for s, t in zip(steps[2:], stride, strict=True)]
    first = sum([o * s for o, s in zip(origin, steps[2:], strict=False)])
    if together:
        found = b.as_strided(xp, (c, *kernel, n, *out), (steps[1], *within, steps[0], *across), first)
    else:
        found = b.as_strided(xp, (n, c, *kernel, *out), (*steps[:2], *within, *across), first)
    at = 1 if together else 2
    # Reading windows in the other order costs less than writing the weights so.
    return b.flip(found, tuple(range(at, at + len(kernel)))) if turned and math.prod(kernel) > 1 else found


def _depthwise_sum(b: Any, xp: Any, w: Any, out: Ints, stride: Ints, dilation: Ints, groups: int, origin: Ints) -> Any:
    n, o = xp.type.shape[0], w.type.shape[0]
    flat, total = (1,) * len(out), None
    for tap in _taps(w.type.shape[2:]):
        x = b.reshape(_tap_of(b, xp, tap, out, stride, dilation, origin), (n, groups, 1, *out))
        part = b.mul(x, _weight_of(b, w, tap, (1, groups, o // groups, *flat)))
        total = part if total is None else b.add(total, part)
    return b.reshape(total, (n, o, *out))


_depthwise = in_float32(_depthwise_sum)


def _convolution(b: Any, x: Any, w: Any, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
    span = _extent(w.type.shape[2:], dilation)
    out = tuple([(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.type.shape[2:], padding, span, stride, strict=True)])
    if 0 in (x.type.numel, w.type.numel):
        return zeros(b, x.type.with_((x.type.shape[0], w.type.shape[0], *out)))
    return _forward(b, _padded(b, x, padding, padding), w, out, stride, dilation, groups)


def _input(b: Any, g: Any, w: Any, shape: Shape, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
    """A convolution of g with the kernel turned round for each remainder that places leave by the stride, interleaved."""
    if 0 in (g.type.numel, w.type.numel) or 0 in shape:
        return zeros(b, g.type.with_(shape))
    phases = [[_phase_of(*of) for of in zip(phase, w.type.shape[2:], stride, padding, dilation, strict=True)] for phase in _taps(stride)]
    counts = tuple([-(-m // s) for m, s in zip(shape[2:], stride, strict=True)])
    # All parts read one padded g, each from another place on.
    used = [axes for axes in phases if all(a.taps for a in axes)]
    low = tuple([max(column) for column in zip(*[[a.before for a in axes] for axes in used], strict=True)])
    ends = [[a.behind(j, m) for a, j, m in zip(axes, counts, g.type.shape[2:], strict=True)] for axes in used]
    padded = _padded(b, g, low, tuple([max(column) for column in zip(*ends, strict=True)])) if used else g
    parts = [_phase(b, padded, w, (*shape[:2], *counts), axes, low, groups) for axes in phases]
    whole = _interleaved(b, parts, stride)
    return b.slice(whole, (0,) * len(shape), shape, (1,) * len(shape)) if whole.type.shape != shape else whole


def _interleaved(b: Any, parts: list[Any], stride: Ints) -> Any:
    """The tensors of all phases, those of the last axis next to each other in the list, as one: axis by axis, from the last."""
    for axis in range(len(stride) - 1, -1, -1):
        step, at = stride[axis], axis + 3
        if step > 1:
            shape = parts[0].type.shape
            turns = [b.reshape(y, (*shape[:at], 1, *shape[at:])) for y in parts]
            merged = (*shape[:at - 1], shape[at - 1] * step, *shape[at:])
            parts = [b.reshape(b.cat(*turns[i:i + step], dim=at), merged) for i in range(0, len(turns), step)]
    return parts[0]


class Phase(NamedTuple):
    """Which taps give to the elements at `phase + stride j` of one axis, and where g has what they take.

    x[phase + stride j] = sum over u < taps of g[j + start - step u] w[first + every u].
    """

    first: int
    every: int
    taps: int
    start: int
    step: int

    @property
    def before(self) -> int:
        """Zeros that g needs at the front; negative: what is not read of it."""
        return (self.taps - 1) * self.step - self.start

    def behind(self, count: int, size: int) -> int:
        """The same at the end, for `count` elements and `size` of g."""
        return count + self.start - size


def _phase_of(phase: int, kernel: int, stride: int, padding: int, dilation: int) -> Phase:
    common = math.gcd(stride, dilation)
    every = stride // common
    place = phase + padding
    first = next((t for t in range(every) if (place - t * dilation) % stride == 0), kernel)
    return Phase(first, every, len(range(first, kernel, every)), (place - first * dilation) // stride, dilation // common)


def _phase(b: Any, padded: Any, w: Any, shape: Shape, axes: list[Phase], low: Ints, groups: int) -> Any:
    """Every stride-th element of the result: a convolution at stride 1 of g, `low` zeros at its front, with some taps, turned round."""
    if any(a.taps == 0 for a in axes):
        return zeros(b, padded.type.with_(shape))
    if any(a.every > 1 for a in axes):
        w = b.slice(w, (0, 0, *[a.first for a in axes]), w.type.shape, (1, 1, *[a.every for a in axes]))
    origin = tuple([lo - a.before for lo, a in zip(low, axes, strict=True)])
    steps = tuple([a.step for a in axes])
    return _forward(b, padded, _swapped(b, w, groups), shape[2:], (1,) * len(axes), steps, groups, True, origin)


def _swapped(b: Any, w: Any, groups: int) -> Any:
    """[O, C / groups, *K] -> [C, O / groups, *K]."""
    o, depth, *kernel = w.type.shape
    axes = tuple(range(3, 3 + len(kernel)))
    swapped = b.permute(b.reshape(w, (groups, o // groups, depth, *kernel)), (0, 2, 1, *axes))
    return b.reshape(swapped, (groups * depth, o // groups, *kernel))


def _weight(b: Any, x: Any, g: Any, shape: Shape, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
    if 0 in (x.type.numel, g.type.numel) or 0 in shape:
        return zeros(b, x.type.with_(shape))
    xp = _padded(b, x, padding, padding)
    (n, o), out, kernel, depth = g.type.shape[:2], g.type.shape[2:], shape[2:], shape[1]
    if depth == 1 and groups > 1:
        return _depthwise_weight(b, xp, g, shape, stride, dilation, groups)
    windows = _windows(b, xp, kernel, out, stride, dilation, True)
    places = n * math.prod(out)
    windows = b.reshape(windows, (groups, depth * math.prod(kernel), places))
    given = b.reshape(b.permute(b.reshape(g, (n, o, math.prod(out))), (1, 0, 2)), (groups, o // groups, places))
    return b.reshape(b.matmul(given, transposed(b, windows)), shape)


def _depthwise_weight_sum(b: Any, xp: Any, g: Any, shape: Shape, stride: Ints, dilation: Ints, groups: int) -> Any:
    n, out, copies = g.type.shape[0], g.type.shape[2:], shape[0] // groups
    given = b.reshape(g, (n, groups, copies, *out))
    parts = []
    for tap in _taps(shape[2:]):
        x = b.reshape(_tap_of(b, xp, tap, out, stride, dilation), (n, groups, 1, *out))
        total = b.sum(b.mul(x, given), (0, *range(3, 3 + len(out))), False, None)
        parts.append(b.reshape(total, (shape[0], 1)))
    return b.reshape(b.cat(*parts, dim=1) if len(parts) > 1 else parts[0], shape)


_depthwise_weight = in_float32(_depthwise_weight_sum)


def _like(b: Any, x: Any, w: Any, like: TensorType, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
    """The convolution, without the places that `like` does not have: an output padding may leave room for more."""
    y = b.convolution(x, w, stride, padding, dilation, groups)
    return y if y.type.shape == like.shape else b.slice(y, (0,) * like.ndim, like.shape, (1,) * like.ndim)


# -- batches -------------------------------------------------------------------------------------------------------------------------
def _as_channels(c: BatchedCall, i: int) -> Any:
    """[B, N, C, ...] as [N, B C, ...]: examples become groups of channels."""
    n, channels, *rest = c.types[i].shape
    x = c.b.permute(c.full(i), (1, 0, *range(2, 3 + len(rest))))
    return c.b.reshape(x, (n, c.size * channels, *rest))


def _from_channels(c: BatchedCall, y: Any) -> Any:
    n, channels, *rest = c.out_types[0].shape
    y = c.b.reshape(y, (n, c.size, channels, *rest))
    return c.b.permute(y, (1, 0, *range(2, 3 + len(rest))))


def _batch_forward(c: BatchedCall) -> Any:
    """A shared weight makes one convolution of all images; weights of their own make groups."""
    *shape, stride, padding, dilation, groups = c.attrs
    if not c.flags[1]:
        n, *rest = c.types[0].shape
        x = c.b.reshape(c.values[0], (c.size * n, *rest))
        y = c.apply([x, c.values[1]], (*[(c.size * s[0], *s[1:]) for s in shape], stride, padding, dilation, groups))
        return c.b.reshape(y, (c.size, *c.out_types[0].shape))
    o, *rest = c.types[1].shape
    w = c.b.reshape(c.values[1], (c.size * o, *rest))
    whole = [(s[0], c.size * s[1], *s[2:]) for s in shape]
    return _from_channels(c, c.apply([_as_channels(c, 0), w], (*whole, stride, padding, dilation, c.size * groups)))


def _batch_weight(c: BatchedCall) -> Any:
    shape, stride, padding, dilation, groups = c.attrs
    whole = (c.size * shape[0], *shape[1:])
    found = c.apply([_as_channels(c, 0), _as_channels(c, 1)], (whole, stride, padding, dilation, c.size * groups))
    return c.b.reshape(found, (c.size, *shape))


_ATTRS = "stride padding dilation groups"
_GRADIENT_ATTRS = f"shape {_ATTRS}"


def _samples() -> Iterator[tuple[Shape, Shape, Any]]:
    """(x, w, attributes): strides, padding, dilation, groups, depthwise, one and three axes."""
    yield (2, 3, 7), (4, 3, 3), ((2,), (1,), (1,), 1)
    yield (2, 4, 5, 6), (6, 2, 3, 2), ((1, 1), (1, 0), (1, 2), 2)
    yield (1, 3, 6, 5), (6, 1, 3, 3), ((2, 1), (1, 1), (1, 1), 3)
    yield (2, 2, 5, 5), (3, 2, 2, 2), ((2, 2), (0, 1), (1, 1), 1)
    yield (1, 2, 3, 3), (3, 2, 1, 1), ((1, 1), (0, 0), (1, 1), 1)
    yield (1, 2, 7, 6), (3, 2, 2, 1), ((3, 2), (1, 0), (2, 1), 1)
    yield (1, 2, 9), (2, 2, 3), ((4,), (2,), (2,), 1)
    yield (1, 2, 3, 4, 3), (2, 2, 2, 2, 2), ((1, 2, 1), (0, 1, 0), (1, 1, 1), 1)


def _result_shape(x: Shape, w: Shape, attrs: Any) -> Shape:
    stride, padding, dilation, _ = attrs
    return (x[0], w[0], *[(n + 2 * p - d * (k - 1) - 1) // s + 1
                          for n, p, d, k, s in zip(x[2:], padding, dilation, w[2:], stride, strict=True)])


declare("convolution", Kind.COMPOSITE, "x w", _ATTRS, field=Field.ANALYTIC, batch=_batch_forward,
        type_rule=_convolution_type, decompose=_convolution, onnx="Conv",
        vjp=(lambda b, g, w, x_type, stride, padding, dilation, groups:
             b.convolution_input(g, w, x_type.shape, stride, padding, dilation, groups),
             lambda b, g, x, w_type, stride, padding, dilation, groups:
             b.convolution_weight(x, g, w_type.shape, stride, padding, dilation, groups)),
        samples=[((x, w), attrs) for x, w, attrs in _samples()],
        doc="Cross-correlation of x [N, C, *S] with w [O, C / groups, *K]; padding is with zeros on both sides.")
declare("convolution_input", Kind.COMPOSITE, "y w", _GRADIENT_ATTRS, field=Field.ANALYTIC, batch=_batch_forward,
        type_rule=_input_type, decompose=_input,
        vjp=(lambda b, g, w, y_type, stride, padding, dilation, groups: _like(b, g, w, y_type, stride, padding, dilation, groups),
             lambda b, g, y, w_type, stride, padding, dilation, groups:
             b.convolution_weight(g, y, w_type.shape, stride, padding, dilation, groups)),
        samples=[((_result_shape(x, w, attrs), w), (x, *attrs)) for x, w, attrs in _samples()],
        onnx="ConvTranspose", doc="The gradient of a convolution by its input of the given shape: the transposed convolution of y.")
declare("convolution_weight", Kind.COMPOSITE, "x y", _GRADIENT_ATTRS, field=Field.ANALYTIC, batch=_batch_weight,
        type_rule=_weight_type, decompose=_weight,
        vjp=(lambda b, g, y, x_type, stride, padding, dilation, groups:
             b.convolution_input(y, g, x_type.shape, stride, padding, dilation, groups),
             lambda b, g, x, y_type, stride, padding, dilation, groups: _like(b, x, g, y_type, stride, padding, dilation, groups)),
        samples=[((x, _result_shape(x, w, attrs)), (w, *attrs)) for x, w, attrs in _samples()],
        doc="The gradient of a convolution by its weight of the given shape, given that of its result.")
