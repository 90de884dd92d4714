"""What the runtime tells about itself: log channels (`TREADLE_LOG`) and the dump directory (`TREADLE_DUMP`).

    TREADLE_LOG=flush,recompile python train.py     messages on stderr, each line as `[treadle:flush] ...`
    TREADLE_DUMP=dir python train.py                the IR of everything compiled, as files in dir
"""
from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

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


set_channels(os.environ.get("TREADLE_LOG", ""))
