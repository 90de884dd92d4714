"""Graph: calls in the order in which they run, and the Python that makes them."""
from __future__ import annotations

import builtins
import contextlib
import keyword
import re
from collections.abc import Callable, Iterator
from typing import Any

from treadle.fx.code import PythonCode, Writer
from treadle.fx.node import Node, is_impure, map_arg, target_name


class Graph:
    """An ordered list of nodes. New ones go before the insertion point, which is the end unless `inserting_before` moves it."""

    def __init__(self, owning_module: Any = None, tracer_cls: Any = None, tracer_extras: Any = None) -> None:
        self.owning_module = owning_module
        self._nodes: list[Node] = []
        self._insert: Node | None = None  # before which new nodes go; None: at the end
        self._names: dict[str, int] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in order, as a copy: the graph may be changed while one goes through it."""
        return tuple(self._nodes)

    # -- making nodes ------------------------------------------------------------------------------------------------------------
    def _name(self, wanted: str) -> str:
        name = re.sub(r"\W+", "_", wanted) or "value"
        name = f"_{name}" if name[0].isdigit() else name
        stem = re.sub(r"_\d+$", "", name) if name in self._names else name
        if keyword.iskeyword(name) or hasattr(builtins, name) or name in ("self", "treadle", "operator"):
            stem, name = name, f"{name}_1"
        while name in self._names:
            self._names[stem] = self._names.get(stem, 0) + 1
            name = f"{stem}_{self._names[stem]}"
        self._names.setdefault(name, 0)
        return name

    def create_node(self, op: str, target: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, name: str | None = None,
                    type_expr: Any = None) -> Node:
        """A node at the insertion point."""
        if name is None:
            name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
            name = "output" if op == "output" else name.removeprefix("__").removesuffix("__")
        node = Node(self, self._name(name), op, target, args, kwargs or {}, type_expr)
        self._nodes.insert(len(self._nodes) if self._insert is None else self._nodes.index(self._insert), node)
        return node

    def placeholder(self, name: str, type_expr: Any = None, default_value: Any = ...) -> Node:
        """A parameter of the function."""
        return self.create_node("placeholder", name, () if default_value is ... else (default_value,), type_expr=type_expr)

    def get_attr(self, qualified_name: str, type_expr: Any = None) -> Node:
        """A tensor of the module, by its dotted name."""
        return self.create_node("get_attr", qualified_name, type_expr=type_expr)

    def call_module(self, module_name: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
                    type_expr: Any = None) -> Node:
        """A call of a submodule, by its dotted name."""
        return self.create_node("call_module", module_name, args, kwargs, type_expr=type_expr)

    def call_method(self, method_name: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
                    type_expr: Any = None) -> Node:
        """A call of a method of `args[0]`."""
        return self.create_node("call_method", method_name, args, kwargs, type_expr=type_expr)

    def call_function(self, the_function: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
                      type_expr: Any = None) -> Node:
        """A call of a function."""
        return self.create_node("call_function", the_function, args, kwargs, type_expr=type_expr)

    def output(self, result: Any, type_expr: Any = None) -> Node:
        """What the function returns."""
        return self.create_node("output", "output", (result,), type_expr=type_expr)

    def output_node(self) -> Node:
        """The node that returns."""
        return next(n for n in reversed(self._nodes) if n.op == "output")

    def find_nodes(self, *, op: str, target: Any = None, sort: bool = True) -> list[Node]:
        """Nodes of a kind, and of a target when one is given."""
        return [n for n in self._nodes if n.op == op and (target is None or n.target == target)]

    def node_copy(self, node: Node, arg_transform: Callable[[Node], Any] = lambda n: n) -> Node:
        """A copy of another graph's node; `arg_transform` gives this graph's node for each of its arguments."""
        args, kwargs = map_arg(node.args, arg_transform), map_arg(node.kwargs, arg_transform)
        made = self.create_node(node.op, node.target, args, kwargs, node.name, node.type)
        made.meta = dict(node.meta)
        return made

    def graph_copy(self, g: Graph, val_map: dict[Node, Node], return_output_node: bool = False) -> Any:
        """Copies of all nodes of `g`, noted in `val_map`; returns the value that `g` returns."""
        for node in g.nodes:
            if node.op == "output":
                result = map_arg(node.args[0], lambda n: val_map[n])
                return (result, node) if return_output_node else result
            if node not in val_map:
                val_map[node] = self.node_copy(node, lambda n: val_map[n])
        return None

    # -- changing it -------------------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def inserting_before(self, n: Node | None = None) -> Iterator[None]:
        """Inside, new nodes go before `n` (the first node by default)."""
        before = self._insert
        self._insert = n if n is not None else self._nodes[0] if self._nodes else None
        try:
            yield
        finally:
            self._insert = before

    @contextlib.contextmanager
    def inserting_after(self, n: Node | None = None) -> Iterator[None]:
        """Inside, new nodes go after `n` (the last node by default)."""
        at = len(self._nodes) if n is None else self._nodes.index(n) + 1
        before, self._insert = self._insert, self._nodes[at] if at < len(self._nodes) else None
        try:
            yield
        finally:
            self._insert = before

    def _move(self, node: Node, other: Node, offset: int) -> None:
        self._nodes.remove(node)
        self._nodes.insert(self._nodes.index(other) + offset, node)

    def erase_node(self, to_erase: Node) -> None:
        """Take a node out. RuntimeError while others use it."""
        if to_erase.users:
            raise RuntimeError(f"Tried to erase Node {to_erase} but it still had {len(to_erase.users)} users in the graph: "
                               f"{to_erase.users}!")
        to_erase._set((), {})
        to_erase._erased = True
        self._nodes.remove(to_erase)

    def eliminate_dead_code(self, is_impure_node: Callable[[Node], bool] | None = None) -> bool:
        """Take out nodes whose value nobody uses; in-place methods (`add_`) stay. Returns whether there were any."""
        changed = False
        for node in reversed(self.nodes):
            if not node.users and not (is_impure_node or is_impure)(node):
                self.erase_node(node)
                changed = True
        return changed

    def lint(self) -> None:
        """RuntimeError unless every argument comes earlier in this graph, names are unique, and targets exist in the owning module."""
        seen: set[str] = set()
        done: set[Node] = set()
        for node in self._nodes:
            for used in node.all_input_nodes:
                if used not in done:
                    raise RuntimeError(f"Argument '{used}' of Node '{node}' was used before it has been defined!")
            if node.name in seen:
                raise RuntimeError(f"Node redefined name {node.name}!")
            seen.add(node.name)
            done.add(node)
            if self.owning_module is not None and node.op in ("get_attr", "call_module"):
                part = self.owning_module
                for name in node.target.split("."):
                    if not hasattr(part, name):
                        raise RuntimeError(f"Node {node} target {node.target} references nonexistent attribute {name}")
                    part = getattr(part, name)

    # -- text --------------------------------------------------------------------------------------------------------------------
    def __str__(self) -> str:
        return "graph():\n" + "\n".join(f"    {n.format_node()}" for n in self._nodes)

    def print_tabular(self) -> None:
        """Print the nodes as a table."""
        rows = [("opcode", "name", "target", "args", "kwargs")]
        rows += [(n.op, n.name, target_name(n.target), str(n.args), str(n.kwargs)) for n in self._nodes]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        rows.insert(1, tuple("-" * w for w in widths))  # type: ignore[arg-type]
        for row in rows:
            print("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())

    def python_code(self, root_module: str = "self", *, verbose: bool = False, include_stride: bool = False,
                    include_device: bool = False) -> PythonCode:
        """The source of a `forward` that runs the graph. verbose: with the shapes that `ShapeProp` found."""
        return Writer(root_module, verbose, include_stride, include_device).function(self._nodes)
