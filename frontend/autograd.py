"""Reverse-mode differentiation: a tape of recorded ops, walked backwards with the op table's vjp rules.

The rules run through the same recorder as everything else, so gradients are IR, fuse with the forward pass, and can be
differentiated again.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from treadle import tensor as _tensor
from treadle.ir import op as op_table
from treadle.ir.autodiff import operand_gradients
from treadle.ir.dtypes import FLOAT
from treadle.ir.op import Op, VjpRule
from treadle.ir.ops.view import sum_to
from treadle.ir.types import TensorType
from treadle.runtime.recorder import STATE, Data, Step
from treadle.tensor import EMITTER, Tensor, apply, read, wrap

CAST = op_table.get("cast")
Edge = tuple[Any, int] | None  # (GradNode or LeafNode, which of its outputs)


class GradNode:
    """One differentiable op that was recorded: where its gradients go, and the values its rules ask for.

    `step` is the trie node of the op: it knows op, attributes and types, so that the tape need not copy them.
    """

    __slots__ = ("__weakref__", "edges", "hooks", "keep", "operands", "outs", "released", "retained", "step", "versions")

    def __init__(self, step: Step, keep: _Keep, edges: tuple[Edge, ...], operands: list[Any], outs: tuple[Data, ...],
                 versions: Any) -> None:
        self.step = step
        self.keep = keep
        self.edges = edges
        self.operands = operands
        self.outs = outs
        self.versions = versions
        self.hooks: dict[int, dict[int, Any]] | None = None
        self.retained: dict[int, Any] | None = None
        self.released = False

    @property
    def op(self) -> Op:
        op: Op = self.step.key[0]
        return op

    @property
    def out_types(self) -> tuple[TensorType, ...]:
        return self.step.types

    def name(self) -> str:
        return "".join(part.capitalize() for part in self.op.name.split("_")) + "Backward0"

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        return tuple([(None, 0) if e is None else e for e in self.edges])

    def release(self) -> None:
        """Let go of saved values after a backward pass without `retain_graph`."""
        self.operands = []
        self.outs = ()
        self.released = True

    def operand(self, i: int) -> Any:
        """Saved operand `i` as a tensor with its place on the tape; a number as it is."""
        value = self.operands[i]
        if value.__class__ is not Data:
            return value
        if value.stale or self.versions:
            _check_fresh(value, self, self.versions and self.versions[i])
        t = wrap(value)
        edge = self.edges[i]
        if edge is not None:
            if edge[0].__class__ is LeafNode:
                return edge[0].tensor if edge[0].tensor._data is value else t
            t._node, t._out = edge
        return t

    def out(self, i: int) -> Any:
        """Saved result `i` as a tensor."""
        value = self.outs[i]
        if value.stale:
            _check_fresh(value, self, None)
        t = wrap(value)
        t._node, t._out = self, i
        return t

    def gradients(self, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
        """Gradients of the operands that need one, given those of the results."""
        if self.released:
            raise RuntimeError("Trying to backward through the graph a second time (or directly access saved tensors after they have "
                               "already been freed). Specify retain_graph=True if you need to backward through the graph a second time.")
        if self.keep.rules is None:
            return self._general(grads)
        step = self.step
        types = step.operand_types
        found: list[Tensor | None] = [None] * len(types)
        for i, rule in self.keep.rules:
            args = [self._argument(kind, k) for kind, k in rule.needs]
            g = rule.function(EMITTER, grads[0], *args)
            if g is not None:
                have, want = g._data.type, types[i]
                if have.shape != want.shape:
                    g = sum_to(EMITTER, g, want.shape)
                found[i] = g if have.dtype is want.dtype else apply(CAST, (g,), (want.dtype,))
        return found

    def _argument(self, kind: str, k: int) -> Any:
        if kind == "operand":
            return self.operand(k)
        if kind == "out":
            return self.out(0)
        if kind == "attr":
            return self.step.key[1][k]
        if kind == "operand_type":
            return self.step.operand_types[k]
        return self.step.types[0]

    def _general(self, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
        """Several results, or one rule for all operands."""
        outs = [self.out(i) for i in range(len(self.outs))] or [None] * len(self.step.types)
        operands = [self.operand(i) for i in range(len(self.operands))]
        wanted = tuple([e is not None for e in self.edges])
        step = self.step
        return operand_gradients(EMITTER, self.op, step.key[1], operands, step.operand_types, outs, step.types, grads, wanted)


class LeafNode:
    """Where a leaf's gradient arrives: accumulates into `tensor.grad`."""

    __slots__ = ("tensor",)
    edges: tuple[Edge, ...] = ()

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def name(self) -> str:
        return "AccumulateGrad"

    @property
    def variable(self) -> Tensor:
        return self.tensor


