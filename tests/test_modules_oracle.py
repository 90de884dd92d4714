"""PyTorch's samples of every layer: constructors, states, outputs, gradients, what is left in buffers, and the layer's text.

`pytest -m oracle` takes the first samples of each layer, `pytest -m sweep` all of them.
"""
from __future__ import annotations

from typing import Any

import pytest

PARTS = 4


@pytest.fixture(scope="module")
def samples() -> Any:
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    pytest.importorskip("expecttest", reason="PyTorch's test helpers need expecttest")
    import module_samples
    return module_samples


@pytest.mark.oracle
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.filterwarnings("ignore")
def test_first_samples_of_every_layer(samples: Any, part: int) -> None:
    found = samples.problems(part, 3)
    assert not found, "\n".join(found)


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.filterwarnings("ignore")
def test_all_samples_of_every_layer(samples: Any, part: int) -> None:
    found = samples.problems(part, 1000)
    assert not found, "\n".join(found)
