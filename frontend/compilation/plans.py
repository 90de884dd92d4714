"""Running the plan of a replayed call where its launch does not."""
from __future__ import annotations

from typing import Any

from treadle.ir.interpreter import DataError
from treadle.runtime import engine
from treadle.runtime.recorder import Data, computed


def run_slowly(plan: Any, inputs: tuple[Data, ...], numbers: tuple[Any, ...]) -> list[Any]:
    """The plan's results while it is not compiled, when its data is at fault, or under a check."""
    values: list[Any] = [None] * (max([*plan.inputs, *plan.outputs], default=0) + 1)
    for slot, d in zip(plan.inputs, inputs, strict=True):
        values[slot] = d
    for slot, v in zip(plan.outputs, plan.graph.outputs, strict=True):
        values[slot] = computed(v.type, None)
    try:
        plan.run(values, numbers)
    except DataError as error:
        raise engine._located(error) from error.error
    return [values[slot].buffer for slot in plan.outputs]
