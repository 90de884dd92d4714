"""Instructions that only compute: what each does to the values of its operands, as numpy functions.

A rule takes the instruction and gives a `Pure`: the types of results and operands, and the function between them.
Values of type f16 and bf16 are handed over as f32 (rounding the f32 result once more is exact for + - * / and sqrt);
f16x2 and bf16x2 as f32 arrays of shape (2, threads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ptx_simulator import floating
from ptx_simulator.faults import PtxError
from ptx_simulator.floating import Array
from ptx_simulator.parse import BITS, Instruction

INTEGER = {
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64,
    "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "pred": np.bool_,
}  # fmt: skip
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
FLOATS = {"f16", "bf16", "f32", "f64", "f16x2", "bf16x2", "tf32"}
ROUNDINGS = ("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")


class Pure(NamedTuple):
    results: tuple[str, ...]
    sources: tuple[str, ...]
    function: Callable[..., Any]


Rule = Callable[[Instruction], Pure]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def rounding(inst: Instruction, default: str = "rn") -> str:
    return next((part for part in inst.parts if part in ROUNDINGS), default)


def finished(inst: Instruction, kind: str, function: Callable[..., Array]) -> Callable[..., Array]:
    """`function` with the flushing of subnormals and the saturation that the instruction asks for."""
    if "sat" in inst.parts and kind in FLOATS:
        inner = function
        function = lambda *values: np.where(np.isnan(result := inner(*values)), result.dtype.type(0), np.clip(result, 0, 1))
    if "relu" in inst.parts:
        before = function
        function = lambda *values: np.maximum(before(*values), np.float32(0))
    if "ftz" in inst.parts and kind == "f32":
        plain = function
        function = lambda *values: floating.flush(plain(*(floating.flush(value) for value in values)))
    return function


def _f32_directed(operation: Callable[..., Array], mode: str) -> Callable[..., Array]:
    def function(a: Array, b: Array) -> Array:
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        if operation is np.multiply:
            return floating.narrow(wide_a * wide_b, mode)
        total, error = floating.two_sum(wide_a, wide_b if operation is np.add else -wide_b)
        return floating.narrow(floating.to_odd(total, error), mode)

    return function


def _carry(inst: Instruction) -> bool:
    return "cc" in inst.parts


@rule("add", "sub")
def _add(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    operation = np.add if inst.name == "add" else np.subtract
    if _carry(inst):
        compare = (lambda a, b, r: r < a) if inst.name == "add" else (lambda a, b, r: a < b)
        unsigned = f"u{BITS[kind]}"
        return Pure((unsigned, "carry"), (unsigned, unsigned), lambda a, b: ((r := operation(a, b)), compare(a, b, r)))
    function: Callable[..., Array] = operation
    if kind == "f32" and rounding(inst) != "rn":
        function = _f32_directed(operation, rounding(inst))
    if "sat" in inst.parts and kind == "s32":
        limits = np.iinfo(np.int32)
        function = lambda a, b: np.clip(operation(a.astype(np.int64), b.astype(np.int64)), limits.min, limits.max).astype(np.int32)
    return Pure((kind,), (kind, kind), finished(inst, kind, function))


@rule("addc", "subc")
def _add_with_carry(inst: Instruction) -> Pure:
    kind = f"u{BITS[inst.types[-1]]}"
    mask, bits = (1 << BITS[kind]) - 1, BITS[kind]

    def function(a: Array, b: Array, carry: Array) -> tuple[Array, Array]:
        dtype = UNSIGNED[bits]
        step = carry.astype(dtype)
        if inst.name == "addc":
            total = a + b
            return total + step, (total < a) | ((total == dtype(mask)) & carry)
        return a - b - step, (a < b) | ((a == b) & carry)

    return Pure((kind, "carry") if _carry(inst) else (kind, "nothing"), (kind, kind, "carry"), function)


@rule("mul", "mul24")
def _mul(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    if "wide" in inst.parts:
        wide = INTEGER[WIDER[kind]]
        return Pure((WIDER[kind],), (kind, kind), lambda a, b: a.astype(wide) * b.astype(wide))
    if "hi" in inst.parts:
        return Pure((kind,), (kind, kind), _high_product(kind))
    function: Callable[..., Array] = np.multiply
    if kind == "f32" and rounding(inst) != "rn":
        function = _f32_directed(np.multiply, rounding(inst))
    return Pure((kind,), (kind, kind), finished(inst, kind, function))


def _high_product(kind: str) -> Callable[[Array, Array], Array]:
    bits = BITS[kind]
    if bits < 64:
        wide, narrow = INTEGER[kind[0] + str(2 * bits)], INTEGER[kind]
        return lambda a, b: ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(narrow)
    return _high_product_64 if kind[0] == "u" else _signed_high_product_64


def _high_product_64(a: Array, b: Array) -> Array:
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> shift, b & low, b >> shift
    middle = a1 * b0 + (a0 * b0 >> shift)
    other = a0 * b1 + (middle & low)
    return a1 * b1 + (middle >> shift) + (other >> shift)


def _signed_high_product_64(a: Array, b: Array) -> Array:
    high = _high_product_64(a.view(np.uint64), b.view(np.uint64))
    fix = np.where(a < 0, b, 0).astype(np.int64) + np.where(b < 0, a, 0).astype(np.int64)
    return (high - fix.view(np.uint64)).view(np.int64)


@rule("mad", "fma", "mad24")
def _mad(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    if kind in FLOATS:
        return Pure((kind,), (kind,) * 3, finished(inst, kind, _fused(kind, rounding(inst))))
    if "wide" in inst.parts:
        wide = INTEGER[WIDER[kind]]
        return Pure((WIDER[kind],), (kind, kind, WIDER[kind]), lambda a, b, c: a.astype(wide) * b.astype(wide) + c)
    if "hi" in inst.parts:
        high = _high_product(kind)
        return Pure((kind,), (kind,) * 3, lambda a, b, c: high(a, b) + c)
    return Pure((kind,), (kind,) * 3, lambda a, b, c: a * b + c)


def _fused(kind: str, mode: str) -> Callable[..., Array]:
    if kind == "f64":
        return floating.fma_f64
    if kind == "f32":
        return lambda a, b, c: floating.fma_f32(a, b, c, mode)

    def short(a: Array, b: Array, c: Array) -> Array:
        """f16 and bf16: the sum rounded to odd in f32 rounds correctly to the short format later."""
        product, wide = a.astype(np.float64) * b, c.astype(np.float64)
        total, error = floating.two_sum(product, wide)
        result = total.astype(np.float32)
        lost = (total - result) + np.where(np.isfinite(error), error, 0)
        bits = np.asarray(result).view(np.int32)
        moved = np.where((lost > 0) == (result > 0), bits + 1, bits - 1)
        return np.where(((bits & 1) == 0) & (lost != 0) & np.isfinite(result), moved, bits).view(np.float32)

    return short


@rule("div")
def _div(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    if kind not in FLOATS:
        return Pure((kind,), (kind, kind), lambda a, b: _integer_division(a, b)[0])
    if kind == "f32" and ("approx" in inst.parts or "full" in inst.parts):
        return Pure((kind,), (kind, kind), finished(inst, kind, _approximate_division(full="full" in inst.parts)))
    if kind == "f32" and rounding(inst) != "rn":
        mode = rounding(inst)
        return Pure((kind,), (kind, kind), finished(inst, kind, lambda a, b: floating.narrow(a.astype(np.float64) / b, mode)))
    return Pure((kind,), (kind, kind), finished(inst, kind, np.divide))


def _approximate_division(full: bool) -> Callable[[Array, Array], Array]:
    """At most 2 ulp; div.approx gives 0 for divisors beyond 2**126 (PTX ISA: div)."""

    def function(a: Array, b: Array) -> Array:
        exact = a.astype(np.float64) / b
        result = floating.perturbed(exact, a, relative=2.0**-23 * 1.4)
        return result if full else np.where((np.abs(b) > 2.0**126) & np.isfinite(a), np.copysign(np.float32(0), result), result)

    return function


@rule("rem")
def _rem(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    return Pure((kind,), (kind, kind), lambda a, b: _integer_division(a, b)[1])


def _integer_division(a: Array, b: Array) -> tuple[Array, Array]:
    """Quotient (towards zero) and remainder; a zero divisor gives all ones and the dividend."""
    kind = np.result_type(a, b).type
    zero = b == 0
    safe = np.where(zero, kind(1), b)
    quotient, remainder = np.floor_divide(a, safe), np.remainder(a, safe)
    if np.issubdtype(kind, np.signedinteger):
        fix = (remainder != 0) & ((a < 0) != (safe < 0))
        quotient = quotient + fix.astype(kind)
        remainder = np.where(fix, remainder - safe, remainder)
    ones: Any = kind(-1) if np.issubdtype(kind, np.signedinteger) else np.iinfo(kind).max
    return np.where(zero, kind(ones), quotient), np.where(zero, a, remainder)


@rule("min", "max")
def _min_max(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    small = inst.name == "min"
    count = len(inst.operands) - 1
    if kind not in FLOATS:
        operation: Any = np.minimum if small else np.maximum
        return Pure((kind,), (kind,) * count, operation)
    quiet = "NaN" not in inst.parts
    pick: Any = (np.fmin if small else np.fmax) if quiet else (np.minimum if small else np.maximum)

    def signed(a: Array, b: Array) -> Array:
        """min(-0, +0) is -0 and max(-0, +0) is +0."""
        zeros = (a == 0) & (b == 0)
        if not np.any(zeros):
            return pick(a, b)
        negative = (np.signbit(a) | np.signbit(b)) if small else (np.signbit(a) & np.signbit(b))
        return np.where(zeros, np.where(negative, a.dtype.type(-0.0), a.dtype.type(0)), pick(a, b))

    function = signed if count == 2 else (lambda a, b, c: signed(signed(a, b), c))
    return Pure((kind,), (kind,) * count, finished(inst, kind, function))


@rule("neg", "abs", "not", "cnot", "popc", "clz", "brev", "bfind")
def _unary(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    bits = BITS[kind]
    if inst.name in ("neg", "abs"):
        operation: Any = np.negative if inst.name == "neg" else np.abs
        return Pure((kind,), (kind,), finished(inst, kind, operation))
    if inst.name == "not":
        return Pure((kind,), (kind,), np.invert)
    if inst.name == "cnot":
        return Pure((kind,), (kind,), lambda a: (a == 0).astype(a.dtype))
    if inst.name == "popc":
        return Pure(("u32",), (kind,), lambda a: np.bitwise_count(a).astype(np.uint32))
    if inst.name == "clz":
        return Pure(("u32",), (f"u{bits}",), lambda a: np.uint32(bits) - _bit_length(a))
    if inst.name == "brev":
        return Pure((kind,), (f"u{bits}",), lambda a: _reverse(a, bits))
    return Pure(("u32",), (kind,), lambda a: _find(a, bits, "shiftamt" in inst.parts))


def _bit_length(values: Array) -> Array:
    """uint32 count of the bits needed: smear the highest bit down, count ones."""
    values = np.asarray(values)
    kind, shift = values.dtype.type, 1
    while shift < values.dtype.itemsize * 8:
        values = values | (values >> kind(shift))
        shift *= 2
    return np.bitwise_count(values).astype(np.uint32)


def _reverse(values: Array, bits: int) -> Array:
    result, kind = np.zeros_like(values), UNSIGNED[bits]
    for place in range(bits):
        result = result | (((values >> kind(place)) & kind(1)) << kind(bits - 1 - place))
    return result


def _find(values: Array, bits: int, shift_amount: bool) -> Array:
    if np.issubdtype(values.dtype, np.signedinteger):
        values = np.where(values < 0, ~values, values)
    length = _bit_length(np.asarray(values).view(UNSIGNED[bits]))
    place = np.uint32(bits) - length if shift_amount else length - np.uint32(1)
    return np.where(length == 0, np.uint32(0xFFFFFFFF), place)


@rule("and", "or", "xor")
def _logic(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    operation: Any = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[inst.name]
    return Pure((kind,), (kind, kind), operation)


@rule("shl", "shr")
def _shift(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    bits, dtype = BITS[kind], INTEGER[kind]
    most, left = np.uint32(bits - 1), inst.name == "shl"

    def function(a: Array, amount: Array) -> Array:
        small = np.minimum(amount, most).astype(dtype)
        result = np.left_shift(a, small) if left else np.right_shift(a, small)
        if kind[0] == "s" and not left:
            return result
        over = amount > most
        return np.where(over, dtype(0), result) if np.any(over) else result

    return Pure((kind,), (kind, "u32"), function)


@rule("shf")
def _funnel(inst: Instruction) -> Pure:
    left, wrap = "l" in inst.parts, "wrap" in inst.parts

    def function(low: Array, high: Array, amount: Array) -> Array:
        shift = ((amount & np.uint32(31)) if wrap else np.minimum(amount, np.uint32(32))).astype(np.uint64)
        both = (high.astype(np.uint64) << np.uint64(32)) | low
        return (((both << shift) >> np.uint64(32)) if left else (both >> shift)).astype(np.uint32)

    return Pure(("b32",), ("b32", "b32", "u32"), function)


@rule("bfe")
def _extract(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    bits, dtype, raw = BITS[kind], INTEGER[kind], UNSIGNED[BITS[kind]]

    def function(a: Array, place: Array, length: Array) -> Array:
        place, length = (place & np.uint32(255)).astype(np.int64), (length & np.uint32(255)).astype(np.int64)
        shifted = np.right_shift(a, np.minimum(place, bits - 1).astype(dtype))
        shifted = np.where(place >= bits, a >> dtype(bits - 1) if kind[0] == "s" else dtype(0), shifted)
        unused = np.clip(bits - length, 0, bits - 1).astype(raw)
        cut = np.left_shift(np.asarray(shifted).view(raw), unused).view(dtype)
        return np.where(length == 0, dtype(0), np.right_shift(cut, unused.astype(dtype)))

    return Pure((kind,), (kind, "u32", "u32"), function)


@rule("bfi")
def _insert(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    bits = BITS[kind]
    dtype: Any = UNSIGNED[bits]

    def function(a: Array, b: Array, place: Array, length: Array) -> Array:
        place, length = (place & np.uint32(255)).astype(np.int64), (length & np.uint32(255)).astype(np.int64)
        ones = np.where(length >= bits, dtype(2**bits - 1), (dtype(1) << np.minimum(length, bits - 1).astype(dtype)) - dtype(1))
        mask = np.where(place >= bits, dtype(0), ones << np.minimum(place, bits - 1).astype(dtype))
        return (b & ~mask) | ((a << np.minimum(place, bits - 1).astype(dtype)) & mask)

    return Pure((kind,), (kind, kind, "u32", "u32"), function)


@rule("prmt")
def _permute(inst: Instruction) -> Pure:
    if any(part in inst.parts for part in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")):
        raise PtxError(f"prmt mode {inst.parts[-1]} is not supported")

    def function(a: Array, b: Array, selector: Array) -> Array:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        result: Array = np.uint32(0)
        for place in range(4):
            choice = (selector >> np.uint32(4 * place)) & np.uint32(15)
            byte = ((both >> ((choice & np.uint32(7)).astype(np.uint64) * np.uint64(8))) & np.uint64(255)).astype(np.uint32)
            sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
            result = result | (np.where(choice & np.uint32(8), sign, byte) << np.uint32(8 * place))
        return result

    return Pure(("b32",), ("b32", "b32", "b32"), function)


@rule("lop3")
def _lop3(inst: Instruction) -> Pure:
    def function(a: Array, b: Array, c: Array, table: Array) -> Array:
        result: Array = np.uint32(0)
        for row in range(8):
            if int(table) >> row & 1:
                result = result | ((a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c))
        return result

    return Pure(("b32",), ("b32", "b32", "b32", "constant"), function)


@rule("sad")
def _sad(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    return Pure((kind,), (kind,) * 3, lambda a, b, c: c + np.where(a < b, b - a, a - b))


@rule("dp4a")
def _dp4a(inst: Instruction) -> Pure:
    kind_a, kind_b = inst.types[-2:]
    signs = [np.int8 if kind == "s32" else np.uint8 for kind in (kind_a, kind_b)]
    result = "s32" if "s32" in (kind_a, kind_b) else "u32"

    def function(a: Array, b: Array, c: Array) -> Array:
        total = c.astype(np.int64)
        for place in range(4):
            bytes_of = [(x >> np.uint32(8 * place)).astype(np.uint8) for x in (a, b)]
            left, right = (byte.view(sign).astype(np.int64) for byte, sign in zip(bytes_of, signs, strict=True))
            total = total + left * right
        return total.astype(INTEGER[result])

    return Pure((result,), ("b32", "b32", result), function)


COMPARE: dict[str, Any] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


def _comparison(name: str, kind: str) -> Callable[[Array, Array], Array]:
    if name in ("num", "nan"):
        nan = lambda a, b: np.isnan(a) | np.isnan(b)
        return nan if name == "nan" else lambda a, b: ~nan(a, b)
    if kind in FLOATS and name.endswith("u"):
        ordered = COMPARE[name[:-1]]
        return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)
    compare: Callable[[Array, Array], Array] = COMPARE[name]
    if kind in FLOATS and name == "ne":
        return lambda a, b: compare(a, b) & ~np.isnan(a) & ~np.isnan(b)
    return compare


COMBINE: dict[str, Any] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@rule("setp")
def _setp(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    compare = _comparison(inst.parts[1], kind)
    if "ftz" in inst.parts:
        plain = compare
        compare = lambda a, b: plain(floating.flush(a), floating.flush(b))
    combine = next((COMBINE[part] for part in inst.parts[2:] if part in COMBINE), None)
    if combine:
        return Pure(("pred", "pred"), (kind, kind, "pred"), lambda a, b, c: (combine(r := compare(a, b), c), combine(~r, c)))
    return Pure(("pred", "pred"), (kind, kind), lambda a, b: ((r := compare(a, b)), ~r))


@rule("set")
def _set(inst: Instruction) -> Pure:
    result, kind = inst.types[-2:]
    compare = _comparison(inst.parts[1], kind)
    yes: Any = np.float32(1) if result == "f32" else INTEGER[result](-1 if result[0] == "s" else 0xFFFFFFFF)
    return Pure((result,), (kind, kind), lambda a, b: np.where(compare(a, b), yes, type(yes)(0)))


@rule("selp")
def _selp(inst: Instruction) -> Pure:
    raw = f"b{BITS[inst.types[-1]]}"
    return Pure((raw,), (raw, raw, "pred"), lambda a, b, p: np.where(p, a, b))


@rule("slct")
def _slct(inst: Instruction) -> Pure:
    kind, chooser = inst.types[-2:]
    raw = f"b{BITS[kind]}"
    return Pure((raw,), (raw, raw, chooser), lambda a, b, c: np.where(c >= 0, a, b))


@rule("copysign")
def _copysign(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    return Pure((kind,), (kind, kind), lambda a, b: np.copysign(b, a))


@rule("testp")
def _testp(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    tiny = 2.0**-126 if kind == "f32" else 2.0**-1022
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite, "infinite": np.isinf, "number": lambda a: ~np.isnan(a), "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= tiny), "subnormal": lambda a: (np.abs(a) < tiny) & (a != 0),
    }  # fmt: skip
    return Pure(("pred",), (kind,), tests[inst.parts[1]])


_EXACT: dict[str, Callable[[Array], Array]] = {
    "rcp": lambda a: 1 / a, "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "ex2": np.exp2, "lg2": np.log2, "sin": np.sin,
    "cos": np.cos, "tanh": np.tanh,
}  # fmt: skip
_RELATIVE = {"rcp": 2.0**-23, "sqrt": 2.0**-23, "rsqrt": 2.0**-22.9, "ex2": 2.0**-22.5, "lg2": 2.0**-22, "tanh": 2.0**-11}
_ABSOLUTE = {"sin": 2.0**-20.5, "cos": 2.0**-20.5}


@rule("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def _function(inst: Instruction) -> Pure:
    kind = inst.types[-1]
    exact = _EXACT[inst.name]
    if kind == "f64" or ("approx" not in inst.parts and kind == "f32"):
        mode = rounding(inst)
        rounded = exact if kind == "f64" else lambda a: floating.narrow(exact(a.astype(np.float64)), mode)
        return Pure((kind,), (kind,), finished(inst, kind, rounded))
    if kind == "f32":
        relative, absolute = _RELATIVE.get(inst.name, 0.0), _ABSOLUTE.get(inst.name, 0.0)
        approximate = lambda a: floating.perturbed(exact(a.astype(np.float64)), a, relative, absolute)
        return Pure((kind,), (kind,), finished(inst, kind, approximate))
    coarse = {"f16": 2.0**-9.9, "bf16": 2.0**-7}[kind.removesuffix("x2")]
    return Pure((kind,), (kind,), lambda a: floating.perturbed(exact(a.astype(np.float64)), a, coarse))
