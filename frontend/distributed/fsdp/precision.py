"""A module called with its parameters in another dtype: what mixed precision is, with one process or many."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from treadle.nn.module import Module
from treadle.tensor import Tensor
from treadle.utils._pytree import tree_map


def cast(values: Any, dtype: Any) -> Any:
    """Floating-point tensors in nested containers, in `dtype`."""
    return values if dtype is None else tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, values)


@contextlib.contextmanager
def parameters_as(module: Module, parameter: Any, buffer: Any, ignored: tuple[type[Module], ...] = ()) -> Iterator[None]:
    """Inside, floating-point parameters and buffers are copies in the given dtypes (None: as they are); gradients reach the originals.

    A buffer that the module writes meanwhile is written back in its own dtype.
    """
    saved: list[tuple[dict[str, Any], str, Any, Any]] = []
    for part in module.modules():
        for table, dtype in ((part._parameters, parameter), (part._buffers, buffer)):
            for key, value in table.items():
                if dtype is not None and isinstance(value, Tensor) and value.is_floating_point() and not isinstance(part, ignored):
                    made: Any = value.to(dtype)
                    saved.append((table, key, value, made))
    versions = [made._version for *_, made in saved]
    for table, key, _, made in saved:
        table[key] = made
    try:
        yield
    finally:
        for (table, key, value, made), version in zip(saved, versions, strict=True):
            table[key] = value
            if made._version != version and made is not value:
                value.data.copy_(made.detach())
