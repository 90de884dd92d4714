"""Random programs of views, maps, reductions, joins and products: the lowered program against the interpreter."""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from program_runner import check

import treadle.ir.ops  # noqa: F401
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Value
from treadle.ir.types import tensor_type
from treadle.passes.memory import ALIGNMENT
from treadle.passes.program import Program

SHAPES = [(4, 6), (2, 3, 4), (12,), (2, 2, 3, 2), (8, 3)]


def _some_dims(r: random.Random, x: Value) -> tuple[int, ...]:
    return tuple(sorted(r.sample(range(len(x.shape)), r.randint(1, len(x.shape)))))


def _reshape(r: random.Random, b: Any, x: Value) -> Value:
    total = x.type.numel
    first = r.choice([d for d in range(1, total + 1) if total % d == 0])
    second = r.choice([d for d in range(1, total // first + 1) if (total // first) % d == 0])
    return b.reshape(x, (first, second, total // first // second))


def _slice(r: random.Random, b: Any, x: Value) -> Value:
    starts = tuple([r.randint(0, n - 1) if r.random() < 0.4 else 0 for n in x.shape])
    return b.slice(x, starts, x.shape, tuple([r.choice([1, 1, 2]) for _ in x.shape]))


def _cat(r: random.Random, b: Any, x: Value) -> Value:
    return b.cat(*[x] * r.randint(1, 3), b.mul(x, 2.0), dim=r.randrange(len(x.shape)))


def _product(r: random.Random, b: Any, x: Value) -> Value:
    n = len(x.shape)
    return b.mul(b.matmul(x, b.permute(x, (*range(n - 2), n - 1, n - 2))), 0.1) if n > 1 else x


MOVES: list[Callable[[random.Random, Any, Value], Value]] = [
    lambda r, b, x: getattr(b, r.choice(["tanh", "neg", "relu", "sigmoid", "abs"]))(x),
    lambda r, b, x: b.sum(x, _some_dims(r, x), r.random() < 0.6, None),
    lambda r, b, x: b.amax(x, _some_dims(r, x), r.random() < 0.6),
    lambda r, b, x: b.permute(x, tuple(r.sample(range(len(x.shape)), len(x.shape)))),
    lambda r, b, x: b.flip(x, (r.randrange(len(x.shape)),)),
    lambda r, b, x: b.pad(x, 0.5, tuple([r.randint(0, 1) for _ in x.shape]), tuple([r.randint(0, 2) for _ in x.shape])),
    _reshape, _slice, _cat, _product,
]


def random_program(seed: int) -> tuple[Graph, list[np.ndarray]]:
    r, rng, b = random.Random(seed), np.random.default_rng(seed), Builder()
    base = r.choice(SHAPES)
    shapes = [r.choice([base, base, base[-1:], (1,) * (len(base) - 1) + base[-1:]]) for _ in range(r.randint(1, 3))]
    values = [b.input(tensor_type(s, dtypes.float32)) for s in shapes]
    for _ in range(r.randint(3, 14)):
        x = r.choice(values)
        try:
            if r.random() < 0.25:
                value = getattr(b, r.choice(["add", "mul", "sub", "maximum"]))(x, r.choice(values))
            else:
                value = r.choice(MOVES)(r, b, x) if x.shape else b.exp(x)
        except RuntimeError:  # shapes that do not broadcast
            continue
        if value.type.numel <= 3000:
            values.append(value)
    made = [v for v in values if v.node.op is not None] or values
    b.graph.outputs = r.sample(made, min(len(made), r.randint(1, 4)))
    return b.graph, [rng.uniform(0.3, 1.2, s).astype(np.float32) for s in shapes]


def check_memory(program: Program) -> None:
    """Temporaries alive at the same step do not overlap, unless one takes over the other's memory."""
    temps = [i for i in program.buffers if i.kind == "temp" and i.offset >= 0]
    assert program.arena >= program.arena_bound
    for n, a in enumerate(temps):
        assert a.offset % ALIGNMENT == 0 and a.offset + a.nbytes <= program.arena
        for c in temps[n + 1:]:
            apart = a.offset + a.nbytes <= c.offset or c.offset + c.nbytes <= a.offset
            assert apart or a.last < c.first or c.last < a.first or (a.offset == c.offset and (a.last == c.first or c.last == a.first))


@pytest.mark.parametrize("block", range(8))
def test_random_programs(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        graph, inputs = random_program(seed)
        check_memory(check(graph, inputs, rtol=2e-3, atol=2e-3))
