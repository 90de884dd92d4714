"""Complex numbers: their parts, conjugates and directions, and views of them as pairs of real numbers.

Gradients follow PyTorch's convention: that of a complex z is dL/dRe(z) + i dL/dIm(z), the direction in which the real L grows fastest.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.op import TABLE, Field, Kind, declare, result_types
from treadle.ir.ops.common import Types, not_implemented
from treadle.ir.types import TensorType, broadcast_shapes, tensor_type

_Z = np.array([[1.5 - 0.5j, -0.75 + 1.25j, 0.5j], [-1.25 + 0.5j, 0.25 - 1.0j, 2.0 + 0.75j]], np.complex64)
_SAMPLES = [((_Z,), ()), ((np.array(_Z[0, 1]),), ()), ((_Z[:, :0],), ())]


def _rule(name: str, real: bool) -> Callable[..., TensorType]:
    """The operand's type, or that of its parts; NotImplementedError for real operands."""
    def type_rule(types: Types) -> TensorType:
        dtype = types[0].dtype
        if not dtype.is_complex:
            raise not_implemented(name, dtype, types)
        return types[0].with_(dtype=dtypes.to_real(dtype) if real else dtype)
    return type_rule


def _part(name: str, reference: Callable[..., Any], vjp: Callable[..., Any], real: bool, doc: str) -> None:
    declare(name, Kind.ELEMENTWISE, "z", type_rule=_rule(name, real), reference=reference, vjp=(vjp,), field=Field.COMPLEX,
            samples=_SAMPLES, doc=doc)


def _np_sgn(z: np.ndarray) -> np.ndarray:
    size = np.abs(z)
    return np.where(size == 0, 0, z / np.where(size == 0, 1, size)).astype(z.dtype)


def _sgn_vjp(b: Any, g: Any, z: Any, out: Any) -> Any:
    """What changes the direction of z: the part of g at right angles to it."""
    size = b.abs(z)
    along = b.mul(b.real(b.mul(g, b.conj(out))), out)
    return b.where(b.eq(size, 0), 0.0, b.div(b.sub(g, along), size))


def _angle_vjp(b: Any, g: Any, z: Any) -> Any:
    turned = b.complex(b.neg(b.imag(z)), b.real(z))  # iz
    size = b.abs(z)
    return b.where(b.eq(size, 0), 0.0, b.mul(turned, b.div(g, b.mul(size, size))))


_part("conj", np.conjugate, lambda b, g: b.conj(g), False, "The complex conjugate.")
_part("real", lambda z: z.real.copy(), lambda b, g, z_type: b.cast(g, z_type.dtype), True, "The real part.")
_part("imag", lambda z: z.imag.copy(), lambda b, g: b.complex(b.mul(g, 0.0), g), True, "The imaginary part.")
_part("sgn", _np_sgn, _sgn_vjp, False, "z / |z|, and 0 where z is 0.")
_part("angle", np.angle, _angle_vjp, True, "The argument, in (-pi, pi].")


# -- pairs -----------------------------------------------------------------------------------------------------------------
def _complex_type(types: Types) -> TensorType:
    re, im = types
    if re.dtype not in (dtypes.float16, dtypes.float32, dtypes.float64):
        raise RuntimeError(f"Expected both inputs to be Half, Float or Double tensors but got {re.dtype.title} and "
                           f"{im.dtype.title}")
    if re.dtype is not im.dtype:
        raise RuntimeError(f"Expected object of scalar type {re.dtype.title} but got scalar type {im.dtype.title} for second "
                           "argument")
    return re.with_(broadcast_shapes("complex", re.shape, im.shape), dtypes.to_complex(re.dtype))


def _np_complex(re: np.ndarray, im: np.ndarray) -> np.ndarray:
    out = np.empty(np.broadcast_shapes(re.shape, im.shape), np.complex64 if re.dtype == np.float32 else np.complex128)
    out.real, out.imag = re, im
    return out


def _view_as_real_type(types: Types) -> TensorType:
    z = types[0]
    if not z.dtype.is_complex:
        raise RuntimeError("view_as_real is only supported for complex tensors")
    return z.with_((*z.shape, 2), dtypes.to_real(z.dtype))


