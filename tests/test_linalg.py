"""linalg: gradients where operands must be symmetric, errors, and (oracle) values and gradients against PyTorch."""
from __future__ import annotations

import numpy as np
import pytest

import treadle
from treadle import linalg

RNG = np.random.default_rng(0)
SQUARE = RNG.standard_normal((3, 3)) + 2 * np.eye(3)
BATCH = RNG.standard_normal((2, 3, 3)) + 2 * np.eye(3)
TALL = RNG.standard_normal((4, 3))
WIDE = RNG.standard_normal((2, 3, 5))
RHS = RNG.standard_normal((3, 2))


@pytest.mark.parametrize("function", [lambda a: linalg.cholesky(a), lambda a: linalg.cholesky(a, upper=True), lambda a: linalg.eigh(a)[0],
                                      lambda a: linalg.eigh(a)[1].abs(), lambda a: linalg.eigh(a, "U")[0].prod(-1)])
def test_gradients_of_symmetric_operands(function):
    x = treadle.tensor(BATCH, dtype=treadle.float64).requires_grad_()
    assert treadle.autograd.gradcheck(lambda t: function(t @ t.mT + treadle.eye(3, dtype=treadle.float64)), (x,))


def test_errors():
    singular = treadle.zeros(3, 3)
    with pytest.raises(linalg.LinAlgError, match=r"linalg.inv: .*singular"):
        linalg.inv(singular).tolist()
    with pytest.raises(RuntimeError, match=r"linalg.cholesky: .*positive-definite"):
        linalg.cholesky(-treadle.eye(3)).tolist()
    with pytest.raises(RuntimeError, match="batches of square matrices, but they are 4 by 3"):
        linalg.inv(treadle.ones(4, 3))
    with pytest.raises(RuntimeError, match="at least 2 dimensions"):
        linalg.det(treadle.ones(4))
    with pytest.raises(RuntimeError, match="float32 or float64"):
        linalg.inv(treadle.ones(3, 3, dtype=treadle.int64))
    with pytest.raises(RuntimeError, match="Incompatible shapes"):
        linalg.solve(treadle.eye(3), treadle.ones(4, 2))


def test_gradient_of_a_determinant_that_is_zero():
    x = treadle.tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)
    linalg.det(x).backward()
    np.testing.assert_allclose(x.grad.numpy(), [[4.0, -2.0], [-2.0, 1.0]], atol=1e-5)  # the cofactors


