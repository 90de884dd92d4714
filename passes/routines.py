"""Ops that routines compute, as steps: which routine, how its work is cut into units, and its arguments."""
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Protocol

from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, DType
from treadle.ir.graph import Node, Value
from treadle.ir.routine import ARGUMENTS, SCRATCH_BYTES, Routine
from treadle.ir.types import Shape
from treadle.passes.program import Argument, BufferInfo, ErrorCell, Program, Ref, RoutineStep

# Elements worth a thread.
THREAD_WORK = 1 << 15
# Rows at least so long and fewer than so many are cut into blocks, at most BLOCKS of them and at least BLOCK long.
LONG_ROW, FEW_ROWS, BLOCKS, BLOCK = 1 << 15, 16, 64, 1 << 13
# Columns that a scan walks together: a page of them at most, so that memory is read in order.
MIN_CHUNK, MAX_CHUNK = 64, 1024
MAX_SORTED = 1 << 31
COUNTED = 16  # blocks of elements that are counted apart


class Lowering(Protocol):
    """What lowering a node needs of the lowering of the graph around it."""

    program: Program

    def buffer(self, value: Value) -> int: ...

    def scalar(self, value: Value, dtype: DType) -> int: ...


def lower_routine(outer: Lowering, node: Node) -> bool:
    """Append the steps of a routine for `node`; False when no routine computes it (empty operands, enormous rows)."""
    assert node.op is not None
    rule = _RULES.get(node.op.routine)
    if rule is None or any(v.type.weak or v.type.numel == 0 or v.dtype.is_complex for v in (*node.inputs, *node.outputs)):
        return False
    return rule(outer, node)


def _name(dtype: DType) -> str:
    """bool is a byte to routines, but for arithmetic."""
    return "uint8" if dtype.category == BOOL else dtype.name


def _around(shape: Shape, dim: int) -> tuple[int, int, int]:
    """(outer, n, inner) around axis `dim`."""
    return prod(shape[:dim]), shape[dim], prod(shape[dim + 1:])


