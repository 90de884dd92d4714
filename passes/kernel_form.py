"""The canonical form of a kernel: one tuple, and so one piece of machine code, however the program was written.

Instructions get colours that say what they are and where they stand, never how they are numbered: first their own label with their
distance from leaves and from stores, then, again and again, those of their operands and users, until no more are told apart. Operands
whose order does not matter, loads, scalars and stores are then put in the order of their colours, and instructions in the order in which
the stores want them. All of it depends on the kernel alone. Where colours are equal the order stays as it was: two kernels that are the
same may then stay apart, which costs a compilation and nothing else.
"""
from __future__ import annotations

import functools
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from treadle.ir.kernel import Instr, Kernel
from treadle.ir.op import TABLE

LOADS = ("load", "load_if", "load_at")


class Form(NamedTuple):
    """A kernel with the old numbers of its accesses, scalars and slots in their new order."""

    kernel: Kernel
    accesses: tuple[int, ...]
    scalars: tuple[int, ...]
    slots: tuple[int, ...]

    def old(self, argument: tuple) -> tuple:
        """What an argument (see `treadle.ir.kernel.argument_layout`) of the kernel was called before."""
        what, *which = argument
        if what in ("pointer", "stride"):
            return (what, self.accesses[which[0]], *which[1:])
        return (what, (self.slots if what == "slot" else self.scalars)[which[0]]) if what in ("slot", "scalar") else argument


@functools.lru_cache(maxsize=4096)
def canonical(kernel: Kernel) -> Form:
    """The kernel in canonical form. It computes the same, to the bit but for which of two NaNs a sum or a product hands on."""
    return _Writer(kernel, _colours(kernel)).form()


@functools.cache
def commutative() -> frozenset[str]:
    """Opcodes whose operands may change places."""
    return frozenset([op.scalar for op in TABLE.values() if op.commutative and isinstance(op.scalar, str)])


# -- colours -----------------------------------------------------------------------------------------------------------
def _colours(kernel: Kernel) -> list[int]:
    body, free = kernel.body, commutative()
    users: list[list[tuple[int, int]]] = [[] for _ in body]
    for i, instr in enumerate(body):
        for at, o in enumerate(instr.operands):
            users[o].append((i, -1 if instr.opcode in free else at))
    stored: list[list[tuple[int, int]]] = [[] for _ in body]
    classes = _ranks([repr(a) for a in kernel.accesses])
    for access, value in kernel.stores:
        stored[value].append((-1, classes[access]))
    colours = _ranks(list(zip(_labels(kernel), _depths(kernel), _heights(users), stored, strict=True)))
    while True:
        keys = []
        for i, instr in enumerate(body):
            operands = [colours[o] for o in instr.operands]
            operands = sorted(operands) if instr.opcode in free else operands
            keys.append((colours[i], operands, sorted((colours[u], at) for u, at in users[i])))
        finer = _ranks(keys)
        if max(finer, default=0) == max(colours, default=0):
            return finer
        colours = finer


def _ranks(keys: list[Any]) -> list[int]:
    """The place of each key among the distinct ones, sorted."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ranks, rank = [0] * len(keys), 0
    for before, i in pairwise(order):
        rank += keys[i] != keys[before]
        ranks[i] = rank
    return ranks


def _labels(kernel: Kernel) -> list[str]:
    """What an instruction does, without the numbers of accesses, scalars and slots."""
    labels = []
    for instr in kernel.body:
        params: Any = instr.params
        if instr.opcode in LOADS:
            params = kernel.accesses[instr.params[0]]
        elif instr.opcode in ("scalar", "slot"):
            params = ()
        labels.append(f"{instr.opcode} {instr.dtype} {params!r}")
    return labels


def _depths(kernel: Kernel) -> list[int]:
    depths: list[int] = []
    for instr in kernel.body:
        depths.append(1 + max([depths[o] for o in instr.operands], default=0))
    return depths


def _heights(users: list[list[tuple[int, int]]]) -> list[int]:
    heights = [0] * len(users)
    for i in range(len(users) - 1, -1, -1):
        heights[i] = 1 + max([heights[u] for u, _ in users[i]], default=0)
    return heights


# -- the new kernel ----------------------------------------------------------------------------------------------------
class _Writer:
    """Numbers everything anew, in the order in which it is met from the stores."""

    def __init__(self, kernel: Kernel, colours: list[int]) -> None:
        self.kernel, self.colours = kernel, colours
        self.body: list[Instr] = []
        self.known: dict[Instr, int] = {}
        self.number: dict[int, int] = {}
        self.accesses: dict[int, int] = {}
        self.scalars: dict[int, int] = {}
        self.slots: dict[int, int] = {}

    def form(self) -> Form:
        old = self.kernel
        stores = sorted(old.stores, key=lambda s: (repr(old.accesses[s[0]]), self.colours[s[1]]))
        for _, value in stores:
            self.visit(value)
        written = [(self.accesses.setdefault(access, len(self.accesses)), self.number[value]) for access, value in stores]
        kernel = Kernel(old.axes, tuple([old.accesses[a] for a in self.accesses]), tuple([old.scalars[s] for s in self.scalars]),
                        len(self.slots), tuple(self.body), tuple(written))
        return Form(kernel, tuple(self.accesses), tuple(self.scalars), tuple(self.slots))

    def visit(self, root: int) -> None:
        """Write what `root` needs and then itself."""
        stack = [root]
        while stack:
            i = stack[-1]
            missing = [o for o in self.operands(i) if o not in self.number]
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            if i not in self.number:
                self.write(i)

    def operands(self, i: int) -> Iterable[int]:
        instr = self.kernel.body[i]
        return sorted(instr.operands, key=self.colours.__getitem__) if instr.opcode in commutative() else instr.operands

    def write(self, i: int) -> None:
        old = self.kernel.body[i]
        params = old.params
        if old.opcode in LOADS:
            slots = [self.slots.setdefault(s, len(self.slots)) for s in params[1:]]
            params = (self.accesses.setdefault(params[0], len(self.accesses)), *slots)
        elif old.opcode == "scalar":
            params = (self.scalars.setdefault(params[0], len(self.scalars)),)
        elif old.opcode == "slot":
            params = (self.slots.setdefault(params[0], len(self.slots)),)
        operands = tuple([self.number[o] for o in self.operands(i)])
        if old.opcode in commutative():
            operands = tuple(sorted(operands))
        instr = Instr(old.opcode, old.dtype, operands, params)
        if instr not in self.known:
            self.known[instr] = len(self.body)
            self.body.append(instr)
        self.number[i] = self.known[instr]
