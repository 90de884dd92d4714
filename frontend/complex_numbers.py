"""Complex tensors: their parts, conjugates and directions. `conj`, `real`, `imag` and the `view_as_*` share memory with their operand."""
from __future__ import annotations

import builtins
import importlib
import math
from collections.abc import Callable
from typing import Any

from treadle.arguments import warn
from treadle.functions import ADD, MUL, SUB, TABLE, WHERE, tensor_argument, where
from treadle.ir import dtypes
from treadle.ir import op as op_table
from treadle.ir.dtypes import FLOAT
from treadle.layout import layout_of
from treadle.results import cast, with_out
from treadle.shaping import matrix_transpose, select
from treadle.tensor import Tensor, apply, view

CONJ, AS_REAL, AS_COMPLEX, COMPLEX = (op_table.get(n) for n in ("conj", "view_as_real", "view_as_complex", "complex"))


def _is_complex(x: Tensor) -> bool:
    return x._data.type.dtype.is_complex


# -- facts -----------------------------------------------------------------------------------------------------------------
def is_complex(input: Tensor) -> bool:
    """Whether the dtype is a complex one."""
    return _is_complex(tensor_argument("is_complex", input))


def is_conj(input: Tensor) -> bool:
    """Whether it is a view that shows the conjugates of what its storage holds (`conj`)."""
    return sum([op is CONJ for op, _ in tensor_argument("is_conj", input)._chain]) % 2 == 1


def is_neg(input: Tensor) -> bool:
    """False: no view of Treadle's negates."""
    tensor_argument("is_neg", input)
    return False


def isreal(input: Tensor) -> Tensor:
    """Whether the imaginary part of an element is zero."""
    type = tensor_argument("isreal", input)._data.type
    if type.dtype.is_complex:
        return apply(TABLE["eq"], (apply(TABLE["imag"], (input,)), 0))
    return apply(TABLE["full"], (True,), (type.shape, dtypes.bool_, type.device))


def as_real(number: Any, kind: str) -> Any:
    """A Python number without its imaginary part. RuntimeError, naming the type `kind`, when that is not zero."""
    if not isinstance(number, builtins.complex):
        return number
    if number.imag:
        raise RuntimeError(f"value cannot be converted to type {kind} without overflow")
    return number.real


# -- views -----------------------------------------------------------------------------------------------------------------
def view_as_real(input: Tensor) -> Tensor:
    """The same memory as pairs of real numbers along a new last axis. RuntimeError for real tensors and conjugate views."""
    x = tensor_argument("view_as_real", input)
    if _is_complex(x) and is_conj(x):
        raise RuntimeError("view_as_real doesn't work on unresolved conjugated tensors.  To resolve the conjugate tensor so you can view "
                           "it as real, use self.resolve_conj(); however, be warned that the resulting tensor will NOT alias the original.")
    return view(AS_REAL, x, ())


def view_as_complex(input: Tensor) -> Tensor:
    """The same memory as complex numbers; the last axis, of size 2, holds their parts. RuntimeError where these lie apart."""
    x = tensor_argument("view_as_complex", input)
    type = x._data.type
    if x._chain and type.shape and type.shape[-1] == 2:
        _, strides, offset = layout_of(x)
        if strides[-1] != 1:
            raise RuntimeError("Tensor must have a last dimension with stride 1")
        if any(s % 2 for s in strides[:-1]):
            raise RuntimeError("Tensor must have a stride divisible by 2 for all but last dimension")
        if offset % 2:
            raise RuntimeError("Tensor must have a storage_offset divisible by 2")
    return view(AS_COMPLEX, x, ())


def real(input: Tensor) -> Tensor:
    """The real part, a view; a real tensor itself."""
    return select(view(AS_REAL, input, ()), -1, 0) if _is_complex(tensor_argument("real", input)) else input


def imag(input: Tensor) -> Tensor:
    """The imaginary part, a view. RuntimeError for real tensors."""
    if not _is_complex(tensor_argument("imag", input)):
        raise RuntimeError("imag is not implemented for tensors with non-complex dtypes.")
    return select(view(AS_REAL, input, ()), -1, 1)


def conj(input: Tensor) -> Tensor:
    """The complex conjugate, a view (see `is_conj`); a real tensor itself."""
    return view(CONJ, input, ()) if _is_complex(tensor_argument("conj", input)) else input


def adjoint(input: Tensor) -> Tensor:
    """`Tensor.mH`: the last two axes swapped, conjugated; a number conjugated, with a warning. RuntimeError for a vector."""
    ndim = tensor_argument("adjoint", input)._data.type.ndim
    if not ndim:
        warn("adjoint() is deprecated on 0-D tensors. Consider using x.conj().")
        return conj(input)
    if ndim < 2:
        raise RuntimeError(f"tensor.mH is only supported on matrices or batches of matrices. Got {ndim}-D tensor.")
    return conj(matrix_transpose(input))


