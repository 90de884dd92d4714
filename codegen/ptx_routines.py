"""Routines (treadle/ir/routine.py) for GPUs: prefixes by blocks of threads, writes at data-dependent rows by atomics, small sorts.

scan     a row, or a block of a long one, belongs to a block of threads: tiles of BLOCK elements, shuffles within a warp, shared
         memory between warps, a carry between tiles. Columns: one thread each.
scatter  add, prod, amax, amin: atomic operations; sums of floats may differ in the last place from run to run, as PyTorch's do.
         set: of several writes to a row the last one of the index wins, found by an atomic maximum first.
sort     bitonic (Batcher 1968), a row in shared memory; topk takes the first k of it.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from treadle.codegen.expressions import INDEX_OUT_OF_RANGE, Site, elementwise, from_memory, memory_type, report, to_memory
from treadle.codegen.llvm_text import Function, Module, Val, const, scalar_bits
from treadle.codegen.ptx_emit import ZERO, kernel_function
from treadle.codegen.ptx_mapping import BLOCK, MAX_BLOCKS, _spread
from treadle.codegen.ptx_sort import LONGEST, emit_sort
from treadle.codegen.ptx_target import Unsupported
from treadle.codegen.ptx_threads import (
    barrier,
    from_word,
    global_pointer,
    register,
    shared_array,
    shuffle,
    to_word,
    word_at,
)
from treadle.codegen.scan_kernel import RoutineScan, State
from treadle.ir.dtypes import FLOAT, by_name
from treadle.ir.routine import ARGUMENTS, Routine

EXTRA = {"scan": ("outer",), "scatter": ("winners", "stage"), "sort": ("rows",), "topk": ("rows",)}
_POINTERS = frozenset(("error", "x", "out", "index", "values", "totals", "place", "src", "workspace", "winners"))
FILL, CLAIM, WRITE, DIRECT = range(4)  # stages of a scatter


class RoutineLaunch(NamedTuple):
    """Grid, block, and the words of EXTRA, in which WINNERS stands for the address of `winners` words of memory."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    words: tuple[int, ...]


WINNERS = -1


def names(routine: Routine) -> tuple[str, ...]:
    return (*ARGUMENTS[routine.family], *EXTRA[routine.family])


class Variant(NamedTuple):
    """A routine's code: columns says whether a scan runs along columns."""

    routine: Routine
    columns: bool = False


def launches(routine: Routine, arguments: Sequence[Any], units: int, numel: int) -> tuple[Variant, list[RoutineLaunch], int]:
    """(variant, launches, bytes of memory for `winners`). `numel`: elements of the routine's operand. `Unsupported` for long sorts."""
    given = dict(zip(ARGUMENTS[routine.family], arguments, strict=True))
    if routine.family == "scan":
        outer = numel // (given["n"] * given["inner"])
        if given["inner"] == 1:
            return Variant(routine), [RoutineLaunch((min(outer * given["blocks"], MAX_BLOCKS), 1, 1), (BLOCK, 1, 1), (outer,))], 0
        return Variant(routine, True), [RoutineLaunch(*_spread(given["inner"], outer, 1), (outer,))], 0
    if routine.family in ("sort", "topk"):
        if given["n"] > LONGEST // by_name(routine.source).itemsize:
            raise Unsupported(f"rows of {given['n']} elements are too long to be sorted by one block")
        rows = numel // given["n"]
        return Variant(routine), [RoutineLaunch((min(rows, MAX_BLOCKS), 1, 1), (BLOCK, 1, 1), (rows,))], 0
    everything = _spread(given["inner"], given["count"], 1)
    if routine.kind != "set" or routine.splat or given["count"] == 1:
        return Variant(routine), [RoutineLaunch(*everything, (0, DIRECT))], 0
    found = [RoutineLaunch(*_spread(given["rows"], 1, 1), (WINNERS, FILL)), RoutineLaunch(*_spread(given["count"], 1, 1), (WINNERS, CLAIM)),
             RoutineLaunch(*everything, (WINNERS, WRITE))]
    return Variant(routine), found, 8 * given["rows"]


