"""Tracer: runs a function on proxies and writes down what it calls."""
from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import treadle
from treadle.fx.graph import Graph
from treadle.fx.graph_module import GraphModule
from treadle.fx.node import Node
from treadle.fx.proxy import Proxy, TraceError
from treadle.nn.module import Module
from treadle.tensor import Tensor

OPERATORS = {f"__{n}__": n for n in ("add", "sub", "mul", "pow", "matmul", "lt", "le", "gt", "ge", "eq", "ne")} | {
    "__truediv__": "div", "__mod__": "remainder"} | {f"__{n}__": f"__{n}__" for n in (
        "floordiv", "and", "or", "xor", "lshift", "rshift", "getitem", "setitem")}  # methods of tensors by what a graph calls them
VARIABLE = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
_wrapped: list[tuple[dict[str, Any], str]] = []  # functions of users that are not looked into: (globals, name)


def _namespaces() -> list[tuple[str, Any]]:
    from treadle import fft, linalg, nn, special
    return [("treadle", treadle), ("treadle.nn.functional", nn.functional), ("treadle.linalg", linalg), ("treadle.special", special),
            ("treadle.fft", fft)]


@functools.cache
def public_names() -> dict[int, str]:
    """The dotted public names of Treadle's functions, by their id."""
    found: dict[int, str] = {}
    for path, module in _namespaces():
        for name, value in vars(module).items():
            if isinstance(value, types.FunctionType | types.BuiltinFunctionType) and not name.startswith("_"):
                found.setdefault(id(value), f"{path}.{name}")
    return found


def wrap(fn_or_name: Any) -> Any:
    """Do not look into a function of this module when something is traced: record the call. A decorator, or by its name."""
    frame = sys._getframe(1)
    name = fn_or_name if isinstance(fn_or_name, str) else fn_or_name.__name__
    if frame.f_code.co_name != "<module>":
        raise NotImplementedError("wrap must be called at the top level of a module")
    _wrapped.append((frame.f_globals, name))
    return fn_or_name


