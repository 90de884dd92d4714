"""What can be wrong with a kernel: one exception class per kind, each naming kernel, PTX line, instruction, block and thread."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a fault happened. `line` counts from 1 in the PTX text."""

    kernel: str
    line: int
    instruction: str
    block: tuple[int, int, int] | None = None
    thread: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        who = "" if self.block is None else f", block {self.block}" + ("" if self.thread is None else f", thread {self.thread}")
        return f"kernel {self.kernel}, line {self.line}: `{self.instruction}`{who}"


class Fault(Exception):
    """A kernel did something that a GPU leaves undefined or refuses."""

    title = "fault"

    def __init__(self, detail: str, place: Place | None = None) -> None:
        self.detail = detail
        self.place = place
        super().__init__(f"{self.title}: {detail}" + (f" [{place}]" if place else ""))


class RaceFault(Fault):
    title = "data race"


class OutOfBoundsFault(Fault):
    title = "out of bounds"


class MisalignedFault(Fault):
    title = "misaligned access"


class UninitialisedFault(Fault):
    title = "read of uninitialised memory"


class AsyncCopyFault(RaceFault):
    title = "asynchronous copy still in flight"


class BarrierFault(Fault):
    title = "divergent barrier"


class HangFault(Fault):
    title = "hang"


class LaneFault(Fault):
    title = "wrong lanes"


class LaunchFault(Fault):
    title = "invalid launch"


class TrapFault(Fault):
    title = "trap"


class PtxError(Fault):
    """The text is not PTX that the simulator knows."""

    title = "invalid PTX"
