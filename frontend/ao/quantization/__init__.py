"""`treadle.quantization` under PyTorch's name."""
from __future__ import annotations

from treadle.quantization import QConfig, default_dynamic_qconfig, default_static_qconfig, quantize, quantize_dynamic

__all__ = ["QConfig", "default_dynamic_qconfig", "default_static_qconfig", "quantize", "quantize_dynamic"]
