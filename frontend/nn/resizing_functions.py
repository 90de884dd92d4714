"""Resizing, sampling and rearranging images; part of `treadle.nn.functional`."""
from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any

import treadle
from treadle import ops
from treadle.arguments import Choice, misfit
from treadle.nn.pooling_functions import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from treadle.tensor import Tensor

_AREA = {3: adaptive_avg_pool1d, 4: adaptive_avg_pool2d, 5: adaptive_avg_pool3d}
_LINEAR = {"linear": 3, "bilinear": 4, "bicubic": 4, "trilinear": 5}
_MODES = ("nearest", "nearest-exact", "area", *_LINEAR)


def _sequence(what: str, value: Any, rank: int) -> list[Any]:
    """A value for each of `rank` axes."""
    if not isinstance(value, (list, tuple)):
        return [value] * rank
    if len(value) != rank:
        raise ValueError(f"Input and {what} must have the same number of spatial dimensions, but got input with {rank} spatial dimensions "
                         f"and {what} of {list(value)}")
    return list(value)


def _sizes(input: Tensor, size: Any, scale_factor: Any, recompute: bool | None) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """Output sizes, and the factors by which places are computed (None: the ratio of the sizes)."""
    rank = input.dim() - 2
    if size is not None and scale_factor is not None:
        raise ValueError("interpolate: only one of size or scale_factor should be defined")
    if size is not None:
        if recompute:
            raise ValueError("interpolate: recompute_scale_factor is not meaningful with an explicit size.")
        return tuple([index(n) for n in _sequence("output_size", size, rank)]), (None,) * rank
    if scale_factor is None:
        raise ValueError("interpolate: either size or scale_factor should be defined")
    if not all([hasattr(f, "__float__") for f in _sequence("scale_factor", scale_factor, rank)]):
        raise misfit("interpolate", "scale_factor", 3, "float or tuple of floats", scale_factor)
    factors = [float(f) for f in _sequence("scale_factor", scale_factor, rank)]
    sizes = tuple([math.floor(n * f) for n, f in zip(input.shape[2:], factors, strict=True)])
    return sizes, (None,) * rank if recompute else tuple(factors)


def _check_interpolation(input: Tensor, mode: str, align_corners: bool | None, antialias: bool) -> None:
    if mode not in _MODES:
        raise NotImplementedError(f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {input.dim()}D) for the modes: "
                                  f"{' | '.join(_MODES)} (got {mode})")
    if mode not in _LINEAR and align_corners is not None:
        raise ValueError("interpolate: align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | "
                         f"trilinear (got {mode})")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError("interpolate: Anti-alias option is restricted to bilinear and bicubic modes and requires a 4-D tensor as input")
    if input.dim() not in (3, 4, 5) or input.dim() != _LINEAR.get(mode, input.dim()):
        raise NotImplementedError(f"Got {input.dim()}D input, but {mode} mode needs {_LINEAR.get(mode, '3D, 4D or 5')}D input")


def interpolate(input: Tensor, size: Any = None, scale_factor: Any = None, mode: Choice = "nearest", align_corners: bool | None = None,
                recompute_scale_factor: Any = None, antialias: bool = False) -> Tensor:
    """Resize the axes after (N, C) to `size` or by `scale_factor`.

    Modes: nearest, nearest-exact, area, linear (3-D input), bilinear and bicubic (4-D), trilinear (5-D). `align_corners` lets the
    corner elements' centres coincide; `antialias` (bilinear, bicubic) widens the filter when shrinking.
    """
    sizes, factors = _sizes(input, size, scale_factor, recompute_scale_factor)
    return resized(input, sizes, factors, mode, align_corners, antialias)


def resized(input: Tensor, sizes: tuple[int, ...], factors: tuple[float | None, ...], mode: str, align_corners: bool | None,
            antialias: bool) -> Tensor:
    """`interpolate` to these sizes, with places computed by these factors, or where one is None by the ratio of the sizes."""
    _check_interpolation(input, mode, align_corners, antialias)
    if any(n < 1 for n in (*sizes, *input.shape[1:])):
        raise RuntimeError(f"Input and output sizes should be greater than 0, but got input of shape {list(input.shape)} and output "
                           f"sizes {list(sizes)}")
    if not input.numel():
        return input[:0].reshape(*input.shape[:2], *sizes)  # no elements, but a place on the tape
    if mode == "area":
        return _AREA[input.dim()](input, sizes)
    if mode not in _LINEAR:
        return ops.resample_nearest(input, sizes, factors, exact=mode == "nearest-exact")
    kind: dict[str, Any] = {"mode": "cubic" if mode == "bicubic" else "linear", "align": bool(align_corners)}
    if input.dtype is treadle.uint8 and mode in ("bilinear", "bicubic"):
        return ops.resample_bytes(input, sizes, factors, **kind, filtered=antialias)
    return (ops.resample_filtered if antialias else ops.resample)(input, sizes, factors, **kind)


