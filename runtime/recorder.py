"""The recorder: running an op appends one step to the thread's trace by walking a trie of traces seen before.

A step's key is (op, attributes, operand slots); the key of a tensor's first use in a trace is its type. On a hit the trie node
already knows the result types, so there is neither shape inference nor graph building. Python numbers used as data are
lifted into a list of run-time scalars: only their class is in the key.
"""
from __future__ import annotations

import os
import sys
import threading
from typing import Any

from treadle.ir import dtypes
from treadle.ir.graph import Graph, Location, Node, Value
from treadle.ir.op import Attrs, Op, result_types
from treadle.ir.types import SCALARS, TensorType

MAX_STEPS = 4096           # flush a trace of this many ops
MAX_BYTES = 4 << 30        # or whose results would take this much if none were fused away


class Data:
    """A tensor value: pending in a trace (`trace`, `slot`), or computed (`buffer`).

    `stale` is set when an in-place write replaced this value in its storage: a backward pass that kept it must refuse. It is True, or
    a weak reference to the tape node of the write, which alone may go on using it.
    `error` holds the exception of the failed run that should have computed it.
    """

    __slots__ = ("buffer", "error", "slot", "stale", "trace", "type")

    type: TensorType
    trace: "Trace | None"
    slot: int
    buffer: Any
    stale: Any
    error: BaseException | None


def computed(type: TensorType, buffer: Any) -> Data:
    data = Data.__new__(Data)
    data.type, data.trace, data.slot, data.buffer, data.stale, data.error = type, None, 0, buffer, False, None
    return data


class Step:
    """A trie node: the trace that ends with `key`. `plans` maps the set of results still wanted to what computes them."""

    __slots__ = ("due", "key", "loc", "next", "operand_types", "ops", "parent", "plans", "size", "slot", "tape", "type", "types")

    def __init__(self, parent: "Step | None", key: Any, types: tuple[TensorType, ...], is_op: bool, loc: Location,
                 operand_types: tuple[TensorType, ...] = ()) -> None:
        self.operand_types = operand_types
        self.tape: dict[Any, Any] = {}  # what autograd keeps of this op, by which operands need a gradient
        self.next: dict[Any, Step] = {}
        self.plans: dict[bytes, Any] = {}
        self.parent = parent
        self.key = key
        self.types = types
        self.type = types[0] if len(types) == 1 else None
        self.loc = loc
        self.slot: int = parent.slot + len(parent.types) if parent else 0
        self.ops: int = (parent.ops if parent else 0) + is_op
        self.size: int = (parent.size if parent else 0) + (sum(t.nbytes for t in types) if is_op else 0)
        self.due = self.ops >= MAX_STEPS or self.size >= MAX_BYTES


class Trace:
    """What a thread has recorded since its last flush. `values[slot]` are inputs and results in order of appearance."""

    __slots__ = ("at", "leaves", "scalars", "values")

    def __init__(self, root: Step) -> None:
        self.at = root
        self.values: list[Data] = []
        self.leaves: dict[Data, int] = {}
        self.scalars: list[float | int | bool] = []


_ROOTS: dict[dtypes.DType, Step] = {}
counters = {"ops_recorded": 0, "trie_nodes": 0}


def fresh_trace() -> Trace:
    """An empty trace under the root of the current default dtype, which type rules depend on."""
    default = dtypes.default_float()
    root = _ROOTS.get(default)
    if root is None:
        root = _ROOTS.setdefault(default, Step(None, None, (), False, None))
    return Trace(root)


def forget() -> None:
    """Drop every trace seen so far, with its plans."""
    _ROOTS.clear()
    STATE.here.trace = fresh_trace()
    counters["trie_nodes"] = 0


class ThreadState:
    """Per-thread switches of the recorder and of autograd. `capture` is the compiled call being captured, if any."""

    __slots__ = ("capture", "eager", "grad", "inference", "trace")

    def __init__(self) -> None:
        self.trace = fresh_trace()
        self.grad = True
        self.inference = False
        self.capture: Any = None
        self.eager = os.environ.get("TREADLE_EAGER", "") not in ("", "0")


class _Local(threading.local):
    def __init__(self) -> None:
        self.here = ThreadState()


STATE = _Local()
_new = Data.__new__


