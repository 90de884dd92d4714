"""The order of steps keeps little memory alive, changes no bit, and leaves small plans alone."""
from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from program_runner import Runner

import treadle
import treadle.ir.ops
import treadle.nn.functional as F
from treadle import nn
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph
from treadle.ir.types import tensor_type
from treadle.passes import order, pipeline
from treadle.passes.lower import lower
from treadle.passes.memory import donations, plan_memory
from treadle.runtime import engine, memory

MIB = 1 << 20


def graphs_of(run: Any) -> list[Graph]:
    """What `run` computes, as graphs."""
    found: list[Graph] = []
    engine.observers.append(found.append)
    try:
        run()
        treadle.cpu.synchronize()
    finally:
        engine.observers.clear()
    return found


def convolutions(steps: int = 3) -> Any:
    """Training steps of a small convolutional network, as one plan each."""
    treadle.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 32 * 32, 10))
    optimizer = treadle.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = treadle.randn(4, 8, 32, 32), treadle.randint(0, 10, (4,))

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            treadle.cpu.synchronize()
    return run


def test_values_are_used_up_as_soon_as_they_are_there() -> None:
    b = Builder()
    x = b.input(tensor_type((512, 512), dtypes.float32))
    products = [b.matmul(x, b.permute(b.slice(x, (0, 0), (512, 512), (1, 1)), (1, 0)))]
    for _ in range(7):
        products.append(b.matmul(products[-1], x))
    b.graph.outputs = [b.sum(p, (0, 1), False, None) for p in products]
    graph = pipeline.prepare(b.graph)
    plain, ordered = plan_memory(lower(graph)), plan_memory(order.order_steps(lower(graph)))
    assert plain.arena >= 8 * MIB and ordered.arena <= 2 * MIB + 4096
    assert ordered.arena == ordered.arena_bound


def test_a_training_step_keeps_donations_and_needs_less() -> None:
    graph = graphs_of(convolutions())[-1]
    prepared = pipeline.prepare(graph)
    plain, ordered = plan_memory(lower(prepared, False)), plan_memory(order.order_steps(lower(prepared, False)))
    assert ordered.arena < 0.8 * plain.arena
    assert ordered.arena <= 1.08 * ordered.arena_bound
    inputs = [b for b in plain.inputs if b >= 0]
    assert donations(ordered, inputs).keys() == donations(plain, inputs).keys()
    assert len(donations(ordered, inputs)) >= 8


def test_the_order_changes_no_bit() -> None:
    graph = graphs_of(convolutions())[-1]
    prepared = pipeline.prepare(graph)
    rng = np.random.default_rng(0)
    arrays = [np.asarray(0.01) if v.type.weak else rng.standard_normal(v.shape).astype(v.dtype.np) if v.dtype.category >= 2
              else rng.integers(0, 10, v.shape).astype(v.dtype.np) for v in graph.inputs]
    plain, ordered = plan_memory(lower(prepared, False)), plan_memory(order.order_steps(lower(prepared, False)))
    assert [type(s) for s in plain.steps] != [type(s) for s in ordered.steps]
    for one, other in zip(Runner(plain, arrays).run(), Runner(ordered, arrays).run(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_small_plans_keep_the_order_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    x = b.input(tensor_type((16, 16), dtypes.float32))
    products = [b.matmul(x, x) for _ in range(4)]
    b.graph.outputs = [b.sum(p, (0, 1), False, None) for p in products]
    program = lower(pipeline.prepare(b.graph))
    before = list(program.steps)
    assert order.order_steps(program).steps == before


def test_a_spent_tape_holds_no_values() -> None:
    """The loss keeps its tape; what the tape kept for the backward pass, and storages of views in it, go."""
    w = treadle.randn(64, 64, requires_grad=True)
    x = treadle.randn(8, 64)
    hidden = x @ w
    loss = (hidden.view(4, 128).exp() * hidden[:, :2].reshape(4, 4).sum()).sum()
    held = weakref.ref(hidden._storage.base)
    gc.disable()
    try:
        del hidden
        assert held() is not None
        loss.backward()
        assert held() is None and loss.grad_fn is not None
    finally:
        gc.enable()


def test_results_of_views_are_not_kept_by_the_loss() -> None:
    graph = graphs_of(attention_step)[-1]
    assert all(v.node.op.name != "linear" for v in graph.outputs)


def attention_step() -> None:
    layer, x = nn.Linear(8, 24, bias=False), treadle.randn(2, 4, 8)
    q, k, v = layer(x).view(2, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    loss = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 4, 8).square().sum()
    del q, k, v
    loss.backward()
    treadle.cpu.synchronize()
    assert memory.memory_stats()["in_use"] > 0 and loss.item() > 0
