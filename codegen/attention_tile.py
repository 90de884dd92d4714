"""What the attention kernels are made of: register tiles over panels of queries, packing, masks, dropout.

Scores are kept transposed, a row for each key and a column for each query of a panel, so that softmax goes down the columns
without ever adding up the lanes of a vector, and weights are read by the next product as they lie.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from treadle.codegen.gemm_micro import Tile, multiply_add, tile_for
from treadle.codegen.gemm_pack import emit_general, emit_transposing
from treadle.codegen.llvm_text import Function, Module, Val, const, vector_type
from treadle.codegen.maths_core import clamp
from treadle.codegen.maths_exp import exp_in_range
from treadle.codegen.philox import philox_rounds, uniform
from treadle.codegen.target import Target
from treadle.codegen.vector_memory import first_lanes, lane_numbers, load_vector
from treadle.ir.routine import ARGUMENTS, KEY_BLOCK, Routine

ZERO = const("i64", 0)
ARGS = Val("ptr", "%args")
MINUS_INF = float("-inf")
UNROLL = 4
# e^x is taken for 0 below this: the smallest normal number.
LOWEST = -87.0

__all__ = ["ARGS", "KEY_BLOCK", "ZERO", "Panels", "exp_below_one", "scaled_scores"]


@dataclass(frozen=True)
class Panels:
    """One routine on one CPU: `tile.rows` keys (or elements of a head) by one or two vectors of queries at a time."""

    module: Module
    routine: Routine
    name: str
    tile: Tile

    @property
    def lanes(self) -> int:
        return self.tile.lanes

    @property
    def width(self) -> int:
        """Queries of a whole panel."""
        return 2 * self.lanes

    @property
    def words(self) -> list[str]:
        return self.routine.kind.split()

    def function(self, name: str, parameters: list[Val]) -> Function:
        return Function(self.module, f"{self.name}_{name}", [ARGS, *parameters], linkage="internal", attributes="nounwind noinline")

    def arg(self, f: Function, name: str, ty: str = "i64") -> Val:
        return f.load(f.gep(ARGS, ARGUMENTS[self.routine.family].index(name), "i64"), ty)

    def number(self, f: Function, name: str) -> Val:
        """A float32 argument in all lanes."""
        return f.splat(self.arg(f, name, "float"), self.lanes)

    def call(self, f: Function, name: str, *arguments: Val) -> None:
        f.call_void(f"{self.name}_{name}", ARGS, *arguments, declare=False)

    def by_width(self, f: Function, name: str, queries: Val, *arguments: Val) -> None:
        """Call the form of a function for one or two vectors of queries."""
        one, two, end = f.label("one"), f.label("two"), f.label("end")
        f.branch_if(f.compare("sgt", queries, const("i64", self.lanes)), two, one)
        for label, vectors in ((one, 1), (two, 2)):
            f.start(label)
            self.call(f, f"{name}{vectors}", *arguments)
            f.branch(end)
        f.start(end)

    def at(self, f: Function, base: str, *moves: tuple[Val, str]) -> Val:
        """The address of a float operand: index times stride, for each of `moves`."""
        place = ZERO
        for index, stride in moves:
            place = f.add(place, f.mul(index, self.arg(f, stride)))
        return f.gep(self.arg(f, base, "ptr"), place, "float")


def panels_for(module: Module, routine: Routine, name: str, target: Target) -> Panels:
    """The shape of tiles that leaves registers for a row of B and a value of A; also emits the packing of queries, once."""
    tile = replace(tile_for(target, "float"), rows=8 if target.registers == 32 else 4, vectors=2, masked=False)
    if not any(f"@pack_rows_{tile.suffix}(" in text.split("\n", 1)[0] for text in module.functions):
        emit_transposing(module, tile)
        emit_general(module, tile)
    return Panels(module, routine, name, tile)


# -- products --------------------------------------------------------------------------------------------------------
Places = Callable[[Function, list[Val], int], tuple[list[Val], Val]]


def product(f: Function, tile: Tile, steps: Val, vectors: int, starts: list[Val], places: Places,
            moves: Sequence[Val | int]) -> list[Val]:
    """rows x vectors sums over `steps` of A's value of each row times a row of B.

    `starts`: pointers that go `moves` floats further with every step; `places(f, pointers, row count)` are the addresses of A's values
    and of B's row. Row by row in the result.
    """
    state = [Val(tile.vector, "zeroinitializer")] * (tile.rows * vectors)
    whole = f.binary("and", steps, const("i64", -UNROLL))
    carried = [*state, *starts]
    for low, high, unroll in ((ZERO, whole, UNROLL), (whole, steps, 1)):
        with f.loop(low, high, unroll, carried) as loop:
            state, pointers = loop.values[:-len(starts)], loop.values[-len(starts):]
            for _ in range(unroll):
                values, b = places(f, pointers, tile.rows)
                row = [f.load(f.gep(b, v * tile.lanes, "float"), tile.vector, 4) for v in range(vectors)]
                for i, place in enumerate(values):
                    a = f.splat(f.load(place, "float", 4), tile.lanes)
                    state[i * vectors:(i + 1) * vectors] = [multiply_add(f, tile, a, x, c)
                                                            for x, c in zip(row, state[i * vectors:(i + 1) * vectors], strict=True)]
                pointers = [f.gep(p, move, "float") for p, move in zip(pointers, moves, strict=True)]
            loop.next([*state, *pointers])
        carried = loop.values
    return carried[:-len(starts)]


def by_keys(f: Function, t: Panels, keys: Val, stride: Val, first: Val, last: Val, panel: Val, size: Val, vectors: int) -> list[Val]:
    """Scores of `rows` keys from `first` on (none behind `last`): sums over the head of key times packed queries."""
    lines = [f.gep(keys, f.mul(f.smin(f.add(first, r), last), stride), "float") for r in range(t.tile.rows)]
    return product(f, t.tile, size, vectors, [*lines, panel], lambda _, p, rows: (p[:rows], p[rows]),
                   [1] * t.tile.rows + [vectors * t.lanes])


def by_elements(f: Function, t: Panels, matrix: Val, stride: Val, weights: Val, count: Val, vectors: int) -> list[Val]:
    """For `rows` neighbouring columns of a matrix with a row for each key: sums over the keys of element times weights."""
    return product(f, t.tile, count, vectors, [matrix, weights],
                   lambda f, p, rows: ([f.gep(p[0], r, "float") for r in range(rows)], p[1]), [stride, vectors * t.lanes])


def by_queries(f: Function, t: Panels, weights: Val, queries: int, matrix: Val, stride: Val, vectors: int) -> list[Val]:
    """For `rows` keys: sums over the `queries` of a panel of weight times the row of a packed matrix with a row for each query."""
    return product(f, t.tile, const("i64", queries), vectors, [weights, matrix],
                   lambda f, p, rows: ([f.gep(p[0], r * queries, "float") for r in range(rows)], p[1]), [1, stride])


# -- packing ---------------------------------------------------------------------------------------------------------
def pack_queries(f: Function, t: Panels, source: Val, stride: Val, count: Val, size: Val, to: Val, vectors: int) -> None:
    """`to[e][query]` from rows of `size` elements; the last of `count` rows stands in for those behind it."""
    width = vectors * t.lanes
    for v in range(vectors):
        rest = f.smin(f.sub(count, v * t.lanes), const("i64", t.lanes))
        start = f.gep(source, f.mul(stride, v * t.lanes), "float")
        f.call_void(f"pack_rows_{t.tile.suffix}", rest, size, start, stride, const("i64", 1), f.gep(to, v * t.lanes, "float"),
                    const("i64", width), declare=False)


# -- scores ----------------------------------------------------------------------------------------------------------
def scaled_scores(f: Function, t: Panels, sums: list[Val], key: list[Val], row: Val, mask: Val, vectors: int) -> list[Val]:
    """Scores times the scale, masked: those of keys number `key` and the queries from `row` on. `mask`: that of the head."""
    scale = t.number(f, "scale")
    kind = next((w for w in t.words if w in ("causal", "bool", "float")), "")
    if not kind:
        return [f.binary("fmul", x, scale) for x in sums]
    result = []
    hidden = const(t.tile.vector, MINUS_INF)
    for v in range(vectors):
        place = f.add(row, v * t.lanes)
        ints = vector_type("i32", t.lanes)
        queries = f.binary("add", f.splat(f.cast("trunc", place, "i32"), t.lanes), lane_numbers("i32", t.lanes))
        inside = first_lanes(f, f.smax(f.sub(t.arg(f, "rows"), place), ZERO), t.lanes) if kind != "causal" else None
        for i, number in enumerate(key):
            x = sums[i * vectors + v]
            if kind == "causal":
                seen = f.compare("sle", f.splat(f.cast("trunc", number, "i32"), t.lanes), queries)
                result.append(f.select(seen, f.binary("fmul", x, scale), hidden))
                continue
            assert inside is not None and queries.ty == ints
            term = _mask_vector(f, t, mask, number, place, inside, "i8" if kind == "bool" else "float")
            if kind == "float":
                result.append(f.fma(x, scale, term))
            else:
                result.append(f.select(f.compare("ne", term, const(term.ty, 0)), f.binary("fmul", x, scale), hidden))
    by_row = len(key)
    return [result[v * by_row + i] for i in range(by_row) for v in range(vectors)]


def _mask_vector(f: Function, t: Panels, mask: Val, key: Val, row: Val, inside: Val, element: str) -> Val:
    """The mask's row of a key at the queries from `row` on; one element for all of them where it does not depend on queries."""
    start = f.gep(mask, f.mul(key, t.arg(f, "mask_key")), element)
    if "keys" in t.words:
        return f.splat(f.load(start, element), t.lanes)
    return load_vector(f, f.gep(start, row, element), vector_type(element, t.lanes), inside)


