"""Extending Treadle: a layer, an activation, an autograd.Function, and a new op declared in one place with its kernel."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

import treadle as torch
from treadle import nn
from treadle.ops import declare_elementwise


# 1. A layer and an activation are ordinary Python: they fuse like anything else.
def snake(x: torch.Tensor, a: float = 1.0) -> torch.Tensor:
    """x + sin(a x)^2 / a, a periodic activation."""
    return x + torch.sin(a * x) ** 2 / a


class FourierFeatures(nn.Module):
    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(inputs, features) * 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angle = x @ self.frequencies
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


# 2. A Function with a backward of its own: rounding whose gradient passes straight through.
class StraightThroughRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


# 3. A new op, declared once: numpy meaning, kernel (written with the emitter's own functions), and derivative.
gaussian = declare_elementwise(
    "gaussian",
    reference=lambda x: np.exp(-x * x),
    kernel=lambda k, x: k.exp(k.neg(k.mul(x, x))),
    vjp=lambda b, g, x, out: b.mul(g, b.mul(b.mul(-2.0, x), out)),
)


def main() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 9).requires_grad_()
    y = gaussian(x)
    y.sum().backward()
    print("gaussian(x)    ", [round(v, 3) for v in y.tolist()])
    print("its derivative ", [round(v, 3) for v in x.grad.tolist()])
    print("gradcheck      ", torch.autograd.gradcheck(gaussian, (torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_(),)))

    z = torch.tensor([0.2, 1.7], requires_grad=True)
    StraightThroughRound.apply(z).sum().backward()
    print("straight through", z.grad.tolist())

    inputs = torch.linspace(-1, 1, 256).unsqueeze(1)
    target = torch.sin(6 * math.pi * inputs)
    model = nn.Sequential(FourierFeatures(1, 32), nn.Linear(64, 32))
    head = nn.Linear(32, 1)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=1e-2)
    for step in range(201):
        loss = ((head(snake(gaussian(model(inputs)))) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:3d}  loss {loss.item():.5f}")


if __name__ == "__main__":
    main()
