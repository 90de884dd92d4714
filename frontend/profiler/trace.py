"""A profile as a trace file in Chrome's format, which chrome://tracing and Perfetto show on a time line."""
from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Sequence
from typing import Any

from treadle.profiler.events import EventList

CATEGORIES = {"step": "kernel", "plan": "plan", "interpret": "cpu_op", "host": "cpu_op", "compile": "compile", "range": "user_annotation"}


def write_trace(path: str | os.PathLike[str], events: EventList, metadata: dict[str, Any], memory: Sequence[tuple[int, int]]) -> None:
    """`events` are FunctionEvents; `memory`: (ns, bytes in use). OSError when the file cannot be written."""
    text = json.dumps({**metadata, "displayTimeUnit": "ms", "traceEvents": _trace(events, memory)})
    if os.fspath(path).endswith(".gz"):
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def _trace(events: EventList, memory: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    process = os.getpid()
    names = {t.ident: t.name for t in threading.enumerate()}
    threads = {ident: number for number, ident in enumerate(dict.fromkeys([e.thread for e in events]))}
    found: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": "treadle"}}]
    found += [{"ph": "M", "name": "thread_name", "pid": process, "tid": number, "args": {"name": names.get(ident, f"thread {number}")}}
              for ident, number in threads.items()]
    for event in events:
        common = {"name": event.name, "pid": process, "tid": threads[event.thread], "ts": event.time_range.start}
        if event.kind == "flush":
            found.append({"ph": "i", "s": "t", "cat": "flush", **common})
        else:
            found.append({"ph": "X", "cat": CATEGORIES[event.kind], "dur": event.cpu_time_total, "args": _facts(event), **common})
    return found + [{"ph": "C", "name": "memory", "pid": process, "tid": 0, "ts": (at - events.origin) / 1e3, "args": {"bytes in use": n}}
                    for at, n in memory]


def _facts(event: Any) -> dict[str, Any]:
    facts = {"bytes": event.bytes, "flops": event.flops, "Input Dims": event.input_shapes, "Source": event.stack}
    if event.best and event.cpu_time_total:
        facts["share of the roofline"] = round(event.best / event.cpu_time_total, 4)
    return {name: value for name, value in facts.items() if value}
