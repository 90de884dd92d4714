"""The engine: turns a recorded trace into results. First sighting: the numpy interpreter. Second, or the fifth size: machine code.

The tier is chosen by counting sightings, never by time, so a seeded run always gives the same bits.
"""
from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import treadle.ir.ops  # noqa: F401  (declares the op table)
from treadle.codegen.forking import compiling
from treadle.ir.dtypes import float32
from treadle.ir.graph import Graph
from treadle.ir.interpreter import DataError
from treadle.ir.types import tensor_type
from treadle.passes import family
from treadle.passes.basic import dce
from treadle.passes.family import TEMPLATES
from treadle.runtime import check, log, memory, recorder, timing
from treadle.runtime.interpreted import Interpretation
from treadle.runtime.recorder import STATE, STEADY, Data, Step, Trace, build_graph, computed, fresh_trace

if TYPE_CHECKING:
    from treadle.passes.program import Program

counters: Counter[str] = Counter()
flushes: Counter[str] = Counter()
NOTHING: Mapping[int, int] = {}
observers: list[Callable[[Graph], Any]] = []  # called with the graph of every flush (`treadle.inspect`)


class Plan:
    """What computes the wanted results of a trace: its graph, and, from the second run on, compiled code."""

    __slots__ = ("_graph", "compiled", "dead", "donating", "inputs", "launch", "launch_values", "limit", "lock", "outputs", "runs", "step",
                 "types", "used")

    def __init__(self, step: Step, wanted: list[int]) -> None:
        graph, self.inputs = build_graph(step, wanted)
        self._graph: Graph | None = dce(graph)
        self.outputs, self.types = wanted, tuple([v.type for v in graph.outputs])
        self.dead: list[int] = []       # which inputs nothing but the trace refers to
        self.donating: Any = None       # of a compiled call: like `launch`, on values that may give their memory to outputs
        self.step: Step | None = step
        self.runs = 0
        self.compiled: Any = None
        self.launch: Any = None         # once compiled: results from buffers and numbers, in one generated function
        self.launch_values: Any = None  # and the same on a trace's values and numbers, where that is to be had
        self.used = 0                   # ops recorded in all when it last ran
        self.limit = 0                  # at how many ops to flush the next trace, if not 0
        self.lock = threading.Lock()

    @classmethod
    def of(cls, graph: Graph, tensors: int) -> Plan:
        """The plan of a graph whose first `tensors` inputs are tensors: they are values 0..., the outputs follow."""
        plan = cls.__new__(cls)
        plan._graph, plan.inputs = graph, list(range(tensors))
        plan.outputs, plan.types = list(range(tensors, tensors + len(graph.outputs))), tuple([v.type for v in graph.outputs])
        plan.runs, plan.compiled, plan.launch, plan.launch_values, plan.lock = 0, None, None, None, threading.Lock()
        plan.used = plan.limit = 0
        plan.dead, plan.donating = [], None
        plan.step = None
        return plan

    @property
    def graph(self) -> Graph:
        """What is computed: made again from the trace when it has been let go."""
        return self.lines() if self._graph is None else self._graph

    def lines(self) -> Graph:
        """The graph with the lines that recorded it last: traces that are the same share a plan, wherever they come from."""
        return self.graph if self.step is None else dce(build_graph(self.step, self.outputs)[0])

    def run(self, values: list[Data], scalars: Sequence[float | int | bool], spent: Mapping[int, int] = NOTHING) -> None:
        """Compute the wanted values and put them into `values`. DataError when the data is at fault. `spent`: see `flush`."""
        if not self.outputs:
            return
        compiled = self.compiled
        if compiled is None:
            compiled = self.prepare()
            if not spent and self.launch_values is not None and self.launch_values(values, list(scalars)) is not None:
                counters["compiled_runs"] += 1
                return
        if compiled is False:
            counters["interpreted"] += 1
            self.interpret(values, scalars, () if CHECK else {*self.dead, *[i for i, s in enumerate(self.inputs) if s in spent]})
            return
        counters["compiled_runs"] += 1
        if spent and not CHECK and self._run_over(values, scalars, spent):
            return
        buffers = [values[slot].buffer for slot in self.inputs]
        results = None if self.launch is None else self.launch(*buffers, *scalars)
        if results is None:
            results = compiled.run(buffers, scalars)
        if results is None:  # a kernel found a fault: the interpreter words the error and saves what it can
            self.interpret(values, scalars, ())
            return
        if CHECK == "ref":
            check.against_reference(self.graph, buffers, scalars, results, self.lines)
        if CHECK == "nan":
            check.for_nan(self.graph, buffers, scalars, results, self.lines)
        for slot, buffer in zip(self.outputs, results, strict=True):
            data = values[slot]
            data.buffer = buffer
            data.trace = None

    def _run_over(self, values: list[Data], scalars: Sequence[float | int | bool], spent: Mapping[int, int]) -> bool:
        """Run a compiled plan whose results may be written over inputs in the slots `spent`; False where that cannot be."""
        compiled = self.compiled
        if compiled.binding is None:
            return False
        held = {i: spent[slot] for i, slot in enumerate(self.inputs) if slot in spent}
        if compiled.binding.launch_over(compiled.donors(sorted({*held, *self.dead})), held)(values, list(scalars)) is None:
            return False
        for slot in spent:
            values[slot].buffer = None
        return True

    def interpret(self, values: list[Data], scalars: Sequence[float | int | bool], dead: Collection[int]) -> None:
        """Compute the wanted values on numpy; the inputs at the positions `dead` are given up as they are used."""
        Interpretation(self.graph, [values[s] for s in self.inputs], scalars, [values[s] for s in self.outputs], dead).run()
        if CHECK == "nan":
            inputs = [values[s].buffer for s in self.inputs]
            check.for_nan(self.graph, inputs, scalars, [values[s].buffer for s in self.outputs], self.lines)
        if sum(o.type.nbytes for node in self.graph.nodes for o in node.outputs) > MUCH:
            memory.trim_heap()  # numpy's temporaries: their place would count against the process for ever

    def prepare(self) -> Any:
        """False for the interpreter, else the compiled form."""
        with compiling(), self.lock, uncollected():
            self.runs += 1
            if self.runs < COMPILE_AT and not (elsewhere(self.graph) or draws_much(self.graph) or one_of_many(self.graph)):
                return False
            if self.compiled is None:
                self.compiled = COMPILE(self.graph)
                if getattr(self.compiled, "arena", 0) > MUCH:
                    memory.trim_heap()  # the compiler's own temporaries
                if self.step is not None and self.compiled is not False and not (CHECK or observers):
                    self._graph = None  # thousands of objects, which every collection of garbage would walk
                if not CHECK and self.compiled is not False:
                    know_pool()
                    self.launch = self.compiled.launch
                    binding = self.compiled.binding
                    self.launch_values = None if binding is None else binding.launch_values(self.inputs, self.outputs,
                                                                                           self.compiled.donors(self.dead))
            return self.compiled


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Planning makes many objects and no garbage: collections would only walk them, again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def know_pool() -> None:
    from treadle.runtime import native
    native.know_pool()


