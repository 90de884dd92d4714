"""Programs for sizes that were not met before, without planning again.

Graphs that differ in sizes alone form a family. When a third member comes, it is planned with the numbers that differ as unknowns
(`treadle.ir.size`); what comes out is a program whose sizes are polynomials, and the conditions under which the planner would have
decided the same. Both are turned into one Python function, which further members call. Its source is kept: `Template.source`.
"""
from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from operator import itemgetter
from typing import Any, Literal

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.kernel import Kernel
from treadle.ir.op import EXTENTS
from treadle.ir.routine import Routine
from treadle.ir.size import Size, Sizes, each_size, evaluated, text
from treadle.ir.types import TensorType, tensor_type
from treadle.passes.build import scalar_bits
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

MAX_FAMILIES = 256    # beyond, the one met longest ago is forgotten
MIN_MEMBERS = 2       # of a family that are planned alone: many a program meets one more size, a last batch, and no other
MAX_TEMPLATES = 8     # made for a family: planning decides differently for its sizes so often that they do not pay
_TUPLES = (Ref, Matrix, Windows, ScalarRef, ScalarInfo, ErrorCell)
_RECORDS = (KernelStep, GroupStep, GemmStep, RoutineStep, HostStep, LoopStep, BufferInfo)

_INT = object()
Numbers = list[int]


class Unfit(Exception):
    """A graph or a program that no template can be made from."""


# -- families ----------------------------------------------------------------------------------------------------------
def skeleton(graph: Graph) -> tuple[tuple, Numbers]:
    """The graph without its sizes, and these in order. Unfit for control flow, whose regions have shapes of their own."""
    numbers: Numbers = []
    place: dict[Value, int] = {}
    key: list[Any] = [dtypes.default_float()]
    for value in graph.inputs:
        place[value] = len(place)
        key.append(_type_key(value.type, numbers))
    for node in graph.nodes:
        assert node.op is not None
        attrs = tuple([_attr_key(a, n in EXTENTS, numbers) for n, a in zip(node.op.attrs, node.attrs, strict=True)]) if node.attrs else ()
        key += (node.op, node.loc, tuple([place[v] for v in node.inputs]), attrs)
        for value in node.outputs:
            place[value] = len(place)
            key.append(_type_key(value.type, numbers))
    key.append(tuple([place[v] for v in graph.outputs]))
    return tuple(key), numbers


def _type_key(type: TensorType, numbers: Numbers) -> tuple:
    if type.device != "cpu":
        raise Unfit("a device other than the CPU")
    numbers += type.shape
    return type.dtype, len(type.shape), type.weak


def _attr_key(attr: Any, extent: bool, numbers: Numbers) -> Any:
    kind = attr.__class__
    if kind is int and extent:
        numbers.append(attr)
        return _INT
    if kind is tuple:
        return tuple([_attr_key(a, extent, numbers) for a in attr])
    if kind is float:
        return attr.hex()
    if isinstance(attr, Graph):
        raise Unfit("control flow")
    return kind, attr


def with_numbers(graph: Graph, numbers: Iterator[Any]) -> Graph:
    """The graph with its sizes replaced, in the order of `skeleton`."""
    new = Graph(graph.name)
    env: dict[Value, Value] = {}
    for value in graph.inputs:
        env[value] = new.add_input(_retyped(value.type, numbers))
    for node in graph.nodes:
        assert node.op is not None
        attrs = tuple([_renumbered(a, numbers) if n in EXTENTS else a for n, a in zip(node.op.attrs, node.attrs, strict=True)])
        types = tuple([_retyped(o.type, numbers) for o in node.outputs])
        made = new.append(Node(node.op, tuple([env[v] for v in node.inputs]), attrs, types, node.loc))
        env.update(zip(node.outputs, made.outputs, strict=True))
    new.outputs = [env[v] for v in graph.outputs]
    return new


def _retyped(type: TensorType, numbers: Iterator[Any]) -> TensorType:
    return tensor_type(tuple([next(numbers) for _ in type.shape]), type.dtype, type.device, type.weak)


def _renumbered(attr: Any, numbers: Iterator[Any]) -> Any:
    if attr.__class__ is tuple:
        return tuple([_renumbered(a, numbers) for a in attr])
    return next(numbers) if attr.__class__ is int else attr


