"""`TREADLE_CHECK`: with `ref`, every compiled run is repeated by the numpy interpreter, op by op, and compared; with `nan`,
every run whose results hold NaN is repeated to find the op that made it; with `bounds`, every plan is checked before it runs
(`treadle.runtime.bounds`).
"""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from treadle.ir import interpreter
from treadle.ir.dtypes import FLOAT, plain, to_real
from treadle.ir.graph import Graph, Node, Value
from treadle.runtime.memory import Buffer, array_of

# Largest difference, relative to the largest element, that rounding in another order explains.
TOLERANCE = {"float16": 2e-2, "bfloat16": 5e-2, "float32": 2e-4, "float64": 1e-9}


class CheckError(RuntimeError):
    """Compiled code and the interpreter disagree, an op made NaN from numbers, or a kernel may leave its buffers."""


def mode() -> str:
    """What TREADLE_CHECK asks for: "", "ref", "nan" or "bounds"; ValueError for anything else."""
    name = os.environ.get("TREADLE_CHECK", "")
    if name not in ("", "ref", "nan", "bounds"):
        raise ValueError(f"TREADLE_CHECK must be ref, nan or bounds, got {name!r}")
    return name


def for_nan(graph: Graph, buffers: Sequence[Buffer], scalars: Sequence[Any], results: Sequence[Buffer],
            lines: Callable[[], Graph] | None = None) -> None:
    """CheckError naming the first op that made NaN from operands without NaN, if a result holds one.

    `lines()` is the same graph with locations to name, `graph` itself by default.
    """
    if not any(_has_nan(array_of(b, v.type)) for v, b in zip(graph.outputs, results, strict=True)):
        return
    env = dict(zip(graph.inputs, [array_of(b, v.type) for v, b in zip(graph.inputs, buffers, strict=False)]
                   + [np.asarray(s) for s in scalars], strict=True))
    with np.errstate(all="ignore"):
        for number, node in enumerate(graph.nodes):
            assert node.op is not None
            arrays = [env[v] for v in node.inputs]
            types = tuple([v.type for v in node.inputs])
            made = interpreter.evaluate(node.op, arrays, node.attrs, types, tuple([o.type for o in node.outputs]))
            if any(map(_has_nan, made)) and not any(map(_has_nan, arrays)):
                where = _where((lines() if lines else graph).nodes[number])
                kinds = " and ".join(str(o.type) for o in node.outputs)
                raise CheckError(f"NaN: {node.op.name}{where} made it, in {kinds}{_example(made, arrays)}")
            env.update(zip(node.outputs, made, strict=True))


def _where(node: Node) -> str:
    return f" at {node.loc[0]}:{node.loc[1]}" if node.loc else ""


def _example(made: Sequence[np.ndarray], operands: Sequence[np.ndarray]) -> str:
    """The first element that is NaN, and the operands' elements there (of those that broadcast to it)."""
    result = next(a for a in made if _has_nan(a))
    place = tuple(int(i) for i in np.argwhere(np.isnan(result))[0])
    there = []
    for array in operands:
        try:
            there.append(f"{np.broadcast_to(array, result.shape)[place]!s}")
        except ValueError:  # a reduced or contracted operand has no one element there
            there.append(f"{np.shape(array)} in [{np.min(array)!s}, {np.max(array)!s}]" if np.size(array) else f"{np.shape(array)}")
    return f", at {place} from {', '.join(there)}" if there else f", at {place}"


def _has_nan(array: np.ndarray) -> bool:
    return array.dtype.kind not in "biu" and bool(np.isnan(array).any())


def against_reference(graph: Graph, buffers: Sequence[Buffer], scalars: Sequence[Any], results: Sequence[Buffer],
                      lines: Callable[[], Graph] | None = None) -> None:
    """CheckError naming the op, the user's line (see `for_nan`) and the first element whose value differs."""
    inputs = [array_of(b, v.type) for v, b in zip(graph.inputs, buffers, strict=False)] + [np.asarray(s) for s in scalars]
    for number, (value, wanted, buffer) in enumerate(zip(graph.outputs, interpreter.run(graph, inputs), results, strict=True)):
        found = array_of(buffer, value.type)
        place = _first_difference(found, wanted, value)
        if place is not None:
            node = value.node
            where = _where((lines() if lines else graph).outputs[number].node)
            raise CheckError(f"compiled and interpreted results differ: {node.op.name if node.op else 'input'}{where}, element {place} of "
                             f"{value.type}: compiled {found[place]!r}, interpreted {wanted[place]!r}")


def _first_difference(found: np.ndarray, wanted: np.ndarray, value: Value) -> tuple[int, ...] | None:
    if value.type.dtype.category < FLOAT:
        differs = found != wanted
    else:
        wide = np.complex128 if value.type.dtype.is_complex else np.float64
        a, b = plain(found).astype(wide), plain(wanted).astype(wide)
        finite = np.abs(b[np.isfinite(b)])
        limit = TOLERANCE[to_real(value.type.dtype).name] * (finite.max() if finite.size else 1.0)
        with np.errstate(invalid="ignore"):
            differs = ~((a == b) | (np.abs(a - b) <= limit) | (np.isnan(a) & np.isnan(b)))
    if not np.any(differs):
        return None
    return tuple(int(i) for i in np.argwhere(differs)[0])
