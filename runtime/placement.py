"""Graphs whose values live on several devices: cut into parts that stay on one, with copies between them.

A part's graph names no device: passes, lowering and kernels are those of the CPU. Crossing values are what `to_device` moves,
and 0-d values of the CPU that an op on another device reads.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.types import TensorType, tensor_type
from treadle.runtime import cuda_driver, cuda_memory, cuda_plan
from treadle.runtime.cuda_memory import DeviceBuffer

HOST = "cpu"


class Part(NamedTuple):
    """A graph without devices, where it runs, and which values of the whole it takes (tensors, then numbers) and gives."""

    device: str
    graph: Graph
    tensors: tuple[Value, ...]
    numbers: tuple[Value, ...]
    results: tuple[Value, ...]


def is_placed(graph: Graph) -> bool:
    """Whether any value lives on another device than the CPU."""
    return (any(v.type.device != HOST for v in graph.inputs)
            or any(o.type.device != HOST for node in graph.nodes for o in node.outputs))


def without_device(graph: Graph) -> Graph:
    """The graph with all its values on the CPU."""
    new = Graph(graph.name)
    mapped = {v: new.add_input(_on_host(v.type)) for v in graph.inputs}
    for node in graph.nodes:
        _append(new, node, mapped)
    new.outputs = [mapped[v] for v in graph.outputs]
    return new


def _on_host(type: TensorType) -> TensorType:
    return type if type.device == HOST else tensor_type(type.shape, type.dtype, HOST, type.weak)


def _append(graph: Graph, node: Node, mapped: dict[Value, Value]) -> None:
    """Add a node without its device; one that only moves its operand is that operand."""
    assert node.op is not None
    inputs = tuple([mapped[v] for v in node.inputs])
    if node.op.name == "to_device":
        mapped[node.out] = inputs[0]
        return
    attrs = tuple([HOST if name == "device" else _region(a) for name, a in zip(node.op.attrs, node.attrs, strict=True)])
    made = graph.append(Node(node.op, inputs, attrs, tuple([_on_host(o.type) for o in node.outputs]), node.loc))
    mapped.update(zip(node.outputs, made.outputs, strict=True))


def _region(attr: Any) -> Any:
    return without_device(attr) if isinstance(attr, Graph) and is_placed(attr) else attr


def split(graph: Graph) -> list[Part]:
    """The parts in the order in which they run. Values that come from numbers alone are computed wherever they are needed."""
    stage: dict[Node, tuple[int, str]] = {}
    free = _free_nodes(graph)
    order: dict[tuple[int, str], list[Node]] = {}
    for node in graph.nodes:
        if node in free:
            continue
        device = node.outputs[0].type.device
        first = 0
        for value in node.inputs:
            before = stage.get(value.node)
            if before is not None:
                first = max(first, before[0] + (before[1] != device))
        stage[node] = first, device
        order.setdefault((first, device), []).append(node)
    wanted = set(graph.outputs)
    for node in graph.nodes:
        wanted.update([v for v in node.inputs if v.node in stage and node in stage and stage[v.node] != stage[node]])
    loose = [v for v in graph.outputs if v.node in free]
    if loose:
        order.setdefault((0, HOST), [])
    return [_part(graph, device, nodes, free, wanted, loose if (number, device) == (0, HOST) else [])
            for (number, device), nodes in sorted(order.items(), key=lambda item: item[0])]


def _free_nodes(graph: Graph) -> dict[Node, None]:
    """Nodes of weak values, which belong to no device."""
    free: dict[Node, None] = {}
    for node in graph.nodes:
        if all(o.type.weak for o in node.outputs) and all(v.type.weak for v in node.inputs):
            free[node] = None
    return free


def _part(graph: Graph, device: str, nodes: list[Node], free: dict[Node, None], wanted: set[Value], loose: list[Value]) -> Part:
    needed = _with_free(nodes, free, loose)
    made = {o for node in needed for o in node.outputs}
    outside = dict.fromkeys(v for node in needed for v in node.inputs if v not in made)
    tensors = tuple([v for v in outside if not v.type.weak])
    numbers = tuple([v for v in outside if v.type.weak])
    new = Graph(graph.name)
    mapped = {v: new.add_input(_on_host(v.type)) for v in (*tensors, *numbers)}
    for node in needed:
        _append(new, node, mapped)
    results = tuple([*[o for node in nodes for o in node.outputs if o in wanted], *loose])
    new.outputs = [mapped[v] for v in results]
    return Part(device, new, tensors, numbers, results)


def _with_free(nodes: list[Node], free: dict[Node, None], loose: list[Value]) -> list[Node]:
    """The nodes with those they need that belong to no device, in order."""
    needed = dict.fromkeys(nodes)
    for node in reversed(list(free)):
        if any(v.node is node for other in needed for v in other.inputs) or any(v.node is node for v in loose):
            needed[node] = None
    own = [node for node in free if node in needed]
    return [*own, *nodes]


class PlacedPlan:
    """Compiled parts. Runs like a `CompiledPlan`."""

    binding = launch = None

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parts = split(graph)
        self._load()

    def _load(self) -> None:
        from treadle.runtime.compiled import compile_graph
        self.resets = cuda_driver.RESETS
        self.plans: list[Any] = []
        for part in self.parts:
            if part.device == HOST:
                self.plans.append(compile_graph(part.graph))
            else:
                self.plans.append(cuda_plan.build(part.graph, cuda_driver.device_named(part.device)))

    def run(self, buffers: Sequence[Any], scalars: Sequence[Any]) -> list[Any] | None:
        """Results in the graph's order, each where its type says; None when a kernel found a fault in the data."""
        if self.resets != cuda_driver.RESETS:
            self._load()
        inputs = self.graph.inputs
        env: dict[Value, Any] = dict(zip(inputs, buffers, strict=False))
        numbers = dict(zip(inputs[len(buffers):], scalars, strict=True))
        for part, plan in zip(self.parts, self.plans, strict=True):
            given = [move(env[v], part.device) for v in part.tensors]
            results = plan.run(given, [numbers[v] for v in part.numbers])
            if results is None:
                return None
            env.update(zip(part.results, results, strict=True))
        found, taken = [], set()
        for value in self.graph.outputs:
            buffer = env[value]
            fresh = value.node.op is not None and id(buffer) not in taken
            found.append(buffer if fresh else _own(buffer))
            taken.add(id(buffer))
        return found


def _own(buffer: Any) -> Any:
    return cuda_memory.duplicate(buffer, buffer.device) if isinstance(buffer, DeviceBuffer) else cuda_plan.CompiledPlan._copy(buffer)


def move(buffer: Any, device: str) -> Any:
    """The buffer's content on the device: the buffer itself when it is there."""
    on_device = isinstance(buffer, DeviceBuffer)
    if device == HOST:
        return buffer.host() if on_device else buffer
    where = cuda_driver.device_named(device)
    if not on_device:
        return cuda_memory.upload(buffer, where)
    return buffer if buffer.device is where else cuda_memory.duplicate(buffer, where)
