"""Reverse-mode differentiation: a tape of recorded ops, walked backwards with the op table's vjp rules.

The rules run through the same recorder as everything else, so gradients are IR, fuse with the forward pass, and can be
differentiated again.
"""
from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from treadle import tape
from treadle.emitter import EMITTER
from treadle.ir import op as op_table
from treadle.ir.autodiff import operand_gradients
from treadle.ir.dtypes import FLOAT
from treadle.ir.op import Kind
from treadle.ir.ops.view import sum_to
from treadle.runtime.recorder import STATE, Data, backward_done
from treadle.tape import Edge, GradNode, LeafNode, Single
from treadle.tensor import Tensor, apply, assign, read, wrap

CAST, SLICE = op_table.get("cast"), op_table.get("slice")
ADD: Callable[[Any, Any], Any] = EMITTER.add


# -- one node ------------------------------------------------------------------------------------------------------------
def _operand(node: GradNode, i: int) -> Any:
    """Saved operand `i` as a tensor with its place on the tape; a number as it is."""
    assert node.saved is not None
    value = node.saved[i]
    if value.__class__ is not Data:
        return value
    if value.stale or node.extra is not None:
        versions = node.versions
        _check_fresh(value, node, versions and versions[i], node.op.operands[min(i, len(node.op.operands) - 1)])
    edge = node.edges[i]
    if edge is not None and edge[0].__class__ is LeafNode:
        leaf = edge[0].owner()
        if leaf is not None and leaf._data is value:
            return leaf
    t = wrap(value)
    t._edge = edge
    return t


def _result(node: GradNode, i: int) -> Any:
    """Saved result `i` as a tensor."""
    value = node.outs[i]
    if value.stale:
        _check_fresh(value, node, None, "out")
    t = wrap(value)
    t._edge = (node, i)
    return t


