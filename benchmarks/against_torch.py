"""Treadle and PyTorch side by side in one process: interleaved runs, medians, ratios (above 1: Treadle is faster).

Needs the [oracle] extra. `python benchmarks/against_torch.py [name ...]`; run it on a quiet machine.
"""
from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import treadle

Run = Callable[[], Any]
PAUSE = 0.01  # seconds after which one library's idle threads no longer spin in the other's way


def median_times(runs: list[Run], repeats: int = 15, at_least: float = 0.02,
                 pick: Callable[[list[float]], float] = statistics.median) -> list[float]:
    """Seconds per call of each, measured in turn so that the machine's moods hit all alike. `pick` chooses among the samples."""
    counts = []
    for run in runs:
        for _ in range(4):
            run()
        start = time.perf_counter()
        run()
        counts.append(max(1, int(at_least / max(time.perf_counter() - start, 1e-7))))
    samples: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, count, found in zip(runs, counts, samples, strict=True):
            time.sleep(PAUSE)
            run()
            start = time.perf_counter()
            for _ in range(count):
                run()
            found.append((time.perf_counter() - start) / count)
    return [pick(s) for s in samples]


def done(value: Any) -> Any:
    treadle.cpu.synchronize()
    return value


def product(n: int) -> list[Run]:
    a, b = torch.randn(n, n), torch.randn(n, n)
    x, y = (treadle.tensor(t.numpy()) for t in (a, b))
    return [lambda: torch.mm(a, b), lambda: done(treadle.mm(x, y))]


def chain(n: int) -> list[Run]:
    def ten(library: Any, x: Any) -> Any:
        y = library.tanh(x * 1.1 + 0.3) * x
        return library.sigmoid(library.relu(library.exp(-y) - 0.5) * 2.0) + x
    a = torch.randn(n)
    x = treadle.tensor(a.numpy())
    return [lambda: ten(torch, a), lambda: done(ten(treadle, x))]


def training_step(library: Any, batch: int, widths: tuple[int, ...]) -> Run:
    """One step of an MLP with Adam, the loss looked at."""
    nn = library.nn
    library.manual_seed(0)
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())][:-1]
    model = nn.Sequential(*layers)
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    x, y = library.randn(batch, widths[0]), library.randint(0, widths[-1], (batch,))

    def step() -> Any:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
    return step


def recurrent_step(library: Any, kind: str) -> Run:
    """One training step of a recurrent layer: 50 steps of time, batch 32, 32 -> 128."""
    library.manual_seed(0)
    layer = getattr(library.nn, kind)(32, 128, batch_first=True)
    optimizer = library.optim.SGD(layer.parameters(), lr=1e-3)
    x = library.randn(32, 50, 32)

    def step() -> Any:
        loss = (layer(x)[0] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
    return step


def softmax(rows: int, columns: int) -> list[Run]:
    a = torch.randn(rows, columns)
    x = treadle.tensor(a.numpy())
    return [lambda: torch.softmax(a, 1), lambda: done(treadle.softmax(x, 1))]


CASES: dict[str, Callable[[], list[Run]]] = {
    **{f"mm {n}": (lambda n=n: product(n)) for n in (64, 256, 512, 1024)},
    "10 pointwise ops on 8": lambda: chain(8),
    "10 pointwise ops on 1M": lambda: chain(1 << 20),
    "10 pointwise ops on 16M": lambda: chain(1 << 24),
    "softmax 4096x1000": lambda: softmax(4096, 1000),
    "digits step (64-256-128-10, batch 64)": lambda: [training_step(lib, 64, (64, 256, 128, 10)) for lib in (torch, treadle)],
    "mlp step (784-512-512-10, batch 64)": lambda: [training_step(lib, 64, (784, 512, 512, 10)) for lib in (torch, treadle)],
    **{f"{kind} step": (lambda kind=kind: [recurrent_step(lib, kind) for lib in (torch, treadle)]) for kind in ("RNN", "LSTM", "GRU")},
}


def main() -> None:
    torch.set_num_threads(treadle.get_num_threads())
    print(f"{'case':40} {'PyTorch':>12} {'Treadle':>12} {'ratio':>7}")
    for name, make in CASES.items():
        if len(sys.argv) == 1 or any(word in name for word in sys.argv[1:]):
            theirs, ours = median_times(make())
            print(f"{name:40} {theirs * 1e6:9.1f} us {ours * 1e6:9.1f} us {theirs / ours:7.2f}", flush=True)


if __name__ == "__main__":
    main()
