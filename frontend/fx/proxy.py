"""Proxy: what stands for a value while a function is traced; every use of it becomes a node."""
from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from treadle.fx.node import Node

if TYPE_CHECKING:
    from treadle.fx.tracer import Tracer


class TraceError(ValueError):
    """The traced code needs a value that is not known while it is traced."""


class Proxy:
    """The value of `node`. Operators, methods and attributes of it are recorded; its value cannot be looked at."""

    def __init__(self, node: Node, tracer: Tracer) -> None:
        self.node, self.tracer = node, tracer

    def __repr__(self) -> str:
        return f"Proxy({self.node.name})"

    def __getattr__(self, name: str) -> Attribute:
        if name.startswith("__") and name.endswith("__"):  # protocols that a value may or may not have: it has them not
            raise AttributeError(name)
        return Attribute(self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", "__call__", (self, *args), kwargs)

    def __iter__(self) -> Iterator[Any]:
        frame = sys._getframe(1)
        code = list(dis.get_instructions(frame.f_code))
        here = next((i for i in code if i.offset == frame.f_lasti), None)
        if here is not None and here.opname == "UNPACK_SEQUENCE":
            return iter([self.tracer.create_proxy("call_function", operator.getitem, (self, i), {}) for i in range(here.argval)])
        raise TraceError("Proxy object cannot be iterated. This can be attempted when the Proxy is used in a loop or as a *args or "
                         "**kwargs function argument.")

    def __bool__(self) -> bool:
        raise TraceError("symbolically traced variables cannot be used as inputs to control flow")

    def __len__(self) -> int:
        raise RuntimeError("'len' is not supported in symbolic tracing by default. Use x.shape or x.size() instead, or fx.wrap('len').")

    def __index__(self) -> int:
        raise TraceError("a symbolically traced variable has no integer value while it is traced")

    __int__ = __float__ = __index__

    def keys(self) -> Any:
        """The method of that name, recorded; `**proxy` ends in a TraceError when its result is iterated."""
        return self.tracer.create_proxy("call_method", "keys", (self,), {})


class Attribute(Proxy):
    """An attribute of a proxy: called, it is a method; used otherwise, its value."""

    def __init__(self, root: Proxy, attr: str) -> None:
        self.root, self.attr, self.tracer = root, attr, root.tracer
        self._node: Node | None = None

    @property
    def node(self) -> Node:  # type: ignore[override]
        """The node that reads it, made when it is first used."""
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


def _operator(function: Any, reflected: bool) -> Any:
    def method(self: Proxy, *others: Any) -> Any:
        args = (*others, self) if reflected else (self, *others)
        return self.tracer.create_proxy("call_function", function, args, {})
    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift"):
    _function, _symbol = getattr(operator, _name), _name.strip("_")
    setattr(Proxy, f"__{_symbol}__", _operator(_function, False))
    setattr(Proxy, f"__r{_symbol}__", _operator(_function, True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "invert", "abs", "getitem", "setitem"):
    setattr(Proxy, f"__{_name}__", _operator(getattr(operator, _name), False))
Proxy.__hash__ = object.__hash__  # type: ignore[method-assign]
