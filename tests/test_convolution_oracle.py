"""Convolutions against PyTorch: values, both gradients, errors, layers."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle
import treadle.nn as nn
import treadle.nn.functional as F

torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
pytestmark = pytest.mark.oracle
RNG = np.random.default_rng(0)

# input, weight, keyword arguments
FORWARD = [
    ((2, 3, 9), (4, 3, 3), {}), ((3, 9), (4, 3, 3), {"padding": 1}), ((2, 4, 10), (6, 2, 3), {"groups": 2, "stride": 2, "dilation": 2}),
    ((2, 3, 9), (4, 3, 4), {"padding": "same"}), ((2, 3, 9), (4, 3, 3), {"padding": "valid"}), ((2, 3, 8, 7), (5, 3, 3, 3), {"padding": 1}),
    ((2, 3, 8, 7), (5, 3, 3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}), ((3, 8, 7), (5, 3, 1, 1), {}),
    ((2, 4, 8, 7), (4, 1, 3, 3), {"groups": 4, "padding": 1, "stride": 2}), ((2, 4, 8, 7), (8, 1, 3, 3), {"groups": 4}),
    ((2, 3, 8, 7), (5, 3, 3, 3), {"padding": "same", "dilation": 2}), ((1, 2, 5, 6, 4), (3, 2, 2, 3, 2), {"stride": 2, "padding": 1}),
    ((0, 3, 8, 7), (5, 3, 3, 3), {}), ((2, 3, 8, 8), (6, 3, 4, 4), {"stride": 4}),
    ((2, 6, 5, 5), (6, 2, 3, 3), {"groups": 3, "padding": 2}),
    ((2, 3, 9, 8), (5, 3, 1, 2), {"stride": (2, 3), "dilation": 2}),
    ((2, 4, 9, 9), (4, 1, 2, 3), {"groups": 4, "stride": 3, "dilation": 2}),
    ((2, 3, 11), (4, 3, 3), {"stride": 4, "dilation": 6, "padding": 3}),
]
TRANSPOSED = [
    ((2, 3, 6), (3, 4, 3), {}), ((2, 3, 6), (3, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((3, 5, 4), (3, 4, 3, 3), {"stride": 2}), ((2, 3, 5, 4), (3, 4, 3, 2), {"padding": 1, "dilation": (1, 2)}),
    ((2, 4, 5, 4), (4, 3, 4, 4), {"stride": 2, "padding": 1, "groups": 2}), ((2, 4, 5, 4), (4, 1, 3, 3), {"groups": 4, "stride": (2, 3)}),
    ((2, 3, 5, 4), (3, 2, 1, 1), {"padding": 1}), ((1, 2, 3, 4, 3), (2, 3, 2, 2, 2), {"stride": 2}),
    ((2, 2, 4, 4), (2, 2, 2, 2), {"dilation": 3, "output_padding": 2}),
]


def both(name: str, x: tuple[int, ...], w: tuple[int, ...], kwargs: dict[str, Any], bias: bool, dtype: str = "float32") -> None:
    """Run the function twice (the second time compiled) with gradients of gradients, on both libraries."""
    out = w[1] * kwargs.get("groups", 1) if "transpose" in name else w[0]
    arrays = [RNG.standard_normal(s).astype(dtype) for s in (x, w, (out,))[:3 if bias else 2]]
    results: list[list[np.ndarray]] = []
    for lib in (treadle, treadle, torch):
        tensors = [lib.from_numpy(a.copy()).requires_grad_() for a in arrays]
        y = getattr(lib.nn.functional, name)(*tensors, **kwargs)
        weights = lib.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
        grads = lib.autograd.grad((y * y * weights).sum(), tensors, create_graph=True)
        seconds = lib.autograd.grad(sum((g * g).sum() for g in grads), tensors)
        results.append([t.detach().numpy().copy() for t in (y, *grads, *seconds)])
    tolerance = 2e-4 if dtype == "float32" else 1e-10
    for ours in results[:2]:
        for a, e in zip(ours, results[2], strict=True):
            assert a.shape == e.shape and a.dtype == e.dtype
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(e).max(initial=0))))


@pytest.mark.parametrize("case", range(len(FORWARD)))
def test_convolutions(case: int) -> None:
    x, w, kwargs = FORWARD[case]
    both(f"conv{len(w) - 2}d", x, w, kwargs, bias=case % 2 == 0)


@pytest.mark.parametrize("case", range(len(TRANSPOSED)))
def test_transposed_convolutions(case: int) -> None:
    x, w, kwargs = TRANSPOSED[case]
    both(f"conv_transpose{len(w) - 2}d", x, w, kwargs, bias=case % 2 == 0)


def test_double_precision() -> None:
    both("conv2d", (2, 3, 8, 7), (5, 3, 3, 3), {"padding": 1, "stride": 2}, True, "float64")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits(dtype: str) -> None:
    for groups, w in ((1, (4, 4, 3, 3)), (4, (4, 1, 3, 3))):
        x, k = RNG.standard_normal((2, 4, 6, 6)).astype("f"), RNG.standard_normal(w).astype("f")
        ours = F.conv2d(treadle.from_numpy(x).to(getattr(treadle, dtype)), treadle.from_numpy(k).to(getattr(treadle, dtype)), groups=groups)
        want = torch.conv2d(torch.from_numpy(x).to(getattr(torch, dtype)), torch.from_numpy(k).to(getattr(torch, dtype)), groups=groups)
        np.testing.assert_allclose(ours.float().numpy(), want.float().numpy(), rtol=2e-2, atol=5e-2)


def test_mixed_precision() -> None:
    layer = nn.Conv2d(3, 4, 3)
    with treadle.autocast("cpu"):
        assert layer(treadle.ones(1, 3, 5, 5)).dtype is treadle.bfloat16


def test_windows() -> None:
    for size, kwargs in (((2, 3, 6, 7), {"kernel_size": 3, "padding": 1, "stride": 2}),
                         ((3, 6, 7), {"kernel_size": (2, 3), "dilation": 2})):
        x = RNG.standard_normal(size).astype("f")
        found = []
        for lib in (treadle, torch):
            t = lib.from_numpy(x.copy()).requires_grad_()
            columns = lib.nn.functional.unfold(t, **kwargs)
            image = lib.nn.functional.fold(columns * columns, size[-2:], **kwargs)
            (image * image).sum().backward()
            found.append([v.detach().numpy() for v in (columns, image, t.grad)])
        for a, e in zip(*found, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-4)


ERRORS = [
    lambda m: m.nn.functional.conv2d(m.zeros(1, 4, 8, 8), m.zeros(6, 3, 3, 3)),
    lambda m: m.nn.functional.conv2d(m.zeros(8, 8), m.zeros(6, 3, 3, 3)),
    lambda m: m.nn.functional.conv2d(m.zeros(1, 3, 2, 2), m.zeros(6, 3, 3, 3)),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 3, 3), stride=0),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 3, 3), padding=-1),
    lambda m: m.conv2d(m.zeros(1, 4, 8, 8), m.zeros(5, 2, 3, 3), groups=2),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 3, 3).double()),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 3, 3), m.zeros(5)),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 3, 3), stride=(1, 1, 1)),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 3, 3), stride=2, padding="same"),
    lambda m: m.conv_transpose2d(m.zeros(1, 4, 8, 8), m.zeros(3, 6, 3, 3)),
    lambda m: m.conv_transpose2d(m.zeros(1, 3, 8, 8), m.zeros(3, 6, 3, 3), output_padding=1),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 3, 3), stride="2"), lambda m: m.conv2d([1.0], m.zeros(6, 3, 3, 3)),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 3, 3), m.zeros(6).double()),
    lambda m: m.conv2d(m.zeros(1, 3, 8, 8), m.zeros(6, 3, 0, 3)),
    lambda m: m.nn.functional.max_pool2d([1.0], 2), lambda m: m.nn.functional.avg_pool2d(m.zeros(1, 1, 4, 4), "2"),
    lambda m: m.nn.Conv2d(3, 4, 3, groups=2), lambda m: m.nn.Conv2d(3, 4, 3, padding="full"),
    lambda m: m.nn.Conv2d(3, 4, 3, padding_mode="odd"),
    lambda m: m.nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), lambda m: m.nn.Conv2d(3, 4, 3, stride=2, padding="same"),
    lambda m: m.nn.functional.unfold(m.zeros(1, 3, 2, 2), 3), lambda m: m.nn.functional.fold(m.zeros(1, 10, 4), 4, 3),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors(case: int) -> None:
    with pytest.raises(Exception) as want:
        ERRORS[case](torch)
    with pytest.raises(type(want.value)):
        ERRORS[case](treadle)


LAYERS = [
    ("Conv1d", (3, 4, 3), {}), ("Conv2d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ("Conv2d", (3, 4, (3, 2)), {"padding": "same", "bias": False}), ("Conv2d", (3, 4, 3), {"padding": (1, 2), "padding_mode": "reflect"}),
    ("Conv2d", (3, 4, 3), {"padding": 2, "padding_mode": "circular"}),
    ("Conv2d", (3, 4, 4), {"padding": "same", "padding_mode": "replicate", "dilation": 2}), ("Conv3d", (2, 3, 2), {}),
    ("ConvTranspose1d", (3, 4, 3), {"stride": 2}),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ("ConvTranspose3d", (2, 3, 2), {"stride": 2}), ("Unfold", (3,), {"padding": 1}),
]


@pytest.mark.parametrize("case", range(len(LAYERS)))
def test_layers(case: int) -> None:
    name, args, kwargs = LAYERS[case]
    ours, want = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    assert repr(ours) == repr(want)
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {k: tuple(v.shape) for k, v in want.state_dict().items()}
    ours.load_state_dict({k: treadle.from_numpy(v.numpy().copy()) for k, v in want.state_dict().items()})
    rank = int(name[-2]) if name[-1] == "d" and name != "Unfold" else 2
    x = RNG.standard_normal((2, args[0] if name != "Unfold" else 3, *(7, 6, 5)[:rank])).astype("f")
    found, expected = ours(treadle.from_numpy(x)).detach().numpy(), want(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_output_size() -> None:
    ours, want = nn.ConvTranspose2d(2, 3, 3, stride=2), torch.nn.ConvTranspose2d(2, 3, 3, stride=2)
    for size in ((9, 9), (10, 9), (1, 3, 10, 10), (11, 9), (9,)):
        try:
            shape = tuple(want(torch.zeros(1, 2, 4, 4), output_size=size).shape)
        except ValueError:
            with pytest.raises(ValueError, match=r"output_size|output size"):
                ours(treadle.zeros(1, 2, 4, 4), output_size=size)
        else:
            assert tuple(ours(treadle.zeros(1, 2, 4, 4), output_size=size).shape) == shape


def test_initial_weights() -> None:
    bound = (16 * 9) ** -0.5
    for layer in (nn.Conv2d(16, 64, 3), torch.nn.Conv2d(16, 64, 3)):
        for p in layer.parameters():
            assert 0.9 * bound < float(p.detach().abs().max()) <= bound


def test_no_compilation_for_another_batch_size() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    for size in (4, 4, 4, 5, 5):
        layer(treadle.ones(size, 3, 8, 8)).sum().backward()
        treadle.cpu.synchronize()
    before = treadle.stats()["llvm_compiles"]
    for size in (6, 7, 7, 9):
        layer(treadle.ones(size, 3, 8, 8)).sum().backward()
        treadle.cpu.synchronize()
    assert treadle.stats()["llvm_compiles"] == before


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "size"), [
    (3, 1, 1, 1, (28, 28)), (2, 2, 0, 1, (12, 8)), (3, 2, 1, 1, (13, 9)), (3, 2, 1, 2, (14, 11)), (4, 3, 0, 1, (10, 13)),
    (2, 3, 0, 1, (11, 8))])
def test_fold_adds_up_shifted_slices(kernel: int, stride: int, padding: int, dilation: int, size: tuple[int, int]) -> None:
    """Windows that overlap, touch or leave gaps; also as the gradient of unfold."""
    image = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    given = {"kernel_size": kernel, "dilation": dilation, "padding": padding, "stride": stride}
    theirs = torch.tensor(image, requires_grad=True)
    columns = torch.nn.functional.unfold(theirs, **given)
    columns.pow(2).sum().backward()
    want = torch.nn.functional.fold(columns.detach(), size, **given).numpy()
    for _ in range(2):
        ours = treadle.tensor(image, requires_grad=True)
        treadle.nn.functional.unfold(ours, **given).pow(2).sum().backward()
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-5, atol=1e-5)
        found = treadle.nn.functional.fold(treadle.tensor(columns.detach().numpy()), size, **given)
        np.testing.assert_allclose(found.numpy(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shape", "strides", "offset"), [
    ((3, 4), (2, 1), 0), ((4, 3), (0, 1), 2), ((4,), (5,), 1), ((), (), 3), ((2, 2, 3), (7, 3, 1), 1)])
def test_gradients_of_strided_views(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> None:
    """Views whose axes cross those of the tensor."""
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    theirs = torch.tensor(x, requires_grad=True)
    torch.as_strided(theirs, shape, strides, offset).pow(2).sum().backward()
    for _ in range(2):
        ours = treadle.tensor(x, requires_grad=True)
        treadle.as_strided(ours, shape, strides, offset).pow(2).sum().backward()
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-5, atol=1e-5)
