"""Attention nodes as steps: operands read through views, how queries are shared out, run-time numbers."""
from __future__ import annotations

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.graph import Node, Value
from treadle.ir.op import Kind
from treadle.ir.routine import ALL, ARGUMENTS, KEY_BLOCK, ONLY_KEYS, ONLY_QUERIES, Routine
from treadle.ir.size import Size, at_least
from treadle.ir.types import Shape
from treadle.passes.build import scalar_bits
from treadle.passes.product import Operand, fold_view, plain
from treadle.passes.program import Argument, ErrorCell, Matrix, Ref, RoutineStep, ScalarRef
from treadle.passes.routines import Lowering, grain_of

# Queries of a unit, where there are enough units of so many for every thread; else fewer.
BLOCKS, ENOUGH = (128, 64, 32), 16
# Of the gradient: heads of keys below which they are cut into blocks of keys, and queries into blocks of so many.
FEW_OWNERS, TOGETHER = 8, 64
NUMBERS = (("scale", dtypes.float32), ("p", dtypes.float32), ("seed", dtypes.int64), ("offset", dtypes.int64))


def is_attention(node: Node) -> bool:
    """Whether a kernel computes the node."""
    return node.op is not None and node.op.kind is Kind.ATTENTION and node.out.dtype is dtypes.float32


def tensors(node: Node) -> list[Value]:
    """The operands that are in memory."""
    return [v for v in node.inputs if not v.type.weak]


def attention_operands(node: Node) -> list[Operand]:
    """How each tensor is read: through views that leave its last axis contiguous, or as the contiguous value it is."""
    found = []
    for value in tensors(node):
        operand = fold_view(value)
        even = len(value.shape) == 4 and all([s >= 0 for s in operand.strides]) and (operand.strides[-1] == 1 or value.shape[-1] == 1)
        found.append(operand if even else plain(value))
    return found


def lower_attention(outer: Lowering, node: Node, operands: list[Operand]) -> None:
    """Append the step that computes `node` from its tensors, read as `operands` say."""
    assert node.op is not None
    values = tensors(node)
    names = [n for n in node.op.operands[:-1] if n not in dict(NUMBERS)] + ["mask"] * (len(values) - len(node.op.operands) + 5)
    mats = {n: Matrix(Ref(outer.buffer(o.base), o.offset * v.dtype.itemsize), o.strides)
            for n, o, v in zip(names, operands, values, strict=True)}
    q, k, v = (value for n, value in zip(names, values, strict=True) if n in ("query", "key", "value"))
    given = _sizes(q, k, v) | _numbers(outer, node)
    if "mask" in mats:
        given |= _mask(mats["mask"], values[-1].shape)
    routine = Routine(node.op.routine, _kind(node, values[-1] if "mask" in mats else None), "float32", "float32")
    for name, short in (("query", "q"), ("key", "k"), ("value", "v")):
        given |= _strided(short, mats[name])
    if node.op.routine == "attention":
        _forward(outer, node, routine, given, tuple(mats.values()))
    else:
        given |= _strided("g", mats["g"]) | _strided("out", mats["out"]) | {"lse": mats["lse"].ref}
        _backward(outer, node, routine, given, tuple(mats.values()))


def _forward(outer: Lowering, node: Node, routine: Routine, given: dict[str, Argument], mats: tuple[Matrix, ...]) -> None:
    out, lse = node.outputs
    batch, heads, rows, depth = out.shape
    given |= _strided("out", Matrix(Ref(outer.buffer(out)), (heads * rows * depth, rows * depth, depth)))
    given["lse"] = Ref(outer.buffer(lse))
    block = next((n for n in BLOCKS if at_least(batch * heads * -(-rows // n), ENOUGH)), BLOCKS[-1])
    blocks = -(-rows // block)
    given |= {"block": block, "blocks": blocks}
    keys = given["keys"]
    assert isinstance(keys, int | Size)
    _append(outer, node, routine, given, batch * heads * blocks, block * keys * depth // 8, mats)


def _backward(outer: Lowering, node: Node, routine: Routine, given: dict[str, Argument], mats: tuple[Matrix, ...]) -> None:
    """Units that own everything of a head of keys, where there are enough of them; else queries and keys apart, at some cost."""
    dq, dk, _ = node.outputs
    given |= {name: Ref(outer.buffer(o)) for name, o in zip(("dq", "dk", "dv"), node.outputs, strict=True)}
    batch, heads, rows, size = dq.shape
    owners, keys = batch * dk.shape[1], dk.shape[2]
    work = rows * keys * size
    if at_least(owners, FEW_OWNERS):
        _append(outer, node, routine, given | {"phase": ALL, "block": keys, "blocks": 1}, owners, work * heads // dk.shape[1], mats)
        return
    parts = -(-rows // TOGETHER)
    _append(outer, node, routine, given | {"phase": ONLY_QUERIES, "block": TOGETHER, "blocks": parts}, batch * heads * parts,
            work // parts, mats, last=False)
    parts = -(-keys // KEY_BLOCK)
    _append(outer, node, routine, given | {"phase": ONLY_KEYS, "block": KEY_BLOCK, "blocks": parts}, owners * parts, work // parts, mats)


def _append(outer: Lowering, node: Node, routine: Routine, given: dict[str, Argument], units: int, work: int,
            mats: tuple[Matrix, ...], last: bool = True) -> None:
    arguments = tuple([ErrorCell() if name == "error" else given.get(name, 0) for name in ARGUMENTS[routine.family]])
    outs = tuple([Ref(outer.buffer(o)) for o in node.outputs]) if last else ()
    outer.program.steps.append(RoutineStep(routine, arguments, units, grain_of(work), tuple([m.ref for m in mats]), outs, node,
                                           tuple([m.strides for m in mats])))


def _kind(node: Node, mask: Value | None) -> str:
    words = ["causal"] if node.attr("causal") else []
    if mask is not None:
        words.append("bool" if mask.dtype is dtypes.bool_ else "float")
        if mask.shape[-1] == 1:
            words.append("keys")
    return " ".join([*words, "dropout"] if node.attr("dropout") else words)


def _sizes(q: Value, k: Value, v: Value) -> dict[str, Argument]:
    return {"rows": q.shape[2], "keys": k.shape[2], "heads": q.shape[1], "group": q.shape[1] // k.shape[1], "size": q.shape[3],
            "depth": v.shape[3]}


def _numbers(outer: Lowering, node: Node) -> dict[str, Argument]:
    assert node.op is not None
    return {name: _number(outer, node.inputs[node.op.operands.index(name)], dtype) for name, dtype in NUMBERS}


def _number(outer: Lowering, value: Value, dtype: DType) -> Argument:
    """A run-time number or the bits of a constant."""
    if value.node.op is None:
        return ScalarRef(outer.scalar(value, dtype))
    return scalar_bits(value.node.attrs[0], dtype)


def has_numbers(node: Node) -> bool:
    """Whether the node's numbers are the program's or constants, which is what kernels take."""
    return all(not v.type.weak or v.node.op is None or v.node.op.name == "constant" for v in node.inputs)


def _strided(name: str, matrix: Matrix) -> dict[str, Argument]:
    return {name: matrix.ref, **{f"{name}_{axis}": stride for axis, stride in zip(("batch", "head", "row"), matrix.strides, strict=False)}}


def _mask(matrix: Matrix, shape: Shape) -> dict[str, Argument]:
    strides = [0 if n == 1 else s for n, s in zip(shape, matrix.strides, strict=True)]
    return {"mask": matrix.ref, **dict(zip(("mask_batch", "mask_head", "mask_key"), strides, strict=False))}
