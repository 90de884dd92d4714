"""Packing of B straight from an image whose windows are its rows and columns (implicit im2col): they are never stored.

Element (k, j) of B lies at rows(k) + columns(j), each a sum over up to four digits of its index times a stride. Either neighbouring
columns are neighbours in memory, or every second element of it, as far as a line of the image reaches, or (`ACROSS`) neighbouring rows
are neighbours. A vector of them is put together from the pieces of lines it covers; the other index goes through a table of offsets.
Where lines turn out to have a single element, of a sequence of one, say, elements are taken one by one.
"""
from __future__ import annotations

from collections.abc import Iterator

from treadle.codegen.gemm_micro import ZERO, Tile, lane_mask
from treadle.codegen.gemm_pack import transposed_vectors
from treadle.codegen.gemm_plan import ACROSS, Word
from treadle.codegen.llvm_text import Function, Module, Val, const, intrinsic_suffix
from treadle.codegen.vector_memory import load_every
from treadle.passes.program import MOST_DIGITS, SHORTEST_LINE

ARGS = Val("ptr", "%args")
# Columns and steps to pack, the first step, the first column, the image, where to, and room for offsets.
PARAMETERS = [ARGS, Val("i64", "%count"), Val("i64", "%steps"), Val("i64", "%first"), Val("i64", "%column"), Val("ptr", "%source"),
              Val("ptr", "%to"), Val("ptr", "%table")]
Piece = tuple[Val, Val]  # where a vector would begin in memory, and the lanes that are there


def emit_windows(module: Module, tile: Tile) -> None:
    """`pack_windows_<type>(args, count, steps, first, column, source, to, table)`: panels as `pack_b` makes them."""
    f = Function(module, f"pack_windows_{tile.suffix}", PARAMETERS, linkage="internal", attributes="nounwind noinline")
    single, longer = f.label("single"), f.label("longer")
    across, lines, along, second = f.label("across"), f.label("lines"), f.label("along"), f.label("second")
    length = _words(f, Word.LINES_SIZE_1, MOST_DIGITS - 1)[-1]
    f.branch_if(f.compare("slt", length, const("i64", SHORTEST_LINE)), single, longer)
    f.start(single)
    _one_by_one(f, tile)
    f.line("ret void")
    f.start(longer)
    f.branch_if(f.compare("eq", _word(f, Word.PACK_B), const("i64", ACROSS)), across, lines)
    f.start(across)
    _across(f, tile)
    f.line("ret void")
    f.start(lines)
    f.branch_if(f.compare("eq", _word(f, Word.LINES_STEP), const("i64", 1)), along, second)
    for label, step in ((along, 1), (second, 2)):
        f.start(label)
        _along(f, tile, step)
        f.line("ret void")
    f.finish()


def _along(f: Function, tile: Tile, step: int) -> None:
    """Vectors of columns, each from the same pieces for all steps."""
    _, count, steps, first, column, _, to, _ = PARAMETERS
    _fill_table(f, first, steps)
    with f.loop(ZERO, count, tile.lanes) as strip:
        panel = f.binary("udiv", strip.index, const("i64", tile.columns))
        inside = f.sub(strip.index, f.mul(panel, tile.columns))
        target = f.gep(to, f.add(f.mul(panel, f.mul(steps, tile.columns)), inside), tile.scalar)
        lanes = f.smin(f.sub(count, strip.index), const("i64", tile.lanes))
        for _, pieces in _forms(f, tile, _pieces(f, tile, f.add(column, strip.index), lanes, step), lanes):
            _copy(f, tile, pieces, target, step)


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


def _one_by_one(f: Function, tile: Tile) -> None:
    """Columns or (`ACROSS`) steps, each an element of its own, with all of the others."""
    _, count, steps, first, column, source, to, table = PARAMETERS
    across = f.compare("eq", _word(f, Word.PACK_B), const("i64", ACROSS))
    others = f.select(across, count, steps)
    _fill_table(f, f.select(across, column, first), others)
    sizes, strides = _words(f, Word.LINES_SIZE_1, MOST_DIGITS - 1), _words(f, Word.LINES_STRIDE_0, MOST_DIGITS - 1)
    begin = f.select(across, first, column)
    with f.loop(ZERO, f.select(across, steps, count), 1) as line:
        place = _place(f, _digits(f, f.add(begin, line.index), sizes)[:-1], strides)
        with f.loop(ZERO, others, 1) as other:
            step, number = f.select(across, line.index, other.index), f.select(across, other.index, line.index)
            panel = f.binary("udiv", number, const("i64", tile.columns))
            inside = f.sub(number, f.mul(panel, tile.columns))
            target = f.add(f.mul(f.add(f.mul(panel, steps), step), tile.columns), inside)
            offset = f.load(f.gep(table, other.index, "i64"), "i64")
            value = f.load(f.gep(source, f.add(place, offset), tile.scalar), tile.scalar)
            f.store(value, f.gep(to, target, tile.scalar))


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


