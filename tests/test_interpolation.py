"""Resizing, sampling and rearranging images against PyTorch."""
from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from vision_cases import both_raise, same

import treadle

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def F(module: Any, name: str) -> Any:
    return getattr(module.nn.functional, name)


SHAPES = {3: (2, 3, 7), 4: (2, 3, 7, 6), 5: (1, 2, 4, 5, 6)}
SIZES: dict[int, list[Any]] = {3: [5, 14, 9], 4: [(5, 9), 14, (14, 12), (7, 3)], 5: [(6, 4, 6), 5]}
RANKS = {"nearest": (3, 4, 5), "nearest-exact": (3, 4, 5), "area": (3, 4, 5), "linear": (3,), "bilinear": (4,), "bicubic": (4,),
         "trilinear": (5,)}
CASES = [(mode, rank) for mode, ranks in RANKS.items() for rank in ranks]


@pytest.mark.parametrize(("mode", "rank"), CASES)
def test_sizes_and_factors(torch: Any, mode: str, rank: int) -> None:
    for size in SIZES[rank]:
        same(torch, lambda m, x, size=size: F(m, "interpolate")(x, size=size, mode=mode), SHAPES[rank])
    for factor in (2, 1.7, 0.6, (2.0, 0.5, 1.3)[:rank - 2]):
        same(torch, lambda m, x, f=factor: F(m, "interpolate")(x, scale_factor=f, mode=mode), SHAPES[rank])
        same(torch, lambda m, x, f=factor: F(m, "interpolate")(x, None, f, mode, recompute_scale_factor=True), SHAPES[rank])


@pytest.mark.parametrize(("mode", "rank"), [c for c in CASES if "linear" in c[0] or "cubic" in c[0]])
def test_aligned_corners(torch: Any, mode: str, rank: int) -> None:
    for options in ({"size": SIZES[rank][0]}, {"scale_factor": 1.6}, {"size": 1}):
        same(torch, lambda m, x, o=options: F(m, "interpolate")(x, mode=mode, align_corners=True, **o), SHAPES[rank])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialias(torch: Any, mode: str) -> None:
    for options in ({"size": (5, 9)}, {"size": (3, 2), "align_corners": True}, {"scale_factor": 0.45}, {"scale_factor": (0.3, 1.5)}):
        same(torch, lambda m, x, o=options: F(m, "interpolate")(x, mode=mode, antialias=True, **o), (2, 2, 13, 12))


def test_old_names_and_types(torch: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(torch, lambda m, x: F(m, "upsample")(x, scale_factor=2), SHAPES[4])
        same(torch, lambda m, x: F(m, "upsample_nearest")(x, 9), SHAPES[4])
        same(torch, lambda m, x: F(m, "upsample_bilinear")(x, scale_factor=2), SHAPES[4])
    same(torch, lambda m, x: F(m, "interpolate")(x.to(m.bfloat16), scale_factor=2, mode="bilinear"), SHAPES[4], grad=False, rtol=1e-2,
         atol=1e-2)
    same(torch, lambda m, x: F(m, "interpolate")(x.to(m.uint8), scale_factor=2), np.ones((1, 1, 2, 2), np.float32), grad=False)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [False, True])
def test_grid_sample(torch: Any, mode: str, padding: str, align: bool) -> None:
    grid = np.random.default_rng(3).uniform(-1.8, 1.8, (2, 4, 5, 2)).astype(np.float32)
    def call(m: Any, x: Any, g: Any) -> Any:  # the nearest element does not depend on the grid: PyTorch's gradient is 0, Treadle's None
        return F(m, "grid_sample")(x, g.detach() if mode == "nearest" else g, mode, padding, align)
    same(torch, call, (2, 3, 6, 5), grid, rtol=2e-4, atol=2e-4)
    if mode != "bicubic":
        solid = np.random.default_rng(3).uniform(-1.8, 1.8, (2, 2, 3, 2, 3)).astype(np.float32)
        same(torch, call, (2, 3, 4, 6, 5), solid, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("align", [False, True])
def test_affine_grid(torch: Any, align: bool) -> None:
    same(torch, lambda m, t: F(m, "affine_grid")(t, (2, 3, 4, 5), align), (2, 2, 3))
    same(torch, lambda m, t: F(m, "affine_grid")(t, [2, 1, 3, 4, 1], align_corners=align), (2, 3, 4))


def test_rearrangement(torch: Any) -> None:
    same(torch, lambda m, x: F(m, "pixel_shuffle")(x, 2), (2, 8, 3, 4))
    same(torch, lambda m, x: F(m, "pixel_unshuffle")(x, 3), (2, 2, 6, 9))
    same(torch, lambda m, x: F(m, "channel_shuffle")(x, 3), (2, 6, 3, 4))


LAYERS: list[Any] = [("Upsample", {"scale_factor": 2}), ("Upsample", {"size": (5, 4), "mode": "bilinear", "align_corners": True}),
                     ("Upsample", {"scale_factor": (2, 3), "mode": "bicubic"}), ("UpsamplingNearest2d", {"scale_factor": 3}),
                     ("UpsamplingBilinear2d", {"size": (9, 8)}), ("PixelShuffle", {"upscale_factor": 2}),
                     ("PixelUnshuffle", {"downscale_factor": 2}), ("ChannelShuffle", {"groups": 2})]


@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_layers(torch: Any, name: str, options: dict) -> None:
    assert repr(getattr(treadle.nn, name)(**options)) == repr(getattr(torch.nn, name)(**options))
    same(torch, lambda m, x: getattr(m.nn, name)(**options)(x), (2, 4, 6, 4))


@pytest.mark.parametrize("call", [
    lambda m, x: F(m, "interpolate")(x), lambda m, x: F(m, "interpolate")(x, 3, 2.0), lambda m, x: F(m, "interpolate")(x, 3, mode="linear"),
    lambda m, x: F(m, "interpolate")(x, 3, mode="fractal"), lambda m, x: F(m, "interpolate")(x, 3, align_corners=True),
    lambda m, x: F(m, "interpolate")(x, (3, 3, 3)), lambda m, x: F(m, "interpolate")(x, 3, antialias=True),
    lambda m, x: F(m, "interpolate")(x, scale_factor=(2, 2, 2)), lambda m, x: F(m, "interpolate")(x, 3, recompute_scale_factor=True),
    lambda m, x: F(m, "interpolate")(x, scale_factor=0.01), lambda m, x: F(m, "grid_sample")(x, x),
    lambda m, x: F(m, "grid_sample")(x, x, "cubic"), lambda m, x: F(m, "grid_sample")(x, x, padding_mode="edge"),
    lambda m, x: F(m, "affine_grid")(x, (2, 3, 4, 5)), lambda m, x: F(m, "affine_grid")(x, (2, 3)),
    lambda m, x: F(m, "pixel_shuffle")(x, 3), lambda m, x: F(m, "pixel_unshuffle")(x, 4), lambda m, x: F(m, "channel_shuffle")(x, 2)])
def test_mistakes(torch: Any, call: Any) -> None:
    both_raise(torch, call, (2, 3, 6, 5))
