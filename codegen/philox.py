"""Philox4x32-10 random bits in LLVM IR, any number of lanes; `treadle.ir.random_reference` is the definition.

The state is kept in the lower halves of 64-bit lanes, so that a 32 x 32 -> 64 bit product is one instruction.
"""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Val, const, lanes_of, vector_type
from treadle.codegen.maths import MATHS
from treadle.codegen.maths_core import fmul, fsub, int_op, like
from treadle.codegen.maths_trig import cos_turns
from treadle.ir.random_reference import KEY_STEPS, MULTIPLIERS, ROUNDS

_MASK = 0xFFFFFFFF


def _widen(f: Function, x: Val, lanes: int) -> Val:
    """A scalar broadcast to all lanes; a vector as it is."""
    return x if lanes_of(x.ty) == lanes else f.splat(x, lanes)


def _product(f: Function, a: Val, multiplier: int) -> Val:
    """The 64-bit product of the lower half of each lane and a 32-bit constant: one `pmuludq`, which needs no mask."""
    return f.mul(int_op(f, "and", a, _MASK), multiplier)


def philox_rounds(f: Function, seed: Val, block: Val) -> list[Val]:
    """Counters i64 (one per lane), key i64 scalar -> the four words of each in the lower halves of i64 lanes.

    The upper halves hold rubbish: products, additions and exclusive ors of lower halves never look at them.
    """
    lanes = lanes_of(block.ty)
    a, b = block, int_op(f, "lshr", block, 32)
    c = d = const(block.ty, 0)
    k0 = _widen(f, seed, lanes)
    k1 = int_op(f, "lshr", k0, 32)
    for number in range(ROUNDS):
        if number:
            k0, k1 = f.add(k0, KEY_STEPS[0]), f.add(k1, KEY_STEPS[1])
        p, q = _product(f, a, MULTIPLIERS[0]), _product(f, c, MULTIPLIERS[1])
        a = f.binary("xor", f.binary("xor", int_op(f, "lshr", q, 32), b), k0)
        c = f.binary("xor", f.binary("xor", int_op(f, "lshr", p, 32), d), k1)
        b, d = q, p
    return [a, b, c, d]


def random_bits(f: Function, seed: Val, offset: Val, index: Val) -> Val:
    """Elements `index` (i64, one per lane, in any order) of the draw (seed, offset), both i64 scalars: i32 per lane."""
    lanes = lanes_of(index.ty)
    block = f.add(int_op(f, "lshr", index, 2), _widen(f, offset, lanes))
    words = philox_rounds(f, seed, block)
    odd = f.compare("ne", int_op(f, "and", index, 1), const(index.ty, 0))
    upper = f.compare("ne", int_op(f, "and", index, 2), const(index.ty, 0))
    word = f.select(upper, f.select(odd, words[3], words[2]), f.select(odd, words[1], words[0]))
    return f.cast("trunc", word, "i32")


def random_block4(f: Function, seed: Val, offset: Val, start: Val, lanes: int) -> list[Val]:
    """Elements start .. start + 4 * lanes - 1 of the draw, `start` (i64) a multiple of 4: four vectors <lanes x i32> in order.

    Equal to `random_bits` on these indices at about a quarter of the cost: every word of each block is used.
    """
    base = f.add(int_op(f, "lshr", start, 2), offset)
    steps = Val(vector_type("i64", lanes), "<" + ", ".join(f"i64 {i}" for i in range(lanes)) + ">")
    block = base if lanes == 1 else f.add(f.splat(base, lanes), steps)
    words = [f.cast("trunc", w, "i32") for w in philox_rounds(f, seed, block)]
    if lanes == 1:
        return words
    return _interleave(f, words, lanes)


def _shuffle(f: Function, a: Val, b: Val, picks: list[int]) -> Val:
    """Lanes of a and b joined, in the order of `picks`."""
    mask = ", ".join(f"i32 {p}" for p in picks)
    ty = vector_type("i32", len(picks))
    return f.op(f"shufflevector {a}, {b}, <{len(picks)} x i32> <{mask}>", ty)


def _interleave(f: Function, words: list[Val], lanes: int) -> list[Val]:
    """[w0], [w1], [w2], [w3] per block -> w0 w1 w2 w3 of block 0, of block 1, ... in vectors of `lanes`."""
    zip_two = [i // 2 + (i % 2) * lanes for i in range(2 * lanes)]
    even = _shuffle(f, words[0], words[2], zip_two)
    odd = _shuffle(f, words[1], words[3], zip_two)
    both = [i // 2 + (i % 2) * 2 * lanes for i in range(4 * lanes)]
    return [_shuffle(f, even, odd, both[k * lanes:(k + 1) * lanes]) for k in range(4)]


def uniform(f: Function, bits: Val) -> Val:
    """i32 -> float in [0, 1): the top 24 bits times 2^-24."""
    return fmul(f, f.cast("sitofp", int_op(f, "lshr", bits, 8), "float"), 2.0 ** -24)


def normal(f: Function, bits1: Val, bits2: Val) -> Val:
    """Box and Muller on two draws: sqrt(-2 log(1 - u1)) cos(2 pi u2) as float, within 4 ulp of the reference."""
    u1, u2 = uniform(f, bits1), uniform(f, bits2)
    radius = MATHS["sqrt"](f, fmul(f, MATHS["log"](f, fsub(f, like(u1, 1.0), u1)), -2.0))
    return fmul(f, radius, cos_turns(f, u2))
