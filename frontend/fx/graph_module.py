"""GraphModule: a module whose `forward` is made from a graph."""
from __future__ import annotations

import copy
import linecache
from typing import Any

from treadle.fx.graph import Graph
from treadle.nn.module import Module

_count = 0


def indented(text: str) -> str:
    """All lines but the first and empty ones by four more."""
    first, *rest = text.split("\n")
    return "\n".join([first, *["    " + line if line else line for line in rest]])


class GraphModule(Module):
    """Runs `graph`, whose targets are looked up in `root`: a module, or a dict from dotted names to modules and tensors.

    `code` is the Python it runs. After a change of the graph, `recompile()` makes it anew; assigning `graph` does so by itself.
    """

    def __init__(self, root: Module | dict[str, Any], graph: Graph, class_name: str = "GraphModule") -> None:
        super().__init__()
        self.__class__ = type(class_name, (type(self),), {})  # `forward` is this object's own
        if isinstance(root, Module):
            self.training = root.training
        for node in graph.nodes:
            if node.op in ("get_attr", "call_module"):
                self._take(root, node.target)
        self.graph = graph

    def _take(self, root: Any, target: str) -> None:
        """Put what `root` has under a dotted name here, under the same name."""
        *prefix, last = target.split(".")
        place: Any = self
        value = root
        for name in prefix:
            value = value if isinstance(value, dict) else getattr(value, name)
            if name not in place._modules:
                place.add_module(name, Module())
            place = place._modules[name]
        if isinstance(root, dict):
            found = root[target]
        else:
            found = getattr(value, last)
        if last in place.__dict__ or last in place._modules or last in place._parameters or last in place._buffers:
            return
        if isinstance(found, Module):
            place.add_module(last, found)
        elif not isinstance(root, dict) and last in getattr(value, "_buffers", {}):
            place.register_buffer(last, found, last not in value._non_persistent_buffers_set)
        else:
            setattr(place, last, found)

    @property
    def graph(self) -> Graph:
        """What it runs."""
        found: Graph = self.__dict__["_graph"]
        return found

    @graph.setter
    def graph(self, graph: Graph) -> None:
        graph.owning_module = self
        self.__dict__["_graph"] = graph
        self.recompile()

    @property
    def code(self) -> str:
        """The source of `forward`."""
        return str(self.__dict__["_code"])

    def recompile(self) -> Any:
        """Make `forward` from the graph. Returns its source and the names it uses."""
        global _count
        made = self.graph.python_code("self")
        name = f"<treadle.fx {_count}>"
        _count += 1
        linecache.cache[name] = (len(made.src), None, made.src.splitlines(True), name)
        space = dict(made.globals)
        exec(compile(made.src, name, "exec"), space)
        type(self).forward = space["forward"]
        self.__dict__["_code"] = made.src
        return made

    def print_readable(self, print_output: bool = True, include_stride: bool = False, include_device: bool = False,
                       **options: Any) -> str:
        """The source as a class, with the shapes that `ShapeProp` found; printed unless told otherwise."""
        text = self._readable(self._get_name(), include_stride, include_device)
        if print_output:
            print(text)
        return text

    def _readable(self, name: str, stride: bool, device: bool) -> str:
        made = self.graph.python_code("self", verbose=True, include_stride=stride, include_device=device).src.strip() + "\n"
        parts = [m._readable(n, stride, device) for n, m in self.named_children() if isinstance(m, GraphModule)]
        return indented(f"class {name}(treadle.nn.Module):\n{made}") + indented("\n".join(["", *parts]))

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.code}\n# To see more debug info, please use `graph_module.print_readable()`"

    def add_submodule(self, target: str, m: Module) -> bool:
        """Put a module under a dotted name; False when there is something else on the way."""
        *prefix, last = target.split(".")
        place: Any = self
        for name in prefix:
            if name not in place._modules:
                if hasattr(place, name):
                    return False
                place.add_module(name, Module())
            place = place._modules[name]
        place.add_module(last, m)
        return True

    def delete_submodule(self, target: str) -> bool:
        """Take the module of a dotted name out; False when there is none."""
        *prefix, last = target.split(".")
        place: Any = self
        for name in prefix:
            place = place._modules.get(name) if isinstance(place, Module) else None
        if not isinstance(place, Module) or place._modules.get(last) is None:
            return False
        del place._modules[last]
        return True

    def delete_all_unused_submodules(self) -> None:
        """Take out the modules that no node calls, and that hold nothing a node reads."""
        used = {n.target for n in self.graph.nodes if n.op in ("call_module", "get_attr")}
        for name in [n for n, _ in self.named_modules() if n]:
            if not any(u == name or u.startswith(f"{name}.") or name.startswith(f"{u}.") for u in used):
                *prefix, last = name.split(".")
                place: Any = self
                for part in prefix:
                    place = place._modules.get(part) if place is not None else None
                if place is not None:
                    place._modules.pop(last, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphModule:
        fields = {k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k not in ("_graph", "_code")}
        plain = Module()
        plain.__dict__.update(fields)
        graph = Graph()
        result = graph.graph_copy(self.graph, {})
        graph.output(result)
        return GraphModule(plain, graph, type(self).__name__)
