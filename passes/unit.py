"""A unit: what becomes one step. Kernel units own axes, stores, and the values computed inside."""
from __future__ import annotations

from typing import NamedTuple

from treadle.ir.graph import Node, Value
from treadle.ir.size import evenly
from treadle.passes.index import Axes, Expr, Guard, Index, by_coefficient, covers, linearize


class Store(NamedTuple):
    """`value` at `index` is written at position `place` of the buffer of `target` (the value itself, but for a cat)."""

    value: Value
    index: Index  # type: ignore[assignment]  # a field, not tuple.index
    target: Value
    place: Expr


class Site(NamedTuple):
    """Where a unit wants a value."""

    unit: "Unit"
    index: Index  # type: ignore[assignment]  # a field, not tuple.index
    guard: Guard


class Unit:
    """`node` is None for a kernel. `low`: position in the graph of its earliest stored value; `high`: of its latest."""

    __slots__ = ("argument", "axes", "count", "deps", "high", "inside", "leaves", "loads", "low", "merged", "node", "parallel", "reduce",
                 "reduced", "stores")

    def __init__(self, axes: Axes, node: Node | None, position: int) -> None:
        self.axes = axes
        self.node = node
        self.parallel: list[int] = []
        self.reduce: list[int] = []
        self.stores: list[Store] = []
        self.loads: dict[Value, None] = {}       # values read from memory
        self.leaves: dict[Value, None] = {}      # the same, and values not decided yet
        self.inside: dict[Node, int] = {}        # nodes computed here, with their positions
        self.reduced: dict[Node, Index] = {}     # for each reduction, its operand's index over the reduced dims
        self.argument = False                    # holds an argmax or argmin: its one reduce axis must stay one
        self.count = 0
        self.deps: dict[Unit, None] = {}
        self.merged: Unit | None = None
        self.low = self.high = position

    def find(self) -> "Unit":
        """The unit this one was merged into, or itself."""
        unit = self
        while unit.merged is not None:
            unit = unit.merged
        if unit is not self:
            self.merged = unit
        return unit

    def parallel_atoms(self) -> list[int]:
        return self.axes.atoms(self.parallel)

    def reduce_atoms(self) -> list[int]:
        return self.axes.atoms(self.reduce)

    def place(self, value: Value, index: Index) -> Store:
        return Store(value, index, value, linearize(index, value.shape))

    def covered(self, index: Index, shape: tuple[int, ...], whole: bool = False) -> bool:
        """Whether reading at `index` visits each element exactly once: over the whole domain or, unless `whole`, as a row value."""
        resolved = self.axes.resolve_index(index)
        parallel = self.parallel_atoms()
        if not self.reduce:
            return covers(self.axes, resolved, shape, parallel)
        return ((not whole and covers(self.axes, resolved, shape, parallel))
                or covers(self.axes, resolved, shape, parallel + self.reduce_atoms()))

    def halves(self, place: Expr, numel: int) -> bool:
        """Whether reading at a place in memory visits every second of `numel` elements exactly once over the whole domain."""
        expr = self.axes.resolve(place)
        if not expr.terms or any([c.__class__ is int and c % 2 for _, c in expr.terms]):
            return False  # before anything is asked about sizes
        if expr.const not in (0, 1) or not evenly(numel, 2) or not all([evenly(c, 2) for _, c in expr.terms]):
            return False
        half = Expr(0, tuple([(axis, c // 2) for axis, c in expr.terms]))
        return covers(self.axes, (half,), (numel // 2,), self.parallel_atoms() + self.reduce_atoms())

    def neighbours(self) -> list["Unit"]:
        """Units this one reads from, merged ones replaced."""
        found = {u.find(): None for u in self.deps}
        found.pop(self, None)
        self.deps = found
        return list(found)


def extent(axes: Axes, atoms: list[int]) -> int:
    total = 1
    for a in atoms:
        total *= axes.size[a]
    return total


def reaches(start: Unit, targets: set[Unit], budget: int = 400) -> bool:
    """Whether `start` depends, directly or not, on one of `targets`. True as well when finding out would take too long."""
    floor = min(t.low for t in targets)
    stack, seen = [start], {start}
    while stack:
        for unit in stack.pop().neighbours():
            if unit in targets:
                return True
            if unit not in seen and unit.high > floor:
                seen.add(unit)
                stack.append(unit)
                if len(seen) > budget:
                    return True
    return False


def unify(axes: Axes, kept: Unit, other: Unit, here: Index, there: Index) -> bool:
    """Make the axes of `other` those of `kept`, given one value read at `here` and `there`. False when they do not match.

    Splits made before a mismatch is found stay: they change nothing that is computed.
    """
    pairs: list[tuple[int, int]] = []
    for a, b in zip(here, there, strict=True):
        if not _match(axes, a, b):
            return False
    kinds = set(kept.reduce_atoms()), set(other.reduce_atoms())
    for a, b in zip(axes.resolve_index(here), axes.resolve_index(there), strict=True):
        pairs += zip(_radix(a), _radix(b), strict=True)
    if any((x in kinds[0]) != (y in kinds[1]) for x, y in pairs):
        return False
    for x, y in pairs:
        if x != y:
            axes.unify(x, y)
    return True


def _radix(expr: Expr) -> list[int]:
    return [a for a, _ in by_coefficient(expr.terms)]


def _match(axes: Axes, a: Expr, b: Expr) -> bool:
    """Split axes until both expressions have digits of the same sizes."""
    for _ in range(32):
        x, y = _radix(axes.resolve(a)), _radix(axes.resolve(b))
        at = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if axes.size[p] != axes.size[q]), None)
        if at is None:
            return len(x) == len(y)
        big, small = (x[at], y[at]) if axes.size[x[at]] > axes.size[y[at]] else (y[at], x[at])
        if not axes.split(big, axes.size[small]):
            return False
    return False
