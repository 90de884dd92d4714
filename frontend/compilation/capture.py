"""What one captured call read, wrote and could not be followed through.

Places name where a value was found: ("dict", d, key), ("list", l, index), ("cell", cell, None), ("slot", obj, name),
("class", cls, name), ("grad", tensor, None). Containers among the call's arguments are found by path, everything else by identity.
"""
from __future__ import annotations

import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from typing import Any

from treadle.runtime import recorder
from treadle.runtime.recorder import STATE, Data
from treadle.runtime.symbols import SymFloat, SymInt, plain, symbol
from treadle.tensor import Tensor, read

Place = tuple[str, Any, Any]
MAX_OPS, MAX_BYTES = 1 << 17, 64 << 30  # where even a captured call is cut
CONTAINERS = (list, dict, tuple, set, frozenset, OrderedDict, defaultdict, deque)
CONSTANTS = (str, bytes, bool, type(None), complex, type(Ellipsis))


def name_of(place: Place) -> tuple[str, int, Any]:
    """A place by the identity of its objects."""
    return place[0], id(place[1]), place[2] if not isinstance(place[2], Tensor) else id(place[2])


def parts_of(sparse: Tensor) -> dict[str, Tensor]:
    """The tensors that a sparse one is made of, by name. AttributeError of a dense one."""
    trace: Any = read(sparse).trace
    return {"values": trace.value, **trace.level.parts()}


class Seen:
    """A tensor from outside: where it was found, and its state at that moment."""

    __slots__ = ("data", "grad", "needs_grad", "node", "number", "place", "storage", "storage_data", "tensor", "version")

    def __init__(self, tensor: Tensor, place: Place, number: int) -> None:
        self.tensor = tensor
        self.place = place
        self.number = number
        self.data: Data = read(tensor)
        self.storage = tensor._storage
        self.version = tensor._writes if self.storage is None else self.storage.version
        self.storage_data: Data | None = None if self.storage is None else self.storage.base._data
        self.grad = tensor._grad
        self.node = tensor._node
        self.needs_grad = tensor._requires_grad


