"""An elementwise op added by one declaration works everywhere, with its gradient: interpreted, compiled, fused, on the simulated device."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cuda_runner import driver  # noqa: F401

import treadle as td
from treadle.codegen import expressions
from treadle.ir.op import TABLE
from treadle.ops import declare_elementwise

NAME = "tilted_bell"


@pytest.fixture
def bell() -> Iterator[Callable[..., Any]]:
    yield declare_elementwise(
        NAME, operands="x y",
        reference=lambda x, y: y * np.exp(-x * x),
        kernel=lambda k, x, y: k.mul(y, k.exp(k.neg(k.mul(x, x)))),
        vjp=(lambda b, g, x, out: b.mul(g, b.mul(b.mul(-2.0, x), out)), lambda b, g, x: b.mul(g, b.exp(b.neg(b.mul(x, x))))))
    del TABLE[NAME], expressions.EXTRA[NAME]


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(-1.5, 1.5, shape).astype(dtype)


def wanted(x: np.ndarray, y: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
    e = np.exp(-x * x)
    return [y * e, (g * -2 * x * y * e), (g * e).sum(0)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.usefixtures("driver")
def test_it_runs_with_its_gradient(bell: Callable[..., Any], device: str) -> None:
    """Three times, so that it is interpreted and compiled; y is broadcast."""
    x, y, g = numbers(33, 17), numbers(17), numbers(33, 17) + 1
    for _ in range(3):
        a, b = (td.tensor(v, device=device, requires_grad=True) for v in (x, y))
        out = bell(a, b)
        (out * td.tensor(g, device=device)).sum().backward()
        assert out.device.type == device and a.grad is not None and b.grad is not None
        for found, value in zip((out.detach(), a.grad, b.grad), wanted(x, y, g), strict=True):
            np.testing.assert_allclose(found.cpu().numpy(), value, rtol=1e-5, atol=1e-5)


def test_it_is_fused_and_prints(bell: Callable[..., Any]) -> None:
    x, y = td.tensor(numbers(64, 128)), td.tensor(numbers(64, 128))
    seen = td.inspect(lambda: bell(x * 2, y).relu().sum(1))
    assert f'"treadle.{NAME}"' in seen.mlir and len(seen.kernels) == 1
    device = td.inspect(lambda: bell(x * 2, y).relu(), device="cuda")
    assert len(device.ptx) == 1 and not device.on_host


def test_it_differentiates_twice_and_takes_types(bell: Callable[..., Any]) -> None:
    x, y = (td.tensor(numbers(5, dtype=np.float64), requires_grad=True) for _ in range(2))
    assert td.autograd.gradcheck(bell, (x, y)) and td.autograd.gradgradcheck(bell, (x, y))
    for dtype, exact in ((td.float16, 2e-3), (td.bfloat16, 2e-2), (td.int64, 1e-5)):
        a, b = td.tensor(numbers(9)).to(dtype), td.tensor(numbers(9)).to(dtype)
        found = [bell(a, b) for _ in range(3)]
        assert found[-1].dtype is (td.float32 if dtype is td.int64 else dtype)
        value = b.double().numpy() * np.exp(-a.double().numpy()**2)
        for one in found:
            np.testing.assert_allclose(one.double().numpy(), value, atol=exact)
    with pytest.raises(ValueError, match=NAME):
        declare_elementwise(NAME, reference=np.exp, kernel=lambda k, x: k.exp(x))


def test_it_maps_over_batches_and_compiles(bell: Callable[..., Any]) -> None:
    x, y = td.tensor(numbers(6, 4)), td.tensor(numbers(4))
    expected = bell(x, y).numpy()
    np.testing.assert_allclose(td.vmap(bell, in_dims=(0, None))(x, y).numpy(), expected, rtol=1e-6)
    compiled = td.compile(bell)
    for _ in range(3):
        np.testing.assert_allclose(compiled(x, y).numpy(), expected, rtol=1e-6)
