"""Random kernels for tests of the emitter."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from treadle.codegen.kernel_reference import Operand
from treadle.ir.dtypes import by_name
from treadle.ir.kernel import PARALLEL, REDUCE, RUNTIME, UNIT, ZERO, Access, Axis, Instr, Kernel

P, R = Axis(PARALLEL), Axis(REDUCE)
F32 = "float32"


def load(access: int, dtype: str) -> Instr:
    return Instr("load", dtype, (), (access,))


def op(opcode: str, *operands: int, dtype: str = F32, params: tuple = ()) -> Instr:
    return Instr(opcode, dtype, operands, params)


class RandomKernel:
    """Builds random kernels whose float values are small integers, so that any order of summation is exact."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.axes = tuple([P] * int(self.rng.integers(0, 4)) + [R] * int(self.rng.integers(0, 3)))
        self.accesses: list[Access] = []
        self.orders: list[list[int]] = []
        self.body: list[Instr] = []
        self.moves: list[set[int]] = []
        self.stores: list[tuple[int, int]] = []

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def access(self, axes: set[int], writes: bool, dtype: str = F32) -> int:
        """An access moving along `axes`, laid out in a random order of them, sometimes with a gap after each element."""
        order = [int(a) for a in self.rng.permutation(sorted(axes))]
        dense = self.rng.random() < 0.8
        strides = [ZERO if a not in axes else UNIT if dense and a == order[-1] else RUNTIME for a in range(len(self.axes))]
        self.accesses.append(Access(dtype, writes, tuple(strides)))
        self.orders.append(order)
        return len(self.accesses) - 1

    def add(self, instr: Instr, moves: set[int]) -> None:
        self.body.append(instr)
        self.moves.append(moves)

    def build(self) -> Kernel:
        every = set(range(len(self.axes)))
        folded = {a for a in every if self.axes[a] == R}
        for _ in range(int(self.rng.integers(1, 4))):
            axes = {a for a in every if self.rng.random() < 0.75}
            dtype = self.pick((F32, F32, "float16", "int32", "bool"))
            self.add(load(self.access(axes, False, dtype), dtype), axes)
            if dtype != F32:
                self.add(op("cast", len(self.body) - 1), axes)
        for _ in range(int(self.rng.integers(1, 9))):
            self.step(folded)
        values = [i for i, instr in enumerate(self.body) if instr.dtype == F32]
        for value in {self.pick(values) for _ in range(2)} | {values[-1]}:
            self.stores.append((self.access(self.moves[value] | (every - folded), True), value))
        return Kernel(self.axes, tuple(self.accesses), (), 0, tuple(self.body), tuple(self.stores))

    def step(self, folded: set[int]) -> None:
        values = [i for i, instr in enumerate(self.body) if instr.dtype == F32]
        kind = self.pick(("binary", "binary", "select", "reduce", "index"))
        x, y = self.pick(values), self.pick(values)
        if kind == "binary":
            self.add(op(self.pick(("add", "sub", "maximum", "minimum")), x, y), self.moves[x] | self.moves[y])
        elif kind == "select":
            self.add(op("lt", x, y, dtype="bool"), self.moves[x] | self.moves[y])
            self.add(op("select", len(self.body) - 1, y, x), self.moves[x] | self.moves[y])
        elif kind == "reduce" and folded:
            self.add(op("reduce", x, params=(self.pick(("sum", "amax", "amin")),)), self.moves[x] - folded)
            self.clamp(len(self.body) - 1)
        elif kind == "index" and self.axes:
            axis = int(self.rng.integers(len(self.axes)))
            self.add(op("index", dtype="int64", params=(axis,)), {axis})
            self.add(op("cast", len(self.body) - 1), {axis})
            self.clamp(len(self.body) - 1)

    def clamp(self, value: int) -> None:
        self.add(op("const", params=(8.0,)), set())
        self.add(op("minimum", value, len(self.body) - 1), self.moves[value])

    def operands(self, sizes: Sequence[int]) -> list[Operand]:
        found = []
        for access, order in zip(self.accesses, self.orders, strict=True):
            step = 1 if UNIT in access.strides or not order else 2
            strides = [0] * len(sizes)
            for axis in reversed(order):
                strides[axis] = step
                step *= sizes[axis]
            values = self.rng.integers(0 if access.dtype == "bool" else -3, 4, step + 3)
            found.append(Operand(values.astype(by_name(access.dtype).np), 0, tuple(strides)))
        return found
