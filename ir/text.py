"""Prints a graph as MLIR in its generic form, which any MLIR tool reads and `treadle.ir.parse` reads back.

    "func.func"() <{function_type = (tensor<2x3xf32>) -> tensor<2x3xf32>, sym_name = "main"}> ({
    ^bb0(%arg0: tensor<2x3xf32>):
      %0 = "treadle.constant"() {value = 2.0 : f64} : () -> tensor<f64, "weak">
      %1 = "treadle.mul"(%arg0, %0) : (tensor<2x3xf32>, tensor<f64, "weak">) -> tensor<2x3xf32> loc("train.py":12:0)
      "func.return"(%1) : (tensor<2x3xf32>) -> ()
    }) : () -> ()

What a type has besides shape and dtype is its encoding: `"weak"` for a Python number used as data, the device when it is
not the CPU, or both (`"cuda:0,weak"`). Attributes keep their names; None prints as `unit`, a dtype as its MLIR type, and a
sub-graph is a region, in the order of the op's attributes.
"""
from __future__ import annotations

import math
import re
import struct
from typing import Any

from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph, Location, Node, Value
from treadle.ir.types import TensorType

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]*")
_ESCAPED = re.compile(r'[\x00-\x1f"\\\x7f\ud800-\udfff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def print_graph(graph: Graph) -> str:
    """The graph as one `func.func`. A malformed graph prints too, with `%undefined` for values that are not defined."""
    return _Printer().function(graph)


def print_node(node: Node) -> str:
    """One node by itself, for messages: operands numbered in order of appearance, regions as `{...}`."""
    printer = _Printer()
    env: dict[Value, str] = {}
    for value in node.inputs:
        env.setdefault(value, f"%{len(env)}")
    printer.values, printer.whole = len(env), False
    return printer.node(node, env, "").lstrip()


def quote(text: str) -> str:
    """An MLIR string literal; control characters and bytes that are not UTF-8 (in file names) become two hex digits."""
    def escape(match: re.Match[str]) -> str:
        return _SHORT.get(match[0]) or "".join([f"\\{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")])
    return f'"{_ESCAPED.sub(escape, text)}"'


def format_type(type: TensorType) -> str:
    """`tensor<2x3xf32>`, `tensor<f64, "weak">`, `tensor<8xi1, "cuda:0">`."""
    sizes = "".join([f"{n}x" for n in type.shape])
    facts = ([] if type.device == "cpu" else [type.device]) + (["weak"] if type.weak else [])
    encoding = f", {quote(','.join(facts))}" if facts else ""
    return f"tensor<{sizes}{type.dtype.mlir}{encoding}>"


def format_attribute(value: Any) -> str:
    """An attribute's value. What no MLIR attribute can hold (a Python function) prints as `#treadle.python<"...">`."""
    if value is None:
        return "unit"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{int(value)} : i64"
    if isinstance(value, float):
        return f"{_float(value)} : f64"
    if isinstance(value, complex):
        return f"#treadle.complex<{format_attribute(value.real)}, {format_attribute(value.imag)}>"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, DType):
        return value.mlir
    if isinstance(value, TensorType):
        return format_type(value)
    if isinstance(value, tuple):
        return _tuple(value)
    return f"#treadle.python<{quote(repr(value))}>"


def _float(value: float) -> str:
    """Digits that give back the same number; MLIR wants a decimal point, and bits in hex for what is not finite."""
    if not math.isfinite(value):
        return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"
    text = float.__repr__(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return text


def _tuple(items: tuple[Any, ...]) -> str:
    if all(type(item) is int for item in items):
        return "array<i64: " + ", ".join(map(str, items)) + ">" if items else "array<i64>"
    if all(type(item) is bool for item in items):
        return "array<i1: " + ", ".join(map(format_attribute, items)) + ">"
    return "[" + ", ".join(map(format_attribute, items)) + "]"


def _signature(inputs: list[TensorType], results: list[TensorType]) -> str:
    left, right = ", ".join(map(format_type, inputs)), ", ".join(map(format_type, results))
    return f"({left}) -> {right}" if len(results) == 1 else f"({left}) -> ({right})"


def _location(loc: Location) -> str:
    return f" loc({quote(loc[0])}:{loc[1]}:0)" if loc else ""


class _Printer:
    """Numbers values through the whole text: MLIR forbids a region to reuse a name of the code around it."""

    def __init__(self) -> None:
        self.values = 0
        self.arguments = 0
        self.whole = True  # print what is inside regions
        self.open: list[Graph] = []  # the graphs around the text being printed

    def function(self, graph: Graph) -> str:
        kind = _signature([v.type for v in graph.inputs], [v.type for v in graph.outputs])
        body = self.block(graph, "func.return", "")
        return f'"func.func"() <{{function_type = {kind}, sym_name = {quote(graph.name)}}}> ({body}) : () -> ()\n'

    def block(self, graph: Graph, terminator: str, indent: str) -> str:
        """`{ ^bb0(...): ... }`, closing brace at `indent`; `{...}` where a malformed graph contains itself."""
        if graph in self.open or not self.whole:
            return "{...}"
        self.open.append(graph)
        env: dict[Value, str] = {}
        for value in graph.inputs:
            env[value] = f"%arg{self.arguments}"
            self.arguments += 1
        arguments = ", ".join([f"{env[v]}: {format_type(v.type)}" for v in graph.inputs])
        lines = ["{", f"{indent}^bb0({arguments}):"]
        lines += [self.node(node, env, indent + "  ") for node in graph.nodes]
        self.open.pop()
        names, kind = _operands(graph.outputs, env), _signature([v.type for v in graph.outputs], [])
        lines += [f'{indent}  "{terminator}"({names}) : {kind}', indent + "}"]
        return "\n".join(lines)

    def node(self, node: Node, env: dict[Value, str], indent: str) -> str:
        operands = _operands(node.inputs, env)  # before the results get names: a node cannot use itself
        left = self.results(node, env)
        op, attrs = node.op, ""
        names = op.attrs if op is not None else ()
        regions = [self.block(a, "treadle.yield", indent) for a in node.attrs if isinstance(a, Graph)]
        entries = [f"{_key(name)} = {format_attribute(a)}" for name, a in zip(names, node.attrs, strict=False) if not isinstance(a, Graph)]
        if regions:
            attrs += f" ({', '.join(regions)})"
        if entries:
            attrs += f" {{{', '.join(entries)}}}"
        kind = _signature([v.type for v in node.inputs], [v.type for v in node.outputs])
        return f'{indent}{left}"treadle.{op.name if op else "input"}"({operands}){attrs} : {kind}{_location(node.loc)}'

    def results(self, node: Node, env: dict[Value, str]) -> str:
        """Names the node's results; the text left of the operation."""
        count = len(node.outputs)
        if not count:
            return ""
        name = f"%{self.values}"
        self.values += 1
        if count == 1:
            env[node.outputs[0]] = name
            return f"{name} = "
        env.update({value: f"{name}#{i}" for i, value in enumerate(node.outputs)})
        return f"{name}:{count} = "


def _operands(values: tuple[Value, ...] | list[Value], env: dict[Value, str]) -> str:
    return ", ".join([env.get(v, "%undefined") for v in values])


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else quote(name)
