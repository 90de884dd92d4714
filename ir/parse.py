"""Reads the text that `treadle.ir.text` prints, or an MLIR tool's generic form of it, back into a graph."""
from __future__ import annotations

import difflib
import re
import struct
from typing import Any, NamedTuple, NoReturn

import treadle.ir.ops  # noqa: F401  declares every op
from treadle.ir import dtypes
from treadle.ir.graph import Graph, Location, Node, Value
from treadle.ir.op import TABLE, Attrs, Op
from treadle.ir.text import format_type
from treadle.ir.types import TensorType, tensor_type

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_ELEMENT = r"(?:complex<[a-z]+[0-9]+>|[a-z]+[0-9]+)"
_TOKENS = re.compile(rf"""
    (?P<space>  (?:\s+|//[^\n]*)+ )
  | (?P<tensor> tensor<(?:\d+x)*{_ELEMENT}(?:\s*,\s*{_STRING})?> )
  | (?P<string> {_STRING} )
  | (?P<value>  %[\w$.-]+(?:\#\d+)? )
  | (?P<label>  \^[\w$.-]+ )
  | (?P<number> 0x[0-9A-Fa-f]+ | -?\d+(?:\.\d*(?:[eE][-+]?\d+)?)? )
  | (?P<word>   complex<[a-z]+[0-9]+> | [A-Za-z_][\w$.]* )
  | (?P<mark>   -> | <\{{ | \}}> | [(){{}}<>\[\]=,:\#] )
""", re.VERBOSE)
_TENSOR = re.compile(rf"tensor<((?:\d+x)*)({_ELEMENT})(?:\s*,\s*({_STRING}))?>")
_ESCAPE = re.compile(rb'\\([0-9A-Fa-f]{2}|[nt"\\])')
_WORDS = {"true": True, "false": False, "unit": None}


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Reference(NamedTuple):
    """A use of a value, with its place for messages."""

    name: str
    at: int


Scope = dict[str, Value]


def parse(text: str) -> Graph:
    """The graph that `text` describes; ValueError with line and column where it is malformed.

    One `func.func`, bare or inside a `builtin.module`. Types are taken as written: `verify` checks them against the ops' rules.
    """
    return _Parser(text).file()


