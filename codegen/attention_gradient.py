"""The gradient of attention as LLVM IR: weights are made again, block by block, from the saved logarithms of sums (Dao et al. 2022).

With w the weights and dw their gradient g @ value.T, each query's scores have the gradient ds = scale w (dw - sum(g * out)).
Then dq = ds @ key, dk = ds.T @ query and dv = w.T @ g. A unit owns what it adds to: some queries, some keys, or all of a
head of keys with the queries that look at it; the sums go in the same order in each case.
"""
from __future__ import annotations

from treadle.codegen.attention_kernel import PANEL, alternating, clear, mask_of, seen_keys, write_rows
from treadle.codegen.attention_tile import (
    ARGS,
    ZERO,
    Panels,
    by_elements,
    by_keys,
    by_queries,
    exp_below_one,
    kept,
    pack_queries,
    panels_for,
    scaled_scores,
)
from treadle.codegen.gemm_micro import ceil_div
from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.maths_core import INF
from treadle.codegen.target import Target
from treadle.codegen.vector_memory import first_lanes, load_vector, store_vector
from treadle.ir.routine import KEY_BLOCK, ONLY_KEYS, ONLY_QUERIES, Routine

# Queries whose panels go past a block of keys together.
TOGETHER = 128


def emit_attention_gradient(module: Module, routine: Routine, name: str, target: Target) -> None:
    """Add the routine's function, and those it is made of, to the module."""
    t = panels_for(module, routine, name, target)
    for vectors in (1, 2):
        _emit_open(t, vectors)
        _emit_weights(t, vectors)
        _emit_to_keys(t, vectors)
        _emit_to_queries(t, vectors)
        _emit_close(t, vectors)
    _emit_panels(t)
    low, high, scratch = Val("i64", "%lo"), Val("i64", "%hi"), Val("ptr", "%scratch")
    f = Function(module, name, [ARGS, low, high, scratch])
    with f.loop(low, high) as unit:
        _unit(f, t, unit.index, scratch)
    f.line("ret void")
    f.finish()


# -- units -----------------------------------------------------------------------------------------------------------
def _unit(f: Function, t: Panels, unit: Val, scratch: Val) -> None:
    """What the unit owns; then all blocks of queries of all heads that have to do with it."""
    heads, group, rows, keys, blocks, size = (t.arg(f, n) for n in ("heads", "group", "rows", "keys", "blocks", "block"))
    queries = f.compare("eq", t.arg(f, "phase"), const("i64", ONLY_QUERIES))
    owner = f.binary("udiv", unit, blocks)
    part = f.sub(unit, f.mul(owner, blocks))
    owners = f.select(queries, heads, f.binary("udiv", heads, group))
    batch = f.binary("udiv", owner, owners)
    inner = f.sub(owner, f.mul(batch, owners))
    first_head = f.select(queries, inner, f.mul(inner, group))
    last_head = f.add(first_head, f.select(queries, const("i64", 1), group))
    of_keys = f.binary("udiv", first_head, group)
    row, key = f.mul(alternating(f, part, blocks), size), f.mul(part, size)
    low_row, high_row = f.select(queries, row, ZERO), f.select(queries, f.smin(f.add(row, size), rows), rows)
    low_key, high_key = f.select(queries, ZERO, key), f.select(queries, keys, f.smin(f.add(key, size), keys))
    place = f.add(f.mul(f.add(f.mul(batch, f.binary("udiv", heads, group)), of_keys), keys), low_key)
    with f.if_(f.compare("ne", t.arg(f, "phase"), const("i64", ONLY_QUERIES))):
        for name, length in (("dk", "size"), ("dv", "depth")):
            clear(f, f.gep(t.arg(f, name, "ptr"), f.mul(place, t.arg(f, length)), "float"),
                  f.mul(f.sub(high_key, low_key), t.arg(f, length)))
    with f.loop(first_head, last_head) as head:
        with f.loop(low_row, high_row, TOGETHER) as block:
            end = f.smin(f.add(block.index, TOGETHER), high_row)
            t.call(f, "panels", batch, head.index, of_keys, block.index, end, low_key, high_key, scratch)


