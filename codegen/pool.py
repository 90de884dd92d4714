"""The thread pool as LLVM IR: workers claim shares of a kernel's units, spin for a while, then sleep on a futex.

Units are split evenly and in order. Each worker has a slot with a `claim` word: even (and not 0) while a share waits to
be started, odd once someone started it. Worker and caller both start a share by one compare-and-swap from even to odd,
so a caller that has finished its own share does that of a worker which has not shown up, and nobody waits for a thread
that the system has not scheduled. Only a share that has begun is waited for: a short spin, then a futex.
"""
from __future__ import annotations

from treadle.codegen.llvm_text import Function, Module, Val, const
from treadle.codegen.target import Target

MAX_THREADS = 64
# Pool layout in bytes: header, then one slot per worker (slot 0 is the caller's and unused).
LOCK, THREADS, FN, ARGS, UNITS, SHARES, SLOTS = 0, 64, 72, 80, 88, 96, 128
SLOT_BYTES = 256
CLAIM, SLEEPING, DONE, WAITING, SCRATCH, INDEX, POOL = 0, 8, 64, 72, 128, 136, 144
POOL_BYTES = SLOTS + MAX_THREADS * SLOT_BYTES

# 50 microseconds or more (a pause takes 10 to 40 ns): longer than what Python does between two calls and than a share that was
# done early waits for the others, shorter than anybody minds. A sleeping worker costs each call 20 microseconds.
SPINS = 5000
FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
KERNEL_ARGUMENTS = "ptr, i64, i64, ptr"


def supported(target: Target) -> bool:
    """Is there a futex to sleep on? Without one every kernel runs on its caller's thread."""
    return "linux" in target.triple and target.arch in FUTEX_NUMBER


def emit_pool(module: Module, target: Target) -> None:
    """Add `void worker(ptr slot)` (never returns) and `void parallel(ptr pool, ptr fn, ptr args, i64 units, i64 grain,
    ptr scratch)`, which returns when `fn` has run over [0, units)."""
    _emit_share(module)
    if supported(target):
        module.declare("syscall", "i64 (i64, ...)")
        _emit_worker(module, target)
        _emit_finish(module, target)
        _emit_shared(module, target)
    _emit_parallel(module, target)


def call_kernel(f: Function, fn: Val, args: Val, low: Val, high: Val, scratch: Val) -> None:
    """`fn(args, low, high, scratch)` by the calling convention of all kernels."""
    f.line(f"call void {fn.name}({args}, {low}, {high}, {scratch})")


def _field(f: Function, base: Val, offset: int) -> Val:
    return f.gep(base, offset, "i8")


def _load_atomic(f: Function, ptr: Val, ty: str, order: str) -> Val:
    return f.op(f"load atomic {ty}, {ptr} {order}, align {8 if ty == 'i64' else 4}", ty)


def _store_atomic(f: Function, value: Val, ptr: Val, order: str) -> None:
    f.line(f"store atomic {value}, {ptr} {order}, align {8 if value.ty == 'i64' else 4}")


def _swap(f: Function, ptr: Val, old: Val, new: Val) -> Val:
    """Compare-and-swap; whether it succeeded."""
    pair = f.op(f"cmpxchg {ptr}, {old}, {new} seq_cst seq_cst", f"{{ {old.ty}, i1 }}")
    return f.op(f"extractvalue {pair}, 1", "i1")


def _futex(f: Function, target: Target, ptr: Val, operation: int, value: Val) -> None:
    number = FUTEX_NUMBER[target.arch]
    f.op(f"call i64 (i64, ...) @syscall(i64 {number}, {ptr}, i64 {operation}, {value}, ptr null)", "i64")


def _pause(f: Function, target: Target) -> None:
    """Tell the core that this is a spin loop."""
    if target.arch == "x86_64":
        f.call_void("llvm.x86.sse2.pause")
    else:
        f.call_void("llvm.aarch64.hint", const("i32", 1))  # yield


