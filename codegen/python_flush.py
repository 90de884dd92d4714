"""Flushing in machine code: a trace whose plan is known and compiled runs, and its empty shell is used again.

Built for `METH_FASTCALL` like `codegen/python_calls.py`, whose assumptions it shares. `flush(reason)` gives the plan that ran, False
when nothing was recorded, or None with nothing changed: then Python has to do it. While the plan runs, what finalizers record goes
into the thread's spare trace.
"""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.python_objects import API as SHARED_API
from treadle.codegen.python_objects import FIRST_WORD, NONE, NULL, ONE, ZERO, ObjectEmitter, Offsets

# State of the process, after what all builtins have: tries by default dtype, that dtype, counters, their keys, False, the numbers
# 0 and 1, the length of traces, who wants to know of flushes, the reason that is remembered.
(ROOTS, DEFAULTS, FLUSHES, COUNTERS, RECORDED, RUNS_KEY, OPS_KEY, FALSE, NOUGHT, UNIT, MAX_STEPS, OBSERVERS, CHANNELS,
 STEADY) = range(FIRST_WORD, FIRST_WORD + 14)
STATE_WORDS = FIRST_WORD + 14
SLOTS = {"ThreadState": ("capture", "trace", "spare", "steady"),
         "Trace": ("at", "backwards", "leaves", "limit", "running", "scalars", "values"),
         "Step": ("ops", "plans"), "Plan": ("launch_values", "limit", "used"), "Data": ("trace",)}
API = (*SHARED_API, "PyDict_GetItemWithError", "PyDict_SetItem", "PyDict_Clear",
       "PyList_New", "PyList_SetSlice", "PyNumber_Add", "PyLong_FromSsize_t", "PyObject_Vectorcall",
       "PyErr_CheckSignals")


def flush_text(offsets: Offsets) -> str:
    """LLVM text of `flush`."""
    module = Module()
    _Flush(module, offsets).emit()
    return module.text()


