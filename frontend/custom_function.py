"""`autograd.Function`: differentiable operations with a user's own backward."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle import anomaly
from treadle.autograd import edge_of
from treadle.ir.dtypes import FLOAT
from treadle.runtime import recorder
from treadle.runtime.recorder import STATE, Wrapped
from treadle.tape import Edge, next_sequence
from treadle.tensor import Tensor, alias, read, wrap


class Context:
    """What `forward` leaves for `backward`: `save_for_backward`, `saved_tensors`, `needs_input_grad`, and any attribute."""

    def __init__(self) -> None:
        self._saved: tuple[Any, ...] = ()
        self._versions: list[Any] = []
        self._not_differentiable: tuple[Tensor, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True
        self.needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self._saved = tensors
        self._versions = [t._data if isinstance(t, Tensor) else None for t in tensors]

    def save_for_forward(self, *tensors: Any) -> None:
        """What `jvp` will ask for; it may be what `backward` does."""
        self.save_for_backward(*tensors)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        for t, data in zip(self._saved, self._versions, strict=True):
            if data is not None and (data.stale or (read(t) is not data and t._storage is not None)):
                raise RuntimeError("one of the variables needed for gradient computation has been modified by an inplace operation: "
                                   f"{t._data.type} saved by save_for_backward")
        return self._saved

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        self._not_differentiable = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        self._materialize = value


class FunctionNode:
    """A custom function on the tape: calls the user's `backward`."""

    __slots__ = ("__weakref__", "context", "edges", "function", "hooks", "out_types", "released", "retained", "sequence", "where")

    def __init__(self, function: type, context: Context, edges: tuple[Edge, ...], out_types: tuple[Any, ...]) -> None:
        self.function = function
        self.context = context
        self.edges = edges
        self.out_types = out_types
        self.hooks: Any = None
        self.retained: Any = None
        self.released = False
        self.sequence = next_sequence()
        self.where = recorder.user_location() if recorder.apart else None

    def name(self) -> str:
        return f"{self.function.__name__}Backward"

    @property
    def next_functions(self) -> tuple[Any, ...]:
        return tuple([(None, 0) if e is None else e for e in self.edges])

    def release(self) -> None:
        self.released = True

    def gradients(self, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
        if self.released:
            raise RuntimeError("Trying to backward through the graph a second time. Specify retain_graph=True if you need to.")
        if self.context._materialize:
            from treadle.creation import zeros
            grads = [zeros(t.shape, dtype=t.dtype) if g is None else g for g, t in zip(grads, self.out_types, strict=True)]
        found = self.function.backward(self.context, *grads)  # type: ignore[attr-defined]
        found = found if isinstance(found, tuple) else (found,)
        if len(found) < len(self.edges) or any(g is not None for g in found[len(self.edges):]):
            raise RuntimeError(f"function {self.name()} returned an incorrect number of gradients "
                               f"(expected {len(self.edges)}, got {len(found)})")
        if recorder.apart:
            anomaly.look(self, found[:len(self.edges)])
        return found[:len(self.edges)]


class Function:
    """Base class of custom differentiable functions.

    Subclasses define static methods `forward(ctx, *args)` and `backward(ctx, *grads)` (one gradient, or None, per argument);
    or `forward(*args)` with `setup_context(ctx, inputs, output)`. Use it as `MyFunction.apply(*args)`. For transforms of functions:
    `jvp(ctx, *tangents)`, and `vmap(info, in_dims, *args) -> (results, out_dims)` or the flag `generate_vmap_rule`.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("You must implement either the backward or vjp method for your custom autograd.Function to use it "
                                  "with backward mode AD.")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        if any([isinstance(a, Tensor) and (trace := read(a).trace).__class__ is Wrapped and not trace.level.composed for a in args]):
            from treadle.custom_levels import apply_in_level
            return apply_in_level(cls, args, kwargs)
        context = Context()
        edges = tuple([edge_of(a) for a in args])
        context.needs_input_grad = tuple([e is not None for e in edges])
        result = run_function(cls, context, args, kwargs)
        if not STATE.here.grad or all(e is None for e in edges):
            return result
        return attach_function(cls, context, edges, result, args)


def run_function(cls: Any, context: Context, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of `forward`, off the tape; the context gets what `backward` will ask for."""
    state = STATE.here
    before, state.grad = state.grad, False
    try:
        if "setup_context" not in dir(cls):
            return cls.forward(context, *args, **kwargs)
        result = cls.forward(*args, **kwargs)
        cls.setup_context(context, tuple(args), result)
        return result
    finally:
        state.grad = before


def attach_function(function: type, context: Context, edges: tuple[Edge, ...], result: Any, args: Sequence[Any]) -> Any:
    """Put the results of a custom function on the tape."""
    several = isinstance(result, tuple)
    results = list(result) if several else [result]
    tensors = [t for t in results if isinstance(t, Tensor)]
    node: Any = FunctionNode(function, context, edges, tuple([read(t).type for t in tensors]))
    out = []
    for t in results:
        if isinstance(t, Tensor):
            index = next(i for i, other in enumerate(tensors) if other is t)
            if any(t is a for a in args) and not any(t is d for d in context._dirty):
                t = alias(t)
                t._detached = False
            elif t._node is not None or t._requires_grad:
                t = t if any(t is d for d in context._dirty) else wrap(read(t))
            if read(t).type.dtype.category >= FLOAT and not any(t is n for n in context._not_differentiable):
                t._node, t._out = node, index
        out.append(t)
    return tuple(out) if several else out[0]


def once_differentiable(function: Any) -> Any:
    """Decorator of `backward` methods that cannot be differentiated again: who tries gets a RuntimeError."""
    def wrapped(ctx: Any, *grads: Any) -> Any:
        state = STATE.here
        before, state.grad = state.grad, False
        try:
            found = function(ctx, *grads)
        finally:
            state.grad = before
        if not before or not any(isinstance(g, Tensor) and g.requires_grad for g in grads):
            return found
        several = isinstance(found, tuple)
        guarded = [_Once.apply(g, *grads) if isinstance(g, Tensor) and g.dtype.category >= FLOAT else g
                   for g in (found if several else (found,))]
        return tuple(guarded) if several else guarded[0]
    return staticmethod(wrapped)


class _Once(Function):
    """A gradient that depends on others in a way that nobody knows how to differentiate."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *others: Any) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")
