"""Composites over the primitive ops: interpolation and bounds, statistics, softmax, dropout, affine products."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT, INT, DType
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.common import (
    Dims,
    Types,
    axes,
    in_float32,
    iota_along,
    need_dim,
    need_float,
    number,
    real_part,
    refuse_complex_number,
    zeros,
)
from treadle.ir.ops.create import uniform
from treadle.ir.ops.elementwise import elementwise_rule
from treadle.ir.ops.matmul import accumulated, transposed
from treadle.ir.ops.reduce import SAMPLES as REDUCE_SAMPLES
from treadle.ir.ops.reduce import reduced_shape, refuse_empty, restore
from treadle.ir.ops.view import sum_to
from treadle.ir.types import TensorType, broadcast_shapes


def _broadcasting(name: str, operands: str, decompose: Callable[..., Any], vjp: Any = None, refuse: tuple[int, ...] = (),
                  check: Callable[[Types], None] | None = None, **facts: Any) -> None:
    count = len(operands.split())
    facts.setdefault("samples", [(((3, 4),) * count, ()), (((3, 1), (4,), ())[:count], ()), (((0, 2),) * count, ())])
    facts.setdefault("field", Field.ANALYTIC if name in ("square", "lerp", "addcmul", "addcdiv") else Field.REAL)
    if vjp is not None:
        vjp = tuple([f and in_float32(f) for f in vjp])
    declare(name, Kind.COMPOSITE, operands, type_rule=elementwise_rule(name, "promote", False, refuse, check),
            decompose=in_float32(decompose), vjp=vjp, batch="elementwise", **facts)


# -- elementwise ---------------------------------------------------------------------------------------------------------
def _logaddexp(b: Any, x: Any, y: Any) -> Any:
    equal = b.logical_and(b.isinf(x), b.eq(x, y))  # inf - inf is NaN
    return b.where(equal, x, b.add(b.maximum(x, y), b.log1p(b.exp(b.neg(b.abs(b.sub(x, y)))))))


def _xlogy(b: Any, x: Any, y: Any) -> Any:
    return b.where(b.logical_and(b.eq(x, 0), b.logical_not(b.isnan(y))), 0.0, b.mul(x, b.log(y)))


def _xlogy_dx(b: Any, g: Any, x: Any, y: Any) -> Any:
    return b.where(b.logical_and(b.eq(x, 0), b.le(y, 0)), 0.0, b.mul(g, b.log(y)))


def _check_lerp(types: Types) -> None:
    """RuntimeError unless the tensors are of one dtype."""
    for what, t in zip(("end", "weight"), types[1:], strict=True):
        if t.dtype is not types[0].dtype and not t.weak:
            raise RuntimeError(f"lerp: expected dtype {types[0].dtype.name} for `{what}` but got dtype {t.dtype.name}")


_broadcasting("square", "x", lambda b, x: b.mul(x, x), (lambda b, g, x: b.mul(g, b.mul(x, 2)),), (BOOL,), doc="x * x")
_broadcasting("lerp", "x y weight", lambda b, x, y, w: b.where(b.lt(b.abs(w), 0.5), b.add(x, b.mul(w, b.sub(y, x))),
                                                               b.sub(y, b.mul(b.sub(y, x), b.sub(1, number(b, w, x.type.dtype))))),
              (lambda b, g, weight: b.mul(g, b.sub(1, number(b, weight, g.type.dtype))), lambda b, g, weight: b.mul(g, weight),
               lambda b, g, x, y: b.mul(g, b.sub(y, x))), (BOOL, INT), _check_lerp, doc="x + weight * (y - x), exact at both ends.")
_broadcasting("addcmul", "x y z value", lambda b, x, y, z, value: b.add(x, b.mul(b.mul(y, value), z)), refuse=(BOOL,),
              samples=[(((3, 4), (3, 4), (3, 4), 0.5), ()), (((3, 1), (4,), (), 0.5), ())], doc="x + value * y * z")
_broadcasting("addcdiv", "x y z value", lambda b, x, y, z, value: b.add(x, b.mul(value, b.div(y, z))), refuse=(BOOL, INT),
              samples=[(((3, 4), (3, 4), (3, 4), 0.5), ()), (((3, 1), (4,), (), 0.5), ())], domain=(0.3, 2.0), doc="x + value * y / z")
_broadcasting("logaddexp", "x y", _logaddexp, (lambda b, g, x, y: b.mul(g, b.sigmoid(b.sub(x, y))),
                                               lambda b, g, x, y: b.mul(g, b.sigmoid(b.sub(y, x)))), (BOOL, INT),
                                               doc="log(exp(x) + exp(y))")
declare("xlogy", Kind.COMPOSITE, "x y", batch="elementwise",
        type_rule=elementwise_rule("xlogy", "float", False, ()), decompose=in_float32(_xlogy),
        vjp=(in_float32(_xlogy_dx), in_float32(lambda b, g, x, y: b.div(b.mul(g, x), y))), domain=(0.3, 2.0),
        samples=[(((3, 4), (3, 4)), ()), (((3, 1), (4,)), ())], doc="x * log(y), and 0 where x is 0.")
_broadcasting("clamp", "x low high", lambda b, x, low, high: b.minimum(b.maximum(x, low), high),
              (lambda b, g, x, low, high: b.where(b.logical_and(b.ge(x, low), b.le(x, high)), g, 0.0),
               lambda b, g, x, low, high: b.where(b.logical_and(b.lt(x, low), b.lt(low, high)), g, 0.0),
               lambda b, g, x, low, high: b.where(b.logical_or(b.gt(x, high), b.lt(high, low)), g, 0.0)), (BOOL,),
              samples=[(((3, 4), -0.5, 0.6), ()), (((3, 4), (4,), (3, 1)), ())], onnx="Clip",
              doc="x moved into [low, high]; the gradient is 1 inside, bounds included.")
_broadcasting("clamp_min", "x low", lambda b, x, low: b.maximum(x, low),
              (lambda b, g, x, low: b.where(b.ge(x, low), g, 0.0), lambda b, g, x, low: b.where(b.lt(x, low), g, 0.0)), (),
              samples=[(((3, 4), -0.5), ()), (((3, 4), (4,)), ())], doc="max(x, low); the gradient goes to x where they are equal.")
_broadcasting("clamp_max", "x high", lambda b, x, high: b.minimum(x, high),
              (lambda b, g, x, high: b.where(b.le(x, high), g, 0.0), lambda b, g, x, high: b.where(b.gt(x, high), g, 0.0)), (),
              samples=[(((3, 4), 0.5), ()), (((3, 4), (4,)), ())], doc="min(x, high); the gradient goes to x where they are equal.")


def _nan_to_num(b: Any, x: Any, nan: Any, posinf: Any, neginf: Any) -> Any:
    if x.type.dtype.category != FLOAT:
        return b.copy(x)
    limited = b.where(b.eq(x, math.inf), posinf, b.where(b.eq(x, -math.inf), neginf, x))
    return b.where(b.isnan(x), nan, limited)


declare("nan_to_num", Kind.COMPOSITE, "x nan posinf neginf", batch="rows", type_rule=lambda t: t[0], decompose=_nan_to_num,
        samples=[(((3, 4), 0.0, 1e4, -1e4), ())],
        vjp=(lambda b, g, x: b.where(b.isfinite(x), g, 0.0), None, None, None), doc="NaN and infinities replaced by the three numbers.")


def _masked_fill_type(types: Types) -> TensorType:
    x, mask = types[:2]
    if mask.dtype is not dtypes.bool_:
        raise RuntimeError(f"masked_fill: only supports boolean masks, but got mask with dtype {mask.dtype.name}")
    refuse_complex_number(types[2], x.dtype)
    if types[2].shape:
        raise RuntimeError(f"masked_fill: only supports a 0-dimensional value tensor, but got tensor with {types[2].ndim} dimension(s).")
    return x.with_(broadcast_shapes("masked_fill", x.shape, mask.shape))


_MASK = np.array([[True, False, True, False]])
declare("masked_fill", Kind.COMPOSITE, "x mask value", field=Field.ANALYTIC, type_rule=_masked_fill_type,
        decompose=lambda b, x, mask, value: b.where(mask, b.cast(value, x.type.dtype), x),
        vjp=(lambda b, g, mask: b.where(mask, 0.0, g), None, lambda b, g, mask: b.where(mask, g, 0.0)),
        samples=[(((3, 4), _MASK, 2.5), ()), (((4,), _MASK, ()), ()), (((), _MASK, 1.5), ())],
        doc="`value` where the mask holds, x elsewhere.")


# -- statistics ----------------------------------------------------------------------------------------------------------
def _count(shape: tuple[int, ...], dims: Dims) -> int:
    return math.prod([shape[d] for d in dims])


def _mean_type(types: Types, dims: Dims, keepdim: bool, dtype: DType | None) -> TensorType:
    target = dtype or types[0].dtype
    if target.category < FLOAT:
        raise RuntimeError("mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
                           f"Got: {target.name} (input {types[0]})")
    return types[0].with_(reduced_shape(types[0].shape, dims, keepdim), target)


def _mean(b: Any, x: Any, dims: Dims, keepdim: bool, dtype: DType | None) -> Any:
    target = dtype or x.type.dtype
    wide = dtypes.float32 if target.itemsize == 2 else target
    total = b.sum(x if x.type.dtype is wide else b.cast(x, wide), dims, keepdim, None)
    mean = b.div(total, _count(x.type.shape, dims))
    return mean if wide is target else b.cast(mean, target)


declare("mean", Kind.COMPOSITE, "x", "dims keepdim dtype", field=Field.ANALYTIC, batch="leading",
        type_rule=_mean_type, decompose=_mean, onnx="ReduceMean",
        vjp=(lambda b, g, x_type, dims, keepdim: restore(b, b.div(g, _count(x_type.shape, dims)), x_type, dims, keepdim),),
        samples=[(shapes, (*attrs, None)) for shapes, attrs in REDUCE_SAMPLES],
        doc="The mean over `dims`, in `dtype` if given. RuntimeError for integers without a dtype; NaN for no elements.")


def _var_type(types: Types, dims: Dims, correction: float, keepdim: bool) -> TensorType:
    if types[0].dtype.category < FLOAT:
        raise RuntimeError(f"std and var only support floating point and complex dtypes, but got {types[0]}")
    return types[0].with_(reduced_shape(types[0].shape, dims, keepdim), dtypes.to_real(types[0].dtype))


def _centred(b: Any, x: Any, dims: Dims) -> Any:
    return b.sub(x, b.mean(x, dims, True, None))


def _var(b: Any, x: Any, dims: Dims, correction: float, keepdim: bool) -> Any:
    d = _centred(b, x, dims)
    square = b.real(b.mul(d, b.conj(d))) if x.type.dtype.is_complex else b.mul(d, d)
    return b.div(b.sum(square, dims, keepdim, None), max(_count(x.type.shape, dims) - correction, 0))


def _var_vjp(b: Any, g: Any, x: Any, dims: Dims, correction: float, keepdim: bool) -> Any:
    scaled = b.div(b.mul(g, 2.0), max(_count(x.type.shape, dims) - correction, 0))
    return b.mul(restore(b, scaled, x.type, dims, keepdim), _centred(b, x, dims))


def _std_vjp(b: Any, g: Any, x: Any, out: Any, dims: Dims, correction: float, keepdim: bool) -> Any:
    return _var_vjp(b, b.where(b.eq(out, 0), 0.0, b.div(g, b.mul(out, 2))), x, dims, correction, keepdim)


_VAR_SAMPLES = [(((3, 4, 5),), ((1,), 1, False)), (((3, 4, 5),), ((0, 2), 0, True)), (((4, 6),), ((0, 1), 1, False))]
declare("var", Kind.COMPOSITE, "x", "dims correction keepdim", field=Field.COMPLEX, batch="leading",
        type_rule=_var_type, decompose=in_float32(_var), vjp=(in_float32(_var_vjp),),
        samples=_VAR_SAMPLES, doc="Mean square distance from the mean, over count - correction.")
declare("std", Kind.COMPOSITE, "x", "dims correction keepdim", field=Field.COMPLEX, batch="leading",
        type_rule=_var_type, vjp=(in_float32(_std_vjp),), samples=_VAR_SAMPLES,
        decompose=in_float32(lambda b, x, dims, correction, keepdim: b.sqrt(_var(b, x, dims, correction, keepdim))), doc="sqrt(var)")


def _extreme_type(name: str) -> Callable[..., tuple[TensorType, TensorType]]:
    def type_rule(types: Types, dim: int, keepdim: bool) -> tuple[TensorType, TensorType]:
        x = types[0]
        need_dim(name, dim, x.ndim)
        if x.ndim:
            refuse_empty(name, x, (dim,))
        shape = reduced_shape(x.shape, (dim,), keepdim)
        return x.with_(shape), x.with_(shape, dtypes.int64)
    return type_rule


def _extreme_vjp(b: Any, g: Any, out: Any, x_type: TensorType, dim: int, keepdim: bool) -> Any:
    """All of the gradient goes to the element that was chosen."""
    if not x_type.shape:
        return g[0]
    chosen = b.eq(iota_along(b, x_type, dim), restore(b, out[1], x_type, (dim,), keepdim))
    return b.where(chosen, restore(b, g[0], x_type, (dim,), keepdim), 0.0)


def _extreme(reduce: str, position: str) -> Callable[..., Any]:
    def decompose(b: Any, x: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
        if not x.type.shape:
            return b.copy(x), b.full(0, (), dtypes.int64, x.type.device)
        rank = b.cast(x, dtypes.uint8) if x.type.dtype.category == BOOL else x
        return getattr(b, reduce)(x, (dim,), keepdim), getattr(b, position)(rank, dim, keepdim)
    return decompose


for _name in ("max", "min"):
    declare(f"{_name}_dim", Kind.COMPOSITE, "x", "dim keepdim", batch="leading", type_rule=_extreme_type(_name),
            decompose=_extreme(f"a{_name}", f"arg{_name}"),
            vjp=(_extreme_vjp,), rewritable="out", samples=[(((3, 4, 5),), (1, False)), (((3, 4),), (1, True)), (((),), (0, False))],
            doc=f"The {_name}imum along an axis and the index of its first occurrence.")


# -- softmax -------------------------------------------------------------------------------------------------------------
def _softmax_type(name: str) -> Callable[..., TensorType]:
    def type_rule(types: Types, dim: int) -> TensorType:
        need_float(name, types[0])
        need_dim(name, dim, types[0].ndim)
        return types[0]
    return type_rule


def _softmax(b: Any, x: Any, dim: int) -> Any:
    if not x.type.numel:
        return b.copy(x)
    dims = axes(x, dim)
    e = b.exp(b.sub(x, b.amax(x, dims, True)))
    return b.div(e, b.sum(e, dims, True, None))


def _log_softmax(b: Any, x: Any, dim: int) -> Any:
    if not x.type.numel:
        return b.copy(x)
    dims = axes(x, dim)
    shifted = b.sub(x, b.amax(x, dims, True))
    return b.sub(shifted, b.log(b.sum(b.exp(shifted), dims, True, None)))


def _softmax_vjp(b: Any, g: Any, out: Any, dim: int) -> Any:
    product = b.mul(g, out)
    return b.sub(product, b.mul(out, b.sum(product, axes(out, dim), True, None)))


def _log_softmax_vjp(b: Any, g: Any, out: Any, dim: int) -> Any:
    return b.sub(g, b.mul(b.exp(out), b.sum(g, axes(out, dim), True, None)))


_SOFTMAX_SAMPLES = [(((3, 4),), (1,)), (((2, 3, 4),), (1,)), (((),), (0,)), (((3, 0),), (1,))]
declare("softmax", Kind.COMPOSITE, "x", "dim", batch="leading", type_rule=_softmax_type("softmax"), decompose=in_float32(_softmax),
        vjp=(in_float32(_softmax_vjp),), samples=_SOFTMAX_SAMPLES, onnx="Softmax",
        doc="exp(x) over its sum along `dim`, shifted so that nothing overflows.")
declare("log_softmax", Kind.COMPOSITE, "x", "dim", batch="leading",
        type_rule=_softmax_type("log_softmax"), decompose=in_float32(_log_softmax),
        vjp=(in_float32(_log_softmax_vjp),), samples=_SOFTMAX_SAMPLES, onnx="LogSoftmax",
        doc="log(softmax(x)) along `dim`, without overflow.")


def _logsumexp_type(types: Types, dims: Dims, keepdim: bool) -> TensorType:
    need_float("logsumexp", types[0])
    return types[0].with_(reduced_shape(types[0].shape, dims, keepdim))


def _logsumexp(b: Any, x: Any, dims: Dims, keepdim: bool) -> Any:
    shape = reduced_shape(x.type.shape, dims, keepdim)
    if not x.type.numel:
        return b.full(-math.inf, shape, x.type.dtype, x.type.device)
    top = b.amax(real_part(b, x), dims, True)
    top = b.where(b.isinf(top), 0.0, top)  # a row of -inf, or one with inf, must not give inf - inf
    total = b.log(b.sum(b.exp(b.sub(x, top)), dims, keepdim, None))
    return b.add(total, top if keepdim else b.reshape(top, shape))


def _logsumexp_vjp(b: Any, g: Any, x: Any, out: Any, dims: Dims, keepdim: bool) -> Any:
    safe = restore(b, b.where(b.isinf(out), 0.0, out), x.type, dims, keepdim)
    return b.mul(restore(b, g, x.type, dims, keepdim), b.exp(b.sub(x, safe)))


declare("logsumexp", Kind.COMPOSITE, "x", "dims keepdim", field=Field.ANALYTIC, batch="leading",
        type_rule=_logsumexp_type, decompose=in_float32(_logsumexp),
        vjp=(in_float32(_logsumexp_vjp),), samples=REDUCE_SAMPLES, onnx="ReduceLogSumExp",
        doc="log of the sum of exp(x) over `dims`, without overflow.")


# -- dropout, affine products ----------------------------------------------------------------------------------------------
def _dropout_type(types: Types) -> TensorType:
    need_float("dropout", types[0])
    return types[0]


def _dropout(b: Any, x: Any, p: Any, seed: Any, offset: Any) -> Any:
    kept = b.ge(uniform(b, seed, offset, x.type.shape, dtypes.float32, x.type.device), b.cast(p, dtypes.float32))
    scale = b.cast(b.div(1.0, b.sub(1.0, number(b, p))), x.type.dtype)
    return b.where(kept, b.mul(x, scale), 0.0)


declare("dropout", Kind.COMPOSITE, "x p seed offset", batch="draw", type_rule=_dropout_type, decompose=in_float32(_dropout),
        vjp=(lambda b, g, p, seed, offset: b.dropout(g, p, seed, offset), None, None, None),
        samples=[(((3, 4), 0.4, 11, 4), ())],
        doc="x / (1 - p) with probability 1 - p, else 0. The mask follows from (seed, offset): the gradient recomputes it.")


def _addmm_type(types: Types) -> TensorType:
    bias, x, y = types[:3]
    if x.ndim < 2 or y.ndim != x.ndim or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-2]:
        raise RuntimeError(f"addmm: mat1 and mat2 shapes cannot be multiplied ({_dims(x)} and {_dims(y)})")
    if not bias.dtype is x.dtype is y.dtype:
        raise RuntimeError(f"addmm: expected all three operands to have the same dtype, but got {bias.dtype.name}, {x.dtype.name} and "
                           f"{y.dtype.name}")
    shape = (*x.shape[:-1], y.shape[-1])
    if broadcast_shapes("addmm", bias.shape, shape) != shape:
        raise RuntimeError(f"addmm: The expanded size of the tensor must match the existing size. Target sizes: {list(shape)}. "
                           f"Tensor sizes: {list(bias.shape)}")
    return x.with_(shape)


def _dims(t: TensorType) -> str:
    return "x".join(map(str, t.shape)) or "scalar"


def _addmm(b: Any, bias: Any, x: Any, y: Any, beta: Any, alpha: Any) -> Any:
    product = accumulated(b, x, y)  # to which 16-bit floats are widened
    found = b.add(b.mul(b.cast(bias, dtypes.float32) if product.type.dtype is not bias.type.dtype else bias, beta), b.mul(product, alpha))
    return found if found.type.dtype is x.type.dtype else b.cast(found, x.type.dtype)


declare("addmm", Kind.COMPOSITE, "bias x y beta alpha", field=Field.ANALYTIC, type_rule=_addmm_type,
        decompose=_addmm,
        vjp=(lambda b, g, beta, bias_type: sum_to(b, b.mul(g, beta), bias_type.shape),
             lambda b, g, y, alpha: b.mul(b.matmul(g, transposed(b, y)), alpha),
             lambda b, g, x, alpha: b.mul(b.matmul(transposed(b, x), g), alpha), None, None),
        samples=[(((4,), (3, 5), (5, 4), 0.5, 2.0), ()), (((3, 4), (3, 5), (5, 4), 1, 1), ()),
                 (((2, 1, 4), (2, 3, 5), (2, 5, 4), 0.5, 2.0), ())],
        onnx="Gemm", doc="beta * bias + alpha * (x @ y), of matrices or stacks of them.")


# -- triangles, one-hot ------------------------------------------------------------------------------------------------------
def _triangle_type(name: str) -> Callable[..., TensorType]:
    def type_rule(types: Types, diagonal: int) -> TensorType:
        if types[0].ndim < 2:
            raise RuntimeError(f"{name}: input tensor must have at least 2 dimensions, but got shape {list(types[0].shape)}")
        return types[0]
    return type_rule


def _triangle(compare: str) -> Callable[..., Any]:
    def decompose(b: Any, x: Any, diagonal: int) -> Any:
        n = len(x.type.shape)
        inside = getattr(b, compare)(iota_along(b, x.type, n - 1), b.add(iota_along(b, x.type, n - 2), diagonal))
        return b.where(inside, x, zeros(b, x.type) if x.type.dtype.category < FLOAT else 0.0)
    return decompose


for _name, _compare in {"tril": "le", "triu": "ge"}.items():
    declare(_name, Kind.COMPOSITE, "x", "diagonal", field=Field.ANALYTIC, batch="rows",
            type_rule=_triangle_type(_name), decompose=_triangle(_compare),
            vjp=(_triangle(_compare),),
            samples=[(((4, 5),), (0,)), (((2, 3, 3),), (1,)), (((3, 4),), (-1,))], onnx="Trilu",
            doc="The part of each matrix on and " + ("below" if _name == "tril" else "above") + " a diagonal, zeros elsewhere.")


def _one_hot(b: Any, index: Any, classes: int) -> Any:
    n = len(index.type.shape)
    lanes = b.reshape(b.iota(classes, dtypes.int64, index.type.device), (1,) * n + (classes,))
    return b.cast(b.eq(b.reshape(index, (*index.type.shape, 1)), lanes), dtypes.int64)


declare("one_hot", Kind.COMPOSITE, "index", "classes", batch="rows",
        type_rule=lambda t, classes: t[0].with_((*t[0].shape, classes), dtypes.int64),
        decompose=_one_hot, differentiable=False, samples=[((np.array([[0, 2], [1, 1]]),), (3,))],
        doc="A new last axis that is 1 at the index, 0 elsewhere (all 0 for an index outside).")
