"""Graphs that differ in sizes alone, as a program records them that meets data of another length every time.

Apart from `treadle.passes.template`, which plans for such families, so that the engine can ask about a graph before anything that
compiles is loaded.
"""
from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from treadle.ir import dtypes
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import EXTENTS, Kind
from treadle.ir.types import TensorType, tensor_type

if TYPE_CHECKING:
    from treadle.passes.program import Program
    from treadle.passes.template import Template

MANY_NODES = 16       # graphs of so many are planned for other sizes as well when they are met first
FEW = 2               # so many samples are computed by the kernels of many; so many places may be those of anything
MAX_FAMILIES = 256    # beyond, the one met longest ago is forgotten
MANY_MEMBERS = 4      # after so many, another one is planned even if it might never come again
MOST_SEEN = 6         # members whose sizes tell which of them go together
MAX_TEMPLATES = 8     # of each kind, made for a family: planning decides differently for its sizes so often that they do not pay

# Whether each size has the program that it has alone, which does not depend on what was met before; else what was decided for another size
# may do for it, and the kernels of others compute a special one, as 1, too.
ALONE = False

_INT = object()
Numbers = list[int]


class Unfit(Exception):
    """A graph or a program that no template can be made from."""


# What planning may raise for sizes that do not go together.
UNPLANNABLE = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, Unfit, ValueError)


def skeleton(graph: Graph) -> tuple[tuple, Numbers]:
    """The graph without its sizes, and these in order. Unfit for control flow that the host runs, and when something lives elsewhere."""
    numbers: Numbers = []
    return _skeleton(graph, numbers), numbers


def _skeleton(graph: Graph, numbers: Numbers) -> tuple:
    place: dict[Value, int] = {}
    types: dict[TensorType, tuple] = {}  # their keys
    key: list[Any] = [dtypes.default_float()]

    def met(values: Iterable[Value]) -> None:
        for value in values:
            place[value] = len(place)
            type = value.type
            found = types.get(type)
            if found is None:
                found = types[type] = _type_key(type)
            key.append(found)
            numbers.extend(type.shape)
    met(graph.inputs)
    for node in graph.nodes:
        assert node.op is not None
        if node.op.kind is Kind.CONTROL and node.op.name != "scan":
            raise Unfit("control flow")
        attrs = tuple([_attr_key(a, n in EXTENTS, numbers) for n, a in zip(node.op.attrs, node.attrs, strict=True)]) if node.attrs else ()
        key += (node.op, node.loc, tuple([place[v] for v in node.inputs]), attrs)
        met(node.outputs)
    key.append(tuple([place[v] for v in graph.outputs]))
    return tuple(key)


def _type_key(type: TensorType) -> tuple:
    if type.device != "cpu":
        raise Unfit("a device other than the CPU")
    return type.dtype, tuple([-1 if n else 0 for n in type.shape]), type.weak


def _attr_key(attr: Any, extent: bool, numbers: Numbers) -> Any:
    kind = attr.__class__
    if kind is int and extent:
        numbers.append(attr)
        return _INT
    if kind is tuple:
        return tuple([_attr_key(a, extent, numbers) for a in attr])
    if kind is float:
        return attr.hex()
    if kind is Graph:
        return _skeleton(attr, numbers)
    return kind, attr


def with_numbers(graph: Graph, numbers: Iterator[Any], results: Callable[..., list[TensorType]] | None = None) -> Graph:
    """The graph with its sizes replaced, in the order of `skeleton`; those of results by `results(op, operands, attributes, types)`."""
    new = Graph(graph.name)
    env: dict[Value, Value] = {}
    for value in graph.inputs:
        env[value] = new.add_input(_retyped(value.type, numbers))
    for node in graph.nodes:
        assert node.op is not None
        attrs = tuple([_renumbered(a, numbers) if n in EXTENTS else with_numbers(a, numbers) if a.__class__ is Graph else a
                       for n, a in zip(node.op.attrs, node.attrs, strict=True)])
        operands = tuple([env[v] for v in node.inputs])
        types = [_retyped(o.type, numbers) for o in node.outputs] if results is None else \
            results(node.op, tuple([v.type for v in operands]), attrs, [o.type for o in node.outputs])
        made = new.append(Node(node.op, operands, attrs, tuple(types), node.loc))
        env.update(zip(node.outputs, made.outputs, strict=True))
    new.outputs = [env[v] for v in graph.outputs]
    return new


