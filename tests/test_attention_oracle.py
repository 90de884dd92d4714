"""Attention and its gradients against PyTorch: interpreted, then compiled."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle

pytestmark = pytest.mark.oracle

RNG = np.random.default_rng(0)
SEEN = RNG.random((40, 30)) < 0.5
SEEN[3] = False  # nothing to look at: PyTorch gives zeros
BIAS = np.where(SEEN, RNG.standard_normal((40, 30)), -np.inf).astype(np.float32)
PADDING = RNG.random((2, 1, 1, 30)) < 0.7
SMALL = ((2, 3, 40, 20), (2, 3, 30, 20), (2, 3, 30, 12))

CASES: list[tuple[tuple[tuple[int, ...], ...], Callable[[Any], Any] | None, dict[str, Any]]] = [
    (((2, 3, 40, 8), (2, 3, 30, 8), (2, 3, 30, 8)), None, {}),
    (((2, 3, 40, 20), (2, 3, 40, 20), (2, 3, 40, 12)), None, {"is_causal": True}),
    (SMALL, lambda T: T.tensor(SEEN), {}),
    (SMALL, lambda T: T.tensor(BIAS), {}),
    (SMALL, lambda T: T.tensor(BIAS, requires_grad=True), {}),
    (SMALL, lambda T: T.tensor(PADDING), {"scale": 0.7}),
    (((40, 16), (30, 16), (30, 16)), None, {}),
    (((3, 40, 16), (3, 30, 16), (3, 30, 16)), None, {}),
    (((2, 1, 3, 10, 16), (2, 2, 3, 9, 16), (2, 2, 3, 9, 16)), None, {}),
    (((2, 8, 33, 16), (2, 2, 17, 16), (2, 2, 17, 16)), None, {"enable_gqa": True, "is_causal": True}),
    (((2, 1, 40, 16), (2, 3, 30, 16), (1, 3, 30, 16)), None, {}),
    (((2, 3, 2, 16), (2, 3, 30, 16), (2, 3, 30, 16)), None, {}),
    (((1, 2, 130, 128), (1, 2, 300, 128), (1, 2, 300, 128)), None, {}),
]


def everything(T: Any, arrays: list[np.ndarray], mask: Callable[[Any], Any] | None, options: dict[str, Any]) -> list[np.ndarray]:
    x = [T.tensor(a, requires_grad=True) for a in arrays]
    term = mask(T) if mask else None
    out = T.nn.functional.scaled_dot_product_attention(*x, attn_mask=term, **options)
    weights = np.linspace(-1, 1, int(np.prod(out.shape)), dtype=np.float32).reshape(tuple(out.shape))
    (out * T.tensor(weights)).sum().backward()
    return [out.detach().numpy(), *[t.grad.numpy() for t in (*x, *([term] if term is not None and term.requires_grad else []))]]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_values_and_gradients(case: int) -> None:
    import torch
    shapes, mask, options = CASES[case]
    rng = np.random.default_rng(case)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    wanted = everything(torch, arrays, mask, options)
    for _ in range(2):
        for got, want in zip(everything(treadle, arrays, mask, options), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=3e-5)


def test_gradients_of_gradients() -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    arrays = [np.random.default_rng(1).standard_normal((1, 2, 12, 8)).astype(np.float32) for _ in range(3)]

    def second(T: Any) -> list[np.ndarray]:
        x = [T.tensor(a, requires_grad=True) for a in arrays]
        first = T.autograd.grad((T.nn.functional.scaled_dot_product_attention(*x) ** 2).sum(), x, create_graph=True)
        sum((g ** 2).sum() for g in first).backward()
        return [t.grad.numpy() for t in x]
    with sdpa_kernel(SDPBackend.MATH):
        wanted = second(torch)
    for _ in range(2):
        for got, want in zip(second(treadle), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_types(dtype: str) -> None:
    import torch
    arrays = [np.random.default_rng(2).standard_normal((1, 2, 12, 8)) for _ in range(3)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*[torch.tensor(a).to(getattr(torch, dtype)) for a in arrays])
    x = [treadle.tensor(a).to(getattr(treadle, dtype)) for a in arrays]
    for _ in range(2):
        found = treadle.nn.functional.scaled_dot_product_attention(*x)
        np.testing.assert_allclose(found.double().numpy(), wanted.double().numpy(), rtol=2e-2, atol=2e-2)
