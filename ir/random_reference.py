"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in numpy: the definition of our random bits."""
from __future__ import annotations

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)


def philox_blocks(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds on counters of shape (n, 4), each word a uint64 below 2**32; returns uint32[n, 4]."""
    c0, c1, c2, c3 = (counter[:, i] for i in range(4))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = ((p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & _LOW)
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def philox_bits(seed: int, offset: int, n: int) -> np.ndarray:
    """uint32[n]: element i is word i % 4 of the block whose counter is offset + i // 4 and whose key is the seed."""
    blocks = (n + 3) // 4
    index = np.arange(blocks, dtype=np.uint64) + np.uint64(offset & 0xFFFFFFFFFFFFFFFF)
    counter = np.zeros((blocks, 4), np.uint64)
    counter[:, 0], counter[:, 1] = index & _LOW, index >> np.uint64(32)
    return philox_blocks(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)).reshape(-1)[:n]
