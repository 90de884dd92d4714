"""Launching plans by builtin functions that the JIT makes: 0.1 us a call where ctypes takes 0.4 and filling a table 1.

They rely on CPython's C API, on reference counts and on the place of three slots, all of which `builtins()` tries out; where that
fails (another interpreter, a debug build, no GIL), it returns None, and plans are launched from Python.
"""
from __future__ import annotations

import ctypes
import functools
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np

from treadle.codegen import python_calls as layout
from treadle.codegen import python_flush as flushing
from treadle.codegen import python_objects as objects
from treadle.codegen import python_recording as recording
from treadle.codegen import python_replay as replaying
from treadle.codegen.executor import native as native_executor
from treadle.codegen.jit import CompiledModule, compile_text
from treadle.ir import dtypes
from treadle.ir.dtypes import float32
from treadle.ir.types import tensor_type
from treadle.runtime import executor, log, memory, recorder, threads
from treadle.runtime.recorder import STATE, Data, Step, ThreadState, Trace, computed

KEEP_BYTES = 64 << 10       # outputs up to this size stay with their plan between runs
KEEP_ALL_BYTES = 32 << 20   # as long as all plans together keep no more than this
METH_FASTCALL, METH_KEYWORDS = 0x80, 0x02

_API = ("PyList_GetItem", "PyList_SetItem", "PyList_Size", "PyTuple_GetItem", "PyTuple_SetItem", "PyTuple_New", "PyLong_AsVoidPtr",
        "PyLong_AsUnsignedLongLongMask", "PyFloat_AsDouble", "PyObject_IsTrue", "PyObject_CallOneArg", "PyErr_Occurred", "PyErr_Clear",
        "PyEval_SaveThread", "PyEval_RestoreThread", "PyBool_FromLong", "PyBytes_FromStringAndSize", "PyBytes_AsString", "Py_IncRef",
        "Py_DecRef", "PyTuple_Size", "PyLong_FromSsize_t")


class _MethodDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


class _MemberDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("type", ctypes.c_int), ("offset", ctypes.c_ssize_t)]


class _MemberDescriptor(ctypes.Structure):
    _fields_ = [("references", ctypes.c_ssize_t), ("cls", ctypes.c_void_p), ("owner", ctypes.c_void_p), ("name", ctypes.c_void_p),
                ("qualname", ctypes.c_void_p), ("member", ctypes.POINTER(_MemberDef))]


class Builtins(NamedTuple):
    """`live(values)`, the state of the process, and what a plan's own builtins are made from."""

    live: Callable[[list[Any]], bytes]
    state: np.ndarray
    launch: _MethodDef
    launch_values: _MethodDef
    launch_data: _MethodDef
    held: int  # how many references `launch_data` sees to a value that only its tensor and a variable of the caller have
    module: CompiledModule


def usable() -> bool:
    """Is this an interpreter whose objects look as this code expects?"""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return (sys.implementation.name == "cpython" and (3, 10) <= sys.version_info[:2] <= (3, 13) and not hasattr(sys, "gettotalrefcount")
            and has_gil and sys.maxsize > 1 << 32 and sys.byteorder == "little")


@functools.cache
def builtins() -> Builtins | None:
    """The builtins, made at the first call; None where they cannot be had."""
    if not usable():
        return None
    try:
        offsets = layout.Offsets(_offset(Data, "buffer"), _offset(Data, "trace"), _offset(memory.Buffer, "ptr"),
                                 _offset(memory.Buffer, "owner"))
        _check_offsets(offsets)
        for name in _API:
            llvm.add_symbol(name, _address(getattr(ctypes.pythonapi, name)))
        module = compile_text(layout.launch_text(offsets))
    except (RuntimeError, AttributeError, ValueError) as error:
        log.log("compile", f"plans are launched from Python: {error}")
        return None
    # Like the workers of the pool, builtins may be called until the process is gone.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))
    found = {name: _MethodDef(name.encode(), module.address(name), METH_FASTCALL, None)
             for name in ("live", "same_bytes", "references", "launch", "launch_values", "launch_data")}
    live = _function(found["live"], None)
    if not _counts_references(live):
        return None
    memory.same_bytes = _function(found["same_bytes"], None)
    held = _references_of_a_value(_function(found["references"], None))
    return Builtins(live, _make_state(), found["launch"], found["launch_values"], found["launch_data"], held, module)


