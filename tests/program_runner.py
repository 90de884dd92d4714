"""Runs a Program on numpy, kernels by the kernel reference. A test helper."""
from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes  # noqa: F401  (registers bfloat16)
import numpy as np

from treadle.codegen.kernel_reference import Operand, evaluate
from treadle.ir import interpreter
from treadle.ir.dtypes import by_name
from treadle.ir.graph import Graph, Value
from treadle.ir.kernel import RUNTIME, UNIT, argument_layout
from treadle.passes.pipeline import compile_to_program
from treadle.passes.program import GemmStep, GroupStep, HostStep, KernelStep, LoopStep, Matrix, Program, Ref, RoutineStep, ScalarRef, Step


class Runner:
    """Buffers as byte arrays; with `arena`, temporaries lie where the memory plan put them."""

    def __init__(self, program: Program, inputs: Sequence[np.ndarray], arena: bool = True) -> None:
        self.program = program
        self.memory: list[np.ndarray] = []
        shared = np.full(max(program.arena, 1), 0xA5, np.uint8)
        for info in program.buffers:
            if arena and info.kind == "temp" and info.offset >= 0:
                self.memory.append(shared[info.offset:info.offset + info.nbytes])
            else:
                self.memory.append(np.full(info.nbytes, 0xA5, np.uint8))
        for i in range(len(program.buffers)):
            home = i
            while program.buffers[home].shares >= 0:
                home = program.buffers[home].shares
            if arena and program.buffers[home].kind != "temp":
                self.memory[i] = self.memory[home]
        self.inputs = inputs
        for number, array in zip(program.inputs, inputs, strict=True):
            if number >= 0:
                self.memory[number][:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def run(self) -> list[np.ndarray]:
        for step in self.program.steps:
            self.step(step, 0)
        return [self.array(n) for n in self.program.outputs]

    def array(self, number: int) -> np.ndarray:
        info = self.program.buffers[number]
        return self.memory[number].view(info.dtype.np).reshape(info.shape)

    def scalar(self, ref: ScalarRef) -> np.ndarray:
        info = self.program.scalars[ref.position]
        return np.asarray(self.inputs[info.input]).astype(info.dtype.np)

    def flat(self, ref: Ref, dtype: np.dtype, iteration: int) -> tuple[np.ndarray, int]:
        """The buffer as elements, and the element a Ref starts at."""
        at = ref.offset + ref.step * iteration + ref.apart * (iteration % 2)
        assert at % dtype.itemsize == 0
        return self.memory[ref.buffer].view(dtype), at // dtype.itemsize

    def step(self, step: Step, iteration: int) -> None:
        if isinstance(step, KernelStep):
            self.kernel(step, iteration)
        elif isinstance(step, GemmStep):
            self.product(step, iteration)
        elif isinstance(step, HostStep):
            self.host(step)
        elif isinstance(step, RoutineStep):
            self.routine(step, iteration)
        elif isinstance(step, GroupStep):
            for member in reversed(step.members):  # any order will do
                self.kernel(member, iteration)
        else:
            assert isinstance(step, LoopStep)
            for i in range(step.trip):
                for inner in step.body:
                    self.step(inner, i)

    def kernel(self, step: KernelStep, iteration: int) -> None:
        table = dict(zip(argument_layout(step.kernel), step.arguments, strict=True))
        operands = []
        for number, access in enumerate(step.kernel.accesses):
            buffer, start = self.flat(table["pointer", number], by_name(access.dtype).np, iteration)
            strides = [table["stride", number, a] if c >= RUNTIME else int(c == UNIT) for a, c in enumerate(access.strides)]
            operands.append(Operand(buffer, start, tuple(strides)))
        slots = [table["slot", k] for k in range(step.kernel.slots)]
        scalars = []
        for k, dtype in enumerate(step.kernel.scalars):
            given = table["scalar", k]
            scalars.append(self.scalar(given) if isinstance(given, ScalarRef)
                           else np.asarray([given], np.int64).view(np.uint8)[:by_name(dtype).itemsize].view(by_name(dtype).np)[0])
        evaluate(step.kernel, step.sizes, operands, slots, scalars)

    def matrix(self, m: Matrix, shape: tuple[int, ...], dtype: np.dtype, iteration: int) -> np.ndarray:
        buffer, start = self.flat(m.ref, dtype, iteration)
        if m.windows is not None:
            digits = [*zip(shape[:-2], m.strides, strict=False), *m.windows.rows, *m.windows.columns]
            assert start + sum((n - 1) * s for n, s in digits) < buffer.size
            sizes, strides = [n for n, _ in digits], [s * dtype.itemsize for _, s in digits]
            return np.lib.stride_tricks.as_strided(buffer[start:], sizes, strides).reshape(shape)
        reach = start + sum((n - 1) * s for n, s in zip(shape, m.strides, strict=True))
        assert reach < buffer.size
        return np.lib.stride_tricks.as_strided(buffer[start:], shape, [s * dtype.itemsize for s in m.strides])

    def product(self, step: GemmStep, iteration: int) -> None:
        dtype = step.dtype.np
        a = self.matrix(step.a, (*step.batch, step.m, step.k), dtype, iteration)
        b = self.matrix(step.b, (*step.batch, step.k, step.n), dtype, iteration)
        self.matrix(step.c, (*step.batch, step.m, step.n), dtype, iteration)[...] = a @ b
        if step.epilogue is not None:
            expected = (*step.batch, step.m, step.n)
            assert np.prod(step.epilogue.sizes) == np.prod(expected) and len(step.epilogue.sizes) in (2, 3)
            self.kernel(step.epilogue, iteration)

    def routine(self, step: RoutineStep, iteration: int) -> None:
        """By the reference of the node that it computes."""
        if not step.outputs:
            return

        def array(ref: Ref, like: Value) -> np.ndarray:
            buffer, start = self.flat(ref, like.dtype.np, iteration)
            return buffer[start:start + like.type.numel].reshape(like.shape)
        node = step.node
        types = tuple([v.type for v in node.inputs])
        assert node.op is not None
        arrays = [array(r, v) for r, v in zip(step.inputs, node.inputs, strict=False)]
        if step.strides:  # read through views, and numbers among the operands
            given = iter(zip(step.inputs, step.strides, strict=True))
            arrays = [np.asarray(v.node.attrs[0]) if v.type.weak else self.matrix(Matrix(*next(given)), v.shape, v.dtype.np, iteration)
                      for v in node.inputs]
        results = interpreter.evaluate(node.op, arrays, node.attrs, types, tuple([o.type for o in node.outputs]))
        for ref, value, result in zip(step.outputs, node.outputs, results, strict=True):
            array(ref, value)[...] = result

    def host(self, step: HostStep) -> None:
        arrays = [self.array(r.buffer) if isinstance(r, Ref) else self.scalar(r) for r in step.inputs]
        types = tuple([v.type for v in step.node.inputs])
        assert step.node.op is not None
        results = interpreter.evaluate(step.node.op, arrays, step.node.attrs, types, tuple([o.type for o in step.node.outputs]))
        for ref, result in zip(step.outputs, results, strict=True):
            self.array(ref.buffer)[...] = result


def run_program(graph: Graph, inputs: Sequence[np.ndarray], program: Program | None = None) -> list[np.ndarray]:
    return Runner(program or compile_to_program(graph), inputs).run()


def check(graph: Graph, inputs: Sequence[np.ndarray], rtol: float = 1e-4, atol: float = 1e-5) -> Program:
    """Compare the program with the interpreter; the program, for further questions."""
    program = compile_to_program(graph)
    with np.errstate(all="ignore"):
        expected = interpreter.run(graph, inputs)
        found = run_program(graph, inputs, program)
    for want, got in zip(expected, found, strict=True):
        assert want.dtype == got.dtype and want.shape == got.shape
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(want, got)
        else:
            np.testing.assert_allclose(np.asarray(want, np.float64), np.asarray(got, np.float64), rtol=rtol, atol=atol)
    return program
