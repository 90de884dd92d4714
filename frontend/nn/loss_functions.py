"""Losses of `nn.functional`: ops of the table where one does it, else compositions."""
from __future__ import annotations

import math
from typing import Any

import treadle
from treadle import ops
from treadle.arguments import Choice, misfit, warn
from treadle.ir.dtypes import to_real
from treadle.ir.ops.common import need_float
from treadle.modes import listed
from treadle.results import together
from treadle.tensor import Tensor


def reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction, taking account of the two deprecated switches that came before it. ValueError for what is no string."""
    if size_average is None and reduce is None:
        if not isinstance(reduction, str):
            check_reduction(reduction)
        return reduction
    average = size_average is None or size_average
    found = "none" if reduce is False else "mean" if average else "sum"
    warn(f"size_average and reduce args will be deprecated, please use reduction='{found}' instead.")
    return found


def check_reduction(reduction: str) -> None:
    """ValueError for a reduction there is not."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")


def _reduced(loss: Tensor, size_average: bool | None, reduce: bool | None, reduction: str) -> Tensor:
    reduction = reduction_name(size_average, reduce, reduction)
    if reduction == "none":
        return loss
    check_reduction(reduction)
    return loss.mean() if reduction == "mean" else loss.sum()


def _warn_sizes(input: Tensor, target: Tensor) -> None:
    if input.size() != target.size():
        warn(f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). This will "
                      "likely lead to incorrect results due to broadcasting. Please ensure they have the same size.")


def _check_same(input: Tensor, target: Tensor) -> None:
    if input.size() != target.size():
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")


def _pointwise(op: Any, input: Tensor, target: Tensor, numbers: tuple[float, ...], reduction: str, weight: Tensor | None) -> Tensor:
    """An elementwise loss of the op table; with `weight`, its mean is the weighted mean."""
    _warn_sizes(input, target)
    if not isinstance(reduction, str):
        check_reduction(reduction)
    if weight is None:
        return op(input, target, *numbers, reduction)
    return _weighted(op(input, target, *numbers, "none"), weight, reduction)


def mse_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
             reduction: Choice = "mean", weight: Tensor | None = None) -> Tensor:
    """(input - target)^2, weighted by `weight` if given."""
    return _pointwise(ops.mse_loss, input, target, (), reduction_name(size_average, reduce, reduction), weight)


def _weighted(loss: Tensor, weight: Tensor, reduction: str) -> Tensor:
    if weight.size() != loss.size():
        raise ValueError("Weights and input must have the same size.")
    loss = loss * weight
    if reduction == "mean":
        return loss.sum() / weight.sum()
    return _reduced(loss, None, None, reduction)


def l1_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
            reduction: Choice = "mean", weight: Tensor | None = None) -> Tensor:
    """|input - target|, weighted by `weight` if given."""
    reduction = reduction_name(size_average, reduce, reduction)
    if input.is_complex() or target.is_complex():
        input, target = (input - target).abs(), input.new_zeros(input.shape, dtype=to_real(input.dtype))
    return _pointwise(ops.l1_loss, input, target, (), reduction, weight)


def smooth_l1_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                   reduction: Choice = "mean", beta: float = 1.0) -> Tensor:
    """Squared below `beta`, linear above; `beta` 0 is l1_loss."""
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    reduction = reduction_name(size_average, reduce, reduction)
    if beta == 0:
        return _pointwise(ops.l1_loss, input, target, (), reduction, None)
    return _pointwise(ops.smooth_l1_loss, input, target, (beta,), reduction, None)


