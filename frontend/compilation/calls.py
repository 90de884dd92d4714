"""Watched calls: what is called decides whether it is followed, run as it is, or a reason against replaying."""
from __future__ import annotations

import builtins
import copy
import functools
import sys
import types
from typing import Any

from treadle.compilation import access, flow
from treadle.compilation.capture import CONTAINERS, Capture, active
from treadle.compilation.instrument import CODES, WATCH, Uninstrumentable, instrumented_code
from treadle.compilation.known import (
    IMMUTABLE,
    ITERATORS,
    PURE_CLASSES,
    PURE_FUNCTIONS,
    READERS,
    SYMBOL_FUNCTIONS,
    SYMBOLS,
    is_leaf,
    of_framework,
)
from treadle.runtime.symbols import SymFloat, SymInt, fixed
from treadle.tensor import Tensor


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
    method = cls.__call__ if callable(function) else None
    if isinstance(function, Tensor) or not isinstance(method, types.FunctionType):
        return _call_unknown(capture, function, args, kwargs)
    return call(method, function, *args, **kwargs)


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
    if is_leaf(module):
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
            closure.append(types.CellType(sys.modules["treadle.compilation.watch"]))
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
    if type(function) is types.FunctionType and function.__code__ not in CODES and not is_leaf(function.__module__ or ""):
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


def _leaf_argument(capture: Capture, x: Any, scalars: bool) -> Any:
    cls = x.__class__
    if cls in SYMBOLS:
        return x if scalars else fixed(x)
    if cls in IMMUTABLE and cls is not tuple and cls is not types.MethodType:
        return x
    if isinstance(x, Tensor):
        return x
    if isinstance(x, CONTAINERS):
        found = capture.deep(x)
        if scalars:
            return found
        return access.fixed_index(found) if cls is tuple else capture.new([fixed(v) for v in found]) if cls is list else found
    if cls.__module__ == "numpy":
        capture.refuse(f"uses a numpy {cls.__name__}, whose content can change")
        return x
    if isinstance(x, types.FunctionType | types.MethodType):
        return watched(x)
    if callable(x) and not isinstance(x, type) and cls.__module__.split(".")[0] != "treadle":
        return watched(x)
    if isinstance(x, ITERATORS):
        return list(iter(x))  # type: ignore[call-overload]
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
            if name in owner.__dict__ and not of_framework(owner):
                fields[name] = staticmethod(watched(getattr(cls, name)))
                break
    shadow: Any = type(cls.__name__, (cls,), fields)
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
    if cls in PURE_CLASSES or issubclass(cls, BaseException):
        return _construct_builtin(capture, cls, args, kwargs)
    module = cls.__module__
    if type(cls) is not type and type(cls).__module__ not in ("abc", "treadle.nn.parameter"):
        if not (type(cls).__module__ == "enum" and len(args) == 1):
            capture.refuse(f"makes a {cls.__name__}, which is not followed")
        return _native(cls, args, kwargs)
    if is_leaf(module) or issubclass(cls, Tensor):
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


def _builtin_operand(a: Any) -> Any:
    """An argument of list(), zip(), defaultdict() and the like."""
    if callable(a) and not isinstance(a, Tensor | type):
        return watched(a)
    return fixed(a) if isinstance(a, (*SYMBOLS, type)) else flow.iterate(a)


def _construct_builtin(capture: Capture, cls: type, args: Any, kwargs: Any) -> Any:
    if cls in (map, filter):
        return cls(watched(args[0]), *[flow.iterate(a) for a in args[1:]])
    if cls is functools.partial:
        return cls(*args, **kwargs)
    if cls in (str, bytes, range, complex, builtins.slice, bool):
        if cls is bool and args:
            return flow.truth(args[0])
        return cls(*[flow.show(a) if cls is str else fixed(a) for a in args], **kwargs)
    if issubclass(cls, BaseException):
        return cls(*[fixed(a) for a in args], **kwargs)
    made = cls(*[_builtin_operand(a) for a in args], **{k: watched(v) if callable(v) else v for k, v in kwargs.items()})
    return capture.new(made)


