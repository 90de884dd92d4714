"""Complex numbers through the op table: compiled against interpreted, gradients against differences; what refuses them."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from op_cases import build, check_gradients, float_inputs, gradient_graph, random_array, samples_of

import treadle
import treadle.func
import treadle.testing
from treadle.ir import dtypes
from treadle.ir.autodiff import has_gradient
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE, Field, Kind
from treadle.ir.ops.matmul import transposed
from treadle.ir.pushforward import pushforward
from treadle.ir.types import tensor_type
from treadle.passes.pipeline import compile_to_program
from treadle.passes.program import GemmStep, HostStep
from treadle.runtime import memory
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
        got = memory.array_of(buffer, value.type)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# float32 is coarse; symmetric matrices cannot be varied entry by entry; a phase of the results is LAPACK's choice.
NOT_THE_SLOPE = {"cast", "cholesky", "eigh", "eig", "svd"}


@pytest.mark.parametrize(("name", "which"), [c for c in CASES if has_gradient(OPS[c[0]]) and c[0] not in NOT_THE_SLOPE])
def test_gradient_equals_differences(name: str, which: int) -> None:
    graph, arrays = built(name, which)
    check_gradients(graph, arrays, tolerance=5e-6)


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if has_gradient(op) and samples_of(op) and n not in NOT_THE_SLOPE])
def test_the_tangent_is_the_directional_difference(name: str) -> None:
    graph, arrays = built(name, 0)
    node, rng = graph.nodes[-1], np.random.default_rng(2)
    if any(v.type.weak for v in node.inputs):
        return
    types, out_types = (tuple([v.type for v in values]) for values in (node.inputs, node.outputs))
    given = tuple([t.dtype.category >= dtypes.FLOAT for t in types])
    tangents = [random_array(a.shape, t.dtype, rng) for a, t, flag in zip(arrays, types, given, strict=True) if flag]
    outs = run(graph, arrays)
    pushed, live = pushforward(OPS[name], types, node.attrs, out_types, given, dtypes.default_float())
    found = run(pushed, [*arrays, *outs, *tangents])
    sides = []
    for step in (1e-6, -1e-6):
        rest = iter(tangents)
        sides.append(run(graph, [a + step * next(rest) if flag else a for a, flag in zip(arrays, given, strict=True)]))
    for (hi, lo), tangent in zip([pair for pair, flag in zip(zip(*sides, strict=True), live, strict=True) if flag], found, strict=True):
        np.testing.assert_allclose(tangent, (hi - lo) / 2e-6, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", TWICE)
def test_second_derivative_equals_differences(name: str) -> None:
    graph, arrays = built(name, 0)
    first = gradient_graph(graph, float_inputs(graph))
    rng = np.random.default_rng(3)
    extra = [random_array(v.type.shape, v.type.dtype, rng) for v in first.inputs[len(arrays):]]
    check_gradients(first, [*arrays, *extra], tolerance=2e-5)


# -- functions of matrices that do not depend on the phases of vectors -------------------------------------------------------
def _projections(b: Builder, vectors: Any) -> Any:
    """|v_i|^2 of each entry: without the vectors' phases."""
    return b.real(b.mul(vectors, b.conj(vectors)))


def _hermitian(b: Builder, x: Any) -> Any:
    return b.matmul(x, transposed(b, b.conj(x)))


MATRIX_FUNCTIONS: dict[str, Callable[[Builder, Any], list[Any]]] = {
    "cholesky": lambda b, x: [b.cholesky(_hermitian(b, x), False), b.cholesky(_hermitian(b, x), True)],
    "eigh": lambda b, x: [(r := b.eigh(_hermitian(b, x), False))[0], _projections(b, r[1])],
    "eig": lambda b, x: [(r := b.eig(x))[0], _projections(b, r[1])],
    "svd": lambda b, x: [(r := b.svd(x, False))[1], _projections(b, r[0]), _projections(b, r[2]), b.matmul(r[0], r[2])],
}


@pytest.mark.parametrize("name", MATRIX_FUNCTIONS)
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (4, 3), (3, 4)])
def test_gradients_of_matrix_functions(name: str, shape: tuple[int, ...]) -> None:
    if shape[-1] != shape[-2] and name != "svd":
        return
    rng = np.random.default_rng(7)
    array = rng.uniform(-1, 1, shape) + 1j * rng.uniform(-1, 1, shape)
    if shape[-1] == shape[-2]:
        array = array + np.diag([2.0, 3.0, 4.5])
    b = Builder(Graph(name))
    b.graph.outputs = list(MATRIX_FUNCTIONS[name](b, b.input(tensor_type(shape, dtypes.complex128))))
    check_gradients(b.graph, [array], tolerance=1e-5)


# -- the frontend ----------------------------------------------------------------------------------------------------------------
class _WithoutConjugate(treadle.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Any) -> Any:
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * g * ctx.saved_tensors[0]


