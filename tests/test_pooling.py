"""Pooling against PyTorch: every argument, gradients, second derivatives, errors."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from vision_cases import both_raise, same

import treadle
from treadle import nn

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def F(module: Any, name: str) -> Any:
    return getattr(module.nn.functional, name)


MAX: list[Any] = [
    ("max_pool1d", (2, 3, 11), (3,), {}), ("max_pool1d", (3, 10), (2,), {"stride": 3, "padding": 1}),
    ("max_pool2d", (2, 3, 8, 8), (2,), {}), ("max_pool2d", (2, 3, 9, 8), (3,), {"stride": 2, "padding": 1}),
    ("max_pool2d", (3, 9, 8), ((3, 2),), {"stride": (2, 1), "padding": (1, 0), "ceil_mode": True}),
    ("max_pool2d", (2, 2, 9, 11), (3, 2, 1, 2), {}), ("max_pool2d", (1, 2, 12, 13), (5,), {"stride": 3, "ceil_mode": True}),
    ("max_pool2d", (1, 2, 9, 9), (2, 3), {}), ("max_pool2d", (1, 2, 9, 11), (3, 3, 1), {}),
    ("max_pool2d", (1, 1, 6, 7), (2, 2), {"ceil_mode": True}),
    ("max_pool3d", (2, 2, 6, 5, 7), (2,), {}), ("max_pool3d", (2, 5, 6, 7), (3,), {"stride": 2, "padding": 1}),
    ("max_pool3d", (1, 1, 6, 6, 6), (2,), {"dilation": 2, "ceil_mode": True})]


@pytest.mark.parametrize(("name", "shape", "args", "options"), MAX)
@pytest.mark.parametrize("indices", [False, True])
def test_max_pool(torch: Any, name: str, shape: tuple, args: tuple, options: dict, indices: bool) -> None:
    same(torch, lambda m, x: F(m, name)(x, *args, return_indices=indices, **options), shape)


def test_max_pool_chooses_as_pytorch_does(torch: Any) -> None:
    ties = np.array([[[1, 1, 2, 2], [1, 1, 2, 2], [0, -1, 3, 3], [0, 5, 5, 3]]], np.float32)
    nan = np.array([[[1, np.nan, 2, 2], [np.nan, 1, 2, -np.inf], [-np.inf, -np.inf, 3, 3], [-np.inf, -np.inf, 5, np.inf]]], np.float32)
    for array in (ties, nan):
        same(torch, lambda m, x: F(m, "max_pool2d")(x, 2, return_indices=True), array, grad=False)
        same(torch, lambda m, x: F(m, "max_pool2d")(x, 3, 1, 1, return_indices=True), array, grad=False)
    same(torch, lambda m, x: F(m, "max_pool2d")(x, 2), ties)
    wide = np.zeros((1, 8, 8), np.float32)
    wide[0, 1, 0] = wide[0, 0, 2] = wide[0, 7, 5] = wide[0, 5, 7] = 1  # of these the first by rows
    same(torch, lambda m, x: F(m, "max_pool2d")(x, 4, return_indices=True), wide, grad=False)


AVG: list[Any] = [
    ("avg_pool1d", (2, 3, 11), (3,), {}), ("avg_pool1d", (3, 10), (3, 2, 1), {"count_include_pad": False}),
    ("avg_pool2d", (2, 3, 8, 8), (2,), {}), ("avg_pool2d", (2, 3, 9, 8), (3, 2, 1), {}),
    ("avg_pool2d", (2, 3, 9, 8), (3, 2, 1), {"count_include_pad": False, "ceil_mode": True}),
    ("avg_pool2d", (3, 9, 8), ((3, 2),), {"stride": (2, 1), "padding": (1, 0), "ceil_mode": True}),
    ("avg_pool2d", (2, 3, 9, 8), (3, 2, 1, False, True, 5), {}), ("avg_pool2d", (1, 2, 14, 14), (7,), {}),
    ("avg_pool2d", (1, 2, 12, 13), (5,), {"stride": 3, "ceil_mode": True}), ("avg_pool2d", (1, 2, 9, 9), (2, 3), {}),
    ("avg_pool2d", (2, 3, 9, 11), (3, 3, 1), {}), ("avg_pool2d", (2, 3, 12, 12), (4,), {}),
    ("avg_pool3d", (2, 2, 6, 5, 7), (2,), {}), ("avg_pool3d", (2, 5, 6, 7), (3, 2, 1), {"divisor_override": 4, "ceil_mode": True})]


@pytest.mark.parametrize(("name", "shape", "args", "options"), AVG)
def test_avg_pool(torch: Any, name: str, shape: tuple, args: tuple, options: dict) -> None:
    same(torch, lambda m, x: F(m, name)(x, *args, **options), shape)


@pytest.mark.parametrize(("rank", "shape", "size"), [
    (1, (2, 3, 10), 5), (1, (2, 3, 10), 4), (2, (2, 3, 8, 6), 1), (2, (2, 3, 7, 7), (3, 5)), (2, (2, 3, 8, 6), (None, 3)),
    (2, (3, 5, 6), (7, 2)), (3, (1, 2, 4, 5, 6), (2, 2, 3)), (3, (2, 4, 4, 4), 2), (2, (1, 2, 20, 20), 1)])
def test_adaptive(torch: Any, rank: int, shape: tuple, size: Any) -> None:
    same(torch, lambda m, x: F(m, f"adaptive_avg_pool{rank}d")(x, size), shape)
    same(torch, lambda m, x: F(m, f"adaptive_max_pool{rank}d")(x, size, return_indices=True), shape)


def test_lp_pool_and_unpool(torch: Any) -> None:
    positive = np.random.default_rng(0).uniform(0.1, 2, (2, 3, 8, 8)).astype(np.float32)
    same(torch, lambda m, x: F(m, "lp_pool2d")(x, 2, 3, 2), positive)
    same(torch, lambda m, x: F(m, "lp_pool1d")(x, 3.0, 2, ceil_mode=True), positive[0])
    for rank, shape in ((1, (2, 3, 8)), (2, (2, 3, 8, 6)), (3, (1, 2, 4, 4, 6))):
        def call(m: Any, x: Any, rank: int = rank, shape: tuple = shape) -> Any:
            y, index = F(m, f"max_pool{rank}d")(x, 2, return_indices=True)
            return F(m, f"max_unpool{rank}d")(y, index, 2), F(m, f"max_unpool{rank}d")(y, index, 2, output_size=shape)
        same(torch, call, shape)


def _second(module: Any, pool: Any, x: Any) -> Any:
    (g,) = module.autograd.grad((pool(x) ** 3).sum(), x, create_graph=True)
    return module.autograd.grad((g ** 2).sum(), x)[0]


@pytest.mark.parametrize(("name", "args"), [("max_pool2d", (3, 2, 1)), ("avg_pool2d", (3, 2, 1)), ("adaptive_avg_pool2d", (3,)),
                                            ("adaptive_max_pool2d", (3,))])
def test_second_derivatives(torch: Any, name: str, args: tuple) -> None:
    data = np.random.default_rng(1).standard_normal((2, 2, 7, 8))
    ours = _second(treadle, lambda x: F(treadle, name)(x, *args), treadle.tensor(data, requires_grad=True))
    theirs = _second(torch, lambda x: F(torch, name)(x, *args), torch.tensor(data, requires_grad=True))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-9, atol=1e-9)


def test_16_bits(torch: Any) -> None:
    for call in (lambda m, x: F(m, "max_pool2d")(x.to(m.bfloat16), 3, 2, 1), lambda m, x: F(m, "avg_pool2d")(x.to(m.float16), 2),
                 lambda m, x: F(m, "adaptive_avg_pool2d")(x.to(m.bfloat16), 1)):
        same(torch, call, (2, 3, 8, 8), grad=False, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("call", [
    lambda m, x: F(m, "max_pool2d")(x, 2, padding=2), lambda m, x: F(m, "max_pool2d")(x, 20), lambda m, x: F(m, "avg_pool2d")(x, 0),
    lambda m, x: F(m, "max_pool2d")(x[0, 0], 2), lambda m, x: F(m, "max_pool3d")(x[0], 2),
    lambda m, x: F(m, "max_pool2d")(x, (2, 2, 2)), lambda m, x: F(m, "avg_pool2d")(x, 2, divisor_override=0),
    lambda m, x: F(m, "adaptive_avg_pool2d")(x, (1, 2, 3)), lambda m, x: F(m, "max_pool2d")(x, 2, 0)])
def test_mistakes(torch: Any, call: Any) -> None:
    both_raise(torch, call, (2, 3, 8, 8))


LAYERS: list[Any] = [
    ("MaxPool1d", (2,), {}), ("MaxPool2d", (3, 2, 1), {}), ("MaxPool2d", ((3, 2),), {"stride": (2, 1), "ceil_mode": True}),
    ("MaxPool3d", (2,), {}), ("AvgPool1d", (2,), {}), ("AvgPool2d", (2,), {"divisor_override": 3}), ("AvgPool3d", (2, 1), {}),
    ("AdaptiveAvgPool1d", (4,), {}), ("AdaptiveAvgPool2d", ((None, 2),), {}), ("AdaptiveAvgPool3d", (1,), {}),
    ("AdaptiveMaxPool1d", (4,), {}), ("AdaptiveMaxPool2d", (2,), {"return_indices": True}), ("AdaptiveMaxPool3d", (2,), {}),
    ("LPPool1d", (2, 3), {}), ("LPPool2d", (2, 3), {"stride": 2}), ("LPPool3d", (2, 2), {})]


@pytest.mark.parametrize(("name", "args", "options"), LAYERS)
def test_layers(torch: Any, name: str, args: tuple, options: dict) -> None:
    rank = int(name[-2])
    assert repr(getattr(nn, name)(*args, **options)) == repr(getattr(torch.nn, name)(*args, **options))
    data = np.random.default_rng(0).uniform(0.2, 1, (2, 3, 8, 6, 5)[:2 + rank]).astype(np.float32)
    same(torch, lambda m, x: getattr(m.nn, name)(*args, **options)(x), data)


def test_max_unpool_layer(torch: Any) -> None:
    def call(m: Any, x: Any) -> Any:
        return m.nn.MaxUnpool2d(2, stride=2)(*m.nn.MaxPool2d(2, stride=2, return_indices=True)(x))
    same(torch, call, (1, 2, 4, 6))
    assert repr(nn.MaxUnpool2d(2)) == repr(torch.nn.MaxUnpool2d(2))


def test_names_outside_functional(torch: Any) -> None:
    same(torch, lambda m, x: m.max_pool2d(x, 2), (2, 3, 6, 6))
    same(torch, lambda m, x: F(m, "max_pool2d_with_indices")(x, 2), (2, 3, 6, 6))
    same(torch, lambda m, x: m.pixel_shuffle(m.avg_pool1d(x.reshape(6, 8, 6), 2).reshape(2, 3, 8, 3).transpose(1, 2), 2), (2, 3, 8, 6))


def test_indices_are_asked_for_by_truth() -> None:
    x = treadle.arange(16.0).reshape(1, 1, 4, 4)
    assert nn.functional.max_pool2d(x, 2, return_indices=None).tolist() == [[[[5.0, 7.0], [13.0, 15.0]]]]
