"""How a kernel is turned into loops: which axis runs in vector lanes, what one unit of parallel work is, what each sweep computes.

Everything here is a pure function of the kernel (and, for widths, of the target), so it can be printed and tested alone.

    unit     one point of the parallel axes other than the lane axis, and one chunk of the lane axis when it is parallel
    sweep    one pass over the reduce axes; a reduce that needs another reduce's result runs in a later sweep
"""
from __future__ import annotations

import functools
from typing import NamedTuple

from treadle.codegen.expressions import register_type
from treadle.codegen.llvm_text import scalar_bits
from treadle.codegen.target import Target
from treadle.ir.kernel import PARALLEL, REDUCE, RUNTIME, UNIT, ZERO, Instr, Kernel

# Elements of the lane axis in a unit. A column reduction's unit re-reads one cache line or more per row, so it stays narrow.
MAP_CHUNK, COLUMN_CHUNK, TRANSPOSE_CHUNK = 4096, 64, 256
# Rows that a transposing map reads together, so that every cache line it gathers from is used up.
TRANSPOSE_ROWS = 16
MAX_TURNED = 4  # squares of elements that are turned together
# So many instructions that follow from the lanes alone are worth computing once and keeping what they say about reads.
GUARDING = 6
# A lane axis of fewer elements would leave most of a vector empty.
NARROW = 8
# How bad a lane axis is along which an access jumps about.
GATHERED = 3
# Work for each element, in simple operations, of a kernel that hardly keeps a vector unit busy.
LIGHT = 8
# Too few for two heavy functions side by side.
FEW_REGISTERS = 16
# Instructions of a kernel that does little more than copy.
COPY = 4
# Work worth waking a thread for, in simple element operations.
THREAD_WORK = 32768

HEAVY = frozenset("""exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf erfc
    erfinv lgamma digamma pow sigmoid fmod remainder random argreduce""".split())
_MEDIUM = frozenset("div sqrt rsqrt reciprocal floor_divide trunc_divide load_at".split())
# Subtrees at least this heavy are kept between sweeps rather than computed again.
KEEP_COST = 8


class Loops(NamedTuple):
    """The loop nest, the same on every target. Axis numbers are the kernel's; -1 means none."""

    lane: int                 # the axis whose elements sit side by side in a vector
    lane_folds: bool          # it is a reduce axis
    outer: tuple[int, ...]    # parallel axes decoded from the unit's number, outermost first
    folds: tuple[int, ...]    # reduce axes other than the lane axis, outermost first
    rows: int                 # a parallel axis walked inside the lane loop, in blocks of TRANSPOSE_ROWS
    chunk: int                # elements of a parallel lane axis per unit
    guarded: bool = False     # what guards reads follows from the lanes alone: it is kept for all points of the other axes


class Schedule(NamedTuple):
    """The loop nest with the vector shape for one target: `copies` vectors of `width` lanes are worked on together.

    Where the lane axis is reduced every sweep chooses its own `copies` (`sweep_copies`). `single`: the lane axis fits in one vector.
    """

    loops: Loops
    width: int
    copies: int
    single: bool = False


class Analysis(NamedTuple):
    """Facts about each instruction, and what each sweep has to compute.

    varies: bit set of axes along which the value changes. stage: how many sweeps must have run before it can be computed.
    row_needs: instructions of any level that row values and row stores need. sweep_needs: the same for each sweep.
    """

    varies: tuple[int, ...]
    stage: tuple[int, ...]
    reduces: tuple[tuple[int, ...], ...]        # by sweep
    row_stores: tuple[tuple[int, int], ...]     # done after all sweeps
    sweep_stores: tuple[tuple[int, int], ...]   # done in the last sweep
    sweep_needs: tuple[frozenset[int], ...]
    row_needs: frozenset[int]
    kept: tuple[int, ...]                       # heavy values used by several sweeps


def bits(axes: tuple[int, ...] | list[int]) -> int:
    return sum(1 << a for a in axes)


def access_bits(kernel: Kernel, access: int) -> int:
    """The axes along which an access moves."""
    return bits([a for a, c in enumerate(kernel.accesses[access].strides) if c != ZERO])


def is_load(instr: Instr) -> bool:
    return instr.opcode in ("load", "load_if", "load_at")


def is_reduce(instr: Instr) -> bool:
    return instr.opcode in ("reduce", "argreduce")


def reduce_bits(kernel: Kernel) -> int:
    return bits([i for i, a in enumerate(kernel.axes) if a.kind == REDUCE])


