"""Memory that a compiled call needs no more: of values it overwrites, given to results, and of gradients it replaces, freed at once."""
from __future__ import annotations

import sys
import weakref
from collections import Counter
from typing import Any

from treadle.runtime.recorder import Data, Trace


class _Holder:
    """What holds one object."""

    data: Any = None


def _own_references() -> int:
    """How many references `sys.getrefcount(x.data)` itself makes: it depends on the version of Python."""
    probe = _Holder()
    probe.data = object()
    return sys.getrefcount(probe.data) - 1


_OWN = _own_references()


def overwritten(capture: Any, trace: Trace) -> dict[int, int]:
    """Slots of inputs of a captured call that it wrote over and that nothing but the capture and its trace still refers to, and how many
    references these are."""
    held = Counter(id(d) for seen in capture.seen.values() for d in (seen.data, seen.storage_data))
    found = {}
    for seen in capture.seen.values():
        slot = trace.leaves.get(seen.data)
        known = held[id(seen.data)] + 2  # the trace holds it in its list and in its table, of which the caller keeps a copy
        if slot is not None and seen.tensor._data is not seen.data and sys.getrefcount(seen.data) == known + _OWN:
            found[slot] = known
    return found


def free_gradients(capture: Any, trace: Trace) -> None:
    """Old gradients that a captured call replaced and did not read make room before what it recorded runs."""
    for seen in capture.seen.values():
        old = None if seen.grad is None or seen.tensor._grad is seen.grad else capture.seen.get(id(seen.grad))
        if old is None or old.data in trace.leaves or old.data.trace is not None or weakref.getweakrefcount(seen.grad):
            continue
        # The capture keeps the tensor, has it as what was seen, and as somebody's gradient; the value is the tensor's, and was seen.
        if sys.getrefcount(seen.grad) == 3 + _OWN and sys.getrefcount(old.data) == 2 + _OWN:
            old.data.buffer = None


def dead_inputs(w: Any, plan: Any, leaves: dict[Data, int], tail: list[str]) -> dict[int, int]:
    """Which inputs of the plan belong to tensors that the call writes to and whose old values it needs no more; by how many they are held.

    A tensor with a storage holds its value twice, the tensor in its storage being another.
    """
    found: dict[int, int] = {}
    for seen in w.capture.seen.values():
        t = seen.tensor
        needed = any(f"{fetch}(t{seen.number})" in line for line in tail for fetch in ("fetch", "fetch_base"))
        version = t._writes if t._storage is None else t._storage.version
        if not t._chain and version != seen.version and seen.data in leaves and not needed:
            found[leaves[seen.data]] = 1 if t._storage is None else 2
    return {i: found[slot] for i, slot in enumerate(plan.inputs) if slot in found}


def early_drops(w: Any, plan: Any, leaves: dict[Data, int], tail: list[str]) -> list[str]:
    """Old gradients that are replaced and no longer read make room before the plan runs, as `zero_grad()` did in the captured call."""
    lines = []
    for seen in w.capture.seen.values():
        old = seen.grad
        if old is None or seen.tensor._grad is old:
            continue
        inner = w.capture.seen.get(id(old))
        read = inner is not None and (leaves.get(inner.data) in plan.inputs or any(f"t{inner.number}" in line for line in tail))
        if not read and any(line.startswith(f"t{seen.number}._grad = ") for line in tail):
            lines.append(f"t{seen.number}._grad = None")
            if inner is not None:
                lines.append(f"t{inner.number} = None")
    return lines


def donating(plan: Any, dead: dict[int, int]) -> Any:
    """`launch` of a compiled plan on values, some of which may give their memory to results; None where there is none."""
    if plan.compiled is None:
        plan.prepare()
    launch, count = plan.launch, len(plan.inputs)
    if launch is None:
        return None
    binding = getattr(plan.compiled, "binding", None)
    if binding is None:
        plan.donating = lambda *given: launch(*[d.buffer for d in given[:count]], *given[count:])
    else:
        plan.donating = binding.launch_data(plan.compiled.donors(list(dead)), dead)
    return plan.donating
