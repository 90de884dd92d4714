"""What instrumented code calls: Python's accesses, done as Python does them, and noted in the thread's capture.

Outside a capture (a closure that outlived it) they only do what Python does.
"""
from __future__ import annotations

import builtins
import contextlib
import copy
import functools
import itertools
import math
import operator
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from treadle import autograd
from treadle.compilation.capture import CONTAINERS, Capture, active
from treadle.compilation.instrument import CODES, WATCH, Uninstrumentable, instrumented_code
from treadle.ir.dtypes import DType
from treadle.runtime import symbols
from treadle.runtime.symbols import SymFloat, SymInt, fixed
from treadle.tensor import Tensor

slice = builtins.slice
_this = sys.modules[__name__]
_SYMBOLS = (SymFloat, SymInt)
_IMMUTABLE = frozenset({int, float, bool, str, bytes, complex, tuple, type(None), types.BuiltinFunctionType, range, builtins.slice, DType,
                        SymFloat, SymInt, frozenset, super, property, types.GetSetDescriptorType, types.MethodWrapperType, types.GeneratorType,
                        types.MethodType, enumerate, zip, map, filter, reversed, types.MappingProxyType})
_READERS = frozenset({"get", "items", "keys", "values", "copy", "index", "count", "__contains__", "__len__", "__iter__", "__getitem__",
                      "most_common", "union", "intersection", "difference", "issubset", "issuperset", "isdisjoint"})
_PURE_CLASSES = (list, tuple, dict, set, frozenset, bool, str, bytes, range, builtins.slice, zip, enumerate, reversed, map, filter,
                 complex, object, OrderedDict, defaultdict, deque, Counter, bytearray, functools.partial, types.SimpleNamespace, type(None),
                 *[v for v in vars(itertools).values() if isinstance(v, type)])
_PURE_FUNCTIONS: set[Any] = {len, abs, min, max, sum, sorted, any, all, isinstance, issubclass, divmod, round, pow, callable, iter, next,
                             repr, hash, ord, chr, bin, hex, format, functools.reduce, id,
                             *[v for v in vars(math).values() if isinstance(v, types.BuiltinFunctionType)],
                             *[v for v in vars(operator).values() if isinstance(v, types.BuiltinFunctionType)]}
_PURE_FUNCTIONS -= {operator.setitem, operator.delitem}
_SYMBOL_FUNCTIONS: set[Any] = {abs, min, max, sum, isinstance, any, all}
_CONTEXTS = ("treadle.grad_mode", "treadle.amp", "treadle.profiler", "treadle.autograd")


def _place_list(container: Any, index: Any) -> tuple[str, Any, Any]:
    return ("list", container, index)


# -- names and attributes ----------------------------------------------------------------------------------------------------------
def glob(value: Any, name: str) -> Any:
    """A global or builtin name was read."""
    capture = active()
    if capture is None:
        return value
    names = sys._getframe(1).f_globals
    if names.get("__name__", "").split(".")[0] == "treadle" and not (name.endswith("hooks") or isinstance(value, Tensor)):
        return value
    if name not in names:
        capture.guard("absent", names, name, None)
        return value
    capture.know(names)
    return capture.read(("dict", names, name), value)


def stored_global(name: str) -> None:
    capture = active()
    if capture is not None:
        names = sys._getframe(1).f_globals
        capture.know(names)
        capture.wrote(("dict", names, name))


def attr(obj: Any, name: str, *default: Any) -> Any:
    """`obj.name`."""
    capture = active()
    cls = type(obj)
    if capture is None or cls in _IMMUTABLE:
        return getattr(obj, name, *default)
    if isinstance(obj, Tensor):
        return _tensor_attr(capture, obj, name, default)
    if cls is types.ModuleType:
        value = getattr(obj, name, *default)
        if obj.__name__.split(".")[0] in ("treadle", "math", "functools", "itertools", "operator"):
            return value
        return capture.read(("dict", capture.know(obj.__dict__), name), value) if name in obj.__dict__ else value
    if isinstance(obj, type):
        return _class_attr(capture, obj, name, default)
    if isinstance(cls.__getattribute__, types.FunctionType):
        capture.refuse(f"{cls.__name__} reads its attributes in its own way")
        return getattr(obj, name, *default)
    return _object_attr(capture, obj, cls, name, default)


