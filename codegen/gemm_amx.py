"""Products of bfloat16 matrices on Intel's matrix unit (AMX): tiles of 16 rows of 64 bytes, eight of them.

Four tiles hold 32 x 32 results while two of A and two of B are multiplied, sixteen words (pairs of numbers) of K at a time. Rows of A are
copied and panels of B packed so that K is a whole number of such steps; edges of C are finished in a copy. An operand that is contiguous
the other way has two of its lines interleaved into words. See the Intel Architecture Instruction Set
Extensions Programming Reference, chapter 3. A process must ask for
the tiles first: `treadle.codegen.target.matrix_unit`.
"""
from __future__ import annotations

from treadle.codegen.gemm_micro import ZERO, Tile, ceil_div
from treadle.codegen.gemm_plan import Word
from treadle.codegen.llvm_text import Function, Module, Val, const

TILE_ROWS, TILE_WORDS = 16, 16
BLOCK = 2 * TILE_ROWS
# Bytes of packed A, of packed B and of the whole.
A_BYTES, B_BYTES = 1 << 20, 8 << 20
# Of results that are in the second-level cache still when the epilogue reads them.
C_BYTES = 1 << 18
_COPY_BYTES = 4 * BLOCK * BLOCK


def emit_amx(module: Module, tile: Tile) -> None:
    """`amx_body_<type>`, with the parameters of the other bodies of gemm.py."""
    config = bytes([1, 0, *[0] * 14, *[64, 0] * 8, *[0] * 16, *[TILE_ROWS] * 8, *[0] * 8])
    text = "".join([f"\\{byte:02X}" for byte in config])
    module.globals.append(f'@amx_config = internal constant [64 x i8] c"{text}", align 64')
    for name, signature in (("ldtilecfg", "void (ptr)"), ("tilerelease", "void ()"), ("tilezero", "void (i8)"),
                            ("tileloadd64", "void (i8, ptr, i64)"), ("tilestored64", "void (i8, ptr, i64)"),
                            ("tdpbf16ps", "void (i8, i8, i8)")):
        module.declare(f"llvm.x86.{name}", signature)
    _emit_micro(module)
    _emit_copy_rows(module)
    _emit_pack_a(module, tile)
    _emit_body(module, tile)


def _tile_op(f: Function, name: str, *arguments: Val | int) -> None:
    text = ", ".join([f"i8 {a}" if isinstance(a, int) else str(a) for a in arguments])
    f.line(f"call void @llvm.x86.{name}({text})")


def _arg(f: Function, word: Word, ty: str = "i64") -> Val:
    return f.load(f.gep(Val("ptr", "%args"), int(word), "i64"), ty)


def _emit_micro(module: Module) -> None:
    """32 x 32 results: A is rows of `k` words, B a panel of 32 words per step of K; C has `c_row` bytes from row to row."""
    k, a, b, c, c_row = Val("i64", "%k"), Val("ptr", "%a"), Val("ptr", "%b"), Val("ptr", "%c"), Val("i64", "%c_row")
    f = Function(module, "amx_micro", [k, a, b, c, c_row], linkage="internal", attributes="nounwind noinline")
    a_row, b_row = f.mul(k, 4), const("i64", 4 * BLOCK)
    for number in range(4):
        _tile_op(f, "tilezero", number)
    below = f.gep(a, f.mul(a_row, TILE_ROWS), "i8")
    with f.loop(ZERO, k, TILE_WORDS) as step:
        line = f.gep(b, f.mul(step.index, BLOCK), "i32")
        _tile_op(f, "tileloadd64", 4, f.gep(a, step.index, "i32"), a_row)
        _tile_op(f, "tileloadd64", 6, line, b_row)
        _tile_op(f, "tdpbf16ps", 0, 4, 6)
        _tile_op(f, "tileloadd64", 7, f.gep(line, TILE_WORDS, "i32"), b_row)
        _tile_op(f, "tdpbf16ps", 1, 4, 7)
        _tile_op(f, "tileloadd64", 5, f.gep(below, step.index, "i32"), a_row)
        _tile_op(f, "tdpbf16ps", 2, 5, 6)
        _tile_op(f, "tdpbf16ps", 3, 5, 7)
    lower = f.gep(c, f.mul(c_row, TILE_ROWS), "i8")
    for number, place in enumerate((c, f.gep(c, TILE_WORDS, "float"), lower, f.gep(lower, TILE_WORDS, "float"))):
        _tile_op(f, "tilestored64", number, place, c_row)
    f.line("ret void")
    f.finish()


