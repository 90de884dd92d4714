"""`treadle.ops.aten`: functions by the names of PyTorch's innermost ops, `ops.aten.mm(a, b)` or `ops.aten.mm.default(a, b)`."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treadle
from treadle.arguments import guarded
from treadle.tensor import Tensor


@guarded
def _slice(self: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    if step <= 0:
        raise RuntimeError("slice step must be positive")
    if self.dim() == 0:
        raise IndexError("slice() cannot be applied to a 0-dim tensor.")
    if not -self.dim() <= dim < self.dim():
        raise IndexError(f"Dimension out of range (expected to be in range of [{-self.dim()}, {self.dim() - 1}], but got {dim})")
    found: Tensor = self[(slice(None),) * (dim % self.dim()) + (slice(start, end, step),)]
    return found


@guarded
def _slice_copy(self: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    return _slice(self, dim, start, end, step).clone()


@guarded
def _to_copy(self: Tensor, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: bool | None = None,
             non_blocking: bool = False, memory_format: Any = None) -> Tensor:
    return self.to(device=device or self.device, dtype=dtype or self.dtype, copy=True)


@guarded
def _scalar(self: Tensor) -> Any:
    return self.item()


@guarded
def _all_true(self: Tensor) -> Tensor:
    return self.all()


@guarded
def _padded(self: Tensor, pad: list[int], value: float = 0) -> Tensor:
    found: Tensor = treadle.nn.functional.pad(self, tuple(pad), value=value)
    return found


@guarded
def _convolution(input: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int],
                 transposed: bool, output_padding: list[int], groups: int) -> Tensor:
    n, F = weight.dim() - 2, treadle.nn.functional
    more = {"bias": bias, "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    if transposed:
        more["output_padding"] = tuple(output_padding)
    found: Tensor = getattr(F, f"conv{'_transpose' if transposed else ''}{n}d")(input, weight, **more)
    return found


# Ops whose names no public function has, or one of another meaning.
OWN: dict[str, Callable[..., Any]] = {
    "slice": _slice, "slice_copy": _slice_copy, "_to_copy": _to_copy, "_local_scalar_dense": _scalar, "_is_all_true": _all_true,
    "constant_pad_nd": _padded, "convolution": _convolution, "alias": lambda self: self.view_as(self),
    "_unsafe_view": lambda self, size: self.reshape(size), "sym_size": lambda self, dim: self.size(dim),
    "scalar_tensor": lambda s, dtype=None, **options: treadle.tensor(s, dtype=dtype or treadle.get_default_dtype()),
    "_softmax": lambda self, dim, half_to_float=False: treadle.softmax(self, dim),
    "_log_softmax": lambda self, dim, half_to_float=False: treadle.log_softmax(self, dim), "lift_fresh_copy": lambda self: self.clone(),
    "embedding": lambda weight, indices, *rest: treadle.nn.functional.embedding(indices, weight)}


class Packet:
    """An op: called, or as one of its overloads, `op.default`, `op.Tensor`. Which overload it is follows from the arguments."""

    def __init__(self, name: str, function: Callable[..., Any], overload: str = "") -> None:
        self.function, self.overload = function, overload
        self.__name__ = f"{name}.{overload}" if overload else name
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __getattr__(self, overload: str) -> Packet:
        if overload.startswith("_") or self.overload:
            raise AttributeError(f"the op aten.{self.__name__} has no overload {overload!r}")
        made = self.__dict__[overload] = Packet(self.__name__, self.function, overload)
        return made

    def __repr__(self) -> str:
        return f"<Op{'Overload' if self.overload else 'OverloadPacket'}(op='aten.{self.__name__}')>"


class Names:
    """All ops, made when first asked for."""

    def __getattr__(self, name: str) -> Packet:
        found = OWN.get(name) if not name.startswith("__") else None
        for place in (treadle, treadle.nn.functional, treadle.linalg, treadle.fft, treadle.special, Tensor):
            shorter = name.removeprefix(f"{place.__name__.rpartition('.')[2]}_")  # linalg_inv is treadle.linalg.inv
            for known in dict.fromkeys((name, shorter)):
                if found is None and not name.startswith("__") and callable(getattr(place, known, None)):
                    found = getattr(place, known)
        if found is None:
            raise AttributeError(f"'_OpNamespace' 'aten' object has no attribute {name!r}")
        made = self.__dict__[name] = Packet(name, found)
        return made


ATEN = Names()
