"""Dropout; part of `treadle.nn.functional`."""
from __future__ import annotations

import math

import treadle
from treadle import ops, random
from treadle.arguments import direct, misfit, warn
from treadle.tensor import Tensor


def _check_probability(p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise (ValueError if p == p else RuntimeError)(f"dropout probability has to be between 0 and 1, but got {p}")


@direct
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability `p` when training, scaling the others by 1 / (1 - p)."""
    if not isinstance(input, Tensor):
        raise misfit("dropout", "input", 1, "Tensor", input)
    _check_probability(p)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        result = input * 0.0
    else:
        result = ops.dropout(input, p, *random.reserve(input.numel()))
    return input.copy_(result) if inplace else result


def _idle(input: Tensor, p: float, training: bool) -> bool:
    """Whether dropout leaves `input` alone; ValueError unless p is a probability."""
    _check_probability(p)
    return not training or p == 0.0 or not input.numel()


def _channels(input: Tensor, lead: int) -> tuple[int, ...]:
    """The shape of one choice for each entry of the first `lead` axes."""
    if input.dim() < lead:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    return (*input.shape[:lead], *[1] * (input.dim() - lead))


def feature_dropout(input: Tensor, p: float, training: bool, inplace: bool, lead: int = 2) -> Tensor:
    """Zero whole entries of the first `lead` axes. RuntimeError when there are fewer."""
    if _idle(input, p, training):
        return input
    if p == 1.0:
        result = input * 0.0
    else:
        result = input * dropout(treadle.ones(_channels(input, lead), dtype=input.dtype, device=input.device), p)
    return input.copy_(result) if inplace else result


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L)."""
    _check_probability(p)
    if input.dim() not in (2, 3):
        raise RuntimeError(f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input.")
    return feature_dropout(input, p, training, inplace, input.dim() - 1)


def _warn_of_rank(name: str, input: Tensor, spatial: int) -> None:
    if input.dim() not in (spatial + 1, spatial + 2):
        warn(f"{name}: Received a {input.dim()}-D input to {name}, which is deprecated and will result in an error in a future release. "
             f"It is for inputs of {spatial + 1} or {spatial + 2} dimensions; dropout is for the others.")


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, H, W); or of (N, C, L), with a warning, as in PyTorch."""
    _check_probability(p)
    _warn_of_rank("dropout2d", input, 2)
    if input.dim() == 3:
        warn("dropout2d: Received a 3D input, which is taken to be (N, C, L), not (C, H, W), as in PyTorch: dropout1d says so.")
    return feature_dropout(input, p, training, inplace)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    _check_probability(p)
    _warn_of_rank("dropout3d", input, 3)
    return feature_dropout(input, p, training, inplace, 2 if input.dim() == 5 else 1)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean and variance of SELU outputs: dropped elements take SELU's negative limit."""
    return input if _idle(input, p, training) else _alpha_dropped(input, input.dim(), p, inplace)


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """`alpha_dropout` of whole channels of (N, C, ...)."""
    return input if _idle(input, p, training) else _alpha_dropped(input, 2, p, inplace)


def _alpha_dropped(input: Tensor, lead: int, p: float, inplace: bool) -> Tensor:
    if p == 1.0:
        result = input * 0.0
    else:
        limit = -1.7580993408473766
        scale = 1.0 / math.sqrt((1 - p) * (1 + p * limit * limit))
        keep = treadle.rand(_channels(input, lead), device=input.device) >= p
        result = treadle.where(keep, input, limit) * scale - scale * limit * p
    return input.copy_(result) if inplace else result
