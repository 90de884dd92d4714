"""Delivering results: `out=`, casts, copies where memory would be shared, and numpy's names for keyword arguments."""
from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from treadle.arguments import flags_of, refuse_first, refuse_flags, refuse_misfits, takes_tensor
from treadle.ir import op as op_table
from treadle.ir.dtypes import FLOAT, DType
from treadle.ir.types import result_dtype
from treadle.layout import strides_of
from treadle.tensor import Tensor, apply, assign
from treadle.view_writes import refuse_overlap

CAST, COPY = op_table.get("cast"), op_table.get("copy")


def cast(x: Tensor, dtype: DType) -> Tensor:
    """`x` itself when it has that dtype already."""
    return x if x._data.type.dtype is dtype else apply(CAST, (x,), (dtype,))


def together(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the dtype to which they promote, where that is a floating or complex one."""
    dtype = result_dtype(tuple([t._data.type for t in tensors]))
    return [cast(t, dtype) for t in tensors] if dtype.category >= FLOAT else list(tensors)


def fresh(value: Tensor, target: Tensor) -> Tensor:
    """`value`, copied when another tensor could share it: what `assign` asks for."""
    if value._storage is not None or value._data is target._data:
        return apply(COPY, (value,))
    return value


def into(out: Any, result: Any, name: str) -> Any:
    """Deliver a result: as it is, or written to the tensor given as `out=` (which takes the result's shape).

    Several results go to a tuple of tensors. RuntimeError for results on the tape and dtypes that do not fit.
    """
    if out is None:
        return result
    if isinstance(result, tuple | list):
        if not isinstance(out, tuple | list) or len(out) != len(result):
            raise TypeError(f"{name}(): argument 'out' must be tuple of Tensors, not {type(out).__name__}")
        made = [into(o, r, name) for o, r in zip(out, result, strict=True)]
        return type(result)(*made) if hasattr(result, "_fields") else type(result)(made)
    if not isinstance(out, Tensor):
        raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(out).__name__}")
    if result._node is not None:
        raise RuntimeError(f"{name}(): functions with out=... arguments don't support automatic differentiation, "
                           "but one of the arguments requires grad.")
    have, got = out._data.type, result._data.type
    if out._chain and any([n > 1 and s == 0 for n, s in zip(have.shape, strides_of(out), strict=True)]):
        refuse_overlap()
    if have.shape == got.shape:
        return assign(out, fresh(result, out), name)
    if out._chain and have.numel:
        raise RuntimeError(f"{name}: a view of shape {list(have.shape)} was given as out=, but the result's shape is {list(got.shape)}")
    if got.dtype.category > have.dtype.category:
        raise RuntimeError(f"result type {got.dtype.name} can't be cast to the desired output type {have.dtype.name}")
    out._data.stale = True
    out._data, out._storage, out._chain = cast(fresh(result, out), have.dtype)._data, None, ()
    out._writes += 1
    return out


def with_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which makes new tensors, with PyTorch's `out=` to put them into."""
    name, first, flags = function.__name__, takes_tensor(function), flags_of(function)

    @wraps(function)
    def wrapper(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if first and (not args or args[0].__class__ is not Tensor):
            refuse_first(function, args)
        if kwargs and flags:
            refuse_flags(function, flags, kwargs)
        try:
            result = function(*args, **kwargs) if kwargs else function(*args)
        except Exception as error:
            refuse_misfits(function, args, kwargs, error)
            raise
        return result if out is None else into(out, result, name)
    return wrapper


def numpy_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """Accept numpy's `axis` and `keepdims` for `dim` and `keepdim`, as PyTorch does; and `out=` where the function has none itself."""
    name, code = function.__name__, function.__code__
    has_out, first = "out" in code.co_varnames[:code.co_argcount + code.co_kwonlyargcount], takes_tensor(function)

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        out = None
        if first and (not args or args[0].__class__ is not Tensor):
            refuse_first(function, args)
        if kwargs:
            if "axis" in kwargs:
                kwargs["dim"] = kwargs.pop("axis")
            if "keepdims" in kwargs:
                kwargs["keepdim"] = kwargs.pop("keepdims")
            if not has_out and "out" in kwargs:
                out = kwargs.pop("out")
        try:
            result = function(*args, **kwargs) if kwargs else function(*args)
        except Exception as error:
            refuse_misfits(function, args, kwargs, error)
            raise
        return result if out is None else into(out, result, name)
    return wrapper
