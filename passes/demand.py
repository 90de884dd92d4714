"""Which operand elements a node needs for one element of its result: the heart of both fusion and lowering."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from treadle.ir.graph import Node, Value
from treadle.ir.op import Kind
from treadle.ir.size import surely
from treadle.passes.index import ZERO, Axes, Condition, Guard, Index, broadcast_index, memory_index, shifted, view_index

REDUCES = ("sum", "prod", "amax", "amin", "any", "all")
ARG_REDUCES = ("argmax", "argmin")
GATHERS = ("gather", "index_select")  # x is read in memory at an index that the kernel computes
MAX_INLINE_CAT = 4
_VIEWS = ("reshape", "permute", "expand", "slice", "flip", "as_strided")
_OTHERS = ("constant", "full", "iota", "random_bits", "pad")


class Read(NamedTuple):
    """One operand element. With `memory`, `index` is a single position in the operand's contiguous memory.

    `along` is the axis of the operand that a gather indexes, -1 for a plain read.
    """

    value: Value
    index: Index  # type: ignore[assignment]  # a field, not tuple.index
    guard: Guard
    memory: bool = False
    along: int = -1


def on_host(node: Node) -> bool:
    """Whether the node has complex operands or results, which no kernel computes."""
    return any([v.dtype.is_complex for v in node.outputs]) or any([v.dtype.is_complex for v in node.inputs])


def lowerable(node: Node) -> bool:
    """Whether the node can be part of a kernel. Nodes with empty results never are: there is nothing to compute."""
    op = node.op
    if op is None or len(node.outputs) != 1 or node.out.type.numel == 0 or on_host(node):
        return False
    if op.kind is Kind.ELEMENTWISE:
        return isinstance(op.scalar, str)
    if op.name == "slice_scatter":
        return all(s == 1 for s in node.attr("steps")) and node.inputs[1].type.numel > 0
    if op.name in REDUCES or op.name in ARG_REDUCES or op.name == "cat":
        return all(v.type.numel for v in node.inputs)
    if op.name in GATHERS:
        return node.inputs[0].type.numel > 0 and len(node.inputs[0].shape) > 0
    return op.name in _VIEWS or op.name in _OTHERS


def is_strided_write(node: Node) -> bool:
    """A slice_scatter that no kernel selects element by element."""
    strided = node.op is not None and node.op.name == "slice_scatter" and not lowerable(node)
    return strided and node.inputs[1].type.numel > 0 and not on_host(node)


def overwrites(node: Node) -> bool:
    """Whether the node's result is its first operand written over in places."""
    writes = node.op is not None and (node.op.routine == "scatter" or is_strided_write(node))
    return writes and node.out.type.numel > 0 and not on_host(node)


def is_view(node: Node) -> bool:
    return node.op is not None and node.op.name in _VIEWS


def is_reduce(node: Node) -> bool:
    return node.op is not None and (node.op.name in REDUCES or node.op.name in ARG_REDUCES)


def reduced_dims(node: Node) -> tuple[int, ...]:
    assert node.op is not None
    return (node.attr("dim"),) if node.op.name in ARG_REDUCES else node.attr("dims")


def reads(axes: Axes, node: Node, index: Index, guard: Guard, reduced: Index, in_memory: Callable[[Value], bool]) -> list[Read]:
    """The operand elements behind `node` at `index`.

    reduced: the index over the reduced dims, for a reduction. in_memory: whether a value is read from memory rather than
    computed in the kernel; reshapes of such values need no index in the operand's shape.
    """
    op = node.op
    assert op is not None
    if op.kind is Kind.ELEMENTWISE:
        return [Read(v, broadcast_index(index, v.shape), guard) for v in node.inputs]
    if op.name in _VIEWS:
        return [_view_read(axes, node, index, guard, in_memory)]
    if is_reduce(node):
        return [Read(node.inputs[0], _reduce_index(node, index, reduced), guard)]
    special = _SPECIAL.get(op.name)
    return special(node, index, guard) if special is not None else []


