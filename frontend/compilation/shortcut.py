"""Replays that are functions of their arguments alone, in the form that a builtin runs (`codegen/python_replay.py`).

Such a call takes plain tensors without gradients and numbers, reads nothing but globals and its closure, changes nothing, and gives
back a new tensor or a tuple of them. Its guards, launch and results then cost about as much as one Python function call.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from treadle.codegen import python_replay as layout
from treadle.interop import Imported
from treadle.runtime.symbols import SymFloat, SymInt
from treadle.tensor import Storage, Tensor, read

Row = tuple[int, ...]


class NotSimple(Exception):
    """The replay needs Python."""


class Shortcut:
    """The tables of one replay, and what they point to."""

    def __init__(self, single: bool) -> None:
        self.table = np.zeros(layout.SHORTCUT_WORDS, np.int64)
        self.kept: list[Any] = []
        self.table[layout.SINGLE] = single

    @property
    def hits(self) -> int:
        return int(self.table[layout.HITS])

    def rows(self, word: int, rows: list[Row], count: int | None = None) -> None:
        """A table of its own under `word`, at least one word long; its length under `count`."""
        content = np.array([*[x for row in rows for x in row], 0], np.int64)
        self.kept.append(content)
        self.table[word] = content.ctypes.data
        if count is not None:
            self.table[count] = len(rows)

    def name(self, thing: Any) -> int:
        """The address of an object that stays."""
        self.kept.append(thing)
        return id(thing)


NOTHING = Shortcut(False)  # no call has this many arguments
NOTHING.table[layout.ARGUMENTS] = -1
EMPTY = (int(NOTHING.table.ctypes.data), NOTHING)


def find_shortcut(w: Any, args: Any, kwargs: Any, needed: list[Any], result: Any, plan: Any, leaves: dict[Any, int],
                  numbers: list[Any]) -> Shortcut | None:
    """The shortcut of the capture that `w` (a Writer) writes a replay of; None when the replay needs Python."""
    capture = w.capture
    if (plan is None or kwargs or capture.draws or capture.written or capture.grad_reads or w.has_writes()
            or max(len(args), len(numbers)) > layout.MAX_ARGUMENTS):
        return None
    found = Shortcut(isinstance(result, Tensor))
    try:
        _arguments(found, w, len(args), needed, plan, leaves)
        _numbers(found, w, numbers)
        _results(found, w, result if result.__class__ is tuple else (result,), plan)
    except NotSimple:
        return None
    return found


def _argument(w: Any, place: tuple[str, Any, Any]) -> int:
    """Which argument is at this place."""
    kind, container, key = place
    if kind != "list" or key.__class__ is not int or w.capture.paths.get(id(container)) != "args":
        raise NotSimple
    return int(key)


def _arguments(found: Shortcut, w: Any, count: int, needed: list[Any], plan: Any, leaves: dict[Any, int]) -> None:
    """Guards, and which argument each input of the plan is."""
    classes, types, owners = [0] * count, [0] * count, {}
    for seen in needed:
        i = _argument(w, seen.place)
        t = seen.tensor
        if t.__class__ is not Tensor or t._chain or seen.node is not None or seen.needs_grad or seen.data in owners:
            raise NotSimple
        classes[i], types[i], owners[seen.data] = id(Tensor), found.name(seen.data.type), i
    found.rows(layout.GUARDS, [row for row in [_guard(found, w, g, classes) for g in w.guards_left()] if row], layout.GUARD_COUNT)
    if 0 in classes:
        raise NotSimple
    slots = {slot: d for d, slot in leaves.items()}
    if any(slots.get(s) not in owners for s in plan.inputs):
        raise NotSimple
    found.rows(layout.CLASSES, [(c,) for c in classes])
    found.rows(layout.TYPES, [(t,) for t in types])
    found.rows(layout.INPUTS, [(owners[slots[s]],) for s in plan.inputs])
    found.table[layout.ARGUMENTS] = count


def _guard(found: Shortcut, w: Any, guard: tuple[str, Any, Any, Any], classes: list[int]) -> Row | None:
    """A row of GUARDS, None for the class of an argument."""
    kind, container, key, expected = guard
    what, _, rest = kind.partition(":")
    exactly = what == "is" or expected is None or expected is ... or expected.__class__ is bool
    if what in ("number", "class"):
        if rest == "dict" and id(container) not in w.capture.paths:
            return layout.CLASS_IN_DICT, found.name(container), found.name(key), found.name(expected)
        i = _argument(w, (rest, container, key))
        if classes[i] not in (0, id(expected)):
            raise NotSimple
        classes[i] = found.name(expected)
        return None
    if what == "present" or not exactly or id(container) in w.capture.paths:
        raise NotSimple
    if rest == "dict":
        return layout.IN_DICT, found.name(container), found.name(key), found.name(expected)
    if rest == "cell":
        return layout.IN_CELL, found.name(container), 0, found.name(expected)
    raise NotSimple


def _numbers(found: Shortcut, w: Any, numbers: list[Any]) -> None:
    rows: list[Row] = []
    for x in numbers:
        if x.__class__ not in (SymFloat, SymInt):
            rows.append((layout.CONSTANT, found.name(x), 0, id(x.__class__)))
            continue
        if x.expr[0] != "place":
            raise NotSimple
        cls = id(float if x.__class__ is SymFloat else int)
        kind, container, key = x.expr[1]
        if kind == "dict" and id(container) not in w.capture.paths:
            rows.append((layout.IN_DICT, found.name(container), found.name(key), cls))
        else:
            rows.append((layout.ARGUMENT, _argument(w, (kind, container, key)), 0, cls))
    found.rows(layout.NUMBERS, rows, layout.NUMBER_COUNT)


def _results(found: Shortcut, w: Any, results: tuple[Any, ...], plan: Any) -> None:
    rows: list[Row] = []
    taken = set()
    for t in results:
        if t.__class__ is not Tensor or id(t) in w.capture.seen or t._storage is not None or t._edge is not None or t._grad is not None:
            raise NotSimple
        slot = w.slots.get(read(t))
        if slot is None or slot in taken:
            raise NotSimple
        taken.add(slot)
        rows.append((list(plan.outputs).index(slot), found.name(t._data.type)))
    found.rows(layout.RESULTS, rows, layout.RESULT_COUNT)


def install(function: Any, replay: Any) -> None:
    """Let `function` take the shortcut of `replay`, once its plan is compiled."""
    shortcut, plan = replay.shortcut, replay.plan
    if plan.compiled is None:
        return
    binding = getattr(plan.compiled, "binding", None)
    if binding is None or plan.launch is None or not _prepare(type(function)):
        replay.shortcut = None
        return
    table = shortcut.table
    table[layout.BINDING] = binding.table.ctypes.data
    shortcut.kept += [binding, plan]
    for word, mode in ((layout.GRAD, replay.grad), (layout.INFERENCE, replay.inference), (layout.AUTOCAST, replay.autocast),
                       (layout.DEFAULT, replay.default)):
        table[word] = shortcut.name(mode)
    table[layout.STATE] = NOTHING.table[layout.STATE]
    function._shortcut = (int(table.ctypes.data), shortcut)


_ready: bool | None = None  # whether compiled functions are called through the builtin; None: not tried yet


def _prepare(cls: Any) -> bool:
    """Make the builtin the `__call__` of compiled functions."""
    global _ready
    if _ready is None:
        from treadle.runtime import native
        made = native.replay_builtin({"Tensor": Tensor, "Storage": Storage, "Imported": Imported, "CompiledFunction": cls}, read,
                                     cls.__call__)
        _ready = made is not None
        if made is not None:
            NOTHING.table[layout.STATE] = made[1]
            cls.__call__ = made[0]
    return _ready
