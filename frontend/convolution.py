"""Convolutions of tensors, and their windows as columns, with PyTorch's names and arguments."""
from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import treadle
from treadle import ops
from treadle.functions import tensor_argument
from treadle.tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

Ints = tuple[int, ...]
Sizes = int | Sequence[int]


def spread(op: str, what: str, value: Any, n: int) -> Ints:
    """An int, or one per spatial axis, as a tuple. RuntimeError for another number of them, TypeError for what is no integer."""
    try:
        found = tuple(map(operator.index, value)) if isinstance(value, Iterable) else (operator.index(value),)
    except TypeError:
        raise TypeError(f"{op}(): argument '{what}' must be an int or a tuple of ints, got {value!r}") from None
    if len(found) not in (1, n):
        raise RuntimeError(f"{op}: expected {what} to be a single integer value or a list of {n} values, got {what}={list(found)}")
    return found * n if len(found) == 1 else found


def _batched(name: str, input: Tensor, weight: Tensor, n: int) -> Tensor:
    tensor_argument(name, input)
    tensor_argument(name, weight, "weight", 2)
    if weight.dim() != n + 2:
        raise RuntimeError(f"{name}: expected weight with {n + 2} dimensions, but got weight of size {list(weight.shape)}")
    if input.dim() not in (n + 1, n + 2):
        raise RuntimeError(f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, but got input of size: "
                           f"{list(input.shape)}")
    return input if input.dim() == n + 2 else input.unsqueeze(0)


