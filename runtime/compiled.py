"""Compiled plans: a graph lowered to kernel launches, its new kernels compiled together, its table run natively.

Kernels are cached by their tuple for the life of the process, so a new shape, a new number or a program that happens to need
the same loop compiles nothing.
"""
from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from treadle.codegen import emit, gemm, jit, phases
from treadle.codegen.executor import GROUP_WORDS
from treadle.codegen.executor import native as native_executor
from treadle.codegen.gemm_plan import GemmStep as GemmCall
from treadle.codegen.gemm_plan import Layout, fits_tiles, gemm_step, int8_step, tiles_step, window_words
from treadle.codegen.llvm_text import Module
from treadle.codegen.routines import emit_routine
from treadle.codegen.schedule import THREAD_WORK
from treadle.codegen.target import host
from treadle.ir.dtypes import BOOL, FLOAT, DType
from treadle.ir.graph import Graph
from treadle.ir.interpreter import DataError, evaluate
from treadle.ir.kernel import Kernel, print_kernel
from treadle.ir.routine import Routine, print_routine
from treadle.passes.family import TEMPLATES
from treadle.passes.memory import donations
from treadle.passes.pipeline import compile_to_program
from treadle.passes.program import (
    GemmStep,
    GroupStep,
    HostStep,
    KernelStep,
    LoopStep,
    Program,
    Ref,
    RoutineStep,
    ScalarInfo,
    ScalarRef,
    Step,
    Windows,
    step_refs,
    walk,
)
from treadle.runtime import dump, engine, executor, log, memory, native, threads, timing
from treadle.runtime.launch import bind, make_launch
from treadle.runtime.progress import Progress

Strides = tuple[int, ...]

# "loop": launched on its own; "tile": a matrix product's epilogue; "routine"
Form = tuple[str, Kernel | Routine]

MAX_KERNELS = 2048  # with machine code: beyond, the half that plans asked for longest ago is forgotten

_KERNELS: dict[Form, int] = {}  # addresses, the kernel asked for last at the end
_MODULES: dict[Form, Any] = {}  # where their code is; plans keep the modules they use
_LOCK = threading.RLock()

ERROR, ARENA, FIRST = 0, 1, 2  # positions in a plan's buffer table; inputs and outputs follow


def named_kernels(program: Program) -> dict[str, Form]:
    """The distinct kernels of a program, those launched on their own first, with names for its module."""
    own: dict[Form, None] = {}
    others: dict[Form, None] = {}
    for step in walk(program.steps):
        if isinstance(step, KernelStep):
            own["loop", step.kernel] = None
        elif isinstance(step, GemmStep):
            if step.epilogue is not None:
                others["tile", step.epilogue.kernel] = None
        elif isinstance(step, RoutineStep):
            others["routine", step.routine] = None
    return {f"k{i}": form for i, form in enumerate([*own, *others])}


_EMITTERS: dict[str, Callable[..., None]] = {"loop": emit.emit_kernel, "tile": emit.emit_tile, "routine": emit_routine}


def module_text(named: dict[str, Form]) -> str:
    """LLVM IR of all these kernels in one module."""
    module, target = Module(), host()
    for name, (form, kernel) in named.items():
        _EMITTERS[form](module, kernel, name, target)
    return module.text()


def print_form(form: Form, name: str) -> str:
    """A kernel or a routine as text."""
    return print_kernel(form[1], name) if isinstance(form[1], Kernel) else print_routine(form[1], name)


