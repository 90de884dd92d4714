"""`checkpoint`: keep no intermediate values of a part of the network, compute them again in the backward pass.

The part is recorded on the tape as ever, and then its nodes let go of what they saved. The first of them that the backward pass reaches
runs the function again, on the same random numbers, and each node takes what the node saved that this run left in its place. So
gradients arrive wherever they would without it: at arguments, at what the function reads from outside, and in `autograd.grad`.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import treadle
from treadle.random import default_generator
from treadle.runtime.recorder import STATE
from treadle.tape import GradNode, LeafNode, next_sequence
from treadle.tensor import Tensor, read
from treadle.utils._pytree import tree_leaves

Contexts = tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]
_EMPTY: tuple[Any, ...] = ()


class CheckpointError(RuntimeError):
    """The function did something else when it was run again."""


def noop_context_fn() -> Contexts:
    """Contexts that do nothing, for the first run and for the second."""
    return contextlib.nullcontext(), contextlib.nullcontext()


def _recorded(result: Any, since: int) -> list[GradNode]:
    """The nodes of ops recorded since, from which `result` follows, in order; those of a checkpoint inside are left to it."""
    stack = [x._edge[0] for x in tree_leaves(result) if isinstance(x, Tensor) and x._edge is not None]
    seen = set(stack)
    found = []
    while stack:
        node = stack.pop()
        if node.__class__ is LeafNode or node.sequence < since:
            continue
        if node.__class__ is GradNode and node.saved is not _EMPTY:
            found.append(node)
        for edge in node.edges:
            if edge is not None and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return sorted(found, key=lambda node: node.sequence)


class _Again:
    """A run of a function, to be repeated when the backward pass asks one of its nodes for what it saved."""

    def __init__(self, function: Callable[[], Any], context: Any, keep_stream: bool, check: bool, inputs: Sequence[Any]) -> None:
        self.function, self.context, self.check = function, context, check
        self.stream = (default_generator._seed, default_generator._offset) if keep_stream else None
        self.autocast = STATE.here.autocast
        self.inputs = [(x, read(x)) for x in inputs if isinstance(x, Tensor)]
        self.nodes: list[GradNode] = []

    def watch(self, nodes: list[GradNode]) -> None:
        """Empty the nodes, and wait for the first gradient that reaches one."""
        self.nodes = nodes
        for node in nodes:
            node.saved, node.outs, node.versions = _EMPTY, (), None
            node.hooks = node.hooks or {}
            for i in node.keep.flows:
                hooks = node.hooks.setdefault(i, {})
                hooks[max(hooks, default=-1) + 1] = self.refill

    def refill(self, grad: Any) -> None:
        nodes, self.nodes = self.nodes, []
        if not nodes:
            return
        if any(read(x) is not data and data.stale for x, data in self.inputs):
            raise RuntimeError("torch.utils.checkpoint: an argument has been modified by an inplace operation since the forward pass: the "
                               "function cannot be run again on it")
        start = next_sequence()
        with self._conditions(), self.context, treadle.enable_grad():
            again = _recorded(self.function(), start)
        same = len(again) == len(nodes) and all(a.op is b.op for a, b in zip(again, nodes, strict=True))
        if not same or (self.check and any(a.step.types != b.step.types for a, b in zip(again, nodes, strict=True))):
            raise CheckpointError("torch.utils.checkpoint: A different number of tensors was saved during the original forward and "
                                  f"recomputation: {len(nodes)} differentiable operations were recorded, then {len(again)}, or others.")
        for node, other in zip(nodes, again, strict=True):
            node.saved, node.outs, node.versions = other.saved, other.outs, other.versions

    @contextlib.contextmanager
    def _conditions(self) -> Any:
        """The random numbers and the precision of the first run."""
        state, here = STATE.here, (default_generator._seed, default_generator._offset)
        autocast, state.autocast = state.autocast, self.autocast
        if self.stream is not None:
            default_generator._seed, default_generator._offset = self.stream
        try:
            yield
        finally:
            state.autocast = autocast
            if self.stream is not None:
                default_generator._seed, default_generator._offset = here


def checkpoint(function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None, context_fn: Callable[[], Any] = noop_context_fn,
               determinism_check: str = "default", debug: bool = False, early_stop: bool = True, preserve_rng_state: bool = True,
               **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, whose intermediate values are computed again when gradients are wanted.

    preserve_rng_state: the second run draws the first one's random numbers. context_fn: makes the contexts of the two runs.
    determinism_check: "default" compares what the two runs record in shape and dtype, "none" does not. Both kinds of PyTorch's checkpoints
    are one here: `use_reentrant` says which arguments are refused, as there (ValueError); `debug` and `early_stop` change nothing.
    CheckpointError in the backward pass when the second run records something else.
    """
    if use_reentrant and kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    if use_reentrant and (context_fn is not noop_context_fn or debug):
        raise ValueError("Passing `context_fn` or `debug` is only supported when use_reentrant=False.")
    if determinism_check not in ("default", "none"):
        raise ValueError(f"determinism_check should be one of 'default', 'none', got {determinism_check}")
    if not treadle.is_grad_enabled():
        return function(*args, **kwargs)
    first, second = context_fn()
    again = _Again(lambda: function(*args, **kwargs), second, preserve_rng_state, determinism_check == "default",
                   tree_leaves((args, kwargs)))
    start = next_sequence()
    with first:
        result = function(*args, **kwargs)
    again.watch(_recorded(result, start))
    return result


def checkpoint_sequential(functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any) -> Any:
    """A Sequential (or list of modules) in `segments` parts, each checkpointed but the last."""
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    layers = list(functions.children()) if isinstance(functions, treadle.nn.Module) else list(functions)
    size = max(1, len(layers) // segments)

    def part(chosen: Sequence[Any]) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for layer in chosen:
                x = layer(x)
            return x
        return run
    starts = [i * size for i in range(segments)]
    for i, start in enumerate(starts[:-1]):
        input = checkpoint(part(layers[start:starts[i + 1]]), input, use_reentrant=use_reentrant, preserve_rng_state=preserve)
    return part(layers[starts[-1]:])(input)


__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential", "noop_context_fn"]
