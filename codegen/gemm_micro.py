"""Register tiles of matrix products: their shapes for a CPU, and the micro-kernel that computes one of them.

A micro-kernel keeps `rows x vectors` accumulators in registers as SSA values while it runs along K. It reads A from a
packed panel (`pack` values per k, of which it uses `rows`) and B row by row, packed or in place.
"""
from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from treadle.codegen.llvm_text import Function, Module, Val, const, intrinsic_suffix, lanes_of, scalar_bits, scalar_type, vector_type
from treadle.codegen.target import Target

ZERO = const("i64", 0)
UNROLL = 4
CACHE_LINE = 64


_PRODUCTS = {"bf16": "bfloat16", "dpbf16ps": "bfloat16", "u8s8": "int8", "vpdpbusd": "int8", "usdot": "int8"}


@dataclass(frozen=True)
class Tile:
    """Shapes of one CPU's kernels for one scalar type.

    `rows x vectors` is the register tile, `pack` the row count of a packed panel of A; `depth` and `height` are the blocks
    of K and M that stay in the caches. `masked`: edges are done with vector masks, otherwise in a copy.
    """

    scalar: str
    lanes: int
    rows: int
    vectors: int
    masked: bool
    fused: bool
    product: str = ""  # how words are multiplied: "" as numbers, else a name of `_WORDS`
    depth: int = 384
    height: int = 1036

    @property
    def vector(self) -> str:
        return vector_type(self.scalar, self.lanes)

    @property
    def columns(self) -> int:
        return self.lanes * self.vectors

    @property
    def pack(self) -> int:
        return -(-self.rows // self.lanes) * self.lanes

    @property
    def align(self) -> int:
        return scalar_bits(self.scalar) // 8

    @property
    def dtype(self) -> str:
        """The operands' element type, which the kernels are named after."""
        return _PRODUCTS.get(self.product) or {"float": "float32", "double": "float64"}[self.scalar]

    @property
    def suffix(self) -> str:
        return intrinsic_suffix(self.scalar)

    @property
    def packed_a_bytes(self) -> int:
        """Scratch for a packed block of A. Rows are shared out evenly, which can take one panel more than needed."""
        return (-(-self.height // self.rows) + 1) * self.pack * self.depth * self.align


@functools.cache
def product_tile(target: Target, dtype: str) -> Tile:
    """The tile for operands of `dtype`: float32, float64, or one whose elements are multiplied in words of 32 bits along K."""
    if dtype == "bfloat16":
        native = target.vector_bits == 512 and target.has("avx512bf16")
        return replace(tile_for(target, "float"), product="dpbf16ps" if native else "bf16", depth=512)
    if dtype == "int8":
        native = target.has({512: "avx512vnni", 256: "avxvnni"}.get(target.vector_bits, "none"))
        tile = tile_for(target, "i32")
        shape = tile if target.vector_bits > 128 else replace(tile, rows=4, vectors=4 if target.registers == 32 else 2)
        usdot = target.arch == "aarch64" and target.has("i8mm")
        return replace(shape, product="vpdpbusd" if native else "usdot" if usdot else "u8s8")
    return tile_for(target, {"float32": "float", "float64": "double"}[dtype])


def tile_for(target: Target, scalar: str) -> Tile:
    """accumulators + one row of B + one value of A fit the registers: `rows * vectors + vectors + 1`."""
    lanes = target.lanes(scalar)
    if target.vector_bits == 512:
        return Tile(scalar, lanes, 14, 2, True, True)
    if target.vector_bits == 256:
        return Tile(scalar, lanes, 6, 2, False, True)
    if target.registers == 32:
        return Tile(scalar, lanes, 8, 3, False, True)
    return Tile(scalar, lanes, 4, 3, False, target.has("fma"))


# -- helpers shared by all matrix kernels ----------------------------------------------------------------------------
def multiply_add(f: Function, tile: Tile, a: Val, b: Val, c: Val) -> Val:
    """a * b + c, in one rounding where the CPU has the instruction.

    Of words: the sum of the products of their two bfloat16 numbers, or of the four bytes of a (unsigned) and b (signed), and c.
    """
    if tile.product:
        return _WORDS[tile.product](f, tile, a, b, c)
    return f.fma(a, b, c) if tile.fused else f.binary("fadd", f.binary("fmul", a, b), c)


def add(f: Function, a: Val, b: Val) -> Val:
    """Sums of accumulators: a + b, of integers or floats."""
    return f.binary("fadd" if scalar_type(a.ty) in ("float", "double") else "add", a, b)


def _as(f: Function, value: Val, ty: str) -> Val:
    return value if value.ty == ty else f.op(f"bitcast {value} to {ty}", ty)


def _dpbf16ps(f: Function, tile: Tile, a: Val, b: Val, c: Val) -> Val:
    pairs = f"<{2 * tile.lanes} x bfloat>"
    return f.call(f"llvm.x86.avx512bf16.dpbf16ps.{32 * tile.lanes}", c.ty, c, _as(f, a, pairs), _as(f, b, pairs))


def _bf16(f: Function, tile: Tile, a: Val, b: Val, c: Val) -> Val:
    """Each half of a word, moved to the upper one, is the number as a float."""
    lanes = lanes_of(a.ty)
    words = vector_type("i32", lanes)
    plain = replace(tile, product="")
    for low in (True, False):
        halves = []
        for value in (a, b):
            word = _as(f, value, words)
            half = f.binary("shl", word, const(words, 16)) if low else f.binary("and", word, const(words, -65536))
            halves.append(_as(f, half, a.ty))
        c = multiply_add(f, plain, halves[0], halves[1], c)
    return c


def _vpdpbusd(f: Function, tile: Tile, a: Val, b: Val, c: Val) -> Val:
    return f.call(f"llvm.x86.avx512.vpdpbusd.{32 * tile.lanes}", c.ty, c, a, b)


def _usdot(f: Function, tile: Tile, a: Val, b: Val, c: Val) -> Val:
    return f.call("llvm.aarch64.neon.usdot.v4i32.v16i8", c.ty, c, _as(f, a, "<16 x i8>"), _as(f, b, "<16 x i8>"))


def _u8s8(f: Function, tile: Tile, a: Val, b: Val, c: Val) -> Val:
    """Two products of 16-bit numbers, which never overflow, are added at a time: `pmaddwd` where there is one."""
    lanes = lanes_of(a.ty)
    shorts, ints = vector_type("i16", 2 * lanes), vector_type("i32", 2 * lanes)
    x, y = _as(f, a, shorts), _as(f, b, shorts)
    eight = const(shorts, 8)
    even = f.binary("and", x, const(shorts, 255)), f.binary("ashr", f.binary("shl", y, eight), eight)
    odd = f.binary("lshr", x, eight), f.binary("ashr", y, eight)
    for p, q in (even, odd):
        product = f.binary("mul", f.cast("sext", p, "i32"), f.cast("sext", q, "i32"))
        for start in (0, 1):
            order = ", ".join(f"i32 {i}" for i in range(start, 2 * lanes, 2))
            part = f.op(f"shufflevector {product}, {ints} poison, <{lanes} x i32> <{order}>", vector_type("i32", lanes))
            c = f.binary("add", c, part)
    return c


_WORDS = {"dpbf16ps": _dpbf16ps, "bf16": _bf16, "vpdpbusd": _vpdpbusd, "usdot": _usdot, "u8s8": _u8s8}


def ceil_div(f: Function, a: Val, b: Val | int) -> Val:
    divisor = b if isinstance(b, Val) else const("i64", b)
    return f.binary("udiv", f.add(a, f.sub(divisor, 1)), divisor)


def lane_mask(f: Function, lanes: int, count: Val) -> Val:
    """`<lanes x i1>`: the first `count` (i64) lanes."""
    narrow = f.splat(f.op(f"trunc {count} to i32", "i32"), lanes)
    numbers = Val(narrow.ty, "<" + ", ".join(f"i32 {i}" for i in range(lanes)) + ">")
    return f.compare("ult", numbers, narrow)


def masked_load(f: Function, tile: Tile, ptr: Val, mask: Val) -> Val:
    """The lanes of the mask, 0 elsewhere; other lanes are not touched."""
    name = f"llvm.masked.load.{intrinsic_suffix(tile.vector)}.p0"
    f.module.declare(name, f"{tile.vector} (ptr, {mask.ty}, {tile.vector})")
    return f.op(f"call {tile.vector} @{name}(ptr align {tile.align} {ptr.name}, {mask}, {tile.vector} zeroinitializer)", tile.vector)


def masked_store(f: Function, tile: Tile, value: Val, ptr: Val, mask: Val) -> None:
    name = f"llvm.masked.store.{intrinsic_suffix(tile.vector)}.p0"
    f.module.declare(name, f"void ({tile.vector}, ptr, {mask.ty})")
    f.line(f"call void @{name}({value}, ptr align {tile.align} {ptr.name}, {mask})")


# -- the micro-kernel ------------------------------------------------------------------------------------------------
MICRO_PARAMETERS = [
    Val("i64", "%k"), Val("ptr", "%a"), Val("ptr", "%b"), Val("i64", "%b_row"), Val("ptr", "%c"), Val("i64", "%c_row"),
    Val("i64", "%columns"), Val("i1", "%again"), Val("i64", "%ahead"), Val("ptr", "%to"),
]


def emit_micro_kernels(module: Module, tile: Tile, copying: bool = False) -> None:
    """All micro-kernels of a tile, and the table `micro_<type>[rows * (vectors + 1) + vectors]` of their addresses.

    C[i, j] = sum over k of A[i, k] B[k, j], added to what is there when `again`. `columns` (1 to all) counts for masked
    tiles only; the others compute whole tiles. Rows of B are fetched `ahead` elements after the ones in use.
    `copying`: the kernels after those of `tile.rows` rows are the same, but also leave the rows of B packed at `to`.
    """
    table = []
    for rows in range(tile.rows + 1 + copying):
        for vectors in range(tile.vectors + 1):
            wanted = rows and (vectors if tile.masked else vectors == tile.vectors)
            table.append(f"ptr @{_emit_micro_kernel(module, tile, rows, vectors)}" if wanted else "ptr null")
    module.globals.append(f"@micro_{tile.suffix} = internal constant [{len(table)} x ptr] [{', '.join(table)}]")


def _emit_micro_kernel(module: Module, tile: Tile, rows: int, vectors: int) -> str:
    name = f"micro_{tile.suffix}_{rows}x{vectors}"
    copies, rows = rows > tile.rows, min(rows, tile.rows)
    f = Function(module, name, MICRO_PARAMETERS, linkage="internal", attributes="nounwind noinline")
    k, a, b, b_row, c, _, columns, _, ahead, to = MICRO_PARAMETERS
    mask = lane_mask(f, tile.lanes, f.sub(columns, tile.lanes * (vectors - 1))) if tile.masked else None
    zero = Val(tile.vector, "zeroinitializer")
    state = [zero] * (rows * vectors)
    whole = f.mul(f.binary("udiv", k, const("i64", UNROLL)), UNROLL)
    carried = [*state, a, b, c, f.gep(b, ahead, tile.scalar), to]
    for low, high, unroll in ((ZERO, whole, UNROLL), (whole, k, 1)):
        with f.loop(low, high, unroll, carried) as loop:
            state, (a, b, line, next_b, to) = loop.values[:-5], loop.values[-5:]
            if unroll > 1:
                line = _prefetch_result(f, tile, line, f.compare("slt", loop.index, const("i64", UNROLL * (rows - 1))), vectors)
            for u in range(unroll):
                row = _load_row(f, tile, b, vectors, mask)
                if copies:
                    _store_row(f, tile, row, f.gep(to, u * tile.columns, tile.scalar))
                state = _rank_one(f, tile, state, f.gep(a, u * tile.pack, tile.scalar), row, rows)
                b = f.gep(b, b_row, tile.scalar)
                _prefetch(f, tile, next_b, vectors, 0, 2)
                next_b = f.gep(next_b, b_row, tile.scalar)
            to = f.gep(to, unroll * tile.columns, tile.scalar) if copies else to
            loop.next([*state, f.gep(a, unroll * tile.pack, tile.scalar), b, line, next_b, to])
        carried = loop.values
    _store_tile(f, tile, carried[:-5], rows, vectors, mask)
    f.line("ret void")
    f.finish()
    return name


def _store_row(f: Function, tile: Tile, row: list[Val], to: Val) -> None:
    for v, value in enumerate(row):
        f.store(value, f.gep(to, v * tile.lanes, tile.scalar), tile.align)


def _prefetch_result(f: Function, tile: Tile, line: Val, more: Val, vectors: int) -> Val:
    """Fetch a row of C while the sums are made, one row per step so that panels need not wait; the next row's address."""
    _prefetch(f, tile, line, vectors, 1, 3)
    return f.select(more, f.gep(line, MICRO_PARAMETERS[5], tile.scalar), line)


def _prefetch(f: Function, tile: Tile, line: Val, vectors: int, write: int, nearness: int) -> None:
    """Ask for the cache lines of a row of `vectors` vectors; nearness 3 is the first-level cache, 2 the second."""
    f.module.declare("llvm.prefetch.p0", "void (ptr, i32, i32, i32)")
    for v in range(0, vectors, max(1, CACHE_LINE // (tile.lanes * tile.align))):
        f.line(f"call void @llvm.prefetch.p0({f.gep(line, v * tile.lanes, tile.scalar)}, i32 {write}, i32 {nearness}, i32 1)")


def _load_row(f: Function, tile: Tile, b: Val, vectors: int, mask: Val | None) -> list[Val]:
    row = [f.load(f.gep(b, v * tile.lanes, tile.scalar), tile.vector, tile.align) for v in range(vectors - 1)]
    last = f.gep(b, (vectors - 1) * tile.lanes, tile.scalar)
    row.append(masked_load(f, tile, last, mask) if mask else f.load(last, tile.vector, tile.align))
    return row


def _rank_one(f: Function, tile: Tile, state: list[Val], a: Val, row: list[Val], rows: int) -> list[Val]:
    """Add the outer product of `rows` values at `a` and a row of B to the accumulators."""
    result = []
    for i in range(rows):
        value = f.splat(f.load(f.gep(a, i, tile.scalar), tile.scalar, tile.align), tile.lanes)
        result += [multiply_add(f, tile, value, b, state[i * len(row) + v]) for v, b in enumerate(row)]
    return result


def _store_tile(f: Function, tile: Tile, state: list[Val], rows: int, vectors: int, mask: Val | None) -> None:
    """Add the old values if wanted (two blocks that meet in phis), then store."""
    c, c_row, again = MICRO_PARAMETERS[4], MICRO_PARAMETERS[5], MICRO_PARAMETERS[7]
    lines = [f.gep(c, f.mul(c_row, i), tile.scalar) for i in range(rows)]
    fresh, more, store = f.label("fresh"), f.label("more"), f.label("store")
    f.branch(fresh)
    f.start(fresh)
    f.branch_if(again, more, store)
    f.start(more)
    old = [value for line in lines for value in _load_row(f, tile, line, vectors, mask)]
    sums = [add(f, x, y) for x, y in zip(old, state, strict=True)]
    f.branch(store)
    f.start(store)
    final = [f.op(f"phi {x.ty} [ {x.name}, %{fresh} ], [ {y.name}, %{more} ]", x.ty) for x, y in zip(state, sums, strict=True)]
    for i, line in enumerate(lines):
        for v in range(vectors):
            ptr = f.gep(line, v * tile.lanes, tile.scalar)
            if mask and v == vectors - 1:
                masked_store(f, tile, final[i * vectors + v], ptr, mask)
            else:
                f.store(final[i * vectors + v], ptr, tile.align)
