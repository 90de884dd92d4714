"""What lowering produces: an ordered list of steps over numbered buffers. Pure data: no addresses, no machine code."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from treadle.ir.dtypes import DType
from treadle.ir.graph import Node
from treadle.ir.kernel import Kernel
from treadle.ir.routine import Routine
from treadle.ir.size import Size


class Ref(NamedTuple):
    """A place in a buffer. Inside a loop it moves by `step` bytes per iteration, and is `apart` bytes away in iterations 1, 3, ..."""

    buffer: int
    offset: int = 0
    step: int = 0
    apart: int = 0


class ScalarRef(NamedTuple):
    """A run-time number: the position in `Program.scalars`."""

    position: int


class SizeBits(NamedTuple):
    """The bits of a size as a number of `dtype`, in a program whose sizes are not known yet."""

    size: Size
    dtype: DType


class ErrorCell(NamedTuple):
    """The address of the cell in which kernels report faults."""


class ScalarInfo(NamedTuple):
    """Graph input `input` (a weak scalar), or a `part` of it, "real" or "imag", converted to `dtype`."""

    input: int
    dtype: DType
    part: str = ""

    def of(self, number: Any) -> Any:
        """The number to convert, given the input."""
        return getattr(number, self.part) if self.part else number


Argument = int | Ref | ScalarRef | SizeBits | ErrorCell


@dataclass(slots=True)
class BufferInfo:
    """nbytes; kind "input", "output" or "temp"; first and last step that touches it (-1: none); `offset` in the arena for a temp.

    `shares`: the buffer whose memory this one takes over (an operand that dies in the step that writes this one), or -1.
    """

    nbytes: int
    kind: str
    dtype: DType
    shape: tuple[int, ...]
    first: int = -1
    last: int = -1
    offset: int = -1
    shares: int = -1


@dataclass(slots=True)
class KernelStep:
    """One launch. `arguments` is aligned with `treadle.ir.kernel.argument_layout(kernel)`; a scalar constant is its bits."""

    kernel: Kernel
    sizes: tuple[int, ...]
    arguments: tuple[Argument, ...]
    nodes: tuple[Node, ...] = ()


# The kernels put vectors together from pieces of lines that have at least so many elements; of single ones they take one after another.
SHORTEST_LINE = 2
# Along rows they are transposed on the way, which only longer lines are worth.
SHORTEST_ACROSS = 8
# Of an index.
MOST_DIGITS = 4


class Windows(NamedTuple):
    """Rows and columns of a matrix that lie apart in memory: each index has up to MOST_DIGITS digits (size, stride), outermost first.

    Along the last digit of columns elements are neighbours, or every second one; or, with `across`, along that of rows they are neighbours.
    """

    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    across: bool = False


class Matrix(NamedTuple):
    """An operand of a matrix product: where it starts, and strides in elements over (batch axes..., rows, columns).

    With `windows` it is the second operand, and the last two strides are 0.
    """

    ref: Ref
    strides: tuple[int, ...]
    windows: Windows | None = None


@dataclass(slots=True)
class GemmStep:
    """c[batch, i, j] = sum over k of a[batch, i, k] * b[batch, k, j], for up to two batch axes.

    `epilogue` is a kernel without reduce axes over (rows, columns), or (batch, rows, columns) when `batch` is not empty,
    applied to each finished tile; it reads c.

    form: "" when all three have `dtype`. "bfloat16": a and b are, read in pairs along K, and c is float32. "int8": a holds unsigned bytes,
    b packed weights (its strides mean nothing), c int32.
    """

    dtype: DType
    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    c: Matrix
    epilogue: KernelStep | None = None
    node: Node | None = None
    form: str = ""

    @property
    def operand_dtype(self) -> str:
        """What its kernels are named after."""
        return self.form or self.dtype.name


@dataclass(slots=True)
class RoutineStep:
    """One launch of a routine over `units`, of which `grain` are worth a thread.

    `arguments` is aligned with `treadle.ir.routine.ARGUMENTS`. What it computes is `node` on `inputs`, written to `outputs`
    (none for a launch that only prepares another): whole buffers, but inputs for which `strides` says how they are walked through.
    """

    routine: Routine
    arguments: tuple[Argument, ...]
    units: int
    grain: int
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    node: Node
    strides: tuple[tuple[int, ...], ...] = ()


@dataclass(slots=True)
class HostStep:
    """Run the op's numpy reference: `inputs` are whole buffers or run-time numbers, `outputs` whole buffers."""

    node: Node
    inputs: tuple[Ref | ScalarRef, ...]
    outputs: tuple[Ref, ...]


