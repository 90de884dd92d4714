"""Passes that every pipeline needs first: dead-code elimination."""
from __future__ import annotations

from treadle.ir.graph import Graph, Value


def dce(graph: Graph) -> Graph:
    """Drop nodes whose results nobody uses. Nodes are shared with the input graph; inputs stay."""
    needed: set[Value] = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if any(o in needed for o in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    new = Graph(graph.name)
    new.inputs = list(graph.inputs)
    new.nodes = kept[::-1]
    new.outputs = list(graph.outputs)
    return new
