"""Random functions give the same in every way to run them (recorded, compiled, replayed, op by op) and as PyTorch."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import random_functions as programs
from zoo import ZOO

import treadle
from treadle.passes.family import TEMPLATES
from treadle.runtime.recorder import STATE


def op_by_op(step):
    """As under TREADLE_EAGER."""
    def run(*args):
        state = STATE.here
        state.eager = True
        try:
            return step(*args)
        finally:
            state.eager = False
    return run


WAYS: dict[str, Callable[[Any], Any]] = {"recorded": lambda f: f, "compiled": treadle.compile, "op by op": op_by_op}


def check(seed: int, expected: list[Any] | None = None) -> None:
    """All ways, each a sequence of calls with new values and new shapes (`programs.CALLS`). With no results expected, the program draws
    random numbers: those have to be the same to the bit."""
    random = expected is None
    for way, wrap in WAYS.items():
        found = programs.run(seed, treadle, wrap, with_random=random)
        if expected is None:
            expected = found
        assert programs.close(expected, found), f"{way} seed {seed}\n{programs.source(seed, random)}\n{expected}\n{found}"


@pytest.mark.parametrize("part", range(4))
def test_with_random_numbers(part):
    for seed in range(part * 8, part * 8 + 8):
        check(seed)


@pytest.fixture
def deterministic() -> Iterator[None]:
    treadle.use_deterministic_algorithms(True)
    yield
    treadle.use_deterministic_algorithms(False)


@pytest.mark.parametrize("part", range(4))
def test_same_bits_at_any_time_once_deterministic(part, deterministic):
    """Recorded, compiled, and recorded when everything is known, see `use_deterministic_algorithms`."""
    assert treadle.are_deterministic_algorithms_enabled()
    for seed in range(100 + part * 6, 106 + part * 6):
        bits = [repr(programs.run(seed, treadle, WAYS[way])) for way in ("recorded", "compiled", "recorded")]
        assert bits[0] == bits[1] == bits[2], programs.source(seed, False)


@pytest.mark.parametrize("name", ["mlp", "lstm", "gpt"])
def test_networks_train_with_the_same_bits_at_any_time_once_deterministic(name, deterministic):
    def trained(way):
        treadle.manual_seed(1)
        net = ZOO[name].make(treadle)
        data = [treadle.tensor(a) for a in ZOO[name].data(np.random.default_rng(0))]
        optimizer = ZOO[name].optimizer(treadle, net.parameters())

        @way
        def step(*given):
            optimizer.zero_grad()
            loss = ZOO[name].loss(treadle, net, *given)
            loss.backward()
            optimizer.step()
            return loss
        return [step(*data).item().hex() for _ in range(4)] + [p.detach().numpy().tobytes() for p in net.parameters()]
    assert trained(WAYS["recorded"]) == trained(WAYS["compiled"]) == trained(WAYS["recorded"])


def agrees_with_itself(seed: int, torch: Any, expected: list[Any]) -> bool:
    """Whether PyTorch has the same results with another number of threads: where it has not, a program only enlarges rounding."""
    torch.set_num_threads(2)
    try:
        return programs.close(expected, programs.run(seed, torch, lambda f: f))
    finally:
        torch.set_num_threads(1)


@pytest.mark.oracle
@pytest.mark.parametrize("part", range(40))
def test_as_pytorch(part):
    """2,000 programs in all; a fifth of them draw random numbers, and only Treadle's ways are compared then."""
    import torch
    torch.set_num_threads(1)
    used = TEMPLATES.used
    for seed in range(1000 + part * 50, 1050 + part * 50):
        expected = programs.run(seed, torch, lambda f: f) if seed % 5 else None
        try:
            check(seed, expected)
        except AssertionError:
            if expected is None or agrees_with_itself(seed, torch, expected):
                raise
    assert TEMPLATES.used > used and not TEMPLATES.failures
