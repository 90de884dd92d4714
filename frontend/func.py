"""`treadle.func`: functions of functions. They nest in any order, and mix with the tape and `treadle.compile`.

Reverse mode by the tape: grad, vjp, jacrev. Forward mode by a level (`treadle.levels`) whose values carry tangents: jvp, jacfwd.
`vmap` by a level whose values stand for batches. Jacobians are `vmap` of one of the two over the basis vectors.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import treadle
from treadle import autograd
from treadle.ir import op as op_table
from treadle.ir.dtypes import FLOAT
from treadle.levels import Forward
from treadle.nn.batch_normalization import _BatchNorm
from treadle.rearranging import rearrange
from treadle.runtime.recorder import STATE, Wrapped
from treadle.stateless import functional_call, stack_module_state
from treadle.tape import LeafNode
from treadle.tensor import Tensor, apply, read, wrap
from treadle.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from treadle.vmapping import vmap

Tree = Any
COPY = op_table.get("copy")


def _argnums(argnums: Any, args: Sequence[Any]) -> tuple[int, ...]:
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not numbers:
        raise RuntimeError(f"argnums must be non-empty, got argnums={argnums}.")
    found = []
    for n in numbers:
        if not isinstance(n, int):
            raise RuntimeError(f"argnums must be int or Tuple[int, ...], got: {argnums}")
        if not -len(args) <= n < len(args):
            raise RuntimeError(f"Got argnum={n}, but only {len(args)} positional inputs")
        found.append(n % len(args))
    return tuple(found)


def _is_variable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype.category >= FLOAT


# -- the tape --------------------------------------------------------------------------------------------------------------------------
def _variables(tree: Tree) -> tuple[Tree, list[Tensor]]:
    """The tree with every float tensor replaced by a new variable: a leaf, or a copy on the tape that its original is on."""
    leaves, spec = tree_flatten(tree)
    chosen, fresh = [], []
    for x in leaves:
        if _is_variable(x):
            if x._edge is not None:
                x = apply(COPY, (x,))
            else:
                x = wrap(read(x))
                x._requires_grad = True
            chosen.append(x)
        fresh.append(x)
    return tree_unflatten(fresh, spec), chosen


def _depends(values: Sequence[Any], private: Sequence[Tensor]) -> bool:
    """Whether the tape leads from `values` to anything but the leaves `private`."""
    own = {x._edge[0] for x in private if x._edge is not None and x._edge[0].__class__ is LeafNode}
    stack = [x._edge[0] for x in values if isinstance(x, Tensor) and x._edge is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if node.__class__ is LeafNode and node not in own:
            return True
        for edge in node.edges:
            if edge is not None and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return False


def _settled(values: Sequence[Any], private: Sequence[Tensor]) -> list[Any]:
    """The values, off the tape when all that it leads to is over; so for the tensors that they stand for, in their levels."""
    if _depends([part for x in values for part in _parts(x)], private):
        return list(values)
    return [_off_tape(x) for x in values]


def _parts(x: Any) -> list[Tensor]:
    """A tensor, and those that it stands for."""
    found = []
    while isinstance(x, Tensor):
        found.append(x)
        trace: Any = read(x).trace
        if trace.__class__ is not Wrapped:
            break
        if trace.tangent is not None:
            found += _parts(trace.tangent)
        x = trace.value
    return found


def _off_tape(x: Any) -> Any:
    if not isinstance(x, Tensor) or all(part._edge is None for part in _parts(x)):
        return x
    data = read(x)
    trace: Any = data.trace
    if trace.__class__ is not Wrapped:
        return wrap(data)
    return trace.level.wrap(_off_tape(trace.value), data.type, _off_tape(trace.tangent))


def _pulled(outputs: Sequence[Any], variables: Sequence[Tensor], cotangents: Sequence[Any] | None, again: bool) -> list[Tensor]:
    """The gradient of each variable, zeros where there is none. again: the gradients may be differentiated."""
    wanted = [o._edge is not None for o in outputs]
    live = [o for o, want in zip(outputs, wanted, strict=True) if want]
    if not live:
        return [treadle.zeros_like(x) for x in variables]
    given = None if cotangents is None else [c for c, want in zip(cotangents, wanted, strict=True) if want]
    found = autograd.grad(live, list(variables), given, retain_graph=True, create_graph=again, allow_unused=True)
    return [treadle.zeros_like(x) if g is None else g for g, x in zip(found, variables, strict=True)]


def _like_arguments(found: Sequence[Any], trees: Sequence[Tree]) -> list[Tree]:
    """Gradients in the structure of the arguments; None for what has none."""
    rest = iter(found)
    results = []
    for tree in trees:
        leaves, spec = tree_flatten(tree)
        results.append(tree_unflatten([next(rest) if _is_variable(x) else None for x in leaves], spec))
    return results


# -- derivatives in reverse mode -------------------------------------------------------------------------------------------------------
def grad_and_value(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """(gradient of a scalar function with respect to the arguments `argnums`, value), or (gradient, (value, aux)).

    RuntimeError when the value is no scalar tensor.
    """
    def run(*args: Any, **kwargs: Any) -> Any:
        numbers = _argnums(argnums, args)
        trees = list(args)
        chosen: list[Tensor] = []
        with treadle.enable_grad():
            for n in numbers:
                trees[n], leaves = _variables(trees[n])
                chosen += leaves
            value, aux = _with_aux("grad_and_value", func(*trees, **kwargs), has_aux)
            _check_scalar(value)
            again = bool(STATE.here.levels) or _depends([value], chosen)
            found = _settled(_pulled([value], chosen, None, again), chosen)
        results = _like_arguments(found, [args[n] for n in numbers])
        value = _settled([value], chosen)[0]
        gradient = results[0] if isinstance(argnums, int) else tuple(results)
        return (gradient, (value, _settled_tree(aux, chosen))) if has_aux else (gradient, value)
    return run


def _check_scalar(value: Any) -> None:
    start = "grad_and_value(f)(*args): Expected f(*args) to return a scalar tensor, got"
    if not isinstance(value, Tensor):
        raise RuntimeError(f"{start} {type(value).__name__}")
    if value.dim() != 0:
        raise RuntimeError(f"{start} tensor with {value.dim()} dims. Maybe you wanted to use the vjp or jacrev APIs instead?")


def _with_aux(name: str, result: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        return result, None
    if not isinstance(result, tuple) or len(result) != 2:
        raise RuntimeError(f"{name}(f)(*args): output of function f should be a tuple: (output, aux) if has_aux is True")
    return result


def _settled_tree(tree: Tree, private: Sequence[Tensor]) -> Tree:
    leaves, spec = tree_flatten(tree)
    return tree_unflatten(_settled(leaves, private), spec)


def grad(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The gradient of a scalar function with respect to the arguments `argnums`; with `has_aux`, (gradient, aux)."""
    both = grad_and_value(func, argnums, has_aux)

    def run(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient
    return run


def value_and_grad(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """(value, gradient)."""
    both = grad_and_value(func, argnums, has_aux)

    def run(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return value, gradient
    return run


class _Pullback:
    """Gradients of the variables from cotangents of the outputs, as often as wanted."""

    def __init__(self, outputs: Sequence[Any], spec: TreeSpec, variables: Sequence[Tensor], primals: tuple[Any, ...]) -> None:
        self.outputs, self.spec, self.variables, self.primals = outputs, spec, variables, primals

    def __call__(self, cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> tuple[Any, ...]:
        return tuple(_like_arguments(_settled(self.flat(cotangents), self.variables), self.primals))

    def flat(self, cotangents: Any) -> list[Tensor]:
        """Gradients of the float leaves of the primals, in order, still on the tape of the variables."""
        given, spec = tree_flatten(cotangents)
        if len(given) != len(self.outputs):
            raise RuntimeError(f"Expected pytree structure of cotangents to be the same as pytree structure of outputs to the function. "
                               f"cotangents: {spec}, primal output: {self.spec}")
        for c, o in zip(given, self.outputs, strict=True):
            if tuple(c.shape) != tuple(o.shape):
                raise RuntimeError(f"vjp: expected a cotangent of shape {list(o.shape)} like the output, but got {list(c.shape)}")
        again = bool(STATE.here.levels) or _depends([*self.outputs, *given], self.variables)
        with treadle.enable_grad():
            return _pulled(self.outputs, self.variables, given, again)


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(func(*primals), a function from cotangents like the output to a tuple of gradients like the primals[, aux])."""
    with treadle.enable_grad():
        trees, chosen = _variables(primals)
        value, aux = _with_aux("vjp", func(*trees), has_aux)
    outputs, spec = tree_flatten(value)
    for o in outputs:
        if not isinstance(o, Tensor):
            raise RuntimeError(f"vjp(f, *primals): Expected f(*primals) to return only tensors, got unsupported type {type(o)}")
    pull = _Pullback(outputs, spec, chosen, primals)
    shown = tree_unflatten(_settled(outputs, chosen), spec)
    return (shown, pull, _settled_tree(aux, chosen)) if has_aux else (shown, pull)


def _basis(values: Sequence[Tensor]) -> list[Tensor]:
    """For each tensor, its part of the unit vectors of the space of them all: (how many, *shape)."""
    count = sum(x.numel() for x in values)
    at = treadle.arange(count)
    parts, start = [], 0
    for x in values:
        place = (treadle.arange(x.numel()) + start).reshape(x.shape)
        parts.append((at.reshape(count, *(1,) * x.dim()) == place).to(device=x.device, dtype=x.dtype))
        start += x.numel()
    return parts


def _cut(rows: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    """The rows that belong to the unit vectors of each value, the vectors' axis replaced by its shape."""
    found, start = [], 0
    for x in values:
        part = rows[start:start + x.numel()]
        found.append(part.reshape(*x.shape, *rows.shape[1:]))
        start += x.numel()
    return found


def jacrev(func: Callable[..., Any], argnums: Any = 0, *, has_aux: bool = False, chunk_size: int | None = None,
           _preallocate_and_copy: bool = False) -> Callable[..., Any]:
    """The Jacobian by reverse mode: for each output, in its structure, a tensor of output shape + input shape for each input.

    chunk_size: compute this many rows at a time; all at once if None.
    """
    if not (chunk_size is None or chunk_size > 0):
        raise ValueError("jacrev: `chunk_size` should be greater than 0.")

    def run(*args: Any, **kwargs: Any) -> Any:
        numbers = _argnums(argnums, args)
        primals = [args[n] for n in numbers]
        found = vjp(_of_chosen(func, args, kwargs, numbers), *primals, has_aux=has_aux)
        pull: _Pullback = found[1]
        outputs = pull.outputs
        rows = vmap(lambda *basis: tuple(pull.flat(list(basis))), chunk_size=chunk_size)(*_basis(outputs))
        rows = _settled(rows, pull.variables)
        columns = list(zip(*[_cut(r, outputs) for r in rows], strict=True)) if rows else [()] * len(outputs)
        per_output = [_chosen_only(_like_arguments(column, primals), argnums) for column in columns]
        result = tree_unflatten(per_output, pull.spec)
        return (result, found[2]) if has_aux else result
    return run


def _chosen_only(results: list[Tree], argnums: Any) -> Tree:
    return results[0] if isinstance(argnums, int) else tuple(results)


def _of_chosen(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], numbers: tuple[int, ...]) -> Callable[..., Any]:
    """The function of the arguments `numbers`, the others fixed."""
    def of_chosen(*chosen: Any) -> Any:
        full = list(args)
        for n, c in zip(numbers, chosen, strict=True):
            full[n] = c
        return func(*full, **kwargs)
    return of_chosen


# -- derivatives in forward mode -------------------------------------------------------------------------------------------------------
def jvp(func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], *, strict: bool = False,
        has_aux: bool = False) -> Any:
    """(func(*primals), its derivative in the direction `tangents`[, aux]). strict: RuntimeError for outputs that do not depend on them."""
    if not isinstance(primals, tuple) or not primals:
        raise RuntimeError(f"jvp(f, primals, tangents): Expected primals to be a tuple. E.g. it should be valid to call f(*primals), got "
                           f"{type(primals).__name__} of {len(primals) if isinstance(primals, Sequence) else 1}")
    leaves, spec = tree_flatten(primals)
    directions, other = tree_flatten(tangents)
    if not isinstance(tangents, tuple) or spec != other:
        raise RuntimeError("jvp(f, primals, tangents): Expected primals and tangents to have the same python structure. For example, if "
                           "primals is a tuple of 3 tensors, tangents also must be. Got primals with structure "
                           f"{spec} and tangents with structure {other}")
    with Forward() as level:
        duals = [_dual(level, x, t) for x, t in zip(leaves, directions, strict=True)]
        value, aux = _with_aux("jvp", func(*tree_unflatten(duals, spec)), has_aux)
    outputs, out_spec = tree_flatten(value)
    pairs = [_undual(level, o, strict) for o in outputs]
    level.closed = True
    shown, pushed = (tree_unflatten([p[i] for p in pairs], out_spec) for i in (0, 1))
    if not has_aux:
        return shown, pushed
    rest, aux_spec = tree_flatten(aux)
    return shown, pushed, tree_unflatten([_undual(level, x, False)[0] if isinstance(x, Tensor) else x for x in rest], aux_spec)


def _dual(level: Forward, x: Any, tangent: Any) -> Tensor:
    if not isinstance(x, Tensor) or not isinstance(tangent, Tensor):
        raise RuntimeError(f"jvp(f, primals, tangents): Expected primals and tangents to be tensors, got {type(x)} and {type(tangent)}")
    have = read(x).type
    if tangent._data.type.shape != have.shape:
        raise RuntimeError(f"jvp: expected a tangent of shape {list(have.shape)} like the primal, but got {list(tangent.shape)}")
    if not _is_variable(x):
        return x
    return level.wrap(x, have, tangent if tangent.dtype is x.dtype else tangent.to(x.dtype))


def _undual(level: Forward, x: Any, strict: bool) -> tuple[Tensor, Tensor]:
    if not isinstance(x, Tensor):
        raise RuntimeError(f"jvp(f, primals, tangents): Expected f(*primals) to return only tensors, got unsupported type {type(x)}")
    what = level.of(x)
    if strict and (what is None or what.tangent is None):
        raise RuntimeError("jvp(f, primals, tangents, strict=True): The output of f is independent of the inputs. This is not allowed with "
                           "strict=True.")
    primal = x if what is None else what.value
    tangent = None if what is None else what.tangent
    return primal, treadle.zeros_like(primal) if tangent is None else tangent


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """(func(*primals), the function from tangents to its derivative there), which does not run `func` again."""
    value, pull = vjp(func, *primals)
    outputs, spec = pull.outputs, pull.spec
    with treadle.enable_grad():  # what is pulled back is linear in the cotangents: its own derivative pushes tangents forward
        dummies = [treadle.zeros_like(o).requires_grad_() for o in outputs]
        pulled = _pulled(outputs, pull.variables, dummies, True)

    def push(*tangents: Any) -> Any:
        leaves, have = tree_flatten(tangents)
        if have != tree_flatten(primals)[1]:
            raise RuntimeError("linearize: expected tangents of the same structure as the primals")
        given = [t for t, x in zip(leaves, tree_flatten(primals)[0], strict=True) if _is_variable(x)]
        with treadle.enable_grad():
            found = _pulled(pulled, dummies, given, bool(STATE.here.levels) or _depends(pulled, [*dummies, *pull.variables]))
        return tree_unflatten(_settled(found, [*dummies, *pull.variables]), spec)
    return value, push


def jacfwd(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False, *, randomness: str = "error",
           chunk_size: int | None = None) -> Callable[..., Any]:
    """The Jacobian by forward mode: for each output, in its structure, a tensor of output shape + input shape for each input."""
    def run(*args: Any, **kwargs: Any) -> Any:
        numbers = _argnums(argnums, args)
        leaves, spec = tree_flatten([args[n] for n in numbers])
        chosen = [x for x in leaves if _is_variable(x)]
        of_chosen = _of_chosen(func, args, kwargs, numbers)

        def push(*basis: Tensor) -> Any:
            directions = iter(basis)
            tangents = [next(directions) if _is_variable(x) else treadle.zeros_like(x) for x in leaves]
            found = jvp(of_chosen, tuple(tree_unflatten(leaves, spec)), tuple(tree_unflatten(tangents, spec)), has_aux=has_aux)
            return found[1:]
        out_dims = (0, None) if has_aux else (0,)
        found = vmap(push, out_dims=out_dims, randomness=randomness, chunk_size=chunk_size)(*_basis(chosen))
        pushed, out_spec = tree_flatten(found[0])
        per_output = []
        for rows in pushed:
            parts = [_behind(part, x.dim()) for part, x in zip(_cut(rows, chosen), chosen, strict=True)]
            per_output.append(_chosen_only(_like_arguments(parts, [args[n] for n in numbers]), argnums))
        result = tree_unflatten(per_output, out_spec)
        return (result, found[1]) if has_aux else result
    return run


def _behind(x: Tensor, count: int) -> Tensor:
    """The first `count` axes moved to the end."""
    return x.permute(*range(count, x.dim()), *range(count))


def hessian(func: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """The matrix of second derivatives: forward mode over reverse mode."""
    return jacfwd(jacrev(func, argnums), argnums)


# -- the rest --------------------------------------------------------------------------------------------------------------------------
def functionalize(func: Callable[..., Any], *, remove: str = "mutations") -> Callable[..., Any]:
    """The function without writes to memory, and what it writes to its arguments written to them at the end.

    That is how every function is recorded here: writes and views become new values. So this is the function itself.
    remove: "mutations" or "mutations_and_views". RuntimeError for anything else.
    """
    if remove not in ("mutations", "mutations_and_views"):
        raise RuntimeError(f"functionalize(f, remove='mutations'): received invalid argument for remove={remove}. Valid options are:\n "
                           "remove='mutations': all inplace and out= operators will be removed from the program, and replaced with their "
                           "out-of-place equivalents.\n remove='mutations_and_views': in addition, view operators are replaced by copies.")

    @functools.wraps(func)
    def run(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)
    return run


def replace_all_batch_norm_modules_(root: Any) -> Any:
    """Let every batch norm in `root` normalize by its batch alone, without running statistics, so that `vmap` goes over it."""
    for module in root.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    return root


def debug_unwrap(tensor: Tensor, *, recurse: bool = True) -> Tensor:
    """What a tensor inside a transformation stands for: the batch within `vmap`, the primal within `jvp`. To look at it, nothing else."""
    trace: Any = read(tensor).trace
    while trace.__class__ is Wrapped:
        tensor = trace.value
        trace = read(tensor).trace if recurse else None
    return tensor


__all__ = ["debug_unwrap", "functional_call", "functionalize", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "linearize",
           "rearrange", "replace_all_batch_norm_modules_", "stack_module_state", "value_and_grad", "vjp", "vmap"]
