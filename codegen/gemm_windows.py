"""Packing of B straight from an image whose windows are its columns (implicit im2col): the windows are never stored.

Element (k, j) of B lies at rows(k) + columns(j), each a sum over up to three digits of its index times a stride. Neighbouring columns
are neighbours in memory as far as a line of the image reaches; a vector of columns is put together from the pieces of lines it covers.
"""
from __future__ import annotations

from treadle.codegen.gemm_micro import ZERO, Tile, lane_mask
from treadle.codegen.gemm_plan import Word
from treadle.codegen.llvm_text import Function, Module, Val, const, intrinsic_suffix
from treadle.passes.program import SHORTEST_LINE

ARGS = Val("ptr", "%args")
# Columns and steps to pack, the first step, the first column, the image, where to, and room for an offset of each step.
PARAMETERS = [ARGS, Val("i64", "%count"), Val("i64", "%steps"), Val("i64", "%first"), Val("i64", "%column"), Val("ptr", "%source"),
              Val("ptr", "%to"), Val("ptr", "%table")]
Piece = tuple[Val, Val]  # where a vector would begin in memory, and the lanes that are there


def emit_windows(module: Module, tile: Tile) -> None:
    """`pack_windows_<type>(args, count, steps, first, column, source, to, table)`: panels as `pack_b` makes them."""
    f = Function(module, f"pack_windows_{tile.suffix}", PARAMETERS, linkage="internal", attributes="nounwind noinline")
    _, count, steps, _, column, _, to, _ = PARAMETERS
    _fill_table(f)
    with f.loop(ZERO, count, tile.lanes) as strip:
        panel = f.binary("udiv", strip.index, const("i64", tile.columns))
        inside = f.sub(strip.index, f.mul(panel, tile.columns))
        target = f.gep(to, f.add(f.mul(panel, f.mul(steps, tile.columns)), inside), tile.scalar)
        lanes = f.smin(f.sub(count, strip.index), const("i64", tile.lanes))
        _copy(f, tile, _pieces(f, tile, f.add(column, strip.index), lanes), lanes, target)
    f.line("ret void")
    f.finish()


def _word(f: Function, word: Word) -> Val:
    return f.load(f.gep(ARGS, int(word), "i64"), "i64")


def _fill_table(f: Function) -> None:
    """rows(k) for the steps, counting up digit by digit."""
    _, _, steps, first, _, _, _, table = PARAMETERS
    middle, inner = _word(f, Word.ROWS_MIDDLE), _word(f, Word.ROWS_INNER)
    strides = [_word(f, w) for w in (Word.ROWS_STRIDE_0, Word.ROWS_STRIDE_1, Word.ROWS_STRIDE_2)]
    rest = f.binary("udiv", first, inner)
    low = f.sub(first, f.mul(rest, inner))
    high = f.binary("udiv", rest, middle)
    mid = f.sub(rest, f.mul(high, middle))
    start = f.add(f.add(f.mul(high, strides[0]), f.mul(mid, strides[1])), f.mul(low, strides[2]))
    over_inner = f.sub(strides[1], f.mul(inner, strides[2]))
    over_middle = f.sub(strides[0], f.mul(middle, strides[1]))
    with f.loop(ZERO, steps, 1, [low, mid, start]) as loop:
        low, mid, place = loop.values
        f.store(place, f.gep(table, loop.index, "i64"))
        low, place = f.add(low, 1), f.add(place, strides[2])
        full = f.compare("eq", low, inner)
        low, place = f.select(full, ZERO, low), f.add(place, f.select(full, over_inner, ZERO))
        mid = f.add(mid, f.cast("zext", full, "i64"))
        full = f.compare("eq", mid, middle)
        loop.next([low, f.select(full, ZERO, mid), f.add(place, f.select(full, over_middle, ZERO))])


def _line(f: Function, line: Val) -> Val:
    """Where a line of the image begins."""
    middle = _word(f, Word.COLUMNS_MIDDLE)
    high = f.binary("udiv", line, middle)
    low = f.sub(line, f.mul(high, middle))
    return f.add(f.mul(high, _word(f, Word.COLUMNS_STRIDE_0)), f.mul(low, _word(f, Word.COLUMNS_STRIDE_1)))


def _pieces(f: Function, tile: Tile, column: Val, lanes: Val) -> list[Piece]:
    """The parts of lines that `lanes` columns from `column` on cover; those behind the last are empty."""
    length = _word(f, Word.COLUMNS_INNER)
    line = f.binary("udiv", column, length)
    at = f.sub(column, f.mul(line, length))
    source = PARAMETERS[5]
    begin, end = ZERO, f.smin(lanes, f.sub(length, at))
    found = []
    for number in range(1 + -(-(tile.lanes - 1) // SHORTEST_LINE)):
        place = _line(f, f.add(line, number))
        place = f.sub(f.add(place, at) if number == 0 else place, begin)
        before = f.binary("xor", lane_mask(f, tile.lanes, begin), const(f"<{tile.lanes} x i1>", 1))
        found.append((f.gep(source, place, tile.scalar), f.binary("and", lane_mask(f, tile.lanes, end), before)))
        begin, end = end, f.smin(lanes, f.add(end, length))
    return found


def _copy(f: Function, tile: Tile, pieces: list[Piece], lanes: Val, target: Val) -> None:
    """For each step a vector of columns: from one, two or all of the pieces."""
    forms = [1, 2, len(pieces)] if len(pieces) > 2 else list(range(1, len(pieces) + 1))
    done = f.label("packed")
    reached = _lanes_in(f, tile, pieces)
    for form in forms:
        then, other = f.label("pieces"), f.label("more")
        if form == forms[-1]:
            f.branch(then)
        else:
            f.branch_if(f.compare("sge", reached[form - 1], lanes), then, other)
        f.start(then)
        _copy_form(f, tile, pieces[:form], target)
        f.branch(done)
        if form != forms[-1]:
            f.start(other)
    f.start(done)


def _lanes_in(f: Function, tile: Tile, pieces: list[Piece]) -> list[Val]:
    """How many lanes the first pieces fill, for each number of pieces."""
    total, found = ZERO, []
    for _, mask in pieces:
        bits = f.op(f"bitcast {mask} to i{tile.lanes}", f"i{tile.lanes}")
        count = f.intrinsic("ctpop", bits)
        total = f.add(total, f.cast("zext", count, "i64"))
        found.append(total)
    return found


def _copy_form(f: Function, tile: Tile, pieces: list[Piece], target: Val) -> None:
    steps, table = PARAMETERS[2], PARAMETERS[7]
    with f.loop(ZERO, steps, 1, [target]) as loop:
        offset = f.load(f.gep(table, loop.index, "i64"), "i64")
        value = Val(tile.vector, "zeroinitializer")
        for start, mask in pieces:
            value = _masked_load(f, tile, f.gep(start, offset, tile.scalar), mask, value)
        f.store(value, loop.values[0], tile.align)
        loop.next([f.gep(loop.values[0], tile.columns, tile.scalar)])


def _masked_load(f: Function, tile: Tile, ptr: Val, mask: Val, other: Val) -> Val:
    """The lanes of the mask, those of `other` elsewhere."""
    name = f"llvm.masked.load.{intrinsic_suffix(tile.vector)}.p0"
    f.module.declare(name, f"{tile.vector} (ptr, {mask.ty}, {tile.vector})")
    return f.op(f"call {tile.vector} @{name}(ptr align {tile.align} {ptr.name}, {mask}, {other})", tile.vector)
