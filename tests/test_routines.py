"""Routines (scan, sort, topk, scatter) against the references: dtypes, shapes, special values, faults, thread counts."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16)
import numpy as np
import pytest

import treadle.ir.ops  # noqa: F401  (declares the op table)
from treadle.codegen import jit
from treadle.ir import dtypes, interpreter
from treadle.ir.builder import Builder
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph
from treadle.ir.op import TABLE
from treadle.ir.routine import print_routine
from treadle.ir.types import tensor_type
from treadle.passes import routines
from treadle.passes.program import HostStep, RoutineStep
from treadle.runtime import memory, threads
from treadle.runtime.compiled import CompiledPlan, compile_graph, print_program
from treadle.runtime.memory import array_of

RNG = np.random.default_rng(0)
Arrays = list[np.ndarray]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    global RNG
    RNG = np.random.default_rng(0)
    yield


def plan_of(name: str, arrays: Arrays, *attrs: Any) -> tuple[Graph, CompiledPlan]:
    b = Builder(Graph("test"))
    inputs = [b.input(tensor_type(a.shape, dtypes.by_name(a.dtype.name))) for a in arrays]
    out = getattr(b, name)(*inputs, **dict(zip(TABLE[name].attrs, attrs, strict=True)))
    b.graph.outputs = list(out) if isinstance(out, tuple) else [out]
    plan = compile_graph(b.graph)
    assert not any(isinstance(s, HostStep) for s in plan.program.steps)
    return b.graph, plan


def run(graph: Graph, plan: CompiledPlan, arrays: Arrays) -> Arrays | None:
    results = plan.run([memory.from_numpy(np.array(a)) for a in arrays], [])
    return None if results is None else [array_of(r, v.type) for r, v in zip(results, graph.outputs, strict=True)]


def check(name: str, arrays: Arrays, *attrs: Any, tolerance: float = 1e-4) -> CompiledPlan:
    graph, plan = plan_of(name, arrays, *attrs)
    found = run(graph, plan, arrays)
    assert found is not None
    with np.errstate(all="ignore"):
        expected = interpreter.run(graph, arrays)
    for got, want in zip(found, expected, strict=True):
        if got.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
        else:
            limit = tolerance if got.dtype.itemsize > 2 else 1e-2
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=limit, atol=limit)
    return plan


def values(shape: tuple[int, ...], dtype: DType, special: bool = False) -> np.ndarray:
    """Small numbers with many ties; with `special`, floats hold signed zeros, infinities and NaN as well."""
    if dtype.category != dtypes.FLOAT:
        low = 0 if dtype in (dtypes.uint8, dtypes.bool_) else -100
        return np.asarray(RNG.integers(low, 2 if dtype is dtypes.bool_ else 100, shape)).astype(dtype.np)
    x = np.asarray(RNG.normal(size=shape)).astype(dtype.np)
    if special and x.size > 6:
        x.reshape(-1)[:6] = [-np.inf, 0.0, -0.0, np.nan, np.inf, -np.nan]
        x.reshape(-1)[-1] = np.nan
    return x


def picks(shape: tuple[int, ...], size: int, dtype: Any = np.int64) -> np.ndarray:
    return np.asarray(RNG.integers(-size, size, shape)).astype(dtype)


SCANNED = [((7, 13), 1), ((3, 100, 5), 1), ((70, 33), 0), ((2, 33000), 1), ((40003,), 0), ((), 0), ((5, 1), 1)]


# -- scans ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", dtypes.REALS)
@pytest.mark.parametrize(("shape", "dim"), SCANNED)
def test_scans(shape: tuple[int, ...], dim: int, dtype: DType) -> None:
    x = values(shape, dtype)
    check("cumsum", [x], dim)
    check("cumprod", [(1 + x.astype(np.float64) * 1e-4).astype(x.dtype) if dtype.category == dtypes.FLOAT else x], dim)
    x = values(shape, dtype, special=True)
    check("cummax", [x], dim)
    check("cummin", [x], dim)
    if dtype.category == dtypes.FLOAT and x.size < 5000:
        check("logcumsumexp", [x], dim)


def test_a_scan_runs_inside_a_loop() -> None:
    b = Builder(Graph("body"))
    total, x = b.input(tensor_type((4, 6), dtypes.float32)), b.input(tensor_type((4, 6), dtypes.float32))
    running = b.cumsum(x, 1)
    b.graph.outputs = [b.add(total, running), running]
    outer = Builder(Graph("loop"))
    start, xs = outer.input(tensor_type((4, 6), dtypes.float32)), outer.input(tensor_type((3, 4, 6), dtypes.float32))
    outer.graph.outputs = list(outer.scan(start, xs, body=b.graph, n_carry=1, n_seq=1, length=3, reverse=False))
    plan = compile_graph(outer.graph)
    assert not any(isinstance(s, HostStep) for s in plan.program.steps)
    arrays = [values((4, 6), dtypes.float32), values((3, 4, 6), dtypes.float32)]
    found = run(outer.graph, plan, arrays)
    assert found is not None
    np.testing.assert_allclose(found[0], arrays[0] + np.cumsum(arrays[1], 2).sum(0), rtol=1e-5, atol=1e-5)


# -- sorting -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", dtypes.REALS)
@pytest.mark.parametrize(("shape", "dim"), [*SCANNED, ((2, 2000), 1)])
@pytest.mark.parametrize("descending", [False, True])
def test_sort_and_topk(shape: tuple[int, ...], dim: int, dtype: DType, descending: bool) -> None:
    x = values(shape, dtype, special=True)
    check("sort", [x], dim, descending, True)
    n = shape[dim] if shape else 1
    for k in {1, min(n, 3), min(n, 60), n}:
        check("topk", [x], k, dim, descending, True)


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.int64])
@pytest.mark.parametrize("step", [-1, 0, 1])
def test_topk_of_rows_in_order(dtype: DType, step: int) -> None:
    """Every element, or none, beats those before it."""
    x = (np.arange(3000) * step).reshape(1, -1).astype(dtype.np)
    for largest in (False, True):
        check("topk", [x], 20, 1, largest, True)


def test_sort_in_a_workspace_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routines, "SCRATCH_BYTES", 1000)
    for dtype in (dtypes.float32, dtypes.float64):
        x = values((3, 500), dtype)
        check("sort", [x], 1, False, True)
        check("topk", [x], 40, 1, True, True)


# -- writes --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", dtypes.REALS)
@pytest.mark.parametrize(("shape", "places", "dim"), [
    ((7, 13), (5, 40), 1), ((7, 13), (40, 11), 0), ((4, 3, 5), (3, 9, 5), 1), ((50,), (200,), 0), ((1, 50), (1, 70), 1), ((), (), 0),
    ((4, 5), (4, 0), 1)])
def test_scatter(shape: tuple[int, ...], places: tuple[int, ...], dim: int, dtype: DType) -> None:
    index = picks(places, shape[dim] if shape else 1)
    x, src = values(shape, dtype), values(places, dtype)
    check("scatter", [x, index, src], dim)
    check("scatter", [x, index.astype(np.int32), values((), dtype)], dim)
    check("scatter_add", [x, index, src], dim)
    for reduce in ("prod", "amax", "amin") if dtype is not dtypes.bool_ else ():
        for include_self in (True, False):
            check("scatter_reduce", [x, index, src], dim, reduce, include_self, tolerance=1e-3)


@pytest.mark.parametrize("dtype", dtypes.REALS)
@pytest.mark.parametrize(("shape", "count", "dim"), [((7, 13), 5, 1), ((7, 13), 40, 0), ((40, 200), 90, 0), ((4, 30, 130), 77, 1),
                                                    ((50,), 200, 0)])
def test_writes_to_slices(shape: tuple[int, ...], count: int, dim: int, dtype: DType) -> None:
    index, x = picks((count,), shape[dim]), values(shape, dtype)
    src = values((*shape[:dim], count, *shape[dim + 1:]), dtype)
    check("index_add", [x, index, src], dim)
    check("index_copy", [x, index, src], dim)
    check("index_copy", [x, index, values((), dtype)], dim)


@pytest.mark.parametrize("dtype", dtypes.REALS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_index_put(dtype: DType, accumulate: bool) -> None:
    x, rows, columns = values((6, 7, 8), dtype), picks((5, 1), 6), picks((4,), 7)
    check("index_put", [x, values((5, 7, 8), dtype), picks((5,), 6)], (0,), accumulate, tolerance=1e-3)
    check("index_put", [x, values((8,), dtype), rows, columns], (0, 1), accumulate, tolerance=1e-3)
    check("index_put", [x, values((5, 4, 7), dtype), rows, picks((4,), 8)], (0, 2), accumulate, tolerance=1e-3)
    check("index_put", [x, values((1,), dtype), rows, columns], (1, 2), accumulate, tolerance=1e-3)


@pytest.mark.parametrize("bad", [4, -5, 1 << 40])
def test_a_place_out_of_range_is_a_fault(bad: int) -> None:
    x, src = values((4, 3), dtypes.float32), values((5, 3), dtypes.float32)
    index = np.array([0, 1, bad, 3, 2])
    calls: list[Callable[[], tuple[Graph, CompiledPlan]]] = [
        lambda: plan_of("index_add", [x, index, src], 0), lambda: plan_of("index_put", [x, src, index], (0,), False),
        lambda: plan_of("scatter", [x, np.repeat(index[:, None], 3, 1), src], 0)]
    for made, arrays in zip(calls, ([x, index, src], [x, src, index], [x, np.repeat(index[:, None], 3, 1), src]), strict=True):
        graph, plan = made()
        assert run(graph, plan, arrays) is None


def test_each_axis_has_its_own_bounds() -> None:
    """(0, 5) would be a place of the flattened array, and is out of range all the same."""
    x, one = values((3, 4), dtypes.float32), values((1,), dtypes.float32)
    arrays = [x, one, np.array([0]), np.array([5])]
    graph, plan = plan_of("index_put", arrays, (0, 1), False)
    assert run(graph, plan, arrays) is None


def test_strided_writes_and_products_of_booleans_are_kernels() -> None:
    check("slice_scatter", [values((9, 20), dtypes.float32), values((3, 5), dtypes.float32)], (1, 2), (9, 20), (3, 4))
    check("matmul", [values((9, 20), dtypes.bool_), values((20, 5), dtypes.bool_)])
    check("matmul", [values((9, 1), dtypes.bool_), values((1, 5), dtypes.bool_)])


# -- what all share ----------------------------------------------------------------------------------------------------------
def test_the_same_bits_with_any_number_of_threads() -> None:
    before = threads.num_threads()
    cases = [("cumsum", [values((200_000,), dtypes.float32)], (0,)), ("cumsum", [values((300, 700), dtypes.float32)], (0,)),
             ("index_add", [values((50, 512), dtypes.float32), picks((900,), 50), values((900, 512), dtypes.float32)], (0,)),
             ("sort", [values((300, 700), dtypes.float32)], (1, False, True))]
    try:
        for name, arrays, attrs in cases:
            graph, plan = plan_of(name, arrays, *attrs)
            found = []
            for n in (1, 2, 5):
                threads.set_num_threads(n)
                result = run(graph, plan, arrays)
                assert result is not None
                found.append([a.tobytes() for a in result])
            assert found[0] == found[1] == found[2]
    finally:
        threads.set_num_threads(before)


def test_a_new_size_compiles_nothing() -> None:
    def cases(n: int) -> None:
        check("cumsum", [values((n, 17), dtypes.float32)], 0)
        check("cumsum", [values((2, n), dtypes.float32)], 1)
        check("sort", [values((3, n), dtypes.float32)], 1, False, True)
        check("topk", [values((3, n), dtypes.float32)], 7, 1, True, True)
        check("index_add", [values((n, 20), dtypes.float32), picks((5,), n), values((5, 20), dtypes.float32)], 0)
        check("scatter_add", [values((n, 20), dtypes.float32), picks((5, 20), n), values((5, 20), dtypes.float32)], 0)
    cases(30)
    before = jit.stats["llvm_compiles"] + jit.stats["object_cache_hits"]
    for n in (31, 500, 40_000):
        cases(n)
    assert jit.stats["llvm_compiles"] + jit.stats["object_cache_hits"] == before


def test_plans_show_their_routines() -> None:
    x = values((3, 5), dtypes.float32)
    plan = check("sort", [x], 1, True, True)
    step = plan.program.steps[0]
    assert isinstance(step, RoutineStep)
    assert print_routine(step.routine) == ("routine @routine: sort float32 -> float32 descending "
                                           "(error, x, values, index, n, workspace, workspace_step)")
    assert "k0 (sort) units 3  b0 b1 b2" in print_program(plan.program)
