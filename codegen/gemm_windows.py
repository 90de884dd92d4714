"""Packing of B straight from an image whose windows are its rows and columns (implicit im2col): they are never stored.

Element (k, j) of B lies at rows(k) + columns(j), each a sum over up to three digits of its index times a stride. Either neighbouring
columns are neighbours in memory, as far as a line of the image reaches, or (`ACROSS`) neighbouring rows are. A vector of neighbours is
put together from the pieces of lines it covers; the other index goes through a table of offsets.
"""
from __future__ import annotations

from collections.abc import Iterator

from treadle.codegen.gemm_micro import ZERO, Tile, lane_mask
from treadle.codegen.gemm_pack import transposed_vectors
from treadle.codegen.gemm_plan import ACROSS, Word
from treadle.codegen.llvm_text import Function, Module, Val, const, intrinsic_suffix
from treadle.passes.program import SHORTEST_LINE

ARGS = Val("ptr", "%args")
# Columns and steps to pack, the first step, the first column, the image, where to, and room for offsets.
PARAMETERS = [ARGS, Val("i64", "%count"), Val("i64", "%steps"), Val("i64", "%first"), Val("i64", "%column"), Val("ptr", "%source"),
              Val("ptr", "%to"), Val("ptr", "%table")]
Piece = tuple[Val, Val]  # where a vector would begin in memory, and the lanes that are there


def emit_windows(module: Module, tile: Tile) -> None:
    """`pack_windows_<type>(args, count, steps, first, column, source, to, table)`: panels as `pack_b` makes them."""
    f = Function(module, f"pack_windows_{tile.suffix}", PARAMETERS, linkage="internal", attributes="nounwind noinline")
    across, along = f.label("across"), f.label("along")
    f.branch_if(f.compare("eq", _word(f, Word.PACK_B), const("i64", ACROSS)), across, along)
    f.start(across)
    _across(f, tile)
    f.line("ret void")
    f.start(along)
    _along(f, tile)
    f.line("ret void")
    f.finish()


def _along(f: Function, tile: Tile) -> None:
    """Vectors of columns, each from the same pieces for all steps."""
    _, count, steps, first, column, _, to, _ = PARAMETERS
    _fill_table(f, first, steps)
    with f.loop(ZERO, count, tile.lanes) as strip:
        panel = f.binary("udiv", strip.index, const("i64", tile.columns))
        inside = f.sub(strip.index, f.mul(panel, tile.columns))
        target = f.gep(to, f.add(f.mul(panel, f.mul(steps, tile.columns)), inside), tile.scalar)
        lanes = f.smin(f.sub(count, strip.index), const("i64", tile.lanes))
        for _, pieces in _forms(f, tile, _pieces(f, tile, f.add(column, strip.index), lanes), lanes):
            _copy(f, tile, pieces, target)


def _across(f: Function, tile: Tile) -> None:
    """Vectors of steps from the same pieces for all columns; squares of them are transposed."""
    _, count, steps, first, column, _, to, table = PARAMETERS
    lanes = tile.lanes
    _fill_table(f, column, count)
    last = f.load(f.gep(table, f.sub(count, 1), "i64"), "i64")
    for i in range(lanes):  # columns behind the last repeat it
        f.store(last, f.gep(table, f.add(count, i), "i64"))
    with f.loop(ZERO, steps, lanes) as deep:
        rows = f.smin(f.sub(steps, deep.index), const("i64", lanes))
        for number, pieces in _forms(f, tile, _pieces(f, tile, f.add(first, deep.index), rows), rows):
            with f.loop(ZERO, count, lanes) as strip:
                panel = f.binary("udiv", strip.index, const("i64", tile.columns))
                inside = f.sub(strip.index, f.mul(panel, tile.columns))
                place = f.add(f.mul(f.add(f.mul(panel, steps), deep.index), tile.columns), inside)
                offsets = [f.load(f.gep(table, f.add(strip.index, i), "i64"), "i64") for i in range(lanes)]
                square = transposed_vectors(f, tile, [_gathered(f, tile, pieces, offset) for offset in offsets])
                _store_square(f, tile, square, f.gep(to, place, tile.scalar), rows, number == 1)


