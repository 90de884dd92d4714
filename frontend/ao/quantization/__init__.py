"""`treadle.quantization` under PyTorch's name."""
from __future__ import annotations

from treadle.ao.quantization import quantize_fx
from treadle.quantization import QConfig, default_dynamic_qconfig, default_static_qconfig, quantize, quantize_dynamic

__all__ = ["QConfig", "default_dynamic_qconfig", "default_static_qconfig", "get_default_qconfig", "get_default_qconfig_mapping", "quantize",
           "quantize_dynamic", "quantize_fx"]


def get_default_qconfig(backend: str = "x86", version: int = 0) -> QConfig:
    """Static int8 with a scale for each output feature; the same on every backend."""
    return default_static_qconfig


def get_default_qconfig_mapping(backend: str = "x86", version: int = 0) -> QConfig:
    """`get_default_qconfig` for all layers."""
    return default_static_qconfig
