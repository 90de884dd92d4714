"""The verifier names the node, the op and the fault."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import treadle.ir.ops  # noqa: F401
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import TABLE, Kind, Op
from treadle.ir.types import tensor_type
from treadle.ir.verify import VerifyError, verify

F32 = tensor_type((2, 3), dtypes.float32)
F64 = tensor_type((2, 3), dtypes.float64)


def chain() -> Graph:
    """mul by a constant, add to the input, sum: nodes 0 constant, 1 mul, 2 add, 3 sum."""
    b = Builder()
    x = b.input(F32)
    b.loc = ("train.py", 7)
    b.graph.outputs = [b.sum(b.add(b.mul(x, 2.0), x), (0,), False, None)]
    return b.graph


@pytest.fixture
def control() -> Iterator[Op]:
    """An op of this test's own that holds a region."""
    op = Op("test_call", Kind.CONTROL, ("x", "xs*"), ("body",), type_rule=lambda types, body: tuple([v.type for v in body.outputs]))
    TABLE[op.name] = op
    yield op
    del TABLE[op.name]


def body() -> Graph:
    b = Builder(Graph("body"))
    x = b.input(F32)
    b.graph.outputs = [b.neg(x)]
    return b.graph


def calling(op: Op, *bodies: Graph) -> Graph:
    graph = Graph()
    x = graph.add_input(F32)
    for region in bodies:
        x = graph.append(Node(op, (x,), (region,), (F32,))).out
    graph.outputs = [x]
    return graph


def test_well_formed_graphs_pass(control: Op) -> None:
    verify(Graph())
    verify(chain())
    shared = body()
    verify(calling(control, shared, shared, body()))


def swap(graph: Graph) -> None:
    graph.nodes[1], graph.nodes[2] = graph.nodes[2], graph.nodes[1]


def foreign_operand(graph: Graph) -> None:
    graph.nodes[2].inputs = (chain().nodes[1].out, graph.inputs[0])


def missing_operand(graph: Graph) -> None:
    graph.nodes[2].inputs = graph.nodes[2].inputs[:1]


def missing_attribute(graph: Graph) -> None:
    graph.nodes[3].attrs = ((0,), False)


def list_attribute(graph: Graph) -> None:
    graph.nodes[3].attrs = ([0], False, None)


def wrong_type(graph: Graph) -> None:
    graph.nodes[2].outputs[0].type = F64


def weak_result(graph: Graph) -> None:
    graph.nodes[0].outputs[0].type = tensor_type((), dtypes.float64)


def refused(graph: Graph) -> None:
    x = graph.add_input(tensor_type((4,), dtypes.float32))
    graph.nodes[2].inputs = (x, graph.nodes[1].out)


def twice(graph: Graph) -> None:
    graph.nodes.append(graph.nodes[1])


def input_node(graph: Graph) -> None:
    graph.nodes.insert(1, graph.inputs[0].node)


def stolen_result(graph: Graph) -> None:
    graph.nodes[2].outputs = graph.nodes[1].outputs


def undefined_output(graph: Graph) -> None:
    graph.outputs.append(chain().outputs[0])


def input_is_a_result(graph: Graph) -> None:
    graph.inputs.append(graph.nodes[0].out)


def input_twice(graph: Graph) -> None:
    graph.inputs.append(graph.inputs[0])


@pytest.mark.parametrize("spoil, message", [
    (swap, r"graph main: node 1, add \(train.py:7\): operand 0 \(x\) is defined after its use\n  %2 = \"treadle.add\"\(%0, %1\)"),
    (foreign_operand, r"node 2, add \(train.py:7\): operand 0 \(x\) is not defined in the graph 'main'"),
    (missing_operand, r"node 2, add .*: takes 2 operands \(x, y\), has 1"),
    (missing_attribute, r"node 3, sum .*: takes a tuple of 3 attributes \(dims, keepdim, dtype\), has \(\(0,\), False\)"),
    (list_attribute, r"node 3, sum .*: attribute dims = \[0\] is not hashable"),
    (wrong_type, r"node 2, add .*: results have types tensor<2x3xf64>; the type rule gives tensor<2x3xf32>"),
    (weak_result, r"node 0, constant .*: results have types tensor<f64>; the type rule gives tensor<f64, \"weak\">"),
    (refused, r"node 2, add .*: the type rule refuses the operands: RuntimeError: add: The size of tensor a"),
    (twice, r"node 4, mul .*: the node is twice in its graph"),
    (input_node, r"node 1, input: an input among the nodes"),
    (stolen_result, r"node 2, add .*: result 0 belongs to <node mul"),
    (undefined_output, r"graph main: output 1 \(<sum : tensor<3xf32>>\) is not defined in the graph 'main'"),
    (input_is_a_result, r"graph main: input 1 is the result of constant, not an input"),
    (input_twice, r"graph main: input 1 is listed twice"),
], ids=lambda p: p.__name__ if callable(p) else "")
def test_faults_are_named(spoil: Callable[[Graph], None], message: str) -> None:
    graph = chain()
    spoil(graph)
    with pytest.raises(VerifyError, match=message):
        verify(graph)


def test_a_value_of_no_node_is_refused() -> None:
    graph = chain()
    graph.nodes[3].inputs = (Value(graph.nodes[2], 1, F32),)
    with pytest.raises(VerifyError, match="is no result of its node") as caught:
        verify(graph)
    assert caught.value.node is graph.nodes[3] and caught.value.graph is graph


def test_regions_are_verified(control: Op) -> None:
    region = body()
    region.nodes[0].outputs[0].type = F64
    with pytest.raises(VerifyError, match=r"graph main > body: node 0, neg: results have types tensor<2x3xf64>"):
        verify(calling(control, body(), region))


def test_regions_take_values_as_operands(control: Op) -> None:
    region = body()
    graph = calling(control, region)
    region.nodes[0].inputs = (graph.inputs[0],)
    with pytest.raises(VerifyError, match="comes from the surrounding graph 'main'; a region takes values as operands"):
        verify(graph)


def test_a_node_lives_in_one_graph(control: Op) -> None:
    first, second = body(), body()
    second.inputs, second.nodes, second.outputs = first.inputs, first.nodes, first.outputs
    with pytest.raises(VerifyError, match="graph main > body: node 0, neg: the node is in the graph 'body' too"):
        verify(calling(control, first, second))


def test_a_region_cannot_hold_itself(control: Op) -> None:
    region = body()
    region.append(Node(control, (region.inputs[0],), (region,), (F32,)))
    with pytest.raises(VerifyError, match="the region 'body' contains itself"):
        verify(calling(control, region))
    assert "({...})" in repr(region)


def test_variadic_operands_have_a_least_number(control: Op) -> None:
    graph = calling(control, body())
    graph.nodes[0].inputs = ()
    with pytest.raises(VerifyError, match=r"takes 1 or more operands \(x, xs\*\), has 0"):
        verify(graph)
