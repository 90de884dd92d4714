"""Elementwise functions: generated from the op table, then PyTorch's names and keyword arguments around them."""
from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

import treadle.ir.ops  # noqa: F401  (declares the op table)
from treadle.arguments import direct, misfit, of_tensors
from treadle.emitter import fast_path
from treadle.ir import dtypes
from treadle.ir import op as op_table
from treadle.ir.dtypes import FLOAT, INT, DType
from treadle.ir.op import Kind, Op
from treadle.ir.ops.common import need_real, refuse_overflow
from treadle.modes import listed
from treadle.results import COPY, cast, into, together, with_out, with_scaled
from treadle.runtime.symbols import SymFloat, SymInt
from treadle.tape import NoDerivative
from treadle.tensor import Tensor, apply, assign

if TYPE_CHECKING:  # most functions are generated
    def __getattr__(name: str) -> Any: ...

TABLE = op_table.TABLE
ADD, SUB, MUL, DIV, POW = (op_table.get(n) for n in ("add", "sub", "mul", "div", "pow"))
WHERE, FULL = op_table.get("where"), op_table.get("full")

# Classes that `apply` takes as they are.
PLAIN = frozenset({Tensor, float, int, bool, complex, SymFloat, SymInt})


# -- operands ------------------------------------------------------------------------------------------------------------
def operand(x: Any) -> Any:
    """`x` as an operand: a Tensor or an exact Python number. NotImplemented when it is neither."""
    if x.__class__ in PLAIN or isinstance(x, Tensor):
        return x
    if isinstance(x, np.generic):
        return operand(x.item())
    if isinstance(x, float):
        return float(x)
    if isinstance(x, int):
        return int(x)
    if isinstance(x, complex):
        return complex(x)
    if isinstance(x, np.ndarray):
        from treadle.creation import as_tensor
        return as_tensor(x)
    return NotImplemented


def checked(name: str, x: Any, argument: str = "other", position: int = 2) -> Any:
    """`operand(x)`, or TypeError naming the argument."""
    found = operand(x)
    if found is NotImplemented:
        raise misfit(name, argument, position, "Tensor", x)
    return found


def tensor_argument(name: str, x: Any, argument: str = "input", position: int = 1) -> Tensor:
    """`x` itself when it is a Tensor, else TypeError naming the argument."""
    if not isinstance(x, Tensor):
        raise misfit(name, argument, position, "Tensor", x)
    return x


def as_dtype(dtype: Any) -> DType:
    """A DType from a DType or one of Python's `float`, `int`, `bool`, `complex`; TypeError for anything else."""
    if isinstance(dtype, DType):
        return dtype
    found = {float: dtypes.float64, int: dtypes.int64, bool: dtypes.bool_, complex: dtypes.default_complex()}.get(dtype)
    if found is None:
        raise TypeError(f"expected a treadle dtype, got {dtype!r}")
    return found


def floating(x: Tensor) -> Tensor:
    """`x` in the default floating dtype unless its own is floating."""
    return x if x._data.type.dtype.category >= FLOAT else cast(x, dtypes.default_float())


def full_like(x: Tensor, value: float | int | bool, dtype: DType | None = None) -> Tensor:
    """A tensor of `x`'s shape, dtype (unless given) and device filled with `value`; off the tape."""
    type = x._data.type
    return apply(FULL, (value,), (type.shape, dtype or type.dtype, type.device))


# -- functions made from the table -----------------------------------------------------------------------------------------
def _unary(op: Op, name: str) -> Callable[..., Tensor]:
    def function(input: Tensor, out: Tensor | None) -> Tensor:
        return into(out, apply(op, (tensor_argument(name, input),)), name, (input,))
    fast = fast_path(op, function)
    assert fast is not None
    return fast


def _binary(op: Op, name: str) -> Callable[..., Tensor]:
    def function(input: Any, other: Any, out: Tensor | None) -> Tensor:
        other = checked(name, other)
        if not isinstance(input, Tensor):
            input = checked(name, input, "input", 1)
            if not isinstance(other, Tensor):
                tensor_argument(name, input)
        return into(out, apply(op, (input, other)), name, (input, other))
    fast = fast_path(op, function)
    assert fast is not None
    return of_tensors(name, fast, op.tensors == "x y") if op.tensors else fast


