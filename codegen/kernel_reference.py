"""Kernels evaluated by numpy: what the emitted code must compute. Slow, and used by tests and checks only.

Operands are flat buffers with an offset and a stride per axis, in elements. The whole domain is evaluated at once, with
each value an array that broadcasts against it; 16-bit floats are computed in float32 and rounded by casts and stores.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import treadle.ir.ops.elementwise  # noqa: F401  declares the scalar functions
from treadle.codegen.phases import WORDS
from treadle.ir.dtypes import FLOAT, by_name
from treadle.ir.kernel import PARALLEL, REDUCE, UNIT, ZERO, Instr, Kernel, argument_layout
from treadle.ir.op import TABLE, Kind
from treadle.ir.random_reference import philox_bits

INDEX_OUT_OF_RANGE, DIVISION_BY_ZERO = 1, 2


class Operand(NamedTuple):
    """One access's memory: a flat buffer, the element it starts at, and its stride along each axis (0 where it does not move)."""

    buffer: np.ndarray
    offset: int
    strides: tuple[int, ...]


class Fault(Exception):
    """What compiled code writes to the error cell: code, value and bound."""

    def __init__(self, code: int, value: int, bound: int) -> None:
        super().__init__(code, value, bound)
        self.code, self.value, self.bound = code, value, bound


def operand(kernel: Kernel, access: int, sizes: Sequence[int], array: np.ndarray) -> Operand:
    """An operand over a contiguous array: the axes along which the access moves in order, but the contiguous one innermost."""
    classes = kernel.accesses[access].strides
    strides = [0] * len(classes)
    step = 1
    for axis in sorted((a for a, c in enumerate(classes) if c != ZERO), key=lambda a: (classes[a] != UNIT, -a)):
        strides[axis] = step
        step *= sizes[axis]
    return Operand(array.reshape(-1), 0, tuple(strides))


def argument_table(kernel: Kernel, sizes: Sequence[int], operands: Sequence[Operand], slots: Sequence[int], scalars: Sequence[float],
                   error: np.ndarray) -> np.ndarray:
    """The int64 table that the compiled kernel takes. `error` is the int64[8] error cell. The buffers must outlive the call."""
    table = np.zeros(len(argument_layout(kernel)) + WORDS, np.int64)  # phases: all in one launch
    for i, (what, *which) in enumerate(argument_layout(kernel)):
        if what == "error":
            table[i] = error.ctypes.data
        elif what == "size":
            table[i] = sizes[which[0]]
        elif what == "pointer":
            o = operands[which[0]]
            table[i] = o.buffer.ctypes.data + o.offset * o.buffer.itemsize
        elif what == "stride":
            table[i] = operands[which[0]].strides[which[1]]
        elif what == "slot":
            table[i] = slots[which[0]]
        else:
            bits = np.asarray(scalars[which[0]]).astype(by_name(kernel.scalars[which[0]]).np).tobytes()
            table[i] = int.from_bytes(bits.ljust(8, b"\0"), "little", signed=True)
    return table


def evaluate(kernel: Kernel, sizes: Sequence[int], operands: Sequence[Operand], slots: Sequence[int] = (),
             scalars: Sequence[float] = ()) -> None:
    """Run the kernel, writing into the operands' buffers. Raises Fault for a bad index or an integer divided by zero."""
    run = _Run(kernel, tuple(sizes), operands, slots, scalars)
    with np.errstate(all="ignore"):
        values: list[np.ndarray] = []
        for instr in kernel.body:
            values.append(run.instruction(instr, values))
        for access, value in kernel.stores:
            run.store(access, values[value])


def index_values(kernel: Kernel, sizes: Sequence[int], slots: Sequence[int], instruction: int) -> np.ndarray | None:
    """What an instruction yields over the domain, of size 1 along axes it does not depend on; None unless it depends on loop counters
    and slots only."""
    needed = {instruction}
    for i in range(instruction, -1, -1):
        if i in needed:
            if kernel.body[i].opcode.startswith(("load", "scalar", "random", "reduce", "argreduce")):
                return None
            needed.update(kernel.body[i].operands)
    run = _Run(kernel, tuple(sizes), (), slots, ())
    values: list[np.ndarray] = [np.zeros(())] * len(kernel.body)
    for i in sorted(needed):
        values[i] = run.instruction(kernel.body[i], values)
    return values[instruction]


def compute_type(dtype: str) -> np.dtype:
    """The numpy type a value is held in: float32 for 16-bit floats."""
    return np.dtype(np.float32) if dtype in ("float16", "bfloat16") else by_name(dtype).np


