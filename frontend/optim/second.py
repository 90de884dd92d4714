"""NAdam, RAdam, ASGD, Rprop, Adafactor and Muon."""
from __future__ import annotations

from typing import Any

import treadle
from treadle import ops
from treadle.optim.optimizer import PerParameterOptimizer, check_at_least_zero, refuse_differentiable
from treadle.tensor import Tensor


def _decay(param: Tensor, grad: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(parameter, gradient) after weight decay: on the parameter when it is decoupled, else on the gradient."""
    decay = group["weight_decay"]
    if decay == 0:
        return param, grad
    if group.get("decoupled_weight_decay"):
        return param * (1 - group["lr"] * decay), grad
    return param, grad + param * decay


def _check_betas(betas: tuple[float, float]) -> None:
    for i, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")


class NAdam(PerParameterOptimizer):
    """Adam with Nesterov momentum (Dozat, 2016)."""

    def __init__(self, params: Any, lr: float | Tensor = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
                 foreach: bool | None = None, maximize: bool = False, capturable: bool = False, differentiable: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr), eps=("epsilon value", eps), weight_decay=("weight_decay value", weight_decay),
                            momentum_decay=("momentum_decay value", momentum_decay))
        _check_betas(betas)
        refuse_differentiable(differentiable)
        super().__init__(params, {
            "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize, "foreach": foreach, "capturable": capturable,
            "differentiable": differentiable})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0.0, mu_product=1.0, exp_avg=treadle.zeros_like(param), exp_avg_sq=treadle.zeros_like(param))
        state["step"] = step = state["step"] + 1.0
        beta1, beta2 = group["betas"]
        value, grad = _decay(param, grad, group)
        mu = beta1 * (1.0 - 0.5 * 0.96 ** (step * group["momentum_decay"]))
        mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((step + 1) * group["momentum_decay"]))
        state["mu_product"] = product = state["mu_product"] * mu
        mean = state["exp_avg"] + (grad - state["exp_avg"]) * (1 - beta1)
        square = state["exp_avg_sq"] * beta2 + grad * grad * (1 - beta2)
        below = (square / (1 - beta2**step)).sqrt() + group["eps"]
        value = value - grad / below * (group["lr"] * (1.0 - mu) / (1.0 - product))
        param.copy_(value - mean / below * (group["lr"] * mu_next / (1.0 - product * mu_next)))
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)


class RAdam(PerParameterOptimizer):
    """Adam that waits with its adaptive step until the variance is known (Liu et al., 2019)."""

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, decoupled_weight_decay: bool = False, *, foreach: bool | None = None, maximize: bool = False,
                 capturable: bool = False, differentiable: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr), eps=("epsilon value", eps), weight_decay=("weight_decay value", weight_decay))
        _check_betas(betas)
        refuse_differentiable(differentiable)
        super().__init__(params, {
            "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach,
            "capturable": capturable, "decoupled_weight_decay": decoupled_weight_decay, "differentiable": differentiable})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0.0, exp_avg=treadle.zeros_like(param), exp_avg_sq=treadle.zeros_like(param))
        state["step"] = step = state["step"] + 1.0
        beta1, beta2 = group["betas"]
        value, grad = _decay(param, grad, group)
        mean = state["exp_avg"] + (grad - state["exp_avg"]) * (1 - beta1)
        square = state["exp_avg_sq"] * beta2 + grad * grad * (1 - beta2)
        limit = 2 / (1 - beta2) - 1
        length = limit - 2 * step * beta2**step / (1 - beta2**step)
        change = mean / (1 - beta1**step)
        if length > 5.0:
            rectified = ((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)) ** 0.5
            change = change / (square.sqrt() + group["eps"]) * ((1 - beta2**step) ** 0.5 * rectified)
        param.copy_(value - change * group["lr"])
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)


class ASGD(PerParameterOptimizer):
    """Gradient descent with a running average of the parameters in state "ax" (Polyak and Juditsky, 1992)."""

    def __init__(self, params: Any, lr: float | Tensor = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
                 weight_decay: float = 0, foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
                 capturable: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr), weight_decay=("weight_decay value", weight_decay))
        refuse_differentiable(differentiable)
        super().__init__(params, {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "capturable": capturable})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0.0, eta=float(group["lr"]), mu=1.0, ax=treadle.zeros_like(param))
        state["step"] = step = state["step"] + 1.0
        _, grad = _decay(param, grad, group)
        eta, mu = state["eta"], state["mu"]
        value = param * (1 - group["lambd"] * eta) - grad * eta
        state["ax"].copy_(value if mu == 1 else state["ax"] + (value - state["ax"]) * mu)
        param.copy_(value)
        state["eta"] = group["lr"] / (1 + group["lambd"] * group["lr"] * step) ** group["alpha"]
        state["mu"] = 1 / max(1, step - group["t0"])


class Rprop(PerParameterOptimizer):
    """Step sizes that grow while a gradient keeps its sign and shrink when it turns (Riedmiller and Braun, 1993)."""

    def __init__(self, params: Any, lr: float | Tensor = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
                 step_sizes: tuple[float, float] = (1e-6, 50), *, capturable: bool = False, foreach: bool | None = None,
                 maximize: bool = False, differentiable: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr))
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        refuse_differentiable(differentiable)
        super().__init__(params, {
            "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
            "capturable": capturable})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0.0, prev=treadle.zeros_like(param), step_size=treadle.full_like(param, float(group["lr"])))
        state["step"] += 1.0
        shrink, grow = group["etas"]
        turned = grad * state["prev"]
        factor = ops.where(turned > 0, grow, ops.where(turned < 0, shrink, 1.0))
        size = (state["step_size"] * factor).clamp(*group["step_sizes"])
        grad = ops.where(turned < 0, 0.0, grad)
        param.copy_(param - grad.sign() * size)
        state["prev"].copy_(grad)
        state["step_size"].copy_(size)


class Adafactor(PerParameterOptimizer):
    """Adam whose second moment of a matrix is kept as a row and a column (Shazeer and Stern, 2018)."""

    complex_parameters = ""

    def __init__(self, params: Any, lr: float | Tensor = 1e-2, beta2_decay: float = -0.8, eps: tuple[float | None, float] = (None, 1e-3),
                 d: float = 1.0, weight_decay: float = 0.0, *, foreach: bool | None = None, maximize: bool = False) -> None:
        check_at_least_zero(lr=("learning rate", lr), weight_decay=("weight_decay value", weight_decay))
        if beta2_decay > 0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        for what, value in zip(("epsilon1", "epsilon2"), eps, strict=True):
            if value is not None and not value >= 0.0:
                raise ValueError(f"{what} should be >= 0 but is: {value}")
        if d < 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        super().__init__(params, {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay,
                                  "foreach": foreach, "maximize": maximize})

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0.0
            if grad.dim() > 1:
                state["row_var"] = treadle.zeros(*grad.shape[:-1], 1, dtype=grad.dtype)
                state["col_var"] = treadle.zeros(*grad.shape[:-2], 1, grad.shape[-1], dtype=grad.dtype)
            else:
                state["variance"] = treadle.zeros_like(grad)
        state["step"] = step = state["step"] + 1.0
        eps1 = treadle.finfo(param.dtype).eps if group["eps"][0] is None else group["eps"][0]
        rate = min(group["lr"], 1 / step**0.5)
        size = param.pow(2).mean().sqrt().clamp(min=group["eps"][1]) * rate
        value = param * (1 - group["lr"] * group["weight_decay"])
        weight = step ** group["beta2_decay"]
        square = grad * grad
        if grad.dim() > 1:
            rows = state["row_var"] + (square.mean(-1, keepdim=True) - state["row_var"]) * weight
            columns = state["col_var"] + (square.mean(-2, keepdim=True) - state["col_var"]) * weight
            state["row_var"].copy_(rows)
            state["col_var"].copy_(columns)
            variance = (rows @ columns) / rows.mean(-2, keepdim=True).clamp(min=eps1)
        else:
            variance = state["variance"] + (square - state["variance"]) * weight
            state["variance"].copy_(variance)
        update = grad * variance.clamp(min=eps1 * eps1).rsqrt()
        scale = (update.pow(2).mean().sqrt() / group["d"]).clamp(min=1.0)
        param.copy_(value - update * (size / scale))


class Muon(PerParameterOptimizer):
    """Momentum, orthogonalised by a Newton-Schulz iteration: for matrices only (Jordan, 2024)."""

    complex_parameters = ""

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True,
                 ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), eps: float = 1e-7, ns_steps: int = 5,
                 adjust_lr_fn: str | None = None) -> None:
        check_at_least_zero(lr=("learning rate", lr), momentum=("momentum", momentum), weight_decay=("weight decay", weight_decay))
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        if ns_steps >= 100:
            raise ValueError(f"Number of steps must be less than 100 for computational efficiency, got {ns_steps}")
        super().__init__(params, {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "ns_coefficients": ns_coefficients,
            "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn, "maximize": False})
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() != 2:
                    raise ValueError(f"Muon only supports 2D parameters whereas we found a parameter with size: {p.shape}")

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["momentum_buffer"] = treadle.zeros_like(grad)
        buffer = state["momentum_buffer"] + (grad - state["momentum_buffer"]) * (1 - group["momentum"])
        state["momentum_buffer"].copy_(buffer)
        update = grad + (buffer - grad) * group["momentum"] if group["nesterov"] else buffer
        rows, columns = param.shape
        ratio = (max(1, rows / columns) ** 0.5 if group["adjust_lr_fn"] in (None, "original") else 0.2 * max(rows, columns) ** 0.5)
        update = _orthogonal(update, group).to(param.dtype)
        param.copy_(param * (1 - group["lr"] * group["weight_decay"]) - update * (group["lr"] * ratio))


def _orthogonal(x: Tensor, group: dict[str, Any]) -> Tensor:
    """The nearest orthogonal matrix, roughly: a quintic iteration on the singular values, rounded to bfloat16 where PyTorch's is."""
    a, b, c = group["ns_coefficients"]
    tall = x.size(0) > x.size(1)
    y = x.bfloat16()
    y = y.t() if tall else y
    y = y / y.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        square = y @ y.t()
        y = treadle.addmm(y, treadle.addmm(square, square, square, beta=b, alpha=c), y, beta=a)
    return y.t() if tall else y
