"""Horizontal fusion: small launches that do not depend on one another run as one, whose work threads share as a whole.

The updates of all small parameters, or the norms of their gradients, are too little work for several threads one by one. Equal kernels
are brought together by moving a launch down past what neither needs it nor disturbs it; what then stands side by side is joined whatever
its kernel is. Steps on bigger operands stay where they are: moving them would keep memory alive.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from treadle.ir.dtypes import by_name
from treadle.ir.kernel import RUNTIME, ZERO, Kernel, argument_layout, may_fail
from treadle.ir.size import Size, at_least, maximum, minimum, surely
from treadle.passes.program import BufferInfo, GemmStep, GroupStep, HostStep, KernelStep, Program, Ref, RoutineStep, Step, step_refs

SMALL = 64 << 10     # bytes of an operand
BUDGET = 1 << 20     # bytes of temporaries that one group may keep alive
MOST_SPANS = 64      # pieces of a buffer that are told apart


class Span(NamedTuple):
    """Bytes of a buffer that a step touches."""

    buffer: int
    low: int
    high: int
    writes: bool


def group(program: Program) -> Program:
    """Join launches of `program`, which has no memory plan yet, in place."""
    slots = _sink(program)
    program.steps = [_joined(slot) for slot in _merge_neighbours(slots, program.buffers)]
    return program


class _Slot:
    """A place in the new order: one step, or small launches that run together."""

    __slots__ = ("bytes", "number", "spans", "steps")

    def __init__(self, number: int, step: Step, spans: list[Span], nbytes: int) -> None:
        self.number = number
        self.steps = [step]
        self.spans = spans
        self.bytes = nbytes  # of temporaries read, -1 when the step must stay alone


def _joined(slot: _Slot) -> Step:
    members = [s for s in slot.steps if isinstance(s, KernelStep)]
    return GroupStep(members) if len(members) > 1 else slot.steps[0]


# -- what a step touches -------------------------------------------------------------------------------------------------
def spans(step: Step, buffers: list[BufferInfo]) -> Iterator[Span]:
    """All that a step reads and writes; places it may touch as well as those it does."""
    if isinstance(step, KernelStep):
        yield from _kernel_spans(step, buffers)
    elif isinstance(step, GemmStep):
        for matrix in (step.a, step.b, step.c):
            yield _whole(matrix.ref, buffers, matrix is step.c)
        if step.epilogue is not None:
            yield from _kernel_spans(step.epilogue, buffers)
    else:
        read = set()
        if isinstance(step, RoutineStep | HostStep):
            read = {r.buffer for r in step.inputs if isinstance(r, Ref)} - {r.buffer for r in step.outputs}
        for ref in step_refs(step):
            yield _whole(ref, buffers, ref.buffer not in read)


def _whole(ref: Ref, buffers: list[BufferInfo], writes: bool) -> Span:
    return Span(ref.buffer, 0, buffers[ref.buffer].nbytes, writes)


def _kernel_spans(step: KernelStep, buffers: list[BufferInfo]) -> Iterator[Span]:
    table = dict(zip(argument_layout(step.kernel), step.arguments, strict=True))
    gathered = {i.params[0] for i in step.kernel.body if i.opcode == "load_at"}
    for number, access in enumerate(step.kernel.accesses):
        ref = table["pointer", number]
        assert isinstance(ref, Ref)
        if number in gathered:
            yield _whole(ref, buffers, access.writes)
            continue
        low = high = ref.offset
        size = by_name(access.dtype).itemsize
        for axis, (n, kind) in enumerate(zip(step.sizes, access.strides, strict=True)):
            stride = table["stride", number, axis] if kind >= RUNTIME else int(kind != ZERO)
            assert isinstance(stride, int | Size)
            reach = (n - 1) * stride * size  # of an axis without elements the span is empty: it ends before it begins
            low, high = (low, high + reach) if stride >= 0 else (low + reach, high)
        yield Span(ref.buffer, low, high + size, access.writes)


def _budget(step: Step, touched: list[Span], buffers: list[BufferInfo]) -> int:
    """Bytes of temporaries that a small launch reads; -1 for any other step."""
    if not isinstance(step, KernelStep) or may_fail(step.kernel):
        return -1
    held = [buffers[b].nbytes for b in {s.buffer for s in touched if not s.writes} if buffers[b].kind == "temp"]
    return -1 if any(at_least(n, SMALL + 1) for n in (*[s.high - s.low for s in touched], *held)) else sum(held)


def _overlap(low: int, high: int, span: Span) -> bool:
    """Whether some of these bytes may be among the span's, as far as all sizes are concerned that a plan is for."""
    return not (surely(low, span.high) or surely(span.low, high))


