"""nn.utils.parametrize, weight_norm and spectral_norm."""
from __future__ import annotations

import numpy as np
import pytest

import treadle
from treadle import nn
from treadle.nn.utils import parametrizations, parametrize


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).transpose(-1, -2)

    def right_inverse(self, x):
        return x.triu()


def test_a_parameter_computed_at_every_use():
    layer = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
    assert parametrize.is_parametrized(layer, "weight") and isinstance(layer, nn.Linear)
    w = layer.weight
    assert treadle.equal(w, w.t()) and list(layer.state_dict()) == ["bias", "parametrizations.weight.original"]
    layer(treadle.ones(2, 3)).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None
    layer.weight = treadle.eye(3)
    assert treadle.equal(layer.weight, treadle.eye(3))
    with parametrize.cached():
        assert layer.weight is layer.weight
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear and treadle.equal(layer.weight, treadle.eye(3))
    with pytest.raises(ValueError, match="nope"):
        parametrize.register_parametrization(layer, "nope", Symmetric())


def test_spectral_norm_has_norm_one():
    treadle.manual_seed(0)
    layer = parametrizations.spectral_norm(nn.Linear(5, 4), n_power_iterations=30)
    assert abs(treadle.linalg.svdvals(layer.weight)[0].item() - 1) < 1e-3
    layer(treadle.ones(2, 5)).sum().backward()


@pytest.mark.oracle
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_as_pytorch(dim):
    import torch
    torch.manual_seed(0)
    results = []
    theirs = torch.nn.Linear(3, 2)
    for T in (torch, treadle):
        layer = T.nn.Linear(3, 2)
        layer.load_state_dict({k: T.tensor(v.tolist()) for k, v in theirs.state_dict().items()})
        module = torch.nn.utils.parametrizations if T is torch else parametrizations
        module.weight_norm(layer, dim=dim)
        layer(T.ones(2, 3)).pow(2).sum().backward()
        assert list(layer.state_dict()) == ["bias", "parametrizations.weight.original0", "parametrizations.weight.original1"]
        results.append([layer.weight.detach().numpy(), *[p.grad.numpy() for p in layer.parameters()]])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
