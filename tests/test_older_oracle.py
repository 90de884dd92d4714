"""Older names of functions against PyTorch; `m` is either library."""
from __future__ import annotations

import numpy as np
import pytest

import treadle
from treadle import aten, older

torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
pytestmark = pytest.mark.oracle
A = np.random.default_rng(0).standard_normal((5, 4))
CASES = """
m.angle(A) ;; m.angle(A > 0) ;; m.conj(A) ;; m.resolve_conj(A) ;; m.conj_physical(A)
m.as_strided_scatter(A, A[:2, :2] * 2, (2, 2), (1, 3), 1)
m.constant_pad_nd(A, (1, 2), 3.0) ;; m.gradient(A)[0] ;; m.gradient(A)[1] ;; m.gradient(A, spacing=2.0, dim=1, edge_order=2)[0]
m.gradient(A, spacing=(0.5, 2.0))[1] ;; m.svd(A).S ;; m.svd(A)[0] @ m.diag(m.svd(A)[1]) @ m.svd(A)[2].T ;; m.svd(A, compute_uv=False)[1]
m.triangular_solve(A[:4], A[:4]).solution ;; m.triangular_solve(A[:4], A[:4], upper=False, transpose=True)[0] ;; m.svd_lowrank(A, 4)[1]
m.pca_lowrank(A, 4)[1] ;; m.histogram(A, 5).hist ;; m.histogram(A, 4, range=(-1.0, 1.0), density=True).hist ;; m.histogram(A, 3).bin_edges
m.native_layer_norm(A, (4,), None, None, 1e-5)[2] ;; m.native_layer_norm(A, (4,), None, None, 1e-5)[0]
m.native_group_norm(A.reshape(1, 4, 5), None, None, 1, 4, 5, 2, 1e-5)[1]
m.native_group_norm(A.reshape(1, 4, 5), None, None, 1, 4, 5, 2, 1e-5)[0]
m.grid_sampler_2d(A.reshape(1, 1, 5, 4), A[:, :2].reshape(1, 5, 1, 2), 0, 1, False) ;; m.empty_strided((2, 3), (1, 2)).zero_()
m.empty_permuted((2, 3, 4), (2, 0, 1)).zero_()
"""


@pytest.mark.parametrize("text", [e.strip() for line in CASES.strip().splitlines() for e in line.split(";;")])
def test_expressions(text: str) -> None:
    ours, want = (eval(text, {"m": lib, "A": lib.from_numpy(A.copy())}) for lib in (treadle, torch))
    assert tuple(ours.shape) == tuple(want.shape) and ("empty" not in text or ours.stride() == want.stride())
    assert str(ours.dtype).split(".")[-1] == str(want.dtype).split(".")[-1]
    np.testing.assert_allclose(ours.numpy(), want.numpy(), rtol=1e-7, atol=1e-9)


ERRORS = ["m.gcd(m.tensor([1]), 2)", "m.renorm(A, 2, 9, 1.0)", "m.gradient(A, dim=5)", "m.gradient(A, edge_order=3)", "m.histogram(A, 'a')",
          "m.as_strided_scatter(A, m.zeros(2, 2).double(), (2, 2), (1000, 1))", "m.empty_strided((2,), (1, 2))", "m.svd(A[0])"]


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str) -> None:
    with pytest.raises(Exception) as want:
        eval(text, {"m": torch, "A": torch.from_numpy(A)})
    with pytest.raises(type(want.value)):
        eval(text, {"m": treadle, "A": treadle.from_numpy(A)})


def test_names() -> None:
    """All of them are reached through the package, and PyTorch has them too."""
    for module in (older, aten):
        for name in module.__all__:
            assert getattr(treadle, name) is getattr(module, name)
            assert hasattr(torch, name) or hasattr(torch.ops.aten, name)


def test_segments_and_hashes() -> None:
    x, lengths = A.astype(np.float32), np.array([2, 0, 3])
    for name in ("sum", "mean", "max", "min", "prod"):
        for initial in (None, 2.0):
            got, want = (m.segment_reduce(m.from_numpy(x), name, lengths=m.from_numpy(lengths), initial=initial) for m in (treadle, torch))
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)
    with pytest.raises(RuntimeError, match="sum to data"):
        treadle.segment_reduce(treadle.ones(5), "sum", lengths=treadle.tensor([2, 2]))
    for dim in ((), 0, 1, (0, 1)):
        assert treadle.hash_tensor(treadle.from_numpy(A), dim).tolist() == torch.hash_tensor(torch.from_numpy(A), dim).tolist()
    kept, mask = treadle.native_dropout(treadle.ones(1000), 0.25, True)
    assert kept[mask].unique().tolist() == [treadle.tensor(4 / 3).item()] and 600 < mask.sum().item() < 900
