"""Elementwise operations: arithmetic, comparison, logic, transcendental functions, casts and selection."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.dtypes import BOOL, FLOAT, DType
from treadle.ir.op import Field, Kind, Op, declare
from treadle.ir.ops import special
from treadle.ir.ops.common import HALVES, not_implemented, real_part, zeros
from treadle.ir.types import TensorType, broadcast_shapes, result_dtype, tensor_type

Types = tuple[TensorType, ...]


def compute_dtype(op: Op, types: Types) -> DType | None:
    """The dtype to which an elementwise op casts its operands; None leaves them as they are."""
    if op.compute == "same":
        return None
    if op.compute == "where":
        return result_dtype(types[1:])
    dtype = result_dtype(types)
    if op.compute == "float" and dtype.category < FLOAT:
        return dtypes.default_float()
    return dtypes.float32 if op.exact_number and dtype in HALVES and _has_number(op, types) else dtype


def _has_number(op: Op, types: Types) -> bool:
    first, second = types
    return (first.weak and op.commutative) or (not second.shape and second.dtype not in HALVES)


def _device(types: Types) -> str:
    devices = {t.device for t in types if t.shape and not t.weak} or {t.device for t in types if not t.weak} or {"cpu"}
    return max(devices)  # operands on several are refused before, but for a number on the CPU


def elementwise_rule(name: str, compute: str, to_bool: bool, refuse: tuple[int, ...],
                     check: Callable[[Types], None] | None = None) -> Callable[..., TensorType]:
    """The type rule of an elementwise op: broadcast shapes, promoted dtype; NotImplementedError for a category in `refuse`.

    `check` may raise an error of its own first.
    """
    def type_rule(types: Types) -> TensorType:
        if check is not None:
            check(types)
        shape = types[0].shape if len(types) == 1 else broadcast_shapes(name, *[t.shape for t in types])
        dtype = result_dtype(types)
        if dtype.category in refuse:
            raise not_implemented(name, dtype, types)
        if to_bool:
            dtype = dtypes.bool_
        elif compute == "float" and dtype.category < FLOAT:
            dtype = dtypes.default_float()
        return tensor_type(shape, dtype, _device(types))
    return type_rule


def elementwise(name: str, operands: str, reference: Callable[..., Any], vjp: Any = None, compute: str = "promote",
                 to_bool: bool = False, refuse: tuple[int, ...] = (), check: Callable[[Types], None] | None = None, **facts: Any) -> Op:
    facts.setdefault("differentiable", vjp is not None)
    facts.setdefault("scalar", name)
    facts.setdefault("field", Field.ANALYTIC if name in _ANALYTIC else Field.REAL)
    return declare(name, Kind.ELEMENTWISE, operands, type_rule=elementwise_rule(name, compute, to_bool, refuse, check),
                   reference=reference, vjp=vjp, compute=compute, **facts)


def _unary(name: str, reference: Callable[..., Any], vjp: Any = None, **facts: Any) -> Op:
    return elementwise(name, "x", reference, None if vjp is None else (vjp,), **facts)


def _floating(name: str, reference: Callable[..., Any], vjp: Any = None, **facts: Any) -> Op:
    return _unary(name, reference, vjp, compute="float", **facts)


# Names of functions of this module that take complex numbers too, and are differentiable as functions of them.
_ANALYTIC = frozenset("""add sub mul div pow neg copy exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal sin cos tan asin acos atan
sinh cosh tanh asinh acosh atanh sigmoid logical_not isnan isinf isfinite eq ne logical_and logical_or logical_xor""".split())


# -- arithmetic ------------------------------------------------------------------------------------------------------
def _np_sub(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.subtract(x, y)


_INSTEAD = "If you are trying to invert a mask, use the `~` or `logical_not()` operator instead."


def _no_bool_difference(types: Types) -> None:
    """RuntimeError, as PyTorch's, when an operand is bool."""
    bools = [t.dtype.category == BOOL for t in types]
    if all(bools):
        raise RuntimeError("Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or `logical_xor()` operator "
                           "instead.")
    if any(bools):
        raise RuntimeError(f"Subtraction, the `-` operator, with a bool tensor is not supported. {_INSTEAD}")


def _no_bool_negation(types: Types) -> None:
    if types[0].dtype.category == BOOL:
        raise RuntimeError(f"Negation, the `-` operator, on a bool tensor is not supported. {_INSTEAD}")


