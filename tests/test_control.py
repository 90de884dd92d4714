"""Control flow: results against plain Python, first and second derivatives against differences, and the mistakes it explains."""
from __future__ import annotations

import numpy as np
import pytest
from op_cases import check_gradients, float_inputs, gradient_graph, random_array

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.types import TensorType, tensor_type

D, L = dtypes.float64, dtypes.int64
ROW = tensor_type((3,), D)
SQUARE = tensor_type((3, 3), D)


def scan_graph(length: int = 4, reverse: bool = False) -> Graph:
    """h = tanh(w h + x * s), a step counter as a second carry, y = h * x: with a matrix and a number as constants."""
    body = Builder(Graph("step"))
    h, count, x, w, s = (body.input(t) for t in (ROW, tensor_type((), L), ROW, SQUARE, tensor_type((), D)))
    new = body.tanh(body.add(body.reshape(body.matmul(w, body.reshape(h, (3, 1))), (3,)), body.mul(x, s)))
    body.graph.outputs = [new, body.add(count, 1), body.mul(new, x)]
    b = Builder(Graph("scan"))
    values = [b.input(t) for t in (ROW, tensor_type((), L), tensor_type((length, 3), D), SQUARE, tensor_type((), D))]
    b.graph.outputs = list(b.scan(*values, body=body.graph, n_carry=2, n_seq=1, length=length, reverse=reverse))
    return b.graph


def arrays_of(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [random_array(v.type.shape, v.type.dtype, rng) for v in graph.inputs]


def branches() -> tuple[Graph, Graph]:
    """x, y -> (x * y, x) and (sin x, y), so that an operand is unused in one branch."""
    graphs = []
    for name in ("then", "orelse"):
        b = Builder(Graph(name))
        x, y = b.input(ROW), b.input(ROW)
        b.graph.outputs = [b.mul(x, y), x] if name == "then" else [b.sin(x), y]
        graphs.append(b.graph)
    return graphs[0], graphs[1]


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_runs_its_body_in_order(reverse: bool) -> None:
    graph = scan_graph(reverse=reverse)
    h, count, x, w, s = arrays = arrays_of(graph)
    last, steps, ys = run(graph, arrays)
    expected = np.zeros((4, 3))
    for t in reversed(range(4)) if reverse else range(4):
        h = np.tanh(w @ h + x[t] * s)
        expected[t] = h * x[t]
    np.testing.assert_allclose(ys, expected)
    np.testing.assert_allclose(last, h)
    assert steps == count + 4


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_scan_gradient(length: int, reverse: bool) -> None:
    graph = scan_graph(length, reverse)
    check_gradients(graph, arrays_of(graph))


def check_second_derivative(graph: Graph) -> None:
    first = gradient_graph(graph, float_inputs(graph))
    rng = np.random.default_rng(5)
    arrays = arrays_of(graph)
    check_gradients(first, arrays + [random_array(v.type.shape, D, rng) for v in first.inputs[len(arrays):]], tolerance=5e-6)


def test_scan_second_derivative() -> None:
    check_second_derivative(scan_graph(3))


def test_scan_gradient_shares_its_regions() -> None:
    """The regions are made once for a body, so that a trace which differentiates it again is the same trace."""
    graph = scan_graph()
    first, second = [gradient_graph(graph, float_inputs(graph)) for _ in range(2)]
    regions = [[n.regions for n in g.nodes if n.regions] for g in (first, second)]
    assert regions[0] and regions[0] == regions[1]


@pytest.mark.parametrize("pred", [True, False])
def test_cond(pred: bool) -> None:
    then, orelse = branches()
    b = Builder(Graph("cond"))
    c, x, y = b.input(tensor_type((), dtypes.bool_)), b.input(ROW), b.input(ROW)
    b.graph.outputs = list(b.cond(c, x, y, then=then, orelse=orelse))
    _, xs, ys = arrays_of(b.graph)
    arrays = [np.array(pred), xs, ys]
    for got, want in zip(run(b.graph, arrays), [xs * ys, xs] if pred else [np.sin(xs), ys], strict=True):
        np.testing.assert_allclose(got, want)
    check_gradients(b.graph, arrays)
    first = gradient_graph(b.graph, [1, 2])
    check_gradients(first, arrays + [np.ones(3) * k for k in (0.5, 2.0)])


def test_call() -> None:
    b = Builder(Graph("call"))
    b.graph.outputs = list(b.call(b.input(ROW), b.input(ROW), body=branches()[0]))
    check_gradients(b.graph, arrays_of(b.graph))
    check_second_derivative(b.graph)


def collatz(limit: TensorType) -> tuple[Graph, Graph]:
    condition, body = Builder(Graph("condition")), Builder(Graph("body"))
    n, steps, low = (condition.input(limit) for _ in range(3))
    condition.graph.outputs = [condition.gt(n, low)]
    n, steps, low = (body.input(limit) for _ in range(3))
    odd = body.ne(body.remainder(n, 2), 0)
    body.graph.outputs = [body.where(odd, body.add(body.mul(n, 3), 1), body.floor_divide(n, 2)), body.add(steps, 1)]
    return condition.graph, body.graph


def test_while_loop() -> None:
    count = tensor_type((), L)
    condition, body = collatz(count)
    b = Builder()
    b.graph.outputs = list(b.while_loop(*[b.input(count) for _ in range(3)], condition=condition, body=body, n_carry=2))
    last, steps = run(b.graph, [np.array(27), np.array(0), np.array(1)])
    assert (last, steps) == (1, 111)


def test_mistakes_are_explained() -> None:
    then, orelse = branches()
    b = Builder()
    row, other, flag = b.input(ROW), b.input(tensor_type((4,), D)), b.input(tensor_type((), dtypes.bool_))
    with pytest.raises(RuntimeError, match="call: the body takes 2 inputs, but 1 operands are given"):
        b.call(row, body=then)
    with pytest.raises(RuntimeError, match="cond: input 1 of the true branch is tensor<3xf64>, but its operand gives tensor<4xf64>"):
        b.cond(flag, row, other, then=then, orelse=orelse)
    with pytest.raises(RuntimeError, match="predicate to be a bool or a 0-d boolean tensor"):
        b.cond(row, row, row, then=then, orelse=orelse)
    with pytest.raises(RuntimeError, match=r"sequence 0 must have 5 steps on axis 0, but has shape \[4\]"):
        b.scan(row, other, body=then, n_carry=1, n_seq=1, length=5, reverse=False)
    wide = Builder()
    x = wide.input(ROW)
    wide.graph.outputs = [wide.cat(x, x, dim=0)]
    with pytest.raises(RuntimeError, match="carry 0 enters the body as tensor<3xf64>, but leaves it as tensor<6xf64>"):
        b.scan(row, body=wide.graph, n_carry=1, n_seq=0, length=2, reverse=False)
    with pytest.raises(RuntimeError, match="condition must return one 0-d boolean"):
        b.while_loop(row, condition=wide.graph, body=wide.graph, n_carry=1)
