"""Plans and the native executor."""
from __future__ import annotations

import struct
import threading

import numpy as np
import pytest

from treadle.codegen.jit import compile_text
from treadle.passes.program import Ref, ScalarRef
from treadle.runtime.executor import PlanBuilder

# add: out[i] += in[i] + k for i in [lo, hi); args: out, in, k.  fail: error = (code, ...); args: cell, code.
# count: counter[0] += hi - lo, atomically.
TEXT = """
define void @add(ptr %args, i64 %lo, i64 %hi, ptr %scratch) {
entry:
  %p1 = getelementptr i64, ptr %args, i64 1
  %p2 = getelementptr i64, ptr %args, i64 2
  %out = load ptr, ptr %args
  %in = load ptr, ptr %p1
  %k = load i64, ptr %p2
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %next, %loop ]
  %a = getelementptr i64, ptr %in, i64 %i
  %o = getelementptr i64, ptr %out, i64 %i
  %x = load i64, ptr %a
  %old = load i64, ptr %o
  %y = add i64 %x, %k
  %z = add i64 %y, %old
  store i64 %z, ptr %o
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %hi
  br i1 %more, label %loop, label %end
end:
  ret void
}
define void @fail(ptr %args, i64 %lo, i64 %hi, ptr %scratch) {
  %cell = load ptr, ptr %args
  %p1 = getelementptr i64, ptr %args, i64 1
  %code = load i64, ptr %p1
  store i64 %code, ptr %cell
  ret void
}
define void @count(ptr %args, i64 %lo, i64 %hi, ptr %scratch) {
  %cell = load ptr, ptr %args
  %n = sub i64 %hi, %lo
  %old = atomicrmw add ptr %cell, i64 %n seq_cst
  store i64 %n, ptr %scratch
  ret void
}
"""


@pytest.fixture(scope="module")
def kernels() -> dict[str, int]:
    module = compile_text(TEXT)
    globals()["_keep"] = module
    return {name: module.address(name) for name in ("add", "fail", "count")}


def arrays(*lengths: int) -> list[np.ndarray]:
    return [np.zeros(8, np.int64), *(np.zeros(n, np.int64) for n in lengths)]


def pointers(data: list[np.ndarray]) -> list[int]:
    return [a.ctypes.data for a in data]


def test_steps_constants_and_scalars(kernels: dict[str, int]) -> None:
    builder = PlanBuilder()
    builder.step(kernels["add"], [Ref(1), Ref(2, 8), ScalarRef(0)], units=3)
    builder.step(kernels["add"], [Ref(1, 8), Ref(2), 100], units=2)
    plan = builder.build(3, 1)
    data = arrays(4, 4)
    data[2][:] = [1, 2, 3, 4]
    for scalar in (10, -20):
        data[1][:] = 0
        assert plan.run(pointers(data), [scalar]) == 0
        expected = np.array([2, 3, 4, 0]) + np.array([scalar] * 3 + [0]) + [0, 101, 102, 0]
        assert data[1].tolist() == expected.tolist()


def test_scalar_types(kernels: dict[str, int]) -> None:
    builder = PlanBuilder()
    for i in range(4):
        builder.step(kernels["add"], [Ref(1, 8 * i), Ref(2), ScalarRef(i)])
    data = arrays(4, 1)
    builder.build(3, 4, "qdfi").run(pointers(data), [-1, 1.5, 2.5, 7])
    assert data[1].tobytes() == struct.pack("<qdf4xi4x", -1, 1.5, 2.5, 7)


def test_error_stops_the_run(kernels: dict[str, int]) -> None:
    builder = PlanBuilder()
    builder.step(kernels["count"], [Ref(1)])
    builder.step(kernels["fail"], [Ref(0), ScalarRef(0)])
    builder.step(kernels["count"], [Ref(1)])
    plan = builder.build(2, 1)
    data = arrays(1)
    assert plan.run(pointers(data), [5]) == 5 and data[0][0] == 5 and data[1][0] == 1
    assert plan.run(pointers(data), [0]) == 0 and data[0][0] == 0 and data[1][0] == 3


def test_error_leaves_a_loop(kernels: dict[str, int]) -> None:
    builder = PlanBuilder()
    builder.begin_loop(10)
    builder.step(kernels["count"], [Ref(1)])
    builder.step(kernels["fail"], [Ref(0), 3])
    builder.end_loop()
    data = arrays(1)
    assert builder.build(2).run(pointers(data)) == 3 and data[1][0] == 1


