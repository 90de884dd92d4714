"""Large results of light maps are written past the caches: the same values wherever operands and results lie."""
from __future__ import annotations

import ctypes

import numpy as np
import pytest

from treadle.codegen import emit
from treadle.codegen.emit import emit_module
from treadle.codegen.jit import CompiledModule, compile_text
from treadle.codegen.kernel_reference import argument_table, operand
from treadle.codegen.schedule import schedule
from treadle.codegen.target import host
from treadle.ir.kernel import PARALLEL, UNIT, Access, Axis, Instr, Kernel

READ, WRITE = Access("float32", False, (UNIT,)), Access("float32", True, (UNIT,))
SUM = Kernel((Axis(PARALLEL),), (READ, READ, WRITE), (), 0,
             (Instr("load", "float32", (), (0,)), Instr("load", "float32", (), (1,)), Instr("add", "float32", (0, 1))), ((2, 2),))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> CompiledModule:
    monkeypatch.setattr(emit, "STREAM_BYTES", 1 << 12)
    text = emit_module([("sum", SUM)], host())
    assert text.count("!nontemporal") == schedule(SUM, host()).copies
    return compile_text(text)


def placed(count: int, offset: int) -> np.ndarray:
    """Room for floats that start `offset` elements after a multiple of 64 bytes."""
    raw = np.zeros(count + 64, np.float32)
    start = -raw.ctypes.data % 64 // 4 + offset
    return raw[start:start + count]


@pytest.mark.parametrize("size", [100, 1024, 4096, 5003, 9000])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("in_place", [False, True])
def test_streamed_sums(module: CompiledModule, size: int, offset: int, in_place: bool) -> None:
    rng = np.random.default_rng(size)
    a, b, out = placed(size, offset), placed(size, 0), placed(size, offset)
    a[:], b[:] = rng.standard_normal((2, size), np.float32)
    expected = a + b
    if in_place:
        out = a
    error = np.zeros(8, np.int64)
    operands = [operand(SUM, i, (size,), array) for i, array in enumerate((a, b, out))]
    table = argument_table(SUM, (size,), operands, (), (), error)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(module.address("sum"))
    units = -(-size // 4096)
    for unit in range(units):
        run(table.ctypes.data, unit, unit + 1, None)
    np.testing.assert_array_equal(out, expected)
