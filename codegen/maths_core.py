"""What every mathematical function in LLVM IR is made of: float formats, constants, polynomials, helpers.

Everything works on any number of lanes, including one (a scalar). No fast-math flags are used anywhere, so NaN, infinity
and signed zero follow IEEE 754. Only operations that both CPUs and NVPTX have are used for `float`.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from treadle.codegen.llvm_text import Function, Val, const, lanes_of, scalar_type, vector_type

Unary = Callable[[Function, Val], Val]
Operand: TypeAlias = Val | float


class Format(NamedTuple):
    """The layout of an IEEE binary format: LLVM type, its integer twin, explicit mantissa bits, exponent bias."""

    scalar: str
    integer: str
    mantissa: int
    bias: int

    @property
    def magic(self) -> float:
        """1.5 * 2^mantissa: adding it rounds to an integer, which then stands in the low bits."""
        return 1.5 * 2.0 ** self.mantissa

    @property
    def sign_bit(self) -> int:
        """The sign bit as a (negative) signed integer."""
        return -(1 << (31 if self.integer == "i32" else 63))

    @property
    def smallest_normal(self) -> float:
        return 2.0 ** (1 - self.bias)


FLOAT = Format("float", "i32", 23, 127)
DOUBLE = Format("double", "i64", 52, 1023)
FORMATS = {"float": FLOAT, "double": DOUBLE}

INF = float("inf")
NAN = float("nan")


def format_of(x: Val) -> Format:
    """The format of `x`'s elements. Raises `TypeError` for anything but float and double."""
    scalar = scalar_type(x.ty)
    if scalar not in FORMATS:
        raise TypeError(f"mathematical functions take float or double, got {x.ty}; convert first")
    return FORMATS[scalar]


def split_constant(value: float, fmt: Format, bits: int) -> float:
    """`value` cut to its leading `bits` bits, so that multiplying it by a small integer is exact."""
    pattern = struct.unpack("<q", struct.pack("<d", value))[0]
    drop = 53 - bits
    return float(struct.unpack("<d", struct.pack("<q", (pattern >> drop) << drop))[0])


# -- arithmetic with constants -----------------------------------------------------------------------------------
def like(x: Val, value: float | int) -> Val:
    """A constant of `x`'s type in every lane."""
    return const(x.ty, value)


def _pair(a: Operand, b: Operand) -> tuple[Val, Val]:
    if isinstance(a, Val):
        return a, b if isinstance(b, Val) else like(a, b)
    if isinstance(b, Val):
        return like(b, a), b
    raise TypeError("at least one operand must be a Val")


def fadd(f: Function, a: Operand, b: Operand) -> Val:
    return f.binary("fadd", *_pair(a, b))


def fsub(f: Function, a: Operand, b: Operand) -> Val:
    return f.binary("fsub", *_pair(a, b))


def fmul(f: Function, a: Operand, b: Operand) -> Val:
    return f.binary("fmul", *_pair(a, b))


def fdiv(f: Function, a: Operand, b: Operand) -> Val:
    return f.binary("fdiv", *_pair(a, b))


def fma(f: Function, a: Val, b: Operand, c: Operand) -> Val:
    """a * b + c with one rounding."""
    return f.fma(a, b if isinstance(b, Val) else like(a, b), c if isinstance(c, Val) else like(a, c))


def neg(f: Function, x: Val) -> Val:
    return f.op(f"fneg {x}", x.ty)


def fabs(f: Function, x: Val) -> Val:
    return f.intrinsic("fabs", x)


def copysign(f: Function, magnitude: Val, sign: Val) -> Val:
    return f.intrinsic("copysign", magnitude, sign)


def with_sign_of(f: Function, magnitude: Val, x: Val) -> Val:
    """`copysign` of what is known not to be negative."""
    fmt = format_of(x)
    sign = int_op(f, "and", bits_of(f, x), fmt.sign_bit)
    return from_bits(f, f.binary("or", bits_of(f, magnitude), sign), fmt)


def compare(f: Function, predicate: str, a: Val, b: Operand) -> Val:
    return f.compare(predicate, a, b if isinstance(b, Val) else like(a, b))


def choose(f: Function, c: Val, a: Operand, b: Operand) -> Val:
    return f.select(c, *_pair(a, b))


def clamp(f: Function, x: Val, low: float | None = None, high: float | None = None) -> Val:
    """`x` limited to [low, high]; NaN stays NaN."""
    if high is not None:
        x = choose(f, compare(f, "ogt", x, high), high, x)
    if low is not None:
        x = choose(f, compare(f, "olt", x, low), low, x)
    return x


def polynomial(f: Function, x: Val, coefficients: list[float], square: Val | None = None) -> Val:
    """Horner's rule with fused multiply-add; coefficients from the constant term up.

    With x^2 given it is applied to pairs of terms, which do not wait for one another: as many operations in half the time.
    """
    terms: list[Val | float] = list(coefficients)
    if square is not None:
        terms[:len(terms) & ~1] = [fma(f, x, b, a) for a, b in zip(coefficients[::2], coefficients[1::2], strict=False)]
    value = terms[-1] if isinstance(terms[-1], Val) else like(x, terms[-1])
    for term in reversed(terms[:-1]):
        value = fma(f, value, x if square is None else square, term)
    return value


