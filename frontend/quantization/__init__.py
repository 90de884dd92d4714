"""int8 inference: `quantize(model, config, calibration=...)`, with activations' ranges found at run time or by calibration."""
from __future__ import annotations

from treadle.quantization.config import QConfig, QType, default_dynamic_qconfig, default_static_qconfig, qint8, quint8
from treadle.quantization.convert import quantize, quantize_dynamic
from treadle.quantization.layers import QuantizedConv, QuantizedLinear
from treadle.quantization.report import LayerReport, Report

__all__ = ["LayerReport", "QConfig", "QType", "QuantizedConv",
           "QuantizedLinear", "Report", "default_dynamic_qconfig", "default_static_qconfig", "qint8",
           "quantize", "quantize_dynamic", "quint8"]
