"""The native executor: walks a plan, which is a table of numbers, and calls its kernels.

Layouts (all fields i64):
- plan header: frame, operations, their number, relocations, their number, toggles, their number, event log or 0.
- frame: pool, scratch, then the buffers' addresses (the first is the error cell), then the scalars.
- relocation: address of an argument, frame index, byte offset: argument = frame[index] + offset.
- toggle: address of a word, frame index and offset of one pointer, of another: word = one xor other.
- operation, kernel: 0, function, arguments, units, grain, 0, 0, 0.
- group, the arguments of the kernel `run_group`: the number of records, then records: function, arguments, first unit of work, units
  of work for each unit of the function; then the end of the last record's work.
- operation, loop: 1, trip count, operations in the body, steps, their number, flips, their number, 0. After each
  iteration a step (address, bytes) adds to an argument and a flip (address, address of a toggle) exclusive-ors it.
- event log: events begun, room for events, then events: start, end (ns of the monotonic clock), operation (0: the whole plan),
  thread, plan header (written last). A plan whose header has a log is walked by a second copy of the loop, which fills it in.
"""
from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

from treadle.codegen.jit import CompiledModule, compile_text
from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.pool import call_kernel, emit_pool
from treadle.codegen.target import Target, host

POOL_SLOT, SCRATCH_SLOT, FIRST_BUFFER = 0, 1, 2
HEADER_WORDS, OPERATION_WORDS, RELOCATION_WORDS, TOGGLE_WORDS, STEP_WORDS = 8, 8, 3, 5, 2
KERNEL, LOOP = 0, 1
GROUP_WORDS = 4
ERROR_CELL_WORDS = 8
EVENT_LOG = 7  # word of the header
LOG_HEADER_WORDS, EVENT_WORDS = 2, 5

ZERO = const("i64", 0)


class Native(NamedTuple):
    """Entry points: `run_plan(header address) -> status` drops the GIL; the others are addresses of C functions."""

    run_plan: Callable[[int], int]
    run_plan_address: int
    parallel: int
    group: int
    worker: int | None
    module: CompiledModule


@functools.cache
def native() -> Native:
    """The executor for this CPU, compiled (or loaded from the cache) at the first call."""
    module = compile_text(executor_text(host()))
    # Worker threads stay in this code until the process is gone: it must outlive the interpreter's clean-up.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))
    address = module.address("run_plan")
    run_plan = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)
    worker = module.address("worker") if module.defines("worker") else None
    return Native(run_plan, address, module.address("parallel"), module.address("run_group"), worker, module)


def executor_text(target: Target) -> str:
    """LLVM text of the executor and the thread pool."""
    module = Module()
    emit_pool(module, target)
    _emit_clock(module)
    _emit_note(module)
    _emit_operations(module, "run_operations", [])
    _emit_operations(module, "run_timed", [Val("ptr", "%log"), Val("ptr", "%header")])
    _emit_run_plan(module)
    _emit_group(module)
    return module.text()


def _word(f: Function, base: Val, index: int, ty: str = "i64") -> Val:
    return f.load(f.gep(base, index, "i64"), ty)


def _emit_run_plan(module: Module) -> None:
    """`i64 run_plan(ptr header)`: fill in the arguments, clear the error cell, run; the error cell's first word."""
    header = Val("ptr", "%header")
    f = Function(module, "run_plan", [header], ret="i64")
    frame, operations, count = _word(f, header, 0, "ptr"), _word(f, header, 1, "ptr"), _word(f, header, 2)
    error = _word(f, frame, FIRST_BUFFER, "ptr")
    for i in range(ERROR_CELL_WORDS):
        f.store(ZERO, f.gep(error, i, "i64"))
    _emit_relocations(f, frame, _word(f, header, 3, "ptr"), _word(f, header, 4))
    _emit_toggles(f, frame, _word(f, header, 5, "ptr"), _word(f, header, 6))
    log = _word(f, header, EVENT_LOG, "ptr")
    with f.if_(f.compare("ne", log, Val("ptr", "null"))):
        start = f.op("call i64 @now()", "i64")
        status = f.op(f"call i64 @run_timed({operations}, {count}, {frame}, {log}, {header})", "i64")
        f.line(f"call void @note({log}, {start}, ptr null, {header})")
        f.line(f"ret {status}")
        f.start(f.label("unreachable"))
    status = f.op(f"call i64 @run_operations({operations}, {count}, {frame})", "i64")
    f.line(f"ret {status}")
    f.finish()


