"""Tensors as text."""
from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import treadle
from treadle.printing import get_printoptions, printoptions, set_printoptions

RNG = np.random.default_rng(1)
SHOWN = {
    "tensor([1., 2.])": [1.0, 2.0],
    "tensor(1.5000)": 1.5,
    "tensor([1.5000, 2.2500])": [1.5, 2.25],
    "tensor([[1, 2],\n        [3, 4]])": [[1, 2], [3, 4]],
    "tensor([ True, False])": [True, False],
    "tensor([1.0000e-05, 1.0000e+00])": [1e-5, 1.0],
    "tensor([   nan, 1.5000])": [float("nan"), 1.5],
    "tensor([inf, 1.])": [float("inf"), 1.0],
    "tensor([1.0000e+00, 2.0000e+03])": [1.0, 2000.0],
    "tensor([])": [],
    "tensor([-1.5000,  2.0000])": [-1.5, 2.0],
}


@pytest.mark.parametrize("text", SHOWN)
def test_values(text: str) -> None:
    assert repr(treadle.tensor(SHOWN[text])) == text


def test_suffixes() -> None:
    assert repr(treadle.zeros(2, dtype=treadle.float64)) == "tensor([0., 0.], dtype=treadle.float64)"
    assert repr(treadle.zeros(1, dtype=treadle.bfloat16)) == "tensor([0.], dtype=treadle.bfloat16)"
    assert repr(treadle.zeros(0, 3)) == "tensor([], size=(0, 3))"
    assert repr(treadle.zeros(0, dtype=treadle.int64)) == "tensor([], dtype=treadle.int64)"
    leaf = treadle.ones(1, requires_grad=True)
    assert repr(leaf) == "tensor([1.], requires_grad=True)"
    assert repr(leaf * 2) == "tensor([2.], grad_fn=<MulBackward0>)"
    assert repr(treadle.nn.Parameter(treadle.ones(1))) == "Parameter containing:\ntensor([1.], requires_grad=True)"


def test_long_tensors_are_summarised() -> None:
    assert repr(treadle.arange(2000)) == "tensor([   0,    1,    2,  ..., 1997, 1998, 1999])"
    assert str(treadle.zeros(40, 40)).count("...") == 7


def test_options_apply_and_return() -> None:
    before = get_printoptions()
    with printoptions(precision=2, sci_mode=False):
        assert repr(treadle.tensor([1.256, 1e-5])) == "tensor([1.26, 0.00])"
    with printoptions(threshold=3, edgeitems=1):
        assert repr(treadle.arange(5)) == "tensor([0,  ..., 4])"
    assert get_printoptions() == before
    set_printoptions(profile="short")
    set_printoptions(profile="default")
    assert get_printoptions() == before


ORACLE: list[Any] = [
    *SHOWN.values(), [0.0, 0.0], [-0.0, 1], [1e9, 1.0], [1e20], [[1.0, -2.5], [1e-7, 3]], list(range(30)), [i / 3 for i in range(50)],
    np.arange(2000), np.arange(2000.0) / 7, RNG.standard_normal((40, 40)), RNG.standard_normal((2, 3, 4)),
    RNG.standard_normal((3, 1, 2, 2)),
    RNG.standard_normal((5, 1000)), RNG.integers(-1000, 1000, (30, 50)), np.zeros((2, 0, 3)), np.zeros((20, 20, 20)), [[]],
]
OPTIONS: list[dict[str, Any]] = [{}, {"precision": 2}, {"threshold": 5}, {"edgeitems": 1, "threshold": 3}, {"linewidth": 40},
                                 {"sci_mode": True}, {"sci_mode": False}, {"profile": "short"}]


def _flat(text: str) -> str:
    """The dtype's name differs in length, so the line may break before it in one and not in the other."""
    return re.sub(r",\s+dtype=\w+\.", ", dtype=", text)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("options", OPTIONS)
def test_text_equals_pytorch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    torch.set_printoptions(**options)
    try:
        for data in ORACLE:
            for dtype in (None, "float16", "float64"):
                ours, theirs = (m.tensor(data, dtype=getattr(m, dtype) if dtype else None) for m in (treadle, torch))
                with printoptions(**options):
                    assert _flat(repr(ours)) == _flat(repr(theirs))
    finally:
        torch.set_printoptions(profile="default")
