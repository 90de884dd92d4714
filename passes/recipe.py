"""Programs with unknown sizes as data: the numbers they need, all computed at once, and how their parts are put together from these.

No Python is generated: to compile it took longer than several members of a family then cost.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from treadle.ir.dtypes import DType
from treadle.ir.graph import Node, Value
from treadle.ir.kernel import Kernel
from treadle.ir.routine import Routine
from treadle.ir.size import Polynomial, Size, Sizes, each_size, evaluated
from treadle.ir.types import TensorType, tensor_type
from treadle.passes.build import scalar_bits
from treadle.passes.family import Numbers
from treadle.passes.program import (
    BufferInfo,
    ErrorCell,
    GemmStep,
    GroupStep,
    HostStep,
    KernelStep,
    LoopStep,
    Matrix,
    Program,
    Ref,
    RoutineStep,
    ScalarInfo,
    ScalarRef,
    SizeBits,
    Windows,
)

# How immutable parts are made of a tuple of theirs: without a call of Python.
_TUPLES: tuple[Any, ...] = (Ref, Matrix, Windows, ScalarRef, ScalarInfo, ErrorCell)
_MAKERS: dict[Any, Callable[..., Any]] = {tuple: tuple, **{kind: partial(tuple.__new__, kind) for kind in _TUPLES}}
_RECORDS = (KernelStep, GroupStep, GemmStep, RoutineStep, HostStep, LoopStep, BufferInfo)
_FIELDS = {kind: [f.name for f in fields(kind)] for kind in _RECORDS}
SIZE, CONSTANT, MADE = range(3)
Part = tuple[int, int]  # one of these, and a place among them
# Up to this doubles are exact integers.
MOST = 1 << 53


class Polynomials:
    """Polynomials in the same unknowns, evaluated together."""

    def __init__(self, sizes: Sizes) -> None:
        self.quotients = [(operator, a, b) for operator, a, b in sizes.quotients]
        unknown = [*sizes.unknowns, *sizes.quotients.values()]
        self.names = [size.polynomial[0][0][0] for size in unknown if size.__class__ is Size]
        self.rows: dict[Polynomial, int] = {}

    def row(self, polynomial: Polynomial) -> int:
        """Where `values` has it."""
        return self.rows.setdefault(polynomial, len(self.rows))

    def close(self) -> None:
        """No further ones come."""
        monomials: dict[tuple[str, ...], int] = {}
        for polynomial in self.rows:
            for monomial, _ in polynomial:
                monomials.setdefault(monomial, len(monomials))
        places = {name: i for i, name in enumerate(self.names)}
        degree = max(map(len, monomials), default=0)
        one = len(places)
        factors = [[places[n] for n in m] + [one] * (degree - len(m)) for m in monomials]
        self.factors = np.array(factors, np.intp).reshape(len(monomials), degree)
        self.coefficients = np.zeros((len(self.rows), len(monomials)))
        for polynomial, row in self.rows.items():
            for monomial, c in polynomial:
                self.coefficients[row, monomials[monomial]] = c

    def values(self, unknown: list[int]) -> np.ndarray | None:
        """All of them; None for numbers so large that one might not be exact."""
        names = dict(zip(self.names, unknown, strict=False))
        for name, (operator, a, b) in zip(self.names[len(unknown):], self.quotients, strict=True):
            over = evaluated(b, names)
            names[name] = 0 if not over else evaluated(a, names) // over if operator == "//" else evaluated(a, names) % over
        found = np.array([*names.values(), 1], np.float64)[self.factors].prod(1)
        if (np.abs(self.coefficients) @ np.abs(found)).max(initial=0) > MOST:
            return None
        values: np.ndarray = (self.coefficients @ found).astype(np.int64)
        return values


class Recipe:
    """A program whose sizes are polynomials in some numbers of a family, and the conditions under which it is the right one."""

    def __init__(self, sizes: Sizes, numbers: list[Any], program: Program, by_name: bool) -> None:
        self.polynomials = Polynomials(sizes)
        self._check_numbers(sizes, numbers)
        self._check_answers(sizes, by_name)
        # What makes a part, whether it takes its own parts one by one, and where those lie or, once all is known, what fetches them.
        self._makes: list[tuple[Callable[..., Any], bool, Any]] = []
        self._constants: list[Any] = []
        self._sizes: list[int] = []          # their rows
        self._places: dict[Any, Part] = {}   # of sizes and constants by id, of immutable parts by what they are made of
        parts = [self._part(p) for p in (program.steps, program.buffers, program.inputs, program.outputs, program.scalars, program.safe)]
        parts += [self._constant(p) for p in (program.packing, program.takers)]
        self._make(Program, parts)
        self._close()

    # -- which members it is for -------------------------------------------------------------------------------------
    def _check_numbers(self, sizes: Sizes, numbers: list[Any]) -> None:
        """They are as they were, or in the relations to one another in which they were."""
        fixed = [i for i, n in enumerate(numbers) if n.__class__ is int]
        self._fixed = np.array(fixed, np.intp), np.array([numbers[i] for i in fixed], np.int64)
        places = {id(n): i for i, n in enumerate(numbers)}  # by identity: a comparison would be a condition
        self._unknown = [places[id(s)] for s in sizes.unknowns]
        related = [i for i, n in enumerate(numbers) if n.__class__ is Size]
        self._related = np.array(related, np.intp), np.array([self.polynomials.row(numbers[i].polynomial) for i in related], np.intp)

    def _check_answers(self, sizes: Sizes, by_name: bool) -> None:
        checks = [check for check in sizes.checks() if not (by_name and check[2])]
        rows = np.array([self.polynomials.row(polynomial) for polynomial, _, _ in checks], np.intp)
        kinds = np.array([kind for _, kind, _ in checks], "U2")
        self._answers = rows, kinds == "==", kinds == "!=", kinds == ">=", [differ for _, _, differ in checks]

    def program(self, numbers: Numbers) -> Program | Literal[False] | None:
        """The program of a member, None where the planner might decide differently; False is for sizes that happen to be equal where they
        usually are not: others will hardly be like them."""
        given = np.array(numbers, np.int64)
        places, wanted = self._fixed
        if (given[places] != wanted).any():
            return None
        values = self.polynomials.values([numbers[i] for i in self._unknown])
        if values is None:
            return None
        places, rows = self._related
        if (given[places] != values[rows]).any():
            return None
        rows, equal, unequal, not_negative, differ = self._answers
        asked = values[rows]
        wrong = (equal & (asked != 0)) | (unequal & (asked == 0)) | (not_negative & (asked < 0))
        if wrong.any():
            return False if differ[int(wrong.argmax())] else None
        made: list[Any] = [*values[self._rows].tolist(), *self._constants]
        for make, several, operands in self._makes:
            parts = operands(made)
            made.append(make(*parts) if several else make(parts))
        found: Program = made[-1]
        return found

    # -- what it is made of ------------------------------------------------------------------------------------------
    def _part(self, value: Any) -> Part:
        """Where a part of the program will lie; what no size is in stays one object for all programs, if nobody changes it."""
        kind = value.__class__
        if kind is Size:
            return self._size(value)
        if kind is SizeBits:
            return self._once(scalar_bits, [self._part(value.size), self._constant(value.dtype)])
        if kind in _MAKERS:
            parts = [self._part(v) for v in value]
            return self._constant(value) if _constant(parts) else self._once(_MAKERS[kind], parts, False)
        if kind in _RECORDS:
            parts = [self._field(value, name) for name in _FIELDS[kind]]
            return self._constant(value) if _constant(parts) and kind is not BufferInfo else self._make(kind, parts)
        if kind is list:
            return self._make(list, [self._part(v) for v in value], False)
        if value is None or isinstance(value, int | str | Kernel | Routine | DType):
            return self._constant(value)
        raise TypeError(f"a template cannot hold {value!r}")

    def _field(self, record: Any, name: str) -> Part:
        value = getattr(record, name)
        if name == "nodes" or (name == "node" and isinstance(record, GemmStep | LoopStep)):  # only for their names and lines
            return self._constant(value)
        return self._node(value) if name == "node" else self._part(value)

    def _node(self, node: Node) -> Part:
        if node.regions:
            raise TypeError(f"a template cannot hold {node.op}, which the host runs")
        sizes: dict[int, Size] = {}
        types = [v.type.shape for v in (*node.inputs, *node.outputs)]
        each_size((*types, node.attrs), lambda size: sizes.setdefault(id(size), size))
        if not sizes:
            return self._constant(node)
        return self._make(partial(renewed, node, tuple(sizes)), [self._size(s) for s in sizes.values()])

    def _size(self, size: Size) -> Part:
        found = self._places.get(id(size))
        if found is None:
            found = self._places[id(size)] = SIZE, len(self._sizes)
            self._sizes.append(self.polynomials.row(size.polynomial))
        return found

    def _constant(self, value: Any) -> Part:
        found = self._places.get(id(value))
        if found is None:
            found = self._places[id(value)] = CONSTANT, len(self._constants)
            self._constants.append(value)
        return found

    def _once(self, make: Callable[..., Any], parts: list[Part], several: bool = True) -> Part:
        """One object for equal ones."""
        key = (make, *parts)
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = self._make(make, parts, several)
        return found

    def _make(self, make: Callable[..., Any], parts: list[Part], several: bool = True) -> Part:
        self._makes.append((make, several, parts))
        return MADE, len(self._makes) - 1

    def _close(self) -> None:
        """All is known: one list will have the sizes, the constants and what is made, in this order."""
        start = {SIZE: 0, CONSTANT: len(self._sizes), MADE: len(self._sizes) + len(self._constants)}
        self._makes = [(make, several, _fetcher([start[kind] + i for kind, i in parts])) for make, several, parts in self._makes]
        self._places = {}
        self._rows = np.array(self._sizes, np.intp)
        self.polynomials.close()


def _constant(parts: list[Part]) -> bool:
    return all([kind == CONSTANT for kind, _ in parts])


def _fetcher(places: list[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    if len(places) > 1:  # `itemgetter` of one place gives no tuple
        return itemgetter(*places)
    return lambda made: tuple([made[i] for i in places])


def renewed(node: Node, sizes: tuple[int, ...], *numbers: int) -> Node:
    """The node with its sizes, given by id, known; its operands keep only their types."""
    found = dict(zip(sizes, numbers, strict=False))

    def number(size: Size) -> int:
        return found[id(size)]

    def known(type: TensorType) -> TensorType:
        shape = each_size(type.shape, number)
        return type if shape is type.shape else tensor_type(shape, type.dtype, type.device, type.weak)
    inputs = tuple([Value(v.node, v.index, known(v.type)) for v in node.inputs])
    return Node(node.op, inputs, each_size(node.attrs, number), tuple([known(o.type) for o in node.outputs]), node.loc)
