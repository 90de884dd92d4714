"""Operands as functions: readers give the value in all lanes (a numpy scalar where it is the same), writers store it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ptx_simulator import floating
from ptx_simulator.arithmetic import FLOATS, INTEGER, UNSIGNED
from ptx_simulator.batch import Batch, Mask, Read, Write
from ptx_simulator.faults import PtxError
from ptx_simulator.floating import Array
from ptx_simulator.parse import BITS, Address, Immediate, Instruction, Negated, Operand, Pair, Register, Sink, Special, Symbol, Vector


class Names:
    """Addresses of a kernel's variables: what `mov` of their name gives."""

    def __init__(self, fixed: dict[str, int]) -> None:
        self.fixed = fixed
        self.spaces: dict[str, str] = {}
        self.swapped: set[Operand] = set()  # addresses of compare-and-swap instructions

    def address(self, symbol: Symbol) -> Callable[[Batch], int]:
        if symbol.name in self.fixed:
            value = self.fixed[symbol.name] + symbol.offset
            return lambda batch: value

        def late(batch: Batch) -> int:
            if symbol.name not in batch.launch.symbols:
                raise PtxError(f"{symbol.name} is not declared")
            return batch.launch.symbols[symbol.name] + symbol.offset

        return late


def _immediate(text: str, bits: int, real: bool) -> Any:
    unsigned: Any = UNSIGNED[bits]
    if re.match(r"0[fF][0-9a-fA-F]{8}$", text):
        return np.uint32(int(text[2:], 16))
    if re.match(r"0[dD][0-9a-fA-F]{16}$", text):
        return np.uint64(int(text[2:], 16))
    if real or "." in text:
        dtype: Any = {32: np.float32, 64: np.float64, 16: np.float16}[bits]
        return dtype(float(text)).view(unsigned)
    return unsigned(int(text.rstrip("U"), 0) % (1 << bits))


def raw(operand: Operand, bits: int, names: Names, real: bool = False) -> Read:
    """The operand's bits as an unsigned integer of `bits` bits (registers are cut or zero-extended)."""
    unsigned: Any = UNSIGNED.get(bits)
    if isinstance(operand, Register):
        index = operand.index
        if operand.bits == bits:
            return lambda batch: batch.registers[index]
        return lambda batch: batch.registers[index].astype(unsigned)
    if isinstance(operand, Immediate):
        value = _immediate(operand.text, bits, real)
        return lambda batch: value
    if isinstance(operand, Special):
        name = operand.name
        return lambda batch: batch.special(name).astype(unsigned)
    if isinstance(operand, Symbol):
        address = names.address(operand)
        return lambda batch: unsigned(address(batch))
    if isinstance(operand, Vector):
        width = bits // len(operand.parts)
        parts = [raw(part, width, names) for part in operand.parts]

        def packed(batch: Batch) -> Array:
            total = parts[0](batch).astype(unsigned)
            for place, part in enumerate(parts[1:], 1):
                total = total | (part(batch).astype(unsigned) << unsigned(place * width))
            return total

        return packed
    raise PtxError(f"operand {operand} cannot be read")


def predicate(operand: Operand, names: Names) -> Read:
    if isinstance(operand, Negated):
        inner = predicate(operand.operand, names)
        return lambda batch: ~inner(batch)
    if isinstance(operand, Register):
        index = operand.index
        return lambda batch: batch.registers[index]
    if isinstance(operand, Immediate):
        value = np.bool_(int(operand.text, 0) != 0)
        return lambda batch: value
    raise PtxError(f"operand {operand} is not a predicate")


def _halves(read: Read, convert: Callable[[Array], Array]) -> Read:
    def function(batch: Batch) -> Array:
        value = read(batch)
        low = (value & np.uint32(0xFFFF)).astype(np.uint16)
        high = (value >> np.uint32(16)).astype(np.uint16)
        return convert(np.stack([low, high]).reshape(2, -1))

    return function


