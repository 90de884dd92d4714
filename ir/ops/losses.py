"""Loss functions. `reduction` is "none", "mean" or "sum"; 16-bit operands are computed in float32."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT, INT
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, in_float32, iota_along, need_float, number, same_as_second
from treadle.ir.ops.elementwise import elementwise_rule
from treadle.ir.ops.indexing import refuse_negative
from treadle.ir.types import Shape, TensorType, result_dtype

REDUCTIONS = ("none", "mean", "sum")


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: {reduction} is not a valid value for reduction (expected none, mean or sum)")


def _every(x: Any) -> tuple[int, ...]:
    return tuple(range(len(x.type.shape)))


def _reduced(b: Any, loss: Any, reduction: str) -> Any:
    if reduction == "none":
        return loss
    return b.mean(loss, _every(loss), False, None) if reduction == "mean" else b.sum(loss, _every(loss), False, None)


def _floats(b: Any, x: Any, y: Any, *numbers: Any) -> list[Any]:
    """The operands of a loss; integers in the dtype of its result."""
    types = [v.type if isinstance(v.type, TensorType) else v.type.with_() for v in (x, y, *numbers) if hasattr(v, "type")]
    if all([t.dtype.category >= FLOAT for t in types[:2]]):
        return [x, y, *numbers]
    dtype = result_dtype(tuple(types))
    return [v if v.type.dtype.category >= FLOAT else b.cast(v, dtype) for v in (x, y)] + list(numbers)


# -- elementwise losses --------------------------------------------------------------------------------------------------
def _loss(name: str, operands: str, pointwise: Callable[..., Any], slope: Any = None, numbers: tuple[float, ...] = (), attrs: str = "",
          flags: tuple[Any, ...] = ((),), **facts: Any) -> None:
    """A loss of x and y: `pointwise(b, *operands, *flags)`; `slope` is its derivative in x, and minus that in y where `odd`.

    The result has the dtype of the operand `like`, if one is named, and else that of both; those in `need` must be floats.
    """
    count = len(operands.split()) - len(numbers)
    rule = elementwise_rule(name, "promote", False, (BOOL, INT))
    odd, like, need, bools = facts.pop("odd", False), facts.pop("like", None), facts.pop("need", ()), facts.pop("bools", True)

    def type_rule(types: Types, *attrs: Any) -> TensorType:
        _check_reduction(name, attrs[-1])
        need_float(name, *[types[i] for i in (need if like is None else (like,))])
        if not bools and any(t.dtype.category == BOOL for t in types[:2]):
            raise RuntimeError(f"{name}: Subtraction, the `-` operator, with a bool tensor is not supported.")
        full = rule(types)
        return full.with_(full.shape if attrs[-1] == "none" else (), full.dtype if like is None else types[like].dtype)

    def decompose(b: Any, *args: Any) -> Any:
        loss = _reduced(b, pointwise(b, *_floats(b, *args[:-1])), args[-1])
        return loss if like is None else b.cast(loss, args[like].type.dtype)

    def vjp(b: Any, g: Any, operands: tuple[Any, ...], reduction: str) -> tuple[Any, ...]:
        local = slope(b, *_floats(b, *operands))
        scaled = b.div(g, local.type.numel) if reduction == "mean" else g
        dx = b.mul(scaled, local)
        return (dx, b.neg(dx) if odd else None, *(None,) * (len(operands) - 2))

    declare(name, Kind.COMPOSITE, operands, f"{attrs} reduction", type_rule=type_rule, decompose=in_float32(decompose),
            vjp=in_float32(vjp) if odd else None,
            samples=[((*((3, 4),) * count, *numbers), (*flag, r)) for flag in flags for r in REDUCTIONS], **facts)


def _smooth_l1(b: Any, x: Any, y: Any, beta: Any) -> Any:
    d = b.abs(b.sub(x, y))
    return b.where(b.lt(d, beta), b.mul(0.5, b.div(b.mul(d, d), beta)), b.sub(d, b.mul(0.5, number(b, beta, d.type.dtype))))


def _smooth_l1_slope(b: Any, x: Any, y: Any, beta: Any) -> Any:
    d = b.sub(x, y)
    return b.where(b.lt(b.abs(d), beta), b.div(d, beta), b.sign(d))


def _huber(b: Any, x: Any, y: Any, delta: Any) -> Any:
    d = b.abs(b.sub(x, y))
    return b.where(b.le(d, delta), b.mul(0.5, b.mul(d, d)), b.mul(delta, b.sub(d, b.mul(0.5, number(b, delta, d.type.dtype)))))


def _huber_slope(b: Any, x: Any, y: Any, delta: Any) -> Any:
    d = b.sub(x, y)
    return b.maximum(b.minimum(d, delta), b.neg(number(b, delta, d.type.dtype)))


def _bce(b: Any, x: Any, y: Any) -> Any:
    """Logarithms are kept above -100, as in PyTorch."""
    one = b.sub(1.0, y)
    yes, no = b.maximum(b.log(x), -100.0), b.maximum(b.log1p(b.neg(x)), -100.0)
    return b.neg(b.add(b.mul(y, yes), b.mul(one, no)))


def _soft(b: Any, x: Any) -> Any:
    """log(1 + exp(-x)) without overflow."""
    return b.sub(b.log1p(b.exp(b.neg(b.abs(x)))), b.minimum(x, 0.0))


def _bce_with_logits(b: Any, x: Any, y: Any) -> Any:
    return b.add(b.mul(b.sub(1.0, y), x), _soft(b, x))


def _bce_with_logits_pos(b: Any, x: Any, y: Any, pos: Any) -> Any:
    weight = b.add(b.mul(b.sub(pos, 1.0), y), 1.0)
    return b.add(b.mul(b.sub(1.0, y), x), b.mul(weight, _soft(b, x)))


def _kl_div(b: Any, x: Any, y: Any, log_target: bool) -> Any:
    return b.mul(b.exp(y), b.sub(y, x)) if log_target else b.sub(b.xlogy(y, y), b.mul(y, x))


def _squared(b: Any, x: Any, y: Any) -> Any:
    d = b.sub(x, y)
    return b.mul(d, d)


_loss("mse_loss", "x y", _squared, lambda b, x, y: b.mul(b.sub(x, y), 2.0), odd=True, doc="(x - y)**2")
_loss("l1_loss", "x y", lambda b, x, y: b.abs(b.sub(x, y)), lambda b, x, y: b.sign(b.sub(x, y)), odd=True, bools=False,
      rewritable="x y", doc="|x - y|")
_loss("smooth_l1_loss", "x y beta", _smooth_l1, _smooth_l1_slope, (0.7,), odd=True, doc="Quadratic below beta, |x - y| - beta / 2 above.")
_loss("huber_loss", "x y delta", _huber, _huber_slope, (0.7,), odd=True, like=0,
      doc="Quadratic up to delta, linear with slope delta above.")
_loss("bce_with_logits", "x y", _bce_with_logits, like=1, doc="Binary cross entropy of sigmoid(x) against y.")
_loss("bce_with_logits_pos", "x y pos_weight", _bce_with_logits_pos, like=1, doc="`bce_with_logits` with a weight on the positive term.")
_loss("kl_div", "x y", _kl_div, attrs="log_target", flags=((False,), (True,)), domain=(0.1, 2.0), need=(0, 1),
      doc="y * (log y - x), x being log-probabilities.")


def _bce_vjp(b: Any, g: Any, x: Any, y: Any, reduction: str) -> tuple[Any, Any]:
    """PyTorch's: the denominator of the gradient in x is kept above 1e-12."""
    scaled = b.div(g, b.sub(x, y).type.numel) if reduction == "mean" else g
    dx = b.div(b.mul(scaled, b.sub(x, y)), b.maximum(b.mul(x, b.sub(1.0, x)), 1e-12))
    return dx, b.mul(scaled, b.sub(b.maximum(b.log1p(b.neg(x)), -100.0), b.maximum(b.log(x), -100.0)))


