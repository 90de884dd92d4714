"""What emitters of builtins share: reading and writing the slots of Python objects."""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Val, const

# How every table of a builtin's state begins: the thread that asked last, its ThreadState, the thread-local object that has it, the
# name of the attribute.
THREAD, HERE, LOCAL, NAME = range(4)
THREAD_API = ("PyThreadState_Get", "PyThreadState_GetID", "PyObject_GetAttr")

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
