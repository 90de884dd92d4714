"""Kernel IR to LLVM IR for CPUs: `void kernel(ptr args, i64 lo, i64 hi, ptr scratch)` does the units [lo, hi) of a kernel.

`args` is the int64 table of `treadle.ir.kernel.argument_layout` with, for kernels that reduce, the words of codegen/phases.py
behind it; `launches` there says how often a kernel is called and how many units each call has. Loops are explicit vectors
with one masked form for the rest of a row, so nothing outside an operand is touched.

Emission follows the loop nest from the outside in; codegen/points.py has what happens at each point, so what does not vary
along an inner axis is computed outside its loop.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from treadle.codegen import odometer, reductions
from treadle.codegen.expressions import cast, memory_type
from treadle.codegen.guard_table import MOST_LANES, GuardTable
from treadle.codegen.llvm_text import Function, Module, Val, const, scalar_bits, vector_type
from treadle.codegen.phases import Partial, fold_of
from treadle.codegen.points import Points
from treadle.codegen.reductions import Fold
from treadle.codegen.schedule import (
    NARROW,
    TRANSPOSE_ROWS,
    Loops,
    Schedule,
    access_bits,
    behind,
    guards,
    instr_cost,
    loops,
    narrow_loops,
    parallel_units,
    reduce_bits,
    schedule,
    sweep_copies,
    sweep_roots,
    turned_accesses,
)
from treadle.codegen.target import Target
from treadle.codegen.vector_memory import STREAM_ALIGNMENT, first_lanes, transposed
from treadle.ir.kernel import PARALLEL, UNIT, Kernel, argument_layout

__all__ = ["emit_kernel", "emit_module", "emit_tile", "parallel_units"]

# Float sums restart after this many additions in a row and add up the parts, so that long sums stay accurate.
SUM_BLOCK = 256
# Results of more bytes than this would only drive other data out of the caches: they are written past them.
STREAM_BYTES = 32 << 20
# Kernels with more work than this for each element wait for arithmetic, not for memory.
STREAM_COST = 48
# A square of elements as wide as a vector.
TILE_BYTES = TRANSPOSE_ROWS * TRANSPOSE_ROWS * 8
# Rows whose kept values need more scratch bytes than this compute them again instead.
KEEP_BYTES = 1 << 20

State = list[Val]


class Accumulator(NamedTuple):
    """Where the state of one reduce lies in the flat list of loop-carried values: `copies` times the parts of its fold."""

    instr: int
    fold: Fold
    lanes: int
    copies: int
    first: int
    parts: int


# -- entry points ----------------------------------------------------------------------------------------------------
def emit_kernel(module: Module, kernel: Kernel, name: str, target: Target) -> None:
    """Add the kernel's function to the module. ValueError when a store cannot hold its value."""
    f = Function(module, name, [Val("ptr", "%args"), Val("i64", "%lo"), Val("i64", "%hi"), Val("ptr", "%scratch")])
    module.software_half = target.arch == "x86_64" and not target.has("f16c")
    low, high = Val("i64", "%lo"), Val("i64", "%hi")
    narrow = narrow_loops(kernel)
    if narrow is not None:
        places = [argument_layout(kernel).index(("size", axis)) for axis in (loops(kernel).lane, narrow.lane)]
        size, other = (f.load(f.gep(Val("ptr", "%args"), place, "i64"), "i64") for place in places)
        most = const("i64", NARROW)
        short = f.compare("slt", size, most if narrow.lane == loops(kernel).lane else f.smin(other, most))
        with f.if_(f.binary("and", short, f.compare("slt", low, high))):
            KernelEmitter(f, kernel, schedule(kernel, target, True)).units(low, high)
        high = f.select(short, low, high)
    with f.if_(f.compare("slt", low, high)):
        KernelEmitter(f, kernel, schedule(kernel, target)).units(low, high)
    f.line("ret void")
    f.finish()


