"""Passes keep meaning, do nothing the second time, and take linear time; gradients of graphs agree with numeric ones."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from program_runner import check, run_program

import treadle.ir.ops  # noqa: F401
from treadle.ir import dtypes, interpreter
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.op import TABLE
from treadle.ir.types import SCALARS, tensor_type
from treadle.passes.autodiff import vjp_graph
from treadle.passes.canonicalize import canonicalize
from treadle.passes.pipeline import PASSES, compile_to_program, prepare

F32, F64 = dtypes.float32, dtypes.float64


def shape_of(graph: Graph) -> list[Any]:
    """The graph as comparable data."""
    numbers = {v: i for i, v in enumerate(graph.inputs)}
    lines: list[Any] = []
    for node in graph.nodes:
        lines.append((node.op, tuple([numbers[v] for v in node.inputs]), node.attrs, tuple([o.type for o in node.outputs])))
        for o in node.outputs:
            numbers[o] = len(numbers)
    return [*lines, [numbers[v] for v in graph.outputs]]


def mlp(b: Any, x: Any, w1: Any, b1: Any, w2: Any, t: Any) -> Any:
    h = b.relu(b.add(b.matmul(x, b.permute(w1, (1, 0))), b1))
    y = b.sub(b.matmul(h, b.permute(w2, (1, 0))), t)
    return b.div(b.sum(b.mul(y, y), (0, 1), False, None), y.shape[0])


def attention(b: Any, q: Any, k: Any, v: Any) -> Any:
    s = b.div(b.matmul(q, b.permute(k, (0, 1, 3, 2))), 2.0)
    e = b.exp(b.sub(s, b.amax(s, (3,), True)))
    p = b.div(e, b.sum(e, (3,), True, None))
    return b.reshape(b.permute(b.matmul(p, v), (0, 2, 1, 3)), (2, 6, 12))


def build(function: Callable[..., Any], *shapes: tuple[int, ...], dtype: dtypes.DType = F32) -> tuple[Graph, list[np.ndarray]]:
    b = Builder()
    rng = np.random.default_rng(0)
    values = [b.input(tensor_type(s, dtype)) for s in shapes]
    result = function(b, *values)
    b.graph.outputs = list(result) if isinstance(result, tuple) else [result]
    return b.graph, [rng.standard_normal(s).astype(dtype.np) for s in shapes]


MLP = (mlp, (20, 16), (24, 16), (24,), (5, 24), (20, 5))
ATTENTION = (attention, (2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 6, 4))


@pytest.mark.parametrize("case", [MLP, ATTENTION])
def test_gradients_of_a_graph(case: Any) -> None:
    graph, inputs = build(*case, dtype=F64)
    wrt = list(range(len(inputs)))
    backward = vjp_graph(graph, wrt)
    rng = np.random.default_rng(1)
    seed = [rng.standard_normal(v.shape) for v in graph.outputs]
    found = interpreter.run(backward, [*inputs, *seed])
    for i in wrt:
        step = rng.standard_normal(inputs[i].shape)
        shifted = [interpreter.run(graph, [*inputs[:i], inputs[i] + eps * step, *inputs[i + 1:]])[0] for eps in (1e-6, -1e-6)]
        numeric = np.sum((shifted[0] - shifted[1]) / 2e-6 * seed[0])
        np.testing.assert_allclose(numeric, np.sum(found[i] * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [MLP, ATTENTION])
def test_forward_and_backward_compile(case: Any) -> None:
    graph, inputs = build(*case)
    backward = vjp_graph(graph, range(len(inputs)), keep_outputs=True)
    seed = [np.ones(v.shape, np.float32) for v in graph.outputs]
    check(backward, [*inputs, *seed])


def test_every_pass_is_idempotent() -> None:
    graphs = []
    for op in TABLE.values():
        for shapes, attrs in op.samples[:2]:
            b = Builder()
            if not all(isinstance(s, (tuple, int, float, bool)) for s in shapes):
                continue
            operands = tuple([b.input(tensor_type(s, F32)) if isinstance(s, tuple) else b.input(SCALARS[type(s)]) for s in shapes])
            try:
                result = b.apply(op, operands, tuple(attrs))
            except (RuntimeError, TypeError, IndexError):
                continue  # the op refuses float32
            b.graph.outputs = list(result) if isinstance(result, tuple) else [result]
            graphs.append(b.graph)
    assert len(graphs) > 100
    for graph in graphs:
        for name, run in PASSES:
            once = run(graph)
            assert shape_of(run(once)) == shape_of(once), (name, graph.nodes)
            graph = once


def test_canonical_forms() -> None:
    def count(function: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
        graph, inputs = build(function, *shapes)
        for want, got in zip(interpreter.run(graph, inputs), run_program(graph, inputs), strict=True):
            np.testing.assert_allclose(want, got, rtol=1e-5)
        return [n.op.name for n in prepare(graph).nodes if n.op and n.op.name not in ("constant", "full", "expand")]

    assert count(lambda b, x: b.mul(b.div(b.sub(x, 0), 1), 1.0), (3,)) == []
    assert count(lambda b, x: b.add(x, 0), (3,)) == ["add"]  # turns -0.0 into 0.0
    assert count(lambda b, x: b.cast(b.cast(x, F64), F32), (3,)) == []
    assert count(lambda b, x: b.cast(b.cast(x, dtypes.float16), F32), (3,)) == ["cast", "cast"]
    assert count(lambda b, x: b.neg(b.neg(x)), (3,)) == []
    assert count(lambda b, x: b.permute(b.permute(x, (1, 2, 0)), (2, 0, 1)), (3, 4, 5)) == []
    assert count(lambda b, x: b.reshape(b.reshape(x, (6, 2)), (12,)), (3, 4)) == ["reshape"]
    assert count(lambda b, x: b.pow(x, 2), (3,)) == ["mul"]
    assert count(lambda b, x: b.mul(x, b.mul(2.0, b.add(1.0, 2.0))), (3,)) == ["mul"]
    assert count(lambda b, x: b.sum(b.expand(x, (7, 3)), (0,), False, None), (3,)) == ["reshape", "mul", "reshape"]
    assert count(lambda b, x: b.slice(b.slice(x, (1,), (9,), (2,)), (1,), (4,), (2,)), (10,)) == ["slice"]
    assert count(lambda b, x: (b.exp(x), b.exp(x)), (3,)) == ["exp"]


def test_a_long_chain_is_no_problem() -> None:
    b = Builder()
    x = value = b.input(tensor_type((4,), F32))
    for i in range(50_000):
        value = b.add(value, x) if i % 2 else b.neg(value)
    b.graph.outputs = [value]
    program = compile_to_program(b.graph)
    assert 100 < len(program.steps) < 1000
    backward = vjp_graph(b.graph, [0])
    assert len(canonicalize(backward).nodes) > 0


def test_a_diamond_is_not_expanded() -> None:
    def f(b: Any, x: Any) -> Any:
        for _ in range(60):
            x = b.add(b.mul(x, 0.5), b.exp(x))
        return x
    graph, inputs = build(f, (5,))
    assert sum(len(k.body) for k in check(graph, inputs).kernels()) < 400
