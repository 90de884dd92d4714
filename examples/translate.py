"""A Transformer (Vaswani et al., 2017) learns to translate numbers into English: 371 -> "three hundred seventy-one".

Run `python examples/translate.py`. A tenth of the numbers below 1,000 are never shown in training; the words are spelt letter by letter.
"""
from __future__ import annotations

import argparse
import math
import time

import treadle as torch
import treadle.nn.functional as F
from treadle import nn

ONES = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
        "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
LETTERS = "_^$ -abcdefghijklmnopqrstuvwxyz0123456789"  # padding, begin, end, then what is written
LONGEST = 30


def spell(n: int) -> str:
    """The English name of 1 to 999."""
    hundreds, rest = divmod(n, 100)
    name = ONES[rest] if rest < 20 else TENS[rest // 10] + ("-" + ONES[rest % 10] if rest % 10 else "")
    return " ".join(part for part in (f"{ONES[hundreds]} hundred" if hundreds else "", name) if part)


def encode(text: str, length: int) -> list[int]:
    return [LETTERS.index(c) for c in text.ljust(length, "_")]


class Translator(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(LETTERS), width, padding_idx=0)
        self.transformer = nn.Transformer(width, 4, 2, 2, 128, dropout=0.0, batch_first=True)
        self.out = nn.Linear(width, len(LETTERS))
        place = torch.arange(LONGEST).unsqueeze(1) * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        self.register_buffer("places", torch.stack([place.sin(), place.cos()], -1).flatten(1))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(N, S) and (N, T) letters -> (N, T, letters): scores of the letter after each of the target's."""
        a, b = (self.embed(x) * 8 + self.places[:x.size(1)] for x in (source, target))
        mask = nn.Transformer.generate_square_subsequent_mask(target.size(1))
        return self.out(self.transformer(a, b, tgt_mask=mask, src_key_padding_mask=source == 0))


def translate(model: Translator, source: torch.Tensor) -> list[str]:
    """The most likely letter after another, for all sources at once."""
    target = torch.full((len(source), 1), LETTERS.index("^"), dtype=torch.int64)
    with torch.no_grad():
        for _ in range(LONGEST - 1):
            target = torch.cat([target, model(source, target)[:, -1:].argmax(-1)], dim=1)
    return ["".join(LETTERS[i] for i in row[1:]).split("$")[0] for row in target.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=700)
    args = parser.parse_args()
    torch.manual_seed(0)
    numbers = (torch.randperm(999) + 1).tolist()
    source = torch.tensor([encode(str(n), 3) for n in numbers])
    target = torch.tensor([encode(f"^{spell(n)}$", LONGEST) for n in numbers])
    shown = 900
    model = Translator()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=args.steps, pct_start=0.2)

    @torch.compile
    def step(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(a, b[:, :-1]).flatten(0, 1), b[:, 1:].flatten(), ignore_index=0)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    start = time.perf_counter()
    for i in range(args.steps):
        index = torch.randint(0, shown, (64,))
        loss = step(source[index], target[index])
        schedule.step()
        if (i + 1) % 100 == 0:
            print(f"step {i + 1:4d}  loss {loss.item():.4f}  {time.perf_counter() - start:.1f} s")
    model.eval()
    found = translate(model, source[shown:])
    right = sum(text == spell(n) for text, n in zip(found, numbers[shown:], strict=True))
    for n, text in list(zip(numbers[shown:], found, strict=True))[:3]:
        print(f"{n} -> {text}")
    print(f"{right} of {len(found)} numbers never seen are spelt right")


if __name__ == "__main__":
    main()
