"""Reductions over axes. `dims` is a sorted tuple of non-negative axes."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT, DType
from treadle.ir.op import Field, Kind, declare
from treadle.ir.types import Shape, TensorType

Types = tuple[TensorType, ...]
Dims = tuple[int, ...]

SAMPLES = [(((3, 4, 5),), ((1,), False)), (((3, 4, 5),), ((0, 2), True)), (((4, 6),), ((0,), False)), (((4, 6),), ((0, 1), False)),
           (((),), ((), False))]


def reduced_shape(shape: Shape, dims: Dims, keepdim: bool) -> Shape:
    if keepdim:
        return tuple([1 if i in dims else n for i, n in enumerate(shape)])
    return tuple([n for i, n in enumerate(shape) if i not in dims])


def restore(b: Any, g: Any, x_type: TensorType, dims: Dims, keepdim: bool) -> Any:
    """Broadcast a reduced value back over the reduced axes."""
    if not keepdim:
        g = b.reshape(g, reduced_shape(x_type.shape, dims, True))
    return b.expand(g, x_type.shape)


def _sum_dtype(t: TensorType, dtype: DType | None) -> DType:
    return dtype or (t.dtype if t.dtype.category >= FLOAT else dtypes.int64)


def _sum_type(types: Types, dims: Dims, keepdim: bool, dtype: DType | None) -> TensorType:
    return types[0].with_(reduced_shape(types[0].shape, dims, keepdim), _sum_dtype(types[0], dtype))


def _accumulate(function: Callable[..., Any]) -> Callable[..., Any]:
    """Sums and products of 16-bit floats accumulate in float32, as the kernels do."""
    def reference(x: np.ndarray, dims: Dims, keepdim: bool, dtype: DType | None) -> np.ndarray:
        target = dtype.np if dtype else (np.dtype(np.int64) if x.dtype.kind in "iub" else x.dtype)
        x = x.real if x.dtype.kind == "c" != target.kind else x
        wide = np.float32 if target.itemsize == 2 and target.kind not in "iu" else target
        return np.asarray(function(x.astype(wide), axis=dims, keepdims=keepdim, dtype=wide)).astype(target)
    return reference


def _sum_samples(*dtype: Any) -> list[Any]:
    return [(shapes, (*attrs, None)) for shapes, attrs in SAMPLES]


def _prod_vjp(b: Any, g: Any, x: Any, out: Any, dims: Dims, keepdim: bool) -> Any:
    """d prod / dx_i = product of the others: out / x_i, or, where zeros are, the product of the non-zero ones."""
    zero = b.eq(x, 0)
    zeros = restore(b, b.sum(zero, dims, True, None), x.type, dims, True)
    others = restore(b, b.prod(b.where(zero, 1.0, x), dims, True, None), x.type, dims, True)
    full = b.div(restore(b, out, x.type, dims, keepdim), b.where(zero, 1.0, x))
    partial = b.where(zero, b.where(b.eq(zeros, 1), others, 0.0), b.where(b.eq(zeros, 0), full, 0.0))
    return b.mul(restore(b, g, x.type, dims, keepdim), partial)


declare("sum", Kind.REDUCE, "x", "dims keepdim dtype", type_rule=_sum_type, field=Field.ANALYTIC,
        reference=_accumulate(np.sum), samples=_sum_samples(),
        vjp=(lambda b, g, x_type, dims, keepdim: restore(b, g, x_type, dims, keepdim),), onnx="ReduceSum",
        doc="The sum over `dims`, in `dtype` if given. Integers and bools are summed in int64, 16-bit floats in float32.")
declare("prod", Kind.REDUCE, "x", "dims keepdim dtype", type_rule=_sum_type, field=Field.ANALYTIC,
        reference=_accumulate(np.prod), samples=_sum_samples(),
        vjp=(_prod_vjp,), onnx="ReduceProd",
        doc="The product over `dims`, in `dtype` if given. Integers and bools are multiplied in int64, 16-bit floats in float32.")


def _extreme_type(name: str) -> Callable[..., TensorType]:
    def type_rule(types: Types, dims: Dims, keepdim: bool) -> TensorType:
        refuse_empty(name, types[0], dims)
        return types[0].with_(reduced_shape(types[0].shape, dims, keepdim))
    return type_rule


def refuse_empty(name: str, t: TensorType, dims: Dims) -> None:
    for d in dims:
        if t.shape[d] == 0:
            raise IndexError(f"{name}: Expected reduction dim {d} to have non-zero size (shape {list(t.shape)})")


def _extreme_vjp(b: Any, g: Any, x: Any, out: Any, dims: Dims, keepdim: bool) -> Any:
    """Ties share the gradient equally."""
    best = b.cast(b.eq(x, restore(b, out, x.type, dims, keepdim)), g.type.dtype)
    count = restore(b, b.sum(best, dims, True, None), x.type, dims, True)
    return b.mul(restore(b, g, x.type, dims, keepdim), b.div(best, count))


declare("amax", Kind.REDUCE, "x", "dims keepdim", type_rule=_extreme_type("amax"), samples=SAMPLES, vjp=(_extreme_vjp,),
        reference=lambda x, dims, keepdim: np.max(x, axis=dims, keepdims=keepdim), onnx="ReduceMax",
        doc="The largest element over `dims`; NaN wins. Equal ones share the gradient. IndexError for an axis of size 0.")
declare("amin", Kind.REDUCE, "x", "dims keepdim", type_rule=_extreme_type("amin"), samples=SAMPLES, vjp=(_extreme_vjp,),
        reference=lambda x, dims, keepdim: np.min(x, axis=dims, keepdims=keepdim), onnx="ReduceMin",
        doc="The smallest element over `dims`; NaN wins. Equal ones share the gradient. IndexError for an axis of size 0.")


def _boolean(types: Types, dims: Dims, keepdim: bool) -> TensorType:
    return types[0].with_(reduced_shape(types[0].shape, dims, keepdim), dtypes.bool_)


declare("any", Kind.REDUCE, "x", "dims keepdim", type_rule=_boolean, field=Field.ANALYTIC, samples=SAMPLES, differentiable=False,
        reference=lambda x, dims, keepdim: np.any(x != 0, axis=dims, keepdims=keepdim),
        onnx="ReduceMax", doc="Whether any element over `dims` is not 0; false for none.")
declare("all", Kind.REDUCE, "x", "dims keepdim", type_rule=_boolean, field=Field.ANALYTIC, samples=SAMPLES, differentiable=False,
        reference=lambda x, dims, keepdim: np.all(x != 0, axis=dims, keepdims=keepdim),
        onnx="ReduceMin", doc="Whether every element over `dims` is not 0; true for none.")


def _arg_type(name: str) -> Callable[..., TensorType]:
    def type_rule(types: Types, dim: int, keepdim: bool) -> TensorType:
        if types[0].dtype.category == BOOL:
            raise NotImplementedError(f'"{name}" not implemented for \'Bool\'')
        if types[0].ndim:
            refuse_empty(name, types[0], (dim,))
        return types[0].with_(reduced_shape(types[0].shape, (dim,), keepdim), dtypes.int64)
    return type_rule


def _arg(function: Callable[..., Any]) -> Callable[..., Any]:
    def reference(x: np.ndarray, dim: int, keepdim: bool) -> np.ndarray:
        if not x.ndim:
            return np.zeros((), np.int64)
        return np.asarray(function(x, axis=dim, keepdims=keepdim)).astype(np.int64)
    return reference


_ARG_SAMPLES = [(((3, 4, 5),), (1, False)), (((3, 4),), (1, True)), (((7, 3),), (0, False))]
declare("argmax", Kind.REDUCE, "x", "dim keepdim", type_rule=_arg_type("argmax"), reference=_arg(np.argmax), samples=_ARG_SAMPLES,
        differentiable=False, doc="Index of the first largest element along `dim`; NaN counts as largest.", onnx="ArgMax")
declare("argmin", Kind.REDUCE, "x", "dim keepdim", type_rule=_arg_type("argmin"), reference=_arg(np.argmin), samples=_ARG_SAMPLES,
        differentiable=False, doc="Index of the first smallest element along `dim`; NaN counts as smallest.", onnx="ArgMin")