COMPILE_AT = 2  # the run of a trace that is the first not to be interpreted


def compile_at(run: int) -> None:
    """Set the run of a trace, counted from 1, that compiles it. When it is the first, no plan depends on what was met before either."""
    global COMPILE_AT
    COMPILE_AT = run
    family.ALONE = run == 1


MANY_DRAWS = 1 << 17
MANY_OPS = 16  # the results of fewer come sooner from numpy than a program from a template
MUCH = 32 << 20  # bytes of temporaries of a plan, before or after which the heap is given back
WAIT_SECONDS = 20e-6  # between two looks at what another thread computes
CHECK = check.mode()
recorder.every_line = bool(CHECK)


def elsewhere(graph: Graph) -> bool:
    """Whether some value lives on another device than the CPU."""
    return any(v.type.device != "cpu" for v in graph.inputs) or any(o.type.device != "cpu" for node in graph.nodes for o in node.outputs)


def draws_much(graph: Graph) -> bool:
    """Whether so many random numbers are drawn that a compiler is done before numpy is (60 to 120 ns each): weights at the start."""
    return any(node.op is not None and "seed" in node.op.operands and node.out.type.numel > MANY_DRAWS for node in graph.nodes)


def one_of_many(graph: Graph) -> bool:
    """Whether several graphs that differ from it in sizes alone were met before: a template then has its program, which is worth more than
    numpy's results when the ops are many."""
    return len(graph.nodes) >= MANY_OPS and TEMPLATES.met(graph, _steps)