# -- moving down ---------------------------------------------------------------------------------------------------------
class _Later:
    """What steps that come later touch: stretches of bytes by buffer and by whether they are written, each with the number of the nearest
    slot. Slots count backwards."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, bool], list[list[int]]] = {}  # [low, high, number]

    def nearest(self, span: Span) -> int:
        """The number of the nearest later slot that has to stay behind a step that touches this; -1 for none."""
        pieces = self.found.get((span.buffer, True), [])
        if span.writes:
            pieces = pieces + self.found.get((span.buffer, False), [])
        return max([number for low, high, number in pieces if _overlap(low, high, span)], default=-1)

    def note(self, span: Span, number: int) -> None:
        pieces = self.found.setdefault((span.buffer, span.writes), [])
        for piece in pieces:
            if surely(span.low, piece[0]) and surely(piece[1], span.high):
                piece[2] = max(piece[2], number)
                return
        last = pieces[-1] if pieces else None
        if last is not None and (last[0] == span.high or len(pieces) == MOST_SPANS):  # the parts of a stack come in order
            last[:] = [minimum(last[0], span.low), maximum(last[1], span.high), max(last[2], number)]
        else:
            pieces.append([span.low, span.high, number])


def _sink(program: Program) -> list[_Slot]:
    """One sweep from the last step to the first: a small launch goes to the next slot of its kernel, if nothing in between minds."""
    later = _Later()
    slots: list[_Slot] = []
    open_slots: dict[Kernel, _Slot] = {}
    for step in reversed(program.steps):
        touched = list(spans(step, program.buffers))
        nbytes = _budget(step, touched, program.buffers)
        slot = None
        if nbytes >= 0:
            assert isinstance(step, KernelStep)
            slot = open_slots.get(step.kernel)
            fits = slot is not None and not at_least(slot.bytes + nbytes, BUDGET + 1)
            if slot is not None and fits and slot.number > max([later.nearest(s) for s in touched]):
                slot.steps.append(step)
                slot.spans += touched
                slot.bytes += nbytes
            else:
                slot = open_slots[step.kernel] = _Slot(len(slots), step, touched, nbytes)
                slots.append(slot)
        else:
            slot = _Slot(len(slots), step, touched, -1)
            slots.append(slot)
        for span in touched:
            later.note(span, slot.number)
    for slot in slots:
        slot.steps.reverse()
    slots.reverse()
    return slots


# -- joining neighbours --------------------------------------------------------------------------------------------------
def _merge_neighbours(slots: list[_Slot], buffers: list[BufferInfo]) -> list[_Slot]:
    merged: list[_Slot] = []
    for slot in slots:
        last = merged[-1] if merged else None
        fits = last is not None and last.bytes >= 0 <= slot.bytes and not at_least(last.bytes + slot.bytes, BUDGET + 1)
        if last is not None and fits and _independent(last.spans, slot.spans):
            last.steps += slot.steps
            last.spans += slot.spans
            last.bytes += slot.bytes
        else:
            merged.append(slot)
    return merged


def _independent(first: list[Span], second: list[Span]) -> bool:
    """Whether neither writes what the other touches."""
    by_buffer: dict[int, list[Span]] = {}
    for span in dict.fromkeys(first):
        by_buffer.setdefault(span.buffer, []).append(span)
    return not any((a.writes or b.writes) and _overlap(a.low, a.high, b)
                   for b in dict.fromkeys(second) for a in by_buffer.get(b.buffer, ()))
