"""Exponentials, logarithms, square roots, the hyperbolic functions, the sigmoid and erf, as polynomials in LLVM IR.

Each follows the textbook scheme: reduce the argument to a small interval (Cody and Waite, constants split in two parts),
evaluate a polynomial there, put the exponent back. The polynomials are minimax fits made with Remez exchange in 40-digit
arithmetic, the error weighted to be relative to the final result. Within 2 units in the last place for float.
"""
from __future__ import annotations

import math
import struct
from typing import NamedTuple

from treadle.codegen.llvm_text import Function, Val, scalar_type
from treadle.codegen.maths_core import (
    DOUBLE,
    FLOAT,
    INF,
    NAN,
    Format,
    bits_constant,
    bits_of,
    by_type,
    choose,
    clamp,
    compare,
    copysign,
    fabs,
    fadd,
    fdiv,
    fma,
    fmul,
    format_of,
    from_bits,
    fsub,
    int_op,
    like,
    neg,
    odd_polynomial,
    polynomial,
    split_constant,
    with_sign_of,
)


class ExpTable(NamedTuple):
    """Constants of the exponentials in one format. `exp_q`: (e^r - 1 - r) / r^2; `exp2_q`: (2^r - 1) / r."""

    high: float         # above it 2 * exp overflows even after halving
    low: float          # below it the result rounds to zero
    expm1_high: float
    expm1_low: float
    ln2_high: float
    ln2_low: float
    exp_q: list[float]
    exp2_q: list[float]


EXP = {
    FLOAT: ExpTable(
        90.0, -104.5, 89.0, -30.0,
        split_constant(math.log(2), FLOAT, 16), math.log(2) - split_constant(math.log(2), FLOAT, 16),
        [0.4999999325384536892, 0.1666651776236763358, 0.04166842179234383546, 0.008369063467432247907, 0.00138138817620933076],
        [0.6931472066576626078, 0.2402265092189741483, 0.05550327160329473406, 0.009618056621125573817, 0.001340046675169108779,
         0.0001546147808370581307]),
    DOUBLE: ExpTable(
        711.0, -746.0, 709.9, -50.0,
        split_constant(math.log(2), DOUBLE, 40), 7.3710025651677989018e-13,
        [0.5000000000000000045, 0.1666666666666668374, 0.04166666666666608336, 0.008333333333316785876, 0.001388888888911908157,
         0.0001984126989701286164, 0.00002480158692236212798, 2.755723422086912192e-6, 2.755758383444942042e-7, 2.511226425587141555e-8,
         2.082644001409438671e-9],
        [0.6931471805599453083, 0.2402265069591007123, 0.05550410866482169974, 0.009618129107628483091, 0.001333355814639017302,
         0.0001540353039336266634, 0.00001525273385646822503, 1.321548681608645771e-6, 1.017805111921090571e-7, 7.054894349851869159e-9,
         4.456686588308253092e-10, 2.573362396882922958e-11]),
}


# -- exponentials ------------------------------------------------------------------------------------------------
def _nearest(f: Function, x: Val, factor: float, extra: int) -> tuple[Val, Val]:
    """The integer nearest to x * factor as a float, and bits whose low part is that integer + extra."""
    magic = format_of(x).magic + extra
    shifted = fma(f, x, factor, magic) if factor != 1 else fadd(f, x, magic)
    return fsub(f, shifted, magic), bits_of(f, shifted)


def _reduce_exp(f: Function, x: Val, extra: int) -> tuple[Val, Val, Val]:
    """x = n ln 2 + head - n * (rest of ln 2): returns n, head (exact) and the bits that hold n + extra."""
    n, bits = _nearest(f, x, 1 / math.log(2), extra)
    return n, fma(f, n, -EXP[format_of(x)].ln2_high, x), bits


