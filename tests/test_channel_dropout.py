"""FeatureAlphaDropout: whole channels, SELU's limit, mean and variance kept."""
from __future__ import annotations

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