# -- analysis --------------------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=4096)
def analyse(kernel: Kernel) -> Analysis:
    """Levels, stages and needs of every instruction. ValueError for a value stored through an access that cannot hold it."""
    folded = reduce_bits(kernel)
    varies, stage = _levels(kernel, folded)
    sweeps = max([stage[i] + 1 for i, instr in enumerate(kernel.body) if _folds(instr, folded)], default=0)
    by_level: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for access, value in kernel.stores:
        if varies[value] & folded & ~access_bits(kernel, access):
            raise ValueError(f"store of %{value}: the access m{access} does not move along the reduce axes of the value")
        wide = bool((access_bits(kernel, access) | varies[value]) & folded)
        by_level[wide].append((access, value))
        if wide:  # a reduce spread along the axes it folded is there for the next sweep only
            sweeps = max(sweeps, stage[value] + 1 + _folds(kernel.body[value], folded))
    reduces: list[list[int]] = [[] for _ in range(sweeps)]
    for i, instr in enumerate(kernel.body):
        if _folds(instr, folded):
            reduces[stage[i]].append(i)
    needs = [_closure(kernel, [o for r in group for o in kernel.body[r].operands]
                      + [v for _, v in by_level[True] if s == sweeps - 1], folded) for s, group in enumerate(reduces)]
    rows = _closure(kernel, [v for _, v in by_level[False]], folded)
    return Analysis(tuple(varies), tuple(stage), tuple(map(tuple, reduces)), tuple(by_level[False]), tuple(by_level[True]),
                    tuple(needs), rows, _kept(kernel, needs, varies, folded, by_level[True]))


def _folds(instr: Instr, folded: int) -> bool:
    """A reduce over no axes at all is just its operand."""
    return is_reduce(instr) and folded != 0


def _levels(kernel: Kernel, folded: int) -> tuple[list[int], list[int]]:
    varies: list[int] = []
    stage: list[int] = []
    for instr in kernel.body:
        moves, late = 0, 0
        for o in instr.operands:
            moves |= varies[o]
            late = max(late, stage[o] + (1 if _folds(kernel.body[o], folded) else 0))
        if is_load(instr):
            moves |= access_bits(kernel, instr.params[0])
        if instr.opcode == "index":
            moves |= 1 << instr.params[0]
        if is_reduce(instr):
            moves &= ~folded
        varies.append(moves)
        stage.append(late)
    return varies, stage


