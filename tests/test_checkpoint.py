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


def test_what_is_computed_again_is_not_kept():
    w = torch.ones(3, requires_grad=True)
    y = checkpoint(lambda x, k=None: ((x * w).sin() * k).exp(), torch.ones(3), k=w)
    nodes = [n for n in torch.autograd.nodes_of([y.grad_fn]) if n.saved is not None]
    assert len(nodes) == 4 and all(n.saved == () for n in nodes)
    first, = torch.autograd.grad(y.sum(), w, create_graph=True)
    plain = torch.ones(3, requires_grad=True)
    want, = torch.autograd.grad((plain.sin() * plain).exp().sum(), plain, create_graph=True)
    assert_close(first, want)
    assert_close(torch.autograd.grad(first.sum(), w)[0], torch.autograd.grad(want.sum(), plain)[0])


def test_contexts_and_mistakes():
    entered = []

    class Noted:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            entered.append(self.name)

        def __exit__(self, *exc):
            pass
    x = torch.ones(2, requires_grad=True)
    checkpoint(torch.exp, x, use_reentrant=False, context_fn=lambda: (Noted("first"), Noted("second"))).sum().backward()
    assert entered == ["first", "second"]
    with pytest.raises(ValueError, match="Unexpected keyword arguments: out"):
        checkpoint(torch.exp, x, use_reentrant=True, out=None)
    with pytest.raises(ValueError, match="only supported when use_reentrant=False"):
        checkpoint(torch.exp, x, use_reentrant=True, debug=True)
    calls = []

    def fickle(x):
        calls.append(1)
        return x * 2 if len(calls) == 1 else (x * 2).sin()
    with pytest.raises(RuntimeError, match="A different number of tensors was saved"):
        checkpoint(fickle, x).sum().backward()


def test_inside_transforms_of_functions():
    from treadle import func
    w, x = torch.randn(4), torch.randn(3, 4)

    def plain(w, x):
        return (x * w).sin().sum()

    def saved(w, x):
        return checkpoint(lambda x: (x * w).sin(), x).sum()
    for transform in (func.grad, func.hessian, lambda f: func.vmap(func.grad(f), (None, 0)),
                      lambda f: func.grad(lambda w, x: func.vmap(f, (None, 0))(w, x).sum())):
        assert_close(transform(saved)(w, x), transform(plain)(w, x))


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
