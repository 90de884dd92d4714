"""Scalar functions of the kernel IR as LLVM instructions, for scalars and vectors alike.

Registers hold float16 and bfloat16 as `float` (rounded at casts and stores), bool as `i1`, everything else as itself.
Memory holds bool as one byte and bfloat16 as its 16 bits.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from treadle.codegen.llvm_text import Function, Val, const, lanes_of, scalar_bits, scalar_type, vector_type
from treadle.codegen.maths import MATHS
from treadle.ir.dtypes import BOOL, FLOAT, INTS, by_name

_REGISTER = {d.name: f"i{8 * d.itemsize}" for d in INTS} | {
    "float16": "float", "bfloat16": "float", "float32": "float", "float64": "double", "bool": "i1"}
_MEMORY = _REGISTER | {"float16": "half", "bfloat16": "i16", "bool": "i8"}

# Codes in the error cell.
INDEX_OUT_OF_RANGE, DIVISION_BY_ZERO = 1, 2

# A user's own scalar functions by opcode: (function being built, *operands) -> value.
EXTRA: dict[str, Callable[..., Val]] = {}


class Site(NamedTuple):
    """Where an expression stands: the function, the lanes that count (None: all), and the error cell."""

    f: Function
    mask: Val | None
    error: Val


def register_type(dtype: str) -> str:
    """The LLVM scalar type a value of `dtype` has in registers."""
    return _REGISTER[dtype]


def memory_type(dtype: str) -> str:
    """The LLVM scalar type of an element of `dtype` in memory."""
    return _MEMORY[dtype]


def constant(dtype: str, value: float | int | bool, lanes: int = 1) -> Val:
    """A constant of `dtype`, rounded to it first."""
    kind = by_name(dtype)
    ty = vector_type(_REGISTER[dtype], lanes)
    if kind.category == FLOAT:
        with np.errstate(over="ignore"):
            return const(ty, float(np.asarray(value, np.float64).astype(kind.np)))
    return const(ty, int(bool(value)) if kind.category == BOOL else int(value))


# -- memory ----------------------------------------------------------------------------------------------------------
def from_memory(f: Function, value: Val, dtype: str) -> Val:
    """A value as loaded (`memory_type`) to its register form."""
    if dtype == "bool":
        return f.compare("ne", value, const(value.ty, 0))
    if dtype == "float16":
        return _half_to_float(f, value) if f.module.software_half else f.cast("fpext", value, "float")
    if dtype == "bfloat16":
        wide = f.cast("zext", value, "i32")
        return f.cast("bitcast", f.binary("shl", wide, const(wide.ty, 16)), "float")
    return value


def to_memory(f: Function, value: Val, dtype: str) -> Val:
    """A register value to the form that is stored, rounding 16-bit floats to nearest even."""
    if dtype == "bool":
        return f.cast("zext", value, "i8")
    if dtype == "float16":
        return _float_to_half(f, value) if f.module.software_half else f.cast("fptrunc", value, "half")
    return _bfloat_bits(f, value) if dtype == "bfloat16" else value


def _bfloat_bits(f: Function, value: Val) -> Val:
    """Round to nearest even in integers: the hardware instruction would flush denormals."""
    raw = f.cast("bitcast", value, "i32")
    odd = f.binary("and", f.binary("lshr", raw, const(raw.ty, 16)), const(raw.ty, 1))
    rounded = f.add(raw, f.add(odd, 0x7FFF))
    quiet = f.binary("or", raw, const(raw.ty, 0x400000))  # rounding could carry a NaN into infinity
    chosen = f.select(f.compare("uno", value, value), quiet, rounded)
    return f.cast("trunc", f.binary("lshr", chosen, const(raw.ty, 16)), "i16")


def _half_to_float(f: Function, value: Val) -> Val:
    """float16 to float in integers: the exponent is corrected by a product, which also normalizes subnormals."""
    raw = f.cast("zext", f.cast("bitcast", value, "i16"), "i32")
    size = f.binary("and", raw, const(raw.ty, 0x7FFF))
    moved = f.binary("shl", size, const(raw.ty, 13))
    scaled = f.cast("bitcast", moved, "float")
    finite = f.cast("bitcast", f.binary("fmul", scaled, const(scaled.ty, 2.0**112)), "i32")
    special = f.binary("or", moved, const(raw.ty, 0x7F800000))
    magnitude = f.select(f.compare("ugt", size, const(raw.ty, 0x7BFF)), special, finite)
    sign = f.binary("shl", f.binary("and", raw, const(raw.ty, 0x8000)), const(raw.ty, 16))
    return f.cast("bitcast", f.binary("or", magnitude, sign), "float")


def _float_to_half(f: Function, value: Val) -> Val:
    """float to float16 in integers, to nearest even; subnormals are rounded by adding a number with their last place."""
    raw = f.cast("bitcast", value, "i32")
    size = f.binary("and", raw, const(raw.ty, 0x7FFFFFFF))
    odd = f.binary("and", f.binary("lshr", size, const(raw.ty, 13)), const(raw.ty, 1))
    rounded = f.add(f.add(size, odd), 0xFFF - (112 << 23))
    normal = f.binary("lshr", rounded, const(raw.ty, 13))
    small = f.binary("fadd", f.cast("bitcast", size, "float"), const(value.ty, 0.5))
    subnormal = f.sub(f.cast("bitcast", small, "i32"), const(raw.ty, 0x3F000000))
    result = f.select(f.compare("ult", size, const(raw.ty, 113 << 23)), subnormal, normal)
    result = f.select(f.compare("ugt", size, const(raw.ty, 0x477FEFFF)), const(raw.ty, 0x7C00), result)
    result = f.select(f.compare("ugt", size, const(raw.ty, 0x7F800000)), const(raw.ty, 0x7E00), result)
    sign = f.binary("and", f.binary("lshr", raw, const(raw.ty, 16)), const(raw.ty, 0x8000))
    return f.cast("bitcast", f.cast("trunc", f.binary("or", result, sign), "i16"), "half")


# -- casts -----------------------------------------------------------------------------------------------------------
def cast(f: Function, value: Val, source: str, to: str) -> Val:
    """C semantics; integers wrap; to bool means != 0; NaN or too large a float to an integer gives what the hardware gives."""
    a, b = by_name(source), by_name(to)
    if source == to:
        return value
    if b.category == BOOL:
        return f.compare("une" if a.category == FLOAT else "ne", value, const(value.ty, 0))
    if b.category == FLOAT:
        return _to_float(f, value, source, to)
    have, want = scalar_bits(scalar_type(value.ty)), scalar_bits(_REGISTER[to])
    if a.category == FLOAT:
        # By way of 64 bits, so that narrower results wrap.
        value, have = _to_uint64(f, value) if to == "uint64" else f.cast("fptosi", value, "i64"), 64
    if want == have:
        return value
    return f.cast("trunc" if want < have else "sext" if a.signed else "zext", value, _REGISTER[to])


def _to_uint64(f: Function, value: Val) -> Val:
    """Numbers from 2**63 on less 2**63, which is then the top bit; negative ones wrap."""
    high = f.compare("oge", value, const(value.ty, 2.0**63))
    low = f.cast("fptosi", f.select(high, f.binary("fsub", value, const(value.ty, 2.0**63)), value), "i64")
    return f.select(high, f.binary("xor", low, const(low.ty, -1 << 63)), low)


def _to_float(f: Function, value: Val, source: str, to: str) -> Val:
    a = by_name(source)
    half = to in ("float16", "bfloat16")
    if a.category != FLOAT:
        wide = half and a.itemsize >= 4  # int32 and int64 do not fit float32: go through double so as to round once
        value = f.cast("sitofp" if a.signed else "uitofp", value, "double" if wide else _REGISTER[to])
    have = scalar_type(value.ty)
    if not half:
        return value if have == _REGISTER[to] else f.cast("fpext" if to == "float64" else "fptrunc", value, _REGISTER[to])
    if have == "double":
        value = _round_to_odd(f, value)
    return from_memory(f, to_memory(f, value, to), to)


def _round_to_odd(f: Function, value: Val) -> Val:
    """double -> float such that rounding the result to fewer bits equals rounding `value` itself: inexact results get an odd last bit."""
    near = f.cast("fptrunc", value, "float")
    back = f.cast("fpext", near, "double")
    raw = f.cast("bitcast", near, "i32")
    too_far = f.compare("ogt", f.intrinsic("fabs", back), f.intrinsic("fabs", value))
    toward_zero = f.sub(raw, f.cast("zext", too_far, "i32"))
    inexact = f.cast("zext", f.compare("one", back, value), "i32")
    return f.cast("bitcast", f.binary("or", toward_zero, inexact), "float")


# -- faults ----------------------------------------------------------------------------------------------------------
def report(site: Site, bad: Val, code: int, value: Val, bound: Val) -> None:
    """Write (code, 0, value, bound) to the error cell if any lane of `bad` is set; the code goes last."""
    f = site.f
    lanes = lanes_of(bad.ty)
    bad = bad if site.mask is None else f.binary("and", bad, site.mask)
    fault = f.call(f"llvm.vector.reduce.or.v{lanes}i1", "i1", bad) if lanes > 1 else bad
    if f.module.many_threads:
        _report_first(site, fault, code, value, bound)
        return
    with f.if_(fault):
        f.store(const("i64", 0), f.gep(site.error, 1, "i64"))
        f.store(_first(f, bad, value), f.gep(site.error, 2, "i64"))
        f.store(_first(f, bad, bound), f.gep(site.error, 3, "i64"))
        f.store(const("i64", code), site.error)


def _report_first(site: Site, fault: Val, code: int, value: Val, bound: Val) -> None:
    """Of many threads with a fault one writes: the one that claims the cell's second word."""
    f = site.f
    with f.if_(fault):
        claim = f.gep(site.error, 1, "i64")
        found = f.op(f"cmpxchg {claim}, i64 0, i64 1 monotonic monotonic", "{ i64, i1 }")
        with f.if_(f.op(f"extractvalue {found}, 1", "i1")):
            for word, given in ((2, value), (3, bound)):
                f.store(given if given.ty == "i64" else f.cast("sext", given, "i64"), f.gep(site.error, word, "i64"))
            f.store(const("i64", code), site.error)


