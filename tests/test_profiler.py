"""`treadle.profiler`: what ran is there, with its work, its place and its nesting; and nothing is noted when it is off."""
from __future__ import annotations

import gzip
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import treadle
from treadle import profiler
from treadle.codegen import executor as layout
from treadle.codegen import work
from treadle.profiler import ProfilerAction
from treadle.profiler.table import format_amount, format_time
from treadle.runtime import executor, machine, timing


def layer(x: treadle.Tensor, w: treadle.Tensor) -> float:
    result: float = treadle.relu(x @ w + 1).sum().item()
    return result


def compiled_layer(n: int, m: int) -> tuple[treadle.Tensor, treadle.Tensor]:
    """Operands of `layer` for which its plan is compiled."""
    x, w = treadle.ones(n, m), treadle.ones(m, 8)
    for _ in range(3):
        layer(x, w)
    return x, w


@pytest.fixture
def fast() -> Any:
    """A machine with round figures, so that no test measures one."""
    before = machine._measured
    machine._measured = lambda count: machine.Machine((1e9,) * len(machine.WORKING_SETS), {"float32": 1e9, "float64": 5e8}, count)
    yield
    machine._measured = before


def test_steps_are_named_counted_and_weighed(fast: None) -> None:
    x, w = compiled_layer(32, 64)
    with profiler.profile(record_shapes=True, with_stack=True) as prof:
        for _ in range(3):
            layer(x, w)
    rows = {row.key: row for row in prof.key_averages()}
    assert set(rows) == {"plan", "matmul", "add_relu_sum"} and all(row.count == 3 for row in rows.values())
    product, rest = rows["matmul"], rows["add_relu_sum"]
    assert product.flops == 3 * 2 * 32 * 64 * 8 and product.bytes == 3 * 4 * (32 * 64 + 64 * 8 + 32 * 8)
    assert rest.flops == 3 * 3 * 32 * 8 and rest.bytes == 3 * 4 * (32 * 8 + 1)
    assert product.best == pytest.approx(product.flops / 1e9 * 1e6) and product.roofline == product.best / product.self_cpu_time_total
    assert product.input_shapes == [[32, 64], [64, 8], [32, 8]] and product.stack[0].endswith(f":{layer.__code__.co_firstlineno + 1}")
    assert rows["plan"].cpu_time_total >= product.cpu_time_total + rest.cpu_time_total
    assert rows["plan"].self_cpu_time_total == pytest.approx(rows["plan"].cpu_time_total - product.cpu_time_total - rest.cpu_time_total)
    assert prof.events().self_cpu_time_total == pytest.approx(rows["plan"].cpu_time_total)


def test_a_loop_notes_every_iteration_and_an_early_run_its_ops(fast: None) -> None:
    lstm, x = treadle.nn.LSTM(3, 5), treadle.randn(7, 2, 3)
    with treadle.no_grad():
        with profiler.profile() as prof:
            lstm(x)[0].sum().item()
        assert "lstm_layer (interpreted)" in {row.key for row in prof.key_averages()}
        lstm(x)[0].sum().item()
        with profiler.profile() as prof:
            lstm(x)[0].sum().item()
    assert max(row.count for row in prof.key_averages() if row.kind == "step") == 7


def test_shapes_group_on_request(fast: None) -> None:
    pairs = [compiled_layer(4, 16), compiled_layer(5, 16)]
    with profiler.profile(record_shapes=True) as prof:
        for pair in pairs:
            layer(*pair)
    assert [row.count for row in prof.key_averages() if row.key == "matmul"] == [2]
    rows = [row for row in prof.key_averages(group_by_input_shape=True) if row.key == "matmul"]
    assert [row.input_shapes[0] for row in rows] == [[4, 16], [5, 16]]
    assert "[[4, 16]" in prof.key_averages(group_by_input_shape=True).table()


def test_ranges_nest_and_hold_their_work_when_asked(fast: None) -> None:
    x, w = compiled_layer(6, 16)

    @profiler.record_function("decorated")
    def work_inside() -> treadle.Tensor:
        return treadle.relu(x @ w)

    for _ in range(2):
        work_inside().sum().item()
        work_inside()
    with profiler.profile(synchronize=True) as prof:
        with profiler.record_function("outer"):
            y = work_inside()
            y.sum().item()
    by_name = {e.name: e for e in prof.events()}
    assert by_name["decorated"].cpu_parent is by_name["outer"]
    product = next(e for e in prof.events() if e.name.startswith("matmul"))
    assert by_name["decorated"] in (product.cpu_parent, product.cpu_parent.cpu_parent)
    assert by_name["outer"].self_cpu_time_total < by_name["outer"].cpu_time_total


def test_replays_of_compiled_functions_are_seen(fast: None) -> None:
    x, w = treadle.ones(3, 24), treadle.ones(24, 8)
    step = treadle.compile(lambda: treadle.relu(x @ w).sum())
    for _ in range(3):
        step().item()
    hits = step.last.hits
    with profiler.profile() as prof:
        for _ in range(4):
            step()
    assert step.last.hits == hits + 4
    assert sum(row.count for row in prof.key_averages() if row.key.startswith("matmul")) == 4


