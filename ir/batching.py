"""Batching rules: how an op is applied to a batch of operands at once, so that a function of one example becomes one of many.

In a rule some operands are batched: the batch is their axis 0, and the others are the same for every example. The results are
batched. An op's rule comes from its record (`Op.batch`), else from its kind, else from its decomposition; an op that has none of these is
applied to one example after the other, which `on_loop` is told. Rules are written against an emitter, as vjp rules are.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import Attrs, Kind, Op, result_types
from treadle.ir.types import TensorType, result_dtype

Types = tuple[TensorType, ...]
Flags = tuple[bool, ...]


def on_loop(op: Op, size: int) -> None:
    """Called when an op is applied to one example after the other. Replaced by the frontend, which reports it."""


class BatchedCall:
    """One application of an op to batched operands.

    values: tensors of the emitter, or numbers; flags: which are batched; types: the operands' types for one example.
    """

    __slots__ = ("attrs", "b", "flags", "op", "out_types", "size", "types", "values")

    def __init__(self, b: Any, op: Op, values: Sequence[Any], flags: Flags, types: Types, attrs: Attrs, size: int,
                 out_types: Types) -> None:
        self.b, self.op, self.values, self.flags, self.types, self.attrs, self.size = b, op, list(values), flags, types, attrs, size
        self.out_types = out_types  # for one example

    def is_number(self, i: int) -> bool:
        """Whether operand `i` is the same number for every example."""
        return not self.flags[i] and not self.types[i].shape

    def full(self, i: int) -> Any:
        """Operand `i` with the batch as axis 0; an operand that has none is repeated."""
        if self.flags[i]:
            return self.values[i]
        return self.b.expand(self.values[i], (self.size, *self.types[i].shape))

    def aligned(self, i: int, ndim: int) -> Any:
        """Operand `i`, when it is batched as if each example had `ndim` axes: it broadcasts with examples that have."""
        shape = self.types[i].shape
        if not self.flags[i] or len(shape) == ndim:
            return self.values[i]
        return self.b.reshape(self.values[i], (self.size, *(1,) * (ndim - len(shape)), *shape))

    def apply(self, values: Sequence[Any], attrs: Attrs | None = None) -> Any:
        return self.b.apply(self.op, tuple(values), self.attrs if attrs is None else attrs)

    @property
    def shifted(self) -> Attrs:
        """The attributes for operands with one more axis in front, by their names."""
        return tuple([_SHIFTS[name](self.size, value) if name in _SHIFTS else value
                      for name, value in zip(self.op.attrs, self.attrs, strict=True)])


_SHIFTS: dict[str, Callable[[int, Any], Any]] = {
    "dim": lambda size, dim: dim + 1, "dims": lambda size, dims: tuple([d + 1 for d in dims]),
    "shape": lambda size, shape: (size, *shape), "starts": lambda size, starts: (0, *starts), "stops": lambda size, stops: (size, *stops),
    "steps": lambda size, steps: (1, *steps), "low": lambda size, low: (0, *low), "high": lambda size, high: (0, *high)}


LOOP = object()  # what a rule returns that asks for one example after the other


# -- families of rules: None when an operand is batched that the family cannot take so -----------------------------------------------
def _elementwise(c: BatchedCall) -> Any:
    """Operands that broadcast against each other."""
    ndim = max([len(t.shape) for t in c.types])
    values = [c.aligned(i, ndim) for i in range(len(c.values))]
    # With its batch axis a 0-d operand would outrank other 0-d operands: what it is cast to is decided without.
    first = 1 if c.op.compute == "where" else 0
    if not any([f and not t.shape for t, f in zip(c.types, c.flags, strict=True)]):
        return c.apply(values)
    batched = tuple([t.with_((c.size, *t.shape)) if f else t for t, f in zip(c.types, c.flags, strict=True)])
    if any(c.flags[first:]) and result_dtype(batched[first:]) is not result_dtype(c.types[first:]):
        dtype = result_dtype(c.types[first:])
        values[first:] = [c.b.cast(v, dtype) if f else v for v, f in zip(values[first:], c.flags[first:], strict=True)]
    return c.apply(values)


def _leading(c: BatchedCall) -> Any:
    """Operands of one rank, or numbers; axes named by attributes move by one."""
    if any(f and not t.shape for f, t in zip(c.flags, c.types, strict=True)):
        return _of_scalars(c)
    return c.apply([v if c.is_number(i) else c.full(i) for i, v in enumerate(c.values)], c.shifted)


def _of_scalars(c: BatchedCall) -> Any:
    """An op along the only axis that a 0-d operand counts as having."""
    if any([t.shape for t in c.types]):
        return None
    if "dim" not in c.op.attrs:
        return c.apply([v if c.is_number(i) else c.full(i) for i, v in enumerate(c.values)], c.shifted)
    found = c.apply([v if t.weak else c.b.reshape(c.full(i), (c.size, 1)) for i, (v, t) in enumerate(zip(c.values, c.types, strict=True))],
                    c.shifted)
    found = found if isinstance(found, tuple) else (found,)
    return tuple([c.b.reshape(x, (c.size, *t.shape)) for x, t in zip(found, c.out_types, strict=True)])


def _written(c: BatchedCall) -> Any:
    """(x, index, source) of one rank; the source may be a number, of each example its own."""
    if c.flags[2] and not c.types[2].shape and c.types[1].shape:
        shape = c.types[1].shape
        source = c.b.expand(c.aligned(2, len(shape)), (c.size, *shape))
        return c.apply([c.full(0), c.full(1), source], c.shifted)
    return _leading(c)


def _rows(c: BatchedCall) -> Any:
    """An operand with any number of leading axes, and parameters that are not batched."""
    return None if any(c.flags[1:]) else c.apply(c.values, c.shifted)


def _matrices(c: BatchedCall) -> Any:
    """Operands whose axes but the last two broadcast."""
    ndim = max([len(t.shape) for t in c.types])
    return c.apply([c.aligned(i, ndim) for i in range(len(c.values))])


def _fold(c: BatchedCall) -> Any:
    """Operands with a batch axis of their own in front: one for both."""
    values = []
    for i, t in enumerate(c.types):
        x = c.full(i)
        values.append(c.b.reshape(x, (c.size * t.shape[0], *t.shape[1:])))
    found = c.apply(values)
    found = found if isinstance(found, tuple) else (found,)
    return tuple([c.b.reshape(x, (c.size, *t.shape)) for x, t in zip(found, c.out_types, strict=True)])


def _draw(c: BatchedCall) -> Any:
    """Random numbers: a batched offset stands for a draw of its own for every example, all from the place that it holds."""
    at = c.op.operands.index("offset")
    if not c.flags[at]:
        return None
    others = [i for i in range(len(c.values)) if i != at and c.flags[i] and not c.types[i].shape]
    return None if others else c.apply([v if c.is_number(i) or i == at else c.full(i) for i, v in enumerate(c.values)], c.shifted)


def _permute(c: BatchedCall) -> Any:
    return c.apply(c.values, ((0, *[d + 1 for d in c.attrs[0]]),))


def _expand(c: BatchedCall) -> Any:
    return c.apply([c.aligned(0, len(c.attrs[0]))], c.shifted)


def _strided(c: BatchedCall) -> Any:
    """Examples lie one behind the other."""
    shape, strides, offset = c.attrs
    return c.apply([c.full(i) for i in range(len(c.values))], ((c.size, *shape), (c.types[0].numel, *strides), offset))


def _pad(c: BatchedCall) -> Any:
    x, value = c.values
    if not c.flags[1]:
        return c.apply([x, value], c.shifted)
    zeros = c.b.pad(c.full(0), 0, *c.shifted)
    outside = c.b.pad(c.b.full(0, c.types[0].shape, dtypes.bool_, c.types[0].device), 1, *c.attrs)
    return c.b.where(outside, c.b.cast(c.aligned(1, len(c.types[0].shape)), c.types[0].dtype), zeros)


def _filled(c: BatchedCall) -> Any:
    shape, dtype, _ = c.attrs
    value = c.values[0] if c.types[0].dtype is dtype else c.b.cast(c.values[0], dtype)
    return c.b.expand(c.b.reshape(value, (c.size, *(1,) * len(shape))), (c.size, *shape))


FAMILIES: dict[str, Callable[[BatchedCall], Any]] = {
    "elementwise": _elementwise, "leading": _leading, "written": _written, "rows": _rows, "matrices": _matrices, "fold": _fold,
    "draw": _draw, "permute": _permute, "expand": _expand, "strided": _strided, "pad": _pad, "fill": _filled}
_BY_KIND = {Kind.ELEMENTWISE: "elementwise", Kind.VIEW: "leading", Kind.REDUCE: "leading", Kind.SCAN: "leading", Kind.SORT: "leading",
            Kind.GATHER: "leading", Kind.SCATTER: "leading", Kind.CONTRACT: "matrices", Kind.RANDOM: "draw"}


def _rule(op: Op) -> Callable[[BatchedCall], Any] | None:
    rule = _BY_KIND.get(op.kind) if op.batch is None else op.batch
    return FAMILIES[rule] if isinstance(rule, str) else rule


# -- one op --------------------------------------------------------------------------------------------------------------------------
def batch(b: Any, op: Op, values: Sequence[Any], flags: Sequence[bool], types: Types, attrs: Attrs, size: int,
          out_types: Types | None = None) -> tuple[Any, ...]:
    """The results, all batched, of `op` for `size` examples, emitted through `b`.

    values: the operands; flags: which of them are batched, at least one; types, out_types: of operands and results for one example.
    """
    out_types = result_types(op, types, attrs) if out_types is None else out_types
    call = BatchedCall(b, op, values, tuple(flags), types, attrs, size, out_types)
    rule = _rule(op)
    found = None if rule is None else rule(call)
    if found is None and op.decompose is not None:
        found = _through_decomposition(call)
    if found is None or found is LOOP:
        on_loop(op, size)
        found = _one_by_one(call)
    results = found if isinstance(found, tuple) else (found,)
    return tuple([_fit(b, x, t, size) for x, t in zip(results, out_types, strict=True)])


def _fit(b: Any, x: Any, type: TensorType, size: int) -> Any:
    """A result that turned out the same for every example is repeated; promotion must not depend on the batch."""
    if getattr(x, "type", None) is None:
        x = b.full(x, type.shape, type.dtype, type.device)
    if x.type.shape == type.shape:
        x = b.expand(x, (size, *type.shape))
    if x.type.shape != (size, *type.shape):
        raise AssertionError(f"a batching rule gave {x.type} for {size} examples of {type}")
    return x if x.type.dtype is type.dtype else b.cast(x, type.dtype)


def _through_decomposition(c: BatchedCall) -> tuple[Any, ...]:
    from treadle.ir.interpreter import decomposed  # imports the op table
    graph = decomposed(c.op, c.types, c.attrs)
    env = {v: (x, f) for v, x, f in zip(graph.inputs, c.values, c.flags, strict=True)}
    emit(c.b, graph, env, c.size)
    return tuple([env[v][0] for v in graph.outputs])


def _one_by_one(c: BatchedCall) -> tuple[Any, ...]:
    b = c.b
    columns: list[list[Any]] = [[] for _ in c.out_types]
    for i in range(c.size):
        values = [_example(b, v, t, i, c.size) if f else v for v, t, f in zip(c.values, c.types, c.flags, strict=True)]
        found = c.apply(values)
        for column, x in zip(columns, found if isinstance(found, tuple) else (found,), strict=True):
            column.append(b.reshape(x, (1, *x.type.shape)))
    if not c.size:
        return tuple([b.full(0, (0, *t.shape), t.dtype, t.device) for t in c.out_types])
    return tuple([b.cat(*column, dim=0) for column in columns])


def _example(b: Any, x: Any, type: TensorType, i: int, size: int) -> Any:
    zeros, ones = (0,) * len(type.shape), (1,) * (1 + len(type.shape))
    return b.reshape(b.slice(x, (i, *zeros), (i + 1, *type.shape), ones), type.shape)


# -- graphs --------------------------------------------------------------------------------------------------------------------------
def emit(b: Any, graph: Graph, env: dict[Value, tuple[Any, bool]], size: int) -> None:
    """Emit through `b` the nodes of `graph` for a batch. `env` maps each value to the emitter's and whether that is batched."""
    for node in graph.nodes:
        assert node.op is not None
        if node.op.name == "constant":
            env[node.out] = node.attrs[0], False
            continue
        if hasattr(b, "loc"):
            b.loc = node.loc
        results, flag = _emit_node(b, node, [env[v] for v in node.inputs], size)
        for value, x in zip(node.outputs, results, strict=True):
            env[value] = x, flag


