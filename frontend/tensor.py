"""The Tensor: a handle on a recorded value, its place in a storage, and its place in the autograd tape."""
from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from treadle.ir import op as op_table
from treadle.ir.dtypes import FLOAT
from treadle.ir.op import Attrs, Op, result_types
from treadle.ir.types import SCALARS, TensorType
from treadle.runtime import memory
from treadle.runtime.recorder import STATE, Data, Wrapped, computed, flush_due, record_slowly, rewind
from treadle.tape import Edge, GradNode, LeafNode, next_sequence, pick_keep

if TYPE_CHECKING:
    def _any(*args: Any) -> Any: ...


class Tensor:
    """A multi-dimensional array with PyTorch's semantics. Operations are recorded; values appear when looked at.

    What every recorded op reads or writes is in slots; class attributes are the defaults of rarely set instance attributes.
    """

    __slots__ = ("__dict__", "__weakref__", "_data", "_edge", "_seen", "_storage")

    _data: Data                       # current value; for a view, as of storage version `_seen`
    _edge: Edge                       # where its gradient goes: the op that made it, or its own LeafNode; None: it needs none
    _storage: Storage | None          # made with the first view, in-place write or export
    _seen: int                        # not set before there is a storage
    _chain: tuple[tuple[Op, Attrs], ...] = ()
    _grad: Tensor | None = None
    _hooks: Any = None
    _writes: int = 0                  # version while there is no storage
    _detached: bool = False           # shares a storage but stays off the tape
    __array_priority__ = 1000

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        t = object.__new__(cls)
        t._edge = t._storage = None
        return t

    def __init__(self, *args: Any) -> None:
        from treadle import creation
        source = creation.legacy_tensor(args)
        self._data = source._data

    @staticmethod
    def _make_subclass(cls: type[Any], data: Tensor, require_grad: bool = False) -> Any:
        """A leaf of class `cls` that shares the storage of `data`."""
        t = object.__new__(cls)
        storage = storage_of(data)
        t._data, t._edge = read(data), None
        t._storage, t._chain, t._seen = storage, data._chain, data._seen
        if require_grad:
            if t._data.type.dtype.category < FLOAT:
                raise RuntimeError("Only Tensors of floating point and complex dtype can require gradients")
            t._requires_grad = True
            if not t._chain:
                storage.leaf = weakref.ref(t)
        return t

    @property
    def _requires_grad(self) -> bool:
        """Whether it is a leaf whose gradient is wanted."""
        edge = self._edge
        return edge is not None and edge[0].__class__ is LeafNode and edge[0].owner() is self

    @_requires_grad.setter
    def _requires_grad(self, value: bool) -> None:
        if value is not self._requires_grad and (value or self._requires_grad):
            self._edge = (LeafNode(self), 0) if value else None

    @property
    def _node(self) -> Any:
        """What produced the value, when gradients flow through it."""
        edge = self._edge
        return None if edge is None or self._requires_grad else edge[0]

    @_node.setter
    def _node(self, node: Any) -> None:
        if node is not None or not self._requires_grad:
            self._edge = None if node is None else (node, 0 if self._edge is None else self._edge[1])

    @property
    def _out(self) -> int:
        return 0 if self._edge is None else self._edge[1]

    @_out.setter
    def _out(self, out: int) -> None:
        if self._edge is not None and self._edge[1] != out:
            self._edge = (self._edge[0], out)

    def __hash__(self) -> int:
        return id(self)

    if TYPE_CHECKING:  # methods are installed from the function tables
        def __getattr__(self, name: str) -> Any: ...
        data: Any
        grad: Any
        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = __rpow__ = _any
        __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __matmul__ = __rmatmul__ = __and__ = __or__ = __xor__ = _any
        __lt__ = __le__ = __gt__ = __ge__ = __getitem__ = __setitem__ = __iter__ = _any
        __eq__ = __ne__ = _any
        __neg__ = __invert__ = __len__ = __float__ = __int__ = _any


class Storage:
    """Memory shared by a tensor and its views: the current value of the whole, as a tensor of the tape, and its version.

    `export` is set while numpy (or DLPack) can see the memory: an `Exported` or `Imported` array of `treadle.interop`.
    `leaf` refers to the leaf tensor that owns the storage, so that views made stale by an update still lead to its gradient.
    """

    __slots__ = ("base", "export", "leaf", "version")

    def __init__(self, base: Tensor, version: int) -> None:
        self.base = base
        self.version = version
        self.export: Any = None
        self.leaf: weakref.ref[Tensor] | None = None


