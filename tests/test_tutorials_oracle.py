"""Programs as tutorials write them, in both libraries, unchanged but for the name that is imported: the same curves."""
from __future__ import annotations

import math
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
pytestmark = pytest.mark.oracle
FOLDER = Path(__file__).with_name("tutorials")
PROGRAMS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "filling")


def loaded(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A program's module, importing `library`; kept in `sys.modules`, where workers and pickles look for its classes."""
    for part in ("filling", name):
        text = re.sub(r"\btorch\b", library, (FOLDER / f"{part}.py").read_text())
        module = types.ModuleType(part)
        module.__file__ = str(FOLDER / f"{part}.py")
        monkeypatch.setitem(sys.modules, part, module)
        exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("ignore")
def test_the_same_curves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    want, have = (loaded(name, library, monkeypatch).main() for library in ("torch", "treadle"))
    assert len(want) == len(have) and all(map(math.isfinite, have))
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)
