"""Checks of one instruction's accesses: order against other threads, written before read.

Global reads are only logged until something writes the same allocation in the same launch: inputs cost one list entry.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ptx_simulator.batch import Batch
from ptx_simulator.faults import Fault, RaceFault, UninitialisedFault
from ptx_simulator.floating import Array
from ptx_simulator.memory import Allocation, Bytes
from ptx_simulator.parse import Instruction
from ptx_simulator.races import Clocks, Shadow

_LOG_LIMIT = 1 << 22
_STALE = "reads through the read-only cache what was written in the same launch by"
_READS = "reads what was written without a barrier between by"
_NOT_READONLY = "writes what was read through the read-only cache in the same launch: the load must not be ld.global.nc"
_OVERWRITES = "writes what was written without a barrier between by"
_WRITES = "writes what was read without a barrier between by"


class Access(NamedTuple):
    """`parts` elements of `width` bytes at `offset` (bytes, one per lane in `lanes`) of `target`."""

    inst: Instruction
    space: str
    target: Bytes
    offset: Array
    lanes: Array
    width: int
    parts: int
    atomic: bool = False
    readonly: bool = False

    @property
    def size(self) -> int:
        return self.width * self.parts

    def elements_of(self, part: int = 0) -> Array:
        """Element numbers of the part-th element of each lane."""
        index = self.offset >> (self.width.bit_length() - 1)
        return index + part if part else index


class _Logged(NamedTuple):
    offset: Array
    size: int
    entries: Array
    seen: Array
    readonly: bool


def _granules(offset: Array, size: int, shift: int) -> tuple[Array, int]:
    """Shadow elements of accesses of `size` bytes, flattened, and how many per access."""
    count = max(1, size >> shift)
    first = offset >> shift
    return (first, 1) if count == 1 else ((first[:, None] + np.arange(count)).reshape(-1), count)


class Tracker:
    """Order of the accesses to one allocation in one launch."""

    def __init__(self, allocation: Allocation, shift: int) -> None:
        self.allocation, self.shift = allocation, shift
        self.shadow: Shadow | None = None
        self._log: list[_Logged] = []
        self._logged = 0

    def note_read(self, batch: Batch, access: Access) -> Shadow | None:
        """The shadow to check against if anything was written, else the read is logged."""
        if self.shadow is None:
            entries = batch.clocks.entries(batch.who[access.lanes], access.atomic)
            self._log.append(_Logged(access.offset, access.size, entries, batch.clocks.seen, access.readonly))
            self._logged += len(entries)
            if self._logged > _LOG_LIMIT:
                self.written(batch.clocks)
        return self.shadow

    def written(self, clocks: Clocks) -> Shadow:
        if self.shadow is None:
            self.shadow = Shadow(self.allocation.size, self.shift)
            for offset, size, entries, seen, readonly in self._log:
                index, count = _granules(offset, size, self.shift)
                if readonly:
                    self.shadow.readonly[index] = True
                _note(self.shadow, clocks, index, np.repeat(entries, count), seen)
            self._log = []
        return self.shadow


def _note(shadow: Shadow, clocks: Clocks, index: Array, entries: Array, seen: Array) -> None:
    """Reads of blocks of an earlier batch are joined without asking for order: nothing but a release can order them."""
    block = (entries & ((1 << 32) - 1)) // clocks.threads - clocks.first_block
    here = (block >= 0) & (block < len(seen))
    if here.any():
        shadow.read(clocks, index[here], entries[here], seen)
    if not here.all():
        shadow.read(clocks, index[~here], entries[~here], None)


def shadow_for_reading(batch: Batch, access: Access) -> Shadow | None:
    if not batch.launch.races or access.space in ("local", "param", "const"):
        return None
    if isinstance(access.target, Allocation):
        return batch.launch.track(access.target).note_read(batch, access)
    return batch.shared_shadow


def shadow_for_writing(batch: Batch, access: Access) -> Shadow | None:
    if not batch.launch.races or access.space == "local":
        return None
    if isinstance(access.target, Allocation):
        return batch.launch.track(access.target).written(batch.clocks)
    return batch.shared_shadow


def check_read(batch: Batch, access: Access) -> None:
    """Fault if a byte was never written, or was written by a thread that is not ordered before this read."""
    if batch.launch.races and isinstance(access.target, Allocation):
        batch.launch.track(access.target)
    check_written(batch, access)
    shadow = shadow_for_reading(batch, access)
    if shadow is None:
        return
    index, count = _granules(access.offset, access.size, shadow.shift)
    who = np.repeat(batch.who[access.lanes], count) if count > 1 else batch.who[access.lanes]
    if access.readonly:
        if shadow.writers[index].any():
            raise _conflict(batch, access, shadow, int(np.flatnonzero(shadow.writers[index])[0]), count, index, _STALE)
        shadow.readonly[index] = True
    bad = shadow.unordered_writes(batch.clocks, index, who, access.atomic)
    if bad.any():
        raise _conflict(batch, access, shadow, int(np.flatnonzero(bad)[0]), count, index, _READS)
    shadow.read(batch.clocks, index, batch.clocks.entries(who, access.atomic), batch.clocks.seen)


def check_write(batch: Batch, access: Access, changes: Array | None) -> Shadow | None:
    """Fault if another thread's access is not ordered before. `changes`: which lanes change the memory (None: any may)."""
    shadow = shadow_for_writing(batch, access)
    if shadow is None:
        return None
    index, count = _granules(access.offset, access.size, shadow.shift)
    who = np.repeat(batch.who[access.lanes], count) if count > 1 else batch.who[access.lanes]
    bad = shadow.unordered_writes(batch.clocks, index, who, access.atomic)
    if changes is not None and bad.any():
        bad &= np.repeat(changes, count)
    if bad.any():
        raise _conflict(batch, access, shadow, int(np.flatnonzero(bad)[0]), count, index, _OVERWRITES)
    if shadow.readonly[index].any():
        place = int(np.flatnonzero(shadow.readonly[index])[0]) // count
        detail = f"thread {_NOT_READONLY}: {describe(batch, access, place, 0)}"
        raise batch.fault(RaceFault, access.inst, detail, int(access.lanes[place]))
    bad = shadow.unordered_reads(batch.clocks, index, who, access.atomic)
    if bad.any():
        raise _conflict(batch, access, shadow, int(np.flatnonzero(bad)[0]), count, index, _WRITES, True)
    return shadow


