"""Packing of matrix panels: values that a micro-kernel reads together are put next to each other.

A panel has `width` places per k; place i of step k holds source element (i, k). Places without an element keep whatever
was there: results made from them are never stored.
"""
from __future__ import annotations

from treadle.codegen.gemm_micro import ZERO, Tile, lane_mask, masked_load
from treadle.codegen.llvm_text import Function, Module, Val, const, lanes_of, vector_type

# count elements in the panel, k steps, source with the strides of i and of k, destination with the stride of k.
PARAMETERS = [
    Val("i64", "%count"), Val("i64", "%k"), Val("ptr", "%source"), Val("i64", "%along_i"), Val("i64", "%along_k"),
    Val("ptr", "%to"), Val("i64", "%width"),
]


# All of a block: its elements, how many of them a panel takes, and the rest as above.
BLOCK_PARAMETERS = [Val("i64", "%total"), Val("i64", "%panel"), *PARAMETERS[1:]]
# Panels filled side by side, so that the source is read in long runs.
GROUP = 8


def emit_pack(module: Module, tile: Tile) -> None:
    """`pack_<type>(total, panel, k, source, along_i, along_k, to, width)`: a block as consecutive panels of k * width places."""
    emit_transposing(module, tile)
    _emit_copying(module, tile)
    emit_general(module, tile)
    _emit_panel(module, tile)
    for kind, width in (("a", tile.pack), ("b", tile.columns)):
        _emit_side_by_side(module, tile, kind, width)
        _emit_block(module, tile, kind, width)


def _emit_block(module: Module, tile: Tile, kind: str, width: int) -> None:
    total, panel, k, source, along_i, along_k, to, _ = BLOCK_PARAMETERS
    f = Function(module, f"pack_{kind}_{tile.suffix}", BLOCK_PARAMETERS[:-1], linkage="internal")
    contiguous = f.compare("eq", along_i, const("i64", 1))
    wide = const("i64", width)
    # Panels that may read a full width: what is not theirs goes to places that are not used.
    fit = f.select(f.compare("slt", total, wide), ZERO, f.add(f.binary("udiv", f.sub(total, wide), panel), 1))
    fast = f.select(contiguous, fit, ZERO)
    f.line(f"call void @side_by_side_{kind}_{tile.suffix}({fast}, {panel}, {k}, {source}, {along_k}, {to})")
    with f.loop(f.mul(fast, panel), total, panel) as loop:
        count = f.smin(panel, f.sub(total, loop.index))
        place = f.mul(f.binary("udiv", loop.index, panel), f.mul(k, wide))
        start = f.gep(source, f.mul(loop.index, along_i), tile.scalar)
        arguments = [count, k, start, along_i, along_k, f.gep(to, place, tile.scalar), wide]
        f.line(f"call void @pack_panel_{tile.suffix}({', '.join(map(str, arguments))})")
    f.line("ret void")
    f.finish()


def _emit_side_by_side(module: Module, tile: Tile, kind: str, width: int) -> None:
    """Whole panels whose elements of one k are contiguous: for each k, one run over a group of panels."""
    panels, panel, k, source = Val("i64", "%panels"), Val("i64", "%panel"), Val("i64", "%k"), Val("ptr", "%source")
    along_k, to = Val("i64", "%along_k"), Val("ptr", "%to")
    parameters = [panels, panel, k, source, along_k, to]
    f = Function(module, f"side_by_side_{kind}_{tile.suffix}", parameters, linkage="internal", attributes="nounwind noinline")
    size = f.mul(k, width)
    with f.loop(ZERO, panels, GROUP) as group:
        count = f.smin(const("i64", GROUP), f.sub(panels, group.index))
        first, place = f.gep(source, f.mul(group.index, panel), tile.scalar), f.gep(to, f.mul(group.index, size), tile.scalar)
        with f.loop(ZERO, k, 1, [first, place]) as step:
            with f.loop(ZERO, count, 1, step.values) as one:
                line, target = one.values
                for v in range(0, width, tile.lanes):
                    f.store(f.load(f.gep(line, v, tile.scalar), tile.vector, tile.align), f.gep(target, v, tile.scalar), tile.align)
                one.next([f.gep(line, panel, tile.scalar), f.gep(target, size, tile.scalar)])
            step.next([f.gep(step.values[0], along_k, tile.scalar), f.gep(step.values[1], width, tile.scalar)])
    f.line("ret void")
    f.finish()


