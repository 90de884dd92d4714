"""The kernel emitter against the numpy reference: hand-built kernels, every scalar function, faults and random kernels."""
from __future__ import annotations

import ctypes
import dataclasses
import functools
import mmap
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from kernel_fuzz import RandomKernel

from treadle.codegen import expressions
from treadle.codegen.emit import emit_kernel, emit_module, emit_tile, parallel_units
from treadle.codegen.jit import CompiledModule, assembly, compile_text
from treadle.codegen.kernel_reference import Fault, Operand, argument_table, evaluate, operand
from treadle.codegen.llvm_text import Module
from treadle.codegen.schedule import TRANSPOSE_ROWS, analyse, loops, schedule
from treadle.codegen.target import Target, describe, host
from treadle.ir.dtypes import BOOL, FLOAT, by_name
from treadle.ir.kernel import PAIRED, PARALLEL, REDUCE, REVERSED, RUNTIME, UNIT, ZERO, Access, Axis, Instr, Kernel, print_kernel
from treadle.ir.op import TABLE, Kind
from treadle.ir.types import TensorType, tensor_type

P, R = Axis(PARALLEL), Axis(REDUCE)
F32 = "float32"
SCRATCH = np.zeros(1 << 21, np.uint8)
Signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def load(access: int, dtype: str = F32) -> Instr:
    return Instr("load", dtype, (), (access,))


def op(opcode: str, *operands: int, dtype: str = F32, params: tuple = ()) -> Instr:
    return Instr(opcode, dtype, operands, params)


def reads(*strides: int, dtype: str = F32) -> Access:
    return Access(dtype, False, strides)


def writes(*strides: int, dtype: str = F32) -> Access:
    return Access(dtype, True, strides)


# -- running ---------------------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=64)
def compiled(kernels: tuple[Kernel, ...], target: Target) -> CompiledModule:
    return compile_text(emit_module([(f"k{i}", k) for i, k in enumerate(kernels)], target))


