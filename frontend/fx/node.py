"""Node: one call in a graph of `treadle.fx`."""
from __future__ import annotations

import builtins
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.fx.graph import Graph

Target = Callable[..., Any] | str
Argument = Any
_impure: set[Any] = set()  # functions that are called for what they do
OPS = ("placeholder", "get_attr", "call_function", "call_method", "call_module", "output")


def map_arg(value: Any, change: Callable[[Node], Any]) -> Any:
    """`value` with `change(node)` in place of each node in nested tuples, lists, dicts and slices."""
    if isinstance(value, Node):
        return change(value)
    if isinstance(value, tuple):
        items = [map_arg(v, change) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [map_arg(v, change) for v in value]
    if isinstance(value, dict):
        return {k: map_arg(v, change) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*[map_arg(v, change) for v in (value.start, value.stop, value.step)])
    return value


def has_side_effect(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Keep calls of `fn` even if nobody uses what they return."""
    _impure.add(fn)
    return fn


def is_impure(node: Node) -> bool:
    """Whether a node has to stay although nobody uses its value: `add_`, `setitem`, an assertion."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op in ("get_attr", "call_module"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in ("setitem", "_assert") or node.target in _impure


class Node:
    """One call: `op` says of what kind, `target` what is called, `args` and `kwargs` with which values, other nodes among them.

    `users` are the nodes that use its value (an ordered set), `meta` is the passes' own, `type` an annotation.
    """

    def __init__(self, graph: Graph, name: str, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
                 return_type: Any = None) -> None:
        if op not in OPS:
            raise ValueError(f"Node: expected op to be one of {OPS}, got {op!r}")
        self.graph, self.name, self.op, self.target, self.type = graph, name, op, target, return_type
        self.users: dict[Node, None] = {}
        self.meta: dict[str, Any] = {}
        self._erased = False
        self._args: tuple[Any, ...] = ()
        self._kwargs: dict[str, Any] = {}
        self._set(tuple(args), dict(kwargs))

    def _set(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for used in self.all_input_nodes:
            used.users.pop(self, None)
        self._args, self._kwargs = args, kwargs
        for used in self.all_input_nodes:
            used.users[self] = None

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments."""
        return self._args

    @args.setter
    def args(self, args: tuple[Any, ...]) -> None:
        self._set(tuple(args), self._kwargs)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments."""
        return self._kwargs

    @kwargs.setter
    def kwargs(self, kwargs: dict[str, Any]) -> None:
        self._set(self._args, dict(kwargs))

    @property
    def all_input_nodes(self) -> list[Node]:
        """The nodes among the arguments, each once."""
        found: dict[Node, None] = {}
        map_arg((self._args, self._kwargs), lambda n: found.setdefault(n))
        return list(found)

    @property
    def next(self) -> Node:
        """The node after it; after the last, itself."""
        nodes = self.graph._nodes
        return nodes[min(nodes.index(self) + 1, len(nodes) - 1)]

    @property
    def prev(self) -> Node:
        """The node before it; before the first, itself."""
        nodes = self.graph._nodes
        return nodes[max(nodes.index(self) - 1, 0)]

    def append(self, other: Node) -> None:
        """Move `other` behind this node."""
        self.graph._move(other, self, 1)

    def prepend(self, other: Node) -> None:
        """Move `other` before this node."""
        self.graph._move(other, self, 0)

    def update_arg(self, index: int, value: Any) -> None:
        """Another positional argument."""
        args = list(self._args)
        args[index] = value
        self.args = tuple(args)

    def insert_arg(self, idx: int, arg: Any) -> None:
        """One more positional argument, at place `idx`."""
        if not 0 <= idx <= len(self._args):
            raise IndexError(f"insert_arg: the index must be between 0 and {len(self._args)}, got {idx}")
        self.args = (*self._args[:idx], arg, *self._args[idx:])

    def is_impure(self, impure_random: bool = True) -> bool:
        """Whether it has to stay although nobody uses its value."""
        return is_impure(self)

    @property
    def stack_trace(self) -> str | None:
        """Where it was called: what a pass put in `meta`."""
        return self.meta.get("stack_trace")

    @stack_trace.setter
    def stack_trace(self, trace: str | None) -> None:
        self.meta["stack_trace"] = trace

    def update_kwarg(self, key: str, value: Any) -> None:
        """Another keyword argument."""
        self.kwargs = {**self._kwargs, key: value}

    def replace_input_with(self, old: Node, new: Node) -> None:
        """Use `new` wherever `old` was an argument."""
        def change(n: Node) -> Node:
            return new if n is old else n
        self._set(map_arg(self._args, change), map_arg(self._kwargs, change))

    def replace_all_uses_with(self, other: Node, delete_user_cb: Callable[[Node], bool] = lambda user: True) -> list[Node]:
        """Let every user (for which `delete_user_cb` holds) use `other`; returns them."""
        changed = [user for user in self.users if delete_user_cb(user)]
        for user in changed:
            user.replace_input_with(self, other)
        return changed

    def __repr__(self) -> str:
        return self.name

    def format_node(self) -> str:
        """One line: name, users, kind, target and arguments."""
        if self.op == "output":
            return f"return {self.args[0]}"
        kind = f"{type_name(self.type)} " if self.type is not None else ""
        builtin = "builtins." if self.target is getattr(builtins, getattr(self.target, "__name__", ""), None) else ""
        head = f"%{self.name} : {kind}[num_users={len(self.users)}] = {self.op}[target={builtin}{target_name(self.target)}]"
        if self.op == "placeholder":
            return head + (f"(default={self.args[0]})" if self.args else "")
        if self.op == "get_attr":
            return head
        return f"{head}(args = {shown(self.args)}, kwargs = {shown(self.kwargs)})"


def shown(value: Any) -> str:
    """An argument, with nodes as %name."""
    if isinstance(value, Node):
        return f"%{value.name}"
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {shown(v)}' for k, v in value.items())}}}"
    return str(value)


def type_name(kind: Any) -> str:
    """An annotation as text; Treadle's own types by their public names."""
    import treadle
    if isinstance(kind, types.GenericAlias) or not isinstance(kind, type):
        return "..." if kind is ... else repr(kind).replace("treadle.tensor.Tensor", "treadle.Tensor")
    if kind.__module__ == "builtins":
        return kind.__qualname__
    public: Any = getattr(treadle, kind.__name__, None)
    return f"treadle.{kind.__name__}" if public is kind else f"{kind.__module__}.{kind.__qualname__}"


def target_name(target: Any) -> str:
    """The dotted name by which code reaches a target."""
    if isinstance(target, str):
        return target
    from treadle.fx.tracer import public_names
    name = getattr(target, "__name__", type(target).__name__)
    if target is getattr(builtins, name, None):
        return name
    public = public_names().get(id(target))
    if public is not None:
        return public
    module = getattr(target, "__module__", None)
    if isinstance(target, types.BuiltinFunctionType) and module in ("_operator", "operator"):
        return f"operator.{name}"
    return f"{module}.{name}" if module else name
