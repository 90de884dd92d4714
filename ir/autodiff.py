"""Reverse-mode differentiation from the op table's vjp rules, for one node and for a whole graph.

Both work on any emitter: the recorder's eager backward asks for one node at a time, passes differentiate graphs. A value here
is whatever the emitter handles; it has a `type`. None stands for a value that was not kept, or a gradient that is zero.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.ir.dtypes import FLOAT
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.interpreter import decomposed
from treadle.ir.op import Attrs, Field, Op, VjpRule
from treadle.ir.ops.view import sum_to
from treadle.ir.types import TensorType

Types = tuple[TensorType, ...]


def has_gradient(op: Op) -> bool:
    """Whether gradients flow through `op` at all."""
    return op.differentiable and (op.rules is not None or op.decompose is not None)


def kept_for_backward(op: Op, operand_count: int) -> tuple[tuple[int, ...], bool]:
    """Which operands, and whether the results, the backward pass of `op` reads."""
    if not has_gradient(op):
        return (), False
    if op.rules is None:
        return tuple(range(operand_count)), True
    rules = [op.rules] if isinstance(op.rules, VjpRule) else [r for r in op.rules if r is not None]
    operands: set[int] = set()
    outs = False
    for rule in rules:
        for kind, i in rule.needs:
            outs = outs or kind == "out"
            if kind == "operands":
                operands.update(range(operand_count))
            elif kind == "operand":
                operands.update(range(i, operand_count) if op.operands[i].endswith("*") else (i,))
    return tuple(sorted(operands)), outs


def operand_gradients(b: Any, op: Op, attrs: Attrs, operand_values: Sequence[Any], operand_types: Types, outs: Sequence[Any],
                      out_types: Types, grads: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    """The gradients of one node's operands, emitted through `b`: of the operand's shape and dtype, or None for zero.

    grads: the gradient of each result, None for zero. Values that `kept_for_backward` does not name may be None.
    """
    wanted = tuple([w and t.dtype.category >= FLOAT for w, t in zip(wanted, operand_types, strict=True)])
    nothing: list[Any] = [None] * len(operand_types)
    if not any(wanted) or all(g is None for g in grads) or not has_gradient(op):
        return nothing
    if op.rules is None:
        return _through_decomposition(b, op, attrs, operand_values, operand_types, outs, grads, wanted)
    sparse = isinstance(op.rules, VjpRule) and ("given", 0) in op.rules.needs
    g = grads[0] if len(out_types) == 1 else tuple([x if sparse else _filled(b, x, t) for x, t in zip(grads, out_types, strict=True)])
    context = (op, attrs, operand_values, operand_types, outs, out_types, grads)
    through = _apply_conjugated if holds_complex(op, operand_types, out_types) else apply_rule
    if isinstance(op.rules, VjpRule):
        found = through(b, op.rules, g, context)
        found = list(found) if isinstance(found, tuple) else [found]
    else:
        last = len(op.rules) - 1
        rules = [op.rules[min(i, last)] for i in range(len(operand_types))]
        found = [through(b, rule, g, context) if rule is not None and want else None for rule, want in zip(rules, wanted, strict=True)]
    return [_fit(b, x, t) if want and x is not None else None for x, t, want in zip(found, operand_types, wanted, strict=True)]


def holds_complex(op: Op, operand_types: Types, out_types: Types) -> bool:
    """Whether the rules of an analytic op meet complex numbers."""
    return op.field is Field.ANALYTIC and any([t.dtype.is_complex for t in (*operand_types, *out_types)])


def _apply_conjugated(b: Any, rule: VjpRule, g: Any, context: tuple) -> Any:
    """conj(rule(conj(g))): a rule of real numbers multiplies by f'(z), and the gradient of an analytic f is g * conj(f'(z)).

    A rule that reads no values is linear with real coefficients, and needs none of it.
    """
    if not any(kind in ("operand", "operands", "out") for kind, _ in rule.needs):
        return apply_rule(b, rule, g, context)
    found = apply_rule(b, rule, tuple([_conjugate(b, x) for x in g]) if isinstance(g, tuple) else _conjugate(b, g), context)
    return tuple([_conjugate(b, x) for x in found]) if isinstance(found, tuple) else _conjugate(b, found)


def _conjugate(b: Any, g: Any) -> Any:
    return b.conj(g) if g is not None and g.type.dtype.is_complex else g


def _filled(b: Any, g: Any, type: TensorType) -> Any:
    """Zeros for a missing gradient; an integer result has none."""
    if g is None and type.dtype.category >= FLOAT:
        return b.full(0, type.shape, type.dtype, type.device)
    return g


def apply_rule(b: Any, rule: VjpRule, g: Any, context: tuple) -> Any:
    """Call a rule with what it asks for. context: op, attributes, operands, their types, results, their types, gradients of these."""
    op, attrs, values, types, outs, out_types, grads = context
    args = []
    for kind, i in rule.needs:
        rest = kind in ("operand", "operand_type") and op.operands[i].endswith("*")
        if kind == "operand":
            args.append(tuple(values[i:]) if rest else values[i])
        elif kind == "operand_type":
            args.append(tuple(types[i:]) if rest else types[i])
        elif kind == "operands":
            args.append(tuple(values))
        elif kind == "operand_types":
            args.append(types)
        elif kind == "attr":
            args.append(attrs[i])
        elif kind == "given":
            args.append(tuple([x is not None for x in grads]))
        else:
            source = outs if kind == "out" else out_types
            args.append(source[0] if len(out_types) == 1 else tuple(source))
    return rule.function(b, g, *args)


def _fit(b: Any, g: Any, type: TensorType) -> Any:
    """Undo broadcasting and promotion; of a complex gradient a real operand takes the real part."""
    if g.type.shape != type.shape:
        g = sum_to(b, g, type.shape)
    return g if g.type.dtype is type.dtype else b.cast(g, type.dtype)


def _through_decomposition(b: Any, op: Op, attrs: Attrs, values: Sequence[Any], types: Types, outs: Sequence[Any], grads: Sequence[Any],
                           wanted: Sequence[bool]) -> list[Any]:
    """Emit the decomposition again, except what is known already, and walk it backwards."""
    graph = decomposed(op, types, attrs)
    env: dict[Value, Any] = dict(zip(graph.inputs, values, strict=True))
    env.update({v: x for v, x in zip(graph.outputs, outs, strict=True) if x is not None and v.node.op is not None and v not in env})
    replay(b, graph, env)
    given = [g if g is None or g.type.dtype is v.type.dtype else b.cast(g, v.type.dtype) for v, g in zip(graph.outputs, grads, strict=True)]
    found = backpropagate(b, graph, env, given, [v for v, want in zip(graph.inputs, wanted, strict=True) if want])
    fitted = iter(found)
    return [next(fitted) if want else None for want in wanted]


def replay(b: Any, graph: Graph, env: dict[Value, Any]) -> None:
    """Emit through `b` every node of `graph` whose results `env` does not hold yet; `env` starts with the inputs."""
    for node in graph.nodes:
        if all(o in env for o in node.outputs):
            continue
        assert node.op is not None
        if node.op.name == "constant":
            env[node.out] = b.number(node.attrs[0])
            continue
        result = b.apply(node.op, tuple([env[v] for v in node.inputs]), node.attrs)
        env.update(zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=True))


def backpropagate(b: Any, graph: Graph, env: dict[Value, Any], cotangents: Sequence[Any], wrt: Sequence[Value]) -> list[Any]:
    """Gradients of sum(output * cotangent) with respect to the values `wrt`, as values of the emitter; None where zero.

    env: the emitter's value for each value of `graph` (see `replay`); cotangents: one for each output, None for zero.
    """
    active = _depends_on(graph, wrt)
    grads: dict[Value, Any] = {}
    for value, g in zip(graph.outputs, cotangents, strict=True):
        if g is not None and value in active:
            _accumulate(b, grads, value, g)
    for node in reversed(graph.nodes):
        given = [grads.get(o) for o in node.outputs]
        wanted = [v in active for v in node.inputs]
        if not any(wanted) or all(g is None for g in given):
            continue
        _set_location(b, node)
        assert node.op is not None
        found = operand_gradients(b, node.op, node.attrs, [env.get(v) for v in node.inputs], tuple([v.type for v in node.inputs]),
                                  [env.get(o) for o in node.outputs], tuple([o.type for o in node.outputs]), given, wanted)
        for value, g in zip(node.inputs, found, strict=True):
            if g is not None:
                _accumulate(b, grads, value, g)
    return [grads.get(v) for v in wrt]


def _set_location(b: Any, node: Node) -> None:
    """Gradients carry the location of the op they differentiate."""
    if hasattr(b, "loc"):
        b.loc = node.loc


def _depends_on(graph: Graph, wrt: Sequence[Value]) -> set[Value]:
    """The floating-point and complex values through which gradients reach `wrt`."""
    active = {v for v in wrt if v.type.dtype.category >= FLOAT}
    for node in graph.nodes:
        if node.op is not None and has_gradient(node.op) and any(v in active for v in node.inputs):
            active.update([o for o in node.outputs if o.type.dtype.category >= FLOAT])
    return active


def _accumulate(b: Any, grads: dict[Value, Any], value: Value, g: Any) -> None:
    seen = grads.get(value)
    grads[value] = g if seen is None else b.add(seen, g)
