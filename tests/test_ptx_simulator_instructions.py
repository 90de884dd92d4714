"""Single PTX instructions against references in plain Python integers and fractions, written from the PTX ISA manual."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from ptx_simulator import Fault, LaneFault, PtxError, RaceFault, Simulator

HEAD = ".version 7.8\n.target sm_90\n.address_size 64\n"
SIZES = {1: "u8", 2: "b16", 4: "b32", 8: "b64"}
RNG = np.random.default_rng(5)


def run(body: str, inputs: list[np.ndarray], output: Any, threads: int = 0, declare: str = "") -> np.ndarray:
    """Loads %a, %b, %c of each thread, runs `body` (%t is the thread, %d the result), stores %d."""
    output = np.dtype(output)
    count = threads or len(inputs[0])
    lines = [".visible .entry k(" + ", ".join(f".param .u64 p{i}" for i in range(len(inputs) + 1)) + ")\n{"]
    for name, dtype in [*zip("abc", [array.dtype for array in inputs], strict=False), ("d", output)]:
        lines.append(f"\t.reg .b{max(16, dtype.itemsize * 8)} %{name};")
    lines.append("\t.reg .b64 %q<9>; .reg .b32 %t, %r<20>; .reg .b16 %h<9>; .reg .pred %p<9>;" + declare)
    lines.append("\tmov.u32 %t, %tid.x;")
    for place, array in enumerate(inputs):
        kind = SIZES[array.itemsize]
        lines.append(f"\tld.param.u64 %q0, [p{place}]; mul.wide.u32 %q1, %t, {array.itemsize}; add.s64 %q0, %q0, %q1;")
        lines.append(f"\tld.global.{kind} %{'abc'[place]}, [%q0];")
    lines.append(body)
    lines.append(f"\tld.param.u64 %q0, [p{len(inputs)}]; mul.wide.u32 %q1, %t, {output.itemsize}; add.s64 %q0, %q0, %q1;")
    lines.append(f"\tst.global.{SIZES[output.itemsize]} [%q0], %d;\n\tret;\n}}")
    result = np.zeros(count, output)
    Simulator().launch(HEAD + "\n".join(lines), "k", 1, count, [*inputs, result])
    return result


def integers(dtype: Any, count: int = 96) -> np.ndarray:
    """Random integers with the extreme ones among them."""
    limits = np.iinfo(dtype)
    special = np.array([0, 1, 2, limits.max, limits.min, limits.max - 1, limits.max // 2 + 1, 3], dtype)
    values = RNG.integers(limits.min, limits.max, count, dtype=dtype, endpoint=True)
    values[: len(special)] = RNG.permutation(special)
    return values


def wrap(value: int, dtype: Any) -> int:
    bits, signed = np.dtype(dtype).itemsize * 8, np.dtype(dtype).kind == "i"
    value %= 1 << bits
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def bits_of(value: int, width: int) -> int:
    return value % (1 << width)


def towards_zero(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _bfe(a: int, place: int, length: int, width: int = 32, signed: bool = False) -> int:
    """PTX ISA, bfe: the pseudo code, bit by bit."""
    place, length, msb = place & 255, length & 255, width - 1
    sign = 0 if not signed or length == 0 else bits_of(a, width) >> min(place + length - 1, msb) & 1
    return sum((bits_of(a, width) >> (place + i) & 1 if i < length and place + i <= msb else sign) << i for i in range(msb + 1))


def _bfi(a: int, b: int, place: int, length: int) -> int:
    place, length = place & 255, length & 255
    for i in range(length):
        if place + i < 32:
            b = b & ~(1 << (place + i)) | (a >> i & 1) << (place + i)
    return b


def _prmt(a: int, b: int, selector: int) -> int:
    both = (b << 32 | a).to_bytes(8, "little")
    result = []
    for i in range(4):
        choice = selector >> 4 * i & 15
        byte = both[choice & 7]
        result.append((255 if byte & 128 else 0) if choice & 8 else byte)
    return int.from_bytes(bytes(result), "little")


def _lop3(a: int, b: int, c: int, table: int) -> int:
    return sum((table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32))


U16, S16, U32, S32, U64, S64 = np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64
INTEGER: list[tuple[str, Any, list[Any], Callable[..., int]]] = [
    ("add.s32 %d, %a, %b;", S32, [S32, S32], lambda a, b: a + b),
    ("add.sat.s32 %d, %a, %b;", S32, [S32, S32], lambda a, b: max(-(2**31), min(2**31 - 1, a + b))),
    ("add.u16 %d, %a, %b;", U16, [U16, U16], lambda a, b: a + b),
    ("sub.s64 %d, %a, %b;", S64, [S64, S64], lambda a, b: a - b),
    ("mul.lo.s32 %d, %a, %b;", S32, [S32, S32], lambda a, b: a * b),
    ("mul.hi.s32 %d, %a, %b;", S32, [S32, S32], lambda a, b: a * b >> 32),
    ("mul.hi.u32 %d, %a, %b;", U32, [U32, U32], lambda a, b: a * b >> 32),
    ("mul.hi.u64 %d, %a, %b;", U64, [U64, U64], lambda a, b: a * b >> 64),
    ("mul.hi.s64 %d, %a, %b;", S64, [S64, S64], lambda a, b: a * b >> 64),
    ("mul.wide.s16 %d, %a, %b;", S32, [S16, S16], lambda a, b: a * b),
    ("mul.wide.u32 %d, %a, %b;", U64, [U32, U32], lambda a, b: a * b),
    ("mul.wide.s32 %d, %a, %b;", S64, [S32, S32], lambda a, b: a * b),
    ("mad.lo.s32 %d, %a, %b, %c;", S32, [S32, S32, S32], lambda a, b, c: a * b + c),
    ("mad.hi.u32 %d, %a, %b, %c;", U32, [U32, U32, U32], lambda a, b, c: (a * b >> 32) + c),
    ("mad.wide.s32 %d, %a, %b, %c;", S64, [S32, S32, S64], lambda a, b, c: a * b + c),
    ("sad.s32 %d, %a, %b, %c;", S32, [S32, S32, S32], lambda a, b, c: c + abs(a - b)),
    ("div.s32 %d, %a, %b;", S32, [S32, S32], lambda a, b: towards_zero(a, b) if b else -1),
    ("div.u64 %d, %a, %b;", U64, [U64, U64], lambda a, b: a // b if b else 2**64 - 1),
    ("rem.s64 %d, %a, %b;", S64, [S64, S64], lambda a, b: a - b * towards_zero(a, b) if b else a),
    ("rem.u32 %d, %a, %b;", U32, [U32, U32], lambda a, b: a % b if b else a),
    ("min.s32 %d, %a, %b;", S32, [S32, S32], min),
    ("max.u64 %d, %a, %b;", U64, [U64, U64], max),
    ("abs.s32 %d, %a;", S32, [S32], abs),
    ("neg.s16 %d, %a;", S16, [S16], lambda a: -a),
    ("not.b64 %d, %a;", U64, [U64], lambda a: ~a),
    ("cnot.b32 %d, %a;", U32, [U32], lambda a: int(a == 0)),
    ("popc.b64 %d, %a;", U32, [U64], lambda a: a.bit_count()),
    ("clz.b32 %d, %a;", U32, [U32], lambda a: 32 - a.bit_length()),
    ("clz.b64 %d, %a;", U32, [U64], lambda a: 64 - a.bit_length()),
    ("bfind.u32 %d, %a;", U32, [U32], lambda a: a.bit_length() - 1),
    ("bfind.shiftamt.s32 %d, %a;", U32, [S32], lambda a: 32 - (a ^ a >> 31).bit_length() if a not in (0, -1) else -1),
    ("brev.b32 %d, %a;", U32, [U32], lambda a: int(f"{a:032b}"[::-1], 2)),
    ("bfe.u32 %d, %a, %b, %c;", U32, [U32, U32, U32], lambda a, b, c: _bfe(a, b, c)),
    ("bfe.s32 %d, %a, %b, %c;", S32, [S32, U32, U32], lambda a, b, c: _bfe(a, b, c, 32, True)),
    ("bfe.s64 %d, %a, %b, %c;", S64, [S64, U32, U32], lambda a, b, c: _bfe(a, b, c, 64, True)),
    ("bfi.b32 %d, %a, %b, 7, 11;", U32, [U32, U32], lambda a, b: _bfi(a, b, 7, 11)),
    ("bfi.b32 %d, %a, %b, 25, 20;", U32, [U32, U32], lambda a, b: _bfi(a, b, 25, 20)),
    ("prmt.b32 %d, %a, %b, %c;", U32, [U32, U32, U32], _prmt),
    ("prmt.b32 %d, %a, %b, 0x5410;", U32, [U32, U32], lambda a, b: a & 0xFFFF | (b & 0xFFFF) << 16),
    ("lop3.b32 %d, %a, %b, %c, 0xe8;", U32, [U32, U32, U32], lambda a, b, c: _lop3(a, b, c, 0xE8)),
    ("lop3.b32 %d, %a, %b, %c, 0x1b;", U32, [U32, U32, U32], lambda a, b, c: _lop3(a, b, c, 0x1B)),
    ("shl.b32 %d, %a, %b;", U32, [U32, U32], lambda a, b: a << b if b < 32 else 0),
    ("shr.u64 %d, %a, %b;", U64, [U64, U32], lambda a, b: a >> b if b < 64 else 0),
    ("shr.s32 %d, %a, %b;", S32, [S32, U32], lambda a, b: a >> min(b, 31)),
    ("shf.l.wrap.b32 %d, %a, %b, %c;", U32, [U32, U32, U32], lambda a, b, c: ((b << 32 | a) << (c & 31)) >> 32),
    ("shf.r.clamp.b32 %d, %a, %b, %c;", U32, [U32, U32, U32], lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("dp4a.s32.s32 %d, %a, %b, %c;", S32, [U32, U32, S32], lambda a, b, c: c + sum(
        wrap(a >> 8 * i, np.int8) * wrap(b >> 8 * i, np.int8) for i in range(4))),
    ("cvt.s32.s8 %d, %a;", S32, [U16], lambda a: wrap(a, np.int8)),
    ("cvt.u32.u16 %d, %a;", U32, [U16], lambda a: a),
    ("cvt.s64.s32 %d, %a;", S64, [S32], lambda a: a),
    ("cvt.u16.u64 %d, %a;", U16, [U64], lambda a: a),
    ("cvt.sat.s8.s32 %d, %a;", S16, [S32], lambda a: max(-128, min(127, a))),
    ("cvt.sat.u8.s32 %d, %a;", U16, [S32], lambda a: max(0, min(255, a))),
    ("setp.lt.s32 %p0, %a, %b; selp.b32 %d, 7, -7, %p0;", S32, [S32, S32], lambda a, b: 7 if a < b else -7),
    ("setp.hi.u32 %p0, %a, %b; selp.b32 %d, %a, %b, %p0;", U32, [U32, U32], max),
    ("setp.eq.s32 %p1, %a, 0; setp.ge.and.s32 %p0|%p2, %b, 0, %p1; selp.u32 %d, 1, 0, %p2;", U32, [S32, S32],
     lambda a, b: int(b < 0 and a == 0)),
    ("set.gt.u32.s32 %d, %a, %b;", U32, [S32, S32], lambda a, b: 2**32 - 1 if a > b else 0),
    ("slct.s32.s32 %d, %a, %b, %c;", S32, [S32, S32, S32], lambda a, b, c: a if c >= 0 else b),
    ("mov.b64 {%r1, %r2}, %a; mov.b64 %d, {%r2, %r1};", U64, [U64], lambda a: a >> 32 | a << 32),
    ("mov.b32 {%h1, %h2}, %a; mov.b32 %d, {%h2, %h1};", U32, [U32], lambda a: a >> 16 | a << 16),
]  # fmt: skip


@pytest.mark.parametrize(("body", "output", "kinds", "reference"), INTEGER, ids=[case[0] for case in INTEGER])
def test_integer_instruction(body: str, output: Any, kinds: list[Any], reference: Callable[..., int]) -> None:
    inputs = [integers(kind) for kind in kinds]
    if body.startswith(("sh", "bfe")):
        inputs[1:] = [array if array.dtype != U32 else array % U32(70) for array in inputs[1:]]
    found = run(body, inputs, output)
    expected = [wrap(reference(*values), output) for values in zip(*(array.tolist() for array in inputs), strict=True)]
    assert found.tolist() == expected


def test_carry_chain() -> None:
    a, b = integers(U64), integers(U64)
    split = "mov.b64 {%r1, %r2}, %a; mov.b64 {%r3, %r4}, %b; "
    plus = run(split + "add.cc.u32 %r1, %r1, %r3; addc.u32 %r2, %r2, %r4; mov.b64 %d, {%r1, %r2};", [a, b], U64)
    minus = run(split + "sub.cc.u32 %r1, %r1, %r3; subc.u32 %r2, %r2, %r4; mov.b64 %d, {%r1, %r2};", [a, b], U64)
    np.testing.assert_array_equal(plus, a + b)
    np.testing.assert_array_equal(minus, a - b)


def reals(count: int = 128, dtype: Any = np.float32) -> np.ndarray:
    values = (RNG.standard_normal(count) * 10.0 ** RNG.integers(-6, 6, count)).astype(dtype)
    values[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]
    return values


def rounded(value: Fraction, mode: str, mantissa: int = 24, least: int = -149) -> Fraction:
    """`value` rounded to a binary format with that many bits, with rn, rz, rm or rp."""
    if value == 0:
        return value
    exponent = math.floor(math.log2(abs(value)))
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    step = Fraction(2) ** max(exponent - mantissa + 1, least)
    low = math.floor(value / step)
    rest = value / step - low
    if mode == "rn":
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1)
    else:
        up = rest > 0 and {"rz": value < 0, "rm": False, "rp": True}[mode]
    return (low + up) * step


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma", "div"])
def test_arithmetic_rounds_once(name: str, mode: str) -> None:
    a, b, c = (RNG.standard_normal(256).astype(np.float32) for _ in range(3))
    a[:64] = RNG.integers(1, 4097, 64) * np.float32(2.0**-12) + 1  # ties of the product, decided by a small addend
    b[:64] = 1 + np.float32(2.0**-12)
    c[:64] *= np.float32(2.0**-60)
    operands = {"fma": "%a, %b, %c"}.get(name, "%a, %b")
    found = run(f"{name}.{mode}.f32 %d, {operands};", [a, b, c], np.float32)
    operation: dict[str, Callable[[Fraction, Fraction, Fraction], Fraction]] = {
        "add": lambda x, y, z: x + y, "sub": lambda x, y, z: x - y, "mul": lambda x, y, z: x * y,
        "fma": lambda x, y, z: x * y + z, "div": lambda x, y, z: x / y,
    }  # fmt: skip
    for x, y, z, result in zip(a.tolist(), b.tolist(), c.tolist(), found.tolist(), strict=True):
        assert Fraction(result) == rounded(operation[name](Fraction(x), Fraction(y), Fraction(z)), mode)


@pytest.mark.parametrize(("kind", "dtype", "mantissa"), [("f16", np.float16, 11), ("bf16", ml_dtypes.bfloat16, 8)])
def test_short_formats_round_once(kind: str, dtype: Any, mantissa: int) -> None:
    a, b, c = (RNG.standard_normal(200).astype(dtype) for _ in range(3))
    raw = [array.view(U16) for array in (a, b, c)]
    found = run(f"fma.rn.{kind} %d, %a, %b, %c;", raw, U16).view(dtype)
    least = -24 if kind == "f16" else -133
    for x, y, z, result in zip(*(array.astype(float).tolist() for array in (a, b, c, found)), strict=True):
        assert Fraction(result) == rounded(Fraction(x) * Fraction(y) + Fraction(z), "rn", mantissa, least)
    pair = run(f"mov.b32 %r1, {{%a, %b}}; mov.b32 %r2, {{%b, %c}}; mul.{kind}x2 %d, %r1, %r2;", raw, U32)
    np.testing.assert_array_equal((pair & 0xFFFF).astype(U16), (a * b).view(U16))
    np.testing.assert_array_equal((pair >> 16).astype(U16), (b * c).view(U16))


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_double_to_single_rounds_as_asked(mode: str) -> None:
    a = RNG.standard_normal(200)
    for x, result in zip(a.tolist(), run(f"cvt.{mode}.f32.f64 %d, %a;", [a], np.float32).tolist(), strict=True):
        assert Fraction(result) == rounded(Fraction(x), mode)


@pytest.mark.parametrize(
    ("mode", "reference"), [("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)], ids=lambda value: str(value)
)
def test_float_to_integer(mode: str, reference: Callable[[float], int]) -> None:
    a = reals()
    a[6:12] = [2.5, 3.5, -0.5, 3e9, -3e9, 1e20]
    found = run(f"cvt.{mode}.s32.f32 %d, %a;", [a], S32)
    for x, result in zip(a.tolist(), found.tolist(), strict=True):
        limit = 0 if math.isnan(x) else max(-(2**31), min(2**31 - 1, reference(x) if math.isfinite(x) else int(math.copysign(2**40, x))))
        assert result == limit
    np.testing.assert_array_equal(run("cvt.rn.f32.s32 %d, %a;", [found], np.float32), found.astype(np.float32))


def test_conversions_to_short_formats() -> None:
    a, b = reals(), reals()
    both = run("cvt.rn.bf16x2.f32 %d, %a, %b;", [a, b], U32)
    pairs = [(run("cvt.rn.bf16.f32 %d, %a;", [a], U16), a), ((both >> 16).astype(U16), a), ((both & 0xFFFF).astype(U16), b)]
    for found, given in pairs:
        expected = given.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(found.view(ml_dtypes.bfloat16).astype(np.float32), expected)
    with np.errstate(over="ignore"):
        half = a.astype(np.float16)
    np.testing.assert_array_equal(run("cvt.rn.f16.f32 %d, %a;", [a], np.float16), half)
    np.testing.assert_array_equal(run("cvt.f32.f16 %d, %a;", [half], np.float32), half.astype(np.float32))
    tf32 = run("cvt.rna.tf32.f32 %d, %a;", [a[6:]], np.float32)
    assert (np.abs(tf32 - a[6:]) <= np.abs(a[6:]) * 2.0**-11).all() and not (tf32.view(U32) & 0x1FFF).any()


def test_minimum_maximum_and_comparisons_of_nan_and_zero() -> None:
    a = np.array([np.nan, 1, np.nan, -0.0, 0.0, 2], np.float32)
    b = np.array([1, np.nan, np.nan, 0.0, -0.0, 3], np.float32)
    low, high = run("min.f32 %d, %a, %b;", [a, b], np.float32), run("max.f32 %d, %a, %b;", [a, b], np.float32)
    np.testing.assert_array_equal(low, np.array([1, 1, np.nan, -0.0, -0.0, 2], np.float32))
    assert np.signbit(low[3:5]).all() and not np.signbit(high[3:5]).any()
    assert np.isnan(run("max.NaN.f32 %d, %a, %b;", [a, b], np.float32)[:3]).all()
    for name, expected in {"lt": [0, 0, 0, 0, 0, 1], "ltu": [1, 1, 1, 0, 0, 1], "ne": [0, 0, 0, 0, 0, 1], "neu": [1, 1, 1, 0, 0, 1],
                           "num": [0, 0, 0, 1, 1, 1], "nan": [1, 1, 1, 0, 0, 0]}.items():  # fmt: skip
        assert run(f"setp.{name}.f32 %p0, %a, %b; selp.u32 %d, 1, 0, %p0;", [a, b], U32).tolist() == expected, name


def test_flushing_saturation_and_signs() -> None:
    tiny = np.array([1e-40, -1e-40, 2.0, -3.0], np.float32)
    one = np.ones(4, np.float32)
    np.testing.assert_array_equal(run("mul.ftz.f32 %d, %a, %b;", [tiny, one], np.float32), np.array([0, -0.0, 2, -3], np.float32))
    np.testing.assert_array_equal(run("add.sat.f32 %d, %a, %b;", [tiny, one * 0], np.float32), np.clip(tiny, 0, 1))
    np.testing.assert_array_equal(run("copysign.f32 %d, %a, %b;", [tiny, one], np.float32), np.copysign(one, tiny))
    assert run("testp.subnormal.f32 %p0, %a; selp.u32 %d, 1, 0, %p0;", [tiny], U32).tolist() == [1, 1, 0, 0]


APPROXIMATE: list[tuple[str, Callable[[np.ndarray], np.ndarray], float, float]] = [
    ("ex2.approx.f32", np.exp2, 2.0**-22.5, 0),
    ("lg2.approx.f32", lambda x: np.log2(np.abs(x)), 2.0**-22, 0),
    ("tanh.approx.f32", np.tanh, 2.0**-11, 0),
    ("rcp.approx.f32", lambda x: 1 / x, 2.0**-23, 0),
    ("sqrt.approx.f32", lambda x: np.sqrt(np.abs(x)), 2.0**-23, 0),
    ("rsqrt.approx.f32", lambda x: 1 / np.sqrt(np.abs(x)), 2.0**-22.9, 0),
    ("sin.approx.f32", np.sin, 0, 2.0**-20.5),
    ("cos.approx.f32", np.cos, 0, 2.0**-20.5),
]


@pytest.mark.parametrize(("name", "exact", "relative", "absolute"), APPROXIMATE, ids=[case[0] for case in APPROXIMATE])
def test_approximation_uses_its_documented_error(name: str, exact: Any, relative: float, absolute: float) -> None:
    """Within the error, but not exact: what relies on more than the manual promises must notice."""
    a = RNG.uniform(-3, 3, 512).astype(np.float32)
    positive = "abs.f32 %a, %a; " if "sqrt" in name or "lg2" in name else ""
    found = run(f"{positive}{name} %d, %a;", [a], np.float32).astype(np.float64)
    wanted = exact(a.astype(np.float64))
    error = np.abs(found - wanted) / (np.abs(wanted) * relative + absolute)
    assert error.max() <= 1.001 and error.max() > 0.3
    special = run(f"{name} %d, %a;", [np.array([np.inf, np.nan], np.float32)], np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(special, exact(np.array([np.inf, np.nan])), rtol=relative + 1e-7)


def test_shuffles() -> None:
    a = np.arange(64, dtype=U32)
    lane = a % 32
    cases = {
        "shfl.sync.up.b32 %d|%p0, %a, 3, 0, -1;": np.where(lane >= 3, a - 3, a),
        "shfl.sync.down.b32 %d, %a, 5, 31, -1;": np.where(lane < 27, a + 5, a),
        "shfl.sync.bfly.b32 %d, %a, 9, 31, -1;": a ^ 9,
        "shfl.sync.idx.b32 %d, %a, 17, 31, -1;": a - lane + 17,
        "shfl.sync.down.b32 %d, %a, 1, 0x181f, -1;": np.where(lane % 8 < 7, a + 1, a),
    }
    for body, expected in cases.items():
        np.testing.assert_array_equal(run(body, [a], U32), expected, err_msg=body)


def test_votes_matches_and_masks() -> None:
    a = np.arange(64, dtype=U32) // 5
    value = a.reshape(2, 32)
    odd = ((value & 1).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(U32)
    ballot = "and.b32 %r1, %a, 1; setp.ne.u32 %p0, %r1, 0; "
    np.testing.assert_array_equal(run(ballot + "vote.sync.ballot.b32 %d, %p0, -1;", [a], U32), np.repeat(odd, 32))
    np.testing.assert_array_equal(run(ballot + "vote.sync.any.pred %p1, %p0, -1; selp.u32 %d, 1, 0, %p1;", [a], U32), 1)
    np.testing.assert_array_equal(run(ballot + "vote.sync.all.pred %p1, !%p0, -1; selp.u32 %d, 1, 0, %p1;", [a], U32), 0)
    same = (value[:, :, None] == value[:, None, :]).astype(np.uint64) << np.arange(32, dtype=np.uint64)
    np.testing.assert_array_equal(run("match.any.sync.b32 %d, %a, -1;", [a], U32), same.sum(2).astype(U32).reshape(-1))
    np.testing.assert_array_equal(run("redux.sync.max.u32 %d, %a, -1;", [a], U32), np.repeat(value.max(1), 32))
    half = "mov.u32 %r1, %laneid; setp.lt.u32 %p0, %r1, 16; selp.b32 %r2, 0xffff, 0xffff0000, %p0; "
    np.testing.assert_array_equal(run(half + "redux.sync.add.u32 %d, %a, %r2;", [a], U32), np.repeat(a.reshape(4, 16).sum(1), 16))
    np.testing.assert_array_equal(run("mov.u32 %d, %lanemask_lt;", [a], U32), np.tile((1 << np.arange(32)) - 1, 2).astype(U32))
    assert run("activemask.b32 %d;", [a[:40]], U32).tolist() == [0xFFFFFFFF] * 32 + [0xFF] * 8


def test_reads_from_lanes_that_are_not_there() -> None:
    with pytest.raises(LaneFault, match=r"shfl\.sync\.down"):
        run("setp.lt.u32 %p0, %t, 16; @%p0 shfl.sync.down.b32 %d, %a, 16, 31, 0xffff;", [np.arange(32, dtype=U32)], U32)


ATOMS: list[tuple[str, np.ndarray, np.ndarray]] = [
    ("atom.global.add.u32 %d, [%q5], %a;", np.arange(64, dtype=U32), np.array([2016], U32)),
    ("atom.global.min.s32 %d, [%q5], %a;", np.arange(64, dtype=S32) - 9, np.array([-9], S32)),
    ("atom.global.max.u32 %d, [%q5], %a;", np.arange(64, dtype=U32), np.array([63], U32)),
    ("atom.global.or.b32 %d, [%q5], %a;", np.arange(64, dtype=U32), np.array([63], U32)),
    ("atom.global.exch.b32 %d, [%q5], %a;", np.arange(64, dtype=U32), np.array([63], U32)),
    ("atom.global.inc.u32 %d, [%q5], 9;", np.arange(64, dtype=U32), np.array([4], U32)),
    ("atom.global.cas.b32 %d, [%q5], %a, %t; mov.u32 %d, 1;", np.zeros(64, U32), np.array([1], U32)),
    ("red.global.add.f32 [%q5], %a; mov.u32 %d, 1;", np.ones(64, np.float32), np.array([64], np.float32)),
    ("atom.global.add.noftz.bf16 %h1, [%q5], 0x3f80; mov.u32 %d, 1;", np.zeros(64, np.uint32), np.array([0x4280], U16)),
    ("atom.global.add.f64 %q6, [%q5], 0d3ff0000000000000; mov.u32 %d, 1;", np.zeros(64, U32), np.array([64.0])),
]


@pytest.mark.parametrize(("body", "given", "expected"), ATOMS, ids=[case[0] for case in ATOMS])
def test_atomic_operations_are_applied_one_after_another(body: str, given: np.ndarray, expected: np.ndarray) -> None:
    sim = Simulator()
    cell = sim.upload(np.zeros_like(expected))
    text = f"""{HEAD}.visible .entry k(.param .u64 cell, .param .u64 x)
    {{ .reg .b64 %q<9>; .reg .b32 %a, %d, %t; .reg .b16 %h<3>;
    mov.u32 %t, %tid.x; ld.param.u64 %q5, [cell]; ld.param.u64 %q0, [x]; mul.wide.u32 %q1, %t, 4; add.s64 %q0, %q0, %q1;
    ld.global.b32 %a, [%q0]; {body} ret; }}"""
    sim.launch(text, "k", 1, 64, [cell, given])
    np.testing.assert_array_equal(sim.download(cell, expected.dtype, 1), expected)


def test_atomic_results_are_the_values_before() -> None:
    text = f"""{HEAD}.visible .entry k(.param .u64 cells, .param .u64 out)
    {{ .reg .b64 %q<9>; .reg .b32 %r<9>; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3;
    ld.param.u64 %q0, [cells]; mul.wide.u32 %q1, %r2, 4; add.s64 %q0, %q0, %q1; atom.global.add.u32 %r3, [%q0], 2;
    ld.param.u64 %q2, [out]; mul.wide.u32 %q3, %r1, 4; add.s64 %q2, %q2, %q3; st.global.u32 [%q2], %r3; ret; }}"""
    cells, out = np.zeros(4, U32), np.zeros(96, U32)
    Simulator().launch(text, "k", 1, 96, [cells, out])
    np.testing.assert_array_equal(out, np.arange(96) // 4 * 2)
    assert cells.tolist() == [48] * 4


def test_widths_vectors_signs_and_address_spaces() -> None:
    a = integers(S16, 64)
    extend = "add.s64 %q2, %q0, 0; ld.global.s16 %d, [%q0];"
    np.testing.assert_array_equal(run(extend, [a], S32), a)
    declare = " .shared .align 16 .b8 s[1024]; .local .align 8 .b8 l[16];"
    generic = """mov.u64 %q2, s; cvta.shared.u64 %q3, %q2; mul.wide.u32 %q4, %t, 16; add.s64 %q3, %q3, %q4;
    st.v4.b32 [%q3], {%a, %t, %a, 7}; ld.v2.b32 {%r1, %r2}, [%q3]; cvta.to.shared.u64 %q5, %q3; ld.shared.v2.u64 {%q6, %q7}, [%q5];
    mov.u64 %q2, l; cvta.local.u64 %q3, %q2; st.b32 [%q3+8], %r2; st.local.u8 [%q2+12], 255; ld.local.s8 %r3, [%q2+12];
    ld.b32 %r4, [%q3+8]; add.u32 %d, %r1, %r4; add.u32 %d, %d, %r3; shr.u64 %q6, %q7, 32; cvt.u32.u64 %r5, %q6; add.u32 %d, %d, %r5;"""
    x = integers(U32, 64)
    np.testing.assert_array_equal(run(generic, [x], U32, declare=declare), x + np.arange(64, dtype=U32) - U32(1) + U32(7))


def test_constants_tables_and_indexed_branches() -> None:
    text = f"""{HEAD}.const .align 4 .u32 squares[4] = {{0, 1, 4, 9}};
    .visible .entry k(.param .align 8 .b8 pair[16], .param .u64 out)
    {{ .reg .b64 %q<9>; .reg .b32 %r<9>; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3;
    mov.u64 %q0, squares; mul.wide.u32 %q1, %r2, 4; add.s64 %q0, %q0, %q1; ld.const.u32 %r3, [%q0]; ld.param.u32 %r4, [pair+8];
    T: .branchtargets A, B, C, A;
    brx.idx %r2, T;
    A: add.u32 %r3, %r3, 100; bra.uni E;
    B: add.u32 %r3, %r3, %r4; bra.uni E;
    C: mov.u32 %r3, 5;
    E: ld.param.u64 %q2, [out]; mul.wide.u32 %q3, %r1, 4; add.s64 %q2, %q2, %q3; st.global.u32 [%q2], %r3; ret; }}"""
    out = np.zeros(8, U32)
    Simulator().launch(text, "k", 1, 8, [np.array([1, 40], np.uint64).tobytes(), out])
    assert out.tolist() == [100, 41, 5, 109] * 2


def test_barriers_that_reduce_and_named_barriers() -> None:
    a = np.arange(96, dtype=U32)
    odd = "and.b32 %r1, %a, 1; setp.ne.u32 %p0, %r1, 0; "
    assert set(run(odd + "bar.red.popc.u32 %d, 0, %p0;", [a], U32)) == {48}
    assert set(run(odd + "bar.red.or.pred %p1, 0, %p0; selp.u32 %d, 1, 0, %p1;", [a], U32)) == {1}
    pair = """setp.ge.u32 %p0, %t, 64; @%p0 bra LATER; st.shared.u32 [s+0], 5; bar.sync 1, 64; ld.shared.u32 %d, [s]; bra.uni END;
    LATER: mov.u32 %d, 9; END:"""
    assert run(pair, [a], U32, declare=" .shared .align 4 .b8 s[4];").tolist() == [5] * 64 + [9] * 32


def test_producer_and_consumer_with_arrive() -> None:
    body = """shl.b32 %r1, %t, 2; and.b32 %r1, %r1, 127; mov.u32 %r2, s; add.u32 %r1, %r1, %r2; setp.ge.u32 %p0, %t, 32; @%p0 bra READ;
    st.shared.u32 [%r1], %a; bar.arrive 2, 64; mov.u32 %d, 0; bra.uni END;
    READ: bar.sync 2, 64; ld.shared.u32 %d, [%r1]; END:"""
    a, declare = np.arange(64, dtype=U32), " .shared .align 4 .b8 s[128];"
    assert run(body, [a], U32, declare=declare).tolist() == [0] * 32 + list(range(32))
    with pytest.raises(RaceFault, match=r"ld\.shared"):
        run(body.replace("bar.arrive 2, 64;", "").replace("bar.sync 2, 64;", ""), [a], U32, declare=declare)


def test_warp_barrier_orders_the_lanes_of_a_warp() -> None:
    body = """shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r3, %r1, %r2; xor.b32 %r1, %r1, 4; add.u32 %r4, %r1, %r2;
    st.shared.u32 [%r3], %a; bar.warp.sync -1; ld.shared.u32 %d, [%r4];"""
    a, declare = np.arange(64, dtype=U32), " .shared .align 4 .b8 s[256];"
    np.testing.assert_array_equal(run(body, [a], U32, declare=declare), a ^ 1)
    with pytest.raises(RaceFault, match=r"ld\.shared"):
        run(body.replace("bar.warp.sync -1;", ""), [a], U32, declare=declare)


def _fragment_rows(kind: str, shape: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """(row, column) of element i of thread t in A and C, (row, column) in B: the formulas of the manual, per shape."""
    packed = {"f16": 2, "bf16": 2, "tf32": 1, "s8": 4, "f64": 1}[kind]
    quarter = 4 * packed

    def place_a(t: int, i: int) -> tuple[int, int]:
        group, register = t // 4, i // packed
        row = group + (8 if shape[0] == 16 and register % 2 == 1 else 0)
        return row, t % 4 * packed + i % packed + (register // (shape[0] // 8)) * quarter

    def place_b(t: int, i: int) -> tuple[int, int]:
        return t % 4 * packed + i % packed + i // packed * quarter, t // 4

    def place_c(t: int, i: int) -> tuple[int, int]:
        return t // 4 + (8 if i >= 2 else 0), t % 4 * 2 + i % 2

    return place_a, place_b, place_c


MMA = [("f16", (16, 8, 16)), ("f16", (16, 8, 8)), ("bf16", (16, 8, 8)), ("bf16", (16, 8, 16)), ("tf32", (16, 8, 8)), ("tf32", (16, 8, 4)),
       ("s8", (16, 8, 32)), ("s8", (16, 8, 16)), ("s8", (8, 8, 16)), ("f64", (8, 8, 4))]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape"), MMA, ids=str)
def test_tensor_core_fragments(kind: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    place_a, place_b, place_c = _fragment_rows(kind, shape)
    dtype = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32, "s8": np.int8, "f64": np.float64}[kind]
    out = {"s8": np.int32, "f64": np.float64}.get(kind, np.float32)
    a, b, c = (RNG.integers(-4, 5, size).astype(kind_of) for size, kind_of in [((m, k), dtype), ((k, n), dtype), ((m, n), out)])
    counts = [m * k // 32, k * n // 32, m * n // 32]
    parts = [np.stack([[matrix[place(t, i)] for i in range(count)] for t in range(32)])
             for matrix, place, count in zip((a, b, c), (place_a, place_b, place_c), counts, strict=True)]  # fmt: skip
    word = U64 if kind == "f64" else U32
    words = [np.ascontiguousarray(part).view(word).reshape(32, -1) for part in parts]
    found = _mma(kind, shape, words).view(out)
    expected = a.astype(np.float64) @ b.astype(np.float64) + c
    for t in range(32):
        for i in range(counts[2]):
            assert found[t, i] == expected[place_c(t, i)]


def _mma(kind: str, shape: tuple[int, int, int], words: list[np.ndarray]) -> np.ndarray:
    """Runs one warp that loads its registers of A, B and C, multiplies, and stores D."""
    size = words[0].itemsize
    into = {"s8": "s32", "f64": "f64"}.get(kind, "f32")
    name = "m{}n{}k{}".format(*shape)
    lists, loads = [], []
    for letter, array in zip("abc", words, strict=True):
        names = [f"%{letter}{i}" for i in range(array.shape[1])]
        lists.append("{" + ", ".join(names) + "}")
        loads.append(f"ld.param.u64 %q0, [{letter}]; mul.wide.u32 %q1, %t, {size * len(names)}; add.s64 %q0, %q0, %q1;")
        loads += [f"ld.global.b{8 * size} {register}, [%q0+{size * i}];" for i, register in enumerate(names)]
    registers = " ".join(f".reg .b{8 * size} %{letter}<9>;" for letter in "abc")
    body = f"mma.sync.aligned.{name}.row.col.{into}.{kind}.{kind}.{into} {lists[2]}, {lists[0]}, {lists[1]}, {lists[2]};"
    stores = [f"st.global.b{8 * size} [%q0+{size * i}], %c{i};" for i in range(words[2].shape[1])]
    text = f"""{HEAD}.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)
    {{ .reg .b64 %q<3>; .reg .b32 %t; {registers} mov.u32 %t, %tid.x; {" ".join(loads)} {body} {" ".join(stores)} ret; }}"""
    result = words[2].copy()
    Simulator().launch(text, "k", 1, 32, [words[0], words[1], result])
    return result


def test_matrix_stores_undo_matrix_loads() -> None:
    text = f"""{HEAD}.visible .entry k(.param .u64 x, .param .u64 out)
    {{ .reg .b64 %q<6>; .reg .b32 %r<9>; .shared .align 16 .b8 s[1024]; mov.u32 %r1, %tid.x; mul.wide.u32 %q2, %r1, 16;
    ld.param.u64 %q0, [x]; add.s64 %q0, %q0, %q2; ld.global.v2.b64 {{%q3, %q4}}, [%q0];
    mov.u32 %r2, s; shl.b32 %r3, %r1, 4; add.u32 %r2, %r2, %r3;
    st.shared.v2.b64 [%r2], {{%q3, %q4}}; bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r4, %r5, %r6, %r7}}, [%r2]; bar.warp.sync -1;
    stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r2+512], {{%r4, %r5, %r6, %r7}}; bar.warp.sync -1;
    ld.shared.v2.b64 {{%q3, %q4}}, [%r2+512];
    ld.param.u64 %q1, [out]; add.s64 %q1, %q1, %q2; st.global.v2.b64 [%q1], {{%q3, %q4}}; ret; }}"""
    x, out = np.arange(256, dtype=U16).reshape(4, 8, 8), np.zeros((4, 8, 8), U16)
    Simulator().launch(text, "k", 1, 32, [x, out])
    np.testing.assert_array_equal(out, x.transpose(0, 2, 1))


def test_spinning_on_a_flag_ends() -> None:
    """A waiting thread does not keep the one it waits for from running."""
    text = f"""{HEAD}.visible .entry k(.param .u64 flag, .param .u64 out)
    {{ .reg .b64 %q<4>; .reg .b32 %r<6>; .reg .pred %p<3>; ld.param.u64 %q0, [flag]; ld.param.u64 %q1, [out];
    mov.u32 %r1, %ctaid.x; setp.ne.u32 %p0, %r1, 0; @%p0 bra SET;
    WAIT: ld.acquire.gpu.global.u32 %r2, [%q0]; setp.eq.u32 %p1, %r2, 0; @%p1 bra WAIT;
    ld.global.u32 %r3, [%q1]; add.u32 %r3, %r3, 1; st.global.u32 [%q1+4], %r3; ret;
    SET: st.global.u32 [%q1], 41; st.release.gpu.global.u32 [%q0], 1; ret; }}"""
    flag, out = np.zeros(1, U32), np.zeros(2, U32)
    Simulator().launch(text, "k", 2, 1, [flag, out])
    assert out.tolist() == [41, 42]
    with pytest.raises(RaceFault, match=r"ld.global.u32 %r3"):
        Simulator().launch(text.replace("st.release.gpu.global", "st.relaxed.gpu.global"), "k", 2, 1, [flag * 0, out * 0])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("add.u32 %d, %a, 1;", "add.u32 %d, %zz, 1;", "register %zz is not declared"),
        ("add.u32 %d, %a, 1;", "bra NOWHERE;", "label that does not exist"),
        ("add.u32 %d, %a, 1;", "add.u32 %d, %a;", "operands"),
        ("add.u32 %d, %a, 1;", "mma.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 {%d}, {%a}, {%a}, {%d};", "not supported"),
        ("add.u32 %d, %a, 1;", "call (%d), f, (%a);", "unknown function"),
    ],
)
def test_text_that_is_not_understood(old: str, new: str, words: str) -> None:
    with pytest.raises(PtxError, match=words):
        run(new, [np.arange(4, dtype=U32)], U32)


def test_fault_is_the_base_of_all() -> None:
    assert issubclass(LaneFault, Fault) and issubclass(PtxError, Fault)
