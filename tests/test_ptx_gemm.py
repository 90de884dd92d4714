"""Matrix products on the simulated device: layouts, tails, batches, epilogues, tensor cores."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_runner import driver, run_on_device  # noqa: F401

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.types import tensor_type

pytestmark = pytest.mark.usefixtures("driver")


def numbers(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def check(build: Any, arrays: list[np.ndarray], rtol: float = 1e-4, launches: int = 1) -> None:
    b = Builder(Graph("product"))
    values = [b.input(tensor_type(a.shape, dtypes.from_numpy(a.dtype))) for a in arrays]
    b.graph.outputs = [build(b, *values)]
    want, = run(b.graph, arrays)
    found, labels = run_on_device(b.graph, arrays)
    assert found is not None and len(labels) == launches and not any("host" in label for label in labels), labels
    np.testing.assert_allclose(found[0].astype(np.float64), want.astype(np.float64), rtol=rtol, atol=rtol * 10)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (5, 3, 7), (64, 64, 16), (65, 67, 33), (130, 40, 9), (3, 200, 100), (16, 64, 20)])
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_layouts_and_tails(m: int, n: int, k: int, layout: str) -> None:
    def product(b: Any, x: Any, y: Any) -> Any:
        x = b.permute(x, (1, 0)) if layout[0] == "t" else x
        y = b.permute(y, (1, 0)) if layout[1] == "t" else y
        return b.matmul(x, y)
    a = numbers((k, m) if layout[0] == "t" else (m, k))
    c = numbers((n, k) if layout[1] == "t" else (k, n), seed=1)
    check(product, [a, c])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches(dtype: Any) -> None:
    check(lambda b, x, y: b.matmul(x, y), [numbers((3, 2, 20, 30), dtype), numbers((3, 2, 30, 10), dtype)])
    check(lambda b, x, y: b.matmul(x, y), [numbers((5, 7, 8), dtype), numbers((1, 8, 9), dtype)])
    check(lambda b, x, y: b.matmul(x, b.permute(y, (0, 2, 1))), [numbers((4, 20, 8), dtype), numbers((4, 33, 8), dtype)])


def test_large_tiles() -> None:
    check(lambda b, x, y: b.matmul(x, y), [numbers((1030, 12)), numbers((12, 1025))])


def test_epilogues_are_joined() -> None:
    check(lambda b, x, y, z: b.relu(b.add(b.matmul(x, y), z)), [numbers((70, 20)), numbers((20, 50)), numbers((50,))])
    check(lambda b, x, y, z: b.tanh(b.mul(b.matmul(x, y), z)), [numbers((3, 20, 10)), numbers((3, 10, 25)), numbers((3, 20, 1))])


@pytest.mark.parametrize(("m", "n", "k"), [(16, 8, 16), (128, 128, 64), (130, 129, 40), (33, 70, 24), (5, 3, 6), (7, 140, 100)])
def test_tensor_cores(m: int, n: int, k: int) -> None:
    half = ml_dtypes.bfloat16
    check(lambda b, x, y: b.bfloat16_matmul(x, y), [numbers((m, k), half), numbers((n, k), half)], 2e-3)


def test_tensor_cores_in_batches_with_epilogue() -> None:
    half = ml_dtypes.bfloat16
    check(lambda b, x, y, z: b.relu(b.add(b.bfloat16_matmul(x, y), z)),
          [numbers((2, 40, 64), half), numbers((2, 50, 64), half), numbers((50,))], 2e-3)


@pytest.mark.parametrize("which", ["x", "y", "xy"])
def test_tensor_cores_get_operands_that_lie_along_k(which: str) -> None:
    """What is contiguous the other way is copied first."""
    half = ml_dtypes.bfloat16

    def product(b: Any, x: Any, y: Any) -> Any:
        return b.bfloat16_matmul(*[b.permute(v, (1, 0)) if name in which else v for name, v in (("x", x), ("y", y))])
    shapes = [(24, 40) if "x" in which else (40, 24), (24, 50) if "y" in which else (50, 24)]
    check(product, [numbers(s, half, i) for i, s in enumerate(shapes)], 2e-3, launches=2 if len(which) == 1 else 1 + len(which))


def test_no_sums_at_all() -> None:
    check(lambda b, x, y: b.matmul(x, y), [numbers((4, 0)), numbers((0, 3))])
