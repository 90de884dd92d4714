"""Graphs and arrays made from the op table's samples, for the tests that run over every op."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import treadle.ir.ops  # noqa: F401  (declares the table)
from treadle.ir import dtypes
from treadle.ir.autodiff import backpropagate, has_gradient, replay
from treadle.ir.builder import Builder
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph, Value
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE, Kind, Op
from treadle.ir.samples import samples_of
from treadle.ir.types import tensor_type

CASES = [(name, i) for name, op in TABLE.items() for i in range(len(samples_of(op)))]
# Control flow has graphs of one dtype in its samples: test_control.py has its gradients.
GRADIENT_CASES = [(name, i) for name, i in CASES if has_gradient(TABLE[name]) and TABLE[name].kind is not Kind.CONTROL]


def random_array(shape: tuple[int, ...], dtype: DType, rng: np.random.Generator, domain: tuple[float, float] | None = None) -> np.ndarray:
    """Numbers within `domain`, (-1.5, 1.5) by default; small integers for integer dtypes."""
    low, high = domain or (-1.5, 1.5)
    if dtype.is_complex:
        return dtypes.converted(np.asarray(rng.uniform(low, high, shape) + 1j * rng.uniform(-0.7, 0.7, shape)), dtype)
    if dtype.category == dtypes.FLOAT:
        return np.asarray(rng.uniform(low, high, shape)).astype(dtype.np)
    if dtype.category == dtypes.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    return np.asarray(rng.integers(1 if domain or not dtype.signed else -3, 5, shape)).astype(dtype.np)


def build(op: Op, sample: Any, dtype: DType, seed: int = 0) -> tuple[Graph, list[np.ndarray]]:
    """A graph of one node whose shape operands are inputs of `dtype`, and arrays for its inputs. Raises what the type rule raises."""
    rng = np.random.default_rng(seed)
    b, arrays, values = Builder(Graph(op.name)), [], []
    for given in sample[0]:
        if isinstance(given, (bool, int, float)):
            values.append(b.number(given))
            continue
        array = given if isinstance(given, np.ndarray) else random_array(tuple(given), dtype, rng, op.domain)
        if array.dtype in (np.float32, np.complex64) and dtype in (dtypes.float64, dtypes.complex128):  # differences need the precision
            array = array.astype(np.float64 if array.dtype == np.float32 else np.complex128)
        if array.dtype.kind == "f" and isinstance(given, np.ndarray) and dtype.is_complex:
            array = dtypes.converted(np.asarray(array + 0.2j * rng.uniform(-1, 1, array.shape)), dtype)
        arrays.append(array)
        values.append(b.input(tensor_type(array.shape, dtypes.from_numpy(array.dtype))))
    result = b.apply(op, tuple(values), tuple(sample[1]))
    b.graph.outputs = list(result) if isinstance(result, tuple) else [result]
    return b.graph, arrays


def gradient_graph(graph: Graph, wrt: Sequence[int], cotangents: int = 1) -> Graph:
    """A graph of (inputs of `graph`, one gradient for each floating output) whose outputs are the gradients of the inputs `wrt`."""
    b = Builder(Graph(f"{graph.name}_vjp"))
    env: dict[Value, Any] = {v: b.input(v.type) for v in graph.inputs}
    given = [b.input(o.type) if o.type.dtype.category >= dtypes.FLOAT else None for o in graph.outputs]
    replay(b, graph, env)
    found = backpropagate(b, graph, env, given, [graph.inputs[i] for i in wrt])
    b.graph.outputs = [b.full(0, graph.inputs[i].type.shape, graph.inputs[i].type.dtype, "cpu") if g is None else g
                       for i, g in zip(wrt, found, strict=True)]
    return b.graph


def float_inputs(graph: Graph) -> list[int]:
    return [i for i, v in enumerate(graph.inputs) if v.type.dtype.category >= dtypes.FLOAT]


def check_gradients(graph: Graph, arrays: list[np.ndarray], wrt: Sequence[int] | None = None, tolerance: float = 2e-6) -> None:
    """Compare every gradient with central differences of a random projection of the outputs, in float64 or complex128.

    Of a complex input the gradient is dL/dRe + i dL/dIm; that of a complex output, w, stands for L = Re(conj(w) * out).
    """
    wrt = float_inputs(graph) if wrt is None else list(wrt)
    rng = np.random.default_rng(1)
    weights = [random_array(o.type.shape, dtypes.complex128 if o.type.dtype.is_complex else dtypes.float64, rng)
               for o in graph.outputs if o.type.dtype.category >= dtypes.FLOAT]
    found = run(gradient_graph(graph, wrt), [*arrays, *weights])

    def project(values: list[np.ndarray]) -> float:
        outs = [a for a, o in zip(run(graph, values), graph.outputs, strict=True) if o.type.dtype.category >= dtypes.FLOAT]
        return float(sum((a * np.conj(w)).sum().real for a, w in zip(outs, weights, strict=True)))

    for i, gradient in zip(wrt, found, strict=True):
        assert gradient.shape == arrays[i].shape and gradient.dtype == arrays[i].dtype
        expected = np.zeros(arrays[i].shape, gradient.dtype)
        for place in np.ndindex(arrays[i].shape):
            for unit in (1, 1j) if gradient.dtype.kind == "c" else (1,):
                sides = []
                for step in (1e-6, -1e-6):
                    moved = [a.copy() for a in arrays]
                    moved[i][place] += step * unit
                    sides.append(project(moved))
                expected[place] += unit * (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=tolerance, err_msg=f"{graph.name}: gradient of input {i}")