def _np_pow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "iu" and y.dtype.kind == "i" and np.any(np.asarray(y) < 0):
        # PyTorch: an integer to a negative power truncates 1 / x**n, which is 0 unless |x| is 1.
        odd = np.asarray(y) % 2 != 0
        tiny = np.where(x == 1, 1, np.where(x == -1, np.where(odd, -1, 1), 0)).astype(x.dtype)
        return np.where(np.asarray(y) < 0, tiny, np.power(x, np.maximum(y, 0)))
    return np.power(x, y)


elementwise("add", "x y", lambda x, y: np.logical_or(x, y) if x.dtype == bool else np.add(x, y),
             (lambda b, g: g, lambda b, g: g), commutative=True, onnx="Add", doc="x + y, broadcast; the logical or of bools.")
elementwise("sub", "x y", _np_sub, (lambda b, g: g, lambda b, g: b.neg(g)), check=_no_bool_difference, onnx="Sub",
            doc="x - y, broadcast. RuntimeError for bools.")
elementwise("mul", "x y", np.multiply, (lambda b, g, y: b.mul(g, y), lambda b, g, x: b.mul(g, x)), commutative=True,
            exact_number=True, onnx="Mul", doc="x * y, broadcast; the logical and of bools.")
elementwise("div", "x y", np.true_divide,
             (lambda b, g, y: b.div(g, y), lambda b, g, y, out: b.neg(b.mul(g, b.div(out, y)))), compute="float", exact_number=True,
            onnx="Div", rewritable="out",
            doc="x / y, broadcast. Integers give the default float dtype; a division by 0 gives an infinity or NaN.")
for _name, _fn, _rounding in (("floor_divide", special.floor_divide, "down"), ("trunc_divide", special.trunc_divide, "towards 0")):
    elementwise(_name, "x y", _fn, (lambda b, g: zeros(b, g.type), lambda b, g: zeros(b, g.type)), refuse=(BOOL,), exact_number=True,
                doc=f"x / y rounded {_rounding}; integers stay integers. RuntimeError for an integer divided by 0. Its gradient is 0.")
elementwise("remainder", "x y", special.remainder,
             (lambda b, g: g, lambda b, g, x, y: b.neg(b.mul(g, b.floor_divide(x, y)))), refuse=(BOOL,),
            doc="x - y * floor(x / y): the remainder with the sign of y, as Python's %.")
elementwise("fmod", "x y", special.fmod,
             (lambda b, g: g, lambda b, g, x, y: b.neg(b.mul(g, b.trunc_divide(x, y)))), refuse=(BOOL,),
            tensors="x", doc="x - y * trunc(x / y): the remainder with the sign of x, as C's fmod.")


def _pow_dx(b: Any, g: Any, x: Any, y: Any) -> Any:
    # The exponent may be a Python number: give it the gradient's dtype before arithmetic, so that it keeps its digits.
    e = b.cast(y, g.type.dtype)
    return b.mul(g, b.where(b.eq(e, 0), 0.0, b.mul(e, b.pow(x, b.sub(e, 1)))))


def _pow_dy(b: Any, g: Any, x: Any, y: Any, out: Any) -> Any:
    nothing = b.logical_and(b.eq(x, 0), b.ge(y if isinstance(y, bool | int | float) else real_part(b, y), 0))
    return b.mul(g, b.where(nothing, 0.0, b.mul(out, b.log(b.cast(x, g.type.dtype)))))


elementwise("pow", "x y", _np_pow, (_pow_dx, _pow_dy), refuse=(BOOL,), domain=(0.2, 2.0), onnx="Pow",
            doc="x ** y. An integer to a negative power is truncated: 0 unless |x| is 1. The gradient in x is 0 where y is 0.")

elementwise("maximum", "x y", np.maximum, (
    lambda b, g, x, y: b.where(b.lt(x, y), 0.0, b.where(b.eq(x, y), b.mul(g, 0.5), g)),
    lambda b, g, x, y: b.where(b.gt(x, y), 0.0, b.where(b.eq(x, y), b.mul(g, 0.5), g))), onnx="Max",
            tensors="x y", doc="The larger of x and y; NaN where either is NaN. Equal operands share the gradient.")
elementwise("minimum", "x y", np.minimum, (
    lambda b, g, x, y: b.where(b.gt(x, y), 0.0, b.where(b.eq(x, y), b.mul(g, 0.5), g)),
    lambda b, g, x, y: b.where(b.lt(x, y), 0.0, b.where(b.eq(x, y), b.mul(g, 0.5), g))), onnx="Min",
            tensors="x y", doc="The smaller of x and y; NaN where either is NaN. Equal operands share the gradient.")
