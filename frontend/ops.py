"""One function per op of the table, `ops.linear(x, w)`, `ops.softmax(x, 1)`: operands first, then attributes."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.tensor import EMITTER


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)
    function: Callable[..., Any] = getattr(EMITTER, name)
    return function
