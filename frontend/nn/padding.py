"""Padding layers."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.nn import functional as F
from treadle.nn.module import Module
from treadle.tensor import Tensor


class _PadNd(Module):
    """padding: one width for every side, or (left, right) pairs from the last dimension backwards."""

    _rank = 1
    _mode = "constant"

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * type(self)._rank) if isinstance(padding, int) else tuple(padding)

    def _value(self) -> float | None:
        return None

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, type(self)._mode, self._value())

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPadNd(_PadNd):
    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def _value(self) -> float | None:
        return self.value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPadNd(_ConstantPadNd):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


def _family(prefix: str, base: type[_PadNd], mode: str, what: str) -> list[Any]:
    """The layers of one mode for one, two and three padded dimensions."""
    return [type(f"{prefix}{rank}d", (base,), {"_rank": rank, "_mode": mode, "__module__": __name__,
                                               "__doc__": f"Pads the last {rank} dimensions with {what}."}) for rank in (1, 2, 3)]


ConstantPad1d, ConstantPad2d, ConstantPad3d = _family("ConstantPad", _ConstantPadNd, "constant", "a value")
ZeroPad1d, ZeroPad2d, ZeroPad3d = _family("ZeroPad", _ZeroPadNd, "constant", "zeros")
ReflectionPad1d, ReflectionPad2d, ReflectionPad3d = _family("ReflectionPad", _PadNd, "reflect", "a mirror image")
ReplicationPad1d, ReplicationPad2d, ReplicationPad3d = _family("ReplicationPad", _PadNd, "replicate", "the edge")
CircularPad1d, CircularPad2d, CircularPad3d = _family("CircularPad", _PadNd, "circular", "the other end")
