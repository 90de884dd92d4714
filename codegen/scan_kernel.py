"""Prefix operations (cumsum, cumprod, cummax, cummin, logcumsumexp) as LLVM IR.

Rows: the prefixes inside a vector take log2(lanes) shifted combinations (Hillis and Steele 1986), then the carry joins;
long rows are cut into blocks whose totals come first. Columns: a row of running values in scratch memory is combined with
one row of the operand after the other. Floats are accumulated in float64 and rounded once, as PyTorch does. Blocks depend
on sizes only, so results do not change with the number of threads.
"""
from __future__ import annotations

from collections.abc import Callable

from treadle.codegen.expressions import cast, constant, from_memory, memory_type, register_type, to_memory
from treadle.codegen.llvm_text import Function, Val, const, lanes_of, scalar_bits, scalar_type, vector_type
from treadle.codegen.maths import MATHS
from treadle.codegen.reductions import Fold, identity
from treadle.codegen.vector_memory import first_lanes, lane_numbers, load_vector, store_vector
from treadle.ir.dtypes import FLOAT, by_name
from treadle.ir.routine import Routine

State = list[Val]
LANES = 8
EXTREMES = {"cummax": "amax", "cummin": "amin"}


def emit_scan(f: Function, routine: Routine, args: dict[str, Val], low: Val, high: Val, scratch: Val) -> None:
    """The body of a scan routine for the units [low, high)."""
    scan = RoutineScan(f, routine, args, scratch)
    rows, columns, end = f.label("rows"), f.label("columns"), f.label("end")
    f.branch_if(f.compare("eq", args["inner"], const("i64", 1)), rows, columns)
    f.start(rows)
    with f.loop(low, high) as loop:
        scan.row(loop.index)
        loop.next([])
    f.branch(end)
    f.start(columns)
    with f.loop(low, high) as loop:
        scan.column(loop.index)
        loop.next([])
    f.branch(end)
    f.start(end)


