"""Results written into the memory of values that nobody needs any more: in place where that is sound, and nowhere else."""
from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import treadle
import treadle.nn.functional as F
from treadle import nn
from treadle.passes.memory import donations
from treadle.runtime import engine, memory, native, recorder
from treadle.runtime.compiled import CompiledPlan

pytestmark = pytest.mark.skipif(native.builtins() is None, reason="builtins cannot be made in this interpreter")


@pytest.fixture(autouse=True)
def give_small_memory_too(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans keep no output, so that even small ones may be written over."""
    monkeypatch.setattr(native, "KEEP_BYTES", -1)
    recorder.forget()
    yield
    recorder.forget()


def addresses(tensors: Any) -> list[int]:
    treadle.cpu.synchronize()
    return [t._data.buffer.ptr for t in tensors]


def train(compiled: bool, kind: Any, eager: bool = False, **options: Any) -> tuple[list[float], list[Any], list[bool]]:
    """Losses, parameters, and whether each matrix stayed where it was in the last step."""
    treadle.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    optimizer = kind(model.parameters(), **options)
    x, y = treadle.randn(6, 5), treadle.randint(0, 3, (6,))

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss
    run = treadle.compile(step) if compiled else step
    losses, stayed = [], []
    for _ in range(8):
        matrices = [p for p in model.parameters() if p.dim() == 2]  # a bias is updated by the sum that is its gradient
        before = addresses(matrices)
        losses.append(run(x, y).item())
        stayed = [a == b for a, b in zip(before, addresses(matrices), strict=True)]
    return losses, [p.detach().tolist() for p in model.parameters()], stayed


@pytest.mark.parametrize("kind, options", [(treadle.optim.SGD, {"lr": 0.1}), (treadle.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
                                           (treadle.optim.Adam, {"lr": 0.01}), (treadle.optim.AdamW, {"lr": 0.01, "amsgrad": True})])
def test_parameters_are_updated_in_place(kind: Any, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, compiled = train(False, kind, **options), train(True, kind, **options)
    assert all(recorded[2]) and all(compiled[2])
    monkeypatch.setattr(CompiledPlan, "donors", lambda self, dead: [-1] * len(self.outputs))
    recorder.forget()
    for compile, in_place in ((False, recorded), (True, compiled)):
        losses, parameters, stayed = train(compile, kind, **options)
        assert losses == in_place[0] and parameters == in_place[1] and not any(stayed)


def test_old_values_that_are_held_stay() -> None:
    p = treadle.randn(32)
    kept = []
    for i in range(8):
        if i > 3:
            kept.append((p.clone(), p.tolist()))
            kept.append((p * 1, p.tolist()))
        old = p
        p = p - 0.5 * old
        treadle.cpu.synchronize()
    alias = p.detach()
    array = p.numpy()
    before = p.tolist()
    for _ in range(4):
        q = p * 2 + 1
        p = p - 0.5
        treadle.cpu.synchronize()
    assert alias.tolist() == before and array.tolist() == before
    assert np.allclose(q.numpy(), 2 * (np.array(before) - 1.5) + 1, atol=1e-5)
    assert all(t.tolist() == values for t, values in kept)


def test_views_and_aliases_under_compile() -> None:
    weight = treadle.randn(4, 8)
    column, keep = weight[:, 2], []

    @treadle.compile
    def step(scale: float) -> Any:
        old = weight * 1
        weight.mul_(scale)
        return old, weight.sum()
    expected = weight.numpy().copy()
    for i in range(8):
        held = weight.detach().clone() if i % 2 else weight.data
        snapshot = weight.tolist()
        old, total = step(0.5)
        assert old.tolist() == snapshot
        expected = expected * np.float32(0.5)
        assert np.array_equal(weight.numpy(), expected) and column.tolist() == expected[:, 2].tolist()
        if i % 2:
            assert held.tolist() == snapshot
        keep.append(old)
        assert abs(total.item() - expected.sum()) < 1e-4


def test_a_fault_in_the_data_leaves_inputs_as_they_were() -> None:
    table, index = treadle.randn(10, 4), treadle.tensor([1, 2, 3])

    @treadle.compile
    def step(index: Any) -> Any:
        rows = table[index]
        table.sub_(0.5)
        return rows
    for _ in range(4):
        step(index)
    before = table.tolist()
    with pytest.raises(IndexError):
        step(treadle.tensor([1, 99, 3])).tolist()
    assert table.tolist() in (before, (treadle.tensor(before) - 0.5).tolist())
    after = table.tolist()
    assert step(index).tolist() == [after[i] for i in (1, 2, 3)]


def test_no_step_that_may_fail_follows_a_donation() -> None:
    """An integer division after the update may stop the run: the update has to go elsewhere."""
    a, d = treadle.arange(64), treadle.ones(64, dtype=treadle.int64)
    for divisor in (1, 1, 1, 0):
        d.fill_(divisor)
        before = a.tolist()
        a = a + 1
        b = (a.flip(0).cumsum(0) // d)
        try:
            b.tolist()
        except (RuntimeError, ZeroDivisionError):
            assert divisor == 0
        assert a.tolist() == [x + 1 for x in before]


def test_an_interrupt_while_memory_is_found_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p = treadle.randn(40_000)
    for _ in range(4):
        p = p * 0.5 + 1
        p.sum().item()
    before = p.clone()
    before.tolist()
    p = p * 0.5 + 1
    extra = treadle.cat([p, p]).sum()
    for _ in range(3):
        try:
            treadle.cpu.synchronize()
        except KeyboardInterrupt:
            continue
    assert np.array_equal(p.numpy(), before.numpy() * np.float32(0.5) + np.float32(1)) and extra.item() == extra.item()


def test_threads_that_look_at_each_others_values() -> None:
    p = [treadle.ones(64)]
    seen: list[list[float]] = []

    def look() -> None:
        for _ in range(200):
            values = p[0].tolist()
            if len(set(values)) != 1:
                seen.append(values)
    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(200):
        p[0] = p[0] * 1.0 + 1.0
        if _ % 3 == 0:
            treadle.cpu.synchronize()
    thread.join()
    assert not seen and p[0].tolist() == [201.0] * 64


def test_a_look_at_what_another_thread_is_running() -> None:
    """The value is pending in a trace whose plan writes over its own inputs just now: the look waits for the result."""
    wrong: list[float] = []
    shared: list[Any] = [None]
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            t = shared[0]
            if t is not None:
                first, last = t[0].item(), t[-1].item()
                if first != last:
                    wrong.append(first - last)
    thread = threading.Thread(target=look)
    thread.start()
    p = treadle.ones(200_000)
    for _ in range(300):
        p = ((p * 1.0 + 1.0).sin() * 2.0).tanh() + 1.0
        shared[0] = p * 3.0
        treadle.cpu.synchronize()
    stop.set()
    thread.join()
    assert not wrong and p[0].item() == p[-1].item()


def test_a_destructor_may_look_at_the_trace_under_way() -> None:
    """In the thread that runs the plan, before it runs: waiting for the result would be for ever."""
    seen: list[Any] = []

    class Looking:
        def __init__(self, x: Any) -> None:
            self.x, self.me = x, self

        def __del__(self) -> None:
            seen.append(self.x[0].item())
    base = treadle.ones(40_000)
    real = memory.allocate
    for _ in range(6):
        y = base * 2.0
        Looking(y)
        gc.disable()
        try:
            z = y + 1.0
            gc.collect()  # looks at y
            Looking(z)
            gc.enable()
            treadle.cpu.synchronize()
        finally:
            gc.enable()
        assert z[0].item() == 3.0 and memory.allocate is real
    gc.collect()
    assert set(seen) == {2.0, 3.0}


def lifetimes(program: Any) -> dict[int, tuple[int, int]]:
    """From the first to the last step that touches each input or output, with what shares its memory."""
    found: dict[int, tuple[int, int]] = {}
    for number, info in enumerate(program.buffers):
        root = number
        while program.buffers[root].shares >= 0:
            root = program.buffers[root].shares
        if program.buffers[root].kind != "temp" and info.first >= 0:
            first, last = found.get(root, (info.first, info.last))
            found[root] = min(first, info.first), max(last, info.last)
    return found


def test_donors_are_dead_when_they_are_written_over() -> None:
    """On the plans of a training step: the memory plan's pairs overlap in one step at most, and sizes are equal."""
    programs = []
    graphs: list[Any] = []
    engine.observers.append(graphs.append)
    try:
        train(False, treadle.optim.Adam, lr=0.01)
    finally:
        engine.observers.clear()
    from treadle.passes.pipeline import compile_to_program
    for graph in {id(g): g for g in graphs if len(g.nodes) > 3}.values():
        programs.append(compile_to_program(graph))
    count = 0
    for program in programs:
        dead = [b for b in program.inputs if b >= 0]
        spans = lifetimes(program)
        for out, source in donations(program, dead).items():
            count += 1
            assert program.buffers[out].nbytes == program.buffers[source].nbytes
            assert source not in spans or spans[source][1] <= spans[out][0]
    assert count >= 8


def test_memory_of_a_step_in_place() -> None:
    """Ten steps of p - lr * g on 8 MiB never hold more than parameter, gradient and one result's temporaries."""
    p, g = treadle.zeros(2 << 20), treadle.ones(2 << 20)
    for _ in range(4):
        p = p - 0.1 * g
        treadle.cpu.synchronize()
    memory.reset_peak()
    for _ in range(10):
        p = p - 0.1 * g
        treadle.cpu.synchronize()
    assert memory.memory_stats()["peak"] - memory.memory_stats()["in_use"] < 4 << 20
    assert abs(p[0].item() + 1.4) < 1e-5


def test_old_gradients_make_room_before_a_captured_step_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not those that somebody else holds."""
    monkeypatch.setattr(engine, "COMPILE_AT", 1)
    model = nn.Linear(1024, 2048, bias=False)
    optimizer = treadle.optim.SGD(model.parameters(), lr=0.1)
    x = treadle.randn(4, 1024)

    def step() -> None:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
    for hold in (True, False):
        recorder.forget()
        step()
        treadle.cpu.synchronize()
        held = [model.weight.grad] if hold else []
        values = held[0].tolist() if hold else None
        gc.collect()
        memory.reset_peak()
        before = memory.memory_stats()["in_use"]
        treadle.compile(step)()
        assert not hold or held[0].tolist() == values
        # The gradient is as large as the parameter, 8 MiB.
        assert (memory.memory_stats()["peak"] - before >= 8 << 20) is hold


def test_memory_of_a_captured_step_that_is_compiled_at_once() -> None:
    """Many random numbers are drawn by machine code at first sight, and even then the new parameters take the memory of the old."""
    p = treadle.zeros(2 << 20)

    @treadle.compile
    def step() -> None:
        p.mul_(0.5).add_(treadle.rand(2 << 20))
    for _ in range(3):
        before = p.sum().item()
        gc.collect()
        memory.reset_peak()
        step()
        assert memory.memory_stats()["peak"] - memory.memory_stats()["in_use"] < 4 << 20
        assert 0.5 * before < p.sum().item() < 0.5 * before + (2 << 20)
