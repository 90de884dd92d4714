"""PTX text -> Module. Written from the PTX ISA manual: statements end with ';', braces open scopes, names live in scopes.

Calls of `.func` functions are expanded in place (PTX forbids nothing that this loses except recursion), so that a
kernel's body is one flat list of instructions and labels with unique names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ptx_simulator.faults import Place, PtxError

BITS = {
    "pred": 1, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "b32": 32, "u32": 32, "s32": 32,
    "b64": 64, "u64": 64, "s64": 64, "b128": 128, "f16": 16, "bf16": 16, "f16x2": 32, "bf16x2": 32, "f32": 32, "f64": 64, "tf32": 32,
    "e4m3": 8, "e5m2": 8, "e4m3x2": 16, "e5m2x2": 16,
}  # fmt: skip
SPECIAL = re.compile(
    r"%(n?tid|n?ctaid)\.[xyz]$|%(laneid|warpid|nwarpid|clock|clock64|clock_hi|globaltimer|lanemask_(lt|le|gt|ge|eq)|smid|nsmid|gridid|"
    r"total_smem_size)$"
)
_VARIABLE = re.compile(
    r"(?:\.(?:visible|weak|extern|common)\s+)*\.(global|shared|const|local|param)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$.%]+)"
    r"\s*((?:\[\d*\])*)\s*(?:=\s*(.*))?$",
    re.S,
)
_FUNCTION = re.compile(r"\.(entry|func)\b\s*(\([^)]*\))?\s*([\w$.]+)\s*(\([^)]*\))?([^{;]*)([{;])")
_CALL = re.compile(r"call(?:\.uni)?\s*(?:\(([^)]*)\)\s*,)?\s*([\w$.]+)\s*(?:,\s*\(([^)]*)\))?", re.S)


@dataclass(frozen=True)
class Register:
    name: str
    bits: int
    index: int


@dataclass(frozen=True)
class Special:
    name: str


@dataclass(frozen=True)
class Immediate:
    text: str


@dataclass(frozen=True)
class Symbol:
    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    base: Operand
    offset: int


@dataclass(frozen=True)
class Vector:
    parts: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """Two results, `d|p`."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Negated:
    operand: Operand


@dataclass(frozen=True)
class Sink:
    """The result that nobody wants, `_`."""


Operand = Register | Special | Immediate | Symbol | Address | Vector | Pair | Negated | Sink


@dataclass
class Instruction:
    line: int
    text: str
    guard: Operand | None
    negated: bool
    parts: tuple[str, ...]
    operands: list[Operand]

    @property
    def name(self) -> str:
        return self.parts[0]

    @property
    def types(self) -> list[str]:
        return [part for part in self.parts[1:] if part in BITS]


@dataclass(frozen=True)
class Label:
    name: str


@dataclass(frozen=True)
class Variable:
    """A declared array of bytes; `size` is None for dynamic shared memory."""

    name: str
    space: str
    align: int
    size: int | None
    data: bytes | None = None


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    offset: int
    size: int


@dataclass
class Function:
    """A function's text, not yet expanded."""

    name: str
    entry: bool
    parameters: list[Parameter]
    returns: list[Parameter]
    limits: dict[str, tuple[int, ...]]
    body: str
    line: int


@dataclass
class Kernel:
    """An entry function with every call expanded."""

    name: str
    parameters: list[Parameter]
    limits: dict[str, tuple[int, ...]]
    statements: list[Instruction | Label]
    registers: list[Register]
    variables: list[Variable]
    tables: dict[str, list[str]]


@dataclass
class Module:
    variables: dict[str, Variable] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    target: str = ""

    def kernel(self, name: str) -> Kernel:
        """The kernel called `name`. KeyError if the module has none."""
        if name not in self.kernels:
            function = self.functions[name]
            if not function.entry:
                raise KeyError(name)
            self.kernels[name] = _Expander(self).kernel(function)
        return self.kernels[name]

    def entries(self) -> list[str]:
        return [function.name for function in self.functions.values() if function.entry]


