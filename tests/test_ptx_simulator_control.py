"""Divergence and reconvergence: random nested branches and loops against a plain interpreter, one thread at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ptx_simulator import Simulator

THREADS, BLOCKS = 48, 3


@dataclass
class Assign:
    """x = x * factor + term"""

    factor: int
    term: int


@dataclass
class If:
    """if x % modulus < limit: yes, else: no"""

    modulus: int
    limit: int
    yes: list[Any]
    no: list[Any]


@dataclass
class Loop:
    """x % modulus times (asked once): body; leaves early when x % 11 == 0"""

    modulus: int
    body: list[Any]


@dataclass
class Leave:
    """if x % modulus == 0: the thread ends, with x + 1"""

    modulus: int


@dataclass
class Barrier:
    """bar.sync of the threads that are left"""


def random_program(rng: np.random.Generator, depth: int, length: int) -> list[Any]:
    program: list[Any] = []
    for _ in range(length):
        choice = rng.integers(0, 10)
        if depth and choice < 3:
            parts = [random_program(rng, depth - 1, int(rng.integers(0, 3))) for _ in range(2)]
            modulus = int(rng.integers(2, 9))
            program.append(If(modulus, int(rng.integers(0, modulus)), *parts))
        elif depth and choice < 5:
            program.append(Loop(int(rng.integers(2, 6)), random_program(rng, depth - 1, int(rng.integers(1, 3)))))
        elif choice == 5:
            program.append(Leave(int(rng.integers(7, 30))))
        else:
            program.append(Assign(int(rng.integers(1, 1 << 31)) | 1, int(rng.integers(0, 1 << 31))))
    return program


class Left(Exception):
    pass


def interpret(program: list[Any], x: int) -> int:
    for step in program:
        if isinstance(step, Assign):
            x = (x * step.factor + step.term) % 2**32
        elif isinstance(step, If):
            x = interpret(step.yes if x % step.modulus < step.limit else step.no, x)
        elif isinstance(step, Loop):
            for _ in range(x % step.modulus):
                x = interpret(step.body, x)
                if x % 11 == 0:
                    break
        elif isinstance(step, Leave) and x % step.modulus == 0:
            raise Left(x + 1)
    return x


class Writer:
    """Programs as PTX text."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def fresh(self) -> int:
        self.count += 1
        return self.count

    def write(self, program: list[Any]) -> None:
        methods: dict[type, Any] = {
            Assign: self.assign, If: self.branch, Loop: self.repeat, Leave: self.leave, Barrier: self.barrier,
        }  # fmt: skip
        for step in program:
            methods[type(step)](step)

    def assign(self, step: Assign) -> None:
        self.lines.append(f"mad.lo.u32 %x, %x, {step.factor}, {step.term};")

    def barrier(self, step: Barrier) -> None:
        self.lines.append("bar.sync 0;")

    def leave(self, step: Leave) -> None:
        self.lines.append(f"rem.u32 %t, %x, {step.modulus}; setp.eq.u32 %p, %t, 0; @%p add.u32 %x, %x, 1; @%p bra END;")

    def branch(self, step: If) -> None:
        number = self.fresh()
        self.lines.append(f"rem.u32 %t, %x, {step.modulus}; setp.lt.u32 %p, %t, {step.limit}; @!%p bra NO{number};")
        self.write(step.yes)
        self.lines.append(f"bra FI{number}; NO{number}:")
        self.write(step.no)
        self.lines.append(f"FI{number}:")

    def repeat(self, step: Loop) -> None:
        number = self.fresh()
        self.lines.append(f"rem.u32 %n{number}, %x, {step.modulus};")
        self.lines.append(f"AGAIN{number}: setp.eq.u32 %p, %n{number}, 0; @%p bra OUT{number}; sub.u32 %n{number}, %n{number}, 1;")
        self.write(step.body)
        self.lines.append(f"rem.u32 %t, %x, 11; setp.ne.u32 %p, %t, 0; @%p bra AGAIN{number}; OUT{number}:")

    def text(self) -> str:
        return "\n".join(
            [
                ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data) {",
                f".reg .pred %p; .reg .b32 %x, %t, %r<4>, %n<{self.count + 1}>; .reg .b64 %q<3>;",
                "mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mad.lo.u32 %r0, %r1, %r2, %r0;",
                "ld.param.u64 %q0, [data]; mul.wide.u32 %q1, %r0, 4; add.s64 %q0, %q0, %q1; ld.global.u32 %x, [%q0];",
                *self.lines,
                "END: st.global.u32 [%q0], %x; ret; }",
            ]
        )


@pytest.mark.parametrize("seed", range(30))
def test_random_control_flow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    program: list[Any] = []
    for _ in range(3):
        program += [*random_program(rng, 3, 4), Barrier()]
    writer = Writer()
    writer.write(program)
    data = rng.integers(0, 1 << 32, THREADS * BLOCKS, dtype=np.uint32)
    expected = []
    for value in data.tolist():
        try:
            expected.append(interpret(program, value))
        except Left as left:
            expected.append(left.args[0] % 2**32)
    Simulator().launch(writer.text(), "k", BLOCKS, THREADS, [data])
    assert data.tolist() == expected
