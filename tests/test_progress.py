"""The line that tells of long compiles: only late, only to those who would see it, and gone afterwards."""
from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Iterator

import pytest

from treadle.runtime import log, progress
from treadle.runtime.progress import Progress


class Screen(io.StringIO):
    """A terminal; `seen` is set when something was written to it."""

    def __init__(self, terminal: bool = True) -> None:
        super().__init__()
        self.terminal, self.seen = terminal, threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        count = super().write(text)
        self.seen.set()
        return count


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    before = ",".join(name for name in log.CHANNELS if log.enabled(name))
    log.set_channels("")
    yield
    log.set_channels(before)


def test_a_terminal_gets_a_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    monkeypatch.setattr(progress, "PATIENCE", 0.001)
    shown = Progress(lambda: "45 operations")
    shown.phase("LLVM, 3 kernels")  # before there is a thread that may already write
    with shown:
        assert screen.seen.wait(30)
    assert re.match(r"\r\x1b\[K\[treadle\] compiling 45 operations: LLVM, 3 kernels, \d+ s", screen.getvalue())
    assert screen.getvalue().endswith("\r\x1b[K")


def test_the_log_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen(terminal=False))
    monkeypatch.setattr(progress, "PATIENCE", 0.001)
    log.set_channels("compile")
    with Progress(lambda: "45 operations"):
        assert screen.seen.wait(30)
    assert re.fullmatch(r"\[treadle:compile\] compiling 45 operations: planning, \d+ s", screen.getvalue().splitlines()[0])
    assert "\x1b" not in screen.getvalue()


def test_nobody_else_and_nothing_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with Progress(lambda: "a quick one"):
        pass
    assert screen.getvalue() == ""
    before = threading.active_count()
    for stderr in (Screen(terminal=False), None):
        monkeypatch.setattr(sys, "stderr", stderr)
        with Progress(lambda: "unseen") as unseen:
            assert threading.active_count() == before and unseen._thread is None
    monkeypatch.setattr(sys, "stderr", Screen())
    with Progress(lambda: "what a template has the program of", quick=True):
        assert threading.active_count() == before


def test_an_error_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    with pytest.raises(ZeroDivisionError), Progress(lambda: "broken") as shown:
        raise ZeroDivisionError
    assert shown._thread is not None and not shown._thread.is_alive()
