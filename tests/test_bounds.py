"""Memory of the process stays bounded: tries, plans, kernels; and loops that look at nothing repeat the same trace."""
from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import treadle as torch
from treadle import nn
from treadle.runtime import compiled, engine, native, recorder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(recorder, "MAX_NODES", 400)
    monkeypatch.setattr(recorder, "MAX_PLANS", 40)
    recorder.forget()
    yield
    recorder.forget()


def count(steps: list[Any]) -> tuple[int, int]:
    """Nodes below `steps`, and their plans, as they are."""
    nodes = plans = 0
    while steps:
        step = steps.pop()
        nodes += len(step.next)
        plans += len(step.plans)
        steps.extend(step.next.values())
    return nodes, plans


def test_many_shapes_and_traces_stay_bounded(small: None) -> None:
    largest = 0
    for n in range(1, 300):
        x = torch.zeros(n)
        for _ in range(n % 7):
            x = x + 1.0
        assert x.sum().item() == n * (n % 7)
        nodes, plans = count(list(recorder._ROOTS.values()))
        assert nodes == recorder.counters["trie_nodes"] and plans == recorder.counters["live_plans"]
        largest = max(largest, nodes)
        assert nodes <= 400 + 16 and plans <= 40
    assert largest > 100 and recorder.counters["trims"] > 3


def test_threads_record_while_others_trim(small: None) -> None:
    wrong: list[Any] = []

    def work(seed: int) -> None:
        try:
            for n in range(1, 60):
                x = torch.full((n,), float(seed))
                for _ in range((n + seed) % 5):
                    x = x + 1.0
                if x.sum().item() != n * (seed + (n + seed) % 5):
                    wrong.append((seed, n))
        except BaseException as error:
            wrong.append(error)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and recorder.counters["trims"] > 0


def test_what_is_used_stays(small: None) -> None:
    def often() -> list[float]:
        return (torch.full((3,), 2.0) * 3.0).tolist()
    for n in range(1, 200):
        assert often() == [6.0] * 3
        torch.zeros(n).add(1.0).tolist()
    before = engine.counters["plans"]
    often()
    assert engine.counters["plans"] == before


def test_forgotten_plans_give_their_memory_back(small: None) -> None:
    refs = []
    for n in range(1, 100):
        for _ in range(2):
            x = torch.zeros(n) + 1.0
            plan: Any = engine.flush("test")
            del x
        refs.append(weakref.ref(plan.compiled.segments[0] if plan.compiled.binding is None else plan.compiled.binding))
        del plan
    gc.collect()
    assert sum(ref() is not None for ref in refs) <= 40
    recorder.forget()
    gc.collect()
    assert all(ref() is None for ref in refs)


def test_kernels_used_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MAX_KERNELS", 12)
    recorder.forget()
    compiled._forget_kernels(0)
    ops = [torch.exp, torch.sin, torch.cos, torch.tanh, torch.sqrt]
    for i, f in enumerate(ops):
        for g in ops:
            for _ in range(2):
                x = g(f(torch.ones(5) * 0.5))
                (x + i).tolist()
            assert len(compiled._KERNELS) <= 12 and compiled._KERNELS.keys() == compiled._MODULES.keys()
    assert f"{torch.exp(torch.zeros(2)).tolist()}" == "[1.0, 1.0]"
    recorder.forget()


def steps_of(plans_before: int) -> int:
    return engine.counters["plans"] - plans_before


def test_training_that_looks_at_nothing_repeats_one_trace() -> None:
    recorder.forget()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(5, 4), torch.zeros(5, 2)
    torch.cpu.synchronize()
    before, flushed = engine.counters["plans"], engine.flushes[recorder.STEADY]
    for _ in range(400):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
    assert engine.flushes[recorder.STEADY] - flushed > 10
    assert steps_of(before) <= 3
    assert loss.item() < 10


def test_a_loop_that_looks_at_its_loss_is_not_cut() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = engine.flushes[recorder.STEADY]
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).sum()
        loss.backward()
        optimizer.step()
        loss.item()
    assert engine.flushes[recorder.STEADY] == before


@pytest.mark.parametrize("body", [1, 3, 7, 10])
def test_long_loops_are_cut_at_whole_repetitions(body: int) -> None:
    recorder.forget()
    x, y = torch.ones(4), torch.full((4,), 0.5)
    torch.cpu.synchronize()
    before = engine.counters["plans"]
    h = x
    for _ in range(12_000 // body):
        h = h * y
        for _ in range(body - 1):
            h = torch.tanh(h + y) if body > 5 else h + y
    h.tolist()
    assert steps_of(before) <= 6


def test_periods() -> None:
    assert recorder._period(list("abcabcab")) == 3
    assert recorder._period(list("aaaa")) == 1
    assert recorder._period(list("abcd")) == 4
    assert recorder._period([]) == 1


def test_nothing_is_kept_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.builtins() is None:
        pytest.skip("this interpreter gets no builtins")
    monkeypatch.setattr(native, "KEEP_ALL_BYTES", native.Binding.kept_by_all + 1000)
    recorder.forget()
    for n in range(100, 130):
        for _ in range(2):
            (torch.zeros(n) + 1.0).tolist()
    assert native.Binding.kept_by_all <= native.KEEP_ALL_BYTES
    recorder.forget()
