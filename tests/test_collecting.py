"""Joining many tensors that are in memory: at once, with the values that recording gives."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle
from treadle import collecting
from treadle.runtime import recorder

COUNT = 3 * collecting.MANY


def recorded() -> int:
    return int(treadle.stats()["ops_recorded"]) + len(recorder.STATE.here.trace.values)


@pytest.mark.parametrize("dtype", [treadle.float32, treadle.int64, treadle.bool, treadle.bfloat16])
def test_values_and_places(dtype: Any) -> None:
    parts = [(treadle.arange(6).reshape(2, 3) * (i + 1)).to(dtype) for i in range(COUNT)]
    treadle.cpu.synchronize()
    arrays = [np.array(p.tolist()) for p in parts]
    for dim in (0, 1, -1):
        before = recorded()
        found = treadle.cat(parts, dim)
        assert recorded() == before
        assert found.dtype is dtype and np.array_equal(np.array(found.tolist()), np.concatenate(arrays, dim))
    for dim in (0, 1, 2, -1):
        assert np.array_equal(np.array(treadle.stack(parts, dim).tolist()), np.stack(arrays, dim))
    sizes = [p[:i % 3] for i, p in enumerate(parts)]
    assert treadle.cat(sizes).shape == (sum(len(s) for s in sizes), 3)
    parts[0].fill_(1)
    assert np.array_equal(np.array(found.tolist()), np.concatenate(arrays, -1))  # a copy


def test_what_is_recorded() -> None:
    parts = [treadle.ones(2) * i for i in range(COUNT)]  # pending: a loop's results
    before = recorded()
    assert treadle.cat(parts)[-1].item() == COUNT - 1 and recorded() > before
    parts[3].requires_grad_()
    treadle.cat(parts).sum().backward()
    assert parts[3].grad.tolist() == [1, 1]
    with treadle.no_grad():
        assert treadle.cat(parts)[-1].item() == COUNT - 1
    mixed = [*parts, treadle.ones(2, dtype=treadle.int64)]
    assert treadle.cat(mixed).dtype is treadle.float32
    with pytest.raises(RuntimeError, match="cat"):
        treadle.cat([*[treadle.ones(2, 2) for _ in range(COUNT)], treadle.ones(2, 3)])


def test_compiled_functions_read_them_anew() -> None:
    parts = [treadle.full((2,), float(i)) for i in range(COUNT)]
    f = treadle.compile(lambda xs: treadle.stack(xs).sum())
    wanted = float(sum(range(COUNT)) * 2)
    assert [f(parts).item() for _ in range(4)] == [wanted] * 4
    parts[5].add_(1.0)
    assert f(parts).item() == wanted + 2


def test_a_batch_of_another_pattern_is_no_new_program() -> None:
    """Which of many small tensors are the same one does not matter."""
    pool = [treadle.full((1, 4), float(i)) for i in range(40)]
    rng = np.random.default_rng(0)
    for count in range(6):
        if count == 3:
            before = treadle.stats()["plans"]
        picks = rng.integers(0, 40, 32)
        x = treadle.cat([pool[i] for i in picks])
        assert (x * 2.0 + 1.0).sum().item() == sum(8 * int(i) + 4 for i in picks)
    assert treadle.stats()["plans"] == before
