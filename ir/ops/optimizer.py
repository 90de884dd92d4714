"""Optimizer updates: one op makes the new parameter and the new state from the old ones, so that a step is one kernel.

Hyper-parameters are operands: changing a learning rate compiles nothing. Updates of 16-bit parameters are computed in float32.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir.op import Kind, Op, declare
from treadle.ir.ops.common import Types, in_float32, need_float, number
from treadle.ir.types import TensorType


def _step_type(name: str, tensors: int, numbers: int) -> Callable[..., tuple[TensorType, ...]]:
    def type_rule(types: Types, *attrs: Any) -> tuple[TensorType, ...]:
        param = types[0]
        need_float(name, param)
        for i, t in enumerate(types):
            if tensors <= i < tensors + numbers:
                if t.shape:
                    raise RuntimeError(f"{name}: a hyper-parameter must be a number or a 0-d tensor, but operand {i} is {t}")
            elif t.shape != param.shape or t.dtype is not param.dtype:
                raise RuntimeError(f"{name}: expected the gradient and the state to be like the parameter {param}, but operand {i} is {t}")
        return (param, *types[2:tensors], *types[tensors + numbers:])
    return type_rule


def _step(name: str, tensors: str, numbers: str, decompose: Callable[..., Any], attrs: str = "", more: str = "", **facts: Any) -> Op:
    """Declare an update of (p, g, state...) by numbers; results are the new p and the new state, the variadic `more` included.

    RuntimeError unless all tensors have the parameter's shape and dtype and the numbers are 0-d.
    """
    facts.setdefault("type_rule", _step_type(name, len(tensors.split()), len(numbers.split())))
    return declare(name, Kind.COMPOSITE, f"{tensors} {numbers} {more}", attrs, decompose=in_float32(decompose), differentiable=False,
                   domain=(0.1, 2.0), **facts)


def _like(b: Any, value: Any, p: Any) -> Any:
    """A number in the parameter's dtype."""
    return b.cast(value, p.type.dtype)


def _rest(b: Any, value: Any, p: Any) -> Any:
    """1 - value, rounded once."""
    return _like(b, b.sub(1.0, number(b, value)), p)


def _decayed(b: Any, p: Any, g: Any, weight_decay: Any) -> Any:
    return b.add(g, b.mul(p, _like(b, weight_decay, p)))


def _square_average(b: Any, v: Any, g: Any, beta: Any) -> Any:
    return b.add(b.mul(v, _like(b, beta, v)), b.mul(b.mul(_rest(b, beta, v), g), g))


# -- SGD -----------------------------------------------------------------------------------------------------------------
def _sgd(b: Any, p: Any, g: Any, lr: Any, weight_decay: Any) -> Any:
    return b.sub(p, b.mul(_decayed(b, p, g, weight_decay), _like(b, lr, p)))


def _sgd_momentum(b: Any, p: Any, g: Any, buf: Any, lr: Any, momentum: Any, dampening: Any, weight_decay: Any,
                  nesterov: bool) -> tuple[Any, Any]:
    factor = _like(b, momentum, p)
    g = _decayed(b, p, g, weight_decay)
    buf = b.add(b.mul(buf, factor), b.mul(g, _rest(b, dampening, p)))
    change = b.add(g, b.mul(buf, factor)) if nesterov else buf
    return b.sub(p, b.mul(change, _like(b, lr, p))), buf


_step("sgd_step", "p g", "lr weight_decay", _sgd, doc="p - lr * (g + weight_decay * p)",
      samples=[(((3, 4), (3, 4), 0.1, 0.01), ()), (((), (), 0.1, 0.0), ()), (((0,), (0,), 0.1, 0.0), ())])
_step("sgd_momentum_step", "p g buf", "lr momentum dampening weight_decay", _sgd_momentum, "nesterov",
      doc="(p, buf). For PyTorch's first step, give a buffer of zeros and no dampening.",
      samples=[(((3, 4), (3, 4), (3, 4), 0.1, 0.9, 0.0, 0.01), (True,)), (((5,), (5,), (5,), 0.1, 0.9, 0.2, 0.0), (False,))])


