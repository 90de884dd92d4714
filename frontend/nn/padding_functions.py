"""Padding; part of `treadle.nn.functional`."""
from __future__ import annotations

from collections.abc import Sequence
from operator import index

from treadle import ops
from treadle.modes import listed
from treadle.tensor import Tensor


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Pad from the last dimension backwards by (left, right) pairs; negative numbers crop.

    Modes: "constant", and for one to three whole dimensions "reflect", "replicate", "circular".
    """
    sizes = [index(n) for n in pad]
    if len(sizes) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(sizes) // 2 > input.dim():
        raise RuntimeError(f"Padding length should be less than or equal to two times the input dimension but got padding length "
                           f"{len(sizes)} and input of dimension {input.dim()}")
    low, high = [0] * input.dim(), [0] * input.dim()
    for i in range(len(sizes) // 2):
        low[-1 - i], high[-1 - i] = sizes[2 * i], sizes[2 * i + 1]
    if mode == "constant":
        return _pad_constant(input, low, high, 0.0 if value is None else value)
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if value is not None and value != 0:
        raise RuntimeError(f"Padding mode '{mode}' doesn't take in value argument")
    if len(sizes) not in (2, 4, 6) or input.dim() not in (len(sizes) // 2 + 1, len(sizes) // 2 + 2):
        raise NotImplementedError(f"Only 2D, 3D, 4D, 5D padding with non-constant padding are supported for now; got an input of shape "
                                  f"{list(input.shape)} and {len(sizes)} widths")
    if not input.size(0) and 0 not in input.shape[1:]:
        _check_empty(input, low, high, mode, input.dim() > len(sizes) // 2 + 1)
        return input.reshape([n + lo + hi for n, lo, hi in zip(input.shape, low, high, strict=True)])  # keeps a place on the tape
    if mode == "replicate":
        return replication_pad(input, tuple(low), tuple(high))
    if mode == "reflect" and len(sizes) < 6:
        return reflection_pad(input, tuple(low), tuple(high))
    return ops.pad_mode(input, tuple(low), tuple(high), mode)


def _check_empty(input: Tensor, low: list[int], high: list[int], mode: str, batched: bool) -> None:
    """RuntimeError where an input without elements is none without examples, or is to wrap around more than once."""
    if mode != "circular" and not batched:
        raise RuntimeError(f"pad: Expected a tensor with possibly 0 batch size and other non-zero dimensions for input, but got: "
                           f"{list(input.shape)}")
    if mode == "circular" and any(max(lo, hi) > n for n, lo, hi in zip(input.shape, low, high, strict=True)):
        raise RuntimeError(f"pad: Padding value causes wrapping around more than once: padding {low}, {high} of input {list(input.shape)}")


@listed
def replication_pad(input: Tensor, low: tuple[int, ...], high: tuple[int, ...]) -> Tensor:
    return ops.pad_mode(input, low, high, "replicate")


@listed
def reflection_pad(input: Tensor, low: tuple[int, ...], high: tuple[int, ...]) -> Tensor:
    """Over one or two axes."""
    return ops.pad_mode(input, low, high, "reflect")


def _pad_constant(input: Tensor, low: list[int], high: list[int], value: float) -> Tensor:
    for dim, (left, right) in enumerate(zip(low, high, strict=True)):
        if input.size(dim) + left + right < 0:
            raise RuntimeError(f"The input size {input.size(dim)}, plus negative padding {left} and {right}, resulted in a "
                               f"negative output size, which is invalid. Check dimension {dim} of your input.")
        begin, end = max(0, -left), max(0, -right)
        if begin or end:
            input = input.narrow(dim, begin, input.size(dim) - begin - end)
    low, high = [max(0, n) for n in low], [max(0, n) for n in high]
    if not any(low) and not any(high):
        return input.clone()
    return ops.pad(input, value, tuple(low), tuple(high))