class Capture:
    """The record of one call of a compiled function."""

    def __init__(self, moving: set[Any]) -> None:
        self.moving = moving                                  # places whose tensor is a new one at every call
        self.trace: Any = None
        self.guards: dict[tuple[Any, ...], tuple[str, Any, Any, Any]] = {}   # (kind, container, key, expected)
        self.keep: list[Any] = []                             # what ids above and below refer to
        self.fresh: dict[int, Any] = {}                       # what the call made
        self.known: dict[int, Any] = {}                       # containers found outside; others were made by the call
        self.paths: dict[int, str] = {}                       # containers among the arguments: id -> source text
        self.seen: dict[int, Seen] = {}                       # by id of the tensor
        self.written: dict[tuple[Any, ...], Place] = {}
        self.constants: set[Data] = set()
        self.draws: list[tuple[Any, int]] = []                # (generator, blocks)
        self.reasons: list[tuple[str, Any]] = []
        self.grad_reads: dict[int, Tensor] = {}
        self.snapshots: dict[tuple[int, int], Data] = {}      # of memory shared with numpy, taken once per version

    # -- not replayable ------------------------------------------------------------------------------------------------------
    def refuse(self, reason: str) -> None:
        where = recorder.user_location()
        if (reason, where) not in self.reasons:
            self.reasons.append((reason, where))

    def interrupted(self, reason: str) -> bool:
        """A flush is about to happen in the middle of the call. False: go on recording."""
        if reason == "trace is long" and STATE.here.trace.at.ops < MAX_OPS and STATE.here.trace.at.size < MAX_BYTES:
            return False
        self.refuse(f"the recording was cut: {reason}")
        return True

    def looked(self, reason: str) -> None:
        """The call looks at a value."""
        self.refuse(f"looks at a value ({reason})")

    def snapshot(self, t: Tensor, storage: Any, take: Any) -> Data:
        """The content of memory shared with numpy."""
        key = (id(t), storage.version)
        found = self.snapshots.get(key)
        if found is None:
            found = self.snapshots[key] = take(t, storage)
            self.keep += [t, storage]
        return found

    # -- guards --------------------------------------------------------------------------------------------------------------
    def guard(self, kind: str, container: Any, key: Any, expected: Any) -> None:
        name = (kind, id(container), key if not isinstance(key, Tensor) else id(key))
        if name not in self.guards:
            self.keep.append(container)
            self.guards[name] = (kind, container, key, expected)

    def is_written(self, place: Place) -> bool:
        return name_of(place) in self.written

    def wrote(self, place: Place) -> None:
        if self.outside(place[1]):
            key = name_of(place)
            self.written[key] = place
            self.keep.append(place[1])

    def new(self, value: Any) -> Any:
        """`value` was made by the call: reading and changing it concerns nobody else."""
        self.fresh[id(value)] = value
        return value

    def outside(self, container: Any) -> bool:
        """Whether others can see it. Containers count as the call's own until they are found outside."""
        if isinstance(container, CONTAINERS):
            return id(container) in self.known
        return id(container) not in self.fresh

    def know(self, container: Any) -> Any:
        """`container` was found outside."""
        if isinstance(container, CONTAINERS) and id(container) not in self.fresh:
            self.known[id(container)] = container
        return container

    # -- reading -------------------------------------------------------------------------------------------------------------
    def read(self, place: Place, value: Any) -> Any:
        """`value` was found at `place`: guard it, and give back what the call may use in its stead."""
        kind, container, key = place
        if not self.outside(container) or self.is_written(place):
            return value
        if (value.__class__ is float or value.__class__ is int) and (container.__class__ is not tuple or id(container) in self.paths):
            self.guard("number:" + kind, container, key, value.__class__)
            return symbol(value, ("place", place))
        if isinstance(value, Tensor):
            return self.locate(value, place)
        self.know(value)
        if container.__class__ is tuple and id(container) not in self.paths:
            return value  # as constant as the tuple
        if value.__class__ in (list, dict, tuple, OrderedDict) and id(container) in self.paths:
            self.guard("class:" + kind, container, key, value.__class__)
            self.paths.setdefault(id(value), f"{self.paths[id(container)]}[{key!r}]")
            self.keep.append(value)
            return value
        self.guard(("equal:" if value.__class__ in CONSTANTS else "is:") + kind, container, key, value)
        return value

    def locate(self, tensor: Tensor, place: Place) -> Tensor:
        """A tensor from outside, found at `place`."""
        name = name_of(place)
        moves = place[0] in ("grad", "part") or id(place[1]) in self.paths or name in self.moving
        if id(tensor) not in self.seen:
            if tensor._data.trace is not None and tensor._data.trace is self.trace:
                return tensor  # made by this call, stored outside and read back
            self.keep.append(tensor)
            seen = self.seen[id(tensor)] = Seen(tensor, place if moves else ("itself", tensor, None), len(self.seen))
            if tensor._requires_grad and tensor._grad is not None:
                self.locate(tensor._grad, ("grad", tensor, None))
            if tensor._data.type.layout != "strided":
                self._locate_parts(tensor)
            if type(tensor).__dict__.get("__bool__") is not None and type(tensor) is not Tensor:
                self.refuse(f"{type(tensor).__name__} changes how tensors behave")
            del seen
        first = self.seen[id(tensor)]
        if place[1].__class__ is tuple and not moves:
            return tensor
        if not moves:
            self.guard("is:" + place[0], place[1], place[2], tensor)
        elif name != name_of(first.place):
            self.guard("same:" + place[0], place[1], place[2], first)
        return tensor

    def _locate_parts(self, tensor: Tensor) -> None:
        """The places and values of a sparse tensor, which ops on it read. What products need is found out now, apart from the call."""
        STATE.here.capture = None
        try:
            parts = parts_of(tensor)
        finally:
            STATE.here.capture = self
        for name, part in parts.items():
            self.locate(part, ("part", tensor, name))

    def contents(self, container: Any) -> Any:
        """A copy of a container from outside, its contents guarded. A fresh one as it is."""
        cls = container.__class__
        if not self.outside(container):
            return container
        if cls in (list, tuple, deque) or isinstance(container, list | tuple):
            if cls is not tuple or id(container) in self.paths:
                self.guard("len", container, None, len(container))
            items = [self.read(("list", container, i), v) for i, v in enumerate(container)]
            if isinstance(container, tuple):
                return tuple(items) if cls is tuple else cls(*items) if hasattr(cls, "_fields") else cls(items)
            return self.new(items if cls is list else deque(items, container.maxlen) if cls is deque else items)
        if isinstance(container, dict):
            self.guard("keys", container, None, tuple(container))
            items_ = {k: self.read(("dict", container, k), v) for k, v in container.items()}
            return self.new(items_ if cls is dict else OrderedDict(items_) if isinstance(container, OrderedDict) else items_)
        if isinstance(container, set | frozenset):
            self.guard("set", container, None, frozenset(container))
            return self.new(set(container)) if isinstance(container, set) else container
        return container

    def deep(self, value: Any) -> Any:
        """`contents`, also of containers inside: an argument of a function that is not watched."""
        if isinstance(value, CONTAINERS) and value.__class__ in CONTAINERS:
            found = self.contents(value)
            if not any(isinstance(v, CONTAINERS) for v in (found.values() if isinstance(found, dict) else found)):
                return found
            if isinstance(found, dict):
                return self.new(type(value)((k, self.deep(v)) for k, v in found.items()) if value.__class__ is not defaultdict else found)
            if found.__class__ in (list, tuple):
                return self.new(found.__class__([self.deep(v) for v in found]))
            return found
        return value

    def fix(self, number: Any) -> None:
        """The value of a symbol decided something: from now on it is guarded."""
        self.guards.setdefault(("value", number.expr if _hashable(number.expr) else id(number.expr)),
                               ("value", number.expr, None, number.number))
        self.keep.append(number.expr)

    def reserve(self, generator: Any, blocks: int, drawn: tuple[int, int]) -> tuple[int, int]:
        """A random draw: a replay draws again."""
        number = len(self.draws)
        self.draws.append((generator, blocks))
        return symbol(drawn[0], ("draw", number, 0)), symbol(drawn[1], ("draw", number, 1))


