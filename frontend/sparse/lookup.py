"""Lookups in a table whose gradient is sparse: `nn.Embedding(sparse=True)`."""
from __future__ import annotations

from treadle.emitter import EMITTER
from treadle.ir import dtypes
from treadle.results import cast
from treadle.sparse.pattern import Bridge, Pattern, make
from treadle.tensor import Tensor, read, wrap


def lookup(weight: Tensor, index: Tensor, padding_idx: int, by_frequency: bool) -> Tensor:
    """Rows of `weight` (V, D), whose gradient has one element for each index; those of `padding_idx` are zero.

    by_frequency: each is divided by how often its index is there.
    """
    rows: Tensor = EMITTER.embedding(wrap(read(weight)), index, padding_idx, by_frequency)
    count, (size, width) = index._data.type.numel, weight._data.type.shape
    places = EMITTER.reshape(cast(wrap(read(index)), dtypes.int64), (count,))
    pattern = Pattern((places,), (size,), False)

    def gradient(g: Tensor) -> Tensor:
        values = EMITTER.reshape(g, (count, width))
        if padding_idx >= 0:
            values = EMITTER.where(EMITTER.reshape(EMITTER.eq(places, padding_idx), (count, 1)), 0.0, values)
        if by_frequency:
            type = values._data.type
            one = EMITTER.full(1, (count,), type.dtype, type.device)
            counts = EMITTER.index_add(EMITTER.full(0, (size,), type.dtype, type.device), places, one, 0)
            values = EMITTER.div(values, EMITTER.reshape(EMITTER.index_select(counts, places, 0), (count, 1)))
        return make(pattern, values)
    rows._edge = (Bridge("EmbeddingBackward0", weight._edge, None, gradient, rows._data.type), 0)
    return rows
