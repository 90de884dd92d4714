"""Watched operators, conditions, loops, displays and contexts."""
from __future__ import annotations

import contextlib
import itertools
import operator
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from treadle.compilation import access, calls
from treadle.compilation.capture import CONTAINERS, Capture, active
from treadle.compilation.known import CONTEXTS, ITERATORS, SIMPLE
from treadle.runtime.symbols import fixed
from treadle.tensor import Tensor

# -- operators -----------------------------------------------------------------------------------------------------------------------
_OPERATORS: dict[str, Callable[..., Any]] = {
    **{n: getattr(operator, n) for n in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift", "and_",
                                         "or_", "xor", "neg", "pos", "invert", "eq", "ne", "lt", "le", "gt", "ge")},
    "in": lambda a, b: a in b, "not in": lambda a, b: a not in b}


def _operand(capture: Capture, x: Any) -> Any:
    if x.__class__ in SIMPLE or isinstance(x, Tensor):
        return x
    if isinstance(x, CONTAINERS):
        return capture.deep(x) if capture.outside(x) else x
    if x.__class__.__module__.split(".")[0] not in ("treadle", "builtins", "enum") and not isinstance(x, type | types.FunctionType):
        for name in ("__eq__", "__add__", "__mul__", "__lt__", "__contains__", "__radd__", "__rmul__"):
            if isinstance(getattr(type(x), name, None), types.FunctionType):
                capture.refuse(f"an operator of {type(x).__name__}, which is not followed")
                break
    return x


def binary(name: str, a: Any, b: Any) -> Any:
    capture = active()
    if capture is None:
        return _OPERATORS[name](a, b)
    if a.__class__ in (str, bytes) or b.__class__ in (str, bytes) or isinstance(a, list | tuple) or isinstance(b, list | tuple):
        a, b = fixed(a), fixed(b)
        if a.__class__ is str and name == "mod":
            b = show(b) if not isinstance(b, tuple) else tuple([show(x) for x in b])
    result = _OPERATORS[name](_operand(capture, a), _operand(capture, b))
    return capture.new(result) if result.__class__ in (list, dict, set) else result


def unary(name: str, a: Any) -> Any:
    return _OPERATORS[name](a)


def in_place(name: str, a: Any, b: Any) -> Any:
    """`a op= b`."""
    capture = active()
    function = getattr(operator, "i" + name.rstrip("_"))
    if capture is None or a.__class__ in SIMPLE:
        return function(a, b)
    if isinstance(a, Tensor):
        return function(a, b)
    if isinstance(a, list | dict | set | deque) and capture.outside(a):
        capture.refuse(f"changes a {type(a).__name__} from outside")
    return function(a, _operand(capture, b))


def compare(name: str, a: Any, b: Any) -> Any:
    capture = active()
    if capture is None:
        return _OPERATORS[name](a, b)
    if name in ("in", "not in"):
        a = fixed(a)
        if isinstance(b, dict) and capture.outside(b):
            present = a in b
            if not capture.is_written(("dict", b, a)):
                capture.guard("present" if present else "absent", b, a, None)
            return present if name == "in" else not present
        method = getattr(type(b), "__contains__", None)
        if isinstance(method, types.FunctionType) and not isinstance(b, Tensor):
            found = truth(calls.call(method, b, a))
            return found if name == "in" else not found
        if method is None and not isinstance(b, CONTAINERS):
            b = list(iterate(b))
    return _OPERATORS[name](_operand(capture, a), _operand(capture, b))


def chain(a: Any, *steps: Any) -> Any:
    """`a < b < c`: pairs of an operator's name and the next operand, evaluated when needed."""
    result: Any = True
    for name, right in zip(steps[::2], steps[1::2], strict=True):
        b = right()
        result = compare(name, a, b)
        if not truth(result):
            return result
        a = b
    return result


def all_of(*values: Callable[[], Any]) -> Any:
    """`a and b`."""
    for value in values[:-1]:
        found = value()
        if not truth(found):
            return found
    return values[-1]()