_new = object.__new__


def wrap(data: Data) -> Tensor:
    """A tensor of its own for a value."""
    t: Tensor = _new(Tensor)
    t._data = data
    t._edge = t._storage = None
    return t


def read(t: Tensor) -> Data:
    """The current value of `t`: a view of a storage written since is derived anew."""
    storage = t._storage
    if storage is not None and (t._seen != storage.version or storage.export is not None):
        refresh(t, storage)
    return t._data


def seen(data: Data, reason: str) -> Data:
    """What a value of a running transform shows when it is looked at; any other value itself."""
    while data.trace.__class__ is Wrapped:
        data = read(data.trace.level.shown(data.trace, reason))
    return data


def may_be_differentiated(t: Tensor) -> bool:
    """Whether `t` is on the tape, or holds a value of a running transform, outside of which there may be one."""
    return t._edge is not None or read(t).trace.__class__ is Wrapped


def is_batched(t: Tensor) -> bool:
    """Whether `t` stands for one of many, inside `vmap`."""
    trace: Any = read(t).trace
    return trace.__class__ is Wrapped and (trace.level.batched or (isinstance(trace.value, Tensor) and is_batched(trace.value)))


def is_hidden(t: Tensor) -> bool:
    """Whether nobody can look at `t`: it stands for many, or for whatever an exported model will get."""
    trace: Any = read(t).trace
    return is_batched(t) or (trace.__class__ is Wrapped and trace.level.hidden)


def refresh(t: Tensor, storage: Storage) -> None:
    export = storage.export
    if export is not None and (export.alive() or still_shared(storage)):
        capture = STATE.here.capture
        held = t._data
        if capture is None and held.buffer is not None and not t._chain and held.type is storage.base._data.type:
            mine = held.buffer.ptr
            if mine != export.address and memory.same_bytes(mine, export.address, held.buffer.nbytes):
                return  # the snapshot it has is as good as a new one
        from treadle.interop import snapshot
        t._data = snapshot(t, storage) if capture is None else capture.snapshot(t, storage, snapshot)
        return
    if t._seen == storage.version:
        return
    current = storage.base
    leaf = storage.leaf() if storage.leaf is not None else None
    if leaf is not None and current._edge is None and t is not leaf and leaf._requires_grad and not leaf._detached:
        current = wrap(current._data)
        current._edge = leaf._edge
    for op, attrs in t._chain:
        current = apply(op, (current,), attrs)
    t._data, t._seen = current._data, storage.version
    if not t._detached and not t._requires_grad:
        t._edge = current._edge


def still_shared(storage: Storage) -> bool:
    """Whether anything outside can still see the storage's memory; forgets the export when not."""
    if storage.export.alive():
        return True
    storage.export = None
    storage.version += 1
    memory.align(storage.base._data)  # it is ours alone from now on
    return False


def current(t: Tensor, storage: Storage) -> Data:
    """`read`, when the storage is at hand."""
    if t._seen != storage.version or storage.export is not None:
        refresh(t, storage)
    return t._data


def apply(op: Op, inputs: Iterable[Any], attrs: Attrs = ()) -> Any:
    """Record `op` on tensors and Python numbers, and on the tape when a gradient may flow through it."""
    if op.autocast and STATE.here.autocast is not None:
        return STATE.here.autocast.record(op, inputs, attrs)
    datas = []
    track = False
    for x in inputs:
        if isinstance(x, Tensor):
            storage = x._storage
            datas.append(x._data if storage is None else current(x, storage))
            if x._edge is not None:
                track = True
        else:
            datas.append(x)
    state = STATE.here
    if track:
        track = state.grad and op.differentiable
        if track and op.rules is None and op.decompose is not None:
            from treadle.emitter import EMITTER
            _check_types(op, tuple([x.type if x.__class__ is Data else SCALARS.get(x.__class__) for x in datas]), attrs)
            return op.decompose(EMITTER, *inputs, *attrs)
    trace = state.trace
    try:
        found = RECORD_TENSOR(trace, op, attrs, *datas)
        if found is None:
            if TRANSFORM is not None and any([d.__class__ is Data and d.trace.__class__ is Wrapped for d in datas]):
                return TRANSFORM(op, inputs, datas, attrs, track)
            found = record_slowly(trace, op, attrs, datas)
            found = wrap(found) if found.__class__ is Data else tuple([wrap(d) for d in found])
    except BaseException:  # a refused operand, or an interrupt between any two lines
        rewind(trace)
        raise
    if track:
        attach(trace.at, inputs, datas, found if found.__class__ is tuple else (found,))
    if trace.at.due or state.eager:
        flush_due(state)
    return found


