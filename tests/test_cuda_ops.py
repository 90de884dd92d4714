"""Every op of the table, forward and backward, on the simulated device against the interpreter."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_runner import driver, run_on_device  # noqa: F401
from op_cases import CASES, GRADIENT_CASES, build, float_inputs, gradient_graph, random_array, samples_of
from test_lower_fuzz import random_program

from treadle.ir import dtypes
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE

pytestmark = pytest.mark.usefixtures("driver")


def compare(graph: Graph, arrays: list[np.ndarray], rtol: float = 1e-4, atol: float = 1e-5) -> list[str]:
    """The device equals the interpreter; its launches."""
    with np.errstate(all="ignore"):
        expected = run(graph, arrays)
    found, labels = run_on_device(graph, arrays)
    assert found is not None, "a kernel reported a fault"
    for want, got in zip(expected, found, strict=True):
        assert want.dtype == got.dtype and want.shape == got.shape
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
        else:
            wide = np.complex128 if want.dtype.kind == "c" else np.float64
            np.testing.assert_allclose(np.asarray(got, wide), np.asarray(want, wide), rtol=rtol, atol=atol)
    return labels


def first_build(name: str, which: int, accepted: tuple[Any, ...]) -> tuple[Graph, list[np.ndarray]]:
    """The sample in the first dtype that suits it."""
    op = TABLE[name]
    for dtype in accepted:
        try:
            return build(op, samples_of(op)[which], dtype)
        except (RuntimeError, TypeError, IndexError, ValueError):
            continue
    raise AssertionError(f"no dtype suits sample {which} of {name}")


@pytest.mark.parametrize(("name", "which"), CASES)
def test_forward(name: str, which: int) -> None:
    compare(*first_build(name, which, (dtypes.float32, *dtypes.ALL)))


@pytest.mark.targets
@pytest.mark.parametrize(("name", "which"), GRADIENT_CASES)
def test_gradients(name: str, which: int) -> None:
    try:
        graph, arrays = build(TABLE[name], samples_of(TABLE[name])[which], dtypes.float32)
    except (RuntimeError, TypeError, IndexError, ValueError):
        graph, arrays = build(TABLE[name], samples_of(TABLE[name])[which], dtypes.float64)
    rng = np.random.default_rng(1)
    weights = [random_array(o.type.shape, o.type.dtype, rng) for o in graph.outputs if o.type.dtype.category >= dtypes.FLOAT]
    compare(gradient_graph(graph, float_inputs(graph)), [*arrays, *weights], 1e-3, 1e-4)


@pytest.mark.parametrize("block", range(4))
def test_random_programs(block: int) -> None:
    for seed in range(block * 15, block * 15 + 15):
        compare(*random_program(seed), rtol=2e-3, atol=2e-3)
