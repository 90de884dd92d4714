"""Plans of replayed calls: within a budget of memory, and run where their launch does not."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from treadle.ir.interpreter import DataError
from treadle.runtime import engine
from treadle.runtime.engine import Plan
from treadle.runtime.recorder import Data, computed

if TYPE_CHECKING:
    from treadle.passes.partition import Rematerialized


def run_slowly(plan: Any, inputs: tuple[Data, ...], numbers: tuple[Any, ...]) -> list[Any]:
    """The plan's results while it is not compiled, when its data is at fault, or under a check."""
    values: list[Any] = [None] * (max([*plan.inputs, *plan.outputs], default=0) + 1)
    for slot, d in zip(plan.inputs, inputs, strict=True):
        values[slot] = d
    for slot, type in zip(plan.outputs, plan.types, strict=True):
        values[slot] = computed(type, None)
    try:
        plan.run(values, numbers)
    except DataError as error:
        raise engine._located(error) from error.error
    return [values[slot].buffer for slot in plan.outputs]


def budgeted(plan: Plan, budget: float) -> tuple[Plan, Rematerialized | None]:
    """The plan of a whole call, forward and backward in it, that keeps fewer values alive; second, what it computes again for that."""
    if budget >= 1 or engine.elsewhere(plan.graph):
        return plan, None
    from treadle.passes.partition import rematerialize
    from treadle.passes.pipeline import prepare
    found = rematerialize(prepare(plan.graph), budget)
    if found is None:
        return plan, None
    made = Plan.of(found.graph, len(plan.inputs))
    made.inputs, made.outputs, made.runs = plan.inputs, plan.outputs, plan.runs
    return made, found
