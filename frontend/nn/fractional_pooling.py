"""Maxima over windows at random places (B. Graham, "Fractional Max-Pooling", 2014); part of `treadle.nn.functional`."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import treadle
from treadle.convolution import spread
from treadle.functions import tensor_argument
from treadle.tensor import Tensor


def _starts(u: Tensor, size: int, kernel: int, count: int) -> Tensor:
    """(N, C, count): where the windows of one axis begin, for draws u (N, C) from [0, 1)."""
    if count == 1:
        return treadle.full((*u.shape, 1), size - kernel, dtype=treadle.int64, device=u.device)
    step = (size - kernel) / (count - 1)
    u = u.unsqueeze(-1)
    places = ((treadle.arange(count - 1, device=u.device) + u) * step).long() - (u * step).long()
    return treadle.cat([places, treadle.full((*u.shape[:-1], 1), size - kernel, dtype=treadle.int64, device=u.device)], -1)


def _fractional(name: str, input: Tensor, rank: int, kernel_size: Any, output_size: Any, output_ratio: Any, return_indices: bool,
                samples: Tensor | None) -> Any:
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    if tensor_argument(name, input).dim() not in (rank + 1, rank + 2):
        raise RuntimeError(f"{name}(): Expected {rank + 1}D or {rank + 2}D tensor, but got: {list(input.shape)}")
    sizes = tuple(input.shape[-rank:])
    if output_size is None:
        ratios = (output_ratio,) * rank if isinstance(output_ratio, int | float) else tuple(output_ratio)
        output_size = [int(n * r) for n, r in zip(sizes, ratios, strict=True)]
    kernel, out = spread(name, "kernel_size", kernel_size, rank), spread(name, "output_size", output_size, rank)
    for n, k, o in zip(sizes, kernel, out, strict=True):
        if o + k - 1 > n or o < 1:
            raise RuntimeError(f"{name}(): pool size {list(kernel)} and output size {list(out)} are too large relative to input "
                               f"{list(sizes)}")
    x = input if input.dim() == rank + 2 else input.unsqueeze(0)
    if samples is None:
        samples = treadle.rand(*x.shape[:2], rank, dtype=x.dtype, device=x.device)
    if tuple(samples.shape) != (*x.shape[:2], rank):
        raise RuntimeError(f"{name}(): Expect _random_samples of shape {[*x.shape[:2], rank]}, got {list(samples.shape)}")
    values, places = _picked(x, samples.detach(), kernel, out)
    if input.dim() == rank + 1:
        values, places = values.squeeze(0), places.squeeze(0)
    return (values, places) if return_indices else values


def _picked(x: Tensor, samples: Tensor, kernel: Sequence[int], out: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest elements of all windows and their places in the flat image."""
    rank, lead = len(kernel), tuple(x.shape[:2])
    place: Tensor | None = None
    for d, (k, o) in enumerate(zip(kernel, out, strict=True)):
        # PyTorch draws for the axes in the order in which they lie in memory, innermost first, in two dimensions; in order in three.
        u = samples[..., rank - 1 - d if rank == 2 else d]
        at = _starts(u, x.shape[2 + d], k, o).unsqueeze(-1) + treadle.arange(k, device=x.device)
        shape = [*lead, *[o if i == d else 1 for i in range(rank)], *[k if i == d else 1 for i in range(rank)]]
        at = at.reshape(shape)
        place = at if place is None else place * x.shape[2 + d] + at
    assert place is not None
    windows = place.expand(*lead, *out, *kernel).reshape(*lead, math.prod(out), math.prod(kernel))
    candidates = x.flatten(2).gather(2, windows.flatten(2)).reshape(windows.shape)
    values, best = candidates.max(-1)
    index = windows.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    return values.reshape(*lead, *out), index.reshape(*lead, *out)


def fractional_max_pool2d(input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None,
                          return_indices: bool = False, _random_samples: Tensor | None = None) -> Any:
    """(N, C, H, W) or (C, H, W) -> output_size, or the input's size times output_ratio: maxima over windows at random places.

    With return_indices also their places in H * W. `_random_samples` (N, C, 2) in [0, 1) makes the choice repeatable.
    """
    return _fractional("fractional_max_pool2d", input, 2, kernel_size, output_size, output_ratio, return_indices, _random_samples)


def fractional_max_pool3d(input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None,
                          return_indices: bool = False, _random_samples: Tensor | None = None) -> Any:
    """As `fractional_max_pool2d`, of (N, C, D, H, W) or (C, D, H, W); `_random_samples` is (N, C, 3)."""
    return _fractional("fractional_max_pool3d", input, 3, kernel_size, output_size, output_ratio, return_indices, _random_samples)
