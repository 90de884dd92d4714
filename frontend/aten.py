"""Functions of PyTorch's innermost layer that it exposes under `torch.*`: norms with their statistics, segments, hashes, gradients."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import treadle
from treadle.arguments import guard
from treadle.ir.ops.common import need_real
from treadle.ir.types import normalize_dim, normalize_dims
from treadle.nn.resizing_functions import resized
from treadle.results import with_out
from treadle.tensor import Tensor

# The names that `treadle` takes from here, when they are first asked for.
__all__ = [
    "_batch_norm_with_update", "_chunk_cat", "_log_softmax_backward_data", "_native_batch_norm_legit", "_safe_softmax",
    "_segment_reduce", "_softmax_backward_data", "_unsafe_masked_index", "_unsafe_masked_index_put_accumulate", "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa", "hash_tensor", "max_pool2d_with_indices_backward", "native_batch_norm", "native_dropout",
    "native_dropout_backward", "native_group_norm", "native_layer_norm", "segment_reduce",
]


# -- norms and dropout ---------------------------------------------------------------------------------------------------------------
def native_layer_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None,
                      eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(layer_norm, mean, 1 / standard deviation)."""
    dims = tuple(range(input.dim() - len(normalized_shape), input.dim()))
    mean, var = input.mean(dims, keepdim=True), input.var(dims, correction=0, keepdim=True)
    return treadle.nn.functional.layer_norm(input, tuple(normalized_shape), weight, bias, eps), mean, (var + eps).rsqrt()


def native_group_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, N: int, C: int, HxW: int, group: int,
                      eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(group_norm, mean, 1 / standard deviation)."""
    if group <= 0 or C % group:
        raise RuntimeError(f"native_group_norm: Expected {C} channels to be divisible by num groups, which must be above 0, got {group}")
    if min(N, C, HxW) < 0 or N * C * HxW != input.numel():
        raise RuntimeError(f"native_group_norm: shape [{N}, {C}, {HxW}] is invalid for input of size {list(input.shape)}")
    rows = input.reshape(N, group, C // group * HxW)
    mean, var = rows.mean(-1), rows.var(-1, correction=0)
    out = treadle.nn.functional.group_norm(input.reshape(N, C, HxW), group, weight, bias, eps)
    return out.reshape(input.shape), mean, (var + eps).rsqrt()


@with_out
def native_batch_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
                      training: bool, momentum: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(batch_norm, mean, 1 / standard deviation), of which the last two are empty unless training."""
    if training and not input.numel():
        raise RuntimeError(f"native_batch_norm: input tensor must have at least one element, but got input_sizes = {list(input.shape)}")
    if running_mean is not None and running_var is not None and running_mean.dtype is not running_var.dtype:
        raise RuntimeError(f"native_batch_norm: expected running_var of dtype {running_mean.dtype}, but found {running_var.dtype}")
    out = treadle.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        return out, input.new_empty(0), input.new_empty(0)
    dims = tuple(d for d in range(input.dim()) if d != 1)
    kept = next((x.dtype for x in (weight, running_mean) if x is not None), input.dtype)
    wide = input.float() if input.dtype.itemsize == 2 else input
    return out, wide.mean(dims).to(kept), (wide.var(dims, correction=0) + eps).rsqrt().to(kept)


