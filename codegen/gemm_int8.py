"""Products of unsigned bytes with packed signed weights, summed in int32: the micro-kernels of gemm_micro.py on words of four bytes.

The weights come in panels that lie in memory as they are read, so nothing of B is packed at run time. A row of A is short:
K is not cut into blocks, and every element of C is stored once.
"""
from __future__ import annotations

from treadle.codegen.gemm_micro import ZERO, Tile, ceil_div, emit_micro_kernels, product_tile
from treadle.codegen.gemm_pack import emit_pack
from treadle.codegen.gemm_plan import INT8_PANEL, Word
from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.target import Target

# Panels of A that are multiplied by a panel of B while it stays in the first-level cache.
PANELS = 4
# Bytes of packed A: rows of a unit beyond it come in several groups.
SCRATCH = 8 << 20
EPILOGUE_COLUMNS = 256


def int8_functions(target: Target) -> Module:
    """`gemm_packed_int8(args, lo, hi, scratch)`, the arguments as in `gemm_plan.Word`."""
    module = Module()
    tile = product_tile(target, "int8")
    emit_micro_kernels(module, tile)
    emit_pack(module, tile)
    _emit_entry(module, tile)
    return module


def _arg(f: Function, word: Word, ty: str = "i64") -> Val:
    return f.load(f.gep(Val("ptr", "%args"), int(word), "i64"), ty)


def _emit_entry(module: Module, tile: Tile) -> None:
    """Units count columns of tiles fastest; a tile is done in groups of rows, packed together."""
    low, high = Val("i64", "%lo"), Val("i64", "%hi")
    f = Function(module, "gemm_packed_int8", [Val("ptr", "%args"), low, high, Val("ptr", "%scratch")])
    m, n, k = _arg(f, Word.M), _arg(f, Word.N), _arg(f, Word.K)
    height, width = _arg(f, Word.TILE_ROWS), _arg(f, Word.TILE_COLUMNS)
    across = ceil_div(f, n, width)
    # As many panels as scratch memory takes, at least one.
    panel_bytes = f.mul(f.smax(k, const("i64", 1)), 4 * tile.pack)
    fit = f.smin(const("i64", PANELS), f.smax(f.binary("udiv", const("i64", SCRATCH), panel_bytes), const("i64", 1)))
    most = f.mul(fit, tile.rows)
    with f.loop(low, high) as unit:
        down = f.binary("udiv", unit.index, across)
        column, first = f.mul(f.sub(unit.index, f.mul(down, across)), width), f.mul(down, height)
        columns, end = f.smin(width, f.sub(n, column)), f.smin(f.add(first, height), m)
        with f.loop(first, end, most) as group:
            rows = f.smin(most, f.sub(end, group.index))
            _group(f, tile, group.index, rows, column, columns)
    f.line("ret void")
    f.finish()


def _group(f: Function, tile: Tile, row: Val, rows: Val, column: Val, columns: Val) -> None:
    """Pack the rows into even panels, then walk through the columns; the epilogue sees a few hundred of them at a time."""
    k, scratch = _arg(f, Word.K), Val("ptr", "%scratch")
    height = ceil_div(f, rows, ceil_div(f, rows, const("i64", tile.rows)))
    a = f.gep(_arg(f, Word.A, "ptr"), f.mul(row, _arg(f, Word.A_ROW)), tile.scalar)
    packing = [rows, height, k, a, _arg(f, Word.A_ROW), const("i64", 1), scratch]
    f.line(f"call void @pack_a_{tile.suffix}({', '.join(map(str, packing))})")
    last = f.add(column, columns)
    with f.loop(column, last, EPILOGUE_COLUMNS) as block:
        end = f.smin(last, f.add(block.index, EPILOGUE_COLUMNS))
        with f.loop(block.index, end, tile.columns) as strip:
            panel = f.binary("udiv", strip.index, const("i64", INT8_PANEL))
            inside = f.sub(strip.index, f.mul(panel, INT8_PANEL))
            b = f.gep(_arg(f, Word.B, "ptr"), f.add(f.mul(f.mul(panel, k), INT8_PANEL), inside), tile.scalar)
            width = f.smin(const("i64", tile.columns), f.sub(end, strip.index))
            with f.loop(ZERO, rows, height) as some:
                place = f.mul(f.binary("udiv", some.index, height), f.mul(k, tile.pack))
                target = f.add(f.mul(f.add(row, some.index), _arg(f, Word.C_ROW)), strip.index)
                _tile(f, tile, f.smin(height, f.sub(rows, some.index)), width, f.gep(scratch, place, tile.scalar), b,
                      f.gep(_arg(f, Word.C, "ptr"), target, tile.scalar))
        _epilogue(f, row, rows, block.index, end)


def _tile(f: Function, tile: Tile, rows: Val, width: Val, a: Val, b: Val, c: Val) -> None:
    """One register tile. Without masks it is computed into a copy, of which the columns that exist are stored."""
    k, c_row = _arg(f, Word.K), _arg(f, Word.C_ROW)
    vectors = ceil_div(f, width, tile.lanes) if tile.masked else const("i64", tile.vectors)
    kernel = f.load(f.gep(Val("ptr", f"@micro_{tile.suffix}"), f.add(f.mul(rows, tile.vectors + 1), vectors), "ptr"), "ptr")
    again, b_row = Val("i1", "false"), const("i64", INT8_PANEL)
    ahead = f.mul(k, INT8_PANEL), Val("ptr", "null")
    if tile.masked:
        f.line(f"call void {kernel.name}({', '.join(map(str, [k, a, b, b_row, c, c_row, width, again, *ahead]))})")
        return
    copy = Val("ptr", f.fresh("copy"))
    f.allocas.append(f"  {copy.name} = alloca [{tile.rows * tile.columns} x {tile.scalar}], align 64")
    fixed = const("i64", tile.columns)
    f.line(f"call void {kernel.name}({', '.join(map(str, [k, a, b, b_row, copy, fixed, width, again, *ahead]))})")
    with f.loop(ZERO, rows) as line:
        source, to = f.gep(copy, f.mul(line.index, tile.columns), tile.scalar), f.gep(c, f.mul(line.index, c_row), tile.scalar)
        with f.loop(ZERO, width) as element:
            f.store(f.load(f.gep(source, element.index, tile.scalar), tile.scalar), f.gep(to, element.index, tile.scalar), tile.align)


def _epilogue(f: Function, row: Val, rows: Val, column: Val, end: Val) -> None:
    """Tell the caller's function, if any, that a block is final."""
    fn = _arg(f, Word.EPILOGUE, "ptr")
    with f.if_(f.compare("ne", fn, Val("ptr", "null"))):
        bounds = [row, f.add(row, rows), column, end, ZERO]
        f.line(f"call void {fn.name}({_arg(f, Word.EPILOGUE_ARGS, 'ptr')}, {', '.join(map(str, bounds))})")
