"""Margin and multi-label losses, and connectionist temporal classification."""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import treadle
from treadle import ops
from treadle.arguments import Choice
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.dtypes import BOOL, FLOAT, DType
from treadle.ir.graph import Graph
from treadle.ir.op import TABLE
from treadle.ir.ops.common import need_float
from treadle.ir.types import tensor_type
from treadle.modes import listed
from treadle.nn.loss_functions import _reduced, check_reduction, reduction_name
from treadle.tensor import Tensor, apply, is_batched

_NEVER = -1e30  # stands for log(0): sums of it stay finite, so that gradients have no NaN


def _need_classes(name: str, input: Tensor) -> None:
    shape = list(input.shape)
    if len(shape) > 2 or (len(shape) > 0 and shape[-1] == 0):
        raise RuntimeError(f"{name}: Expected non-empty vector or matrix with optional 0-dim batch size, but got: {shape}")


def need_labels(target: Tensor) -> None:
    """RuntimeError unless classes are given as int64."""
    if target.dtype is not treadle.int64:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype.title}")


@listed
def multi_margin_loss(input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
                      size_average: bool | None = None, reduce: bool | None = None, reduction: Choice = "mean") -> Tensor:
    """sum over i != y of max(0, margin - x[y] + x[i])^p / C, for x (N, C) or (C) and classes y (N) or ()."""
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    check_reduction(reduction)
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    _need_classes("multi_margin_loss", input)
    need_float("multi_margin_loss", input._data.type)
    x, y = (input.reshape(1, -1), target.reshape(-1)) if input.dim() <= 1 else (input, target)
    if weight is not None and tuple(weight.shape) != (x.size(-1),):
        raise RuntimeError(f"multi_margin_loss: inconsistent weight size: expected {x.size(-1)} elements, got {list(weight.shape)}")
    if x.dim() != 2 or tuple(y.shape) != (x.size(0),):
        raise RuntimeError(f"multi_margin_loss: inconsistent sizes: input {list(input.shape)}, target {list(target.shape)}")
    need_labels(target)
    short = (margin - x.gather(1, y.unsqueeze(1)) + x).clamp(min=0)
    short = short if p == 1 else short.square()
    if weight is not None:
        short = short * weight[y].unsqueeze(1)
    others = treadle.arange(x.size(1), device=x.device) != y.unsqueeze(1)
    loss = treadle.where(others, short, 0.0).sum(1) / x.size(1)
    return _reduced(loss.squeeze(0) if input.dim() <= 1 else loss, size_average, reduce, reduction)


@listed
def multilabel_margin_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                           reduction: Choice = "mean") -> Tensor:
    """sum over labels j and other classes i of max(0, 1 - x[j] + x[i]) / C; target (N, C) lists the labels up to the first -1."""
    check_reduction(reduction)
    _need_classes("multilabel_margin_loss", input)
    if input.numel() != target.numel() or input.dim() > 2 or (input.dim() == 2 and input.size() != target.size()):
        raise RuntimeError(f"multilabel_margin_loss: inconsistent sizes: input {list(input.shape)}, target {list(target.shape)}")
    need_float("multilabel_margin_loss", input._data.type)
    x, y = (input.reshape(1, -1), target.reshape(1, -1)) if input.dim() <= 1 else (input, target)
    need_labels(target)
    given = (y < 0).to(treadle.int64).cumsum(1) == 0
    labels = treadle.where(given, y, 0)
    is_label = treadle.zeros(tuple(x.shape), dtype=x.dtype, device=x.device).scatter_add(1, labels, given.to(x.dtype)) > 0
    short = (1 - x.gather(1, labels).unsqueeze(2) + x.unsqueeze(1)).clamp(min=0)  # (N, labels, C)
    counted = given.unsqueeze(2) & is_label.logical_not().unsqueeze(1)
    loss = treadle.where(counted, short, 0.0).sum((1, 2)) / x.size(1)
    return _reduced(loss.squeeze(0) if input.dim() <= 1 else loss, size_average, reduce, reduction)


def multilabel_soft_margin_loss(input: Tensor, target: Tensor | float, weight: Tensor | None = None, size_average: bool | None = None,
                                reduce: bool | None = None, reduction: Choice = "mean") -> Tensor:
    """The binary cross entropies of sigmoid(input), averaged over the last axis."""
    if not input.dim():
        raise IndexError("multilabel_soft_margin_loss: Dimension specified as -1 but tensor has no dimensions")
    loss = -(target * ops.logsigmoid(input) + (1 - target) * ops.logsigmoid(-input))
    return _reduced((loss if weight is None else loss * weight).mean(-1), size_average, reduce, reduction)


