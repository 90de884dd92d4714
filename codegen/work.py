"""What a step of a program is called, where it comes from, and how much work it is: what a profile divides times by.

Operations count as in the roofline model: additions, multiplications and comparisons of floating point numbers as one, functions
that are polynomials (exp, tanh, ...) as the instructions they take. Bytes count every element that a step reads or writes once.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from treadle.codegen.schedule import instr_cost
from treadle.ir.dtypes import FLOAT, by_name
from treadle.ir.graph import Node
from treadle.ir.kernel import REDUCE, ZERO, Kernel, argument_layout
from treadle.ir.routine import ALL, ARGUMENTS, ONLY_KEYS, ONLY_QUERIES
from treadle.passes.program import GemmStep, GroupStep, HostStep, KernelStep, LoopStep, Program, Ref, RoutineStep, Step, step_refs

_FREE = frozenset("load load_if load_at scalar const index slot cast select random".split())
MOST_NAMES = 6  # ops that a title spells out


class Work(NamedTuple):
    """Operations, bytes moved, and the type that most arithmetic is done in ("" without any): of a product, that of its operands.

    The type matters in kernels only when it is wider: they compute 16-bit floats in float32.
    """

    flops: int
    bytes: int
    dtype: str


def nodes_of(step: Step) -> tuple[Node, ...]:
    """The ops that a step computes, in order."""
    if isinstance(step, KernelStep):
        return step.nodes
    if isinstance(step, GroupStep):
        return tuple([node for member in step.members for node in member.nodes])
    found = () if step.node is None else (step.node,)
    if isinstance(step, GemmStep) and step.epilogue is not None:
        return (*found, *step.epilogue.nodes)
    return found


def title(step: Step) -> str:
    """The names of the step's ops: `matmul_add_relu`; of a group, those of its members: `mul_add x 3`."""
    if isinstance(step, GroupStep):
        counts = Counter(title(member) for member in step.members)
        return ", ".join([name if n == 1 else f"{name} x {n}" for name, n in counts.items()])
    names = [n.op.name for n in nodes_of(step) if n.op is not None and n.op.name not in ("full", "constant")]
    names = names or [n.op.name for n in nodes_of(step) if n.op is not None] or ["copy"]
    shown = names[:MOST_NAMES]
    more = f"_and_{len(names) - len(shown)}_more" if len(names) > len(shown) else ""
    return "_".join(shown) + more + (" (host)" if isinstance(step, HostStep) else "")


def sources(step: Step) -> list[tuple[str, int]]:
    """File and line of each op of the step, each once, in order."""
    return list(dict.fromkeys([n.loc for n in nodes_of(step) if n.loc]))


def shapes(program: Program, step: Step) -> list[tuple[int, ...]]:
    """The shape of every buffer that the step reads or writes, in the order of its arguments."""
    return [program.buffers[ref.buffer].shape for ref in step_refs(step)]


def work_of(program: Program, step: Step) -> Work:
    """What one run of `step` amounts to."""
    if isinstance(step, KernelStep):
        return Work(_flops(step.kernel, step.sizes), _bytes(program, step), _dtype(step.kernel))
    if isinstance(step, GemmStep):
        batch = prod(step.batch)
        moved = (step.m * step.k + step.k * step.n) * batch * by_name(step.operand_dtype).itemsize
        moved += step.m * step.n * batch * step.dtype.itemsize
        flops = 2 * batch * step.m * step.n * step.k
        if step.epilogue is not None:
            flops += _flops(step.epilogue.kernel, step.epilogue.sizes)
            moved += _bytes(program, step.epilogue) - 2 * batch * step.m * step.n * step.dtype.itemsize  # the tile is at hand
        return Work(flops, max(moved, 0), step.operand_dtype)
    if isinstance(step, GroupStep):
        inner = [work_of(program, s) for s in step.members]
        return Work(sum(w.flops for w in inner), sum(w.bytes for w in inner), max((w.dtype for w in inner), key=lambda d: d == "float64"))
    if isinstance(step, LoopStep):
        inner = [work_of(program, s) for s in step.body]
        return Work(step.trip * sum(w.flops for w in inner), step.trip * sum(w.bytes for w in inner), "")
    if isinstance(step, RoutineStep | HostStep):
        flops = _attention_flops(step) if isinstance(step, RoutineStep) and step.routine.family.startswith("attention") else 0
        moved = sum(program.buffers[r.buffer].nbytes for r in (*step.inputs, *step.outputs) if isinstance(r, Ref))
        return Work(flops, moved, "float32" if flops else "")
    raise TypeError(f"{type(step).__name__} is no step")


def _attention_flops(step: RoutineStep) -> int:
    """Of the matrix products alone; half of them where the scores above the diagonal are skipped."""
    given: dict[str, Any] = dict(zip(ARGUMENTS[step.routine.family], step.arguments, strict=True))
    rows, keys, size, depth = (int(given[n]) for n in ("rows", "keys", "size", "depth"))
    products = {None: size + depth, ALL: 3 * size + 2 * depth, ONLY_QUERIES: 2 * size + depth, ONLY_KEYS: 2 * size + 2 * depth}
    heads = prod(step.node.outputs[0].shape[:2])
    return 2 * heads * rows * keys * products[given.get("phase")] // (2 if "causal" in step.routine.kind else 1)


def _varies(kernel: Kernel) -> Iterator[frozenset[int]]:
    """The axes along which each instruction's value changes."""
    found: list[frozenset[int]] = []
    folds = frozenset(i for i, a in enumerate(kernel.axes) if a.kind == REDUCE)
    for instr in kernel.body:
        axes = frozenset().union(*[found[o] for o in instr.operands])
        if instr.opcode.startswith("load"):
            axes |= {a for a, c in enumerate(kernel.accesses[instr.params[0]].strides) if c != ZERO}
        elif instr.opcode == "index":
            axes |= {instr.params[0]}
        elif instr.opcode in ("reduce", "argreduce"):
            axes -= folds
        found.append(axes)
        yield axes


def _flops(kernel: Kernel, sizes: tuple[int, ...]) -> int:
    varies = list(_varies(kernel))
    total = 0
    for i, instr in enumerate(kernel.body):
        kind = kernel.body[instr.operands[0]].dtype if instr.operands else instr.dtype
        if instr.opcode in _FREE or by_name(kind).category != FLOAT:
            continue
        if instr.opcode in ("reduce", "argreduce"):  # one operation for each element that is folded
            folded = {a for a, axis in enumerate(kernel.axes) if axis.kind == REDUCE}
            total += prod(sizes[a] for a in varies[instr.operands[0]] | folded)
        else:
            total += instr_cost(instr) * prod(sizes[a] for a in varies[i])
    return total


def _bytes(program: Program, step: KernelStep) -> int:
    """Elements along the axes that move an access, but no more than its buffer holds."""
    total = 0
    for place, argument in zip(argument_layout(step.kernel), step.arguments, strict=True):
        if place[0] == "pointer":
            access = step.kernel.accesses[place[1]]
            touched = prod(n for n, c in zip(step.sizes, access.strides, strict=True) if c != ZERO) * by_name(access.dtype).itemsize
            total += min(touched, program.buffers[argument.buffer].nbytes) if isinstance(argument, Ref) else touched
    return total


def _dtype(kernel: Kernel) -> str:
    floats = [i.dtype for i in kernel.body if by_name(i.dtype).category == FLOAT]
    found = max(dict.fromkeys(floats), key=floats.count) if floats else ""
    return "float32" if found in ("float16", "bfloat16") else found
