"""How the layers of networks become ONNX operations: activations, products, convolutions, pooling, normalization, recurrence."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.codegen.onnx_sizes import Vector, is_constant
from treadle.codegen.onnx_writer import Declined, Number, Ref, Result, Rule, Site, Writer
from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT
from treadle.ir.ops.attention import by_parts


# -- activations and products --------------------------------------------------------------------------------------------------
def activation(since: int = 0, **attributes: Callable[[Site], Any]) -> Rule:
    """An operation of x with attributes taken from the node."""
    def rule(w: Writer, s: Site) -> Result:
        w.need(since)
        found = {name: value(s) for name, value in attributes.items()}
        return w.emit(s.op.onnx, s.x(0), **found)
    return rule


def _softplus(w: Writer, s: Site) -> Result:
    if s.number(1) != 1:
        raise Declined("ONNX's Softplus has no beta")
    return w.Softplus(s.x(0))


def _clip(w: Writer, s: Site) -> Result:
    if s.dtype.category < FLOAT or not all(isinstance(x, Number) for x in s.rest(1)):
        raise Declined("ONNX clips to two numbers")
    return w.Clip(s.x(0, s.dtype), s.x(1, s.dtype), s.x(2, s.dtype))


def _along(w: Writer, s: Site) -> Result:
    """Softmax and its logarithm; before opset 13 they are of all axes from `axis` on."""
    dim = s.attr("dim")
    if not s.rank() or (w.opset < 13 and dim != s.rank() - 1):
        raise Declined("ONNX has it along the last axis")
    return w.emit(s.op.onnx, s.x(0), axis=dim)


def _linear(w: Writer, s: Site) -> Result:
    if s.rank() == 2:
        return w.Gemm(*[s.x(i) for i in range(len(s.operands))], transB=1)
    product = w.MatMul(s.x(0), w.Transpose(s.x(1), perm=[1, 0]))
    return w.Add(product, s.x(2)) if len(s.operands) == 3 else product


def _addmm(w: Writer, s: Site) -> Result:
    if s.dtype.category < FLOAT:
        raise Declined("ONNX's Gemm is of floats")
    if len(s.node.out.type.shape) != 2:
        raise Declined("ONNX's Gemm is of two matrices")
    return w.Gemm(s.x(1), s.x(2), s.x(0), beta=s.number(3), alpha=s.number(4))


def _triangle(w: Writer, s: Site) -> Result:
    w.need(14)
    return w.Trilu(s.x(0), w.constant(s.attr("diagonal"), dtypes.int64), upper=int(s.op.name == "triu"))


# -- windows -------------------------------------------------------------------------------------------------------------------
def _window(s: Site) -> dict[str, Any]:
    padding = list(s.attr("padding"))
    return {"strides": list(s.attr("stride")), "dilations": list(s.attr("dilation")), "pads": padding + padding}


def _convolution(w: Writer, s: Site) -> Result:
    kernel = [v[0] for v in s.shape(1)[2:]]
    return w.Conv(s.x(0), s.x(1), **_window(s), kernel_shape=kernel, group=s.attr("groups"))


def _transposed(w: Writer, s: Site) -> Result:
    window = _window(s)
    kernel = [v[0] for v in s.shape(1)[2:]]
    extra = []
    for y, x, k, stride, pad, dilation in zip(s.shape(0)[2:], s.out_shape()[2:], kernel, window["strides"], window["pads"],
                                              window["dilations"], strict=False):
        least = [(n - 1) * stride - 2 * pad + dilation * (k - 1) + 1 for n in y]
        left = tuple([n - m for n, m in zip(x, least, strict=True)])
        if not is_constant(left) or not 0 <= left[0] < max(stride, dilation):
            raise Declined("its output has another size than ONNX's ConvTranspose gives")
        extra.append(left[0])
    return w.ConvTranspose(s.x(0), s.x(1), **window, kernel_shape=kernel, output_padding=extra, group=s.attr("groups"))


def _channels_first(s: Site, axes: int) -> None:
    if s.rank() - axes != 2:
        raise Declined("ONNX pools tensors of two leading axes")


def _ceils(s: Site) -> bool:
    """Whether the number of windows is rounded up."""
    kernel, stride, padding, dilation = [s.attr(name) for name in ("kernel", "stride", "padding", "dilation")]
    answers, rank = set(), len(kernel)
    for n, k, step, p, d, out in zip(s.shape()[-rank:], kernel, stride, padding, dilation, s.out_shape()[-rank:], strict=True):
        down = tuple([(m + 2 * p - d * (k - 1) - 1) // step + 1 for m in n])
        up = tuple([-(-(m + 2 * p - d * (k - 1) - 1) // step) + 1 for m in n])
        if down != up:
            answers.add(out == up)
            if out not in (down, up):
                raise Declined("its number of windows is not ONNX's")
        elif out != down:
            raise Declined("its number of windows is not ONNX's")
    if len(answers) > 1:
        raise Declined("it rounds the number of windows up along one axis and down along another")
    return answers == {True}


def _max_pool(w: Writer, s: Site) -> Result:
    kernel = list(s.attr("kernel"))
    _channels_first(s, len(kernel))
    if s.used[1] or s.dtype.category < FLOAT:
        raise Declined("ONNX numbers the places of maxima otherwise")
    return w.MaxPool(s.x(0), kernel_shape=kernel, **_window(s), ceil_mode=int(_ceils(s))), None


def _avg_pool(w: Writer, s: Site) -> Result:
    kernel, window = list(s.attr("kernel")), _window(s)
    _channels_first(s, len(kernel))
    if s.attr("divisor") or set(window.pop("dilations")) != {1} or _ceils(s):
        raise Declined("ONNX divides by another number")
    return w.AveragePool(s.x(0), kernel_shape=kernel, **window, count_include_pad=int(s.attr("count_include_pad")))


def _adaptive(whole: str, windows: str) -> Rule:
    """One window for all, or windows side by side."""
    def rule(w: Writer, s: Site) -> Result:
        size = [v[0] for v in s.sizes("size")]
        _channels_first(s, len(size))
        if len(s.used) > 1 and s.used[1]:
            raise Declined("ONNX numbers the places of maxima otherwise")
        rest = (None,) * (len(s.used) - 1)
        if set(size) == {1}:
            return (w.emit(whole, s.x(0)), *rest)
        sizes = s.shape()[2:]
        if not all(is_constant(n) and n[0] % out == 0 for n, out in zip(sizes, size, strict=True)):
            raise Declined("its windows differ in size")
        kernel = [n[0] // out for n, out in zip(sizes, size, strict=True)]
        return (w.emit(windows, s.x(0), kernel_shape=kernel, strides=kernel), *rest)
    return rule


# -- resizing ------------------------------------------------------------------------------------------------------------------
def _resize(w: Writer, s: Site, **attributes: Any) -> Ref:
    """Sizes as they come out; or factors, where these were given and say more."""
    factors = s.attr("factors")
    lead = s.rank() - len(factors)
    if s.rank() not in (4, 5) or lead != 2:
        raise Declined("ONNX resizes images of two leading axes")
    if any(f is not None for f in factors) and not s.op.name.endswith("filtered"):
        exact = all(f is not None and all(m == int(n * f) for n, m in zip(have, out, strict=True))
                    for f, have, out in zip(factors, s.shape()[lead:], s.out_shape()[lead:], strict=True))
        if not exact:
            raise Declined("it has factors for some axes, or sizes that do not follow from them")
        return w.emit("Resize", s.x(0), None, w.constant([1.0] * lead + list(factors), dtypes.float32), **attributes)
    return w.emit("Resize", s.x(0), None, None, w.size_list(s.out_shape()), **attributes)


def _resample(w: Writer, s: Site) -> Result:
    mode = s.attr("mode")
    where = "align_corners" if s.attr("align") else "half_pixel"
    if mode == "cubic" and s.rank() != 4:
        raise Declined("ONNX's cubic filter is of two axes")
    more = {"cubic_coeff_a": -0.75} if mode == "cubic" else {}
    return _resize(w, s, mode=mode, coordinate_transformation_mode=where, **more)


def _nearest(w: Writer, s: Site) -> Result:
    exact = s.attr("exact")
    return _resize(w, s, mode="nearest", coordinate_transformation_mode="half_pixel" if exact else "asymmetric",
                   nearest_mode="round_prefer_ceil" if exact else "floor")


def _grid_sample(w: Writer, s: Site) -> Result:
    w.need(16 if s.rank() == 4 else 20)
    mode = s.attr("mode")
    if w.opset >= 20:
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return w.GridSample(s.x(0), s.x(1), mode=mode, padding_mode=s.attr("padding"), align_corners=int(s.attr("align")))


# -- normalization ---------------------------------------------------------------------------------------------------------------
def _filled(w: Writer, s: Site, value: float, shape: list[Vector]) -> Ref:
    """A constant in place of a weight that is not given."""
    if not all(is_constant(v) for v in shape):
        raise Declined("the axes that it normalizes are dynamic")
    return w.constant(np.full([v[0] for v in shape], value), s.dtype)


def _given(s: Site, start: int) -> list[Ref]:
    return [s.x(i, s.dtype) for i in range(start, len(s.operands))]


def _layer_norm(w: Writer, s: Site) -> Result:
    w.need(17)
    ndims = s.attr("ndims")
    affine = _given(s, 2) or [_filled(w, s, 1, s.shape()[s.rank() - ndims:])]
    return w.LayerNormalization(s.x(0), *affine, axis=-ndims, epsilon=s.number(1))


def _rms_norm(w: Writer, s: Site) -> Result:
    w.need(23)
    ndims = s.attr("ndims")
    affine = _given(s, 2) or [_filled(w, s, 1, s.shape()[s.rank() - ndims:])]
    return w.RMSNormalization(s.x(0), *affine, axis=-ndims, epsilon=s.number(1))


def _batch_norm(w: Writer, s: Site) -> Result:
    affine = _given(s, 4)
    channels = [s.shape()[1]]
    affine += [_filled(w, s, value, channels) for value in (1, 0)[len(affine):]]
    return w.BatchNormalization(s.x(0), *affine, s.x(1, s.dtype), s.x(2, s.dtype), epsilon=s.number(3))


# -- recurrence --------------------------------------------------------------------------------------------------------------------
def _regrouped(w: Writer, x: Ref, order: tuple[int, ...], rows: int) -> list[Ref]:
    """The gates of a weight or bias, of `rows` rows each, in ONNX's order."""
    if len(order) == 1:
        return [x]
    return [w.Slice(x, w.ints([i * rows]), w.ints([(i + 1) * rows]), w.ints([0])) for i in order]