def launch(kernel: Kernel, sizes: Sequence[int], operands: Sequence[Operand], slots: Sequence[int] = (), scalars: Sequence[float] = (),
           among: tuple[Kernel, ...] = (), pieces: int = 1, target: Target | None = None) -> np.ndarray:
    """Run the compiled kernel with its units split in `pieces`; returns the error cell."""
    kernels = among or (kernel,)
    function = Signature(compiled(kernels, target or host()).address(f"k{kernels.index(kernel)}"))
    error = np.zeros(8, np.int64)
    table = argument_table(kernel, sizes, operands, slots, scalars, error)
    units, grain = parallel_units(kernel, tuple(sizes))
    assert grain >= 1
    for i in range(pieces):
        function(table.ctypes.data, units * i // pieces, units * (i + 1) // pieces, SCRATCH.ctypes.data)
    return error


def outputs(kernel: Kernel, operands: Sequence[Operand]) -> tuple[list[Operand], list[np.ndarray]]:
    """The operands with fresh buffers for what is written: zeros with a margin behind."""
    fresh = [Operand(np.zeros(len(o.buffer) + 64, o.buffer.dtype), o.offset, o.strides) if a.writes else o
             for o, a in zip(operands, kernel.accesses, strict=True)]
    return fresh, [o.buffer for o, a in zip(fresh, kernel.accesses, strict=True) if a.writes]


def check(kernel: Kernel, sizes: Sequence[int], operands: Sequence[Operand], slots: Sequence[int] = (), scalars: Sequence[float] = (),
          among: tuple[Kernel, ...] = (), rtol: float = 1e-5, atol: float = 1e-6, target: Target | None = None) -> None:
    """Compiled equals reference, nothing behind the outputs is touched, and a split call gives the same bits."""
    want_operands, want = outputs(kernel, operands)
    evaluate(kernel, sizes, want_operands, slots, scalars)
    got_operands, got = outputs(kernel, operands)
    assert launch(kernel, sizes, got_operands, slots, scalars, among, 1, target)[0] == 0
    for g, w in zip(got, want, strict=True):
        compare(g, w, rtol, atol)
    split_operands, split = outputs(kernel, operands)
    launch(kernel, sizes, split_operands, slots, scalars, among, 3, target)
    for g, s in zip(got, split, strict=True):
        assert g.tobytes() == s.tobytes()


def compare(got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> None:
    if want.dtype.kind in "iub":
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=atol)


def simple_operands(kernel: Kernel, sizes: Sequence[int], seed: int = 0) -> list[Operand]:
    """A contiguous array for every access over the axes along which it moves."""
    rng = np.random.default_rng(seed)
    found = []
    for i, access in enumerate(kernel.accesses):
        count = int(np.prod([n for n, s in zip(sizes, access.strides, strict=True) if s != ZERO], dtype=np.int64))
        array = rng.standard_normal(count) * (10 if by_name(access.dtype).category != FLOAT else 1)
        found.append(operand(kernel, i, sizes, array.astype(by_name(access.dtype).np)))
    return found


# -- kernels of each kind --------------------------------------------------------------------------------------------
AFFINE_RELU = Kernel((P,), (reads(UNIT), reads(UNIT), writes(UNIT)), (F32,), 0,
                     (load(0), load(1), op("mul", 0, 1), op("scalar", params=(0,)), op("add", 2, 3), op("relu", 4)), ((2, 5),))
BROADCAST = Kernel((P, P), (reads(RUNTIME, UNIT), reads(ZERO, UNIT), reads(RUNTIME, ZERO), writes(RUNTIME, UNIT)), (), 0,
                   (load(0), load(1), load(2), op("add", 0, 1), op("mul", 3, 2)), ((3, 4),))
TRANSPOSE = Kernel((P, P), (reads(UNIT, RUNTIME), writes(RUNTIME, UNIT)), (), 0, (load(0),), ((1, 0),))
DEEP = Kernel((P, P, P), (reads(RUNTIME, RUNTIME, UNIT), reads(UNIT, ZERO, RUNTIME), writes(RUNTIME, RUNTIME, UNIT)), (), 0,
              (load(0), load(1), op("sub", 0, 1)), ((2, 2),))
POINT = Kernel((), (reads(), writes()), (F32,), 0, (load(0), op("scalar", params=(0,)), op("mul", 0, 1)), ((1, 2),))
ROW_SUM = Kernel((P, R), (reads(RUNTIME, UNIT), writes(UNIT, ZERO)), (), 0, (load(0), op("reduce", 0, params=("sum",))), ((1, 1),))
COLUMN_SUM = Kernel((P, R), (reads(UNIT, RUNTIME), writes(UNIT, ZERO)), (), 0, (load(0), op("reduce", 0, params=("sum",))), ((1, 1),))
FULL_SUM = Kernel((R,), (reads(UNIT), writes(ZERO)), (), 0, (load(0), op("reduce", 0, params=("sum",))), ((1, 1),))
MIDDLE_SUM = Kernel((P, R, R), (reads(RUNTIME, RUNTIME, UNIT), writes(UNIT, ZERO, ZERO)), (), 0,
                    (load(0), op("reduce", 0, params=("sum",))), ((1, 1),))
SCALE_OF_SUM = Kernel((P, R), (reads(RUNTIME, UNIT), reads(UNIT, ZERO), writes(UNIT, ZERO), writes(RUNTIME, UNIT)), (), 0,
                      (load(0), load(1), op("reduce", 1, params=("sum",)), op("add", 0, 2)), ((2, 2), (3, 3)))
SOFTMAX_BODY = (load(0), op("reduce", 0, params=("amax",)), op("sub", 0, 1), op("exp", 2), op("reduce", 3, params=("sum",)),
                op("div", 3, 4))
SOFTMAX = Kernel((P, R), (reads(RUNTIME, UNIT), writes(RUNTIME, UNIT)), (), 0, SOFTMAX_BODY, ((1, 5),))
COLUMN_SOFTMAX = Kernel((P, R), (reads(UNIT, RUNTIME), writes(UNIT, RUNTIME)), (), 0, SOFTMAX_BODY, ((1, 5),))
LAYER_NORM = Kernel(
    (P, R), (reads(RUNTIME, UNIT), reads(ZERO, UNIT), reads(ZERO, UNIT), writes(RUNTIME, UNIT), writes(UNIT, ZERO)), (F32, F32), 0,
    (load(0), op("reduce", 0, params=("sum",)), op("scalar", params=(0,)), op("div", 1, 2), op("sub", 0, 3), op("mul", 4, 4),
     op("reduce", 5, params=("sum",)), op("div", 6, 2), op("scalar", params=(1,)), op("add", 7, 8), op("rsqrt", 9), op("mul", 4, 10),
     load(1), op("mul", 11, 12), load(2), op("add", 13, 14)), ((3, 15), (4, 3)))
HALF = Kernel((P,), (reads(UNIT, dtype="float16"), reads(UNIT, dtype="bfloat16"), writes(UNIT, dtype="float16"),
                     writes(UNIT, dtype="bfloat16")), (), 0,
              (load(0, "float16"), load(1, "bfloat16"), op("cast", 0), op("cast", 1), op("mul", 2, 3), op("cast", 4, dtype="float16"),
               op("cast", 4, dtype="bfloat16")), ((2, 5), (3, 6)))
INDEXED = Kernel((P, P), (writes(RUNTIME, UNIT, dtype="int64"),), (), 0,
                 (op("index", dtype="int64", params=(0,)), op("index", dtype="int64", params=(1,)), op("mul", 0, 1, dtype="int64"),
                  op("add", 2, 1, dtype="int64")), ((0, 3),))
SCATTERED = Kernel((P,), (reads(RUNTIME), writes(RUNTIME)), (), 0, (load(0), op("neg", 0)), ((1, 1),))
BYTES = Kernel((P,), (reads(UNIT, dtype="uint8"), reads(UNIT, dtype="bool"), writes(UNIT, dtype="uint8")), (), 0,
               (load(0, "uint8"), load(1, "bool"), op("const", dtype="uint8", params=(200,)), op("add", 0, 2, dtype="uint8"),
                op("select", 1, 3, 0, dtype="uint8")), ((2, 4),))
HAND = (AFFINE_RELU, BROADCAST, TRANSPOSE, DEEP, POINT, ROW_SUM, COLUMN_SUM, FULL_SUM, MIDDLE_SUM, SCALE_OF_SUM, SOFTMAX, COLUMN_SOFTMAX,
        LAYER_NORM, HALF, INDEXED, BYTES)


@pytest.mark.parametrize("kernel", HAND)
def test_small_sizes(kernel: Kernel) -> None:
    """All tails: the last axis takes every size from 0 to 70, and each axis can be empty."""
    others = [3, 2][:max(0, len(kernel.axes) - 1)]
    scalars = (2.0, 1e-5)[:len(kernel.scalars)]
    for n in range(71) if kernel.axes else (1,):
        sizes = ([n] + others if kernel.axes[:1] == (P,) and kernel.accesses[0].strides[:1] == (UNIT,) else others + [n])[:len(kernel.axes)]
        check(kernel, sizes, simple_operands(kernel, sizes, n), (), scalars, HAND)
    if kernel.axes:
        sizes = [0] + [5] * (len(kernel.axes) - 1)
        check(kernel, sizes, simple_operands(kernel, sizes), (), scalars, HAND)


@pytest.mark.parametrize(("kernel", "sizes"), [
    (AFFINE_RELU, (20_000,)), (BROADCAST, (17, 5_000)), (BROADCAST, (3_000, 3)), (TRANSPOSE, (300, 517)), (DEEP, (9, 31, 70)),
    (ROW_SUM, (5, 70_001)), (COLUMN_SUM, (130, 3_001)), (FULL_SUM, (200_003,)), (MIDDLE_SUM, (3, 600, 49)), (SOFTMAX, (7, 1_000)),
    (SOFTMAX, (2, 200_000)), (COLUMN_SOFTMAX, (70, 900)), (LAYER_NORM, (9, 768)), (INDEXED, (40, 100))])
def test_large_sizes(kernel: Kernel, sizes: tuple[int, ...]) -> None:
    scalars = (float(sizes[-1]), 1e-5)[:len(kernel.scalars)]
    check(kernel, sizes, simple_operands(kernel, sizes), (), scalars, HAND, rtol=2e-5, atol=1e-4)


def test_strided_lanes_and_offsets() -> None:
    x = np.arange(400, dtype=np.float32)
    for n in (1, 15, 16, 17, 100):
        out = np.zeros(400, np.float32)
        assert launch(SCATTERED, (n,), [Operand(x, 399, (-3,)), Operand(out, 5, (2,))])[0] == 0
        want = np.zeros(400, np.float32)
        want[5:5 + 2 * n:2] = -x[399:399 - 3 * n:-3]
        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "bool", "uint8", "int16", "int64"])