class RoutineScan:
    """Emits rows and columns; a state is [value] or, for extremes, [value, position]."""

    def __init__(self, f: Function, routine: Routine, args: dict[str, Val], scratch: Val) -> None:
        self.f, self.routine, self.args, self.scratch = f, routine, args, scratch
        self.extreme = routine.kind in EXTREMES
        floating = by_name(routine.source).category == FLOAT
        self.dtype = routine.source if self.extreme else "float64" if floating else "int64"
        # log and exp cost far more than what vectors of prefixes save.
        self.lanes = 1 if routine.kind == "logcumsumexp" else LANES
        self.value = register_type(self.dtype)

    # -- states ------------------------------------------------------------------------------------------------------
    def start(self, lanes: int) -> State:
        if self.extreme:
            return [identity(Fold(EXTREMES[self.routine.kind], self.dtype), lanes), const(vector_type("i64", lanes), 0)]
        if self.routine.kind == "logcumsumexp":
            return [identity(Fold("amax", self.dtype), lanes)]
        return [constant(self.dtype, int(self.routine.kind == "cumprod"), lanes)]

    def combine(self, a: State, b: State) -> State:
        """The state of everything behind `a` and then `b`."""
        f = self.f
        if self.extreme:
            return [f.select(self._later_wins(a[0], b[0]), y, x) for x, y in zip(a, b, strict=True)]
        if self.routine.kind == "logcumsumexp":
            return [_add_logarithms(f, a[0], b[0])]
        name = "add" if self.routine.kind == "cumsum" else "mul"
        return [f.binary("f" + name if self.dtype == "float64" else name, a[0], b[0])]

    def _later_wins(self, a: Val, b: Val) -> Val:
        """Of equal elements the later one; NaN beats all, the last NaN the others."""
        f, kind = self.f, by_name(self.dtype)
        up = self.routine.kind == "cummax"
        if kind.category == FLOAT:
            return f.binary("or", f.compare("oge" if up else "ole", b, a), f.compare("uno", b, b))
        return f.compare(("s" if kind.signed else "u") + ("ge" if up else "le"), b, a)

    def element(self, raw: Val, position: Val) -> State:
        """The state of one loaded element (or vector)."""
        if self.extreme:
            return [from_memory(self.f, raw, self.dtype), position]
        return [cast(self.f, from_memory(self.f, raw, self.routine.source), self.routine.source, self.dtype)]

    # -- memory ------------------------------------------------------------------------------------------------------
    def load(self, offset: Val, lanes: int, mask: Val | None) -> Val:
        element = memory_type(self.routine.source)
        return load_vector(self.f, self.f.gep(self.args["x"], offset, element), vector_type(element, lanes), mask)

    def store(self, state: State, offset: Val, mask: Val | None) -> None:
        f = self.f
        element = memory_type(self.routine.dtype)
        value = to_memory(f, cast(f, state[0], self.dtype, self.routine.dtype), self.routine.dtype)
        _store(f, value, f.gep(self.args["out"], offset, element), mask)
        if self.extreme:
            _store(f, state[1], f.gep(self.args["index"], offset, "i64"), mask)

    # -- rows --------------------------------------------------------------------------------------------------------
    def row(self, unit: Val) -> None:
        """One block of one row: its total (phase 0), or its results."""
        f, args = self.f, self.args
        row, block = f.binary("udiv", unit, args["blocks"]), f.binary("urem", unit, args["blocks"])
        base = f.mul(row, args["n"])
        low = f.mul(block, args["block"])
        high = f.smin(f.add(low, args["block"]), args["n"])
        totals, results, end = f.label("totals"), f.label("results"), f.label("done")
        f.branch_if(f.compare("eq", args["phase"], const("i64", 0)), totals, results)
        f.start(totals)
        self._put_total(unit, self._walk(base, low, high, self.start(1), False))
        f.branch(end)
        f.start(results)
        first = f.sub(unit, block)
        with f.loop(const("i64", 0), block, 1, self.start(1)) as loop:
            loop.next(self.combine(loop.values, self._get_total(f.add(first, loop.index))))
        self._walk(base, low, high, loop.values, True)
        f.branch(end)
        f.start(end)

    def _total_places(self, unit: Val) -> list[Val]:
        place = self.f.gep(self.args["totals"], self.f.mul(unit, 16), "i8")
        return [place, self.f.gep(place, 8, "i8")]

    def _put_total(self, unit: Val, state: State) -> None:
        for value, place in zip(state, self._total_places(unit), strict=False):
            self.f.store(value, place)

    def _get_total(self, unit: Val) -> State:
        return [self.f.load(p, v.ty) for v, p in zip(self.start(1), self._total_places(unit), strict=False)]

    def _walk(self, base: Val, low: Val, high: Val, carry: State, storing: bool) -> State:
        """Elements [low, high) of a row, starting from `carry`; the state at the end, if that is a multiple of LANES."""
        f, lanes = self.f, self.lanes
        middle = f.add(low, f.binary("and", f.sub(high, low), const("i64", -lanes)))
        with f.loop(low, middle, lanes, carry) as loop:
            loop.next(self._step(base, loop.index, loop.values, None, storing))
        if lanes == 1:
            return loop.values
        with f.loop(middle, high, lanes, loop.values) as rest:
            rest.next(self._step(base, rest.index, rest.values, first_lanes(f, f.sub(high, rest.index), lanes), storing))
        return rest.values

    def _step(self, base: Val, index: Val, carry: State, mask: Val | None, storing: bool) -> State:
        f, lanes = self.f, self.lanes
        offset = f.add(base, index)
        position = f.add(f.splat(index, lanes), lane_numbers("i64", lanes)) if lanes > 1 else index
        state = self.element(self.load(offset, lanes, mask), position)
        state = self._prefixes(state)
        if storing:
            self.store(self.combine([f.splat(c, lanes) for c in carry], state), offset, mask)
        last = [f.op(f"extractelement {v}, i32 {lanes - 1}", scalar_type(v.ty)) for v in state] if lanes > 1 else state
        return self.combine(carry, last)

    def _prefixes(self, state: State) -> State:
        """Each lane combined with those before it."""
        shift = 1
        while shift < self.lanes:
            moved = [_shifted(self.f, v, z, shift) for v, z in zip(state, self.start(self.lanes), strict=True)]
            state = self.combine(moved, state)
            shift *= 2
        return state

    # -- columns -----------------------------------------------------------------------------------------------------
    def column(self, unit: Val) -> None:
        """All rows of one chunk of columns."""
        f, args = self.f, self.args
        chunks = f.binary("udiv", f.add(f.add(args["inner"], args["chunk"]), -1), args["chunk"])
        outer, chunk = f.binary("udiv", unit, chunks), f.binary("urem", unit, chunks)
        low = f.mul(chunk, args["chunk"])
        width = f.sub(f.smin(f.add(low, args["chunk"]), args["inner"]), low)
        lanes = LANES if self.routine.kind == "logcumsumexp" or (scalar_bits(self.value) == 64 and self.extreme) else 2 * LANES
        self._columns_over(width, lanes, lambda c, mask: self._keep(self.start(lanes), c))
        base = f.add(f.mul(outer, f.mul(args["n"], args["inner"])), low)
        with f.loop(const("i64", 0), args["n"]) as row:
            start = f.add(base, f.mul(row.index, args["inner"]))

            def turn(c: Val, mask: Val | None) -> None:
                offset = f.add(start, c)
                x = self.element(self.load(offset, lanes, mask), f.splat(row.index, lanes))
                state = self.combine(self._kept(c, lanes), x)
                self._keep(state, c)
                self.store(state, offset, mask)
            self._columns_over(width, lanes, turn)
            row.next([])

    def _columns_over(self, width: Val, lanes: int, body: Callable[[Val, Val | None], None]) -> None:
        f = self.f
        middle = f.binary("and", width, const("i64", -lanes))
        with f.loop(const("i64", 0), middle, lanes) as loop:
            body(loop.index, None)
            loop.next([])
        with f.loop(middle, width, lanes) as loop:
            body(loop.index, first_lanes(f, f.sub(width, loop.index), lanes))
            loop.next([])

    def _places(self, column: Val) -> list[Val]:
        """Where the running values of a column lie, each part in a half of the first two megabytes."""
        f = self.f
        second = f.gep(self.scratch, 1 << 20, "i8")
        return [f.gep(self.scratch, column, self.value), f.gep(second, column, "i64")]

    def _keep(self, state: State, column: Val) -> None:
        for value, place in zip(state, self._places(column), strict=False):
            _store(self.f, value, place, None)

    def _kept(self, column: Val, lanes: int) -> State:
        return [load_vector(self.f, p, vector_type(scalar_type(v.ty), lanes), None)
                for v, p in zip(self.start(1), self._places(column), strict=False)]


