"""The PTX simulator on correct kernels: right numbers, no fault."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from ptx_simulator import Simulator

KERNELS = Path(__file__).parent / "ptx_simulator" / "kernels"


def text(name: str) -> str:
    return (KERNELS / f"{name}.ptx").read_text()


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("n", [4, 1000, 100_000])
def test_vector_add(n: int) -> None:
    a, b, c = floats(n), floats(n, seed=1), np.zeros(n, np.float32)
    Simulator().launch(text("vector_add"), "vector_add", 7, 64, [a, b, c, n])
    np.testing.assert_array_equal(c, a + b)


@pytest.mark.parametrize("n", [1, 1000, 5000])
def test_reduction_with_shuffles(n: int) -> None:
    x, out = floats(n), np.zeros(1, np.float32)
    Simulator().launch(text("reduce"), "reduce", -(-n // 256), 256, [x, out, n])
    np.testing.assert_allclose(out[0], x.sum(dtype=np.float64), rtol=1e-4, atol=1e-4)


def test_tiled_product() -> None:
    a, b, c = floats(64, 64), floats(64, 64, seed=1), np.zeros((64, 64), np.float32)
    Simulator().launch(text("gemm"), "gemm", (4, 4), (16, 16), [a, b, c, 64])
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)


def test_tensor_core_product_with_asynchronous_copies() -> None:
    m, n, k = 64, 32, 80
    a, b = floats(m, k).astype(ml_dtypes.bfloat16), floats(k, n, seed=1).astype(ml_dtypes.bfloat16)
    c = np.zeros((m, n), np.float32)
    Simulator().launch(text("gemm_bf16"), "gemm_bf16", (n // 16, m // 32), 64, [a, b, c, n, k])
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-5, atol=1e-4)


def test_histogram_with_atomics() -> None:
    x = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    counts = np.zeros(64, np.uint32)
    Simulator().launch(text("histogram"), "histogram", 20, 256, [x, counts, 5000], shared=256)
    np.testing.assert_array_equal(counts, np.bincount(x & 63, minlength=64))


@pytest.mark.parametrize("threads", [32, 256, 1024])
def test_scan(threads: int) -> None:
    x, out = np.arange(threads, dtype=np.int32) - 7, np.zeros(threads, np.int32)
    Simulator().launch(text("scan"), "scan", 1, threads, [x, out])
    np.testing.assert_array_equal(out, np.cumsum(x))


@pytest.mark.parametrize("at_once", [32, 1 << 16])
def test_last_block_sees_what_the_others_released(at_once: int) -> None:
    x, partial, out = np.arange(320, dtype=np.int32), np.zeros(10, np.int32), np.zeros(1, np.int32)
    Simulator(threads=at_once).launch(text("last_block"), "last_block", 10, 32, [x, partial, out])
    assert out[0] == x.sum()
