"""Image classification: a small residual network on scikit-learn's handwritten digits, compiled as whole training steps.

Run `python examples/cnn.py`.
"""
from __future__ import annotations

import argparse
import time

from sklearn.datasets import load_digits

import treadle as torch
import treadle.nn.functional as F
from treadle import nn


class Block(nn.Module):
    """Two convolutions and a way round them (He et al., 2015)."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
                                  nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        plain = channels == out and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def load() -> tuple[torch.Tensor, ...]:
    """Images (N, 1, 8, 8) in [0, 1] and labels; every fifth is held out."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels, dtype=torch.int64)
    held = torch.arange(len(x)) % 5 == 0
    return x[~held], y[~held], x[held], y[held]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    torch.manual_seed(0)
    x, y, x_test, y_test = load()
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), Block(16, 16),
                          Block(16, 32, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    batch = 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=args.epochs * (len(x) // batch))

    @torch.compile
    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    start = time.perf_counter()
    for epoch in range(args.epochs):
        total = 0.0
        for index in torch.randperm(len(x))[:len(x) // batch * batch].split(batch):
            total += step(x[index], y[index]).item()
            schedule.step()
        print(f"epoch {epoch + 1:2d}  loss {total / (len(x) // batch):.4f}")
    model.eval()
    with torch.no_grad():
        right = (model(x_test).argmax(1) == y_test).float().mean().item()
    print(f"test accuracy {right:.3f}, {sum(p.numel() for p in model.parameters())} parameters, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
