"""The thread pool: number of threads, forks, process exit, contention."""
from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from treadle.codegen.executor import executor_text
from treadle.codegen.jit import assembly, compile_text
from treadle.codegen.target import describe
from treadle.passes.program import Ref
from treadle.runtime import threads
from treadle.runtime.executor import Plan, PlanBuilder

# mark: out[i] += 1 for the units, and who[i] = address of the scratch memory, which tells threads apart.
TEXT = """
define void @mark(ptr %args, i64 %lo, i64 %hi, ptr %scratch) {
entry:
  %p1 = getelementptr i64, ptr %args, i64 1
  %out = load ptr, ptr %args
  %who = load ptr, ptr %p1
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %next, %loop ]
  %o = getelementptr i64, ptr %out, i64 %i
  %w = getelementptr i64, ptr %who, i64 %i
  %old = load i64, ptr %o
  %new = add i64 %old, 1
  store i64 %new, ptr %o
  store ptr %scratch, ptr %w
  store i64 %i, ptr %scratch
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %hi
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""
MODULE = compile_text(TEXT)
UNITS = 2000


@pytest.fixture(autouse=True)
def restore_threads() -> object:
    before = threads.num_threads()
    yield None
    threads.set_num_threads(before)


def marking_plan(grain: int = 1) -> Plan:
    builder = PlanBuilder()
    builder.step(MODULE.address("mark"), [Ref(1), Ref(2)], units=UNITS, grain=grain)
    return builder.build(3)


def run(plan: Plan, repeat: int) -> np.ndarray:
    """Which thread did each unit; every unit must have run once per repetition."""
    error, out, who = np.zeros(8, np.int64), np.zeros(UNITS, np.int64), np.zeros(UNITS, np.int64)
    for _ in range(repeat):
        assert plan.run([error.ctypes.data, out.ctypes.data, who.ctypes.data]) == 0
    assert (out == repeat).all()
    return who


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16])
def test_every_unit_runs_once(n: int) -> None:
    threads.set_num_threads(n)
    assert threads.num_threads() == n
    shares = len(np.unique(run(marking_plan(), 300)))
    assert 1 <= shares <= n


def test_small_kernels_stay_on_the_calling_thread() -> None:
    threads.set_num_threads(4)
    assert (run(marking_plan(grain=UNITS), 3) == threads.scratch_pointer()).all()


def test_number_of_threads_is_checked() -> None:
    for n in (0, -1, 65):
        with pytest.raises(ValueError, match="between 1 and 64"):
            threads.set_num_threads(n)


def test_many_callers() -> None:
    """One caller gets the workers, the others work alone; nobody waits and nothing is lost."""
    threads.set_num_threads(3)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run(marking_plan(), 300)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=work) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not errors


def test_workers_wake_up_after_sleeping() -> None:
    threads.set_num_threads(3)
    plan = marking_plan()
    run(plan, 1)
    threading.Event().wait(0.05)  # longer than workers spin
    run(plan, 1)


def test_child_of_a_fork_has_its_own_pool() -> None:
    threads.set_num_threads(3)
    plan = marking_plan()
    run(plan, 5)
    child = os.fork()
    if child == 0:
        try:
            run(plan, 50)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run(plan, 5)


def test_exit_does_not_hang_on_workers() -> None:
    """Workers are spinning when the interpreter leaves."""
    code = f"""
import sys
sys.path[:] = {sys.path!r}
import importlib.util
spec = importlib.util.spec_from_file_location("t", {__file__!r})
t = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t)
t.run(t.marking_plan(), 20)
"""
    environment = {**os.environ, "TREADLE_THREADS": "4"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_bad_environment_is_named() -> None:
    environment = {**os.environ, "TREADLE_THREADS": "many"}
    code = "import treadle.runtime.threads"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode != 0 and b"TREADLE_THREADS must be a positive number, got 'many'" in done.stderr


def test_pool_assembles_for_arm() -> None:
    arm = describe("aarch64-unknown-linux-gnu", "generic", "+neon")
    text = assembly(executor_text(arm), target=arm)
    assert "yield" in text and "#98" in text
