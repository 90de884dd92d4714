"""Arguments of the wrong type: found after a call has failed, by the function's annotations, so that calls that succeed pay nothing."""
from __future__ import annotations

import functools
import inspect
import itertools
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from treadle.ir.dtypes import FLOAT, DType
from treadle.layout import Size
from treadle.tensor import Tensor

Tensors = Any  # as an annotation: a tensor, or a sequence of tensors
Choice = str  # as an annotation: one of a few strings, for any other of which, and whatever else, the function itself raises ValueError
Order = Any  # that of a norm: a number or a name
Flag = bool | None  # where None stands for the default
Omitted: TypeAlias = None  # the default of what may be left out, but not given as None
Shape = Any  # sizes of `*sizes`, of which a function takes a tuple, and a method numbers too


def warn(message: str) -> None:
    """A UserWarning at the line of the program that called, whatever there is of ours between."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("treadle"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


class NoTensor(TypeError, AttributeError):
    """Something else in a tensor's place. PyTorch raises TypeError, or AttributeError where its function is Python asking for `size()`."""


def misfit(name: str, argument: str, position: int, wanted: str, value: Any) -> TypeError:
    """PyTorch's error for an argument of the wrong type."""
    kind = NoTensor if wanted.startswith("Tensor") and not isinstance(value, Tensor) else TypeError
    return kind(f"{name}(): argument '{argument}' (position {position}) must be {wanted}, not {type(value).__name__}")


def sizes(name: str, shape: tuple[Any, ...], size: Any) -> tuple[Any, ...]:
    """Sizes by place or by name. TypeError when there are none: `zeros(())` is one number, `zeros()` a mistake."""
    if size is None and not shape:
        raise TypeError(f"{name}() missing 1 required positional argument: 'size', a tuple of ints or ints")
    return shape if size is None else (size,)


def _is_int(x: Any) -> bool:
    if isinstance(x, Tensor):
        return x._data.type.numel == 1 and x._data.type.dtype.category < FLOAT
    return hasattr(x, "__index__")


def _is_number(x: Any) -> bool:
    return x._data.type.numel == 1 if isinstance(x, Tensor) else isinstance(x, int | float | complex | np.number) or hasattr(x, "__float__")


def _several(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, tuple | list) and all([fits(y) for y in x])


def _is_tensor(x: Any) -> bool:
    if not isinstance(x, Tensor):
        return False
    _TENSORS.add(x.__class__)
    return True


# What annotations ask for, in words, and what fits them; what is not here is not looked at.
_FITS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "Tensor": ("Tensor", _is_tensor), "None": ("None", lambda x: x is None), "int": ("int", _is_int), "float": ("float", _is_number),
    "str": ("str", lambda x: isinstance(x, str)), "bool": ("bool", lambda x: isinstance(x, bool | int | np.bool_)),
    "DType": ("treadle.dtype", lambda x: isinstance(x, DType) or x in (float, int, bool, complex)),
    "Sequence[Tensor]": ("tuple of Tensors", _several(_is_tensor)), "Sequence[int]": ("tuple of ints", _several(_is_int)),
    "Ints": ("int or tuple of ints", lambda x: _is_int(x) or _several(_is_int)(x)),
    "Sizes": ("int or tuple of ints", lambda x: _is_int(x) or _several(_is_int)(x)),
    "Order": ("Number or str", lambda x: isinstance(x, str) or _is_number(x)),
    "Flag": ("bool", lambda x: x is None or isinstance(x, bool | np.bool_)),
    "Tensors": ("Tensor or tuple of Tensors", lambda x: _is_tensor(x) or _several(_is_tensor)(x)),
    "Sequence[Tensor | None]": ("tuple of Tensors", _several(lambda x: x is None or _is_tensor(x))),
    "Omitted": ("", lambda x: False), "Shape": ("tuple of ints", _several(_is_int)),
    "Dim": ("int or tuple of ints", lambda x: x is None or _is_int(x) or _several(_is_int)(x)),
}


Wanted = tuple[int, str, tuple[Callable[[Any], bool], ...]]


@functools.cache
def _wanted(code: types.CodeType, annotations: tuple[tuple[str, str], ...]) -> dict[str, Wanted]:
    """By parameter: its position, its annotation, and what fits it."""
    found = {}
    given = dict(annotations)
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    for position, name in enumerate(code.co_varnames[:count], 1):
        wanted = given.get(name, "Any")
        parts = [wanted] if wanted in _FITS else [part.strip() for part in wanted.split("|")]
        if all([part in _FITS for part in parts]):
            words, checks = zip(*[_FITS[part] for part in parts], strict=True)
            found[name] = position, " or ".join(filter(None, words)), checks
    return found