def _first(f: Function, bad: Val, value: Val) -> Val:
    """The element of `value` in the first lane set in `bad`, as i64."""
    lanes = lanes_of(bad.ty)
    if lanes_of(value.ty) > 1:
        word = f.op(f"bitcast {bad} to i{lanes}", f"i{lanes}")
        lane = f.call(f"llvm.cttz.i{lanes}", f"i{lanes}", word, const("i1", 0))
        value = f.op(f"extractelement {value}, {lane}", scalar_type(value.ty))
    return value if value.ty == "i64" else f.cast("sext", value, "i64")


# -- elementwise -----------------------------------------------------------------------------------------------------
_FLOAT_COMPARE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_SIGNED_COMPARE = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_UNSIGNED_COMPARE = {"eq": "eq", "ne": "ne", "lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge"}
_LOGIC = {"logical_and": "and", "logical_or": "or", "logical_xor": "xor"}
_IDENTITY_ON_INTEGERS = frozenset(("floor", "ceil", "trunc", "round"))


def elementwise(site: Site, opcode: str, dtypes: tuple[str, ...], args: list[Val]) -> Val:
    """One scalar function on operands of the given dtypes. KeyError for a name that is no scalar function."""
    f = site.f
    kind = by_name(dtypes[0])
    if opcode in EXTRA:
        return EXTRA[opcode](f, *args)
    if opcode == "select":
        return f.select(*args)
    if opcode == "copy":
        return args[0]
    if opcode in _LOGIC or opcode == "logical_not":
        truths = [cast(f, v, d, "bool") for v, d in zip(args, dtypes, strict=True)]
        return f.binary(_LOGIC[opcode], *truths) if len(truths) == 2 else f.binary("xor", truths[0], const(truths[0].ty, 1))
    if opcode in _FLOAT_COMPARE:
        names = _FLOAT_COMPARE if kind.category == FLOAT else _SIGNED_COMPARE if kind.signed else _UNSIGNED_COMPARE
        return f.compare(names[opcode], *args)
    if kind.category == FLOAT:
        return _float_function(f, opcode, args)
    if opcode in ("isnan", "isinf", "isfinite"):
        return const(vector_type("i1", lanes_of(args[0].ty)), int(opcode == "isfinite"))
    if kind.category == BOOL:
        return _bool_function(f, opcode, args)
    return _integer_function(site, opcode, kind.signed, args)


