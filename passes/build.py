"""One kernel unit -> a kernel and its arguments.

Two sweeps over the nodes inside the unit: backwards, to find at which indices each is wanted; forwards, to emit instructions.
Between them, neighbouring axes that every address walks through evenly are joined, so that a contiguous map has one axis.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.graph import Node, Value
from treadle.ir.kernel import PAIRED, PARALLEL, REDUCE, REVERSED, RUNTIME, UNIT, ZERO, Access, Axis, Instr, Kernel, argument_layout
from treadle.ir.op import Kind
from treadle.ir.size import Size, surely
from treadle.passes.demand import GATHERS, Read, is_reduce, is_view, own_conditions, reads
from treadle.passes.index import Condition, Expr, Guard, Index, linearize
from treadle.passes.kernel_form import canonical
from treadle.passes.program import Argument, ErrorCell, KernelStep, Ref, ScalarRef, SizeBits
from treadle.passes.unit import Unit

_STRUCTURAL = (0, 1, -1)  # numbers that kernels may contain


class Point(NamedTuple):
    """A value at an index; `memory` as in Read: the index is one position in memory."""

    value: Value
    index: Index  # type: ignore[assignment]  # a field, not tuple.index
    guard: Guard
    memory: bool = False


class Place(NamedTuple):
    """Which buffers and scalars values live in: asked by the builder, answered by lowering."""

    buffer: Callable[[Value], int]
    scalar: Callable[[Value, DType], int]


def _stride_classes(strides: list[int]) -> tuple[int, ...]:
    """What a kernel knows of an access's strides. One that has neighbours along some axis is no stranger for a step of 2 along another."""
    if any([s == 1 for s in strides]):
        return tuple([ZERO if s == 0 else UNIT if s == 1 else RUNTIME for s in strides])
    return tuple([ZERO if s == 0 else PAIRED if s == 2 else REVERSED if s == -1 else RUNTIME for s in strides])


def scalar_bits(value: float | int | bool, dtype: DType) -> int:
    """The bits of a number in the low bytes of an int64, as kernels take them."""
    raw = np.asarray(value).astype(dtype.np).tobytes()
    return int.from_bytes(raw.ljust(8, b"\0"), "little", signed=True)


