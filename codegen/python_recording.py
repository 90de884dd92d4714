"""Recording in machine code: one step along the trie of traces, for the common case that it was taken before.

Built for `METH_FASTCALL` like `codegen/python_calls.py`, whose assumptions it shares. Whatever is not common (a step seen for the first
time, a value without a buffer, several results) is left to Python: the answer is None, and nothing has changed.
"""
from __future__ import annotations

from collections.abc import Sequence

from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.python_objects import API as SHARED_API
from treadle.codegen.python_objects import FIRST_WORD, NONE, NULL, VALUE_SLOTS, ZERO, ObjectEmitter, Offsets, emit_value_of

# State of the process, after what all builtins have: the classes of values and tensors, constants, the classes of numbers, what flushes
# a trace that is long enough, what takes the trace back to its last whole op.
DATA_CLASS, TENSOR_CLASS, FALSE, NO_ATTRIBUTES, FLOAT, INT, BOOL, FLUSH_DUE, REWIND = range(FIRST_WORD, FIRST_WORD + 9)
STATE_WORDS = FIRST_WORD + 9
MAX_OPERANDS = 8
FIRST_OPERAND = 3  # after trace, op, attributes

# Slots whose offsets the code has: of a value, a trace, a trie node, a tensor.
SLOTS = {**VALUE_SLOTS, "Trace": ("at", "leaves", "scalars", "values"), "Step": ("due", "next", "type"),
         "ThreadState": ("autocast", "eager", "trace")}


def recording_text(offsets: Offsets) -> str:
    """LLVM text of `record(trace, op, attributes, *operands)`, which gives the tensor of the new value, and of `record_plain`."""
    module = Module()
    emit_value_of(module, offsets)
    _Recorder(module, offsets).emit()
    _PlainRecorder(module, offsets).emit()
    return module.text()


