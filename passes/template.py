"""Programs for sizes that were not met before, without planning again.

Graphs that differ in sizes alone form a family (`treadle.passes.family`). One of them is planned with the numbers that differ from
another one as unknowns (`treadle.ir.size`); the other may be imagined (`treadle.passes.imagine`). What comes out is a program whose sizes
are polynomials, and the conditions under which the planner would have decided the same (`treadle.passes.recipe`), or nearly, where only
speed depends on it. Further members have their programs from it. Most often that includes special ones, of one row say; what is left of
them is planned as if it were like another one, so that it takes the same kernels.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from treadle.ir.graph import Graph
from treadle.ir.op import result_types
from treadle.ir.size import Sizes
from treadle.passes import family
from treadle.passes.family import UNPLANNABLE, Numbers, Unfit, with_numbers
from treadle.passes.program import Program
from treadle.passes.recipe import Recipe


class Template:
    """What planning gave for the last of some members of a family, as a function of its numbers. `varies`: positions of those not taken
    as fixed. `special`: it is planned as the member before it; `imagined`: it is planned for that one."""

    def __init__(self, graph: Graph, members: Sequence[Numbers], varies: set[int], plan: Callable[[Graph], Program],
                 special: bool = False, imagined: bool = False) -> None:
        sizes = Sizes(special, exact=family.ALONE)
        columns = list(zip(*members, strict=True))
        cases = 1 + (special or imagined)
        unknown = _unknowns(sizes, sorted({columns[i] for i in varies}, key=lambda column: column[::-1]), cases)
        found = [unknown[column] if i in varies else column[-1] for i, column in enumerate(columns)]
        unknown_graph = with_numbers(graph, iter(found))
        by_name = not family.ALONE and _typed_by_name(unknown_graph)
        if special and not by_name:
            raise Unfit("sizes that happen to be equal")
        self._recipe = Recipe(sizes, found, plan(unknown_graph), by_name)
        self.special = sizes.special
        sizes.forget()

    def program(self, numbers: Numbers) -> Program | Literal[False] | None:
        """The program of a member, None where the planner might decide differently; False is for sizes that happen to be equal where they
        usually are not: others will hardly be like them."""
        return self._recipe.program(numbers)


def _typed_by_name(graph: Graph) -> bool:
    """Whether the sizes of results follow from the names of those of operands, as in any usual case: a size of 1 may be what others are, or
    what is repeated. If so, that sizes differ is no condition: what is planned for different ones is right for equal ones too."""
    for node in graph.nodes:
        assert node.op is not None
        try:
            found = result_types(node.op, tuple([v.type for v in node.inputs]), node.attrs)
        except UNPLANNABLE:
            return False
        for made, out in zip(found, node.outputs, strict=True):
            if len(made.shape) != len(out.type.shape) or not all(map(_identical, made.shape, out.type.shape)):
                return False
    return True


def _identical(a: Any, b: Any) -> bool:
    return a is b or (a.__class__ is int and b.__class__ is int and a == b)


Column = tuple[int, ...]


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
