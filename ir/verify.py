"""Checks that a graph is well formed: order, operands, attributes, types and regions."""
from __future__ import annotations

from typing import NoReturn

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import Op, result_types
from treadle.ir.text import format_type, print_node


class VerifyError(RuntimeError):
    """A graph is malformed. `node` is the first offending node (None when the graph's inputs or outputs are at fault)."""

    def __init__(self, message: str, graph: Graph, node: Node | None = None) -> None:
        super().__init__(message)
        self.graph = graph
        self.node = node


def verify(graph: Graph) -> None:
    """Raise VerifyError unless every node uses values defined before it, as its op's record demands; regions included.

    Types are checked against the type rules, so verify under the default float dtype that the graph was built under.
    """
    _Verifier().graph(graph)


class _Verifier:
    def __init__(self) -> None:
        self.path: list[Graph] = []  # from the outermost graph to the one being checked
        self.done: set[Graph] = set()  # a region may be shared by many nodes
        self.homes: dict[Node, Graph] = {}

    def graph(self, graph: Graph) -> None:
        if graph in self.done:
            return
        self.path.append(graph)
        defined: set[Value] = set()
        for i, value in enumerate(graph.inputs):
            self.input(value, i, defined)
        for position, node in enumerate(graph.nodes):
            self.node(node, position, defined)
        for i, value in enumerate(graph.outputs):
            if value not in defined:
                self.fail(f"output {i} ({value!r}) {self.whereabouts(value)}")
        self.path.pop()
        self.done.add(graph)

    def input(self, value: Value, i: int, defined: set[Value]) -> None:
        if value.node.op is not None:
            self.fail(f"input {i} is the result of {value.node.op.name}, not an input")
        if value in defined:
            self.fail(f"input {i} is listed twice")
        defined.add(value)

    def node(self, node: Node, position: int, defined: set[Value]) -> None:
        if node in self.homes:
            place = "twice in its graph" if self.homes[node] is self.path[-1] else f"in the graph {self.homes[node].name!r} too"
            self.fail(f"the node is {place}", node, position)
        self.homes[node] = self.path[-1]
        op = node.op
        if op is None:
            self.fail("an input among the nodes; inputs belong in graph.inputs", node, position)
        self.counts(node, op, position)
        for i, value in enumerate(node.inputs):
            if value not in defined:
                self.fail(f"operand {_operand_name(op, i)} {self.whereabouts(value)}", node, position)
        for region in node.regions:
            if region in self.path:
                self.fail(f"the region {region.name!r} contains itself", node, position)
            self.graph(region)
        self.types(node, op, position)
        defined.update(node.outputs)

    def counts(self, node: Node, op: Op, position: int) -> None:
        variadic = bool(op.operands) and op.operands[-1].endswith("*")
        wanted = len(op.operands) - variadic
        if len(node.inputs) < wanted or (len(node.inputs) > wanted and not variadic):
            least = f"{wanted} or more" if variadic else f"{wanted}"
            self.fail(f"takes {least} operands ({', '.join(op.operands) or 'none'}), has {len(node.inputs)}", node, position)
        if not isinstance(node.attrs, tuple) or len(node.attrs) != len(op.attrs):
            self.fail(f"takes a tuple of {len(op.attrs)} attributes ({', '.join(op.attrs) or 'none'}), has {node.attrs!r}", node, position)
        for name, attr in zip(op.attrs, node.attrs, strict=True):
            try:
                hash(attr)
            except TypeError:
                self.fail(f"attribute {name} = {attr!r} is not hashable", node, position)

    def types(self, node: Node, op: Op, position: int) -> None:
        for i, value in enumerate(node.outputs):
            if value.node is not node or value.index != i:
                self.fail(f"result {i} belongs to {value.node!r} as its result {value.index}", node, position)
        try:
            wanted = result_types(op, tuple([v.type for v in node.inputs]), node.attrs)
        except Exception as error:  # whatever a type rule raises is a refusal
            raise VerifyError(self.message(f"the type rule refuses the operands: {type(error).__name__}: {error}", node, position),
                              self.path[-1], node) from error
        if tuple([v.type for v in node.outputs]) != wanted:
            found = ", ".join([format_type(v.type) for v in node.outputs]) or "none"
            self.fail(f"results have types {found}; the type rule gives {', '.join(map(format_type, wanted)) or 'none'}", node, position)

    def whereabouts(self, value: Value) -> str:
        """Why a value is not available here."""
        graph = self.path[-1]
        if value.node in graph.nodes:
            return "is defined after its use" if value in value.node.outputs else "is no result of its node"
        for outer in self.path[:-1]:
            if value in outer.inputs or value.node in outer.nodes:
                return f"comes from the surrounding graph {outer.name!r}; a region takes values as operands"
        return f"is not defined in the graph {graph.name!r}"

    def message(self, fault: str, node: Node | None, position: int) -> str:
        where = " > ".join([graph.name for graph in self.path])
        if node is None:
            return f"graph {where}: {fault}"
        name = node.op.name if node.op else "input"
        line = f" ({node.loc[0]}:{node.loc[1]})" if node.loc else ""
        return f"graph {where}: node {position}, {name}{line}: {fault}\n  {print_node(node)}"

    def fail(self, fault: str, node: Node | None = None, position: int = 0) -> NoReturn:
        raise VerifyError(self.message(fault, node, position), self.path[-1], node)


def _operand_name(op: Op, i: int) -> str:
    return f"{i} ({op.operands[min(i, len(op.operands) - 1)].rstrip('*')})"
