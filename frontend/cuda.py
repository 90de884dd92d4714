"""`treadle.cuda`: answers honestly where there is no usable device."""
from __future__ import annotations

from typing import Any


def is_available() -> bool:
    """False: this version of Treadle has no CUDA runtime."""
    return False


def device_count() -> int:
    return 0


def synchronize(device: Any = None) -> None:
    raise RuntimeError("cuda.synchronize: no CUDA device is available. Install the driver and the extra: pip install 'treadle[cuda]'.")


def manual_seed_all(seed: int) -> None:
    """Nothing to seed without a device."""


def empty_cache() -> None:
    """Nothing cached without a device."""
