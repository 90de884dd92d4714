"""Padding with an operand's own elements against numpy: modes, borders and crops, interpreted and compiled, with gradients."""
from __future__ import annotations

import numpy as np
import pytest

import treadle

MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
# By axis from the last one: elements before and behind.
BORDERS = [((3, 2), (1, 4)), ((0, 3), (2, 0)), ((5, 5), (4, 4)), ((0, 0), (3, 3)), ((1, 0), (0, 0))]


def padded(x: np.ndarray, borders: tuple[tuple[int, int], ...], mode: str) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), *reversed(borders)), MODES[mode])


@pytest.mark.parametrize("borders", BORDERS)
@pytest.mark.parametrize("mode", MODES)
def test_borders(mode: str, borders: tuple[tuple[int, int], ...]) -> None:
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 6, 7), (1, 2, 5, 40)):
        x = rng.standard_normal(shape).astype(np.float32)
        flat = [n for pair in borders for n in pair]
        want = padded(x, borders, mode)
        places = padded(np.arange(x.size).reshape(shape), borders, mode)
        g = rng.standard_normal(want.shape).astype(np.float32)
        back = np.bincount(places.reshape(-1), g.reshape(-1), x.size).reshape(shape)
        for _ in range(3):
            t = treadle.tensor(x, requires_grad=True)
            out = treadle.nn.functional.pad(t, flat, mode=mode)
            np.testing.assert_array_equal(out.detach().numpy(), want)
            out.backward(treadle.tensor(g))
            np.testing.assert_allclose(t.grad.numpy(), back, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_one_end_cropped(mode: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 9)).astype(np.float32)
    want = np.pad(x if mode != "circular" else x[..., 2:], ((0, 0), (0, 0), (0, 3)), MODES[mode])
    for _ in range(3):
        out = treadle.nn.functional.pad(treadle.tensor(x), (-2, 3), mode=mode)
        np.testing.assert_array_equal(out.numpy(), want if mode == "circular" else want[..., 2:])
