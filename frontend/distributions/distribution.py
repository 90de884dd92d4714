"""The base of all distributions, and what they share."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import treadle
from treadle.random import reserve
from treadle.tensor import Tensor

Shape = tuple[int, ...]


def broadcast(*values: Any) -> list[Tensor]:
    """Numbers and tensors as tensors of one shape."""
    given = [v for v in values if isinstance(v, Tensor)]
    dtype = given[0].dtype if given else treadle.get_default_dtype()
    tensors = [v if isinstance(v, Tensor) else treadle.tensor(float(v), dtype=dtype) for v in values]
    return list(treadle.broadcast_tensors(*tensors))


def drawn(draw: Callable[[np.random.Generator, tuple[np.ndarray, ...]], np.ndarray], shape: Shape, *parameters: Tensor) -> Tensor:
    """A sample that numpy draws on the host, from the default stream's next numbers; no gradient."""
    seed, offset = reserve(max(int(np.prod(shape)), 1))
    generator = np.random.Generator(np.random.Philox(key=int(seed) % (1 << 64), counter=[int(offset), 0, 0, 1]))
    arrays = tuple([p.detach().expand(shape[:len(shape) - p.dim()] + tuple(p.shape)).numpy(force=True) for p in parameters])
    return treadle.tensor(np.asarray(draw(generator, arrays)).astype(arrays[0].dtype))


class Distribution:
    """`batch_shape` independent draws of things of `event_shape`. `validate_args` is accepted; parameters are checked either way."""

    has_rsample = False
    has_enumerate_support = False
    arg_constraints: dict[str, Any] = {}

    def __init__(self, batch_shape: Sequence[int] = (), event_shape: Sequence[int] = (), validate_args: bool | None = None) -> None:
        self._batch_shape, self._event_shape = tuple(batch_shape), tuple(event_shape)

    @property
    def batch_shape(self) -> Any:
        return treadle.Size(self._batch_shape)

    @property
    def event_shape(self) -> Any:
        return treadle.Size(self._event_shape)

    def _extended(self, sample_shape: Sequence[int] = ()) -> Shape:
        return (*tuple(sample_shape), *self._batch_shape, *self._event_shape)

    def check(self, good: Tensor, what: str) -> None:
        """ValueError unless every parameter is legal; looks at values."""
        if not bool(good.all()):
            raise ValueError(f"Expected parameter {what} of distribution {type(self).__name__} to satisfy its constraint, "
                             "but found invalid values")

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A sample through which gradients flow to the parameters; NotImplementedError where that is not available."""
        raise NotImplementedError(f"{type(self).__name__}.rsample is not available: use sample()")

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A sample of shape sample_shape + batch_shape + event_shape, without gradient."""
        with treadle.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the density or mass at `value`: sample_shape + batch_shape."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """In nats, one for each of the batch."""
        raise NotImplementedError(f"{type(self).__name__}.entropy is not available")

    def cdf(self, value: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__}.cdf is not available")

    def icdf(self, value: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__}.icdf is not available")

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    def perplexity(self) -> Tensor:
        return self.entropy().exp()

    def __repr__(self) -> str:
        values = [f"{k}: {v if v.numel() == 1 else tuple(v.shape)}" for k, v in vars(self).items()
                  if isinstance(v, Tensor) and not k.startswith("_")]
        return f"{type(self).__name__}({', '.join(values)})"


class Independent(Distribution):
    """The last axes of a batch taken as one event."""

    def __init__(self, base_distribution: Distribution, reinterpreted_batch_ndims: int, validate_args: bool | None = None) -> None:
        n = reinterpreted_batch_ndims
        batch = base_distribution._batch_shape
        if n > len(batch):
            raise ValueError(f"Expected reinterpreted_batch_ndims <= len(base_distribution.batch_shape), actual {n} vs {len(batch)}")
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, n
        cut = len(batch) - n
        super().__init__(batch[:cut], batch[cut:] + base_distribution._event_shape)
        self.has_rsample = base_distribution.has_rsample

    def _summed(self, value: Tensor) -> Tensor:
        n = self.reinterpreted_batch_ndims
        return value.sum(tuple(range(-n, 0))) if n else value

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.base_dist.rsample(sample_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._summed(self.base_dist.log_prob(value))

    def entropy(self) -> Tensor:
        return self._summed(self.base_dist.entropy())

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance
