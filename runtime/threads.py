"""How many threads kernels use, the native workers, and each thread's scratch memory."""
from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable

from treadle.codegen import pool as layout
from treadle.codegen.executor import native
from treadle.runtime.memory import Buffer, Pool

# What one kernel call may use: packed panels of a matrix product are the largest guests. Touched pages only.
SCRATCH_BYTES = 32 << 20

_scratch_blocks = Pool(1 << 30)
_local = threading.local()
_lock = threading.Lock()


class ThreadPool:
    """Workers of this process. They are native threads that never enter Python and end with the process."""

    def __init__(self) -> None:
        # Never freed: the workers look at it until the process ends.
        self.memory = _scratch_blocks.allocate(layout.POOL_BYTES)
        self.started = 0
        self._scratch: list[Buffer] = []
        ctypes.memset(self.memory.ptr, 0, layout.POOL_BYTES)

    def resize(self, threads: int) -> None:
        """Use `threads` threads, the caller's included, starting workers that do not exist yet.

        Safe while a region runs: it has its own copy of the number of shares.
        """
        entry = native().worker
        if entry is None:
            return
        with contextlib.suppress(OSError):  # fewer workers than asked for are no error: shares are done by the caller
            while self.started < threads - 1:
                self._start(entry, self.started + 1)
        self._word(layout.THREADS).value = min(threads, self.started + 1)

    def _word(self, offset: int) -> ctypes.c_int64:
        return ctypes.c_int64.from_address(self.memory.ptr + offset)

    def _start(self, entry: int, index: int) -> None:
        slot = layout.SLOTS + index * layout.SLOT_BYTES
        scratch = _scratch_blocks.allocate(SCRATCH_BYTES)
        self._word(slot + layout.SCRATCH).value = scratch.ptr
        self._word(slot + layout.INDEX).value = index
        self._word(slot + layout.POOL).value = self.memory.ptr
        _start_native_thread(entry, self.memory.ptr + slot)
        self._scratch.append(scratch)
        self.started = index


def _start_native_thread(entry: int, argument: int) -> None:
    """A detached thread with all signals blocked, so that Python's handlers run where they belong. OSError."""
    libc = ctypes.CDLL(None)
    thread = ctypes.c_ulong()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        error = libc.pthread_create(ctypes.byref(thread), None, ctypes.c_void_p(entry), ctypes.c_void_p(argument))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if error:
        raise OSError(error, os.strerror(error))
    libc.pthread_detach(thread)


def _default_threads() -> int:
    setting = os.environ.get("TREADLE_THREADS", "")
    if setting:
        if not setting.isdigit() or int(setting) < 1:
            raise ValueError(f"TREADLE_THREADS must be a positive number, got {setting!r}")
        return min(int(setting), layout.MAX_THREADS)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, layout.MAX_THREADS)


_threads = _default_threads()
_pool: ThreadPool | None = None


# Called when the thread pool is another one, or has another size.
listeners: list[Callable[[], None]] = []


def num_threads() -> int:
    """Threads that a large kernel uses."""
    return _threads


def set_num_threads(n: int) -> None:
    """Use `n` threads (1 to 64) for large kernels; ValueError otherwise. Results do not depend on it."""
    global _threads
    if not 1 <= n <= layout.MAX_THREADS:
        raise ValueError(f"the number of threads must be between 1 and {layout.MAX_THREADS}, got {n}")
    with _lock:
        _threads = n
        if _pool is not None:
            _pool.resize(n)
    for listener in listeners:
        listener()


def pool_pointer() -> int:
    """The pool's address for native code, starting the workers at the first call; 0 when kernels run on one thread."""
    global _pool
    if _threads == 1:
        return 0
    if _pool is None:
        with _lock:
            if _pool is None:
                pool = ThreadPool()
                pool.resize(_threads)
                _pool = pool
    return _pool.memory.ptr


def scratch_pointer() -> int:
    """The calling thread's scratch memory, `SCRATCH_BYTES` long, 64-byte aligned."""
    try:
        return _local.scratch.ptr
    except AttributeError:
        _local.scratch = allocate_scratch()
        return _local.scratch.ptr


def allocate_scratch() -> Buffer:
    """Scratch memory for one kernel call at a time."""
    return _scratch_blocks.allocate(SCRATCH_BYTES)


def _after_fork() -> None:
    """Threads do not survive a fork: the child starts its own workers when it needs them."""
    global _pool, _lock
    _lock = threading.Lock()
    _abandoned.append(_pool)
    _pool = None
    _scratch_blocks.after_fork()
    for listener in listeners:
        listener()


# Pools of parent processes: their memory must not be handed out again under a copied lock word.
_abandoned: list[ThreadPool | None] = []
os.register_at_fork(after_in_child=_after_fork)
