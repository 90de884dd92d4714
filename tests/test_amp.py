"""autocast and GradScaler."""
from __future__ import annotations

import numpy as np
import pytest

import treadle as td
import treadle.nn.functional as F
from treadle import nn
from treadle.amp import GradScaler, autocast


def test_products_run_in_bfloat16_and_losses_in_float32() -> None:
    x, w = td.randn(4, 8), td.randn(8, 6)
    with autocast("cpu"):
        assert td.is_autocast_enabled() and td.get_autocast_dtype() is td.bfloat16
        y = x @ w
        assert y.dtype is td.bfloat16 and td.mm(x, w).dtype is td.bfloat16 and F.linear(x, w.t()).dtype is td.bfloat16
        assert F.mse_loss(y, td.zeros(4, 6)).dtype is td.float32 and (x + 1).dtype is td.float32
        assert F.cross_entropy(y, td.zeros(4, dtype=td.int64)).dtype is td.float32
        assert td.cat([x, x.bfloat16()]).dtype is td.float32
        assert (x.double() @ w.double()).dtype is td.float64
        with autocast("cpu", enabled=False):
            assert (x @ w).dtype is td.float32
        with autocast("cpu", dtype=td.float16):
            assert (x @ w).dtype is td.float16
        assert (x @ w).dtype is td.bfloat16
    assert not td.is_autocast_enabled() and (x @ w).dtype is td.float32


def test_cuda_lists() -> None:
    x = td.randn(4, 8)
    with autocast("cuda", dtype=td.bfloat16):
        assert x.bfloat16().exp().dtype is td.float32 and x.bfloat16().softmax(-1).dtype is td.float32 and (x @ x.t()).dtype is td.bfloat16
    with autocast("cpu"):
        assert x.bfloat16().exp().dtype is td.bfloat16


def test_errors() -> None:
    with pytest.raises(RuntimeError, match="unsupported autocast device_type 'abacus'"):
        autocast("abacus")
    with pytest.raises(RuntimeError, match=r"target dtype is not supported: got treadle\.float32"):
        autocast("cpu", dtype=td.float32)


def _step(m: nn.Module, x: td.Tensor, t: td.Tensor) -> td.Tensor:
    with autocast("cpu"):
        return F.cross_entropy(m(x), t)


@pytest.mark.parametrize("compiled", [False, True])
def test_master_weights_train_as_in_float32(compiled: bool) -> None:
    curves = []
    for low in (False, True):
        td.manual_seed(0)
        m = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4))
        optimizer = td.optim.SGD(m.parameters(), lr=0.1)
        x, t = td.randn(64, 16), td.randint(0, 4, (64,))
        loss_of = (lambda: _step(m, x, t)) if low else (lambda: F.cross_entropy(m(x), t))  # noqa: B023

        def step() -> td.Tensor:
            loss = loss_of()  # noqa: B023
            optimizer.zero_grad()  # noqa: B023
            loss.backward()
            optimizer.step()  # noqa: B023
            return loss.detach()
        run = td.compile(step) if compiled else step
        curves.append([float(run()) for _ in range(30)])
        assert m[0].weight.dtype is td.float32 and m[0].weight.grad.dtype is td.float32
    assert abs(curves[0][-1] - curves[1][-1]) < 0.02 * curves[0][-1] and curves[1][-1] < curves[1][0]


def test_dropout_drops_the_same_and_each_step_is_close() -> None:
    """While rounding has not led the two runs apart, every loss is within 2 % of float32's."""
    curves = []
    for low in (False, True):
        td.manual_seed(1)
        x = td.randn(512, 64)
        y = (x @ td.randn(64, 10)).argmax(1)
        hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.3)]
        m = nn.Sequential(*hidden, nn.Linear(128, 10))
        optimizer = td.optim.AdamW(m.parameters(), lr=3e-3, weight_decay=0.02)
        losses = []
        for step in range(30):
            rows = slice(64 * step % 512, 64 * step % 512 + 64)
            with autocast("cpu", enabled=low):
                loss = F.cross_entropy(m(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.6 * curves[0][0]
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.02)


def test_a_compiled_function_knows_the_mode() -> None:
    f = td.compile(lambda x, w: x @ w)
    x, w = td.randn(4, 8), td.randn(8, 6)
    for _ in range(3):
        assert f(x, w).dtype is td.float32
        with autocast("cpu"):
            assert f(x, w).dtype is td.bfloat16


def test_decorator_and_custom_functions() -> None:
    @autocast("cpu")
    def product(x: td.Tensor) -> td.Tensor:
        return x @ x

    assert product(td.randn(3, 3)).dtype is td.bfloat16

    class Double(td.autograd.Function):
        @staticmethod
        @td.amp.custom_fwd(device_type="cpu", cast_inputs=td.float32)
        def forward(ctx: object, x: td.Tensor) -> td.Tensor:
            return x @ x

        @staticmethod
        @td.amp.custom_bwd(device_type="cpu")
        def backward(ctx: object, g: td.Tensor) -> td.Tensor:
            return g * 2

    with autocast("cpu"):
        assert Double.apply(td.randn(3, 3).bfloat16()).dtype is td.float32


def test_recurrent_and_embedding_models_run() -> None:
    m = nn.LSTM(8, 12)
    with autocast("cpu"):
        out, _ = m(nn.Linear(5, 8)(td.randn(7, 2, 5)))
        loss = out.float().square().mean()
    loss.backward()
    assert all(p.grad is not None and np.isfinite(p.grad.numpy()).all() for p in m.parameters())


# -- GradScaler ----------------------------------------------------------------------------------------------------------------
def test_scaler_skips_overflowing_steps_and_adapts() -> None:
    w = nn.Parameter(td.ones(3))
    optimizer = td.optim.SGD([w], lr=0.5)
    scaler = GradScaler(init_scale=8.0, growth_interval=2)
    for factor, scale in ((1.0, 8.0), (1.0, 16.0), (float("inf"), 8.0), (1.0, 8.0)):
        before = w.detach().numpy().copy()
        optimizer.zero_grad()
        scaler.scale((w * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale
        np.testing.assert_allclose(w.detach().numpy(), before - (0 if np.isinf(factor) else 0.5))


def test_scaler_protocol() -> None:
    w = nn.Parameter(td.ones(3))
    optimizer = td.optim.SGD([w], lr=0.5)
    scaler = GradScaler(init_scale=4.0)
    with pytest.raises(RuntimeError, match="no gradient was found"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="No inf checks were recorded prior to update"):
        scaler.update()
    scaler.scale(w.sum()).backward()
    scaler.unscale_(optimizer)
    np.testing.assert_allclose(w.grad.numpy(), np.ones(3))
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has already been called"):
        scaler.step(optimizer)
    scaler.update()
    other = GradScaler()
    other.load_state_dict(scaler.state_dict())
    assert other.get_scale() == 4.0
    off = GradScaler(enabled=False)
    assert off.scale(w) is w and off.get_scale() == 1.0 and off.state_dict() == {}
