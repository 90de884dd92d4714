"""Random numbers, defined: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011).

A draw is named by (seed, offset). Its element with linear index i is word i % 4 of the block whose counter is
offset + i // 4, under the key `seed`: counter words (low, high, 0, 0), key words (low, high), all modulo 2^64. A draw of n
elements so uses ceil(n / 4) counters from `offset` on; nothing depends on order, threads or layout.
"""
from __future__ import annotations

import numpy as np

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_WRAP = (1 << 64) - 1


def philox_block(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """The four 32-bit words of one counter: the definition in plain integers."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p, q = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (q >> 32) ^ b ^ k0, q & _MASK, (p >> 32) ^ d ^ k1, p & _MASK
        k0, k1 = (k0 + KEY_STEPS[0]) & _MASK, (k1 + KEY_STEPS[1]) & _MASK
    return a, b, c, d


def philox_words(seed: int, blocks: np.ndarray) -> np.ndarray:
    """uint64[m] counters -> uint32[m, 4]."""
    mask, half = np.uint64(_MASK), np.uint64(32)
    a, b = blocks & mask, blocks >> half
    c = d = np.zeros_like(blocks)
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(ROUNDS):
        p, q = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a, b, c, d = (q >> half) ^ b ^ np.uint64(k0), q & mask, (p >> half) ^ d ^ np.uint64(k1), p & mask
        k0, k1 = (k0 + KEY_STEPS[0]) & _MASK, (k1 + KEY_STEPS[1]) & _MASK
    return np.stack([a, b, c, d], axis=-1).astype(np.uint32)


def philox_bits(seed: int, offset: int, n: int) -> np.ndarray:
    """The draw (seed, offset): uint32[n]. Seed and offset are taken modulo 2^64."""
    first = np.uint64(offset & _WRAP)
    blocks = np.arange((n + 3) // 4, dtype=np.uint64) + first
    return philox_words(seed & _WRAP, blocks).reshape(-1)[:n]


def blocks_used(n: int) -> int:
    """How many counters a draw of n words takes."""
    return (n + 3) // 4


def uniform_from_bits(bits: np.ndarray) -> np.ndarray:
    """uint32 -> float32 in [0, 1): the top 24 bits times 2^-24, every value exact."""
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0 ** -24)


def normal_from_bits(bits1: np.ndarray, bits2: np.ndarray) -> np.ndarray:
    """Box and Muller: two draws of uint32 -> float32, sqrt(-2 log(1 - u1)) cos(2 pi u2), computed in float64 and rounded."""
    u1, u2 = uniform_from_bits(bits1).astype(np.float64), uniform_from_bits(bits2).astype(np.float64)
    # Whole quarter turns are taken off exactly, so that a cosine of zero is zero.
    quarter = np.rint(4 * u2)
    angle = (u2 - quarter / 4) * (2 * np.pi)
    turn = quarter.astype(np.int64) & 3
    cosine = np.choose(turn, [np.cos(angle), -np.sin(angle), -np.cos(angle), np.sin(angle)])
    return (np.sqrt(-2 * np.log1p(-u1)) * cosine).astype(np.float32)


def philox_normal(seed: int, offset: int, n: int) -> np.ndarray:
    """n normal numbers: u1 from the draw at `offset`, u2 from the draw right behind it. Takes 2 * ceil(n / 4) counters."""
    return normal_from_bits(philox_bits(seed, offset, n), philox_bits(seed, offset + blocks_used(n), n))