def _tensor_attr(capture: Capture, t: Tensor, name: str, default: Any) -> Any:
    value = getattr(t, name, *default)
    if name == "grad":
        if id(t) in capture.seen and t._grad is capture.seen[id(t)].grad:
            capture.grad_reads[id(t)] = t
            return value if value is None else capture.locate(value, ("grad", t, None))
        return value
    if name in t.__dict__ and not name.startswith("_") and id(t) in capture.seen:
        return capture.read(("dict", capture.know(t.__dict__), name), value)
    return value


def _framework(cls: type) -> bool:
    return cls.__module__ == "builtins" or cls.__module__.split(".")[0] == "treadle"


def _class_attr(capture: Capture, cls: type, name: str, default: Any) -> Any:
    for owner in cls.__mro__:
        if name in owner.__dict__:
            value = owner.__dict__[name]
            if not _framework(owner) and not name.startswith("__"):
                found = capture.read(("class", owner, name), value)
                if found is not value:
                    return found
            break
    return getattr(cls, name, *default)


def _object_attr(capture: Capture, obj: Any, cls: type, name: str, default: Any) -> Any:
    found: Any = None
    owner: Any = None
    for k in cls.__mro__:
        if name in k.__dict__:
            owner, found = k, k.__dict__[name]
            break
    if owner is not None:
        kind = type(found)
        if kind is property:
            _guard_class(capture, owner, name, found)
            if found.fget is None:
                return getattr(obj, name, *default)
            return call(found.fget, obj)
        if kind is types.MemberDescriptorType:
            return capture.read(("slot", obj, name), getattr(obj, name, *default))
        if hasattr(kind, "__set__"):
            if kind is not types.GetSetDescriptorType:
                capture.refuse(f"{cls.__name__}.{name} is a descriptor")
            return getattr(obj, name, *default)
    fields = getattr(obj, "__dict__", None)
    if fields is not None and capture.outside(obj) and cls.__module__ not in ("builtins", "collections"):
        capture.know(fields)
    if fields is not None and name in fields:
        return capture.read(("dict", fields, name), fields[name])
    if owner is not None:
        return _from_class(capture, obj, cls, owner, found, name, fields)
    fallback = getattr(cls, "__getattr__", None)
    if fallback is not None:
        if fields is not None and capture.outside(fields) and not _framework_lookup(fallback):
            capture.guard("absent", fields, name, None)
        try:
            return call(fallback, obj, name)
        except AttributeError:
            if default:
                return default[0]
            raise
    if fields is not None and capture.outside(fields):
        capture.guard("absent", fields, name, None)
    return getattr(obj, name, *default)


def _framework_lookup(function: Any) -> bool:
    """Module.__getattr__: a name in its tables is in no instance dictionary, Module.__setattr__ sees to that."""
    return bool(getattr(function, "__module__", "") == "treadle.nn.module")


def _guard_class(capture: Capture, owner: type, name: str, found: Any) -> None:
    if not _framework(owner):
        capture.guard("is:class", owner, name, found)


def _from_class(capture: Capture, obj: Any, cls: type, owner: type, found: Any, name: str, fields: Any) -> Any:
    kind = type(found)
    if fields is not None and capture.outside(fields) and not name.startswith("_" if _framework(owner) else "__"):
        capture.guard("absent", fields, name, None)
    if kind is types.FunctionType:
        _guard_class(capture, owner, name, found)
        return types.MethodType(found, obj)
    if kind is classmethod:
        _guard_class(capture, owner, name, found)
        return types.MethodType(found.__func__, cls)
    if kind is staticmethod:
        _guard_class(capture, owner, name, found)
        return found.__func__
    if hasattr(kind, "__get__"):
        if kind.__module__ != "builtins":
            capture.refuse(f"{cls.__name__}.{name} is a descriptor")
        return getattr(obj, name)
    if _framework(owner):
        return found
    return capture.read(("class", owner, name), found)


