"""What quantization did to a model."""
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerReport:
    """sqnr: signal to quantization noise in dB, of the layer's outputs on the calibration data, or of its weights without any."""

    name: str
    kind: str
    float_bytes: int
    bytes: int
    sqnr: float
    measured_on: str


@dataclass
class Report:
    """layers: those in int8; left: (name, why) of those that stayed in float."""

    layers: list[LayerReport] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    float_bytes: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        lines = [f"{self.float_bytes} bytes of parameters are {self.bytes} now ({self.bytes / max(self.float_bytes, 1):.0%})"]
        for layer in self.layers:
            lines.append(f"  {layer.name}: {layer.kind}, {layer.float_bytes} -> {layer.bytes} bytes, "
                         f"SQNR of its {layer.measured_on} {layer.sqnr:.1f} dB")
        lines += [f"  {name}: left in float, {why}" for name, why in self.left]
        return "\n".join(lines)
