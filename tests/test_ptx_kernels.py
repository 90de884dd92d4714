"""Kernels of the kernel IR as PTX on the simulator, against the numpy reference."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from kernel_fuzz import RandomKernel
from ptx_runner import launch
from test_emit import (
    CASTS,
    COLUMN_SOFTMAX,
    COLUMN_SUM,
    DTYPES,
    FULL_SUM,
    HAND,
    LAYER_NORM,
    LOOSE,
    MIDDLE_SUM,
    REDUCE_KERNELS,
    ROW_SUM,
    SOFTMAX,
    P,
    R,
    _gather,
    _values,
    compare,
    function_kernel,
    load,
    op,
    outputs,
    reads,
    simple_operands,
    writes,
)

from treadle.codegen.kernel_reference import Operand, evaluate
from treadle.codegen.ptx_mapping import BLOCK_ROW, MAP, THREAD, WARP, Mapping
from treadle.codegen.ptx_target import Unsupported, to_ptx
from treadle.ir.dtypes import by_name
from treadle.ir.kernel import RUNTIME, UNIT, ZERO, Instr, Kernel


def check(kernel: Kernel, sizes: Sequence[int], operands: Sequence[Operand] | None = None, slots: Sequence[int] = (),
          scalars: Sequence[float] = (), rtol: float = 1e-5, atol: float = 1e-5) -> Mapping:
    """PTX equals the reference; the variant that was used."""
    operands = simple_operands(kernel, sizes) if operands is None else operands
    want_operands, want = outputs(kernel, operands)
    evaluate(kernel, sizes, want_operands, slots, scalars)
    got_operands, got = outputs(kernel, operands)
    error, mapping = launch(kernel, sizes, got_operands, slots, scalars)
    assert error[0] == 0
    for g, w in zip(got, want, strict=True):
        compare(g, w, rtol, atol)
    return mapping


@pytest.mark.parametrize("kernel", HAND)
def test_small_sizes(kernel: Kernel) -> None:
    scalars = tuple(0.5 + k for k in range(len(kernel.scalars)))
    for sizes in ((1, 1, 1), (3, 5, 2), (4, 40, 8), (0, 3, 4), (3, 0, 4)):
        check(kernel, sizes[:len(kernel.axes)], scalars=scalars, rtol=2e-3 if "float16" in str(kernel) else 1e-5)


@pytest.mark.parametrize(("kernel", "sizes", "kind"), [
    (ROW_SUM, (3, 4096), BLOCK_ROW), (ROW_SUM, (19, 256), WARP), (ROW_SUM, (300, 7), THREAD), (COLUMN_SUM, (300, 1000), THREAD),
    (FULL_SUM, (50_000,), BLOCK_ROW), (MIDDLE_SUM, (2, 3, 2000), BLOCK_ROW), (SOFTMAX, (9, 130), WARP), (SOFTMAX, (2, 3000), BLOCK_ROW),
    (SOFTMAX, (1, 40_000), BLOCK_ROW), (COLUMN_SOFTMAX, (64, 20), THREAD), (COLUMN_SOFTMAX, (70, 500), THREAD),
    (LAYER_NORM, (5, 768), WARP), (LAYER_NORM, (1, 20_000), BLOCK_ROW)])
def test_rows_of_all_lengths(kernel: Kernel, sizes: tuple[int, ...], kind: str) -> None:
    assert check(kernel, sizes, scalars=(float(sizes[-1]), 1e-5)[:len(kernel.scalars)], rtol=1e-4, atol=1e-4).kind == kind


def test_neighbours_move_together() -> None:
    kernel = Kernel((P,), (reads(UNIT), reads(UNIT), writes(UNIT)), (), 0, (load(0), load(1), op("add", 0, 1)), ((2, 2),))
    assert check(kernel, (4096,)) == Mapping(MAP, 0, 4, True, False)
    assert check(kernel, (4099,)) == Mapping(MAP, 0, 4, True, True)
    assert check(kernel, (9,)).width == 1
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(80).astype(np.float32) for _ in range(3)]
    operands = [Operand(a, 1, (1,)) for a in arrays]
    assert not check(kernel, (64,), operands).wide  # nothing is aligned


def test_windows_are_not_read_together() -> None:
    kernel = Kernel((P, P), (reads(UNIT, UNIT), writes(RUNTIME, UNIT)), (), 0, (load(0),), ((1, 0),))
    x = np.arange(40, dtype=np.float32)
    assert not check(kernel, (6, 8), [Operand(x, 0, (1, 1)), Operand(np.zeros(48, np.float32), 0, (8, 1))]).wide


def test_transposes_in_squares() -> None:
    kernel = Kernel((P, P), (reads(UNIT, RUNTIME), writes(RUNTIME, UNIT)), (), 0, (load(0),), ((1, 0),))
    assert check(kernel, (50, 70)).rows == 0
    deep = Kernel((P, P, P), (reads(RUNTIME, UNIT, RUNTIME), writes(RUNTIME, RUNTIME, UNIT)), (), 0, (load(0),), ((1, 0),))
    assert check(deep, (3, 20, 17)).rows == 1


@pytest.mark.parametrize("kernel", REDUCE_KERNELS, ids=lambda k: f"{k.body[1].params[0]}-{k.body[0].dtype}")
def test_reduces(kernel: Kernel) -> None:
    for sizes in ((5, 40), (3, 7), (2, 2500), (70, 33)):
        check(kernel, sizes, rtol=2e-2 if by_name(kernel.body[0].dtype).itemsize == 2 else 1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_function(dtype: str) -> None:
    kernel, names = function_kernel(dtype)
    x, y = _values(dtype, np.random.default_rng(2), 50)
    rtol = {"float16": 2e-3, "bfloat16": 1.6e-2, "float64": 1e-12}.get(dtype, 5e-7)
    faults = []
    for k, name in enumerate(names):  # one by one, for what has no PTX form
        access, value = kernel.stores[k]
        out = kernel.accesses[access]
        one = kernel._replace(accesses=(*kernel.accesses[:2], out), stores=((2, value),))
        operands = [Operand(x, 0, (1,)), Operand(y, 0, (1,)), Operand(np.zeros(len(x), by_name(out.dtype).np), 0, (1,))]
        want, (w,) = outputs(one, operands)
        evaluate(one, (len(x),), want)
        got, (g,) = outputs(one, operands)
        try:
            assert launch(one, (len(x),), got)[0][0] == 0
            compare(g, w, max(rtol, LOOSE.get(name, 0)), 1e-7 if dtype != "float64" else 1e-15)
        except Unsupported as error:
            assert dtype == "float64" and "C library" in str(error)
        except AssertionError as fault:
            faults.append(f"{name}: {fault}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("kernel", CASTS, ids=DTYPES)
def test_casts(kernel: Kernel) -> None:
    dtype = kernel.accesses[0].dtype
    values = np.random.default_rng(3).integers(0 if dtype in ("bool", "uint8") else -100, 2 if dtype == "bool" else 100, 40)
    operands = [Operand(values.astype(by_name(dtype).np), 0, (1,))]
    operands += [Operand(np.zeros(40, by_name(a.dtype).np), 0, (1,)) for a in kernel.accesses[1:]]
    check(kernel, (40,), operands)


@pytest.mark.parametrize("bad", [None, 6, -7])
def test_gathers(bad: int | None) -> None:
    rng = np.random.default_rng(1)
    for index_strides, source in (((UNIT, ZERO), (ZERO, UNIT)), ((RUNTIME, UNIT), (ZERO, UNIT)), ((ZERO, UNIT), (UNIT, ZERO))):
        kernel = _gather(index_strides, source)
        sizes = (5, 8)
        operands = simple_operands(kernel, sizes)
        moving = [n for n, c in zip(sizes, index_strides, strict=True) if c != ZERO]
        index = rng.integers(-6, 6, int(np.prod(moving)))
        if bad is not None:
            index[2] = bad
        table = rng.standard_normal(200).astype(np.float32)
        operands = [o._replace(buffer=index, offset=0) if a.dtype == "int64" else o if a.writes else o._replace(buffer=table)
                    for o, a in zip(operands, kernel.accesses, strict=True)]
        slots = (6, 8 if source == (ZERO, UNIT) else 1)
        if bad is None:
            check(kernel, sizes, operands, slots)
        else:
            error, _ = launch(kernel, sizes, outputs(kernel, operands)[0], slots)
            assert list(error[[0, 2, 3]]) == [1, bad, 6]


def test_random_bits() -> None:
    body = (Instr("slot", "int64", (), (0,)), Instr("slot", "int64", (), (1,)), Instr("index", "int64", (), (0,)),
            Instr("random", "int32", (0, 1, 2)))
    check(Kernel((P,), (writes(UNIT, dtype="int32"),), (), 2, body, ((0, 3),)), (1000,), slots=(1234, 77))


def test_integer_division_by_zero_is_reported_once() -> None:
    kernel = Kernel((P,), (reads(UNIT, dtype="int32"), reads(UNIT, dtype="int32"), writes(UNIT, dtype="int32")), (), 0,
                    (load(0, "int32"), load(1, "int32"), op("floor_divide", 0, 1, dtype="int32")), ((2, 2),))
    zeros = np.zeros(400, np.int32)
    error, _ = launch(kernel, (400,), [Operand(np.arange(400, dtype=np.int32), 0, (1,)), Operand(zeros, 0, (1,)),
                                       Operand(zeros.copy(), 0, (1,))])
    assert error[0] == 2 and 0 <= error[2] < 400


def test_a_row_written_over_in_place() -> None:
    kernel = Kernel((P, R), (reads(RUNTIME, UNIT), reads(UNIT, ZERO), writes(UNIT, ZERO)), (), 0,
                    (load(0), load(1), op("reduce", 0, params=("sum",)), op("add", 1, 2)), ((2, 3),))
    for n in (8, 64, 3000):
        x, mean = np.ones((4, n), np.float32), np.arange(4, dtype=np.float32)
        row = Operand(mean, 0, (1, 0))
        launch(kernel, (4, n), [Operand(x.reshape(-1), 0, (n, 1)), row, row])
        np.testing.assert_array_equal(mean, np.arange(4) + n)


@pytest.mark.parametrize("seed", range(40))
def test_random_kernels(seed: int) -> None:
    random = RandomKernel(seed)
    kernel = random.build()
    for low, high in ((1, 4), (5, 20)):
        sizes = [int(n) for n in random.rng.integers(low, high, len(kernel.axes))]
        check(kernel, sizes, random.operands(sizes), rtol=0, atol=0)


def test_what_the_backend_lacks_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"llvm\.exp"):
        to_ptx("declare float @llvm.exp.f32(float)\n")
