"""Recording in machine code: one step along the trie of traces, for the common case that it was taken before.

Built for `METH_FASTCALL` like `codegen/python_calls.py`, whose assumptions it shares. Whatever is not common (a step seen for the first
time, a value without a buffer, several results) is left to Python: the answer is None, and nothing has changed.
"""
from __future__ import annotations

from collections.abc import Sequence

from treadle.codegen.llvm_text import Function, Module, Val, const

# State: the classes of values and tensors, None, False.
DATA_CLASS, TENSOR_CLASS, NONE, FALSE = range(4)
STATE_WORDS = 4
MAX_OPERANDS = 8
FIRST_OPERAND = 3  # after trace, op, attributes

ZERO = const("i64", 0)
NULL = Val("ptr", "null")
# Slots whose offsets the code has: of a value, a trace, a trie node, a tensor.
SLOTS = {"Data": ("type", "trace", "slot", "buffer", "stale"), "Trace": ("at", "leaves", "scalars", "values"), "Step": ("next", "type"),
         "Tensor": ("_data", "_edge", "_storage")}

Offsets = dict[tuple[str, str], int]  # (class, slot) -> bytes


def recording_text(offsets: Offsets) -> str:
    """LLVM text of `record(trace, op, attributes, *operands)`, which gives the tensor of the new value."""
    module = Module()
    _Recorder(module, offsets).emit()
    return module.text()