def huber_loss(input: Tensor, target: Tensor, reduction: Choice = "mean", delta: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Squared below `delta`, linear with slope `delta` above; weighted by `weight` if given."""
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    return _pointwise(ops.huber_loss, input, target, (delta,), reduction, weight)


def _of_one(input: Tensor, target: Tensor) -> Tensor:
    """The target of one sample (C), which may be given as (1)."""
    return target.reshape(()) if input.dim() == 1 and tuple(target.shape) == (1,) else target


def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
             ignore_index: int = -100, reduce: bool | None = None, reduction: Choice = "mean") -> Tensor:
    """Negative log likelihood: input (C) or (N, C, ...) of log probabilities, target int64 () or (N, ...).

    Targets equal to `ignore_index` count nothing; mean divides by the sum of the weights of the others.
    """
    reduction = reduction_name(size_average, reduce, reduction)
    weights = () if weight is None else (weight,)
    return ops.nll_loss(input, _of_one(input, target), *weights, reduction=reduction, ignore_index=ignore_index)


def cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
                  ignore_index: int = -100, reduce: bool | None = None, reduction: Choice = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Softmax cross entropy of logits (C) or (N, C, ...) with class indices () or (N, ...), or probabilities shaped as the logits."""
    reduction = reduction_name(size_average, reduce, reduction)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if not input.dim() and target.dim():
        raise IndexError(f"cross_entropy: expected input of 1 or more dimensions for target of shape {list(target.shape)}, got a number")
    weights = () if weight is None else (weight,)
    if target.shape == input.shape and target.is_floating_point():
        if ignore_index >= 0:
            raise RuntimeError(f"ignore_index is not supported for floating point target: {ignore_index}")
        if weight is not None:
            target = target.to(treadle.promote_types(target.dtype, weight.dtype))
        return ops.cross_entropy_prob(input, target, label_smoothing, *weights, reduction=reduction)
    return ops.cross_entropy(input, _of_one(input, target), label_smoothing, *weights, reduction=reduction, ignore_index=ignore_index)


def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
                         reduce: bool | None = None, reduction: Choice = "mean") -> Tensor:
    """Cross entropy of probabilities in [0, 1]; logarithms are held at -100 as in PyTorch."""
    if target.size() != input.size():
        raise ValueError(f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is deprecated. "
                         "Please ensure they have the same size.")
    reduction = reduction_name(size_average, reduce, reduction)
    if weight is None:
        return ops.bce(input, target, reduction)
    return _reduced(ops.bce(input, target, "none") * weight, None, None, reduction)


def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
                                     reduce: bool | None = None, reduction: Choice = "mean", pos_weight: Tensor | None = None) -> Tensor:
    """Cross entropy of sigmoid(input), computed without overflow; `pos_weight` multiplies the positive part."""
    _check_same(input, target)
    reduction = reduction_name(size_average, reduce, reduction)
    inner = reduction if weight is None else "none"
    if pos_weight is None:
        loss = ops.bce_with_logits(input, target, inner)
    else:
        loss = ops.bce_with_logits_pos(input, target, pos_weight, inner)
    if weight is None:
        return loss
    weighted = loss * weight
    if weighted.shape != loss.shape:
        raise RuntimeError(f"binary_cross_entropy_with_logits: output with shape {list(loss.shape)} doesn't match the broadcast shape "
                           f"{list(weighted.shape)} with weight {list(weight.shape)}")
    return _reduced(weighted, None, None, reduction)


def kl_div(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None, reduction: Choice = "mean",
           log_target: bool = False) -> Tensor:
    """target * (log(target) - input), input being log probabilities; target is too if `log_target`."""
    reduction = reduction_name(size_average, reduce, reduction)
    if reduction == "mean":
        warn("reduction: 'mean' divides the total loss by both the batch size and the support size. "
                      "'batchmean' divides only by the batch size, and aligns with the KL div math definition.")
    if reduction == "batchmean":
        total = ops.kl_div(input, target, log_target, "sum")
        return total / input.size(0) if input.dim() else total
    return ops.kl_div(input, target, log_target, reduction)


@listed
def poisson_nll_loss(input: Tensor, target: Tensor, log_input: bool = True, full: bool = False, size_average: bool | None = None,
                     eps: float = 1e-8, reduce: bool | None = None, reduction: str = "mean") -> Tensor:
    """Poisson negative log likelihood; `full` adds Stirling's approximation of log(target!)."""
    if target.dtype is treadle.bool and full:
        raise RuntimeError("poisson_nll_loss: subtraction, the `-` operator, with a bool tensor is not supported")
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        many = treadle.where(target > 1, target, 1.0)
        loss = loss + treadle.where(target > 1, many * many.log() - many + 0.5 * (many * (2 * math.pi)).log(), 0.0)
    return _reduced(loss, size_average, reduce, reduction)


