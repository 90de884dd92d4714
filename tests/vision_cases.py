"""One call in Treadle and in PyTorch: results, gradients, errors; interpreted the first time, compiled the next."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle


def arrays_of(*shapes: Any, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [s if isinstance(s, np.ndarray) else rng.standard_normal(s).astype(np.float32) for s in shapes]


def _run(module: Any, call: Callable[..., Any], arrays: list[np.ndarray], grad: bool) -> list[Any]:
    inputs = [module.tensor(a) for a in arrays]
    for t in inputs:
        if grad and t.is_floating_point():
            t.requires_grad_()
    found = call(module, *inputs)
    results = list(found) if isinstance(found, (tuple, list)) else [found]
    out = [r.detach() for r in results]
    floats = [r for r in results if r.is_floating_point() and r.requires_grad]
    if grad and floats:
        rng = np.random.default_rng(5)
        total = sum((r * module.tensor(rng.standard_normal(tuple(r.shape)).astype(np.float32))).sum() for r in floats)
        total.backward()
        out += [t.grad for t in inputs if t.is_floating_point()]
    return out


def same(torch: Any, call: Callable[..., Any], *shapes: Any, grad: bool = True, rtol: float = 2e-5, atol: float = 1e-5) -> None:
    """`call(module, *tensors)` gives PyTorch's values, dtypes and gradients, in either tier."""
    arrays = arrays_of(*shapes)
    expected = _run(torch, call, arrays, grad)
    for tier in ("interpreted", "compiled", "again"):
        found = _run(treadle, call, arrays, grad)
        assert len(found) == len(expected)
        for i, (got, want) in enumerate(zip(found, expected, strict=True)):
            assert (got is None) == (want is None), f"result {i}"
            if want is not None:
                assert tuple(got.shape) == tuple(want.shape) and str(got.dtype).split(".")[-1] == str(want.dtype).split(".")[-1]
                np.testing.assert_allclose(got.float().numpy(), want.float().numpy(), rtol=rtol, atol=atol, err_msg=f"{tier}, result {i}")


def both_raise(torch: Any, call: Callable[..., Any], *shapes: Any) -> None:
    """PyTorch refuses the call; Treadle does with the same type of error."""
    arrays = arrays_of(*shapes)
    with pytest.raises(Exception) as theirs:
        call(torch, *[torch.tensor(a) for a in arrays])
    with pytest.raises(type(theirs.value)):
        call(treadle, *[treadle.tensor(a) for a in arrays])
