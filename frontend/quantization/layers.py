"""The int8 linear layer and convolution, and how their parameters are made."""
from __future__ import annotations

from typing import Any

import treadle
from treadle.emitter import EMITTER
from treadle.nn.linear import Linear
from treadle.nn.module import Module
from treadle.passes import quantize as passes
from treadle.quantization.config import QConfig
from treadle.tensor import Tensor


def bounds_of(low: float, high: float, symmetric: bool) -> tuple[float, int]:
    """Scale and zero point of unsigned bytes for the range, which is widened to contain 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        top = max(-low, high)
        return (top / 127.0 if top else 1.0), 128
    scale = (high - low) / 255.0 or 1.0
    return scale, round(-low / scale)


class QuantizedLinear(Module):
    """x (..., in_features) -> x @ weight.T + bias with int8 weights; buffers hold the packed weights, scales, sums of rows and bias.

    `x_scale` and `x_zero` are buffers of a static layer. No gradient flows through it.
    """

    def __init__(self, in_features: int, out_features: int, weights: passes.Weights, config: QConfig,
                 bounds: tuple[float, int] | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features, self.config = in_features, out_features, config
        for name, value in zip(passes.Weights._fields, weights, strict=True):
            self.register_buffer(name, value)
        self.static = bounds is not None
        if bounds is not None:
            self.register_buffer("x_scale", treadle.tensor(bounds[0]))
            self.register_buffer("x_zero", treadle.tensor(bounds[1], dtype=treadle.int32))

    @classmethod
    def from_float(cls, layer: Linear, config: QConfig, bounds: tuple[float, int] | None = None) -> QuantizedLinear:
        """The layer's parameters quantized; `bounds` from calibration make it static."""
        with treadle.no_grad():
            bias = None if layer.bias is None else layer.bias.detach()
            weights = passes.prepare(EMITTER, layer.weight.detach(), bias, config.scheme)
        return cls(layer.in_features, layer.out_features, weights, config, bounds)

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1:] != (self.in_features,):
            raise RuntimeError(f"QuantizedLinear: mat1 and mat2 shapes cannot be multiplied (input {list(input.shape)}, weight "
                               f"[{self.out_features}, {self.in_features}])")
        weights = passes.Weights(self.packed, self.scale, self.sums, self.bias)
        fixed = (self.x_scale, self.x_zero) if self.static else None
        found: Tensor = passes.linear(EMITTER, input, weights, self.config.scheme, fixed)
        return found

    @property
    def nbytes(self) -> int:
        """Of all its buffers."""
        return sum(int(b.numel()) * b.element_size() for b in self.buffers())

    def dequantized_weight(self) -> Tensor:
        """The weights that it stands for, (out, in) in float32."""
        panels, words, width, group = self.packed.shape
        rows = self.packed.permute(0, 2, 1, 3).reshape(panels * width, words * group)[:self.out_features, :self.in_features]
        return rows.to(treadle.float32) * self.scale.reshape(-1, 1)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {'static' if self.static else 'dynamic'} int8"


class QuantizedConv(Module):
    """A convolution of one group over (N, C, *S) or (C, *S) with int8 weights and a known range of its input.

    Its buffers are those of a static QuantizedLinear.
    """

    static = True

    def __init__(self, in_channels: int, out_channels: int, weights: passes.Weights, config: QConfig, window: passes.Window,
                 bounds: tuple[float, int]) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.config, self.window = in_channels, out_channels, config, window
        for name, value in zip(passes.Weights._fields, weights, strict=True):
            self.register_buffer(name, value)
        self.register_buffer("x_scale", treadle.tensor(bounds[0]))
        self.register_buffer("x_zero", treadle.tensor(bounds[1], dtype=treadle.int32))

    @classmethod
    def from_float(cls, layer: Any, config: QConfig, bounds: tuple[float, int]) -> QuantizedConv:
        """The parameters of a `Conv1d`, `Conv2d` or `Conv3d` quantized, its input's range from calibration."""
        with treadle.no_grad():
            weights = passes.prepare(EMITTER, layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), config.scheme)
        sides = layer._reversed_padding_repeated_twice
        window = passes.Window(tuple(layer.kernel_size), tuple(layer.stride), tuple(sides[::2][::-1]), tuple(sides[1::2][::-1]),
                               tuple(layer.dilation))
        return cls(layer.in_channels, layer.out_channels, weights, config, window, bounds)

    def forward(self, input: Tensor) -> Tensor:
        axes = len(self.window.kernel)
        if input.ndim not in (axes + 1, axes + 2) or input.shape[-axes - 1] != self.in_channels:
            raise RuntimeError(f"QuantizedConv: expected {self.in_channels} channels and {axes} spatial axes, got input of size "
                               f"{list(input.shape)}")
        weights = passes.Weights(self.packed, self.scale, self.sums, self.bias)
        batch = input if input.ndim == axes + 2 else input.unsqueeze(0)
        found: Tensor = passes.convolution(EMITTER, batch, weights, self.window, (self.x_scale, self.x_zero))
        return found if input.ndim == axes + 2 else found.squeeze(0)

    @property
    def nbytes(self) -> int:
        """Of all its buffers."""
        return sum(int(b.numel()) * b.element_size() for b in self.buffers())

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.window.kernel}, stride={self.window.stride}, static int8"


def sqnr(wanted: Any, found: Any) -> float:
    """Signal to quantization noise, in dB."""
    signal = float((wanted.double() ** 2).sum())
    noise = float(((wanted.double() - found.double()) ** 2).sum())
    if noise == 0.0:
        return float("inf")
    return float("-inf") if signal == 0.0 else 10.0 * float(treadle.log10(treadle.tensor(signal / noise, dtype=treadle.float64)))