def attach(step: Any, inputs: Any, datas: list[Any], results: tuple[Tensor, ...]) -> None:
    """Put a recorded op on the tape."""
    edges: list[Edge] = []
    versions: list[Any] | None = None
    mask = 0
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor):
            edge = x._edge
            edges.append(edge)
            if edge is not None:
                mask |= 1 << i
            if x._storage is not None and x._chain:
                versions = versions or [None] * len(datas)
                versions[i] = (x._storage, x._storage.version)
        else:
            edges.append(None)
    keep = step.tape.get(mask) or pick_keep(step, mask, len(datas))
    if not keep.flows:
        return
    node = GradNode()
    node.step, node.keep, node.edges, node.sequence, node.extra = step, keep, tuple(edges), next_sequence(), None
    kept = keep.operands
    node.saved = datas if kept is None else [d if k or d.__class__ is not Data else None for k, d in zip(kept, datas, strict=True)]
    node.outs = tuple([t._data for t in results]) if keep.outs else ()
    if versions is not None:
        node.versions = versions
    for i in keep.flows:
        results[i]._edge = (node, i)


def _first_record(*args: Any) -> Any:
    """Find out, at the first op, whether there is a builtin that records."""
    global RECORD_TENSOR, RECORD_PLAIN
    from treadle.interop import Imported
    from treadle.runtime import engine, native
    found = None if engine.CHECK else native.recording_builtins({"Tensor": Tensor, "Storage": Storage, "Imported": Imported})
    RECORD_TENSOR, RECORD_PLAIN = (_leave_to_python, _leave_to_python) if found is None else found
    return None


def _leave_to_python(*args: Any) -> Any:
    return None


# `RECORD_TENSOR(trace, op, attributes, *values)`: the tensor of a step seen before, recorded; None leaves the step to Python.
RECORD_TENSOR: Callable[..., Any] = _first_record
# `TRANSFORM(op, inputs, values, attributes, track)`: an op on values of a running transform; set when the first one starts.
TRANSFORM: Callable[..., Any] | None = None
# `PUT(whole, chain, value)`: the storage after a write through a view; `treadle.view_writes` sets it when it loads.
PUT: Callable[..., Any] = _leave_to_python
CHECK_WRITE: Callable[..., None] | None = None  # and what checks that a value of a transform may be written to a tensor
# `RECORD_PLAIN(op, *operands)`: the same and all else there is to do, for tensors off the tape and numbers.
RECORD_PLAIN: Callable[..., Any] = _first_record


def know_transforms(transform: Callable[..., Any], check_write: Callable[..., None]) -> None:
    """Called by `treadle.levels` when the first transform starts."""
    global TRANSFORM, CHECK_WRITE
    TRANSFORM, CHECK_WRITE = transform, check_write


def unary(op: Op, foreign: Callable[..., Any]) -> Callable[..., Any]:
    """`apply(op, (input,))` as a function of its own, for an op with one operand, one result and no attributes.

    `foreign(input, out)` answers when input is no tensor, or there is an `out`.
    """
    no_rule, differentiable = op.rules is None, op.differentiable

    def function(input: Any, *, out: Any = None) -> Any:
        if out is None:
            t = RECORD_PLAIN(op, input)
            if t is not None:
                return t
        if out is not None or not isinstance(input, Tensor):
            return foreign(input, out)
        storage = input._storage
        data = input._data if storage is None else current(input, storage)
        edge = input._edge
        state = STATE.here
        if op.autocast and state.autocast is not None:
            return apply(op, (input,))
        if edge is not None:
            if not (state.grad and differentiable):
                edge = None
            elif no_rule or (storage is not None and input._chain):
                return apply(op, (input,))
        trace = state.trace
        try:
            t = RECORD_TENSOR(trace, op, (), data)
            if t is None:
                if data.trace.__class__ is Wrapped:
                    return apply(op, (input,))
                t = wrap(record_slowly(trace, op, (), (data,)))
        except BaseException:  # a refused operand, or an interrupt between any two lines
            rewind(trace)
            raise
        step = trace.at
        if edge is not None:
            keep = step.tape.get(1) or pick_keep(step, 1, 1)
            if keep.flows:
                node = GradNode()
                node.step, node.keep, node.edges, node.sequence, node.extra = step, keep, (edge,), next_sequence(), None
                node.saved = (None if keep.none else data,)
                node.outs = (t._data,) if keep.outs else ()
                t._edge = (node, 0)
        if step.due or state.eager:
            flush_due(state)
        return t
    return function


