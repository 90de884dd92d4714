"""Products of bytes and of bfloat16 numbers, and linear layers and convolutions on them.

A quantized value q stands for (q - zero) * scale. Activations are unsigned bytes; weights are signed, symmetric (zero 0), and packed as
the kernels read them: panels of 32 output features, [ceil(n / 32), ceil(k / 4), 32, 4], filled up with zeros. The integer sums are exact,
so `reference` and every kernel give the same bits. The scheme is that of Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference" (2018); scales found per row at run time follow Yao et al., "ZeroQuant" (2022).
"""
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.batching import BatchedCall
from treadle.ir.dtypes import FLOAT, DType
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import need_float
from treadle.ir.types import Shape, TensorType, broadcast_shapes

Types = tuple[TensorType, ...]

PANEL, GROUP = 32, 4
LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "int32": (-2**31, 2**31 - 1)}
MAX_K = (2**31 - 1) // (255 * 128)  # longer sums could overflow int32


# -- to and from integers ------------------------------------------------------------------------------------------------
def _quantize_type(types: Types, dtype: DType) -> TensorType:
    need_float("quantize", types[0])
    if dtype.name not in LIMITS:
        raise RuntimeError(f"quantize: dtype must be uint8, int8 or int32, got {dtype.name}")
    shape = broadcast_shapes("quantize", *[t.shape for t in types])
    if shape != types[0].shape:
        raise RuntimeError(f"quantize: scale {list(types[1].shape)} and zero point {list(types[2].shape)} must broadcast to the shape of "
                           f"the values, {list(types[0].shape)}")
    return types[0].with_(dtype=dtype)


def _quantize(b: Any, x: Any, scale: Any, zero: Any, dtype: DType) -> Any:
    """Rounded to nearest even, and clamped: PyTorch's rule. NaN becomes the zero point (PyTorch's kernels differ on what it becomes)."""
    low, high = LIMITS[dtype.name]
    wide = b.cast(x, dtypes.float32)
    moved = b.add(b.round(b.div(wide, scale)), b.cast(zero, dtypes.float32))
    moved = b.where(b.eq(wide, wide), moved, b.cast(zero, dtypes.float32))
    return b.cast(b.maximum(b.minimum(moved, float(high)), float(low)), dtype)


def _dequantize(b: Any, q: Any, scale: Any, zero: Any) -> Any:
    return b.mul(b.cast(b.sub(b.cast(q, dtypes.int32), b.cast(zero, dtypes.int32)), dtypes.float32), scale)


declare("quantize", Kind.COMPOSITE, "x scale zero", "dtype", type_rule=_quantize_type, decompose=_quantize, differentiable=False,
        samples=[(((3, 4), np.array(0.02, np.float32), np.array(7, np.int32)), (dtypes.uint8,)),
                 (((3, 4), np.array([[0.1], [0.02], [0.5]], np.float32), np.zeros((3, 1), np.int32)), (dtypes.int8,))],
        doc="round(x / scale) + zero, clamped to `dtype` (uint8, int8 or int32). NaN becomes `zero`, infinities the ends.")


def _dequantize_type(types: Types) -> TensorType:
    return types[0].with_(shape=broadcast_shapes("dequantize", *[t.shape for t in types]), dtype=dtypes.float32)


declare("dequantize", Kind.COMPOSITE, "q scale zero", type_rule=_dequantize_type, decompose=_dequantize, differentiable=False,
        samples=[((np.array([[1, -3], [0, 127]], np.int8), np.array(0.5, np.float32), np.array(2, np.int32)), ())],
        doc="(q - zero) * scale, in float32.")