@dataclass(slots=True)
class LoopStep:
    """Run `body` `trip` times; its Refs say how they move."""

    trip: int
    body: list["Step"]
    node: Node | None = None


@dataclass(slots=True)
class GroupStep:
    """Launches that do not depend on one another and run as one: threads share the work of all of them."""

    members: list[KernelStep]


Step = KernelStep | GemmStep | RoutineStep | HostStep | LoopStep | GroupStep


class Block(NamedTuple):
    """Temporaries that share memory, and the first and last step that touches it."""

    first: int
    last: int
    members: tuple[int, ...]


@dataclass(slots=True)
class Packing:
    """The blocks of a program, and how they were packed last, for programs that differ from it in sizes alone: the biggest first (`order`),
    each on top of another one (`below`; -1: at the bottom), in so many times the bytes that must be alive at once. `apart`: pairs of blocks
    that are alive at the same time."""

    blocks: list[Block] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    apart: Any = None
    ratio: float = 1.0


class Taker(NamedTuple):
    """An output whose memory is first touched in step `first`, and inputs that are read there for the last time, just as it is written."""

    output: int
    first: int
    readers: tuple[int, ...]


@dataclass(slots=True)
class Program:
    """`inputs` and `outputs` are buffer numbers in the graph's order; an input that is a run-time number has -1. From the step `safe` on
    nothing can find the data at fault. `takers`: what may be written into the memory of inputs, see `treadle.passes.memory`."""

    steps: list[Step] = field(default_factory=list)
    buffers: list[BufferInfo] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    scalars: list[ScalarInfo] = field(default_factory=list)
    safe: int = 0
    packing: Packing = field(default_factory=Packing)
    takers: list[Taker] = field(default_factory=list)
    arena: int = 0
    arena_bound: int = 0

    def kernels(self) -> Iterator[Kernel]:
        """Every kernel launched on its own (not as an epilogue), in order."""
        for step in walk(self.steps):
            if isinstance(step, KernelStep):
                yield step.kernel

    def epilogues(self) -> Iterator[Kernel]:
        for step in walk(self.steps):
            if isinstance(step, GemmStep) and step.epilogue is not None:
                yield step.epilogue.kernel


def walk(steps: list[Step]) -> Iterator[Step]:
    """All steps, those inside loops and groups too."""
    for step in steps:
        yield step
        if isinstance(step, LoopStep):
            yield from walk(step.body)
        elif isinstance(step, GroupStep):
            yield from step.members


def step_refs(step: Step) -> Iterator[Ref]:
    """Every place in memory that a step touches."""
    if isinstance(step, KernelStep | RoutineStep):
        yield from [a for a in step.arguments if isinstance(a, Ref)]
    elif isinstance(step, GemmStep):
        yield from (step.a.ref, step.b.ref, step.c.ref)
        if step.epilogue is not None:
            yield from step_refs(step.epilogue)
    elif isinstance(step, HostStep):
        yield from [r for r in step.inputs if isinstance(r, Ref)]
        yield from step.outputs
    else:
        for inner in step.body if isinstance(step, LoopStep) else step.members:
            yield from step_refs(inner)
