"""Runs kernels of the kernel IR on the PTX simulator. A test helper."""
from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from ptx_simulator import Simulator

from treadle.codegen import ptx_emit, ptx_mapping, ptx_target
from treadle.codegen.kernel_reference import Operand, argument_table
from treadle.codegen.llvm_text import Module
from treadle.ir.kernel import Kernel, argument_layout


@functools.lru_cache(maxsize=512)
def kernel_ptx(kernel: Kernel, mapping: ptx_mapping.Mapping, architecture: str = "sm_80") -> str:
    """The PTX of one variant of a kernel, named `kernel`."""
    module = Module()
    ptx_emit.emit_kernel(module, kernel, "kernel", mapping)
    return ptx_target.to_ptx(module.text(), architecture)


def known(kernel: Kernel, table: np.ndarray, operands: Sequence[Operand]) -> list[object]:
    """The arguments as `ptx_mapping.choose` wants them."""
    found: list[object] = []
    for (what, *which), word in zip(argument_layout(kernel), table, strict=False):
        if what == "pointer":
            o = operands[which[0]]
            found.append((o.offset * o.buffer.itemsize, 0))
        else:
            found.append(int(word))
    return found


def launch(kernel: Kernel, sizes: Sequence[int], operands: Sequence[Operand], slots: Sequence[int] = (), scalars: Sequence[float] = (),
           simulator: Simulator | None = None) -> tuple[np.ndarray, ptx_mapping.Mapping]:
    """Run the kernel on the operands' buffers; the error cell and the variant that was used."""
    simulator = simulator or Simulator()
    error = np.zeros(8, np.int64)
    table = argument_table(kernel, sizes, operands, slots, scalars, error)
    mapping = ptx_mapping.choose(kernel, sizes, known(kernel, table, operands))
    places: dict[int, int] = {}
    buffers = {id(o.buffer): o.buffer for o in operands}
    for key, buffer in buffers.items():
        places[key] = simulator.upload(buffer)
    layout = argument_layout(kernel)
    for i, (what, *which) in enumerate(layout):
        if what == "error":
            table[i] = cell = simulator.upload(error)
        elif what == "pointer":
            o = operands[which[0]]
            table[i] = places[id(o.buffer)] + o.offset * o.buffer.itemsize
    found = ptx_mapping.launches(kernel, tuple(sizes), mapping)
    partials = simulator.empty(max(ptx_mapping.workspace(kernel, tuple(sizes), found), 8))
    words = ptx_emit.argument_words(kernel)
    for item in found:
        table[len(layout):] = item.phase, item.parts, item.length, partials
        simulator.launch_raw(kernel_ptx(kernel, mapping), "kernel", item.grid, item.block, table[:words].tobytes(), 0)
    for key, buffer in buffers.items():
        buffer[...] = simulator.download(places[key], buffer.dtype, buffer.shape)
    return simulator.download(cell, np.int64, 8), mapping