def hermitian(input: Tensor) -> Tensor:
    """`Tensor.H`: the adjoint of a matrix. RuntimeError unless it has two axes (or none)."""
    ndim = input._data.type.ndim
    if ndim not in (0, 2):
        raise RuntimeError(f"tensor.H is only supported on matrices (2-D tensors). Got {ndim}-D tensor."
                           + (" For batches of matrices, consider using tensor.mH" if ndim > 2 else ""))
    if not ndim:
        warn("Tensor.H is deprecated on 0-D tensors. Consider using x.conj().")
    return conj(matrix_transpose(input) if ndim else input)


# -- new values --------------------------------------------------------------------------------------------------------------
def resolve_conj(input: Tensor) -> Tensor:
    """A copy if `input` is a conjugate view, else itself."""
    return apply(TABLE["copy"], (input,)) if is_conj(input) else input


def resolve_neg(input: Tensor) -> Tensor:
    """The tensor itself: see `is_neg`."""
    return tensor_argument("resolve_neg", input)


@with_out
def conj_physical(input: Tensor) -> Tensor:
    """The complex conjugate in memory of its own; a real tensor itself."""
    return apply(CONJ, (input,)) if _is_complex(tensor_argument("conj_physical", input)) else input


@with_out
def angle(input: Tensor) -> Tensor:
    """The argument in (-pi, pi]; of real numbers pi where negative, NaN for NaN, else 0."""
    x = tensor_argument("angle", input)
    if _is_complex(x):
        return apply(TABLE["angle"], (x,))
    x = x if x._data.type.dtype.category == FLOAT else cast(x, dtypes.default_float())
    negative = where(apply(TABLE["lt"], (x, 0)), apply(TABLE["full"], (math.pi,), (x.shape, x.dtype, x._data.type.device)), 0.0)
    return where(apply(TABLE["isnan"], (x,)), x, negative)


@with_out
def sgn(input: Tensor) -> Tensor:
    """x / |x|, and 0 where x is 0."""
    return apply(TABLE["sgn" if _is_complex(tensor_argument("sgn", input)) else "sign"], (input,))


@with_out
def complex(real: Tensor, imag: Tensor) -> Tensor:
    """Complex numbers with these parts, float32 or float64. RuntimeError for other dtypes, or two different ones."""
    parts = tensor_argument("complex", real, "real"), tensor_argument("complex", imag, "imag", 2)
    return apply(COMPLEX, parts)


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """`treadle.logaddexp` of complex numbers: the one of larger real part comes first, and its branch is kept."""
    re, im = apply(TABLE["real"], (x,)), apply(TABLE["real"], (y,))
    less = apply(TABLE["lt"], (re, im))
    high, low = apply(WHERE, (less, y, x)), apply(WHERE, (less, x, y))
    nothing = apply(TABLE["eq"], (apply(TABLE["minimum"], (re, im)), -math.inf))
    step = apply(WHERE, (nothing, 0.0, apply(SUB, (low, high))))
    return apply(WHERE, (nothing, high, apply(ADD, (high, apply(TABLE["log1p"], (apply(TABLE["exp"], (step,)),))))))


@with_out
def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """abs * exp(i * angle). RuntimeError for dtypes that `complex` refuses."""
    size, turn = tensor_argument("polar", abs, "abs"), tensor_argument("polar", angle, "angle", 2)
    if turn._data.type.dtype.category != FLOAT or size._data.type.dtype is not turn._data.type.dtype:
        return apply(COMPLEX, (size, turn))  # raises
    parts = [apply(MUL, (size, apply(TABLE[name], (turn,)))) for name in ("cos", "sin")]
    return apply(COMPLEX, tuple(parts))


def _set_part(which: Any) -> Any:
    def put(self: Tensor, value: Any) -> None:
        which(self).copy_(value)
    return put


def _lazily(module: str, name: str) -> Callable[..., Any]:
    """A method whose module is imported when it is first called."""
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(f"treadle.{module}"), name)(self, *args, **kwargs)
    method.__name__, method.__doc__ = name, f"`treadle.{name}` of this tensor."
    return method


SPECTRA = {name: _lazily("spectra", name) for name in ("stft", "istft")}
PROPERTIES = {
    "real": property(real, _set_part(real)), "imag": property(imag, _set_part(imag)), "mH": property(adjoint), "H": property(hermitian),
}

__all__ = ["adjoint", "angle", "complex", "conj", "conj_physical", "imag", "is_complex", "is_conj", "is_neg", "isreal", "polar", "real",
           "resolve_conj", "resolve_neg", "sgn", "view_as_complex", "view_as_real"]
