"""What emitters of builtins share: reading and writing the slots of Python objects."""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Module, Val, const

# How every table of a builtin's state begins: the thread that asked last, its ThreadState, the thread-local object that has it, the
# name of the attribute; None; the class of exports of arrays from outside; the name of a tensor's chain of views.
THREAD, HERE, LOCAL, NAME, NONE, IMPORTED, CHAIN, FIRST_WORD = range(8)
API = ("PyThreadState_Get", "PyThreadState_GetID", "PyObject_GetAttr")
VALUE_SLOTS = {"Tensor": ("_data", "_edge", "_seen", "_storage"), "Storage": ("base", "export", "version"), "Imported": ("address",),
               "Data": ("type", "trace", "slot", "buffer", "stale"), "Buffer": ("nbytes", "ptr")}
SMALL = 4096  # bytes that are compared without letting go of the GIL

Offsets = dict[tuple[str, str], int]  # (class, slot) -> bytes
ZERO, ONE = const("i64", 0), const("i64", 1)
NULL = Val("ptr", "null")


class ObjectEmitter:
    """Emits into `f`. An object that C code gets from a slot is borrowed."""

    def __init__(self, f: Function, offsets: Offsets) -> None:
        self.f, self.offsets = f, offsets
        self.slow, self.failed = f.label("slow"), f.label("failed")

    def word(self, base: Val, index: int | Val, ty: str = "ptr") -> Val:
        return self.f.load(self.f.gep(base, index, "i64"), ty)

    def slot(self, thing: Val, cls: str, name: str) -> Val:
        return self.f.load(self.f.gep(thing, self.offsets[cls, name], "i8"), "ptr")

    def put(self, thing: Val, cls: str, name: str, new: Val, replace: bool = False) -> None:
        """Put a reference of ours into a slot, which is empty unless `replace`."""
        f = self.f
        slot = f.gep(thing, self.offsets[cls, name], "i8")
        old = f.load(slot, "ptr") if replace else None
        f.store(new, slot)
        if old is not None:
            f.call_void("Py_DecRef", old)

    def owned(self, thing: Val) -> Val:
        self.f.call_void("Py_IncRef", thing)
        return thing

    def same(self, a: Val, b: Val) -> Val:
        return self.f.op(f"icmp eq {a}, {b.name}", "i1")

    def differs(self, a: Val, b: Val) -> Val:
        return self.f.op(f"icmp ne {a}, {b.name}", "i1")

    def exists(self, thing: Val) -> Val:
        return self.f.op(f"icmp ne {thing}, null", "i1")

    def here(self, state: Val) -> Val:
        """The recorder's ThreadState of this thread; identifiers of threads are never used again."""
        f = self.f
        thread = f.call("PyThreadState_GetID", "i64", f.call("PyThreadState_Get", "ptr"))
        with f.if_(f.compare("ne", thread, self.word(state, THREAD, "i64"))):
            found = f.call("PyObject_GetAttr", "ptr", self.word(state, LOCAL), self.word(state, NAME))
            self.unless(self.exists(found), self.failed)
            old = self.word(state, HERE)
            f.store(found, f.gep(state, HERE, "i64"))
            f.store(thread, f.gep(state, THREAD, "i64"))
            f.call_void("Py_DecRef", old)
        return self.word(state, HERE)

    def check(self, status: Val) -> None:
        """Leave when a call of the C API reports an exception."""
        self.unless(self.f.compare("eq", status, const("i32", 0)), self.failed)

    def unless(self, c: Val, label: str) -> None:
        go_on = self.f.label("on")
        self.f.branch_if(c, go_on, label)
        self.f.start(go_on)


class _Value(ObjectEmitter):
    """`ptr value_of(ptr tensor, ptr state)`: the current value, borrowed; null when finding it takes Python.

    It is at hand when the tensor's storage has not been written since, or its memory, which an array from outside shares, has not
    changed.
    """

    def __init__(self, module: Module, offsets: Offsets) -> None:
        self.tensor, self.state = Val("ptr", "%tensor"), Val("ptr", "%state")
        super().__init__(Function(module, "value_of", [self.tensor, self.state], ret="ptr", linkage="internal"), offsets)

    def emit(self) -> None:
        f = self.f
        found, shared = f.label("found"), f.label("shared")
        none = self.word(self.state, NONE)
        data, storage = self.slot(self.tensor, "Tensor", "_data"), self.slot(self.tensor, "Tensor", "_storage")
        self.unless(self.differs(storage, none), found)
        fresh = self.same(self.slot(self.tensor, "Tensor", "_seen"), self.slot(storage, "Storage", "version"))
        self.unless(fresh, self.slow)
        export = self.slot(storage, "Storage", "export")
        f.branch_if(self.same(export, none), found, shared)
        f.start(shared)
        self.unless(self.same(self.word(export, 1), self.word(self.state, IMPORTED)), self.slow)
        base = self.slot(self.slot(storage, "Storage", "base"), "Tensor", "_data")
        self.unless(self.same(self.slot(base, "Data", "type"), self.slot(data, "Data", "type")), self.slow)
        buffer = self.slot(data, "Data", "buffer")
        self.unless(self.differs(buffer, none), self.slow)
        self._compare(buffer, export)
        f.branch(found)
        f.start(found)
        f.line(f"ret {data}")
        f.start(self.failed)
        f.branch(self.slow)
        f.start(self.slow)
        f.line("ret ptr null")
        f.finish()

    def _compare(self, buffer: Val, export: Val) -> None:
        """Leave unless the tensor shows all of the memory, and its own copy has the same bytes."""
        f = self.f
        chain = f.call("PyObject_GetAttr", "ptr", self.tensor, self.word(self.state, CHAIN))
        self.unless(self.exists(chain), self.slow)
        viewed = f.call("PyObject_IsTrue", "i32", chain)
        f.call_void("Py_DecRef", chain)
        self.unless(f.compare("eq", viewed, const("i32", 0)), self.slow)
        mine, theirs = (f.call("PyLong_AsVoidPtr", "ptr", self.slot(thing, cls, name))
                        for thing, cls, name in ((buffer, "Buffer", "ptr"), (export, "Imported", "address")))
        self.unless(self.differs(mine, theirs), self.slow)
        size = f.call("PyLong_AsUnsignedLongLongMask", "i64", self.slot(buffer, "Buffer", "nbytes"))
        self.unless(f.compare("ule", size, const("i64", SMALL)), self.slow)
        self.unless(f.compare("eq", f.call("memcmp", "i32", mine, theirs, size), const("i32", 0)), self.slow)


def emit_value_of(module: Module, offsets: Offsets) -> None:
    _Value(module, offsets).emit()