def _emit_panels(t: Panels) -> None:
    """Some panels of one head past the blocks of keys from `low` to `high`."""
    scratch = Val("ptr", "%scratch")
    batch, head, group, first, last, low, high = (Val("i64", f"%{n}") for n in ("batch", "head", "group", "first", "last", "low", "high"))
    f = t.function("panels", [batch, head, group, first, last, low, high, scratch])
    rows, keys, heads = t.arg(f, "rows"), t.arg(f, "keys"), t.arg(f, "heads")
    number = f.add(f.mul(batch, heads), head)
    weights, changes = scratch, f.gep(scratch, 2 * KEY_BLOCK * t.width, "float")
    panels, step = f.gep(scratch, 4 * KEY_BLOCK * t.width, "float"), _panel_size(f, t)
    q, g, out = (t.at(f, x, (batch, f"{x}_batch"), (head, f"{x}_head")) for x in ("q", "g", "out"))
    k, v = (t.at(f, x, (batch, f"{x}_batch"), (group, f"{x}_head")) for x in "kv")
    mask = mask_of(f, t, batch, head)
    line = f.mul(number, rows)
    place = f.mul(f.add(f.mul(batch, f.binary("udiv", heads, t.arg(f, "group"))), group), keys)
    owns_queries = f.compare("ne", t.arg(f, "phase"), const("i64", ONLY_KEYS))
    owns_keys = f.compare("ne", t.arg(f, "phase"), const("i64", ONLY_QUERIES))
    with f.loop(first, last, t.width, [panels]) as panel:
        starts = [f.gep(x, f.mul(panel.index, t.arg(f, f"{n}_row")), "float") for x, n in ((q, "q"), (g, "g"), (out, "out"))]
        lse = f.gep(t.arg(f, "lse", "ptr"), f.add(line, panel.index), "float")
        rest = f.sub(rows, panel.index)
        t.by_width(f, "open", rest, *starts, lse, rest, panel.values[0])
        panel.next([f.gep(panel.values[0], step, "float")])
    with f.loop(low, f.smin(high, last) if "causal" in t.words else high, KEY_BLOCK) as block:
        k_block, v_block = (f.gep(x, f.mul(block.index, t.arg(f, f"{n}_row")), "float") for x, n in ((k, "k"), (v, "v")))
        with f.loop(first, last, t.width, [panels]) as panel:
            at = panel.values[0]
            count = f.smin(seen_keys(f, t, block.index, panel.index), f.sub(high, block.index))
            with f.if_(f.compare("sgt", count, ZERO)):
                rest = f.sub(rows, panel.index)
                t.by_width(f, "weights", rest, k_block, v_block, block.index, count, panel.index, number, mask, at, weights, changes)
                with f.if_(owns_keys):
                    for made, name, matrix, length in ((weights, "dv", _rows_of_g(f, t, at), "depth"),
                                                       (changes, "dk", _rows_of_q(f, t, at), "size")):
                        target = f.gep(t.arg(f, name, "ptr"), f.mul(f.add(place, block.index), t.arg(f, length)), "float")
                        t.by_width(f, "to_keys", rest, made, matrix, t.arg(f, length), target, count)
                with f.if_(owns_queries):
                    t.by_width(f, "to_queries", rest, k_block, count, at, changes)
            panel.next([f.gep(at, step, "float")])
    with f.if_(owns_queries), f.loop(first, last, t.width, [panels]) as panel:
        rest = f.sub(rows, panel.index)
        to = f.gep(t.arg(f, "dq", "ptr"), f.mul(f.add(line, panel.index), t.arg(f, "size")), "float")
        t.by_width(f, "close", rest, to, rest, panel.values[0])
        panel.next([f.gep(panel.values[0], step, "float")])
    f.line("ret void")
    f.finish()


# -- a panel of queries: q and g transposed, dq and out transposed, q and g row by row, logarithms and sums(g * out) ------------
def _rounded(f: Function, t: Panels, name: str) -> Val:
    """A length in whole vectors."""
    return f.mul(ceil_div(f, t.arg(f, name), t.lanes), t.lanes)


def _offsets(f: Function, t: Panels) -> list[Val]:
    """Where the parts of a panel begin, and its size, in floats."""
    size, depth = t.arg(f, "size"), t.arg(f, "depth")
    found = [ZERO]
    for length in (size, depth, size, depth, _rounded(f, t, "size"), _rounded(f, t, "depth"), const("i64", 2 + t.lanes)):
        found.append(f.add(found[-1], f.mul(length, t.width)))
    return found


def _panel_size(f: Function, t: Panels) -> Val:
    return _offsets(f, t)[-1]


def _rows_of_q(f: Function, t: Panels, panel: Val) -> Val:
    return f.gep(panel, _offsets(f, t)[4], "float")


def _rows_of_g(f: Function, t: Panels, panel: Val) -> Val:
    return f.gep(panel, _offsets(f, t)[5], "float")


