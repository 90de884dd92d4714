"""Plans: sequences of kernel calls that run natively, without the GIL, from one call.

`PlanBuilder` collects steps and loops; `build()` lays them out as the table that `codegen/executor.py` walks.
"""
from __future__ import annotations

import os
import struct
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from treadle.codegen import executor as layout
from treadle.runtime import threads

ERROR_CELL_BYTES = 8 * layout.ERROR_CELL_WORDS
_WORD_MASK = (1 << 64) - 1


class BufferRef(NamedTuple):
    """The address of buffer `index` plus `offset` bytes.

    Inside a loop: plus `stride` bytes per iteration of the innermost loop around the step and `outer_stride` bytes per
    iteration of the loop around that one. With `alternate`, odd iterations of the innermost loop use that buffer.
    """

    index: int  # type: ignore[assignment]  # a field, not tuple.index
    offset: int = 0
    stride: int = 0
    outer_stride: int = 0
    alternate: int | None = None
    alternate_offset: int | None = None  # None: `offset`


class ScalarRef(NamedTuple):
    """The 64 bits of run-time scalar `index`."""

    index: int  # type: ignore[assignment]  # a field, not tuple.index


@dataclass(frozen=True)
class Table:
    """The address of a further table of arguments, for kernels that call another function with its own."""

    args: tuple[int | BufferRef | ScalarRef | Table, ...]


Argument = int | BufferRef | ScalarRef | Table


@dataclass(frozen=True)
class TableParts:
    """A plan table's words, where its frame begins, and copies of its relocations, toggles and operations, with the steps' tags."""

    words: np.ndarray
    frame: int
    relocations: np.ndarray
    toggles: np.ndarray
    operations: np.ndarray
    tags: list[Any]


@dataclass
class _Step:
    function: int
    args: list[Argument]
    units: int
    grain: int
    tag: Any = None


@dataclass
class _Loop:
    trip: int
    body: list[_Step | _Loop] = field(default_factory=list)


class PlanBuilder:
    """Collects kernel calls: `step(...)`, and `begin_loop(trip)` ... `end_loop()` around the body of a loop.

    By convention buffer 0 of every plan is the error cell (8 words, see `Plan.run`).
    """

    def __init__(self) -> None:
        self._top: list[_Step | _Loop] = []
        self._open: list[_Loop] = []

    def step(self, address: int, args: Sequence[Argument], units: int = 1, grain: int = 1, tag: Any = None) -> None:
        """Call the kernel at `address` over `units` parallel units, on one thread when there are at most `grain`.

        Integer arguments are constants; the others are filled in at each run. `tag` tells a profiler what the call is.
        """
        if not address:
            raise ValueError("a step needs the address of a kernel, got 0")
        if units < 0 or grain < 1:
            raise ValueError(f"a step needs units >= 0 and grain >= 1, got {units} and {grain}")
        for arg in args:
            if arg.__class__ is not int and arg.__class__ is not ScalarRef:
                self._check_loops(arg)
        if units:
            self._body().append(_Step(address, list(args), units, grain, tag))

    def begin_loop(self, trip: int) -> None:
        """Run the steps until `end_loop` `trip` times. Loops nest two deep."""
        if trip < 0:
            raise ValueError(f"a loop cannot run {trip} times")
        if len(self._open) == 2:
            raise ValueError("loops of a plan nest at most two deep")
        loop = _Loop(trip)
        self._body().append(loop)
        self._open.append(loop)

    def end_loop(self) -> None:
        """Close the loop opened last."""
        if not self._open:
            raise ValueError("end_loop without begin_loop")
        self._open.pop()

    def build(self, n_buffers: int, n_scalars: int = 0, scalar_types: str | None = None) -> Plan:
        """The plan. `scalar_types` has one `struct` code per scalar: q (int64, the default), Q, d (float64), f, i, I."""
        if self._open:
            raise ValueError("begin_loop without end_loop")
        types = "q" * n_scalars if scalar_types is None else scalar_types
        if len(types) != n_scalars:
            raise ValueError(f"{n_scalars} scalars but {len(types)} types in {types!r}")
        return Plan(_Layout(self._top, n_buffers, n_scalars), types, list(_tags(self._top)))

    def lay_out(self, n_buffers: int, scalar_types: str) -> TableParts:
        """The same table for a walker other than the native one: words that hold positions are left as positions."""
        made = _Layout(self._top, n_buffers, len(scalar_types))
        words = _as_words(made.words)
        start, count = made.words[1], made.words[2]
        return TableParts(words, made.frame, np.array(made.relocations, np.int64), np.array(made.toggles, np.int64),
                          np.array(made.words[start:start + count * layout.OPERATION_WORDS], np.int64), list(_tags(self._top)))

    def _body(self) -> list[_Step | _Loop]:
        return self._open[-1].body if self._open else self._top

    def _check_loops(self, arg: Argument) -> None:
        if arg.__class__ is Table:
            for inner in arg.args:
                if inner.__class__ is not int:
                    self._check_loops(inner)
        elif arg.__class__ is BufferRef and (arg.stride or arg.outer_stride or arg.alternate is not None):
            depth = len(self._open)
            if depth < (2 if arg.outer_stride else 1):
                raise ValueError(f"{arg} moves with a loop, but there {'is one loop' if depth else 'is no loop'} around the step")


