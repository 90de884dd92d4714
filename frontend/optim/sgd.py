"""Stochastic gradient descent with momentum."""
from __future__ import annotations

from typing import Any

from treadle.optim.optimizer import PerParameterOptimizer, check_at_least_zero, refuse_differentiable
from treadle.tensor import Tensor


class SGD(PerParameterOptimizer):
    """p -= lr * g, with weight decay, momentum, dampening and Nesterov's variant. `foreach` and `fused` change nothing."""

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0,
                 nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None, differentiable: bool = False,
                 fused: bool | None = None) -> None:
        check_at_least_zero(lr=("learning rate", lr), momentum=("momentum value", momentum),
                            weight_decay=("weight_decay value", weight_decay))
        refuse_differentiable(differentiable)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize, "foreach": foreach, "differentiable": differentiable, "fused": fused})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"] != 0:
            grad = grad + param * group["weight_decay"]
        momentum = group["momentum"]
        if momentum != 0:
            state = self.state[param]
            old = state.get("momentum_buffer")
            if old is None:
                moved = grad
                state["momentum_buffer"] = grad.detach().clone()
            else:
                moved = old * momentum + grad * (1 - group["dampening"])
                old.copy_(moved)
            grad = grad + moved * momentum if group["nesterov"] else moved
        param.copy_(param - grad * group["lr"])
