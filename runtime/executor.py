"""Plans: sequences of kernel calls that run natively, without the GIL, from one call.

`PlanBuilder` collects steps and loops; `build()` lays them out as the table that `codegen/executor.py` walks.
"""
from __future__ import annotations

import os
import struct
import threading
import weakref
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import numpy as np

from treadle.codegen import executor as layout
from treadle.passes import program
from treadle.passes.program import ErrorCell, Ref, ScalarRef
from treadle.runtime import threads

ERROR_CELL_BYTES = 8 * layout.ERROR_CELL_WORDS
_WORD_MASK = (1 << 64) - 1


class Table(NamedTuple):
    """The address of a further table of arguments, for kernels that call another function with its own."""

    arguments: Sequence[Argument]


# Of a kernel. A Ref is the address of a buffer and moves with the loops around it; an ErrorCell that of buffer 0.
Argument = program.Argument | Table


class TableParts(NamedTuple):
    """A plan's table: its words, of which those at `pointers` are positions in it, where its frame begins, what it is laid out from
    (views of the words), and the steps' tags."""

    words: np.ndarray
    pointers: np.ndarray
    frame: int
    relocations: np.ndarray
    toggles: np.ndarray
    operations: np.ndarray
    tags: list[Any]


class PlanBuilder:
    """Lays out kernel calls: `step(...)`, and `begin_loop(trip)` ... `end_loop()` around the body of a loop.

    `lies`: where the buffers lie that a Ref may name: position in the table of buffers that a run is given, and byte offset; without it a
    Ref names that position. By convention buffer 0 of every plan is the error cell (8 words, see `Plan.run`).
    """

    def __init__(self, lies: Sequence[tuple[int, int]] | None = None) -> None:
        self._lies = lies
        self._words: list[int] = [0] * layout.HEADER_WORDS
        self._pointers: list[int] = []       # words that hold positions and become addresses once the table has a place in memory
        self._relocations: list[int] = []    # triples: word, buffer (or -1 - scalar), offset
        self._toggles: list[int] = []
        self._operations: list[int] = []
        self._positions: list[int] = []      # as `_pointers`, among the operations
        self._open: list[_Moves] = []
        self._tags: list[Any] = []
        self._parallel = False

    def step(self, address: int, arguments: Sequence[Argument], units: int = 1, grain: int = 1, tag: Any = None) -> None:
        """Call the kernel at `address` over `units` parallel units, on one thread when there are at most `grain`.

        Integer arguments are constants; the others are filled in at each run. `tag` tells a profiler what the call is.
        """
        if not address:
            raise ValueError("a step needs the address of a kernel, got 0")
        if units < 0 or grain < 1:
            raise ValueError(f"a step needs units >= 0 and grain >= 1, got {units} and {grain}")
        if units:
            self._parallel = self._parallel or units > grain
            operations = self._operations
            self._positions.append(len(operations) + 2)
            operations += (layout.KERNEL, address, self._table(arguments), units, grain, 0, 0, 0)
            self._tags.append(tag)

    def begin_loop(self, trip: int) -> None:
        """Run the steps until `end_loop` `trip` times. Loops nest two deep."""
        if trip < 0:
            raise ValueError(f"a loop cannot run {trip} times")
        if len(self._open) == 2:
            raise ValueError("loops of a plan nest at most two deep")
        self._open.append(_Moves(trip, len(self._operations)))
        self._operations += (layout.LOOP, trip, 0, 0, 0, 0, 0, 0)
        self._tags.append(None)

    def end_loop(self) -> None:
        """Close the loop opened last."""
        if not self._open:
            raise ValueError("end_loop without begin_loop")
        moves = self._open.pop()
        at, words = moves.operation, self._words
        steps = len(words)
        flips = steps + len(moves.steps)
        # Both words of a flip are positions, of a step only the first.
        self._pointers += [*range(steps, flips, layout.STEP_WORDS), *range(flips, flips + len(moves.flips))]
        words += moves.steps + moves.flips
        count = (len(self._operations) - at) // layout.OPERATION_WORDS - 1
        n_steps, n_flips = len(moves.steps) // layout.STEP_WORDS, len(moves.flips) // layout.STEP_WORDS
        self._operations[at + 2:at + 7] = [count, steps, n_steps, flips, n_flips]
        self._positions += (at + 3, at + 5)

    def build(self, n_buffers: int, n_scalars: int = 0, scalar_types: str | None = None) -> Plan:
        """The plan. `scalar_types` has one `struct` code per scalar: q (int64, the default), Q, d (float64), f, i, I."""
        types = "q" * n_scalars if scalar_types is None else scalar_types
        if len(types) != n_scalars:
            raise ValueError(f"{n_scalars} scalars but {len(types)} types in {types!r}")
        return Plan(self.lay_out(n_buffers, n_scalars), n_buffers, types, self._parallel)

    def lay_out(self, n_buffers: int, n_scalars: int) -> TableParts:
        """The plan's table, for a walker of any kind."""
        if self._open:
            raise ValueError("begin_loop without end_loop")
        if n_buffers < 1:
            raise ValueError("a plan needs buffer 0, the error cell")
        parts = (self._words, self._relocations, self._toggles, self._operations, [0] * (layout.FIRST_BUFFER + n_buffers + n_scalars))
        relocations, toggles, operations, frame, _ = starts = list(accumulate(map(len, parts)))
        words = _as_words([*chain(*parts)])
        widths = (layout.RELOCATION_WORDS, layout.TOGGLE_WORDS, layout.OPERATION_WORDS)
        rows = [words[start:end].view(np.int64).reshape(-1, n) for (start, end), n in zip(pairwise(starts[:4]), widths, strict=True)]
        _find_in_frame(rows[0], n_buffers, n_scalars)
        rows[1][:, 1::2] += layout.FIRST_BUFFER
        words[:7] = [frame, operations, len(rows[2]), relocations, len(rows[0]), toggles, len(rows[1])]
        pointers = np.array([0, 1, 3, 5, *self._pointers, *range(relocations, toggles, layout.RELOCATION_WORDS),
                             *range(toggles, operations, layout.TOGGLE_WORDS), *[operations + p for p in self._positions]], np.int64)
        return TableParts(words, pointers, frame, rows[0], rows[1], rows[2], self._tags)

    def _table(self, arguments: Sequence[Any]) -> int:
        """Lay out `Argument`s; where. They are many: classes are asked for, which is faster than `isinstance`."""
        words, lies, relocations = self._words, self._lies, self._relocations
        start = len(words)
        words += arguments
        for at, argument in enumerate(arguments, start):
            kind = argument.__class__
            if kind is int:
                continue
            if kind is Ref:
                number, offset, step, apart = argument
                place, begin = (number, 0) if lies is None else lies[number]
                relocations += (at, place, begin + offset)
                words[at] = 0
                if step or apart:
                    self._moves(at, place, begin + offset, argument)
            elif kind is ScalarRef:
                relocations += (at, -1 - argument.position, 0)
                words[at] = 0
            elif kind is ErrorCell:
                relocations += (at, 0, 0)
                words[at] = 0
            elif kind is Table:
                self._pointers.append(at)
                words[at] = self._table(argument.arguments)
            else:
                words[at] = int(argument)
        return start

    def _moves(self, at: int, place: int, offset: int, ref: Ref) -> None:
        if not self._open:
            raise ValueError(f"{ref} moves with a loop, but there is no loop around the step")
        inner, outer = self._open[-1], self._open[0] if len(self._open) > 1 else None
        if ref.step:
            inner.steps += (at, ref.step)
            if outer and inner.trip:  # undoes what the inner one did, which starts afresh each time
                outer.steps += (at, -inner.trip * ref.step)
        if ref.apart:
            cell = len(self._words)
            self._words.append(0)
            self._toggles += (cell, place, offset, place, offset + ref.apart)
            inner.flips += (at, cell)
            if outer and inner.trip % 2:
                outer.flips += (at, cell)


