"""What instrumented code calls: Python's accesses, done as Python does them, and noted in the thread's capture.

Outside a capture (a closure that outlived it) they only do what Python does.
"""
from __future__ import annotations

import builtins
from typing import Any

from treadle import autograd
from treadle.compilation.access import attr, del_attr, del_item, glob, item, set_attr, set_item, stored_global
from treadle.compilation.calls import call, watched
from treadle.compilation.capture import active
from treadle.compilation.flow import (
    all_of,
    any_of,
    binary,
    chain,
    compare,
    context,
    in_place,
    iterate,
    iterate_unpacked,
    mapping,
    new,
    show,
    truth,
    unary,
)
from treadle.runtime import symbols

slice = builtins.slice


def _fix(number: Any) -> None:
    capture = active()
    if capture is not None:
        capture.fix(number)


symbols.FIX = _fix  # type: ignore[assignment]
autograd.WATCHED = watched  # type: ignore[assignment]

__all__ = ["all_of", "any_of", "attr", "binary", "call", "chain", "compare", "context", "del_attr", "del_item", "glob", "in_place", "item",
           "iterate", "iterate_unpacked", "mapping", "new", "set_attr", "set_item", "show", "slice", "stored_global", "truth", "unary"]
