"""A sample of PyTorch's OpInfo database with its tensors laid out otherwise. For tests marked `pytest.mark.oracle` only."""
from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import torch


def mapped(f: Callable[[torch.Tensor], torch.Tensor], x: Any) -> Any:
    """`x` with `f` of each strided tensor in it, which keeps whether it requires a gradient."""
    if isinstance(x, torch.Tensor):
        return f(x.detach()).requires_grad_(x.requires_grad) if x.layout is torch.strided else x
    if isinstance(x, tuple | list) and not hasattr(x, "_fields"):
        return type(x)([mapped(f, y) for y in x])
    return {key: mapped(f, value) for key, value in x.items()} if isinstance(x, dict) else x


def _transposed(t: torch.Tensor) -> torch.Tensor:
    """The last axis in memory comes first; every second element of a vector's storage."""
    if t.dim() == 1:
        return torch.stack((t, t), -1)[:, 0]
    return t.movedim(-1, 0).clone(memory_format=torch.contiguous_format).movedim(0, -1) if t.dim() else t.clone()


def _shifted(t: torch.Tensor) -> torch.Tensor:
    """Three elements into a storage, which goes on after it."""
    storage = torch.ones(t.numel() + 5, dtype=t.dtype)
    return storage[3:3 + t.numel()].view(t.shape).copy_(t)


def _expanded(t: torch.Tensor) -> torch.Tensor:
    """The first entry of the first axis, repeated without copies."""
    return t.narrow(0, 0, 1).clone().expand(t.shape) if t.dim() and t.size(0) else t.clone()


# Repeated rows make matrices singular, and their factors arbitrary.
FACTORED = re.compile(r"linalg\..*|(lu|cholesky|svd|pca|qr|geqrf|or|inverse|pinverse|logdet|triangular_solve).*")
CRASHES = {"_chunk_cat"}  # PyTorch itself ends the process on some layouts
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": _transposed, "shifted": _shifted, "expanded": _expanded,
    "empty": lambda t: t[:0].clone() if t.dim() else t.clone(),
    "scalar": lambda t: t.reshape(-1)[0].clone() if t.numel() else t.clone(),
}


def converted(sample: Any, old: torch.dtype, new: torch.dtype) -> Any:
    """A copy of the sample with tensors of one dtype in another."""
    return _changed(sample, lambda t: t.to(new) if t.dtype is old else t)


def relaid(sample: Any, layout: str) -> Any:
    """A copy of the sample."""
    return _changed(sample, LAYOUTS[layout])


def _changed(sample: Any, f: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    made = copy.copy(sample)
    made.input, made.args, made.kwargs = (mapped(f, x) for x in (sample.input, sample.args, sample.kwargs))
    return made
