"""Makes implicit conversions explicit, so that lowering meets operands of exactly the dtype in which an op computes.

A Python number becomes `full(number, (), dtype)`; a tensor gets a `cast`. Forms that kernels do not have are replaced here:
arithmetic on bool, 16-bit and integer matrix products, reductions that change the dtype.
"""
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.dtypes import BOOL, FLOAT, DType
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.ir.op import Kind
from treadle.ir.ops.elementwise import compute_dtype
from treadle.ir.ops.matmul import transposed
from treadle.ir.types import Shape, result_dtype

Rule = Callable[[Any, Node, tuple[Value, ...]], Value | None]

_LOGICAL = ("logical_and", "logical_or", "logical_xor", "logical_not")
_ON_BOOL = {"add": "logical_or", "mul": "logical_and", "maximum": "logical_or", "minimum": "logical_and", "bitwise_and": "logical_and",
            "bitwise_or": "logical_or", "bitwise_xor": "logical_xor", "bitwise_not": "logical_not", "ne": "logical_xor"}
_IDENTITY_ON_BOOL = ("abs", "sign")
_IDENTITY_ON_INT = ("floor", "ceil", "trunc", "round")
_ORDER = ("lt", "le", "gt", "ge")


def promote(graph: Graph) -> Graph:
    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        assert node.op is not None
        if node.op.kind is Kind.ELEMENTWISE:
            return (_elementwise(b, node, inputs),)
        special = _RULES.get(node.op.name)
        found = special(b, node, inputs) if special is not None else None
        return None if found is None else (found,)
    return rewrite(graph, rule, Builder())


def convert(b: Any, value: Value, dtype: DType) -> Value:
    """`value` as a tensor of `dtype`."""
    if value.type.weak:
        return b.full(value, (), dtype, value.type.device)
    return value if value.dtype is dtype else b.cast(value, dtype)


def uniform(b: Any, number: float | int | bool, shape: Shape, dtype: DType, device: str) -> Value:
    """A tensor all of whose elements are `number`, in the form that `promote` leaves alone."""
    value = b.full(number, (), dtype, device)
    return b.expand(value, shape) if shape else value


def _same(node: Node, inputs: tuple[Value, ...], b: Builder) -> Value:
    """The node again on other inputs; its result type stands."""
    return b.graph.again(node, inputs).out


