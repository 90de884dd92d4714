"""The op table against PyTorch: values and gradients of composites, losses, indexing, scans, updates and recurrent layers."""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from op_cases import gradient_graph

import treadle
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE
from treadle.ir.types import tensor_type

pytestmark = pytest.mark.oracle
INF, NAN = math.inf, math.nan
EDGES = np.array([-INF, -200.0, -20.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.3, 0.5, 1.0, 3.0, 20.0, 200.0, INF, NAN], np.float32)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def compare(torch: Any, name: str, operands: tuple[Any, ...], attrs: tuple[Any, ...], theirs: Callable[..., Any], check_grad: bool = True,
            rtol: float = 2e-5, atol: float = 1e-6) -> None:
    """Run the op and PyTorch's function on the same operands; compare results and, for floating arrays, gradients."""
    b, arrays, values = Builder(Graph(name)), [], []
    for o in operands:
        if isinstance(o, np.ndarray):
            arrays.append(o)
            values.append(b.input(tensor_type(o.shape, dtypes.from_numpy(o.dtype))))
        else:
            values.append(b.number(o))
    result = b.apply(TABLE[name], tuple(values), attrs)
    b.graph.outputs = list(result) if isinstance(result, tuple) else [result]
    tensors = [torch.tensor(o, requires_grad=check_grad and o.dtype.kind == "f") if isinstance(o, np.ndarray) else o for o in operands]
    expected = theirs(*tensors)
    expected = list(expected) if isinstance(expected, (tuple, list)) else [expected]
    for got, want in zip(run(b.graph, arrays), expected, strict=False):
        assert got.shape == tuple(want.shape) and str(want.dtype) == f"torch.{got.dtype}"
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=rtol, atol=atol, err_msg=name)
    if not check_grad:
        return
    floats = [e for e in expected if e.dtype.is_floating_point]
    rng = np.random.default_rng(2)
    weights = [np.asarray(rng.uniform(-1, 1, tuple(e.shape)),
                          arrays[0].dtype if arrays[0].dtype.kind == "f" else np.float32) for e in floats]
    torch.autograd.backward(floats, [torch.tensor(w) for w in weights])
    leaves = [t for t in tensors if isinstance(t, torch.Tensor)]
    wrt = [i for i, t in enumerate(leaves) if t.requires_grad and t.grad is not None]
    extra = [np.zeros(o.type.shape, o.type.dtype.np) for o in b.graph.outputs if o.type.dtype.category == dtypes.FLOAT][len(weights):]
    for i, got in zip(wrt, run(gradient_graph(b.graph, wrt), [*arrays, *weights, *extra]), strict=True):
        np.testing.assert_allclose(got, leaves[i].grad.numpy(), rtol=rtol * 5, atol=max(atol, 1e-5), err_msg=f"{name}: gradient {i}")


def draw(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 31 * len(shape)).uniform(low, high, shape).astype(np.float32)


ACTIVATIONS: list[tuple[str, tuple[float, ...], tuple[Any, ...], Callable[[Any], Callable[..., Any]]]] = [
    ("gelu", (), ("none",), lambda F: lambda x: F.gelu(x)), ("gelu", (), ("tanh",), lambda F: lambda x: F.gelu(x, approximate="tanh")),
    ("silu", (), (), lambda F: F.silu), ("mish", (), (), lambda F: F.mish), ("softplus", (1.5, 10.0), (), lambda F: F.softplus),
    ("leaky_relu", (0.1,), (), lambda F: F.leaky_relu), ("elu", (1.3,), (), lambda F: F.elu), ("selu", (), (), lambda F: F.selu),
    ("celu", (1.3,), (), lambda F: F.celu), ("hardtanh", (-0.5, 1.0), (), lambda F: F.hardtanh),
    ("hardswish", (), (), lambda F: F.hardswish),
    ("hardsigmoid", (), (), lambda F: F.hardsigmoid), ("logsigmoid", (), (), lambda F: F.logsigmoid),
    ("softsign", (), (), lambda F: F.softsign),
    ("threshold", (0.5, 7.0), (), lambda F: F.threshold), ("hardshrink", (0.5,), (), lambda F: F.hardshrink),
    ("softshrink", (0.5,), (), lambda F: F.softshrink), ("relu", (), (), lambda F: F.relu)]


