"""The tape of a replayed call: one node whose gradients are a plan.

At capture the backward pass is recorded once, on stand-in gradients, behind the forward's own trace: the joint graph. A partition
decides what the forward plan saves. So hooks of leaves, `retain_graph` and gradients into earlier graphs work as for any node.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.autograd import Edge, edge_of
from treadle.ir import op as op_table
from treadle.runtime.recorder import STATE, Data, computed
from treadle.tensor import Tensor, apply, wrap


class Released:
    """Stands where a tape was that a backward pass has consumed."""

    edges: tuple[Edge, ...] = ()
    released = True
    hooks = retained = None
    out_types: tuple[Any, ...] = (None,)

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

    def __init__(self, tape: Tape, edges: tuple[Edge, ...], saved: list[Data]) -> None:
        self.tape, self.edges, self.saved = tape, edges, saved
        self.hooks: Any = None
        self.retained: Any = None
        self.released = False
        self.versions: Any = None

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
        return self.tape.run(self.saved, given)


class Tape:
    """What all replays of a capture share: the backward graph and where gradients go."""

    def __init__(self, sources: list[Any], out_types: tuple[Any, ...], saved_slots: list[int], plan: Any, numbers: list[Any]) -> None:
        self.sources, self.out_types, self.saved_slots, self.plan, self.numbers = sources, out_types, saved_slots, plan, numbers

    def __call__(self, outputs: tuple[Tensor, ...], sources: tuple[Tensor, ...], values: list[Any]) -> None:
        """Put the results of a replay on the tape."""
        node: Any = CompiledNode(self, tuple([edge_of(t) for t in sources]), [values[s] for s in self.saved_slots])
        for i, t in enumerate(outputs):
            t._node, t._out = node, i

    def run(self, saved: list[Data], grads: list[Tensor]) -> list[Tensor | None]:
        from treadle.compilation.replay import fetch
        values: list[Any] = [*saved, *[fetch(g) for g in grads]]
        outputs = [computed(v.type, None) for v in self.plan.graph.outputs]
        self.plan.run([*values, *outputs], self.numbers)
        return [wrap(d) for d in outputs]


def compiled_tape(writer: Any, capture: Any, plan: Any) -> Tape:
    """The tape of the results in `writer.tapes`. Refused until a joint graph can be made of it."""
    from treadle.compilation.replay import Refused
    raise Refused("gives back a result that still requires a backward pass")