class Recording(NamedTuple):
    """`record(trace, op, attributes, *operands)`: the tensor of the new value, recorded; None: Python has to do it.

    `record_plain(op, *operands)` is the same, and all else there is to do, on tensors off the tape, numbers, and no attributes.
    """

    record: Callable[..., Any]
    record_plain: Callable[..., Any]


def recording_builtins(frontend: dict[str, type]) -> Recording | None:
    """The recorder's builtins. `frontend` has the classes Tensor, Storage and Imported."""
    if builtins() is None:
        return None
    classes = {"Trace": Trace, "Step": Step, **_classes, **frontend}
    try:
        module = _compiled(recording.recording_text(_offsets(classes, recording.SLOTS)), recording.API)
    except (RuntimeError, AttributeError, ValueError) as error:
        log.log("compile", f"recording stays in Python: {error}")
        return None
    held = {recording.DATA_CLASS: Data, recording.TENSOR_CLASS: frontend["Tensor"], recording.FALSE: False,
            recording.NO_ATTRIBUTES: (), recording.FLOAT: float, recording.INT: int, recording.BOOL: bool,
            recording.FLUSH_DUE: recorder.flush_due, recording.REWIND: recorder.rewind_here}
    state = _objects(held, recording.STATE_WORDS, frontend["Imported"])
    return Recording(*[_function(_MethodDef(name.encode(), module.address(name), METH_FASTCALL, None), (int(state.ctypes.data),))
                       for name in Recording._fields])


def flush_builtin(plan: type, flushes: dict[str, int], counters: dict[str, int],
                  listeners: tuple[Any, Any]) -> Callable[[str], Any] | None:
    """`flush(reason)`: the plan that ran, False, or None when Python has to do it (see `codegen/python_flush.py`).

    plan: the class of plans; `listeners` are containers: while one is not empty, Python does it.
    """
    if builtins() is None:
        return None
    classes = {"Trace": Trace, "Step": Step, "Plan": plan, **_classes}
    try:
        module = _compiled(flushing.flush_text(_offsets(classes, flushing.SLOTS)), flushing.API)
    except (RuntimeError, AttributeError, ValueError) as error:
        log.log("compile", f"flushes stay in Python: {error}")
        return None
    held = {flushing.ROOTS: recorder._ROOTS, flushing.DEFAULTS: dtypes._default, flushing.FLUSHES: flushes, flushing.COUNTERS: counters,
            flushing.RECORDED: recorder.counters, flushing.RUNS_KEY: "compiled_runs", flushing.OPS_KEY: "ops_recorded",
            flushing.FALSE: False, flushing.OBSERVERS: listeners[0], flushing.CHANNELS: listeners[1],
            flushing.STEADY: recorder.STEADY, flushing.NOUGHT: 0, flushing.UNIT: 1, flushing.MAX_STEPS: recorder.MAX_STEPS}
    state = _objects(held, flushing.STATE_WORDS)
    definition = _MethodDef(b"flush", module.address("flush"), METH_FASTCALL, None)
    made: Callable[[str], Any] = _function(definition, (int(state.ctypes.data),))
    return made


def _offsets(classes: dict[str, type], slots: dict[str, tuple[str, ...]]) -> dict[tuple[str, str], int]:
    return {(cls, name): _offset(classes[cls], name) for cls, names in slots.items() for name in names}


def _compiled(text: str, api: Sequence[str]) -> CompiledModule:
    """Machine code that calls these functions of the C API besides those of all builtins; it is never given back."""
    for name in api:
        llvm.add_symbol(name, _address(getattr(ctypes.pythonapi, name)))
    module = compile_text(text)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))
    return module


_classes: dict[str, type] = {"Data": Data, "Buffer": memory.Buffer, "ThreadState": ThreadState}


def _objects(held: dict[int, Any], words: int, imported: Any = None) -> np.ndarray:
    """The state of a builtin: addresses of objects, which stay."""
    state = np.full(words, -1, np.int64)
    held |= {objects.HERE: None, objects.LOCAL: STATE, objects.NAME: sys.intern("here"), objects.NONE: None,
             objects.IMPORTED: imported, objects.CHAIN: sys.intern("_chain")}
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(None))  # the builtin lets go of what HERE holds
    for word, thing in held.items():
        state[word] = id(thing)
    _immortal.extend([state, held])
    return state


