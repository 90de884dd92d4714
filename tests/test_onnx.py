"""Exported models: onnx.checker takes them, and onnxruntime, an independent implementation, computes what Treadle does."""
from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
import zoo_vision
from op_cases import CASES, build, samples_of

import treadle as td
import treadle.nn.functional as F
from treadle import nn
from treadle.codegen.onnx_model import Model, Port, proto
from treadle.codegen.onnx_rules import RULES
from treadle.codegen.onnx_tidy import tidy
from treadle.codegen.onnx_writer import Ref, Writer
from treadle.ir import dtypes
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE
from treadle.utils._pytree import tree_flatten

onnx = pytest.importorskip("onnx", reason="onnx is missing: pip install -e '.[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install onnxruntime")


def session(model: Any) -> Any:
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def agree(found: Sequence[Any], wanted: Sequence[Any], label: Any = "") -> None:
    assert len(found) == len(wanted), label
    for a, b in zip(found, wanted, strict=True):
        b = np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype, label
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-4, atol=1e-5, err_msg=str(label))


def exported(net: Any, *calls: tuple[Any, ...], **options: Any) -> Any:
    """The model of the first call; onnxruntime and Treadle agree on all of them."""
    program = td.onnx.export(net, calls[0], **options)
    run_model = session(program.model_proto)
    if isinstance(net, nn.Module):
        net.eval()
    for args in calls:
        given = [a for a in args if isinstance(a, td.Tensor)]
        names = [i.name for i in run_model.get_inputs()]
        with td.no_grad():
            wanted = net(*args)
        found = run_model.run(None, {n: a.numpy() for n, a in zip(names, given, strict=True)})
        results = tree_flatten(tuple(wanted) if isinstance(wanted, tuple) else wanted)[0]
        agree(found, [w.detach().numpy() for w in results])
    return program.model_proto


def operations(model: Any) -> list[str]:
    return [n.op_type for n in model.graph.node]


# -- the op table ----------------------------------------------------------------------------------------------------------------
def model_of(graph: Graph, opset: int) -> Any:
    w = Writer(opset, RULES)
    inputs = [Port(w.name(f"x{i}"), v.dtype, list(v.shape)) for i, v in enumerate(graph.inputs)]
    outputs = []
    for result, value in zip(w.lower([graph], [Ref(p.name, p.dtype) for p in inputs]), graph.outputs, strict=True):
        named = w.Identity(w.cast(result, value.dtype))
        outputs.append(Port(named.name, named.dtype, list(value.shape)))
    return proto(tidy(Model(opset, inputs, outputs, w.operations, dict(w.constants))), graph.name, "0")


# Results that are numbered otherwise in ONNX, or only for the gradient.
FIRST_RESULTS = {"max_pool": 1, "adaptive_max_pool": 1, "rnn_layer": 2, "lstm_layer": 3, "gru_layer": 2, "scaled_dot_product_attention": 1}
# Without a rule, and made of nothing that has one.
WITHOUT_FORM = {"erfinv", "lgamma", "digamma", "shift_left", "shift_right", "cumprod", "cummax", "cummin", "logcumsumexp", "scatter_rows",
                "int8_matmul", "bfloat16_matmul", "random_bits", "on_pairs"}


def sample_graph(name: str, number: int) -> tuple[Graph, list[np.ndarray]] | None:
    sample = samples_of(TABLE[name])[number]
    for dtype in (dtypes.float32, dtypes.int32):
        try:
            graph, arrays = build(TABLE[name], sample, dtype)
        except (NotImplementedError, RuntimeError, TypeError, IndexError):
            continue
        return None if any(v.dtype.is_complex for v in [*graph.inputs, *graph.outputs]) else (graph, arrays)
    return None


def test_a_sample_of_every_op_with_a_rule() -> None:
    agreed, _ = samples([(name, number) for name, number in CASES if name in RULES and number == 0], 18)
    assert len(agreed) > 130


@pytest.mark.targets
@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_samples_of_all_ops(opset: int) -> None:
    """Every op with a rule agrees on every sample, and so does nearly everything that is made of such ops."""
    agreed, refused = samples(CASES, opset)
    assert opset < 18 or set(RULES) - agreed <= {"constant", "after"}
    blamed = {text.split("'")[1] for text in refused.values()}
    assert {n for n in blamed if TABLE[n].kind.name not in ("EXTERN", "CONTROL")} <= (WITHOUT_FORM if opset >= 18 else blamed)
    assert len(agreed) > 170


