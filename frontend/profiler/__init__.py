"""`treadle.profiler`, in the shape of `torch.profiler`: where the time of a piece of a program goes.

    with treadle.profiler.profile(record_shapes=True) as prof:
        train()
    print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=10))
    prof.export_chrome_trace("trace.json")

A row is what really ran: a fused kernel (named by its ops), a matrix product, an op that was interpreted because it was seen for the
first time, a compile, or a range of `record_function`. Work is recorded first and run when a value is looked at, so it lies in the
range that is open then; `profile(synchronize=True)` runs what is pending at both ends of every range.
"""
from __future__ import annotations

from treadle.profiler.events import EventList, FunctionEvent, FunctionEventAvg
from treadle.profiler.session import (
    ProfilerAction,
    ProfilerActivity,
    profile,
    record_function,
    schedule,
    supported_activities,
    tensorboard_trace_handler,
)

__all__ = ["EventList", "FunctionEvent", "FunctionEventAvg", "ProfilerAction", "ProfilerActivity", "profile", "record_function",
           "schedule", "supported_activities", "tensorboard_trace_handler"]
