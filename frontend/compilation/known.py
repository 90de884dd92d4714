"""Which of Python's own classes and functions are understood: they depend on their arguments alone."""
from __future__ import annotations

import builtins
import functools
import itertools
import math
import operator
import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from treadle.ir.dtypes import DType
from treadle.runtime.symbols import SymFloat, SymInt

SYMBOLS = (SymFloat, SymInt)
IMMUTABLE = frozenset({int, float, bool, str, bytes, complex, tuple, type(None), types.BuiltinFunctionType, range, builtins.slice, DType,
                        SymFloat, SymInt, frozenset, super, property, types.GetSetDescriptorType, types.MethodWrapperType,
                       types.GeneratorType, types.MethodType, enumerate, zip, map, filter, reversed, types.MappingProxyType})
READERS = frozenset({"get", "items", "keys", "values", "copy", "index", "count", "__contains__", "__len__", "__iter__", "__getitem__",
                      "most_common", "union", "intersection", "difference", "issubset", "issuperset", "isdisjoint"})
PURE_CLASSES = (list, tuple, dict, set, frozenset, bool, str, bytes, range, builtins.slice, zip, enumerate, reversed, map, filter,
                 complex, object, OrderedDict, defaultdict, deque, Counter, bytearray, functools.partial, types.SimpleNamespace, type(None),
                 *[v for v in vars(itertools).values() if isinstance(v, type)])
PURE_FUNCTIONS: set[Any] = {len, abs, min, max, sum, sorted, any, all, isinstance, issubclass, divmod, round, pow, callable, iter, next,
                             repr, hash, ord, chr, bin, hex, format, functools.reduce, id,
                             *[v for v in vars(math).values() if isinstance(v, types.BuiltinFunctionType)],
                             *[v for v in vars(operator).values() if isinstance(v, types.BuiltinFunctionType)]}
PURE_FUNCTIONS -= {operator.setitem, operator.delitem}
SYMBOL_FUNCTIONS: set[Any] = {abs, min, max, sum, isinstance, any, all}
CONTEXTS = ("treadle.grad_mode", "treadle.amp", "treadle.profiler", "treadle.autograd")
SIMPLE = frozenset({int, float, bool, str, bytes, complex, type(None), *SYMBOLS})
_ITERABLES: tuple[Any, ...] = ([], {}, (), {}.values(), {}.items(), set(), range(0), "")
ITERATORS: tuple[type, ...] = (
    zip, enumerate, map, filter, reversed, range, types.GeneratorType, str, bytes, type({}.keys()), type({}.values()), type({}.items()),
    *[type(iter(x)) for x in _ITERABLES], type(reversed([])),
    *[v for v in vars(itertools).values() if isinstance(v, type)])


def of_framework(cls: type) -> bool:
    """Classes nobody changes: Python's and Treadle's own."""
    return cls.__module__ == "builtins" or cls.__module__.split(".")[0] == "treadle"


def is_leaf(module: str) -> bool:
    """Functions of Treadle that need no watching: they depend on their arguments, the grad mode and the default dtype alone."""
    if not (module == "treadle" or module.startswith("treadle.")):
        return False
    if module.startswith(("treadle.nn", "treadle.optim")):
        return module in ("treadle.nn.functional", "treadle.nn.init") or module.endswith("_functions")
    return True
