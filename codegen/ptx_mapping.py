"""How a kernel's domain is spread over threads: which variant of its code, and grid and block of each launch.

    map      no reduce axes: a thread takes `width` neighbours along the lane axis, grid-stride
    thread   one thread folds the reduce axes for one point of the parallel axes: columns, and very short rows
    warp     32 threads share a row, several rows are a block
    block    BLOCK threads share a row; a few long rows are cut into parts, sweep by sweep (codegen/phases.py)

Everything follows from sizes, strides and offsets, never from the device: results are the same on all of them.
"""
from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from treadle.codegen.expressions import memory_type
from treadle.codegen.llvm_text import scalar_bits
from treadle.codegen.phases import partial_bytes
from treadle.codegen.schedule import Loops, analyse, element_cost, loops, transposed_axis
from treadle.ir.kernel import PARALLEL, REDUCE, RUNTIME, UNIT, Kernel, argument_layout

MAP, THREAD, WARP, BLOCK_ROW = "map", "thread", "warp", "block"
BLOCK = 256
MAX_BLOCKS = 8192          # of a grid: threads walk on from there
VECTOR_BYTES = 16
MOST_WORK = 64
SQUARE = 16                # threads side by side where reads and writes run along different axes
SHORT_ROW, WARP_ROW = 16, 1024
ENOUGH_THREADS, ENOUGH_ROWS, MOST_PARTS = 1 << 15, 256, 256
COLUMN_PART, ROW_PART = 32, 8192


class Mapping(NamedTuple):
    """A variant of a kernel's code. lane: the axis spread over neighbouring threads (-1: none). width: neighbours a thread takes
    together, in accesses of up to 16 bytes when `wide`. tail: the lane axis may end within a group of neighbours. rows: an axis along
    which a load is contiguous that is strided along the lanes: blocks are squares of both."""

    kind: str
    lane: int
    width: int = 1
    wide: bool = False
    tail: bool = False
    rows: int = -1