def samples(cases: list[tuple[str, int]], opset: int) -> tuple[set[str], dict[str, str]]:
    """(ops on whose samples onnxruntime agrees with the interpreter, why others are refused)."""
    runtime.set_default_logger_severity(4)
    agreed, refused = set(), {}
    for name, number in cases:
        found = sample_graph(name, number)
        if found is None:
            continue
        graph, arrays = found
        wanted = run(graph, arrays)
        count = FIRST_RESULTS.get(name, len(wanted))
        graph.outputs, wanted = graph.outputs[:count], wanted[:count]
        try:
            model = model_of(graph, opset)
        except NotImplementedError as error:
            refused[name] = str(error)
            continue
        agree(session(model).run(None, {f"x{i}": a for i, a in enumerate(arrays)}), wanted, (name, number, opset))
        agreed.add(name)
    return agreed, refused


def test_records_name_only_operations_with_a_rule() -> None:
    assert [name for name, op in TABLE.items() if op.onnx and name not in RULES] == []
    schemas = {s.name for s in onnx.defs.get_all_schemas()}
    assert {op.onnx for op in TABLE.values() if op.onnx} <= schemas


# -- models ----------------------------------------------------------------------------------------------------------------------
BATCH = {0: "batch"}


def images(b: int, size: int = 16) -> tuple[Any, ...]:
    return (td.randn(b, 3, size, size),)


def tokens(*sizes: tuple[int, int], words: int = 13) -> tuple[Any, ...]:
    return tuple([td.randint(1, words, s) for s in sizes])


MODELS: dict[str, Any] = {
    "mlp": (zoo.make_mlp, (td.randn(2, 10),), [(td.randn(5, 10),)], {"input": BATCH}),
    "lenet": (zoo.make_lenet, images(2), [images(3)], {"input": BATCH}),
    "resnet18": (zoo_vision.make_resnet18, images(1, 32), [images(3, 32)], {"x": BATCH}),
    "mobilenet_v2": (zoo_vision.make_mobilenet_v2, images(2, 32), [images(1, 32)], {"x": BATCH}),
    "unet": (zoo.make_unet, images(2), [images(1, 24)], {"x": {0: "batch", 2: "height", 3: "width"}}),
    "lstm": (zoo.make_language_model, tokens((2, 5)), [tokens((4, 7))], {"tokens": {0: "batch", 1: "length"}}),
    "seq2seq": (zoo.make_seq2seq, tokens((2, 5), (2, 4)), [tokens((3, 5), (3, 4))], {"source": BATCH, "target": BATCH}),
    "gpt": (zoo.make_gpt, tokens((1, 6)), [tokens((3, 9))], {"tokens": {0: "batch", 1: "length"}}),
    "vit": (zoo.make_vit, images(2), [images(3)], {"x": BATCH}),
    "transformer": (zoo.make_transformer, tokens((2, 6), (2, 5)), [tokens((3, 8), (3, 4))],
                    {"source": {0: "batch", 1: "length"}, "target": {0: "batch", 1: "target_length"}}),
    "detr": (zoo.make_detr, images(2), [images(1)], {"x": BATCH}),
    "yolo": (zoo.make_yolo, images(2), [images(1)], {"input": BATCH}),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_models(name: str) -> None:
    """At the sizes of the example (large ones are spared it), and dynamic at others."""
    td.manual_seed(0)
    make, example, others, axes = MODELS[name]
    net = make(td)
    if name not in ("resnet18", "mobilenet_v2"):
        assert set(operations(exported(net, example))).isdisjoint({"Shape", "Range"})
    model = exported(net, example, *others, dynamic_axes=axes)
    assert {t.name for t in model.graph.initializer} >= {n for n, _ in net.named_parameters()} - {"head.weight"}
    named = [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in model.graph.input]
    assert [{k: v for k, v in enumerate(dims) if v} for dims in named] == list(axes.values())
    assert all(o.type.tensor_type.shape.dim[0].dim_param == axes[next(iter(axes))][0] for o in model.graph.output)


def test_layers_stay_whole() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 2, 2, stride=2),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3), nn.LayerNorm(3), nn.GELU(), nn.Softmax(-1))
    model = exported(net, images(2), opset_version=20)
    assert operations(model) == ["Conv", "BatchNormalization", "Clip", "MaxPool", "ConvTranspose", "ReduceMean", "Reshape", "Gemm",
                                 "LayerNormalization", "Gelu", "Softmax"]
    assert "LayerNormalization" not in operations(exported(net, images(2), opset_version=13))
    assert "LSTM" in operations(exported(nn.LSTM(3, 4, bidirectional=True), (td.randn(5, 2, 3),)))


