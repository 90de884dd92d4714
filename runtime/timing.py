"""What ran when: the events of a profile.

Plans note the times of their steps in an event log, natively (`codegen/executor.py`); everything slower is noted by `span`. When
nothing is recorded, a plan's run reads one word for it, and `span` compares a global with None.
"""
from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

LOG_EVENTS = 1 << 18  # room in one event log


class Event(NamedTuple):
    """Something that took from `start` to `end`, in nanoseconds of the monotonic clock.

    kind: "step" (what: program, step, and whether this is the first launch of the step), "plan", "interpret" (what: the node), "host"
    (what: program and step), "compile", "range" (a user's name), or "flush", which takes no time and has a reason as its name.
    """

    kind: str
    name: str
    start: int
    end: int
    thread: int
    what: Any = None


ACTIVE: Recording | None = None  # what notes events at the moment, if anything
_lock = threading.Lock()


def now() -> int:
    """The clock of all events."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def _ignore(graph: Any) -> None:
    """An observer of flushes."""


@contextmanager
def span(kind: str, name: str, what: Any = None) -> Iterator[None]:
    """Note how long the block takes, when somebody records. For what takes microseconds anyway."""
    recording = ACTIVE
    if recording is None:
        yield
        return
    start = now()
    try:
        yield
    finally:
        recording.note(kind, name, start, what)


class Recording:
    """Events from `begin` to `finish`. RuntimeError when another recording is on.

    totals: instead of events, which take memory for as long as the program runs, only how often each step ran and how long it took in
    all, and the programs that were compiled meanwhile. Such a recording ends when another one begins.
    """

    def __init__(self, totals: bool = False) -> None:
        self.totals: dict[int, list[Any]] | None = {} if totals else None  # by the step's id: the step, runs, nanoseconds
        self.programs: list[tuple[Any, Any]] = []  # graph and program
        self.events: list[Event] = []
        self.synchronize = False  # run what is pending at both ends of a range
        self.lost = 0  # events that found the log full
        self._logs: list[np.ndarray] = []

    def begin(self) -> None:
        global ACTIVE
        from treadle.runtime import engine
        if ACTIVE is not None and ACTIVE.totals is not None:
            ACTIVE.finish()
        with _lock:
            if ACTIVE is not None:
                raise RuntimeError("a profiler is running already: stop it before another one starts")
            ACTIVE = self
        engine.observers.append(_ignore)  # so that flushes tell about themselves
        self._new_log()

    def finish(self) -> None:
        """No more events; those of runs that are under way in other threads are lost. Nothing happens the second time."""
        global ACTIVE
        from treadle.runtime import engine, executor
        if ACTIVE is not self:
            return
        engine.observers.remove(_ignore)
        plans = executor.log_events(0)
        ACTIVE = None
        self._drain(self._logs, plans)
        self.events.sort(key=lambda e: (e.start, -e.end))

    def note(self, kind: str, name: str, start: int, what: Any = None, end: int | None = None) -> None:
        if self.totals is None:
            self.events.append(Event(kind, name, start, now() if end is None else end, threading.get_ident(), what))

    def compiled(self, graph: Any, program: Any) -> None:
        """A graph was lowered to a program, whose steps events name."""
        if self.totals is not None:
            self.programs.append((graph, program))

    def flushed(self, reason: str) -> None:
        """Called before each flush: also the moment to make room."""
        at = now()
        self.note("flush", reason, at, end=at)
        if self._logs[-1][0] > LOG_EVENTS // 2:
            self._new_log()
            if self.totals is not None:
                from treadle.runtime import executor
                self._drain(self._logs[:-2], executor.logged_plans())
                del self._logs[:-2]

    def _new_log(self) -> None:
        """The old one is kept for those who are writing to it."""
        from treadle.codegen import executor as layout
        from treadle.runtime import executor
        log = np.zeros(layout.LOG_HEADER_WORDS + LOG_EVENTS * layout.EVENT_WORDS, np.int64)
        log[1] = LOG_EVENTS
        self._logs.append(log)
        executor.log_events(int(log.ctypes.data))

    def _drain(self, logs: list[np.ndarray], plans: dict[int, Any]) -> None:
        from treadle.codegen import executor as layout
        for log in logs:
            count = min(int(log[0]), LOG_EVENTS)
            self.lost += max(int(log[0]) - LOG_EVENTS, 0)
            table = log[layout.LOG_HEADER_WORDS:][:count * layout.EVENT_WORDS].reshape(count, layout.EVENT_WORDS)
            for start, end, operation, thread, header in table.tolist():
                plan = plans.get(header)
                if plan is None:  # begun, but not written: its run is still under way
                    continue
                if self.totals is not None:
                    self._add(plan.tag_at(operation) if operation else None, end - start)
                elif operation:
                    self.events.append(Event("step", "", start, end, thread, plan.tag_at(operation)))
                else:
                    self.events.append(Event("plan", "plan", start, end, thread))

    def _add(self, tag: Any, taken: int) -> None:
        if tag is not None and self.totals is not None:
            entry = self.totals.setdefault(id(tag[1]), [tag[1], 0, 0])
            entry[1] += tag[2]
            entry[2] += taken


def _after_fork() -> None:
    """The parent's recording is none of the child's business."""
    if ACTIVE is not None:
        ACTIVE.finish()


os.register_at_fork(after_in_child=_after_fork)
