"""Optimizer updates: one op makes the new parameter and the new state from the old ones, so that a step is one kernel.

Hyper-parameters are operands: changing a learning rate compiles nothing. Updates of 16-bit parameters are computed in float32.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.ir.dtypes import DType
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, in_float32, need_float, number
from treadle.ir.types import TensorType

_SHAPE = (3, 4)


def _step_type(name: str, tensors: tuple[str, ...], places: tuple[int, ...], results: tuple[int, ...]) -> Callable[..., tuple[TensorType, ...]]:
    """Results have the types of the operands `results`. The operands `places`, called `tensors`, and those of a variadic tail
    must have the parameter's shape and dtype, all others must be numbers: RuntimeError."""
    def type_rule(types: Types, *attrs: Any) -> tuple[TensorType, ...]:
        param = types[0]
        need_float(name, param)
        for what, place in zip(tensors, places, strict=True):
            t = types[place]
            if t.shape != param.shape or t.dtype is not param.dtype:
                raise RuntimeError(f"{name}: expected {what} of the parameter's shape and dtype {param}, but got {t}")
        for i, t in enumerate(types):
            if i not in places and t.shape:
                raise RuntimeError(f"{name}: hyper-parameters must be numbers or 0-d tensors, but operand {i} is {t}")
        return tuple([param] + [types[i] for i in results])
    return type_rule


def _own(b: Any, value: Any, p: Any) -> Any:
    """A number in the parameter's dtype, rounded once."""
    return b.cast(value, p.type.dtype)


def _rest(b: Any, value: Any, p: Any) -> Any:
    """1 - value, computed in float64."""
    return _own(b, b.sub(1.0, number(b, value)), p)


def _decayed(b: Any, p: Any, g: Any, weight_decay: Any) -> Any:
    return b.add(g, b.mul(p, _own(b, weight_decay, p)))


def _moved(b: Any, p: Any, change: Any, lr: Any) -> Any:
    return b.sub(p, b.mul(change, _own(b, lr, p)))


# -- SGD -------------------------------------------------------------------------------------------------------------------
def _sgd(b: Any, p: Any, g: Any, lr: Any, weight_decay: Any) -> Any:
    return _moved(b, p, _decayed(b, p, g, weight_decay), lr)


def _sgd_momentum(b: Any, p: Any, g: Any, buf: Any, lr: Any, momentum: Any, dampening: Any, weight_decay: Any, nesterov: bool) -> tuple[Any, Any]:
    g = _decayed(b, p, g, weight_decay)
    factor = _own(b, momentum, p)
    buf = b.add(b.mul(buf, factor), b.mul(g, _rest(b, dampening, p)))
    return _moved(b, p, b.add(g, b.mul(buf, factor)) if nesterov else buf, lr), buf


declare("sgd_step", Kind.COMPOSITE, "p g lr weight_decay", type_rule=_step_type("sgd_step", ("a gradient",), (1,), ()),
        decompose=in_float32(_sgd), differentiable=False, samples=[((_SHAPE, _SHAPE, 0.1, 0.01), ()), (((), (), 0.1, 0.0), ())],
        doc="p - lr * (g + weight_decay * p)")
declare("sgd_momentum_step", Kind.COMPOSITE, "p g buf lr momentum dampening weight_decay", "nesterov",
        type_rule=_step_type("sgd_momentum_step", ("a gradient", "a momentum buffer"), (1, 2), (2,)), decompose=in_float32(_sgd_momentum),
        differentiable=False, doc="(p, buf); a first step has a buffer of zeros and no dampening.",
        samples=[((_SHAPE, _SHAPE, _SHAPE, 0.1, 0.9, 0.0, 0.01), (True,)), ((_SHAPE, _SHAPE, _SHAPE, 0.1, 0.9, 0.2, 0.0), (False,))])
