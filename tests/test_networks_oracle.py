"""Whole programs as users write them, on both libraries: the same weights must give the same loss curve, recorded and compiled."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from zoo import ZOO

import treadle

torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
pytestmark = pytest.mark.oracle
RNG = np.random.default_rng(0)


class _Block:
    """A residual block for either library."""

    def __new__(cls, m: Any, c: int, o: int, stride: int) -> Any:
        class Block(m.nn.Module):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                super().__init__()
                n = m.nn
                self.body = n.Sequential(n.Conv2d(c, o, 3, stride, 1, bias=False), n.BatchNorm2d(o), n.ReLU(),
                                         n.Conv2d(o, o, 3, 1, 1, bias=False), n.BatchNorm2d(o))
                self.short = n.Sequential(n.Conv2d(c, o, 1, stride, bias=False), n.BatchNorm2d(o)) if stride > 1 or c != o else n.Identity()

            def forward(self, x: Any) -> Any:
                return m.nn.functional.relu(self.body(x) + self.short(x))
        return Block()


def _resnet(m: Any) -> Any:
    n = m.nn
    return n.Sequential(n.Conv2d(3, 8, 3, 1, 1, bias=False), n.BatchNorm2d(8), n.ReLU(), n.MaxPool2d(3, 2, 1), _Block(m, 8, 8, 1),
                        _Block(m, 8, 16, 2), n.AdaptiveAvgPool2d(1), n.Flatten(), n.Linear(16, 5))


def _mobilenet(m: Any) -> Any:
    n = m.nn
    return n.Sequential(n.Conv2d(3, 8, 3, 2, 1, bias=False), n.BatchNorm2d(8), n.ReLU6(), n.Conv2d(8, 24, 1, bias=False), n.BatchNorm2d(24),
                        n.ReLU6(), n.Conv2d(24, 24, 3, 2, 1, groups=24, bias=False), n.BatchNorm2d(24), n.ReLU6(),
                        n.Conv2d(24, 12, 1, bias=False), n.BatchNorm2d(12), n.AdaptiveAvgPool2d((1, 1)), n.Flatten(), n.Dropout(0.0),
                        n.Linear(12, 5))


def _unet(m: Any) -> Any:
    class UNet(m.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            n = m.nn
            self.down, self.pool = n.Sequential(n.Conv2d(3, 6, 3, padding=1), n.BatchNorm2d(6), n.ReLU()), n.MaxPool2d(2)
            self.middle = n.Sequential(n.Conv2d(6, 12, 3, padding=1), n.ReLU())
            self.up, self.last = n.ConvTranspose2d(12, 6, 2, stride=2), n.Conv2d(12, 5, 1)

        def forward(self, x: Any) -> Any:
            skip = self.down(x)
            deep = self.up(self.middle(self.pool(skip)))
            return self.last(m.cat([skip, deep], 1)).mean((2, 3))
    return UNet()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("make", [_resnet, _mobilenet, _unet])
def test_networks_train_as_in_pytorch(make: Any, compiled: bool) -> None:
    torch.manual_seed(0)
    want, ours = make(torch), make(treadle)
    ours.load_state_dict({k: treadle.from_numpy(np.array(v.numpy())) for k, v in want.state_dict().items()})
    x, y = RNG.standard_normal((8, 3, 16, 16)).astype("f"), RNG.integers(0, 5, 8)
    curves = []
    for lib, model in ((torch, want), (treadle, ours)):
        optimizer = lib.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

        def step(a: Any, b: Any, lib: Any = lib, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = lib.nn.functional.cross_entropy(model(a), b)
            loss.backward()
            optimizer.step()
            return loss
        run = treadle.compile(step) if compiled and lib is treadle else step
        curves.append([run(lib.from_numpy(x), lib.from_numpy(y)).item() for _ in range(6)])
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-4, atol=1e-4)
    assert all(math.isfinite(v) for v in curves[1]) and curves[0][-1] < curves[0][0]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", list(ZOO))
def test_zoo(name: str, compiled: bool) -> None:
    """Eight steps on the same data: the loss falls as it does in PyTorch, to 1e-4."""
    program = ZOO[name]
    torch.manual_seed(0)
    want, ours = program.make(torch), program.make(treadle)
    for p in want.parameters():  # zeros and the like get values too
        if p.dim() > 1 and not bool(p.detach().any()):
            torch.nn.init.normal_(p, std=0.5)
    ours.load_state_dict({k: treadle.from_numpy(np.array(v.numpy())) for k, v in want.state_dict().items()})
    data = program.data(np.random.default_rng(0))
    curves = []
    for lib, net in ((torch, want), (treadle, ours)):
        optimizer = program.optimizer(lib, net.parameters())

        def step(*given: Any, lib: Any = lib, net: Any = net, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = program.loss(lib, net, *given)
            loss.backward()
            optimizer.step()
            return loss.detach()
        run = treadle.compile(step) if compiled and lib is treadle else step
        given = [lib.from_numpy(np.array(a)) for a in data]
        curves.append([run(*given).item() for _ in range(8)])
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-4, atol=1e-4)
    assert name == "actor_critic" or curves[0][-1] < curves[0][0]  # its loss is no measure of progress


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "selu", "celu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh",
                                  "relu6"])
def test_activations_in_place(name: str) -> None:
    """The gradient comes from what was there before the write."""
    x, found = RNG.standard_normal(20).astype("f"), []
    for lib in (treadle, torch):
        leaf = lib.from_numpy(x.copy()).requires_grad_()
        middle = leaf * 2
        y = getattr(lib.nn.functional, name)(middle, inplace=True)
        assert y is middle
        (y * y).sum().backward()
        found.append([y.detach().numpy(), leaf.grad.numpy()])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
