"""The public face: a device with memory, and launches of kernels from PTX text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptx_simulator.batch import Batch, Launch
from ptx_simulator.faults import LaunchFault
from ptx_simulator.floating import Array
from ptx_simulator.memory import Bytes, DeviceMemory
from ptx_simulator.parse import Kernel, Module, Parameter, parse
from ptx_simulator.program import Program, compile_kernel
from ptx_simulator.scheduler import Scheduler

MAX_SHARED = 227 * 1024
Extent = int | Sequence[int]


@functools.lru_cache(maxsize=256)
def parsed(text: str) -> Module:
    """The module in the text. PtxError if it is not understood."""
    return parse(text)


@functools.lru_cache(maxsize=1024)
def compiled(text: str, name: str) -> Program:
    return compile_kernel(parsed(text), name)


def _extent(given: Extent) -> tuple[int, int, int]:
    sizes = (given,) if isinstance(given, int) else tuple(int(size) for size in given)
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


class Simulator:
    """A device with `memory_limit` bytes. `threads` run at once at most; a launch may take `budget` steps.

    races=False leaves out the check of the order of accesses (bounds, alignment and the rest are always checked).
    """

    def __init__(self, memory_limit: int = 1 << 31, threads: int = 1 << 16, budget: int = 20_000_000, races: bool = True) -> None:
        self.memory = DeviceMemory(memory_limit)
        self.threads, self.budget, self.races = threads, budget, races
        self.steps = 0
        self._symbols: dict[str, dict[str, int]] = {}

    def upload(self, array: Array) -> int:
        """A new allocation with the array's bytes; its address."""
        array = np.ascontiguousarray(array)
        allocation = self.memory.allocate(max(array.nbytes, 1))
        if array.nbytes:
            self.memory.write(allocation.base, array)
        return allocation.base

    def empty(self, nbytes: int) -> int:
        """A new allocation that nothing was written to; its address."""
        return self.memory.allocate(nbytes).base

    def download(self, address: int, dtype: Any, shape: int | tuple[int, ...]) -> Array:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        return self.memory.read(address, size).copy().view(dtype).reshape(shape)

    def symbols(self, text: str) -> dict[str, int]:
        """Addresses of the module's global and constant variables (allocated at first use)."""
        if text not in self._symbols:
            found = {}
            for variable in parsed(text).variables.values():
                if variable.space in ("global", "const") and variable.size is not None:
                    found[variable.name] = self.memory.allocate(max(variable.size, 1)).base
                    if variable.data:
                        self.memory.write(found[variable.name], np.frombuffer(variable.data, np.uint8))
            self._symbols[text] = found
        return self._symbols[text]

    def unload(self, text: str) -> None:
        """Frees the module's variables."""
        for address in self._symbols.pop(text, {}).values():
            self.memory.free(address)

    def launch(self, ptx: str, name: str, grid: Extent, block: Extent, args: Sequence[Any], shared: int = 0) -> None:
        """Runs kernel `name` to its end. Raises the Fault that it finds first.

        grid, block: int or (x, y, z). args: one per parameter: int (also addresses), float, numpy scalar, bytes, or a
        numpy array, which is copied to the device before and back after. shared: bytes of dynamic shared memory.
        """
        program = compiled(ptx, name)
        arrays = [(place, self.upload(value)) for place, value in enumerate(args) if isinstance(value, np.ndarray)]
        values = list(args)
        for place, address in arrays:
            values[place] = address
        try:
            self.launch_raw(ptx, name, _extent(grid), _extent(block), _pack(program.kernel, values), shared)
            for place, address in arrays:
                args[place][...] = self.download(address, args[place].dtype, args[place].shape)
        finally:
            for _, address in arrays:
                self.memory.free(address)

    def launch_raw(self, ptx: str, name: str, grid: Any, block: Any, parameters: bytes, shared: int) -> None:
        """As `launch`, with the parameters as the bytes of their struct."""
        program = compiled(ptx, name)
        check_launch(program, grid, block, shared)
        launch = self._launch(ptx, program, grid, block, parameters, shared)
        per_block = max(1, launch.threads)
        at_once = max(1, min(self.threads // per_block, (1 << 26) // max(1, launch.shared_size)))
        with np.errstate(all="ignore"):
            for first in range(0, launch.blocks, at_once):
                batch = Batch(launch, first, min(at_once, launch.blocks - first), program.registers, None)
                Scheduler(program, batch).run()
        self.steps += launch.steps

    def _launch(self, ptx: str, program: Program, grid: Any, block: Any, parameters: bytes, shared: int) -> Launch:
        values = Bytes(len(parameters))
        values.data[: len(parameters)] = np.frombuffer(parameters, np.uint8)
        size = program.shared_size if program.dynamic_start is None else program.dynamic_start + shared
        # Blocks lie side by side in one array: each starts at a multiple of 16.
        return Launch(
            kernel=program.kernel.name, grid=grid, block=block, memory=self.memory, parameters=values, symbols=self.symbols(ptx),
            shared_size=size, shared_stride=-(-size // 16) * 16, local_size=program.local_size, global_shift=program.global_shift,
            shared_shift=program.shared_shift, budget=self.budget, races=self.races,
        )  # fmt: skip


def check_launch(program: Program, grid: Any, block: Any, shared: int) -> None:
    """LaunchFault if the device could not run blocks like these."""
    name, limits = program.kernel.name, program.kernel.limits
    threads = block[0] * block[1] * block[2]
    if min(grid) < 1 or min(block) < 1 or threads > 1024 or block[2] > 64 or max(grid[1:]) > 65535 or grid[0] > 2**31 - 1:
        raise LaunchFault(f"kernel {name}: grid {grid} with blocks {block}")
    most = int(np.prod(limits.get("maxntid", (1024,))))
    if threads > most:
        raise LaunchFault(f"kernel {name}: {threads} threads per block, its .maxntid allows {most}")
    if "reqntid" in limits and threads != int(np.prod(limits["reqntid"])):
        raise LaunchFault(f"kernel {name}: {threads} threads per block, its .reqntid asks for {limits['reqntid']}")
    total = program.shared_size + shared
    if total > MAX_SHARED:
        raise LaunchFault(f"kernel {name}: {total} bytes of shared memory per block, {MAX_SHARED} exist")


def _pack(kernel: Kernel, values: Sequence[Any]) -> bytes:
    if len(values) != len(kernel.parameters):
        raise LaunchFault(f"kernel {kernel.name}: {len(values)} arguments, not {len(kernel.parameters)}")
    size = max((parameter.offset + parameter.size for parameter in kernel.parameters), default=0)
    packed = bytearray(size)
    for parameter, value in zip(kernel.parameters, values, strict=True):
        packed[parameter.offset : parameter.offset + parameter.size] = _argument(kernel, parameter, value)
    return bytes(packed)


def _argument(kernel: Kernel, parameter: Parameter, value: Any) -> bytes:
    if isinstance(value, bytes):
        data = value
    elif isinstance(value, np.generic):
        data = value.tobytes()
    elif isinstance(value, float):
        data = np.array(value, {4: np.float32, 8: np.float64, 2: np.float16}[parameter.size]).tobytes()
    else:
        data = (int(value) % (1 << 8 * parameter.size)).to_bytes(parameter.size, "little")
    if len(data) != parameter.size:
        raise LaunchFault(f"kernel {kernel.name}: argument {parameter.name} has {len(data)} bytes, not {parameter.size}")
    return data
