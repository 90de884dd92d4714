"""Views (affine re-indexings of one operand), their in-place inverses, and joining ops."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.windows import strided_add
from treadle.ir.types import Shape, TensorType, result_dtype

Types = tuple[TensorType, ...]
Ints = tuple[int, ...]


def _reshape_type(types: Types, shape: Shape) -> TensorType:
    if math.prod(shape) != types[0].numel:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {types[0].numel}")
    return types[0].with_(shape=shape)


declare("reshape", Kind.VIEW, "x", "shape", type_rule=_reshape_type, reference=lambda x, shape: np.ascontiguousarray(x).reshape(shape),
        vjp=(lambda b, g, x_type: b.reshape(g, x_type.shape),),
        samples=[(((2, 3, 4),), ((6, 4),)), (((2, 0),), ((0, 5),)), (((1,),), ((),))],
        onnx="Reshape", doc="The same elements in row-major order under another shape. RuntimeError when the counts differ.")


def _permute_type(types: Types, dims: Ints) -> TensorType:
    if sorted(dims) != list(range(types[0].ndim)):
        raise RuntimeError(f"permute: the dims {list(dims)} are not a permutation of the axes of a tensor of shape {list(types[0].shape)}")
    return types[0].with_(shape=tuple([types[0].shape[d] for d in dims]))


def inverse_permutation(dims: Ints) -> Ints:
    out = [0] * len(dims)
    for i, d in enumerate(dims):
        out[d] = i
    return tuple(out)


declare("permute", Kind.VIEW, "x", "dims", batch="permute", type_rule=_permute_type, reference=np.transpose,
        vjp=(lambda b, g, dims: b.permute(g, inverse_permutation(dims)),),
        samples=[(((2, 3, 4),), ((2, 0, 1),)), (((3, 5),), ((1, 0),))], onnx="Transpose",
        doc="The axes in another order: axis i of the result is axis dims[i] of x.")


def _expand_type(types: Types, shape: Shape) -> TensorType:
    have = types[0].shape
    lead = len(shape) - len(have)
    if lead < 0 or any(n not in (1, m) for n, m in zip(have, shape[lead:], strict=True)):
        raise RuntimeError(f"expand: The expanded size of the tensor must match the existing size at non-singleton dimensions. "
                           f"Target sizes: {list(shape)}. Tensor sizes: {list(have)}")
    return types[0].with_(shape=shape)


def sum_to(b: Any, g: Any, shape: Shape, whole: Shape | None = None) -> Any:
    """Sum `g` over the axes along which `shape` was broadcast to `g`'s shape.

    whole: the shape, with as many axes, of the parameter that the operand is, or a part of: it is repeated along its axes of size 1, also
    where there is one sample only, and along no others.
    """
    have = g.type.shape
    lead = len(have) - len(shape)
    if whole is not None:
        dims = tuple([i for i, (n, m) in enumerate(zip(have, whole, strict=True)) if m == 1 or n != shape[i]])
    elif have == shape:
        return g
    else:
        # Axes of size 1 too: another size has the same graph. But a single row, of up to three axes, is one of many, not added to all.
        first = int(not lead and have[0] == 1 and len(have) < 4)
        dims = tuple([i for i in range(first, len(have)) if i < lead or shape[i - lead] == 1])
    total = b.sum(g, dims, False, None) if dims else g
    return total if total.type.shape == shape else b.reshape(total, shape)


declare("expand", Kind.VIEW, "x", "shape", batch="expand", type_rule=_expand_type, reference=np.broadcast_to,
        vjp=(lambda b, g, x_type: sum_to(b, g, x_type.shape),),
        samples=[(((3, 1),), ((2, 3, 4),)), (((),), ((2, 2),)), (((1,),), ((0,),))], onnx="Expand",
        doc="x repeated along axes of size 1 and along new leading axes, without a copy.")


def _check_written(name: str, y: TensorType, shape: Shape) -> None:
    """RuntimeError when what is written does not have the shape of the place."""
    if y.shape != shape:
        raise RuntimeError(f"{name}: expected a source of shape {list(shape)}, as the part that it replaces has, but got {list(y.shape)}")


def slice_shape(shape: Shape, starts: Ints, stops: Ints, steps: Ints) -> Shape:
    return tuple([max(-(-(hi - lo) // st), 0) for lo, hi, st in zip(starts, stops, steps, strict=True)])  # none may be an unknown size, too


def _slices(starts: Ints, stops: Ints, steps: Ints) -> tuple[slice, ...]:
    return tuple([slice(*t) for t in zip(starts, stops, steps, strict=True)])


def _slice_type(types: Types, starts: Ints, stops: Ints, steps: Ints) -> TensorType:
    return types[0].with_(shape=slice_shape(types[0].shape, starts, stops, steps))


def _slice_vjp(b: Any, g: Any, x_type: TensorType, starts: Ints, stops: Ints, steps: Ints) -> Any:
    return b.slice_scatter(b.full(0, x_type.shape, g.type.dtype, g.type.device), g, starts, stops, steps)


declare("slice", Kind.VIEW, "x", "starts stops steps", type_rule=_slice_type,
        reference=lambda x, starts, stops, steps: x[_slices(starts, stops, steps)], vjp=(_slice_vjp,),
        samples=[(((4, 5),), ((1, 0), (3, 5), (1, 2))), (((4,),), ((2,), (2,), (1,)))], onnx="Slice",
        doc="Elements starts[i] : stops[i] : steps[i] of every axis; 0 <= start <= stop <= size, and steps are positive.")


def _slice_scatter_type(types: Types, starts: Ints, stops: Ints, steps: Ints) -> TensorType:
    x, y = types
    if any(hi > n for hi, n in zip(stops, x.shape, strict=True)):
        raise RuntimeError(f"slice_scatter: a part up to {list(stops)} is not inside of {list(x.shape)}")
    _check_written("slice_scatter", y, slice_shape(x.shape, starts, stops, steps))
    return x


def _np_slice_scatter(x: np.ndarray, y: np.ndarray, starts: Ints, stops: Ints, steps: Ints) -> np.ndarray:
    out = x.copy()
    out[_slices(starts, stops, steps)] = y
    return out


def _slice_scatter_dx(b: Any, g: Any, y_type: TensorType, starts: Ints, stops: Ints, steps: Ints) -> Any:
    return b.slice_scatter(g, b.full(0, y_type.shape, g.type.dtype, g.type.device), starts, stops, steps)


declare("slice_scatter", Kind.SCATTER, "x y", "starts stops steps", field=Field.ANALYTIC,
        type_rule=_slice_scatter_type, reference=_np_slice_scatter,
        vjp=(_slice_scatter_dx, lambda b, g, starts, stops, steps: b.slice(g, starts, stops, steps)),
    samples=[(((4, 5), (2, 3)), ((1, 0), (3, 5), (1, 2)))], doc="x with y written over the slice.")

declare("flip", Kind.VIEW, "x", "dims", type_rule=lambda t, dims: t[0], reference=lambda x, dims: np.flip(x, dims if x.ndim else ()),
        vjp=(lambda b, g, dims: b.flip(g, dims),), samples=[(((3, 4),), ((0,),)), (((3, 4),), ((0, 1),))],
        doc="x in reverse order along each of `dims`.")


def _strided_index(shape: Shape, strides: Ints, offset: int) -> np.ndarray:
    index = np.full(shape, offset, np.int64)
    for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        index += (np.arange(n) * stride).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return index


def _np_strided_scatter(x: np.ndarray, y: np.ndarray, shape: Shape, strides: Ints, offset: int) -> np.ndarray:
    out = x.copy()
    out.reshape(-1)[_strided_index(shape, strides, offset)] = y
    return out


def _check_reach(name: str, x: TensorType, shape: Shape, strides: Ints, offset: int) -> None:
    """RuntimeError when a strided view of x would leave it."""
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= x.numel:
        raise RuntimeError(f"{name}: sizes {list(shape)}, strides {list(strides)} and offset {offset} reach element {last}, "
                           f"out of bounds for storage of {x.numel} elements")


def _as_strided_type(types: Types, shape: Shape, strides: Ints, offset: int) -> TensorType:
    _check_reach("as_strided", types[0], shape, strides, offset)
    return types[0].with_(shape=shape)


def _strided_write_type(name: str) -> Callable[..., TensorType]:
    def type_rule(types: Types, shape: Shape, strides: Ints, offset: int) -> TensorType:
        _check_reach(name, types[0], shape, strides, offset)
        _check_written(name, types[1], shape)
        return types[0]
    return type_rule


declare("as_strided", Kind.VIEW, "x", "shape strides offset", batch="strided", type_rule=_as_strided_type,
        reference=lambda x, shape, strides, offset: np.ascontiguousarray(x).reshape(-1)[_strided_index(shape, strides, offset)],
        vjp=(lambda b, g, x_type, shape, strides, offset: b.as_strided_add(
            b.full(0, x_type.shape, g.type.dtype, g.type.device), g, shape, strides, offset),),
        samples=[(((4, 4),), ((4,), (5,), 0)), (((8,),), ((3, 4), (2, 1), 0))], doc="Any strided view of x's contiguous elements.")


def _np_strided_add(x: np.ndarray, y: np.ndarray, shape: Shape, strides: Ints, offset: int) -> np.ndarray:
    out = x.copy()
    np.add.at(out.reshape(-1), _strided_index(shape, strides, offset), y)
    return out


declare("as_strided_add", Kind.COMPOSITE, "x y", "shape strides offset", field=Field.ANALYTIC, batch="strided", decompose=strided_add,
        type_rule=_strided_write_type("as_strided_add"),
        reference=_np_strided_add,
        vjp=(lambda b, g: g, lambda b, g, shape, strides, offset: b.as_strided(g, shape, strides, offset)),
        samples=[(((8,), (3, 4)), ((3, 4), (2, 1), 0))],
        doc="x with y added to the elements that `as_strided` would read, as often as it reads them.")
def _strided_scatter_dx(b: Any, g: Any, y_type: TensorType, shape: Shape, strides: Ints, offset: int) -> Any:
    return b.as_strided_scatter(g, b.full(0, y_type.shape, g.type.dtype, g.type.device), shape, strides, offset)


declare("as_strided_scatter", Kind.SCATTER, "x y", "shape strides offset", field=Field.ANALYTIC, batch="strided",
        type_rule=_strided_write_type("as_strided_scatter"),
        reference=_np_strided_scatter,
        vjp=(_strided_scatter_dx, lambda b, g, shape, strides, offset: b.as_strided(g, shape, strides, offset)),
        samples=[(((4, 4), (4,)), ((4,), (5,), 0))],
        doc="x with y written over the elements that `as_strided` would read; the last of several writes stays.")


def _cat_type(types: Types, dim: int) -> TensorType:
    shapes = [t.shape for t in types]
    first = shapes[0]
    for i, s in enumerate(shapes[1:], 1):
        if len(s) != len(first) or any(a != c for d, (a, c) in enumerate(zip(s, first, strict=True)) if d != dim):
            raise RuntimeError(f"cat: Sizes of tensors must match except in dimension {dim}. Expected {list(first)} but got {list(s)} "
                               f"for tensor number {i} in the list.")
    size = sum(s[dim] for s in shapes)
    return types[0].with_(shape=first[:dim] + (size,) + first[dim + 1:], dtype=result_dtype(types))


def _cat_vjp(b: Any, g: Any, operand_types: Types, dim: int) -> tuple[Any, ...]:
    grads, at = [], 0
    shape = g.type.shape
    for t in operand_types:
        end = at + t.shape[dim]
        starts = tuple([at if d == dim else 0 for d in range(len(shape))])
        stops = tuple([end if d == dim else n for d, n in enumerate(shape)])
        grads.append(b.slice(g, starts, stops, (1,) * len(shape)))
        at = end
    return tuple(grads)


declare("cat", Kind.GATHER, "xs*", "dim", field=Field.ANALYTIC, type_rule=_cat_type,
        reference=lambda *a: np.concatenate([x.astype(np.result_type(*a[:-1])) for x in a[:-1]], a[-1]), compute="promote",
        vjp=_cat_vjp, samples=[(((2, 3), (4, 3)), (0,)), (((2, 3), (2, 0), (2, 1)), (1,))], onnx="Concat",
        doc="The operands one after another along `dim`. Their other sizes must be equal; dtypes are promoted.")


def _pad_type(types: Types, low: Ints, high: Ints) -> TensorType:
    shape = tuple([n + lo + hi for n, lo, hi in zip(types[0].shape, low, high, strict=True)])
    if any(n < 0 for n in shape):
        raise RuntimeError(f"pad: padding {list(low)}, {list(high)} of shape {list(types[0].shape)} gives a negative size")
    return types[0].with_(shape=shape)


def _np_pad(x: np.ndarray, value: np.ndarray, low: Ints, high: Ints) -> np.ndarray:
    return np.pad(x, tuple(zip(low, high, strict=True)), constant_values=np.asarray(value).astype(x.dtype))


def _pad_dx(b: Any, g: Any, x_type: TensorType, low: Ints, high: Ints) -> Any:
    stops = tuple([lo + n for lo, n in zip(low, x_type.shape, strict=True)])
    return b.slice(g, low, stops, (1,) * len(low))


declare("pad", Kind.GATHER, "x value", "low high", field=Field.ANALYTIC, batch="pad",
        type_rule=_pad_type, reference=_np_pad, vjp=(_pad_dx, None), onnx="Pad",
        samples=[(((2, 3), 0.5), ((1, 0), (0, 2)))], doc="x surrounded by `value`; low and high are non-negative widths per axis.")

declare("after", Kind.VIEW, "x token", type_rule=lambda t: t[0], reference=lambda x, token: x, differentiable=False,
        doc="`x`, for what is to be computed when `token` is there: it is not one with what is computed from `x` itself.")