def _emit_share(module: Module) -> None:
    """`run_share(pool, index, scratch)`: units [units * index / shares, units * (index + 1) / shares)."""
    pool, index, scratch = Val("ptr", "%pool"), Val("i64", "%index"), Val("ptr", "%scratch")
    f = Function(module, "run_share", [pool, index, scratch], linkage="internal")
    fn, args = f.load(_field(f, pool, FN), "ptr"), f.load(_field(f, pool, ARGS), "ptr")
    units, shares = f.load(_field(f, pool, UNITS), "i64"), f.load(_field(f, pool, SHARES), "i64")
    low = f.binary("udiv", f.mul(units, index), shares)
    high = f.binary("udiv", f.mul(units, f.add(index, 1)), shares)
    call_kernel(f, fn, args, low, high, scratch)
    f.line("ret void")
    f.finish()


def _emit_worker(module: Module, target: Target) -> None:
    slot = Val("ptr", "%slot")
    f = Function(module, "worker", [slot])
    claim, sleeping = _field(f, slot, CLAIM), _field(f, slot, SLEEPING)
    done, waiting = _field(f, slot, DONE), _field(f, slot, WAITING)
    pool = f.load(_field(f, slot, POOL), "ptr")
    index, scratch = f.load(_field(f, slot, INDEX), "i64"), f.load(_field(f, slot, SCRATCH), "ptr")
    spins = f.variable(const("i64", 0))
    look, take, run, wake, idle, spin, doze, sleep, woken = (
        f.label(x) for x in ("look", "take", "run", "wake", "idle", "spin", "doze", "sleep", "woken"))
    f.branch(look)

    f.start(look)
    ticket = _load_atomic(f, claim, "i64", "acquire")
    f.branch_if(_is_open(f, ticket), take, idle)
    f.start(take)
    f.branch_if(_swap(f, claim, ticket, f.add(ticket, 1)), run, look)
    f.start(run)
    f.line(f"call void @run_share({pool}, {index}, {scratch})")
    _store_atomic(f, ticket, done, "seq_cst")
    f.store(const("i64", 0), spins)
    f.branch_if(f.compare("ne", _load_atomic(f, waiting, "i32", "seq_cst"), const("i32", 0)), wake, look)
    f.start(wake)
    _futex(f, target, done, FUTEX_WAKE_PRIVATE, const("i64", 1))
    f.branch(look)

    f.start(idle)
    count = f.add(f.load(spins, "i64"), 1)
    f.store(count, spins)
    f.branch_if(f.compare("ult", count, const("i64", SPINS)), spin, doze)
    f.start(spin)
    _pause(f, target)
    f.branch(look)
    f.start(doze)
    # The flag is raised before the last look: a caller that missed the flag stored its ticket before that look.
    _store_atomic(f, const("i32", 1), sleeping, "seq_cst")
    last = _load_atomic(f, claim, "i64", "seq_cst")
    f.branch_if(_is_open(f, last), woken, sleep)
    f.start(sleep)
    _futex(f, target, claim, FUTEX_WAIT_PRIVATE, f.op(f"trunc {last} to i32", "i32"))
    f.branch(woken)
    f.start(woken)
    _store_atomic(f, const("i32", 0), sleeping, "seq_cst")
    f.store(const("i64", 0), spins)
    f.branch(look)
    f.finish()


def _is_open(f: Function, ticket: Val) -> Val:
    """A share is waiting: the ticket is even and not 0."""
    odd = f.binary("and", ticket, const("i64", 1))
    return f.binary("and", f.compare("eq", odd, const("i64", 0)), f.compare("ne", ticket, const("i64", 0)))


def _emit_finish(module: Module, target: Target) -> None:
    """`await_share(slot)`: return when the share that the worker has begun is done."""
    slot = Val("ptr", "%slot")
    f = Function(module, "await_share", [slot], linkage="internal")
    done, waiting = _field(f, slot, DONE), _field(f, slot, WAITING)
    ticket = f.sub(_load_atomic(f, _field(f, slot, CLAIM), "i64", "monotonic"), 1)
    spins = f.variable(const("i64", 0))
    look, idle, spin, doze, sleep, end = (f.label(x) for x in ("look", "idle", "spin", "doze", "sleep", "end"))
    f.branch(look)
    f.start(look)
    f.branch_if(f.compare("eq", _load_atomic(f, done, "i64", "acquire"), ticket), end, idle)
    f.start(idle)
    count = f.add(f.load(spins, "i64"), 1)
    f.store(count, spins)
    f.branch_if(f.compare("ult", count, const("i64", SPINS)), spin, doze)
    f.start(spin)
    _pause(f, target)
    f.branch(look)
    f.start(doze)
    _store_atomic(f, const("i32", 1), waiting, "seq_cst")
    seen = _load_atomic(f, done, "i64", "seq_cst")
    f.branch_if(f.compare("eq", seen, ticket), end, sleep)
    f.start(sleep)
    _futex(f, target, done, FUTEX_WAIT_PRIVATE, f.op(f"trunc {seen} to i32", "i32"))
    f.branch(look)
    f.start(end)
    _store_atomic(f, const("i32", 0), waiting, "seq_cst")
    f.line("ret void")
    f.finish()


