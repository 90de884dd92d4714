"""A small builder of LLVM IR text: every emitter in codegen/ writes through it.

Values are `Val(ty, name)` pairs of strings, so an emitter can always ask what it holds. Text is used instead of an
object model because parsing it in LLVM is faster than building it in Python, and because it is what users read.
"""
from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Val(NamedTuple):
    """An SSA value or constant: LLVM type text and operand text."""

    ty: str
    name: str

    def __str__(self) -> str:
        return f"{self.ty} {self.name}"


def vector_type(scalar: str, lanes: int) -> str:
    """`float, 16 -> <16 x float>`; one lane is the scalar itself."""
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def scalar_type(ty: str) -> str:
    """The element type of a vector type, or the type itself."""
    return ty[ty.index(" x ") + 3:-1] if ty.startswith("<") else ty


def lanes_of(ty: str) -> int:
    return int(ty[1:ty.index(" x ")]) if ty.startswith("<") else 1


def scalar_bits(scalar: str) -> int:
    """Width of a scalar type: `float` 32, `i1` 1, `ptr` 64."""
    known = {"float": 32, "double": 64, "half": 16, "bfloat": 16, "ptr": 64}
    return known[scalar] if scalar in known else int(scalar[1:])


def float_text(value: float, scalar: str) -> str:
    """A floating constant as LLVM reads it: hexadecimal, rounded to the type first."""
    if scalar == "float":
        value = struct.unpack("<f", struct.pack("<f", value))[0] if abs(value) < 3.5e38 else value
    if scalar in ("float", "double"):
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    raise ValueError(f"no constant of type {scalar}")


def const(ty: str, value: float | int) -> Val:
    """A constant, splatted when `ty` is a vector."""
    scalar = scalar_type(ty)
    text = float_text(float(value), scalar) if scalar in ("float", "double") else str(int(value))
    return Val(ty, f"splat ({scalar} {text})" if ty.startswith("<") else text)


def intrinsic_suffix(ty: str) -> str:
    """`<16 x float>` -> `v16f32`, `ptr` -> `p0`."""
    short = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16", "ptr": "p0"}
    scalar = scalar_type(ty)
    lanes = lanes_of(ty)
    return (f"v{lanes}" if lanes > 1 else "") + short.get(scalar, scalar)


class Module:
    """Functions, declarations and globals of one LLVM module."""

    def __init__(self) -> None:
        # Set for CPUs without float16 conversions, where LLVM would call a library this process does not have.
        self.software_half = False
        # Set for GPUs: many threads run a function at once, and one of them claims the error cell.
        self.many_threads = False
        self.functions: list[str] = []
        self.declarations: dict[str, str] = {}
        self.globals: list[str] = []

    def declare(self, name: str, signature: str) -> None:
        """`declare("llvm.fma.f32", "float (float, float, float)")`; asking twice is harmless."""
        ret, args = signature.split(" (", 1)
        self.declarations[name] = f"declare {ret} @{name}({args}"

    def text(self) -> str:
        return "\n".join([*self.globals, *self.functions, *sorted(self.declarations.values())]) + "\n"

    def texts(self, parts: int) -> list[str]:
        """The module in pieces about equally long, for `jit.compile_texts`. Functions whose addresses only tables hold go to any of them
        (near or far, an address reaches them), all else to the first."""
        listed = {name for table in self.globals for name in _NAME.findall(table)}
        declared = sorted(self.declarations.values())
        pieces: list[list[str]] = [[*self.globals, *declared], *[list(declared) for _ in range(parts - 1)]]
        lengths = [0] * parts
        for text in sorted(self.functions, key=len, reverse=True):
            header, body = text.split("{", 1)
            name = _NAME.findall(header)[0]
            movable = name in listed and all(used.startswith("llvm.") for used in _NAME.findall(body))
            to = lengths.index(min(lengths)) if movable else 0
            lengths[to] += len(text)
            pieces[to].append(text.replace("define internal", "define", 1) if to else text)
            if to:
                pieces[0].append(_declaration(header))
        return ["\n".join(piece) + "\n" for piece in pieces]


_NAME = re.compile(r"@([\w.$]+)")


