"""Matrix products C[b, m, n] = A[b, m, k] @ B[b, k, n] as kernels of the common calling convention.

One module per element type holds everything; sizes and strides are run-time arguments, so it is compiled once. Units are
tiles of C: `gemm_plan.py` decides how C is cut and which kernel computes it, here is what each kernel does with a tile.
K is never divided between threads, so a result has the same bits for any number of them.
"""
from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from functools import partial

from treadle.codegen.forking import compiling
from treadle.codegen.gemm_amx import emit_amx
from treadle.codegen.gemm_int8 import int8_functions
from treadle.codegen.gemm_micro import CACHE_LINE, ZERO, Tile, ceil_div, emit_micro_kernels, product_tile
from treadle.codegen.gemm_pack import emit_pack
from treadle.codegen.gemm_pairs import emit_pack_pairs
from treadle.codegen.gemm_plan import WINDOWS, Word
from treadle.codegen.gemm_small import GROUP, emit_small_kernels
from treadle.codegen.gemm_windows import emit_windows
from treadle.codegen.jit import CompiledModule, compile_texts, meanwhile, processors
from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.target import Target, host

# Columns of B that stay in the second-level cache, beside the block of A.
GROUP_COLUMNS = 256
# Panels of A that walk through a group together: few enough that their rows of C are found without page table walks, and that
# the epilogue finds what they computed in the second-level cache.
BLOCK_PANELS = 6
# So many panels of A read strips of B in place; for more of them the first one leaves them packed, unless B lies well.
IN_PLACE_PANELS = 2
# B's rows of a block cover at most so many bytes then, which the tables of pages reach.
NEAR_BYTES = 1 << 20

# Every body computes rows x columns of C at (row, column) of batch element `batch`; pointers are to the tile's corner.
BODY_PARAMETERS = [
    Val("ptr", "%args"), Val("ptr", "%a"), Val("ptr", "%b"), Val("ptr", "%c"), Val("i64", "%rows"), Val("i64", "%columns"),
    Val("i64", "%row"), Val("i64", "%column"), Val("i64", "%batch"), Val("ptr", "%scratch"),
]


def gemm_text(target: Target, dtype: str) -> str:
    """LLVM text of all matrix kernels of an element type."""
    return _gemm_functions(target, dtype).text()


def _gemm_functions(target: Target, dtype: str) -> Module:
    if dtype == "int8":
        return int8_functions(target)
    module = Module()
    tile = product_tile(target, dtype)
    emit_micro_kernels(module, tile, copying=not tile.product)
    emit_pack(module, tile)
    if not tile.product:
        emit_windows(module, tile)
    if tile.product:
        emit_pack_pairs(module, tile)
    emit_small_kernels(module, tile)
    _emit_epilogue(module)
    for kind, emit in (("blocked", _emit_blocked), ("dot", _emit_dot), ("stream", _emit_stream)):
        emit(module, tile)
        _emit_entry(module, tile, kind, _element(tile) if kind == "blocked" else "")
    if dtype == "bfloat16" and target.has("amx-bf16"):
        emit_amx(module, tile)
        _emit_entry(module, tile, "amx", "i16")
    return module


PIECES = 6  # of a module: what threads share
_MODULES: dict[str, CompiledModule] = {}
_LOCK = threading.Lock()


def gemm_module(dtype: str) -> CompiledModule:
    """The compiled matrix kernels for `float32`, `float64`, `bfloat16` or `int8` (KeyError otherwise); kept for the life of the process."""
    if dtype not in _MODULES:
        with compiling(part=True), _LOCK:
            if dtype not in _MODULES:
                _MODULES[dtype] = compile_texts(_gemm_functions(host(), dtype).texts(PIECES), processors(), passes=False)
    return _MODULES[dtype]


def loading(symbols: Iterable[str]) -> AbstractContextManager[None]:
    """The modules of these kernels are made in threads of their own meanwhile. A fault shows when an address is asked for."""
    def load(dtype: str) -> None:
        with suppress(Exception):
            gemm_module(dtype)
    missing = sorted({symbol.rsplit("_", 1)[1] for symbol in symbols} - _MODULES.keys())
    return meanwhile([partial(load, dtype) for dtype in missing])


def gemm_address(symbol: str) -> int:
    """The address of a kernel named by `gemm_plan.gemm_step`."""
    return gemm_module(symbol.rsplit("_", 1)[1]).address(symbol)


def _arg(f: Function, word: Word, ty: str = "i64") -> Val:
    return f.load(f.gep(Val("ptr", "%args"), int(word), "i64"), ty)


