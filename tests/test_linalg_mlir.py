"""Graphs as upstream MLIR: IREE, an independent compiler, verifies and runs the text, and the results are the interpreter's."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from op_cases import CASES, build, gradient_graph, random_array, samples_of

import treadle as td
import treadle.nn.functional as F
from treadle.codegen.linalg import print_linalg
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE, Kind
from treadle.ir.types import tensor_type
from treadle.passes.pipeline import prepare

compiler = pytest.importorskip("iree.compiler", reason="iree.compiler is missing: pip install -e '.[mlir]'")
runtime = pytest.importorskip("iree.runtime", reason="iree.runtime is missing: pip install -e '.[mlir]'")


def load(text: str) -> Any:
    """The module's functions, compiled by IREE for this CPU."""
    options = ["--iree-llvmcpu-target-cpu=host", "--iree-input-demote-f64-to-f32=false", "--iree-opt-level=O0"]
    binary = compiler.compile_str(text, target_backends=["llvm-cpu"], extra_args=options)
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    context.add_vm_module(runtime.VmModule.copy_buffer(context.instance, binary))
    return context.modules.module


def call(module: Any, name: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    found = module[name](*arrays)
    return [np.asarray(a.to_host()) for a in (found if isinstance(found, (tuple, list)) else [found])]


def joined(texts: list[str]) -> str:
    """Modules of one function each as one module."""
    return "module {\n" + "".join([t.removeprefix("module {\n").removesuffix("}\n") for t in texts]) + "}\n"


def agree(found: list[np.ndarray], wanted: list[np.ndarray], label: Any, tolerance: float = 1e-5) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        b = np.asarray(b)
        assert a.shape == b.shape, label
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=tolerance, atol=tolerance, err_msg=str(label))


def has_form(graph: Graph) -> bool:
    try:
        print_linalg(prepare(graph))
    except NotImplementedError:
        return False
    return True


# -- the op table ------------------------------------------------------------------------------------------------------------
def test_first_samples_of_all_primitives_with_a_form() -> None:
    texts, cases = [], []
    for name, number in CASES:
        if number or TABLE[name].kind not in (Kind.ELEMENTWISE, Kind.VIEW, Kind.REDUCE, Kind.CONTRACT, Kind.GATHER, Kind.SCATTER):
            continue
        sample = samples_of(TABLE[name])[number]
        try:
            graph, arrays = build(TABLE[name], sample, dtypes.float32)
        except NotImplementedError:  # an op on integers
            graph, arrays = build(TABLE[name], sample, dtypes.int32)
        if any(v.type.numel == 0 or v.dtype.is_complex for v in [*graph.inputs, *graph.outputs]):
            continue
        wanted = run(graph, arrays)
        graph.name = f"op_{name}"
        if has_form(graph):
            texts.append(print_linalg(prepare(graph)))
            cases.append((graph.name, arrays, wanted))
    assert len(cases) > 90
    module = load(joined(texts))
    for name, arrays, wanted in cases:
        agree(call(module, name, arrays), wanted, name)


def test_ops_without_a_form_say_so() -> None:
    """Those that a library computes, that sort or scan, and few others: everything elementwise, every view and reduction has one."""
    without = set()
    for name, number in CASES:
        try:
            graph, _ = build(TABLE[name], samples_of(TABLE[name])[number], dtypes.float32)
        except (RuntimeError, TypeError, IndexError):
            continue
        if any(v.dtype.is_complex for v in [*graph.inputs, *graph.outputs]):
            continue
        try:
            print_linalg(prepare(graph))
        except NotImplementedError as error:
            without.update(re.findall(r"^linalg: op '(\w+)' on ", str(error)))
    left = {n for n in without if n in TABLE and TABLE[n].kind not in (Kind.EXTERN, Kind.SORT, Kind.SCAN)}
    assert left <= {"erfinv", "sparse_matmul", "as_strided_add", "as_strided_scatter"}


