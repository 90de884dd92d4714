"""Sizes that are not known yet: integers that remember how they were computed, and every question asked about them.

A `Size` has the value it has in one case and a polynomial in the unknowns of its `Sizes`. Arithmetic gives polynomials again.
A comparison answers for the case at hand and notes the answer as a condition. So a computation on sizes that has been done once
holds in every case that meets its conditions: then its results are its polynomials' values. An operation that needs the number
itself (indexing, a float) pins it: the condition is then that it is that number.

In a special case, a batch of one say, it can be done as in a usual one: sizes are then equal only where they are so in both, as if
only their names were known, and that others are not is no condition. All other answers are those of the case itself.

Questions may ask for less: a choice that only speed depends on stands for sizes some times larger or smaller too (`at_least`, `roughly`),
a no that is always right is no condition (`surely`, `evenly`), and where it is none that two sizes differ, their order is not a strict
one (`beyond`, `in_order`). Where other cases are known, sizes are equal only if they are so in all of them.

Unequal polynomials hash differently, also when their values agree: a table that would have found an equal number may miss it. Tables
of what is there already may be searched with sizes, tables whose misses mean something else may not.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

# What was chosen because a size is below a threshold that only speed depends on, or below another size, stands for sizes so many times
# larger than that. What was chosen for larger ones stands for all: what was planned for much data is right for little.
ABOVE, BEYOND = 64, 4096

# Coefficients by monomial; a monomial is the sorted names of its factors.
Polynomial = tuple[tuple[tuple[str, ...], int], ...]
Number = "int | Size"


class Sizes:
    """The unknowns of one computation, the quotients made from them, and the conditions under which it holds."""

    def __init__(self, special: bool = False, exact: bool = False, of_data: bool = False) -> None:
        self.exact, self.of_data = exact, of_data  # of samples and steps alone, not of weights
        self.cases: list[dict[str, int]] = [{}] if special else []  # the unknowns, quotients included, in others that are known
        self.usual = self.cases[0] if special else None             # and in a usual one
        self.by_name = special          # whether it was taken to be no condition that sizes differ
        self.unknowns: list[Size] = []
        self.known: dict[Polynomial, Size] = {}
        self.quotients: dict[tuple[str, Any, Any], Size] = {}
        self.definitions: list[str] = []
        self.answers: dict[tuple[Polynomial, str, bool], None] = {}  # polynomial, how it compares with 0, and whether it does
        self.types: dict[Any, Any] = {}  # tensor types with such sizes
        self.asked: dict[tuple[Size, Any, str], bool] = {}
        self.computed: dict[tuple[Size, Any, str], Any] = {}

    def unknown(self, name: str, value: int, *others: int) -> Size:
        """A size of which nothing is known but its value here and in other cases, the usual one first."""
        found: Size = self.make((((name,), 1),), value)
        self.unknowns.append(found)
        self.cases += [{} for _ in others[len(self.cases):]]
        for case, number in zip(self.cases, others, strict=True):
            case[name] = number
        return found

    def make(self, polynomial: Polynomial, value: int) -> Any:
        """The Size with this polynomial, one object for each; an int if it is constant."""
        if not polynomial:
            return 0
        if len(polynomial) == 1 and not polynomial[0][0]:
            return polynomial[0][1]
        found = self.known.get(polynomial)
        if found is None:
            found = self.known[polynomial] = Size(self, polynomial, value)
        return found

    def quotient(self, operator: str, a: Any, b: Any, value: int) -> Any:
        """`a operator b` as an unknown of its own, defined by what it is computed from."""
        key = (operator, a, b)
        found = self.quotients.get(key)
        if found is None:
            name = f"q{len(self.definitions)}"
            defined = f" if {text(b)} else 0" if b.__class__ is Size else ""  # conditions exclude 0, but are asked later
            self.definitions.append(f"{name} = ({text(a)}) {operator} ({text(b)}){defined}")
            found = self.quotients[key] = self.make((((name,), 1),), value)
            for case in self.cases:
                over = evaluated(b, case)
                whole, rest = divmod(evaluated(a, case), over) if over else (0, 0)
                case[name] = whole if operator == "//" else rest
        return found

    def note(self, a: Size, b: Any, operator: str, holds: bool) -> bool:
        """Remember the answer to `a operator b`."""
        found = self.asked.get((a, b, operator))
        if found is None:
            found = self.asked[a, b, operator] = self._noted(a, b, operator, holds)
        return found

    def _noted(self, a: Size, b: Any, operator: str, holds: bool) -> bool:
        difference = _sum(a.polynomial, _polynomial(b), -1)
        if all(not monomial for monomial, _ in difference):
            return holds  # a constant: it is so in every case
        if operator == "==" and not self.has_rest(difference):
            if self.usual is not None and (not holds or _at(difference, self.usual)):
                return False
            if holds and any([_at(difference, case) for case in self.cases]):
                self.by_name = True
                return False
        self.answers[difference, operator, holds] = None
        return holds

    def choose(self, a: Any, b: Any) -> bool:
        """Whether `a >= b`, as a choice that only speed depends on: see `at_least`."""
        holds = usually(a) >= usually(b)
        if self.usual is not None or (holds and not self.exact):
            return holds
        above = 1 if self.exact else BEYOND if b.__class__ is Size else ABOVE
        difference = _sum(_polynomial(a), _polynomial(b), -1) if holds else _sum(_polynomial(b * above), _polynomial(a), -1)
        if any(monomial for monomial, _ in difference):
            self.answers[difference, ">=" if holds else ">", True] = None
        return holds

    def everywhere(self, number: Any, bound: Any) -> bool:
        """Whether `number >= bound` in all cases that are known: what holds for many may do so because they are many."""
        return all([evaluated(number, case) >= evaluated(bound, case) for case in self.cases])

    def forget(self) -> None:
        """Keep only the sizes themselves, which nodes hold: what was asked and computed takes several times as much memory."""
        for table in (self.known, self.quotients, self.answers, self.types, self.asked, self.computed):
            table.clear()

    @property
    def special(self) -> bool:
        """Whether the computation holds for certain sizes only, that happen to be equal, say; not only for even ones."""
        return any(holds and operator == "==" and not self._is_rest(polynomial) for polynomial, operator, holds in self.answers)

    def _is_rest(self, polynomial: Polynomial) -> bool:
        """Whether it is what a division left: whether that is 0 tells sizes apart that are equally usual."""
        return any(operator == "%" and q.__class__ is Size and q.polynomial == polynomial for (operator, _, _), q in self.quotients.items())

    def has_rest(self, polynomial: Polynomial) -> bool:
        """Whether what a division by a number left is in it: what is not even may be taken to be odd."""
        rests = {text(q) for (operator, _, b), q in self.quotients.items() if operator == "%" and b.__class__ is int}
        return any(name in rests for monomial, _ in polynomial for name in monomial)

    def checks(self) -> Iterator[tuple[Polynomial, str, bool]]:
        """The conditions: polynomials, how each compares with 0 (`==`, `!=` or `>=`), and whether it says only that two sizes differ."""
        for polynomial, operator, holds in self.answers:
            if operator == "==":
                yield polynomial, "==" if holds else "!=", not holds and not self.has_rest(polynomial)
                continue
            above = (operator in (">", ">=")) is holds
            strict = (operator in ("<", ">")) is holds  # of integers: p > 0 is p - 1 >= 0
            yield _sum(_sum((), polynomial, 1 if above else -1), _polynomial(int(strict)), -1), ">=", False

    def conditions(self) -> Iterator[tuple[str, bool]]:
        """`checks` as Python expressions."""
        for polynomial, operator, differ in self.checks():
            yield f"{_text(polynomial)} {operator} 0", differ


class Size:
    """An integer of a `Sizes`: its value in the case at hand, and its polynomial."""

    __slots__ = ("polynomial", "sizes", "value")
    __hash__ = object.__hash__

    def __init__(self, sizes: Sizes, polynomial: Polynomial, value: int) -> None:
        self.sizes, self.polynomial, self.value = sizes, polynomial, value

    # -- arithmetic --------------------------------------------------------------------------------------------------
    def __add__(self, other: Any) -> Any:
        if other.__class__ is not Size and not isinstance(other, int):
            return self.pin() + other
        found = self.sizes.computed.get((self, other, "+"))
        if found is None:
            made = self.sizes.make(_sum(self.polynomial, _polynomial(other), 1), self.value + _value(other))
            found = self.sizes.computed[self, other, "+"] = made
        return found

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if other.__class__ is not Size and not isinstance(other, int):
            return self.pin() - other
        found = self.sizes.computed.get((self, other, "-"))
        if found is None:
            made = self.sizes.make(_sum(self.polynomial, _polynomial(other), -1), self.value - _value(other))
            found = self.sizes.computed[self, other, "-"] = made
        return found

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __neg__(self) -> Any:
        return self.sizes.make(tuple([(m, -c) for m, c in self.polynomial]), -self.value)

    def __mul__(self, other: Any) -> Any:
        if other.__class__ is not Size and not isinstance(other, int):
            return self.pin() * other
        found = self.sizes.computed.get((self, other, "*"))
        if found is None:
            made = self.sizes.make(_product(self.polynomial, _polynomial(other)), self.value * _value(other))
            found = self.sizes.computed[self, other, "*"] = made
        return found

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return _divided(self, other)[0]

    def __mod__(self, other: Any) -> Any:
        return _divided(self, other)[1]

    def __divmod__(self, other: Any) -> Any:
        return _divided(self, other)

    def __rfloordiv__(self, other: int) -> Any:
        return _divided(other, self)[0]

    def __rmod__(self, other: int) -> Any:
        return _divided(other, self)[1]

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    # -- questions ---------------------------------------------------------------------------------------------------
    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        if other.__class__ is not Size and not isinstance(other, int):
            return NotImplemented
        return self.sizes.note(self, other, "==", self.value == _value(other))

    def __ne__(self, other: object) -> bool:
        found = self.__eq__(other)
        return found if found is NotImplemented else not found

    def __lt__(self, other: Any) -> bool:
        return self.sizes.note(self, other, "<", self.value < _value(other))

    def __le__(self, other: Any) -> bool:
        return self.sizes.note(self, other, "<=", self.value <= _value(other))

    def __gt__(self, other: Any) -> bool:
        return self.sizes.note(self, other, ">", self.value > _value(other))

    def __ge__(self, other: Any) -> bool:
        return self.sizes.note(self, other, ">=", self.value >= _value(other))

    def __bool__(self) -> bool:
        return not self == 0

    # -- the number itself ---------------------------------------------------------------------------------------------
    def pin(self) -> int:
        """The value, on condition that it is that value."""
        self.sizes.answers[_sum(self.polynomial, _polynomial(self.value), -1), "==", True] = None
        return self.value

    __index__ = __int__ = pin

    def __float__(self) -> float:
        return float(self.pin())

    def __truediv__(self, other: Any) -> float:
        return self.pin() / (other.pin() if other.__class__ is Size else other)

    def __rtruediv__(self, other: Any) -> float:
        return other / self.pin()

    def __pow__(self, other: Any) -> Any:
        return self.pin() ** other

    def __str__(self) -> str:
        return str(self.pin())

    __repr__ = __str__

    def __reduce__(self) -> NoReturn:
        raise TypeError("sizes that are not known cannot be stored")


# -- polynomials -------------------------------------------------------------------------------------------------------
def _value(number: Any) -> int:
    return number.value if number.__class__ is Size else number


def _polynomial(number: Any) -> Polynomial:
    if number.__class__ is Size:
        return number.polynomial
    return (((), int(number)),) if number else ()


def _sum(a: Polynomial, b: Polynomial, sign: int) -> Polynomial:
    total = dict(a)
    for monomial, c in b:
        total[monomial] = total.get(monomial, 0) + c * sign
    return tuple(sorted([(m, c) for m, c in total.items() if c]))


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: dict[tuple[str, ...], int] = {}
    for m, c in a:
        for n, d in b:
            monomial = tuple(sorted(m + n))
            total[monomial] = total.get(monomial, 0) + c * d
    return tuple(sorted([(m, c) for m, c in total.items() if c]))


def _without(monomial: tuple[str, ...], factor: tuple[str, ...]) -> tuple[str, ...] | None:
    rest = list(monomial)
    for name in factor:
        if name not in rest:
            return None
        rest.remove(name)
    return tuple(rest)


def _leading(polynomial: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """The greatest monomial in an order that products keep: by degree, then by names."""
    return max(polynomial, key=lambda m: (len(m), m))


def _exact(a: Polynomial, b: Polynomial) -> Polynomial | None:
    """a / b, where b divides it: long division, term by term."""
    rest, quotient, divisor = dict(a), [], dict(b)
    first = _leading(divisor)
    while rest:
        top = _leading(rest)
        monomial = _without(top, first)
        if monomial is None or rest[top] % divisor[first]:
            return None
        factor = rest[top] // divisor[first]
        quotient.append((monomial, factor))
        rest = dict(_sum(tuple(rest.items()), _product(b, ((monomial, factor),)), -1))
    return tuple(sorted(quotient))


def _divided(a: Any, b: Any) -> tuple[Any, Any]:
    """Quotient and remainder: 0 where the polynomials divide; else both are new unknowns."""
    sizes = a.sizes if a.__class__ is Size else b.sizes
    if b == 0:
        raise ZeroDivisionError("division by a size of 0")
    value, remainder = divmod(_value(a), _value(b))
    quotient = _exact(_polynomial(a), _polynomial(b))
    if quotient is not None:
        return sizes.make(quotient, value), 0
    return sizes.quotient("//", a, b, value), sizes.quotient("%", a, b, remainder)


def _text(polynomial: Polynomial) -> str:
    terms = []
    for monomial, c in polynomial:
        factors = [str(c)] if c != 1 or not monomial else []
        terms.append("*".join(factors + list(monomial)))
    return " + ".join(terms) or "0"


def text(number: Any) -> str:
    """The number as a Python expression of the unknowns."""
    return _text(number.polynomial) if number.__class__ is Size else str(number)


def evaluated(number: Any, names: Mapping[str, int]) -> int:
    """The number where the unknowns, quotients included, are `names`."""
    return _at(number.polynomial, names) if number.__class__ is Size else int(number)


def _at(polynomial: Polynomial, names: Mapping[str, int]) -> int:
    total = 0
    for monomial, c in polynomial:
        for name in monomial:
            c *= names[name]
        total += c
    return total


def at_least(number: Any, bound: Any) -> bool:
    """Whether `number >= bound` (integers from 0 on), where only speed depends on it: a yes stands for smaller numbers too, a no for some
    times larger ones. In a special case it is that of the usual one."""
    if number.__class__ is Size:
        return number.sizes.choose(number, bound)
    return bound.sizes.choose(number, bound) if bound.__class__ is Size else number >= bound


def long_enough(number: Any, bound: Any) -> bool:
    """`at_least` for sizes of data: that of a weight decides more. A sequence of one is computed as longer ones are, a kernel of one is
    not."""
    if number.__class__ is Size and not number.sizes.of_data:
        return bool(number >= bound)
    return at_least(number, bound)


def roughly(number: Any) -> int:
    """The value of a size (from 0 on) by which memory is saved: it stands for smaller ones, and those up to `ABOVE` times larger."""
    if number.__class__ is not Size:
        return int(number)
    value = usually(number)
    if number.sizes.usual is None:
        _ = number <= value * (1 if number.sizes.exact else ABOVE)  # asks
    return value


def surely(number: Any, bound: Any) -> bool:
    """Whether `number >= bound`, where a no is always right: only a yes is a condition, and only said where it is one in all cases that are
    known. What a division left is not asked about."""
    if usually(number) < usually(bound):
        return False
    for a in (number, bound):
        if a.__class__ is Size and (a.sizes.has_rest(a.polynomial) or not a.sizes.everywhere(number, bound)):
            return False
    return bool(number >= bound)


def maximum(a: Any, b: Any) -> Any:
    """The larger one: not which one it is is asked, where one is never the smaller."""
    return a if surely(a, b) else b if surely(b, a) else max(a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller one, asked for like `maximum`."""
    return a if surely(b, a) else b if surely(a, b) else min(a, b)


