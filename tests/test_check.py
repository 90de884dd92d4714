"""`TREADLE_CHECK`: faults are found, named with op and line, and clean programs pass."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import treadle.ir.ops  # noqa: F401  (declares the op table)
from treadle.ir.builder import Builder
from treadle.ir.dtypes import float32
from treadle.ir.types import tensor_type
from treadle.runtime import check
from treadle.runtime.memory import from_numpy

NAN = """import treadle
x = treadle.tensor([4.0, 0.0, -1.0])
for _ in range(3):
    y = x + 1.0
    z = y.sub(2.0).log()
    print((z * 2).tolist())
"""

CLEAN = """import treadle
x = treadle.linspace(0.1, 1.0, 50)
for _ in range(3):
    print(round(treadle.log(x).softmax(0).sum().item(), 4))
print(treadle.stats()["compiled_runs"] > 0, treadle.tensor([float("nan")]).add(1).tolist())
"""


def run(tmp_path: Path, text: str, setting: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "program.py"
    path.write_text(text)
    environment = {**os.environ, "TREADLE_CHECK": setting}
    return subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True, check=False)


def test_the_op_that_makes_nan_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, NAN, "nan")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "CheckError: NaN: log at " in last and "program.py:5 made it" in last
    assert last.endswith("in tensor<3xf32>, at (1,) from -1.0")
    assert "nan" in run(tmp_path, NAN, "").stdout


@pytest.mark.parametrize("setting", ["nan", "ref"])
def test_clean_programs_pass_and_nan_given_is_not_nan_made(tmp_path: Path, setting: str) -> None:
    done = run(tmp_path, CLEAN, setting)
    assert (done.returncode, done.stdout) == (0, "1.0\n1.0\n1.0\nTrue [nan]\n"), done.stderr


def test_an_unknown_check_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, CLEAN, "everything")
    assert done.returncode == 1 and "ValueError: TREADLE_CHECK must be ref, nan or bounds, got 'everything'" in done.stderr


def test_a_wrong_compiled_result_is_named() -> None:
    b = Builder()
    x = b.input(tensor_type((3,), float32))
    b.loc = ("program.py", 7)
    b.graph.outputs = [b.exp(x)]
    given = from_numpy(np.zeros(3, np.float32))
    check.against_reference(b.graph, [given], [], [from_numpy(np.ones(3, np.float32))])
    with pytest.raises(check.CheckError, match=r"exp at program\.py:7, element \(1,\) of tensor<3xf32>"):
        check.against_reference(b.graph, [given], [], [from_numpy(np.array([1, 2, 1], np.float32))])


SHARED = """import treadle
def show(x):
    print(x.tolist())
for _ in range(3):
    show(treadle.tensor([4.0]).log())
show(treadle.tensor([2.0]).log())
show(treadle.tensor([-1.0]).log())
"""


def test_the_line_is_that_of_this_run_even_when_the_same_ops_ran_elsewhere(tmp_path: Path) -> None:
    done = run(tmp_path, SHARED, "nan")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "program.py:7 made it" in last and last.endswith("at (0,) from -1.0")


def test_operands_that_are_folded_are_shown_by_their_range() -> None:
    assert check._example([np.array(np.nan)], [np.array([1.0, -2.0])]) == ", at () from (2,) in [-2.0, 1.0]"
    assert check._example([np.array([[0.0, np.nan]])], [np.array([3.0, 4.0]), np.array(5)]) == ", at (0, 1) from 4.0, 5"
