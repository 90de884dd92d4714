"""Writes to expanded tensors: through views that hold each place of memory once, and by the ops that PyTorch goes on allowing."""
from __future__ import annotations

import numpy as np
import pytest

import treadle
from treadle import Tensor

MASK = [[True, False, True], [False, False, False]]


def test_a_view_of_an_expanded_tensor_that_overlaps_nowhere_is_written() -> None:
    x = treadle.zeros(3)
    wide = x.expand(2, 3)
    wide[0].add_(1)
    wide[1:2].mul_(5)
    wide[0, 1] = 7
    assert x.tolist() == [5, 7, 5] and wide.tolist() == [[5, 7, 5]] * 2
    with pytest.raises(RuntimeError, match="single memory location"):
        wide[0:2].add_(1)
    with pytest.raises(RuntimeError, match="single memory location"):
        wide.add_(1)


def test_its_gradient() -> None:
    x = treadle.ones(3, requires_grad=True)
    w = treadle.zeros(1, 3)
    w.expand(2, 3)[1] = x * 2
    (w * treadle.tensor([1., 2., 3.])).sum().backward()
    assert x.grad.tolist() == [2, 4, 6]


@pytest.mark.parametrize("axes", [(2, 3), (4, 2, 3)])
def test_fills_reach_every_place_that_is_chosen_once(axes: tuple[int, ...]) -> None:
    mask = treadle.tensor(np.broadcast_to(MASK, axes).copy())
    x = treadle.arange(3.).expand(axes)
    with pytest.warns(UserWarning, match="masked_fill_ on expanded tensors is deprecated"):
        assert x.masked_fill_(mask, 9.) is x
    assert x.tolist() == np.broadcast_to([9, 1, 9], axes).tolist()
    with pytest.warns(UserWarning, match="index_fill_ on expanded"):
        x.index_fill_(-1, treadle.tensor([1]), 4.)
    with pytest.warns(UserWarning, match="index_put_ on expanded"):
        x[mask] = treadle.tensor(0.)
    assert x.tolist() == np.broadcast_to([0, 4, 0], axes).tolist()


def test_the_last_of_several_writes_stays_and_sums_are_summed() -> None:
    rows, values = treadle.tensor([0, 1]), treadle.tensor([[1., 2, 3], [4, 5, 6]])
    x = treadle.zeros(3)
    with pytest.warns(UserWarning, match="index_put_ on expanded"):
        x.expand(2, 3)[rows] = values
    assert x.tolist() == [4, 5, 6]
    with pytest.warns(UserWarning, match="index_put_ on expanded"):
        x.expand(2, 3).index_put_((rows,), values, accumulate=True)
    assert x.tolist() == [9, 12, 15]


def test_no_gradient_flows_through_them() -> None:
    x = (treadle.ones(3, requires_grad=True) * 2).expand(2, 3)
    with pytest.raises(RuntimeError, match="single memory location"):
        x.masked_fill_(treadle.tensor(MASK), 1.)


def test_compiled() -> None:
    def f(x: Tensor, mask: Tensor) -> Tensor:
        y = x * 2
        y.expand(2, 3).masked_fill_(mask, 5.)
        y.expand(2, 3)[0].add_(1)
        return y
    run = treadle.compile(f)
    with pytest.warns(UserWarning, match="expanded"):
        for _ in range(3):
            assert run(treadle.ones(3), treadle.tensor(MASK)).tolist() == [6, 3, 6]
