"""Batching rules and pushforwards of every op: a batch equals its examples one by one, and so do its derivatives.

On graphs, by the interpreter: vmap and jvp of the frontend, which emit the same, are in test_func.py.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from op_cases import build, gradient_graph, random_array, samples_of

from treadle.ir import batching, dtypes
from treadle.ir.autodiff import has_gradient
from treadle.ir.graph import Graph
from treadle.ir.interpreter import run
from treadle.ir.op import TABLE, Field, Kind, Op
from treadle.ir.pushforward import pushforward

SIZE = 3
CASES = [name for name, op in TABLE.items() if samples_of(op)]
DIFFERENTIABLE = [n for n in CASES if has_gradient(TABLE[n]) and TABLE[n].kind is not Kind.CONTROL]
# What has no rule for some operands, and runs once for each example.
LOOPS = {"convolution_int8", "int8_matmul", "linear_int8", "linear_int8_static", "embedding", "on_pairs"}


def graphs(op: Op) -> list[tuple[Graph, list[np.ndarray]]]:
    """Each sample in float64, or else in what it takes; the last one in complex128, too, if it takes that."""
    found, samples = [], samples_of(op)
    kinds = (dtypes.float64, dtypes.int64, dtypes.bool_, dtypes.float32, dtypes.bfloat16, dtypes.complex128)
    complexes = [(samples[-1], (dtypes.complex128,))] if op.field is not Field.REAL else []
    for sample, choice in [*[(s, kinds) for s in samples], *complexes]:
        for kind in choice:
            try:
                found.append(build(op, sample, kind))
                break
            except (RuntimeError, TypeError, IndexError, ValueError):
                continue
    return found


def wide(t: Any) -> bool:
    """Whether derivatives can be compared."""
    return t.dtype in (dtypes.float64, dtypes.complex128) and not t.weak


def weights_of(graph: Graph, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [random_array(o.type.shape, o.type.dtype, rng) for o in graph.outputs if wide(o.type)]


def differentiable(graph: Graph) -> bool:
    return all(wide(o.type) for o in graph.outputs if o.type.dtype.category >= dtypes.FLOAT) and any(wide(v.type) for v in graph.inputs)


def dot(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.conj(a) * b).sum().real)


def masks(count: int) -> list[tuple[bool, ...]]:
    """All operands batched, and each alone."""
    alone = [tuple([i == j for j in range(count)]) for i in range(count)] if count > 1 else []
    return [(True,) * count, *alone] if count else []


def examples(op: Op, arrays: Sequence[np.ndarray], flags: Sequence[bool]) -> list[np.ndarray]:
    """The arrays, those that are flagged with a batch of others like them in front."""
    rng = np.random.default_rng(5)
    out = []
    for a, flag in zip(arrays, flags, strict=True):
        if not flag:
            out.append(a)
        elif op.kind is Kind.CONTROL and a.dtype.kind in "ib":
            out.append(np.stack([a, ~a, a]) if a.dtype.kind == "b" else np.stack([a, a + 1, a + 4]))
        elif a.dtype.kind in "fc" and op.kind is not Kind.EXTERN and not op.name.startswith(("cummax", "max_pool")):
            out.append(np.stack([a, *[random_array(a.shape, dtypes.from_numpy(a.dtype), rng, op.domain) for _ in range(SIZE - 1)]]))
        elif a.ndim and a.dtype != np.uint8:
            extern = [a] * SIZE if a.dtype.kind == "i" else [a, 2 * a, 3 * a]  # pivots must stay what they are
            out.append(np.stack([a, np.flip(a, -1), a] if op.kind is not Kind.EXTERN else extern).astype(a.dtype))
        else:
            out.append(np.stack([a] * SIZE))
    return out


def one(arrays: Sequence[np.ndarray], flags: Sequence[bool], i: int) -> list[np.ndarray]:
    return [np.asarray(a[i]) if f else a for a, f in zip(arrays, flags, strict=True)]


def compare(got: Sequence[np.ndarray], want: Sequence[np.ndarray], what: str, tolerance: float = 1e-6) -> None:
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype, what
        kind = np.complex128 if w.dtype.kind == "c" else np.float64
        np.testing.assert_allclose(g.astype(kind), w.astype(kind), rtol=tolerance, atol=tolerance, err_msg=what)


def batched(graph: Graph, flags: Sequence[bool], size: int = SIZE) -> Graph:
    return batching.region(graph, tuple(flags), (True,) * len(graph.outputs), size)[0]


@pytest.mark.parametrize("name", CASES)
def test_a_batch_equals_its_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, looped = TABLE[name], []
    monkeypatch.setattr(batching, "on_loop", lambda op, size: looped.append(op.name))
    found = graphs(op)
    assert found
    for graph, arrays in found:
        for flags in masks(len(arrays)):
            whole = examples(op, arrays, flags)
            together = run(batched(graph, flags), whole)
            separate = [run(graph, one(whole, flags, i)) for i in range(SIZE)]
            compare(together, [np.stack(column) for column in zip(*separate, strict=True)], f"{name} {flags}\n{graph}")
            few, many = (len(batched(graph, flags, n).nodes) for n in (2, 5))
            assert few == many or name in LOOPS, f"{name}: {few} nodes for 2 examples, {many} for 5"
    assert set(looped) <= LOOPS


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_gradient_of_a_batch(name: str) -> None:
    op = TABLE[name]
    for graph, arrays in graphs(op)[:3]:
        if not differentiable(graph):
            continue
        wrt, weights = [i for i, v in enumerate(graph.inputs) if wide(v.type)], weights_of(graph, 2)
        flags = (True,) * len(arrays)
        whole = examples(op, arrays, flags)
        pulled = gradient_graph(graph, wrt)
        separate = [run(pulled, [*one(whole, flags, i), *weights]) for i in range(SIZE)]
        want = [np.stack(column) for column in zip(*separate, strict=True)]
        compare(run(gradient_graph(batched(graph, flags), wrt), [*whole, *[np.stack([w] * SIZE) for w in weights]]), want, name, 1e-5)
        compare(run(batched(pulled, flags + (False,) * len(weights)), [*whole, *weights]), want, name, 1e-5)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_pushforward_is_the_transposed_pullback(name: str) -> None:
    """sum(w * J t) = sum(t * J' w)."""
    op, rng = TABLE[name], np.random.default_rng(3)
    for graph, arrays in graphs(op):
        node = graph.nodes[-1]
        if not differentiable(graph):
            continue
        given, outs = [wide(v.type) for v in node.inputs], [o.type for o in node.outputs]
        values, results = _values(graph, arrays), run(graph, arrays)
        types = tuple([v.type for v in node.inputs])
        pushed, live = pushforward(op, types, node.attrs, tuple(outs), tuple(given), dtypes.default_float())
        tangents = [random_array(t.shape, t.dtype, rng) for t, g in zip(types, given, strict=True) if g]
        found = iter(run(pushed, [*values, *results, *tangents]))
        weights = weights_of(graph, 4)
        flags = [flag for flag, t in zip(live, outs, strict=True) if wide(t)]
        left = sum([dot(w, next(found)) if flag else 0.0 for flag, w in zip(flags, weights, strict=True)])
        wrt = [i for i, v in enumerate(graph.inputs) if wide(v.type)]
        pulled = run(gradient_graph(graph, wrt), [*arrays, *weights])
        right = sum([dot(g, t) for g, t in zip(pulled, tangents, strict=True)])
        assert left == pytest.approx(right, rel=1e-6, abs=1e-8), f"{name}\n{graph}\n{pushed}"


def _values(graph: Graph, arrays: Sequence[np.ndarray]) -> list[Any]:
    """The operands of the graph's last node: inputs and numbers."""
    known = dict(zip(graph.inputs, arrays, strict=True))
    return [known[v] if v in known else np.asarray(v.node.attrs[0]) for v in graph.nodes[-1].inputs]
