"""Builtins made by the JIT: they agree with the same work done in Python, and never hand out memory that somebody holds."""
from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import treadle as torch
from treadle.codegen import python_calls
from treadle.interop import Imported
from treadle.runtime import engine, launch, memory, native, recorder
from treadle.runtime.recorder import computed
from treadle.tensor import Storage

needs_builtins = pytest.mark.skipif(native.builtins() is None, reason="this interpreter gets no builtins")


@pytest.fixture
def compiled_at_once() -> Iterator[None]:
    before, engine.COMPILE_AT = engine.COMPILE_AT, 1
    recorder.forget()
    yield
    engine.COMPILE_AT = before
    recorder.forget()


@pytest.fixture(params=["builtins", "python"])
def either_way(request: Any, monkeypatch: pytest.MonkeyPatch, compiled_at_once: None) -> str:
    """Once with builtins, once as on an interpreter that has none."""
    if request.param == "python":
        monkeypatch.setattr(native, "builtins", lambda: None)
        monkeypatch.setattr(engine, "wanted", engine._wanted)
    elif native.builtins() is None:
        pytest.skip("this interpreter gets no builtins")
    yield request.param
    engine.wanted = engine._wanted


def test_both_ways_compute(either_way: str) -> None:
    x, y = torch.arange(6.0), torch.ones(6)
    for i in range(4):
        kept = x * i + y
        again = (kept - 1).exp()
        assert kept.tolist() == [k * i + 1.0 for k in range(6)]
        assert again.tolist() == pytest.approx(np.exp(np.arange(6, dtype=np.float32) * i).tolist())


def test_numbers_become_scalars(either_way: str) -> None:
    floats, doubles, integers = torch.zeros(2), torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    flags = torch.tensor([True, False])
    for _ in range(2):
        assert (floats + 1e300).tolist() == [float("inf")] * 2
        assert (floats + 0.1).tolist() == [float(np.float32(0.1))] * 2
        assert (doubles + 0.1).tolist() == [0.1] * 2
        assert (integers + -7).tolist() == [-7, -7]
        assert (integers + (2 ** 63 - 1)).tolist() == [2 ** 63 - 1] * 2
        assert (flags ^ True).tolist() == [False, True]
        assert (doubles + 3).tolist() == [3.0, 3.0]
        assert (floats.to(torch.bfloat16) + 1.5).tolist() == [1.5, 1.5]


def test_results_that_live_keep_their_memory(either_way: str) -> None:
    x = torch.arange(8.0)
    held = []
    for i in range(6):
        held.append(x + float(i))
        torch.cpu.synchronize()
    assert [h[0].item() for h in held] == [0, 1, 2, 3, 4, 5]
    window, array = held[2][3:5], held[3].numpy()
    del held
    for _ in range(4):
        _ = x + 100.0
        torch.cpu.synchronize()
    assert window.tolist() == [5, 6] and array.tolist() == [3, 4, 5, 6, 7, 8, 9, 10]


@needs_builtins
def test_memory_of_the_last_run_is_used_again(compiled_at_once: None) -> None:
    x = torch.arange(8.0)
    torch.cpu.synchronize()
    addresses = set()
    for _ in range(6):
        y = x + 1.0
        torch.cpu.synchronize()
        addresses.add(y._data.buffer.ptr)
    assert len(addresses) <= 2


@needs_builtins
def test_large_results_are_not_kept(compiled_at_once: None) -> None:
    x = torch.zeros(1 << 20)
    for _ in range(2):
        y = x + 1.0
        torch.cpu.synchronize()
    before = memory.memory_stats()["in_use"]
    del y
    assert before - memory.memory_stats()["in_use"] >= 4 << 20


@needs_builtins
def test_live_sees_references() -> None:
    found = native.builtins()
    values: list[Any] = [computed(None, None) for _ in range(5)]  # type: ignore[arg-type]
    held = [values[1], values[4]]
    assert found.live(values) == bytes([0, 1, 0, 0, 1])
    del held
    assert found.live(values) == bytes(5)


@needs_builtins
def test_foreign_objects_take_the_slow_way(compiled_at_once: None) -> None:
    x = torch.arange(4.0)
    torch.cpu.synchronize()
    y = x * 2.0
    plan = engine.flush("test")
    assert plan is not None and plan.launch is not None and y.tolist() == [0, 2, 4, 6]
    good = x._data.buffer
    assert plan.launch(good) is None and plan.launch() is None            # the wrong number of arguments
    assert plan.launch(object(), 2.0) is None and plan.launch(None, 2.0) is None
    assert plan.launch(good, "text") is None
    made = plan.launch(good, 3.0)
    assert memory.as_numpy(made[0], (4,), np.float32).tolist() == [0, 3, 6, 9]
    with pytest.raises(IndexError):
        plan.launch_values([], [])


