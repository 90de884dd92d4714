"""Adam and AdamW."""
from __future__ import annotations

from typing import Any

import treadle
from treadle.optim.optimizer import PerParameterOptimizer, apply_step, check_at_least_zero, refuse_differentiable, refuse_fused_foreach
from treadle.tensor import Tensor


class Adam(PerParameterOptimizer):
    """Steps scaled by running means of the gradient and its square. `foreach`, `capturable` and `fused` change nothing.

    Weight decay is added to the gradient, or with `decoupled_weight_decay` shrinks the parameter (AdamW).
    """

    complex_parameters = "as one"

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, amsgrad: bool = False, *, foreach: bool | None = None, maximize: bool = False,
                 capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
                 decoupled_weight_decay: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr), eps=("epsilon value", eps))
        for i, beta in enumerate((betas[0], betas[1])):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        check_at_least_zero(weight_decay=("weight_decay value", weight_decay))
        refuse_differentiable(differentiable)
        refuse_fused_foreach(fused, foreach)
        if isinstance(lr, Tensor) and foreach and not capturable:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        if not any([all([isinstance(beta, kind) for beta in betas]) for kind in (float, Tensor)]):
            raise ValueError(f"betas must be either both floats or both Tensors, got {betas}")
        super().__init__(params, {
            "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize,
            "foreach": foreach, "capturable": capturable, "differentiable": differentiable, "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0.0
            state["exp_avg"] = treadle.zeros_like(param)
            state["exp_avg_sq"] = treadle.zeros_like(param)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = treadle.zeros_like(param)
        state["step"] = step = state["step"] + 1.0
        beta1, beta2 = group["betas"]
        apply_step("adam_step", (param, grad, state["exp_avg"], state["exp_avg_sq"]),
                   (group["lr"], beta1, beta2, group["eps"], group["weight_decay"], 1 - beta1**step, 1 - beta2**step),
                   group["decoupled_weight_decay"], more=(state["max_exp_avg_sq"],) if group["amsgrad"] else ())

    def update_sparse(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        raise RuntimeError("Adam does not support sparse gradients, please consider SparseAdam instead")


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter instead of joining the gradient."""

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False, foreach: bool | None = None,
                 capturable: bool = False, differentiable: bool = False, fused: bool | None = None) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
                         differentiable=differentiable, fused=fused, decoupled_weight_decay=True)
