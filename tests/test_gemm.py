"""Matrix products against numpy: edges, layouts, batches, threads, epilogues, and tiles of other CPUs."""
from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from treadle.codegen import gemm, gemm_plan
from treadle.codegen.gemm_plan import Layout, gemm_step
from treadle.codegen.jit import CompiledModule, assembly, compile_text
from treadle.codegen.target import describe
from treadle.passes.program import Ref
from treadle.runtime import threads
from treadle.runtime.executor import PlanBuilder, Table

KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
GUARD = 12345.0


def layout_of(array: np.ndarray) -> Layout:
    strides = [s // array.itemsize for s in array.strides]
    return Layout(strides[-2], strides[-1], *([0] * (4 - array.ndim) + strides[:-2]))


def multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray, n_threads: int = 1, module: CompiledModule | None = None) -> str:
    """c = a @ b by our kernels, on the calling thread; returns the kernel's name. Arrays have equal rank, 2 to 4."""
    m, n, k = c.shape[-2], c.shape[-1], a.shape[-1]
    step = gemm_step(a.dtype.name, m, n, k, layout_of(a), layout_of(b), layout_of(c), c.shape[:-2], n_threads)
    table = np.array(step.arguments(a.ctypes.data, b.ctypes.data, c.ctypes.data), np.int64)
    address = module.address(step.symbol) if module else gemm.gemm_address(step.symbol)
    kernel = KERNEL(address)
    for unit in range(step.units):
        kernel(table.ctypes.data, unit, unit + 1, threads.scratch_pointer())
    return step.symbol


def operand(rng: np.random.Generator, shape: Sequence[int], dtype: str, order: str) -> np.ndarray:
    """Small integers, so that every sum is exact. `order`: n normal, t transposed, s strided (neither axis has stride 1)."""
    values = rng.integers(-4, 5, shape).astype(dtype)
    if order == "t":
        return np.ascontiguousarray(values.swapaxes(-1, -2)).swapaxes(-1, -2)
    if order == "s":
        wide = np.full((*shape[:-1], shape[-1] * 2), GUARD, dtype)
        wide[..., ::2] = values
        return wide[..., ::2]
    return values


