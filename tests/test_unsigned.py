"""uint16, uint32 and uint64: their ends, promotion, files; (oracle) what PyTorch computes with them."""
from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle
from treadle.ir import dtypes

WIDE = [d.name for d in dtypes.WIDE_UNSIGNED]
TWICE = range(2)  # interpreted, then compiled


def ends(m: Any, name: str) -> Any:
    """Numbers about both ends of the range and its middle."""
    top = np.iinfo(name).max
    return m.from_numpy(np.array([0, 1, 7, top // 2, top // 2 + 1, top - 1, top], name))


@pytest.mark.parametrize("name", WIDE)
def test_arithmetic_at_the_ends(name: str) -> None:
    x, n = ends(treadle, name), ends(treadle, name).numpy()
    y, k = x.flip(0) + 1, n[::-1] + np.ones((), name)
    safe, by = treadle.where(y == 0, 3, y), np.where(k == 0, np.ones((), name) * 3, k).astype(name)
    cases: list[tuple[Callable[[], Any], Any]] = [
        (lambda: x + y, n + k), (lambda: x * y, n * k), (lambda: x - y, n - k), (lambda: -x, 0 - n), (lambda: x // safe, n // by),
        (lambda: x % safe, n % by), (lambda: x < y, n < k), (lambda: x >= y, n >= k), (lambda: treadle.maximum(x, y), np.maximum(n, k)),
        (lambda: x & y, n & k), (lambda: ~x, ~n), (lambda: x >> 3, n >> 3), (lambda: x.sort(descending=True).values, np.sort(n)[::-1]),
        (lambda: x.max(), n.max()), (lambda: x.argmin(), n.argmin()), (lambda: x.double(), n.astype(np.float64)),
        (lambda: x.float(), n.astype(np.float32)), (lambda: x.cummax(0).values, np.maximum.accumulate(n)),
        (lambda: x.long(), n.astype(np.int64)), (lambda: x.clamp(5, 100), np.clip(n, 5, 100)), (lambda: x == x[6], n == n[6])]
    for compute, want in cases:
        for _ in TWICE:
            got = compute().numpy()
            assert got.dtype == np.asarray(want).dtype
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", WIDE)
def test_conversion_of_floats(name: str) -> None:
    top = np.iinfo(name).max
    n = np.array([0.0, 3.7, top // 2, top // 2 + 1, top // 4 * 3])
    x = treadle.from_numpy(n)
    for _ in TWICE:
        assert x.to(getattr(treadle, name)).tolist() == [int(v) for v in n]
        assert (x.neg() - 1).to(getattr(treadle, name)).tolist()[1] == top - 3


@pytest.mark.parametrize("name", WIDE)
def test_making_and_printing(name: str) -> None:
    dtype, top = getattr(treadle, name), np.iinfo(name).max
    assert treadle.iinfo(dtype).max == top and treadle.iinfo(dtype).min == 0 and not dtype.is_signed
    assert treadle.tensor([top], dtype=dtype).item() == top
    assert treadle.full((2,), top, dtype=dtype).tolist() == [top, top]
    assert treadle.zeros(2, dtype=dtype).fill_(top).tolist() == [top, top]
    assert repr(treadle.tensor([1, top], dtype=dtype)).startswith(f"tensor([{1:{len(str(top))}}, {top}]")
    assert treadle.from_numpy(np.array([top], name)).dtype is dtype and treadle.ones(2, dtype=dtype).numpy().dtype == name
    assert treadle.arange(4, dtype=dtype).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", WIDE)
def test_files(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from safetensors.numpy import load_file
    x = ends(treadle, name)
    for path in (tmp_path / "a.pt", tmp_path / "a.safetensors"):
        treadle.save({"x": x}, path)
        got = treadle.load(path)["x"]
        assert got.dtype is x.dtype and got.tolist() == x.tolist()
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["x"], x.numpy())
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert any(b"_rebuild_tensor_v3" in archive.read(entry) for entry in archive.namelist())


# -- against PyTorch -----------------------------------------------------------------------------------------------------
def outcome(compute: Callable[[], Any]) -> Any:
    try:
        found = compute()
    except (RuntimeError, TypeError, IndexError) as error:
        return type(error).__name__, str(error).split(", attempted")[0] if "Promotion" in str(error) else ""
    if hasattr(found, "numpy"):
        return str(found.dtype).split(".")[1], found.detach().numpy().tolist()
    return str(found).removeprefix("torch.").removeprefix("treadle.")


@pytest.mark.oracle
@pytest.mark.parametrize("name", WIDE)
def test_promotion_as_pytorch(name: str) -> None:
    import torch

    def table(m: Any) -> list[Any]:
        mine, found = getattr(m, name), []
        for other in [getattr(m, d.name) for d in dtypes.ALL]:
            found += [outcome(lambda o=other: m.promote_types(mine, o)), outcome(lambda o=other: m.promote_types(o, mine))]
            for a in (m.ones(2).to(mine), m.tensor(1).to(mine)):
                for b in (m.ones(2).to(other), m.tensor(1).to(other)):
                    found += [outcome(lambda x=a, y=b: m.result_type(x, y)), outcome(lambda x=a, y=b: m.result_type(y, x))]
        return found + [outcome(lambda n=n: m.result_type(m.ones(2).to(mine), n)) for n in (1, 1.5, True, 2j)]
    assert table(treadle) == table(torch)


@pytest.mark.oracle
@pytest.mark.parametrize("name", WIDE)
def test_values_as_pytorch(name: str) -> None:
    import torch

    def table(m: Any) -> list[Any]:
        x, y = ends(m, name), ends(m, name)[[1, 2, 0, 5, 3, 6, 4]]
        return [outcome(f) for f in (
            lambda: x * y, lambda: x / (y + 1.5), lambda: x + 1.5, lambda: x == y, lambda: x & y, lambda: x | 5, lambda: x.sum(),
            lambda: x.prod(), lambda: x.cumsum(0), lambda: x.any(), lambda: x.sort().values, lambda: x.unique(), lambda: x[[0, 2]],
            lambda: x[x == 1], lambda: m.cat([x, y]), lambda: x.roll(1), lambda: x.bool(), lambda: x.to(m.int8), lambda: x.to(m.float64),
            lambda: x.to(m.complex128), lambda: x.view(m.uint8), lambda: m.outer(x, y), lambda: x.sin(), lambda: m.isfinite(x),
            lambda: m.equal(x, y), lambda: m.where(x == y, x, y), lambda: m.tensor([-1, -2]).to(x.dtype), lambda: x.type(),
            lambda: m.tensor([3.7, 300.5, 70000.0, -1.5]).to(x.dtype), lambda: m.full((2,), -1, dtype=x.dtype), lambda: m.zeros(9)[x],
            lambda: x.mean(), lambda: m.nn.functional.pad(x, (1, 1)), lambda: x.reciprocal(), lambda: m.iinfo(x.dtype).max)]
    for got, want in zip(table(treadle), table(torch), strict=True):
        if isinstance(want, tuple) and isinstance(want[1], list | float) and "float" in want[0]:
            assert got[0] == want[0]
            np.testing.assert_allclose(got[1], want[1], rtol=1e-6)
        else:
            assert str(got).replace("treadle", "torch") == str(want)


@pytest.mark.oracle
@pytest.mark.parametrize("name", WIDE)
def test_files_as_pytorch(name: str, tmp_path: Path) -> None:
    import torch
    buffer = io.BytesIO()
    treadle.save(ends(treadle, name), tmp_path / "ours.pt")
    torch.save(ends(torch, name)[1:], buffer)
    buffer.seek(0)
    assert treadle.load(buffer).tolist() == ends(treadle, name).tolist()[1:]
    assert torch.load(tmp_path / "ours.pt").equal(ends(torch, name))
