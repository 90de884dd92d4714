"""Delivering results: `out=`, casts, copies where memory would be shared, and numpy's names for keyword arguments."""
from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from treadle.arguments import guarded
from treadle.ir import op as op_table
from treadle.ir.dtypes import FLOAT, DType, float32
from treadle.ir.ops.common import HALVES
from treadle.ir.types import result_dtype
from treadle.layout import layout_of, strides_of
from treadle.tensor import Tensor, apply, assign
from treadle.view_writes import refuse_overlap

CAST, COPY, MUL = (op_table.get(name) for name in ("cast", "copy", "mul"))


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


# Functions whose `out=` is of the result's dtype: the others cast to it.
_EXACT = frozenset("""abs addbmm addmm addmv alias_copy amax amin aminmax argmax argmin as_strided_copy baddbmm bitwise_not bmm
    bucketize ceil complex conj_physical cross cummax cummin diag diagonal_copy dot expand_copy floor frac frexp gather heaviside histc
    histogram index_add index_copy index_reduce index_select isin isneginf isposinf kthvalue logcumsumexp lu_solve lu_unpack masked_select
    matmul mm mode msort multinomial mv nan_to_num nanquantile narrow_copy neg norm ormqr permute_copy polar qr quantile renorm round
    scatter scatter_add searchsorted sgn sign signbit slice_scatter softmax sort split_with_sizes_copy squeeze_copy svd take
    take_along_dim tensordot topk transpose_copy triangular_solve tril triu trunc unbind_copy unfold_copy unsqueeze_copy vdot view_copy
    where""".split())
# Those that read their operands at places of their choice, so that these may not be written at the same time.
_SCATTERED = frozenset("cat concat gather index_select kthvalue masked_select stack take take_along_dim".split())


def _overlap(a: Tensor, b: Tensor) -> str:
    """Whether two tensors are the "same" memory, share a "part", or neither (""); unknown, as in PyTorch, where one has holes."""
    if a is b:
        return "same"
    if a._storage is None or a._storage is not b._storage or not a._data.type.numel or not b._data.type.numel:
        return ""
    first, second = layout_of(a), layout_of(b)
    if first == second:
        return "same"
    (low, high), (start, stop) = ((offset, offset + math.prod(shape)) for shape, _, offset in (first, second))
    return "part" if low < stop and start < high and _dense(*first[:2]) and _dense(*second[:2]) else ""


def _dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements lie without gaps, in some order of the axes."""
    expected = 1
    for stride, n in sorted([(s, n) for n, s in zip(shape, strides, strict=True) if n > 1]):
        if stride != expected:
            return False
        expected *= n
    return True


def refuse_shared(out: Any, inputs: Any, name: str) -> None:
    """RuntimeError, as PyTorch's, for a destination that is partly an operand, or all of it where the function cannot write in place."""
    for target in out if isinstance(out, tuple | list) else (out,):
        for x in inputs:
            for t in x if isinstance(x, tuple | list) else (x,):
                how = _overlap(target, t) if isinstance(t, Tensor) and isinstance(target, Tensor) else ""
                if how == "part" or (how and name in _SCATTERED):
                    raise RuntimeError(f"{name}: unsupported operation: some elements of the input tensor and the written-to tensor refer "
                                       "to a single memory location. Please clone() the tensor before performing the operation.")


def into(out: Any, result: Any, name: str, inputs: tuple[Any, ...] = ()) -> Any:
    """Deliver a result: as it is, or written to the tensor given as `out=` (which takes the result's shape).

    Several results go to a tuple of tensors. RuntimeError for results on the tape, dtypes that do not fit, and memory shared with `inputs`.
    """
    if out is None:
        return result
    refuse_shared(out, inputs, name)
    if isinstance(result, tuple | list):
        if not isinstance(out, tuple | list) or len(out) != len(result):
            raise TypeError(f"{name}(): argument 'out' must be tuple of Tensors, not {type(out).__name__}")
        made = [into(o, r, {"max": "amax", "min": "amin"}.get(name, name)) for o, r in zip(out, result, strict=True)]
        return type(result)(*made) if hasattr(result, "_fields") else type(result)(made)
    if not isinstance(out, Tensor):
        raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(out).__name__}")
    if result._node is not None:
        raise RuntimeError(f"{name}(): functions with out=... arguments don't support automatic differentiation, "
                           "but one of the arguments requires grad.")
    have, got = out._data.type, result._data.type
    if name in _EXACT and have.dtype is not got.dtype:
        raise RuntimeError(f"{name}: Expected out tensor to have dtype {got.dtype.name}, but got {have.dtype.name} instead")
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


def with_scaled(op: op_table.Op, first: Any, other: Any, alpha: Any) -> Tensor:
    """`op` of one operand and alpha times the other. Of 16-bit floats alpha is one too, and the result rounded once, as in PyTorch."""
    if alpha == 1:
        return apply(op, (first, other))
    if not isinstance(other, Tensor):
        return apply(op, (first, other * alpha))
    dtype = other._data.type.dtype
    if dtype in HALVES and isinstance(first, Tensor) and first._data.type.dtype is dtype and isinstance(alpha, int | float):
        term = apply(MUL, (cast(other, float32), float(np.asarray(alpha).astype(dtype.np))))
        return cast(apply(op, (cast(first, float32), term)), dtype)
    return apply(op, (first, apply(MUL, (other, alpha))))


def with_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which makes new tensors, with PyTorch's `out=` to put them into."""
    name, call = function.__name__, guarded(function)

    @wraps(function)
    def wrapper(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        result = call(*args, **kwargs) if kwargs else call(*args)
        return result if out is None else into(out, result, name, (*args, *kwargs.values()))
    return wrapper


def numpy_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """Accept numpy's `axis` and `keepdims` for `dim` and `keepdim`, as PyTorch does; and `out=` where the function has none itself."""
    name, code = function.__name__, function.__code__
    has_out, call = "out" in code.co_varnames[:code.co_argcount + code.co_kwonlyargcount], guarded(function)

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        out = None
        if kwargs:
            if "axis" in kwargs:
                kwargs["dim"] = kwargs.pop("axis")
            if "keepdims" in kwargs:
                kwargs["keepdim"] = kwargs.pop("keepdims")
            if not has_out and "out" in kwargs:
                out = kwargs.pop("out")
        result = call(*args, **kwargs) if kwargs else call(*args)
        return result if out is None else into(out, result, name, (*args, *kwargs.values()))
    return wrapper