class _Flush(ObjectEmitter):
    """Emits the function, a stage at a time."""

    def __init__(self, module: Module, offsets: Offsets) -> None:
        self.args = Val("ptr", "%args")
        super().__init__(Function(module, "flush", [Val("ptr", "%self"), self.args, Val("i64", "%count")], ret="ptr"), offsets)
        self.f.allocas.append("  %given = alloca [3 x ptr]")

    def emit(self) -> None:
        f = self.f
        self.state = f.call("PyLong_AsVoidPtr", "ptr", f.call("PyTuple_GetItem", "ptr", Val("ptr", "%self"), ZERO))
        reason, none, false = self.word(self.args, 0), self.word(self.state, NONE), self.word(self.state, FALSE)
        self.home = self.here(self.state)
        self.unless(self.same(self.slot(self.home, "ThreadState", "capture"), none), self.slow)
        self.trace, self.spare = (self.slot(self.home, "ThreadState", name) for name in ("trace", "spare"))
        at, self.values = self.slot(self.trace, "Trace", "at"), self.slot(self.trace, "Trace", "values")
        ops = self.slot(at, "Step", "ops")
        with f.if_(f.compare("eq", f.call("PyObject_IsTrue", "i32", ops), const("i32", 0))):
            f.line(f"ret {self.owned(false)}")
            f.start(f.label("unreachable"))
        self.unless(self.differs(reason, self.word(self.state, STEADY)), self.slow)
        for listeners in (OBSERVERS, CHANNELS):
            self.unless(f.compare("eq", f.call("PyObject_IsTrue", "i32", self.word(self.state, listeners)), const("i32", 0)), self.slow)
        self.unless(self.differs(self.spare, none), self.slow)
        default = f.call("PyList_GetItem", "ptr", self.word(self.state, DEFAULTS), ZERO)
        self.root = f.call("PyDict_GetItemWithError", "ptr", self.word(self.state, ROOTS), default)
        self.unless(self.exists(self.root), self.slow)
        plan = self._plan(at)
        launch = self.slot(plan, "Plan", "launch_values")
        self.unless(self.differs(launch, none), self.slow)
        self.unless(f.compare("eq", f.call("PyObject_IsTrue", "i32", self.slot(plan, "Plan", "limit")), const("i32", 0)), self.slow)
        for thing in (self.trace, at, plan, ops):  # other threads may forget plans while this one runs
            f.call_void("Py_IncRef", thing)
        self._run(launch, (at, plan, ops))
        self._count(reason, plan, ops)
        self.put(self.home, "ThreadState", "steady", self.owned(false), replace=True)
        for thing in (at, ops):
            f.call_void("Py_DecRef", thing)
        interrupted = f.compare("ne", f.call("PyErr_CheckSignals", "i32"), const("i32", 0))
        self._recycle()  # destructors swallow an interrupt, so it is looked for before
        with f.if_(interrupted):
            f.call_void("Py_DecRef", plan)
            f.line("ret ptr null")
            f.start(f.label("unreachable"))
        f.line(f"ret {plan}")
        f.start(self.slow)
        f.call_void("PyErr_Clear")
        f.line(f"ret {self.owned(self.word(self.state, NONE))}")
        f.start(self.failed)
        f.line("ret ptr null")
        f.finish()

    def _plan(self, at: Val) -> Val:
        """The plan for the values that something besides the trace refers to; the trace has inputs twice."""
        f = self.f
        size = f.call("PyList_Size", "i64", self.values)
        live = f.call("PyBytes_FromStringAndSize", "ptr", NULL, size)
        self.unless(self.exists(live), self.failed)
        text = f.call("PyBytes_AsString", "ptr", live)
        with f.loop(ZERO, size) as loop:
            value = f.call("PyList_GetItem", "ptr", self.values, loop.index)
            made_here = self.same(self.slot(value, "Data", "trace"), self.trace)
            wanted = f.compare("sgt", f.load(value, "i64"), f.select(made_here, ONE, const("i64", 2)))
            f.store(f.cast("zext", wanted, "i8"), f.gep(text, loop.index, "i8"))
        plan = f.call("PyDict_GetItemWithError", "ptr", self.slot(at, "Step", "plans"), live)
        f.call_void("Py_DecRef", live)
        self.unless(self.exists(plan), self.slow)
        return plan

    def _run(self, launch: Val, held: tuple[Val, ...]) -> None:
        """Launch with the spare trace in place; back to the start unless the plan ran."""
        f = self.f
        none = self.word(self.state, NONE)
        leaves = self.slot(self.trace, "Trace", "leaves")
        f.call_void("PyDict_Clear", leaves)  # else nothing could be written over
        self.put(self.spare, "Trace", "at", self.owned(self.root), replace=True)
        self.put(self.home, "ThreadState", "trace", self.owned(self.spare), replace=True)
        self.put(self.home, "ThreadState", "spare", self.owned(none), replace=True)
        for i, thing in enumerate((self.values, self.slot(self.trace, "Trace", "scalars"))):
            f.store(thing, f.gep(Val("ptr", "%given"), i, "ptr"))
        self.put(self.trace, "Trace", "running", self.owned(self.home), replace=True)
        done = f.call("PyObject_Vectorcall", "ptr", launch, Val("ptr", "%given"), const("i64", 2), NULL)
        self.put(self.trace, "Trace", "running", self.owned(self.word(self.state, NONE)), replace=True)
        ran, not_run, refused, raised = (f.label(n) for n in ("ran", "not_run", "refused", "raised"))
        good = f.op(f"and {self.exists(done)}, {self.differs(done, none).name}", "i1")
        f.branch_if(good, ran, not_run)
        f.start(not_run)
        self._put_leaves_back(leaves)
        self.put(self.home, "ThreadState", "trace", self.trace, replace=True)
        for thing in held:
            f.call_void("Py_DecRef", thing)
        f.branch_if(self.exists(done), refused, raised)
        f.start(refused)
        f.call_void("Py_DecRef", done)
        f.branch(self.slow)
        f.start(raised)
        f.branch(self.failed)
        f.start(ran)
        f.call_void("Py_DecRef", done)

    def _put_leaves_back(self, leaves: Val) -> None:
        """After a run that did not happen, with or without an exception."""
        f = self.f
        with f.loop(ZERO, f.call("PyList_Size", "i64", self.values)) as loop:
            value = f.call("PyList_GetItem", "ptr", self.values, loop.index)
            with f.if_(self.differs(self.slot(value, "Data", "trace"), self.trace)):
                slot = f.call("PyLong_FromSsize_t", "ptr", loop.index)
                f.call("PyDict_SetItem", "i32", leaves, value, slot)
                f.call_void("Py_DecRef", slot)

    def _count(self, reason: Val, plan: Val, ops: Val) -> None:
        f = self.f
        unit = self.word(self.state, UNIT)
        f.call_void("Py_DecRef", self._bump(FLUSHES, reason, unit))
        f.call_void("Py_DecRef", self._bump(COUNTERS, self.word(self.state, RUNS_KEY), unit))
        self.put(plan, "Plan", "used", self._bump(RECORDED, self.word(self.state, OPS_KEY), ops), replace=True)

    def _bump(self, counter: int, key: Val, step: Val) -> Val:
        """A new reference to the counter's new value."""
        f = self.f
        table = self.word(self.state, counter)
        old = f.call("PyDict_GetItemWithError", "ptr", table, key)
        new = f.call("PyNumber_Add", "ptr", f.select(self.exists(old), old, self.word(self.state, NOUGHT)), step)
        self.unless(self.exists(new), self.failed)
        self.check(f.call("PyDict_SetItem", "i32", table, key, new))
        return new

    def _recycle(self) -> None:
        """Empty the trace; it is the next spare unless something refers to it: a function recording now, a value never computed."""
        f = self.f
        taken, single, used, end, reuse = (f.label(n) for n in ("taken", "single", "used", "end", "reuse"))
        f.branch_if(f.compare("eq", f.load(self.values, "i64"), ONE), single, taken)
        f.start(taken)
        empty = f.call("PyList_New", "ptr", ZERO)
        self.unless(self.exists(empty), self.failed)
        self.put(self.trace, "Trace", "values", empty, replace=True)
        f.branch(used)
        f.start(single)
        for name in ("values", "scalars"):  # values nobody wanted refer to the trace
            items = self.slot(self.trace, "Trace", name)
            f.call("PyList_SetSlice", "i32", items, ZERO, f.call("PyList_Size", "i64", items), NULL)
        vacant = self.same(self.slot(self.home, "ThreadState", "spare"), self.word(self.state, NONE))
        alone = f.compare("eq", f.load(self.trace, "i64"), ONE)
        f.branch_if(f.op(f"and {vacant}, {alone.name}", "i1"), reuse, used)
        f.start(reuse)
        for name, content in (("at", NONE), ("backwards", NOUGHT), ("limit", MAX_STEPS)):
            self.put(self.trace, "Trace", name, self.owned(self.word(self.state, content)), replace=True)
        self.put(self.home, "ThreadState", "spare", self.trace, replace=True)
        f.branch(end)
        f.start(used)
        f.call_void("Py_DecRef", self.trace)
        f.branch(end)
        f.start(end)
