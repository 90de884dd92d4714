"""The type of a value: shape, dtype and device, interned so that types compare by identity."""
from __future__ import annotations

import itertools
import operator
from typing import Any

from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.size import Size

Shape = tuple[int, ...]

_INTERNED: dict[tuple, "TensorType"] = {}


class TensorType:
    """Shape (sizes in elements), dtype and device of a value.

    `weak` marks a Python number used as data: it is 0-d and gives way to the dtype of tensors of its category.
    Make one with `tensor_type`; equal types are the same object.
    """

    __slots__ = ("device", "dtype", "numel", "shape", "weak")
    layout = "strided"  # the frontend's sparse tensors have types of their own

    shape: Shape
    dtype: DType
    device: str
    weak: bool
    numel: int

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def with_(self, shape: Shape | None = None, dtype: DType | None = None) -> "TensorType":
        """The same type with another shape or dtype; never weak."""
        return tensor_type(self.shape if shape is None else shape, dtype or self.dtype, self.device)

    def __repr__(self) -> str:
        dims = "".join(f"{n}x" for n in self.shape)
        return f"tensor<{dims}{self.dtype.mlir}>"

    def __reduce__(self) -> tuple:
        return tensor_type, (self.shape, self.dtype, self.device, self.weak)


def tensor_type(shape: Shape, dtype: DType, device: str = "cpu", weak: bool = False) -> TensorType:
    key = (shape, dtype, device, weak)
    found = _INTERNED.get(key)
    if found is None:
        found = TensorType.__new__(TensorType)
        found.shape, found.dtype, found.device, found.weak = shape, dtype, device, weak
        numel = 1
        for n in shape:
            numel *= n
        found.numel = numel
        table = _INTERNED if numel.__class__ is int else _table_of(shape)
        found = table.setdefault(key, found)
    return found


def _table_of(shape: Shape) -> dict[tuple, TensorType]:
    """Where types with sizes that are not known live: no longer than these."""
    sizes: tuple[Any, ...] = shape
    return next((n.sizes.types for n in sizes if n.__class__ is Size), _INTERNED)


SCALARS = {
    float: tensor_type((), dtypes.float64, weak=True),
    int: tensor_type((), dtypes.int64, weak=True),
    bool: tensor_type((), dtypes.bool_, weak=True),
    complex: tensor_type((), dtypes.complex128, weak=True),
}


def broadcast_shapes(op: str, *shapes: Shape) -> Shape:
    """The common shape under broadcasting; RuntimeError in PyTorch's words when there is none."""
    first = shapes[0]
    if all(s == first for s in shapes):
        return first
    ndim = max(len(s) for s in shapes)
    out = [1] * ndim
    for shape in shapes:
        for i, n in enumerate(shape, ndim - len(shape)):
            if n != 1:
                if out[i] != 1 and out[i] != n:
                    raise RuntimeError(
                        f"{op}: The size of tensor a ({out[i]}) must match the size of tensor b ({n}) at non-singleton dimension {i}"
                        f" (shapes {', '.join(str(list(s)) for s in shapes)})")
                out[i] = n
    return tuple(out)


def result_dtype(types: tuple[TensorType, ...]) -> DType:
    """PyTorch's promotion: dimensioned tensors outrank 0-d tensors, which outrank Python numbers, within a category."""
    ranks: list[DType | None] = [None, None, None]
    for t in types:
        rank = 2 if t.weak else (1 if not t.shape else 0)
        seen = ranks[rank]
        ranks[rank] = t.dtype if seen is None else dtypes.promote(seen, t.dtype)
    result: DType | None = None
    for rank, dtype in enumerate(ranks):
        if dtype is None:
            continue
        if rank == 2 and dtype.category == dtypes.FLOAT and (result is None or result.category < dtypes.FLOAT):
            dtype = dtypes.default_float()
        if dtype.category == dtypes.COMPLEX:
            dtype = _complex_beside(result, dtype, rank == 2)
        if result is None:
            result = dtype
        elif dtype.category > result.category:
            if result.category == dtypes.BOOL:
                dtypes.check_promotion(result, dtype)
            result = dtype
    assert result is not None
    return result


def _complex_beside(result: DType | None, dtype: DType, number: bool) -> DType:
    """What a complex operand of lower standing brings: beside floats, the complex dtype with parts of theirs."""
    if result is not None and result.category == dtypes.FLOAT:
        return dtypes.to_complex(result)
    return dtypes.default_complex() if number else dtype


def normalize_dim(op: str, dim: int, ndim: int) -> int:
    """A non-negative axis; IndexError in PyTorch's words when out of range, TypeError for what is no integer."""
    if dim.__class__ is not int:
        if not hasattr(dim, "__index__"):
            raise TypeError(f"{op}(): argument 'dim' must be int, not {type(dim).__name__}")
        dim = operator.index(dim)
    span = max(ndim, 1)
    if not -span <= dim < span:
        raise IndexError(f"{op}: Dimension out of range (expected to be in range of [{-span}, {span - 1}], but got {dim})")
    return dim % span


def normalize_dims(op: str, dims: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """Sorted non-negative axes; None or () means all of them. RuntimeError when one appears twice."""
    if dims is None or dims == ():
        return tuple(range(ndim))
    if isinstance(dims, int):
        dims = (dims,)
    out = sorted(normalize_dim(op, d, ndim) for d in dims)
    for a, b in itertools.pairwise(out):
        if a == b:
            raise RuntimeError(f"{op}: dim {a} appears multiple times in the list of dims")
    return tuple(out)
