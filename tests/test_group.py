"""Horizontal fusion: small launches that do not depend on one another run as one, with the same results."""
from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from test_lower_fuzz import random_program

import treadle
from treadle import nn, profiler
from treadle.ir.builder import Builder
from treadle.ir.dtypes import float32
from treadle.ir.graph import Graph
from treadle.ir.types import tensor_type
from treadle.passes import pipeline
from treadle.passes.program import GroupStep, KernelStep, Program, walk
from treadle.runtime import compiled, memory, threads


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Every program that is compiled from now on."""
    found: list[Program] = []
    lower = compiled.compile_to_program

    def note(*args: Any) -> Program:
        found.append(lower(*args))
        return found[-1]
    monkeypatch.setattr(compiled, "compile_to_program", note)
    return found


def trained(model: nn.Module, make: Callable[[Any], treadle.optim.Optimizer], inputs: treadle.Tensor, classes: int,
            clip: float | None = None) -> None:
    """A few compiled steps."""
    optimizer = make(model.parameters())
    target = treadle.randint(0, classes, (len(inputs),))

    @treadle.compile
    def step() -> treadle.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, -2)[:len(target)], target)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss

    for _ in range(3):
        step().item()


def count(program: Program, name: str) -> tuple[int, int]:
    """Steps that compute the op `name`, and kernels that do."""
    def computes(step: Any) -> bool:
        return isinstance(step, KernelStep) and any(n.op is not None and n.op.name == name for n in step.nodes)
    steps = [s for s in program.steps if computes(s) or (isinstance(s, GroupStep) and any(map(computes, s.members)))]
    return len(steps), sum(map(computes, walk(program.steps)))


def test_updates_of_an_mlp_by_adam_are_one_launch(programs: list[Program]) -> None:
    sizes = (12, 16, 16, 16, 16, 4)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    trained(nn.Sequential(*layers), treadle.optim.Adam, treadle.randn(8, 12), 4)
    assert count(programs[-1], "sqrt") == (1, 10)


class Block(nn.Module):
    """A step of a GPT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: treadle.Tensor) -> treadle.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def test_a_gpt_with_clipping_and_adamw(programs: list[Program]) -> None:
    model = nn.Sequential(nn.Embedding(20, 16), *[Block(16) for _ in range(3)], nn.Linear(16, 20))
    tensors = len(list(model.parameters()))
    trained(model, treadle.optim.AdamW, treadle.randint(0, 20, (2, 6)), 20, clip=0.5)
    program = programs[-1]
    assert count(program, "sqrt")[1] > tensors and tensors == 39
    updates = [s for s in program.steps if isinstance(s, GroupStep) and len(s.members) >= tensors - 2]
    assert len(updates) == 2, "the norms of all gradients, and all updates"


def test_the_number_and_the_sizes_of_parameters_compile_nothing() -> None:
    def run(shapes: list[int]) -> int:
        params = [nn.Parameter(treadle.randn(n)) for n in shapes]
        optimizer = treadle.optim.SGD(params, lr=0.1, momentum=0.9)
        for p in params:
            p.grad = treadle.ones_like(p)
        step = treadle.compile(optimizer.step)
        for _ in range(3):
            step()
        assert all(np.isfinite(p.detach().numpy()).all() for p in params)
        return treadle.stats()["kernels"]
    before = run([3, 5])
    assert run([7, 5, 2, 4096, 5000, 12]) == before


def updates(sizes: list[int]) -> Graph:
    """p - 0.1 * g and the sum of g * g, for each size."""
    b = Builder()
    for n in sizes:
        p, g = b.input(tensor_type((n,), float32)), b.input(tensor_type((n,), float32))
        b.graph.outputs += [b.sub(p, b.mul(g, 0.1)), b.sum(b.mul(g, g), (0,), False, None)]
    return b.graph


def run_plan(graph: Graph, inputs: list[np.ndarray]) -> list[bytes]:
    results = compiled.compile_graph(graph).run([memory.from_numpy(x) for x in inputs], [])
    assert results is not None
    return [memory.array_of(r, v.type).tobytes() for r, v in zip(results, graph.outputs, strict=True)]


def both_ways(monkeypatch: pytest.MonkeyPatch, graph: Graph, inputs: list[np.ndarray]) -> None:
    together = run_plan(graph, inputs)
    with monkeypatch.context() as alone:
        alone.setattr(pipeline, "group", lambda program: program)
        assert run_plan(graph, inputs) == together


def test_random_programs_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3000, 3040):
        both_ways(monkeypatch, *random_program(seed))


SIZES = [1, 7, 64, 4095, 4096, 4097, 9000, 16384, 0, 16385, 40000, 3]


def test_bits_do_not_depend_on_groups_or_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, numbers = updates(SIZES), np.random.default_rng(0)
    inputs = [numbers.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs]
    both_ways(monkeypatch, graph, inputs)
    found = []
    before = threads.num_threads()
    for count in (1, 2, 3):
        threads.set_num_threads(count)
        try:
            found.append(run_plan(graph, inputs))
        finally:
            threads.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_what_depends_stays_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack is read after all its parts are written, and written over after it was read."""
    b = Builder()
    rows = [b.input(tensor_type((4,), float32)) for _ in range(3)]
    norms = [b.sqrt(b.sum(b.mul(x, x), (0,), True, None)) for x in rows]
    scale = b.sum(b.cat(*norms, *norms, dim=0), (0,), True, None)
    patched = b.slice_scatter(b.exp(rows[0]), scale, (1,), (2,), (1,))
    b.graph.outputs = [*[b.mul(x, scale) for x in rows], patched, b.sum(patched, (0,), False, None)]
    inputs = [np.full(4, i + 1.0, np.float32) for i in range(3)]
    both_ways(monkeypatch, b.graph, inputs)
    total = 2 * sum(np.sqrt(x @ x) for x in inputs)
    assert np.allclose(np.frombuffer(run_plan(b.graph, inputs)[2], np.float32), 3 * total)


def test_big_operands_stay_where_they_are() -> None:
    program = pipeline.compile_to_program(updates([20000, 20000]))
    assert not any(isinstance(s, GroupStep) for s in program.steps)


PLAN = """plan: 1 steps, arena 0 bytes (lower bound 0)
  together
    k0 sizes (8,)  b0 b1 b4
    k0 sizes (6,)  b2 b3 b6
    k1 sizes (8,)  b1 b5
    k1 sizes (6,)  b3 b7"""


def test_the_plan_names_every_launch() -> None:
    text = compiled.print_program(pipeline.compile_to_program(updates([8, 6])))
    assert text == PLAN


def test_a_profile_names_what_ran_together() -> None:
    params = [nn.Parameter(treadle.ones(n)) for n in (3, 5, 8)]
    for p in params:
        p.grad = treadle.ones_like(p)
    step = treadle.compile(treadle.optim.SGD(params, lr=0.5).step)
    for _ in range(3):
        step()
    with profiler.profile() as prof:
        step()
    found = [e for e in prof.events() if " x 3" in e.name]
    assert len(found) == 1 and found[0].bytes == 4 * 3 * (3 + 5 + 8)
