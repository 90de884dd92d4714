"""What a driver keeps: devices, streams with work that has not run yet, events, modules, pinned memory.

Work given to a stream runs when something waits for it, not when it is given: programs that forget to wait see old data.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ptx_simulator.faults import Fault
from ptx_simulator.simulator import Simulator

DEFAULT_STREAMS = (0, 1, 2)
STICKY = {700, 702, 710, 714, 715, 716, 717, 718, 719, 999}


class DriverError(Exception):
    """A call fails with a CUresult."""

    def __init__(self, code: int) -> None:
        super().__init__(f"CUresult {code}")
        self.code = code


@dataclass
class Stream:
    """Work in order; `given` and `done` count it."""

    handle: int
    blocking: bool = True
    work: deque[Callable[[], None]] = field(default_factory=deque)
    given: int = 0
    done: int = 0

    def add(self, job: Callable[[], None]) -> None:
        self.work.append(job)
        self.given += 1

    def drain(self, upto: int | None = None) -> None:
        """Runs the work, up to the job with that number."""
        while self.work and (upto is None or self.done < upto):
            job = self.work.popleft()
            self.done += 1
            job()


@dataclass
class Event:
    """The moment at which a stream has done `number` jobs."""

    stream: Stream | None = None
    number: int = 0
    time: float = 0.0
    timed: bool = True


@dataclass
class Function:
    text: str
    name: str
    dynamic_limit: int = 48 * 1024


@dataclass
class Device:
    """One device: its memory, its primary context's streams and its error."""

    number: int
    simulator: Simulator
    retained: int = 0
    error: int = 0
    streams: dict[int, Stream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As after a reset of the primary context."""
        self.streams = {0: Stream(0)}
        self.error = 0

    def stream(self, handle: int | None) -> Stream:
        handle = 0 if handle in DEFAULT_STREAMS or handle is None else handle
        if handle not in self.streams:
            raise DriverError(400)
        return self.streams[handle]

    def enqueue(self, handle: int | None, job: Callable[[], None]) -> Stream:
        """Gives work to a stream. The default stream and blocking streams wait for each other."""
        stream = self.stream(handle)
        if stream.handle == 0:
            others = [(other, other.given) for other in self.streams.values() if other.handle and other.blocking and other.work]
            for other, number in others:
                stream.add(lambda other=other, number=number: other.drain(number))  # type: ignore[misc]
        elif stream.blocking and self.streams[0].work:
            default, number = self.streams[0], self.streams[0].given
            stream.add(lambda: default.drain(number))
        stream.add(job)
        return stream

    def synchronize(self) -> None:
        """Runs all work, the newest stream first: what should have waited for an older stream is then too early."""
        for stream in reversed(list(self.streams.values())):
            stream.drain()


class Registry:
    """Handles: numbers that stand for Python objects."""

    def __init__(self) -> None:
        self._next = 0x10000
        self._objects: dict[int, object] = {}
        self._lock = threading.Lock()

    def add(self, thing: object) -> int:
        with self._lock:
            self._next += 16
            self._objects[self._next] = thing
            return self._next

    def get(self, handle: int | None, kind: type) -> object:
        """DriverError 400 (invalid handle) if it does not stand for a `kind`."""
        thing = self._objects.get(handle or 0)
        if not isinstance(thing, kind):
            raise DriverError(400)
        return thing

    def remove(self, handle: int | None, kind: type) -> object:
        thing = self.get(handle, kind)
        del self._objects[handle or 0]
        return thing


def code_of(fault: Fault) -> int:
    """The CUresult with which a GPU would answer, as far as it would notice at all."""
    name = type(fault).__name__
    return {"OutOfBoundsFault": 700, "MisalignedFault": 716, "HangFault": 702, "PtxError": 218, "LaunchFault": 1}.get(name, 719)
