"""Complex tensors against PyTorch, by family: values, dtypes, gradients, refusals, text."""
from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle_compare import compare

import treadle

pytestmark = pytest.mark.oracle
RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return (RNG.uniform(-1.5, 1.5, shape) + 1j * RNG.uniform(-1.5, 1.5, shape)).astype(np.complex64)


A, B, C, M, S, V, W = draw(3, 4), draw(3, 4), draw(3, 4), draw(4, 5), draw(4, 4), draw(4), draw(4)
BATCH, ROW = draw(2, 3, 4), draw(1, 3)
R = RNG.uniform(0.2, 1.5, (3, 4)).astype(np.float32)
D = RNG.uniform(0.2, 1.5, (3, 4))
N = np.ones((3, 4), np.int64)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


UNARY = """abs angle acos acosh asin asinh atan atanh cos cosh exp exp2 expm1 log log2 log10 log1p neg reciprocal rsqrt sqrt sigmoid sin
sinh tan tanh sgn square conj real imag conj_physical positive isnan isinf isfinite isreal logical_not sinc resolve_conj view_as_real sum
prod mean var std count_nonzero adjoint cov corrcoef any all nonzero is_complex""".split()
BINARY = "add sub mul div pow eq ne logical_and logical_or dist inner kron true_divide".split()


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_operand(torch: Any, name: str) -> None:
    compare(torch, lambda m, x: getattr(m, name)(x), A)


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_operands(torch: Any, name: str) -> None:
    compare(torch, lambda m, x, y: getattr(m, name)(x, y), A, B)
    if name in ("add", "sub", "mul", "div", "pow", "eq"):
        for other in (R, D, N):
            compare(torch, lambda m, x, y: getattr(m, name)(x, y), A, other)
            compare(torch, lambda m, x, y: getattr(m, name)(y, x), A, other)
        for number in (2.5, 2, 2.5 - 1j):
            compare(torch, lambda m, x, n=number: getattr(m, name)(x, n), A)
            compare(torch, lambda m, x, n=number: getattr(m, name)(x, n), R)


