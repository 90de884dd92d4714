"""Numbers that are the same in every library: weights, data, draws."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
from __future__ import annotations

from typing import Any

import numpy as np


def fill(model: Any, seed: int = 0, scale: float = 0.3) -> Any:
    """Every parameter of a model, in the order of its names, from one stream of numbers."""
    import torch
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            p.copy_(torch.from_numpy((rng.standard_normal(tuple(p.shape)) * scale).astype(np.float32)))
    return model
