"""optim: update rules against their formulas, state dicts, schedulers; the oracle tests step PyTorch's beside ours."""
from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import optim
from treadle.optim import lr_scheduler

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}), ("SGD", {"momentum": 0.9}), ("SGD", {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True}), ("SGD", {"maximize": True}), ("Adam", {}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}), ("AdamW", {}), ("AdamW", {"amsgrad": True, "maximize": True}), ("RMSprop", {}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.3}), ("Adadelta", {}), ("Adamax", {"weight_decay": 0.1}),
]
START = np.linspace(-1.5, 2.0, 12).reshape(3, 4).astype(np.float32)


def steps(module: Any, params: list[Any], optimizer: Any, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        sum(((p - 1).cos() * 2).sum() for p in params).backward()
        optimizer.step()


def make(module: Any, name: str, settings: dict[str, Any]) -> tuple[list[Any], Any]:
    library = treadle if module is optim else __import__("torch")
    params = [library.tensor(START, requires_grad=True), library.tensor(START[0], requires_grad=True)]
    return params, getattr(module, name)([{"params": [params[0]], "lr": 0.05}, {"params": [params[1]]}], lr=0.02, **settings)


def values(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().numpy())


# Update rules


def test_sgd_with_momentum() -> None:
    p = treadle.tensor([1.0, 2.0], requires_grad=True)
    o = optim.SGD([p], lr=0.1, momentum=0.5, weight_decay=0.1)
    expected, buffer = np.array([1.0, 2.0]), None
    for _ in range(3):
        o.zero_grad()
        (p * p).sum().backward()
        o.step()
        g = 2 * expected + 0.1 * expected
        buffer = g if buffer is None else 0.5 * buffer + g
        expected = expected - 0.1 * buffer
        np.testing.assert_allclose(values(p), expected, rtol=1e-5)


def test_adam_first_step_is_the_learning_rate() -> None:
    p = treadle.tensor([5.0, -3.0], requires_grad=True)
    o = optim.Adam([p], lr=0.1)
    (p * p).sum().backward()
    o.step()
    np.testing.assert_allclose(values(p), [4.9, -2.9], rtol=1e-5)
    assert o.state[p]["step"] == 1.0


def test_every_optimizer_descends() -> None:
    for name, settings in CASES:
        if settings.get("maximize"):
            continue
        p = treadle.tensor([2.0, -1.0], requires_grad=True)
        o = getattr(optim, name)([p], lr=0.05, **settings)
        for _ in range(20):
            o.zero_grad()
            (p * p).sum().backward()
            o.step()
        assert (values(p) ** 2).sum() < 5.0, name


def test_parameters_without_gradient_stay() -> None:
    p, q = treadle.ones(1, requires_grad=True), treadle.ones(1, requires_grad=True)
    o = optim.Adam([p, q])
    p.sum().backward()
    o.step()
    assert values(q) == 1 and q not in o.state and values(p) != 1
    assert p.is_leaf and p.requires_grad


# The base class


def test_groups_and_errors() -> None:
    p = treadle.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.SGD([], lr=0.1)
    with pytest.raises(TypeError, match="should be an iterable of Tensors or dicts"):
        optim.SGD(p, lr=0.1)
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        optim.SGD([p * 2], lr=0.1)
    with pytest.raises(TypeError, match="can only optimize Tensors, but one of the params is int"):
        optim.SGD([3], lr=0.1)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optim.SGD([{"params": [p]}, {"params": [p]}], lr=0.1)
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        optim.Adam([p], lr=-1)
    with pytest.raises(ValueError, match=r"Invalid beta parameter at index 1: 1.0"):
        optim.Adam([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="Nesterov momentum requires"):
        optim.SGD([p], nesterov=True)
    named = optim.SGD({"w": p}.items(), lr=0.1)
    assert named.param_groups[0]["param_names"] == ["w"]
    named.add_param_group({"params": [("v", treadle.zeros(1))], "lr": 0.5})
    assert [g["lr"] for g in named.param_groups] == [0.1, 0.5]
    assert repr(optim.SGD([p], lr=0.1)).startswith("SGD (\nParameter Group 0\n    dampening: 0\n")


def test_hooks_and_closure() -> None:
    p = treadle.ones(1, requires_grad=True)

    class Twice(optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step()
            return super().step(closure)

    o = Twice([p], lr=0.1)
    log: list[str] = []
    o.register_step_pre_hook(lambda o, args, kwargs: log.append("pre"))
    o.register_step_post_hook(lambda o, args, kwargs: log.append("post"))

    def closure() -> Any:
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert o.step(closure).item() == 1.0 and log == ["pre", "post"]
    np.testing.assert_allclose(values(p), [0.8], rtol=1e-6)
    o.zero_grad(set_to_none=False)
    assert values(p.grad) == 0


@pytest.mark.parametrize("name,settings", CASES)
def test_state_dict_continues_exactly(name: str, settings: dict[str, Any]) -> None:
    params, o = make(optim, name, settings)
    steps(treadle, params, o, 3)
    saved = copy.deepcopy(o.state_dict())
    copies, other = make(optim, name, settings)
    with treadle.no_grad():
        for a, b in zip(copies, params, strict=True):
            a.copy_(b)
    other.load_state_dict(saved)
    steps(treadle, params, o, 2)
    steps(treadle, copies, other, 2)
    for a, b in zip(copies, params, strict=True):
        np.testing.assert_array_equal(values(a), values(b))
    assert repr(pickle.loads(pickle.dumps(o))) == repr(o)


def test_load_state_dict_errors() -> None:
    p = treadle.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optim.SGD([p]).load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optim.SGD([p]).load_state_dict({"state": {}, "param_groups": [{"params": []}]})


# Schedulers


def rates(make_scheduler: Any, count: int, lr: float = 1.0) -> list[float]:
    o = optim.SGD([treadle.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    scheduler = make_scheduler(o)
    found = [o.param_groups[0]["lr"]]
    for _ in range(count):
        o.step()
        scheduler.step()
        found.append(scheduler.get_last_lr()[0])
    return found


def test_scheduler_formulas() -> None:
    L = lr_scheduler
    assert rates(lambda o: L.StepLR(o, 2, 0.5), 5) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rates(lambda o: L.MultiStepLR(o, [1, 3], 0.5), 4) == [1, 0.5, 0.5, 0.25, 0.25]
    np.testing.assert_allclose(rates(lambda o: L.ExponentialLR(o, 0.9), 4), 0.9 ** np.arange(5))
    np.testing.assert_allclose(rates(lambda o: L.CosineAnnealingLR(o, 10, 0.1), 10),
                               [0.1 + 0.9 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(11)])
    assert rates(lambda o: L.LambdaLR(o, lambda t: 1 / (t + 1)), 3) == [1, 1 / 2, 1 / 3, 1 / 4]
    np.testing.assert_allclose(rates(lambda o: L.LinearLR(o, 0.5, 1.0, 4), 5), [0.5, 0.625, 0.75, 0.875, 1, 1])
    one = rates(lambda o: L.OneCycleLR(o, 2.0, total_steps=10), 9)
    assert max(one) == 2.0 and math.isclose(one[0], 2.0 / 25) and one[-1] < 1e-4


def test_plateau() -> None:
    o = optim.SGD([treadle.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1)
    found = []
    for metric in (1.0, 1.0, 1.0, 0.5, 0.5, 0.5):
        scheduler.step(metric)
        found.append(o.param_groups[0]["lr"])
    assert found == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    with pytest.raises(ValueError, match="mode best is unknown"):
        lr_scheduler.ReduceLROnPlateau(o, mode="best")


def test_scheduler_state_and_warnings() -> None:
    o = optim.SGD([treadle.zeros(1, requires_grad=True)], lr=1.0)
    a = lr_scheduler.StepLR(o, 2)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        a.step()
    b = lr_scheduler.StepLR(optim.SGD([treadle.zeros(1, requires_grad=True)], lr=1.0), 5)
    b.load_state_dict(a.state_dict())
    assert b.last_epoch == 1 and b.step_size == 2
    with pytest.raises(TypeError, match="is not an Optimizer"):
        lr_scheduler.StepLR(3, 2)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(optim.SGD([treadle.zeros(1)], lr=1.0), 2, last_epoch=3)


# Against PyTorch


@pytest.mark.oracle
@pytest.mark.parametrize("name,settings", CASES)
def test_optimizer_oracle(name: str, settings: dict[str, Any]) -> None:
    import torch

    ours, o = make(optim, name, settings)
    theirs, p = make(torch.optim, name, settings)
    steps(treadle, ours, o, 7)
    steps(torch, theirs, p, 7)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(values(a), b.detach().numpy(), rtol=1e-5, atol=1e-6)
    mine, other = o.state_dict(), p.state_dict()
    assert [list(s) for s in mine["state"].values()] == [list(s) for s in other["state"].values()]
    assert [set(g) for g in mine["param_groups"]] == [set(g) for g in other["param_groups"]] and repr(o) == repr(p)


SCHEDULES: list[Any] = [
    lambda L, o: L.StepLR(o, 3, 0.5), lambda L, o: L.MultiStepLR(o, [3, 3, 9], 0.5), lambda L, o: L.CosineAnnealingLR(o, 7, 0.01),
    lambda L, o: L.LambdaLR(o, lambda t: 1 / (t + 1)), lambda L, o: L.LinearLR(o), lambda L, o: L.ConstantLR(o),
    lambda L, o: L.PolynomialLR(o, 10, 2.0), lambda L, o: L.OneCycleLR(o, 1.0, total_steps=30),
    lambda L, o: L.OneCycleLR(o, 1.0, epochs=3, steps_per_epoch=10, three_phase=True, anneal_strategy="linear"),
    lambda L, o: L.CosineAnnealingWarmRestarts(o, 5, 2), lambda L, o: L.MultiplicativeLR(o, lambda t: 0.9),
    lambda L, o: L.SequentialLR(o, [L.LinearLR(o, total_iters=4), L.CosineAnnealingLR(o, 10), L.ExponentialLR(o, 0.9)], [5, 15]),
    lambda L, o: L.ChainedScheduler([L.ConstantLR(o), L.ExponentialLR(o, 0.9)]),
]


@pytest.mark.oracle
@pytest.mark.parametrize("build", SCHEDULES)
def test_scheduler_oracle(build: Any) -> None:
    import torch

    found = []
    for module, library in ((optim, treadle), (torch.optim, torch)):
        o = module.SGD([library.zeros(1, requires_grad=True)], lr=0.5, momentum=0.9)
        scheduler = build(module.lr_scheduler, o)
        trace = []
        for _ in range(29):
            o.step()
            scheduler.step()
            trace.append((o.param_groups[0]["lr"], o.param_groups[0]["momentum"]))
        found.append(trace)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-15)
