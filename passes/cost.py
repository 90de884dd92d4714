"""What recomputing a value would cost: arithmetic, and how much memory it reads."""
from __future__ import annotations

from typing import NamedTuple

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.size import at_least
from treadle.passes.demand import is_reduce, is_view, lowerable

_CHEAP = frozenset("""add sub mul neg abs sign relu maximum minimum eq ne lt le gt ge logical_and logical_or logical_xor logical_not
bitwise_and bitwise_or bitwise_xor bitwise_not shift_left shift_right where cast floor ceil trunc round sqrt isnan isinf isfinite
cat pad slice_scatter""".split())
_FREE = frozenset("constant full iota".split())
EXPENSIVE = 10       # a transcendental function, a division
NEVER = 1 << 20


class Cost(NamedTuple):
    """ops: instructions, transcendental ones counting as EXPENSIVE. heavy: operands in memory at least as big as the value;
    touches: whether any memory is read."""

    ops: int
    heavy: int
    touches: bool


_LEAF = Cost(0, 1, True)


def own_cost(node: Node) -> int:
    assert node.op is not None
    name = node.op.name
    if is_view(node) or name in _FREE:
        return 0
    return 1 if name in _CHEAP else EXPENSIVE


def costs(graph: Graph) -> dict[Value, Cost]:
    """For each value that a kernel can compute; others are leaves."""
    found: dict[Value, Cost] = {}
    for node in graph.nodes:
        if not lowerable(node):
            continue
        if is_reduce(node):
            found[node.out] = _LEAF  # never computed twice: to whoever reads it, it is in memory
            continue
        ops, heavy, touches = own_cost(node), 0, False
        for v in node.inputs:
            if v.type.weak:
                continue
            cost = found.get(v, _LEAF)
            ops += cost.ops
            touches = touches or cost.touches
            heavy += cost.heavy if at_least(v.type.numel, node.out.type.numel) else 0
        found[node.out] = Cost(min(ops, NEVER), min(heavy, NEVER), touches)
    return found
