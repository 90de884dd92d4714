"""Dtypes at the edges of what an op takes, against PyTorch: integers where positions or counts are wanted, complex numbers, refusals."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle

torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
pytest.importorskip("torch.masked")
pytestmark = pytest.mark.oracle

RNG = np.random.default_rng(3)
REAL = RNG.standard_normal((3, 4)).astype(np.float32)
COMPLEX = (RNG.standard_normal((3, 4)) + 1j * RNG.standard_normal((3, 4))).astype(np.complex64)
INTEGERS = RNG.integers(0, 9, (3, 4))
MASK = RNG.random((3, 4)) < 0.6


COMPUTED: dict[str, tuple[Callable[..., Any], np.ndarray]] = {
    "masked.prod of int16": (lambda m, x: m.masked.prod(x.to(m.int16)[0, 0]), INTEGERS),
    "masked.logsumexp of complex": (lambda m, x: m.masked.logsumexp(x, 1), COMPLEX),
    "masked.var of complex": (lambda m, x: m.masked.var(x, 1, mask=m.from_numpy(MASK)), COMPLEX),
    "masked.std of complex": (lambda m, x: m.masked.std(x, 1), COMPLEX),
    "unravel_index of int32": (lambda m, x: m.unravel_index(x.to(m.int32), (3, 3))[0], INTEGERS),
    "svd of complex": (lambda m, x: (lambda u, s, v: (u * s) @ v.mH)(*m.svd(x)), COMPLEX),
    "masked.log_softmax": (lambda m, x: m.masked.log_softmax(x, 1, mask=m.from_numpy(MASK)), REAL),
    "masked.softmin": (lambda m, x: m.masked.softmin(x, 1, mask=m.from_numpy(MASK)), REAL),
    "masked.logaddexp": (lambda m, x: m.masked.logaddexp(x, x, input_mask=m.from_numpy(MASK)), REAL),
    "rms_norm of complex": (lambda m, x: m.nn.functional.rms_norm(x, (4,), x[0], 0.5), COMPLEX),
    "silu of complex": (lambda m, x: m.nn.functional.silu(x), COMPLEX),
    "bilinear of int32": (lambda m, x: m.nn.functional.bilinear(x.int(), x.int(), m.ones(2, 4, 4).int()), INTEGERS),
    "a triangular system with a zero on the diagonal":
        (lambda m, x: m.linalg.solve_triangular(m.tensor([[1.0, 2.0], [0.0, 0.0]]), x[:2], upper=True), REAL),
    "view_copy of what no view can show": (lambda m, x: m.view_copy(x.t(), (3, 4)), REAL),
    "cosine_similarity along a broadcast axis": (lambda m, x: m.nn.functional.cosine_similarity(x[:1], x, dim=0), REAL),
    "prelu of a number": (lambda m, x: m.nn.functional.prelu(-x[0, 0].abs(), x[0, :1]), REAL),
    "a window of one place": (lambda m, x: m.signal.windows.exponential(1, sym=False, tau=2.0), REAL),
    "cosine_similarity of a number": (lambda m, x: m.nn.functional.cosine_similarity(x[0, 0], x, dim=1), REAL),
    "batch_norm of nothing": (lambda m, x: m.nn.functional.batch_norm(x[0, :0], x[0, :0], x[0, :0]), REAL),
}
REFUSED: dict[str, tuple[Callable[..., Any], np.ndarray]] = {
    "special.erfcx of complex": (lambda m, x: m.special.erfcx(x), COMPLEX),
    "special.entr of complex": (lambda m, x: m.special.entr(x), COMPLEX),
    "special.xlog1py of complex": (lambda m, x: m.special.xlog1py(x, x), COMPLEX),
    "mvlgamma of complex": (lambda m, x: m.mvlgamma(x, 1), COMPLEX),
    "mode of complex": (lambda m, x: m.mode(x), COMPLEX),
    "sort of a complex number": (lambda m, x: m.sort(x[0, 0]), COMPLEX),
    "topk of a complex number": (lambda m, x: m.topk(x[0, 0], 1), COMPLEX),
    "max of a complex number": (lambda m, x: m.max(x[0, 0], 0), COMPLEX),
    "searchsorted of complex": (lambda m, x: m.searchsorted(x[0], x[1]), COMPLEX),
    "rad2deg of complex": (lambda m, x: m.rad2deg(x), COMPLEX),
    "normal of complex": (lambda m, x: m.normal(x, x), COMPLEX),
    "randint_like of complex": (lambda m, x: m.randint_like(x, 5), COMPLEX),
    "pdist of complex": (lambda m, x: m.nn.functional.pdist(x), COMPLEX),
    "pdist of integers": (lambda m, x: m.nn.functional.pdist(x), INTEGERS),
    "nanmean of integers": (lambda m, x: m.nanmean(x), INTEGERS),
    "masked.mean of integers": (lambda m, x: m.masked.mean(x), INTEGERS),
    "masked.norm of integers": (lambda m, x: m.masked.norm(x, 2.0, 1, mask=m.from_numpy(MASK)), INTEGERS),
    "masked.softmax of integers": (lambda m, x: m.masked.softmax(x, 1, mask=m.from_numpy(MASK)), INTEGERS),
    "masked.logaddexp of integers": (lambda m, x: m.masked.logaddexp(x, x, input_mask=m.from_numpy(MASK)), INTEGERS),
    "unravel_index of floats": (lambda m, x: m.unravel_index(x, (3, 3)), REAL),
    "prelu of integers": (lambda m, x: m.nn.functional.prelu(x, x[0, :1]), INTEGERS),
    "rrelu of integers": (lambda m, x: m.nn.functional.rrelu(x, training=True), INTEGERS),
    "hardtanh of bytes": (lambda m, x: m.nn.functional.hardtanh(x.to(m.uint8)), INTEGERS),
    "rms_norm of integers": (lambda m, x: m.nn.functional.rms_norm(x, (4,)), INTEGERS),
    "cosine_similarity of integers": (lambda m, x: m.nn.functional.cosine_similarity(x, x), INTEGERS),
    "multi_margin_loss of integers": (lambda m, x: m.nn.functional.multi_margin_loss(x, x[:, 0] % 4), INTEGERS),
    "multilabel_margin_loss of integers": (lambda m, x: m.nn.functional.multilabel_margin_loss(x, x % 4), INTEGERS),
    "ctc_loss of integers": (lambda m, x: m.nn.functional.ctc_loss(x.unsqueeze(1), x[:1, :1] % 3 + 1, (3,), (1,)), INTEGERS),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_computed(name: str) -> None:
    f, x = COMPUTED[name]
    want = f(torch, torch.from_numpy(x))
    got = f(treadle, treadle.from_numpy(x))
    assert str(got.dtype).split(".")[1] == str(want.dtype).split(".")[1]
    np.testing.assert_allclose(got.numpy(), want.numpy(), 1e-4, 1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("options", [{}, {"antialias": True}, {"align_corners": True}])
@pytest.mark.parametrize("size", [(5, 4), (9, 30)])
def test_resizing_bytes_is_exact(mode: str, options: dict[str, bool], size: tuple[int, int]) -> None:
    """PyTorch resizes uint8 in fixed point: no element may differ, whether interpreted or compiled."""
    image = RNG.integers(0, 256, (2, 3, 7, 11), dtype=np.uint8)
    want = torch.nn.functional.interpolate(torch.from_numpy(image), size, mode=mode, **options).numpy()
    for _ in range(2):
        got = treadle.nn.functional.interpolate(treadle.from_numpy(image), size, mode=mode, **options).numpy()
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    f, x = REFUSED[name]
    with pytest.raises(Exception) as theirs:
        f(torch, torch.from_numpy(x))
    with pytest.raises((RuntimeError, TypeError, ValueError)) as ours:
        f(treadle, treadle.from_numpy(x))
    assert issubclass(ours.type, RuntimeError) == issubclass(theirs.type, RuntimeError)
    assert issubclass(ours.type, theirs.type) or issubclass(theirs.type, RuntimeError)


@pytest.mark.parametrize("shape", [(2, 3), (4, 2)])
def test_gradient_of_a_full_svd(shape: tuple[int, int]) -> None:
    """The vectors that full matrices add are determined by nothing: what is asked of the others has PyTorch's gradient."""
    array = RNG.standard_normal(shape)

    def gradient(m: Any) -> np.ndarray:
        x = m.from_numpy(array).requires_grad_()
        u, s, vh = m.linalg.svd(x)
        (u[:, :2].abs().sum() + s.sum() + (vh[:2].abs() ** 3).sum()).backward()
        return x.grad.numpy()
    np.testing.assert_allclose(gradient(treadle), gradient(torch), 1e-9, 1e-9)