class _Recorder(ObjectEmitter):
    """Emits the function, a stage at a time."""

    name = "record"
    operands: Val  # where the operands are: values and numbers
    count: Val     # and how many
    head: tuple[Val, Val]

    def __init__(self, module: Module, offsets: Offsets) -> None:
        self.args = Val("ptr", "%args")
        super().__init__(Function(module, self.name, [Val("ptr", "%self"), self.args, Val("i64", "%count")], ret="ptr"), offsets)
        f = self.f
        # Inputs that the trace has not seen, and numbers: they are appended once the step is found.
        f.allocas += [f"  %leaves = alloca [{MAX_OPERANDS} x ptr]", f"  %numbers = alloca [{MAX_OPERANDS} x ptr]"]
        self.new_leaves, self.new_numbers = f.variable(ZERO), f.variable(ZERO)

    def emit(self) -> None:
        f = self.f
        self.state = f.call("PyLong_AsVoidPtr", "ptr", f.call("PyTuple_GetItem", "ptr", Val("ptr", "%self"), ZERO))
        self._begin()
        self.values, self.leaves = self.slot(self.trace, "Trace", "values"), self.slot(self.trace, "Trace", "leaves")
        key = f.call("PyTuple_New", "ptr", f.add(self.count, 2))
        self.unless(self.exists(key), self.failed)
        for i, thing in enumerate(self.head):
            f.call("PyTuple_SetItem", "i32", key, const("i64", i), self.owned(thing))
        with f.loop(ZERO, self.count) as loop:
            item = self._operand(self.word(self.operands, loop.index), key)
            f.call("PyTuple_SetItem", "i32", key, f.add(loop.index, 2), item)
        at = self.slot(self.trace, "Trace", "at")
        step = f.call("PyDict_GetItemWithError", "ptr", self.slot(at, "Step", "next"), key)
        f.call_void("Py_DecRef", key)
        self.unless(self.exists(step), self.slow)
        type = self.slot(step, "Step", "type")
        self.unless(f.op(f"icmp ne {type}, {self.word(self.state, NONE).name}", "i1"), self.slow)
        self._append_inputs()
        data = self._new_value(type)
        self.put(self.trace, "Trace", "at", self.owned(step), replace=True)
        self._end(step, self._new_tensor(data))
        self._leave()

    def _begin(self) -> None:
        f = self.f
        self.count = f.sub(Val("i64", "%count"), FIRST_OPERAND)
        self.unless(f.compare("ule", self.count, const("i64", MAX_OPERANDS)), self.slow)
        self.trace, self.head = self.word(self.args, 0), (self.word(self.args, 1), self.word(self.args, 2))
        self.operands = f.gep(self.args, FIRST_OPERAND, "i64")

    def _end(self, step: Val, tensor: Val) -> None:
        self.f.line(f"ret {tensor}")

    # -- operands ------------------------------------------------------------------------------------------------------
    def _operand(self, x: Val, key: Val) -> Val:
        """A new reference to the key of one operand."""
        f = self.f
        value, number, old, known, unknown, done = (f.label(n) for n in ("value", "number", "old", "known", "unknown", "keyed"))
        found, made = f.variable(NULL), f.variable(NULL)
        cls = self.word(x, 1)
        f.branch_if(f.op(f"icmp eq {cls}, {self.word(self.state, DATA_CLASS).name}", "i1"), value, number)
        f.start(number)
        self._note("%numbers", self.new_numbers, x)
        f.store(cls, found)
        f.branch(done)
        f.start(value)
        f.branch_if(f.op(f"icmp eq {self.slot(x, 'Data', 'trace')}, {self.trace.name}", "i1"), old, unknown)
        f.start(old)
        f.store(self.slot(x, "Data", "slot"), found)
        f.branch(done)
        f.start(unknown)
        slot = f.call("PyDict_GetItemWithError", "ptr", self.leaves, x)
        leaf = f.label("leaf")
        f.branch_if(self.exists(slot), known, leaf)
        f.start(known)
        f.store(slot, found)
        f.branch(done)
        f.start(leaf)
        self._check_computed(x, key)
        self._seek_among_new(x, found, made, done)
        self._note("%leaves", self.new_leaves, x)
        f.store(self.slot(x, "Data", "type"), found)
        f.branch(done)
        f.start(done)
        item = self.owned(f.load(found, "ptr"))
        f.call_void("Py_DecRef", f.load(made, "ptr"))
        return item

    def _check_computed(self, x: Val, key: Val) -> None:
        """A value without a buffer needs Python's care."""
        f = self.f
        drop, fine = f.label("drop"), f.label("fine")
        computed = f.op(f"icmp ne {self.slot(x, 'Data', 'buffer')}, {self.word(self.state, NONE).name}", "i1")
        f.branch_if(computed, fine, drop)
        f.start(drop)
        f.call_void("Py_DecRef", key)
        f.branch(self.slow)
        f.start(fine)

    def _seek_among_new(self, x: Val, found: Val, made: Val, done: str) -> None:
        """The second use of an input that is new in this op has the slot that the first one will get."""
        f = self.f
        with f.loop(ZERO, f.load(self.new_leaves, "i64")) as loop:
            other = f.load(f.gep(Val("ptr", "%leaves"), loop.index, "ptr"), "ptr")
            same, differs = f.label("same"), f.label("differs")
            f.branch_if(f.op(f"icmp eq {other}, {x.name}", "i1"), same, differs)
            f.start(same)
            slot = f.call("PyLong_FromSsize_t", "ptr", f.add(f.call("PyList_Size", "i64", self.values), loop.index))
            self.unless(self.exists(slot), self.failed)
            f.store(slot, found)
            f.store(slot, made)
            f.branch(done)
            f.start(differs)

    def _note(self, table: str, count: Val, x: Val) -> None:
        f = self.f
        n = f.load(count, "i64")
        f.store(x, f.gep(Val("ptr", table), n, "ptr"))
        f.store(f.add(n, 1), count)

    # -- results -------------------------------------------------------------------------------------------------------
    def _append_inputs(self) -> None:
        f = self.f
        with f.loop(ZERO, f.load(self.new_leaves, "i64")) as loop:
            leaf = f.load(f.gep(Val("ptr", "%leaves"), loop.index, "ptr"), "ptr")
            slot = f.call("PyLong_FromSsize_t", "ptr", f.call("PyList_Size", "i64", self.values))
            self.unless(self.exists(slot), self.failed)
            status = f.call("PyDict_SetItem", "i32", self.leaves, leaf, slot)
            f.call_void("Py_DecRef", slot)
            self.check(status)
            self.check(f.call("PyList_Append", "i32", self.values, leaf))
        scalars = self.slot(self.trace, "Trace", "scalars")
        with f.loop(ZERO, f.load(self.new_numbers, "i64")) as loop:
            number = f.load(f.gep(Val("ptr", "%numbers"), loop.index, "ptr"), "ptr")
            self.check(f.call("PyList_Append", "i32", scalars, number))

    def _new_value(self, type: Val) -> Val:
        f = self.f
        slot = f.call("PyLong_FromSsize_t", "ptr", f.call("PyList_Size", "i64", self.values))
        self.unless(self.exists(slot), self.failed)
        data = f.call("PyType_GenericAlloc", "ptr", self.word(self.state, DATA_CLASS), ZERO)
        self.unless(self.exists(data), self.failed)
        self.put(data, "Data", "slot", slot)
        none, false = self.word(self.state, NONE), self.word(self.state, FALSE)
        for name, content in (("type", type), ("trace", self.trace), ("buffer", none), ("stale", false)):
            self.put(data, "Data", name, self.owned(content))
        self.check(f.call("PyList_Append", "i32", self.values, data))
        return data

    def _new_tensor(self, data: Val) -> Val:
        f = self.f
        tensor = f.call("PyType_GenericAlloc", "ptr", self.word(self.state, TENSOR_CLASS), ZERO)
        self.unless(self.exists(tensor), self.failed)
        self.put(tensor, "Tensor", "_data", data)
        for name in ("_edge", "_storage"):
            self.put(tensor, "Tensor", name, self.owned(self.word(self.state, NONE)))
        return tensor

    # -- plumbing ------------------------------------------------------------------------------------------------------
    def _leave(self) -> None:
        f = self.f
        f.start(self.slow)
        f.call_void("PyErr_Clear")
        f.line(f"ret {self.owned(self.word(self.state, NONE))}")
        f.start(self.failed)
        f.line("ret ptr null")
        f.finish()