def _float_function(f: Function, opcode: str, args: list[Val]) -> Val:
    simple = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}.get(opcode)
    if simple:
        return f.binary(simple, *args)
    x = args[0]
    zero = const(x.ty, 0.0)
    if opcode == "neg":
        return f.op(f"fneg {x}", x.ty)
    if opcode == "relu":
        # This operand order is one `max` instruction, and lets NaN through.
        return f.select(f.compare("ogt", zero, x), zero, x)
    if opcode == "reciprocal":
        return f.binary("fdiv", const(x.ty, 1.0), x)
    if opcode == "trunc_divide":
        return MATHS["trunc"](f, f.binary("fdiv", *args))
    return MATHS[opcode](f, *args)


def _bool_function(f: Function, opcode: str, args: list[Val]) -> Val:
    both = {"add": "or", "mul": "and", "maximum": "or", "minimum": "and",
            "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor"}.get(opcode)
    if both:
        return f.binary(both, *args)
    if opcode in ("abs", "sign") or opcode in _IDENTITY_ON_INTEGERS:
        return args[0]
    if opcode == "bitwise_not":
        return f.binary("xor", args[0], const(args[0].ty, 1))
    raise KeyError(f"no scalar function {opcode!r} on bool")


def _integer_function(site: Site, opcode: str, signed: bool, args: list[Val]) -> Val:
    f, x = site.f, args[0]
    plain = {"add": "add", "sub": "sub", "mul": "mul", "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor"}.get(opcode)
    if plain:
        return f.binary(plain, *args)
    if opcode in _DIVISIONS:
        return _DIVISIONS[opcode](site, signed, x, args[1])
    if opcode in ("shift_left", "shift_right"):
        return _shift(f, opcode, signed, x, args[1])
    if opcode == "pow":
        return _integer_power(f, signed, x, args[1])
    if opcode in ("maximum", "minimum"):
        return f.intrinsic(("s" if signed else "u") + opcode[:3], *args)
    if opcode == "neg":
        return f.sub(const(x.ty, 0), x)
    if opcode == "bitwise_not":
        return f.binary("xor", x, const(x.ty, -1))
    if opcode in _IDENTITY_ON_INTEGERS or (opcode in ("abs", "relu") and not signed):
        return x
    if opcode == "relu":
        return f.intrinsic("smax", x, const(x.ty, 0))
    if opcode == "abs":
        return f.select(f.compare("slt", x, const(x.ty, 0)), f.sub(const(x.ty, 0), x), x)
    if opcode == "sign":
        positive = f.cast("zext", f.compare("ne" if not signed else "sgt", x, const(x.ty, 0)), scalar_type(x.ty))
        return f.binary("or", positive, f.binary("ashr", x, const(x.ty, scalar_bits(scalar_type(x.ty)) - 1))) if signed else positive
    raise KeyError(f"no scalar function {opcode!r} on integers")