def test_gradient_of_nextafter_at_equal_numbers() -> None:
    def gradient(m: Any) -> list[float]:
        x = m.tensor([1.0, 2.0, 0.0], requires_grad=True)
        m.nextafter(x, m.tensor([1.0, 5.0, 0.0])).sum().backward()
        return x.grad.tolist()
    assert gradient(treadle) == gradient(torch) == [0.0, 1.0, 0.0]


def _repeated(m: Any) -> tuple[Any, Any]:
    x = m.arange(6.0)
    return x, m.as_strided(x, (2, 3), (0, 2), 1)


def test_writing_to_repeated_places() -> None:
    """What reads one place several times takes a number, and nothing else."""
    for m in (torch, treadle):
        x, view = _repeated(m)
        view.fill_(9)
        assert x.tolist() == [0.0, 9.0, 2.0, 9.0, 4.0, 9.0]
        assert view.tolist() == [[9.0] * 3] * 2
        wide = m.zeros(1, 3).expand(2, 3)
        wide.fill_(4)
        assert wide.sum().item() == 24.0
        for write in (lambda t: t.add_(1), lambda t: t.sqrt_(), lambda t: t.copy_(t.new_zeros(2, 3))):
            for target in (view, wide):
                with pytest.raises(RuntimeError, match="more than one element"):
                    write(target)


