"""Modes of recording: while one is on in a thread, it decides how the ops that it lists (`Op.autocast`) are recorded."""
from __future__ import annotations

from typing import Any

from treadle.ir.op import Attrs, Op
from treadle.runtime.recorder import STATE


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
