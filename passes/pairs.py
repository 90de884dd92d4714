"""Complex values become pairs of real ones, so that kernels compute them: a complex tensor's memory is a real tensor's with an axis more.

Inside the graph the two parts go their own ways; where a value has to be in memory (outputs, ops that a library computes) they are
joined along a last axis. A complex number that is a graph input becomes two inputs: `number_parts` says which.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import TABLE, Kind
from treadle.ir.ops.elementwise import compute_dtype
from treadle.ir.types import SCALARS, result_dtype, tensor_type

Parts = tuple[Any, Any]  # values, or Python numbers


def pairs(graph: Graph) -> Graph:
    """The graph without complex values. One whose control flow has complex operands is left as it is, and runs on the host."""
    found = any([v.dtype.is_complex for v in graph.inputs])
    for node in graph.nodes:
        if any([v.dtype.is_complex for v in node.outputs]) or any([v.dtype.is_complex for v in node.inputs]):
            found = True
            if node.op is None or node.op.kind is Kind.CONTROL:
                return graph
    return _Pairs(graph).run() if found else graph


def number_parts(graph: Graph) -> list[tuple[int, str]]:
    """For each input of the graph that `pairs` makes of `graph`: which input of that it is, and which part of a complex number."""
    found = []
    for i, value in enumerate(graph.inputs):
        found += [(i, part) for part in (("real", "imag") if value.type.weak and value.dtype.is_complex else ("",))]
    return found


class _Pairs:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.b = Builder(Graph(graph.name))
        self.mapped: dict[Value, Value] = {}      # real values
        self.parts: dict[Value, Parts] = {}       # complex ones
        self.joined: dict[Value, Value] = {}

    def run(self) -> Graph:
        for value in self.graph.inputs:
            if not value.dtype.is_complex:
                self.mapped[value] = self.b.input(value.type)
            elif value.type.weak:
                self.parts[value] = (self.b.input(SCALARS[float]), self.b.input(SCALARS[float]))
            else:
                t = value.type
                self.take(value, self.b.input(tensor_type((*t.shape, 2), dtypes.to_real(t.dtype), t.device)))
        for node in self.graph.nodes:
            self.b.loc = node.loc
            self.node(node)
        self.b.graph.outputs = [self.whole(v) if v.dtype.is_complex else self.mapped[v] for v in self.graph.outputs]
        return self.b.graph

    def node(self, node: Node) -> None:
        assert node.op is not None
        if not any([v.dtype.is_complex for v in (*node.inputs, *node.outputs)]):
            inputs = tuple([self.mapped[v] for v in node.inputs])
            made = self.b.graph.append(Node(node.op, inputs, node.attrs, tuple([o.type for o in node.outputs]), node.loc))
            self.mapped.update(zip(node.outputs, made.outputs, strict=True))
            return
        form = _JOINED.get(node.op.name)
        joined = None if form is None or not node.out.dtype.is_complex else form(self, node)
        if joined is not None:
            self.take(node.out, joined)
            return
        rule = _mover if node.op.name in _MOVERS else _RULES.get(node.op.name, _host)
        found = rule(self, node)
        if found is None:
            return
        out = node.out
        if out.dtype.is_complex:
            self.parts[out] = (self.fit(found[0], out), self.fit(found[1], out))
        else:
            self.mapped[out] = self.fit(found, out)

    # -- values ------------------------------------------------------------------------------------------------------
    def take(self, value: Value, joined: Value) -> None:
        """`value` is what `joined` holds along its last axis."""
        self.joined[value] = joined
        shape = value.shape
        halves = [self.b.slice(joined, (0,) * len(shape) + (i,), (*shape, i + 1), (1,) * (len(shape) + 1)) for i in (0, 1)]
        self.parts[value] = tuple([self.b.reshape(h, shape) for h in halves])

    def whole(self, value: Value) -> Value:
        """A complex value with its parts along a last axis."""
        found = self.joined.get(value)
        if found is None:
            shape = value.shape
            halves = [self.b.reshape(self.tensor(p, dtypes.to_real(value.dtype), value), (*shape, 1)) for p in self.parts[value]]
            found = self.joined[value] = self.b.cat(*halves, dim=len(shape))
        return found

    def tensor(self, x: Any, dtype: DType, like: Value) -> Value:
        """A part, which may be a number, as a tensor of `dtype` and the shape of `like`."""
        if not isinstance(x, Value) or x.type.weak:
            return self.b.full(x, like.shape, dtype, like.type.device)
        x = x if x.dtype is dtype else self.b.cast(x, dtype)
        return x if x.shape == like.shape else self.b.expand(x, like.shape)

    def fit(self, x: Any, out: Value) -> Value:
        return self.tensor(x, dtypes.to_real(out.dtype), out)

    def both(self, value: Value, dtype: DType) -> Parts:
        """The parts of a value, complex or not, in the real `dtype`; numbers stay numbers."""
        found = self.parts[value] if value.dtype.is_complex else (self.mapped[value], 0.0)
        return tuple([self.cast(x, dtype) for x in found])

    def cast(self, x: Any, dtype: DType) -> Any:
        return x if not isinstance(x, Value) or x.type.weak or x.dtype is dtype else self.b.cast(x, dtype)

    def operands(self, node: Node) -> list[Parts]:
        """The parts of an elementwise op's operands, in the dtype in which they are combined."""
        assert node.op is not None
        types = tuple([v.type for v in node.inputs])
        dtype = _wide(compute_dtype(node.op, types) or result_dtype(types))
        found = [self.both(v, dtype) for v in node.inputs]
        for i, (re, im) in enumerate(found):  # arithmetic on numbers alone would have another dtype
            if not isinstance(re, Value) or re.type.weak:
                found[i] = tuple([self.b.full(x, (), dtype, node.outputs[0].type.device) for x in (re, im)])
        return found


