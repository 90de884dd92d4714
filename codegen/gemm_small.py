"""Products with few rows, which are bound by reading B once: no packing of B.

`dot`: both operands contiguous along K (`x @ weight.T`); each output is a sum of vector products.
`stream`: B contiguous along N; rows of B are added up, a group at a time, into rows of C.
Every element is computed the same way wherever it lies, so results do not depend on how columns are shared out.
"""
from __future__ import annotations

from treadle.codegen.gemm_micro import ZERO, Tile, add, lane_mask, masked_load, masked_store, multiply_add
from treadle.codegen.gemm_pack import shuffle
from treadle.codegen.llvm_text import Function, Module, Val, const

# Rows that one dot or stream kernel handles at once; dot products of more rows are done in groups.
GROUP = 8
# Columns of C that stream keeps in the first-level cache.
STREAM_WIDTH = 2048

# k, A and its row stride, B and the stride between its columns, C with row and column stride, columns.
DOT_PARAMETERS = [
    Val("i64", "%k"), Val("ptr", "%a"), Val("i64", "%a_row"), Val("ptr", "%b"), Val("i64", "%b_col"), Val("ptr", "%c"),
    Val("i64", "%c_row"), Val("i64", "%c_col"), Val("i64", "%columns"),
]
# k, A with row and column stride, B and its row stride, C and its row stride, columns.
STREAM_PARAMETERS = [
    Val("i64", "%k"), Val("ptr", "%a"), Val("i64", "%a_row"), Val("i64", "%a_col"), Val("ptr", "%b"), Val("i64", "%b_row"),
    Val("ptr", "%c"), Val("i64", "%c_row"), Val("i64", "%columns"),
]


def emit_small_kernels(module: Module, tile: Tile) -> None:
    """`dot_<type>` and `stream_<type>`: tables of kernels by number of rows, 1 to GROUP."""
    for kind, emit in (("dot", _emit_dot), ("stream", _emit_stream)):
        names = ["ptr null", *(f"ptr @{emit(module, tile, rows)}" for rows in range(1, GROUP + 1))]
        module.globals.append(f"@{kind}_{tile.suffix} = internal constant [{len(names)} x ptr] [{', '.join(names)}]")