def _tags(body: list[_Step | _Loop]) -> Iterator[Any]:
    """In the order of the table: a loop's body follows it."""
    for item in body:
        if isinstance(item, _Step):
            yield item.tag
        else:
            yield None
            yield from _tags(item.body)


class _Layout:
    """Assigns word positions to all parts of a plan and collects their contents."""

    def __init__(self, top: list[_Step | _Loop], n_buffers: int, n_scalars: int) -> None:
        if n_buffers < 1:
            raise ValueError("a plan needs buffer 0, the error cell")
        self.n_buffers, self.n_scalars = n_buffers, n_scalars
        self.words: list[int] = [0] * (layout.HEADER_WORDS + layout.FIRST_BUFFER + n_buffers + n_scalars)
        # Words that hold a position in this table and become addresses once it has a place in memory.
        self.pointers: list[int] = []
        self.relocations: list[int] = []
        self.toggles: list[int] = []
        self.parallel = False
        operations = self._operations(top, [])
        self._header(operations)

    @property
    def frame(self) -> int:
        return layout.HEADER_WORDS

    def _append(self, words: Sequence[int], pointers: Sequence[int] = ()) -> int:
        """Append words; those at the indices `pointers` are positions. Returns where they start."""
        start = len(self.words)
        self.words.extend(words)
        self.pointers += [start + i for i in pointers]
        return start

    def _header(self, operations: list[int]) -> None:
        relocations = self._append(self.relocations, range(0, len(self.relocations), layout.RELOCATION_WORDS))
        toggles = self._append(self.toggles, range(0, len(self.toggles), layout.TOGGLE_WORDS))
        table = self._append(operations, self._operation_pointers(operations))
        self.words[:7] = [
            self.frame, table, len(operations) // layout.OPERATION_WORDS,
            relocations, len(self.relocations) // layout.RELOCATION_WORDS,
            toggles, len(self.toggles) // layout.TOGGLE_WORDS,
        ]
        self.pointers.extend((0, 1, 3, 5))

    @staticmethod
    def _operation_pointers(operations: list[int]) -> list[int]:
        pointers = []
        for start in range(0, len(operations), layout.OPERATION_WORDS):
            pointers.extend([start + 2] if operations[start] == layout.KERNEL else [start + 3, start + 5])
        return pointers

    def _operations(self, body: list[_Step | _Loop], around: list[_Moves]) -> list[int]:
        operations: list[int] = []
        for item in body:
            operations += self._kernel(item, around) if isinstance(item, _Step) else self._loop(item, around)
        return operations

    def _kernel(self, step: _Step, around: list[_Moves]) -> list[int]:
        self.parallel = self.parallel or step.units > step.grain
        return [layout.KERNEL, step.function, self._arguments(step.args, around), step.units, step.grain, 0, 0, 0]

    def _arguments(self, args: Sequence[Any], around: list[_Moves]) -> int:
        """Lay out a table of `Argument`s (and, first, those it points to)."""
        tables: list[int] = []
        places: list[tuple[int, Any]] = []
        row: list[int] = []
        for arg in args:  # many: classes are asked for, which is faster than `isinstance`
            kind = arg.__class__
            if kind is BufferRef or kind is ScalarRef:
                places.append((len(row), arg))
                row.append(0)
            elif kind is Table:
                tables.append(len(row))
                row.append(self._arguments(arg.args, around))
            else:
                row.append(int(arg))
        start = self._append(row or [0], tables)
        for i, place in places:
            if place.__class__ is BufferRef and not around:
                self.relocations += (start + i, self._buffer(place.index), place.offset)
            else:
                self._relocate(start + i, place, around)
        return start

    def _loop(self, loop: _Loop, around: list[_Moves]) -> list[int]:
        moves = _Moves(loop.trip)
        body = self._operations(loop.body, [*around, moves])
        # Both words of a flip are positions, of a step only the first.
        steps = self._append(moves.steps, range(0, len(moves.steps), layout.STEP_WORDS))
        flips = self._append(moves.flips, range(len(moves.flips)))
        count = len(body) // layout.OPERATION_WORDS
        step_count, flip_count = len(moves.steps) // layout.STEP_WORDS, len(moves.flips) // layout.STEP_WORDS
        return [layout.LOOP, loop.trip, count, steps, step_count, flips, flip_count, 0, *body]

    def _relocate(self, position: int, arg: BufferRef | ScalarRef, around: list[_Moves]) -> None:
        if isinstance(arg, ScalarRef):
            self.relocations += [position, layout.FIRST_BUFFER + self.n_buffers + self._in_range(arg.index, self.n_scalars, "scalar"), 0]
            return
        self.relocations += (position, self._buffer(arg.index), arg.offset)
        if around:
            self._move(position, arg, around)

    def _move(self, position: int, arg: BufferRef, around: list[_Moves]) -> None:
        inner, outer = around[-1], around[-2] if len(around) > 1 else None
        if arg.stride:
            inner.steps += [position, arg.stride]
        # The outer loop also undoes what the inner one did, which starts afresh each time.
        back = arg.outer_stride - inner.trip * arg.stride
        if outer and back:
            outer.steps += [position, back]
        if arg.alternate is not None:
            cell = self._append([0])
            other = arg.offset if arg.alternate_offset is None else arg.alternate_offset
            self.toggles += [cell, self._buffer(arg.index), arg.offset, self._buffer(arg.alternate), other]
            inner.flips += [position, cell]
            if outer and inner.trip % 2:
                outer.flips += [position, cell]

    def _buffer(self, index: int) -> int:
        return layout.FIRST_BUFFER + self._in_range(index, self.n_buffers, "buffer")

    @staticmethod
    def _in_range(index: int, count: int, what: str) -> int:
        if not 0 <= index < count:
            raise ValueError(f"{what} {index} of a plan that has {count}")
        return index


