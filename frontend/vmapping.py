"""`vmap`: a function of one example applied to a batch of them. The function runs once; each op becomes one for all examples."""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from treadle import shaping
from treadle.ir.types import TensorType
from treadle.levels import EXPAND, Batching, moved, on_tape_of
from treadle.runtime.recorder import Data
from treadle.tensor import Tensor, apply, assign, read
from treadle.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

InDims = Any
Dims = list[int | None]


def spread(tree: Any, spec: TreeSpec) -> list[Any] | None:
    """The leaves of `tree`, each repeated over the part of `spec` that it stands for; None when the structures do not fit."""
    if not isinstance(tree, list | tuple | dict) or (spec.type is None):
        return None if isinstance(tree, list | tuple | dict) else [tree] * spec.num_leaves
    _, have = tree_flatten(tree, lambda x: x is not tree)
    if have.type is not spec.type or have.context != spec.context or len(have.children_specs) != len(spec.children_specs):
        return None
    out: list[Any] = []
    for child, part in zip(tree_flatten(tree, lambda x: x is not tree)[0], spec.children_specs, strict=True):
        found = spread(child, part)
        if found is None:
            return None
        out += found
    return out


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", repr(func))


class _Inputs:
    """The flat arguments of a call, checked, and the axis of each that is mapped over."""

    def __init__(self, func: Callable[..., Any], in_dims: InDims, args: tuple[Any, ...]) -> None:
        self.call = f"vmap({_name(func)}, in_dims={in_dims}, ...)(<inputs>)"
        if not isinstance(in_dims, int | tuple):
            raise ValueError(f"{self.call}: expected `in_dims` to be int or a (potentially nested) tuple matching the structure of inputs, "
                             f"got: {type(in_dims)}.")
        if not args:
            raise ValueError(f"vmap({_name(func)})(<inputs>): got no inputs. Maybe you forgot to add inputs, or you are trying to vmap "
                             "over a function with no inputs. The latter is unsupported.")
        self.args, self.spec = tree_flatten(args)
        dims = spread(in_dims, self.spec)
        if dims is None:
            raise ValueError(f"{self.call}: in_dims is not compatible with the structure of `inputs`. in_dims has structure "
                             f"{tree_flatten(in_dims)[1]} but inputs has structure {self.spec}.")
        self.dims: Dims = [self._checked(x, d) for x, d in zip(self.args, dims, strict=True)]
        sizes = {x.shape[d] for x, d in zip(self.args, self.dims, strict=True) if d is not None}
        if not sizes:
            raise ValueError(f"{self.call}: at least one argument must be mapped over (all of in_dims is None)")
        if len(sizes) > 1:
            raise ValueError("vmap: Expected all tensors to have the same size in the mapped dimension, got sizes "
                             f"{sorted(sizes)} for the mapped dimension")
        self.size: int = sizes.pop()

    def _checked(self, x: Any, dim: Any) -> int | None:
        if dim is None:
            return None
        if not isinstance(dim, int) or isinstance(dim, bool):
            raise ValueError(f"{self.call}: Got in_dim={dim} for an input but in_dim must be either an integer dimension or None.")
        if not isinstance(x, Tensor):
            raise ValueError(f"{self.call}: Got in_dim={dim} for an input but the input is of type {type(x)}. We cannot vmap over "
                             "non-Tensor arguments, please use None as the respective in_dim")
        ndim = x.dim()
        if not -ndim <= dim < ndim:
            raise ValueError(f"{self.call}: Got in_dim={dim} for some input, but that input is a Tensor of dimensionality {ndim} so "
                             f"expected in_dim to satisfy -{ndim} <= in_dim < {ndim}.")
        return dim % ndim

    def chunks(self, size: int) -> list[list[Any]]:
        """The arguments for `size` examples at a time."""
        starts = range(0, self.size, size)
        return [[x if d is None else shaping.narrow(x, d, i, min(size, self.size - i)) for x, d in zip(self.args, self.dims, strict=True)]
                for i in starts]


