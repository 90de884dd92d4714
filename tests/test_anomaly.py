"""`autograd.detect_anomaly` names the forward op whose gradient holds NaN; `TREADLE_EAGER=1` runs op by op."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import treadle
from treadle import autograd
from treadle.runtime import engine

THIS = Path(__file__).name
MESSAGE = "Function 'SqrtBackward0' returned nan values in its 0th output."


@pytest.fixture(autouse=True)
def off_afterwards() -> Iterator[None]:
    yield
    assert not treadle.is_anomaly_enabled()


def nan_in_backward(T: Any) -> None:
    """0 * d sqrt(0) is 0 * inf."""
    x = T.tensor([0.0, 1.0], requires_grad=True)
    y = x * 0
    (y.sqrt() * 0).sum().backward()


def raised_by(function: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(RuntimeError) as error:
        function(*args)
    return str(error.value)


def test_the_forward_op_and_its_line_are_named() -> None:
    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"), autograd.detect_anomaly():
        assert treadle.is_anomaly_enabled() and treadle.is_anomaly_check_nan_enabled()
        message = raised_by(nan_in_backward, treadle)
    assert message.startswith(MESSAGE + " Its forward operation is sqrt at ")
    assert message.endswith(f"{THIS}:31: (y.sqrt() * 0).sum().backward()")
    nan_in_backward(treadle)


def test_the_line_is_that_of_this_call_even_when_the_same_ops_ran_elsewhere() -> None:
    def first(x: treadle.Tensor) -> treadle.Tensor:
        return x.sqrt()

    def second(x: treadle.Tensor) -> treadle.Tensor:
        return x.sqrt()

    for _ in range(3):
        (first(treadle.ones(2, requires_grad=True)) * 2).sum().backward()
    with autograd.set_detect_anomaly(True):
        (first(treadle.ones(2, requires_grad=True)) * 2).sum().backward()
        message = raised_by(lambda: (second(treadle.zeros(2, requires_grad=True)) * 0).sum().backward())
    assert int(message.split(f"{THIS}:")[1].split(":")[0]) == second.__code__.co_firstlineno + 1


def test_it_can_be_set_nested_and_told_not_to_look() -> None:
    switch = autograd.set_detect_anomaly(True, check_nan=False)
    assert treadle.is_anomaly_enabled() and not treadle.is_anomaly_check_nan_enabled()
    nan_in_backward(treadle)
    with autograd.set_detect_anomaly(False):
        assert not treadle.is_anomaly_enabled()
    assert treadle.is_anomaly_enabled()
    switch.__exit__()
    assert not treadle.is_anomaly_enabled() and treadle.is_anomaly_check_nan_enabled()
    autograd.set_detect_anomaly(True)
    assert raised_by(nan_in_backward, treadle).startswith(MESSAGE)
    autograd.set_detect_anomaly(False)
    nan_in_backward(treadle)


def test_compiled_functions_run_plainly() -> None:
    step = treadle.compile(nan_in_backward)
    for _ in range(3):
        step(treadle)
    with autograd.set_detect_anomaly(True):
        assert raised_by(step, treadle).startswith(MESSAGE)
    step(treadle)


class Broken(autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * float("nan")


def test_custom_functions_are_named() -> None:
    x = treadle.ones(2, requires_grad=True)
    with autograd.set_detect_anomaly(True):
        message = raised_by(lambda: Broken.apply(x).sum().backward())
    assert message.startswith("Function 'BrokenBackward' returned nan values in its 0th output. Its forward operation is Broken at ")
    assert f"{THIS}:" in message and message.endswith("Broken.apply(x).sum().backward())")
    y = Broken.apply(x).sum()
    with autograd.set_detect_anomaly(True):
        assert raised_by(y.backward).endswith("Broken, recorded while anomaly detection was off.")


def test_other_failures_are_explained() -> None:
    with autograd.set_detect_anomaly(True):
        x = treadle.ones(3, requires_grad=True)
        y = x.exp()
        z = y.sum()
        y.add_(1)
        with pytest.warns(UserWarning, match=rf"Error detected in ExpBackward0\. Its forward operation is exp at .*{THIS}:\d+: y = x"):
            assert "modified by an inplace operation" in raised_by(z.backward)


def test_gradients_are_the_same_and_higher_ones_work() -> None:
    def third(x: treadle.Tensor) -> list[float]:
        y = (x ** 4).sum()
        for _ in range(3):
            (y,) = autograd.grad(y, [x], create_graph=True)
            y = y.sum()
        value: float = y.item()
        return [value]
    plain = third(treadle.tensor([1.0, 2.0], requires_grad=True))
    with autograd.set_detect_anomaly(True):
        assert third(treadle.tensor([1.0, 2.0], requires_grad=True)) == plain == [72.0]


@pytest.mark.oracle
def test_pytorch_says_the_same() -> None:
    import torch
    with pytest.warns(UserWarning), torch.autograd.detect_anomaly():
        message = raised_by(nan_in_backward, torch)
    assert message == MESSAGE


EAGER = """import treadle as t
x = t.ones(4, requires_grad=True)
for _ in range(3):
    y = (x * 2 + 1).relu()
    y.sum().backward()
    x.data.sub_(x.grad * 0.5)
    x.grad = None
c = t.compile(lambda v: (v + 1).exp())
print(c(x).tolist() == (x + 1).exp().tolist(), c.captures)
s = t.stats()
print(s["ops_recorded"] == sum(s["flushes"].values()), list(s["flushes"]))
try:
    t.ones(3).index_select(0, t.tensor([5]))
except IndexError as error:
    print("IndexError at its line", "program.py:13" in str(error))
"""


def test_eager_really_runs_op_by_op(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(EAGER)
    environment = {**os.environ, "TREADLE_EAGER": "1"}
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "True 0\nTrue ['op by op']\nIndexError at its line True\n", done.stderr


def test_anomaly_mode_forgets_nothing() -> None:
    def run() -> float:
        result: float = (treadle.ones(13) * 3).sum().item()
        return result
    run()
    run()
    before = engine.counters["compiled_plans"]
    with autograd.set_detect_anomaly(True):
        run()
    run()
    assert engine.counters["compiled_plans"] == before
