"""Views and rearrangements: reshape, transpose, expand, slice, split, and the functions that join and repeat tensors."""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from treadle.arguments import Omitted, Shape, Tensors, direct, misfit, warn
from treadle.collecting import MANY, joined
from treadle.functions import tensor_argument
from treadle.ir import op as op_table
from treadle.ir.dtypes import INT, DType, int64
from treadle.ir.types import normalize_dim
from treadle.layout import (
    AS_STRIDED,
    EXPAND,
    PERMUTE,
    RESHAPE,
    SLICE,
    Ints,
    Size,
    check_format,
    contiguous_strides,
    ints,
    is_contiguous,
    layout_of,
    resolve_shape,
    viewed_strides,
)
from treadle.results import into
from treadle.tensor import Tensor, apply, may_be_differentiated, storage_of, view, wrap

COPY, CAT = op_table.get("copy"), op_table.get("cat")

__all__ = [
    "Size", "as_strided", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_shapes", "broadcast_tensors",
    "broadcast_to", "cat", "chunk", "concat", "concatenate", "detach", "diagonal", "dsplit",
    "flatten", "hsplit", "moveaxis", "movedim", "narrow", "numel", "permute", "ravel",
    "reshape", "select", "split", "split_with_sizes", "squeeze", "stack", "swapaxes", "swapdims", "t",
    "tensor_split", "transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view_as", "vsplit",
]


# -- reshaping ---------------------------------------------------------------------------------------------------------------
def _viewable(x: Tensor, shape: Ints) -> bool:
    if not x._chain:
        return True
    have, strides, _ = layout_of(x)
    return viewed_strides(have, strides, shape) is not None


def view_method(self: Tensor, *shape: Any, size: Any = None, dtype: DType | None = None) -> Tensor:
    """The same memory with another shape, or (given a dtype) read as another dtype of the same width.

    RuntimeError when the strides do not allow it.
    """
    if size is not None or dtype is not None:
        shape = (size if dtype is None else dtype,)
    if len(shape) == 1 and isinstance(shape[0], DType):
        return view_dtype(self, shape[0])
    new = resolve_shape(ints(shape), self._data.type.numel)
    if not _viewable(self, new):
        raise RuntimeError("view size is not compatible with input tensor's size and stride (at least one dimension spans across two "
                           "contiguous subspaces). Use .reshape(...) instead.")
    return view(RESHAPE, self, (new,))


def view_dtype(x: Tensor, dtype: Any) -> Tensor:
    """`x`'s bits as another dtype. A copy: writes to it do not reach `x`."""
    if dtype is x._data.type.dtype:
        return view(RESHAPE, x, (x._data.type.shape,))
    from treadle.creation import adopt, to_array
    return adopt(to_array(x).view(dtype.np).copy(), x)


def reshape(input: Tensor, *sizes: Shape, shape: Any = None) -> Tensor:
    """A view where the strides allow it, a copy elsewhere."""
    if not sizes and shape is None:
        raise TypeError("reshape() missing 1 required positional argument: 'shape'")
    new = resolve_shape(ints(sizes if shape is None else (shape,)), input._data.type.numel)
    return view(RESHAPE, input, (new,)) if _viewable(input, new) else apply(RESHAPE, (input,), (new,))


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.view(other.shape)`."""
    return view_method(input, other._data.type.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.reshape(other.shape)`."""
    return reshape(input, other._data.type.shape)


def contiguous(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """`input` itself when it is contiguous, else a copy."""
    check_format(memory_format, input._data.type.ndim)
    return input if is_contiguous(input) else apply(COPY, (input,))


def ravel(input: Tensor) -> Tensor:
    """One axis; a view where possible."""
    return reshape(contiguous(input), input._data.type.numel)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes start_dim..end_dim as one."""
    shape = input._data.type.shape
    first, last = normalize_dim("flatten", start_dim, len(shape)), normalize_dim("flatten", end_dim, len(shape))
    if not shape:
        return reshape(input, 1)
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if first == last:
        return input
    return reshape(input, (*shape[:first], math.prod(shape[first:last + 1]), *shape[last + 1:]))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Axis `dim` as several; one of them may be -1."""
    shape = input._data.type.shape
    if not shape:
        normalize_dim("unflatten", dim, 0)
        raise RuntimeError(f"unflatten: Dimension specified as {dim} but tensor has no dimensions")
    dim = normalize_dim("unflatten", dim, len(shape))
    sizes = ints((sizes,))
    if -1 in sizes:
        known = -math.prod(sizes)
        sizes = tuple([shape[dim] // known if n == -1 else n for n in sizes])
    if math.prod(sizes) != shape[dim]:
        raise RuntimeError(f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {dim} ({shape[dim]}) in the "
                           "input tensor")
    return view_method(input, (*shape[:dim], *sizes, *shape[dim + 1:]))


def squeeze(input: Tensor, dim: int | Sequence[int] | Omitted = None) -> Tensor:
    """Without axes of size 1: all of them, or those named."""
    shape = input._data.type.shape
    if dim is None:
        chosen = set(range(len(shape)))
    else:
        dims = [normalize_dim("squeeze", d, len(shape)) for d in ((dim,) if isinstance(dim, int) else dim)]
        chosen = set(dims)
        if len(dims) > len(chosen):
            raise RuntimeError(f"squeeze: an axis appears multiple times in the list of dims {tuple(dim)}")  # type: ignore[arg-type]
    return view(RESHAPE, input, (tuple([n for i, n in enumerate(shape) if n != 1 or i not in chosen]),))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A new axis of size 1 at `dim`."""
    shape = input._data.type.shape
    dim = normalize_dim("unsqueeze", index(dim), len(shape) + 1)
    return view(RESHAPE, input, ((*shape[:dim], 1, *shape[dim:]),))


