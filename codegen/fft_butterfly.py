"""Small Fourier transforms in registers, and how their results are put in order."""
from __future__ import annotations

import math
from typing import NamedTuple

from treadle.codegen.llvm_text import Function, Val, const, lanes_of, scalar_type, vector_type
from treadle.codegen.vector_memory import shuffled, zipped


class Complex(NamedTuple):
    """Vectors of real and imaginary parts."""

    re: Val
    im: Val


def _add(f: Function, a: Complex, b: Complex) -> Complex:
    return Complex(f.binary("fadd", a.re, b.re), f.binary("fadd", a.im, b.im))


def _sub(f: Function, a: Complex, b: Complex) -> Complex:
    return Complex(f.binary("fsub", a.re, b.re), f.binary("fsub", a.im, b.im))


def _product(f: Function, a: Val, b: Val, add: Val | None = None, sign: str = "fadd") -> Val:
    """a b, or add +- a b in one instruction where the processor has it."""
    found = f.op(f"fmul contract {a}, {b.name}", a.ty)
    return found if add is None else f.op(f"{sign} contract {add}, {found.name}", a.ty)


def times(f: Function, a: Complex, b: Complex) -> Complex:
    return Complex(_product(f, a.im, b.im, _product(f, a.re, b.re), "fsub"), _product(f, a.im, b.re, _product(f, a.re, b.im)))


def _minus_i(f: Function, a: Complex) -> Complex:
    return Complex(a.im, f.op(f"fneg {a.re}", a.re.ty))


def butterfly(f: Function, x: list[Complex]) -> list[Complex]:
    """The transform of 2, 4, 8 or an odd number of elements: sum over k of x[k] exp(-2 pi i j k / r)."""
    r = len(x)
    if r == 1:
        return x
    if r % 2:
        return _odd(f, x)
    even, odd = butterfly(f, x[0::2]), butterfly(f, x[1::2])
    turned = [_turned(f, v, j, r) for j, v in enumerate(odd)]
    pairs = list(zip(even, turned, strict=True))
    return [_add(f, a, b) for a, b in pairs] + [_sub(f, a, b) for a, b in pairs]


def _turned(f: Function, a: Complex, j: int, r: int) -> Complex:
    """a exp(-2 pi i j / r) for an eighth of a turn, or several."""
    eighths = 8 * j // r
    if eighths == 0:
        return a
    if eighths == 2:
        return _minus_i(f, a)
    root = const(a.re.ty, math.sqrt(0.5))
    total, difference = f.binary("fadd", a.re, a.im), f.binary("fsub", a.im, a.re)
    if eighths == 1:
        return Complex(f.binary("fmul", total, root), f.binary("fmul", difference, root))
    return Complex(f.binary("fmul", difference, root), f.binary("fmul", total, const(a.re.ty, -math.sqrt(0.5))))


def _odd(f: Function, x: list[Complex]) -> list[Complex]:
    """By sums and differences of x[k] and x[r - k]."""
    r = len(x)
    half = range(1, r // 2 + 1)
    sums, differences = [_add(f, x[k], x[r - k]) for k in half], [_sub(f, x[k], x[r - k]) for k in half]
    found = list(x)
    for v in sums:
        found[0] = _add(f, found[0], v)
    for j in half:
        even, odd = list(x[0]), []
        for part in (0, 1):
            total: Val | None = None
            for k in half:
                angle = 2 * math.pi * (j * k % r) / r
                even[part] = _product(f, sums[k - 1][part], const(x[0].re.ty, math.cos(angle)), even[part])
                total = _product(f, differences[k - 1][part], const(x[0].re.ty, math.sin(angle)), total)
            assert total is not None
            odd.append(total)
        turned = Complex(odd[1], odd[0])  # -i times the odd part is (odd[1], -odd[0])
        found[j] = Complex(f.binary("fadd", even[0], turned.re), f.binary("fsub", even[1], turned.im))
        found[r - j] = Complex(f.binary("fsub", even[0], turned.re), f.binary("fadd", even[1], turned.im))
    return found


def interleaved(f: Function, vectors: list[Val]) -> list[Val]:
    """The first elements of all, then the second ones, ..., in as many vectors."""
    count, lanes = len(vectors), lanes_of(vectors[0].ty)
    if count == 1:
        return vectors
    if count % 2 == 0:
        even, odd = interleaved(f, vectors[0::2]), interleaved(f, vectors[1::2])
        return [v for a, b in zip(even, odd, strict=True) for v in zipped(f, a, b)]
    found = []
    for k in range(count):
        total = Val(vector_type(scalar_type(vectors[0].ty), lanes), "poison")
        for u, vector in enumerate(vectors):
            places = [k * lanes + i for i in range(lanes)]
            total = shuffled(f, total, vector, [lanes + at // count if at % count == u else i for i, at in enumerate(places)])
        found.append(total)
    return found
