"""A graph on a CUDA device: its program's launches, from the plan table that CPUs walk (codegen/executor.py).

What has no PTX form (runtime routines not yet written for GPUs, float64 functions of the C library, ops that libraries
compute) runs on the host between copies; `print_launches` shows it.
"""
from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from treadle.codegen import executor as layout
from treadle.codegen import kernel_reference, ptx_emit, ptx_gemm, ptx_mapping, ptx_routines
from treadle.codegen.llvm_text import Module
from treadle.codegen.ptx_mapping import BLOCK, Mapping
from treadle.codegen.ptx_target import Unsupported, to_ptx
from treadle.ir.dtypes import DType, by_name
from treadle.ir.graph import Graph
from treadle.ir.interpreter import DataError, evaluate
from treadle.ir.kernel import RUNTIME, UNIT, Kernel, argument_layout
from treadle.passes.basic import decompose
from treadle.passes.pipeline import compile_to_program
from treadle.passes.program import GemmStep, GroupStep, HostStep, KernelStep, LoopStep, Matrix, Program, Ref, RoutineStep, Step
from treadle.runtime import cuda_driver, cuda_memory, engine, executor, memory
from treadle.runtime.compiled import CompiledPlan, _number_bits, _of_part
from treadle.runtime.cuda_driver import Device, call

UNKNOWN = object()


class Code(NamedTuple):
    """A kernel as text, and whether it can report a fault in the data."""

    name: str
    ptx: str
    faults: bool


class Launch(NamedTuple):
    """One launch. The address of its arguments comes from the plan table."""

    function: Any
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    nodes: tuple[Any, ...]
    label: str


class HostRun(NamedTuple):
    """A step computed on the host: `run(device, arguments)` takes the step's words; False when the data is at fault."""

    run: Callable[[Device, Sequence[int]], bool]
    words: int
    nodes: tuple[Any, ...]
    label: str


_CODE: dict[tuple[tuple, str], Code | str] = {}  # or why there is none


def kernel_code(kernel: Kernel, mapping: Mapping, architecture: str) -> Code:
    """The PTX of a variant. `Unsupported` when it has none."""
    return _code((kernel, mapping), architecture, mapping.kind, lambda module, name: ptx_emit.emit_kernel(module, kernel, name, mapping))


def _code(what: tuple, architecture: str, word: str, emit: Callable[[Module, str], None]) -> Code:
    key = what, architecture
    found = _CODE.get(key)
    if found is None:
        name = f"treadle_{word}_{hashlib.sha256(repr(what).encode()).hexdigest()[:12]}"
        module = Module()
        try:
            emit(module, name)
            text = module.text()
            found = Code(name, to_ptx(text, architecture), "cmpxchg" in text)
        except Unsupported as error:
            found = str(error)
        _CODE[key] = found
    if isinstance(found, str):
        raise Unsupported(found)
    return found


def product_variant(step: GemmStep, place: Callable[[Ref], tuple[int, int]]) -> tuple[ptx_gemm.Gemm, bool]:
    """The variant that computes a product, and whether it applies the epilogue too."""
    form = step.form or step.dtype.name
    a, b = ((0, 1), (0, 1)) if form == "int8" else (step.a.strides[-2:], step.b.strides[-2:])
    wide = all(o % 16 == 0 and m.ref.step % 16 == 0 and m.ref.apart % 16 == 0 for m in (step.a, step.b) for o in (place(m.ref)[1],))
    wide = wide and step.k % 8 == 0 and all(s % 8 == 0 for s in (*step.a.strides[:-1], *step.b.strides[:-2], step.b.strides[-1]))
    epilogue, product = None, -1
    if step.epilogue is not None:
        layout_of = argument_layout(step.epilogue.kernel)
        reads = [i for i, access in enumerate(step.epilogue.kernel.accesses) if not access.writes
                 and step.epilogue.arguments[layout_of.index(("pointer", i))] == step.c.ref]
        loads = [i.opcode for i in step.epilogue.kernel.body if i.opcode.startswith("load") and reads and i.params[0] == reads[0]]
        if len(reads) == 1 and loads == ["load"]:
            epilogue, product = step.epilogue.kernel, reads[0]
    gemm = ptx_gemm.choose(form, (step.m, step.n, step.k), (a[0], a[1]), (b[0], b[1]), wide, epilogue, product, prod(step.batch))
    return gemm, epilogue is not None