def set_attr(obj: Any, name: str, value: Any) -> None:
    """`obj.name = value`."""
    capture = active()
    if capture is None:
        setattr(obj, name, value)
        return
    cls = type(obj)
    if isinstance(obj, Tensor):
        setattr(obj, name, value)
        if name in obj.__dict__ and not name.startswith("_") and id(obj) in capture.seen:
            capture.wrote(("dict", capture.know(obj.__dict__), name))
        return
    setter = cls.__setattr__
    if isinstance(setter, types.FunctionType):
        call(setter, obj, name, value)
        return
    if isinstance(obj, type) or cls is types.ModuleType:
        capture.refuse(f"sets {name} of {obj.__name__}")
        setattr(obj, name, value)
        return
    _store_attr(capture, obj, name, value)


def _store_attr(capture: Capture, obj: Any, name: str, value: Any) -> None:
    found = None
    for k in type(obj).__mro__:
        if name in k.__dict__:
            found = k.__dict__[name]
            break
    if type(found) is property and found.fset is not None:
        call(found.fset, obj, value)
        return
    if found is not None and hasattr(type(found), "__set__"):
        if type(found) is not types.MemberDescriptorType:
            capture.refuse(f"{type(obj).__name__}.{name} is a descriptor")
        setattr(obj, name, value)
        capture.wrote(("slot", obj, name))
        return
    object.__setattr__(obj, name, value)
    if capture.outside(obj):
        capture.wrote(("dict", capture.know(obj.__dict__), name))


def del_attr(obj: Any, name: str) -> None:
    capture = active()
    if capture is not None and capture.outside(obj):
        capture.refuse(f"deletes attribute {name}")
    delattr(obj, name)


# -- items ---------------------------------------------------------------------------------------------------------------------------
def item(container: Any, index: Any) -> Any:
    """`container[index]`."""
    capture = active()
    if capture is None:
        return container[index]
    index = _fixed_index(index)
    cls = type(container)
    if isinstance(container, Tensor) or cls in (str, bytes, range):
        return container[capture.deep(index)]
    if isinstance(container, dict) and cls.__getitem__ in (dict.__getitem__, OrderedDict.__getitem__):
        return _dict_item(capture, container, index)
    if isinstance(container, list | tuple | deque) and cls.__getitem__ in (list.__getitem__, tuple.__getitem__, deque.__getitem__):
        if not capture.outside(container):
            return container[index]
        if isinstance(index, builtins.slice):
            return capture.new(capture.contents(container)[index])
        value = container[index]
        position = operator.index(index)
        if position < 0:
            capture.guard("len", container, None, len(container))
            position += len(container)
        return capture.read(("list", container, position), value)
    getter = getattr(cls, "__getitem__", None)
    if isinstance(getter, types.FunctionType):
        return call(getter, container, index)
    if isinstance(container, type):
        return container[index]
    if capture.outside(container):
        capture.refuse(f"reads an item of a {cls.__name__}")
    return container[index]


def _dict_item(capture: Capture, container: dict[Any, Any], index: Any) -> Any:
    if index in container:
        return capture.read(("dict", container, index), container[index])
    if capture.outside(container):
        capture.guard("absent", container, index, None)
    value = container[index]  # KeyError, or what __missing__ makes
    if value.__class__ in (dict, list, set, OrderedDict, defaultdict):
        capture.new(value)
    capture.wrote(("dict", container, index))
    return value


def _fixed_index(index: Any) -> Any:
    cls = index.__class__
    if cls in _SYMBOLS:
        return fixed(index)
    if cls is tuple:
        return tuple([_fixed_index(i) for i in index])
    if cls is builtins.slice:
        return builtins.slice(fixed(index.start), fixed(index.stop), fixed(index.step))
    return index


