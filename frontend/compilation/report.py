"""The text of `treadle.explain`."""
from __future__ import annotations

from typing import Any


def _fusion(plan: Any) -> list[str]:
    compiled = plan.compiled
    program = getattr(compiled, "program", None)
    if program is None:
        return ["    not compiled yet: the second run compiles"]
    from treadle.runtime.compiled import print_program
    return ["    " + line for line in print_program(program).splitlines()]


def describe(explanation: Any) -> str:
    """Plans, what guards them, how they were fused, and every reason against replaying."""
    lines = [f"{explanation.graph_count} plan(s) replayed, {explanation.counters['captures']} capture(s)"]
    for i, replay in enumerate(explanation.replays):
        lines.append(f"plan {i}: {replay.hits} replay(s), {len(replay.early)} guards")
        lines += [f"    guard {replay.readable(check)}" for check in replay.early]
        if replay.plan is not None:
            lines.append(f"    {len(replay.plan.graph.nodes)} ops")
            lines += _fusion(replay.plan)
        if replay.partition is not None:
            lines += ["    " + line for line in replay.partition.report().splitlines()]
    if explanation.reasons:
        lines.append("not replayed, because the call")
        lines += [f"    {reason}" + (f"  [{where[0]}:{where[1]}]" if where else "") for reason, where in explanation.reasons]
    if explanation.counters["flushes"]:
        lines.append("flushes: " + ", ".join(f"{reason} x{n}" for reason, n in explanation.counters["flushes"].items()))
    if explanation.counters.get("loops"):
        lines.append("vmap has no rule for, and runs once for each example: " + ", ".join(explanation.counters["loops"]))
    if explanation.recompiles:
        lines.append("captured again, because this no longer held:")
        lines += [f"    {text}" for text in explanation.recompiles]
    return "\n".join(lines)
