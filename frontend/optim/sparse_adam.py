"""Adam for sparse gradients."""
from __future__ import annotations

from typing import Any

import treadle
from treadle.optim.optimizer import PerParameterOptimizer, check_at_least_zero
from treadle.tensor import Tensor


class SparseAdam(PerParameterOptimizer):
    """Adam that touches only the rows of a parameter, and of its running means, that the sparse gradient has."""

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 maximize: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr), eps=("epsilon value", eps))
        if lr == 0 or eps == 0:
            raise ValueError(f"Invalid learning rate or epsilon: SparseAdam needs both above 0, got {lr} and {eps}")
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "maximize": maximize})
        for group in self.param_groups:
            if any(p.layout is not treadle.strided for p in group["params"]):
                raise ValueError("SparseAdam requires dense parameter tensors")
            if any(p.is_complex() for p in group["params"]):
                raise ValueError("SparseAdam does not support complex parameters")

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")

    def update_sparse(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0, exp_avg=treadle.zeros_like(param), exp_avg_sq=treadle.zeros_like(param))
        state["step"] += 1
        step, (beta1, beta2), grad = state["step"], group["betas"], grad.coalesce()
        values, mean, square = grad.values(), state["exp_avg"], state["exp_avg_sq"]
        old, old_square = mean.sparse_mask(grad).values(), square.sparse_mask(grad).values()
        change, change_square = (values - old) * (1 - beta1), (values * values - old_square) * (1 - beta2)
        mean.add_(with_values(grad, change))
        square.add_(with_values(grad, change_square))
        rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        param.add_(with_values(grad, (old + change) / ((old_square + change_square).sqrt() + group["eps"]) * -rate))


def with_values(grad: Tensor, values: Tensor) -> Tensor:
    """The sparse tensor with other values at the same places."""
    from treadle.sparse.pattern import make, pattern_of
    pattern = pattern_of(grad)
    assert pattern is not None
    return make(pattern, values)
