"""The tape of a replayed call: one node whose gradients are a plan.

At capture the backward pass is recorded once, on stand-in gradients, behind the forward's own trace: the joint graph. It is cut
where the gradients of the results come in; the forward plan saves every value that crosses the cut. So hooks of leaves,
`retain_graph` and gradients into earlier graphs work as for any node.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.autograd import edge_of, nodes_of, run_backward
from treadle.compilation.capture import Capture, Seen
from treadle.ir import op as op_table
from treadle.ir.types import TensorType
from treadle.passes.basic import dce
from treadle.runtime import engine, memory
from treadle.runtime.engine import Plan
from treadle.runtime.recorder import STATE, Data, Step, Trace, build_graph, computed
from treadle.tape import Edge, next_sequence
from treadle.tensor import Tensor, apply, read, wrap


class Released:
    """Stands where a tape was that a backward pass has consumed."""

    edges: tuple[Edge, ...] = ()
    released = True
    hooks = retained = None
    out_types: tuple[Any, ...] = (None,)
    sequence = 0

    def name(self) -> str:
        return "CompiledBackward"

    @property
    def next_functions(self) -> tuple[Any, ...]:
        return ()

    def release(self) -> None:
        """Nothing is kept."""

    def gradients(self, grads: Sequence[Any]) -> Sequence[Any]:
        raise RuntimeError("Trying to backward through the graph a second time (or directly access saved tensors after they have "
                           "already been freed). Specify retain_graph=True if you need to backward through the graph a second time.")


class CompiledNode:
    """The tape of one replayed call."""

    def __init__(self, tape: Tape, edges: tuple[Edge, ...], saved: list[Data], numbers: tuple[Any, ...]) -> None:
        self.tape, self.edges, self.saved, self.numbers = tape, edges, saved, numbers
        self.hooks: Any = None
        self.retained: Any = None
        self.released = False
        self.versions: Any = None
        self.sequence = next_sequence()

    @property
    def out_types(self) -> tuple[Any, ...]:
        return self.tape.out_types

    def name(self) -> str:
        return "CompiledBackward"

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"

    @property
    def next_functions(self) -> tuple[Any, ...]:
        return tuple([(None, 0) if e is None else e for e in self.edges])

    def release(self) -> None:
        self.saved = []
        self.released = True

    def gradients(self, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
        """Run the backward plan."""
        if self.released:
            return Released().gradients(grads)
        if STATE.here.grad:
            raise RuntimeError("create_graph=True through a compiled function is not supported: call the function itself, "
                               "or compile the function that takes the gradient")
        given = []
        for g, type in zip(grads, self.tape.out_types, strict=True):
            t = apply(op_table.TABLE["full"], (0.0,), (type.shape, type.dtype, type.device)) if g is None else g
            given.append(t)
        return self.tape.run(self.saved, self.numbers, given)


class Tape:
    """What all replays of a capture share: the types of the results, and the backward plan."""

    def __init__(self, out_types: tuple[TensorType, ...], plan: Plan) -> None:
        self.out_types, self.plan = out_types, plan

    def __call__(self, outputs: tuple[Tensor, ...], sources: tuple[Tensor, ...], saved: tuple[Data, ...], numbers: tuple[Any, ...]) -> None:
        """Put the results of a replay on the tape."""
        node: Any = CompiledNode(self, tuple([edge_of(t) for t in sources]), list(saved), numbers)
        for i, t in enumerate(outputs):
            t._node, t._out = node, i

    def run(self, saved: list[Data], numbers: tuple[Any, ...], grads: list[Tensor]) -> list[Tensor | None]:
        given = [read(g) for g in grads]
        for g in given:
            engine.materialize(g)
        outputs = [computed(type, None) for type in self.plan.types]
        self.plan.run([*saved, *given, *outputs], numbers)
        return [wrap(d) for d in outputs]


class Joint:
    """Forward and backward of a captured call in one trace: where it ends, and the slots of cotangents and gradients."""

    def __init__(self, outputs: list[Tensor], sources: list[Seen], at: Step, scalars: list[Any], seeds: list[int], gradients: list[int],
                 count: int) -> None:
        self.outputs, self.sources, self.at, self.scalars = outputs, sources, at, scalars
        self.seeds, self.gradients, self.count = seeds, gradients, count


def on_tape(value: Any, capture: Capture, found: dict[int, Tensor]) -> None:
    """Collect the call's own tensors in a result that still need a backward pass."""
    if isinstance(value, Tensor):
        if value._node is not None and id(value) not in capture.seen and not getattr(value._node, "released", False):
            found.setdefault(id(value), value)
    elif isinstance(value, dict):
        for v in value.values():
            on_tape(v, capture, found)
    elif isinstance(value, list | tuple):
        for v in value:
            on_tape(v, capture, found)
    elif hasattr(value, "__dict__") and id(value) in capture.fresh:
        for v in vars(value).values():
            on_tape(v, capture, found)


