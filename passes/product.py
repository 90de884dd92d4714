"""Matrix products: which memory the operands are read from, and with which strides."""
from __future__ import annotations

from typing import NamedTuple

from treadle.ir.dtypes import FLOAT
from treadle.ir.graph import Node, Value
from treadle.ir.op import Kind
from treadle.ir.size import at_least, long_enough
from treadle.passes.demand import is_view
from treadle.passes.index import Axes, Expr, Index, linearize, memory_index, suffix_strides, view_index
from treadle.passes.program import MOST_DIGITS, SHORTEST_ACROSS, SHORTEST_LINE, Windows


class Operand(NamedTuple):
    """`base` in memory, read from element `offset` with `strides` over the operand's shape; with `windows` for the last two axes."""

    base: Value
    offset: int
    strides: tuple[int, ...]
    windows: Windows | None = None


def plain(value: Value) -> Operand:
    return Operand(value, 0, suffix_strides(value.shape))


def fold_view(value: Value) -> Operand:
    """Look through the views that `value` is made of, as many of them as one stride per axis can express."""
    for depth in range(_depth(value), 0, -1):
        found = _fold(value, depth)
        if found is not None:
            return found
    return plain(value)


def _depth(value: Value) -> int:
    """How many views lie on each other."""
    depth = 0
    while is_view(value.node):
        value, depth = value.node.inputs[0], depth + 1
    return depth


def _fold(value: Value, depth: int) -> Operand | None:
    """Through the outermost `depth` views; None when that takes more than one stride for an axis."""
    axes = Axes()
    index, made = axes.fresh(value.shape)
    base, linear = _walk(axes, value, index, depth)
    linear = axes.resolve(linear)
    coefficients = dict(linear.terms)
    strides = []
    own = iter(made)
    for n in value.shape:
        stride = 0 if n == 1 else _stride(axes, next(own), coefficients)
        if stride is None:
            return None
        strides.append(stride)
    return Operand(base, linear.const, tuple(strides))


def _walk(axes: Axes, value: Value, index: Index, depth: int) -> tuple[Value, Expr]:
    """The value behind the views, and where `index` is in its memory."""
    for _ in range(depth):
        node = value.node
        source = node.inputs[0]
        assert node.op is not None
        step = None if node.op.name == "reshape" and not is_view(source.node) else view_index(axes, node, axes.resolve_index(index))
        if step is None:
            return source, memory_index(node, axes.resolve_index(index))
        value, index = source, step
    return value, linearize(index, value.shape)


def _stride(axes: Axes, axis: int, coefficients: dict[int, int]) -> int | None:
    """The one stride of an axis that may have been split, or None."""
    stride, step = None, 0
    for a in reversed(axes.atoms([axis])):
        c = coefficients.get(a, 0)
        if stride is None:
            stride, step = c, c * axes.size[a]
        elif c != step:
            return None
        else:
            step *= axes.size[a]
    return stride


# Rows of the other operand below which windows whose columns are short lines, those of a kernel, are made beforehand: putting vectors
# together from them is then most of the work.
FEW_ROWS = 9
SHORT_LINE = 8


def fold_windows(value: Value) -> Operand | None:
    """A matrix, or a batch of them, whose columns are windows of an image in memory; None when it is no such thing."""
    for depth in range(_depth(value), 0, -1):
        axes = Axes()
        index, made = axes.fresh(value.shape)
        base, linear = _walk(axes, value, index, depth)
        linear = axes.resolve(linear)
        coefficients, own = dict(linear.terms), iter(made)
        *lead, rows, columns = [() if n == 1 else _digits(axes, next(own), coefficients) for n in value.shape]
        if any(len(digits) > 1 for digits in lead) or not _are_windows(rows, columns):
            continue
        # Lines of the image that rows run along are worth more than short ones of a kernel, or every second element of one.
        across = not _are_lines(columns) or ((columns[-1][1] != 1 or not at_least(columns[-1][0], SHORT_LINE)) and _are_lines_across(rows))
        return Operand(base, linear.const, (*[d[0][1] if d else 0 for d in lead], 0, 0), Windows(rows, columns, across))
    return None


def _digits(axes: Axes, axis: int, coefficients: dict[int, int]) -> tuple[tuple[int, int], ...]:
    """(size, stride) of the axes that an axis became, outermost first; neighbours joined where they are walked through evenly."""
    found: list[tuple[int, int]] = []
    for atom in axes.atoms([axis]):
        size, stride = axes.size[atom], coefficients.get(atom, 0)
        if found and found[-1][1] == stride * size:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)


def _are_windows(rows: tuple[tuple[int, int], ...], columns: tuple[tuple[int, int], ...]) -> bool:
    if not 1 <= len(rows) <= MOST_DIGITS or not 1 <= len(columns) <= MOST_DIGITS or len(rows) + len(columns) == 2:
        return False
    return _are_lines(columns) or _are_lines_across(rows)


def _are_lines(columns: tuple[tuple[int, int], ...]) -> bool:
    length, step = columns[-1]
    return step in (1, 2) and long_enough(length, SHORTEST_LINE)


def _are_lines_across(rows: tuple[tuple[int, int], ...]) -> bool:
    length, step = rows[-1]
    return step == 1 and long_enough(length, SHORTEST_LINE) and at_least(length, SHORTEST_ACROSS)


