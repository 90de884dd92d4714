"""Prefix operations along an axis: element i of the result combines elements 0 to i of the operand."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.common import Types, axes, need_dim, need_float, zeros
from treadle.ir.types import TensorType

_SAMPLES = [(((3, 4),), (1,)), (((2, 3, 4),), (1,)), (((5,),), (0,)), (((),), (0,)), (((3, 0),), (1,)), (((0, 3),), (1,))]


def _backwards(b: Any, name: str, x: Any, dim: int) -> Any:
    """The prefix op `name` from the end of the axis to its start."""
    dims = axes(x, dim)
    return b.flip(getattr(b, name)(b.flip(x, dims), dim), dims)


# -- sums and products ---------------------------------------------------------------------------------------------------
def _total_type(name: str) -> Callable[..., TensorType]:
    """Integers and booleans become int64, as sums of them do."""
    def type_rule(types: Types, dim: int) -> TensorType:
        x = types[0]
        need_dim(name, dim, x.ndim)
        return x.with_(dtype=x.dtype if x.dtype.category >= FLOAT else dtypes.int64)
    return type_rule


def _np_total(ufunc: np.ufunc) -> Callable[[np.ndarray, int], np.ndarray]:
    """Floats accumulate in float64, and each prefix is rounded once."""
    def reference(x: np.ndarray, dim: int) -> np.ndarray:
        wide = np.dtype(np.int64 if x.dtype.kind in "iub" else np.complex128 if x.dtype.kind == "c" else np.float64)
        out = ufunc.accumulate(np.atleast_1d(x).astype(wide), axis=dim)
        return out if x.dtype.kind in "iub" else out.astype(x.dtype)
    return reference


def _cumprod_vjp(b: Any, g: Any, x: Any, out: Any, dim: int) -> Any:
    """d out_i / d x_k = out_i / x_k before the first zero; at it, the product of all the others; behind it, nothing."""
    zero = b.eq(x, 0)
    seen = b.cumsum(zero, dim)
    first = b.logical_and(zero, b.eq(seen, 1))
    before = b.div(_backwards(b, "cumsum", b.mul(g, out), dim), b.where(zero, 1.0, x))
    others = b.cumprod(b.where(first, 1.0, x), dim)
    at = _backwards(b, "cumsum", b.mul(g, others), dim)
    return b.where(b.eq(seen, 0), before, b.where(first, at, 0.0))


declare("cumsum", Kind.SCAN, "x", "dim", routine="scan", field=Field.ANALYTIC, type_rule=_total_type("cumsum"), reference=_np_total(np.add),
        vjp=(lambda b, g, dim: _backwards(b, "cumsum", g, dim),), samples=_SAMPLES, onnx="CumSum", doc="Running sums along `dim`.")
declare("cumprod", Kind.SCAN, "x", "dim", routine="scan", field=Field.ANALYTIC,
        type_rule=_total_type("cumprod"), reference=_np_total(np.multiply),
        vjp=(_cumprod_vjp,), samples=[*_SAMPLES, ((np.array([[2.0, 0.0, 3.0, 0.0, 1.5], [0.0, 2.0, 4.0, 1.0, 3.0]]),), (1,))],
        doc="Running products along `dim`.")


# -- extremes ------------------------------------------------------------------------------------------------------------
def _extreme_type(name: str) -> Callable[..., tuple[TensorType, TensorType]]:
    def type_rule(types: Types, dim: int) -> tuple[TensorType, TensorType]:
        need_dim(name, dim, types[0].ndim)
        return types[0], types[0].with_(dtype=dtypes.int64)
    return type_rule


def _np_extreme(ufunc: np.ufunc) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """Of equal elements the last one counts, and NaN, once met, wins."""
    def reference(x: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.atleast_1d(x)
        best = ufunc.accumulate(x, axis=dim)
        position = np.arange(x.shape[dim]).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
        taken = np.where((x == best) | (x != x), position, 0)
        index = np.maximum.accumulate(taken, axis=dim)
        return np.take_along_axis(x, index, dim), index
    return reference


def _extreme_vjp(b: Any, g: Any, out: Any, x_type: TensorType, dim: int) -> Any:
    return b.scatter_add(zeros(b, x_type, g[0].type.dtype), out[1], g[0], dim)


for _name, _ufunc in (("cummax", np.maximum), ("cummin", np.minimum)):
    declare(_name, Kind.SCAN, "x", "dim", routine="scan", type_rule=_extreme_type(_name), reference=_np_extreme(_ufunc),
            vjp=(_extreme_vjp,), rewritable="out", samples=_SAMPLES,
            doc=f"Running {_ufunc.__name__} along `dim` and the index of its last occurrence so far; NaN stays once met.")


# -- logcumsumexp ----------------------------------------------------------------------------------------------------------
def _logcumsumexp_type(types: Types, dim: int) -> TensorType:
    need_float("logcumsumexp", types[0])
    need_dim("logcumsumexp", dim, types[0].ndim)
    return types[0]


def _logcumsumexp_vjp(b: Any, g: Any, x: Any, out: Any, dim: int) -> Any:
    """dx_k = sum over i >= k of g_i exp(x_k - out_i), by the logarithms of the positive and the negative g, so that no term overflows."""
    if x.type.dtype.is_complex:
        return b.exp(b.add(_backwards(b, "logcumsumexp", _log_ratio(b, g, out), dim), x))
    def part(signed: Any) -> Any:
        positive = b.gt(signed, 0)
        kept = b.logical_and(positive, b.logical_not(b.isinf(out)))
        log = b.where(kept, b.sub(b.log(b.where(positive, signed, 1.0)), b.where(kept, out, 0.0)), -math.inf)
        return b.exp(b.add(_backwards(b, "logcumsumexp", log, dim), x))
    return b.sub(part(g), part(b.neg(g)))


def _logcumsumexp_jvp(b: Any, tangents: tuple[Any, ...], operands: tuple[Any, ...], outs: tuple[Any, ...], dim: int) -> Any:
    """sum over k <= i of t_k exp(x_k - out_i), by logarithms as in the gradient."""
    (t,), (x,), (out,) = tangents, operands, outs
    if x.type.dtype.is_complex:
        return b.exp(b.sub(b.logcumsumexp(b.add(b.log(t), x), dim), _finite(b, out)))
    safe = b.where(b.isinf(out), 0.0, out)

    def part(signed: Any) -> Any:
        positive = b.gt(signed, 0)
        log = b.where(positive, b.log(b.where(positive, signed, 1.0)), -math.inf)
        return b.exp(b.sub(b.logcumsumexp(b.add(log, x), dim), safe))
    return b.sub(part(t), part(b.neg(t)))


def _finite(b: Any, out: Any) -> Any:
    return b.where(b.isinf(out), 0.0, out)


def _log_ratio(b: Any, g: Any, out: Any) -> Any:
    """log(g / exp(out)) of complex numbers; nothing of a sum that is zero."""
    return b.where(b.isinf(out), complex(-math.inf, 0.0), b.sub(b.log(g), _finite(b, out)))


def _np_logcumsumexp(x: np.ndarray, dim: int) -> np.ndarray:
    """The larger real part leads; a term whose real part is -inf adds nothing."""
    x = np.atleast_1d(x)
    if x.dtype.kind != "c":
        return np.logaddexp.accumulate(x.astype(np.float64), axis=dim).astype(x.dtype)
    out = np.moveaxis(x.astype(np.complex128), dim, 0).copy()
    for i in range(1, len(out)):
        first = (out[i - 1].real >= out[i].real) | np.isnan(out[i - 1].real)
        high, low = np.where(first, out[i - 1], out[i]), np.where(first, out[i], out[i - 1])
        ratio = np.where(low.real == -np.inf, 0.0, np.exp(low - high))
        out[i] = np.where(np.isinf(high.real) & (high.real == low.real) & (high.real < 0), low, high + np.log1p(ratio))
    return np.moveaxis(out, 0, dim).astype(x.dtype)


declare("logcumsumexp", Kind.SCAN, "x", "dim", routine="scan", field=Field.ANALYTIC, type_rule=_logcumsumexp_type, jvp=_logcumsumexp_jvp,
        vjp=(_logcumsumexp_vjp,), samples=_SAMPLES,
        reference=_np_logcumsumexp,
        doc="log(cumsum(exp(x))) without overflow.")