def _recurrent(states: int, order: tuple[int, ...], attributes: Callable[[Site], dict[str, Any]] = lambda s: {}) -> Rule:
    """A layer in one direction; order: where ONNX's gates stand in ours."""
    def rule(w: Writer, s: Site) -> Result:
        if any(s.used[1 + states:]):
            raise Declined("what the gradient needs of it is not in ONNX")
        hidden = s.shape(2 + states)[1][0]

        def weight(parts: list[Ref], *shape: int) -> Ref:
            whole = parts[0] if len(parts) == 1 else w.Concat(*parts, axis=0)
            return w.Reshape(whole, w.ints(shape))
        w_ih, w_hh = [_regrouped(w, s.x(i), order, hidden) for i in (1 + states, 2 + states)]
        biases = [g for i in range(3 + states, len(s.operands)) for g in _regrouped(w, s.x(i), order, hidden)]
        bias = weight(biases, 1, -1) if biases else None
        firsts = [w.Unsqueeze(s.x(1 + i), w.ints([0])) if w.opset >= 13 else w.Unsqueeze(s.x(1 + i), axes=[0]) for i in range(states)]
        ys, *last = w.emit(s.op.onnx, s.x(0), weight(w_ih, 1, len(order) * hidden, -1), weight(w_hh, 1, len(order) * hidden, hidden), bias,
                           None, *firsts, outputs=1 + states, hidden_size=hidden,
                           direction="reverse" if s.attr("reverse") else "forward", **attributes(s))
        found = [_without(w, ys, 1), *[_without(w, y, 0) for y in last]]
        return (*found, *(None,) * (len(s.used) - len(found)))
    return rule


