"""Python functions in machine code: what launches a plan from Python objects.

Built for `METH_FASTCALL`: `ptr function(ptr self, ptr arguments, i64 count)`. They use the C API, the offsets of three slots (found
out from the classes themselves) and, of CPython's layouts, only that an object starts with its reference count and its class.

A binding, the table of one plan (all fields i64), is named below. `self` is a tuple whose first item is the binding's address.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from treadle.codegen.llvm_text import Function, Module, Val, const

# Binding. STASH is a list: the arena or None, then one buffer per output. CODES has (index of the number, code) per scalar of the
# frame; SIZES, KEEP and GIVEN have a size (a Python int) and two flags per item of the stash (GIVEN: it is an input's memory, to be
# written over); slots say where in a trace's values tensors are.
(HEADER, FRAME, BUSY, INPUTS, NUMBERS, OUTPUTS, SCALARS, STASH, PARALLEL, ARENA, STATE, RUN, CODES, SIZES, KEEP, INPUT_SLOTS,
 OUTPUT_SLOTS, GATHERED, BRIEF, GIVEN) = range(20)
BINDING_WORDS = 20
# State of the process: the pool (or UNKNOWN), the class of buffers, the function that allocates one, None, and a stack of scratch memory.
POOL, BUFFER_CLASS, ALLOCATE, NONE, FREE_SCRATCH, SCRATCH = range(6)
MAX_SCRATCH = 8
UNKNOWN = -1
STATE_WORDS = SCRATCH + MAX_SCRATCH
# How a number becomes the 64 bits of a scalar.
DOUBLE, SINGLE, INTEGER, TRUTH = range(4)
# The frame of a plan (see `codegen/executor.py`): pool, scratch, error cell, arena, inputs, outputs, scalars.
FRAME_POOL, FRAME_SCRATCH, FRAME_ARENA, FRAME_FIRST = 0, 1, 3, 4
DONE, SLOW, RAISED = 0, 1, 2

ZERO, ONE = const("i64", 0), const("i64", 1)
NULL = Val("ptr", "null")


class Offsets(NamedTuple):
    """Where slots lie in instances, in bytes: of a value its buffer and its trace, of a buffer its address."""

    buffer: int
    trace: int
    address: int
    owner: int = 0


def launch_text(offsets: Offsets) -> str:
    """LLVM text of `launch`, `launch_values`, `live` and `same_bytes`."""
    module = Module()
    emit_running(module, offsets)
    _emit_binding_of(module)
    _emit_launch(module)
    _emit_give(module, offsets)
    _emit_launch_values(module, offsets)
    _emit_launch_data(module, offsets)
    _emit_references(module)
    _emit_live(module)
    _emit_same_bytes(module)
    return module.text()


def emit_running(module: Module, offsets: Offsets) -> None:
    """`run`, and what it needs."""
    _emit_address(module, offsets)
    _emit_number(module)
    _emit_stash(module)
    _emit_fill(module)
    _emit_run(module)


def _word(f: Function, base: Val, index: int | Val, ty: str = "i64") -> Val:
    return f.load(f.gep(base, index, "i64"), ty)


def _put(f: Function, value: Val, base: Val, index: int | Val) -> None:
    f.store(value, f.gep(base, index, "i64"))


def _return_if(f: Function, c: Val, status: int | Val) -> None:
    """Leave with `status` when `c` holds."""
    leave, go_on = f.label("leave"), f.label("on")
    f.branch_if(c, leave, go_on)
    f.start(leave)
    f.line(f"ret {status if isinstance(status, Val) else const('i64', status)}")
    f.start(go_on)


def _is_null(f: Function, p: Val) -> Val:
    return f.op(f"icmp eq {p}, null", "i1")


def _emit_address(module: Module, offsets: Offsets) -> None:
    """`i64 address_of(ptr object, ptr state)`: where a Buffer's memory is; -1 for another object."""
    thing, state = Val("ptr", "%object"), Val("ptr", "%state")
    f = Function(module, "address_of", [thing, state], ret="i64", linkage="internal")
    same = f.op(f"icmp eq {_word(f, thing, 1, 'ptr')}, {_word(f, state, BUFFER_CLASS, 'ptr').name}", "i1")
    _return_if(f, f.op(f"xor {same}, true", "i1"), -1)
    number = f.load(f.gep(thing, offsets.address, "i8"), "ptr")
    f.line(f"ret {f.cast('ptrtoint', f.call('PyLong_AsVoidPtr', 'ptr', number), 'i64')}")
    f.finish()


