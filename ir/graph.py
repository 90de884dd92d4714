"""The graph IR: nodes in topological order, each producing one or more pure tensor values."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from treadle.ir.op import Attrs, Op
from treadle.ir.types import TensorType

Location = tuple[str, int] | None


class Value:
    """Result `index` of a node."""

    __slots__ = ("index", "node", "type")

    def __init__(self, node: "Node", index: int, type: TensorType) -> None:
        self.node = node
        self.index = index
        self.type = type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> Any:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"<{self.node.op.name if self.node.op else 'input'} : {self.type}>"


class Node:
    """One operation applied. A graph's inputs are nodes whose op is None."""

    __slots__ = ("attrs", "inputs", "loc", "op", "outputs")

    def __init__(self, op: Op | None, inputs: tuple[Value, ...], attrs: Attrs, types: tuple[TensorType, ...],
                 loc: Location = None) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.loc = loc
        self.outputs = tuple([Value(self, i, t) for i, t in enumerate(types)])

    @property
    def out(self) -> Value:
        return self.outputs[0]

    def attr(self, name: str) -> Any:
        assert self.op is not None
        return self.attrs[self.op.attrs.index(name)]

    @property
    def regions(self) -> tuple["Graph", ...]:
        """Sub-graphs: the attributes that are graphs (control flow)."""
        return tuple([a for a in self.attrs if isinstance(a, Graph)])

    def __repr__(self) -> str:
        return f"<node {self.op.name if self.op else 'input'} -> {', '.join(str(o.type) for o in self.outputs)}>"


class Graph:
    """Inputs (tensors first and then run-time scalars, which have weak types), nodes in topological order, outputs."""

    __slots__ = ("inputs", "name", "nodes", "outputs")

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.outputs: list[Value] = []

    def add_input(self, type: TensorType) -> Value:
        value = Node(None, (), (), (type,)).out
        self.inputs.append(value)
        return value

    def append(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def again(self, node: Node, inputs: tuple[Value, ...]) -> Node:
        """Append the node on these inputs: itself, if they are its own."""
        if inputs is not node.inputs and inputs != node.inputs:
            node = Node(node.op, inputs, node.attrs, tuple([o.type for o in node.outputs]), node.loc)
        self.nodes.append(node)
        return node

    def users(self) -> dict[Value, list[Node]]:
        """Consumers of each value, in order; outputs of the graph are not counted."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value, []).append(node)
        return found

    def __repr__(self) -> str:
        from treadle.ir.text import print_graph
        return print_graph(self)


def rewrite(graph: Graph, rule: Callable[["Any", Node, tuple[Value, ...]], Iterable[Value] | None], builder: Any) -> Graph:
    """One forward sweep: `rule(builder, node, mapped inputs)` returns replacement values, or None to keep the node.

    `builder` is a fresh `treadle.ir.builder.Builder`; its graph is the result. Inputs, and nodes whose operands stay what they
    were, are shared with the old graph.
    """
    new = builder.graph
    new.name = graph.name
    new.inputs = list(graph.inputs)
    mapped: dict[Value, Value] = {}
    for node in graph.nodes:
        inputs = node.inputs
        if mapped:
            for value in inputs:
                if value in mapped:
                    inputs = tuple([mapped.get(v, v) for v in inputs])
                    break
        builder.loc = node.loc
        replaced = rule(builder, node, inputs)
        if replaced is None:
            replaced = new.again(node, inputs).outputs
        if replaced is not node.outputs:
            for old, value in zip(node.outputs, replaced, strict=True):
                if value is not old:
                    mapped[old] = value
    new.outputs = [mapped.get(v, v) for v in graph.outputs]
    return new
