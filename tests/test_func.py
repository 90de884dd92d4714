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


# -- vmap ----------------------------------------------------------------------------------------------------------------------------
def arrays(*shape: int, seed: int = 0) -> treadle.Tensor:
    return treadle.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def same(a: treadle.Tensor, b: treadle.Tensor) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_vmap_along_any_axis(dim: int) -> None:
    x, w = arrays(3, 3, 3), arrays(3)
    got = func.vmap(lambda a, w: (a @ w, a.sum(0).softmax(0)), in_dims=(dim, None), out_dims=(0, 1))(x, w)
    want = [x.select(dim, i) for i in range(3)]
    same(got[0], treadle.stack([a @ w for a in want]))
    same(got[1], treadle.stack([a.sum(0).softmax(0) for a in want], 1))


def test_what_is_recorded_does_not_grow_with_the_batch() -> None:
    model = treadle.nn.Sequential(treadle.nn.Conv2d(1, 2, 3), treadle.nn.ReLU(), treadle.nn.Flatten(), treadle.nn.Linear(8, 2))
    params = {k: v.detach() for k, v in model.named_parameters()}

    def loss(p, x):
        return func.functional_call(model, p, (x,)).pow(2).sum()

    def recorded(size: int) -> int:
        x = arrays(size, 1, 1, 4, 4)
        [v.numpy() for v in params.values()]  # what is pending counts, too
        before = treadle.stats()["ops_recorded"]
        for g in func.vmap(func.grad(loss), in_dims=(None, 0))(params, x).values():
            g.numpy()
        return treadle.stats()["ops_recorded"] - before
    assert recorded(2) == recorded(9) > 0


def test_a_new_batch_size_compiles_no_kernel() -> None:
    w = arrays(4, 3)
    step = func.vmap(func.grad(lambda x: (treadle.tanh(x @ w) ** 2).sum().exp()))
    for size in (3, 5, 6, 7):
        for _ in range(3):
            step(arrays(size, 4)).numpy()
        if size == 3:
            compiled = treadle.stats()["llvm_compiles"]
    assert treadle.stats()["llvm_compiles"] == compiled


def test_compiled_transforms() -> None:
    def per_sample(w, x):
        return func.vmap(func.grad(lambda w, x: (x @ w).tanh().pow(2).sum()), in_dims=(None, 0))(w, x)

    def second(x):
        return func.hessian(lambda x: (x.sin() * x.cumsum(0)).sum())(x), func.jvp(treadle.exp, (x,), (x,))[1]
    for f, args in ((per_sample, lambda i: (arrays(3, 2), arrays(4, 5, 3, seed=i))), (second, lambda i: (arrays(4, seed=i),))):
        compiled = treadle.compile(f, fullgraph=True)
        for i in range(3):
            got, want = compiled(*args(i)), f(*args(i))
            for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
                same(a, b)
        assert compiled.captures == 1
    inside = treadle.compile(lambda x: (x * 2).sum())
    assert func.vmap(inside)(treadle.ones(3, 4)).tolist() == [8.0] * 3
    assert func.jvp(inside, (treadle.ones(2),), (treadle.ones(2),))[1].item() == 4


def differs(x: treadle.Tensor) -> bool:
    return not np.array_equal(x[0].numpy(), x[1].numpy())


def test_randomness() -> None:
    x, drop = treadle.ones(3, 64), treadle.nn.functional.dropout
    for f in (lambda x: drop(x, 0.5), lambda x: x + treadle.randn(64), lambda x: treadle.rand_like(x), lambda x: treadle.bernoulli(x / 2),
              lambda x: x + drop(treadle.ones(64), 0.5), lambda x: x.clone().normal_(), lambda x: x + treadle.randint(0, 99, (64,))):
        assert differs(func.vmap(f, randomness="different")(x)) and not differs(func.vmap(f, randomness="same")(x))
        with pytest.raises(RuntimeError, match="randomness error mode"):
            func.vmap(f)(x)
    both = func.vmap(func.vmap(lambda x: x + treadle.rand(64), randomness="different"), randomness="same")(treadle.ones(2, 2, 64))
    assert not differs(both) and differs(both[0])
    treadle.manual_seed(1)
    first = func.vmap(lambda x: drop(x, 0.5), randomness="different")(x).tolist()
    treadle.manual_seed(1)
    assert func.vmap(lambda x: drop(x, 0.5), randomness="different")(x).tolist() == first
    per_example = func.vmap(func.grad(lambda x: drop(x, 0.5).sum()), randomness="different")(x)
    assert differs(per_example) and set(per_example.unique().tolist()) == {0.0, 2.0}


