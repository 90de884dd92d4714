"""Pooling over windows; part of `treadle.nn.functional`."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import index
from typing import Any, TypeAlias

import treadle
from treadle import ops
from treadle.arguments import misfit
from treadle.convolution import spread
from treadle.functions import tensor_argument
from treadle.ir.ops.pooling import Windows
from treadle.modes import listed
from treadle.tensor import Tensor

Ints: TypeAlias = int | Sequence[int]
Pooled: TypeAlias = tuple[Tensor, Tensor]


def _check_input(name: str, input: Tensor, rank: int, channels: bool = True) -> None:
    """RuntimeError for other ranks, and for sizes of 0 except that of the batch, and of the channels unless there must be some."""
    if tensor_argument(name, input).dim() not in (rank + 1, rank + 2):
        kind = IndexError if input.dim() < 3 and name in ("avg_pool2d", "lp_pool2d") else RuntimeError
        raise kind(f"{name}(): Expected {rank + 1}D or {rank + 2}D input, but got input of shape {list(input.shape)}")
    if any(n == 0 for n in input.shape[1 if input.dim() == rank + 2 or not channels else 0:]):
        raise RuntimeError(f"{name}(): Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with optional 0 dim batch size for input, "
                           f"but got: {list(input.shape)}")


def _window(name: str, input: Tensor, rank: int, kernel: Ints, stride: Ints | None, padding: Ints, dilation: Ints,
            ceil_mode: bool) -> Windows:
    """The windows of a pooling function; RuntimeError in PyTorch's words for impossible ones."""
    _check_input(name, input, rank)
    k = spread(name, "kernel_size", kernel, rank)
    s = k if stride is None or stride == () or stride == [] else spread(name, "stride", stride, rank)
    p, d = spread(name, "padding", padding, rank), spread(name, "dilation", dilation, rank)
    if min(k) <= 0:
        raise RuntimeError(f"{name}: kernel size should be greater than zero, but got {list(k)}")
    if min(s) <= 0:
        raise RuntimeError(f"{name}: stride should be greater than zero, but got {list(s)}")
    if min(d) <= 0:
        raise RuntimeError(f"{name}: dilation should be greater than zero, but got {list(d)}")
    for kernel_size, pad, gap in zip(k, p, d, strict=True):
        if pad < 0 or pad > ((kernel_size - 1) * gap + 1) // 2:
            raise RuntimeError(f"{name}: pad should be at least zero and at most half of effective kernel size, but got pad={pad}, "
                               f"kernel_size={kernel_size} and dilation={gap}")
    size = tuple([_count(*of, ceil_mode) for of in zip(input.shape[-rank:], k, s, p, d, strict=True)])
    if min(size) < 1:
        raise RuntimeError(f"{name}: Given input size {list(input.shape[-rank:])}, calculated output size {list(size)}: "
                           f"Output size is too small")
    return Windows(k, s, p, d, size)