def _shift(f: Function, opcode: str, signed: bool, x: Val, count: Val) -> Val:
    """A count outside [0, bits) shifts everything out: 0, or copies of the sign."""
    width = scalar_bits(scalar_type(x.ty))
    inside = f.compare("ult", count, const(x.ty, width))
    if opcode == "shift_right" and signed:
        return f.binary("ashr", x, f.select(inside, count, const(x.ty, width - 1)))
    moved = f.binary("shl" if opcode == "shift_left" else "lshr", x, f.select(inside, count, const(x.ty, 0)))
    return f.select(inside, moved, const(x.ty, 0))


# -- division by what all lanes share ------------------------------------------------------------------------------------
class Divisor(NamedTuple):
    """A number scaled by a power of two away from the ends of its range, its rounded reciprocal, that scale, and the bound on
    quotients below which a correction step is sound: all as vectors."""

    value: Val
    reciprocal: Val
    scale: Val
    bound: Val


def prepare_divisor(f: Function, value: Val, lanes: int) -> Divisor:
    """What `divide` needs to know about a scalar float or double."""
    far, up, down = (120, 100, -64) if value.ty == "float" else (1000, 600, -500)
    size = f.intrinsic("fabs", value)
    scale = f.select(f.compare("olt", size, const(value.ty, 2.0**-far)), const(value.ty, 2.0**up), const(value.ty, 1.0))
    scale = f.select(f.compare("ogt", size, const(value.ty, 2.0**far)), const(value.ty, 2.0**down), scale)
    value = f.binary("fmul", value, scale)
    size = f.intrinsic("fabs", value)
    usual = f.binary("and", f.compare("olt", size, const(value.ty, math.inf)), f.compare("ogt", size, const(value.ty, 0.0)))
    bound = f.select(usual, const(value.ty, math.inf), const(value.ty, -1.0))
    reciprocal = f.binary("fdiv", const(value.ty, 1.0), value)
    return Divisor(*(f.splat(v, lanes) for v in (value, reciprocal, scale, bound)))


def divide(f: Function, x: Val, by: Divisor) -> Val:
    """x / by, correctly rounded but for subnormal quotients: a product corrected by its exact remainder (Markstein 1990).

    Six cheap instructions instead of a division, which takes a wide vector unit 16 cycles.
    """
    x = f.binary("fmul", x, by.scale)
    quotient = f.binary("fmul", x, by.reciprocal)
    rest = f.fma(f.op(f"fneg {quotient}", x.ty), by.value, x)
    better = f.fma(rest, by.reciprocal, quotient)
    return f.select(f.compare("olt", f.intrinsic("fabs", quotient), by.bound), better, quotient)


