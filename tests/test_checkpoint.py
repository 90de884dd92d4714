"""utils.checkpoint, testing.assert_close and the backends namespace."""
from __future__ import annotations

import pytest

import treadle as torch
from treadle import nn
from treadle.testing import assert_close
from treadle.utils.checkpoint import checkpoint, checkpoint_sequential


def grads(model, run):
    model.zero_grad()
    torch.manual_seed(3)
    x = torch.ones(4, 6, requires_grad=True)
    run(x).pow(2).sum().backward()
    return [x.grad, *[p.grad.clone() for p in model.parameters()]]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpoint_gives_the_same_gradients(dropout):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    plain = grads(model, model)
    for run in (lambda x: checkpoint(model, x, use_reentrant=False), lambda x: checkpoint_sequential(model, 3, x)):
        for a, b in zip(plain, grads(model, run), strict=True):
            assert_close(a, b)


def test_arguments_that_need_no_gradient_and_several_results():
    w = torch.ones(3, requires_grad=True)
    a, b = checkpoint(lambda x, k: (x * w * k, x + 1), torch.ones(3), 2.0)
    (a.sum() + b.sum()).backward()
    assert w.grad.tolist() == [2.0, 2.0, 2.0]


def test_assert_close():
    assert_close(torch.ones(3), torch.ones(3) + 1e-7)
    assert_close({"a": [torch.ones(2), 1.0]}, {"a": [torch.ones(2), 1.0]})
    with pytest.raises(AssertionError, match=r"Mismatched elements: 1 / 3"):
        assert_close(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0]))
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(torch.ones(2), torch.ones(2, dtype=torch.float64))
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="both"):
        assert_close(1.0, 1.0, rtol=1e-3)
    with pytest.raises(AssertionError):
        assert_close(float("nan"), float("nan"))
    assert_close(float("nan"), float("nan"), equal_nan=True)


def test_backends_answer_honestly():
    torch.backends.cudnn.benchmark = True
    assert not torch.backends.mps.is_available() and not torch.backends.cudnn.is_available()
    torch.backends.cuda.matmul.allow_tf32 = True
