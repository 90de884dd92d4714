"""Golden IR text: what each pass makes of three small graphs. `TREADLE_UPDATE_GOLDEN=1 pytest tests/test_golden.py` rewrites the files."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import treadle.ir.ops  # noqa: F401  (declares the op table)
from treadle.ir.builder import Builder
from treadle.ir.dtypes import float32
from treadle.ir.graph import Graph
from treadle.ir.kernel import print_kernel
from treadle.ir.text import print_graph
from treadle.ir.types import SCALARS, tensor_type
from treadle.passes.autodiff import vjp_graph
from treadle.passes.pipeline import PASSES, compile_to_program

GOLDEN = Path(__file__).parent / "golden"


def softmax_graph() -> Graph:
    """softmax(x * scale), where the scale is a run-time number."""
    b = Builder(Graph("softmax"))
    x, scale = b.input(tensor_type((4, 10), float32)), b.input(SCALARS[float])
    b.graph.outputs = [b.softmax(b.mul(x, scale), 1)]
    return b.graph


def layer_graph() -> Graph:
    """relu(x @ w.T + bias) and its gradient with respect to w and bias."""
    b = Builder(Graph("layer"))
    x, w, bias = (b.input(tensor_type(s, float32)) for s in ((8, 6), (3, 6), (3,)))
    b.graph.outputs = [b.relu(b.linear_bias(x, w, bias))]
    return vjp_graph(b.graph, [1, 2], keep_outputs=True)


def views_graph() -> Graph:
    """Views and casts that fold into the indices of one kernel."""
    b = Builder(Graph("views"))
    x = b.input(tensor_type((2, 3, 4), float32))
    y = b.permute(b.slice(x, (0, 1, 0), (2, 3, 4), (1, 1, 2)), (2, 0, 1))
    z = b.reshape(b.neg(b.neg(b.add(y, 1))), (2, 4))
    b.graph.outputs = [b.mul(z, b.cast(z, float32))]
    return b.graph


def stages(graph: Graph) -> str:
    """The graph as recorded, after each pass that changes it, and the kernels."""
    text = print_graph(graph).strip()
    parts = ["// recorded", text]
    for name, run in PASSES:
        graph = run(graph)
        after = print_graph(graph).strip()
        if after != text:
            parts += [f"// after {name}", after]
            text = after
    program = compile_to_program(graph)
    parts += [f"// step {i}: {type(step).__name__}" for i, step in enumerate(program.steps)]
    parts += [print_kernel(k) for k in dict.fromkeys([*program.kernels(), *program.epilogues()])]
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize("make", [softmax_graph, layer_graph, views_graph])
def test_every_stage_reads_as_before(make: Callable[[], Graph]) -> None:
    path = GOLDEN / f"{make.__name__.removesuffix('_graph')}.mlir"
    found = stages(make())
    if os.environ.get("TREADLE_UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text(), f"{path.name} changed: rerun with TREADLE_UPDATE_GOLDEN=1 and review the difference"


@pytest.mark.parametrize("make", [softmax_graph, layer_graph, views_graph])
def test_passes_are_idempotent(make: Callable[[], Graph]) -> None:
    graph = make()
    for name, run in PASSES:
        graph = run(graph)
        assert print_graph(run(graph)) == print_graph(graph), f"{name} changes its own result"