def _steps(graph: Graph) -> Program:
    from treadle.passes.pipeline import steps_of
    return steps_of(graph)


def COMPILE(graph: Graph) -> Any:
    """Replaced by `treadle.runtime.compiled` when it loads; False keeps the interpreter."""
    from treadle.runtime.compiled import compile_graph
    compiler: Callable[[Graph], Any] = compile_graph
    if elsewhere(graph):
        from treadle.runtime.placement import PlacedPlan as compiler
    with timing.span("compile", "compile a plan", graph):
        return compiler(graph)


def _references(values: list[Data], baseline: int) -> bytes:
    """One byte per value: 1 when more than `baseline` references to it exist."""
    count = sys.getrefcount
    return bytes([count(d) > baseline for d in values])


def _wanted_counter() -> Callable[[list[Data]], bytes]:
    """What tells which values are held by something besides the list."""
    from treadle.runtime import native
    found = native.builtins()
    if found is not None:
        return found.live
    probe = [computed(tensor_type((), float32), None)]
    baseline = next(n for n in range(1, 12) if _references(probe, n) == b"\0")
    return lambda values: _references(values, baseline)


def _wanted(values: list[Data]) -> bytes:
    global wanted
    wanted = _wanted_counter()
    return wanted(values)


wanted: Callable[[list[Data]], bytes] = _wanted  # one byte per value: 1 when somebody still wants it


def _first_flush(reason: str) -> Any:
    """Find out, at the first flush, whether there is a builtin that runs known plans."""
    global flush_known
    from treadle.runtime import native
    found = None if CHECK else native.flush_builtin(Plan, flushes, counters, (observers, _channels))
    flush_known = found or _leave_to_python
    return None


def _leave_to_python(reason: str) -> Any:
    return None


# `flush_known(reason)`: run the compiled plan of the thread's trace, False if there is nothing to run; None leaves the flush to Python.
flush_known: Callable[[str], Any] = _first_flush


def flush(reason: str, spent: Mapping[int, int] = NOTHING) -> Plan | None:
    """Compute everything this thread has recorded and somebody still wants. Returns the plan that was run, if any.

    `spent` are the slots of inputs whose content nobody needs afterwards, though their values are still referred to: so many times.
    """
    plan: Plan | None = flush_known(reason)
    if plan is not None:
        return plan or None
    state = STATE.here
    if state.capture is not None and not state.capture.interrupted(reason):
        return None
    trace = state.trace
    at = trace.at
    if at.ops == 0:
        return None
    values = trace.values
    try:
        state.trace = fresh_trace()
        if state.spare is None and flush_known is not _leave_to_python:
            state.spare = fresh_trace()
        state.steady = reason is STEADY
        trace.leaves = {}
        live = wanted(values)
        plan = at.plans.get(live) or _new_plan(at, trace, values, live, reason)
        flushes[reason] += 1
        recorded = recorder.counters
        plan.used = recorded["ops_recorded"] = recorded["ops_recorded"] + at.ops
        if observers or _channels:
            _tell(reason, at, plan)
        if plan.limit:
            state.trace.limit = plan.limit
        trace.running = state
        launch = plan.launch_values
        if spent or launch is None or launch(values, trace.scalars) is None:
            plan.run(values, trace.scalars, spent)
        else:
            counters["compiled_runs"] += 1
    except DataError as error:
        _poison(values, trace, error.error)
        trace.values = []
        raise _located(error) from error.error
    except Exception as error:
        _poison(values, trace, error)
        trace.values = []
        raise
    except BaseException:  # an interrupt: nothing is lost, all of it is pending again, if it is not computed
        if plan is not None and all(values[slot].buffer is not None for slot in plan.outputs):
            trace.values = []
            raise
        trace.leaves = {d: i for i, d in enumerate(values) if d.trace is not trace}
        state.trace = trace
        raise
    finally:
        trace.running = None
    trace.values = []  # values nobody wanted still refer to the trace: without this they would be a cycle
    return plan


