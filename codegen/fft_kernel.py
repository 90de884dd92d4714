"""Discrete Fourier transforms along one axis as LLVM IR: Stockham's passes, which leave results in order (W. T. Cochran et al., 1967).

A unit is one line of `n` elements (inner = 1), or as many neighbouring lines as a vector has lanes; of real numbers twice as many, one half
taken for the imaginary parts of the other. Lines are taken apart into a plane of real and one of imaginary parts in scratch memory. A pass
of radix r turns s transforms of r m elements into r s of m elements: in vectors along the lines that lie side by side (s > 1), or along
one line (s = 1), whose results are interleaved. Backwards is forwards with both planes exchanged.

The order of all operations follows from sizes alone, so results have the same bits however many threads share the units.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from treadle.codegen.expressions import memory_type
from treadle.codegen.fft_butterfly import Complex, butterfly, interleaved, times
from treadle.codegen.llvm_text import Function, Module, Val, const, scalar_bits, vector_type
from treadle.codegen.target import Target
from treadle.codegen.vector_memory import first_lanes, lane_numbers, load_vector, reverse, store_vector, unzipped, zipped
from treadle.ir.routine import ARGUMENTS, CHUNK_BYTES, ODD, RADICES, Routine

ZERO, ONE = const("i64", 0), const("i64", 1)
_PASS = [Val("ptr", "%x_re"), Val("ptr", "%x_im"), Val("ptr", "%y_re"), Val("ptr", "%y_im"), Val("ptr", "%table"), Val("i64", "%m"),
         Val("i64", "%s")]
_POINTERS = ("error", "x", "out", "table")


class Planes(NamedTuple):
    re: Val
    im: Val


def emit_fft(module: Module, routine: Routine, name: str, target: Target) -> None:
    """Add `void name(args, lo, hi, scratch)` and the passes it calls."""
    element = memory_type(routine.dtype)
    width = CHUNK_BYTES * 8 // scalar_bits(element)
    lanes = min(width, max(4, target.vector_bits // scalar_bits(element)))
    for radix in _radices(routine):
        _emit_pass(module, f"{name}.line{radix}", element, radix, lanes, True)
        _emit_pass(module, f"{name}.lines{radix}", element, radix, lanes, False)
        _emit_pass(module, f"{name}.few{radix}", element, radix, lanes // 2, False, True)
    table = Val("ptr", "%args")
    f = Function(module, name, [table, Val("i64", "%lo"), Val("i64", "%hi"), Val("ptr", "%scratch")])
    args = {what: f.load(f.gep(table, i, "i64"), "ptr" if what in _POINTERS else "i64")
            for i, what in enumerate(ARGUMENTS[routine.family])}
    with f.loop(Val("i64", "%lo"), Val("i64", "%hi")) as units:
        _Unit(f, routine, args, name, element, width, lanes).transform(units.index)
        units.next([])
    f.line("ret void")
    f.finish()


def _radices(routine: Routine) -> tuple[int, ...]:
    return RADICES if routine.kind.endswith(ODD) else tuple(r for r in RADICES if r % 2 == 0)


# -- passes ------------------------------------------------------------------------------------------------------------------
def _emit_pass(module: Module, name: str, element: str, radix: int, lanes: int, single: bool, few: bool = False) -> None:
    """One pass of radix r over s transforms of r m elements; `table` holds the m factors of each result but the first, real parts and
    imaginary ones apart. single: s is 1, and vectors run along the line. few: s hardly fills a vector."""
    f = Function(module, name, _PASS, linkage="internal")
    m, s = Val("i64", "%m"), Val("i64", "%s")
    if single:
        whole = f.binary("and", m, const("i64", -lanes))
        for low, high, masked in ((ZERO, whole, False), (whole, m, True)):
            with f.loop(low, high, lanes) as places:
                _line(f, element, radix, lanes, places.index, first_lanes(f, f.sub(m, places.index), lanes) if masked else None)
                places.next([])
    else:
        with f.loop(ZERO, m) as places:
            factors = [_factor(f, element, u, places.index, 1, None) for u in range(1, radix)]
            factors = [Complex(f.splat(w.re, lanes), f.splat(w.im, lanes)) for w in factors]
            whole = ZERO if few else f.binary("and", s, const("i64", -lanes))
            for low, high, masked in ((ZERO, whole, False), (whole, s, True))[few:]:
                with f.loop(low, high, lanes) as lines:
                    mask = first_lanes(f, f.sub(s, lines.index), lanes) if masked else None
                    _lines(f, element, factors, lanes, places.index, lines.index, mask)
                    lines.next([])
            places.next([])
    f.line("ret void")
    f.finish()


def _factor(f: Function, element: str, u: int, place: Val, lanes: int, mask: Val | None) -> Complex:
    """Of result `u` at `place`."""
    m, table = Val("i64", "%m"), Val("ptr", "%table")
    ty = vector_type(element, lanes)
    found = [f.gep(table, f.add(f.mul(m, 2 * (u - 1) + part), place), element) for part in (0, 1)]
    return Complex(*[load_vector(f, p, ty, mask) for p in found])


def _read(f: Function, element: str, at: Val, lanes: int, mask: Val | None) -> Complex:
    ty = vector_type(element, lanes)
    return Complex(*[load_vector(f, f.gep(plane, at, element), ty, mask) for plane in _PASS[:2]])


def _line(f: Function, element: str, radix: int, lanes: int, place: Val, mask: Val | None) -> None:
    m = Val("i64", "%m")
    found = butterfly(f, [_read(f, element, f.add(place, f.mul(m, u)), lanes, mask) for u in range(radix)])
    found = [x if u == 0 else times(f, x, _factor(f, element, u, place, lanes, mask)) for u, x in enumerate(found)]
    first, left = f.mul(place, radix), f.mul(f.sub(m, place), radix)
    for plane, parts in ((Val("ptr", "%y_re"), [x.re for x in found]), (Val("ptr", "%y_im"), [x.im for x in found])):
        for k, vector in enumerate(interleaved(f, parts)):
            inside = None if mask is None else first_lanes(f, f.smax(f.sub(left, k * lanes), ZERO), lanes)
            store_vector(f, vector, f.gep(plane, f.add(first, k * lanes), element), inside)


def _lines(f: Function, element: str, factors: list[Complex], lanes: int, place: Val, line: Val, mask: Val | None) -> None:
    m, s, radix = Val("i64", "%m"), Val("i64", "%s"), len(factors) + 1
    places = [f.add(f.mul(f.add(place, f.mul(m, u)), s), line) for u in range(radix)]
    found = butterfly(f, [_read(f, element, at, lanes, mask) for at in places])
    first = f.mul(place, radix)
    for u, x in enumerate(found):
        x = x if u == 0 else times(f, x, factors[u - 1])
        at = f.add(f.mul(f.add(first, u), s), line)
        store_vector(f, x.re, f.gep(Val("ptr", "%y_re"), at, element), mask)
        store_vector(f, x.im, f.gep(Val("ptr", "%y_im"), at, element), mask)


# -- units -------------------------------------------------------------------------------------------------------------------
class _Unit:
    """Emits what one unit does: lines to planes, passes, planes to lines.

    A plane holds chunks of `width` elements: neighbours of one line, or the elements of several lines at one place. It has a chunk of
    room before its first element and one behind its last.
    """

    def __init__(self, f: Function, routine: Routine, args: dict[str, Val], name: str, element: str, width: int, lanes: int) -> None:
        self.radices = _radices(routine)
        self.f, self.kind, self.args, self.name, self.element = f, routine.kind.split()[0], args, name, element
        self.width, self.most = width, lanes
        self.ty = vector_type(element, width)
        self.n, self.inner, self.masked = args["n"], args["inner"], True
        self.half = f.add(f.binary("lshr", self.n, ONE), 1)
        self.single = f.compare("eq", self.inner, ONE)
        held = f.select(self.single, f.add(self.n, width - 1), f.mul(self.n, width))
        self.room = f.add(f.binary("and", held, const("i64", -width)), 2 * width)
        scale = f.op(f"bitcast {args['scale']} to double", "double")
        self.scale = f.splat(scale if element == "double" else f.cast("fptrunc", scale, element), width)

    def plane(self, number: int) -> Val:
        return self.f.gep(Val("ptr", "%scratch"), self.f.add(self.f.mul(self.room, number), self.width), self.element)

    def transform(self, unit: Val) -> None:
        """Of one line, or of neighbouring ones: where they begin, and how many elements of a chunk there are."""
        f, real = self.f, self.kind != "c2c"
        lines = self.width * (2 if real else 1)
        blocks = f.binary("udiv", f.add(self.inner, lines - 1), const("i64", lines))
        outer, column = f.binary("udiv", unit, blocks), f.mul(f.binary("urem", unit, blocks), lines)
        left = f.sub(self.inner, column)
        line = f.mul(unit, 2 if real else 1)
        self.outer, self.column = f.select(self.single, line, outer), f.select(self.single, ZERO, column)
        self.first = f.smin(left, const("i64", self.width))
        self.second = f.smax(f.smin(f.sub(left, self.width), const("i64", self.width)), ZERO)
        self.paired = f.compare("slt", f.add(line, 1), self.args["lines"])  # whether there is a second line
        here = Planes(self.plane(0), self.plane(1))
        {"c2c": self.split, "r2c": self.join_real, "c2r": self.join_halves}[self.kind](here)
        here = self.passes(here, Planes(self.plane(2), self.plane(3)))
        {"c2c": self.merge, "r2c": self.part_halves, "c2r": self.part_real}[self.kind](here)

    # -- passes ------------------------------------------------------------------------------------------------------
    def passes(self, x: Planes, y: Planes) -> Planes:
        """All of them; the planes that hold the result."""
        f, backwards = self.f, self.f.compare("eq", self.args["forward"], ZERO)
        held = [f.variable(f.select(backwards, a, b)) for a, b in ((x.im, x.re), (x.re, x.im), (y.im, y.re), (y.re, y.im))]
        table, left = f.variable(self.args["table"]), f.variable(self.args["factors"])
        m, s = f.variable(self.n), f.variable(f.select(self.single, ONE, const("i64", self.width)))
        head, body, end = f.label("pass"), f.label("radix"), f.label("passed")
        f.branch(head)
        f.start(head)
        factors = f.load(left, "i64")
        f.branch_if(f.compare("ne", factors, ZERO), body, end)
        f.start(body)
        radix, lines = f.binary("and", factors, const("i64", 15)), f.load(s, "i64")
        count = f.binary("udiv", f.load(m, "i64"), radix)
        given = [*[f.load(p, "ptr") for p in held], f.load(table, "ptr"), count, lines]
        self.choose(radix, lines, given)
        f.store(f.gep(given[4], f.mul(f.mul(f.sub(radix, 1), count), 2), self.element), table)
        for cell, value in ((left, f.binary("lshr", factors, const("i64", 4))), (m, count), (s, f.mul(lines, radix))):
            f.store(value, cell)
        for cell, value in zip(held, [*given[2:4], *given[:2]], strict=True):
            f.store(value, cell)
        f.branch(head)
        f.start(end)
        a, b = f.load(held[0], "ptr"), f.load(held[1], "ptr")
        return Planes(f.select(backwards, b, a), f.select(backwards, a, b))

    def choose(self, radix: Val, lines: Val, given: list[Val]) -> None:
        """Call the pass for this radix and this number of lines."""
        f = self.f
        end = f.label("called")
        alone, many = f.compare("eq", lines, ONE), f.compare("sge", lines, const("i64", self.most))
        for r in self.radices:
            call, other = f.label("call"), f.label("other")
            f.branch_if(f.compare("eq", radix, const("i64", r)), call, other)
            f.start(call)
            one = f.op(f"select {alone}, ptr @{self.name}.line{r}, ptr @{self.name}.few{r}", "ptr")
            chosen = f.op(f"select {many}, ptr @{self.name}.lines{r}, {one}", "ptr")
            f.line(f"call void {chosen.name}({', '.join(map(str, given))})")
            f.branch(end)
            f.start(other)
        f.branch(end)
        f.start(end)

    # -- chunks ------------------------------------------------------------------------------------------------------
    def each(self, count: Val, body: Callable[[Val], None]) -> None:
        """`body` for each chunk of lines of `count` elements: first those in which all elements are there, then the others."""
        f, width = self.f, const("i64", self.width)
        chunks = f.select(self.single, f.binary("udiv", f.add(count, self.width - 1), width), count)
        real = self.kind != "c2c"
        beside = f.compare("eq", self.second if real else self.first, width)
        complete = f.select(self.single, self.paired if real else const("i1", 1), beside)
        whole = f.select(complete, f.select(self.single, f.binary("udiv", count, width), count), ZERO)
        for low, high, self.masked in ((ZERO, whole, False), (whole, chunks, True)):
            with f.loop(low, high) as loop:
                body(loop.index)
                loop.next([])

    def present(self, chunk: Val, count: Val, lines: Val) -> Val:
        """How many elements of a chunk there are; of lines side by side, `lines`."""
        return self.f.select(self.single, self.f.sub(count, self.f.mul(chunk, self.width)), lines)

    def place(self, chunk: Val, count: Val, second: bool = False) -> Val:
        """Where a chunk of the first line or lines, or the second ones, begins among lines of `count` elements."""
        f = self.f
        alone = f.add(f.mul(f.add(self.outer, int(second)), count), f.mul(chunk, self.width))
        beside = f.add(f.mul(f.add(f.mul(self.outer, count), chunk), self.inner), f.add(self.column, self.width if second else 0))
        return f.select(self.single, alone, beside)

    def lanes(self, chunk: Val, count: Val, second: bool = False) -> Val | None:
        """The mask of the elements that there are (None: all); none of a second line that is missing."""
        f = self.f
        if not self.masked:
            return None
        found = self.present(chunk, count, self.second if second else self.first)
        if second:
            found = f.select(f.binary("or", self.paired, f.op(f"xor {self.single}, true", "i1")), found, ZERO)
        return first_lanes(f, found, self.width)

    def both(self, mask: Val | None) -> tuple[Val | None, Val | None]:
        """The masks of a chunk's pairs, in two vectors."""
        return (None, None) if mask is None else zipped(self.f, mask, mask)

    def load_pairs(self, at: Val, mask: Val | None) -> Complex:
        """Complex numbers from element `at` of the operand on."""
        f = self.f
        pointer = f.gep(self.args["x"], f.mul(at, 2), self.element)
        a, b = (load_vector(f, f.gep(pointer, k * self.width, self.element), self.ty, m) for k, m in enumerate(self.both(mask)))
        return Complex(*unzipped(f, a, b))

    def store_pairs(self, value: Complex, at: Val, mask: Val | None) -> None:
        f = self.f
        pointer = f.gep(self.args["out"], f.mul(at, 2), self.element)
        vectors = zipped(f, f.binary("fmul", value.re, self.scale), f.binary("fmul", value.im, self.scale))
        for k, (vector, inside) in enumerate(zip(vectors, self.both(mask), strict=True)):
            store_vector(f, vector, f.gep(pointer, k * self.width, self.element), inside)

    def at(self, plane: Val, chunk: Val) -> Val:
        return self.f.gep(plane, self.f.mul(chunk, self.width), self.element)

    def mirrored(self, plane: Val, chunk: Val) -> Val:
        """Where the elements n - k lie for those of a chunk, k: in reverse along one line."""
        f = self.f
        alone = f.sub(f.sub(self.n, f.mul(chunk, self.width)), self.width - 1)
        return f.gep(plane, f.select(self.single, alone, f.mul(f.sub(self.n, chunk), self.width)), self.element)

    def turned(self, vector: Val) -> Val:
        """A chunk of one line, mirrored."""
        return self.f.select(self.single, reverse(self.f, vector), vector)

    # -- complex numbers ---------------------------------------------------------------------------------------------
    def split(self, to: Planes) -> None:
        def chunk(k: Val) -> None:
            value = self.load_pairs(self.place(k, self.n), self.lanes(k, self.n))
            for part, plane in zip(value, to, strict=True):
                store_vector(self.f, part, self.at(plane, k), None)
        self.each(self.n, chunk)

    def merge(self, of: Planes) -> None:
        def chunk(k: Val) -> None:
            value = Complex(*[load_vector(self.f, self.at(plane, k), self.ty, None) for plane in of])
            self.store_pairs(value, self.place(k, self.n), self.lanes(k, self.n))
        self.each(self.n, chunk)

    # -- real numbers ------------------------------------------------------------------------------------------------
    def join_real(self, to: Planes) -> None:
        """Two real lines as the parts of a complex one."""
        def chunk(k: Val) -> None:
            for second, plane in zip((False, True), to, strict=True):
                pointer = self.f.gep(self.args["x"], self.place(k, self.n, second), self.element)
                store_vector(self.f, load_vector(self.f, pointer, self.ty, self.lanes(k, self.n, second)), self.at(plane, k), None)
        self.each(self.n, chunk)

    def part_real(self, of: Planes) -> None:
        def chunk(k: Val) -> None:
            for second, plane in zip((False, True), of, strict=True):
                x = self.f.binary("fmul", load_vector(self.f, self.at(plane, k), self.ty, None), self.scale)
                pointer = self.f.gep(self.args["out"], self.place(k, self.n, second), self.element)
                store_vector(self.f, x, pointer, self.lanes(k, self.n, second))
        self.each(self.n, chunk)

    def part_halves(self, of: Planes) -> None:
        """z[k] and z[n - k] hold the coefficients k of both lines: x = (z[k] + conj z[n - k]) / 2, y = (z[k] - conj z[n - k]) / 2i."""
        f, half = self.f, const(self.ty, 0.5)
        for plane in of:  # element n is element 0
            end = f.select(self.single, self.n, f.mul(self.n, self.width))
            store_vector(f, load_vector(f, plane, self.ty, None), f.gep(plane, end, self.element), None)

        def chunk(k: Val) -> None:
            re, im = (load_vector(f, self.at(plane, k), self.ty, None) for plane in of)
            other = [self.turned(load_vector(f, self.mirrored(plane, k), self.ty, None)) for plane in of]
            x = (f.binary("fadd", re, other[0]), f.binary("fsub", im, other[1]))
            y = (f.binary("fadd", im, other[1]), f.binary("fsub", other[0], re))
            for second, value in zip((False, True), (x, y), strict=True):
                found = Complex(*[f.binary("fmul", part, half) for part in value])
                self.store_pairs(found, self.place(k, self.half, second), self.lanes(k, self.half, second))
        self.each(self.half, chunk)

    def join_halves(self, to: Planes) -> None:
        """The other way: z[k] = x + iy, z[n - k] = conj x + i conj y. What should be real, the first coefficient and a middle one, is."""
        f = self.f
        middle = f.select(f.compare("eq", f.binary("and", self.n, ONE), ZERO), f.binary("lshr", self.n, ONE), ZERO)

        def chunk(k: Val) -> None:
            x, y = (self.load_pairs(self.place(k, self.half, second), self.lanes(k, self.half, second)) for second in (False, True))
            number = f.add(f.splat(f.select(self.single, f.mul(k, self.width), k), self.width), self.steps())
            real = f.binary("or", f.compare("eq", number, const(number.ty, 0)), f.compare("eq", number, f.splat(middle, self.width)))
            x_im, y_im = (f.select(real, const(self.ty, 0.0), v.im) for v in (x, y))
            direct = (f.binary("fsub", x.re, y_im), f.binary("fadd", x_im, y.re))
            other = (f.binary("fadd", x.re, y_im), f.binary("fsub", y.re, x_im))
            inside = first_lanes(f, self.present(k, self.half, const("i64", self.width)), self.width) if self.masked else None
            for plane, here, there in zip(to, direct, other, strict=True):
                store_vector(f, self.turned(there), self.mirrored(plane, k), None if inside is None else self.turned(inside))
                store_vector(f, here, self.at(plane, k), inside)
        self.each(self.half, chunk)

    def steps(self) -> Val:
        """What is added to the number of a chunk's first coefficient in each lane: nothing where lines lie side by side."""
        f, iota = self.f, lane_numbers("i64", self.width)
        return f.select(self.single, iota, const(iota.ty, 0))