def test_other_threads_have_their_own_rows_of_the_trace(fast: None, tmp_path: Path) -> None:
    operands = compiled_layer(7, 16)
    with profiler.profile(profile_memory=True) as prof:
        layer(*operands)
        thread = threading.Thread(target=layer, args=operands)
        thread.start()
        thread.join()
    products = [e for e in prof.events() if e.name == "matmul"]
    assert len({e.thread for e in products}) == 2
    prof.add_metadata("run", "7")
    prof.add_metadata_json("more", '{"a": 1}')
    prof.export_chrome_trace(tmp_path / "trace.json")
    prof.export_chrome_trace(str(tmp_path / "trace.json.gz"))
    trace = json.loads((tmp_path / "trace.json").read_text())
    with gzip.open(tmp_path / "trace.json.gz", "rt") as file:
        assert json.load(file) == trace
    assert trace["run"] == "7" and trace["more"] == {"a": 1}
    kernels = [e for e in trace["traceEvents"] if e.get("cat") == "kernel" and e["name"] == "matmul"]
    assert len({e["tid"] for e in kernels}) == 2
    assert all(e["ph"] == "X" and e["ts"] >= 0 and e["dur"] > 0 and e["args"]["flops"] == 2 * 7 * 16 * 8 for e in kernels)
    kinds = {e["ph"] for e in trace["traceEvents"]}
    assert kinds == {"M", "X", "i", "C"} and {e["name"] for e in trace["traceEvents"] if e["ph"] == "i"} >= {"item"}


def test_the_schedule_is_pytorchs() -> None:
    off, warm, on, last = ProfilerAction.NONE, ProfilerAction.WARMUP, ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE
    plan = profiler.schedule(wait=1, warmup=1, active=2, repeat=2, skip_first=1)
    assert [plan(i) for i in range(11)] == [off, off, warm, on, last, off, warm, on, last, off, off]
    assert [profiler.schedule(wait=2, warmup=0, active=1, skip_first_wait=1)(i) for i in range(4)] == [last, off, off, last]
    with pytest.raises(ValueError, match="active >= 1, got wait=0, warmup=0, active=0"):
        profiler.schedule(wait=0, warmup=0, active=0)


@pytest.mark.oracle
def test_the_schedule_agrees_with_pytorch() -> None:
    import itertools

    import torch
    for wait, warmup, active, repeat, skip in itertools.product((0, 2), (0, 1), (1, 3), (0, 2), (0, 2)):
        settings = {"wait": wait, "warmup": warmup, "active": active, "repeat": repeat, "skip_first": skip}
        ours, theirs = profiler.schedule(**settings), torch.profiler.schedule(**settings)
        assert [ours(i).name for i in range(20)] == [theirs(i).name for i in range(20)]


def test_steps_outside_the_schedule_leave_nothing(fast: None) -> None:
    x, w = compiled_layer(8, 16)
    saved: list[Any] = []
    with profiler.profile(schedule=profiler.schedule(wait=1, warmup=1, active=2, repeat=1), on_trace_ready=saved.append) as prof:
        for _ in range(6):
            layer(x, w)
            prof.step()
    assert saved == [prof]
    names = [e.name for e in prof.events() if e.kind == "range"]
    assert names == ["ProfilerStep#2", "ProfilerStep#3"]
    assert sum(e.name == "matmul" for e in prof.events()) == 2


def test_off_means_off() -> None:
    compiled_layer(9, 16)
    assert timing.ACTIVE is None and not executor._logged
    assert all(plan._table[layout.EVENT_LOG] == 0 for plan in executor.all_plans())
    with profiler.record_function("nothing"):
        pass


def test_a_second_profiler_is_refused_and_an_error_ends_the_first(fast: None) -> None:
    with profiler.profile():
        with pytest.raises(RuntimeError, match="a profiler is running already"):
            profiler.profile().start()
    with pytest.raises(ZeroDivisionError), profiler.profile() as prof:
        raise ZeroDivisionError
    assert prof.events() == [] or all(e.kind == "flush" for e in prof.events())
    assert timing.ACTIVE is None
    with pytest.raises(RuntimeError, match="didn't finish running"):
        profiler.profile().events()
    with pytest.warns(UserWarning, match=r"ProfilerActivity\.CUDA is not available"):
        profiler.profile(activities=[profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA])


