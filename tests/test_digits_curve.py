"""The digits example's loss curve is the same interpreted and compiled, to 1e-5."""
from __future__ import annotations

import numpy as np
import pytest

import treadle as torch
import treadle.nn.functional as F
from treadle import nn
from treadle.runtime import engine, recorder


def curve(monkeypatch, compile_at):
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is missing (extra 'examples')")
    monkeypatch.setattr(engine, "COMPILE_AT", compile_at)
    recorder.forget()
    images, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.3),
                          nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    losses = []
    for step in range(100):
        rows = slice(step * 16, step * 16 + 16)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def test_both_tiers_give_the_same_curve(monkeypatch):
    interpreted, compiled = curve(monkeypatch, 1 << 60), curve(monkeypatch, 2)
    assert interpreted[-10:].mean() < 0.7 * interpreted[:10].mean()
    np.testing.assert_allclose(compiled, interpreted, rtol=0, atol=1e-5)
