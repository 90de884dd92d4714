"""Scans become native loops: the body is lowered once, and its references say how they move from one iteration to the next."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.kernel import PARALLEL, UNIT, Access, Axis, Instr, Kernel
from treadle.passes.memory import ALIGNMENT
from treadle.passes.program import (
    Argument,
    BufferInfo,
    ErrorCell,
    GemmStep,
    HostStep,
    KernelStep,
    LoopStep,
    Program,
    Ref,
    RoutineStep,
    ScalarRef,
    Step,
)


class Lowering(Protocol):
    """What lowering a scan needs of the lowering of the graph around it."""

    program: Program

    def buffer(self, value: Value) -> int: ...

    def scalar(self, value: Value, dtype: DType) -> int: ...


def lower_scan(outer: Lowering, node: Node, lower: Callable[[Graph], Program]) -> bool:
    """Append the loop for a `scan` node whose body the pipeline has prepared; False when its body needs the host.

    A carry has two places in one buffer: iterations read one and write the other in turn. Which of them the last one writes follows from
    the length as a number, so that loops of all lengths are planned alike.
    """
    body, n_carry, n_seq, length, reverse = node.attrs
    inner = lower(body)
    operands = node.inputs
    if any(isinstance(s, HostStep | LoopStep) for s in inner.steps):
        return False
    if any(operands[info.input].node.op is not None for info in inner.scalars) or any(v.type.weak for v in operands[:n_carry + n_seq]):
        return False
    program = outer.program
    places: dict[int, Ref] = {}
    results: list[tuple[Value, Ref]] = []
    for i in range(n_carry):
        apart = -(-node.outputs[i].type.nbytes // ALIGNMENT) * ALIGNMENT
        both = len(program.buffers)
        program.buffers.append(BufferInfo(2 * apart, "temp", dtypes.uint8, (2 * apart,)))
        program.steps.append(_copy(operands[i], Ref(outer.buffer(operands[i])), Ref(both)))
        results.append((node.outputs[i], Ref(both, length % 2 * apart)))
        places[inner.inputs[i]] = Ref(both, 0, 0, apart)
        places[inner.outputs[i]] = Ref(both, apart, 0, -apart)
    for i, value in enumerate(operands[n_carry:n_carry + n_seq], n_carry):
        places[inner.inputs[i]] = _slice(outer.buffer(value), value, length, reverse)
    for i, value in enumerate(operands[n_carry + n_seq:], n_carry + n_seq):
        if inner.inputs[i] >= 0:
            places[inner.inputs[i]] = Ref(outer.buffer(value))
    for i, value in enumerate(node.outputs[n_carry:], n_carry):
        places[inner.outputs[i]] = _slice(outer.buffer(value), value, length, reverse)
    for number, info in enumerate(inner.buffers):
        if number not in places:
            places[number] = Ref(len(program.buffers))
            program.buffers.append(BufferInfo(info.nbytes, "temp", info.dtype, info.shape))
    scalars = [outer.scalar(operands[info.input], info.dtype) for info in inner.scalars]
    if length and inner.steps:
        program.steps.append(LoopStep(length, [_moved(s, places, scalars) for s in inner.steps], node))
    program.steps += [_copy(value, place, Ref(outer.buffer(value))) for value, place in results]
    return True


def _slice(buffer: int, value: Value, length: int, reverse: bool) -> Ref:
    """Where step t of a stacked value is, for t counting from the loop's first iteration."""
    stride = value.type.nbytes // max(length, 1)
    return Ref(buffer, (length - 1) * stride, -stride) if reverse else Ref(buffer, 0, stride)


def _copy(value: Value, source: Ref, target: Ref) -> KernelStep:
    """A kernel that copies a whole value."""
    dtype = value.dtype.name
    kernel = Kernel((Axis(PARALLEL),), (Access(dtype, False, (UNIT,)), Access(dtype, True, (UNIT,))), (), 0,
                    (Instr("load", dtype, (), (0,)),), ((1, 0),))
    count = value.type.numel
    return KernelStep(kernel, (count,), (ErrorCell(), count, source, target))


def _moved(step: Step, places: dict[int, Ref], scalars: list[int]) -> Step:
    """A step of the body with its references in the program around it."""
    def moved(ref: Ref) -> Ref:
        place = places[ref.buffer]
        return place._replace(offset=place.offset + ref.offset)

    def argument(given: Argument) -> Argument:
        return moved(given) if isinstance(given, Ref) else ScalarRef(scalars[given.position]) if isinstance(given, ScalarRef) else given

    if isinstance(step, KernelStep):
        return replace(step, arguments=tuple(map(argument, step.arguments)))
    if isinstance(step, RoutineStep):
        return replace(step, arguments=tuple(map(argument, step.arguments)), inputs=tuple(map(moved, step.inputs)),
                       outputs=tuple(map(moved, step.outputs)))
    assert isinstance(step, GemmStep)
    a, b, c = (m._replace(ref=moved(m.ref)) for m in (step.a, step.b, step.c))
    epilogue = None if step.epilogue is None else _moved(step.epilogue, places, scalars)
    assert epilogue is None or isinstance(epilogue, KernelStep)
    return replace(step, a=a, b=b, c=c, epilogue=epilogue)

