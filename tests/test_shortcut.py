"""Compiled calls and flushes in machine code: what they must leave to Python, and what they must not change."""
from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import nn
from treadle.compilation.shortcut import EMPTY
from treadle.runtime import engine, memory, native, recorder
from treadle.runtime.recorder import STATE

pytestmark = pytest.mark.skipif(native.builtins() is None, reason="builtins cannot be made in this interpreter")
FACTOR = 2.0


def add(a: Any, b: Any) -> Any:
    return a + b


def scaled(a: Any, rate: Any) -> Any:
    return (a * FACTOR).relu(), a - rate


def closed_over(function: Any) -> Any:
    def apply(a: Any) -> Any:
        return function(a) + 1

    def change(other: Any) -> None:
        nonlocal function
        function = other
    return apply, change


def taken(compiled: Any, *args: Any) -> Any:
    """The last result of a few calls, after which the shortcut is there."""
    for _ in range(4):
        result = compiled(*args)
    assert compiled._shortcut is not EMPTY
    return result


def test_results_and_hits() -> None:
    a, b = treadle.randn(8), treadle.randn(8)
    f, g = treadle.compile(add), treadle.compile(scaled)
    assert treadle.equal(taken(f, a, b), a + b)
    before = f.last.hits
    assert treadle.equal(f(a, b), a + b) and f.last.hits == before + 1 and f.captures == 1
    first, second = taken(g, a, 0.5)
    for rate in (0.25, 3.0):
        first, second = g(a, rate)
        assert treadle.equal(second, a - rate) and treadle.equal(first, (a * 2).relu())
    assert g.captures == 1
    assert first.grad is None and not first.requires_grad and first._storage is None
    first.add_(1)  # a result is a tensor like any other
    assert treadle.equal(first, (a * 2).relu() + 1) and treadle.equal(g(a, 1.0)[0], (a * 2).relu())


def test_what_no_longer_holds_is_seen() -> None:
    global FACTOR
    a, b = treadle.randn(8), treadle.randn(8)
    f, g = treadle.compile(add), treadle.compile(scaled)
    taken(f, a, b), taken(g, a, 0.5)
    for x, y in ((a[:4], b[:4]), (a.double(), b), (a, 2.0), (a, b[:1]), (nn.Parameter(a.clone()), b), (a[::2], b[::2])):
        assert treadle.equal(f(x, y), x + y) and f(x, y).requires_grad is (x + y).requires_grad
        taken(f, a, b)
    assert treadle.equal(f(a, b=b), a + b) and treadle.equal(f(b=b, a=a), a + b)
    with pytest.raises(TypeError):
        f(a)
    FACTOR = 3.0
    assert treadle.equal(g(a, 0.5)[0], (a * 3).relu()) and g.captures == 1
    FACTOR = 3  # type: ignore[assignment]
    assert treadle.equal(g(a, 0.5)[0], (a * 3).relu())
    FACTOR = 2.0
    apply, change = closed_over(treadle.relu)
    h = treadle.compile(apply)
    taken(h, a)
    change(treadle.exp)
    assert treadle.equal(h(a), a.exp() + 1)


def test_modes() -> None:
    a = treadle.randn(8, 8)
    f = treadle.compile(lambda x: x @ x)
    taken(f, a)
    with treadle.autocast("cpu", treadle.bfloat16):
        assert f(a).dtype is treadle.bfloat16
    with treadle.inference_mode():
        assert treadle.allclose(f(a), a @ a)  # whose first run is numpy's
    g = treadle.compile(lambda x: x + 0.5)
    whole = treadle.arange(4)
    assert taken(g, whole).dtype is treadle.float32
    treadle.set_default_dtype(treadle.float64)
    try:
        assert g(whole).dtype is treadle.float64
    finally:
        treadle.set_default_dtype(treadle.float32)
    assert taken(g, whole).dtype is treadle.float32
    treadle.compiler.reset()
    assert g._shortcut is EMPTY and treadle.equal(g(whole), whole + 0.5)


def test_arguments_with_a_history() -> None:
    a, b = treadle.randn(8), treadle.randn(8)
    f = treadle.compile(add)
    taken(f, a, b)
    base = treadle.randn(4, 8)
    row = base[1]
    base.mul_(2)  # the row is derived anew
    assert treadle.equal(f(row, a), base[1] + a)
    shared = treadle.zeros(8)
    view = shared.numpy()
    view[3] = 5
    assert f(shared, treadle.zeros(8))[3].item() == 5
    assert treadle.equal(f(a * 3, b), a * 3 + b)  # not computed yet
    assert treadle.equal(f(a, a), a + a)