# -- packed weights ------------------------------------------------------------------------------------------------------
def packed_shape(n: int, k: int) -> Shape:
    """Of n x k weights: whole panels, whole words."""
    return -(-n // PANEL), -(-k // GROUP), PANEL, GROUP


def _pack_type(types: Types) -> TensorType:
    w = types[0]
    if w.ndim != 2 or w.dtype is not dtypes.int8:
        raise RuntimeError(f"int8_pack: expected int8 weights of 2 axes (out, in), got {w}")
    return w.with_(shape=packed_shape(*w.shape))


def _pack(b: Any, w: Any) -> Any:
    n, k = w.type.shape
    panels, words, _, _ = packed_shape(n, k)
    if (panels * PANEL, words * GROUP) != (n, k):
        w = b.pad(w, 0, (0, 0), (panels * PANEL - n, words * GROUP - k))
    return b.permute(b.reshape(w, (panels, PANEL, words, GROUP)), (0, 2, 1, 3))


def _unpacked(w: np.ndarray, n: int) -> np.ndarray:
    panels, words = w.shape[:2]
    return np.ascontiguousarray(w.transpose(0, 2, 1, 3)).reshape(panels * PANEL, words * GROUP)[:n]


declare("int8_pack", Kind.COMPOSITE, "w", type_rule=_pack_type, decompose=_pack, differentiable=False,
        samples=[((np.arange(15, dtype=np.int8).reshape(3, 5),), ())], doc="Weights (out, in) in the panels that `int8_matmul` reads.")


# -- products ------------------------------------------------------------------------------------------------------------
def _product_type(types: Types, n: int) -> TensorType:
    x, w = types
    if x.dtype is not dtypes.uint8 or w.dtype is not dtypes.int8:
        raise RuntimeError(f"int8_matmul: expected uint8 activations and int8 weights, but got {x.dtype.name} and {w.dtype.name}")
    if x.ndim != 2 or w.shape != packed_shape(n, x.shape[1]) or x.shape[1] % GROUP:
        raise RuntimeError(f"int8_matmul: activations {list(x.shape)} (columns in groups of {GROUP}) do not fit weights {list(w.shape)} "
                           f"packed for {n} output features")
    if x.shape[1] > MAX_K:
        raise RuntimeError(f"int8_matmul: sums over {x.shape[1]} products may overflow int32; at most {MAX_K} are allowed")
    return x.with_(shape=(x.shape[0], n), dtype=dtypes.int32)


def _np_product(x: np.ndarray, w: np.ndarray, n: int) -> np.ndarray:
    # Exact: every partial sum is an integer below 2^53.
    return (x.astype(np.float64) @ _unpacked(w, n).T.astype(np.float64)).astype(np.int32)


def _batch_product(c: BatchedCall) -> Any:
    """The rows of all examples in one product, when they share the packed weight."""
    m, k = c.types[0].shape
    return None if c.flags[1] else c.b.reshape(c.apply([c.b.reshape(c.values[0], (c.size * m, k)), c.values[1]]), (c.size, m, *c.attrs))


declare("int8_matmul", Kind.CONTRACT, "x w", "n", batch=_batch_product,
        type_rule=_product_type, reference=_np_product, differentiable=False,
        samples=[((np.arange(24, dtype=np.uint8).reshape(3, 8), (np.arange(512) % 251 - 125).astype(np.int8).reshape(2, 2, 32, 4)), (33,))],
        doc="x[m, k] (uint8) @ w.T for packed int8 w: exact sums in int32.")


def _pairs_type(types: Types) -> TensorType:
    x, y = types
    if x.dtype is not dtypes.bfloat16 or y.dtype is not dtypes.bfloat16 or min(x.ndim, y.ndim) < 2 or x.shape[-1] != y.shape[-1]:
        raise RuntimeError(f"bfloat16_matmul: expected bfloat16 operands [..., m, k] and [..., n, k], got {x} and {y}")
    shape = broadcast_shapes("bfloat16_matmul", x.shape[:-2], y.shape[:-2]) + (x.shape[-2], y.shape[-2])
    return x.with_(shape=shape, dtype=dtypes.float32)


declare("bfloat16_matmul", Kind.CONTRACT, "x y", type_rule=_pairs_type, differentiable=False,
        reference=lambda x, y: np.matmul(x.astype(np.float32), np.swapaxes(y, -1, -2).astype(np.float32)),
        samples=[((np.linspace(-1, 1, 24).reshape(3, 8).astype(dtypes.bfloat16.np),
                   np.linspace(-2, 1, 40).reshape(5, 8).astype(dtypes.bfloat16.np)), ())],
        doc="x[..., m, k] @ y[..., n, k].T summed in float32: what products of bfloat16 matrices become.")


# -- linear layers ---------------------------------------------------------------------------------------------------------
def _need_floats(name: str, x: TensorType) -> None:
    if x.dtype.category != FLOAT:
        raise RuntimeError(f"{name}: expected a floating-point input, which it quantizes itself, got {x.dtype.name}; convert it: x.float()")


def _linear_type(types: Types, *attrs: Any) -> TensorType:
    x, w, scale, sums, bias = types[:5]
    n = sums.numel
    _need_floats("linear_int8", x)
    if x.ndim < 1 or w.shape != packed_shape(n, x.shape[-1]):
        raise RuntimeError(f"linear_int8: input {list(x.shape)} of {x.dtype.name} does not fit weights packed as {list(w.shape)} "
                           f"for {n} output features")
    if scale.numel not in (1, n) or bias.shape != (n,):
        raise RuntimeError(f"linear_int8: {n} output features need as many scales (or one) and biases, got {list(scale.shape)} and "
                           f"{list(bias.shape)}")
    return x.with_(x.shape[:-1] + (n,))


def _rows(b: Any, x: Any) -> Any:
    shape = x.type.shape
    wide = b.cast(x, dtypes.float32)
    return wide if len(shape) == 2 else b.reshape(wide, (prod(shape[:-1]), shape[-1]))


def _row_ranges(b: Any, rows: Any, symmetric: bool, per_tensor: bool) -> tuple[Any, Any]:
    """Scale and zero point (int32) of each row, or of all rows, [m or 1, 1]; ranges contain 0. A row with NaN stays NaN."""
    dims = (0, 1) if per_tensor else (1,)
    if symmetric:
        top = b.amax(b.abs(rows), dims, True)
        return b.where(b.le(top, 0.0), 1.0, b.div(top, 127.0)), 128
    low, high = b.minimum(b.amin(rows, dims, True), 0.0), b.maximum(b.amax(rows, dims, True), 0.0)
    span = b.sub(high, low)
    scale = b.where(b.le(span, 0.0), 1.0, b.div(span, 255.0))
    return scale, b.cast(b.round(b.div(b.neg(low), scale)), dtypes.int32)


def _integer_linear(b: Any, x: Any, rows: Any, x_scale: Any, zero: Any, w: Any, scale: Any, sums: Any, bias: Any) -> Any:
    """(q - zero) @ w.T in integers, scaled once: what follows the product is its epilogue."""
    shape, n = x.type.shape, bias.type.shape[0]
    q = b.quantize(rows, x_scale, zero, dtypes.uint8)
    rest = -shape[-1] % GROUP
    if rest:
        q = b.pad(q, 0, (0, 0), (0, rest))
    total = b.sub(b.int8_matmul(q, w, n), b.mul(zero, sums))
    y = b.add(b.mul(b.cast(total, dtypes.float32), b.mul(x_scale, scale)), bias)
    y = b.cast(y, x.type.dtype)
    return y if len(shape) == 2 else b.reshape(y, shape[:-1] + (n,))


def _dynamic(b: Any, x: Any, w: Any, scale: Any, sums: Any, bias: Any, symmetric: bool, per_tensor: bool) -> Any:
    rows = _rows(b, x)
    x_scale, zero = _row_ranges(b, rows, symmetric, per_tensor)
    return _integer_linear(b, x, rows, x_scale, zero, w, scale, sums, bias)


def _static(b: Any, x: Any, w: Any, scale: Any, sums: Any, bias: Any, x_scale: Any, x_zero: Any) -> Any:
    return _integer_linear(b, x, _rows(b, x), x_scale, x_zero, w, scale, sums, bias)


_SAMPLE = ((3, 5), (np.arange(256) % 200 - 100).astype(np.int8).reshape(1, 2, 32, 4), np.linspace(0.01, 0.02, 6).astype(np.float32),
           np.arange(6, dtype=np.int32), np.linspace(-1, 1, 6).astype(np.float32))
declare("linear_int8", Kind.COMPOSITE, "x w scale sums bias", "symmetric per_tensor", type_rule=_linear_type, decompose=_dynamic,
        differentiable=False, samples=[(_SAMPLE, (False, False)), (_SAMPLE, (True, True))],
        doc="x @ (w * scale).T + bias for packed int8 w, x quantized by the range each row (or the whole of x) turns out to have. "
            "`sums` are those of w's rows.")
declare("linear_int8_static", Kind.COMPOSITE, "x w scale sums bias x_scale x_zero", type_rule=_linear_type, decompose=_static,
        differentiable=False, samples=[((*_SAMPLE, np.array(0.02, np.float32), np.array(90, np.int32)), ())],
        doc="As linear_int8 with x's scale and zero point known beforehand.")


# -- convolutions --------------------------------------------------------------------------------------------------------------
def _places(x: Shape, kernel: Shape, stride: Shape, low: Shape, high: Shape, dilation: Shape) -> Shape:
    """Sizes of the result's spatial axes."""
    return tuple([(n + before + after - d * (k - 1) - 1) // s + 1
                  for n, k, s, before, after, d in zip(x[2:], kernel, stride, low, high, dilation, strict=True)])


def _convolution_type(types: Types, *attrs: Any) -> TensorType:
    x, w, scale, sums, bias = types[:5]
    n, kernel = sums.numel, attrs[0]
    _need_floats("convolution_int8", x)
    if x.ndim != 2 + len(kernel) or w.shape != packed_shape(n, x.shape[1] * prod(kernel)):
        raise RuntimeError(f"convolution_int8: input {list(x.shape)} does not fit weights packed as {list(w.shape)} for {n} output "
                           f"channels and a kernel of {list(kernel)}")
    if scale.numel not in (1, n) or bias.shape != (n,):
        raise RuntimeError(f"convolution_int8: {n} output channels need as many scales (or one) and biases, got {list(scale.shape)} and "
                           f"{list(bias.shape)}")
    places = _places(x.shape, *attrs)
    if min(places) < 1:
        raise RuntimeError(f"convolution_int8: a kernel of {list(kernel)} is larger than the padded input {list(x.shape)}")
    return x.with_((x.shape[0], n, *places))


def _convolution(b: Any, x: Any, w: Any, scale: Any, sums: Any, bias: Any, x_scale: Any, x_zero: Any, kernel: Shape, stride: Shape,
                 low: Shape, high: Shape, dilation: Shape) -> Any:
    """The product of the windows, a row each, with the weights. What is outside the image is the byte that stands for 0."""
    shape, n = x.type.shape, bias.type.shape[0]
    places, rest = _places(shape, kernel, stride, low, high, dilation), -shape[1] * prod(kernel) % GROUP
    q = b.quantize(b.cast(x, dtypes.float32), x_scale, x_zero, dtypes.uint8)
    if any((*low, *high)):
        q = b.pad(q, b.cast(x_zero, dtypes.uint8), (0, 0, *low), (0, 0, *high))
    sizes = q.type.shape
    steps = [prod(sizes[i + 1:]) for i in range(len(sizes))]
    across, within = ([s * t for s, t in zip(steps[2:], by, strict=True)] for by in (stride, dilation))
    rows = b.as_strided(q, (shape[0], *places, shape[1], *kernel), (steps[0], *across, steps[1], *within), 0)
    rows = b.reshape(rows, (shape[0] * prod(places), shape[1] * prod(kernel)))
    if rest:
        rows = b.pad(rows, 0, (0, 0), (0, rest))
    total = b.sub(b.int8_matmul(rows, w, n), b.mul(x_zero, sums))
    y = b.cast(b.add(b.mul(b.cast(total, dtypes.float32), b.mul(x_scale, scale)), bias), x.type.dtype)
    axes = len(kernel)
    return b.permute(b.reshape(y, (shape[0], *places, n)), (0, axes + 1, *range(1, axes + 1)))


_CONVOLVED = ((2, 3, 5, 4), (np.arange(1792) % 200 - 100).astype(np.int8).reshape(2, 7, 32, 4),
              np.linspace(0.01, 0.02, 33).astype(np.float32), np.arange(33, dtype=np.int32), np.linspace(-1, 1, 33).astype(np.float32),
              np.array(0.02, np.float32), np.array(90, np.int32))
declare("convolution_int8", Kind.COMPOSITE, "x w scale sums bias x_scale x_zero", "kernel stride low high dilation",
        type_rule=_convolution_type, decompose=_convolution, differentiable=False,
        samples=[(_CONVOLVED, ((3, 3), (1, 2), (1, 0), (0, 1), (1, 1)))],
        doc="A convolution of x, [N, C, *S], with packed int8 weights of one group, `low` and `high` widths of padding on each axis; x has "
            "the given scale and zero point. `sums` are those of the weights of an output channel.")
