"""Forward-mode differentiation of one op: tangents of its results from tangents of its operands.

A vjp is linear in the cotangent, and the vjp of that linear function is the pushforward (J. Townsend, "A new trick for calculating
Jacobian vector products", 2017): differentiated and pruned as a graph, none of the reverse pass is left. Where each element of a result
depends on the same element of an operand alone, the Jacobian is diagonal, and the vjp rule itself is the pushforward. Few ops have a rule
of their own.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any

from treadle.ir.autodiff import apply_rule, backpropagate, operand_gradients
from treadle.ir.builder import Builder
from treadle.ir.dtypes import FLOAT, DType
from treadle.ir.graph import Graph, Value
from treadle.ir.op import Attrs, Field, Kind, Op
from treadle.ir.ops.control import pruned
from treadle.ir.types import TensorType

Types = tuple[TensorType, ...]
Flags = tuple[bool, ...]


@lru_cache(maxsize=4096)
def pushforward(op: Op, types: Types, attrs: Attrs, out_types: Types, given: Flags, default: DType) -> tuple[Graph, Flags]:
    """A graph of (operands, results, tangents of the operands that are `given`) whose outputs are the tangents of results.

    Second, which results have one: the others do not depend on the operands. `default` is the default dtype, on which types depend.
    """
    b = Builder(Graph(f"{op.name}_jvp"))
    operands, outs = [b.input(t) for t in types], [b.input(t) for t in out_types]
    tangents = {i: b.input(types[i]) for i, flag in enumerate(given) if flag}
    moving = {i: t for i, t in tangents.items() if types[i].dtype.category >= FLOAT}
    if op.jvp is not None:
        pushed = op.jvp(b, tuple([moving.get(i) for i in range(len(types))]), tuple(operands), tuple(outs), *attrs)
        b.graph.outputs = list(pushed) if isinstance(pushed, tuple) else [pushed]
        return pruned(b.graph), tuple([t.dtype.category >= FLOAT for t in out_types])
    found = _diagonal(b, op, types, attrs, out_types, operands, outs, moving)
    if found is None:
        found = _twice_transposed(b, op, types, attrs, out_types, operands, outs, moving)
    b.graph.outputs = [x for x in found if x is not None]
    return pruned(b.graph), tuple([x is not None for x in found])


def _diagonal(b: Builder, op: Op, types: Types, attrs: Attrs, out_types: Types, operands: list[Value], outs: list[Value],
              tangents: dict[int, Value]) -> list[Any] | None:
    if not isinstance(op.rules, tuple) or len(out_types) != 1 or (op.kind is not Kind.ELEMENTWISE and op.batch != "elementwise"):
        return None
    if op.field is Field.COMPLEX and any([t.dtype.is_complex for t in (*types, *out_types)]):
        return None  # its rules are not those of a derivative
    out, total = out_types[0], None
    for i, t in tangents.items():
        rule = op.rules[min(i, len(op.rules) - 1)]
        if rule is None:
            continue
        wide = t if t.type.shape == out.shape else b.expand(t, out.shape)
        wide = wide if wide.type.dtype is out.dtype else b.cast(wide, out.dtype)
        part = apply_rule(b, rule, wide, (op, attrs, operands, types, outs, out_types, (wide,)))
        if part is not None:
            part = part if part.type.dtype is out.dtype else b.cast(part, out.dtype)
            total = part if total is None else b.add(total, part)
    if total is not None and total.type.shape != out.shape:
        total = b.expand(total, out.shape)
    return [total]


def _twice_transposed(b: Builder, op: Op, types: Types, attrs: Attrs, out_types: Types, operands: list[Value], outs: list[Value],
                      tangents: dict[int, Value]) -> list[Any]:
    cotangents = [b.full(0, t.shape, t.dtype, t.device) if t.dtype.category >= FLOAT else None for t in out_types]
    wanted = tuple([i in tangents for i in range(len(types))])
    pulled = operand_gradients(b, op, attrs, operands, types, outs, out_types, cotangents, wanted)
    pairs = [(g, tangents[i]) for i, g in enumerate(pulled) if g is not None]
    b.graph.outputs = [g for g, _ in pairs]
    env = {v: v for v in b.graph.inputs}
    env.update({v: v for node in b.graph.nodes for v in node.outputs})
    live = [c for c in cotangents if c is not None]
    found = iter(backpropagate(b, b.graph, env, [t for _, t in pairs], live))
    return [None if c is None else next(found) for c in cotangents]
