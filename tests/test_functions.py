"""Functions of the package against numpy, their errors, and (oracle) hundreds of expressions against PyTorch."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from frontend_cases import ARRAYS, GRADIENTS, VALUES, leaves, operands, value_of

import treadle
from treadle import contraction, functions, gathering, linear_algebra, reductions, shaping
from treadle.creation import to_array
from treadle.tensor import Tensor

# Expressions and what numpy makes of them; the names are those of frontend_cases.ARRAYS.
AGAINST_NUMPY = {
    "A + B * 2 - 1": lambda a: a["A"] + a["B"] * 2 - 1,
    "m.add(A, B, alpha=3)": lambda a: a["A"] + 3 * a["B"],
    "m.div(A, B, rounding_mode='floor')": lambda a: np.floor(a["A"] / a["B"]),
    "m.clamp(A, -0.5, 0.5)": lambda a: a["A"].clip(-0.5, 0.5),
    "m.lerp(A, B, 0.25)": lambda a: a["A"] + 0.25 * (a["B"] - a["A"]),
    "m.hypot(A, B)": lambda a: np.hypot(a["A"], a["B"]),
    "m.logaddexp2(A, B)": lambda a: np.logaddexp2(a["A"], a["B"]),
    "m.copysign(A, B)": lambda a: np.copysign(a["A"], a["B"]),
    "m.round(A, decimals=1)": lambda a: a["A"].round(1),
    "m.nan_to_num(NAN, 1.0, 2.0)": lambda a: np.nan_to_num(a["NAN"], nan=1.0, posinf=2.0),
    "A.sum((0, 1))": lambda a: a["A"].sum(),
    "A.mean(1, keepdim=True)": lambda a: a["A"].mean(1, keepdims=True),
    "A.var(0)": lambda a: a["A"].var(0, ddof=1),
    "A.std(unbiased=False)": lambda a: a["A"].std(),
    "A.max(1).indices": lambda a: a["A"].argmax(1),
    "A.argmin(0)": lambda a: a["A"].argmin(0),
    "m.quantile(A, 0.3, dim=1)": lambda a: np.quantile(a["A"], 0.3, axis=1),
    "m.logsumexp(A, 1)": lambda a: np.log(np.exp(a["A"]).sum(1)),
    "A.cumsum(1)": lambda a: a["A"].cumsum(1),
    "m.diff(A, n=2)": lambda a: np.diff(a["A"], 2),
    "T3.permute(2, 0, 1)": lambda a: a["T3"].transpose(2, 0, 1),
    "A.T.reshape(-1)": lambda a: a["A"].T.reshape(-1),
    "m.diagonal(T3, 1, 1, 2)": lambda a: a["T3"].diagonal(1, 1, 2),
    "V.unfold(0, 3, 2)": lambda a: np.lib.stride_tricks.sliding_window_view(a["V"], 3)[::2],
    "m.stack([A, B], -1)": lambda a: np.stack([a["A"], a["B"]], -1),
    "A.repeat(2, 3)": lambda a: np.tile(a["A"], (2, 3)),
    "A.roll((1, -2), (0, 1))": lambda a: np.roll(a["A"], (1, -2), (0, 1)),
    "m.rot90(A)": lambda a: np.rot90(a["A"]),
    "m.repeat_interleave(A, 2, dim=1)": lambda a: a["A"].repeat(2, 1),
    "m.matmul(T3, C)": lambda a: a["T3"] @ a["C"],
    "m.matmul(A, V[:4])": lambda a: a["A"] @ a["V"][:4],
    "m.tensordot(T3, T3, ([1, 2], [1, 2]))": lambda a: np.tensordot(a["T3"], a["T3"], ([1, 2], [1, 2])),
    "m.kron(A, C)": lambda a: np.kron(a["A"], a["C"]),
    "m.norm(A, 3, 1)": lambda a: np.linalg.norm(a["A"], 3, 1),
    "m.cdist(A, B)": lambda a: np.linalg.norm(a["A"][:, None] - a["B"], axis=-1),
    "m.tril(S, -1)": lambda a: np.tril(a["S"], -1),
    "m.diag_embed(V, 2)": lambda a: np.diag(a["V"], 2),
    "m.gather(A, 1, IX)": lambda a: np.take_along_axis(a["A"], a["IX"], 1),
    "A.masked_select(M)": lambda a: a["A"][a["M"]],
    "m.nonzero(I)": lambda a: np.argwhere(a["I"]),
    "m.sort(A, 1, descending=True)[0]": lambda a: -np.sort(-a["A"], 1),
    "A.topk(2).values": lambda a: -np.sort(-a["A"], 1)[:, :2],
    "m.unique(I)": lambda a: np.unique(a["I"]),
    "m.bincount(K, minlength=5)": lambda a: np.bincount(a["K"], minlength=5),
    "m.searchsorted(V.sort()[0], A)": lambda a: np.searchsorted(np.sort(a["V"]), a["A"]),
}


@pytest.mark.parametrize("expression", AGAINST_NUMPY)
def test_against_numpy(expression: str) -> None:
    got = to_array(value_of(expression, operands(treadle)))
    want = np.asarray(AGAINST_NUMPY[expression](ARRAYS))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


EINSUMS = ["ij,jk->ik", "ij,jk", "ij->ji", "ij->", "ij,ij->i", "ij,kl->ijkl", "ij,ij->", "i...,i...->..."]


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum_of_two(equation: str) -> None:
    count = equation.count(",") + 1
    arrays = [ARRAYS["S"], ARRAYS["S"].T.copy()][:count]
    got = treadle.einsum(equation, *[treadle.tensor(a) for a in arrays])
    np.testing.assert_allclose(to_array(got), np.einsum(equation, *arrays), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("equation", ["bij,bkj->bik", "ii->i", "ii", "bii->bi", "ab,bc,cd,de->ae", "bij,jk,bkl->bil", "a,b,c->abc",
                                      "ij,jk,ki"])
def test_einsum_shapes_and_orders(equation: str) -> None:
    terms = equation.partition("->")[0].split(",")
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal([3 if c in "ij" and "ii" in equation else 2 + "abcdeijkl".index(c) % 4 for c in t]) for t in terms]
    got = treadle.einsum(equation, *[treadle.tensor(a) for a in arrays])
    np.testing.assert_allclose(to_array(got), np.einsum(equation, *arrays), rtol=1e-10, atol=1e-10)


def test_einsum_names_the_fault() -> None:
    x = treadle.ones(2, 3)
    with pytest.raises(RuntimeError, match="does not broadcast with previously seen size"):
        treadle.einsum("ij,ij->ij", x, treadle.ones(2, 4))
    with pytest.raises(RuntimeError, match="does not match the number of dimensions"):
        treadle.einsum("ijk->i", x)
    with pytest.raises(RuntimeError, match="fewer operands"):
        treadle.einsum("ij,jk->ik", x)
    with pytest.raises(RuntimeError, match="does not appear in the equation"):
        treadle.einsum("ij->k", x)


@pytest.mark.parametrize("module", [functions, shaping, reductions, linear_algebra, gathering, contraction])
def test_every_function_is_documented(module: Any) -> None:
    for name in getattr(module, "__all__", []):
        function = getattr(module, name)
        assert callable(function), name
        assert (function.__doc__ or "").strip(), f"{name} has no docstring"


def test_generated_functions_carry_their_names() -> None:
    assert treadle.exp.__name__ == "exp" and treadle.maximum.__name__ == "maximum"
    assert treadle.multiply is treadle.mul and treadle.arctan2 is treadle.atan2
    assert not hasattr(treadle, "trunc_divide") and hasattr(treadle, "bitwise_left_shift")


def test_numbers_do_not_promote_tensors_of_their_category() -> None:
    half, whole = treadle.ones(2, dtype=treadle.float16), treadle.ones(2, dtype=treadle.int32)
    assert (half * 2.5).dtype is treadle.float16
    assert (half + np.float64(2)).dtype is treadle.float16
    assert (whole * 2).dtype is treadle.int32
    assert (whole * 2.0).dtype is treadle.float32
    assert (whole / 2).dtype is treadle.float32
    assert (whole ** 2.0).dtype is treadle.float32
    assert treadle.ones(2, dtype=treadle.bool).sum().dtype is treadle.int64
    assert treadle.ones(2, dtype=treadle.uint8).cumsum(0).dtype is treadle.int64


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda x: treadle.exp(2.0), TypeError, r"exp\(\): argument 'input' \(position 1\) must be Tensor, not float"),
    (lambda x: treadle.add(x, "a"), TypeError, r"add\(\): argument 'other' \(position 2\) must be Tensor, not str"),
    (lambda x: treadle.clamp(x), RuntimeError, "At least one of 'min' or 'max'"),
    (lambda x: treadle.arange(3).mean(), RuntimeError, r"mean\(\): could not infer output dtype.*Long"),
    (lambda x: x.sum(2), IndexError, r"Dimension out of range \(expected to be in range of \[-2, 1\], but got 2\)"),
    (lambda x: x.view(5), RuntimeError, r"shape '\[5\]' is invalid for input of size 6"),
    (lambda x: x.t().view(6), RuntimeError, "view size is not compatible"),
    (lambda x: x.expand(4, 3), RuntimeError, r"expanded size of the tensor \(4\) must match the existing size \(2\)"),
    (lambda x: x.split([1, 5]), RuntimeError, r"sum exactly to 2 \(input tensor's size at dimension 0\), but got split_sizes=\[1, 5\]"),
    (lambda x: treadle.cat([x, x.t()]), RuntimeError, "Sizes of tensors must match except in dimension 0"),
    (lambda x: treadle.stack([]), RuntimeError, "non-empty TensorList"),
    (lambda x: x @ x, RuntimeError, r"mat1 and mat2 shapes cannot be multiplied \(2x3 and 2x3\)"),
    (lambda x: treadle.bmm(x, x), RuntimeError, "batch1 must be a 3D tensor"),
    (lambda x: treadle.dot(x, x), RuntimeError, "1D tensors expected, but got 2D and 2D tensors"),
    (lambda x: x.topk(9), RuntimeError, "selected index k out of range"),
    (lambda x: x.index_select(0, treadle.tensor([5])).tolist(), IndexError, "index 5 is out of bounds for dimension 0 with size 2"),
    (lambda x: treadle.multinomial(x - 2, 1), RuntimeError, "element < 0"),
    (lambda x: treadle.isclose(x, x.double()), RuntimeError, "Float did not match Double"),
    (lambda x: treadle.exp(x.requires_grad_(), out=treadle.empty(2, 3)), RuntimeError, "don't support automatic differentiation"),
])
def test_errors(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(treadle.ones(2, 3))


def test_out_takes_the_result_and_its_shape() -> None:
    out = treadle.empty(0)
    assert treadle.cat([treadle.ones(2), treadle.zeros(1)], out=out) is out
    assert out.tolist() == [1, 1, 0]
    view = treadle.zeros(2, 3)
    treadle.add(treadle.ones(3), 1, out=view[0])
    assert view.tolist() == [[2, 2, 2], [0, 0, 0]]


def test_multinomial_never_draws_what_has_no_weight() -> None:
    treadle.manual_seed(3)
    weights = treadle.tensor([0.0, 1.0, 0.0, 3.0, 0.0])
    drawn = treadle.multinomial(weights, 200, replacement=True)
    assert set(drawn.tolist()) == {1, 3}
    assert sorted(treadle.multinomial(weights, 2).tolist()) == [1, 3]
    with pytest.raises(RuntimeError, match="not enough non-negative category"):
        treadle.multinomial(weights, 3)


def test_named_results_unpack_and_pickle() -> None:
    import pickle
    best = treadle.tensor([[1.0, 5.0], [7.0, 2.0]]).max(1)
    values, indices = best
    assert values.tolist() == [5, 7] and best.indices is indices and indices.tolist() == [1, 0]
    assert repr(best) == "treadle.return_types.max(\nvalues=tensor([5., 7.]),\nindices=tensor([1, 0]))"
    assert pickle.loads(pickle.dumps(best)).values.tolist() == [5, 7]


def test_norm_has_a_gradient_at_zero() -> None:
    x = treadle.zeros(3, requires_grad=True)
    x.norm().backward()
    assert x.grad.tolist() == [0, 0, 0]


def test_power_uses_products_and_roots() -> None:
    x = treadle.tensor([4.0, 9.0])
    assert (x ** 2).tolist() == [16, 81] and (x ** 0.5).tolist() == [2, 3] and (x ** -1).tolist() == pytest.approx([0.25, 1 / 9])
    assert (x ** 3).tolist() == [64, 729] and (2 ** x).tolist() == [16, 512]
    with pytest.raises(RuntimeError, match="Integers to negative integer powers"):
        treadle.arange(3) ** -1


# -- against PyTorch -----------------------------------------------------------------------------------------------------------
def _plain(torch: Any, result: Any) -> Any:
    """A result as something to compare: dtype name, shape and float64 elements of tensors."""
    if isinstance(result, Tensor | torch.Tensor):
        return str(result.dtype).partition(".")[2], tuple(result.shape), np.asarray(result.detach().tolist(), np.float64)
    if isinstance(result, tuple | list):
        return [_plain(torch, r) for r in result]
    return result


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return a[:2] == b[:2] and np.allclose(a[2], b[2], rtol=2e-5, atol=1e-6, equal_nan=True)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b or (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-6)))


def _outcome(torch: Any, m: Any, expression: str) -> Any:
    try:
        return _plain(torch, value_of(expression, operands(m)))
    except Exception as error:
        return error


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("expression", VALUES)
def test_values_equal_pytorch(expression: str) -> None:
    torch = pytest.importorskip("torch")
    got, want = (_outcome(torch, m, expression) for m in (treadle, torch))
    if isinstance(want, Exception):  # NotImplementedError is PyTorch's RuntimeError for a dtype
        kinds = (RuntimeError,) if isinstance(want, RuntimeError) else type(want)
        assert isinstance(got, kinds), f"{got!r} for {want!r}"
    elif isinstance(got, Exception):
        raise got
    else:
        assert _same(got, want), f"{got} is not {want}"


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("expression", GRADIENTS)
def test_gradients_equal_pytorch(expression: str) -> None:
    torch = pytest.importorskip("torch")
    grads = []
    for m in (treadle, torch):
        env = leaves(m)
        made = [t for name, t in env.items() if name in ARRAYS and t.requires_grad]
        result = value_of(expression, env)
        shape = tuple(result.shape)
        weights = m.tensor(np.cos(np.arange(math.prod(shape)).reshape(shape) + 1.0)).to(result.dtype)
        (result * weights).sum().backward()
        grads.append([np.zeros(t.shape) if t.grad is None else np.array(t.grad.tolist()) for t in made])
    for ours, theirs in zip(*grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_sizes_by_name() -> None:
    for make in (treadle.empty, treadle.zeros, treadle.ones, treadle.rand, treadle.randn):
        assert make(size=(2, 3)).shape == make(2, 3).shape == (2, 3)
    assert treadle.randint(5, size=(2, 3)).shape == treadle.randint(high=5, size=(2, 3)).shape == (2, 3)
    x = treadle.arange(6.0)
    for name in ("new_zeros", "new_ones", "new_empty"):
        assert getattr(x, name)(size=(3, 1)).shape == (3, 1)
    assert x.view(size=(2, 3)).tolist() == x.reshape(shape=(2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert x.view(dtype=treadle.int32).tolist() == x.view(treadle.int32).tolist()
    assert x.expand(size=(2, 6)).tolist() == x.repeat(repeats=(2, 1)).tolist() == [x.tolist()] * 2
    assert x.to(other=treadle.tensor(1)).dtype is treadle.int64
