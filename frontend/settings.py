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
    from treadle.passes.pipeline import TEMPLATES
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
    """Treadle's algorithms are always deterministic."""


def are_deterministic_algorithms_enabled() -> bool:
    """Always True: results do not depend on threads or time."""
    return True


def set_float32_matmul_precision(precision: str) -> None:
    """Accepted for compatibility: float32 products are always computed in float32."""
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(f"Invalid float32 matmul precision: {precision!r}")


def get_float32_matmul_precision() -> str:
    """Always "highest": float32 products are always computed in float32."""
    return "highest"


__all__ = ["are_deterministic_algorithms_enabled", "get_float32_matmul_precision", "get_num_threads", "set_float32_matmul_precision",
           "set_num_threads", "stats", "use_deterministic_algorithms"]
