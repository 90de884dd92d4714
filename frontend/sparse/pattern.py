"""Sparse tensors: a pattern, which says where elements are, and an ordinary tensor of their values.

A sparse tensor is a Tensor whose value belongs to a level of its own, the pattern: so every op on it comes here instead of to the
recorder, and is composed of recorded ops on indices and values (`treadle.sparse.rules`), or refused. Gradients follow from those of
the values.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from treadle.creation import adopt, to_array
from treadle.emitter import EMITTER
from treadle.ir import dtypes
from treadle.ir.op import Attrs, Op
from treadle.ir.ops.indexing import refuse_negative
from treadle.ir.types import TensorType
from treadle.levels import Level
from treadle.runtime.recorder import STATE, Data, Wrapped
from treadle.tape import Edge, next_sequence
from treadle.tensor import Tensor, read, wrap

COO, CSR, CSC = "sparse_coo", "sparse_csr", "sparse_csc"
BACKENDS = {COO: "Sparse", CSR: "SparseCsr", CSC: "SparseCsc"}
Axes = tuple[Tensor, ...]


class SparseType(TensorType):
    """The type of a sparse tensor: never that of a dense one of the same shape."""

    __slots__ = ("layout",)
    layout: str

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.layout}>"

    def __reduce__(self) -> tuple:
        return sparse_type, (self.shape, self.dtype, self.device, self.layout)


@lru_cache(4096)
def sparse_type(shape: tuple[int, ...], dtype: dtypes.DType, device: str, layout: str) -> SparseType:
    made = SparseType()
    made.shape, made.dtype, made.device, made.weak, made.layout, made.numel = shape, dtype, device, False, layout, math.prod(shape)
    return made


class Pattern(Level):
    """Where the elements of a sparse tensor are: one int64 vector of places along each of its first `len(axes)` axes.

    shape: the sizes of those axes. coalesced: places ascend, and none is there twice. CSR patterns ascend in rows, CSC ones in columns.
    """

    __slots__ = ("_coalesced", "_flipped", "_host", "_indices", "_products", "axes", "coalesced", "layout", "shape")
    composed = True

    def __init__(self, axes: Axes, shape: Sequence[int], coalesced: bool, layout: str = COO, indices: Tensor | None = None) -> None:
        super().__init__()
        self.number = 0  # outside of every transform
        self.axes, self.shape, self.coalesced, self.layout = axes, tuple(shape), coalesced, layout
        self._indices = indices
        self._host: tuple[np.ndarray, ...] | None = None
        self._products: tuple[Tensor, ...] | None = None
        self._coalesced: Coalesced | None = None
        self._flipped: Pattern | None = None

    @property
    def nnz(self) -> int:
        return int(self.axes[0]._data.type.numel)

    @property
    def device(self) -> str:
        return self.axes[0]._data.type.device

    def indices(self) -> Tensor:
        """The places of all elements, int64 (axes, elements)."""
        if self._indices is None:
            self._indices = EMITTER.cat(*[EMITTER.reshape(a, (1, self.nnz)) for a in self.axes], dim=0)
        return self._indices

    def host(self) -> tuple[np.ndarray, ...]:
        """The places as arrays: computed, and looked at."""
        if self._host is None:
            self._host = tuple([to_array(a) for a in self.axes])
        elif STATE.here.capture is not None:
            STATE.here.capture.looked("the places of a sparse tensor's elements")
        return self._host

    def flat(self, leave: int | None = None) -> np.ndarray:
        """The places as numbers, in the order of a dense tensor's elements, one axis left out."""
        total = np.zeros(self.nnz, np.int64)
        for d, (axis, n) in enumerate(zip(self.host(), self.shape, strict=True)):
            if d != leave:
                total = total * n + axis
        return total

    def like(self, axes: Axes, coalesced: bool, layout: str | None = None) -> Pattern:
        """Another layout, or other vectors of the same places; what was found out stays known if they are the same ones."""
        found = Pattern(axes, self.shape, coalesced, layout or self.layout)
        if axes is self.axes:
            found._indices, found._products, found._host = self._indices, self._products, self._host
        return found

    def coalesce(self) -> Coalesced:
        """The pattern with places in order, each once. Looks at them."""
        if self._coalesced is None:
            self._coalesced = Coalesced(self, None, None) if self.coalesced else _coalesce(self)
        return self._coalesced

    def flipped(self) -> Pattern:
        """Of the transposed matrix: the same elements in the same order."""
        if self._flipped is None:
            layout = {COO: COO, CSR: CSC, CSC: CSR}[self.layout]
            found = self._flipped = Pattern((self.axes[1], self.axes[0]), (self.shape[1], self.shape[0]), self.nnz < 2, layout)
            found._flipped = self
        if self._products is not None and self._flipped._products is None:
            self._flipped._products = (*self._products[2:], *self._products[:2])
        return self._flipped

    def products(self) -> tuple[Tensor, ...]:
        """Of a matrix: where each row starts, elements by row, where each column starts, elements by column (see `sparse_matmul`)."""
        if self._products is None:
            if self._flipped is not None and self._flipped._products is not None:
                other = self._flipped._products
                self._products = (*other[2:], *other[:2])
            else:
                by = _recorded_order if STATE.here.capture is not None else _order
                self._products = (*by(self, 0), *by(self, 1))
        return self._products

    def parts(self) -> dict[str, Any]:
        """What ops on the tensor may read, for `treadle.compilation`."""
        named: dict[str, Any] = {f"axis{d}": a for d, a in enumerate(self.axes)}
        if len(self.axes) == 2:
            named.update({f"product{i}": t for i, t in enumerate(self.products())})
        if self._indices is not None:
            named["indices"] = self._indices
        return named

    # -- as a level ---------------------------------------------------------------------------------------------------------------------
    def compose(self, op: Op, inputs: Sequence[Any], attrs: Attrs) -> Any:
        """`op` on operands of which some are sparse."""
        from treadle.sparse.rules import compose
        return compose(self, op, inputs, attrs)

    def shown(self, what: Wrapped, reason: str) -> Tensor:
        kind = BACKENDS[self.layout]
        if reason in ("value read", "numpy"):
            raise TypeError(f"can't convert {kind} layout tensor to numpy. Use Tensor.to_dense() first.")
        raise RuntimeError(f"{reason}: a tensor of layout treadle.{self.layout} has no value of its own to look at. Use to_dense() first.")

    def detached(self, data: Data) -> Data:
        return data

    def text(self, t: Tensor) -> str:
        from treadle.sparse.text import sparse_repr
        return sparse_repr(t)


