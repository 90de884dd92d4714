"""A kernel's statements compiled to straight pieces of Python functions with a control instruction at the end of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest

from ptx_simulator.accesses import (
    PARAMETER_WINDOW,
    compile_atomic,
    compile_cvta,
    compile_fence,
    compile_isspacep,
    compile_load,
    compile_store,
    space_of,
)
from ptx_simulator.arithmetic import Pure
from ptx_simulator.async_copies import compile_async
from ptx_simulator.batch import Batch, Mask, Read, Run
from ptx_simulator.convert import RULES
from ptx_simulator.faults import Place, PtxError, TrapFault
from ptx_simulator.operands import Names, parts_of, predicate, raw, reader, results, writer
from ptx_simulator.parse import BITS, Immediate, Instruction, Kernel, Label, Module, Operand, Symbol, Variable
from ptx_simulator.tensor_cores import compile_load_matrix, compile_mma, compile_store_matrix
from ptx_simulator.warps import (
    compile_activemask,
    compile_elect,
    compile_match,
    compile_redux,
    compile_shuffle,
    compile_vote,
    compile_warp_barrier,
)

Compile = Callable[[Instruction, Names], Run]
CONTROL = ("bra", "brx", "ret", "exit", "bar", "barrier")


@dataclass
class Node:
    """Straight-line code. `sync` tells which lanes must come together before it runs (their member mask)."""

    ops: list[Run] = field(default_factory=list)
    steps: int = 0
    control: Instruction | None = None
    first: Instruction | None = None
    guard: Read | None = None
    targets: list[int] = field(default_factory=list)
    index: Read | None = None
    sync: Read | None = None
    sync_inst: Instruction | None = None


@dataclass
class Program:
    """What the scheduler runs, and the memory that the kernel declares."""

    kernel: Kernel
    nodes: list[Node]
    names: Names
    registers: list[int]
    shared_size: int
    dynamic_start: int | None
    local_size: int
    global_shift: int
    shared_shift: int


def compile_kernel(module: Module, name: str) -> Program:
    """PtxError, with the line, for an instruction that the simulator does not know."""
    kernel = module.kernel(name)
    names = Names({})
    shared, dynamic, local = _layout(module, kernel, names)
    names.swapped = {inst.operands[1] for inst in kernel.statements if isinstance(inst, Instruction) and "cas" in inst.parts}
    nodes = _Nodes(kernel, names).build()
    shifts = [_granule(kernel, names, spaces) for spaces in (("global", "const", "generic"), ("shared", "generic"))]
    registers = [register.bits for register in kernel.registers]
    return Program(kernel, nodes, names, registers, shared, dynamic, local, *shifts)


def _used(kernel: Kernel) -> set[str]:
    found: set[str] = set()

    def visit(operand: object) -> None:
        if isinstance(operand, Symbol):
            found.add(operand.name)
        for inner in ("base", "operand", "first", "second"):
            if hasattr(operand, inner):
                visit(getattr(operand, inner))
        for part in getattr(operand, "parts", ()):
            visit(part)

    for statement in kernel.statements:
        if isinstance(statement, Instruction):
            for operand in statement.operands:
                visit(operand)
    return found


def _layout(module: Module, kernel: Kernel, names: Names) -> tuple[int, int | None, int]:
    """Places parameters, shared and local variables: (static shared bytes, start of dynamic shared memory, local bytes)."""
    for parameter in kernel.parameters:
        names.fixed[parameter.name] = PARAMETER_WINDOW + parameter.offset
        names.spaces[parameter.name] = "kernel"
    used = _used(kernel)
    variables = [variable for variable in module.variables.values() if variable.name in used] + kernel.variables
    dynamic = [variable for variable in variables if variable.space == "shared" and variable.size is None]
    shared = _place(variables, ("shared",), names)
    local = -(-_place(variables, ("local", "param"), names) // 16) * 16
    if not dynamic:
        return shared, None, local
    align = max(variable.align for variable in dynamic)
    start = -(-shared // align) * align
    for variable in dynamic:
        names.fixed[variable.name], names.spaces[variable.name] = start, "shared"
    return shared, start, local


def _place(variables: list[Variable], spaces: tuple[str, ...], names: Names) -> int:
    offset = 0
    for variable in variables:
        if variable.space not in spaces or variable.size is None:
            continue
        offset = -(-offset // variable.align) * variable.align
        names.fixed[variable.name] = offset
        names.spaces[variable.name] = "shared" if variable.space == "shared" else "local"
        offset += variable.size
    return offset


def _granule(kernel: Kernel, names: Names, spaces: tuple[str, ...]) -> int:
    """log2 of the narrowest access to these spaces: races are told apart at that width."""
    widths = [8]
    for inst in kernel.statements:
        if not isinstance(inst, Instruction):
            continue
        if inst.name in ("ld", "st", "atom", "red", "ldu") and inst.types and space_of(inst) in spaces:
            widths.append(BITS[inst.types[-1]] // 8)
        elif inst.name == "cp":
            partial = len(inst.operands) > 3
            widths.append(1 if partial and "global" in spaces else 4)
    return min(widths).bit_length() - 1


class _Nodes:
    """Cuts the statements into nodes."""

    def __init__(self, kernel: Kernel, names: Names) -> None:
        self.kernel, self.names = kernel, names
        self.nodes = [Node()]
        self.labels: dict[str, int] = {}
        self.jumps: list[tuple[Node, list[str]]] = []

    def build(self) -> list[Node]:
        for statement in self.kernel.statements:
            if isinstance(statement, Label):
                self.labels[statement.name] = self._fresh()
            else:
                self._instruction(statement)
        for node, labels in self.jumps:
            node.targets = [self._target(node, label) for label in labels]
        return self.nodes

    def _fresh(self) -> int:
        if self.nodes[-1].first is not None:
            self.nodes.append(Node())
        return len(self.nodes) - 1

    def _target(self, node: Node, label: str) -> int:
        if label not in self.labels:
            assert node.control is not None
            raise PtxError("jump to a label that does not exist", Place(self.kernel.name, node.control.line, node.control.text))
        return self.labels[label]

    def _instruction(self, inst: Instruction) -> None:
        try:
            if inst.name in CONTROL and "warp" not in inst.parts:
                self._control(inst)
                return
            sync = _member_mask(inst, self.names)
            if sync is not None:
                self._fresh()
                self.nodes[-1].sync, self.nodes[-1].sync_inst = sync, inst
            run = compile_instruction(inst, self.names)
        except PtxError as error:
            raise (error if error.place else PtxError(error.detail, Place(self.kernel.name, inst.line, inst.text))) from error
        except (KeyError, IndexError, StopIteration, ValueError) as error:
            raise PtxError(f"not understood ({error!r})", Place(self.kernel.name, inst.line, inst.text)) from error
        node = self.nodes[-1]
        node.first = node.first or inst
        node.ops.append(run)
        node.steps += 1

    def _control(self, inst: Instruction) -> None:
        if inst.name in ("bar", "barrier"):
            if "cluster" in inst.parts:
                raise PtxError("barriers of clusters are not supported")
            self._fresh()
        node = self.nodes[-1]
        node.control, node.first, node.steps = inst, node.first or inst, node.steps + 1
        if inst.guard is not None:
            condition = predicate(inst.guard, self.names)
            node.guard = (lambda batch: ~condition(batch)) if inst.negated else condition
        if inst.name == "bra":
            assert isinstance(inst.operands[0], Symbol)
            self.jumps.append((node, [inst.operands[0].name]))
        elif inst.name == "brx":
            assert isinstance(inst.operands[1], Symbol)
            self.jumps.append((node, self.kernel.tables[inst.operands[1].name]))
            node.index = raw(inst.operands[0], 32, self.names)
        elif inst.name in ("bar", "barrier") and inst.operands:
            node.index = raw(inst.operands[1 if "red" in inst.parts else 0], 32, self.names)
        self.nodes.append(Node())


def _member_mask(inst: Instruction, names: Names) -> Read | None:
    """For instructions that wait for other lanes: the mask of the lanes they name."""
    if "sync" not in inst.parts and not (inst.name == "bar" and "warp" in inst.parts):
        return None
    if inst.name in ("mma", "ldmatrix", "stmatrix", "wgmma", "movmatrix"):
        return raw(Immediate("0xffffffff"), 32, names)
    return raw(inst.operands[-1], 32, names)


def _pure(inst: Instruction, names: Names) -> Run:
    pure = RULES[inst.name](inst)
    operands: list[Operand | None] = list(inst.operands[1:])
    if len(operands) > len(pure.sources):
        raise PtxError(f"{inst.name} with {len(operands)} operands, not {len(pure.sources)}")
    reads = []
    for operand, kind in zip_longest(operands, pure.sources):
        if operand is None and kind != "carry":
            raise PtxError(f"{inst.name} with {len(operands)} operands, not {len(pure.sources)}")
        reads.append(reader(operand or Immediate("0"), kind, names))
    return _call(inst, pure, reads)


def _call(inst: Instruction, pure: Pure, reads: list[Read]) -> Run:
    targets, function = results(inst), pure.function
    if len(pure.results) == 1:
        write = writer(targets[0], pure.results[0])
        if len(reads) == 1:
            (first,) = reads
            return lambda batch, mask: write(batch, function(first(batch)), mask)
        if len(reads) == 2:
            left, right = reads
            return lambda batch, mask: write(batch, function(left(batch), right(batch)), mask)
        return lambda batch, mask: write(batch, function(*[read(batch) for read in reads]), mask)
    padded = [*targets, None][: len(pure.results)]
    pairs = zip(padded, pure.results, strict=True)
    writes = [writer(target or targets[0], kind) if target or kind == "carry" else None for target, kind in pairs]

    def run(batch: Batch, mask: Mask) -> None:
        values = function(*[read(batch) for read in reads])
        for write, value in zip(writes, values, strict=True):
            if write is not None:
                write(batch, value, mask)

    return run


def _move(inst: Instruction, names: Names) -> Run:
    kind = inst.types[-1]
    if kind == "pred":
        read = predicate(inst.operands[1], names)
    else:
        read = raw(inst.operands[1], BITS[kind], names, kind in ("f32", "f64"))
        kind = f"b{BITS[kind]}"
    target = inst.operands[0]
    if len(parts_of(target)) > 1 and len(parts_of(target)) == len(parts_of(inst.operands[1])):
        raise PtxError("mov of a vector to a vector")
    write = writer(target, kind)
    return lambda batch, mask: write(batch, read(batch), mask)


def _trap(inst: Instruction, names: Names) -> Run:
    def run(batch: Batch, mask: Mask) -> None:
        raise batch.fault(TrapFault, inst, "the kernel stopped itself", int(batch.active(mask)[0]))

    return run


def _nothing(inst: Instruction, names: Names) -> Run:
    return lambda batch, mask: None


def _barrier_in_warp(inst: Instruction, names: Names) -> Run:
    return compile_warp_barrier(inst, names)


COMPILE: dict[str, Compile] = {
    "mov": _move, "ld": compile_load, "ldu": compile_load, "st": compile_store, "atom": compile_atomic, "red": compile_atomic,
    "membar": compile_fence, "fence": compile_fence, "cvta": compile_cvta, "isspacep": compile_isspacep, "cp": compile_async,
    "shfl": compile_shuffle, "vote": compile_vote, "match": compile_match, "redux": compile_redux, "elect": compile_elect,
    "activemask": compile_activemask, "bar": _barrier_in_warp, "mma": compile_mma, "ldmatrix": compile_load_matrix,
    "stmatrix": compile_store_matrix, "trap": _trap, "brkpt": _nothing, "prefetch": _nothing, "prefetchu": _nothing,
    "discard": _nothing, "applypriority": _nothing, "nanosleep": _nothing, "griddepcontrol": _nothing,
}  # fmt: skip


def compile_instruction(inst: Instruction, names: Names) -> Run:
    """The function that carries out `inst` for the lanes of a mask, its guard included."""
    if inst.name in COMPILE:
        run = COMPILE[inst.name](inst, names)
    elif inst.name in RULES:
        run = _pure(inst, names)
    else:
        raise PtxError(f"instruction {inst.name} is not supported")
    if inst.guard is None:
        return run
    condition, negated = predicate(inst.guard, names), inst.negated

    def guarded(batch: Batch, mask: Mask) -> None:
        on = condition(batch)
        on = ~on if negated else on
        if not getattr(on, "ndim", 0):
            if on:
                run(batch, mask)
            return
        on = on if mask is None else on & mask
        if on.any():
            run(batch, on)

    return guarded