def _without(w: Writer, x: Ref, axis: int) -> Ref:
    """Without ONNX's axis of directions."""
    found: Ref = w.Squeeze(x, w.ints([axis])) if w.opset >= 13 else w.Squeeze(x, axes=[axis])
    return found


def _loss(probabilities: int) -> Rule:
    """Cross entropies; probabilities: how many operands stand between the target and the weights."""
    def rule(w: Writer, s: Site) -> Result:
        w.need(12)
        if s.rank() < 2 or (probabilities and s.number(2) != 0):
            raise Declined("ONNX's losses are of batches, without smoothing")
        found = w.emit(s.op.onnx, s.x(0), s.x(1), *_given(s, 2 + probabilities), reduction=s.attr("reduction"),
                       ignore_index=s.attr("ignore_index"))
        return found
    return rule


def _attention(w: Writer, s: Site) -> Result:
    """By its formula, whatever kernels there would be."""
    if s.used[1] or s.attr("dropout"):
        raise Declined("it drops attention weights")
    return w.by(s, by_parts)


NETWORKS: dict[str, Rule] = {
    "gelu": activation(20, approximate=lambda s: s.attr("approximate") if isinstance(s.attr("approximate"), str)
                       else "tanh" if s.attr("approximate") else "none"),
    "mish": activation(18),
    "elu": activation(alpha=lambda s: s.number(1)),
    "selu": activation(),
    "celu": activation(12, alpha=lambda s: s.number(1)),
    "leaky_relu": activation(alpha=lambda s: s.number(1)),
    "hardswish": activation(14),
    "hardsigmoid": activation(alpha=lambda s: 1 / 6, beta=lambda s: 0.5),
    "softsign": activation(),
    "hardshrink": activation(lambd=lambda s: s.number(1)),
    "softshrink": activation(lambd=lambda s: s.number(1), bias=lambda s: s.number(1)),
    "softplus": _softplus,
    "clamp": _clip,
    "hardtanh": _clip,
    "softmax": _along,
    "log_softmax": _along,
    "linear": _linear,
    "linear_bias": _linear,
    "addmm": _addmm,
    "matmul": lambda w, s: w.MatMul(s.x(0), s.x(1)),
    "tril": _triangle,
    "triu": _triangle,
    "convolution": _convolution,
    "convolution_input": _transposed,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive("GlobalAveragePool", "AveragePool"),
    "adaptive_max_pool": _adaptive("GlobalMaxPool", "MaxPool"),
    "resample": _resample,
    "resample_nearest": _nearest,
    "grid_sample": _grid_sample,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "batch_norm_inference": _batch_norm,
    "rnn_layer": _recurrent(1, (0,), lambda s: {"activations": [s.attr("nonlinearity").capitalize()]}),
    "lstm_layer": _recurrent(2, (0, 3, 1, 2)),
    "gru_layer": _recurrent(1, (1, 0, 2), lambda s: {"linear_before_reset": 1}),
    "scaled_dot_product_attention": _attention,
    "cross_entropy": _loss(1),
    "nll_loss": _loss(0),
}
