"""Example calls of the ops, from which tests and documentation are made."""
from __future__ import annotations

from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.op import Kind, Op


def samples_of(op: Op) -> list[Any]:
    """The op's samples; elementwise ops without any get same-shape, broadcast, 0-d and empty operands."""
    if op.samples:
        return list(op.samples)
    if op.name == "cast":
        return [(((3, 4),), (d,)) for d in (dtypes.float32, dtypes.int32, dtypes.bool_)]
    if op.name == "where":
        mask = np.array([[True], [False], [True]])
        return [((mask, (3, 4), (4,)), ()), ((mask, (), (3, 1)), ())]
    if op.kind is not Kind.ELEMENTWISE or op.attrs:
        return []
    count = len(op.operands)
    return [(((3, 4), (3, 4), (3, 4))[:count], ()), (((3, 1), (4,), ())[:count], ()), (((),) * count, ()), (((0, 2),) * count, ())]
