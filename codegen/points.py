"""What is bound and computed at the current point of a kernel's loop nest, and how its instructions become LLVM IR there.

Binding an axis moves every pointer along it; `evaluate` then emits each needed instruction that has become computable.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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
from treadle.codegen.guard_table import GuardTable
from treadle.codegen.llvm_text import Function, Val, const, scalar_bits, vector_type
from treadle.codegen.phases import Phases, has_phases
from treadle.codegen.philox import random_bits
from treadle.codegen.schedule import Schedule, access_bits, analyse, is_load, reduce_bits
from treadle.codegen.vector_memory import (
    gather,
    lane_numbers,
    load_every,
    load_pairs,
    load_vector,
    scatter,
    store_pairs,
    store_reversed,
    store_vector,
    stream_vector,
)
from treadle.ir.kernel import PAIRED, REVERSED, RUNTIME, UNIT, ZERO, Instr, Kernel, argument_layout

# Strides known to the emitter, besides 1.
_STEPS = {REVERSED: -1, PAIRED: 2}
_LEAVES = frozenset(("const", "slot", "scalar", "index"))


class Points:
    """The state of emission."""

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
        self.streaming: Val | None = None  # whether stores go past the caches
        self.keeping = False  # heavy values of a row are kept in scratch memory from one sweep to the next
        self.kept: set[int] = set()
        self.row_bytes = const("i64", 0)  # from one kept value of a row to the next
        self.tiles: dict[int, Val] = {}  # squares of accesses in scratch memory, from the row `tile_start` on
        self.tile_start = const("i64", 0)
        self.row_range = (const("i64", 0), const("i64", 0))
        self.table: GuardTable | None = None
        self.phases = Phases(f, kernel) if has_phases(kernel) else None
        self.part = const("i64", 0)
        self._read_arguments()
        self.iota = lane_numbers("i64", self.width)
        self.lane_offsets = {a: self._lane_offsets(a) for a in range(len(kernel.accesses))}
        self.mates = self._mates()
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

    # -- pairs of accesses -------------------------------------------------------------------------------------------
    def _mates(self) -> dict[tuple[int, int], tuple[Val, Val]]:
        """Two accesses to every second element, which may fill each other's gaps: the parts of complex numbers. For each pair whether
        the second begins one element behind the first, and whether it begins one before; both hold all the way."""
        f, found = self.f, {}
        steps = [(a, record) for a, record in enumerate(self.kernel.accesses)
                 if self.width > 1 and record.strides[self.lane] == PAIRED]
        for i, (a, record) in enumerate(steps):
            for b, _ in [(b, other) for b, other in steps[i + 1:] if other == record]:
                size = scalar_bits(memory_type(record.dtype)) // 8
                one, other = (f.op(f"ptrtoint {self.pointers[x]} to i64", "i64") for x in (a, b))
                apart, together = f.sub(other, one), const("i1", 1)
                for axis in [x for x, kind in enumerate(record.strides) if kind >= RUNTIME]:
                    together = f.binary("and", together, f.compare("eq", self.strides[a, axis], self.strides[b, axis]))
                behind, before = (f.binary("and", together, f.compare("eq", apart, const("i64", d))) for d in (size, -size))
                found[a, b], found[b, a] = (behind, before), (before, behind)
        return found

    def _mate_of(self, number: int, needs: Iterable[int]) -> int | None:
        """A load, not yet computed, that may be read together with this one."""
        if not self.mates or self.mask is not None or self.kernel.body[number].opcode != "load":
            return None
        access = self.kernel.body[number].params[0]
        return next((i for i in sorted(needs) if i not in self.env and self.kernel.body[i].opcode == "load"
                     and (access, self.kernel.body[i].params[0]) in self.mates), None)

    def _read_pair(self, a: int, b: int) -> tuple[list[Val], list[Val]]:
        """The vectors of two accesses: neighbours in memory, told apart in registers, if one access fills the other's gaps."""
        f, record = self.f, self.kernel.accesses[a]
        element = memory_type(record.dtype)
        ty = vector_type(element, self.width)
        behind, before = self.mates[a, b]
        after, ahead, other, alone, end = (f.label(name) for name in ("after", "ahead", "other", "alone", "read"))
        f.branch_if(behind, after, other)
        f.start(other)
        f.branch_if(before, ahead, alone)
        ways = []
        for label, pointer in ((after, self.pointers[a]), (ahead, self.pointers[b])):
            f.start(label)
            found = [load_pairs(f, f.gep(pointer, 2 * u * self.width, element), ty) for u in range(self.copies)]
            ways.append([v for pair in found for v in (pair if label == after else pair[::-1])])
            f.branch(end)
        f.start(alone)
        ways.append([load_every(f, self._copy_pointer(access, self.pointers[access], u, element), ty, 2, None)
                     for u in range(self.copies) for access in (a, b)])
        f.branch(end)
        f.start(end)
        phis = [", ".join([f"[ {v.name}, %{label} ]" for v, label in zip(way, (after, ahead, alone), strict=True)])
                for way in zip(*ways, strict=True)]
        values = [from_memory(f, v, record.dtype) for v in [f.op(f"phi {ty} {phi}", ty) for phi in phis]]
        return values[::2], values[1::2]

    # -- scopes ------------------------------------------------------------------------------------------------------
    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is bound and computed inside is forgotten at the end."""
        saved = (dict(self.env), dict(self.splats), dict(self.divisors), dict(self.checked), dict(self.index), dict(self.pointers),
                 self.bound, self.mask, self.copies, self.streaming)
        yield
        (self.env, self.splats, self.divisors, self.checked, self.index, self.pointers,
         self.bound, self.mask, self.copies, self.streaming) = saved

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
            reloads = (self.keeping and i in self.kept) or self._is_tabled(i)
            if not reloads and any(o not in self.env for o in instr.operands):
                continue
            if instr.opcode == "load_at" and i not in self.checked and not self.varying(instr.operands[0]):
                self.checked[i] = self._checked_index(instr, 0, 1)
            if self.info.varies[i] & ~self.bound:
                continue
            mate = self._mate_of(i, needs)
            if mate is not None:
                for number, values in zip((i, mate), self._read_pair(instr.params[0], self.kernel.body[mate].params[0]), strict=True):
                    self.define(number, values)
                continue
            varying = self.varying(i)
            self.define(i, [self.instruction(i, u) for u in range(self.copies if varying else 1)])

    def _is_tabled(self, instr: int) -> bool:
        return self.table is not None and instr in self.table.guards

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
        if self.table is not None and number in self.table.guards:
            return self.table.read(number, self.index[self.lane], copy)
        if is_load(instr):
            return self.load(number, copy, varying)
        if instr.opcode in _LEAVES:
            return self.leaf(instr, copy, varying)
        if instr.opcode == "random":
            seed, offset = (self.operand(o, copy, 1) for o in instr.operands[:2])
            return random_bits(self.f, seed, offset, self.operand(instr.operands[2], copy, lanes))
        if instr.opcode == "quotient":
            return self.quotient(instr, copy, varying)
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

    def quotient(self, instr: Instr, copy: int, varying: bool) -> Val:
        """Of an index that is not negative. In lanes, that of the first one and how often the few that follow pass the divisor: exactly,
        in doubles, as the distance to the next whole number is at least half a part."""
        f, index, divisor = self.f, instr.operands[0], self.operand(instr.operands[1], 0, 1)
        if not varying:
            return f.binary("udiv", self.operand(index, 0, 1), divisor)
        assert self.kernel.body[index].opcode == "index"
        first = f.add(self.index[self.lane], copy * self.width)
        whole = f.binary("udiv", first, divisor)
        rest, by = (f.cast("sitofp", v, "double") for v in (f.sub(first, f.mul(whole, divisor)), divisor))
        halves = Val(vector_type("double", self.width), f"<{', '.join(f'double {i + 0.5}' for i in range(self.width))}>")
        passed = f.binary("fmul", f.binary("fadd", f.splat(rest, self.width), halves),
                          f.splat(f.binary("fdiv", const("double", 1.0), by), self.width))
        return f.add(f.splat(whole, self.width), f.cast("sext", f.cast("fptosi", passed, "i32"), "i64"))

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
        if access in self.tiles:
            row = f.mul(f.sub(self.index[self.nest.rows], self.tile_start), self.width)
            return from_memory(f, f.load(f.gep(self.tiles[access], row, element), ty, scalar_bits(element) // 8), dtype)
        mask = self.mask if keep is None else keep if self.mask is None else f.binary("and", keep, self.mask)
        pointer = self._copy_pointer(access, pointer, copy, element)
        if offsets is None and self.kernel.accesses[access].strides[self.lane] == UNIT:
            return from_memory(f, load_vector(f, pointer, ty, mask), dtype)
        if offsets is None and self.width > 1 and self.kernel.accesses[access].strides[self.lane] in _STEPS:
            return from_memory(f, load_every(f, pointer, ty, _STEPS[self.kernel.accesses[access].strides[self.lane]], mask), dtype)
        return from_memory(f, gather(f, self._places(access, pointer, offsets, element), ty, mask), dtype)

    def _copy_pointer(self, access: int, pointer: Val, copy: int, element: str) -> Val:
        kind = self.kernel.accesses[access].strides[self.lane]
        if copy == 0 or kind == ZERO:
            return pointer
        step = const("i64", copy * self.width)
        return self.f.gep(pointer, self.f.mul(step, self.strides[access, self.lane]) if kind >= RUNTIME else step, element)

    def _places(self, access: int, pointer: Val, offsets: Val | None, element: str) -> Val:
        """One address per lane."""
        f, lane = self.f, self.lane_offsets[access]
        total = offsets if lane is None else lane if offsets is None else f.add(offsets, lane)
        if total is None:
            return f.splat(pointer, self.width)
        return f.op(f"getelementptr {element}, {pointer}, {total}", vector_type("ptr", self.width))

    def write_all(self, stores: Iterable[tuple[int, int]]) -> None:
        """Store computed values at the current point. Two of every second element may fill each other's gaps: parts of complex numbers."""
        left: list[tuple[int, int]] = []
        for access, value in stores:
            mate = None if self.mask is not None else next((o for o in left if (o[0], access) in self.mates), None)
            if mate is None:
                left.append((access, value))
            else:
                left.remove(mate)
                self._write_pair(mate, (access, value))
        if self.streaming is None:
            for access, value in left:
                self.write(access, value)
        else:
            self._stream_or_write(left, self.streaming)

    def _stream_or_write(self, stores: list[tuple[int, int]], streams: Val) -> None:
        """Whole vectors past the caches if `streams`. One loop does for both, since the branch is always the same."""
        f = self.f
        past, through, end = f.label("past"), f.label("through"), f.label("written")
        f.branch_if(streams, past, through)
        f.start(past)
        for access, value in stores:
            dtype = self.kernel.accesses[access].dtype
            for u in range(self.copies):
                pointer = self._copy_pointer(access, self.pointers[access], u, memory_type(dtype))
                stream_vector(f, to_memory(f, self.operand(value, u, self.width), dtype), pointer)
        f.branch(end)
        f.start(through)
        for access, value in stores:
            self.write(access, value)
        f.branch(end)
        f.start(end)

    def _write_pair(self, a: tuple[int, int], b: tuple[int, int]) -> None:
        """Interleaved, if one access is found to be the next element of the other."""
        f = self.f
        element = memory_type(self.kernel.accesses[a[0]].dtype)
        behind, before = self.mates[a[0], b[0]]
        joined, alone, end = f.label("joined"), f.label("alone"), f.label("written")
        f.branch_if(f.binary("or", behind, before), joined, alone)
        f.start(joined)
        first = f.select(behind, self.pointers[a[0]], self.pointers[b[0]])
        for u in range(self.copies):
            x, y = (to_memory(f, self.operand(value, u, self.width), self.kernel.accesses[access].dtype) for access, value in (a, b))
            store_pairs(f, f.select(behind, x, y), f.select(behind, y, x), f.gep(first, 2 * u * self.width, element), self.mask)
        f.branch(end)
        f.start(alone)
        for access, value in (a, b):
            self.write(access, value)
        f.branch(end)
        f.start(end)

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
        elif self.mask is None and record.strides[self.lane] == REVERSED and self.width > 1:
            store_reversed(f, value, pointer)
        else:
            scatter(f, value, self._places(access, pointer, None, element), self.mask)
