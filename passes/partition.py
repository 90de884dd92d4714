"""A joint graph of forward and backward cut in two, or the later part of one graph made to compute again what it would keep alive."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from treadle.ir import op as op_table
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import Kind
from treadle.passes.basic import dce
from treadle.passes.budget import Later, within
from treadle.passes.demand import is_view, lowerable, overwrites

WORTH = 1 << 20       # bytes that computing again has to save in a graph of forward and backward


class Partition(NamedTuple):
    """`forward` gives its outputs and then `saved` (without those that are inputs); `backward` takes `saved`, the cotangents, numbers.

    saved: values of the joint graph. numbers: which of its run-time scalars the backward graph takes, by position. recomputed: the nodes
    of the joint graph that the backward graph holds as well. peak: about the most bytes alive in the backward pass.
    """

    forward: Graph
    backward: Graph
    saved: list[Value]
    numbers: list[int]
    recomputed: list[Node]
    peak: int

    def report(self) -> str:
        """What is saved, in bytes, and what is computed again."""
        kept = [v for v in self.saved if v.node.op is not None]
        lines = [f"saved: {len(kept)} values, {sum(v.type.nbytes for v in kept)} bytes, and {len(self.saved) - len(kept)} inputs"]
        lines += [f"  {v.node.op.name} {v.type}" for v in kept if v.node.op is not None]
        return "\n".join([*lines, f"computed again: {_counted(self.recomputed)}"])


def _counted(nodes: Sequence[Node]) -> str:
    """The ops that compute something, with how many there are of each."""
    counts: dict[str, int] = {}
    for node in nodes:
        if node.op is not None and not is_view(node) and node.op.kind is not Kind.CREATE:
            counts[node.op.name] = counts.get(node.op.name, 0) + 1
    return ", ".join(f"{name} x{n}" if n > 1 else name for name, n in sorted(counts.items())) or "nothing"


def partition(graph: Graph, outputs: int, seeds: Collection[Value], tensors: int, budget: float = 1.0) -> Partition:
    """Cut a prepared joint graph: its first `outputs` outputs are the forward's, the others gradients.

    seeds: the inputs that are cotangents; what depends on them is the backward pass. tensors: how many inputs are tensors.
    budget: see `treadle.passes.budget`.
    """
    late = set(seeds)
    for node in graph.nodes:
        if any(v in late for v in node.inputs):
            late.update(node.outputs)
    gradients = graph.outputs[outputs:]
    behind = needed_nodes([n for n in graph.nodes if n.outputs[0] in late], gradients)
    early = [n for n in graph.nodes if n.outputs[0] not in late]
    choice = within(Later(needed_nodes(early, graph.outputs[:outputs]), behind, gradients, late, True), budget)
    saved, body = choice.saved, choice.body
    used = {v for n in body for v in n.inputs} | set(gradients)
    ordered = [v for v in [*graph.inputs[:tensors], *[o for n in graph.nodes for o in n.outputs]] if v in saved and v in used]
    numbers = [i for i, v in enumerate(graph.inputs[tensors:]) if v in used]
    taken = [v for v in graph.inputs[:tensors] if v in seeds]
    backward = cut([*ordered, *taken], [graph.inputs[tensors + i] for i in numbers], body, gradients)
    inputs = [v for v in graph.inputs[:tensors] if v not in late]
    results = [*graph.outputs[:outputs], *[v for v in ordered if v.node.op is not None]]
    forward = cut(inputs, graph.inputs[tensors:], early, results)
    return Partition(forward, backward, ordered, numbers, [n for n in body if n.outputs[0] not in late], choice.peak)


def needed_nodes(nodes: Sequence[Node], wanted: Collection[Value]) -> list[Node]:
    """Those of `nodes` that `wanted` comes from."""
    needed, found = set(wanted), []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            found.append(node)
            needed.update(node.inputs)
    found.reverse()
    return found


def cut(tensors: Sequence[Value], numbers: Sequence[Value], nodes: Sequence[Node], outputs: Sequence[Value]) -> Graph:
    """A graph of its own from a part of another."""
    graph = Graph()
    env = {v: graph.add_input(v.type) for v in [*tensors, *numbers]}
    for node in nodes:
        copy = Node(node.op, tuple([env[v] for v in node.inputs]), node.attrs, tuple([o.type for o in node.outputs]), node.loc)
        env.update(zip(node.outputs, graph.append(copy).outputs, strict=True))
    graph.outputs = [env[v] for v in outputs]
    return dce(graph)


class Rematerialized(NamedTuple):
    """A graph whose later part computes again some of what it would keep alive. Bytes alive there at most, before and after, about."""

    graph: Graph
    recomputed: list[Node]
    before: int
    after: int

    def report(self) -> str:
        return (f"alive in the later part: at most about {self.before} bytes, {self.after} with values computed again\n"
                f"computed again: {_counted(self.recomputed)}")


def rematerialize(graph: Graph, budget: float) -> Rematerialized | None:
    """Cut a prepared graph where most is alive, and let what follows compute again what it needs; None where nothing is gained.

    What is computed again stands behind an `after`: its operands are there earlier, but it must not be computed until then.
    """
    place = _fullest(graph)
    if place is None or budget >= 1:
        return None
    early, late = graph.nodes[:place + 1], graph.nodes[place + 1:]
    made = {o for n in late for o in n.outputs}
    kept = [v for v in graph.outputs if v not in made]
    later = Later(early, late, [v for v in graph.outputs if v in made], made, False, set(kept))
    everything = later.choice(lambda node: False)
    choice = within(later, budget)
    if everything.peak - choice.peak < max(WORTH, everything.peak // 8):
        return None
    return Rematerialized(_repeat(graph, early, choice.body, made), [n for n in choice.body if n.outputs[0] not in made],
                          everything.peak, choice.peak)


def _fullest(graph: Graph) -> int | None:
    """The position behind which the later part starts: a node that is a step of its own, from the fullest place on."""
    nothing: set[Value] = set()
    sizes = Later((), graph.nodes, graph.outputs, {o for n in graph.nodes for o in n.outputs}, False).alive(graph.nodes, nothing)
    if not sizes:
        return None
    top = max(range(len(graph.nodes)), key=lambda i: sizes[i])
    return next((i for i in range(top, len(graph.nodes) - 1) if _is_step(graph.nodes[i])), None)


def _is_step(node: Node) -> bool:
    return not lowerable(node) and len(node.outputs) == 1 and node.out.type.numel > 0 and not overwrites(node)


def _repeat(graph: Graph, early: Sequence[Node], body: Sequence[Node], made: Collection[Value]) -> Graph:
    """The graph with `body` in place of its later part: early nodes in it are there a second time."""
    new = Graph(graph.name)
    new.inputs, new.nodes = graph.inputs, list(early)
    token = next(n.out for n in reversed(early) if _is_step(n))
    mapped: dict[Value, Value] = {}
    tied: dict[tuple[Value, Value], Value] = {}
    after = op_table.TABLE["after"]
    for node in body:
        if node.outputs[0] in made:
            copy = new.again(node, tuple([mapped.get(v, v) for v in node.inputs]))
            token = copy.out if _is_step(node) else token
        else:
            inputs = []
            for v in node.inputs:
                if v not in mapped and not v.type.weak:
                    if (v, token) not in tied:
                        tied[v, token] = new.append(Node(after, (v, token), (), (v.type,), node.loc)).out
                    inputs.append(tied[v, token])
                else:
                    inputs.append(mapped.get(v, v))
            copy = new.append(Node(node.op, tuple(inputs), node.attrs, tuple([o.type for o in node.outputs]), node.loc))
        mapped.update(zip(node.outputs, copy.outputs, strict=True))
    new.outputs = [mapped.get(v, v) if v in made else v for v in graph.outputs]
    return dce(new)
