"""Kernel IR to LLVM IR for NVIDIA GPUs: `ptx_kernel void kernel(byval [N x i64] args)`, the table that CPUs take.

The loop nest is the CPU emitter's, with one element per instruction: what differs is which points a thread takes
(codegen/ptx_mapping.py), how threads merge what they folded, and that neighbours move in accesses of up to 16 bytes.
"""
from __future__ import annotations

from treadle.codegen import odometer, phases, reductions
from treadle.codegen.emit import Accumulator, KernelEmitter, State
from treadle.codegen.expressions import from_memory, memory_type, to_memory
from treadle.codegen.llvm_text import Function, Module, Val, const, scalar_bits, vector_type
from treadle.codegen.phases import Partial, Phases, fold_of
from treadle.codegen.ptx_mapping import BLOCK, BLOCK_ROW, MAP, THREAD, WARP, Mapping, nest
from treadle.codegen.ptx_target import PARAMETER_BYTES, Unsupported
from treadle.codegen.ptx_threads import barrier, global_pointer, merge_block, merge_warp, register, shared_array, warp_barrier
from treadle.codegen.schedule import Schedule, access_bits, behind, sweep_roots
from treadle.ir.kernel import UNIT, Kernel, argument_layout

ZERO = const("i64", 0)
GROUP = {MAP: 1, THREAD: 1, WARP: 32, BLOCK_ROW: BLOCK}  # threads that share a row


def argument_words(kernel: Kernel) -> int:
    """Length of the argument table, with the words of phases."""
    return len(argument_layout(kernel)) + (phases.WORDS if phases.has_phases(kernel) else 0)


def kernel_function(module: Module, name: str, words: int, threads: int = BLOCK) -> Function:
    """A kernel that takes a table of `words` int64 by value and runs in blocks of at most `threads`."""
    if 8 * words > PARAMETER_BYTES:
        raise Unsupported(f"its {words} arguments do not fit the {PARAMETER_BYTES} bytes of a launch")
    module.many_threads = True
    # One block for each multiprocessor suffices: the assembler shall not spill to make room for more.
    attributes = f'nounwind "nvvm.maxntid"="{threads}" "nvvm.minctasm"="1"'
    return Function(module, name, [Val("ptr", "%args")], linkage="ptx_kernel", attributes=attributes,
                    param_attributes=f"byval([{words} x i64]) align 8")


def emit_kernel(module: Module, kernel: Kernel, name: str, mapping: Mapping) -> None:
    """Add one variant of the kernel to the module. `Unsupported` when it has no form there."""
    f = kernel_function(module, name, argument_words(kernel))
    emitter = KernelPoints(f, kernel, mapping)
    if mapping.kind == MAP:
        emitter.map()
    elif mapping.kind == THREAD:
        emitter.columns()
    else:
        emitter.rows()
    f.line("ret void")
    f.finish()


class _Phases(Phases):
    """Parts are merged by all threads that share a row."""

    def __init__(self, f: Function, kernel: Kernel, emitter: KernelPoints) -> None:
        super().__init__(f, kernel)
        self.memory = global_pointer(f, self.memory)
        self.emitter = emitter

    def _merged(self, p: Partial, rows: Val) -> State:
        f, emitter = self.f, self.emitter
        with f.loop(emitter.thread, self.parts, emitter.group, p.start) as loop:
            found = [phases._load(f, v.ty, place, p.mask) for v, place in zip(p.start, self._places(p, loop.index, rows), strict=True)]
            loop.next(reductions.merge(f, p.fold, loop.values, found))
        return emitter.merged(p.fold, loop.values)


