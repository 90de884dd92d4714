"""Complex numbers through the op table: compiled against interpreted, gradients against differences; what refuses them."""
from __future__ import annotations

import numpy as np
import pytest
from op_cases import build, check_gradients, float_inputs, gradient_graph, random_array, samples_of

from treadle.ir import dtypes
from treadle.ir.autodiff import has_gradient
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE, Field, Kind
from treadle.runtime import engine, memory
from treadle.runtime.compiled import compile_graph

# What has complex operands in its samples, or takes them where its samples give shapes.
OPS = {name: op for name, op in TABLE.items() if op.field is not Field.REAL and op.kind is not Kind.CONTROL}
CASES = [(name, i) for name, op in OPS.items() for i in range(len(samples_of(op)))]
TWICE = ["mul", "div", "pow", "exp", "log", "sqrt", "abs", "sgn", "angle", "matmul", "prod", "var", "cumprod"]


def built(name: str, which: int, dtype: dtypes.DType = dtypes.complex128) -> tuple:
    op = OPS[name]
    try:
        return build(op, samples_of(op)[which], dtype)
    except (RuntimeError, TypeError):  # an operand of the sample is an array of real numbers, or has to be real
        return build(op, samples_of(op)[which], dtypes.to_real(dtype))


@pytest.mark.parametrize(("name", "which"), CASES)
def test_compiled_equals_interpreted(name: str, which: int) -> None:
    graph, arrays = built(name, which, dtypes.complex64)
    expected = run(graph, arrays)
    found = compile_graph(graph).run([memory.from_numpy(np.ascontiguousarray(a)) for a in arrays], [])
    assert found is not None
    for buffer, value, want in zip(found, graph.outputs, expected, strict=True):
        got = engine.array_of(buffer, value.type)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "which"), [c for c in CASES if has_gradient(OPS[c[0]]) and c[0] != "cast"])
def test_gradient_equals_differences(name: str, which: int) -> None:
    graph, arrays = built(name, which)
    check_gradients(graph, arrays, tolerance=5e-6)


@pytest.mark.parametrize("name", TWICE)
def test_second_derivative_equals_differences(name: str) -> None:
    graph, arrays = built(name, 0)
    first = gradient_graph(graph, float_inputs(graph))
    rng = np.random.default_rng(3)
    extra = [random_array(v.type.shape, v.type.dtype, rng) for v in first.inputs[len(arrays):]]
    check_gradients(first, [*arrays, *extra], tolerance=2e-5)
