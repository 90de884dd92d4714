"""Batch, instance, group and local response norm against PyTorch: values, gradients, running statistics, state, errors."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from vision_cases import arrays_of, both_raise, same

import treadle
from treadle import nn

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def F(module: Any, name: str) -> Any:
    return getattr(module.nn.functional, name)


def test_batch_norm(torch: Any) -> None:
    def call(m: Any, x: Any, w: Any, b: Any) -> Any:
        mean, var = m.zeros(3), m.ones(3)
        return F(m, "batch_norm")(x, mean, var, w, b, True, 0.3, 1e-3), mean, var
    for shape in ((4, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)):
        same(torch, call, shape, (3,), (3,), rtol=1e-4, atol=3e-5)
    same(torch, lambda m, x: F(m, "batch_norm")(x, None, None, training=True), (2, 3, 4), rtol=1e-4, atol=3e-5)
    same(torch, lambda m, x, w, b: F(m, "batch_norm")(x, m.ones(3), m.ones(3) * 2, w, b), (2, 3, 4, 4), (3,), (3,))


def test_others(torch: Any) -> None:
    same(torch, lambda m, x, w, b: F(m, "group_norm")(x, 2, w, b), (3, 4, 5), (4,), (4,), rtol=1e-4, atol=3e-5)
    same(torch, lambda m, x: F(m, "group_norm")(x, 4), (2, 4, 3, 5), rtol=1e-4, atol=3e-5)
    same(torch, lambda m, x, w, b: F(m, "instance_norm")(x, weight=w, bias=b), (3, 4, 5), (4,), (4,), rtol=1e-4, atol=3e-5)
    same(torch, lambda m, x: F(m, "instance_norm")(x, m.zeros(4), m.ones(4), use_input_stats=False), (3, 4, 5, 2))
    same(torch, lambda m, x: F(m, "local_response_norm")(x, 3), (2, 5, 4))
    same(torch, lambda m, x: F(m, "local_response_norm")(x, 4, 0.1, 0.5, 2.0), (2, 5, 4, 3))
    same(torch, lambda m, x, w: F(m, "rms_norm")(x, (4,), w), (2, 4), (4,))


def test_second_derivative(torch: Any) -> None:
    found = []
    for m in (treadle, torch):
        x, w = (m.tensor(a.astype(np.float64), requires_grad=True) for a in arrays_of((4, 2, 3), (2,)))
        (g,) = m.autograd.grad((F(m, "batch_norm")(x, None, None, w, training=True) ** 3).sum(), x, create_graph=True)
        found.append([t.numpy() for t in m.autograd.grad((g ** 2).sum(), (x, w))])
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)


LAYERS: list[Any] = [("BatchNorm1d", {}), ("BatchNorm2d", {}), ("BatchNorm3d", {}), ("BatchNorm2d", {"momentum": None}),
                     ("BatchNorm2d", {"affine": False}), ("BatchNorm2d", {"track_running_stats": False}),
                     ("BatchNorm2d", {"eps": 1e-2, "momentum": 0.5}), ("InstanceNorm1d", {}),
                     ("InstanceNorm2d", {"affine": True, "track_running_stats": True}), ("InstanceNorm3d", {"affine": True})]


@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_layers_train_and_evaluate(torch: Any, name: str, options: dict) -> None:
    shape = (4, 3, 5, 4, 2)[:2 + int(name[-2])]
    layers = [getattr(m.nn, name)(3, **options) for m in (treadle, torch)]
    assert repr(layers[0]) == repr(layers[1]) and list(layers[0].state_dict()) == list(layers[1].state_dict())
    results: list[list[Any]] = [[], []]
    for seed in range(4):
        for m, layer, out in zip((treadle, torch), layers, results, strict=True):
            layer.train(seed < 3)
            x = m.tensor(arrays_of(shape, seed=seed)[0] * 2 + 1, requires_grad=True)
            y = layer(x)
            (y ** 3).sum().backward()
            out += [y.detach(), x.grad, *layer.state_dict().values(), *[p.grad.clone() for p in layer.parameters()]]
    for got, want in zip(*results, strict=True):
        assert str(got.dtype).split(".")[-1] == str(want.dtype).split(".")[-1] and tuple(got.shape) == tuple(want.shape)
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=2e-4, atol=2e-4)


def test_group_and_response_layers(torch: Any) -> None:
    for make in (lambda m: m.nn.GroupNorm(2, 4), lambda m: m.nn.GroupNorm(2, 4, affine=False), lambda m: m.nn.LocalResponseNorm(3)):
        assert repr(make(treadle)) == repr(make(torch)) and list(make(treadle).state_dict()) == list(make(torch).state_dict())
        same(torch, lambda m, x, make=make: make(m)(x), (2, 4, 5, 3), rtol=1e-4, atol=3e-5)


def test_convert_sync_batchnorm() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3)))
    before = model(treadle.ones(2, 3))
    kept = model[1][0].weight
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model[1][0]) is nn.SyncBatchNorm and model[1][0].weight is kept
    assert model(treadle.ones(2, 3)).tolist() == before.tolist() and int(model[1][0].num_batches_tracked) == 2


def test_16_bits(torch: Any) -> None:
    for m in (treadle, torch):
        x = m.tensor(arrays_of((4, 3, 5))[0]).to(m.bfloat16)
        assert F(m, "batch_norm")(x, m.zeros(3), m.ones(3), m.ones(3), m.zeros(3), True).dtype is m.bfloat16
    same(torch, lambda m, x: F(m, "batch_norm")(x.to(m.bfloat16), None, None, training=True), (4, 3, 5), grad=False, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("call", [
    lambda m, x: F(m, "batch_norm")(x, m.zeros(4), m.ones(3)), lambda m, x: F(m, "batch_norm")(x[:1, :, :1], None, None, training=True),
    lambda m, x: F(m, "batch_norm")(x, m.zeros(3), m.ones(3), m.ones(2)), lambda m, x: m.nn.BatchNorm2d(3)(x),
    lambda m, x: m.nn.GroupNorm(2, 3), lambda m, x: F(m, "group_norm")(x, 2), lambda m, x: F(m, "instance_norm")(x[:, :, :1]),
    lambda m, x: m.nn.BatchNorm1d(3)(x[0, 0]), lambda m, x: F(m, "local_response_norm")(x[0], 2), lambda m, x: m.nn.InstanceNorm2d(4)(x[0])
])
def test_mistakes(torch: Any, call: Any) -> None:
    both_raise(torch, call, (2, 3, 4))