def record_backward(capture: Capture, trace: Trace, outputs: list[Tensor]) -> Joint | str:
    """Record the backward pass of `outputs` behind their forward, then take the trace back. A text says why that cannot be."""
    for node in nodes_of([t._node for t in outputs]):
        if node.hooks or node.retained:
            return "gives back a result whose tape has hooks"
    sources = [s for s in capture.seen.values() if (s.needs_grad or s.node is not None) and s.place[0] != "grad"]
    before = trace.at, len(trace.values), dict(trace.leaves), len(trace.scalars)
    try:
        return _behind(trace, outputs, sources)
    except RuntimeError as error:  # a tape that is spent in part: the user's backward would say so
        return f"gives back a result whose backward pass fails ({str(error)[:60]}...)"
    finally:
        trace.at, trace.leaves = before[0], before[2]
        del trace.values[before[1]:]
        del trace.scalars[before[3]:]


def _behind(trace: Trace, outputs: list[Tensor], sources: list[Seen]) -> Joint | str:
    if any(t._data.type.layout != "strided" for t in outputs):
        return "gives back a sparse result that still requires a backward pass"
    seeds = [computed(t._data.type, memory.Buffer(0, 0)) for t in outputs]
    walk = run_backward(outputs, [wrap(d) for d in seeds], True, False, [s.tensor for s in sources])
    reached = [(s, walk.leaves[id(s.tensor)][1]) for s in sources if id(s.tensor) in walk.leaves]
    slots = []
    for _, g in reached:
        data = read(g)
        slot = data.slot if data.trace is trace else trace.leaves.get(data)
        if slot is None:
            return "gives back a result whose gradient does not depend on the call"
        slots.append(slot)
    return Joint(outputs, [s for s, _ in reached], trace.at, list(trace.scalars), [trace.leaves.get(d, -1) for d in seeds], slots,
                 len(trace.values))


class Split:
    """A joint graph cut into a forward plan, which also saves, and a backward plan.

    saved: slots of the forward's values, or new ones after the trace's. late_numbers: run-time scalars of the backward plan.
    """

    def __init__(self, joint: Joint, wanted: list[int], budget: float) -> None:
        graph, leaves = build_graph(joint.at, [*wanted, *joint.gradients])
        tensors = len(leaves)
        slots = {s: i for i, s in enumerate(leaves)}
        from treadle.passes.partition import partition  # the passes load with the first compilation
        from treadle.passes.pipeline import prepare
        graph = prepare(dce(graph))
        seeds = [graph.inputs[slots[s]] for s in joint.seeds if s >= 0]
        self.parts = partition(graph, len(wanted), seeds, tensors, budget)
        slot = dict(zip(reversed(graph.outputs[:len(wanted)]), reversed(wanted), strict=True))
        slot.update(zip(graph.inputs[:tensors], leaves, strict=True))
        for i, value in enumerate(self.parts.saved):
            slot.setdefault(value, joint.count + i)
        self.saved = [slot[v] for v in self.parts.saved]
        self.late_numbers = self.parts.numbers
        self.backward = Plan.of(self.parts.backward, len(self.saved) + len(seeds))
        outputs = [*wanted, *[slot[v] for v in self.parts.saved if v.node.op is not None]]
        early = [s for s, v in zip(leaves, graph.inputs, strict=False) if v not in seeds]
        self.forward = Plan.of(self.parts.forward, len(early))
        self.forward.inputs, self.forward.outputs = early, outputs
        self.forward.runs = self.backward.runs = 1  # the capture has seen them once
        self.types = {s: v.type for s, v in zip(outputs, self.parts.forward.outputs, strict=True)}