def _count(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    room = n + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= n + padding else count  # the last window must start inside the input


def _empty(input: Tensor, size: tuple[int, ...], dtype: Any = None) -> Tensor:
    shape = (*input.shape[:-len(size)], *size)
    return input.reshape(-1)[:0].reshape(shape).to(dtype or input.dtype)  # no elements, but a place on the tape


def _max_pool(name: str, input: Tensor, rank: int, kernel: Ints, stride: Ints | None, padding: Ints, dilation: Ints, ceil_mode: bool,
              return_indices: bool) -> Any:
    w = _window(name, input, rank, kernel, stride, padding, dilation, ceil_mode)
    if not input.numel():
        values = _empty(input, w.size)
        return (values, _empty(input, w.size, treadle.int64)) if return_indices else values
    values, place = ops.max_pool(input, *w)
    return (values, ops.max_pool_index(place, tuple(input.shape), *w)) if return_indices else values


def max_pool1d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """Maxima over windows of (N, C, L) or (C, L); with return_indices also their positions."""
    return _max_pool("max_pool1d", input, 1, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """Maxima over windows of (N, C, H, W) or (C, H, W); with return_indices also their positions in H * W."""
    return _max_pool("max_pool2d", input, 2, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@listed
def max_pool3d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """Maxima over windows of (N, C, D, H, W) or (C, D, H, W); with return_indices also their positions in D * H * W."""
    return _max_pool("max_pool3d", input, 3, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(name: str, input: Tensor, rank: int, kernel: Ints, stride: Ints | None, padding: Ints, ceil_mode: bool,
              count_include_pad: bool, divisor: int | None) -> Tensor:
    w = _window(name, input, rank, kernel, stride, padding, 1, ceil_mode)
    if rank == 3 and any(n < k for n, k in zip(input.shape[-rank:], w.kernel, strict=True)):
        raise RuntimeError(f"{name}: input of size {list(input.shape)} is smaller than the kernel, of size {list(w.kernel)}")
    divisor = None if divisor is None else index(divisor)
    if divisor == 0:
        raise RuntimeError(f"{name}: divisor must be not zero")
    if not input.numel():
        return _empty(input, w.size)
    return ops.avg_pool(input, *w, count_include_pad=count_include_pad, divisor=divisor or 0)


def avg_pool1d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
               count_include_pad: bool = True) -> Tensor:
    """Averages over windows of (N, C, L) or (C, L)."""
    return _avg_pool("avg_pool1d", input, 1, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:
    """Averages over windows of (N, C, H, W) or (C, H, W); sums are divided by divisor_override if given."""
    return _avg_pool("avg_pool2d", input, 2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@listed
def avg_pool3d(input: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:
    """Averages over windows of (N, C, D, H, W) or (C, D, H, W); sums are divided by divisor_override if given."""
    return _avg_pool("avg_pool3d", input, 3, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _target(name: str, input: Tensor, rank: int, output_size: Any) -> tuple[int, ...]:
    if output_size is None or isinstance(output_size, str):
        raise misfit(name, "output_size", 2, "int or tuple of ints", output_size)
    if rank > 1 and tensor_argument(name, input).dim() <= rank:
        several = isinstance(output_size, tuple | list)
        kind = ValueError if several or (input.dim() == rank and "avg" in name) else RuntimeError if "max" in name else IndexError
        raise kind(f"{name}(): Input dimension should be at least {rank + 1}, got an input of shape {list(input.shape)}")
    _check_input(name, input, rank, False)
    given = (output_size,) * rank if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(given) != rank:
        kind = ValueError if rank > 1 and len(given) >= input.dim() else RuntimeError
        raise kind(f"{name}: output_size must have {rank} elements, got {list(given)}")
    size = tuple([n if o is None else index(o) for o, n in zip(given, input.shape[-rank:], strict=True)])
    if min(size) < 0:
        raise RuntimeError(f"{name}: elements of output_size must be greater than or equal to 0, but received {list(size)}")
    return size


def _blocks(input: Tensor, size: tuple[int, ...]) -> Windows | None:
    """Adaptive windows as ordinary ones, where they divide the input; not along sequences, whose programs are the same for all lengths."""
    sizes = tuple(input.shape[-len(size):])
    if (len(size) == 1 and size != sizes) or any(n % o for n, o in zip(sizes, size, strict=True)):
        return None
    kernel = tuple([n // o for n, o in zip(sizes, size, strict=True)])
    return Windows(kernel, kernel, (0,) * len(size), (1,) * len(size), size)


def _adaptive_avg(name: str, input: Tensor, rank: int, output_size: Any) -> Tensor:
    size = _target(name, input, rank, output_size)
    if not input.numel() or not min(size):
        return _empty(input, size)
    if set(size) == {1}:
        return input.mean(tuple(range(-rank, 0)), True)
    w = _blocks(input, size)
    return ops.adaptive_avg_pool(input, size) if w is None else ops.avg_pool(input, *w, count_include_pad=True, divisor=0)


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """(N, C, L) -> (N, C, output_size): averages over as many windows as wanted."""
    return _adaptive_avg("adaptive_avg_pool1d", input, 1, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """(N, C, H, W) -> (N, C, *output_size); None keeps a size."""
    return _adaptive_avg("adaptive_avg_pool2d", input, 2, output_size)


@listed
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """(N, C, D, H, W) -> (N, C, *output_size); None keeps a size."""
    return _adaptive_avg("adaptive_avg_pool3d", input, 3, output_size)


def _adaptive_max(name: str, input: Tensor, rank: int, output_size: Any, return_indices: bool) -> Any:
    size = _target(name, input, rank, output_size)
    if not input.numel() or not min(size):
        values, index = _empty(input, size), _empty(input, size, treadle.int64)
    else:
        w = _blocks(input, size)
        if w is not None and sum(w.kernel) <= 16:
            values, place = ops.max_pool(input, *w)
            index = ops.max_pool_index(place, tuple(input.shape), *w) if return_indices else place
        else:
            values, index = ops.adaptive_max_pool(input, size)
    return (values, index) if return_indices else values


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """(N, C, L) -> (N, C, output_size): maxima over as many windows as wanted, and their positions if asked."""
    return _adaptive_max("adaptive_max_pool1d", input, 1, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """(N, C, H, W) -> (N, C, *output_size); None keeps a size."""
    return _adaptive_max("adaptive_max_pool2d", input, 2, output_size, return_indices)


@listed
def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """(N, C, D, H, W) -> (N, C, *output_size); None keeps a size."""
    return _adaptive_max("adaptive_max_pool3d", input, 3, output_size, return_indices)


def _lp_pool(rank: int, input: Tensor, norm_type: float, kernel: Ints, stride: Ints | None, ceil_mode: bool) -> Tensor:
    powers = input.pow(norm_type)
    mean = _avg_pool(f"lp_pool{rank}d", powers, rank, kernel, stride, 0, ceil_mode, True, None)
    count = math.prod(spread(f"lp_pool{rank}d", "kernel_size", kernel, rank))
    return (mean.sign() * mean.abs().relu() * count).pow(1.0 / norm_type)


def lp_pool1d(input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False) -> Tensor:
    """(sum of x ** norm_type) ** (1 / norm_type) over windows of (N, C, L)."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False) -> Tensor:
    """(sum of x ** norm_type) ** (1 / norm_type) over windows of (N, C, H, W)."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(input: Tensor, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False) -> Tensor:
    """(sum of x ** norm_type) ** (1 / norm_type) over windows of (N, C, D, H, W)."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


def _unpool_size(name: str, input: Tensor, rank: int, window: Windows, output_size: Sequence[int] | None) -> tuple[int, ...]:
    default = [(n - 1) * s + k - 2 * p
               for n, k, s, p in zip(input.shape[-rank:], window.kernel, window.stride, window.padding, strict=True)]
    if output_size is None:
        return tuple(default)
    wanted = tuple(output_size)[-rank:]
    for d, (n, base, s) in enumerate(zip(wanted, default, window.stride, strict=True)):
        if not base - s < n < base + s:
            raise ValueError(f"{name}: invalid output_size \"{list(wanted)}\" (dim {d} must be between {base - s} and {base + s})")
    return wanted


def _first(name: str, what: str, value: Ints, rank: int) -> tuple[int, ...]:
    """As `spread`, for what may have more axes than are looked at."""
    return spread(name, what, value[:rank] if isinstance(value, tuple | list) else value, rank)


def _max_unpool(name: str, input: Tensor, indices: Tensor, rank: int, kernel: Ints, stride: Ints | None, padding: Ints,
                output_size: Sequence[int] | None) -> Tensor:
    given = len(kernel) if isinstance(kernel, tuple | list) else rank
    for what, value in (("input", input.shape), ("stride", stride), ("padding", padding)):
        if (len(value) if isinstance(value, tuple | list) else given if value is None else rank) < given:
            raise IndexError(f"{name}: expected {what} of at least {given} axes, got {value}")
    if output_size is not None and len(output_size) not in (given, given + 2):
        raise ValueError(f"{name}: output_size should be a sequence containing {given} or {given + 2} elements, but it has a length of "
                         f"'{len(output_size)}'")
    k = spread(name, "kernel_size", kernel, rank)
    s = k if stride is None else _first(name, "stride", stride, rank)
    window = Windows(k, s, _first(name, "padding", padding, rank), (1,) * rank, ())
    size = _unpool_size(name, input, rank, window, output_size)
    _check_input(name, input, rank)
    if indices.dtype is not treadle.int64:
        raise RuntimeError(f"elements in indices should be type int64 but got: {indices.dtype}")
    if indices.shape != input.shape:
        raise RuntimeError(f"Expected shape of indices to be same as that of the input tensor ({list(input.shape)}) but got indices tensor "
                           f"with shape: {list(indices.shape)}")
    lead = tuple(input.shape[:-rank])
    flat, rows = input.new_zeros((*lead, math.prod(size))), (*lead, math.prod(input.shape[-rank:]))
    return flat.scatter(len(lead), indices.reshape(rows), input.reshape(rows)).reshape(*lead, *size)


def max_unpool1d(input: Tensor, indices: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0,
                 output_size: Any = None) -> Tensor:
    """Zeros of the size before `max_pool1d`, with input at its indices."""
    return _max_unpool("max_unpool1d", input, indices, 1, kernel_size, stride, padding, output_size)


@listed
def max_unpool2d(input: Tensor, indices: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0,
                 output_size: Any = None) -> Tensor:
    """Zeros of the size before `max_pool2d`, with input at its indices."""
    return _max_unpool("max_unpool2d", input, indices, 2, kernel_size, stride, padding, output_size)


@listed
def max_unpool3d(input: Tensor, indices: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0,
                 output_size: Any = None) -> Tensor:
    """Zeros of the size before `max_pool3d`, with input at its indices."""
    return _max_unpool("max_unpool3d", input, indices, 3, kernel_size, stride, padding, output_size)


# PyTorch's names for the forms that always give (values, indices).
max_pool1d_with_indices: Callable[..., Pooled] = partial(max_pool1d, return_indices=True)
max_pool2d_with_indices: Callable[..., Pooled] = partial(max_pool2d, return_indices=True)
max_pool3d_with_indices: Callable[..., Pooled] = partial(max_pool3d, return_indices=True)
adaptive_max_pool1d_with_indices: Callable[..., Pooled] = partial(adaptive_max_pool1d, return_indices=True)
adaptive_max_pool2d_with_indices: Callable[..., Pooled] = partial(adaptive_max_pool2d, return_indices=True)
adaptive_max_pool3d_with_indices: Callable[..., Pooled] = partial(adaptive_max_pool3d, return_indices=True)
