"""treadle.func against hand-worked derivatives and (oracle) against torch.func."""
from __future__ import annotations

import numpy as np
import pytest

import treadle
from treadle import func
from treadle.utils._pytree import tree_leaves


def test_nested_gradients():
    cube = func.grad(func.grad(func.grad(lambda x: x**4)))
    assert cube(treadle.tensor(2.0)).item() == 48.0
    g, v = func.grad_and_value(lambda x, y: (x * y).sum(), argnums=(0, 1))(treadle.ones(2), treadle.full((2,), 3.0))
    assert g[0].tolist() == [3.0, 3.0] and g[1].tolist() == [1.0, 1.0] and v.item() == 6.0 and not v.requires_grad


def test_nested_containers_aux_and_unused():
    f = func.grad(lambda p, x: ((p["w"] * x).sum(), p), has_aux=True)
    g, aux = f({"w": treadle.ones(2), "b": [treadle.ones(1)]}, treadle.tensor([2.0, 3.0]))
    assert g["w"].tolist() == [2.0, 3.0] and g["b"][0].tolist() == [0.0] and set(aux) == {"w", "b"}


def test_errors():
    with pytest.raises(RuntimeError, match="scalar tensor"):
        func.grad(lambda x: x)(treadle.ones(2))
    with pytest.raises(ValueError, match="same size"):
        func.vmap(lambda a, b: a + b)(treadle.ones(2), treadle.ones(3))
    with pytest.raises(RuntimeError, match="no parameter or buffer"):
        func.functional_call(treadle.nn.Linear(2, 2), {"nope": treadle.ones(2)}, treadle.ones(2))


def cases(T, F):
    def t(*shape, seed=0):
        return T.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32).tolist())
    w, x = t(3, 2), t(4, 3, seed=1)

    def loss(w, x):
        return (T.tanh(x @ w) ** 2).sum()
    yield "grad", F.grad(loss)(w, x)
    yield "grad both", F.grad(loss, argnums=(0, 1))(w, x)
    value, pull = F.vjp(lambda a: (a.sin(), a * 2), w)
    yield "vjp", [*value, *pull((t(3, 2, seed=3), t(3, 2, seed=4)))]
    yield "jvp", F.jvp(lambda a, b: T.tanh(a @ b), (x, w), (t(4, 3, seed=5), t(3, 2, seed=6)))
    yield "jacrev", F.jacrev(lambda a: T.exp(a).sum(0))(w)
    yield "jacfwd", F.jacfwd(lambda a: T.exp(a).sum(0))(w)
    yield "jacrev two", F.jacrev(lambda a, b: a @ b, argnums=(0, 1))(x, w)
    yield "hessian", F.hessian(lambda a: (a**3).sum() * a[0, 0])(w)
    yield "vmap", F.vmap(lambda r: (r @ w).sum())(x)
    yield "vmap dims", F.vmap(lambda a, b: a * b, in_dims=(1, None), out_dims=1)(x, t(4))
    yield "vmap nested", F.vmap(F.vmap(lambda a: a * a + 1))(x)
    yield "per-sample gradients", F.vmap(F.grad(loss), in_dims=(None, 0))(w, x.reshape(4, 1, 3))
    yield "grad of vmap", F.grad(lambda a: F.vmap(lambda r: (r @ a).pow(2).sum())(x).sum())(w)


@pytest.mark.oracle
def test_as_pytorch():
    import torch
    theirs, ours = dict(cases(torch, torch.func)), dict(cases(treadle, func))
    for name, want in theirs.items():
        a, b = tree_leaves(ours[name]), tree_leaves(want)
        assert len(a) == len(b), name
        for x, y in zip(a, b, strict=True):
            assert tuple(x.shape) == tuple(y.shape), name
            np.testing.assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_functional_call():
    model = treadle.nn.Linear(2, 1)
    x = treadle.ones(3, 2)

    def loss(params):
        return func.functional_call(model, params, (x,)).sum()
    g = func.grad(loss)({k: v.detach() for k, v in model.named_parameters()})
    assert g["weight"].tolist() == [[3.0, 3.0]] and g["bias"].tolist() == [3.0]
    assert model.weight.grad is None
    params, buffers = func.stack_module_state([treadle.nn.Linear(2, 1) for _ in range(3)])
    assert tuple(params["weight"].shape) == (3, 1, 2) and not buffers
