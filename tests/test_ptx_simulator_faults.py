"""Planted faults: a correct kernel with one thing made wrong. Each must be found, with kernel, line and thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from ptx_simulator import (
    AsyncCopyFault,
    BarrierFault,
    Fault,
    HangFault,
    LaneFault,
    LaunchFault,
    MisalignedFault,
    OutOfBoundsFault,
    PtxError,
    RaceFault,
    Simulator,
    TrapFault,
    UninitialisedFault,
)

KERNELS = Path(__file__).parent / "ptx_simulator" / "kernels"
ONES = np.ones(4096, np.float32)


def vector_add(sim: Simulator, ptx: str, n: int = 1024) -> None:
    sim.launch(ptx, "vector_add", 4, 64, [ONES[:1024].copy(), ONES[:1024].copy(), np.zeros(1024, np.float32), n])


def reduce(sim: Simulator, ptx: str, n: int = 1000, threads: int = 256) -> None:
    sim.launch(ptx, "reduce", 4, threads, [np.arange(n, dtype=np.float32), np.zeros(1, np.float32), n])


def gemm(sim: Simulator, ptx: str, n: int = 32) -> None:
    a = np.arange(1024, dtype=np.float32).reshape(32, 32)
    sim.launch(ptx, "gemm", (2, 2), (16, 16), [a, a.copy(), np.zeros((32, 32), np.float32), n])


def gemm_bf16(sim: Simulator, ptx: str) -> None:
    a, b = (np.random.default_rng(0).random((64, 64)).astype(ml_dtypes.bfloat16) for _ in range(2))
    sim.launch(ptx, "gemm_bf16", (4, 2), 64, [a, b, np.zeros((64, 64), np.float32), 64, 64])


def histogram(sim: Simulator, ptx: str, shared: int = 256) -> None:
    x = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
    sim.launch(ptx, "histogram", 4, 256, [x, np.zeros(64, np.uint32), 1000], shared=shared)


def scan(sim: Simulator, ptx: str, threads: int = 256) -> None:
    sim.launch(ptx, "scan", 1, threads, [np.arange(threads, dtype=np.int32), np.zeros(threads, np.int32)])


def last_block(sim: Simulator, ptx: str) -> None:
    sim.launch(ptx, "last_block", 8, 32, [np.arange(256, dtype=np.int32), np.zeros(8, np.int32), np.zeros(1, np.int32)])


RUN: dict[str, Callable[..., None]] = {run.__name__: run for run in (vector_add, reduce, gemm, gemm_bf16, histogram, scan, last_block)}


@dataclass(frozen=True)
class Planted:
    """In kernel `name`, `old` becomes `new`: `kind` is found at an instruction that holds `where`."""

    name: str
    what: str
    old: str
    new: str
    kind: type[Fault]
    where: str
    thread: tuple[int, int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)


COUNT, ADD = "atom.shared.add.u32 %r10, [%r9], 1;", "red.global.add.u32 [%rd6], %r11;"
ADD_PLAIN = "ld.global.u32 %r12, [%rd6]; add.u32 %r11, %r11, %r12; st.global.u32 [%rd6], %r11;"
COUNT_PLAIN = "ld.shared.u32 %r10, [%r9]; add.u32 %r10, %r10, 1; st.shared.u32 [%r9], %r10;"
FIRST, SECOND = "bar.sync 0;\t\t\t// first barrier", "bar.sync 0;\t\t\t// second barrier"
HALF = "setp.lt.u32 %p3, %r2, 8; "
BRANCHES = "@%p3 bra X; bar.sync 0; bra.uni Y; X: bar.sync 0; Y:"
FLAG = "ld.global.u32 %r8, [%rd8]; add.u32 %r12, %r8, 1; st.global.u32 [%rd8], %r12;"

PLANTED = [
    Planted("vector_add", "n too large", "", "", OutOfBoundsFault, "ld.global.nc.v4.f32 {%f1", options={"n": 1028}),
    Planted("vector_add", "store one vector too far", "[%rd7], {", "[%rd7+16], {", OutOfBoundsFault, "st.global.v4", (63, 0, 0)),
    Planted("vector_add", "load before the array", "[%rd6]", "[%rd6+-16]", OutOfBoundsFault, "ld.global.nc", (0, 0, 0)),
    Planted("vector_add", "vector at a 4-byte offset", "[%rd5]", "[%rd5+4]", MisalignedFault, "[%rd5+4]", (0, 0, 0)),
    Planted("vector_add", "result over a read-only input", "%rd3, [c]", "%rd3, [a]", RaceFault, "st.global.v4", (0, 0, 0)),
    Planted("vector_add", "a step of zero", "add.s32 %r5, %r5, %r7;", "", HangFault, ""),
    Planted("vector_add", "no such instruction", "add.rn.f32 %f4", "average.f32 %f4", PtxError, "average.f32"),
    Planted("vector_add", "trap", "DONE:\n", "DONE:\n\ttrap;\n", TrapFault, "trap", (0, 0, 0)),
    Planted("reduce", "no barrier", "bar.sync 0;", "", RaceFault, "ld.shared.f32 %f3"),
    Planted("reduce", "lanes leave before the shuffle", "@%p1 bra WARP;", "@%p1 bra DONE;", LaneFault, "shfl.sync.down.b32 %f2, %f1, 16"),
    Planted("reduce", "blocks overwrite the result", "red.global.add.f32", "st.global.f32", RaceFault, "st.global.f32 [%rd4]", (0, 0, 0)),
    Planted("reduce", "shared array too small", "partial[128]", "partial[16]", OutOfBoundsFault, "st.shared.f32", (128, 0, 0)),
    Planted("reduce", "reads warps that do not exist", "%p4, %r2, %r10", "%p4, %r2, 32", UninitialisedFault, "ld.shared.f32", (8, 0, 0)),
    Planted("reduce", "half a warp goes on alone", "%p3, %r2, 32", "%p3, %r2, 16", LaneFault, "shfl.sync.bfly", (0, 0, 0)),
    Planted("reduce", "block that is no multiple of a warp", "", "", LaneFault, "shfl.sync.down", options={"threads": 250}),
    Planted("gemm", "first barrier missing", FIRST, "", RaceFault, "ld.shared.f32"),
    Planted("gemm", "second barrier missing", SECOND, "", RaceFault, "st.shared.f32"),
    Planted("gemm", "barrier for half the threads", FIRST, HALF + "@%p3 bar.sync 0;", RaceFault, "ld.shared.f32"),
    Planted("gemm", "barriers in two branches", FIRST, HALF + BRANCHES, BarrierFault, "bar.sync 0"),
    Planted("gemm", "barrier for 512 of 256 threads", FIRST, "bar.sync 1, 512;", HangFault, "bar.sync 1, 512"),
    Planted("gemm", "matrix larger than its memory", "", "", OutOfBoundsFault, "ld.global.f32", options={"n": 64}),
    Planted("gemm", "loop that never ends", "add.u32 %r15, %r15, 16;", "", HangFault, ""),
    Planted("gemm", "tile written at a wrong width", "[%r11], %f2", "[%r11+2], %f2", MisalignedFault, "st.shared.f32 [%r11+2]", (0, 0, 0)),
    Planted("gemm_bf16", "no wait", "cp.async.wait_group 1;", "", AsyncCopyFault, "ldmatrix"),
    Planted("gemm_bf16", "wait for too few", "cp.async.wait_group 1;", "cp.async.wait_group 2;", AsyncCopyFault, "ldmatrix"),
    Planted("gemm_bf16", "no barrier after the wait", "bar.sync 0;\t\t\t\t// data is there", "", RaceFault, "ldmatrix"),
    Planted("gemm_bf16", "no barrier after the use", "bar.sync 0;\t\t\t\t// tile is used", "", RaceFault, "cp.async"),
    Planted("gemm_bf16", "copy from an odd place", "[%r19], [%rd5], 16", "[%r19], [%rd5+8], 16", MisalignedFault, "cp.async.cg", (0, 0, 0)),
    Planted("gemm_bf16", "ldmatrix of half rows", "[%r41]", "[%r41+8]", MisalignedFault, "ldmatrix"),
    Planted("gemm_bf16", "mma for half a warp", "mma.sync.al", "setp.lt.u32 %p5, %r3, 16; @%p5 mma.sync.al", LaneFault, "mma.sync"),
    Planted("histogram", "shared counters without atomics", COUNT, COUNT_PLAIN, RaceFault, "st.shared.u32 [%r9]"),
    Planted("histogram", "global counters without atomics", ADD, ADD_PLAIN, RaceFault, "st.global.u32 [%rd6]"),
    Planted("histogram", "counters not set to zero", "@%p1 st.shared.u32 [%r4], 0;", "", UninitialisedFault, "atom.shared"),
    Planted("histogram", "no barrier after zeroing", "bar.sync 0;\t\t\t// counters are zero", "", RaceFault, "atom.shared"),
    Planted("histogram", "no barrier after counting", "bar.sync 0;\t\t\t// all have counted", "", RaceFault, "ld.shared.u32 %r11"),
    Planted("histogram", "too little dynamic shared memory", "", "", OutOfBoundsFault, "st.shared.u32", (32, 0, 0), {"shared": 128}),
    Planted("scan", "member mask without itself", "0xffffffff", "0x0000ffff", LaneFault, "shfl.sync.up", (16, 0, 0)),
    Planted("scan", "shuffle for one thread", "setp.ne.u32 %p2, %r4, 0;", "setp.ne.u32 %p2, %r1, 0;", HangFault, "shfl.sync.up", (0, 0, 0)),
    Planted("scan", "no second barrier", "bar.sync 0;\t\t\t// totals are scanned", "", RaceFault, "[%r8], %r11"),
    Planted("scan", "all threads store to one place", "add.s64 %rd5, %rd2, %rd3;", "mov.b64 %rd5, %rd2;", RaceFault, "st.global.b32"),
    Planted("last_block", "no fence", "membar.gl;", "", RaceFault, "ld.global.s32 %r11"),
    Planted("last_block", "fence for the block only", "membar.gl;", "membar.cta;", RaceFault, "ld.global.s32 %r11"),
    Planted("last_block", "ticket without atomics", "atom.global.inc.u32 %r8, [%rd8], %r7;", FLAG, RaceFault, "%r12"),
    Planted("last_block", "result by every block", "@%p2 bra DONE;", "", RaceFault, ""),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: f"{planted.name}: {planted.what}")
def test_planted_fault_is_found(planted: Planted) -> None:
    ptx = (KERNELS / f"{planted.name}.ptx").read_text()
    assert planted.old in ptx
    changed = ptx.replace(planted.old, planted.new, 1) if planted.old else ptx
    with pytest.raises(Fault) as found:
        RUN[planted.name](Simulator(budget=20_000), changed, **planted.options)
    fault = found.value
    assert type(fault) is planted.kind, str(fault)
    place = fault.place
    assert place is not None and place.kernel == planted.name and planted.where in place.instruction, str(fault)
    assert place.instruction.split()[0] in changed.splitlines()[place.line - 1]
    assert f"kernel {planted.name}, line {place.line}" in str(fault)
    if planted.kind is not PtxError:
        assert place.block is not None and place.thread is not None
    assert planted.thread in (None, place.thread), str(fault)


@pytest.mark.parametrize(
    ("name", "grid", "block", "shared", "words"),
    [
        ("vector_add", 1, 512, 0, "its .maxntid allows 256"),
        ("gemm", 1, (64, 32), 0, "blocks (64, 32, 1)"),
        ("gemm", (1, 70000), 32, 0, "grid (1, 70000, 1)"),
        ("histogram", 1, 64, 300_000, "bytes of shared memory"),
    ],
)
def test_impossible_launch_is_refused(name: str, grid: Any, block: Any, shared: int, words: str) -> None:
    with pytest.raises(LaunchFault) as found:
        Simulator().launch((KERNELS / f"{name}.ptx").read_text(), name, grid, block, [0] * (3 if name == "histogram" else 4), shared)
    assert words in str(found.value)


def test_freed_memory_is_out_of_bounds() -> None:
    sim = Simulator()
    a, b, c = sim.upload(ONES), sim.upload(ONES), sim.empty(ONES.nbytes)
    sim.memory.free(b)
    with pytest.raises(OutOfBoundsFault, match="line 34"):
        sim.launch((KERNELS / "vector_add.ptx").read_text(), "vector_add", 1, 32, [a, b, c, 4096])


def test_memory_that_nothing_wrote_is_not_read() -> None:
    sim = Simulator()
    a, b, c = sim.upload(ONES), sim.empty(ONES.nbytes), sim.empty(ONES.nbytes)
    with pytest.raises(UninitialisedFault, match="line 34"):
        sim.launch((KERNELS / "vector_add.ptx").read_text(), "vector_add", 1, 32, [a, b, c, 4096])


def test_a_fault_names_thread_address_and_other_thread() -> None:
    ptx = (KERNELS / "reduce.ptx").read_text().replace("bar.sync 0;", "")
    with pytest.raises(RaceFault) as found:
        reduce(Simulator(), ptx)
    assert str(found.value) == (
        "data race: thread reads what was written without a barrier between by block (0, 0, 0), thread (32, 0, 0): "
        "4 bytes at shared address 4 [kernel reduce, line 54: `@%p4 ld.shared.f32 %f3, [%r11]`, block (0, 0, 0), thread (1, 0, 0)]"
    )
