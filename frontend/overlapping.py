"""In-place ops on expanded tensors, whose elements share places of memory: those that PyTorch goes on allowing, with a warning."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from treadle import creation, gathering, reductions
from treadle.arguments import warn
from treadle.functions import where
from treadle.layout import strides_of
from treadle.runtime.recorder import STATE
from treadle.shaping import as_strided
from treadle.tensor import Tensor, assign, read
from treadle.view_writes import refuse_overlap


def shared_axes(t: Tensor) -> list[int]:
    """The axes along which all elements are one place of memory."""
    return [d for d, (n, step) in enumerate(zip(t._data.type.shape, strides_of(t), strict=True)) if n > 1 and not step]


# By op: where it writes. `b` is a tensor of bools, all false.
_MARKS: dict[str, Callable[..., Tensor]] = {
    "masked_fill": lambda b, mask, value: gathering.masked_fill(b, mask, True),
    "index_fill": lambda b, dim, index, value: gathering.index_fill(b, dim, index, True),
    "index_put": lambda b, indices, values, accumulate=False: gathering.index_put(b, indices, creation.tensor(True)),
}


def write(t: Tensor, found: Tensor, written: Tensor | None, name: str) -> Tensor:
    """Write `found` to `t`, in whose shape it is: a place of memory keeps what was `written` last, or takes the sum when that is None.

    RuntimeError when a gradient would have to flow.
    """
    shared, shape = shared_axes(t), t._data.type.shape
    if STATE.here.grad and t._edge is not None:
        refuse_overlap()
    warn(f"Use of {name} on expanded tensors is deprecated. Please clone() the tensor before performing this operation. "
         "This also applies to advanced indexing e.g. tensor[indices] = tensor")
    places = as_strided(t, [1 if d in shared else n for d, n in enumerate(shape)], strides_of(t))
    if written is None:
        assign(places, places + reductions.sum(found - t, shared, True), name)
    else:
        count = math.prod([shape[d] for d in shared])
        apart = [d for d in range(len(shape)) if d not in shared]
        flat = [x.permute(*apart, *shared).reshape(*[shape[d] for d in apart], count) for x in (found, written)]
        last = reductions.amax(flat[1] * creation.arange(1, count + 1), -1, True)
        chosen = gathering.gather(flat[0], -1, (last - 1).clamp(min=0)).reshape(places.shape)
        assign(places, where(last.reshape(places.shape) > 0, chosen, places), name)
    read(t)
    return t


def in_place(name: str, function: Callable[..., Tensor], plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`plain`, the in-place form of `function`, which writes to expanded tensors too if the op is one of those allowed to."""
    mark = _MARKS.get(name)
    if mark is None:
        return plain

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not self._chain or not shared_axes(self):
            return plain(self, *args, **kwargs)
        adds = name == "index_put" and (kwargs.get("accumulate") or args[2:3] == (True,))
        blank = creation.zeros(self.shape, dtype=creation.dtypes.bool_, device=self._data.type.device)
        return write(self, function(self, *args, **kwargs), None if adds else mark(blank, *args, **kwargs), f"{name}_")
    method.__name__, method.__doc__ = f"{name}_", plain.__doc__
    return method
