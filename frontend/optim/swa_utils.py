"""Averages of weights: stochastic weight averaging (Izmailov et al., 2018) and exponential moving averages."""
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import treadle
from treadle.nn.batch_normalization import _BatchNorm
from treadle.nn.module import Module
from treadle.optim.lr_scheduler import LRScheduler, _per_group
from treadle.optim.optimizer import Optimizer
from treadle.tensor import Tensor

__all__ = ["SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn", "update_bn"]

Average = Callable[[Tensor, Tensor, Any], Tensor]
MultiAverage = Callable[[list[Tensor], list[Tensor], Any], None]


def get_swa_avg_fn() -> Average:
    """(average, new, number averaged) -> the equal average of all so far."""
    return lambda average, new, n: average + (new - average) / (n + 1)


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """(average, new, number averaged) -> decay * average + (1 - decay) * new. ValueError unless 0 <= decay <= 1."""
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")
    return lambda average, new, n: average * decay + new * (1 - decay)


def _on_lists(average: Average) -> MultiAverage:
    def update(averages: list[Tensor], news: list[Tensor], n: Any) -> None:
        with treadle.no_grad():
            for old, new in zip(averages, news, strict=True):
                old.copy_(average(old, new, n))
    return update


def get_swa_multi_avg_fn() -> MultiAverage:
    """`get_swa_avg_fn` of lists, in place."""
    return _on_lists(get_swa_avg_fn())


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """`get_ema_avg_fn` of lists, in place."""
    return _on_lists(get_ema_avg_fn(decay))


class AveragedModel(Module):
    """A copy of `model`, in `module`, whose parameters `update_parameters` averages (equally, unless a function is given).

    With `use_buffers`, buffers are averaged too; otherwise they are copied. ValueError when both functions are given.
    """

    def __init__(self, model: Module, device: Any = None, avg_fn: Average | None = None, multi_avg_fn: MultiAverage | None = None,
                 use_buffers: bool = False) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", treadle.tensor(0, dtype=treadle.int64, device=device))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def _tensors(self, model: Module) -> list[Tensor]:
        return [*model.parameters(), *model.buffers()] if self.use_buffers else list(model.parameters())

    def update_parameters(self, model: Module) -> None:
        """Take the present parameters of `model` into the average."""
        averages = [t.detach() for t in self._tensors(self.module)]
        news = [t.detach().to(old.device) for t, old in zip(self._tensors(model), averages, strict=True)]
        with treadle.no_grad():
            if int(self.n_averaged) == 0:
                for old, new in zip(averages, news, strict=True):
                    old.copy_(new)
            elif self.multi_avg_fn is not None:
                self.multi_avg_fn(averages, news, self.n_averaged)
            else:
                update = self.avg_fn or get_swa_avg_fn()
                for old, new in zip(averages, news, strict=True):
                    old.copy_(update(old, new, self.n_averaged))
            if not self.use_buffers:
                for old, new in zip(self.module.buffers(), model.buffers(), strict=True):
                    old.detach().copy_(new.detach())
            self.n_averaged.add_(1)


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of the model's batch norms afresh, over the inputs of `loader` (or their first elements)."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return
    momenta, training = [m.momentum for m in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.train()
    try:
        with treadle.no_grad():
            for batch in loader:
                x = batch[0] if isinstance(batch, list | tuple) else batch
                model(x if device is None else x.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)


class SWALR(LRScheduler):
    """Anneals lr to `swa_lr` within `anneal_epochs`, and keeps it."""

    def __init__(self, optimizer: Optimizer, swa_lr: float | list[float], anneal_epochs: int = 10, anneal_strategy: str = "cos",
                 last_epoch: int = -1) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must by one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        for group, rate in zip(optimizer.param_groups, _per_group("swa_lr", optimizer, swa_lr), strict=True):
            group["swa_lr"] = rate
        self.anneal_strategy, self.anneal_epochs = anneal_strategy, anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return (1 - math.cos(math.pi * t)) / 2 if self.anneal_strategy == "cos" else t

    def get_lr(self) -> list[Any]:
        rates = self._rates()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(max(0, step - 1)), self._share(step)
        found = []
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            start = group["swa_lr"] if before == 1 else (rate - before * group["swa_lr"]) / (1 - before)
            found.append(group["swa_lr"] * now + start * (1 - now))
        return found