# -- permuting -----------------------------------------------------------------------------------------------------------------
def permute(input: Tensor, *order: Shape, dims: Any = None) -> Tensor:
    """The axes in the order given."""
    ndim = input._data.type.ndim
    if not order and dims is None:
        raise TypeError("permute() missing 1 required positional argument: 'dims'")
    order = ints(order if dims is None else (dims,))
    if len(order) != ndim:
        raise RuntimeError(f"permute: number of dimensions in the tensor input does not match the length of the desired ordering of "
                           f"dimensions i.e. input.dim() = {ndim} is not equal to len(dims) = {len(order)}")
    order = tuple([normalize_dim("permute", d, ndim) for d in order])
    if len(set(order)) != ndim:
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return view(PERMUTE, input, (order,))


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes swapped."""
    ndim = input._data.type.ndim
    a, b = normalize_dim("transpose", dim0, ndim), normalize_dim("transpose", dim1, ndim)
    order = list(range(ndim))
    if ndim:
        order[a], order[b] = b, a
    return view(PERMUTE, input, (tuple(order),))


swapaxes = swapdims = transpose


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; vectors and numbers are themselves. RuntimeError above two axes."""
    ndim = input._data.type.ndim
    if ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {ndim}D")
    return view(PERMUTE, input, (tuple(range(ndim))[::-1],))


def reversed_axes(input: Tensor) -> Tensor:
    """`Tensor.T`: the axes in reverse; a warning unless there are two."""
    ndim = input._data.type.ndim
    if ndim != 2:
        warn("The use of `x.T` on tensors of dimension other than 2 to reverse their shape is deprecated: consider `x.mT` to transpose "
             "batches of matrices or `x.permute(*range(x.ndim)[::-1])` to reverse the dimensions of a tensor.")
    return view(PERMUTE, input, (tuple(range(ndim))[::-1],))


