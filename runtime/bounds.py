"""`TREADLE_CHECK=bounds`: before a plan runs, every load and store of its kernels is proved to stay inside its buffer.

A kernel's addresses are affine in its loop counters, so over a box of sizes the first and the last one tell. A guarded load counts only
where its condition, computed over the whole domain, holds; a gather is bounded by the number it is checked against when it runs. Buffers
of the arena must lie inside it, and those alive at the same time must not overlap.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from treadle.codegen import work
from treadle.codegen.kernel_reference import index_values
from treadle.ir.dtypes import by_name
from treadle.ir.graph import Value
from treadle.ir.kernel import PARALLEL, UNIT, ZERO, Instr, Kernel, argument_layout
from treadle.passes.program import GemmStep, GroupStep, HostStep, KernelStep, LoopStep, Matrix, Program, Ref, RoutineStep, Step
from treadle.runtime.check import CheckError


def check(program: Program) -> int:
    """The number of accesses that were looked at; CheckError for the first that may leave its buffer, naming kernel, ops and lines."""
    _check_arena(program)
    return sum(_step(program, step, ()) for step in program.steps)


def _step(program: Program, step: Step, trips: tuple[int, ...]) -> int:
    if isinstance(step, LoopStep):
        return sum(_step(program, inner, (step.trip, *trips)) for inner in step.body) if step.trip else 0
    if isinstance(step, GroupStep):
        return sum(_kernel(program, member, trips, member) for member in step.members)
    if isinstance(step, KernelStep):
        return _kernel(program, step, trips, step)
    if isinstance(step, GemmStep):
        shapes = {"a": (step.m, step.k), "b": (step.k, step.n), "c": (step.m, step.n)}
        for name, (rows, columns) in shapes.items():
            if (step.form, name) != ("int8", "b"):  # packed weights are read as a whole
                _matrix(program, step, name, getattr(step, name), (*step.batch, rows, columns), trips)
        return 3 + (_kernel(program, step.epilogue, trips, step) if step.epilogue is not None else 0)
    if isinstance(step, RoutineStep) and step.strides:
        return _strided(program, step, trips)
    places = [*step.inputs, *step.outputs]
    values: list[Value] = [*step.node.inputs, *step.node.outputs] if step.outputs else []
    if isinstance(step, HostStep | RoutineStep):
        for what, value, ref in zip(_roles(step), values, places, strict=False):
            if isinstance(ref, Ref):
                _whole(program, step, what, value, ref, trips)
    return len(places)


def _strided(program: Program, step: RoutineStep, trips: tuple[int, ...]) -> int:
    values = [v for v in step.node.inputs if not v.type.weak]
    for number, (value, ref, strides) in enumerate(zip(values, step.inputs, step.strides, strict=True)):
        _inside(program, step, f"operand {number}", ref, _box(value.shape, strides), value.dtype.name, trips)
    for number, (value, ref) in enumerate(zip(step.node.outputs, step.outputs, strict=False)):
        _whole(program, step, f"result {number}", value, ref, trips)
    return len(step.inputs) + len(step.outputs)


def _roles(step: HostStep | RoutineStep) -> list[str]:
    return [f"operand {i}" for i in range(len(step.inputs))] + [f"result {i}" for i in range(len(step.outputs))]


# -- kernels -----------------------------------------------------------------------------------------------------------------
class _Arguments(NamedTuple):
    """A kernel step's arguments by what they are."""

    sizes: list[int]
    pointers: list[Ref]
    strides: list[list[int]]  # by access and axis, in elements
    slots: list[int]


def _arguments(step: KernelStep) -> _Arguments:
    kernel = step.kernel
    found = _Arguments([0] * len(kernel.axes), [Ref(-1)] * len(kernel.accesses),
                       [[1 if c == UNIT else 0 for c in access.strides] for access in kernel.accesses], [0] * kernel.slots)
    for (what, *which), value in zip(argument_layout(kernel), step.arguments, strict=True):
        if what == "pointer" and isinstance(value, Ref):
            found.pointers[which[0]] = value
        elif isinstance(value, int):
            if what == "size":
                found.sizes[which[0]] = value
            elif what == "stride":
                found.strides[which[0]][which[1]] = value
            elif what == "slot":
                found.slots[which[0]] = value
    return found


def _kernel(program: Program, step: KernelStep, trips: tuple[int, ...], shown: Step) -> int:
    given = _arguments(step)
    count = 0
    for number, instr in enumerate(step.kernel.body):
        if instr.opcode.startswith("load"):
            span = _loaded(step.kernel, instr, given)
            _inside(program, shown, f"%{number} = {instr.opcode} m{instr.params[0]}", given.pointers[instr.params[0]],
                    span, step.kernel.accesses[instr.params[0]].dtype, trips)
            count += 1
    for access, value in step.kernel.stores:
        span = _stored(step.kernel, access, given)
        _inside(program, shown, f"store %{value} -> m{access}", given.pointers[access], span, step.kernel.accesses[access].dtype, trips)
        count += 1
    return count


Span = tuple[int, int] | None  # first and last element, None when nothing is touched


def _box(sizes: Sequence[int], strides: Sequence[int]) -> Span:
    if prod(sizes) == 0:
        return None
    ends = [(n - 1) * s for n, s in zip(sizes, strides, strict=True)]
    return sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends)


