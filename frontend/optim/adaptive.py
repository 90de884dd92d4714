"""RMSprop, Adagrad, Adadelta and Adamax."""
from __future__ import annotations

from typing import Any

import treadle
from treadle import ops
from treadle.optim.optimizer import PerParameterOptimizer, apply_step, check_at_least_zero, refuse_differentiable, refuse_fused_foreach
from treadle.optim.sparse_adam import with_values
from treadle.tensor import Tensor


def _decayed(param: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
    return grad + param * group["weight_decay"] if group["weight_decay"] != 0 else grad


class RMSprop(PerParameterOptimizer):
    """Steps divided by the running root mean square of the gradient; `centered` uses its running standard deviation."""

    complex_parameters = "as one"

    def __init__(self, params: Any, lr: float | Tensor = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
                 momentum: float = 0, centered: bool = False, capturable: bool = False, foreach: bool | None = None,
                 maximize: bool = False, differentiable: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr), eps=("epsilon value", eps), momentum=("momentum value", momentum),
                            weight_decay=("weight_decay value", weight_decay), alpha=("alpha value", alpha))
        refuse_differentiable(differentiable)
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered, "weight_decay": weight_decay,
            "capturable": capturable, "foreach": foreach, "maximize": maximize, "differentiable": differentiable})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0.0
            state["square_avg"] = treadle.zeros_like(param)
            if group["momentum"] > 0:
                state["momentum_buffer"] = treadle.zeros_like(param)
            if group["centered"]:
                state["grad_avg"] = treadle.zeros_like(param)
        state["step"] += 1.0
        more = [state["grad_avg"]] if group["centered"] else []
        if group["momentum"] > 0:
            more.append(state["momentum_buffer"])
        apply_step("rmsprop_step", (param, grad, state["square_avg"]),
                   (group["lr"], group["alpha"], group["eps"], group["weight_decay"], group["momentum"]), group["centered"], more=more)


class Adagrad(PerParameterOptimizer):
    """Steps divided by the root of the sum of all squared gradients so far."""

    def __init__(self, params: Any, lr: float | Tensor = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
                 initial_accumulator_value: float = 0, eps: float = 1e-10, foreach: bool | None = None, *, maximize: bool = False,
                 differentiable: bool = False, fused: bool | None = None) -> None:
        check_at_least_zero(lr=("learning rate", lr), lr_decay=("lr_decay value", lr_decay),
                            weight_decay=("weight_decay value", weight_decay),
                            initial=("initial_accumulator_value value", initial_accumulator_value), eps=("epsilon value", eps))
        refuse_differentiable(differentiable)
        refuse_fused_foreach(fused, foreach)
        super().__init__(params, {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "fused": fused})
        for group in self.param_groups:
            for param in group["params"]:
                self._start(param, group)

    def _start(self, param: Tensor, group: dict[str, Any]) -> None:
        value = group["initial_accumulator_value"]
        value = complex(value, value) if param.is_complex() else value
        self.state[param] = {"step": 0.0, "sum": treadle.full_like(param, value, requires_grad=False)}

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:  # a group added later
            self._start(param, group)
            state = self.state[param]
        state["step"] += 1.0
        grad = _decayed(param, grad, group)
        rate = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        total = state["sum"] + grad * grad
        param.copy_(param - grad / (total.sqrt() + group["eps"]) * rate)
        state["sum"].copy_(total)

    def update_sparse(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"] != 0:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        state = self.state[param]
        if not state:
            self._start(param, group)
            state = self.state[param]
        state["step"] += 1.0
        grad = grad.coalesce()
        rate = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        state["sum"].add_(grad * grad)
        scale = state["sum"].sparse_mask(grad).values().sqrt() + group["eps"]
        param.sub_(with_values(grad, grad.values() / scale * rate))


class Adadelta(PerParameterOptimizer):
    """Steps scaled by the ratio of the running root mean squares of past steps and of the gradient."""

    def __init__(self, params: Any, lr: float | Tensor = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0,
                 foreach: bool | None = None, *, capturable: bool = False, maximize: bool = False, differentiable: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr))
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        check_at_least_zero(eps=("epsilon value", eps), weight_decay=("weight_decay value", weight_decay))
        refuse_differentiable(differentiable)
        super().__init__(params, {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize, "capturable": capturable,
            "foreach": foreach, "differentiable": differentiable})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0.0, square_avg=treadle.zeros_like(param), acc_delta=treadle.zeros_like(param))
        state["step"] += 1.0
        grad = _decayed(param, grad, group)
        rho, eps = group["rho"], group["eps"]
        square = state["square_avg"] * rho + grad * grad * (1 - rho)
        change = (state["acc_delta"] + eps).sqrt() / (square + eps).sqrt() * grad
        state["square_avg"].copy_(square)
        state["acc_delta"].copy_(state["acc_delta"] * rho + change * change * (1 - rho))
        param.copy_(param - change * group["lr"])


class Adamax(PerParameterOptimizer):
    """Adam with the largest decayed gradient in place of the root mean square."""

    def __init__(self, params: Any, lr: float | Tensor = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, foreach: bool | None = None, *, maximize: bool = False, differentiable: bool = False,
                 capturable: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr), eps=("epsilon value", eps))
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        check_at_least_zero(weight_decay=("weight_decay value", weight_decay))
        refuse_differentiable(differentiable)
        super().__init__(params, {
            "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "capturable": capturable})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0.0, exp_avg=treadle.zeros_like(param), exp_inf=treadle.zeros_like(param))
        state["step"] += 1.0
        beta1, beta2 = group["betas"]
        grad = _decayed(param, grad, group)
        mean = state["exp_avg"] + (grad - state["exp_avg"]) * (1 - beta1)
        largest = ops.maximum(state["exp_inf"] * beta2, grad.abs() + group["eps"])
        state["exp_avg"].copy_(mean)
        state["exp_inf"].copy_(largest)
        param.copy_(param - (mean / largest) * (group["lr"] / (1 - beta1 ** state["step"])))
