"""Sorting along an axis. NaN counts as the largest value; of equal elements the one with the lower index comes first."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.batching import BatchedCall
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, need_dim, zeros
from treadle.ir.ops.indexing import wrapped
from treadle.ir.types import TensorType


def _keys(x: np.ndarray) -> np.ndarray:
    """x with at least one axis, in a dtype that numpy sorts fast and with NaN last."""
    if x.dtype.kind not in "iufb":  # bfloat16
        x = x.astype(np.float32)
    return np.atleast_1d(x)


def _order(keys: np.ndarray, dim: int, descending: bool) -> np.ndarray:
    """Indices that sort `keys` along `dim`, stably."""
    if not descending:
        return np.argsort(keys, axis=dim, kind="stable")
    # Reversing both operand and result leaves equal elements in their order.
    backwards = np.argsort(np.flip(keys, dim), axis=dim, kind="stable")
    return keys.shape[dim] - 1 - np.flip(backwards, dim)


def _np_sort(x: np.ndarray, dim: int, descending: bool, stable: bool) -> tuple[np.ndarray, np.ndarray]:
    index = _order(_keys(x), dim, descending)
    return np.take_along_axis(np.atleast_1d(x), index, dim), index


def _np_topk(x: np.ndarray, k: int, dim: int, largest: bool, sorted: bool) -> tuple[np.ndarray, np.ndarray]:
    index = np.take(_order(_keys(x), dim, largest), np.arange(k), axis=dim)
    return np.take_along_axis(np.atleast_1d(x), index, dim), index


def _sort_type(types: Types, dim: int, descending: bool, stable: bool) -> tuple[TensorType, TensorType]:
    need_dim("sort", dim, types[0].ndim)
    return types[0], types[0].with_(dtype=dtypes.int64)


def _topk_type(types: Types, k: int, dim: int, largest: bool, sorted: bool) -> tuple[TensorType, TensorType]:
    x = types[0]
    need_dim("topk", dim, x.ndim)
    size = x.shape[dim] if x.ndim else 1
    if not 0 <= k <= size:
        raise RuntimeError(f"topk: selected index k out of range (k is {k}, dimension {dim} of shape {list(x.shape)} has {size} elements)")
    shape = x.shape[:dim] + (k,) + x.shape[dim + 1:] if x.ndim else ()
    if not x.ndim and k == 0:
        raise RuntimeError("topk: a 0-d tensor has no result of 0 elements; k must be 1")
    return x.with_(shape), x.with_(shape, dtypes.int64)


def _places_vjp(b: Any, g: Any, out: Any, x_type: TensorType, dim: int) -> Any:
    """Each gradient goes back to where its value came from; no place is taken twice."""
    return b.scatter(zeros(b, x_type, g[0].type.dtype), out[1], g[0], dim)


declare("sort", Kind.SORT, "x", "dim descending stable", routine="sort", type_rule=_sort_type, reference=_np_sort, vjp=(_places_vjp,),
        samples=[(((3, 4),), (1, False, True)), (((2, 5, 3),), (1, True, True)), (((6,),), (0, True, False)), (((),), (0, False, True)),
                 (((3, 0),), (1, False, True))], rewritable="out",
        doc="(values in order along `dim`, their indices). Always stable, whatever `stable` asks.")
declare("topk", Kind.SORT, "x", "k dim largest sorted", routine="topk", type_rule=_topk_type, reference=_np_topk, vjp=(_places_vjp,),
        onnx="TopK", rewritable="out",
        samples=[(((3, 6),), (2, 1, True, True)), (((4, 3),), (3, 0, False, True)), (((2, 20),), (2, 1, True, False)),
                 (((),), (1, 0, True, True)), (((3, 4),), (0, 1, True, True))],
        doc="(the k largest or smallest elements along `dim`, their indices), always in order.")


# -- places among sorted elements ------------------------------------------------------------------------------------------------
def _searchsorted_type(types: Types, right: bool) -> TensorType:
    rows, values = types
    if not rows.ndim:
        raise RuntimeError("searchsorted(): boundaries tensor should have positive dimension, but got 0 dimension")
    if rows.ndim > 1 and rows.shape[:-1] != values.shape[:-1]:
        raise RuntimeError(f"searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries tensor "
                           f"and input value tensor must match, but we got boundaries tensor {list(rows.shape)} and input value tensor "
                           f"{list(values.shape)}")
    return values.with_(dtype=dtypes.int64)


def _before(b: Any, x: Any, value: Any, right: bool) -> Any:
    """Whether `value` goes behind x, NaN being the largest."""
    if x.type.dtype.category != dtypes.FLOAT:
        return b.le(x, value) if right else b.lt(x, value)
    if right:
        return b.logical_or(b.le(x, value), b.isnan(value))
    return b.logical_or(b.lt(x, value), b.logical_and(b.isnan(value), b.logical_not(b.isnan(x))))


def _searchsorted(b: Any, rows: Any, values: Any, right: bool) -> Any:
    """Halving, the same number of times for all: every step is a choice between two places, and no branch."""
    *lead, n = rows.type.shape
    shape, device = values.type.shape, values.type.device
    start: Any = b.full(0, shape, dtypes.int64, device)
    if len(lead):
        count = math.prod(lead)
        start = b.expand(b.reshape(b.mul(b.iota(count, dtypes.int64, device), n), (*lead, 1)), shape)
        rows = b.reshape(rows, (count * n,))
    at, left = start, n
    while left > 1:
        half = left // 2
        at = b.where(_before(b, b.index_select(rows, b.add(at, half - 1), 0), values, right), b.add(at, half), at)
        left -= half
    if n:
        at = b.add(at, b.cast(_before(b, b.index_select(rows, at, 0), values, right), dtypes.int64))
    return b.sub(at, start) if len(lead) else at


_ROWS = np.array([[0.5, 1.0, 1.0, 2.5, 4.0], [-1.0, 0.0, 0.0, 0.0, 3.0]], np.float32)
_WANTED = np.array([[1.0, 9.0, -5.0], [0.0, 3.5, 3.0]], np.float32)
declare("searchsorted", Kind.COMPOSITE, "rows values", "right", type_rule=_searchsorted_type,
        decompose=_searchsorted, differentiable=False,
        samples=[((_ROWS, _WANTED), (False,)), ((_ROWS, _WANTED), (True,)), ((_ROWS[0], _WANTED), (False,)),
                 ((np.arange(7), np.array([[3, 9], [-1, 6]])), (True,))],
        doc="How many elements of a sorted row come before each value (`right`: or are equal), rows going by the axes before the last.")


def _bincount_type(types: Types, size: int) -> TensorType:
    if types[0].ndim != 1 or types[0].dtype is not dtypes.int64:
        raise RuntimeError(f"bincount: expected a vector of int64, but got {types[0]}")
    return types[0].with_((size,))


def _batch_bincount(c: BatchedCall) -> Any:
    """All examples at once, each with places of its own; what is out of range stays so."""
    b, x, size = c.b, c.full(0), c.attrs[0]
    at = b.where(b.lt(x, 0), b.add(x, size), x)
    first = b.mul(b.reshape(b.iota(c.size, dtypes.int64, c.types[0].device), (c.size, 1)), size)
    at = b.where(b.logical_and(b.ge(at, 0), b.lt(at, size)), b.add(at, first), c.size * size)
    return b.reshape(b.bincount(b.reshape(at, (c.size * c.types[0].numel,)), c.size * size), (c.size, size))


declare("bincount", Kind.SCATTER, "x", "size", routine="bincount", batch=_batch_bincount, type_rule=_bincount_type, differentiable=False,
        reference=lambda x, size: np.bincount(wrapped(x, size, 0), minlength=size).astype(np.int64),
        decompose=lambda b, x, size: b.index_add(b.full(0, (size,), dtypes.int64, x.type.device), x,
                                                 b.full(1, x.type.shape, dtypes.int64, x.type.device), 0),
        samples=[((np.array([2, 0, 2, 4]),), (5,)), ((np.zeros(0, np.int64),), (3,))],
        doc="How often each of 0, 1, ..., size - 1 occurs in a vector.")