# -- dot -------------------------------------------------------------------------------------------------------------
def dot_columns(tile: Tile, rows: int) -> int:
    """Columns computed at once, from the registers that accumulators may take."""
    budget = 24 if tile.masked or tile.rows == 8 else 10
    return max(1, min(8, budget // rows))


def _emit_dot(module: Module, tile: Tile, rows: int) -> str:
    name = f"dot_{tile.suffix}_{rows}"
    f = Function(module, name, DOT_PARAMETERS, linkage="internal", attributes="nounwind noinline")
    _, a, a_row, b, b_col, c, c_row, c_col, columns = DOT_PARAMETERS
    width = dot_columns(tile, rows)
    lines = [f.gep(a, f.mul(a_row, i), tile.scalar) for i in range(rows)]
    with f.loop(ZERO, columns, width) as loop:
        # Past the last column its value is computed, and stored, again.
        last = f.sub(columns, 1)
        indices = [f.smin(f.add(loop.index, j), last) for j in range(width)]
        others = [f.gep(b, f.mul(j, b_col), tile.scalar) for j in indices]
        sums = _dot_tile(f, tile, lines, others)
        for j, index in enumerate(indices):
            for i in range(rows):
                place = f.add(f.mul(c_row, i), f.mul(index, c_col))
                f.store(sums[i * width + j], f.gep(c, place, tile.scalar), tile.align)
    f.line("ret void")
    f.finish()
    return name


def _dot_tile(f: Function, tile: Tile, lines: list[Val], others: list[Val]) -> list[Val]:
    """The products of each of `lines` with each of `others` along k, as scalars."""
    k = DOT_PARAMETERS[0]
    whole = f.mul(f.binary("udiv", k, const("i64", tile.lanes)), tile.lanes)
    zero = Val(tile.vector, "zeroinitializer")
    with f.loop(ZERO, whole, tile.lanes, [zero] * (len(lines) * len(others))) as loop:
        load = lambda ptr: f.load(f.gep(ptr, loop.index, tile.scalar), tile.vector, tile.align)
        loop.next(_outer(f, tile, loop.values, [load(p) for p in lines], [load(p) for p in others]))
    if not tile.masked:
        return _dot_rest(f, tile, horizontal_sums(f, tile, loop.values), lines, others, whole)
    mask = lane_mask(f, tile.lanes, f.sub(k, whole))
    tail = lambda ptr: masked_load(f, tile, f.gep(ptr, whole, tile.scalar), mask)
    return horizontal_sums(f, tile, _outer(f, tile, loop.values, [tail(p) for p in lines], [tail(p) for p in others]))


def _dot_rest(f: Function, tile: Tile, sums: list[Val], lines: list[Val], others: list[Val], whole: Val) -> list[Val]:
    """Add the products of the last, incomplete vector one by one."""
    with f.loop(whole, DOT_PARAMETERS[0], 1, sums) as loop:
        load = lambda ptr: f.load(f.gep(ptr, loop.index, tile.scalar), tile.scalar, tile.align)
        loop.next(_outer(f, tile, loop.values, [load(p) for p in lines], [load(p) for p in others]))
    return loop.values


def _outer(f: Function, tile: Tile, sums: list[Val], left: list[Val], right: list[Val]) -> list[Val]:
    return [multiply_add(f, tile, a, b, sums[i * len(right) + j]) for i, a in enumerate(left) for j, b in enumerate(right)]


def horizontal_sums(f: Function, tile: Tile, vectors: list[Val]) -> list[Val]:
    """The sum of each vector's lanes. Halves are added to halves, two vectors at a time, in the same order for all."""
    result: list[Val] = []
    lanes = tile.lanes
    for start in range(0, len(vectors), lanes):
        group = vectors[start:start + lanes]
        padded = group + [group[-1]] * (lanes - len(group))
        # Vectors i and i + half meet first, so that lane i ends up with the sum of vector i.
        half = lanes // 2
        while half:
            padded = [_add_halves(f, padded[i], padded[i + half], half, lanes) for i in range(half)]
            half //= 2
        result += [f.op(f"extractelement {padded[0]}, i32 {i}", tile.scalar) for i in range(len(group))]
    return result


def _add_halves(f: Function, a: Val, b: Val, half: int, lanes: int) -> Val:
    """In blocks of 2 * half lanes: the first half becomes the folded block of a, the second that of b."""
    low = [i if not i & half else lanes + (i ^ half) for i in range(lanes)]
    high = [(i | half) if not i & half else lanes + i for i in range(lanes)]
    return add(f, shuffle(f, a, b, low), shuffle(f, a, b, high))


# -- stream ----------------------------------------------------------------------------------------------------------
def _emit_stream(module: Module, tile: Tile, rows: int) -> str:
    name = f"stream_{tile.suffix}_{rows}"
    f = Function(module, name, STREAM_PARAMETERS, linkage="internal", attributes="nounwind noinline")
    k, columns = STREAM_PARAMETERS[0], STREAM_PARAMETERS[-1]
    depth = max(2, min(8, (24 if tile.masked or tile.rows == 8 else 10) // rows))
    with f.loop(ZERO, columns, STREAM_WIDTH) as block:
        width = f.smin(f.sub(columns, block.index), const("i64", STREAM_WIDTH))
        whole = f.mul(f.binary("udiv", k, const("i64", depth)), depth)
        for low, high, unroll in ((ZERO, whole, depth), (whole, k, 1)):
            with f.loop(low, high, unroll) as step:
                _stream_group(f, tile, rows, unroll, step.index, block.index, width)
    f.line("ret void")
    f.finish()
    return name


def _stream_group(f: Function, tile: Tile, rows: int, unroll: int, k: Val, column: Val, width: Val) -> None:
    """C[:, columns] += A[:, k : k + unroll] B[k : k + unroll, columns]; the first group starts from 0."""
    _, a, a_row, a_col, b, b_row, c, c_row, _ = STREAM_PARAMETERS
    factor = [[f.load(f.gep(a, f.add(f.mul(a_row, i), f.mul(f.add(k, u), a_col)), tile.scalar), tile.scalar, tile.align)
               for u in range(unroll)] for i in range(rows)]
    lines = [f.gep(b, f.add(f.mul(f.add(k, u), b_row), column), tile.scalar) for u in range(unroll)]
    targets = [f.gep(c, f.add(f.mul(c_row, i), column), tile.scalar) for i in range(rows)]
    first = f.compare("eq", k, ZERO)
    whole = f.mul(f.binary("udiv", width, const("i64", tile.lanes)), tile.lanes)
    broadcast = [[f.splat(x, tile.lanes) for x in row] for row in factor]
    with f.loop(ZERO, whole, tile.lanes) as loop:
        _stream_columns(f, tile, loop.index, targets, lines, broadcast, first, None)
    if tile.masked:
        rest = f.sub(width, whole)
        with f.if_(f.compare("sgt", rest, ZERO)):
            _stream_columns(f, tile, whole, targets, lines, broadcast, first, lane_mask(f, tile.lanes, rest))
    else:
        with f.loop(whole, width) as loop:
            _stream_columns(f, tile, loop.index, targets, lines, factor, first, None)


def _stream_columns(f: Function, tile: Tile, index: Val, targets: list[Val], lines: list[Val], factor: list[list[Val]],
                    first: Val, mask: Val | None) -> None:
    """One vector (or one element, by the type of `factor`) of columns."""
    ty = factor[0][0].ty
    zero = Val(ty, "zeroinitializer") if ty.startswith("<") else const(ty, 0)
    load = lambda ptr: masked_load(f, tile, ptr, mask) if mask else f.load(ptr, ty, tile.align)
    places = [f.gep(t, index, tile.scalar) for t in targets]
    sums = [f.select(first, zero, load(place)) for place in places]
    for u, line in enumerate(lines):
        row = load(f.gep(line, index, tile.scalar))
        sums = [multiply_add(f, tile, factor[i][u], row, total) for i, total in enumerate(sums)]
    for place, total in zip(places, sums, strict=True):
        if mask:
            masked_store(f, tile, total, place, mask)
        else:
            f.store(total, place, tile.align)