def emit_routine(module: Module, variant: Variant, name: str) -> None:
    """Add the routine's kernel to the module. `Unsupported` when it has no form there."""
    routine = variant.routine
    every = names(routine)
    f = kernel_function(module, name, len(every))
    args = {}
    for i, what in enumerate(every):
        args[what] = f.load(f.gep(Val("ptr", "%args"), i, "i64"), "ptr" if what in _POINTERS else "i64")
        if what in _POINTERS:
            args[what] = global_pointer(f, args[what])
    _BODIES[routine.family](f, variant, args)
    f.line("ret void")
    f.finish()


# -- scatter -----------------------------------------------------------------------------------------------------------------
_FUNCTIONS = {"add": "add", "prod": "mul", "amax": "maximum", "amin": "minimum"}


def _place(f: Function, dimension: str) -> tuple[Val, Val]:
    size = register(f, f"ntid.{dimension}")
    return (f.add(f.mul(register(f, f"ctaid.{dimension}"), size), register(f, f"tid.{dimension}")),
            f.mul(register(f, f"nctaid.{dimension}"), size))


def _emit_scatter(f: Function, variant: Variant, args: dict[str, Val]) -> None:
    routine = variant.routine
    x, across = _place(f, "x")
    if routine.kind == "set" and not routine.splat:
        with f.if_(f.compare("eq", args["stage"], const("i64", FILL))), f.loop(x, args["rows"], across) as loop:
            f.store(const("i64", -1), f.gep(args["winners"], loop.index, "i64"))
            loop.next([])
        with f.if_(f.compare("eq", args["stage"], const("i64", CLAIM))), f.loop(x, args["count"], across) as loop:
            row, good = _row(f, args, loop.index)
            with f.if_(good):
                f.op(f"atomicrmw max {f.gep(args['winners'], row, 'i64')}, {loop.index} monotonic", "i64")
            loop.next([])
    y, down = _place(f, "y")
    with f.if_(f.compare("sge", args["stage"], const("i64", WRITE))), f.loop(y, args["count"], down) as items:
        row, good = _row(f, args, items.index)
        with f.if_(good):
            if routine.kind == "set" and not routine.splat:
                good = _wins(f, args, row, items.index)
            with f.if_(good), f.loop(x, args["inner"], across) as columns:
                _write(f, routine, args, row, items.index, columns.index)
                columns.next([])
        items.next([])


def _row(f: Function, args: dict[str, Val], item: Val) -> tuple[Val, Val]:
    """The row of an item of the index, and whether it is one; if not, that is reported."""
    given = f.load(f.gep(args["place"], item, "i64"), "i64")
    row = f.select(f.compare("slt", given, ZERO), f.add(given, args["rows"]), given)
    good = f.compare("ult", row, args["rows"])
    report(Site(f, None, args["error"]), f.binary("xor", good, const("i1", 1)), INDEX_OUT_OF_RANGE, given, args["rows"])
    return row, good


def _wins(f: Function, args: dict[str, Val], row: Val, item: Val) -> Val:
    """Whether the item is the last of its row; there is no winner's table when there is one item."""
    table, direct, end, before = f.label("table"), f.label("direct"), f.label("chosen"), f.label("which")
    f.branch(before)
    f.start(before)
    f.branch_if(f.compare("eq", args["stage"], const("i64", WRITE)), table, direct)
    f.start(table)
    own = f.compare("eq", f.load(f.gep(args["winners"], row, "i64"), "i64"), item)
    f.branch(end)
    f.start(direct)
    f.branch(end)
    f.start(end)
    return f.op(f"phi i1 [ {own.name}, %{table} ], [ true, %{direct} ]", "i1")