def _finish(name: str, input: Tensor, weight: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
    """y with the bias, and unbatched as the input is. In mixed precision the bias takes the result's type."""
    if bias is not None:
        if tensor_argument(name, bias, "bias", 3).dtype is not weight.dtype and name != "conv_transpose1d":  # it takes any, as PyTorch's
            raise RuntimeError(f"{name}: Weight type ({weight.dtype}) and bias type ({bias.dtype}) should be the same")
        if tuple(bias.shape) != (y.shape[1],):
            raise RuntimeError(f"{name}: expected bias to be 1-dimensional with {y.shape[1]} elements, but got bias of size "
                               f"{list(bias.shape)} instead")
        y = y + bias.reshape(1, -1, *(1,) * (y.dim() - 2)).to(y.dtype)
    return y if input.dim() == y.dim() else y.squeeze(0)


def _same(x: Tensor, kernel: Ints, stride: Ints, dilation: Ints) -> tuple[Tensor, Ints]:
    """x and the padding that keeps its size; an odd element more goes to the right."""
    if any(s != 1 for s in stride):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(t % 2 for t in total):
        widths = [side for t in reversed(total) for side in (0, t % 2)]
        x = treadle.nn.functional.pad(x, widths)
    return x, tuple([t // 2 for t in total])


def _convolve(n: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: str | Sizes, dilation: Sizes,
              groups: int) -> Tensor:
    name = f"conv{n}d"
    x = _batched(name, input, weight, n)
    strides, dilations = spread(name, "stride", stride, n), spread(name, "dilation", dilation, n)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"{name}: Invalid padding string: '{padding}'")
        x, widths = _same(x, tuple(weight.shape[2:]), strides, dilations) if padding == "same" else (x, (0,) * n)
    else:
        widths = spread(name, "padding", padding, n)
    return _finish(name, input, weight, ops.convolution(x, weight, strides, widths, dilations, groups), bias)


def conv1d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: str | Sizes = 0,
           dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """input (N, C, L) or (C, L), weight (O, C / groups, K), bias (O) -> (N, O, (L + 2 padding - dilation (K - 1) - 1) // stride + 1).

    padding: zeros on both sides, or "same" or "valid".
    """
    return _convolve(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: str | Sizes = 0,
           dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """input (N, C, H, W) or (C, H, W), weight (O, C / groups, KH, KW), bias (O) -> (N, O, H', W'), sizes as in `conv1d`."""
    return _convolve(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: str | Sizes = 0,
           dilation: Sizes = 1, groups: int = 1) -> Tensor:
    """input (N, C, D, H, W) or (C, D, H, W), weight (O, C / groups, KD, KH, KW) -> (N, O, D', H', W'), sizes as in `conv1d`."""
    return _convolve(3, input, weight, bias, stride, padding, dilation, groups)


def _transpose(n: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes, output_padding: Sizes,
               groups: int, dilation: Sizes) -> Tensor:
    name = f"conv_transpose{n}d"
    x = _batched(name, input, weight, n)
    strides, widths = spread(name, "stride", stride, n), spread(name, "padding", padding, n)
    extra, dilations = spread(name, "output_padding", output_padding, n), spread(name, "dilation", dilation, n)
    if any(e < 0 or e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise RuntimeError(f"output padding must be smaller than either stride or dilation, but got output_padding: {list(extra)} "
                           f"stride: {list(strides)} dilation: {list(dilations)}")
    sizes = [(m - 1) * s - 2 * p + d * (k - 1) + e + 1
             for m, s, p, d, k, e in zip(x.shape[2:], strides, widths, dilations, weight.shape[2:], extra, strict=True)]
    if any(m <= 0 for m in sizes):
        raise RuntimeError(f"{name}: Given input size per channel: {list(x.shape[2:])}. Calculated output size per channel: {sizes}. "
                           "Output size is too small")
    shape = (x.shape[0], weight.shape[1] * groups, *sizes)
    return _finish(name, input, weight, ops.convolution_input(x, weight, shape, strides, widths, dilations, groups), bias)


def conv_transpose1d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
                     output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1) -> Tensor:
    """input (N, C, L) or (C, L), weight (C, O / groups, K), bias (O) -> (N, O, L').

    L' = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1.
    """
    return _transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
                     output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1) -> Tensor:
    """input (N, C, H, W), weight (C, O / groups, KH, KW), bias (O) -> (N, O, H', W'), sizes as in `conv_transpose1d`."""
    return _transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
                     output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1) -> Tensor:
    """input (N, C, D, H, W), weight (C, O / groups, KD, KH, KW), bias (O) -> (N, O, D', H', W'), sizes as in `conv_transpose1d`."""
    return _transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _blocks(name: str, sizes: Sequence[int], kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Ints:
    found = tuple([(n + 2 * p - d * (k - 1) - 1) // s + 1
                   for n, p, d, k, s in zip(sizes, padding, dilation, kernel, stride, strict=True)])
    if any(m <= 0 for m in found):
        raise RuntimeError(f"{name}: Given an input with spatial size {list(sizes)}, kernel_size={kernel}, dilation={dilation}, "
                           f"padding={padding}, stride={stride}, the array of sliding blocks would have shape {found}; "
                           "there must be one at least along each axis")
    return found


def _window_layout(shape: Sequence[int], kernel: Ints, out: Ints, stride: Ints, dilation: Ints) -> tuple[Ints, Ints]:
    """Shape and strides of the windows [N, C, KH, KW, PH, PW] in contiguous images of `shape`."""
    n, c, h, w = shape
    return ((n, c, *kernel, *out),
            (c * h * w, h * w, w * dilation[0], dilation[1], w * stride[0], stride[1]))


def unfold(input: Tensor, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> Tensor:
    """The windows of images (N, C, H, W) or (C, H, W) as columns: (N, C KH KW, windows)."""
    if tensor_argument("unfold", input).dim() not in (3, 4):
        kind = IndexError if input.dim() < 3 else RuntimeError
        raise kind(f"unfold: Expected 3D or 4D (batch mode) tensor, but got input of size: {list(input.shape)}")
    kernel, dilations, widths, strides = (spread("unfold", name, v, 2) for name, v in (
        ("kernel_size", kernel_size), ("dilation", dilation), ("padding", padding), ("stride", stride)))
    for what, values in (("kernel size", kernel), ("stride", strides), ("dilation", dilations)):
        if min(values) <= 0:
            raise RuntimeError(f"unfold: {what} should be greater than zero, but got {list(values)}")
    if min(widths) < 0:
        raise RuntimeError(f"unfold: padding should be non-negative, but got {list(widths)}")
    x = input if input.dim() == 4 else input.unsqueeze(0)
    out = _blocks("unfold", x.shape[2:], kernel, strides, widths, dilations)
    if any(widths):
        x = ops.pad(x, 0.0, (0, 0, *widths), (0, 0, *widths))
    layout = _window_layout(x.shape, kernel, out, strides, dilations)
    columns = ops.as_strided(x, *layout, 0).reshape(x.shape[0], x.shape[1] * kernel[0] * kernel[1], out[0] * out[1])
    return columns if input.dim() == 4 else columns.squeeze(0)


def fold(input: Tensor, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> Tensor:
    """Columns (N, C KH KW, windows) added up to images (N, C, H, W): the reverse of `unfold`, where windows overlap a sum."""
    if tensor_argument("fold", input).dim() not in (2, 3):
        raise RuntimeError(f"fold: Expected 2D or 3D (batch mode) tensor for input, but got input of size: {list(input.shape)}")
    kernel, dilations, widths, strides, sizes = (spread("fold", name, v, 2) for name, v in (
        ("kernel_size", kernel_size), ("dilation", dilation), ("padding", padding), ("stride", stride), ("output_size", output_size)))
    x = input if input.dim() == 3 else input.unsqueeze(0)
    area = kernel[0] * kernel[1]
    if x.shape[1] % area:
        raise RuntimeError("fold: Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
                           f"input.size(1)={x.shape[1]} and kernel_size={kernel}.")
    out = _blocks("fold", sizes, kernel, strides, widths, dilations)
    if x.shape[2] != out[0] * out[1]:
        raise RuntimeError(f"fold: Given output_size={sizes}, kernel_size={kernel}, dilation={dilations}, padding={widths}, "
                           f"stride={strides}, expected size of input's dimension 2 to be the number of sliding blocks "
                           f"{out[0]} * {out[1]} = {out[0] * out[1]}, but got input.size(2)={x.shape[2]}.")
    shape = (x.shape[0], x.shape[1] // area, sizes[0] + 2 * widths[0], sizes[1] + 2 * widths[1])
    windows, places = _window_layout(shape, kernel, out, strides, dilations)
    whole: Any = treadle.zeros(shape, dtype=x.dtype, device=x.device)
    image = ops.as_strided_add(whole, x.reshape(windows), windows, places, 0)
    image = image[:, :, widths[0]:widths[0] + sizes[0], widths[1]:widths[1] + sizes[1]]
    return image if input.dim() == 3 else image.squeeze(0)