def note_write(batch: Batch, access: Access, shadow: Shadow) -> Array:
    """Marks the writes; for each lane: did another lane of the same instruction write last?"""
    index, count = _granules(access.offset, access.size, shadow.shift)
    who = np.repeat(batch.who[access.lanes], count) if count > 1 else batch.who[access.lanes]
    lost = shadow.write(batch.clocks, index, who, access.atomic)
    return lost.reshape(-1, count).any(1)


def check_written(batch: Batch, access: Access) -> None:
    if access.space in ("local", "param") or (isinstance(access.target, Allocation) and access.target.complete):
        return
    for part in range(access.parts):
        missing = access.target.unwritten(access.width, access.elements_of(part))
        if missing.any():
            place = int(np.flatnonzero(missing)[0])
            where = describe(batch, access, place, part * access.width)
            raise batch.fault(UninitialisedFault, access.inst, f"{where} was never written", int(access.lanes[place]))


def _conflict(batch: Batch, access: Access, shadow: Shadow, place: int, count: int, index: Array, what: str, reader: bool = False) -> Fault:
    lane = int(access.lanes[place // count])
    where = describe(batch, access, place // count, place % count << shadow.shift)
    granule = int(index[place])
    if reader:
        level, subject = shadow.reader(granule)
        other = _name(batch, level, subject)
    else:
        other = _name(batch, "thread", shadow.writer(granule))
    return batch.fault(RaceFault, access.inst, f"thread {what} {other}: {where}", lane)


def _name(batch: Batch, level: str, subject: int) -> str:
    if level == "thread":
        block, thread = batch.names(subject)
        return f"block {block}, thread {thread}"
    return level if level == "several blocks" else f"{level} {subject}"


def same_instruction(batch: Batch, access: Access, place: int) -> Fault:
    """Two threads of one instruction wrote different values to the same bytes."""
    where = describe(batch, access, place, 0)
    return batch.fault(RaceFault, access.inst, f"two threads write different values at once: {where}", int(access.lanes[place]))


def describe(batch: Batch, access: Access, place: int, extra: int) -> str:
    """Words for the bytes that one lane accesses."""
    offset = int(access.offset[place]) + extra
    if isinstance(access.target, Allocation):
        return f"{access.width} bytes at {access.target.base + offset:#x} (byte {offset} of its allocation of {access.target.size})"
    return f"{access.width} bytes at {access.space} address {offset % max(batch.launch.shared_stride, 1)}"
