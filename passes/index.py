"""Index propagation: affine expressions over kernel axes, and how views transform them.

To evaluate a value at an index is to evaluate its operands at transformed indices; views therefore cost nothing. An axis may
be split (outer, inner) when a reshape needs it; expressions that mention the old axis are brought up to date by `resolve`.
"""
from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

from treadle.ir.graph import Node
from treadle.ir.size import Size, beyond, evenly, in_order, surely, usually
from treadle.ir.types import Shape

MANY = 2  # sizes beyond it are what they are called, not what is repeated or left out

Terms = tuple[tuple[int, int], ...]


class Expr(NamedTuple):
    """const + sum of coefficient * axis; `terms` holds (axis, coefficient), sorted by axis, no zero coefficients."""

    const: int
    terms: Terms


Index = tuple[Expr, ...]
ZERO = Expr(0, ())


def by_coefficient(terms: Terms) -> list[tuple[int, int]]:
    """The smallest coefficient first: digits in turn, the last one first. An axis of size 1, whose digit is 0 wherever it stands, comes
    where it would if there were more."""
    if len(terms) < 2:
        return list(terms)
    return in_order(terms, itemgetter(1))


class Condition(NamedTuple):
    """0 <= expr < bound; `low` says whether the lower end needs checking, bound -1 that the upper does not."""

    expr: Expr
    low: bool
    bound: int


Guard = tuple[Condition, ...]


def combine(parts: list[tuple[Expr, int]], const: int = 0) -> Expr:
    """const + sum of factor * expr."""
    total: dict[int, int] = {}
    for expr, factor in parts:
        const += expr.const * factor
        for axis, coefficient in expr.terms:
            total[axis] = total.get(axis, 0) + coefficient * factor
    return Expr(const, tuple(sorted([(a, c) for a, c in total.items() if c])))


def shifted(expr: Expr, offset: int) -> Expr:
    return Expr(expr.const + offset, expr.terms)


def suffix_strides(shape: Shape) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def linearize(index: Index, shape: Shape) -> Expr:
    """The position of an element in a contiguous array of `shape`."""
    return combine(list(zip(index, suffix_strides(shape), strict=True)))


