"""Automatic mixed precision with a gradient scaler, accumulated and clipped gradients, an overflow that skips its step."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import contextlib

import numpy as np
import torch
from filling import fill
from torch import nn
from torch.amp import GradScaler, autocast


def make_model(in_size, out_size, num_layers):
    layers = []
    for _ in range(num_layers - 1):
        layers.append(torch.nn.Linear(in_size, in_size))
        layers.append(torch.nn.GELU(approximate="tanh"))
    layers.append(torch.nn.Linear(in_size, out_size))
    return torch.nn.Sequential(*tuple(layers))


def main():
    rng = np.random.default_rng(0)
    data = [torch.from_numpy(rng.standard_normal((8, 16), dtype=np.float32)) for _ in range(6)]
    targets = [torch.from_numpy(rng.standard_normal((8, 4), dtype=np.float32)) for _ in range(6)]
    loss_fn = nn.MSELoss()
    curve = []
    for use_amp in (False, True):
        net = fill(make_model(16, 4, 3), 0)
        opt = torch.optim.SGD(net.parameters(), lr=0.05)
        scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=3, enabled=use_amp)
        accumulate = 2
        for epoch in range(2):
            for i, (input, target) in enumerate(zip(data, targets)):
                context = autocast(device_type="cpu", dtype=torch.bfloat16) if use_amp else contextlib.nullcontext()
                with context:
                    output = net(input)
                    assert output.dtype is (torch.bfloat16 if use_amp else torch.float32)
                    loss = loss_fn(output.float(), target) / accumulate
                    assert loss.dtype is torch.float32
                if epoch == 1 and i == 1:
                    loss = loss * float("inf") if use_amp else loss * 0
                scaler.scale(loss).backward()
                if (i + 1) % accumulate == 0:
                    scaler.unscale_(opt)
                    torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=0.5)
                    scaler.step(opt)
                    scaler.update()
                    opt.zero_grad(set_to_none=True)
                    curve.append(scaler.get_scale())
        with torch.no_grad():
            # what bfloat16 leaves of the digits is not the same on every machine: rounded off here
            curve += [round(loss_fn(net(x), t).item(), 2 if use_amp else 6) for x, t in zip(data, targets)]
        state = scaler.state_dict()
        curve += [float(state["scale"]), float(state["growth_interval"])] if use_amp else [float(len(state))]
    assert net[0].weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.float16, enabled=False):
        half = net.to(torch.bfloat16)
        curve.append(round(half(data[0].bfloat16()).float().abs().mean().item(), 2))
    return curve
