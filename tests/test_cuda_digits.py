"""examples/digits.py on the software driver: its first steps have the CPU's losses."""
from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_runner import driver  # noqa: F401

import treadle
import treadle.nn.functional as F
from treadle.utils.data import DataLoader

pytestmark = pytest.mark.usefixtures("driver")
pytest.importorskip("sklearn")


def example() -> Any:
    spec = importlib.util.spec_from_file_location("digits_example", Path(__file__).parents[1] / "examples" / "digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def losses(digits: Any, device: str, steps: int) -> tuple[list[float], float]:
    treadle.manual_seed(0)
    train, test = digits.load(0)
    model = digits.Net().to(device)
    optimizer = treadle.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    found = []
    for (x, y), _ in zip(DataLoader(train, batch_size=64, shuffle=True, drop_last=True), range(steps), strict=False):
        loss = F.cross_entropy(model(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found, digits.accuracy(model, test)


@pytest.mark.targets
def test_losses_are_those_of_the_cpu() -> None:
    digits = example()
    found, right = losses(digits, "cuda", 12)
    expected, other = losses(digits, "cpu", 12)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert right == pytest.approx(other, abs=0.01)