def unquote(literal: str) -> str:
    """The text of an MLIR string literal, quotes included in the argument."""
    def character(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes.fromhex(code.decode()) if len(code) == 2 else {b"n": b"\n", b"t": b"\t"}.get(code, code)
    return _ESCAPE.sub(character, literal[1:-1].encode()).decode("utf-8", "surrogateescape")


class _Parser:
    """Recursive descent, one token ahead. It recurses over regions, never over a chain of operations."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.seen: dict[str, TensorType] = {}  # types by their text
        self.token = self.scan()

    # -- tokens ------------------------------------------------------------------------------------------------------
    def scan(self) -> _Token:
        while True:
            if self.at == len(self.text):
                return _Token("end", "the end of the text", self.at)
            match = _TOKENS.match(self.text, self.at)
            if match is None:
                self.fail(f"unexpected character {self.text[self.at]!r}", self.at)
            start, self.at = self.at, match.end()
            if match.lastgroup != "space":
                return _Token(str(match.lastgroup), match[0], start)

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        at = self.token.at if at is None else at
        before = self.text[:at]
        raise ValueError(f"line {before.count(chr(10)) + 1}, column {at - before.rfind(chr(10))}: {message}")

    def next(self) -> _Token:
        token, self.token = self.token, self.scan()
        return token

    def take(self, kind: str, what: str) -> _Token:
        if self.token.kind != kind:
            self.fail(f"expected {what}, found {self.token.text}")
        return self.next()

    def accept(self, text: str) -> bool:
        found = self.token.text == text and self.token.kind in ("mark", "word")
        if found:
            self.next()
        return found

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(f"expected {text}, found {self.token.text}")

    def string(self, what: str) -> str:
        return unquote(self.take("string", what).text)

    # -- functions and blocks ----------------------------------------------------------------------------------------
    def file(self) -> Graph:
        graph = self.module() if self.token.text == '"builtin.module"' else self.function()
        if self.token.kind != "end":
            self.fail(f"expected the end of the text, found {self.token.text}")
        return graph

    def module(self) -> Graph:
        self.next()
        for mark in ("(", ")", "(", "{"):
            self.expect(mark)
        if self.token.kind == "label":
            self.next()
            self.expect(":")
        graph = self.function()
        for mark in ("}", ")"):
            self.expect(mark)
        self.closing()
        return graph

    def closing(self) -> None:
        """`: () -> ()` and perhaps a location."""
        self.expect(":")
        self.signature()
        self.location()

    def function(self) -> Graph:
        if self.token.text != '"func.func"':
            self.fail(f'expected "func.func", found {self.token.text}')
        self.next()
        self.expect("(")
        self.expect(")")
        start = self.token.at
        properties = self.dictionary("<{", "}>")
        self.expect("(")
        graph = self.block("func.return")
        self.expect(")")
        if self.token.text == "{":
            self.dictionary("{", "}")
        self.closing()
        graph.name = properties.get("sym_name", "main")
        have = ([v.type for v in graph.inputs], [v.type for v in graph.outputs])
        if properties.get("function_type", have) != have:
            self.fail("function_type differs from the types of the function's arguments and results", start)
        return graph

    def block(self, terminator: str) -> Graph:
        """`{ ^bb0(...): operations terminator }`. Values of the code around it are out of reach: a region takes them as operands."""
        self.expect("{")
        graph = Graph()
        scope: Scope = {}
        if self.token.kind == "label":
            self.next()
            if self.accept("("):
                self.arguments(graph, scope)
            self.expect(":")
        while not (self.token.kind == "string" and unquote(self.token.text) == terminator):
            if self.token.text == "}":
                self.fail(f'the block ends without "{terminator}"')
            self.operation(graph, scope)
        self.next()
        operands = self.operands()
        self.expect(":")
        at = self.token.at
        inputs, _ = self.signature()
        graph.outputs = self.resolve(operands, inputs, scope, at)
        self.location()
        self.expect("}")
        return graph

    def arguments(self, graph: Graph, scope: Scope) -> None:
        while not self.accept(")"):
            name = self.take("value", "an argument")
            self.expect(":")
            self.define(scope, name.text, graph.add_input(self.type()), name.at)
            self.location()
            if self.token.text != ")":
                self.expect(",")

    def define(self, scope: Scope, name: str, value: Value, at: int) -> None:
        if name in scope:
            self.fail(f"{name} is defined twice", at)
        scope[name] = value

    # -- operations --------------------------------------------------------------------------------------------------
    def operation(self, graph: Graph, scope: Scope) -> None:
        names = self.results()
        at = self.token.at
        op = self.op()
        operands = self.operands()
        regions = self.regions()
        entries = self.dictionary("{", "}") if self.token.text == "{" else {}
        attrs = self.attributes(op, entries, regions, at)
        self.expect(":")
        kind = self.token.at
        inputs, results = self.signature()
        if len(results) != len(names):
            self.fail(f"{len(names)} results are named, the type has {len(results)}", at)
        values = tuple(self.resolve(operands, inputs, scope, kind))
        node = graph.append(Node(op, values, attrs, tuple(results), self.location()))
        for (name, place), value in zip(names, node.outputs, strict=True):
            self.define(scope, name, value, place)

    def results(self) -> list[_Reference]:
        """The names left of `=`: `%0`, `%0:2` (for %0#0 and %0#1), or `%0, %1`."""
        names: list[_Reference] = []
        while self.token.kind == "value":
            _, text, at = self.next()
            if self.accept(":"):
                count = int(self.take("number", "a number of results").text)
                names += [_Reference(f"{text}#{i}", at) for i in range(count)]
            else:
                names.append(_Reference(text, at))
            if not self.accept(","):
                self.expect("=")
                break
        return names

    def op(self) -> Op:
        token = self.take("string", "an operation's name in quotes")
        name = unquote(token.text)
        op = TABLE.get(name.removeprefix("treadle.")) if name.startswith("treadle.") else None
        if op is None:
            close = difflib.get_close_matches(name, [f"treadle.{known}" for known in TABLE], 1)
            self.fail(f"there is no operation {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""), token.at)
        return op

    def operands(self) -> list[_Reference]:
        self.expect("(")
        found: list[_Reference] = []
        while not self.accept(")"):
            token = self.take("value", "an operand")
            found.append(_Reference(token.text, token.at))
            if self.token.text != ")":
                self.expect(",")
        return found

    def resolve(self, operands: list[_Reference], types: list[TensorType], scope: Scope, at: int) -> list[Value]:
        if len(operands) != len(types):
            self.fail(f"{len(operands)} operands, but the type lists {len(types)}", at)
        values = []
        for (name, place), type in zip(operands, types, strict=True):
            value = scope.get(name)
            if value is None:
                self.fail(f"{name} is not defined at this point of its block", place)
            if value.type is not type:
                self.fail(f"{name} is a {format_type(value.type)}, used here as {format_type(type)}", place)
            values.append(value)
        return values

    def regions(self) -> list[Graph]:
        found: list[Graph] = []
        if self.accept("("):
            found.append(self.block("treadle.yield"))
            while self.accept(","):
                found.append(self.block("treadle.yield"))
            self.expect(")")
        return found

    def attributes(self, op: Op, entries: dict[str, Any], regions: list[Graph], at: int) -> Attrs:
        """The attributes in the op's order: from the dictionary, and the rest from the regions."""
        unknown = [name for name in entries if name not in op.attrs]
        if unknown:
            self.fail(f"{op.name} has no attribute {unknown[0]!r}; it has {', '.join(op.attrs) or 'none'}", at)
        missing = [name for name in op.attrs if name not in entries]
        if len(missing) != len(regions):
            self.fail(f"{op.name} needs the attribute{'s' if len(missing) > 1 else ''} {', '.join(missing)}" if len(missing) > len(regions)
                      else f"{op.name} has more regions than attributes for them", at)
        for name, region in zip(missing, regions, strict=True):
            region.name = name
            entries[name] = region
        return tuple([entries[name] for name in op.attrs])

    def location(self) -> Location:
        if not self.accept("loc"):
            return None
        self.expect("(")
        if self.accept("unknown"):
            self.expect(")")
            return None
        name = self.string("a file name")
        self.expect(":")
        line = int(self.take("number", "a line number").text)
        self.expect(":")
        self.take("number", "a column number")
        self.expect(")")
        return name, line

    # -- types and attributes ----------------------------------------------------------------------------------------
    def signature(self) -> tuple[list[TensorType], list[TensorType]]:
        inputs = self.types()
        self.expect("->")
        return inputs, self.types() if self.token.text == "(" else [self.type()]

    def types(self) -> list[TensorType]:
        self.expect("(")
        found: list[TensorType] = []
        while not self.accept(")"):
            found.append(self.type())
            if self.token.text != ")":
                self.expect(",")
        return found

    def type(self) -> TensorType:
        token = self.take("tensor", "a tensor type")
        found = self.seen.get(token.text)
        if found is None:
            found = self.seen[token.text] = self.tensor(token)
        return found

    def tensor(self, token: _Token) -> TensorType:
        match = _TENSOR.fullmatch(token.text)
        assert match is not None
        sizes, element, encoding = match.groups()
        facts = unquote(encoding).split(",") if encoding else []
        devices = [fact for fact in facts if fact != "weak"] or ["cpu"]
        if len(devices) > 1:
            self.fail(f"{encoding} names several devices", token.at)
        shape = tuple([int(n) for n in sizes.split("x")[:-1]])
        return tensor_type(shape, self.dtype(element, token.at), devices[0], "weak" in facts)

    def dtype(self, text: str, at: int) -> dtypes.DType:
        known = [d.mlir for d in dtypes.ALL]
        if text not in known:
            self.fail(f"{text} is no element type; there are {', '.join(known)}", at)
        return dtypes.by_mlir(text)

    def dictionary(self, left: str, right: str) -> dict[str, Any]:
        self.expect(left)
        found: dict[str, Any] = {}
        while not self.accept(right):
            key = self.token
            if key.kind not in ("word", "string"):
                self.fail(f"expected an attribute's name, found {key.text}")
            self.next()
            name = unquote(key.text) if key.kind == "string" else key.text
            if name in found:
                self.fail(f"the attribute {name!r} is given twice", key.at)
            found[name] = self.attribute() if self.accept("=") else None  # a name alone is a unit attribute
            if self.token.text != right:
                self.expect(",")
        return found

    def attribute(self) -> Any:
        kind, text, at = self.token
        if kind == "number":
            return self.number()
        if kind == "string":
            return unquote(self.next().text)
        if kind == "tensor":
            return self.type()
        if text == "(":  # only a function type begins so
            return self.signature()
        if self.accept("["):
            return self.items("]")
        if self.accept("#"):
            return self.complex(at)
        if kind != "word":
            self.fail(f"expected an attribute, found {text}")
        self.next()
        if text == "array":
            return self.array()
        return _WORDS[text] if text in _WORDS else self.dtype(text, at)

    def complex(self, at: int) -> complex:
        """After `#`: `treadle.complex<1.0 : f64, 2.0 : f64>`."""
        if not self.accept("treadle.complex"):
            self.fail("a Python object cannot be read back", at)
        self.expect("<")
        parts = self.items(">")
        return complex(*parts)

    def items(self, end: str) -> tuple[Any, ...]:
        found: list[Any] = []
        while not self.accept(end):
            found.append(self.attribute())
            if self.token.text != end:
                self.expect(",")
        return tuple(found)

    def array(self) -> tuple[Any, ...]:
        """After `array`: `<i64>`, `<i64: 1, 2>` or `<i1: true, false>`."""
        self.expect("<")
        element = self.take("word", "an element type").text
        if element not in ("i64", "i1"):
            self.fail(f"an array holds i64 or i1, not {element}")
        if self.accept(":"):
            return self.items(">")
        self.expect(">")
        return ()

    def number(self) -> int | float:
        token = self.next()
        type = self.take("word", "a type").text if self.accept(":") else ""
        if type not in ("", "i64", "f64"):
            self.fail(f"a number is i64 or f64, not {type}", token.at)
        if token.text.startswith("0x"):
            if type != "f64" or len(token.text) != 18:
                self.fail("a number in hex is the 16 digits of an f64", token.at)
            return struct.unpack(">d", bytes.fromhex(token.text[2:]))[0]
        if type == "f64" or "." in token.text:
            return float(token.text)
        return int(token.text)