def compile_kernels(named: dict[str, Form]) -> None:
    """Make sure every kernel has machine code. New ones go into one piece of memory, by way of LLVM modules that threads share."""
    with _LOCK:
        new = {f"k{i}": form for i, form in enumerate(f for f in named.values() if f not in _KERNELS)}
        engine.counters["kernel_cache_hits"] += len(named) - len(new)
        for form in named.values():
            if form in _KERNELS:
                _KERNELS[form] = _KERNELS.pop(form)
        if not new:
            return
        engine.counters["kernels"] += len(new)
        items = list(new.items())
        parts = min(len(new), 4 + len(new) // 8)  # a small module takes a little longer for each kernel
        start = time.perf_counter()
        with timing.span("compile", "LLVM"):
            module = jit.compile_texts((module_text(dict(items[i::parts])) for i in range(parts)), threads.num_threads())
        for name, form in new.items():
            _KERNELS[form], _MODULES[form] = module.address(name), module
        if len(_KERNELS) > MAX_KERNELS:
            _forget_kernels(len(named))
        ms = (time.perf_counter() - start) * 1e3
        log.log("compile", f"{len(new)} kernels in {parts} modules, {ms:.0f} ms")


def _forget_kernels(needed: int) -> None:
    """Drop the kernels used longest ago, but not the last `needed`; the code goes when no plan uses it."""
    for form in list(_KERNELS)[:len(_KERNELS) - max(MAX_KERNELS // 2, needed)]:
        del _KERNELS[form], _MODULES[form]


def print_program(program: Program) -> str:
    """The launches in order, with sizes and the memory they use."""
    names = {form: name for name, form in named_kernels(program).items()}
    lines = [f"plan: {len(program.steps)} steps, arena {program.arena} bytes (lower bound {program.arena_bound})"]

    def show(steps: list[Step], indent: str) -> None:
        for step in steps:
            if isinstance(step, KernelStep):
                lines.append(f"{indent}{names['loop', step.kernel]} sizes {step.sizes}  {_refs(step)}")
            elif isinstance(step, GemmStep):
                epilogue = f" then {names['tile', step.epilogue.kernel]}" if step.epilogue else ""
                lines.append(f"{indent}gemm {step.operand_dtype} batch {step.batch} {step.m}x{step.n}x{step.k}  {_refs(step)}{epilogue}")
            elif isinstance(step, RoutineStep):
                lines.append(f"{indent}{names['routine', step.routine]} ({step.routine.family}) units {step.units}  {_refs(step)}")
            elif isinstance(step, LoopStep):
                lines.append(f"{indent}loop {step.trip} times")
                show(step.body, indent + "  ")
            elif isinstance(step, GroupStep):
                lines.append(f"{indent}together")
                show(list(step.members), indent + "  ")
            else:
                lines.append(f"{indent}host {step.node.op.name if step.node.op else '?'}  {_refs(step)}")
    show(program.steps, "  ")
    return "\n".join(lines)


def _refs(step: Step) -> str:
    return " ".join(f"b{r.buffer}" + (f"+{r.offset}" if r.offset else "") for r in step_refs(step))


def compile_graph(graph: Graph) -> CompiledPlan:
    """Lower `graph` and compile what it needs."""
    with Progress(lambda: dump.title(graph), quick=graph in TEMPLATES.ready) as progress:
        return _compile_graph(graph, progress)


def _compile_graph(graph: Graph, progress: Progress) -> CompiledPlan:
    recorded, watch = graph, dump.watch(graph)
    if watch is not None:
        graph = watch.graph
    program = compile_to_program(graph, None if watch is None else watch.after)
    if timing.ACTIVE is not None:
        timing.ACTIVE.compiled(recorded, program)
    if engine.CHECK == "bounds":
        from treadle.runtime import bounds
        log.log("compile", f"bounds: {bounds.check(program)} accesses stay inside their buffers")
    named = named_kernels(program)
    if watch is not None:
        kernels = "\n".join([print_form(form, name) for name, form in named.items()])
        watch.planned(program, print_program(program), kernels, module_text(named))
    progress.phase(f"LLVM, {len(named)} kernels")
    products = {id(s): matrix_call(s) for s in walk(program.steps) if isinstance(s, GemmStep)}
    with _LOCK:  # no kernel may be forgotten before the plan has its module
        with gemm.loading({call.symbol for call in products.values()}):
            compile_kernels(named)
        engine.counters["compiled_plans"] += 1
        return CompiledPlan(program, [v.type.dtype for v in graph.inputs if v.type.weak], {_MODULES[form] for form in named.values()},
                            products)


def _number_bits(dtype: DType) -> tuple[str, Callable[[Any], Any]]:
    """How a Python number becomes a 64-bit argument of `dtype`: struct code and conversion."""
    if dtype.category == FLOAT:
        if dtype.itemsize >= 4:
            return ("d", float) if dtype.itemsize == 8 else ("f", _float32)
        return "I", lambda v: int(np.asarray(v).astype(dtype.np).view(np.uint16))
    if dtype.category == BOOL:
        return "q", bool
    if dtype.is_complex:  # only host steps read it, from the number itself
        return "q", lambda v: 0
    return "q", _int64


def _of_part(info: ScalarInfo, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return (lambda number: convert(info.of(number))) if info.part else convert


def _int64(value: Any) -> int:
    """Modulo 2**64, as a signed number."""
    return (int(value) + (1 << 63)) % (1 << 64) - (1 << 63)


def _float32(value: Any) -> float:
    """Rounded to float32, overflowing to infinity as C does."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


class _Call(NamedTuple):
    """A call of a kernel: its address, the table of its arguments, its units, and how many of them are worth a thread."""

    address: int
    arguments: Sequence[executor.Argument]
    units: int
    grain: int


class CompiledPlan:
    """Machine code and tables for one graph. `run` may be called from any thread."""

    __slots__ = ("_error", "_lies", "_partials", "_products", "arena", "binding", "convert", "error_address", "inputs", "launch", "modules",
                 "number_types", "outputs", "places", "program", "scalar_types", "segments")

    def __init__(self, program: Program, number_types: list[DType], modules: set[Any], products: dict[int, GemmCall]) -> None:
        """products: `matrix_call` of steps, by id."""
        self.program = program
        self.modules = modules
        self.number_types = number_types
        self.arena = program.arena
        self.inputs = [b for b in program.inputs if b >= 0]
        fresh = [b for b in program.outputs if program.buffers[b].kind == "output"]
        self.outputs = list(dict.fromkeys(fresh))
        self.places = {b: FIRST + i for i, b in enumerate(self.inputs + self.outputs)}
        tensors = len(self.inputs)
        codes = [_number_bits(info.dtype) for info in program.scalars]
        self.scalar_types = "".join(code for code, _ in codes)
        self.convert = [(info.input - tensors, _of_part(info, convert)) for info, (_, convert) in zip(program.scalars, codes, strict=True)]
        self._partials: list[memory.Buffer] = []
        self._error = (ctypes.c_int64 * 8)()
        self.error_address = ctypes.addressof(self._error)
        self._products, self._lies = products, [self._place(b) for b in range(len(program.buffers))]
        self.segments = self._build(program.steps)
        self._products = {}  # later they may be for another number of threads
        self.binding = bind(self)
        self.launch = make_launch(self) if self.binding is None else self.binding.launch()

    def _place(self, buffer: int) -> tuple[int, int]:
        """Where a buffer lies: position in the buffer table, byte offset."""
        buffers = self.program.buffers
        while buffers[buffer].shares >= 0 and buffer not in self.places:
            buffer = buffers[buffer].shares
        place = self.places.get(buffer)
        return (ARENA, buffers[buffer].offset) if place is None else (place, 0)

    def _ref(self, ref: Ref) -> tuple[int, int]:
        """Where a reference lies: as `_place`."""
        place, start = self._lies[ref.buffer]
        return place, start + ref.offset

    def _build(self, steps: list[Step]) -> list[Any]:
        """Runs of native steps become plans; host steps stand between them."""
        segments: list[Any] = []
        native: list[Step] = []
        for step in [*steps, None]:
            if step is not None and not isinstance(step, HostStep):
                native.append(step)
                continue
            if native:
                segments.append(self._native(native))
                native = []
            if step is not None:
                segments.append(step)
        return segments

    def _native(self, steps: list[Step]) -> executor.Plan:
        builder = executor.PlanBuilder(self._lies)
        self._emit(builder, steps)
        return builder.build(FIRST + len(self.places), len(self.scalar_types), self.scalar_types)

    def _emit(self, builder: executor.PlanBuilder, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, KernelStep):
                self._emit_kernel(builder, step)
            elif isinstance(step, GemmStep):
                self._emit_gemm(builder, step)
            elif isinstance(step, RoutineStep):
                builder.step(_KERNELS["routine", step.routine], step.arguments, step.units, step.grain, (self.program, step, True))
            elif isinstance(step, GroupStep):
                self._emit_group(builder, step)
            elif isinstance(step, LoopStep):
                builder.begin_loop(step.trip)
                self._emit(builder, step.body)
                builder.end_loop()
            else:
                raise RuntimeError("a loop's body needs the host")

    def _emit_kernel(self, builder: executor.PlanBuilder, step: KernelStep) -> None:
        for number, call in enumerate(self._calls(step)):
            builder.step(call.address, call.arguments, call.units, call.grain, (self.program, step, number == 0))

    def _emit_group(self, builder: executor.PlanBuilder, step: GroupStep) -> None:
        """The first launches of all members, then the second ones, ..."""
        calls = [self._calls(member) for member in step.members]
        for number in range(max(map(len, calls))):
            records: list[executor.Argument] = []
            work = 0
            for call in [c[number] for c in calls if len(c) > number and c[number].units]:
                share = max(THREAD_WORK // call.grain, 1)
                records += [call.address, executor.Table(call.arguments), work, share]
                work += share * call.units
            count = len(records) // GROUP_WORDS
            builder.step(native_executor().group, [count, *records, 0, 0, work], work, THREAD_WORK, (self.program, step, number == 0))

    def _calls(self, step: KernelStep) -> list[_Call]:
        """One, or one for each sweep, with memory between them that is the plan's own."""
        launches = phases.launches(step.kernel, step.sizes)
        if not phases.has_phases(step.kernel):
            launch, = launches
            return [_Call(_KERNELS["loop", step.kernel], step.arguments, launch.units, launch.grain)]
        partials = 0
        if launches[0].parts:
            self._partials.append(memory.allocate(phases.partial_bytes(step.kernel, step.sizes, launches[0].parts)))
            partials = self._partials[-1].ptr
        calls = []
        for launch in launches:
            words = launch.phase, launch.parts, launch.length, partials
            calls.append(_Call(_KERNELS["loop", step.kernel], (*step.arguments, *words), launch.units, launch.grain))
        return calls

    def _emit_gemm(self, builder: executor.PlanBuilder, step: GemmStep) -> None:
        call = self._products.get(id(step)) or matrix_call(step)
        epilogue: Any = 0
        table: Any = 0
        if step.epilogue is not None:
            epilogue = _KERNELS["tile", step.epilogue.kernel]
            table = executor.Table(step.epilogue.arguments)
        arguments = call.arguments(step.a.ref, step.b.ref, step.c.ref, epilogue, table)
        builder.step(gemm.gemm_address(call.symbol), arguments, call.units, call.grain, (self.program, step, True))

    def donors(self, dead: Sequence[int]) -> list[int]:
        """For each output the input, one of `dead` (positions), whose memory it may be written into; -1 for none."""
        found = donations(self.program, [self.inputs[i] for i in dead])
        places = {b: i for i, b in enumerate(self.inputs)}
        return [places[found[b]] if b in found else -1 for b in self.outputs]

    def run(self, buffers: Sequence[memory.Buffer], scalars: Sequence[Any]) -> list[memory.Buffer] | None:
        """Results in the graph's order; None when a kernel found a fault in the data."""
        program = self.program
        arena = memory.allocate(self.arena)
        outs = [memory.allocate(program.buffers[b].nbytes) for b in self.outputs]
        pointers = [self.error_address, arena.ptr, *[b.ptr for b in buffers], *[b.ptr for b in outs]]
        numbers = [convert(scalars[i]) for i, convert in self.convert]
        if self.binding is not None:
            native.know_pool()
            if not self.segments:  # the binding has the first ones
                self.segments = self._build(program.steps)
        for segment in self.segments:
            if segment.__class__ is executor.Plan:
                if segment.run(pointers, numbers):
                    return None
            else:
                with timing.span("host", "", (program, segment)):
                    fine = self._host(segment, arena, [*buffers, *outs], scalars)
                if not fine:
                    return None
        made = dict(zip(self.outputs, outs, strict=True))
        return self._results(made, buffers)

    def _results(self, made: dict[int, memory.Buffer], buffers: Sequence[memory.Buffer]) -> list[memory.Buffer]:
        """Each result has memory of its own, even when it equals an input or another result."""
        results = []
        taken: set[int] = set()
        for b in self.program.outputs:
            source = made.get(b)
            if source is None or b in taken:
                source = self._copy(source or buffers[self.inputs.index(b)])
            taken.add(b)
            results.append(source)
        return results

    @staticmethod
    def _copy(source: memory.Buffer) -> memory.Buffer:
        copy = memory.allocate(source.nbytes)
        ctypes.memmove(copy.ptr, source.ptr, source.nbytes)
        return copy

    def _host(self, step: HostStep, arena: memory.Buffer, table: list[memory.Buffer], scalars: Sequence[Any]) -> bool:
        """Run an op's numpy reference in place; False when the data is at fault."""
        arrays = []
        for value, ref in zip(step.node.inputs, step.inputs, strict=True):
            arrays.append(self._host_array(ref, arena, table) if isinstance(ref, Ref)
                          else np.asarray(self._number(ref, scalars)).astype(value.type.dtype.np))
        types = tuple([v.type for v in step.node.inputs])
        assert step.node.op is not None
        try:
            with np.errstate(all="ignore"):
                results = evaluate(step.node.op, arrays, step.node.attrs, types, tuple([o.type for o in step.node.outputs]))
        except (IndexError, RuntimeError, ValueError, ArithmeticError, DataError):
            return False
        for out, array in zip(step.outputs, results, strict=True):
            np.copyto(self._host_array(out, arena, table), array)
        return True

    def _number(self, ref: ScalarRef, scalars: Sequence[Any]) -> Any:
        info = self.program.scalars[ref.position]
        return info.of(scalars[info.input - len(self.inputs)])

    def _host_array(self, ref: Ref, arena: memory.Buffer, table: list[memory.Buffer]) -> np.ndarray:
        info = self.program.buffers[ref.buffer]
        place, start = self._lies[ref.buffer]
        owner = arena if place == ARENA else table[place - FIRST]
        raw = np.asarray(owner)[start + ref.offset:start + ref.offset + info.nbytes]
        return raw.view(info.dtype.np).reshape(info.shape)



def matrix_call(step: GemmStep) -> GemmCall:
    """Which matrix kernel computes the step, and on what units."""
    return _matrix_call(step.form or step.dtype.name, (step.m, step.n, step.k), step.a.strides, step.b.strides, step.c.strides, step.batch,
                        step.b.windows, threads.num_threads())


@functools.lru_cache(maxsize=4096)
def _matrix_call(form: str, sizes: tuple[int, int, int], a: Strides, b: Strides, c: Strides, batch: Strides, windows: Windows | None,
                 n_threads: int) -> GemmCall:
    if form == "int8":
        return int8_step(*sizes, a[-2], c[-2], n_threads)
    layouts = _layout(a), _layout(b), _layout(c)
    if form == "bfloat16" and fits_tiles(*sizes):
        return tiles_step(*sizes, *layouts, batch, n_threads)
    return gemm_step(form, *sizes, *layouts, batch, n_threads, () if windows is None else window_words(*windows))


def _layout(strides: Strides) -> Layout:
    """(batch..., row, column) strides in elements as the matrix kernels take them."""
    *batch, row, column = strides
    outer, inner = (0, 0, *batch)[-2:]
    return Layout(row, column, outer, inner)
