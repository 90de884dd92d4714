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
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4, atol=1e-4)
    assert all(math.isfinite(v) for v in curves[1])
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
