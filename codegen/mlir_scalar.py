"""Scalar functions of the kernel IR as operations of MLIR's arith and math dialects.

The expressions are those of `treadle.codegen.expressions`: `ScalarBody` is the builder they write to, and turns each LLVM
instruction they ask for into its counterpart in arith. Functions that the math dialect has are left to it by name.
"""
from __future__ import annotations

import struct

from treadle.codegen.expressions import Site, cast, elementwise, register_type
from treadle.codegen.llvm_text import Function, Module, Val, const, scalar_bits
from treadle.ir.dtypes import FLOAT, by_name

_TYPES = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}
_BINARY = {"fadd": "addf", "fsub": "subf", "fmul": "mulf", "fdiv": "divf", "add": "addi", "sub": "subi", "mul": "muli", "and": "andi",
           "or": "ori", "xor": "xori", "shl": "shli", "lshr": "shrui", "ashr": "shrsi", "sdiv": "divsi", "udiv": "divui", "srem": "remsi"}
_CASTS = {"sext": "extsi", "zext": "extui", "trunc": "trunci", "fpext": "extf", "fptrunc": "truncf", "sitofp": "sitofp",
          "uitofp": "uitofp", "fptosi": "fptosi", "bitcast": "bitcast"}
_INTRINSICS = {"fabs": "math.absf", "floor": "math.floor", "ceil": "math.ceil", "trunc": "math.trunc", "roundeven": "math.roundeven",
               "copysign": "math.copysign", "fma": "math.fma", "smax": "arith.maxsi", "smin": "arith.minsi", "umax": "arith.maxui",
               "umin": "arith.minui"}
# Scalar functions with an operation of the math dialect, where those of `MATHS` are polynomials.
_MATH = {"exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2", "log1p": "log1p", "sqrt": "sqrt",
         "rsqrt": "rsqrt", "pow": "powf", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
         "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
         "erf": "erf"}
# Divisions: codegen's report a zero divisor to the error cell, which an MLIR function does not have.
_DIVISIONS = {"trunc_divide": ("divsi", "divui"), "floor_divide": ("floordivsi", "divui"), "fmod": ("remsi", "remui")}


def mlir_type(llvm: str) -> str:
    """`float -> f32`; integer types have the same names."""
    return _TYPES.get(llvm, llvm)


