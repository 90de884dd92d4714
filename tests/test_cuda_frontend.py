"""`device="cuda"` as users write it, on the software driver."""
from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cuda_runner import driver, fresh  # noqa: F401
from ptx_simulator.driver_core import SoftwareDriver

import treadle
import treadle.nn.functional as F
from treadle import nn

pytestmark = pytest.mark.usefixtures("driver")


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_tensors_know_where_they_are() -> None:
    x = treadle.tensor(numbers(3, 4)).cuda()
    assert x.device == treadle.device("cuda:0") and x.is_cuda and not x.is_cpu and x.get_device() == 0
    y = (x * 2 + 1).relu()
    assert y.is_cuda and y.sum().is_cuda and x.to("cpu").device == treadle.device("cpu")
    assert treadle.zeros(3, device="cuda").is_cuda and treadle.zeros_like(x).is_cuda and treadle.ones(2, device=x.device).is_cuda
    assert x.to("cuda") is x and x.cuda() is x and x.to(treadle.ones(1)).is_cpu
    np.testing.assert_allclose(y.cpu().numpy(), np.maximum(numbers(3, 4) * 2 + 1, 0), rtol=1e-6)
    assert "device='cuda:0'" in repr(x) and x[1, 2].item() == pytest.approx(float(numbers(3, 4)[1, 2]))


def test_mistakes_are_named() -> None:
    x = treadle.ones(3).cuda()
    with pytest.raises(RuntimeError, match=r"add: Expected all tensors to be on the same device, .* devices, cuda:0 and cpu!"):
        x + treadle.ones(3)
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        x.numpy()
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        treadle.ones(3, device="cuda:7")
    assert (x * treadle.tensor(2.0)).tolist() == [2, 2, 2]  # 0-d tensors of the CPU are numbers


def test_an_index_out_of_range_is_named() -> None:
    table = treadle.ones(4, 3).cuda()
    found = table[treadle.tensor([0, 9]).cuda()]
    with pytest.raises(IndexError, match="9 is out of bounds"):
        found.tolist()
    assert (table + 1).sum().item() == 24  # the device goes on


def model(seed: int = 0) -> nn.Module:
    treadle.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.2), nn.LayerNorm(32), nn.Linear(32, 5))


def train(device: str, steps: int = 4) -> tuple[list[float], list[np.ndarray]]:
    net = model().to(device)
    optimizer = treadle.optim.AdamW(net.parameters(), lr=1e-2)
    treadle.manual_seed(3)
    losses = []
    for step in range(steps):
        x = treadle.tensor(numbers(16, 12, seed=step), device=device)
        y = treadle.tensor(np.arange(16) % 5, device=device)
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach().cpu().numpy() for p in net.parameters()]


def test_training_is_that_of_the_cpu() -> None:
    losses, weights = train("cuda")
    expected, others = train("cpu")
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_random_numbers_are_those_of_the_cpu() -> None:
    def draw(device: str) -> list[Any]:
        treadle.manual_seed(11)
        return [x.cpu() for x in (treadle.rand(50, device=device), treadle.randn(33, device=device),
                                  treadle.randint(0, 9, (40,), device=device))]
    for a, b in zip(draw("cuda"), draw("cpu"), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-6)


def test_gradients_come_back_through_a_move() -> None:
    x = treadle.tensor(numbers(4), requires_grad=True)
    (x.cuda() ** 2).sum().cpu().backward()
    assert x.grad is not None and x.grad.is_cpu
    np.testing.assert_allclose(x.grad.numpy(), 2 * numbers(4), rtol=1e-6)


def test_a_recording_may_hold_several_devices() -> None:
    a, b = treadle.tensor(numbers(5)), treadle.tensor(numbers(5, seed=1)).cuda()
    first = a.exp()
    second = b.exp() + first.cuda()
    third = second.cpu() * first
    np.testing.assert_allclose(third.numpy(), (np.exp(numbers(5, seed=1)) + np.exp(numbers(5))) * np.exp(numbers(5)), rtol=1e-5)
    np.testing.assert_allclose(second.tolist(), np.exp(numbers(5, seed=1)) + np.exp(numbers(5)), rtol=1e-5)


def test_in_place_and_views() -> None:
    x = treadle.zeros(3, 4, device="cuda")
    x[1] = 5
    x[:, 2].add_(1)
    row = x[2]
    row.copy_(treadle.arange(4.0, device="cuda"))
    assert x.tolist() == [[0, 0, 1, 0], [5, 5, 6, 5], [0, 1, 2, 3]]
    for i in range(3):
        assert x[i].sum().item() == [1, 21, 6][i]


def test_compiled_functions() -> None:
    net = model().cuda().eval()
    compiled = treadle.compile(net)
    for seed in range(4):
        x = treadle.tensor(numbers(3, 12, seed=seed)).cuda()
        np.testing.assert_allclose(compiled(x).tolist(), net(x).tolist(), rtol=1e-5)


