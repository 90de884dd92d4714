"""Instructions by which the lanes of a warp talk: shfl, vote, match, redux, elect, activemask, bar.warp.sync."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx_simulator.arithmetic import INTEGER
from ptx_simulator.batch import Batch, Mask, Read, Run
from ptx_simulator.faults import LaneFault, PtxError
from ptx_simulator.floating import Array
from ptx_simulator.operands import Names, predicate, raw, reader, results, writer
from ptx_simulator.parse import BITS, Instruction, Operand

LANE = np.arange(32, dtype=np.int64)


def first_lane(batch: Batch, wrong: Array) -> int:
    """The lane number of the first True of (warps, 32)."""
    warp, column = (int(part[0]) for part in np.nonzero(wrong))
    block, place = divmod(warp, batch.warps)
    return min(block * batch.launch.threads + place * 32 + column, batch.count - 1)


def _members(batch: Batch, inst: Instruction, read: Read, active: Array) -> Array:
    """(warps, 32) member masks of the active lanes. LaneFault where a lane does not name itself."""
    masks = batch.to_warps(read(batch)).astype(np.int64)
    missing = active & ((masks >> LANE) & 1 == 0)
    if missing.any():
        raise batch.fault(LaneFault, inst, "the thread's own lane is not in its member mask", first_lane(batch, missing))
    return masks


def _peers(active: Array, masks: Array) -> Array:
    """(warps, 32, 32) bool: does lane j take part in what lane i does?"""
    return active[:, None, :] & ((masks[:, :, None] >> LANE) & 1 == 1)


def compile_shuffle(inst: Instruction, names: Names) -> Run:
    mode = next(part for part in inst.parts if part in ("up", "down", "bfly", "idx"))
    targets = results(inst)
    write = writer(targets[0], "b32")
    write_found = writer(targets[1], "pred") if len(targets) > 1 else None
    value, lane, clamp, member = (raw(operand, 32, names) for operand in inst.operands[1:5])

    def run(batch: Batch, mask: Mask) -> None:
        active = batch.mask_warps(mask)
        _members(batch, inst, member, active)
        source, found = _shuffle_source(mode, batch.to_warps(lane(batch)).astype(np.int64), batch.to_warps(clamp(batch)).astype(np.int64))
        missing = active & found & ~np.take_along_axis(active, source, 1)
        if missing.any():
            raise batch.fault(LaneFault, inst, "reads the value of a lane that does not take part", first_lane(batch, missing))
        taken = np.take_along_axis(batch.to_warps(value(batch)), source, 1)
        write(batch, batch.from_warps(taken), mask)
        if write_found is not None:
            write_found(batch, batch.from_warps(found), mask)

    return run


def _shuffle_source(mode: str, lane: Array, clamp: Array) -> tuple[Array, Array]:
    """(source lane, was it in range) per lane (PTX ISA: shfl.sync)."""
    step, segment, limit = lane & 31, (clamp >> 8) & 31, clamp & 31
    highest, lowest = (LANE & segment) | (limit & ~segment), LANE & segment
    source = {"up": LANE - step, "down": LANE + step, "bfly": LANE ^ step, "idx": lowest | (step & ~segment)}[mode]
    found = source >= highest if mode == "up" else source <= highest
    return np.where(found, source, LANE) & 31, found


def compile_vote(inst: Instruction, names: Names) -> Run:
    mode = next(part for part in inst.parts if part in ("all", "any", "uni", "ballot"))
    value, member = predicate(inst.operands[1], names), raw(inst.operands[2], 32, names)
    write = writer(inst.operands[0], "b32" if mode == "ballot" else "pred")

    def run(batch: Batch, mask: Mask) -> None:
        active = batch.mask_warps(mask)
        peers = _peers(active, _members(batch, inst, member, active))
        yes = peers & batch.to_warps(value(batch))[:, None, :]
        count, votes = peers.sum(2), yes.sum(2)
        if mode == "ballot":
            result: Array = (yes.astype(np.int64) << LANE).sum(2).astype(np.uint32)
        else:
            result = {"all": votes == count, "any": votes > 0, "uni": (votes == count) | (votes == 0)}[mode]
        write(batch, batch.from_warps(result), mask)

    return run


def compile_match(inst: Instruction, names: Names) -> Run:
    bits = BITS[inst.types[-1]]
    value, member = raw(inst.operands[1], bits, names), raw(inst.operands[2], 32, names)
    targets = results(inst)
    write = writer(targets[0], "b32")
    write_same = writer(targets[1], "pred") if len(targets) > 1 else None

    def run(batch: Batch, mask: Mask) -> None:
        active = batch.mask_warps(mask)
        peers = _peers(active, _members(batch, inst, member, active))
        values = batch.to_warps(value(batch))
        equal = peers & (values[:, :, None] == values[:, None, :])
        found = (equal.astype(np.int64) << LANE).sum(2)
        if "all" in inst.parts:
            same = (equal == peers).all(2)
            found = np.where(same, found, 0)
            if write_same is not None:
                write_same(batch, batch.from_warps(same), mask)
        write(batch, batch.from_warps(found.astype(np.uint32)), mask)

    return run


_REDUCE: dict[str, tuple[Any, Callable[[Any], int]]] = {
    "add": (np.add, lambda dtype: 0), "xor": (np.bitwise_xor, lambda dtype: 0), "or": (np.bitwise_or, lambda dtype: 0),
    "and": (np.bitwise_and, lambda dtype: -1 if np.iinfo(dtype).min else np.iinfo(dtype).max),
    "min": (np.minimum, lambda dtype: int(np.iinfo(dtype).max)), "max": (np.maximum, lambda dtype: int(np.iinfo(dtype).min)),
}  # fmt: skip


def compile_redux(inst: Instruction, names: Names) -> Run:
    kind = inst.types[-1]
    dtype = INTEGER[kind]
    operation, neutral = next(_REDUCE[part] for part in inst.parts if part in _REDUCE)
    value, member, write = reader(inst.operands[1], kind, names), raw(inst.operands[2], 32, names), writer(inst.operands[0], kind)

    def run(batch: Batch, mask: Mask) -> None:
        active = batch.mask_warps(mask)
        peers = _peers(active, _members(batch, inst, member, active))
        values = np.where(peers, batch.to_warps(value(batch))[:, None, :], dtype(neutral(dtype)))
        write(batch, batch.from_warps(operation.reduce(values, 2, dtype=dtype)), mask)

    return run


def compile_elect(inst: Instruction, names: Names) -> Run:
    targets: list[Operand] = results(inst)
    write, write_leader = writer(targets[0], "b32"), writer(targets[1], "pred")

    def run(batch: Batch, mask: Mask) -> None:
        leader = np.argmax(batch.mask_warps(mask), 1)[:, None]
        write(batch, batch.from_warps(np.broadcast_to(leader, (len(leader), 32)).astype(np.uint32)), mask)
        write_leader(batch, batch.from_warps(leader == LANE), mask)

    return run


def compile_activemask(inst: Instruction, names: Names) -> Run:
    write = writer(inst.operands[0], "b32")

    def run(batch: Batch, mask: Mask) -> None:
        active = batch.mask_warps(mask)
        ballot = (active.astype(np.int64) << LANE).sum(1, keepdims=True).astype(np.uint32)
        write(batch, batch.from_warps(np.broadcast_to(ballot, active.shape)), mask)

    return run


def compile_warp_barrier(inst: Instruction, names: Names) -> Run:
    member = raw(inst.operands[0], 32, names)

    def run(batch: Batch, mask: Mask) -> None:
        active = batch.mask_warps(mask)
        _members(batch, inst, member, active)
        batch.clocks.warp_barrier(active.any(1).reshape(batch.blocks, batch.warps))

    return run


def full_warps(batch: Batch, inst: Instruction, mask: Mask) -> Array:
    """Numbers of the warps that run; LaneFault unless all their lanes do (mma, ldmatrix)."""
    active = batch.mask_warps(mask)
    partial = active.any(1) & ~active.all(1)
    if partial.any():
        wrong = active & partial[:, None]
        raise batch.fault(LaneFault, inst, f"{inst.name} needs all 32 lanes of the warp", first_lane(batch, wrong))
    running = np.flatnonzero(active[:, 0])
    if batch.launch.threads % 32:
        raise PtxError(f"{inst.name} in a block that is not a multiple of 32 threads")
    return running
