"""complex32 (pairs of float16) against PyTorch, interpreted and compiled; gradients, files, errors. `m` is either library."""
from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import treadle

torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
CASES = """
x ;; x * y ;; x + y ;; x - y ;; -x ;; x * 2 ;; x * 2.5 ;; x * 1j ;; h + 1j ;; h * x ;; abs(x) ;; x == y ;; x != y ;; x.real ;; x.imag
m.view_as_real(x) ;; m.view_as_complex(m.ones(3, 2).half()) ;; x.conj() ;; x.to(m.complex64) ;; x.to(m.complex128) ;; x.chalf()
h.chalf() ;; m.complex(h, h) ;; m.cat([x, y]) ;; m.stack([x, y]) ;; x[1] ;; x[[0, 2]] ;; x[m.tensor([True, False, True])]
m.where(h > 1, x, y) ;; x.tolist() ;; x[0].item() ;; x.reshape(3, 1).expand(3, 2) ;; m.zeros(2, dtype=m.chalf) ;; x.half() ;; x.bool()
m.ones(2, dtype=m.complex32) ;; m.full((2,), 1 + 1j, dtype=m.chalf) ;; x.sgn() ;; m.isfinite(x) ;; m.nonzero(x) ;; x.element_size()
x.index_select(0, m.tensor([2, 0])) ;; x + h.float() ;; x.masked_fill(h > 1, 2j) ;; m.tril(x[None]) ;; x.roll(1) ;; x.new_ones(2)
x.repeat_interleave(2) ;; x.index_add(0, m.tensor([0, 0, 1]), y) ;; m.finfo(m.chalf).max ;; m.isreal(x) ;; m.norm(x) ;; m.diag_embed(y)
[str(m.promote_types(m.chalf, d)).split(".")[1] for d in (m.half, m.bfloat16, m.float32, m.float64, m.int64, m.bool, m.cfloat, m.cdouble)]
[str(m.result_type(a, b)).split(".")[1] for a in (x, x[0], h, h[0]) for b in (x, x[0], h, h[0], 1, 1.5, 2j, m.tensor(1j), m.ones(1))]
m.randn(2, dtype=m.chalf).is_complex() ;; m.tensor([1j, 2], dtype=m.chalf).type() ;; x.clone().fill_(1j) ;; x.numpy()
"""


def outcome(m: Any, text: str) -> str:
    """The result as text, which holds the dtype; or the exception's type."""
    x = m.tensor([1 + 2j, 3 - 1j, 0.5j], dtype=m.chalf)
    y, h = m.tensor([2, 1j, -1.5 + 0.25j]).to(m.chalf), m.tensor([1.0, 2.0, 3.0]).half()
    try:
        return str(eval(text, {"m": m, "x": x, "y": y, "h": h})).replace("treadle", "torch").replace(" ", "").replace("\n", "")
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("text", [e.strip() for line in CASES.strip().splitlines() for e in line.split(";;")])
def test_expressions(text: str) -> None:
    want = outcome(torch, text)
    for _ in range(3):
        assert outcome(treadle, text) == want


def test_results_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((2, 1000, 2)).astype(np.float16)
    for _ in range(3):
        found = [m.view_as_real(m.view_as_complex(m.from_numpy(pairs[0])) * m.view_as_complex(m.from_numpy(pairs[1]))).numpy()
                 for m in (treadle, torch)]
        assert (np.abs(found[0].astype(np.float32) - found[1].astype(np.float32)) <= np.abs(found[1]).astype(np.float32) * 2**-10).all()
        assert (found[0] == found[1]).mean() > 0.99


def test_gradients_and_files(tmp_path: Any) -> None:
    found = []
    for m in (treadle, torch):
        x = m.tensor([1 + 2j, 3 - 1j, 0.5j], dtype=m.chalf, requires_grad=True)
        m.view_as_real(x * (2 - 1j) + x * x.detach().conj()).float().sum().backward()
        assert x.grad.dtype is m.chalf
        found.append(x.grad.tolist())
    assert found[0] == found[1]
    x = treadle.tensor([1 + 2j, 3 - 1j], dtype=treadle.chalf)
    treadle.save(x, tmp_path / "ours.pt")
    assert torch.load(tmp_path / "ours.pt").tolist() == x.tolist()
    buffer = io.BytesIO()
    torch.save(torch.tensor([1j, 2], dtype=torch.chalf), buffer)
    buffer.seek(0)
    again = treadle.load(buffer)
    assert again.dtype is treadle.complex32 and again.tolist() == [1j, 2]
    with pytest.raises(TypeError, match="cannot hold"):
        treadle.save({"x": x}, tmp_path / "a.safetensors")
