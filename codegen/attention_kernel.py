"""Attention forwards as LLVM IR, without ever storing the scores (FlashAttention, Dao et al. 2022).

A unit is a block of queries of one head. Its panels of queries go past one block of keys after the other; the largest score so far,
the sum of exponentials and the weighted sum of values of each query are brought up to date (online softmax, Milakov and
Gimelshein 2018). What is written is the result and, for the backward pass, the logarithm of the sum of exponentials.
"""
from __future__ import annotations

from treadle.codegen.attention_tile import (
    ARGS,
    MINUS_INF,
    ZERO,
    Panels,
    by_elements,
    by_keys,
    exp_below_one,
    kept,
    pack_queries,
    panels_for,
    scaled_scores,
)
from treadle.codegen.gemm_micro import ceil_div
from treadle.codegen.gemm_pack import transposed
from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.maths import MATHS
from treadle.codegen.maths_core import INF
from treadle.codegen.target import Target
from treadle.codegen.vector_memory import first_lanes, store_vector
from treadle.ir.routine import KEY_BLOCK, Routine

# Of each query of a panel, in rows of scratch memory: the largest score, the sum of exponentials, what old sums shrink by.
LARGEST, TOTAL, SHRINK, STATE = 0, 1, 2, 3


def emit_attention(module: Module, routine: Routine, name: str, target: Target) -> None:
    """Add the routine's function, and those it is made of, to the module."""
    t = panels_for(module, routine, name, target)
    for vectors in (1, 2):
        _emit_open(t, vectors)
        _emit_scores(t, vectors)
        _emit_values(t, vectors)
        _emit_close(t, vectors)
    _emit_block(t)
    low, high, scratch = Val("i64", "%lo"), Val("i64", "%hi"), Val("ptr", "%scratch")
    f = Function(module, name, [ARGS, low, high, scratch])
    with f.loop(low, high) as unit:
        t.call(f, "block", unit.index, scratch)
    f.line("ret void")
    f.finish()




def _emit_block(t: Panels) -> None:
    """All panels of a unit past all blocks of keys."""
    unit, scratch = Val("i64", "%unit"), Val("ptr", "%scratch")
    f = t.function("block", [unit, scratch])
    rows, keys = t.arg(f, "rows"), t.arg(f, "keys")
    blocks = t.arg(f, "blocks")
    head = f.binary("udiv", unit, blocks)
    first = f.mul(alternating(f, f.sub(unit, f.mul(head, blocks)), blocks), t.arg(f, "block"))
    batch = f.binary("udiv", head, t.arg(f, "heads"))
    inner = f.sub(head, f.mul(batch, t.arg(f, "heads")))
    group = f.binary("udiv", inner, t.arg(f, "group"))
    last = f.smin(f.add(first, t.arg(f, "block")), rows)
    weights = scratch
    panels = f.gep(scratch, 2 * KEY_BLOCK * t.width, "float")
    step = f.mul(f.add(f.add(t.arg(f, "size"), t.arg(f, "depth")), STATE + t.lanes), t.width)
    q = t.at(f, "q", (batch, "q_batch"), (inner, "q_head"))
    k, v = (t.at(f, x, (batch, f"{x}_batch"), (group, f"{x}_head")) for x in "kv")
    mask = mask_of(f, t, batch, inner)
    with f.loop(first, last, t.width, [panels]) as panel:
        rest = f.sub(rows, panel.index)
        t.by_width(f, "open", rest, f.gep(q, f.mul(panel.index, t.arg(f, "q_row")), "float"), rest, panel.values[0])
        panel.next([f.gep(panel.values[0], step, "float")])
    with f.loop(ZERO, f.smin(keys, last) if "causal" in t.words else keys, KEY_BLOCK) as block:
        k_block, v_block = (f.gep(x, f.mul(block.index, t.arg(f, f"{n}_row")), "float") for x, n in ((k, "k"), (v, "v")))
        with f.loop(first, last, t.width, [panels]) as panel:
            count = seen_keys(f, t, block.index, panel.index)
            with f.if_(f.compare("sgt", count, ZERO)):
                rest = f.sub(rows, panel.index)
                t.by_width(f, "scores", rest, k_block, block.index, count, panel.index, head, mask, panel.values[0], weights)
                t.by_width(f, "values", rest, v_block, count, panel.values[0], weights)
            panel.next([f.gep(panel.values[0], step, "float")])
    with f.loop(first, last, t.width, [panels]) as panel:
        out = t.at(f, "out", (batch, "out_batch"), (inner, "out_head"), (panel.index, "out_row"))
        lse = f.gep(t.arg(f, "lse", "ptr"), f.add(f.mul(head, rows), panel.index), "float")
        rest = f.sub(rows, panel.index)
        t.by_width(f, "close", rest, out, lse, rest, panel.values[0])
        panel.next([f.gep(panel.values[0], step, "float")])
    f.line("ret void")
    f.finish()


