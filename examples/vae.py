"""A variational autoencoder (Kingma and Welling, 2013) learns to draw digits.

Run `python examples/vae.py`. It ends with digits that it made up, drawn with characters.
"""
from __future__ import annotations

import argparse
import time

from sklearn.datasets import load_digits

import treadle as torch
import treadle.nn.functional as F
from treadle import nn

LATENT = 6


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, LATENT), nn.Linear(64, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, 64), nn.ReLU(), nn.Linear(64, 256), nn.ReLU(), nn.Unflatten(1, (16, 4, 4)),
                                     nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(z), mean, log_variance


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images / 16.0, dtype=torch.float32).unsqueeze(1)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    @torch.compile
    def step(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        y, mean, log_variance = model(x)
        rebuilt = F.binary_cross_entropy(y, x, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean ** 2 - log_variance.exp()).sum()
        loss = (rebuilt + divergence) / len(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    start = time.perf_counter()
    for epoch in range(args.epochs):
        losses = [step(images[index]) for index in torch.randperm(len(images)).split(128)]
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:3d}  loss {torch.stack(losses).mean().item():.2f}  {time.perf_counter() - start:.1f} s")
    with torch.no_grad():
        drawn = model.decoder(torch.randn(8, LATENT)).squeeze(1)
    for line in range(8):
        print("  ".join("".join(" .:*#@"[int(v * 5.99)] for v in digit[line].tolist()) for digit in drawn))


if __name__ == "__main__":
    main()
