"""Reductions along axes, prefix operations, and order statistics, with PyTorch's dtype rules."""
from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from treadle.arguments import Omitted
from treadle.emitter import EMITTER
from treadle.functions import ADD, COPY, DIV, MUL, SUB, TABLE, as_dtype, cast, into, tensor_argument, where
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT
from treadle.ir.op import Op
from treadle.ir.ops.common import need_real
from treadle.ir.types import normalize_dim, normalize_dims
from treadle.layout import RESHAPE, SLICE, Ints, ints
from treadle.results import numpy_names, with_out
from treadle.shaping import cat
from treadle.tensor import Tensor, apply

SUM, PROD, AMAX, AMIN, ANY, ALL = (TABLE[n] for n in ("sum", "prod", "amax", "amin", "any", "all"))

Dim = int | Sequence[int] | None

__all__ = [
    "all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "count_nonzero", "cummax", "cummin", "cumprod", "cumsum",
    "cumulative_trapezoid", "diff", "log_softmax", "logcumsumexp", "logsumexp", "max", "mean", "min", "nanmean", "nansum", "prod",
    "softmax", "softmin", "std", "std_mean", "sum", "sum_to_size", "trapezoid", "trapz", "var", "var_mean",
]


# -- results with names ------------------------------------------------------------------------------------------------------
def _pair(name: str, first: str = "values", second: str = "indices") -> Callable[[Any, Any], Any]:
    """A tuple of two tensors with field names, which prints as PyTorch's `return_types`."""
    class Pair(tuple):
        __slots__ = ()

        def __repr__(self) -> str:
            return f"treadle.return_types.{name}(\n{first}={self[0]!r},\n{second}={self[1]!r})"

        def __reduce__(self) -> Any:
            return _rebuild, (name, first, second, tuple(self))

    Pair.__name__ = Pair.__qualname__ = name
    for i, field in enumerate((first, second)):
        setattr(Pair, field, property(itemgetter(i)))

    def make(a: Any, b: Any) -> Any:
        return Pair((a, b))
    return make


def _rebuild(name: str, first: str, second: str, items: tuple[Any, Any]) -> Any:
    return _pair(name, first, second)(*items)


PAIRS = {name: _pair(name) for name in ("max", "min", "median", "nanmedian", "mode", "kthvalue", "cummax", "cummin", "sort", "topk")}
_aminmax = _pair("aminmax", "min", "max")


def _dims(name: str, dim: Dim, x: Tensor) -> Ints:
    """Sorted axes; all of them for None or (). A number has none, but accepts 0 and -1."""
    ndim = len(x._data.type.shape)
    if dim.__class__ is int and -ndim <= dim < ndim:
        return (dim % ndim,)
    if not ndim:
        normalize_dims(name, dim if dim is None or isinstance(dim, int) else tuple(dim), 0)
        return ()
    return normalize_dims(name, dim if dim is None or isinstance(dim, int) else tuple(dim), ndim)


# -- sums and products ---------------------------------------------------------------------------------------------------------
@numpy_names
def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None, out: Tensor | None = None) -> Tensor:
    """Sum over axes (all of them unless given); integers and booleans sum to int64."""
    dims = _dims("sum", dim, input)
    return into(out, apply(SUM, (input,), (dims, keepdim, None if dtype is None else as_dtype(dtype))), "sum")


@numpy_names
def nansum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum that takes NaN as 0."""
    need_real("nansum", tensor_argument("nansum", input)._data.type)
    return sum(where(apply(TABLE["isnan"], (input,)), 0, input), dim, keepdim, dtype=dtype)


@numpy_names
def prod(input: Tensor, dim: int | Omitted = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Product over one axis, or all."""
    dims = _dims("prod", dim, input)
    return apply(PROD, (input,), (dims, keepdim, None if dtype is None else as_dtype(dtype)))


def count(x: Tensor, dims: Ints) -> int:
    """How many elements a reduction over `dims` folds into one."""
    return math.prod([x._data.type.shape[d] for d in dims])


def _floating(name: str, x: Tensor, dtype: Any) -> Tensor:
    if dtype is not None:
        x = cast(x, as_dtype(dtype))
    if x._data.type.dtype.category < FLOAT:
        raise RuntimeError(f"{name}(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
                           f"Got: {x._data.type.dtype.title}")
    return x


@numpy_names
def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None, out: Tensor | None = None) -> Tensor:
    """Mean over axes. RuntimeError for integers unless a floating `dtype` is given, as in PyTorch."""
    dims = _dims("mean", dim, input)
    x = _floating("mean", input, dtype)
    return into(out, apply(TABLE["mean"], (x,), (dims, keepdim, None)), "mean")


