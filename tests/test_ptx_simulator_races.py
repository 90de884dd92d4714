"""The race check against brute force: random programs of accesses and barriers, every pair of accesses compared."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from ptx_simulator import RaceFault, Simulator

NOBODY = 0xFFFFFFFF
THREADS, CELLS = 64, 12


class Step(NamedTuple):
    """`kind` read, write, atomic (each thread at its own cell or not at all), barrier or warp (a barrier in each warp)."""

    kind: str
    cells: np.ndarray


def random_steps(rng: np.random.Generator, count: int, threads: int, crowd: float) -> list[Step]:
    steps = []
    for kind in rng.choice(["read", "write", "atomic", "barrier", "warp"], count, p=[0.3, 0.25, 0.1, 0.25, 0.1]):
        cells = rng.integers(0, CELLS, threads).astype(np.uint32)
        if kind == "write":  # at most one writer per cell: most programs would end at once otherwise
            keep = np.zeros(threads, bool)
            keep[np.unique(cells, return_index=True)[1]] = rng.random() > 0.05
            cells[~keep] = NOBODY
        cells[rng.random(threads) > crowd] = NOBODY
        steps.append(Step(str(kind), cells))
    return steps


def program(steps: list[Step], shared: bool) -> str:
    """One line per step, so that the line of a fault tells the step."""
    space = "shared" if shared else "global"
    zero = "st.shared.u32 [%r5], 0; add.u32 %r5, %r5, 256; st.shared.u32 [%r5], 0; bar.sync 0;" if shared else ""
    base = "mov.u32 %r6, s; cvt.u64.u32 %q2, %r6;" if shared else "ld.param.u64 %q2, [cells];"
    lines = [
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 table, .param .u64 cells) {",
        ".reg .b64 %q<9>; .reg .b32 %r<9>; .reg .pred %p<3>; .shared .align 4 .b8 s[512];",
        "ld.param.u64 %q0, [table]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r1, %r2, %r3, %r1;",
        f"mul.wide.u32 %q1, %r1, 4; add.s64 %q0, %q0, %q1; mov.u32 %r7, %tid.x; shl.b32 %r5, %r7, 2; mov.u32 %r6, s; "
        f"add.u32 %r5, %r5, %r6; {zero}",
        base,
    ]
    for number, step in enumerate(steps):
        access = {
            "read": f"@%p0 ld.{space}.u32 %r4, [%ADDRESS];",
            "write": f"@%p0 st.{space}.u32 [%ADDRESS], %r8;",
            "atomic": f"@%p0 red.{space}.add.u32 [%ADDRESS], 1;",
            "barrier": "bar.sync 0;",
            "warp": "bar.warp.sync 0xffffffff;",
        }[step.kind].replace("%ADDRESS", "%r6" if shared else "%q3")
        size = 4 * len(step.cells)
        lines.append(
            f"ld.global.u32 %r4, [%q0+{number * size}]; setp.ne.u32 %p0, %r4, {NOBODY}; mul.wide.u32 %q3, %r4, 4; add.s64 %q3, %q3, %q2; "
            f"cvt.u32.u64 %r6, %q3; mad.lo.u32 %r8, %r1, 1000, {number + 1}; {access}"
        )
    return "\n".join([*lines, "ret; }"])


def first_conflict(steps: list[Step], block: int, shared: bool, at_once: int) -> int | None:
    """The first step with an access that another thread's earlier access, or one of the same step, is not ordered before.

    `at_once` blocks run together, then the next ones: this is the order in which the simulator sees the accesses.
    """
    history: list[tuple[int, int, str, int, int]] = []
    for start in range(0, len(steps[0].cells), at_once * block):
        barriers, warps = 0, 0
        for number, step in enumerate(steps):
            barriers += step.kind == "barrier"
            warps += step.kind in ("barrier", "warp")
            if step.kind in ("barrier", "warp"):
                continue
            threads = range(start, min(start + at_once * block, len(step.cells)))
            now = [(thread, int(step.cells[thread]), step.kind, barriers, warps) for thread in threads if step.cells[thread] != NOBODY]
            for mine, other in product(now, history + now):
                if _conflict(mine, other, block, shared):
                    return number
            history += now
    return None


def _conflict(a: tuple[int, int, str, int, int], b: tuple[int, int, str, int, int], block: int, shared: bool) -> bool:
    same_block = a[0] // block == b[0] // block
    if a[1] != b[1] or a[0] == b[0] or (shared and not same_block):
        return False
    kinds = {a[2], b[2]}
    if kinds == {"read"} or kinds == {"atomic"}:
        return False
    ordered = same_block and (a[3] != b[3] or (a[0] // 32 == b[0] // 32 and a[4] != b[4]))
    return not ordered


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("shared", "blocks"), [(True, 1), (True, 3), (False, 1), (False, 2)])
def test_races_are_found_exactly(seed: int, shared: bool, blocks: int) -> None:
    rng = np.random.default_rng([seed, shared, blocks])
    found = 0
    for _ in range(12):
        steps = random_steps(rng, 12, THREADS * blocks, crowd=0.04 + 0.4 * rng.random() ** 3)
        at_once = 1 + seed % 3
        text, expected = program(steps, shared), first_conflict(steps, THREADS, shared, at_once)
        head = text.split("\n").index("ld.param.u64 %q2, [cells];" if not shared else "mov.u32 %r6, s; cvt.u64.u32 %q2, %r6;") + 2
        table = np.stack([step.cells for step in steps])
        try:
            Simulator(threads=THREADS * at_once).launch(text, "k", blocks, THREADS, [table, np.zeros(CELLS, np.uint32)])
            line = None
        except RaceFault as fault:
            assert fault.place is not None
            line = fault.place.line - head
        assert line == expected, (line, expected, [step.kind for step in steps])
        found += expected is not None
    assert found
