"""Long reductions with few results are done in two steps: partial results of fixed chunks, then a reduction of those.

Chunks depend on sizes only, so the result has the same bits for any number of threads.
"""
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from treadle.ir.builder import Builder
from treadle.ir.dtypes import BOOL, FLOAT, DType
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.passes.demand import REDUCES
from treadle.passes.promote import uniform

FEW_RESULTS = 32
LONG = 1 << 14
CHUNKS, CHUNK = 64, 1 << 12


def split_reductions(graph: Graph) -> Graph:
    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op is None or node.op.name not in REDUCES or node.out.type.numel >= FEW_RESULTS:
            return None
        x, dims = inputs[0], node.attr("dims")
        length = prod(x.shape[d] for d in dims)
        if length <= LONG or x.dtype is not node.out.dtype:
            return None
        return (_in_two_steps(b, node, x, dims, length),)
    return rewrite(graph, rule, Builder())


def chunk_count(size: int, length: int) -> int:
    """Into how many chunks a reduction of `length` is cut along an axis of `size`: a divisor of it if there is a good one."""
    most = max(2, min(CHUNKS, length // CHUNK, size))
    return next((c for c in range(most, most // 2, -1) if size % c == 0), most)


def _in_two_steps(b: Any, node: Node, x: Value, dims: tuple[int, ...], length: int) -> Value:
    axis = max(dims, key=lambda d: x.shape[d])
    size = x.shape[axis]
    count = chunk_count(size, length)
    each = -(-size // count)
    if each * count != size:
        x = _padded(b, node, x, axis, each * count - size)
    x = b.reshape(x, (*x.shape[:axis], count, each, *x.shape[axis + 1:]))
    inner = tuple([d + (d >= axis) for d in dims])  # with the axis of chunks in front of the chunk itself
    total = _reduce(b, node, _reduce(b, node, x, inner), (axis,))
    return b.reshape(total, node.out.shape)


def _reduce(b: Any, node: Node, x: Value, dims: tuple[int, ...]) -> Value:
    assert node.op is not None
    return getattr(b, node.op.name)(x, dims, True, *([node.out.dtype] if node.op.name in ("sum", "prod") else []))


def _padded(b: Any, node: Node, x: Value, axis: int, more: int) -> Value:
    assert node.op is not None
    value = uniform(b, _neutral(node.op.name, x.dtype), (), x.dtype, x.type.device)
    none = (0,) * len(x.shape)
    return b.pad(x, value, none, tuple([more if d == axis else 0 for d in range(len(x.shape))]))


def _neutral(name: str, dtype: DType) -> float | int | bool:
    """What a reduction does not notice."""
    if name in ("sum", "prod"):
        return 0 if name == "sum" else 1
    if dtype.category == BOOL:
        return name == "all"
    if dtype.category == FLOAT:
        return -float("inf") if name == "amax" else float("inf")
    info: Any = np.iinfo(dtype.np)
    return int(info.min if name == "amax" else info.max)
