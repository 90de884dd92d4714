"""Activation functions of `nn.functional`. Inputs are floating-point tensors of any shape unless stated."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treadle
from treadle import ops
from treadle.arguments import direct, misfit, warn
from treadle.ir.ops.common import need_float, refuse_overflow
from treadle.modes import listed
from treadle.tensor import Tensor, assign


def _written(input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    # The op that made the result may still need what was in the input: `assign`, unlike `copy_`, lets it.
    return assign(input, result, "in-place activation") if inplace else result


@direct
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0)."""
    if not isinstance(input, Tensor):
        raise misfit("relu", "input", 1, "Tensor", input)
    return _written(input, ops.relu(input), inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """The input held within [min_val, max_val]; the gradient is zero at both ends."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    if input.dtype is treadle.uint8 and min_val < 0:
        raise RuntimeError("cannot do hardtanh on an unsigned type with negative limits")
    if not input.dtype.is_floating_point and input.dtype is not treadle.bool:
        return _written(input, treadle.clamp(input, int(min_val), int(max_val)), inplace)
    return _written(input, ops.hardtanh(input, min_val, max_val), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(input, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


@direct
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """input where positive, else input * negative_slope."""
    if not isinstance(input, Tensor):
        raise misfit("leaky_relu", "input", 1, "Tensor", input)
    return _written(input, ops.leaky_relu(input, negative_slope), inplace)


@direct
def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where positive, else alpha * (exp(input) - 1)."""
    if not isinstance(input, Tensor):
        raise misfit("elu", "input", 1, "Tensor", input)
    return _written(input, ops.elu(input, alpha), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """The self-normalizing scaled ELU."""
    return _written(input, ops.selu(input), inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where positive, else alpha * (exp(input / alpha) - 1)."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return _written(input, ops.celu(input, alpha), inplace)


@direct
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """input times the normal distribution function of input; `approximate` is "none" or "tanh"."""
    if not isinstance(input, Tensor):
        raise misfit("gelu", "input", 1, "Tensor", input)
    if approximate.__class__ is not str:
        raise misfit("gelu", "approximate", 2, "str", approximate)
    return ops.gelu(input, approximate)


@direct
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """input * sigmoid(input)."""
    if not isinstance(input, Tensor):
        raise misfit("silu", "input", 1, "Tensor", input)
    return _written(input, ops.silu(input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * tanh(softplus(input))."""
    return _written(input, ops.mish(input), inplace)


@direct
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-input))."""
    if not isinstance(input, Tensor):
        raise misfit("sigmoid", "input", 1, "Tensor", input)
    return ops.sigmoid(input)


@direct
def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    if not isinstance(input, Tensor):
        raise misfit("tanh", "input", 1, "Tensor", input)
    return ops.tanh(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * input)) / beta, and input itself where beta * input > threshold."""
    return ops.softplus(input, beta, threshold)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(input)) without overflow."""
    return ops.logsigmoid(input)


def softsign(input: Tensor) -> Tensor:
    """input / (1 + |input|)."""
    if not input.dtype.is_floating_point:
        return input / (input.abs() + 1)
    return ops.softsign(input)


def tanhshrink(input: Tensor) -> Tensor:
    """input - tanh(input)."""
    return input - ops.tanh(input)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """The input moved towards zero by lambd, zero where it would change sign."""
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd:g}.")
    return ops.softshrink(input, lambd)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """The input, zero where |input| <= lambd."""
    return ops.hardshrink(input, lambd)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(input + 3, 0), 6) / 6."""
    return _written(input, ops.hardsigmoid(input), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * hardsigmoid(input)."""
    return _written(input, ops.hardswish(input), inplace)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """input where it is above `threshold`, else `value`."""
    if not input.dtype.is_floating_point:
        refuse_overflow(value, input.dtype)
        return _written(input, treadle.where(input > threshold, input, int(value)), inplace)
    return _written(input, ops.threshold(input, threshold, value), inplace)


@listed
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """input where positive, else weight * input; weight has 1 element or one per channel (dimension 1)."""
    need_float("prelu", input._data.type)
    if weight.dtype is not input.dtype:
        raise RuntimeError(f"prelu: Type promoting not supported. Got {input.dtype.title} and {weight.dtype.title}")
    if weight.dim() > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.dim()}")
    if weight.numel() != 1:
        if input.dim() == 0:
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = input.size(1) if input.dim() >= 2 else 1
        if channels != weight.numel():
            raise RuntimeError("Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                               f"{weight.numel()} and channel size = {channels}.")
        weight = weight.view(-1, *[1] * (input.dim() - 2))
    elif input.dim() == 0:
        weight = weight.reshape(())
    return treadle.where(input > 0, input, weight * input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half along `dim` times the sigmoid of the second; RuntimeError when the size is odd."""
    if input.dim() == 0:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    if input.size(dim) % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim % input.dim()} is size {input.size(dim)}")
    return ops.glu(input, dim % input.dim())


def _softmax_dim(name: str, n_dims: int) -> int:
    warn(f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.")
    return 0 if n_dims in (0, 1, 3) else 1


def _over_dim(name: str, function: Callable[..., Tensor], input: Tensor, dim: int | None, dtype: Any) -> Tensor:
    if dim is None:
        dim = _softmax_dim(name, input.dim())
    return function(input, dim) if dtype is None else function(input.to(dtype), dim)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(input) normalized to sum 1 along `dim`; the input is cast to `dtype` first if one is given."""
    return _over_dim("softmax", treadle.softmax, input, dim, dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax of -input."""
    return _over_dim("softmin", treadle.softmax, -input, dim, dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """log(softmax(input)) along `dim`, computed without overflow."""
    return _over_dim("log_softmax", treadle.log_softmax, input, dim, dtype)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A sample of the Gumbel-softmax distribution; one-hot with a straight-through gradient if `hard`."""
    uniform = treadle.rand(logits.shape, dtype=logits.dtype, device=logits.device)
    # 1 - u lies in (0, 1], so the inner logarithm is finite and at most 0; the floor keeps the outer one finite.
    exponential = (-(1 - uniform).log()).clamp(min=treadle.finfo(logits.dtype).tiny)
    soft = treadle.softmax((logits - exponential.log()) / tau, dim)
    if not hard:
        return soft
    index = soft.max(dim, keepdim=True)[1]
    return treadle.zeros_like(logits).scatter(dim, index, 1.0) - soft.detach() + soft


def relu_(input: Tensor) -> Tensor:
    """In-place `relu`."""
    return relu(input, inplace=True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """In-place `leaky_relu`."""
    return leaky_relu(input, negative_slope, inplace=True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place `elu`."""
    return elu(input, alpha, inplace=True)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """In-place `hardtanh`."""
    return hardtanh(input, min_val, max_val, inplace=True)


def selu_(input: Tensor) -> Tensor:
    """In-place `selu`."""
    return selu(input, inplace=True)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place `celu`."""
    return celu(input, alpha, inplace=True)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """In-place `threshold`."""
    return _written(input, treadle.where(input > threshold, input, value), True)


def rrelu(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False) -> Tensor:
    """x where not negative, else x times a slope drawn uniformly from [lower, upper) when training, their mean otherwise."""
    if lower > upper:
        raise RuntimeError(f"Lower bound should be less than or equal to the upper bound, got {lower} and {upper}")
    need_float("rrelu", input._data.type)
    if training:
        slope = treadle.rand(tuple(input.shape), device=input.device).to(input.dtype) * (upper - lower) + lower
        return _written(input, treadle.where(input >= 0, input, input * slope), inplace)
    return leaky_relu(input, (lower + upper) / 2, inplace)


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """In-place `rrelu`."""
    return rrelu(input, lower, upper, training, inplace=True)
