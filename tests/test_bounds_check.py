"""`TREADLE_CHECK=bounds`: what lowering makes passes, and planted faults are found and named."""
from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from op_cases import CASES, build, samples_of

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.kernel import argument_layout
from treadle.ir.op import TABLE
from treadle.ir.types import tensor_type
from treadle.passes.pipeline import compile_to_program
from treadle.passes.program import GemmStep, HostStep, KernelStep, LoopStep, Program, RoutineStep, walk
from treadle.runtime import bounds
from treadle.runtime.bounds import _where
from treadle.runtime.check import CheckError

F32 = dtypes.float32


def program_of(make: Callable[..., Any], *types: Any) -> Program:
    """The program of `make(builder)`'s result; its inputs are float32 unless given as (shape, dtype)."""
    b = Builder()
    b.loc = ("program.py", 7)
    values = [b.input(tensor_type(*t) if isinstance(t[0], tuple) else tensor_type(t, F32)) for t in types]
    b.graph.outputs = [make(b, *values)]
    return compile_to_program(b.graph)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "map": lambda: program_of(lambda b, x, y: b.mul(b.add(x, y), x), (6, 5), (5,)),
    "transposed": lambda: program_of(lambda b, x: b.exp(b.permute(x, (1, 0))), (6, 5)),
    "flipped": lambda: program_of(lambda b, x: b.exp(b.flip(x, (0,))), (6, 5)),
    "row": lambda: program_of(lambda b, x: b.softmax(x, 1), (6, 5)),
    "column": lambda: program_of(lambda b, x: b.sum(x, (0,), False, None), (6, 5)),
    "joined": lambda: program_of(lambda b, x, y: b.cat(x, b.exp(y), dim=0), (6, 5), (3, 5)),
    "padded": lambda: program_of(lambda b, x: b.exp(b.pad(x, 0.5, (1, 0), (2, 3))), (6, 5)),
    "gathered": lambda: program_of(lambda b, x, i: b.exp(b.index_select(x, i, 0)), (6, 5), ((4,), dtypes.int64)),
}


def clean_steps(program: Program) -> list[KernelStep]:
    assert bounds.check(program) > 0
    steps = [s for s in walk(program.steps) if isinstance(s, KernelStep)]
    assert steps
    return steps


@pytest.mark.parametrize(("name", "i"), CASES)
def test_every_op_stays_inside(name: str, i: int) -> None:
    op = TABLE[name]
    for dtype in (dtypes.float32, dtypes.int64):
        try:
            graph, _ = build(op, samples_of(op)[i], dtype)
        except (RuntimeError, TypeError, IndexError, ValueError):  # the op is not for this dtype
            continue
        program = compile_to_program(graph)
        assert bounds.check(program) >= 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_faults_of_kernels_are_found(name: str) -> None:
    program = PROGRAMS[name]()
    for number, step in enumerate(program.steps):
        if not isinstance(step, KernelStep):
            continue
        for place, (what, *_) in enumerate(argument_layout(step.kernel)):
            value = step.arguments[place]
            changes: list[Any] = []
            if what == "pointer":
                changes = [value._replace(offset=value.offset + delta) for delta in (program.buffers[value.buffer].nbytes, -1000)]
            elif what in ("size", "stride") and isinstance(value, int) and value:
                changes = [value * 1000]
            for change in changes:
                broken = copy.deepcopy(program)
                arguments = (*step.arguments[:place], change, *step.arguments[place + 1:])
                broken.steps[number].arguments = arguments
                fault = r"bounds: \w+( at program\.py:7)?: (%\d+ = load\w* m\d|store %\d+ -> m\d) touches bytes"
                with pytest.raises(CheckError, match=fault):
                    bounds.check(broken)
    assert clean_steps(program)


def test_the_message_has_the_numbers() -> None:
    program = PROGRAMS["map"]()
    step = clean_steps(program)[0]
    place = argument_layout(step.kernel).index(("size", 0))
    step.arguments = (*step.arguments[:place], step.arguments[place] + 1, *step.arguments[place + 1:])
    with pytest.raises(CheckError, match=r"bounds: add_mul at program\.py:7: .* touches bytes 0 to \d+ of b\d, which has \d+$"):
        bounds.check(program)