def _closure(kernel: Kernel, roots: list[int], folded: int, stop: frozenset[int] = frozenset()) -> frozenset[int]:
    """Everything `roots` depend on, not looking behind finished reduces."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        i = todo.pop()
        if i in seen:
            continue
        seen.add(i)
        if i not in stop and not _folds(kernel.body[i], folded):
            todo.extend(kernel.body[i].operands)
    return frozenset(seen)


def behind(kernel: Kernel, roots: list[int], stop: frozenset[int]) -> frozenset[int]:
    """What has to be computed for `roots` when the values in `stop` are already there."""
    return _closure(kernel, roots, reduce_bits(kernel), stop)


def sweep_roots(kernel: Kernel, info: Analysis, sweep: int) -> list[int]:
    """The values sweep number `sweep` feeds to its reduces and stores."""
    roots = [o for r in info.reduces[sweep] for o in kernel.body[r].operands]
    return roots + ([v for _, v in info.sweep_stores] if sweep == len(info.reduces) - 1 else [])


def instr_cost(instr: Instr) -> int:
    return 8 if instr.opcode in HEAVY else 3 if instr.opcode in _MEDIUM else 1


def _kept(kernel: Kernel, needs: list[frozenset[int]], varies: list[int], folded: int, stores: list[tuple[int, int]]) -> tuple[int, ...]:
    """Heavy values of the whole domain that one sweep computes and a later one uses directly."""
    found: set[int] = set()
    final = {v for _, v in stores}
    for late in range(1, len(needs)):
        early = frozenset().union(*needs[:late])
        shared = {i for i in early & needs[late] if varies[i] & folded and not _folds(kernel.body[i], folded)}
        used = {o for i in needs[late] - shared if not _folds(kernel.body[i], folded) for o in kernel.body[i].operands}
        for i in shared & (used | final):
            subtree = [j for j in _closure(kernel, [i], folded) if varies[j] & folded]
            if sum(instr_cost(kernel.body[j]) for j in subtree) >= KEEP_COST and kernel.body[i].dtype != "bool":
                found.add(i)
    return tuple(sorted(found))


# -- loops -----------------------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=4096)
def loops(kernel: Kernel) -> Loops:
    """The loop nest: the lane axis is the one along which most accesses are contiguous, stores weighing more."""
    parallel = [i for i, a in enumerate(kernel.axes) if a.kind == PARALLEL]
    folds = [i for i, a in enumerate(kernel.axes) if a.kind == REDUCE]
    if not kernel.axes:
        return Loops(-1, False, (), (), -1, 0)
    # Ties go to the last axis of the innermost kind, along which memory most likely runs.
    order = parallel + folds
    lane = max(order, key=lambda a: (_lane_score(kernel, a), order.index(a)))
    lane_folds = lane in folds
    rows = -1 if folds else transposed_axis(kernel, lane)
    outer = tuple(a for a in parallel if a not in (lane, rows))
    chunk = 0 if lane_folds else COLUMN_CHUNK if folds else MAP_CHUNK if rows < 0 else TRANSPOSE_CHUNK
    guarded = (lane_folds or not folds) and rows < 0 and len(kernel.axes) > 1 and bool(guards(kernel, lane))
    return Loops(lane, lane_folds, outer, tuple(a for a in folds if a != lane), rows, chunk, guarded)


def guards(kernel: Kernel, lane: int) -> tuple[int, ...]:
    """What guards reads, if all of it follows from the lanes alone and takes more than a few instructions."""
    found = sorted({instr.operands[0] for instr in kernel.body if instr.opcode == "load_if"})
    if not found:
        return ()
    varies = analyse(kernel).varies
    return tuple(found) if all(varies[i] == 1 << lane for i in found) and varies.count(1 << lane) >= GUARDING else ()


def _lane_score(kernel: Kernel, axis: int) -> float:
    folded = reduce_bits(kernel)
    varies = _levels(kernel, folded)[0]
    places: dict[int, int] = {}  # of accesses that look elements up: the axes along which the places change
    for instr in kernel.body:
        if instr.opcode == "load_at":
            places[instr.params[0]] = places.get(instr.params[0], 0) | varies[instr.operands[0]]
    score = 0.0
    for i, access in enumerate(kernel.accesses):
        jumps = places.get(i, 0)
        # Row values move once per row: how they lie hardly matters next to what is read all over the domain.
        weight = 0.1 if folded and not (access_bits(kernel, i) | jumps) & folded else 1.0
        if jumps >> axis & 1:
            score -= weight * GATHERED
        elif access.strides[axis] == UNIT:
            score += weight * (3 if access.writes else 2)
        elif access.strides[axis] >= RUNTIME:
            score -= weight * (1.5 if access.writes else 0.5)
    return score


def transposed_axis(kernel: Kernel, lane: int) -> int:
    """An axis along which some load is contiguous that is strided along the lanes; -1 if there is none."""
    if any(a.writes and a.strides[lane] != UNIT for a in kernel.accesses):
        return -1
    for access in kernel.accesses:
        if not access.writes and access.strides[lane] >= RUNTIME and UNIT in access.strides:
            return access.strides.index(UNIT)
    return -1


@functools.lru_cache(maxsize=4096)
def narrow_loops(kernel: Kernel) -> Loops | None:
    """The loop nest for a lane axis shorter than NARROW, if another axis may do better: one along which something is read that is
    contiguous or, where nothing is and what is read has gaps along the lanes, the outermost.

    Where nothing that is read moves along the lanes, they stay: vectors may have as many as are left. So they do in little more than copies
    of neighbours, whose second form takes no time to compile.
    """
    nest = loops(kernel)
    if nest.lane < 0 or nest.lane_folds or nest.folds or not nest.outer + (nest.rows,) * (nest.rows >= 0):
        return None
    loads = [a.strides for a in kernel.accesses if not a.writes]
    if len(kernel.body) <= COPY and nest.rows < 0 and all(strides[nest.lane] != RUNTIME for strides in loads):
        return nest
    if any(strides[nest.lane] == UNIT for strides in loads):
        return None
    others = [a for a in range(len(kernel.axes)) if a != nest.lane and any(strides[a] == UNIT for strides in loads)]
    if not others and any(strides[nest.lane] >= RUNTIME for strides in loads):
        others = [0] if nest.lane else [1]
    if not others:
        return None
    if not any(strides[nest.lane] for strides in loads):
        return nest
    lane = max(others, key=lambda a: _lane_score(kernel, a))
    return Loops(lane, False, tuple([a for a in range(len(kernel.axes)) if a != lane]), (), -1, MAP_CHUNK)


def loops_for(kernel: Kernel, sizes: tuple[int, ...]) -> Loops:
    """The loop nest taken for these sizes."""
    narrow = narrow_loops(kernel)
    nest = loops(kernel)
    if narrow is None:
        return nest
    most = NARROW if narrow.lane == nest.lane else min(NARROW, sizes[narrow.lane])
    return narrow if sizes[nest.lane] < most else nest


def turned_accesses(kernel: Kernel, nest: Loops) -> list[int]:
    """Accesses always read along the rows of a transposing map, whose squares can be turned in registers: some of them."""
    found = [i for i, a in enumerate(kernel.accesses) if not a.writes and a.strides[nest.rows] == UNIT and a.strides[nest.lane] >= RUNTIME]
    guarded = {i.params[0] for i in kernel.body if i.opcode in ("load_if", "load_at")}
    return [i for i in found if i not in guarded][:MAX_TURNED]


@functools.lru_cache(maxsize=4096)
def schedule(kernel: Kernel, target: Target, narrow: bool = False) -> Schedule:
    """The loop nest (`narrow`: that for a short lane axis) with vector width and how many vectors are worked on side by side."""
    nest = loops(kernel)
    if narrow:
        other = narrow_loops(kernel)
        assert other is not None
        nest = other
        if other == loops(kernel):
            return Schedule(nest, NARROW, 1, True)
    if nest.lane < 0:
        return Schedule(nest, 1, 1)
    info = analyse(kernel)
    moving = [instr for instr, v in zip(kernel.body, info.varies, strict=True) if v >> nest.lane & 1]
    width = max(1, target.vector_bits // _lane_bits(kernel, moving))
    work = sum(instr_cost(instr) for instr in moving)
    copies = (4 if work <= 60 else 1) if nest.folds else _map_copies(kernel, work, target)
    if nest.rows >= 0 and turned_accesses(kernel, nest):
        copies = 1
    while nest.chunk and copies * width > nest.chunk:
        copies //= 2
    return Schedule(nest, width, copies)


def _map_copies(kernel: Kernel, work: int, target: Target) -> int:
    """Vectors that a map works on side by side. A processor overlaps turns of a short loop by itself, but no longer where one takes as many
    instructions as heavy functions that wait for one another."""
    if work <= LIGHT:
        return 4
    serial = _serial_heavies(kernel)
    if serial > 1:
        return 4 if work <= 5 * LIGHT else 1
    return 2 if work <= 3 * LIGHT and (not serial or target.registers > FEW_REGISTERS) else 1


def _serial_heavies(kernel: Kernel) -> int:
    """Of how many heavy functions each waits for the one before it."""
    depths: list[int] = []
    for instr in kernel.body:
        depths.append(max([depths[o] for o in instr.operands], default=0) + (instr.opcode in HEAVY))
    return max(depths, default=0)


def sweep_copies(kernel: Kernel, needs: frozenset[int], lane: int) -> int:
    """Vectors worked on together in a sweep along a reduced lane axis: enough to hide an addition's latency behind the others."""
    varies = analyse(kernel).varies
    return 4 if sum(instr_cost(kernel.body[i]) for i in needs if varies[i] >> lane & 1) <= 8 else 2


