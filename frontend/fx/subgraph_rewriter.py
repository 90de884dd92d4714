"""Parts of a graph that look like a pattern, put in another form."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from treadle.fx.graph import Graph
from treadle.fx.graph_module import GraphModule
from treadle.fx.node import Node
from treadle.fx.tracer import symbolic_trace
from treadle.nn.module import Module

__all__ = ["InternalMatch", "Match", "ReplacedPatterns", "replace_pattern", "replace_pattern_with_filters"]


class Match(NamedTuple):
    """Where a pattern was found: the node that stands for its result, and the graph's node for each of its nodes."""

    anchor: Node
    nodes_map: dict[Node, Node]


@dataclass
class ReplacedPatterns:
    """A `Match`, and the nodes that took its place."""

    anchor: Node
    nodes_map: dict[Node, Node]
    replacements: list[Node]


@dataclass
class InternalMatch:
    """What a filter is asked about: the graph's nodes for a pattern's, its inputs and its results."""

    anchors: list[Node]
    nodes_map: dict[Node, Any] = field(default_factory=dict)
    placeholder_nodes: list[Any] = field(default_factory=list)
    returning_nodes: list[Node] = field(default_factory=list)


Filter = Callable[[InternalMatch, Graph, Graph], bool]


def replace_pattern(gm: GraphModule, pattern: Callable[..., Any] | Graph, replacement: Callable[..., Any] | Graph) -> list[Match]:
    """Put `replacement` wherever `gm` computes what `pattern` does; both are functions or modules of the same parameters.

    A pattern's parameters stand for anything. What it computes on the way must not be used elsewhere; its results may be. Of matches that
    overlap the first is taken. Returns the places.
    """
    return [Match(m.anchor, m.nodes_map) for m in replace_pattern_with_filters(gm, pattern, replacement)]


def replace_pattern_with_filters(gm: GraphModule, pattern: Callable[..., Any] | Graph,
                                 replacement: Callable[..., Any] | Graph | None = None,
                                 match_filters: list[Filter] | None = None, ignore_literals: bool = False,
                                 replacement_callback: Callable[[InternalMatch, Graph, Graph], Graph] | None = None,
                                 node_name_match: str = "") -> list[ReplacedPatterns]:
    """`replace_pattern` of those matches for which every filter holds; `replacement_callback` gives a graph for each match.

    ignore_literals: numbers in the pattern stand for any.
    """
    shape = _graph(pattern)[0]
    if replacement is None and replacement_callback is None:
        raise ValueError("replace_pattern_with_filters: needs a replacement or a replacement_callback")
    fixed, source = _graph(replacement) if replacement is not None else (None, None)
    found = [m for m in _apart(_matches(shape, gm.graph, ignore_literals, node_name_match))
             if all(keep(m, gm.graph, shape) for keep in match_filters or [])]
    renamed: dict[Node, Node] = {}
    done = []
    for match in found:
        new = replacement_callback(match, gm.graph, shape) if replacement_callback is not None else fixed
        assert new is not None
        done.append(_replace(gm.graph, shape, new, match, renamed))
    if source is not None:
        _take_parts(gm, source)
    if isinstance(replacement, Module):
        gm.delete_all_unused_submodules()
    gm.graph.lint()
    gm.recompile()
    return done


def _graph(given: Any) -> tuple[Graph, Module | None]:
    """The graph of a function, a module or a graph, and where its submodules and tensors are."""
    if isinstance(given, Graph):
        return given, None
    module = given if isinstance(given, GraphModule) else symbolic_trace(given)
    return module.graph, module


# -- finding ---------------------------------------------------------------------------------------------------------------------
def _matches(pattern: Graph, graph: Graph, any_literal: bool, name: str) -> Iterator[InternalMatch]:
    """Places where each of the pattern's results is computed from inputs in the pattern's way."""
    results = pattern.output_node().all_input_nodes
    anchors = [n for n in results if len(n.users) == 1]
    stack: list[tuple[int, dict[Node, Any]]] = [(0, {})]
    while stack:
        at, pairs = stack.pop()
        if at < len(anchors):
            tried = (_extended(anchors[at], node, pairs, any_literal, name) for node in graph.nodes)
            stack += reversed([(at + 1, more) for more in tried if more is not None])
        elif anchors and _contained(pattern, graph, pairs, results):
            inputs = [pairs[n] for n in pattern.nodes if n.op == "placeholder"]
            yield InternalMatch(anchors, pairs, inputs, [pairs[n] for n in results])