def _call(f: Function, name: str, *arguments: Val) -> None:
    f.line(f"call void @{name}({', '.join(map(str, arguments))})")


def _element(tile: Tile) -> str:
    """What the strides of A and B count in blocked products: words are made of single numbers when they are packed."""
    return "i16" if tile.product else tile.scalar


# -- from units to tiles ---------------------------------------------------------------------------------------------
def _emit_entry(module: Module, tile: Tile, kind: str, element: str = "") -> None:
    """`gemm_<kind>_<dtype>(args, lo, hi, scratch)`: units count columns of tiles fastest, then rows, then the batch."""
    low, high = Val("i64", "%lo"), Val("i64", "%hi")
    f = Function(module, f"gemm_{kind}_{tile.dtype}", [Val("ptr", "%args"), low, high, Val("ptr", "%scratch")])
    m, n = _arg(f, Word.M), _arg(f, Word.N)
    height, width = _arg(f, Word.TILE_ROWS), _arg(f, Word.TILE_COLUMNS)
    across, down = ceil_div(f, n, width), ceil_div(f, m, height)
    with f.loop(low, high) as unit:
        line = f.binary("udiv", unit.index, across)
        column = f.mul(f.sub(unit.index, f.mul(line, across)), width)
        batch = f.binary("udiv", line, down)
        row = f.mul(f.sub(line, f.mul(batch, down)), height)
        a = _corner(f, element or tile.scalar, Word.A, batch, [(row, Word.A_ROW)])
        b = _corner(f, element or tile.scalar, Word.B, batch, [(column, Word.B_COLUMN)])
        c = _corner(f, tile.scalar, Word.C, batch, [(row, Word.C_ROW), (column, Word.C_COLUMN)])
        rows, columns = f.smin(height, f.sub(m, row)), f.smin(width, f.sub(n, column))
        _call(f, f"{kind}_body_{tile.suffix}", Val("ptr", "%args"), a, b, c, rows, columns, row, column, batch, Val("ptr", "%scratch"))
    f.line("ret void")
    f.finish()


def _corner(f: Function, element: str, operand: Word, batch: Val, offsets: list[tuple[Val, Word]]) -> Val:
    """The address of an operand at a batch element (two strides) plus (index, stride) offsets."""
    inner_count = _arg(f, Word.INNER_BATCH)
    outer = f.binary("udiv", batch, inner_count)
    inner = f.sub(batch, f.mul(outer, inner_count))
    first = {Word.A: Word.A_OUTER, Word.B: Word.B_OUTER, Word.C: Word.C_OUTER}[operand]
    place = f.add(f.mul(outer, _arg(f, first)), f.mul(inner, _arg(f, Word(first + 1))))
    for index, stride in offsets:
        place = f.add(place, f.mul(index, _arg(f, stride)))
    return f.gep(_arg(f, operand, "ptr"), place, element)


def _emit_epilogue(module: Module) -> None:
    """`epilogue(args, row, rows, column, columns, batch)`: tell the caller's function, if any, that a block is final."""
    names = [Val("ptr", "%args"), *(Val("i64", f"%{n}") for n in ("row", "rows", "column", "columns", "batch"))]
    f = Function(module, "epilogue", names, linkage="internal")
    _, row, rows, column, columns, batch = names
    fn = _arg(f, Word.EPILOGUE, "ptr")
    with f.if_(f.compare("ne", fn, Val("ptr", "null"))):
        swapped = f.compare("ne", _arg(f, Word.SWAPPED), ZERO)
        ranges = [row, f.add(row, rows)], [column, f.add(column, columns)]
        bounds = [f.select(swapped, y, x) for x, y in zip(ranges[0] + ranges[1], ranges[1] + ranges[0], strict=True)]
        f.line(f"call void {fn.name}({_arg(f, Word.EPILOGUE_ARGS, 'ptr')}, {', '.join(map(str, bounds))}, {batch})")
    f.line("ret void")
    f.finish()


