"""PyTorch's samples of its layers, run by both libraries. For tests marked `pytest.mark.oracle` only: imports PyTorch."""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import opinfo_adapter as adapter
import torch
from opinfo_checks import describe
from torch.testing._internal.common_modules import module_db

import treadle
from treadle.utils._pytree import tree_leaves

PARTS = 4
RANDOM = re.compile(r"nn\.(.*Dropout.*|RReLU)")  # while training
# What is not compared, and why.
KNOWN = {
    r"nn\.Lazy.*": "PyTorch's has no state to copy before its first call",
    r"nn\.LPPool.*": "roots of negative numbers: nan in places that differ",
}


def entries() -> list[Any]:
    return [m for m in module_db if not any(re.fullmatch(k, m.name) for k in KNOWN)]


def ours(x: Any) -> Any:
    if isinstance(x, type) and issubclass(x, torch.nn.Module):
        return getattr(treadle.nn, x.__name__)
    if isinstance(x, torch.nn.TransformerEncoderLayer | torch.nn.TransformerDecoderLayer):
        attention = x.self_attn
        return getattr(treadle.nn, type(x).__name__)(
            x.linear1.in_features, attention.num_heads, x.linear1.out_features, x.dropout.p, x.activation.__name__,
            x.norm1.eps, attention.batch_first, x.norm_first, x.linear1.bias is not None)
    if isinstance(x, dict):
        return {k: ours(v) for k, v in x.items()}
    return adapter.ours(x)


def leaves(tree: Any) -> list[Any]:
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor | treadle.Tensor)]


def close(name: str, mine: Any, theirs: Any) -> str | None:
    if (mine is None) != (theirs is None):
        return f"{name}: only one has it"
    if theirs is None or theirs.layout is not torch.strided:
        return None
    mine = adapter.theirs(mine)
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return f"{name}: {mine.dtype}{list(mine.shape)} instead of {theirs.dtype}{list(theirs.shape)}"
    if not torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3, equal_nan=True):
        return f"{name}: differs by {(mine - theirs).abs().max()}"
    return None


def differences(entry: Any, sample: Any, training: bool) -> Iterator[str | None]:
    args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
    given, named = sample.forward_input.args, sample.forward_input.kwargs
    torch.manual_seed(0)
    made = entry.module_cls(*args, **kwargs).train(training)
    before = {k: v.clone() for k, v in made.state_dict().items() if isinstance(v, torch.Tensor)}
    try:
        want = made(*given, **named)
        mine_given, mine_named = [ours(a) for a in given], ours(named)
        mine_args, mine_kwargs = [ours(a) for a in args], ours(kwargs)
    except (RuntimeError, adapter.Untranslatable):  # a sample that PyTorch itself refuses, or one with layers among the arguments
        return
    where = getattr(treadle, entry.module_cls.__module__.split(".")[1])
    mine = getattr(where, entry.module_cls.__name__)(*mine_args, **mine_kwargs).train(training)
    mine.load_state_dict({k: adapter.tensor(v.contiguous()) for k, v in before.items()})
    got = mine(*mine_given, **mine_named)
    yield None if repr(mine) == repr(made) else f"text: {mine!r} instead of {made!r}"
    random = (training and RANDOM.fullmatch(entry.name) is not None) or "Fractional" in entry.name
    if random:
        yield None if [x.shape for x in leaves(want)] == [torch.Size(x.shape) for x in leaves(got)] else "shapes"
        return
    for i, (a, b) in enumerate(zip(leaves(got), leaves(want), strict=True)):
        yield close(f"output {i}", a, b)
    for name, value in made.state_dict().items():
        if isinstance(value, torch.Tensor):
            yield close(f"state {name}", mine.state_dict()[name], value)
    outputs = [(a, b) for a, b in zip(leaves(got), leaves(want), strict=True) if b.requires_grad]
    if not outputs:
        return
    torch.autograd.backward([b.sum() for _, b in outputs])
    treadle.autograd.backward([a.sum() for a, _ in outputs])
    for name, p in made.named_parameters():
        yield close(f"gradient of {name}", dict(mine.named_parameters())[name].grad, p.grad)
    for i, (a, b) in enumerate(zip(leaves(mine_given), leaves(given), strict=True)):
        yield close(f"gradient of input {i}", a.grad, b.grad) if b.is_leaf else None


def problems(part: int, limit: int) -> list[str]:
    """One line for each difference in the first `limit` samples of every layer of a part."""
    found = []
    for entry in entries()[part::PARTS]:
        for training in (True, False):
            samples = entry.module_inputs_func(entry, device="cpu", dtype=torch.float32, requires_grad=True, training=training)
            for sample in [s for s in samples if s.forward_input is not None][:limit]:
                told = f"{entry.name}{describe(sample.constructor_input.args)}{sample.constructor_input.kwargs} training={training}"
                try:
                    found += [f"{told}: {d}" for d in differences(entry, sample, training) if d is not None]
                except Exception as error:
                    found.append(f"{told}: {type(error).__name__}: {error}")
    return found
