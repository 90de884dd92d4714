"""The state of a launch and of a batch of blocks that run together, one numpy lane per thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx_simulator.faults import Fault, Place
from ptx_simulator.floating import Array
from ptx_simulator.memory import Allocation, Bytes, DeviceMemory
from ptx_simulator.parse import Instruction
from ptx_simulator.races import Clocks, Published, Shadow

if TYPE_CHECKING:
    from ptx_simulator.async_copies import AsyncCopies
    from ptx_simulator.tracking import Tracker

Mask = Any  # bool per lane; None for all lanes
Run = Callable[["Batch", Mask], None]
Read = Callable[["Batch"], Array]
Write = Callable[["Batch", Array, Mask], None]


@dataclass
class Launch:
    """What all blocks of a launch share."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    memory: DeviceMemory
    parameters: Bytes
    symbols: dict[str, int]
    shared_size: int
    shared_stride: int
    local_size: int
    global_shift: int
    shared_shift: int
    budget: int
    races: bool = True
    steps: int = 0
    tracks: dict[int, Tracker] = field(default_factory=dict)
    sync: dict[int, dict[int, Published]] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    def track(self, allocation: Allocation) -> Tracker:
        from ptx_simulator.tracking import Tracker

        found = self.tracks.get(allocation.base)
        if found is None:
            allocation.scan()
            found = self.tracks[allocation.base] = Tracker(allocation, self.global_shift)
        return found


class Batch:
    """Blocks first_block .. first_block + blocks - 1, all threads in one lane dimension (block major)."""

    def __init__(self, launch: Launch, first_block: int, blocks: int, registers: list[int], copies: AsyncCopies | None) -> None:
        self.launch, self.first_block, self.blocks = launch, first_block, blocks
        self.count = blocks * launch.threads
        self.lanes = np.arange(self.count)
        self.who = self.lanes + first_block * launch.threads
        self.warps = -(-launch.threads // 32)
        self.registers: list[Array] = [_garbage(bits) for bits in registers]
        self.carry: Array = np.bool_(False)
        self.exited = np.zeros(self.count, np.bool_)
        self.clocks = Clocks(first_block, blocks, launch.threads)
        self.shared = Bytes(blocks * launch.shared_stride)
        self.shared_base = (self.lanes // launch.threads) * launch.shared_stride
        self.shared_shadow = Shadow(self.shared.size, launch.shared_shift, private=True)
        self.local = Bytes(self.count * launch.local_size)
        self.copies = copies
        self._special: dict[str, Array] = {}
        self._active: tuple[Mask, Array] = (None, self.lanes)
        self._padded: Array | None = None
        if launch.threads % 32:
            thread = self.lanes % launch.threads
            self._padded = (self.lanes // launch.threads) * self.warps * 32 + thread

    def active(self, mask: Mask) -> Array:
        """Lane numbers of a mask."""
        if mask is None:
            return self.lanes
        if self._active[0] is not mask:
            self._active = (mask, np.flatnonzero(mask))
        return self._active[1]

    def broadcast(self, value: Array) -> Array:
        return value if getattr(value, "ndim", 0) else np.broadcast_to(value, (self.count,))

    def to_warps(self, value: Array, fill: int = 0) -> Array:
        """Values per lane as (warps, 32); lanes that do not exist hold `fill`."""
        value = self.broadcast(value)
        if self._padded is None:
            return value.reshape(-1, 32)
        wide = np.full(self.blocks * self.warps * 32, fill, value.dtype)
        wide[self._padded] = value
        return wide.reshape(-1, 32)

    def from_warps(self, value: Array) -> Array:
        flat = np.ascontiguousarray(value).reshape(-1)
        return flat if self._padded is None else flat[self._padded]

    def mask_warps(self, mask: Mask) -> Array:
        """Which lanes of a mask are on, as (warps, 32); lanes that do not exist are off."""
        return self.to_warps(np.bool_(True) if mask is None else mask)

    def special(self, name: str) -> Array:
        if name.startswith(("clock", "globaltimer")):
            return (np.uint32 if name in ("clock", "clock_hi") else np.uint64)(self.launch.steps)
        if name not in self._special:
            self._special[name] = self._make_special(name)
        return self._special[name]

    def _make_special(self, name: str) -> Array:
        launch = self.launch
        base, _, axis = name.partition(".")
        place = "xyz".index(axis) if axis else 0
        thread, block = self.who % launch.threads, self.who // launch.threads
        if base in ("ntid", "nctaid"):
            return np.uint32((launch.block if base == "ntid" else launch.grid)[place])
        if base in ("tid", "ctaid"):
            sizes = launch.block if base == "tid" else launch.grid
            number = thread if base == "tid" else block
            return (number // (1, sizes[0], sizes[0] * sizes[1])[place] % sizes[place]).astype(np.uint32)
        lane = (thread % 32).astype(np.uint32)
        if base == "laneid":
            return lane
        if base == "warpid":
            return (thread // 32).astype(np.uint32)
        if base.startswith("lanemask"):
            equal = np.uint32(1) << lane
            less = equal - np.uint32(1)
            masks = {"eq": equal, "lt": less, "le": less | equal, "gt": ~(less | equal), "ge": ~less}
            return masks[base[-2:]]
        constants = {"nwarpid": 64, "smid": 0, "nsmid": 1, "gridid": 0, "total_smem_size": launch.shared_size}
        return np.uint32(constants[base])

    def fault(self, kind: type[Fault], inst: Instruction, detail: str, lane: int | None = None) -> Fault:
        """The exception for `inst`, with the block and thread of a lane."""
        return kind(detail, self.place(inst, lane))

    def place(self, inst: Instruction, lane: int | None) -> Place:
        if lane is None:
            return Place(self.launch.kernel, inst.line, inst.text)
        block, thread = self.names(int(self.who[lane]))
        return Place(self.launch.kernel, inst.line, inst.text, block, thread)

    def names(self, who: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """(block, thread) of a thread's number in the launch, as x, y, z."""
        block, thread = divmod(who, self.launch.threads)
        return _triple(block, self.launch.grid), _triple(thread, self.launch.block)


def _triple(number: int, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    return number % sizes[0], number // sizes[0] % sizes[1], number // (sizes[0] * sizes[1])


def _garbage(bits: int) -> Array:
    if bits == 1:
        return np.bool_(False)
    return {8: np.uint8(0xCD), 16: np.uint16(0xCDCD), 32: np.uint32(0xCDCDCDCD), 64: np.uint64(0xCDCDCDCDCDCDCDCD)}[bits]