# -- integer division ------------------------------------------------------------------------------------------------
def _trunc_divide(site: Site, signed: bool, x: Val, y: Val) -> Val:
    """Division towards zero that never traps: by 0 is reported and gives x; the least number by -1 wraps."""
    f = site.f
    zero = f.compare("eq", y, const(y.ty, 0))
    wide = f.cast("sext" if signed else "zext", x, "i64") if x.ty != vector_type("i64", lanes_of(x.ty)) else x
    report(site, zero, DIVISION_BY_ZERO, wide, const("i64", 0))
    unsafe = zero
    if signed:
        least = -(1 << (scalar_bits(scalar_type(x.ty)) - 1))
        overflow = f.binary("and", f.compare("eq", x, const(x.ty, least)), f.compare("eq", y, const(y.ty, -1)))
        unsafe = f.binary("or", zero, overflow)
    y = f.select(unsafe, const(y.ty, 1), y)
    if scalar_bits(scalar_type(x.ty)) > 32 or lanes_of(x.ty) == 1:
        return f.binary("sdiv" if signed else "udiv", x, y)
    # CPUs have no vector integer division; in double the quotient of 32-bit numbers truncates right.
    to_double = "sitofp" if signed else "uitofp"
    ratio = f.binary("fdiv", f.cast(to_double, x, "double"), f.cast(to_double, y, "double"))
    whole = f.cast("fptosi", ratio, "i64" if scalar_type(x.ty) == "i32" and not signed else "i32")
    return whole if whole.ty == x.ty else f.cast("trunc", whole, scalar_type(x.ty))


def _fmod(site: Site, signed: bool, x: Val, y: Val) -> Val:
    return site.f.sub(x, site.f.mul(_trunc_divide(site, signed, x, y), y))


def _remainder(site: Site, signed: bool, x: Val, y: Val) -> Val:
    """The remainder with the divisor's sign, as Python has it."""
    f = site.f
    rest = _fmod(site, signed, x, y)
    return f.add(rest, f.select(_differs(f, rest, y), y, const(y.ty, 0))) if signed else rest


def _floor_divide(site: Site, signed: bool, x: Val, y: Val) -> Val:
    f = site.f
    quotient = _trunc_divide(site, signed, x, y)
    if not signed:
        return quotient
    rest = f.sub(x, f.mul(quotient, y))
    return f.add(quotient, f.cast("sext", _differs(f, rest, y), scalar_type(x.ty)))


def _differs(f: Function, rest: Val, y: Val) -> Val:
    """rest != 0 and rest and y have opposite signs."""
    opposite = f.compare("slt", f.binary("xor", rest, y), const(y.ty, 0))
    return f.binary("and", f.compare("ne", rest, const(y.ty, 0)), opposite)


_DIVISIONS = {"trunc_divide": _trunc_divide, "fmod": _fmod, "remainder": _remainder, "floor_divide": _floor_divide}


def _integer_power(f: Function, signed: bool, x: Val, y: Val) -> Val:
    """Repeated squaring, wrapping. A negative exponent truncates 1 / x**n: 0 unless |x| is 1."""
    zero, one = const(x.ty, 0), const(x.ty, 1)
    exponent = f.intrinsic("smax", y, zero) if signed else y
    lanes, scalar = lanes_of(x.ty), scalar_type(x.ty)
    top = f.call(f"llvm.vector.reduce.umax.v{lanes}{scalar}", scalar, exponent) if lanes > 1 else exponent
    used = f.sub(const(scalar, scalar_bits(scalar)), f.call(f"llvm.ctlz.{scalar}", scalar, top, const("i1", 0)))
    rounds = used if scalar == "i64" else f.cast("zext", used, "i64")
    with f.loop(const("i64", 0), rounds, 1, [one, x, exponent]) as loop:
        result, base, left = loop.values
        odd = f.compare("ne", f.binary("and", left, one), zero)
        loop.next([f.select(odd, f.mul(result, base), result), f.mul(base, base), f.binary("lshr", left, one)])
    result = loop.values[0]
    if not signed:
        return result
    odd = f.compare("ne", f.binary("and", y, one), zero)
    tiny = f.select(f.compare("eq", x, const(x.ty, -1)), f.select(odd, x, one), f.select(f.compare("eq", x, one), one, zero))
    return f.select(f.compare("slt", y, zero), tiny, result)
