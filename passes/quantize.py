"""Linear layers and convolutions in int8: a pass over graphs, and the pieces of it that eager code records as well.

Weights are symmetric, with one scale for each output feature or one for all; activations by their range at run time, or by one that
`observe` has found beforehand. What cannot be quantized stays in float, and `left_in_float` says why.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.ir.ops.quantized import MAX_K
from treadle.ir.types import TensorType

LAYERS = ("linear", "linear_bias", "convolution")


@dataclass(frozen=True)
class Scheme:
    """per_channel: a scale for each output feature. symmetric: activations have their zero in the middle. per_tensor: one range for all."""

    per_channel: bool = True
    symmetric: bool = False
    per_tensor: bool = False


class Weights(NamedTuple):
    """What `linear_int8` takes beside its input, as values of an emitter."""

    packed: Any
    scale: Any
    sums: Any
    bias: Any


def obstacle(x: TensorType, w: TensorType, groups: int = 1, static: bool = True) -> str:
    """Why a layer stays in float; "" if it need not. `static`: the range of its input is known beforehand."""
    if w.dtype.category != dtypes.FLOAT or w.dtype is dtypes.float64:
        return f"weights of {w.dtype.name} lose too much in int8"
    if x.device != "cpu":
        return f"there is no int8 product on {x.device}"
    if not w.numel:
        return "it has no weights"
    if groups != 1:
        return f"a convolution of {groups} groups has no int8 form"
    if w.ndim > 2 and not static:
        return 'a convolution has no dynamic int8 form (use activation="static" with calibration data)'
    if prod(w.shape[1:]) > MAX_K:
        return f"sums over {prod(w.shape[1:])} products may overflow int32 (at most {MAX_K})"
    return ""


def prepare(b: Any, w: Any, bias: Any, scheme: Scheme) -> Weights:
    """Quantize and pack weights (out, in), or (out, in, *kernel), with an emitter."""
    n = w.type.shape[0]
    wide = b.cast(w if w.type.ndim == 2 else b.reshape(w, (n, prod(w.type.shape[1:]))), dtypes.float32)
    top = b.amax(b.abs(wide), (1,) if scheme.per_channel else (0, 1), True)
    scale = b.where(b.gt(top, 0.0), b.div(top, 127.0), 1.0)
    q = b.quantize(wide, scale, b.full(0, (), dtypes.int32, w.type.device), dtypes.int8)
    sums = b.cast(b.sum(q, (1,), False, None), dtypes.int32)
    offset = b.full(0.0, (n,), dtypes.float32, w.type.device) if bias is None else b.cast(bias, dtypes.float32)
    return Weights(b.int8_pack(q), b.reshape(scale, (scale.type.numel,)), sums, offset)


def linear(b: Any, x: Any, weights: Weights, scheme: Scheme, bounds: tuple[Any, Any] | None = None) -> Any:
    """The layer in int8; `bounds` are x's scale and zero point if they are known."""
    if bounds is None:
        return b.linear_int8(x, *weights, scheme.symmetric, scheme.per_tensor)
    return b.linear_int8_static(x, *weights, *bounds)


class Window(NamedTuple):
    """How a convolution walks: its kernel's sizes, steps, widths of padding before and after each axis, and gaps."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    dilation: tuple[int, ...]


def convolution(b: Any, x: Any, weights: Weights, window: Window, bounds: tuple[Any, Any]) -> Any:
    """The layer in int8; `bounds` are x's scale and zero point."""
    return b.convolution_int8(x, *weights, *bounds, *window)


def observe_range(b: Any, x: Any, percentile: float = 100.0) -> tuple[Any, Any]:
    """The observer: the least and the largest element, 0-d, but for those beyond `percentile` at both ends; NaN if there is one.

    Infinities beyond the percentile make it NaN too.
    """
    wide = b.cast(x, dtypes.float32)
    dims = tuple(range(len(x.type.shape)))
    low, high = b.amin(wide, dims, False), b.amax(wide, dims, False)
    last = x.type.numel - 1
    cut = round(last * (1.0 - percentile / 100.0))
    if cut == 0:
        return low, high
    ordered = b.sort(b.reshape(wide, (last + 1,)), 0, False, True)[0]
    ends = [b.reshape(b.slice(ordered, (i,), (i + 1,), (1,)), ()) for i in (cut, last - cut)]
    return tuple([b.add(end, b.mul(extreme, 0.0)) for end, extreme in zip(ends, (low, high), strict=True)])


def layers(graph: Graph) -> list[Node]:
    """The linear layers and convolutions of a graph, in order."""
    return [node for node in graph.nodes if node.op is not None and node.op.name in LAYERS]


def left_in_float(graph: Graph) -> list[tuple[Node, str]]:
    """The layers that a static `quantize` leaves alone, with the reason."""
    found = [(node, _obstacle(node, True)) for node in layers(graph)]
    return [(node, why) for node, why in found if why]


def _obstacle(node: Node, static: bool) -> str:
    groups = node.attr("groups") if node.op is not None and node.op.name == "convolution" else 1
    return obstacle(node.inputs[0].type, node.inputs[1].type, groups, static)


def observe(graph: Graph, percentile: float = 100.0) -> Graph:
    """The graph with the range of each layer's input as further outputs: least, largest, layer after layer."""
    ranges: list[Value] = []

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> None:
        if node.op is not None and node.op.name in LAYERS:
            ranges.extend(observe_range(b, inputs[0], percentile))
    new = rewrite(graph, rule, Builder())
    new.outputs += ranges
    return new


def quantize(graph: Graph, scheme: Scheme = Scheme(), bounds: list[tuple[float, int]] | None = None) -> Graph:
    """Every layer in int8, its weights quantized in the graph; `bounds`: scale and zero point of each layer's input, in order.

    Without bounds convolutions stay in float.
    """
    left = iter(bounds or [])

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op is None or node.op.name not in LAYERS:
            return None
        known = next(left) if bounds is not None else None
        if _obstacle(node, known is not None):
            return None
        weights = prepare(b, inputs[1], inputs[2] if len(inputs) > 2 else None, scheme)
        fixed = None if known is None else (b.full(known[0], (), dtypes.float32, "cpu"), b.full(known[1], (), dtypes.int32, "cpu"))
        if node.op.name == "convolution":
            assert fixed is not None
            padding = node.attr("padding")
            window = Window(inputs[1].type.shape[2:], node.attr("stride"), padding, padding, node.attr("dilation"))
            return (convolution(b, inputs[0], weights, window, fixed),)
        return (linear(b, inputs[0], weights, scheme, fixed),)
    return rewrite(graph, rule, Builder())
