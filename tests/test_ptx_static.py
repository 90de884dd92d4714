"""What can be said of PTX without running it: it assembles for every architecture, nothing spills, memory moves in 16 bytes."""
from __future__ import annotations

import functools
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from op_cases import CASES, GRADIENT_CASES, build, float_inputs, gradient_graph, samples_of

import treadle
import treadle.nn.functional as F
from treadle import nn
from treadle.codegen.ptx_target import ARCHITECTURES
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.op import TABLE, Kind
from treadle.ir.types import tensor_type
from treadle.runtime import cuda_plan, cuda_tools


@functools.cache
def assembler() -> None:
    nvjitlink = pytest.importorskip("cuda.bindings.nvjitlink", reason="needs the [cuda] extra")
    try:
        nvjitlink.version()
    except Exception:
        pytest.skip("needs the wheel nvidia-nvjitlink")


def check(texts: dict[str, str], architecture: str) -> None:
    for name, text in texts.items():
        usage = cuda_tools.assemble(text, architecture)
        assert usage.registers > 0, name
        assert (usage.stack, usage.spilled) == (0, 0), f"{name} for {architecture}: {usage}"


def table_graphs() -> Iterator[Graph]:
    for name, which in CASES:
        for dtype in (dtypes.float32, *dtypes.ALL):
            try:
                graph, _ = build(TABLE[name], samples_of(TABLE[name])[which], dtype)
                break
            except (RuntimeError, TypeError, IndexError, ValueError):
                continue
        yield graph
        if (name, which) in GRADIENT_CASES and float_inputs(graph):
            yield gradient_graph(graph, float_inputs(graph))


def kernels(graphs: Iterator[Graph], architecture: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for graph in graphs:
        texts.update(cuda_plan.kernel_texts(graph, architecture)[0])
    return texts


@pytest.mark.parametrize("number", range(len(ARCHITECTURES)))
def test_some_kernels_of_the_table(number: int) -> None:
    """Of every ninth graph; the next test has them all."""
    assembler()
    check(kernels(itertools.islice(table_graphs(), number, None, 9), ARCHITECTURES[number]), ARCHITECTURES[number])


@pytest.mark.targets
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_of_the_table(architecture: str) -> None:
    """Of every op's samples and gradients."""
    assembler()
    found = kernels(table_graphs(), architecture)
    assert len(found) > 800
    check(found, architecture)


@pytest.mark.targets
def test_every_kernel_of_the_examples() -> None:
    assembler()
    script = Path(__file__).parent / "example_kernels.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout and re.search(r"^[2-9]\d\d kernels for sm_100$", done.stderr, re.M), done.stdout + done.stderr


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_of_a_training_step(architecture: str) -> None:
    assembler()
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.LayerNorm(256), nn.Linear(256, 10))
    optimizer = treadle.optim.AdamW(net.parameters(), lr=3e-3)

    def step(x: treadle.Tensor, y: treadle.Tensor) -> treadle.Tensor:
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss
    seen = treadle.inspect(step, treadle.randn(64, 64), treadle.zeros(64, dtype=treadle.int64), device="cuda")
    texts, on_host = cuda_plan.kernel_texts(seen.graph, architecture)
    assert not on_host and len(texts) > 5
    check(texts, architecture)


def accesses(text: str) -> list[str]:
    return re.findall(r"(?:ld|st)\.global[\w.]*", text)


def test_contiguous_maps_move_16_bytes_at_a_time() -> None:
    x, y = treadle.ones(64, 128), treadle.ones(64, 128)
    for fn in (lambda: x + y, lambda: F.gelu(x * y + 1), lambda: treadle.where(x > y, x, y * 2), lambda: (x * 3).exp().t().t()):
        seen = treadle.inspect(fn, device="cuda")
        assert len(seen.ptx) == 1 and not seen.on_host
        found = accesses(*seen.ptx.values())
        assert found and all(".v4.b32" in a or ".v4.f32" in a for a in found), found


MAPS = [name for name, op in TABLE.items() if op.kind is Kind.ELEMENTWISE and isinstance(op.scalar, str) and not op.attrs]


@pytest.mark.parametrize("name", MAPS)
def test_float32_maps_of_the_table_move_16_bytes_at_a_time(name: str) -> None:
    b = Builder(Graph(name))
    operands = [b.input(tensor_type((64, 128), dtypes.float32)) for _ in TABLE[name].operands]
    if name == "where":
        operands[0] = b.gt(operands[0], 0.0)
    try:
        result = b.apply(TABLE[name], tuple(operands), ())
    except (RuntimeError, TypeError):
        pytest.skip(f"{name} takes no float32")
    if result.type.dtype is dtypes.bool_:  # four bytes at a time
        result = b.cast(result, dtypes.float32)
    b.graph.outputs = [result]
    texts, on_host = cuda_plan.kernel_texts(b.graph, "sm_80")
    assert len(texts) == 1 and not on_host
    found = accesses(*texts.values())
    assert len(found) >= 2 and all(".v4.b32" in a or ".v4.f32" in a for a in found), found


def test_inspect_needs_no_device() -> None:
    seen = treadle.inspect(lambda a, b: treadle.softmax(a @ b, -1), treadle.ones(8, 4), treadle.ones(4, 100), device="cuda")
    assert any("gemm" in name for name in seen.ptx) and all(".visible .entry" in text for text in seen.ptx.values())
    assert seen.on_host == []
    with pytest.raises(RuntimeError, match=r"ask for it with inspect\(fn, ..., device=.cuda.\)"):
        _ = treadle.inspect(lambda: treadle.ones(3) + 1).ptx


def test_the_assembler_explains() -> None:
    assembler()
    with pytest.raises(RuntimeError, match="the assembler refuses the kernel for sm_80"):
        cuda_tools.assemble(".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k() { nonsense; }", "sm_80")