_channels = log._enabled


def _tell(reason: str, at: Step, plan: Plan) -> None:
    for observe in observers:
        observe(plan.graph)
    if timing.ACTIVE is not None:
        timing.ACTIVE.flushed(reason)
    if log.enabled("flush"):
        where = recorder.user_location()
        log.log("flush", f"{reason}: {at.ops} ops, {len(plan.outputs)} results kept" + (f", at {where[0]}:{where[1]}" if where else ""))


def _new_plan(at: Step, trace: Trace, values: list[Data], live: bytes, reason: str) -> Plan:
    """The plan of a trace for those of its values that somebody still wants."""
    with uncollected():
        plan = Plan(at, [i for i, d in enumerate(values) if live[i] and d.trace is trace])
    plan.used = recorder.counters["ops_recorded"]
    plan.dead = [i for i, slot in enumerate(plan.inputs) if not live[slot]]
    if reason is recorder.TOO_LONG:
        plan.limit = recorder.rhythm(at)
    plan = at.plans.setdefault(live, plan)
    counters["plans"] += 1
    recorder.counters["live_plans"] += 1
    recorder.trim()
    if log.enabled("recompile"):
        from treadle.runtime import dump
        dump.explain_new_plan(recorder.user_location(), plan.graph)
    return plan


def _poison(values: list[Data], trace: Trace, error: BaseException) -> None:
    failure = recorder.Failure(error)
    for data in values:
        if data.trace is trace:
            data.trace = failure


def _located(error: DataError) -> BaseException:
    """The error the user sees: the reference's type and text, with the op and the user's line."""
    node = error.node
    name = node.op.name if node.op else "input"
    text = str(error.error)
    where = f" [{name} at {node.loc[0]}:{node.loc[1]}]" if node.loc else f" [{name}]"
    kind = type(error.error)
    return (kind if issubclass(kind, (IndexError, RuntimeError, ValueError)) else RuntimeError)(text + where)


def materialize(data: Data, reason: str = "value read") -> None:
    """Make sure `data.buffer` is there."""
    trace = data.trace
    capture = STATE.here.capture
    if capture is not None:
        capture.looked(reason)
    if data.buffer is not None:
        return
    if data.error is not None:
        raise recorder.never_computed(data.error) from data.error
    if trace is STATE.here.trace:
        flush(reason)
        if data.buffer is None:
            assert data.error is not None
            raise recorder.never_computed(data.error) from data.error
    elif isinstance(trace, Trace):
        _compute_foreign(data, trace)
    elif isinstance(trace, recorder.Wrapped):
        trace.level.shown(trace, reason)
        raise RuntimeError(f"{reason}: a tensor with a tangent has no memory of its own; take its primal")


def _compute_foreign(data: Data, trace: Trace) -> None:
    """Compute a value that is pending in another thread's trace, from a snapshot: that thread goes on undisturbed.

    A trace only grows, and its steps are immutable, so any prefix that contains the value is enough.
    """
    at, values, scalars = trace.at, list(trace.values), list(trace.scalars)
    while trace.running not in (None, STATE.here) and data.trace is trace:  # the result is under way, and inputs may be gone
        time.sleep(WAIT_SECONDS)
    if data.buffer is not None:  # its owner flushed meanwhile
        return
    graph, leaves = build_graph(at, [data.slot])
    used = len(graph.inputs) - len(leaves)
    result = computed(data.type, None)
    Interpretation(dce(graph), [values[slot] for slot in leaves], scalars[:used], [result], ()).run()
    if data.buffer is None:
        data.buffer = result.buffer


recorder.FLUSH = flush
recorder.MATERIALIZE = materialize
