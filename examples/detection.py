"""Object detection in one pass over a grid (after YOLO, Redmon et al., 2016), on pictures of shapes drawn by the program itself.

Run `python examples/detection.py`. Each picture has one to three squares, discs and crosses on a noisy ground; each cell of a 6 x 6
grid predicts whether an object's middle lies in it, where, how large it is, and of which kind.
"""
from __future__ import annotations

import argparse
import time

import numpy as np

import treadle as torch
import treadle.nn.functional as F
from treadle import nn

SIZE, GRID = 48, 6
CELL = SIZE // GRID
KINDS = ("square", "disc", "cross")


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [count, 1, SIZE, SIZE], and targets [count, GRID, GRID, 6]: object, x, y in the cell, width, height in SIZE, kind."""
    pictures = rng.normal(0, 0.15, (count, 1, SIZE, SIZE)).astype(np.float32)
    targets = np.zeros((count, GRID, GRID, 6), np.float32)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for picture, target in zip(pictures, targets, strict=True):
        for _ in range(rng.integers(1, 4)):
            half, kind = rng.integers(3, 8), rng.integers(3)
            x, y = rng.integers(half, SIZE - half, 2)
            cell = target[y // CELL, x // CELL]
            if cell[0]:
                continue
            near = np.maximum(abs(rows - y), abs(columns - x)) <= half
            bars = (abs(rows - y) <= 1) | (abs(columns - x) <= 1)
            shape = near if kind == 0 else (rows - y) ** 2 + (columns - x) ** 2 <= half ** 2 if kind == 1 else near & bars
            picture[0][shape] += rng.uniform(0.7, 1.2)
            cell[:] = 1, x % CELL / CELL, y % CELL / CELL, 2 * half / SIZE, 2 * half / SIZE, kind
    return pictures, targets


def layer(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.1, inplace=True))


class Detector(nn.Module):
    """(N, 1, SIZE, SIZE) -> (N, GRID, GRID, 5 + kinds), boxes already between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(layer(1, 16, 2), layer(16, 32, 2), layer(32, 48, 2), layer(48, 48), nn.Conv2d(48, 5 + len(KINDS), 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x).permute(0, 2, 3, 1)
        return torch.cat([y[..., :1], y[..., 1:5].sigmoid(), y[..., 5:]], dim=-1)


def loss_of(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    there = target[..., 0]
    score = F.binary_cross_entropy_with_logits(found[..., 0], there, pos_weight=torch.tensor(4.0))
    box = ((found[..., 1:5] - target[..., 1:5]) ** 2).sum(-1)
    kind = F.cross_entropy(found[..., 5:].permute(0, 3, 1, 2), target[..., 5].long(), reduction="none")
    return score + ((10 * box + kind) * there).sum() / there.sum()


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """(N, GRID, GRID, 4) in cells -> left, top, right, bottom as parts of the picture."""
    place = torch.arange(GRID)
    x, y = (boxes[..., 0] + place) / GRID, (boxes[..., 1] + place[:, None]) / GRID
    half = boxes[..., 2:4] / 2
    return torch.stack([x - half[..., 0], y - half[..., 1], x + half[..., 0], y + half[..., 1]], dim=-1)


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes given by corners."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    area_a, area_b = ((c[..., 2:] - c[..., :2]).clamp(min=0).prod(-1) for c in (a, b))
    return inner / (area_a + area_b - inner + 1e-9)


def report(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> None:
    model.eval()
    with torch.no_grad():
        found = model(x)
        there, claimed = target[..., 0] > 0, found[..., 0] > 0
        iou = overlap(corners(found[..., 1:5]), corners(target[..., 1:5]))
        right = there & claimed & (iou > 0.5) & (found[..., 5:].argmax(-1) == target[..., 5].long())
        precision, recall = right.sum() / claimed.sum().clamp(min=1), right.sum() / there.sum()
    print(f"precision {precision.item():.3f}  recall {recall.item():.3f}  mean overlap {iou[there].mean().item():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures, targets = (torch.from_numpy(a) for a in draw(rng, 2000))
    held_pictures, held_targets = (torch.from_numpy(a) for a in draw(rng, 300))
    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)

    @torch.compile
    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    start = time.perf_counter()
    for i in range(args.steps):
        index = torch.randint(0, len(pictures), (32,))
        loss = step(pictures[index], targets[index])
        schedule.step()
        if (i + 1) % 100 == 0:
            print(f"step {i + 1:4d}  loss {loss.item():.3f}  {time.perf_counter() - start:.1f} s")
    report(model, held_pictures, held_targets)


if __name__ == "__main__":
    main()