class _Moves:
    """What a loop changes between iterations."""

    def __init__(self, trip: int) -> None:
        self.trip = trip
        self.steps: list[int] = []
        self.flips: list[int] = []


def _as_words(numbers: list[int]) -> np.ndarray:
    """The numbers modulo 2**64, as uint64."""
    try:
        return np.array(numbers, np.int64).view(np.uint64)
    except OverflowError:  # addresses in the upper half of memory, say
        return np.array([n & _WORD_MASK for n in numbers], np.uint64)


class Plan:
    """A built plan; `run` may be called from any thread, one run at a time."""

    __slots__ = ("__weakref__", "_first", "_frame", "_lock", "_native", "_pack", "_parallel", "_table", "address",
                 "tags")

    def __init__(self, table: _Layout, scalar_types: str, tags: list[Any]) -> None:
        words = _as_words(table.words)
        self.address = int(words.ctypes.data)
        places = np.array(table.pointers, dtype=np.int64)
        words[places] = words[places] * np.uint64(8) + np.uint64(self.address)
        self._table = words
        self._frame: Any = words[table.frame:].view(np.uint8)
        self._pack = struct.Struct(f"={2 + table.n_buffers}Q{_padded(scalar_types)}").pack_into
        self._native = layout.native().run_plan
        self._parallel = table.parallel
        self._first = table.frame
        self._lock = threading.Lock()
        self.tags = tags
        _plans.add(self)
        words[layout.EVENT_LOG] = _event_log  # now that `log_events` finds this plan: it may have just been called
        if _event_log:
            _logged[self.address] = self

    def tag_at(self, operation: int) -> Any:
        """The tag of the step whose record lies at this address."""
        return self.tags[(operation - int(self._table[1])) // (8 * layout.OPERATION_WORDS)]

    @property
    def parallel(self) -> bool:
        """Whether some step may be shared between threads."""
        return self._parallel

    def own_frame(self, error_cell: int) -> int:
        """The address of the frame, for a caller that fills it in itself and does not use `run`; the error cell is put there."""
        self._table[self._first + layout.FIRST_BUFFER] = error_cell
        return self.address + 8 * self._first

    def run(self, buffers: Sequence[int], scalars: Sequence[int | float] = ()) -> int:
        """Run on buffers at these addresses; 0, or the code in the error cell (buffer 0) that stopped the run.

        The error cell is cleared first. A kernel that fails stores (code, operation, value, bound, ...) there, and no
        step after it runs. `struct.error` when the number of buffers or scalars is wrong.
        """
        pool = threads.pool_pointer() if self._parallel else 0
        with self._lock:
            self._pack(self._frame, 0, pool, threads.scratch_pointer(), *buffers, *scalars)
            return self._native(self.address)


def _padded(types: str) -> str:
    """Each scalar in 64 bits, the small ones in the low half."""
    return "".join(code if code in "qQd" else code + "4x" for code in types)


_plans: weakref.WeakSet[Plan] = weakref.WeakSet()


_event_log = 0
_logged: dict[int, Plan] = {}  # by address, the plans that have an event log: events name them after they may be gone


def log_events(address: int) -> dict[int, Plan]:
    """From now on every run of a plan notes its steps in the event log at `address` (see `codegen/executor.py`); 0: no more.

    Returns the plans that had a log before, by the address of their header.
    """
    global _event_log, _logged
    before = _logged
    _logged = {**before} if address else {}
    _event_log = address
    for plan in all_plans():
        plan._table[layout.EVENT_LOG] = address
        if address:
            _logged[plan.address] = plan
    return before


def logged_plans() -> dict[int, Plan]:
    """The plans that have an event log, by the address of their header."""
    return dict(_logged)


def all_plans() -> list[Plan]:
    """Every plan there is; other threads may be making some."""
    while True:
        try:
            return list(_plans)
        except RuntimeError:
            continue


def _after_fork() -> None:
    """A run that another thread had begun does not exist in the child."""
    for plan in list(_plans):
        plan._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
