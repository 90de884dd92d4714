"""One line of Python, `relu(x @ w + b).sum()`, and its gradient, followed down to machine code."""
from __future__ import annotations

import treadle as torch


def title(text: str) -> None:
    print(f"\n--- {text} " + "-" * max(0, 100 - len(text)))


def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ w + b).sum()


def gradient(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(forward(x, w, b), (w, b))


def main() -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(32, 64), torch.randn(64, 16, requires_grad=True), torch.zeros(16, requires_grad=True)

    seen = torch.inspect(forward, x, w.detach(), b.detach())
    title("1. the graph as recorded (MLIR)")
    print(seen.mlir)
    title("2. the graph after the passes")
    print(seen.optimized)
    title("3. the plan: launches in order")
    print(seen.plan)
    title("4. kernels (loops over named axes)")
    print("\n".join(seen.kernels.values()))
    title("5. LLVM IR (first lines)")
    print("\n".join(seen.llvm.splitlines()[:25]))
    title("6. assembly (the fused multiply-adds, maxima and additions)")
    vector = [line for line in seen.asm.splitlines() if any(word in line for word in ("max", "fma", "add"))]
    print("\n".join(vector[:12]))

    title("the gradient is IR too")
    seen = torch.inspect(gradient, x, w, b)
    print(seen.mlir)
    print(seen.plan)


if __name__ == "__main__":
    main()