def odd_polynomial(f: Function, x: Val, coefficients: list[float]) -> Val:
    """x + x^3 P(x^2); the sign of a zero x survives when P(0) > 0."""
    z = fmul(f, x, x)
    return fma(f, fmul(f, z, polynomial(f, z, coefficients)), x, x)


# -- bits --------------------------------------------------------------------------------------------------------
def bits_of(f: Function, x: Val) -> Val:
    """The bit pattern as integers of the same width."""
    return f.cast("bitcast", x, format_of(x).integer)


def from_bits(f: Function, b: Val, fmt: Format) -> Val:
    return f.cast("bitcast", b, fmt.scalar)


def bits_constant(value: float, fmt: Format) -> int:
    """The bit pattern of a constant as a signed integer."""
    if fmt is FLOAT:
        return int(struct.unpack("<i", struct.pack("<f", value))[0])
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def int_op(f: Function, opcode: str, a: Val, b: Val | int) -> Val:
    return f.binary(opcode, a, b if isinstance(b, Val) else const(a.ty, b))


def to_double(f: Function, x: Val) -> Val:
    return x if scalar_type(x.ty) == "double" else f.cast("fpext", x, "double")


def to_type_of(f: Function, x: Val, model: Val) -> Val:
    """Round a double to the format of `model`."""
    return x if scalar_type(model.ty) == "double" else f.cast("fptrunc", x, "float")


# -- building blocks above single operations ------------------------------------------------------------------------
def by_type(for_float: Callable[..., Val], for_double: Callable[..., Val] | str) -> Callable[..., Val]:
    """One function for both formats; a string names the C library function called for each double."""
    def emit(f: Function, *args: Val) -> Val:
        if format_of(args[0]) is FLOAT:
            return for_float(f, *args)
        return libm(f, for_double, *args) if isinstance(for_double, str) else for_double(f, *args)
    return emit


def libm(f: Function, name: str, *args: Val) -> Val:
    """Call the C library's `double name(double, ...)` lane by lane."""
    lanes = lanes_of(args[0].ty)
    if lanes == 1:
        return f.call(name, "double", *args)
    result = Val(args[0].ty, "poison")
    for i in range(lanes):
        lane = [f.op(f"extractelement {a}, i32 {i}", "double") for a in args]
        result = f.op(f"insertelement {result}, {f.call(name, 'double', *lane)}, i32 {i}", result.ty)
    return result


def any_lane(f: Function, mask: Val) -> Val:
    """i1: is any lane of the mask set?"""
    lanes = lanes_of(mask.ty)
    return mask if lanes == 1 else f.call(f"llvm.vector.reduce.or.v{lanes}i1", "i1", mask)


def when_any(f: Function, mask: Val, usual: list[Val], rare: Callable[[], list[Val]]) -> list[Val]:
    """`usual`, except in lanes of `mask`, which take `rare()`; the rare code is jumped over when no lane needs it."""
    hit = any_lane(f, mask)
    before, then, end = f.label("usual"), f.label("rare"), f.label("join")
    f.branch(before)
    f.start(before)
    f.branch_if(hit, then, end)
    f.start(then)
    merged = [f.select(mask, r, u) for r, u in zip(rare(), usual, strict=True)]
    last = f.block
    f.branch(end)
    f.start(end)
    return [f.op(f"phi {u.ty} [ {u.name}, %{before} ], [ {m.name}, %{last} ]", u.ty) for u, m in zip(usual, merged, strict=True)]


def call_cold(f: Function, name: str, args: list[Val], results: list[str], body: Callable[[Function, list[Val]], list[Val]]) -> list[Val]:
    """Call a rarely used internal function, adding it to the module the first time; several results come as a struct."""
    struct_type = "{ " + ", ".join(results) + " }"
    if not any(f"@{name}(" in text.split("\n", 1)[0] for text in f.module.functions):
        params = [Val(a.ty, f"%x{i}") for i, a in enumerate(args)]
        g = Function(f.module, name, params, ret=struct_type, attributes="nounwind noinline cold", linkage="internal")
        packed = Val(struct_type, "poison")
        for i, value in enumerate(body(g, params)):
            packed = g.op(f"insertvalue {packed}, {value}, {i}", struct_type)
        g.line(f"ret {packed}")
        g.finish()
    out = f.op(f"call {struct_type} @{name}({', '.join(map(str, args))})", struct_type)
    return [f.op(f"extractvalue {out}, {i}", ty) for i, ty in enumerate(results)]


def lanes_type(x: Val, scalar: str) -> str:
    """A type with `x`'s number of lanes."""
    return vector_type(scalar, lanes_of(x.ty))