@pytest.mark.parametrize(("name", "numbers", "attrs", "theirs"), ACTIVATIONS)
def test_activations(torch: Any, name: str, numbers: tuple[float, ...], attrs: tuple[Any, ...], theirs: Any) -> None:
    finite = EDGES[np.isfinite(EDGES)]
    compare(torch, name, (finite, *numbers), attrs, theirs(torch.nn.functional))
    compare(torch, name, (draw(5, 7), *numbers), attrs, theirs(torch.nn.functional))


@pytest.mark.parametrize("name",
                         ["softplus", "elu", "relu", "leaky_relu", "selu", "logsigmoid", "hardtanh", "softsign", "threshold", "mish",
                          "gelu"])
def test_activations_at_the_ends(torch: Any, name: str) -> None:
    numbers, attrs, theirs = next(case[1:] for case in ACTIVATIONS if case[0] == name)
    ends = np.array([NAN] if name in ("softsign", "mish", "gelu") else [-INF, INF, NAN], np.float32)
    compare(torch, name, (ends, *numbers), attrs, theirs(torch.nn.functional), check_grad=False)


def test_elementwise_composites(torch: Any) -> None:
    x, y, z = draw(3, 4), draw(3, 4, seed=1), draw(4, seed=2)
    compare(torch, "lerp", (x, y, 0.3), (), torch.lerp)
    compare(torch, "lerp", (x, y, z), (), torch.lerp)
    compare(torch, "addcmul", (x, y, z, 0.5), (), lambda a, b, c, v: torch.addcmul(a, b, c, value=v))
    compare(torch, "addcdiv", (x, y, z, 0.5), (), lambda a, b, c, v: torch.addcdiv(a, b, c, value=v), rtol=1e-4)
    compare(torch, "logaddexp", (x, z), (), torch.logaddexp)
    compare(torch, "logaddexp", (np.float32([INF, -INF, 1]), np.float32([INF, -INF, -INF])), (), torch.logaddexp, check_grad=False)
    compare(torch, "xlogy", (np.float32([0, 0, 1, 2, NAN, 0]), np.float32([0, NAN, 2, 0, 1, 3])), (), torch.xlogy, check_grad=False)
    compare(torch, "xlogy", (np.float32([0, 1, 2]), np.float32([0, 2, 3])), (), torch.xlogy)
    compare(torch, "nan_to_num", (EDGES, 0.5, 9.0, -9.0), (), torch.nan_to_num)
    compare(torch, "masked_fill", (x, y > 0, 2.5), (), lambda a, m, v: a.masked_fill(m, v))
    for numbers in ((-0.5, 0.5), (0.5, -0.5)):
        compare(torch, "clamp", (EDGES, *numbers), (), torch.clamp)
    compare(torch, "clamp", (x, y, z), (), torch.clamp)
    compare(torch, "clamp_min", (np.float32([1, 2, NAN, 3]), 2.0), (), torch.clamp_min)
    compare(torch, "addmm", (z, draw(3, 5), draw(5, 4), 0.5, 2.0), (), lambda c, a, b, u, v: torch.addmm(c, a, b, beta=u, alpha=v))
    compare(torch, "pow", (np.float32([0, 0.5, 2, 3]), 2.3), (), torch.pow)
    compare(torch, "pow", (np.float32([0, 0.5, 2, 0]), np.float32([0, 1, 2.5, 3])), (), torch.pow)


