"""Control flow: ops whose attributes are graphs. A region sees its operands only, through its inputs, in order.

    scan(carries..., sequences..., constants...)   body: (carries..., slices..., constants...) -> (new carries..., outputs...)
    cond(pred, xs...)                              then, orelse: (xs...) -> results, of equal types
    while_loop(carries..., constants...)           condition: (carries..., constants...) -> bool; body: the same -> carries
    call(xs...)                                    body: (xs...) -> results
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from treadle.ir import dtypes
from treadle.ir.batching import BatchedCall, Flags, emit, region
from treadle.ir.builder import Builder
from treadle.ir.dtypes import FLOAT
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.common import Types, zeros
from treadle.ir.types import TensorType, tensor_type


def as_tuple(x: Any) -> tuple[Any, ...]:
    """An op's results as a tuple, also when there is only one."""
    return x if isinstance(x, tuple) else (x,)


def _differentiable(t: TensorType) -> bool:
    return t.dtype.category >= FLOAT and not t.weak


def _check_inputs(name: str, region: str, graph: Graph, types: Sequence[TensorType]) -> None:
    have = [v.type for v in graph.inputs]
    if len(have) != len(types):
        raise RuntimeError(f"{name}: {region} takes {len(have)} inputs, but {len(types)} operands are given")
    for i, (want, got) in enumerate(zip(have, types, strict=True)):
        if want is not got and (want.dtype is not got.dtype or want.shape != got.shape or want.weak != got.weak):
            raise RuntimeError(f"{name}: input {i} of {region} is {want}, but its operand gives {got}")


def _check_carries(name: str, body: Graph, n_carry: int) -> None:
    for i in range(n_carry):
        before, after = body.inputs[i].type, body.outputs[i].type
        if before is not after and (before.dtype is not after.dtype or before.shape != after.shape):
            raise RuntimeError(f"{name}: carry {i} enters the body as {before}, but leaves it as {after}")


