"""Sorting and scattering in the few forms that routines have: sorts along the last axis, writes to the rows of a matrix.

A write at data-dependent places becomes `scatter_rows`: one computed row number for each row of the source. Row numbers are
ordinary integer arithmetic, fused into a kernel; a number that is out of range along its own axis becomes one that is out of
range for the whole matrix, where the fault is found.
"""
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.dtypes import BOOL, FLOAT, DType
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.ir.op import Kind
from treadle.ir.ops.common import iota_along
from treadle.ir.types import Shape, broadcast_shapes
from treadle.passes.promote import convert

Values = tuple[Value, ...]


def irregular(graph: Graph) -> Graph:
    """Rewrite sort, topk, scans of 0-d values, and every op that writes at data-dependent places."""
    if not any(node.op is not None and (node.op.kind in (Kind.SORT, Kind.SCAN) or node.op.name in _WRITES) for node in graph.nodes):
        return graph

    def rule(b: Builder, node: Node, inputs: Values) -> Values | None:
        assert node.op is not None
        if node.op.kind in (Kind.SORT, Kind.SCAN):
            return _along_last(b, node, inputs[0])
        write = _WRITES.get(node.op.name)
        if write is None or node.out.type.numel == 0:
            return None
        found = write(b, node, inputs)
        return None if found is None else (found,)
    return rewrite(graph, rule, Builder())


# -- sorting ---------------------------------------------------------------------------------------------------------------
def _along_last(b: Any, node: Node, x: Value) -> Values | None:
    """0-d operands become lists of one; sorts go along the last axis (scans go along any)."""
    rank = len(x.shape)
    dim = node.attr("dim")
    last = max(rank - 1, 0)
    if rank and (dim == last or (node.op is not None and node.op.kind is Kind.SCAN)):
        return None
    order = (*[d for d in range(rank) if d != dim], dim)
    rows = b.permute(x, order) if rank else b.reshape(x, (1,))
    assert node.op is not None
    attrs = [last if name == "dim" else value for name, value in zip(node.op.attrs, node.attrs, strict=True)]
    found = getattr(b, node.op.name)(rows, *attrs)
    back = tuple([order.index(d) for d in range(rank)])
    return tuple([b.permute(v, back) if rank else b.reshape(v, ()) for v in (found if isinstance(found, tuple) else (found,))])


# -- places ----------------------------------------------------------------------------------------------------------------
def _inside(b: Any, index: Value, size: int) -> tuple[Value, Value]:
    """The index as int64 counted from the start, and whether it is in range."""
    wide = convert(b, index, dtypes.int64)
    start = b.where(b.lt(wide, 0), b.add(wide, size), wide)
    return start, b.logical_and(b.ge(start, 0), b.lt(start, size))


def _merged(b: Any, indices: Values, sizes: Shape) -> tuple[Value, Value]:
    """One index into axes of `sizes` brought together, and whether every part is in range."""
    flat, valid = _inside(b, indices[0], sizes[0])
    for index, size in zip(indices[1:], sizes[1:], strict=True):
        start, good = _inside(b, index, size)
        flat, valid = b.add(b.mul(flat, size), start), b.logical_and(valid, good)
    return flat, valid


def _flat(b: Any, x: Value) -> Value:
    return b.reshape(x, (x.type.numel,))


def _rows_of(b: Any, indices: Values, sizes: Shape, outer: int) -> Value:
    """Row numbers in [outer * prod(sizes), ...): for each index into the outer axes, all the indices."""
    if outer == 1 and len(indices) == 1:
        return _flat(b, convert(b, indices[0], dtypes.int64))
    flat, valid = _merged(b, indices, sizes)
    flat, valid = _flat(b, flat), _flat(b, valid)
    total = prod(sizes)
    if outer > 1:
        start = b.reshape(b.mul(b.iota(outer, dtypes.int64, flat.type.device), total), (outer, 1))
        flat, valid = b.add(start, flat), b.expand(valid, (outer, valid.type.numel))
    return _flat(b, b.where(valid, flat, outer * total))


# -- writes ----------------------------------------------------------------------------------------------------------------
def _write(b: Any, x: Value, rows: Shape, place: Value, src: Value, reduce: str) -> Value:
    """x with src combined into the rows of x taken as a matrix of shape `rows`; 16-bit floats are added in float32."""
    wide = x.dtype
    if x.dtype.category == FLOAT and x.dtype.itemsize == 2 and reduce in ("add", "prod"):
        wide = dtypes.float32
    src = convert(b, src, wide)
    source = b.reshape(src, (1,) if src.type.numel == 1 else (place.type.numel, rows[1]))
    out = b.scatter_rows(b.reshape(convert(b, x, wide), rows), place, source, reduce)
    return b.reshape(convert(b, out, x.dtype), x.shape)


