"""Kernels launched sweep by sweep, with the long axis in parts, against the same kernels launched once."""
from __future__ import annotations

import numpy as np
import pytest
from kernel_fuzz import RandomKernel
from test_emit import SCRATCH, Signature, compare, compiled, outputs, simple_operands

from treadle.codegen import phases
from treadle.codegen.kernel_reference import Operand, argument_table, evaluate
from treadle.codegen.target import host
from treadle.ir.dtypes import ALL, BOOL, FLOAT
from treadle.ir.kernel import PARALLEL, REDUCE, RUNTIME, UNIT, ZERO, Access, Axis, Instr, Kernel, print_kernel

P, R = Axis(PARALLEL), Axis(REDUCE)
RANDOM = [r for r in map(RandomKernel, range(80)) if any(a.kind == REDUCE for a in r.axes)]
RANDOM_KERNELS = tuple(r.build() for r in RANDOM)


@pytest.fixture
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENOUGH_UNITS", 1 << 30), ("MOST_UNITS", 1 << 12), ("PART_WORK", 1), ("LANE_PART", 2), ("ROW_PART", 1),
                        ("LANE_STEP", 1)):
        monkeypatch.setattr(phases, name, value)


def run(kernel: Kernel, sizes: list[int], operands: list[Operand], among: tuple[Kernel, ...], slots: tuple[int, ...] = ()) -> int:
    """Launch as a plan does, each launch in three pieces from last to first; the number of launches."""
    function = Signature(compiled(among, host()).address(f"k{among.index(kernel)}"))
    table = argument_table(kernel, sizes, operands, slots, (), np.zeros(8, np.int64))
    found = phases.launches(kernel, tuple(sizes))
    size = phases.partial_bytes(kernel, tuple(sizes), found[0].parts)
    memory = np.full(size + 64, 0xA5, np.uint8)
    for launch in found:
        table[-phases.WORDS:] = [launch.phase, launch.parts, launch.length, memory.ctypes.data]
        for i in (2, 1, 0):
            function(table.ctypes.data, launch.units * i // 3, launch.units * (i + 1) // 3, SCRATCH.ctypes.data)
    assert (memory[size:] == 0xA5).all()
    return len(found)


def check(kernel: Kernel, sizes: list[int], operands: list[Operand], among: tuple[Kernel, ...], limit: float = 0.0) -> int:
    want_operands, want = outputs(kernel, operands)
    evaluate(kernel, sizes, want_operands, (), ())
    got_operands, got = outputs(kernel, operands)
    count = run(kernel, sizes, got_operands, among)
    for g, w in zip(got, want, strict=True):
        compare(g, w, limit, limit)
    return count


@pytest.mark.usefixtures("_small_parts")
def test_random_kernels_in_parts() -> None:
    several = 0
    for random, kernel in zip(RANDOM, RANDOM_KERNELS, strict=True):
        for _ in range(3):
            sizes = [int(random.rng.choice([1, 2, 3, 5, 17, 33, 70])) for _ in kernel.axes]
            try:
                several += check(kernel, sizes, random.operands(sizes), RANDOM_KERNELS) > 1
            except Exception as fault:
                raise AssertionError(f"sizes {sizes}\n{print_kernel(kernel)}") from fault
    assert several > len(RANDOM)


def _fold(kind: str, dtype: str, axes: tuple[Axis, ...], strides: tuple[int, ...], out: tuple[int, ...]) -> Kernel:
    result = "int64" if kind.startswith("arg") else "bool" if kind in ("any", "all") else dtype
    body = (Instr("load", dtype, (), (0,)), Instr("argreduce" if kind.startswith("arg") else "reduce", result, (0,), (kind,)))
    return Kernel(axes, (Access(dtype, False, strides), Access(result, True, out)), (), 0, body, ((1, 1),))


KINDS = ("sum", "prod", "amax", "amin", "any", "all", "argmax", "argmin")
FOLDS = tuple(_fold(kind, dtype.name, *layout) for kind in KINDS for dtype in [d for d in ALL if not d.is_complex]
              if not (dtype.category == BOOL and kind not in ("any", "all")) and (kind in ("any", "all")) == (dtype.category == BOOL)
              and not (kind == "prod" and dtype.category == FLOAT)
              for layout in (((R,), (UNIT,), (ZERO,)), ((P, R), (UNIT, RUNTIME), (UNIT, ZERO))))


@pytest.mark.usefixtures("_small_parts")
def test_every_fold_in_parts() -> None:
    for kernel in FOLDS:
        for sizes in ([300], [1025]) if len(kernel.axes) == 1 else ([5, 40], [70, 9]):
            operands = simple_operands(kernel, sizes)
            data = operands[0].buffer
            if data.dtype.kind not in "iub":
                data[:] = np.round(data.astype(np.float64) * 4).astype(data.dtype)  # exact sums, ties
                if "sum" not in str(kernel.body[1].params):
                    data[7] = data[31] = np.nan
            assert check(kernel, sizes, operands, FOLDS) == 2


def test_parts_depend_on_sizes_alone() -> None:
    rows, columns, every = (_fold("sum", "float32", *layout) for layout in (
        ((P, R), (RUNTIME, UNIT), (UNIT, ZERO)), ((P, R), (UNIT, RUNTIME), (UNIT, ZERO)), ((R,), (UNIT,), (ZERO,))))
    assert len(phases.launches(rows, (64, 1 << 16))) == 1
    assert [launch.parts for launch in phases.launches(rows, (2, 1 << 20))] == [32, 32]
    assert [launch.units for launch in phases.launches(every, (1 << 22,))] == [64, 1]
    assert [launch.units for launch in phases.launches(columns, (64, 1 << 16))] == [512, 1]
    assert len(phases.launches(columns, (64, 100))) == 1
    assert len(phases.launches(every, (1000,))) == 1