def test_the_tape_goes_through_transforms() -> None:
    w = arrays(3).requires_grad_()
    x = arrays(4, 3)
    func.vmap(lambda x: (x * w).sin().sum())(x).sum().backward()
    same(w.grad, ((x * w).cos() * x).sum(0))
    w.grad = None
    func.vmap(func.grad(lambda x: (x * w).pow(3).sum()))(x).sum().backward()
    same(w.grad, (9 * w**2 * x**2).sum(0))
    assert not func.vmap(func.grad(lambda x: (x * 2).pow(3).sum()))(x).requires_grad
    cut = func.grad(lambda v: func.vmap(lambda x: (x.detach() * x).sum())(v).sum())(x)
    same(cut, x)
    with treadle.no_grad():
        assert not func.vmap(lambda x: x * w)(x).requires_grad
    outer = func.grad(lambda v: func.grad(lambda u: (u * v).pow(2).sum())(x[0]).sum())(x[1])
    same(outer, 4 * x[0] * x[1])


def test_derivatives_inside_and_outside_of_vmap_agree() -> None:
    a = arrays(3, 4, 4)
    a = a @ a.mT + 4 * treadle.eye(4)
    each = treadle.stack([func.hessian(treadle.logdet)(m) for m in a])
    same(func.vmap(func.hessian(treadle.logdet))(a), each)
    same(func.vmap(func.jacrev(func.grad(treadle.logdet)))(a), each)


def test_batched_grad_outputs() -> None:
    x = arrays(3).requires_grad_()
    y = x.sin() * x[0]
    rows = treadle.autograd.grad(y, (x, arrays(2).requires_grad_()), treadle.eye(3), is_grads_batched=True, allow_unused=True)
    same(rows[0], func.jacrev(lambda x: x.sin() * x[0])(x.detach()))
    assert rows[1] is None


def test_what_the_host_computes_runs_for_each_example() -> None:
    x, edges = arrays(3, 4), treadle.tensor([-1.0, 0.0, 1.0])
    before = treadle.runtime.recorder.looped.get("bucketize", 0)
    got = func.vmap(lambda x: treadle.bucketize(x, edges))(x)
    assert got.tolist() == treadle.bucketize(x, edges).tolist()
    assert treadle.runtime.recorder.looped["bucketize"] == before + 1
    text = str(treadle.explain(func.vmap(lambda x: treadle.multinomial(x.abs(), 2), randomness="same"), x))
    assert "runs once for each example: multinomial" in text
    with pytest.raises(RuntimeError, match="randomness error mode"):
        func.vmap(lambda x: treadle.multinomial(x.abs(), 2))(x)


def test_masked_scatter_and_its_gradients() -> None:
    x, factor = arrays(3, 4), treadle.arange(4)

    def f(x, mask, source):
        return (treadle.masked_scatter(x.sin(), mask, source.cos()) * factor).sum()
    for k in (0, 2):
        g = func.grad(f, argnums=k)
        same(func.vmap(g)(x, x > 0, x * 10), treadle.stack([g(a, a > 0, a * 10) for a in x]))


def test_text_inside_vmap() -> None:
    seen = []
    func.vmap(func.vmap(lambda x: (seen.append(str(x)), x)[1]))(treadle.ones(1, 2))
    assert seen == ["BatchedTensor(lvl=2, bdim=0, value=\n    BatchedTensor(lvl=1, bdim=0, value=\n        tensor([[1., 1.]])\n    )\n)"]