def replay_builtin(frontend: dict[str, type], read: Callable[..., Any], slow: Callable[..., Any]) -> tuple[Any, int] | None:
    """The `__call__` of compiled functions as a builtin, and the address of its state (see `codegen/python_replay.py`).

    frontend: the classes Tensor, Storage, Imported and CompiledFunction; `read(tensor)`: its value; `slow(self, ...)`: the call in Python.
    """
    if builtins() is None:
        return None
    classes = {**_classes, **frontend}
    try:
        module = _compiled(replaying.replay_text(_offsets(classes, replaying.SLOTS)), replaying.API)
    except (RuntimeError, AttributeError, ValueError) as error:
        log.log("compile", f"compiled calls stay in Python: {error}")
        return None
    held = {replaying.DEFAULTS: dtypes._default, replaying.TENSOR_CLASS: frontend["Tensor"], replaying.DATA_CLASS: Data,
            replaying.FALSE: False, replaying.NOUGHT: 0, replaying.READ: read, replaying.SLOW: slow}
    state = _objects(held, replaying.STATE_WORDS, frontend["Imported"])
    definition = _MethodDef(b"__call__", module.address("replay"), METH_FASTCALL | METH_KEYWORDS, None)
    _immortal.append(definition)
    make = ctypes.pythonapi.PyDescr_NewMethod
    make.restype, make.argtypes = ctypes.py_object, [ctypes.py_object, ctypes.c_void_p]
    return make(frontend["CompiledFunction"], ctypes.addressof(definition)), int(state.ctypes.data)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _function(definition: _MethodDef, self: Any) -> Any:
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    _immortal.append(definition)
    return make(ctypes.addressof(definition), self, None)


_immortal: list[Any] = []  # what builtins point to


def _offset(cls: type, name: str) -> int:
    """Where a slot lies in the instances of `cls`."""
    descriptor = _MemberDescriptor.from_address(id(cls.__dict__[name]))
    member = descriptor.member.contents
    if member.name != name.encode() or not 0 < member.offset < 256:
        raise ValueError(f"slot {name} of {cls.__name__} was not found")
    return int(member.offset)


def _check_offsets(offsets: layout.Offsets) -> None:
    """Look at real objects through the offsets."""
    buffer = memory.Buffer(1 << 40, 4)
    data = computed(tensor_type((), float32), buffer)
    data.trace = trace = Trace()
    pairs = [(data, offsets.buffer, buffer), (data, offsets.trace, trace), (buffer, offsets.address, buffer.ptr)]
    for owner, offset, value in pairs:
        if ctypes.c_void_p.from_address(id(owner) + offset).value != id(value):
            raise ValueError("the slots of an object are not where its class says")


def _counts_references(live: Callable[[list[Any]], bytes]) -> bool:
    values = [computed(tensor_type((), float32), None) for _ in range(2)]
    kept = values[1]
    return live(values) == b"\0\1" and kept is values[1] and live([]) == b""


def _references_of_a_value(references: Callable[[Any], int]) -> int:
    """What `launch_data` sees of a value that only its tensor, a local variable of the caller and the call refer to."""
    class Holder:
        value = computed(tensor_type((), float32), None)

    def call(holder: Any) -> int:
        data = holder.value
        return references(data)
    return call(Holder)


def _make_state() -> np.ndarray:
    state = np.zeros(layout.STATE_WORDS, np.int64)
    for value in (memory.Buffer, memory.allocate, None):
        _immortal.append(value)
    state[layout.POOL] = layout.UNKNOWN
    state[layout.BUFFER_CLASS], state[layout.ALLOCATE], state[layout.NONE] = id(memory.Buffer), id(_immortal[-2]), id(None)
    for i in range(layout.MAX_SCRATCH):
        _immortal.append(threads.allocate_scratch())
        state[layout.SCRATCH + i] = _immortal[-1].ptr
    state[layout.FREE_SCRATCH] = layout.MAX_SCRATCH
    threads.listeners.append(lambda: state.__setitem__(layout.POOL, layout.UNKNOWN))
    return state


def know_pool() -> None:
    """Tell native launches where the thread pool is."""
    found = builtins()
    if found is not None and found.state[layout.POOL] == layout.UNKNOWN:
        found.state[layout.POOL] = threads.pool_pointer()


