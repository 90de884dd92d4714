"""The text form: golden text, round trips over the op table and random graphs, messages, and another tool's reading of it."""
from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import treadle.ir.ops  # noqa: F401
from treadle.ir import dtypes, interpreter
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import TABLE, Kind, Op, result_types
from treadle.ir.parse import parse
from treadle.ir.text import format_attribute, print_graph, print_node, quote
from treadle.ir.types import TensorType, result_dtype, tensor_type
from treadle.ir.verify import verify

F32 = tensor_type((2, 3), dtypes.float32)

GOLDEN = '''\
"func.func"() <{function_type = (tensor<2x3xf32>, tensor<f64, "weak">, tensor<0xui8, "cuda:0">) -> (tensor<3xf32>, tensor<2x3xf32>), \
sym_name = "main"}> ({
^bb0(%arg0: tensor<2x3xf32>, %arg1: tensor<f64, "weak">, %arg2: tensor<0xui8, "cuda:0">):
  %0 = "treadle.constant"() {value = 2.5 : f64} : () -> tensor<f64, "weak"> loc("train.py":12:0)
  %1 = "treadle.mul"(%arg0, %0) : (tensor<2x3xf32>, tensor<f64, "weak">) -> tensor<2x3xf32> loc("train.py":12:0)
  %2 = "treadle.add"(%1, %arg1) : (tensor<2x3xf32>, tensor<f64, "weak">) -> tensor<2x3xf32>
  %3 = "treadle.sum"(%2) {dims = array<i64: 0>, keepdim = false, dtype = unit} : (tensor<2x3xf32>) -> tensor<3xf32>
  "func.return"(%3, %1) : (tensor<3xf32>, tensor<2x3xf32>) -> ()
}) : () -> ()
'''


def golden_graph() -> Graph:
    b = Builder()
    x, scale = b.input(F32), b.input(tensor_type((), dtypes.float64, weak=True))
    b.input(tensor_type((0,), dtypes.uint8, "cuda:0"))
    b.loc = ("train.py", 12)
    y = b.mul(x, 2.5)
    b.loc = None
    b.graph.outputs = [b.sum(b.add(y, scale), (0,), False, None), y]
    return b.graph


def array_of(type: TensorType, rng: np.random.Generator) -> np.ndarray:
    if type.dtype is dtypes.bool_:
        return rng.random(type.shape) < 0.5
    return dtypes.converted(np.asarray(rng.uniform(1, 4, type.shape)), type.dtype)


def check_round_trip(graph: Graph, inputs: list[np.ndarray]) -> None:
    text = print_graph(graph)
    again = parse(text)
    verify(again)
    assert print_graph(again) == text
    assert [v.type for v in again.inputs] == [v.type for v in graph.inputs]
    expected, found = interpreter.run(graph, inputs), interpreter.run(again, inputs)
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


# -- every op ----------------------------------------------------------------------------------------------------------
def operand(b: Builder, sample: Any, dtype: dtypes.DType, inputs: list[np.ndarray], rng: np.random.Generator) -> Value:
    """A sample's operand: an array, a number (a weak scalar), or the shape of an input."""
    if isinstance(sample, (bool, int, float)):
        return b.number(sample)
    array = sample if isinstance(sample, np.ndarray) else array_of(tensor_type(tuple(sample), dtype), rng)
    inputs.append(array)
    return b.input(tensor_type(array.shape, dtypes.from_numpy(array.dtype)))


def sample_graph(op: Op, sample: Any, dtype: dtypes.DType) -> tuple[Graph, list[np.ndarray]]:
    """A graph of one node for the sample; RuntimeError or TypeError when the op refuses `dtype`."""
    b, inputs = Builder(), []  # type: ignore[var-annotated]
    b.loc = ("sample.py", 3)
    values = tuple([operand(b, s, dtype, inputs, np.random.default_rng(0)) for s in sample[0]])
    types = result_types(op, tuple([v.type for v in values]), tuple(sample[1]))
    node = b.graph.append(Node(op, values, tuple(sample[1]), types, b.loc))
    b.graph.outputs = list(node.outputs)
    return b.graph, inputs