def _emit_number(module: Module) -> None:
    """`i64 number_bits(ptr object, i64 code)`: the scalar's bits; what Python cannot convert leaves an exception set."""
    thing, code = Val("ptr", "%object"), Val("i64", "%code")
    f = Function(module, "number_bits", [thing, code], ret="i64", linkage="internal")
    whole, truth, real, single, double = (f.label(x) for x in ("whole", "truth", "real", "single", "double"))
    f.line(f"switch {code}, label %{real} [ i64 {INTEGER}, label %{whole} i64 {TRUTH}, label %{truth} ]")
    f.start(whole)
    f.line(f"ret {f.call('PyLong_AsUnsignedLongLongMask', 'i64', thing)}")
    f.start(truth)
    f.line(f"ret {f.cast('sext', f.call('PyObject_IsTrue', 'i32', thing), 'i64')}")
    f.start(real)
    value = f.call("PyFloat_AsDouble", "double", thing)
    f.branch_if(f.compare("eq", code, const("i64", SINGLE)), single, double)
    f.start(single)
    low = f.cast("bitcast", f.cast("fptrunc", value, "float"), "i32")
    f.line(f"ret {f.cast('zext', low, 'i64')}")
    f.start(double)
    f.line(f"ret {f.cast('bitcast', value, 'i64')}")
    f.finish()


def _emit_stash(module: Module) -> None:
    """`i64 prepare_outputs(ptr binding)`: every output (and the arena) gets a buffer nobody else holds, and its place in the frame.

    The buffer of the last run is used again when only the stash still refers to it.
    """
    binding = Val("ptr", "%binding")
    f = Function(module, "prepare_outputs", [binding], ret="i64", linkage="internal")
    state, stash, frame = (_word(f, binding, i, "ptr") for i in (STATE, STASH, FRAME))
    sizes, inputs = _word(f, binding, SIZES, "ptr"), _word(f, binding, INPUTS)
    first = f.sub(ONE, _word(f, binding, ARENA))
    with f.loop(first, f.add(_word(f, binding, OUTPUTS), 1)) as loop:
        k = loop.index
        held = f.call("PyList_GetItem", "ptr", stash, k)
        _return_if(f, _is_null(f, held), RAISED)
        given = f.gep(_word(f, binding, GIVEN, "ptr"), k, "i64")
        ours = f.compare("ne", f.load(given, "i64"), ZERO)
        f.store(ZERO, given)
        with f.if_(f.op(f"and {f.compare('ne', f.load(held, 'i64'), ONE)}, {f.op(f'xor {ours}, true', 'i1').name}", "i1")):
            made = f.call("PyObject_CallOneArg", "ptr", _word(f, state, ALLOCATE, "ptr"), _word(f, sizes, k, "ptr"))
            _return_if(f, _is_null(f, made), RAISED)
            f.call("PyList_SetItem", "i32", stash, k, made)
        address = f.op(f"call i64 @address_of({f.call('PyList_GetItem', 'ptr', stash, k)}, {state})", "i64")
        place = f.select(f.compare("eq", k, ZERO), const("i64", FRAME_ARENA), f.add(f.add(k, inputs), FRAME_FIRST - 1))
        _put(f, address, frame, place)
    f.line(f"ret i64 {DONE}")
    f.finish()


def _emit_fill(module: Module) -> None:
    """`i64 fill(ptr binding, ptr buffers, ptr numbers)`: inputs and scalars into the frame."""
    binding, buffers, numbers = Val("ptr", "%binding"), Val("ptr", "%buffers"), Val("ptr", "%numbers")
    f = Function(module, "fill", [binding, buffers, numbers], ret="i64", linkage="internal")
    state, frame, codes = (_word(f, binding, i, "ptr") for i in (STATE, FRAME, CODES))
    inputs = _word(f, binding, INPUTS)
    with f.loop(ZERO, inputs) as loop:
        address = f.op(f"call i64 @address_of({_word(f, buffers, loop.index, 'ptr')}, {state})", "i64")
        _return_if(f, f.compare("eq", address, const("i64", -1)), SLOW)
        _put(f, address, frame, f.add(loop.index, FRAME_FIRST))
    first = f.add(f.add(inputs, _word(f, binding, OUTPUTS)), FRAME_FIRST)
    count = _word(f, binding, SCALARS)
    with f.loop(ZERO, count) as loop:
        pair = f.gep(codes, f.mul(loop.index, 2), "i64")
        bits = f.op(f"call i64 @number_bits({_word(f, numbers, _word(f, pair, 0), 'ptr')}, {_word(f, pair, 1)})", "i64")
        _put(f, bits, frame, f.add(loop.index, first))
    with f.if_(f.compare("ne", count, ZERO)):
        odd = f.op(f"icmp ne {f.call('PyErr_Occurred', 'ptr')}, null", "i1")
        with f.if_(odd):
            f.call_void("PyErr_Clear")
            f.line(f"ret i64 {SLOW}")
            f.start(f.label("unreachable"))
    f.line(f"ret i64 {DONE}")
    f.finish()