def _emit_copy_rows(module: Module) -> None:
    """Rows of A, `k` words each and `a_row` numbers apart, to rows of `padded` words that end in zeros."""
    rows, k, padded, a, a_row, to = (Val("i64", "%rows"), Val("i64", "%k"), Val("i64", "%padded"), Val("ptr", "%a"), Val("i64", "%a_row"),
                                     Val("ptr", "%to"))
    f = Function(module, "amx_copy_rows", [rows, k, padded, a, a_row, to], linkage="internal", attributes="nounwind noinline")
    f.module.declare("llvm.memcpy.p0.p0.i64", "void (ptr, ptr, i64, i1)")
    with f.loop(ZERO, rows) as row:
        source, target = f.gep(a, f.mul(row.index, a_row), "i16"), f.gep(to, f.mul(row.index, padded), "i32")
        f.line(f"call void @llvm.memcpy.p0.p0.i64({target}, {source}, {f.mul(k, 4)}, i1 false)")
        _clear(f, f.gep(target, k, "i32"), f.mul(f.sub(padded, k), 4))
    f.line("ret void")
    f.finish()


def _interleave(f: Function, count: Val, k: Val, padded: Val, source: Val, pitch: Val, to: Val) -> None:
    """Up to 32 columns of lines that are `pitch` numbers apart: lines 2i and 2i + 1 become 32 words, lines past the last zeros."""
    f.line(f"call void @interleave_{BLOCK}({count}, {k}, {source}, {pitch}, {to})")
    _clear(f, f.gep(to, f.mul(k, BLOCK), "i32"), f.mul(f.sub(padded, k), 4 * BLOCK))


def _clear(f: Function, to: Val, size: Val) -> None:
    f.module.declare("llvm.memset.p0.i64", "void (ptr, i8, i64, i1)")
    f.line(f"call void @llvm.memset.p0.i64({to}, i8 0, {size}, i1 false)")


def _emit_pack_a(module: Module, tile: Tile) -> None:
    """Rows of A to rows of `padded` words, copied, or interleaved into `temporary` and transposed."""
    rows, k, padded, a, a_row, a_column, to, temporary = (Val("i64", "%rows"), Val("i64", "%k"), Val("i64", "%padded"), Val("ptr", "%a"),
                                                          Val("i64", "%a_row"), Val("i64", "%a_column"), Val("ptr", "%to"),
                                                          Val("ptr", "%temporary"))
    f = Function(module, "amx_pack_a", [rows, k, padded, a, a_row, a_column, to, temporary], linkage="internal")
    along, across, done = f.label("along"), f.label("across"), f.label("done")
    f.branch_if(f.compare("eq", a_column, const("i64", 1)), along, across)
    f.start(along)
    f.line(f"call void @amx_copy_rows({rows}, {k}, {padded}, {a}, {a_row}, {to})")
    f.branch(done)
    f.start(across)
    with f.loop(ZERO, rows, BLOCK) as part:
        count = f.smin(const("i64", BLOCK), f.sub(rows, part.index))
        _interleave(f, count, k, padded, f.gep(a, part.index, "i16"), a_column, temporary)
        target = f.gep(to, f.mul(part.index, padded), "i32")
        arguments = [padded, const("i64", BLOCK), temporary, const("i64", BLOCK), const("i64", 1), target, padded]
        f.line(f"call void @pack_panel_{tile.suffix}({', '.join(map(str, arguments))})")
    f.branch(done)
    f.start(done)
    f.line("ret void")
    f.finish()


