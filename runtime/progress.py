"""A line on stderr while compiling takes long: on a terminal, or wherever the log channel `compile` is on.

Only the line depends on time; what is compiled, and how, does not.
"""
from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from treadle.runtime import log

PATIENCE = 2.0   # seconds without a word
INTERVAL = 0.5   # between updates on a terminal; elsewhere every message is a line, and they come at growing distances


class Progress:
    """`with Progress(lambda: "45 operations") as progress: progress.phase("LLVM, 12 kernels")`.

    Starts a thread only when somebody would see it and it is not `quick`, and asks what is compiled only when it takes long.
    """

    def __init__(self, what: Callable[[], str], quick: bool = False) -> None:
        self._what, self._quick = what, quick
        self._phase = "planning"
        self._thread: threading.Thread | None = None
        self._shown = False

    def phase(self, text: str) -> None:
        """What is being done now."""
        self._phase = text

    def __enter__(self) -> Progress:
        self._terminal = not self._quick and _is_terminal()
        if self._terminal or (not self._quick and log.enabled("compile")):
            self._start = time.monotonic()
            self._done = threading.Event()
            self._thread = threading.Thread(target=self._watch, name="treadle compile progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._thread is None:
            return
        self._done.set()
        self._thread.join()
        if self._shown and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _watch(self) -> None:
        wait = PATIENCE
        while not self._done.wait(wait):
            self._shown = True
            text = f"compiling {self._what()}: {self._phase}, {time.monotonic() - self._start:.0f} s"
            if self._terminal:
                sys.stderr.write(f"\r\x1b[K[treadle] {text}")
                sys.stderr.flush()
                wait = INTERVAL
            else:
                log.log("compile", text)
                wait *= 2


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # no stderr at all, or a closed one
        return False
