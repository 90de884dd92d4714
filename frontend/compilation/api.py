"""`treadle.compile`, `treadle.explain` and `treadle.compiler`."""
from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

from treadle.compilation import watch
from treadle.compilation.backward import Joint, on_tape, record_backward
from treadle.compilation.capture import Capture, locate_arguments, scrub
from treadle.compilation.donation import free_gradients, overwritten
from treadle.compilation.generated import MISS
from treadle.compilation.replay import Refused, Replay, make_replay
from treadle.compilation.shortcut import EMPTY, install
from treadle.ir import dtypes
from treadle.nn.module import Module
from treadle.runtime import engine, log, recorder
from treadle.runtime.recorder import STATE

MAX_REPLAYS = 64         # ways a function may go before the oldest is forgotten
PATIENCE = 16            # captures in a row that never paid before a function is left to the recorder


class Unsupported(RuntimeError):
    """`fullgraph=True` and the call cannot be replayed. The message lists every reason with its line."""


class CompiledFunction:
    """A function whose calls are captured once and then replayed while its guards hold."""

    __slots__ = ("__dict__", "__weakref__", "_shortcut")  # a builtin reads the slot: see `shortcut`

    def __init__(self, function: Callable[..., Any], fullgraph: bool, memory_budget: float = 1.0) -> None:
        self.function, self.fullgraph, self.memory_budget = function, fullgraph, memory_budget
        self.replays: dict[Any, list[Replay]] = {}
        self._shortcut: Any = EMPTY                        # of `last`, once it can be taken
        self.last: Replay | None = None                    # the replay that was right last time
        self.moving: set[Any] = set()
        self.fruitless = 0                                 # captures since the last replay that hit
        self.paid = 0                                      # hits of `last` at the last capture
        self.captures = 0
        self.reasons: list[tuple[str, Any]] = []           # of the last call that could not be replayed
        self.recompiles: list[str] = []
        functools.update_wrapper(self, function)
        self.name = getattr(function, "__qualname__", type(function).__name__)
        self.__treadle_compiled__ = function
        _compiled.add(self)

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        return self if obj is None else types.MethodType(self, obj)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state = STATE.here
        if state.capture is not None or state.eager or state.levels:
            return self.function(*args, **kwargs)
        last = self.last
        if last is not None and last.grad is state.grad and last.inference is state.inference and last.autocast is state.autocast \
                and last.default is dtypes.default_float():
            result = last.function(args, kwargs)
            if result is not MISS:
                last.replayed += 1
                if last.shortcut is not None and self._shortcut is EMPTY:
                    install(self, last)
                return result
        for replay in self.replays.get((state.grad, state.inference, state.autocast, dtypes.default_float()), ()):
            if replay is not last:
                result = replay.function(args, kwargs)
                if result is not MISS:
                    self.last, self._shortcut = replay, EMPTY
                    self.fruitless = 0
                    replay.replayed += 1
                    return result
        return self._record(state, args, kwargs)

    def _record(self, state: Any, args: Any, kwargs: Any) -> Any:
        """Run the function through the recorder, and keep a replay of it where that is sound."""
        if self.fruitless >= PATIENCE and not self.fullgraph and self.fruitless & (self.fruitless - 1):
            self.fruitless += 1
            return self.function(*args, **kwargs)
        self.fruitless = 1 if self.last is not None and self.last.hits > self.paid else self.fruitless + 1
        self.paid = 0 if self.last is None else self.last.hits
        key = (state.grad, state.inference, state.autocast, dtypes.default_float())
        known = self.replays.setdefault(key, [])
        if known and (log.enabled("recompile") or len(self.recompiles) < 20):
            self._note_difference(known[0], args, kwargs)
        for replay in known:
            self.moving |= replay.moved()
        engine.flush("compiled call")
        capture = Capture(self.moving)
        result = self._capture(state, capture, args, kwargs, known, key)
        self.captures += 1
        if capture.reasons:
            self.reasons = list(capture.reasons)
            if self.fullgraph:
                raise Unsupported(self._explain_reasons())
        return result

    def _note_difference(self, replay: Replay, args: Any, kwargs: Any) -> None:
        difference = replay.first_difference(args, kwargs)
        if difference is not None:
            self.recompiles.append(difference)
            log.log("recompile", f"{self.name}: captured again, because this no longer holds: {difference}")

    def _capture(self, state: Any, capture: Capture, args: Any, kwargs: Any, known: list[Replay], key: Any) -> Any:
        trace = state.trace
        capture.trace = trace
        state.capture = capture
        try:
            new_args, new_kwargs = locate_arguments(capture, args, kwargs)
            result = watch.call(self.function, *new_args, **new_kwargs)
            if key != (state.grad, state.inference, state.autocast, dtypes.default_float()):
                capture.refuse("leaves the grad mode, autocast or the default dtype changed")
            joint = None if capture.reasons else _joint(capture, trace, result)
            replay = self._finish(state, capture, args, kwargs, result, trace, joint)
        finally:
            state.capture = None
        if replay is not None:
            replay.grad, replay.inference, replay.autocast, replay.default = key
            known.insert(0, replay)
            del known[MAX_REPLAYS:]
            self.last, self._shortcut = replay, EMPTY
        return scrub(result)

    def _finish(self, state: Any, capture: Capture, args: Any, kwargs: Any, result: Any, trace: Any,
                joint: Joint | None) -> Replay | None:
        """Run what was recorded, and make the replay; None when there is a reason against it."""
        state.capture = None
        if state.trace is not trace or capture.reasons:
            if not capture.reasons:
                capture.refuse("the recording was cut")
            _scrub_effects(capture)
            return None
        scalars = list(trace.scalars)
        trace.scalars[:] = [x.number if hasattr(x, "number") else x for x in scalars]
        spent = overwritten(capture, trace)
        free_gradients(capture, trace)
        leaves, values = dict(trace.leaves), trace.values
        plan = engine.flush("compiled call", spent)
        try:
            outputs = {values[slot]: slot for slot in plan.outputs} if plan is not None else {}
            return make_replay(capture, args, kwargs, result, plan, {d: s for d, s in leaves.items() if plan and s in plan.inputs},
                               scalars, outputs, joint, self.memory_budget)
        except Refused as reason:
            capture.reasons.append((str(reason), None))
            return None
        finally:
            _scrub_effects(capture)

    def _explain_reasons(self) -> str:
        lines = [f"{self.name} cannot be compiled into one plan:"]
        for reason, where in self.reasons:
            lines.append(f"  {reason}" + (f"  [{where[0]}:{where[1]}]" if where else ""))
        return "\n".join(lines)


