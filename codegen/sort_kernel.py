"""Sorting and selection as LLVM IR: radix sort (Knuth, TAOCP 5.2.5) of records that hold a key and a position.

A key is an unsigned integer in the order wanted: floats become such integers by flipping bits, with NaN above all and -0.0
equal to 0.0; descending orders complement it. A record is the key in the high half and the position in the low half of one
integer, so that no two are equal and any sort of records is stable. topk keeps a buffer of candidates below the best k-th key
so far, and sorts it down to k whenever it is full.
"""
from __future__ import annotations

from treadle.codegen.expressions import memory_type
from treadle.codegen.llvm_text import Function, Module, Val, const, lanes_of, scalar_type, vector_type
from treadle.codegen.vector_memory import first_lanes, load_vector
from treadle.ir.dtypes import FLOAT, by_name
from treadle.ir.routine import Routine

RADIX = 256
# Fewer records than this are sorted by insertion: the counters alone would cost more.
INSERTION = 32
# Elements that topk compares at a time; its workspace keeps room for so many more.
GROUP = 16
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}
ZERO, ONE = const("i64", 0), const("i64", 1)


class Record(int):
    """The bits of one half of a record: 32, or 64 for 64-bit elements."""

    @property
    def half(self) -> str:
        return f"i{int(self)}"

    @property
    def size(self) -> int:
        return int(self) // 4


def record_of(dtype: str) -> Record:
    """The record for elements of `dtype`."""
    return Record(64 if by_name(dtype).itemsize == 8 else 32)


def sort_key(f: Function, raw: Val, dtype: str, descending: bool) -> Val:
    """The unsigned key of raw element bits (integer or float, scalar or vector), as wide as the element."""
    kind = by_name(dtype)
    bits = 8 * kind.itemsize
    x = raw if scalar_type(raw.ty) == f"i{bits}" else f.cast("bitcast", raw, f"i{bits}")
    sign = const(x.ty, 1 << (bits - 1))
    if kind.category == FLOAT:
        size = f.binary("and", x, const(x.ty, (1 << (bits - 1)) - 1))
        negative = f.binary("ashr", x, const(x.ty, bits - 1))
        key = f.binary("xor", x, f.binary("or", negative, sign))
        key = f.select(f.compare("eq", size, const(x.ty, 0)), sign, key)
        key = f.select(f.compare("ugt", size, const(x.ty, _INFINITY[dtype])), const(x.ty, -1), key)
    else:
        key = f.binary("xor", x, sign) if kind.signed else x
    return f.binary("xor", key, const(x.ty, -1)) if descending else key


