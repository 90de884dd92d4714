"""Making arrays: the standard's signatures on `treadle`'s functions."""
from __future__ import annotations

from typing import Any

import treadle
from treadle.array_api.arguments import array, on
from treadle.ir.dtypes import DType
from treadle.tensor import Tensor

__all__ = ["arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like", "linspace", "meshgrid", "ones",
           "ones_like", "tril", "triu", "zeros", "zeros_like"]

Shape = int | tuple[int, ...]


def _size(shape: Shape) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """start, start + step, ... below stop; 0 up to `start` when it is alone."""
    if stop is None:
        start, stop = 0, start
    if (stop - start) / step <= 0:
        kind = float if any(isinstance(v, float) for v in (start, stop, step)) else int
        return treadle.empty((0,), dtype=dtype or (treadle.get_default_dtype() if kind is float else treadle.int64), device=on(device))
    return treadle.arange(start, stop, step, dtype=dtype, device=on(device))


def asarray(obj: Any, /, *, dtype: DType | None = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """An array of numbers, nested sequences, another array or a buffer. ValueError when `copy` is False and one would be needed."""
    if copy is False:
        target = None if device is None else on(device)
        if not hasattr(obj, "__dlpack__") and not hasattr(obj, "__array__"):
            raise ValueError(f"asarray: a {type(obj).__name__} cannot be used without a copy, but copy=False")
        x = obj if isinstance(obj, Tensor) else treadle.from_dlpack(obj)
        if (dtype not in (None, x.dtype)) or target not in (None, x.device):
            raise ValueError("asarray: another dtype or device needs a copy, but copy=False")
        return x
    result: Tensor = treadle.asarray(obj, dtype=dtype, device=on(device), copy=copy)
    return result


def empty(shape: Shape, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """An array whose elements may be anything."""
    return treadle.empty(_size(shape), dtype=dtype, device=on(device))


def empty_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """`empty` of the shape, dtype and device of x."""
    return treadle.empty_like(array("empty_like", x), dtype=dtype, device=on(device))


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Ones on the k-th diagonal, zeros elsewhere."""
    n_cols = n_rows if n_cols is None else n_cols
    if k == 0:
        return treadle.eye(n_rows, n_cols, dtype=dtype, device=on(device))
    rows, cols = treadle.arange(n_rows, device=on(device)), treadle.arange(n_cols, device=on(device))
    return (cols - rows[:, None] == k).to(dtype or treadle.get_default_dtype())


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """An array that shares the memory of x, or a copy of it."""
    found = treadle.from_dlpack(x)
    if device is not None and on(device) != found.device:
        if copy is False:
            raise ValueError("from_dlpack: another device needs a copy, but copy=False")
        return found.to(on(device))
    return found.clone() if copy else found


def full(shape: Shape, fill_value: Any, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Every element is `fill_value`, whose kind decides the dtype when none is given."""
    return treadle.full(_size(shape), fill_value, dtype=dtype, device=on(device))


def full_like(x: Tensor, /, fill_value: Any, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """`full` of the shape, dtype and device of x."""
    return treadle.full_like(array("full_like", x), fill_value, dtype=dtype, device=on(device))


def linspace(start: Any, stop: Any, /, num: int, *, dtype: DType | None = None, device: Any = None, endpoint: bool = True) -> Tensor:
    """`num` numbers from start to stop at equal distances; without the last when `endpoint` is False."""
    count = num if endpoint else num + 1
    if isinstance(start, complex) or isinstance(stop, complex):
        a, z = complex(start), complex(stop)
        parts = [treadle.linspace(getattr(a, part), getattr(z, part), count, device=on(device)) for part in ("real", "imag")]
        found = treadle.complex(*parts).to(dtype) if dtype is not None else treadle.complex(*parts)
    else:
        found = treadle.linspace(start, stop, count, dtype=dtype, device=on(device))
    return found if endpoint else found[:num]


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Coordinate arrays of the grid that 1-d arrays span; the first two axes are exchanged for "xy"."""
    return tuple(treadle.meshgrid(*arrays, indexing=indexing))


def ones(shape: Shape, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Every element is 1."""
    return treadle.ones(_size(shape), dtype=dtype, device=on(device))


def ones_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """`ones` of the shape, dtype and device of x."""
    return treadle.ones_like(array("ones_like", x), dtype=dtype, device=on(device))


def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
    """The part of each matrix on and below the k-th diagonal."""
    return treadle.tril(array("tril", x), k)


def triu(x: Tensor, /, *, k: int = 0) -> Tensor:
    """The part of each matrix on and above the k-th diagonal."""
    return treadle.triu(array("triu", x), k)


def zeros(shape: Shape, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Every element is 0."""
    return treadle.zeros(_size(shape), dtype=dtype, device=on(device))


def zeros_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """`zeros` of the shape, dtype and device of x."""
    return treadle.zeros_like(array("zeros_like", x), dtype=dtype, device=on(device))
