"""Matrix products."""
from __future__ import annotations

from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.view import sum_to
from treadle.ir.types import TensorType, broadcast_shapes

Types = tuple[TensorType, ...]


def _matmul_type(types: Types) -> TensorType:
    x, y = types
    if x.dtype is not y.dtype:
        kind = NotImplementedError if x.dtype is dtypes.bool_ else RuntimeError
        raise kind(f"matmul: expected both operands to have the same dtype, but got {x.dtype.name} and {y.dtype.name}")
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-2]:
        raise RuntimeError(f"matmul: mat1 and mat2 shapes cannot be multiplied ({_dims(x)} and {_dims(y)})")
    return x.with_(broadcast_shapes("matmul", x.shape[:-2], y.shape[:-2]) + (x.shape[-2], y.shape[-1]))


def _dims(t: TensorType) -> str:
    return "x".join(map(str, t.shape)) or "scalar"


def _np_matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.itemsize == 2 and x.dtype.kind not in "iu":  # 16-bit floats accumulate in float32
        return np.matmul(x.astype(np.float32), y.astype(np.float32)).astype(x.dtype)
    return np.matmul(x, y)


def transposed(b: Any, x: Any) -> Any:
    """The last two axes swapped."""
    n = len(x.type.shape)
    return b.permute(x, (*range(n - 2), n - 1, n - 2))


def adjoint(b: Any, x: Any) -> Any:
    """The last two axes swapped, complex numbers conjugated."""
    return transposed(b, b.conj(x) if x.type.dtype.is_complex else x)


declare("matmul", Kind.CONTRACT, "x y", field=Field.ANALYTIC, type_rule=_matmul_type, reference=_np_matmul, vjp=(
    lambda b, g, y, x_type: sum_to(b, b.matmul(g, transposed(b, y)), x_type.shape),
    lambda b, g, x, y_type: sum_to(b, b.matmul(transposed(b, x), g), y_type.shape)),
    samples=[(((3, 4), (4, 5)), ()), (((2, 3, 4), (2, 4, 5)), ()), (((2, 1, 3, 4), (3, 4, 2)), ()), (((0, 4), (4, 2)), ()),
             (((2, 0), (0, 3)), ())],
    doc="x[..., m, k] @ y[..., k, n] with broadcast leading axes.", onnx="MatMul")


def accumulated(b: Any, x: Any, y: Any) -> Any:
    """x @ y in the dtype that it is summed in, float32 for 16-bit floats: what is added to it is rounded once, with it."""
    dtype = x.type.dtype
    if dtype is dtypes.bfloat16:
        return b.bfloat16_matmul(x, transposed(b, y))
    return b.matmul(b.cast(x, dtypes.float32), b.cast(y, dtypes.float32)) if dtype is dtypes.float16 else b.matmul(x, y)


def _linear_type(types: Types) -> TensorType:
    x, w = types[:2]
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        turned = "x".join(map(str, w.shape[::-1]))
        raise RuntimeError(f"linear: mat1 and mat2 shapes cannot be multiplied ({_flat(x)} and {turned}) (input {list(x.shape)}, weight "
                           f"{list(w.shape)})")
    if x.dtype is not w.dtype:
        raise RuntimeError(f"linear: mat1 and mat2 must have the same dtype, but got {x.dtype.name} and {w.dtype.name}")
    if len(types) > 2 and types[2].weak:
        raise TypeError("linear(): argument 'bias' (position 3) must be Tensor, not a number")
    if len(types) > 2 and types[2].dtype is not w.dtype:
        raise RuntimeError(f"linear: bias and weight must have the same dtype, but got {types[2].dtype.name} and {w.dtype.name}")
    if len(types) > 2 and types[2].shape not in ((w.shape[0],), (1,), ()):
        raise RuntimeError(f"linear: bias of shape {list(types[2].shape)} does not fit {w.shape[0]} output features")
    return x.with_(x.shape[:-1] + (w.shape[0],))


def _flat(t: TensorType) -> str:
    return f"{t.numel // t.shape[-1] if t.shape and t.shape[-1] else 0}x{t.shape[-1] if t.shape else 0}"


def _linear(b: Any, x: Any, w: Any, *bias: Any) -> Any:
    shape = x.type.shape
    rows = x if len(shape) == 2 else b.reshape(x, (x.type.numel // shape[-1] if shape[-1] else _rows(shape), shape[-1]))
    if bias:
        y = b.add(accumulated(b, rows, b.permute(w, (1, 0))), bias[0])
        y = y if y.type.dtype is x.type.dtype else b.cast(y, x.type.dtype)
    else:
        y = b.matmul(rows, b.permute(w, (1, 0)))
    out = shape[:-1] + (w.type.shape[0],)
    return y if y.type.shape == out else b.reshape(y, out)


def _rows(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape[:-1]:
        total *= n
    return total


def _flat_rows(b: Any, x: Any) -> Any:
    shape = x.type.shape
    return x if len(shape) == 2 else b.reshape(x, (_rows(shape), shape[-1]))


def _linear_dx(b: Any, g: Any, w: Any, x_type: TensorType) -> Any:
    dx = b.matmul(_flat_rows(b, g), w)
    return dx if dx.type.shape == x_type.shape else b.reshape(dx, x_type.shape)


def _linear_dw(b: Any, g: Any, x: Any) -> Any:
    return b.matmul(b.permute(_flat_rows(b, g), (1, 0)), _flat_rows(b, x))


declare("linear", Kind.COMPOSITE, "x w", field=Field.ANALYTIC, batch="rows",
        type_rule=_linear_type, decompose=_linear, vjp=(_linear_dx, _linear_dw),
        samples=[(((3, 4), (5, 4)), ()), (((2, 3, 4), (5, 4)), ()), (((4,), (5, 4)), ())], doc="x @ w.T")
declare("linear_bias", Kind.COMPOSITE, "x w bias", field=Field.ANALYTIC, batch="rows", type_rule=_linear_type, decompose=_linear,
        vjp=(_linear_dx, _linear_dw, lambda b, g, bias_type: sum_to(b, g, bias_type.shape)),
        samples=[(((3, 4), (5, 4), (5,)), ()), (((2, 3, 4), (5, 4), (5,)), ())], doc="x @ w.T + bias", onnx="Gemm")
