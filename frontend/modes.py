"""Modes of recording: while one is on in a thread, it decides how the ops that it lists (`Op.autocast`) are recorded.

Functions made of several ops that PyTorch's modes see as one are marked `listed`.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from treadle.arguments import guarded
from treadle.ir.op import Attrs, Op
from treadle.runtime.recorder import STATE

P = ParamSpec("P")
R = TypeVar("R")


class RecordingMode:
    """Base class of autocast's mode and quantization's. One stands in `STATE.here.autocast`; guards compare it by identity."""

    def apply(self, op: Op, inputs: Any, attrs: Attrs) -> Any:
        """Record what stands for `op` on these operands."""
        raise NotImplementedError

    def record(self, op: Op, inputs: Any, attrs: Attrs) -> Any:
        """`apply` with the mode off: what it records itself is left alone."""
        state = STATE.here
        state.autocast = None
        try:
            return self.apply(op, inputs, attrs)
        finally:
            state.autocast = self

    def call(self, function: Callable[..., R], args: Any, kwargs: Any) -> R:
        """A call of a `listed` function."""
        return function(*args, **kwargs)


def listed(function: Callable[P, R]) -> Callable[P, R]:
    """Modes know the function by its name."""
    checked: Callable[P, R] = guarded(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        mode = STATE.here.autocast
        return checked(*args, **kwargs) if mode is None else mode.call(checked, args, kwargs)
    return call