def _expm1_reduced(f: Function, n: Val, head: Val) -> Val:
    """e^r - 1 for r = head - n * (rest of ln 2)."""
    table = EXP[format_of(n)]
    r = fma(f, n, -table.ln2_low, head)
    square = fmul(f, r, r)
    return fma(f, square, polynomial(f, r, table.exp_q, square), r)


def _power_of_two(f: Function, bits: Val, fmt: Format) -> Val:
    """2^(low bits of `bits` - bias): the low bits become the exponent field."""
    return from_bits(f, int_op(f, "shl", bits, fmt.mantissa), fmt)


def _scale(f: Function, p: Val, bits: Val) -> Val:
    """(1 + p) * 2^n, `bits` holding n + 2 * bias, in two steps: overflows to inf and rounds once into the subnormals."""
    fmt = format_of(p)
    half = int_op(f, "lshr", bits, 1)
    power = _power_of_two(f, half, fmt)
    return fmul(f, fma(f, p, power, power), _power_of_two(f, f.binary("sub", bits, half), fmt))


def exp_scaled(f: Function, x: Val, extra: int) -> Val:
    """e^x * 2^extra for extra in -1, 0: any x, without an overflow on the way."""
    fmt = format_of(x)
    table = EXP[fmt]
    x = clamp(f, x, table.low, table.high)
    n, head, bits = _reduce_exp(f, x, 2 * fmt.bias + extra)
    return _scale(f, _expm1_reduced(f, n, head), bits)


def exp_in_range(f: Function, x: Val) -> Val:
    """e^x where the result is known to be a normal number: no clamping."""
    fmt = format_of(x)
    n, head, bits = _reduce_exp(f, x, fmt.bias)
    power = _power_of_two(f, bits, fmt)
    return fma(f, _expm1_reduced(f, n, head), power, power)


def exp(f: Function, x: Val) -> Val:
    """e^x; inf above the largest exponent, gradual underflow below the smallest."""
    return exp_scaled(f, x, 0)


def exp2(f: Function, x: Val) -> Val:
    """2^x, exact for integers."""
    fmt = format_of(x)
    table = EXP[fmt]
    x = clamp(f, x, math.floor(table.low / math.log(2)), fmt.bias + 2)
    n, bits = _nearest(f, x, 1.0, 2 * fmt.bias)
    r = fsub(f, x, n)
    return _scale(f, fmul(f, r, polynomial(f, r, table.exp2_q, fmul(f, r, r))), bits)


def expm1(f: Function, x: Val) -> Val:
    """e^x - 1, accurate near 0: 2^n (e^r - 1) + (2^n - 1), computed at half size so that it cannot overflow early."""
    fmt = format_of(x)
    table = EXP[fmt]
    limited = clamp(f, x, table.expm1_low, table.expm1_high)
    n, head, bits = _reduce_exp(f, limited, fmt.bias - 1)
    r = fma(f, n, -table.ln2_low, head)
    low = fma(f, n, -table.ln2_low, fsub(f, head, r))
    square = fmul(f, r, r)
    p = fadd(f, fma(f, square, polynomial(f, r, table.exp_q, square), low), r)
    half = _power_of_two(f, bits, fmt)
    y = fmul(f, fma(f, p, half, fsub(f, half, 0.5)), 2.0)
    return choose(f, compare(f, "olt", fabs(f, x), 2.0 ** (-fmt.mantissa - 2)), x, y)