class _Recorder:
    """Emits the function, a stage at a time."""

    def __init__(self, module: Module, offsets: Offsets) -> None:
        self.offsets = offsets
        self.f = f = Function(module, "record", [Val("ptr", "%self"), Val("ptr", "%args"), Val("i64", "%count")], ret="ptr")
        self.args = Val("ptr", "%args")
        self.slow, self.failed = f.label("slow"), f.label("failed")
        # Inputs that the trace has not seen, and numbers: they are appended once the step is found.
        f.allocas += [f"  %leaves = alloca [{MAX_OPERANDS} x ptr]", f"  %numbers = alloca [{MAX_OPERANDS} x ptr]"]
        self.new_leaves, self.new_numbers = f.variable(ZERO), f.variable(ZERO)

    def emit(self) -> None:
        f = self.f
        self.state = f.call("PyLong_AsVoidPtr", "ptr", f.call("PyTuple_GetItem", "ptr", Val("ptr", "%self"), ZERO))
        operands = f.sub(Val("i64", "%count"), FIRST_OPERAND)
        self._unless(f.compare("ule", operands, const("i64", MAX_OPERANDS)), self.slow)
        self.trace = self._word(self.args, 0)
        self.values, self.leaves = self._slot(self.trace, "Trace", "values"), self._slot(self.trace, "Trace", "leaves")
        key = f.call("PyTuple_New", "ptr", f.add(operands, 2))
        self._unless(self._exists(key), self.failed)
        for i in (0, 1):
            f.call("PyTuple_SetItem", "i32", key, const("i64", i), self._owned(self._word(self.args, i + 1)))
        with f.loop(ZERO, operands) as loop:
            item = self._operand(self._word(self.args, f.add(loop.index, FIRST_OPERAND)), key)
            f.call("PyTuple_SetItem", "i32", key, f.add(loop.index, 2), item)
        at = self._slot(self.trace, "Trace", "at")
        step = f.call("PyDict_GetItemWithError", "ptr", self._slot(at, "Step", "next"), key)
        f.call_void("Py_DecRef", key)
        self._unless(self._exists(step), self.slow)
        type = self._slot(step, "Step", "type")
        self._unless(f.op(f"icmp ne {type}, {self._word(self.state, NONE).name}", "i1"), self.slow)
        self._append_inputs()
        data = self._new_value(type)
        self._set(self.trace, "Trace", "at", self._owned(step), replace=True)
        f.line(f"ret {self._new_tensor(data)}")
        self._leave()

    # -- operands ------------------------------------------------------------------------------------------------------
    def _operand(self, x: Val, key: Val) -> Val:
        """A new reference to the key of one operand."""
        f = self.f
        value, number, old, known, unknown, done = (f.label(n) for n in ("value", "number", "old", "known", "unknown", "keyed"))
        found, made = f.variable(NULL), f.variable(NULL)
        cls = self._word(x, 1)
        f.branch_if(f.op(f"icmp eq {cls}, {self._word(self.state, DATA_CLASS).name}", "i1"), value, number)
        f.start(number)
        self._note("%numbers", self.new_numbers, x)
        f.store(cls, found)
        f.branch(done)
        f.start(value)
        f.branch_if(f.op(f"icmp eq {self._slot(x, 'Data', 'trace')}, {self.trace.name}", "i1"), old, unknown)
        f.start(old)
        f.store(self._slot(x, "Data", "slot"), found)
        f.branch(done)
        f.start(unknown)
        slot = f.call("PyDict_GetItemWithError", "ptr", self.leaves, x)
        leaf = f.label("leaf")
        f.branch_if(self._exists(slot), known, leaf)
        f.start(known)
        f.store(slot, found)
        f.branch(done)
        f.start(leaf)
        self._check_computed(x, key)
        self._seek_among_new(x, found, made, done)
        self._note("%leaves", self.new_leaves, x)
        f.store(self._slot(x, "Data", "type"), found)
        f.branch(done)
        f.start(done)
        item = self._owned(f.load(found, "ptr"))
        f.call_void("Py_DecRef", f.load(made, "ptr"))
        return item

    def _check_computed(self, x: Val, key: Val) -> None:
        """A value without a buffer needs Python's care."""
        f = self.f
        drop, fine = f.label("drop"), f.label("fine")
        computed = f.op(f"icmp ne {self._slot(x, 'Data', 'buffer')}, {self._word(self.state, NONE).name}", "i1")
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
            self._unless(self._exists(slot), self.failed)
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
            self._unless(self._exists(slot), self.failed)
            status = f.call("PyDict_SetItem", "i32", self.leaves, leaf, slot)
            f.call_void("Py_DecRef", slot)
            self._check(status)
            self._check(f.call("PyList_Append", "i32", self.values, leaf))
        scalars = self._slot(self.trace, "Trace", "scalars")
        with f.loop(ZERO, f.load(self.new_numbers, "i64")) as loop:
            number = f.load(f.gep(Val("ptr", "%numbers"), loop.index, "ptr"), "ptr")
            self._check(f.call("PyList_Append", "i32", scalars, number))

    def _new_value(self, type: Val) -> Val:
        f = self.f
        slot = f.call("PyLong_FromSsize_t", "ptr", f.call("PyList_Size", "i64", self.values))
        self._unless(self._exists(slot), self.failed)
        data = f.call("PyType_GenericAlloc", "ptr", self._word(self.state, DATA_CLASS), ZERO)
        self._unless(self._exists(data), self.failed)
        self._set(data, "Data", "slot", slot)
        none, false = self._word(self.state, NONE), self._word(self.state, FALSE)
        for name, content in (("type", type), ("trace", self.trace), ("buffer", none), ("stale", false)):
            self._set(data, "Data", name, self._owned(content))
        self._check(f.call("PyList_Append", "i32", self.values, data))
        return data

    def _new_tensor(self, data: Val) -> Val:
        f = self.f
        tensor = f.call("PyType_GenericAlloc", "ptr", self._word(self.state, TENSOR_CLASS), ZERO)
        self._unless(self._exists(tensor), self.failed)
        self._set(tensor, "Tensor", "_data", data)
        for name in ("_edge", "_storage"):
            self._set(tensor, "Tensor", name, self._owned(self._word(self.state, NONE)))
        return tensor

    # -- plumbing ------------------------------------------------------------------------------------------------------
    def _leave(self) -> None:
        f = self.f
        f.start(self.slow)
        f.call_void("PyErr_Clear")
        f.line(f"ret {self._owned(self._word(self.state, NONE))}")
        f.start(self.failed)
        f.line("ret ptr null")
        f.finish()

    def _word(self, base: Val, index: int | Val) -> Val:
        return self.f.load(self.f.gep(base, index, "i64"), "ptr")

    def _slot(self, thing: Val, cls: str, name: str) -> Val:
        return self.f.load(self.f.gep(thing, self.offsets[cls, name], "i8"), "ptr")

    def _set(self, thing: Val, cls: str, name: str, new: Val, replace: bool = False) -> None:
        """Put a reference of ours into a slot, which is empty unless `replace`."""
        f = self.f
        slot = f.gep(thing, self.offsets[cls, name], "i8")
        old = f.load(slot, "ptr") if replace else None
        f.store(new, slot)
        if old is not None:
            f.call_void("Py_DecRef", old)

    def _owned(self, thing: Val) -> Val:
        self.f.call_void("Py_IncRef", thing)
        return thing

    def _exists(self, thing: Val) -> Val:
        return self.f.op(f"icmp ne {thing}, null", "i1")

    def _check(self, status: Val) -> None:
        """Leave when a call of the C API reports an exception."""
        self._unless(self.f.compare("eq", status, const("i32", 0)), self.failed)

    def _unless(self, c: Val, label: str) -> None:
        go_on = self.f.label("on")
        self.f.branch_if(c, go_on, label)
        self.f.start(go_on)


API: Sequence[str] = ("PyDict_GetItemWithError", "PyDict_SetItem", "PyList_Append", "PyLong_FromSsize_t", "PyType_GenericAlloc")
