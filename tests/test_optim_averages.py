"""CyclicLR, averaged models, fused batch norms, and small functions of nn; against PyTorch where marked."""
from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import nn
from treadle.nn import functional as F
from treadle.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn


@pytest.mark.oracle
@pytest.mark.parametrize("settings", [{"mode": "triangular"}, {"mode": "triangular2", "step_size_down": 5},
                                      {"mode": "exp_range", "gamma": 0.9}, {"scale_fn": lambda x: 0.5 ** x, "scale_mode": "iterations"}])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_cyclic_oracle(settings: dict[str, Any], kind: str) -> None:
    import torch

    def rates(lib: Any) -> list[Any]:
        optimizer = getattr(lib.optim, kind)([lib.nn.Parameter(lib.ones(1))], lr=0.1, **({"momentum": 0.9} if kind == "SGD" else {}))
        scheduler = lib.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, **settings)
        found = []
        for _ in range(14):
            optimizer.step()
            scheduler.step()
            group = optimizer.param_groups[0]
            found.append((group["lr"], group["momentum"] if kind == "SGD" else group["betas"][0]))
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(rates(treadle), rates(torch), rtol=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_swalr_oracle(strategy: str) -> None:
    import torch

    def rates(lib: Any) -> list[float]:
        optimizer = lib.optim.SGD([lib.nn.Parameter(lib.ones(1))], lr=0.1)
        swa_utils = lib.optim.swa_utils
        scheduler = swa_utils.SWALR(optimizer, 0.02, anneal_epochs=4, anneal_strategy=strategy)
        found = []
        for _ in range(7):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found
    np.testing.assert_allclose(rates(treadle), rates(torch), rtol=1e-9)


def test_averaged_models() -> None:
    net = nn.Linear(1, 1, bias=False)
    plain, moving = AveragedModel(net), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for value in (1.0, 2.0, 6.0):
        with treadle.no_grad():
            net.weight.fill_(value)
        plain.update_parameters(net)
        moving.update_parameters(net)
    assert plain.module.weight.item() == 3.0 and moving.module.weight.item() == 3.75 and int(plain.n_averaged) == 3
    assert plain(treadle.ones(1, 1)).item() == 3.0 and net.weight.item() == 6.0
    with pytest.raises(ValueError, match=r"Invalid decay value 2"):
        get_ema_multi_avg_fn(2.0)


def test_update_bn() -> None:
    net = nn.BatchNorm1d(2).eval()
    batches = [treadle.rand(8, 2) + i for i in range(3)]
    update_bn([(b, 0) for b in batches], net)
    mean = sum(b.mean(0) for b in batches) / 3
    np.testing.assert_allclose(net.running_mean.numpy(), mean.numpy(), rtol=1e-5)
    assert not net.training and net.momentum == 0.1


@pytest.mark.parametrize("transposed", [False, True])
def test_fused_batch_norm(transposed: bool) -> None:
    conv: Any = (nn.ConvTranspose2d if transposed else nn.Conv2d)(3, 4, 3)
    norm = nn.BatchNorm2d(4)
    norm(conv(treadle.rand(4, 3, 6, 6)))
    conv.eval(), norm.eval()
    x = treadle.rand(2, 3, 6, 6)
    fused = nn.utils.fuse_conv_bn_eval(conv, norm, transposed)
    np.testing.assert_allclose(fused(x).detach().numpy(), norm(conv(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="only for eval"):
        nn.utils.fuse_conv_bn_eval(conv, norm.train())


def test_small_functions() -> None:
    treadle.manual_seed(0)
    x = treadle.linspace(-2.0, 2.0, 8)
    slopes = F.rrelu(x, 0.1, 0.3, training=True)[:4] / x[:4]
    assert bool(((slopes >= 0.1) & (slopes < 0.3)).all()) and nn.RReLU().eval()(x)[0].item() == pytest.approx(-2 * 11 / 48)
    dropped = nn.FeatureAlphaDropout(0.5)(treadle.ones(2, 4, 5))
    assert bool((dropped == dropped[:, :, :1]).all()) and dropped[:, :, 0].unique().numel() == 2
    points = treadle.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(F.pdist(points).numpy(), [5, 1, 18 ** 0.5], rtol=1e-6)
    assert F.threshold_(treadle.tensor([1.0, 3.0]), 2.0, 0.0).tolist() == [0, 3]
    out = treadle.empty(3, dtype=treadle.int64)
    assert treadle.arange(3, out=out) is out and out.tolist() == [0, 1, 2]
    assert treadle.cumsum(treadle.arange(3), 0, out=out).tolist() == out.tolist() == [0, 1, 3]
    assert treadle.index_select(treadle.arange(9), 0, treadle.tensor([8, 1, 2]), out=out) is out and out.tolist() == [8, 1, 2]
