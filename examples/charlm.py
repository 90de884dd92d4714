"""Character language models on real English (the texts of Python's `help()`): an LSTM and a small GPT.

Run `python examples/charlm.py`; `--model lstm` or `--model gpt` trains one of them.
"""
from __future__ import annotations

import argparse
import math
import time
from pydoc_data.topics import topics

import treadle as torch
import treadle.nn.functional as F
from treadle import nn

TEXT = "\n".join(topics.values())
ALPHABET = sorted(set(TEXT))
CODE = {c: i for i, c in enumerate(ALPHABET)}


class LSTM(nn.Module):
    context = 64

    def __init__(self, hidden: int = 192) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 48)
        self.lstm = nn.LSTM(48, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(ALPHABET))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(x))[0])


class Block(nn.Module):
    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.register_buffer("mask", torch.triu(torch.ones(context, context), diagonal=1).bool())

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(c // self.heads)
        weights = scores.masked_fill(self.mask[:t, :t], float("-inf")).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, t, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    context = 64

    def __init__(self, width: int = 96, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), width)
        self.position = nn.Parameter(torch.randn(self.context, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, heads, self.context) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(ALPHABET))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embedding(x) + self.position[:x.shape[1]])))


def batch(data: torch.Tensor, size: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows of the text and the characters that follow, (size, length) each."""
    start = torch.randint(0, len(data) - length - 1, (size, 1))
    window = data[start + torch.arange(length + 1)]
    return window[:, :-1], window[:, 1:]


def sample(model: nn.Module, prompt: str, count: int) -> str:
    """Continue the prompt by `count` characters drawn from the model."""
    text = prompt
    with torch.no_grad():
        for _ in range(count):
            recent = text[-model.context:].rjust(model.context)
            x = torch.tensor([[CODE[c] for c in recent]])
            probabilities = F.softmax(model(x)[0, -1] / 0.8, dim=-1)
            text += ALPHABET[int(torch.multinomial(probabilities, 1))]
    return text


def train(model: nn.Module, data: torch.Tensor, steps: int, lr: float) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    recent: list[float] = []
    start = time.perf_counter()
    for step in range(1, steps + 1):
        x, y = batch(data, 32, model.context)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-19:], loss.item()]
        if step % 100 == 0:
            ms = (time.perf_counter() - start) / step * 1e3
            print(f"  step {step}  loss {sum(recent) / len(recent):.3f} nats per character  {ms:.0f} ms a step", flush=True)
    return sum(recent) / len(recent)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["lstm", "gpt", "both"], default="both")
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    data = torch.tensor([CODE[c] for c in TEXT])
    print(f"{len(TEXT)} characters, {len(ALPHABET)} different")
    for name, kind, lr in (("lstm", LSTM, 4e-3), ("gpt", GPT, 2e-3)):
        if args.model in (name, "both"):
            torch.manual_seed(0)
            model = kind()
            print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters")
            loss = train(model, data, args.steps, lr)
            print(f"{name}: final loss {loss:.3f}; sample:\n{sample(model, 'The ', 120)}\n")


if __name__ == "__main__":
    main()