# -- logarithms --------------------------------------------------------------------------------------------------
# (log(1 + t) - t + t^2 / 2) / t^3 on [-1/3, 1/3].
LOG_P = {
    FLOAT: [0.3333333574532166477, -0.2499982026538672524, 0.1999959772981694084, -0.1667957856291226014, 0.1430445690338994561,
            -0.121957745015836912, 0.107542346622417973, -0.1284507535437482856, 0.120071540099730337],
    DOUBLE: [0.333333333333331708, -0.2499999999999943868, 0.2000000000007318707, -0.166666666668454867, 0.1428571427451150881,
             -0.1249999997821400212, 0.1111111195264798852, -0.1000000138810919172, 0.09090872993735912375, -0.08333280816978950893,
             0.07693259682026391385, -0.07144110903968191375, 0.06650735340328164856, -0.06230657542983411875, 0.06051192353461547173,
             -0.05747042488959275903, 0.04177712727941583418, -0.03839028310001541426, 0.08495762162138560198, -0.08334456675302383128],
}
# Leading bits and the rest of constants that multiply an exponent or a reduced argument.
_HIGH_BITS = {FLOAT: 16, DOUBLE: 40}
_LOG10_2_TAIL = -2.803728127785170339e-18
_LOG10_E_TAIL = 6.649434773342547812e-17
_LOG2_E_TAIL = 2.035527374093103205e-17


def _high_low(value: float, tail: float, fmt: Format) -> tuple[float, float]:
    """value + tail as two parts, the first short enough to multiply by an exponent exactly."""
    high = split_constant(value, fmt, _HIGH_BITS[fmt])
    return high, (value - high) + tail


def _nearest_low(value: float, tail: float, fmt: Format) -> tuple[float, float]:
    """value + tail as the nearest number of the format and the rest."""
    if fmt is DOUBLE:
        return value, tail
    high = struct.unpack("<f", struct.pack("<f", value))[0]
    return high, value - high


def to_float_exponent(f: Function, e: Val, model: Val) -> Val:
    """A small signed integer as a float of `model`'s type."""
    if scalar_type(e.ty) == "i64":
        # 32-bit conversions exist on every CPU, 64-bit ones only on some.
        e = f.cast("trunc", e, "i32")
    return f.cast("sitofp", e, scalar_type(model.ty))


def split_exponent(f: Function, x: Val, subnormals: bool = True) -> tuple[Val, Val]:
    """x = 2^e (1 + t) with 1 + t in [2/3, 4/3): returns e (as a float) and t, for positive finite x."""
    fmt = format_of(x)
    shift = 0.0
    if subnormals:
        small = compare(f, "olt", x, fmt.smallest_normal)
        x = choose(f, small, fmul(f, x, 2.0 ** (fmt.mantissa + 1)), x)
        shift = fmt.mantissa + 1.0
    bits = bits_of(f, x)
    e = int_op(f, "ashr", int_op(f, "sub", bits, bits_constant(2 / 3, fmt)), fmt.mantissa)
    m = from_bits(f, int_op(f, "sub", bits, int_op(f, "shl", e, fmt.mantissa)), fmt)
    e_float = to_float_exponent(f, e, x)
    if subnormals:
        e_float = choose(f, small, fsub(f, e_float, shift), e_float)
    return e_float, fsub(f, m, 1.0)


def _log1p_tail(f: Function, t: Val) -> Val:
    """log(1 + t) - t on [-1/3, 1/3]."""
    square = fmul(f, t, t)
    p = polynomial(f, t, LOG_P[format_of(t)], square)
    return fmul(f, square, fma(f, t, p, -0.5))


def _log_specials(f: Function, x: Val, y: Val) -> Val:
    """Zero, infinity, negative numbers and NaN of the logarithms."""
    y = choose(f, compare(f, "oeq", x, INF), x, y)
    y = choose(f, compare(f, "oeq", x, 0.0), -INF, y)
    return choose(f, compare(f, "ult", x, 0.0), NAN, y)


def log(f: Function, x: Val) -> Val:
    """Natural logarithm; -inf at 0, NaN below."""
    table = EXP[format_of(x)]
    e, t = split_exponent(f, x)
    low = fma(f, e, table.ln2_low, _log1p_tail(f, t))
    return _log_specials(f, x, fma(f, e, table.ln2_high, fadd(f, t, low)))


