"""`autograd.forward_ad`: forward-mode differentiation by dual tensors, which carry a tangent along with their value."""
from __future__ import annotations

from typing import Any, NamedTuple

from treadle.levels import Forward
from treadle.runtime.recorder import STATE
from treadle.tensor import Tensor, read

__all__ = ["UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual", "unpack_dual"]


class _Dual(Forward):
    """A level entered by hand, apart from those of `jvp`."""

    __slots__ = ()


class UnpackedDualTensor(NamedTuple):
    """The parts of a dual tensor; a tangent of None stands for zero."""

    primal: Tensor
    tangent: Tensor | None


def _entered() -> list[_Dual]:
    return [level for level in STATE.here.levels if isinstance(level, _Dual)]


def _level(level: int | None) -> _Dual | None:
    entered = _entered()
    at = len(entered) - 1 if level is None else level
    return entered[at] if 0 <= at < len(entered) else None


def enter_dual_level() -> int:
    """Begin a level of forward-mode differentiation; returns its number. RuntimeError inside another one, as in PyTorch."""
    if _entered():
        raise RuntimeError("Nested forward mode AD is not supported at the moment")
    _Dual().__enter__()
    return len(_entered()) - 1


def exit_dual_level(*, level: int | None = None) -> None:
    """End the level: dual tensors made in it are left with their primal alone."""
    found = _level(level)
    if found is None:
        raise RuntimeError("Trying to exit a forward AD level that was not entered")
    found.__exit__()
    found.closed = True


class dual_level:
    """The context of forward-mode differentiation."""

    def __enter__(self) -> int:
        self.level = enter_dual_level()
        return self.level

    def __exit__(self, *exc: Any) -> None:
        exit_dual_level(level=self.level)


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """A tensor with the value of `tensor` that carries `tangent`, of the same shape. RuntimeError outside a level."""
    found = _level(level)
    if found is None:
        raise RuntimeError("Trying to create a dual Tensor for forward AD but no level exists, make sure to enter_dual_level() first.")
    for name, x in (("tensor", tensor), ("tangent", tangent)):
        if not (x.is_floating_point() or x.is_complex()):
            raise ValueError(f"Expected {name} to be floating point or complex, but got: {x.dtype}")
    if tangent.shape != tensor.shape or tangent.dtype is not tensor.dtype:
        raise RuntimeError(f"Expected tangent to have the shape and dtype of the tensor ({list(tensor.shape)}, {tensor.dtype}), "
                           f"but got {list(tangent.shape)}, {tangent.dtype}")
    if found.of(tensor) is not None:
        raise RuntimeError("a tensor that already has a forward gradient cannot be made dual again at the same level")
    return found.wrap(tensor, read(tensor).type, tangent)


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """(primal, tangent) of a tensor: (tensor, None) when it carries none."""
    found = _level(level)
    what = None if found is None else found.of(tensor)
    return UnpackedDualTensor(tensor, None) if what is None else UnpackedDualTensor(what.value, what.tangent)