# -- records in memory -----------------------------------------------------------------------------------------------------
def _at(f: Function, records: Val, index: Val, record: Record, key: bool) -> Val:
    """Address of a record's key or position (both targets store low bytes first)."""
    place = f.gep(records, f.mul(index, record.size), "i8")
    return f.gep(place, record.size // 2, "i8") if key else place


def _whole(record: Record) -> str:
    return f"i{2 * int(record)}"


def _load(f: Function, records: Val, index: Val, record: Record) -> Val:
    return f.load(_at(f, records, index, record, False), _whole(record), 8)


def _store(f: Function, value: Val, records: Val, index: Val, record: Record) -> None:
    f.store(value, _at(f, records, index, record, False), 8)


def put_record(f: Function, records: Val, at: Val, raw: Val, position: Val, routine: Routine) -> None:
    """Write the record of an element, given as loaded, and its position (i64)."""
    record = record_of(routine.source)
    key = sort_key(f, raw, routine.source, routine.descending)
    key = key if key.ty == record.half else f.cast("zext", key, record.half)
    f.store(key, _at(f, records, at, record, True), record.size // 2)
    low = position if record.half == "i64" else f.cast("trunc", position, "i32")
    f.store(low, _at(f, records, at, record, False), record.size // 2)


# -- sorting records --------------------------------------------------------------------------------------------------------
def emit_sort_records(module: Module, name: str, routine: Routine) -> None:
    """`ptr name(ptr a, ptr b, i64 n)`: sort n records of `a` with the help of `b`; where they are then, a or b."""
    a, b, n = Val("ptr", "%a"), Val("ptr", "%b"), Val("i64", "%n")
    f = Function(module, name, [a, b, n], ret="ptr", linkage="internal")
    record = record_of(routine.source)
    few, many = f.label("few"), f.label("many")
    f.branch_if(f.compare("sle", n, const("i64", INSERTION)), few, many)
    f.start(few)
    _insertion(f, a, n, record)
    f.line("ret ptr %a")
    f.start(many)
    f.line(f"ret {_radix(f, a, b, n, record, by_name(routine.source).itemsize)}")
    f.finish()


def _insertion(f: Function, a: Val, n: Val, record: Record) -> None:
    with f.loop(ONE, n) as loop:
        new = _load(f, a, loop.index, record)
        hole = f.variable(loop.index)
        look, test, move, place = (f.label(x) for x in ("look", "test", "move", "place"))
        f.branch(look)
        f.start(look)
        at = f.load(hole, "i64")
        f.branch_if(f.compare("sgt", at, ZERO), test, place)
        f.start(test)
        before = f.sub(at, 1)
        other = _load(f, a, before, record)
        f.branch_if(f.compare("ugt", other, new), move, place)
        f.start(move)
        _store(f, other, a, at, record)
        f.store(before, hole)
        f.branch(look)
        f.start(place)
        _store(f, new, a, f.load(hole, "i64"), record)
        loop.next([])


def _digit(f: Function, key: Val, digit: int) -> Val:
    moved = f.binary("lshr", key, const(key.ty, 8 * digit)) if digit else key
    low = f.binary("and", moved, const(key.ty, RADIX - 1))
    return low if low.ty == "i64" else f.cast("zext", low, "i64")


def _radix(f: Function, a: Val, b: Val, n: Val, record: Record, digits: int) -> Val:
    """From the lowest byte of the key to the highest; bytes in which all keys agree are skipped."""
    counts = Val("ptr", f.fresh("counts"))
    f.allocas.append(f"  {counts.name} = alloca [{digits * RADIX} x i32], align 64")
    f.line(f"call void @llvm.memset.p0.i64(ptr align 64 {counts.name}, i8 0, i64 {4 * digits * RADIX}, i1 false)")
    f.module.declare("llvm.memset.p0.i64", "void (ptr, i8, i64, i1)")
    with f.loop(ZERO, n) as loop:
        key = f.load(_at(f, a, loop.index, record, True), record.half)
        for d in range(digits):
            cell = f.gep(counts, f.add(_digit(f, key, d), d * RADIX), "i32")
            f.store(f.add(f.load(cell, "i32"), 1), cell)
        loop.next([])
    here, there = f.variable(a), f.variable(b)
    total = f.cast("trunc", n, "i32")
    for d in range(digits):
        source = f.load(here, "ptr")
        own = f.gep(counts, d * RADIX, "i32")
        first = _digit(f, f.load(_at(f, source, ZERO, record, True), record.half), d)
        with f.if_(f.compare("ne", f.load(f.gep(own, first, "i32"), "i32"), total)):
            target = f.load(there, "ptr")
            _distribute(f, source, target, n, own, record, d)
            f.store(target, here)
            f.store(source, there)
    return f.load(here, "ptr")


def _distribute(f: Function, source: Val, target: Val, n: Val, counts: Val, record: Record, digit: int) -> None:
    with f.loop(ZERO, const("i64", RADIX), 1, [const("i32", 0)]) as sums:
        cell = f.gep(counts, sums.index, "i32")
        count = f.load(cell, "i32")
        f.store(sums.values[0], cell)
        sums.next([f.add(sums.values[0], count)])
    with f.loop(ZERO, n) as loop:
        whole = _load(f, source, loop.index, record)
        key = f.cast("trunc", f.binary("lshr", whole, const(whole.ty, int(record))), record.half)
        cell = f.gep(counts, _digit(f, key, digit), "i32")
        place = f.load(cell, "i32")
        f.store(f.add(place, 1), cell)
        _store(f, whole, target, f.cast("zext", place, "i64"), record)
        loop.next([])


# -- the routines --------------------------------------------------------------------------------------------------------------
def _workspace(f: Function, args: dict[str, Val], scratch: Val, row: Val) -> Val:
    """This row's workspace, or the thread's scratch memory."""
    missing = f.compare("eq", args["workspace"], Val("ptr", "null"))
    return f.select(missing, scratch, f.gep(args["workspace"], f.mul(row, args["workspace_step"]), "i8"))


def _write_results(f: Function, routine: Routine, args: dict[str, Val], row: Val, records: Val, first: Val, count: Val) -> None:
    """Positions of `count` sorted records, and the elements there, to the results from element `first` on."""
    record, element = record_of(routine.source), memory_type(routine.source)
    x = f.gep(args["x"], f.mul(row, args["n"]), element)
    values, index = f.gep(args["values"], first, element), f.gep(args["index"], first, "i64")
    with f.loop(ZERO, count) as loop:
        low = f.load(_at(f, records, loop.index, record, False), record.half)
        position = low if low.ty == "i64" else f.cast("zext", low, "i64")
        f.store(f.load(f.gep(x, position, element), element), f.gep(values, loop.index, element))
        f.store(position, f.gep(index, loop.index, "i64"))
        loop.next([])


def emit_sort(f: Function, routine: Routine, args: dict[str, Val], low: Val, high: Val, scratch: Val) -> None:
    """Sort the rows [low, high). Small records are built where the indices go."""
    record, element = record_of(routine.source), memory_type(routine.source)
    helper = f"{f.name}.records"
    emit_sort_records(f.module, helper, routine)
    n = args["n"]
    with f.loop(low, high) as rows:
        first = f.mul(rows.index, n)
        space = _workspace(f, args, scratch, rows.index)
        a, b = f.gep(args["index"], first, "i64"), space
        if record == 64:
            a, b = space, f.gep(space, f.mul(n, record.size), "i8")
        x = f.gep(args["x"], first, element)
        with f.loop(ZERO, n) as loop:
            put_record(f, a, loop.index, f.load(f.gep(x, loop.index, element), element), loop.index, routine)
            loop.next([])
        done = f.op(f"call ptr @{helper}({a}, {b}, {n})", "ptr")
        _write_results(f, routine, args, rows.index, done, first, n)
        rows.next([])


def emit_topk(f: Function, routine: Routine, args: dict[str, Val], low: Val, high: Val, scratch: Val) -> None:
    """The k first elements of the rows [low, high)."""
    record = record_of(routine.source)
    helper = f"{f.name}.records"
    emit_sort_records(f.module, helper, routine)
    with f.loop(low, high) as rows:
        a = _workspace(f, args, scratch, rows.index)
        b = f.gep(a, f.mul(args["room"], record.size), "i8")
        _select(f, routine, args, rows.index, a, b, helper)
        _write_results(f, routine, args, rows.index, a, f.mul(rows.index, args["k"]), args["k"])
        rows.next([])


def _select(f: Function, routine: Routine, args: dict[str, Val], row: Val, a: Val, b: Val, helper: str) -> None:
    """Leave the records of the k first elements, sorted, at the start of `a`."""
    n, k, element = args["n"], args["k"], memory_type(routine.source)
    record = record_of(routine.source)
    x = f.gep(args["x"], f.mul(row, n), element)
    begin = f.smin(n, f.sub(args["room"], GROUP))
    with f.loop(ZERO, begin) as loop:
        put_record(f, a, loop.index, f.load(f.gep(x, loop.index, element), element), loop.index, routine)
        loop.next([])
    count, at = f.variable(begin), f.variable(begin)
    cut, more, scan, end = (f.label(name) for name in ("cut", "more", "scan", "selected"))
    f.branch(cut)
    f.start(cut)
    done = f.op(f"call ptr @{helper}({a}, {b}, {f.load(count, 'i64')})", "ptr")
    with f.if_(f.compare("ne", done, a)):
        f.module.declare("llvm.memcpy.p0.p0.i64", "void (ptr, ptr, i64, i1)")
        f.line(f"call void @llvm.memcpy.p0.p0.i64({a}, {done}, {f.mul(k, record.size)}, i1 false)")
    f.store(k, count)
    limit = f.load(_at(f, a, f.sub(k, 1), record, True), record.half)
    bits = f"i{8 * by_name(routine.source).itemsize}"
    limit = limit if limit.ty == bits else f.cast("trunc", limit, bits)
    f.branch(more)
    f.start(more)
    f.branch_if(f.compare("slt", f.load(at, "i64"), n), scan, end)
    f.start(scan)
    _collect(f, routine, x, n, a, limit, at, count)
    full = f.compare("sgt", f.load(count, "i64"), f.sub(args["room"], GROUP))
    last = f.binary("and", f.compare("sge", f.load(at, "i64"), n), f.compare("sgt", f.load(count, "i64"), k))
    f.branch_if(f.binary("or", full, last), cut, more)
    f.start(end)


def _collect(f: Function, routine: Routine, x: Val, n: Val, a: Val, limit: Val, at: Val, count: Val) -> None:
    """Append the records of the next GROUP elements whose keys are below `limit`."""
    element = memory_type(routine.source)
    here = f.load(at, "i64")
    mask = first_lanes(f, f.sub(n, here), GROUP)
    raw = load_vector(f, f.gep(x, here, element), vector_type(element, GROUP), mask)
    key = sort_key(f, raw, routine.source, routine.descending)
    better = f.binary("and", mask, f.compare("ult", key, f.splat(limit, lanes_of(key.ty))))
    word = f.cast("zext", f.op(f"bitcast {better} to i{GROUP}", f"i{GROUP}"), "i64")
    left = f.variable(word)
    look, take, end = (f.label(name) for name in ("bits", "take", "none"))
    f.branch(look)
    f.start(look)
    now = f.load(left, "i64")
    f.branch_if(f.compare("ne", now, ZERO), take, end)
    f.start(take)
    position = f.add(here, f.call("llvm.cttz.i64", "i64", now, const("i1", 1)))
    place = f.load(count, "i64")
    put_record(f, a, place, f.load(f.gep(x, position, element), element), position, routine)
    f.store(f.add(place, 1), count)
    f.store(f.binary("and", now, f.sub(now, 1)), left)
    f.branch(look)
    f.start(end)
    f.store(f.add(here, GROUP), at)
