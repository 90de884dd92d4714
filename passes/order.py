"""The order of a program's steps: one that keeps less memory alive, where the order of the graph keeps more than it needs."""
from __future__ import annotations

from treadle.ir.size import at_least, roughly
from treadle.passes.group import spans
from treadle.passes.memory import donations, find_lifetimes, may_fail_step
from treadle.passes.program import Program, step_refs

WORTH = 1 << 20       # bytes of temporaries below which the order does not matter
LEAST = 16 << 10      # bytes of a temporary that counts
SMALL = 64 << 10      # bytes of a result that need not take over an input's memory
MAX_STEPS = 4000      # beyond, the order stays


def order_steps(program: Program) -> Program:
    """Move steps that free memory ahead and steps that take memory back, as far as data allows, if that lowers the peak.

    A weight's gradient is so made, and used up by the optimizer's update, as soon as its operands are there, not at the end.
    """
    taken = {i: b.nbytes for i, b in enumerate(program.buffers) if b.kind == "temp"}
    if not 3 <= len(program.steps) <= MAX_STEPS or not at_least(sum(taken.values()), WORTH):
        return program
    temps = {i: n for i, n in [(i, roughly(nbytes)) for i, nbytes in taken.items()] if n >= LEAST}
    table = _Steps(program, temps)
    before = peak = table.peak()
    best = table.order
    for _ in range(2):
        table.delay()
        table.hoist()
        now = table.peak()
        if now < peak:
            best, peak = list(table.order), now
    if peak < before:
        program.steps = [program.steps[i] for i in best]
    return program


class _Steps:
    """Steps by number, what each has to come after, and the order they are in."""

    def __init__(self, program: Program, temps: dict[int, int]) -> None:
        self.temps = temps
        self.order = list(range(len(program.steps)))
        self.after: list[set[int]] = [set() for _ in program.steps]    # steps that come before
        self.before: list[set[int]] = [set() for _ in program.steps]   # steps that come after
        self.touched: list[list[int]] = []                              # temporaries of a step
        self.users: dict[int, list[int]] = {b: [] for b in temps}       # steps that touch a temporary
        self._depend(program)
        self._keep_donations(program)

    def _depend(self, program: Program) -> None:
        writer: dict[int, int] = {}
        readers: dict[int, list[int]] = {}
        outputs = {i for i, b in enumerate(program.buffers) if b.kind == "output"}
        failing = -1
        for i, step in enumerate(program.steps):
            touched = list(spans(step, program.buffers))
            writes = {s.buffer for s in touched if s.writes}
            buffers = {s.buffer for s in touched}
            for b in buffers:
                if b in writer:
                    self._edge(writer[b], i)
            for b in writes:
                for other in readers.pop(b, ()):
                    self._edge(other, i)
                writer[b] = i
            for b in buffers - writes:
                readers.setdefault(b, []).append(i)
            # What may write over an input stays behind what may find the data at fault: see `memory.donations`.
            if failing >= 0 and writes & outputs:
                self._edge(failing, i)
            if may_fail_step(step):
                if failing >= 0:
                    self._edge(failing, i)
                failing = i
            self.touched.append([b for b in buffers if b in self.temps])
            for b in self.touched[i]:
                self.users[b].append(i)

    def _keep_donations(self, program: Program) -> None:
        """An output that can take over an input's memory stays behind whatever else reads that input."""
        find_lifetimes(program)
        pairs = donations(program, [b for b in program.inputs if b >= 0])
        steps: dict[int, list[int]] = {}
        for i, step in enumerate(program.steps):
            for b in {r.buffer for r in step_refs(step)}:
                steps.setdefault(b, []).append(i)
        for out, source in pairs.items():
            if not at_least(program.buffers[out].nbytes, SMALL + 1):
                continue
            for i in steps.get(source, ()):
                for j in steps.get(out, ()):
                    if i < j:
                        self._edge(i, j)

    def _edge(self, first: int, second: int) -> None:
        if first != second:
            self.after[second].add(first)
            self.before[first].add(second)

    def _places(self) -> list[int]:
        places = [0] * len(self.order)
        for at, i in enumerate(self.order):
            places[i] = at
        return places

    def peak(self) -> int:
        """The most bytes of temporaries alive at one step."""
        places = self._places()
        change = [0] * (len(self.order) + 1)
        for b, users in self.users.items():
            if users:
                at = [places[i] for i in users]
                change[min(at)] += self.temps[b]
                change[max(at) + 1] -= self.temps[b]
        best = now = 0
        for delta in change:
            now += delta
            best = max(best, now)
        return best

    def _ends(self, i: int, places: list[int]) -> tuple[list[int], list[int]]:
        """The temporaries that no step before `i` touches, and those that none after it does."""
        mine = places[i]
        born = [b for b in self.touched[i] if all(places[u] >= mine for u in self.users[b])]
        dying = [b for b in self.touched[i] if all(places[u] <= mine for u in self.users[b])]
        return born, dying

    def _gain(self, i: int, places: list[int]) -> tuple[int, list[int]]:
        """The bytes that the step frees less those it takes, and what it frees."""
        born, dying = self._ends(i, places)
        return sum(self.temps[b] for b in dying) - sum(self.temps[b] for b in born), dying

    def _move(self, places: list[int], at: int, to: int) -> None:
        self.order.insert(to, self.order.pop(at))
        for k in range(min(at, to), max(at, to) + 1):
            places[self.order[k]] = k

    def hoist(self) -> None:
        """Each step that frees more than it takes goes to just behind the last step it has to wait for."""
        places = self._places()
        for i in list(self.order):
            gain, dying = self._gain(i, places)
            if gain <= 0:
                continue
            wait = {*self.after[i], *[u for b in dying for u in self.users[b] if u != i]}
            to = 1 + max((places[u] for u in wait), default=-1)
            if to < places[i]:
                self._move(places, places[i], to)

    def delay(self) -> None:
        """Each step that takes more than it frees goes to just before the first step that waits for it."""
        places = self._places()
        for i in reversed(list(self.order)):
            gain, dying = self._gain(i, places)
            if gain >= 0 or not self.before[i]:
                continue
            to = min(places[u] for u in self.before[i]) - 1
            longer = sum(self.temps[b] for b in self.touched[i] if b not in dying and max(places[u] for u in self.users[b]) < to)
            if to > places[i] and gain + longer < 0:
                self._move(places, places[i], to)