class Launch(NamedTuple):
    """Grid and block of a launch, and the words of codegen/phases.py (unused by maps)."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    phase: int = 0
    parts: int = 0
    length: int = 0


def nest(kernel: Kernel, mapping: Mapping) -> Loops:
    """The loop nest of a variant: `outer` are the parallel axes without the lane axis, `folds` the reduce axes without it."""
    parallel = tuple(a for a, axis in enumerate(kernel.axes) if axis.kind == PARALLEL and a not in (mapping.lane, mapping.rows))
    parallel += (mapping.rows,) if mapping.rows >= 0 else ()
    folds = tuple(a for a, axis in enumerate(kernel.axes) if axis.kind == REDUCE and a != mapping.lane)
    return Loops(mapping.lane, mapping.lane >= 0 and kernel.axes[mapping.lane].kind == REDUCE, parallel, folds, -1, 0)


# -- the variant -----------------------------------------------------------------------------------------------------
def choose(kernel: Kernel, sizes: Sequence[int], arguments: Sequence[object]) -> Mapping:
    """The variant for these sizes. `arguments` as in `argument_layout`: integers are known, a pair (offset, step) of a pointer says
    where it lies relative to aligned memory, anything else is not known."""
    folded = [a for a, axis in enumerate(kernel.axes) if axis.kind == REDUCE]
    lane = loops(kernel).lane
    if not folded:
        rows = transposed_axis(kernel, lane) if lane >= 0 else -1
        if rows >= 0 and sizes[rows] >= SQUARE and sizes[lane] >= SQUARE:
            return Mapping(MAP, lane, rows=rows)
        width, tail = _width(kernel, sizes, arguments, lane)
        return Mapping(MAP, lane, width, width > 1, tail)
    reduced = prod(sizes[a] for a in folded)
    if lane not in folded and (sizes[lane] >= 32 or reduced <= SHORT_ROW):
        return Mapping(THREAD, lane)
    row_lane = _row_lane(kernel, sizes, lane if lane in folded else folded[-1], folded)
    if reduced <= SHORT_ROW:
        return Mapping(THREAD, row_lane)
    width, tail = _width(kernel, sizes, arguments, row_lane)
    width = 1 if tail else width
    return Mapping(WARP if reduced <= WARP_ROW else BLOCK_ROW, row_lane, width, width > 1)


def _row_lane(kernel: Kernel, sizes: Sequence[int], lane: int, folded: list[int]) -> int:
    """The reduce axis that threads share: the contiguous one unless it is short."""
    if any(a.opcode == "argreduce" for a in kernel.body) or sizes[lane] >= 32:
        return lane
    return max(folded, key=lambda a: (sizes[a], a))


def _width(kernel: Kernel, sizes: Sequence[int], arguments: Sequence[object], lane: int) -> tuple[int, bool]:
    """(neighbours a thread takes, whether the axis may end within them): as many as fit 16 bytes, if all is aligned."""
    if lane < 0:
        return 1, False
    moving = [i for i, a in enumerate(kernel.accesses) if a.strides[lane] == UNIT]
    if not moving:
        return 1, False
    width = VECTOR_BYTES * 8 // max(scalar_bits(memory_type(kernel.accesses[i].dtype)) for i in moving)
    given = dict(zip(argument_layout(kernel), arguments, strict=True))
    while width > 1 and width * element_cost(kernel) > MOST_WORK:  # registers for what neighbours hold at once
        width //= 2
    while width > 1 and not all(_aligned(kernel, i, width, given) for i in moving):
        width //= 2
    rest = sizes[lane] % width
    one_row = prod(sizes) == sizes[lane]
    while rest and not (one_row and sizes[lane] >= 1024):
        width //= 2
        rest = sizes[lane] % width
    return width, bool(rest)


def _aligned(kernel: Kernel, access: int, width: int, given: dict) -> bool:
    """Whether every group of `width` elements of an access that begins at a multiple of `width` is aligned."""
    size = width * scalar_bits(memory_type(kernel.accesses[access].dtype)) // 8
    place = given["pointer", access]
    if not (isinstance(place, tuple) and all(o % size == 0 for o in place)):
        return False
    if kernel.accesses[access].strides.count(UNIT) > 1:
        return False  # the windows of an unfold
    strides = [given["stride", access, a] for a, c in enumerate(kernel.accesses[access].strides) if c >= RUNTIME]
    strides += [given["slot", i.params[2]] for i in kernel.body if i.opcode == "load_at" and i.params[0] == access]
    return all(isinstance(s, int) and s % width == 0 for s in strides)


# -- launches --------------------------------------------------------------------------------------------------------
def launches(kernel: Kernel, sizes: tuple[int, ...], mapping: Mapping) -> list[Launch]:
    """How to run the variant on these sizes; nothing when there are no points."""
    loop_nest = nest(kernel, mapping)
    rows = prod(sizes[a] for a in loop_nest.outer)
    if mapping.kind == MAP:
        across = 1 if mapping.lane < 0 else -(-sizes[mapping.lane] // mapping.width)
        return [Launch(*_spread(across, rows, 1, mapping.rows >= 0))] if across * rows else []
    columns = 1 if loop_nest.lane_folds else sizes[mapping.lane]
    if rows * columns == 0:
        return []
    parts, length = _parts(kernel, sizes, mapping, loop_nest, rows * columns)
    info = analyse(kernel)
    if parts < 2:
        return [_launch(mapping, loop_nest, columns, rows, 1)]
    found = [_launch(mapping, loop_nest, columns, rows, parts)._replace(phase=1 + sweep, parts=parts, length=length)
             for sweep in range(len(info.reduces))]
    if info.row_stores:
        found.append(_launch(mapping, loop_nest, columns, rows, 1)._replace(phase=1 + len(found), parts=parts, length=length))
    return found


def _spread(across: int, rows: int, parts: int, square: bool = False) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Threads over two dimensions of points, neighbours first."""
    x = SQUARE if square else min(BLOCK, max(8, 1 << max(across - 1, 0).bit_length()))
    y = BLOCK // x if rows > 1 else 1
    blocks = min(-(-across // x), MAX_BLOCKS)
    return (blocks, min(-(-rows // y), max(1, MAX_BLOCKS // blocks)), parts), (x, y, 1)


def _launch(mapping: Mapping, loop_nest: Loops, columns: int, rows: int, parts: int) -> Launch:
    if mapping.kind == THREAD:
        return Launch(*(_spread(rows, 1, parts) if loop_nest.lane_folds else _spread(columns, rows, parts)))
    if mapping.kind == WARP:
        return Launch((min(-(-rows // (BLOCK // 32)), MAX_BLOCKS), 1, 1), (32, BLOCK // 32, 1))
    return Launch((min(rows, MAX_BLOCKS), 1, parts), (BLOCK, 1, 1))


def _parts(kernel: Kernel, sizes: tuple[int, ...], mapping: Mapping, loop_nest: Loops, points: int) -> tuple[int, int]:
    """Into how many parts the outermost reduce axis is cut, and their length."""
    axis = loop_nest.folds[0] if loop_nest.folds else mapping.lane
    size = sizes[axis]
    reduced = prod(n for n, a in zip(sizes, kernel.axes, strict=True) if a.kind == REDUCE)
    if mapping.kind == THREAD and points < ENOUGH_THREADS:
        parts = min(MOST_PARTS, ENOUGH_THREADS // points, reduced // COLUMN_PART, size)
    elif mapping.kind == BLOCK_ROW and points < ENOUGH_ROWS:
        parts = min(MOST_PARTS, ENOUGH_ROWS // points, reduced // ROW_PART, size)
    else:
        return 1, 0
    if parts < 2:
        return 1, 0
    length = -(-size // parts)
    if axis == mapping.lane:
        step = BLOCK * mapping.width
        length = -(-length // step) * step
    return -(-size // length), length


def workspace(kernel: Kernel, sizes: tuple[int, ...], found: list[Launch]) -> int:
    """Bytes that the launches need for what parts leave to each other."""
    return partial_bytes(kernel, sizes, found[0].parts) if found and found[0].parts else 0