def _emit_run(module: Module) -> None:
    """`i64 run(ptr binding, ptr buffers, ptr numbers)`: fill in and run without the GIL.

    On DONE the plan stays busy until the caller has handed out the outputs, else it is free again. SLOW: it is in use, a kernel found
    a fault, or something needs Python's care.
    """
    binding, buffers, numbers = Val("ptr", "%binding"), Val("ptr", "%buffers"), Val("ptr", "%numbers")
    f = Function(module, "run", [binding, buffers, numbers], ret="i64", linkage="internal")
    state, frame = _word(f, binding, STATE, "ptr"), _word(f, binding, FRAME, "ptr")
    parallel, pool = f.compare("ne", _word(f, binding, PARALLEL), ZERO), _word(f, state, POOL)
    _return_if(f, f.compare("ne", _word(f, binding, BUSY), ZERO), SLOW)
    unknown = f.op(f"and {parallel}, {f.compare('eq', pool, const('i64', UNKNOWN)).name}", "i1")
    _return_if(f, unknown, SLOW)
    _put(f, ONE, binding, BUSY)
    for step in ("@prepare_outputs(ptr %binding)", "@fill(ptr %binding, ptr %buffers, ptr %numbers)"):
        status = f.op(f"call i64 {step}", "i64")
        with f.if_(f.compare("ne", status, ZERO)):
            _put(f, ZERO, binding, BUSY)
        _return_if(f, f.compare("ne", status, ZERO), status)
    free = _word(f, state, FREE_SCRATCH)
    with f.if_(f.compare("eq", free, ZERO)):
        _put(f, ZERO, binding, BUSY)
    _return_if(f, f.compare("eq", free, ZERO), SLOW)
    top = f.sub(free, 1)
    scratch = _word(f, state, f.add(top, SCRATCH))
    _put(f, top, state, FREE_SCRATCH)
    _put(f, scratch, frame, FRAME_SCRATCH)
    _put(f, f.select(parallel, pool, ZERO), frame, FRAME_POOL)
    failed = _run_plan(f, binding)
    free = _word(f, state, FREE_SCRATCH)
    _put(f, scratch, state, f.add(free, SCRATCH))
    _put(f, f.add(free, 1), state, FREE_SCRATCH)
    with f.if_(f.compare("ne", failed, ZERO)):
        _put(f, ZERO, binding, BUSY)
    _return_if(f, f.compare("ne", failed, ZERO), SLOW)
    f.line(f"ret i64 {DONE}")
    f.finish()


def _run_plan(f: Function, binding: Val) -> Val:
    """Whether a kernel found a fault. Other Python threads go on meanwhile, unless the plan is BRIEF, as short as letting go of the GIL."""
    code, header = _word(f, binding, RUN, "ptr"), _word(f, binding, HEADER, "ptr")
    brief, long, done, failed = f.label("brief"), f.label("long"), f.label("ended"), f.variable(ZERO)
    f.branch_if(f.compare("ne", _word(f, binding, BRIEF), ZERO), brief, long)
    f.start(brief)
    f.store(f.op(f"call i64 {code.name}({header})", "i64"), failed)
    f.branch(done)
    f.start(long)
    thread = f.call("PyEval_SaveThread", "ptr")
    f.store(f.op(f"call i64 {code.name}({header})", "i64"), failed)
    f.call_void("PyEval_RestoreThread", thread)
    f.branch(done)
    f.start(done)
    return f.load(failed, "i64")


def _emit_binding_of(module: Module) -> None:
    self = Val("ptr", "%self")
    f = Function(module, "binding_of", [self], ret="ptr", linkage="internal")
    f.line(f"ret {f.call('PyLong_AsVoidPtr', 'ptr', f.call('PyTuple_GetItem', 'ptr', self, ZERO))}")
    f.finish()