def _elements(b: Any, x: Value, index: Value, dim: int) -> Value | None:
    """Positions in x, flattened, of the elements that `gather` would read; None when there are none."""
    if index.type.numel == 0:
        return None
    if not x.shape:
        return b.reshape(convert(b, index, dtypes.int64), (1,))
    if all(n == 1 for d, n in enumerate(x.shape) if d != dim):
        return _flat(b, convert(b, index, dtypes.int64))
    start, valid = _inside(b, index, x.shape[dim])
    strides = [prod(x.shape[d + 1:]) for d in range(len(x.shape))]
    total = b.mul(start, strides[dim])
    for d, n in enumerate(index.shape):
        if d != dim and n != 1:
            total = b.add(total, b.mul(iota_along(b, index.type, d), strides[d]))
    return _flat(b, b.where(valid, total, x.type.numel))


def _scatter(reduce: str) -> Callable[[Any, Node, Values], Value | None]:
    def rule(b: Any, node: Node, inputs: Values) -> Value | None:
        x, index, src = inputs
        place = _elements(b, x, index, node.attr("dim"))
        return x if place is None else _write(b, x, (x.type.numel, 1), place, src, reduce)
    return rule


def _scatter_reduce(b: Any, node: Node, inputs: Values) -> Value | None:
    x, index, src = inputs
    reduce = node.attr("reduce")
    if x.dtype.category == BOOL:
        return None
    place = _elements(b, x, index, node.attr("dim"))
    if place is None:
        return x
    rows = (x.type.numel, 1)
    if not node.attr("include_self"):
        x = _write(b, x, rows, place, b.full(_identity(reduce, x.dtype), (1,), x.dtype, x.type.device), "set")
    return _write(b, x, rows, place, src, reduce)


def _identity(reduce: str, dtype: DType) -> float | int:
    if reduce == "prod":
        return 1
    if dtype.category == FLOAT:
        return float("-inf") if reduce == "amax" else float("inf")
    info: Any = np.iinfo(dtype.np)
    return int(info.min if reduce == "amax" else info.max)


def _into_axis(reduce: str) -> Callable[[Any, Node, Values], Value | None]:
    def rule(b: Any, node: Node, inputs: Values) -> Value | None:
        x, index, src = inputs
        shape, dim = x.shape or (1,), node.attr("dim")
        outer, inner = prod(shape[:dim]), prod(shape[dim + 1:])
        if index.type.numel == 0:
            return x
        place = _rows_of(b, (index,), (shape[dim],), outer)
        return _write(b, x, (outer * shape[dim], inner), place, src, reduce)
    return rule


def _index_put(b: Any, node: Node, inputs: Values) -> Value | None:
    x, value, *indices = inputs
    dims, reduce = node.attr("dims"), "add" if node.attr("accumulate") else "set"
    order = None
    if dims != tuple(range(dims[0], dims[0] + len(dims))):
        order = (*dims, *[d for d in range(len(x.shape)) if d not in dims])
        x = b.permute(x, order)
    at = dims[0] if order is None else 0
    sizes, rest = x.shape[at:at + len(dims)], x.shape[at + len(dims):]
    common = broadcast_shapes("index_put", *[v.shape for v in indices])
    outer, inner, count = prod(x.shape[:at]), prod(rest), prod(common)
    if count:
        index = tuple([v if v.shape == common else b.expand(v, common) for v in indices])
        place = _rows_of(b, index, sizes, outer)
        if not value.type.weak and value.type.numel != 1:
            value = b.expand(value, (*x.shape[:at], *common, *rest))
        x = _write(b, x, (outer * prod(sizes), inner), place, value, reduce)
    return x if order is None else b.permute(x, tuple([order.index(d) for d in range(len(order))]))


_WRITES: dict[str, Callable[[Any, Node, Values], Value | None]] = {
    "scatter": _scatter("set"), "scatter_add": _scatter("add"), "scatter_reduce": _scatter_reduce,
    "index_add": _into_axis("add"), "index_copy": _into_axis("set"), "index_put": _index_put,
}
