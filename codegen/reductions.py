"""Accumulators of the kernel IR's reduces: how each starts, takes an element, merges with another and ends.

An accumulator is a list of values (one for a sum, value and index for argmax, ...), scalars or vectors. The order of the
operations depends on sizes and vector width alone, so results do not change with the number of threads.
"""
from __future__ import annotations

import math
from typing import NamedTuple

from treadle.codegen.expressions import constant, register_type
from treadle.codegen.llvm_text import Function, Val, const, lanes_of, scalar_bits, scalar_type, vector_type
from treadle.ir.dtypes import BOOL, FLOAT, by_name


class Fold(NamedTuple):
    """A reduce: kind as in the kernel IR, and the dtype in which it accumulates."""

    kind: str
    dtype: str

    @property
    def is_float(self) -> bool:
        return by_name(self.dtype).category == FLOAT

    @property
    def rounds(self) -> bool:
        """Partial results lose accuracy as they grow, so long chains are cut into blocks."""
        return self.kind == "sum" and self.is_float


def identity(fold: Fold, lanes: int) -> Val:
    """The value that leaves an accumulator unchanged."""
    kind = by_name(fold.dtype)
    upper = fold.kind in ("amin", "argmin", "all")
    if fold.kind in ("sum", "prod"):
        return constant(fold.dtype, int(fold.kind == "prod"), lanes)
    if kind.category == FLOAT:
        return const(vector_type(register_type(fold.dtype), lanes), math.inf if upper else -math.inf)
    if kind.category == BOOL or not kind.signed:
        return constant(fold.dtype, (1 if kind.category == BOOL else -1) if upper else 0, lanes)
    width = scalar_bits(register_type(fold.dtype))
    return constant(fold.dtype, (1 << (width - 1)) - 1 if upper else -(1 << (width - 1)), lanes)


def start(fold: Fold, lanes: int) -> list[Val]:
    """The accumulator of nothing. An index starts at 0: if only identities were seen, the first of them is the winner."""
    first = identity(fold, lanes)
    if fold.kind.startswith("arg"):
        return [first, const(vector_type("i64", lanes), 0)]
    if fold.kind in ("amax", "amin") and fold.is_float:
        return [first, const(vector_type("i1", lanes), 0)]
    return [first]


def update(f: Function, fold: Fold, state: list[Val], x: Val, index: Val | None, mask: Val | None) -> list[Val]:
    """The accumulator after one more element in each lane set in `mask` (None: all); `index` is its place, for argmax and argmin."""
    if fold.kind.startswith("arg"):
        assert index is not None
        new = _choose(f, _wins(f, fold, x, state[0]), [x, index], state)
    elif len(state) == 2:
        new = [_extreme(f, fold, state[0], x), f.binary("or", state[1], f.compare("uno", x, x))]
    else:
        new = [_combine(f, fold, state[0], x)]
    return new if mask is None else _choose(f, mask, new, state)


def merge(f: Function, fold: Fold, a: list[Val], b: list[Val]) -> list[Val]:
    """The accumulator of everything two accumulators have seen."""
    if fold.kind.startswith("arg"):
        return _choose(f, _merge_wins(f, fold, b, a), b, a)
    if len(a) == 2:
        return [_extreme(f, fold, a[0], b[0]), f.binary("or", a[1], b[1])]
    return [_combine(f, fold, a[0], b[0])]


def across_lanes(f: Function, fold: Fold, state: list[Val]) -> list[Val]:
    """Merge the lanes of a vector accumulator, halving it each time."""
    lanes = lanes_of(state[0].ty)
    while lanes > 1:
        lanes //= 2
        state = merge(f, fold, [_part(f, v, 0, lanes) for v in state], [_part(f, v, lanes, lanes) for v in state])
    return state


def finish(f: Function, fold: Fold, state: list[Val]) -> Val:
    """The reduce's value, of its register type."""
    if fold.kind.startswith("arg"):
        return state[1]
    if len(state) == 2:
        return f.select(state[1], const(state[0].ty, math.nan), state[0])
    return state[0]


def _part(f: Function, value: Val, first: int, lanes: int) -> Val:
    if lanes == 1:
        return f.op(f"extractelement {value}, i32 {first}", scalar_type(value.ty))
    order = ", ".join(f"i32 {first + i}" for i in range(lanes))
    return f.op(f"shufflevector {value}, {value.ty} poison, <{lanes} x i32> <{order}>", vector_type(scalar_type(value.ty), lanes))


def _choose(f: Function, c: Val, a: list[Val], b: list[Val]) -> list[Val]:
    return [f.select(c, x, y) for x, y in zip(a, b, strict=True)]


def _combine(f: Function, fold: Fold, a: Val, b: Val) -> Val:
    kind = by_name(fold.dtype)
    if kind.category == BOOL:
        return f.binary("and" if fold.kind in ("all", "prod", "amin") else "or", a, b)
    if fold.kind in ("sum", "prod"):
        name = "add" if fold.kind == "sum" else "mul"
        return f.binary("f" + name if fold.is_float else name, a, b)
    return f.intrinsic(("s" if kind.signed else "u") + fold.kind[1:], a, b)


def _extreme(f: Function, fold: Fold, a: Val, b: Val) -> Val:
    """The larger or smaller of two floats in one instruction; NaNs are remembered apart."""
    return f.select(f.compare("ogt" if fold.kind == "amax" else "olt", a, b), a, b)


def _wins(f: Function, fold: Fold, x: Val, best: Val) -> Val:
    """Does a later element replace the best one? Strictly better, or the first NaN."""
    greater = fold.kind == "argmax"
    if fold.is_float:
        better = f.compare("ugt" if greater else "ult", x, best)
        return f.binary("and", better, f.compare("ord", best, best))
    prefix = "s" if by_name(fold.dtype).signed else "u"
    return f.compare(prefix + ("gt" if greater else "lt"), x, best)


def _merge_wins(f: Function, fold: Fold, b: list[Val], a: list[Val]) -> Val:
    """`_wins`, and of equals (two NaNs are equal) the one with the smaller index."""
    if fold.is_float:
        both = f.binary("and", f.compare("uno", a[0], a[0]), f.compare("uno", b[0], b[0]))
        same = f.binary("or", f.compare("oeq", a[0], b[0]), both)
    else:
        same = f.compare("eq", a[0], b[0])
    earlier = f.binary("and", same, f.compare("slt", b[1], a[1]))
    return f.binary("or", _wins(f, fold, b[0], a[0]), earlier)