def _load(f: Function, t: Panels, place: Val) -> Val:
    return f.load(place, t.tile.vector, 4)


def _emit_open(t: Panels, vectors: int) -> None:
    q, g, out, lse, rest = (Val("ptr", f"%{n}") for n in ("q", "g", "out", "lse", "rest"))
    rest = Val("i64", "%rest")
    f = t.function(f"open{vectors}", [q, g, out, lse, rest, PANEL])
    size, depth, width = t.arg(f, "size"), t.arg(f, "depth"), vectors * t.lanes
    parts = [f.gep(PANEL, at, "float") for at in _offsets(f, t)]
    packed = ((0, q, "q", size), (1, g, "g", depth), (3, out, "out", depth))
    with f.if_(f.compare("slt", rest, const("i64", width))):  # sums over queries go past those that are not there: weight 0 times a number
        for part, _, _, length in packed:
            clear(f, parts[part], f.mul(length, width))
    for part, source, name, length in packed:
        pack_queries(f, t, source, t.arg(f, f"{name}_row"), rest, length, parts[part], vectors)
    clear(f, parts[2], f.mul(size, width))
    for part, source, name, extent in ((4, q, "q", "size"), (5, g, "g", "depth")):
        _copy_rows(f, t, source, t.arg(f, f"{name}_row"), t.arg(f, extent), _rounded(f, t, extent), rest, parts[part], width)
    with f.loop(ZERO, depth, 1, [const(t.tile.vector, 0)] * vectors) as loop:
        at = [[f.gep(f.gep(parts[p], f.mul(loop.index, width), "float"), v * t.lanes, "float") for p in (1, 3)] for v in range(vectors)]
        loop.next([f.fma(_load(f, t, a), _load(f, t, b), s) for (a, b), s in zip(at, loop.values, strict=True)])
    for v in range(vectors):
        inside = first_lanes(f, f.smax(f.sub(rest, v * t.lanes), ZERO), t.lanes)
        found = load_vector(f, f.gep(lse, v * t.lanes, "float"), t.tile.vector, inside)
        # Queries that are not there have weights of 0.
        f.store(f.select(inside, found, const(t.tile.vector, INF)), f.gep(parts[6], v * t.lanes, "float"), 4)
        f.store(loop.values[v], f.gep(parts[6], t.width + v * t.lanes, "float"), 4)
    f.line("ret void")
    f.finish()


def _copy_rows(f: Function, t: Panels, source: Val, stride: Val, size: Val, padded: Val, rest: Val, to: Val, width: int) -> None:
    """Rows of a panel one after the other, each filled up with zeros; the last row stands in for those behind it."""
    last = f.sub(rest, 1)
    with f.loop(ZERO, const("i64", width)) as row:
        line = f.gep(source, f.mul(f.smin(row.index, last), stride), "float")
        target = f.gep(to, f.mul(row.index, padded), "float")
        with f.loop(ZERO, size, t.lanes) as loop:
            mask = first_lanes(f, f.sub(size, loop.index), t.lanes)
            f.store(load_vector(f, f.gep(line, loop.index, "float"), t.tile.vector, mask), f.gep(target, loop.index, "float"), 4)