def _store_square(f: Function, tile: Tile, square: list[Val], target: Val, rows: Val, whole: bool) -> None:
    """The first `rows` of the square; `whole`: most often all of it."""
    places = [f.gep(target, i * tile.columns, tile.scalar) for i in range(tile.lanes)]
    part, end = f.label("part"), f.label("stored")
    if whole:
        full = f.label("full")
        f.branch_if(f.compare("eq", rows, const("i64", tile.lanes)), full, part)
        f.start(full)
        for value, place in zip(square, places, strict=True):
            f.store(value, place, tile.align)
        f.branch(end)
    else:
        f.branch(part)
    f.start(part)
    for i, (value, place) in enumerate(zip(square, places, strict=True)):
        with f.if_(f.compare("sgt", rows, const("i64", i))):
            f.store(value, place, tile.align)
    f.branch(end)
    f.start(end)


def _word(f: Function, word: Word) -> Val:
    return f.load(f.gep(ARGS, int(word), "i64"), "i64")


def _fill_table(f: Function, first: Val, count: Val) -> None:
    """The offsets of `count` rows (or columns) from `first` on, counting up digit by digit."""
    table = PARAMETERS[-1]
    middle, inner = _word(f, Word.TABLE_MIDDLE), _word(f, Word.TABLE_INNER)
    strides = [_word(f, w) for w in (Word.TABLE_STRIDE_0, Word.TABLE_STRIDE_1, Word.TABLE_STRIDE_2)]
    rest = f.binary("udiv", first, inner)
    low = f.sub(first, f.mul(rest, inner))
    high = f.binary("udiv", rest, middle)
    mid = f.sub(rest, f.mul(high, middle))
    start = f.add(f.add(f.mul(high, strides[0]), f.mul(mid, strides[1])), f.mul(low, strides[2]))
    over_inner = f.sub(strides[1], f.mul(inner, strides[2]))
    over_middle = f.sub(strides[0], f.mul(middle, strides[1]))
    with f.loop(ZERO, count, 1, [low, mid, start]) as loop:
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
    middle = _word(f, Word.LINES_MIDDLE)
    high = f.binary("udiv", line, middle)
    low = f.sub(line, f.mul(high, middle))
    return f.add(f.mul(high, _word(f, Word.LINES_STRIDE_0)), f.mul(low, _word(f, Word.LINES_STRIDE_1)))


def _pieces(f: Function, tile: Tile, first: Val, lanes: Val) -> list[Piece]:
    """The parts of lines that `lanes` columns (or rows) from `first` on cover; those behind the last are empty."""
    length = _word(f, Word.LINES_INNER)
    line = f.binary("udiv", first, length)
    at = f.sub(first, f.mul(line, length))
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


def _forms(f: Function, tile: Tile, pieces: list[Piece], lanes: Val) -> Iterator[tuple[int, list[Piece]]]:
    """Branches for some numbers of pieces, the least that fills the lanes. The caller emits what each does with them."""
    forms = sorted({1, 2, (len(pieces) + 1) // 2, len(pieces)})
    done = f.label("packed")
    reached = _lanes_in(f, tile, pieces)
    for form in forms:
        then, other = f.label("pieces"), f.label("more")
        if form == forms[-1]:
            f.branch(then)
        else:
            f.branch_if(f.compare("sge", reached[form - 1], lanes), then, other)
        f.start(then)
        yield form, pieces[:form]
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


def _copy(f: Function, tile: Tile, pieces: list[Piece], target: Val) -> None:
    """A vector of columns for each step."""
    steps, table = PARAMETERS[2], PARAMETERS[-1]
    with f.loop(ZERO, steps, 1, [target]) as loop:
        offset = f.load(f.gep(table, loop.index, "i64"), "i64")
        f.store(_gathered(f, tile, pieces, offset), loop.values[0], tile.align)
        loop.next([f.gep(loop.values[0], tile.columns, tile.scalar)])


def _gathered(f: Function, tile: Tile, pieces: list[Piece], offset: Val) -> Val:
    """The pieces, all moved by the same offset, as one vector."""
    value = Val(tile.vector, "zeroinitializer")
    for start, mask in pieces:
        value = _masked_load(f, tile, f.gep(start, offset, tile.scalar), mask, value)
    return value


def _masked_load(f: Function, tile: Tile, ptr: Val, mask: Val, other: Val) -> Val:
    """The lanes of the mask, those of `other` elsewhere."""
    name = f"llvm.masked.load.{intrinsic_suffix(tile.vector)}.p0"
    f.module.declare(name, f"{tile.vector} (ptr, {mask.ty}, {tile.vector})")
    return f.op(f"call {tile.vector} @{name}(ptr align {tile.align} {ptr.name}, {mask}, {other})", tile.vector)