def _begin(module: Module, name: str) -> tuple[Function, Val, Val]:
    f = Function(module, name, [Val("ptr", "%self"), Val("ptr", "%args"), Val("i64", "%count")], ret="ptr")
    binding = f.op("call ptr @binding_of(ptr %self)", "ptr")
    return f, binding, _word(f, binding, STATE, "ptr")


def _return_none_if(f: Function, c: Val, state: Val) -> None:
    leave, go_on = f.label("leave"), f.label("on")
    f.branch_if(c, leave, go_on)
    f.start(leave)
    none = _word(f, state, NONE, "ptr")
    f.call_void("Py_IncRef", none)
    f.line(f"ret {none}")
    f.start(go_on)


def _run_or_return(f: Function, binding: Val, state: Val, buffers: Val, numbers: Val) -> None:
    status = f.op(f"call i64 @run({binding}, {buffers}, {numbers})", "i64")
    raised, go_on = f.label("raised"), f.label("ran")
    f.branch_if(f.compare("eq", status, const("i64", RAISED)), raised, go_on)
    f.start(raised)
    f.line("ret ptr null")
    f.start(go_on)
    with f.if_(f.compare("ne", status, ZERO)):
        _forget_given(f, binding, state)
    _return_none_if(f, f.compare("ne", status, ZERO), state)


def _forget_given(f: Function, binding: Val, state: Val) -> None:
    """After a run that did not happen the stash keeps no large memory, its own or an input's."""
    stash, keep = _word(f, binding, STASH, "ptr"), _word(f, binding, KEEP, "ptr")
    with f.loop(ONE, f.add(_word(f, binding, OUTPUTS), 1)) as loop, f.if_(f.compare("eq", _word(f, keep, loop.index), ZERO)):
        _drop(f, stash, loop.index, state)


def hand_out(f: Function, binding: Val, state: Val, k: Val) -> Val:
    """A new reference to output `k`; large ones leave the stash."""
    stash, keep = _word(f, binding, STASH, "ptr"), _word(f, binding, KEEP, "ptr")
    place = f.add(k, 1)
    buffer = f.call("PyList_GetItem", "ptr", stash, place)
    f.call_void("Py_IncRef", buffer)
    with f.if_(f.compare("eq", _word(f, keep, place), ZERO)):
        _drop(f, stash, place, state)
    return buffer


def _drop(f: Function, stash: Val, place: Val, state: Val) -> None:
    none = _word(f, state, NONE, "ptr")
    f.call_void("Py_IncRef", none)
    f.call("PyList_SetItem", "i32", stash, place, none)


def end_run(f: Function, binding: Val, state: Val) -> None:
    """Give a large arena back and let the next run in."""
    keep = _word(f, binding, KEEP, "ptr")
    with f.if_(f.compare("ugt", _word(f, binding, ARENA), _word(f, keep, 0))):
        _drop(f, _word(f, binding, STASH, "ptr"), ZERO, state)
    _put(f, ZERO, binding, BUSY)


def _emit_launch(module: Module) -> None:
    """`launch(*buffers, *numbers)`: a tuple of the outputs, or None for SLOW."""
    f, binding, state = _begin(module, "launch")
    inputs = _word(f, binding, INPUTS)
    expected = f.add(inputs, _word(f, binding, NUMBERS))
    _return_none_if(f, f.compare("ne", Val("i64", "%count"), expected), state)
    _return_none_if(f, f.compare("ne", _word(f, binding, BUSY), ZERO), state)
    with f.loop(ZERO, _word(f, binding, OUTPUTS)) as loop:
        _put(f, ZERO, _word(f, binding, GIVEN, "ptr"), f.add(loop.index, 1))
    args = Val("ptr", "%args")
    _run_or_return(f, binding, state, args, f.gep(args, inputs, "i64"))
    _return_outputs(f, binding, state)


def _return_outputs(f: Function, binding: Val, state: Val) -> None:
    outputs = _word(f, binding, OUTPUTS)
    made = f.call("PyTuple_New", "ptr", outputs)
    with f.if_(_is_null(f, made)):
        _put(f, ZERO, binding, BUSY)
        f.line("ret ptr null")
        f.start(f.label("unreachable"))
    with f.loop(ZERO, outputs) as loop:
        f.call("PyTuple_SetItem", "i32", made, loop.index, hand_out(f, binding, state, loop.index))
    end_run(f, binding, state)
    f.line(f"ret {made}")
    f.finish()