def _loaded(kernel: Kernel, instr: Instr, given: _Arguments) -> Span:
    strides = given.strides[instr.params[0]]
    span = _box(given.sizes, strides)
    if span is None or instr.opcode == "load":
        return span
    if instr.opcode == "load_at":
        bound, stride = (given.slots[k] for k in instr.params[1:])
        last = (bound - 1) * stride
        return (span[0] + min(last, 0), span[1] + max(last, 0)) if bound > 0 else None
    holds = index_values(kernel, given.sizes, given.slots, instr.operands[0])
    if holds is None:
        raise CheckError(f"bounds: the condition of {instr.opcode} depends on data, which no plan does")
    return _where(np.asarray(holds, bool), given.sizes, strides)


def _where(holds: np.ndarray, sizes: Sequence[int], strides: Sequence[int]) -> Span:
    """First and last element over the points where the condition holds. It has size 1 along the axes that it does not depend on."""
    if not holds.any():
        return None
    shape = holds.shape or (1,) * len(sizes)
    free = [0 if varies > 1 or n == 1 else (n - 1) * s for varies, n, s in zip(shape, sizes, strides, strict=True)]
    places = np.zeros(shape, np.int64)
    for axis, (varies, stride) in enumerate(zip(shape, strides, strict=True)):
        if varies > 1:
            places = places + (np.arange(varies) * stride).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    chosen = places[np.broadcast_to(holds.reshape(shape), places.shape)]
    return int(chosen.min()) + sum(min(e, 0) for e in free), int(chosen.max()) + sum(max(e, 0) for e in free)


def _stored(kernel: Kernel, access: int, given: _Arguments) -> Span:
    """What moves along a reduce axis is stored at every point, the rest once for every point of the parallel axes."""
    classes = kernel.accesses[access].strides
    moves = [n if a.kind == PARALLEL or c != ZERO else 1 for n, a, c in zip(given.sizes, kernel.axes, classes, strict=True)]
    return _box(moves, given.strides[access])


# -- matrices and whole buffers ----------------------------------------------------------------------------------------------
def _matrix(program: Program, step: GemmStep, name: str, matrix: Matrix, sizes: Sequence[int], trips: tuple[int, ...]) -> None:
    dtype = step.dtype.name if name == "c" else {"int8": "uint8"}.get(step.operand_dtype, step.operand_dtype)
    span = _box(sizes, matrix.strides)
    if matrix.windows is not None:
        digits = [*zip(sizes[:-2], matrix.strides, strict=False), *matrix.windows.rows, *matrix.windows.columns]
        span = _box([n for n, _ in digits], [s for _, s in digits])
    _inside(program, step, f"matrix {name}", matrix.ref, span, dtype, trips)


def _whole(program: Program, step: Step, what: str, value: Value, ref: Ref, trips: tuple[int, ...]) -> None:
    _inside(program, step, what, ref, (0, value.type.numel - 1) if value.type.numel else None, value.type.dtype.name, trips)


def _inside(program: Program, step: Step, what: str, ref: Ref, span: Span, dtype: str, trips: tuple[int, ...]) -> None:
    """`trips` are those of the loops around the step, the innermost first; a place moves with that one."""
    if span is None:
        return
    size = by_name(dtype).itemsize
    moved = ref.step * (trips[0] - 1) if trips else 0
    low = ref.offset + span[0] * size + min(moved, 0) + min(ref.apart, 0)
    high = ref.offset + (span[1] + 1) * size + max(moved, 0) + max(ref.apart, 0)
    nbytes = program.buffers[ref.buffer].nbytes if ref.buffer >= 0 else 0
    if low < 0 or high > nbytes:
        raise CheckError(f"bounds: {work.title(step)}{_lines(step)}: {what} touches bytes {low} to {high} of b{ref.buffer}, "
                         f"which has {nbytes}")


def _lines(step: Step) -> str:
    found = [f"{file}:{line}" for file, line in work.sources(step)]
    return f" at {', '.join(found)}" if found else ""


# -- the arena ---------------------------------------------------------------------------------------------------------------
def _check_arena(program: Program) -> None:
    blocks = []
    for number, info in enumerate(program.buffers):
        if info.kind == "temp" and info.shares < 0 and info.first >= 0:
            end = info.offset + info.nbytes
            if info.offset < 0 or end > program.arena:
                raise CheckError(f"bounds: b{number} takes bytes {info.offset} to {end} of an arena of {program.arena}")
            blocks.append((info.offset, end, number))
    for (number, first, last), (other, other_first, other_last) in _overlaps(sorted(blocks), program):
        if first <= other_last and other_first <= last:
            raise CheckError(f"bounds: b{number} (alive from step {first} to {last}) and b{other} (from {other_first} to {other_last}) "
                             "lie in the same bytes of the arena")


_Life = tuple[int, int, int]


def _overlaps(blocks: list[tuple[int, int, int]], program: Program) -> Iterator[tuple[_Life, _Life]]:
    """Pairs of blocks, sorted by where they begin, that have bytes in common."""
    active: list[tuple[int, int, int]] = []
    for block in blocks:
        active = [other for other in active if other[1] > block[0]]
        for other in active:
            a, b = (program.buffers[x[2]] for x in (other, block))
            yield (other[2], a.first, a.last), (block[2], b.first, b.last)
        active.append(block)

