"""Profiling a piece of a program: `profile`, its schedule, and `record_function`."""
from __future__ import annotations

import functools
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from treadle.profiler.events import EventList, build_events
from treadle.profiler.trace import write_trace
from treadle.runtime import engine, memory, timing


class ProfilerActivity(Enum):
    """What to look at. All of Treadle's work on this machine is CPU."""

    CPU = 0
    CUDA = 1
    XPU = 2


class ProfilerAction(Enum):
    """What the profiler does in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


_RECORDS = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


def supported_activities() -> set[ProfilerActivity]:
    """The activities that `profile` can record here."""
    return {ProfilerActivity.CPU}


def schedule(*, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0,
             skip_first_wait: int = 0) -> Callable[[int], ProfilerAction]:
    """For `profile(schedule=...)`: skip `skip_first` steps, then cycles of `wait` steps off, `warmup` ignored, `active` recorded.

    `repeat` cycles, 0: without end; `skip_first_wait`: the first cycle starts with its warm-up. ValueError unless all are at least 0
    and `active` at least 1.
    """
    if min(wait, warmup, repeat, skip_first) < 0 or active < 1:
        raise ValueError(f"schedule expects wait, warmup, repeat, skip_first >= 0 and active >= 1, got wait={wait}, warmup={warmup}, "
                         f"active={active}, repeat={repeat}, skip_first={skip_first}")
    cycle = wait + warmup + active

    def action(step: int) -> ProfilerAction:
        if step < 0:
            raise ValueError(f"a schedule expects a step number >= 0, got {step}")
        if step < skip_first:
            return ProfilerAction.NONE
        step = step - skip_first + (wait if skip_first_wait else 0)
        if repeat and step >= repeat * cycle:
            return ProfilerAction.NONE
        place = step % cycle
        if place < wait:
            return ProfilerAction.NONE
        if place < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if place < cycle - 1 else ProfilerAction.RECORD_AND_SAVE
    return action


def _always(step: int) -> ProfilerAction:
    return ProfilerAction.RECORD


def tensorboard_trace_handler(dir_name: str, worker_name: str | None = None, use_gzip: bool = False) -> Callable[[profile], None]:
    """For `on_trace_ready`: each trace becomes a file of its own in `dir_name`, which TensorBoard's profiler plugin reads."""
    def handler(prof: profile) -> None:
        os.makedirs(dir_name, exist_ok=True)
        name = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        prof.export_chrome_trace(os.path.join(dir_name, f"{name}.{time.time_ns()}.pt.trace.json{'.gz' if use_gzip else ''}"))
    return handler


