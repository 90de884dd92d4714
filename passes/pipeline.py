"""The ordered list of passes, and the way from a recorded graph to a program."""
from __future__ import annotations

from collections.abc import Callable

from treadle.ir.graph import Graph
from treadle.passes.basic import cse, dce, decompose
from treadle.passes.canonicalize import canonicalize, fold
from treadle.passes.lower import lower
from treadle.passes.memory import plan_memory
from treadle.passes.program import Program
from treadle.passes.promote import flatten_indices, promote

Pass = Callable[[Graph], Graph]

PASSES: list[tuple[str, Pass]] = [
    ("decompose", decompose),
    ("flatten_indices", flatten_indices),
    ("promote", promote),
    ("canonicalize", canonicalize),
    ("fold", fold),
    ("cse", cse),
    ("dce", dce),
]


def prepare(graph: Graph, after: Callable[[str, Graph], None] | None = None) -> Graph:
    """Run every pass in order. `after(name, graph)` sees each result."""
    for name, run in PASSES:
        graph = run(graph)
        if after is not None:
            after(name, graph)
    return graph


def compile_to_program(graph: Graph, after: Callable[[str, Graph], None] | None = None) -> Program:
    """A recorded graph as a list of kernel launches, matrix products and host calls over numbered buffers."""
    return plan_memory(lower(prepare(graph, after)))
