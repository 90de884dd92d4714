"""From a float model or function to one in int8."""
from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import treadle
from treadle.emitter import EMITTER
from treadle.modes import RecordingMode
from treadle.nn.convolution import Conv1d, Conv2d, Conv3d
from treadle.nn.linear import Linear
from treadle.nn.module import Module
from treadle.passes import quantize as passes
from treadle.quantization.config import QConfig, QType, qint8
from treadle.quantization.layers import QuantizedConv, QuantizedLinear, bounds_of, sqnr
from treadle.quantization.report import LayerReport, Report
from treadle.runtime.recorder import STATE
from treadle.tensor import Tensor, apply

Range = tuple[float, float]
KINDS = (Linear, Conv1d, Conv2d, Conv3d)  # what has an int8 form


def quantize(model: Any, config: QConfig = QConfig(), calibration: Iterable[Any] | None = None) -> Any:  # noqa: B008
    """A copy of a module whose linear layers are int8, or a function that calls `model` with its linear layers in int8.

    With `config.activation` "static" convolutions are, too, but for those of several groups.

    calibration: inputs of the model (tuples are several arguments); needed when `config.activation` is "static". The result's `report`
    says what became of each layer. ValueError without calibration data, or with NaN or infinite values, naming the layer.
    """
    batches = [b if isinstance(b, tuple) else (b,) for b in calibration] if calibration is not None else []
    if config.activation == "static" and not batches:
        raise ValueError('quantize: activation="static" needs calibration data: pass calibration=[inputs, ...], or use '
                         'activation="dynamic"')
    if isinstance(model, Module):
        return _module(model, config, batches)
    if not callable(model):
        raise TypeError(f"quantize: expected a module or a function, got {type(model).__name__}")
    return _function(model, config, batches)


def quantize_dynamic(model: Module, qconfig_spec: Any = None, dtype: QType = qint8, mapping: Any = None, inplace: bool = False) -> Module:
    """PyTorch's name for dynamic quantization. qconfig_spec: module types or names to quantize (default: `{nn.Linear}`).

    ValueError for a dtype other than qint8. The layers are replaced in `model` itself when `inplace`.
    """
    if dtype is not qint8:
        raise ValueError(f"quantize_dynamic: dtype must be treadle.qint8, got {dtype!r}")
    wanted = set(qconfig_spec) if qconfig_spec is not None else {Linear}
    chosen = lambda name, layer: name in wanted or any(isinstance(w, type) and isinstance(layer, w) for w in wanted)
    target = model if inplace else copy.deepcopy(model)
    report = Report()
    result = _convert(target, QConfig(), {}, {}, report, chosen)
    object.__setattr__(result, "report", report)
    return result


# -- modules -----------------------------------------------------------------------------------------------------------------
def _module(model: Module, config: QConfig, batches: list[Any]) -> Module:
    copied = copy.deepcopy(model)
    ranges: dict[str, Range] = {}
    inputs: dict[str, Tensor] = {}
    if batches:
        _observe(copied, config, batches, ranges, inputs)
    report = Report()
    result = _convert(copied, config, ranges, inputs, report, lambda name, layer: isinstance(layer, KINDS))
    object.__setattr__(result, "report", report)
    return result


def _observe(model: Module, config: QConfig, batches: list[Any], ranges: dict[str, Range], inputs: dict[str, Tensor]) -> None:
    """Run the calibration data through the float model; note the range of each layer's input, and the last input."""
    handles = _hooks(model, config, ranges, inputs)
    training = model.training
    model.eval()
    try:
        with treadle.no_grad():
            for batch in batches:
                model(*batch)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)


def _hooks(model: Module, config: QConfig, ranges: dict[str, Range], inputs: dict[str, Tensor]) -> list[Any]:
    """Handles of hooks that note the range of each layer's input, and the last input."""
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, KINDS)}

    def hook(layer: Module, args: Any) -> None:
        name = names[layer]  # type: ignore[index]
        ranges[name] = _widened(ranges.get(name), _range(args[0], config, name))
        inputs[name] = args[0].detach()
    return [layer.register_forward_pre_hook(hook) for layer in names]


def _range(x: Tensor, config: QConfig, name: str) -> Range:
    percentile = config.percentile if config.observer == "percentile" else 100.0
    low, high = (float(v) for v in passes.observe_range(EMITTER, x.detach(), percentile))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"quantize: the calibration data gives layer {name!r} inputs that are NaN or infinite; remove such samples")
    return low, high


def _widened(known: Range | None, new: Range) -> Range:
    return new if known is None else (min(known[0], new[0]), max(known[1], new[1]))


def _convert(model: Module, config: QConfig, ranges: dict[str, Range], inputs: dict[str, Tensor], report: Report,
             chosen: Callable[[str, Module], bool]) -> Module:
    report.float_bytes = _bytes(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, (QuantizedLinear, QuantizedConv)) or next(layer.children(), None) or next(layer.parameters(), None) is None:
            continue
        why = _why_not(name, layer, config, ranges, chosen)
        if why:
            report.left.append((name, why))
            continue
        bounds = bounds_of(*ranges[name], config.symmetric) if config.activation == "static" else None
        new: QuantizedLinear | QuantizedConv
        if isinstance(layer, Linear):
            new = QuantizedLinear.from_float(layer, config, bounds)
        else:
            assert bounds is not None
            new = QuantizedConv.from_float(layer, config, bounds)
        report.layers.append(_measured(name, layer, new, inputs.get(name)))
        new.train(layer.training)
        model = _replaced(model, name, new)
    report.bytes = _bytes(model)
    return model