CASES = {
    "inv": lambda L, a: L.inv(a(SQUARE)), "inv batch": lambda L, a: L.inv(a(BATCH)), "det": lambda L, a: L.det(a(BATCH)),
    "slogdet": lambda L, a: L.slogdet(a(BATCH))[1], "solve": lambda L, a: L.solve(a(SQUARE), a(RHS)),
    "solve vector": lambda L, a: L.solve(a(SQUARE), a(RHS[:, 0])), "solve right": lambda L, a: L.solve(a(SQUARE), a(RHS.T), left=False),
    "solve broadcast": lambda L, a: L.solve(a(BATCH), a(RHS)),
    "triangular": lambda L, a: L.solve_triangular(a(SQUARE), a(RHS), upper=True),
    "triangular unit": lambda L, a: L.solve_triangular(a(BATCH), a(RHS), upper=False, unitriangular=True),
    "triangular right": lambda L, a: L.solve_triangular(a(SQUARE), a(RHS.T), upper=True, left=False),
    "svd": lambda L, a: L.svd(a(TALL), full_matrices=False)[1], "svdvals": lambda L, a: L.svdvals(a(WIDE)),
    "svd rebuilt": lambda L, a: (lambda s: (s[0] * s[1].unsqueeze(-2)) @ s[2])(L.svd(a(WIDE), full_matrices=False)),
    "qr": lambda L, a: L.qr(a(TALL))[1].abs(), "pinv": lambda L, a: L.pinv(a(TALL)), "pinv wide": lambda L, a: L.pinv(a(WIDE)),
    "lstsq": lambda L, a: L.lstsq(a(TALL), a(RNG_RHS))[0], "norm": lambda L, a: L.norm(a(TALL)), "norm 1": lambda L, a: L.norm(a(TALL), 1),
    "nuc": lambda L, a: L.norm(a(TALL), "nuc"), "matrix inf": lambda L, a: L.matrix_norm(a(WIDE), float("inf")),
    "matrix 2": lambda L, a: L.matrix_norm(a(WIDE), 2, keepdim=True), "vector 3": lambda L, a: L.vector_norm(a(WIDE), 3, dim=1),
    "cond": lambda L, a: L.cond(a(SQUARE)), "matrix_exp": lambda L, a: L.matrix_exp(a(BATCH)),
    "multi_dot": lambda L, a: L.multi_dot([a(TALL), a(SQUARE), a(RHS)]), "vecdot": lambda L, a: L.vecdot(a(TALL), a(TALL + 1)),
    "cross": lambda L, a: L.cross(a(TALL), a(TALL[::-1].copy())), "diagonal": lambda L, a: L.diagonal(a(BATCH), offset=1),
    "matrix_power": lambda L, a: L.matrix_power(a(SQUARE), 3), "vander": lambda L, a: L.vander(a(TALL[0]), N=4),
    "tensorinv": lambda L, a: L.tensorinv(a(BATCH[0].reshape(3, 3)), 1), "cholesky": lambda L, a: L.cholesky(spd(a)),
    "cholesky upper": lambda L, a: L.cholesky(spd(a), upper=True), "eigvalsh": lambda L, a: L.eigvalsh(spd(a)),
    "eigh": lambda L, a: L.eigh(spd(a))[1].abs(),
}
RNG_RHS = RNG.standard_normal((4, 2))


def spd(a):
    x = a(BATCH)
    return x @ x.transpose(-1, -2) + 0.5 * x[0] * 0


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_as_pytorch(name):
    import torch
    found = []
    for T in (torch, treadle):
        leaves = []

        def make(array, T=T, leaves=leaves):
            leaves.append(T.tensor(array.tolist(), dtype=T.float64).requires_grad_())
            return leaves[-1]
        for _ in range(2 if T is treadle else 1):
            leaves.clear()
            value = CASES[name](T.linalg, make)
            weight = np.random.default_rng(1).standard_normal(tuple(value.shape))
            (value * T.tensor(weight.tolist(), dtype=T.float64)).sum().backward()
        found.append((value.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]))
    (want, want_grads), (got, got_grads) = found
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)
    for g, w in zip(got_grads, want_grads, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-7)


@pytest.mark.oracle
def test_ranks_and_names():
    import torch
    a = np.array([[1.0, 2.0], [2.0, 4.0]], np.float32)
    assert linalg.matrix_rank(treadle.tensor(a)).item() == torch.linalg.matrix_rank(torch.tensor(a)).item() == 1
    for name in ("svd", "qr", "eigh", "slogdet"):
        ours, theirs = getattr(linalg, name)(treadle.eye(2)), getattr(torch.linalg, name)(torch.eye(2))
        assert ours._fields == tuple(n for n in dir(theirs) if n in ours._fields) or set(ours._fields) <= set(dir(theirs))
    assert treadle.logdet(treadle.eye(3)).item() == 0.0 and treadle.inverse(treadle.eye(3)).tolist() == treadle.eye(3).tolist()


@pytest.mark.parametrize("pivots", [[1, 2, 4], [0, 1, 2], [1, 2, -3], [-2, -3, 3], [9, 9, 9]])
def test_ldl_solve_refuses_pivots_of_no_factorization(pivots: list[int]) -> None:
    pytest.importorskip("scipy", reason="scipy, which computes LDL factorizations, is not installed")
    with pytest.raises(RuntimeError, match="are not those of an LDL factorization"):
        treadle.linalg.ldl_solve(treadle.eye(3), treadle.tensor(pivots, dtype=treadle.int32), treadle.ones(3, 1)).tolist()