def binary(op: Op, foreign: Callable[..., Any]) -> Callable[..., Any]:
    """`apply(op, (input, other))` as a function of its own, for an op with two operands, one result and no attributes.

    `other` may be a Python number. `foreign(input, other, out)` answers for what is neither, or when there is an `out`.
    """
    no_rule, differentiable = op.rules is None, op.differentiable

    def function(input: Any, other: Any, *, out: Any = None) -> Any:
        if out is None:
            t = RECORD_PLAIN(op, input, other)
            if t is not None:
                return t
        if out is not None or not isinstance(input, Tensor):
            return foreign(input, other, out)
        storage = input._storage
        a = input._data if storage is None else current(input, storage)
        edge = input._edge
        window = storage is not None and input._chain
        if isinstance(other, Tensor):
            storage = other._storage
            b = other._data if storage is None else current(other, storage)
            other_edge = other._edge
            window = window or (storage is not None and other._chain)
        elif other.__class__ in SCALARS:
            b, other_edge = other, None  # type: ignore[assignment]
        else:
            return foreign(input, other, out)
        state = STATE.here
        if op.autocast and state.autocast is not None:
            return apply(op, (input, other))
        tracked = (edge is not None or other_edge is not None) and state.grad and differentiable
        if tracked and (no_rule or window):
            return apply(op, (input, other))
        trace = state.trace
        try:
            t = RECORD_TENSOR(trace, op, (), a, b)
            if t is None:
                if a.trace.__class__ is Wrapped or (b.__class__ is Data and b.trace.__class__ is Wrapped):
                    return apply(op, (input, other))
                t = wrap(record_slowly(trace, op, (), (a, b)))
        except BaseException:  # a refused operand, or an interrupt between any two lines
            rewind(trace)
            raise
        step = trace.at
        if tracked:
            keep = step.tape.get(mask := (edge is not None) + 2 * (other_edge is not None)) or pick_keep(step, mask, 2)
            if keep.flows:
                node = GradNode()
                node.step, node.keep, node.edges, node.sequence, node.extra = step, keep, (edge, other_edge), next_sequence(), None
                node.saved = (a if keep.operands[0] else None, b if keep.operands[1] or b is other else None)  # type: ignore[index]
                node.outs = (t._data,) if keep.outs else ()
                t._edge = (node, 0)
        if step.due or state.eager:
            flush_due(state)
        return t
    return function


def storage_of(t: Tensor) -> Storage:
    """The storage of `t`, made on first need."""
    storage = t._storage
    if storage is None:
        base = wrap(t._data)
        base._edge = None if t._requires_grad else t._edge
        storage = t._storage = Storage(base, t._writes)
        t._seen = t._writes
        if t._requires_grad:
            storage.leaf = weakref.ref(t)
    return storage


def view(op: Op, x: Tensor, attrs: Attrs) -> Tensor:
    """Apply a view op: the result shares `x`'s storage."""
    storage = storage_of(x)
    if storage.export is not None and STATE.here.capture is None and still_shared(storage):
        t = wrap(computed(view_type(op, x._data.type, attrs), None))
        t._seen = -1
        t._edge = None if x._requires_grad else x._edge
    else:
        data = read(x)
        plain = x._edge is None and data.buffer is not None and STATE.here.capture is None
        window = _window(op, data, attrs) if plain else None
        t = apply(op, (x,), attrs) if window is None else wrap(window)
        if data.trace.__class__ is Wrapped and data.trace.level.composed:
            return t  # sparse tensors have no views
        t._seen = storage.version
    t._storage = storage
    t._chain = (*x._chain, (op, attrs))
    if x._detached:
        t._detached = True
    return t


@functools.lru_cache(4096)
def _check_types(op: Op, types: tuple[TensorType, ...], attrs: Attrs) -> None:
    """Raise what the op's type rule raises: the parts that it is made of would raise something else, or nothing."""
    result_types(op, types, attrs)


@functools.lru_cache(4096)
def view_type(op: Op, type: TensorType, attrs: Attrs) -> TensorType:
    return result_types(op, (type,), attrs)[0]


