"""Programs for sizes that were not met before, without planning again.

Graphs that differ in sizes alone form a family (`treadle.passes.family`). When a second member comes, it is planned with the numbers
that differ as unknowns (`treadle.ir.size`); what comes out is a program whose sizes are polynomials, and the conditions under which
the planner would have decided the same. When a third comes, both are turned into one Python function, which further members call. Its
source is kept: `Template.source`. A special member, of one row say, is planned as if it were like another one, so that it takes the
same kernels.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from operator import itemgetter
from typing import Any, Literal

from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.kernel import Kernel
from treadle.ir.op import result_types
from treadle.ir.routine import Routine
from treadle.ir.size import Size, Sizes, each_size, evaluated, text
from treadle.ir.types import TensorType, tensor_type
from treadle.passes.build import scalar_bits
from treadle.passes.family import Numbers, Unfit, with_numbers
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

_TUPLES = (Ref, Matrix, Windows, ScalarRef, ScalarInfo, ErrorCell)
_RECORDS = (KernelStep, GroupStep, GemmStep, RoutineStep, HostStep, LoopStep, BufferInfo)


class Template:
    """What planning gave for the last of some members of a family, as a function of its numbers. `varies`: positions of those not taken
    as fixed. `special`: it is planned as the member before it."""

    def __init__(self, graph: Graph, members: Sequence[Numbers], varies: set[int], plan: Callable[[Graph], Program],
                 special: bool = False) -> None:
        sizes = Sizes(special)
        columns = list(zip(*members, strict=True))
        unknown = _unknowns(sizes, sorted({columns[i] for i in varies}, key=lambda column: column[::-1]))
        found = [unknown[column] if i in varies else column[-1] for i, column in enumerate(columns)]
        unknown_graph = with_numbers(graph, iter(found))
        if special:
            _check_types(unknown_graph)
        self._own = members[-1]
        self._parts: tuple[_Source, Program] | None = (_Source(sizes, found), plan(unknown_graph))
        self._function: Callable[[Numbers], Program | Literal[False] | None]
        self.source = ""
        self.special = sizes.special

    def program(self, numbers: Numbers) -> Program | Literal[False] | None:
        """The program of another member, None where the planner might decide differently; False is for sizes that happen to be equal
        where they usually are not: others will hardly be like them."""
        if self._parts is not None:
            writer, planned = self._parts
            if numbers == self._own:
                return writer.own(planned)
            (self.source, self._function), self._parts = writer.function(planned), None
        return self._function(numbers)


def _check_types(graph: Graph) -> None:
    """Unfit unless the sizes of results follow from those of operands as in any usual case: a size of 1 may be what others are, or what is
    repeated."""
    for node in graph.nodes:
        assert node.op is not None
        found = result_types(node.op, tuple([v.type for v in node.inputs]), node.attrs)
        for made, out in zip(found, node.outputs, strict=True):
            if len(made.shape) != len(out.type.shape) or not all(map(_identical, made.shape, out.type.shape)):
                raise Unfit(f"{node.op.name}: sizes that happen to be equal")


def _identical(a: Any, b: Any) -> bool:
    return a is b or (a.__class__ is int and b.__class__ is int and a == b)


Column = tuple[int, ...]


def _unknowns(sizes: Sizes, columns: list[Column]) -> dict[Column, Any]:
    """A size for each column: the numbers that stood in one place in several members of a family.

    Equal columns are taken to be one size, and columns that are multiples, neighbours or products of others to be just that. Members of
    which this is not true do not get the template.
    """
    found: dict[Column, Any] = {}
    for column in columns:
        made = next((m for other, size in found.items() if (m := _related(column, other, size, found)) is not None), None)
        found[column] = sizes.unknown(f"s{len(sizes.unknowns)}", *column[:-3:-1]) if made is None else made
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


def _picker(positions: list[int]) -> Callable[[Numbers], tuple[int, ...]]:
    return itemgetter(*positions, positions[0])  # of one position alone it would not give a tuple


class _Source:
    """Writes a template's function from a family's numbers to a program, None or False."""

    def __init__(self, sizes: Sizes, numbers: list[Any]) -> None:
        self.sizes = sizes
        self.constants: dict[int, str] = {}
        self.namespace: dict[str, Any] = {c.__name__: c for c in (*_TUPLES, *_RECORDS, Program)}
        self.namespace |= {"scalar_bits": scalar_bits, "renewed": renewed}
        self.shared: dict[str, str] = {}
        self.lines = self._facts(numbers)

    def _facts(self, numbers: list[Any]) -> list[str]:
        """The numbers are as they were, or in the relations to one another in which they were."""
        lines = []
        fixed = [i for i, n in enumerate(numbers) if n.__class__ is int]
        if fixed:
            pick = _picker(fixed)
            lines.append(f"if {self.constant(pick)}(numbers) != {self.constant(pick(numbers))}: return None")
        places = {id(n): i for i, n in enumerate(numbers)}  # by identity: a comparison would be a condition
        lines += [f"{text(s)} = numbers[{places[id(s)]}]" for s in self.sizes.unknowns]
        for size in dict.fromkeys([n for n in numbers if n.__class__ is Size]):
            pick = _picker([i for i, n in enumerate(numbers) if n is size])
            lines.append(f"if {{*{self.constant(pick)}(numbers)}} != {{{text(size)}}}: return None")
        return lines

    def function(self, program: Program) -> tuple[str, Callable[[Numbers], Program | Literal[False] | None]]:
        """The source, and what it defines."""
        parts = [self.code(part) for part in (program.steps, program.buffers, program.inputs, program.outputs, program.scalars)]
        names = [text(s) for s in (*self.sizes.unknowns, *self.sizes.quotients.values())]
        lines = ["def program(numbers):", *self.lines, *self.sizes.definitions]
        lines += [f"if not ({condition}): return {False if differ else None}" for condition, differ in self.sizes.conditions()]
        lines += [f"{name} = {code}" for code, name in self.shared.items()]
        lines += [f"names = {{{', '.join([f'{n!r}: {n}' for n in names])}}}", f"return Program({', '.join(parts)})"]
        source = "\n    ".join(lines)
        exec(compile(source, "<template>", "exec"), self.namespace)
        return source, self.namespace["program"]

    def own(self, program: Program) -> Program:
        """The program of the member that was planned."""
        names = {text(s): s.value for s in (*self.sizes.unknowns, *self.sizes.quotients.values()) if s.__class__ is Size}
        parts = (program.steps, program.buffers, program.inputs, program.outputs, program.scalars)
        return Program(*[_known(part, names) for part in parts])

    def code(self, value: Any) -> str:
        """An expression for a part of a program."""
        kind = value.__class__
        if kind is Size:
            return self.number(value)
        if kind in (int, bool, str) or value is None:
            return repr(value)
        if kind is SizeBits:
            return f"scalar_bits({self.number(value.size)}, {self.constant(value.dtype)})"
        if kind in _TUPLES:
            return f"{kind.__name__}({', '.join([self.code(v) for v in value])})"
        if kind in _RECORDS:
            return f"{kind.__name__}({', '.join([self.field(value, f.name) for f in fields(kind)])})"
        if kind is tuple:
            return f"({''.join([self.code(v) + ', ' for v in value])})"
        if kind is list:
            return f"[{', '.join([self.code(v) for v in value])}]"
        if isinstance(value, Kernel | Routine | DType):
            return self.constant(value)
        raise TypeError(f"a template cannot hold {value!r}")

    def field(self, record: Any, name: str) -> str:
        value = getattr(record, name)
        if name == "nodes" or (name == "node" and isinstance(record, GemmStep | LoopStep)):  # only for their names and lines
            return self.constant(value)
        return f"renewed({self.constant(value)}, names)" if name == "node" else self.code(value)

    def number(self, size: Size) -> str:
        code = text(size)
        return code if code.isidentifier() else self.shared.setdefault(code, f"x{len(self.shared)}")

    def constant(self, value: Any) -> str:
        name = self.constants.setdefault(id(value), f"k{len(self.constants)}")
        self.namespace[name] = value
        return name


def _known(value: Any, names: Mapping[str, int]) -> Any:
    """A part of a program in the case in which its sizes were computed."""
    kind = value.__class__
    if kind is Size:
        return value.value
    if kind is SizeBits:
        return scalar_bits(value.size.value, value.dtype)
    if kind in _TUPLES:
        return kind(*[_known(v, names) for v in value])
    if kind in _RECORDS:
        return kind(*[_known(getattr(value, f.name), names) for f in fields(kind)])
    if kind is Node:
        return renewed(value, names)
    if kind is tuple or kind is list:
        return kind([_known(v, names) for v in value])
    return value


def renewed(node: Node, names: Mapping[str, int]) -> Node:
    """The node with its sizes known; its operands keep only their types."""
    def number(size: Size) -> int:
        return evaluated(size, names)

    def known(type: TensorType) -> TensorType:
        shape = each_size(type.shape, number)
        return type if shape is type.shape else tensor_type(shape, type.dtype, type.device, type.weak)
    inputs = tuple([Value(v.node, v.index, known(v.type)) for v in node.inputs])
    return Node(node.op, inputs, each_size(node.attrs, number), tuple([known(o.type) for o in node.outputs]), node.loc)
