"""Kernel IR to LLVM IR for CPUs: `void kernel(ptr args, i64 lo, i64 hi, ptr scratch)` does the units [lo, hi) of a kernel.

`args` is the int64 table of `treadle.ir.kernel.argument_layout`; `parallel_units` (codegen/schedule.py) says how many units a
call has. Loops are explicit vectors with one masked form for the rest of a row, so nothing outside an operand is touched.

Emission follows the loop nest from the outside in. Binding an axis moves every pointer along it; `evaluate` then emits
each needed instruction that has become computable, so what does not vary along an inner axis is computed outside its loop.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from treadle.codegen import odometer, reductions
from treadle.codegen.expressions import (
    INDEX_OUT_OF_RANGE,
    Divisor,
    Site,
    cast,
    constant,
    divide,
    elementwise,
    from_memory,
    memory_type,
    prepare_divisor,
    report,
    to_memory,
)
from treadle.codegen.llvm_text import Function, Module, Val, const, scalar_bits, vector_type
from treadle.codegen.philox import random_bits
from treadle.codegen.reductions import Fold
from treadle.codegen.schedule import (
    TRANSPOSE_ROWS,
    Loops,
    Schedule,
    access_bits,
    analyse,
    behind,
    is_load,
    parallel_units,
    reduce_bits,
    schedule,
    sweep_copies,
    sweep_roots,
)
from treadle.codegen.target import Target
from treadle.codegen.vector_memory import first_lanes, gather, lane_numbers, load_vector, scatter, store_vector
from treadle.ir.kernel import PARALLEL, RUNTIME, UNIT, ZERO, Instr, Kernel, argument_layout

__all__ = ["emit_kernel", "emit_module", "emit_tile", "parallel_units"]

# Float sums restart after this many additions in a row and add up the parts, so that long sums stay accurate.
SUM_BLOCK = 256
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
    with f.if_(f.compare("slt", Val("i64", "%lo"), Val("i64", "%hi"))):
        _Emitter(f, kernel, schedule(kernel, target)).units(Val("i64", "%lo"), Val("i64", "%hi"))
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
    emitter = _Emitter(f, kernel, Schedule(nest, plan.width, plan.copies))
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


class _Emitter:
    """The state of emission: what is bound and computed at the current point of the loop nest."""

    def __init__(self, f: Function, kernel: Kernel, plan: Schedule) -> None:
        self.f, self.kernel, self.plan, self.info = f, kernel, plan, analyse(kernel)
        self.nest, self.lane, self.width, self.copies = plan.loops, plan.loops.lane, plan.width, plan.copies
        self.mask: Val | None = None
        self.bound = 0
        self.env: dict[int, list[Val]] = {}
        self.splats: dict[int, Val] = {}
        self.checked: dict[int, tuple[Val, Val]] = {}
        self.divisors: dict[int, Divisor] = {}
        self.index: dict[int, Val] = {}
        self.pointers: dict[int, Val] = {}
        self.strides: dict[tuple[int, int], Val] = {}
        self.sizes: dict[int, Val] = {}
        self.slots: list[Val] = []
        self.scalars: dict[int, int] = {}
        self.needs = self.info.row_needs.union(*self.info.sweep_needs)
        self.splat_wanted = self._find_splats()
        self.divisor_wanted = self._find_divisors()
        self.keeping = False
        self.kept: set[int] = set()
        self.row_range = (const("i64", 0), const("i64", 0))
        self._read_arguments()
        self.iota = lane_numbers("i64", self.width)
        self.lane_offsets = {a: self._lane_offsets(a) for a in range(len(kernel.accesses))}
        # What a load reads whose address must not be touched.
        self.nothing = f.variable(const("i64", 0))
        self.evaluate(self.needs)

    # -- set-up ------------------------------------------------------------------------------------------------------
    def _read_arguments(self) -> None:
        f, args = self.f, Val("ptr", "%args")
        for position, (what, *which) in enumerate(argument_layout(self.kernel)):
            place = f.gep(args, position, "i64")
            if what == "error":
                self.error = f.load(place, "ptr")
            elif what == "size":
                self.sizes[which[0]] = f.load(place, "i64")
            elif what == "pointer":
                self.pointers[which[0]] = f.load(place, "ptr")
            elif what == "stride":
                self.strides[which[0], which[1]] = f.load(place, "i64")
            elif what == "slot":
                self.slots.append(f.load(place, "i64"))
            else:
                self.scalars[which[0]] = position

    def _lane_offsets(self, access: int) -> Val | None:
        """How far each lane's element is from the first, in elements; None where the lanes share one element."""
        if self.lane < 0 or self.kernel.accesses[access].strides[self.lane] == ZERO:
            return None
        if self.kernel.accesses[access].strides[self.lane] == UNIT:
            return self.iota
        return self.f.mul(self.f.splat(self.strides[access, self.lane], self.width), self.iota)

    def _find_splats(self) -> set[int]:
        """Values equal in all lanes that are used in vectors: each is spread once, where it is computed."""
        wanted = {v for a, v in self.kernel.stores if self._moves(access_bits(self.kernel, a))}
        for i, instr in enumerate(self.kernel.body):
            if self._moves(self.info.varies[i]) or (self.nest.lane_folds and instr.opcode in ("reduce", "argreduce")):
                wanted.update(instr.operands)
        return {i for i in wanted if not self.varying(i)}

    def _find_divisors(self) -> set[int]:
        """Floats equal in all lanes by which vectors are divided."""
        return {instr.operands[1] for i, instr in enumerate(self.kernel.body)
                if instr.opcode == "div" and self.varying(i) and not self.varying(instr.operands[1])}

    def _moves(self, axes: int) -> bool:
        return self.lane >= 0 and bool(axes >> self.lane & 1)

    def varying(self, instr: int) -> bool:
        """Does the value differ from lane to lane?"""
        return self._moves(self.info.varies[instr])

    # -- scopes ------------------------------------------------------------------------------------------------------
    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is bound and computed inside is forgotten at the end."""
        saved = (dict(self.env), dict(self.splats), dict(self.divisors), dict(self.checked), dict(self.index), dict(self.pointers),
                 self.bound, self.mask, self.copies)
        yield
        (self.env, self.splats, self.divisors, self.checked, self.index, self.pointers,
         self.bound, self.mask, self.copies) = saved

    def enter(self, axis: int, index: Val, needs: frozenset[int] | None = None) -> None:
        """Fix an axis at `index` (for the lane axis: its first element) and compute what this makes computable."""
        self.index[axis] = index
        self.bound |= 1 << axis
        for i, access in enumerate(self.kernel.accesses):
            if access.strides[axis] == ZERO:
                continue
            step = index if access.strides[axis] == UNIT else self.f.mul(index, self.strides[i, axis])
            self.pointers[i] = self.f.gep(self.pointers[i], step, memory_type(access.dtype))
        self.evaluate(self.needs if needs is None else needs)

    def evaluate(self, needs: Iterable[int]) -> None:
        """Emit the needed instructions that can be computed here and have not been."""
        folded = reduce_bits(self.kernel)
        for i in sorted(needs):
            instr = self.kernel.body[i]
            if i in self.env or (instr.opcode in ("reduce", "argreduce") and folded):
                continue
            reloads = self.keeping and i in self.kept
            if not reloads and any(o not in self.env for o in instr.operands):
                continue
            if instr.opcode == "load_at" and i not in self.checked and not self.varying(instr.operands[0]):
                self.checked[i] = self._checked_index(instr, 0, 1)
            if self.info.varies[i] & ~self.bound:
                continue
            varying = self.varying(i)
            self.define(i, [self.instruction(i, u) for u in range(self.copies if varying else 1)])

    def define(self, instr: int, values: list[Val]) -> None:
        self.env[instr] = values
        if instr in self.splat_wanted and self.kernel.body[instr].opcode != "const":
            self.splats[instr] = self.f.splat(values[0], self.width)
        if instr in self.divisor_wanted:
            self.divisors[instr] = prepare_divisor(self.f, self.operand(instr, 0, 1), self.width)

    def operand(self, instr: int, copy: int, lanes: int) -> Val:
        """A computed value in the wanted number of lanes (1 or the vector width)."""
        record = self.kernel.body[instr]
        if record.opcode == "const":
            return constant(record.dtype, record.params[0], lanes)
        if lanes > 1 and not self.varying(instr):
            return self.splats[instr]
        values = self.env[instr]
        return values[copy if len(values) > 1 else 0]

    # -- units -------------------------------------------------------------------------------------------------------
    def units(self, low: Val, high: Val) -> None:
        """The loop over units: one counter per outer axis, then blocks of rows, then chunks of the lane axis."""
        f, nest = self.f, self.nest
        if nest.chunk and not nest.outer and nest.rows < 0 and not nest.folds:
            end = f.smin(f.mul(high, nest.chunk), self.sizes[self.lane])
            self.lane_loop(f.mul(low, nest.chunk), end)
            return
        counts = [self.sizes[a] for a in nest.outer]
        counts += [odometer.pieces(f, self.sizes[nest.rows], TRANSPOSE_ROWS)] if nest.rows >= 0 else []
        counts += [odometer.pieces(f, self.sizes[self.lane], nest.chunk)] if nest.chunk else []
        with f.loop(low, high, 1, odometer.decode(f, low, counts)) as loop:
            with self.scope():
                self.unit(loop.values)
            loop.next(odometer.advance(f, loop.values, counts))

    def unit(self, counters: list[Val]) -> None:
        f, nest = self.f, self.nest
        for axis, counter in zip(nest.outer, counters, strict=False):
            self.enter(axis, counter)
        if not nest.chunk:
            self.program()
            return
        if nest.rows >= 0:
            first = f.mul(counters[len(nest.outer)], TRANSPOSE_ROWS)
            self.row_range = (first, f.smin(f.add(first, TRANSPOSE_ROWS), self.sizes[nest.rows]))
        start = f.mul(counters[-1], nest.chunk)
        self.lane_loop(start, f.smin(f.add(start, nest.chunk), self.sizes[self.lane]))

    # -- the lane axis -----------------------------------------------------------------------------------------------
    def lane_loop(self, low: Val, high: Val) -> None:
        """A parallel lane axis: `program` for each group of vectors in [low, high)."""
        def body(state: State) -> State:
            if self.nest.rows < 0:
                self.program()
                return state
            with self.f.loop(*self.row_range) as rows:
                with self.scope():
                    self.enter(self.nest.rows, rows.index)
                    self.program()
                rows.next([])
            return state
        self.lanes_over(low, high, [], self.needs, body)

    def lanes_over(self, low: Val, high: Val, state: State, needs: frozenset[int], body: Callable[[State], State]) -> State:
        """Walk the lane axis: `copies` whole vectors at a time, then single masked ones."""
        f = self.f
        step = self.copies * self.width
        middle = f.add(low, f.binary("and", f.sub(high, low), const("i64", -step)))

        def whole(index: Val, state: State) -> State:
            with self.scope():
                self.enter(self.lane, index, needs)
                return body(state)

        def masked(index: Val, state: State) -> State:
            with self.scope():
                self.copies, self.mask = 1, first_lanes(f, f.sub(high, index), self.width)
                self.enter(self.lane, index, needs)
                return body(state)
        state = self.blocked(low, middle, step, state, whole)
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
        self.row_bytes = f.mul(f.binary("and", f.add(self.sizes[self.lane], 255), const("i64", -256)), 8)
        fits = f.compare("sle", f.mul(self.row_bytes, len(self.info.kept)), const("i64", KEEP_BYTES))
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
        for sweep in range(len(self.info.reduces)):
            needs = behind(self.kernel, sweep_roots(self.kernel, self.info, sweep), frozenset(self.kept))
            if self.nest.lane_folds:
                # Rows too long to keep their values are rare: small code matters more.
                self.copies = 1 if self.info.kept and not self.keeping else sweep_copies(self.kernel, needs, self.lane)
            self.sweep(sweep, needs)
            self.evaluate(self.needs)
        for access, value in self.info.row_stores:
            self.write(access, value)

    def sweep(self, sweep: int, needs: frozenset[int]) -> None:
        """One pass over the reduce axes: this sweep's reduces and, if it is the last, the stores."""
        fresh = [k for k in self.info.kept if k in needs and k not in self.kept] if self.keeping else []
        stores = self.info.sweep_stores if sweep == len(self.info.reduces) - 1 else ()
        self.accumulators = self._accumulators(sweep)
        state = [v for a in self.accumulators for _ in range(a.copies) for v in reductions.start(a.fold, a.lanes)]

        def body(state: State) -> State:
            for k in fresh:
                self._keep(k)
            state = self._accumulate(state)
            for access, value in stores:
                self.write(access, value)
            return state
        state = self._fold_axes(self.nest.folds, state, needs, body)
        self.kept.update(fresh)
        for a in self.accumulators:
            self._finish(a, state)

    def _fold_axes(self, axes: tuple[int, ...], state: State, needs: frozenset[int], body: Callable[[State], State]) -> State:
        if not axes:
            return self.lanes_over(const("i64", 0), self.sizes[self.lane], state, needs, body) if self.nest.lane_folds else body(state)

        def turn(index: Val, state: State) -> State:
            with self.scope():
                self.enter(axes[0], index, needs)
                return self._fold_axes(axes[1:], state, needs, body)
        return self.blocked(const("i64", 0), self.sizes[axes[0]], 1, state, turn)

    def _accumulators(self, sweep: int) -> list[Accumulator]:
        found: list[Accumulator] = []
        first = 0
        for r in self.info.reduces[sweep]:
            instr = self.kernel.body[r]
            kind = str(instr.params[0])
            dtype = self.kernel.body[instr.operands[0]].dtype if instr.opcode == "argreduce" else instr.dtype
            fold = Fold(kind, "bool" if kind in ("any", "all") else dtype)
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

    def _finish(self, a: Accumulator, state: State) -> None:
        parts = [state[a.first + u * a.parts:a.first + (u + 1) * a.parts] for u in range(a.copies)]
        if self.nest.lane_folds:
            while len(parts) > 1:
                half = len(parts) // 2
                parts = [reductions.merge(self.f, a.fold, parts[u], parts[u + half]) for u in range(half)]
            parts = [reductions.across_lanes(self.f, a.fold, parts[0])]
        self.define(a.instr, [reductions.finish(self.f, a.fold, p) for p in parts])

    # -- values kept between sweeps ----------------------------------------------------------------------------------
    def _kept_place(self, instr: int, copy: int) -> Val:
        f = self.f
        row = f.gep(Val("ptr", "%scratch"), f.mul(self.row_bytes, self.info.kept.index(instr)), "i8")
        scalar = self.element_type(instr)
        return f.gep(f.gep(row, self.index[self.lane], scalar), copy * self.width, scalar)

    def element_type(self, instr: int) -> str:
        """The LLVM scalar type of the instruction's result in registers."""
        return constant(self.kernel.body[instr].dtype, 0).ty

    def _keep(self, instr: int) -> None:
        for u in range(self.copies):
            self.f.store(self.env[instr][u], self._kept_place(instr, u), scalar_bits(self.element_type(instr)) // 8)

    # -- instructions ------------------------------------------------------------------------------------------------
    def instruction(self, number: int, copy: int) -> Val:
        """Emit one instruction for one of the vectors worked on together."""
        instr = self.kernel.body[number]
        varying = self.varying(number)
        lanes = self.width if varying else 1
        if self.keeping and number in self.kept:
            ty = vector_type(self.element_type(number), lanes)
            return self.f.load(self._kept_place(number, copy), ty, scalar_bits(self.element_type(number)) // 8)
        if is_load(instr):
            return self.load(number, copy, varying)
        if instr.opcode in _LEAVES:
            return self.leaf(instr, copy, varying)
        if instr.opcode == "random":
            seed, offset = (self.operand(o, copy, 1) for o in instr.operands[:2])
            return random_bits(self.f, seed, offset, self.operand(instr.operands[2], copy, lanes))
        if instr.opcode == "argreduce":
            return const("i64", 0)  # there is no axis left to search
        if instr.opcode == "div" and varying and instr.operands[1] in self.divisors:
            return divide(self.f, self.operand(instr.operands[0], copy, lanes), self.divisors[instr.operands[1]])
        args = [self.operand(o, copy, lanes) for o in instr.operands]
        dtypes = tuple(self.kernel.body[o].dtype for o in instr.operands)
        if instr.opcode in ("cast", "reduce"):
            return cast(self.f, args[0], dtypes[0], instr.dtype)
        return elementwise(Site(self.f, self.mask if varying else None, self.error), instr.opcode, dtypes, args)

    def leaf(self, instr: Instr, copy: int, varying: bool) -> Val:
        f, parameter = self.f, instr.params[0]
        if instr.opcode == "const":
            return constant(instr.dtype, parameter)
        if instr.opcode == "slot":
            return self.slots[parameter]
        if instr.opcode == "index":
            return self.lane_index(copy) if varying else self.index[parameter]
        place = f.gep(Val("ptr", "%args"), self.scalars[parameter], "i64")
        return from_memory(f, f.load(place, memory_type(instr.dtype)), instr.dtype)

    def lane_index(self, copy: int) -> Val:
        """The lane axis's index in each lane."""
        return self.f.add(self.f.splat(self.f.add(self.index[self.lane], copy * self.width), self.width), self.iota)

    # -- memory ------------------------------------------------------------------------------------------------------
    def load(self, number: int, copy: int, varying: bool) -> Val:
        """`load`, `load_if` and `load_at`: the last two read 0 where they may not touch memory."""
        f, instr = self.f, self.kernel.body[number]
        access = instr.params[0]
        pointer, offsets, keep = self.pointers[access], None, None
        lanes = self.width if varying else 1
        if instr.opcode == "load_if":
            keep = self.operand(instr.operands[0], copy, lanes)
        elif instr.opcode == "load_at":
            if number in self.checked:
                step, good = self.checked[number]
                pointer = f.gep(pointer, step, memory_type(self.kernel.accesses[access].dtype))
                keep = f.splat(good, lanes)
            else:
                offsets, keep = self._checked_index(instr, copy, lanes)
        return self.read(access, copy, pointer, offsets, keep) if varying else self.read_one(access, pointer, keep)

    def _checked_index(self, instr: Instr, copy: int, lanes: int) -> tuple[Val, Val]:
        """The element offset of a guarded load and whether it is in range; faults are reported."""
        f = self.f
        number = instr.operands[0]
        _, bound_slot, stride_slot = instr.params
        index = cast(f, self.operand(number, copy, lanes), self.kernel.body[number].dtype, "int64")
        bound, stride = (f.splat(self.slots[s], lanes) for s in (bound_slot, stride_slot))
        wrapped = f.select(f.compare("slt", index, const(index.ty, 0)), f.add(index, bound), index)
        good = f.compare("ult", wrapped, bound)
        bad = f.binary("xor", good, const(good.ty, 1))
        report(Site(f, self.mask if lanes > 1 else None, self.error), bad, INDEX_OUT_OF_RANGE, index, self.slots[bound_slot])
        return f.mul(f.select(good, wrapped, const(index.ty, 0)), stride), good

    def read_one(self, access: int, pointer: Val, keep: Val | None) -> Val:
        f, dtype = self.f, self.kernel.accesses[access].dtype
        if keep is not None:
            pointer = f.select(keep, pointer, self.nothing)
        return from_memory(f, f.load(pointer, memory_type(dtype)), dtype)

    def read(self, access: int, copy: int, pointer: Val, offsets: Val | None, keep: Val | None) -> Val:
        """A vector: contiguous if it can be, else gathered. Masked-out lanes read 0."""
        f, dtype = self.f, self.kernel.accesses[access].dtype
        element = memory_type(dtype)
        ty = vector_type(element, self.width)
        mask = self.mask if keep is None else keep if self.mask is None else f.binary("and", keep, self.mask)
        pointer = self._copy_pointer(access, pointer, copy, element)
        if offsets is None and self.kernel.accesses[access].strides[self.lane] == UNIT:
            return from_memory(f, load_vector(f, pointer, ty, mask), dtype)
        return from_memory(f, gather(f, self._places(access, pointer, offsets, element), ty, mask), dtype)

    def _copy_pointer(self, access: int, pointer: Val, copy: int, element: str) -> Val:
        kind = self.kernel.accesses[access].strides[self.lane]
        if copy == 0 or kind == ZERO:
            return pointer
        step = const("i64", copy * self.width)
        return self.f.gep(pointer, self.f.mul(step, self.strides[access, self.lane]) if kind == RUNTIME else step, element)

    def _places(self, access: int, pointer: Val, offsets: Val | None, element: str) -> Val:
        """One address per lane."""
        f, lane = self.f, self.lane_offsets[access]
        total = offsets if lane is None else lane if offsets is None else f.add(offsets, lane)
        if total is None:
            return f.splat(pointer, self.width)
        return f.op(f"getelementptr {element}, {pointer}, {total}", vector_type("ptr", self.width))

    def write(self, access: int, value: int) -> None:
        """Store a computed value at the current point, as vectors when the access moves along the lanes."""
        f, record = self.f, self.kernel.accesses[access]
        if not self._moves(access_bits(self.kernel, access)):
            f.store(to_memory(f, self.operand(value, 0, 1), record.dtype), self.pointers[access])
            return
        for u in range(self.copies):
            self._write_vector(access, u, to_memory(f, self.operand(value, u, self.width), record.dtype))

    def _write_vector(self, access: int, copy: int, value: Val) -> None:
        f, record = self.f, self.kernel.accesses[access]
        element = memory_type(record.dtype)
        pointer = self._copy_pointer(access, self.pointers[access], copy, element)
        if record.strides[self.lane] == UNIT:
            store_vector(f, value, pointer, self.mask)
        else:
            scatter(f, value, self._places(access, pointer, None, element), self.mask)


_LEAVES = frozenset(("const", "slot", "scalar", "index"))
