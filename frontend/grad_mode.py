"""Switches for recording gradients: `no_grad`, `enable_grad`, `set_grad_enabled`, `inference_mode`."""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from treadle.runtime.recorder import STATE


class _Switch:
    """A context manager and decorator that sets the thread's grad mode to `value` for a while."""

    value = False

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        state = STATE.here
        self._before.append(state.grad)
        state.grad = self.value

    def __exit__(self, *exc: Any) -> None:
        STATE.here.grad = self._before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(function):
            return self._wrap_generator(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)
        return wrapped

    def _wrap_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            sent = None
            while True:
                with self:
                    try:
                        item = generator.send(sent)
                    except StopIteration as stop:
                        return stop.value
                sent = yield item
        return wrapped


class no_grad(_Switch):
    """Operations inside are not put on the tape."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        self = object.__new__(cls)
        if function is not None:
            self._before = []
            return self(function)
        return self

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        super().__init__()


class inference_mode(_Switch):
    """As `no_grad` (Treadle has no cheaper mode to offer); `mode=False` leaves gradients on."""

    def __new__(cls, mode: Any = True) -> Any:
        self = object.__new__(cls)
        if callable(mode):
            self._before, self.value = [], False
            return self(mode)
        return self

    def __init__(self, mode: Any = True) -> None:
        super().__init__()
        self.value = not mode

    def __enter__(self) -> None:
        super().__enter__()
        STATE.here.inference = not self.value

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        STATE.here.inference = False


class enable_grad(_Switch):
    """Operations inside are put on the tape again."""

    value = True


class set_grad_enabled(_Switch):
    """Sets grad mode at once; as a context manager, restores it afterwards."""

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.value = bool(mode)
        state = STATE.here
        self._outer = state.grad
        state.grad = self.value

    def __enter__(self) -> None:
        STATE.here.grad = self.value

    def __exit__(self, *exc: Any) -> None:
        STATE.here.grad = self._outer

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        STATE.here.grad = self._outer
        return (enable_grad if self.value else no_grad)()(function)


def is_grad_enabled() -> bool:
    """Whether operations are put on the tape in this thread."""
    return STATE.here.grad


def is_inference_mode_enabled() -> bool:
    """Whether inference mode is on in this thread."""
    return STATE.here.inference
