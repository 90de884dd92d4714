"""Sequences of different lengths as one padded tensor."""
from __future__ import annotations

from collections.abc import Iterable

import treadle
from treadle.tensor import Tensor


def pad_sequence(sequences: Tensor | Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0,
                 padding_side: str = "right") -> Tensor:
    """Tensors (L_i, ...) -> (max L, N, ...), or (N, max L, ...) if `batch_first`, filled up with `padding_value`."""
    if padding_side not in ("right", "left"):
        raise ValueError(f"padding_side must be 'right' or 'left', got {padding_side}")
    listed = list(sequences.unbind(0)) if isinstance(sequences, Tensor) else list(sequences)
    if not listed:
        raise RuntimeError("received an empty list of sequences")
    longest = max(s.size(0) for s in listed)
    padded = []
    for sequence in listed:
        missing = longest - sequence.size(0)
        fill = treadle.full((missing, *sequence.shape[1:]), padding_value, dtype=sequence.dtype, device=sequence.device)
        padded.append(treadle.cat([sequence, fill] if padding_side == "right" else [fill, sequence]) if missing else sequence)
    return treadle.stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """The sequences that `pad_sequence` joined, each cut to its length."""
    if not batch_first:
        padded_sequences = padded_sequences.transpose(0, 1)
    return [padded_sequences[i, :length] for i, length in enumerate(lengths.tolist())]
