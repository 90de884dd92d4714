"""Builds graphs: every op of the table is a method, `b.add(x, y)`, `b.sum(x, dims=(0,), keepdim=False)`."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from treadle.ir import op as op_table
from treadle.ir.graph import Graph, Location, Node, Value
from treadle.ir.op import Attrs, Op, result_types
from treadle.ir.size import Size
from treadle.ir.types import SCALARS, TensorType

Emitted: TypeAlias = Value | tuple[Value, ...]


class Emitter:
    """What vjp and decompose rules are written against. A subclass says how one op is applied."""

    def apply(self, op: Op, operands: tuple[Any, ...], attrs: Attrs) -> Any:
        """Apply `op`; operands are this emitter's values or Python numbers. One result, or a tuple for several."""
        raise NotImplementedError

    def number(self, value: float | int | bool) -> Any:
        """A Python number as an operand: as it is, where numbers are operands."""
        return value

    def __getattr__(self, name: str) -> Callable[..., Any]:
        op = op_table.TABLE.get(name)
        if op is None:
            raise AttributeError(f"there is no op named {name!r}")
        method = partial(_call, self, op)
        self.__dict__[name] = method
        return method


def _call(emitter: Emitter, op: Op, *args: Any, **kwargs: Any) -> Any:
    """Split a call into operands and attributes by the op's record."""
    if op.operands and op.operands[-1].endswith("*"):
        count = len(args)
    else:
        count = len(op.operands)
    attrs = args[count:] + tuple([kwargs[name] for name in op.attrs[len(args) - count:]])
    return emitter.apply(op, args[:count], attrs)


class Builder(Emitter):
    """Appends nodes to a graph. Numbers given as operands become constants of the graph."""

    def __init__(self, graph: Graph | None = None) -> None:
        self.graph = graph or Graph()
        self.loc: Location = None

    def apply(self, op: Op, operands: tuple[Any, ...], attrs: Attrs) -> Emitted:
        inputs = tuple([v if isinstance(v, Value) else self.number(v) for v in operands])
        types = result_types(op, tuple([v.type for v in inputs]), attrs)
        outputs = self.graph.append(Node(op, inputs, attrs, types, self.loc)).outputs
        return outputs[0] if len(outputs) == 1 else outputs

    def number(self, value: float | int | bool) -> Value:
        """A weak 0-d constant."""
        node = Node(op_table.TABLE["constant"], (), (value,), (SCALARS[int if value.__class__ is Size else type(value)],), self.loc)
        return self.graph.append(node).out

    def input(self, type: TensorType) -> Value:
        return self.graph.add_input(type)
