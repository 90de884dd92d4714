"""An autoencoder whose units are seldom active: penalties from hooks, checkpoints in a file, a denoising one with masks."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import io
from collections import OrderedDict

import numpy as np
import torch
import torch.nn as nn
from filling import fill


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(OrderedDict([("fc1", nn.Linear(20, 12)), ("act1", nn.Sigmoid()), ("fc2", nn.Linear(12, 8)),
                                                  ("act2", nn.Sigmoid())]))
        self.decoder = nn.Sequential(OrderedDict([("fc1", nn.Linear(8, 12)), ("act1", nn.ELU()), ("fc2", nn.Linear(12, 20))]))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.seen += x.shape[0]
        z = self.encoder(x)
        return self.decoder(z), z


def kl_divergence(p, q):
    q = torch.mean(q, 0)
    p = torch.full_like(q, p)
    return torch.sum(p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q)))


def main():
    rng = np.random.default_rng(7)
    data = torch.from_numpy(rng.random((40, 20), dtype=np.float32))
    model = fill(AutoEncoder())
    activations = {}

    def keep(name):
        def hook(module, input, output):
            activations[name] = output
        return hook
    handles = [m.register_forward_hook(keep(n)) for n, m in model.named_modules() if isinstance(m, nn.Sigmoid)]
    criterion = nn.MSELoss(reduction="mean")
    optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-3, alpha=0.9, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=1)
    curve = []
    for epoch in range(6):
        total = 0.0
        for (x,) in zip(data.split(10)):
            recon, z = model(x)
            mse = criterion(recon, x)
            kl = sum(kl_divergence(0.05, a) for a in activations.values())
            l1 = sum(p.abs().sum() for n, p in model.named_parameters() if n.endswith("weight"))
            loss = mse + 1e-2 * kl + 1e-4 * l1 + 1e-3 * z.norm(p=1, dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * x.size(0)
            curve.append(loss.item())
        scheduler.step(total)
        curve.append(optimizer.param_groups[0]["lr"])
    for h in handles:
        h.remove()
    buffer = io.BytesIO()
    torch.save({"epoch": epoch, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(),
                "scheduler": scheduler.state_dict()}, buffer)
    buffer.seek(0)
    checkpoint = torch.load(buffer, map_location="cpu")
    again = AutoEncoder()
    missing, unexpected = again.load_state_dict(checkpoint["model_state_dict"], strict=False)
    assert not missing and not unexpected and again.seen.item() == 240 and checkpoint["epoch"] == 5
    optimizer = torch.optim.RMSprop(again.parameters(), lr=1.0)
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    for _ in range(3):
        mask = torch.from_numpy(rng.random((40, 20)) < 0.3)
        noisy = data.masked_fill(mask, 0)
        recon, _ = again(noisy)
        loss = ((recon - data)[mask] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    with torch.inference_mode():
        flat = torch.cat([p.flatten() for p in again.parameters()])
        curve += [flat.std().item(), (flat.abs() < 0.05).sum().item() / flat.numel()]
    return curve