@numpy_names
def nanmean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean of the elements that are not NaN."""
    if dtype is None:
        _floating("nanmean", tensor_argument("nanmean", input), None)
    valid = apply(TABLE["logical_not"], (apply(TABLE["isnan"], (input,)),))
    return apply(DIV, (nansum(input, dim, keepdim, dtype=dtype), sum(valid, dim, keepdim)))


# -- variance --------------------------------------------------------------------------------------------------------------------
def _moment(name: str, input: Tensor, dim: Any, unbiased: Any, correction: Any, keepdim: bool) -> Tensor:
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    x = tensor_argument(name, input)
    if x._data.type.dtype.category < FLOAT:
        raise RuntimeError(f"{name} and mean only support floating point and complex dtypes" if "_" in name
                           else f"{name}: only support floating point and complex dtypes")
    return apply(TABLE[name], (x,), (_dims(name, dim, x), correction, keepdim))


@numpy_names
def var(input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float | None = None) -> Tensor:
    """Variance over axes; `correction` (1, Bessel's) is subtracted from the number of elements."""
    return _moment("var", input, dim, unbiased, correction, keepdim)


@numpy_names
def std(input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float | None = None) -> Tensor:
    """Standard deviation over axes."""
    return _moment("std", input, dim, unbiased, correction, keepdim)


def var_mean(input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
             correction: float | None = None) -> tuple[Tensor, Tensor]:
    """(variance, mean)"""
    return var(input, dim, unbiased, keepdim, correction=correction), mean(input, None if isinstance(dim, bool) else dim, keepdim)


def std_mean(input: Tensor, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
             correction: float | None = None) -> tuple[Tensor, Tensor]:
    """(standard deviation, mean)"""
    return std(input, dim, unbiased, keepdim, correction=correction), mean(input, None if isinstance(dim, bool) else dim, keepdim)


def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """Summed over the axes along which `size` would broadcast to input's shape."""
    from treadle.ir.ops.view import sum_to
    want, have = ints(size), input._data.type.shape
    lead = len(have) - len(want)
    if lead < 0 or builtins.any([n not in (1, m) for n, m in zip(want, have[lead:], strict=True)]):
        raise RuntimeError(f"size {{{list(want)}}} is not expandable to size {{{list(have)}}}.")
    if not want:
        return sum(input)
    return sum_to(EMITTER, input, want)


# -- tests -------------------------------------------------------------------------------------------------------------------------
def _truth(op: Op, input: Tensor, dim: Dim, keepdim: bool) -> Tensor:
    found = apply(op, (input,), (_dims(op.name, dim, input), keepdim))
    return cast(found, dtypes.uint8) if input._data.type.dtype is dtypes.uint8 else found


@numpy_names
def any(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether any element over the axes is not zero; of uint8 the answer is uint8."""
    return _truth(ANY, input, dim, keepdim)


@numpy_names
def all(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether all elements over the axes are not zero; of uint8 the answer is uint8."""
    return _truth(ALL, input, dim, keepdim)


@numpy_names
def count_nonzero(input: Tensor, dim: Dim = None) -> Tensor:
    """The number of elements that are not zero."""
    return sum(apply(TABLE["ne"], (input, 0)), dim)


# -- extremes ------------------------------------------------------------------------------------------------------------------------
def _need_elements(name: str, input: Tensor, dim: Dim) -> None:
    if not tensor_argument(name, input)._data.type.numel and (dim is None or dim == ()):
        raise RuntimeError(f"{name}(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim with the "
                           "'dim' argument.")


@numpy_names
def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Largest element over axes; equal ones share the gradient."""
    _need_elements("amax", input, dim)
    return apply(AMAX, (input,), (_dims("amax", dim, input), keepdim))


@numpy_names
def amin(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Smallest element over axes; equal ones share the gradient."""
    _need_elements("amin", input, dim)
    return apply(AMIN, (input,), (_dims("amin", dim, input), keepdim))


@with_out
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(min, max)"""
    if not input._data.type.numel and dim is None:
        raise RuntimeError("cannot compute aminmax over an empty dimension as the operation has no identity.")
    return _aminmax(amin(input, dim, keepdim), amax(input, dim, keepdim))


def _extreme(name: str, input: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`max(x)`, `max(x, other)` and `max(x, dim, keepdim)`."""
    other = kwargs.pop("other", args[0] if args and isinstance(args[0], Tensor) else None)
    if (args and args[0] is None) or (other is not None and (kwargs or len(args) > 1)):
        raise TypeError(f"{name}() received an invalid combination of arguments: "
                        f"{', '.join([*[type(x).__name__ for x in (input, *args)], *kwargs])}")
    if other is not None:
        return apply(TABLE["maximum" if name == "max" else "minimum"], (input, other))
    dim = kwargs.pop("dim", args[0] if args else None)
    keepdim = kwargs.pop("keepdim", args[1] if len(args) > 1 else False)
    if kwargs or len(args) > 2:
        raise TypeError(f"{name}() received an invalid combination of arguments: {len(args)} more, and {', '.join(kwargs) or 'none'}")
    if dim is None:
        if not input._data.type.numel:
            raise RuntimeError(f"{name}(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim "
                               "with the 'dim' argument.")
        return apply(AMAX if name == "max" else AMIN, (input,), (tuple(range(input._data.type.ndim)), False))
    if not input._data.type.shape:
        need_real(name, input._data.type)
        normalize_dim(name, dim, 0)
        return PAIRS[name](apply(COPY, (input,)), apply(TABLE["full"], (0,), ((), dtypes.int64, input._data.type.device)))
    return PAIRS[name](*apply(TABLE[f"{name}_dim"], (input,), (normalize_dim(name, dim, input._data.type.ndim), keepdim)))


@numpy_names
def max(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`max(x)`: the largest element; `max(x, dim, keepdim=False)`: (values, indices); `max(x, other)`: elementwise."""
    return _extreme("max", input, args, kwargs)


@numpy_names
def min(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`min(x)`: the smallest element; `min(x, dim, keepdim=False)`: (values, indices); `min(x, other)`: elementwise."""
    return _extreme("min", input, args, kwargs)


def _arg(name: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    x, shape = input, input._data.type.shape
    if dim is not None:
        return apply(TABLE[name], (x,), (normalize_dim(name, dim, len(shape)), keepdim and bool(shape)))
    if not x._data.type.numel:
        raise IndexError(f"{name}(): Expected reduction dim to be specified for input.numel() == 0.")
    flat = apply(RESHAPE, (x,), ((x._data.type.numel,),))
    out = apply(TABLE[name], (flat,), (0, False))
    return apply(RESHAPE, (out,), ((1,) * len(shape),)) if keepdim else out


@numpy_names
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first largest element along an axis, or in the flat tensor."""
    return _arg("argmax", input, dim, keepdim)


@numpy_names
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first smallest element along an axis, or in the flat tensor."""
    return _arg("argmin", input, dim, keepdim)


# -- exponentials ----------------------------------------------------------------------------------------------------------------------
def _softmax(name: str, input: Tensor, dim: int | None, dtype: Any) -> Tensor:
    x = tensor_argument(name, input)
    if dtype is not None:
        x = cast(x, as_dtype(dtype))
    if x._data.type.dtype.category != FLOAT:
        raise NotImplementedError(f'"{name}_kernel_impl" not implemented for \'{x._data.type.dtype.title}\'')
    shape = x._data.type.shape
    if dim is None:  # PyTorch's old implicit choice
        dim = 0 if len(shape) in (0, 1, 3) else 1
    axis = normalize_dim(name, dim, len(shape))
    if not shape:
        return apply(RESHAPE, (apply(TABLE[name], (apply(RESHAPE, (x,), ((1,),)),), (0,)),), ((),))
    return apply(TABLE[name], (x,), (axis,))


@numpy_names
def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """exp(x) normalised to sum 1 along an axis."""
    return _softmax("softmax", input, dim, dtype)


@numpy_names
def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Logarithm of the softmax."""
    return _softmax("log_softmax", input, dim, dtype)


def softmin(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """softmax(-x)"""
    return _softmax("softmax", apply(TABLE["neg"], (input,)), dim, dtype)


@numpy_names
def logsumexp(input: Tensor, dim: Ints, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over axes, without overflow."""
    x = input if input._data.type.dtype.category >= FLOAT else cast(input, dtypes.default_float())
    return apply(TABLE["logsumexp"], (x,), (_dims("logsumexp", dim, x), keepdim))


# -- prefix operations -----------------------------------------------------------------------------------------------------------------
def _scan(name: str, input: Tensor, dim: int, dtype: Any = None) -> Any:
    x = tensor_argument(name, input)
    if dtype is not None:
        narrow = as_dtype(dtype)
        found = _scan(name, cast(x, narrow), dim)
        return found if found._data.type.dtype is narrow else cast(found, narrow)
    if x._data.type.dtype.category < FLOAT and name in ("cumsum", "cumprod"):
        x = cast(x, dtypes.int64)
    axis = normalize_dim(name, dim, x._data.type.ndim)
    if x._data.type.shape:
        return apply(TABLE[name], (x,), (axis,))
    found = apply(TABLE[name], (apply(RESHAPE, (x,), ((1,),)),), (0,))
    return tuple([apply(RESHAPE, (r,), ((),)) for r in found]) if isinstance(found, tuple) else apply(RESHAPE, (found,), ((),))


@numpy_names
def cumsum(input: Tensor, dim: int, *, dtype: Any = None, out: Tensor | None = None) -> Tensor:
    """Running sum along an axis; integers become int64."""
    return into(out, _scan("cumsum", input, dim, dtype), "cumsum", (input,))


@numpy_names
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running product along an axis; integers become int64."""
    return _scan("cumprod", input, dim, dtype)


@with_out
def cummax(input: Tensor, dim: int) -> Any:
    """Running maximum: (values, indices of the last maximum so far)."""
    return PAIRS["cummax"](*_scan("cummax", input, dim))


@with_out
def cummin(input: Tensor, dim: int) -> Any:
    """Running minimum: (values, indices of the last minimum so far)."""
    return PAIRS["cummin"](*_scan("cummin", input, dim))


@with_out
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """Running logsumexp along an axis, without overflow."""
    return _scan("logcumsumexp", input, dim)


def between(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """A copy-free slice of one axis."""
    shape = x._data.type.shape
    starts, stops = [0] * len(shape), list(shape)
    starts[dim], stops[dim] = start, stop
    return apply(SLICE, (x,), (tuple(starts), tuple(stops), (1,) * len(shape)))


@with_out
def diff(input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None) -> Tensor:
    """n-th differences of neighbours along an axis."""
    if not input._data.type.shape:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    dim = normalize_dim("diff", dim, input._data.type.ndim)
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    if n == 0:
        return apply(COPY, (input,))
    parts = [p for p in (prepend, input, append) if p is not None]
    if builtins.any(p._data.type.ndim != input._data.type.ndim for p in parts):
        raise RuntimeError("diff expects prepend or append to be the same dimension as input, got shapes "
                           f"{', '.join(str(list(p._data.type.shape)) for p in parts)}")
    x = cat(parts, dim) if len(parts) > 1 else input
    for _ in range(n):
        size = x._data.type.shape[dim]
        if size == 0:
            return x
        op = TABLE["logical_xor"] if x._data.type.dtype.category == BOOL else SUB
        x = apply(op, (between(x, dim, 1, size), between(x, dim, 0, size - 1)))
    return x


def _steps(y: Tensor, x: Tensor | None, dx: float, dim: int) -> tuple[Tensor, int]:
    """Areas of the trapezoids between neighbours, and the axis."""
    if y._data.type.dtype.category == BOOL or (x is not None and x._data.type.dtype.category == BOOL):
        raise RuntimeError("trapezoid: received a bool input for `x` or `y`, but bool is not supported")
    dim = normalize_dim("trapezoid", dim, y._data.type.ndim)
    if not y._data.type.shape:
        raise IndexError(f"trapezoid: Dimension specified as {dim} but tensor has no dimensions")
    size = y._data.type.shape[dim]
    pairs = apply(ADD, (between(y, dim, 1, size), between(y, dim, 0, size - 1)))
    if x is None:
        return apply(MUL, (pairs, dx / 2)), dim
    shape, ndim = x._data.type.shape, y._data.type.ndim
    if len(shape) == 1 and shape[0] != size:
        raise RuntimeError(f"trapezoid: There must be one `x` value for each sample point, got {shape[0]} for {size} along axis {dim}")
    if len(shape) < ndim:
        after = ndim - 1 - dim if len(shape) == 1 else 0
        x = apply(RESHAPE, (x,), ((1,) * (ndim - len(shape) - after) + shape + (1,) * after,))
    return apply(MUL, (apply(MUL, (pairs, diff(x, 1, dim))), 0.5)), dim


def trapezoid(y: Tensor, x: Tensor | Omitted = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """Integral by the trapezoidal rule along an axis."""
    along = normalize_dim("trapezoid", dim, y._data.type.ndim)
    if y._data.type.shape and not y._data.type.shape[along]:
        return sum(y, along, dtype=y._data.type.dtype)  # whatever the steps are
    return sum(*_steps(y, x, dx, dim))


trapz = trapezoid


def cumulative_trapezoid(y: Tensor, x: Tensor | Omitted = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """Running integral by the trapezoidal rule."""
    return cumsum(*_steps(y, x, dx, dim))