class ScalarBody(Function):
    """Writes arith and math operations as lines of text at an indentation. NotImplementedError for what they cannot say."""

    def __init__(self, indent: str, names: list[int]) -> None:
        super().__init__(Module(), "body", [])
        self.indent = indent
        self.names = names  # how many names were given so far, shared with the whole text

    # -- text --------------------------------------------------------------------------------------------------------
    def fresh(self, hint: str = "t") -> str:
        self.names[0] += 1
        return f"%{self.names[0] - 1}"

    def write(self, text: str, ty: str) -> Val:
        """Append `%name = text`; `ty` is the result's type as LLVM spells it."""
        name = self.fresh()
        self.lines.append(f"{self.indent}{name} = {text}")
        return Val(ty, name)

    def known(self, value: Val) -> str:
        """The name of an operand; a constant gets a line."""
        if value.name.startswith("%"):
            return value.name
        return self.write(f"arith.constant {literal(value)}", value.ty).name

    # -- what expressions ask for --------------------------------------------------------------------------------------
    def op(self, text: str, ty: str) -> Val:
        name, _, operand = text.partition(" ")
        if name != "fneg":
            raise NotImplementedError(f"no operation of the arith dialect for {name!r}")
        return self.write(f"arith.negf {self.known(Val(*operand.split(' ')))} : {mlir_type(ty)}", ty)

    def binary(self, opcode: str, a: Val, b: Val) -> Val:
        if opcode not in _BINARY:
            raise NotImplementedError(f"no operation of the arith dialect for {opcode!r}")
        return self.write(f"arith.{_BINARY[opcode]} {self.known(a)}, {self.known(b)} : {mlir_type(a.ty)}", a.ty)

    def compare(self, predicate: str, a: Val, b: Val) -> Val:
        kind = "cmpf" if a.ty in _TYPES else "cmpi"
        return self.write(f"arith.{kind} {predicate}, {self.known(a)}, {self.known(b)} : {mlir_type(a.ty)}", "i1")

    def select(self, c: Val, a: Val, b: Val) -> Val:
        return self.write(f"arith.select {self.known(c)}, {self.known(a)}, {self.known(b)} : {mlir_type(a.ty)}", a.ty)

    def cast(self, opcode: str, a: Val, scalar: str) -> Val:
        return self.write(f"arith.{_CASTS[opcode]} {self.known(a)} : {mlir_type(a.ty)} to {mlir_type(scalar)}", scalar)

    def intrinsic(self, name: str, *args: Val) -> Val:
        if name not in _INTRINSICS:
            raise NotImplementedError(f"no operation of the arith or math dialect for {name!r}")
        return self.write(f"{_INTRINSICS[name]} {', '.join(map(self.known, args))} : {mlir_type(args[0].ty)}", args[0].ty)

    def call(self, name: str, ret: str, *args: Val) -> Val:
        raise NotImplementedError(f"no operation of the arith or math dialect for {name!r}")

    def branch(self, label: str) -> None:
        raise NotImplementedError("a branch has no place in a body of linalg")

    def branch_if(self, c: Val, then: str, other: str) -> None:
        raise NotImplementedError("a branch has no place in a body of linalg")

    # -- scalar functions ------------------------------------------------------------------------------------------------
    def apply(self, opcode: str, dtypes: tuple[str, ...], to: str, args: list[Val]) -> Val:
        """One instruction of the kernel IR on register values; `to` is the result's dtype."""
        if opcode == "cast":
            return cast(self, args[0], dtypes[0], to)
        floating = by_name(dtypes[0]).category == FLOAT
        if floating and opcode in _MATH:
            return self.write(f"math.{_MATH[opcode]} {', '.join(map(self.known, args))} : {mlir_type(args[0].ty)}", args[0].ty)
        if floating and opcode == "sigmoid":
            return self._sigmoid(args[0])
        if opcode in ("fmod", "remainder", "floor_divide", "trunc_divide"):
            return self._division(opcode, by_name(dtypes[0]).signed, floating, args)
        try:
            value = elementwise(Site(self, None, Val("ptr", "")), opcode, dtypes, args)
        except KeyError:
            raise NotImplementedError(f"the arith and math dialects have no {opcode!r} on {dtypes[0]}") from None
        half = to in ("float16", "bfloat16")
        return self.from_memory(self.to_memory(value, to), to) if half else value

    def _sigmoid(self, x: Val) -> Val:
        one = self.constant(x.ty, 1.0)
        power = self.write(f"math.exp {self.op(f'fneg {x}', x.ty).name} : {mlir_type(x.ty)}", x.ty)
        return self.binary("fdiv", one, self.binary("fadd", one, power))

    def _division(self, opcode: str, signed: bool, floating: bool, args: list[Val]) -> Val:
        if floating:
            return self._float_division(opcode, args)
        if opcode in _DIVISIONS:
            name = _DIVISIONS[opcode][not signed]
            return self.write(f"arith.{name} {self.known(args[0])}, {self.known(args[1])} : {mlir_type(args[0].ty)}", args[0].ty)
        if not signed:
            return self._division("fmod", signed, floating, args)
        whole = self._division("floor_divide", signed, floating, args)
        return self.sub(args[0], self.mul(whole, args[1]))

    def _float_division(self, opcode: str, args: list[Val]) -> Val:
        x, y = args
        if opcode == "trunc_divide":
            return self.intrinsic("trunc", self.binary("fdiv", x, y))
        if opcode == "floor_divide":
            rest = self._float_division("remainder", args)
            return self.intrinsic("roundeven", self.binary("fdiv", self.binary("fsub", x, rest), y))
        rest = self.write(f"arith.remf {self.known(x)}, {self.known(y)} : {mlir_type(x.ty)}", x.ty)
        if opcode == "fmod":
            return rest
        zero = self.constant(x.ty, 0.0)
        differs = self.binary("xor", self.compare("olt", rest, zero), self.compare("olt", y, zero))
        moved = self.binary("and", self.compare("one", rest, zero), differs)
        return self.select(moved, self.binary("fadd", rest, y), rest)

    # -- memory forms ------------------------------------------------------------------------------------------------------
    def constant(self, ty: str, value: float | int) -> Val:
        return self.write(f"arith.constant {literal(const(ty, value))}", ty)

    def from_memory(self, value: Val, dtype: str) -> Val:
        """An element of a tensor to its register form: 16-bit floats are computed with as `float`."""
        return self.cast("fpext", value, "float") if dtype in ("float16", "bfloat16") else value

    def to_memory(self, value: Val, dtype: str) -> Val:
        return self.cast("fptrunc", value, element_type(dtype)) if dtype in ("float16", "bfloat16") else value


def element_type(dtype: str) -> str:
    """The LLVM name of the type that a tensor's element has in MLIR."""
    return {"float16": "half", "bfloat16": "bfloat"}.get(dtype) or register_type(dtype)


def literal(value: Val) -> str:
    """A constant of LLVM as an attribute of MLIR, type included."""
    if value.ty == "i1":
        return "true" if value.name not in ("0", "false") else "false"
    if value.ty not in _TYPES:
        return f"{value.name} : {value.ty}"
    bits = value.name
    number = struct.unpack("<d", struct.pack("<Q", int(bits, 16)))[0] if bits.startswith("0x") else float(bits)
    return f"{_float_literal(number, value.ty)} : {mlir_type(value.ty)}"


def _float_literal(number: float, ty: str) -> str:
    """Bits in hex: exact, and the only form that infinities and NaN have."""
    code = {"float": "<f", "double": "<d", "half": "<e"}[ty]
    raw = struct.pack(code, number)
    return f"0x{int.from_bytes(raw, 'little'):0{scalar_bits(ty) // 4}X}"