@with_out
def _native_batch_norm_legit(input: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`native_batch_norm`, whose running statistics (before `training`) may be left out."""
    return native_batch_norm(input, weight, bias, *((None, None) if len(rest) == 3 else ()), *rest)


@with_out
def _batch_norm_with_update(input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor, running_var: Tensor,
                            momentum: float, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`native_batch_norm` in training, and what a GPU's library would keep: here nothing."""
    out, mean, rstd = native_batch_norm(input, weight, bias, running_mean, running_var, True, momentum, eps)
    return out, mean, rstd, input.new_empty(0, dtype=treadle.uint8)


def _safe_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Softmax, with zeros where a whole row is -inf."""
    never = (input == -math.inf).all(dim, keepdim=True) if input.dim() else input == -math.inf
    return treadle.softmax(input.masked_fill(never, 0.0), dim, dtype=dtype).masked_fill(never, 0.0)


def native_dropout(input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """(dropout, the mask of what was kept)."""
    if train is False or not input.numel():
        return input.clone(), treadle.ones_like(input, dtype=treadle.bool)
    if not 0 <= p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")
    mask = treadle.empty_like(input, dtype=treadle.bool).bernoulli_(1 - p)
    return native_dropout_backward(input, mask, 0.0 if p == 1 else 1 / (1 - p)), mask


def native_dropout_backward(grad_output: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The gradient of `native_dropout`: grad_output * mask * scale."""
    return grad_output * mask * scale


# -- gradients by name ---------------------------------------------------------------------------------------------------------------
def _wide(name: str, *tensors: Tensor) -> list[Tensor]:
    """16-bit numbers in float32, where their products are summed; NotImplementedError for complex ones."""
    need_real(name, *[t._data.type for t in tensors])
    return [t.float() if t.dtype in (treadle.float16, treadle.bfloat16) else t for t in tensors]


def _alike(name: str, grad: Tensor, output: Tensor) -> None:
    """RuntimeError unless a gradient has its output's shape and dtype."""
    if grad.shape != output.shape or grad.dtype is not output.dtype:
        raise RuntimeError(f"{name}: Expected grad and output to have the same size and dtype, but got {list(grad.shape)} of {grad.dtype} "
                           f"and {list(output.shape)} of {output.dtype}")


def _softmax_backward_data(grad_output: Tensor, output: Tensor, dim: int, input_dtype: Any) -> Tensor:
    """The gradient of softmax, from its output."""
    _alike("_softmax_backward_data", grad_output, output)
    grad_output, output = _wide("softmax_backward", grad_output, output)
    product = grad_output * output
    return (product - output * product.sum(dim, keepdim=True)).to(input_dtype)


def _log_softmax_backward_data(grad_output: Tensor, output: Tensor, dim: int, input_dtype: Any) -> Tensor:
    """The gradient of log_softmax, from its output."""
    _alike("_log_softmax_backward_data", grad_output, output)
    grad_output, output = _wide("log_softmax_backward", grad_output, output)
    return (grad_output - output.exp() * grad_output.sum(dim, keepdim=True)).to(input_dtype)


@with_out
def max_pool2d_with_indices_backward(grad_output: Tensor, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
                                     ceil_mode: bool, indices: Tensor) -> Tensor:
    """The gradient of max_pool2d, from the places of the largest elements in each (H, W)."""
    flat = input.flatten(-2).masked_fill(treadle.ones((), dtype=treadle.bool), 0)  # on the tape, with a gradient of zeros
    return flat.scatter_add(-1, indices.flatten(-2), grad_output.flatten(-2)).reshape(input.shape)


# -- resizing ------------------------------------------------------------------------------------------------------------------------
def _antialiased(mode: str) -> Any:
    def upsample(input: Tensor, output_size: Sequence[int] | None, align_corners: bool, scales_h: Any = None,
                 scales_w: float | None = None, scale_factors: Sequence[float] | None = None) -> Tensor:
        if isinstance(scales_h, Sequence):
            scale_factors, scales_h = scales_h, None
        if output_size is None:
            return treadle.nn.functional.interpolate(input, None, scale_factors, mode, align_corners, antialias=True)
        return resized(input, tuple(output_size), (scales_h, scales_w), mode, align_corners, True)
    upsample.__name__ = upsample.__qualname__ = f"_upsample_{mode}2d_aa"
    upsample.__doc__ = f"`interpolate` by {mode} antialiased weights, to a size or, where that is None, by two factors."
    return upsample


_upsample_bilinear2d_aa, _upsample_bicubic2d_aa = _antialiased("bilinear"), _antialiased("bicubic")


# -- indexing ------------------------------------------------------------------------------------------------------------------------
def _inside(input: Tensor, indices: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Indices with those out of range moved to the ends; None takes a whole axis."""
    for i in indices:
        if i is not None and i.dtype not in (treadle.int32, treadle.int64):
            raise RuntimeError(f"_unsafe_masked_index: found unexpected index type {i.dtype.title}")
    return tuple([slice(None) if i is None else i.clamp(-n, n - 1) for i, n in zip(indices, input.shape, strict=False)])


def _unsafe_masked_index(input: Tensor, mask: Tensor, indices: Sequence[Tensor | None], fill: Any) -> Tensor:
    """input[indices] where the mask holds, `fill` elsewhere, where indices may be out of range."""
    return input[_inside(input, indices)].masked_fill(mask == 0, fill)


def _unsafe_masked_index_put_accumulate(input: Tensor, mask: Tensor, indices: Sequence[Tensor], values: Tensor) -> Tensor:
    """input with values added at indices where the mask holds."""
    if not input.numel():
        return input.clone()
    return input.index_put(_inside(input, indices), values.masked_fill(mask == 0, 0), accumulate=True)


@with_out
def _chunk_cat(tensors: Sequence[Tensor], dim: int, num_chunks: int) -> Tensor:
    """Each tensor padded with zeros along `dim` to `num_chunks` equal chunks; the k-th chunks of all flattened and joined as row k."""
    if num_chunks < 1:
        raise RuntimeError(f"_chunk_cat expects positive num_chunks, got {num_chunks}")
    if not tensors:
        raise RuntimeError("_chunk_cat expects a non-empty input tensor list")
    least = min(x.dim() for x in tensors)
    if dim < 0 and any(x.dim() != least for x in tensors):
        raise RuntimeError(f"_chunk_cat expects non-negative dim when input tensors have different ndims, got {dim}")
    if dim >= least:
        raise RuntimeError(f"_chunk_cat expects dim < ndim for all input tensors, got {dim}")
    if any(x.dtype is not tensors[0].dtype for x in tensors):
        raise RuntimeError(f"_chunk_cat expects all input tensors with the same dtype, got {[x.dtype for x in tensors]}")
    if not all(x.numel() for x in tensors):
        raise RuntimeError("_chunk_cat expects non-empty tensor")
    own = normalize_dim("_chunk_cat", dim, tensors[0].dim())
    if any(x.shape[:own] != tensors[0].shape[:own] for x in tensors):
        raise RuntimeError("_chunk_cat expects same sizes of 0,...,dim-1 dimensions for all tensors")
    rows = []
    for x in tensors:
        missing = -x.shape[own] % num_chunks
        padded = treadle.nn.functional.pad(x, (*(0, 0) * (x.dim() - own - 1), 0, missing)) if missing else x
        rows.append(padded.reshape(*x.shape[:own], num_chunks, -1))
    return treadle.cat(rows, own + 1)


# -- segments ------------------------------------------------------------------------------------------------------------------------
def _places(count: int, lengths: np.ndarray | None, offsets: np.ndarray | None, unsafe: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each row of segments: the segment of each of `count` elements, one more where there is none; and the lengths."""
    if lengths is None:
        assert offsets is not None
        starts, lengths = offsets[:, :-1], np.diff(offsets, axis=1)
    else:
        starts = np.cumsum(lengths, axis=1) - lengths
        if not unsafe and ((lengths < 0).any() or (lengths.sum(1) != count).any()):
            raise RuntimeError(f"segment_reduce(): Expected all rows of lengths along axis to sum to data.size(axis), {count}, and to be "
                               "at least 0")
    found = np.full((len(lengths), count), lengths.shape[1])
    for row, (begin, size) in enumerate(zip(starts, lengths, strict=True)):
        for segment, (at, n) in enumerate(zip(begin, size, strict=True)):
            found[row, at:at + n] = segment
    return found, lengths


_REDUCERS = {"sum": ("sum", 0.0), "mean": ("sum", 0.0), "prod": ("prod", 1.0), "max": ("amax", -math.inf), "min": ("amin", math.inf)}


def segment_reduce(data: Tensor, reduce: str, *, lengths: Tensor | None = None, indices: Tensor | None = None,
                   offsets: Tensor | None = None, axis: int = 0, unsafe: bool = False, initial: float | None = None) -> Tensor:
    """Segments of an axis reduced to one element each: "sum", "mean", "max", "min" or "prod".

    Either `lengths` (..., S) or `offsets` (..., S + 1) says where they are; axes before `axis` are those of theirs. `initial` starts each
    reduction. RuntimeError unless lengths add up to the axis, but with `unsafe`.
    """
    need_real("segment_reduce", data._data.type)
    if indices is not None:
        raise RuntimeError("segment_reduce(): indices based reduction is not supported yet.")
    given = offsets if lengths is None else lengths
    if given is None:
        raise RuntimeError("segment_reduce(): Either lengths or offsets must be defined.")
    if reduce not in _REDUCERS:
        raise RuntimeError(f"segment_reduce(): unsupported reduction {reduce!r}, expected one of {', '.join(_REDUCERS)}")
    axis = normalize_dim("segment_reduce", axis, data.dim())
    if given.dim() != axis + 1:
        raise RuntimeError(f"segment_reduce(): Expected {axis + 1} axes of lengths or offsets, as axis is {axis}, but got {given.dim()}")
    table = given.detach().cpu().numpy().reshape(math.prod(given.shape[:-1]), given.shape[-1])
    places, sizes = _places(data.shape[axis], None if lengths is None else table, table if lengths is None else None, unsafe)
    rows, segments = sizes.shape
    kind, empty = _REDUCERS[reduce]
    rest = data.shape[axis + 1:]
    start = data.new_full((rows, segments + 1, *rest), empty if initial is None else initial)
    index = treadle.from_numpy(places).to(data.device).reshape(rows, -1, *(1,) * len(rest)).expand(rows, data.shape[axis], *rest)
    found = start.scatter_reduce(1, index, data.reshape(rows, data.shape[axis], *rest), kind)[:, :segments]
    if reduce == "mean":
        size = treadle.from_numpy(np.ascontiguousarray(sizes)).to(device=data.device, dtype=data.dtype)
        size = size.reshape(rows, segments, *(1,) * len(rest))
        found = treadle.where(size > 0, found / size.clamp(min=1), math.nan if initial is None else found)
    return found.reshape(*data.shape[:axis], segments, *rest)


_segment_reduce = segment_reduce


# -- hashes --------------------------------------------------------------------------------------------------------------------------
@with_out
def hash_tensor(input: Tensor, dim: int | Sequence[int] | None = (), *, keepdim: bool = False, mode: int = 0) -> Tensor:
    """The exclusive or of elements over axes, all by default, as uint64: of the bits of floats in float64, of integers in int64."""
    if mode != 0:
        raise RuntimeError(f"hash_tensor: Unknown mode: {mode}, only 0 is supported")
    wide = (input.double() if input.dtype.is_floating_point else input.long()).contiguous()
    dims = normalize_dims("hash_tensor", dim if isinstance(dim, int) else tuple(dim or ()), input.dim())
    if not input.numel() and dim in (None, ()):
        raise RuntimeError("hash_tensor: Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim with the "
                           "'dim' argument.")
    for d in dims if input.dim() else ():
        if not input.shape[d]:
            raise IndexError(f"hash_tensor: Expected reduction dim {d} to have non-zero size.")
    bits = wide.view(treadle.int64)
    kept = [d for d in range(input.dim()) if d not in dims]
    rows = bits.reshape(1) if not input.dim() else bits.permute(*kept, *dims).reshape(
        *[input.shape[d] for d in kept], math.prod([input.shape[d] for d in dims]))
    while rows.shape[-1] > 1:
        half = rows.shape[-1] // 2
        joined = rows[..., :half] ^ rows[..., half:2 * half]
        rows = treadle.cat([joined, rows[..., 2 * half:]], -1)
    found = rows.sum(-1).view(treadle.uint64)
    return found.reshape([1 if d in dims else n for d, n in enumerate(input.shape)]) if keepdim else found


guard(globals(), __all__)
