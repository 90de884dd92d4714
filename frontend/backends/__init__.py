"""`treadle.backends`: PyTorch's switches of libraries that Treadle does not use, answering honestly that they are not there."""
from __future__ import annotations

from typing import Any


class _Backend:
    """A library: `is_available()` is False, and its switches may be set without effect."""

    def __init__(self, **switches: Any) -> None:
        self.__dict__.update(switches)

    def is_available(self) -> bool:
        return False

    def is_built(self) -> bool:
        return False

    def version(self) -> None:
        return None


cudnn = _Backend(enabled=False, benchmark=False, deterministic=True, allow_tf32=False, benchmark_limit=0)
cuda = _Backend(matmul=_Backend(allow_tf32=False, allow_fp16_reduced_precision_reduction=False,
                               allow_bf16_reduced_precision_reduction=False))
mps, mkl, mkldnn, openmp, xnnpack, opt_einsum = (_Backend(enabled=False) for _ in range(6))
__all__ = ["cuda", "cudnn", "mkl", "mkldnn", "mps", "openmp", "opt_einsum", "xnnpack"]