def _emit_give(module: Module, offsets: Offsets) -> None:
    """`give(ptr binding, ptr value, i64 references, i64 output)`: let the output be written into the memory of a value
    that so many references lead to, when nothing else has that memory and it is the pool's."""
    binding, value, references, output = Val("ptr", "%binding"), Val("ptr", "%value"), Val("i64", "%references"), Val("i64", "%output")
    f = Function(module, "give", [binding, value, references, output], linkage="internal")
    state, buffer = _word(f, binding, STATE, "ptr"), f.load(f.gep(value, offsets.buffer, "i8"), "ptr")
    done, counted, single, ours = (f.label(x) for x in ("done", "counted", "single", "ours"))
    f.branch_if(f.compare("eq", f.load(value, "i64"), references), counted, done)
    f.start(counted)
    f.branch_if(f.compare("eq", f.load(buffer, "i64"), ONE), single, done)
    f.start(single)
    none = _word(f, state, NONE, "ptr").name
    buffers = f.op(f"icmp eq {_word(f, buffer, 1, 'ptr')}, {_word(f, state, BUFFER_CLASS, 'ptr').name}", "i1")
    unborrowed = f.op(f"icmp eq {f.load(f.gep(buffer, offsets.owner, 'i8'), 'ptr')}, {none}", "i1")
    f.branch_if(f.op(f"and {buffers}, {unborrowed.name}", "i1"), ours, done)
    f.start(ours)
    f.call_void("Py_IncRef", buffer)
    place = f.add(output, 1)
    f.call("PyList_SetItem", "i32", _word(f, binding, STASH, "ptr"), place, buffer)
    _put(f, ONE, _word(f, binding, GIVEN, "ptr"), place)
    f.branch(done)
    f.start(done)
    f.line("ret void")
    f.finish()


def _offer(f: Function, binding: Val, value_of: Callable[[Val], Val]) -> None:
    """Give every output that has a donor its memory, where that may be."""
    donors = _donors(f)
    with f.loop(ZERO, _word(f, binding, OUTPUTS)) as loop:
        _put(f, ZERO, _word(f, binding, GIVEN, "ptr"), f.add(loop.index, 1))
        row = f.gep(donors, f.mul(loop.index, 2), "i64")
        donor = f.load(row, "i64")
        with f.if_(f.compare("sge", donor, ZERO)):
            f.line(f"call void @give({binding}, {value_of(donor)}, {_word(f, row, 1)}, {loop.index})")


def _donors(f: Function) -> Val:
    """The second item of `self`: for each output, which input (or -1) it may be written into when so many references lead to it."""
    return f.call("PyLong_AsVoidPtr", "ptr", f.call("PyTuple_GetItem", "ptr", Val("ptr", "%self"), ONE))


def _emit_launch_data(module: Module, offsets: Offsets) -> None:
    """`launch_data(*values, *numbers)`: like `launch`, on values whose memory may be given to outputs."""
    f, binding, state = _begin(module, "launch_data")
    inputs, gathered, args = _word(f, binding, INPUTS), _word(f, binding, GATHERED, "ptr"), Val("ptr", "%args")
    _return_none_if(f, f.compare("ne", Val("i64", "%count"), f.add(inputs, _word(f, binding, NUMBERS))), state)
    _return_none_if(f, f.compare("ne", _word(f, binding, BUSY), ZERO), state)
    with f.loop(ZERO, inputs) as loop:
        buffer = f.load(f.gep(_word(f, args, loop.index, "ptr"), offsets.buffer, "i8"), "ptr")
        _put(f, buffer, gathered, loop.index)
    _offer(f, binding, lambda donor: _word(f, args, donor, "ptr"))
    _run_or_return(f, binding, state, gathered, f.gep(args, inputs, "i64"))
    _return_outputs(f, binding, state)


def _emit_references(module: Module) -> None:
    """`references(object)`: how many references to it there are."""
    f = Function(module, "references", [Val("ptr", "%self"), Val("ptr", "%args"), Val("i64", "%count")], ret="ptr")
    f.line(f"ret {f.call('PyLong_FromSsize_t', 'ptr', _word(f, _word(f, Val('ptr', '%args'), 0, 'ptr'), 0))}")
    f.finish()


