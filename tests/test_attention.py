"""Attention block by block against the references: masks, dropout, shared heads, tails; memory, threads, what is computed how."""
from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import pytest

import treadle
from treadle.codegen import work
from treadle.ir import dtypes, interpreter
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.types import tensor_type
from treadle.nn import functional as F
from treadle.passes import attention
from treadle.passes.basic import decompose
from treadle.passes.program import RoutineStep
from treadle.runtime import bounds, memory, threads
from treadle.runtime.compiled import compile_graph
from treadle.runtime.memory import array_of

Arrays = list[np.ndarray]


def graph_of(arrays: Arrays, masks: Arrays, causal: bool, p: float) -> Graph:
    """Result, logarithms and gradients, from (g, query, key, value) and masks as the kernels take them."""
    b = Builder(Graph("attention"))
    values = [b.input(tensor_type(a.shape, dtypes.from_numpy(a.dtype))) for a in (*arrays, *masks)]
    g, q, k, v, *terms = values
    numbers = [b.number(x) for x in (q.shape[-1] ** -0.5, p, 7, 11)]
    flags: Any = {"causal": causal, "dropout": p > 0}
    out, lse = b.flash_attention(q, k, v, *numbers, *terms, **flags)
    b.graph.outputs = [out, lse, *b.flash_attention_backward(g, q, k, v, out, lse, *numbers, *terms, **flags)]
    return b.graph


def made(seed: int, batch: int, heads: int, groups: int, rows: int, keys: int, size: int, depth: int) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = ((batch, heads, rows, depth), (batch, heads, rows, size), (batch, groups, keys, size), (batch, groups, keys, depth))
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def compiled(graph: Graph, arrays: Arrays) -> Arrays:
    plan = compile_graph(graph)
    assert all(isinstance(s, RoutineStep) for s in plan.program.steps)
    assert bounds.check(plan.program)
    found = plan.run([memory.from_numpy(a) for a in arrays], [])
    assert found is not None
    return [np.array(array_of(x, v.type)) for x, v in zip(found, graph.outputs, strict=True)]


