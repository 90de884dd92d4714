"""`treadle.compile`: replays are right, and what cannot be replayed is recorded again."""
from __future__ import annotations

import copy

import numpy as np
import pytest

import treadle as torch
import treadle.nn.functional as F
from treadle import nn


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) if a.dtype is not torch.float32 else torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def replays(f):
    return sum(r.hits for known in f.replays.values() for r in known)


def test_a_function_is_captured_once_for_any_number():
    @torch.compile
    def f(x, k=2.0):
        return {"a": (x * k).relu(), "b": [x.sum(), k]}

    for k in (2.0, 3.5, -1.0):
        x = torch.randn(5)
        got = f(x, k)
        want = {"a": (x * k).relu(), "b": [x.sum(), k]}
        assert same(got, want)
        assert type(got["b"][1]) is float
    assert f.captures == 1 and replays(f) == 2


def test_a_new_shape_dtype_or_structure_is_captured_again():
    @torch.compile
    def f(x, extra=None):
        y = x * 2 if x.shape[0] > 3 else x * 3
        if extra is not None:
            y = y + extra["bias"]
        return y

    for n in (2, 5, 2, 5, 7):
        x = torch.arange(n).float()
        assert same(f(x), x * 2 if n > 3 else x * 3)
    assert f.captures == 3
    x = torch.randn(4, dtype=torch.float64)
    assert f(x).dtype is torch.float64
    assert same(f(x, {"bias": x}), x * 2 + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 16)
        self.norm = nn.LayerNorm(16)
        self.drop = nn.Dropout(0.3)
        self.b = nn.Linear(16, 3)
        self.scale = 1.5

    def forward(self, x):
        h = self.drop(F.gelu(self.norm(self.a(x))))
        return self.b(h) * self.scale


def training(model, optimizer, loss_fn=F.cross_entropy):
    def step(x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss
    return step


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_whole_training_step_is_one_plan(name):
    torch.manual_seed(0)
    first = Net()
    second = copy.deepcopy(first)
    runs = []
    for model, compiled in ((first, True), (second, False)):
        optimizer = OPTIMIZERS[name](model.parameters())
        step = training(model, optimizer)
        step = torch.compile(step) if compiled else step
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        torch.manual_seed(7)
        losses = []
        for i in range(9):
            x = torch.randn(6, 4)
            losses.append(step(x, torch.tensor([0, 1, 2, 0, 1, 2])).item())
            schedule.step()
            if i == 5:
                model.eval()
        runs.append((losses, [p.detach().clone() for p in model.parameters()], step))
    assert np.allclose(runs[0][0], runs[1][0], rtol=1e-5, atol=1e-6)
    assert all(torch.allclose(p, q, rtol=1e-4, atol=1e-5) for p, q in zip(runs[0][1], runs[1][1], strict=True))
    step = runs[0][2]
    assert not step.reasons, step._explain_reasons()
    assert step.captures <= 3 and replays(step) >= 6


def test_modules_and_their_mode_are_guarded():
    torch.manual_seed(1)
    model = Net().eval()
    fast = torch.compile(model)
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert same(fast(x), model(x)) and same(fast(x), model(x))
        model.scale = 3.0
        assert same(fast(x), model(x))
        model.b.bias.data.fill_(1.0)
        assert same(fast(x), model(x))
        model.b = nn.Linear(16, 3)
        assert same(fast(x), model(x))
        model.register_forward_hook(lambda m, a, out: out + 1)
        assert same(fast(x), model(x))
        model.train()
        torch.manual_seed(3)
        a = fast(x)
        torch.manual_seed(3)
        assert same(a, model(x))
    assert set(fast.state_dict()) == {"_orig_mod." + k for k in model.state_dict()}


def test_results_that_still_need_a_backward_pass():
    torch.manual_seed(0)
    model = Net().eval()
    loss_fn = torch.compile(lambda x, y: F.cross_entropy(model(x), y))
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    for _ in range(4):
        model.zero_grad()
        loss_fn(x, y).backward()
        got = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        assert all(same(g, p.grad) for g, p in zip(got, model.parameters(), strict=True))


def test_no_llvm_for_a_new_number_or_learning_rate():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = torch.compile(training(model, optimizer))
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    for _ in range(4):
        step(x, y)
    before = torch.stats()
    for lr in (0.2, 0.3):
        optimizer.param_groups[0]["lr"] = lr
        step(x, y)
    after = torch.stats()
    assert after["llvm_compiles"] == before["llvm_compiles"] and after["plans"] == before["plans"]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_longer_sequence_compiles_nothing(compiled):
    """An LSTM's training step is a loop in the IR: its kernels serve any length, and there are as many for 50 steps as for 500."""
    def kernels(length):
        torch.manual_seed(0)
        net, head = torch.nn.LSTM(3, 4, batch_first=True), torch.nn.Linear(4, 2)
        optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.1)
        x, y = torch.randn(2, length, 3), torch.randint(0, 2, (2,))

        def step(x, y):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(head(net(x)[0][:, -1]), y)
            loss.backward()
            optimizer.step()
            return loss
        run = torch.compile(step) if compiled else step
        before = torch.stats()["kernels"]
        for _ in range(4):
            run(x, y).item()
        return torch.stats()["kernels"] - before
    kernels(20)
    assert [kernels(n) for n in (50, 200, 33)] == [0, 0, 0]