def test_known_strides_of_lanes(dtype: str) -> None:
    """Every second element and neighbours in reverse, read and written; parts of pairs are taken together, in either order."""
    kind = by_name(dtype).np
    body = (load(0, dtype), load(1, dtype))
    pairs = Kernel((P,), tuple(Access(dtype, w, (PAIRED,)) for w in (False, False, True, True)), (), 0, body, ((2, 1), (3, 0)))
    back = Kernel((P,), (Access(dtype, False, (REVERSED,)), Access(dtype, True, (REVERSED,))), (), 0, body[:1], ((1, 0),))
    rng = np.random.default_rng(0)
    for n in (1, 2, 15, 16, 63, 64, 65, 300):
        x = rng.integers(0, 2, 2 * n).astype(kind)
        for starts in ((0, 1), (1, 0), (0, 0)):  # the last pair does not join: the one written later stays
            out = np.zeros(2 * n, kind)
            operands = [Operand(x, at, (2,)) for at in (0, 1)] + [Operand(out, at, (2,)) for at in starts]
            assert launch(pairs, (n,), operands, among=(pairs, back))[0] == 0
            want = np.zeros(2 * n, kind)
            want[starts[0]::2], want[starts[1]::2] = x[1::2], x[0::2]
            np.testing.assert_array_equal(out, want)
        for first, second in ((1, 0), (0, 0)):  # read in the other order, and two reads that do not join
            out = np.zeros(2 * n, kind)
            operands = [Operand(x, at, (2,)) for at in (first, second)] + [Operand(out, at, (2,)) for at in (0, 1)]
            assert launch(pairs, (n,), operands, among=(pairs, back))[0] == 0
            np.testing.assert_array_equal(out, np.stack([x[second::2], x[first::2]], 1).reshape(-1))
        out = np.zeros(2 * n + 1, kind)
        assert launch(back, (n,), [Operand(x, 2 * n - 1, (-1,)), Operand(out, n, (-1,))], among=(pairs, back))[0] == 0
        np.testing.assert_array_equal(out[1:n + 1], x[n:])
        assert not out[0] and not out[n + 1:].any()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "bool", "uint8", "int16", "int64"])