def _hashable(expr: Any) -> bool:
    try:
        hash(expr)
    except TypeError:
        return False
    return True


def scrub(value: Any, done: dict[int, Any] | None = None) -> Any:
    """`value` with plain numbers in place of symbols, containers changed where they stand."""
    done = {} if done is None else done
    cls = value.__class__
    if cls is SymFloat or cls is SymInt:
        return plain(value)
    if id(value) in done:
        return done[id(value)]
    if cls is tuple:
        new = tuple([scrub(v, done) for v in value])
        return value if all(a is b for a, b in zip(new, value, strict=True)) else new
    if cls is list:
        done[id(value)] = value
        value[:] = [scrub(v, done) for v in value]
    elif cls in (dict, OrderedDict, defaultdict):
        done[id(value)] = value
        for k in list(value):
            value[k] = scrub(value[k], done)
    elif hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType | types.FunctionType | Tensor):
        fields = value.__dict__
        if any(v.__class__ in (SymFloat, SymInt) for v in fields.values()):
            done[id(value)] = value
            for k in list(fields):
                fields[k] = plain(fields[k])
    return value


def active() -> Capture | None:
    return STATE.here.capture


def locate_arguments(capture: Capture, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Guard the shape of the call and locate its tensors; returns the arguments with symbols for numbers."""
    capture.paths[id(args)] = "args"
    capture.paths[id(kwargs)] = "kwargs"
    capture.keep += [args, kwargs]
    capture.know(args)
    capture.know(kwargs)
    items: Iterable[Any] = enumerate(args)
    new_args = tuple([_argument(capture, ("list", args, i), v) for i, v in items])
    return new_args, {k: _argument(capture, ("dict", kwargs, k), v) for k, v in kwargs.items()}


def _argument(capture: Capture, place: Place, value: Any) -> Any:
    found = capture.read(place, value)
    if value.__class__ in (list, tuple):
        capture.guard("len", value, None, len(value))
        for i, v in enumerate(value):
            if isinstance(v, Tensor) or v.__class__ in (list, tuple, dict):
                _argument(capture, ("list", value, i), v)
    elif value.__class__ is dict:
        capture.guard("keys", value, None, tuple(value))
        for k, v in value.items():
            if isinstance(v, Tensor) or v.__class__ in (list, tuple, dict):
                _argument(capture, ("dict", value, k), v)
    return found