# -- models ---------------------------------------------------------------------------------------------------------------------
def mlp(rows: int) -> tuple[Callable[..., Any], list[Any]]:
    def step(x: Any, w1: Any, b1: Any, w2: Any, target: Any) -> Any:
        loss = F.cross_entropy(F.relu(x @ w1 + b1) @ w2, target)
        loss.backward()
        return loss, w1.grad, b1.grad, w2.grad
    return step, [td.randn(rows, 12), *[td.randn(*s, requires_grad=True) for s in ((12, 16), (16,), (16, 10))],
                  td.arange(rows, dtype=td.int64) % 10]


def rnn_step(rows: int) -> tuple[Callable[..., Any], list[Any]]:
    cell = td.nn.RNNCell(6, 8)

    def step(x: Any, h: Any) -> Any:
        new = cell(x, h)
        new.square().sum().backward()
        return (new, *[p.grad for p in cell.parameters()])
    return step, [td.randn(rows, 6), td.randn(rows, 8)]


def softmax(rows: int) -> tuple[Callable[..., Any], list[Any]]:
    def step(x: Any, weight: Any) -> Any:
        y = F.softmax(x, dim=-1)
        (y * weight).sum().backward()
        return y, x.grad
    return step, [td.randn(rows, 9, requires_grad=True), td.randn(rows, 9)]


def layer_norm(rows: int) -> tuple[Callable[..., Any], list[Any]]:
    def step(x: Any, weight: Any, bias: Any) -> Any:
        y = F.layer_norm(x, (9,), weight, bias)
        (y * y).mean(dim=-1).sum().backward()
        return y, x.grad, weight.grad, bias.grad
    return step, [td.randn(*s, requires_grad=True) for s in ((rows, 9), (9,), (9,))]


MODELS = [mlp, rnn_step, softmax, layer_norm]


def inspected(make: Callable[..., Any], rows: int) -> tuple[Any, list[np.ndarray]]:
    """What one call recorded, and arrays for its graph's inputs: small integers for integers, which index."""
    step, args = make(rows)
    seen = td.inspect(step, *args)
    rng = np.random.default_rng(3)
    arrays = []
    for value in seen.graph.inputs:
        integer = value.dtype.category != dtypes.FLOAT
        arrays.append(np.asarray(rng.integers(1, 5, value.shape) if integer else rng.uniform(-1, 1, value.shape)).astype(value.dtype.np))
    return seen, arrays


@pytest.mark.parametrize("make", MODELS)
def test_models_and_their_gradients(make: Callable[..., Any]) -> None:
    seen, arrays = inspected(make, 5)
    assert len(seen.graphs) == 1
    agree(call(load(seen.linalg), "main", arrays), run(seen.graph, arrays), make.__name__)


@pytest.mark.parametrize("make", MODELS)
def test_dynamic_sizes(make: Callable[..., Any]) -> None:
    """One text, read off recordings at 5 and 8 rows, runs for 3 and 7."""
    one, other = inspected(make, 5)[0], inspected(make, 8)[0]
    text = one.dynamic_linalg(other)
    assert "tensor<?x" in text
    module = load(text)
    for rows in (3, 7):
        seen, arrays = inspected(make, rows)
        agree(call(module, "main", arrays), run(seen.graph, arrays), (make.__name__, rows))


