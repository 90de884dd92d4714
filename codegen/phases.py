"""Kernels with few, long rows shared by all threads: each sweep over the reduce axes is a launch of its own.

A kernel with reduce axes takes four words behind its arguments, all 0 when it does everything in one launch:

    phase    k: only sweep number k - 1, whose accumulators go to `partials`; one more than there are sweeps: only what is
             stored once per row. Earlier sweeps' results are merged from `partials`, part after part.
    parts    into how many parts the outermost reduce axis is cut; the part is the slowest of a unit's counters
    length   of a part, along that axis
    partials where the accumulators lie: for each of their values a word for every part and row

Parts depend on sizes only, so results do not change with the number of threads; and no size needs a kernel of its own.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from math import prod
from typing import NamedTuple

from treadle.codegen import reductions
from treadle.codegen.llvm_text import Function, Val, const, lanes_of, scalar_bits, scalar_type, vector_type
from treadle.codegen.reductions import Fold
from treadle.codegen.schedule import Loops, analyse, element_cost, loops, parallel_units
from treadle.codegen.vector_memory import load_vector, store_vector
from treadle.ir.kernel import REDUCE, Instr, Kernel, argument_layout

PHASE, PARTS, LENGTH, PARTIALS = 0, 1, 2, 3
WORDS = 4
# With so many units there is enough to share without parts; with parts there are at most so many.
ENOUGH_UNITS, MOST_UNITS = 16, 64
# What a part is worth: simple element operations, and elements along the lane axis or rows.
PART_WORK, LANE_PART, ROW_PART = 1 << 14, 1 << 12, 4
LANE_STEP = 256
# Columns of many rows are reduced a block of rows after the other: pages and cache lines are used up before they are left.
COLUMN_WORK, COLUMN_PART, COLUMN_BYTES = 1 << 20, 128, 4 << 20


class Launch(NamedTuple):
    """One launch of a kernel: the words behind its arguments (without the address), units, and units worth a thread."""

    phase: int
    parts: int
    length: int
    units: int
    grain: int


@functools.lru_cache(maxsize=4096)
def has_phases(kernel: Kernel) -> bool:
    """Whether the kernel takes the words described above."""
    return any(a.kind == REDUCE for a in kernel.axes)


def fold_of(kernel: Kernel, instr: Instr) -> Fold:
    """How a reduce accumulates."""
    kind = str(instr.params[0])
    dtype = kernel.body[instr.operands[0]].dtype if instr.opcode == "argreduce" else instr.dtype
    return Fold(kind, "bool" if kind in ("any", "all") else dtype)


@functools.lru_cache(maxsize=4096)
def launches(kernel: Kernel, sizes: tuple[int, ...]) -> tuple[Launch, ...]:
    """How to run the kernel on these sizes: once, or sweep by sweep with the long axis in parts."""
    units, grain = parallel_units(kernel, sizes)
    whole = (Launch(0, 0, 0, units, grain),)
    if not has_phases(kernel) or units == 0:
        return whole
    nest = loops(kernel)
    axis = nest.folds[0] if nest.folds else nest.lane
    size = sizes[axis]
    parts = _part_count(kernel, sizes, units, size, nest)
    if parts < 2:
        return whole
    length = -(-size // parts)
    if axis == nest.lane:
        length = -(-length // LANE_STEP) * LANE_STEP
    parts = -(-size // length)
    info = analyse(kernel)
    found = [Launch(1 + sweep, parts, length, parts * units, 1) for sweep in range(len(info.reduces))]
    return (*found, *[Launch(1 + len(found), parts, length, units, units)] * bool(info.row_stores))


def _part_count(kernel: Kernel, sizes: tuple[int, ...], units: int, size: int, nest: Loops) -> int:
    """Into how many parts to cut the outermost reduce axis, of `size`."""
    total = element_cost(kernel) * prod(sizes)
    parts = 0
    if units < ENOUGH_UNITS:
        parts = min(MOST_UNITS // units, total // PART_WORK, size // (ROW_PART if nest.folds else LANE_PART))
    if not nest.lane_folds and total >= COLUMN_WORK:
        parts = max(parts, min(size // COLUMN_PART, COLUMN_BYTES // partial_bytes(kernel, sizes, 1)))
    return parts


def partial_bytes(kernel: Kernel, sizes: tuple[int, ...], parts: int) -> int:
    """What `partials` needs: the sweeps' accumulators stay side by side."""
    rows = 8 * parts
    for axis, n in zip(kernel.axes, sizes, strict=True):
        rows *= 1 if axis.kind == REDUCE else n
    return rows * sum(len(reductions.start(fold_of(kernel, kernel.body[r]), 1)) for group in analyse(kernel).reduces for r in group)


