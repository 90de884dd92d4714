"""Functions whose float versions compute in double inside: pow, the inverse hyperbolic functions, erfc, lgamma, digamma, erfinv.

Half as many lanes per register, but no two-part arithmetic: rounding the double at the end makes them right to about half
a unit in the last place. Polynomials: minimax (Remez) fits in 40-digit arithmetic, error relative to the result.
"""
from __future__ import annotations

import math

from treadle.codegen.llvm_text import Function, Val, scalar_type
from treadle.codegen.maths_core import (
    DOUBLE,
    INF,
    NAN,
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
    from_bits,
    fsub,
    int_op,
    libm,
    like,
    neg,
    polynomial,
    to_double,
    to_type_of,
)
from treadle.codegen.maths_exp import log, split_exponent

# log2(1 + t) / t on [-1/3, 1/3] to 2^-38; 2^r on [-1/2, 1/2] to 2^-34.
LOG2 = [1.442695040892569985, -0.7213475204691110215, 0.4808983438071730095, -0.3606737519046896132, 0.2885394578964739942,
        -0.240449981462087976, 0.2060753542870043584, -0.1803024937960122957, 0.1609019555742290397, -0.1450140386545977159,
        0.1234771158078150937, -0.1117277784369888743, 0.1577985490001610426, -0.1505754085165056422]
EXP2 = [0.9999999999616817565, 0.6931471807284409255, 0.2402265119815751637, 0.0555041035347626949, 0.009618027253680360092,
        0.001333392253833551621, 0.0001546929114421853495, 0.00001520192757588431555]


# -- pow -----------------------------------------------------------------------------------------------------------
def _log2_wide(f: Function, a: Val) -> Val:
    """log2 of a positive normal double to 37 bits; zero gives -inf and infinity inf."""
    e, t = split_exponent(f, a, subnormals=False)
    y = fma(f, t, polynomial(f, t, LOG2), e)
    return choose(f, compare(f, "oeq", a, INF), a, choose(f, compare(f, "oeq", a, 0.0), -INF, y))


def _exp2_wide(f: Function, t: Val) -> Val:
    """2^t of a double to 34 bits; beyond +-1000 like at +-1000, which no float can tell apart."""
    t = clamp(f, t, -1000.0, 1000.0)
    magic = DOUBLE.magic + DOUBLE.bias
    shifted = fadd(f, t, magic)
    r = fsub(f, t, fsub(f, shifted, magic))
    return fmul(f, polynomial(f, r, EXP2), from_bits(f, int_op(f, "shl", bits_of(f, shifted), 52), DOUBLE))


def _pow_float(f: Function, x: Val, y: Val) -> Val:
    """2^(y log2 |x|) in double, then the signs and special cases of IEEE 754."""
    a = fabs(f, x)
    is_one = compare(f, "oeq", a, 1.0)
    t = fmul(f, to_double(f, y), _log2_wide(f, to_double(f, a)))
    # 0 * inf: a power of +-1 is +-1 whatever the exponent.
    t = choose(f, is_one, 0.0, t)
    power = f.cast("fptrunc", _exp2_wide(f, t), "float")
    whole = f.intrinsic("trunc", y)
    half = fmul(f, y, 0.5)
    odd = f.binary("and", f.compare("oeq", whole, y), f.compare("one", f.intrinsic("trunc", half), half))
    flipped = f.select(odd, copysign(f, power, x), power)
    # A finite negative base has no real power with a fractional exponent.
    base = f.binary("and", compare(f, "olt", x, 0.0), compare(f, "ogt", x, -INF))
    result = choose(f, f.binary("and", base, f.compare("one", y, whole)), NAN, flipped)
    result = choose(f, f.compare("uno", x, y), NAN, result)
    return choose(f, f.binary("or", compare(f, "oeq", y, 0.0), compare(f, "oeq", x, 1.0)), 1.0, result)


pow_ = by_type(_pow_float, "pow")


# -- inverse hyperbolic functions ------------------------------------------------------------------------------------
def _asinh_float(f: Function, x: Val) -> Val:
    """log(|x| + sqrt(x^2 + 1))."""
    a = to_double(f, fabs(f, x))
    y = log(f, fadd(f, a, f.intrinsic("sqrt", fma(f, a, a, 1.0))))
    y = copysign(f, to_type_of(f, y, x), x)
    return choose(f, compare(f, "olt", fabs(f, x), 2.0 ** -13), x, y)


def _acosh_float(f: Function, x: Val) -> Val:
    """log(x + sqrt(x^2 - 1)), x^2 exact in double; NaN below 1."""
    a = to_double(f, x)
    y = to_type_of(f, log(f, fadd(f, a, f.intrinsic("sqrt", fma(f, a, a, -1.0)))), x)
    return choose(f, compare(f, "oge", x, 1.0), y, NAN)


