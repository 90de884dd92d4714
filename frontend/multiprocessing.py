"""`treadle.multiprocessing`: Python's module, and PyTorch's `spawn`. Tensors travel between processes by value."""
from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import traceback
from collections.abc import Callable
from multiprocessing import *  # noqa: F403
from typing import Any

from treadle.runtime import engine


class ProcessException(Exception):
    """A process that `spawn` started did not end well: `error_index`, `pid`."""

    def __init__(self, msg: str, error_index: int, pid: int) -> None:
        super().__init__(msg)
        self.msg, self.error_index, self.pid = msg, error_index, pid


class ProcessRaisedException(ProcessException):
    """It raised: the message holds its traceback."""


class ProcessExitedException(ProcessException):
    """It ended with another exit code, in `exit_code`."""

    def __init__(self, msg: str, error_index: int, pid: int, exit_code: int) -> None:
        super().__init__(msg, error_index, pid)
        self.exit_code = exit_code


def _run(fn: Callable[..., Any], i: int, args: tuple[Any, ...], errors: Any) -> None:
    try:
        fn(i, *args)
    except KeyboardInterrupt:
        pass
    except Exception:
        errors.put((i, traceback.format_exc()))
        raise SystemExit(1) from None


class ProcessContext:
    """Processes that `spawn(join=False)` started."""

    def __init__(self, processes: list[Any], errors: list[Any]) -> None:
        self.processes, self._errors = processes, errors

    def pids(self) -> list[int]:
        return [p.pid for p in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait for the next process to end. True when all have; raises when one failed, after ending the others."""
        running = [p.sentinel for p in self.processes if p.is_alive()]
        if running:
            multiprocessing.connection.wait(running, timeout)
        failed = next((i for i, p in enumerate(self.processes) if p.exitcode not in (0, None)), None)
        if failed is None:
            return all(p.exitcode == 0 for p in self.processes)
        for p in self.processes:
            if p.is_alive():
                p.terminate()
            p.join()
        self._raise(failed)
        return True

    def _raise(self, i: int) -> None:
        process = self.processes[i]
        if self._errors[i].empty():
            raise ProcessExitedException(f"process {i} terminated with exit code {process.exitcode}", i, process.pid, process.exitcode)
        text = self._errors[i].get()[1]
        raise ProcessRaisedException(f"\n\n-- Process {i} terminated with the following error:\n{text}", i, process.pid)


def start_processes(fn: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True, daemon: bool = False,
                    start_method: str = "spawn") -> ProcessContext | None:
    """Run `fn(i, *args)` in `nprocs` processes. With `join`, wait, and raise ProcessRaisedException where one raised."""
    engine.flush("processes start")
    context: Any = multiprocessing.get_context(start_method)
    processes, errors = [], []
    for i in range(nprocs):
        errors.append(context.SimpleQueue())
        process = context.Process(target=_run, args=(fn, i, args, errors[i]), daemon=daemon)
        process.start()
        processes.append(process)
    found = ProcessContext(processes, errors)
    if not join:
        return found
    while not found.join():
        pass
    return None


def spawn(fn: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True, daemon: bool = False,
          start_method: str = "spawn") -> ProcessContext | None:
    """`start_processes` with fresh interpreters."""
    return start_processes(fn, args, nprocs, join, daemon, start_method)


def get_all_sharing_strategies() -> set[str]:
    return {"by_value"}


def get_sharing_strategy() -> str:
    return "by_value"


def set_sharing_strategy(new_strategy: str) -> None:
    """Accepted: tensors are always sent by value."""
