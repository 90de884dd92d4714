"""Normalisation over axes: rows to zero mean and unit variance (or unit mean square), then an optional scale and shift."""
from __future__ import annotations

import math
from typing import Any

from treadle.ir import dtypes
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.common import Dims, Types, in_float32, need_float
from treadle.ir.types import TensorType


def _mean(b: Any, x: Any, dims: Dims) -> Any:
    return b.mean(x, dims, True, None)


def _moments(b: Any, x: Any, eps: Any, dims: Dims) -> tuple[Any, Any]:
    """x less its mean, and 1 / sqrt(variance + eps), over `dims`."""
    d = b.sub(x, _mean(b, x, dims))
    return d, b.rsqrt(b.add(_mean(b, b.mul(d, d), dims), eps))


def _normalize(b: Any, x: Any, eps: Any, dims: Dims) -> Any:
    if not x.type.numel:
        return b.copy(x)
    d, scale = _moments(b, x, eps, dims)
    return b.mul(d, scale)


def _normalize_dx(b: Any, g: Any, y: Any, scale: Any, dims: Dims) -> Any:
    """Gradient of the operand from the gradient of y = (x - mean) * scale."""
    return b.mul(scale, b.sub(b.sub(g, _mean(b, g, dims)), b.mul(y, _mean(b, b.mul(g, y), dims))))


def _normalize_vjp(b: Any, g: Any, x: Any, eps: Any, dims: Dims) -> Any:
    d, scale = _moments(b, x, eps, dims)
    return _normalize_dx(b, g, b.mul(d, scale), scale, dims)


def _normalize_type(types: Types, dims: Dims) -> TensorType:
    need_float("normalize", types[0])
    return types[0]


declare("normalize", Kind.COMPOSITE, "x eps", "dims", batch="rows", type_rule=_normalize_type, decompose=in_float32(_normalize),
        vjp=(in_float32(_normalize_vjp), None), samples=[(((3, 4), 1e-3), ((1,),)), (((2, 3, 4), 1e-3), ((0, 2),))],
        doc="(x - mean) / sqrt(variance + eps) over `dims`: the core of batch, group and instance norm.")


# -- layer_norm and rms_norm -------------------------------------------------------------------------------------------------
def _last(x: TensorType, ndims: int) -> Dims:
    return tuple(range(x.ndim - ndims, x.ndim))


def _norm_type(name: str, most: int) -> Any:
    def type_rule(types: Types, ndims: int) -> TensorType:
        x, affine = types[0], types[2:]
        need_float(name, x)
        if not 0 < ndims <= x.ndim:
            raise RuntimeError(f"{name}: normalized_shape has {ndims} dimensions, but the input has shape {list(x.shape)}")
        if len(affine) > most:
            raise RuntimeError(f"{name}: takes at most {most} of weight and bias, got {len(affine)}")
        for what, t in zip(("weight", "bias"), affine, strict=False):
            if t.shape != x.shape[-ndims:]:
                raise RuntimeError(f"{name}: Expected {what} to be of same shape as normalized_shape, but got {what} of shape "
                                   f"{list(t.shape)} and normalized_shape = {list(x.shape[-ndims:])}")
            _check_parameter(name, what, t, x, affine[0])
        return x
    return type_rule


def _check_parameter(name: str, what: str, t: TensorType, x: TensorType, first: TensorType) -> None:
    """RuntimeError unless `t` has the dtype of the input, or is float32 beside one of 16 bits; and that of the `first` parameter."""
    if t.dtype is not x.dtype and not (t.dtype is dtypes.float32 and x.dtype.itemsize == 2):
        raise RuntimeError(f"{name}: mixed dtype: expected {what} of dtype {x.dtype.name} like the input, but got {t.dtype.name}")
    if t.dtype is not first.dtype:
        raise RuntimeError(f"{name}: mixed dtype: expected all parameters of dtype {first.dtype.name}, but got {what} of {t.dtype.name}")


def _scaled(b: Any, y: Any, affine: tuple[Any, ...], dtype: Any) -> Any:
    if affine:
        y = b.mul(y, affine[0])
    if len(affine) > 1:
        y = b.add(y, affine[1])
    return y if y.type.dtype is dtype else b.cast(y, dtype)


def _wide(b: Any, x: Any) -> Any:
    return b.cast(x, dtypes.float32) if x.type.dtype.itemsize == 2 else x


def _layer_norm(b: Any, x: Any, eps: Any, *rest: Any) -> Any:
    *affine, ndims = rest
    return _scaled(b, b.normalize(_wide(b, x), eps, _last(x.type, ndims)), tuple(affine), x.type.dtype)