def record(state: ThreadState, op: Op, inputs: Any, attrs: Attrs) -> Any:
    """Record `op` on Data and Python numbers; one Data, or a tuple of them for an op with several results."""
    trace = state.trace
    before = trace.at
    try:
        values = trace.values
        key: list[Any] = [op, attrs]
        for x in inputs:
            if x.__class__ is Data:
                if x.trace is trace:
                    key.append(x.slot)
                else:
                    slot = trace.leaves.get(x)
                    key.append(_leaf(trace, x) if slot is None else slot)
            else:
                trace.scalars.append(x)
                key.append(x.__class__)
        found = tuple(key)
        step = trace.at.next.get(found)
        if step is None:
            step = _miss(trace, found, op, inputs, attrs)
        trace.at = step
        type = step.type
        if type is None:
            return _several(state, trace, step)
        data = _new(Data)
        data.type = type
        data.trace = trace
        data.slot = len(values)
        data.buffer = data.error = None
        data.stale = False
        values.append(data)
    except BaseException:  # a refused operand, or an interrupt between any two lines
        _restore(trace, before)
        raise
    if step.due or state.eager:
        FLUSH("op by op" if state.eager else "trace is long")
    return data


def _restore(trace: Trace, step: Step) -> None:
    """Take the trace back to where it stood at `step`."""
    trace.at = step
    del trace.values[step.slot + len(step.types):]
    numbers = sum(1 for at in path_to(step) if at.key.__class__ is tuple for k in at.key[2:] if isinstance(k, type))
    del trace.scalars[numbers:]
    for data, slot in list(trace.leaves.items()):
        if slot >= len(trace.values):
            del trace.leaves[data]


def _several(state: ThreadState, trace: Trace, step: Step) -> tuple[Data, ...]:
    results = []
    for result_type in step.types:
        data = computed(result_type, None)
        data.trace = trace
        data.slot = len(trace.values)
        trace.values.append(data)
        results.append(data)
    if step.due or state.eager:
        FLUSH("op by op" if state.eager else "trace is long")
    return tuple(results)


def FLUSH(reason: str) -> Any:
    """Replaced by the engine, which stands above the recorder."""
    raise RuntimeError("the engine is not loaded")


def MATERIALIZE(data: Data) -> None:
    """Replaced by the engine: compute a value that is pending in another thread's trace."""
    raise RuntimeError("the engine is not loaded")


def _leaf(trace: Trace, data: Data) -> int:
    """First use of a computed value in this trace: it becomes an input, keyed by its type."""
    if data.buffer is None:
        if data.error is not None:
            raise RuntimeError(f"this tensor was never computed, because an earlier operation failed: {data.error}") from data.error
        MATERIALIZE(data)
    step = trace.at.next.get(data.type)
    if step is None:
        counters["trie_nodes"] += 1
        step = trace.at.next.setdefault(data.type, Step(trace.at, data.type, (data.type,), False, None))
    trace.at = step
    slot = len(trace.values)
    trace.values.append(data)
    trace.leaves[data] = slot
    return slot


def _miss(trace: Trace, key: Any, op: Op, inputs: Any, attrs: Attrs) -> Step:
    """An op not seen at this place before: run its type rule, which raises the user's errors."""
    try:
        types = tuple([x.type if x.__class__ is Data else SCALARS[x.__class__] for x in inputs])
    except KeyError as error:
        raise TypeError(f"{op.name}: an operand is of type {error.args[0].__name__}, expected a Tensor or a number") from None
    step = Step(trace.at, key, result_types(op, types, attrs), True, user_location(), types)
    counters["trie_nodes"] += 1
    return trace.at.next.setdefault(key, step)


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LAYERS = tuple(os.path.join(_PACKAGE, layer) + os.sep for layer in ("runtime", "frontend", "ir", "passes", "codegen"))
_SITE = os.path.join(_PACKAGE, "treadle") + os.sep


def user_location() -> Location:
    """File and line of the innermost frame outside Treadle."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LAYERS) and not name.startswith("<treadle"):
            return name, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def path_to(step: Step) -> list[Step]:
    """Steps from the start of the trace to `step`."""
    path = []
    at: Step | None = step
    while at is not None and at.parent is not None:
        path.append(at)
        at = at.parent
    path.reverse()
    return path


def build_graph(step: Step, wanted: list[int]) -> tuple[Graph, list[int]]:
    """The graph of the trace that ends at `step`, yielding the slots in `wanted`; second, the slots of its tensor inputs.

    Graph inputs are the trace's tensor inputs in order, then its run-time scalars in order.
    """
    graph = Graph()
    slots: list[Value] = []
    leaves: list[int] = []
    tensors: list[Value] = []
    scalars: list[Value] = []
    for at in path_to(step):
        if at.key.__class__ is TensorType:
            leaves.append(len(slots))
            value = graph.add_input(at.key)
            tensors.append(value)
            slots.append(value)
            continue
        op, attrs, *operands = at.key
        inputs = []
        for x in operands:
            if x.__class__ is int:
                inputs.append(slots[x])
            else:
                scalars.append(graph.add_input(SCALARS[x]))
                inputs.append(scalars[-1])
        slots.extend(graph.append(Node(op, tuple(inputs), attrs, at.types, at.loc)).outputs)
    graph.inputs = tensors + scalars
    graph.outputs = [slots[i] for i in wanted]
    return graph, leaves
