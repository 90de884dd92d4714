"""Distributions over real numbers and vectors."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import treadle
from treadle.distributions.distribution import Distribution, broadcast, drawn
from treadle.tensor import Tensor


class _LocationScale(Distribution):
    """What the families with a location and a scale share."""

    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast(loc, scale)
        super().__init__(self.loc.shape)
        self.check(self.scale > 0, "scale")

    def _uniform(self, sample_shape: Sequence[int]) -> Tensor:
        """Uniform in (0, 1)."""
        return treadle.rand(self._extended(sample_shape), dtype=self.loc.dtype).clamp(min=1.1754944e-38)

    @property
    def mean(self) -> Tensor:
        return self.loc


class Normal(_LocationScale):
    """Mean `loc`, standard deviation `scale`."""

    @property
    def variance(self) -> Tensor:
        return self.scale**2

    @property
    def mode(self) -> Tensor:
        return self.loc

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.loc + treadle.randn(self._extended(sample_shape), dtype=self.loc.dtype) * self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        return -((value - self.loc) ** 2) / (2 * self.scale**2) - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def entropy(self) -> Tensor:
        return 0.5 + 0.5 * math.log(2 * math.pi) + self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        return 0.5 * (1 + treadle.erf((value - self.loc) / (self.scale * math.sqrt(2))))

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * treadle.erfinv(2 * value - 1) * math.sqrt(2)


class LogNormal(Normal):
    """exp of a Normal."""

    @property
    def mean(self) -> Tensor:
        return (self.loc + self.scale**2 / 2).exp()

    @property
    def variance(self) -> Tensor:
        square = self.scale**2
        return square.expm1() * (2 * self.loc + square).exp()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return super().rsample(sample_shape).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.log()) - value.log()

    def entropy(self) -> Tensor:
        return super().entropy() + self.loc

    @property
    def mode(self) -> Tensor:
        return (self.loc - self.scale**2).exp()

    def cdf(self, value: Tensor) -> Tensor:
        return super().cdf(value.log())

    def icdf(self, value: Tensor) -> Tensor:
        return super().icdf(value).exp()


class Laplace(_LocationScale):
    """Density proportional to exp(-|x - loc| / scale)."""

    @property
    def variance(self) -> Tensor:
        return 2 * self.scale**2

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        u = self._uniform(sample_shape) - 0.5
        return self.loc - self.scale * u.sign() * treadle.log1p(-2 * u.abs() * (1 - 1e-7))

    def log_prob(self, value: Tensor) -> Tensor:
        return -(2 * self.scale).log() - (value - self.loc).abs() / self.scale

    def entropy(self) -> Tensor:
        return 1 + (2 * self.scale).log()

    @property
    def mode(self) -> Tensor:
        return self.loc

    def cdf(self, value: Tensor) -> Tensor:
        off = value - self.loc
        return 0.5 - 0.5 * off.sign() * (-off.abs() / self.scale).expm1()

    def icdf(self, value: Tensor) -> Tensor:
        off = value - 0.5
        return self.loc - self.scale * off.sign() * treadle.log1p(-2 * off.abs())


class Cauchy(_LocationScale):
    """Density 1 / (pi scale (1 + ((x - loc) / scale)**2))."""

    @property
    def mean(self) -> Tensor:
        return self.loc * math.nan

    @property
    def variance(self) -> Tensor:
        return self.loc * 0 + math.inf

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.loc + self.scale * treadle.tan(math.pi * (self._uniform(sample_shape) - 0.5))

    def log_prob(self, value: Tensor) -> Tensor:
        return -math.log(math.pi) - self.scale.log() - (((value - self.loc) / self.scale) ** 2).log1p()

    def entropy(self) -> Tensor:
        return math.log(4 * math.pi) + self.scale.log()

    @property
    def mode(self) -> Tensor:
        return self.loc

    def cdf(self, value: Tensor) -> Tensor:
        return treadle.atan((value - self.loc) / self.scale) / math.pi + 0.5

    def icdf(self, value: Tensor) -> Tensor:
        return treadle.tan(math.pi * (value - 0.5)) * self.scale + self.loc


class Gumbel(_LocationScale):
    """The limit of maxima: loc - scale * log(-log(u))."""

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * 0.5772156649015329

    @property
    def variance(self) -> Tensor:
        return (math.pi**2 / 6) * self.scale**2

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.loc - self.scale * (-(self._uniform(sample_shape).log())).clamp(min=1e-30).log()

    def log_prob(self, value: Tensor) -> Tensor:
        y = (self.loc - value) / self.scale
        return (y - y.exp()) - self.scale.log()

    def entropy(self) -> Tensor:
        return self.scale.log() + (1 + 0.5772156649015329)

    @property
    def mode(self) -> Tensor:
        return self.loc

    def cdf(self, value: Tensor) -> Tensor:
        return (-((self.loc - value) / self.scale).exp()).exp()

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc - self.scale * (-value.log()).log()


class HalfNormal(Distribution):
    """|x| of a Normal around 0."""

    has_rsample = True

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        self._base = Normal(0.0, scale)
        self.scale = self._base.scale
        super().__init__(self.scale.shape)

    @property
    def mean(self) -> Tensor:
        return self.scale * math.sqrt(2 / math.pi)

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * (1 - 2 / math.pi)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._base.rsample(sample_shape).abs()

    def log_prob(self, value: Tensor) -> Tensor:
        return treadle.where(value >= 0, self._base.log_prob(value) + math.log(2), -math.inf)

    def entropy(self) -> Tensor:
        return self._base.entropy() - math.log(2)


class Uniform(Distribution):
    """Uniform in [low, high)."""

    has_rsample = True

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None) -> None:
        self.low, self.high = broadcast(low, high)
        super().__init__(self.low.shape)
        if not bool((self.low < self.high).all()):
            raise ValueError("Uniform is not defined when low>= high")

    @property
    def mean(self) -> Tensor:
        return (self.high + self.low) / 2

    @property
    def variance(self) -> Tensor:
        return (self.high - self.low) ** 2 / 12

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.low + treadle.rand(self._extended(sample_shape), dtype=self.low.dtype) * (self.high - self.low)

    def log_prob(self, value: Tensor) -> Tensor:
        inside = (value >= self.low) & (value < self.high)
        return treadle.where(inside, 0.0, -math.inf) - (self.high - self.low).log()

    def cdf(self, value: Tensor) -> Tensor:
        return ((value - self.low) / (self.high - self.low)).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        return value * (self.high - self.low) + self.low

    def entropy(self) -> Tensor:
        return (self.high - self.low).log()


class Exponential(Distribution):
    """Density rate * exp(-rate * x)."""

    has_rsample = True

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        (self.rate,) = broadcast(rate)
        super().__init__(self.rate.shape)
        self.check(self.rate > 0, "rate")

    @property
    def mean(self) -> Tensor:
        return 1 / self.rate

    @property
    def variance(self) -> Tensor:
        return self.rate**-2

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return -treadle.log1p(-treadle.rand(self._extended(sample_shape), dtype=self.rate.dtype)) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        return self.rate.log() - self.rate * value

    def cdf(self, value: Tensor) -> Tensor:
        return 1 - (-self.rate * value).exp()

    def icdf(self, value: Tensor) -> Tensor:
        return -treadle.log1p(-value) / self.rate

    def entropy(self) -> Tensor:
        return 1 - self.rate.log()


class Gamma(Distribution):
    """Density proportional to x**(concentration - 1) * exp(-rate * x). Samples carry no gradient."""

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        self.concentration, self.rate = broadcast(concentration, rate)
        super().__init__(self.concentration.shape)
        self.check((self.concentration > 0) & (self.rate > 0), "concentration and rate")

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def variance(self) -> Tensor:
        return self.concentration / self.rate**2

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return drawn(lambda g, p: g.gamma(p[0]) / p[1], self._extended(sample_shape), self.concentration, self.rate)

    def log_prob(self, value: Tensor) -> Tensor:
        a, r = self.concentration, self.rate
        return treadle.xlogy(a, r) + treadle.xlogy(a - 1, value) - r * value - treadle.lgamma(a)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a - self.rate.log() + treadle.lgamma(a) + (1.0 - a) * treadle.digamma(a)


class Chi2(Gamma):
    """The sum of the squares of `df` standard normal numbers."""

    def __init__(self, df: Any, validate_args: bool | None = None) -> None:
        (self.df,) = broadcast(df)
        super().__init__(0.5 * self.df, 0.5)


class Dirichlet(Distribution):
    """Points of the simplex; concentration (..., K). Samples carry no gradient."""

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.dim() < 1:
            raise ValueError("`concentration` parameter must be at least one-dimensional.")
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:])
        self.check(concentration > 0, "concentration")

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, keepdim=True)

    @property
    def variance(self) -> Tensor:
        total = self.concentration.sum(-1, keepdim=True)
        return self.concentration * (total - self.concentration) / (total**2 * (total + 1))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        parts = drawn(lambda g, p: g.gamma(p[0]), self._extended(sample_shape), self.concentration).clamp(min=1e-37)
        return parts / parts.sum(-1, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        a = self.concentration
        return treadle.xlogy(a - 1, value).sum(-1) + treadle.lgamma(a.sum(-1)) - treadle.lgamma(a).sum(-1)

    def entropy(self) -> Tensor:
        a, k = self.concentration, self.concentration.size(-1)
        total = a.sum(-1)
        return (treadle.lgamma(a).sum(-1) - treadle.lgamma(total) - (k - total) * treadle.digamma(total)
                - ((a - 1.0) * treadle.digamma(a)).sum(-1))


class Beta(Distribution):
    """Density proportional to x**(concentration1 - 1) * (1 - x)**(concentration0 - 1) in (0, 1). Samples carry no gradient."""

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = broadcast(concentration1, concentration0)
        self._dirichlet = Dirichlet(treadle.stack([self.concentration1, self.concentration0], -1))
        super().__init__(self.concentration1.shape)

    @property
    def mean(self) -> Tensor:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def variance(self) -> Tensor:
        total = self.concentration1 + self.concentration0
        return self.concentration1 * self.concentration0 / (total**2 * (total + 1))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._dirichlet.sample(sample_shape).select(-1, 0)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._dirichlet.log_prob(treadle.stack([value, 1.0 - value], -1))

    def entropy(self) -> Tensor:
        return self._dirichlet.entropy()


class StudentT(Distribution):
    """`df` degrees of freedom, location and scale. Samples carry no gradient to `df`."""

    def __init__(self, df: Any, loc: Any = 0.0, scale: Any = 1.0, validate_args: bool | None = None) -> None:
        self.df, self.loc, self.scale = broadcast(df, loc, scale)
        super().__init__(self.df.shape)
        self.check((self.df > 0) & (self.scale > 0), "df and scale")

    @property
    def mean(self) -> Tensor:
        return treadle.where(self.df > 1, self.loc, math.nan)

    @property
    def variance(self) -> Tensor:
        finite = self.scale**2 * self.df / (self.df - 2)
        return treadle.where(self.df > 2, finite, treadle.where(self.df > 1, math.inf, math.nan))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.loc.detach() + self.scale.detach() * drawn(lambda g, p: g.standard_t(p[0]), self._extended(sample_shape), self.df)

    def log_prob(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        z = (self.scale.log() + 0.5 * self.df.log() + 0.5 * math.log(math.pi) + treadle.lgamma(0.5 * self.df)
             - treadle.lgamma(0.5 * (self.df + 1.0)))
        return -0.5 * (self.df + 1.0) * (y**2 / self.df).log1p() - z

    def entropy(self) -> Tensor:
        half, above = 0.5 * self.df, 0.5 * (self.df + 1.0)
        log_beta = treadle.lgamma(half) + 0.5 * math.log(math.pi) - treadle.lgamma(above)
        return self.scale.log() + above * (treadle.digamma(above) - treadle.digamma(half)) + 0.5 * self.df.log() + log_beta


class MultivariateNormal(Distribution):
    """Mean `loc` (..., K) and a covariance, precision or Cholesky factor (..., K, K)."""

    has_rsample = True

    def __init__(self, loc: Tensor, covariance_matrix: Tensor | None = None, precision_matrix: Tensor | None = None,
                 scale_tril: Tensor | None = None, validate_args: bool | None = None) -> None:
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        given = [m for m in (covariance_matrix, precision_matrix, scale_tril) if m is not None]
        if len(given) != 1:
            raise ValueError("Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified.")
        if scale_tril is None:
            scale_tril = treadle.linalg.cholesky(given[0] if precision_matrix is None else treadle.linalg.inv(given[0]))
        batch = treadle.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
        k = loc.size(-1)
        self.loc, self.scale_tril = loc.expand(*batch, k), scale_tril.expand(*batch, k, k)
        super().__init__(batch, (k,))

    @property
    def covariance_matrix(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    @property
    def precision_matrix(self) -> Tensor:
        return treadle.linalg.inv(self.covariance_matrix)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (self.scale_tril**2).sum(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        noise = treadle.randn(self._extended(sample_shape), dtype=self.loc.dtype)
        return self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)

    def _log_diagonal(self) -> Tensor:
        return self.scale_tril.diagonal(0, -2, -1).log().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        white = treadle.linalg.solve_triangular(self.scale_tril, (value - self.loc).unsqueeze(-1), upper=False)
        return -0.5 * (self.loc.size(-1) * math.log(2 * math.pi) + (white**2).sum((-2, -1))) - self._log_diagonal()

    def entropy(self) -> Tensor:
        return 0.5 * self.loc.size(-1) * (1.0 + math.log(2 * math.pi)) + self._log_diagonal()
