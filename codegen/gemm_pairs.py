"""Packing of bfloat16 matrices into words: pairs of numbers that follow each other along K, as the micro-kernels multiply them.

Where K is the contiguous axis the pairs lie in memory as words, and packing is that of 32-bit values (gemm_pack.py). Where it is
the other axis, two lines are interleaved. Strides here count numbers; panels are as in gemm_pack.py, of words.
"""
from __future__ import annotations

from treadle.codegen.gemm_micro import ZERO, Tile, lane_mask
from treadle.codegen.gemm_pack import BLOCK_PARAMETERS, GROUP
from treadle.codegen.llvm_text import Function, Module, Val, const, vector_type

# Elements of a panel, words of K, source with the stride of K, destination with the words of a step.
REST_PARAMETERS = [Val("i64", "%count"), Val("i64", "%k"), Val("ptr", "%source"), Val("i64", "%pitch"), Val("ptr", "%to")]


def emit_pack_pairs(module: Module, tile: Tile) -> None:
    """`pack_pairs_<a|b>(total, panel, k, source, along_i, along_k, to)`, beside the packers of gemm_pack.py. One stride is 1."""
    for kind, width in (("a", tile.pack), ("b", tile.columns)):
        emit_interleave(module, tile, width)
        _emit_side_by_side(module, tile, kind, width)
        _emit_block(module, tile, kind, width)


def _emit_block(module: Module, tile: Tile, kind: str, width: int) -> None:
    total, panel, k, source, along_i, along_k, to, _ = BLOCK_PARAMETERS
    f = Function(module, f"pack_pairs_{kind}", BLOCK_PARAMETERS[:-1], linkage="internal")
    one, wide = const("i64", 1), const("i64", width)
    along, across, done = f.label("along"), f.label("across"), f.label("done")
    f.branch_if(f.compare("eq", along_k, one), along, across)
    f.start(along)
    words = f.binary("lshr", along_i, one)
    f.line(f"call void @pack_{kind}_{tile.suffix}({total}, {panel}, {k}, {source}, {words}, {one}, {to})")
    f.branch(done)
    f.start(across)
    # Panels that may read a full width: what is not theirs goes to places that are not used.
    fit = f.select(f.compare("slt", total, wide), ZERO, f.add(f.binary("udiv", f.sub(total, wide), panel), 1))
    f.line(f"call void @pairs_side_by_side_{kind}({fit}, {panel}, {k}, {source}, {along_k}, {to})")
    with f.loop(f.mul(fit, panel), total, panel) as rest:
        count = f.smin(panel, f.sub(total, rest.index))
        target = f.gep(to, f.mul(f.binary("udiv", rest.index, panel), f.mul(k, wide)), tile.scalar)
        f.line(f"call void @interleave_{width}({count}, {k}, {f.gep(source, rest.index, 'i16')}, {along_k}, {target})")
    f.branch(done)
    f.start(done)
    f.line("ret void")
    f.finish()


def _word(f: Function, low: Val, high: Val) -> Val:
    low, high = f.cast("zext", low, "i32"), f.cast("zext", high, "i32")
    return f.binary("or", low, f.binary("shl", high, const(high.ty, 16)))


def _emit_side_by_side(module: Module, tile: Tile, kind: str, width: int) -> None:
    """Whole panels: for each word of K, one run of two lines over a group of panels."""
    panels, panel, k, source = Val("i64", "%panels"), Val("i64", "%panel"), Val("i64", "%k"), Val("ptr", "%source")
    pitch, to = Val("i64", "%pitch"), Val("ptr", "%to")
    f = Function(module, f"pairs_side_by_side_{kind}", [panels, panel, k, source, pitch, to], linkage="internal",
                 attributes="nounwind noinline")
    halves = vector_type("i16", tile.lanes)
    size, twice = f.mul(k, width), f.mul(pitch, 2)
    with f.loop(ZERO, panels, GROUP) as group:
        count = f.smin(const("i64", GROUP), f.sub(panels, group.index))
        first, place = f.gep(source, f.mul(group.index, panel), "i16"), f.gep(to, f.mul(group.index, size), tile.scalar)
        with f.loop(ZERO, k, 1, [first, place]) as step:
            second = f.gep(step.values[0], pitch, "i16")
            with f.loop(ZERO, count, 1, [step.values[0], second, step.values[1]]) as one:
                low, high, target = one.values
                for v in range(0, width, tile.lanes):
                    pair = [f.load(f.gep(line, v, "i16"), halves, 2) for line in (low, high)]
                    f.store(_word(f, *pair), f.gep(target, v, tile.scalar), tile.align)
                one.next([f.gep(low, panel, "i16"), f.gep(high, panel, "i16"), f.gep(target, size, tile.scalar)])
            step.next([f.gep(step.values[0], twice, "i16"), f.gep(step.values[1], width, tile.scalar)])
    f.line("ret void")
    f.finish()


def emit_interleave(module: Module, tile: Tile, width: int) -> None:
    """`interleave_<width>(count, k, source, pitch, to)`: up to `width` numbers of 2k lines as k steps of `width` words."""
    count, k, source, pitch, to = REST_PARAMETERS
    f = Function(module, f"interleave_{width}", REST_PARAMETERS, linkage="internal", attributes="nounwind noinline")
    masks = [lane_mask(f, tile.lanes, f.smax(f.sub(count, v), ZERO)) for v in range(0, width, tile.lanes)] if tile.masked else []
    with f.loop(ZERO, k) as step:
        first = f.gep(source, f.mul(f.mul(step.index, 2), pitch), "i16")
        lines, target = (first, f.gep(first, pitch, "i16")), f.gep(to, f.mul(step.index, width), tile.scalar)
        for v, mask in enumerate(masks):
            pair = [_masked_halves(f, tile, f.gep(line, v * tile.lanes, "i16"), mask) for line in lines]
            f.store(_word(f, *pair), f.gep(target, v * tile.lanes, tile.scalar), tile.align)
        if not masks:
            with f.loop(ZERO, count) as element:
                pair = [f.load(f.gep(line, element.index, "i16"), "i16") for line in lines]
                f.store(_word(f, *pair), f.gep(target, element.index, "i32"), tile.align)
    f.line("ret void")
    f.finish()


def _masked_halves(f: Function, tile: Tile, place: Val, mask: Val) -> Val:
    halves = vector_type("i16", tile.lanes)
    name = f"llvm.masked.load.v{tile.lanes}i16.p0"
    f.module.declare(name, f"{halves} (ptr, {mask.ty}, {halves})")
    return f.op(f"call {halves} @{name}(ptr align 2 {place.name}, {mask}, {halves} zeroinitializer)", halves)