def _declaration(header: str) -> str:
    """`define internal void @f(i64 %x, ptr %y) nounwind ` as a declaration."""
    before, rest = header.split("(", 1)
    parameters = rest.split(")", 1)[0].split(", ")
    return f"{before.replace('define internal', 'declare', 1)}({', '.join(p.rsplit(' ', 1)[0] for p in parameters)})"


class Function:
    """Builds one function; `finish()` adds it to the module."""

    def __init__(self, module: Module, name: str, params: list[Val], ret: str = "void", attributes: str = "nounwind",
                 linkage: str = "", param_attributes: str = "") -> None:
        self.module = module
        self.name = name
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.block = "entry"
        self._count = 0
        where = f"{linkage} " if linkage else ""
        args = ", ".join(f"{p.ty} {param_attributes + ' ' if p.ty == 'ptr' and param_attributes else ''}{p.name}" for p in params)
        self.header = f"define {where}{ret} @{name}({args}) {attributes} {{"

    # -- plumbing ------------------------------------------------------------------------------------------------
    def fresh(self, hint: str = "t") -> str:
        self._count += 1
        return f"%{hint}{self._count}"

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def op(self, text: str, ty: str) -> Val:
        """Append `%fresh = text`; the result has type `ty`."""
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return Val(ty, name)

    def call(self, name: str, ret: str, *args: Val) -> Val:
        self.module.declare(name, f"{ret} ({', '.join(a.ty for a in args)})")
        return self.op(f"call {ret} @{name}({', '.join(map(str, args))})", ret)

    def call_void(self, name: str, *args: Val, declare: bool = True) -> None:
        if declare:
            self.module.declare(name, f"void ({', '.join(a.ty for a in args)})")
        self.line(f"call void @{name}({', '.join(map(str, args))})")

    def intrinsic(self, name: str, *args: Val) -> Val:
        """`llvm.<name>` overloaded on its first argument's type, returning that type."""
        return self.call(f"llvm.{name}.{intrinsic_suffix(args[0].ty)}", args[0].ty, *args)

    def finish(self) -> None:
        self.module.functions.append("\n".join([self.header, "entry:", *self.allocas, *self.lines, "}"]))

    # -- arithmetic ----------------------------------------------------------------------------------------------
    def binary(self, opcode: str, a: Val, b: Val) -> Val:
        return self.op(f"{opcode} {a.ty} {a.name}, {b.name}", a.ty)

    def compare(self, predicate: str, a: Val, b: Val) -> Val:
        """`icmp`/`fcmp` by operand type; `predicate` as LLVM spells it (`slt`, `oeq`, ...)."""
        kind = "fcmp" if scalar_type(a.ty) in ("float", "double", "half", "bfloat") else "icmp"
        return self.op(f"{kind} {predicate} {a.ty} {a.name}, {b.name}", vector_type("i1", lanes_of(a.ty)))

    def select(self, c: Val, a: Val, b: Val) -> Val:
        return self.op(f"select {c}, {a}, {b}", a.ty)

    def cast(self, opcode: str, a: Val, scalar: str) -> Val:
        """`sext`, `fptrunc`, `bitcast`, ... to the same number of lanes of `scalar`."""
        ty = vector_type(scalar, lanes_of(a.ty))
        return self.op(f"{opcode} {a} to {ty}", ty)

    def splat(self, a: Val, lanes: int) -> Val:
        if lanes == 1:
            return a
        ty = vector_type(a.ty, lanes)
        one = self.op(f"insertelement {ty} poison, {a}, i32 0", ty)
        return self.op(f"shufflevector {ty} {one.name}, {ty} poison, <{lanes} x i32> zeroinitializer", ty)

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        return self.intrinsic("fma", a, b, c)

    def add(self, a: Val, b: Val | int) -> Val:
        """Integer addition; adding the constant 0 is free."""
        if b == 0:
            return a
        return self.binary("add", a, b if isinstance(b, Val) else const(a.ty, b))

    def mul(self, a: Val, b: Val | int) -> Val:
        if b == 1:
            return a
        return self.binary("mul", a, b if isinstance(b, Val) else const(a.ty, b))

    def sub(self, a: Val, b: Val | int) -> Val:
        return self.binary("sub", a, b if isinstance(b, Val) else const(a.ty, b))

    def smin(self, a: Val, b: Val) -> Val:
        return self.select(self.compare("slt", a, b), a, b)

    def smax(self, a: Val, b: Val) -> Val:
        return self.select(self.compare("sgt", a, b), a, b)

    # -- memory --------------------------------------------------------------------------------------------------
    def gep(self, ptr: Val, index: Val | int, element: str) -> Val:
        """Pointer to element `index` of an array of `element` at `ptr`."""
        if index == 0:
            return ptr
        idx = index if isinstance(index, Val) else Val("i64", str(index))
        return self.op(f"getelementptr inbounds {element}, {ptr}, {idx}", "ptr")

    def load(self, ptr: Val, ty: str, align: int = 0) -> Val:
        return self.op(f"load {ty}, {ptr}" + (f", align {align}" if align else ""), ty)

    def store(self, value: Val, ptr: Val, align: int = 0) -> None:
        self.line(f"store {value}, {ptr}" + (f", align {align}" if align else ""))

    # -- control flow --------------------------------------------------------------------------------------------
    def label(self, hint: str = "b") -> str:
        self._count += 1
        return f"{hint}{self._count}"

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def branch(self, label: str) -> None:
        self.line(f"br label %{label}")

    def branch_if(self, c: Val, then: str, other: str) -> None:
        self.line(f"br i1 {c.name}, label %{then}, label %{other}")

    def variable(self, initial: Val) -> Val:
        """A stack slot holding `initial`; LLVM's mem2reg/SROA makes it a register. Returns its pointer."""
        name = self.fresh("var")
        self.allocas.append(f"  {name} = alloca {initial.ty}")
        ptr = Val("ptr", name)
        self.store(initial, ptr)
        return ptr

    @contextmanager
    def loop(self, low: Val, high: Val, step: Val | int = 1, carried: list[Val] | None = None) -> Iterator["Loop"]:
        """`for (i = low; i < high; i += step)` over i64, with SSA loop-carried values (phis).

        Inside, `loop.index` and `loop.values` are current; call `loop.next([...])` once before the body ends.
        After the block `loop.values` are the final ones.
        """
        state = Loop(self, low, high, step, carried or [])
        state.open()
        yield state
        state.close()

    @contextmanager
    def if_(self, c: Val) -> Iterator[None]:
        then, end = self.label("then"), self.label("end")
        self.branch_if(c, then, end)
        self.start(then)
        yield
        self.branch(end)
        self.start(end)


