"""Train a small network on scikit-learn's 1,797 handwritten digits through Treadle's compiler.

Run `python examples/digits.py`. See inside with `TREADLE_LOG=flush,compile python examples/digits.py`.
"""
from __future__ import annotations

import argparse
import time

from sklearn.datasets import load_digits

import treadle as torch
import treadle.nn.functional as F
from treadle import nn
from treadle.utils.data import DataLoader, TensorDataset


def load(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """The 8x8 images as rows of 64 floats in [0, 1]; the last 20 % of a shuffled order are held out."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).numpy()
    x = torch.tensor(images[order] / 16.0, dtype=torch.float32)
    y = torch.tensor(labels[order], dtype=torch.int64)
    split = int(0.8 * len(x))
    return TensorDataset(*with_shifts(x[:split], y[:split])), TensorDataset(x[split:], y[split:])


def with_shifts(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, and each again moved by one pixel up, down, left and right."""
    images = x.reshape(-1, 8, 8)
    row, column = torch.zeros(len(x), 1, 8), torch.zeros(len(x), 8, 1)
    moved = [images, torch.cat([images[:, 1:], row], 1), torch.cat([row, images[:, :-1]], 1),
             torch.cat([images[:, :, 1:], column], 2), torch.cat([column, images[:, :, :-1]], 2)]
    return torch.cat(moved).reshape(-1, 64), y.repeat(len(moved))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.3),
                                    nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    model.eval()
    where = next(model.parameters()).device
    x, y = (t.to(where) for t in data.tensors)
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return right


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    train, test = load(args.seed)
    loader = DataLoader(train, batch_size=args.batch_size, shuffle=True, drop_last=True)
    model = Net().to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    interpreted, compiled = [], []
    for epoch in range(args.epochs):
        total = 0.0
        for x, y in loader:
            before, start = torch.stats()["interpreted_runs"], time.perf_counter()
            loss = F.cross_entropy(model(x.to(args.device)), y.to(args.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            (interpreted if torch.stats()["interpreted_runs"] > before else compiled).append(time.perf_counter() - start)
        schedule.step()
        print(f"epoch {epoch + 1:2d}  loss {total / len(loader):.4f}  test accuracy {accuracy(model, test):.3f}", flush=True)

    def middle(times: list[float]) -> str:
        return f"{sorted(times)[len(times) // 2] * 1e6:7.0f} us" if times else "    none"
    print(f"step interpreted {middle(interpreted)} ({len(interpreted)} steps), compiled {middle(compiled)} ({len(compiled)} steps)")
    counts = torch.stats()
    print(f"{counts['ops_recorded']} ops recorded, {counts['plans']} plans, {counts['kernels']} kernels, "
          f"{counts['llvm_compiles']} LLVM compiles")
    print("See the IR: python examples/inspect_ir.py, or run this with TREADLE_DUMP=dump")


if __name__ == "__main__":
    main()
