"""A number that an integer dtype does not hold is refused, and not wrapped; negative integers wrap in unsigned dtypes, as in PyTorch."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import treadle

WRITES: list[Callable[[Any, Any], Any]] = [
    lambda v, dtype: treadle.tensor([v, 1], dtype=dtype), lambda v, dtype: treadle.full((2,), v, dtype=dtype),
    lambda v, dtype: treadle.full_like(treadle.zeros(2, dtype=dtype), v), lambda v, dtype: treadle.zeros(2, dtype=dtype).fill_(v),
    lambda v, dtype: treadle.zeros(2, dtype=dtype).__setitem__(0, v),
    lambda v, dtype: treadle.zeros(2, dtype=dtype).__setitem__(treadle.tensor([0]), v),
    lambda v, dtype: treadle.zeros(2, dtype=dtype).masked_fill(treadle.tensor([True, False]), v),
    lambda v, dtype: treadle.zeros(2, dtype=dtype).index_fill(0, treadle.tensor([0]), v)]


@pytest.mark.parametrize("write", WRITES)
def test_refused(write: Callable[[Any, Any], Any]) -> None:
    for value, dtype in ((300, treadle.uint8), (-300, treadle.uint8), (-1.5, treadle.uint8), (128, treadle.int8), (-129, treadle.int8),
                         (1e10, treadle.int32), (float("nan"), treadle.int64), (float("inf"), treadle.int16), (2 ** 40, treadle.int32)):
        with pytest.raises(RuntimeError, match="without overflow"):
            write(value, dtype)
    for value, dtype in ((255, treadle.uint8), (-1, treadle.uint8), (-128, treadle.int8), (1.5, treadle.int32), (1e10, treadle.float32)):
        write(value, dtype)


def test_negative_integers_wrap() -> None:
    assert treadle.full((2,), -1, dtype=treadle.uint8).tolist() == [255, 255]


def test_shuffling_by_one_copies() -> None:
    x = treadle.zeros(1, 2, 2, 2)
    for shuffle in (treadle.nn.functional.pixel_shuffle, treadle.nn.functional.pixel_unshuffle):
        shuffle(x, 1).add_(1)
    assert x.sum().item() == 0
