"""A fork waits for compilations: what another thread has begun, and the locks that it holds, would stay so for ever in the child.

No locks here: an interruption (Ctrl-C) at the wrong moment would leave them taken.
"""
from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator

PATIENCE_SECONDS = 10.0  # then the process forks all the same
PAUSE_SECONDS = 1e-3


class _Mark:
    """A compilation that a thread is within. It goes with the call that made it, even one that an interruption keeps from cleaning up."""

    __slots__ = ("__weakref__", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread


_running: dict[int, weakref.ref[_Mark]] = {}
_forking: set[int] = set()  # threads that wait to fork


def _threads() -> set[int]:
    """Which threads are within compilations."""
    return {mark.thread for reference in list(_running.values()) if (mark := reference()) is not None}


@contextlib.contextmanager
def compiling(part: bool = False) -> Iterator[None]:
    """Around everything that takes locks of the compiler. `part`: of a compilation that another thread is within, so it may not wait."""
    own, deadline = threading.get_ident(), time.monotonic() + PATIENCE_SECONDS
    part = part or own in _threads()
    mark = _Mark(own)
    key = id(mark)
    while True:
        _running[key] = weakref.ref(mark, lambda _: _running.pop(key, None))
        if part or not _forking - {own} or time.monotonic() > deadline:
            break
        _running.pop(key, None)
        time.sleep(PAUSE_SECONDS)
    try:
        yield
    finally:
        _running.pop(key, None)


def _before_fork() -> None:
    own, deadline = threading.get_ident(), time.monotonic() + PATIENCE_SECONDS
    _forking.add(own)
    while _threads() - {own} and time.monotonic() < deadline:  # within one itself: this is a signal's handler
        time.sleep(PAUSE_SECONDS)


def _after_in_parent() -> None:
    _forking.discard(threading.get_ident())


def _after_in_child() -> None:
    own = threading.get_ident()
    _forking.clear()
    for key, reference in list(_running.items()):
        mark = reference()
        if mark is None or mark.thread != own:
            _running.pop(key, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