# -- blocked: packed panels and register tiles -----------------------------------------------------------------------
def _emit_blocked(module: Module, tile: Tile) -> None:
    """Blocks of K, then of M: A's block stays in the second-level cache while strips of B go past it."""
    f = Function(module, f"blocked_body_{tile.suffix}", BODY_PARAMETERS, linkage="internal")
    args, a, b, c, rows, columns, row, column, batch, scratch = BODY_PARAMETERS
    k, element = _arg(f, Word.K), _element(tile)
    depth = ceil_div(f, k, f.smax(ceil_div(f, k, tile.depth), const("i64", 1)))
    height = ceil_div(f, rows, ceil_div(f, rows, tile.height))
    _emit_macro(module, tile)
    with f.if_(f.compare("eq", k, ZERO)):
        _fill_zeros(f, tile, c, rows, columns)
        _call(f, "epilogue", args, row, rows, column, columns, batch)
    with f.loop(ZERO, k, f.smax(depth, const("i64", 1))) as deep:
        steps = f.smin(depth, f.sub(k, deep.index))
        number = f.mul(deep.index, 2) if tile.product else deep.index
        b_place = f.gep(b, f.mul(number, _arg(f, Word.B_ROW)), element)
        with f.loop(ZERO, rows, height) as high:
            lines = f.smin(height, f.sub(rows, high.index))
            a_place = f.add(f.mul(high.index, _arg(f, Word.A_ROW)), f.mul(number, _arg(f, Word.A_COLUMN)))
            c_place = f.mul(high.index, _arg(f, Word.C_ROW))
            _call(f, f"macro_{tile.suffix}", args, f.gep(a, a_place, element), b_place, f.gep(c, c_place, tile.scalar), lines,
                  columns, f.add(row, high.index), column, batch, deep.index, steps, scratch)
    f.line("ret void")
    f.finish()


def _fill_zeros(f: Function, tile: Tile, c: Val, rows: Val, columns: Val) -> None:
    with f.loop(ZERO, rows) as line:
        start = f.gep(c, f.mul(line.index, _arg(f, Word.C_ROW)), tile.scalar)
        f.module.declare("llvm.memset.p0.i64", "void (ptr, i8, i64, i1)")
        f.line(f"call void @llvm.memset.p0.i64({start}, i8 0, {f.mul(columns, tile.align)}, i1 false)")


MACRO_PARAMETERS = [
    Val("ptr", "%args"), Val("ptr", "%a"), Val("ptr", "%b"), Val("ptr", "%c"), Val("i64", "%rows"), Val("i64", "%columns"),
    Val("i64", "%row"), Val("i64", "%column"), Val("i64", "%batch"), Val("i64", "%first"), Val("i64", "%steps"), Val("ptr", "%scratch"),
]


def _emit_macro(module: Module, tile: Tile) -> None:
    """Pack a block of A, multiply it by the strips of B, and run the epilogue when this was the last of K."""
    f = Function(module, f"macro_{tile.suffix}", MACRO_PARAMETERS, linkage="internal", attributes="nounwind noinline")
    args, a, b, _, rows, columns, row, column, batch, first, steps, scratch = MACRO_PARAMETERS
    packs = f.compare("ne", _arg(f, Word.PACK_B), ZERO)
    resting = _reads_in_place(f, tile, b, rows, steps)
    no = Val("i1", "false")
    copies, in_place = f.select(packs, no, f.select(resting, no, Val("i1", "true"))), f.select(packs, no, resting)
    height = f.select(copies, const("i64", tile.rows), ceil_div(f, rows, ceil_div(f, rows, tile.rows)))
    panel_size, strip_size = f.mul(steps, tile.pack), f.mul(steps, tile.columns)
    packed = f.gep(scratch, tile.packed_a_bytes, "i8")
    pack = "pack_pairs_{}" if tile.product else f"pack_{{}}_{tile.suffix}"
    _call(f, pack.format("a"), rows, height, steps, a, _arg(f, Word.A_ROW), _arg(f, Word.A_COLUMN), scratch)
    final = f.compare("sge", f.add(first, steps), _arg(f, Word.K))
    block = f.mul(height, BLOCK_PANELS)
    with f.loop(ZERO, columns, GROUP_COLUMNS) as group:
        end = f.smin(columns, f.add(group.index, GROUP_COLUMNS))
        source = f.gep(b, f.mul(group.index, _arg(f, Word.B_COLUMN)), _element(tile))
        with f.if_(packs):
            _pack_group(f, tile, pack.format("b"), f.sub(end, group.index), f.add(column, group.index), source, packed)
        with f.loop(ZERO, rows, block, [scratch]) as high:
            fresh = f.select(f.compare("eq", high.index, ZERO), copies, Val("i1", "false"))
            bounds = high.index, f.smin(rows, f.add(high.index, block)), height
            with f.loop(group.index, end, tile.columns, [source, packed]) as strip:
                width = f.smin(const("i64", tile.columns), f.sub(end, strip.index))
                _strip(f, tile, bounds, high.values[0], [*strip.values, f.select(copies, fresh, in_place)], strip.index, width, fresh)
                strip.next([f.gep(strip.values[0], tile.columns, tile.scalar), f.gep(strip.values[1], strip_size, tile.scalar)])
            with f.if_(final):
                lines = f.sub(bounds[1], high.index)
                _call(f, "epilogue", args, f.add(row, high.index), lines, f.add(column, group.index), f.sub(end, group.index), batch)
            high.next([f.gep(high.values[0], f.mul(panel_size, BLOCK_PANELS), tile.scalar)])
    f.line("ret void")
    f.finish()


