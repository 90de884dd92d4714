"""`torch._check` and its relatives, by which libraries assert. A condition on values is looked at, so what was recorded runs."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle.tensor import Tensor

# The names that `treadle` takes from here, when they are first asked for.
__all__ = [
    "_assert", "_assert_async", "_check", "_check_index", "_check_is_size", "_check_not_implemented", "_check_tensor_all",
    "_check_tensor_all_with", "_check_type", "_check_value", "_check_with",
]
_EXPECTED = "Expected cond to be True, but got False."

Message = Callable[[], Any] | None


def _assert(condition: Any, message: Any) -> None:
    """AssertionError with `message` unless `condition` holds."""
    if not condition:
        raise AssertionError(message)


def _assert_async(input: Tensor, assert_msg: str = _EXPECTED) -> None:
    """RuntimeError with `assert_msg` unless the one element of `input` is true; in PyTorch a GPU would say so later."""
    if not input:
        raise RuntimeError(assert_msg)


def _check_with(error_type: type[Exception], cond: bool, message: Message) -> None:
    """An `error_type` with the text that `message` gives unless `cond`, a bool, holds. TypeError for a tensor."""
    if isinstance(cond, Tensor):
        raise TypeError("cond must be a bool, but got a Tensor. For tensor conditions, use torch._check_tensor_all() "
                        "to assert that all elements are true.")
    if not isinstance(cond, bool):
        raise TypeError(f"cond must be a bool, but got {type(cond)}")
    if message is not None and not callable(message):
        raise TypeError("message must be a callable")
    if not cond:
        raise error_type(_EXPECTED if message is None else str(message()))


def _check(cond: bool, message: Message = None) -> None:
    """RuntimeError unless `cond` holds."""
    _check_with(RuntimeError, cond, message)


def _check_index(cond: bool, message: Message = None) -> None:
    """IndexError unless `cond` holds."""
    _check_with(IndexError, cond, message)


def _check_value(cond: bool, message: Message = None) -> None:
    """ValueError unless `cond` holds."""
    _check_with(ValueError, cond, message)


def _check_type(cond: bool, message: Message = None) -> None:
    """TypeError unless `cond` holds."""
    _check_with(TypeError, cond, message)


def _check_not_implemented(cond: bool, message: Message = None) -> None:
    """NotImplementedError unless `cond` holds."""
    _check_with(NotImplementedError, cond, message)


def _check_is_size(i: int, message: Message = None, *, max: int | None = None) -> None:
    """RuntimeError unless 0 <= i <= max."""
    _check(i >= 0 and (max is None or i <= max), message)


def _check_tensor_all_with(error_type: type[Exception], cond: Tensor, message: Message = None) -> None:
    """An `error_type` unless all elements of `cond`, a bool tensor, are true."""
    if not isinstance(cond, Tensor) or cond.dtype.name != "bool":
        raise TypeError(f"cond must be a bool tensor, but got {cond.dtype if isinstance(cond, Tensor) else type(cond)}")
    _check_with(error_type, bool(cond.all()), message)


def _check_tensor_all(cond: Tensor, message: Message = None) -> None:
    """RuntimeError unless all elements of `cond` are true."""
    _check_tensor_all_with(RuntimeError, cond, message)