def _wide(dtype: DType) -> DType:
    """In what the parts of numbers are computed: those of 16 bits in float32."""
    part = dtypes.to_real(dtype)
    return dtypes.float32 if part is dtypes.float16 else part


def _host(c: _Pairs, node: Node) -> None:
    """By the op's numpy reference."""
    assert node.op is not None
    values: list[Value] = []
    types = tuple([v.type for v in node.inputs])
    dtype = compute_dtype(node.op, types) if node.op.kind is Kind.ELEMENTWISE else None
    flags = []
    for v in node.inputs:
        flags.append(v.dtype.is_complex)
        if v.dtype.is_complex:
            joined = c.whole(v)
            part = _wide(v.dtype if dtype is None else dtype)
            values.append(joined if joined.dtype is part else c.b.cast(joined, part))
        elif v.type.weak:
            values.append(c.b.full(c.mapped[v], (), v.dtype if dtype is None else _wide(dtype), node.outputs[0].type.device))
        else:
            values.append(c.mapped[v])
    op = TABLE["on_pairs"]
    attrs = (node.op.name, tuple([dtypes.complex64 if a is dtypes.complex32 else a for a in node.attrs]), tuple(flags))
    outs = []
    for o in node.outputs:
        t = o.type
        outs.append(tensor_type((*t.shape, 2), _wide(t.dtype), t.device) if t.dtype.is_complex else t)
    made = c.b.graph.append(Node(op, tuple(values), attrs, tuple(outs), node.loc))
    for old, new in zip(node.outputs, made.outputs, strict=True):
        if old.dtype.is_complex:
            part = dtypes.to_real(old.dtype)
            c.take(old, new if new.dtype is part else c.b.cast(new, part))
        else:
            c.mapped[old] = new if new.dtype is old.dtype else c.b.cast(new, old.dtype)


# -- moving elements ---------------------------------------------------------------------------------------------------------
_MOVERS = frozenset("""copy reshape permute expand slice flip as_strided cat pad slice_scatter as_strided_scatter gather
index_select index scatter scatter_add index_add index_copy index_put sum cumsum full""".split())
_INDICES = ("index", "idx", "c")


def _mover(c: _Pairs, node: Node) -> Parts:
    """An op that is linear with real coefficients, on each part."""
    op = node.op
    assert op is not None
    dtype = dtypes.to_real(node.out.dtype)
    attrs = tuple([dtypes.to_real(a) if isinstance(a, DType) else a for a in node.attrs])
    names = [op.operands[min(i, len(op.operands) - 1)].rstrip("*") for i in range(len(node.inputs))]
    sources: list[Parts | None] = []
    for name, v in zip(names, node.inputs, strict=True):
        found = None if name in _INDICES else c.both(v, dtype)
        real = found is not None and not v.type.weak and not v.dtype.is_complex
        sources.append((found[0], c.tensor(0.0, dtype, v)) if found is not None and real else found)
    results = []
    for part in (0, 1):
        values = [c.mapped[v] if s is None else s[part] for s, v in zip(sources, node.inputs, strict=True)]
        results.append(c.b.apply(op, tuple(values), attrs))
    return results[0], results[1]


# -- on joined parts -----------------------------------------------------------------------------------------------------------
def _joined(c: _Pairs, node: Node, positions: tuple[int, ...] | None = None) -> list[Value] | None:
    """The operands (at `positions`) with joined parts in the result's dtype; None unless they all have them: parts alone stay apart."""
    dtype = dtypes.to_real(node.out.dtype)
    found = []
    for v in node.inputs if positions is None else [node.inputs[i] for i in positions]:
        x = c.joined.get(v)
        if x is None:
            return None
        found.append(x if x.dtype is dtype else c.b.cast(x, dtype))
    return found