class Family:
    """Graphs that differ in sizes alone: the numbers of the first, which of them were seen to differ, and templates for those."""

    def __init__(self, numbers: Numbers) -> None:
        self.first = numbers
        self.members = 1
        self.varies: set[int] = set()
        self.templates: list[Template] = []
        self.made = 0
        self.lock = threading.Lock()

    def program(self, graph: Graph, numbers: Numbers, plan: Callable[[Graph], Program]) -> Program | None:
        """By a template, made when a third member of the family comes. None when it is better planned alone."""
        with self.lock:
            for template in self.templates:
                found = template.program(numbers)
                if found is not None:
                    return found or None
            differing = {i for i, (a, b) in enumerate(zip(self.first, numbers, strict=True)) if a != b}
            self.varies |= differing
            self.members += 1
            if not differing or self.members <= MIN_MEMBERS or self.made == MAX_TEMPLATES:
                return None
            self.made += 1
            template = Template(graph, self.first, numbers, self.varies, plan)
            if not template.special:
                self.templates.append(template)
            return template.program(numbers) or None


class Templates:
    """The families of a process, and how often no template could be made, by reason: such graphs are planned alone."""

    def __init__(self) -> None:
        self.families: OrderedDict[tuple, Family] = OrderedDict()
        self.failures: Counter[str] = Counter()
        self.used = 0
        self.lock = threading.Lock()

    def program(self, graph: Graph, plan: Callable[[Graph], Program]) -> Program | None:
        """The program of `graph` from a template; None: `plan(graph)` has to make it."""
        try:
            key, numbers = skeleton(graph)
        except Unfit:
            return None
        with self.lock:
            family = self.families.get(key)
            if family is None:
                self.families[key] = Family(numbers)
                if len(self.families) > MAX_FAMILIES:
                    self.families.popitem(last=False)
                return None
            self.families.move_to_end(key)
        try:
            program = family.program(graph, numbers, plan)
        except Exception as error:  # some code wants a number where a size is: no reason to fail a user's program
            family.made = MAX_TEMPLATES
            self.failures[f"{type(error).__name__}: {error}"] += 1
            return None
        self.used += program is not None
        return program


# -- templates ---------------------------------------------------------------------------------------------------------
class Template:
    """What planning gave for one member of a family, as a function of its numbers. `varies`: positions of those not taken as fixed."""

    def __init__(self, graph: Graph, first: Numbers, numbers: Numbers, varies: set[int], plan: Callable[[Graph], Program]) -> None:
        sizes = Sizes()
        pairs = list(zip(first, numbers, strict=True))
        unknown = _unknowns(sizes, sorted({pairs[i] for i in varies}, key=lambda p: (p[1], p[0])))
        found = [unknown[pair] if i in varies else pair[1] for i, pair in enumerate(pairs)]
        program = plan(with_numbers(graph, iter(found)))
        self.source, self.program = _Source(sizes, found).function(program)
        self.special = sizes.special


def _unknowns(sizes: Sizes, pairs: list[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """A size for each pair of numbers that stood in one place in two members of a family.

    Equal pairs are taken to be one size, and pairs that are multiples, neighbours or products of others to be just that. Members of
    which this is not true do not get the template.
    """
    found: dict[tuple[int, int], Any] = {}
    for a, b in pairs:
        made = None
        for (x, y), size in list(found.items()):
            if x and y and a % x == 0 and b % y == 0 and a // x == b // y:
                made = size * (a // x)
            elif a - x == b - y:
                made = size + (a - x)
            else:
                made = next((size * other for (v, w), other in found.items() if a == x * v and b == y * w), None)
            if made is not None:
                break
        found[a, b] = sizes.unknown(f"s{len(sizes.unknowns)}", b) if made is None else made
    return found


def _picker(positions: list[int]) -> Callable[[Numbers], tuple[int, ...]]:
    return itemgetter(*positions, positions[0])  # of one position alone it would not give a tuple


class _Source:
    """Writes a template's function from a family's numbers to a program, or None where the planner might decide differently.

    False is for sizes that happen to be equal where they usually are not: others will hardly be like them.
    """

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
        lines += [f"{text(s)} = numbers[{numbers.index(s)}]" for s in self.sizes.unknowns]
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


def renewed(node: Node, names: Mapping[str, int]) -> Node:
    """The node with its sizes known; its operands keep only their types."""
    def number(size: Size) -> int:
        return evaluated(size, names)

    def known(type: TensorType) -> TensorType:
        shape = each_size(type.shape, number)
        return type if shape is type.shape else tensor_type(shape, type.dtype, type.device, type.weak)
    inputs = tuple([Value(v.node, v.index, known(v.type)) for v in node.inputs])
    return Node(node.op, inputs, each_size(node.attrs, number), tuple([known(o.type) for o in node.outputs]), node.loc)