def _lane_width(dtype: str) -> int:
    """Bits of an element in a vector; 16-bit floats are computed with as float."""
    return 8 if dtype == "bool" else scalar_bits(register_type(dtype))


def _lane_bits(kernel: Kernel, moving: list[Instr]) -> int:
    """The element width that decides the lane count: 64 where 64-bit values dominate, below 32 only if nothing is wider."""
    widths = [_lane_width(instr.dtype) for instr in moving if instr.opcode != "const"]
    widths += [_lane_width(a.dtype) for a in kernel.accesses if a.writes]
    wide, middle = widths.count(64), widths.count(32)
    if wide > middle:
        return 64
    if wide or middle:
        return 32
    return max(widths, default=32)


# -- units -----------------------------------------------------------------------------------------------------------
def parallel_units(kernel: Kernel, sizes: tuple[int, ...]) -> tuple[int, int]:
    """(units, grain): how many units a call with these axis sizes has, and how many of them are worth a thread."""
    nest = loops_for(kernel, sizes)
    units, per_unit = 1, 1
    for a in nest.outer:
        units *= sizes[a]
    if nest.chunk:
        units *= -(-sizes[nest.lane] // nest.chunk)
        per_unit *= min(sizes[nest.lane], nest.chunk)
    if nest.rows >= 0:
        units *= -(-sizes[nest.rows] // TRANSPOSE_ROWS)
        per_unit *= min(sizes[nest.rows], TRANSPOSE_ROWS)
    for a in reduce_axes(kernel):
        per_unit *= sizes[a]
    work = max(1, per_unit) * max(1, element_cost(kernel))
    return units, max(1, -(-THREAD_WORK // work))


@functools.lru_cache(maxsize=4096)
def reduce_axes(kernel: Kernel) -> list[int]:
    return [a for a, axis in enumerate(kernel.axes) if axis.kind == REDUCE]


@functools.lru_cache(maxsize=4096)
def element_cost(kernel: Kernel) -> int:
    """Of one point of the domain, in simple operations."""
    return sum(instr_cost(instr) for instr in kernel.body if instr.opcode in HEAVY) // 4 + 1
