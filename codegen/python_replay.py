"""Compiled calls in machine code: guards, launch and results of a replay that is a function of its arguments.

The builtin is the `__call__` of compiled functions (`METH_FASTCALL | METH_KEYWORDS`, as a method descriptor), built like the ones of
`codegen/python_calls.py`, whose assumptions and launching code it shares. A compiled function's slot `_shortcut` is a tuple whose
first item is the address of a table, named below; whatever that table does not foresee is left to the Python `__call__`.
"""
from __future__ import annotations

from treadle.codegen import python_calls as calls
from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.python_objects import API as SHARED_API
from treadle.codegen.python_objects import FIRST_WORD, NONE, NULL, VALUE_SLOTS, ZERO, ObjectEmitter, Offsets, emit_value_of

# Table of a shortcut (i64 each): the plan's binding; the modes it holds for; how often it was taken; counts; addresses of tables; the
# state of the process.
(BINDING, GRAD, INFERENCE, AUTOCAST, DEFAULT, HITS, ARGUMENTS, CLASSES, TYPES, GUARD_COUNT, GUARDS, NUMBER_COUNT, NUMBERS, INPUTS,
 RESULT_COUNT, RESULTS, SINGLE, STATE) = range(18)
SHORTCUT_WORDS = 18
MAX_ARGUMENTS = 16
# GUARDS: (kind, container, key, expected); NUMBERS: (kind, container or argument or object, key, class); RESULTS: (output, type);
# INPUTS: which argument each input of the plan is; CLASSES, TYPES: of each argument, no type for numbers.
IN_DICT, IN_CELL, CLASS_IN_DICT, ARGUMENT, CONSTANT = range(5)
# State of the process, after what all builtins have.
DEFAULTS, TENSOR_CLASS, DATA_CLASS, FALSE, NOUGHT, READ, SLOW = range(FIRST_WORD, FIRST_WORD + 7)
STATE_WORDS = FIRST_WORD + 7

SLOTS = {**VALUE_SLOTS, "ThreadState": ("autocast", "capture", "eager", "grad", "inference"), "CompiledFunction": ("_shortcut",)}
API = (*SHARED_API, "PyDict_GetItemWithError", "PyCell_Get", "PyObject_Vectorcall",
       "PyType_GenericAlloc")


def replay_text(offsets: Offsets) -> str:
    """LLVM text of `replay`."""
    module = Module()
    calls.emit_running(module, calls.Offsets(offsets["Data", "buffer"], offsets["Data", "trace"], offsets["Buffer", "ptr"]))
    emit_value_of(module, offsets)
    _Replay(module, offsets).emit()
    return module.text()