def _emit_launch_values(module: Module, offsets: Offsets) -> None:
    """`launch_values(values, numbers)`: inputs from a trace's list of values and its numbers; outputs become the buffers of their
    values, which belong to no trace any more. True, or None for SLOW."""
    f, binding, state = _begin(module, "launch_values")
    args = Val("ptr", "%args")
    values, numbers = _word(f, args, 0, "ptr"), _word(f, args, 1, "ptr")
    gathered, slots = _word(f, binding, GATHERED, "ptr"), _word(f, binding, INPUT_SLOTS, "ptr")
    inputs, count = _word(f, binding, INPUTS), _word(f, binding, NUMBERS)
    _return_none_if(f, f.compare("ne", _word(f, binding, BUSY), ZERO), state)
    with f.loop(ZERO, inputs) as loop:
        value = f.call("PyList_GetItem", "ptr", values, _word(f, slots, loop.index))
        _return_null_if(f, _is_null(f, value))
        _put(f, f.load(f.gep(value, offsets.buffer, "i8"), "ptr"), gathered, loop.index)
    given = f.gep(gathered, inputs, "i64")
    with f.loop(ZERO, count) as loop:
        number = f.call("PyList_GetItem", "ptr", numbers, loop.index)
        _return_null_if(f, _is_null(f, number))
        _put(f, number, given, loop.index)
    _offer(f, binding, lambda donor: f.call("PyList_GetItem", "ptr", values, _word(f, slots, donor)))
    _run_or_return(f, binding, state, gathered, given)
    slots = _word(f, binding, OUTPUT_SLOTS, "ptr")
    with f.loop(ZERO, _word(f, binding, OUTPUTS)) as loop:
        value = f.call("PyList_GetItem", "ptr", values, _word(f, slots, loop.index))
        _replace(f, value, offsets.buffer, hand_out(f, binding, state, loop.index))
        none = _word(f, state, NONE, "ptr")
        f.call_void("Py_IncRef", none)
        _replace(f, value, offsets.trace, none)
    end_run(f, binding, state)
    done = f.call("PyBool_FromLong", "ptr", ONE)
    f.line(f"ret {done}")
    f.finish()


def _return_null_if(f: Function, c: Val) -> None:
    leave, go_on = f.label("leave"), f.label("on")
    f.branch_if(c, leave, go_on)
    f.start(leave)
    f.line("ret ptr null")
    f.start(go_on)


def _replace(f: Function, thing: Val, offset: int, new: Val) -> None:
    """Put a new reference into a slot and let go of the old one."""
    slot = f.gep(thing, offset, "i8")
    old = f.load(slot, "ptr")
    f.store(new, slot)
    f.call_void("Py_DecRef", old)


def _emit_live(module: Module) -> None:
    """`live(values)`: bytes, one per item of the list: 1 when something besides the list refers to it."""
    f = Function(module, "live", [Val("ptr", "%self"), Val("ptr", "%args"), Val("i64", "%count")], ret="ptr")
    values = _word(f, Val("ptr", "%args"), 0, "ptr")
    size = f.call("PyList_Size", "i64", values)
    made = f.call("PyBytes_FromStringAndSize", "ptr", NULL, size)
    _return_null_if(f, _is_null(f, made))
    text = f.call("PyBytes_AsString", "ptr", made)
    with f.loop(ZERO, size) as loop:
        value = f.call("PyList_GetItem", "ptr", values, loop.index)
        wanted = f.compare("sgt", f.load(value, "i64"), ONE)
        f.store(f.cast("zext", wanted, "i8"), f.gep(text, loop.index, "i8"))
    f.line(f"ret {made}")
    f.finish()


def _emit_same_bytes(module: Module) -> None:
    """`same_bytes(first, second, size)`: whether `size` bytes at two addresses are equal."""
    args = Val("ptr", "%args")
    f = Function(module, "same_bytes", [Val("ptr", "%self"), args, Val("i64", "%count")], ret="ptr")
    first, second = (f.call("PyLong_AsVoidPtr", "ptr", _word(f, args, i, "ptr")) for i in (0, 1))
    size = f.call("PyLong_AsUnsignedLongLongMask", "i64", _word(f, args, 2, "ptr"))
    thread = f.call("PyEval_SaveThread", "ptr")
    difference = f.call("memcmp", "i32", first, second, size)
    f.call_void("PyEval_RestoreThread", thread)
    same = f.cast("zext", f.compare("eq", difference, const("i32", 0)), "i64")
    f.line(f"ret {f.call('PyBool_FromLong', 'ptr', same)}")
    f.finish()
