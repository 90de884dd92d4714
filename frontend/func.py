"""`treadle.func`: functions of functions. Derivatives come from the tape, so they nest and mix with everything else.

vjp by the tape; jvp by differentiating a vjp with respect to its cotangent (J. Townsend's "double backward" trick, 2017); jacrev
and hessian row by row. `vmap` runs the function once for each element of the batch and stacks the results: right for any
function, not faster than the loop it stands for.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import treadle
from treadle import autograd
from treadle.tensor import Tensor

Tree = Any


# -- nested containers of tensors ----------------------------------------------------------------------------------------------------
def flatten(tree: Tree) -> tuple[list[Any], Callable[[Sequence[Any]], Tree]]:
    """The leaves of nested lists, tuples and dicts, and what builds the same structure from new leaves."""
    leaves: list[Any] = []

    def walk(t: Any) -> Callable[[Any], Any]:
        if isinstance(t, dict):
            parts = {k: walk(v) for k, v in t.items()}
            return lambda it: type(t)((k, p(it)) for k, p in parts.items())
        if isinstance(t, list | tuple):
            items = [walk(v) for v in t]
            if hasattr(t, "_fields"):
                return lambda it: type(t)(*[p(it) for p in items])
            return lambda it: type(t)([p(it) for p in items])
        leaves.append(t)
        return lambda it: next(it)
    build = walk(tree)
    return leaves, lambda new: build(iter(new))


def _argnums(argnums: Any) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)


def _tracked(tree: Tree) -> tuple[Tree, list[Tensor]]:
    """The tree with every tensor replaced by a fresh point of the tape (on the outer tape too, if it was), and these tensors."""
    leaves, build = flatten(tree)
    fresh, chosen = [], []
    for x in leaves:
        if isinstance(x, Tensor) and x.is_floating_point():
            y = x.view_as(x) * 1.0 if x.requires_grad else x.detach().clone().requires_grad_()
            chosen.append(y)
            fresh.append(y)
        else:
            fresh.append(x)
    return build(fresh), chosen


def _untracked(value: Any, outer: bool) -> Any:
    """Results leave the tape unless an enclosing derivative needs them."""
    return value if outer or not isinstance(value, Tensor) else value.detach()


def _gradients(outputs: Sequence[Tensor], inputs: list[Tensor], cotangents: Sequence[Tensor] | None, outer: bool) -> list[Tensor]:
    wanted = [o for o in outputs if o.requires_grad]
    given = None if cotangents is None else [c for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not wanted:
        return [treadle.zeros_like(x) for x in inputs]
    found = autograd.grad(wanted, inputs, given, create_graph=True, allow_unused=True)
    return [treadle.zeros_like(x) if g is None else _untracked(g, outer) for g, x in zip(found, inputs, strict=True)]


def _is_outer(args: Tree) -> bool:
    """Whether an enclosing derivative is tracking: then nothing may leave the tape."""
    return any(isinstance(x, Tensor) and x.requires_grad for x in flatten(args)[0])


# -- derivatives -----------------------------------------------------------------------------------------------------------------------
def grad_and_value(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """(gradient of a scalar function with respect to the arguments `argnums`, value), or (gradient, (value, aux))."""
    def run(*args: Any, **kwargs: Any) -> Any:
        outer = _is_outer((args, kwargs))
        numbers = _argnums(argnums)
        trees = list(args)
        chosen: list[Tensor] = []
        with treadle.enable_grad():
            for n in numbers:
                trees[n], leaves = _tracked(trees[n])
                chosen += leaves
            out = func(*trees, **kwargs)
            value, aux = out if has_aux else (out, None)
            if not isinstance(value, Tensor) or value.dim() != 0:
                got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise RuntimeError(f"grad_and_value: Expected f(*args) to return a scalar tensor, got {got}")
            found = iter(_gradients([value], chosen, None, outer))
        results = []
        for n in numbers:
            leaves_, build = flatten(args[n])
            results.append(build([next(found) if isinstance(x, Tensor) and x.is_floating_point() else None for x in leaves_]))
        value = _untracked(value, outer)
        gradient = results[0] if isinstance(argnums, int) else tuple(results)
        return (gradient, (value, aux)) if has_aux else (gradient, value)
    return run


def grad(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The gradient of a scalar function with respect to the arguments `argnums`; with `has_aux`, (gradient, aux)."""
    def run(*args: Any, **kwargs: Any) -> Any:
        gradient, value = grad_and_value(func, argnums, has_aux)(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient
    return run


def value_and_grad(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """(value, gradient)."""
    def run(*args: Any, **kwargs: Any) -> Any:
        gradient, value = grad_and_value(func, argnums, has_aux)(*args, **kwargs)
        return value, gradient
    return run


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(func(*primals), a function from cotangents like the output to gradients like the primals[, aux])."""
    outer = _is_outer(primals)
    with treadle.enable_grad():
        trees, chosen = _tracked(primals)
        out = func(*trees)
    value, aux = out if has_aux else (out, None)
    outputs, build_out = flatten(value)

    def pull(cotangents: Any) -> Any:
        given = flatten(cotangents)[0]
        if len(given) != len(outputs):
            raise RuntimeError(f"vjp: expected cotangents of the output's structure ({len(outputs)} tensors), got {len(given)}")
        with treadle.enable_grad():
            found = iter(_gradients(outputs, chosen, given, outer or _is_outer(cotangents)))
        leaves, build = flatten(primals)
        result = build([next(found) if isinstance(x, Tensor) and x.is_floating_point() else None for x in leaves])
        return result
    shown = build_out([_untracked(o, outer) for o in outputs])
    return (shown, pull, aux) if has_aux else (shown, pull)


def jvp(func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], *, has_aux: bool = False) -> Any:
    """(func(*primals), its derivative in the direction `tangents`[, aux])."""
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple) or len(primals) != len(tangents):
        raise RuntimeError("jvp: expected primals and tangents to be tuples of the same length")
    outer = _is_outer((primals, tangents))
    with treadle.enable_grad():
        trees, chosen = _tracked(primals)
        out = func(*trees)
        value, aux = out if has_aux else (out, None)
        outputs, build = flatten(value)
        live = [o for o in outputs if o.requires_grad]
        # g(u) = J.T u is linear in u: its own derivative with cotangent t is J t.
        dummies = [treadle.zeros_like(o).requires_grad_() for o in live]
        pulled = autograd.grad(live, chosen, dummies, create_graph=True, allow_unused=True) if live else ()
        direction = [t for t, p in zip(flatten(tangents)[0], flatten(primals)[0], strict=True) if isinstance(p, Tensor)]
        pairs = [(g, t) for g, t in zip(pulled, direction, strict=False) if g is not None and g.requires_grad]
        pushed = autograd.grad([g for g, _ in pairs], dummies, [t for _, t in pairs], create_graph=True, allow_unused=True) if pairs else ()
    found = iter(pushed or [None] * len(live))
    tangent_out = []
    for o in outputs:
        t = next(found) if o.requires_grad else None
        tangent_out.append(treadle.zeros_like(o) if t is None else _untracked(t, outer))
    shown = build([_untracked(o, outer) for o in outputs])
    return (shown, build(tangent_out), aux) if has_aux else (shown, build(tangent_out))


def _unit(like: Tensor, i: int) -> Tensor:
    flat = treadle.zeros(like.numel(), dtype=like.dtype)
    flat[i] = 1.0
    return flat.reshape(like.shape)


def jacrev(func: Callable[..., Any], argnums: Any = 0, *, has_aux: bool = False, chunk_size: int | None = None) -> Callable[..., Any]:
    """The Jacobian (output shape + input shape), one row of the output at a time."""
    def run(*args: Any, **kwargs: Any) -> Any:
        numbers = _argnums(argnums)

        def of_chosen(*chosen: Any) -> Any:
            full = list(args)
            for n, c in zip(numbers, chosen, strict=True):
                full[n] = c
            return func(*full, **kwargs)
        out = vjp(of_chosen, *[args[n] for n in numbers], has_aux=has_aux)
        value, pull = out[0], out[1]
        outputs, build = flatten(value)
        jacobians = []
        for k, o in enumerate(outputs):
            rows = []
            for i in range(o.numel()):
                cotangents = [_unit(o, i) if j == k else treadle.zeros_like(p) for j, p in enumerate(outputs)]
                rows.append(pull(build(cotangents)))
            columns = []
            for position, n in enumerate(numbers):
                leaves, rebuild = flatten(args[n])
                parts = [flatten(row[position])[0] for row in rows]
                columns.append(rebuild([treadle.stack([p[m] for p in parts]).reshape(*o.shape, *leaf.shape) if parts else
                                        treadle.zeros(*o.shape, *leaf.shape) for m, leaf in enumerate(leaves)]))
            jacobians.append(columns[0] if isinstance(argnums, int) else tuple(columns))
        result = build(jacobians) if len(outputs) > 1 or isinstance(value, list | tuple | dict) else jacobians[0]
        return (result, out[2]) if has_aux else result
    return run


def jacfwd(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False, *, chunk_size: int | None = None,
           randomness: str = "error") -> Callable[..., Any]:
    """The Jacobian, one element of the input at a time. The argument must be one tensor."""
    def run(*args: Any, **kwargs: Any) -> Any:
        results = []
        aux = None
        for n in _argnums(argnums):
            x = args[n]

            def of_one(t: Tensor, n: int = n) -> Any:
                return func(*args[:n], t, *args[n + 1:], **kwargs)
            columns = []
            for i in range(x.numel()):
                out = jvp(of_one, (x,), (_unit(x, i),), has_aux=has_aux)
                aux = out[2] if has_aux else None
                columns.append(out[1])
            parts = [flatten(c)[0] for c in columns]
            build = flatten(columns[0])[1]
            results.append(build([treadle.stack([p[m] for p in parts], -1).reshape(*parts[0][m].shape, *x.shape)
                                  for m in range(len(parts[0]))]))
        result = results[0] if isinstance(argnums, int) else tuple(results)
        return (result, aux) if has_aux else result
    return run


def hessian(func: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """The matrix of second derivatives: the Jacobian of the gradient."""
    return jacrev(jacrev(func, argnums), argnums)


# -- batches and modules -----------------------------------------------------------------------------------------------------------------
def vmap(func: Callable[..., Any], in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", *,
         chunk_size: int | None = None) -> Callable[..., Any]:
    """`func` for every element along `in_dims` of its arguments (None: the same for all), results stacked along `out_dims`."""
    def run(*args: Any, **kwargs: Any) -> Any:
        dims = (in_dims,) * len(args) if isinstance(in_dims, int) or in_dims is None else tuple(in_dims)
        if len(dims) != len(args):
            raise ValueError(f"vmap: in_dims has {len(dims)} entries, but the function got {len(args)} arguments")
        flat, axes, builds = [], [], []
        for arg, dim in zip(args, dims, strict=True):
            leaves, build = flatten(arg)
            flat.append(leaves)
            builds.append(build)
            axes.append([dim if isinstance(dim, int) or dim is None else d for d in
                         (flatten(dim)[0] if not isinstance(dim, int) and dim is not None else leaves)])
        sizes = {x.size(a) for xs, ds in zip(flat, axes, strict=True) for x, a in zip(xs, ds, strict=True)
                 if isinstance(x, Tensor) and a is not None}
        if len(sizes) != 1:
            raise ValueError("vmap: at least one argument must be mapped over" if not sizes else
                             f"vmap: Expected all tensors to have the same size in the mapped dimension, got sizes {sorted(sizes)}")
        outs = []
        for i in range(sizes.pop()):
            call = [build([x.select(a, i) if isinstance(x, Tensor) and a is not None else x for x, a in zip(xs, ds, strict=True)])
                    for xs, ds, build in zip(flat, axes, builds, strict=True)]
            outs.append(func(*call, **kwargs))
        first, build_out = flatten(outs[0])
        columns = [flatten(o)[0] for o in outs]
        where = flatten(out_dims)[0] if not isinstance(out_dims, int) else [out_dims] * len(first)
        return build_out([treadle.stack([c[m] for c in columns], d) for m, d in zip(range(len(first)), where, strict=True)])
    return run


def functional_call(module: Any, parameter_and_buffer_dicts: Any, args: Any = None, kwargs: dict[str, Any] | None = None, *,
                    tie_weights: bool = True, strict: bool = False) -> Any:
    """Call `module` with the given tensors in place of its parameters and buffers, named as in its state dict."""
    given: dict[str, Any] = {}
    for d in [parameter_and_buffer_dicts] if isinstance(parameter_and_buffer_dicts, dict) else parameter_and_buffer_dicts:
        given.update(d)
    saved: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, value in given.items():
            path, _, last = name.rpartition(".")
            owner = module.get_submodule(path)
            table = owner._parameters if last in owner._parameters else owner._buffers
            if last not in table:
                raise RuntimeError(f"functional_call: the module has no parameter or buffer {name!r}")
            saved.append((table, last, table[last]))
            table[last] = value
        given_args = () if args is None else args if isinstance(args, tuple) else (args,)
        return module(*given_args, **(kwargs or {}))
    finally:
        for table, last, value in reversed(saved):
            table[last] = value


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters and the buffers of models of one kind, stacked along a new first axis."""
    parameters, buffers = [dict(m.named_parameters()) for m in models], [dict(m.named_buffers()) for m in models]
    return ({k: treadle.stack([p[k].detach() for p in parameters]).requires_grad_() for k in parameters[0]},
            {k: treadle.stack([b[k] for b in buffers]) for k in buffers[0]})


__all__ = ["functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "stack_module_state", "value_and_grad", "vjp",
           "vmap"]
