"""Random functions give the same in every mode: recorded, compiled, replayed with new values and shapes, op by op; and as PyTorch."""
from __future__ import annotations

import pytest
import random_functions as programs

import treadle
from treadle.runtime.recorder import STATE


def op_by_op(step):
    def run(*args):
        state = STATE.here
        state.eager = True
        try:
            return step(*args)
        finally:
            state.eager = False
    return run


@pytest.mark.parametrize("part", range(4))
def test_with_random_numbers_compiled_equals_recorded(part):
    for seed in range(part * 15, part * 15 + 15):
        expected = programs.run(seed, treadle, lambda f: f, with_random=True)
        found = programs.run(seed, treadle, treadle.compile, with_random=True)
        assert programs.close(expected, found), f"seed {seed}\n{programs.source(seed, True)}\n{expected}\n{found}"


@pytest.mark.oracle
@pytest.mark.parametrize("part", range(20))
def test_as_pytorch(part):
    import torch
    torch.set_num_threads(1)
    for seed in range(1000 + part * 100, 1100 + part * 100):
        expected = programs.run(seed, torch, lambda f: f)
        modes = {"recorded": lambda f: f, "compiled": treadle.compile}
        if seed % 10 == 0:
            modes["op by op"] = op_by_op
        for mode, wrap in modes.items():
            found = programs.run(seed, treadle, wrap)
            assert programs.close(expected, found), f"{mode} seed {seed}\n{programs.source(seed)}\n{expected}\n{found}"
