"""Custom functions (`autograd.Function`) on tensors of running transforms: vmap and forward mode.

Where nothing around the transform is differentiated, `forward` and `backward` are run as they are, on the transform's tensors. Else the
gradient that an enclosing derivative wants has to be the user's, too: by the function's own `vmap` or `jvp` rule, or a generated one.
"""
from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from treadle.custom_function import Context, Function, attach_function, run_function
from treadle.levels import EXPAND, Batching, Forward, Level, again, moved
from treadle.runtime.recorder import STATE, Wrapped
from treadle.tensor import Tensor, apply, read

_MORE = "For more details, please see https://pytorch.org/docs/main/notes/extending.func.html"


def _mark(x: Any) -> Wrapped | None:
    trace = read(x).trace if isinstance(x, Tensor) else None
    return trace if isinstance(trace, Wrapped) and not trace.level.composed else None


def _on_a_tape_below(x: Any) -> bool:
    """Whether what the tensor stands for is differentiated outside of its level; of a tensor of none it cannot be told."""
    mark = _mark(x)
    if mark is None:
        return isinstance(x, Tensor) and x._edge is not None
    while mark is not None:
        parts = [p for p in (mark.value, mark.tangent) if isinstance(p, Tensor)]
        if any(p._edge is not None for p in parts):
            return True
        mark = _mark(mark.value)
    return False


def apply_in_level(cls: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """`cls.apply` when some arguments belong to levels."""
    level: Level = max([m.level for a in args if (m := _mark(a)) is not None], key=lambda found: found.number)
    edges = tuple([a._edge if isinstance(a, Tensor) else None for a in args])
    state = STATE.here
    if isinstance(level, Forward):
        result = _with_tangents(cls, level, args, kwargs)
    elif "vmap" in dir(cls):
        result = _by_own_rule(cls, level, args)  # type: ignore[arg-type]
    elif state.grad and any(map(_on_a_tape_below, args)):
        result = _by_generated_rule(cls, level, args, kwargs)  # type: ignore[arg-type]
    else:
        context = Context()
        context.needs_input_grad = tuple([e is not None for e in edges])
        result = run_function(cls, context, args, kwargs)
        return attach_function(cls, context, edges, result, args) if state.grad and any(edges) else result
    if not state.grad or not any(edges):
        return result
    _need_setup(cls)
    context = Context()
    context.needs_input_grad = tuple([e is not None for e in edges])
    cls.setup_context(context, tuple(args), result)
    return attach_function(cls, context, edges, result, args)


def _need_setup(cls: Any) -> None:
    if "setup_context" not in dir(cls):
        raise RuntimeError("In order to use an autograd.Function with functorch transforms (vmap, grad, jvp, jacrev, ...), it must "
                           f"override the setup_context staticmethod. {_MORE}")


def _with_tangents(cls: Any, level: Forward, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if "jvp" not in dir(cls):
        raise NotImplementedError("You must implement the jvp function for custom autograd.Function to use it with forward mode AD.")
    marks = [level.of(a) for a in args]
    primals = [a if m is None else m.value for a, m in zip(args, marks, strict=True)]
    result = cls.apply(*primals, **kwargs)
    context = Context()
    if "setup_context" in dir(cls):
        cls.setup_context(context, tuple(primals), result)
    else:
        run_function(cls, context, primals, kwargs)
    tangents = cls.jvp(context, *[None if m is None else m.tangent for m in marks])
    if not isinstance(result, tuple):
        return level.wrap(result, read(result).type, tangents)
    return tuple([level.wrap(r, read(r).type, t) if isinstance(r, Tensor) else r for r, t in zip(result, tangents, strict=True)])


def _by_own_rule(cls: Any, level: Batching, args: Sequence[Any]) -> Any:
    marks = [level.of(a) for a in args]
    in_dims = tuple([None if m is None else 0 for m in marks])
    info = SimpleNamespace(batch_size=level.size, randomness=level.randomness)
    found, out_dims = cls.vmap(info, in_dims, *[a if m is None else m.value for a, m in zip(args, marks, strict=True)])
    if not isinstance(found, tuple):
        return _example(level, found, out_dims)
    dims = out_dims if isinstance(out_dims, tuple | list) else (out_dims,) * len(found)
    return tuple([_example(level, r, d) for r, d in zip(found, dims, strict=True)])


def _example(level: Batching, x: Any, dim: int | None) -> Any:
    if dim is None or not isinstance(x, Tensor):
        return x
    whole = moved(x, dim % x.dim(), 0)
    type = whole._data.type
    return level.wrap(whole, type.with_(type.shape[1:]))


def _together(level: Batching, x: Any) -> Any:
    """All examples of `x`."""
    mark = level.of(x)
    return mark.value if mark is not None else apply(EXPAND, (x,), ((level.size, *x._data.type.shape),))


def _by_generated_rule(cls: Any, level: Batching, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A function of all examples, whose forward and backward are the given ones inside a level of their own."""
    _need_setup(cls)
    if not getattr(cls, "generate_vmap_rule", False):
        raise RuntimeError(f"You tried to vmap over {cls.__name__}, but it does not have vmap support. Please override and implement the "
                           f"vmap staticmethod or set generate_vmap_rule=True. {_MORE}")
    marks = [level.of(a) for a in args]
    types = [read(a).type if m is not None else None for a, m in zip(args, marks, strict=True)]
    inner, context, several = Batching(level.size, level.randomness), Context(), False

    class Generated(Function):
        @staticmethod
        def forward(ctx: Any, *whole: Any) -> Any:
            nonlocal several
            with inner:
                given = [inner.wrap(x, t) if t is not None else x for x, t in zip(whole, types, strict=True)]
                context.needs_input_grad = ctx.needs_input_grad
                result = run_function(cls, context, given, kwargs)
                several = isinstance(result, tuple)
                found = [_together(inner, r) for r in (result if several else (result,))]
            return tuple(found)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            with again(inner):
                found = cls.backward(context, *[_example(inner, g, 0) for g in grads])
                found = found if isinstance(found, tuple) else (found,)
                return tuple([None if g is None else _together(inner, g) if t is not None else _together(inner, g).sum(0)
                              for g, t in zip(found, types, strict=True)])
    Generated.__name__ = f"Vmapped{cls.__name__}"
    whole = Generated.apply(*[a if m is None else m.value for a, m in zip(args, marks, strict=True)])
    results = tuple([_example(level, r, 0) for r in whole])
    return results if several else results[0]