def _why_not(name: str, layer: Module, config: QConfig, ranges: dict[str, Range], chosen: Callable[[str, Module], bool]) -> str:
    if not isinstance(layer, KINDS):
        return f"{type(layer).__name__} has no int8 form"
    if name in config.skip:
        return "config.skip names it"
    if not chosen(name, layer):
        return "it was not asked for"
    if config.activation == "static" and name not in ranges:
        return "no calibration data reached it"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return f"padding_mode={layer.padding_mode!r} has no int8 form"
    kind = layer.weight._data.type
    return passes.obstacle(kind, kind, getattr(layer, "groups", 1), config.activation == "static")


def _measured(name: str, layer: Any, new: QuantizedLinear | QuantizedConv, x: Tensor | None) -> LayerReport:
    with treadle.no_grad():
        if x is None:
            assert isinstance(new, QuantizedLinear)
            quality, on = sqnr(layer.weight.detach(), new.dequantized_weight()), "weights"
        else:
            quality, on = sqnr(layer(x), new(x)), "outputs"
    before = sum(p.numel() * p.element_size() for p in layer.parameters())
    return LayerReport(name, "static int8" if new.static else "dynamic int8", before, new.nbytes, quality, on)


def _replaced(model: Module, name: str, new: Module) -> Module:
    if not name:
        return new
    *path, last = name.split(".")
    setattr(functools.reduce(getattr, path, model), last, new)
    return model


def _bytes(model: Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


# -- functions ---------------------------------------------------------------------------------------------------------------
class _Rewriting(RecordingMode):
    """A mode in which linear layers become int8; layers are told apart by their weights."""

    def __init__(self, config: QConfig) -> None:
        self.config = config
        self.ranges: dict[int, Range] = {}
        self.names: dict[int, str] = {}
        self.weights: dict[int, tuple[Any, Any, passes.Weights]] = {}
        self.observing = False
        self.report = Report()

    def apply(self, op: Any, inputs: Any, attrs: Any) -> Any:
        given = tuple(inputs)
        if op.name not in passes.LAYERS:
            return apply(op, given, attrs)
        x, w, *bias = given
        groups = attrs[op.attrs.index("groups")] if op.name == "convolution" else 1
        name = self.names.setdefault(id(w), f"{op.name}{len(self.names)}")
        if self.observing:
            self.ranges[id(w)] = _widened(self.ranges.get(id(w)), _range(x, self.config, name))
            return apply(op, given, attrs)
        prepared = self._prepared(name, x, w, bias[0] if bias else None, groups)
        if prepared is None:
            return apply(op, given, attrs)
        fixed = None
        if self.config.activation == "static":
            scale, zero = bounds_of(*self.ranges[id(w)], self.config.symmetric)
            fixed = (treadle.tensor(scale), treadle.tensor(zero, dtype=treadle.int32))
        if op.name == "convolution":
            stride, padding, dilation = (tuple(attrs[op.attrs.index(n)]) for n in ("stride", "padding", "dilation"))
            assert fixed is not None
            return passes.convolution(EMITTER, x, prepared, passes.Window(tuple(w.shape[2:]), stride, padding, padding, dilation), fixed)
        return passes.linear(EMITTER, x, prepared, self.config.scheme, fixed)

    def _prepared(self, name: str, x: Tensor, w: Tensor, bias: Tensor | None, groups: int) -> passes.Weights | None:
        """The layer's packed weights, made again when its parameters have changed; None when it stays in float."""
        known = self.weights.get(id(w))
        parts = (w._version, None if bias is None else bias._version)
        if known is not None and known[0] is w and known[1] == parts:
            return known[2]
        why = passes.obstacle(x._data.type, w._data.type, groups, self.config.activation == "static")
        if not why and self.config.activation == "static" and id(w) not in self.ranges:
            why = "no calibration data reached it"
        if why:
            if (name, why) not in self.report.left:
                self.report.left.append((name, why))
            return None
        with treadle.no_grad():
            made = passes.prepare(EMITTER, w.detach(), None if bias is None else bias.detach(), self.config.scheme)
            size = sum(t.numel() * t.element_size() for t in made)
            before = w.numel() * w.element_size() + (0 if bias is None else bias.numel() * bias.element_size())
            flat = w.detach().reshape(w.shape[0], -1)
            kept = QuantizedLinear(flat.shape[1], flat.shape[0], made, self.config)
            quality = sqnr(flat, kept.dequantized_weight())
            entry = LayerReport(name, f"{self.config.activation} int8", before, size, quality, "weights")
        self.report.layers = [r for r in self.report.layers if r.name != name] + [entry]
        self.report.float_bytes, self.report.bytes = (sum(getattr(r, k) for r in self.report.layers) for k in ("float_bytes", "bytes"))
        self.weights[id(w)] = (w, parts, made)
        return made


def _function(function: Callable[..., Any], config: QConfig, batches: list[Any]) -> Callable[..., Any]:
    mode = _Rewriting(config)

    @functools.wraps(function)
    def quantized(*args: Any, **kwargs: Any) -> Any:
        state = STATE.here
        before, state.autocast = state.autocast, mode
        try:
            return function(*args, **kwargs)
        finally:
            state.autocast = before

    mode.observing = True
    with treadle.no_grad():
        for batch in batches:
            quantized(*batch)
    mode.observing = False
    quantized.report = mode.report  # type: ignore[attr-defined]
    return quantized