def _retyped(type: TensorType, numbers: Iterator[Any]) -> TensorType:
    return tensor_type(tuple([next(numbers) for _ in type.shape]), type.dtype, type.device, type.weak)


def _renumbered(attr: Any, numbers: Iterator[Any]) -> Any:
    if attr.__class__ is tuple:
        return tuple([_renumbered(a, numbers) for a in attr])
    return next(numbers) if attr.__class__ is int else attr


def _unlike(member: Numbers, numbers: Numbers) -> int:
    """In how many places a member has another size, neither 1 nor 2."""
    return sum([a > 2 and a != b for a, b in zip(member, numbers, strict=True)])


def _of_other_weights(graph: Graph, member: Numbers, numbers: Numbers) -> bool:
    """Whether the weights of a graph have other sizes than a member's."""
    from treadle.passes.imagine import weights_of
    weights = set(weights_of(graph))
    start = 0
    for value in graph.inputs:
        stop = start + len(value.type.shape)
        if value in weights and member[start:stop] != numbers[start:stop]:
            return True
        start = stop
    return False


class Family:
    """Graphs that differ in sizes alone: the numbers of some, which of them were seen to differ, and templates for those."""

    def __init__(self) -> None:
        self.seen: list[Numbers] = []
        self.members = 0
        self.varies: set[int] = set()
        self.templates: list[Template] = []
        self.made = self.made_special = 0
        self.imagined = False

    def program(self, graph: Graph, numbers: Numbers, plan: Callable[[Graph], Program]) -> Program | None:
        """By a template, made for the first member and an imagined one, or when a member comes that this was not right for. None when it is
        better planned alone."""
        special = False
        for template in self.templates:
            found = template.program(numbers)
            if found:
                return found
            special = special or found is False
        known = self.seen
        differing = self._count(numbers)
        if not self.varies:
            return self._first(graph, numbers, plan)
        as_usual = self._as_usual(graph, known, numbers, plan, special)
        if as_usual is not None:
            return as_usual
        if special or not differing or self.made == MAX_TEMPLATES:
            return None
        self.made += 1
        from treadle.passes.template import Template
        return self._kept(Template(graph, [*known, numbers], self.varies, plan)).program(numbers) or None

    def _first(self, graph: Graph, numbers: Numbers, plan: Callable[[Graph], Program]) -> Program | None:
        """For another batch and length too, where it can be told what that would change; small graphs are planned again as fast. A single
        sample, or two, takes the kernels of many."""
        if ALONE or self.imagined or (len(graph.nodes) < MANY_NODES and not any(0 < n <= FEW for n in numbers)):
            return None
        self.imagined = True
        from treadle.passes.imagine import imagined
        from treadle.passes.template import Template
        try:
            found = imagined(graph, numbers)
            if found is None:
                return None
            others, sizes = found
            if min(sizes) > FEW and len(graph.nodes) < MANY_NODES:
                return None
            members = [*others[:-1], numbers, others[-1]]
            varies = {i for i, column in enumerate(zip(*members, strict=True)) if len(set(column)) > 1}
            template = Template(graph, members, varies, plan, imagined=True)  # its sizes are not equal by chance
        except UNPLANNABLE:
            return None
        return self._kept(template).program(numbers) or None

    def _as_usual(self, graph: Graph, known: list[Numbers], numbers: Numbers, plan: Callable[[Graph], Program],
                  special: bool) -> Program | None:
        """A member with sizes of 1 or 2, or otherwise special, planned as another one: their kernels are the same. None for others, and
        where that cannot be: a size of 1 may be what is repeated."""
        like = max(reversed(known), key=lambda member: _unlike(member, numbers))
        small = any([b <= 2 < a for a, b in zip(like, numbers, strict=True)])
        if ALONE or not (small or (special and _unlike(like, numbers))) or self.made_special == MAX_TEMPLATES:
            return None
        if _of_other_weights(graph, like, numbers):
            return None  # a kernel of one element is more than a special case
        self.made_special += 1
        from treadle.passes.template import Template
        try:
            template = Template(graph, [*[m for m in known if m is not like], like, numbers], self.varies, plan, special=True)
        except UNPLANNABLE:
            return None  # what follows from its real sizes and from usual ones does not go together
        return self._kept(template).program(numbers) or None

    def _kept(self, template: Template) -> Template:
        if not template.special:
            self.templates.append(template)
        return template

    def met(self, graph: Graph, numbers: Numbers, plan: Callable[[Graph], Program]) -> Program | None:
        """`program`, for a graph that is new: the first ones count as members, but are not planned for this."""
        if self.members >= MANY_MEMBERS:
            return self.program(graph, numbers, plan)
        for template in self.templates:
            found = template.program(numbers)
            if found:
                return found
        self._count(numbers)
        return None

    def _count(self, numbers: Numbers) -> set[int]:
        """Note a member; where it differs from the first."""
        differing = {i for i, (a, b) in enumerate(zip(self.seen[0], numbers, strict=True)) if a != b} if self.seen else set()
        self.varies |= differing
        self.members += 1
        if numbers not in self.seen:
            self.seen = [*self.seen, numbers] if len(self.seen) < MOST_SEEN else [self.seen[0], *self.seen[2:], numbers]
        return differing