def _words(f: Function, first: Word, count: int) -> list[Val]:
    return [_word(f, Word(first + i)) for i in range(count)]


def _digits(f: Function, index: Val, sizes: list[Val]) -> list[Val]:
    """The digits of an index, outermost first; `sizes` are those of all but the first."""
    found = []
    for size in reversed(sizes):
        rest = f.binary("udiv", index, size)
        found.append(f.sub(index, f.mul(rest, size)))
        index = rest
    return [index, *reversed(found)]


def _counted_up(f: Function, digits: list[Val], sizes: list[Val], strides: list[Val]) -> tuple[list[Val], Val]:
    """The digits of the next index but the first, which nobody asks for, and how far its place is from this one's."""
    way, found = strides[-1], []
    last = f.add(digits[-1], 1)
    for at in range(len(sizes) - 1, -1, -1):
        full = f.compare("eq", last, sizes[at])
        found.append(f.select(full, ZERO, last))
        way = f.add(way, f.select(full, f.sub(strides[at], f.mul(sizes[at], strides[at + 1])), ZERO))
        if at:
            last = f.add(digits[at - 1], f.cast("zext", full, "i64"))
    return found[::-1], way


def _place(f: Function, digits: list[Val], strides: list[Val]) -> Val:
    total = ZERO
    for digit, stride in zip(digits, strides, strict=True):
        total = f.add(total, f.mul(digit, stride))
    return total


def _fill_table(f: Function, first: Val, count: Val) -> None:
    """The offsets of `count` rows (or columns) from `first` on, counting up digit by digit."""
    table = PARAMETERS[-1]
    sizes, strides = _words(f, Word.TABLE_SIZE_1, MOST_DIGITS - 1), _words(f, Word.TABLE_STRIDE_0, MOST_DIGITS)
    digits = _digits(f, first, sizes)
    with f.loop(ZERO, count, 1, [*digits[1:], _place(f, digits, strides)]) as loop:
        *low, place = loop.values
        f.store(place, f.gep(table, loop.index, "i64"))
        low, way = _counted_up(f, low, sizes, strides)
        loop.next([*low, f.add(place, way)])


def _pieces(f: Function, tile: Tile, first: Val, lanes: Val, step: int = 1) -> list[Piece]:
    """The parts of lines that `lanes` columns (or rows) from `first` on cover; those behind the last are empty."""
    *sizes, length = _words(f, Word.LINES_SIZE_1, MOST_DIGITS - 1)
    strides = _words(f, Word.LINES_STRIDE_0, MOST_DIGITS - 1)
    *digits, at = _digits(f, first, [*sizes, length])
    line, digits = _place(f, digits, strides), digits[1:]
    source = PARAMETERS[5]
    begin, end = ZERO, f.smin(lanes, f.sub(length, at))
    found = []
    for number in range(1 + -(-(tile.lanes - 1) // SHORTEST_LINE)):
        place = f.sub(line, f.mul(begin, step)) if number else f.add(line, f.mul(at, step))
        before = f.binary("xor", lane_mask(f, tile.lanes, begin), const(f"<{tile.lanes} x i1>", 1))
        found.append((f.gep(source, place, tile.scalar), f.binary("and", lane_mask(f, tile.lanes, end), before)))
        begin, end = end, f.smin(lanes, f.add(end, length))
        digits, way = _counted_up(f, digits, sizes, strides)
        line = f.add(line, way)
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


def _copy(f: Function, tile: Tile, pieces: list[Piece], target: Val, step: int) -> None:
    """A vector of columns for each step of K; `step` is the one along lines."""
    steps, table = PARAMETERS[2], PARAMETERS[-1]
    with f.loop(ZERO, steps, 1, [target]) as loop:
        offset = f.load(f.gep(table, loop.index, "i64"), "i64")
        f.store(_gathered(f, tile, pieces, offset, step), loop.values[0], tile.align)
        loop.next([f.gep(loop.values[0], tile.columns, tile.scalar)])


def _gathered(f: Function, tile: Tile, pieces: list[Piece], offset: Val, step: int = 1) -> Val:
    """The pieces, all moved by the same offset, as one vector."""
    value = Val(tile.vector, "zeroinitializer")
    for start, mask in pieces:
        ptr = f.gep(start, offset, tile.scalar)
        value = _masked_load(f, tile, ptr, mask, value) if step == 1 else f.select(mask, load_every(f, ptr, tile.vector, step, mask), value)
    return value


def _masked_load(f: Function, tile: Tile, ptr: Val, mask: Val, other: Val) -> Val:
    """The lanes of the mask, those of `other` elsewhere."""
    name = f"llvm.masked.load.{intrinsic_suffix(tile.vector)}.p0"
    f.module.declare(name, f"{tile.vector} (ptr, {mask.ty}, {tile.vector})")
    return f.op(f"call {tile.vector} @{name}(ptr align {tile.align} {ptr.name}, {mask}, {other})", tile.vector)
