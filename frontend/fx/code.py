"""The Python that a graph of calls stands for."""
from __future__ import annotations

import builtins
import enum
import keyword
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import treadle
from treadle.device import device
from treadle.fx.node import Node, target_name, type_name
from treadle.tensor import Tensor

INFIX = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@", "and_": "&",
         "or_": "|", "xor": "^", "lshift": "<<", "rshift": ">>", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
PREFIX = {"neg": "-", "pos": "+", "invert": "~"}
KNOWN = {"inf": float("inf"), "nan": float("nan"), "NoneType": type(None), "device": device}  # what values' texts may name
GENERIC = {dict: typing.Dict, list: typing.List, set: typing.Set, frozenset: typing.FrozenSet, tuple: typing.Tuple}  # noqa: UP006
SHORT = {"bfloat16": "bf16", "float64": "f64", "float32": "f32", "float16": "f16", "complex32": "c32", "complex64": "c64",
         "complex128": "c128", "bool": "b8", "float8_e4m3fn": "f8e4m3fn", "float8_e5m2": "f8e5m2"}


@dataclass
class PythonCode:
    """Source text of a function, and the names it needs."""

    src: str
    globals: dict[str, Any]


class Writer:
    """Writes one function. verbose: shapes that passes found instead of annotations, as far as there are any."""

    def __init__(self, root: str, verbose: bool = False, stride: bool = False, device: bool = False) -> None:
        self.root, self.verbose, self.stride, self.device = root, verbose, stride, device
        self.names: dict[str, Any] = dict(KNOWN)
        self.taken: set[str] = set()
        self.wrapped: dict[str, None] = {}

    def function(self, nodes: Sequence[Node]) -> PythonCode:
        """`def forward(...)` that runs the nodes in order, and gives each value up after its last use."""
        self.taken = {n.name for n in nodes}
        last = {used: node for node in nodes for used in node.all_input_nodes}
        parameters, body, returns, noted = [self.root], [], "", False
        for node in nodes:
            if node.op == "placeholder":
                parameters.append(node.target + self._annotation(node) + (f" = {self.value(node.args[0])}" if node.args else ""))
                if node.name != node.target.lstrip("*"):
                    body.append(f"{node.name} = {node.target.lstrip('*')}")
                continue
            if self.verbose and node.op != "output" and not noted:
                body += [""][:len(body)] + ["# No stacktrace found for following nodes"]
                noted = True
            spent = [n.name for n in node.all_input_nodes if last[n] is node] + ([] if node.users else [node.name])
            free = f";  {' = '.join(spent)} = None" if spent and node.op != "output" else ""
            if node.op == "output" and node.type is not None:
                returns = f" -> {self.type(node.type)}"
            body.append(self._statement(node) + free)
        text = "\n".join(f"    {line}" if line else "" for line in body or ["pass"])
        wraps = "".join(f'{self.put("wrap", treadle.fx.wrap)}("{name}")\n' for name in self.wrapped)
        return PythonCode(f"{wraps}\n\n\ndef forward({', '.join(parameters)}){returns}:\n{text}\n    ", self.names)

    def _annotation(self, node: Node) -> str:
        if self.verbose and isinstance(shape := found_shape(node, self.stride, self.device), str):
            return f': "{shape}"'
        return f" : {self.type(node.type)}" if node.type is not None else ""

    def _statement(self, node: Node) -> str:
        if node.op == "output":
            return f"return {self.value(node.args[0])}"
        return f"{node.name}{self._annotation(node)} = {self._call(node)}"

    def _call(self, node: Node) -> str:
        args = [self.value(a) for a in node.args]
        named = [f"{k} = {self.value(v)}" for k, v in node.kwargs.items()]
        if node.op == "get_attr":
            return dotted(self.root, node.target)
        if node.op == "call_module":
            return f"{dotted(self.root, node.target)}({', '.join(args + named)})"
        if node.op == "call_method":
            return f"{dotted(args[0], node.target)}({', '.join(args[1:] + named)})"
        name = target_name(node.target)
        short = name.removeprefix("operator.")
        if name.startswith("operator.") and len(args) == 2 and short in INFIX:
            return f"{args[0]} {INFIX[short]} {args[1]}"
        if name.startswith("operator.") and len(args) == 1 and short in PREFIX:
            return f"{PREFIX[short]}{args[0]}"
        if name == "operator.getitem":
            return f"{args[0]}[{args[1]}]"
        if name == "getattr" and len(args) == 2 and isinstance(node.args[1], str) and node.args[1].isidentifier():
            return f"{args[0]}.{node.args[1]}"
        called = self.put(name if name != f"operator.{short}" else f"_{name}", node.target)
        if node.meta.get("is_wrapped"):
            self.wrapped.setdefault(called)
        return f"{called}({', '.join(args + named)})"

    def put(self, name: str, value: Any) -> str:
        """A name for `value` that the function's globals have: dotted if it is Treadle's, else made from `name`."""
        if name.startswith("treadle."):
            self.names["treadle"] = treadle
            return name
        flat = re.sub(r"\W+", "_", name)
        flat = f"_{flat}" if flat[0].isdigit() else flat
        free, number = flat, 0
        while free in self.taken or self.names.get(free, value) is not value or (
                getattr(builtins, free, value) is not value) or keyword.iskeyword(free):
            number += 1
            free = f"{flat}_{number}"
        if getattr(builtins, free, None) is not value:
            self.names[free] = value
        return free

    def type(self, annotation: Any) -> str:
        """An annotation as code."""
        if annotation == ():
            return "()"
        if isinstance(annotation, types.UnionType):
            return "|".join(self.type(a) for a in typing.get_args(annotation))
        origin = getattr(annotation, "__origin__", None)
        if origin is None:
            return self.put(type_name(annotation), annotation)
        if type(annotation).__module__ == "typing":
            origin = GENERIC.get(origin, origin)
        given = [self.type(a) for a in typing.get_args(annotation)]
        return self.put(type_name(origin), origin) + (f"[{','.join(given)}]" if given else "")

    def value(self, value: Any) -> str:
        """A node's name, or a value that stands in the code; what has no text there is put among the globals."""
        if isinstance(value, Node):
            return value.name
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return f"{self.put(target_name(type(value)), type(value))}({', '.join(map(self.value, value))})"
        if isinstance(value, tuple):
            return f"({', '.join(map(self.value, value))}{',' if len(value) == 1 else ''})"
        if isinstance(value, list):
            return f"[{', '.join(map(self.value, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{k!r}: {self.value(v)}' for k, v in value.items())}}}"
        if isinstance(value, slice):
            return f"slice({', '.join(map(self.value, (value.start, value.stop, value.step)))})"
        if isinstance(value, enum.Enum):
            return f"{self.put(type(value).__name__, type(value))}.{value.name}"
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | device | range):
            return repr(value)
        if value is ...:
            return "Ellipsis"
        return self.put(str(value) if str(value).startswith("treadle.") else f"_value_{len(self.names)}", value)


def dotted(root: str, target: str) -> str:
    """`root.a.b`, with getattr for names that are no identifiers, as those of Sequential."""
    text = root
    for part in target.split("."):
        text = f"{text}.{part}" if part.isidentifier() and not keyword.iskeyword(part) else f'getattr({text}, "{part}")'
    return text


def found_shape(node: Node, stride: bool = False, device: bool = False) -> str | None:
    """A node's dtype and shape, where a pass has left them in its `meta`: f32[2, 3]."""
    found: Any = next((node.meta[k] for k in ("val", "tensor_meta", "example_value") if k in node.meta), None)
    if not hasattr(found, "dtype") or not hasattr(found, "shape"):
        return None
    name = str(found.dtype).removeprefix("treadle.")
    text = SHORT.get(name, name.replace("uint", "u").replace("int", "i")) + str(list(found.shape))
    if isinstance(found, Tensor):
        text += (str(list(found.stride())) if stride else "") + (str(found.device) if device else "")
    return text
