"""The ordered list of passes, and the way from a recorded graph to a program."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.passes.basic import cse, dce, decompose
from treadle.passes.canonicalize import canonicalize, fold
from treadle.passes.family import TEMPLATES, WITHOUT_WINDOWS
from treadle.passes.group import group
from treadle.passes.irregular import irregular
from treadle.passes.lower import lower
from treadle.passes.memory import find_lifetimes, place
from treadle.passes.order import order_steps
from treadle.passes.pairs import number_parts, pairs
from treadle.passes.program import Program, ScalarInfo
from treadle.passes.promote import flatten_indices, promote

Pass = Callable[[Graph], Graph]

_PREPARED: dict[Graph, Graph] = {}


def regions(graph: Graph) -> Graph:
    """Run all passes on the sub-graphs of control flow. A region shared by several nodes is prepared once."""
    if not any(node.regions for node in graph.nodes):
        return graph

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if not node.regions:
            return None
        attrs = tuple([_prepared(a) if isinstance(a, Graph) else a for a in node.attrs])
        return b.graph.append(Node(node.op, inputs, attrs, tuple([o.type for o in node.outputs]), node.loc)).outputs
    return rewrite(graph, rule, Builder())


def _prepared(region: Graph) -> Graph:
    found = _PREPARED.get(region)
    if found is None:
        if len(_PREPARED) > 1024:
            _PREPARED.clear()
        found = prepare(region)
        _PREPARED[region] = _PREPARED[found] = found
    return found


PASSES: list[tuple[str, Pass]] = [
    ("decompose", decompose),
    ("regions", regions),
    ("flatten_indices", flatten_indices),
    ("pairs", pairs),
    ("irregular", irregular),
    ("promote", promote),
    ("canonicalize", canonicalize),
    ("fold", fold),
    ("cse", cse),
    ("dce", dce),
]


def prepare(graph: Graph, after: Callable[[str, Graph], None] | None = None, whole: bool = False) -> Graph:
    """Run every pass in order. `after(name, graph)` sees each result. whole: it is no region of another graph, so that its inputs and
    outputs may change: complex ones become pairs of real numbers."""
    for name, run in PASSES:
        if run is pairs and not whole:
            continue
        graph = run(graph)
        if after is not None:
            after(name, graph)
    return graph


def compile_to_program(graph: Graph, after: Callable[[str, Graph], None] | None = None, windows: bool = True) -> Program:
    """A recorded graph as a list of kernel launches, matrix products and host calls over numbered buffers. `windows`: see `lower`.

    With `after`, every pass runs; otherwise a graph that differs in sizes alone from graphs before may come from a template.
    """
    if after is not None:
        return place(steps_of(graph, after, windows))
    program = TEMPLATES.program(graph, steps_of) if windows else WITHOUT_WINDOWS.program(graph, partial(steps_of, windows=False))
    return place(program or steps_of(graph, None, windows))


def steps_of(graph: Graph, after: Callable[[str, Graph], None] | None = None, windows: bool = True) -> Program:
    """`compile_to_program` without the places in memory."""
    program = lower(prepare(graph, after, whole=True), windows)
    parts = number_parts(graph)
    if len(parts) != len(graph.inputs) and len(program.inputs) == len(parts):
        program.inputs = [b for b, (_, part) in zip(program.inputs, parts, strict=True) if part != "imag"]
        program.scalars = [ScalarInfo(parts[s.input][0], s.dtype, parts[s.input][1]) for s in program.scalars]
    return find_lifetimes(group(order_steps(program)))

