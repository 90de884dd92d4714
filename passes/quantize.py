"""Linear layers in int8: a pass over graphs, and the pieces of it that eager code records as well.

Weights are symmetric, with one scale for each output feature or one for all; activations by their range at run time, or by one that
`observe` has found beforehand. What cannot be quantized stays in float, and `left_in_float` says why.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.ir.ops.quantized import MAX_K
from treadle.ir.types import TensorType

LAYERS = ("linear", "linear_bias")


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


def obstacle(x: TensorType, w: TensorType) -> str:
    """Why a linear layer stays in float; "" if it need not."""
    if w.dtype.category != dtypes.FLOAT or w.dtype is dtypes.float64:
        return f"weights of {w.dtype.name} lose too much in int8"
    if x.device != "cpu":
        return f"there is no int8 product on {x.device}"
    if not w.numel:
        return "it has no weights"
    if w.shape[1] > MAX_K:
        return f"sums over {w.shape[1]} products may overflow int32 (at most {MAX_K})"
    return ""


def prepare(b: Any, w: Any, bias: Any, scheme: Scheme) -> Weights:
    """Quantize and pack weights (out, in), with an emitter."""
    n = w.type.shape[0]
    wide = b.cast(w, dtypes.float32)
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


def observe_range(b: Any, x: Any) -> tuple[Any, Any]:
    """The observer: the least and the largest element, 0-d, NaN if there is one."""
    wide = b.cast(x, dtypes.float32)
    dims = tuple(range(len(x.type.shape)))
    return b.amin(wide, dims, False), b.amax(wide, dims, False)


def layers(graph: Graph) -> list[Node]:
    """The linear layers of a graph, in order."""
    return [node for node in graph.nodes if node.op is not None and node.op.name in LAYERS]


def left_in_float(graph: Graph) -> list[tuple[Node, str]]:
    """The linear layers that `quantize` leaves alone, with the reason."""
    found = [(node, obstacle(node.inputs[0].type, node.inputs[1].type)) for node in layers(graph)]
    return [(node, why) for node, why in found if why]


def observe(graph: Graph) -> Graph:
    """The graph with the range of each linear layer's input as further outputs: least, largest, layer after layer."""
    ranges: list[Value] = []

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> None:
        if node.op is not None and node.op.name in LAYERS:
            ranges.extend(observe_range(b, inputs[0]))
    new = rewrite(graph, rule, Builder())
    new.outputs += ranges
    return new


def quantize(graph: Graph, scheme: Scheme = Scheme(), bounds: list[tuple[float, int]] | None = None) -> Graph:
    """Every linear layer in int8, its weights quantized in the graph; `bounds`: scale and zero point of each layer's input, in order."""
    left = iter(bounds or [])

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op is None or node.op.name not in LAYERS:
            return None
        known = next(left) if bounds is not None else None
        if obstacle(inputs[0].type, inputs[1].type):
            return None
        weights = prepare(b, inputs[1], inputs[2] if len(inputs) > 2 else None, scheme)
        fixed = None if known is None else (b.full(known[0], (), dtypes.float32, "cpu"), b.full(known[1], (), dtypes.int32, "cpu"))
        return (linear(b, inputs[0], weights, scheme, fixed),)
    return rewrite(graph, rule, Builder())
