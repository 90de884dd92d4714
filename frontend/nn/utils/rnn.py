"""Sequences of different lengths as one padded tensor, or packed without padding."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

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


class PackedSequence(NamedTuple):
    """Sequences of different lengths without padding: all first steps, then all second steps, and so on.

    data (sum of lengths, ...), batch_sizes (longest) int64: how many sequences have that step, sorted_indices (N): which sequence of the
    caller comes first, second, ..., unsorted_indices (N): the inverse; both None when the caller's order was kept.
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The data moved or cast; indices stay where they are, there being one host."""
        return self._replace(data=self.data.to(*args, **kwargs))

    def float(self) -> PackedSequence:
        return self.to(treadle.float32)

    def double(self) -> PackedSequence:
        return self.to(treadle.float64)

    def half(self) -> PackedSequence:
        return self.to(treadle.float16)

    def cpu(self) -> PackedSequence:
        return self.to("cpu")

    def cuda(self, *args: Any) -> PackedSequence:
        return self.to("cuda")

    @property
    def is_cuda(self) -> bool:
        return self.data.is_cuda


class PaddedRows:
    """Where the rows of a PackedSequence with these `batch_sizes` lie in a padded sequence (T, N, F), whose shape does not tell which
    sequence ends where: programs for it are the same for all lengths.

    steps: T, batch: N, ends (N): which row of (T * N, F) is the last of each sequence.
    """

    def __init__(self, batch_sizes: Sequence[int], device: Any) -> None:
        sizes = np.array(batch_sizes, np.int64)
        self.steps, self.batch, self.device = len(sizes), int(sizes[0]), device
        step, number = np.indices((self.steps, self.batch))
        there = number < sizes[:, None]
        lengths = there.sum(0)
        starts = np.cumsum(sizes) - sizes
        self._fill = self._rows(np.where(there, starts[:, None] + number, sizes.sum()))  # the row behind the last is of zeros
        self._kept = self._rows(np.flatnonzero(there))
        self._turned = self._rows(np.where(there, lengths - 1 - step, step) * self.batch + number)
        self.ends = self._rows((lengths - 1) * self.batch + np.arange(self.batch))

    def _rows(self, places: np.ndarray) -> Tensor:
        return treadle.tensor(places.reshape(-1), device=self.device)

    def padded(self, rows: Tensor) -> Tensor:
        """(sum of lengths, F) -> (T, N, F), with zeros behind the end of a sequence."""
        nothing = treadle.zeros((1, rows.size(-1)), dtype=rows.dtype, device=rows.device)
        return treadle.cat([rows, nothing]).index_select(0, self._fill).reshape(self.steps, self.batch, rows.size(-1))

    def packed(self, x: Tensor) -> Tensor:
        """(T, N, F) -> (sum of lengths, F)."""
        return x.reshape(-1, x.size(-1)).index_select(0, self._kept)

    def turned(self, x: Tensor) -> Tensor:
        """(T, N, F) with each sequence backwards, in its own steps."""
        return x.reshape(-1, x.size(-1)).index_select(0, self._turned).reshape(x.shape)


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes one; None of None."""
    return None if permutation is None else permutation.argsort()


def _indices(values: list[int], like: Tensor) -> Tensor:
    return treadle.tensor(values, dtype=treadle.int64, device=like.device)


def pack_padded_sequence(input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False,
                         enforce_sorted: bool = True) -> PackedSequence:
    """Drop the padding of (T, N, ...), or (N, T, ...) if `batch_first`, whose sequences have `lengths` (N).

    RuntimeError for lengths out of range, or, with `enforce_sorted`, not in decreasing order.
    """
    counts = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
    x = input.transpose(0, 1) if batch_first else input
    if len(counts) != x.size(1):
        raise RuntimeError(f"Expected `len(lengths)` to be equal to batch_size, but got {len(counts)} (batch_size={x.size(1)})")
    if min(counts, default=0) <= 0:
        raise RuntimeError("Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0")
    if max(counts) > x.size(0):
        raise RuntimeError(f"Expected sequence length to be at most {x.size(0)}, got {max(counts)}")
    sorted_indices = unsorted = None
    order = list(range(len(counts)))
    if not enforce_sorted:
        order.sort(key=lambda i: -counts[i])
        sorted_indices = _indices(order, input)
        unsorted = invert_permutation(sorted_indices)
    elif any(a < b for a, b in pairwise(counts)):
        raise RuntimeError("`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
                           "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement if you do not "
                           "need ONNX exportability.")
    places = [t * len(counts) + i for t in range(max(counts)) for i in order if counts[i] > t]
    data = x.reshape(x.size(0) * x.size(1), *x.shape[2:]).index_select(0, _indices(places, input))
    sizes = [sum(n > t for n in counts) for t in range(max(counts))]
    return PackedSequence(data, treadle.tensor(sizes, dtype=treadle.int64), sorted_indices, unsorted)


def pad_packed_sequence(sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0,
                        total_length: int | None = None) -> tuple[Tensor, Tensor]:
    """(padded (T, N, ...) or (N, T, ...), lengths (N)) in the caller's order, T being the longest or `total_length`."""
    sizes = [int(n) for n in sequence.batch_sizes.tolist()]
    n, longest = sizes[0], len(sizes)
    if total_length is not None:
        if total_length < longest:
            raise ValueError("Expected total_length to be at least the length of the longest sequence in input, "
                             f"but got total_length={total_length} and max sequence length being {longest}")
        longest = total_length
    starts = [0, *accumulate(sizes)]
    order = list(range(n)) if sequence.unsorted_indices is None else [int(i) for i in sequence.unsorted_indices.tolist()]
    hole = sequence.data.size(0)  # a further row, of padding
    places = [starts[t] + i if t < len(sizes) and i < sizes[t] else hole for t in range(longest) for i in order]
    data = sequence.data
    fill = treadle.full((1, *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device)
    padded = treadle.cat([data, fill]).index_select(0, _indices(places, data)).reshape(longest, n, *data.shape[1:])
    lengths = treadle.tensor([sum(size > i for size in sizes) for i in order], dtype=treadle.int64)
    return padded.transpose(0, 1) if batch_first else padded, lengths


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Tensors (L_i, ...) as one PackedSequence."""
    return pack_padded_sequence(pad_sequence(sequences), [s.size(0) for s in sequences], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a PackedSequence, in the caller's order."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