def _rms_norm(b: Any, x: Any, eps: Any, *rest: Any) -> Any:
    *affine, ndims = rest
    wide = _wide(b, x)
    scale = b.rsqrt(b.add(_mean(b, b.mul(wide, wide), _last(x.type, ndims)), eps))
    return _scaled(b, b.mul(wide, scale), tuple(affine), x.type.dtype)


def _parameter_gradients(b: Any, g: Any, y: Any, affine: tuple[Any, ...], ndims: int) -> tuple[Any, ...]:
    """Sums over the leading axes: of g * y for the weight, of g for the bias."""
    rows = tuple(range(len(y.type.shape) - ndims))
    found = [b.mul(g, y), g][:len(affine)]
    return tuple([_cast_like(b, b.sum(v, rows, False, None) if rows else v, p) for v, p in zip(found, affine, strict=True)])


def _cast_like(b: Any, value: Any, like: Any) -> Any:
    return value if value.type.dtype is like.type.dtype else b.cast(value, like.type.dtype)


def _layer_norm_backward(b: Any, g: Any, x: Any, eps: Any, *rest: Any) -> Any:
    *affine, ndims = rest
    dims = _last(x.type, ndims)
    wide_g = _wide(b, g)
    d, scale = _moments(b, _wide(b, x), eps, dims)
    y = b.mul(d, scale)
    inner = b.mul(wide_g, affine[0]) if affine else wide_g
    dx = _cast_like(b, _normalize_dx(b, inner, y, scale, dims), x)
    return (dx, *_parameter_gradients(b, wide_g, y, tuple(affine), ndims)) if affine else dx


def _rms_norm_backward(b: Any, g: Any, x: Any, eps: Any, *rest: Any) -> Any:
    *affine, ndims = rest
    dims = _last(x.type, ndims)
    wide, wide_g = _wide(b, x), _wide(b, g)
    scale = b.rsqrt(b.add(_mean(b, b.mul(wide, wide), dims), eps))
    y = b.mul(wide, scale)
    inner = b.mul(wide_g, affine[0]) if affine else wide_g
    dx = _cast_like(b, b.mul(scale, b.sub(inner, b.mul(y, _mean(b, b.mul(inner, y), dims)))), x)
    return (dx, *_parameter_gradients(b, wide_g, y, tuple(affine), ndims)) if affine else dx


def _backward_type(types: Types, ndims: int) -> Any:
    need_float("norm_backward", types[1])
    return (types[1], *types[3:]) if len(types) > 3 else types[1]


def _norm_vjp(name: str) -> Any:
    def vjp(b: Any, g: Any, operands: tuple[Any, ...], operand_types: Types, ndims: int) -> tuple[Any, ...]:
        x_type = operand_types[0]
        if not x_type.numel:
            empty = tuple([b.full(0, t.shape, t.dtype, t.device) for t in (x_type, *operand_types[2:])])
            return (empty[0], None, *empty[1:])
        found = getattr(b, f"{name}_backward")(g, *operands, ndims=ndims)
        return (found[0], None, *found[1:]) if isinstance(found, tuple) else (found, None)
    return vjp


_NORMS: dict[str, Any] = {"layer_norm": (_layer_norm, _layer_norm_backward, 2, "(x - mean) / sqrt(variance + eps)"),
                          "rms_norm": (_rms_norm, _rms_norm_backward, 1, "x / sqrt(mean square + eps)")}
for _name, (_forward, _backward, _most, _doc) in _NORMS.items():
    _cases: list[Any] = [((3, 4), 1), ((2, 3, 4), 2), ((0, 4), 1)]
    _samples = [((shape, 1e-3, *((shape[-n:],) * k)), (n,)) for shape, n in _cases for k in range(_most + 1)]
    _field = Field.ANALYTIC if _name == "rms_norm" else Field.REAL
    declare(_name, Kind.COMPOSITE, "x eps affine*", "ndims", batch="rows", field=_field,
            type_rule=_norm_type(_name, _most), decompose=_forward, vjp=_norm_vjp(_name),
            samples=_samples, doc=f"{_doc} over the last `ndims` axes, times a weight and plus a bias if given.",
            onnx="LayerNormalization" if _name == "layer_norm" else "RMSNormalization")
    declare(f"{_name}_backward", Kind.COMPOSITE, "g x eps affine*", "ndims", field=_field, type_rule=_backward_type, decompose=_backward,
            samples=[((s[0][0], *s[0]), s[1]) for s in _samples if math.prod(s[0][0])],
            doc=f"Gradients of `{_name}` in x and in the weight and bias if given.")


