"""Compares a function of either library's module on the same arrays: values, dtypes, and gradients of a real projection."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import treadle


def _run(module: Any, function: Callable[..., Any], arrays: tuple[np.ndarray, ...], grad: bool) -> tuple[list[Any], list[Any]]:
    tensors = [module.tensor(a, requires_grad=grad and a.dtype.kind in "fc") for a in arrays]
    found = function(module, *tensors)
    return tensors, list(found) if isinstance(found, (tuple, list)) else [found]


def _array(t: Any) -> np.ndarray:
    return t.detach().resolve_conj().numpy()


def _dtype(t: Any) -> str:
    return str(t.dtype).rpartition(".")[2]


def _project(module: Any, outs: list[Any], weights: list[np.ndarray]) -> Any:
    parts = [o * module.tensor(w) for o, w in zip(outs, weights, strict=True) if w.size and getattr(o, "requires_grad", False)]
    return sum([(p.real if p.is_complex() else p).sum() for p in parts[1:]], (parts[0].real if parts[0].is_complex() else parts[0]).sum())


def compare(torch: Any, function: Callable[..., Any], *arrays: np.ndarray, grad: bool = True, tolerance: float = 1e-4) -> None:
    """`function(module, *tensors)` twice with Treadle (the second time compiled) against once with PyTorch."""
    theirs, want = _run(torch, function, arrays, grad)
    weights = [np.random.default_rng(5).uniform(0.5, 1.5, tuple(w.shape)).astype(_array(w).dtype) if hasattr(w, "dtype") else np.ones(())
               for w in want]
    differentiable = any([hasattr(w, "dtype") and w.requires_grad for w in want])
    if differentiable:
        _project(torch, want, weights).backward()
    for _ in range(2):
        ours, got = _run(treadle, function, arrays, grad)
        for g, w in zip(got, want, strict=True):
            if not hasattr(w, "dtype"):
                assert g == w
                continue
            assert _dtype(g) == _dtype(w) and tuple(g.shape) == tuple(w.shape)
            np.testing.assert_allclose(_array(g), _array(w), rtol=tolerance, atol=tolerance)
        if differentiable:
            _project(treadle, got, weights).backward()
            for mine, other in zip(ours, theirs, strict=True):
                if other.grad is not None:
                    assert _dtype(mine.grad) == _dtype(other.grad)
                    np.testing.assert_allclose(_array(mine.grad), _array(other.grad), rtol=5 * tolerance, atol=5 * tolerance)
