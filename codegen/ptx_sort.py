"""Rows sorted by one block of threads each, in shared memory: a bitonic network (Batcher 1968) on keys with positions.

Keys are those of the CPU's sort (codegen/sort_kernel.py); of equal keys the earlier position comes first, so the sort is stable.
"""
from __future__ import annotations

from treadle.codegen.expressions import memory_type
from treadle.codegen.llvm_text import Function, Val, const
from treadle.codegen.ptx_mapping import BLOCK
from treadle.codegen.ptx_threads import SHARED, barrier, register, shared_array
from treadle.codegen.sort_kernel import record_of, sort_key
from treadle.ir.dtypes import by_name
from treadle.ir.routine import Routine

# Bytes of a row's elements at most; with the positions a row then fits the 48 KiB that every block may have.
LONGEST = 16384
ZERO, ONE = const("i64", 0), const("i64", 1)


def emit_sort(f: Function, routine: Routine, args: dict[str, Val]) -> None:
    """The rows of this block, one after the other."""
    _Sort(f, routine, args).rows()


class _Sort:
    def __init__(self, f: Function, routine: Routine, args: dict[str, Val]) -> None:
        self.f, self.routine, self.args = f, routine, args
        record = record_of(routine.source)
        self.key = record.half
        room = LONGEST // max(by_name(routine.source).itemsize, 4)
        self.keys = shared_array(f, f"{f.name}_keys", self.key, room)
        self.positions = shared_array(f, f"{f.name}_positions", "i32", room)
        self.element = memory_type(routine.source)
        self.thread = register(f, "tid.x")

    def rows(self) -> None:
        f, args = self.f, self.args
        size = f.variable(ONE)  # the power of two that holds a row
        grow, more, done = f.label("grow"), f.label("more"), f.label("grown")
        f.branch(grow)
        f.start(grow)
        f.branch_if(f.compare("slt", f.load(size, "i64"), args["n"]), more, done)
        f.start(more)
        f.store(f.binary("shl", f.load(size, "i64"), ONE), size)
        f.branch(grow)
        f.start(done)
        self.size = f.load(size, "i64")
        with f.loop(register(f, "ctaid.x"), args["rows"], register(f, "nctaid.x")) as loop:
            base = f.gep(args["x"], f.mul(loop.index, args["n"]), self.element)
            barrier(f)
            self._fill(base)
            self._network()
            barrier(f)
            self._take(base, loop.index)
            loop.next([])

    def _at(self, array: Val, index: Val, ty: str) -> Val:
        return self.f.op(f"getelementptr inbounds {ty}, {array}, {index}", SHARED)

    def _fill(self, base: Val) -> None:
        """Keys and positions; behind the row the largest key with later positions."""
        f, n = self.f, self.args["n"]
        with f.loop(self.thread, self.size, BLOCK) as loop:
            inside = f.compare("slt", loop.index, n)
            raw = f.load(f.gep(base, f.select(inside, loop.index, ZERO), self.element), self.element)
            key = sort_key(f, raw, self.routine.source, self.routine.descending)
            key = key if key.ty == self.key else f.cast("zext", key, self.key)
            f.store(f.select(inside, key, const(self.key, -1)), self._at(self.keys, loop.index, self.key))
            f.store(f.cast("trunc", loop.index, "i32"), self._at(self.positions, loop.index, "i32"))
            loop.next([])

    def _network(self) -> None:
        """Sorted runs of 2, 4, ... elements, each from two of half the length, compared at falling distances."""
        f = self.f
        run, distance = f.variable(const("i64", 2)), f.variable(ZERO)
        outer, begin, inner, step, end, done = (f.label(x) for x in ("runs", "begin", "distances", "step", "longer", "sorted"))
        f.branch(outer)
        f.start(outer)
        f.branch_if(f.compare("sle", f.load(run, "i64"), self.size), begin, done)
        f.start(begin)
        f.store(f.binary("lshr", f.load(run, "i64"), ONE), distance)
        f.branch(inner)
        f.start(inner)
        f.branch_if(f.compare("sgt", f.load(distance, "i64"), ZERO), step, end)
        f.start(step)
        barrier(f)
        self._compare_all(f.load(run, "i64"), f.load(distance, "i64"))
        f.store(f.binary("lshr", f.load(distance, "i64"), ONE), distance)
        f.branch(inner)
        f.start(end)
        f.store(f.binary("shl", f.load(run, "i64"), ONE), run)
        f.branch(outer)
        f.start(done)

    def _compare_all(self, run: Val, distance: Val) -> None:
        f = self.f
        with f.loop(self.thread, f.binary("lshr", self.size, ONE), BLOCK) as loop:
            low = f.binary("and", loop.index, f.sub(distance, 1))
            first = f.add(f.binary("shl", f.sub(loop.index, low), ONE), low)
            second = f.add(first, distance)
            up = f.compare("eq", f.binary("and", first, run), ZERO)
            places = [(self._at(self.keys, i, self.key), self._at(self.positions, i, "i32")) for i in (first, second)]
            (a, p), (b, q) = [(f.load(k, self.key), f.load(i, "i32")) for k, i in places]
            later = f.binary("or", f.compare("ugt", a, b), f.binary("and", f.compare("eq", a, b), f.compare("ugt", p, q)))
            with f.if_(f.compare("eq", later, up)):
                for (k, i), (key, position) in zip(places, ((b, q), (a, p)), strict=True):
                    f.store(key, k)
                    f.store(position, i)
            loop.next([])

    def _take(self, base: Val, row: Val) -> None:
        """The first elements of the order, and where they came from."""
        f, args = self.f, self.args
        count = args.get("k", args["n"])
        start = f.mul(row, count)
        with f.loop(self.thread, count, BLOCK) as loop:
            position = f.cast("zext", f.load(self._at(self.positions, loop.index, "i32"), "i32"), "i64")
            at = f.add(start, loop.index)
            f.store(f.load(f.gep(base, position, self.element), self.element), f.gep(args["values"], at, self.element))
            f.store(position, f.gep(args["index"], at, "i64"))
            loop.next([])
