"""A Python function generated for one compiled plan: allocate the results, fill the frame, run.

`CompiledPlan.run` does the same for any plan with loops over its parts; here the loops are unrolled into the source.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from treadle.runtime import executor, memory, threads

Launch = Callable[..., tuple[memory.Buffer, ...] | None]


def make_launch(compiled: Any) -> Launch | None:
    """`launch(*buffers, *numbers)`: the results, or None when a kernel found a fault in the data.

    `compiled` is a CompiledPlan. None when a step needs the host or a result is an input or another result.
    """
    program = compiled.program
    fresh = list(program.outputs)
    if len(compiled.segments) != 1 or compiled.segments[0].__class__ is not executor.Plan or fresh != compiled.outputs:
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
    for code, (index, convert) in zip(compiled.scalar_types, compiled.convert, strict=True):
        if code in "df" or (code == "q" and convert is not bool):
            packed.append(f"s{index}")
        else:
            names[f"c{index}"] = convert
            packed.append(f"c{index}(s{index})")
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