class Coalesced:
    """A pattern in order, and the way there: `order` lists the elements (None: they are in order); with several at a place `segments`
    says where each goes instead, and `order` lists the first of each place."""

    def __init__(self, pattern: Pattern, order: Tensor | None, segments: Tensor | None) -> None:
        self.pattern, self.order, self.segments = pattern, order, segments

    def values(self, values: Tensor) -> Tensor:
        """Of each place, summed up."""
        if self.order is None:
            return values
        if self.segments is None:
            return EMITTER.index_select(values, self.order, 0)
        type = values._data.type
        zeros = EMITTER.full(0, (self.pattern.nnz, *type.shape[1:]), type.dtype, type.device)
        return EMITTER.index_add(zeros, self.segments, values, 0)

    def first(self, values: Tensor) -> Tensor:
        """Of the first element of each place."""
        return values if self.order is None else EMITTER.index_select(values, self.order, 0)

    def spread(self, values: Tensor) -> Tensor:
        """What is at the place of each element."""
        if self.order is None:
            return values
        where = self.segments
        if where is None:
            places = np.empty(self.pattern.nnz, np.int64)
            places[to_array(self.order)] = np.arange(len(places))
            where = adopt(places, self.order)
        return EMITTER.index_select(values, where, 0)


def _coalesce(p: Pattern) -> Coalesced:
    flat = p.flat()
    layout = p.layout if p.layout != CSC else COO
    if (flat[1:] > flat[:-1]).all():
        return Coalesced(p.like(p.axes, True, layout), None, None)
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    fresh = np.ones(len(flat), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    like = p.axes[0]
    first = order[fresh]
    axes = tuple([adopt(a[first], like) for a in p.host()])
    segments = None
    if len(first) < len(flat):
        places = np.empty(len(flat), np.int64)
        places[order] = np.cumsum(fresh) - 1
        segments = adopt(places, like)
    return Coalesced(Pattern(axes, p.shape, True, layout), adopt(first, like), segments)


def _order(p: Pattern, axis: int) -> tuple[Tensor, Tensor]:
    """Where each row (or column) starts, and the elements in its order."""
    places, like = p.host()[axis], p.axes[0]
    order = np.arange(len(places)) if (places[1:] >= places[:-1]).all() else np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(p.shape[axis] + 1))
    return adopt(starts.astype(np.int64), like), adopt(order.astype(np.int64), like)


def _recorded_order(p: Pattern, axis: int) -> tuple[Tensor, Tensor]:
    """`_order` of places that are not known yet."""
    places, n = refuse_negative(EMITTER, p.axes[axis], p.shape[axis]), p.shape[axis]
    one = EMITTER.full(1, (p.nnz,), dtypes.int64, p.device)
    counts = EMITTER.index_add(EMITTER.full(0, (n,), dtypes.int64, p.device), places, one, 0)
    starts = EMITTER.cat(EMITTER.full(0, (1,), dtypes.int64, p.device), EMITTER.cumsum(counts, 0), dim=0)
    return starts, EMITTER.sort(places, 0, False, True)[1]


