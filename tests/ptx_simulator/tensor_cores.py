"""mma.sync, ldmatrix, stmatrix: fragments as the PTX ISA lays them out (section "Matrix fragments for mma")."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ptx_simulator import floating
from ptx_simulator.accesses import load, put, resolve
from ptx_simulator.batch import Batch, Mask, Read, Run
from ptx_simulator.faults import PtxError
from ptx_simulator.floating import Array
from ptx_simulator.operands import Names, address_reader, parts_of, raw, store
from ptx_simulator.parse import BITS, Instruction, Register
from ptx_simulator.warps import full_warps

GROUP, MEMBER = np.arange(32) >> 2, np.arange(32) & 3
PACKED = {"f16": 2, "bf16": 2, "tf32": 1, "s8": 4, "u8": 4, "e4m3": 4, "e5m2": 4, "f64": 1}
SHAPES = {
    ("m16n8k8", "f16"), ("m16n8k16", "f16"), ("m16n8k8", "bf16"), ("m16n8k16", "bf16"), ("m16n8k4", "tf32"), ("m16n8k8", "tf32"),
    ("m16n8k16", "s8"), ("m16n8k32", "s8"), ("m8n8k16", "s8"), ("m16n8k16", "u8"), ("m16n8k32", "u8"), ("m8n8k16", "u8"),
    ("m16n8k32", "e4m3"), ("m16n8k32", "e5m2"), ("m8n8k4", "f64"),
}  # fmt: skip


def _elements(bits: Array, kind: str) -> Array:
    """(warps, 32) register bits as (warps, 32, elements per register) numbers."""
    bits = np.ascontiguousarray(bits)
    shape = (*bits.shape, PACKED[kind])
    if kind == "f64":
        return bits.view(np.float64).reshape(shape)
    if kind == "tf32":
        return (bits & np.uint32(0xFFFFE000)).view(np.float32).reshape(shape)
    if kind in ("f16", "bf16"):
        return (floating.f16_to_f32 if kind == "f16" else floating.bf16_to_f32)(bits.view(np.uint16)).reshape(shape)
    if kind in floating.FP8:
        return bits.view(floating.FP8[kind]).astype(np.float32).reshape(shape)
    return bits.view(np.int8 if kind == "s8" else np.uint8).astype(np.int32).reshape(shape)


def _matrix_a(registers: list[Array], kind: str, rows: int, depth: int) -> Array:
    """(warps, rows, depth): registers alternate between row groups, then go on along the depth."""
    parts = [_elements(bits, kind) for bits in registers]
    packed, halves = PACKED[kind], rows // 8
    matrix = np.zeros((parts[0].shape[0], rows, depth), parts[0].dtype)
    for number, part in enumerate(parts):
        for place in range(packed):
            matrix[:, GROUP + 8 * (number % halves), MEMBER * packed + place + number // halves * 4 * packed] = part[:, :, place]
    return matrix


def _matrix_b(registers: list[Array], kind: str, depth: int) -> Array:
    parts = [_elements(bits, kind) for bits in registers]
    packed = PACKED[kind]
    matrix = np.zeros((parts[0].shape[0], depth, 8), parts[0].dtype)
    for number, part in enumerate(parts):
        for place in range(packed):
            matrix[:, MEMBER * packed + place + number * 4 * packed, GROUP] = part[:, :, place]
    return matrix


def _accumulators(registers: list[Array], kind: str) -> list[Array]:
    """One (warps, 32) array per accumulator element of a thread."""
    if kind == "f16":
        halves = [_elements(bits, "f16") for bits in registers]
        return [half[:, :, place] for half in halves for place in range(2)]
    dtype = {"f32": np.float32, "s32": np.int32, "f64": np.float64}[kind]
    return [np.ascontiguousarray(bits).view(dtype) for bits in registers]


def _result_registers(values: list[Array], kind: str) -> list[Array]:
    if kind == "f16":
        halves = [floating.f32_to_f16(value).astype(np.uint32) for value in values]
        return [low | (high << np.uint32(16)) for low, high in zip(halves[::2], halves[1::2], strict=True)]
    return [np.ascontiguousarray(value).view(np.uint64 if kind == "f64" else np.uint32) for value in values]


def _multiply(inst: Instruction, a: Array, b: Array, c: list[Array]) -> list[Array]:
    """D = A B + C per warp, as one array per element that a thread holds."""
    integer = a.dtype == np.int32
    wide = a.astype(np.int64) @ b.astype(np.int64) if integer else a @ b
    results = []
    for place, old in enumerate(c):
        part = wide[:, GROUP + 8 * (place >> 1), MEMBER * 2 + (place & 1)]
        total = part + old
        if integer and "satfinite" in inst.parts:
            total = np.clip(total, -(2**31), 2**31 - 1)
        results.append(total.astype(old.dtype))
    return results


def compile_mma(inst: Instruction, names: Names) -> Run:
    shape = next((part for part in inst.parts if re.match(r"m\d+n\d+k\d+$", part)), "")
    out, kind, kind_b, into = inst.types[-4:]
    if (shape, kind) not in SHAPES or not {"row", "col"} <= set(inst.parts):
        raise PtxError(f"{'.'.join(inst.parts)} is not supported")
    rows, depth = (int(re.findall(r"\d+", shape)[place]) for place in (0, 2))
    targets = [part for part in parts_of(inst.operands[0]) if isinstance(part, Register)]
    bits = 64 if kind == "f64" else 32
    a, b, c = ([raw(part, bits, names) for part in parts_of(operand)] for operand in inst.operands[1:4])
    _check_counts(inst, kind, rows, depth, len(a), len(b))
    writes = [store(target) for target in targets]

    def run(batch: Batch, mask: Mask) -> None:
        running = full_warps(batch, inst, mask)
        fragments = [[batch.to_warps(read(batch))[running] for read in group] for group in (a, b, c)]
        left, right = _matrix_a(fragments[0], kind, rows, depth), _matrix_b(fragments[1], kind_b, depth)
        values = _multiply(inst, left, right, _accumulators(fragments[2], into))
        for write, value in zip(writes, _result_registers(values, out), strict=True):
            write(batch, _spread(batch, value, running), mask)

    return run


def _check_counts(inst: Instruction, kind: str, rows: int, depth: int, a: int, b: int) -> None:
    per_register = 32 * PACKED[kind]
    if (a, b) != (rows * depth // per_register, depth * 8 // per_register):
        raise PtxError(f"{'.'.join(inst.parts)} with {a} and {b} registers for A and B")


def _spread(batch: Batch, value: Array, running: Array) -> Array:
    """(running warps, 32) to one value per lane of the batch."""
    if len(running) * 32 == batch.count:
        return value.reshape(-1)
    wide = np.zeros((batch.count // 32, 32), value.dtype)
    wide[running] = value
    return wide.reshape(-1)


def _matrix_count(inst: Instruction) -> int:
    return int(next(part for part in inst.parts if part in ("x1", "x2", "x4"))[1:])


def _row_addresses(batch: Batch, read: Read, running: Array, number: int) -> tuple[Array, Array]:
    """(lanes, addresses) of the eight rows of matrix `number` of each warp."""
    lanes = (running[:, None] * 32 + 8 * number + np.arange(8)).reshape(-1)
    return lanes, np.asarray(batch.broadcast(read(batch)))[lanes]


def compile_load_matrix(inst: Instruction, names: Names) -> Run:
    if "m8n8" not in inst.parts:
        raise PtxError(f"{'.'.join(inst.parts)} is not supported")
    targets: list[Any] = list(parts_of(inst.operands[0]))
    writes = [store(target) for target in targets]
    read, transposed = address_reader(inst.operands[1], names, False), "trans" in inst.parts
    if len(targets) != _matrix_count(inst):
        raise PtxError(f"{'.'.join(inst.parts)} with {len(targets)} results")

    def run(batch: Batch, mask: Mask) -> None:
        running = full_warps(batch, inst, mask)
        found = []
        for number in range(len(writes)):
            lanes, address = _row_addresses(batch, read, running, number)
            values = load(batch, inst, "shared", address, lanes, 8, 2)
            matrix = np.stack(values, 1).view(np.uint16).reshape(-1, 8, 8)
            matrix = matrix.transpose(0, 2, 1) if transposed else matrix
            found.append(np.ascontiguousarray(matrix).reshape(-1, 64).view(np.uint32))
        for write, value in zip(writes, found, strict=True):
            write(batch, _spread(batch, value, running), mask)

    return run


def compile_store_matrix(inst: Instruction, names: Names) -> Run:
    read, transposed = address_reader(inst.operands[0], names, False), "trans" in inst.parts
    sources = [raw(part, BITS["b32"], names) for part in parts_of(inst.operands[1])]

    def run(batch: Batch, mask: Mask) -> None:
        running = full_warps(batch, inst, mask)
        for number, source in enumerate(sources):
            lanes, address = _row_addresses(batch, read, running, number)
            matrix = np.ascontiguousarray(batch.to_warps(source(batch))[running]).view(np.uint16).reshape(-1, 8, 8)
            matrix = np.ascontiguousarray(matrix.transpose(0, 2, 1) if transposed else matrix)
            values = matrix.reshape(-1, 8).view(np.uint64)
            for access in resolve(batch, inst, "shared", address, lanes, 8, 2):
                put(batch, access, [values[:, 0], values[:, 1]])

    return run