def _elementwise(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value:
    op = node.op
    assert op is not None
    if op.name == "cast":
        return convert(b, inputs[0], node.attrs[0]) if inputs[0].type.weak else _same(node, inputs, b)
    types = tuple([v.type for v in inputs])
    dtype = dtypes.bool_ if op.name in _LOGICAL else compute_dtype(op, types)
    if dtype is None:
        dtype = result_dtype(types)
    first = 1 if op.compute == "where" else 0
    operands = tuple([v if i < first else convert(b, v, dtype) for i, v in enumerate(inputs)])
    if op.exact_number and dtype is not node.out.dtype:
        return b.cast(b.apply(op, operands, node.attrs), node.out.dtype)
    if dtype.category >= FLOAT:
        return _same(node, operands, b)
    return _on_integers(b, node, operands, dtype)


def _on_integers(b: Any, node: Node, operands: tuple[Value, ...], dtype: DType) -> Value:
    name = node.op.name if node.op else ""
    out = node.out.type
    if name in ("isnan", "isinf", "isfinite"):
        return uniform(b, name == "isfinite", out.shape, dtypes.bool_, out.device)
    if name in _IDENTITY_ON_INT or (dtype.category == BOOL and name in _IDENTITY_ON_BOOL):
        return operands[0]
    if dtype.category == BOOL:
        if name in _ON_BOOL:
            return getattr(b, _ON_BOOL[name])(*operands)
        if name == "eq":
            return b.logical_not(b.logical_xor(*operands))
        if name in _ORDER:
            operands = tuple([b.cast(v, dtypes.uint8) for v in operands])
    return _same(node, operands, b)


def _accumulation(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    x, dtype = inputs[0], node.out.dtype
    if x.dtype is dtype:
        return None
    return _same(node, (b.cast(x, dtype),), b)


def _truth(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    return None if inputs[0].dtype is dtypes.bool_ else _same(node, (b.cast(inputs[0], dtypes.bool_),), b)


def _extreme_of_bool(to: str) -> Rule:
    def rule(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
        return getattr(b, to)(inputs[0], *node.attrs) if inputs[0].dtype is dtypes.bool_ else None
    return rule


def _cat(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    dtype = node.out.dtype
    if all(v.dtype is dtype for v in inputs):
        return None
    return _same(node, tuple([convert(b, v, dtype) for v in inputs]), b)


def _pad(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    x, value = inputs
    if value.dtype is x.dtype and not value.type.weak:
        return None
    return _same(node, (x, convert(b, value, x.dtype)), b)


def _full(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """A number stays the operand of a 0-d `full`; anything bigger is that, expanded."""
    shape, dtype, device = node.attrs
    if inputs[0].type.weak and shape == ():
        return None
    value = b.full(inputs[0], (), dtype, device) if inputs[0].type.weak else convert(b, inputs[0], dtype)
    if value.shape:
        value = b.reshape(value, ())
    return b.expand(value, shape) if shape else value


def _random_bits(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    if all(v.dtype is dtypes.int64 and not v.type.weak for v in inputs):
        return None
    return _same(node, tuple([convert(b, v, dtypes.int64) for v in inputs]), b)


def _matmul(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    x, y = inputs
    m, k, n = x.shape[-2], x.shape[-1], y.shape[-1]
    if x.dtype is dtypes.bfloat16 and k % 2 == 0 and node.out.type.numel * k:
        return b.cast(b.bfloat16_matmul(x, transposed(b, y)), x.dtype)
    if x.dtype.category == FLOAT and x.dtype.itemsize == 2:
        product = b.matmul(b.cast(x, dtypes.float32), b.cast(y, dtypes.float32))
        return b.cast(_matmul(b, product.node, product.node.inputs) or product, x.dtype)
    if node.out.type.numel * k == 0:
        return uniform(b, 0, node.out.shape, x.dtype, x.type.device)
    if k == 1:
        return b.logical_and(x, y) if x.dtype.category == BOOL else b.mul(x, y)
    if x.dtype.category >= FLOAT:  # whatever its size: which kernels a program needs must not depend on sizes
        return None
    rows = b.reshape(x, (*x.shape[:-2], m, 1, k))
    columns = b.reshape(transposed(b, y), (*y.shape[:-2], 1, n, k))
    if x.dtype.category == BOOL:
        return b.any(b.logical_and(rows, columns), (len(node.out.shape),), False)
    return b.sum(b.mul(rows, columns), (len(node.out.shape),), False, x.dtype)


def _bfloat16_matmul(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """The host multiplies pairs along K: an odd number of them is left to float32."""
    x, y = inputs
    if not node.out.type.numel * x.shape[-1]:
        return uniform(b, 0, node.out.shape, dtypes.float32, x.type.device)
    if x.shape[-1] % 2 == 0 or x.type.device != "cpu":
        return None
    x, y = b.cast(x, dtypes.float32), transposed(b, b.cast(y, dtypes.float32))
    product = b.matmul(x, y)
    return _matmul(b, product.node, (x, y)) or product


def _gather_of_one(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """A 0-d operand is a list of one."""
    x, index = inputs
    return None if x.shape else b.index_select(b.reshape(x, (1,)), index, 0)


def flatten_indices(graph: Graph) -> Graph:
    """Advanced indexing becomes index_select, which kernels have."""
    if not any(node.op is not None and node.op.name == "index" for node in graph.nodes):
        return graph

    def rule(b: Builder, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        return (_index(b, node, inputs),) if node.op is not None and node.op.name == "index" else None
    return rewrite(graph, rule, Builder())


def _index(b: Any, node: Node, inputs: tuple[Value, ...]) -> Value:
    """Advanced indexing as one index into the indexed axes, brought together and flattened."""
    x, *indices = inputs
    dims = node.attr("dims")
    consecutive = dims == tuple(range(dims[0], dims[0] + len(dims)))
    at = dims[0] if consecutive else 0
    rest = [d for d in range(len(x.shape)) if d not in dims]
    if not consecutive:
        x = b.permute(x, (*dims, *rest))
    if len(indices) == 1:
        return b.index_select(x, indices[0], at)
    sizes = x.shape[at:at + len(dims)]
    total = prod(sizes)
    flat, valid = None, None
    for index, size in zip(indices, sizes, strict=True):
        wide = convert(b, index, dtypes.int64)
        wrapped = b.where(b.lt(wide, 0), b.add(wide, size), wide)
        inside = b.logical_and(b.ge(wrapped, 0), b.lt(wrapped, size))
        flat = wrapped if flat is None else b.add(b.mul(flat, size), wrapped)
        valid = inside if valid is None else b.logical_and(valid, inside)
    merged = b.reshape(x, (*x.shape[:at], total, *x.shape[at + len(dims):]))
    return b.index_select(merged, b.where(valid, flat, total), at)  # `total` is out of range: the fault is found there


_RULES: dict[str, Rule] = {
    "sum": _accumulation, "prod": _accumulation, "any": _truth, "all": _truth,
    "amax": _extreme_of_bool("any"), "amin": _extreme_of_bool("all"),
    "cat": _cat, "pad": _pad, "full": _full, "random_bits": _random_bits, "matmul": _matmul, "bfloat16_matmul": _bfloat16_matmul,
    "gather": _gather_of_one, "index_select": _gather_of_one,
}