def test_statistics(torch: Any) -> None:
    x = draw(3, 4, 5)
    compare(torch, "mean", (x,), ((0, 2), False, None), lambda t: t.mean((0, 2)))
    for name in ("var", "std"):
        for correction in (0, 1, 2.5):
            compare(torch, name, (x,), ((1,), correction, True), lambda t, c=correction,
                    n=name: getattr(torch, n)(t, (1,), correction=c, keepdim=True))
        compare(torch, name, (draw(3, 1),), ((1,), 1, False), lambda t, n=name: getattr(torch, n)(t, (1,)), check_grad=False)
    ties = np.float32([[1, 3, 3, 2], [5, 5, 1, 5], [0, -1, -1, 7]])
    for name in ("max", "min"):
        compare(torch, f"{name}_dim", (ties,), (1, False), lambda t, n=name: tuple(getattr(t, n)(1)))
        compare(torch, f"{name}_dim", (np.float32([[1, NAN, 3], [2, 1, 1]]),), (1, False), lambda t, n=name: tuple(getattr(t, n)(1)),
                check_grad=False)
        compare(torch, f"a{name}", (ties,), ((1,), False), lambda t, n=name: getattr(t, f"a{n}")(1))
    for name in ("tril", "triu"):
        for diagonal in (-2, 0, 1):
            compare(torch, name, (x,), (diagonal,), lambda t, n=name, d=diagonal: getattr(torch, n)(t, d))


def test_softmax_family(torch: Any) -> None:
    x = np.concatenate([draw(2, 3, 4) * 30, np.full((1, 3, 4), -INF, np.float32)])
    x[0, 0, 1:] = -INF
    for name in ("softmax", "log_softmax"):
        compare(torch, name, (x,), (2,), lambda t, n=name: getattr(torch, n)(t, 2), check_grad=False)
        compare(torch, name, (draw(2, 3, 4),), (1,), lambda t, n=name: getattr(torch, n)(t, 1))
    compare(torch, "logsumexp", (x,), ((2,), False), lambda t: torch.logsumexp(t, 2), check_grad=False)
    compare(torch, "logsumexp", (np.float32([[INF, 1], [-INF, -INF]]),), ((1,), True), lambda t: torch.logsumexp(t, 1, True),
            check_grad=False)
    compare(torch, "logsumexp", (draw(2, 3, 4),), ((0, 2), False), lambda t: torch.logsumexp(t, (0, 2)))


