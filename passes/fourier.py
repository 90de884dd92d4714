"""Fourier transforms as steps: the radices of an axis, and the roots of unity that its passes multiply by."""
from __future__ import annotations

from functools import cache
from math import prod

import numpy as np

from treadle.ir.dtypes import DType
from treadle.ir.routine import RADICES

MOST_PASSES = 15  # four bits of a word each


def radices(n: int) -> tuple[int, ...] | None:
    """Radices with the product n, which is positive; None if there are none."""
    found: list[int] = []
    for radix in RADICES:
        while n % radix == 0:
            found.append(radix)
            n //= radix
    return tuple(found) if n == 1 and len(found) <= MOST_PASSES else None


@cache  # for good: plans hold the address
def roots(factors: tuple[int, ...], dtype: DType) -> np.ndarray:
    """For each pass of radix r, with m elements left behind it, exp(-2 pi i p u / (r m)) by u = 1, 2, ..., r - 1: the real parts for all p,
    then the imaginary ones."""
    parts, left = [np.zeros(0)], prod(factors)
    for r in factors:
        m = left // r
        turns = (np.arange(1, r)[:, None] * np.arange(m) % left) * (2 * np.pi / left)
        parts.append(np.stack([np.cos(turns), -np.sin(turns)], 1).reshape(-1))
        left = m
    return np.concatenate(parts).astype(dtype.np)
