"""`checkpoint`: keep no intermediate values of a part of the network, compute them again in the backward pass."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import treadle
from treadle import autograd
from treadle.custom_function import Function
from treadle.random import default_generator
from treadle.tensor import Tensor


class _Recomputed(Function):
    """Forward without a tape; backward runs the function again, on the same random numbers, and differentiates that."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], keep_stream: bool, *args: Any) -> Any:
        ctx.function, ctx.args = function, args
        ctx.stream = (default_generator._seed, default_generator._offset) if keep_stream else None
        result = function(*args)
        ctx.several = isinstance(result, tuple)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        here = default_generator._seed, default_generator._offset
        if ctx.stream is not None:
            default_generator._seed, default_generator._offset = ctx.stream
        try:
            with treadle.enable_grad():
                args = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in ctx.args]
                result = ctx.function(*args)
        finally:
            default_generator._seed, default_generator._offset = here
        outs = list(result) if ctx.several else [result]
        pairs = [(o, g) for o, g in zip(outs, grads, strict=True) if isinstance(o, Tensor) and o.requires_grad and g is not None]
        if pairs:
            autograd.backward([o for o, _ in pairs], [g for _, g in pairs])
        return (None, None, *[a.grad if isinstance(a, Tensor) else None for a in args])


def checkpoint(function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None, preserve_rng_state: bool = True,
               context_fn: Any = None, determinism_check: str = "default", debug: bool = False, early_stop: bool = True,
               **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, whose intermediate values are computed again when gradients are wanted.

    Parameters that the function reads from outside get their gradients too. `use_reentrant` and the rest are accepted and change nothing.
    """
    if not treadle.is_grad_enabled():
        return function(*args, **kwargs)
    anchor = treadle.zeros((), requires_grad=True)

    def run(_anchor: Any, *inner: Any) -> Any:
        return function(*inner, **kwargs)
    return _Recomputed.apply(run, preserve_rng_state, anchor, *args)


def checkpoint_sequential(functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any) -> Any:
    """A Sequential (or list of modules) in `segments` parts, each checkpointed but the last."""
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
        input = checkpoint(part(layers[start:starts[i + 1]]), input, **kwargs)
    return part(layers[starts[-1]:])(input)


__all__ = ["checkpoint", "checkpoint_sequential"]