def _pack_group(f: Function, tile: Tile, pack: str, count: Val, column: Val, source: Val, packed: Val) -> None:
    """Strips of B from a matrix by the function `pack` or, for windows, from an image."""
    steps, first = Val("i64", "%steps"), Val("i64", "%first")
    windows, matrix, done = f.label("windows"), f.label("matrix"), f.label("packed")
    f.branch_if(f.compare("sge", _arg(f, Word.PACK_B), const("i64", WINDOWS)), windows, matrix)
    f.start(windows)
    if not tile.product:
        table = f.gep(packed, tile.depth * GROUP_COLUMNS * tile.align, "i8")
        _call(f, f"pack_windows_{tile.suffix}", Val("ptr", "%args"), count, steps, first, column, source, packed, table)
    f.branch(done)
    f.start(matrix)
    strides = _arg(f, Word.B_COLUMN), _arg(f, Word.B_ROW)
    _call(f, pack, count, const("i64", tile.columns), steps, source, *strides, packed)
    f.branch(done)
    f.start(done)


def _reads_in_place(f: Function, tile: Tile, b: Val, rows: Val, steps: Val) -> Val:
    """Whether each panel reads strips of B where they are: few panels, or vectors of B within cache lines near each other."""
    row_bytes = f.mul(_arg(f, Word.B_ROW), tile.align)
    place = f.binary("or", f.op(f"ptrtoint {b} to i64", "i64"), row_bytes)
    straight = f.compare("eq", f.binary("and", place, const("i64", CACHE_LINE - 1)), ZERO)
    near = f.compare("sle", f.mul(row_bytes, steps), const("i64", NEAR_BYTES))
    few = f.compare("sle", rows, const("i64", IN_PLACE_PANELS * tile.rows))
    return f.binary("or", few, f.binary("and", straight, near))


def _strip(f: Function, tile: Tile, bounds: tuple[Val, Val, Val], a: Val, b: list[Val], column: Val, width: Val, fresh: Val) -> None:
    """Some packed panels of A times one strip of B: in place, packed, or (`fresh`) packed by the first panel for the others.

    `b`: the strip's address in place and packed, and whether the first panel reads it in place.
    """
    steps, c = Val("i64", "%steps"), Val("ptr", "%c")
    low, high, height = bounds
    source, packed, in_place = b
    fixed = const("i64", tile.columns)
    start = [f.select(in_place, source, packed), f.select(in_place, _arg(f, Word.B_ROW), fixed)]
    ahead = f.select(in_place, fixed, f.mul(steps, tile.columns))
    with f.loop(low, high, height, [*start, f.cast("zext", fresh, "i64"), a]) as panel:
        place, stride, extra, lines_of_a = panel.values
        target = f.gep(c, f.add(f.mul(panel.index, _arg(f, Word.C_ROW)), column), tile.scalar)
        lines = f.smin(height, f.sub(high, panel.index))
        _register_tile(f, tile, lines, f.add(lines, extra), width, [steps, lines_of_a, place, stride, target], [ahead, packed])
        next_a = f.gep(lines_of_a, f.mul(steps, tile.pack), tile.scalar)
        panel.next([f.select(fresh, packed, place), f.select(fresh, fixed, stride), ZERO, next_a])


def _register_tile(f: Function, tile: Tile, rows: Val, kind: Val, width: Val, operands: list[Val], rest: list[Val]) -> None:
    """Call the micro-kernel in row `kind` of the table; tiles without masks finish edges in a copy.

    `operands`: k, A, B, B's row stride and C; `rest`: how far ahead B is fetched, and where a copying kernel packs it.
    """
    c_row = _arg(f, Word.C_ROW)
    again = f.compare("ne", Val("i64", "%first"), ZERO)
    vectors = ceil_div(f, width, tile.lanes) if tile.masked else const("i64", tile.vectors)
    index = f.add(f.mul(kind, tile.vectors + 1), vectors)
    kernel = f.load(f.gep(Val("ptr", f"@micro_{tile.suffix}"), index, "ptr"), "ptr")
    direct = f"call void {kernel.name}({', '.join(map(str, [*operands, c_row, width, again, *rest]))})"
    if tile.masked:
        f.line(direct)
        return
    whole, edge, done = f.label("whole"), f.label("edge"), f.label("done")
    f.branch_if(f.compare("eq", width, const("i64", tile.columns)), whole, edge)
    f.start(whole)
    f.line(direct)
    f.branch(done)
    f.start(edge)
    _edge_tile(f, tile, kernel, rows, width, operands, again, rest)
    f.branch(done)
    f.start(done)