def _runs_along(operand: Operand) -> bool:
    """Whether columns run along lines of the image, not along those of a kernel."""
    assert operand.windows is not None
    rows, columns, across = operand.windows
    return not across and (at_least(columns[-1][0], SHORT_LINE) or at_least(columns[-1][0], rows[-1][0]))


def _usable(operand: Operand, shape: tuple[int, ...]) -> Operand | None:
    """With one unit stride among the last two axes, as the product's kernels want; None when there is none."""
    rows, columns = operand.strides[-2:]
    if shape[-1] == 1:
        columns = 1
    if shape[-2] == 1:
        rows = shape[-1] if columns == 1 else 1
    if (rows, columns).count(1) == 0 or any(s < 0 for s in (rows, columns, *operand.strides)) or rows == 0 or columns == 0:
        return None
    return operand._replace(strides=(*operand.strides[:-2], rows, columns))


# Products with a kernel of their own, by the form in which it takes its operands.
FORMS = {"bfloat16_matmul": "bfloat16", "int8_matmul": "int8"}


def has_kernel(node: Node) -> bool:
    """Whether a matrix kernel computes the node."""
    if node.op is None or node.op.kind is not Kind.CONTRACT:
        return False
    return node.op.name in FORMS or (node.op.name == "matmul" and node.out.dtype.category == FLOAT)


def _paired(value: Value, across: bool) -> Operand:
    """An operand whose last axis is contiguous and is read two numbers at a time; or, where `across`, the axis before it is."""
    operand = fold_view(value)
    if across and operand.strides[-2] == 1 and operand.strides[-1] > 1 and all([s >= 0 for s in operand.strides]):
        return operand
    even = operand.offset % 2 == 0 and all(s >= 0 and s % 2 == 0 for s in operand.strides[:-1])
    return operand if even and operand.strides[-1] == 1 else plain(value)


def fold_operands(node: Node, windows: bool = False) -> list[Operand]:
    """Both operands of a product; one that views make unreadable is read as the contiguous value it is.

    The second may be `windows`; then bfloat16 may also be contiguous across K.
    """
    assert node.op is not None
    if node.op.name == "bfloat16_matmul":
        return [_paired(value, windows) for value in node.inputs]
    if node.op.name == "int8_matmul":
        return [plain(value) for value in node.inputs]
    found = []
    for i, value in enumerate(node.inputs):
        operand = _usable(fold_view(value), value.shape) or _usable(plain(value), value.shape)
        assert operand is not None
        if windows and i == 1 and is_view(operand.base.node):
            image = fold_windows(value)
            if image is not None and (node.out.shape[-2] >= FEW_ROWS or _runs_along(image)):
                operand = image
        found.append(operand)
    return found


class Batch(NamedTuple):
    """Sizes of the leading axes that remain, with the strides of a, b and c along them."""

    sizes: tuple[int, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]
    c: tuple[int, ...]


def batch_axes(node: Node, a: Operand, b: Operand) -> Batch:
    """Leading axes without those of size 1, neighbours joined where all three walk evenly through them."""
    shape = node.out.shape
    lead = len(shape) - 2
    rows = [(n, *parts) for n, *parts in zip(shape[:lead], _leading(node.inputs[0], a, lead), _leading(node.inputs[1], b, lead),
                                             suffix_strides(shape)[:lead], strict=True) if n != 1]
    kept: list[tuple[int, ...]] = []
    for row in rows:
        if kept and all(outer == inner * row[0] for outer, inner in zip(kept[-1][1:], row[1:], strict=True)):
            kept[-1] = (kept[-1][0] * row[0], *row[1:])
        else:
            kept.append(row)
    columns = list(zip(*kept, strict=True)) or [(), (), (), ()]
    return Batch(*columns)


class Product(NamedTuple):
    """Sizes and strides of a matmul node as a product step takes them."""

    batch: Batch
    m: int
    n: int
    k: int
    a: tuple[int, ...]
    b: tuple[int, ...]


def shape_product(node: Node, a: Operand, b: Operand) -> Product:
    """Leading axes that only multiply the rows of a (a batch of vectors times one matrix) become rows."""
    if node.op is not None and node.op.name == "bfloat16_matmul":  # its second operand is [n, k]
        b = b._replace(strides=(*b.strides[:-2], b.strides[-1], b.strides[-2]))
    batch = batch_axes(node, a, b)
    m, n, k = node.out.shape[-2], node.out.shape[-1], node.inputs[0].shape[-1]
    rows = a.strides[-2]
    while batch.sizes and batch.b[-1] == 0 and batch.a[-1] == m * rows and a.strides[-1] == 1 and batch.c[-1] == m * n:
        m *= batch.sizes[-1]
        batch = Batch(*[part[:-1] for part in batch])
    return Product(batch, m, n, k, (rows, a.strides[-1]), b.strides[-2:])


def _leading(value: Value, operand: Operand, lead: int) -> tuple[int, ...]:
    """Strides along the product's leading axes: 0 where the operand is broadcast."""
    own = len(value.shape) - 2
    strides = tuple([0 if n == 1 else s for n, s in zip(value.shape[:own], operand.strides[:own], strict=True)])
    return (0,) * (lead - own) + strides