def _emit_panel(module: Module, tile: Tile) -> None:
    """One panel in vector-wide strips, by the fastest way its strides allow."""
    count, k, source, along_i, along_k, to, width = PARAMETERS
    f = Function(module, f"pack_panel_{tile.suffix}", PARAMETERS, linkage="internal")
    one = const("i64", 1)
    rows, columns = f.compare("eq", along_k, one), f.compare("eq", along_i, one)
    with f.loop(ZERO, count, tile.lanes) as strip:
        rest = f.smin(f.sub(count, strip.index), const("i64", tile.lanes))
        start = f.gep(source, f.mul(strip.index, along_i), tile.scalar)
        place = f.gep(to, strip.index, tile.scalar)
        _choose(f, tile, [rows, columns], [rest, k, start, along_i, along_k, place, width])
    f.line("ret void")
    f.finish()


def _choose(f: Function, tile: Tile, conditions: list[Val], arguments: list[Val]) -> None:
    """Call the first strip packer whose condition holds, or the general one."""
    text = ", ".join(map(str, arguments))
    end = f.label("packed")
    for condition, kind in zip(conditions, ("rows", "columns"), strict=True):
        then, other = f.label("then"), f.label("other")
        f.branch_if(condition, then, other)
        f.start(then)
        f.line(f"call void @pack_{kind}_{tile.suffix}({text})")
        f.branch(end)
        f.start(other)
    f.line(f"call void @pack_any_{tile.suffix}({text})")
    f.branch(end)
    f.start(end)


def _strip(module: Module, tile: Tile, kind: str) -> Function:
    return Function(module, f"pack_{kind}_{tile.suffix}", PARAMETERS, linkage="internal", attributes="nounwind noinline")


def emit_general(module: Module, tile: Tile) -> None:
    """Any strides, one element at a time."""
    count, k, source, along_i, along_k, to, width = PARAMETERS
    f = _strip(module, tile, "any")
    with f.loop(ZERO, k) as step:
        line, place = f.gep(source, f.mul(step.index, along_k), tile.scalar), f.gep(to, f.mul(step.index, width), tile.scalar)
        with f.loop(ZERO, count) as element:
            value = f.load(f.gep(line, f.mul(element.index, along_i), tile.scalar), tile.scalar, tile.align)
            f.store(value, f.gep(place, element.index, tile.scalar), tile.align)
    f.line("ret void")
    f.finish()


def _emit_copying(module: Module, tile: Tile) -> None:
    """Elements of one k are contiguous: copy vectors. A strip that is not full is masked, or copied by elements."""
    count, k, source, _, along_k, to, width = PARAMETERS
    f = _strip(module, tile, "columns")
    mask = lane_mask(f, tile.lanes, count)
    if not tile.masked:
        whole, part = f.label("whole"), f.label("part")
        f.branch_if(f.compare("eq", count, const("i64", tile.lanes)), whole, part)
        f.start(part)
        f.line(f"call void @pack_any_{tile.suffix}({', '.join(map(str, PARAMETERS))})")
        f.line("ret void")
        f.start(whole)
    with f.loop(ZERO, k) as step:
        line = f.gep(source, f.mul(step.index, along_k), tile.scalar)
        value = masked_load(f, tile, line, mask) if tile.masked else f.load(line, tile.vector, tile.align)
        f.store(value, f.gep(to, f.mul(step.index, width), tile.scalar), tile.align)
    f.line("ret void")
    f.finish()


def emit_transposing(module: Module, tile: Tile) -> None:
    """Elements of one i are contiguous along k: transpose squares of vectors, then the rest by elements."""
    count, k, source, along_i, _, to, width = PARAMETERS
    f = _strip(module, tile, "rows")
    last = f.sub(count, 1)
    starts = [f.gep(source, f.mul(f.smin(const("i64", i), last), along_i), tile.scalar) for i in range(tile.lanes)]
    whole = f.mul(f.binary("udiv", k, const("i64", tile.lanes)), tile.lanes)
    with f.loop(ZERO, whole, tile.lanes) as step:
        rows = [f.gep(start, step.index, tile.scalar) for start in starts]
        place = f.gep(to, f.mul(step.index, width), tile.scalar)
        for i, row in enumerate(transposed(f, tile, rows)):
            f.store(row, f.gep(place, f.mul(width, i), tile.scalar), tile.align)
    rest = [count, f.sub(k, whole), f.gep(source, whole, tile.scalar), along_i, const("i64", 1),
            f.gep(to, f.mul(whole, width), tile.scalar), width]
    f.line(f"call void @pack_any_{tile.suffix}({', '.join(map(str, rest))})")
    f.line("ret void")
    f.finish()


