"""treadle.func, forward_ad and autograd.functional in uses as in PyTorch's tutorials, against PyTorch."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle
from treadle.utils._pytree import tree_leaves

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle


def floats(T: Any, *shape: int, seed: int = 0) -> Any:
    return T.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def ints(T: Any, below: int, *shape: int) -> Any:
    return T.tensor(np.random.default_rng(7).integers(0, below, shape))


def module(T: Any, make: Callable[[Any], Any], seed: int = 0) -> Any:
    """The same weights in both."""
    torch.manual_seed(seed)
    state = make(torch.nn).state_dict()
    found = make(T.nn)
    found.load_state_dict({k: T.tensor(v.numpy()) for k, v in state.items()})
    return found


def detached(model: Any) -> dict[str, Any]:
    return {k: v.detach() for k, v in model.named_parameters()}


def cnn(nn: Any) -> Any:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=2, groups=2),
                         nn.GroupNorm(2, 6), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))


def mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))


def per_sample(T: Any, make: Any, x: Any, loss: Any, *more: Any) -> Any:
    F, model = T.func, module(T, make)

    def one(p: Any, x: Any, *y: Any) -> Any:
        return loss(F.functional_call(model, p, (x.unsqueeze(0),)), *y)
    return F.vmap(F.grad(one), in_dims=(None, 0) + (0,) * len(more))(detached(model), x, *more)


# -- uses ------------------------------------------------------------------------------------------------------------------------------
def per_sample_cnn(T: Any) -> Any:
    return per_sample(T, cnn, floats(T, 6, 1, 10, 10), lambda out, y: T.nn.functional.cross_entropy(out, y.unsqueeze(0)), ints(T, 5, 6))


def per_sample_lstm(T: Any) -> Any:
    return per_sample(T, lambda nn: nn.LSTM(3, 4, batch_first=True), floats(T, 3, 5, 3), lambda out: out[0].pow(2).sum())


def per_sample_transformer(T: Any) -> Any:
    return per_sample(T, lambda nn: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), floats(T, 3, 5, 8),
                      lambda out: out.pow(2).sum())


def per_sample_embedding(T: Any) -> Any:
    return per_sample(T, lambda nn: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2)), ints(T, 7, 3, 5), lambda out: out.pow(2).sum())


def ensemble(T: Any, make: Any, *shape: int) -> Any:
    F = T.func
    models = [module(T, make, i) for i in range(3)]
    p, b = F.stack_module_state(models)
    x = floats(T, *shape)

    def call(p: Any, b: Any, x: Any) -> Any:
        return F.functional_call(models[0], (p, b), (x,))
    shared, own = F.vmap(call, (0, 0, None))(p, b, x), F.vmap(call)(p, b, floats(T, 3, *shape))
    (shared.pow(2).sum() + own.pow(3).mean()).backward()
    return shared, own, [v.grad for v in p.values()]


def ensemble_mlp(T: Any) -> Any:
    return ensemble(T, mlp, 5, 4)


def ensemble_cnn(T: Any) -> Any:
    return ensemble(T, cnn, 2, 1, 10, 10)


def second_order(T: Any) -> Any:
    F, x, v = T.func, floats(T, 5), floats(T, 5, seed=2)

    def f(x: Any) -> Any:
        return (x.sin() * x.cumsum(0)).sum()
    return (F.vjp(F.grad(f), x)[1](v)[0], F.jvp(F.grad(f), (x,), (v,))[1], F.grad(lambda x: F.jvp(f, (x,), (v,))[1])(x), F.hessian(f)(x),
            F.jacrev(F.jacfwd(f))(x), F.jacfwd(F.jacfwd(f))(x), F.jacrev(F.jacrev(f))(x), F.linearize(F.grad(f), x)[1](v))


def jacobians(T: Any) -> Any:
    F, p, x = T.func, {"a": floats(T, 3, 2), "b": floats(T, 2, seed=1)}, floats(T, 4, 3, seed=4)

    def f(p: Any, x: Any) -> Any:
        return {"y": T.tanh(x @ p["a"] + p["b"]), "z": (x.sum(),)}
    return [j(p, x) for j in (F.jacrev(f), F.jacfwd(f), F.jacrev(f, argnums=(0, 1)), F.jacfwd(f, argnums=(0, 1)), F.jacrev(f, chunk_size=3),
                              F.jacfwd(lambda p, x: (f(p, x)["y"], x), has_aux=True), F.jacrev(lambda p, x: (f(p, x), x), has_aux=True))]


def jacobian_of_a_network(T: Any) -> Any:
    F, model = T.func, module(T, mlp)
    p, x = detached(model), floats(T, 5, 4)

    def call(p: Any, x: Any) -> Any:
        return F.functional_call(model, p, (x,))
    j = F.vmap(F.jacrev(call), (None, 0))(p, x)
    kernel = sum(T.einsum("Naf,Mbf->NMab", v.flatten(2), v.flatten(2)) for v in j.values())
    return kernel, F.vmap(F.jacfwd(call, argnums=1), (None, 0))(p, x)


def nested(T: Any) -> Any:
    F, x, y = T.func, floats(T, 3, 4), floats(T, 5, 4, seed=3)

    def kernel(a: Any, b: Any) -> Any:
        return T.exp(-((a - b) ** 2).sum())

    def pairs(f: Any, **out: Any) -> Any:
        return F.vmap(F.vmap(f, in_dims=(None, 0)), in_dims=(0, None), **out)(x, y)
    return (pairs(kernel), pairs(F.grad(kernel), out_dims=1), F.vmap(F.jacfwd(F.jacrev(kernel), argnums=1), in_dims=(0, None))(x, y[0]),
            F.grad(lambda x: pairs(lambda a, b: kernel(a, b) * x.sum()).sum())(x))


def structures(T: Any) -> Any:
    F = T.func

    def f(d: Any, xs: Any) -> Any:
        return {"s": d["a"] + d["b"], "c": d["b"].sum()}, [xs[0] * xs[1]]
    a, b, c, e = floats(T, 3, 4), floats(T, 4), floats(T, 2, 3), floats(T, 3, 2)
    return (F.vmap(f, ({"a": 0, "b": None}, [1, 0]), ({"s": 1, "c": 0}, [0]))({"a": a, "b": b}, [c, e]),
            F.vmap(lambda x: (x, x * 2), in_dims=-1, out_dims=(0, 1))(a), F.vmap(lambda x: T.ones(2))(a),
            F.vmap(lambda x: (x * 2, b), out_dims=(0, None))(a), F.vmap(lambda x: x.sin(), chunk_size=2, out_dims=1)(floats(T, 5, 2)))


def in_place(T: Any) -> Any:
    F, x, changed = T.func, floats(T, 3, 4), floats(T, 3, 4)

    def f(a: Any) -> Any:
        y, z, q = a.clone(), T.zeros_like(a), a.new_zeros(2)
        y[1] = a[0] * 2
        y.add_(1)
        y[2:].mul_(a[1])
        z += a
        z[0] = 5
        z.masked_fill_(a > 0, 9.0)
        q[1] = a[3]
        return y, z, q

    def g(a: Any) -> Any:
        a.mul_(2)
        return a.sum()
    return F.vmap(f)(x), F.vmap(F.grad(lambda a: f(a)[0].pow(2).sum()))(x), F.vmap(g, in_dims=1)(changed), changed


def indexing(T: Any) -> Any:
    v, x, i = T.func.vmap, floats(T, 3, 5, 4), ints(T, 5, 3, 2)

    def put(x: Any, i: Any) -> Any:
        y = x.clone()
        y[i] = 1.0
        y[..., 0] += 2
        return y
    return (v(lambda x, i: x[i])(x, i), v(lambda x, i: x[:, i[0] % 4])(x, i), v(lambda i: x[0][i])(i), v(put)(x, i),
            v(lambda x, i: x.index_select(0, i))(x, i), v(lambda x, i: T.gather(x, 0, i.unsqueeze(1)))(x, i), v(lambda x: x.sort(-1)[0])(x),
            v(lambda x: x.topk(2)[0])(x), v(lambda x: x.argmax())(x), v(lambda x: T.where(x > 0, x, 0.0).softmax(-1).logsumexp(0))(x),
            v(lambda i: T.nn.functional.one_hot(i, 5))(i), v(lambda i, w: T.nn.functional.embedding(i, w))(i, x),
            v(lambda x: T.nn.functional.pad(x, (1, 2)).roll(1, 0).flip(1))(x), v(lambda x: T.stack([x, x.flip(0)]).unfold(1, 2, 1))(x))


def linear_algebra(T: Any) -> Any:
    F, v, a, b = T.func, T.func.vmap, floats(T, 3, 4, 4), floats(T, 3, 4)
    a = a @ a.transpose(-1, -2) + 4 * T.eye(4)
    one = [T.linalg.inv, T.linalg.det, T.linalg.cholesky, lambda a: T.linalg.eigh(a)[0], lambda a: T.linalg.svd(a)[1], T.trace, T.diag,
           F.grad(T.logdet), lambda a: T.linalg.matrix_exp(a / 10), lambda a: a.norm(), lambda a: a @ a, lambda a: a.tril() + a.mT]
    two = [T.linalg.solve, lambda a, b: a @ b, lambda a, b: b @ a, lambda a, b: T.outer(b, b) + a, lambda a, b: T.einsum("ij,j->i", a, b)]
    return ([v(f)(a) for f in one], [v(f)(a, b) for f in two], v(lambda b: T.linalg.solve(a[0], b))(b), v(lambda b: a[0] @ b)(b),
            v(lambda b: b @ a[0])(b), v(T.dot)(b, b))


def losses(T: Any) -> Any:
    F, n, x, y, z = T.func, T.nn.functional, floats(T, 4, 3, 5), ints(T, 5, 4, 3), floats(T, 4, 3, 5, seed=7)
    pairs = [n.mse_loss, n.smooth_l1_loss, n.l1_loss, lambda a, b: n.kl_div(a, b.softmax(-1), reduction="batchmean"), n.cosine_similarity,
             lambda a, b: n.binary_cross_entropy_with_logits(a, b.sigmoid()), n.huber_loss]
    return ([F.vmap(f)(x, z) for f in pairs], F.vmap(n.cross_entropy)(x, y), F.vmap(F.grad(n.cross_entropy))(x, y),
            F.grad(lambda x: F.vmap(n.cross_entropy)(x, y).sum())(x))


def duals(T: Any) -> Any:
    f, x, v, layer = T.autograd.forward_ad, floats(T, 3, 4), floats(T, 3, 4, seed=1), module(T, lambda nn: nn.Linear(4, 2))
    with f.dual_level():
        d = f.make_dual(x, v)
        y = layer(d).tanh().cumsum(0)
        primal, tangent = f.unpack_dual(y)
        sorted_ = f.unpack_dual(d[1:].relu().sort()[0]).tangent
        assert f.unpack_dual(x).tangent is None and f.unpack_dual((d * 2).detach()).tangent is None
    return primal, tangent, sorted_, y


def functional(T: Any) -> Any:
    A, x, y, v = T.autograd.functional, floats(T, 3, 2), floats(T, 3, 2, seed=1), floats(T, 3, 2, seed=2)

    def cube(x: Any) -> Any:
        return (x**3).sum()

    def pair(x: Any, y: Any) -> Any:
        return x * y.exp(), y.sum()

    def both(x: Any, y: Any) -> Any:
        return (x**2 * y).sum()
    return (A.jacobian(lambda x: x.exp().sum(0), x), A.jacobian(pair, (x, y)), A.hessian(cube, x), A.hessian(both, (x, y)),
            A.vjp(lambda x: x * 2, x, v), A.vjp(cube, x), A.vjp(pair, (x, y), (v, T.tensor(1.0))), A.jvp(lambda x: x.sin(), x, v),
            A.jvp(pair, (x, y), (v, v)), A.hvp(cube, x, v), A.vhp(both, (x, y), (v, y)), A.hvp(both, (x, y), (v, y)),
            A.jacobian(lambda x: x.sin(), x, vectorize=True, strategy="forward-mode"),
            A.hessian(cube, x, vectorize=True, outer_jacobian_strategy="forward-mode"))


def custom_functions(T: Any) -> Any:
    class Generated(T.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Any, w: Any) -> Any:
            return x * w, x.sum()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any, h: Any) -> Any:  # factors that no derivative has show whose rule it was
            x, w = ctx.saved_tensors
            return g * 3 * w + h, (g * x * 5).sum()

    class Own(T.autograd.Function):
        @staticmethod
        def forward(x: Any, w: Any) -> Any:
            return x * w

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, w = ctx.saved_tensors
            return g * 3 * w, (g * x * 5).sum()

        @staticmethod
        def jvp(ctx: Any, tx: Any, tw: Any) -> Any:
            x, w = ctx.saved_tensors
            return 7 * x * tw + 11 * w * tx

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Any, w: Any) -> Any:
            return x.movedim(in_dims[0], 0) * (w if in_dims[1] is None else w.reshape(info.batch_size, 1)) * 2, 0
    F, x, w, ws = T.func, floats(T, 3, 4), T.tensor(2.0), floats(T, 3)

    def f(x: Any, w: Any) -> Any:
        y, s = Generated.apply(x, w)
        return y.sin().sum() + s

    def g(x: Any, w: Any) -> Any:
        return Own.apply(x, w).sum()
    return (F.vmap(f, (0, None))(x, w), F.grad(lambda w: F.vmap(f, (0, None))(x, w).sum())(w), F.vmap(F.grad(f))(x, ws),
            F.grad(lambda v: F.vmap(f)(x, v).sum())(ws), F.grad(lambda x: F.vmap(f)(x, ws).sum())(x), F.vmap(g, (0, None))(x, w),
            F.vmap(F.grad(f, argnums=(0, 1)), (0, None))(x, w), F.jvp(g, (x, w), (x * 2, w)), F.vmap(F.grad(g))(x, ws),
            F.grad(lambda x: F.vmap(g)(x, ws).sum())(x))


def ctc(T: Any) -> Any:
    F, loss = T.func, T.nn.functional.ctc_loss
    scores, labels = floats(T, 3, 5, 2, 4).log_softmax(-1), ints(T, 3, 3, 2, 2) + 1
    lengths, counts = T.tensor([[5, 4], [3, 5], [4, 1]]), T.tensor([[2, 1], [1, 2], [2, 1]])
    padded = T.tensor([[[1, 2], [3, 9]], [[1, -1], [2, 3]], [[3, 3], [1, 0]]])
    return (F.vmap(loss)(scores, labels, lengths, counts), F.vmap(lambda *a: loss(*a, reduction="none"))(scores, padded, lengths, counts),
            F.vmap(lambda *a: loss(*a, reduction="sum", zero_infinity=True))(scores, labels, T.ones_like(lengths), counts),
            F.vmap(lambda s: loss(s, labels[0], lengths[0], counts[0]))(scores),
            F.vmap(lambda c: loss(scores[0], labels[0], lengths[0], c, reduction="none"))(counts),
            loss(scores[1], padded[1], (5, 4), (1, 2)))


def rearranged(T: Any) -> Any:
    x, y, r = floats(T, 2, 3, 4), floats(T, 6, 4, 1, 5), T.func.rearrange
    uses = [(x, "a b c -> c a b"), (x, "a b c -> (a b) c"), (x, "... c -> c ..."), (x, "a ... -> (...) a"), (x, "a b c -> a 1 b c"),
            (x, "a b c -> (c b a)"), (x, "a b c -> () a b c"), (x, "... -> (...)"), ([x, x * 2], "n a b c -> a (n b) c")]
    named = [(y, "(a b) c 1 d -> a c (b d)", {"a": 2}),
             (y, "(a b) (c d) ... -> (d b) c a ...", {"b": 3, "c": 2}), (y, "a b 1 d -> a b d", {})]
    return [r(a, p) for a, p in uses] + [r(a, p, **k) for a, p, k in named] + [T.func.vmap(lambda row: r(row, "b c -> c b"))(x)]



def no_statistics(T: Any) -> Any:
    net = module(T, lambda nn: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
    assert T.func.replace_all_batch_norm_modules_(net) is net and "running_mean" not in dict(net.named_buffers())
    params = detached(net)
    return (T.func.vmap(lambda x: T.func.functional_call(net, params, (x,)), randomness="different")(floats(T, 4, 2, 1, 5, 5)),
            T.func.vmap(T.func.grad(lambda p, x: T.func.functional_call(net, p, (x,)).pow(3).sum()), (None, 0))(
                params, floats(T, 3, 2, 1, 5, 5)))


def functional_writes(T: Any) -> Any:
    def f(a: Any) -> Any:
        b = a + 1
        b.view(-1).add_(1)
        a.mul_(2)
        return b
    x = floats(T, 2, 3)
    return (T.func.functionalize(f)(x), x, T.func.functionalize(f, remove="mutations_and_views")(x), x,
            T.func.vmap(T.func.functionalize(f))(x), T.func.grad(T.func.functionalize(lambda a: a.clone().mul_(a).sum()))(x))


def linearized(T: Any) -> Any:
    x, w, t = floats(T, 3, 4), floats(T, 4, 2, seed=1), floats(T, 3, 4, seed=2)
    value, push = T.func.linearize(lambda x, w: ((x @ w).tanh(), {"s": (x * x).sum()}), x, w)
    more, both = T.func.linearize(lambda x: x.sin(), x)
    return value, push(t, w * 2), push(t * 3, w), T.func.vmap(both)(T.stack([t, t * 2])), more


USES = [ctc, rearranged, no_statistics, functional_writes, linearized, custom_functions, per_sample_cnn,
        per_sample_lstm, per_sample_transformer, per_sample_embedding, ensemble_mlp, ensemble_cnn,
        second_order, jacobians, jacobian_of_a_network, nested, structures, in_place, indexing, linear_algebra, losses, duals, functional]


@pytest.mark.parametrize("use", USES, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore")
def test_as_in_pytorch(use: Any) -> None:
    want, got = tree_leaves(use(torch)), tree_leaves(use(treadle))
    assert len(want) == len(got)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert tuple(a.shape) == tuple(b.shape), i
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-3, atol=1e-4, err_msg=f"{i}")


def mistakes(T: Any) -> Any:
    F, nn, x = T.func, T.nn, floats(T, 3, 4)
    v = F.vmap
    return [lambda: v(lambda x: x.sum().item())(x), lambda: v(lambda x: x if x.sum() > 0 else -x)(x), lambda: v(lambda x: float(x[0]))(x),
            lambda: v(lambda x: x, in_dims=2)(x), lambda: v(lambda x: x, in_dims=None)(x), lambda: v(lambda x: x, in_dims=[0])(x),
            lambda: v(lambda x: x, in_dims=(0, 0))(x), lambda: v(lambda x: x)(2.0), lambda: v(lambda: 1)(), lambda: v(lambda x: 1.0)(x),
            lambda: v(lambda x: x, out_dims=3)(x), lambda: v(lambda x: x, out_dims=(0, 0))(x), lambda: v(lambda x, y: x + y)(x, x[:2]),
            lambda: v(lambda x: T.zeros(4).add_(x))(x), lambda: v(lambda x: T.nonzero(x))(x), lambda: v(lambda x: x[x > 0])(x),
            lambda: v(lambda x: x + T.rand(4))(x), lambda: v(lambda x: x, out_dims=None)(x), lambda: v(lambda x: x, 0, 0, "no"),
            lambda: v(lambda x: x.tolist())(x), lambda: v(lambda x: x, chunk_size=0), lambda: v(lambda x: x, out_dims="a")(x),
            lambda: v(lambda x: x, in_dims=0.5)(x), lambda: F.grad(lambda x: x)(x),
            lambda: F.grad(lambda x: (x.sum(), 1, 2), has_aux=True)(x),
            lambda: F.grad(lambda x: x.sum(), argnums=1)(x), lambda: F.jvp(lambda x: x, x, x), lambda: F.jvp(lambda x: x, (x,), (x, x)),
            lambda: F.jvp(lambda x: x, (x,), (x[0],)), lambda: F.vjp(lambda x: x, x)[1]((x, x)), lambda: F.stack_module_state([]),
            lambda: F.stack_module_state([nn.Linear(1, 1), nn.ReLU()]), lambda: F.jacrev(lambda x: x, chunk_size=0),
            lambda: F.functional_call(nn.Linear(2, 2), [{"weight": x}, {"weight": x}], x),
            lambda: F.functionalize(lambda x: x, remove="all"),
            lambda: F.rearrange(x, "a b"), lambda: F.rearrange(x, "a b -> b c"), lambda: F.rearrange(x, "(a a) c -> a c"),
            lambda: F.rearrange(x, "a (b c -> a b c"), lambda: F.rearrange(x, "a a -> a"), lambda: F.rearrange(x, "a b c -> a b c"),
            lambda: T.autograd.functional.vjp(lambda x: x, x), lambda: T.autograd.functional.hessian(lambda x: x, x),
            lambda: T.autograd.functional.jacobian(lambda x: 1, x), lambda: T.autograd.forward_ad.make_dual(x, x)]


@pytest.mark.parametrize("i", range(len(mistakes(treadle))))
def test_mistakes_raise_what_pytorch_raises(i: int) -> None:
    with pytest.raises(Exception) as theirs:
        mistakes(torch)[i]()
    with pytest.raises(type(theirs.value)):
        mistakes(treadle)[i]()
