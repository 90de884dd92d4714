"""The op table from Python: one function per op, `ops.linear(x, w)`, `ops.softmax(x, 1)`, and declaring new ones."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from treadle.emitter import EMITTER
from treadle.ir.ops.elementwise import elementwise
from treadle.tensor import apply

if TYPE_CHECKING:
    from treadle.codegen.llvm_text import Function, Val


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name == "aten":
        from treadle.aten_names import ATEN
        return ATEN
    function: Callable[..., Any] = getattr(EMITTER, name)
    globals()[name] = function
    return function


class KernelMath:
    """What a new op's `kernel` is written with: every elementwise function by name (`k.exp(x)`, `k.mul(x, y)`) and `k.number(x, 2.5)`."""

    def __init__(self, f: Function) -> None:
        self._f = f

    def number(self, like: Val, value: float) -> Val:
        """A constant of the type of `like`."""
        from treadle.codegen import expressions
        from treadle.codegen.llvm_text import scalar_type
        return expressions.constant({"float": "float32", "double": "float64"}[scalar_type(like.ty)], value, expressions.lanes_of(like.ty))

    def __getattr__(self, name: str) -> Callable[..., Val]:
        return partial(self._apply, name)

    def _apply(self, name: str, *args: Val) -> Val:
        from treadle.codegen import expressions
        from treadle.codegen.llvm_text import Val, scalar_type
        dtype = {"float": "float32", "double": "float64"}[scalar_type(args[0].ty)]
        site = expressions.Site(self._f, None, Val("ptr", "null"))
        return expressions.elementwise(site, name, (dtype,) * len(args), list(args))


def declare_elementwise(name: str, *, reference: Callable[..., Any], kernel: Callable[..., Val], vjp: Any = None,
                        operands: str = "x") -> Callable[..., Any]:
    """Add a floating-point elementwise op to the table and return its function; ValueError when the name is taken.

    reference: numpy semantics, `(*arrays) -> array`.
    kernel: `(k, *values) -> value` with a `KernelMath` k: the scalar expression, for vectors of any width.
    vjp: one rule for one operand, or a tuple of them: `(b, g, ...) -> gradient` in terms of other ops, `b.mul(g, x)`; further
        parameters name operands, or `out`, the result.
    """
    from treadle.codegen import expressions
    rules = vjp if vjp is None or isinstance(vjp, tuple) else (vjp,)
    op = elementwise(name, operands, reference, rules, compute="float")
    expressions.EXTRA[name] = lambda f, *args: kernel(KernelMath(f), *args)
    names = operands.split()

    def function(*args: Any) -> Any:
        if len(args) != len(names):
            raise TypeError(f"{name}() takes {len(names)} operands ({operands}), got {len(args)}")
        return apply(op, args)
    function.__name__ = function.__qualname__ = name
    return function