class KernelPoints(KernelEmitter):
    """One variant of a kernel."""

    def __init__(self, f: Function, kernel: Kernel, mapping: Mapping) -> None:
        self.mapping, self.group, self.wide = mapping, GROUP[mapping.kind], mapping.wide
        self.thread = register(f, "tid.x") if self.group > 1 else ZERO
        self.together: dict[int, list[Val]] = {}
        super().__init__(f, kernel, Schedule(nest(kernel, mapping), 1, mapping.width))
        if self.phases is not None:
            self.phases = _Phases(f, kernel, self)
            self.part = register(f, "ctaid.z")
        if self.group > 32:
            values = max((len(reductions.start(fold_of(kernel, i), 1)) for i in kernel.body if i.opcode in ("reduce", "argreduce")),
                         default=1)
            self.shared = shared_array(f, f"{f.name}_shared", "i64", values * self.group // 32)

    # -- what differs from vectors -----------------------------------------------------------------------------------
    def _read_arguments(self) -> None:
        super()._read_arguments()
        self.pointers = {i: global_pointer(self.f, p) for i, p in self.pointers.items()}
        self.error = global_pointer(self.f, self.error)

    def _lane_offsets(self, access: int) -> Val | None:
        return None

    def _find_splats(self) -> set[int]:
        return set()

    def _find_divisors(self) -> set[int]:
        return set()

    def lane_index(self, copy: int) -> Val:
        return self.f.add(self.index[self.lane], copy)

    # -- memory ------------------------------------------------------------------------------------------------------
    def read_one(self, access: int, pointer: Val, keep: Val | None) -> Val:
        dtype = self.kernel.accesses[access].dtype
        return from_memory(self.f, self._load(pointer, memory_type(dtype), keep), dtype)

    def read(self, access: int, copy: int, pointer: Val, offsets: Val | None, keep: Val | None) -> Val:
        f, dtype = self.f, self.kernel.accesses[access].dtype
        element = memory_type(dtype)
        unit = self.kernel.accesses[access].strides[self.lane] == UNIT
        if self.wide and self.copies > 1 and unit and offsets is None and (keep is None or keep == self.uniform_keep):
            if copy == 0:
                self.together[access] = self._load_together(pointer, element, keep)
            return from_memory(f, self.together[access][copy], dtype)
        pointer = self._copy_pointer(access, pointer, copy, element)
        if offsets is not None:
            pointer = f.gep(pointer, offsets, element)
        return from_memory(f, self._load(pointer, element, keep), dtype)

    uniform_keep: Val | None = None

    def load(self, number: int, copy: int, varying: bool) -> Val:
        """Remembers a condition that is the same for all neighbours: they are still loaded together."""
        instr = self.kernel.body[number]
        self.uniform_keep = None
        if instr.opcode == "load_at" and number in self.checked:
            self.uniform_keep = self.checked[number][1]
        elif instr.opcode == "load_if" and not self.varying(instr.operands[0]):
            self.uniform_keep = self.operand(instr.operands[0], 0, 1)
        return super().load(number, copy, varying)

    def _load_together(self, pointer: Val, element: str, keep: Val | None) -> list[Val]:
        f = self.f
        ty = vector_type(element, self.copies)
        whole = self._load(pointer, ty, keep, self.copies * scalar_bits(element) // 8)
        return [f.op(f"extractelement {whole}, i32 {u}", element) for u in range(self.copies)]

    def _load(self, pointer: Val, ty: str, keep: Val | None, align: int = 0) -> Val:
        """A load; where `keep` is false memory is not touched and 0 is read."""
        f = self.f
        if keep is None:
            return f.load(pointer, ty, align)
        before, then, end = f.label("before"), f.label("load"), f.label("loaded")
        f.branch(before)
        f.start(before)
        f.branch_if(keep, then, end)
        f.start(then)
        value = f.load(pointer, ty, align)
        f.branch(end)
        f.start(end)
        return f.op(f"phi {ty} [ zeroinitializer, %{before} ], [ {value.name}, %{then} ]", ty)

    def write(self, access: int, value: int) -> None:
        f, record = self.f, self.kernel.accesses[access]
        if not self._moves(access_bits(self.kernel, access)):
            f.store(to_memory(f, self.operand(value, 0, 1), record.dtype), self.pointers[access])
            return
        element = memory_type(record.dtype)
        values = [to_memory(f, self.operand(value, u, 1), record.dtype) for u in range(self.copies)]
        if self.wide and self.copies > 1 and record.strides[self.lane] == UNIT:
            ty = vector_type(element, self.copies)
            whole = Val(ty, "poison")
            for u, v in enumerate(values):
                whole = f.op(f"insertelement {whole}, {v}, i32 {u}", ty)
            f.store(whole, self.pointers[access], self.copies * scalar_bits(element) // 8)
            return
        for u, v in enumerate(values):
            f.store(v, self._copy_pointer(access, self.pointers[access], u, element))

    # -- which points a thread takes ---------------------------------------------------------------------------------
    def _place_in(self, dimension: str) -> tuple[Val, Val]:
        """This thread's number along a dimension of the grid, and how many there are."""
        f = self.f
        size = register(f, f"ntid.{dimension}")
        first = f.add(f.mul(register(f, f"ctaid.{dimension}"), size), register(f, f"tid.{dimension}"))
        return first, f.mul(register(f, f"nctaid.{dimension}"), size)

    def _each_row(self, first: Val, step: Val, inside: object) -> None:
        """`inside()` for the points of the outer axes that this thread takes."""
        f, counts = self.f, [self.sizes[a] for a in self.nest.outer]
        assert callable(inside)
        rows = const("i64", 1)
        for count in counts:
            rows = f.mul(rows, count)
        with f.loop(first, rows, step) as loop:
            with self.scope():
                for axis, counter in zip(self.nest.outer, odometer.decode(f, loop.index, counts), strict=True):
                    self.enter(axis, counter)
                inside()
            loop.next([])

    def map(self) -> None:
        x, across = self._place_in("x")
        self._each_row(*self._place_in("y"), lambda: self._neighbours(x, across))

    def _neighbours(self, x: Val, across: Val) -> None:
        """Groups of neighbours along the lane axis; what is left of them, one element for each thread."""
        f, width = self.f, self.copies
        if self.lane < 0:
            with f.if_(f.compare("eq", x, ZERO)), self.scope():
                self.program()
            return
        size = self.sizes[self.lane]
        end = f.binary("and", size, const("i64", -width)) if self.mapping.tail else size
        with f.loop(f.mul(x, width), end, f.mul(across, width)) as loop:
            self._at(loop.index)
            loop.next([])
        if self.mapping.tail:
            last = f.add(end, x)
            with f.if_(f.compare("slt", last, size)):
                self.copies = 1
                self._at(last)

    def _at(self, index: Val) -> None:
        with self.scope():
            self.enter(self.lane, index)
            self.program()

    def columns(self) -> None:
        """One thread for each point of the parallel axes."""
        x, across = self._place_in("x")
        if self.nest.lane_folds:
            self._each_row(x, across, self.program)
        else:
            self._each_row(*self._place_in("y"), lambda: self._neighbours(x, across))

    def rows(self) -> None:
        """A warp or a block for each point of the parallel axes: all its threads take the same way."""
        f = self.f
        first, count = register(f, "ctaid.x"), register(f, "nctaid.x")
        if self.mapping.kind == WARP:
            warps = register(f, "ntid.y")
            first, count = f.add(f.mul(first, warps), register(f, "tid.y")), f.mul(count, warps)
        self._each_row(first, count, self.program)

    # -- sweeps ------------------------------------------------------------------------------------------------------
    def program(self) -> None:
        f = self.f
        end = f.label("rows_done")
        for sweep in range(len(self.info.reduces)):
            needs = behind(self.kernel, sweep_roots(self.kernel, self.info, sweep), frozenset())
            self.sweep(sweep, needs, end)
            self.evaluate(self.needs)
        if self.group > 1 and self.info.row_stores:
            (barrier if self.group > 32 else warp_barrier)(f)  # nobody reads any more what is written over
            with f.if_(f.compare("eq", self.thread, ZERO)):
                self.finish()
        else:
            self.finish()
        if self.phases is not None:
            f.branch(end)
            f.start(end)

    def finish(self) -> None:
        """Store what is stored once for each point."""
        for access, value in self.info.row_stores:
            self.write(access, value)

    def lanes_over(self, low: Val, high: Val, state: State, needs: frozenset[int], body: object) -> State:
        """A reduced lane axis: neighbours are shared out to the threads of the row in turn."""
        f, width = self.f, self.copies
        assert callable(body)

        def whole(index: Val, state: State) -> State:
            with self.scope():
                self.enter(self.lane, index, needs)
                return list(body(state))
        if self.group == 1:
            return self.blocked(low, high, width, state, whole)
        start = f.add(low, f.mul(self.thread, width))
        with f.loop(start, high, self.group * width, state) as loop:
            loop.next(whole(loop.index, loop.values))
        return loop.values

    def _collapsed(self, a: Accumulator, state: State) -> list[State]:
        parts = super()._collapsed(a, state)
        return [self.merged(a.fold, p) for p in parts]

    def merged(self, fold: reductions.Fold, state: State) -> State:
        """The accumulators of the threads that share the row, the same in all of them."""
        if self.group == 1:
            return state
        if self.group == 32:
            return merge_warp(self.f, fold, state)
        return merge_block(self.f, fold, state, self.thread, self.group // 32, self.shared)