def parse(text: str) -> Module:
    """The module in `text`. PtxError names the line of what it does not understand."""
    text = _without_comments(text)
    version = re.search(r"^\s*\.version\s+\d+\.\d+", text, re.M)
    target = re.search(r"^\s*\.target\s+(\w+)", text, re.M)
    if not version or not target:
        raise PtxError("the text has no .version or no .target")
    module = Module(target=target[1])
    rest, position = [], 0
    while found := _FUNCTION.search(text, position):
        rest.append(text[position : found.start()])
        position = found.end()
        if found[6] == "{":
            position = _matching_brace(text, found.end())
            function = _function(found, text[found.end() : position - 1], text.count("\n", 0, found.end()) + 1)
            module.functions[function.name] = function
    rest.append(text[position:])
    for statement in "".join(rest).split(";"):
        if found := _VARIABLE.search(statement.strip()):
            variable = _variable(found)
            module.variables[variable.name] = variable
    return module


def _without_comments(text: str) -> str:
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r"^\s*\.(loc|file)\b[^\n]*", "", text, flags=re.M)


def _matching_brace(text: str, start: int) -> int:
    depth, position = 1, start
    while depth:
        if position >= len(text):
            raise PtxError("a '{' is never closed")
        depth += (text[position] == "{") - (text[position] == "}")
        position += 1
    return position


def _function(found: re.Match[str], body: str, line: int) -> Function:
    limits = {
        name: tuple(int(number) for number in numbers.replace(",", " ").split())
        for name, numbers in re.findall(r"\.(maxntid|reqntid|minnctapersm|maxnreg)\s+([\d,\s]+)", found[5])
    }
    if found[1] == "func" and found[2] and found[4] is None:
        return Function(found[3], False, [], _parameters(found[2]), limits, body, line)
    return Function(found[3], found[1] == "entry", _parameters(found[4]), _parameters(found[2]), limits, body, line)


