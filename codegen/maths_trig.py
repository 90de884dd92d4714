"""Sine, cosine, tangent and their inverses as polynomials in LLVM IR (float; double calls the C library).

|x| <= 100,000 is reduced by three-part Cody-Waite subtraction of n * pi/2 with fused multiply-add. Larger arguments take a
rare path after Payne and Hanek: a window of the bits of 2/pi is multiplied by the mantissa in integers, so that every
float is reduced correctly. Polynomials: minimax (Remez) fits, error relative to the result. Within 2 ulp for float.
"""
from __future__ import annotations

import math

from treadle.codegen.llvm_text import Function, Val, const, lanes_of
from treadle.codegen.maths_core import (
    FLOAT,
    INF,
    NAN,
    bits_of,
    by_type,
    call_cold,
    choose,
    compare,
    copysign,
    fabs,
    fadd,
    fdiv,
    fma,
    fmul,
    from_bits,
    fsub,
    int_op,
    lanes_type,
    neg,
    odd_polynomial,
    polynomial,
    when_any,
)

# pi/2 as the sum of three floats: 72 bits. n * PIO2[0] is a multiple of the last place of x, so x - n * PIO2[0] is exact.
PIO2 = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
REDUCTION_LIMIT = 1e5
# The first 224 bits of 2/pi after 32 zero bits, in words of 32.
TWO_OVER_PI = (0x00000000, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB)

# (sin(r)/r - 1)/r^2, (cos(r) - 1 + r^2/2)/r^4, (tan(r)/r - 1)/r^2 in r^2, |r| <= 1.04 pi/4.
SIN = [-0.1666666663119772916, 0.008333328231552750088, -0.0001983897919021407238, 2.715057110132112739e-6]
COS = [0.04166663999701546851, -0.001388704491463021229, 0.00002440278772580006337]
TAN = [0.3333336485389557507, 0.1333214572805538785, 0.05411819024137432887, 0.02098383453684792043, 0.01160129703689396192,
       -0.0008695877643877646191, 0.004843318593733235605]
# (asin(x)/x - 1)/x^2 for |x| <= 1/2, (atan(x)/x - 1)/x^2 for |x| <= 1, in x^2.
ASIN = [0.1666665999118467381, 0.07500504190453252325, 0.04451695411893323999, 0.03180772647223999783, 0.01443857716435646728,
        0.03751648584512683119]
ATAN = [-0.3333332689970417239, 0.1999967112703050402, -0.1427983307531845959, 0.1105822365151283696, -0.08811090674652291698,
        0.06741594449397893098, -0.04468989113429066723, 0.0225398149701556618, -0.00731792843206941, 0.001113782525908803994]


# -- reduction ---------------------------------------------------------------------------------------------------
def _select_words(f: Function, index: Val) -> list[Val]:
    """Words index .. index + 3 of the table, index in 0..4, without memory access."""
    ty = index.ty
    signed = [w - (1 << 32) if w >> 31 else w for w in TWO_OVER_PI]
    words = [const(ty, signed[k]) for k in range(4)]
    for i in range(1, 5):
        here = f.compare("eq", index, const(ty, i))
        words = [f.select(here, const(ty, signed[i + k]), w) for k, w in enumerate(words)]
    return words