def _view_as_complex_type(types: Types) -> TensorType:
    x = types[0]
    if x.dtype not in (dtypes.float16, dtypes.float32, dtypes.float64):
        raise RuntimeError("view_as_complex is only supported for half, float and double tensors, but got a tensor of scalar type: "
                           f"{x.dtype.title}")
    if not x.shape or x.shape[-1] != 2:
        raise RuntimeError("Tensor must have a last dimension of size 2" if x.shape else "Input tensor must have one or more dimensions")
    return x.with_(x.shape[:-1], dtypes.to_complex(x.dtype))


def _np_view_as_real(z: np.ndarray) -> np.ndarray:
    """A view, whatever the strides."""
    z = np.asarray(z)
    real = z["real"] if z.dtype == dtypes.complex32.np else z.real
    if z.ndim and z.flags.c_contiguous:
        return z.view(real.dtype).reshape(*z.shape, 2)
    part = real[..., None]
    return np.lib.stride_tricks.as_strided(part, (*z.shape, 2), (*z.strides, part.itemsize), writeable=z.flags.writeable)


def _np_view_as_complex(x: np.ndarray) -> np.ndarray:
    """A view where the pairs lie together in memory, else a copy."""
    dtype = dtypes.to_complex(dtypes.from_numpy(x.dtype)).np
    if x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return x.view(dtype)[..., 0]


declare("complex", Kind.ELEMENTWISE, "re im", type_rule=_complex_type, reference=_np_complex, field=Field.COMPLEX,
        vjp=(lambda b, g: b.real(g), lambda b, g: b.imag(g)), doc="Complex numbers with these real and imaginary parts.")
declare("view_as_real", Kind.VIEW, "z", type_rule=_view_as_real_type, reference=_np_view_as_real, field=Field.COMPLEX,
        vjp=(lambda b, g: b.view_as_complex(g),), samples=_SAMPLES, doc="The same memory as pairs of real numbers along a new last axis.")
declare("view_as_complex", Kind.VIEW, "x", type_rule=_view_as_complex_type, reference=_np_view_as_complex, field=Field.COMPLEX,
        vjp=(lambda b, g: b.view_as_real(g),), samples=[(((3, 2),), ()), (((2,),), ()), (((2, 0, 2),), ())],
        doc="The same memory as complex numbers: the last axis holds their two parts.")


# -- complex ops inside programs of real numbers -------------------------------------------------------------------------------------
def _on_pairs_type(types: Types, name: str, attrs: tuple[Any, ...], pairs: tuple[bool, ...]) -> Any:
    operands = tuple([_view_as_complex_type((t,)) if pair else t for t, pair in zip(types, pairs, strict=True)])
    found = result_types(TABLE[name], operands, attrs)
    return tuple([t.with_((*t.shape, 2), dtypes.to_real(t.dtype)) if t.dtype.is_complex else t for t in found])


def _np_on_pairs(*args: Any) -> tuple[np.ndarray, ...]:
    from treadle.ir.interpreter import evaluate  # the interpreter imports the op table
    *arrays, name, attrs, pairs = args
    operands = [_np_view_as_complex(a) if pair else a for a, pair in zip(arrays, pairs, strict=True)]
    types = tuple([tensor_type(a.shape, dtypes.from_numpy(a.dtype)) for a in operands])
    results = evaluate(TABLE[name], operands, attrs, types, result_types(TABLE[name], types, attrs))
    return tuple([_np_view_as_real(np.ascontiguousarray(a).reshape(a.shape)) if dtypes.from_numpy(a.dtype).is_complex else a
                  for a in results])


declare("on_pairs", Kind.EXTERN, "xs*", "name attrs pairs", type_rule=_on_pairs_type, reference=_np_on_pairs, differentiable=False,
        samples=[(((3, 2),), ("sin", (), (True,))), (((3, 2), (3,)), ("pow", (), (True, False)))],
        doc="The op `name`; of operands flagged in `pairs`, and of complex results, the last axis holds both parts.")
