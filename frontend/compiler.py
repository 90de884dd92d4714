"""`treadle.compiler`: what PyTorch calls torch.compiler, as far as it means something here."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from treadle.compilation.api import Unsupported, compile, explain, reset
from treadle.runtime.recorder import STATE


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


def list_backends() -> list[str]:
    """Names of the compilers there are."""
    return ["treadle"]


__all__ = ["Unsupported", "compile", "disable", "explain", "is_compiling", "is_dynamo_compiling", "list_backends", "reset"]
