"""Products of bytes are bit-exact for every size and instruction set that this CPU can run; those of bfloat16 numbers are float32 sums."""
from __future__ import annotations

import ctypes
import functools
import itertools
import re
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np
import pytest

import treadle as td
from treadle import ops
from treadle.codegen.gemm import gemm_text
from treadle.codegen.gemm_int8 import int8_functions
from treadle.codegen.gemm_plan import GemmStep, Layout, gemm_step, int8_step, tiles_step
from treadle.codegen.jit import compile_text
from treadle.codegen.target import Target, describe, host, matrix_unit
from treadle.ir import dtypes
from treadle.ir.ops.quantized import packed_shape

SCRATCH = 16 << 20


def without(target: Target, *features: str) -> Target:
    text = ",".join([f for f in target.features.split(",") if f.lstrip("+-") not in features])
    return describe(target.triple, target.cpu, text)


AVX512 = [f.lstrip("+") for f in host().features.split(",") if f.lstrip("+-").startswith(("avx512", "amx"))]
TARGETS = {"host": host(), "no dot product": without(host(), "avx512vnni", "avx512bf16", "amx-bf16"), "no avx512": without(host(), *AVX512),
           "plain avx2": without(host(), *AVX512, "avxvnni")}


def pack(w: np.ndarray) -> np.ndarray:
    """Panels of 32 rows, four columns together, written down apart from the op table."""
    n, k = w.shape
    out = np.zeros(packed_shape(n, k), np.int8)
    for row, column in np.ndindex(n, k):
        out[row // 32, column // 4, row % 32, column % 4] = w[row, column]
    return out


def launch(address: int, words: list[int], units: int) -> None:
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    arguments, scratch = np.array(words, np.int64), np.zeros(SCRATCH, np.uint8)
    for unit in range(units):
        function(arguments.ctypes.data, unit, unit + 1, (scratch.ctypes.data + 63) // 64 * 64)


@pytest.mark.parametrize("which", TARGETS)
def test_bytes_are_exact(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS[which]
    monkeypatch.setattr("treadle.codegen.gemm_plan.host", lambda: target)
    module = compile_text(int8_functions(target).text(), passes=False)
    rng = np.random.default_rng(0)
    for m, n, k, threads in itertools.product((1, 5, 14, 15, 33, 61), (1, 31, 32, 65), (4, 12, 132), (1, 2)):
        x, w = rng.integers(0, 256, (m, k), np.uint8), rng.integers(-128, 128, (n, k), np.int8)
        packed, c = pack(w), np.full((m, n), -7, np.int32)
        step = int8_step(m, n, k, k, n, threads)
        launch(module.address("gemm_packed_int8"), step.arguments(x.ctypes.data, packed.ctypes.data, c.ctypes.data), step.units)
        np.testing.assert_array_equal(c, x.astype(np.int32) @ w.T.astype(np.int32), err_msg=f"{m}x{n}x{k}")


@pytest.mark.parametrize(("features", "instruction"), [("+neon", "mul"), ("+neon,+i8mm", "usdot")])
def test_arm_kernels_assemble(features: str, instruction: str) -> None:
    target = describe("aarch64-unknown-linux-gnu", "generic", features)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(int8_functions(target).text())
    machine = llvm.Target.from_triple(target.triple).create_target_machine(cpu=target.cpu, features=features, opt=1)
    inner = re.findall(r"^micro_i32_4x\d:.*?^\.Lfunc_end", machine.emit_assembly(module), re.M | re.S)
    assert inner and instruction in inner[-1]


def test_extreme_bytes_do_not_saturate() -> None:
    x, w = np.full((17, 4096), 255, np.uint8), np.full((40, 4096), -128, np.int8)
    found = [ops.int8_matmul(td.from_numpy(x), td.from_numpy(pack(w)), 40).numpy() for _ in range(3)]
    for c in found:
        np.testing.assert_array_equal(c, np.full((17, 40), -255 * 128 * 4096, np.int32))


@pytest.mark.parametrize("which", TARGETS)
def test_bfloat16_words(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Native, emulated and in tiles: every kind of kernel within the error of a float32 sum."""
    target = TARGETS[which]
    monkeypatch.setattr("treadle.codegen.gemm_plan.host", lambda: target)
    module = compile_text(gemm_text(target, "bfloat16"), passes=False)
    rng = np.random.default_rng(0)
    kinds = set()
    sizes = itertools.product((1, 7, 17, 40, 66), (1, 16, 33, 70), (2, 30, 64, 130), (1, 2))
    for m, n, k, threads in (*sizes, (20, 33, 2100, 1)):  # the last in several blocks along K
        x, y = (rng.standard_normal(s).astype(dtypes.bfloat16.np) for s in ((m, k), (n, k)))
        c = np.full((m, n), np.nan, np.float32)
        step = words_step(m, n, k, threads)
        kinds.add(step.symbol)
        launch(module.address(step.symbol), step.arguments(x.ctypes.data, y.ctypes.data, c.ctypes.data), step.units)
        np.testing.assert_allclose(c, x.astype(np.float64) @ y.T.astype(np.float64), atol=1e-5 * k, err_msg=f"{m}x{n}x{k}")
    assert len(kinds) >= 2


def words_step(m: int, n: int, k: int, threads: int) -> GemmStep:
    return gemm_step("bfloat16", m, n, k, Layout(k), Layout(1, k), Layout(n), (), threads)


ACROSS = [(True, False), (False, True), (True, True)]


@pytest.mark.skipif(not matrix_unit(), reason="no matrix unit for bfloat16")
@pytest.mark.parametrize(("across_a", "across_b"), ACROSS)
def test_tiles_read_operands_either_way(across_a: bool, across_b: bool) -> None:
    check_either_way(host(), tiles_step, across_a, across_b)


@pytest.mark.parametrize(("across_a", "across_b"), ACROSS)
@pytest.mark.parametrize("which", TARGETS)
def test_words_are_made_of_operands_either_way(which: str, across_a: bool, across_b: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle.codegen.gemm_plan.host", lambda: TARGETS[which])
    check_either_way(TARGETS[which], functools.partial(gemm_step, "bfloat16"), across_a, across_b)


def check_either_way(target: Target, make: Callable[..., GemmStep], across_a: bool, across_b: bool) -> None:
    module = compile_text(gemm_text(target, "bfloat16"), passes=False)
    rng = np.random.default_rng(0)
    sizes = (1, 16, 33, 66) if make is not tiles_step else (16, 33, 66)
    for m, n, k, threads in (*itertools.product(sizes, (17, 32, 70), (32, 34, 130), (1, 2)), (33, 70, 2100, 1)):
        x, y = (rng.standard_normal(s).astype(dtypes.bfloat16.np) for s in ((m, k), (n, k)))
        a, b = np.ascontiguousarray(x.T) if across_a else x, np.ascontiguousarray(y.T) if across_b else y
        c = np.full((m, n), np.nan, np.float32)
        layouts = Layout(1, m) if across_a else Layout(k), Layout(n, 1) if across_b else Layout(1, k)
        step = make(m, n, k, *layouts, Layout(n), (), threads)
        launch(module.address(step.symbol), step.arguments(a.ctypes.data, b.ctypes.data, c.ctypes.data), step.units)
        np.testing.assert_allclose(c, x.astype(np.float64) @ y.T.astype(np.float64), atol=1e-5 * k, err_msg=f"{m}x{n}x{k}")


def test_bfloat16_matmul_of_views() -> None:
    """Transposed, sliced, broadcast and odd operands: recorded, interpreted and compiled alike, with an epilogue."""
    rng = np.random.default_rng(1)
    a = td.from_numpy(rng.standard_normal((4, 40, 66)).astype(np.float32)).bfloat16()
    b = td.from_numpy(rng.standard_normal((66, 48)).astype(np.float32)).bfloat16()
    calls = [lambda: a[0] @ b, lambda: a @ b, lambda: a[:, :, 1:65] @ b[:64], lambda: a[1, :, 1:66] @ b[1:], lambda: (a[1] @ b).relu() + 1,
             lambda: b.t() @ a[2].t(), lambda: a[:, :, ::2] @ b[:33], lambda: a[:, :1] @ b]
    for call in calls:
        runs = [call().float().numpy() for _ in range(3)]
        assert call().dtype is td.bfloat16
        for found in runs[1:]:
            np.testing.assert_allclose(found, runs[0], rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("k", [1, 7, 8, 33])
def test_bfloat16_matmul_of_any_depth(k: int) -> None:
    rng = np.random.default_rng(2)
    x, y = (td.from_numpy(rng.standard_normal((n, k)).astype(np.float32)).bfloat16() for n in (20, 24))
    wanted = x.float().numpy() @ y.float().numpy().T
    for _ in range(3):
        np.testing.assert_allclose(ops.bfloat16_matmul(x, y).numpy(), wanted, atol=1e-5)


def test_two_launches_and_nothing_else() -> None:
    """A dynamic layer with an activation is one kernel that quantizes and one product with everything else as its epilogue."""
    x, w = td.randn(16, 64), td.randn(48, 64)
    layer = td.quantization.QuantizedLinear.from_float(_linear(w), td.quantization.QConfig())
    plan = td.inspect(lambda x: layer(x).relu(), x).plan.splitlines()
    assert len(plan) == 3 and "gemm int8" in plan[2] and " then k" in plan[2]


def _linear(w: td.Tensor) -> td.nn.Linear:
    layer = td.nn.Linear(w.shape[1], w.shape[0])
    with td.no_grad():
        layer.weight.copy_(w)
    return layer


def test_errors_say_what_does_not_fit() -> None:
    packed = td.from_numpy(pack(np.ones((8, 8), np.int8)))
    with pytest.raises(RuntimeError, match="expected uint8 activations and int8 weights, but got float32 and int8"):
        ops.int8_matmul(td.randn(2, 8), packed, 8)
    with pytest.raises(RuntimeError, match=r"int8_matmul: activations \[2, 12\].*do not fit weights \[1, 2, 32, 4\] packed for 8"):
        ops.int8_matmul(td.zeros(2, 12, dtype=td.uint8), packed, 8)
    with pytest.raises(RuntimeError, match="dtype must be uint8, int8 or int32, got float32"):
        ops.quantize(td.randn(2), td.tensor(1.0), 0, td.float32)