def _log_base(f: Function, x: Val, per_e: tuple[float, float], per_ln: tuple[float, float]) -> Val:
    """e * per_e + log(1 + t) * per_ln, each constant in two parts."""
    e, t = split_exponent(f, x)
    low = fma(f, t, per_ln[1], fma(f, e, per_e[1], fmul(f, _log1p_tail(f, t), per_ln[0])))
    whole = fmul(f, e, per_e[0])
    high = fma(f, t, per_ln[0], whole)
    # What rounding `high` lost; exact because |whole| is 0 or at least as large as the product.
    lost = fma(f, t, per_ln[0], fsub(f, whole, high))
    return _log_specials(f, x, fadd(f, high, fadd(f, low, lost)))


def log2(f: Function, x: Val) -> Val:
    """Logarithm to base 2, exact for powers of two."""
    return _log_base(f, x, (1.0, 0.0), _nearest_low(1 / math.log(2), _LOG2_E_TAIL, format_of(x)))


def log10(f: Function, x: Val) -> Val:
    """Logarithm to base 10."""
    fmt = format_of(x)
    return _log_base(f, x, _high_low(math.log10(2), _LOG10_2_TAIL, fmt), _nearest_low(1 / math.log(10), _LOG10_E_TAIL, fmt))


def log1p(f: Function, x: Val) -> Val:
    """log(1 + x), accurate near 0: the exponent e comes from 1 + x, the reduced argument 2^-e (1 + x) - 1 from x itself."""
    fmt = format_of(x)
    table = EXP[fmt]
    sum_bits = bits_of(f, fadd(f, x, 1.0))
    e = int_op(f, "ashr", int_op(f, "sub", sum_bits, bits_constant(2 / 3, fmt)), fmt.mantissa)
    field = int_op(f, "shl", e, fmt.mantissa)
    # 4 * 2^-e instead of 2^-e: it stays a normal number for the largest e. For e = 0, x may be subnormal or zero.
    four = from_bits(f, f.binary("sub", like(e, bits_constant(4.0, fmt)), field), fmt)
    scaled = fmul(f, fmul(f, x, 0.25), four)
    x_small = compare(f, "olt", fabs(f, x), 2.0 ** (-fmt.mantissa - 2))
    t = fadd(f, scaled, fma(f, four, 0.25, -1.0))
    e_float = to_float_exponent(f, e, x)
    low = fma(f, e_float, table.ln2_low, _log1p_tail(f, t))
    y = fma(f, e_float, table.ln2_high, fadd(f, t, low))
    y = choose(f, compare(f, "oeq", x, INF), x, y)
    y = choose(f, compare(f, "oeq", x, -1.0), -INF, y)
    y = choose(f, compare(f, "ult", x, -1.0), NAN, y)
    return choose(f, x_small, x, y)


# -- roots -------------------------------------------------------------------------------------------------------
def sqrt(f: Function, x: Val) -> Val:
    """The correctly rounded square root; NaN below zero."""
    return f.intrinsic("sqrt", x)


def _rsqrt_float(f: Function, x: Val) -> Val:
    """1 / sqrt(x) without a division: a bit-level first guess (3.5 %), then two third-order Householder steps."""
    small = compare(f, "olt", x, FLOAT.smallest_normal)
    normal = choose(f, small, fmul(f, x, 2.0 ** 24), x)
    half_bits = int_op(f, "lshr", bits_of(f, normal), 1)
    y = from_bits(f, f.binary("sub", like(half_bits, 0x5F375A86), half_bits), FLOAT)
    for _ in range(2):
        residual = fma(f, neg(f, fmul(f, normal, y)), y, 1.0)
        y = fma(f, fmul(f, y, residual), fma(f, residual, 0.375, 0.5), y)
    y = choose(f, small, fmul(f, y, 2.0 ** 12), y)
    y = choose(f, compare(f, "oeq", x, INF), 0.0, y)
    y = choose(f, compare(f, "oeq", x, 0.0), copysign(f, like(x, INF), x), y)
    return choose(f, compare(f, "ult", x, 0.0), NAN, y)


def _rsqrt_double(f: Function, x: Val) -> Val:
    return fdiv(f, 1.0, sqrt(f, x))