def reader(operand: Operand, kind: str, names: Names) -> Read:
    """The operand as a value of PTX type `kind` (see arithmetic for how f16 and the packed types come)."""
    if kind == "pred":
        return predicate(operand, names)
    if kind == "carry":
        return lambda batch: batch.carry
    if kind == "constant":
        if not isinstance(operand, Immediate):
            raise PtxError("this operand must be a constant")
        value = int(operand.text, 0)
        return lambda batch: value
    bits = BITS[kind]
    read = raw(operand, bits, names, kind in FLOATS)
    if kind in ("f16x2", "bf16x2"):
        return _halves(read, floating.f16_to_f32 if kind == "f16x2" else floating.bf16_to_f32)
    if kind in ("f16", "bf16"):
        convert = floating.f16_to_f32 if kind == "f16" else floating.bf16_to_f32
        return lambda batch: convert(read(batch))
    if kind in ("f32", "f64") or kind[0] == "s":
        dtype = {"f32": np.float32, "f64": np.float64}.get(kind) or INTEGER[kind]
        return lambda batch: read(batch).view(dtype)
    return read


def _to_bits(kind: str) -> Callable[[Array], Array]:
    """From a value of type `kind` to its unsigned bits."""
    if kind in ("f16", "bf16"):
        return floating.f32_to_f16 if kind == "f16" else floating.f32_to_bf16
    if kind in ("f16x2", "bf16x2"):
        short = floating.f32_to_f16 if kind == "f16x2" else floating.f32_to_bf16

        def pack(value: Array) -> Array:
            halves = short(value).astype(np.uint32)
            result = halves[0] | (halves[1] << np.uint32(16))
            return result[0] if result.size == 1 else result

        return pack
    unsigned = UNSIGNED[BITS[kind]]
    return lambda value: value.view(unsigned)


def store(register: Register) -> Write:
    """Puts bits of the register's own width into it."""
    index = register.index

    def write(batch: Batch, value: Array, mask: Mask) -> None:
        if mask is None:
            batch.registers[index] = value
        else:
            batch.registers[index] = np.where(mask, value, batch.registers[index])

    return write


def writer(operand: Operand, kind: str) -> Write:
    """Stores a value of type `kind`; narrower values are extended by their sign or by zeros."""
    if isinstance(operand, Sink) or kind == "nothing":
        return lambda batch, value, mask: None
    if kind == "carry":
        return _write_carry
    if isinstance(operand, Vector):
        return _unpack(operand, kind)
    if not isinstance(operand, Register):
        raise PtxError(f"result {operand} is not a register")
    if kind == "pred":
        return store(operand)
    put, convert, bits = store(operand), _to_bits(kind), BITS[kind]
    if operand.bits == bits:
        return lambda batch, value, mask: put(batch, convert(value), mask)
    target: Any = UNSIGNED[operand.bits]
    if operand.bits > bits and kind[0] == "s":
        signed, narrow = INTEGER[f"s{operand.bits}"], INTEGER[kind]
        return lambda batch, value, mask: put(batch, value.view(narrow).astype(signed).view(target), mask)
    return lambda batch, value, mask: put(batch, convert(value).astype(target), mask)


def _write_carry(batch: Batch, value: Array, mask: Mask) -> None:
    batch.carry = value if mask is None else np.where(mask, value, batch.carry)


def _unpack(operand: Vector, kind: str) -> Write:
    bits = BITS[kind]
    width = bits // len(operand.parts)
    whole, part_type = UNSIGNED[bits], UNSIGNED[width]
    parts = [writer(part, f"b{width}") for part in operand.parts]

    def write(batch: Batch, value: Array, mask: Mask) -> None:
        value = value.view(whole)
        for place, part in enumerate(parts):
            part(batch, (value >> whole(place * width)).astype(part_type), mask)

    return write


def results(inst: Instruction) -> list[Operand]:
    """The result operands: one, or the two of `d|p`."""
    first = inst.operands[0]
    return [first.first, first.second] if isinstance(first, Pair) else [first]


def parts_of(operand: Operand) -> tuple[Operand, ...]:
    return operand.parts if isinstance(operand, Vector) else (operand,)


def address_reader(operand: Operand, names: Names, wide: bool) -> Read:
    """The address in an `[...]` operand as int64 (a scalar where it is the same in all lanes)."""
    if not isinstance(operand, Address):
        raise PtxError(f"operand {operand} is not an address")
    base, offset = operand.base, operand.offset
    if isinstance(base, Symbol):
        address = names.address(base)
        return lambda batch: np.int64(address(batch) + offset)
    bits = base.bits if isinstance(base, Register) else (64 if wide else 32)
    read = raw(base, bits, names)
    step = np.int64(offset)
    return lambda batch: read(batch).astype(np.int64) + step