def _emit_clock(module: Module) -> None:
    """`i64 now()`: nanoseconds of the monotonic clock."""
    module.declare("clock_gettime", "i32 (i32, ptr)")
    f = Function(module, "now", [], ret="i64", linkage="internal")
    moment = f.variable(const("<2 x i64>", 0))
    f.op(f"call i32 @clock_gettime(i32 {time.CLOCK_MONOTONIC}, {moment})", "i32")
    seconds, nanoseconds = _word(f, moment, 0), _word(f, moment, 1)
    f.line(f"ret {f.add(f.mul(seconds, 1_000_000_000), nanoseconds)}")
    f.finish()


def _emit_note(module: Module) -> None:
    """`note(ptr log, i64 start, ptr operation, ptr header)`: an event that ends now, unless the log is full."""
    module.declare("pthread_self", "i64 ()")
    log, start, operation, header = Val("ptr", "%log"), Val("i64", "%start"), Val("ptr", "%operation"), Val("ptr", "%header")
    f = Function(module, "note", [log, start, operation, header], linkage="internal")
    end = f.op("call i64 @now()", "i64")
    index = f.op(f"atomicrmw add {log}, i64 1 monotonic", "i64")
    with f.if_(f.compare("ult", index, _word(f, log, 1))):
        event = f.gep(log, f.add(f.mul(index, EVENT_WORDS), LOG_HEADER_WORDS), "i64")
        thread = f.op("call i64 @pthread_self()", "i64")
        for i, value in enumerate((start, end, operation, thread)):
            f.store(value, f.gep(event, i, "i64"))
        f.line(f"store atomic {header}, {f.gep(event, EVENT_WORDS - 1, 'i64')} release, align 8")
    f.line("ret void")
    f.finish()


def _pointer_in_frame(f: Function, frame: Val, record: Val, first: int) -> Val:
    return f.add(f.load(f.gep(frame, _word(f, record, first), "i64"), "i64"), _word(f, record, first + 1))


def _emit_relocations(f: Function, frame: Val, table: Val, count: Val) -> None:
    with f.loop(ZERO, count) as loop:
        record = f.gep(table, f.mul(loop.index, RELOCATION_WORDS), "i64")
        f.store(_pointer_in_frame(f, frame, record, 1), _word(f, record, 0, "ptr"))


def _emit_toggles(f: Function, frame: Val, table: Val, count: Val) -> None:
    with f.loop(ZERO, count) as loop:
        record = f.gep(table, f.mul(loop.index, TOGGLE_WORDS), "i64")
        one, other = _pointer_in_frame(f, frame, record, 1), _pointer_in_frame(f, frame, record, 3)
        f.store(f.binary("xor", one, other), _word(f, record, 0, "ptr"))