def any_of(*values: Callable[[], Any]) -> Any:
    """`a or b`."""
    for value in values[:-1]:
        found = value()
        if truth(found):
            return found
    return values[-1]()


def truth(x: Any) -> bool:
    """`bool(x)`."""
    capture = active()
    cls = x.__class__
    if capture is None or cls is bool or x is None or cls in SIMPLE or isinstance(x, Tensor):
        return bool(x)
    if isinstance(x, CONTAINERS):
        if capture.outside(x) and (cls is not tuple or id(x) in capture.paths):
            capture.guard("truth", x, None, bool(x))
        return bool(x)
    for name in ("__bool__", "__len__"):
        method = getattr(cls, name, None)
        if isinstance(method, types.FunctionType):
            return bool(calls.call(method, x))
        if method is not None:
            return bool(x)
    return True


# -- iteration, displays, contexts -----------------------------------------------------------------------------------------------------
def iterate(x: Any) -> Any:
    """What `for` and unpacking go over."""
    capture = active()
    if capture is None or isinstance(x, Tensor):
        return x
    if isinstance(x, set | frozenset) and capture.outside(x):
        capture.refuse("goes over a set from outside, whose order may change")
        return x
    if isinstance(x, CONTAINERS):
        return capture.contents(x)
    if isinstance(x, ITERATORS):
        return x
    method = getattr(type(x), "__iter__", None)
    if isinstance(method, types.FunctionType):
        found = calls.call(method, x)
        if isinstance(found, ITERATORS):
            return found
        capture.refuse(f"goes over a {type(found).__name__}, which is not followed")
        return found
    if method is None and isinstance(getattr(type(x), "__getitem__", None), types.FunctionType):
        return _by_index(x)
    capture.refuse(f"goes over a {type(x).__name__}, which is not followed")
    return x


def _by_index(x: Any) -> Iterator[Any]:
    for i in itertools.count():
        try:
            yield access.item(x, i)
        except IndexError:
            return


def iterate_unpacked(x: Any) -> Iterable[Any]:
    """`iterate` for a loop that unpacks each element."""
    return x if active() is None else (iterate(e) for e in iterate(x))


def mapping(x: Any) -> Any:
    """What `**x` unpacks."""
    capture = active()
    if capture is None or not isinstance(x, dict):
        return x
    return capture.contents(x)


def new(value: Any) -> Any:
    """A display or comprehension made `value`."""
    capture = active()
    return value if capture is None else capture.new(value)


def show(x: Any) -> Any:
    """A value is put into text."""
    capture = active()
    if capture is None:
        return x
    x = fixed(x)
    if x.__class__ not in SIMPLE and not isinstance(x, Tensor | type) and x.__class__.__module__ != "treadle.ir.dtypes":
        capture.deep(x)
        if not isinstance(x, CONTAINERS):
            capture.refuse(f"puts a {type(x).__name__} into text")
    return x


def context(manager: Any) -> Any:
    """`with manager`."""
    capture = active()
    if capture is not None:
        cls = type(manager)
        known = cls.__module__.startswith(CONTEXTS) or cls in (contextlib.nullcontext, contextlib.suppress, contextlib.ExitStack)
        if not known and capture.fresh.get(id(manager)) is not manager:
            capture.refuse(f"enters a {cls.__name__}, which is not followed")
        elif not known:
            enter, leave = getattr(cls, "__enter__", None), getattr(cls, "__exit__", None)
            if isinstance(enter, types.FunctionType) and isinstance(leave, types.FunctionType):
                return _Entered(manager, enter, leave)
            capture.refuse(f"enters a {cls.__name__}, which is not followed")
    return manager


class _Entered:
    """A context manager of the user's own class, its methods watched."""

    def __init__(self, manager: Any, enter: Any, leave: Any) -> None:
        self.manager, self.enter, self.leave = manager, enter, leave

    def __enter__(self) -> Any:
        return calls.call(self.enter, self.manager)

    def __exit__(self, *error: Any) -> Any:
        return calls.call(self.leave, self.manager, *error)
