"""Join samples into a batch, and carry batches between processes as numpy arrays."""
from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

import treadle
from treadle.tensor import Tensor


def _default_convert(data: Any) -> Any:
    """Numpy arrays and scalars become tensors, containers are walked, the rest stays."""
    if isinstance(data, Tensor):
        return data
    if isinstance(data, (np.ndarray, np.generic)):
        return data if data.dtype.kind in "SUO" else treadle.as_tensor(data)
    return map_leaves(_default_convert, data)


default_convert = _default_convert


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack samples along a new first dimension: tensors, arrays and numbers become tensors, containers are walked.

    RuntimeError when sequences differ in length, TypeError for types that cannot be joined.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return treadle.stack(list(batch), 0)
    if isinstance(first, (np.ndarray, np.generic)):
        if re.search(r"[SaUO]", first.dtype.str):
            raise TypeError(_complaint(first.dtype))
        return treadle.from_numpy(np.stack([np.asarray(sample) for sample in batch]))
    if isinstance(first, float):
        return treadle.tensor(list(batch), dtype=treadle.float64)
    if isinstance(first, int):
        return treadle.tensor(list(batch))
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        return _collate_mapping(first, batch)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(samples) for samples in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        return _collate_sequence(first, batch)
    raise TypeError(_complaint(type(first)))


def _complaint(kind: Any) -> str:
    return f"default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {kind}"


def _collate_mapping(first: Any, batch: Sequence[Any]) -> Any:
    joined = {key: default_collate([sample[key] for sample in batch]) for key in first}
    try:
        if isinstance(first, MutableMapping):  # keeps a subclass's extra attributes
            made: Any = copy.copy(first)
            made.update(joined)
            return made
        return type(first)(joined)
    except TypeError:  # a mapping that cannot be made from a dict
        return joined


def _collate_sequence(first: Any, batch: Sequence[Any]) -> Any:
    if any(len(sample) != len(first) for sample in batch):
        raise RuntimeError("each element in list of batch should be of equal size")
    joined = [default_collate(samples) for samples in zip(*batch, strict=True)]
    if isinstance(first, tuple):
        return joined
    try:
        if isinstance(first, MutableSequence):
            made: Any = copy.copy(first)
            made[:] = joined
            return made
        return type(first)(joined)
    except TypeError:  # a sequence that cannot be made from a list
        return joined


def map_leaves(function: Callable[[Any], Any], data: Any) -> Any:
    """`data` with `function` applied to what its dicts, lists and (named) tuples hold."""
    if isinstance(data, dict):
        made = copy.copy(data)
        made.update((key, function(value)) for key, value in data.items())
        return made
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(function(value) for value in data))
    if type(data) in (list, tuple):
        return type(data)(function(value) for value in data)
    return data


class PackedTensor:
    """A tensor on its way between processes: its values as an array."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def pack(data: Any) -> Any:
    """Replace the tensors in nested containers by PackedTensor."""
    if isinstance(data, Tensor):
        return PackedTensor(np.ascontiguousarray(data.detach().cpu().numpy()))
    return map_leaves(pack, data)


def unpack(data: Any) -> Any:
    """The inverse of `pack`."""
    if isinstance(data, PackedTensor):
        return treadle.from_numpy(data.array)
    return map_leaves(unpack, data)
