"""What the runtime tells about itself: log channels (`TREADLE_LOG`), the dump directory (`TREADLE_DUMP`) and counters.

    TREADLE_LOG=flush,recompile python train.py     messages on stderr, each line as `[treadle:flush] ...`
    TREADLE_DUMP=dir python train.py                the IR of everything compiled, as files in dir
"""
from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

CHANNELS = {
    "flush": "why and where recorded work was run",
    "compile": "what was compiled and how long it took",
    "recompile": "what differed from the traces seen before",
    "passes": "what each pass changed",
    "kernels": "the kernels of each plan",
    "memory": "arenas and buffers of each plan",
}

_enabled: set[str] = set()


def set_channels(text: str) -> None:
    """Turn on exactly the channels in `text`, separated by commas; "all" stands for every one. Warns of unknown names."""
    names = {name.strip() for name in text.split(",")} - {""}
    if "all" in names:
        names = names - {"all"} | set(CHANNELS)
    unknown = sorted(names - set(CHANNELS))
    if unknown:
        listed = ", ".join(map(repr, unknown))
        warnings.warn(f"TREADLE_LOG: no channel named {listed}; there are {', '.join(CHANNELS)} and all", stacklevel=2)
    _enabled.clear()
    _enabled.update(names & set(CHANNELS))


def enabled(channel: str) -> bool:
    """Whether `channel` is on: ask before building a costly message."""
    return channel in _enabled


def log(channel: str, message: str) -> None:
    """Write `message` to stderr if `channel` is on, every line after the prefix `[treadle:channel]`."""
    if channel in _enabled:
        prefix = f"[treadle:{channel}] "
        sys.stderr.write("".join([f"{prefix}{line}\n" for line in message.splitlines() or [""]]))


def dump_dir() -> Path | None:
    """The directory named by TREADLE_DUMP, made if need be, or None when it is unset; RuntimeError when it cannot be made."""
    name = os.environ.get("TREADLE_DUMP")
    if not name:
        return None
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(f"TREADLE_DUMP={name}: cannot make this directory: {error.strerror}") from error
    return path


class Counters:
    """Events counted since the process started; what `treadle.stats()` returns as a dict."""

    __slots__ = ("compiled_runs", "flushes", "interpreted_runs", "kernel_cache_hits", "ops_recorded", "plans")

    def __init__(self) -> None:
        self.ops_recorded = 0
        self.flushes: dict[str, int] = {}  # by reason
        self.plans = 0
        self.interpreted_runs = 0
        self.compiled_runs = 0
        self.kernel_cache_hits = 0

    def flushed(self, reason: str) -> None:
        """Count one flush."""
        self.flushes[reason] = self.flushes.get(reason, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """A copy of the counts, with those that the JIT and the allocator keep: llvm_compiles, object_cache_hits, peak_bytes."""
        from treadle.codegen.jit import stats  # here, so that logging alone does not load llvmlite
        from treadle.runtime.memory import memory_stats

        found = {name: getattr(self, name) for name in ("ops_recorded", "plans", "interpreted_runs", "compiled_runs", "kernel_cache_hits")}
        return {**found, "flushes": dict(self.flushes), "llvm_compiles": stats["llvm_compiles"],
                "object_cache_hits": stats["object_cache_hits"], "peak_bytes": memory_stats()["peak"]}


counters = Counters()

set_channels(os.environ.get("TREADLE_LOG", ""))