def _each(c: _Pairs, node: Node) -> Value | None:
    """An op that does the same to both parts, elementwise or along axes named by attributes."""
    assert node.op is not None
    values = None if "dim" in node.op.attrs and not node.inputs[0].shape else _joined(c, node)
    longer = {"shape": (2,), "starts": (0,), "stops": (2,), "steps": (1,), "low": (0,), "high": (0,)}
    if node.op.name == "permute":
        longer["dims"] = (len(node.out.shape),)
    attrs = [a + longer.get(name, ()) if isinstance(a, tuple) else dtypes.to_real(a) if isinstance(a, DType) else a
             for name, a in zip(node.op.attrs, node.attrs, strict=True)]
    if values is None:
        return None
    made = c.b.apply(node.op, tuple(values), tuple(attrs))
    assert isinstance(made, Value)
    return made


def _indexed(c: _Pairs, node: Node) -> Value | None:
    """(x, index) or (x, index, source): along one axis, or at several; the last axis comes with it."""
    assert node.op is not None
    names = [node.op.operands[min(i, len(node.op.operands) - 1)].rstrip("*") for i in range(len(node.inputs))]
    places = tuple([i for i, name in enumerate(names) if name not in _INDICES])
    values = _joined(c, node, places)
    if values is None or not node.inputs[0].shape:
        return None
    rest = iter(values)
    made = c.b.apply(node.op, tuple([next(rest) if i in places else c.mapped[v] for i, v in enumerate(node.inputs)]), node.attrs)
    assert isinstance(made, Value)
    return made


def _chosen(c: _Pairs, node: Node) -> Value | None:
    values: list[Any] = []
    for i in (1, 2):
        v = node.inputs[i]
        if v.node.op is not None and v.node.op.name == "constant" and v.node.attrs[0] == 0:
            values.append(0.0)
            continue
        found = _joined(c, node, (i,))
        if found is None:
            return None
        values += found
    condition = c.mapped[node.inputs[0]]
    return c.b.where(c.b.reshape(condition, (*condition.shape, 1)) if condition.shape else condition, *values)


def _zeros(c: _Pairs, node: Node) -> Value | None:
    number = node.inputs[0].node
    shape, dtype, device = node.attrs
    if number.op is None or number.op.name != "constant" or number.attrs[0] != 0:
        return None
    return c.b.full(0.0, (*shape, 2), dtypes.to_real(dtype), device)


_JOINED: dict[str, Callable[[_Pairs, Node], Value | None]] = {
    **dict.fromkeys("add sub neg copy reshape permute slice flip cat slice_scatter cumsum cast".split(), _each),
    **dict.fromkeys("index_select index_add index_copy index_put".split(), _indexed),
    "where": _chosen, "full": _zeros,
}


# -- arithmetic ----------------------------------------------------------------------------------------------------------------
Rule = Callable[[_Pairs, Node], Any]


def _rule(function: Callable[..., Any]) -> Rule:
    """A rule from a function of the builder and each operand's parts."""
    return lambda c, node: function(c.b, *c.operands(node))


def _mul(b: Any, x: Parts, y: Parts) -> Parts:
    return b.sub(b.mul(x[0], y[0]), b.mul(x[1], y[1])), b.add(b.mul(x[0], y[1]), b.mul(x[1], y[0]))


def _div(b: Any, x: Parts, y: Parts) -> Parts:
    """By the larger part of the divisor first, so that squares do not overflow (R. L. Smith, 1962)."""
    large = b.ge(b.abs(y[0]), b.abs(y[1]))
    p, q = b.where(large, y[0], y[1]), b.where(large, y[1], y[0])
    ratio = b.div(q, p)
    scale = b.reciprocal(b.add(p, b.mul(q, ratio)))
    re = b.where(large, b.add(x[0], b.mul(x[1], ratio)), b.add(b.mul(x[0], ratio), x[1]))
    im = b.where(large, b.sub(x[1], b.mul(x[0], ratio)), b.sub(b.mul(x[1], ratio), x[0]))
    zero = b.logical_and(b.eq(y[0], 0.0), b.eq(y[1], 0.0))
    return tuple([b.where(zero, b.div(a, b.abs(p)), b.mul(n, scale)) for a, n in zip(x, (re, im), strict=True)])


def _abs(b: Any, x: Parts) -> Any:
    """sqrt(re^2 + im^2) by the larger part, so that squares do not overflow."""
    re, im = b.abs(x[0]), b.abs(x[1])
    high, low = b.maximum(re, im), b.minimum(re, im)
    ratio = b.div(low, b.where(b.eq(high, 0.0), 1.0, high))
    size = b.mul(high, b.sqrt(b.add(b.mul(ratio, ratio), 1.0)))
    return b.where(b.logical_or(b.isinf(re), b.isinf(im)), float("inf"), size)


