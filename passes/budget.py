"""A budget of memory for values kept for later: from saving what is fast to computing whole blocks of a network again.

Below 1, products of matrices may be computed again too: the cheapest for the bytes they save, or everything between a few points of the
network where little is alive (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Each choice is tried out on the order
of the nodes: the most bytes alive at once, and the arithmetic that is done again.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import NamedTuple

from treadle.ir.graph import Node, Value
from treadle.ir.op import Kind
from treadle.passes.demand import is_reduce, is_view, lowerable
from treadle.passes.recompute import again, choose, light

HEAVY = (Kind.CONTRACT, Kind.ATTENTION, Kind.GATHER)
SHARES = (0.25, 0.5, 0.75, 1.0)             # of the products that may be computed again
SEGMENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)   # points between which everything is


class Choice(NamedTuple):
    """What is saved, inputs among it; the later nodes with those computed again; peak bytes; arithmetic done again."""

    saved: set[Value]
    body: list[Node]
    peak: int
    work: int


class Later(NamedTuple):
    """The part of a graph for which values are saved.

    early: nodes before it, without those that are only for it. nodes: its own. results: of the graph, that it computes. values: that its
    nodes give. held: whether saved values stay until the end. free: values that are there in any case, as inputs are.
    """

    early: Sequence[Node]
    nodes: Sequence[Node]
    results: Sequence[Value]
    values: Collection[Value]
    held: bool
    free: Collection[Value] = ()

    def required(self) -> list[Value]:
        """The earlier values that are read."""
        used = [*[v for n in self.nodes for v in n.inputs], *self.results]
        return list(dict.fromkeys(v for v in used if v not in self.values))

    def choice(self, may_repeat: Callable[[Node], bool] = light) -> Choice:
        saved = set(choose(self.required(), may_repeat, self.free))
        body = again(self.nodes, self.results, saved, self.values)
        extra = [n for n in body if n.outputs[0] not in self.values]
        return Choice(saved, body, self.peak(body, saved), sum(_work(n) for n in extra))

    def peak(self, body: Sequence[Node], saved: Collection[Value]) -> int:
        """The most bytes alive at one node of `body`."""
        return max(self.alive(body, saved), default=0)

    def alive(self, body: Sequence[Node], saved: Collection[Value]) -> list[int]:
        """The bytes alive at each node of `body`, without results. What a kernel computes on its way is not in memory."""
        users: dict[Value, list[Node]] = {}
        for node in body:
            for v in node.inputs:
                users.setdefault(v, []).append(node)
        stays = set(self.results)
        last: dict[Value, int] = {}
        born: list[list[Value]] = []
        for i in range(len(body) - 1, -1, -1):
            node = body[i]
            stored = [o for o in node.outputs if _in_memory(o, users, stays)]
            end = i if stored else max((last.get(o, i) for o in node.outputs), default=i)
            for v in node.inputs:
                last[v] = max(last.get(v, 0), end)
            born.append(stored)
        born.reverse()
        kept = [v for v in saved if v.node.op is not None and v not in self.free]
        change = [0] * (len(body) + 1)
        change[0] = sum(v.type.nbytes for v in kept)
        if not self.held:
            for v in kept:
                change[min(last.get(v, 0) + 1, len(body))] -= v.type.nbytes
        for i, values in enumerate(born):
            for v in values:
                if v not in stays:
                    change[i] += v.type.nbytes
                    change[max(last.get(v, i), i) + 1] -= v.type.nbytes
        return list(accumulate(change))[:len(body)]


def within(later: Later, budget: float) -> Choice:
    """The least arithmetic done again whose peak is at most `budget` times that of light recomputation; else the lowest peak."""
    plain = later.choice()
    if budget >= 1:
        return plain
    choices = [plain]
    heavy = [n for n in later.early if n.op is not None and n.op.kind in HEAVY]
    heavy.sort(key=lambda n: _work(n) / max(1, sum(o.type.nbytes for o in n.outputs)))
    for share in SHARES:
        allowed = set(heavy[:round(share * len(heavy))])
        choices.append(later.choice(lambda n: light(n) or n in allowed))  # noqa: B023  (used at once)
    choices += [later.choice(lambda n: _repeats(n, stops)) for stops in _stops(later)]  # noqa: B023
    fitting = [c for c in choices if c.peak <= budget * plain.peak]
    return min(fitting, key=lambda c: c.work) if fitting else min(choices, key=lambda c: (c.peak, c.work))


def _repeats(node: Node, stops: set[Value]) -> bool:
    heavy = node.op is not None and node.op.kind in HEAVY
    return (heavy or light(node)) and not any(o in stops for o in node.outputs)


def _work(node: Node) -> int:
    """Arithmetic, roughly: operations of a product, elements of anything else."""
    size = sum(o.type.numel for o in node.outputs)
    if node.op is None or is_view(node):
        return 0
    if node.op.kind is Kind.CONTRACT:
        return 2 * size * node.inputs[0].shape[-1]
    if node.op.kind is Kind.ATTENTION:
        return 4 * size * node.inputs[1].shape[-2]
    return size


def _in_memory(value: Value, users: dict[Value, list[Node]], results: Collection[Value]) -> bool:
    node = value.node
    if value in results:
        return True
    if is_view(node) or value.type.weak:
        return False
    return not lowerable(node) or is_reduce(node) or any(not lowerable(u) and not is_view(u) for u in _readers(value, users))


def _readers(value: Value, users: dict[Value, list[Node]]) -> list[Node]:
    """Nodes that read the value, directly or through views."""
    found, stack = [], [value]
    while stack:
        for node in users.get(stack.pop(), ()):
            found.append(node)
            if is_view(node):
                stack.append(node.out)
    return found


def _stops(later: Later) -> list[set[Value]]:
    """For each number of points: the values alive there, where the fewest bytes are."""
    alive, sizes = _crossing(later)
    length = len(later.early)
    found: list[set[Value]] = []
    for count in SEGMENTS:
        if count + 1 > length:
            break
        half = max(1, length // (2 * (count + 1)))
        stops: set[Value] = set()
        for k in range(1, count + 1):
            middle = k * length // (count + 1)
            at = min(range(max(0, middle - half), min(length, middle + half)), key=lambda i: (sizes[i], abs(i - middle)))
            stops.update(v for v, (first, end) in alive.items() if first <= at < end)
        if stops not in found:
            found.append(stops)
    return found


def _crossing(later: Later) -> tuple[dict[Value, tuple[int, int]], list[int]]:
    """When each early value is made and last read by an early node, and the bytes alive behind each of those."""
    alive: dict[Value, tuple[int, int]] = {}
    fixed: set[Value] = set()  # made of no tensors: alive anywhere for nothing
    for i, node in enumerate(later.early):
        if all(v in fixed or v.type.weak for v in node.inputs):
            fixed.update(node.outputs)
            continue
        for v in node.inputs:
            if v in alive:
                alive[v] = (alive[v][0], i)
        for o in node.outputs:
            if o not in later.free:
                alive[o] = (i, i)
    sizes = [0] * (len(later.early) + 1)
    for v, (first, end) in alive.items():
        sizes[first] += v.type.nbytes
        sizes[end] -= v.type.nbytes
    return alive, list(accumulate(sizes))
