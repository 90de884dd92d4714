"""ld, st, atom, red, fences: addresses to checked accesses of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ptx_simulator import floating
from ptx_simulator.batch import Batch, Mask, Read, Run
from ptx_simulator.faults import AsyncCopyFault, Fault, MisalignedFault, OutOfBoundsFault, PtxError
from ptx_simulator.floating import Array
from ptx_simulator.memory import LOCAL_WINDOW, SHARED_WINDOW, UNSIGNED
from ptx_simulator.operands import Names, address_reader, parts_of, raw, reader, store, writer
from ptx_simulator.parse import BITS, Address, Instruction, Register, Sink, Symbol
from ptx_simulator.tracking import Access, check_read, check_write, check_written, note_write, same_instruction

PARAMETER_WINDOW = 3 << 56
SPACES = ("global", "shared", "local", "param", "const")
STRONG = ("relaxed", "acquire", "release", "acq_rel", "volatile", "mmio")


def space_of(inst: Instruction) -> str:
    return next((part.split("::")[0] for part in inst.parts[1:] if part.split("::")[0] in SPACES), "generic")


def _by_space(address: Array) -> list[tuple[str, Array | None]]:
    """(space, which lanes) of generic addresses."""
    high = address >> 56
    found = []
    for number, space in enumerate(("global", "shared", "local", "param")):
        here = high == number
        if here.all():
            return [(space, None)]
        if here.any():
            found.append((space, here))
    return found


def resolve(batch: Batch, inst: Instruction, space: str, address: Array, lanes: Array, width: int, count: int) -> Iterator[Access]:
    """The accesses behind the addresses (int64, one per lane), checked for alignment and bounds."""
    size = width * count
    wrong = address & (size - 1)
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise batch.fault(MisalignedFault, inst, f"{size}-byte access at {space} address {int(address[place]):#x}", int(lanes[place]))
    if space == "generic":
        for found, here in _by_space(address):
            windowless = address & ((1 << 56) - 1)
            if here is None:
                yield from resolve(batch, inst, found, windowless, lanes, width, count)
            else:
                yield from resolve(batch, inst, found, windowless[here], lanes[here], width, count)
    elif space in ("global", "const"):
        yield from _resolve_global(batch, inst, address, lanes, width, count)
    else:
        yield _resolve_window(batch, inst, space, address, lanes, width, count)


def _resolve_window(batch: Batch, inst: Instruction, space: str, address: Array, lanes: Array, width: int, count: int) -> Access:
    launch = batch.launch
    limit = {"shared": launch.shared_size, "local": launch.local_size, "param": launch.parameters.size}[space]
    outside = (address < 0) | (address + width * count > limit)
    if outside.any():
        place = int(np.flatnonzero(outside)[0])
        what = f"{width * count} bytes at {space} address {int(address[place])} of {limit}"
        raise batch.fault(OutOfBoundsFault, inst, what, int(lanes[place]))
    if space == "param":
        return Access(inst, space, launch.parameters, address, lanes, width, count)
    if space == "local":
        return Access(inst, space, batch.local, address + lanes * launch.local_size, lanes, width, count)
    access = Access(inst, space, batch.shared, address + batch.shared_base[lanes], lanes, width, count)
    if batch.copies is not None:
        late = batch.copies.in_flight(access)
        if late is not None:
            what = f"shared address {int(address[late])} is the target of a cp.async that nobody waited for"
            raise batch.fault(AsyncCopyFault, inst, what, int(lanes[late]))
    return access


def _resolve_global(batch: Batch, inst: Instruction, address: Array, lanes: Array, width: int, count: int) -> Iterator[Access]:
    size = width * count
    while address.size:
        allocation = batch.launch.memory.find(int(address.min()))
        if allocation is None:
            raise _outside(batch, inst, address, lanes, int(address.argmin()), size)
        if int(address.max()) + size <= allocation.end:
            yield Access(inst, "global", allocation, address - allocation.base, lanes, width, count)
            return
        inside = address < allocation.end
        cut = inside & (address + size > allocation.end)
        if cut.any():
            raise _outside(batch, inst, address, lanes, int(np.flatnonzero(cut)[0]), size)
        yield Access(inst, "global", allocation, address[inside] - allocation.base, lanes[inside], width, count)
        address, lanes = address[~inside], lanes[~inside]


def _outside(batch: Batch, inst: Instruction, address: Array, lanes: Array, place: int, size: int) -> Fault:
    where = int(address[place])
    detail = f"{size} bytes at global address {where:#x}: {batch.launch.memory.describe(where)}"
    return batch.fault(OutOfBoundsFault, inst, detail, int(lanes[place]))


def addresses(batch: Batch, read: Read, mask: Mask) -> tuple[Array, Array]:
    """(lanes, address of each) of the lanes in a mask."""
    lanes = batch.active(mask)
    address = np.asarray(read(batch))
    if address.ndim == 0:
        return lanes, np.broadcast_to(address, lanes.shape)
    return lanes, address if mask is None else address[lanes]


def load(batch: Batch, inst: Instruction, space: str, address: Array, lanes: Array, width: int, count: int, **flags: bool) -> list[Array]:
    """The elements (unsigned, one array per vector part) at the addresses."""
    found: list[Array] = []
    for access in resolve(batch, inst, space, address, lanes, width, count):
        access = access._replace(**flags)
        check_read(batch, access)
        elements = access.target.elements(width)
        values = [elements[access.elements_of(part)] for part in range(count)]
        if access.lanes is lanes:
            return values
        if not found:
            found = [np.empty(len(lanes), UNSIGNED[width]) for _ in range(count)]
        here = np.searchsorted(lanes, access.lanes)
        for part, value in enumerate(values):
            found[part][here] = value
    return found or [np.empty(0, UNSIGNED[width]) for _ in range(count)]


def _is_parameter(inst: Instruction, names: Names, operand: int) -> bool:
    address = inst.operands[operand]
    return isinstance(address, Address) and isinstance(address.base, Symbol) and names.spaces.get(address.base.name) == "kernel"


def compile_load(inst: Instruction, names: Names) -> Run:
    space, kind = space_of(inst), inst.types[-1]
    width, targets = BITS[kind] // 8, parts_of(inst.operands[0])
    if _is_parameter(inst, names, 1):
        return _load_parameter(inst, names, kind)
    if space == "param":
        space = _spelled(inst, names, 1)
    read = address_reader(inst.operands[1], names, space != "shared")
    puts = [_lane_writer(target, kind) for target in targets]
    # Compilers load with a plain ld what a compare-and-swap on the same register then checks: that is no race.
    atomic, readonly = any(part in STRONG for part in inst.parts) or inst.operands[1] in names.swapped, "nc" in inst.parts

    def run(batch: Batch, mask: Mask) -> None:
        lanes, address = addresses(batch, read, mask)
        values = load(batch, inst, space, address, lanes, width, len(targets), atomic=atomic, readonly=readonly)
        for put, value in zip(puts, values, strict=True):
            put(batch, value, mask, lanes)
        if atomic and space in ("global", "generic"):
            _synchronize(batch, address, lanes, acquire=True, release=False)

    return run


def _spelled(inst: Instruction, names: Names, operand: int) -> str:
    """.param accesses are of the kernel's parameters or, for calls, of per-thread memory."""
    address = inst.operands[operand]
    if isinstance(address, Address) and isinstance(address.base, Symbol):
        return names.spaces.get(address.base.name, "generic")
    return "generic"