def refuse_misfits(function: Callable[..., Any], args: Any, kwargs: dict[str, Any], error: Exception | None) -> None:
    """After a call failed with `error`: TypeError when an argument is not of the annotated type."""
    plain: Any = function
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__
    code = plain.__code__
    wanted = _wanted(code, tuple(plain.__annotations__.items()))
    rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount] if code.co_flags & inspect.CO_VARARGS else ""
    given = itertools.zip_longest(code.co_varnames[:code.co_argcount][:len(args)], args, fillvalue=rest)
    for name, value in (*given, *kwargs.items()):
        if name in wanted:
            position, what, fits = wanted[name]
            if not any([fit(value) for fit in fits]):
                raise misfit(function.__name__, name, position, what, value) from error


class Usual:
    """The classes that the arguments of a function mostly have, by its annotations: what is of another one is looked at before the call.

    Without that a string for a flag, or None for a number, could pass as true or false, and nothing fail.
    """

    __slots__ = ("by_name", "by_position", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        code = function.__code__
        self.function = function
        self.by_name = {name: classes for name, wanted in function.__annotations__.items() if (classes := _classes(name, wanted))}
        places = list(code.co_varnames[:code.co_argcount])
        if code.co_flags & inspect.CO_VARARGS:
            places.append(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        self.by_position = [(i, self.by_name[name]) for i, name in enumerate(places) if name in self.by_name]

    def refuse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """TypeError for an argument that is not of the annotated type."""
        refuse_misfits(self.function, args, kwargs, None)


# By part of an annotation. That for tensors grows by the classes derived from it.
_TENSORS: set[type] = {Tensor}
_USUAL: dict[str, set[type]] = {
    "Tensor": _TENSORS, "None": {type(None)}, "int": {int}, "float": {float, int}, "bool": {bool}, "Flag": {bool, type(None)}, "str": {str},
    "Order": {float, int, str}, "DType": {DType}, "Sequence[int]": {tuple, list}, "Sequence[Tensor]": {tuple, list},
    "Ints": {int, tuple, list}, "Sizes": {int, tuple, list}, "Omitted": set(), "Shape": {tuple, list, Size}}


def _classes(name: str, wanted: str) -> set[type] | None:
    """None where anything may come. PyTorch itself takes `return_indices` by its truth."""
    parts = [wanted] if wanted in _USUAL else [part.strip() for part in wanted.split("|")]
    if name in ("return", "return_indices") or any([part not in _USUAL for part in parts]):
        return None
    return _USUAL[parts[0]] if len(parts) == 1 else set().union(*[_USUAL[part] for part in parts])


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose failures are TypeErrors where an argument is not of the annotated type."""
    usual = Usual(function)
    positions, named = usual.by_position, usual.by_name

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        count = len(args)
        for i, classes in positions:
            if i >= count:
                break
            if args[i].__class__ not in classes:
                usual.refuse(args, kwargs)
                break
        for key in kwargs:
            if key in named and kwargs[key].__class__ not in named[key]:
                usual.refuse(args, kwargs)
                break
        try:
            return function(*args, **kwargs) if kwargs else function(*args)
        except Exception as error:
            refuse_misfits(function, args, kwargs, error)
            raise
    return call


def direct(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a function that is called often and looks at its arguments itself."""
    function.__dict__["direct"] = True
    return function


def _guardable(function: Any) -> bool:
    """Neither `direct` nor decorated with something that guards it."""
    return isinstance(function, types.FunctionType) and not hasattr(function, "__wrapped__") and not function.__dict__.get("direct")


def guard(namespace: dict[str, Any], names: list[str]) -> None:
    """Put guarded functions in the place of plain ones."""
    for name in names:
        if _guardable(namespace[name]):
            namespace[name] = guarded(namespace[name])


def guarded_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as a method: `self` is a tensor, so it is guarded only when it takes others, or what may be left out but not None."""
    others = [wanted for name, wanted in list(function.__annotations__.items())[1:] if name != "return"]
    return guarded(function) if _guardable(function) and any(["Tensor" in a or "Omitted" in a for a in others]) else function


def of_tensors(name: str, fast: Callable[..., Any], both: bool) -> Callable[..., Any]:
    """`fast`, a function of two operands, where the first one, or both, may not be a number."""
    @direct
    def function(input: Tensor, other: Any, *, out: Tensor | None = None) -> Any:
        if not isinstance(input, Tensor):
            raise misfit(name, "input", 1, "Tensor", input)
        if both and not isinstance(other, Tensor):
            raise misfit(name, "other", 2, "Tensor", other)
        return fast(input, other) if out is None else fast(input, other, out=out)
    return function