elementwise("atan2", "x y", np.arctan2, (
    lambda b, g, x, y: b.mul(g, b.div(y, b.add(b.mul(x, x), b.mul(y, y)))),
    lambda b, g, x, y: b.neg(b.mul(g, b.div(x, b.add(b.mul(x, x), b.mul(y, y)))))), compute="float",
            tensors="x y", doc="arctan(x / y), in (-pi, pi] by the quadrant that the signs of x and y say.")

_unary("neg", np.negative, lambda b, g: b.neg(g), check=_no_bool_negation, onnx="Neg",
       doc="-x; unsigned integers wrap. RuntimeError for bools.")
_unary("copy", lambda x: x.copy(), lambda b, g: g, onnx="Identity", doc="A new value equal to x.")
def _abs_type(types: Types) -> TensorType:
    found = elementwise_rule("abs", "promote", False, ())(types)
    return found.with_(dtype=dtypes.to_real(found.dtype))


declare("abs", Kind.ELEMENTWISE, "x", type_rule=_abs_type, compute="promote", scalar="abs",
        reference=lambda x: x if x.dtype == bool else np.abs(x), field=Field.COMPLEX,
        vjp=(lambda b, g, x: b.mul(g, b.sgn(x) if x.type.dtype.is_complex else b.sign(x)),), onnx="Abs",
        doc="|x|, the magnitude of complex numbers. The gradient at 0 is 0.")
_unary("sign", lambda x: x if x.dtype == bool else np.where(x != x, 0, np.sign(x)).astype(x.dtype), lambda b, g: zeros(b, g.type),
       onnx="Sign", doc="-1, 0 or 1; 0 for NaN. Its gradient is 0.")
for _name, _fn, _onnx, _which in (("floor", np.floor, "Floor", "largest integer not above x"),
                                  ("ceil", np.ceil, "Ceil", "smallest integer not below x"),
                                  ("trunc", np.trunc, "", "integer next to x towards 0"),
                                  ("round", np.rint, "Round", "integer nearest to x, the even one of two")):
    _unary(_name, lambda x, _fn=_fn: x if x.dtype.kind in "iub" else _fn(x), lambda b, g: zeros(b, g.type), refuse=(BOOL,), onnx=_onnx,
           doc=f"The {_which}, in x's dtype. Its gradient is 0.")
_unary("relu", lambda x: np.maximum(x, np.zeros((), x.dtype)), lambda b, g, out: b.where(b.gt(out, 0), g, 0.0), refuse=(BOOL,), onnx="Relu",
       doc="max(x, 0); NaN stays NaN. The gradient at 0 is 0.")

def _acosh_slope(b: Any, x: Any) -> Any:
    if x.type.dtype.is_complex:  # in two parts: the cut of the root of their product is another one
        return b.mul(b.rsqrt(b.sub(x, 1)), b.rsqrt(b.add(x, 1)))
    return b.rsqrt(b.sub(b.mul(x, x), 1))


# -- transcendental --------------------------------------------------------------------------------------------------
_LN2, _LN10 = math.log(2.0), math.log(10.0)
_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)

_floating("exp", np.exp, lambda b, g, out: b.mul(g, out), onnx="Exp", doc="e ** x.")
_floating("exp2", np.exp2, lambda b, g, out: b.mul(g, b.mul(out, _LN2)), doc="2 ** x.")
_floating("expm1", np.expm1, lambda b, g, out: b.mul(g, b.add(out, 1)), doc="exp(x) - 1, exact for small x.")
_floating("log", np.log, lambda b, g, x: b.div(g, x), domain=(0.2, 3.0), onnx="Log", doc="The natural logarithm; -inf at 0, NaN below.")
_floating("log2", np.log2, lambda b, g, x: b.div(g, b.mul(x, _LN2)), domain=(0.2, 3.0),
          doc="The logarithm to base 2; -inf at 0, NaN below.")
_floating("log10", np.log10, lambda b, g, x: b.div(g, b.mul(x, _LN10)), domain=(0.2, 3.0),
          doc="The logarithm to base 10; -inf at 0, NaN below.")
_floating("log1p", np.log1p, lambda b, g, x: b.div(g, b.add(x, 1)), domain=(-0.7, 3.0),
          doc="log(1 + x), exact for small x; -inf at -1, NaN below.")
_floating("sqrt", np.sqrt, lambda b, g, out: b.div(g, b.mul(out, 2)), domain=(0.2, 3.0), onnx="Sqrt",
          doc="The square root; NaN for negative x. The gradient at 0 is infinite.")
_floating("rsqrt", lambda x: (1 / np.sqrt(x)).astype(x.dtype), lambda b, g, out: b.mul(g, b.mul(-0.5, b.mul(out, b.mul(out, out)))),
          domain=(0.2, 3.0), doc="1 / sqrt(x).")