def _load_parameter(inst: Instruction, names: Names, kind: str) -> Run:
    address = inst.operands[1]
    assert isinstance(address, Address) and isinstance(address.base, Symbol)
    start, width = names.fixed[address.base.name] - PARAMETER_WINDOW + address.offset, BITS[kind] // 8
    puts = [writer(target, _memory_kind(kind)) for target in parts_of(inst.operands[0])]

    def run(batch: Batch, mask: Mask) -> None:
        for place, put in enumerate(puts):
            first = start + place * width
            put(batch, batch.launch.parameters.data[first : first + width].view(UNSIGNED[width])[0], mask)

    return run


def _memory_kind(kind: str) -> str:
    """Loads move bits; only the sign matters, for extension."""
    return kind if kind[0] == "s" and kind[1].isdigit() else f"b{BITS[kind]}"


def _lane_writer(operand: Any, kind: str) -> Any:
    """Writes values of active lanes only."""
    if isinstance(operand, Sink):
        return lambda batch, value, mask, lanes: None
    if not isinstance(operand, Register):
        raise PtxError(f"result {operand} is not a register")
    whole, target = writer(operand, _memory_kind(kind)), operand.index
    dtype, extend = UNSIGNED[operand.bits // 8], kind[0] == "s" and kind[1].isdigit()

    def put(batch: Batch, value: Array, mask: Mask, lanes: Array) -> None:
        if mask is None:
            whole(batch, value, None)
            return
        new = np.array(batch.broadcast(batch.registers[target]))
        if extend:
            value = value.view(f"i{value.dtype.itemsize}").astype(f"i{dtype().itemsize}").view(dtype)
        new[lanes] = value
        batch.registers[target] = new

    return put


def compile_store(inst: Instruction, names: Names) -> Run:
    space, kind = space_of(inst), inst.types[-1]
    if space == "param":
        space = _spelled(inst, names, 0)
    width, sources = BITS[kind] // 8, parts_of(inst.operands[1])
    read = address_reader(inst.operands[0], names, space != "shared")
    values = [raw(source, BITS[kind], names, kind in ("f32", "f64")) for source in sources]
    atomic, release = any(part in STRONG for part in inst.parts), "release" in inst.parts

    def run(batch: Batch, mask: Mask) -> None:
        lanes, address = addresses(batch, read, mask)
        given = [_taken(batch, value(batch), mask, lanes) for value in values]
        for access in resolve(batch, inst, space, address, lanes, width, len(values)):
            chosen = given if access.lanes is lanes else [value[np.searchsorted(lanes, access.lanes)] for value in given]
            put(batch, access._replace(atomic=atomic), chosen)
        if release:
            batch.clocks.fence(batch.who[lanes])
        if atomic and space in ("global", "generic"):
            _synchronize(batch, address, lanes, acquire=False, release=True)

    return run


def _taken(batch: Batch, value: Array, mask: Mask, lanes: Array) -> Array:
    value = batch.broadcast(value)
    return value if mask is None else value[lanes]


def put(batch: Batch, access: Access, values: list[Array]) -> None:
    """Stores the parts; faults on a race, except between equal values."""
    elements = access.target.elements(access.width)
    if access.space in ("const", "param"):
        raise batch.fault(OutOfBoundsFault, access.inst, f"{access.space} memory cannot be written", int(access.lanes[0]))
    changes = np.zeros(len(access.lanes), np.bool_)
    if batch.launch.races and access.space != "local":
        for part, value in enumerate(values):
            changes |= elements[access.elements_of(part)] != value
    shadow = check_write(batch, access, changes)
    for part, value in enumerate(values):
        elements[access.elements_of(part)] = value
        access.target.mark(access.width, access.elements_of(part))
    if shadow is None:
        return
    lost = note_write(batch, access, shadow)
    if lost.any() and not access.atomic:
        for part, value in enumerate(values):
            differs = np.flatnonzero(lost & (elements[access.elements_of(part)] != value))
            if differs.size:
                raise same_instruction(batch, access, int(differs[0]))


def _synchronize(batch: Batch, address: Array, lanes: Array, acquire: bool, release: bool) -> None:
    """In lane order: what each thread's operation sees of earlier releases, and what it releases after a fence."""
    clocks, sync = batch.clocks, batch.launch.sync
    fenced = clocks.fenced[lanes] > 0
    if not (sync and acquire) and not (release and fenced.any()):
        return
    for lane, where, releases in zip(lanes.tolist(), address.tolist(), fenced.tolist(), strict=True):
        if acquire and where in sync:
            clocks.acquire(int(batch.who[lane]), sync[where])
        if release and releases:
            clocks.release(int(batch.who[lane]), sync.setdefault(where, {}))


def compile_fence(inst: Instruction, names: Names) -> Run:
    wide = any(part in ("gl", "sys", "gpu", "cluster") for part in inst.parts)
    return lambda batch, mask: batch.clocks.fence(batch.who[batch.active(mask)]) if wide else None


def compile_cvta(inst: Instruction, names: Names) -> Run:
    """To and from generic addresses; those of parameters are generic already."""
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space_of(inst), 0)
    bits = BITS[inst.types[-1]]
    target, source = inst.operands[0], raw(inst.operands[1], bits, names)
    if not isinstance(target, Register):
        raise PtxError("cvta needs a register")
    write, dtype = store(target), UNSIGNED[bits // 8]
    step = dtype((-window if "to" in inst.parts else window) % (1 << bits))
    return lambda batch, mask: write(batch, source(batch) + step, mask)


_ATOMIC: dict[str, Any] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "exch": lambda old, new: new,
    "inc": lambda old, limit: np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1)),
    "dec": lambda old, limit: np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1)),
}  # fmt: skip


