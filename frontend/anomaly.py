"""Anomaly detection of the backward pass, as PyTorch's: NaN in a gradient is an error that names the forward op and its line.

While it is on, this thread runs op by op, and no trace is shared with an earlier one, so every op on the tape has the line that really
recorded it.
"""
from __future__ import annotations

import linecache
import warnings
from collections.abc import Sequence
from typing import Any

from treadle import autograd, tape
from treadle.ir.dtypes import FLOAT
from treadle.runtime import engine, recorder
from treadle.runtime.recorder import STATE

_check_nan = True


def is_anomaly_enabled() -> bool:
    """Whether anomaly detection is on."""
    return recorder.apart


def is_anomaly_check_nan_enabled() -> bool:
    """Whether it looks for NaN, too."""
    return _check_nan


class set_detect_anomaly:
    """Turns anomaly detection on or off at once; as a context manager, restores what was before.

    check_nan: raise a RuntimeError when a backward function returns NaN; else only failures of backward functions are explained.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = (recorder.apart, _check_nan, STATE.here.eager)
        _switch(bool(mode), check_nan, True if mode else recorder.eager_by_default())

    def __enter__(self) -> None:
        """It is on already."""

    def __exit__(self, *exc: Any) -> None:
        _switch(*self._before)


class detect_anomaly:
    """Context manager that turns anomaly detection on."""

    def __init__(self, check_nan: bool = True) -> None:
        self._check_nan = check_nan
        warnings.warn("Anomaly Detection has been enabled. This mode will increase the runtime and should only be enabled for debugging.",
                      stacklevel=2)

    def __enter__(self) -> None:
        self._inner = set_detect_anomaly(True, self._check_nan)

    def __exit__(self, *exc: Any) -> None:
        self._inner.__exit__(*exc)


def _switch(mode: bool, check_nan: bool, eager: bool) -> None:
    global _check_nan
    engine.flush("anomaly detection")  # what was recorded before knows lines of other traces
    recorder.apart, _check_nan = mode, check_nan
    state = STATE.here
    state.eager = eager
    state.trace = recorder.fresh_trace()
    tape.DIFFERENTIATE = _differentiate_and_look if mode else autograd._differentiate


def _differentiate_and_look(node: Any, grads: list[Any]) -> Sequence[Any]:
    try:
        found = autograd._differentiate(node, grads)
    except Exception:
        warnings.warn(f"Error detected in {node.name()}. {forward_of(node)}", stacklevel=2)
        raise
    look(node, found)
    return found


def look(node: Any, found: Sequence[Any]) -> None:
    """RuntimeError when one of the gradients that `node` returned holds NaN."""
    if not _check_nan:
        return
    state = STATE.here
    before, state.grad = state.grad, False
    try:
        for i, g in enumerate(found):
            if g is not None and g.dtype.category >= FLOAT and g.isnan().any().item():
                raise RuntimeError(f"Function '{node.name()}' returned nan values in its {i}th output. {forward_of(node)}")
    finally:
        state.grad = before


def forward_of(node: Any) -> str:
    """In words: the forward op of a node of the tape, its line, and what the line says."""
    where = node.step.loc if isinstance(node, tape.GradNode) else getattr(node, "where", None)
    what = node.op.name if isinstance(node, tape.GradNode) else node.name().removesuffix("Backward")
    if where is None:
        return f"Its forward operation is {what}, recorded while anomaly detection was off."
    line = linecache.getline(where[0], where[1]).strip()
    return f"Its forward operation is {what} at {where[0]}:{where[1]}" + (f": {line}" if line else "")