def _emit_shared(module: Module, target: Target) -> None:
    """`run_shared(pool, shares, scratch)`: hand out shares 1.., do share 0, do or await the others. The lock is held."""
    pool, shares, scratch = Val("ptr", "%pool"), Val("i64", "%shares"), Val("ptr", "%scratch")
    f = Function(module, "run_shared", [pool, shares, scratch], linkage="internal")
    slots = _field(f, pool, SLOTS)
    one = const("i64", 1)
    with f.loop(one, shares) as loop:
        slot = f.gep(slots, f.mul(loop.index, SLOT_BYTES), "i8")
        claim = _field(f, slot, CLAIM)
        ticket = _load_atomic(f, claim, "i64", "monotonic")
        _store_atomic(f, f.add(f.binary("or", ticket, one), 1), claim, "seq_cst")
        asleep = _load_atomic(f, _field(f, slot, SLEEPING), "i32", "seq_cst")
        with f.if_(f.compare("ne", asleep, const("i32", 0))):
            _futex(f, target, claim, FUTEX_WAKE_PRIVATE, one)
    f.line(f"call void @run_share({pool}, i64 0, {scratch})")
    with f.loop(one, shares) as loop:
        claim = f.gep(slots, f.mul(loop.index, SLOT_BYTES), "i8")
        ticket = _load_atomic(f, claim, "i64", "monotonic")
        with f.if_(_is_open(f, ticket)):
            with f.if_(_swap(f, claim, ticket, f.add(ticket, 1))):
                f.line(f"call void @run_share({pool}, {loop.index}, {scratch})")
                _store_atomic(f, ticket, _field(f, claim, DONE), "monotonic")
    with f.loop(one, shares) as loop:
        f.line(f"call void @await_share({f.gep(slots, f.mul(loop.index, SLOT_BYTES), 'i8')})")
    f.line("ret void")
    f.finish()


def _emit_parallel(module: Module, target: Target) -> None:
    pool, fn, args = Val("ptr", "%pool"), Val("ptr", "%fn"), Val("ptr", "%args")
    units, grain, scratch = Val("i64", "%units"), Val("i64", "%grain"), Val("ptr", "%scratch")
    f = Function(module, "parallel", [pool, fn, args, units, grain, scratch])
    alone = f.label("alone")
    if supported(target):
        check, locked, shared = f.label("check"), f.label("locked"), f.label("shared")
        small = f.compare("sle", units, grain)
        f.branch_if(f.binary("or", small, f.compare("eq", pool, Val("ptr", "null"))), alone, check)
        f.start(check)
        wanted = f.binary("udiv", f.add(units, f.sub(grain, 1)), grain)
        shares = f.smin(f.load(_field(f, pool, THREADS), "i64"), wanted)
        f.branch_if(f.compare("sgt", shares, const("i64", 1)), locked, alone)
        f.start(locked)
        # Somebody else's region (or an outer one of this thread) holds the workers: work alone rather than wait.
        f.branch_if(_swap(f, pool, const("i32", 0), const("i32", 1)), shared, alone)
        f.start(shared)
        for offset, value in ((FN, fn), (ARGS, args), (UNITS, units), (SHARES, shares)):
            f.store(value, _field(f, pool, offset))
        f.line(f"call void @run_shared({pool}, {shares}, {scratch})")
        _store_atomic(f, const("i32", 0), pool, "release")
        f.line("ret void")
    else:
        f.branch(alone)
    f.start(alone)
    call_kernel(f, fn, args, const("i64", 0), units, scratch)
    f.line("ret void")
    f.finish()
