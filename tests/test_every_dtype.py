"""Every op of the table compiled, in other types than float32 and on views of its operands: on the CPU and on the simulated device.

Each sample meets a few of the types that it takes, in turn, so that every op meets all of them over its samples and neighbours.
"""
from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from cuda_runner import driver, run_on_device  # noqa: F401
from op_cases import CASES, build, samples_of

from treadle.ir import dtypes
from treadle.ir.autodiff import replay
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Value
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE, Kind
from treadle.ir.types import tensor_type
from treadle.runtime import compiled, memory

pytestmark = pytest.mark.targets
COUNT = 1  # types for each sample
TOLERANCE = {dtypes.float64: 1e-7, dtypes.float32: 2e-4, dtypes.float16: 1e-2, dtypes.bfloat16: 6e-2}


def viewed(graph: Graph, arrays: list[np.ndarray], kind: int) -> tuple[Graph, list[np.ndarray]]:
    """The graph on inputs that are views: transposed, or every other element of something longer."""
    b = Builder(Graph(graph.name))
    env: dict[Value, Value] = {}
    given = []
    for value, array in zip(graph.inputs, arrays, strict=True):
        axes = tuple(range(array.ndim))
        if value.type.weak or not axes:
            env[value] = b.input(value.type)
        elif kind == 0:
            array = np.ascontiguousarray(array.transpose())
            env[value] = b.permute(b.input(tensor_type(array.shape, value.dtype)), axes[::-1])
        else:
            long = np.zeros((*array.shape[:-1], 2 * array.shape[-1] + 1), array.dtype)
            long[..., 1::2] = array
            whole = b.input(tensor_type(long.shape, value.dtype))
            env[value] = b.slice(whole, (*[0] * (array.ndim - 1), 1), long.shape, (*[1] * (array.ndim - 1), 2))
            array = long
        given.append(array)
    replay(b, graph, env)
    b.graph.outputs = [env[v] for v in graph.outputs]
    return b.graph, given


def taken(name: str, which: int) -> list[tuple[dtypes.DType, Graph, list[np.ndarray]]]:
    """The sample in the types whose turn it is."""
    found = []
    for dtype in dtypes.ALL:
        if dtype is dtypes.float32:
            continue
        try:
            graph, arrays = build(TABLE[name], samples_of(TABLE[name])[which], dtype)
        except (RuntimeError, TypeError, IndexError, ValueError):
            continue
        if all(v.type.dtype.category != dtypes.COMPLEX for v in (*graph.inputs, *graph.outputs)):  # they have tests of their own
            found.append((dtype, graph, arrays))
    start = zlib.crc32(f"{name}{which}".encode())
    return [found[(start + i) % len(found)] for i in range(min(COUNT, len(found)))]


def on_cpu(graph: Graph, arrays: list[np.ndarray]) -> list[np.ndarray] | None:
    plan = compiled.compile_graph(graph)
    buffers = [memory.from_numpy(np.ascontiguousarray(a)) for a, v in zip(arrays, graph.inputs, strict=True) if not v.type.weak]
    numbers = [a.item() for a, v in zip(arrays, graph.inputs, strict=True) if v.type.weak]
    found = plan.run(buffers, numbers)
    return None if found is None else [memory.array_of(b, v.type) for b, v in zip(found, graph.outputs, strict=True)]


@pytest.mark.parametrize(("name", "which"), CASES)
def test_cpu(name: str, which: int) -> None:
    check(name, which, on_cpu)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("name", "which"), CASES)
def test_device(name: str, which: int) -> None:
    check(name, which, lambda graph, arrays: run_on_device(graph, arrays)[0])


def check(name: str, which: int, compute: Callable[[Graph, list[np.ndarray]], list[np.ndarray] | None]) -> None:
    for turn, (dtype, plain, numbers) in enumerate(taken(name, which)):
        graph, arrays = (plain, numbers) if TABLE[name].kind is Kind.CONTROL else viewed(plain, numbers, turn % 2)
        with np.errstate(all="ignore"):
            expected = run(graph, arrays)
        found = compute(graph, arrays)
        assert found is not None, "a kernel reported a fault"
        for want, got in zip(expected, found, strict=True):
            assert want.dtype == got.dtype and want.shape == got.shape
            if want.dtype.kind in "iub":
                np.testing.assert_array_equal(got, want, err_msg=dtype.name)
                continue
            tolerance, wide = TOLERANCE[dtypes.from_numpy(want.dtype)], want.astype(np.float64)
            size = float(np.abs(wide[np.isfinite(wide)]).max(initial=1.0))
            np.testing.assert_allclose(got.astype(np.float64), wide, rtol=tolerance, atol=tolerance * size, err_msg=dtype.name)