def _check_fresh(value: Data, node: GradNode, version: Any) -> None:
    stale = value.stale
    if stale.__class__ is weakref.ref and stale() is node:
        stale = False
    if stale or (version and version[0].version != version[1]):
        kind = f"treadle.{value.type.dtype.name} {list(value.type.shape)}"
        raise RuntimeError(f"one of the variables needed for gradient computation has been modified by an inplace operation: "
                           f"[{kind}], an operand or result of {node.op.name}. "
                           "Hint: enable anomaly detection, or clone() before the write.")


class _Keep:
    """What the tape keeps of an op, given which operands need a gradient.

    operands: indices, None for all; outs: whether the results; rules: (operand, rule) pairs when every wanted operand has a rule
    of its own and there is one result, else None; flows: the results gradients flow through.
    """

    __slots__ = ("flows", "operands", "outs", "rules")

    def __init__(self, step: Step, wanted: tuple[bool, ...]) -> None:
        op: Op = step.key[0]
        single = len(step.types) == 1 and not isinstance(op.rules, VjpRule)
        self.flows = [i for i, t in enumerate(step.types) if t.dtype.category == FLOAT]
        chosen: list[tuple[int, VjpRule]] = []
        if isinstance(op.rules, VjpRule):
            chosen = [(0, op.rules)]
        elif op.rules:
            last = len(op.rules) - 1
            pairs = [(i, op.rules[min(i, last)]) for i, want in enumerate(wanted) if want and step.operand_types[i].dtype.category == FLOAT]
            chosen = [(i, rule) for i, rule in pairs if rule is not None]
        needs = [need for _, rule in chosen for need in rule.needs]
        starred = bool(op.operands) and op.operands[-1].endswith("*")
        every = any(kind == "operands" for kind, _ in needs) or (starred and any(kind == "operand" for kind, _ in needs))
        self.operands = None if every else frozenset([i for kind, i in needs if kind == "operand"])
        self.outs = any(kind == "out" for kind, _ in needs)
        self.rules = chosen if single and not starred and not any(kind in ("operands", "operand_types") for kind, _ in needs) else None


def edge_of(x: Any) -> Edge:
    """Where the gradient of `x` goes, or None."""
    if not isinstance(x, Tensor):
        return None
    if x._node is not None:
        return x._node, x._out
    return (LeafNode(x), 0) if x._requires_grad else None


def attach(step: Step, inputs: Sequence[Any], datas: list[Any], results: tuple[Tensor, ...]) -> None:
    """Put a recorded op on the tape."""
    edges: list[Edge] = []
    versions: list[Any] | None = None
    wanted = 0
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor):
            if x._node is not None:
                edges.append((x._node, x._out))
                wanted |= 1 << i
            elif x._requires_grad:
                edges.append((LeafNode(x), 0))
                wanted |= 1 << i
            else:
                edges.append(None)
            if x._chain and x._storage is not None:
                versions = versions or [None] * len(datas)
                versions[i] = (x._storage, x._storage.version)
        else:
            edges.append(None)
    keep = step.tape.get(wanted)
    if keep is None:
        keep = step.tape[wanted] = _Keep(step, tuple([e is not None for e in edges]))
    if not keep.flows:
        return
    kept = keep.operands
    operands = datas if kept is None else [d if i in kept or d.__class__ is not Data else None for i, d in enumerate(datas)]
    node = GradNode(step, keep, tuple(edges), operands, tuple([t._data for t in results]) if keep.outs else (), versions)
    for i in keep.flows:
        results[i]._node, results[i]._out = node, i


_tensor.ATTACH = attach


def WATCHED(hook: Any) -> Any:
    """Replaced by `treadle.compilation.watch`: a hook called inside a captured call is part of it."""
    return hook