class _PlainRecorder(_Recorder):
    """`record_plain(op, *operands)`: the whole of an op without attributes on tensors off the tape, and numbers after the first.

    In eager mode, under autocast and for tensors whose value is not at hand it is left to Python.
    """

    name = "record_plain"

    def _begin(self) -> None:
        f = self.f
        f.allocas.append(f"  %data = alloca [{MAX_OPERANDS} x ptr]")
        self.count = f.sub(Val("i64", "%count"), 1)
        self.unless(f.compare("ule", self.count, const("i64", MAX_OPERANDS)), self.slow)
        self.thread = self.here(self.state)
        none = self.word(self.state, NONE)
        self.unless(self.same(self.slot(self.thread, "ThreadState", "autocast"), none), self.slow)
        self.unless(self.same(self.slot(self.thread, "ThreadState", "eager"), self.word(self.state, FALSE)), self.slow)
        self.trace = self.slot(self.thread, "ThreadState", "trace")
        self.head = self.word(self.args, 0), self.word(self.state, NO_ATTRIBUTES)
        self.operands = Val("ptr", "%data")
        with f.loop(ZERO, self.count) as loop:
            self._take(self.word(self.args, f.add(loop.index, 1)), loop.index)

    def _take(self, x: Val, index: Val) -> None:
        """The value of a tensor, or a number."""
        f = self.f
        tensor, number, taken = f.label("tensor"), f.label("number"), f.label("taken")
        place, cls = f.gep(self.operands, index, "ptr"), self.word(x, 1)
        f.branch_if(self.same(cls, self.word(self.state, TENSOR_CLASS)), tensor, number)
        f.start(tensor)
        self.unless(self.same(self.slot(x, "Tensor", "_edge"), self.word(self.state, NONE)), self.slow)
        data = f.op(f"call ptr @value_of({x}, {self.state})", "ptr")
        self.unless(self.exists(data), self.slow)
        f.store(data, place)
        f.branch(taken)
        f.start(number)
        known = f.compare("ne", index, ZERO)
        kinds = [self.same(cls, self.word(self.state, kind)) for kind in (FLOAT, INT, BOOL)]
        any_kind = f.op(f"or {f.op(f'or {kinds[0]}, {kinds[1].name}', 'i1')}, {kinds[2].name}", "i1")
        self.unless(f.op(f"and {known}, {any_kind.name}", "i1"), self.slow)
        f.store(x, place)
        f.branch(taken)
        f.start(taken)

    def _end(self, step: Val, tensor: Val) -> None:
        f = self.f
        due, fine = f.label("due"), f.label("fine")
        f.branch_if(self.same(self.slot(step, "Step", "due"), self.word(self.state, FALSE)), fine, due)
        f.start(due)
        done = f.call("PyObject_CallOneArg", "ptr", self.word(self.state, FLUSH_DUE), self.thread)
        with f.if_(f.op(f"icmp eq {done}, null", "i1")):
            f.call_void("Py_DecRef", tensor)
            f.line("ret ptr null")
            f.start(f.label("unreachable"))
        f.call_void("Py_DecRef", done)
        f.branch(fine)
        f.start(fine)
        f.line(f"ret {tensor}")

    def _leave(self) -> None:
        """What was begun is taken back before an exception (there is no memory) leaves."""
        f = self.f
        f.allocas.append("  %error = alloca [3 x ptr]")
        places = [f"ptr %error{i}" for i in range(3)]
        f.allocas += [f"  %error{i} = getelementptr ptr, ptr %error, i64 {i}" for i in range(3)]
        failed, self.failed = self.failed, f.label("rewound")
        f.start(failed)
        f.module.declare("PyErr_Fetch", "void (ptr, ptr, ptr)")
        f.module.declare("PyErr_Restore", "void (ptr, ptr, ptr)")
        f.line(f"call void @PyErr_Fetch({', '.join(places)})")
        f.call_void("Py_DecRef", f.call("PyObject_CallNoArgs", "ptr", self.word(self.state, REWIND)))
        kept = [f.load(Val("ptr", f"%error{i}"), "ptr") for i in range(3)]
        f.line(f"call void @PyErr_Restore({', '.join(map(str, kept))})")
        f.branch(self.failed)
        super()._leave()


API: Sequence[str] = (*SHARED_API, "PyErr_Fetch", "PyErr_Restore", "PyObject_CallNoArgs", "PyDict_GetItemWithError",
                      "PyDict_SetItem", "PyList_Append", "PyLong_FromSsize_t", "PyType_GenericAlloc")
