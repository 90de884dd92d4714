"""Scans, scatters and sorts on the simulated device."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_runner import driver, run_on_device  # noqa: F401

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.types import tensor_type

pytestmark = pytest.mark.usefixtures("driver")
RNG = np.random.default_rng(5)


def check(build: Any, arrays: list[np.ndarray], rtol: float = 1e-5, native: bool = True) -> list[str]:
    b = Builder(Graph("routine"))
    values = [b.input(tensor_type(a.shape, dtypes.from_numpy(a.dtype))) for a in arrays]
    made = build(b, *values)
    b.graph.outputs = list(made) if isinstance(made, tuple) else [made]
    found, labels = run_on_device(b.graph, arrays)
    assert found is not None and native is not any("host" in label for label in labels), labels
    for want, got in zip(run(b.graph, arrays), found, strict=True):
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=rtol)
    return labels


def numbers(shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    values = RNG.integers(-4, 5, shape) if dtype.category != dtypes.FLOAT else RNG.standard_normal(shape)
    return np.abs(values).astype(dtype.np) if not dtype.signed else values.astype(dtype.np)


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64, dtypes.int32, dtypes.int64, dtypes.float16])
@pytest.mark.parametrize("op", ["cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"])
def test_scans(op: str, dtype: DType) -> None:
    if op == "logcumsumexp" and dtype.category != dtypes.FLOAT:
        pytest.skip("floats only")
    rtol = 2e-3 if dtype is dtypes.float16 else 1e-4
    scale = np.asarray(0.1 if op == "cumprod" and dtype.category == dtypes.FLOAT else 1, dtype.np)
    for shape, dim in (((3, 7), 1), ((2, 700), 1), ((5, 40), 0), ((2, 9, 33), 1)):
        check(lambda b, x, dim=dim: getattr(b, op)(x, dim), [numbers(shape, dtype) * scale], rtol)


def test_long_rows_go_in_blocks() -> None:
    labels = check(lambda b, x: b.cumsum(x, 0), [numbers((40_000,), dtypes.int32)])
    assert len(labels) == 2


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.int32, dtypes.int64, dtypes.float64])
@pytest.mark.parametrize("reduce", ["set", "add", "prod", "amax", "amin"])
def test_scatter_rows(reduce: str, dtype: DType) -> None:
    for rows, inner, count in ((9, 5, 40), (50, 1, 300), (4, 300, 3), (3, 2, 1)):
        place = RNG.integers(-rows, rows, count)
        src = np.round(numbers((count, inner), dtype))  # sums of whole numbers are exact in any order
        check(lambda b, x, p, s: b.scatter_rows(x, p, s, reduce), [np.round(numbers((rows, inner), dtype)), place, src])
        check(lambda b, x, p, s: b.scatter_rows(x, p, s, reduce), [np.round(numbers((rows, inner), dtype)), place, src[:1, :1].reshape(1)])


def test_narrow_elements_are_combined_on_the_host() -> None:
    place = RNG.integers(0, 5, 9)
    arrays = [numbers((5, 2), dtypes.int8), place, numbers((9, 2), dtypes.int8)]
    check(lambda b, x, p, s: b.scatter_rows(x, p, s, "add"), arrays, native=False)
    check(lambda b, x, p, s: b.scatter_rows(x, p, s, "set"), arrays)


def test_a_row_out_of_range_is_a_fault() -> None:
    b = Builder(Graph("bad"))
    values = [b.input(tensor_type(s, d)) for s, d in (((5, 2), dtypes.float32), ((3,), dtypes.int64), ((3, 2), dtypes.float32))]
    b.graph.outputs = [b.scatter_rows(*values, "add")]
    found, _ = run_on_device(b.graph, [np.zeros((5, 2), np.float32), np.array([1, 7, 2]), np.zeros((3, 2), np.float32)])
    assert found is None


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64, dtypes.int64, dtypes.int8, dtypes.float16, dtypes.bool_])
@pytest.mark.parametrize("descending", [False, True])
def test_sorts(descending: bool, dtype: DType) -> None:
    for shape in ((3, 1), (4, 7), (2, 64), (2, 300), (1, 1500)):
        x = numbers(shape, dtype)
        if dtype.category == dtypes.FLOAT:
            x = np.round(x, 1)
            x[0, 0] = np.nan
        check(lambda b, x: b.sort(x, 1, descending, True), [x])
        few = min(5, shape[1])
        check(lambda b, x, few=few: b.topk(x, few, 1, descending, True), [x])


def test_long_rows_are_sorted_on_the_host() -> None:
    check(lambda b, x: b.sort(x, 1, False, True), [numbers((1, 20_000), dtypes.float32)], native=False)
