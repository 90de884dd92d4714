"""What LLVM's NVPTX backend makes of ordinary IR runs on the simulator, for three targets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from ptx_simulator import Simulator

RNG = np.random.default_rng(3)
TARGETS = ["sm_80", "sm_90", "sm_100"]
F32, F64, F16, I8, I16, I32, I64 = np.float32, np.float64, np.float16, np.int8, np.int16, np.int32, np.int64
NAMES = {F32: "float", F64: "double", F16: "half", I8: "i8", I16: "i16", I32: "i32", I64: "i64"}
HEAD = """target triple = "nvptx64-nvidia-cuda"
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
"""


@functools.cache
def _machine(cpu: str) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple("nvptx64-nvidia-cuda").create_target_machine(cpu=cpu, opt=3)


def ptx(ir: str, cpu: str) -> str:
    module = llvm.parse_assembly(ir)
    module.verify()
    return str(_machine(cpu).emit_assembly(module))


def run(body: str, inputs: list[np.ndarray], output: Any, cpu: str, declare: str = "") -> np.ndarray:
    """Applies `body` (%x, %y, %z to %r) to each element."""
    kinds = [NAMES[array.dtype.type] for array in inputs]
    result = NAMES[output]
    arguments = ", ".join(f"ptr addrspace(1) %p{place}" for place in range(len(inputs) + 1))
    loads = "\n".join(
        f"  %q{place} = getelementptr {kind}, ptr addrspace(1) %p{place}, i64 %i\n  %{name} = load {kind}, ptr addrspace(1) %q{place}"
        for place, (kind, name) in enumerate(zip(kinds, "xyz", strict=False))
    )
    ir = f"""{HEAD}{declare}
define ptx_kernel void @k({arguments}) {{
entry:
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %i = zext i32 %t to i64
{loads}
{body}
  %out = getelementptr {result}, ptr addrspace(1) %p{len(inputs)}, i64 %i
  store {result} %r, ptr addrspace(1) %out
  ret void
}}"""
    found = np.zeros(len(inputs[0]), output)
    Simulator().launch(ptx(ir, cpu), "k", 1, len(inputs[0]), [*inputs, found])
    return found


def whole(dtype: Any, count: int = 64) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, count, dtype=dtype, endpoint=True)


def real(dtype: Any, count: int = 64) -> np.ndarray:
    return (RNG.standard_normal(count) * 8).astype(dtype)


def _op(name: str, kind: str) -> str:
    return f"  %r = {name} {kind} %x, %y"


def _intrinsic(name: str, kind: str, count: int = 1) -> tuple[str, str]:
    arguments = ", ".join(f"{kind} %{letter}" for letter in "xyz"[:count])
    types = ", ".join([kind] * count)
    return f"  %r = call {kind} @llvm.{name}({arguments})", f"declare {kind} @llvm.{name}({types})"


CASES: dict[str, tuple[str, list[np.ndarray], Any, Callable[..., Any], str]] = {}


def case(label: str, body: str | tuple[str, str], inputs: list[np.ndarray], output: Any, reference: Callable[..., Any]) -> None:
    text, declare = body if isinstance(body, tuple) else (body, "")
    CASES[label] = (text, inputs, output, reference, declare)


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([int(x) // int(y) if x >= 0 else -(-int(x) // int(y)) for x, y in zip(a, b, strict=True)])


def _rotated(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    wide, step = a.view(np.uint32).astype(np.uint64), by.astype(np.uint64)
    return ((wide << step | wide >> (np.uint64(32) - step)) & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(I32)


for _kind, _dtype in (("i32", I32), ("i64", I64), ("i16", I16)):
    _a, _b = whole(_dtype), whole(_dtype)
    for _name, _reference in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and, "xor": np.bitwise_xor}.items():
        case(f"{_name} {_kind}", _op(_name, _kind), [_a, _b], _dtype, _reference)
    case(f"sdiv {_kind}", _op("sdiv", _kind), [_a, np.maximum(_b >> 8, 1).astype(_dtype)], _dtype, _quotient)
    case(f"smax {_kind}", _intrinsic(f"smax.{_kind}", _kind, 2), [_a, _b], _dtype, np.maximum)
    case(f"bswap {_kind}", _intrinsic(f"bswap.{_kind}", _kind), [_a], _dtype, lambda a: a.byteswap())
    case(f"popcount {_kind}", _intrinsic(f"ctpop.{_kind}", _kind), [_a], _dtype, lambda a: np.bitwise_count(a.view(f"u{a.itemsize}")))
case("rotate", _intrinsic("fshl.i32", "i32", 3), [_x := whole(I32), _x, whole(I32) & 31], I32, lambda a, b, c: _rotated(a, c))
for _kind, _dtype in (("float", F32), ("double", F64), ("half", F16)):
    _a, _b = real(_dtype), real(_dtype)
    for _name, _reference in {"fadd": np.add, "fsub": np.subtract, "fmul": np.multiply}.items():
        case(f"{_name} {_kind}", _op(_name, _kind), [_a, _b], _dtype, _reference)
    case(f"abs {_kind}", _intrinsic("fabs.f" + str(_a.itemsize * 8), _kind), [_a], _dtype, np.abs)
    case(f"fneg {_kind}", f"  %r = fneg {_kind} %x", [_a], _dtype, np.negative)
    case(f"compare {_kind}", f"  %c = fcmp olt {_kind} %x, %y\n  %r = select i1 %c, {_kind} %x, {_kind} %y", [_a, _b], _dtype, np.minimum)
for _kind, _dtype, _suffix in (("float", F32, "f32"), ("double", F64, "f64")):
    _a, _b = real(_dtype), real(_dtype)
    case(f"fdiv {_kind}", _op("fdiv", _kind), [_a, _b], _dtype, np.divide)
    case(f"sqrt {_kind}", _intrinsic(f"sqrt.{_suffix}", _kind), [np.abs(_a)], _dtype, np.sqrt)
    for _name, _reference in {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint}.items():
        case(f"{_name} {_kind}", _intrinsic(f"{_name}.{_suffix}", _kind), [_a], _dtype, _reference)
    case(f"maxnum {_kind}", _intrinsic(f"maxnum.{_suffix}", _kind, 2), [_a, _b], _dtype, np.fmax)
    case(f"copysign {_kind}", _intrinsic(f"copysign.{_suffix}", _kind, 2), [_a, _b], _dtype, np.copysign)
case("maximum float", _intrinsic("maximum.f32", "float", 2), [real(F32), real(F32)], F32, np.maximum)
case("remainder by a constant", "  %r = srem i32 %x, 7", [whole(I32)], I32, lambda a: np.fmod(a, 7))
case("float to int", "  %r = fptosi float %x to i32", [real(F32)], I32, lambda a: a.astype(I32))
case("int to half", "  %r = sitofp i16 %x to half", [whole(I16)], F16, lambda a: a.astype(F16))
case("long to float", "  %r = sitofp i64 %x to float", [whole(I64)], F32, lambda a: a.astype(F32))
case("half to double", "  %r = fpext half %x to double", [real(F16)], F64, lambda a: a.astype(F64))
case("double to half", "  %r = fptrunc double %x to half", [real(F64)], F16, lambda a: a.astype(F16))
case("bytes", "  %c = icmp slt i8 %x, %y\n  %r = zext i1 %c to i8", [whole(I8), whole(I8)], I8, lambda a, b: (a < b).astype(I8))
case(
    "128 bits",
    """  %a = sext i64 %x to i128
  %b = sext i64 %y to i128
  %m = mul i128 %a, %b
  %h = lshr i128 %m, 60
  %r = trunc i128 %h to i64""",
    [whole(I64) >> 30, whole(I64) >> 30],
    I64,
    lambda a, b: np.array([(int(x) * int(y) % 2**128 >> 60) % 2**64 for x, y in zip(a, b, strict=True)], np.uint64).view(I64),
)
case(
    "switch",
    """  switch i32 %x, label %other [ i32 0, label %zero
    i32 1, label %one
    i32 2, label %two
    i32 3, label %three
    i32 4, label %four ]
