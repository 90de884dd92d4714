"""The op table from Python: the emitter that records, and functions of one op without detours."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.arguments import direct
from treadle.ir import op as op_table
from treadle.ir.builder import Emitter
from treadle.ir.op import Attrs, Kind, Op
from treadle.tensor import apply, binary, unary

_ONE_RESULT = (Kind.ELEMENTWISE, Kind.CONTRACT)


def fast_path(op: Op, foreign: Callable[..., Any]) -> Callable[..., Any] | None:
    """`unary` or `binary` of an op, None when it needs more than they do."""
    if op.attrs or op.kind not in _ONE_RESULT or not op.operands or op.operands[-1].endswith("*"):
        return None
    make = (unary, binary)[len(op.operands) - 1] if len(op.operands) < 3 else None
    return None if make is None else direct(make(op, foreign))


class TensorEmitter(Emitter):
    """Lets vjp and decompose rules run eagerly: their ops are recorded (and taped, when gradients are on)."""

    def apply(self, op: Op, operands: tuple[Any, ...], attrs: Attrs) -> Any:
        return apply(op, operands, attrs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        op = op_table.TABLE.get(name)
        if op is None:
            return super().__getattr__(name)
        method = fast_path(op, lambda *operands: apply(op, operands[:-1])) or _positional(op)
        self.__dict__[name] = method
        return method


def _positional(op: Op) -> Callable[..., Any]:
    """`op(*operands, *attributes)`; attributes may be named, and must be where any number of operands is taken."""
    count, names = len(op.operands), op.attrs
    if op.operands and op.operands[-1].endswith("*"):
        return lambda *operands, **named: apply(op, operands, tuple([named[name] for name in names]))

    def method(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            args = (*args, *[kwargs[name] for name in names[len(args) - count:]])
        return apply(op, args[:count], args[count:])
    return method


EMITTER = TensorEmitter()