def test_memory_from_outside() -> None:
    """What numpy writes into shared memory is seen at once, recorded or compiled."""
    array = np.zeros(8, np.float32)
    a, b = treadle.from_numpy(array), treadle.ones(8)
    f = treadle.compile(add)
    taken(f, a, b)
    flat = a.reshape(2, 4).T
    for i in range(5):
        array[i] = i
        assert f(a, b).tolist() == (array + 1).tolist() and (a + b).tolist() == (array + 1).tolist()
        assert (flat + 0).tolist() == array.reshape(2, 4).T.tolist()
        a.mul_(2)
        assert array[i] == 2 * i and f(a, b).tolist() == (array + 1).tolist() and (b + a).tolist() == (array + 1).tolist()
    del array
    assert f(a, b).tolist() == (a + b).tolist()


def test_subclasses_and_methods() -> None:
    class Own(treadle.Tensor):
        pass

    class Holder:
        @treadle.compile
        def twice(self, x: Any) -> Any:
            return x * 2
    a = treadle.randn(8)
    f = treadle.compile(add)
    taken(f, a, a.clone())
    own = treadle.Tensor._make_subclass(Own, a)
    assert treadle.equal(f(own, a), a + a)
    holder = Holder()
    for _ in range(4):
        assert treadle.equal(holder.twice(a), a * 2)
    assert add.__name__ == f.__name__ and callable(f)


def test_references_are_balanced() -> None:
    a, b = treadle.randn(8), treadle.randn(8)
    f = treadle.compile(scaled)
    taken(f, a, 0.5)

    def counts() -> list[int]:
        return [sys.getrefcount(x) for x in (a, a._data, a._data.type, f._shortcut, f.last, None, False)]
    treadle.cpu.synchronize()
    gc.collect()
    before = counts()
    for _ in range(2000):
        f(a, 0.5)
        add(a, b)
        treadle.cpu.synchronize()
    gc.collect()
    assert [y - x for x, y in zip(before, counts(), strict=True) if abs(x - y) > 200] == []


def test_threads_share_a_shortcut() -> None:
    inputs = [treadle.full((8,), float(i)) for i in range(4)]
    f = treadle.compile(add)
    taken(f, inputs[0], inputs[1])
    wrong: list[Any] = []

    def work(i: int) -> None:
        for _ in range(300):
            if f(inputs[i], inputs[0])[7].item() != i:
                wrong.append(i)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


class Recording:
    """Records and looks when it is collected."""

    def __init__(self, x: Any, out: list[Any]) -> None:
        self.x, self.out = x, out
        self.me = self

    def __del__(self) -> None:
        self.out.append((self.x + 1) * 2)


def test_a_flush_under_way_may_be_recorded_in() -> None:
    """Garbage collected while a plan runs may record: it belongs to the next trace, and the flushed one is not used for two things."""
    x, out = treadle.randn(8), []
    real = memory.allocate
    big = treadle.randn(40000)  # its results are allocated anew at every run

    def step() -> Any:
        y = big * 2
        treadle.cpu.synchronize()
        return y
    for _ in range(4):
        step()
    assert STATE.here.spare is not None
    for k in range(6):
        Recording(x * float(k), out)
        gc.disable()
        try:
            y = big * 2
            gc.collect()
            treadle.cpu.synchronize()
        finally:
            gc.enable()
        assert treadle.equal(y[:3], big[:3] * 2) and memory.allocate is real
    assert all(treadle.equal(o, (x * float(k) + 1) * 2) for k, o in enumerate(out)) and len(out) == 6


def test_flushed_traces_are_used_again() -> None:
    a = treadle.randn(8)
    for _ in range(4):
        a * 2
        treadle.cpu.synchronize()
    before = engine.flushes["synchronize"], engine.counters["compiled_runs"], recorder.counters["ops_recorded"]
    shells = set()
    for _ in range(10):
        b = a * 2
        shells.add(id(STATE.here.trace))
        treadle.cpu.synchronize()
        assert b._data.trace is None and b._data.buffer is not None and not STATE.here.trace.values
    assert len(shells) == 2
    after = engine.flushes["synchronize"], engine.counters["compiled_runs"], recorder.counters["ops_recorded"]
    assert [y - x for x, y in zip(before, after, strict=True)] == [10, 10, 10]


def test_a_trace_in_use_is_not_used_again() -> None:
    a = treadle.randn(8)
    for _ in range(4):
        b = a * 2
        treadle.cpu.synchronize()
    b = a * 2
    trace = STATE.here.trace
    treadle.cpu.synchronize()
    assert STATE.here.spare is not trace and STATE.here.trace is not trace and not trace.values
    assert treadle.equal(b, a + a)
