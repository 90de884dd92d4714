"""distributions.transforms, constraints and TransformedDistribution; beside PyTorch's where marked."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle
from treadle import distributions as D


def test_draws_and_densities_of_a_squashed_normal() -> None:
    treadle.manual_seed(0)
    loc = treadle.tensor([0.0, 0.5], requires_grad=True)
    squashed = D.TransformedDistribution(D.Independent(D.Normal(loc, treadle.ones(2)), 1), [D.TanhTransform(cache_size=1)])
    assert squashed.event_shape == (2,) and squashed.batch_shape == () and squashed.has_rsample
    action = squashed.rsample((5,))
    assert action.shape == (5, 2) and bool((action.abs() <= 1).all())
    log_prob = squashed.log_prob(action)
    assert log_prob.shape == (5,) and squashed.transforms[0].inv(action) is squashed.transforms[0]._cached[0]
    (log_prob.mean() + action.sum()).backward()
    assert loc.grad is not None and bool(loc.grad.isfinite().all()) and not squashed.sample().requires_grad
    with pytest.raises(ValueError, match="list of Transforms"):
        D.TransformedDistribution(D.Normal(0.0, 1.0), [treadle.tanh])  # type: ignore[list-item]


def test_a_transform_of_ones_own() -> None:
    class Cube(D.Transform):
        bijective, domain, codomain = True, D.constraints.real, D.constraints.real

        def _call(self, x: Any) -> Any:
            return x ** 3

        def _inverse(self, y: Any) -> Any:
            return y.sign() * y.abs() ** (1 / 3)

        def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
            return (3 * x * x).log()
    made, x = D.TransformedDistribution(D.Normal(0.0, 1.0), Cube()), treadle.tensor([0.5, 2.0])
    assert treadle.allclose(made.log_prob(x ** 3), D.Normal(0.0, 1.0).log_prob(x) - (3 * x * x).log(), atol=1e-5)
    assert repr(D.constraints.positive) == "GreaterThan(lower_bound=0.0)" and Cube().inv.inv(x).tolist() == (x ** 3).tolist()


def distributions(T: Any) -> list[tuple[Any, Any]]:
    d, rng = T.distributions, np.random.default_rng(0)

    def t(*shape: int, positive: bool = False) -> Any:
        values = rng.standard_normal(shape).astype(np.float32)
        return T.from_numpy(np.abs(values) + 0.1 if positive else values)
    normal, unit, vector = d.Normal(t(3), t(3, positive=True)), T.from_numpy(rng.uniform(0.1, 0.9, (4, 3)).astype(np.float32)), t(2, 3)
    compose = d.ComposeTransform([d.AffineTransform(0.5, -2.0), d.SigmoidTransform(), d.AffineTransform(1.0, 3.0)])
    return [
        (d.TransformedDistribution(normal, [d.ExpTransform()]), t(4, 3, positive=True)),
        (d.TransformedDistribution(normal, d.SigmoidTransform()), unit), (d.TransformedDistribution(normal, d.TanhTransform()), unit),
        (d.TransformedDistribution(normal, [d.AffineTransform(t(3), t(3)), d.SoftplusTransform()]), t(4, 3, positive=True)),
        (d.TransformedDistribution(normal, [compose]), 1 + 3 * unit), (d.TransformedDistribution(normal, d.ExpTransform().inv.inv), unit),
        (d.TransformedDistribution(d.Independent(normal, 1), [d.TanhTransform(), d.AffineTransform(0.0, t(3), event_dim=1)]), unit * 0.05),
        (d.TransformedDistribution(d.Normal(T.zeros(2, 3), 1.0), [d.AffineTransform(0.0, 2.0, event_dim=1), d.ExpTransform()]),
         vector.exp()),
        (d.TransformedDistribution(d.Exponential(T.ones(3)), [d.PowerTransform(T.tensor(2.0))]), t(4, 3, positive=True)),
        (d.TransformedDistribution(normal, d.IndependentTransform(d.ExpTransform(), 1)), t(4, 3, positive=True)),
        (d.TransformedDistribution(d.Uniform(T.zeros(3), 1.0), [d.SigmoidTransform().inv, d.AffineTransform(1.0, 0.5)]), t(4, 3))]


@pytest.mark.oracle
def test_transformed_distributions_as_pytorch() -> None:
    import torch
    for (mine, x), (want, y) in zip(distributions(treadle), distributions(torch), strict=True):
        assert tuple(mine.batch_shape) == tuple(want.batch_shape) and tuple(mine.event_shape) == tuple(want.event_shape)
        np.testing.assert_allclose(mine.log_prob(x).numpy(), want.log_prob(y).numpy(), rtol=1e-3, atol=1e-4)
        assert mine.sample((2,)).shape == want.sample((2,)).shape and mine.rsample().shape == want.rsample().shape
        if not want.event_shape:
            np.testing.assert_allclose(mine.cdf(x).numpy(), want.cdf(y).numpy(), rtol=1e-3, atol=1e-5)
            p = np.linspace(0.1, 0.9, 3).astype(np.float32)
            have = mine.icdf(treadle.from_numpy(p)).numpy()
            np.testing.assert_allclose(have, want.icdf(torch.from_numpy(p)).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.oracle
def test_constraints_as_pytorch() -> None:
    import torch
    names = ["real", "positive", "nonnegative", "unit_interval", "boolean", "nonnegative_integer", "positive_integer", "real_vector",
             "simplex", "one_hot", "lower_triangular", "lower_cholesky", "symmetric", "positive_definite"]
    values = [np.array([[0.5, 0.5], [-1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 3.0]]),
              np.array([[np.nan, 1.0], [0.25, 0.75]])]
    for name in [*names, ("interval", -1, 1), ("greater_than", 0.5), ("less_than", 1), ("half_open_interval", 0, 1),
                 ("integer_interval", 0, 1)]:
        found = []
        for T in (treadle, torch):
            c = getattr(T.distributions.constraints, name if isinstance(name, str) else name[0])
            c = c if isinstance(name, str) else c(*name[1:])
            some = values[:3 if name == "positive_definite" else 4]  # its factorization refuses nan
            found.append((c.event_dim, c.is_discrete, [c.check(T.from_numpy(v)).tolist() for v in some]))
        assert found[0] == found[1], name


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["Normal", "LogNormal", "Laplace", "Cauchy", "Gumbel", "Uniform", "Exponential"])
def test_probabilities_and_their_inverses_as_pytorch(name: str) -> None:
    import torch
    found = []
    for T in (treadle, torch):
        args = (T.tensor([0.5, 2.0]),) if name == "Exponential" else (T.tensor([-0.5, 0.25]), T.tensor([0.75, 2.0]))
        made = getattr(T.distributions, name)(*args)
        p, x = T.tensor([[0.1, 0.3], [0.5, 0.9]]), T.tensor([[0.1, 0.3], [0.5, 1.9]])
        found.append([made.icdf(p), made.cdf(made.icdf(p)), made.cdf(x) if name != "Uniform" else p,
                      made.mode if name not in ("Uniform", "Exponential") else p])
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)