def _call_builtin(capture: Capture, function: Any, args: Any, kwargs: Any) -> Any:
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType):
        return _call_bound(capture, function, owner, args, kwargs)
    if function is getattr:
        return access.attr(args[0], fixed(args[1]), *args[2:])
    if function is hasattr:
        missing = object()
        return access.attr(args[0], args[1], missing) is not missing
    if function is setattr:
        access.set_attr(*args)
        return None
    if function is delattr:
        access.del_attr(*args)
        return None
    if function is len and isinstance(args[0], CONTAINERS):
        if capture.outside(args[0]):
            capture.guard("len", args[0], None, len(args[0]))
        return len(args[0])
    if function is len and isinstance(getattr(type(args[0]), "__len__", None), types.FunctionType) and not isinstance(args[0], Tensor):
        return call(type(args[0]).__len__, args[0])
    if function in (isinstance, issubclass, callable):
        return function(*args)
    if function is next and not isinstance(args[0], ITERATORS):
        method = getattr(type(args[0]), "__next__", None)
        if isinstance(method, types.FunctionType):
            return call(method, *args)
    if function is iter and len(args) == 1:
        return iter(flow.iterate(args[0]))
    try:
        pure = function in PURE_FUNCTIONS
    except TypeError:
        pure = False
    if not pure:
        capture.refuse(f"calls {getattr(function, '__qualname__', function)}")
        return _native(function, args, kwargs)
    keep = function in SYMBOL_FUNCTIONS
    args = [_builtin_argument(capture, a, keep) for a in args]
    kwargs = {k: watched(v) if callable(v) else v for k, v in kwargs.items()}
    result = function(*args, **kwargs)
    return capture.new(result) if result.__class__ in (list, dict, set) else result


def _builtin_argument(capture: Capture, x: Any, keep_symbols: bool) -> Any:
    if x.__class__ in SYMBOLS:
        return x if keep_symbols else fixed(x)
    if isinstance(x, ITERATORS):
        return x
    if callable(x) and not isinstance(x, type | Tensor):
        return watched(x)
    if isinstance(x, CONTAINERS):
        return capture.contents(x)
    if isinstance(getattr(type(x), "__iter__", None), types.FunctionType) and not isinstance(x, Tensor):
        return flow.iterate(x)
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
            if name in ("extend", "update"):
                args = [flow.iterate(a) for a in args]
            elif name in ("pop", "insert", "index", "rotate"):
                args = [fixed(args[0]), *args[1:]] if args else args
            result = function(*args, **kwargs)
            return capture.new(result) if result.__class__ in (list, dict, set) and name in ("copy", "union") else result
        if name in ("get", "__getitem__", "__contains__", "setdefault") and isinstance(owner, dict) and args:
            return _dict_method(capture, owner, name, args)
        if name in READERS:
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
        return flow.compare("in", key, owner)
    if key in owner or name == "__getitem__":
        return access.item(owner, key)
    capture.guard("absent", owner, key, None)
    value = args[1] if len(args) > 1 else None
    if name == "setdefault":
        access.set_item(owner, key, value)
    return value


def _call_wrapper(capture: Capture, function: Any, args: Any, kwargs: Any) -> Any:
    """A slot method such as `super().__setattr__` or `super().__init__`."""
    name, owner = function.__name__, function.__self__
    if name == "__setattr__":
        access.store_attr(capture, owner, *args)
        return None
    if isinstance(owner, CONTAINERS) and name != "__init__":
        return _call_bound(capture, function, owner, args, kwargs)
    if name in ("__init__", "__eq__", "__hash__", "__repr__", "__str__"):
        return function(*args, **kwargs)
    return _call_unknown(capture, function, args, kwargs)


def _call_unknown(capture: Capture, function: Any, args: Any, kwargs: Any) -> Any:
    name = getattr(function, "__qualname__", None) or type(function).__name__
    capture.refuse(f"calls {name}, which is not followed")
    return _native(function, args, kwargs)