def _atanh_float(f: Function, x: Val) -> Val:
    """log((1 + x) / (1 - x)) / 2; +-inf at +-1, NaN beyond."""
    a = to_double(f, fabs(f, x))
    y = fmul(f, log(f, fdiv(f, fadd(f, a, 1.0), fsub(f, 1.0, a))), 0.5)
    y = copysign(f, to_type_of(f, y, x), x)
    return choose(f, compare(f, "olt", fabs(f, x), 2.0 ** -13), x, y)


asinh = by_type(_asinh_float, "asinh")
acosh = by_type(_acosh_float, "acosh")
atanh = by_type(_atanh_float, "atanh")


# -- gamma functions ---------------------------------------------------------------------------------------------
# sin(pi r)/r and cos(pi r) in r^2 on |r| <= 1/2.
SINPI = [3.141592653589793238, -5.167712780049970028, 2.550164039877345327, -0.5992645293207862682, 0.08214588661098070769,
         -0.007370430943554909653, 0.0004663027864672428897, -0.00002191524640186957891, 7.948456296922669149e-7, -2.227639327736570724e-8]
COSPI = [1.0, -4.934802200544679304, 4.058712126416767545, -1.335262768854555013, 0.2353306303579960157, -0.02580689137660446922,
         0.001929574187359323483, -0.0001046374171264188284, 4.300724831669945071e-6, -1.343527151934233304e-7]
# Asymptotic (Stirling) series in 1/z^2: B_2k / (2k (2k - 1)) for lgamma, B_2k / 2k for digamma; z >= 8.
STIRLING = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156]
HARMONIC = [1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12]
_SHIFT = 8


def _reflect(f: Function, x: Val) -> tuple[Val, Val, Val]:
    """(x < 0, x or 1 - x so that it is positive, the distance of x from the nearest integer), all for doubles."""
    negative = compare(f, "olt", x, 0.0)
    r = fsub(f, x, f.intrinsic("roundeven", x))
    return negative, f.select(negative, fsub(f, 1.0, x), x), r


def _lgamma_positive(f: Function, x: Val) -> Val:
    """Stirling's series at z = x + 8 (or x from 8 on), minus log(x (x+1) ... (x+7))."""
    small = compare(f, "olt", x, float(_SHIFT))
    s = choose(f, small, x, 0.0)
    product = s
    for k in range(1, _SHIFT):
        product = fmul(f, product, fadd(f, s, float(k)))
    product = choose(f, small, product, 1.0)
    z = f.select(small, fadd(f, x, float(_SHIFT)), x)
    w = fdiv(f, 1.0, z)
    series = fmul(f, w, polynomial(f, fmul(f, w, w), STIRLING))
    y = fma(f, fsub(f, z, 0.5), fsub(f, log(f, z), 1.0), fadd(f, series, 0.5 * math.log(2 * math.pi) - 0.5))
    y = fsub(f, y, log(f, product))
    # The zeros, which the difference misses by 1e-15.
    zero = f.binary("or", compare(f, "oeq", x, 1.0), compare(f, "oeq", x, 2.0))
    return choose(f, compare(f, "oeq", x, INF), x, choose(f, zero, 0.0, y))


def _lgamma_float(f: Function, x: Val) -> Val:
    """log |gamma(x)|; inf at 0, the negative integers and both infinities. Better than 1e-6 relative, 1e-12 absolute."""
    wide = to_double(f, x)
    negative, z, r = _reflect(f, wide)
    y = _lgamma_positive(f, z)
    sine = fmul(f, fabs(f, r), polynomial(f, fmul(f, r, r), SINPI))
    reflected = fsub(f, log(f, fdiv(f, math.pi, sine)), y)
    y = f.select(negative, reflected, y)
    y = choose(f, f.binary("and", negative, compare(f, "oeq", sine, 0.0)), INF, y)
    return choose(f, compare(f, "oeq", fabs(f, x), INF), INF, to_type_of(f, y, x))


def _digamma_positive(f: Function, x: Val) -> Val:
    """The asymptotic series at z = x + 8 (or x from 8 on), minus 1/x + ... + 1/(x+7) as one fraction."""
    small = compare(f, "olt", x, float(_SHIFT))
    s = choose(f, small, x, 1.0)
    above, below = like(x, 1.0), s
    for k in range(1, _SHIFT):
        term = fadd(f, s, float(k))
        above = fma(f, above, term, below)
        below = fmul(f, below, term)
    total = choose(f, small, fdiv(f, above, below), 0.0)
    z = f.select(small, fadd(f, x, float(_SHIFT)), x)
    w = fdiv(f, 1.0, z)
    w2 = fmul(f, w, w)
    tail = fma(f, w, 0.5, fmul(f, w2, polynomial(f, w2, HARMONIC)))
    return fsub(f, fsub(f, log(f, z), tail), total)