def _reduce_large(f: Function, params: list[Val]) -> list[Val]:
    """x = (q + y) * pi/2 mod 2 pi for 2^17 <= |x| < inf: returns q (i32) and y * pi/2 as a sum of two floats.

    |x| = m * 2^e with m of 24 bits. Bits of 2/pi above 2^(2 - e) only add multiples of 4 to x * 2/pi, so 96 bits below
    that suffice: m times them, modulo 2^96, is the quotient modulo 4 with 94 fraction bits. The top 64 bits are kept.
    """
    x = params[0]
    bits = bits_of(f, x)
    m = int_op(f, "or", int_op(f, "and", bits, 0x7FFFFF), 0x800000)
    start = f.sub(int_op(f, "and", int_op(f, "lshr", bits, 23), 0xFF), 150 - 30)
    words = _select_words(f, int_op(f, "lshr", start, 5))
    shift = int_op(f, "and", start, 31)
    window = [f.intrinsic("fshl", words[k], words[k + 1], shift) for k in range(3)]
    wide_m = f.cast("zext", m, "i64")
    parts = [f.mul(f.cast("zext", w, "i64"), wide_m) for w in window]
    total = f.add(f.add(int_op(f, "shl", parts[0], 32), parts[1]), int_op(f, "lshr", parts[2], 32))
    q = int_op(f, "lshr", f.add(total, 1 << 61), 62)
    fraction = f.cast("sitofp", int_op(f, "shl", total, 2), "double")
    y = fmul(f, fraction, math.pi / 2 * 2.0 ** -64)
    high = f.cast("fptrunc", y, "float")
    low = f.cast("fptrunc", fsub(f, y, f.cast("fpext", high, "double")), "float")
    # sin(-x) = -sin(x): an odd function of everything.
    negative = f.compare("slt", bits, const(bits.ty, 0))
    q = f.cast("trunc", q, "i32")
    return [f.select(negative, f.binary("sub", const(q.ty, 0), q), q), f.select(negative, neg(f, high), high),
            f.select(negative, neg(f, low), low)]


def reduce(f: Function, x: Val) -> tuple[Val, Val, Val]:
    """x = q * pi/2 + r + low, |r| <= pi/4 (slightly more for large x): q as i32 of which two bits count. NaN for inf."""
    shifted = fma(f, x, 2 / math.pi, FLOAT.magic)
    n = fsub(f, shifted, FLOAT.magic)
    head = fma(f, n, -PIO2[0], x)
    # head - n * PIO2[1] with nothing lost: product and difference both in two parts, for they may cancel.
    product = fmul(f, n, PIO2[1])
    product_low = fma(f, n, PIO2[1], neg(f, product))
    r = fsub(f, head, product)
    difference_low = fsub(f, fsub(f, head, r), product)
    low = fma(f, n, -PIO2[2], fsub(f, difference_low, product_low))
    a = fabs(f, x)
    large = f.binary("and", compare(f, "ogt", a, REDUCTION_LIMIT), compare(f, "olt", a, INF))
    types = [lanes_type(x, "i32"), x.ty, x.ty]
    name = f"treadle.reduce_large.{lanes_of(x.ty)}"
    q, r, low = when_any(f, large, [bits_of(f, shifted), r, low], lambda: call_cold(f, name, [x], types, _reduce_large))
    return q, r, low


# -- sine, cosine, tangent -----------------------------------------------------------------------------------------
def _sin_quadrant(f: Function, q: Val, r: Val, low: Val) -> Val:
    """sin(q pi/2 + r + low)."""
    z = fmul(f, r, r)
    sine = fadd(f, r, fma(f, fmul(f, z, polynomial(f, z, SIN)), r, low))
    cosine = fma(f, z, fma(f, z, polynomial(f, z, COS), -0.5), 1.0)
    odd = f.compare("ne", int_op(f, "and", q, 1), const(q.ty, 0))
    y = f.select(odd, cosine, sine)
    flip = int_op(f, "shl", int_op(f, "and", q, 2), 30)
    return from_bits(f, f.binary("xor", bits_of(f, y), flip), FLOAT)


def _tiny(f: Function, x: Val, y: Val) -> Val:
    """x itself where it is so small that f(x) rounds to x; keeps the sign of zero."""
    return choose(f, compare(f, "olt", fabs(f, x), 2.0 ** -13), x, y)


def _sin_float(f: Function, x: Val) -> Val:
    return _tiny(f, x, _sin_quadrant(f, *reduce(f, x)))


def _cos_float(f: Function, x: Val) -> Val:
    q, r, low = reduce(f, x)
    return _sin_quadrant(f, f.add(q, 1), r, low)


def _tan_float(f: Function, x: Val) -> Val:
    """A polynomial in the reduced argument; -1/t in odd quadrants."""
    q, r, low = reduce(f, x)
    z = fmul(f, r, r)
    t = fadd(f, r, fma(f, fmul(f, z, polynomial(f, z, TAN)), r, fma(f, low, z, low)))
    odd = f.compare("ne", int_op(f, "and", q, 1), const(q.ty, 0))
    return _tiny(f, x, f.select(odd, fdiv(f, -1.0, t), t))