def test_normalization(torch: Any) -> None:
    x, w, bias = draw(2, 3, 4), draw(3, 4, seed=1), draw(3, 4, seed=2)
    F = torch.nn.functional
    compare(torch, "layer_norm", (x, 1e-5), (1,), lambda t, e: F.layer_norm(t, (4,), eps=e))
    compare(torch, "layer_norm", (x, 1e-5, w), (2,), lambda t, e, a: F.layer_norm(t, (3, 4), a, eps=e))
    compare(torch, "layer_norm", (x, 1e-5, w, bias), (2,), lambda t, e, a, c: F.layer_norm(t, (3, 4), a, c, eps=e))
    compare(torch, "rms_norm", (x, 1e-5, w), (2,), lambda t, e, a: F.rms_norm(t, (3, 4), a, eps=e))
    compare(torch, "normalize", (x, 1e-5), ((0, 2),), lambda t, e: F.batch_norm(t, None, None, training=True, eps=e), rtol=1e-4)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses(torch: Any, reduction: str) -> None:
    F = torch.nn.functional
    x, y, p, q = draw(3, 4), draw(3, 4, seed=1), draw(3, 4, low=0.05, high=0.95), draw(3, 4, low=0.05, high=0.95, seed=1)
    compare(torch, "mse_loss", (x, y), (reduction,), lambda a, c: F.mse_loss(a, c, reduction=reduction))
    compare(torch, "l1_loss", (x, y), (reduction,), lambda a, c: F.l1_loss(a, c, reduction=reduction))
    compare(torch, "smooth_l1_loss", (x, y, 0.7), (reduction,), lambda a, c, k: F.smooth_l1_loss(a, c, reduction=reduction, beta=k))
    compare(torch, "huber_loss", (x, y, 0.7), (reduction,), lambda a, c, k: F.huber_loss(a, c, reduction=reduction, delta=k))
    compare(torch, "bce", (p, q), (reduction,), lambda a, c: F.binary_cross_entropy(a, c, reduction=reduction))
    compare(torch, "bce", (np.float32([0, 1, 0, 1]), np.float32([0, 1, 1, 0])), (reduction,),
            lambda a, c: F.binary_cross_entropy(a, c, reduction=reduction), check_grad=False)
    compare(torch, "bce_with_logits", (x * 20, q), (reduction,), lambda a, c: F.binary_cross_entropy_with_logits(a, c, reduction=reduction))
    compare(torch, "bce_with_logits_pos", (x, q, draw(4, low=0.5)), (reduction,),
            lambda a, c, w: F.binary_cross_entropy_with_logits(a, c, pos_weight=w.detach(), reduction=reduction))
    compare(torch, "kl_div", (x, q), (False, reduction), lambda a, c: F.kl_div(a, c, reduction=reduction))
    compare(torch, "kl_div", (x, y), (True, reduction), lambda a, c: F.kl_div(a, c, reduction=reduction, log_target=True))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(torch: Any, reduction: str, smoothing: float) -> None:
    F = torch.nn.functional
    labels, w = np.array([1, -100, 3, 0]), np.abs(draw(5)) + 0.1

    def theirs(x: Any, t: Any, s: float, weight: Any = None, ignore: int = -100) -> Any:
        return F.cross_entropy(x, t, None if weight is None else weight.detach(), ignore_index=ignore, label_smoothing=s,
                               reduction=reduction)

    compare(torch, "cross_entropy", (draw(4, 5) * 5, labels, smoothing), (reduction, -100), theirs)
    compare(torch, "cross_entropy", (draw(4, 5), labels, smoothing, w), (reduction, -100), theirs)
    image = np.random.default_rng(0).integers(0, 5, (2, 3, 2))
    compare(torch, "cross_entropy", (draw(2, 5, 3, 2), image, smoothing), (reduction, 2), lambda x, t, s: theirs(x, t, s, ignore=2))
    compare(torch, "cross_entropy", (draw(5), np.array(3), smoothing), (reduction, -100), theirs)
    compare(torch, "cross_entropy", (draw(2, 5), np.array([-100, -100]), smoothing), (reduction, -100), theirs, check_grad=False)
    compare(torch, "cross_entropy_prob", (draw(4, 5), np.abs(draw(4, 5, seed=3)), smoothing), (reduction,), theirs)
    compare(torch, "cross_entropy_prob", (draw(4, 5), np.abs(draw(4, 5, seed=3)), smoothing, w), (reduction,), theirs)
    compare(torch, "nll_loss", (draw(4, 5), labels), (reduction, -100), lambda x, t: F.nll_loss(x, t, reduction=reduction))
    compare(torch, "nll_loss", (draw(4, 5), labels, w), (reduction, -100), lambda x, t,
            c: F.nll_loss(x, t, c.detach(), reduction=reduction))


def test_cross_entropy_of_probabilities_has_the_widest_type(torch: Any) -> None:
    kinds = ("float32", "float64", "float16", "bfloat16")
    for x, t, w in itertools.product(kinds, kinds, kinds):
        want, got = (m.nn.functional.cross_entropy(m.ones(2, 3, dtype=getattr(m, x)), m.full((2, 3), 0.25, dtype=getattr(m, t)),
                                                   m.tensor([0.5, 1.0, 2.0], dtype=getattr(m, w))) for m in (torch, treadle))
        assert str(got.dtype).split(".")[1] == str(want.dtype).split(".")[1], (x, t, w)
        assert got.item() == pytest.approx(want.item(), rel=2e-2)


def test_masked_logits_have_finite_loss(torch: Any) -> None:
    x = draw(2, 4)
    x[:, 3] = -INF
    compare(torch, "cross_entropy", (x, np.array([0, 1]), 0.0), ("mean", -100), lambda a, t, s: torch.nn.functional.cross_entropy(a, t))