_compiled: weakref.WeakSet[CompiledFunction] = weakref.WeakSet()


def _joint(capture: Capture, trace: Any, result: Any) -> Joint | None:
    """Forward and backward in one, when the result still needs a backward pass."""
    found: dict[int, Any] = {}
    on_tape(result, capture, found)
    if not found:
        return None
    joint = record_backward(capture, trace, list(found.values()))
    if isinstance(joint, str):
        capture.refuse(joint)
        return None
    return joint


def _scrub_effects(capture: Capture) -> None:
    """Symbols stored outside become plain numbers."""
    for kind, container, key in capture.written.values():
        if kind in ("dict", "list"):
            try:
                value = container[key]
            except (KeyError, IndexError):
                continue
            new = scrub(value)
            if new is not value:
                container[key] = new
        elif kind == "slot":
            value = getattr(container, key, None)
            new = scrub(value)
            if new is not value:
                setattr(container, key, new)


class OptimizedModule(Module):
    """What `compile(module)` returns: the module, its calls compiled. Parameters and attributes are the module's own."""

    def __init__(self, module: Module, fullgraph: bool, memory_budget: float = 1.0) -> None:
        super().__init__()
        self._orig_mod = module
        object.__setattr__(self, "_compiled_forward", CompiledFunction(module, fullgraph, memory_budget))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_compiled_forward"](*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_compiled_forward"](*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        return self

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get("_modules", {})
        if name == "_orig_mod" and "_orig_mod" in modules:
            return modules["_orig_mod"]
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(modules["_orig_mod"], name)


def compile(model: Any = None, *, fullgraph: bool = False, dynamic: bool | None = None, backend: Any = "treadle", mode: str | None = None,
            options: dict[str, Any] | None = None, disable: bool = False, memory_budget: float | None = None) -> Any:
    """Skip Python: replay the call's plan while everything the call read is as it was; otherwise record again.

    model: a function or Module (or nothing: a decorator). A whole training step may be compiled: forward, backward, update.
    fullgraph: RuntimeError listing every reason and its line when a call cannot be replayed as one plan.
    memory_budget: from 0 to 1 (the default; also `options={"activation_memory_budget": ...}`): the share of the memory that values kept
    for the backward pass take. Below 1 more is computed again, at 0 whole blocks of a network, with the same bits (only sums may add up
    in another order, where a kernel has other work besides); `explain` shows what is saved. ValueError for any other number.
    The other arguments are accepted for PyTorch's sake and change nothing: sizes are always dynamic, and there is one back end.
    """
    if memory_budget is None:
        memory_budget = (options or {}).get("activation_memory_budget", 1.0)
    if isinstance(memory_budget, bool) or not isinstance(memory_budget, int | float) or not 0 <= memory_budget <= 1:
        raise ValueError(f"compile: memory_budget is a number from 0 to 1, got {memory_budget!r}")
    if model is None:
        return lambda f: compile(f, fullgraph=fullgraph, dynamic=dynamic, backend=backend, mode=mode, options=options, disable=disable,
                                 memory_budget=memory_budget)
    if not callable(model):
        raise TypeError(f"compile: expected a function or a Module, got {type(model).__name__}")
    if disable:
        return model
    if isinstance(model, OptimizedModule | CompiledFunction):
        return model
    if isinstance(model, Module):
        return OptimizedModule(model, fullgraph, memory_budget)
    return CompiledFunction(model, fullgraph, memory_budget)


class Explanation:
    """What `explain` found: printable, and as fields."""

    def __init__(self, function: CompiledFunction, counters: dict[str, Any]) -> None:
        self.reasons = function.reasons
        self.replays = [r for known in function.replays.values() for r in known]
        self.recompiles = function.recompiles
        self.counters = counters

    @property
    def graph_count(self) -> int:
        return sum(1 for r in self.replays if r.plan is not None)

    def __str__(self) -> str:
        from treadle.compilation.report import describe
        return describe(self)

    __repr__ = __str__


def explain(function: Any, *args: Any, **kwargs: Any) -> Explanation:
    """Call `function(*args, **kwargs)` twice, compiled, and report plans, guards, fusion, and why not."""
    if isinstance(function, OptimizedModule):
        function = function.__dict__["_compiled_forward"]
    compiled = function if isinstance(function, CompiledFunction) else CompiledFunction(function, False)
    before, loops = dict(engine.flushes), dict(recorder.looped)
    compiled(*args, **kwargs)
    compiled(*args, **kwargs)
    flushes = {k: n - before.get(k, 0) for k, n in engine.flushes.items() if n != before.get(k, 0)}
    looped = {k: n - loops.get(k, 0) for k, n in recorder.looped.items() if n != loops.get(k, 0)}
    return Explanation(compiled, {"flushes": flushes, "captures": compiled.captures, "loops": looped})


def reset() -> None:
    """Forget all plans: of compiled functions and of the recorder."""
    engine.flush("compiler reset")
    for function in _compiled:
        function.replays.clear()
        function.last, function._shortcut = None, EMPTY
        function.fruitless = 0
        function.recompiles.clear()
    recorder.forget()
