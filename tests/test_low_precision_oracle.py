"""autocast's lists and dynamic quantization against PyTorch's."""
from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle as td

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")

CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "mm": lambda t, x, y: t.mm(x, y), "matmul": lambda t, x, y: x @ y, "bmm": lambda t, x, y: t.bmm(x[None], y[None]),
    "addmm": lambda t, x, y: t.addmm(x, x, y), "baddbmm": lambda t, x, y: t.baddbmm(x[None], x[None], y[None]),
    "linear": lambda t, x, y: t.nn.functional.linear(x, y), "linear_bias": lambda t, x, y: t.nn.functional.linear(x, y, x[0]),
    "mixed": lambda t, x, y: t.mm(x.bfloat16(), y), "double": lambda t, x, y: t.mm(x.double(), y.double()),
    "add": lambda t, x, y: x + y, "add of low": lambda t, x, y: x.bfloat16() + y, "relu": lambda t, x, y: t.relu(x.bfloat16()),
    "exp": lambda t, x, y: t.exp(x.bfloat16()), "softmax": lambda t, x, y: t.softmax(x.bfloat16(), -1),
    "log_softmax": lambda t, x, y: t.log_softmax(x.bfloat16(), -1), "sum": lambda t, x, y: x.bfloat16().sum(),
    "mean": lambda t, x, y: x.bfloat16().mean(), "prod": lambda t, x, y: x.bfloat16().prod(),
    "mse": lambda t, x, y: t.nn.functional.mse_loss(x.bfloat16(), y.bfloat16()),
    "l1": lambda t, x, y: t.nn.functional.l1_loss(x.bfloat16(), y.bfloat16()),
    "smooth_l1": lambda t, x, y: t.nn.functional.smooth_l1_loss(x.bfloat16(), y.bfloat16()),
    "cross_entropy": lambda t, x, y: t.nn.functional.cross_entropy(x.bfloat16(), t.arange(4)),
    "cat": lambda t, x, y: t.cat([x, y.bfloat16()]), "stack": lambda t, x, y: t.stack([x, y.bfloat16()]),
    "gelu": lambda t, x, y: t.nn.functional.gelu(x.bfloat16()),
    "layer_norm": lambda t, x, y: t.nn.functional.layer_norm(x.bfloat16(), (4,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_autocast_gives_pytorchs_types(name: str) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = CALLS[name](torch, torch.from_numpy(x), torch.from_numpy(y))
    with td.autocast("cpu", dtype=td.bfloat16):
        found = CALLS[name](td, td.from_numpy(x), td.from_numpy(y))
    assert str(found.dtype).split(".")[-1] == str(wanted.dtype).split(".")[-1]
    np.testing.assert_allclose(found.float().numpy(), wanted.float().numpy(), rtol=2e-2, atol=4e-2)


def test_gradients_under_autocast() -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((32, 40), (64, 40), (64,), (8, 64))]
    found = []
    for t in (torch, td):
        x, w, b, v = (t.tensor(a, requires_grad=True) for a in arrays)
        with t.autocast("cpu", dtype=t.bfloat16):
            y = t.nn.functional.linear(t.relu(t.nn.functional.linear(x, w, b)), v)
            loss = t.nn.functional.mse_loss(y, t.zeros(32, 8))
        loss.backward()
        found.append([p.grad.numpy() for p in (x, w, b, v)])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * np.abs(a).max())


def test_dynamic_quantization_is_as_good_as_pytorchs() -> None:
    rng = np.random.default_rng(2)
    w, b, x = (rng.standard_normal(s).astype(np.float32) for s in ((256, 512), (256,), (64, 512)))
    ours, theirs = td.nn.Linear(512, 256), torch.nn.Linear(512, 256)
    ours.load_state_dict({"weight": td.from_numpy(w), "bias": td.from_numpy(b)})
    theirs.load_state_dict({"weight": torch.from_numpy(w), "bias": torch.from_numpy(b)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(theirs), {torch.nn.Linear}, dtype=torch.qint8)
    wanted = x @ w.T + b
    ours_error = np.linalg.norm(td.ao.quantization.quantize_dynamic(td.nn.Sequential(ours))(td.from_numpy(x)).numpy() - wanted)
    their_error = np.linalg.norm(reference(torch.from_numpy(x)).numpy() - wanted)
    assert ours_error <= their_error


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_where_numbers_and_sums_are_rounded(dtype: str) -> None:
    """To the bit: a number beside a 16-bit tensor is not rounded in products, and what is added to a product is, once with it."""
    rng = np.random.default_rng(0)
    a, c = (rng.standard_normal((10, 10)).astype(np.float32) for _ in range(2))
    cases = {
        "mul": lambda t, x, y: x * 3.3, "div": lambda t, x, y: x / 3.3, "mul 0-d": lambda t, x, y: x * t.tensor(3.3),
        "one element": lambda t, x, y: x[0, 0] * 3.3, "add": lambda t, x, y: x + 3.3,
        "linear": lambda t, x, y: t.nn.functional.linear(x, y, y[0]), "addmm": lambda t, x, y: t.addmm(x, x, y, beta=0.7, alpha=3.3),
        "baddbmm": lambda t, x, y: t.baddbmm(x[None], x[None], y[None], beta=0.7, alpha=3.3),
        "addcmul": lambda t, x, y: t.addcmul(x, y, y, value=3.3), "rms_norm": lambda t, x, y: t.nn.functional.rms_norm(x, (10,))}
    for name, f in cases.items():
        want, *found = [f(t, *[t.tensor(v.tolist(), dtype=getattr(t, dtype)) for v in (a, c)]) for t in (torch, td, td)]
        assert all(x.tolist() == want.tolist() for x in found), name