def publish(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    """Give a generated function its name and docstring and put it into this module."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__module__ = "treadle"
    globals()[name] = function
    if name not in __all__:
        __all__.append(name)
    return function


__all__ = [
    "add", "addcdiv", "addcmul", "allclose", "celu", "clamp", "clamp_max", "clamp_min", "copysign", "deg2rad", "div",
    "equal", "float_power", "floor_divide", "fmax", "fmin", "frac", "heaviside", "hypot", "is_floating_point", "is_nonzero",
    "is_same_size", "is_signed", "isclose", "isneginf", "isposinf", "ldexp", "lerp", "logaddexp", "logaddexp2", "logit",
    "nan_to_num", "positive", "pow", "prelu", "rad2deg", "round", "rsub", "selu", "signbit", "sinc", "square", "sub", "threshold",
    "where", "xlogy",
]
TABLE_NAMES = {"shift_left": "bitwise_left_shift", "shift_right": "bitwise_right_shift"}
# Written below, or of another module.
_WRITTEN_BELOW = frozenset(__all__) | {"cast", "copy", "trunc_divide", "angle", "complex", "conj", "imag", "real", "sgn"}


def _from_table() -> None:
    for op in list(TABLE.values()):
        name = TABLE_NAMES.get(op.name, op.name)
        if op.kind is not Kind.ELEMENTWISE or op.attrs or name in _WRITTEN_BELOW:
            continue
        doc = op.doc or f"Elementwise `{name}`" + ("." if len(op.operands) == 1 else " with broadcasting and type promotion.")
        if len(op.operands) == 1:
            publish(_unary(op, name), name, doc)
        elif len(op.operands) == 2:
            publish(_binary(op, name), name, doc)


_from_table()


# -- arithmetic ------------------------------------------------------------------------------------------------------------
@direct
def add(input: Any, other: Any, *, alpha: float | int = 1, out: Tensor | None = None) -> Tensor:
    """input + alpha * other."""
    return into(out, with_scaled(ADD, checked("add", input, "input", 1), checked("add", other), alpha), "add", (input, other))


@direct
def sub(input: Any, other: Any, *, alpha: float | int = 1, out: Tensor | None = None) -> Tensor:
    """input - alpha * other."""
    return into(out, with_scaled(SUB, checked("sub", input, "input", 1), checked("sub", other), alpha), "sub", (input, other))


def rsub(input: Tensor, other: Any, *, alpha: float | int = 1) -> Tensor:
    """other - alpha * input."""
    return with_scaled(SUB, checked("rsub", other), tensor_argument("rsub", input), alpha)


@direct
def div(input: Any, other: Any, *, rounding_mode: str | None = None, out: Tensor | None = None) -> Tensor:
    """input / other; `rounding_mode` "floor" or "trunc" rounds and keeps integers integers."""
    if rounding_mode is None:
        op = DIV
    elif rounding_mode in ("floor", "trunc"):
        op = TABLE["floor_divide" if rounding_mode == "floor" else "trunc_divide"]
    elif not isinstance(rounding_mode, str):
        raise misfit("div", "rounding_mode", 3, "str", rounding_mode)
    else:
        raise RuntimeError(f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'")
    return into(out, apply(op, (checked("div", input, "input", 1), checked("div", other))), "div", (input, other))


def floor_divide(input: Any, other: Any, *, out: Tensor | None = None) -> Tensor:
    """floor(input / other). It has no derivative, as in PyTorch; `div(..., rounding_mode="floor")` has a zero one."""
    return into(out, without_derivative(TABLE["floor_divide"], checked("floor_divide", input, "input", 1), checked("floor_divide", other)),
                "floor_divide")


def without_derivative(op: Op, *operands: Any) -> Tensor:
    """`op`, through which a backward pass raises."""
    result: Tensor = apply(op, operands)
    if result._edge is not None:
        result._edge = (NoDerivative(op.name), 0)
    return result


@direct
def pow(input: Any, exponent: Any, *, out: Tensor | None = None) -> Tensor:
    """input ** exponent. Common number exponents become products and roots.

    RuntimeError for an integer tensor to a negative integer number, as in PyTorch.
    """
    if not isinstance(exponent, Tensor):
        tensor_argument("pow", input)
    return into(out, power(checked("pow", input, "input", 1), checked("pow", exponent, "exponent")), "pow", (input, exponent))


def power(x: Any, exponent: Any) -> Tensor:
    """x ** exponent of checked operands."""
    if isinstance(exponent, Tensor) or not isinstance(x, Tensor):
        return apply(POW, (x, exponent))
    category = x._data.type.dtype.category
    if category >= FLOAT and exponent.__class__ is not complex:
        if exponent == 3:
            return apply(MUL, (apply(MUL, (x, x)), x))
        short = _SHORT_POWERS.get(exponent)
        if short is not None:
            return apply(TABLE[short], (x,))
    elif exponent.__class__ is int:
        if exponent < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        if exponent == 2 and category == INT:
            return apply(TABLE["square"], (x,))
        if category < INT:
            x = cast(x, dtypes.int64)
    return apply(POW, (x, exponent))


_SHORT_POWERS = {1: "copy", 2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


@with_out
def float_power(input: Any, exponent: Any) -> Tensor:
    """input ** exponent in float64, or in complex128 when one of them is complex."""
    exponent = checked("float_power", exponent, "exponent")
    input = (checked if isinstance(exponent, Tensor) else tensor_argument)("float_power", input, "input", 1)
    complex_ones = any(x._data.type.dtype.is_complex if isinstance(x, Tensor) else isinstance(x, complex) for x in (input, exponent))
    dtype, number = (dtypes.complex128, complex) if complex_ones else (dtypes.float64, float)
    return power(*[cast(x, dtype) if isinstance(x, Tensor) else number(x) for x in (input, exponent)])


def square(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """input * input."""
    if tensor_argument("square", input)._data.type.dtype.category < INT:
        input = cast(input, dtypes.int64)
    return into(out, apply(TABLE["square"], (input,)), "square", (input,))


def round(input: Tensor, *, decimals: int = 0, out: Tensor | None = None) -> Tensor:
    """The nearest integer, ties to even; or the nearest multiple of 10**-decimals."""
    tensor_argument("round", input)
    if decimals and input._data.type.dtype.category == FLOAT:
        scale = 10.0 ** builtins.abs(decimals)
        first, last = (MUL, DIV) if decimals > 0 else (DIV, MUL)
        return into(out, apply(last, (apply(TABLE["round"], (apply(first, (input, scale)),)), scale)), "round")
    return into(out, apply(TABLE["round"], (input,)), "round", (input,))


def addcmul(input: Tensor, tensor1: Any, tensor2: Any, *, value: float | int = 1, out: Tensor | None = None) -> Tensor:
    """input + value * tensor1 * tensor2."""
    tensor_argument("addcmul", input)
    factors = tensor_argument("addcmul", tensor1, "tensor1", 2), tensor_argument("addcmul", tensor2, "tensor2", 3)
    return into(out, apply(TABLE["addcmul"], (input, *factors, value)), "addcmul", (input, *factors))


def addcdiv(input: Tensor, tensor1: Any, tensor2: Any, *, value: float | int = 1, out: Tensor | None = None) -> Tensor:
    """input + value * tensor1 / tensor2. RuntimeError for integer quotients, as in PyTorch."""
    if all_integers(tensor1, tensor2):
        raise RuntimeError("Integer division with addcdiv is no longer supported: convert tensor1 or tensor2 to a floating dtype first.")
    factors = tensor_argument("addcdiv", tensor1, "tensor1", 2), tensor_argument("addcdiv", tensor2, "tensor2", 3)
    operands = (tensor_argument("addcdiv", input), *factors, value)
    return into(out, apply(TABLE["addcdiv"], operands), "addcdiv", operands)


def all_integers(*tensors: Any) -> bool:
    for t in tensors:
        if (t._data.type.dtype.category if isinstance(t, Tensor) else FLOAT) >= FLOAT:
            return False
    return True


def lerp(input: Tensor, end: Tensor, weight: Any, *, out: Tensor | None = None) -> Tensor:
    """input + weight * (end - input)."""
    tensor_argument("lerp", end, "end", 2)
    return into(out, apply(TABLE["lerp"], (input, end, checked("lerp", weight, "weight", 3))), "lerp", (input, end))


# -- bounds ----------------------------------------------------------------------------------------------------------------
@direct
def clamp(input: Tensor, min: Any = None, max: Any = None, *, out: Tensor | None = None) -> Tensor:
    """Elements moved into [min, max]; numbers or tensors, at least one of them."""
    tensor_argument("clamp", input)
    if min is None and max is None:
        raise RuntimeError("clamp: At least one of 'min' or 'max' must not be None")
    if max is None:
        result = apply(TABLE["clamp_min"], (input, checked("clamp", min, "min")))
    elif min is None:
        result = apply(TABLE["clamp_max"], (input, checked("clamp", max, "max", 3)))
    else:
        result = apply(TABLE["clamp"], (input, checked("clamp", min, "min"), checked("clamp", max, "max", 3)))
    return into(out, result, "clamp", (input,))


def clamp_min(input: Tensor, min: Any, *, out: Tensor | None = None) -> Tensor:
    """Elements not below `min`."""
    if min is None:
        raise misfit("clamp_min", "min", 2, "Number or Tensor", min)
    return clamp(input, min, out=out)


def clamp_max(input: Tensor, max: Any, *, out: Tensor | None = None) -> Tensor:
    """Elements not above `max`."""
    if max is None:
        raise misfit("clamp_max", "max", 2, "Number or Tensor", max)
    return clamp(input, None, max, out=out)


@with_out
def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger element; a NaN gives way to the other. Of equal ones the first has the gradient."""
    tensor_argument("fmax", input)
    tensor_argument("fmax", other, "other", 2)
    first = apply(TABLE["logical_or"], (apply(TABLE["ge"], (input, other)), apply(TABLE["isnan"], (other,))))
    return where(first, input, other)


@with_out
def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller element; a NaN gives way to the other. Of equal ones the first has the gradient."""
    tensor_argument("fmin", input)
    tensor_argument("fmin", other, "other", 2)
    first = apply(TABLE["logical_or"], (apply(TABLE["le"], (input, other)), apply(TABLE["isnan"], (other,))))
    return where(first, input, other)


def nan_to_num(input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None, *,
               out: Tensor | None = None) -> Tensor:
    """NaN and infinities replaced by finite numbers (the dtype's extremes unless given)."""
    dtype = tensor_argument("nan_to_num", input)._data.type.dtype
    if dtype.is_complex:
        parts = [nan_to_num(apply(TABLE[part], (input,)), nan, posinf, neginf) for part in ("real", "imag")]
        return into(out, apply(TABLE["complex"], tuple(parts)), "nan_to_num")
    if dtype.category != FLOAT:
        return into(out, apply(COPY, (input,)), "nan_to_num")
    high = float(ml_dtypes.finfo(dtype.np).max)
    limits = (nan, high if posinf is None else posinf, -high if neginf is None else neginf)
    return into(out, apply(TABLE["nan_to_num"], (input, *limits)), "nan_to_num", (input,))


# -- further functions, composed --------------------------------------------------------------------------------------------
@direct
def where(condition: Tensor, input: Any = None, other: Any = None, *, out: Tensor | None = None) -> Any:
    """`input` where `condition` holds and `other` elsewhere; with the condition alone, the indices of its true elements."""
    if input is None and other is None:
        from treadle.gathering import nonzero
        return nonzero(condition, as_tuple=True)
    c = tensor_argument("where", condition, "condition", 1)
    if c._data.type.dtype is dtypes.uint8:
        c = cast(c, dtypes.bool_)
    result = apply(WHERE, (c, checked("where", input, "input", 2), checked("where", other, "other", 3)))
    return into(out, result, "where")


def where_method(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """`self` where `condition` holds and `other` elsewhere."""
    return where(condition, self, other)


@with_out
def frac(input: Tensor) -> Tensor:
    """input - trunc(input)."""
    return apply(SUB, (input, apply(TABLE["trunc"], (input,))))


def positive(input: Tensor) -> Tensor:
    """`input` itself. RuntimeError for bools, as in PyTorch."""
    if tensor_argument("positive", input)._data.type.dtype is dtypes.bool_:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


@with_out
def signbit(input: Tensor) -> Tensor:
    """Whether the sign bit is set; also for -0.0."""
    if input._data.type.dtype.category != FLOAT:
        return apply(TABLE["lt"], (input, 0))
    negative_zero = apply(TABLE["lt"], (apply(TABLE["reciprocal"], (input,)), 0.0))
    return apply(TABLE["logical_or"], (apply(TABLE["lt"], (input, 0.0)), negative_zero))


@with_out
def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians."""
    need_real("deg2rad", tensor_argument("deg2rad", input)._data.type)
    return apply(MUL, (input, math.pi / 180))


@with_out
def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees."""
    need_real("rad2deg", tensor_argument("rad2deg", input)._data.type)
    return apply(MUL, (input, 180 / math.pi))


@with_out
def hypot(input: Tensor, other: Tensor) -> Tensor:
    """sqrt(input**2 + other**2), scaled so that squares do not overflow."""
    a, b = abs(input), abs(tensor_argument("hypot", other, "other", 2))
    high, low = apply(TABLE["maximum"], (a, b)), apply(TABLE["minimum"], (a, b))
    ratio = apply(DIV, (low, where(apply(TABLE["eq"], (high, 0)), 1.0, high)))
    return apply(MUL, (high, apply(TABLE["sqrt"], (apply(ADD, (apply(MUL, (ratio, ratio)), 1)),))))


@with_out
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below zero, 1 above, `values` at zero."""
    if isinstance(values, Tensor) and input._data.type.dtype is not values._data.type.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    step = cast(apply(TABLE["gt"], (input, 0)), input._data.type.dtype)
    return where(apply(TABLE["eq"], (input, 0)), tensor_argument("heaviside", values, "values", 2), step)


@with_out
def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """input * 2**other."""
    tensor_argument("ldexp", other, "other", 2)
    x, exponent = together(tensor_argument("ldexp", input), other)
    return apply(MUL, (x, apply(POW, (2.0, exponent))))


@with_out
def sinc(input: Tensor) -> Tensor:
    """sin(pi x) / (pi x), 1 at zero."""
    x = apply(MUL, (input, math.pi))
    zero = apply(TABLE["eq"], (x, 0))
    safe = where(zero, 1.0, x)
    return where(zero, 1.0, apply(DIV, (apply(TABLE["sin"], (safe,)), safe)))


@with_out
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)), x moved into [eps, 1 - eps] when given."""
    x = floating(input)
    x = x if eps is None else clamp(x, eps, 1 - eps)
    return apply(TABLE["log"], (apply(DIV, (x, apply(SUB, (1, x)))),))


@with_out
def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """log(exp(input) + exp(other)) without overflow."""
    x, y = together(tensor_argument("logaddexp", input), tensor_argument("logaddexp", other, "other", 2))
    if x._data.type.dtype.is_complex:
        from treadle.complex_numbers import logaddexp
        return logaddexp(x, y)
    return apply(TABLE["logaddexp"], (x, y))


@with_out
def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """log2(2**input + 2**other) without overflow."""
    ln2 = math.log(2.0)
    x, y = together(tensor_argument("logaddexp2", input), tensor_argument("logaddexp2", other, "other", 2))
    return apply(DIV, (apply(TABLE["logaddexp"], (apply(MUL, (x, ln2)), apply(MUL, (y, ln2)))), ln2))


@with_out
def xlogy(input: Any, other: Any) -> Tensor:
    """input * log(other), 0 where input is 0 and other is not NaN."""
    if not isinstance(other, Tensor):
        tensor_argument("xlogy", input)
    return apply(TABLE["xlogy"], (checked("xlogy", input, "input", 1), checked("xlogy", other)))


@with_out
def copysign(input: Tensor, other: Any) -> Tensor:
    """The magnitude of input with the sign of other."""
    if isinstance(other, Tensor):
        input = together(tensor_argument("copysign", input), other)[0]
    size = apply(TABLE["abs"], (floating(tensor_argument("copysign", input)),))
    if isinstance(other, Tensor):
        return where(signbit(other), apply(TABLE["neg"], (size,)), size)
    return apply(TABLE["neg"], (size,)) if math.copysign(1.0, other) < 0 else apply(COPY, (size,))


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """input where it exceeds the threshold, `value` elsewhere."""
    if input._data.type.dtype.category == INT:
        refuse_overflow(value, input._data.type.dtype)
        value = int(value)
    result = where(apply(TABLE["gt"], (input, threshold)), input, value)
    return assign(input, result, "threshold_") if inplace else result


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Self-normalising exponential unit."""
    result = apply(TABLE["selu"], (input,))
    return assign(input, result, "selu_") if inplace else result


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, alpha * (exp(x / alpha) - 1) elsewhere."""
    result = apply(TABLE["celu"], (input, alpha))
    return assign(input, result, "celu_") if inplace else result


@listed
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where positive, weight * x elsewhere; one weight, or one a channel (axis 1)."""
    ndim = input._data.type.ndim
    if weight._data.type.ndim > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight._data.type.ndim}")
    if weight._data.type.numel > 1 and ndim > 2:
        weight = apply(TABLE["reshape"], (weight,), ((weight._data.type.numel,) + (1,) * (ndim - 2),))
    return where(apply(TABLE["gt"], (input, 0)), input, apply(MUL, (weight, input)))


# -- facts and tests -----------------------------------------------------------------------------------------------------------------
def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a floating one."""
    return tensor_argument("is_floating_point", input)._data.type.dtype.category == FLOAT


def is_signed(input: Tensor) -> bool:
    """Whether the dtype has a sign."""
    return input._data.type.dtype.signed


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape."""
    return input._data.type.shape == other._data.type.shape


def is_nonzero(input: Tensor) -> bool:
    """Whether the only element is not zero."""
    return bool(tensor_argument("is_nonzero", input))


@with_out
def isposinf(input: Tensor) -> Tensor:
    """Whether an element is +inf."""
    need_real("isposinf", tensor_argument("isposinf", input)._data.type)
    return apply(TABLE["eq"], (input, math.inf))


@with_out
def isneginf(input: Tensor) -> Tensor:
    """Whether an element is -inf."""
    need_real("isneginf", tensor_argument("isneginf", input)._data.type)
    return apply(TABLE["eq"], (input, -math.inf))


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """|input - other| <= atol + rtol * |other|; equal infinities are close. RuntimeError when dtypes differ, as in PyTorch."""
    x, y = tensor_argument("isclose", input), tensor_argument("isclose", other, "other", 2)
    if x._data.type.dtype is not y._data.type.dtype:
        raise RuntimeError(f"{x._data.type.dtype.title} did not match {y._data.type.dtype.title}")
    for bound, value in (("rtol", rtol), ("atol", atol)):
        if value < 0:
            raise RuntimeError(f"{bound} must be greater than or equal to zero, but got {value}")
    same = apply(TABLE["eq"], (x, y))
    if equal_nan:
        both = apply(TABLE["logical_and"], (apply(TABLE["isnan"], (x,)), apply(TABLE["isnan"], (y,))))
        same = apply(TABLE["logical_or"], (same, both))
    if x._data.type.dtype.category < FLOAT:
        x, y = cast(x, dtypes.float64), cast(y, dtypes.float64)
    error = apply(TABLE["abs"], (apply(SUB, (x, y)),))
    allowed = apply(ADD, (apply(MUL, (apply(TABLE["abs"], (y,)), rtol)), atol))
    near = apply(TABLE["logical_and"], (apply(TABLE["le"], (error, allowed)), apply(TABLE["isfinite"], (error,))))
    return apply(TABLE["logical_or"], (same, near))


def _everywhere(x: Tensor) -> bool:
    type = x._data.type
    from treadle.creation import to_array
    return bool(to_array(apply(TABLE["all"], (x,), (tuple(range(type.ndim)), False))))


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether all elements are close."""
    return _everywhere(isclose(input, other, rtol, atol, equal_nan))


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return input._data.type.shape == other._data.type.shape and _everywhere(apply(TABLE["eq"], (input, other)))


# -- PyTorch's other names -------------------------------------------------------------------------------------------------
ALIASES = {
    "absolute": "abs", "negative": "neg", "clip": "clamp", "true_divide": "div", "divide": "div", "subtract": "sub",
    "multiply": "mul", "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne", "fix": "trunc",
    "arccos": "acos", "arcsin": "asin", "arctan": "atan", "arctan2": "atan2", "arccosh": "acosh", "arcsinh": "asinh", "arctanh": "atanh",
}
for _alias, _name in ALIASES.items():
    globals()[_alias] = globals()[_name]
    if _alias not in __all__:
        __all__.append(_alias)