_BCE_RULE = elementwise_rule("bce", "promote", False, (BOOL, INT))


def _bce_type(types: Types, reduction: str) -> TensorType:
    _check_reduction("bce", reduction)
    if types[0].shape != types[1].shape:
        raise ValueError(f"bce: Using a target size ({list(types[1].shape)}) that is different to the input size ({list(types[0].shape)}) "
                         "is not supported. Please ensure they have the same size.")
    if types[0].dtype is not types[1].dtype:
        raise RuntimeError(f"bce: Found dtype {types[1].dtype.title} but expected {types[0].dtype.title}")
    return _BCE_RULE(types) if reduction == "none" else _BCE_RULE(types).with_(())


declare("bce", Kind.COMPOSITE, "x y", "reduction", type_rule=_bce_type, vjp=in_float32(_bce_vjp), domain=(0.1, 0.9),
        decompose=in_float32(lambda b, x, y, reduction: _reduced(b, _bce(b, x, y), reduction)),
        samples=[(((3, 4), (3, 4)), (r,)) for r in REDUCTIONS], doc="Binary cross entropy of probabilities x against y.")


# -- class indices -----------------------------------------------------------------------------------------------------------
def class_axis(x: TensorType) -> int:
    return 1 if x.ndim > 1 else 0


def _check_classes(name: str, x: TensorType, weight: TensorType) -> None:
    """RuntimeError unless there is one weight for each class."""
    classes = x.shape[class_axis(x)]
    if weight.shape != (classes,):
        raise RuntimeError(f"{name}: weight tensor should be defined either for all {classes} classes or no classes but got weight "
                           f"tensor of shape: {list(weight.shape)}")


