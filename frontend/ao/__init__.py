"""PyTorch's place for quantization."""
from __future__ import annotations

from treadle.ao import quantization

__all__ = ["quantization"]
