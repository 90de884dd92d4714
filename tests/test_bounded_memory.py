"""Many shapes and many different programs in one process keep memory bounded."""
from __future__ import annotations

import gc
from typing import Any

import pytest

import treadle
from treadle.runtime import memory, recorder


def resident() -> int:
    """Bytes of this process in memory; a skip where the system does not say."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4096
    except OSError:
        pytest.skip("needs /proc/self/statm to see the process's memory")


def test_a_thousand_shapes_of_large_tensors() -> None:
    """Each size has blocks of its own; what is cached of other sizes goes back before new blocks are mapped."""
    memory.empty_cache()
    before, most = memory.memory_stats()["reserved"], 0
    for i in range(1000):
        x = treadle.empty(700_000 + 997 * i)     # 2.7 to 6.5 MiB
        most = max(most, memory.memory_stats()["reserved"])
        del x
    assert most - before < 96 << 20
    memory.empty_cache()
    assert memory.memory_stats()["reserved"] - before < 8 << 20


def test_a_thousand_shapes_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans for shapes used longest ago go; a process at its limit does not grow."""
    recorder.forget()
    monkeypatch.setattr(recorder, "MAX_PLANS", 64)
    sizes: list[int] = []
    for i in range(1000):
        x = treadle.ones(i % 997 + 3, 8)
        (x * 2.0 + 1.0).sum().item()
        assert recorder.counters["live_plans"] <= 65
        if i % 250 == 249:
            gc.collect()
            sizes.append(resident())
    assert sizes[-1] - sizes[0] < 48 << 20
    assert recorder.counters["trims"] > 0


def test_ten_thousand_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that never repeat: the tries are cut back, and values of old ones are gone."""
    recorder.forget()
    monkeypatch.setattr(recorder, "MAX_NODES", 4000)
    monkeypatch.setattr(recorder, "MAX_PLANS", 256)
    x = treadle.ones(4)
    ops: list[Any] = [lambda t: t + 1.0, lambda t: t * 0.5, treadle.abs, treadle.neg, treadle.relu]
    sizes: list[int] = []
    in_use = memory.memory_stats()["in_use"]
    for i in range(10_000):
        t, code = x, i
        for _ in range(6):
            t, code = ops[code % 5](t), code // 5
        t.tolist()
        if i % 2500 == 2499:
            gc.collect()
            sizes.append(resident())
    counters = recorder.counters
    assert counters["live_plans"] <= 257 and counters["trie_nodes"] <= 4010
    assert sizes[-1] - sizes[0] < 32 << 20
    del t
    assert memory.memory_stats()["in_use"] - in_use < 1 << 20