@pytest.mark.parametrize("trip", [0, 1, 2, 5])
def test_loop_with_strides(kernels: dict[str, int], trip: int) -> None:
    """A running sum: out[t + 1] = out[t] + in[t] + 1."""
    builder = PlanBuilder()
    builder.begin_loop(trip)
    builder.step(kernels["add"], [Ref(1, 8, step=8), Ref(1, step=8), 0])
    builder.step(kernels["add"], [Ref(1, 8, step=8), Ref(2, step=8), 1])
    builder.end_loop()
    builder.step(kernels["count"], [Ref(3)])
    plan = builder.build(4)
    data = arrays(8, 8, 1)
    data[2][:] = np.arange(8)
    for _ in range(2):
        data[1][:] = 0
        assert plan.run(pointers(data)) == 0
        assert data[1][:trip + 1].tolist() == [0, *np.cumsum(np.arange(trip) + 1).tolist()]
        assert not data[1][trip + 1:].any()
    assert data[3][0] == 2


@pytest.mark.parametrize("trip", [1, 2, 3, 4])
def test_ping_pong(kernels: dict[str, int], trip: int) -> None:
    """Fibonacci: each iteration adds one of two numbers to the other."""
    builder = PlanBuilder()
    builder.begin_loop(trip)
    builder.step(kernels["add"], [Ref(1, apart=8), Ref(1, 8, apart=-8), 0])
    builder.end_loop()
    data = arrays(2)
    data[1][:] = 0, 1
    builder.build(2).run(pointers(data))
    a, b = 0, 1
    for _ in range(trip):
        a, b = b, a + b
    assert sorted(data[1].tolist()) == sorted([a, b])


@pytest.mark.parametrize("inner", [0, 1, 3, 4])
def test_nested_loops(kernels: dict[str, int], inner: int) -> None:
    """table[i] += in[i] + one of two numbers; what moves in the inner loop starts afresh for each turn of the outer one."""
    builder = PlanBuilder()
    builder.begin_loop(3)
    builder.step(kernels["count"], [Ref(4, step=8)])
    builder.begin_loop(inner)
    builder.step(kernels["add"], [Ref(1, step=8), Ref(2, step=8), 0])
    builder.step(kernels["add"], [Ref(1, step=8), Ref(3, apart=8), 0])
    builder.end_loop()
    builder.end_loop()
    data = arrays(5, 5, 2, 3)
    data[2][:] = [1, 2, 3, 4, 5]
    data[3][:] = 100, 200
    builder.build(5).run(pointers(data))
    assert data[1].tolist() == [303, 606, 309, 612, 315][:inner] + [0] * (5 - inner)
    assert data[4].tolist() == [1, 1, 1]


def test_threads_give_the_same(kernels: dict[str, int]) -> None:
    builder = PlanBuilder()
    n = 10_001
    builder.step(kernels["add"], [Ref(1), Ref(2), 7], units=n, grain=16)
    plan = builder.build(3)
    data = arrays(n, n)
    data[2][:] = np.arange(n)
    for _ in range(50):
        data[1][:] = 0
        plan.run(pointers(data))
        assert (data[1] == data[2] + 7).all()


def test_plans_in_many_threads(kernels: dict[str, int]) -> None:
    """Several threads share one plan (and its lock) and the pool."""
    builder = PlanBuilder()
    for _ in range(4):
        builder.step(kernels["count"], [Ref(1)], units=100, grain=10)
    plan = builder.build(2)
    results: list[int] = []

    def work() -> None:
        data = arrays(1)
        for _ in range(200):
            plan.run(pointers(data))
        results.append(int(data[1][0]))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [4 * 100 * 200] * 4


def test_mistakes(kernels: dict[str, int]) -> None:
    builder = PlanBuilder()
    with pytest.raises(ValueError, match="address"):
        builder.step(0, [])
    with pytest.raises(ValueError, match="units"):
        builder.step(1, [], units=-1)
    with pytest.raises(ValueError, match="no loop around"):
        builder.step(1, [Ref(0, step=8)])
    with pytest.raises(ValueError, match="end_loop without"):
        builder.end_loop()
    builder.step(kernels["count"], [Ref(5)])
    with pytest.raises(ValueError, match="buffer 5 of a plan that has 2"):
        builder.build(2)
    builder.begin_loop(1)
    with pytest.raises(ValueError, match="begin_loop without"):
        builder.build(2)
    builder.begin_loop(1)
    with pytest.raises(ValueError, match="two deep"):
        builder.begin_loop(1)
    empty = PlanBuilder().build(1)
    with pytest.raises(struct.error):
        empty.run([])