def set_item(container: Any, index: Any, value: Any) -> None:
    """`container[index] = value`."""
    capture = active()
    if capture is None:
        container[index] = value
        return
    if isinstance(container, Tensor):
        container[capture.deep(_fixed_index(index))] = fixed(value)
        return
    index = _fixed_index(index)
    setter = getattr(type(container), "__setitem__", None)
    if isinstance(setter, types.FunctionType):
        call(setter, container, index, value)
        return
    container[index] = value
    if capture.outside(container):
        if isinstance(container, dict):
            capture.wrote(("dict", container, index))
        elif isinstance(container, list) and isinstance(index, int):
            capture.guard("len", container, None, len(container))
            capture.wrote(("list", container, index % len(container)))
        else:
            capture.refuse(f"changes a {type(container).__name__} from outside")


def del_item(container: Any, index: Any) -> None:
    capture = active()
    if capture is not None and capture.outside(container):
        capture.refuse(f"deletes an item of a {type(container).__name__} from outside")
    del container[_fixed_index(index)]


# -- operators -----------------------------------------------------------------------------------------------------------------------
_SIMPLE = frozenset({int, float, bool, str, bytes, complex, type(None), *_SYMBOLS})
_OPERATORS: dict[str, Callable[..., Any]] = {
    **{n: getattr(operator, n) for n in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift", "and_", "or_",
                                         "xor", "neg", "pos", "invert", "eq", "ne", "lt", "le", "gt", "ge")},
    "in": lambda a, b: a in b, "not in": lambda a, b: a not in b}


def _operand(capture: Capture, x: Any) -> Any:
    if x.__class__ in _SIMPLE or isinstance(x, Tensor):
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
    if capture is None or a.__class__ in _SIMPLE:
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
            found = truth(call(method, b, a))
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
    if capture is None or cls is bool or x is None or cls in _SIMPLE or isinstance(x, Tensor):
        return bool(x)
    if isinstance(x, CONTAINERS):
        if capture.outside(x) and (cls is not tuple or id(x) in capture.paths):
            capture.guard("truth", x, None, bool(x))
        return bool(x)
    for name in ("__bool__", "__len__"):
        method = getattr(cls, name, None)
        if isinstance(method, types.FunctionType):
            return bool(call(method, x))
        if method is not None:
            return bool(x)
    return True


# -- iteration, displays, contexts -----------------------------------------------------------------------------------------------------
_ITERATORS = (zip, enumerate, map, filter, reversed, range, types.GeneratorType, str, bytes, type(iter([])), type(iter({})), type(iter(())),
              type(iter({}.values())), type(iter({}.items())), type(iter(set())), type(iter(range(0))), type(iter("")), type(reversed([])),
              type({}.keys()), type({}.values()), type({}.items()), *[v for v in vars(itertools).values() if isinstance(v, type)])


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
    if isinstance(x, _ITERATORS):
        return x
    method = getattr(type(x), "__iter__", None)
    if isinstance(method, types.FunctionType):
        found = call(method, x)
        if isinstance(found, _ITERATORS):
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
            yield item(x, i)
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
    if x.__class__ not in _SIMPLE and not isinstance(x, Tensor | type) and x.__class__.__module__ != "treadle.ir.dtypes":
        capture.deep(x)
        if not isinstance(x, CONTAINERS):
            capture.refuse(f"puts a {type(x).__name__} into text")
    return x


def context(manager: Any) -> Any:
    """`with manager`."""
    capture = active()
    if capture is not None:
        cls = type(manager)
        known = cls.__module__.startswith(_CONTEXTS) or cls in (contextlib.nullcontext, contextlib.suppress, contextlib.ExitStack)
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
        return call(self.enter, self.manager)

    def __exit__(self, *error: Any) -> Any:
        return call(self.leave, self.manager, *error)