def alternating(f: Function, index: Val, count: Val) -> Val:
    """0, count - 1, 1, count - 2, ...: causal blocks grow, and threads get neighbours."""
    half = f.binary("lshr", index, const("i64", 1))
    return f.select(f.compare("eq", f.binary("and", index, const("i64", 1)), ZERO), half, f.sub(f.sub(count, 1), half))


def mask_of(f: Function, t: Panels, batch: Val, head: Val) -> Val:
    place = f.add(f.mul(batch, t.arg(f, "mask_batch")), f.mul(head, t.arg(f, "mask_head")))
    return f.gep(t.arg(f, "mask", "ptr"), place, "i8" if "bool" in t.words else "float")


def seen_keys(f: Function, t: Panels, first: Val, row: Val) -> Val:
    """How many keys of the block at `first` the panel at `row` looks at; for a causal one, none above the diagonal of its last query."""
    count = f.smin(f.sub(t.arg(f, "keys"), first), const("i64", KEY_BLOCK))
    if "causal" not in t.words:
        return count
    return f.smin(count, f.sub(f.smin(f.add(row, t.width), t.arg(f, "rows")), first))


# -- a panel of queries ----------------------------------------------------------------------------------------------
PANEL = Val("ptr", "%panel")


def _state(f: Function, t: Panels, which: int, vectors: int) -> list[Val]:
    start = f.add(f.mul(f.add(t.arg(f, "size"), t.arg(f, "depth")), t.width), which * t.width)
    return [f.gep(f.gep(PANEL, start, "float"), v * t.lanes, "float") for v in range(vectors)]


def _sums(f: Function, t: Panels) -> Val:
    """Where a panel's weighted sums of values are, [element][query]: behind its packed queries."""
    return f.gep(PANEL, f.mul(t.arg(f, "size"), t.width), "float")


def _load(f: Function, t: Panels, place: Val) -> Val:
    return f.load(place, t.tile.vector, 4)


def _emit_open(t: Panels, vectors: int) -> None:
    """Pack the queries; no key has been seen yet."""
    q, rest = Val("ptr", "%q"), Val("i64", "%rest")
    f = t.function(f"open{vectors}", [q, rest, PANEL])
    pack_queries(f, t, q, t.arg(f, "q_row"), rest, t.arg(f, "size"), PANEL, vectors)
    for which, value in ((LARGEST, MINUS_INF), (TOTAL, 0.0)):
        for place in _state(f, t, which, vectors):
            f.store(const(t.tile.vector, value), place, 4)
    clear(f, _sums(f, t), f.mul(t.arg(f, "depth"), vectors * t.lanes))
    f.line("ret void")
    f.finish()


def clear(f: Function, start: Val, count: Val) -> None:
    """Zero `count` floats."""
    f.module.declare("llvm.memset.p0.i64", "void (ptr, i8, i64, i1)")
    f.line(f"call void @llvm.memset.p0.i64({start}, i8 0, {f.mul(count, 4)}, i1 false)")


def _emit_scores(t: Panels, vectors: int) -> None:
    """Scores of a block of keys, then their exponentials relative to the largest score so far: the weights."""
    keys, mask, weights = (Val("ptr", f"%{n}") for n in ("keys", "mask", "weights"))
    first, count, row, head = (Val("i64", f"%{n}") for n in ("first", "count", "row", "head"))
    f = t.function(f"scores{vectors}", [keys, first, count, row, head, mask, PANEL, weights])
    width, last = vectors * t.lanes, f.sub(count, 1)
    size, stride = t.arg(f, "size"), t.arg(f, "k_row")
    old = [_load(f, t, p) for p in _state(f, t, LARGEST, vectors)]
    with f.loop(ZERO, count, t.tile.rows, old) as loop:
        sums = by_keys(f, t, keys, stride, loop.index, last, PANEL, size, vectors)
        # Rows behind the last key repeat it: they change no maximum and are not read again.
        numbers = [f.add(first, f.smin(f.add(loop.index, r), last)) for r in range(t.tile.rows)]
        scores = scaled_scores(f, t, sums, numbers, row, mask, vectors)
        largest = list(loop.values)
        line = f.gep(weights, f.mul(loop.index, width), "float")
        for i, x in enumerate(scores):
            f.store(x, f.gep(line, i * t.lanes, "float"), 4)
            largest[i % vectors] = larger(f, largest[i % vectors], x)
        loop.next(largest)
    _weigh(f, t, loop.values, old, count, (head, row, first), weights, vectors)
    f.line("ret void")
    f.finish()


def larger(f: Function, a: Val, b: Val) -> Val:
    return f.select(f.compare("ogt", b, a), b, a)