def emit_tile(module: Module, kernel: Kernel, name: str, target: Target) -> None:
    """Add `void name(ptr args, i64 row_lo, i64 row_hi, i64 col_lo, i64 col_hi, i64 batch)`: the kernel on one tile of its domain.

    For kernels without reduces over the axes (rows, cols) or (batch, rows, cols); ValueError for any other.
    """
    if len(kernel.axes) not in (2, 3) or any(a.kind != PARALLEL for a in kernel.axes):
        raise ValueError("a tile needs a kernel over exactly the parallel axes (rows, cols) or (batch, rows, cols)")
    names = ("row_lo", "row_hi", "col_lo", "col_hi", "batch")
    row_lo, row_hi, col_lo, col_hi, batch = (Val("i64", "%" + n) for n in names)
    f = Function(module, name, [Val("ptr", "%args"), row_lo, row_hi, col_lo, col_hi, batch])
    module.software_half = target.arch == "x86_64" and not target.has("f16c")
    columns = len(kernel.axes) - 1
    plan = schedule(kernel, target)
    nest = Loops(columns, False, tuple(range(columns)), (), -1, 0)
    emitter = KernelEmitter(f, kernel, Schedule(nest, plan.width, plan.copies))
    if len(kernel.axes) == 3:
        emitter.enter(0, batch)
    with f.loop(row_lo, row_hi) as rows:
        with emitter.scope():
            emitter.enter(columns - 1, rows.index)
            emitter.lane_loop(col_lo, col_hi)
        rows.next([])
    f.line("ret void")
    f.finish()


def emit_module(kernels: Sequence[tuple[str, Kernel]], target: Target) -> str:
    """The LLVM text of one module holding all the kernels."""
    module = Module()
    for name, kernel in kernels:
        emit_kernel(module, kernel, name, target)
    return module.text()


