"""The memory plan: lifetimes of temporaries, results written over operands that die, and offsets in one arena."""
from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate
from operator import add

import numpy as np

from treadle.ir.dtypes import by_name
from treadle.ir.kernel import PARALLEL, argument_layout, may_fail
from treadle.passes.program import (
    Block,
    ErrorCell,
    GemmStep,
    GroupStep,
    HostStep,
    KernelStep,
    LoopStep,
    Packing,
    Program,
    Ref,
    Step,
    Taker,
    step_refs,
)

ALIGNMENT = 64
SPARE = 1.02          # blocks are packed as for other sizes if that takes at most so much more
BY_SIZE_LIMIT = 1500  # above this many temporaries, placing the biggest first (quadratic) gives way to order of use


def plan_memory(program: Program) -> Program:
    """Fill in lifetimes, `shares`, arena offsets, the arena's size, and a lower bound: the most bytes alive at one step."""
    return place(find_lifetimes(program))


def place(program: Program) -> Program:
    """`plan_memory` of a program with lifetimes."""
    buffers, blocks = program.buffers, program.packing.blocks
    sizes = [-(-max([buffers[b].nbytes for b in block.members]) // ALIGNMENT) * ALIGNMENT for block in blocks]
    bound = program.arena_bound = _bound(blocks, sizes, len(program.steps))
    offsets = _packed_again(program.packing, sizes, bound)
    if offsets is None:
        offsets = _pack_by_size(program.packing, sizes, bound) if len(blocks) <= BY_SIZE_LIMIT else _pack_by_time(blocks, sizes)
    for (_, _, members), offset in zip(blocks, offsets, strict=True):
        for number in members:
            buffers[number].offset = offset
    program.arena = max(map(add, offsets, sizes), default=0)
    return program


def find_lifetimes(program: Program) -> Program:
    """Fill in lifetimes, what shares memory with what, and what follows from them for any sizes: `safe`, `blocks` and `takers`."""
    for info in program.buffers:
        info.first = info.last = info.shares = info.offset = -1
    mark_lifetimes(program)
    program.safe = 1 + max((i for i, step in enumerate(program.steps) if may_fail_step(step)), default=-1)
    _reuse(program)
    program.packing = Packing(_blocks(program))
    program.takers = _takers(program)
    return program


def mark_lifetimes(program: Program) -> None:
    """Note for each buffer the first and last step that touches it."""
    for i, step in enumerate(program.steps):
        for ref in step_refs(step):
            if ref.buffer >= 0:
                info = program.buffers[ref.buffer]
                info.first = i if info.first < 0 else info.first
                info.last = i


def _reuse(program: Program) -> None:
    """Let a map write over an operand that it reads element by element and that nobody needs afterwards."""
    buffers = program.buffers
    for i, step, shared in _launches(program, range(len(program.steps))):
        product = step.c.ref.buffer if isinstance(step, GemmStep) else -1
        if isinstance(step, GemmStep) and step.epilogue is not None:
            reads, writes = _accesses(step.epilogue)
            writes = {b: p for b, p in writes.items() if buffers[b].kind == "temp" or not _updates(program, i, buffers[b].nbytes, p, reads)}
            reads = {product: reads[product]}  # only the product itself: its operands are still being read
        elif isinstance(step, KernelStep) and all(a.kind == PARALLEL for a in step.kernel.axes):
            reads, writes = _accesses(step)
        else:
            continue
        taken: set[int] = set()
        for number, (pattern, size) in writes.items():
            out = buffers[number]
            if out.first != i or out.kind == "input" or out.shares >= 0:
                continue
            for source, patterns in reads.items():
                info = buffers[source]
                dying = info.kind == "temp" and info.last == i and (info.first < i or source == product)
                dying = dying and source not in taken and source not in shared
                if not dying or patterns != {(pattern, size)} or info.nbytes != out.nbytes:
                    continue
                if out.kind == "temp":
                    out.shares = source
                elif _root(program, source) == source:
                    info.shares = number
                else:
                    continue
                taken.add(source)
                break


def _launches(program: Program, numbers: Iterable[int]) -> Iterator[tuple[int, Step, frozenset[int]]]:
    """The steps with these numbers; of a group, each member, with the buffers that other members touch too."""
    for i in numbers:
        step = program.steps[i]
        if isinstance(step, GroupStep):
            touched = Counter(b for m in step.members for b in {r.buffer for r in step_refs(m)})
            shared = frozenset(b for b, n in touched.items() if n > 1)
            yield from ((i, member, shared) for member in step.members)
        else:
            yield i, step, frozenset()


def _updates(program: Program, number: int, nbytes: int, pattern: tuple, reads: dict[int, set[tuple]]) -> bool:
    """Whether the step reads an input, for the last time, just as it writes an output, which may then take over the input's memory."""
    buffers = program.buffers
    return any(buffers[b].kind == "input" and buffers[b].last == number and found == {pattern} and buffers[b].nbytes == nbytes
               for b, found in reads.items())


def _takers(program: Program) -> list[Taker]:
    """What `donations` chooses from, by the order in which memory is first touched. A step that may find its data at fault must not come
    after: the run is then repeated from the inputs."""
    buffers = program.buffers
    starts: dict[int, int] = {}
    for number, info in enumerate(buffers):
        if info.first < 0 or (info.shares < 0 and info.kind != "output"):
            continue
        root = _root(program, number)
        if buffers[root].kind == "output":
            starts[root] = min(starts.get(root, info.first), info.first)
    late = {out: first for out, first in starts.items() if first >= program.safe}
    touchers = {(i, ref.buffer): (step, shared) for i, step, shared in _launches(program, sorted(set(late.values())))
                for ref in step_refs(step) if ref.buffer in late}
    return [Taker(out, first, _overwritten(program, out, first, *touchers[first, out]) if (first, out) in touchers else ())
            for out, first in sorted(late.items(), key=lambda item: item[1])]


def donations(program: Program, dead: Collection[int]) -> dict[int, int]:
    """Outputs that may be written into the memory of inputs nobody needs after the run: {output: input}, buffers of a planned program.

    An input gives its memory when it was read for the last time before the output's memory is first touched, or by the map that writes
    the output, element by element.
    """
    buffers = program.buffers
    waiting: dict[int, list[int]] = {}
    for number in sorted(dead, key=lambda b: -buffers[b].last):
        waiting.setdefault(buffers[number].nbytes, []).append(number)
    found: dict[int, int] = {}
    for out, first, readers in program.takers:
        sources = waiting.get(buffers[out].nbytes)
        if not sources:
            continue
        source = next((s for s in readers if s in sources), -1)  # operands and results come in the same order
        if source < 0 and buffers[sources[-1]].last < first:
            source = sources[-1]
        if source >= 0:
            sources.remove(source)
            found[out] = source
    return found


def _overwritten(program: Program, out: int, number: int, step: Step, held: Collection[int]) -> tuple[int, ...]:
    """Inputs (but none of `held`) that the step reads last, just as it writes `out`."""
    if isinstance(step, GemmStep) and step.epilogue is not None:
        if _root(program, step.c.ref.buffer) == out:
            return ()  # the product is there before the epilogue reads
        held = {m.ref.buffer for m in (step.a, step.b)}
        step = step.epilogue
    if not isinstance(step, KernelStep) or any(a.kind != PARALLEL for a in step.kernel.axes) or program.buffers[out].first != number:
        return ()
    reads, writes = _accesses(step)
    if out not in writes:
        return ()
    fits = [s for s in reads if program.buffers[s].kind == "input" and s not in held]
    return tuple(sorted([s for s in fits if program.buffers[s].last == number and reads[s] == {writes[out]}]))


def may_fail_step(step: Step) -> bool:
    """Whether the step may find its data at fault."""
    if isinstance(step, LoopStep | GroupStep):
        return any(may_fail_step(inner) for inner in (step.body if isinstance(step, LoopStep) else step.members))
    if isinstance(step, GemmStep):
        return step.epilogue is not None and may_fail_step(step.epilogue)
    if isinstance(step, KernelStep):
        return may_fail(step.kernel)
    return isinstance(step, HostStep) or any(isinstance(a, ErrorCell) for a in step.arguments)


def _accesses(step: KernelStep) -> tuple[dict[int, set[tuple]], dict[int, tuple]]:
    """How each buffer is read, and how each is written once: ((offset, strides), element size)."""
    table = dict(zip(argument_layout(step.kernel), step.arguments, strict=True))
    gathered = {i.params[0] for i in step.kernel.body if i.opcode == "load_at"}
    reads: dict[int, set[tuple]] = {}
    writes: dict[int, tuple] = {}
    twice: set[int] = set()
    for number, access in enumerate(step.kernel.accesses):
        ref = table["pointer", number]
        assert isinstance(ref, Ref)
        strides = tuple([table.get(("stride", number, a), c) for a, c in enumerate(access.strides)])
        pattern = ((ref.offset, strides, number in gathered), by_name(access.dtype).itemsize)
        if access.writes:
            if ref.buffer in writes:
                twice.add(ref.buffer)
            writes[ref.buffer] = pattern
        else:
            reads.setdefault(ref.buffer, set()).add(pattern)
    return reads, {b: p for b, p in writes.items() if b not in twice}


def _root(program: Program, number: int) -> int:
    """The buffer whose memory this one uses in the end."""
    while program.buffers[number].shares >= 0:
        number = program.buffers[number].shares
    return number


def _blocks(program: Program) -> list[Block]:
    members: dict[int, list[int]] = {}
    for number, info in enumerate(program.buffers):
        root = _root(program, number)
        if info.kind == "temp" and program.buffers[root].kind == "temp":
            members.setdefault(root, []).append(number)
    spans = [([program.buffers[b].first for b in found], [program.buffers[b].last for b in found], found) for found in members.values()]
    return [Block(min(first), max(last), tuple(found)) for first, last, found in spans]


def _packed_again(packing: Packing, sizes: list[int], bound: int) -> list[int] | None:
    """Where blocks of so many bytes begin, each on top of the same one as last time; None if that does not do."""
    if not packing.order:
        return None
    offsets, ends = [0] * len(sizes), [0] * len(sizes)
    below = packing.below
    for i in packing.order:
        at = offsets[i] = ends[below[i]] if below[i] >= 0 else 0
        ends[i] = at + sizes[i]
    if max(ends) > SPARE * packing.ratio * bound:
        return None
    one, other = packing.apart
    starts, stops = np.array(offsets), np.array(ends)
    return None if ((starts[one] < stops[other]) & (starts[other] < stops[one])).any() else offsets


def _pack_by_size(packing: Packing, sizes: list[int], bound: int) -> list[int]:
    """Give every block, of so many bytes, the tightest gap that fits among those alive at the same time."""
    blocks = packing.blocks
    placed: list[tuple[int, int, int, int, int]] = []  # (offset, end, first, last, number)
    offsets, below = [0] * len(blocks), [-1] * len(blocks)
    apart: list[int] = []  # pairs
    order = sorted(range(len(blocks)), key=lambda i: (-sizes[i], blocks[i].first))
    for i in order:
        size, (first, last, _) = sizes[i], blocks[i]
        at, under, best, gap = 0, -1, (-1, -1), 1 << 62
        for offset, end, other in [(o, e, k) for o, e, f, n, k in placed if f <= last and n >= first]:
            apart += (i, other)
            if size <= offset - at < gap:
                best, gap = (at, under), offset - at
            if end > at:
                at, under = end, other
        offset, below[i] = (at, under) if best[0] < 0 else best
        offsets[i] = offset
        insort(placed, (offset, offset + size, first, last, i))
    packing.order, packing.below, packing.apart = order, below, np.array(apart, np.int32).reshape(-1, 2).T
    packing.ratio = max(map(add, offsets, sizes), default=0) / max(bound, 1)
    return offsets


def _pack_by_time(blocks: list[Block], sizes: list[int]) -> list[int]:
    """First come, first served, from lists of freed pieces of exactly the same size."""
    free: dict[int, list[int]] = {}
    ends: dict[int, list[tuple[int, int]]] = {}
    arena = now = 0
    offsets = [0] * len(blocks)
    for i in sorted(range(len(blocks)), key=lambda i: blocks[i].first):
        size, block = sizes[i], blocks[i]
        while now < block.first:
            for offset, freed in ends.pop(now, ()):
                free.setdefault(freed, []).append(offset)
            now += 1
        pieces = free.get(size)
        if pieces:
            offset = pieces.pop()
        else:
            offset, arena = arena, arena + size
        offsets[i] = offset
        ends.setdefault(block.last, []).append((offset, size))
    return offsets


def _bound(blocks: list[Block], sizes: list[int], steps: int) -> int:
    change = [0] * (steps + 2)
    for size, block in zip(sizes, blocks, strict=True):
        change[max(block.first, 0)] += size
        change[block.last + 1] -= size
    return max(accumulate(change))
