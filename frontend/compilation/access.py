"""Watched reads and writes of names, attributes and items."""
from __future__ import annotations

import builtins
import operator
import sys
import types
from collections import OrderedDict, defaultdict, deque
from typing import Any

from treadle.compilation import calls
from treadle.compilation.capture import Capture, active
from treadle.compilation.known import IMMUTABLE, SYMBOLS, of_framework
from treadle.runtime.recorder import Data
from treadle.runtime.symbols import fixed
from treadle.tensor import Tensor


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
    if capture is None or cls in IMMUTABLE or (cls is Data and name == "type"):  # a value's type is its tensor's, which is guarded
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


def _class_attr(capture: Capture, cls: type, name: str, default: Any) -> Any:
    for owner in cls.__mro__:
        if name in owner.__dict__:
            value = owner.__dict__[name]
            if not of_framework(owner) and not name.startswith("__"):
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
            return calls.call(found.fget, obj)
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
            return calls.call(fallback, obj, name)
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
    if not of_framework(owner):
        capture.guard("is:class", owner, name, found)


def _from_class(capture: Capture, obj: Any, cls: type, owner: type, found: Any, name: str, fields: Any) -> Any:
    kind = type(found)
    if fields is not None and capture.outside(fields) and not name.startswith("_" if of_framework(owner) else "__"):
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
    if of_framework(owner):
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
        calls.call(setter, obj, name, value)
        return
    if isinstance(obj, type) or cls is types.ModuleType:
        capture.refuse(f"sets {name} of {obj.__name__}")
        setattr(obj, name, value)
        return
    store_attr(capture, obj, name, value)


def store_attr(capture: Capture, obj: Any, name: str, value: Any) -> None:
    found = None
    for k in type(obj).__mro__:
        if name in k.__dict__:
            found = k.__dict__[name]
            break
    if type(found) is property and found.fset is not None:
        calls.call(found.fset, obj, value)
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
    index = fixed_index(index)
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
        return calls.call(getter, container, index)
    if isinstance(container, type):
        return container[index]  # type: ignore[index]
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


def fixed_index(index: Any) -> Any:
    cls = index.__class__
    if cls in SYMBOLS:
        return fixed(index)
    if cls is tuple:
        return tuple([fixed_index(i) for i in index])
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
        container[capture.deep(fixed_index(index))] = fixed(value)
        return
    index = fixed_index(index)
    setter = getattr(type(container), "__setitem__", None)
    if isinstance(setter, types.FunctionType):
        calls.call(setter, container, index, value)
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
    del container[fixed_index(index)]