def _store(f: Function, value: Val, place: Val, mask: Val | None) -> None:
    if lanes_of(value.ty) == 1:
        f.store(value, place)
    else:
        store_vector(f, value, place, mask)


def _shifted(f: Function, value: Val, neutral: Val, by: int) -> Val:
    """The lanes moved up by `by`, neutral ones moving in."""
    lanes = lanes_of(value.ty)
    order = ", ".join(f"i32 {lanes + i if i < by else i - by}" for i in range(lanes))
    return f.op(f"shufflevector {value}, {neutral}, <{lanes} x i32> <{order}>", value.ty)


def _add_logarithms(f: Function, a: Val, b: Val) -> Val:
    """log(exp(a) + exp(b)) as max + log1p(exp(min - max)); equal infinities and NaN pass through."""
    big = f.select(f.compare("ogt", b, a), b, a)
    small = f.select(f.compare("ogt", b, a), a, b)
    total = f.binary("fadd", big, MATHS["log1p"](f, MATHS["exp"](f, f.binary("fsub", small, big))))
    same = f.binary("and", f.compare("oeq", a, b), f.compare("oeq", f.intrinsic("fabs", a), const(a.ty, float("inf"))))
    result = f.select(same, a, total)
    return f.select(f.compare("uno", a, b), f.binary("fadd", a, b), result)
