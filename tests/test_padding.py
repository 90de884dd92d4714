"""Padding against PyTorch: modes, crops, layers, errors."""
from __future__ import annotations

from typing import Any

import pytest
from vision_cases import both_raise, same

import treadle

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.mark.parametrize(("shape", "widths", "value"), [
    ((2, 3), (1, 2), None), ((2, 3), (1, 0, 2, 1), 1.5), ((2, 3, 4), (-1, 2), 0.5), ((2, 3, 4), (0, -2, -1, 0), None),
    ((2, 3, 4), (0, 0), None), ((4,), (1, 1), -1), ((2, 3, 4, 5), (1, 1, 2, 2, 0, 1), 0)])
def test_constant(torch: Any, shape: tuple, widths: tuple, value: Any) -> None:
    same(torch, lambda m, x: m.nn.functional.pad(x, widths, "constant", value), shape)
    same(torch, lambda m, x: m.nn.functional.pad(x.long(), widths, value=value), shape, grad=False)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(("shape", "widths"), [
    ((2, 3, 5), (2, 1)), ((3, 5), (0, 3)), ((2, 3, 4, 5), (1, 2, 3, 0)), ((3, 4, 5), (2, 2, 1, 1)), ((1, 2, 3, 4, 5), (1, 2, 1, 0, 2, 2)),
    ((2, 3, 6), (-1, 2)), ((2, 3, 6), (-1, -2))])
def test_own_elements(torch: Any, mode: str, shape: tuple, widths: tuple) -> None:
    same(torch, lambda m, x: m.nn.functional.pad(x, widths, mode=mode), shape)


@pytest.mark.parametrize("family", ["ConstantPad", "ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layers(torch: Any, family: str, rank: int) -> None:
    value = (2.5,) if family == "ConstantPad" else ()
    for padding in (2, (1, 2, 0, 1, 2, 1)[:2 * rank]):
        def make(m: Any, padding: Any = padding) -> Any:
            return getattr(m.nn, f"{family}{rank}d")(padding, *value)
        assert repr(make(treadle)) == repr(make(torch))
        same(torch, lambda m, x, make=make: make(m)(x), (2, 3, 4, 5, 3)[:2 + rank])


@pytest.mark.parametrize(("widths", "options"), [
    ((1,), {}), ((1,) * 8, {}), ((4, 0), {"mode": "reflect"}), ((5, 0), {"mode": "circular"}), ((1, 1), {"mode": "nothing"}),
    ((1, 1, 1, 1, 1, 1), {"mode": "reflect"}), ((-3, -3), {}), ((-2, -2), {"mode": "replicate"}),
    ((1, 1), {"mode": "reflect", "value": 2.0})])
def test_mistakes(torch: Any, widths: tuple, options: dict) -> None:
    both_raise(torch, lambda m, x: m.nn.functional.pad(x, widths, **options), (2, 3, 4))
