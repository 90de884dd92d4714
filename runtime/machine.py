"""How fast this machine is: bandwidth of memory and caches, and peak arithmetic. Measured once, then kept beside compiled objects.

A profile holds kernels against these figures (the roofline model of Williams, Waterman and Patterson, 2009). Nothing that is
computed depends on them.
"""
from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from treadle.codegen import emit, jit
from treadle.codegen.gemm_micro import Tile, multiply_add, product_tile
from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.phases import launches
from treadle.codegen.target import host
from treadle.ir.kernel import PARALLEL, UNIT, Access, Axis, Instr, Kernel
from treadle.passes.program import ErrorCell, Ref, ScalarRef
from treadle.runtime import executor, memory, threads

# Working sets in bytes for which bandwidth is measured: about a core's cache, the shared cache, and memory.
WORKING_SETS = (192 << 10, 1536 << 10, 12 << 20, 192 << 20)
SECONDS = 0.03        # how long a figure is measured, at least
CHAIN = 4096          # multiply-adds of one accumulator in one unit
WORD = {"float32": 1, "float64": 1, "bfloat16": 2, "int8": 4}  # numbers that one lane multiplies at once
TRIAD = Kernel((Axis(PARALLEL),), (Access("float32", False, (UNIT,)), Access("float32", False, (UNIT,)), Access("float32", True, (UNIT,))),
               ("float32",), 0, (Instr("load", "float32", (), (0,)), Instr("load", "float32", (), (1,)),
                                 Instr("scalar", "float32", (), (0,)), Instr("mul", "float32", (1, 2)),
                                 Instr("add", "float32", (0, 3))), ((2, 4),))


@dataclass(frozen=True)
class Machine:
    """bandwidth: bytes a second by working set (the sizes of WORKING_SETS); peak: floating-point operations a second by dtype."""

    bandwidth: tuple[float, ...]
    peak: dict[str, float]
    threads: int

    def seconds(self, flops: int, nbytes: int, dtype: str) -> float:
        """The least time that so much work takes here: what its arithmetic or its memory traffic needs, whichever is longer.

        Traffic is held against the bandwidth of the smallest measured working set that is at least as large. float16 counts as float32,
        in which it is computed. Matrix units (AMX) are not measured: with them a product may do better than this.
        """
        level = next((i for i, size in enumerate(WORKING_SETS) if nbytes <= size), len(WORKING_SETS) - 1)
        return max(flops / self.peak.get(dtype, self.peak["float32"]), nbytes / self.bandwidth[level])


@functools.cache
def _measured(count: int) -> Machine:
    path = _cache_path(count)
    found = _read(path)
    if found is None:
        found = measure()
        _write(path, found)
    return found


def machine() -> Machine:
    """The figures for the threads now in use, measured (in half a second) if this machine has not been before."""
    return _measured(threads.num_threads())


def measure() -> Machine:
    """Measure now. Other work on the machine makes the figures worse."""
    bandwidth = tuple([_bandwidth(size) for size in WORKING_SETS])
    return Machine(bandwidth, {dtype: _peak(dtype) for dtype in WORD}, threads.num_threads())


def _best(plan: executor.Plan, buffers: list[int], scalars: tuple[float, ...] = ()) -> float:
    """Seconds of the fastest of several runs."""
    best, spent, runs = float("inf"), 0.0, 0
    while spent < SECONDS or runs < 3:
        start = time.perf_counter()
        plan.run(buffers, scalars)
        taken = time.perf_counter() - start
        best, spent, runs = min(best, taken), spent + taken, runs + 1
    return best


def _bandwidth(size: int) -> float:
    """Bytes a second that `a + b * s` reads and writes when its three arrays are `size` bytes together."""
    n = size // 12
    module = Module()
    emit.emit_kernel(module, TRIAD, "triad", host())
    address = _code(module.text()).address("triad")
    trip = max(1, (4 << 20) // size)
    builder = executor.PlanBuilder()
    builder.begin_loop(trip)
    for launch in launches(TRIAD, (n,)):
        arguments: list[executor.Argument] = [ErrorCell(), n, *[Ref(i) for i in (1, 2, 3)], ScalarRef(0)]
        builder.step(address, arguments, launch.units, launch.grain)
    builder.end_loop()
    plan = builder.build(4, 1, "f")
    error, *arrays = [memory.allocate(nbytes) for nbytes in (executor.ERROR_CELL_BYTES, 4 * n, 4 * n, 4 * n)]
    for array in arrays:
        memory.as_numpy(array, (n,), "float32").fill(1.0)
    return 12 * n * trip / _best(plan, [error.ptr, *[a.ptr for a in arrays]], (0.5,))


def _peak(dtype: str) -> float:
    """Operations a second of independent multiply-adds in registers, as matrix kernels for `dtype` do them, on all threads."""
    tile = product_tile(host(), dtype)
    accumulators = host().registers // 2 - 2
    address = _code(_chains(tile, accumulators)).address("chains")
    units = threads.num_threads() * 8
    builder = executor.PlanBuilder()
    builder.step(address, [0], units, 1)
    error = memory.allocate(executor.ERROR_CELL_BYTES)
    return 2 * WORD[dtype] * tile.lanes * accumulators * CHAIN * units / _best(builder.build(1), [error.ptr])


def _chains(tile: Tile, accumulators: int) -> str:
    """A kernel whose units are chains of multiply-adds, enough of them side by side to hide their latency."""
    module = Module()
    low, high, scratch = Val("i64", "%lo"), Val("i64", "%hi"), Val("ptr", "%scratch")
    f = Function(module, "chains", [Val("ptr", "%args"), low, high, scratch])
    one = const(tile.vector, 1 if tile.scalar[0] == "i" else 1.0)
    f.store(one, scratch, tile.align)
    factor = f.op(f"load volatile {tile.vector}, {scratch}, align {tile.align}", tile.vector)  # a number nobody can know beforehand
    with f.loop(low, high):
        with f.loop(const("i64", 0), const("i64", CHAIN), carried=[one] * accumulators) as chain:
            chain.next([multiply_add(f, tile, factor, factor, v) for v in chain.values])
        for i, value in enumerate(chain.values):
            f.store(value, f.gep(scratch, i * tile.lanes, tile.scalar), tile.align)
    f.line("ret void")
    f.finish()
    return module.text()


@functools.cache
def _code(text: str) -> jit.CompiledModule:
    return jit.compile_text(text)


# -- kept between processes ----------------------------------------------------------------------------------------------
def _cache_path(count: int) -> Path | None:
    directory = jit.cache_directory()
    if directory is None:
        return None
    facts = (platform.node(), host().cpu, host().features, os.cpu_count(), count, WORKING_SETS, tuple(WORD))
    return directory / f"machine-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.json"


def _read(path: Path | None) -> Machine | None:
    if path is None or not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text())
        found = Machine(tuple(map(float, facts["bandwidth"])), {k: float(v) for k, v in facts["peak"].items()}, int(facts["threads"]))
    except (OSError, ValueError, KeyError, TypeError):  # somebody else's file, or half of one: measure again
        return None
    figures = (*found.bandwidth, *found.peak.values())
    return found if len(found.bandwidth) == len(WORKING_SETS) and set(found.peak) == set(WORD) and min(figures) > 0 else None


def _write(path: Path | None, found: Machine) -> None:
    if path is None:
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(found)))
        partial.replace(path)
    except OSError:  # a cache that cannot be written is only slower
        partial.unlink(missing_ok=True)
