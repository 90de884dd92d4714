"""TransformedDistribution: what becomes of draws that go through transforms."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.distributions.distribution import Distribution, Independent
from treadle.distributions.transforms import ComposeTransform, Transform, summed
from treadle.tensor import Tensor


class TransformedDistribution(Distribution):
    """Draws of `base_distribution` through `transforms`, one or a list. log_prob needs inverses and derivatives of them."""

    def __init__(self, base_distribution: Distribution, transforms: Transform | Sequence[Transform],
                 validate_args: bool | None = None) -> None:
        self.transforms = [transforms] if isinstance(transforms, Transform) else list(transforms)
        if not all(isinstance(t, Transform) for t in self.transforms):
            raise ValueError(f"transforms must be a Transform or a list of Transforms, but was {transforms}")
        whole = ComposeTransform(self.transforms)
        shape = tuple(base_distribution._batch_shape) + tuple(base_distribution._event_shape)
        if len(shape) < whole.domain.event_dim:
            raise ValueError(f"base_distribution needs to have shape with size at least {whole.domain.event_dim}, but got {shape}.")
        after = tuple(whole.forward_shape(shape))
        expanded = tuple(whole.inverse_shape(after))
        more = whole.domain.event_dim - len(base_distribution._event_shape)
        if expanded == shape and more > 0:
            base_distribution = Independent(base_distribution, more)
        self.base_dist = base_distribution
        events = whole.codomain.event_dim + max(len(base_distribution._event_shape) - whole.domain.event_dim, 0)
        cut = len(after) - events
        super().__init__(after[:cut], after[cut:])
        self.has_rsample = base_distribution.has_rsample

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        x = self.base_dist.sample(sample_shape)
        for t in self.transforms:
            x = t(x)
        return x.detach()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        x = self.base_dist.rsample(sample_shape)
        for t in self.transforms:
            x = t(x)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        depth, y, total = len(self._event_shape), value, 0.0
        for t in reversed(self.transforms):
            x = t.inv(y)
            depth += t.domain.event_dim - t.codomain.event_dim
            total = total - summed(t.log_abs_det_jacobian(x, y), depth - t.domain.event_dim)
            y = x
        return total + summed(self.base_dist.log_prob(y), depth - len(self.base_dist._event_shape))

    def _monotonic(self, value: Tensor) -> Tensor:
        """A probability, or its complement where the transforms fall."""
        sign: Any = 1
        for t in self.transforms:
            sign = sign * t.sign
        return value if isinstance(sign, int) and sign == 1 else sign * (value - 0.5) + 0.5

    def cdf(self, value: Tensor) -> Tensor:
        for t in reversed(self.transforms):
            value = t.inv(value)
        return self._monotonic(self.base_dist.cdf(value))

    def icdf(self, value: Tensor) -> Tensor:
        value = self.base_dist.icdf(self._monotonic(value))
        for t in self.transforms:
            value = t(value)
        return value


__all__ = ["TransformedDistribution"]