def _emit_operations(module: Module, name: str, timing: list[Val]) -> None:
    """`i64 name(ptr operations, i64 count, ptr frame, timing...)`: 0, or the error that stopped the run.

    `timing`: nothing, or log and header.
    """
    operations, count, frame = Val("ptr", "%operations"), Val("i64", "%count"), Val("ptr", "%frame")
    f = Function(module, name, [operations, count, frame, *timing], ret="i64", linkage="internal")
    pool, scratch = _word(f, frame, POOL_SLOT, "ptr"), _word(f, frame, SCRATCH_SLOT, "ptr")
    error = _word(f, frame, FIRST_BUFFER, "ptr")
    position = f.variable(ZERO)
    head, step, kernel, loop, check, fine, failed = (f.label(x) for x in ("head", "step", "kernel", "loop", "check", "fine", "failed"))
    f.branch(head)
    f.start(head)
    index = f.load(position, "i64")
    f.branch_if(f.compare("slt", index, count), step, fine)
    f.start(step)
    record = f.gep(operations, f.mul(index, OPERATION_WORDS), "i64")
    f.store(f.add(index, 1), position)
    f.branch_if(f.compare("eq", _word(f, record, 0), const("i64", KERNEL)), kernel, loop)

    f.start(kernel)
    fn, args = _word(f, record, 1, "ptr"), _word(f, record, 2, "ptr")
    begun = f.op("call i64 @now()", "i64") if timing else None
    f.line(f"call void @parallel({pool}, {fn}, {args}, {_word(f, record, 3)}, {_word(f, record, 4)}, {scratch})")
    if begun is not None:
        f.line(f"call void @note({timing[0]}, {begun}, {record}, {timing[1]})")
    f.branch(check)

    f.start(loop)
    body_count = _word(f, record, 2)
    f.store(f.add(f.add(index, 1), body_count), position)
    _emit_loop(f, record, body_count, f"@{name}", [frame, *timing], failed)
    f.branch(check)

    f.start(check)
    f.branch_if(f.compare("eq", f.load(error, "i64"), ZERO), head, failed)
    f.start(failed)
    f.line(f"ret {f.load(error, 'i64')}")
    f.start(fine)
    f.line("ret i64 0")
    f.finish()


def _emit_group(module: Module) -> None:
    """`run_group(ptr args, i64 low, i64 high, ptr scratch)`: a kernel whose units are pieces of work, all about equally much, of several
    launches. A unit of theirs is done by whoever has its first piece."""
    table, low, high, scratch = Val("ptr", "%args"), Val("i64", "%low"), Val("i64", "%high"), Val("ptr", "%scratch")
    f = Function(module, "run_group", [table, low, high, scratch])
    with f.loop(ZERO, _word(f, table, 0)) as loop:
        record = f.gep(table, f.add(f.mul(loop.index, GROUP_WORDS), 1), "i64")
        start, weight, end = _word(f, record, 2), _word(f, record, 3), _word(f, record, GROUP_WORDS + 2)
        first = f.sub(f.smax(low, start), start)
        last = f.sub(f.smin(high, end), start)
        with f.if_(f.compare("slt", first, last)):
            round_up = f.sub(weight, 1)
            begin, stop = (f.binary("udiv", f.add(x, round_up), weight) for x in (first, last))
            call_kernel(f, _word(f, record, 0, "ptr"), _word(f, record, 1, "ptr"), begin, stop, scratch)
    f.line("ret void")
    f.finish()


def _emit_loop(f: Function, record: Val, body_count: Val, walk: str, context: list[Val], failed: str) -> None:
    """`walk` over the body `trip` times, moving arguments between iterations; leave at once when an iteration fails."""
    body = f.gep(record, OPERATION_WORDS, "i64")
    steps, step_count = _word(f, record, 3, "ptr"), _word(f, record, 4)
    flips, flip_count = _word(f, record, 5, "ptr"), _word(f, record, 6)
    with f.loop(ZERO, _word(f, record, 1)):
        status = f.op(f"call i64 {walk}({body}, {body_count}, {', '.join(map(str, context))})", "i64")
        advance = f.label("advance")
        f.branch_if(f.compare("eq", status, ZERO), advance, failed)
        f.start(advance)
        with f.loop(ZERO, step_count) as step:
            item = f.gep(steps, f.mul(step.index, STEP_WORDS), "i64")
            argument = _word(f, item, 0, "ptr")
            f.store(f.add(f.load(argument, "i64"), _word(f, item, 1)), argument)
        with f.loop(ZERO, flip_count) as flip:
            item = f.gep(flips, f.mul(flip.index, STEP_WORDS), "i64")
            argument = _word(f, item, 0, "ptr")
            toggle = f.load(_word(f, item, 1, "ptr"), "i64")
            f.store(f.binary("xor", f.load(argument, "i64"), toggle), argument)
