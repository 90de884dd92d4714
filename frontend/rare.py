"""Functions that few programs name: draws of counts, powers, types' names, an older convolution."""
from __future__ import annotations

from typing import Any

import numpy as np

import treadle
from treadle.creation import adopt, to_array
from treadle.ir.dtypes import FLOAT
from treadle.nn import functional as F
from treadle.random import Generator, default_generator
from treadle.tensor import Tensor

# The names that `treadle` takes from here, when they are first asked for.
__all__ = ["binomial", "conv_tbc", "is_storage", "poisson", "typename", "vander"]


def typename(obj: Any) -> str:
    """The name of an object's type; of a tensor, that of its older class for its dtype."""
    if isinstance(obj, Tensor):
        return str(obj.type())
    kind = type(obj) if not callable(obj) or not hasattr(obj, "__qualname__") else obj
    module = getattr(kind, "__module__", "")
    return kind.__qualname__ if module in ("builtins", "", None) else f"{module}.{kind.__qualname__}"


def is_storage(obj: Any) -> bool:
    """Whether an object is a storage of its own: there are none here."""
    return False


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Tensor:
    """The matrix of powers of a vector (n) -> (n, N), the highest first unless `increasing`."""
    if x.dim() != 1:
        raise RuntimeError("x must be a one-dimensional tensor.")
    powers: Tensor = treadle.linalg.vander(x.to(treadle.int64) if x.dtype.category < FLOAT else x, N=x.size(0) if N is None else N)
    return powers if increasing else powers.flip(-1)


def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """conv1d of input (T, N, C) by weight (K, C, O) -> (T', N, O)."""
    found: Tensor = F.conv1d(input.permute(1, 2, 0), weight.permute(2, 1, 0), bias, padding=pad).permute(2, 0, 1)
    return found


def _drawn(generator: Generator | None) -> np.random.Generator:
    """numpy's generator, from the next bits of a generator here."""
    bits = treadle.randint(0, 2 ** 31 - 1, (4,), generator=generator or default_generator)
    return np.random.default_rng(to_array(bits).tolist())


def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """A draw for each rate. RuntimeError for rates below 0."""
    rates = to_array(input.detach())
    if (rates < 0).any():
        raise RuntimeError("invalid Poisson rate, expected rate to be non-negative")
    return adopt(_drawn(generator).poisson(rates.astype(np.float64)).astype(rates.dtype).reshape(rates.shape), input)


def binomial(count: Tensor, prob: Tensor, generator: Generator | None = None) -> Tensor:
    """A draw for each number of trials and probability."""
    n, p = np.broadcast_arrays(to_array(count.detach()), to_array(prob.detach()))
    if (p < 0).any() or (p > 1).any() or (n < 0).any():
        raise RuntimeError("binomial: expected counts of at least 0 and probabilities between 0 and 1")
    return adopt(np.asarray(_drawn(generator).binomial(n.astype(np.int64), p.astype(np.float64))).astype(p.dtype).reshape(p.shape), prob)