def gaussian_nll_loss(input: Tensor, target: Tensor | float, var: Tensor | float, full: bool = False, eps: float = 1e-6,
                      reduction: str = "mean") -> Tensor:
    """Gaussian negative log likelihood with variance `var`: a number, of input's shape, without its last axis, or with one axis of 1."""
    if not isinstance(var, Tensor | float):
        raise misfit("gaussian_nll_loss", "var", 3, "Tensor or float", var)
    spread: Any = var if isinstance(var, Tensor) else input * 0 + var
    need_float("gaussian_nll_loss", spread._data.type)
    if spread.size() != input.size():
        if tuple(spread.shape) == tuple(input.shape[:-1]):
            spread = spread.unsqueeze(-1)
        elif spread.dim() != input.dim() or [b for a, b in zip(input.shape, spread.shape, strict=True) if a != b] != [1]:
            raise ValueError("var is of incorrect size")
    spread = spread + (spread.detach().clamp(min=eps) - spread.detach())  # held at eps; the gradient ignores it
    loss = (spread.log() + (input - target).square() / spread) * 0.5
    return _reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, None, None, reduction)


@listed
def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, size_average: bool | None = None,
                         reduce: bool | None = None, reduction: Choice = "mean") -> Tensor:
    """input where target is 1, max(0, margin - input) where it is -1."""
    zero = input * 0
    loss = treadle.where(target != 1, (margin - input).clamp(min=0), zero) + treadle.where(target != -1, input, zero)
    return _reduced(loss.to(input.dtype), size_average, reduce, reduction)


@listed
def soft_margin_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                     reduction: Choice = "mean") -> Tensor:
    """log(1 + exp(-target * input))."""
    need_float("soft_margin_loss", input._data.type)
    loss = -ops.logsigmoid(target * input)
    if loss.shape != input.shape:
        raise RuntimeError(f"soft_margin_loss: output with shape {list(input.shape)} doesn't match the broadcast shape {list(loss.shape)}")
    return _reduced(loss.to(input.dtype), size_average, reduce, reduction)


def _same_rank(name: str, *tensors: Tensor) -> None:
    if len({t.dim() for t in tensors}) > 1:
        raise RuntimeError(f"{name}: All input tensors should have same dimension but got sizes: "
                           f"{', '.join(str(list(t.shape)) for t in tensors)}")


@listed
def margin_ranking_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: bool | None = None,
                        reduce: bool | None = None, reduction: Choice = "mean") -> Tensor:
    """max(0, -target * (input1 - input2) + margin)."""
    _same_rank("margin_ranking_loss", input1, input2, target)
    return _reduced((-target * (input1 - input2) + float(margin)).clamp(min=0), size_average, reduce, reduction)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle along `dim`, each norm held at `eps`."""
    if not (x1.dtype.is_floating_point or x2.dtype.is_floating_point):
        need_float("cosine_similarity", x1._data.type, x2._data.type)
    x1, x2 = together(x1, x2)
    if x1.shape != x2.shape:
        x1, x2 = treadle.broadcast_tensors(x1, x2)
    length1 = x1.square().sum(dim, keepdim=True).sqrt().clamp(min=eps)
    length2 = x2.square().sum(dim, keepdim=True).sqrt().clamp(min=eps)
    return ((x1 / length1) * (x2 / length2)).sum(dim)


@listed
def cosine_embedding_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: bool | None = None,
                          reduce: bool | None = None, reduction: Choice = "mean") -> Tensor:
    """1 - cos where target is 1, max(0, cos - margin) where it is -1; inputs (N, D) or (D)."""
    wanted = {0: 1, 1: 2}.get(target.dim())
    if wanted is None or input1.dim() != wanted or input2.dim() != wanted:
        raise RuntimeError(f"cosine_embedding_loss: a 0D target expects 1D inputs, a 1D target 2D inputs; got target {list(target.shape)}, "
                           f"inputs {list(input1.shape)} and {list(input2.shape)}")
    epsilon = 1e-12
    product = (input1 * input2).sum(-1)
    cosine = product / ((input1.square().sum(-1) + epsilon) * (input2.square().sum(-1) + epsilon)).sqrt()
    zero = cosine * 0
    loss = treadle.where(target == 1, 1 - cosine, zero) + treadle.where(target == -1, (cosine - margin).clamp(min=0), zero)
    return _reduced(loss, size_average, reduce, reduction)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dimension."""
    return treadle.norm(x1 - x2 + eps, p, -1, keepdim)


@listed
def triplet_margin_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2, eps: float = 1e-6,
                        swap: bool = False, size_average: bool | None = None, reduce: bool | None = None,
                        reduction: Choice = "mean") -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with the p-norm distance d."""
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    _same_rank("triplet_margin_loss", anchor, positive, negative)
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = ops.minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduced((near - far + margin).clamp(min=0), size_average, reduce, reduction)
