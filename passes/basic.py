"""Passes that every pipeline needs: dead code, common subexpressions, expansion of composites."""
from __future__ import annotations

from functools import lru_cache
from typing import Any

from treadle.ir.builder import Builder
from treadle.ir.dtypes import DType, default_float
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.ir.interpreter import decomposed
from treadle.ir.op import Attrs, Kind, Op
from treadle.ir.types import TensorType


def dce(graph: Graph) -> Graph:
    """Drop nodes whose results nobody uses. Nodes are shared with the input graph; inputs stay."""
    needed: set[Value] = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    new = Graph(graph.name)
    new.inputs = list(graph.inputs)
    new.nodes = kept[::-1]
    new.outputs = list(graph.outputs)
    return new


def _attr_key(attr: Any) -> Any:
    """Numbers of different classes compare equal in Python, and -0.0 equals 0.0; they are different attributes."""
    if isinstance(attr, float):
        return float, attr.hex()
    return (attr.__class__, attr) if isinstance(attr, (int, bool)) else attr


def cse(graph: Graph) -> Graph:
    """Nodes with the same op, operands (in any order where it does not matter) and attributes become one.

    Every op is pure: random draws name their offset.
    """
    seen: dict[tuple, tuple[Value, ...]] = {}

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        operands = frozenset(inputs) if node.op is not None and node.op.commutative else inputs
        key = (node.op, operands, tuple([_attr_key(a) for a in node.attrs]) if node.attrs else ())
        found = seen.get(key)
        if found is None:
            found = seen[key] = b.graph.again(node, inputs).outputs
        return found
    return rewrite(graph, rule, Builder())


def needs_expansion(op: Op, routines: bool = True) -> bool:
    """Composites, and any other op that only its decomposition, or without `routines` only a routine, explains."""
    return op.decompose is not None and (op.kind is Kind.COMPOSITE or op.reference is None or (op.routine != "" and not routines))


@lru_cache(maxsize=4096)
def _expanded(op: Op, types: tuple[TensorType, ...], attrs: Attrs, default: DType, routines: bool) -> Graph:
    """The op's pieces. Type rules inside depend on the default dtype, which is therefore in the key."""
    return decompose(decomposed(op, types, attrs), routines)


def decompose(graph: Graph, routines: bool = True) -> Graph:
    """Expand composites until none is left. The pieces have the composite's location.

    routines: keep ops that a routine of the CPU computes, where a decomposition says the same in simpler ones.
    """
    if not any(node.op is not None and needs_expansion(node.op, routines) for node in graph.nodes):
        return graph

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> list[Value] | None:
        assert node.op is not None
        if not needs_expansion(node.op, routines):
            return None
        body = _expanded(node.op, tuple([v.type for v in inputs]), node.attrs, default_float(), routines)
        results = inline(b, body, inputs)
        return [v if v.type is o.type else _conform(b, v, o.type) for v, o in zip(results, node.outputs, strict=True)]
    return rewrite(graph, rule, Builder())


def _conform(b: Any, value: Value, type: TensorType) -> Value:
    """A decomposition's result in the type that the composite's type rule promised."""
    if value.type.dtype is not type.dtype:
        value = b.cast(value, type.dtype)
    return value if value.shape == type.shape else b.reshape(value, type.shape)


def inline(b: Builder, body: Graph, inputs: tuple[Value, ...]) -> list[Value]:
    """Append the nodes of `body`, whose inputs are `inputs`; its outputs as values of the builder's graph."""
    env = dict(zip(body.inputs, inputs, strict=True))
    for node in body.nodes:
        copy = Node(node.op, tuple([env[v] for v in node.inputs]), node.attrs, tuple([o.type for o in node.outputs]), b.loc)
        env.update(zip(node.outputs, b.graph.append(copy).outputs, strict=True))
    return [env[v] for v in body.outputs]
