"""The product of a sparse matrix and a dense one."""
from __future__ import annotations

from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.batching import BatchedCall
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, need_index
from treadle.ir.ops.indexing import refuse_negative, wrapped
from treadle.ir.types import TensorType


def _type(types: Types) -> TensorType:
    values, x, rows, cols, starts, order, columns, _ = types
    if values.dtype is not x.dtype:
        raise RuntimeError(f"sparse_matmul: expected both operands to have the same dtype, but got {values.dtype.name} and {x.dtype.name}")
    for t in types[2:]:
        need_index("sparse_matmul", t)
    n = values.numel
    if x.ndim != 2 or {values.shape, rows.shape, cols.shape, order.shape} != {(n,)} or starts.ndim != 1 or columns.ndim != 1:
        raise RuntimeError(f"sparse_matmul: {n} elements at rows {rows}, columns {cols} in the order {order} times {x}")
    if x.shape[0] != columns.numel - 1:
        raise RuntimeError(f"sparse_matmul: mat1 and mat2 shapes cannot be multiplied ({starts.numel - 1}x{columns.numel - 1} and "
                           f"{x.shape[0]}x{x.shape[1]})")
    return x.with_((starts.numel - 1, x.shape[1]))


def _reference(values: np.ndarray, x: np.ndarray, rows: np.ndarray, cols: np.ndarray, starts: np.ndarray, *_: np.ndarray) -> np.ndarray:
    wide = np.dtype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x.dtype
    out = np.zeros((len(starts) - 1, x.shape[1]), wide)
    terms = values.astype(wide)[:, None] * x[wrapped(cols, len(x), 0)].astype(wide)
    np.add.at(out, wrapped(rows, len(out), 0), terms)
    return out.astype(x.dtype)


def _decompose(b: Any, values: Any, x: Any, rows: Any, cols: Any, starts: Any, order: Any, columns: Any, by_column: Any) -> Any:
    n, width = starts.type.numel - 1, x.type.shape[1]
    wide = dtypes.float32 if x.type.dtype in (dtypes.float16, dtypes.bfloat16) else x.type.dtype
    terms = b.mul(b.cast(b.reshape(values, (values.type.numel, 1)), wide),
                  b.cast(b.index_select(x, refuse_negative(b, cols, x.type.shape[0]), 0), wide))
    zeros = b.full(0, (n, width), wide, x.type.device)
    return b.cast(b.index_add(zeros, refuse_negative(b, rows, n), terms, 0), x.type.dtype)


def _values_gradient(b: Any, g: Any, x: Any, rows: Any, cols: Any) -> Any:
    return b.sum(b.mul(b.index_select(g, rows, 0), b.index_select(x, cols, 0)), (1,), False, None)


def _batch(c: BatchedCall) -> Any:
    """Dense matrices of all examples side by side; with an example's own sparse matrix, what it is made of."""
    if any(f for i, f in enumerate(c.flags) if i != 1):
        return None
    k, width = c.types[1].shape
    values, x, *structure = c.values
    wide = c.b.reshape(c.b.permute(x, (1, 0, 2)), (k, c.size * width))
    found = c.b.sparse_matmul(values, wide, *structure)
    return c.b.permute(c.b.reshape(found, (c.types[4].numel - 1, c.size, width)), (1, 0, 2))


# [[0, 2, 0], [1, 0, 3], [0, 0, 0], [4, 5, 0]] with the elements in no order.
_ROWS, _COLS = np.array([3, 1, 0, 3, 1]), np.array([1, 2, 1, 0, 0])
_STRUCTURE = (_ROWS, _COLS, np.array([0, 1, 3, 3, 5]), np.array([2, 1, 4, 0, 3]), np.array([0, 2, 4, 5]), np.array([3, 4, 0, 2, 1]))
declare("sparse_matmul", Kind.GATHER, "values x rows cols starts order columns by_column", routine="sparse_matmul", batch=_batch,
        type_rule=_type, reference=_reference, decompose=_decompose,
        vjp=(_values_gradient, lambda b, g, values, rows, cols, starts, order, columns, by_column:
             b.sparse_matmul(values, g, cols, rows, columns, by_column, starts, order), *(None,) * 6),
        samples=[(((5,), (3, 4), *_STRUCTURE), ()), (((5,), (3, 1), *_STRUCTURE), ()), (((5,), (3, 70), *_STRUCTURE), ())],
        doc="A sparse matrix with `values` at (rows, cols) times x[k, n]. Row i has the elements order[starts[i]:starts[i + 1]], and "
            "column j has by_column[columns[j]:columns[j + 1]]. Elements at the same place add up.")