def digamma(f: Function, x: Val) -> Val:
    """d/dx log gamma(x); -inf at +0, inf at -0, NaN at the negative integers and -inf. Float: better than 1e-6 relative."""
    wide = to_double(f, x)
    negative, z, r = _reflect(f, wide)
    y = _digamma_positive(f, z)
    r2 = fmul(f, r, r)
    sine = fmul(f, r, polynomial(f, r2, SINPI))
    cotangent = fdiv(f, polynomial(f, r2, COSPI), sine)
    y = f.select(negative, fma(f, cotangent, -math.pi, y), y)
    y = choose(f, f.binary("and", negative, compare(f, "oeq", r, 0.0)), NAN, y)
    y = choose(f, compare(f, "oeq", wide, 0.0), copysign(f, like(wide, INF), neg(f, wide)), y)
    return to_type_of(f, y, x)


lgamma = by_type(_lgamma_float, "lgamma")


# -- erfc, erfinv ------------------------------------------------------------------------------------------------
# erfinv(y)/y in w = -log(1 - y^2) for w <= 5; erfinv(y) in sqrt(w) for 5 <= w <= 38.
ERFINV_CENTRE = [
    0.8862269254527580133, 0.2320136665346545671, 0.01154934203826772493, -0.002335101641559888536, -0.0001280432946914549071,
    0.00004661144264789377486, 2.019981056557041351e-6, -1.01253528493631044e-6, -3.732977349673574558e-8, 2.284111253998454712e-8,
    7.033726298636714764e-10, -4.809729889094450909e-10, -4.556032652354048467e-11, 2.819853071341481144e-11,
    -6.573813674899111529e-12, 2.118075146874575856e-12, -6.697286379294300146e-13, 1.479394074687769572e-13,
    -2.228596532875962809e-14, 2.321009488720846953e-15, -1.655511254962746486e-16, 7.718233351105064743e-18,
    -2.101452748932903915e-19, 2.479238228568205825e-21]
ERFINV_TAIL = [
    0.786715862842042616, -2.404657446730260611, 6.292036115245782261, -7.271907030847711463, 5.700187743182772042,
    -3.196822476826055262, 1.328876369910912597, -0.4184546008417590238, 0.1009601482300373337, -0.01871135516995167662,
    0.002647747601753203137, -0.0002814717886125600629, 0.00002180690164471628459, -1.166300557359066733e-6,
    3.881630358013665962e-8, -6.279263466577267346e-10, 1.241568452335914749e-12]


# erfc(x) e^(x^2) in (x - 4) / (x + 4), 0 <= x <= 10.3, to 2^-32.
ERFC = [0.136999457615817863, -0.2590680492417485902, 0.2187196814373714004, -0.1642577880214287162, 0.1089630945937061859,
        -0.06310833279679532264, 0.03129979281504290941, -0.012839757672936018, 0.004058720454602302274, -0.000815066162868290956,
        -0.00002822487482169720719, 0.0001015181362260477425]


def _erfc_float(f: Function, x: Val) -> Val:
    """e^(-x^2) P((|x| - 4) / (|x| + 4)), mirrored for negative x; relative accuracy down to the subnormals."""
    a = to_double(f, clamp(f, fabs(f, x), high=10.3))
    p = polynomial(f, fdiv(f, fsub(f, a, 4.0), fadd(f, a, 4.0)), ERFC)
    y = fmul(f, p, _exp2_wide(f, fmul(f, fmul(f, a, a), -1 / math.log(2))))
    return to_type_of(f, f.select(compare(f, "olt", to_double(f, x), 0.0), fsub(f, 2.0, y), y), x)


erfc = by_type(_erfc_float, "erfc")


def erfinv(f: Function, y: Val) -> Val:
    """The inverse of erf: +-inf at +-1, NaN beyond. Float: about 1 ulp; double: 1e-14 relative (one Newton step in the tail)."""
    a = to_double(f, fabs(f, y))
    rest = fsub(f, 1.0, a)
    w = neg(f, log(f, fmul(f, rest, fadd(f, a, 1.0))))
    tail_lanes = compare(f, "ogt", w, 5.0)
    centre = fmul(f, a, polynomial(f, clamp(f, w, high=5.0), ERFINV_CENTRE))
    tail = polynomial(f, f.intrinsic("sqrt", clamp(f, w, low=5.0, high=38.0)), ERFINV_TAIL)
    if scalar_type(y.ty) == "double":
        # Newton on erfc(x) = 1 - y; the slope is -2/sqrt(pi) e^(-x^2).
        off = fsub(f, libm(f, "erfc", tail), rest)
        slope = libm(f, "exp", fmul(f, tail, tail))
        tail = fma(f, fmul(f, off, 0.5 * math.sqrt(math.pi)), slope, tail)
    x = f.select(tail_lanes, tail, centre)
    x = choose(f, compare(f, "oeq", a, 1.0), INF, x)
    x = choose(f, compare(f, "ule", a, 1.0), x, NAN)
    return copysign(f, to_type_of(f, x, y), y)
