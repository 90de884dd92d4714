"""What the standard's functions share: checks of arguments, and its promotion of dtypes."""
from __future__ import annotations

from typing import Any

from treadle.device import device as as_device
from treadle.functions import cast
from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, COMPLEX, FLOAT, INT, DType
from treadle.tensor import Tensor

Axis = int | tuple[int, ...] | None


def array(name: str, x: Any) -> Tensor:
    """`x` itself; TypeError when it is no array."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected an array, got {type(x).__name__}")
    return x


def promoted(name: str, *arrays: Any) -> list[Any]:
    """Arrays cast to the dtype that all of them promote to, 0-d ones included; Python numbers stay as they are.

    TypeError when none is an array, or one is neither array nor number.
    """
    found: DType | None = None
    for x in arrays:
        if isinstance(x, Tensor):
            found = x.dtype if found is None else dtypes.promote(found, x.dtype)
        elif not isinstance(x, (bool, int, float, complex)):
            raise TypeError(f"{name}: expected arrays or Python numbers, got {type(x).__name__}")
    if found is None:
        raise TypeError(f"{name}: at least one operand must be an array")
    return [cast(x, found) if isinstance(x, Tensor) else fitting(name, x, found) for x in arrays]


_RANKS = {bool: BOOL, int: INT, float: FLOAT, complex: COMPLEX}


def fitting(name: str, value: Any, dtype: DType) -> Any:
    """A Python number that an operand of `dtype` can be combined with; TypeError for a kind of number that `dtype` cannot hold."""
    rank = _RANKS[next(t for t in (bool, int, float, complex) if isinstance(value, t))]
    if rank > dtype.category or (rank == BOOL) != (dtype.category == BOOL):
        raise TypeError(f"{name}: a Python {type(value).__name__} cannot be combined with an array of {dtype.name}")
    return value


def axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes that `axis` names: all of them for None."""
    if axis is None:
        return tuple(range(ndim))
    return (axis,) if isinstance(axis, int) else tuple(axis)


def on(device: Any) -> Any:
    """A device argument as the creation functions of `treadle` take it."""
    return None if device is None else as_device(device)
