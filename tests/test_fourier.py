"""Fourier transforms along an axis by routines: every radix, sizes and strides, against numpy in float64."""
from __future__ import annotations

import numpy as np
import pytest

import treadle
from treadle.ir.builder import Builder
from treadle.ir.dtypes import by_name
from treadle.ir.graph import Graph
from treadle.ir.types import tensor_type
from treadle.passes.fourier import radices, roots
from treadle.passes.program import HostStep
from treadle.runtime import memory, threads
from treadle.runtime.compiled import CompiledPlan, compile_graph
from treadle.runtime.memory import array_of

# (shape, axis): lines that follow each other, one alone, lines side by side, fewer and more than a vector holds.
PLACES: list[tuple[tuple[int, ...], int]] = [
    *[((3, n), 1) for n in (1, 2, 3, 4, 5, 7, 8, 9, 16, 20, 30, 49, 64, 105, 128, 256, 400, 1000, 2048)], ((1, 512), 1), ((2, 12, 1), 1),
    *[((2, n, 19), 1) for n in (1, 2, 6, 15, 28, 32)], ((12, 3), 0), ((24, 50), 0), ((2, 10, 16), 1), ((2, 10, 32), 1)]
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


def planned(kind: str, shape: tuple[int, ...], dim: int, size: int, forward: bool, dtype: str) -> tuple[CompiledPlan, Graph]:
    b = Builder(Graph("test"))
    x = b.input(tensor_type(shape, by_name(dtype)))
    b.graph.outputs = [b.fft_lines(x, kind, dim, size, forward, 0.5)]
    return compile_graph(b.graph), b.graph


def run(plan: CompiledPlan, graph: Graph, array: np.ndarray) -> np.ndarray:
    results = plan.run([memory.from_numpy(np.ascontiguousarray(array))], [])
    assert results is not None
    return array_of(results[0], graph.outputs[0].type)


def check(kind: str, array: np.ndarray, want: np.ndarray, dim: int, size: int, forward: bool, dtype: str) -> None:
    """`array` and `want` complex or real, in float64."""
    def pairs(z: np.ndarray) -> np.ndarray:
        return np.stack([z.real, z.imag], -1) if z.dtype.kind == "c" else z
    plan, graph = planned(kind, pairs(array).shape, dim, size, forward, dtype)
    assert not any(isinstance(s, HostStep) for s in plan.program.steps)
    got = run(plan, graph, pairs(array).astype(dtype))
    np.testing.assert_allclose(got, 0.5 * pairs(want), rtol=0, atol=TOLERANCE[dtype] * max(np.abs(want).max(), 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "dim"), PLACES)
def test_lines(shape: tuple[int, ...], dim: int, dtype: str) -> None:
    rng, n = np.random.default_rng(0), shape[dim]
    re, im = rng.standard_normal((2, *shape))
    z = (re + 1j * im).astype("complex64").astype(complex)
    check("c2c", z, np.fft.fft(z, axis=dim), dim, n, True, dtype)
    check("c2c", z, np.fft.ifft(z, axis=dim, norm="forward"), dim, n, False, dtype)
    check("r2c", z.real, np.fft.rfft(z.real, axis=dim), dim, n, True, dtype)
    for size in (2 * n - 2, 2 * n - 1):
        if size and radices(size) is not None:  # parts that should not be there, of what must be real, count for nothing
            check("c2r", z, np.fft.irfft(z, size, dim, "forward"), dim, size, False, dtype)


@pytest.mark.parametrize(("kind", "shape", "size"), [("c2c", (2, 11, 2), 11), ("r2c", (2, 22), 22), ("c2r", (2, 7, 2), 13)])
def test_other_sizes_are_left_to_numpy(kind: str, shape: tuple[int, ...], size: int) -> None:
    plan, graph = planned(kind, shape, 1, size, kind == "r2c", "float32")
    assert any(isinstance(s, HostStep) for s in plan.program.steps)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    z = x if kind == "r2c" else x[..., 0] + 1j * x[..., 1]
    want = np.fft.ifft(z, norm="forward") if kind == "c2c" else np.fft.rfft(z) if kind == "r2c" else np.fft.irfft(z, size, norm="forward")
    got = run(plan, graph, x)
    np.testing.assert_allclose(got if kind == "c2r" else got[..., 0] + 1j * got[..., 1], 0.5 * want, atol=1e-5)


def test_radices() -> None:
    assert radices(1) == () and radices(1024) == (8, 8, 8, 2) and radices(400) == (8, 2, 5, 5) and radices(22) is None
    assert all(np.prod(found) == n for n in range(1, 500) for found in [radices(n)] if found is not None)
    table = roots((4, 3), by_name("float64"))
    assert table.shape == (3 * 3 * 2 + 2 * 1 * 2,)
    np.testing.assert_allclose(table[:3] + 1j * table[3:6], np.exp(-2j * np.pi * np.arange(3) / 12), atol=1e-15)


@pytest.mark.parametrize(("kind", "shape", "dim"), [("c2c", (301, 64, 2), 1), ("r2c", (301, 64), 1), ("c2c", (3, 64, 500, 2), 1)])
def test_the_same_bits_however_many_threads(kind: str, shape: tuple[int, ...], dim: int) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    found = []
    before = threads.num_threads()
    try:
        for count in (1, 2, 3):
            threads.set_num_threads(count)
            plan, graph = planned(kind, shape, dim, 64, True, "float32")
            found.append(run(plan, graph, x).tobytes())
    finally:
        threads.set_num_threads(before)
    assert len(set(found)) == 1


def test_several_axes_and_norms_compiled() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((4, 6, 10)), rng.standard_normal((4, 6, 10)) + 1j * rng.standard_normal((4, 6, 10))
    for norm in ("backward", "ortho", "forward"):
        for name, array, options in (("fftn", z, {}), ("ifftn", z, {"axes": (2, 0)}), ("rfftn", x, {"axes": (0, 1)}), ("irfftn", z, {})):
            given = treadle.tensor(array.astype("complex64" if array.dtype.kind == "c" else "float32"))
            for _ in range(3):
                got = getattr(treadle.fft, name)(given, norm=norm, dim=options.get("axes")).numpy()
            want = getattr(np.fft, name)(array, norm=norm, **options)
            np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
