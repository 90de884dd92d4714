"""Save or compute again: which values of a forward pass its backward pass gets, and which it makes anew from those.

The fewest bytes are saved that a minimum cut through the forward graph finds (Chen et al. 2016, "Training deep nets with sublinear memory
cost", as a cut: Zheng and others, functorch's partitioner), where light ops may be computed again: what a kernel makes element by element,
views, casts, random bits. They give the same bits wherever they are computed. Sums are not computed again, so that the order of their
terms is one; products of matrices, sorts and scans only where a smaller budget asks for it.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from treadle.ir.graph import Node, Value
from treadle.passes.demand import GATHERS, is_reduce, is_view, lowerable

MAX_CUT = 3000        # values: beyond, a rule of thumb that takes linear time replaces the cut
INPUT_SHARE = 8       # an input is there anyway: keeping it alive counts as this fraction of saving as much
UNIT = 16             # weights are bytes times this, so that less than a byte can tip the balance


def light(node: Node) -> bool:
    """Whether computing the node again costs little and gives the same bits in any kernel."""
    return lowerable(node) and not is_reduce(node) and node.op is not None and node.op.name not in GATHERS


def again(nodes: Sequence[Node], results: Sequence[Value], saved: Collection[Value], late: Collection[Value]) -> list[Node]:
    """`nodes`, each behind what it needs that is neither saved nor late, computed just before its first use."""
    body: list[Node] = []
    done: set[Node] = set()

    def bring(values: Sequence[Value]) -> None:
        stack = [v.node for v in values]
        while stack:
            node = stack[-1]
            if node.op is None or node in done or all(o in saved or o in late for o in node.outputs):
                stack.pop()
                continue
            missing = [v.node for v in node.inputs if v.node.op is not None and v not in saved and v not in late and v.node not in done]
            if missing:
                stack += missing
            else:
                done.add(node)
                body.append(node)
                stack.pop()
    for node in nodes:
        bring([v for v in node.inputs if v not in saved and v not in late])
        body.append(node)
    bring([v for v in results if v not in saved and v not in late])
    return body


def choose(required: Sequence[Value], may_repeat: Callable[[Node], bool], free: Collection[Value] = ()) -> list[Value]:
    """The values to save, inputs among them, so that `required` can be computed from them by nodes that may be repeated.

    free: values that are there in any case, as inputs are.
    """
    reached: dict[Value, bool] = {}  # with whether it may be computed again
    stack = [v for v in required if not _number(v)]
    while stack:
        value = stack.pop()
        if value in reached:
            continue
        reached[value] = repeats = value.node.op is not None and value not in free and may_repeat(value.node)
        if repeats:
            stack += [v for v in value.node.inputs if not _number(v)]
    if len(reached) > MAX_CUT:
        return _choose_by_rule(required, reached)
    return _minimum_cut(required, reached, free)


def _number(value: Value) -> bool:
    return value.type.weak and value.node.op is None


def weight(value: Value, free: bool = False) -> int:
    """What saving the value costs."""
    nbytes = max(value.type.nbytes, 1) * UNIT
    if free or value.node.op is None:
        return nbytes // INPUT_SHARE
    return nbytes + (nbytes >> 12) + 1 if is_view(value.node) else nbytes  # its operand is as good, and needs no copy


def _minimum_cut(required: Sequence[Value], reached: dict[Value, bool], free: Collection[Value]) -> list[Value]:
    import networkx  # heavy, and few programs need it
    from networkx.algorithms.flow import boykov_kolmogorov
    flow: Any = networkx.DiGraph()
    for value, repeats in reached.items():
        if value.type.weak and repeats:
            flow.add_edge((value, 0), (value, 1))
        else:
            flow.add_edge((value, 0), (value, 1), capacity=weight(value, value in free))
        if not repeats:
            flow.add_edge("source", (value, 0))
        else:
            for v in value.node.inputs:
                if not _number(v):
                    flow.add_edge((v, 1), (value, 0))
    for value in required:
        if not _number(value):
            flow.add_edge((value, 1), "sink")
    if "source" not in flow or "sink" not in flow:
        return []
    _, (known, _) = networkx.minimum_cut(flow, "source", "sink", flow_func=boykov_kolmogorov)
    return [v for v in reached if (v, 0) in known and (v, 1) not in known]


def _choose_by_rule(required: Sequence[Value], reached: dict[Value, bool]) -> list[Value]:
    """Linear time: what can be made from saved values alone, one light node at a time, is; everything else required is saved."""
    wanted = set(required)
    there: set[Value] = set()
    saved = []
    done: set[Value] = set()
    for start in required:
        stack = [start]
        while stack:
            value = stack[-1]
            missing = [v for v in value.node.inputs if v in reached and v not in done] if reached.get(value) else []
            if missing and value not in done:
                stack += missing
                continue
            stack.pop()
            if value in done or _number(value):
                continue
            done.add(value)
            if reached[value] and all(v in there or _number(v) for v in value.node.inputs):
                there.add(value)
            elif value in wanted or value.node.op is None:
                there.add(value)
                saved.append(value)
    return saved