def transposed(f: Function, tile: Tile, rows: list[Val]) -> list[Val]:
    """The columns of the square of vectors at addresses `rows`.

    Quarters of 128 bits are put in their places while they are loaded, which keeps the one shuffle port of many CPUs
    free; what remains is to transpose small squares within the quarters.
    """
    lanes = tile.lanes
    part = min(lanes, 16 // tile.align)
    result = []
    for start in range(0, lanes, part):
        gathered = [_gather_parts(f, tile, rows[i::part], start, part) for i in range(part)]
        result += _transpose_parts(f, gathered, part)
    return result


def transposed_vectors(f: Function, tile: Tile, vectors: list[Val]) -> list[Val]:
    """The columns of the square whose rows are in registers: squares within the quarters, then the quarters among themselves."""
    lanes = tile.lanes
    part = min(lanes, 16 // tile.align)
    parts = lanes // part
    inner = [_transpose_parts(f, vectors[g * part:(g + 1) * part], part) for g in range(parts)]
    result = []
    for block in range(parts):
        for column in range(part):
            result.append(_join_parts(f, [inner[g][column] for g in range(parts)], block, part))
    return result


def _join_parts(f: Function, vectors: list[Val], block: int, part: int) -> Val:
    """One vector from part `block` of each of them, in order."""
    if len(vectors) == 1:
        return vectors[0]
    lanes, halves = lanes_of(vectors[0].ty), []
    at = block * part
    for i in range(0, len(vectors), 2):
        order = [at + k % part + (lanes if k % (2 * part) >= part else 0) for k in range(lanes)]
        halves.append(shuffle(f, vectors[i], vectors[i + 1], order))
    if len(halves) == 1:
        return halves[0]
    return shuffle(f, halves[0], halves[1], [i if i < lanes // 2 else lanes + i - lanes // 2 for i in range(lanes)])


def _gather_parts(f: Function, tile: Tile, rows: list[Val], start: int, part: int) -> Val:
    """One vector from the `part` elements at `start` of each row."""
    lanes = tile.lanes
    ty = vector_type(tile.scalar, part)
    loaded = [f.load(f.gep(row, start, tile.scalar), ty, tile.align) for row in rows]
    if len(loaded) == 1:
        return loaded[0]
    wide = "<" + ", ".join(f"i32 {i if i < part else 'poison'}" for i in range(lanes)) + ">"
    parts = [f.op(f"shufflevector {x}, {ty} poison, <{lanes} x i32> {wide}", tile.vector) for x in loaded]
    vector = parts[0]
    for g, piece in enumerate(parts[1:], 1):
        order = [lanes + i - g * part if g * part <= i < (g + 1) * part else i for i in range(lanes)]
        vector = shuffle(f, vector, piece, order)
    return vector


def _transpose_parts(f: Function, vectors: list[Val], part: int) -> list[Val]:
    """Transpose the squares of `part` x `part` elements that lie in the same lanes of `part` vectors."""
    lanes = lanes_of(vectors[0].ty)
    if part == 1:
        return vectors
    blocks = range(0, lanes, part)
    pick = lambda a, b, order: shuffle(f, a, b, [start + i if i < part else lanes + start + i - part for start in blocks for i in order])
    if part == 2:
        return [pick(vectors[0], vectors[1], [0, 2]), pick(vectors[0], vectors[1], [1, 3])]
    a, b, c, d = vectors
    low, high = [0, 4, 1, 5], [2, 6, 3, 7]
    ab, cd, ab_high, cd_high = pick(a, b, low), pick(c, d, low), pick(a, b, high), pick(c, d, high)
    first, second = [0, 1, 4, 5], [2, 3, 6, 7]
    return [pick(ab, cd, first), pick(ab, cd, second), pick(ab_high, cd_high, first), pick(ab_high, cd_high, second)]


def shuffle(f: Function, a: Val, b: Val, order: list[int]) -> Val:
    """The lanes `order` of the concatenation of two vectors of one type."""
    indices = "<" + ", ".join(f"i32 {i}" for i in order) + ">"
    return f.op(f"shufflevector {a}, {b}, <{len(order)} x i32> {indices}", a.ty)
