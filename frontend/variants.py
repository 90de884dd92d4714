"""Names of PyTorch that are another function's result copied, unchecked or renamed, and windows under their older names."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treadle
from treadle.signal import windows
from treadle.tensor import Tensor

_COPIED = ("as_strided", "diagonal", "expand", "narrow", "permute", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
           "unfold", "unsqueeze", "view")


def _copying(name: str) -> Callable[..., Any]:
    def function(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        found = getattr(input, name)(*args, **kwargs)
        return tuple([x.clone() for x in found]) if isinstance(found, tuple | list) else found.clone()
    function.__name__ = function.__qualname__ = f"{name}_copy"
    function.__doc__ = f"A copy of `input.{name}(...)`, which shares no memory with it."
    return function


copies: dict[str, Callable[..., Any]] = {f"{name}_copy": _copying(name) for name in _COPIED}


def alias_copy(input: Tensor) -> Tensor:
    """A copy of the input."""
    return input.clone()


def unsafe_chunk(input: Tensor, chunks: int, dim: int = 0) -> Any:
    """`chunk`; the pieces are views here too."""
    return input.chunk(chunks, dim)


def unsafe_split(input: Tensor, split_size: Any, dim: int = 0) -> Any:
    """`split`; the pieces are views here too."""
    return input.split(split_size, dim)


def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """The slices along `dim` whose p-norm exceeds `maxnorm` scaled down to it."""
    dims = [d for d in range(input.dim()) if d != dim % input.dim()]
    norms = treadle.linalg.vector_norm(input, p, dims, True)
    return input * treadle.where(norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)


def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first `size` indices of elements that are not zero, filled up with `fill_value`."""
    found = input.nonzero()[:size]
    return treadle.nn.functional.pad(found, (0, 0, 0, size - found.shape[0]), value=fill_value)


def _window(name: str) -> Callable[..., Tensor]:
    def function(window_length: int, periodic: bool = True, *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
                 **kwargs: Any) -> Tensor:
        given = dict(zip({"hamming": ("alpha", "beta"), "kaiser": ("beta",)}.get(name, ()), args, strict=False)) | kwargs
        made, options = name, given
        if name == "hamming" and given:
            made, options = "general_cosine", {"a": [given.get("alpha", 0.54), given.get("beta", 0.46)]}
        made_by = getattr(windows, made)
        result: Tensor = made_by(window_length, sym=not periodic, dtype=dtype, device=device, requires_grad=requires_grad, **options)
        return result
    function.__name__ = function.__qualname__ = f"{name}_window"
    function.__doc__ = f"`signal.windows.{name}`, periodic unless told."
    return function


bartlett_window, blackman_window, hamming_window = _window("bartlett"), _window("blackman"), _window("hamming")
hann_window, kaiser_window = _window("hann"), _window("kaiser")


def _pairwise(name: str, doc: str) -> Callable[..., Tensor]:
    op = getattr(treadle.ops, name)

    def function(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
        result: Tensor = op(*treadle.broadcast_tensors(input, other))
        return result if out is None else out.copy_(result)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


gcd, lcm = _pairwise("gcd", "The greatest common divisor of integers."), _pairwise("lcm", "The least common multiple of integers.")
nextafter = _pairwise("nextafter", "The next representable number after input in the direction of other.")


def frexp(input: Tensor) -> tuple[Tensor, Tensor]:
    """(mantissa, exponent) with input = mantissa * 2^exponent and 0.5 <= |mantissa| < 1."""
    mantissa, exponent = treadle.ops.frexp(input)
    return mantissa, exponent