class Loop:
    """State of `Function.loop`: the counter and the loop-carried values as phis."""

    def __init__(self, f: Function, low: Val, high: Val, step: Val | int, carried: list[Val]) -> None:
        self.f, self.low, self.high, self.step, self.initial = f, low, high, step, carried
        self.index = Val("i64", f.fresh("i"))
        self.values = [Val(v.ty, f.fresh("phi")) for v in carried]
        self._phis = self.values
        self._next: list[Val] = []

    def open(self) -> None:
        f = self.f
        self.head, self.body, self.exit = f.label("head"), f.label("body"), f.label("exit")
        self.before = f.label("pre")
        f.branch(self.before)
        f.start(self.before)
        f.branch(self.head)
        f.start(self.head)
        self.phi_line = len(f.lines)
        c = f.compare("slt", self.index, self.high)
        f.branch_if(c, self.body, self.exit)
        f.start(self.body)

    def next(self, values: list[Val]) -> None:
        self._next = values

    def close(self) -> None:
        f = self.f
        if len(self._next) != len(self.initial):
            raise ValueError("loop.next must be given one value for each carried value")
        after = f.add(self.index, self.step)
        latch = f.label("latch")
        f.branch(latch)
        f.start(latch)
        f.branch(self.head)
        phis = [f"  {self.index.name} = phi i64 [ {self.low.name}, %{self.before} ], [ {after.name}, %{latch} ]"]
        for phi, start, end in zip(self._phis, self.initial, self._next, strict=True):
            phis.append(f"  {phi.name} = phi {phi.ty} [ {start.name}, %{self.before} ], [ {end.name}, %{latch} ]")
        f.lines[self.phi_line:self.phi_line] = phis
        f.start(self.exit)
        self.values = self._phis