def exp_below_one(f: Function, x: Val) -> Val:
    """e^x for x that is not much above 0; what would not be a normal number is 0. NaN stays."""
    tiny = f.compare("olt", x, const(x.ty, LOWEST))
    return f.select(tiny, const(x.ty, 0), exp_in_range(f, clamp(f, x, LOWEST)))


# -- dropout ---------------------------------------------------------------------------------------------------------
def kept(f: Function, t: Panels, head: Val, row: Val, key: Val, vectors: int) -> list[list[Val]]:
    """For keys key .. key + 3 (a multiple of 4) and each vector of queries: which weights dropout keeps.

    The draw is numbered by (head, query, key), rows padded to a multiple of 4 keys: one Philox block has the four keys' bits.
    """
    blocks = f.binary("lshr", f.add(t.arg(f, "keys"), 3), const("i64", 2))
    low = t.number(f, "p")
    line = f.add(f.mul(head, t.arg(f, "rows")), row)
    result: list[list[Val]] = [[] for _ in range(4)]
    for v in range(vectors):
        longs = vector_type("i64", t.lanes)
        lines = f.binary("add", f.splat(f.add(line, v * t.lanes), t.lanes), lane_numbers("i64", t.lanes))
        start = f.splat(f.add(t.arg(f, "offset"), f.binary("lshr", key, const("i64", 2))), t.lanes)
        counter = f.binary("add", f.binary("mul", lines, f.splat(blocks, t.lanes)), start)
        assert counter.ty == longs
        for i, word in enumerate(philox_rounds(f, t.arg(f, "seed"), counter)):
            result[i].append(f.compare("oge", uniform(f, f.cast("trunc", word, "i32")), low))
    return result