def test_memory_is_cached_and_counted() -> None:
    cuda = treadle.cuda
    x = treadle.zeros(1000, device="cuda")
    x.sum().item()
    before = cuda.memory_allocated()
    assert before >= 4000 and cuda.memory_reserved() >= before and cuda.max_memory_allocated() >= before
    big = (x + 1).reshape(10, 100) * 1
    big.sum().item()
    assert cuda.memory_allocated() > before
    del big
    reserved = cuda.memory_reserved()
    y = x + 2
    y.sum().item()
    assert cuda.memory_reserved() < reserved + 1000  # a block was used again
    cuda.empty_cache()
    assert cuda.memory_reserved() < reserved


def test_out_of_memory_is_an_error_of_its_own() -> None:
    fresh(memory=1 << 22)
    x = treadle.zeros(100_000, device="cuda")
    x.sum().item()
    with pytest.raises(treadle.cuda.OutOfMemoryError, match=r"Tried to allocate .* MiB on cuda:0"):
        kept = treadle.zeros(10_000_000, device="cuda")
        treadle.cuda.synchronize()
    del kept
    assert x.sum().item() == 0


def test_errors_of_the_driver_name_the_op(driver: SoftwareDriver) -> None:  # noqa: F811
    x = treadle.ones(4, device="cuda")
    x.sum().item()
    driver.fail("cuLaunchKernel", error=719)
    y = x.exp()
    with pytest.raises(RuntimeError, match=r"CUDA_ERROR_LAUNCH_FAILED.*exp at .*test_cuda_frontend"):
        y.tolist()


def test_streams_and_events() -> None:
    x = treadle.tensor(numbers(64)).cuda()
    treadle.cuda.synchronize()
    stream, begin, end = treadle.cuda.Stream(), treadle.cuda.Event(enable_timing=True), treadle.cuda.Event(enable_timing=True)
    with treadle.cuda.stream(stream):
        begin.record()
        y = x * 3
        end.record()
    assert treadle.cuda.current_stream() == treadle.cuda.default_stream() != stream
    treadle.cuda.current_stream().wait_stream(stream)
    z = y + 1
    np.testing.assert_allclose(z.tolist(), numbers(64) * 3 + 1, rtol=1e-6)
    stream.synchronize()
    end.synchronize()
    assert stream.query() and end.query() and begin.elapsed_time(end) >= 0


def test_pinned_memory() -> None:
    x = treadle.tensor(numbers(100)).pin_memory()
    assert x.is_pinned() and not treadle.ones(1).is_pinned()
    y = x.cuda(non_blocking=True)
    np.testing.assert_allclose((y + 1).tolist(), numbers(100) + 1, rtol=1e-6)


def test_without_a_driver() -> None:
    code = """
import sys, treadle
assert not any(name.startswith("cuda") for name in sys.modules), "import treadle loads cuda-python"
assert not any("placement" in name and "runtime" in name or "cuda_" in name for name in sys.modules)
assert treadle.cuda.is_available() is False and treadle.cuda.device_count() == 0
try:
    treadle.ones(2).cuda()
except RuntimeError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "CUDA is not available" in found.stdout and "pip install 'treadle[cuda]'" in found.stdout
    blocked = "import sys; sys.modules['cuda'] = None; sys.modules['cuda.bindings'] = None\n"
    code = blocked + code.replace("assert not any(name", "any(name")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "cuda-python is not installed" in found.stdout


def test_complex_numbers() -> None:
    """Arithmetic and products are kernels of their parts; transforms run on the host, and the results are on the device."""
    array = (numbers(4, 4) + 1j * numbers(4, 4, seed=1)).astype(np.complex64)
    z = treadle.tensor(array).cuda().requires_grad_()
    w = (z @ z.mH * (1 - 2j)).exp() / (z + 1j)
    loss = (treadle.fft.fft(w) + treadle.sin(z)).abs().sum()
    loss.backward()
    here = treadle.tensor(array, requires_grad=True)
    v = (here @ here.mH * (1 - 2j)).exp() / (here + 1j)
    other = (treadle.fft.fft(v) + treadle.sin(here)).abs().sum()
    other.backward()
    assert w.is_cuda and loss.is_cuda and z.grad.is_cuda and z.grad.dtype is treadle.complex64
    np.testing.assert_allclose(w.detach().cpu().numpy(), v.detach().numpy(), rtol=2e-3)
    np.testing.assert_allclose(z.grad.cpu().numpy(), here.grad.numpy(), rtol=2e-3)
    assert treadle.view_as_real(z.detach()).is_cuda and (z.detach().real.sum() * 1j).is_complex()


def test_ctc_loss_and_its_gradient() -> None:
    def run(device: str) -> tuple[float, np.ndarray]:
        scores = treadle.tensor(numbers(7, 2, 5)).to(device).requires_grad_()
        labels = treadle.tensor([[1, 2], [3, 3]]).to(device)
        loss = F.ctc_loss(scores.log_softmax(-1), labels, treadle.tensor([7, 6]), treadle.tensor([2, 2]))
        loss.backward()
        return loss.item(), scores.grad.cpu().numpy()
    (loss, gradient), (expected, other) = run("cuda"), run("cpu")
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, other, atol=1e-5)
