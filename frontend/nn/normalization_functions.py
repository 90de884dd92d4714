"""Normalization over batches, groups and channels; part of `treadle.nn.functional`."""
from __future__ import annotations

import math
from typing import Any

import treadle
from treadle import ops
from treadle.ir.ops.common import need_float
from treadle.nn.pooling_functions import avg_pool2d, avg_pool3d
from treadle.tensor import Tensor


def _need_several(name: str, input: Tensor, per_channel: int) -> None:
    if per_channel == 1:
        raise ValueError(f"Expected more than 1 {name} when training, got input size {treadle.Size(input.shape)}")


def _affine(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    """The operands that scale and shift channels; a bias alone comes with a weight of ones."""
    if weight is None and bias is not None:
        weight = treadle.ones_like(bias)
    return tuple([v for v in (weight, bias) if v is not None])


def _update(running: Tensor | None, new: Tensor, momentum: Any) -> None:
    if running is not None:
        new = new.reshape(running.shape).to(running.dtype)
        running.copy_(running * (1 - momentum) + new * momentum)


def _update_running(input: Tensor, mean: Tensor | None, var: Tensor | None, momentum: Any) -> None:
    """Move running statistics towards the batch's: mean, and variance over count - 1. The plan computes what the result needs too once."""
    with treadle.no_grad():
        x = input.float() if input.dtype.itemsize == 2 else input
        dims = tuple([d for d in range(input.dim()) if d != 1])
        _update(mean, ops.mean(x, dims, True, None), momentum)
        _update(var, ops.var(x, dims, 1, True), momentum)


def _need_both(running_mean: Tensor | None, running_var: Tensor | None) -> None:
    if (running_mean is None) is not (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")


def _check_statistics(input: Tensor, running_mean: Tensor, running_var: Tensor, *weight: Tensor) -> None:
    """RuntimeError unless they have the dtype of the input, or are float32 beside one of 16 bits, and all are alike."""
    dtype = input._data.type.dtype
    need_float("batch_norm", input._data.type)
    for name, t in (("running_mean", running_mean), ("running_var", running_var), *(("weight", w) for w in weight)):
        have = t._data.type.dtype
        if have is not dtype and not (dtype.itemsize == 2 and have is treadle.float32 is running_mean._data.type.dtype):
            raise RuntimeError(f"batch_norm: mixed dtype: {name} of {have.title} for an input of {dtype.title}")
        if running_mean._data.type.dtype is not have:
            raise RuntimeError(f"batch_norm: mixed dtype: expect parameter to have scalar type of {have.title}")


def batch_norm(input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
               bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    """Each channel of input (N, C, ...) to mean 0 and variance 1, scaled by weight (C) and shifted by bias (C).

    When training, with the batch's own statistics, towards which running_mean and running_var (C) move by `momentum`;
    otherwise with the running ones. ValueError for a single value per channel when training.
    """
    if input.dim() == 1 and not input.numel():
        return input.clone()
    if input.dim() < 2:
        raise RuntimeError(f"batch_norm: Expected at least 2 dimensions for input tensor but received {input.dim()}")
    if not training and (running_mean is None or running_var is None):
        raise RuntimeError("batch_norm: Expected running_mean and running_var to be defined when training=False")
    _need_both(running_mean, running_var)
    for name, value in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if value is not None and value.numel() != input.shape[1]:
            raise RuntimeError(f"batch_norm: {name} should contain {input.shape[1]} elements not {value.numel()}")
        if value is not None and value.dim() != 1 and name.startswith("running"):
            raise RuntimeError(f"batch_norm: {name} should be a vector of {input.shape[1]} elements, got one of size {list(value.shape)}")
    if eps < 0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    affine = _affine(input, *[x if x is None else x.reshape(-1) for x in (weight, bias)])
    if not training:
        return ops.batch_norm_inference(input, running_mean, running_var, eps, *affine)
    _need_several("value per channel", input, input.numel() // max(input.shape[1], 1))
    if eps <= 0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if running_mean is not None and running_var is not None and running_mean._data.type.dtype is not input._data.type.dtype:
        _check_statistics(input, running_mean, running_var, *affine[:1])
    result = ops.batch_norm(input, eps, *affine)
    if not input.numel():  # nothing to learn from
        return result
    _update_running(input, running_mean, running_var, momentum)
    return result


def instance_norm(input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
                  bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    """Each channel of each sample of input (N, C, ...) to mean 0 and variance 1; running statistics average over samples."""
    affine = _affine(input, weight, bias)
    _need_both(running_mean, running_var)
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if value is not None and value.dim() != 1:
            raise RuntimeError(f"instance_norm: {name} should be a vector, got one of size {list(value.shape)}")
    if running_mean is not None and running_var is not None and running_mean.dtype is input.dtype is not running_var.dtype:
        raise RuntimeError(f"instance_norm: expected running_var to be of {input.dtype}, as running_mean is, but got {running_var.dtype}")
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError("instance_norm: Expected running_mean and running_var to be defined when use_input_stats is false")
        dtype = affine[0].dtype if affine else input.dtype
        return ops.batch_norm_inference(input, running_mean.to(dtype), running_var.to(dtype), eps, *affine)
    _need_several("spatial element", input, math.prod(input.shape[2:]))
    if running_mean is not None and not input.shape[0]:
        raise IndexError(f"instance_norm: running statistics need a batch that is not empty, got input of shape {list(input.shape)}")
    result = ops.group_norm(input, eps, *affine, groups=input.shape[1])
    if running_mean is not None or running_var is not None:
        with treadle.no_grad():
            x = input.float() if input.dtype.itemsize == 2 else input
            dims = tuple(range(2, input.dim()))
            _update(running_mean, x.mean(dims).mean(0), momentum)
            _update(running_var, x.var(dims).mean(0), momentum)
    return result


def group_norm(input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Groups of channels of each sample of input (N, C, ...) to mean 0 and variance 1, scaled by weight (C), shifted by bias (C)."""
    if input.dim() < 2:
        raise RuntimeError(f"group_norm: Expected at least 2 dimensions for input tensor but received {input.dim()}")
    if num_groups <= 0:
        raise (RuntimeError if num_groups else ZeroDivisionError)(f"group_norm: Expected num groups to be greater than 0, got {num_groups}")
    _need_several("value per channel", input, input.shape[0] * (input.shape[1] // num_groups) * math.prod(input.shape[2:]))
    return ops.group_norm(input, eps, *_affine(input, weight, bias), groups=num_groups)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """input (N, C, ...) / (k + alpha * mean of squares over `size` neighbouring channels) ** beta."""
    if input.dim() < 3:
        raise ValueError(f"local_response_norm: Expected 3D or higher dimensionality input (got {input.dim()} dimensions)")
    if size < 1:
        raise RuntimeError(f"local_response_norm: size should be greater than zero, got {size}")
    if input.numel() == 0:
        return input
    squares = (input * input).unsqueeze(1)
    low, high = size // 2, (size - 1) // 2
    zeros = (0,) * (input.dim() - 2)
    squares = ops.pad(squares, 0, (0, 0, low, *zeros), (0, 0, high, *zeros))
    if input.dim() == 3:
        mean = avg_pool2d(squares, (size, 1), stride=1).squeeze(1)
    else:
        flat = squares.reshape(*squares.shape[:4], -1)
        mean = avg_pool3d(flat, (size, 1, 1), stride=1).reshape(input.shape)
    return input / (mean * alpha + k).pow(beta)
