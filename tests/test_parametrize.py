"""nn.utils.parametrize, weight_norm and spectral_norm."""
from __future__ import annotations

from typing import Any

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


def test_older_weight_norm_and_its_end():
    layer = nn.Linear(3, 2)
    weight = layer.weight.detach().clone()
    assert nn.utils.weight_norm(layer) is layer and list(layer.state_dict()) == ["bias", "weight_g", "weight_v"]
    x = treadle.ones(4, 3)
    assert treadle.allclose(layer(x), x @ weight.t() + layer.bias, atol=1e-6)
    layer(x).sum().backward()
    assert layer.weight_g.grad is not None and layer.weight_v.grad.shape == (2, 3)
    with pytest.raises(RuntimeError, match="two weight_norm hooks"):
        nn.utils.weight_norm(layer)
    nn.utils.remove_weight_norm(layer)
    assert sorted(layer.state_dict()) == ["bias", "weight"] and treadle.allclose(layer.weight, weight, atol=1e-6)
    with pytest.raises(ValueError, match="not found"):
        nn.utils.remove_weight_norm(layer)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "ConvTranspose2d"])
def test_older_norms_as_pytorch(kind):
    import torch
    torch.manual_seed(0)
    make = {"Linear": (4, 3), "Conv2d": (2, 3, 3), "ConvTranspose2d": (2, 3, 3)}[kind]
    shape = (5, 4) if kind == "Linear" else (2, 2, 6, 6)
    theirs = [torch.nn.utils.spectral_norm(getattr(torch.nn, kind)(*make), n_power_iterations=2),
              torch.nn.utils.weight_norm(getattr(torch.nn, kind)(*make), dim=1)]
    ours = [nn.utils.spectral_norm(getattr(nn, kind)(*make), n_power_iterations=2), nn.utils.weight_norm(getattr(nn, kind)(*make), dim=1)]
    x = np.random.default_rng(0).standard_normal(shape).astype("f")
    for a, b in zip(theirs, ours, strict=True):
        b.load_state_dict({k: treadle.from_numpy(v.numpy().copy()) for k, v in a.state_dict().items()})
        for _ in range(3):
            out = [m(T.from_numpy(x)) for m, T in ((a, torch), (b, treadle))]
            for m, y in zip((a, b), out, strict=True):
                m.zero_grad()
                y.pow(2).mean().backward()
            np.testing.assert_allclose(out[1].detach().numpy(), out[0].detach().numpy(), rtol=1e-4, atol=1e-5)
        for (n, p), (m, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
            assert n == m
            np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), rtol=1e-3, atol=1e-5)
        a.eval(), b.eval()
        np.testing.assert_allclose(b(treadle.from_numpy(x)).detach().numpy(), a(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    torch.nn.utils.remove_spectral_norm(theirs[0])
    nn.utils.remove_spectral_norm(ours[0])
    np.testing.assert_allclose(ours[0].weight.detach().numpy(), theirs[0].weight.detach().numpy(), rtol=1e-4, atol=1e-5)


def _errors(w: treadle.Tensor) -> float:
    rows = w if w.shape[-2] <= w.shape[-1] else w.mT
    return float((rows @ rows.mT - treadle.eye(rows.shape[-2])).abs().max())


@pytest.mark.parametrize("use_trivialization", [True, False])
@pytest.mark.parametrize("sizes", [(4, 4), (6, 3), (3, 6)])
@pytest.mark.parametrize("name", parametrizations.MAPS)
def test_orthogonal_weights_stay_orthogonal(name: str, sizes: tuple[int, int], use_trivialization: bool) -> None:
    treadle.manual_seed(0)
    layer = nn.Linear(sizes[1], sizes[0])
    if not use_trivialization and name != "householder":
        parametrizations.orthogonal(layer, "weight", name, use_trivialization=False)
        with pytest.raises(NotImplementedError, match="not possible to assign"):
            layer.weight = treadle.eye(*sizes)
    else:
        w = nn.init.orthogonal_(layer.weight).detach().clone()
        parametrizations.orthogonal(layer, "weight", name, use_trivialization=use_trivialization)
        assert treadle.allclose(layer.weight, w, atol=1e-5)
    with pytest.raises(ValueError, match="Expected a matrix or batch of matrices of shape"):
        layer.weight = treadle.ones(7, 7)
    before, optimizer = layer.weight.detach().clone(), treadle.optim.SGD(layer.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(treadle.ones(2, sizes[1])) ** 2).sum().backward()
        optimizer.step()
    assert _errors(layer.weight) < 1e-5 and not treadle.allclose(layer.weight, before, atol=1e-3)


def test_orthogonal_refuses() -> None:
    with pytest.raises(ValueError, match="has to be one of"):
        parametrizations.orthogonal(nn.Linear(2, 2), orthogonal_map="qr")
    with pytest.raises(ValueError, match="Expected a matrix"):
        parametrizations.orthogonal(nn.Linear(2, 2), "bias")


@pytest.mark.oracle
@pytest.mark.parametrize("sizes", [(4, 4), (6, 3), (3, 6)])
@pytest.mark.parametrize("name", parametrizations.MAPS)
def test_orthogonal_as_pytorch(name: str, sizes: tuple[int, int]) -> None:
    import torch
    treadle.manual_seed(0)
    raw, start = treadle.randn(*sizes), nn.init.orthogonal_(treadle.empty(4, 4) if sizes == (4, 4) else treadle.empty(*sizes))
    found = []
    for lib in (treadle, torch):
        make = lib.nn.utils.parametrizations._Orthogonal
        maps = lib.nn.utils.parametrizations.MAPS if lib is treadle else lib.nn.utils.parametrizations._OrthMaps
        square = lib.tensor(start.tolist())
        m = make(square, name if lib is treadle else getattr(maps, name), use_trivialization=sizes == (4, 4) or name == "householder")
        if sizes == (4, 4):
            m.right_inverse(square)
        elif name == "householder":
            m = make(square, name if lib is treadle else maps.householder, use_trivialization=False)
            assert m.right_inverse(square).shape == sizes
        x = lib.tensor(raw.tolist(), requires_grad=True)
        w = m(x)
        (w * lib.arange(w.numel()).reshape(w.shape)).sum().backward()
        found.append((w.detach().numpy(), x.grad.numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_under_autocast(wrap: Any) -> None:
    layer = wrap(nn.Linear(4, 3)).eval()
    wanted = layer(treadle.ones(2, 4))
    with treadle.autocast("cpu", dtype=treadle.bfloat16):
        found = layer(treadle.ones(2, 4))
    assert found.dtype is treadle.bfloat16 and treadle.allclose(found.float(), wanted, atol=0.05)