# -- the backward walk ---------------------------------------------------------------------------------------------------
class _Walk:
    """One backward pass: gradients waiting at nodes, and how many consumers each node still waits for."""

    def __init__(self, create_graph: bool) -> None:
        self.create_graph = create_graph
        self.pending: dict[Any, list[Tensor | None]] = {}
        self.leaves: dict[int, tuple[Tensor, Tensor]] = {}

    def give(self, edge: tuple[Any, int], grad: Tensor) -> None:
        node, out = edge
        if node.__class__ is LeafNode:
            leaf = node.tensor
            have = self.leaves.get(id(leaf))
            self.leaves[id(leaf)] = (leaf, grad if have is None else apply(op_table.TABLE["add"], (have[1], grad)))
            return
        slots = self.pending.get(node)
        if slots is None:
            slots = self.pending[node] = [None] * len(node.out_types)
        slots[out] = grad if slots[out] is None else apply(op_table.TABLE["add"], (slots[out], grad))


def _order(roots: list[Any]) -> list[Any]:
    """Nodes reachable from `roots`, every consumer before its producers. Iterative: depth does not matter."""
    waiting: dict[Any, int] = {}
    stack = list(dict.fromkeys(roots))
    seen = set(stack)
    while stack:
        node = stack.pop()
        for edge in node.edges:
            if edge is not None and edge[0].__class__ is not LeafNode:
                target = edge[0]
                waiting[target] = waiting.get(target, 0) + 1
                if target not in seen:
                    seen.add(target)
                    stack.append(target)
    ready = [n for n in dict.fromkeys(roots) if not waiting.get(n)]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for edge in node.edges:
            if edge is not None and edge[0].__class__ is not LeafNode:
                waiting[edge[0]] -= 1
                if not waiting[edge[0]]:
                    ready.append(edge[0])
    return order


def _useful(order: list[Any], targets: set[Any]) -> set[Any]:
    """Nodes through which a gradient can reach one of `targets` (nodes, or ids of leaf tensors)."""
    useful: set[Any] = set()
    for node in reversed(order):
        if node in targets:
            useful.add(node)
        for edge in node.edges:
            if edge is not None and (edge[0] in useful or (edge[0].__class__ is LeafNode and id(edge[0].tensor) in targets)):
                useful.add(node)
                break
    return useful


def run_backward(tensors: Sequence[Tensor], grads: Sequence[Tensor | None], retain_graph: bool, create_graph: bool,
                 inputs: Sequence[Tensor] | None = None) -> _Walk:
    """Walk the tape from `tensors`. With `inputs`, only what leads to them is computed; else all leaves are reached."""
    walk = _Walk(create_graph)
    roots = []
    state = STATE.here
    before = state.grad
    state.grad = create_graph
    try:
        for t, g in zip(tensors, grads, strict=True):
            seed = _seed(t, g)
            edge = edge_of(t)
            if edge is None:
                raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
            walk.give(edge, seed)
            if edge[0].__class__ is not LeafNode:
                roots.append(edge[0])
        order = _order(roots)
        useful = None
        captured: dict[tuple[Any, int], Tensor] = {}
        if inputs is not None:
            targets: set[Any] = {id(t) if t._node is None else t._node for t in inputs}
            useful = _useful(order, targets)
            captured = {(t._node, t._out): t for t in inputs if t._node is not None}
        for node in order:
            _visit(walk, node, useful, captured, retain_graph)
    finally:
        state.grad = before
    return walk


def _visit(walk: _Walk, node: Any, useful: set[Any] | None, captured: dict[tuple[Any, int], Tensor], retain_graph: bool) -> None:
    grads = walk.pending.pop(node, None)
    if grads is None or all(g is None for g in grads):
        return
    if useful is not None and node not in useful:
        return
    _run_hooks(node, grads)
    for i, g in enumerate(grads):
        target = captured.get((node, i))
        if target is not None and g is not None:
            walk.leaves[id(target)] = (target, g)
    for edge, g in zip(node.edges, node.gradients(grads), strict=True):
        if edge is not None and g is not None:
            walk.give(edge, g)
    if not retain_graph:
        node.release()