def product_words(step: GemmStep) -> list[Any]:
    """The arguments of `ptx_gemm.WORDS`."""
    sides = []
    for m in (step.a, step.b, step.c):
        *batch, row, column = m.strides
        sides.append((row, column, *(0, 0, *batch)[-2:]))
    a, b, c = sides
    inner = step.batch[-1] if step.batch else 1
    return [step.a.ref, step.b.ref, step.c.ref, step.m, step.n, step.k, *a[:2], *b[:2], *c[:2], max(inner, 1), prod(step.batch),
            *a[2:], *b[2:], *c[2:]]


def product_code(gemm: ptx_gemm.Gemm, architecture: str) -> Code:
    """The PTX of a product. `Unsupported` when it, or its epilogue, has none."""
    return _code(gemm, architecture, f"gemm_{gemm.form}", lambda module, name: ptx_gemm.emit_gemm(module, gemm, name))


def routine_code(variant: ptx_routines.Variant, architecture: str) -> Code:
    """The PTX of a routine. `Unsupported` when it has none."""
    return _code(variant, architecture, variant.routine.family, lambda module, name: ptx_routines.emit_routine(module, variant, name))


def known_arguments(step: KernelStep, place: Callable[[Ref], tuple[int, int]]) -> list[object]:
    """A step's arguments as `ptx_mapping.choose` wants them."""
    found: list[object] = []
    for argument in step.arguments:
        if isinstance(argument, Ref):
            found.append((place(argument)[1] | argument.apart, argument.step))
        else:
            found.append(argument if isinstance(argument, int) else UNKNOWN)
    return found


