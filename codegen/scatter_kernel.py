"""Writes at data-dependent rows as LLVM IR.

Rows are written in index order, so results have the same bits always. Threads share the columns, never the rows: no two of
them touch the same element, and each walks the whole index.
"""
from __future__ import annotations

from treadle.codegen.expressions import INDEX_OUT_OF_RANGE, Site, elementwise, from_memory, memory_type, report, to_memory
from treadle.codegen.llvm_text import Function, Val, const, scalar_bits, vector_type
from treadle.codegen.vector_memory import first_lanes, load_vector, store_vector
from treadle.ir.routine import Routine

ZERO = const("i64", 0)
LANES, COUNTS = 8, vector_type("i64", 8)
_FUNCTIONS = {"add": "add", "prod": "mul", "amax": "maximum", "amin": "minimum"}


def emit_scatter(f: Function, routine: Routine, args: dict[str, Val], low: Val, high: Val, scratch: Val) -> None:
    """Columns [low * chunk, high * chunk) of every indexed row."""
    rows, element = args["rows"], memory_type(routine.dtype)
    first = f.mul(low, args["chunk"])
    last = f.smin(f.mul(high, args["chunk"]), args["inner"])
    single = f.compare("eq", args["inner"], const("i64", 1))
    with f.loop(ZERO, args["count"]) as loop:
        given = f.load(f.gep(args["place"], loop.index, "i64"), "i64")
        row = f.select(f.compare("slt", given, ZERO), f.add(given, rows), given)
        good = f.compare("ult", row, rows)
        write, bad, one, many, following = (f.label(x) for x in ("write", "bad", "one", "many", "following"))
        f.branch_if(good, write, bad)
        f.start(bad)
        report(Site(f, None, args["error"]), const("i1", 1), INDEX_OUT_OF_RANGE, given, rows)
        f.branch(following)
        f.start(write)
        out = f.gep(args["out"], f.mul(row, args["inner"]), element)
        src = args["src"] if routine.splat else f.gep(args["src"], f.mul(loop.index, args["inner"]), element)
        f.branch_if(single, one, many)
        f.start(one)
        _one(f, routine, out, src, args["error"])
        f.branch(following)
        f.start(many)
        _row(f, routine, out, src, first, last, args["error"])
        f.branch(following)
        f.start(following)
        loop.next([])


def _one(f: Function, routine: Routine, out: Val, src: Val, error: Val) -> None:
    element = memory_type(routine.dtype)
    x = f.load(src, element)
    if routine.kind != "set":
        x = _combined(f, routine, f.load(out, element), x, None, error)
    f.store(x, out)


def _row(f: Function, routine: Routine, out: Val, src: Val, first: Val, last: Val, error: Val) -> None:
    element = memory_type(routine.dtype)
    lanes = max(4, 512 // scalar_bits(element))
    middle = f.add(first, f.binary("and", f.sub(last, first), const("i64", -lanes)))
    for begin, end, masked in ((first, middle, False), (middle, last, True)):
        with f.loop(begin, end, lanes) as loop:
            mask = first_lanes(f, f.sub(end, loop.index), lanes) if masked else None
            target = f.gep(out, loop.index, element)
            ty = vector_type(element, lanes)
            x = f.splat(f.load(src, element), lanes) if routine.splat else load_vector(f, f.gep(src, loop.index, element), ty, mask)
            if routine.kind != "set":
                x = _combined(f, routine, load_vector(f, target, ty, mask), x, mask, error)
            store_vector(f, x, target, mask)
            loop.next([])


def _combined(f: Function, routine: Routine, old: Val, new: Val, mask: Val | None, error: Val) -> Val:
    """Both as in memory, and so the result."""
    dtype = routine.dtype
    operands = [from_memory(f, old, dtype), from_memory(f, new, dtype)]
    return to_memory(f, elementwise(Site(f, mask, error), _FUNCTIONS[routine.kind], (dtype, dtype), operands), dtype)


# -- counting ----------------------------------------------------------------------------------------------------------------
def emit_bincount(f: Function, routine: Routine, args: dict[str, Val], low: Val, high: Val, scratch: Val) -> None:
    """Blocks have counts of their own, which are added up: threads share no element."""
    count, add, end = f.label("count"), f.label("add"), f.label("end")
    f.branch_if(f.compare("eq", args["phase"], ZERO), count, add)
    f.start(count)
    with f.loop(low, high) as blocks:
        _count_block(f, args, blocks.index)
        blocks.next([])
    f.branch(end)
    f.start(add)
    first = f.mul(low, args["chunk"])
    with f.loop(first, f.smin(f.mul(high, args["chunk"]), args["size"]), LANES) as loop:
        mask = first_lanes(f, f.sub(args["size"], loop.index), LANES)
        with f.loop(ZERO, args["blocks"], 1, [const(COUNTS, 0)]) as sums:
            place = f.gep(args["totals"], f.add(f.mul(sums.index, args["size"]), loop.index), "i64")
            sums.next([f.add(sums.values[0], load_vector(f, place, COUNTS, mask))])
        store_vector(f, sums.values[0], f.gep(args["out"], loop.index, "i64"), mask)
        loop.next([])
    f.branch(end)
    f.start(end)


def _count_block(f: Function, args: dict[str, Val], block: Val) -> None:
    size, first = args["size"], f.mul(block, args["block"])
    counts = f.gep(args["totals"], f.mul(block, size), "i64")
    with f.loop(ZERO, size, LANES) as loop:
        store_vector(f, const(COUNTS, 0), f.gep(counts, loop.index, "i64"), first_lanes(f, f.sub(size, loop.index), LANES))
        loop.next([])
    with f.loop(first, f.smin(f.add(first, args["block"]), args["n"])) as loop:
        given = f.load(f.gep(args["x"], loop.index, "i64"), "i64")
        at = f.select(f.compare("slt", given, ZERO), f.add(given, size), given)
        good, bad, following = f.label("good"), f.label("bad"), f.label("following")
        f.branch_if(f.compare("ult", at, size), good, bad)
        f.start(bad)
        report(Site(f, None, args["error"]), const("i1", 1), INDEX_OUT_OF_RANGE, given, size)
        f.branch(following)
        f.start(good)
        cell = f.gep(counts, at, "i64")
        f.store(f.add(f.load(cell, "i64"), 1), cell)
        f.branch(following)
        f.start(following)
        loop.next([])