def test_transposed_squares(dtype: str) -> None:
    """Whole squares are turned in registers, rows and columns left over are gathered; the batch has strides of its own."""
    turn = Kernel((P, P, P), (reads(RUNTIME, UNIT, RUNTIME, dtype=dtype), writes(RUNTIME, RUNTIME, UNIT, dtype=dtype)), (), 0,
                  (load(0, dtype),), ((1, 0),))
    compared = (reads(UNIT, RUNTIME, dtype=dtype), reads(RUNTIME, UNIT, dtype=dtype), writes(RUNTIME, UNIT, dtype="bool"))
    both = Kernel((P, P), compared, (), 0,
                  (load(0, dtype), load(1, dtype), op("eq", 0, 1, dtype="bool")), ((2, 2),))
    kind = by_name(dtype).np
    rng = np.random.default_rng(1)
    for m, n in ((1, 1), (7, 16), (16, 16), (17, 33), (40, 70), (64, 300), (3, 100)):
        x = rng.integers(0, 2, (2, n, m)).astype(kind)
        y = rng.integers(0, 2, (m, n)).astype(kind)
        check(turn, (2, m, n), [Operand(x.reshape(-1), 0, (n * m, 1, m)), Operand(np.zeros(2 * m * n, kind), 0, (m * n, n, 1))],
              among=(turn, both))
        check(both, (m, n), [Operand(x[0].reshape(-1), 0, (1, m)), Operand(y.reshape(-1), 0, (n, 1)),
                             Operand(np.zeros(m * n, bool), 0, (n, 1))], among=(turn, both))


def test_long_sums_stay_accurate() -> None:
    x = np.full(1 << 22, 0.1, np.float32)
    out = np.zeros(1, np.float32)
    launch(FULL_SUM, (x.size,), [Operand(x, 0, (1,)), Operand(out, 0, (0,))], among=HAND)
    np.testing.assert_allclose(out[0], x.astype(np.float64).sum(), rtol=5e-6)
    columns, rows = 4, 1 << 18
    out = np.zeros(columns, np.float32)
    launch(COLUMN_SUM, (columns, rows), [Operand(x, 0, (1, columns)), Operand(out, 0, (1, 0))], among=HAND)
    np.testing.assert_allclose(out, np.float64(np.float32(0.1)) * rows, rtol=2e-5)


# -- memory is never touched outside ---------------------------------------------------------------------------------
def test_nothing_behind_an_operand_is_touched() -> None:
    """The operands end where an unreadable page begins."""
    page = mmap.PAGESIZE
    areas = [mmap.mmap(-1, 2 * page) for _ in range(3)]
    arrays = [np.frombuffer(a, np.uint8) for a in areas]
    libc = ctypes.CDLL(None)
    for array in arrays:
        assert libc.mprotect(ctypes.c_void_p(array.ctypes.data + page), page, 0) == 0
    try:
        for n in range(1, 70):
            operands = [Operand(a[page - 4 * n:page].view(np.float32), 0, (1,)) for a in arrays]
            assert launch(AFFINE_RELU, (n,), operands, (), (1.0,), HAND)[0] == 0
            operands = [Operand(a[page - 4 * n:page].view(np.float32), 0, (n, 1)) for a in arrays[:2]]
            assert launch(SOFTMAX, (1, n), operands, among=HAND)[0] == 0
    finally:
        for array in arrays:
            libc.mprotect(ctypes.c_void_p(array.ctypes.data + page), page, 3)


# -- reduces ---------------------------------------------------------------------------------------------------------
def _reduce_kernel(kind: str, dtype: str, along: str) -> Kernel:
    strides, out = ((RUNTIME, UNIT), (UNIT, ZERO)) if along == "row" else ((UNIT, RUNTIME), (UNIT, ZERO))
    arg = kind.startswith("arg")
    result = "int64" if arg else "bool" if kind in ("any", "all") else dtype
    body = (load(0, dtype), op("argreduce" if arg else "reduce", 0, dtype=result, params=(kind,)))
    return Kernel((P, R), (reads(*strides, dtype=dtype), writes(*out, dtype=result)), (), 0, body, ((1, 1),))


REDUCE_KERNELS = tuple(
    _reduce_kernel(kind, dtype, along)
    for dtype in ("float32", "float64", "int32", "int64", "uint8", "bool", "bfloat16")
    for kind in (["any", "all"] if dtype == "bool" else ["sum", "prod", "amax", "amin"]) + ["argmax", "argmin"] * (dtype != "int64")
    for along in ("row", "column"))


