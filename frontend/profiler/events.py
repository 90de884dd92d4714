"""Events of a profile, and their averages. Times are in microseconds, as in PyTorch."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from treadle.codegen import work
from treadle.profiler.table import format_table
from treadle.runtime.machine import machine
from treadle.runtime.timing import Event


class Interval(NamedTuple):
    """From `start` to `end`, in microseconds since the first event of the profile."""

    start: float
    end: float

    def elapsed_us(self) -> float:
        return self.end - self.start


class _Times:
    """What single events and averages share: names that PyTorch uses, derived from `count` and two times."""

    count: int
    cpu_time_total: float
    self_cpu_time_total: float
    device_time_total = self_device_time_total = device_time = cuda_time_total = self_cuda_time_total = cuda_time = 0.0

    @property
    def cpu_time(self) -> float:
        """Microseconds a call."""
        return self.cpu_time_total / self.count if self.count else 0.0

    @property
    def self_cpu_time(self) -> float:
        return self.self_cpu_time_total / self.count if self.count else 0.0


class FunctionEvent(_Times):
    """One thing that ran. kind: step (a kernel, matrix product or routine), plan, interpret, host, compile, range or flush.

    bytes, flops: its work (0 where that makes no sense); best: microseconds in which this machine could do that work at most;
    input_shapes: of the buffers it touches; stack: the lines of the program that it comes from.
    """

    def __init__(self, event: Event, name: str, origin: int) -> None:
        self.kind, self.name, self.key, self.thread = event.kind, name, name, event.thread
        self.time_range = Interval((event.start - origin) / 1e3, (event.end - origin) / 1e3)
        self.count = 1
        self.cpu_time_total = self.self_cpu_time_total = self.time_range.elapsed_us()
        self.cpu_parent: FunctionEvent | None = None
        self.cpu_children: list[FunctionEvent] = []
        self.flops = self.bytes = 0
        self.best = 0.0
        self.input_shapes: list[list[int]] = []
        self.stack: list[str] = []

    def __repr__(self) -> str:
        return f"<FunctionEvent {self.name} {self.cpu_time_total:.3f}us>"


class FunctionEventAvg(_Times):
    """All events with one key."""

    def __init__(self, first: FunctionEvent) -> None:
        self.key, self.kind, self.input_shapes, self.stack = first.key, first.kind, first.input_shapes, first.stack
        self.count = self.flops = self.bytes = 0
        self.cpu_time_total = self.self_cpu_time_total = self.best = 0.0

    def add(self, event: FunctionEvent) -> None:
        self.count += event.count
        self.flops += event.flops
        self.bytes += event.bytes
        self.best += event.best
        self.self_cpu_time_total += event.self_cpu_time_total
        parent = event.cpu_parent
        while parent is not None and parent.key != event.key:
            parent = parent.cpu_parent
        if parent is None:  # time inside a range of the same name has been counted
            self.cpu_time_total += event.cpu_time_total

    @property
    def roofline(self) -> float | None:
        """Share of what the machine could do at best: 1 where memory or arithmetic is the limit. None where there is no work to count."""
        return self.best / self.self_cpu_time_total if self.best and self.self_cpu_time_total else None

    def __repr__(self) -> str:
        return f"<FunctionEventAvg {self.key} x{self.count} {self.self_cpu_time_total:.3f}us>"


class EventList(list[Any]):
    """Events or averages, with a table of them."""

    def __init__(self, items: Iterable[Any] = (), like: EventList | None = None, *, shapes: bool = False, stacks: bool = False,
                 flops: bool = False, origin: int = 0) -> None:
        super().__init__(items)
        self.origin: int = origin  # when the first event began, in ns of the monotonic clock
        self.shapes: bool = shapes
        self.stacks: bool = stacks
        self.flops: bool = flops
        if like is not None:
            self.origin, self.shapes, self.stacks, self.flops = like.origin, like.shapes, like.stacks, like.flops

    @property
    def self_cpu_time_total(self) -> float:
        return float(sum(e.self_cpu_time_total for e in self))

    def total_average(self) -> FunctionEventAvg:
        """Everything as one row. RuntimeError when there is nothing."""
        if not self:
            raise RuntimeError("total_average of a profile without events")
        total = FunctionEventAvg(self[0])
        total.key, total.kind = "Total", "range"
        for event in self:
            total.count += event.count
            total.self_cpu_time_total += event.self_cpu_time_total
            total.flops += event.flops
            total.bytes += event.bytes
            total.best += event.best
        total.cpu_time_total = total.self_cpu_time_total
        return total

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0) -> EventList:
        """Rows by name, in the order of appearance; by shapes and by the first `group_by_stack_n` lines too, when asked."""
        found: dict[Any, FunctionEventAvg] = {}
        for event in self:
            if event.kind == "flush":
                continue
            shapes = str(event.input_shapes) if group_by_input_shape else ""
            group = (event.kind, event.key, shapes, tuple(event.stack[:group_by_stack_n]))
            row = found.get(group)
            if row is None:
                row = found[group] = FunctionEventAvg(event)
            row.add(event)
        rows = EventList(found.values(), self)
        rows.shapes = group_by_input_shape
        return rows

    def table(self, sort_by: str | None = None, row_limit: int = 100, max_src_column_width: int = 75, max_name_column_width: int = 55,
              max_shapes_column_width: int = 80, header: str | None = None, top_level_events_only: bool = False) -> str:
        """The events as text, those with the largest `sort_by` first (any attribute of a row: "self_cpu_time_total", "cpu_time",
        "count", "bytes", "flops", "roofline"); `row_limit` -1 shows all. AttributeError for an unknown one."""
        rows = [e for e in self if not (top_level_events_only and getattr(e, "cpu_parent", None) is not None)]
        if sort_by is not None:
            rows.sort(key=lambda e: getattr(e, sort_by) or 0, reverse=True)
        shown = rows if row_limit < 0 else rows[:row_limit]
        return format_table(shown, self.self_cpu_time_total, self.shapes, self.stacks, self.flops, max_src_column_width,
                            max_name_column_width, max_shapes_column_width, header)

    def __str__(self) -> str:
        return self.table()


def build_events(events: Sequence[Event], shapes: bool, stacks: bool, flops: bool) -> EventList:
    """Raw events, sorted by start, as PyTorch-like ones, with children and parents by thread."""
    origin = events[0].start if events else 0
    found = []
    facts: dict[int, tuple[Any, ...]] = {}
    for event in events:
        found.append(_build(event, origin, shapes, facts))
    _nest(found)
    return EventList(found, shapes=shapes, stacks=stacks, flops=flops, origin=origin)


def _build(event: Event, origin: int, shapes: bool, facts: dict[int, tuple[Any, ...]]) -> FunctionEvent:
    if event.kind in ("step", "host"):
        program, step = event.what[:2]
        known = facts.get(id(step))
        if known is None:
            amount = work.work_of(program, step)
            known = facts[id(step)] = (work.title(step), amount, machine().seconds(*amount) * 1e6, work.shapes(program, step),
                                       [f"{file}:{line}" for file, line in work.sources(step)])
        name, amount, best, dims, lines = known
        made = FunctionEvent(event, name, origin)
        made.stack = list(lines)
        if event.kind == "host" or event.what[2]:  # the launches of one step share its work
            made.flops, made.bytes, made.best = amount.flops, amount.bytes, best
        else:
            made.count = 0
        if shapes:
            made.input_shapes = [list(d) for d in dims]
        return made
    if event.kind == "interpret":
        node = event.what
        made = FunctionEvent(event, f"{event.name} (interpreted)", origin)
        made.bytes = sum(v.type.nbytes for v in (*node.inputs, *node.outputs))
        made.stack = [f"{node.loc[0]}:{node.loc[1]}"] if node.loc else []
        if shapes:
            made.input_shapes = [list(v.type.shape) for v in node.inputs]
        return made
    return FunctionEvent(event, event.name, origin)


def _nest(events: list[FunctionEvent]) -> None:
    """Who contains whom, by time and thread; times of children are taken off their parents' own."""
    open_by_thread: dict[int, list[FunctionEvent]] = {}
    for event in events:
        if event.kind == "flush":
            continue
        stack = open_by_thread.setdefault(event.thread, [])
        while stack and stack[-1].time_range.end < event.time_range.end:
            stack.pop()
        if stack:
            event.cpu_parent = stack[-1]
            stack[-1].cpu_children.append(event)
            stack[-1].self_cpu_time_total -= event.cpu_time_total
        stack.append(event)