FAMILIES: dict[str, list[tuple[Callable[..., Any], tuple[np.ndarray, ...]]]] = {
    "powers": [(lambda m, x, e=e: x ** e, (A,)) for e in (2, 3, 0.5, -1, -0.5, 1, 0, 2.5, 1 + 1j)]
    + [(lambda m, x: 2.0 ** x, (A,)), (lambda m, x: 1j ** x, (R,)), (lambda m, x: 1j / x, (A,)), (lambda m, x: 1j - x, (R,))],
    "products": [
        (lambda m, x, y: x @ y, (A, M)), (lambda m, x, y: x @ y, (BATCH, M)), (lambda m, x, y: x @ y, (A, V)),
        (lambda m, x, y: m.dot(x, y), (V, W)), (lambda m, x, y: m.vdot(x, y), (V, W)), (lambda m, x, y: m.outer(x, y), (V, W)),
        (lambda m, x: x @ x.mH, (A,)), (lambda m, x: x.conj() @ x.T, (A,)), (lambda m, x: m.matrix_power(x, 3), (S,)),
        (lambda m, x, y: m.einsum("bij,jk->bik", x, y), (BATCH, M)), (lambda m, x: m.einsum("ij,ij->", x, x.conj()), (A,)),
        (lambda m, x, y, z: m.addmm(z, x, y, beta=0.5, alpha=2), (A, M, draw(3, 5))),
        (lambda m, x, y, z: m.baddbmm(z, x, y), (draw(2, 3, 4), draw(2, 4, 5), draw(2, 3, 5))),
        (lambda m, x, y, z: m.addmv(x, y, z), (draw(3), A, V)), (lambda m, x, y: m.tensordot(x, y, 1), (A, M)),
        (lambda m, x, w, b: m.nn.functional.linear(x, w, b), (A, draw(5, 4), draw(5))), (lambda m, x: m.trace(x), (S,)),
        (lambda m, x, y: m.linalg.cross(x, y), (draw(2, 3), draw(2, 3)))],
    "norms": [(lambda m, x, p=p: m.linalg.vector_norm(x, p), (A,)) for p in (1, 2, 3, float("inf"), -float("inf"))]
    + [(lambda m, x: m.linalg.norm(x), (A,)), (lambda m, x: x.norm(dim=0), (A,)), (lambda m, x: m.linalg.matrix_norm(x, 1), (A,)),
       (lambda m, x: m.nn.functional.normalize(x), (A,)), (lambda m, x, y: m.nn.functional.l1_loss(x, y), (A, B))],
    "activations": [
        (lambda m, x: m.nn.functional.silu(x.detach()), (A,)), (lambda m, x: m.nn.functional.rms_norm(x, (4,)), (A,)),
        (lambda m, x, w: m.nn.functional.rms_norm(x, (4,), w, 0.1), (A, V)), (lambda m, x: m.logcumsumexp(x, 1), (A,)),
        (lambda m, x: m.logcumsumexp(x.imag * 3 + x, 0), (A,)), (lambda m, x: m.combinations(x, 2), (V,)),
        (lambda m, x: m.gather(x.sum(), 0, m.tensor([0])), (V,))],
    "reductions": [
        (lambda m, x: x.sum(1, keepdim=True), (A,)), (lambda m, x: x.mean(0), (A,)), (lambda m, x: x.prod(1), (A,)),
        (lambda m, x: x.cumsum(1), (A,)), (lambda m, x: x.cumprod(1), (A,)), (lambda m, x: x.logsumexp(1), (A,)),
        (lambda m, x: m.var(x, 1), (A,)), (lambda m, x: m.std(x, correction=0), (A,)), (lambda m, x: m.var_mean(x, 1), (A,)),
        (lambda m, x: m.trapezoid(x), (A,)), (lambda m, x: m.diff(x), (A,))],
    "selection": [
        (lambda m, x, y: m.where(m.real(x) > 0, x, y), (A, B)), (lambda m, x: m.where(m.real(x) > 0, x, 0.0), (A,)),
        (lambda m, x, y: m.lerp(x, y, 0.3), (A, B)), (lambda m, x, y, z: m.addcmul(x, y, z, value=0.5), (A, B, C)),
        (lambda m, x, y, z: m.addcdiv(x, y, z, value=0.5), (A, B, C)), (lambda m, x: x.masked_fill(x.real > 0, 1j), (A,)),
        (lambda m, x: x.masked_select(x.real > 0), (A,)), (lambda m, x, y: x.masked_scatter(x.real > 0, y), (A, B)),
        (lambda m, x: x[1:, [0, 2]], (A,)), (lambda m, x: x[..., ::2], (A,)), (lambda m, x, y: m.cat([x, y], 1), (A, B)),
        (lambda m, x, y: m.cat([x, y], 1), (A, R)), (lambda m, x, y: m.stack([x, y], 1), (A, B)),
        (lambda m, x: m.gather(x, 0, m.tensor([[0, 2, 1]])), (A,)), (lambda m, x, y: x.scatter(1, m.tensor([[0, 2, 1]]), y), (A, ROW)),
        (lambda m, x, y: x.scatter_add(1, m.tensor([[0, 2, 2]]), y), (A, ROW)),
        (lambda m, x: m.index_select(x, 0, m.tensor([2, 0, 0])), (A,)), (lambda m, x, y: x.index_add(0, m.tensor([2, 0, 0]), y), (A, B)),
        (lambda m, x, y: x.index_copy(0, m.tensor([2, 0, 1]), y), (A, B)), (lambda m, x: x.index_fill(0, m.tensor([2]), 1j), (A,)),
        (lambda m, x: m.take(x, m.tensor([0, 5])), (A,)), (lambda m, x: m.nn.functional.pad(x, (1, 2)), (A,)),
        (lambda m, x: m.nn.functional.pad(x, (1, 2), mode="reflect"), (A,))],
    "views": [
        (lambda m, x: x.tril(), (A,)), (lambda m, x: x.triu(1), (A,)), (lambda m, x: m.diag(x), (S,)), (lambda m, x: m.diagonal(x), (S,)),
        (lambda m, x: m.roll(x, 1, 0), (A,)), (lambda m, x: m.flip(x, (0,)), (A,)), (lambda m, x: m.diag_embed(x), (V,)),
        (lambda m, x: x.repeat(2, 1), (A,)), (lambda m, x: x.unfold(1, 2, 1), (A,)), (lambda m, x: x.H, (A,)),
        (lambda m, x: x.real * 2 + x.imag, (A,)), (lambda m, x: m.view_as_complex(x.reshape(3, 2, 2)), (R,)),
        (lambda m, x, y: m.polar(x, y), (R, R.copy())), (lambda m, x, y: m.complex(x, y), (D, D.copy())),
        (lambda m, x: m.angle(x - 0.7), (R,)), (lambda m, x: m.abs(x * 0), (A,)), (lambda m, x: m.sgn(x * 0), (A,))],
    "casts": [
        (lambda m, x: x.to(m.float64), (A,)), (lambda m, x: x.to(m.complex128), (A,)), (lambda m, x: x.to(m.cdouble), (R,)),
        (lambda m, x: x.bool(), (A,)), (lambda m, x: x.long(), (A,)), (lambda m, x: m.isclose(x, x + 1e-7), (A,)),
        (lambda m, x: m.allclose(x, x), (A,)), (lambda m, x: m.equal(x, x), (A,))],
    "convolutions": [
        (lambda m, x, w: m.nn.functional.conv1d(x, w, padding=1), (draw(2, 3, 8), draw(4, 3, 3))),
        (lambda m, x, w, b: m.nn.functional.conv2d(x, w, b, stride=2), (draw(1, 3, 6, 6), draw(4, 3, 3, 3), draw(4)))],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_family(torch: Any, family: str) -> None:
    for function, arrays in FAMILIES[family]:
        compare(torch, function, *arrays)


def _through_parts(m: Any, x: Any) -> Any:
    y = x * 1
    y.real.mul_(2)
    y.imag[0] = 1
    y.mul_(1j)
    y[1] += 2j
    y.conj().add_(1 + 2j)
    m.view_as_real(y)[..., 0].add_(3)
    y.real = 0.5
    return y


def test_writes_through_views(torch: Any) -> None:
    compare(torch, _through_parts, A)
    for m in (torch, treadle):
        z = m.tensor(A)
        array = z.numpy()
        z.imag.zero_()
        assert not array.imag.any()
        array[0] = 5j
        assert z.imag[0, 0] == 5 and z.real.stride() == (8, 2) and z.imag.storage_offset() == 1 and z.conj().is_conj()
        assert not z.conj().resolve_conj().is_conj() and z.conj().conj().tolist() == z.tolist()


def _refused(m: Any) -> list[Callable[[], Any]]:
    z, x = m.tensor([1j, 2]), m.tensor([1.0, 2])
    leaf = m.tensor([1j, 2], requires_grad=True)
    return [
        *[lambda n=n: getattr(m, n)(z, z) for n in ("lt", "ge", "maximum", "fmod", "remainder", "atan2", "bitwise_and")],
        *[lambda n=n: getattr(m, n)(z) for n in ("floor", "round", "sign", "erf", "relu", "max", "argmax", "sort", "median", "lgamma")],
        lambda: z.clamp(0), lambda: z // 2, lambda: m.softmax(z, 0), lambda: m.imag(x), lambda: m.view_as_real(x),
        lambda: m.view_as_complex(x[0]), lambda: m.view_as_complex(m.ones(3)), lambda: m.view_as_complex(m.ones(3, 4).t()[:, :2]),
        lambda: m.complex(x, m.tensor([1, 2])), lambda: m.polar(x, m.tensor([1, 2])), lambda: leaf.sum().backward(),
        lambda: leaf.sum().backward(m.tensor(1.0)), lambda: z.conj().numpy(), lambda: m.view_as_real(z.conj()), lambda: z.H, lambda: z.mH,
        lambda: x.add_(1j), lambda: m.tensor(1j, dtype=m.float32), lambda: m.full((2,), 1j, dtype=m.float32), lambda: float(z[0]),
        lambda: int(z[0]), lambda: m.arange(3, dtype=m.complex64), lambda: m.nn.functional.mse_loss(z, z)]


def test_refusals(torch: Any) -> None:
    for i, (ours, theirs) in enumerate(zip(_refused(treadle), _refused(torch), strict=True)):
        with pytest.raises((RuntimeError, TypeError)) as wanted:
            theirs()
        with pytest.raises(RuntimeError if issubclass(wanted.type, RuntimeError) else wanted.type):
            ours()
            pytest.fail(f"case {i} is not refused")


MADE = """m.tensor([1j, 2]) ;; m.tensor(1.5 - 2j) ;; m.tensor([[1 + 2j]], dtype=m.cdouble, requires_grad=True) ;; m.full((2,), 1j) ;;
m.tensor([1, 2j, 3.25 - 1e-6j, float("nan"), 1000j]) ;; m.zeros(2, 2, dtype=m.cfloat) ;; m.ones(2, dtype=m.complex128) ;;
m.eye(2, dtype=m.complex64) ;; m.linspace(0, 1 + 1j, 3) ;; m.tensor([]).cfloat() ;; m.tensor([1j]).to(m.complex128) ;;
m.tensor(np.array([1j, 2])) ;; m.from_numpy(np.array([1j], np.complex64)) ;; m.zeros(50, 40, dtype=m.cfloat) + 1j ;;
m.finfo(m.complex64).eps ;;
m.result_type(m.tensor(1.0), 1j).itemsize ;; m.promote_types(m.complex64, m.float64).itemsize ;; m.tensor([1j]).element_size() ;;
m.tensor([1.5 + 2j]).tolist() ;; m.tensor(1 + 0j).__float__() ;; complex(m.tensor(2j)) ;; m.tensor([1j]).is_complex() ;;
m.complex64.is_complex ;; m.complex64.is_floating_point ;; m.tensor([1j, 0]).nonzero() ;; m.can_cast(m.complex64, m.float32) ;;
m.result_type(m.ones(2, dtype=m.float64), 1j).itemsize ;; m.result_type(m.ones(2), m.tensor(1j, dtype=m.cdouble)).itemsize ;;
m.result_type(m.tensor([1]), 1j).itemsize ;; m.result_type(m.ones(2, dtype=m.cfloat), m.tensor(1.0, dtype=m.double)).itemsize"""


@pytest.mark.parametrize("text", [t.strip() for t in MADE.split(";;")])
def test_made_and_printed(torch: Any, text: str) -> None:
    ours, theirs = (repr(eval(text, {"m": m, "np": np})).replace("treadle", "torch") for m in (treadle, torch))
    assert ours == theirs


def test_saved_and_copied(torch: Any) -> None:
    z = treadle.tensor(A)
    file = io.BytesIO()
    treadle.save({"z": z, "w": z.to(treadle.complex128)}, file)
    file.seek(0)
    theirs = torch.load(file)
    assert theirs["z"].dtype is torch.complex64 and theirs["w"].dtype is torch.complex128 and theirs["z"].numpy().tolist() == A.tolist()
    file = io.BytesIO()
    torch.save(theirs, file)
    file.seek(0)
    assert treadle.load(file)["w"].tolist() == A.astype(np.complex128).tolist()
    for copied in (pickle.loads(pickle.dumps(z)), copy.deepcopy(z), treadle.from_dlpack(z), treadle.from_dlpack(torch.tensor(A))):
        assert copied.dtype is treadle.complex64 and copied.tolist() == A.tolist()


def test_random_fills(torch: Any) -> None:
    for m in (torch, treadle):
        z = m.randn(4000, dtype=m.complex64)
        assert abs(float(z.abs().square().mean()) - 1) < 0.1 and m.rand(3, dtype=m.complex128).dtype is m.complex128


def test_training_of_complex_parameters(torch: Any) -> None:
    for name, options in {"SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"lr": 0.1}, "AdamW": {"lr": 0.1}, "RMSprop": {"lr": 0.1},
                          "Adagrad": {"lr": 0.1}}.items():
        found = []
        for m in (torch, treadle):
            w = m.nn.Parameter(m.tensor(S))
            optimizer = getattr(m.optim, name)([w], **options)
            for _ in range(4):
                optimizer.zero_grad()
                ((w @ m.tensor(M) - 1j).abs() ** 2).mean().backward()
                optimizer.step()
            found.append(w.detach().numpy())
        np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("write", [lambda m, x: x.masked_fill(x > 0, 1j), lambda m, x: x.__setitem__(0, 1j), lambda m, x: x.fill_(1j),
                                   lambda m, x: m.full_like(x, 1j), lambda m, x: x.index_fill(0, m.tensor([0]), 1j)])
def test_a_complex_number_does_not_go_into_a_real_tensor(torch: Any, write: Callable[..., Any]) -> None:
    for m in (torch, treadle):
        with pytest.raises(RuntimeError):
            write(m, m.ones(3))
