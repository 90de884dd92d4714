"""Expressions of the frontend's tests with operands on the simulated device: values, error types, and where results live."""
from __future__ import annotations

import math
import re
from typing import Any

import frontend_cases
import numpy as np
import pytest
from cuda_runner import driver  # noqa: F401

import treadle

pytestmark = pytest.mark.usefixtures("driver")
# Random draws differ by nothing but are compared elsewhere; tensors made inside an expression live on the CPU.
OTHERWISE = re.compile(r"rand|multinomial|bernoulli|dropout|m\.(tensor|ones|zeros|empty|full|eye|arange|tril_indices|triu_indices)\(|"
                       r"'cpu'|get_device|matrix_power\(S,0\)")
BLOCKS = 4
CASES = [e for e in [*frontend_cases.VALUES, *frontend_cases.GRADIENTS] if isinstance(e, str) and not OTHERWISE.search(e)][::3]


def tensors(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [t for part in value for t in tensors(part)]
    return [value]


def outcome(expression: str, device: str) -> tuple[list[Any], list[str], type | None]:
    """(values, devices of tensors, the error's type)"""
    env = {"m": treadle, "np": np, "math": math, **{n: treadle.tensor(a, device=device) for n, a in frontend_cases.ARRAYS.items()}}
    try:
        found = tensors(frontend_cases.value_of(expression, env))
        return ([t.tolist() if isinstance(t, treadle.Tensor) else t for t in found],
                [t.device.type for t in found if isinstance(t, treadle.Tensor)], None)
    except Exception as error:
        return [], [], type(error)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_expressions(block: int) -> None:
    for expression in CASES[block::BLOCKS]:
        want, _, error = outcome(expression, "cpu")
        got, devices, other = outcome(expression, "cuda")
        assert error is other, expression
        assert all(d == "cuda" for d in devices), expression
        for w, g in zip(want, got, strict=True):
            if isinstance(w, list | float | int):
                np.testing.assert_allclose(np.array(g, float), np.array(w, float), rtol=1e-4, atol=1e-5, err_msg=expression)
