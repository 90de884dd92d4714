"""Distributions: samples have the moments they should; (oracle) densities, entropies, divergences and gradients as PyTorch's."""
from __future__ import annotations

import numpy as np
import pytest

import treadle
from treadle import distributions as D

P = [[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]
MAKERS = {
    "Normal": (lambda T, d: d.Normal(T.tensor([0.5, -1.0]), T.tensor([1.5, 0.5])), [0.3, -0.7]),
    "LogNormal": (lambda T, d: d.LogNormal(T.tensor([0.5, -1.0]), T.tensor([0.5, 0.3])), [0.3, 0.7]),
    "Laplace": (lambda T, d: d.Laplace(T.tensor([0.5, -1.0]), T.tensor([1.5, 0.5])), [0.3, -0.7]),
    "Cauchy": (lambda T, d: d.Cauchy(T.tensor([0.5, -1.0]), T.tensor([1.5, 0.5])), [0.3, -0.7]),
    "Gumbel": (lambda T, d: d.Gumbel(T.tensor([0.5, -1.0]), T.tensor([1.5, 0.5])), [0.3, -0.7]),
    "HalfNormal": (lambda T, d: d.HalfNormal(T.tensor([1.5, 0.5])), [0.3, 0.7]),
    "Uniform": (lambda T, d: d.Uniform(T.tensor([0.0, -1.0]), T.tensor([1.5, 0.5])), [0.3, 0.1]),
    "Exponential": (lambda T, d: d.Exponential(T.tensor([1.5, 0.5])), [0.3, 0.7]),
    "Gamma": (lambda T, d: d.Gamma(T.tensor([1.5, 2.5]), T.tensor([1.0, 2.0])), [0.3, 0.7]),
    "Chi2": (lambda T, d: d.Chi2(T.tensor([3.0, 4.0])), [0.3, 0.7]),
    "Beta": (lambda T, d: d.Beta(T.tensor([1.5, 2.5]), T.tensor([1.0, 2.0])), [0.3, 0.7]),
    "Dirichlet": (lambda T, d: d.Dirichlet(T.tensor([[1.5, 2.5, 1.0], [2.0, 1.0, 3.0]])), P),
    "StudentT": (lambda T, d: d.StudentT(T.tensor([3.5, 5.0]), T.tensor([0.5, 0.0]), T.tensor([1.0, 2.0])), [0.3, 0.7]),
    "MultivariateNormal": (lambda T, d: d.MultivariateNormal(T.tensor([0.5, -1.0]), T.tensor([[2.0, 0.5], [0.5, 1.0]])), [0.3, -0.7]),
    "Bernoulli": (lambda T, d: d.Bernoulli(T.tensor([0.3, 0.8])), [0.0, 1.0]),
    "Bernoulli logits": (lambda T, d: d.Bernoulli(logits=T.tensor([0.3, -0.8])), [0.0, 1.0]),
    "Geometric": (lambda T, d: d.Geometric(T.tensor([0.3, 0.8])), [2.0, 1.0]),
    "Binomial": (lambda T, d: d.Binomial(5, T.tensor([0.3, 0.8])), [2.0, 4.0]),
    "Categorical": (lambda T, d: d.Categorical(T.tensor(P)), [0, 2]),
    "Categorical logits": (lambda T, d: d.Categorical(logits=T.tensor(P)), [0, 2]),
    "OneHotCategorical": (lambda T, d: d.OneHotCategorical(T.tensor(P)), [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    "Multinomial": (lambda T, d: d.Multinomial(4, T.tensor(P)), [[1.0, 1.0, 2.0], [0.0, 1.0, 3.0]]),
    "Poisson": (lambda T, d: d.Poisson(T.tensor([1.5, 0.5])), [2.0, 0.0]),
    "Independent": (lambda T, d: d.Independent(d.Normal(T.tensor([0.5, -1.0]), T.tensor([1.5, 0.5])), 1), [0.3, -0.7]),
}
NO_MOMENTS = {"Cauchy", "Categorical", "Categorical logits"}


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in NO_MOMENTS])
def test_samples_have_the_right_mean(name):
    treadle.manual_seed(0)
    d = MAKERS[name][0](treadle, D)
    x = d.sample((20000,))
    assert tuple(x.shape) == (20000, *d.batch_shape, *d.event_shape) and not x.requires_grad
    mean, spread = d.mean.numpy(), np.sqrt(np.maximum(d.variance.numpy(), 1e-3))
    np.testing.assert_array_less(np.abs(x.mean(0).numpy() - mean), 6 * spread / np.sqrt(20000) + 1e-3)


def test_classes_come_with_their_probabilities():
    treadle.manual_seed(1)
    counts = treadle.nn.functional.one_hot(D.Categorical(treadle.tensor(P)).sample((20000,)), 3).float().mean(0)
    np.testing.assert_allclose(counts.numpy(), P, atol=0.015)
    treadle.manual_seed(1)
    first = D.Gamma(2.0, 1.0).sample((3,))
    treadle.manual_seed(1)
    assert D.Gamma(2.0, 1.0).sample((3,)).tolist() == first.tolist() != D.Gamma(2.0, 1.0).sample((3,)).tolist()


def test_gradients_flow_through_rsample():
    treadle.manual_seed(0)
    scale = treadle.tensor(2.0, requires_grad=True)
    x = D.Normal(0.0, scale).rsample((4,))
    x.sum().backward()
    np.testing.assert_allclose(scale.grad.item(), x.detach().sum().item() / 2, rtol=1e-5)


def test_illegal_parameters():
    with pytest.raises(ValueError, match="parameter scale of distribution Normal"):
        D.Normal(0.0, -1.0)
    with pytest.raises(ValueError, match="`probs` or `logits`"):
        D.Bernoulli()
    with pytest.raises(NotImplementedError, match="KL"):
        D.kl_divergence(D.Normal(0.0, 1.0), D.Uniform(0.0, 1.0))


@pytest.mark.oracle
@pytest.mark.parametrize("name", MAKERS)
def test_densities_as_pytorch(name):
    import torch
    make, value = MAKERS[name]
    ours, theirs = make(treadle, D), make(torch, torch.distributions)
    kind = "int64" if name.startswith("Categorical") else "float32"
    a, b = treadle.tensor(value, dtype=getattr(treadle, kind)), torch.tensor(value, dtype=getattr(torch, kind))
    np.testing.assert_allclose(ours.log_prob(a).numpy(), theirs.log_prob(b).numpy(), rtol=2e-5, atol=2e-6)
    assert tuple(ours.batch_shape) == tuple(theirs.batch_shape) and tuple(ours.event_shape) == tuple(theirs.event_shape)
    if name not in ("Binomial", "Multinomial", "Poisson"):
        np.testing.assert_allclose(ours.entropy().numpy(), theirs.entropy().numpy(), rtol=2e-5, atol=2e-6)
    if name not in NO_MOMENTS:
        np.testing.assert_allclose(ours.mean.numpy(), theirs.mean.numpy(), rtol=2e-5)
        np.testing.assert_allclose(ours.variance.numpy(), theirs.variance.numpy(), rtol=2e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["Normal", "Laplace", "Uniform", "Exponential", "Gamma", "Beta", "Dirichlet", "Bernoulli", "Categorical",
                                  "Poisson", "MultivariateNormal", "Independent"])
def test_divergences_as_pytorch(name):
    import torch
    make = MAKERS[name][0]

    class Shifted:
        """Other parameters: every tensor times 1.25."""

        def __init__(self, T):
            self.T = T

        def tensor(self, v):
            return self.T.tensor(v) * (1.25 if name not in ("Bernoulli",) else 0.9)
    ours = D.kl_divergence(make(treadle, D), make(Shifted(treadle), D))
    theirs = torch.distributions.kl_divergence(make(torch, torch.distributions), make(Shifted(torch), torch.distributions))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)