class Templates(threading.local):
    """The families that a thread has met, and how often no template could be made, by reason: such graphs are planned alone.

    Which of them are interpreted depends on what was met before: no thread is to change another one's bits.
    """

    def __init__(self) -> None:
        self.families: OrderedDict[tuple, Family] = OrderedDict()
        self.failures: Counter[str] = Counter()
        self.used = 0
        self.ready: dict[Graph, Program] = {}  # made for the graph that is about to be compiled

    def _family(self, graph: Graph) -> tuple[Family | None, Numbers]:
        """The family of the graph, None when it has none, and its numbers."""
        try:
            key, numbers = skeleton(graph)
        except Unfit:
            return None, []
        family = self.families.get(key)
        if family is None:
            family = self.families[key] = Family()
            if len(self.families) > MAX_FAMILIES:
                self.families.popitem(last=False)
        else:
            self.families.move_to_end(key)
        return family, numbers

    def met(self, graph: Graph, plan: Callable[[Graph], Program]) -> bool:
        """Whether a graph that is new is one of so many which differ in sizes alone that a template has its program: it is `ready` now."""
        family, numbers = self._family(graph)
        program = None if family is None else self._made(family, lambda: family.met(graph, numbers, plan))
        if program is not None:
            self.ready = {graph: program}
        return program is not None

    def program(self, graph: Graph, plan: Callable[[Graph], Program]) -> Program | None:
        """The program of `graph` from a template; None: `plan(graph)` has to make it."""
        ready = self.ready.pop(graph, None)
        if ready is not None:
            return ready
        family, numbers = self._family(graph)
        return None if family is None else self._made(family, lambda: family.program(graph, numbers, plan))

    def _made(self, family: Family, make: Callable[[], Program | None]) -> Program | None:
        try:
            program = make()
        except Exception as error:  # some code wants a number where a size is: no reason to fail a user's program
            family.made = MAX_TEMPLATES
            self.failures[f"{type(error).__name__}: {error}"] += 1
            return None
        self.used += program is not None
        return program


TEMPLATES, WITHOUT_WINDOWS = Templates(), Templates()