rsqrt = by_type(_rsqrt_float, _rsqrt_double)


# -- hyperbolic functions, sigmoid ---------------------------------------------------------------------------------
# (sinh(x) / x - 1) / x^2 in x^2 for |x| <= 1.
SINH_SMALL = {
    FLOAT: [0.1666666649756300088, 0.008333350058084317969, 0.00019836159789366148, 2.816951180424359313e-6],
    DOUBLE: [0.1666666666666666738, 0.008333333333333147743, 0.000198412698414318729, 2.755731915707174319e-6,
             2.505212313674359619e-8, 1.60572597671941543e-10, 7.758748845510879783e-13],
}


def tanh(f: Function, x: Val) -> Val:
    """(1 - e^z) / (1 + e^z) for z = -2|x|, each rounded once, from e^r - 1 and the power of two: this is accurate near 0 too."""
    fmt = format_of(x)
    # Beyond 10 (float) or 20 (double) the result is 1.
    limited = clamp(f, fabs(f, x), high=20.0 if fmt is DOUBLE else 10.0)
    n, head, bits = _reduce_exp(f, neg(f, fadd(f, limited, limited)), fmt.bias)
    p, power = _expm1_reduced(f, n, head), _power_of_two(f, bits, fmt)
    below, above = fma(f, neg(f, p), power, fsub(f, like(p, 1.0), power)), fma(f, p, power, fadd(f, power, 1.0))
    return with_sign_of(f, fdiv(f, below, above), x)


def sinh(f: Function, x: Val) -> Val:
    """A polynomial up to 1, then h - 1/(4h) with h = e^|x| / 2."""
    a = fabs(f, x)
    half = exp_scaled(f, a, -1)
    large = fsub(f, half, fdiv(f, 0.25, half))
    small = odd_polynomial(f, x, SINH_SMALL[format_of(x)])
    return choose(f, compare(f, "ogt", a, 1.0), copysign(f, large, x), small)


def cosh(f: Function, x: Val) -> Val:
    """h + 1/(4h) with h = e^|x| / 2."""
    half = exp_scaled(f, fabs(f, x), -1)
    return fadd(f, half, fdiv(f, 0.25, half))


def sigmoid(f: Function, x: Val) -> Val:
    """1 / (1 + e^-x), accurate in both tails: the exponential never overflows."""
    e = exp(f, neg(f, fabs(f, x)))
    total = fadd(f, e, 1.0)
    y = fdiv(f, choose(f, compare(f, "olt", x, 0.0), e, 1.0), total)
    # Put back what rounding 1 + e lost.
    return fma(f, y, fsub(f, fsub(f, total, 1.0), e), y)


# -- erf ---------------------------------------------------------------------------------------------------------
# erf(x) / x - 1 in x^2 for |x| <= 0.9; -log(1 - erf(x)) for 0.875 <= x <= 4.
ERF_SMALL = [0.128379166764376737, -0.3761263497987145782, 0.1128371503311965026, -0.02686050847633703333, 0.005203859188041210265,
             -0.0008175639557828700096, 0.00008513104960944142206]
ERF_LARGE = [-0.0001620263593588074807, 1.129453168869297483, 0.6334734553507603844, 0.1081390505514088864, -0.0250271567837599934,
             0.00413565058393000282, -0.000427084186907764345, 0.00002045146651477369554]


def _erf_float(f: Function, x: Val) -> Val:
    """x + x P(x^2) up to 0.9, then 1 - e^-Q(|x|); 1 from 4 on."""
    a = fabs(f, x)
    small = fma(f, x, polynomial(f, fmul(f, x, x), ERF_SMALL), x)
    q = polynomial(f, clamp(f, a, high=4.0), [-c for c in ERF_LARGE])
    large = fsub(f, 1.0, exp_in_range(f, q))
    return choose(f, compare(f, "ogt", a, 0.9), copysign(f, large, x), small)


erf = by_type(_erf_float, "erf")