def _write(f: Function, routine: Routine, args: dict[str, Val], row: Val, item: Val, column: Val) -> None:
    dtype, element = routine.dtype, memory_type(routine.dtype)
    out = f.gep(args["out"], f.add(f.mul(row, args["inner"]), column), element)
    new = f.load(args["src"] if routine.splat else f.gep(args["src"], f.add(f.mul(item, args["inner"]), column), element), element)
    if routine.kind == "set":
        f.store(new, out)
        return
    if scalar_bits(element) < 32:
        raise Unsupported(f"atomic operations on {dtype}")
    kind = by_name(dtype)
    floating = kind.category == FLOAT
    direct = {"add": "fadd" if floating else "add"}
    if not floating:
        direct |= {"amax": "max" if kind.signed else "umax", "amin": "min" if kind.signed else "umin"}
    if routine.kind in direct:
        f.op(f"atomicrmw {direct[routine.kind]} {out}, {new} monotonic", element)
    else:
        _exchange(f, routine, out, new, element, args["error"])


def _exchange(f: Function, routine: Routine, out: Val, new: Val, element: str, error: Val) -> None:
    """Combine until nobody came between reading and writing."""
    bits = f"i{scalar_bits(element)}"
    first = f.op(f"load atomic {bits}, {out} monotonic, align {scalar_bits(element) // 8}", bits)
    before, head, end = f.label("before"), f.label("again"), f.label("exchanged")
    f.branch(before)
    f.start(before)
    f.branch(head)
    f.start(head)
    seen, later = f.fresh("seen"), f.fresh("later")
    f.line(f"{seen} = phi {bits} [ {first.name}, %{before} ], [ {later}, %{head} ]")
    old = Val(bits, seen) if bits == element else f.cast("bitcast", Val(bits, seen), element)
    operands = [from_memory(f, old, routine.dtype), from_memory(f, new, routine.dtype)]
    dtypes = (routine.dtype, routine.dtype)
    value = to_memory(f, elementwise(Site(f, None, error), _FUNCTIONS[routine.kind], dtypes, operands), routine.dtype)
    raw = value if bits == element else f.cast("bitcast", value, bits)
    found = f.op(f"cmpxchg {out}, {bits} {seen}, {raw} monotonic monotonic", f"{{ {bits}, i1 }}")
    f.line(f"{later} = extractvalue {found}, 0")
    f.branch_if(f.op(f"extractvalue {found}, 1", "i1"), end, head)
    f.start(end)


# -- scan --------------------------------------------------------------------------------------------------------------------
def _emit_scan(f: Function, variant: Variant, args: dict[str, Val]) -> None:
    scan = _BlockScan(f, variant.routine, args)
    if variant.columns:
        scan.columns()
    else:
        scan.rows()


