"""Stochastic gradient descent with momentum."""
from __future__ import annotations

from typing import Any

import treadle
from treadle.optim.optimizer import PerParameterOptimizer, apply_step, check_at_least_zero, refuse_differentiable, refuse_fused_foreach
from treadle.tensor import Tensor


class SGD(PerParameterOptimizer):
    """p -= lr * g, with weight decay, momentum, dampening and Nesterov's variant. `foreach` and `fused` change nothing."""

    complex_parameters = "as one"

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0,
                 nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None, differentiable: bool = False,
                 fused: bool | None = None) -> None:
        check_at_least_zero(lr=("learning rate", lr), momentum=("momentum value", momentum),
                            weight_decay=("weight_decay value", weight_decay))
        refuse_differentiable(differentiable)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        refuse_fused_foreach(fused, foreach)
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize, "foreach": foreach, "differentiable": differentiable, "fused": fused})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        if momentum == 0:
            apply_step("sgd_step", (param, grad), (lr, decay))
            return
        state, dampening = self.state[param], group["dampening"]
        if state.get("momentum_buffer") is None:  # the first gradient is taken whole
            state["momentum_buffer"], dampening = treadle.zeros_like(param), 0.0
        apply_step("sgd_momentum_step", (param, grad, state["momentum_buffer"]), (lr, momentum, dampening, decay), group["nesterov"])

    def update_sparse(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"] != 0:
            raise RuntimeError("add(sparse, dense) is not supported: SGD with weight_decay would change all of a parameter, whose gradient "
                               "is sparse")
        if group["momentum"] != 0:
            state = self.state[param]
            before = state.get("momentum_buffer")
            step = grad if before is None else before * group["momentum"] + grad * (1 - group["dampening"])
            state["momentum_buffer"] = step = step.coalesce()
            grad = grad + step * group["momentum"] if group["nesterov"] else step
        param.sub_(grad * group["lr"])