def test_a_full_log_loses_events_and_says_so(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = compiled_layer(10, 16)
    step = treadle.compile(lambda: treadle.relu(x @ w).sum())
    for _ in range(3):
        step()
    monkeypatch.setattr(timing, "LOG_EVENTS", 4)
    with pytest.warns(UserWarning, match="events did not fit"), profiler.profile() as prof:
        for _ in range(4):
            step()
    assert 0 < sum(e.kind in ("step", "plan") for e in prof.events()) <= 4
    with profiler.profile() as prof:  # a flush makes room
        for _ in range(9):
            layer(x, w)
    assert sum(e.name == "matmul" for e in prof.events()) == 9


def test_totals_stay_small_and_make_way_for_a_profile(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = compiled_layer(12, 16)
    monkeypatch.setattr(timing, "LOG_EVENTS", 8)
    recording = timing.Recording(totals=True)
    recording.begin()
    for _ in range(40):
        layer(x, w)
    assert len(recording._logs) <= 2
    fresh = treadle.ones(15)
    for _ in range(3):
        fresh.exp().sum().item()
    with profiler.profile() as prof:
        layer(x, w)
    assert timing.ACTIVE is None and prof.events()
    recording.finish()
    assert recording.totals is not None and recording.events == [] and recording.lost == 0
    assert sorted(runs for _, runs, _ in recording.totals.values()) == [1, 40, 40]
    assert [len(program.steps) for _, program in recording.programs] == [1]


def test_a_forked_child_starts_afresh(fast: None) -> None:
    x, w = compiled_layer(13, 16)
    with profiler.profile() as prof:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with profiler.profile() as own:
                    layer(x, w)
                status = 0 if [e.name for e in own.events()].count("matmul") == 1 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        layer(x, w)
    assert [e.name for e in prof.events()].count("matmul") == 1


def test_tables_sort_and_limit(fast: None) -> None:
    x, w = compiled_layer(11, 16)
    with profiler.profile(with_flops=True) as prof:
        layer(x, w)
    averages = prof.key_averages()
    text = averages.table(sort_by="flops", row_limit=1, header="one row")
    lines = text.splitlines()
    assert lines[1] == "one row" and lines[3].split()[:2] == ["Name", "Self"] and lines[5].startswith("matmul ") and len(lines) == 8
    assert lines[-1].startswith("Self CPU time total: ")
    assert averages.total_average().flops == sum(row.flops for row in averages)
    with pytest.raises(AttributeError):
        averages.table(sort_by="speed")
    assert [format_time(x) for x in (1.5, 2250, 3e6)] == ["1.500us", "2.250ms", "3.000s"]
    assert [format_amount(x) for x in (0, 512, 1500, 2e6, 3.1e9, 4e12)] == ["0", "512", "1.5K", "2.0M", "3.1G", "4.0T"]


def test_the_machine_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(machine, "WORKING_SETS", (1 << 16, 1 << 18))
    monkeypatch.setattr(machine, "SECONDS", 0.0)
    monkeypatch.setattr(machine, "CHAIN", 16)
    machine._measured.cache_clear()
    found = machine.machine()
    machine._measured.cache_clear()
    monkeypatch.setattr(machine, "measure", lambda: pytest.fail("measured twice"))
    assert machine.machine() == found and min(*found.bandwidth, *found.peak.values()) > 0
    (path,) = tmp_path.rglob("machine-*.json")
    for text in ("", "{}", '{"bandwidth": [0, 0], "peak": {"float32": 1}, "threads": 1}'):
        path.write_text(text)
        assert machine._read(path) is None
    machine._measured.cache_clear()


def test_the_least_time_is_arithmetics_or_memorys() -> None:
    figures = machine.Machine((4e9, 3e9, 2e9, 1e9), {"float32": 1e9, "float64": 5e8}, 1)
    assert figures.seconds(10**9, 0, "float32") == 1 and figures.seconds(10**9, 0, "float64") == 2
    assert figures.seconds(10**9, 0, "float16") == 1 and figures.seconds(0, 4000, "") == 1e-6
    assert figures.seconds(0, 10**9, "float32") == 1


def test_work_of_products_of_small_numbers() -> None:
    from treadle.ir import dtypes
    from treadle.passes.program import GemmStep, Matrix, Program, Ref
    place = Matrix(Ref(0), (1, 1))
    for form, size in (("", 4), ("bfloat16", 2), ("int8", 1)):
        step = GemmStep(dtypes.float32, (3,), 4, 5, 6, place, place, place, form=form)
        assert work.work_of(Program(), step) == (2 * 3 * 4 * 5 * 6, 3 * (size * (4 * 6 + 6 * 5) + 4 * 4 * 5), form or "float32")


def test_work_of_what_is_no_step() -> None:
    with pytest.raises(TypeError, match="NoneType is no step"):
        work.work_of(None, None)


def test_ranges_inside_a_compiled_function_do_no_harm(fast: None) -> None:
    x = treadle.ones(3)

    @treadle.compile
    def step() -> treadle.Tensor:
        with treadle.autograd.profiler.record_function("inside"):
            return x.exp().sum()

    plain = [step().item() for _ in range(4)]
    with profiler.profile(synchronize=True):
        assert [step().item() for _ in range(4)] == plain[-1:] * 4
    assert step().item() == plain[-1]