def triplet_margin_with_distance_loss(anchor: Tensor, positive: Tensor, negative: Tensor, *,
                                      distance_function: Callable[[Tensor, Tensor], Tensor] | None = None, margin: float = 1.0,
                                      swap: Any = False, reduction: Choice = "mean") -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with any distance d."""
    from treadle.nn.loss_functions import _same_rank, pairwise_distance
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    _same_rank("triplet_margin_with_distance_loss", anchor, positive, negative)
    distance = distance_function or pairwise_distance
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = ops.minimum(far, distance(positive, negative))
    return _reduced((near - far + margin).clamp(min=0), None, None, reduction)


def _lengths(values: Tensor | Sequence[int], device: Any) -> tuple[Tensor, list[int] | None]:
    """Lengths (N), and as numbers, unless nobody can look as inside vmap."""
    if isinstance(values, Tensor) and is_batched(values):
        return values.reshape(-1).to(treadle.int64), None
    if isinstance(values, Tensor) and not BOOL < values._data.type.dtype.category < FLOAT:
        raise RuntimeError(f"ctc_loss: lengths must be integral, got {values.dtype}")
    numbers = [int(v) for v in (values.reshape(-1).tolist() if isinstance(values, Tensor) else values)]
    if min(numbers, default=0) < 0:
        raise RuntimeError(f"ctc_loss: expected lengths of at least 0, but got value {min(numbers)}")
    return treadle.tensor(numbers, dtype=treadle.int64, device=device), numbers


def _padded_targets(targets: Tensor, counts: Tensor, numbers: list[int] | None, blank: int) -> Tensor:
    """Labels (N, longest) with blanks behind each row's, from rows or from all of them one after the other."""
    if targets.dim() not in (1, 2):
        raise RuntimeError(f"ctc_loss: Expected 1 to 2 dimensions, but got {targets.dim()}-dimensional tensor for targets")
    if targets.dim() == 2:
        rows = targets if numbers is None else targets[:, :max(numbers, default=0)]
        return treadle.where(treadle.arange(rows.size(1), device=rows.device) < counts.unsqueeze(1), rows.to(treadle.int64), blank)
    if numbers is None:
        raise RuntimeError("ctc_loss: vmap over target_lengths takes targets of one row for each example (N, S)")
    if targets.numel() != sum(numbers):
        raise RuntimeError(f"ctc_loss: expected targets of size {sum(numbers)}, the sum of target_lengths, but got {targets.numel()}")
    longest = max(numbers, default=0)
    flat, padded, start = targets.reshape(-1).tolist(), [], 0
    for n in numbers:
        padded.append(flat[start:start + n] + [blank] * (longest - n))
        start += n
    return treadle.tensor(padded, dtype=treadle.int64, device=targets.device).reshape(len(numbers), longest)


@listed
def ctc_loss(log_probs: Tensor, targets: Tensor, input_lengths: Tensor | Sequence[int], target_lengths: Tensor | Sequence[int],
             blank: int = 0, reduction: Choice = "mean", zero_infinity: bool = False) -> Tensor:
    """Connectionist temporal classification (Graves et al., 2006): -log of the probability of all alignments.

    log_probs (T, N, C) or (T, C), targets (N, S) or all labels in one row, lengths (N). "mean" divides each loss by its target's length
    first. The forward variables are computed step by step in log space; the gradient is theirs. RuntimeError for what does not fit.
    """
    need_float("ctc_loss", log_probs._data.type)
    batched = log_probs.dim() == 3
    if log_probs.dim() not in (2, 3):
        kind = RuntimeError if log_probs.dim() else IndexError
        raise kind(f"ctc_loss: expected log_probs of 2 or 3 dimensions, got {log_probs.dim()}")
    if not log_probs.numel():
        raise RuntimeError(f"ctc_loss: log_probs must not be empty, got shape {list(log_probs.shape)}")
    scores = log_probs if batched else log_probs.unsqueeze(1)
    steps, n, classes = scores.shape
    lengths, known = _lengths(input_lengths, scores.device)
    counts, label_counts = _lengths(target_lengths, scores.device)
    if lengths.numel() != n or counts.numel() != n:
        raise RuntimeError(f"ctc_loss: expected {n} input_lengths and target_lengths, got {lengths.numel()} and {counts.numel()}")
    if batched and targets.dim() == 2 and targets.size(0) != n:
        raise RuntimeError(f"ctc_loss: expected targets of {n} samples, as many as log_probs has, got shape {list(targets.shape)}")
    if not 0 <= blank < classes:
        raise RuntimeError(f"ctc_loss: blank must be in label range, got {blank} of {classes} classes")
    steps = steps if known is None else max(known, default=0)
    if steps > scores.size(0):
        raise RuntimeError(f"ctc_loss: expected input_lengths to have value at most {scores.size(0)}, got {steps}")
    labels = _padded_targets(targets if batched or targets.dim() == 1 else targets.reshape(1, -1), counts, label_counts, blank)
    loss = _alignments(scores, labels, lengths.unsqueeze(1), counts.unsqueeze(1) * 2, steps, blank)
    impossible = loss > -_NEVER / 2
    loss = treadle.where(impossible, 0.0 if zero_infinity else float("inf"), loss)
    if not batched:
        loss = loss.squeeze(0)
    if reduction == "mean":
        divisor = counts.clamp(min=1).to(loss.dtype)
        return (loss / (divisor if batched else divisor[0])).mean()
    return _reduced(loss, None, None, reduction)


