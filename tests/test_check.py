"""`TREADLE_CHECK`: faults are found, named with op and line, and clean programs pass."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert "nan" in run(tmp_path, NAN, "").stdout


@pytest.mark.parametrize("setting", ["nan", "ref"])
def test_clean_programs_pass_and_nan_given_is_not_nan_made(tmp_path: Path, setting: str) -> None:
    done = run(tmp_path, CLEAN, setting)
    assert (done.returncode, done.stdout) == (0, "1.0\n1.0\n1.0\nTrue [nan]\n"), done.stderr


def test_an_unknown_check_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, CLEAN, "everything")
    assert done.returncode == 1 and "ValueError: TREADLE_CHECK must be ref or nan, got 'everything'" in done.stderr