def grain_of(work: int) -> int:
    """Units of so much work each that are worth a thread."""
    return -(-THREAD_WORK // max(work, 1))


def _append(outer: Lowering, node: Node, routine: Routine, given: dict[str, Argument], units: int, work: int, last: bool = True) -> None:
    """`work`: of a unit, in elements. Only the last step of a node gives its results."""
    values = {"error": ErrorCell(), **given}
    arguments = tuple([values.get(name, 0) for name in ARGUMENTS[routine.family]])
    outs = tuple([Ref(outer.buffer(o)) for o in node.outputs]) if last else ()
    # What a scatter writes over is in place already.
    operands = (*node.outputs, *node.inputs[1:]) if routine.family == "scatter" else node.inputs
    ins = tuple([Ref(outer.buffer(v)) for v in operands])
    outer.program.steps.append(RoutineStep(routine, arguments, units, grain_of(work), ins, outs, node))


def _temporary(outer: Lowering, nbytes: int) -> Ref:
    outer.program.buffers.append(BufferInfo(nbytes, "temp", dtypes.uint8, (nbytes,)))
    return Ref(len(outer.program.buffers) - 1)


def _scan(outer: Lowering, node: Node) -> bool:
    x = node.inputs[0]
    assert node.op is not None
    rows, n, inner = _around(x.shape, node.attr("dim"))
    extreme = len(node.outputs) == 2
    routine = Routine("scan", node.op.name, _name(x.dtype) if extreme else x.dtype.name,
                      _name(node.outputs[0].dtype) if extreme else node.outputs[0].dtype.name)
    given: dict[str, Argument] = {"x": Ref(outer.buffer(x)), "out": Ref(outer.buffer(node.outputs[0])), "n": n, "inner": inner,
                                  "block": n, "blocks": 1, "phase": 1}
    if extreme:
        given["index"] = Ref(outer.buffer(node.outputs[1]))
    if inner > 1:
        chunk = min(max(-(-rows * inner // (8 * MIN_CHUNK)) * MIN_CHUNK, MIN_CHUNK), MAX_CHUNK)
        _append(outer, node, routine, given | {"chunk": chunk}, rows * -(-inner // chunk), n * min(chunk, inner))
        return True
    if n >= LONG_ROW and rows < FEW_ROWS:
        block = max(-(-n // (BLOCKS * 64)) * 64, BLOCK)
        blocks = -(-n // block)
        given |= {"block": block, "blocks": blocks, "totals": _temporary(outer, rows * blocks * 16)}
        _append(outer, node, routine, given | {"phase": 0}, rows * blocks, block, last=False)
        _append(outer, node, routine, given, rows * blocks, block)
    else:
        _append(outer, node, routine, given, rows, n)
    return True


def _workspace(outer: Lowering, rows: int, nbytes: int) -> dict[str, Argument]:
    """Scratch memory where it suffices, else a temporary with `nbytes` for each row."""
    if nbytes <= SCRATCH_BYTES:
        return {"workspace": 0, "workspace_step": 0}
    return {"workspace": _temporary(outer, rows * nbytes), "workspace_step": nbytes}


def _sort(outer: Lowering, node: Node) -> bool:
    x = node.inputs[0]
    rows, n = prod(x.shape[:-1]), x.shape[-1]
    if n >= MAX_SORTED:
        return False
    routine = Routine("sort", "", _name(x.dtype), _name(x.dtype), node.attr("descending"))
    given: dict[str, Argument] = {"x": Ref(outer.buffer(x)), "values": Ref(outer.buffer(node.outputs[0])),
                                  "index": Ref(outer.buffer(node.outputs[1])), "n": n}
    given |= _workspace(outer, rows, n * (32 if x.dtype.itemsize == 8 else 8))
    _append(outer, node, routine, given, rows, 16 * n)
    return True


def _topk(outer: Lowering, node: Node) -> bool:
    x, k = node.inputs[0], node.attr("k")
    rows, n = prod(x.shape[:-1]), x.shape[-1]
    if n >= MAX_SORTED:
        return False
    routine = Routine("topk", "", _name(x.dtype), _name(x.dtype), node.attr("largest"))
    room = min(n, 2 * k + 256) + 16
    given: dict[str, Argument] = {"x": Ref(outer.buffer(x)), "values": Ref(outer.buffer(node.outputs[0])),
                                  "index": Ref(outer.buffer(node.outputs[1])), "n": n, "k": k, "room": room}
    given |= _workspace(outer, rows, 2 * room * (16 if x.dtype.itemsize == 8 else 8))
    _append(outer, node, routine, given, rows, n + 16 * room)
    return True


def _scatter(outer: Lowering, node: Node) -> bool:
    x, place, src = node.inputs
    rows, inner = x.shape
    reduce, count = node.attr("reduce"), place.type.numel
    name = _name(x.dtype) if reduce == "set" else x.dtype.name
    routine = Routine("scatter", reduce, name, name, splat=src.type.numel == 1 and (count > 1 or inner > 1))
    # Narrow rows are not shared: each thread reads the whole index.
    chunk = 64 if inner >= 128 else inner
    given: dict[str, Argument] = {"out": Ref(outer.buffer(node.out)), "place": Ref(outer.buffer(place)), "src": Ref(outer.buffer(src)),
                                  "rows": rows, "count": count, "inner": inner, "chunk": chunk}
    _append(outer, node, routine, given, -(-inner // chunk), count * chunk)
    return True


def _sparse_matmul(outer: Lowering, node: Node) -> bool:
    values, x, _, cols, starts, order, *_ = node.inputs
    (rows, inner), count = node.out.shape, values.type.numel
    if any(v.dtype is not dtypes.int64 for v in node.inputs[2:]):
        return False
    routine = Routine("sparse_matmul", "", _name(x.dtype), _name(x.dtype))
    named = {"out": node.out, "values": values, "x": x, "cols": cols, "starts": starts, "order": order}
    given: dict[str, Argument] = {name: Ref(outer.buffer(v)) for name, v in named.items()}
    _append(outer, node, routine, given | {"count": count, "columns": x.shape[0], "inner": inner}, rows, -(-count * inner // rows))
    return True


def _bincount(outer: Lowering, node: Node) -> bool:
    """In blocks with counts of their own where these are few next to the elements."""
    x, size = node.inputs[0], node.attr("size")
    n = x.type.numel
    blocks = min(COUNTED, max(1, n // max(8 * size, BLOCK)))
    block = -(-n // blocks)
    chunk = min(MAX_CHUNK, -(-size // 64) * 64)
    out = Ref(outer.buffer(node.out))
    given: dict[str, Argument] = {"x": Ref(outer.buffer(x)), "out": out, "totals": out, "n": n, "size": size, "block": block,
                                  "blocks": blocks, "phase": 0, "chunk": chunk}
    routine = Routine("bincount", "", "int64", "int64")
    if blocks > 1:
        given["totals"] = _temporary(outer, blocks * size * 8)
        _append(outer, node, routine, given, blocks, 4 * block, last=False)
        _append(outer, node, routine, given | {"phase": 1}, -(-size // chunk), blocks * chunk)
    else:
        _append(outer, node, routine, given, 1, block)
    return True


_RULES: dict[str, Callable[[Lowering, Node], bool]] = {"scan": _scan, "sort": _sort, "topk": _topk, "scatter": _scatter,
                                                      "sparse_matmul": _sparse_matmul, "bincount": _bincount}
