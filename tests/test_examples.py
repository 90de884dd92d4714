"""Every example is valid Python, and the short ones run."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
# What each must print, as it would look in the terminal; the others run in .ci/run only.
SHORT = {
    "cnn": (["--epochs", "2"], ["epoch  2  loss ", "test accuracy 0."]),
    "custom_op": ([], ["gradcheck       True", "straight through [1.0, 1.0]", "step 200  loss 0.0"]),
    "digits": (["--epochs", "2"], ["epoch  2  loss ", "test accuracy 0.9", "ops recorded"]),
    "inspect_ir": ([], ['"treadle.matmul"', "plan: ", "kernel @k0(", "the gradient is IR too"]),
    "rnn": ([], ["grad_fn=", "step 400  mean squared error 0.00", "predicted "]),
    "vae": (["--epochs", "10"], ["epoch  10  loss 2"]),
}
LONG = {"charlm", "detection", "translate"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_compile(path: Path) -> None:
    compile(path.read_text(), str(path), "exec")


def test_every_example_is_known() -> None:
    assert {path.stem for path in EXAMPLES} == {*SHORT, *LONG}


@pytest.mark.parametrize("name", SHORT)
def test_short_examples_run(name: str) -> None:
    arguments, wanted = SHORT[name]
    path = next(p for p in EXAMPLES if p.stem == name)
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in wanted:
        assert text in done.stdout