def _view_read(axes: Axes, node: Node, index: Index, guard: Guard, in_memory: Callable[[Value], bool]) -> Read:
    source = node.inputs[0]
    assert node.op is not None
    if node.op.name == "as_strided" or (node.op.name == "reshape" and in_memory(source)):
        return Read(source, (memory_index(node, index),), guard, True)
    found = view_index(axes, node, index)
    if found is None:
        return Read(source, (memory_index(node, index),), guard, True)
    return Read(source, found, guard)


def _reduce_index(node: Node, index: Index, reduced: Index) -> Index:
    dims = reduced_dims(node)
    kept = iter([e for i, e in enumerate(index) if i not in dims] if node.attr("keepdim") else index)
    inner = iter(reduced)
    return tuple([next(inner) if i in dims else next(kept) for i in range(len(node.inputs[0].shape))])


def cat_starts(node: Node) -> list[int]:
    """Where each operand of a cat begins along its axis."""
    starts, at = [], 0
    for v in node.inputs:
        starts.append(at)
        at += v.shape[node.attr("dim")]
    return starts


def _cat(node: Node, index: Index, guard: Guard) -> list[Read]:
    dim, found = node.attr("dim"), []
    last = len(node.inputs) - 1
    for i, (v, start) in enumerate(zip(node.inputs, cat_starts(node), strict=True)):
        expr = shifted(index[dim], -start)
        size = v.shape[dim]
        inside = Condition(expr, i > 0, size if i < last else -1)
        place = tuple([(ZERO if size == 1 else expr) if d == dim else e for d, e in enumerate(index)])
        found.append(Read(v, place, _and(guard, [inside])))
    return found


def window(index: Index, starts: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Index, list[Condition]]:
    """The index inside the box at `starts` of `sizes`, in an array of `shape`, and what must hold for being inside."""
    place, conditions = [], []
    for expr, start, size, n in zip(index, starts, sizes, shape, strict=True):
        inner = shifted(expr, -start)
        low, high = not surely(0, start), not surely(start + size, n)
        if low or high:
            conditions.append(Condition(inner, low, size if high else -1))
        place.append(ZERO if size == 1 else inner)
    return tuple(place), conditions


def _pad(node: Node, index: Index, guard: Guard) -> list[Read]:
    x, value = node.inputs
    place, conditions = window(index, node.attr("low"), x.shape, node.out.shape)
    return [Read(x, place, _and(guard, conditions)), Read(value, (), guard)]


def _slice_scatter(node: Node, index: Index, guard: Guard) -> list[Read]:
    x, y = node.inputs
    place, conditions = window(index, node.attr("starts"), y.shape, x.shape)
    return [Read(x, index, guard), Read(y, place, _and(guard, conditions))]


def own_conditions(node: Node, index: Index) -> list[list[Condition]]:
    """For a cat, pad or slice_scatter: for each choice that the result selects between, what makes it the right one."""
    assert node.op is not None
    if node.op.name == "cat":
        dim = node.attr("dim")
        return [[Condition(index[dim], False, start)] for start in cat_starts(node)[1:]]
    if node.op.name == "pad":
        return [window(index, node.attr("low"), node.inputs[0].shape, node.out.shape)[1]]
    return [window(index, node.attr("starts"), node.inputs[1].shape, node.out.shape)[1]]


def _and(guard: Guard, more: list[Condition]) -> Guard:
    return guard + tuple([c for c in more if c not in guard])


def _gather(node: Node, index: Index, guard: Guard) -> list[Read]:
    """gather: the index has the operand's rank. index_select: the index's axes stand in place of the operand's `dim`."""
    x, at = node.inputs[:2]
    dim = node.attr("dim")
    if node.op is not None and node.op.name == "gather":
        where: Index = index
        place = index[:dim] + (ZERO,) + index[dim + 1:]
    else:
        end = dim + len(at.shape)
        where = index[dim:end]
        place = index[:dim] + (ZERO,) + index[end:]
    return [Read(at, where, guard), Read(x, place, guard, along=dim)]


_SPECIAL: dict[str, Callable[[Node, Index, Guard], list[Read]]] = {
    "cat": _cat, "pad": _pad, "slice_scatter": _slice_scatter, "gather": _gather, "index_select": _gather,
    "random_bits": lambda node, index, guard: [Read(v, (), ()) for v in node.inputs],
}