class KernelEmitter(Points):
    """The loop nest: units, lanes, sweeps."""

    # -- units -------------------------------------------------------------------------------------------------------
    def units(self, low: Val, high: Val) -> None:
        """The loops over units: one counter per outer axis, then chunks of the lane axis, then blocks of rows."""
        f, nest = self.f, self.nest
        if nest.guarded:
            self._open_table(f.sub(high, low))
        if nest.chunk and not nest.outer and nest.rows < 0 and not nest.folds:
            begin, end = f.mul(low, nest.chunk), f.smin(f.mul(high, nest.chunk), self.sizes[self.lane])
            if not self._streams():
                self.lane_loop(begin, end)
                return
            self.streaming = self._wants_streaming()
            self.lane_loop(begin, end)
            with f.if_(self.streaming):
                f.line("fence seq_cst")  # such stores are not in the order that other threads rely on
            return
        counts = [self.phases.parts] if self.phases is not None else []
        counts += [self.sizes[a] for a in nest.outer]
        counts += [odometer.pieces(f, self.sizes[self.lane], nest.chunk)] if nest.chunk else []
        # Blocks of rows run fastest: the next one is the next cache line in the same pages.
        counts += [odometer.pieces(f, self.sizes[nest.rows], TRANSPOSE_ROWS)] if nest.rows >= 0 else []
        slow = len(nest.outer) - 1 if self.phases is None and len(nest.outer) > 1 else 0
        self._runs(low, high, counts[:slow], counts[slow:])

    def _runs(self, low: Val, high: Val, slow: list[Val], fast: list[Val]) -> None:
        """The units [low, high) with counters `slow` and `fast`: what follows from the slow ones is computed once for a run of units."""
        f = self.f
        if not slow:
            self._run(low, high, 0, fast)
            return
        length = const("i64", 1)
        for count in fast:
            length = f.mul(length, count)
        first = f.binary("udiv", low, length)
        last = f.binary("udiv", f.sub(f.add(high, length), 1), length)
        with f.loop(first, last, 1, odometer.decode(f, first, slow)) as runs:
            with self.scope():
                for axis, counter in zip(self.nest.outer, runs.values, strict=False):
                    self.enter(axis, counter)
                start = f.mul(runs.index, length)
                self._run(f.smax(f.sub(low, start), const("i64", 0)), f.smin(f.sub(high, start), length), len(slow), fast)
            runs.next(odometer.advance(f, runs.values, slow))

    def _run(self, low: Val, high: Val, entered: int, counts: list[Val]) -> None:
        f = self.f
        with f.loop(low, high, 1, odometer.decode(f, low, counts)) as loop:
            with self.scope():
                self.unit(loop.values, counts, entered)
            loop.next(odometer.advance(f, loop.values, counts))

    def unit(self, counters: list[Val], counts: list[Val], entered: int) -> None:
        """One unit; `entered` of the outer axes are bound already."""
        f, nest = self.f, self.nest
        if self.phases is not None:
            self.part, *counters = counters
        outer = nest.outer[entered:]
        for axis, counter in zip(outer, counters, strict=False):
            self.enter(axis, counter)
        if not nest.chunk:
            self.program()
            return
        chunk, count = counters[len(outer)], counts[len(counts) - len(counters) + len(outer)]
        if nest.rows >= 0:
            first = f.mul(counters[-1], TRANSPOSE_ROWS)
            self.row_range = (first, f.smin(f.add(first, TRANSPOSE_ROWS), self.sizes[nest.rows]))
        shift = self._misalignment() if nest.folds else const("i64", 0)
        last = f.compare("eq", f.add(chunk, 1), count)
        start = f.sub(f.mul(chunk, nest.chunk), shift)
        end = f.select(last, self.sizes[self.lane], f.smin(f.add(start, nest.chunk), self.sizes[self.lane]))
        self.lane_loop(f.smax(start, const("i64", 0)), end)

    def _misalignment(self) -> Val:
        """By how many elements vectors read along the lanes miss their alignment: columns are cut there, whatever their bits."""
        f = self.f
        folded = reduce_bits(self.kernel)
        for i, access in enumerate(self.kernel.accesses):
            if not access.writes and access.strides[self.lane] == UNIT and access_bits(self.kernel, i) & folded:
                size = scalar_bits(memory_type(access.dtype)) // 8
                element = f.binary("udiv", f.op(f"ptrtoint {self.pointers[i]} to i64", "i64"), const("i64", size))
                return f.binary("and", element, const("i64", self.width - 1))
        return const("i64", 0)

    def _streams(self) -> bool:
        """Whether a map may be so light, and write so evenly, that its large results are better written past the caches."""
        if any(a.writes and a.strides[self.lane] != UNIT for a in self.kernel.accesses):
            return False
        return sum(instr_cost(instr) for instr in self.kernel.body) <= STREAM_COST

    def _wants_streaming(self) -> Val:
        """Whether results are large, aligned and nothing that is read: their whole vectors are written past the caches."""
        f, accesses = self.f, self.kernel.accesses
        written = [i for i, a in enumerate(accesses) if a.writes]
        element = sum(scalar_bits(memory_type(accesses[i].dtype)) // 8 for i in written)
        wanted = f.compare("sge", f.mul(self.sizes[self.lane], element), const("i64", STREAM_BYTES))
        for i in written:
            place = f.op(f"ptrtoint {self.pointers[i]} to i64", "i64")
            wanted = f.binary("and", wanted, f.compare("eq", f.binary("and", place, const("i64", STREAM_ALIGNMENT - 1)), const("i64", 0)))
            for other, access in enumerate(accesses):
                if not access.writes:
                    wanted = f.binary("and", wanted, f.compare("ne", self.pointers[other], self.pointers[i]))
        return wanted

    # -- the lane axis -----------------------------------------------------------------------------------------------
    def _open_table(self, units: Val) -> None:
        """Keep what guards reads. It is for all lanes, if the units walk through more than those."""
        f, nest = self.f, self.nest
        size = self.sizes[self.lane]
        table = GuardTable(f, guards(self.kernel, self.lane), self.width)
        table.whole = f.compare("sle", size, const("i64", MOST_LANES))
        if nest.chunk:
            table.whole = f.binary("and", table.whole, f.compare("sge", f.mul(units, nest.chunk), f.mul(size, 2)))
        with f.if_(table.whole):
            self._write_guards(table, const("i64", 0), size)
        self.table = table
        roots = [v for _, v in self.kernel.stores]
        for sweep in range(len(self.info.reduces)):
            roots += sweep_roots(self.kernel, self.info, sweep)
        self.needs = behind(self.kernel, roots, self._tabled())

    def _tabled(self) -> frozenset[int]:
        return frozenset(self.table.guards if self.table is not None else ())

    def _write_guards(self, table: GuardTable, low: Val, high: Val) -> None:
        needs = behind(self.kernel, list(table.guards), frozenset())
        with self.f.loop(low, high, self.width) as vectors:
            with self.scope():
                self.copies = 1
                self.enter(self.lane, vectors.index, needs)
                for guard in table.guards:
                    table.write(guard, vectors.index, self.operand(guard, 0, self.width))
            vectors.next([])

    def _keep_guards(self, low: Val, high: Val) -> None:
        """Of the lanes [low, high), if not of all."""
        table, self.table = self.table, None
        assert table is not None
        table.start = low
        with self.f.if_(self.f.binary("xor", table.whole, Val("i1", "true"))):
            self._write_guards(table, low, high)
        table.start = self.f.select(table.whole, const("i64", 0), low)
        self.table = table

    def lane_loop(self, low: Val, high: Val) -> None:
        """A parallel lane axis: `program` for each group of vectors in [low, high)."""
        if self.table is not None:
            self._keep_guards(low, high)

        def body(state: State) -> State:
            if self.nest.rows < 0:
                self.program()
            else:
                self._rows(self._tiles(*self.row_range), self.row_range[1])
            return state
        self.lanes_over(low, high, [], self.needs, body)

    def _rows(self, low: Val, high: Val) -> None:
        with self.f.loop(low, high) as rows:
            with self.scope():
                self.enter(self.nest.rows, rows.index)
                self.program()
            rows.next([])

    def _tiles(self, low: Val, high: Val) -> Val:
        """Rows in squares as wide as a vector: what is contiguous along them is read so and turned in registers. Returns where they end."""
        f, accesses = self.f, turned_accesses(self.kernel, self.nest)
        if self.mask is not None or not accesses or not 2 <= self.width <= TRANSPOSE_ROWS:
            return low
        end = f.add(low, f.binary("and", f.sub(high, low), const("i64", -self.width)))
        with f.loop(low, end, self.width) as tiles:
            with self.scope():
                for number, access in enumerate(accesses):
                    self.tiles[access] = f.gep(Val("ptr", "%scratch"), number * TILE_BYTES, "i8")
                    self._turn(access, tiles.index)
                self.tile_start = tiles.index
                self._rows(tiles.index, f.add(tiles.index, self.width))
                self.tiles.clear()
            tiles.next([])
        return end

    def _turn(self, access: int, row: Val) -> None:
        """A square of an access, its lane axis across, in scratch memory."""
        f = self.f
        element = memory_type(self.kernel.accesses[access].dtype)
        ty, align = vector_type(element, self.width), scalar_bits(element) // 8
        corner = f.gep(self.pointers[access], row, element)
        stride = self.strides[access, self.lane]
        columns = [f.load(f.gep(corner, f.mul(stride, u), element), ty, align) for u in range(self.width)]
        for r, value in enumerate(transposed(f, columns)):
            f.store(value, f.gep(self.tiles[access], r * self.width, element), align)

    def lanes_over(self, low: Val, high: Val, state: State, needs: frozenset[int], body: Callable[[State], State]) -> State:
        """Walk the lane axis: `copies` whole vectors at a time, then single ones, the last of them masked."""
        f = self.f
        step = self.copies * self.width
        middle = f.add(low, f.binary("and", f.sub(high, low), const("i64", -step)))

        def whole(index: Val, state: State) -> State:
            with self.scope():
                self.enter(self.lane, index, needs)
                return body(state)

        def single(index: Val, state: State) -> State:
            with self.scope():
                self.copies, self.streaming = 1, None
                self.enter(self.lane, index, needs)
                return body(state)

        def masked(index: Val, state: State) -> State:
            with self.scope():
                self.copies, self.mask, self.streaming = 1, first_lanes(f, f.sub(high, index), self.width), None
                self.enter(self.lane, index, needs)
                return body(state)
        if self.plan.single:
            return masked(low, state)
        state = self.blocked(low, middle, step, state, whole)
        if self.copies > 1:  # masked stores are slow on some machines
            end = f.add(middle, f.binary("and", f.sub(high, middle), const("i64", -self.width)))
            state = self.plain(middle, end, self.width, state, single)
            middle = end
        return self.plain(middle, high, self.width, state, masked)

    # -- loops with state --------------------------------------------------------------------------------------------
    def plain(self, low: Val, high: Val, step: int, state: State, body: Callable[[Val, State], State]) -> State:
        with self.f.loop(low, high, step, state) as loop:
            loop.next(body(loop.index, loop.values))
        return loop.values

    def blocked(self, low: Val, high: Val, step: int, state: State, body: Callable[[Val, State], State]) -> State:
        """`plain`, but float sums start afresh in each block of SUM_BLOCK turns and the blocks' sums are added."""
        zeros = self._restarts() if state else []
        if not any(zeros):
            return self.plain(low, high, step, state, body)
        f = self.f

        def block(index: Val, total: State) -> State:
            begin = [v if z is None else z for v, z in zip(total, zeros, strict=True)]
            part = self.plain(index, f.smin(f.add(index, step * SUM_BLOCK), high), step, begin, body)
            return [p if z is None else f.binary("fadd", t, p) for t, p, z in zip(total, part, zeros, strict=True)]
        return self.plain(low, high, step * SUM_BLOCK, state, block)

    def _restarts(self) -> list[Val | None]:
        """For each carried value: the zero it restarts from, or None to carry it on."""
        return [reductions.identity(a.fold, a.lanes) if a.fold.rounds else None
                for a in self.accumulators for _ in range(a.copies * a.parts)]

    # -- sweeps ------------------------------------------------------------------------------------------------------
    def program(self) -> None:
        """Everything for one point (or vector) of the parallel axes: the sweeps in order, then what is stored once."""
        # The size of a row decides whether its heavy values fit in scratch memory.
        if self.nest.lane_folds and not self.nest.folds and self.info.kept:
            self._kept_or_not()
        else:
            self._sweeps()

    def _kept_or_not(self) -> None:
        f = self.f
        assert self.phases is not None
        self.row_bytes = f.mul(f.binary("and", f.add(self.sizes[self.lane], 255), const("i64", -256)), 8)
        fits = f.compare("sle", f.mul(self.row_bytes, len(self.info.kept)), const("i64", KEEP_BYTES))
        fits = f.binary("and", fits, self.phases.whole)
        then, other, end = f.label("kept"), f.label("again"), f.label("end")
        f.branch_if(fits, then, other)
        for label, keeping in ((then, True), (other, False)):
            f.start(label)
            self.keeping = keeping
            with self.scope():
                self._sweeps()
            f.branch(end)
        f.start(end)

    def _sweeps(self) -> None:
        self.kept = set()
        end = self.f.label("rows_done")
        for sweep in range(len(self.info.reduces)):
            needs = behind(self.kernel, sweep_roots(self.kernel, self.info, sweep), frozenset(self.kept).union(self._tabled()))
            if self.nest.lane_folds:
                # Rows too long to keep their values are rare: small code matters more.
                self.copies = 1 if self.info.kept and not self.keeping else sweep_copies(self.kernel, needs, self.lane)
            self.sweep(sweep, needs, end)
            self.evaluate(self.needs)
        self.write_all(self.info.row_stores)
        if self.phases is not None:
            self.f.branch(end)
            self.f.start(end)

    def sweep(self, sweep: int, needs: frozenset[int], end: str) -> None:
        """One pass over the reduce axes: this sweep's reduces and, if it is the last, the stores."""
        fresh = [k for k in self.info.kept if k in needs and k not in self.kept] if self.keeping else []
        stores = self.info.sweep_stores if sweep == len(self.info.reduces) - 1 else ()
        self.accumulators = self._accumulators(sweep)

        def body(state: State) -> State:
            for k in fresh:
                self._keep(k)
            state = self._accumulate(state)
            self.write_all(stores)
            return state

        def compute() -> list[State]:
            state = [v for a in self.accumulators for _ in range(a.copies) for v in reductions.start(a.fold, a.lanes)]
            fold = self._fold_guarded if self.table is not None else partial(self._fold_axes, self.nest.folds)
            state = fold(state, needs, body)
            return [part for a in self.accumulators for part in self._collapsed(a, state)]
        if self.phases is None or self.keeping:
            states = compute()
        else:
            states = self.phases.sweep(sweep + 1, self.part, self._row_count(), self._partials(sweep), compute, end)
        self.kept.update(fresh)
        for a in self.accumulators:
            count = 1 if self.nest.lane_folds else a.copies
            self.define(a.instr, [reductions.finish(self.f, a.fold, p) for p in states[:count]])
            states = states[count:]

    def _fold_axes(self, axes: tuple[int, ...], state: State, needs: frozenset[int], body: Callable[[State], State]) -> State:
        if not axes:
            lanes = self._span(self.lane) if self.table is None else self.piece
            return self.lanes_over(*lanes, state, needs, body) if self.nest.lane_folds else body(state)

        def turn(index: Val, state: State) -> State:
            with self.scope():
                self.enter(axes[0], index, needs)
                return self._fold_axes(axes[1:], state, needs, body)
        return self.blocked(*self._span(axes[0]), 1, state, turn)

    def _fold_guarded(self, state: State, needs: frozenset[int], body: Callable[[State], State]) -> State:
        """The reduce axes, for pieces of the lane axis whose guards are kept."""
        assert self.table is not None
        f, (low, high) = self.f, self._span(self.lane)
        with f.loop(low, high, MOST_LANES, state) as pieces:
            self.piece = pieces.index, f.smin(high, f.add(pieces.index, MOST_LANES))
            self._keep_guards(*self.piece)
            pieces.next(self._fold_axes(self.nest.folds, pieces.values, needs, body))
        return pieces.values

    def _span(self, axis: int) -> tuple[Val, Val]:
        """The range of a reduce axis: the outermost one may be in parts."""
        if self.phases is not None and axis == (*self.nest.folds, self.lane)[0]:
            return self.phases.part(self.part, self.sizes[axis])
        return const("i64", 0), self.sizes[axis]

    def _row_count(self) -> Val:
        total = const("i64", 1)
        for axis, size in self.sizes.items():
            total = self.f.mul(total, size) if self.kernel.axes[axis].kind == PARALLEL else total
        return total

    def _partials(self, sweep: int) -> list[Partial]:
        """The states of this sweep's accumulators as they are kept between launches."""
        f = self.f
        row = const("i64", 0)
        for axis in sorted(self.sizes, key=lambda a: a == self.lane):  # the lane axis last: its rows lie side by side
            if self.kernel.axes[axis].kind == PARALLEL:
                row = f.add(f.mul(row, self.sizes[axis]), self.index[axis])
        parts = [len(reductions.start(fold_of(self.kernel, self.kernel.body[r]), 1)) for group in self.info.reduces[:sweep] for r in group]
        number, found = sum(parts), []
        for a in self.accumulators:
            wide = a.lanes > 1 and not self.nest.lane_folds
            for u in range(a.copies if wide else 1):
                start = reductions.start(a.fold, a.lanes if wide else 1)
                found.append(Partial(a.fold, start, number, f.add(row, u * self.width), self.mask if wide else None))
            number += a.parts
        return found

    def _accumulators(self, sweep: int) -> list[Accumulator]:
        found: list[Accumulator] = []
        first = 0
        for r in self.info.reduces[sweep]:
            instr = self.kernel.body[r]
            fold = fold_of(self.kernel, instr)
            wide = self.nest.lane_folds or self.varying(r)
            parts = len(reductions.start(fold, 1))
            found.append(Accumulator(r, fold, self.width if wide else 1, self.copies if wide else 1, first, parts))
            first += found[-1].copies * parts
        return found

    def _accumulate(self, state: State) -> State:
        state = list(state)
        for a in self.accumulators:
            instr = self.kernel.body[a.instr]
            source = self.kernel.body[instr.operands[0]].dtype
            mask = self.mask if self.nest.lane_folds else None
            for u in range(min(a.copies, self.copies)):
                x = cast(self.f, self.operand(instr.operands[0], u, a.lanes), source, a.fold.dtype)
                place = self._place(u, a.lanes) if instr.opcode == "argreduce" else None
                begin = a.first + u * a.parts
                state[begin:begin + a.parts] = reductions.update(self.f, a.fold, state[begin:begin + a.parts], x, place, mask)
        return state

    def _place(self, copy: int, lanes: int) -> Val:
        """The position along the only reduce axis, for argmax and argmin."""
        if self.nest.lane_folds:
            return self.lane_index(copy)
        return self.f.splat(self.index[self.nest.folds[0]], lanes)

    def _collapsed(self, a: Accumulator, state: State) -> list[State]:
        """The states that the sweep leaves: one, or one for each vector of rows."""
        parts = [state[a.first + u * a.parts:a.first + (u + 1) * a.parts] for u in range(a.copies)]
        if self.nest.lane_folds:
            while len(parts) > 1:
                half = len(parts) // 2
                parts = [reductions.merge(self.f, a.fold, parts[u], parts[u + half]) for u in range(half)]
            parts = [reductions.across_lanes(self.f, a.fold, parts[0])]
        return parts
