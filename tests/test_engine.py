"""The engine: tiers, what is never compiled again, faults in the data, threads, long traces."""
from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import treadle as torch
import treadle.nn.functional as F
from treadle import nn
from treadle.runtime import engine, recorder


@pytest.fixture
def compiled_at_once() -> Iterator[None]:
    before, engine.COMPILE_AT = engine.COMPILE_AT, 1
    yield
    engine.COMPILE_AT = before
    recorder.forget()


def train_step(model: nn.Module, optimizer: Any, batch: int, length: int) -> float:
    x = torch.randn(batch, length, 6)
    loss = F.cross_entropy(model(x)[0][:, -1], torch.zeros(batch, dtype=torch.int64))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_first_sighting_is_interpreted_and_the_second_compiled() -> None:
    recorder.forget()
    x = torch.arange(7.0)
    torch.cpu.synchronize()
    before = torch.stats()
    for _ in range(3):
        assert (x * 3 + 1).tolist() == [1, 4, 7, 10, 13, 16, 19]
    after = torch.stats()
    assert after["interpreted_runs"] - before["interpreted_runs"] == 1
    assert after["compiled_runs"] - before["compiled_runs"] == 2


def test_numbers_and_sizes_compile_no_llvm(compiled_at_once: None) -> None:
    torch.manual_seed(0)
    model = nn.LSTM(6, 5, batch_first=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        train_step(model, optimizer, batch=4, length=7)
    before = torch.stats()
    for lr, batch, length in ((0.02, 4, 7), (0.003, 4, 7), (0.01, 9, 7), (0.01, 4, 12), (0.5, 31, 3)):
        optimizer.param_groups[0]["lr"] = lr
        assert np.isfinite(train_step(model, optimizer, batch, length))
    assert torch.stats()["llvm_compiles"] == before["llvm_compiles"]
    assert torch.stats()["plans"] > before["plans"]


def test_an_index_out_of_range_names_op_line_and_value() -> None:
    x = torch.arange(5.0)
    with pytest.raises(IndexError, match=r"index 7 is out of bounds.*test_engine\.py:\d+"):
        x[torch.tensor([1, 7])].tolist()


def test_a_fault_spares_what_does_not_depend_on_it(compiled_at_once: None) -> None:
    x = torch.arange(5.0)
    fine = x * 2
    broken = x[torch.tensor([9])] + 1
    with pytest.raises(IndexError, match="out of bounds"):
        broken.tolist()
    assert fine.tolist() == [0, 2, 4, 6, 8]
    with pytest.raises(RuntimeError, match="never computed, because an earlier operation failed"):
        (broken * 2).tolist()


def test_type_errors_are_raised_at_the_call_and_leave_the_trace_usable() -> None:
    x, y = torch.ones(2, 3), torch.ones(4)
    kept = x + 1
    with pytest.raises(RuntimeError, match=r"The size of tensor a \(3\) must match the size of tensor b \(4\)"):
        x + y
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        x @ x
    with pytest.raises(TypeError):
        x + "text"
    assert (kept * 2.5).sum().item() == 30.0


def test_threads_record_at_once() -> None:
    results: dict[int, float] = {}

    def work(n: int) -> None:
        torch.manual_seed(0)
        x = torch.full((50,), float(n))
        for _ in range(60):
            x = x * 1.01 + 0.5
            if float(x[0]) > 1e6:
                break
        results[n] = x.sum().item()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for n in range(4):
        value = float(n)
        for _ in range(60):
            value = value * 1.01 + 0.5
        assert results[n] == pytest.approx(50 * value, rel=1e-4)


def test_a_value_pending_in_another_thread_can_be_read() -> None:
    made: list[torch.Tensor] = []
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        made.append(torch.ones(3) * 4)
        ready.set()
        done.wait(10)
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(10)
    assert (made[0] + 1).tolist() == [5, 5, 5]
    done.set()
    thread.join()


def test_eager_mode_computes_op_by_op() -> None:
    state = recorder.STATE.here
    before = state.eager
    state.eager = True
    try:
        x = torch.ones(3) * 2
        assert x._data.buffer is not None
    finally:
        state.eager = before


def test_20000_chained_ops_record_differentiate_and_run() -> None:
    x = torch.ones(4, requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y * 1.0001 + 0.0
    y.sum().backward()
    assert x.grad.tolist() == pytest.approx([1.0001 ** 10_000] * 4, rel=1e-3)


def test_values_nobody_wants_leave_no_cycles() -> None:
    import gc
    x = torch.ones(5, requires_grad=True)

    def step() -> float:
        y = (x * 2).exp().sum()
        y.backward()
        x.grad = None
        return y.item()
    for _ in range(4):  # interpreted, compiled, replayed
        step()
    gc.collect()
    gc.disable()
    try:
        step()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_memory_shared_with_numpy_is_seen_both_ways() -> None:
    array = np.zeros(4, np.float32)
    t = torch.from_numpy(array)
    array[1] = 3
    doubled = t * 2
    array[1] = 5
    assert doubled.tolist() == [0, 6, 0, 0]
    t.add_(1)
    assert array.tolist() == [1, 6, 1, 1]
    out = torch.ones(3)
    seen = out.numpy()
    out.mul_(4)
    assert seen.tolist() == [4, 4, 4]


def test_a_refused_call_leaves_no_numbers_behind() -> None:
    x = torch.ones(3)
    kept = x * 2.0
    with pytest.raises(TypeError, match="dtype"):
        torch.full((2,), 5.0, dtype="f")
    with pytest.raises(RuntimeError):
        torch.addcmul(x, x, torch.ones(4), value=7.0)
    assert (kept + 0.5).tolist() == [2.5, 2.5, 2.5]


def test_a_sum_spread_over_the_axis_it_folded(compiled_at_once: None) -> None:
    from treadle import ops
    x, y = torch.arange(6.0).reshape(2, 3), torch.arange(3.0)
    spread = ops.expand((x * y).sum(1).reshape(1, 2, 1), (1, 2, 3))
    assert spread.tolist() == [[[5.0] * 3, [14.0] * 3]]


def test_many_draws_are_compiled_at_first_sight() -> None:
    """They would take numpy longer than the compiler; the bits are the same."""
    engine.COMPILE_AT = 2
    for count, interpreted in ((1000, 1), (engine.MANY_DRAWS + 1, 0)):
        torch.manual_seed(count)
        before = engine.counters["interpreted"]
        first = torch.rand(count).numpy().copy()
        assert engine.counters["interpreted"] - before == interpreted
        torch.manual_seed(count)
        assert first.tobytes() == torch.rand(count).numpy().tobytes()