def _as_values(bits: Array, kind: str) -> Array:
    if kind in ("f16x2", "bf16x2"):
        return _as_values(bits.view(np.uint16), kind[:-2]).reshape(-1, 2)
    if kind == "bf16":
        return floating.bf16_to_f32(bits)
    if kind == "f16":
        return floating.f16_to_f32(bits)
    return bits.view({"f32": np.float32, "f64": np.float64}.get(kind) or f"{'i' if kind[0] == 's' else 'u'}{BITS[kind] // 8}")


def _as_bits(values: Array, kind: str) -> Array:
    if kind in ("f16x2", "bf16x2"):
        return np.ascontiguousarray(_as_bits(values, kind[:-2])).view(np.uint32).reshape(-1)
    if kind in ("f16", "bf16"):
        return (floating.f32_to_bf16 if kind == "bf16" else floating.f32_to_f16)(values)
    return np.asarray(values).view(UNSIGNED[BITS[kind] // 8])


def _ranks(index: Array) -> Array:
    """For each access: how many accesses of the same element come before it."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    rank = np.empty(len(index), np.int64)
    rank[order] = np.arange(len(index)) - np.repeat(first, np.diff(np.append(first, len(index))))
    return rank


def _update(elements: Array, index: Array, operation: str, kind: str, given: list[Array], wanted: bool) -> Array:
    """Applies the operation in lane order; the values before it."""
    old = elements[index]
    plain = kind not in ("f16", "bf16", "f16x2", "bf16x2")
    if operation == "add" and plain and not wanted:
        np.add.at(_as_values(elements, kind), index, _as_values(given[0], kind))
        return old
    rank = _ranks(index)
    for turn in range(int(rank.max()) + 1 if len(rank) else 0):
        now = rank == turn
        place, before = index[now], elements[index[now]]
        old[now] = before
        if operation == "cas":
            elements[place] = np.where(before == given[0][now], given[1][now], before)
        else:
            result = _ATOMIC[operation](_as_values(before, kind), _as_values(given[0][now], kind))
            elements[place] = _as_bits(result, kind)
    return old


def compile_atomic(inst: Instruction, names: Names) -> Run:
    """atom (with a result) and red (without)."""
    wanted = inst.name == "atom" and not isinstance(inst.operands[0], Sink)
    operands = inst.operands[1:] if inst.name == "atom" else inst.operands
    operation = next(part for part in inst.parts if part in _ATOMIC or part == "cas")
    space, kind = space_of(inst), inst.types[-1]
    width = BITS[kind] // 8
    read = address_reader(operands[0], names, space != "shared")
    values = [raw(operand, BITS[kind], names, kind in ("f32", "f64")) for operand in operands[1:]]
    result = _lane_writer(inst.operands[0], kind) if wanted else None
    always = "release" in inst.parts or "acq_rel" in inst.parts

    def run(batch: Batch, mask: Mask) -> None:
        lanes, address = addresses(batch, read, mask)
        given = [np.ascontiguousarray(_taken(batch, value(batch), mask, lanes)) for value in values]
        old = np.empty(len(lanes), UNSIGNED[width])
        for access in resolve(batch, inst, space, address, lanes, width, 1):
            here = slice(None) if access.lanes is lanes else np.searchsorted(lanes, access.lanes)
            old[here] = _atomic(batch, access._replace(atomic=True), operation, kind, [value[here] for value in given], wanted)
        if result is not None:
            result(batch, old, mask, lanes)
        if space in ("global", "generic"):
            if always:
                batch.clocks.fence(batch.who[lanes])
            _synchronize(batch, address, lanes, acquire=wanted, release=True)

    return run


def _atomic(batch: Batch, access: Access, operation: str, kind: str, given: list[Array], wanted: bool) -> Array:
    check_written(batch, access)
    shadow = check_write(batch, access, None)
    old = _update(access.target.elements(access.width), access.elements_of(), operation, kind, given, wanted)
    if shadow is not None:
        note_write(batch, access, shadow)
    return old


def compile_isspacep(inst: Instruction, names: Names) -> Run:
    number = {"global": 0, "shared": 1, "local": 2, "param": 3}[space_of(inst)]
    source, write = reader(inst.operands[1], "u64", names), writer(inst.operands[0], "pred")
    return lambda batch, mask: write(batch, (source(batch) >> np.uint64(56)) == np.uint64(number), mask)
