"""The Kullback-Leibler divergence between distributions of the same family."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treadle
from treadle.distributions.continuous import Beta, Dirichlet, Exponential, Gamma, Laplace, MultivariateNormal, Normal, Uniform
from treadle.distributions.discrete import Bernoulli, Categorical, Geometric, OneHotCategorical, Poisson
from treadle.distributions.distribution import Distribution, Independent
from treadle.tensor import Tensor

_RULES: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}


def register_kl(type_p: type, type_q: type) -> Callable[[Callable[[Any, Any], Tensor]], Callable[[Any, Any], Tensor]]:
    """Decorates the function that computes KL(p || q) for these classes and their subclasses."""
    def decorate(function: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
        _RULES[type_p, type_q] = function
        return function
    return decorate


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q), one for each of the batch. NotImplementedError when there is no rule for the two classes."""
    for a in type(p).__mro__:
        for b in type(q).__mro__:
            rule = _RULES.get((a, b))
            if rule is not None:
                return rule(p, q)
    raise NotImplementedError(f"No KL(p || q) is implemented for p type {type(p).__name__} and q type {type(q).__name__}")


@register_kl(Normal, Normal)
def _normal(p: Normal, q: Normal) -> Tensor:
    ratio = (p.scale / q.scale) ** 2
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale) ** 2 - 1 - ratio.log())


@register_kl(Laplace, Laplace)
def _laplace(p: Laplace, q: Laplace) -> Tensor:
    ratio, distance = p.scale / q.scale, (p.loc - q.loc).abs()
    return -ratio.log() + distance / q.scale + ratio * (-distance / p.scale).exp() - 1


@register_kl(Uniform, Uniform)
def _uniform(p: Uniform, q: Uniform) -> Tensor:
    found = ((q.high - q.low) / (p.high - p.low)).log()
    return treadle.where((q.low > p.low) | (q.high < p.high), float("inf"), found)


@register_kl(Exponential, Exponential)
def _exponential(p: Exponential, q: Exponential) -> Tensor:
    ratio = q.rate / p.rate
    return ratio - 1 - ratio.log()


@register_kl(Gamma, Gamma)
def _gamma(p: Gamma, q: Gamma) -> Tensor:
    return (q.concentration * (p.rate / q.rate).log() + treadle.lgamma(q.concentration) - treadle.lgamma(p.concentration)
            + (p.concentration - q.concentration) * treadle.digamma(p.concentration) + (q.rate - p.rate) * (p.concentration / p.rate))


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Dirichlet, q: Dirichlet) -> Tensor:
    a, b = p.concentration, q.concentration
    total = a.sum(-1)
    return (treadle.lgamma(total) - treadle.lgamma(b.sum(-1)) - treadle.lgamma(a).sum(-1) + treadle.lgamma(b).sum(-1)
            + ((a - b) * (treadle.digamma(a) - treadle.digamma(total).unsqueeze(-1))).sum(-1))


@register_kl(Beta, Beta)
def _beta(p: Beta, q: Beta) -> Tensor:
    return _dirichlet(p._dirichlet, q._dirichlet)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    yes = treadle.xlogy(p.probs, p.probs / q.probs)
    no = treadle.xlogy(1 - p.probs, (1 - p.probs) / (1 - q.probs))
    return yes + no


@register_kl(Geometric, Geometric)
def _geometric(p: Geometric, q: Geometric) -> Tensor:
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits


@register_kl(Categorical, Categorical)
@register_kl(OneHotCategorical, OneHotCategorical)
def _categorical(p: Categorical, q: Categorical) -> Tensor:
    return treadle.where(p.probs == 0, 0.0, p.probs * (p.logits - q.logits)).sum(-1)


@register_kl(Poisson, Poisson)
def _poisson(p: Poisson, q: Poisson) -> Tensor:
    return p.rate * (p.rate.log() - q.rate.log()) - (p.rate - q.rate)


@register_kl(MultivariateNormal, MultivariateNormal)
def _multivariate(p: MultivariateNormal, q: MultivariateNormal) -> Tensor:
    whitened = treadle.linalg.solve_triangular(q.scale_tril, p.scale_tril, upper=False)
    shift = treadle.linalg.solve_triangular(q.scale_tril, (q.loc - p.loc).unsqueeze(-1), upper=False)
    return q._log_diagonal() - p._log_diagonal() + 0.5 * ((whitened**2).sum((-2, -1)) + (shift**2).sum((-2, -1)) - p.loc.size(-1))


@register_kl(Independent, Independent)
def _independent(p: Independent, q: Independent) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise NotImplementedError("KL between Independent distributions of different reinterpreted_batch_ndims")
    return p._summed(kl_divergence(p.base_dist, q.base_dist))
