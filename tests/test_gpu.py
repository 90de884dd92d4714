"""The same programs on a real GPU: `pytest -m gpu tests/test_gpu.py`, in a process of its own."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from op_cases import CASES, GRADIENT_CASES, build, float_inputs, gradient_graph, random_array, samples_of

import treadle
from treadle import nn
from treadle.ir import dtypes
from treadle.ir.op import TABLE

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[None]:
    if not treadle.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    yield
    treadle.cuda.synchronize()


@pytest.mark.parametrize(("name", "which"), CASES)
def test_forward(name: str, which: int) -> None:
    from test_cuda_ops import compare, first_build
    compare(*first_build(name, which, (dtypes.float32, *dtypes.ALL)))


@pytest.mark.parametrize(("name", "which"), GRADIENT_CASES)
def test_gradients(name: str, which: int) -> None:
    from test_cuda_ops import compare
    graph, arrays = build(TABLE[name], samples_of(TABLE[name])[which], dtypes.float32)
    rng = np.random.default_rng(1)
    weights = [random_array(o.type.shape, o.type.dtype, rng) for o in graph.outputs if o.type.dtype.category >= dtypes.FLOAT]
    compare(gradient_graph(graph, float_inputs(graph)), [*arrays, *weights], 1e-3, 1e-4)


@pytest.mark.parametrize(("m", "n", "k"), [(1024, 1024, 1024), (1000, 777, 333), (1, 4096, 4096), (8, 300, 5000)])
def test_products(m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    found = (treadle.tensor(a).cuda() @ treadle.tensor(b).cuda()).cpu().numpy()
    np.testing.assert_allclose(found, a @ b, rtol=1e-3, atol=1e-3 * np.sqrt(k))


def test_large_reductions_and_rows() -> None:
    x = np.random.default_rng(0).standard_normal((3000, 5000)).astype(np.float32)
    t = treadle.tensor(x).cuda()
    np.testing.assert_allclose(t.sum().item(), x.sum(dtype=np.float64), rtol=1e-4)
    np.testing.assert_allclose(t.sum(0).cpu().numpy(), x.sum(0, dtype=np.float64), rtol=1e-3, atol=1e-2)
    shifted = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(t.softmax(1).cpu().numpy(), shifted / shifted.sum(1, keepdims=True), rtol=1e-4, atol=1e-7)


def test_training() -> None:
    def losses(where: str) -> list[float]:
        treadle.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10)).to(where)
        optimizer = treadle.optim.AdamW(net.parameters(), lr=1e-3)
        found = []
        for _ in range(20):
            x = treadle.randn(64, 64, device=where)
            loss = nn.functional.cross_entropy(net(x), x.argmax(1) % 10)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found
    np.testing.assert_allclose(losses("cuda"), losses("cpu"), rtol=1e-3)
