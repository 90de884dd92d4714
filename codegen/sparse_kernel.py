"""The product of a sparse matrix by rows and a dense one as LLVM IR.

A row of the result is a sum in registers, in the order of the row's elements: nothing is scattered, results have the same bits however
many threads share the rows.
"""
from __future__ import annotations

from treadle.codegen.expressions import INDEX_OUT_OF_RANGE, Site, from_memory, memory_type, register_type, report, to_memory
from treadle.codegen.llvm_text import Function, Val, const, scalar_bits, scalar_type, vector_type
from treadle.codegen.vector_memory import first_lanes, load_vector, store_vector
from treadle.ir.routine import Routine

ZERO = const("i64", 0)
WIDE, NARROW = 2048, 512  # bits of a row that are summed at once, and of its end


def emit_sparse_matmul(f: Function, routine: Routine, args: dict[str, Val], low: Val, high: Val, scratch: Val) -> None:
    """Rows [low, high) of the result."""
    element, inner = memory_type(routine.dtype), args["inner"]
    wide, narrow = WIDE // scalar_bits(register_type(routine.dtype)), NARROW // scalar_bits(register_type(routine.dtype))
    middle = f.binary("and", inner, const("i64", -wide))
    with f.loop(low, high) as rows:
        begin, end = (f.load(f.gep(args["starts"], place, "i64"), "i64") for place in (rows.index, f.add(rows.index, 1)))
        begin, end = f.smax(begin, ZERO), f.smin(end, args["count"])
        out = f.gep(args["out"], f.mul(rows.index, inner), element)
        with f.if_(f.compare("eq", inner, const("i64", 1))):
            _chunk(f, routine, args, begin, end, out, ZERO, 1, None)
        with f.if_(f.compare("ne", inner, const("i64", 1))):
            with f.loop(ZERO, middle, wide) as chunk:
                _chunk(f, routine, args, begin, end, out, chunk.index, wide, None)
                chunk.next([])
            with f.loop(middle, inner, narrow) as chunk:
                _chunk(f, routine, args, begin, end, out, chunk.index, narrow, first_lanes(f, f.sub(inner, chunk.index), narrow))
                chunk.next([])
        rows.next([])


def _chunk(f: Function, routine: Routine, args: dict[str, Val], begin: Val, end: Val, out: Val, at: Val, lanes: int,
           mask: Val | None) -> None:
    """`lanes` neighbouring elements of one row of the result, from column `at`."""
    dtype, element = routine.dtype, memory_type(routine.dtype)
    ty = vector_type(element, lanes)
    with f.loop(begin, end, 1, [const(vector_type(register_type(dtype), lanes), 0)]) as loop:
        which = _inside(f, args, f.load(f.gep(args["order"], loop.index, "i64"), "i64"), args["count"])
        column = _inside(f, args, f.load(f.gep(args["cols"], which, "i64"), "i64"), args["columns"])
        value = from_memory(f, f.load(f.gep(args["values"], which, element), element), dtype)
        place = f.gep(f.gep(args["x"], f.mul(column, args["inner"]), element), at, element)
        x = from_memory(f, load_vector(f, place, ty, mask), dtype)
        loop.next([_multiply_add(f, f.splat(value, lanes), x, loop.values[0])])
    store_vector(f, to_memory(f, loop.values[0], dtype), f.gep(out, at, element), mask)


def _inside(f: Function, args: dict[str, Val], index: Val, size: Val) -> Val:
    """The index, 0 in its place (there is one) where it is out of range, which is reported."""
    good = f.compare("ult", index, size)
    with f.if_(f.op(f"xor {good}, true", "i1")):
        report(Site(f, None, args["error"]), const("i1", 1), INDEX_OUT_OF_RANGE, index, size)
    return f.select(good, index, ZERO)


def _multiply_add(f: Function, a: Val, b: Val, total: Val) -> Val:
    """total + a * b, in one instruction where the processor has it."""
    if scalar_type(a.ty) in ("float", "double"):
        product = f.op(f"fmul contract {a}, {b.name}", a.ty)
        return f.op(f"fadd contract {total}, {product.name}", a.ty)
    if scalar_type(a.ty) == "i1":
        return f.binary("or", total, f.binary("and", a, b))
    return f.add(total, f.mul(a, b))
