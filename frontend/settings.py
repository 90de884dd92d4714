"""Threads, statistics and other switches of the process."""
from __future__ import annotations

from typing import Any

from treadle.runtime import engine, memory, recorder

# What compiles is imported when it is first needed.


def get_num_threads() -> int:
    """How many threads kernels run on."""
    from treadle.runtime import threads
    return threads.num_threads()


def set_num_threads(n: int) -> None:
    """Threads that share a kernel's work. RuntimeError unless positive."""
    if not isinstance(n, int) or n < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, got {n!r}")
    from treadle.runtime import threads
    threads.set_num_threads(n)


def stats() -> dict[str, Any]:
    """What Treadle has done in this process: ops recorded, flushes by reason, plans, LLVM compiles, cache hits, peak bytes."""
    from treadle.codegen import jit
    from treadle.passes.family import TEMPLATES
    return {
        "ops_recorded": recorder.counters["ops_recorded"],
        "trie_nodes": recorder.counters["trie_nodes"],
        "flushes": dict(engine.flushes),
        "plans": engine.counters["plans"],
        "interpreted_runs": engine.counters["interpreted"],
        "compiled_plans": engine.counters["compiled_plans"],
        "templated_plans": TEMPLATES.used,
        "compiled_runs": engine.counters["compiled_runs"],
        "kernels": engine.counters["kernels"],
        "kernel_cache_hits": engine.counters["kernel_cache_hits"],
        "llvm_compiles": jit.stats["llvm_compiles"],
        "object_cache_hits": jit.stats["object_cache_hits"],
        "peak_bytes": memory.memory_stats()["peak"],
    }


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Whether work that is done once gives the bits that it gives ever after.

    Results never depend on time, nor for a seed on the run of a program. But the first run of a trace is numpy's and later ones are
    machine code, whose sums and functions may end in other last bits: the second of two equal trainings in one process differs from the
    first by rounding. With True a trace is compiled when it is first seen, and recorded and compiled functions have the same bits at any
    time; what runs only once then waits for the compiler. No operation has to be refused: `warn_only` changes nothing.
    """
    if not isinstance(mode, bool):
        raise TypeError(f"_set_deterministic_algorithms(): argument 'mode' must be bool, not {type(mode).__name__}")
    engine.compile_at(1 if mode else 2)


def are_deterministic_algorithms_enabled() -> bool:
    """Whether traces are compiled when they are first seen, see `use_deterministic_algorithms`."""
    return engine.COMPILE_AT == 1


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """Always False: nothing is refused that could be warned of."""
    return False


def set_deterministic_debug_mode(debug_mode: int | str) -> None:
    """0 or "default" as `use_deterministic_algorithms(False)`, 1 or "warn" and 2 or "error" as with True. RuntimeError for others."""
    modes: dict[int | str, bool] = {0: False, 1: True, 2: True, "default": False, "warn": True, "error": True}
    if not isinstance(debug_mode, int | str):
        raise TypeError(f"debug_mode must be str or int, but got {type(debug_mode)}")
    if debug_mode not in modes:
        raise RuntimeError(f"invalid value of debug_mode, expected `default`, `warn` or `error` (0, 1 or 2), but got {debug_mode!r}")
    use_deterministic_algorithms(modes[debug_mode])


def get_deterministic_debug_mode() -> int:
    """0, or 2 once deterministic algorithms are wanted."""
    return 2 if are_deterministic_algorithms_enabled() else 0


def set_float32_matmul_precision(precision: str) -> None:
    """Accepted for compatibility: float32 products are always computed in float32."""
    global _precision
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(f"Invalid float32 matmul precision: {precision!r}")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """What was set, by default "highest"; float32 products are always computed in float32."""
    return _precision


_precision = "highest"


__all__ = ["are_deterministic_algorithms_enabled", "get_deterministic_debug_mode", "get_float32_matmul_precision", "get_num_threads",
           "is_deterministic_algorithms_warn_only_enabled", "set_deterministic_debug_mode", "set_float32_matmul_precision",
           "set_num_threads", "stats", "use_deterministic_algorithms"]