# -- tensors -----------------------------------------------------------------------------------------------------------------------------
def mark_of(x: Any) -> Wrapped | None:
    """The pattern (`level`) and values of a sparse tensor; None of anything else."""
    trace = read(x).trace if isinstance(x, Tensor) else None
    return trace if isinstance(trace, Wrapped) and isinstance(trace.level, Pattern) else None


def pattern_of(x: Any) -> Pattern | None:
    mark = mark_of(x)
    return None if mark is None else mark.level


def values_of(x: Tensor) -> Tensor:
    """The values of a sparse tensor, with gradients that flow to it."""
    mark = mark_of(x)
    assert mark is not None
    if x._edge is None or not STATE.here.grad:
        found: Tensor = mark.value
        return found
    values, pattern = wrap(read(mark.value)), mark.level
    node = x._edge[0]
    if STATE.here.capture is not None and node.__class__ is Bridge and node.pattern is pattern:
        values._edge = node.edges[0]  # no need to know whether there are places with several elements
    else:
        values._edge = (Bridge("ValuesBackward0", x._edge, pattern, lambda g: _sparse_gradient(pattern, g), values._data.type), 0)
    return values


def make(pattern: Pattern, values: Tensor) -> Tensor:
    """The sparse tensor with these values (elements, dense axes...)."""
    type = values._data.type
    data = Data()
    data.type = sparse_type((*pattern.shape, *type.shape[1:]), type.dtype, type.device, pattern.layout)
    data.trace = Wrapped(pattern, values if values._edge is None else wrap(read(values)))
    data.slot, data.buffer, data.stale = 0, None, False
    t = wrap(data)
    if values._edge is not None and STATE.here.grad:
        t._edge = (Bridge("SparseCooTensorWithDimsAndTensorsBackward0", values._edge, pattern, lambda g: _values_gradient(pattern, g),
                          data.type), 0)
    return t


class Bridge:
    """On the tape between a sparse tensor and its values: the gradient of the one made of the other's."""

    __slots__ = ("__weakref__", "_name", "edges", "function", "hooks", "out_types", "pattern", "released", "retained", "sequence")

    def __init__(self, name: str, edge: Edge, pattern: Pattern | None, function: Callable[[Tensor], Tensor], type: TensorType) -> None:
        self._name, self.edges, self.pattern, self.function = name, (edge,), pattern, function
        self.out_types = (type,)
        self.hooks: Any = None
        self.retained: Any = None
        self.released = False
        self.sequence = next_sequence()

    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"<{self._name} object at {id(self):#x}>"

    @property
    def next_functions(self) -> tuple[Any, ...]:
        return tuple([(None, 0) if e is None else e for e in self.edges])

    def release(self) -> None:
        """Nothing is kept but places."""

    def gradients(self, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
        return [None if grads[0] is None else self.function(grads[0])]


def _sparse_gradient(pattern: Pattern, g: Tensor) -> Tensor:
    """Of a sparse tensor, given that of its values: the elements of one place have the same."""
    if pattern.coalesced:
        return make(pattern, g)
    whole = pattern.coalesce()
    return make(whole.pattern, whole.first(g))


def _values_gradient(pattern: Pattern, g: Tensor) -> Tensor:
    """Of the values of a sparse tensor, given its own, sparse or dense."""
    found = pattern_of(g)
    if found is None:
        return at_places(g, pattern)
    if found is pattern and pattern.coalesced:
        return values_of(g)
    whole = pattern.coalesce()
    if found is whole.pattern:
        return whole.spread(values_of(g))
    return at_places(to_dense(g), pattern)


def at_places(dense: Tensor, pattern: Pattern) -> Tensor:
    """The elements of a dense tensor at the places of a pattern: (elements, further axes...)."""
    found: Tensor = EMITTER.index(dense, *pattern.axes, dims=tuple(range(len(pattern.axes))))
    return found


def to_dense(x: Tensor) -> Tensor:
    """The dense tensor, zero where there is no element."""
    mark = mark_of(x)
    if mark is None:
        return x
    type = x._data.type
    zeros = EMITTER.full(0, type.shape, type.dtype, type.device)
    return scattered(zeros, mark.level, values_of(x))


def scattered(dense: Tensor, pattern: Pattern, values: Tensor) -> Tensor:
    """`dense` with the values added at the places of the pattern."""
    found: Tensor = EMITTER.index_put(dense, values, *pattern.axes, dims=tuple(range(len(pattern.axes))), accumulate=True)
    return found


def coalesced(x: Tensor) -> Tensor:
    """`x` with its places in order, each once, values of one place summed up; `x` itself when it is so."""
    pattern = pattern_of(x)
    assert pattern is not None
    if pattern.coalesced:
        return x
    whole = pattern.coalesce()
    return make(whole.pattern, whole.values(values_of(x)))
