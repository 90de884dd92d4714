"""FeatureAlphaDropout: whole channels, SELU's limit, mean and variance kept."""
from __future__ import annotations

import pytest

import treadle
from treadle import nn


def test_channels_are_dropped_whole() -> None:
    treadle.manual_seed(3)
    layer = nn.FeatureAlphaDropout(0.4)
    x = treadle.randn(400, 25, 2, 2)
    y = layer(x)
    slope = ((y[..., 0, 0] - y[..., 1, 1]) / (x[..., 0, 0] - x[..., 1, 1]))
    dropped = slope.abs() < 1e-6
    assert abs(float(dropped.float().mean()) - 0.4) < 0.02
    assert float(y[dropped].std()) < 1e-6
    assert abs(float(y.mean())) < 0.03 and abs(float(y.std()) - 1) < 0.03
    assert layer.eval()(x) is x and repr(layer) == "FeatureAlphaDropout(p=0.4, inplace=False)"


@pytest.mark.parametrize("name, rank", [("dropout2d", 4), ("dropout3d", 5)])
def test_other_ranks_are_taken_with_a_warning(name: str, rank: int) -> None:
    drop = getattr(nn.functional, name)
    for shape in ((), (2,), (0, 3), (2,) * (rank + 1)):
        x = treadle.ones(shape)
        with pytest.warns(UserWarning, match=f"Received a {len(shape)}-D input"):
            assert drop(x, 0.0) is x and drop(x, 0.5, training=False) is x
            assert drop(x, 1.0).tolist() == treadle.zeros(shape).tolist()
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="at least 2 dimensions"):
        drop(treadle.ones(()), 0.5)


def test_what_counts_as_a_channel() -> None:
    treadle.manual_seed(1)
    with pytest.warns(UserWarning, match="taken to be"):
        y = nn.functional.dropout2d(treadle.ones(50, 8, 6), 0.5)  # (N, C, L)
    assert 0 < int((y[..., 0] == 0).sum()) < 400 and bool((y == y[..., :1]).all())
    y = nn.functional.dropout3d(treadle.ones(400, 2, 3, 4), 0.5)  # (C, D, H, W)
    assert 100 < int((y[:, 0, 0, 0] == 0).sum()) < 300 and bool((y == y[:, :1, :1, :1]).all())
    y = nn.functional.dropout1d(treadle.ones(400, 5), 0.5)  # (C, L)
    assert 100 < int((y[:, 0] == 0).sum()) < 300 and bool((y == y[:, :1]).all())


def test_the_functions_beside_nn() -> None:
    treadle.manual_seed(1)
    x = treadle.ones(400, 2, 3)
    for name in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"):
        plain, in_place = getattr(treadle, name), getattr(treadle, f"{name}_")
        assert plain(x, 0.5, False) is x
        y = x.clone()
        assert in_place(y, 0.5, True) is y and y.unique().numel() == 2
        assert name.startswith("feature") is bool((y == y[..., :1]).all())
        assert plain(x, 1.0, True).abs().max().item() == 0
    with pytest.raises(RuntimeError, match="at least 2 dimensions"):
        treadle.feature_dropout(treadle.ones(3), 0.5, True)
