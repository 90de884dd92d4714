"""Packing of matrix panels: values that a micro-kernel reads together are put next to each other.

A panel has `width` places per k; place i of step k holds source element (i, k). Places without an element keep whatever
was there: results made from them are never stored.
"""
from __future__ import annotations

from treadle.codegen.gemm_micro import ZERO, Tile, lane_mask, masked_load
from treadle.codegen.llvm_text import Function, Module, Val, const

# count elements in the panel, k steps, source with the strides of i and of k, destination with the stride of k.
PARAMETERS = [
    Val("i64", "%count"), Val("i64", "%k"), Val("ptr", "%source"), Val("i64", "%along_i"), Val("i64", "%along_k"),
    Val("ptr", "%to"), Val("i64", "%width"),
]


def emit_pack(module: Module, tile: Tile) -> None:
    """`pack_<type>(count, k, source, along_i, along_k, to, width)`, for `count` from 1 to `width`, in vector-wide strips."""
    _emit_transposing(module, tile)
    _emit_copying(module, tile)
    _emit_general(module, tile)
    count, k, source, along_i, along_k, to, width = PARAMETERS
    f = Function(module, f"pack_{tile.suffix}", PARAMETERS, linkage="internal")
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


def _emit_general(module: Module, tile: Tile) -> None:
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


def _emit_transposing(module: Module, tile: Tile) -> None:
    """Elements of one i are contiguous along k: transpose squares of vectors, then the rest by elements."""
    count, k, source, along_i, _, to, width = PARAMETERS
    f = _strip(module, tile, "rows")
    last = f.sub(count, 1)
    starts = [f.gep(source, f.mul(f.smin(const("i64", i), last), along_i), tile.scalar) for i in range(tile.lanes)]
    whole = f.mul(f.binary("udiv", k, const("i64", tile.lanes)), tile.lanes)
    with f.loop(ZERO, whole, tile.lanes) as step:
        rows = [f.load(f.gep(start, step.index, tile.scalar), tile.vector, tile.align) for start in starts]
        place = f.gep(to, f.mul(step.index, width), tile.scalar)
        for i, row in enumerate(transpose(f, rows)):
            f.store(row, f.gep(place, f.mul(width, i), tile.scalar), tile.align)
    rest = [count, f.sub(k, whole), f.gep(source, whole, tile.scalar), along_i, const("i64", 1),
            f.gep(to, f.mul(whole, width), tile.scalar), width]
    f.line(f"call void @pack_any_{tile.suffix}({', '.join(map(str, rest))})")
    f.line("ret void")
    f.finish()


def transpose(f: Function, rows: list[Val]) -> list[Val]:
    """Transpose a square of vectors: log2(lanes) rounds that exchange the off-diagonal quarters of 2s x 2s squares."""
    lanes = len(rows)
    stride = 1
    while stride < lanes:
        low = [j if not j & stride else lanes + (j ^ stride) for j in range(lanes)]
        high = [(j | stride) if not j & stride else lanes + j for j in range(lanes)]
        result = list(rows)
        for i in range(lanes):
            if not i & stride:
                result[i] = shuffle(f, rows[i], rows[i | stride], low)
                result[i | stride] = shuffle(f, rows[i], rows[i | stride], high)
        rows, stride = result, stride * 2
    return rows


def shuffle(f: Function, a: Val, b: Val, order: list[int]) -> Val:
    """The lanes `order` of the concatenation of two vectors of one type."""
    indices = "<" + ", ".join(f"i32 {i}" for i in order) + ">"
    return f.op(f"shufflevector {a}, {b}, <{len(order)} x i32> {indices}", a.ty)
