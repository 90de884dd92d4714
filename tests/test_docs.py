"""The manual: every op's example runs, the guides' programs print what they show, and every op and public name has a description."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.ir.op import TABLE
from treadle.ir.samples import samples_of

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))

import compatibility
import docstrings
import op_examples
import op_pages

GUIDES = sorted(path for path in DOCS.glob("*.md"))
BLOCKS = [(path.name, program, shown) for path in GUIDES
          for program, shown in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", path.read_text(), re.S)]


@pytest.mark.parametrize("name", [name for name, op in TABLE.items() if samples_of(op)])
def test_every_op_has_an_example_that_runs(name: str) -> None:
    source = op_examples.program(TABLE[name])
    assert f"torch.ops.{name}(" in source
    assert op_examples.output_of(source).strip()


def test_every_program_of_the_guides_has_its_output() -> None:
    assert len(BLOCKS) == sum(path.read_text().count("```python") for path in GUIDES) >= 10


@pytest.mark.parametrize(("name", "program", "shown"), BLOCKS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(BLOCKS)])
def test_programs_print_what_the_guides_show(name: str, program: str, shown: str, tmp_path: Path) -> None:
    environment = {n: value for n, value in os.environ.items() if n == "TREADLE_CACHE_DIR" or not n.startswith("TREADLE_")}
    (tmp_path / "guide.py").write_text(program)
    done = subprocess.run([sys.executable, "guide.py"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(f"{tmp_path}{os.sep}", "") == shown


def test_a_page_has_the_facts_of_the_op() -> None:
    text = op_pages.page(TABLE["softmax"])
    for part in ("# softmax", "treadle.ops.softmax(x, dim)", '"treadle.softmax"', "with respect to `x`", "Softmax",
                 "treadle.nn.functional.softmax",
                 "`softmax([3, 4], dim=1)` | `[3, 4]`", " | the same |", "Dimension out of range",
                 "[exp](exp.md)", "tensor([["):
        assert part in text, part
    assert "[softmax](ops/softmax.md)" in op_pages.index()


def test_names_are_compared_with_pytorchs() -> None:
    theirs = {"Linear": ["in_features", "out_features", "bias", "device", "dtype", "extra"], "NoSuchLayer": None}
    present, absent, lacking = compatibility.comparison("nn", theirs)
    assert (present, absent, lacking) == (["Linear"], ["NoSuchLayer"], {"Linear": ["extra"]})


def test_docstrings_become_restructured_text() -> None:
    lines = ["The `x` of y**2 | z.", "", "a: first", "    more", "b: second", "", "    code()", ""]
    assert docstrings.convert(lines) == ["The ``x`` of y\\*\\*2 \\| z.", "", "* ``a``: first", "  more", "* ``b``: second", "",
                                         "::", "", "    code()", ""]


@pytest.mark.oracle
def test_the_list_of_pytorchs_names_is_of_the_version_compared_with() -> None:
    import torch_names
    assert torch_names.collect() == torch_names.load()


def test_every_op_says_what_it_computes() -> None:
    assert [name for name, op in TABLE.items() if len(op.doc) < 4] == []


def test_every_public_function_and_method_says_what_it_does() -> None:
    import treadle
    from treadle import nn
    places = (treadle, treadle.Tensor, nn, nn.functional, treadle.linalg, treadle.special, treadle.fft, treadle.optim)
    silent = [f"{place.__name__}.{name}" for place in places for name in dir(place) if not name.startswith("_") and name != "Callable"
              and callable(getattr(place, name)) and not (getattr(place, name).__doc__ or "").strip()]
    assert not silent