def _classes_type(name: str, x: TensorType, target: TensorType, weight: Types, reduction: str) -> TensorType:
    _check_reduction(name, reduction)
    need_float(name, x)
    axis = class_axis(x)
    want = x.shape[:axis] + x.shape[axis + 1:]
    if not x.ndim:
        raise (ValueError if name == "nll_loss" else RuntimeError)(f"{name}: Expected 1 or more dimensions (got 0)")
    if target.dtype not in (dtypes.int64, dtypes.uint8):
        raise RuntimeError(f"{name}: expected target dtype to be Long or Byte, but got {target.dtype.title}")
    if x.ndim > 1 and target.shape[:1] != x.shape[:1]:
        raise ValueError(f"{name}: Expected input batch_size ({x.shape[0]}) to match target batch_size "
                         f"({target.shape[0] if target.shape else 1}). (input {list(x.shape)}, target {list(target.shape)})")
    if x.ndim == 1 and target.numel != 1:
        raise ValueError(f"{name}: For 1D input, 1D target must have size 1, but got target size: {target.numel}")
    if target.shape != want:
        raise RuntimeError(f"{name}: Expected target size {list(want)}, got {list(target.shape)} (input {list(x.shape)})")
    for w in weight:
        if w.dtype is not x.dtype:
            raise RuntimeError(f"{name}: expected scalar type {x.dtype.title} but found {w.dtype.title} (input {x}, weight {w})")
        _check_classes(name, x, w)
    return x.with_(want if reduction == "none" else ())


