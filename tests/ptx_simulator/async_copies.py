"""cp.async: the data arrives when its thread waits for the group, not before (PTX ISA: cp.async, commit_group, wait_group)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ptx_simulator.accesses import addresses, load, resolve
from ptx_simulator.batch import Batch, Mask, Run
from ptx_simulator.faults import LaunchFault, PtxError
from ptx_simulator.floating import Array
from ptx_simulator.operands import Names, address_reader, raw
from ptx_simulator.parse import Immediate, Instruction
from ptx_simulator.tracking import Access, check_write, note_write


@dataclass
class _Copy:
    access: Access
    group: Array
    values: list[Array]

    def part(self, keep: Array) -> _Copy:
        access = self.access._replace(offset=self.access.offset[keep], lanes=self.access.lanes[keep])
        return replace(self, access=access, group=self.group[keep], values=[value[keep] for value in self.values])


class AsyncCopies:
    """Copies on their way into the shared memory of a batch."""

    def __init__(self, threads: int, shared_bytes: int) -> None:
        self.group = np.zeros(threads, np.int64)
        self.flying = np.zeros((shared_bytes >> 2) + 8, np.bool_)
        self.copies: list[_Copy] = []

    def in_flight(self, access: Access) -> int | None:
        """The first lane whose access touches the target of a copy on its way."""
        if not self.copies:
            return None
        for part in range(max(1, access.size >> 2)):
            touched = self.flying[(access.offset >> 2) + part]
            if touched.any():
                return int(np.flatnonzero(touched)[0])
        return None

    def start(self, batch: Batch, access: Access, values: list[Array]) -> None:
        check_write(batch, access, None)
        self.copies.append(_Copy(access, self.group[access.lanes].copy(), values))
        for part in range(access.parts):
            self.flying[access.elements_of(part)] = True

    def wait(self, batch: Batch, lanes: Array, pending: int) -> None:
        """All but the newest `pending` groups of these threads arrive."""
        limit = np.full(len(self.group), -1)
        limit[lanes] = self.group[lanes] - pending
        remaining = []
        for copy in self.copies:
            done = copy.group < limit[copy.access.lanes]
            if done.any():
                self._arrive(batch, copy.part(done))
            if not done.all():
                remaining.append(copy.part(~done))
        self.copies = remaining

    def _arrive(self, batch: Batch, copy: _Copy) -> None:
        access = copy.access
        shadow = check_write(batch, access, None)
        elements = access.target.elements(access.width)
        for part, value in enumerate(copy.values):
            self.flying[access.elements_of(part)] = False
            elements[access.elements_of(part)] = value
            access.target.mark(access.width, access.elements_of(part))
        if shadow is not None:
            note_write(batch, access, shadow)


def _source(batch: Batch, inst: Instruction, address: Array, lanes: Array, size: int, wanted: Array) -> list[Array]:
    """`size` bytes per lane as 32-bit parts; only the first `wanted` bytes are read, the rest is zero."""
    data = np.zeros((len(lanes), size), np.uint8)
    for length in np.unique(wanted):
        here = np.flatnonzero(wanted == length)
        if length == size:
            values = load(batch, inst, "global", address[here], lanes[here], 4, size // 4)
            data[here] = np.ascontiguousarray(np.stack(values, 1)).view(np.uint8)
        else:
            for byte in range(int(length)):
                data[here, byte] = load(batch, inst, "global", address[here] + byte, lanes[here], 1, 1)[0]
    return list(np.ascontiguousarray(data.view(np.uint32).T))


def compile_async(inst: Instruction, names: Names) -> Run:
    """cp.async, cp.async.commit_group, cp.async.wait_group, cp.async.wait_all."""
    if "commit_group" in inst.parts:
        return _commit
    if "wait_all" in inst.parts:
        return _wait_all
    if "wait_group" in inst.parts:
        count = inst.operands[0]
        if not isinstance(count, Immediate):
            raise PtxError("cp.async.wait_group needs a constant")
        pending = int(count.text, 0)
        return lambda batch, mask: _copies(batch).wait(batch, batch.active(mask), pending)
    if "bulk" in inst.parts or "mbarrier" in inst.parts:
        raise PtxError(f"{'.'.join(inst.parts)} is not supported")
    return _compile_copy(inst, names)


def _compile_copy(inst: Instruction, names: Names) -> Run:
    target = address_reader(inst.operands[0], names, False)
    source = address_reader(inst.operands[1], names, True)
    size_operand = inst.operands[2]
    if not isinstance(size_operand, Immediate):
        raise PtxError("cp.async needs a constant size")
    size = int(size_operand.text, 0)
    if size not in (4, 8, 16) or ("cg" in inst.parts and size != 16):
        raise PtxError(f"cp.async of {size} bytes")
    length = raw(inst.operands[3], 32, names) if len(inst.operands) > 3 else None

    def run(batch: Batch, mask: Mask) -> None:
        lanes, to = addresses(batch, target, mask)
        _, origin = addresses(batch, source, mask)
        wanted = np.full(len(lanes), size)
        if length is not None:
            given = batch.broadcast(length(batch))[lanes].astype(np.int64)
            if (given > size).any():
                lane = int(lanes[np.flatnonzero(given > size)[0]])
                raise batch.fault(LaunchFault, inst, f"cp.async copies more than {size} bytes", lane)
            wanted = given
        values = _source(batch, inst, origin, lanes, size, wanted)
        for access in resolve(batch, inst, "shared", to, lanes, size, 1):
            _copies(batch).start(batch, access._replace(width=4, parts=size // 4), values)

    return run


def _copies(batch: Batch) -> AsyncCopies:
    if batch.copies is None:
        batch.copies = AsyncCopies(batch.count, batch.shared.size)
    return batch.copies


def _commit(batch: Batch, mask: Mask) -> None:
    copies = _copies(batch)
    copies.group[batch.active(mask)] += 1


def _wait_all(batch: Batch, mask: Mask) -> None:
    _commit(batch, mask)
    _copies(batch).wait(batch, batch.active(mask), 0)