def _emit_node(b: Any, node: Node, operands: Sequence[tuple[Any, bool]], size: int) -> tuple[tuple[Any, ...], bool]:
    assert node.op is not None
    values, flags = [x for x, _ in operands], [f for _, f in operands]
    if any(flags):
        out_types = tuple([o.type for o in node.outputs])
        return batch(b, node.op, values, flags, tuple([v.type for v in node.inputs]), node.attrs, size, out_types), True
    found = b.apply(node.op, tuple(values), node.attrs)
    return found if isinstance(found, tuple) else (found,), False


@lru_cache(maxsize=512)
def region(graph: Graph, flags: Flags, wanted: Flags | None, size: int) -> tuple[Graph, Flags]:
    """A region for batched inputs, and which of its outputs are batched: at least those in `wanted`."""
    b = Builder(Graph(f"{graph.name}_batched"))
    env = {v: (b.input(v.type.with_((size, *v.type.shape)) if f else v.type), f) for v, f in zip(graph.inputs, flags, strict=True)}
    emit(b, graph, env, size)
    outputs, found = [], []
    for i, value in enumerate(graph.outputs):
        x, flag = env[value]
        if not isinstance(x, Value):
            x = b.number(x)
        if not flag and wanted is not None and wanted[i]:
            x, flag = b.expand(x, (size, *value.type.shape)), True
        outputs.append(x)
        found.append(flag)
    b.graph.outputs = outputs
    return b.graph, tuple(found)