class _Run:
    def __init__(self, kernel: Kernel, sizes: tuple[int, ...], operands: Sequence[Operand], slots: Sequence[int],
                 scalars: Sequence[float]) -> None:
        self.kernel, self.sizes, self.operands, self.slots, self.scalars = kernel, sizes, operands, slots, scalars
        self.folds = tuple(i for i, a in enumerate(kernel.axes) if a.kind == REDUCE)
        self.grid = [np.arange(n).reshape([-1 if a == i else 1 for i in range(len(sizes))]) for a, n in enumerate(sizes)]

    def instruction(self, instr: Instr, values: list[np.ndarray]) -> np.ndarray:
        args = [values[o] for o in instr.operands]
        dtypes = [self.kernel.body[o].dtype for o in instr.operands]
        if instr.opcode in ("load", "load_if", "load_at"):
            return self.load(instr, args)
        if instr.opcode == "scalar":
            kind = by_name(instr.dtype)
            return np.asarray(self.scalars[instr.params[0]]).astype(kind.np).astype(compute_type(instr.dtype))
        if instr.opcode == "const":
            return np.asarray(instr.params[0]).astype(by_name(instr.dtype).np).astype(compute_type(instr.dtype))
        if instr.opcode == "index":
            return self.grid[instr.params[0]].astype(np.int64)
        if instr.opcode == "slot":
            return np.asarray(self.slots[instr.params[0]], np.int64)
        if instr.opcode == "random":
            return _random(*args)
        if instr.opcode in ("reduce", "argreduce"):
            return self.fold(instr, args[0])
        if instr.opcode == "quotient":
            return args[0] // args[1]
        if instr.opcode == "cast":
            return convert(args[0], dtypes[0], instr.dtype)
        return elementwise(instr, args)

    def places(self, access: int) -> np.ndarray:
        """Element numbers in the access's buffer, over the axes along which it moves."""
        found = np.asarray(self.operands[access].offset).reshape((1,) * len(self.sizes))
        for index, stride, kind in zip(self.grid, self.operands[access].strides, self.kernel.accesses[access].strides, strict=True):
            found = found if kind == ZERO else found + index * stride
        return found

    def load(self, instr: Instr, args: list[np.ndarray]) -> np.ndarray:
        access = instr.params[0]
        places = self.places(access)
        keep = np.asarray(True)
        if instr.opcode == "load_if":
            keep = args[0].astype(bool)
        elif instr.opcode == "load_at":
            bound, stride = (self.slots[s] for s in instr.params[1:])
            index = args[0].astype(np.int64)
            wrapped = np.where(index < 0, index + bound, index)
            bad = (wrapped < 0) | (wrapped >= bound)
            if np.any(bad):
                raise Fault(INDEX_OUT_OF_RANGE, int(index[bad].flat[0]), bound)
            places = places + wrapped * stride
        buffer = self.operands[access].buffer
        places, keep = np.broadcast_arrays(places, keep)
        out = np.zeros(places.shape, buffer.dtype)
        out[keep] = buffer[places[keep]]
        return out.astype(compute_type(instr.dtype))

    def store(self, access: int, value: np.ndarray) -> None:
        dtype = by_name(self.kernel.accesses[access].dtype)
        shape = [n if c != ZERO else 1 for n, c in zip(self.sizes, self.kernel.accesses[access].strides, strict=True)]
        places = np.broadcast_to(self.places(access), shape)
        # What moves along a reduce axis is stored at the points of the domain, of which there may be none.
        inside = any(self.kernel.accesses[access].strides[a] != ZERO for a in self.folds)
        if all(n > 0 for a, n in zip(self.kernel.axes, self.sizes, strict=True) if inside or a.kind == PARALLEL):
            self.operands[access].buffer[places] = np.broadcast_to(value, shape).astype(dtype.np)

    def fold(self, instr: Instr, x: np.ndarray) -> np.ndarray:
        kind = instr.params[0]
        full = [n if a in self.folds else m for a, (n, m) in enumerate(zip(self.sizes, x.shape or (1,) * len(self.sizes), strict=True))]
        x = np.broadcast_to(x, full)
        if instr.opcode == "argreduce":
            if not self.folds:
                return np.zeros((1,) * len(self.sizes), np.int64)
            return (np.argmax if kind == "argmax" else np.argmin)(x, axis=self.folds[0], keepdims=True).astype(np.int64)
        if not self.folds:
            return x
        dtype = compute_type(instr.dtype)
        if kind in ("any", "all"):
            return (np.any if kind == "any" else np.all)(x, axis=self.folds, keepdims=True)
        if kind in ("sum", "prod"):
            wide = np.dtype(np.float64) if dtype.kind == "f" else dtype
            return (np.sum if kind == "sum" else np.prod)(x.astype(wide), axis=self.folds, keepdims=True).astype(dtype)
        return self.extreme(kind, x.astype(dtype))

    def extreme(self, kind: str, x: np.ndarray) -> np.ndarray:
        upper = kind == "amin"
        if x.dtype.kind == "f":
            initial: float | bool = np.inf if upper else -np.inf
        elif x.dtype == bool:
            initial = upper
        else:
            initial = np.iinfo(x.dtype).max if upper else np.iinfo(x.dtype).min
        return (np.min if upper else np.max)(x, axis=self.folds, keepdims=True, initial=initial)


def convert(x: np.ndarray, source: str, to: str) -> np.ndarray:
    """A cast between the types' register forms."""
    target = by_name(to)
    if to == "bool":
        return x != 0
    if target.category != FLOAT and by_name(source).category == FLOAT:
        return x.astype(np.float64).astype(np.int64).astype(target.np)
    return x.astype(target.np).astype(compute_type(to))


def elementwise(instr: Instr, args: list[np.ndarray]) -> np.ndarray:
    """A scalar function, by the reference of the op that declares it. KeyError when no op does."""
    for op in TABLE.values():
        if op.kind is Kind.ELEMENTWISE and op.scalar == instr.opcode and op.reference is not None:
            break
    else:
        raise KeyError(f"no op declares the scalar function {instr.opcode!r}")
    try:
        result = np.asarray(op.reference(*args))
    except RuntimeError as fault:
        if "divided by zero" in str(fault):
            raise Fault(DIVISION_BY_ZERO, 0, 0) from fault
        raise
    return result.astype(compute_type(instr.dtype))


def _random(seed: np.ndarray, offset: np.ndarray, index: np.ndarray) -> np.ndarray:
    n = int(index.max(initial=-1)) + 1
    return philox_bits(int(seed.item()), int(offset.item()), n)[index].view(np.int32)
