"""Whole programs on the software driver: models train, are saved, moved and printed as on the CPU."""
from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_runner import driver  # noqa: F401

import treadle
import treadle.nn.functional as F
from treadle import nn

pytestmark = pytest.mark.usefixtures("driver")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 12, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, 11)

    def forward(self, x: treadle.Tensor) -> treadle.Tensor:
        return self.head(self.lstm(self.embedding(x))[0])


class GPT(nn.Module):
    """One block with causal attention; positions come from `arange` on the input's device."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 16), nn.Embedding(9, 16)
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.Dropout(0.1))
        self.head = nn.Linear(16, 11, bias=False)

    def forward(self, x: treadle.Tensor) -> treadle.Tensor:
        n, t = x.shape
        h = self.tokens(x) + self.positions(treadle.arange(t, device=x.device))
        q, k, v = (p.view(n, t, 2, 8).transpose(1, 2) for p in self.qkv(self.first(h)).chunk(3, -1))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, 16))
        return self.head(h + self.mlp(self.second(h)))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 24), nn.LayerNorm(24), nn.ReLU(), nn.Dropout(0.25), nn.Linear(24, 11))


# AdamW turns gradients that are zero but for rounding (biases of keys) into whole steps, unless eps is above them.
OPTIONS = {"SGD": {"momentum": 0.9}, "AdamW": {"eps": 1e-4}}


def train(make: Callable[[], nn.Module], optimizer: str, device: str) -> tuple[list[float], dict[str, np.ndarray]]:
    treadle.manual_seed(0)
    net = make().to(device)
    steps = getattr(treadle.optim, optimizer)(net.parameters(), lr=1e-2, **OPTIONS[optimizer])
    words = treadle.tensor(np.random.default_rng(0).integers(0, 11, (4, 10)), device=device)
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(net(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())
        steps.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        steps.step()
        losses.append(loss.item())
    assert all(p.device.type == device and p.grad.device.type == device for p in net.parameters())
    return losses, {k: v.cpu().numpy() for k, v in net.state_dict().items()}


@pytest.mark.parametrize(("make", "optimizer"), [(perceptron, "SGD"), (GPT, "AdamW"),
                                                 pytest.param(Recurrent, "AdamW", marks=pytest.mark.targets)])
def test_training_is_that_of_the_cpu(make: Callable[[], nn.Module], optimizer: str) -> None:
    losses, weights = train(make, optimizer, "cuda")
    expected, others = train(make, optimizer, "cpu")
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    for name, value in weights.items():
        np.testing.assert_allclose(value, others[name], rtol=1e-3, atol=2e-4, err_msg=name)


def saved(value: Any) -> io.BytesIO:
    file = io.BytesIO()
    treadle.save(value, file)
    file.seek(0)
    return file


def test_states_move_between_devices() -> None:
    net = GPT().cuda().eval()
    file = saved(net.state_dict())
    state = treadle.load(file, map_location="cpu")
    assert all(v.is_cpu for v in state.values())
    file.seek(0)
    assert all(v.is_cuda for v in treadle.load(file).values())  # as PyTorch: to where they were saved from
    here, there = GPT().eval(), GPT().cuda().eval()
    here.load_state_dict(state)
    there.load_state_dict(state)
    words = treadle.arange(8).reshape(1, 8)
    np.testing.assert_allclose(here(words).tolist(), net(words.cuda()).tolist(), rtol=1e-4, atol=1e-5)
    assert there(words.cuda()).tolist() == net(words.cuda()).tolist()
    back = treadle.load(saved(here.state_dict()), map_location=treadle.device("cuda"))
    assert all(v.is_cuda for v in back.values())


def test_optimizer_states_follow_their_parameters() -> None:
    def moments(device: str, state: Any = None) -> Any:
        treadle.manual_seed(1)
        net = nn.Linear(3, 2).to(device)
        optimizer = treadle.optim.Adam(net.parameters())
        if state is not None:
            optimizer.load_state_dict(state)
        net(treadle.ones(4, 3, device=device)).sum().backward()
        optimizer.step()
        return net, optimizer.state_dict()
    _, state = moments("cpu")
    moved, found = moments("cuda", state)
    expected, _ = moments("cpu", state)
    assert all(s["exp_avg"].is_cuda for s in found["state"].values())
    np.testing.assert_allclose(moved.weight.tolist(), expected.weight.tolist(), rtol=1e-5)


def test_indexing_and_printing() -> None:
    x = treadle.arange(12.0, device="cuda").reshape(3, 4)
    y = x.cpu()
    rows = treadle.tensor([2, 0])
    for index in ((rows,), (rows.cuda(),), (slice(None), rows.cuda()), (x > 4,), (None, 1, slice(0, 4, 2)), (..., -1)):
        there = x[index]
        assert there.is_cuda
        here = y[tuple([i.cpu() if isinstance(i, treadle.Tensor) else i for i in index])]
        assert there.tolist() == here.tolist()
    x[rows.cuda(), 1] = -1.0
    x[x > 9] = 0
    assert x.tolist() == [[0, -1, 2, 3], [4, 5, 6, 7], [8, -1, 0, 0]]
    assert repr(x).endswith("device='cuda:0')") and repr(x).split("]]")[0] == repr(x.cpu()).split("]]")[0]
    assert f"{x[0, 0]:.1f}" == "0.0" and bool(x[1, 1] > 4) and int(x[1, 3]) == 7 and len(x) == 3
    assert [float(v) for v in x[1]] == [4, 5, 6, 7] and x.cpu().is_cpu and x.cpu().cuda().equal(x)


def test_likes_and_new_tensors_stay() -> None:
    x = treadle.ones(2, 3, device="cuda")
    found = [treadle.zeros_like(x), treadle.ones_like(x), treadle.full_like(x, 2), treadle.empty_like(x), treadle.rand_like(x),
             treadle.randn_like(x), treadle.randint_like(x, 5), x.new_zeros(2), x.new_ones(2),
             x.new_full((2,), 3), x.new_tensor([1, 2]), x.new_empty(2)]
    assert all(t.is_cuda for t in found)
    assert treadle.zeros_like(x, device="cpu").is_cpu and x.new_ones(2, device="cpu").is_cpu


def test_devices_that_do_not_exist_are_named() -> None:
    with pytest.raises(RuntimeError, match="there is 1 device, got cuda:3"):
        treadle.ones(2).to("cuda:3")
    with pytest.raises(RuntimeError, match="Expected one of cpu, cuda, meta device type at start of device string: gpu"):
        nn.Linear(2, 2).to("gpu")
    with pytest.raises(RuntimeError, match=r"same device.*cuda:0 and cpu!"):
        nn.Linear(2, 2)(treadle.ones(1, 2, device="cuda"))
    with pytest.raises(RuntimeError, match="cat: Expected all tensors to be on the same device"):
        treadle.cat([treadle.ones(2), treadle.ones(2, device="cuda")])