def result_for(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An array for the result inside a larger one full of guard values."""
    shape = (*a.shape[:-1], b.shape[-1])
    whole = np.full((*shape[:-2], shape[-2] + 2, shape[-1] + 3), GUARD, a.dtype)
    return whole, whole[..., 1:1 + shape[-2], 1:1 + shape[-1]]


def check(a: np.ndarray, b: np.ndarray, **options: Any) -> str:
    whole, c = result_for(a, b)
    name = multiply(a, b, c, **options)
    expected = np.full_like(whole, GUARD)
    expected[..., 1:1 + c.shape[-2], 1:1 + c.shape[-1]] = a @ b
    np.testing.assert_array_equal(whole, expected, err_msg=f"{a.shape} {a.strides} @ {b.shape} {b.strides}")
    return name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("orders", ["nn", "nt", "tn", "tt", "sn", "ns"])
def test_edges(dtype: str, orders: str) -> None:
    rng = np.random.default_rng(0)
    for m, n in itertools.product(range(1, 41), range(1, 41)):
        k = (m * 7 + n * 3) % 40 + 1
        check(operand(rng, (m, k), dtype, orders[0]), operand(rng, (k, n), dtype, orders[1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("orders", ["nn", "nt", "tn", "tt"])
def test_all_depths(dtype: str, orders: str) -> None:
    rng = np.random.default_rng(1)
    for k in [*range(1, 41), 255, 256, 257, 511, 513, 1000]:
        for m, n in ((1, 37), (37, 1), (6, 35), (33, 34)):
            check(operand(rng, (m, k), dtype, orders[0]), operand(rng, (k, n), dtype, orders[1]))


@pytest.mark.parametrize("sizes", [(200, 300, 300), (170, 4200, 20), (500, 33, 600), (3, 5000, 100), (1, 4100, 257), (4100, 1, 257)])
@pytest.mark.parametrize("orders", ["nn", "nt", "tn", "tt", "ss"])
def test_cache_blocks(sizes: tuple[int, int, int], orders: str) -> None:
    rng = np.random.default_rng(2)
    m, n, k = sizes
    check(operand(rng, (m, k), "float32", orders[0]), operand(rng, (k, n), "float32", orders[1]), n_threads=3)


def test_every_kernel_is_chosen() -> None:
    rng = np.random.default_rng(3)
    make = lambda *shape, order="n": operand(rng, shape, "float32", order)
    assert check(make(4, 64), make(64, 50, order="t")) == "gemm_dot_float32"
    assert check(make(50, 64), make(64, 1)) == "gemm_dot_float32"
    assert check(make(4, 64), make(64, 50)) == "gemm_stream_float32"
    assert check(make(40, 64), make(64, 50)) == "gemm_blocked_float32"


@pytest.mark.parametrize("shape", [(5, 7, 9), (33, 20, 35), (1, 64, 1)])
def test_batches(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(4)
    m, k, n = shape
    a, b = operand(rng, (3, 4, m, k), "float32", "n"), operand(rng, (3, 4, k, n), "float32", "t")
    check(a, b)
    check(a[0], b[0])
    check(a, np.broadcast_to(b[:, :1], b.shape))
    check(np.broadcast_to(a[:1], a.shape), np.broadcast_to(b[0, 0], b.shape))
    check(a.swapaxes(0, 1), b.swapaxes(0, 1))
    check(a[:0], b[:0])
    with pytest.raises(ValueError, match="at most 2 batch axes"):
        gemm_step("float32", 1, 1, 1, Layout(1), Layout(1), Layout(1), (1, 2, 3))


@pytest.mark.parametrize("sizes", [(0, 5, 3), (5, 0, 3), (5, 7, 0), (1, 7, 0), (0, 0, 0)])
def test_empty(sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    check(np.ones((m, k), np.float32), np.ones((k, n), np.float32))


def test_special_values_pass_through() -> None:
    a, b = np.ones((20, 30), np.float32), np.ones((30, 40), np.float32)
    a[3, 4], b[5, 6], a[7, 8] = np.inf, -np.inf, np.nan
    c = np.zeros((20, 40), np.float32)
    multiply(a, b, c)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(c, a @ b)


def test_result_must_have_contiguous_rows() -> None:
    with pytest.raises(ValueError, match="column stride 1, got 9"):
        gemm_step("float32", 9, 9, 9, Layout(9), Layout(9), Layout(1, 9))


@pytest.mark.parametrize("sizes", [(64, 500, 300), (500, 64, 300), (5, 3000, 600), (3000, 5, 600), (9, 3000, 600), (300, 300, 700)])
@pytest.mark.parametrize("orders", ["nn", "nt", "tn"])
def test_same_bits_for_any_number_of_threads(sizes: tuple[int, int, int], orders: str) -> None:
    rng = np.random.default_rng(5)
    m, n, k = sizes
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    a, b = (np.asfortranarray(x) if o == "t" else x for x, o in zip((a, b), orders, strict=True))
    results = []
    for n_threads in (1, 2, 3, 8):
        c = np.zeros((m, n), np.float32)
        multiply(a, b, c, n_threads)
        results.append(c)
    assert np.abs(results[0] - a.astype(np.float64) @ b).max() < 2e-4
    assert all(np.array_equal(results[0], c) for c in results[1:])


# epilogue: counts[row, column] += 1 for each element of a block; args: counts, row stride, batch stride.
EPILOGUE = """
define void @count(ptr %args, i64 %r0, i64 %r1, i64 %c0, i64 %c1, i64 %batch) {
entry:
  %counts = load ptr, ptr %args
  %p1 = getelementptr i64, ptr %args, i64 1
  %p2 = getelementptr i64, ptr %args, i64 2
  %stride = load i64, ptr %p1
  %bs = load i64, ptr %p2
  %base = mul i64 %batch, %bs
  br label %rows
rows:
  %r = phi i64 [ %r0, %entry ], [ %rn, %next ]
  %line = mul i64 %r, %stride
  %at = add i64 %base, %line
  br label %cols
cols:
  %c = phi i64 [ %c0, %rows ], [ %cn, %cols ]
  %i = add i64 %at, %c
  %p = getelementptr i64, ptr %counts, i64 %i
  %old = load i64, ptr %p
  %new = add i64 %old, 1
  store i64 %new, ptr %p
  %cn = add i64 %c, 1
  %mc = icmp slt i64 %cn, %c1
  br i1 %mc, label %cols, label %next
next:
  %rn = add i64 %r, 1
  %mr = icmp slt i64 %rn, %r1
  br i1 %mr, label %rows, label %end
end:
  ret void
}
"""
COUNT = compile_text(EPILOGUE)


@pytest.mark.parametrize("sizes", [(200, 300, 600), (4, 700, 50), (700, 1, 50), (33, 7, 0), (30, 40, 300)])
def test_epilogue_sees_each_element_once(sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    a, b = np.ones((2, m, k), np.float32), np.ones((2, k, n), np.float32)
    c, counts, error = np.zeros((2, m, n), np.float32), np.zeros((2, m, n), np.int64), np.zeros(8, np.int64)
    step = gemm_step("float32", m, n, k, layout_of(a), layout_of(b), layout_of(c), (2,), threads.num_threads())
    builder = PlanBuilder()
    epilogue_args = Table((Ref(4), n, m * n))
    args = step.arguments(Ref(1), Ref(2), Ref(3), COUNT.address("count"), epilogue_args)
    builder.step(gemm.gemm_address(step.symbol), args, step.units, step.grain)
    assert builder.build(5).run([x.ctypes.data for x in (error, a, b, c, counts)]) == 0
    assert (c == k).all() and (counts == 1).all()


OTHER_CPUS = {
    "avx2": ("x86_64-unknown-linux-gnu", "haswell", "+avx2,+fma"),
    "sse": ("x86_64-unknown-linux-gnu", "x86-64", "+sse2"),
    "neon": ("aarch64-unknown-linux-gnu", "generic", "+neon"),
}


@pytest.mark.parametrize("name", OTHER_CPUS)
def test_tiles_of_other_cpus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their vector widths and register tiles, run on this CPU; and their own assembly can be made."""
    target = describe(*OTHER_CPUS[name])
    monkeypatch.setattr(gemm_plan, "host", lambda: target)
    text = gemm.gemm_text(target, "float32")
    module = compile_text(text, passes=False)
    rng = np.random.default_rng(6)
    for m, n, k in itertools.product((1, 3, 8, 17, 30), (1, 4, 12, 23, 48), (1, 5, 64, 300)):
        for orders in ("nn", "nt", "tn"):
            check(operand(rng, (m, k), "float32", orders[0]), operand(rng, (k, n), "float32", orders[1]), module=module)
    if name == "neon":
        assert "fmla" in assembly(text, passes=False, target=target)