@pytest.mark.parametrize("kernel", REDUCE_KERNELS, ids=lambda k: f"{k.body[1].params[0]}-{k.body[0].dtype}-{loops(k).lane}")
def test_reduces(kernel: Kernel) -> None:
    rng = np.random.default_rng(1)
    kind, dtype = kernel.body[1].params[0], by_name(kernel.body[0].dtype)
    for rows, n in ((3, 1), (5, 7), (4, 70), (2, 300), (3, 0)):
        if n == 0 and kind.startswith("arg"):
            continue
        values: np.ndarray = rng.integers(0, 4, (rows, n)) if dtype.category != FLOAT else rng.integers(-6, 7, (rows, n)) / 4
        if kind == "prod":
            values = np.where(rng.random((rows, n)) < 0.9, 1, 2)
        if kind in ("all", "any"):
            values = rng.random((rows, n)) < (0.01 if kind == "any" else 0.99)
        array = values.astype(dtype.np)
        if dtype.category == FLOAT and "a" in kind and n > 4:
            array[1, [n // 2, n - 1]] = np.nan
            array[0] = -np.inf if kind.endswith("max") else np.inf
        strides = (n, 1)
        if loops(kernel).lane == 0:
            array, strides = np.ascontiguousarray(array.T), (1, rows)
        out = Operand(np.zeros(rows, by_name(kernel.accesses[1].dtype).np), 0, (1, 0))
        rtol = 1e-2 if dtype.itemsize == 2 else 1e-6
        check(kernel, (rows, n), [Operand(array.reshape(-1), 0, strides), out], (), (), REDUCE_KERNELS, rtol)


# -- every scalar function -------------------------------------------------------------------------------------------
DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")
LOOSE = {"lgamma": 1e-5, "digamma": 1e-5, "erfinv": 1e-5}


def _functions(dtype: str) -> list[str]:
    """Names of the scalar functions a kernel may apply to `dtype`."""
    names = []
    for name, record in TABLE.items():
        if record.kind is not Kind.ELEMENTWISE or not isinstance(record.scalar, str) or record.scalar in ("cast", "select"):
            continue
        try:
            record.type_rule((_type(dtype),) * len(record.operands))
        except RuntimeError:
            continue
        if record.compute != "float" or by_name(dtype).category == FLOAT:
            names.append(name)
    return names


@functools.lru_cache
def function_kernel(dtype: str) -> tuple[Kernel, tuple[str, ...]]:
    """One kernel that stores every function of two operands of `dtype`."""
    names = tuple(_functions(dtype))
    body = [load(0, dtype), load(1, dtype)]
    accesses = [reads(UNIT, dtype=dtype), reads(UNIT, dtype=dtype)]
    for name in names:
        record = TABLE[name]
        result = "bool" if record.type_rule((_type(dtype),) * len(record.operands)).dtype.category == BOOL else dtype
        body.append(Instr(str(record.scalar), result, tuple(range(len(record.operands)))))
        accesses.append(writes(UNIT, dtype=result))
    return Kernel((P,), tuple(accesses), (), 0, tuple(body), tuple((i, i) for i in range(2, len(accesses)))), names


def _type(dtype: str) -> TensorType:
    return tensor_type((), by_name(dtype), "cpu")


def _values(dtype: str, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    kind = by_name(dtype)
    if kind.category == FLOAT:
        special = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 3.5, np.inf, -np.inf, np.nan]
        pairs = np.array([(a, b) for a in special for b in special]).T
        x, y = (np.concatenate([p, rng.standard_normal(n) * 3]) for p in pairs)
        return x.astype(kind.np), y.astype(kind.np)
    if kind.category == BOOL:
        return rng.random(n) < 0.5, rng.random(n) < 0.5
    info = np.iinfo(kind.np)
    sign = -1 if kind.signed else 1
    x = np.concatenate([rng.integers(info.min, info.max, n, dtype=kind.np, endpoint=True), rng.integers(0, 9, n), [info.min] * 8])
    y = np.concatenate([rng.integers(1, 40, n), rng.integers(1, 9, n) * sign, [1] * 8])
    return x.astype(kind.np), y.astype(kind.np)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_function(dtype: str) -> None:
    kernel, names = function_kernel(dtype)
    x, y = _values(dtype, np.random.default_rng(2), 50)
    operands = [Operand(x, 0, (1,)), Operand(y, 0, (1,))]
    operands += [Operand(np.zeros(len(x), by_name(a.dtype).np), 0, (1,)) for a in kernel.accesses[2:]]
    want, wanted = outputs(kernel, operands)
    evaluate(kernel, (len(x),), want)
    got_operands, got = outputs(kernel, operands)
    assert launch(kernel, (len(x),), got_operands)[0] == 0
    rtol = {"float16": 2e-3, "bfloat16": 1.6e-2, "float64": 1e-12}.get(dtype, 5e-7)
    faults = []
    for name, g, w in zip(names, got, wanted, strict=True):
        try:
            compare(g, w, max(rtol, LOOSE.get(name, 0)), 1e-7 if dtype != "float64" else 1e-15)
        except AssertionError as fault:
            faults.append(f"{name}: {fault}")
    assert not faults, "\n".join(faults)


def test_divisions_by_minus_one_and_minimum_exponents() -> None:
    kernel, names = function_kernel("int32")
    x = np.array([-2**31, -2**31, 7, -7, 2, -1, 1, 0], np.int32)
    y = np.array([-1, 3, -1, 2, -1, -3, -5, 31], np.int32)
    operands = [Operand(x, 0, (1,)), Operand(y, 0, (1,))]
    operands += [Operand(np.zeros(8, by_name(a.dtype).np), 0, (1,)) for a in kernel.accesses[2:]]
    assert launch(kernel, (8,), operands)[0] == 0
    found = {n: o.buffer for n, o in zip(names, operands[2:], strict=True)}
    assert found["floor_divide"].tolist() == [-2**31, -715827883, -7, -4, -2, 0, -1, 0]
    assert found["remainder"].tolist() == [0, 1, 0, 1, 0, -1, -4, 0]
    assert found["pow"].tolist()[4:7] == [0, -1, 1]


CASTS = tuple(Kernel((P,), (reads(UNIT, dtype=a), *(writes(UNIT, dtype=b) for b in DTYPES)), (), 0,
                     (load(0, a), *(op("cast", 0, dtype=b) for b in DTYPES)), tuple((i + 1, i + 1) for i in range(len(DTYPES))))
              for a in DTYPES)


@pytest.mark.parametrize("kernel", CASTS, ids=DTYPES)
def test_casts(kernel: Kernel) -> None:
    """Every dtype to every dtype, bit for bit."""
    source = by_name(kernel.accesses[0].dtype)
    rng = np.random.default_rng(3)
    x = (np.concatenate([rng.standard_normal(300) * 10.0 ** rng.integers(-7, 5, 300), [0, -0.0, 65504, 65519, 1.0009765625]])
         if source.category == FLOAT else rng.integers(-2**62 if source.itemsize == 8 else -2**31, 2**31, 300))
    x = x.astype(source.np)
    operands = [Operand(x, 0, (1,))] + [Operand(np.zeros(len(x), by_name(b).np), 0, (1,)) for b in DTYPES]
    want, wanted = outputs(kernel, operands)
    evaluate(kernel, (len(x),), want)
    got_operands, got = outputs(kernel, operands)
    launch(kernel, (len(x),), got_operands, among=CASTS)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(g, w, err_msg=str(w.dtype))


def test_half_rounding_of_special_values() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-40, -0.0, 65520.0], np.float32)
    outs = [np.zeros(8, np.float16), np.zeros(8, ml_dtypes.bfloat16)]
    kernel = Kernel((P,), (reads(UNIT), writes(UNIT, dtype="float16"), writes(UNIT, dtype="bfloat16")), (), 0, (load(0),), ((1, 0), (2, 0)))
    launch(kernel, (8,), [Operand(x, 0, (1,)), *(Operand(o, 0, (1,)) for o in outs)])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(outs[0], x.astype(np.float16))
        np.testing.assert_array_equal(outs[1].astype(np.float32), x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_users_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(expressions.EXTRA, "twice", lambda f, x: f.binary("fadd", x, x))
    kernel = Kernel((P,), (reads(UNIT), writes(UNIT)), (), 0, (load(0), op("twice", 0)), ((1, 1),))
    x, out = np.arange(20, dtype=np.float32), np.zeros(20, np.float32)
    launch(kernel, (20,), [Operand(x, 0, (1,)), Operand(out, 0, (1,))])
    np.testing.assert_array_equal(out, 2 * x)


# -- guarded loads and faults ----------------------------------------------------------------------------------------
def _gather(index_strides: tuple[int, int], source: tuple[int, int]) -> Kernel:
    return Kernel((P, P), (reads(*index_strides, dtype="int64"), reads(*source), writes(RUNTIME, UNIT)), (), 2,
                  (load(0, "int64"), op("load_at", 0, params=(1, 0, 1))), ((2, 1),))


EMBEDDING = _gather((UNIT, ZERO), (ZERO, UNIT))     # rows of a table
TAKE = _gather((RUNTIME, UNIT), (RUNTIME, ZERO))    # elements within each row
PADDED = Kernel((P,), (reads(UNIT), writes(UNIT)), (), 1,
                (op("index", dtype="int64", params=(0,)), op("slot", dtype="int64", params=(0,)), op("lt", 0, 1, dtype="bool"),
                 Instr("load_if", F32, (2,), (0,)), op("const", params=(9.0,)), op("select", 2, 3, 4)), ((1, 5),))
MODULO = Kernel((P,), (reads(UNIT, dtype="int32"), reads(UNIT, dtype="int32"), writes(UNIT, dtype="int32")), (), 0,
                (load(0, "int32"), load(1, "int32"), op("remainder", 0, 1, dtype="int32")), ((2, 2),))
GUARDED = (EMBEDDING, TAKE, PADDED, MODULO)


@pytest.mark.parametrize("bad", [None, 6, -7])
def test_gathers(bad: int | None) -> None:
    rng = np.random.default_rng(4)
    table = rng.standard_normal((6, 37)).astype(np.float32)
    index = rng.integers(-6, 6, (5, 37))
    if bad is not None:
        index[3, 0] = bad
    rows, out = np.ascontiguousarray(index[:, 0]), np.zeros((5, 37), np.float32)
    result = Operand(out.reshape(-1), 0, (37, 1))
    cases = [(EMBEDDING, [Operand(rows, 0, (1, 0)), Operand(table.reshape(-1), 0, (0, 1)), result], (6, 37)),
             (TAKE, [Operand(index.reshape(-1), 0, (37, 1)), Operand(table.reshape(-1), 0, (37, 0)), result], (6, 1))]
    for kernel, operands, slots in cases:
        if bad is None:
            check(kernel, (5, 37), operands, slots, among=GUARDED)
            continue
        with pytest.raises(Fault):
            evaluate(kernel, (5, 37), operands, slots)
        error = launch(kernel, (5, 37), operands, slots, among=GUARDED)
        assert error[:4].tolist() == [expressions.INDEX_OUT_OF_RANGE, 0, bad, 6]
        assert np.all(np.isfinite(out))


def test_guarded_load_stops_at_its_bound() -> None:
    x = np.arange(20, dtype=np.float32)
    for n in (0, 1, 20, 50):
        check(PADDED, (n,), [Operand(x[:20], 0, (1,)), Operand(np.zeros(n, np.float32), 0, (1,))], (min(n, 20),), among=GUARDED)


def test_integer_division_by_zero_is_reported() -> None:
    x, y = np.arange(40, dtype=np.int32), np.ones(40, np.int32)
    y[33] = 0
    operands = [Operand(x, 0, (1,)), Operand(y, 0, (1,)), Operand(np.zeros(40, np.int32), 0, (1,))]
    assert launch(MODULO, (40,), operands, among=GUARDED)[0] == expressions.DIVISION_BY_ZERO
    assert launch(MODULO, (33,), operands, among=GUARDED)[0] == 0  # lanes behind the end do not count


def test_division_by_a_number() -> None:
    """It is done by a reciprocal; the result is the quotient's nearest float all the same."""
    kernel = Kernel((P,), (reads(UNIT), writes(UNIT)), (F32,), 0, (load(0), op("scalar", params=(0,)), op("div", 0, 1)), ((1, 2),))
    x = np.random.default_rng(6).standard_normal(3000).astype(np.float32)
    x[:9] = [0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-30, 1e30]
    for divisor in (3.0, -7.1, 0.0, -0.0, np.inf, np.nan, 1e-40, 3e38, 1e-37, 1.9999999):
        out = np.zeros_like(x)
        launch(kernel, (x.size,), [Operand(x, 0, (1,)), Operand(out, 0, (1,))], (), (divisor,))
        with np.errstate(all="ignore"):
            want = x / np.float32(divisor)
        normal = ~(np.abs(want) < 2e-38)
        np.testing.assert_array_equal(out[normal], want[normal])
        np.testing.assert_allclose(out, want, atol=1e-44, rtol=0)


def test_half_without_hardware() -> None:
    """Every float16, and every float near the middle between two of them, converts as numpy does."""
    target = dataclasses.replace(host(), features="")
    wide = Kernel((P,), (reads(UNIT, dtype="float16"), writes(UNIT)), (), 0, (load(0, "float16"), op("cast", 0)), ((1, 1),))
    narrow = Kernel((P,), (reads(UNIT), writes(UNIT, dtype="float16")), (), 0, (load(0),), ((1, 0),))
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    floats = np.zeros(1 << 16, np.float32)
    launch(wide, (1 << 16,), [Operand(halves, 0, (1,)), Operand(floats, 0, (1,))], target=target)
    np.testing.assert_array_equal(floats, halves.astype(np.float32))
    middles = (floats.view(np.uint32)[:, None] + np.array([0, 0x1000, 0xFFF, 0x1001], np.uint32)).reshape(-1).view(np.float32)
    middles = middles[~np.isnan(middles)]
    middles = np.concatenate([middles, np.ldexp(middles, -12), np.array([65519, 65520, 1e9], np.float32)])
    out = np.zeros(middles.size, np.float16)
    launch(narrow, (middles.size,), [Operand(middles, 0, (1,)), Operand(out, 0, (1,))], target=target)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, middles.astype(np.float16))