def _emit_body(module: Module, tile: Tile) -> None:
    """Columns in blocks whose packed panels fit their buffer; rows in blocks that stay in the second-level cache."""
    args, a, b, c, scratch = Val("ptr", "%args"), Val("ptr", "%a"), Val("ptr", "%b"), Val("ptr", "%c"), Val("ptr", "%scratch")
    rows, columns, row, column, batch = (Val("i64", f"%{n}") for n in ("rows", "columns", "row", "column", "batch"))
    f = Function(module, f"amx_body_{tile.suffix}", [args, a, b, c, rows, columns, row, column, batch, scratch], linkage="internal")
    k = _arg(f, Word.K)
    padded = f.mul(ceil_div(f, k, TILE_WORDS), TILE_WORDS)
    panel_bytes = f.mul(padded, 4 * BLOCK)
    most = [f.smax(f.binary("udiv", const("i64", size), panel_bytes), const("i64", 1)) for size in (A_BYTES, B_BYTES)]
    most_rows, width = [f.mul(panels, BLOCK) for panels in most]
    packed_a, temporary, packed_b = (f.gep(scratch, _COPY_BYTES + n * A_BYTES, "i8") for n in range(3))
    _tile_op(f, "ldtilecfg", Val("ptr", "@amx_config"))
    with f.loop(ZERO, columns, width) as block:
        wide = f.smin(width, f.sub(columns, block.index))
        fit = f.mul(f.smax(f.binary("udiv", const("i64", C_BYTES // (4 * BLOCK)), f.smax(wide, const("i64", 1))), const("i64", 1)), BLOCK)
        height = f.smin(most_rows, fit)
        _pack_b(f, tile, wide, k, padded, f.gep(b, f.mul(block.index, _arg(f, Word.B_COLUMN)), "i16"), packed_b)
        with f.loop(ZERO, rows, height) as high:
            lines = f.smin(height, f.sub(rows, high.index))
            source = f.gep(a, f.mul(high.index, _arg(f, Word.A_ROW)), "i16")
            packing = [lines, k, padded, source, _arg(f, Word.A_ROW), _arg(f, Word.A_COLUMN), packed_a, temporary]
            f.line(f"call void @amx_pack_a({', '.join(map(str, packing))})")
            with f.loop(ZERO, wide, BLOCK) as panel, f.loop(ZERO, lines, BLOCK) as part:
                place = f.add(f.mul(f.add(high.index, part.index), _arg(f, Word.C_ROW)), f.add(block.index, panel.index))
                _block(f, padded, f.smin(const("i64", BLOCK), f.sub(lines, part.index)),
                       f.smin(const("i64", BLOCK), f.sub(wide, panel.index)), f.gep(packed_a, f.mul(part.index, padded), "i32"),
                       f.gep(packed_b, f.mul(panel.index, padded), "i32"), f.gep(c, place, "float"))
            bounds = [f.add(row, high.index), lines, f.add(column, block.index), wide, batch]
            f.line(f"call void @epilogue({args}, {', '.join(map(str, bounds))})")
    _tile_op(f, "tilerelease")
    f.line("ret void")
    f.finish()


def _pack_b(f: Function, tile: Tile, columns: Val, k: Val, padded: Val, b: Val, to: Val) -> None:
    """Panels of 32 columns: the words of one k side by side, and zeros after the last."""
    with f.loop(ZERO, columns, BLOCK) as panel:
        count = f.smin(const("i64", BLOCK), f.sub(columns, panel.index))
        source, target = f.gep(b, f.mul(panel.index, _arg(f, Word.B_COLUMN)), "i16"), f.gep(to, f.mul(panel.index, padded), "i32")
        along, across, done = f.label("along"), f.label("across"), f.label("done")
        f.branch_if(f.compare("eq", _arg(f, Word.B_ROW), const("i64", 1)), along, across)
        f.start(along)
        pitch = f.binary("lshr", _arg(f, Word.B_COLUMN), const("i64", 1))
        arguments = [count, k, source, pitch, const("i64", 1), target, const("i64", BLOCK)]
        f.line(f"call void @pack_panel_{tile.suffix}({', '.join(map(str, arguments))})")
        _clear(f, f.gep(target, f.mul(k, BLOCK), "i32"), f.mul(f.sub(padded, k), 4 * BLOCK))
        f.branch(done)
        f.start(across)
        _interleave(f, count, k, padded, source, _arg(f, Word.B_ROW), target)
        f.branch(done)
        f.start(done)


def _block(f: Function, k: Val, rows: Val, columns: Val, a: Val, b: Val, c: Val) -> None:
    """Whole blocks go straight to C; of others, what exists is copied there."""
    size = const("i64", BLOCK)
    whole, edge, done = f.label("whole"), f.label("edge"), f.label("done")
    full = f.binary("and", f.compare("eq", rows, size), f.compare("eq", columns, size))
    f.branch_if(full, whole, edge)
    f.start(whole)
    c_row = f.mul(_arg(f, Word.C_ROW), 4)
    f.line(f"call void @amx_micro({k}, {a}, {b}, {c}, {c_row})")
    f.branch(done)
    f.start(edge)
    copy = Val("ptr", "%scratch")
    f.line(f"call void @amx_micro({k}, {a}, {b}, {copy}, i64 {4 * BLOCK})")
    with f.loop(ZERO, rows) as line:
        source = f.gep(copy, f.mul(line.index, BLOCK), "float")
        target = f.gep(c, f.mul(line.index, _arg(f, Word.C_ROW)), "float")
        f.line(f"call void @llvm.memcpy.p0.p0.i64({target}, {source}, {f.mul(columns, 4)}, i1 false)")
    f.branch(done)
    f.start(done)
