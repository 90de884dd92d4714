"""Sort, topk and the prefix ops: order of ties and of NaN, dtypes, gradients; the oracle tests compare with PyTorch."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from op_cases import build, check_gradients, float_inputs, gradient_graph, random_array

import treadle
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.interpreter import DataError, run
from treadle.ir.op import TABLE
from treadle.ir.types import tensor_type
from treadle.runtime import memory
from treadle.runtime.compiled import compile_graph

NAN, INF = np.nan, np.inf
PREFIX = ["cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"]


def call(name: str, x: np.ndarray, *attrs: Any) -> list[np.ndarray]:
    graph, arrays = build(TABLE[name], ((x,), attrs), dtypes.float32)
    return run(graph, arrays)


# -- sort and topk ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("descending", "values", "indices"), [
    (False, [-INF, 0, 1, 1, INF, NAN, NAN], [5, 4, 0, 2, 6, 1, 3]), (True, [NAN, NAN, INF, 1, 1, 0, -INF], [1, 3, 6, 0, 2, 4, 5])])
def test_sort_is_stable_and_nan_is_largest(descending: bool, values: list, indices: list) -> None:
    x = np.array([1, NAN, 1, NAN, 0, -INF, INF])
    for dtype in dtypes.FLOATS:
        found = call("sort", x.astype(dtype.np), 0, descending, True)
        np.testing.assert_array_equal(found[0].astype(np.float64), values)
        np.testing.assert_array_equal(found[1], indices)


@pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if not d.is_complex])
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("descending", [False, True])
def test_sort_every_dtype_and_axis(dtype: dtypes.DType, dim: int, descending: bool) -> None:
    x = random_array((3, 40, 4), dtype, np.random.default_rng(0))
    values, indices = call("sort", x, dim, descending, True)
    expected = np.sort(x.astype(np.float64), axis=dim)
    np.testing.assert_array_equal(values.astype(np.float64), np.flip(expected, dim) if descending else expected)
    np.testing.assert_array_equal(np.take_along_axis(x, indices, dim), values)
    assert (np.diff(indices, axis=dim)[np.diff(values.astype(np.float64), axis=dim) == 0] > 0).all()


@pytest.mark.parametrize("k", [0, 1, 3, 39, 40])
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_topk_begins_the_sort(k: int, largest: bool, dim: int) -> None:
    x = np.random.default_rng(0).normal(size=(40, 41)).astype(np.float32)
    x[7, 3] = x[2, 30] = NAN
    values, indices = call("topk", x, k, dim, largest, True)
    expected = call("sort", x, dim, largest, True)
    np.testing.assert_array_equal(values, np.take(expected[0], np.arange(k), dim))
    np.testing.assert_array_equal(indices, np.take(expected[1], np.arange(k), dim))


def test_topk_orders_equal_elements_by_index() -> None:
    x = np.array([[0, 5, 5, 0, 5, 9] + [0] * 40])
    for attrs in ((4, 1, True, True), (8, 1, True, True)):
        values, indices = call("topk", x, *attrs)
        np.testing.assert_array_equal(values[0, :4], [9, 5, 5, 5])
        np.testing.assert_array_equal(indices[0, :4], [5, 1, 2, 4])


@pytest.mark.parametrize(("name", "shape", "attrs", "error", "text"), [
    ("topk", (3, 4), (5, 1, True, True), RuntimeError,
     r"topk: selected index k out of range \(k is 5, dimension 1 of shape \[3, 4\] has 4 elements"),
    ("topk", (3, 4), (-1, 1, True, True), RuntimeError, "selected index k out of range"),
    ("sort", (3, 4), (2, False, True), IndexError, r"sort: .*\(expected to be in range of \[-2, 1\], but got 2"),
    ("cumsum", (3,), (1,), IndexError, "cumsum: Dimension out of range"),
    ("cummax", (3,), (1,), IndexError, "cummax: Dimension out of range"),
])
def test_mistakes(name: str, shape: tuple, attrs: tuple, error: type[Exception], text: str) -> None:
    b = Builder()
    with pytest.raises(error, match=text):
        b.apply(TABLE[name], (b.input(tensor_type(shape, dtypes.float32)),), attrs)


# -- prefix ops --------------------------------------------------------------------------------------------------------------
def test_running_sums_and_products() -> None:
    np.testing.assert_array_equal(call("cumsum", np.array([True, True, False]), 0)[0], [1, 2, 2])
    found, = call("cumprod", np.array([100, 100, 2], np.int8), 0)
    assert found.dtype == np.int64 and found.tolist() == [100, 10000, 20000]
    halves, = call("cumsum", np.full(5000, 0.1, np.float16), 0)  # a float16 accumulator would stay at 256
    np.testing.assert_allclose(halves[-1], 500, rtol=1e-3)
    with pytest.raises(NotImplementedError, match="\"logcumsumexp\" not implemented for 'Long'"):
        call("logcumsumexp", np.array([1, 2]), 0)


def test_running_extremes() -> None:
    x = np.array([1.0, 3, 3, 2, NAN, 5, NAN, 7], np.float32)
    values, indices = call("cummax", x, 0)
    np.testing.assert_array_equal(values, [1, 3, 3, 3, NAN, NAN, NAN, NAN])
    np.testing.assert_array_equal(indices, [0, 1, 2, 2, 4, 4, 6, 6])
    values, indices = call("cummin", x[:4].astype(dtypes.bfloat16.np), 0)
    np.testing.assert_array_equal(indices, [0, 0, 0, 0])


def test_logcumsumexp_keeps_terms_far_below_the_maximum() -> None:
    np.testing.assert_allclose(call("logcumsumexp", np.array([-1000.0, 0.0, 1000.0]), 0)[0], [-1000, 0, 1000])
    np.testing.assert_array_equal(call("logcumsumexp", np.array([-INF, -INF, 2.0, INF]), 0)[0], [-INF, -INF, 2, INF])
    np.testing.assert_allclose(treadle.tensor([-1000.0, 0.0]).logcumsumexp(0).numpy(), [-1000, 0])


def test_logcumsumexp_gradient_of_minus_infinity_is_zero() -> None:
    graph, arrays = build(TABLE["logcumsumexp"], ((np.array([-INF, -800.0, 1.0, 2.0]),), (0,)), dtypes.float64)
    gradient, = run(gradient_graph(graph, [0]), [*arrays, np.array([1.0, 2.0, 3.0, 0.0])])
    np.testing.assert_allclose(gradient, [0, 2, 3, 0])


@pytest.mark.parametrize(("name", "attrs"), [("sort", (1, True, True)), ("topk", (2, 1, True, True)), ("cumprod", (1,)), ("cummax", (1,)),
                                             ("logcumsumexp", (1,))])
def test_second_derivatives(name: str, attrs: tuple) -> None:
    graph, arrays = build(TABLE[name], (((2, 5),), attrs), dtypes.float64)
    first = gradient_graph(graph, float_inputs(graph))
    rng = np.random.default_rng(3)
    check_gradients(first, [*arrays, *[random_array(v.type.shape, dtypes.float64, rng) for v in first.inputs[1:]]], tolerance=5e-6)


# -- beside PyTorch ------------------------------------------------------------------------------------------------------------
def _both(name: str, x: np.ndarray, *args: Any, **kwargs: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Results and the gradient of the first one, ours and PyTorch's."""
    import torch
    found = []
    for library in (treadle, torch):
        t = library.tensor(x)
        if x.dtype.kind == "f":
            t.requires_grad_()
        result = getattr(library, name)(t, *args, **kwargs)
        results = list(result) if isinstance(result, tuple) else [result]
        arrays = [np.asarray(r.detach().numpy()) for r in results]
        if x.dtype.kind == "f":
            (results[0] * library.arange(results[0].numel()).reshape(results[0].shape)).sum().backward()
            arrays.append(np.asarray(t.grad.numpy()))
        found.append(arrays)
    return found[0], found[1]