class Sums(nn.Module):
    """In-place writes to new tensors, numbers of the sizes, indexing from the end: what programs do besides layers."""

    def forward(self, x: Any, parts: dict[str, Any], scale: float = 2.0) -> Any:
        n, m = x.shape
        table = td.zeros(n, m + 1)
        table[:, :-1] = x * scale
        table[:, -1] += td.arange(n)
        table[1] = parts["y"]
        seen = td.ones(n, n).tril().bool()
        weights = (x @ x.T).masked_fill(~seen, -1e9).softmax(-1)
        last = x[:, -1] / m + x.std(1) + x.flip(0)[-1].sum()
        return {"table": table, "weights": weights}, last, x.reshape(-1), td.cat([x, x[:1]]).mean(0)


def test_programs_follow_dynamic_sizes() -> None:
    def args(n: int, m: int) -> tuple[Any, ...]:
        return td.randn(n, m), {"y": td.randn(m + 1)}
    net = Sums()
    with pytest.raises(RuntimeError, match="columns"):  # y has one more: as many columns as x has cannot vary alone
        td.onnx.export(net, args(3, 4), kwargs={}, dynamic_axes={"x": {0: "rows", 1: "columns"}})
    program = td.onnx.export(net, args(3, 4), kwargs={"scale": 3.0}, input_names=["x", "y"], output_names=["table", "weights"],
                             dynamic_axes={"x": {0: "rows"}, "table": {0: "lines"}})
    assert program is not None
    run_model = session(program.model_proto)
    assert [o.name for o in run_model.get_outputs()] == ["table", "weights", "output_2", "output_3", "output_4"]
    assert [o.shape for o in run_model.get_outputs()][:2] == [["lines", 5], ["rows", "rows"]]
    for n in (3, 2, 7):
        x, parts = args(n, 4)
        tables, *rest = net(x, parts, 3.0)
        wanted = [t.numpy() for t in (tables["table"], tables["weights"], *rest)]
        agree(run_model.run(None, {"x": x.numpy(), "y": parts["y"].numpy()}), wanted)


@pytest.mark.parametrize("shapes", [{"x": {0: "batch"}}, ({0: "batch"},), [("batch", None)]])
def test_dynamic_shapes_as_pytorch_says_it(shapes: Any) -> None:
    exported(nn.Linear(3, 2).forward, (td.randn(2, 3),), (td.randn(5, 3),), dynamic_shapes=shapes)


@pytest.mark.parametrize("function", [
    lambda x: td.diagonal(x, dim1=1, dim2=2), lambda x: td.topk(x, 2), lambda x: F.unfold(x.unsqueeze(1), 2),
    lambda x: F.one_hot((x[:, 0] > 0).long(), 2), lambda x: F.interpolate(x.unsqueeze(1), scale_factor=2.0, mode="bilinear"),
    lambda x: x[:, [0, 1], [1, 2]], lambda x: x.roll(1, 0), lambda x: (x.std(0), x.repeat_interleave(2, 0), x.unbind(1))])
def test_functions_of_a_dynamic_batch(function: Any) -> None:
    exported(function, (td.randn(2, 4, 4),), (td.randn(3, 4, 4),), dynamic_axes={"x": {0: "batch"}})


def test_axes_without_names() -> None:
    model = exported(lambda x, y: x + y, (td.randn(2, 3), td.randn(2, 3)), (td.randn(4, 3), td.randn(4, 3)),
                     dynamic_axes={"x": [0], "y": [0]})
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "x_dynamic_axes_1"