def test_guards_are_taken_into_account() -> None:
    program = PROGRAMS["padded"]()
    (step, *_) = clean_steps(program)
    assert any(i.opcode == "load_if" for i in step.kernel.body)
    unguarded = [i._replace(opcode="load", operands=()) if i.opcode == "load_if" else i for i in step.kernel.body]
    step.kernel = step.kernel._replace(body=tuple(unguarded))
    with pytest.raises(CheckError, match="load m"):
        bounds.check(program)


def test_gathers_use_the_bound_they_are_checked_against() -> None:
    program = PROGRAMS["gathered"]()
    step = clean_steps(program)[0]
    slots = [p for p, (what, *_) in enumerate(argument_layout(step.kernel)) if what == "slot"]
    for place in slots:
        broken = copy.deepcopy(program)
        first = next(s for s in broken.steps if isinstance(s, KernelStep))
        first.arguments = (*step.arguments[:place], 1000, *step.arguments[place + 1:])
        with pytest.raises(CheckError, match="load_at"):
            bounds.check(broken)


def test_faults_of_products_loops_and_whole_buffers() -> None:
    program = program_of(lambda b, x, y: b.matmul(x, y), (6, 5), (5, 7))
    (step,) = [s for s in program.steps if isinstance(s, GemmStep)]
    assert bounds.check(program) == 3
    for name in "abc":
        broken = copy.deepcopy(program)
        found = next(s for s in broken.steps if isinstance(s, GemmStep))
        matrix = getattr(step, name)
        setattr(found, name, matrix._replace(strides=(matrix.strides[0] + 1, *matrix.strides[1:])))
        with pytest.raises(CheckError, match=f"matmul at program.py:7: matrix {name} touches"):
            bounds.check(broken)
    looped = copy.deepcopy(program)
    inner = next(s for s in looped.steps if isinstance(s, GemmStep))
    inner.a = inner.a._replace(ref=inner.a.ref._replace(step=4))
    looped.steps = [LoopStep(2, [inner])]
    with pytest.raises(CheckError, match="matrix a touches bytes 0 to 124"):
        bounds.check(looped)
    looped.steps = [LoopStep(0, [inner])]
    assert bounds.check(looped) == 0


def test_routines_and_the_host_get_whole_buffers() -> None:
    for make in (lambda b, x: b.cumsum(x, 1), lambda b, x: b.sort(x, 1, False, True)[0]):
        program = program_of(make, (6, 5))
        assert bounds.check(program) > 0
        for step in program.steps:
            if isinstance(step, RoutineStep | HostStep) and step.outputs:
                step.inputs = tuple([r._replace(offset=4) for r in step.inputs])
        with pytest.raises(CheckError, match="operand 0 touches bytes 4 to 124 of b0, which has 120"):
            bounds.check(program)


def test_the_arena_is_looked_at() -> None:
    def chain(b: Any, x: Any) -> Any:
        for _ in range(3):
            x = b.softmax(b.matmul(x, x), 1)
        return x
    program = program_of(chain, (16, 16))
    temps = [i for i, info in enumerate(program.buffers) if info.kind == "temp" and info.shares < 0]
    assert bounds.check(program) and len(temps) > 1
    small = copy.deepcopy(program)
    small.arena -= 1
    with pytest.raises(CheckError, match="of an arena of"):
        bounds.check(small)
    for info in program.buffers:
        if info.kind == "temp":
            info.offset = 0
    with pytest.raises(CheckError, match="lie in the same bytes of the arena"):
        bounds.check(program)


def test_places_where_a_condition_holds() -> None:
    i = np.arange(4).reshape(4, 1)
    assert _where(i >= 2, (4, 3), (10, -1)) == (18, 30) and _where(i > 9, (4, 3), (10, 1)) is None
    both = (i + np.arange(3)) == 3
    assert _where(both, (4, 3), (10, 1)) == (12, 30)


def test_a_program_runs_as_ever(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import treadle as t\nx = t.linspace(0, 1, 12).reshape(3, 4)\nfor _ in range(3):\n"
                                         "    print(t.cat([x, x.softmax(1) @ x.T @ x]).cumsum(0).sum().item())\n")
    def run(setting: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TREADLE_CHECK": setting, "TREADLE_LOG": "compile"}
        return subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    checked = run("bounds")
    assert checked.stdout == run("").stdout and "accesses stay inside their buffers" in checked.stderr
