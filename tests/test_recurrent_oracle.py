"""RNN, LSTM and GRU with PyTorch's weights: outputs to 1e-6, gradients to 1e-5."""
from __future__ import annotations

import numpy as np
import pytest

import treadle

pytestmark = pytest.mark.oracle


def outputs_and_gradients(T, model, x):
    model.zero_grad()
    t = T.tensor(x.tolist()).requires_grad_()
    out, hidden = model(t)
    states = hidden if isinstance(hidden, tuple) else (hidden,)
    weight = np.random.default_rng(1).standard_normal(tuple(out.shape)).astype(np.float32)
    (out * T.tensor(weight.tolist())).sum().backward()
    return [v.detach().numpy() for v in (out, *states)], [t.grad.numpy(), *[p.grad.numpy() for p in model.parameters()]]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_equals_pytorch(kind, batch_first, bidirectional):
    import torch
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(5, 7, 2, batch_first=batch_first, bidirectional=bidirectional)
    ours = getattr(treadle.nn, kind)(5, 7, 2, batch_first=batch_first, bidirectional=bidirectional)
    ours.load_state_dict({k: treadle.tensor(v.tolist()) for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((4, 6, 5)).astype(np.float32)
    want, want_grads = outputs_and_gradients(torch, theirs, x)
    for _ in range(3):  # interpreted, then compiled
        got, got_grads = outputs_and_gradients(treadle, ours, x)
        for a, b in zip(want, got, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
        for a, b in zip(want_grads, got_grads, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