def _run_hooks(node: Any, grads: list[Tensor | None]) -> None:
    if node.hooks:
        for i, hooks in node.hooks.items():
            for hook in list(hooks.values()):
                if grads[i] is not None:
                    replaced = WATCHED(hook)(grads[i])
                    if replaced is not None:
                        grads[i] = replaced
    if node.retained:
        for i, ref in node.retained.items():
            t = ref()
            if t is not None and grads[i] is not None:
                t._grad = grads[i] if t._grad is None else apply(op_table.TABLE["add"], (t._grad, grads[i]))


def _seed(t: Tensor, g: Tensor | None) -> Tensor:
    type = read(t).type
    if g is None:
        if type.numel != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        if type.dtype.category != FLOAT:
            raise RuntimeError(f"only Tensors of floating point dtype can require gradients, got {type.dtype.name}")
        return apply(op_table.TABLE["full"], (1.0,), (type.shape, type.dtype, type.device))
    if g._data.type.shape != type.shape:
        raise RuntimeError(f"Mismatch in shape: grad_output[0] has a shape of {list(g._data.type.shape)} "
                           f"and output[0] has a shape of {list(type.shape)}.")
    return g


def _listed(value: Any) -> list[Any]:
    return [value] if value is None or isinstance(value, Tensor) else list(value)


def backward(tensors: Any, grad_tensors: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
             inputs: Any = None) -> None:
    """Accumulate into `.grad` of the leaves the gradients of `tensors`, weighted by `grad_tensors` (ones for scalars)."""
    roots = _listed(tensors)
    grads = _listed(grad_tensors) if grad_tensors is not None else [None] * len(roots)
    keep = create_graph if retain_graph is None else retain_graph
    wanted = None if inputs is None else _listed(inputs)
    walk = run_backward(roots, grads, keep, create_graph, wanted)
    for leaf, grad in walk.leaves.values():
        if wanted is None or any(leaf is t for t in wanted):
            _accumulate(leaf, grad, create_graph)


def _accumulate(leaf: Tensor, grad: Tensor, create_graph: bool) -> None:
    state = STATE.here
    before, state.grad = state.grad, create_graph
    try:
        for hook in list((leaf._hooks or {}).values()):
            replaced = WATCHED(hook)(grad)
            grad = grad if replaced is None else replaced
        if leaf._grad is None:
            leaf._grad = grad if create_graph else wrap(read(grad))
        elif create_graph:
            leaf._grad = apply(op_table.TABLE["add"], (leaf._grad, grad))
        else:
            from treadle.tensor import assign
            assign(leaf._grad, apply(op_table.TABLE["add"], (leaf._grad, grad)), "backward")
        for hook in list(getattr(leaf, "_post_hooks", {}).values()):
            WATCHED(hook)(leaf)
    finally:
        state.grad = before


def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
         only_inputs: bool = True, allow_unused: bool | None = None, is_grads_batched: bool = False,
         materialize_grads: bool = False) -> tuple[Any, ...]:
    """Gradients of the sum of `outputs` (weighted by `grad_outputs`) with respect to `inputs`, without touching `.grad`."""
    roots, targets = _listed(outputs), _listed(inputs)
    grads = _listed(grad_outputs) if grad_outputs is not None else [None] * len(roots)
    for t in targets:
        if not t.requires_grad:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    keep = create_graph if retain_graph is None else retain_graph
    walk = run_backward(roots, grads, keep, create_graph, targets)
    results = []
    for t in targets:
        found = walk.leaves.get(id(t))
        if found is None and materialize_grads:
            type = t._data.type
            results.append(apply(op_table.TABLE["full"], (0.0,), (type.shape, type.dtype, type.device)))
        elif found is None and not allow_unused:
            raise RuntimeError("One of the differentiated Tensors appears to not have been used in the graph. "
                               "Set allow_unused=True if this is the desired behavior.")
        else:
            results.append(None if found is None else found[1])
    return tuple(results)


class Handle:
    """Removes a hook."""

    def __init__(self, hooks: dict[int, Any], key: int) -> None:
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        self._hooks.pop(self._key, None)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.remove()


def add_hook(hooks: dict[int, Any], hook: Callable[..., Any]) -> Handle:
    key = max(hooks, default=-1) + 1
    hooks[key] = hook
    return Handle(hooks, key)


def retain(t: Tensor) -> None:
    """Keep the gradient of a non-leaf in its `.grad`."""
    node = t._node
    if node is None:
        if not t._requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        return
    node.retained = node.retained or {}
    node.retained[t._out] = weakref.ref(t)