class Partial(NamedTuple):
    """A state that phases carry through memory: values of one fold for one row (or one vector of rows)."""

    fold: Fold
    start: list[Val]
    number: int      # of its first value among those of all sweeps
    row: Val         # the row's number
    mask: Val | None


class Phases:
    """The code of one kernel that chooses what a launch does."""

    def __init__(self, f: Function, kernel: Kernel) -> None:
        self.f = f
        behind = len(argument_layout(kernel))
        table = Val("ptr", "%args")
        self.phase, parts, length = (f.load(f.gep(table, behind + i, "i64"), "i64") for i in (PHASE, PARTS, LENGTH))
        self.memory = f.load(f.gep(table, behind + PARTIALS, "i64"), "ptr")
        self.whole = f.compare("eq", self.phase, const("i64", 0))
        self.parts = f.select(self.whole, const("i64", 1), parts)
        self.length = f.select(self.whole, const("i64", 1 << 62), length)

    def part(self, number: Val, size: Val) -> tuple[Val, Val]:
        """Where part `number` of an axis begins and ends."""
        low = self.f.mul(number, self.length)
        return low, self.f.smin(self.f.add(low, self.length), size)

    def sweep(self, number: int, part: Val, rows: Val, partials: list[Partial], compute: Callable[[], list[list[Val]]],
              end: str) -> list[list[Val]]:
        """The states after sweep `number` (from 1): computed, or merged from memory. A launch for this sweep goes on at `end`."""
        f = self.f
        own, other, leave, join = (f.label(x) for x in ("own", "other", "leave", "join"))
        slots = [[f.variable(v) for v in p.start] for p in partials]
        here = f.compare("eq", self.phase, const("i64", number))
        f.branch_if(f.binary("or", self.whole, here), own, other)
        f.start(own)
        states = compute()
        self._keep(slots, states)
        f.branch_if(here, leave, join)
        f.start(leave)
        for p, state in zip(partials, states, strict=True):
            for value, place in zip(state, self._places(p, part, rows), strict=True):
                _store(f, value, place, p.mask)
        f.branch(end)
        f.start(other)
        self._keep(slots, [self._merged(p, rows) for p in partials])
        f.branch(join)
        f.start(join)
        return [[f.load(s, v.ty) for s, v in zip(group, p.start, strict=True)] for group, p in zip(slots, partials, strict=True)]

    def _keep(self, slots: list[list[Val]], states: list[list[Val]]) -> None:
        for group, state in zip(slots, states, strict=True):
            for slot, value in zip(group, state, strict=True):
                self.f.store(value, slot)

    def _merged(self, p: Partial, rows: Val) -> list[Val]:
        f = self.f
        with f.loop(const("i64", 0), self.parts, 1, p.start) as loop:
            found = [_load(f, v.ty, place, p.mask) for v, place in zip(p.start, self._places(p, loop.index, rows), strict=True)]
            loop.next(reductions.merge(f, p.fold, loop.values, found))
        return loop.values

    def _places(self, p: Partial, part: Val, rows: Val) -> list[Val]:
        """Addresses of a state's values: within the words of one value and part, rows lie side by side in their own width."""
        f = self.f
        found = []
        for i, value in enumerate(p.start):
            word = f.add(f.mul(self.parts, p.number + i), part)
            place = f.gep(self.memory, f.mul(word, rows), "i64")
            found.append(f.gep(place, p.row, _stored(scalar_type(value.ty))))
        return found


def _stored(scalar: str) -> str:
    return "i8" if scalar == "i1" else scalar


def _store(f: Function, value: Val, place: Val, mask: Val | None) -> None:
    value = f.cast("zext", value, "i8") if scalar_type(value.ty) == "i1" else value
    if lanes_of(value.ty) == 1:
        f.store(value, place, scalar_bits(value.ty) // 8)
    else:
        store_vector(f, value, place, mask)


def _load(f: Function, ty: str, place: Val, mask: Val | None) -> Val:
    lanes, scalar = lanes_of(ty), scalar_type(ty)
    kept = vector_type(_stored(scalar), lanes)
    found = load_vector(f, place, kept, mask) if lanes > 1 else f.load(place, kept, scalar_bits(kept) // 8)
    return f.cast("trunc", found, "i1") if scalar == "i1" else found
