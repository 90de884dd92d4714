"""Rounding, remainders, comparisons and tests of floats in LLVM IR: all exact."""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Val, lanes_of
from treadle.codegen.maths_core import (
    INF,
    by_type,
    call_cold,
    choose,
    compare,
    copysign,
    fabs,
    fadd,
    fdiv,
    fma,
    fsub,
    int_op,
    neg,
    to_double,
    when_any,
)


def floor(f: Function, x: Val) -> Val:
    return f.intrinsic("floor", x)


def ceil(f: Function, x: Val) -> Val:
    return f.intrinsic("ceil", x)


def trunc(f: Function, x: Val) -> Val:
    return f.intrinsic("trunc", x)


def round_even(f: Function, x: Val) -> Val:
    """To the nearest integer, halves to even."""
    return f.intrinsic("roundeven", x)


def isnan(f: Function, x: Val) -> Val:
    """i1 per lane."""
    return f.compare("uno", x, x)


def isinf(f: Function, x: Val) -> Val:
    """i1 per lane."""
    return compare(f, "oeq", fabs(f, x), INF)


def isfinite(f: Function, x: Val) -> Val:
    """i1 per lane."""
    return compare(f, "olt", fabs(f, x), INF)


def sign(f: Function, x: Val) -> Val:
    """-1, 0 or 1; like PyTorch's, 0 for NaN and for both zeros."""
    y = choose(f, compare(f, "ogt", x, 0.0), 1.0, Val(x.ty, "zeroinitializer" if x.ty.startswith("<") else "0.0"))
    return choose(f, compare(f, "olt", x, 0.0), -1.0, y)


def maximum(f: Function, a: Val, b: Val) -> Val:
    """The larger; NaN when either is NaN."""
    return f.select(f.compare("uno", a, a), a, f.select(f.compare("ogt", a, b), a, b))


def minimum(f: Function, a: Val, b: Val) -> Val:
    """The smaller; NaN when either is NaN."""
    return f.select(f.compare("uno", a, a), a, f.select(f.compare("olt", a, b), a, b))


# -- remainders ----------------------------------------------------------------------------------------------------
# Up to this quotient one step in float is exact: the truncated quotient is wrong by at most one.
_ONE_STEP = 2.0 ** 22
# A quotient of two floats is below 2^277; every step in double removes 28 bits of it.
_STEPS = 10


def _fmod_large(f: Function, params: list[Val]) -> list[Val]:
    """|a| mod |b| for any quotient, in double: subtract the leading 28 bits of the quotient times b until none is left.

    Each product has at most 28 + 24 bits and each difference at most 53, so every step is exact. A step may overshoot
    (the quotient was rounded); the partial remainder then is negative and the next step corrects it.
    """
    a, b = to_double(f, params[0]), to_double(f, params[1])
    for _ in range(_STEPS):
        q = f.intrinsic("trunc", fdiv(f, a, b))
        q = f.cast("bitcast", int_op(f, "and", f.cast("bitcast", q, "i64"), -1 << 25), "double")
        a = fma(f, neg(f, q), b, a)
    a = f.select(compare(f, "olt", a, 0.0), fadd(f, a, b), a)
    return [f.cast("fptrunc", a, "float")]


def _fmod_float(f: Function, a: Val, b: Val) -> Val:
    """C's fmod: a - b * trunc(a / b), exact, with the sign of a; NaN for b = 0 or infinite a."""
    x, y = fabs(f, a), fabs(f, b)
    quotient = fdiv(f, x, y)
    r = fma(f, neg(f, f.intrinsic("trunc", quotient)), y, x)
    # The quotient may have been rounded up to an integer.
    r = f.select(compare(f, "olt", r, 0.0), fadd(f, r, y), r)
    many = f.binary("and", compare(f, "oge", quotient, _ONE_STEP), compare(f, "olt", x, INF))
    name = f"treadle.fmod_large.{lanes_of(a.ty)}"
    r, = when_any(f, many, [r], lambda: call_cold(f, name, [x, y], [x.ty], _fmod_large))
    # Also the way out for an infinite b.
    r = f.select(f.compare("olt", x, y), x, r)
    return copysign(f, r, a)


fmod = by_type(_fmod_float, "fmod")


def _signs_differ(f: Function, a: Val, b: Val) -> Val:
    return f.binary("xor", compare(f, "olt", a, 0.0), compare(f, "olt", b, 0.0))


def remainder(f: Function, a: Val, b: Val) -> Val:
    """Python's `a % b`: the sign of b, also for a zero; NaN for b = 0."""
    r = fmod(f, a, b)
    nonzero = compare(f, "one", r, 0.0)
    moved = f.select(f.binary("and", nonzero, _signs_differ(f, r, b)), fadd(f, r, b), r)
    return f.select(compare(f, "oeq", r, 0.0), copysign(f, r, b), moved)


def floor_divide(f: Function, a: Val, b: Val) -> Val:
    """Python's `a // b`, from the exact remainder; a / b when b is 0."""
    r = fmod(f, a, b)
    q = fdiv(f, fsub(f, a, r), b)
    down = f.binary("and", compare(f, "one", r, 0.0), _signs_differ(f, r, b))
    q = f.select(down, fsub(f, q, 1.0), q)
    whole = f.intrinsic("floor", q)
    # q is an integer up to rounding: go to the nearest one.
    whole = f.select(compare(f, "ogt", fsub(f, q, whole), 0.5), fadd(f, whole, 1.0), whole)
    plain = fdiv(f, a, b)
    whole = f.select(compare(f, "oeq", q, 0.0), copysign(f, Val(a.ty, "zeroinitializer" if a.ty.startswith("<") else "0.0"), plain), whole)
    return f.select(compare(f, "oeq", b, 0.0), plain, whole)