def test_scan_cond_and_while() -> None:
    texts, cases = [], []
    for name in ("scan", "cond", "while_loop"):
        for number, sample in enumerate(samples_of(TABLE[name])[:2]):
            graph, arrays = build(TABLE[name], sample, dtypes.float32)
            graph.name = f"{name}{number}"
            texts.append(print_linalg(prepare(graph)))
            cases.append((graph.name, arrays, run(graph, arrays)))
            assert "scf." in texts[-1]
    module = load(joined(texts))
    for name, arrays, wanted in cases:
        agree(call(module, name, arrays), wanted, name)


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16, dtypes.float64, dtypes.int64, dtypes.uint8, dtypes.bool_])
def test_other_dtypes(dtype: Any) -> None:
    """One elementwise op, a reduction, a comparison and a cast in every dtype; 16-bit floats are computed in float32 and rounded once."""
    b = Builder(Graph("main"))
    x, y = [b.input(tensor_type((4, 6), dtype)) for _ in range(2)]
    total = b.add(b.mul(x, y), x)
    b.graph.outputs = [b.cast(total, dtypes.float32), b.cast(b.sum(total, (1,), False, None), dtypes.float32), b.lt(x, y),
                       b.cast(b.amax(x, (0,), True), dtypes.float32), b.argmax(b.cast(x, dtypes.float32), 1, False)]
    rng = np.random.default_rng(0)
    arrays = [random_array((4, 6), dtype, rng) for _ in range(2)]
    wanted = run(b.graph, arrays)
    text = print_linalg(prepare(b.graph))
    if dtype is dtypes.bfloat16:  # IREE's Python runtime has no such arrays
        assert "arith.extf" in text and "tensor<4x6xbf16>" in text
        compiler.compile_str(text, target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=host"])
        return
    agree(call(load(text), "main", arrays), wanted, dtype.name, 4e-3 if dtype is dtypes.float16 else 1e-5)  # IREE rounds less often


def test_recordings_of_different_functions_are_refused() -> None:
    one, other = inspected(softmax, 5)[0], inspected(layer_norm, 8)[0]
    with pytest.raises(RuntimeError, match="two recordings are of different functions"):
        one.dynamic_linalg(other)


def test_errors_name_the_op_and_the_line() -> None:
    seen = td.inspect(lambda x: td.sort(x)[0], td.randn(4))
    with pytest.raises(NotImplementedError, match=r"linalg: op 'sort' on tensor<4xf32> \(.*test_linalg_mlir.py:\d+\): it has no form"):
        _ = seen.linalg


def test_gradients_of_products_and_gathers() -> None:
    texts, cases = [], []
    for name in ("matmul", "index_select", "embedding", "conv1d" if "conv1d" in TABLE else "pad", "cat"):
        graph, arrays = build(TABLE[name], samples_of(TABLE[name])[0], dtypes.float32)
        wrt = [i for i, v in enumerate(graph.inputs) if v.dtype.category == dtypes.FLOAT]
        rng = np.random.default_rng(1)
        gradient = gradient_graph(graph, wrt)
        arrays = [*arrays, *[random_array(v.shape, v.dtype, rng) for v in graph.outputs]]
        gradient.name = f"{name}_gradient"
        texts.append(print_linalg(prepare(gradient)))
        cases.append((gradient.name, arrays, run(gradient, arrays)))
    module = load(joined(texts))
    for name, arrays, wanted in cases:
        agree(call(module, name, arrays), wanted, name)


def test_the_readmes_command(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (program,) = re.findall(r"```python\n((?:(?!```).)*layer\.mlir.*?)```", readme, re.S)
    (command,) = re.findall(r"`(iree-compile [^`]*)`", readme)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True, env={**os.environ, "PATH": path})
    assert (tmp_path / "layer.vmfb").stat().st_size > 0


def test_a_quantized_model() -> None:
    """int8 layers and all that quantizes around them; IREE divides by scales as we do, but may round a tie the other way."""
    td.manual_seed(0)
    model = td.quantization.quantize(td.nn.Sequential(td.nn.Linear(20, 40), td.nn.ReLU(), td.nn.Linear(40, 7)))
    seen = td.inspect(model, td.randn(5, 20))
    rng = np.random.default_rng(0)
    arrays = []
    for value in seen.graph.inputs:
        real = value.dtype.category == dtypes.FLOAT
        arrays.append((rng.uniform(0.01, 1, value.shape) if real else rng.integers(-20, 20, value.shape)).astype(value.dtype.np))
    (wanted,) = run(seen.graph, arrays)
    (found,) = call(load(seen.linalg), "main", arrays)
    assert np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()
