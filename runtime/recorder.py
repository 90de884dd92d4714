"""The recorder: running an op appends one step to the thread's trace by walking a trie of traces seen before.

A step's key is (op, attributes, operands): an operand is the slot of an earlier value, or its type where an input is used
first. On a hit the trie node already knows the result types, so there is neither shape inference nor graph building. Python
numbers used as data are lifted into a list of run-time scalars: only their class is in the key.
"""
from __future__ import annotations

import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

from treadle.ir import dtypes
from treadle.ir.graph import Graph, Location, Node, Value
from treadle.ir.op import Attrs, Op, result_types
from treadle.ir.types import SCALARS, TensorType
from treadle.passes.family import TEMPLATES, WITHOUT_WINDOWS

MAX_STEPS = 2048           # flush a trace of this many ops
SHORT_STEPS = 512          # or, when the trace before it repeated itself, of about this many, a whole number of repetitions
MAX_BYTES = 4 << 30        # or whose results would take this much if none were fused away
MAX_NODES = 100_000        # nodes and plans of all tries, about 60 MB and at most a few hundred: beyond, the half used longest ago goes
MAX_PLANS = 1024


class Failure:
    """In place of a trace: the value was never computed, because of `error`."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Wrapped:
    """In place of a trace: the value belongs to a running transform of the frontend, `level`.

    `value` is the tensor of all elements of a batch of such values (vmap), or the primal of `tangent` (forward-mode differentiation).
    """

    __slots__ = ("level", "tangent", "value")

    def __init__(self, level: Any, value: Any, tangent: Any = None) -> None:
        self.level, self.value, self.tangent = level, value, tangent


class Data:
    """A tensor value: pending in a trace (`trace`, `slot`), or computed (`buffer`). No `__init__`: recording sets the fields in place.

    `stale` is set when an in-place write replaced this value in its storage: a backward pass that kept it must refuse. It is True, or
    a weak reference to the tape node of the write, which alone may go on using it.
    """

    __slots__ = ("buffer", "slot", "stale", "trace", "type")

    type: TensorType
    trace: "Trace | Failure | Wrapped | None"
    slot: int
    buffer: Any
    stale: Any

    @property
    def error(self) -> BaseException | None:
        """The exception of the failed run that should have computed it."""
        trace = self.trace
        return trace.error if trace.__class__ is Failure else None


def computed(type: TensorType, buffer: Any) -> Data:
    data = Data()
    data.type, data.trace, data.slot, data.buffer, data.stale = type, None, 0, buffer, False
    return data


class Step:
    """A trie node: the trace that ends with the op `key`. `plans` maps the set of results still wanted to what computes them.

    `end` and `numbers` count the values and run-time scalars up to here: the op's new inputs come before its results.
    """

    __slots__ = ("due", "end", "key", "loc", "next", "numbers", "operand_types", "ops", "parent", "plans", "size", "tape", "type",
                 "types")

    def __init__(self, parent: "Step | None", key: Any, types: tuple[TensorType, ...], loc: Location,
                 operand_types: tuple[TensorType, ...] = (), limit: int = MAX_STEPS) -> None:
        self.operand_types = operand_types
        self.tape: dict[Any, Any] = {}  # what autograd keeps of this op, by which operands need a gradient
        self.next: dict[Any, Step] = {}
        self.plans: dict[bytes, Any] = {}
        self.parent = parent
        self.key = key
        self.types = types
        self.type = types[0] if len(types) == 1 else None
        self.loc = loc
        self.end = self.numbers = self.ops = self.size = 0
        if parent is not None:
            end, numbers, size = parent.end + len(types), parent.numbers, parent.size
            for operand in key[2:]:
                if operand.__class__ is TensorType:
                    end += 1
                elif operand.__class__ is type_class:
                    numbers += 1
            for made in types:
                size += made.nbytes
            self.end, self.numbers, self.ops, self.size = end, numbers, parent.ops + 1, size
        self.due = self.ops >= limit or self.size >= MAX_BYTES


type_class = type


class Trace:
    """What a thread has recorded since its last flush. `values[slot]` are inputs and results in order of appearance.

    `leaves` finds the slots of inputs, `backwards` counts the backward passes in it. While it is `running`, in the thread of
    that state, inputs may be written over.
    """

    __slots__ = ("at", "backwards", "leaves", "limit", "running", "scalars", "values")

    at: Step
    values: list[Data]
    leaves: dict[Data, int]
    scalars: list[float | int | bool]
    backwards: int
    limit: int
    running: Any


_ROOTS: dict[dtypes.DType, Step] = {}
every_line = False  # a step seen before learns which line records it now; set before the first op
apart = False  # every trace has a root of its own: nothing is found again, and every op has the line that recorded it
looped: dict[str, int] = {}  # how often `vmap` ran what has no batching rule, by name: once for each example
counters = {"ops_recorded": 0, "trie_nodes": 0, "live_plans": 0, "trims": 0}


def fresh_trace() -> Trace:
    """An empty trace under the root of the current default dtype, which type rules depend on."""
    default = dtypes.default_float()
    root = _ROOTS.get(default)
    if root is None or apart:
        root = Step(None, None, (), None)
        root = root if apart else _ROOTS.setdefault(default, root)
    trace = Trace()
    trace.at, trace.values, trace.leaves, trace.scalars, trace.backwards, trace.limit = root, [], {}, [], 0, MAX_STEPS
    trace.running = None
    return trace


def forget() -> None:
    """Drop every trace seen so far, with its plans and what this thread planned for other sizes."""
    _ROOTS.clear()
    TEMPLATES.families.clear()
    WITHOUT_WINDOWS.families.clear()
    STATE.here.trace, STATE.here.spare = fresh_trace(), None
    counters["trie_nodes"] = counters["live_plans"] = 0


def trim() -> None:
    """When the tries have grown too large: forget the plans used longest ago, and every node that leads to none."""
    if counters["trie_nodes"] <= MAX_NODES and counters["live_plans"] <= MAX_PLANS:
        return
    if _TRIMMING.acquire(blocking=False):  # else another thread is at it
        try:
            _trim()
        finally:
            _TRIMMING.release()


_TRIMMING = threading.Lock()


def _after_fork() -> None:
    """The child may have inherited the lock held by a thread that does not exist there."""
    global _TRIMMING
    _TRIMMING = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _trim() -> None:
    # Other threads go on recording: what grows under way is copied before it is walked.
    found: list[tuple[int, Step, bytes]] = []
    stack = list(_ROOTS.values())
    while stack:
        step = stack.pop()
        found += [(plan.used, step, live) for live, plan in list(step.plans.items())]
        stack.extend(list(step.next.values()))
    found.sort(key=lambda entry: -entry[0])
    marked, plans = set(_ROOTS.values()), 0
    for _, step, live in found:
        path = _unmarked(step, marked)
        if plans < MAX_PLANS // 2 and len(marked) + len(path) <= MAX_NODES // 2:
            marked.update(path)
            plans += 1
        else:
            step.plans.pop(live, None)
    for step in marked:
        for key in [key for key, child in list(step.next.items()) if child not in marked]:
            step.next.pop(key, None)
    counters["trie_nodes"], counters["live_plans"] = len(marked) - len(_ROOTS), plans
    counters["trims"] += 1


def _unmarked(step: Step, marked: set[Step]) -> list[Step]:
    """`step` and the steps before it, up to the first in `marked`."""
    path = []
    at: Step | None = step
    while at is not None and at not in marked:
        path.append(at)
        at = at.parent
    return path


def rhythm(step: Step) -> int:
    """After a trace that became too long: at how many ops to flush the next one.

    A loop that never looks at a value would meet the limit somewhere else in its body every time. So: at a whole number of
    repetitions, when the second half of the trace is one sequence of ops over and over.
    """
    ops = [at.key[:2] for at in path_to(step)]
    tail = ops[len(ops) // 2:]
    tail.reverse()
    period = _period(tail)
    if 2 * period > len(tail):
        return MAX_STEPS
    return period * max(1, SHORT_STEPS // period)


def _period(items: list[Any]) -> int:
    """The smallest p with items[i] == items[i + p] throughout (Knuth, Morris and Pratt's failure function)."""
    borders = [0] * len(items)
    k = 0
    for i in range(1, len(items)):
        while k and items[i] != items[k]:
            k = borders[k - 1]
        if items[i] == items[k]:
            k += 1
        borders[i] = k
    return len(items) - borders[-1] if items else 1


def eager_by_default() -> bool:
    """What TREADLE_EAGER asks for."""
    return os.environ.get("TREADLE_EAGER", "") not in ("", "0")


class ThreadState:
    """Per-thread switches of the recorder and of autograd. `capture` is the compiled call being captured, if any.

    `steady`: backward passes follow each other and nobody looks at a value: see `backward_done`. `spare` is an empty trace, if there
    is one, to go on with when this one is flushed. `levels` are the frontend's running transforms, the outermost first.
    """

    __slots__ = ("autocast", "capture", "eager", "grad", "inference", "levels", "spare", "steady", "trace")

    def __init__(self) -> None:
        self.trace = fresh_trace()
        self.spare: Trace | None = None
        self.grad = True
        self.inference = False
        self.steady = False
        self.autocast: Any = None  # the mode of mixed precision
        self.capture: Any = None
        self.levels: list[Any] = []
        self.eager = eager_by_default()


class _Local(threading.local):
    def __init__(self) -> None:
        self.here = ThreadState()


STATE = _Local()
def record_slowly(trace: Trace, op: Op, attrs: Attrs, inputs: Any) -> Any:
    """Record `op` on Data and Python numbers; one Data, or a tuple of them for an op with several results.

    The caller first tries a builtin that knows steps seen before (`native.Recording`), rewinds the trace when this raises, and
    flushes it when its last step is due.
    """
    values = trace.values
    key: list[Any] = [op, attrs]
    for x in inputs:
        if x.__class__ is Data:
            key.append(x.slot if x.trace is trace else leaf_key(trace, x))
        else:
            trace.scalars.append(x)
            key.append(x.__class__)
    found = tuple(key)
    step = trace.at.next.get(found)
    if step is None:
        step = miss(trace, found, inputs)
    elif every_line:
        step.loc = user_location()
    results = []
    for result_type in step.types:
        data = Data()
        data.type, data.trace, data.slot, data.buffer, data.stale = result_type, trace, len(values), None, False
        values.append(data)
        results.append(data)
    trace.at = step
    return data if step.type is not None else tuple(results)


TOO_LONG = "trace is long"


def flush_due(state: ThreadState) -> None:
    """After recording an op at which the trace is long enough, or any op in eager mode."""
    FLUSH("op by op" if state.eager else TOO_LONG)


def backward_done(state: ThreadState) -> None:
    """After a backward pass: a loop of training steps that looks at nothing is flushed here.

    Else it would be cut where the trace is too long, at another place every time. From the second pass in one trace on, or the
    first after such a flush, the trace ends here, so that update, forward and backward of a step make one plan.
    """
    trace = state.trace
    trace.backwards += 1
    if (trace.backwards > 1 or state.steady) and trace.at.ops >= BACKWARD_STEPS and state.capture is None:
        FLUSH(STEADY)


BACKWARD_STEPS = 128       # a backward pass ends no trace shorter than this
STEADY = "backward passes follow each other"


def rewind(trace: Trace) -> None:
    """Take the trace back to its last whole op."""
    at = trace.at
    del trace.values[at.end:]
    del trace.scalars[at.numbers:]
    for data, slot in list(trace.leaves.items()):
        if slot >= at.end:
            del trace.leaves[data]


def rewind_here() -> None:
    """Take this thread's trace back to its last whole op."""
    rewind(STATE.here.trace)


def leaf_key(trace: Trace, data: Data) -> Any:
    """The key of a value that this trace does not compute: its slot, or, at first use, its type."""
    slot = trace.leaves.get(data)
    if slot is not None:
        return slot
    if data.buffer is None:
        if data.error is not None:
            raise never_computed(data.error) from data.error
        MATERIALIZE(data)
    trace.leaves[data] = len(trace.values)
    trace.values.append(data)
    return data.type


def never_computed(error: BaseException) -> RuntimeError:
    return RuntimeError(f"this tensor was never computed, because an earlier operation failed: {error}")


def FLUSH(reason: str) -> Any:
    """Replaced by the engine, which stands above the recorder."""
    raise RuntimeError("the engine is not loaded")


def MATERIALIZE(data: Data) -> None:
    """Replaced by the engine: compute a value that is pending in another thread's trace."""
    raise RuntimeError("the engine is not loaded")


def miss(trace: Trace, key: Any, inputs: Any) -> Step:
    """An op not seen at this place before: run its type rule, which raises the user's errors."""
    op, attrs = key[0], key[1]
    try:
        types = tuple([x.type if x.__class__ is Data else SCALARS[x.__class__] for x in inputs])
    except KeyError as error:
        raise TypeError(f"{op.name}: an operand is of type {error.args[0].__name__}, expected a Tensor or a number") from None
    step = Step(trace.at, key, result_types(op, types, attrs), user_location(), types, trace.limit)
    counters["trie_nodes"] += 1
    return trace.at.next.setdefault(key, step)


def user_location() -> Location:
    """File and line of the innermost frame outside Treadle."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = frame.f_globals
        if id(names) not in _OURS and not _is_ours(names, frame.f_code):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


_OURS: set[int] = set()  # globals of Treadle's modules, by id


def _is_ours(names: dict[str, Any], code: CodeType) -> bool:
    """Whether code with these globals is Treadle's: of a module, or made by it."""
    module = names.get("__name__", "")
    if module != "treadle" and not module.startswith("treadle."):
        return code.co_filename.startswith("<treadle")
    if getattr(sys.modules.get(module), "__dict__", None) is names:  # it stays
        _OURS.add(id(names))
    return True


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
        op, attrs, *operands = at.key
        inputs = []
        for x in operands:
            if x.__class__ is int:
                inputs.append(slots[x])
                continue
            value = graph.add_input(x if x.__class__ is TensorType else SCALARS[x])
            inputs.append(value)
            if x.__class__ is TensorType:
                leaves.append(len(slots))
                tensors.append(value)
                slots.append(value)
            else:
                scalars.append(value)
        slots.extend(graph.append(Node(op, tuple(inputs), attrs, at.types, at.loc)).outputs)
    graph.inputs = tensors + scalars
    graph.outputs = [slots[i] for i in wanted]
    return graph, leaves