def samples_of(op: Op) -> list[Any]:
    if op.samples:
        return list(op.samples)
    attrs = {"cast": (dtypes.float16,), "constant": (2.5,)}.get(op.name)
    if attrs is None and (op.attrs or op.kind is not Kind.ELEMENTWISE):
        return []
    return [(((2, 3),) * len(op.operands), attrs or ())]


@pytest.mark.parametrize("name", [name for name, op in TABLE.items() if samples_of(op)])
def test_every_op_survives_the_round_trip(name: str) -> None:
    done = 0
    for sample in samples_of(TABLE[name]):
        for dtype in (dtypes.float32, dtypes.int64, dtypes.bool_):
            try:
                graph, inputs = sample_graph(TABLE[name], sample, dtype)
            except (RuntimeError, TypeError, IndexError):
                continue  # this op has no rule for this dtype
            check_round_trip(graph, inputs)
            done += 1
            break
        if name == "where":
            continue
        assert done, f"no dtype suits the samples of {name}"


def test_where_survives_the_round_trip() -> None:
    b = Builder()
    c, x = b.input(tensor_type((2, 3), dtypes.bool_)), b.input(F32)
    b.graph.outputs = [b.where(c, x, 0.0)]
    rng = np.random.default_rng(0)
    check_round_trip(b.graph, [array_of(c.type, rng), array_of(F32, rng)])


# -- random graphs -----------------------------------------------------------------------------------------------------
def promote_together(x: Value, y: Any) -> bool:
    """Whether two operands have a common dtype."""
    try:
        return not isinstance(y, Value) or result_dtype((x.type, y.type)) is not None
    except RuntimeError:
        return False


def random_graph(seed: int) -> Graph:
    """Inputs, weak scalars and constants through elementwise ops, views and reductions of random dtypes."""
    rng = random.Random(seed)
    b = Builder(Graph(rng.choice(["main", "a.b", "né\"w\n"])))
    values = [b.input(tensor_type((2, 3), d)) for d in rng.choices(dtypes.ALL, k=3)]
    scalars = [b.input(tensor_type((), dtypes.float64, weak=True)), b.input(tensor_type((), dtypes.int64, weak=True))]
    for line in range(12):
        b.loc = rng.choice([None, ("dir/a file.py", line)])
        x = rng.choice(values)
        y = rng.choice([*values, *scalars, rng.uniform(-1e3, 1e3), rng.randrange(5), 1e-30, 2.5 - 1e-30j])
        kind = rng.randrange(6)
        if kind < 3:
            if not promote_together(x, y):
                y = x
            whole = isinstance(y, complex) or any(isinstance(v, Value) and v.dtype.is_complex for v in (x, y))  # no maximum
            values.append(getattr(b, rng.choice(["add", "mul"] if whole else ["add", "mul", "maximum"]))(x, y))
        elif kind == 3:
            values.append(b.permute(b.reshape(x, (3, 2)), (1, 0)))
        elif kind == 4:
            values.append(b.expand(b.sum(x, (rng.randrange(2),), True, rng.choice([None, dtypes.float32])), (2, 3)))
        else:
            values.append(b.cast(x, rng.choice(dtypes.ALL)))
    b.graph.outputs = rng.choices(values, k=4)
    return b.graph


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_survive_the_round_trip(seed: int) -> None:
    graph = random_graph(seed)
    check_round_trip(graph, [array_of(v.type, np.random.default_rng(seed)) for v in graph.inputs])


def test_a_long_chain_prints_and_parses() -> None:
    b = Builder()
    x = b.input(F32)
    for _ in range(5000):
        x = b.neg(x)
    b.graph.outputs = [x]
    text = print_graph(b.graph)
    assert print_graph(parse(text)) == text


# -- form --------------------------------------------------------------------------------------------------------------
def test_the_text_is_as_documented() -> None:
    assert print_graph(golden_graph()) == GOLDEN
    assert repr(parse(GOLDEN)) == GOLDEN


