"""What a call computes from its arguments and a module's state, as one graph: the record that `treadle.onnx` exports.

A level like those of `vmap`: tensors given to the call stand for values of the graph, and an op on them appends a node. Ops on other
tensors are recorded as always. Those still pending when the call is over can become nodes too, since their sizes may follow those of
the arguments.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from treadle.grad_mode import no_grad
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import Attrs, Op
from treadle.ir.types import TensorType
from treadle.levels import Level, Operand, Types
from treadle.runtime import engine
from treadle.runtime.memory import array_of
from treadle.runtime.recorder import STATE, Data, Step, Wrapped, build_graph, user_location
from treadle.tensor import Tensor, read, wrap


class Recording(Level):
    """The running level: a graph in the making, and the tensors from outside that it reads."""

    __slots__ = ("builder", "outer")
    hidden = True

    def __init__(self) -> None:
        super().__init__()
        self.builder = Builder(Graph())
        self.outer: dict[Data, Value] = {}

    def input(self, t: Tensor) -> Tensor:
        """A tensor that stands for an input of the graph, of t's type."""
        type = t._data.type.with_()
        return self.wrap(self.builder.input(type), type)  # type: ignore[arg-type]

    def value(self, x: Any) -> Value:
        """The graph's value for a tensor or number."""
        what = self.of(x)
        if what is not None:
            found: Value = what.value
            return found
        if not isinstance(x, Tensor):
            return self.builder.number(x)
        data = read(x)
        if data not in self.outer:
            self.outer[data] = Node(None, (), (), (data.type,)).out
        return self.outer[data]

    def run(self, op: Op, operands: Sequence[Operand], types: Types, attrs: Attrs, step: Step) -> Sequence[Tensor]:
        inputs = tuple([self.value(x) if what is None else what.value for x, what in operands])
        node = self.builder.graph.append(Node(op, inputs, attrs, step.types, user_location()))
        return [self.wrap(v, v.type) for v in node.outputs]  # type: ignore[arg-type]

    def shown(self, what: Wrapped, reason: str) -> Tensor:
        where = user_location()
        raise RuntimeError("onnx.export: the model looks at a value that depends on its inputs"
                           + (f", at {where[0]}:{where[1]}" if where else "") + f" ({reason}). An exported model computes the same for "
                           "all inputs: choose between values with treadle.where.")

    def detached(self, data: Data) -> Data:
        what: Any = data.trace
        found: Data = self.wrap(what.value, data.type)._data
        return found


class Recorded:
    """The graph of one call. Its inputs are the arguments, the state, and then `constants`, in this order.

    outputs: what the call returned, its tensors replaced by values of the graph.
    """

    def __init__(self, level: Recording, outputs: list[Any]) -> None:
        self.graph = level.builder.graph
        self.outputs = outputs
        trace = STATE.here.trace
        self.pending = [d for d in level.outer if d.trace is trace]
        self.values = [level.outer[d] for d in self.pending]
        self.made, slots = build_graph(trace.at, [d.slot for d in self.pending])
        self.numbers = list(trace.scalars)
        ready = {level.outer[d]: d for d in level.outer if d.trace is not trace}
        leaves = dict(zip(self.made.inputs, [trace.values[slot] for slot in slots], strict=False))
        for node in self.made.nodes if self.pending else ():
            if node.op is not None and "seed" in node.op.operands:
                where = f", at {node.loc[0]}:{node.loc[1]}" if node.loc else ""
                raise NotImplementedError(f"onnx.export: the model draws random numbers (op {node.op.name!r}{where})")
        engine.flush("onnx.export")
        self.arrays = [array(d) for d in self.pending]
        self.constants: dict[Value, np.ndarray] = {v: array(d) for v, d in (ready | leaves).items()}

    def whole(self, known: Sequence[bool]) -> tuple[Graph, list[np.ndarray]]:
        """The graph with what was pending as nodes; but where `known`, as constants. And the arrays of its last inputs."""
        constants = dict(self.constants)
        constants.update({v: a for v, a, k in zip(self.values, self.arrays, known, strict=True) if k})
        b = Builder(Graph())
        b.graph.inputs = [*self.graph.inputs, *constants]
        env: dict[Value, Value] = {v: v for v in b.graph.inputs}
        if not all(known):
            env.update(zip(self.made.inputs[len(self.made.inputs) - len(self.numbers):], map(b.number, self.numbers), strict=True))
            _append(b.graph, self.made.nodes, env)
            env.update({v: env[o] for v, o, k in zip(self.values, self.made.outputs, known, strict=True) if not k})
        _append(b.graph, self.graph.nodes, env)
        b.graph.outputs = [env[v] for v in self.outputs if isinstance(v, Value)]
        return b.graph, list(constants.values())


def _append(graph: Graph, nodes: Sequence[Node], env: dict[Value, Value]) -> None:
    for node in nodes:
        inputs, types = tuple([env[v] for v in node.inputs]), tuple([o.type for o in node.outputs])
        made = graph.append(Node(node.op, inputs, node.attrs, types, node.loc))
        env.update(zip(node.outputs, made.outputs, strict=True))


def array(data: Data) -> np.ndarray:
    """The elements of a computed value, on the host."""
    if data.type.device != "cpu":
        data = read(wrap(data).cpu())
        engine.flush("onnx.export")
    type: TensorType = data.type
    return np.array(array_of(data.buffer, type))


def record(call: Callable[[list[Tensor]], list[Any]], given: Sequence[Tensor]) -> Recorded:
    """The graph of `call(tensors)`, which gets stand-ins for `given` and returns a flat list.

    RuntimeError where it looks at one of their values.
    """
    engine.flush("onnx.export")
    with Recording() as level, no_grad():
        inputs = [level.input(t) for t in given]
        outputs = [level.value(x) if isinstance(x, Tensor) else x for x in call(inputs)]
        return Recorded(level, outputs)
