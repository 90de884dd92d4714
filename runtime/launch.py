"""One function for each compiled plan: allocate the results, fill the frame, run.

Made of machine code (see `native`), or, where that cannot be, of Python with the loops over the plan's parts unrolled.
`CompiledPlan.run` does the same for any plan.
"""
from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from treadle.codegen import python_calls as layout
from treadle.ir.dtypes import BOOL, FLOAT
from treadle.passes.program import GemmStep, GroupStep, KernelStep, Step
from treadle.runtime import executor, memory, native, threads

Launch = Callable[..., tuple[memory.Buffer, ...] | None]


def launchable(compiled: Any) -> bool:
    """Whether a plan is one run of native steps whose results have memory of their own."""
    return (len(compiled.segments) == 1 and compiled.segments[0].__class__ is executor.Plan
            and list(compiled.program.outputs) == compiled.outputs)


def bind(compiled: Any) -> native.Binding | None:
    """The plan in the form that builtins launch, None when it has to be launched from Python. It takes the plan's one segment."""
    found = native.builtins()
    program = compiled.program
    if found is None or not launchable(compiled):
        return None
    tensors = len(compiled.inputs)
    scalars = []
    for info in program.scalars:
        given = program.inputs[info.input]
        code = _code(info.dtype, compiled.number_types[info.input - tensors]) if given < 0 else None
        if code is None:
            return None
        scalars.append((info.input - tensors, code))
    sizes = [compiled.arena, *[program.buffers[b].nbytes for b in compiled.outputs]]
    segment = compiled.segments.pop()
    binding = native.Binding(found, segment, compiled.error_address, sizes, tensors, scalars, len(program.inputs) - tensors)
    binding.code = compiled.modules
    binding.table[layout.BRIEF] = not segment.parallel and _points(program.steps) <= BRIEF_POINTS
    return binding


BRIEF_POINTS = 4096  # innermost iterations of a plan that runs for about a microsecond or two


def _points(steps: list[Step]) -> float:
    """How many innermost iterations the steps make, at most."""
    total = 0.0
    for step in steps:
        if isinstance(step, KernelStep):
            total += math.prod(step.sizes)
        elif isinstance(step, GroupStep):
            total += _points(list(step.members))
        elif isinstance(step, GemmStep):
            total += math.prod(step.batch) * step.m * step.n * step.k
        else:
            return math.inf
    return total


def _code(dtype: Any, given: Any) -> int | None:
    """How a number of type `given` becomes a scalar of `dtype`; None for what only Python knows how to do."""
    if given.is_complex:
        return None
    if dtype.category == FLOAT:
        return layout.DOUBLE if dtype.itemsize == 8 else layout.SINGLE if dtype.itemsize == 4 else None
    if dtype.category == BOOL:
        return layout.TRUTH
    return layout.INTEGER if given.category != FLOAT else None


def make_launch(compiled: Any) -> Launch | None:
    """`launch(*buffers, *numbers)`: the results, or None when a kernel found a fault in the data.

    `compiled` is a CompiledPlan. None when a step needs the host or a result is an input or another result.
    """
    program = compiled.program
    if not launchable(compiled):
        return None
    tensors = len(compiled.inputs)
    numbers = len(program.inputs) - tensors
    segment = compiled.segments[0]
    buffers = [f"b{i}" for i in range(tensors)]
    given = [f"s{i}" for i in range(numbers)]
    names: dict[str, Any] = {"allocate": memory.allocate, "segment": segment, "pack": segment._pack, "frame": segment._frame,
                             "native": segment._native, "address": segment.address, "scratch": threads.scratch_pointer,
                             "pool": threads.pool_pointer, "error": compiled.error_address, "slow": compiled.run,
                             "Unpackable": (struct.error, OverflowError, TypeError)}
    packed = []
    for k, (code, info, (index, convert)) in enumerate(zip(compiled.scalar_types, program.scalars, compiled.convert, strict=True)):
        if not info.part and (code in "df" or (code == "q" and convert is not bool)):
            packed.append(f"s{index}")
        else:
            names[f"c{k}"] = convert
            packed.append(f"c{k}(s{index})")
    lines = [f"def launch({', '.join([*buffers, *given])}):"]
    if compiled.arena:
        lines.append(f"    arena = allocate({compiled.arena})")
    lines += [f"    o{i} = allocate({program.buffers[b].nbytes})" for i, b in enumerate(compiled.outputs)]
    results = [f"o{i}" for i in range(len(compiled.outputs))]
    words = ["0", "pool()" if segment._parallel else "0", "scratch()", "error", "arena.ptr" if compiled.arena else "0",
             *[f"{b}.ptr" for b in [*buffers, *results]], *packed]
    lines += ["    try:", "        with segment._lock:", f"            pack(frame, {', '.join(words)})",
              "            if native(address):", "                return None",
              "    except Unpackable:  # a number that does not fit is converted as C does",
              f"        return slow(({''.join(b + ', ' for b in buffers)}), ({''.join(s + ', ' for s in given)}))",
              f"    return {''.join(r + ', ' for r in results)}" if results else "    return ()"]
    exec(compile("\n".join(lines), "<treadle launch>", "exec"), names)
    launch: Launch = names["launch"]
    return launch
