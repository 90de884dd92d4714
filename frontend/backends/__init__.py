"""`treadle.backends`: PyTorch's switches of libraries that Treadle does not use, answering honestly that they are not there."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
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


class _Attention(_Backend):
    """PyTorch's choice among kernels for attention: there is one way here, so these are accepted without effect."""

    def enable_flash_sdp(self, enabled: bool) -> None: ...

    def enable_mem_efficient_sdp(self, enabled: bool) -> None: ...

    def enable_math_sdp(self, enabled: bool) -> None: ...

    def enable_cudnn_sdp(self, enabled: bool) -> None: ...

    def flash_sdp_enabled(self) -> bool:
        return True

    mem_efficient_sdp_enabled = math_sdp_enabled = cudnn_sdp_enabled = flash_sdp_enabled

    @contextlib.contextmanager
    def sdp_kernel(self, enable_flash: bool = True, enable_math: bool = True, enable_mem_efficient: bool = True,
                   enable_cudnn: bool = True) -> Iterator[None]:
        yield


class _Cudnn(_Backend):
    """cuDNN, which is not used; its settings for a `with` block are accepted."""

    @contextlib.contextmanager
    def flags(self, enabled: bool = False, benchmark: bool = False, benchmark_limit: int = 10, deterministic: bool = False,
              allow_tf32: bool = True, fp32_precision: str = "none") -> Iterator[None]:
        yield


cudnn = _Cudnn(enabled=False, benchmark=False, deterministic=True, allow_tf32=False, benchmark_limit=0)
cuda = _Attention(matmul=_Backend(allow_tf32=False, allow_fp16_reduced_precision_reduction=False,
                                 allow_bf16_reduced_precision_reduction=False))
mps, mkl, mkldnn, openmp, xnnpack, opt_einsum = (_Backend(enabled=False) for _ in range(6))
__all__ = ["cuda", "cudnn", "mkl", "mkldnn", "mps", "openmp", "opt_einsum", "xnnpack"]
