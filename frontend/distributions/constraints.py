"""Constraints: which values are legal. `check(value)` says so for each event."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treadle
from treadle.tensor import Tensor

_SLACK = 1e-6  # of sums of probabilities, and of symmetry


class Constraint:
    """The values for which `check` holds. event_dim: how many of the last axes make one value."""

    is_discrete = False
    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        """A bool for each event."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}()"


class _Simple(Constraint):
    """A constraint by a function."""

    def __init__(self, name: str, good: Callable[[Tensor], Tensor], event_dim: int = 0, is_discrete: bool = False) -> None:
        self._name, self._good, self.event_dim, self.is_discrete = name, good, event_dim, is_discrete

    def check(self, value: Tensor) -> Tensor:
        return self._good(value)

    def __repr__(self) -> str:
        return self._name


class independent(Constraint):
    """A constraint of elements as one of their last axes together."""

    def __init__(self, base_constraint: Constraint, reinterpreted_batch_ndims: int) -> None:
        self.base_constraint, self.reinterpreted_batch_ndims = base_constraint, reinterpreted_batch_ndims
        self.event_dim, self.is_discrete = base_constraint.event_dim + reinterpreted_batch_ndims, base_constraint.is_discrete

    def check(self, value: Tensor) -> Tensor:
        found = self.base_constraint.check(value)
        if found.dim() < self.reinterpreted_batch_ndims:
            raise ValueError(f"Expected value.dim() >= {self.event_dim} but got {value.dim()}")
        n = self.reinterpreted_batch_ndims
        return found.flatten(-n).all(-1) if n else found

    def __repr__(self) -> str:
        return f"Independent({self.base_constraint!r}, {self.reinterpreted_batch_ndims})"


def _bounded(name: str, good: Callable[..., Tensor], fields: tuple[str, ...], whole: bool = False) -> Any:
    """A class of constraints with bounds, which are its fields."""
    def make(self: Any, *bounds: Any, **named: Any) -> None:
        given = dict(zip(fields, bounds, strict=False)) | named
        if set(given) != set(fields):
            raise TypeError(f"{name}() takes {', '.join(fields)}")
        self.__dict__.update(given)

    def check(self: Any, value: Tensor) -> Tensor:
        return good(value, *[getattr(self, f) for f in fields])

    def text(self: Any) -> str:
        return f"{''.join(part.capitalize() for part in name.split('_'))}({', '.join(f'{f}={getattr(self, f)}' for f in fields)})"
    return type(name, (Constraint,), {"__init__": make, "check": check, "__repr__": text, "is_discrete": whole, "__doc__":
                                      f"Values by their bounds: {', '.join(fields)}."})


greater_than = _bounded("greater_than", lambda v, low: v > low, ("lower_bound",))
greater_than_eq = _bounded("greater_than_eq", lambda v, low: v >= low, ("lower_bound",))
less_than = _bounded("less_than", lambda v, high: v < high, ("upper_bound",))
interval = _bounded("interval", lambda v, low, high: (v >= low) & (v <= high), ("lower_bound", "upper_bound"))
half_open_interval = _bounded("half_open_interval", lambda v, low, high: (v >= low) & (v < high), ("lower_bound", "upper_bound"))
integer_interval = _bounded("integer_interval", lambda v, low, high: (v % 1 == 0) & (v >= low) & (v <= high),
                            ("lower_bound", "upper_bound"), True)


def _triangular(v: Tensor) -> Tensor:
    return (v.tril() == v).flatten(-2).all(-1)


def _symmetric(v: Tensor) -> Tensor:
    return ((v - v.mT).abs() < _SLACK).flatten(-2).all(-1)


real = _Simple("Real()", lambda v: v == v)
boolean = _Simple("Boolean()", lambda v: (v == 0) | (v == 1), is_discrete=True)
positive, nonnegative = greater_than(0.0), greater_than_eq(0.0)
unit_interval = interval(0.0, 1.0)
nonnegative_integer = _Simple("NonnegativeInteger()", lambda v: (v % 1 == 0) & (v >= 0), is_discrete=True)
positive_integer = _Simple("PositiveInteger()", lambda v: (v % 1 == 0) & (v >= 1), is_discrete=True)
real_vector = independent(real, 1)
simplex = _Simple("Simplex()", lambda v: (v >= 0).all(-1) & ((v.sum(-1) - 1).abs() < _SLACK), 1)
one_hot = _Simple("OneHot()", lambda v: ((v == 0) | (v == 1)).all(-1) & (v.sum(-1) == 1), 1, True)
lower_triangular = _Simple("LowerTriangular()", _triangular, 2)
lower_cholesky = _Simple("LowerCholesky()", lambda v: _triangular(v) & (v.diagonal(dim1=-2, dim2=-1) > 0).all(-1), 2)
symmetric = _Simple("Symmetric()", _symmetric, 2)
positive_definite = _Simple("PositiveDefinite()", lambda v: _symmetric(v) & (treadle.linalg.cholesky_ex(v).info == 0), 2)


class dependent_property(property):
    """A property that is a constraint of other parameters."""

    def __init__(self, fn: Any = None, *, is_discrete: bool = False, event_dim: int = 0) -> None:
        super().__init__(fn)
        self.is_discrete, self.event_dim = is_discrete, event_dim

    def __call__(self, fn: Any) -> dependent_property:
        return dependent_property(fn, is_discrete=self.is_discrete, event_dim=self.event_dim)


__all__ = ["Constraint", "boolean", "dependent_property", "greater_than", "greater_than_eq", "half_open_interval", "independent",
           "integer_interval", "interval", "less_than", "lower_cholesky", "lower_triangular", "nonnegative", "nonnegative_integer",
           "one_hot", "positive", "positive_definite", "positive_integer", "real", "real_vector", "simplex", "symmetric", "unit_interval"]