class _Moves:
    """What a loop changes between iterations, and where its operation is."""

    def __init__(self, trip: int, operation: int) -> None:
        self.trip, self.operation = trip, operation
        self.steps: list[int] = []
        self.flips: list[int] = []


def _find_in_frame(relocations: np.ndarray, n_buffers: int, n_scalars: int) -> None:
    """Words of the frame instead of numbers of buffers and of scalars."""
    numbers = relocations[:, 1]
    for count, last, what in ((n_buffers, int(numbers.max(initial=-1)), "buffer"), (n_scalars, int(-1 - numbers.min(initial=0)), "scalar")):
        if last >= count:
            raise ValueError(f"{what} {last} of a plan that has {count}")
    relocations[:, 1] = layout.FIRST_BUFFER + np.where(numbers < 0, n_buffers - 1 - numbers, numbers)


def _as_words(numbers: list[int]) -> np.ndarray:
    """The numbers modulo 2**64, as uint64."""
    try:
        packed = struct.pack(f"{len(numbers)}q", *numbers)  # three times as fast as numpy
    except struct.error:  # addresses in the upper half of memory, say
        packed = struct.pack(f"{len(numbers)}Q", *[n & _WORD_MASK for n in numbers])
    return np.frombuffer(bytearray(packed), np.uint64)


class Plan:
    """A built plan; `run` may be called from any thread, one run at a time."""

    __slots__ = ("__weakref__", "_first", "_frame", "_lock", "_native", "_pack", "_parallel", "_table", "address",
                 "tags")

    def __init__(self, table: TableParts, n_buffers: int, scalar_types: str, parallel: bool) -> None:
        words = table.words
        self.address = int(words.ctypes.data)
        words[table.pointers] = words[table.pointers] * np.uint64(8) + np.uint64(self.address)
        self._table = words
        self._frame: Any = words[table.frame:].view(np.uint8)
        self._pack = struct.Struct(f"={2 + n_buffers}Q{_padded(scalar_types)}").pack_into
        self._native = layout.native().run_plan
        self._parallel = parallel
        self._first = table.frame
        self._lock = threading.Lock()
        self.tags = table.tags
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