def upsample(input: Tensor, size: Any = None, scale_factor: Any = None, mode: Choice = "nearest",
             align_corners: bool | None = None) -> Tensor:
    """`interpolate`, by its old name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` to the nearest element."""
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` bilinearly with corners aligned."""
    return interpolate(input, size, scale_factor, "bilinear", True)


def grid_sample(input: Tensor, grid: Tensor, mode: Choice = "bilinear", padding_mode: Choice = "zeros",
                align_corners: bool | None = None) -> Tensor:
    """input (N, C, H, W) at grid (N, Ho, Wo, 2) of (x, y) in [-1, 1] -> (N, C, Ho, Wo); with one axis more in 3-D.

    Modes: bilinear, nearest, bicubic (4-D input); outside: "zeros", "border", "reflection".
    """
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(f"nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', but got: '{mode}'")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or 'reflection', but got: "
                         f"'{padding_mode}'")
    if not input.dim() or not grid.dim():
        raise IndexError("grid_sample: Dimension specified as 0 but tensor has no dimensions")
    return ops.grid_sample(input, grid, mode=mode, padding=padding_mode, align=bool(align_corners))


def _base(count: int, align: bool, like: Tensor) -> Tensor:
    """Centres of `count` elements of [-1, 1], or with `align` from -1 to 1."""
    at = treadle.arange(count, dtype=like.dtype, device=like.device)
    if align:
        return at * (2.0 / (count - 1)) - 1.0 if count > 1 else at
    return (at * 2.0 + 1.0) / count - 1.0


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Places for `grid_sample`: theta (N, 2, 3) for size (N, C, H, W) -> (N, H, W, 2); (N, 3, 4) and (N, C, D, H, W) -> (N, D, H, W, 3)."""
    if not theta.is_floating_point():
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    if len(size) not in (4, 5):
        raise NotImplementedError("affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively. "
                                  f"Got size {list(size)}.")
    rank = len(size) - 2
    if theta.dim() != 3 or tuple(theta.shape[-2:]) != (rank, rank + 1):
        raise ValueError(f"Expected a batch of {rank}D affine matrices of shape Nx{rank}x{rank + 1} for size {list(size)}. "
                         f"Got {list(theta.shape)}.")
    if min(size) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {list(size)}")
    places = tuple(size[2:])
    axes = [_base(n, bool(align_corners), theta).reshape([n if i == a else 1 for i in range(rank)]).expand(places)
            for a, n in enumerate(places)]
    rows = treadle.stack([*reversed(axes), treadle.ones_like(axes[0])], -1).reshape(-1, rank + 1)
    return (rows @ theta.transpose(1, 2)).reshape(theta.shape[0], *places, rank)


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(..., C * r * r, H, W) -> (..., C, H * r, W * r) (Shi et al. 2016, arXiv:1609.05158)."""
    r = upscale_factor
    if input.dim() < 3:
        raise RuntimeError(f"pixel_shuffle expects input to have at least 3 dimensions, but got input with {input.dim()} dimension(s)")
    if r <= 0:
        raise RuntimeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    *lead, c, h, w = input.shape
    if r == 1:  # nothing moves, but the result has memory of its own
        return input.clone()
    if c % (r * r):
        raise RuntimeError(f"pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, but "
                           f"input.size(-3)={c} is not divisible by {r * r}")
    n = len(lead)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return input.reshape(*lead, c // (r * r), r, r, h, w).permute(order).reshape(*lead, c // (r * r), h * r, w * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(..., C, H * r, W * r) -> (..., C * r * r, H, W): the inverse of `pixel_shuffle`."""
    r = downscale_factor
    if input.dim() < 3:
        raise RuntimeError(f"pixel_unshuffle expects input to have at least 3 dimensions, but got input with {input.dim()} dimension(s)")
    if r <= 0:
        raise RuntimeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    *lead, c, h, w = input.shape
    if h % r or w % r:
        raise RuntimeError(f"pixel_unshuffle expects height and width to be divisible by downscale_factor, but got input of shape "
                           f"{list(input.shape)} and downscale_factor={r}")
    if r == 1:
        return input.clone()
    n = len(lead)
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return input.reshape(*lead, c, h // r, r, w // r, r).permute(order).reshape(*lead, c * r * r, h // r, w // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """(N, C, ...) with channel i of group g moved to place i * groups + g (Zhang et al. 2018, arXiv:1707.01083)."""
    if input.dim() < 3:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(input.shape)}")
    if groups <= 0:
        raise RuntimeError(f"Number of groups to divide channels in must be positive. Value of groups:{groups}")
    n, c, *sizes = input.shape
    if c % groups:
        raise RuntimeError(f"Number of channels must be divisible by groups. Got {c} channels and {groups} groups.")
    return input.reshape(n, groups, c // groups, *sizes).transpose(1, 2).reshape(n, c, *sizes)