@pytest.mark.oracle
@pytest.mark.parametrize("name", PREFIX)
@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "bool"])
@pytest.mark.parametrize(("shape", "dim"), [((4, 6), 1), ((4, 6), 0), ((2, 3, 4), -2), ((), 0)])
def test_prefix_ops_equal_pytorch(name: str, kind: str, shape: tuple, dim: int) -> None:
    if name == "logcumsumexp" and "float" not in kind:
        pytest.skip("floating point only")
    x = np.asarray(np.random.default_rng(1).normal(size=shape) * 2).astype(kind)
    if x.ndim == 2:
        x[1, 2] = x[1, 4] = 0
    for got, want in zip(*_both(name, x, dim), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["float32", "int64", "uint8"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(("shape", "dim"), [((4, 50), 1), ((30, 3), 0), ((2, 9, 4), -2), ((), 0)])
def test_sort_and_topk_equal_pytorch(kind: str, descending: bool, shape: tuple, dim: int) -> None:
    x = np.asarray(np.random.default_rng(1).normal(size=shape) * 50).astype(np.int64).astype(kind)
    if kind == "float32":
        x = np.asarray(x + np.random.default_rng(2).uniform(size=shape), np.float32)
    for got, want in zip(*_both("sort", x, dim=dim, descending=descending, stable=True), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    k = min(3, x.shape[dim]) if x.ndim else 1
    ours, theirs = _both("topk", x, k, dim=dim, largest=descending)
    np.testing.assert_array_equal(ours[0], theirs[0])
    if kind == "float32":  # no ties: PyTorch leaves their order open
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[2], theirs[2])


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8, 100, 1000])
def test_places_among_sorted_elements(n: int, right: bool) -> None:
    rng, side = np.random.default_rng(n), "right" if right else "left"
    whole, wanted = np.sort(rng.integers(-20, 20, (3, n))), rng.integers(-22, 22, (3, 40))
    real, sought = np.sort(whole.astype(np.float32) / 2), wanted.astype(np.float32) / 2
    if n > 2:
        real[:, -2:], sought[:, 0] = np.nan, np.nan
    for rows, values in ((whole, wanted), (real, sought)):
        x, y = treadle.tensor(rows), treadle.tensor(values)
        want = np.stack([np.searchsorted(r, v, side) for r, v in zip(rows, values, strict=True)])
        order = rng.permuted(np.tile(np.arange(n), (3, 1)), axis=1)
        mixed = np.take_along_axis(rows, order, 1)
        for _ in range(3):  # interpreted and compiled
            assert treadle.searchsorted(x, y, right=right).tolist() == want.tolist()
            flat = treadle.searchsorted(x[0], y, side=side, out_int32=True)
            assert flat.dtype is treadle.int32 and flat.tolist() == np.searchsorted(rows[0], values, side).tolist()
            back = treadle.searchsorted(treadle.tensor(mixed), y, right=right, sorter=treadle.tensor(np.argsort(order, 1)))
            assert back.tolist() == want.tolist()