def test_locations_and_weakness_are_restored() -> None:
    graph = parse(GOLDEN)
    assert graph.nodes[0].loc == ("train.py", 12) and graph.nodes[2].loc is None
    assert graph.inputs[1].type is tensor_type((), dtypes.float64, weak=True)
    assert graph.inputs[2].type.device == "cuda:0"
    assert graph.nodes[0].out.type.weak and not graph.nodes[1].out.type.weak


ATTRIBUTES = [None, True, False, 0, -7, 2**40, 0.5, -0.0, 1e-5,
              1e22, 5e-324, 0.1, math.inf, -math.inf, "none", "", 'a"b\\c\n\t\x01é', "\udcff",
              dtypes.bfloat16, dtypes.uint8, dtypes.bool_, (), (3, -1), (True, False), (0.5, 1.0), (1, (2, None)),
              ("a",), ((),), F32]


@pytest.fixture
def holder() -> Iterator[Op]:
    """An op of this test's own with a free attribute and a region."""
    op = Op("test_holder", Kind.CONTROL, ("xs*",), ("fact", "body"),
            type_rule=lambda types, fact, body: tuple([v.type for v in body.outputs]))
    TABLE[op.name] = op
    yield op
    del TABLE[op.name]


def region() -> Graph:
    b = Builder(Graph("body"))
    x, y = b.input(F32), b.input(F32)
    b.graph.outputs = [b.add(x, y), x]
    return b.graph


@pytest.mark.parametrize("fact", ATTRIBUTES, ids=repr)
def test_attributes_and_regions_survive(holder: Op, fact: Any) -> None:
    graph = Graph()
    x = graph.add_input(F32)
    node = graph.append(Node(holder, (x, x), (fact, region()), (F32, F32)))
    graph.outputs = [node.outputs[1], node.outputs[0]]
    text = print_graph(graph)
    again = parse(text)
    assert print_graph(again) == text
    found = again.nodes[0].attr("fact")
    assert found == fact and type(found) is type(fact) and repr(found) == repr(fact)
    assert again.nodes[0].regions[0].name == "body" and len(again.nodes[0].regions[0].nodes) == 1


def test_results_regions_and_nested_numbers(holder: Op) -> None:
    graph = Graph("twice")
    x = graph.add_input(F32)
    node = graph.append(Node(holder, (x, x), (1, region()), (F32, F32)))
    graph.outputs = [node.outputs[1]]
    body = '''({
  ^bb0(%arg1: tensor<2x3xf32>, %arg2: tensor<2x3xf32>):
    %1 = "treadle.add"(%arg1, %arg2) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    "treadle.yield"(%1, %arg1) : (tensor<2x3xf32>, tensor<2x3xf32>) -> ()
  })'''
    expected = f'  %0:2 = "treadle.test_holder"(%arg0, %arg0) {body} {{fact = 1 : i64}} : (tensor<2x3xf32>, tensor<2x3xf32>) -> ' \
               '(tensor<2x3xf32>, tensor<2x3xf32>)\n  "func.return"(%0#1) : (tensor<2x3xf32>) -> ()\n'
    assert expected in print_graph(graph)


def test_nan_survives() -> None:
    graph = parse(GOLDEN.replace("2.5", "0x7FF8000000000000"))
    assert math.isnan(graph.nodes[0].attr("value")) and "0x7FF8000000000000" in print_graph(graph)


def test_what_no_attribute_holds_is_shown_but_not_read() -> None:
    assert format_attribute(len) == '#treadle.python<"<built-in function len>">'
    with pytest.raises(ValueError, match=r"line 3, column 38: a Python object cannot be read back"):
        parse(GOLDEN.replace("2.5 : f64", format_attribute(len)))


def test_malformed_graphs_still_print() -> None:
    graph = golden_graph()
    del graph.nodes[0]
    assert '"treadle.mul"(%arg0, %undefined)' in print_graph(graph)