def test_indexing(torch: Any) -> None:
    x, index, src = draw(4, 3), np.array([[0, 2, 1], [3, 0, 3]]), draw(2, 3, seed=1)
    compare(torch, "gather", (x, index), (0,), lambda a, j: a.gather(0, j))
    compare(torch, "scatter", (x, np.array([[0, 2, 1], [3, 0, 2]]), src), (0,), lambda a, j, s: a.scatter(0, j, s))
    compare(torch, "scatter_add", (x, index, src), (0,), lambda a, j, s: a.scatter_add(0, j, s))
    for reduce in ("prod", "amax", "amin"):
        for own in (True, False):
            compare(torch, "scatter_reduce", (x, index, src), (0, reduce, own),
                    lambda a, j, s, r=reduce, o=own: a.scatter_reduce(0, j, s, r, include_self=o))
    ties = np.float32([[1, 2, 2], [1, 1, 3]])
    compare(torch, "scatter_reduce", (ties, np.array([[0, 0, 1]]), np.float32([[1, 1, 1]])), (0, "amax", True),
            lambda a, j, s: a.scatter_reduce(0, j, s, "amax"))
    pick = np.array([2, 0, 2])
    compare(torch, "index_select", (x, pick), (0,), lambda a, j: a.index_select(0, j))
    compare(torch, "index_add", (x, pick, draw(3, 3)), (0,), lambda a, j, s: a.index_add(0, j, s))
    compare(torch, "index_copy", (x, np.array([2, 0]), draw(2, 3)), (0,), lambda a, j, s: a.index_copy(0, j, s))
    cube, row, column = draw(3, 4, 2), np.array([[0], [2]]), np.array([1, 0, -1])
    compare(torch, "index", (cube, row, column), ((0, 1),), lambda a, r, c: a[r, c])
    compare(torch, "index", (cube, row, np.array([1, 0, -1])), ((0, 2),), lambda a, r, c: a[r, :, c])
    compare(torch, "index", (cube, row, column), ((1, 2),), lambda a, r, c: a[:, r, c])
    compare(torch, "index_put", (cube, draw(2), row, column), ((0, 1), True), lambda a, v, r, c: a.index_put((r, c), v, accumulate=True))
    compare(torch, "index_put", (cube, draw(2), row, column), ((0, 1), False), lambda a, v, r, c: a.index_put((r, c), v))
    F = torch.nn.functional
    compare(torch, "embedding", (draw(5, 3), np.array([[0, 4], [2, 2]])), (2, False), lambda w, j: F.embedding(j, w, padding_idx=2))
    compare(torch, "one_hot", (index,), (5,), lambda j: F.one_hot(j, 5), check_grad=False)


def test_prefix_and_sorting(torch: Any) -> None:
    x = draw(3, 5)
    for name in ("cumsum", "cumprod", "logcumsumexp"):
        compare(torch, name, (x,), (1,), lambda t, n=name: getattr(torch, n)(t, 1), rtol=1e-4)
    compare(torch, "cumprod", (np.float32([[2, 0, 3, 0, 1], [1, 2, 3, 4, 0]]),), (1,), lambda t: t.cumprod(1))
    compare(torch, "cumsum", (np.arange(6, dtype=np.int32).reshape(2, 3),), (1,), lambda t: t.cumsum(1), check_grad=False)
    ties = np.float32([[1, 3, 3, 2, 3], [5, 5, 1, NAN, 6]])
    for name in ("cummax", "cummin"):
        compare(torch, name, (ties,), (1,), lambda t, n=name: tuple(getattr(torch, n)(t, 1)))
    for descending in (False, True):
        compare(torch, "sort", (ties,), (1, descending, True), lambda t,
                d=descending: tuple(torch.sort(t, dim=1, descending=d, stable=True)))
    for largest in (False, True):
        compare(torch, "topk", (x,), (2, 1, largest, True), lambda t, g=largest: tuple(torch.topk(t, 2, 1, g)))


RECURRENT = [("rnn_layer", "RNN", 1, ("tanh",)), ("rnn_layer", "RNN", 1, ("relu",)), ("lstm_layer", "LSTM", 4, ()),
             ("gru_layer", "GRU", 3, ())]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("name", "kind", "gates", "flags"), RECURRENT)