class _BlockScan(RoutineScan):
    """A scan whose states are scalars in every thread."""

    def __init__(self, f: Function, routine: Routine, args: dict[str, Val]) -> None:
        super().__init__(f, routine, args, ZERO)
        self.lanes = 1
        self.thread = register(f, "tid.x")

    def columns(self) -> None:
        f, args = self.f, self.args
        x, across = _place(f, "x")
        y, down = _place(f, "y")
        with f.loop(y, args["outer"], down) as outer:
            with f.loop(x, args["inner"], across) as column:
                base = f.add(f.mul(outer.index, f.mul(args["n"], args["inner"])), column.index)
                with f.loop(ZERO, args["n"], 1, self.start(1)) as rows:
                    offset = f.add(base, f.mul(rows.index, args["inner"]))
                    state = self.combine(rows.values, self.element(self.load(offset, 1, None), rows.index))
                    self.store(state, offset, None)
                    rows.next(state)
                column.next([])
            outer.next([])

    def rows(self) -> None:
        f, args = self.f, self.args
        self.shared = shared_array(f, f"{f.name}_shared", "i64", len(self.start(1)) * (BLOCK // 32))
        units = f.mul(args["outer"], args["blocks"])
        with f.loop(register(f, "ctaid.x"), units, register(f, "nctaid.x")) as loop:
            self.block(loop.index)
            loop.next([])

    def block(self, unit: Val) -> None:
        """One block of one row: its total (phase 0), or its results."""
        f, args = self.f, self.args
        row, block = f.binary("udiv", unit, args["blocks"]), f.binary("urem", unit, args["blocks"])
        base, low = f.mul(row, args["n"]), f.mul(block, args["block"])
        high = f.smin(f.add(low, args["block"]), args["n"])
        results = f.compare("ne", args["phase"], ZERO)
        with f.loop(ZERO, f.select(results, block, ZERO), 1, self.start(1)) as before:
            before.next(self.combine(before.values, self._get_total(f.add(f.sub(unit, block), before.index))))
        with f.loop(low, high, BLOCK, before.values) as tiles:
            tiles.next(self.tile(base, tiles.index, high, tiles.values, results))
        with f.if_(f.compare("eq", f.binary("or", args["phase"], self.thread), ZERO)):
            self._put_total(unit, tiles.values)

    def tile(self, base: Val, first: Val, high: Val, carry: State, results: Val) -> State:
        """One element for each thread; the carry behind them."""
        f = self.f
        position = f.add(first, self.thread)
        inside = f.compare("slt", position, high)
        state = self._element_or_nothing(inside, f.add(base, position), position)
        state = self._within_warp(state)
        totals = self._totals(state)
        before = carry
        warp = f.binary("lshr", self.thread, const("i64", 5))
        for number, total in enumerate(totals):
            earlier = f.compare("ugt", warp, const("i64", number))
            before = [f.select(earlier, new, old) for new, old in zip(self.combine(before, total), before, strict=True)]
            carry = self.combine(carry, total)
        with f.if_(f.binary("and", inside, results)):
            self.store(self.combine(before, state), f.add(base, position), None)
        return carry

    def _element_or_nothing(self, inside: Val, offset: Val, position: Val) -> State:
        f = self.f
        before, then, end = f.label("before"), f.label("inside"), f.label("loaded")
        f.branch(before)
        f.start(before)
        f.branch_if(inside, then, end)
        f.start(then)
        state = self.element(self.load(offset, 1, None), position)
        last = f.block
        f.branch(end)
        f.start(end)
        return [f.op(f"phi {v.ty} [ {n.name}, %{before} ], [ {v.name}, %{last} ]", v.ty) for v, n in zip(state, self.start(1), strict=True)]

    def _within_warp(self, state: State) -> State:
        f = self.f
        lane = f.binary("and", self.thread, const("i64", 31))
        for distance in (1, 2, 4, 8, 16):
            moved = [shuffle(f, v, "up", const("i32", distance), 0) for v in state]
            joined = self.combine(moved, state)
            enough = f.compare("uge", lane, const("i64", distance))
            state = [f.select(enough, new, old) for new, old in zip(joined, state, strict=True)]
        return state

    def _totals(self, state: State) -> list[State]:
        """Of every warp of the block."""
        f, warps = self.f, BLOCK // 32
        last = f.compare("eq", f.binary("and", self.thread, const("i64", 31)), const("i64", 31))
        warp = f.binary("lshr", self.thread, const("i64", 5))
        barrier(f)
        with f.if_(last):
            for i, value in enumerate(state):
                f.store(to_word(f, value), word_at(f, self.shared, f.add(warp, i * warps)))
        barrier(f)
        return [[from_word(f, f.load(word_at(f, self.shared, const("i64", i * warps + w)), "i64"), v.ty) for i, v in enumerate(state)]
                for w in range(warps)]


def _emit_sorted(f: Function, variant: Variant, args: dict[str, Val]) -> None:
    emit_sort(f, variant.routine, args)


_BODIES: dict[str, Callable[[Function, Variant, dict[str, Val]], None]] = {
    "scan": _emit_scan, "scatter": _emit_scatter, "sort": _emit_sorted, "topk": _emit_sorted}