class Tracer:
    """Makes graphs. `is_leaf_module(module, name)` says which modules are called as one; by default those of `treadle.nn`."""

    def __init__(self, autowrap_modules: tuple[types.ModuleType, ...] = (), autowrap_functions: tuple[Callable[..., Any], ...] = (),
                 param_shapes_constant: bool = False) -> None:
        self.autowrap_functions = autowrap_functions
        self.root: Module = Module()
        self.graph = Graph()

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        """Whether a call of `m` is one node."""
        return type(m).__module__.startswith("treadle.nn") and not isinstance(m, treadle.nn.Sequential)

    def path_of_module(self, mod: Module) -> str:
        """The dotted name of a submodule. NameError when it is none."""
        for name, found in self.root.named_modules():
            if found is mod:
                return name
        raise NameError("module is not installed as a submodule")

    def create_arg(self, a: Any) -> Any:
        """A value as an argument of a node: nodes for proxies and for the root's tensors."""
        if isinstance(a, Proxy):
            return a.node
        if isinstance(a, tuple):
            items = [self.create_arg(v) for v in a]
            return type(a)(*items) if hasattr(a, "_fields") else tuple(items)
        if isinstance(a, Module):
            for path, found in self.root.named_modules():
                if found is a:
                    return self.create_node("get_attr", path, (), {})
        if isinstance(a, list):
            return [self.create_arg(v) for v in a]
        if isinstance(a, dict):
            return {k: self.create_arg(v) for k, v in a.items()}
        if isinstance(a, slice):
            return slice(*[self.create_arg(v) for v in (a.start, a.stop, a.step)])
        return self._tensor(a) if isinstance(a, Tensor) else a

    def _tensor(self, t: Tensor) -> Node:
        """The node that reads a tensor of the root, where one from elsewhere is put first."""
        for name, value in (*self.root.named_parameters(), *self.root.named_buffers()):
            if value is t:
                return self.graph.get_attr(name)
        number = 0
        while hasattr(self.root, f"_tensor_constant{number}"):
            if getattr(self.root, f"_tensor_constant{number}") is t:
                break
            number += 1
        setattr(self.root, f"_tensor_constant{number}", t)
        return self.graph.get_attr(f"_tensor_constant{number}")

    def create_node(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None = None,
                    type_expr: Any = None) -> Node:
        """A new node of the graph that is being made; subclasses may change what is recorded."""
        return self.graph.create_node(kind, target, args, kwargs, name, type_expr)

    def iter(self, obj: Proxy) -> Iterator[Any]:
        """What iterating over a proxy gives."""
        raise TraceError("Proxy object cannot be iterated. This can be attempted when the Proxy is used in a loop or as a *args or "
                         "**kwargs function argument.")

    def to_bool(self, obj: Proxy) -> bool:
        """The truth of a proxy."""
        raise TraceError("symbolically traced variables cannot be used as inputs to control flow")

    def keys(self, obj: Proxy) -> Any:
        """What `proxy.keys()` gives; `**proxy` ends in a TraceError when it is iterated."""
        return self.create_proxy("call_method", "keys", (obj,), {})

    def create_proxy(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None = None,
                     type_expr: Any = None) -> Proxy:
        """A new node, as a proxy."""
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name, type_expr)
        return self.proxy(node)

    def proxy(self, node: Node) -> Proxy:
        """What stands for a node's value."""
        return Proxy(node, self)

    def call_module(self, m: Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call of a submodule does: a node for leaves, else `forward` is traced."""
        path = self.path_of_module(m)
        if not self.is_leaf_module(m, path):
            return forward(*args, **kwargs)
        return self.create_proxy("call_module", path, args, kwargs)

    def trace(self, root: Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> Graph:
        """The graph of a module's `forward` or of a function. `concrete_args` are values for parameters that are no inputs then."""
        self.root = root if isinstance(root, Module) else Module()
        function = type(root).forward if isinstance(root, Module) else root
        self.graph = Graph(self.root, type(self))
        args = self._inputs(function, isinstance(root, Module), concrete_args or {})
        placed = _by_place(function)
        with _patched(self, function):
            result = self.create_arg(placed(*args))
            returns = getattr(inspect.unwrap(placed), "__annotations__", {}).get("return")
            self.create_node("output", "output", (result,), {}, type_expr=returns)
        return self.graph

    def _inputs(self, function: Any, method: bool, concrete: dict[str, Any]) -> list[Any]:
        """Proxies for the parameters: those with a place or a name, then *args, then **kwargs."""
        plain = inspect.unwrap(function)
        parameters = list(inspect.signature(plain).parameters.values())[1 if method else 0:]
        notes = getattr(plain, "__annotations__", {})
        proxies: list[Any] = [self.root] if method else []
        for p in sorted(parameters, key=lambda p: (p.kind is p.VAR_POSITIONAL) + 2 * (p.kind is p.VAR_KEYWORD)):
            star = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
            default = () if p.default is p.empty else (p.default,)
            proxies.append(concrete[p.name] if p.name in concrete else self.create_proxy(
                "placeholder", star + p.name, default, {}, type_expr=None if star else notes.get(p.name)))
        return proxies


def _by_place(function: Any) -> Callable[..., Any]:
    """The function with a place for every parameter: what `*args` and `**kwargs` hold is unknown, so one value stands for either."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not (code.co_kwonlyargcount or code.co_flags & VARIABLE):
        traced: Callable[..., Any] = function
        return traced
    plain = inspect.unwrap(function)
    variable = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    code = code.replace(co_argcount=code.co_argcount + code.co_kwonlyargcount + variable, co_posonlyargcount=0, co_kwonlyargcount=0,
                        co_flags=code.co_flags & ~VARIABLE)
    return types.FunctionType(code, plain.__globals__, plain.__name__, None, plain.__closure__)


def _has_proxy(*values: Any) -> Proxy | None:
    for value in values:
        if isinstance(value, Proxy):
            return value
        if isinstance(value, list | tuple | dict):
            found = _has_proxy(*(value.values() if isinstance(value, dict) else value))
            if found is not None:
                return found
    return None


def _recording(function: Callable[..., Any], wrapped: bool = False) -> Callable[..., Any]:
    """The function, recorded when an argument is a proxy. wrapped: code of the graph has to wrap it too."""
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = _has_proxy(args, kwargs)
        if found is None:
            return function(*args, **kwargs)
        made = found.tracer.create_proxy("call_function", function, args, kwargs)
        if wrapped:
            made.node.meta["is_wrapped"] = True
        return made
    return call


def _method(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A tensor's method, recorded when an argument is a proxy: the tensor is one that the traced code has from elsewhere."""
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = _has_proxy(args, kwargs)
        return method(*args, **kwargs) if found is None else found.tracer.create_proxy("call_method", name, args, kwargs)
    return call


@contextlib.contextmanager
def _patched(tracer: Tracer, function: Any) -> Iterator[None]:
    """Inside, Treadle's public functions, wrapped ones, modules and their parameters record what is done with proxies."""
    saved: list[tuple[Any, str, Any]] = []

    def put(place: Any, name: str, value: Any) -> None:
        table = place if isinstance(place, dict) else vars(place)
        saved.append((place, name, table[name]))
        place.__setitem__(name, value) if isinstance(place, dict) else setattr(place, name, value)
    public = public_names()
    recorders: dict[int, Any] = {}
    places = [vars(module) for _, module in _namespaces()]
    users = [getattr(inspect.unwrap(function), "__globals__", {})]
    users += [vars(sys.modules[type(m).__module__]) for m in tracer.root.modules() if not type(m).__module__.startswith("treadle.")
              and type(m).__module__ in sys.modules]
    for table in {id(t): t for t in (*places, *users)}.values():
        for name, value in list(table.items()):
            if id(value) in public and isinstance(value, types.FunctionType | types.BuiltinFunctionType):
                put(table, name, recorders.setdefault(id(value), _recording(value)))
    for table, name in _wrapped:
        value = table.get(name, getattr(builtins, name, None))
        if value is not None and not hasattr(value, "__fx__"):
            if name not in table:
                table[name] = value
                saved.append((table, name, _ABSENT))
            saved.append((table, name, value))
            table[name] = _recording(value, wrapped=True)
    for name, method in list(vars(Tensor).items()):
        if isinstance(method, types.FunctionType) and (not name.startswith("_") or name in OPERATORS):
            put(Tensor, name, _method(method, OPERATORS.get(name, name)))
    _patch_modules(tracer, put)
    try:
        yield
    finally:
        for place, name, value in reversed(saved):
            if value is _ABSENT:
                place.pop(name, None)
            elif isinstance(place, dict):
                place[name] = value
            else:
                setattr(place, name, value)


_ABSENT = object()


def _patch_modules(tracer: Tracer, put: Callable[[Any, str, Any], None]) -> None:
    call, lookup = Module.__call__, Module.__getattr__

    def module_call(self: Module, *args: Any, **kwargs: Any) -> Any:
        return tracer.call_module(self, functools.partial(call, self), args, kwargs)

    def module_attribute(self: Module, name: str) -> Any:
        value = lookup(self, name)
        if not isinstance(value, Tensor):
            return value
        try:
            path = tracer.path_of_module(self)
        except NameError:
            return value
        full = f"{path}.{name}" if path else name
        known = next((n for n in tracer.graph.nodes if n.op == "get_attr" and n.target == full), None)
        return tracer.proxy(known if known is not None else tracer.graph.get_attr(full))
    put(Module, "__call__", module_call)
    put(Module, "__getattr__", module_attribute)


def symbolic_trace(root: Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> GraphModule:
    """A module that runs the graph of a module's `forward`, or of a function. TraceError where control flow depends on values."""
    tracer = Tracer()
    graph = tracer.trace(root, concrete_args)
    return GraphModule(tracer.root, graph, root.__class__.__name__ if isinstance(root, Module) else root.__name__)