_floating("reciprocal", lambda x: (1 / x).astype(x.dtype), lambda b, g, out: b.neg(b.mul(g, b.mul(out, out))), domain=(0.3, 3.0),
          onnx="Reciprocal", doc="1 / x.")
_floating("sin", np.sin, lambda b, g, x: b.mul(g, b.cos(x)), onnx="Sin", doc="The sine of x in radians.")
_floating("cos", np.cos, lambda b, g, x: b.neg(b.mul(g, b.sin(x))), onnx="Cos", doc="The cosine of x in radians.")
_floating("tan", np.tan, lambda b, g, out: b.mul(g, b.add(b.mul(out, out), 1)), domain=(-1.2, 1.2), onnx="Tan",
          doc="The tangent of x in radians.")
_floating("asin", np.arcsin, lambda b, g, x: b.mul(g, b.rsqrt(b.sub(1, b.mul(x, x)))), domain=(-0.9, 0.9),
          onnx="Asin", doc="The arcsine, in [-pi / 2, pi / 2]; NaN outside [-1, 1].")
_floating("acos", np.arccos, lambda b, g, x: b.neg(b.mul(g, b.rsqrt(b.sub(1, b.mul(x, x))))), domain=(-0.9, 0.9),
          onnx="Acos", doc="The arccosine, in [0, pi]; NaN outside [-1, 1].")
_floating("atan", np.arctan, lambda b, g, x: b.div(g, b.add(b.mul(x, x), 1)), onnx="Atan", doc="The arctangent, in (-pi / 2, pi / 2).")
_floating("sinh", np.sinh, lambda b, g, x: b.mul(g, b.cosh(x)), onnx="Sinh", doc="The hyperbolic sine.")
_floating("cosh", np.cosh, lambda b, g, x: b.mul(g, b.sinh(x)), onnx="Cosh", doc="The hyperbolic cosine.")
_floating("tanh", np.tanh, lambda b, g, out: b.mul(g, b.sub(1, b.mul(out, out))), onnx="Tanh", doc="The hyperbolic tangent.")
_floating("asinh", np.arcsinh, lambda b, g, x: b.mul(g, b.rsqrt(b.add(b.mul(x, x), 1))), onnx="Asinh", doc="The inverse of sinh.")
_floating("acosh", np.arccosh, lambda b, g, x: b.mul(g, _acosh_slope(b, x)), domain=(1.2, 3.0), onnx="Acosh",
          doc="The inverse of cosh; NaN below 1.")
_floating("atanh", np.arctanh, lambda b, g, x: b.div(g, b.sub(1, b.mul(x, x))), domain=(-0.9, 0.9),
          onnx="Atanh", doc="The inverse of tanh; infinite at -1 and 1, NaN outside.")
_floating("erf", special.erf, lambda b, g, x: b.mul(g, b.mul(_TWO_OVER_SQRT_PI, b.exp(b.neg(b.mul(x, x))))), onnx="Erf",
          doc="The error function: 2 / sqrt(pi) times the integral of exp(-t * t) from 0 to x.")
_floating("erfc", special.erfc, lambda b, g, x: b.neg(b.mul(g, b.mul(_TWO_OVER_SQRT_PI, b.exp(b.neg(b.mul(x, x)))))),
          doc="1 - erf(x), exact for large x.")
_floating("erfinv", special.erfinv, lambda b, g, out: b.mul(g, b.mul(1 / _TWO_OVER_SQRT_PI, b.exp(b.mul(out, out)))), domain=(-0.9, 0.9),
          rewritable="out", doc="The inverse of erf; infinite at -1 and 1, NaN outside.")
_floating("lgamma", special.lgamma, lambda b, g, x: b.mul(g, b.digamma(x)), domain=(0.3, 3.0), doc="The logarithm of |Gamma(x)|.")
_floating("digamma", special.digamma, lambda b, g, x: b.mul(g, b.polygamma(x, 1)), domain=(0.3, 3.0), doc="The derivative of lgamma.")
_floating("sigmoid", special.sigmoid, lambda b, g, out: b.mul(g, b.mul(out, b.sub(1, out))), onnx="Sigmoid", doc="1 / (1 + exp(-x)).")

# -- logic and comparison ----------------------------------------------------------------------------------------------
_unary("logical_not", np.logical_not, compute="same", to_bool=True, onnx="Not", doc="Whether x is 0, as bool.")
_unary("isnan", lambda x: np.isnan(x) if x.dtype.kind not in "iub" else np.zeros(x.shape, bool), to_bool=True,
       onnx="IsNaN", doc="Whether x is NaN; all false for integers.")
