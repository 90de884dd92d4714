"""What the functions that replays generate call: values fetched, results made, effects put back."""
from __future__ import annotations

import operator
from collections import OrderedDict, deque
from typing import Any

from treadle.compilation.backward import Released
from treadle.compilation.capture import parts_of
from treadle.runtime import engine
from treadle.runtime.recorder import Data, computed
from treadle.tape import LeafNode
from treadle.tensor import Storage, Tensor, read, wrap

MISS: Any = object()


def fetch(t: Tensor) -> Data:
    """The computed value of `t`."""
    data = t._data if t._storage is None else read(t)
    if data.buffer is None:
        engine.materialize(data)
    return data


def fetch_base(t: Tensor) -> Data:
    """The computed value of the whole storage of `t`."""
    storage = t._storage
    if storage is None:
        return fetch(t)
    return fetch(storage.base)


def write(t: Tensor, data: Data, versions: int) -> None:
    """`data` is the new content of all of `t`'s storage."""
    storage = t._storage
    if storage is None:
        t._data.stale = True
        t._data = data
        t._writes += versions
        return
    old = storage.base._data
    old.stale = True
    storage.base = wrap(data)
    storage.version += versions
    if storage.export is not None:
        from treadle.interop import write_back
        from treadle.tensor import still_shared
        if still_shared(storage):
            write_back(storage, old)
    if not t._chain:
        t._data, t._seen = data, storage.version


def tensor(data: Data, needs_grad: bool) -> Tensor:
    t = wrap(data)
    if needs_grad:
        t._requires_grad = True
    return t


def on_storage(storage: Storage, data: Data, chain: Any, detached: bool) -> Tensor:
    """A tensor that shows `storage` through `chain`."""
    t = wrap(data)
    t._storage, t._chain, t._seen = storage, chain, storage.version
    if detached:
        t._detached = True
    return t


def storage_like(t: Tensor) -> Storage:
    from treadle.tensor import storage_of
    return storage_of(t)


def released(t: Tensor) -> Tensor:
    """`t` as the result of a backward pass that is over."""
    t._node = Released()
    return t


def rebuilt(cls: type, fields: dict[str, Any]) -> Any:
    made: Any = object.__new__(cls)
    made.__dict__.update(fields)
    return made


def all_are(container: Any, expected: Any) -> bool:
    return len(container) == len(expected) and all(map(operator.is_, container, expected))


def unaliased(moving: tuple[Tensor, ...], known: frozenset[int]) -> bool:
    """Whether no two of these tensors share memory with each other or with a known storage."""
    taken: set[int] = set()
    for t in moving:
        if t._storage is not None:
            name = id(t._storage)
            if name in known or name in taken:
                return False
            taken.add(name)
        elif id(t) in taken:
            return False
        taken.add(id(t))
    return True


def part(sparse: Tensor, name: str) -> Tensor:
    """A tensor that a sparse one is made of."""
    return parts_of(sparse)[name]


def is_coalesced(sparse: Tensor) -> bool:
    trace: Any = read(sparse).trace
    found: bool = trace.level.coalesced
    return found


def sparse(axes: tuple[Tensor, ...], values: Tensor, shape: tuple[int, ...], layout: str, coalesced: bool, needs_grad: bool) -> Tensor:
    from treadle.sparse.conversions import rebuild
    return rebuild(axes, values, shape, layout, coalesced, needs_grad)


RUNTIME: dict[str, Any] = {
    "MISS": MISS, "Tensor": Tensor, "LeafNode": LeafNode, "Storage": Storage, "OrderedDict": OrderedDict, "deque": deque,
    "materialize": engine.materialize,
    **{f.__name__: f for f in (fetch, fetch_base, write, tensor, computed, on_storage, storage_like, released, rebuilt, all_are, unaliased,
                               read, wrap, part, is_coalesced, sparse)}}