def _window(op: Op, data: Data, attrs: Attrs) -> Data | None:
    """The view of a computed value as a part of its buffer, when it is contiguous there: nothing to record.

    `for i in range(n): x[i]` would otherwise be a different trace for every i. All but one place of a single row (`x[:, 1:]`, the next
    words of a sentence) are recorded as those of several rows are, so that the program is the same for one.
    """
    if op.name in ("reshape", "view_as_real", "view_as_complex"):
        return computed(view_type(op, data.type, attrs), data.buffer)
    if op.name != "slice" or data.type.device != "cpu":
        return None
    shape = data.type.shape
    starts, stops, steps = attrs
    offset, stride, whole, axes, rows = 0, data.type.numel, True, 0, 1
    for n, lo, hi, step in zip(shape, starts, stops, steps, strict=True):
        if (not whole and (lo, hi) != (0, n)) or step != 1 or (axes and rows == 1 and hi - lo == n - 1 > 1):
            return None
        stride //= n or 1
        offset += lo * stride
        whole, axes, rows = whole and hi - lo == 1, axes + 1, rows * n
    type = view_type(op, data.type, attrs)
    size = data.type.dtype.itemsize
    return computed(type, memory.Buffer(data.buffer.ptr + offset * size, type.nbytes, data.buffer))


def alias(x: Tensor) -> Tensor:
    """Another tensor on the same storage and view, off the tape (`detach`)."""
    read(x)
    storage = storage_of(x)
    t = wrap(x._data)
    t._storage, t._chain, t._seen = storage, x._chain, x._seen
    t._detached = True
    return t


def detached(x: Tensor) -> Tensor:
    """`alias`, off the tapes of the levels of running transforms as well."""
    t = alias(x)
    if t._data.trace.__class__ is Wrapped:
        t._data = t._data.trace.level.detached(t._data)
    return t


def check_writable(t: Tensor, name: str) -> None:
    """RuntimeError, as PyTorch's, when an in-place op on `t` would break the tape."""
    if STATE.here.grad:
        if t._requires_grad and t._node is None:
            raise RuntimeError(f"{name}: a leaf Variable that requires grad is being used in an in-place operation.")
        storage = t._storage
        if storage is not None and storage.leaf is not None and t._chain and not t._detached:
            leaf = storage.leaf()
            if leaf is not None and leaf._requires_grad:
                raise RuntimeError(f"{name}: a view of a leaf Variable that requires grad is being used in an in-place operation.")


def assign(t: Tensor, value: Tensor, name: str) -> Tensor:
    """Make `value` (fresh, of `t`'s shape) the new content of `t`: the last step of every in-place op."""
    check_writable(t, name)
    if CHECK_WRITE is not None and (value._data.trace.__class__ is Wrapped or t._data.trace.__class__ is Wrapped):
        CHECK_WRITE(t, value, name)
    have, got, writer = t._data.type, value._data.type, value._node
    if got.shape != have.shape:
        raise RuntimeError(f"{name}: output with shape {list(have.shape)} doesn't match the broadcast shape {list(got.shape)}")
    if got.dtype is not have.dtype:
        if got.dtype.category > have.dtype.category:
            raise RuntimeError(f"{name}: result type {got.dtype.name} can't be cast to the desired output type {have.dtype.name}")
        value = apply(op_table.get("cast"), (value,), (have.dtype,))
    if got.device != have.device:
        value = apply(op_table.get("to_device"), (value,), (have.device,))
    on_tape = STATE.here.grad and not t._detached  # else history stays as it is
    storage = t._storage
    if on_tape and t._node is not None and value._node is None:  # what was there gets a zero gradient, as in PyTorch, and not none
        read(t)
        value = apply(op_table.get("where"), (False, t, value))
    if storage is None:
        _retire(t._data, writer, None)
        t._data = value._data
        t._writes += 1
        if on_tape:
            _move_edge(t, value)
        return t
    base = PUT(storage.base, t._chain, value) if t._chain else value
    old = storage.base
    _retire(old._data, writer, storage)
    storage.base = wrap(base._data)
    storage.base._edge = (base if on_tape else old)._edge
    storage.version += 1
    if storage.export is not None and still_shared(storage):
        from treadle.interop import write_back
        write_back(storage, old._data)
    t._seen = storage.version
    t._data = value._data
    if on_tape:
        _move_edge(t, value)
    return t


def _retire(old: Data, writer: Any, storage: Storage | None) -> None:
    """Mark a replaced value: a backward pass that kept it must refuse, but for the op that replaced it, which kept it knowingly."""
    old.stale = True if writer is None else weakref.ref(writer)
    kept = getattr(writer, "versions", None)
    if kept:
        writer.versions = [None if entry and entry[0] is storage else entry for entry in kept]


def _move_edge(t: Tensor, value: Tensor) -> None:
    if not t._requires_grad:
        t._edge = value._edge
