"""PyTorch's samples as Treadle's arguments, and Treadle's results as PyTorch's. For tests marked `pytest.mark.oracle` only."""
from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import treadle
from treadle.creation import adopt, to_array
from treadle.ir import dtypes

BFLOAT16 = dtypes.bfloat16.np
NAMES = {getattr(torch, d.name): d.name for d in dtypes.ALL}


SPARSE = {torch.sparse_coo: ("sparse_coo_tensor", ("_indices", "_values")),
          torch.sparse_csr: ("sparse_csr_tensor", ("crow_indices", "col_indices", "values")),
          torch.sparse_csc: ("sparse_csc_tensor", ("ccol_indices", "row_indices", "values"))}


class Untranslatable(Exception):
    """The sample holds what is not compared here: sparse arguments, a device."""


def flat_array(t: torch.Tensor) -> np.ndarray:
    """A copy of the whole storage of `t`."""
    whole = torch.empty(0, dtype=t.dtype).set_(t.detach().untyped_storage())
    if t.dtype is torch.bfloat16:
        return whole.view(torch.int16).numpy().copy().view(BFLOAT16)
    if t.dtype is torch.complex32:
        return torch.view_as_real(whole).numpy().view(dtypes.complex32.np)[..., 0].copy()
    return whole.numpy().copy()


def tensor(t: torch.Tensor) -> treadle.Tensor:
    """The same elements in the same places of a storage."""
    if t.dtype not in NAMES or t.dim() > 64 or t.layout is not torch.strided or t.device.type != "cpu":
        raise Untranslatable(f"{t.dtype}, {t.layout}, {t.device}")
    if t.is_conj() or t.is_neg():
        t = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).copy_(t.detach()).requires_grad_(t.requires_grad)
    flat = flat_array(t)
    if t.is_contiguous() and t.storage_offset() == 0 and flat.size == t.numel():
        made = adopt(flat.reshape(tuple(t.shape)))
    else:
        made = treadle.as_strided(adopt(flat), tuple(t.shape), t.stride(), t.storage_offset()).detach()
    return made.requires_grad_() if t.requires_grad else made


def sharing(t: torch.Tensor, storages: dict[int, treadle.Tensor]) -> treadle.Tensor:
    """`tensor(t)`, in the memory of those before it that share memory with it."""
    if t.layout is not torch.strided or t.requires_grad or t.dtype not in NAMES or t.device.type != "cpu":
        return tensor(t)
    if not t.numel():  # no memory, but it may be the same tensor
        return storages.setdefault(id(t), tensor(t))
    key = t.untyped_storage().data_ptr()
    if key not in storages:
        storages[key] = adopt(flat_array(t))
    return treadle.as_strided(storages[key], tuple(t.shape), t.stride(), t.storage_offset())


def ours(x: Any) -> Any:
    """`x` with everything of PyTorch's in it replaced by Treadle's."""
    if isinstance(x, torch.Tensor):
        return tensor(x)
    if isinstance(x, torch.Size):
        return treadle.Size(x)
    if isinstance(x, tuple | list):
        return type(x)([ours(y) for y in x]) if not hasattr(x, "_fields") else tuple([ours(y) for y in x])
    if isinstance(x, dict):
        return {key: ours(value) for key, value in x.items()}
    if isinstance(x, slice):
        return slice(ours(x.start), ours(x.stop), ours(x.step))
    if isinstance(x, torch.dtype):
        if x not in NAMES:
            raise Untranslatable(str(x))
        return getattr(treadle, NAMES[x])
    if isinstance(x, torch.device):
        return treadle.device(str(x))
    if isinstance(x, torch.memory_format | torch.layout):
        found = getattr(treadle, str(x).split(".")[1], None)
        if found is None:
            raise Untranslatable(str(x))
        return found
    if isinstance(x, torch.Generator):
        return treadle.Generator().manual_seed(x.initial_seed())
    if isinstance(x, torch.nn.Module):
        return getattr(treadle.nn, type(x).__name__)()
    if callable(x) and getattr(x, "__module__", "") and x.__module__.startswith("torch"):
        return function(x, x.__name__)
    return x


def theirs(x: Any) -> Any:
    """`x` with Treadle's tensors replaced by PyTorch's."""
    if isinstance(x, treadle.Tensor) and x.layout is not treadle.strided:
        make, parts = SPARSE[getattr(torch, x.layout.name)]
        more = {"is_coalesced": x.is_coalesced()} if x.is_sparse else {}
        return getattr(torch, make)(*[theirs(getattr(x.detach(), part)()) for part in parts], tuple(x.shape), **more)
    if isinstance(x, treadle.Tensor):
        array = to_array(x.detach())
        if array.dtype == BFLOAT16:
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        if array.dtype == dtypes.complex32.np:
            return torch.view_as_complex(torch.from_numpy(np.array(array, copy=True)[..., None].view(np.float16)))
        return torch.from_numpy(np.array(array, copy=True))
    if isinstance(x, tuple | list):
        return [theirs(y) for y in x]
    return str(x).removeprefix("treadle.") if isinstance(x, dtypes.DType) else x


def fresh(x: Any) -> Any:
    """A copy of PyTorch's arguments with the same strides: what runs in place keeps the sample whole."""
    if isinstance(x, torch.Tensor):
        if x.layout is not torch.strided:
            raise Untranslatable(str(x.layout))
        if x.is_conj() or x.is_neg():
            return x.detach().clone().requires_grad_(x.requires_grad)
        flat = torch.empty(0, dtype=x.dtype).set_(x.detach().untyped_storage()).clone()
        return torch.as_strided(flat, x.shape, x.stride(), x.storage_offset()).detach().requires_grad_(x.requires_grad)
    if isinstance(x, tuple | list) and not hasattr(x, "_fields"):
        return type(x)([fresh(y) for y in x])
    return {key: fresh(value) for key, value in x.items()} if isinstance(x, dict) else x


def find(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part, None)
    return root


def _rebound(f: Any) -> Callable[..., Any]:
    """A lambda of PyTorch's tests that says `torch`, with Treadle in its place."""
    scope = {**f.__globals__, "torch": treadle, "F": treadle.nn.functional, "wrapper_set_seed": lambda op, *a, **k: op(*a, **k)}
    return types.FunctionType(f.__code__, scope, f.__name__, f.__defaults__, f.__closure__)


def function(f: Any, name: str) -> Callable[..., Any] | None:
    """Treadle's counterpart of the callable that PyTorch's tests call `name`; None when it has none."""
    if isinstance(f, types.FunctionType) and ("<lambda>" in f.__qualname__ or f.__name__ == "max_pool2d_backward"):
        return _rebound(f)
    if isinstance(f, type(torch.Tensor.add)):
        return getattr(treadle.Tensor, f.__name__, None)
    for root in (treadle, treadle.nn.functional, treadle.Tensor):
        found = find(root, name)
        if found is not None:
            return found
    if "aten" in repr(f):
        found = find(treadle.ops.aten, name.removeprefix("torch.ops.aten."))
        if found is not None:
            return found
    return None


def method(f: Any) -> Callable[..., Any] | None:
    """Treadle's method of the same name as PyTorch's method `f`, which may be a lambda."""
    if isinstance(f, types.FunctionType) and "<lambda>" in f.__qualname__:
        return _rebound(f)
    if isinstance(f, functools.partial):
        return functools.partial(function(f.func, f"nn.functional.{f.func.__name__}"), *f.args, **f.keywords)
    return getattr(treadle.Tensor, getattr(f, "__name__", ""), None)