zero:
  %a0 = mul i32 %t, 3
  br label %end
one:
  %a1 = add i32 %t, 100
  br label %end
two:
  %a2 = sub i32 7, %t
  br label %end
three:
  %a3 = shl i32 %t, 4
  br label %end
four:
  %a4 = xor i32 %t, 255
  br label %end
other:
  br label %end
end:
  %r = phi i32 [ %a0, %zero ], [ %a1, %one ], [ %a2, %two ], [ %a3, %three ], [ %a4, %four ], [ -1, %other ]""",
    [np.arange(64, dtype=I32) % 7],
    I32,
    lambda a: np.select([a == k for k in range(5)], [(t := np.arange(64)) * 3, t + 100, 7 - t, t * 16, t ^ 255], -1),
)
case(
    "local array and divergent loop",
    """  %array = alloca [16 x i32]
  %n = and i32 %x, 15
  br label %fill
fill:
  %j = phi i32 [ 0, %entry ], [ %jn, %fill ]
  %at = getelementptr [16 x i32], ptr %array, i32 0, i32 %j
  %square = mul i32 %j, %j
  store volatile i32 %square, ptr %at
  %jn = add i32 %j, 1
  %more = icmp ule i32 %jn, %n
  br i1 %more, label %fill, label %read
read:
  %last = getelementptr [16 x i32], ptr %array, i32 0, i32 %n
  %r = load volatile i32, ptr %last""",
    [whole(I32)],
    I32,
    lambda a: (a & 15) ** 2,
)


@pytest.mark.parametrize("cpu", TARGETS)
@pytest.mark.parametrize("label", CASES)
def test_compiled_instruction(label: str, cpu: str) -> None:
    body, inputs, output, reference, declare = CASES[label]
    np.testing.assert_array_equal(run(body, inputs, output, cpu, declare), np.asarray(reference(*inputs)).astype(output))


@pytest.mark.parametrize("cpu", TARGETS)
def test_function_that_is_not_inlined(cpu: str) -> None:
    declare = """define internal float @twice(float %v, i32 %n) noinline {
  %f = uitofp i32 %n to float
  %d = fadd float %v, %f
  ret float %d
}"""
    a = real(F32)
    found = run("  %m = call float @twice(float %x, i32 %t)\n  %r = call float @twice(float %m, i32 1)", [a], F32, cpu, declare)
    np.testing.assert_array_equal(found, a + np.arange(64, dtype=F32) + F32(1))


@pytest.mark.parametrize("cpu", TARGETS)
def test_float_maximum_by_compare_and_swap(cpu: str) -> None:
    ir = f"""{HEAD}define ptx_kernel void @k(ptr addrspace(1) %x, ptr addrspace(1) %out) {{
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %i = zext i32 %t to i64
  %q = getelementptr float, ptr addrspace(1) %x, i64 %i
  %v = load float, ptr addrspace(1) %q
  %o = atomicrmw fmax ptr addrspace(1) %out, float %v syncscope("device") monotonic
  ret void
}}"""
    a, out = real(F32), np.full(1, -np.inf, F32)
    Simulator().launch(ptx(ir, cpu), "k", 1, 64, [a, out])
    assert out[0] == a.max()