def mask_for(kind: str, batch: int, heads: int, rows: int, keys: int) -> Arrays:
    rng = np.random.default_rng(5)
    if kind == "bool":
        mask = rng.random((batch, 1, keys, rows)) < 0.5
        mask[..., rows // 2] = False  # a query that sees nothing
        return [mask]
    if kind == "float":
        return [np.where(rng.random((1, heads, keys, rows)) < 0.3, -np.inf, rng.standard_normal((1, heads, keys, rows))).astype(np.float32)]
    return [rng.random((batch, 1, keys, 1)) < 0.7] if kind == "keys" else []


@pytest.mark.parametrize("sizes", [(2, 4, 2, 40, 70, 16, 8), (4, 4, 4, 65, 65, 64, 64), (1, 2, 1, 33, 130, 128, 40),
                                   (1, 1, 1, 9, 3, 8, 24)])
@pytest.mark.parametrize("kind", ["", "causal", "bool", "float", "keys"])
def test_kernels_equal_the_references(sizes: tuple[int, ...], kind: str) -> None:
    arrays = made(0, *sizes)
    masks = mask_for(kind, sizes[0], sizes[1], sizes[3], sizes[4])
    for p in (0.0, 0.3):
        graph = graph_of(arrays, masks, kind == "causal", p)
        wanted = interpreter.run(graph, [*arrays, *masks])
        for name, got, want in zip(("out", "lse", "dq", "dk", "dv"), compiled(graph, [*arrays, *masks]), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=3e-5, err_msg=name)


@pytest.mark.parametrize("sizes", [(2, 4, 2, 40, 70, 16, 8), (1, 1, 1, 9, 3, 8, 24), (1, 2, 2, 33, 20, 24, 40)])
def test_what_scratch_memory_held_before_does_not_matter(sizes: tuple[int, ...]) -> None:
    """A panel that is not full has places for queries that are not there: NaN left in them must not reach the keys' gradients."""
    arrays, before = made(0, *sizes), threads.num_threads()
    threads.set_num_threads(1)
    try:
        for p in (0.0, 0.3):
            graph = graph_of(arrays, [], False, p)
            ctypes.memset(threads.scratch_pointer(), 0xFF, threads.SCRATCH_BYTES)
            for got, want in zip(compiled(graph, arrays), interpreter.run(graph, arrays), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-3, atol=3e-5)
    finally:
        threads.set_num_threads(before)


def test_references_equal_the_plain_formula() -> None:
    arrays = made(1, 2, 4, 2, 12, 10, 8, 8)
    for causal, p in itertools.product((False, True), (0.0, 0.4)):
        graph = graph_of(arrays, [], causal, p)
        for got, want in zip(interpreter.run(graph, arrays), interpreter.run(decompose(graph, routines=False), arrays), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_results_do_not_depend_on_threads_or_on_who_owns_what(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = made(2, 2, 4, 4, 150, 200, 16, 16)
    graph = graph_of(arrays, [], True, 0.2)
    before, found = threads.num_threads(), []
    try:
        for count, owners in ((1, 1), (2, 1), (1, 100), (2, 100)):
            threads.set_num_threads(count)
            monkeypatch.setattr(attention, "FEW_OWNERS", owners)
            found.append(compiled(graph, arrays))
    finally:
        threads.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_long_sequences_take_little_memory() -> None:
    """All scores would be 1 GiB, forwards and backwards."""
    n, size = 16384, 16
    b = Builder(Graph("long"))
    q, k, v, g = [b.input(tensor_type((1, 1, n, size), dtypes.float32)) for _ in range(4)]
    numbers = [b.number(x) for x in (0.25, 0.0, 0, 0)]
    flags: Any = {"causal": True, "gqa": False, "dropout": False}
    out, lse = b.scaled_dot_product_attention(q, k, v, *numbers, **flags)
    b.graph.outputs = [out, *b.scaled_dot_product_attention_backward(g, q, k, v, out, lse, *numbers, **flags)]
    program = compile_graph(b.graph).program
    assert program.arena + sum(info.nbytes for info in program.buffers) < 10 * n * size * 4
    few = F.scaled_dot_product_attention  # the interpreter goes block by block too
    x = treadle.randn(1, 1, n, size)
    array = x.numpy()[0, 0].astype(np.float64)
    scores = array[:64] @ array.T * 0.25
    weights = np.exp(scores - scores.max(1, keepdims=True))
    wanted = weights / weights.sum(1, keepdims=True) @ array
    for _ in range(2):
        np.testing.assert_allclose(few(x[:, :, :64], x, x).numpy()[0, 0], wanted, rtol=1e-3, atol=1e-4)


def families(function: Any, *args: Any) -> list[str]:
    program = treadle.inspect(function, *args).program
    return [s.routine.family for s in program.steps if isinstance(s, RoutineStep)]


def test_what_the_kernels_take() -> None:
    attend = F.scaled_dot_product_attention
    x = treadle.randn(2, 2, 16, 12)
    assert families(attend, x, x, x) == ["attention"]
    assert families(attend, x[0], x[0], x[0]) == ["attention"]
    half = x.to(treadle.bfloat16)
    assert families(attend, half, half, half) == ["attention"]
    assert families(attend, x[:, :, :2], x, x) == ["attention"]
    assert families(attend, x[:, :, :1], x, x) == []
    wide = x.to(treadle.float64)
    assert families(attend, wide, wide, wide) == []
    deep = x.reshape(2, 1, 2, 16, 12)
    assert families(attend, deep, deep, deep) == []
    bias = treadle.zeros(16, 16, requires_grad=True)
    assert families(attend, x, x, x, bias) == []  # a gradient of the mask takes all scores
    assert families(attend, x, x, x, bias.detach()) == ["attention"]


def test_layers_reach_the_kernels() -> None:
    layer = treadle.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1).train()
    assert families(lambda x: layer(x).sum(), treadle.randn(2, 16, 32)) == ["attention"]


def test_views_of_one_projection_are_read_where_they_are() -> None:
    def attend(x: Any) -> Any:
        q, k, v = x.reshape(2, 16, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v)
    plan = treadle.inspect(attend, treadle.randn(2, 16, 96)).plan
    assert "1 steps" in plan or "2 steps" in plan, plan


def test_the_same_mask_at_every_tier() -> None:
    def run() -> Arrays:
        treadle.manual_seed(3)
        x = [treadle.tensor(a, requires_grad=True) for a in made(4, 1, 2, 2, 20, 30, 8, 8)[1:]]
        out = F.scaled_dot_product_attention(*x, dropout_p=0.5)
        out.sum().backward()
        return [out.detach().numpy(), *[t.grad.numpy() for t in x if t.grad is not None]]
    interpreted, native, again = run(), run(), run()
    for a, b, c in zip(interpreted, native, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(b, c)


def test_profiles_count_the_products() -> None:
    program = treadle.inspect(F.scaled_dot_product_attention, *[treadle.randn(2, 3, 16, 8)] * 3).program
    assert [work.work_of(program, s).flops for s in program.steps] == [4 * 2 * 3 * 16 * 16 * 8]


def test_errors_are_raised_at_the_call() -> None:
    x = treadle.randn(1, 2, 8, 8)
    attend = F.scaled_dot_product_attention
    wrong = [
        (lambda: attend(x, x.double(), x), "same dtype"),
        (lambda: attend(x, x[..., :4], x), "last sizes"),
        (lambda: attend(x[0, 0, 0], x, x), "at least 2 dimensional"),
        (lambda: attend(x, x, x, dropout_p=1.5), "between 0 and 1"),
        (lambda: attend(x, x, x, attn_mask=treadle.ones(8, 8).long()), "attn_mask dtype"),
        (lambda: attend(x, *[treadle.randn(1, 3, 8, 8)] * 2, enable_gqa=True), "divide the number of heads"),
        (lambda: attend(x, x, x, attn_mask=treadle.ones(3, 8).bool()), "must match"),
        (lambda: attend(x, x, x, attn_mask=treadle.ones(8, 8).bool(), is_causal=True), "should not be set"),
    ]
    for call, text in wrong:
        with pytest.raises(RuntimeError, match=text):
            call()
