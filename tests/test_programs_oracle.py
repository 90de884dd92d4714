"""Random programs that mix views, in-place writes, reductions and autograd, compared with PyTorch."""
from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import treadle
from treadle.runtime import engine, recorder

pytestmark = pytest.mark.oracle


class Outcome(NamedTuple):
    values: list[Any]
    grad: Any
    errors: list[str]
    backward_failed: bool


def run_program(seed: int, T: Any) -> Outcome:
    """The same random program on either library."""
    choose = random.Random(seed)
    numbers = np.random.default_rng(seed)

    def make(shape: tuple[int, ...]) -> Any:
        return T.tensor(numbers.standard_normal(shape).astype(np.float32).tolist()).reshape(shape)

    leaf = make((3, 2)).requires_grad_()
    tensors = [make((choose.randint(1, 4), choose.randint(1, 4))), leaf * 1.0]
    families = [0, 1]  # which tensors share memory: PyTorch refuses copies within a family
    errors: list[str] = []
    for _ in range(choose.randint(5, 20)):
        at = choose.randrange(len(tensors))
        other = choose.randrange(len(tensors))
        try:
            made, shares = one_step(choose, choose.randrange(14), tensors[at], tensors[other], families[at] == families[other], T)
        except (RuntimeError, IndexError) as error:
            errors.append(type(error).__name__)
            continue
        if made is not None:
            tensors.append(made)
            families.append(families[at] if shares else len(families) + 100)
    loss = sum((t.float() ** 2).mean() for t in tensors if t.numel())
    try:
        loss.backward()
    except RuntimeError:
        return Outcome([t.detach().tolist() for t in tensors], None, errors, True)
    return Outcome([t.detach().tolist() for t in tensors], None if leaf.grad is None else leaf.grad.tolist(), errors, False)


def one_step(choose: random.Random, kind: int, t: Any, other: Any, related: bool, T: Any) -> tuple[Any, bool]:
    """Do something to `t`: the new tensor if any, and whether it may share t's memory."""
    ndim = t.dim()
    if kind == 0 and ndim:
        dim = choose.randrange(ndim)
        start = choose.randrange(t.shape[dim])
        return t.narrow(dim, start, max(1, (t.shape[dim] - start) // 2)), True
    if kind == 1 and ndim > 1:
        order = list(range(ndim))
        choose.shuffle(order)
        return t.permute(*order), True
    if kind == 2 and t.is_contiguous():
        return t.reshape(-1), True
    if kind == 3:
        return (t * 2 + 1).contiguous(), False
    if kind == 4:
        return t.tanh().contiguous(), False
    if kind == 5:
        t.mul_(0.5)
    elif kind == 6:
        t.add_(1.0)
    elif kind == 7 and ndim:
        t[0] = choose.random()
    elif kind == 8 and ndim:
        return t.sum(choose.randrange(ndim), keepdim=choose.random() < 0.5), False
    elif kind == 9:
        return t.unsqueeze(choose.randint(0, ndim)), True
    elif kind == 10:
        return (t + other).contiguous(), False
    elif kind == 11 and not related:
        t.copy_(other)
    elif kind == 12 and ndim:
        return t[-1], True
    elif kind == 13:
        return t.exp().clamp(max=5.0).contiguous(), False
    return None, False


def compare(seed: int) -> bool:
    """False when PyTorch's own backward refused, which leaves nothing to compare but values."""
    torch = pytest.importorskip("torch", reason="the [oracle] extra is not installed")
    wanted, found = run_program(seed, torch), run_program(seed, treadle)
    assert found.errors == wanted.errors, f"seed {seed}"
    assert len(found.values) == len(wanted.values), f"seed {seed}"
    for got, want in zip(found.values, wanted.values, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=f"seed {seed}")
    if wanted.backward_failed:
        return False
    assert not found.backward_failed, f"seed {seed}: backward failed"
    assert (found.grad is None) == (wanted.grad is None), f"seed {seed}"
    if wanted.grad is not None:
        np.testing.assert_allclose(found.grad, wanted.grad, rtol=1e-3, atol=1e-4, err_msg=f"seed {seed}")
    return True


@pytest.fixture
def compiled() -> Iterator[None]:
    before, engine.COMPILE_AT = engine.COMPILE_AT, 1
    yield
    engine.COMPILE_AT = before
    recorder.forget()


def test_500_random_programs() -> None:
    compared = sum(compare(seed) for seed in range(500))
    assert compared > 400


def test_random_programs_compiled(compiled: None) -> None:
    assert sum(compare(seed) for seed in range(1000, 1060)) > 40
