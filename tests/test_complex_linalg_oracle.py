"""`treadle.linalg` of complex matrices, and eigenvalues of real ones, against PyTorch: values and gradients."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle_compare import compare

pytestmark = pytest.mark.oracle
RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return (RNG.uniform(-1.5, 1.5, shape) + 1j * RNG.uniform(-1.5, 1.5, shape)).astype(np.complex64)


EYE = 2 * np.eye(3, dtype=np.complex64)
A, PAIR, B, C, TALL, WIDE = draw(3, 3) + EYE, draw(2, 3, 3) + EYE, draw(3, 2), draw(2, 3), draw(4, 3), draw(3, 4)
REAL = RNG.normal(size=(4, 4)).astype(np.float32)
SHAPES = (A, TALL, WIDE, PAIR)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def positive(x: Any) -> Any:
    return x @ x.mH + 0.5 * x.new_ones(3).diag()


def _eigh(m: Any, x: Any) -> list[Any]:
    w, v = m.linalg.eigh(positive(x))
    return [w, v.abs(), (v * w.to(v.dtype)) @ v.mH]


def _svd(m: Any, x: Any) -> list[Any]:
    u, s, vh = m.linalg.svd(x, full_matrices=False)
    return [s, u.abs(), vh.abs(), (u * s.to(u.dtype).unsqueeze(-2)) @ vh, u[..., 0:1] @ vh[..., 0:1, :]]


def _eig(m: Any, x: Any) -> list[Any]:
    w, v = m.linalg.eig(x)
    return [w.abs().sum(), (w ** 3).sum(), v.abs().sum(), m.linalg.eigvals(x).abs().sum()]


FAMILIES: dict[str, list[tuple[Callable[..., Any], tuple[np.ndarray, ...]]]] = {
    "solving": [
        (lambda m, x: m.linalg.inv(x), (PAIR,)), (lambda m, x, y: m.linalg.solve(x, y), (A, B)),
        (lambda m, x, y: m.linalg.solve(x, y, left=False), (A, C)), (lambda m, x: m.linalg.det(x), (PAIR,)),
        (lambda m, x: m.linalg.slogdet(x), (A,)), (lambda m, x: m.logdet(x), (A,)),
        (lambda m, x, y: m.linalg.solve_triangular(x, y, upper=True), (A, B)),
        (lambda m, x, y: m.linalg.solve_triangular(x, y, upper=False, left=False, unitriangular=True), (A, C)),
        (lambda m, x, y: m.linalg.lstsq(x, y).solution, (TALL, draw(4, 2)))],
    "cholesky": [
        (lambda m, x: m.linalg.cholesky(positive(x)), (A,)), (lambda m, x: m.linalg.cholesky(positive(x), upper=True), (A,)),
        (lambda m, x: m.linalg.cholesky(x), (A @ A.conj().T + EYE,)),
        (lambda m, b, x: m.cholesky_solve(b, m.linalg.cholesky(positive(x))), (B, A)),
        (lambda m, x: m.cholesky_inverse(m.linalg.cholesky(positive(x))), (A,))],
    "eigenvalues": [(_eigh, (A,)), *[(_eig, (x,)) for x in (A, PAIR, REAL)], (lambda m, x: m.linalg.eigvalsh(positive(x)), (A,))],
    "svd": [*[(_svd, (x,)) for x in SHAPES], *[(lambda m, x: m.linalg.matrix_norm(x, "nuc"), (x,)) for x in SHAPES],
            *[(lambda m, x: m.linalg.pinv(x), (x,)) for x in (TALL, WIDE)], (lambda m, x: m.linalg.cond(x), (A,))],
    "qr": [(lambda m, x: m.linalg.qr(x), (x,)) for x in SHAPES],
    "lu": [
        (lambda m, x: m.linalg.lu(x)[1:], (A,)), (lambda m, x, y: m.linalg.lu_solve(*m.linalg.lu_factor(x), y), (A, B)),
        (lambda m, x, y: m.linalg.lu_solve(*m.linalg.lu_factor(x), y, adjoint=True), (A, B)),
        (lambda m, x, y: m.linalg.lu_solve(*m.linalg.lu_factor(x), y, left=False), (A, C))],
    "functions": [
        (lambda m, x: m.linalg.matrix_exp(x), (A,)), (lambda m, x: m.linalg.matrix_power(x, -2), (A,)),
        (lambda m, x, y: m.linalg.vecdot(x, y), (A, draw(3, 3))), (lambda m, x: m.linalg.vander(x), (draw(3),)),
        (lambda m, x, y, z: m.linalg.multi_dot([x, y, z]), (A, B, C))],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family(torch: Any, family: str) -> None:
    pytest.importorskip("scipy") if family == "lu" else None
    for function, arrays in FAMILIES[family]:
        compare(torch, function, *arrays, tolerance=5e-4)


def test_householder_forms(torch: Any) -> None:
    compare(torch, lambda m, x: m.geqrf(x), TALL, grad=False)
    compare(torch, lambda m, x: m.linalg.householder_product(*m.geqrf(x)), TALL, grad=False)
    for options, other in (({}, draw(4, 2)), ({"transpose": True}, draw(4, 2)), ({"left": False}, draw(2, 4)),
                           ({"left": False, "transpose": True}, draw(2, 4))):
        compare(torch, lambda m, x, y, o=options: m.ormqr(*m.geqrf(x), y, **o), TALL, other, grad=False)
