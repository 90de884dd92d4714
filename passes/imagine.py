"""What a graph would be for another size of its data: a member of its family that nobody has recorded yet.

Batches and sentences come in several sizes, so a graph is planned for all of them when it is met first. Which sizes go together is told by
the type rules. A wrong guess costs nothing but the chance: a template is used only where all numbers are in the relations it was made for.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import EXTENTS, result_types
from treadle.ir.types import TensorType, tensor_type

# Sizes to imagine: unlikely ones, of which the products tell what they are products of.
_OTHERS = (37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113)

# More axes, and more sizes in an attribute, than there are.
EVERY = 1 << 10
# Sizes that are taken to be the batch, one after another: each follows the graph until something does not go together.
MOST_TRIES = 3

Attrs = tuple[Any, ...]


def imagined(graph: Graph, numbers: list[int]) -> list[int] | None:
    """The numbers of a graph (see `treadle.passes.family.skeleton`) for another batch; None if it cannot be told what would change.

    A batch is taken to be the leading size of the first result, or else of inputs, those with most axes first. Other axes may have that
    size by chance: leading ones are tried alone first.
    """
    other = next((n for n in _OTHERS if n not in numbers), 0)
    if not other:
        return None
    results = [o.type.shape for node in graph.nodes for o in node.outputs if o.type.shape]
    inputs = sorted([v.type.shape for v in graph.inputs if v.type.shape], key=len, reverse=True)
    sizes = [n for n in dict.fromkeys([shape[0] for shape in results[:1] + inputs]) if n > 2]  # 1 and 2 are everywhere
    tries = (_Imagined(graph, size, other, axes).numbers for size in sizes[:MOST_TRIES] for axes in (1, EVERY))
    return next((found for found in tries if found is not None), None)


class _Imagined:
    """The graph again, with `size` become `other` among the first `axes` axes of inputs, and whatever follows from that in results."""

    def __init__(self, graph: Graph, size: int, other: int, axes: int) -> None:
        self.size, self.other = size, other
        self.become = {size: other}
        self.types: dict[Value, TensorType] = {}
        self.numbers: list[int] | None = []
        for value in graph.inputs:
            shape = value.type.shape
            self._note(value, _with_shape(value.type, tuple([other if n == size else n for n in shape[:axes]]) + shape[axes:]))
        for node in graph.nodes:
            if not self._follow(node):
                self.numbers = None
                return

    def _note(self, value: Value, type: TensorType) -> None:
        self.types[value] = type
        assert self.numbers is not None
        self.numbers += type.shape

    def _follow(self, node: Node) -> bool:
        """Find the attributes under which the op goes together with its operands; False if there are none."""
        assert node.op is not None and self.numbers is not None
        operands = tuple([self.types[v] for v in node.inputs])
        for attrs in self._attributes(node):
            try:
                found = result_types(node.op, operands, attrs)
            except (IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
                continue
            if all([len(a.shape) == len(o.type.shape) and a.dtype is o.type.dtype for a, o in zip(found, node.outputs, strict=True)]):
                for name, attr in zip(node.op.attrs, attrs, strict=True):
                    if name in EXTENTS:
                        self.numbers += _integers(attr)
                for value, type in zip(node.outputs, found, strict=True):
                    for n, m in zip(value.type.shape, type.shape, strict=True):
                        if n != m:
                            self.become.setdefault(n, m)
                    self._note(value, type)
                return True
        return False

    def _attributes(self, node: Node) -> Iterator[Attrs]:
        """With every size that may change changed, only the first such one, or none; then the same for multiples of them too."""
        assert node.op is not None
        if not any([name in EXTENTS for name in node.op.attrs]):
            yield node.attrs
            return
        extents = [name in EXTENTS for name in node.op.attrs]
        for change in (self.become.get, self._multiple):
            for most in (EVERY, 1, 0):
                left = [most]
                yield tuple([_changed(a, change, left) if e else a for e, a in zip(extents, node.attrs, strict=True)])

    def _multiple(self, n: int) -> int | None:
        found = self.become.get(n)
        return n // self.size * self.other if found is None and n and n % self.size == 0 else found


def _changed(attr: Any, change: Callable[[int], int | None], left: list[int]) -> Any:
    """Up to `left` integers of an attribute changed."""
    if attr.__class__ is tuple:
        return tuple([_changed(a, change, left) for a in attr])
    found = change(attr) if attr.__class__ is int and left[0] else None
    if found is None:
        return attr
    left[0] -= 1
    return found


def _integers(attr: Any) -> list[int]:
    if attr.__class__ is tuple:
        return [n for a in attr for n in _integers(a)]
    return [attr] if attr.__class__ is int else []


def _with_shape(type: TensorType, shape: tuple[int, ...]) -> TensorType:
    return type if shape == type.shape else tensor_type(shape, type.dtype, type.device, type.weak)
