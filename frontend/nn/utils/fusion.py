"""Folding batch norms in evaluation mode into the layer before them; modules without initialized parameters."""
from __future__ import annotations

import copy
import inspect
from typing import Any

import treadle
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter
from treadle.tensor import Tensor


def fuse_conv_bn_weights(conv_w: Tensor, conv_b: Tensor | None, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float, bn_w: Tensor | None,
                         bn_b: Tensor | None, transpose: bool = False) -> tuple[Parameter, Parameter]:
    """Weight and bias of the convolution that does both: the output channels' axis is 0, or 1 if `transpose`."""
    scale = (bn_rv + bn_eps).rsqrt()
    if bn_w is not None:
        scale = scale * bn_w
    shape = [1] * conv_w.dim()
    shape[1 if transpose else 0] = -1
    shift = -bn_rm if conv_b is None else conv_b - bn_rm
    bias = shift * scale if bn_b is None else shift * scale + bn_b
    return (Parameter((conv_w * scale.reshape(shape)).detach().to(conv_w.dtype), conv_w.requires_grad),
            Parameter(bias.detach(), conv_w.requires_grad if conv_b is None else conv_b.requires_grad))


def fuse_linear_bn_weights(linear_w: Tensor, linear_b: Tensor | None, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float, bn_w: Tensor,
                           bn_b: Tensor) -> tuple[Parameter, Parameter]:
    """The weight and bias of a linear layer that does what the layer and the batch norm after it do."""
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def fuse_conv_bn_eval(conv: Any, bn: Any, transpose: bool = False) -> Any:
    """A copy of `conv` that also does what `bn` would. RuntimeError unless both are in evaluation mode with running statistics."""
    if conv.training or bn.training:
        raise RuntimeError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise RuntimeError("fuse_conv_bn_eval: the norm has no running statistics")
    fused = copy.deepcopy(conv)
    with treadle.no_grad():
        fused.weight, fused.bias = fuse_conv_bn_weights(fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight,
                                                        bn.bias, transpose)
    return fused


def fuse_linear_bn_eval(linear: Any, bn: Any) -> Any:
    """`fuse_conv_bn_eval` of a Linear."""
    return fuse_conv_bn_eval(linear, bn)


def skip_init(module_cls: type[Module], *args: Any, **kwargs: Any) -> Module:
    """`module_cls(*args, **kwargs)`, whose parameters are initialized all the same. RuntimeError for classes without `device`."""
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    return module_cls(*args, **kwargs)
