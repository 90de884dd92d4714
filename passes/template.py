"""Programs for sizes that were not met before, without planning again.

Graphs that differ in sizes alone form a family (`treadle.passes.family`). One of them is planned with the numbers that differ from
another one as unknowns (`treadle.ir.size`); the other may be imagined (`treadle.passes.imagine`). What comes out is a program whose sizes
are polynomials, and the conditions under which the planner would have decided the same (`treadle.passes.recipe`), or nearly, where only
speed depends on it. Further members have their programs from it. Most often that includes special ones, of one row say; what is left of
them is planned as if it were like another one, so that it takes the same kernels.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

from treadle.ir.graph import Graph
from treadle.ir.op import Op, result_types
from treadle.ir.size import Size, Sizes, evaluated
from treadle.ir.types import TensorType, tensor_type
from treadle.passes import family
from treadle.passes.family import UNPLANNABLE, Numbers, Unfit, with_numbers
from treadle.passes.program import Program
from treadle.passes.recipe import Recipe

Column = tuple[int, ...]
CHANCE = "sizes that happen to be equal"


class Template:
    """What planning gave for the last of some members of a family, as a function of its numbers. `varies`: positions of those not taken
    as fixed. `special`: it is planned as the member before it; `imagined`: it is planned for that one, all others are cases to look at."""

    def __init__(self, graph: Graph, members: Sequence[Numbers], varies: set[int], plan: Callable[[Graph], Program],
                 special: bool = False, imagined: bool = False) -> None:
        columns = list(zip(*members, strict=True))
        varying = {columns[i] for i in varies}
        ruled = _met_as_results(graph, columns)
        cases = len(members) if imagined else 1 + special
        while True:
            sizes = Sizes(special, exact=family.ALONE, of_data=imagined)
            given = sorted(varying - ruled, key=lambda column: column[::-1])
            numbers = _Numbers(columns, varying, _unknowns(sizes, given, cases), sizes.cases)
            unknown_graph = with_numbers(graph, numbers, numbers.results)
            if not numbers.missed:
                break
            ruled -= numbers.missed
        by_name = numbers.by_name and not family.ALONE
        if special and not by_name:
            raise Unfit(CHANCE)
        program = plan(unknown_graph)
        if sizes.by_name and not by_name:
            raise Unfit(CHANCE)
        self._recipe = Recipe(sizes, numbers.found, program, by_name)
        self.special = sizes.special and cases < 3  # what is so in three cases is not so by chance
        sizes.forget()

    def program(self, numbers: Numbers) -> Program | Literal[False] | None:
        """The program of a member, None where the planner might decide differently; False is for sizes that happen to be equal where they
        usually are not: others will hardly be like them."""
        return self._recipe.program(numbers)


class _Numbers:
    """The numbers of a graph for `with_numbers`: of inputs and attributes the `unknown` sizes of columns that vary, and of results what
    type rules make of these.

    If the rules tell them all (`by_name`), as in any usual case, that sizes differ is no condition: what is planned for different ones is
    right for equal ones too. `missed`: columns met as results first that the rules do not tell.
    """

    def __init__(self, columns: list[Column], varying: set[Column], unknown: dict[Column, Any], cases: list[dict[str, int]]) -> None:
        self.columns, self.varying, self.unknown, self.cases = columns, varying, unknown, cases
        self.found: list[Any] = []
        self.missed: set[Column] = set()
        self.by_name = True

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        column = self.columns[len(self.found)]
        number = self.unknown.get(column, column[-1])
        if number is column[-1] and column in self.varying:
            self.missed.add(column)
        self.found.append(number)
        return number

    def results(self, op: Op, operands: tuple[TensorType, ...], attrs: tuple[Any, ...], given: list[TensorType]) -> list[TensorType]:
        try:
            shapes: list[tuple[Any, ...]] = [made.shape for made in result_types(op, operands, attrs)]
        except UNPLANNABLE:
            shapes = []
        if [len(s) for s in shapes] != [len(old.shape) for old in given]:
            shapes = [(None,) * len(old.shape) for old in given]
        return [tensor_type(tuple(map(self._result, shape)), old.dtype, old.device, old.weak)
                for shape, old in zip(shapes, given, strict=True)]

    def _result(self, ruled: Any) -> Any:
        column = self.columns[len(self.found)]
        if not self._right(ruled, column):
            self.by_name = False
            return next(self)
        if column in self.varying:
            self.unknown.setdefault(column, ruled)
        self.found.append(ruled)
        return ruled

    def _right(self, ruled: Any, column: Column) -> bool:
        """Whether it is what stood there in all cases that are known."""
        if ruled.__class__ is Size:
            others = zip(self.cases, column[-2::-1], strict=False)
            return ruled.value == column[-1] and all([evaluated(ruled, case) == n for case, n in others])
        return column == (ruled,) * len(column)


def _met_as_results(graph: Graph, columns: list[Column]) -> set[Column]:
    """The columns that are first met as sizes of results."""
    given: set[Column] = set()
    found: set[Column] = set()
    rest = iter(columns)

    def numbers() -> Iterator[int]:
        for column in rest:
            if column not in found:
                given.add(column)
            yield column[-1]

    def results(op: Op, operands: tuple[TensorType, ...], attrs: tuple[Any, ...], types: list[TensorType]) -> list[TensorType]:
        found.update([c for c in islice(rest, sum([len(t.shape) for t in types])) if c not in given])
        return types
    with_numbers(graph, numbers(), results)
    return found


def _unknowns(sizes: Sizes, columns: list[Column], cases: int) -> dict[Column, Any]:
    """A size for each column: the numbers that stood in one place in several members of a family. The last ones are cases to look at.

    Equal columns are taken to be one size, and columns that are multiples, neighbours or products of others to be just that. Members of
    which this is not true do not get the template.
    """
    found: dict[Column, Any] = {}
    for column in columns:
        made = next((m for other, size in found.items() if (m := _related(column, other, size, found)) is not None), None)
        found[column] = sizes.unknown(f"s{len(sizes.unknowns)}", *column[:-1 - cases:-1]) if made is None else made
    return found


def _related(column: Column, other: Column, size: Any, known: dict[Column, Any]) -> Any:
    """The size of a column by that of another, when it is a multiple, a neighbour or, with a third, a product of it; else None."""
    a, x = column[-1], other[-1]
    if x and a % x == 0 and all([b == y * (a // x) for b, y in zip(column, other, strict=True)]):
        return size * (a // x)
    if all([b - y == a - x for b, y in zip(column, other, strict=True)]):
        return size + (a - x)
    return next((size * more for third, more in known.items()
                 if all([b == y * z for b, y, z in zip(column, other, third, strict=True)])), None)