def test_gradcheck_takes_complex_tensors() -> None:
    z = treadle.randn(2, dtype=treadle.complex128, requires_grad=True)
    x = treadle.randn(2, dtype=treadle.float64, requires_grad=True)
    check, again = treadle.autograd.gradcheck, treadle.autograd.gradgradcheck
    assert check(lambda a, b: (a * b).exp(), (z, x)) and check(lambda b: treadle.fft.rfft(b), (x,)) and again(lambda a: (a * a).abs(), (z,))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        check(_WithoutConjugate.apply, (z,))


def test_compiled_functions_and_transforms() -> None:
    z = treadle.randn(3, 4, dtype=treadle.cfloat)
    f = treadle.compile(lambda z, c: (z * c).abs() + (z.conj() * 1j).real)
    for c in (1j, 2 + 1j, 2 + 1j, 3.0, 2):
        a = z.numpy()
        np.testing.assert_allclose(f(z, c).numpy(), np.abs(a * c) + (a.conj() * 1j).real, rtol=1e-5, atol=1e-6)
    many = treadle.func.vmap(lambda z: treadle.view_as_real(treadle.fft.fft(z)) + z.abs().sum())(z)
    one = treadle.stack([treadle.view_as_real(treadle.fft.fft(r)) + r.abs().sum() for r in z])
    treadle.testing.assert_close(many, one)
    _, pushed = treadle.func.jvp(lambda z: (z * z).abs(), (z,), (z,))
    treadle.testing.assert_close(pushed, 2 * (z * z).abs())


def test_a_complex_parameter_trains() -> None:
    layer = treadle.nn.Linear(4, 3, dtype=treadle.cfloat)
    optimizer, x = treadle.optim.Adam(layer.parameters(), 0.05), treadle.randn(8, 4, dtype=treadle.cfloat)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = layer(x).abs().square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def _kernels(function: Any, *arguments: Any) -> list[str]:
    """What the steps of the compiled function are: "kernel", "product" or the op that runs on the host."""
    graph = treadle.inspect(function, *arguments).graph
    steps = compile_to_program(graph).steps
    return [s.node.attrs[0] if isinstance(s, HostStep) else "product" if isinstance(s, GemmStep) else "kernel" for s in steps]


def test_arithmetic_runs_in_kernels() -> None:
    z = treadle.randn(8, 8, dtype=treadle.cfloat)
    assert _kernels(lambda z: ((z * z + 1j).conj() / z).abs().sum(), z) == ["kernel"]
    assert set(_kernels(lambda z: z + z.mH, z)) == {"kernel"}
    assert _kernels(lambda z: z @ z, z).count("product") == 4
    assert [k for k in _kernels(lambda z: treadle.fft.fft(z * 2).real + 1, z) if k != "kernel"] == ["fft_c2c"]


def test_infinities_zeros_and_large_numbers_compiled_as_interpreted() -> None:
    parts = np.array([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 1e18, -1e-18], np.float32)
    grid = np.empty((9, 9), np.complex64)
    grid.real, grid.imag = parts[:, None], parts[None, :]
    other = np.roll(grid.reshape(-1), 13).reshape(9, 9)
    for name in ("add", "sub", "mul", "div", "eq", "ne", "abs", "isinf", "isnan", "isfinite", "conj", "neg", "logical_not", "angle"):
        op = OPS[name]
        arrays = [grid, other][:len(op.operands)] if name != "abs" else [grid * np.float32(1e12)]
        b = Builder(Graph(name))
        b.graph.outputs = [b.apply(op, tuple([b.input(tensor_type(x.shape, dtypes.complex64)) for x in arrays]), ())]
        expected = run(b.graph, arrays)[0]
        found = compile_graph(b.graph).run([memory.from_numpy(x) for x in arrays], [])
        assert found is not None
        got = memory.array_of(found[0], b.graph.outputs[0].type)
        both = [x.view(np.float32) if x.dtype.kind == "c" else x for x in (got, expected)]
        np.testing.assert_allclose(both[0], both[1], rtol=2e-6, err_msg=name)


@pytest.mark.parametrize("dim", [(0,), (1,), (0, 1)])
def test_both_parts_are_read_in_one_kernel(dim: tuple[int, ...]) -> None:
    b = Builder(Graph())
    b.graph.outputs = [b.sum(b.input(tensor_type((40, 67), dtypes.complex64)), dim, False, None)]
    value = random_array((40, 67), dtypes.complex64, np.random.default_rng(0))
    assert len(compile_to_program(b.graph).steps) == 1
    (found,) = compile_graph(b.graph).run([memory.from_numpy(value)], [])
    np.testing.assert_allclose(np.asarray(found).view(np.complex64).reshape(value.sum(dim).shape), value.sum(dim), rtol=1e-4, atol=1e-4)
