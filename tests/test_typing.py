"""A user's program passes `mypy --strict`: names are exported and annotated."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = '''
import treadle as torch
from treadle import nn


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.last = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.relu(self.first(x)))
        return out


def train(steps: int) -> float:
    net = Net(8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = torch.zeros(1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.rand(3, 4)), torch.tensor([0, 1, 1]))
        loss.backward()
        optimizer.step()
    return float(loss.item())
'''


def test_a_small_program_is_strictly_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    package = tmp_path / "treadle"
    package.mkdir()
    for source in [*(ROOT / "frontend").iterdir(), *(ROOT / layer for layer in ("ir", "passes", "codegen", "runtime"))]:
        (package / source.name).symlink_to(source)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports", "program.py"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
