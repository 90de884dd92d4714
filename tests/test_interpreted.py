"""The first run of a trace: what it gives up as it goes, and what an interrupt leaves."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle as torch
from treadle.runtime import interpreted, memory

SIZE = 1 << 18  # elements: a mebibyte


@pytest.fixture(autouse=True)
def nothing_seen_yet() -> None:
    torch.compiler.reset()


def in_use_during(monkeypatch: pytest.MonkeyPatch, op: str) -> list[int]:
    """Bytes in use whenever an op of that name is interpreted from now on."""
    seen: list[int] = []
    evaluate = interpreted.evaluate

    def watched(which: Any, *rest: Any) -> Any:
        if which.name == op:
            seen.append(memory._pool.in_use)
        return evaluate(which, *rest)
    monkeypatch.setattr(interpreted, "evaluate", watched)
    return seen


def updated(count: int, step: Any) -> list[torch.Tensor]:
    parameters = [torch.full((SIZE,), float(i)) for i in range(count)]
    assert all(float(p[0]) == i for i, p in enumerate(parameters))
    step(parameters)
    return parameters


def update(parameters: list[torch.Tensor]) -> None:
    for p in parameters:
        p.mul_(0.5).sub_(0.25)


@pytest.mark.parametrize("wrap", [lambda f: f, torch.compile], ids=["recorded", "captured"])
def test_what_is_overwritten_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    seen = in_use_during(monkeypatch, "sub")
    start = memory._pool.in_use
    parameters = updated(8, wrap(update))
    assert [float(p[0]) for p in parameters] == [0.5 * i - 0.25 for i in range(8)]
    assert len(seen) == 8
    assert max(seen) - start <= 9 * 4 * SIZE  # never the old and the new parameters at once


def test_what_others_hold_stays() -> None:
    alias: list[Any] = []

    def step(parameters: list[torch.Tensor]) -> None:
        alias.extend(p.detach().clone() for p in parameters)
        alias.extend(p.view(2, -1) for p in parameters[:1])
        update(parameters)
    updated(2, step)
    assert [float(a.flatten()[0]) for a in alias] == [0.0, 1.0, -0.25]


@pytest.mark.parametrize("at", [0, 3, 6])
def test_an_interrupt_loses_nothing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    evaluate, count = interpreted.evaluate, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == at + 1:
            raise KeyboardInterrupt
        return evaluate(*arguments)
    parameters = [torch.full((SIZE,), float(i)) for i in range(4)]
    assert float(parameters[0][0]) == 0.0
    update(parameters)
    monkeypatch.setattr(interpreted, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        parameters[3].numpy()
    for i, p in enumerate(parameters):
        assert np.array_equal(p.numpy(), np.full(SIZE, 0.5 * i - 0.25, np.float32))


def test_a_fault_after_inputs_were_given_up_spares_the_rest() -> None:
    parameters = [torch.full((SIZE,), float(i)) for i in range(2)]
    assert float(parameters[0][0]) == 0.0
    update(parameters)
    index = torch.tensor([SIZE])
    with pytest.raises((IndexError, RuntimeError)):
        picked = parameters[1][index]
        picked.numpy()
    assert float(parameters[0][0]) == -0.25 and float(parameters[1][0]) == 0.25
