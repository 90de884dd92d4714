"""Runs a batch of blocks: which code next, for which lanes; divergence, reconvergence, barriers, deadlock.

Lanes that wait at the same place form one mask; the place that comes first in the text runs first, so that lanes meet
again behind a branch. Instructions that need several lanes wait until those lanes are there.
"""

from __future__ import annotations

import numpy as np

from ptx_simulator.batch import Batch, Mask
from ptx_simulator.faults import BarrierFault, Fault, HangFault, PtxError
from ptx_simulator.floating import Array
from ptx_simulator.operands import predicate, raw, writer
from ptx_simulator.parse import Instruction
from ptx_simulator.program import Node, Program

_FAIR = 256


class Scheduler:
    def __init__(self, program: Program, batch: Batch) -> None:
        self.program, self.batch = program, batch
        self.nodes = program.nodes
        self.pending: dict[int, Mask] = {0: None}
        self.waiting: dict[int, dict[int, Array]] = {}
        self.arrived: dict[int, Array] = {}
        self.votes: Array = np.zeros(batch.count, np.bool_)
        self.turns = 0
        self.last_run: dict[int, int] = {}

    def run(self) -> None:
        """Until all threads have exited. Faults as the instructions find them; HangFault if nothing can go on."""
        while self.pending:
            number, mask = self._choose()
            node = self.nodes[number]
            self._charge(node, mask)
            for op in node.ops:
                op(self.batch, mask)
            self._leave(number, node, mask)
        if any(self.waiting.values()):
            raise self._deadlock()

    def _charge(self, node: Node, mask: Mask) -> None:
        launch = self.batch.launch
        launch.steps += node.steps
        if launch.steps > launch.budget:
            inst = node.first
            assert inst is not None
            detail = f"more than {launch.budget} instructions of one thread after another; threads are still here"
            raise self.batch.fault(HangFault, inst, detail, int(self.batch.active(mask)[0]))

    def _choose(self) -> tuple[int, Mask]:
        """The next place and its lanes: plain code in the order of the text, then code whose lanes are all there."""
        self.turns += 1
        order = sorted(self.pending)
        if len(order) > 1 and self.turns % _FAIR == 0:
            order.sort(key=lambda number: self.last_run.get(number, 0))
        else:
            order.sort(key=lambda number: self.nodes[number].sync is not None)
        for number in order:
            mask, rest = self._ready(number)
            if mask is None or mask.any():
                self.last_run[number] = self.turns
                if rest is None:
                    del self.pending[number]
                else:
                    self.pending[number] = rest
                return number, mask
        raise self._missing_lanes(order[0])

    def _ready(self, number: int) -> tuple[Mask, Mask]:
        """(lanes that can run, lanes that must wait) at a place."""
        node, mask = self.nodes[number], self.pending[number]
        if node.sync is None:
            return mask, None
        batch = self.batch
        active = batch.mask_warps(mask)
        members = (batch.to_warps(node.sync(batch)).astype(np.int64)[:, :, None] >> np.arange(32)) & 1 == 1
        live = batch.to_warps(~batch.exited)
        missing = active[:, :, None] & members & live[:, None, :] & ~active[:, None, :]
        incomplete = missing.any((1, 2))
        if not incomplete.any():
            return mask, None
        wait = batch.from_warps(active & incomplete[:, None])
        return batch.from_warps(active & ~incomplete[:, None]), wait

    def _missing_lanes(self, number: int) -> Fault:
        inst = self.nodes[number].sync_inst
        assert inst is not None
        lane = int(self.batch.active(self.pending[number])[0])
        return self.batch.fault(HangFault, inst, f"waits for lanes of its warp that never come{self._elsewhere()}", lane)

    def _elsewhere(self) -> str:
        """Where the other threads wait."""
        places = sorted({f"line {inst.line}" for inst in self._waiting_instructions()})
        return f" (others wait at {', '.join(places)})" if places else ""

    def _waiting_instructions(self) -> list[Instruction]:
        numbers = [number for entry in self.waiting.values() for number in entry] + list(self.pending)
        return [inst for number in numbers if (inst := self.nodes[number].first) is not None]

    def _deadlock(self) -> Fault:
        number, mask = next((number, mask) for entry in self.waiting.values() for number, mask in entry.items())
        inst = self.nodes[number].control
        assert inst is not None
        lane = int(np.flatnonzero(mask)[0])
        return self.batch.fault(HangFault, inst, f"threads wait at a barrier that the others never reach{self._elsewhere()}", lane)

    def _leave(self, number: int, node: Node, mask: Mask) -> None:
        inst = node.control
        if inst is None:
            self._go(number + 1, mask)
            return
        taken, stay = self._split(node, mask)
        if stay is None or stay.any():
            self._go(number + 1, stay)
        if taken is not None and not taken.any():
            return
        if inst.name == "bra":
            self._go(node.targets[0], taken)
        elif inst.name == "brx":
            self._indexed(node, taken)
        elif inst.name in ("ret", "exit"):
            self._exit(taken)
        else:
            self._barrier(number, node, inst, taken)

    def _split(self, node: Node, mask: Mask) -> tuple[Mask, Mask]:
        """Lanes that follow the control instruction, lanes that go on behind it (an empty mask: none)."""
        nobody = np.zeros(1, np.bool_)
        if node.guard is None:
            return mask, nobody
        condition = node.guard(self.batch)
        if not getattr(condition, "ndim", 0):
            return (mask, nobody) if condition else (nobody, mask)
        yes = condition if mask is None else condition & mask
        no = ~condition if mask is None else ~condition & mask
        return yes, no

    def _go(self, number: int, mask: Mask) -> None:
        if number >= len(self.nodes):
            self._exit(mask)
            return
        if number in self.pending:
            there = self.pending[number]
            mask = None if mask is None or there is None else mask | there
        self.pending[number] = None if mask is None or mask.all() else mask

    def _indexed(self, node: Node, mask: Mask) -> None:
        assert node.index is not None
        index = self.batch.broadcast(node.index(self.batch))
        lanes = np.ones(self.batch.count, np.bool_) if mask is None else mask
        for value in np.unique(index[lanes]):
            self._go(node.targets[int(value)], lanes & (index == value))

    def _exit(self, mask: Mask) -> None:
        self.batch.exited |= True if mask is None else mask
        for identity in list(self.waiting):
            self._release(identity)

    def _barrier(self, number: int, node: Node, inst: Instruction, mask: Mask) -> None:
        batch = self.batch
        lanes = np.ones(batch.count, np.bool_) if mask is None else mask
        identity = batch.broadcast(node.index(batch) if node.index else np.uint32(0))
        if "red" in inst.parts:
            value = batch.broadcast(predicate(inst.operands[-1], self.program.names)(batch))
            self.votes = np.where(lanes, value, self.votes)
        for value in np.unique(identity[lanes]):
            here = lanes & (identity == value)
            if "arrive" in inst.parts:
                self.arrived[int(value)] = self.arrived.get(int(value), np.zeros(batch.count, np.bool_)) | here
                self.waiting.setdefault(int(value), {})
                self._go(number + 1, here)
            else:
                places = self.waiting.setdefault(int(value), {})
                places[number] = places.get(number, np.zeros(batch.count, np.bool_)) | here
            self._release(int(value))

    def _counts(self, lanes: Array) -> Array:
        return lanes.reshape(self.batch.blocks, -1).sum(1)

    def _expected(self, inst: Instruction) -> Array:
        """Threads per block that the barrier waits for."""
        given = [operand for operand in inst.operands[: None if "red" not in inst.parts else -1]]
        first = 1 if "red" in inst.parts else 0
        if len(given) > first + 1:
            count = raw(given[first + 1], 32, self.program.names)(self.batch)
            return np.full(self.batch.blocks, int(np.asarray(count).max()))
        return self._counts(~self.batch.exited)

    def _release(self, identity: int) -> None:
        """Lets the blocks go on whose threads have all come."""
        places = self.waiting[identity]
        if not places:
            return
        waiting = np.logical_or.reduce(list(places.values()))
        arrived = self.arrived.get(identity, np.zeros(self.batch.count, np.bool_))
        inst = self.nodes[next(iter(places))].control
        assert inst is not None
        together = self._counts(waiting) + self._counts(arrived)
        done = (together >= self._expected(inst)) & (self._counts(waiting) > 0)
        if not done.any():
            return
        threads = np.repeat(done, self.batch.launch.threads)
        self._check_convergence(places, threads, inst)
        self._join_clocks(waiting & threads, arrived & threads)
        if identity in self.arrived:
            self.arrived[identity] = arrived & ~threads
        for number in list(places):
            gone = places[number] & threads
            if gone.any():
                self._finish(number, gone)
                places[number] = places[number] & ~threads
                if not places[number].any():
                    del places[number]

    def _check_convergence(self, places: dict[int, Array], threads: Array, inst: Instruction) -> None:
        """All threads of a block (of a warp, if a thread count is given) must stand at the same barrier."""
        if len(places) == 1 and not np.any(self.batch.exited):
            return
        counted = len(inst.operands) > (2 if "red" in inst.parts else 1)
        width = 32 if counted else self.batch.warps * 32
        seen = None
        for number, mask in places.items():
            grouped = self.batch.to_warps(mask & threads).reshape(-1, width).any(1)
            both = grouped if seen is None else grouped & seen
            if seen is not None and both.any():
                group = int(np.flatnonzero(both)[0])
                lane = int(np.flatnonzero(self.batch.to_warps(mask & threads).reshape(-1, width)[group])[0])
                control = self.nodes[number].control
                assert control is not None
                others = sorted(other.line for place in places if place != number and (other := self.nodes[place].control))
                start = group * width // (self.batch.warps * 32) * self.batch.launch.threads + group * width % (self.batch.warps * 32)
                detail = f"threads of one {'warp' if counted else 'block'} wait at different barriers (lines {others} and {control.line})"
                raise self.batch.fault(BarrierFault, control, detail, start + lane)
            seen = grouped if seen is None else grouped | seen

    def _join_clocks(self, waiting: Array, arrived: Array) -> None:
        batch = self.batch
        shape = (batch.blocks, batch.warps)
        warps = batch.to_warps(waiting | arrived).any(1).reshape(shape)
        only = batch.to_warps(waiting).any(1).reshape(shape)
        batch.clocks.barrier(warps, ~only if arrived.any() else None)

    def _finish(self, number: int, mask: Array) -> None:
        inst = self.nodes[number].control
        assert inst is not None
        if "red" in inst.parts:
            self._reduce(inst, mask)
        self._go(number + 1, mask)

    def _reduce(self, inst: Instruction, mask: Array) -> None:
        counts = self._counts(self.votes & mask)
        present = self._counts(mask)
        if "popc" in inst.parts:
            result, kind = counts.astype(np.uint32), "u32"
        elif "and" in inst.parts or "or" in inst.parts:
            result, kind = (counts == present if "and" in inst.parts else counts > 0), "pred"
        else:
            raise PtxError(f"{'.'.join(inst.parts)} is not supported")
        writer(inst.operands[0], kind)(self.batch, np.repeat(result, self.batch.launch.threads), mask)