def cos_turns(f: Function, u: Val) -> Val:
    """cos(2 pi u) for float |u| < 2^20: whole quarters of a turn come off exactly. Within 2 ulp."""
    shifted = fma(f, u, 4.0, FLOAT.magic)
    quarter = fsub(f, shifted, FLOAT.magic)
    left = fma(f, quarter, -0.25, u)
    r = fmul(f, left, 2 * math.pi)
    # 2 pi as a float is off by 1.7e-7, and the product is rounded: both go into the low part.
    low = fma(f, left, 2 * math.pi - 4 * PIO2[0], fma(f, left, 4 * PIO2[0], neg(f, r)))
    return _sin_quadrant(f, f.add(bits_of(f, shifted), 1), r, low)


sin = by_type(_sin_float, "sin")
cos = by_type(_cos_float, "cos")
tan = by_type(_tan_float, "tan")


# -- inverse functions -----------------------------------------------------------------------------------------------
def _asin_parts(f: Function, x: Val) -> tuple[Val, Val]:
    """(|x| > 1/2, asin(|x|) or, where |x| > 1/2, asin(sqrt((1 - |x|)/2)))."""
    a = fabs(f, x)
    outer = compare(f, "ogt", a, 0.5)
    folded = f.intrinsic("sqrt", fma(f, a, -0.5, 0.5))
    return outer, odd_polynomial(f, f.select(outer, folded, a), ASIN)


def _asin_float(f: Function, x: Val) -> Val:
    """pi/2 - 2 asin(sqrt((1 - x)/2)) beyond 1/2."""
    outer, y = _asin_parts(f, x)
    flipped = fadd(f, fma(f, y, -2.0, PIO2[0]), PIO2[1])
    return copysign(f, f.select(outer, flipped, y), x)


def _acos_float(f: Function, x: Val) -> Val:
    """2 asin(sqrt((1 - x)/2)) for x > 1/2, pi minus that of -x for x < -1/2, pi/2 - asin(x) between."""
    outer, y = _asin_parts(f, x)
    negative = compare(f, "olt", x, 0.0)
    double = fadd(f, y, y)
    far = f.select(negative, fsub(f, 2 * PIO2[0], fsub(f, double, 2 * PIO2[1])), double)
    near = fsub(f, PIO2[0], fsub(f, copysign(f, y, x), PIO2[1]))
    return f.select(outer, far, near)


def _atan_float(f: Function, x: Val) -> Val:
    """A polynomial on [0, 1]; pi/2 - atan(1/x) beyond."""
    a = fabs(f, x)
    outer = compare(f, "ogt", a, 1.0)
    t = fdiv(f, choose(f, outer, 1.0, a), choose(f, outer, a, 1.0))
    y = odd_polynomial(f, t, ATAN)
    return copysign(f, f.select(outer, fsub(f, PIO2[0], fsub(f, y, PIO2[1])), y), x)


def _atan2_float(f: Function, y: Val, x: Val) -> Val:
    """The angle of (x, y) in [-pi, pi] with C's rules for zeros and infinities."""
    ax, ay = fabs(f, x), fabs(f, y)
    steep = f.compare("ogt", ay, ax)
    small, big = f.select(steep, ax, ay), f.select(steep, ay, ax)
    t = fdiv(f, small, big)
    t = choose(f, compare(f, "oeq", big, 0.0), 0.0, t)
    t = choose(f, compare(f, "oeq", small, INF), 1.0, t)
    a = odd_polynomial(f, t, ATAN)
    a = f.select(steep, fsub(f, PIO2[0], fsub(f, a, PIO2[1])), a)
    left = f.compare("slt", bits_of(f, x), const(lanes_type(x, "i32"), 0))
    a = f.select(left, fsub(f, 2 * PIO2[0], fsub(f, a, 2 * PIO2[1])), a)
    return choose(f, f.compare("uno", x, y), NAN, copysign(f, a, y))


asin = by_type(_asin_float, "asin")
acos = by_type(_acos_float, "acos")
atan = by_type(_atan_float, "atan")
atan2 = by_type(_atan2_float, "atan2")