def test_one_node_prints_for_messages() -> None:
    assert print_node(golden_graph().nodes[2]) == ('%2 = "treadle.add"(%0, %1) : (tensor<2x3xf32>, tensor<f64, "weak">) -> tensor<2x3xf32>')


# -- messages ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("old, new, message", [
    ("%1, %arg1", "%7, %arg1", r"line 5, column 22: %7 is not defined at this point of its block"),
    ("treadle.sum", "treadle.summ", r"line 6, column 8: there is no operation 'treadle.summ'; did you mean 'treadle.sum'\?"),
    ("dims = ", "axes = ", r"line 6, column 8: sum has no attribute 'axes'; it has dims, keepdim, dtype"),
    (", keepdim = false", "", r"line 6, column 8: sum needs the attribute keepdim"),
    ("%1 = ", "%0 = ", r"line 4, column 3: %0 is defined twice"),
    ("%2 = ", "%2:2 = ", r"line 5, column 10: 2 results are named, the type has 1"),
    ("(%2) {", "(%2, %1) {", r"line 6, column 86: 2 operands, but the type lists 1"),
    ("(%3, %1)", "(%1, %3)", r"line 7, column 17: %1 is a tensor<2x3xf32>, used here as tensor<3xf32>"),
    ("tensor<0xui8", "tensor<0xf31", r"line 1, column 72: f31 is no element type; there are f16, bf16, f32"),
    ("^bb0", "$", r"line 2, column 1: unexpected character '\$'"),
    ('  "func.return"(%3, %1) : (tensor<3xf32>, tensor<2x3xf32>) -> ()\n', "", r'line 7, column 1: the block ends without "func.return"'),
    ("2.5 : f64", "2.5 : f16", r"line 3, column 38: a number is i64 or f64, not f16"),
    ('-> (tensor<3xf32>, tensor<2x3xf32>), sym', "-> tensor<3xf32>, sym", r"line 1, column 15: function_type differs"),
    ("}) : () -> ()\n", "}) : () -> () more", r"line 8, column 15: expected the end of the text, found more"),
])
def test_faults_are_named_with_line_and_column(old: str, new: str, message: str) -> None:
    assert old in GOLDEN
    with pytest.raises(ValueError, match=message):
        parse(GOLDEN.replace(old, new, 1))


@pytest.mark.parametrize("length", range(0, len(GOLDEN) - 1, 7))
def test_truncated_text_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"line \d+, column \d+: "):
        parse(GOLDEN[:length])


# -- another reader ----------------------------------------------------------------------------------------------------
def through_xdsl(text: str) -> str:
    """xdsl's reading, verified and printed again in generic form with locations."""
    pytest.importorskip("xdsl", reason="xdsl is not installed (pip install -e '.[test]')")
    from xdsl.context import Context
    from xdsl.dialects.builtin import Builtin
    from xdsl.dialects.func import Func
    from xdsl.parser import Parser
    from xdsl.printer import Printer

    context = Context(allow_unregistered=True)
    context.load_dialect(Builtin)
    context.load_dialect(Func)
    module = Parser(context, text).parse_module()
    module.verify()
    out = io.StringIO()
    Printer(out, print_generic_format=True, print_debuginfo=True).print_op(module)
    return out.getvalue()


def test_xdsl_reads_and_we_read_xdsl(holder: Op) -> None:
    assert print_graph(parse(through_xdsl(GOLDEN.replace("2.5", "2.5e-07")))) == GOLDEN.replace("2.5", "2.5e-07")
    graph = Graph()
    x = graph.add_input(F32)
    facts = (None, True, 3, 0.5, "text", dtypes.bfloat16, (), (1, 2), (True,), (0.5, "a", (None,)), math.inf)
    for fact in facts:
        graph.append(Node(holder, (x, x), (fact, region()), (F32, F32)))
    again = parse(through_xdsl(print_graph(graph)))
    assert [node.attr("fact") for node in again.nodes] == list(facts)
    assert print_graph(again) == print_graph(graph)


def test_strings_are_mlir_literals() -> None:
    assert quote('a"\\\n\x01é') == '"a\\"\\\\\\n\\01é"'
