"""How to quantize."""
from __future__ import annotations

from dataclasses import dataclass

from treadle.passes.quantize import Scheme


class QType:
    """A quantized element type, as PyTorch names them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"treadle.{self.name}"


qint8, quint8 = QType("qint8"), QType("quint8")


@dataclass(frozen=True)
class QConfig:
    """activation: "dynamic" (the range is that of the values met) or "static" (found by calibration).

    per_channel: weights have a scale for each output feature. symmetric: activations too have their zero in the middle of the range.
    per_tensor: dynamic activations have one range for all rows. observer: "minmax", or "percentile", which cuts off the values beyond
    `percentile` at both ends. skip: names of modules to leave in float. ValueError for anything else.

    A NaN that a layer meets makes its row NaN when it is dynamic, and counts as 0 when it is static.
    """

    activation: str = "dynamic"
    per_channel: bool = True
    symmetric: bool = False
    per_tensor: bool = False
    observer: str = "minmax"
    percentile: float = 99.9
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.activation not in ("dynamic", "static"):
            raise ValueError(f'QConfig: activation must be "dynamic" or "static", got {self.activation!r}')
        if self.observer not in ("minmax", "percentile"):
            raise ValueError(f'QConfig: observer must be "minmax" or "percentile", got {self.observer!r}')
        if not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"QConfig: percentile must be in (50, 100], got {self.percentile}")

    @property
    def scheme(self) -> Scheme:
        return Scheme(self.per_channel, self.symmetric, self.per_tensor)


default_dynamic_qconfig = QConfig()
default_static_qconfig = QConfig(activation="static")