def test_running_statistics_of_a_shared_module_are_refused() -> None:
    norm = treadle.nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError, match="vmap: inplace arithmetic"):
        func.vmap(norm)(arrays(2, 4, 3))
    assert func.vmap(norm.eval())(arrays(2, 4, 3)).shape == (2, 4, 3)


def test_op_by_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers in rules stay numbers: a flush between any two ops leaves no value that is half a number."""
    a = arrays(3, 3) @ arrays(3, 3).mT + 4 * treadle.eye(3)
    want = func.hessian(treadle.logdet)(a)
    monkeypatch.setattr(treadle.runtime.recorder.STATE.here, "eager", True)
    for _ in range(2):
        same(func.hessian(treadle.logdet)(a), want)


def test_what_asks_whether_it_is_differentiated() -> None:
    """Functions with a faster way that has no gradient take it only where no transform around them may want one."""
    a, b = arrays(2, 4, 3), arrays(2, 4, 2, seed=1)
    q, mask = arrays(2, 3, 4), arrays(2, 3, 3, seed=2)

    def solution(a, b):
        return treadle.linalg.lstsq(a, b)[0].sum()

    def attention(mask, q):
        return treadle.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask).pow(2).sum()
    for f, x, y in ((solution, a, b), (attention, mask, q)):
        want = treadle.stack([func.grad(f)(s, t) for s, t in zip(x, y, strict=True)])
        assert want.abs().min().item() > 0
        same(func.vmap(func.grad(f))(x, y), want)
        same(func.grad(lambda x, f=f, y=y: func.vmap(f)(x, y).sum())(x), want)
        same(func.jvp(lambda x, f=f, y=y: func.vmap(f)(x, y), (x,), (x,))[1], (want * x).flatten(1).sum(1))


def test_ctc_loss_of_a_batch_of_batches() -> None:
    loss = treadle.nn.functional.ctc_loss
    scores = treadle.randn(3, 5, 2, 4).log_softmax(-1)
    labels = treadle.tensor([[[1, 2], [3, 1]], [[2, 2], [1, 3]], [[3, 1], [1, 1]]])
    lengths, counts = treadle.tensor([[5, 4], [3, 5], [4, 2]]), treadle.tensor([[2, 1], [1, 2], [2, 2]])
    together = func.vmap(func.grad(loss))(scores, labels, lengths, counts)
    one_by_one = treadle.stack([func.grad(loss)(*each) for each in zip(scores, labels, lengths.tolist(), counts.tolist(), strict=True)])
    assert treadle.allclose(together, one_by_one, atol=1e-6)
    with pytest.raises(RuntimeError, match="one row for each example"):
        func.vmap(lambda c: loss(scores[0], labels.flatten()[:3], (5, 4), c))(counts)


def test_axes_by_name() -> None:
    x = treadle.arange(24).reshape(2, 3, 4)
    assert treadle.equal(func.rearrange(x, "a b (c d) -> (b d) a c", d=2), x.reshape(2, 3, 2, 2).permute(1, 3, 0, 2).flatten(0, 1))
    assert func.rearrange([x, x], "n ... k -> k (n ...)").shape == (4, 12)
    for pattern, text in (("a b", "one '->'"), ("a b c -> a b", "only on one side"), ("a (b c d) -> a b c d", "3"),
                          ("a b (c d) -> a b c d", "cannot infer"), ("a a b -> a b", "twice"), ("a (b c -> a b c", "brackets")):
        with pytest.raises(ValueError, match=text):
            func.rearrange(x, pattern)


def test_what_a_transformed_tensor_stands_for() -> None:
    seen = []
    func.vmap(lambda x: func.jvp(lambda y: seen.append(y) or y * 2, (x,), (x,)))(treadle.ones(3, 2))
    with pytest.raises(RuntimeError, match="invalid argument for remove=views"):
        func.functionalize(lambda x: x, remove="views")
    assert func.functionalize(lambda x: x.add_(1))(treadle.zeros(2)).tolist() == [1.0, 1.0]
    x = treadle.ones(2)
    assert func.debug_unwrap(x) is x and func.debug_unwrap(seen[0]).shape == (3, 2)
    assert func.debug_unwrap(seen[0], recurse=False).shape == (2,)
