"""Clip gradients by their common norm or by value; nothing is looked at, so nothing is flushed (unless asked to check)."""
from __future__ import annotations

from collections.abc import Iterable

import treadle
from treadle.tensor import Tensor

Tensors = Tensor | Iterable[Tensor]


def _gradients(parameters: Tensors) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in listed if p.grad is not None]


def get_total_norm(tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None) -> Tensor:
    """The norm (0-d) of all tensors taken as one vector; RuntimeError if it is not finite and that was asked for."""
    listed = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    norm_type = float(norm_type)
    if not listed:
        return treadle.tensor(0.0)
    with treadle.no_grad():
        norms = [treadle.norm(t, norm_type) for t in listed]
        total = treadle.norm(treadle.stack([n.to(norms[0].device) for n in norms]), norm_type)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise RuntimeError(f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
                           "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
                           "`error_if_nonfinite=False`")
    return total


def clip_grads_with_norm_(parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None) -> None:
    """Scale the gradients by max_norm / total_norm where that is below 1."""
    scale = (float(max_norm) / (total_norm + 1e-6)).clamp(max=1.0)
    with treadle.no_grad():
        for grad in _gradients(parameters):
            grad.mul_(scale.to(device=grad.device, dtype=grad.dtype))


def clip_grad_norm_(parameters: Tensors, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
                    foreach: bool | None = None) -> Tensor:
    """Scale all gradients so that their common norm is at most `max_norm`; returns the norm before (0-d)."""
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    total = get_total_norm(_gradients(listed), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(listed, max_norm, total)
    return total


def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Hold every gradient within [-clip_value, clip_value]."""
    bound = float(clip_value)
    with treadle.no_grad():
        for grad in _gradients(parameters):
            grad.clamp_(-bound, bound)