def _differentiate(node: GradNode, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
    """Gradients of the operands that need one, given those of the results."""
    if node.saved is None:
        raise RuntimeError("Trying to backward through the graph a second time (or directly access saved tensors after they have "
                           "already been freed). Specify retain_graph=True if you need to backward through the graph a second time.")
    if node.keep.rules is None:
        return _general(node, grads)
    found: list[Tensor | None] = [None] * len(node.edges)
    for i, function, arguments, only, want in node.keep.rules:
        if only is None:
            g = function(EMITTER, grads[0], *[_argument(node, kind, k) for kind, k in arguments])
        elif only < 0:
            g = function(EMITTER, grads[0])
        else:
            g = function(EMITTER, grads[0], _operand(node, only))
        if g is not None:
            if g._data.type is not want:
                g = _fitted(g, want, node.edges[i])
            found[i] = g
    return found


def _fitted(g: Tensor, want: Any, edge: Edge) -> Tensor:
    """Undo broadcasting and promotion. The gradient of a parameter that is added to one sample is summed as that of many would be."""
    have = g._data.type
    whole = None
    if want.__class__ is Single:
        want, whole = want.type, _parameter_shape(edge)
    if whole is not None or have.shape != want.shape:
        g = sum_to(EMITTER, g, want.shape, whole)
    return g if have.dtype is want.dtype else apply(CAST, (g,), (want.dtype,))


def _parameter_shape(edge: Edge) -> tuple[int, ...] | None:
    """The shape of the parameter of a module, or the view of one, that the tensor is or is cut out of."""
    shape: tuple[int, ...] | None = None
    while edge is not None and edge[0].__class__ is GradNode and edge[0].op.kind is Kind.VIEW:
        if shape is None and edge[0].op is not SLICE:
            shape = edge[0].out_types[0].shape
        edge = edge[0].edges[0]
    leaf = edge[0].owner() if edge is not None and edge[0].__class__ is LeafNode else None
    if leaf is None or leaf.__class__ is Tensor:
        return None
    from treadle.nn.parameter import Parameter
    if not isinstance(leaf, Parameter):
        return None
    return leaf._data.type.shape if shape is None else shape


def _argument(node: GradNode, kind: str, k: Any) -> Any:
    return k if kind == "value" else _operand(node, k) if kind == "operand" else _result(node, 0)


def _general(node: GradNode, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
    """Several results, or one rule for all operands."""
    step = node.step
    outs = [_result(node, i) for i in range(len(node.outs))] or [None] * len(step.types)
    operands = [_operand(node, i) for i in range(len(node.edges))]
    wanted = tuple([e is not None for e in node.edges])
    return operand_gradients(EMITTER, node.op, step.key[1], operands, step.operand_types, outs, step.types, grads, wanted)


tape.DIFFERENTIATE = _differentiate


def _check_fresh(value: Data, node: GradNode, version: Any, name: str) -> None:
    """RuntimeError when a program wrote over a value that was kept, the operand `name` or a result, but where the op allows it."""
    stale = value.stale
    if stale.__class__ is weakref.ref and stale() is node:
        stale = False
    if (stale or (version and version[0].version != version[1])) and name not in node.op.rewritable.split():
        kind = f"treadle.{value.type.dtype.name} {list(value.type.shape)}"
        raise RuntimeError(f"one of the variables needed for gradient computation has been modified by an inplace operation: "
                           f"[{kind}], an operand or result of {node.op.name}. "
                           "Hint: enable anomaly detection, or clone() before the write.")


def edge_of(x: Any) -> Edge:
    """Where the gradient of `x` goes, or None."""
    return x._edge if isinstance(x, Tensor) else None


def WATCHED(hook: Any) -> Any:
    """Replaced by `treadle.compilation.watch`: a hook called inside a captured call is part of it."""
    return hook


# -- the backward walk ---------------------------------------------------------------------------------------------------
class Walk:
    """One backward pass: gradients waiting at nodes (one per result of the node), and those that arrived at leaves.

    Nodes wait in a heap, the one recorded last first: everything that used a node's results was recorded after it.
    """

    def __init__(self) -> None:
        self.pending: dict[Any, list[Tensor | None]] = {}
        self.heap: list[tuple[int, Any]] = []
        self.arrived: dict[Any, Tensor] = {}                       # by LeafNode
        self.captured: dict[tuple[Any, int], Tensor] = {}          # results of nodes whose gradients are asked for
        self.leaves: dict[int, tuple[Tensor, Tensor]] = {}         # by id of the tensor: it, and its gradient

    def give(self, edge: tuple[Any, int], grad: Tensor) -> None:
        node, out = edge
        if node.__class__ is LeafNode:
            have = self.arrived.get(node)
            self.arrived[node] = grad if have is None else ADD(have, grad)
            return
        slots = self.pending.get(node)
        if slots is None:
            slots = [None] * (node.keep.width if node.__class__ is GradNode else len(node.out_types))
            self.pending[node] = slots
            heapq.heappush(self.heap, (-node.sequence, node))
        have = slots[out]
        slots[out] = grad if have is None else ADD(have, grad)

    def finish(self) -> None:
        """Name the leaves that can still be looked at."""
        for node, grad in self.arrived.items():
            leaf = node.owner()
            if leaf is not None:
                self.leaves[id(leaf)] = (leaf, grad)

    def run(self, useful: set[Any] | None, retain_graph: bool) -> None:
        """Visit every node that a gradient reaches (and that is in `useful`), consumers before producers."""
        pending, heap, give = self.pending, self.heap, self.give
        while heap:
            node = heapq.heappop(heap)[1]
            grads = pending.pop(node)
            if useful is not None and node not in useful:
                continue
            if node.__class__ is not GradNode or node.extra is not None:
                _run_hooks(node, grads)
            if self.captured:
                self._capture(node, grads)
            for edge, g in zip(node.edges, node.gradients(grads), strict=True):
                if edge is not None and g is not None:
                    give(edge, g)
            if not retain_graph:
                node.release()

    def _capture(self, node: Any, grads: list[Tensor | None]) -> None:
        for i, g in enumerate(grads):
            target = self.captured.get((node, i))
            if target is not None and g is not None:
                self.leaves[id(target)] = (target, g)


def nodes_of(roots: Sequence[Any]) -> list[Any]:
    """Nodes reachable from `roots`, every consumer before its producers. Iterative: depth does not matter."""
    stack = list(roots)
    seen = set(stack)
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and edge[0].__class__ is not LeafNode and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return sorted(seen, key=lambda node: -node.sequence)


def _useful(roots: Sequence[Any], inputs: Sequence[Tensor]) -> set[Any]:
    """Nodes through which a gradient can reach one of `inputs`."""
    useful: set[Any] = set()
    targets = {t._edge[0] for t in inputs if t._edge is not None}
    for node in reversed(nodes_of(roots)):
        if node in targets or any(e is not None and (e[0] in useful or e[0] in targets) for e in node.edges):
            useful.add(node)
    return useful


def run_backward(tensors: Sequence[Tensor], grads: Sequence[Tensor | None], retain_graph: bool, create_graph: bool,
                 inputs: Sequence[Tensor] | None = None) -> Walk:
    """Walk the tape from `tensors`. With `inputs`, only what leads to them is computed; else all leaves are reached."""
    walk = Walk()
    roots = []
    state = STATE.here
    before = state.grad
    state.grad = create_graph
    try:
        for t, g in zip(tensors, grads, strict=True):
            seed = _seed(t, g)
            edge = t._edge
            if edge is None:
                raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
            walk.give(edge, seed)
            if edge[0].__class__ is not LeafNode:
                roots.append(edge[0])
        useful = None
        if inputs is not None:
            useful = _useful(roots, inputs)
            walk.captured = {t._edge: t for t in inputs if t._edge is not None and t._edge[0].__class__ is not LeafNode}
        walk.run(useful, retain_graph)
        walk.finish()
    finally:
        state.grad = before
    return walk


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
                t._grad = grads[i] if t._grad is None else ADD(t._grad, grads[i])


def _seed(t: Tensor, g: Tensor | None) -> Tensor:
    type = read(t).type
    if g is None:
        if type.numel != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        if type.dtype.is_complex:
            raise RuntimeError(f"grad can be implicitly created only for real scalar outputs but got {type.dtype!r}")
        if type.dtype.category != FLOAT:
            raise RuntimeError(f"only Tensors of floating point dtype can require gradients, got {type.dtype.name}")
        return apply(op_table.TABLE["full"], (1.0,), (type.shape, type.dtype, type.device))
    if g._data.type.shape != type.shape:
        raise RuntimeError(f"Mismatch in shape: grad_output[0] has a shape of {list(g._data.type.shape)} "
                           f"and output[0] has a shape of {list(type.shape)}.")
    if g._data.type.dtype.is_complex is not type.dtype.is_complex:
        raise RuntimeError(f"For complex Tensors, both grad_output and output are required to have the same dtype. Mismatch in dtype: "
                           f"grad_output[0] has a dtype of {g._data.type.dtype!r} and output[0] has a dtype of {type.dtype!r}.")
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
    if not create_graph:
        backward_done(STATE.here)


def _accumulate(leaf: Tensor, grad: Tensor, create_graph: bool) -> None:
    state = STATE.here
    before, state.grad = state.grad, create_graph
    try:
        for hook in list(leaf._hooks.values()) if leaf._hooks else ():
            replaced = WATCHED(hook)(grad)
            grad = grad if replaced is None else replaced
        if leaf._grad is None:
            leaf._grad = grad if create_graph else wrap(read(grad))
        elif create_graph:
            leaf._grad = ADD(leaf._grad, grad)
        else:
            total = ADD(leaf._grad, grad)
            if total._data.type.layout != leaf._grad._data.type.layout:
                leaf._grad = total
            else:
                assign(leaf._grad, total, "backward")
        hooks = leaf.__dict__.get("_post_hooks")
        for hook in list(hooks.values()) if hooks else ():
            WATCHED(hook)(leaf)
    finally:
        state.grad = before


def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
         only_inputs: bool = True, allow_unused: bool | None = None, is_grads_batched: bool = False,
         materialize_grads: bool = False) -> tuple[Any, ...]:
    """Gradients of the sum of `outputs` (weighted by `grad_outputs`) with respect to `inputs`, without touching `.grad`.

    is_grads_batched: the `grad_outputs` have a batch in front, and so have the results.
    """
    roots, targets = _listed(outputs), _listed(inputs)
    grads = _listed(grad_outputs) if grad_outputs is not None else [None] * len(roots)
    if is_grads_batched:
        return _for_each(roots, targets, grads, (retain_graph, create_graph, only_inputs, allow_unused, False, materialize_grads))
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


def _for_each(roots: list[Any], targets: list[Any], grads: list[Any], options: tuple[Any, ...]) -> tuple[Any, ...]:
    """`grad` for every entry of the first axis of the `grad_outputs`, all at once."""
    from treadle.vmapping import vmap
    missing: list[bool] = []

    def one(*given: Tensor) -> tuple[Any, ...]:
        found = grad(roots, targets, given, *options)
        missing[:] = [g is None for g in found]
        return tuple([g for g in found if g is not None])
    rest = iter(vmap(one, in_dims=tuple([None if g is None else 0 for g in grads]))(*grads))
    return tuple([None if absent else next(rest) for absent in missing])


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


def __getattr__(name: str) -> Any:
    if name in ("forward_ad", "function", "functional"):
        import importlib
        return importlib.import_module(f"treadle.autograd.{name}")
    if name == "profiler":  # its older place in PyTorch
        import treadle.profiler
        return treadle.profiler
    raise AttributeError(f"module 'treadle.autograd' has no attribute {name!r}")
