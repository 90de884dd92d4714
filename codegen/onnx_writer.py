"""A graph as ONNX operations: nodes are lowered by the rules of `treadle.codegen.onnx_rules`, or by what they are made of.

Several recordings of one function, made at different sizes, are lowered in step: sizes that differ between them become
computations of the exported model (`treadle.codegen.onnx_sizes`).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from treadle.codegen.onnx_sizes import Sizes, Vector, is_constant
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.dtypes import BOOL, DType
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.interpreter import decomposed
from treadle.ir.op import Op
from treadle.passes.basic import dce

# Codes of element types in ONNX's format.
CODES = {"float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11,
         "complex64": 14, "complex128": 15, "bfloat16": 16}
OLDEST_OPSET = 11
_TO_BOOL = frozenset(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf"))
_TO_INT64 = frozenset(("Shape", "ArgMax", "ArgMin"))


class Declined(Exception):
    """A rule that does not hold for these attributes or this version of ONNX: what the op is made of may do."""


class Ref(NamedTuple):
    """A tensor of the exported model."""

    name: str
    dtype: DType


class Number(NamedTuple):
    """A Python number: a tensor in whatever type it is needed."""

    value: float | int | bool


class Operation(NamedTuple):
    """A node of the exported model; an empty name stands for an optional input that is not given."""

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


Operand = Ref | Number
Result = Any  # a Ref, or a tuple with one for each result; None for a result that nobody uses
Rule = Callable[["Writer", "Site"], Result]


@dataclass
class Site:
    """A node to be lowered, in every recording, with its operands in the exported model."""

    writer: Writer
    nodes: tuple[Node, ...]
    operands: list[Operand]
    used: list[bool] = field(default_factory=list)

    @property
    def node(self) -> Node:
        return self.nodes[0]

    @property
    def op(self) -> Op:
        assert self.node.op is not None
        return self.node.op

    def x(self, i: int, dtype: DType | None = None) -> Ref:
        """Operand i, cast to `dtype` if given."""
        return self.writer.cast(self.operands[i], dtype or self.node.inputs[i].dtype)

    def rank(self, i: int = 0) -> int:
        return len(self.node.inputs[i].shape)

    def number(self, i: int) -> float:
        """Operand i, where ONNX wants an attribute."""
        operand = self.operands[i]
        if not isinstance(operand, Number):
            raise Declined(f"operand {self.op.operands[i]!r} is computed")
        return float(operand.value)

    def rest(self, start: int) -> list[Operand]:
        return self.operands[start:]

    def attr(self, name: str) -> Any:
        """An attribute that does not depend on dynamic sizes."""
        found = [node.attr(name) for node in self.nodes]
        if any(a != found[0] for a in found):
            raise Declined(f"attribute {name!r} is {' or '.join(map(str, found))}, depending on a dynamic size")
        return found[0]

    def sizes(self, name: str) -> list[Vector]:
        """An attribute that is a tuple of sizes."""
        return [tuple(v) for v in zip(*[node.attr(name) for node in self.nodes], strict=True)]

    def shape(self, i: int = 0) -> list[Vector]:
        return shape_of([node.inputs[i] for node in self.nodes])

    def out_shape(self, i: int = 0) -> list[Vector]:
        return shape_of([node.outputs[i] for node in self.nodes])

    @property
    def dtype(self) -> DType:
        """The result's."""
        found: DType = self.node.out.dtype
        return found

    def refuse(self, reason: str) -> NotImplementedError:
        where = f" ({self.node.loc[0]}:{self.node.loc[1]})" if self.node.loc else ""
        types = ", ".join([str(v.type) for v in self.node.inputs])
        return NotImplementedError(f"onnx.export: op {self.op.name!r} on {types}{where}: {reason}")


def shape_of(values: Sequence[Value]) -> list[Vector]:
    """A value's sizes in every recording."""
    return [tuple(sizes) for sizes in zip(*[v.shape for v in values], strict=True)]