@functools.lru_cache(maxsize=256)
def _forward_step(shape: tuple[int, int], dtype: DType, device: str) -> Graph:
    """(alpha (N, W), the step's scores (N, W), whether it is taken (N, 1), where a blank may be skipped (N, W)) -> the next alpha."""
    n, width = shape
    b = Builder(Graph("ctc_step"))
    row = tensor_type(shape, dtype, device=device)
    alpha, emitted = b.input(row), b.input(row)
    active, skips = (b.input(tensor_type((n, w), dtypes.bool_, device=device)) for w in (1, width))
    moved = b.pad(alpha, _NEVER, low=(0, 2), high=(0, 0))
    one, two = (b.slice(moved, (0, 2 - k), (n, width + 2 - k), (1, 1)) for k in (1, 2))
    before = b.logaddexp(b.logaddexp(alpha, one), b.where(skips, two, _NEVER))
    b.graph.outputs = [b.where(active, b.clamp_min(b.add(before, emitted), _NEVER), alpha)]
    return b.graph


def _alignments(scores: Tensor, labels: Tensor, ends: Tensor, last: Tensor, steps: int, blank: int) -> Tensor:
    """-log p (N) from the forward variables over the labels with blanks between them (N, 2 S + 1).

    ends (N, 1): how many steps each takes, at most `steps`; last (N, 1): which of the labels and blanks is its last.
    """
    n = scores.size(1)
    s = labels.size(1)
    blanks = treadle.full((n, s, 1), blank, dtype=treadle.int64, device=labels.device)
    states = treadle.cat([treadle.cat([blanks, labels.unsqueeze(2)], 2).reshape(n, 2 * s), blanks[:, :1, 0] if s else
                          treadle.full((n, 1), blank, dtype=treadle.int64, device=labels.device)], 1)
    width = 2 * s + 1
    emitted = scores.gather(2, states.unsqueeze(0).expand(scores.size(0), n, width))
    place = treadle.arange(width, device=scores.device)
    two_before = treadle.cat([treadle.full((n, 2), blank, dtype=treadle.int64, device=labels.device), states], 1)[:, :width]
    skips = (states != blank) & (states != two_before)
    alpha = treadle.where(place < 2, emitted[0], _NEVER)
    if steps > 1:
        active = treadle.arange(1, steps, device=scores.device).reshape(-1, 1, 1) < ends
        parts = (alpha, emitted[1:steps], active, skips)
        body = _forward_step((n, width), scores.dtype, scores._data.type.device)
        alpha = apply(TABLE["scan"], parts, (body, 1, 2, steps - 1, False))
    final = alpha.gather(1, last)
    label = treadle.where(last > 0, alpha.gather(1, (last - 1).clamp(min=0)), _NEVER)
    found = -treadle.logaddexp(final, label).squeeze(1)
    return treadle.where(ends.squeeze(1) > 0, found, treadle.where(last.squeeze(1) > 0, -_NEVER, 0.0))


__all__ = ["ctc_loss", "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss", "reduction_name",
           "triplet_margin_with_distance_loss"]