def _edge_tile(f: Function, tile: Tile, kernel: Val, rows: Val, width: Val, operands: list[Val], again: Val, rest: list[Val]) -> None:
    """Compute the whole tile into a copy and add its valid elements to C (or store them, the first time)."""
    target, c_row = operands[-1], _arg(f, Word.C_ROW)
    copy = Val("ptr", f.fresh("copy"))
    f.allocas.append(f"  {copy.name} = alloca [{tile.rows * tile.columns} x {tile.scalar}], align 64")
    fixed = const("i64", tile.columns), width, Val("i1", "false")
    f.line(f"call void {kernel.name}({', '.join(map(str, [*operands[:-1], copy, *fixed, *rest]))})")
    with f.loop(ZERO, rows) as line:
        source = f.gep(copy, f.mul(line.index, tile.columns), tile.scalar)
        to = f.gep(target, f.mul(line.index, c_row), tile.scalar)
        with f.loop(ZERO, width) as element:
            value, place = f.load(f.gep(source, element.index, tile.scalar), tile.scalar), f.gep(to, element.index, tile.scalar)
            old = f.select(again, f.load(place, tile.scalar, tile.align), const(tile.scalar, 0))
            f.store(f.binary("fadd", old, value), place, tile.align)


# -- few rows --------------------------------------------------------------------------------------------------------
def _emit_dot(module: Module, tile: Tile) -> None:
    """Rows in even groups over the same columns of B. A that is not contiguous along K is copied first."""
    f = Function(module, f"dot_body_{tile.suffix}", BODY_PARAMETERS, linkage="internal")
    args, a, b, c, rows, columns, row, column, batch, scratch = BODY_PARAMETERS
    k = _arg(f, Word.K)
    copied = f.compare("ne", _arg(f, Word.A_COLUMN), const("i64", 1))
    with f.if_(copied):
        # The general packer with the roles of i and k exchanged: line after line along k.
        _call(f, f"pack_any_{tile.suffix}", k, rows, a, _arg(f, Word.A_COLUMN), _arg(f, Word.A_ROW), scratch, k)
    lines, a_row = f.select(copied, scratch, a), f.select(copied, k, _arg(f, Word.A_ROW))
    group = ceil_div(f, rows, ceil_div(f, rows, GROUP))
    c_row, c_column, b_column = _arg(f, Word.C_ROW), _arg(f, Word.C_COLUMN), _arg(f, Word.B_COLUMN)
    # So many columns of B are read again for each group of rows while they are in the second-level cache.
    block = f.select(f.compare("sle", rows, const("i64", GROUP)), columns, const("i64", 24))
    with f.loop(ZERO, columns, block) as strip:
        width = f.smin(block, f.sub(columns, strip.index))
        b_strip = f.gep(b, f.mul(strip.index, b_column), tile.scalar)
        with f.loop(ZERO, rows, group) as some:
            count = f.smin(group, f.sub(rows, some.index))
            kernel = f.load(f.gep(Val("ptr", f"@dot_{tile.suffix}"), count, "ptr"), "ptr")
            place = f.add(f.mul(some.index, c_row), f.mul(strip.index, c_column))
            operands = [k, f.gep(lines, f.mul(some.index, a_row), tile.scalar), a_row, b_strip, b_column,
                        f.gep(c, place, tile.scalar), c_row, c_column, width]
            f.line(f"call void {kernel.name}({', '.join(map(str, operands))})")
    _call(f, "epilogue", args, row, rows, column, columns, batch)
    f.line("ret void")
    f.finish()


def _emit_stream(module: Module, tile: Tile) -> None:
    f = Function(module, f"stream_body_{tile.suffix}", BODY_PARAMETERS, linkage="internal")
    args, a, b, c, rows, columns, row, column, batch, _ = BODY_PARAMETERS
    kernel = f.load(f.gep(Val("ptr", f"@stream_{tile.suffix}"), rows, "ptr"), "ptr")
    operands = [_arg(f, Word.K), a, _arg(f, Word.A_ROW), _arg(f, Word.A_COLUMN), b, _arg(f, Word.B_ROW), c, _arg(f, Word.C_ROW), columns]
    f.line(f"call void {kernel.name}({', '.join(map(str, operands))})")
    _call(f, "epilogue", args, row, rows, column, columns, batch)
    f.line("ret void")
    f.finish()