class KernelBuilder:
    """Builds the kernel of one unit. `groups`: for an epilogue, the axes that must stay apart: joined only within a group.

    wraps: axes that addresses walk through evenly, and guards do not, become one (see `wrap_axes`).
    """

    def __init__(self, unit: Unit, place: Place, order: dict[Node, int], groups: list[list[int]] | None = None,
                 wraps: bool = False) -> None:
        self.unit = unit
        self.axes = unit.axes
        self.place = place
        self.parallel = unit.parallel_atoms()
        self.reduce = unit.reduce_atoms()
        self.groups = groups
        self.nodes = sorted(unit.inside, key=lambda n: order[n])
        self.points: dict[Node, dict[Point, list[Read]]] = {}
        self.wraps = wraps
        self.forms: list[Expr] = []           # of addresses and numbers
        self.tests: list[Expr] = []           # of guards
        self.loads: dict[Value, list[Expr]] = {}
        self.joined: dict[int, int] = {}      # axis -> number of the kernel's axis, innermost members only
        self.kernel_axes: list[list[int]] = []
        self.wrapped: list[list[int]] = []    # the evenly joined parts of the last kernel axis of its kind, if it was made of several
        self.body: list[Instr] = []
        self.known: dict[Instr, int] = {}
        self.accesses: list[Access] = []
        self.access_of: dict[tuple, int] = {}
        self.arguments: dict[tuple, Argument] = {("error",): ErrorCell()}
        self.scalars: list[str] = []
        self.scalar_of: dict[tuple, int] = {}
        self.slots: dict[tuple, int] = {}
        self.env: dict[Point, int] = {}

    # -- backwards: what is wanted where -----------------------------------------------------------------------------
    def in_memory(self, value: Value) -> bool:
        return value in self.unit.loads

    def want(self, point: Point) -> None:
        node = point.value.node
        if node in self.unit.inside and not self.in_memory(point.value):
            self.points.setdefault(node, {}).setdefault(point, [])
        elif not point.value.type.weak:
            form = self.linear(point)
            self.forms.append(form)
            if form not in self.loads.setdefault(point.value, []):
                self.loads[point.value].append(form)
            self.note(point.guard)

    def note(self, guard: Guard) -> None:
        self.tests += [c.expr for c in self.open(guard)]

    def open(self, conditions: Iterable[Condition]) -> list[Condition]:
        """The ends that do not hold anyway. Where an axis is walked through in larger steps, what holds depends on its size alone, and
        kernels should not."""
        found = []
        for c in conditions:
            low, bound = c.low, c.bound
            if all([step == 1 for _, step in c.expr.terms]):
                low = low and not surely(c.expr.const, 0)
                top = c.expr.const + sum([self.axes.size[a] - 1 for a, _ in c.expr.terms])
                bound = -1 if bound >= 0 and surely(bound, top + 1) else bound
            if low or bound >= 0:
                found.append(Condition(c.expr, low, bound))
        return found

    def linear(self, point: Point) -> Expr:
        return point.index[0] if point.memory else linearize(point.index, point.value.shape)

    def sweep_back(self) -> None:
        unit, axes = self.unit, self.axes
        for store in unit.stores:
            self.forms.append(axes.resolve(store.place))
            self.want(Point(store.value, axes.resolve_index(store.index), ()))
        for node in reversed(self.nodes):
            reduced = axes.resolve_index(unit.reduced.get(node, ()))
            for point, found in self.points.get(node, {}).items():
                found += reads(axes, node, point.index, point.guard, reduced, self.in_memory)
                self._note_own(node, point)
                for read in found:
                    self._want_read(read)

    def _want_read(self, read: Read) -> None:
        if read.along < 0:
            self.want(Point(read.value, read.index, read.guard, read.memory))
        else:
            self.forms.append(linearize(read.index, read.value.shape))

    def _note_own(self, node: Node, point: Point) -> None:
        """Index arithmetic that the node itself does."""
        name = node.op.name if node.op else ""
        if name in ("cat", "pad", "slice_scatter"):
            for conditions in own_conditions(node, point.index):
                self.note(tuple(conditions))
        elif name in ("iota", "random_bits"):
            self.forms.append(linearize(point.index, node.out.shape))

    # -- axes ----------------------------------------------------------------------------------------------------------
    def join_axes(self) -> None:
        """Group neighbouring axes of one kind that every form walks through evenly."""
        tables = [dict(form.terms) for form in dict.fromkeys(self.forms + self.tests)]
        for kind in ([self.parallel] if self.groups is None else self.groups) + [self.reduce]:
            start = len(self.kernel_axes)
            for axis in kind:
                if len(self.kernel_axes) > start and self._even(tables, self.kernel_axes[-1][-1], axis):
                    self.kernel_axes[-1].append(axis)
                else:
                    self.kernel_axes.append([axis])
        if self.wraps and self.groups is None:
            self.wrap_axes()
        for number, members in enumerate(self.kernel_axes):
            self.joined[members[-1]] = number

    def wrap_axes(self) -> None:
        """The last axes of the innermost kind become one if all addresses walk through them evenly, as through a plane of an image
        whose ends only guards look at: vectors then go on from line to line.

        The guards find their digits of the index, which pays where another axis repeats them.
        """
        kind = self.reduce or self.parallel
        groups = [members for members in self.kernel_axes if members[0] in set(kind)]
        tested = {axis for test in self.tests for axis, _ in test.terms}
        tables = [dict(form.terms) for form in dict.fromkeys(self.forms)]
        if not tested or any([t.get(groups[-1][-1], 0) not in (0, 1) for t in tables]):
            return
        count, size = 1, math.prod([self.axes.size[a] for a in groups[-1]])
        while count < len(groups) and all([t.get(groups[-count - 1][-1], 0) == t.get(groups[-1][-1], 0) * size for t in tables]):
            count += 1
            size *= math.prod([self.axes.size[a] for a in groups[-count]])
        rest, last = groups[:-count], groups[-count:]
        if count > 1 and rest and tested <= {members[-1] for members in last}:
            self.wrapped = last
            at = self.kernel_axes.index(last[0])
            self.kernel_axes[at:at + count] = [[axis for members in last for axis in members]]

    def _even(self, tables: list[dict[int, int]], outer: int, inner: int) -> bool:
        size = self.axes.size[inner]
        return all(t.get(outer, 0) == t.get(inner, 0) * size for t in tables)

    def strides(self, form: Expr) -> list[int]:
        """Coefficients of a form over the kernel's axes."""
        out = [0] * len(self.kernel_axes)
        for axis, c in form.terms:
            number = self.joined.get(axis)
            if number is not None:
                out[number] = c
        return out

    # -- forwards: instructions ------------------------------------------------------------------------------------------
    def emit(self, opcode: str, dtype: str, operands: tuple[int, ...] = (), params: tuple = ()) -> int:
        instr = Instr(opcode, dtype, operands, params)
        found = self.known.get(instr)
        if found is None:
            found = self.known[instr] = len(self.body)
            self.body.append(instr)
        return found

    def const(self, value: float | int | bool, dtype: DType) -> int:
        number = np.asarray(value).astype(dtype.np)
        python: float | int | bool = bool(number) if dtype is dtypes.bool_ else (float(number) if dtype.is_floating_point else int(number))
        return self.emit("const", dtype.name, (), (python,))

    def slot(self, key: tuple, value: int) -> int:
        """A run-time int64. The key says what it is for, so that equal numbers met by chance stay apart."""
        number = self.slots.setdefault(key, len(self.slots))
        self.arguments["slot", number] = value
        return number

    def affine(self, form: Expr) -> int:
        """An index expression as an int64."""
        total: int | None = None
        for axis, (term, c) in enumerate(self._terms(form)):
            if c != 1:
                term = self.emit("mul", "int64", (term, self.size_slot(("scale", form, axis), c)))
            total = term if total is None else self.emit("add", "int64", (total, term))
        if total is None:
            return self.emit("slot", "int64", (), (self.slot(("const", form), form.const),)) if form.const else self.const(0, dtypes.int64)
        if form.const:
            total = self.emit("add", "int64", (total, self.emit("slot", "int64", (), (self.slot(("const", form), form.const),))))
        return total

    def _terms(self, form: Expr) -> list[tuple[int, int]]:
        """Numbers in the loop nest that a form is the sum of, each with its factor."""
        table = dict(form.terms)
        if any([members[-1] in table for members in self.wrapped]):
            return [(self._digit(i), table[members[-1]]) for i, members in enumerate(self.wrapped) if members[-1] in table]
        return [(self.emit("index", "int64", (), (axis,)), c) for axis, c in enumerate(self.strides(form)) if c]

    def _digit(self, number: int) -> int:
        """The index along one of the wrapped axes."""
        axis = self.joined[self.wrapped[-1][-1]]
        sizes = [math.prod([self.axes.size[a] for a in members]) for members in self.wrapped]
        index = self.emit("index", "int64", (), (axis,))
        whole, *above = [index if at == len(sizes) else self.emit("quotient", "int64", (
            index, self.size_slot(("wrapped", at), math.prod(sizes[at:])))) for at in (number + 1, number) if at]
        if not above:
            return whole
        return self.emit("sub", "int64", (whole, self.emit("mul", "int64", (above[0], self.size_slot(("line", number), sizes[number])))))

    def size_slot(self, key: tuple, value: int) -> int:
        return self.emit("slot", "int64", (), (self.slot(key, value),))

    def holds(self, conditions: tuple[Condition, ...] | list[Condition]) -> int | None:
        """All conditions as one bool; None when there are none."""
        total: int | None = None
        for c in self.open(conditions):
            at = self.affine(c.expr)
            test = self.emit("ge", "bool", (at, self.const(0, dtypes.int64))) if c.low else None
            if c.bound >= 0:
                below = self.emit("lt", "bool", (at, self.emit("slot", "int64", (), (self.slot(("bound", c), c.bound),))))
                test = below if test is None else self.emit("logical_and", "bool", (test, below))
            if test is not None:  # of both sides first: neighbours share it
                total = test if total is None else self.emit("logical_and", "bool", (total, test))
        return total

    def access(self, buffer: int, form: Expr, dtype: DType, writes: bool) -> int:
        key = (buffer, form, writes)
        number = self.access_of.get(key)
        if number is not None:
            return number
        number = self.access_of[key] = len(self.accesses)
        strides = self.strides(form)
        self.accesses.append(Access(dtype.name, writes, _stride_classes(strides)))
        self.arguments["pointer", number] = Ref(buffer, form.const * dtype.itemsize)
        for axis, s in enumerate(strides):
            self.arguments["stride", number, axis] = s
        return number

    def value_at(self, point: Point) -> int:
        """The instruction that yields a value at a point."""
        found = self.env.get(point)
        if found is not None:
            return found
        value = point.value
        if value.type.weak and value.node.op is None:
            return self.number(value, value.dtype)
        access = self.access(self.place.buffer(value), self.linear(point), value.dtype, False)
        condition = self.holds(point.guard)
        found = (self.emit("load", value.dtype.name, (), (access,)) if condition is None
                 else self.emit("load_if", value.dtype.name, (condition,), (access,)))
        self.env[point] = found
        return found

    def number(self, value: Value, dtype: DType) -> int:
        """A Python number as `dtype`: a constant of the kernel, or a run-time scalar."""
        if value.node.op is None:
            position = self.place.scalar(value, dtype)
            return self.scalar(("input", position), dtype, ScalarRef(position))
        number = value.node.attrs[0]
        if number in _STRUCTURAL and math.copysign(1, number) == (-1 if number < 0 else 1):  # not -0.0, which equals 0.0 as a key
            return self.const(number, dtype)
        # Constants often come from sizes (a mean's divisor): as arguments they leave the kernel free of sizes.
        bits = SizeBits(number, dtype) if number.__class__ is Size else scalar_bits(number, dtype)
        return self.scalar((bits, dtype.name), dtype, bits)

    def scalar(self, key: tuple, dtype: DType, argument: Argument) -> int:
        number = self.scalar_of.get(key)
        if number is None:
            number = self.scalar_of[key] = len(self.scalars)
            self.scalars.append(dtype.name)
            self.arguments["scalar", number] = argument
        return self.emit("scalar", dtype.name, (), (number,))

    def read_value(self, read: Read) -> int:
        return self.value_at(Point(read.value, read.index, read.guard, read.memory))

    def node_at(self, node: Node, point: Point, found: list[Read]) -> int:
        op = node.op
        assert op is not None
        name, dtype = op.name, node.out.dtype.name
        if is_view(node):
            return self.read_value(found[0])
        if name == "full":
            return self.number(node.inputs[0], node.out.dtype)
        if name in GATHERS:
            return self._gather(node, found)
        if name in ("iota", "constant", "random_bits"):
            return self._create(node, point, [self.read_value(r) for r in found])
        operands = tuple([self.read_value(r) for r in found])
        if name == "cat":
            return self._select(node, point, operands)
        if name in ("pad", "slice_scatter"):
            inside = self.holds(own_conditions(node, point.index)[0])
            yes, no = operands if name == "pad" else (operands[1], operands[0])
            if inside is None or self._reads_zero(yes, inside, no):
                return yes
            return self.emit("select", dtype, (inside, yes, no))
        if is_reduce(node):
            return self.emit("argreduce" if name.startswith("arg") else "reduce", dtype, operands, (name,))
        assert op.kind is Kind.ELEMENTWISE and isinstance(op.scalar, str)
        if op.scalar == "copy" or (op.scalar == "cast" and self.body[operands[0]].dtype == dtype):
            return operands[0]
        return self.emit(op.scalar, dtype, operands)

    def _reads_zero(self, value: int, inside: int, other: int) -> bool:
        """Whether a value is read under this condition alone, and the 0 that is read elsewhere is the other one."""
        read, zero = self.body[value], self.body[other]
        return (read.opcode, read.operands, zero.opcode) == ("load_if", (inside,), "const") and str(zero.params[0]) in ("0", "0.0", "False")

    def _select(self, node: Node, point: Point, operands: tuple[int, ...]) -> int:
        result = operands[-1]
        choices = own_conditions(node, point.index)
        for value, conditions in zip(reversed(operands[:-1]), reversed(choices), strict=True):
            before = self.holds(conditions)
            result = value if before is None else self.emit("select", node.out.dtype.name, (before, value, result))
        return result

    def _create(self, node: Node, point: Point, operands: list[int]) -> int:
        assert node.op is not None
        dtype = node.out.dtype
        if node.op.name == "constant":
            return self.number(node.out, dtype)
        at = self.affine(linearize(point.index, node.out.shape))
        if node.op.name == "random_bits":
            return self.emit("random", "int32", (*operands, at))
        return at if dtype is dtypes.int64 else self.emit("cast", dtype.name, (at,))

    def _gather(self, node: Node, found: list[Read]) -> int:
        where, source = found
        at = self.read_value(where)
        if where.value.dtype is not dtypes.int64:
            at = self.emit("cast", "int64", (at,))
        form = linearize(source.index, source.value.shape)
        access = self.access(self.place.buffer(source.value), form, source.value.dtype, False)
        stride = 1
        for n in source.value.shape[source.along + 1:]:
            stride *= n
        params = (access, self.slot(("size", node, access), source.value.shape[source.along]), self.slot(("step", node, access), stride))
        return self.emit("load_at", node.out.dtype.name, (at,), params)

    def sweep_forward(self) -> None:
        for node in self.nodes:
            for point, found in self.points.get(node, {}).items():
                self.env[point] = self.node_at(node, point, found)

    # -- the result ------------------------------------------------------------------------------------------------------
    def build(self) -> KernelStep:
        self.sweep_back()
        self.join_axes()
        return self.emit_all()

    def emit_all(self) -> KernelStep:
        self.sweep_forward()
        stores = []
        for store in self.unit.stores:
            value = self.value_at(Point(store.value, self.axes.resolve_index(store.index), ()))
            target = store.target
            access = self.access(self.place.buffer(target), self.axes.resolve(store.place), target.dtype, True)
            stores.append((access, value))
        return self.finish(stores)

    def finish(self, stores: list[tuple[int, int]]) -> KernelStep:
        reduce = set(self.reduce)
        axes = tuple([Axis(REDUCE if members[0] in reduce else PARALLEL) for members in self.kernel_axes])
        sizes = []
        for members in self.kernel_axes:
            size = 1
            for axis in members:
                size *= self.axes.size[axis]
            sizes.append(size)
        kernel = Kernel(axes, tuple(self.accesses), tuple(self.scalars), len(self.slots), tuple(self.body), tuple(stores))
        for number, size in enumerate(sizes):
            self.arguments["size", number] = size
        form = canonical(kernel)
        arguments = tuple([self.arguments[form.old(key)] for key in argument_layout(form.kernel)])
        return KernelStep(form.kernel, tuple(sizes), arguments, tuple(n for n in self.nodes if not is_view(n)))
