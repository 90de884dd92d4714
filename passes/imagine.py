"""What a graph would be for other data: members of its family that nobody has recorded yet.

Batches and sentences come in several sizes, so a graph is planned for all of them when it is met first. The leading size of what its first
op computes from is changed, and followed through the graph (`treadle.passes.member`); then, in the graph of that batch, the length of its
sequences. So weights stay as they are, whatever sizes they happen to have. A wrong guess costs nothing but the chance: a template is used
only where all numbers are in the relations it was made for.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from math import prod

from treadle.ir.dtypes import FLOAT
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import Kind
from treadle.ir.types import TensorType
from treadle.passes.family import with_numbers
from treadle.passes.member import HALVES, Member

LEAST = 61          # samples that are imagined: products with primes tell what they are products of
SHORTEST = 67       # length that is imagined
MOST_STARTS = 3     # of what is taken to be the data, until something goes together
ENOUGH = 4          # one in so many results changes with the data; with something else fewer may
EVERY = 64          # more axes than there are
MOST_STRIDES = 5    # layers of which different rests are imagined

_PRODUCTS = (Kind.CONTRACT, Kind.COMPOSITE, Kind.GATHER)  # ops that have data and weights
_WEIGHTS = frozenset("w w_ih w_hh weight bias affine".split())


def imagined(graph: Graph, numbers: Sequence[int]) -> tuple[list[list[int]], list[int]] | None:
    """The numbers of a graph (see `treadle.passes.family.skeleton`) for other data, and the sizes that its data has in fact; None if it
    cannot be told what would change. Where steps are put together by the stride, also for lengths that leave other rests, the likely one
    last."""
    if any([node.regions for node in graph.nodes]):
        return None  # regions have shapes of their own
    weights = set(weights_of(graph))
    best = _other_batch(graph, weights)
    if best is None:
        return None
    found, sizes = best.numbers(), list(best.become.items())
    others: list[list[int]] = []
    places = {v: i for i, v in enumerate(graph.inputs)}
    known = {places[v] for v in weights if v in places}
    data = [places[v] for v, axes in best.inputs.items() if len(axes) == 1 and v not in weights and _is_sequence(v)]
    current, failed = None, 0
    while data and failed < MOST_STARTS:
        if current is None:
            current = with_numbers(graph, iter(found))  # so that only what is a length has the size of one
        place = data.pop(0)
        if {*current.inputs[place].type.shape[1:]} & {m for _, m in sizes}:
            continue  # it has become longer with another one
        longer = _longer(current, place, known, sizes)
        if longer is None:
            failed += 1
            continue
        others = [*_uneven(longer, place), *others]
        found, current = longer.numbers(), None
        sizes += longer.become.items()
    return [*others, found], [n for n, _ in sizes]


def _is_sequence(data: Value) -> bool:
    """Whether it may be of tokens (N, T), of vectors (N, T, D) or of channels (N, C, T)."""
    return data.type.ndim == (3 if data.type.dtype.category == FLOAT else 2)


def _other_batch(graph: Graph, weights: set[Value]) -> Member | None:
    best = None
    for start in _starts(graph):
        member = Member(graph, weights, 1, LEAST)
        if not member.change(start, 0):
            continue
        for other in _starts(graph, only=_PRODUCTS):  # images of two kinds, say
            if other.type.shape[0] in member.become and other not in member.weights:
                member.change(other, 0)
        if best is None or len(member.types) > len(best.types):
            best = member
        if len(best.types) * ENOUGH >= len(graph.nodes):
            break
    return best


def _longer(graph: Graph, place: int, weights: set[int], changed: list[tuple[int, int]]) -> Member | None:
    """With another length of sequences, of the input at this place."""
    data = graph.inputs[place]
    shape = data.type.shape
    far = max(shape) + 2 * prod([_step(node) for node in graph.nodes])  # what is left of them is more, too
    axes = sorted([i for i, n in enumerate(shape) if i and n], key=lambda i: shape[i] == 1)  # one sample in many steps, if nothing else
    for least in (max(SHORTEST, far), 0, -HALVES):  # a table of positions may be shorter, or as long
        member = Member(graph, {graph.inputs[i] for i in weights}, EVERY, least, changed)
        for axis in axes:
            if member.change(data, axis, max(0, shape[axis] + least) if least < 0 else 0):
                return member
    return None


def _uneven(longer: Member, place: int) -> Iterator[list[int]]:
    """Numbers for somewhat longer sequences: of two of them steps in each layer that halves them, say, leave different rests."""
    more, axis = 1, next(iter(longer.inputs[longer.graph.inputs[place]]))
    steps = [step for node in longer.graph.nodes if node in longer.attrs and (step := _step(node)) > 1]
    for step in steps[:MOST_STRIDES]:
        member = Member(longer.graph, longer.weights, EVERY, SHORTEST, longer.changed)
        if member.change(longer.graph.inputs[place], axis, next(iter(longer.become.values())) + more):
            yield member.numbers()
        more *= step


def _step(node: Node) -> int:
    """The stride of what puts steps together, but no gradient."""
    assert node.op is not None
    names = node.op.attrs
    return max(node.attrs[names.index("stride")]) if "stride" in names and "shape" not in names else 1


def _starts(graph: Graph, only: Container[Kind] = tuple(Kind)) -> Iterator[Value]:
    """Inputs with the leading size of what ops of certain kinds compute from them first, and those that are viewed otherwise first."""
    found: dict[Value, None] = {}
    for node in graph.nodes:
        assert node.op is not None
        if node.op.kind not in only:
            continue
        shape = node.outputs[0].type.shape
        for value in node.inputs:
            given = value.type.shape
            if given[:1] not in ((), (0,)) and (node.op.kind is Kind.VIEW or given[:1] == shape[:1]):
                if value.node.op is None and value not in found:
                    found[value] = None
                    yield value
                break
        if len(found) == MOST_STARTS:
            return


def weights_of(graph: Graph) -> Iterator[Value]:
    """What ops take for weights, what optimizers update, and of single rows those whose gradients are summed over the samples."""
    shared: Counter[TensorType] = Counter()
    for node in graph.nodes:
        assert node.op is not None
        names = node.op.operands
        if names[:2] == ("p", "g"):  # parameters, gradients and what an optimizer keeps
            yield from [v for i, v in enumerate(node.inputs) if i != 1]
            continue
        if node.op.name == "reshape" and _sums_samples(node.inputs[0].node) and node.out.type.shape[:1] == (1,):
            shared[node.out.type] += 1
        for i, value in enumerate(node.inputs):
            if names[min(i, len(names) - 1)].rstrip("*") in _WEIGHTS:
                yield value
    for type, gradients in shared.items():
        alike = [v for v in graph.inputs if v.type is type]
        if len(alike) <= gradients:
            yield from alike


def _sums_samples(node: Node) -> bool:
    return node.op is not None and node.op.name == "sum" and 0 in node.attrs[0] and node.inputs[0].type.shape[:1] == (1,)
