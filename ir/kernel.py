"""The kernel IR: one loop nest over named axes with a scalar expression DAG, as hashable tuples.

A kernel is a *shape-free* description: axis sizes, strides and scalars are run-time arguments. The tuple itself is the key
of the kernel cache, so two programs that need the same loop share its machine code.

    axes       every iteration axis, parallel ones first and in order, then reduce axes
    accesses   memory operands: element type, direction, and per axis the class of its stride
    body       SSA instructions in dependency order; an instruction refers to earlier ones by position
    stores     (access, instruction): what is written where

The domain is parallel axes x reduce axes. An instruction that does not (transitively) depend on a reduce axis, other than
through a finished `reduce`, is a *row* value, computed once per point of the parallel axes. Several reduces may depend on one
another (softmax: amax, then sum): the emitter orders them into stages, each one sweep over the reduce axes that recomputes
the elementwise expressions it needs. That makes map, reduction and row program one family.
"""
from __future__ import annotations

from typing import NamedTuple

# Stride classes of an access along an axis. UNIT: consecutive elements, known when the kernel is built. RUNTIME: an argument.
# REVERSED and PAIRED are arguments too, known to be -1 and 2: whole vectors can be read and their lanes chosen.
ZERO, UNIT, RUNTIME, REVERSED, PAIRED = 0, 1, 2, 3, 4

PARALLEL, REDUCE = "parallel", "reduce"


class Axis(NamedTuple):
    """One loop. Its size is a run-time argument."""

    kind: str  # PARALLEL or REDUCE


class Access(NamedTuple):
    """A way of addressing memory: element (i0, i1, ...) of the domain is at pointer + sum(i_a * stride_a) elements.

    A constant offset is folded into the pointer by the caller. `strides` holds one class per axis.
    bool elements are stored as one byte, 0 or 1.
    """

    dtype: str
    writes: bool
    strides: tuple[int, ...]


class Instr(NamedTuple):
    """One SSA instruction: `opcode`, result dtype name, positions of operands, and static parameters.

    opcodes:
      load     params (access,)                      the element at the current point
      load_if  params (access,), operands (cond,)    as load where cond is true; elsewhere 0 and memory is not touched
      load_at  params (access, bound slot, stride slot), operands (index,): element at the point plus index * stride, both run-time
               arguments (`slots`); a negative index counts from the end; outside [-bound, bound) the fault is written to the
               error cell and 0 is read
      scalar   params (position,)                    a run-time scalar argument, already of the result dtype
      const    params (value,)
      index    params (axis,)                        the loop counter as int64
      slot     params (slot,)                        a run-time int64 argument (sizes, bounds of guarded loads)
      quotient operands (x, y)                       x / y of int64, x not negative, y positive: a digit of an index
      cast     operands (x,)                         between any two dtypes, C semantics; to bool means != 0
      reduce   params (kind,), operands (x,)         kind: sum prod amax amin any all; over ALL reduce axes
      argreduce params (kind,), operands (x,)        kind: argmax argmin; needs exactly one reduce axis; int64, first winner, NaN wins
      random   operands (seed, offset, index)        Philox bits as int32
      any elementwise op's `scalar` name: operands all of one dtype except `select` (bool, x, y); comparisons give bool
    """

    opcode: str
    dtype: str
    operands: tuple[int, ...] = ()
    params: tuple = ()


class _Parts(NamedTuple):
    axes: tuple[Axis, ...]
    accesses: tuple[Access, ...]
    scalars: tuple[str, ...]
    slots: int
    body: tuple[Instr, ...]
    stores: tuple[tuple[int, int], ...]


class Kernel(_Parts):
    """See the module's docstring. `slots`: how many int64 run-time arguments beyond sizes, strides and scalars it takes."""

    _hash: int | None = None

    def __hash__(self) -> int:
        """Known once it was asked for: what plans are made of is looked up again and again."""
        if self._hash is None:
            self._hash = super().__hash__()
        return self._hash


# Functions that an integer divisor of zero stops, and all opcodes that may find their data at fault.
INTEGER_FAULTS = ("floor_divide", "trunc_divide", "remainder", "fmod")
FALLIBLE = frozenset(("load_at", *INTEGER_FAULTS))


def may_fail(kernel: Kernel) -> bool:
    """Whether the kernel may report a fault in its data."""
    return any(i.opcode in FALLIBLE for i in kernel.body)


def argument_layout(kernel: Kernel) -> list[tuple]:
    """What the i64 argument table holds, in order.

    ("error",): pointer to the error cell, int64[8]; ("size", axis); ("pointer", access); ("stride", access, axis) from
    RUNTIME on, in elements; ("slot", k); ("scalar", k): the number's bits, in the low bytes.
    """
    layout: list[tuple] = [("error",)]
    layout += [("size", a) for a in range(len(kernel.axes))]
    for i, access in enumerate(kernel.accesses):
        layout.append(("pointer", i))
        layout += [("stride", i, a) for a, cls in enumerate(access.strides) if cls >= RUNTIME]
    layout += [("slot", k) for k in range(kernel.slots)]
    layout += [("scalar", k) for k in range(len(kernel.scalars))]
    return layout


def print_kernel(kernel: Kernel, name: str = "kernel") -> str:
    """The kernel as text, one instruction a line."""
    letters = [("p" if a.kind == PARALLEL else "r") + str(i) for i, a in enumerate(kernel.axes)]

    def place(access: Access) -> str:
        steps = {UNIT: "", REVERSED: "*-1", PAIRED: "*2"}
        terms = [v + steps.get(c, "*s") for v, c in zip(letters, access.strides, strict=True) if c != ZERO]
        return f"[{' + '.join(terms) or '0'}]"

    lines = [f"kernel @{name}({', '.join(f'{v}: {a.kind}' for v, a in zip(letters, kernel.axes, strict=True))}) {{"]
    for i, access in enumerate(kernel.accesses):
        lines.append(f"  memory m{i} : {access.dtype} {'out' if access.writes else 'in'} {place(access)}")
    for i, instr in enumerate(kernel.body):
        args = [f"%{o}" for o in instr.operands]
        args += [f"m{p}" if instr.opcode.startswith("load") and k == 0 else letters[p] if instr.opcode == "index" else str(p)
                 for k, p in enumerate(instr.params)]
        lines.append(f"  %{i} = {instr.opcode} {', '.join(args)} : {instr.dtype}")
    lines += [f"  store %{value} -> m{access}" for access, value in kernel.stores]
    return "\n".join([*lines, "}"])