# -- random numbers --------------------------------------------------------------------------------------------------
def test_random_bits() -> None:
    kernel = Kernel((P,), (writes(UNIT, dtype="int32"),), ("int64", "int64"), 0,
                    (op("scalar", dtype="int64", params=(0,)), op("scalar", dtype="int64", params=(1,)),
                     op("index", dtype="int64", params=(0,)), op("random", 0, 1, 2, dtype="int32")), ((0, 3),))
    for n in (1, 16, 61, 5000):
        check(kernel, (n,), [Operand(np.zeros(n, np.int32), 0, (1,))], (), (12345678901, 77))


# -- tiles -----------------------------------------------------------------------------------------------------------
def test_tiles() -> None:
    body = (load(0), load(1), op("add", 0, 1), op("relu", 2))
    accesses = (reads(RUNTIME, RUNTIME, UNIT), reads(ZERO, ZERO, UNIT), writes(RUNTIME, RUNTIME, UNIT))
    kernel = Kernel((P, P, P), accesses, (), 0, body, ((2, 3),))
    module = Module()
    emit_tile(module, kernel, "tile", host())
    code = compile_text(module.text())
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 5)(code.address("tile"))
    rng = np.random.default_rng(5)
    x, bias = rng.standard_normal((2, 9, 100)).astype(np.float32), rng.standard_normal(100).astype(np.float32)
    out = np.zeros_like(x)
    operands = [Operand(x.reshape(-1), 0, (900, 100, 1)), Operand(bias, 0, (0, 0, 1)), Operand(out.reshape(-1), 0, (900, 100, 1))]
    table = argument_table(kernel, (2, 9, 100), operands, (), (), np.zeros(8, np.int64))
    function(table.ctypes.data, 2, 7, 13, 90, 1)
    want = np.zeros_like(x)
    want[1, 2:7, 13:90] = np.maximum(x + bias, 0)[1, 2:7, 13:90]
    np.testing.assert_array_equal(out, want)