def evenly(number: Any, parts: Any) -> bool:
    """Whether a number can be divided so, where a no is always right: only a yes is a condition, and only said where it is one in all cases
    that are known."""
    rest = number % parts
    if rest.__class__ is not Size or rest.sizes.exact:
        return bool(rest == 0)
    if rest.value or any([evaluated(rest, case) for case in rest.sizes.cases]):
        return False
    return bool(rest == 0)


def beyond(number: Any, bound: Any) -> bool:
    """Whether `number > bound`, of two that differ: whether they do has been asked, and where that is no condition they may be equal."""
    if usually(number) > usually(bound):
        return bool(number >= bound)
    return not number <= bound


def usually(number: Any) -> int:
    """The value, without a condition, for what is right for other values too; in a special case that of the usual one."""
    if number.__class__ is Size and number.sizes.usual is not None:
        return _at(number.polynomial, number.sizes.usual)
    return _value(number)


def in_order(items: Iterable[T], key: Callable[[T], Any]) -> list[T]:
    """Sorted by a size, equal ones in the order of the usual case. That neighbours in it are not the other way round is the condition."""
    found = sorted(items, key=lambda item: (_value(key(item)), usually(key(item))))
    for a, b in pairwise([key(item) for item in found]):
        if a.__class__ is Size or b.__class__ is Size:
            _ = a <= b  # asks
    return found


def each_size(value: Any, change: Callable[[Size], Any]) -> Any:
    """A nest of tuples with every Size in it changed; the same object if there is none."""
    if value.__class__ is Size:
        return change(value)
    if isinstance(value, tuple):
        found = [each_size(v, change) for v in value]
        if any(a is not b for a, b in zip(found, value, strict=True)):
            return tuple(found)
    return value
