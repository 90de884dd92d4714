"""Which axis runs along the lanes of vectors, and what short ones become: compiled kernels equal their references."""
from __future__ import annotations

import numpy as np
import pytest
from test_emit import F32, P, R, check, launch, load, op, reads, writes

from treadle.codegen.kernel_reference import Operand
from treadle.codegen.schedule import NARROW, loops, loops_for
from treadle.ir.kernel import PAIRED, REVERSED, RUNTIME, UNIT, ZERO, Access, Instr, Kernel


def test_short_lane_axes_of_what_is_spread() -> None:
    """Where nothing is read along a short lane axis it stays: one vector holds what there is."""
    kernel = Kernel((P, P, P), (reads(RUNTIME, UNIT, ZERO), writes(RUNTIME, RUNTIME, UNIT)), (), 0, (load(0),), ((1, 0),))
    assert loops_for(kernel, (4, 70, NARROW - 1)) == loops(kernel) and loops(kernel).lane == 2
    for m, n in ((1, 3), (7, 1), (500, 4), (33, NARROW - 1), (33, NARROW)):
        x = np.random.default_rng(n).standard_normal(2 * m).astype(np.float32)
        check(kernel, (2, m, n), [Operand(x, 0, (m, 1, 0)), Operand(np.zeros(2 * m * n, np.float32), 0, (m * n, n, 1))], among=(kernel,))


def test_short_lane_axes_of_what_lies_apart() -> None:
    """Some taps of a kernel: nothing is read that is contiguous, and the axis of taps is short; the outermost is not, as a rule."""
    kernel = Kernel((P, P, P), (reads(RUNTIME, RUNTIME, RUNTIME), writes(RUNTIME, RUNTIME, UNIT)), (), 0, (load(0),), ((1, 0),))
    assert loops(kernel).lane == 2 and loops_for(kernel, (64, 5, 2)).lane == 0
    assert loops_for(kernel, (64, 5, NARROW)).lane == loops_for(kernel, (2, 5, 2)).lane == loops_for(kernel, (1, 5, 2)).lane == 2
    for sizes in ((64, 5, 2), (37, 3, 4), (1, 9, 2), (3, 9, 3), (4, 3, NARROW)):
        c, o, k = sizes
        x = np.random.default_rng(0).standard_normal(o * c * 3 * k).astype(np.float32)
        check(kernel, sizes, [Operand(x, 1, (3 * k, c * 3 * k, 2)), Operand(np.zeros(c * o * k, np.float32), 0, (o * k, k, 1))],
              among=(kernel,))


@pytest.mark.parametrize("kind", [UNIT, REVERSED, PAIRED])
def test_short_lane_axes_of_copies(kind: int) -> None:
    """Columns of a matrix are copied in one vector each row, and nothing beside them is touched."""
    kernel = Kernel((P, P), (reads(RUNTIME, kind), writes(RUNTIME, UNIT)), (), 0, (load(0),), ((1, 0),))
    assert loops_for(kernel, (70, NARROW - 1)) == loops(kernel) and loops(kernel).lane == 1
    step = {UNIT: 1, REVERSED: -1, PAIRED: 2}[kind]
    for rows in (1, 70, 5000):
        for n in (1, 2, 3, NARROW - 1, NARROW, 40):
            x = np.random.default_rng(n).standard_normal(rows * 90).astype(np.float32)
            check(kernel, (rows, n), [Operand(x, 45 if kind == REVERSED else 0, (90, step)),
                                      Operand(np.zeros(rows * (n + 3), np.float32), 1, (n + 3, 1))], among=(kernel,))


def test_lanes_do_not_jump_about() -> None:
    """Neighbours that are looked up together are read as such, however the places lie that are looked up."""
    body = (load(0, "int64"), Instr("load_at", F32, (0,), (1, 0, 1)), op("reduce", 1, params=("sum",)))
    kernel = Kernel((P, P, R), (reads(RUNTIME, ZERO, UNIT, dtype="int64"), reads(ZERO, UNIT, ZERO), writes(RUNTIME, UNIT, ZERO)),
                    (), 2, body, ((2, 2),))
    assert loops(kernel).lane == 1
    places, x = np.array([2, 0, 1, 3, 2, 2], np.int64), np.random.default_rng(0).standard_normal(4 * 20).astype(np.float32)
    check(kernel, (3, 20, 2), [Operand(places, 0, (2, 0, 1)), Operand(x, 0, (0, 1, 0)), Operand(np.zeros(60, np.float32), 0, (20, 1, 0))],
          slots=(4, 20), among=(kernel,))


def test_narrow_lane_axes() -> None:
    """An axis of a few elements that lie side by side is not the one in vectors, if another is read so."""
    kernel = Kernel((P, P, P), (reads(RUNTIME, UNIT, RUNTIME), reads(ZERO, ZERO, RUNTIME), writes(RUNTIME, RUNTIME, UNIT)), (), 0,
                    (load(0), load(1), op("mul", 0, 1)), ((2, 2),))
    assert loops(kernel).lane == 2 and loops_for(kernel, (4, 70, NARROW)).lane == 2 and loops_for(kernel, (4, 70, NARROW - 1)).lane == 1
    for m, n in ((1, 3), (70, 1), (5000, 3), (33, NARROW - 1), (33, NARROW)):
        x, y = np.random.default_rng(n).standard_normal((2, 2, n, m)).astype(np.float32)
        check(kernel, (2, m, n), [Operand(x.reshape(-1), 0, (n * m, 1, m)), Operand(y.reshape(-1), 0, (0, 0, 1)),
                                  Operand(np.zeros(2 * m * n, np.float32), 0, (m * n, n, 1))], among=(kernel,))


def test_pairs_that_drift_apart_are_read_one_by_one() -> None:
    """Two accesses that begin side by side need not stay so: their strides along other axes may differ."""
    accesses = tuple(Access("float32", w, (RUNTIME, PAIRED)) for w in (False, False, True, True))
    kernel = Kernel((P, P), accesses, (), 0, (load(0), load(1)), ((2, 0), (3, 1)))
    x, n = np.arange(400, dtype=np.float32), 40
    for row in (80, 90):
        out = np.zeros((3, 2 * n), np.float32)
        operands = [Operand(x, 0, (80, 2)), Operand(x, 1, (row, 2)), Operand(out, 0, (80, 2)), Operand(out, 1, (80, 2))]
        assert launch(kernel, (3, n), operands)[0] == 0
        for i in range(3):
            np.testing.assert_array_equal(out[i, 0::2], x[80 * i:80 * i + 80:2])
            np.testing.assert_array_equal(out[i, 1::2], x[row * i + 1:row * i + 81:2])