def test_tiles_refuse_reduces() -> None:
    with pytest.raises(ValueError, match="exactly the parallel axes"):
        emit_tile(Module(), ROW_SUM, "tile", host())


# -- schedules -------------------------------------------------------------------------------------------------------
def test_schedules() -> None:
    assert loops(ROW_SUM).lane_folds and loops(SOFTMAX).lane == 1
    assert not loops(COLUMN_SUM).lane_folds and loops(COLUMN_SUM).lane == 0
    assert loops(TRANSPOSE) == (1, False, (), (), 0, 256, False)
    assert analyse(SOFTMAX).kept == (3,) and len(analyse(SOFTMAX).reduces) == 3
    wide = describe("x86_64-unknown-linux-gnu", "x86-64", "+avx512f")
    assert schedule(AFFINE_RELU, wide).width == 16
    assert schedule(AFFINE_RELU, describe("aarch64-unknown-linux-gnu", "generic", "+neon")).width == 4


@pytest.mark.parametrize("target", [describe("x86_64-unknown-linux-gnu", "haswell", "+avx2,+fma,+f16c"),
                                    describe("aarch64-unknown-linux-gnu", "generic", "+neon")], ids=["avx2", "neon"])
def test_other_targets(target: Target) -> None:
    text = assembly(emit_module([("softmax", SOFTMAX), ("half", HALF), ("turn", TRANSPOSE)], target), target=target)
    assert "call\t__" not in text and "bl\t__" not in text


