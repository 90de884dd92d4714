"""Ops without tensor operands: constants, ranges, random bits. Numbers are run-time scalars wherever they are data."""
from __future__ import annotations

from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.op import Field, Kind, declare
from treadle.ir.ops.common import refuse_complex_number
from treadle.ir.random_reference import philox_bits
from treadle.ir.types import SCALARS, Shape, TensorType, tensor_type

Types = tuple[TensorType, ...]

declare("constant", Kind.CREATE, "", "value", type_rule=lambda t, value: SCALARS[type(value)],
        reference=lambda value: np.asarray(value), differentiable=False, doc="A Python number as a weak 0-d value.")


def _np_full(value: np.ndarray, shape: Shape, dtype: DType, device: str) -> np.ndarray:
    return np.broadcast_to(np.asarray(value).astype(dtype.np), shape)


def _full_type(types: Types, shape: Shape, dtype: DType, device: str) -> TensorType:
    refuse_complex_number(types[0], dtype)
    return tensor_type(shape, dtype, device)


declare("full", Kind.CREATE, "value", "shape dtype device", field=Field.ANALYTIC, batch="fill",
        type_rule=_full_type,
        reference=_np_full, differentiable=False, samples=[((2.5,), ((2, 3), dtypes.float32, "cpu")), ((1,), ((), dtypes.int64, "cpu"))],
        doc="Every element is `value`, a run-time scalar.")
declare("iota", Kind.CREATE, "", "size dtype device", type_rule=lambda t, size, dtype, device: tensor_type((size,), dtype, device),
        reference=lambda size, dtype, device: np.arange(size).astype(dtype.np), differentiable=False,
        samples=[((), (5, dtypes.int64, "cpu")), ((), (0, dtypes.float32, "cpu"))], doc="0, 1, ..., size - 1.")


def _np_random_bits(seed: np.ndarray, offset: np.ndarray, shape: Shape, device: str) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    return philox_bits(int(seed), int(offset), count).view(np.int32).reshape(shape)


def _bits_type(types: Types, shape: Shape, device: str) -> TensorType:
    return tensor_type(shape, dtypes.int32, device)


declare("random_bits", Kind.RANDOM, "seed offset", "shape device", type_rule=_bits_type, reference=_np_random_bits, differentiable=False,
        samples=[((1234, 8), ((3, 5), "cpu"))],
        doc="32 random bits per element from Philox4x32-10, as int32; element i depends on (seed, offset, i) only.")


def uniform(b: Any, seed: Any, offset: Any, shape: Shape, dtype: DType, device: str) -> Any:
    """Floats in [0, 1) from the upper 24 bits (Treadle's float64 draws have 24 random bits too)."""
    bits = b.random_bits(seed, offset, shape, device)
    unit = b.mul(b.cast(b.bitwise_and(b.shift_right(bits, 8), 0xFFFFFF), dtypes.float32), 2.0 ** -24)
    return unit if dtype is dtypes.float32 else b.cast(unit, dtype)


declare("random_uniform", Kind.COMPOSITE, "seed offset", "shape dtype device", batch="draw",
        type_rule=lambda t, shape, dtype, device: tensor_type(shape, dtype, device), decompose=uniform, differentiable=False,
        samples=[((7, 0), ((4, 3), dtypes.float32, "cpu"))], doc="Floats in [0, 1), equally likely, by `random_bits`: 24 random bits each.")