def matrix_transpose(input: Tensor) -> Tensor:
    """`Tensor.mT`: the last two axes swapped; a number itself, with a warning. RuntimeError for a vector."""
    ndim = input._data.type.ndim
    if not ndim:
        warn("Tensor.mT is deprecated on 0-D tensors. This function is the identity in these cases.")
        return view(RESHAPE, input, ((),))
    if ndim < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices. Got {ndim}-D tensor.")
    return view(PERMUTE, input, ((*range(ndim - 2), ndim - 1, ndim - 2),))


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Axes `source` moved to the places `destination`; the others keep their order."""
    ndim = input._data.type.ndim
    if isinstance(source, tuple | list) is not isinstance(destination, tuple | list):
        raise TypeError(f"movedim(): source and destination must be two ints or two tuples of ints, got {source} and {destination}")
    src = [normalize_dim("movedim", d, ndim) for d in ((source,) if isinstance(source, int) else source)]
    dst = [normalize_dim("movedim", d, ndim) for d in ((destination,) if isinstance(destination, int) else destination)]
    if len(src) != len(dst):
        raise RuntimeError(f"movedim: Invalid source or destination dims: source ({src} dims) should contain the same number of dims as "
                           f"destination ({dst} dims)")
    if len(set(src)) != len(src) or len(set(dst)) != len(dst):
        raise RuntimeError(f"movedim: repeated dim in `source` ({src}) or `destination` ({dst})")
    placed = dict(zip(dst, src, strict=True))
    rest = iter([d for d in range(ndim) if d not in src])
    return view(PERMUTE, input, (tuple([placed[i] if i in placed else next(rest) for i in range(ndim)]),))


moveaxis = movedim


# -- expanding -----------------------------------------------------------------------------------------------------------------
def expand(input: Tensor, *sizes: Any, size: Any = None, implicit: bool = False) -> Tensor:
    """Axes of size 1 repeated without copying; -1 keeps an axis."""
    have = input._data.type.shape
    shape = ints(sizes if size is None else (size,))
    lead = len(shape) - len(have)
    if lead < 0:
        raise RuntimeError(f"expand(treadle.{input._data.type.dtype.name}{list(have)}, size={list(shape)}): the number of sizes provided "
                           f"({len(shape)}) must be greater or equal to the number of dimensions in the tensor ({len(have)})")
    if -1 in shape:
        if -1 in shape[:lead]:
            raise RuntimeError(f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension {shape.index(-1)}")
        shape = tuple([have[i - lead] if n == -1 else n for i, n in enumerate(shape)])
    if min(shape, default=0) < 0:
        raise RuntimeError(f"expand: sizes must not be negative, got {list(shape)}")
    for i, n in enumerate(have):
        if n != 1 and n != shape[i + lead]:
            raise RuntimeError(f"The expanded size of the tensor ({shape[i + lead]}) must match the existing size ({n}) at non-singleton "
                               f"dimension {i + lead}.  Target sizes: {list(shape)}.  Tensor sizes: {list(have)}")
    return view(EXPAND, input, (shape,))


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`input` expanded to `other`'s shape."""
    return expand(input, other._data.type.shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """`input.expand(size)`."""
    return expand(input, size)


def broadcast_shapes(*shapes: Any) -> Size:
    """The common shape under broadcasting."""
    from treadle.ir.types import broadcast_shapes as common
    sizes: list[Any] = [(s,) if isinstance(s, int) else s for s in shapes if s is not None]
    for i, s in enumerate(sizes):
        if not isinstance(s, tuple | list | str):
            raise RuntimeError(f"broadcast_shapes: Input shapes should be of type ints, a tuple of ints, or a list of ints, got {s!r}")
        for n in s:
            if not hasattr(n, "__index__"):
                raise (RuntimeError if i else TypeError)(f"broadcast_shapes: sizes have to be ints, got {n!r} in {s!r}")
            if index(n) < 0:
                kind = RuntimeError if i else ValueError
                raise kind(f"broadcast_shapes: Attempting to broadcast a dimension with negative length, {n} in {s!r}")
    return Size(common("broadcast_shapes", *map(tuple, sizes))) if sizes else Size(())


def broadcast_tensors(*tensors: Tensors) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape."""
    xs = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    shape = broadcast_shapes(*[x._data.type.shape for x in xs])
    return tuple([expand(x, shape) for x in xs])


def atleast_1d(*tensors: Tensors) -> Any:
    """Numbers become vectors."""
    return _at_least(tensors, lambda x: reshape(x, 1) if x._data.type.ndim == 0 else x)


def atleast_2d(*tensors: Tensors) -> Any:
    """Numbers and vectors become matrices of one row."""
    return _at_least(tensors, lambda x: unsqueeze(atleast_1d(x), 0) if x._data.type.ndim < 2 else x)


def atleast_3d(*tensors: Tensors) -> Any:
    """At least three axes; a matrix gets its new axis last."""
    return _at_least(tensors, lambda x: unsqueeze(atleast_2d(x), -1) if x._data.type.ndim < 3 else x)


def _at_least(tensors: Any, rule: Any) -> Any:
    if len(tensors) == 1 and isinstance(tensors[0], Tensor):
        return rule(tensors[0])
    xs = tensors[0] if len(tensors) == 1 else tensors
    return tuple([rule(x) for x in xs])


# -- slicing -------------------------------------------------------------------------------------------------------------------
def sliced(x: Tensor, dim: int, start: int, stop: int, step: int = 1) -> Tensor:
    """The view start:stop:step of axis `dim`; bounds are normalised, 0 <= start <= stop <= size."""
    shape = x._data.type.shape
    starts, stops, steps = [0] * len(shape), list(shape), [1] * len(shape)
    starts[dim], stops[dim], steps[dim] = start, stop, step
    return view(SLICE, x, (tuple(starts), tuple(stops), tuple(steps)))


def narrow(input: Tensor, dim: int, start: int | Tensor, length: int) -> Tensor:
    """`length` elements of axis `dim` from `start` on."""
    ndim = input._data.type.ndim
    if ndim == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    if isinstance(start, Tensor) and (start._data.type.ndim or start._data.type.dtype.category != INT):
        raise RuntimeError("start must be an 0-dim integral Tensor.")
    dim = normalize_dim("narrow", dim, ndim)
    size, start = input._data.type.shape[dim], index(start)
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if not -size <= start <= size:
        raise IndexError(f"start out of range (expected to be in range of [{-size}, {size}], but got {start})")
    start = start + size if start < 0 else start
    if start + length > size:
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({size}).")
    return sliced(input, dim, start, start + length)


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """Element `index` of axis `dim`, which disappears."""
    shape = input._data.type.shape
    if not shape:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    dim = normalize_dim("select", dim, len(shape))
    size = shape[dim]
    if not -size <= index < size:
        raise IndexError(f"select(): index {index} out of range for tensor of size {list(shape)} at dimension {dim}")
    at = index + size if index < 0 else index
    return view(RESHAPE, sliced(input, dim, at, at + 1), (shape[:dim] + shape[dim + 1:],))


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The elements of an axis, as views."""
    if not input._data.type.shape:
        raise IndexError("Dimension specified as 0 but tensor has no dimensions")
    dim = normalize_dim("unbind", dim, input._data.type.ndim)
    return tuple([select(input, dim, i) for i in range(input._data.type.shape[dim])])


def _need_axis(name: str, x: Tensor) -> None:
    if not x._data.type.shape:
        raise RuntimeError(f"{name} expects at least a 1-dimensional tensor, but got one without dimensions")


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of `split_size` elements each (the last may be smaller), or of the sizes listed."""
    _need_axis("split", tensor)
    dim = normalize_dim("split", dim, tensor._data.type.ndim)
    if not isinstance(split_size_or_sections, int):
        return split_with_sizes(tensor, split_size_or_sections, dim)
    size, step = tensor._data.type.shape[dim], split_size_or_sections
    if step < 0 or (step == 0 and size):
        raise RuntimeError(f"split expects split_size be non-negative, but got split_size={step}")
    if size == 0:
        return (sliced(tensor, dim, 0, 0),)
    return tuple([sliced(tensor, dim, lo, min(lo + step, size)) for lo in range(0, size, step)])


def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of the sizes listed, which must add up to the axis."""
    _need_axis("split_with_sizes", input)
    dim = normalize_dim("split_with_sizes", dim, input._data.type.ndim)
    sizes = ints((tuple(split_sizes),))
    size = input._data.type.shape[dim]
    if sum(sizes) != size or any(n < 0 for n in sizes):
        raise RuntimeError(f"split_with_sizes expects split_sizes to sum exactly to {size} (input tensor's size at dimension {dim}), "
                           f"but got split_sizes={list(sizes)}")
    ends = [sum(sizes[:i + 1]) for i in range(len(sizes))]
    return tuple([sliced(input, dim, end - n, end) for n, end in zip(sizes, ends, strict=True)])


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size (the last may be smaller)."""
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    _need_axis("chunk", input)
    dim = normalize_dim("chunk", dim, input._data.type.ndim)
    size = input._data.type.shape[dim]
    if size == 0:
        return tuple([sliced(input, dim, 0, 0) for _ in range(chunks)])
    return split(input, -(-size // chunks), dim)


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """`n` views whose sizes differ by at most one, or the pieces between the indices listed."""
    _need_axis("tensor_split", input)
    dim = normalize_dim("tensor_split", dim, input._data.type.ndim)
    size = input._data.type.shape[dim]
    if isinstance(indices_or_sections, Tensor):
        if indices_or_sections._data.type.dtype is not int64 or indices_or_sections._data.type.ndim > 1:
            raise RuntimeError("tensor_split expected tensor_indices_or_sections to be a number or a vector of dtype long, but got "
                               f"{indices_or_sections._data.type}")
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, int):
        n = indices_or_sections
        if n <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {n}")
        cuts = [i * (size // n) + min(i, size % n) for i in range(n + 1)]
    else:
        if not isinstance(indices_or_sections, tuple | list):
            raise misfit("tensor_split", "indices_or_sections", 2, "int, tuple of ints or Tensor", indices_or_sections)
        cuts = [0, *[min(max(i + size if i < 0 else i, 0), size) for i in ints((indices_or_sections,))], size]
    return tuple([sliced(input, dim, lo, max(lo, hi)) for lo, hi in itertools.pairwise(cuts)])


def _split_along(name: str, input: Tensor, indices_or_sections: Any, count: int, dim: int) -> tuple[Tensor, ...]:
    """`tensor_split` of tensors with at least `count` axes, into equal sections only."""
    _need_axes(name, input, count)
    sections = indices_or_sections
    if isinstance(sections, int) and (sections <= 0 or input._data.type.shape[dim] % sections):
        raise RuntimeError(f"{name} attempted to split along dimension {dim}, but the size of the dimension "
                           f"{input._data.type.shape[dim]} is not divisible by the split_size {sections}!")
    return tensor_split(input, sections, dim)


def _need_axes(name: str, x: Tensor, count: int) -> None:
    if x._data.type.ndim < count:
        raise RuntimeError(f"{name} requires a tensor with at least {count} dimension, but got a tensor with "
                           f"{x._data.type.ndim} dimensions!")


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along columns (the only axis of a vector)."""
    return _split_along("hsplit", input, indices_or_sections, 1, 0 if input._data.type.ndim == 1 else 1)


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along rows."""
    return _split_along("vsplit", input, indices_or_sections, 2, 0)


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along the third axis."""
    return _split_along("dsplit", input, indices_or_sections, 3, 2)


# -- strided views ---------------------------------------------------------------------------------------------------------------
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two axes, as a view; it becomes the last axis."""
    shape = input._data.type.shape
    offset = index(offset)
    a, b = normalize_dim("diagonal", dim1, len(shape)), normalize_dim("diagonal", dim2, len(shape))
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    strides = contiguous_strides(shape)
    length = max(0, min(shape[a], shape[b] - offset) if offset >= 0 else min(shape[a] + offset, shape[b]))
    start = 0 if not length else (offset * strides[b] if offset >= 0 else -offset * strides[a])
    keep = [d for d in range(len(shape)) if d not in (a, b)]
    return view(AS_STRIDED, input, ((*[shape[d] for d in keep], length), (*[strides[d] for d in keep], strides[a] + strides[b]), start))


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements every `step` along an axis, as a view; the window is the last axis."""
    shape = input._data.type.shape
    dim = normalize_dim("unfold", dimension, len(shape))
    size, step = index(size), index(step)
    length = shape[dim] if shape else 1
    if size > length:
        raise RuntimeError(f"maximum size for tensor at dimension {dim} is {length} but size is {size}")
    if size < 0:
        raise RuntimeError(f"unfold: size is {size} but must be >= 0")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    if not shape:
        return view(RESHAPE, input, ((size,),))
    strides = contiguous_strides(shape)
    count = (length - size) // step + 1
    return view(AS_STRIDED, input, ((*shape[:dim], count, *shape[dim + 1:], size),
                                    (*strides[:dim], strides[dim] * step, *strides[dim + 1:], strides[dim]), 0))


def whole(x: Tensor) -> Tensor:
    """A tensor on the whole storage of `x`."""
    if not x._chain:
        return x
    storage = storage_of(x)
    leaf = storage.leaf() if storage.leaf is not None else None
    if leaf is not None and not leaf._chain:
        return leaf
    base = wrap(storage.base._data)
    base._node, base._out = storage.base._node, storage.base._out
    base._storage, base._seen = storage, storage.version
    return base


def as_strided(input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """A view of `input`'s storage with any sizes and strides."""
    sizes, steps, offset = window("as_strided", input, size, stride, storage_offset)
    base = whole(input)
    shown = view(AS_STRIDED, base, (sizes, steps, offset))
    if input is base or not may_be_differentiated(input) or may_be_differentiated(base):
        return shown
    return _of_window(input, shown, (sizes, steps, offset))


def window(name: str, input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None) -> tuple[Ints, Ints, int]:
    """Sizes, strides and offset (the input's unless given) for `name`. RuntimeError for what cannot be those of a view."""
    offset = layout_of(input)[2] if storage_offset is None else index(storage_offset)
    sizes, steps = ints((tuple(size),)), ints((tuple(stride),))
    if len(sizes) != len(steps):
        raise RuntimeError(f"{name}: mismatch in length of strides and shape: {list(steps)} and {list(sizes)}")
    if min((*sizes, *steps, offset), default=0) < 0:
        raise RuntimeError(f"{name}: Negative sizes, strides and offsets are not supported, got {list(sizes)}, {list(steps)}, {offset}")
    return sizes, steps, offset


def _of_window(leaf: Tensor, shown: Tensor, place: Any) -> Tensor:
    """A copy of `shown`, elements of the storage of a leaf that is a view of it: those that the leaf has are its own, with gradients."""
    from treadle.creation import adopt
    mine, wanted = [_places(*of) for of in ((leaf._data.type.shape, *layout_of(leaf)[1:]), place)]
    source = np.full(max(mine.max(initial=0), wanted.max(initial=0)) + 1, -1)
    source[mine.reshape(-1)] = np.arange(mine.size)
    found = source[wanted]
    taken = apply(op_table.TABLE["index"], (flatten(leaf), adopt(np.maximum(found, 0), leaf)), ((0,),))
    return apply(op_table.TABLE["where"], (adopt(found >= 0, leaf), taken, shown))


def _places(shape: Ints, strides: Ints, offset: int) -> np.ndarray:
    """Where the elements lie in the storage."""
    found = np.full(shape, offset)
    for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        found += (np.arange(n) * stride).reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return found


def detach(input: Tensor) -> Tensor:
    """The same memory, off the tape."""
    from treadle.tensor import detached
    return detached(input)


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input._data.type.numel


# -- joining and repeating -----------------------------------------------------------------------------------------------------
@direct
def cat(tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None, out: Tensor | None = None) -> Tensor:
    """Tensors joined along an existing axis. Legacy empty vectors of shape (0,) are skipped, as in PyTorch."""
    if isinstance(tensors, Tensor):
        raise TypeError("cat(): argument 'tensors' (position 1) must be tuple of Tensors, not Tensor")
    xs = [tensor_argument("cat", x, "tensors") for x in tensors]
    if not xs:
        raise ValueError("cat(): expected a non-empty list of Tensors")
    if any(x._data.type.ndim != 1 for x in xs):
        xs = [x for x in xs if x._data.type.shape != (0,)]
    if not xs[0]._data.type.shape:
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    dim = dim if axis is None else axis
    nothing = isinstance(dim, int) and all(x._data.type.shape == (0,) for x in xs)  # such vectors have any axis
    dim = 0 if nothing else normalize_dim("cat", dim, xs[0]._data.type.ndim)
    found = joined(xs, dim, False) if len(xs) >= MANY else None
    return into(out, apply(CAT, xs, (dim,)) if found is None else found, "cat", (tensors,))


concat = concatenate = cat


def stack(tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None, out: Tensor | None = None) -> Tensor:
    """Tensors of one shape joined along a new axis."""
    xs = list(tensors)
    if not xs:
        raise RuntimeError("stack expects a non-empty TensorList")
    shape = xs[0]._data.type.shape
    dim = normalize_dim("stack", dim if axis is None else axis, len(shape) + 1)
    for i, x in enumerate(xs):
        if x._data.type.shape != shape:
            raise RuntimeError(f"stack expects each tensor to be equal size, but got {list(shape)} at entry 0 and "
                               f"{list(x._data.type.shape)} at entry {i}")
    found = joined(xs, dim, True) if len(xs) >= MANY else None
    if found is not None:
        return into(out, found, "stack", (xs,))
    new = ((*shape[:dim], 1, *shape[dim:]),)
    return into(out, cat([apply(RESHAPE, (x,), new) for x in xs], dim), "stack", (xs,))