class Writer:
    """Collects operations and constants. `writer.Add(x, 1)` appends an operation of that type and returns its result.

    Operands are refs, numbers and lists (constants, of the first ref's type; int64 where there is none), arrays, or None.
    """

    def __init__(self, opset: int, rules: dict[str, Rule]) -> None:
        self.opset, self.rules = opset, rules
        self.operations: list[Operation] = []
        self.constants: dict[str, np.ndarray] = {}
        self.sizes = Sizes(self._of_sizes)
        self._names: set[str] = set()
        self._shared: dict[Any, Ref] = {}

    def __getattr__(self, type: str) -> Callable[..., Any]:
        if not type[0].isupper():
            raise AttributeError(type)
        return lambda *operands, **attributes: self.emit(type, *operands, **attributes)

    # -- names ---------------------------------------------------------------------------------------------------------
    def name(self, wanted: str) -> str:
        """A name that nothing has yet."""
        found, n = wanted, 0
        while found in self._names:
            n += 1
            found = f"{wanted}_{n}"
        self._names.add(found)
        return found

    # -- operations ------------------------------------------------------------------------------------------------------
    def emit(self, type: str, *operands: Any, outputs: int = 1, dtype: DType | None = None, **attributes: Any) -> Any:
        """Append an operation; `dtype` is that of the results, by default the first operand's."""
        like = next((x.dtype for x in operands[type == "Where":] if isinstance(x, Ref)), dtypes.int64)
        inputs = ["" if x is None else x.name if isinstance(x, Ref) else self.constant(x, like).name for x in operands]
        while inputs and not inputs[-1]:
            inputs.pop()
        names = tuple([self.name(type.lower()) for _ in range(outputs)])
        self.operations.append(Operation(type, tuple(inputs), names, attributes))
        to = dtype or (dtypes.bool_ if type in _TO_BOOL else dtypes.int64 if type in _TO_INT64 else like)
        results = tuple([Ref(name, to) for name in names])
        return results[0] if outputs == 1 else results

    def _of_sizes(self, type: str, *operands: Any, **attributes: Any) -> Ref:
        """An operation on sizes: its numbers are int64 whatever a tensor's type is."""
        result: Ref = self.emit(type, *[self.ints(x) if isinstance(x, list) else x for x in operands], dtype=dtypes.int64, **attributes)
        return result

    def constant(self, value: Any, dtype: DType) -> Ref:
        """A number, list or array as a constant, shared by all who want the same."""
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.ascontiguousarray(np.asarray(value).astype(dtype.np)).reshape(np.shape(value))
        key = (array.tobytes(), array.shape, dtype)
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = Ref(self.name("constant"), dtype)
            self.constants[found.name] = array
        return found

    def ints(self, values: Sequence[int]) -> Ref:
        return self.constant(list(values), dtypes.int64)

    def cast(self, x: Operand, dtype: DType) -> Ref:
        """x in another type; x itself if it has it."""
        if isinstance(x, Number):
            return self.constant(x.value, dtype)
        if x.dtype is dtype:
            return x
        result: Ref = self.emit("Cast", x, dtype=dtype, to=CODES[dtype.name])
        return result

    # -- shapes ----------------------------------------------------------------------------------------------------------
    def size_list(self, vectors: list[Vector]) -> Ref:
        """Sizes as an int64 tensor."""
        found = self.sizes.several(vectors)
        return found if isinstance(found, Ref) else self.ints(found)

    def reshape(self, x: Ref, have: list[Vector], want: list[Vector]) -> Ref:
        """x, of sizes `have`, with sizes `want`. Axes that stay in place are copied, one more is inferred."""
        if have == want:
            return x
        empty = any(0 in v for v in [*have, *want])
        if empty and all(map(is_constant, want)):
            return self.constant(np.zeros([v[0] for v in want]), x.dtype)
        copied = [v[0] if is_constant(v) else 0 if i < len(have) and have[i] == v and not empty else None for i, v in enumerate(want)]
        if copied.count(None) == 1 and not empty:
            copied = [-1 if n is None else n for n in copied]
        target = self.size_list(want) if None in copied else self.ints([n or 0 for n in copied])
        return self.Reshape(x, target)

    def need(self, opset: int) -> None:
        """Declined unless the version of ONNX is at least this."""
        if self.opset < opset:
            raise Declined(f"ONNX has it from opset {opset} on, and the model is for {self.opset}")

    # -- graphs ----------------------------------------------------------------------------------------------------------
    def lower(self, graphs: Sequence[Graph], operands: Sequence[Operand]) -> list[Operand]:
        """Append the nodes of a graph, given in every recording, on these inputs. Its outputs.

        NotImplementedError, naming op and line, for a node that has no form in ONNX; RuntimeError when the recordings differ in more
        than sizes.
        """
        graphs = [dce(g) for g in graphs]
        check_alike(graphs)
        env: dict[Value, Operand] = dict(zip(graphs[0].inputs, operands, strict=True))
        wanted = {v for node in graphs[0].nodes for v in node.inputs} | set(graphs[0].outputs)
        for nodes in zip(*[g.nodes for g in graphs], strict=True):
            site = Site(self, nodes, [env[v] for v in nodes[0].inputs], [v in wanted for v in nodes[0].outputs])
            for i, (value, result) in enumerate(zip(nodes[0].outputs, self.results(site), strict=True)):
                if isinstance(result, Ref):
                    self.sizes.learn(result, site.out_shape(i))
                if result is not None:
                    env[value] = result
        return [env[v] for v in graphs[0].outputs]

    def results(self, site: Site) -> Sequence[Operand | None]:
        """The results of a node: by its rule, else by its decomposition."""
        reason, rule = "it has no form in ONNX", self.rules.get(site.op.name)
        if any(v.dtype.is_complex for v in [*site.node.inputs, *site.node.outputs]):
            raise site.refuse("complex numbers have no form in ONNX")
        if rule is not None:
            before = len(self.operations)
            try:
                found = rule(self, site)
                return found if type(found) is tuple else (found,)
            except Declined as declined:
                gone = {name for operation in self.operations[before:] for name in operation.outputs}
                del self.operations[before:]
                self.sizes.made = {k: v for k, v in self.sizes.made.items() if v.name not in gone}
                reason = str(declined)
            except NotImplementedError as error:  # a size
                raise site.refuse(str(error)) from None
        if site.op.decompose is None:
            raise site.refuse("it draws random numbers" if "seed" in site.op.operands else reason)
        return self.expanded(site, [decomposed(site.op, tuple([v.type for v in n.inputs]), n.attrs) for n in site.nodes])

    def expanded(self, site: Site, bodies: Sequence[Graph]) -> list[Operand | None]:
        """The used results of a node by graphs of other ops; those of its decomposition have the types that the node promised."""
        bodies = [self._trimmed(body, site) for body in bodies]
        found = iter(self.lower(bodies, site.operands))
        shapes = iter([shape_of(values) for values in zip(*[b.outputs for b in bodies], strict=True)])
        results: list[Operand | None] = []
        for i, used in enumerate(site.used):
            value = self.cast(next(found), site.node.outputs[i].dtype) if used else None
            results.append(None if value is None else self.reshape(value, next(shapes), site.out_shape(i)))
        return results

    def _trimmed(self, body: Graph, site: Site) -> Graph:
        """`body` without the outputs that nobody uses, its nodes at the user's line."""
        new = Graph(body.name)
        new.inputs, env = list(body.inputs), {v: v for v in body.inputs}
        for node in body.nodes:
            made = Node(node.op, tuple([env[v] for v in node.inputs]), node.attrs, tuple([o.type for o in node.outputs]), site.node.loc)
            new.nodes.append(made)
            env.update(zip(node.outputs, made.outputs, strict=True))
        new.outputs = [env[v] for v, used in zip(body.outputs, site.used, strict=True) if used]
        return new

    def by(self, site: Site, rule: Callable[..., Any]) -> Result:
        """The first result of a node by another rule than its decomposition, `(b, *operands, *attributes) -> value`."""
        bodies = []
        for node in site.nodes:
            b = Builder(Graph(site.op.name))
            inputs = [b.input(v.type) for v in node.inputs]
            b.graph.outputs = [rule(b, *inputs, *node.attrs)]
            bodies.append(b.graph)
        first = Site(self, site.nodes, site.operands, [True])
        return (*self.expanded(first, bodies), *(None,) * (len(site.used) - 1))