@pytest.mark.parametrize(("n", "high"), [(1, 1), (1000, 7), (100000, 1000), (200000, 3), (70000, 69999), (50000, 1)])
def test_counts(n: int, high: int) -> None:
    rng = np.random.default_rng(n)
    for dtype in (np.int64, np.uint8) if high < 256 else (np.int64,):
        x = rng.integers(0, high, n).astype(dtype)
        for _ in range(3):
            assert treadle.bincount(treadle.tensor(x)).tolist() == np.bincount(x).tolist()
            assert treadle.bincount(treadle.tensor(x), minlength=high + 5).tolist() == np.bincount(x, minlength=high + 5).tolist()
    for wrong in ([-1, 2], [[1, 2]]):
        with pytest.raises(RuntimeError, match="1-d non-negative"):
            treadle.bincount(treadle.tensor(wrong))


def test_counts_out_of_range_are_reported() -> None:
    b = Builder()
    x = b.input(tensor_type((40000,), dtypes.int64))
    b.graph.outputs = [b.bincount(x, 10)]
    for bad in (10, -11):
        numbers = np.zeros(40000, np.int64)
        numbers[39000] = bad
        plan = compile_graph(b.graph)
        assert plan.run([memory.from_numpy(numbers)], []) is None
        with pytest.raises(DataError, match=f"index {bad} is out of bounds"):
            run(b.graph, [numbers])


@pytest.mark.parametrize("kind", ["near", "far", "negative", "float32", "nan", "bool", "uint8", "uint64", "float16", "one"])
def test_distinct_elements(kind: str) -> None:
    rng = np.random.default_rng(0)
    x: Any = {"near": rng.integers(0, 50, (30, 40)), "far": rng.integers(-1 << 60, 1 << 60, 500).repeat(2), "one": np.array(7),
              "negative": rng.integers(-300, 3, 4000), "float32": rng.integers(-9, 9, 999).astype(np.float32) / 2,
              "nan": np.array([1.0, np.nan, -np.inf, np.nan, 1.0, -0.0, 0.0]), "bool": rng.integers(0, 2, 99).astype(bool),
              "uint8": rng.integers(0, 255, 999).astype(np.uint8), "uint64": rng.integers(0, 9, 99).astype(np.uint64) + (1 << 63),
              "float16": rng.integers(0, 9, 99).astype(np.float16)}[kind]
    for _ in range(3):
        values, inverse, counts = treadle.unique(treadle.tensor(x), return_inverse=True, return_counts=True)
        want, back, often = np.unique(x, return_inverse=True, return_counts=True, equal_nan=False)
        assert values.dtype is treadle.tensor(x).dtype and inverse.shape == x.shape
        np.testing.assert_array_equal(values.numpy(), want)
        np.testing.assert_array_equal(counts.numpy(), often)
        if kind != "nan":
            np.testing.assert_array_equal(inverse.numpy(), back.reshape(x.shape))
        np.testing.assert_array_equal(values.numpy()[inverse.numpy()], x)
        np.testing.assert_array_equal(treadle.unique(treadle.tensor(x)).numpy(), want)
