"""`treadle.mps`: devices that Treadle does not support, answering so."""
from __future__ import annotations

from typing import Any


def is_available() -> bool:
    return False


def device_count() -> int:
    return 0


def empty_cache() -> None:
    """Nothing is cached for a device that is not there."""


def manual_seed(seed: int) -> None:
    """There is no generator to seed."""


def synchronize(device: Any = None) -> None:
    """RuntimeError: there is no such device."""
    raise RuntimeError("mps: no device of this kind is supported")