class CudaPlan(CompiledPlan):
    """The launches of one graph on one device. `run` may be called from any thread."""

    __slots__ = ("device", "faults", "labels", "lock", "rooms", "table")

    def __init__(self, program: Program, device: Device, number_types: list[DType]) -> None:
        self.device, self.program, self.number_types = device, program, number_types
        self.arena = program.arena
        self.inputs = [b for b in program.inputs if b >= 0]
        self.outputs = list(dict.fromkeys([b for b in program.outputs if program.buffers[b].kind == "output"]))
        self.places = {b: 2 + i for i, b in enumerate(self.inputs + self.outputs)}
        self._lies = [self._place(b) for b in range(len(program.buffers))]
        tensors = len(self.inputs)
        codes = [_number_bits(info.dtype) for info in program.scalars]
        self.scalar_types = "".join(code for code, _ in codes)
        self.convert = [(info.input - tensors, _of_part(info, convert)) for info, (_, convert) in zip(program.scalars, codes, strict=True)]
        self._partials, self.segments, self.modules = [], [], set()
        self.binding = self.launch = None
        self.faults = False
        self.labels: list[str] = []
        self.lock = threading.Lock()
        self.rooms: list[int] = []  # bytes of further memory for each run, behind the other buffers
        self.error_address = 0
        builder = executor.PlanBuilder(self._lies)
        self._emit(builder, program.steps)
        self.table = Table(builder, 2 + len(self.places) + len(self.rooms), self.scalar_types)

    # -- building ----------------------------------------------------------------------------------------------------
    def _emit(self, builder: executor.PlanBuilder, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, KernelStep):
                self._emit_kernel(builder, step)
            elif isinstance(step, GemmStep):
                self._emit_gemm(builder, step)
            elif isinstance(step, GroupStep):
                for member in step.members:
                    self._emit_kernel(builder, member)
            elif isinstance(step, LoopStep):
                builder.begin_loop(step.trip)
                self._emit(builder, step.body)
                builder.end_loop()
            elif isinstance(step, RoutineStep):
                self._emit_routine(builder, step)
            else:
                self._emit_node(builder, step)

    def _put(self, builder: executor.PlanBuilder, arguments: Sequence[Any], item: Launch | HostRun) -> None:
        self.labels.append(item.label)
        builder.step(1, arguments, 1, 1, item)

    def _emit_kernel(self, builder: executor.PlanBuilder, step: KernelStep) -> None:
        mapping = ptx_mapping.choose(step.kernel, step.sizes, known_arguments(step, self._ref))
        found = ptx_mapping.launches(step.kernel, step.sizes, mapping)
        if not found:
            return
        try:
            code = kernel_code(step.kernel, mapping, self.device.architecture)
        except Unsupported as error:
            self._emit_reference(builder, step, str(error))
            return
        self.faults = self.faults or code.faults
        function = self._function(code)
        partials = self._room(ptx_mapping.workspace(step.kernel, step.sizes, found))
        spare = ptx_emit.argument_words(step.kernel) - len(step.arguments)
        for item in found:
            words: list[Any] = [item.phase, item.parts, item.length, partials] if spare else []
            self._put(builder, [*step.arguments, *words],
                      Launch(function, item.grid, item.block, 0, step.nodes, f"{code.name} grid {item.grid} block {item.block}"))

    def _room(self, nbytes: int) -> executor.Argument:
        """The address of further memory that every run has of its own."""
        if not nbytes:
            return 0
        self.rooms.append(nbytes)
        self._lies.append((1 + len(self.places) + len(self.rooms), 0))
        return Ref(len(self._lies) - 1)

    def _function(self, code: Code) -> Any:
        with self.device.lock:
            found = self.device.functions.get(code)
            if found is None:
                engine.counters["cuda_kernels"] += 1
                found = self.device.functions[code] = self.device.load(code.ptx, code.name)
            return found

    def _emit_gemm(self, builder: executor.PlanBuilder, step: GemmStep) -> None:
        gemm, joined = product_variant(step, self._ref)
        try:
            code = product_code(gemm, self.device.architecture)
        except Unsupported:
            self._emit_product(builder, step)
            joined = False
        else:
            self.faults = self.faults or code.faults
            batch = prod(step.batch)
            if step.m and step.n and batch:
                arguments = [*(step.epilogue.arguments if joined and step.epilogue else ()), *product_words(step)]
                where = ptx_gemm.grid(gemm, step.m, step.n, batch)
                nodes = (step.epilogue.nodes if joined and step.epilogue else ()) or (() if step.node is None else (step.node,))
                self._put(builder, arguments,
                          Launch(self._function(code), where, (BLOCK, 1, 1), 0, nodes, f"{code.name} grid {where}"))
        if step.epilogue is not None and not joined:
            self._emit_kernel(builder, step.epilogue)

    # -- on the host -------------------------------------------------------------------------------------------------
    def _whole(self, ref: Ref) -> Ref:
        """The buffer that a reference lies in."""
        return ref._replace(offset=0, step=0)

    def _emit_product(self, builder: executor.PlanBuilder, step: GemmStep) -> None:
        if step.form == "int8":  # packed weights: whole buffers
            assert step.node is not None
            self._emit_node(builder, HostStep(step.node, (step.a.ref, step.b.ref), (step.c.ref,)))
            return
        operands = (step.a, step.b, step.c)
        dtypes = [by_name(step.form or step.dtype.name).np] * 2 + [step.dtype.np]
        shapes = ((*step.batch, step.m, step.k), (*step.batch, step.k, step.n), (*step.batch, step.m, step.n))
        sizes = [self.program.buffers[m.ref.buffer].nbytes for m in operands]

        def run(device: Device, words: Sequence[int]) -> bool:
            flat = [np.frombuffer(bytearray(cuda_memory.read_bytes(device, words[3 + i], n)), dtypes[i]) for i, n in enumerate(sizes)]
            a, b, c = (_view(array, (words[i] - words[3 + i]) // array.itemsize, m, shape)
                       for i, (array, m, shape) in enumerate(zip(flat, operands, shapes, strict=True)))
            c[...] = a.astype(c.dtype) @ b.astype(c.dtype)
            cuda_memory.write_bytes(device, words[5], flat[2].tobytes())
            return True
        refs = [m.ref for m in operands] + [self._whole(m.ref) for m in operands]
        nodes = () if step.node is None else (step.node,)
        self._put(builder, refs, HostRun(run, 6, nodes, f"host: product {shapes[2]} of {step.dtype.name}"))

    def _emit_reference(self, builder: executor.PlanBuilder, step: KernelStep, why: str) -> None:
        """A kernel evaluated by numpy."""
        kernel, names = step.kernel, argument_layout(step.kernel)
        at = {key: i for i, key in enumerate(names)}
        refs = [step.arguments[at["pointer", i]] for i in range(len(kernel.accesses))]
        sizes = [self.program.buffers[r.buffer].nbytes if isinstance(r, Ref) else 0 for r in refs]
        count = len(names)

        def run(device: Device, words: Sequence[int]) -> bool:
            flat, operands = {}, []
            for i, access in enumerate(kernel.accesses):
                dtype, base = by_name(access.dtype).np, words[count + i]
                if base not in flat:
                    flat[base] = bytearray(cuda_memory.read_bytes(device, base, sizes[i]))
                strides = [words[at["stride", i, a]] if c >= RUNTIME else int(c == UNIT) for a, c in enumerate(access.strides)]
                start = (words[at["pointer", i]] - base) // dtype.itemsize
                operands.append(kernel_reference.Operand(np.frombuffer(flat[base], dtype), start, tuple(strides)))
            slots = [words[at["slot", k]] for k in range(kernel.slots)]
            scalars = [np.frombuffer(struct.pack("<q", words[at["scalar", k]])[:by_name(d).itemsize], by_name(d).np)[0]
                       for k, d in enumerate(kernel.scalars)]
            try:
                kernel_reference.evaluate(kernel, step.sizes, operands, slots, scalars)
            except kernel_reference.Fault:
                return False
            for base in {words[count + i] for i, a in enumerate(kernel.accesses) if a.writes}:
                cuda_memory.write_bytes(device, base, bytes(flat[base]))
            return True
        whole = [self._whole(r) for r in refs if isinstance(r, Ref)]
        self._put(builder, [*step.arguments, *whole],
                  HostRun(run, count + len(whole), step.nodes, f"host: kernel, because {why}"))

    def _emit_routine(self, builder: executor.PlanBuilder, step: RoutineStep) -> None:
        try:
            variant, found, room = ptx_routines.launches(step.routine, step.arguments, step.units, step.node.inputs[0].type.numel)
            code = routine_code(variant, self.device.architecture)
        except Unsupported:
            if step.outputs:
                self._emit_node(builder, HostStep(step.node, step.inputs, step.outputs))
            return
        self.faults = self.faults or code.faults
        winners = self._room(room)
        for item in found:
            words: list[Any] = [winners if w == ptx_routines.WINNERS else w for w in item.words]
            label = f"{code.name} grid {item.grid} block {item.block}"
            self._put(builder, [*step.arguments, *words],
                      Launch(self._function(code), item.grid, item.block, 0, (step.node,), label))

    def _emit_node(self, builder: executor.PlanBuilder, step: HostStep) -> None:
        """An op by its numpy reference."""
        node = step.node
        assert node.op is not None
        types, results = tuple([v.type for v in node.inputs]), tuple([o.type for o in node.outputs])
        op, count = node.op, len(step.inputs)
        weak = [isinstance(r, Ref) for r in step.inputs]

        def run(device: Device, words: Sequence[int]) -> bool:
            arrays = []
            for word, type, in_memory in zip(words, types, weak, strict=False):
                raw = cuda_memory.read_bytes(device, word, type.nbytes) if in_memory else struct.pack("<q", word)[:type.dtype.itemsize]
                arrays.append(np.frombuffer(bytearray(raw), type.dtype.np).reshape(type.shape))
            try:
                with np.errstate(all="ignore"):
                    found = evaluate(op, arrays, node.attrs, types, results)
            except (IndexError, RuntimeError, ValueError, ArithmeticError, DataError):
                return False
            for word, array, type in zip(words[count:], found, results, strict=True):
                cuda_memory.write_bytes(device, word, np.ascontiguousarray(array, type.dtype.np).tobytes())
            return True
        self._put(builder, [*step.inputs, *step.outputs],
                  HostRun(run, count + len(step.outputs), (node,), f"host: {op.name}"))

    # -- running -----------------------------------------------------------------------------------------------------
    def run(self, buffers: Sequence[memory.Buffer], scalars: Sequence[Any]) -> list[Any] | None:
        """Results in the graph's order; None when a kernel found a fault in the data."""
        device = self.device.enter()
        cell, arena = device.allocate(executor.ERROR_CELL_BYTES), device.allocate(self.arena)
        outs = [device.allocate(self.program.buffers[b].nbytes) for b in self.outputs]
        rooms = [device.allocate(n) for n in self.rooms]
        pointers = [b.ptr for b in (cell, arena, *buffers, *outs, *rooms)]
        numbers = [convert(scalars[i]) for i, convert in self.convert]
        with self.lock:
            if self.faults:
                call("cuMemsetD8Async", cell.ptr, 0, executor.ERROR_CELL_BYTES, device.stream())
            if not self.table.run(device, pointers, numbers):
                return None
            if self.faults and cuda_memory.read_bytes(device, cell.ptr, 8) != bytes(8):
                return None
        return self._results(dict(zip(self.outputs, outs, strict=True)), buffers)

    @staticmethod
    def _copy(source: Any) -> Any:
        return cuda_memory.duplicate(source, source.device)


def _view(flat: np.ndarray, start: int, m: Matrix, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(flat[start:], shape, [s * flat.itemsize for s in m.strides])


class Table:
    """The plan table of `codegen/executor.py`, walked from Python: each operation is a launch or a run on the host."""

    def __init__(self, builder: executor.PlanBuilder, n_buffers: int, scalar_types: str) -> None:
        plan = builder.lay_out(n_buffers, len(scalar_types))
        self.words, self.tags = plan.words, plan.tags
        self.frame = plan.frame
        self.pack = struct.Struct(f"={2 + n_buffers}Q{executor._padded(scalar_types)}").pack_into
        self.raw: Any = self.words[self.frame:].view(np.uint8)
        relocations = plan.relocations.reshape(-1, layout.RELOCATION_WORDS)
        self.positions, self.sources = relocations[:, 0], relocations[:, 1] + self.frame
        self.offsets = relocations[:, 2].astype(np.uint64)
        self.toggles = plan.toggles.reshape(-1, layout.TOGGLE_WORDS)
        self.operations = plan.operations.reshape(-1, layout.OPERATION_WORDS)
        # What cuLaunchKernel takes: a pointer to a pointer to the arguments.
        self.pointers = np.array([int(self.words.ctypes.data) + 8 * int(op[2]) for op in self.operations], np.uint64)

    def run(self, device: Device, buffers: Sequence[int], scalars: Sequence[Any]) -> bool:
        """False when a step on the host found a fault."""
        words = self.words
        self.pack(self.raw, 0, 0, 0, *buffers, *scalars)
        words[self.positions] = words[self.sources] + self.offsets
        for cell, one, offset, other, other_offset in self.toggles:
            words[cell] = (int(words[self.frame + one]) + int(offset)) ^ (int(words[self.frame + other]) + int(other_offset))
        return self._walk(device, 0, len(self.operations))

    def _walk(self, device: Device, begin: int, end: int) -> bool:
        stream, launch = device.stream(), cuda_driver.driver().cuLaunchKernel
        at = begin
        while at < end:
            item = self.tags[at]
            if item.__class__ is Launch:
                status, = launch(item.function, *item.grid, *item.block, item.shared, stream, int(self.pointers.ctypes.data) + 8 * at, 0)
                cuda_driver.launched(item.nodes)
                if status != 0:
                    raise cuda_driver.failure(status, "cuLaunchKernel")
                if cuda_driver.BLOCKING:
                    device.wait()
            elif item is None:
                if not self._loop(device, at):
                    return False
                at += int(self.operations[at][2])
            else:
                first = int(self.operations[at][2])
                cuda_driver.launched(item.nodes)
                if not item.run(device, self.words[first:first + item.words].view(np.int64).tolist()):
                    return False
            at += 1
        return True

    def _loop(self, device: Device, at: int) -> bool:
        _, trip, count, steps, n_steps, flips, n_flips, _ = (int(w) for w in self.operations[at])
        words = self.words
        moves = words[steps:steps + layout.STEP_WORDS * n_steps].reshape(-1, layout.STEP_WORDS)
        turns = words[flips:flips + layout.STEP_WORDS * n_flips].astype(np.int64).reshape(-1, layout.STEP_WORDS)
        for _ in range(trip):
            if not self._walk(device, at + 1, at + 1 + count):
                return False
            # A word may move by several steps.
            np.add.at(words, moves[:, 0].astype(np.int64), moves[:, 1])
            for position, cell in turns:
                words[position] ^= words[cell]
        return True


def build(graph: Graph, device: Device) -> CudaPlan:
    """The plan of a graph whose types name no device."""
    program = compile_to_program(decompose(graph, routines=False), windows=False)
    return CudaPlan(program, device, [v.type.dtype for v in graph.inputs if v.type.weak])


def kernel_texts(graph: Graph, architecture: str) -> tuple[dict[str, str], list[str]]:
    """PTX of every kernel of a graph whose types name no device, by name, and what would run on the host. Needs no device."""
    program = compile_to_program(decompose(graph, routines=False), windows=False)
    texts: dict[str, str] = {}
    others: list[str] = []

    def place(ref: Ref) -> tuple[int, int]:
        buffer = ref.buffer
        while program.buffers[buffer].shares >= 0:
            buffer = program.buffers[buffer].shares
        return 0, max(program.buffers[buffer].offset, 0) + ref.offset

    def add(step: KernelStep) -> None:
        mapping = ptx_mapping.choose(step.kernel, step.sizes, known_arguments(step, place))
        if ptx_mapping.launches(step.kernel, step.sizes, mapping):
            try:
                code = kernel_code(step.kernel, mapping, architecture)
                texts[code.name] = code.ptx
            except Unsupported as error:
                others.append(f"kernel: {error}")

    def walk(steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, KernelStep):
                add(step)
            elif isinstance(step, GemmStep):
                gemm, joined = product_variant(step, place)
                code = product_code(gemm, architecture)
                texts[code.name] = code.ptx
                if step.epilogue is not None and not joined:
                    add(step.epilogue)
            elif isinstance(step, GroupStep):
                for member in step.members:
                    add(member)
            elif isinstance(step, LoopStep):
                walk(step.body)
            elif isinstance(step, RoutineStep):
                try:
                    variant, *_ = ptx_routines.launches(step.routine, step.arguments, step.units, step.node.inputs[0].type.numel)
                    code = routine_code(variant, architecture)
                    texts[code.name] = code.ptx
                except Unsupported as error:
                    others.append(f"{step.node.op.name if step.node.op else step.routine.family}: {error}")
            else:
                others.append(step.node.op.name if step.node.op else "input")
    walk(program.steps)
    return texts, others