def _emit_weights(t: Panels, vectors: int) -> None:
    """The weights of a block of keys, and the gradient of the scores."""
    keys, values, mask, weights, changes = (Val("ptr", f"%{n}") for n in ("keys", "values", "mask", "weights", "changes"))
    first, count, row, head = (Val("i64", f"%{n}") for n in ("first", "count", "row", "head"))
    f = t.function(f"weights{vectors}", [keys, values, first, count, row, head, mask, PANEL, weights, changes])
    width, last, rows, ty = vectors * t.lanes, f.sub(count, 1), t.tile.rows, t.tile.vector
    parts = [f.gep(PANEL, at, "float") for at in _offsets(f, t)]
    lse = [_load(f, t, f.gep(parts[6], v * t.lanes, "float")) for v in range(vectors)]
    delta = [_load(f, t, f.gep(parts[6], t.width + v * t.lanes, "float")) for v in range(vectors)]
    scale = t.number(f, "scale")
    draws = "dropout" in t.words
    rescale = f.binary("fdiv", const(ty, 1), f.binary("fsub", const(ty, 1), t.number(f, "p")))
    with f.loop(ZERO, count, rows) as loop:
        sums = by_keys(f, t, keys, t.arg(f, "k_row"), loop.index, last, parts[0], t.arg(f, "size"), vectors)
        numbers = [f.add(first, f.smin(f.add(loop.index, r), last)) for r in range(rows)]
        scores = scaled_scores(f, t, sums, numbers, row, mask, vectors)
        places = [[f.gep(f.gep(x, f.mul(loop.index, width), "float"), i * t.lanes, "float") for i in range(rows * vectors)]
                  for x in (weights, changes)]
        for i, x in enumerate(scores):
            f.store(exp_below_one(f, f.binary("fsub", x, lse[i % vectors])), places[0][i], 4)
        dw = by_keys(f, t, values, t.arg(f, "v_row"), loop.index, last, parts[1], t.arg(f, "depth"), vectors)
        fours = [f.add(f.add(first, loop.index), r) for r in range(0, rows if draws else 0, 4)]
        keep = [k for key in fours for k in kept(f, t, head, row, key, vectors)]
        for i, x in enumerate(dw):
            w = _load(f, t, places[0][i])
            if draws:
                kept_here = keep[i // vectors][i % vectors]
                f.store(f.select(kept_here, f.binary("fmul", w, rescale), const(ty, 0)), places[0][i], 4)
                x = f.select(kept_here, f.binary("fmul", x, rescale), const(ty, 0))
            change = f.binary("fmul", w, f.binary("fsub", x, delta[i % vectors]))
            f.store(f.binary("fmul", change, scale), places[1][i], 4)
    f.line("ret void")
    f.finish()


def _emit_to_keys(t: Panels, vectors: int) -> None:
    """`target[key] += sum over queries of weights[key][query] * matrix[query]` for `count` keys."""
    weights, matrix, target = (Val("ptr", f"%{n}") for n in ("weights", "matrix", "target"))
    size, count = Val("i64", "%size"), Val("i64", "%count")
    f = t.function(f"to_keys{vectors}", [weights, matrix, size, target, count])
    width, lanes = vectors * t.lanes, t.lanes
    padded = f.mul(ceil_div(f, size, lanes), lanes)
    pairs = f.binary("and", padded, const("i64", -2 * lanes))
    with f.loop(ZERO, count, t.tile.rows) as key:
        line = f.gep(weights, f.mul(key.index, width), "float")
        for low, high, wide in ((ZERO, pairs, 2), (pairs, padded, 1)):
            with f.loop(low, high, wide * lanes) as loop:
                sums = by_queries(f, t, line, width, f.gep(matrix, loop.index, "float"), padded, wide)
                masks = [first_lanes(f, f.sub(f.sub(size, loop.index), v * lanes), lanes) for v in range(wide)]
                for r in range(t.tile.rows):
                    number = f.add(key.index, r)
                    with f.if_(f.compare("slt", number, count)):
                        start = f.gep(f.gep(target, f.mul(number, size), "float"), loop.index, "float")
                        for v in range(wide):
                            place = f.gep(start, v * lanes, "float")
                            old = load_vector(f, place, t.tile.vector, masks[v])
                            store_vector(f, f.binary("fadd", old, sums[r * wide + v]), place, masks[v])
    f.line("ret void")
    f.finish()


def _emit_to_queries(t: Panels, vectors: int) -> None:
    """Add what a block of keys gives to the gradients of a panel's queries."""
    keys, changes, count = Val("ptr", "%keys"), Val("ptr", "%changes"), Val("i64", "%count")
    f = t.function(f"to_queries{vectors}", [keys, count, PANEL, changes])
    sums = f.gep(PANEL, _offsets(f, t)[2], "float")
    stride = t.arg(f, "k_row")
    with f.loop(ZERO, t.arg(f, "size"), t.tile.rows) as loop:
        found = by_elements(f, t, f.gep(keys, loop.index, "float"), stride, changes, count, vectors)
        line = f.gep(sums, f.mul(loop.index, vectors * t.lanes), "float")
        for i, x in enumerate(found):
            place = f.gep(line, i * t.lanes, "float")
            f.store(f.binary("fadd", _load(f, t, place), x), place, 4)
    f.line("ret void")
    f.finish()


def _emit_close(t: Panels, vectors: int) -> None:
    to, rest = Val("ptr", "%to"), Val("i64", "%rest")
    f = t.function(f"close{vectors}", [to, rest, PANEL])
    sums, size = f.gep(PANEL, _offsets(f, t)[2], "float"), t.arg(f, "size")
    write_rows(f, t, sums, None, size, to, size, rest, vectors)
    f.line("ret void")
    f.finish()