def _weigh(f: Function, t: Panels, largest: list[Val], old: list[Val], count: Val, where: tuple[Val, Val, Val], weights: Val,
           vectors: int) -> None:
    """Scores to weights, in place, and the panel's state. A query that sees no key yet keeps weights of 0."""
    width, ty = vectors * t.lanes, t.tile.vector
    zero = const(ty, 0)
    base = [f.select(f.compare("oeq", m, const(ty, MINUS_INF)), zero, m) for m in largest]
    shrink = [exp_below_one(f, f.binary("fsub", a, b)) for a, b in zip(old, base, strict=True)]
    draws = "dropout" in t.words
    head, row, first = where
    with f.loop(ZERO, count, 4 if draws else 1, [zero] * vectors) as loop:
        totals = list(loop.values)
        keep = kept(f, t, head, row, f.add(first, loop.index), vectors) if draws else []
        line = f.gep(weights, f.mul(loop.index, width), "float")
        for i in range(4 if draws else 1):
            # Up to three keys behind the last are drawn for as well; they do not count.
            real = f.splat(f.compare("slt", f.add(loop.index, i), count), t.lanes) if i else None
            for v in range(vectors):
                place = f.gep(line, (i * vectors + v) * t.lanes, "float")
                e = exp_below_one(f, f.binary("fsub", _load(f, t, place), base[v]))
                totals[v] = f.binary("fadd", totals[v], e if real is None else f.select(real, e, zero))
                f.store(f.select(keep[i][v], e, zero) if draws else e, place, 4)
        loop.next(totals)
    for v, (m, place) in enumerate(zip(largest, _state(f, t, LARGEST, vectors), strict=True)):
        f.store(m, place, 4)
        total = _state(f, t, TOTAL, vectors)[v]
        f.store(f.fma(_load(f, t, total), shrink[v], loop.values[v]), total, 4)
        f.store(shrink[v], _state(f, t, SHRINK, vectors)[v], 4)


def _emit_values(t: Panels, vectors: int) -> None:
    """Shrink the sums of values, and add those of a block of keys."""
    values, weights, count = Val("ptr", "%values"), Val("ptr", "%weights"), Val("i64", "%count")
    f = t.function(f"values{vectors}", [values, count, PANEL, weights])
    width, sums = vectors * t.lanes, _sums(f, t)
    shrink = [_load(f, t, p) for p in _state(f, t, SHRINK, vectors)]
    stride = t.arg(f, "v_row")
    with f.loop(ZERO, t.arg(f, "depth"), t.tile.rows) as loop:
        found = by_elements(f, t, f.gep(values, loop.index, "float"), stride, weights, count, vectors)
        line = f.gep(sums, f.mul(loop.index, width), "float")
        for i, x in enumerate(found):
            place = f.gep(line, i * t.lanes, "float")
            f.store(f.fma(_load(f, t, place), shrink[i % vectors], x), place, 4)
    f.line("ret void")
    f.finish()


def _emit_close(t: Panels, vectors: int) -> None:
    """Divide by the sums of exponentials and write the rows of the result."""
    out, lse, rest = Val("ptr", "%out"), Val("ptr", "%lse"), Val("i64", "%rest")
    f = t.function(f"close{vectors}", [out, lse, rest, PANEL])
    sums, ty = _sums(f, t), t.tile.vector
    factors = []
    for v in range(vectors):
        total, m = (_load(f, t, _state(f, t, which, vectors)[v]) for which in (TOTAL, LARGEST))
        nothing = f.compare("oeq", total, const(ty, 0))
        kept_share = f.binary("fsub", const(ty, 1), t.number(f, "p"))
        factors.append(f.select(nothing, const(ty, 0), f.binary("fdiv", const(ty, 1), f.binary("fmul", kept_share, total))))
        value = f.select(nothing, const(ty, INF), f.binary("fadd", m, MATHS["log"](f, total)))
        mask = first_lanes(f, f.smax(f.sub(rest, v * t.lanes), ZERO), t.lanes)
        store_vector(f, value, f.gep(lse, v * t.lanes, "float"), mask)
    write_rows(f, t, sums, factors, t.arg(f, "depth"), out, t.arg(f, "out_row"), rest, vectors)
    f.line("ret void")
    f.finish()


def write_rows(f: Function, t: Panels, sums: Val, factors: list[Val] | None, size: Val, out: Val, stride: Val, rest: Val,
               vectors: int) -> None:
    """`sums[element][query]` times the factor of each query as rows of the result, of which there are `rest`."""
    width = vectors * t.lanes
    if factors is not None:
        with f.loop(ZERO, size) as loop:
            for v, factor in enumerate(factors):
                place = f.gep(f.gep(sums, f.mul(loop.index, width), "float"), v * t.lanes, "float")
                f.store(f.binary("fmul", _load(f, t, place), factor), place, 4)
    with f.loop(ZERO, ceil_div(f, size, t.lanes)) as square:
        element = f.mul(square.index, t.lanes)
        mask = first_lanes(f, f.sub(size, element), t.lanes)
        for v in range(vectors):
            start = f.gep(f.gep(sums, f.mul(element, width), "float"), v * t.lanes, "float")
            rows = transposed(f, t.tile, [f.gep(start, i * width, "float") for i in range(t.lanes)])
            for i, value in enumerate(rows):
                number = v * t.lanes + i
                with f.if_(f.compare("slt", const("i64", number), rest)):
                    store_vector(f, value, f.gep(f.gep(out, f.mul(stride, number), "float"), element, "float"), mask)
