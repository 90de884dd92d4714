"""Whole training loops: both tiers follow the same curve, whatever is pending between looks at the loss."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import treadle as torch
import treadle.nn.functional as F
from treadle import nn
from treadle.runtime import engine, recorder


@pytest.fixture
def tiers() -> Iterator[None]:
    before = engine.COMPILE_AT
    yield
    engine.COMPILE_AT = before
    recorder.forget()


def plain_adam(parameters: list[torch.Tensor], state: dict[int, list[torch.Tensor]], step: int) -> None:
    """Adam from elementwise tensor operations, many kernels' worth."""
    with torch.no_grad():
        for i, p in enumerate(parameters):
            m, v = state.setdefault(i, [torch.zeros_like(p), torch.zeros_like(p)])
            m.mul_(0.9).add_(p.grad * 0.1)
            v.mul_(0.999).add_(p.grad * p.grad * 0.001)
            update = (m / (1 - 0.9 ** step)) / ((v / (1 - 0.999 ** step)).sqrt() + 1e-8)
            p.copy_(p - 0.01 * update)
            p.grad = None


def curve(compile_at: int, steps_per_look: int, optimizer: str, steps: int = 24) -> list[float]:
    engine.COMPILE_AT = compile_at
    recorder.forget()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 4), nn.GELU(), nn.Linear(4, 3))
    x, y = torch.randn(20, 8), torch.randint(0, 3, (20,))
    parameters = list(model.parameters())
    made = None if optimizer == "plain" else getattr(torch.optim, optimizer)(parameters, lr=0.01)
    state: dict[int, list[torch.Tensor]] = {}
    losses = []
    for step in range(1, steps + 1):
        loss = F.cross_entropy(model(torch.cat([x[:, :4].sin(), x[:, 4:]], 1)), y)
        loss.backward()
        if made is None:
            plain_adam(parameters, state, step)
        else:
            made.step()
            made.zero_grad()
        if step % steps_per_look == 0:
            losses.append(loss.item())
    return losses + [p.sum().item() for p in parameters]


@pytest.mark.parametrize("optimizer", ["plain", "Adam", "SGD", "RMSprop"])
@pytest.mark.parametrize("steps_per_look", [1, 2, 3, 8])
def test_tiers_agree(tiers: None, steps_per_look: int, optimizer: str) -> None:
    interpreted = curve(1 << 30, steps_per_look, optimizer)
    compiled = curve(1, steps_per_look, optimizer)
    assert compiled == pytest.approx(interpreted, rel=1e-3, abs=1e-4)
    assert compiled[0] == pytest.approx(interpreted[0], rel=1e-5)


def test_same_seed_same_bits(tiers: None) -> None:
    assert curve(2, 1, "Adam") == curve(2, 1, "Adam")


PROGRAM = """
import treadle as torch
import treadle.nn.functional as F
torch.manual_seed(3)
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Dropout(0.2), torch.nn.GELU(), torch.nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(12):
    loss = F.cross_entropy(model(torch.randn(40, 8)), torch.randint(0, 3, (40,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item().hex())
"""


def test_same_seed_same_bits_in_two_processes(tmp_path: Path) -> None:
    outputs = []
    for hash_seed, cache in (("1", "off"), ("2", str(tmp_path)), ("3", str(tmp_path))):  # no cache, cold, warm
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TREADLE_CACHE_DIR": cache}
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True, timeout=120)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0].splitlines()) == 12


ZOO = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import treadle as torch
from zoo import ZOO
torch.set_num_threads(int(sys.argv[2]))
for name in ("mlp", "lstm", "gpt", "resnet"):
    made = ZOO[name]
    for way in (lambda f: f, torch.compile):
        torch.manual_seed(1)
        net = made.make(torch)
        data = [torch.tensor(a) for a in made.data(np.random.default_rng(0))]
        optimizer = made.optimizer(torch, net.parameters())

        def step(*given):
            optimizer.zero_grad()
            used = (lambda x: torch.nn.functional.dropout(net(x), 0.2)) if name in ("mlp", "resnet") else net
            loss = made.loss(torch, used, *given)
            loss.backward()
            optimizer.step()
            return loss
        run = way(step)
        losses = [run(*data).item().hex() for _ in range(5)]
        print(name, *losses, hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest())
"""


def test_networks_have_the_same_bits_in_all_processes(tmp_path: Path) -> None:
    """Recorded and compiled, nothing cached and everything, on two threads and on others."""
    outputs, script = [], tmp_path / "networks.py"
    script.write_text(ZOO)
    for hash_seed, count in (("1", "2"), ("2", "1"), ("3", "3")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TREADLE_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, str(script), os.path.dirname(__file__), count], capture_output=True, text=True,
                              env=environment, check=True, timeout=240)
        outputs.append(done.stdout.splitlines())
    assert outputs[0] == outputs[1] == outputs[2] and len(outputs[0]) == 8