# -- channels (axis 1) ---------------------------------------------------------------------------------------------------------
def per_channel(b: Any, v: Any, ndim: int) -> Any:
    """A value of shape (C,) as (1, C, 1, ...), to broadcast against a value of `ndim` axes."""
    return b.reshape(v, (1, v.type.numel) + (1,) * (ndim - 2))


def _channel_type(name: str, values: int) -> Any:
    def type_rule(types: Types, *attrs: Any) -> TensorType:
        x, vectors = types[0], (*types[1:1 + values], *types[2 + values:])
        need_float(name, x)
        if x.ndim < 2:
            raise RuntimeError(f"{name}: Expected at least 2 dimensions for input tensor but received {x.ndim} (shape {list(x.shape)})")
        names = (*("running_mean", "running_var")[:values], "weight", "bias")
        for what, t in zip(names, vectors, strict=False):
            if t.shape != (x.shape[1],):
                raise RuntimeError(f"{name}: {what} should contain {x.shape[1]} elements not {t.numel} (shape {list(t.shape)}, "
                                   f"input {list(x.shape)})")
            _check_parameter(name, what, t, x, vectors[0])
        if attrs and (attrs[0] < 1 or x.shape[1] % attrs[0]):
            raise RuntimeError(f"Expected number of channels in input to be divisible by num_groups, but got input of shape "
                               f"{list(x.shape)} and num_groups={attrs[0]}")
        return x
    return type_rule


def _channel_affine(b: Any, y: Any, affine: Any, dtype: Any) -> Any:
    return _scaled(b, y, tuple([per_channel(b, v, len(y.type.shape)) for v in affine]), dtype)


def _batch_norm(b: Any, x: Any, eps: Any, *affine: Any) -> Any:
    dims = tuple([d for d in range(len(x.type.shape)) if d != 1])
    return _channel_affine(b, b.normalize(_wide(b, x), eps, dims), affine, x.type.dtype)


def _group_norm(b: Any, x: Any, eps: Any, *rest: Any) -> Any:
    *affine, groups = rest
    shape = x.type.shape
    rows = b.reshape(_wide(b, x), (shape[0], groups, math.prod(shape[1:]) // groups))
    return _channel_affine(b, b.reshape(b.normalize(rows, eps, (2,)), shape), affine, x.type.dtype)


def _batch_norm_inference(b: Any, x: Any, mean: Any, var: Any, eps: Any, *affine: Any) -> Any:
    scale = b.rsqrt(b.add(_wide(b, var), eps))
    if affine:
        scale = b.mul(scale, affine[0])
    shift = b.neg(b.mul(mean, scale))
    if len(affine) > 1:
        shift = b.add(shift, affine[1])
    ndim = len(x.type.shape)
    y = b.add(b.mul(_wide(b, x), per_channel(b, scale, ndim)), per_channel(b, shift, ndim))
    return _cast_like(b, y, x)


_CHANNELS: list[Any] = [((4, 3), 0), ((2, 4, 3), 1), ((2, 2, 3, 2), 2)]
declare("batch_norm", Kind.COMPOSITE, "x eps affine*", type_rule=_channel_type("batch_norm", 0), decompose=_batch_norm,
        samples=[((s, 1e-3, *((s[1],),) * k), ()) for s, k in _CHANNELS],
        doc="Each channel (axis 1) to mean 0 and variance 1 over all other axes, times a weight and plus a bias if given "
            "(Ioffe and Szegedy 2015, arXiv:1502.03167).")
declare("batch_norm_inference", Kind.COMPOSITE, "x mean var eps affine*", type_rule=_channel_type("batch_norm", 2),
        decompose=_batch_norm_inference, domain=(0.2, 2.0),
        samples=[((s, (s[1],), (s[1],), 1e-3, *((s[1],),) * k), ()) for s, k in _CHANNELS],
        onnx="BatchNormalization", doc="As `batch_norm`, with each channel's mean and variance given.")
declare("group_norm", Kind.COMPOSITE, "x eps affine*", "groups", type_rule=_channel_type("group_norm", 0), decompose=_group_norm,
        samples=[((s, 1e-3, *((s[1],),) * k), (g,)) for (s, k), g in zip(_CHANNELS, (3, 2, 2), strict=True)],
        doc="Each sample's groups of channels to mean 0 and variance 1 (Wu and He 2018, arXiv:1803.08494); a group for each channel "
            "is instance norm.")
