"""Sizes of an ONNX graph that may be dynamic, told from the sizes that several recordings of one function had.

A size is a vector: what it was in each recording. One that never changed is a constant. Any other is an axis of a tensor at hand, or
is computed from such axes.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

Vector = tuple[int, ...]


def is_constant(vector: tuple[Any, ...]) -> bool:
    return all(n == vector[0] for n in vector)


class Sizes:
    """Finds, for a size, a name that holds it as int64 of shape [1].

    emit(op, *operands): appends an ONNX operation on names and int64 constants, and returns its result.
    """

    def __init__(self, emit: Callable[..., Any]) -> None:
        self.emit = emit
        self.axes: dict[Vector, tuple[Any, int]] = {}  # the first tensor with an axis of this size
        self.made: dict[Vector, Any] = {}

    def learn(self, tensor: Any, shape: list[Vector]) -> None:
        """`tensor` has these sizes."""
        for axis, vector in enumerate(shape):
            if not is_constant(vector):
                self.axes.setdefault(vector, (tensor, axis))

    def scalar(self, vector: Vector) -> Any:
        """The size; NotImplementedError when it follows from no axis at hand."""
        found = self.made.get(vector)
        if found is None:
            found = self.made[vector] = self._of_axis(vector) or self._derived(vector)
        return found

    def several(self, vectors: list[Vector]) -> Any:
        """Several sizes as one int64 tensor, or a list of ints when none changes."""
        if all(is_constant(v) for v in vectors):
            return [v[0] for v in vectors]
        parts: list[Any] = []
        for vector in vectors:
            if not is_constant(vector):
                parts.append(self.scalar(vector))
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(vector[0])
            else:
                parts.append([vector[0]])
        return parts[0] if len(parts) == 1 else self.emit("Concat", *parts, axis=0)

    def _of_axis(self, vector: Vector) -> Any:
        if vector not in self.axes:
            return None
        tensor, axis = self.axes[vector]
        return self.emit("Gather", self.emit("Shape", tensor), [axis], axis=0)

    def _derived(self, vector: Vector) -> Any:
        for rule in (self._linear, self._product, self._sum):
            for known, steps in rule(vector):
                found = known
                for op, operand in steps:
                    found = self.emit(op, found, self.scalar(operand) if isinstance(operand, tuple) else [operand])
                return found
        raise NotImplementedError(f"the size {' or '.join(map(str, vector))} follows from no size of an input")

    def _linear(self, vector: Vector) -> Iterator[tuple[Any, list[Any]]]:
        """a * known // b + c."""
        for known in list(self.axes):
            pairs = list(zip(known, vector, strict=True))
            (x, u), (y, v) = pairs[0], next(((y, v) for y, v in pairs if y != pairs[0][0]), pairs[0])
            if x == y or (v - u) * 1.0 == 0:
                continue
            shared = math.gcd(v - u, y - x)
            a, b = (v - u) // shared, (y - x) // shared
            a, b = (a, b) if b > 0 else (-a, -b)
            rest = u - a * x // b
            if all((a * n) % b == 0 and m == a * n // b + rest for n, m in pairs):
                steps = [("Mul", a)] * (a != 1) + [("Div", b)] * (b != 1) + [("Add", rest)] * (rest != 0)
                yield self.scalar(known), steps

    def _product(self, vector: Vector) -> Iterator[tuple[Any, list[Any]]]:
        """The product of two, times or over a constant."""
        known = list(self.axes)
        for i, one in enumerate(known):
            for other in known[i:]:
                whole = tuple([a * b for a, b in zip(one, other, strict=True)])
                if 0 in whole or 0 in vector:
                    continue
                if all(v % w == 0 for v, w in zip(vector, whole, strict=True)):
                    ratio, op = [v // w for v, w in zip(vector, whole, strict=True)], "Mul"
                elif all(w % v == 0 for v, w in zip(vector, whole, strict=True)):
                    ratio, op = [w // v for v, w in zip(vector, whole, strict=True)], "Div"
                else:
                    continue
                if is_constant(tuple(ratio)):
                    yield self.scalar(one), [("Mul", other)] + [(op, ratio[0])] * (ratio[0] != 1)

    def _sum(self, vector: Vector) -> Iterator[tuple[Any, list[Any]]]:
        """The sum of two and a constant."""
        known = list(self.axes)
        for i, one in enumerate(known):
            for other in known[i + 1:]:
                rest = tuple([v - a - b for v, a, b in zip(vector, one, other, strict=True)])
                if is_constant(rest):
                    yield self.scalar(one), [("Add", other)] + [("Add", rest[0])] * (rest[0] != 0)