def _extended(wanted: Node, node: Node, pairs: dict[Node, Any], any_literal: bool, name: str) -> dict[Node, Any] | None:
    """`pairs` with `node` for `wanted` and so on up to the inputs; None where they differ."""
    pairs = dict(pairs)
    todo: list[tuple[Any, Any]] = [(wanted, node)]
    while todo:
        a, b = todo.pop()
        if isinstance(a, Node) and a in pairs:
            if pairs[a] is not b and not (not isinstance(b, Node) and pairs[a] == b):
                return None
        elif isinstance(a, Node) and a.op == "placeholder":
            pairs[a] = b
        elif isinstance(a, Node) and isinstance(b, Node):
            same = (a.op == b.op and a.target == b.target) or (a is wanted and name != "" and name in b.name)
            if not same or any(b is other for other in pairs.values()) or len(a.args) != len(b.args) or list(a.kwargs) != list(b.kwargs):
                return None
            pairs[a] = b
            todo += [*zip(a.kwargs.values(), b.kwargs.values(), strict=True)][::-1] + [*zip(a.args, b.args, strict=True)][::-1]
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
            if len(a) != len(b):
                return None
            todo += [*zip(a, b, strict=True)][::-1]
        elif not any_literal and (type(a) is not type(b) or a != b):
            return None
    return pairs


def _contained(pattern: Graph, graph: Graph, pairs: dict[Node, Any], results: list[Node]) -> bool:
    """Whether nothing else uses what the match computes on the way, and no result of it comes back to it through other nodes."""
    inside = {b for a, b in pairs.items() if a.op != "placeholder"}
    free = {pairs[n] for n in results}
    if any(user not in inside for node in inside - free for user in node.users):
        return False
    if any(n not in pairs for n in pattern.nodes if n.op != "output"):
        return False
    behind: set[Node] = set()
    for node in graph.nodes:
        used = node.all_input_nodes
        if node in inside and any(u in behind for u in used):
            return False
        if node not in inside and any(u in inside or u in behind for u in used):
            behind.add(node)
    return True


def _apart(matches: Iterator[InternalMatch]) -> Iterator[InternalMatch]:
    """Those that share no node with an earlier one."""
    taken: set[Node] = set()
    for match in matches:
        mine = {b for a, b in match.nodes_map.items() if a.op != "placeholder"}
        if not mine & taken:
            taken |= mine
            yield match


# -- replacing -------------------------------------------------------------------------------------------------------------------
def _replace(graph: Graph, pattern: Graph, new: Graph, match: InternalMatch, renamed: dict[Node, Node]) -> ReplacedPatterns:
    """One match replaced. `renamed` says which nodes have taken the place of results of earlier matches."""
    inputs = [n for n in new.nodes if n.op == "placeholder"]
    if len(inputs) != len(match.placeholder_nodes):
        raise ValueError(f"replace_pattern: the pattern has {len(match.placeholder_nodes)} parameters, the replacement {len(inputs)}")
    for key, node in match.nodes_map.items():
        if isinstance(node, Node) and key.op == "placeholder":
            match.nodes_map[key] = renamed.get(node, node)
    match.placeholder_nodes = [renamed.get(n, n) if isinstance(n, Node) else n for n in match.placeholder_nodes]
    values = dict(zip(inputs, match.placeholder_nodes, strict=True))
    users = {user for node in match.returning_nodes for user in node.users}
    nodes = graph.nodes
    before = next((n for n in nodes if n in users), None)
    if before is None:
        before = nodes[max(nodes.index(n) for n in match.returning_nodes) + 1]
    with graph.inserting_before(before):
        results = graph.graph_copy(new, values)
    results = [results] if isinstance(results, Node) else list(results)
    if len(results) != len(match.returning_nodes):
        raise ValueError(f"replace_pattern: the pattern returns {len(match.returning_nodes)} values, the replacement {len(results)}")
    for old, result in zip(match.returning_nodes, results, strict=True):
        old.replace_all_uses_with(result)
        renamed[old] = result
    for node in reversed(pattern.nodes):
        if node.op not in ("placeholder", "output"):
            graph.erase_node(match.nodes_map[node])
    made = [n for key, n in values.items() if key.op != "placeholder"]
    return ReplacedPatterns(match.anchors[0], match.nodes_map, made)


def _take_parts(gm: GraphModule, source: Module) -> None:
    """Copies of the replacement's submodules and tensors that `gm` lacks."""
    for node in gm.graph.nodes:
        if node.op not in ("call_module", "get_attr") or _part(gm, node.target) is not None:
            continue
        found = _part(source, node.target)
        if found is None:
            raise RuntimeError(f'Attempted to create a "{node.op}" node during subgraph rewriting with target {node.target}, but the '
                               "referenced attribute does not exist in the replacement GraphModule")
        if isinstance(found, Module):
            gm.add_submodule(node.target, copy.deepcopy(found))
        else:
            setattr(gm, node.target, copy.deepcopy(found))


def _part(module: Any, target: str) -> Any:
    for name in target.split("."):
        module = getattr(module, name, None)
    return module
