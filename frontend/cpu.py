"""`treadle.cpu`."""
from __future__ import annotations

from typing import Any

from treadle.runtime import engine


def synchronize(device: Any = None) -> None:
    """Finish all work recorded by this thread."""
    engine.flush("synchronize")


def is_available() -> bool:
    return True


def device_count() -> int:
    return 1


def current_device() -> str:
    return "cpu"