class Binding:
    """The table of one plan, and what it points to; builtins made from it keep it alive."""

    kept_by_all = 0

    def __init__(self, found: Builtins, segment: executor.Plan, error: int, sizes: list[int], inputs: int,
                 scalars: list[tuple[int, int]], numbers: int) -> None:
        """sizes: bytes of the arena (0: none) and of each output; scalars: (index of the number, code) for each of the frame."""
        self.segment, self.found, self.sizes = segment, found, sizes
        self.code: Any = None  # what has to live as long: the modules of the kernels
        self.stash: list[Any] = [None] * len(sizes)
        self.kept = 0
        self.table = np.zeros(layout.BINDING_WORDS, np.int64)
        self.arrays: dict[int, np.ndarray] = {}
        self._point(layout.CODES, [x for pair in scalars for x in pair])
        self._point(layout.KEEP, [self._may_keep(n) for n in sizes])
        self._point(layout.SIZES, [id(n) for n in sizes])
        self._point(layout.GATHERED, [0] * (inputs + numbers))
        self._point(layout.GIVEN, [0] * len(sizes))
        table = self.table
        table[layout.HEADER], table[layout.FRAME] = segment.address, segment.own_frame(error)
        table[layout.INPUTS], table[layout.NUMBERS], table[layout.OUTPUTS] = inputs, numbers, len(sizes) - 1
        table[layout.SCALARS], table[layout.STASH], table[layout.STATE] = len(scalars), id(self.stash), found.state.ctypes.data
        table[layout.PARALLEL], table[layout.ARENA] = segment.parallel, sizes[0] > 0
        table[layout.RUN] = native_executor().run_plan_address
        _bindings.add(self)

    def _point(self, word: int, content: list[int]) -> None:
        """A table of its own, at least one word long."""
        self.arrays[word] = np.array([*content, 0], np.int64)
        self.table[word] = self.arrays[word].ctypes.data

    def _may_keep(self, nbytes: int) -> bool:
        if nbytes > KEEP_BYTES or Binding.kept_by_all + nbytes > KEEP_ALL_BYTES:
            return False
        self.kept += nbytes
        Binding.kept_by_all += nbytes
        return True

    def __del__(self) -> None:
        Binding.kept_by_all -= getattr(self, "kept", 0)

    def launch(self) -> Callable[..., tuple[memory.Buffer, ...] | None]:
        """`launch(*buffers, *numbers)`: the outputs; None when it has to be done from Python."""
        made: Callable[..., tuple[memory.Buffer, ...] | None] = _function(self.found.launch, (int(self.table.ctypes.data), self))
        return made

    def launch_values(self, inputs: list[int], outputs: list[int], donors: list[int]) -> Callable[[list[Data], list[Any]], bool | None]:
        """`launch_values(values, numbers)`, with inputs and outputs at these places of a trace's values; None as above.

        donors: for each output the input whose memory it may be written into when nothing else refers to that, or -1.
        """
        self._point(layout.INPUT_SLOTS, inputs)
        self._point(layout.OUTPUT_SLOTS, outputs)
        return self.launch_over(donors, {})

    def launch_over(self, donors: list[int], held: dict[int, int]) -> Callable[[list[Data], list[Any]], bool | None]:
        """`launch_values` with the places it was last given, and donors to which so many references are the call's own (1 by default)."""
        rows = [(d, held.get(d, 1)) for d in donors]
        made: Callable[[list[Data], list[Any]], bool | None] = self._builtin(self.found.launch_values, rows)
        return made

    def launch_data(self, donors: list[int], holders: dict[int, int]) -> Callable[..., tuple[memory.Buffer, ...] | None]:
        """`launch_data(*values, *numbers)`: like `launch`, with donors as above; an input has so many holders besides the caller."""
        rows = [(d, self.found.held - 1 + holders.get(d, 1)) for d in donors]
        made: Callable[..., tuple[memory.Buffer, ...] | None] = self._builtin(self.found.launch_data, rows)
        return made

    def _builtin(self, definition: _MethodDef, donors: list[tuple[int, int]]) -> Any:
        table = np.array([*donors, (-1, 0)], np.int64)
        return _function(definition, (int(self.table.ctypes.data), int(table.ctypes.data), self, table))


_bindings: weakref.WeakSet[Binding] = weakref.WeakSet()


def _after_fork() -> None:
    """A run that another thread had begun does not exist in the child."""
    for binding in list(_bindings):
        binding.table[layout.BUSY] = 0


os.register_at_fork(after_in_child=_after_fork)
