"""`treadle.fft`, stft and istft against PyTorch: every function, norm, size and axis; gradients; refusals."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle_compare import compare

import treadle

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore:A window was not provided")]
RNG = np.random.default_rng(0)
R = RNG.normal(size=(3, 4, 5)).astype(np.float32)
Z = (RNG.normal(size=(3, 4, 5)) + 1j * RNG.normal(size=(3, 4, 5))).astype(np.complex64)
REAL = ("rfft", "ihfft", "rfftn", "ihfftn", "rfft2", "ihfft2")
ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
NORMS = (None, "backward", "forward", "ortho")


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", ONE)
def test_along_one_axis(torch: Any, name: str) -> None:
    for i, norm in enumerate(NORMS):
        for n, dim in ((None, -1), (3, 1), (8, -1)) if i != 1 else ():
            for x in (R,) if name in REAL or i else (R, Z):
                compare(torch, lambda m, x, n=n, dim=dim, norm=norm: getattr(m.fft, name)(x, n=n, dim=dim, norm=norm), x)
    for x in (R.astype(np.float64), (R * 3).astype(np.int64)):
        compare(torch, lambda m, x: getattr(m.fft, name)(x), x)


@pytest.mark.parametrize("name", ONE)
def test_along_several_axes(torch: Any, name: str) -> None:
    x = R if name in REAL else Z
    forms = ((None, None), ((3, 6), None), (None, (0, 2)), ((2, 7), (2, 0)), ((-1, 4), (1, 2)))
    for norm in NORMS:
        compare(torch, lambda m, x, norm=norm: getattr(m.fft, f"{name}2")(x, norm=norm), x)
        for s, dim in forms[2:3] if norm else forms:
            compare(torch, lambda m, x, s=s, dim=dim, norm=norm: getattr(m.fft, f"{name}n")(x, s=s, dim=dim, norm=norm), x)


def test_frequencies(torch: Any) -> None:
    for n in (1, 4, 5, 8):
        for d in (1.0, 0.25):
            compare(torch, lambda m, n=n, d=d: [m.fft.fftfreq(n, d), m.fft.rfftfreq(n, d), m.fft.fftfreq(n, d, dtype=m.float64)])
    for dim in (None, 0, (1, 2), -1):
        compare(torch, lambda m, x, dim=dim: [m.fft.fftshift(x, dim), m.fft.ifftshift(x, dim)], Z)


W, W12 = (np.hanning(n + 1)[:n].astype(np.float32) + np.float32(0.1) for n in (16, 12))
SOUND = RNG.normal(size=(2, 64)).astype(np.float32)
WHOLE = (SOUND + 1j * SOUND[:, ::-1]).astype(np.complex64)
STFT: list[tuple[dict[str, Any], tuple[np.ndarray, ...]]] = [
    ({"return_complex": True}, (SOUND,)), ({"return_complex": True}, (SOUND[0], W)), ({"return_complex": False}, (SOUND, W)),
    ({}, (WHOLE, W)), ({"onesided": False, "return_complex": True}, (SOUND, W)),
    ({"return_complex": True, "center": False, "hop_length": 5}, (SOUND, W)),
    ({"return_complex": True, "normalized": True, "hop_length": 3}, (SOUND, W)),
    ({"return_complex": True, "win_length": 12}, (SOUND, W12)), ({"return_complex": True, "win_length": 12}, (SOUND,)),
    ({"return_complex": True, "pad_mode": "constant"}, (SOUND, W)),
    ({"return_complex": True, "align_to_window": True, "center": False, "win_length": 12}, (SOUND, W12))]


@pytest.mark.parametrize("case", range(len(STFT)))
def test_stft(torch: Any, case: int) -> None:
    options, arrays = STFT[case]
    compare(torch, lambda m, x, *w: m.stft(x, 16, window=w[0] if w else None, **options), *arrays, tolerance=3e-4)


ISTFT: list[dict[str, Any]] = [{}, {"length": 60}, {"length": 100}, {"normalized": True}, {"center": False, "length": 30}]


@pytest.mark.parametrize("options", ISTFT)
def test_istft(torch: Any, options: dict[str, Any]) -> None:
    spectra = [torch.stft(torch.tensor(x), 16, window=torch.tensor(W), return_complex=True).numpy() for x in (SOUND, WHOLE)]
    for x in spectra:
        compare(torch, lambda m, x, w: m.istft(x, 16, window=w, **options), x, W, tolerance=1e-3)
    compare(torch, lambda m, x, w: m.istft(x, 16, window=w, return_complex=True, **options), spectra[1], W, tolerance=1e-3)
    compare(torch, lambda m, x: x.stft(16, return_complex=True).istft(16, **options), SOUND, tolerance=1e-3)


def _refused(m: Any) -> list[Callable[[], Any]]:
    x, z, w = m.tensor(SOUND), m.tensor(Z), m.tensor(W)
    y = m.stft(x, 16, window=w, return_complex=True)
    return [
        *[lambda f=f: getattr(m.fft, f)(x, n=0) for f in ONE], *[lambda f=f: getattr(m.fft, f)(x, norm="x") for f in ONE],
        *[lambda f=f: getattr(m.fft, f)(x, dim=5) for f in ONE], *[lambda f=f: getattr(m.fft, f)(z) for f in REAL],
        *[lambda f=f: getattr(m.fft, f)(x.half()) for f in ONE], lambda: m.fft.fftn(x, dim=(0, 0)),
        lambda: m.fft.fftn(x, s=(1, 2), dim=(0,)),
        lambda: m.fft.fftn(x, s=(1, 2, 3)), lambda: m.fft.rfftn(x, dim=()), lambda: m.fft.fft(m.ones(())), lambda: m.stft(x, 16),
        lambda: m.stft(x, 16, onesided=True, window=w.to(m.complex64)), lambda: m.stft(x, 16, window=m.ones(3), return_complex=True),
        lambda: m.stft(x, 16, hop_length=0, return_complex=True), lambda: m.stft(x[:, :6], 16, return_complex=True),
        lambda: m.stft(x[:, :6], 16, return_complex=True, center=False), lambda: m.stft(x.long(), 16, return_complex=True),
        lambda: m.stft(x.requires_grad_()[:, :6], 16, return_complex=True),
        lambda: m.istft(x, 16), lambda: m.istft(y[:, :5], 16), lambda: m.istft(y, 16, window=w - w[0], center=False),
        lambda: m.istft(y, 16, window=w, win_length=12), lambda: m.istft(y, 16, hop_length=20, window=w),
        lambda: m.istft(y, 16, return_complex=True)]


def test_refusals(torch: Any) -> None:
    for i, (ours, theirs) in enumerate(zip(_refused(treadle), _refused(torch), strict=True)):
        with pytest.raises((RuntimeError, TypeError, IndexError)) as wanted:
            theirs()
        with pytest.raises(RuntimeError if issubclass(wanted.type, RuntimeError) else wanted.type):
            ours()
            pytest.fail(f"case {i} is not refused")


def test_training_through_a_spectrogram(torch: Any) -> None:
    compare(torch, lambda m, x, w: (m.stft(x, 16, window=w, return_complex=True).abs() ** 2 + 1e-3).log(), SOUND, W, tolerance=2e-3)
    compare(torch, lambda m, x: m.autograd.grad(m.fft.rfft(x).abs().pow(3).sum(), x, create_graph=True)[0], R, tolerance=1e-3)