def check_alike(graphs: Sequence[Graph]) -> None:
    """RuntimeError unless the graphs are of one function: the same ops on the same values."""
    first = graphs[0]
    for other in graphs[1:]:
        found = dict(zip(first.inputs, other.inputs, strict=True))
        for a, b in zip(first.nodes, other.nodes, strict=False):
            if a.op is not b.op or [found[v] for v in a.inputs] != list(b.inputs):
                where = f" at {a.loc[0]}:{a.loc[1]}" if a.loc else ""
                raise RuntimeError(f"onnx.export: the model computes something else at other sizes of its dynamic axes{where}: "
                                   f"{a.op.name if a.op else ''} there is {b.op.name if b.op else ''} here")
            found.update(zip(a.outputs, b.outputs, strict=True))
        if len(first.nodes) != len(other.nodes):
            raise RuntimeError("onnx.export: the model computes something else at other sizes of its dynamic axes: "
                               f"{len(first.nodes)} ops became {len(other.nodes)}")


def number_of(writer: Writer, site: Site) -> Operand:
    """The value of a `constant` node: a number, or the size that it follows."""
    values = tuple([node.attrs[0] for node in site.nodes])
    if is_constant(values) or all(isinstance(v, float) and math.isnan(v) for v in values):
        return Number(values[0])
    if any(v != int(v) for v in values):
        raise Declined(f"the number {' or '.join(map(str, values))} depends on a dynamic size")
    size = writer.sizes.scalar(tuple([int(v) for v in values]))
    return writer.cast(writer.Reshape(size, writer.ints([])), site.dtype)


def is_bool(dtype: DType) -> bool:
    return dtype.category == BOOL