class Axes:
    """All axes of a program under construction: sizes, and what became of those that were split or unified."""

    def __init__(self) -> None:
        self.size: list[int] = []
        self.became: dict[int, Expr] = {}
        self.frozen: set[int] = set()

    def new(self, size: int) -> int:
        self.size.append(size)
        return len(self.size) - 1

    def fresh(self, shape: Shape) -> tuple[Index, list[int]]:
        """An index for `shape` with a new axis for every dimension that is not 1, and those axes."""
        axes: list[int] = []
        index = []
        for n in shape:
            if n == 1:
                index.append(ZERO)
            else:
                axes.append(self.new(n))
                index.append(Expr(0, ((axes[-1], 1),)))
        return tuple(index), axes

    def split(self, axis: int, inner: int) -> bool:
        """axis := outer * inner + rest. False when it may not be split."""
        if axis in self.frozen or not evenly(self.size[axis], inner):
            return False
        high, low = self.new(self.size[axis] // inner), self.new(inner)
        self.became[axis] = Expr(0, ((high, inner), (low, 1)))
        return True

    def unify(self, axis: int, other: int) -> None:
        """From now on `other` is `axis`."""
        self.became[other] = Expr(0, ((axis, 1),))
        if other in self.frozen:
            self.frozen.add(axis)

    def resolve(self, expr: Expr) -> Expr:
        became = self.became
        while any(a in became for a, _ in expr.terms):
            expr = combine([(became[a] if a in became else Expr(0, ((a, 1),)), c) for a, c in expr.terms], expr.const)
        return expr

    def resolve_index(self, index: Index) -> Index:
        became = self.became
        if not became or not any(a in became for e in index for a, _ in e.terms):
            return index
        return tuple([self.resolve(e) for e in index])

    def resolve_guard(self, guard: Guard) -> Guard:
        return tuple([Condition(self.resolve(c.expr), c.low, c.bound) for c in guard]) if guard else guard

    def atoms(self, axes: list[int]) -> list[int]:
        """The axes that `axes` became, outermost first, each once."""
        found: dict[int, None] = {}
        stack = list(reversed(axes))
        while stack:
            axis = stack.pop()
            became = self.became.get(axis)
            if became is None:
                found[axis] = None
            else:
                stack.extend(a for a, _ in by_coefficient(became.terms))
        return list(found)


def split_linear(axes: Axes, linear: Expr, shape: Shape) -> Index | None:
    """The index in `shape` of a linear position, splitting axes where that helps; None when it is not affine."""
    for _ in range(64):
        found = _digits(axes, axes.resolve(linear), shape)
        if not isinstance(found, int):
            return found
    return None


def _digits(axes: Axes, linear: Expr, shape: Shape) -> Index | int | None:
    """The digits of `linear` in the mixed radix of `shape`; None: impossible; an int: an axis was split, try again."""
    terms = [(axis, c, axes.size[axis]) for axis, c in linear.terms]
    unknown: list[Any] = [n for n in (linear.const, *shape, *[n for _, c, size in terms for n in (c, size)]) if n.__class__ is Size]
    if unknown and not unknown[0].sizes.exact and min(map(usually, unknown)) > MANY:
        # What is impossible as sizes usually are need not be asked about: a no is right for any.
        guess = [(axis, usually(c), usually(size)) for axis, c, size in terms]
        if _placed(usually(linear.const), guess, tuple(map(usually, shape)), lambda axis, inner: True) is None:
            return None
    return _placed(linear.const, terms, shape, axes.split)


def _placed(const: int, terms: list[tuple[int, int, int]], shape: Shape, split: Callable[[int, int], bool]) -> Index | int | None:
    """`_digits` of the sum of const and terms, each an axis, its coefficient and its size."""
    signed = []
    for axis, c, size in terms:  # a falling term counts as a rising one from its lowest value
        rises = c > 0
        if not rises:
            const += c * (size - 1)
        signed.append((axis, abs(c), size, 1 if rises else -1))
    index: list[Expr] = []
    for n in reversed(shape):
        keep, carry = [], []
        const, rest = (0, const) if surely(const, 0) and surely(n, const + 1) else (const // n, const % n)
        top = rest
        for axis, c, size, sign in signed:
            if evenly(c, n):
                carry.append((axis, c // n, size, sign))
                continue
            reach = c * size
            if reach != n and beyond(reach, n):
                if evenly(n, c) and evenly(size, n // c) and split(axis, n // c):
                    return 0
                if c * (size - 1) + top >= n:
                    return None
            keep.append((axis, c, size, sign))
            top += c * (size - 1)
        if top >= n:
            return None
        low = rest + sum([c * (size - 1) for _, c, size, sign in keep if sign < 0])
        index.append(Expr(low, tuple(sorted([(axis, c * sign) for axis, c, _, sign in keep]))))
        signed = carry
    return tuple(reversed(index)) if not signed and const == 0 else None


def broadcast_index(index: Index, shape: Shape) -> Index:
    """The index of an operand of `shape` when the result, to which it broadcasts, is read at `index`."""
    lead = len(index) - len(shape)
    return tuple([ZERO if n == 1 else index[lead + i] for i, n in enumerate(shape)])


def _permute(node: Node, index: Index) -> Index:
    out = [ZERO] * len(index)
    for expr, dim in zip(index, node.attr("dims"), strict=True):
        out[dim] = expr
    return tuple(out)


def _slice(node: Node, index: Index) -> Index:
    return tuple([combine([(e, step)], start) for e, start, step in zip(index, node.attr("starts"), node.attr("steps"), strict=True)])


def _flip(node: Node, index: Index) -> Index:
    dims, shape = node.attr("dims"), node.out.shape
    return tuple([combine([(e, -1)], shape[i] - 1) if i in dims else e for i, e in enumerate(index)])


_VIEWS = {
    "permute": _permute,
    "slice": _slice,
    "flip": _flip,
    "expand": lambda node, index: broadcast_index(index, node.inputs[0].shape),
}


def view_index(axes: Axes, node: Node, index: Index) -> Index | None:
    """Where the operand of a view is read when the view is read at `index`; None when only its memory can answer."""
    assert node.op is not None
    rule = _VIEWS.get(node.op.name)
    if rule is not None:
        return rule(node, index)
    if node.op.name == "reshape":
        return split_linear(axes, linearize(index, node.out.shape), node.inputs[0].shape)
    return None


def memory_index(node: Node, index: Index) -> Expr:
    """Where a reshape or as_strided reads its operand's contiguous memory."""
    assert node.op is not None
    if node.op.name == "as_strided":
        return combine(list(zip(index, node.attr("strides"), strict=True)), node.attr("offset"))
    return linearize(index, node.out.shape)


def covers(axes: Axes, index: Index, shape: Shape, over: list[int]) -> bool:
    """Whether `index` visits each element of `shape` exactly once as the axes `over` run."""
    seen: list[int] = []
    for expr, n in zip(index, shape, strict=True):
        reach = 1
        for axis, c in by_coefficient(expr.terms):
            if c != reach:
                return False
            reach *= axes.size[axis]
            seen.append(axis)
        if expr.const or reach != n:
            return False
    return len(seen) == len(over) and set(seen) == set(over)
