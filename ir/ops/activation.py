"""Activation functions: elementwise composites with explicit gradients. 16-bit operands are computed in float32."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from treadle.ir.dtypes import BOOL, INT
from treadle.ir.op import Field, Kind, Op, declare
from treadle.ir.ops.common import in_float32, same_as_second
from treadle.ir.ops.elementwise import elementwise_rule

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_TANH_SCALE = math.sqrt(2.0 / math.pi)
_TANH_CUBIC = 0.044715
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946

_SHAPES: tuple[Any, ...] = ((3, 4), (), (0, 2))


def _activation(name: str, decompose: Callable[..., Any], vjp: Callable[..., Any], numbers: str = "", values: tuple[float, ...] = (),
                **facts: Any) -> Op:
    """`name(x, *numbers)`; the gradient flows to x only, as in PyTorch."""
    count = len(values)
    facts.setdefault("samples", [((shape, *values), ()) for shape in _SHAPES])
    facts.setdefault("batch", "elementwise")
    return declare(name, Kind.COMPOSITE, f"x {numbers}", type_rule=_first_operand(name), decompose=in_float32(decompose),
                   vjp=(in_float32(vjp), *(None,) * count), **facts)


def _first_operand(name: str) -> Callable[..., Any]:
    rule = elementwise_rule(name, "promote", False, (BOOL, INT))
    return lambda types, *attrs: rule(types[:1])


# -- gelu and its relatives ----------------------------------------------------------------------------------------------
def _tanh_inner(b: Any, x: Any) -> Any:
    return b.tanh(b.mul(_TANH_SCALE, b.mul(x, b.add(b.mul(_TANH_CUBIC, b.mul(x, x)), 1.0))))


def _gelu(b: Any, x: Any, approximate: str) -> Any:
    inner = _tanh_inner(b, x) if approximate == "tanh" else b.erf(b.mul(x, _SQRT_HALF))
    return b.mul(b.mul(0.5, x), b.add(inner, 1.0))


def _gelu_backward(b: Any, g: Any, x: Any, approximate: str) -> Any:
    if approximate == "tanh":
        t = _tanh_inner(b, x)
        slope = b.mul(_TANH_SCALE, b.add(b.mul(3.0 * _TANH_CUBIC, b.mul(x, x)), 1.0))
        density = b.mul(b.mul(0.5, b.sub(1.0, b.mul(t, t))), slope)
    else:
        t = b.erf(b.mul(x, _SQRT_HALF))
        density = b.mul(_INV_SQRT_2PI, b.exp(b.mul(-0.5, b.mul(x, x))))
    return b.mul(g, b.add(b.mul(0.5, b.add(t, 1.0)), b.mul(x, density)))


def _gelu_type(types: Any, approximate: str) -> Any:
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate argument must be either none or tanh, but got {approximate!r}")
    return _first_operand("gelu")(types)


_GELU_SAMPLES = [((shape,), (kind,)) for shape in _SHAPES for kind in ("none", "tanh")]
declare("gelu", Kind.COMPOSITE, "x", "approximate", batch="elementwise",
        type_rule=_gelu_type, decompose=in_float32(_gelu), samples=_GELU_SAMPLES,
        vjp=(lambda b, g, x, approximate: b.gelu_backward(g, x, approximate),), onnx="Gelu",
        doc="x times the normal distribution function of x; approximate is \"none\" or \"tanh\".")
declare("gelu_backward", Kind.COMPOSITE, "g x", "approximate", batch="leading", type_rule=same_as_second("gelu_backward"),
        decompose=in_float32(_gelu_backward),
        samples=[(((3, 4), (3, 4)), (kind,)) for kind in ("none", "tanh")], doc="g times the derivative of `gelu` at x.")


def _silu_backward(b: Any, g: Any, x: Any) -> Any:
    s = b.sigmoid(x)
    return b.mul(g, b.mul(s, b.add(b.mul(x, b.sub(1.0, s)), 1.0)))


def _softplus_of(b: Any, x: Any) -> Any:
    """log(1 + exp(x)) without overflow."""
    return b.add(b.maximum(x, 0.0), b.log1p(b.exp(b.neg(b.abs(x)))))


def _mish_backward(b: Any, g: Any, x: Any) -> Any:
    t = b.tanh(_softplus_of(b, x))
    return b.mul(g, b.add(t, b.mul(x, b.mul(b.sigmoid(x), b.sub(1.0, b.mul(t, t))))))


_activation("silu", lambda b, x: b.mul(x, b.sigmoid(x)), _silu_backward, field=Field.ANALYTIC, doc="x * sigmoid(x)")
_activation("mish", lambda b, x: b.mul(x, b.tanh(_softplus_of(b, x))), _mish_backward, doc="x * tanh(softplus(x))", onnx="Mish")


# -- softplus and the exponential units ----------------------------------------------------------------------------------
def _softplus(b: Any, x: Any, beta: Any, threshold: Any) -> Any:
    scaled = b.mul(x, beta)
    return b.where(b.gt(scaled, threshold), x, b.div(_softplus_of(b, scaled), beta))


def _softplus_backward(b: Any, g: Any, x: Any, beta: Any, threshold: Any) -> Any:
    scaled = b.mul(x, beta)
    return b.where(b.gt(scaled, threshold), g, b.mul(g, b.sigmoid(scaled)))


def _exp_of_negative(b: Any, x: Any, function: str, *scale: Any) -> Any:
    """exp or expm1 of min(x, 0) / scale: the side of an exponential unit that must not overflow where it is not used."""
    low = b.minimum(x, 0.0)
    return getattr(b, function)(b.div(low, scale[0]) if scale else low)


def _elu(b: Any, x: Any, alpha: Any) -> Any:
    return b.where(b.gt(x, 0), x, b.mul(alpha, _exp_of_negative(b, x, "expm1")))


def _elu_backward(b: Any, g: Any, x: Any, alpha: Any) -> Any:
    return b.where(b.gt(x, 0), g, b.mul(g, b.mul(alpha, _exp_of_negative(b, x, "exp"))))


_activation("softplus", _softplus, _softplus_backward, "beta threshold", (1.5, 2.0), onnx="Softplus",
            doc="log(1 + exp(beta * x)) / beta, or x itself where beta * x exceeds the threshold.")
_activation("elu", _elu, _elu_backward, "alpha", (1.3,), onnx="Elu", doc="x where positive, alpha * (exp(x) - 1) elsewhere.")
_activation("selu", lambda b, x: b.mul(SELU_SCALE, _elu(b, x, SELU_ALPHA)),
            lambda b, g, x: b.mul(SELU_SCALE, _elu_backward(b, g, x, SELU_ALPHA)), onnx="Selu",
            doc="1.0507 * elu(x, 1.67326): the self-normalising unit (Klambauer et al. 2017, arXiv:1706.02515).")
_activation("celu", lambda b, x, alpha: b.where(b.gt(x, 0), x, b.mul(alpha, _exp_of_negative(b, x, "expm1", alpha))),
            lambda b, g, x, alpha: b.where(b.gt(x, 0), g, b.mul(g, _exp_of_negative(b, x, "exp", alpha))), "alpha", (1.3,), onnx="Celu",
            doc="x where positive, alpha * (exp(x / alpha) - 1) elsewhere (Barron 2017, arXiv:1704.07483).")
_activation("logsigmoid", lambda b, x: b.sub(b.minimum(x, 0.0), b.log1p(b.exp(b.neg(b.abs(x))))),
            lambda b, g, x: b.mul(g, b.sigmoid(b.neg(x))), doc="log(sigmoid(x)) without overflow.")

# -- piecewise linear ------------------------------------------------------------------------------------------------------
_activation("leaky_relu", lambda b, x, slope: b.where(b.gt(x, 0), x, b.mul(x, slope)),
            lambda b, g, x, slope: b.where(b.gt(x, 0), g, b.mul(g, slope)), "slope", (0.1,), onnx="LeakyRelu",
            doc="x where positive, slope * x elsewhere.")
_activation("hardtanh", lambda b, x, low, high: b.minimum(b.maximum(x, low), high),
            lambda b, g, x, low, high: b.where(b.logical_and(b.gt(x, low), b.lt(x, high)), g, 0.0), "low high", (-0.5, 0.7),
            onnx="Clip", doc="x moved into [low, high]; the gradient is 0 at the bounds.")


def _relu6_of(b: Any, x: Any) -> Any:
    return b.minimum(b.maximum(x, 0.0), 6.0)


def _hardswish_backward(b: Any, g: Any, x: Any) -> Any:
    inside = b.mul(g, b.add(b.div(x, 3.0), 0.5))
    return b.where(b.le(x, -3.0), 0.0, b.where(b.lt(x, 3.0), inside, g))


_activation("hardswish", lambda b, x: b.div(b.mul(x, _relu6_of(b, b.add(x, 3.0))), 6.0), _hardswish_backward, onnx="HardSwish",
            doc="x * relu6(x + 3) / 6 (Howard et al. 2019, arXiv:1905.02244).")
_activation("hardsigmoid", lambda b, x: b.div(_relu6_of(b, b.add(x, 3.0)), 6.0),
            lambda b, g, x: b.where(b.logical_and(b.gt(x, -3.0), b.lt(x, 3.0)), b.div(g, 6.0), 0.0),
            onnx="HardSigmoid", doc="relu6(x + 3) / 6")


def _softsign_backward(b: Any, g: Any, x: Any) -> Any:
    d = b.add(b.abs(x), 1.0)
    return b.div(g, b.mul(d, d))


_activation("softsign", lambda b, x: b.div(x, b.add(b.abs(x), 1.0)), _softsign_backward, onnx="Softsign", doc="x / (1 + |x|)")
_activation("threshold", lambda b, x, limit, value: b.where(b.le(x, limit), value, x),
            lambda b, g, x, limit: b.where(b.le(x, limit), 0.0, g), "limit value", (0.1, 20.0), doc="x where above the limit, else value.")
_activation("hardshrink", lambda b, x, limit: b.where(b.gt(b.abs(x), limit), x, 0.0),
            lambda b, g, x, limit: b.where(b.gt(b.abs(x), limit), g, 0.0), "limit", (0.5,),
            onnx="Shrink", doc="x where |x| exceeds the limit, else 0.")
_activation("softshrink", lambda b, x, limit: b.where(b.gt(b.abs(x), limit), b.sub(x, b.mul(limit, b.sign(x))), b.mul(x, 0.0)),
            lambda b, g, x, limit: b.where(b.gt(b.abs(x), limit), g, 0.0), "limit", (0.5,),
            onnx="Shrink", doc="x moved towards 0 by the limit, and 0 within it.")


def _glu_type(types: Any, dim: int) -> Any:
    t = _first_operand("glu")(types[:1])
    if not t.shape or t.shape[dim] % 2:
        raise RuntimeError(f"glu: Halving dimension must be even, but dimension {dim} of shape {list(t.shape)} is not")
    return t.with_(tuple([n // 2 if d == dim else n for d, n in enumerate(t.shape)]))


def _glu(b: Any, x: Any, dim: int) -> Any:
    shape = x.type.shape
    half = tuple([n // 2 if d == dim else n for d, n in enumerate(shape)])
    start = tuple([n // 2 if d == dim else 0 for d, n in enumerate(shape)])
    ones = (1,) * len(shape)
    return b.mul(b.slice(x, (0,) * len(shape), half, ones), b.sigmoid(b.slice(x, start, shape, ones)))


declare("glu", Kind.COMPOSITE, "x", "dim", batch="leading",
        type_rule=_glu_type, decompose=in_float32(_glu), samples=[(((3, 4),), (1,)), (((2, 3),), (0,))],
        doc="The first half along `dim` times the sigmoid of the second.")
