"""`treadle.compiler`: what PyTorch calls torch.compiler, as far as it means something here."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from treadle.compilation.api import Unsupported, compile, explain, reset
from treadle.runtime.recorder import STATE

T = TypeVar("T")


def is_compiling() -> bool:
    """Whether the call is being captured."""
    return STATE.here.capture is not None


is_dynamo_compiling = is_compiling


def disable(function: Callable[..., Any] | None = None, recursive: bool = True) -> Any:
    """A function that compiled code calls without following it: such a call is recorded anew each time."""
    if function is None:
        return disable

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        capture = STATE.here.capture
        if capture is None:
            return function(*args, **kwargs)
        capture.refuse(f"calls {getattr(function, '__qualname__', function)}, for which compilation is disabled")
        STATE.here.capture = None
        try:
            return function(*args, **kwargs)
        finally:
            STATE.here.capture = capture

    return run


def is_exporting() -> bool:
    """Always False."""
    return False


def allow_in_graph(fn: T) -> T:
    """The function as it is: whatever it records is followed."""
    return fn


def cudagraph_mark_step_begin() -> None:
    """Accepted: a plan's results are never written over by the next call."""


def list_backends() -> list[str]:
    """Names of the compilers there are."""
    return ["treadle"]


__all__ = ["Unsupported", "allow_in_graph", "compile", "cudagraph_mark_step_begin", "disable", "explain", "is_compiling",
           "is_dynamo_compiling", "is_exporting", "list_backends", "reset"]
