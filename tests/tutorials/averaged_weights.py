"""Moving averages of weights, their batch statistics, and every schedule of learning rates on the way."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import math

import numpy as np
import torch
from filling import fill
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset


class EMA:
    """A shadow of the weights, as many repositories write it."""

    def __init__(self, model, decay):
        self.decay, self.shadow, self.backup = decay, {}, {}
        for name, param in model.named_parameters():
            if param.requires_grad:
                self.shadow[name] = param.data.clone()

    def update(self, model):
        for name, param in model.named_parameters():
            if param.requires_grad:
                assert name in self.shadow
                self.shadow[name] = ((1.0 - self.decay) * param.data + self.decay * self.shadow[name]).clone()

    def apply_shadow(self, model):
        for name, param in model.named_parameters():
            self.backup[name] = param.data
            param.data = self.shadow[name]

    def restore(self, model):
        for name, param in model.named_parameters():
            param.data = self.backup[name]


def make():
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.SiLU(), nn.Linear(10, 3))


def main():
    rng = np.random.default_rng(0)
    x, y = torch.tensor(rng.standard_normal((32, 6)), dtype=torch.float32), torch.tensor(rng.integers(0, 3, 32))
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    loss_fn = nn.CrossEntropyLoss()
    schedules = {
        "swa": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=4), "onecycle": lambda o: lr_scheduler.OneCycleLR(
            o, max_lr=0.1, steps_per_epoch=4, epochs=6, pct_start=0.3),
        "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=5, T_mult=2, eta_min=1e-4),
        "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=3, mode="triangular2", cycle_momentum=False),
        "warmup": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(o, 0.1, total_iters=5),
                                                           lr_scheduler.PolynomialLR(o, total_iters=20, power=0.9)]),
        "noam": lambda o: lr_scheduler.LambdaLR(o, lambda step: 6 ** -0.5 * min((step + 1) ** -0.5, (step + 1) * 8 ** -1.5)),
        "step": lambda o: lr_scheduler.StepLR(o, step_size=4, gamma=0.5)}
    curve = []
    for name, schedule in schedules.items():
        model = fill(make(), 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        scheduler = schedule(optimizer)
        swa_model, swa_scheduler = AveragedModel(model), SWALR(optimizer, swa_lr=0.02, anneal_epochs=2)
        ema_model = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        ema = EMA(model, 0.9)
        for epoch in range(6 if name == "swa" else 3):
            for input, target in loader:
                optimizer.zero_grad()
                loss = loss_fn(model(input), target)
                loss.backward()
                optimizer.step()
                ema_model.update_parameters(model)
                ema.update(model)
                if name != "swa":
                    scheduler.step()
                    curve.append(optimizer.param_groups[0]["lr"])
            if name == "swa":
                if epoch > 3:
                    swa_model.update_parameters(model)
                    swa_scheduler.step()
                else:
                    scheduler.step()
            curve.append(loss.item())
        if name == "swa":
            update_bn(loader, swa_model)
            swa_model.eval(), ema_model.eval()
            curve += [loss_fn(swa_model(x), y).item(), loss_fn(ema_model(x), y).item(), float(swa_model.n_averaged)]
        model.eval()
        ema.apply_shadow(model)
        curve.append(loss_fn(model(x), y).item())
        ema.restore(model)
        curve.append(loss_fn(model(x), y).item())
        assert math.isfinite(curve[-1])
    return curve