# -- Adam ----------------------------------------------------------------------------------------------------------------
def _adam(b: Any, p: Any, g: Any, m: Any, v: Any, lr: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any, bias1: Any, bias2: Any,
          *rest: Any) -> tuple[Any, ...]:
    *largest, decoupled = rest
    if decoupled:
        shrink = b.mul(number(b, lr), number(b, weight_decay))
        p = b.mul(p, _rest(b, shrink, p))
    else:
        g = _decayed(b, p, g, weight_decay)
    m = b.lerp(m, g, _rest(b, beta1, p))
    v = _square_average(b, v, g, beta2)
    largest = [b.maximum(x, v) for x in largest]
    root = b.div(b.sqrt(largest[0] if largest else v), _like(b, b.sqrt(number(b, bias2)), p))
    size = _like(b, b.div(number(b, lr), number(b, bias1)), p)
    return b.sub(p, b.div(b.mul(size, m), b.add(root, _like(b, eps, p)))), m, v, *largest


_ADAM = (0.1, 0.9, 0.99, 1e-8, 0.01, 0.271, 0.029701)
_step("adam_step", "p g m v", "lr beta1 beta2 eps weight_decay bias1 bias2", _adam, "decoupled", more="largest*",
      doc="(p, m, v, largest*). bias1 and bias2 are 1 - beta ** step; `decoupled` weight decay shrinks p (AdamW); `largest`, the running "
          "maximum of v, makes it AMSGrad.",
      samples=[(((3, 4),) * 4 + _ADAM, (False,)), (((5,),) * 4 + _ADAM, (True,)), (((5,),) * 4 + _ADAM + ((5,),), (False,)),
               (((),) * 4 + _ADAM, (True,))])


# -- RMSprop -------------------------------------------------------------------------------------------------------------
def _rmsprop(b: Any, p: Any, g: Any, v: Any, lr: Any, alpha: Any, eps: Any, weight_decay: Any, momentum: Any,
             *rest: Any) -> tuple[Any, ...]:
    *state, centered = rest
    g = _decayed(b, p, g, weight_decay)
    v = _square_average(b, v, g, alpha)
    spread = v
    if centered:
        state[0] = mean = b.lerp(state[0], g, _rest(b, alpha, p))
        spread = b.sub(v, b.mul(mean, mean))
    change = b.div(g, b.add(b.sqrt(spread), _like(b, eps, p)))
    if len(state) > centered:
        state[-1] = change = b.add(b.mul(state[-1], _like(b, momentum, p)), change)
    return b.sub(p, b.mul(change, _like(b, lr, p))), v, *state


def _rmsprop_type(types: Types, centered: bool) -> tuple[TensorType, ...]:
    more = len(types) - 8
    if not centered <= more <= centered + 1:
        raise RuntimeError(f"rmsprop_step: expected {'a running mean (centered) and ' if centered else ''}at most one momentum buffer, "
                           f"but got {more} more state tensors with centered={centered}")
    return _step_type("rmsprop_step", 3, 5)(types)


_RMSPROP = (0.1, 0.99, 1e-8, 0.01, 0.9)
_step("rmsprop_step", "p g v", "lr alpha eps weight_decay momentum", _rmsprop, "centered", more="state*", type_rule=_rmsprop_type,
      doc="(p, v, state*). `state` is the running mean of g if `centered`, and then a momentum buffer if there is momentum.",
      samples=[(((3, 4),) * 3 + _RMSPROP, (False,)), (((5,),) * 3 + _RMSPROP + ((5,),), (False,)),
               ((np.full(3, 0.5), np.full(3, 0.25), np.full(3, 2.0), *_RMSPROP, np.full(3, 0.5), np.full(3, 0.1)), (True,))])