def vmap(func: Callable[..., Any], in_dims: InDims = 0, out_dims: Any = 0, randomness: str = "error", *,
         chunk_size: int | None = None) -> Callable[..., Any]:
    """A function that applies `func` to every example along `in_dims` of its arguments, and has the results along `out_dims`.

    in_dims: the axis mapped over, None for an argument that all examples share; or a tuple of these, nested as the arguments are.
    out_dims: likewise, for the results, which must be tensors; a result that does not depend on the example is repeated.
    randomness: "error", or whether random ops draw something "different" for each example or the "same".
    chunk_size: compute this many examples at a time, all of them if None.
    ValueError for arguments that do not fit; RuntimeError where `func` looks at a mapped value (item, if).
    """
    if randomness not in ("error", "different", "same"):
        raise RuntimeError(f"Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}")
    if not (chunk_size is None or chunk_size > 0):
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")

    @functools.wraps(func, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        given = _Inputs(func, in_dims, args)

        def call(flat: Sequence[Any]) -> Any:
            return func(*tree_unflatten(flat, given.spec), **kwargs)
        if chunk_size is None or chunk_size >= given.size:
            found, spec, _ = _mapped_once(call, func, given.args, given.dims, out_dims, given.size, randomness)
            return tree_unflatten(found, spec)
        parts = []
        for flat in given.chunks(chunk_size):
            size = next(x.shape[d] for x, d in zip(flat, given.dims, strict=True) if d is not None)
            parts.append(_mapped_once(call, func, flat, given.dims, out_dims, size, randomness))
        _, spec, where = parts[0]
        return tree_unflatten([column[0] if d is None else shaping.cat(column, d)
                               for d, column in zip(where, zip(*[p[0] for p in parts], strict=True), strict=True)], spec)
    return mapped


def _mapped_once(call: Callable[[Sequence[Any]], Any], func: Callable[..., Any], flat: Sequence[Any], dims: Dims, out_dims: Any,
                 size: int, randomness: str) -> tuple[list[Any], TreeSpec, Dims]:
    """(results, their structure, where each has its batch)."""
    with Batching(size, randomness) as level:
        inputs = [x if d is None else _example(level, x, d) for x, d in zip(flat, dims, strict=True)]
        before = [read(x) if d is not None else None for x, d in zip(inputs, dims, strict=True)]
        outputs, spec = tree_flatten(call(inputs))
        where = _where(func, outputs, spec, out_dims)
        results = [_together(level, x, d) for x, d in zip(outputs, where, strict=True)]
        _write_back(level, flat, dims, inputs, before)
    return results, spec, where


def _example(level: Batching, x: Tensor, dim: int) -> Tensor:
    """`x` along `dim`, as one example of it."""
    value = moved(on_tape_of(x), dim, 0)
    type = value._data.type
    return level.wrap(value, type.with_(type.shape[1:]))


def _where(func: Callable[..., Any], outputs: Sequence[Any], spec: TreeSpec, out_dims: Any) -> Dims:
    for x in outputs:
        if not isinstance(x, Tensor):
            raise ValueError(f"vmap({_name(func)}, ...): `{_name(func)}` must only return Tensors, got type {type(x)} as a return.")
    single = spec.is_leaf()
    found = spread(out_dims[0] if single and isinstance(out_dims, tuple) and len(out_dims) == 1 else out_dims, spec)
    if found is None or not all(d is None or isinstance(d, int) for d in found):
        raise ValueError(f"vmap({_name(func)}, ..., out_dims={out_dims})(<inputs>): out_dims is not compatible with the structure of "
                         f"`outputs`. out_dims has structure {tree_flatten(out_dims)[1]} but outputs has structure {spec}.")
    return [None if d is None else _out_dim(func, x, d) for x, d in zip(outputs, found, strict=True)]


def _out_dim(func: Callable[..., Any], x: Tensor, dim: int) -> int:
    ndim = x.dim() + 1
    if not -ndim <= dim < ndim:
        raise IndexError(f"vmap({_name(func)}, ...): Dimension out of range (expected to be in range of [{-ndim}, {ndim - 1}], "
                         f"but got {dim})")
    return dim % ndim


def _together(level: Batching, x: Tensor, dim: int | None) -> Tensor:
    """All examples of a result, along `dim`."""
    what = level.of(x)
    if dim is None:
        if what is not None:
            raise ValueError("vmap: `out_dims` is None for a result that differs between examples; it must be an axis")
        return x
    whole = what.value if what is not None else apply(EXPAND, (x,), ((level.size, *x._data.type.shape),))
    return moved(whole, 0, dim)


def _write_back(level: Batching, flat: Sequence[Any], dims: Dims, inputs: Sequence[Any], before: Sequence[Data | None]) -> None:
    """In-place ops on an argument change the tensor that was mapped over."""
    for x, dim, t, data in zip(flat, dims, inputs, before, strict=True):
        if dim is not None and data is not None and read(t) is not data:
            what = level.of(t)
            type: TensorType = x._data.type
            value = apply(EXPAND, (t,), ((level.size, *t._data.type.shape),)) if what is None else what.value
            value = moved(value, 0, dim)
            assert value._data.type.shape == type.shape
            assign(x, value.clone(), "vmap")
