"""nn.utils.prune: masks, several methods on one parameter, pruning of all parameters together, its end; as PyTorch where marked."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle
from treadle import nn
from treadle.nn.utils import prune


def test_a_pruned_layer() -> None:
    layer = nn.Linear(4, 3)
    original = layer.weight
    assert prune.l1_unstructured(layer, "weight", amount=0.5) is layer
    assert layer.weight_orig is original and int(layer.weight_mask.sum()) == 6 and prune.is_pruned(layer)
    assert [n for n, _ in layer.named_parameters()] == ["bias", "weight_orig"] and "weight_mask" in layer.state_dict()
    layer(treadle.ones(2, 4)).sum().backward()
    assert treadle.equal(original.grad != 0, layer.weight_mask.bool())
    with treadle.no_grad():
        original.fill_(2.0)
    layer(treadle.ones(1, 4))
    assert treadle.equal(layer.weight, layer.weight_mask * 2)
    prune.remove(layer, "weight")
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.count_nonzero() == 6 and not prune.is_pruned(layer)
    with pytest.raises(ValueError, match="has to be pruned"):
        prune.remove(layer, "weight")
    with pytest.raises(ValueError, match="range"):
        prune.l1_unstructured(layer, "weight", amount=1.5)


def test_drawn_pruning_and_a_method_of_ones_own() -> None:
    layer = nn.Conv2d(3, 4, 2)
    prune.random_structured(layer, "weight", amount=2, dim=0)
    assert sorted(layer.weight_mask.flatten(1).mean(1).tolist()) == [0.0, 0.0, 1.0, 1.0]
    prune.random_unstructured(layer, "bias", amount=1)
    assert layer.bias_mask.sum() == 3

    class EveryOther(prune.BasePruningMethod):
        def compute_mask(self, t: Any, default_mask: Any) -> Any:
            mask = default_mask.clone()
            mask.view(-1)[::2] = 0
            return mask
    other = nn.Linear(2, 2)
    EveryOther.apply(other, "weight")
    assert other.weight_mask.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    prune.custom_from_mask(other, "weight", treadle.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert other.weight_mask.tolist() == [[0.0, 1.0], [0.0, 0.0]] and len(next(iter(other._forward_pre_hooks.values()))) == 2


def states(T: Any, prune: Any) -> list[Any]:
    def net() -> Any:
        rng = np.random.default_rng(0)
        model = T.nn.Sequential(T.nn.Conv2d(2, 4, 3), T.nn.ReLU(), T.nn.Flatten(), T.nn.Linear(16, 3))
        with T.no_grad():
            for p in model.parameters():
                p.copy_(T.from_numpy(rng.standard_normal(tuple(p.shape)).astype("f")))
        return model
    found = []
    for act in (lambda m: prune.l1_unstructured(m[0], "weight", amount=7), lambda m: prune.ln_structured(m[0], "weight", 0.5, n=2, dim=1),
                lambda m: prune.ln_structured(m[3], "weight", 2, n=1, dim=-1), lambda m: prune.identity(m[3], "bias"),
                lambda m: (prune.l1_unstructured(m[0], "weight", 0.3), prune.ln_structured(m[0], "weight", 1, 2, 0),
                           prune.l1_unstructured(m[0], "weight", 0.25)),
                lambda m: prune.global_unstructured([(m[0], "weight"), (m[3], "weight"), (m[3], "bias")], prune.L1Unstructured, amount=0.4),
                lambda m: (prune.l1_unstructured(m[3], "weight", 0.5), prune.global_unstructured(
                    [(m[0], "weight"), (m[3], "weight")], prune.L1Unstructured, amount=5), prune.remove(m[0], "weight"))):
        model = net()
        act(model)
        x = T.from_numpy(np.random.default_rng(1).standard_normal((2, 2, 4, 4)).astype("f"))
        model(x).sum().backward()
        found.append(({k: v.detach().numpy() for k, v in sorted(model.state_dict().items())}, model(x).detach().numpy(),
                      {k: p.grad.numpy() for k, p in sorted(model.named_parameters())}))
    return found


@pytest.mark.oracle
def test_masks_as_pytorch() -> None:
    import torch
    import torch.nn.utils.prune
    for have, want in zip(states(treadle, prune), states(torch, torch.nn.utils.prune), strict=True):
        for a, b in zip(have[::2], want[::2], strict=True):
            assert list(a) == list(b)
            for k in a:
                np.testing.assert_allclose(a[k], b[k], rtol=1e-4, atol=1e-5, err_msg=k)
        np.testing.assert_allclose(have[1], want[1], rtol=1e-4, atol=1e-5)
