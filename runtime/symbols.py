"""Python numbers that remember how they were computed from numbers read outside a captured call.

They pass for plain numbers. Arithmetic gives further symbols; any other use fixes the value: the capture notes that it
depends on it (`FIX`). Recorded as an operand, a symbol stays a run-time scalar that a replay computes anew.
"""
from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from treadle.ir.types import SCALARS

Expr = tuple[Any, ...]  # ("place", place) | ("number", value) | (operator's name, operand, operand...)


def FIX(symbol: Any) -> None:
    """Replaced by the capture: the value of `symbol` decided something."""


def plain(x: Any) -> Any:
    """`x`, or the number behind a symbol, without fixing it."""
    return x.number if x.__class__ is SymFloat or x.__class__ is SymInt else x


def fixed(x: Any) -> Any:
    """`x`, or the number behind a symbol, fixed."""
    if x.__class__ is SymFloat or x.__class__ is SymInt:
        FIX(x)
        return x.number
    return x


def symbol(value: Any, expr: Expr) -> Any:
    """A symbol of `value`'s class; other classes than float and int as they are."""
    if value.__class__ is float:
        made: Any = SymFloat(value)
    elif value.__class__ is int:
        made = SymInt(value)
    else:
        return value
    made.expr = expr
    made.number = value
    return made


def expression(x: Any) -> Expr:
    return x.expr if x.__class__ is SymFloat or x.__class__ is SymInt else ("number", x)


def _arithmetic(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    function = getattr(operator, name)

    def forward(self: Any, other: Any) -> Any:
        b = plain(other)
        if b.__class__ not in (float, int):
            return function(fixed(self), other) if b.__class__ is bool else NotImplemented
        return symbol(function(self.number, b), (name, self.expr, expression(other)))

    def reflected(self: Any, other: Any) -> Any:
        if other.__class__ not in (float, int):
            return function(other, fixed(self)) if other.__class__ is bool else NotImplemented
        return symbol(function(other, self.number), (name, ("number", other), self.expr))
    return forward, reflected


def _fixing(name: str, base: type) -> Callable[..., Any]:
    function = getattr(base, name)

    def method(self: Any, *args: Any) -> Any:
        return function(fixed(self), *[fixed(a) for a in args])
    return method


def _class(name: str, base: type) -> type:
    fields: dict[str, Any] = {"__reduce__": lambda self: (base, (self.number,)),
                              "__neg__": lambda self: symbol(-self.number, ("neg", self.expr)),
                              "__pos__": lambda self: self}
    for short in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        fields[f"__{short}__"], fields[f"__r{short}__"] = _arithmetic(short)
    for short in ("eq", "ne", "lt", "le", "gt", "ge", "hash", "bool", "int", "float", "str", "repr", "format", "round", "trunc", "floor",
                  "ceil", "abs", "divmod", "rdivmod", "index", "lshift", "rlshift", "rshift", "rrshift", "and", "rand", "or", "ror", "xor",
                  "rxor", "invert"):
        if hasattr(base, f"__{short}__"):
            fields[f"__{short}__"] = _fixing(f"__{short}__", base)
    for method in ("is_integer", "hex", "as_integer_ratio", "bit_length", "bit_count", "to_bytes", "conjugate"):
        if hasattr(base, method):
            fields[method] = _fixing(method, base)
    return type(name, (base,), fields)


SymFloat: Any = _class("SymFloat", float)
SymInt: Any = _class("SymInt", int)
SCALARS[SymFloat] = SCALARS[float]
SCALARS[SymInt] = SCALARS[int]