def test_units() -> None:
    assert parallel_units(AFFINE_RELU, (4097,))[0] == 2
    assert parallel_units(AFFINE_RELU, (0,))[0] == 0
    assert parallel_units(ROW_SUM, (7, 100_000)) == (7, 1)
    assert parallel_units(TRANSPOSE, (33, 512))[0] == -(-33 // TRANSPOSE_ROWS) * 2
    assert parallel_units(FULL_SUM, (10**6,))[0] == 1


def test_store_that_cannot_hold_its_value_is_refused() -> None:
    kernel = Kernel((P, R), (reads(RUNTIME, UNIT), writes(UNIT, ZERO)), (), 0, (load(0),), ((1, 0),))
    with pytest.raises(ValueError, match="does not move along the reduce axes"):
        emit_kernel(Module(), kernel, "k", host())


# -- random kernels --------------------------------------------------------------------------------------------------
FUZZ = [RandomKernel(seed) for seed in range(60)]
FUZZ_KERNELS = tuple(r.build() for r in FUZZ)


@pytest.mark.parametrize("bits", [128, 256, 512])
def test_random_kernels(bits: int) -> None:
    """Also with the vector lengths of other CPUs: LLVM splits or fuses them to what this one has."""
    target = dataclasses.replace(host(), vector_bits=bits)
    for random, kernel in zip(FUZZ, FUZZ_KERNELS, strict=True):
        for _ in range(4):
            sizes = [int(random.rng.choice([0, 1, 2, 3, 5, 17, 33])) for _ in kernel.axes]
            try:
                check(kernel, sizes, random.operands(sizes), among=FUZZ_KERNELS, rtol=0, atol=0, target=target)
            except Exception as fault:
                raise AssertionError(f"sizes {sizes}\n{print_kernel(kernel)}") from fault