def _run(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    from treadle.ir.interpreter import run  # the interpreter imports the op table
    return run(graph, arrays)


def pruned(graph: Graph) -> Graph:
    """The graph without nodes on which no output depends; edited in place."""
    needed: set[Node] = {v.node for v in graph.outputs}
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update([v.node for v in node.inputs])
    graph.nodes = [n for n in graph.nodes if n in needed]
    return graph


def _gradients(b: Builder, graph: Graph, env: dict[Value, Value], cotangents: Sequence[Value | None], wrt: Sequence[Value]) -> list[Value]:
    """Emit `graph` and the gradients of its outputs with respect to `wrt`, zeros where there are none."""
    from treadle.ir.autodiff import backpropagate, replay  # imports the interpreter
    replay(b, graph, env)
    found = backpropagate(b, graph, env, cotangents, wrt)
    return [zeros(b, v.type) if g is None else g for v, g in zip(wrt, found, strict=True)]


@lru_cache(maxsize=512)
def region_gradient(graph: Graph) -> Graph:
    """(inputs, a gradient for each floating output) -> the gradient of each differentiable input."""
    b = Builder(Graph(f"{graph.name}_backward"))
    env = {v: b.input(v.type) for v in graph.inputs}
    given = [b.input(v.type) if _differentiable(v.type) else None for v in graph.outputs]
    b.graph.outputs = _gradients(b, graph, env, given, [v for v in graph.inputs if _differentiable(v.type)])
    return pruned(b.graph)


def _spread(found: Sequence[Any], types: Types) -> tuple[Any, ...]:
    """The gradients of the differentiable operands in their places, None elsewhere."""
    left = iter(found)
    return tuple([next(left) if _differentiable(t) else None for t in types])


def _given(g: Any) -> list[Any]:
    return [x for x in as_tuple(g) if x is not None]


# -- call and cond -------------------------------------------------------------------------------------------------------
def _call_type(types: Types, body: Graph) -> Types:
    _check_inputs("call", "the body", body, types)
    return tuple([v.type for v in body.outputs])


def _inlined(b: Any, *args: Any) -> tuple[Any, ...]:
    from treadle.ir.autodiff import replay  # imports the interpreter
    *operands, body = args
    env = dict(zip(body.inputs, operands, strict=True))
    replay(b, body, env)
    return tuple([env[v] for v in body.outputs])


def _call_vjp(b: Any, g: Any, operands: tuple[Any, ...], operand_types: Types, body: Graph) -> tuple[Any, ...]:
    return _spread(as_tuple(b.call(*operands, *_given(g), body=region_gradient(body))), operand_types)


def _cond_type(types: Types, then: Graph, orelse: Graph) -> Types:
    if types[0].dtype is not dtypes.bool_ or types[0].shape:
        raise RuntimeError(f"cond: expected the predicate to be a bool or a 0-d boolean tensor, but got {types[0]}")
    _check_inputs("cond", "the true branch", then, types[1:])
    _check_inputs("cond", "the false branch", orelse, types[1:])
    yes, no = [v.type for v in then.outputs], [v.type for v in orelse.outputs]
    if yes != no:
        raise RuntimeError(f"cond: the branches must return the same types, but the true branch returns {yes} and the false branch {no}")
    return tuple(yes)


def _np_cond(pred: np.ndarray, *rest: Any) -> tuple[np.ndarray, ...]:
    *xs, then, orelse = rest
    return tuple(_run(then if bool(pred) else orelse, xs))


def _cond_vjp(b: Any, g: Any, operands: tuple[Any, ...], operand_types: Types, then: Graph, orelse: Graph) -> tuple[Any, ...]:
    found = b.cond(*operands, *_given(g), then=region_gradient(then), orelse=region_gradient(orelse))
    return (None, *_spread(as_tuple(found), operand_types[1:]))


# -- while_loop ----------------------------------------------------------------------------------------------------------
def _while_type(types: Types, condition: Graph, body: Graph, n_carry: int) -> Types:
    _check_inputs("while_loop", "the condition", condition, types)
    _check_inputs("while_loop", "the body", body, types)
    kinds = [v.type for v in condition.outputs]
    if len(kinds) != 1 or kinds[0].dtype is not dtypes.bool_ or kinds[0].shape:
        raise RuntimeError(f"while_loop: the condition must return one 0-d boolean, but it returns {kinds}")
    if len(body.outputs) != n_carry:
        raise RuntimeError(f"while_loop: the body returns {len(body.outputs)} values for {n_carry} carries")
    _check_carries("while_loop", body, n_carry)
    return tuple(types[:n_carry])


def _np_while(*args: Any) -> tuple[np.ndarray, ...]:
    *xs, condition, body, n_carry = args
    carries, constants = list(xs[:n_carry]), xs[n_carry:]
    while bool(_run(condition, [*carries, *constants])[0]):
        carries = _run(body, [*carries, *constants])
    return tuple(carries)


# -- scan ----------------------------------------------------------------------------------------------------------------
def _scan_type(types: Types, body: Graph, n_carry: int, n_seq: int, length: int, reverse: bool) -> Types:
    slices = []
    for i, t in enumerate(types[n_carry:n_carry + n_seq]):
        if not t.shape or t.shape[0] != length:
            raise RuntimeError(f"scan: sequence {i} must have {length} steps on axis 0, but has shape {list(t.shape)}")
        slices.append(t.with_(t.shape[1:]))
    _check_inputs("scan", "the body", body, [*types[:n_carry], *slices, *types[n_carry + n_seq:]])
    if len(body.outputs) < n_carry:
        raise RuntimeError(f"scan: the body returns {len(body.outputs)} values for {n_carry} carries")
    _check_carries("scan", body, n_carry)
    return (*types[:n_carry], *[v.type.with_((length, *v.type.shape)) for v in body.outputs[n_carry:]])


def _np_scan(*args: Any) -> tuple[np.ndarray, ...]:
    *xs, body, n_carry, n_seq, length, reverse = args
    carries, sequences, constants = list(xs[:n_carry]), xs[n_carry:n_carry + n_seq], xs[n_carry + n_seq:]
    stacked = [np.zeros((length, *v.type.shape), v.dtype.np) for v in body.outputs[n_carry:]]
    for t in reversed(range(length)) if reverse else range(length):
        results = _run(body, [*carries, *[s[t] for s in sequences], *constants])
        carries = results[:n_carry]
        for out, value in zip(stacked, results[n_carry:], strict=True):
            out[t] = value
    return (*carries, *stacked)


@lru_cache(maxsize=512)
def _remembering(body: Graph, n_carry: int) -> Graph:
    """The body with the carries it was given as further outputs."""
    b = Builder(Graph(f"{body.name}_remembering"))
    from treadle.ir.autodiff import replay  # imports the interpreter
    env = {v: b.input(v.type) for v in body.inputs}
    replay(b, body, env)
    b.graph.outputs = [env[v] for v in [*body.outputs, *body.inputs[:n_carry]]]
    return b.graph


class _Backward(NamedTuple):
    """carries (gradients of carries, of constants), slices (carries, sequences, gradients of outputs), constants."""

    body: Graph
    n_carry: int
    n_seq: int


@lru_cache(maxsize=512)
def _backward_body(body: Graph, n_carry: int, n_seq: int) -> _Backward:
    carries, slices, constants = body.inputs[:n_carry], body.inputs[n_carry:n_carry + n_seq], body.inputs[n_carry + n_seq:]
    moving = [v for v in carries if _differentiable(v.type)]
    fixed = [v for v in constants if _differentiable(v.type)]
    read = [v for v in slices if _differentiable(v.type)]
    b = Builder(Graph(f"{body.name}_backward"))
    d_carries = {v: b.input(v.type) for v in moving}
    sums = [b.input(v.type) for v in fixed]
    env = {v: b.input(v.type) for v in [*carries, *slices]}
    d_outputs = [b.input(v.type) if _differentiable(v.type) else None for v in body.outputs[n_carry:]]
    env.update({v: b.input(v.type) for v in constants})
    found = _gradients(b, body, env, [*[d_carries.get(v) for v in carries], *d_outputs], [*moving, *fixed, *read])
    d_fixed = found[len(moving):len(moving) + len(fixed)]
    totals = [b.add(s, d) for s, d in zip(sums, d_fixed, strict=True)]
    b.graph.outputs = [*found[:len(moving)], *totals, *found[len(moving) + len(fixed):]]
    return _Backward(pruned(b.graph), len(moving) + len(fixed), n_carry + n_seq + sum(v is not None for v in d_outputs))


def _scan_vjp(b: Any, g: Any, operands: tuple[Any, ...], operand_types: Types, body: Graph, n_carry: int, n_seq: int, length: int,
              reverse: bool) -> tuple[Any, ...]:
    """Run again, remembering each step's carries; then a scan in the other direction, which adds up the constants' gradients."""
    g = as_tuple(g)
    again = b.scan(*operands, body=_remembering(body, n_carry), n_carry=n_carry, n_seq=n_seq, length=length, reverse=reverse)
    history = as_tuple(again)[len(body.outputs):]
    constants = operands[n_carry + n_seq:]
    start = _given(g[:n_carry]) + [zeros(b, t) for t in operand_types[n_carry + n_seq:] if _differentiable(t)]
    back = _backward_body(body, n_carry, n_seq)
    found = as_tuple(b.scan(*start, *history, *operands[n_carry:n_carry + n_seq], *_given(g[n_carry:]), *constants, body=back.body,
                            n_carry=back.n_carry, n_seq=back.n_seq, length=length, reverse=not reverse))
    moving = sum(_differentiable(t) for t in operand_types[:n_carry])
    d_carries, d_constants, d_sequences = found[:moving], found[moving:back.n_carry], found[back.n_carry:]
    return _spread([*d_carries, *d_sequences, *d_constants], operand_types)


# -- batches ---------------------------------------------------------------------------------------------------------------
def _repeated(c: BatchedCall, x: Any, flag: bool, shape: tuple[int, ...]) -> Any:
    return x if flag else c.b.expand(x, (c.size, *shape))


def _batch_cond(c: BatchedCall) -> Any:
    """A predicate for each example: both branches run, and a choice is made between their results."""
    pred, *xs = c.values
    then, orelse = c.attrs
    if not c.flags[0]:
        every = (True,) * len(then.outputs)
        branches = [region(g, c.flags[1:], every, c.size)[0] for g in (then, orelse)]
        return c.b.cond(pred, *xs, then=branches[0], orelse=branches[1])
    found = []
    for graph in (then, orelse):
        env: dict[Value, tuple[Any, bool]] = {v: (x, f) for v, x, f in zip(graph.inputs, xs, c.flags[1:], strict=True)}
        emit(c.b, graph, env, c.size)
        found.append([_repeated(c, *env[v], v.type.shape) for v in graph.outputs])
    return tuple([c.b.where(c.b.reshape(pred, (c.size,) + (1,) * len(t.shape)), yes, no)
                  for t, yes, no in zip(c.out_types, *found, strict=True)])


def _settled(body: Graph, flags: Flags, n_carry: int, size: int) -> Flags:
    """The inputs' flags when a carry that becomes batched is batched from the start."""
    while True:
        found = region(body, flags, None, size)[1]
        after = tuple([a or f for a, f in zip(flags, found[:n_carry], strict=False)])
        if after == flags[:n_carry]:
            return flags
        flags = after + flags[n_carry:]


def _batch_while(c: BatchedCall) -> Any:
    """With a condition for each example the loop goes on while any holds, and examples that are done keep their carries."""
    condition, body, n_carry = c.attrs
    flags = _settled(body, c.flags, n_carry, c.size)
    if any(region(condition, flags, None, c.size)[1]):
        flags = (True,) * n_carry + flags[n_carry:]
    wanted, (one,) = region(condition, flags, None, c.size)
    step = region(body, flags, flags[:n_carry], c.size)[0]
    if one:
        wanted, step = _while_any(wanted, step, n_carry)
    values = [_repeated(c, x, f or not wants, t.shape) for x, f, wants, t in zip(c.values, c.flags, flags, c.types, strict=True)]
    found = as_tuple(c.b.while_loop(*values, condition=wanted, body=step, n_carry=n_carry))
    return tuple([_repeated(c, x, f, t.shape) for x, f, t in zip(found, flags, c.types, strict=False)])


@lru_cache(maxsize=512)
def _while_any(condition: Graph, body: Graph, n_carry: int) -> tuple[Graph, Graph]:
    from treadle.ir.autodiff import replay  # imports the interpreter
    test, step = Builder(Graph(f"{condition.name}_any")), Builder(Graph(f"{body.name}_where"))
    env: dict[Value, Any] = {v: test.input(v.type) for v in condition.inputs}
    replay(test, condition, env)
    test.graph.outputs = [test.any(env[condition.outputs[0]], (0,), False)]
    given = [step.input(v.type) for v in body.inputs]
    env = dict(zip(condition.inputs, given, strict=True))
    replay(step, condition, env)
    going = env[condition.outputs[0]]
    env = dict(zip(body.inputs, given, strict=True))
    replay(step, body, env)
    size = going.type.shape[0]
    step.graph.outputs = [step.where(step.reshape(going, (size,) + (1,) * (len(old.type.shape) - 1)), env[v], old)
                          for v, old in zip(body.outputs, given[:n_carry], strict=True)]
    return test.graph, step.graph


def _batch_scan(c: BatchedCall) -> Any:
    """The batch is an axis of the carries and of each step's slices."""
    body, n_carry, n_seq, length, reverse = c.attrs
    flags = _settled(body, c.flags, n_carry, c.size)
    step, found = region(body, flags, flags[:n_carry] + (False,) * (len(body.outputs) - n_carry), c.size)
    values = []
    for i, (x, t) in enumerate(zip(c.values, c.types, strict=True)):
        x = _repeated(c, x, c.flags[i] or not flags[i], t.shape)
        values.append(c.b.permute(x, (1, 0, *range(2, 1 + t.ndim))) if n_carry <= i < n_carry + n_seq and flags[i] else x)
    results = as_tuple(c.b.scan(*values, body=step, n_carry=n_carry, n_seq=n_seq, length=length, reverse=reverse))
    types = c.out_types
    return tuple([_repeated(c, x, f, t.shape) if i < n_carry or not f else c.b.permute(x, (1, 0, *range(2, 1 + t.ndim)))
                  for i, (x, f, t) in enumerate(zip(results, found, types, strict=True))])


# -- declarations ----------------------------------------------------------------------------------------------------------
def _sample_bodies() -> tuple[Graph, Graph, Graph, Graph]:
    """Small regions on float32 vectors of 3: a scan step, two branches, and a loop condition."""
    row, count = tensor_type((3,), dtypes.float32), tensor_type((), dtypes.int64)
    step, twice, wave, below = [Builder(Graph(n)) for n in ("step", "twice", "wave", "below")]
    h, x, w = [step.input(row) for _ in range(3)]
    new = step.tanh(step.add(step.mul(h, w), x))
    step.graph.outputs = [new, step.mul(new, x)]
    x = twice.input(row)
    twice.graph.outputs = [twice.mul(x, 2.0)]
    x = wave.input(row)
    wave.graph.outputs = [wave.sin(x)]
    i = below.input(count)
    below.graph.outputs = [below.lt(i, 5)]
    return step.graph, twice.graph, wave.graph, below.graph


def _counting() -> Graph:
    b = Builder(Graph("count"))
    b.graph.outputs = [b.add(b.input(tensor_type((), dtypes.int64)), 2)]
    return b.graph


_STEP, _TWICE, _WAVE, _BELOW = _sample_bodies()
declare("call", Kind.CONTROL, "xs*", "body", field=Field.COMPLEX, type_rule=_call_type, decompose=_inlined, vjp=_call_vjp,
        samples=[(((3,),), (_WAVE,))], doc="The results of a graph, which takes the call's place when it is decomposed.")
declare("cond", Kind.CONTROL, "pred xs*", "then orelse", field=Field.COMPLEX, batch=_batch_cond,
        type_rule=_cond_type, reference=_np_cond, vjp=_cond_vjp,
        samples=[((np.array(True), (3,)), (_TWICE, _WAVE)), ((np.array(False), (3,)), (_TWICE, _WAVE))],
        doc="The results of one of two graphs; only the chosen one runs.")
declare("while_loop", Kind.CONTROL, "xs*", "condition body n_carry", field=Field.COMPLEX, batch=_batch_while,
        type_rule=_while_type, reference=_np_while, differentiable=False,
        samples=[((np.array(0),), (_BELOW, _counting(), 1))], doc="Repeats the body on the carries while the condition holds. No gradient.")
declare("scan", Kind.CONTROL, "xs*", "body n_carry n_seq length reverse", field=Field.COMPLEX, batch=_batch_scan,
        type_rule=_scan_type, reference=_np_scan, vjp=_scan_vjp,
        samples=[(((3,), (4, 3), (3,)), (_STEP, 1, 1, 4, False)), (((3,), (4, 3), (3,)), (_STEP, 1, 1, 4, True)),
                 (((3,), (0, 3), (3,)), (_STEP, 1, 1, 0, False))],
        doc="Runs the body once per step of axis 0 of the sequences, from the end if `reverse`: (final carries..., stacked outputs...).")