def _with_axis(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + (1,) + shape[axis:]


class _Classes:
    """Per-sample values of shape (N, 1, ...): which targets count, their class, their weight, and what a mean divides by."""

    def __init__(self, b: Any, x: Any, target: Any, weight: tuple[Any, ...], ignore_index: int) -> None:
        self.axis = axis = class_axis(x.type)
        shape = _with_axis(target.type.shape, axis)
        label = b.reshape(target if target.type.dtype is dtypes.int64 else b.cast(target, dtypes.int64), shape)
        self.valid = b.ne(label, ignore_index)
        # An ignored label may be any number: it reads class 0 instead.
        self.label = b.where(self.valid, refuse_negative(b, label, x.type.shape[axis]), 0)
        self.row = tuple([n if d == axis else 1 for d, n in enumerate(x.type.shape)])
        self.class_weight = b.reshape(weight[0], self.row) if weight else None
        ones = b.cast(self.valid, x.type.dtype)
        self.weight = b.mul(b.reshape(b.index_select(weight[0], self.label, 0), shape), ones) if weight else ones

    def total(self, b: Any) -> Any:
        return b.sum(self.weight, _every(self.weight), False, None)

    def chosen(self, b: Any, x: Any) -> Any:
        """Whether an element of x is its row's target."""
        return b.eq(iota_along(b, x.type, self.axis), self.label)


def _finish(b: Any, loss: Any, c: _Classes, reduction: str) -> Any:
    if reduction == "none":
        shape = loss.type.shape
        return b.reshape(loss, shape[:c.axis] + shape[c.axis + 1:])
    total = b.sum(loss, _every(loss), False, None)
    return b.div(total, c.total(b)) if reduction == "mean" else total


def _row_gradient(b: Any, g: Any, c: _Classes, reduction: str) -> Any:
    """The gradient of each sample's loss, as a value that broadcasts against (N, 1, ...)."""
    if reduction == "none":
        return b.reshape(g, _with_axis(g.type.shape, c.axis))
    return b.div(g, c.total(b)) if reduction == "mean" else g


def _cross_entropy(b: Any, x: Any, target: Any, smoothing: Any, *rest: Any) -> Any:
    *weight, reduction, ignore_index = rest
    c = _Classes(b, x, target, tuple(weight), ignore_index)
    # No samples of no classes have no largest logit: any empty value of that shape does.
    top = b.amax(x, (c.axis,), True) if x.type.shape[c.axis] or c.label.type.numel else b.cast(c.label, x.type.dtype)
    spread = b.log(b.sum(b.exp(b.sub(x, top)), (c.axis,), True, None))
    nll = b.mul(c.weight, b.add(b.sub(top, b.gather(x, c.label, c.axis)), spread))
    every = b.sub(spread, b.sub(x, top))
    uniform = b.sum(every if c.class_weight is None else b.mul(every, c.class_weight), (c.axis,), True, None)
    uniform = b.where(c.valid, b.div(uniform, x.type.shape[c.axis]), 0.0)
    e = number(b, smoothing, x.type.dtype)
    # Without smoothing the uniform term must not count: a logit of -inf makes it infinite.
    loss = b.where(c.valid, b.where(b.gt(e, 0), b.add(b.mul(b.sub(1, e), nll), b.mul(e, uniform)), nll), 0.0)
    return _finish(b, loss, c, reduction)


def _cross_entropy_backward(b: Any, g: Any, x: Any, target: Any, smoothing: Any, *rest: Any) -> Any:
    *weight, reduction, ignore_index = rest
    c = _Classes(b, x, target, tuple(weight), ignore_index)
    e = number(b, smoothing, x.type.dtype)
    hit = b.mul(b.sub(1, e), c.weight)
    share = b.div(e, x.type.shape[c.axis])
    if c.class_weight is None:
        spread, mass = share, e
    else:
        spread = b.mul(share, c.class_weight)
        mass = b.mul(share, b.sum(c.class_weight, _every(c.class_weight), False, None))
    p = b.softmax(x, c.axis)
    dx = b.sub(b.sub(b.mul(p, b.add(hit, mass)), spread), b.where(c.chosen(b, x), hit, 0.0))
    return b.where(c.valid, b.mul(_row_gradient(b, g, c, reduction), dx), 0.0)


def _cross_entropy_type(types: Types, reduction: str, ignore_index: int) -> TensorType:
    return _classes_type("cross_entropy", types[0], types[1], types[3:], reduction)


def _cross_entropy_vjp(b: Any, g: Any, operands: tuple[Any, ...], reduction: str, ignore_index: int) -> tuple[Any, ...]:
    dx = b.cross_entropy_backward(g, *operands, reduction=reduction, ignore_index=ignore_index)
    return (dx, *(None,) * (len(operands) - 1))


_LABELS, _MAP = np.array([1, -100, 3]), np.array([[0, 2], [1, 1]])
_CE_SAMPLES: list[Any] = [(((3, 4), _LABELS, s), (r, -100)) for r in REDUCTIONS for s in (0.0, 0.2)]
_CE_SAMPLES += [(((2, 3, 2), _MAP, 0.1), ("mean", 1)), (((4,), np.array(2), 0.0), ("mean", -100)),
                (((3, 4), _LABELS, 0.2, (4,)), ("mean", -100)), (((3, 4), _LABELS, 0.0, (4,)), ("sum", -100))]
declare("cross_entropy", Kind.COMPOSITE, "x target label_smoothing weight*", "reduction ignore_index", type_rule=_cross_entropy_type,
        decompose=in_float32(_cross_entropy), vjp=_cross_entropy_vjp, samples=_CE_SAMPLES, domain=(0.2, 2.0),
        onnx="SoftmaxCrossEntropyLoss", rewritable="x",
        doc="-log softmax(x)[target] along axis 1 (0 for one sample), mixed with the uniform target by `label_smoothing`, the classes "
            "weighted if weights are given.")


def _gradient_shape(sample: Any) -> tuple[int, ...]:
    return sample[0][1].shape if sample[1][0] == "none" else ()


declare("cross_entropy_backward", Kind.COMPOSITE, "g x target label_smoothing weight*", "reduction ignore_index",
        type_rule=same_as_second("cross_entropy_backward"), decompose=in_float32(_cross_entropy_backward),
        samples=[((_gradient_shape(s), *s[0]), s[1]) for s in _CE_SAMPLES[:7]],
        doc="The gradient of `cross_entropy` in x, given that of the loss.")


def _nll_type(types: Types, reduction: str, ignore_index: int) -> TensorType:
    return _classes_type("nll_loss", types[0], types[1], types[2:], reduction)


def _nll(b: Any, x: Any, target: Any, *rest: Any) -> Any:
    *weight, reduction, ignore_index = rest
    c = _Classes(b, x, target, tuple(weight), ignore_index)
    picked = b.mul(c.weight, b.neg(b.gather(x, c.label, c.axis)))
    return _finish(b, b.where(c.valid, picked, 0.0), c, reduction)


def _nll_vjp(b: Any, g: Any, operands: tuple[Any, ...], reduction: str, ignore_index: int) -> tuple[Any, ...]:
    x, target, *weight = operands
    c = _Classes(b, x, target, tuple(weight), ignore_index)
    row = b.neg(b.mul(_row_gradient(b, g, c, reduction), c.weight))
    return (b.where(c.chosen(b, x), row, 0.0), *(None,) * (len(operands) - 1))


declare("nll_loss", Kind.COMPOSITE, "x target weight*", "reduction ignore_index", type_rule=_nll_type, decompose=in_float32(_nll),
        vjp=in_float32(_nll_vjp), onnx="NegativeLogLikelihoodLoss", domain=(0.2, 2.0),
        doc="-x[target] along axis 1; x holds log-probabilities.",
        samples=[*[(((3, 4), _LABELS), (r, -100)) for r in REDUCTIONS], (((2, 3, 2), _MAP), ("mean", 1)),
                 (((3, 4), _LABELS, (4,)), ("mean", -100))])


# -- probability targets -------------------------------------------------------------------------------------------------------
def _prob_type(types: Types, reduction: str) -> TensorType:
    x, target = types[:2]
    _check_reduction("cross_entropy", reduction)
    need_float("cross_entropy", x, target)
    if x.shape != target.shape:
        raise RuntimeError(f"cross_entropy: target of probabilities must have the input's shape {list(x.shape)}, "
                           f"but got {list(target.shape)}")
    axis = class_axis(x)
    for weight in types[3:]:
        _check_classes("cross_entropy", x, weight)
    return x.with_(x.shape[:axis] + x.shape[axis + 1:] if reduction == "none" else (), dtype=result_dtype((x, target)))


def _cross_entropy_prob(b: Any, x: Any, target: Any, smoothing: Any, *rest: Any) -> Any:
    *weight, reduction = rest
    axis, shape = class_axis(x.type), x.type.shape
    e = number(b, smoothing, x.type.dtype)
    smooth = b.add(b.mul(target, b.sub(1, e)), b.div(e, shape[axis]))
    terms = b.mul(b.log_softmax(x, axis), smooth)
    if weight:
        terms = b.mul(terms, b.reshape(weight[0], tuple([n if d == axis else 1 for d, n in enumerate(shape)])))
    loss = b.neg(b.sum(terms, (axis,), False, None))
    if reduction == "none":
        return loss
    total = b.sum(loss, _every(loss), False, None)
    return b.div(total, math.prod(loss.type.shape)) if reduction == "mean" else total


declare("cross_entropy_prob", Kind.COMPOSITE, "x target label_smoothing weight*", "reduction", type_rule=_prob_type,
        decompose=in_float32(_cross_entropy_prob), samples=[(((3, 4), (3, 4), 0.1), (r,)) for r in REDUCTIONS]
        + [(((2, 3, 2), (2, 3, 2), 0.0), ("mean",)), (((3, 4), (3, 4), 0.1, (4,)), ("mean",))], domain=(0.1, 1.0),
        doc="Cross entropy of softmax(x) against class probabilities along axis 1.")