_unary("isinf", lambda x: np.isinf(x) if x.dtype.kind not in "iub" else np.zeros(x.shape, bool), to_bool=True,
       onnx="IsInf", doc="Whether x is infinite; all false for integers.")
_unary("isfinite", lambda x: np.isfinite(x) if x.dtype.kind not in "iub" else np.ones(x.shape, bool), to_bool=True,
       doc="Whether x is neither infinite nor NaN; all true for integers.")
_COMPARISONS: dict[str, Any] = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
                                "ge": np.greater_equal}
_LOGICAL: dict[str, Any] = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
_BITWISE: dict[str, Any] = {"bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor}
_ONNX = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "bitwise_and": "BitwiseAnd",
         "bitwise_or": "BitwiseOr", "bitwise_xor": "BitwiseXor", "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}
_SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
for _name, _ufunc in _COMPARISONS.items():
    _nan = "true" if _name == "ne" else "false"
    elementwise(_name, "x y", _ufunc, to_bool=True, commutative=_name in ("eq", "ne"), tensors="x", onnx=_ONNX.get(_name, ""),
                doc=f"x {_SIGNS[_name]} y as bool, broadcast, in the dtype both promote to; {_nan} where one is NaN.")
for _name, _ufunc in _LOGICAL.items():
    _word = {"and": "both are", "or": "at least one is", "xor": "exactly one is"}[_name[8:]]
    elementwise(_name, "x y", _ufunc, compute="same", to_bool=True, commutative=True, tensors="x y", onnx=_ONNX[_name],
                doc=f"Whether {_word} other than 0, as bool. The dtypes may differ.")
for _name, _ufunc in _BITWISE.items():
    elementwise(_name, "x y", _ufunc, refuse=(FLOAT,), commutative=True, onnx=_ONNX[_name],
                doc=f"The {_name[8:]} of each bit of integers, or of bools. RuntimeError for floats.")
_unary("bitwise_not", np.invert, refuse=(FLOAT,), onnx="BitwiseNot", doc="Every bit inverted; the logical not of bools.")
elementwise("shift_left", "x y", np.left_shift, refuse=(FLOAT, BOOL),
            doc="x * 2 ** y, for integers: the bits moved up. Bits that leave at the top are lost.")
elementwise("shift_right", "x y", np.right_shift, refuse=(FLOAT, BOOL),
            doc="floor(x / 2 ** y), for integers: the bits moved down, the sign kept.")


# -- selection and casts -----------------------------------------------------------------------------------------------
def _where_type(types: Types) -> TensorType:
    if types[0].dtype is not dtypes.bool_:
        raise RuntimeError(f"where: expected condition to be a boolean tensor, but got a tensor with dtype {types[0].dtype.name}")
    shape = broadcast_shapes("where", *[t.shape for t in types])
    return tensor_type(shape, result_dtype(types[1:]), _device(types))


declare("where", Kind.ELEMENTWISE, "c x y", type_rule=_where_type, field=Field.ANALYTIC,
        reference=np.where, compute="where", scalar="select",
        vjp=(None, lambda b, g, c: b.where(c, g, 0.0), lambda b, g, c: b.where(c, 0.0, g)), onnx="Where",
        doc="x where c holds, y elsewhere, all three broadcast. RuntimeError unless c is bool.")


def _np_cast(x: np.ndarray, dtype: DType) -> np.ndarray:
    if dtype is dtypes.bool_ and x.dtype.kind not in "iub":
        return x != 0
    if x.dtype.kind == "c" and not dtype.is_complex:
        x = x.real
    if dtype is dtypes.uint64 and x.dtype.kind not in "iub":
        high = x >= 2.0**63
        low = np.where(high, np.asarray(x, np.float64) - 2.0**63, x).astype(np.int64)
        return (low ^ np.where(high, np.int64(-1 << 63), 0)).astype(dtype.np)
    if dtype.category < FLOAT and x.dtype.kind not in "iub":
        return np.asarray(x, np.float64).astype(np.int64).astype(dtype.np)  # wraps as C does, whatever the width
    return x.astype(dtype.np)


declare("cast", Kind.ELEMENTWISE, "x", "dtype", type_rule=lambda t, dtype: t[0].with_(dtype=dtype), reference=_np_cast, scalar="cast",
        vjp=(lambda b, g, x_type: b.cast(g, x_type.dtype) if x_type.dtype.category >= FLOAT else None,), onnx="Cast",
        field=Field.ANALYTIC, doc="x in another dtype. Floats lose their fraction on the way to integers; what is not 0 is true.")