def _parameters(text: str | None) -> list[Parameter]:
    parameters, offset = [], 0
    for piece in (text or "()").strip()[1:-1].split(","):
        if not piece.strip():
            continue
        kind = next(name for name in re.findall(r"\.(\w+)", piece) if name in BITS)
        name = re.search(r"([\w$.%]+)\s*(?:\[(\d+)\])?\s*$", piece)
        align = re.search(r"\.align\s+(\d+)\s+\.b8", piece)
        if not name:
            raise PtxError(f"parameter without a name: {piece.strip()}")
        size = BITS[kind] // 8 * int(name[2] or 1)
        step = int(align[1]) if align else BITS[kind] // 8
        offset = -(-offset // step) * step
        parameters.append(Parameter(name[1], kind, offset, size))
        offset += size
    return parameters


def _variable(found: re.Match[str]) -> Variable:
    space, align, kind, name, dims, data = found.groups()
    width = max(1, BITS[kind] // 8)
    size: int | None = width
    for dim in re.findall(r"\[(\d*)\]", dims):
        size = None if dim == "" or size is None else size * int(dim)
    initial = None
    if data is not None:
        numbers = [number for number in re.split(r"[,{}\s]+", data) if number]
        initial = b"".join(_constant_bytes(number, width) for number in numbers)
        size = max(size or 0, len(initial))
        initial = initial.ljust(size, b"\0")
    elif space in ("global", "const") and size is not None:
        initial = bytes(size)
    return Variable(name, space, int(align or width), size, initial)


def _constant_bytes(text: str, width: int) -> bytes:
    if re.match(r"0[fFdD][0-9a-fA-F]+$", text):
        return int(text[2:], 16).to_bytes(width, "little")
    try:
        return (int(text.rstrip("U"), 0) % (1 << 8 * width)).to_bytes(width, "little")
    except ValueError:
        raise PtxError(f"initial value {text} is not a number") from None


@dataclass
class _Scope:
    names: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, int] = field(default_factory=dict)


class _Expander:
    """Turns one entry function and the functions it calls into a flat kernel."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.statements: list[Instruction | Label] = []
        self.registers: dict[str, Register] = {}
        self.variables: list[Variable] = []
        self.tables: dict[str, list[str]] = {}
        self.widths: dict[str, int] = {}
        self.count = 0
        self.depth: list[str] = []
        self.entry = ""

    def kernel(self, function: Function) -> Kernel:
        self.entry = function.name
        self._expand(function, {parameter.name: parameter.name for parameter in function.parameters})
        return Kernel(
            function.name, function.parameters, function.limits, self.statements, list(self.registers.values()), self.variables, self.tables
        )

    def _expand(self, function: Function, names: dict[str, str]) -> str:
        """Appends the function's statements; returns the label behind them."""
        if function.name in self.depth:
            raise PtxError(f"recursive call of {function.name}")
        self.depth.append(function.name)
        self.count += 1
        prefix = f"{function.name}@{self.count}."
        scopes = [_Scope(dict(names))]
        end = prefix + "end"
        for line, statement in _statements(function.body, function.line):
            self._statement(line, statement, scopes, prefix, end)
        self.statements.append(Label(end))
        self.depth.pop()
        return end

    def _statement(self, line: int, statement: str, scopes: list[_Scope], prefix: str, end: str) -> None:
        if statement == "{":
            scopes.append(_Scope())
        elif statement == "}":
            scopes.pop()
        elif statement.endswith(":"):
            self.statements.append(Label(prefix + statement[:-1].strip()))
        elif statement.startswith("."):
            self._directive(line, statement, scopes, prefix)
        elif statement.startswith("call"):
            self._call(line, statement, scopes)
        else:
            self._instruction(line, statement, scopes, prefix, end)

    def _directive(self, line: int, statement: str, scopes: list[_Scope], prefix: str) -> None:
        self.count += 1
        if found := re.match(r"\.reg\s+(?:\.v\d\s+)?\.(\w+)\s+(.*)$", statement, re.S):
            for name in found[2].split(","):
                if ranged := re.match(r"([%\w$]+)<(\d+)>$", name.strip()):
                    scopes[-1].ranges[ranged[1]] = BITS[found[1]]
                    scopes[-1].names[ranged[1] + "<"] = f"{prefix}{self.count}."
                else:
                    unique = f"{prefix}{self.count}.{name.strip()}"
                    scopes[-1].names[name.strip()] = unique
                    self.widths[unique] = BITS[found[1]]
        elif found := re.match(r"\.branchtargets\s+(.*)$", statement, re.S):
            label = self.statements.pop()
            assert isinstance(label, Label)
            self.tables[label.name] = [prefix + target.strip() for target in found[1].split(",")]
        elif found := _VARIABLE.match(statement):
            variable = _variable(found)
            unique = f"{prefix}{self.count}.{variable.name}"
            scopes[-1].names[variable.name] = unique
            self.variables.append(Variable(unique, variable.space, variable.align, variable.size, variable.data))
        elif not statement.startswith(".pragma"):
            raise PtxError(f"unknown directive {statement.split()[0]}", Place(self.entry, line, statement))

    def _call(self, line: int, statement: str, scopes: list[_Scope]) -> None:
        found = _CALL.match(statement)
        if not found or found[2] not in self.module.functions:
            raise PtxError("call of an unknown function", Place(self.entry, line, statement))
        function = self.module.functions[found[2]]
        given = [name.strip() for name in (found[1] or "").split(",") + (found[3] or "").split(",") if name.strip()]
        wanted = [parameter.name for parameter in function.returns + function.parameters]
        if len(given) != len(wanted):
            detail = f"call of {function.name} with {len(given)} arguments and results, not {len(wanted)}"
            raise PtxError(detail, Place(self.entry, line, statement))
        actual = {formal: self._resolve(name, scopes) for formal, name in zip(wanted, given, strict=True)}
        self._expand(function, {formal: name if isinstance(name, str) else given[0] for formal, name in actual.items()})

    def _instruction(self, line: int, statement: str, scopes: list[_Scope], prefix: str, end: str) -> None:
        found = re.match(r"(?:@(!?)\s*([%\w$.]+)\s+)?([\w.:]+)\s*(.*)$", statement, re.S)
        text = " ".join(statement.split())
        if not found:
            raise PtxError("not an instruction", Place(self.entry, line, text))
        parts = tuple(part for part in found[3].split(".") if part)
        guard = self._operand(found[2], scopes) if found[2] else None
        if parts[0] in ("bra", "brx"):
            operands: list[Operand] = [Symbol(prefix + found[4].split(",")[-1].strip())]
            if parts[0] == "brx":
                operands.insert(0, self._operand(found[4].split(",")[0].strip(), scopes))
        elif parts[0] == "ret" and len(self.depth) > 1:
            parts, operands = ("bra",), [Symbol(end)]
        else:
            operands = [self._operand(piece, scopes) for piece in _split(found[4])]
        self.statements.append(Instruction(line, text, guard, found[1] == "!", parts, operands))

    def _operand(self, text: str, scopes: list[_Scope]) -> Operand:
        text = text.strip()
        if text.startswith("{"):
            return Vector(tuple(self._operand(piece, scopes) for piece in _split(text[1:-1])))
        if text.startswith("["):
            base, offset = _base_and_offset(text[1:-1].strip())
            return Address(self._operand(base, scopes), offset)
        if "|" in text:
            first, second = text.split("|")
            return Pair(self._operand(first, scopes), self._operand(second, scopes))
        if text.startswith("!"):
            return Negated(self._operand(text[1:], scopes))
        if text == "_":
            return Sink()
        if SPECIAL.match(text):
            return Special(text[1:])
        if re.match(r"-?[\d.]", text):
            return Immediate(text)
        resolved = self._resolve(text, scopes)
        if isinstance(resolved, Register):
            return resolved
        base, offset = _base_and_offset(text)
        named = self._resolve(base, scopes)
        if isinstance(named, Register):
            raise PtxError(f"operand {text} mixes a register and an offset")
        return Symbol(named, offset)

    def _resolve(self, name: str, scopes: list[_Scope]) -> Register | str:
        """The register of that name in the innermost scope, or the unique name of a variable."""
        ranged = re.match(r"([%\w$]*?)(\d+)$", name)
        for scope in reversed(scopes):
            if name in scope.names:
                unique = scope.names[name]
                return self._register(unique, self.widths[unique]) if unique in self.widths else unique
            if ranged and ranged[1] in scope.ranges:
                return self._register(scope.names[ranged[1] + "<"] + name, scope.ranges[ranged[1]])
        if name.startswith("%"):
            raise PtxError(f"register {name} is not declared")
        return name

    def _register(self, unique: str, bits: int) -> Register:
        if unique not in self.registers:
            self.registers[unique] = Register(unique, bits, len(self.registers))
        return self.registers[unique]


def _base_and_offset(text: str) -> tuple[str, int]:
    found = re.match(r"([%\w$.]+)\s*(?:([+-])\s*(-?\w+))?$", text)
    if not found:
        raise PtxError(f"operand {text} is neither a name nor a name with an offset")
    offset = int(found[3], 0) if found[3] else 0
    return found[1], -offset if found[2] == "-" else offset


def _split(text: str) -> list[str]:
    """The operands in `text`: commas inside braces and brackets do not separate."""
    pieces, depth, piece = [], 0, ""
    for letter in text:
        depth += (letter in "{[(") - (letter in ")]}")
        if letter == "," and depth == 0:
            pieces.append(piece)
            piece = ""
        else:
            piece += letter
    return [piece.strip() for piece in [*pieces, piece] if piece.strip()]


def _statements(body: str, line: int) -> list[tuple[int, str]]:
    """(line, statement) of a body; scopes come as '{' and '}', labels with their ':'."""
    found: list[tuple[int, str]] = []
    current, depth, start = "", 0, line
    for letter in body:
        if not current.strip():
            current, start = "", line
        line += letter == "\n"
        if letter in "{}" and not current and depth == 0:
            found.append((start, letter))
        elif letter == ";" and depth == 0:
            if current.strip():
                found.append((start, current.strip()))
            current = ""
        elif letter == ":" and depth == 0 and re.fullmatch(r"\s*[\w$.%]+", current):
            found.append((start, current.strip() + ":"))
            current = ""
        else:
            depth += (letter == "{") - (letter == "}")
            current += letter
    if current.strip():
        raise PtxError(f"statement without ';': {' '.join(current.split())[:60]}")
    return found
