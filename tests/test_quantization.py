"""Quantizing models and functions: accuracy, what is reported, and errors that name the layer."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle as td
from treadle import nn, ops
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.types import tensor_type
from treadle.passes import quantize as passes
from treadle.quantization import QConfig, QuantizedLinear, quantize


def model(inputs: int = 24, hidden: int = 50, outputs: int = 10) -> nn.Sequential:
    td.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs, bias=False))


CONFIGS = [QConfig(), QConfig(per_channel=False), QConfig(symmetric=True), QConfig(per_tensor=True), QConfig(activation="static"),
           QConfig(activation="static", symmetric=True), QConfig(activation="static", observer="percentile", percentile=99.99)]


@pytest.mark.parametrize("config", CONFIGS)
def test_outputs_are_close_and_the_model_is_small(config: QConfig) -> None:
    m = model(256, 512, 128)
    td.manual_seed(1)
    batches = [td.randn(32, 256) for _ in range(4)]
    q = quantize(m, config, calibration=batches)
    x = batches[0]
    wanted, found = m(x).detach().numpy(), q(x).numpy()
    noise = 10 * np.log10((wanted**2).sum() / ((wanted - found)**2).sum())
    assert noise > 25
    assert q.report.bytes < 0.35 * q.report.float_bytes
    assert [layer.name for layer in q.report.layers] == ["0", "2"] and all(layer.sqnr > 25 for layer in q.report.layers)
    assert isinstance(m[0], nn.Linear) and isinstance(q[0], QuantizedLinear)  # the float model is as it was
    for rows in (1, 3, 17):  # new sizes, more axes
        np.testing.assert_allclose(q(x[:rows]).numpy(), found[:rows], atol=1e-5 if not config.per_tensor else 1)
    np.testing.assert_allclose(q(x.reshape(4, 8, 256)).numpy().reshape(32, -1), found, atol=1e-5)


def reference(layer: QuantizedLinear, x: np.ndarray) -> np.ndarray:
    """The layer in plain integers, from its buffers."""
    w = np.round(layer.dequantized_weight().numpy() / layer.scale.numpy()[:, None]).astype(np.int64)
    if layer.static:
        scale, zero = np.float32(layer.x_scale.item()), int(layer.x_zero.item())
    else:
        low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
        scale = ((high - low) / np.float32(255)).astype(np.float32)
        zero = np.rint(-low / scale).astype(np.int64)
    q = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64)
    total = (q - zero) @ w.T
    return total.astype(np.float32) * (scale * layer.scale.numpy()) + layer.bias.numpy()


@pytest.mark.parametrize("activation", ["dynamic", "static"])
def test_layers_are_the_integer_formula(activation: str) -> None:
    m = model(33, 40, 7)
    td.manual_seed(2)
    x = td.randn(9, 33)
    q = quantize(m, QConfig(activation=activation), calibration=[x])
    for _ in range(3):  # interpreted, then compiled
        np.testing.assert_allclose(q[0](x).numpy(), reference(q[0], x.numpy()), rtol=1e-6, atol=1e-6)


def test_pytorch_names() -> None:
    m = model()
    q = td.ao.quantization.quantize_dynamic(m, {nn.Linear}, dtype=td.qint8)
    assert isinstance(q[0], QuantizedLinear) and isinstance(q[2], QuantizedLinear) and isinstance(m[0], nn.Linear)
    named = td.ao.quantization.quantize_dynamic(m, {"2"})
    assert isinstance(named[0], nn.Linear) and isinstance(named[2], QuantizedLinear)
    assert ("0", "it was not asked for") in named.report.left
    with pytest.raises(ValueError, match=r"quantize_dynamic: dtype must be treadle.qint8, got treadle.float16"):
        td.ao.quantization.quantize_dynamic(m, {nn.Linear}, dtype=td.float16)


def test_what_stays_in_float_is_reported() -> None:
    m = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4).double())
    q = quantize(m, QConfig(skip=("1",)))
    left = dict(q.report.left)
    assert left["0"] == "Embedding has no int8 form" and left["1"] == "config.skip names it"
    assert left["3"] == "weights of float64 lose too much in int8" and "left in float" in str(q.report)


def test_functions_follow_their_weights() -> None:
    m = model()
    td.manual_seed(3)
    x = td.randn(6, 24)
    q = quantize(lambda x: m(x).softmax(-1))
    np.testing.assert_allclose(q(x).numpy(), m(x).softmax(-1).detach().numpy(), atol=0.01)
    assert [layer.name for layer in q.report.layers] == ["linear_bias0", "linear1"]
    with td.no_grad():
        m[0].weight.mul_(0.0)
        m[0].bias.mul_(0.0)
    np.testing.assert_allclose(q(x).numpy(), np.full((6, 10), 0.1), atol=1e-6)  # packed again


def test_static_functions() -> None:
    m = model()
    td.manual_seed(4)
    x = td.randn(16, 24)
    q = quantize(m.forward, QConfig(activation="static"), calibration=[x, x * 0.5])
    np.testing.assert_allclose(q(x).numpy(), m(x).detach().numpy(), atol=0.05)
    assert all(layer.kind == "static int8" for layer in q.report.layers)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_calibration_with_bad_values_names_the_layer(bad: float) -> None:
    x = td.randn(4, 24)
    x[1, 2] = bad
    with pytest.raises(ValueError, match=r"the calibration data gives layer '0' inputs that are NaN or infinite"):
        quantize(model(), QConfig(activation="static"), calibration=[x])


def test_bad_configurations() -> None:
    with pytest.raises(ValueError, match='activation="static" needs calibration data'):
        quantize(model(), QConfig(activation="static"))
    with pytest.raises(ValueError, match='"dynamic" or "static", got'):
        QConfig(activation="sometimes")
    with pytest.raises(ValueError, match="percentile must be in"):
        QConfig(percentile=3.0)
    with pytest.raises(TypeError, match="expected a module or a function, got int"):
        quantize(3)


def test_state_dict_and_compile() -> None:
    m, x = model(), td.randn(5, 24)
    q, other = quantize(m), quantize(model(24, 50, 10))
    with td.no_grad():
        m[0].weight.mul_(2.0)
    q2 = quantize(m)
    other.load_state_dict(q2.state_dict())
    np.testing.assert_array_equal(other(x).numpy(), q2(x).numpy())
    compiled = td.compile(q)
    for _ in range(3):
        np.testing.assert_allclose(compiled(x).numpy(), q(x).numpy(), rtol=1e-6, atol=1e-6)


# -- convolutions --------------------------------------------------------------------------------------------------------------
def convolved(layer: Any, x: np.ndarray) -> np.ndarray:
    """A QuantizedConv of two axes in plain integers, place by place, from its buffers."""
    scale, zero, w = np.float32(layer.x_scale.item()), int(layer.x_zero.item()), layer.window
    panels, words, width, group = layer.packed.shape
    weights = layer.packed.numpy().transpose(0, 2, 1, 3).reshape(panels * width, words * group).astype(np.int64)
    q = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64)
    q = np.pad(q, ((0, 0), (0, 0), *zip(w.low, w.high, strict=True)), constant_values=zero) - zero
    depth = layer.in_channels * w.kernel[0] * w.kernel[1]
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(q.shape[2:], w.kernel, w.stride, w.dilation, strict=True)]
    out = np.zeros((len(x), layer.out_channels, *sizes), np.float32)
    for i, j in np.ndindex(*sizes):
        rows, columns = ([at * s + d * t for t in range(k)] for at, k, s, d in zip((i, j), w.kernel, w.stride, w.dilation, strict=True))
        block = q[:, :, rows][..., columns]
        total = block.reshape(len(x), depth) @ weights[:layer.out_channels, :depth].T
        out[:, :, i, j] = total.astype(np.float32) * (scale * layer.scale.numpy()) + layer.bias.numpy()
    return out


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": "same", "dilation": (1, 2), "bias": False},
                                     {"stride": (1, 3), "padding": (0, 2)}])
def test_convolutions_are_the_integer_formula(options: dict[str, Any]) -> None:
    td.manual_seed(6)
    m, x = nn.Sequential(nn.Conv2d(3, 37, (2, 3), **options)), td.randn(3, 3, 9, 11)
    q = quantize(m, QConfig(activation="static"), calibration=[x])
    wanted = m(x).detach().numpy()
    for _ in range(3):  # interpreted, then compiled
        found = q(x).numpy()
        assert found.shape == wanted.shape and np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
        np.testing.assert_allclose(found, convolved(q[0], x.numpy()), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(q(x[0]).numpy(), found[0], rtol=1e-6, atol=1e-6)


def network() -> nn.Sequential:
    td.manual_seed(7)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(),
                         nn.Linear(200, 5))


def test_networks_of_images() -> None:
    m, x = network(), td.randn(4, 1, 14, 14)
    q = quantize(m, QConfig(activation="static", observer="percentile", percentile=99.99), calibration=[x, x * 0.9])
    assert [r.name for r in q.report.layers] == ["0", "5"] and dict(q.report.left)["3"] == "a convolution of 2 groups has no int8 form"
    assert 'use activation="static" with calibration data' in dict(quantize(m).report.left)["0"]
    wanted = m(x).detach().numpy()
    for found in (q(x), quantize(m.forward, QConfig(activation="static"), calibration=[x])(x)):
        assert np.abs(found.numpy() - wanted).max() < 0.05 * np.abs(wanted).max()


def test_three_steps_as_in_pytorch() -> None:
    fx = td.ao.quantization.quantize_fx
    m, x = network().eval(), td.randn(4, 1, 14, 14)
    prepared = fx.prepare_fx(m, td.ao.quantization.get_default_qconfig_mapping("x86"), (x,))
    with pytest.raises(RuntimeError, match="no calibration data reached a layer: call the prepared model"):
        fx.convert_fx(prepared)
    np.testing.assert_allclose(prepared(x).detach().numpy(), m(x).detach().numpy(), atol=1e-6)
    q = fx.convert_fx(prepared)
    same = quantize(m, QConfig(activation="static"), calibration=[x])
    np.testing.assert_allclose(q(x).numpy(), same(x).numpy(), atol=1e-3)
    with pytest.raises(RuntimeError, match="was not made by prepare_fx"):
        fx.convert_fx(m)
    with pytest.raises(ValueError, match=r'expected a QConfig\(activation="static"\)'):
        fx.prepare_fx(m, QConfig())


def test_inputs_that_do_not_fit_name_the_layer_and_what_to_do() -> None:
    x = td.randn(4, 24)
    for q in (quantize(model()), quantize(model(), QConfig(activation="static"), calibration=[x])):
        with pytest.raises(RuntimeError, match=r"expected a floating-point input, which it quantizes itself, got int64; convert it"):
            q(x.long())
        with pytest.raises(RuntimeError, match=r"QuantizedLinear: mat1 and mat2 .* multiplied \(input \[4, 23\], weight \[50, 24\]"):
            q(x[:, 1:])
        assert q(x.bfloat16()).dtype is td.bfloat16
    images = td.randn(2, 1, 14, 14)
    q = quantize(network(), QConfig(activation="static"), calibration=[images])
    with pytest.raises(RuntimeError, match=r"QuantizedConv: expected 1 channels and 2 spatial axes, got input of size \[2, 3, 14, 14\]"):
        q(td.randn(2, 3, 14, 14))
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="gives layer '0' inputs that are NaN or infinite; remove such samples"):
        quantize(network(), QConfig(activation="static", observer="percentile"), calibration=[images])


def test_nan_at_run_time_is_zero_in_static_layers() -> None:
    x = td.randn(4, 24)
    q = quantize(model(), QConfig(activation="static"), calibration=[x])
    bad = x.clone()
    bad[1, 2] = float("nan")
    x[1, 2] = 0.0
    for _ in range(3):
        np.testing.assert_array_equal(q(bad).numpy(), q(x).numpy())


@pytest.mark.parametrize("seed", range(8))
def test_products_of_any_size_are_exact(seed: int) -> None:
    """Through the op table, odd sizes filled up as the layers do: the same integers interpreted and compiled."""
    rng = np.random.default_rng(seed)
    m, n, k = (int(v) for v in rng.integers(1, 90, 3))
    x, w = rng.integers(0, 256, (m, k), np.uint8), rng.integers(-128, 128, (n, k), np.int8)
    wide = np.pad(x, ((0, 0), (0, -k % 4)))
    for _ in range(3):
        found = ops.int8_matmul(td.from_numpy(wide), ops.int8_pack(td.from_numpy(w)), n).numpy()
        np.testing.assert_array_equal(found, x.astype(np.int32) @ w.T.astype(np.int32))


# -- the pass ----------------------------------------------------------------------------------------------------------------
def two_layers() -> tuple[Graph, list[np.ndarray]]:
    b = Builder(Graph("main"))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((6, 20), (30, 20), (30,), (8, 30))]
    x, w1, bias, w2 = [b.input(tensor_type(a.shape, td.float32)) for a in arrays]
    b.graph.outputs = [b.linear(b.relu(b.linear_bias(x, w1, bias)), w2)]
    return b.graph, arrays


def test_the_pass_rewrites_graphs() -> None:
    graph, arrays = two_layers()
    (wanted,) = run(graph, arrays)
    ranges = run(passes.observe(graph), arrays)
    np.testing.assert_array_equal(ranges[0], wanted)
    assert [float(r) for r in ranges[1:3]] == [arrays[0].min(), arrays[0].max()]
    from treadle.quantization.layers import bounds_of
    bounds = [bounds_of(float(ranges[1]), float(ranges[2]), False), bounds_of(float(ranges[3]), float(ranges[4]), False)]
    for known, name in ((None, "linear_int8"), (bounds, "linear_int8_static")):
        new = passes.quantize(graph, passes.Scheme(), known)
        names = [node.op.name for node in new.nodes if node.op]
        assert names.count(name) == 2 and names.count("int8_pack") == 2 and "linear" not in names
        assert f'"treadle.{name}"' in str(new)
        (found,) = run(new, arrays)
        assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
        assert str(passes.quantize(new, passes.Scheme(), known)) == str(new)  # again: nothing changes
    assert passes.left_in_float(graph) == []


def test_the_pass_takes_convolutions_and_percentiles() -> None:
    b = Builder(Graph("main"))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 8, 8), (5, 3, 3, 3))]
    x, w = [b.input(tensor_type(a.shape, td.float32)) for a in arrays]
    b.graph.outputs = [b.convolution(x, w, (1, 1), (1, 1), (1, 1), 1)]
    wanted, low, high = run(passes.observe(b.graph, 99.0), arrays)
    ordered = np.sort(arrays[0].reshape(-1))
    assert (low, high) == (ordered[4], ordered[-5])
    assert str(passes.quantize(b.graph)).count("treadle.convolution_int8") == 0  # its range is not known
    from treadle.quantization.layers import bounds_of
    new = passes.quantize(b.graph, passes.Scheme(), [bounds_of(float(arrays[0].min()), float(arrays[0].max()), False)])
    assert '"treadle.convolution_int8"' in str(new)
    (found,) = run(new, arrays)
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()


def test_rows_of_zeros_and_nan() -> None:
    q = quantize(nn.Sequential(nn.Linear(8, 3)))
    zero = q(td.zeros(2, 8)).numpy()
    np.testing.assert_allclose(zero, np.broadcast_to(q[0].bias.numpy(), (2, 3)), atol=1e-7)
    x: Any = td.zeros(2, 8)
    x[0, 0] = float("nan")
    for _ in range(3):
        found = q(x).numpy()
        assert np.isnan(found[0]).all() and not np.isnan(found[1]).any()


def test_quantize_and_dequantize_are_inverse_within_half_a_step() -> None:
    td.manual_seed(5)
    x, scale, zero = td.rand(50, 7) * 4 - 1, td.tensor(4 / 255), td.tensor(64, dtype=td.int32)
    back = ops.dequantize(ops.quantize(x, scale, zero, td.uint8), scale, zero)
    assert float((back - x).abs().max()) <= 4 / 255 / 2 + 1e-6


def test_digits_keep_their_accuracy_and_bfloat16_its_loss() -> None:
    """A classifier of scikit-learn's digits: int8 within half a point of float32; trained under autocast within 2 % of its loss."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = td.tensor(data.images.reshape(-1, 64) / 16.0, dtype=td.float32), td.tensor(data.target, dtype=td.int64)
    losses = []
    for low in (False, True):
        td.manual_seed(0)
        m = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = td.optim.AdamW(m.parameters(), lr=3e-3)
        total = []
        for step in range(120):
            rows = slice(64 * step % 1408, 64 * step % 1408 + 64)
            with td.autocast("cpu", enabled=low):
                loss = nn.functional.cross_entropy(m(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total.append(loss.item())
        losses.append(float(np.mean(total[-22:])))
        if not low:
            right = lambda f: float((f(x[1437:]).argmax(1) == y[1437:]).float().mean())
            for activation in ("dynamic", "static"):
                q = quantize(m, QConfig(activation=activation), calibration=[x[:256]])
                assert right(q) >= right(m) - 0.005
    assert abs(losses[1] - losses[0]) < 0.02 * losses[0]