def test_recurrent_layers(torch: Any, name: str, kind: str, gates: int, flags: tuple[str, ...], reverse: bool, biased: bool) -> None:
    steps, batch, size, hidden = 5, 3, 4, 6
    states = [draw(batch, hidden, seed=i) for i in range(2 if kind == "LSTM" else 1)]
    shapes = [(gates * hidden, size), (gates * hidden, hidden)] + [(gates * hidden,)] * 2 * biased
    parameters = [draw(*s, low=-0.5, high=0.5, seed=7 + i) for i, s in enumerate(shapes)]

    def theirs(x: Any, *rest: Any) -> tuple[Any, ...]:
        options = {"nonlinearity": flags[0]} if flags else {}
        layer = getattr(torch.nn, kind)(size, hidden, bias=biased, **options)
        names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"][:len(shapes)]
        state, weights = rest[:len(states)], dict(zip(names, rest[len(states):], strict=True))
        first = tuple(s.unsqueeze(0) for s in state)
        ys, last = torch.func.functional_call(layer, weights, (x.flip(0) if reverse else x, first if kind == "LSTM" else first[0]))
        last = last if isinstance(last, tuple) else (last,)
        return (ys.flip(0) if reverse else ys, *[t.squeeze(0) for t in last])

    for save in (True, False):
        compare(torch, name, (draw(steps, batch, size), *states, *parameters), (*flags, reverse, save), theirs, rtol=1e-4)


def optimizer_steps(torch: Any, make: Callable[[Any], Any], count: int = 3) -> tuple[np.ndarray, list[np.ndarray], Any]:
    """PyTorch's parameter after `count` steps, and the gradients that it took."""
    p = torch.nn.Parameter(torch.tensor(draw(3, 4)))
    optimizer, grads = make([p]), [draw(3, 4, seed=10 + i) for i in range(count)]
    for g in grads:
        p.grad = torch.tensor(g)
        optimizer.step()
    return p.detach().numpy(), grads, optimizer


def step(name: str, tensors: list[np.ndarray], numbers: tuple[float, ...], attrs: tuple[Any, ...]) -> list[np.ndarray]:
    b = Builder()
    count = len(TABLE[name].operands) - len(numbers) - TABLE[name].operands[-1].endswith("*")
    values: list[Any] = [b.input(tensor_type(t.shape, dtypes.from_numpy(t.dtype))) for t in tensors]
    result = b.apply(TABLE[name], (*values[:count], *numbers, *values[count:]), attrs)
    b.graph.outputs = list(result) if isinstance(result, tuple) else [result]
    return run(b.graph, tensors)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(torch: Any, nesterov: bool) -> None:
    expected, grads, _ = optimizer_steps(torch, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov))
    p, buffer = draw(3, 4), np.zeros((3, 4), np.float32)
    for g in grads:
        p, buffer = step("sgd_momentum_step", [p, g, buffer], (0.1, 0.9, 0.0, 0.01), (nesterov,))
    np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam(torch: Any, decoupled: bool, amsgrad: bool) -> None:
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    expected, grads, _ = optimizer_steps(torch, lambda p: kind(p, 0.01, betas=(0.9, 0.99), weight_decay=0.1, amsgrad=amsgrad))
    p = draw(3, 4)
    state = [np.zeros((3, 4), np.float32)] * (3 if amsgrad else 2)
    for t, g in enumerate(grads, 1):
        p, *state = step("adam_step", [p, g, *state], (0.01, 0.9, 0.99, 1e-8, 0.1, 1 - 0.9 ** t, 1 - 0.99 ** t), (decoupled,))
    np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop(torch: Any, momentum: float, centered: bool) -> None:
    expected, grads, _ = optimizer_steps(torch,
                                         lambda p: torch.optim.RMSprop(p, 0.01, 0.95, weight_decay=0.1, momentum=momentum,
                                                                       centered=centered))
    p = draw(3, 4)
    state = [np.zeros((3, 4), np.float32)] * (1 + centered + (momentum > 0))
    for g in grads:
        p, *state = step("rmsprop_step", [p, g, *state], (0.01, 0.95, 1e-8, 0.1, momentum), (centered,))
    np.testing.assert_allclose(p, expected, rtol=2e-6, atol=1e-6)
