"""Counters over a grid of units: decoded once by division, then advanced like an odometer."""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Val, const


def pieces(f: Function, size: Val, piece: int) -> Val:
    """How many pieces of `piece` elements cover `size`."""
    return f.binary("udiv", f.add(size, piece - 1), const("i64", piece))


def decode(f: Function, unit: Val, counts: list[Val]) -> list[Val]:
    """The counters of a unit, the last one running fastest. No count may be 0."""
    counters: list[Val] = []
    for count in reversed(counts[1:]):
        counters.insert(0, f.binary("urem", unit, count))
        unit = f.binary("udiv", unit, count)
    return [unit, *counters] if counts else []


def advance(f: Function, counters: list[Val], counts: list[Val]) -> list[Val]:
    """The next unit's counters: cheaper than dividing each time."""
    after: list[Val] = []
    carry: Val | None = None
    for counter, count in zip(reversed(counters), reversed(counts), strict=True):
        bumped = f.add(counter, 1 if carry is None else f.cast("zext", carry, "i64"))
        carry = f.compare("eq", bumped, count)
        last = len(after) == len(counts) - 1
        after.insert(0, bumped if last else f.select(carry, const("i64", 0), bumped))
    return after
