"""Reverse-mode differentiation of a whole graph."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.ir.autodiff import backpropagate
from treadle.ir.builder import Builder
from treadle.ir.dtypes import FLOAT
from treadle.ir.graph import Graph, Value
from treadle.passes.basic import dce, inline


def vjp_graph(graph: Graph, wrt: Sequence[int], keep_outputs: bool = False) -> Graph:
    """The graph of gradients of sum(output * cotangent) with respect to the inputs at positions `wrt`.

    Its inputs are `graph`'s tensors, one cotangent for each floating-point output (same type), then `graph`'s numbers; its
    outputs the gradients, zeros where there is none. With `keep_outputs` the outputs of `graph` come first.
    """
    b = Builder(Graph(f"{graph.name}_vjp"))
    copies = {v: b.input(v.type) for v in graph.inputs}
    inner = inline(b, graph, tuple([copies[v] for v in graph.inputs]))
    forward = Graph(graph.name)
    forward.inputs, forward.nodes, forward.outputs = list(b.graph.inputs), list(b.graph.nodes), inner
    cotangents = [b.input(v.type) if v.dtype.category >= FLOAT else None for v in inner]
    tensors = [v for v in copies.values() if not v.type.weak]
    b.graph.inputs = [*tensors, *[c for c in cotangents if c is not None], *[v for v in copies.values() if v.type.weak]]
    targets = [copies[graph.inputs[i]] for i in wrt]
    found = backpropagate(b, forward, _Same(), cotangents, targets)
    gradients = [_zeros(b, t) if g is None else g for g, t in zip(found, targets, strict=True)]
    b.graph.outputs = [*inner, *gradients] if keep_outputs else gradients
    return dce(b.graph)


class _Same(dict[Value, Any]):
    """The graph is differentiated in place: every value stands for itself."""

    def get(self, key: Value, default: Any = None) -> Any:
        return key


def _zeros(b: Any, value: Value) -> Value:
    return b.full(0, value.shape, value.dtype, value.type.device)