class _Replay(ObjectEmitter):
    """Emits the function, a stage at a time."""

    def __init__(self, module: Module, offsets: Offsets) -> None:
        self.me, self.args, self.count, self.names = Val("ptr", "%self"), Val("ptr", "%args"), Val("i64", "%count"), Val("ptr", "%names")
        super().__init__(Function(module, "replay", [self.me, self.args, self.count, self.names], ret="ptr"), offsets)
        f = self.f
        f.allocas += [f"  %held = alloca [{MAX_ARGUMENTS} x ptr]", f"  %buffers = alloca [{MAX_ARGUMENTS} x ptr]",
                      f"  %numbers = alloca [{MAX_ARGUMENTS} x ptr]"]
        self.held = f.variable(ZERO)  # how many values of arguments are ours to let go

    def emit(self) -> None:
        f = self.f
        owner = self.slot(self.me, "CompiledFunction", "_shortcut")
        self.table = f.call("PyLong_AsVoidPtr", "ptr", f.call("PyTuple_GetItem", "ptr", owner, ZERO))
        self.state = self._entry(STATE)
        self.unless(f.op(f"icmp eq {self.names}, null", "i1"), self.slow)
        arguments = self._entry(ARGUMENTS, "i64")
        self.unless(f.compare("eq", self.count, arguments), self.slow)
        self._check_modes()
        self._check_arguments(arguments)
        self._check_guards()
        self._gather_numbers()
        f.call_void("Py_IncRef", owner)  # another thread may take the shortcut away meanwhile
        self._fetch(arguments)
        status = self._launch()
        self._let_go()
        done, other = f.label("done"), f.label("other")
        f.branch_if(f.compare("eq", status, ZERO), done, other)
        f.start(other)
        f.call_void("Py_DecRef", owner)
        f.branch_if(f.compare("eq", status, const("i64", calls.RAISED)), self.failed, self.slow)
        f.start(done)
        result = self._results()
        hits = f.gep(self.table, HITS, "i64")
        f.store(f.add(f.load(hits, "i64"), 1), hits)
        f.call_void("Py_DecRef", owner)
        f.line(f"ret {result}")
        self._leave()

    # -- guards --------------------------------------------------------------------------------------------------------
    def _check_modes(self) -> None:
        """Grad mode, autocast and default dtype are the captured ones, and the thread records nothing else."""
        f = self.f
        here = self.here(self.state)
        none = self._state(NONE)
        for name, expected in (("capture", none), ("eager", self._state(FALSE)), ("grad", self._entry(GRAD)),
                               ("inference", self._entry(INFERENCE)), ("autocast", self._entry(AUTOCAST))):
            self.unless(self.same(self.slot(here, "ThreadState", name), expected), self.slow)
        default = f.call("PyList_GetItem", "ptr", self._state(DEFAULTS), ZERO)
        self.unless(self.same(default, self._entry(DEFAULT)), self.slow)

    def _check_arguments(self, arguments: Val) -> None:
        """Plain tensors of the captured types that need no gradient, or numbers of the captured classes."""
        f = self.f
        classes, types = self._entry(CLASSES), self._entry(TYPES)
        with f.loop(ZERO, arguments) as loop:
            x = self.word(self.args, loop.index)
            self.unless(self.same(self.word(x, 1), self.word(classes, loop.index)), self.slow)
            expected = self.word(types, loop.index)
            with f.if_(self.exists(expected)):
                self.unless(self.same(self.slot(self.slot(x, "Tensor", "_data"), "Data", "type"), expected), self.slow)
                self.unless(self.same(self.slot(x, "Tensor", "_edge"), self._state(NONE)), self.slow)

    def _check_guards(self) -> None:
        """What the function read from its globals and its closure is what it was."""
        f = self.f
        guards = self._entry(GUARDS)
        with f.loop(ZERO, self._entry(GUARD_COUNT, "i64")) as loop:
            row = f.gep(guards, f.mul(loop.index, 4), "i64")
            cell, table, on = f.label("cell"), f.label("dict"), f.label("held")
            kind = f.load(row, "i64")
            f.branch_if(f.compare("eq", kind, const("i64", IN_CELL)), cell, table)
            f.start(cell)
            found = f.call("PyCell_Get", "ptr", self.word(row, 1))
            self.unless(self.exists(found), self.slow)
            f.call_void("Py_DecRef", found)  # the cell still has it
            self.unless(self.same(found, self.word(row, 3)), self.slow)
            f.branch(on)
            f.start(table)
            found = f.call("PyDict_GetItemWithError", "ptr", self.word(row, 1), self.word(row, 2))
            self.unless(self.exists(found), self.slow)
            of_class = f.compare("eq", kind, const("i64", CLASS_IN_DICT))
            self.unless(self.same(f.select(of_class, self.word(found, 1), found), self.word(row, 3)), self.slow)
            f.branch(on)
            f.start(on)

    def _gather_numbers(self) -> None:
        f = self.f
        rows = self._entry(NUMBERS)
        with f.loop(ZERO, self._entry(NUMBER_COUNT, "i64")) as loop:
            row = f.gep(rows, f.mul(loop.index, 4), "i64")
            place = f.gep(Val("ptr", "%numbers"), loop.index, "ptr")
            kind = f.load(row, "i64")
            argument, elsewhere, in_dict, fixed, on = (f.label(n) for n in ("argument", "elsewhere", "in_dict", "fixed", "number"))
            f.branch_if(f.compare("eq", kind, const("i64", ARGUMENT)), argument, elsewhere)
            f.start(argument)
            f.store(self.word(self.args, f.load(f.gep(row, 1, "i64"), "i64")), place)
            f.branch(on)
            f.start(elsewhere)
            f.branch_if(f.compare("eq", kind, const("i64", CONSTANT)), fixed, in_dict)
            f.start(fixed)
            f.store(self.word(row, 1), place)
            f.branch(on)
            f.start(in_dict)
            found = f.call("PyDict_GetItemWithError", "ptr", self.word(row, 1), self.word(row, 2))
            self.unless(self.exists(found), self.slow)
            f.store(found, place)
            f.branch(on)
            f.start(on)
            self.unless(self.same(self.word(f.load(place, "ptr"), 1), self.word(row, 3)), self.slow)

    # -- running -------------------------------------------------------------------------------------------------------
    def _fetch(self, arguments: Val) -> None:
        """The values of the tensors, ours to hold while other threads may replace them."""
        f = self.f
        types = self._entry(TYPES)
        with f.loop(ZERO, arguments) as loop:
            x, mine = self.word(self.args, loop.index), f.variable(NULL)
            f.store(NULL, mine)
            with f.if_(self.exists(self.word(types, loop.index))):
                plain, derived, on = f.label("plain"), f.label("derived"), f.label("value")
                data = f.op(f"call ptr @value_of({x}, {self.state})", "ptr")
                f.branch_if(self.exists(data), plain, derived)
                f.start(plain)
                f.store(self.owned(data), mine)
                f.branch(on)
                f.start(derived)
                f.store(f.call("PyObject_CallOneArg", "ptr", self._state(READ), x), mine)
                f.branch(on)
                f.start(on)
            f.store(f.load(mine, "ptr"), f.gep(Val("ptr", "%held"), loop.index, "ptr"))
            f.store(f.add(loop.index, 1), self.held)

    def _launch(self) -> Val:
        """DONE with the plan kept busy, SLOW or RAISED."""
        f = self.f
        binding = self._entry(BINDING)
        status, away = f.variable(const("i64", calls.SLOW)), f.label("away")
        f.store(const("i64", calls.SLOW), status)
        inputs = self._entry(INPUTS)
        with f.loop(ZERO, self.word(binding, calls.INPUTS, "i64")) as loop:
            data = f.load(f.gep(Val("ptr", "%held"), self.word(inputs, loop.index, "i64"), "ptr"), "ptr")
            there = f.label("there")
            f.branch_if(self.exists(data), there, away)
            f.start(there)
            buffer = self.slot(data, "Data", "buffer")
            self.unless(self.differs(buffer, self._state(NONE)), away)
            f.store(buffer, f.gep(Val("ptr", "%buffers"), loop.index, "ptr"))
        self._nothing_given(binding)
        f.store(f.op(f"call i64 @run({binding}, ptr %buffers, ptr %numbers)", "i64"), status)
        f.branch(away)
        f.start(away)
        return f.load(status, "i64")

    def _nothing_given(self, binding: Val) -> None:
        """No output is written over an argument."""
        f = self.f
        idle = f.compare("eq", self.word(binding, calls.BUSY, "i64"), ZERO)
        with f.if_(idle), f.loop(ZERO, self.word(binding, calls.OUTPUTS, "i64")) as loop:
            f.store(ZERO, f.gep(self.word(binding, calls.GIVEN), f.add(loop.index, 1), "i64"))

    def _let_go(self) -> None:
        f = self.f
        with f.loop(ZERO, f.load(self.held, "i64")) as loop:
            f.call_void("Py_DecRef", f.load(f.gep(Val("ptr", "%held"), loop.index, "ptr"), "ptr"))

    # -- results -------------------------------------------------------------------------------------------------------
    def _results(self) -> Val:
        """One tensor, or a tuple of them."""
        f = self.f
        binding, rows, count = self._entry(BINDING), self._entry(RESULTS), self._entry(RESULT_COUNT, "i64")
        state = self.word(binding, calls.STATE)
        result, several, one, on = f.variable(NULL), f.label("several"), f.label("one"), f.label("made")
        f.branch_if(f.compare("ne", self._entry(SINGLE, "i64"), ZERO), one, several)
        f.start(one)
        f.store(self._tensor(binding, state, rows), result)
        f.branch(on)
        f.start(several)
        made = f.call("PyTuple_New", "ptr", count)
        f.store(made, result)
        with f.if_(self.exists(made)), f.loop(ZERO, count) as loop:
            tensor = self._tensor(binding, state, f.gep(rows, f.mul(loop.index, 2), "i64"))
            f.call("PyTuple_SetItem", "i32", made, loop.index, tensor)
        f.branch(on)
        f.start(on)
        calls.end_run(f, binding, state)
        return f.load(result, "ptr")

    def _tensor(self, binding: Val, state: Val, row: Val) -> Val:
        """A tensor of one output; null when there is no memory for it."""
        f = self.f
        buffer = calls.hand_out(f, binding, state, f.load(row, "i64"))
        data = f.call("PyType_GenericAlloc", "ptr", self._state(DATA_CLASS), ZERO)
        tensor = f.call("PyType_GenericAlloc", "ptr", self._state(TENSOR_CLASS), ZERO)
        lost = f.op(f"or {f.op(f'icmp eq {data}, null', 'i1')}, {f.op(f'icmp eq {tensor}, null', 'i1').name}", "i1")
        with f.if_(lost):
            f.line(f"store i64 0, {f.gep(binding, calls.BUSY, 'i64')}")
            f.line("ret ptr null")
            f.start(f.label("unreachable"))
        self.put(data, "Data", "buffer", buffer)
        for name, content in (("type", self.word(row, 1)), ("trace", self._state(NONE)), ("slot", self._state(NOUGHT)),
                              ("stale", self._state(FALSE))):
            self.put(data, "Data", name, self.owned(content))
        self.put(tensor, "Tensor", "_data", data)
        for name in ("_edge", "_storage"):
            self.put(tensor, "Tensor", name, self.owned(self._state(NONE)))
        return tensor

    # -- plumbing ------------------------------------------------------------------------------------------------------
    def _leave(self) -> None:
        """What is not foreseen: `SLOW(self, *args, **kwargs)`."""
        f = self.f
        f.start(self.slow)
        f.call_void("PyErr_Clear")
        given = f.variable(self.count)
        f.store(self.count, given)
        with f.if_(self.exists(self.names)):
            f.store(f.add(self.count, f.call("PyTuple_Size", "i64", self.names)), given)
        total = f.load(given, "i64")
        row = f.op(f"alloca ptr, {f.add(total, 1)}", "ptr")
        f.store(self.me, row)
        with f.loop(ZERO, total) as loop:
            f.store(self.word(self.args, loop.index), f.gep(row, f.add(loop.index, 1), "ptr"))
        f.line(f"ret {f.call('PyObject_Vectorcall', 'ptr', self._state(SLOW), row, f.add(self.count, 1), self.names)}")
        f.start(self.failed)
        f.line("ret ptr null")
        f.finish()

    def _state(self, word: int) -> Val:
        return self.word(self.state, word)

    def _entry(self, word: int, ty: str = "ptr") -> Val:
        return self.word(self.table, word, ty)