# -- files and options -----------------------------------------------------------------------------------------------------------
def test_files_names_and_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, x = nn.Linear(3, 2), td.randn(4, 3)
    path, buffer = tmp_path / "net.onnx", io.BytesIO()
    assert td.onnx.export(net, x, path, input_names=["data"], output_names=["score"], dynamo=False, verbose=True) is None
    assert "Gemm" in capsys.readouterr().out
    td.onnx.export(net, (x,), buffer, input_names=["data"], output_names=["score"], dynamo=False)
    assert buffer.getvalue() == path.read_bytes() and list(tmp_path.iterdir()) == [path]
    (found,) = runtime.InferenceSession(str(path)).run(["score"], {"data": x.numpy()})
    agree([found], [net(x).detach().numpy()])
    model = td.onnx.export(net, x, export_params=False).model_proto
    assert [i.name for i in model.graph.input] == ["input", "weight", "bias"] and not model.graph.initializer
    both = td.onnx.export(net, x, keep_initializers_as_inputs=True).model_proto
    assert [i.name for i in both.graph.input] == ["input", "weight", "bias"] and len(both.graph.initializer) == 2


def test_modes_and_flags() -> None:
    seen = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(3)

        def forward(self, x: Any) -> Any:
            seen.append((self.training, td.onnx.is_in_onnx_export()))
            return self.norm(self.drop(x))
    net = Net()
    before = net.norm.running_mean.clone()
    td.onnx.export(net, td.randn(4, 3))
    with pytest.raises(NotImplementedError, match=rf"draws random numbers|'random_bits'.*{Path(__file__).name}:\d+"):
        td.onnx.export(net, td.randn(4, 3), training=td.onnx.TrainingMode.TRAINING)
    assert seen == [(False, True), (True, True)] and net.training and net.norm.training and not td.onnx.is_in_onnx_export()
    assert net.norm.running_mean.tolist() == before.tolist()


def test_a_compiled_module_and_a_shared_weight() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    net.compile()
    model = exported(net, (td.randn(2, 3),))
    assert sorted(t.name for t in model.graph.initializer) == ["0.bias", "0.weight", "1.bias"]


# -- refusals --------------------------------------------------------------------------------------------------------------------
def test_errors_name_op_and_line() -> None:
    x = td.randn(2, 3)
    with pytest.raises(NotImplementedError, match=rf"op 'lgamma' on tensor<2x3xf32> \(.*{Path(__file__).name}:\d+\): it has no form"):
        td.onnx.export(lambda x: td.lgamma(x), x)
    with pytest.raises(RuntimeError, match=rf"looks at a value .* at .*{Path(__file__).name}:\d+"):
        td.onnx.export(lambda x: x if x.sum() > 0 else -x, x)
    with pytest.raises(NotImplementedError, match=r"draws random numbers .*normal"):
        td.onnx.export(lambda x: x + td.randn(2, 3), x)
    with pytest.raises(NotImplementedError, match="complex"):
        td.onnx.export(lambda x: td.fft.fft(x).real, x)
    with pytest.raises(ValueError, match="opset version: 9"):
        td.onnx.export(nn.ReLU(), x, opset_version=9)
    with pytest.raises(ValueError, match="returns no tensor, but int"):
        td.onnx.export(lambda x: 1, x)
    with pytest.raises(ValueError, match="2 names for 1"):
        td.onnx.export(nn.ReLU(), x, input_names=["a", "b"])
    with pytest.raises(ValueError, match="'z', which is neither"):
        td.onnx.export(nn.ReLU(), x, dynamic_axes={"z": {0: "n"}})
    with pytest.raises(RuntimeError, match=r"axis 'n' cannot be dynamic: .* computes something else at other sizes"):
        td.onnx.export(lambda x: x + 1 if len(x) == 2 else x * 2, x, dynamic_axes={"x": {0: "n"}})
    with pytest.raises(RuntimeError, match=r"axis 'n' cannot be dynamic: .* shapes cannot be multiplied"):
        td.onnx.export(nn.Linear(3, 2), x, dynamic_axes={"input": {1: "n"}})


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"treadle\[onnx\]"):
        td.onnx.export(nn.ReLU(), td.ones(1))