def test_resizing_a_view_shows_more_of_its_storage() -> None:
    def sizes(m: Any) -> list[Any]:
        x = m.arange(24.0)
        view = x[3:9]
        view.resize_(2, 5)
        columns = x.reshape(4, 6).t()
        columns.resize_(5, 2)
        view.zero_()
        return [view.tolist(), columns.tolist(), columns.stride(), x.sum().item()]
    assert sizes(treadle) == sizes(torch)


@pytest.mark.parametrize("function", [
    lambda m, x: m.split(x.reshape(()), 1), lambda m, x: m.chunk(x.reshape(()), 1), lambda m, x: m.tensor_split(x.reshape(()), 1),
    lambda m, x: m.split(x.reshape(()), [1]), lambda m, x: m.nn.functional.linear(x.reshape(()), x.reshape(())),
    lambda m, x: m.renorm(x.reshape(()), 2, 1, 0.5), lambda m, x: m.take_along_dim(x.reshape(()), x.long(), 0),
    lambda m, x: m.masked_scatter(x.expand(2, 1)[:0], x.expand(2, 1) > 0, x), lambda m, x: m.quantile(x[:0], 0.5),
    lambda m, x: m.normal(x.expand(2, 1), x.expand(3, 1)),
    lambda m, x: m.nn.functional.cosine_embedding_loss(x, x, x.reshape(()))])
def test_errors_of_shapes(function: Callable[..., Any]) -> None:
    for m in (torch, treadle):
        with pytest.raises(RuntimeError):
            function(m, m.ones(1, 1))


def test_empty_tensors_keep_their_place_on_the_tape() -> None:
    def gradient(m: Any) -> Any:
        x = m.zeros(0, 2, 4, 4, requires_grad=True)
        up = m.nn.functional.interpolate(x, (8, 8), mode="bilinear")
        flat = m.zeros(0, 2, 3)
        out = m.nn.functional.max_unpool1d(flat, flat.long(), 2)
        up.sum().backward()
        return tuple(up.shape), tuple(x.grad.shape), tuple(out.shape), math.isnan(m.nanmedian(flat).item())
    assert gradient(treadle) == gradient(torch)