# -- calls -----------------------------------------------------------------------------------------------------------------------------
def call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`."""
    capture = active()
    if capture is None:
        return function(*args, **kwargs)
    cls = type(function)
    if cls is types.FunctionType:
        return _call_function(capture, function, args, kwargs)
    if cls is types.MethodType:
        return call(function.__func__, function.__self__, *args, **kwargs)
    if isinstance(function, type):
        return _call_class(capture, function, args, kwargs)
    if cls is types.BuiltinFunctionType:
        return _call_builtin(capture, function, args, kwargs)
    if cls is types.MethodWrapperType:
        return _call_wrapper(capture, function, args, kwargs)
    if cls is types.MethodDescriptorType or cls is types.WrapperDescriptorType:
        return call(getattr(args[0], function.__name__), *args[1:], **kwargs)
    if cls is functools.partial:
        capture.know(function.args)
        capture.know(function.keywords)
        return call(function.func, *function.args, *args, **{**function.keywords, **kwargs})
    inner = getattr(function, "__treadle_compiled__", None)
    if inner is not None:
        return call(inner, *args, **kwargs)
    if isinstance(function, Tensor) or not isinstance(getattr(cls, "__call__", None), types.FunctionType):
        return _call_unknown(capture, function, args, kwargs)
    return call(cls.__call__, function, *args, **kwargs)


def _leaf(module: str) -> bool:
    """Functions of Treadle that need no watching: they depend on their arguments, the grad mode and the default dtype alone."""
    if not (module == "treadle" or module.startswith("treadle.")):
        return False
    if module.startswith(("treadle.nn", "treadle.optim")):
        return module in ("treadle.nn.functional", "treadle.nn.init") or module.endswith("_functions")
    return True


_SCALAR_LEAVES = frozenset({"treadle.functions", "treadle.methods", "treadle.tensor"})


def _call_function(capture: Capture, function: types.FunctionType, args: Any, kwargs: Any) -> Any:
    if function.__code__ in CODES:
        return function(*args, **kwargs)
    inner = function.__dict__.get("__treadle_compiled__") if function.__dict__ else None
    if inner is not None:
        return call(inner, *args, **kwargs)
    module = function.__module__ or ""
    if module == "treadle.grad_mode" and function.__closure__ and hasattr(function, "__wrapped__"):
        return _under_switch(function, args, kwargs)
    if _leaf(module):
        return _call_leaf(capture, function, module, args, kwargs)
    root = module.split(".")[0]
    if root in ("copy", "typing", "warnings", "inspect", "functools", "collections"):
        if function in (copy.copy, copy.deepcopy):
            capture.refuse("copies objects")
        return function(*[fixed(a) for a in args], **kwargs)
    try:
        watched = instrument(function)
    except Uninstrumentable as reason:
        capture.refuse(f"calls {function.__qualname__}: {reason}")
        return _native(function, args, kwargs)
    return watched(*args, **kwargs)


def _under_switch(function: Any, args: Any, kwargs: Any) -> Any:
    """A function decorated with no_grad() and the like: the switch is entered here, so that the function itself is watched."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
    with cells["self"].cell_contents:
        return call(function.__wrapped__, *args, **kwargs)


def instrument(function: types.FunctionType) -> types.FunctionType:
    """The watched form of `function`; numbers in its closure become symbols. Uninstrumentable when there is none."""
    capture = active()
    code = instrumented_code(function)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    closure = []
    for name in code.co_freevars:
        if name == WATCH:
            closure.append(types.CellType(_this))
            continue
        cell = cells[name]
        closure.append(cell if capture is None or name == "__class__" else _cell(capture, cell))
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        if capture is not None:
            capture.know(default)
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, tuple(closure))
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__ = function.__qualname__
    return made


def _cell(capture: Capture, cell: types.CellType) -> types.CellType:
    try:
        value = cell.cell_contents
    except ValueError:
        return cell
    if not capture.outside(cell):
        return cell
    found = capture.read(("cell", cell, None), value)
    return cell if found is value or isinstance(value, Tensor) else capture.new(types.CellType(found))


def watched(function: Any) -> Any:
    """A callable handed to code that is not watched, itself watched."""
    capture = active()
    if capture is None:
        return function
    if type(function) is types.FunctionType and function.__code__ not in CODES and not _leaf(function.__module__ or ""):
        try:
            return instrument(function)
        except Uninstrumentable as reason:
            capture.refuse(f"calls {function.__qualname__}: {reason}")
            return function
    if type(function) is types.MethodType and type(function.__func__) is types.FunctionType:
        return types.MethodType(watched(function.__func__), function.__self__)
    if callable(function) and not isinstance(function, type | types.BuiltinFunctionType | types.FunctionType | Tensor):
        return lambda *args, **kwargs: call(function, *args, **kwargs)
    return function


def _native(function: Any, args: Any, kwargs: Any) -> Any:
    return function(*[fixed(a) for a in args], **{k: fixed(v) for k, v in kwargs.items()})


_NUMPY = ("ndarray", "generic", "Generator", "RandomState")


def _leaf_argument(capture: Capture, x: Any, scalars: bool) -> Any:
    cls = x.__class__
    if cls in _SYMBOLS:
        return x if scalars else fixed(x)
    if cls in _IMMUTABLE and cls is not tuple and cls is not types.MethodType:
        return x
    if isinstance(x, Tensor):
        return x
    if isinstance(x, CONTAINERS):
        found = capture.deep(x)
        if scalars:
            return found
        return _fixed_index(found) if cls is tuple else capture.new([fixed(v) for v in found]) if cls is list else found
    if cls.__module__ == "numpy":
        capture.refuse(f"uses a numpy {cls.__name__}, whose content can change")
        return x
    if isinstance(x, types.FunctionType | types.MethodType):
        return watched(x)
    if callable(x) and not isinstance(x, type) and cls.__module__.split(".")[0] != "treadle":
        return watched(x)
    if isinstance(x, _ITERATORS):
        return list(x)
    return x


def _call_leaf(capture: Capture, function: Any, module: str, args: Any, kwargs: Any) -> Any:
    if module == "treadle.custom_function" and function.__name__ == "apply":
        return _call_custom(function, args, kwargs)
    if module.startswith("treadle.compilation"):
        capture.refuse(f"calls {function.__name__}")
        return _native(function, args, kwargs)
    scalars = module in _SCALAR_LEAVES
    args = [_leaf_argument(capture, a, scalars) for a in args]
    kwargs = {k: _leaf_argument(capture, v, scalars) for k, v in kwargs.items()}
    result = function(*args, **kwargs)
    if result.__class__ in (list, dict, set):
        capture.new(result)
    return result


def _call_custom(function: Any, args: Any, kwargs: Any) -> Any:
    """autograd.Function.apply with the user's methods watched."""
    cls = args[0]
    fields = {}
    for name in ("forward", "backward", "setup_context"):
        for owner in cls.__mro__:
            if name in owner.__dict__ and not _framework(owner):
                fields[name] = staticmethod(watched(getattr(cls, name)))
                break
    shadow = type(cls.__name__, (cls,), fields)
    return shadow.apply(*args[1:], **kwargs)


def _call_class(capture: Capture, cls: type, args: Any, kwargs: Any) -> Any:
    if cls is type and len(args) == 1:
        found = type(args[0])
        return float if found is SymFloat else int if found is SymInt else found
    if cls in (float, int) and len(args) == 1:
        x = args[0]
        return x if (x.__class__ is SymFloat and cls is float) or (x.__class__ is SymInt and cls is int) else cls(fixed(x))
    if cls is super:
        return super(*args)
    if cls in _PURE_CLASSES or issubclass(cls, BaseException):
        return _construct_builtin(capture, cls, args, kwargs)
    module = cls.__module__
    if type(cls) is not type and type(cls).__module__ not in ("abc", "treadle.nn.parameter"):
        if not (type(cls).__module__ == "enum" and len(args) == 1):
            capture.refuse(f"makes a {cls.__name__}, which is not followed")
        return _native(cls, args, kwargs)
    if _leaf(module) or issubclass(cls, Tensor):
        return capture.new(cls(*[_leaf_argument(capture, a, False) for a in args], **{k: fixed(v) for k, v in kwargs.items()}))
    if issubclass(cls, tuple):
        return cls(*args, **kwargs)
    init = cls.__init__
    if cls.__new__ is not object.__new__ or not isinstance(init, types.FunctionType):
        if init is object.__init__ and cls.__new__ is object.__new__:
            return capture.new(cls(*args, **kwargs))
        capture.refuse(f"makes a {cls.__name__}, which is not followed")
        return _native(cls, args, kwargs)
    made = capture.new(object.__new__(cls))
    capture.new(made.__dict__) if hasattr(made, "__dict__") else None
    if init.__code__.co_filename == "<string>" and hasattr(cls, "__dataclass_fields__"):
        if hasattr(cls, "__post_init__"):
            capture.refuse(f"makes a {cls.__name__}, whose __post_init__ is not followed")
        init(made, *args, **kwargs)
    else:
        call(init, made, *args, **kwargs)
    return made


def _construct_builtin(capture: Capture, cls: type, args: Any, kwargs: Any) -> Any:
    if cls in (map, filter):
        return cls(watched(args[0]), *[iterate(a) for a in args[1:]])
    if cls is functools.partial:
        return cls(*args, **kwargs)
    if cls in (str, bytes, range, complex, builtins.slice, bool):
        if cls is bool and args:
            return truth(args[0])
        return cls(*[show(a) if cls is str else fixed(a) for a in args], **kwargs)
    if issubclass(cls, BaseException):
        return cls(*[fixed(a) for a in args], **kwargs)
    made = cls(*[watched(a) if callable(a) and not isinstance(a, Tensor | type) else iterate(a) if not isinstance(a, _SYMBOLS) else fixed(a)
                 for a in args], **{k: watched(v) if callable(v) else v for k, v in kwargs.items()})
    return capture.new(made)


def _call_builtin(capture: Capture, function: Any, args: Any, kwargs: Any) -> Any:
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        return _call_bound(capture, function, owner, args, kwargs)
    if function is getattr:
        return attr(args[0], fixed(args[1]), *args[2:])
    if function is hasattr:
        missing = object()
        return attr(args[0], args[1], missing) is not missing
    if function is setattr:
        set_attr(*args)
        return None
    if function is delattr:
        del_attr(*args)
        return None
    if function is len and isinstance(args[0], CONTAINERS):
        if capture.outside(args[0]):
            capture.guard("len", args[0], None, len(args[0]))
        return len(args[0])
    if function is len and isinstance(getattr(type(args[0]), "__len__", None), types.FunctionType) and not isinstance(args[0], Tensor):
        return call(type(args[0]).__len__, args[0])
    if function in (isinstance, issubclass, callable):
        return function(*args)
    if function is next and not isinstance(args[0], _ITERATORS):
        method = getattr(type(args[0]), "__next__", None)
        if isinstance(method, types.FunctionType):
            return call(method, *args)
    if function is iter and len(args) == 1:
        return iter(iterate(args[0]))
    try:
        pure = function in _PURE_FUNCTIONS
    except TypeError:
        pure = False
    if not pure:
        capture.refuse(f"calls {getattr(function, '__qualname__', function)}")
        return _native(function, args, kwargs)
    keep = function in _SYMBOL_FUNCTIONS
    args = [a if isinstance(a, _ITERATORS) else watched(a) if callable(a) and not isinstance(a, type | Tensor) else _builtin_argument(capture, a, keep)
            for a in args]
    kwargs = {k: watched(v) if callable(v) else v for k, v in kwargs.items()}
    result = function(*args, **kwargs)
    return capture.new(result) if result.__class__ in (list, dict, set) else result


def _builtin_argument(capture: Capture, x: Any, keep_symbols: bool) -> Any:
    if x.__class__ in _SYMBOLS:
        return x if keep_symbols else fixed(x)
    if isinstance(x, CONTAINERS):
        return capture.contents(x)
    if isinstance(getattr(type(x), "__iter__", None), types.FunctionType) and not isinstance(x, Tensor):
        return iterate(x)
    return x


def _call_bound(capture: Capture, function: Any, owner: Any, args: Any, kwargs: Any) -> Any:
    """A method of a builtin object."""
    if isinstance(owner, str | bytes | int | float | range | complex | types.GeneratorType | type(iter([]))):
        return function(*[fixed(a) if not isinstance(a, CONTAINERS) else capture.contents(a) for a in args], **kwargs)
    if isinstance(owner, type):  # dict.fromkeys, object.__new__ and the like
        result = _native(function, args, kwargs)
        if function.__name__ == "__new__":
            capture.new(result)
            if hasattr(result, "__dict__"):
                capture.new(result.__dict__)
            return result
        return capture.new(result) if isinstance(result, CONTAINERS) else result
    if isinstance(owner, CONTAINERS):
        name = function.__name__
        if not capture.outside(owner):
            args = [fixed(a) if name in ("pop", "insert", "index", "rotate") else iterate(a) if name in ("extend", "update") else a for a in args]
            result = function(*args, **kwargs)
            return capture.new(result) if result.__class__ in (list, dict, set) and name in ("copy", "union") else result
        if name in ("get", "__getitem__", "__contains__", "setdefault") and isinstance(owner, dict) and args:
            return _dict_method(capture, owner, name, args)
        if name in _READERS:
            return getattr(capture.contents(owner), name)(*args, **kwargs)
        if isinstance(owner, tuple | frozenset):
            return function(*args, **kwargs)
        if name == "discard" or (name == "pop" and len(args) == 2 and isinstance(owner, dict)):
            if fixed(args[0]) not in owner:  # changes nothing
                capture.guard("absent", owner, fixed(args[0]), None)
                return args[1] if name == "pop" else None
        capture.refuse(f"changes a {type(owner).__name__} from outside ({name})")
        return function(*args, **kwargs)
    capture.refuse(f"calls {function.__name__} of a {type(owner).__name__}")
    return _native(function, args, kwargs)


def _dict_method(capture: Capture, owner: dict[Any, Any], name: str, args: Any) -> Any:
    key = fixed(args[0])
    if name == "__contains__":
        return compare("in", key, owner)
    if key in owner or name == "__getitem__":
        return item(owner, key)
    capture.guard("absent", owner, key, None)
    value = args[1] if len(args) > 1 else None
    if name == "setdefault":
        set_item(owner, key, value)
    return value


def _call_wrapper(capture: Capture, function: Any, args: Any, kwargs: Any) -> Any:
    """A slot method such as `super().__setattr__` or `super().__init__`."""
    name, owner = function.__name__, function.__self__
    if name == "__setattr__":
        _store_attr(capture, owner, *args)
        return None
    if name in ("__init__", "__eq__", "__hash__", "__repr__", "__str__", "__len__", "__getattribute__", "__iter__", "__getitem__", "__contains__"):
        return function(*args, **kwargs)
    return _call_bound(capture, function, owner, args, kwargs) if isinstance(owner, CONTAINERS) else _call_unknown(capture, function, args, kwargs)


def _call_unknown(capture: Capture, function: Any, args: Any, kwargs: Any) -> Any:
    name = getattr(function, "__qualname__", None) or type(function).__name__
    capture.refuse(f"calls {name}, which is not followed")
    return _native(function, args, kwargs)


def _fix(number: Any) -> None:
    capture = active()
    if capture is not None:
        capture.fix(number)


symbols.FIX = _fix
autograd.WATCHED = watched
