"""NAdam, RAdam, ASGD, Rprop, Adafactor, Muon and LBFGS: they descend, and (oracle) their steps are PyTorch's."""
from __future__ import annotations

import numpy as np
import pytest

import treadle

CASES = [("NAdam", {}), ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}), ("RAdam", {"lr": 0.01}),
         ("RAdam", {"weight_decay": 0.1}), ("ASGD", {}), ("ASGD", {"t0": 2, "weight_decay": 0.01, "lambd": 0.01}), ("Rprop", {}),
         ("Adafactor", {}), ("Adafactor", {"weight_decay": 0.1, "lr": 0.1}), ("LBFGS", {"lr": 0.5, "max_iter": 5})]


def run(T, name, settings, steps=7):
    rng = np.random.default_rng(0)
    w = T.tensor(rng.standard_normal((4, 3)).astype(np.float32).tolist()).requires_grad_()
    b = T.tensor(rng.standard_normal(3).astype(np.float32).tolist()).requires_grad_()
    x, y = (T.tensor(rng.standard_normal(s).astype(np.float32).tolist()) for s in ((16, 4), (16, 3)))
    optimizer = getattr(T.optim, name)([w] if name == "Muon" else [w, b], **settings)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = ((x @ w + b - y) ** 2).mean()
        loss.backward()
        return loss
    for _ in range(steps):
        losses.append(float(optimizer.step(closure)))
    return losses, w.detach().numpy(), b.detach().numpy()


@pytest.mark.parametrize(("name", "settings"), [*CASES, ("Muon", {"lr": 0.02}), ("LBFGS", {"line_search_fn": "strong_wolfe"})])
def test_it_descends(name, settings):
    losses, _, _ = run(treadle, name, settings)
    assert losses[-1] < losses[0]


def test_strong_wolfe_solves_a_quadratic():
    losses, _, _ = run(treadle, "LBFGS", {"line_search_fn": "strong_wolfe"}, steps=4)
    rng = np.random.default_rng(0)
    rng.standard_normal((4, 3)), rng.standard_normal(3)
    x, y = rng.standard_normal((16, 4)).astype(np.float32), rng.standard_normal((16, 3)).astype(np.float32)
    design = np.hstack([x, np.ones((16, 1), np.float32)])
    best = ((design @ np.linalg.lstsq(design, y, rcond=None)[0] - y) ** 2).mean()
    assert abs(losses[-1] - best) < 1e-4


def test_errors():
    w = treadle.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="2D"):
        treadle.optim.Muon([w])
    with pytest.raises(RuntimeError, match="closure"):
        treadle.optim.LBFGS([w]).step()
    with pytest.raises(ValueError, match="eta"):
        treadle.optim.Rprop([w], etas=(1.5, 2.0))
    for make in (lambda lr: treadle.optim.Adam([w], lr=lr), lambda lr: treadle.optim.LBFGS([w], lr=lr)):
        with pytest.raises(ValueError, match="1-element"):
            make(treadle.ones(2))


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_steps_as_pytorch(name, settings):
    import torch
    want, got = run(torch, name, settings), run(treadle, name, settings)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5)


@pytest.mark.oracle
def test_muon_as_pytorch():
    import torch
    for settings in ({"lr": 0.02}, {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw"}, {"lr": 0.05, "nesterov": False, "weight_decay": 0}):
        want, got = run(torch, "Muon", settings), run(treadle, "Muon", settings)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-3)  # both iterate in bfloat16; fused operations round once


def valley(T, settings):
    """Rosenbrock's function, whose search for a step goes through every case."""
    x = T.tensor([-1.2, 1.0, 0.5, 2.0], dtype=T.float64, requires_grad=True)
    optimizer = T.optim.LBFGS([x], line_search_fn="strong_wolfe", **settings)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        loss.backward()
        losses.append(loss.item())
        return loss
    for _ in range(4):
        optimizer.step(closure)
    return losses, x.detach().numpy()


@pytest.mark.oracle
@pytest.mark.parametrize("settings", [{}, {"lr": 20.0}, {"lr": 1e-3, "history_size": 3}, {"max_iter": 4, "max_eval": 6}])
def test_line_search_as_pytorch(settings):
    import torch
    (want, x), (got, y) = valley(torch, settings), valley(treadle, settings)
    np.testing.assert_allclose(got[:30], want[:30], rtol=1e-6)  # the same steps were tried
    np.testing.assert_allclose(y, x, rtol=1e-5)


COMPLEX_CASES = [case for case in CASES if case[0] != "Adafactor"] + [
    ("SGD", {"lr": 0.1, "momentum": 0.9}), ("Adam", {}), ("AdamW", {}), ("RMSprop", {"momentum": 0.5}), ("Adagrad", {}),
    ("Adagrad", {"initial_accumulator_value": 0.5, "weight_decay": 0.1}), ("Adadelta", {}), ("Adamax", {"weight_decay": 0.1})]


def run_complex(T, name, settings, steps=5):
    """The parameter after some steps, half of them by an optimizer that took over the first one's state."""
    rng = np.random.default_rng(0)
    w, x, y = (T.tensor(rng.standard_normal((4, 3)) + 1j * rng.standard_normal((4, 3)), dtype=T.complex128) for _ in range(3))
    w.requires_grad_()
    optimizer = getattr(T.optim, name)([w], **settings)

    def closure():
        optimizer.zero_grad()
        loss = (w * x - y).abs().square().mean() * 3
        loss.backward()
        return loss
    for step in range(steps):
        if step == steps // 2:
            state = optimizer.state_dict()
            optimizer = getattr(T.optim, name)([w], **settings)
            optimizer.load_state_dict(state)
        optimizer.step(closure)
    kinds = {key: str(value.dtype).split(".")[1] for key, value in optimizer.state[w].items() if T.is_tensor(value) and value.dim() == 2}
    return w.detach().numpy(), kinds


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "settings"), COMPLEX_CASES)
def test_complex_parameters_as_pytorch(name, settings):
    import torch
    want, got = run_complex(torch, name, settings), run_complex(treadle, name, settings)
    np.testing.assert_allclose(got[0], want[0], rtol=2e-4, atol=2e-5)
    assert got[1] == want[1]


def test_complex_parameters():
    before = treadle.ones(4, 3, dtype=treadle.complex64).numpy()
    assert all(np.abs(run_complex(treadle, name, settings, 2)[0] - before).max() > 0 for name, settings in COMPLEX_CASES[:4])
    for name in ("Adafactor", "Muon"):
        with pytest.raises(RuntimeError, match=f"{name} does not support complex parameters"):
            run_complex(treadle, name, {})