def _exp(b: Any, x: Parts) -> Parts:
    size = b.exp(x[0])
    return b.mul(size, b.cos(x[1])), b.where(b.eq(x[1], 0.0), x[1], b.mul(size, b.sin(x[1])))


def _sgn(b: Any, x: Parts) -> Parts:
    size = _abs(b, x)
    zero = b.eq(size, 0.0)
    safe = b.where(zero, 1.0, size)
    return b.where(zero, 0.0, b.div(x[0], safe)), b.where(zero, 0.0, b.div(x[1], safe))


def _truth(b: Any, x: Parts) -> Any:
    return b.logical_or(b.ne(x[0], 0.0), b.ne(x[1], 0.0))


def _where(c: _Pairs, node: Node) -> Parts:
    condition, (x, y) = c.mapped[node.inputs[0]], [c.both(v, dtypes.to_real(node.out.dtype)) for v in node.inputs[1:]]
    return c.b.where(condition, x[0], y[0]), c.b.where(condition, x[1], y[1])


def _cast(c: _Pairs, node: Node) -> Any:
    value, to = node.inputs[0], node.attrs[0]
    x = c.parts[value] if value.dtype.is_complex else (c.mapped[value], 0.0)
    if to.is_complex:
        return x
    return _truth(c.b, x) if to is dtypes.bool_ else c.b.cast(x[0], to)


def _matmul(c: _Pairs, node: Node) -> Parts:
    b, (x, y) = c.b, [c.both(v, _wide(v.dtype)) for v in node.inputs]
    return b.sub(b.matmul(x[0], y[0]), b.matmul(x[1], y[1])), b.add(b.matmul(x[0], y[1]), b.matmul(x[1], y[0]))


def _view_as_complex(c: _Pairs, node: Node) -> None:
    c.take(node.out, c.mapped[node.inputs[0]])


def _constant(c: _Pairs, node: Node) -> None:
    number = node.attrs[0]
    c.parts[node.out] = (number.real, number.imag)


def _any_or_all(c: _Pairs, node: Node) -> Any:
    assert node.op is not None
    return c.b.apply(node.op, (_truth(c.b, c.parts[node.inputs[0]]),), node.attrs)


_RULES: dict[str, Rule] = {
    "add": _rule(lambda b, x, y: (b.add(x[0], y[0]), b.add(x[1], y[1]))),
    "sub": _rule(lambda b, x, y: (b.sub(x[0], y[0]), b.sub(x[1], y[1]))),
    "mul": _rule(_mul), "div": _rule(_div), "reciprocal": _rule(lambda b, x: _div(b, (1.0, 0.0), x)),
    "neg": _rule(lambda b, x: (b.neg(x[0]), b.neg(x[1]))), "conj": _rule(lambda b, x: (x[0], b.neg(x[1]))),
    "real": _rule(lambda b, x: x[0]), "imag": _rule(lambda b, x: x[1]),
    "complex": lambda c, node: tuple([c.mapped[v] for v in node.inputs]),
    "abs": _rule(_abs), "sgn": _rule(_sgn), "angle": _rule(lambda b, x: b.atan2(x[1], x[0])), "exp": _rule(_exp),
    "log": _rule(lambda b, x: (b.log(_abs(b, x)), b.atan2(x[1], x[0]))),
    "eq": _rule(lambda b, x, y: b.logical_and(b.eq(x[0], y[0]), b.eq(x[1], y[1]))),
    "ne": _rule(lambda b, x, y: b.logical_or(b.ne(x[0], y[0]), b.ne(x[1], y[1]))),
    "isnan": _rule(lambda b, x: b.logical_or(b.isnan(x[0]), b.isnan(x[1]))),
    "isinf": _rule(lambda b, x: b.logical_or(b.isinf(x[0]), b.isinf(x[1]))),
    "isfinite": _rule(lambda b, x: b.logical_and(b.isfinite(x[0]), b.isfinite(x[1]))),
    "logical_not": _rule(lambda b, x: b.logical_not(_truth(b, x))),
    "logical_and": _rule(lambda b, x, y: b.logical_and(_truth(b, x), _truth(b, y))),
    "logical_or": _rule(lambda b, x, y: b.logical_or(_truth(b, x), _truth(b, y))),
    "logical_xor": _rule(lambda b, x, y: b.logical_xor(_truth(b, x), _truth(b, y))),
    "where": _where, "cast": _cast, "matmul": _matmul, "any": _any_or_all, "all": _any_or_all, "constant": _constant,
    "view_as_real": lambda c, node: c.whole(node.inputs[0]), "view_as_complex": _view_as_complex,
}
