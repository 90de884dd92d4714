"""Optimizer ops: formulas, 16-bit parameters, 0-d parameters, errors; and the optimizers built on them, step by step beside PyTorch's."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from op_cases import build, samples_of

import treadle
from treadle import optim
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE
from treadle.ir.types import tensor_type

NAMES = ["sgd_step", "sgd_momentum_step", "adam_step", "rmsprop_step"]
P, G, S, V = (np.array(a) for a in ([1.0, -2.0, 0.5], [0.3, 0.1, -0.7], [0.2, 0.0, -0.4], [0.5, 0.0, 2.0]))


def step(name: str, tensors: list[np.ndarray], numbers: tuple[float, ...], *attrs: Any,
         more: tuple[np.ndarray, ...] = ()) -> list[np.ndarray]:
    dtype = dtypes.from_numpy(tensors[0].dtype)
    graph, arrays = build(TABLE[name], ((*tensors, *numbers, *more), attrs), dtype)
    return run(graph, arrays)


def same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 1e-14) -> None:
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# -- formulas ------------------------------------------------------------------------------------------------------------
def test_sgd() -> None:
    same(step("sgd_step", [P, G], (0.1, 0.02)), [P - 0.1 * (G + 0.02 * P)])


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov: bool) -> None:
    g = G + 0.02 * P
    buf = 0.9 * S + 0.7 * g
    same(step("sgd_momentum_step", [P, G, S], (0.1, 0.9, 0.3, 0.02), nesterov), [P - 0.1 * (g + 0.9 * buf if nesterov else buf), buf])


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam(decoupled: bool, amsgrad: bool) -> None:
    lr, beta1, beta2, eps, decay, bias1, bias2 = numbers = (0.1, 0.9, 0.99, 1e-3, 0.05, 1 - 0.9**3, 1 - 0.99**3)
    largest = np.array([0.1, 0.2, 5.0])
    p, g = (P * (1 - lr * decay), G) if decoupled else (P, G + decay * P)
    m, v = beta1 * S + (1 - beta1) * g, beta2 * V + (1 - beta2) * g * g
    top = np.maximum(largest, v)
    p = p - lr / bias1 * m / (np.sqrt(top if amsgrad else v) / np.sqrt(bias2) + eps)
    found = step("adam_step", [P, G, S, V], numbers, decoupled, more=(largest,) if amsgrad else ())
    same(found, [p, m, v, top] if amsgrad else [p, m, v])


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [False, True])
def test_rmsprop(centered: bool, momentum: bool) -> None:
    mean, buf = S, np.array([0.1, 0.2, -0.3])
    g = G + 0.05 * P
    v = 0.9 * V + 0.1 * g * g
    new_mean = 0.9 * mean + 0.1 * g
    change = g / (np.sqrt(v - new_mean**2 if centered else v) + 1e-3)
    new_buf = 0.8 * buf + change
    more = (mean,) * centered + (buf,) * momentum
    found = step("rmsprop_step", [P, G, V], (0.1, 0.9, 1e-3, 0.05, 0.8), centered, more=more)
    same(found, [P - 0.1 * (new_buf if momentum else change), v] + [new_mean] * centered + [new_buf] * momentum, 1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_16_bit_parameters_are_updated_in_float32(name: str) -> None:
    for sample in samples_of(TABLE[name])[:1]:
        narrow, arrays = build(TABLE[name], sample, dtypes.bfloat16)
        wide, _ = build(TABLE[name], sample, dtypes.float32)
        expected = run(wide, [a.astype(np.float32) for a in arrays])
        for got, want in zip(run(narrow, arrays), expected, strict=True):
            assert np.array_equal(got, want.astype(ml_dtypes.bfloat16))


def test_numbers_do_not_widen_a_0d_parameter() -> None:
    zero_d = np.array(2.0, np.float32)
    for name in NAMES:
        count = sum(not isinstance(o, float) for o in samples_of(TABLE[name])[0][0])
        numbers = tuple(o for o in samples_of(TABLE[name])[0][0] if isinstance(o, float))
        attrs = (False,) * len(TABLE[name].attrs)
        for result in step(name, [zero_d] * count, numbers, *attrs):
            assert result.dtype == np.float32 and result.shape == ()


@pytest.mark.parametrize(("name", "operands", "attrs", "text"), [
    ("sgd_step", [((3,), dtypes.float32), ((4,), dtypes.float32), 0.1, 0.0], (), r"sgd_step: expected .* operand 1 is tensor<4xf32>"),
    ("sgd_step", [((3,), dtypes.float32), ((3,), dtypes.float64), 0.1, 0.0], (), r"sgd_step: expected .* operand 1 is tensor<3xf64>"),
    ("sgd_step", [((3,), dtypes.float32), ((3,), dtypes.float32), ((3,), dtypes.float32), 0.0], (), r"a hyper-parameter must be a number"),
    ("sgd_step", [((3,), dtypes.int64), ((3,), dtypes.int64), 0.1, 0.0], (), "\"sgd_step\" not implemented for 'Long'"),
    ("rmsprop_step", [*[((3,), dtypes.float32)] * 3, 0.1, 0.9, 0.1, 0.0, 0.0, ((2,), dtypes.float32)], (True,),
     "operand 8 is tensor<2xf32>"),
])
def test_mistakes(name: str, operands: list, attrs: tuple, text: str) -> None:
    b = Builder()
    values = [o if isinstance(o, float) else b.input(tensor_type(*o)) for o in operands]
    with pytest.raises(RuntimeError, match=text):
        b.apply(TABLE[name], tuple(values), attrs)


def test_rmsprop_wants_a_mean_when_centered() -> None:
    b = Builder()
    values = [b.input(tensor_type((3,), dtypes.float32)) for _ in range(3)]
    with pytest.raises(RuntimeError, match=r"rmsprop_step: .*centered"):
        b.apply(TABLE["rmsprop_step"], (*values, 0.1, 0.9, 0.1, 0.0, 0.0), (True,))


# -- the optimizers --------------------------------------------------------------------------------------------------------
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"weight_decay": 0.1}), ("SGD", {"momentum": 0.9, "dampening": 0.2}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {"weight_decay": 0.1}), ("Adam", {"betas": (0.3, 0.9), "amsgrad": True}), ("AdamW", {"weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"maximize": True}), ("RMSprop", {"weight_decay": 0.1}), ("RMSprop", {"centered": True}), ("RMSprop", {"momentum": 0.5}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
]


def test_a_parameter_is_one_op() -> None:
    p = treadle.ones(4, requires_grad=True)
    p.grad = treadle.full((4,), 0.5)
    o = optim.AdamW([p], lr=0.1)
    o.step()
    p.tolist()
    before = treadle.stats()["ops_recorded"]
    o.step()
    p.tolist()
    assert treadle.stats()["ops_recorded"] == before + 1


def test_a_tensor_as_learning_rate() -> None:
    p = treadle.ones(3, requires_grad=True)
    p.grad = treadle.ones(3)
    rate = treadle.tensor(0.25)
    o = optim.SGD([p], lr=rate)
    o.step()
    rate.fill_(0.5)
    o.step()
    np.testing.assert_array_equal(p.detach().numpy(), np.full(3, 0.25, np.float32))


def test_a_parameter_that_is_a_view_is_written_in_place() -> None:
    whole = treadle.zeros(4)
    p = whole[1:3].detach().requires_grad_()
    p.grad = treadle.ones(2)
    optim.SGD([p], lr=0.5).step()
    np.testing.assert_array_equal(whole.numpy(), [0, -0.5, -0.5, 0])


def _walk(library: Any, name: str, settings: dict[str, Any], dtype: str, start: np.ndarray, grads: list[np.ndarray]) -> tuple[Any, Any]:
    p = library.tensor(start).to(getattr(library, dtype)).requires_grad_()
    o = getattr(library.optim, name)([p], lr=0.05, **settings)
    for i, g in enumerate(grads):
        p.grad = library.tensor(g).to(getattr(library, dtype))
        o.param_groups[0]["lr"] = 0.05 / (i + 1)
        o.step()
    return p, o.state_dict()


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "settings"), SETTINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6), ("bfloat16", 4e-2)])
def test_steps_equal_pytorch(name: str, settings: dict[str, Any], dtype: str, tolerance: float) -> None:
    import torch
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(5, 3)), [rng.normal(size=(5, 3)) for _ in range(6)]
    ours, our_state = _walk(treadle, name, settings, dtype, start, grads)
    theirs, their_state = _walk(torch, name, settings, dtype, start, grads)

    def array(t: Any) -> np.ndarray:
        return np.asarray(t.detach().double().numpy())

    np.testing.assert_allclose(array(ours), array(theirs), rtol=tolerance, atol=tolerance)
    mine, other = our_state["state"].get(0, {}), their_state["state"].get(0, {})
    kept = {k for k, v in other.items() if v is not None}
    assert {k for k, v in mine.items() if v is not None} == kept
    for key in kept - {"step"}:
        np.testing.assert_allclose(array(mine[key]), array(other[key]), rtol=tolerance, atol=tolerance, err_msg=key)
