"""Calls with bad arguments raise what PyTorch raises for them: those listed in `error_cases.txt`."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

CALLS = Path(__file__).with_name("error_cases.txt").read_text(encoding="utf-8")

# What differs deliberately: pattern of the call: reason.
DELIBERATE = {
    r"m\.nn\.ConvTranspose2d\(.*padding='(strange|same)'": "refused when the module is made, not when it is called",
    r"m\.nn\.(Bilinear\(-1|RNNCell\(3, 4, True, 'strange')": "refused when the module is made, for what is wrong with it",
    r"m\.nn\.(BCELoss|GaussianNLLLoss)\(\)|m\.bernoulli\(": "elements are not looked at, which would end the recording",
    r"m\.optim\.LBFGS\(params\(\), line_search_fn='strange'\)": "refused at once, not at the first step",
    r"m\.(bincount\(x|manual_seed|compile\(3)": "another exception, which says more",
    r".*load_state_dict\(None\)": "PyTorch trips over an attribute",
    r"x\(\)\['a'\]": "an index that is none is an IndexError, whatever it is",
}


class Numbers:
    """A dataset of integers."""

    def __init__(self, n: int = 4) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        if i >= self.n:
            raise IndexError(i)
        return i


def names(m: Any) -> dict[str, Any]:
    """What the calls refer to beside the library `m`."""
    def params() -> list[Any]:
        return [m.nn.Parameter(m.ones(3))]
    return {
        "m": m, "Numbers": Numbers, "params": params, "sgd": lambda: m.optim.SGD(params(), lr=0.1), "x": lambda: m.ones(2, 3),
        "g": lambda: m.ones(2, requires_grad=True), "lin": lambda: m.nn.Linear(3, 2),
        "loaded": lambda *args, **kwargs: list(m.utils.data.DataLoader(*args, **kwargs))}


def raised(m: Any, call: str) -> Exception | None:
    try:
        eval(call, names(m))
    except Exception as error:
        return error
    return None


def differs(want: Exception | None, got: Exception | None) -> str | None:
    """What differs between exceptions: ours may be a subclass, or the class of the same name."""
    if want is None:
        return None if got is None else f"raises {type(got).__name__}: {got}"
    if got is None:
        return f"does not raise {type(want).__name__}: {want}"
    if isinstance(got, type(want)) or type(got).__name__ == type(want).__name__.lstrip("_"):
        return None
    return f"raises {type(got).__name__} ({got}) instead of {type(want).__name__} ({want})"


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", ["tensors", "modules", "optimizers", "data"])
def test_listed_calls(group: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    import treadle
    wrong = []
    for call in CALLS.split(f"\n# {group}\n")[1].split("\n\n")[0].split("\n"):
        if call and not any(re.match(pattern, call) for pattern in DELIBERATE):
            problem = differs(raised(torch, call), raised(treadle, call))
            if problem is not None:
                wrong.append(f"{call}: {problem}"[:400])
    assert not wrong, "\n".join(wrong)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(24))
def test_spoilt_samples(part: int) -> None:
    """Samples of every op with one argument spoilt compute or raise what is the caller's mistake, not ours."""
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    pytest.importorskip("expecttest", reason="PyTorch's test helpers need expecttest")
    import opinfo_spoilt
    import opinfo_sweep
    found = [line for op in opinfo_sweep.entries()[part::24] for line in opinfo_spoilt.findings(op)]
    assert not found, "\n".join(found)