@needs_builtins
def test_references_balance(compiled_at_once: None) -> None:
    x = torch.arange(4.0)
    torch.cpu.synchronize()
    plan: Any = None
    for _ in range(3):
        y = x * 2.0
        plan = engine.flush("test")
    buffer, count = x._data.buffer, sys.getrefcount(x._data.buffer)
    none = sys.getrefcount(None)
    for _ in range(10_000):
        plan.launch(buffer, 2.0)
        y = x * 2.0
        engine.flush("test")
    del y
    assert sys.getrefcount(buffer) == count
    assert abs(sys.getrefcount(None) - none) < 1000


@needs_builtins
def test_a_plan_in_use_is_run_from_python(compiled_at_once: None) -> None:
    """Threads that share one plan, long enough to meet in it."""
    x = torch.ones(300_000)
    torch.cpu.synchronize()
    y = x * 2.0
    plan: Any = engine.flush("test")
    del y
    wrong = []

    def work(k: float) -> None:
        for _ in range(30):
            results = plan.launch(x._data.buffer, k) or plan.compiled.run([x._data.buffer], [k])
            array = memory.as_numpy(results[0], (300_000,), np.float32)
            if not (array == k).all():
                wrong.append(k)
    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_plans_die_with_the_trie(compiled_at_once: None) -> None:
    if native.builtins() is None:
        pytest.skip("this interpreter gets no builtins")
    gc.collect()
    recorder.forget()
    gc.collect()
    kept = native.Binding.kept_by_all
    for n in range(1, 20):
        (torch.ones(n) + 1).tolist()
    assert native.Binding.kept_by_all > kept
    recorder.forget()
    gc.collect()
    assert native.Binding.kept_by_all == kept


def test_launches_written_in_python_are_readable(compiled_at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "builtins", lambda: None)
    x = torch.ones(3) + 1.0
    plan: Any = engine.flush("test")
    assert plan.launch_values is None and x.tolist() == [2, 2, 2]
    assert launch.launchable(plan.compiled)


def test_text_names_no_address() -> None:
    """The module is cached on disk: it may depend on the interpreter, not on this process."""
    offsets = python_calls.Offsets(16, 40, 32)
    text = python_calls.launch_text(offsets)
    assert text == python_calls.launch_text(offsets) and "inttoptr" not in text


@needs_builtins
def test_recording_leaves_what_is_not_common_to_python(compiled_at_once: None) -> None:
    x, y = torch.arange(4.0), torch.arange(4.0)
    torch.cpu.synchronize()
    found = native.recording_builtins({"Tensor": torch.Tensor, "Storage": Storage, "Imported": Imported})
    assert found is not None
    for _ in range(2):
        assert (x + x).tolist() == [0, 2, 4, 6] and (x + y).tolist() == [0, 2, 4, 6]
    trace = recorder.STATE.here.trace
    pending = x * 3
    before = len(trace.values)
    assert found.record(trace, None, (), x._data) is None                   # never seen
    assert found.record(trace, None, (), *[x._data] * 9) is None            # too many operands
    assert found.record(trace, None, (), object()) is None
    assert len(trace.values) == before and pending.tolist() == [0, 3, 6, 9]


@needs_builtins
def test_recording_keeps_references_balanced(compiled_at_once: None) -> None:
    x, y = torch.arange(4.0), torch.arange(4.0)
    torch.cpu.synchronize()
    for _ in range(3):
        ((x + y) * 2.5 - x).tolist()
    number = 2.5 * 1.5
    counts = [sys.getrefcount(v) for v in (x._data, y._data, x._data.type, number)]
    nothing, false = sys.getrefcount(None), sys.getrefcount(False)
    for _ in range(5000):
        z = (x + y) * number - x
        torch.cpu.synchronize()
    assert z.tolist() == [-0.0 + 0, 6.5, 13.0, 19.5]
    del z
    assert [sys.getrefcount(v) for v in (x._data, y._data, x._data.type, number)] == counts
    assert abs(sys.getrefcount(None) - nothing) < 500 and abs(sys.getrefcount(False) - false) < 500


@needs_builtins
def test_tensors_made_by_builtins_are_tensors(compiled_at_once: None) -> None:
    x = torch.arange(4.0)
    for _ in range(2):
        y = x + 1.0
        y.note = "kept"
        assert type(y) is torch.Tensor and y.note == "kept" and y.is_leaf and y.grad is None and y._storage is None
        ref = weakref.ref(y)
        loop = [y]
        y.loop = loop
        del y, loop
        gc.collect()
        assert ref() is None


PROGRAM = """
import sys
from treadle.runtime import native
if sys.argv[1] == "python":
    native.usable = lambda: False
import treadle as torch
from treadle import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(12):
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 3 == 0:
        print(loss.item().hex())
print([p.sum().item().hex() for p in model.parameters()], (native.builtins() is None))
"""


@needs_builtins
def test_the_same_bits_without_builtins() -> None:
    outputs = []
    for way in ("python", "builtins"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.rsplit(" ", 1))
    assert outputs[0][0] == outputs[1][0]
    assert [text.strip() for _, text in outputs] == ["True", "False"]