class profile:
    """Records what runs between `start()` and `stop()`, or inside `with`.

    activities: CPU, or None; asking for another warns. schedule: which of the steps (ended by `step()`) to record, by default all.
    on_trace_ready(prof): called when a recorded cycle ends. record_shapes: rows tell apart by shapes on request, and events name
    them. profile_memory: bytes in use at each flush, in the trace. with_stack: the table shows the lines of the program that a kernel
    comes from. with_flops: the table shows GFLOP/s. with_modules is accepted. synchronize: run what is pending at both ends of each
    `record_function`, so that ranges contain their own work; ops on two sides of an end are not fused then.
    RuntimeError when another profiler is recording.
    """

    def __init__(self, *, activities: Iterable[ProfilerActivity] | None = None, schedule: Callable[[int], ProfilerAction] | None = None,
                 on_trace_ready: Callable[[profile], Any] | None = None, record_shapes: bool = False, profile_memory: bool = False,
                 with_stack: bool = False, with_flops: bool = False, with_modules: bool = False, synchronize: bool = False,
                 acc_events: bool = False) -> None:
        self.activities = set(activities) if activities is not None else supported_activities()
        for missing in self.activities - supported_activities():
            warnings.warn(f"{missing} is not available, disabling it", stacklevel=2)
        self.schedule = schedule or _always
        self.on_trace_ready = on_trace_ready
        self.record_shapes, self.profile_memory, self.with_stack, self.with_flops = record_shapes, profile_memory, with_stack, with_flops
        self.synchronize, self.acc_events, self.scheduled = synchronize, acc_events, schedule is not None
        self.step_num = 0
        self.current_action = ProfilerAction.NONE
        self.metadata: dict[str, Any] = {}
        self._recording: timing.Recording | None = None
        self._memory: list[tuple[int, int]] = []
        self._events: EventList | None = None
        self._step_start = 0

    # -- switching -----------------------------------------------------------------------------------------------------
    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Begin with step 0."""
        self.current_action = self.schedule(self.step_num)
        if self.current_action in _RECORDS:
            self._begin()

    def stop(self) -> None:
        """End; what is pending is run first, as part of the profile."""
        if self._recording is not None:
            self._end()
            if self.on_trace_ready is not None:
                self.on_trace_ready(self)
        self.current_action = ProfilerAction.NONE

    def step(self) -> None:
        """The next step begins."""
        before = self.current_action
        self._note_step()
        self.step_num += 1
        self.current_action = self.schedule(self.step_num)
        if self._recording is not None and (before is ProfilerAction.RECORD_AND_SAVE or self.current_action not in _RECORDS):
            self._end()
            if self.on_trace_ready is not None:
                self.on_trace_ready(self)
        if self._recording is None and self.current_action in _RECORDS:
            self._begin()
        self._step_start = timing.now()

    def _begin(self) -> None:
        engine.flush("profiler")
        self._memory = []
        recording = timing.Recording()
        recording.synchronize = self.synchronize
        recording.begin()
        if self.profile_memory:
            engine.observers.append(self._note_memory)
        self._recording, self._step_start = recording, timing.now()

    def _end(self) -> None:
        recording = self._recording
        assert recording is not None
        try:
            engine.flush("profiler")
        finally:
            self._recording = None
            if self.profile_memory:
                self._note_memory(None)
                engine.observers.remove(self._note_memory)
            recording.finish()
        if recording.lost:
            warnings.warn(f"{recording.lost} events did not fit and are missing from this profile; profile a shorter piece", stacklevel=4)
        found = build_events(recording.events, self.record_shapes, self.with_stack, self.with_flops)
        self._events = EventList([*self._events, *found], found) if self.acc_events and self._events is not None else found

    def _note_step(self) -> None:
        if self._recording is not None and self.scheduled:
            self._recording.note("range", f"ProfilerStep#{self.step_num}", self._step_start)

    def _note_memory(self, graph: Any) -> None:
        self._memory.append((timing.now(), memory.memory_stats()["in_use"]))

    # -- results -------------------------------------------------------------------------------------------------------
    def events(self) -> EventList:
        """Every event of the last recorded cycle, by start. RuntimeError when nothing was recorded yet."""
        if self._events is None:
            raise RuntimeError("Profiler didn't finish running: events are there once the profile has been stopped")
        return self._events

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0) -> EventList:
        """One row for each name (and its shapes, or the lines it comes from): see `EventList.table`."""
        return self.events().key_averages(group_by_input_shape, group_by_stack_n)

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the events as JSON for chrome://tracing or https://ui.perfetto.dev; compressed when the name ends in .gz."""
        write_trace(path, self.events(), self.metadata, self._memory)

    def add_metadata(self, key: str, value: str) -> None:
        """A text that goes into the trace."""
        self.metadata[key] = value

    def add_metadata_json(self, key: str, value: str) -> None:
        """As `add_metadata`, for text that is JSON already. ValueError when it is not."""
        import json
        self.metadata[key] = json.loads(value)


class record_function:
    """A named range in the profile; a context manager and a decorator. Costs next to nothing when no profiler is on."""

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name, self.args = name, args
        self._starts: list[int] = []

    def __enter__(self) -> record_function:
        self._settle()
        self._starts.append(0 if timing.ACTIVE is None else timing.now())
        return self

    def __exit__(self, *exc: Any) -> None:
        self._settle()
        start, recording = self._starts.pop(), timing.ACTIVE
        if start and recording is not None:
            recording.note("range", self.name, start, self.args)

    @staticmethod
    def _settle() -> None:
        recording = timing.ACTIVE
        if recording is not None and recording.synchronize:
            engine.flush("range of a profile")

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with record_function(self.name, self.args):
                return function(*args, **kwargs)
        return wrapped
