"""Runs a graph with the op table's numpy references: the first tier, and the oracle for the second."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from treadle.ir.builder import Builder
from treadle.ir.dtypes import DType, complex32, complex64, converted, default_float, float16, float32
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import Attrs, Kind, Op
from treadle.ir.ops.elementwise import compute_dtype
from treadle.ir.types import TensorType, result_dtype

Types = tuple[TensorType, ...]

_DECOMPOSED: dict[tuple, Graph] = {}


class DataError(Exception):
    """A fault that depends on data (an index out of range), with the node at which it occurred."""

    def __init__(self, error: Exception, node: Node) -> None:
        super().__init__(str(error))
        self.error = error
        self.node = node


def decomposed(op: Op, types: Types, attrs: Attrs) -> Graph:
    """The op's decomposition as a graph of its own, cached."""
    key = (op, types, attrs, default_float())
    graph = _DECOMPOSED.get(key)
    if graph is None:
        b = Builder(Graph(op.name))
        operands = [b.input(t) for t in types]
        assert op.decompose is not None
        result = op.decompose(b, *operands, *attrs)
        b.graph.outputs = list(result) if isinstance(result, tuple) else [result]
        if len(_DECOMPOSED) > 4096:
            _DECOMPOSED.clear()
        graph = _DECOMPOSED[key] = b.graph
    return graph


def evaluate(op: Op, arrays: Sequence[np.ndarray], attrs: Attrs, types: Types, out_types: Types) -> list[np.ndarray]:
    """One op on numpy arrays; results have exactly the dtypes and shapes of `out_types`."""
    if complex32 in [t.dtype for t in types] or complex32 in [t.dtype for t in out_types]:
        return _evaluate_wide(op, arrays, attrs, types, out_types)
    if op.reference is None:
        if op.decompose is None:
            raise RuntimeError(f"op {op.name} has neither a reference nor a decomposition")
        results = run(decomposed(op, types, attrs), arrays)
        return [_conform(a, t) for a, t in zip(results, out_types, strict=True)]
    dtype = compute_dtype(op, types) if op.kind is Kind.ELEMENTWISE else (result_dtype(types) if op.compute == "promote" else None)
    if dtype is not None:
        first = 1 if op.compute == "where" else 0
        arrays = [a if i < first or a.dtype == dtype.np else a.astype(dtype.np) for i, a in enumerate(arrays)]
    result: Any = op.reference(*arrays, *attrs)
    results = list(result) if isinstance(result, tuple) else [result]
    return [_conform(np.asarray(a), t) for a, t in zip(results, out_types, strict=True)]


def _wide(dtype: DType) -> DType:
    return {complex32: complex64, float16: float32}.get(dtype, dtype)


def _evaluate_wide(op: Op, arrays: Sequence[np.ndarray], attrs: Attrs, types: Types, out_types: Types) -> list[np.ndarray]:
    """With operands of complex32 in complex64, and 16-bit ones beside them in float32; results are rounded once."""
    arrays = [converted(a, _wide(t.dtype)) if t.dtype is not _wide(t.dtype) else a for a, t in zip(arrays, types, strict=True)]
    attrs = tuple([complex64 if a is complex32 else a for a in attrs])
    types = tuple([t if t.weak else t.with_(dtype=_wide(t.dtype)) for t in types])
    results = evaluate(op, arrays, attrs, types, tuple([t.with_(dtype=complex64) if t.dtype is complex32 else t for t in out_types]))
    return [converted(a, t.dtype) if t.dtype is complex32 else a for a, t in zip(results, out_types, strict=True)]


def _conform(array: np.ndarray, type: TensorType) -> np.ndarray:
    if array.dtype != type.dtype.np:
        array = array.astype(type.dtype.np)
    return array if array.shape == type.shape else array.reshape(type.shape)


def run(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Evaluate `graph`; `inputs` match `graph.inputs`. Values are dropped after their last use."""
    last: dict[Value, Node] = {}
    for node in graph.nodes:
        for value in node.inputs:
            last[value] = node
    keep = set(graph.outputs)
    env: dict[Value, np.ndarray] = dict(zip(graph.inputs, inputs, strict=True))
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            _step(node, env)
            for value in node.inputs:
                if last[value] is node and value not in keep:
                    env.pop(value, None)
    return [env[v] for v in graph.outputs]


def _step(node: Node, env: dict[Value, np.ndarray]) -> None:
    assert node.op is not None
    arrays = [env[v] for v in node.inputs]
    types = tuple([v.type for v in node.inputs])
    out_types = tuple([o.type for o in node.outputs])
    try:
        results = evaluate(node.op, arrays, node.attrs, types, out_types)
    except (IndexError, RuntimeError, ValueError, ArithmeticError) as error:
        raise DataError(error, node) from error
    for value, array in zip(node.outputs, results, strict=True):
        env[value] = array
