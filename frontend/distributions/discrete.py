"""Distributions over integers and classes, given by `probs` or `logits`."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import treadle
import treadle.nn.functional as F
from treadle.distributions.distribution import Distribution, broadcast, drawn
from treadle.tensor import Tensor


def _one(kind: str, probs: Any, logits: Any) -> None:
    if (probs is None) == (logits is None):
        raise ValueError(f"Either `probs` or `logits` must be specified, but not both ({kind})")


class _Binary(Distribution):
    """A success probability, as `probs` or as `logits`."""

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        _one(type(self).__name__, probs, logits)
        if probs is not None:
            (self.probs,) = broadcast(probs)
            self.check((self.probs >= 0) & (self.probs <= 1), "probs")
            bounded = self.probs.clamp(1.1920929e-07, 1 - 1.1920929e-07)
            self.logits = bounded.log() - (-bounded).log1p()
        else:
            (self.logits,) = broadcast(logits)
            self.probs = self.logits.sigmoid()
        super().__init__(self.probs.shape)


class Bernoulli(_Binary):
    """1 with probability `probs`."""

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    @property
    def mode(self) -> Tensor:
        return (self.probs >= 0.5).to(self.probs.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with treadle.no_grad():
            return treadle.bernoulli(self.probs.detach().expand(self._extended(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        logits, value = treadle.broadcast_tensors(self.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value.to(logits.dtype), reduction="none")

    def entropy(self) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")


class Geometric(_Binary):
    """Failures before the first success."""

    @property
    def mean(self) -> Tensor:
        return 1.0 / self.probs - 1.0

    @property
    def variance(self) -> Tensor:
        return (1.0 / self.probs - 1.0) / self.probs

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with treadle.no_grad():
            u = treadle.rand(self._extended(sample_shape), dtype=self.probs.dtype).clamp(min=1.1754944e-38)
            return (u.log() / (-self.probs).log1p()).floor()

    def log_prob(self, value: Tensor) -> Tensor:
        return value * (-self.probs).log1p() + self.probs.log()

    def entropy(self) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none") / self.probs


class Binomial(_Binary):
    """Successes in `total_count` trials."""

    def __init__(self, total_count: Any = 1, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        super().__init__(probs, logits)
        self.total_count, self.probs, self.logits = broadcast(total_count, self.probs, self.logits)
        self._batch_shape = tuple(self.probs.shape)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return drawn(lambda g, p: g.binomial(p[0].astype("int64"), p[1].astype("float64")), self._extended(sample_shape), self.total_count,
                     self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        n = self.total_count
        choose = treadle.lgamma(n + 1) - treadle.lgamma(value + 1) - treadle.lgamma(n - value + 1)
        return choose + value * F.logsigmoid(self.logits) + (n - value) * F.logsigmoid(-self.logits)


class Categorical(Distribution):
    """Class i with probability probs[..., i] (normalised), or by `logits`."""

    def __init__(self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None) -> None:
        _one("Categorical", probs, logits)
        given = probs if probs is not None else logits
        assert given is not None
        if given.dim() < 1:
            raise ValueError("`probs` parameter must be at least one-dimensional." if probs is not None
                             else "`logits` parameter must be at least one-dimensional.")
        if probs is not None:
            self.check(probs >= 0, "probs")
            self.probs = probs / probs.sum(-1, keepdim=True)
            self.logits = self.probs.clamp(1.1920929e-07, 1 - 1.1920929e-07).log()
        else:
            assert logits is not None
            self.logits = logits - logits.logsumexp(-1, keepdim=True)
            self.probs = F.softmax(self.logits, -1)
        super().__init__(given.shape[:-1])

    @property
    def mean(self) -> Tensor:
        return treadle.full(self._batch_shape, math.nan)

    @property
    def mode(self) -> Tensor:
        return self.probs.argmax(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The largest of logits plus Gumbel noise: class i with its probability."""
        with treadle.no_grad():
            shape = (*tuple(sample_shape), *self.logits.shape)
            u = treadle.rand(shape, dtype=self.logits.dtype).clamp(min=1.1754944e-38)
            return (self.logits.detach() - (-u.log()).clamp(min=1e-30).log()).argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        index = value.long().unsqueeze(-1)
        shape = treadle.broadcast_shapes(index.shape[:-1], self.logits.shape[:-1])
        return self.logits.expand(*shape, self.logits.size(-1)).gather(-1, index.expand(*shape, 1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits.clamp(min=-3.4028235e38)).sum(-1)


class OneHotCategorical(Distribution):
    """A Categorical whose samples are one-hot vectors."""

    def __init__(self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None) -> None:
        self._categorical = Categorical(probs, logits)
        self.probs, self.logits = self._categorical.probs, self._categorical.logits
        super().__init__(self._categorical._batch_shape, self.probs.shape[-1:])

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return F.one_hot(self._categorical.sample(sample_shape), self.probs.size(-1)).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._categorical.log_prob(value.argmax(-1))

    def entropy(self) -> Tensor:
        return self._categorical.entropy()


class Multinomial(Distribution):
    """Counts of each class in `total_count` draws."""

    def __init__(self, total_count: int = 1, probs: Tensor | None = None, logits: Tensor | None = None,
                 validate_args: bool | None = None) -> None:
        self.total_count = total_count
        self._categorical = Categorical(probs, logits)
        self.probs, self.logits = self._categorical.probs, self._categorical.logits
        super().__init__(self._categorical._batch_shape, self.probs.shape[-1:])

    @property
    def mean(self) -> Tensor:
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        drawn_classes = self._categorical.sample((self.total_count, *tuple(sample_shape)))
        return F.one_hot(drawn_classes, self.probs.size(-1)).sum(0).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return treadle.lgamma(value.sum(-1) + 1) - treadle.lgamma(value + 1).sum(-1) + (value * self.logits).sum(-1)


class Poisson(Distribution):
    """Counts of rare events at `rate`."""

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        (self.rate,) = broadcast(rate)
        super().__init__(self.rate.shape)
        self.check(self.rate >= 0, "rate")

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def variance(self) -> Tensor:
        return self.rate

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return drawn(lambda g, p: g.poisson(p[0].astype("float64")), self._extended(sample_shape), self.rate)

    def log_prob(self, value: Tensor) -> Tensor:
        return treadle.xlogy(value, self.rate) - self.rate - treadle.lgamma(value + 1)
