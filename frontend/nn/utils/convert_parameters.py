"""Parameters as one flat vector and back."""
from __future__ import annotations

from collections.abc import Iterable

import treadle
from treadle.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters flattened and joined into one vector."""
    listed = list(parameters)
    _check_devices(listed)
    return treadle.cat([p.reshape(-1) for p in listed])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Give each parameter its stretch of `vec` as its data."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec).__module__}.{type(vec).__qualname__}")
    listed = list(parameters)
    _check_devices(listed)
    start = 0
    for param in listed:
        count = param.numel()
        param.data = vec[start:start + count].view_as(param).data
        start += count


def _check_devices(parameters: list[Tensor]) -> None:
    if len({str(p.device) for p in parameters}) > 1:
        raise TypeError("Found two parameters on different devices, this is currently not supported.")
