"""Tensor's methods that fill it with random draws, in place."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from treadle import creation
from treadle.functions import MUL, TABLE, cast
from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT, DType
from treadle.random import Generator
from treadle.tensor import Tensor, apply, assign, check_writable


def _filled(self: Tensor, value: Tensor, name: str) -> Tensor:
    check_writable(self, name)
    return assign(self, cast(value, self._data.type.dtype), name)


def _need_real(name: str, self: Tensor) -> None:
    if self._data.type.dtype.is_complex:
        raise NotImplementedError(f"{name}: a continuous probability distribution of real numbers, but got {self._data.type}")


def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Uniform in [a, b). RuntimeError when a > b."""
    if a > b:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={a} > to={b}")
    u = creation.rand(self._data.type.shape, dtype=self._data.type.dtype, generator=generator)
    return _filled(self, u if (a, b) == (0.0, 1.0) else apply(TABLE["add"], (apply(MUL, (u, float(b) - float(a))), float(a))), "uniform_")


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Normal with this mean and standard deviation. RuntimeError when the latter is negative."""
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    z = creation.randn(self._data.type.shape, dtype=self._data.type.dtype, generator=generator)
    return _filled(self, apply(TABLE["add"], (apply(MUL, (z, float(std))), float(mean))), "normal_")


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """1 with probability p (a number or a tensor), else 0."""
    u = creation.rand(self._data.type.shape, dtype=dtypes.float32, generator=generator)
    return _filled(self, apply(TABLE["lt"], (u, p)), "bernoulli_")


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Exponential with rate `lambd`. RuntimeError unless it is positive."""
    if lambd <= 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd}")
    _need_real("exponential_", self)
    draws = creation.drawn("random_exponential", self, self._data.type.dtype, generator)
    return _filled(self, apply(MUL, (draws, 1.0 / lambd)), "exponential_")


def _largest(dtype: DType) -> int:
    """Up to where `random_` draws by default: what the dtype counts exactly, at most 31 bits."""
    if dtype.category == FLOAT:
        return {2: 1 << 8 if dtype is dtypes.bfloat16 else 1 << 11, 4: 1 << 24, 8: (1 << 31) - 1}[dtype.itemsize]
    return 2 if dtype is dtypes.bool_ else min((1 << (8 * dtype.itemsize - dtype.signed)) - 1, (1 << 31) - 1)


def random_(self: Tensor, low: int = 0, high: int | None = None, *, generator: Generator | None = None) -> Tensor:
    """Integers uniform in [low, high); one argument is the upper end."""
    if high is None:
        low, high = 0, low or _largest(self._data.type.dtype)
    return _filled(self, creation.randint(low, high, self._data.type.shape, generator=generator), "random_")


def log_normal_(self: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None) -> Tensor:
    """exp of normal draws. RuntimeError unless std > 0."""
    if std <= 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std}")
    _need_real("log_normal_", self)
    return assign(normal_(self, mean, std, generator=generator), apply(TABLE["exp_of_draws"], (self,)), "log_normal_")


def cauchy_(self: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Draws of a Cauchy distribution. RuntimeError unless sigma > 0."""
    if sigma <= 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma}")
    _need_real("cauchy_", self)
    draws = creation.drawn("random_cauchy", self, self._data.type.dtype, generator)
    return _filled(self, apply(TABLE["add"], (apply(MUL, (draws, float(sigma))), float(median))), "cauchy_")


def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """How many trials of probability p until the first success: 1, 2, ... RuntimeError unless 0 < p < 1."""
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p}")
    _need_real("geometric_", self)
    dtype = self._data.type.dtype
    wide = dtype if dtype.category == FLOAT and dtype.itemsize > 2 else dtypes.float32
    failures = apply(MUL, (creation.drawn("random_exponential", self, wide, generator), -1.0 / math.log1p(-p)))
    return _filled(self, apply(TABLE["add"], (apply(TABLE["floor"], (failures,)), 1)), "geometric_")


METHODS: dict[str, Callable[..., Tensor]] = {f.__name__: f for f in (
    uniform_, normal_, bernoulli_, exponential_, random_, log_normal_, cauchy_, geometric_)}
