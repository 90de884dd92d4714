"""What a backward pass is given and what it computes again: the fewest bytes, the same bits."""
from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from program_runner import run_program

import treadle
import treadle.nn.functional as F
from treadle import nn
from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.graph import Value
from treadle.ir.types import tensor_type
from treadle.passes import partition, recompute
from treadle.passes.partition import Partition, needed_nodes
from treadle.passes.pipeline import compile_to_program, prepare
from treadle.passes.recompute import choose, light, weight
from treadle.runtime import memory


def cut_of(function: Any, *args: Any) -> Partition:
    """The partition of a compiled call."""
    compiled = treadle.compile(function, fullgraph=True)
    compiled(*args)
    assert compiled.last is not None and compiled.last.partition is not None
    return compiled.last.partition


def kept(parts: Partition) -> list[str]:
    return [v.node.op.name for v in parts.saved if v.node.op is not None]


def leaf(*shape: int) -> Any:
    return treadle.randn(*shape, requires_grad=True)


def test_elementwise_chains_save_nothing_but_their_input() -> None:
    parts = cut_of(lambda x: (x.exp().sin() * x.tanh()).sum(), leaf(64, 64))
    assert kept(parts) == [] and len(parts.saved) == 1


def test_a_hidden_layer_is_saved_once() -> None:
    w, v = leaf(32, 16), leaf(16, 8)
    parts = cut_of(lambda x: (F.gelu(x @ w) @ v).square().sum(), treadle.randn(4, 32))
    assert kept(parts) == ["matmul", "mul"]  # before gelu, which is computed again, and twice the result


def test_masks_of_dropout_are_never_stored() -> None:
    w = leaf(32, 32)
    parts = cut_of(lambda x: F.dropout(F.dropout(x @ w, 0.3) @ w, 0.5).sum(), treadle.randn(8, 32))
    assert not any(v.dtype is dtypes.bool_ or v.node.op.name == "random_bits" for v in parts.saved if v.node.op is not None)
    assert any(n.op.name == "random_bits" for n in parts.recomputed)


def test_sums_and_products_are_not_computed_again() -> None:
    layer, norm = nn.Linear(32, 32), nn.LayerNorm(32)
    parts = cut_of(lambda x: F.softmax(norm(layer(x)), 1).square().sum(), treadle.randn(8, 32))
    assert parts.recomputed and all(light(n) for n in parts.recomputed)


GOLDEN = """saved: 4 values, 640 bytes, and 4 inputs
  add tensor<8x16xf32>
  div tensor<8x1xf32>
  div tensor<8x1xf32>
  mul tensor<8x2xf32>
computed again: add x5, bitwise_and x2, cast x4, div x2, erf, exp, ge x2, mul x14, random_bits x2, \
rsqrt x2, shift_right x2, sub x3, where"""


def test_golden_report() -> None:
    treadle.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.LayerNorm(16), nn.Dropout(0.1), nn.Linear(16, 2))
    x = treadle.randn(8, 4)
    assert cut_of(lambda x: model(x).square().sum(), x).report() == GOLDEN
    text = str(treadle.explain(lambda x: model(x).square().sum(), x))
    assert "saved: 4 values, 640 bytes, and 4 inputs" in text and "computed again: add x5" in text


def random_graph(seed: int) -> tuple[list[Value], list[Value]]:
    """Values wanted, of a random graph of light and heavy ops; second, all values."""
    rng = np.random.default_rng(seed)
    b = Builder()
    rows = tensor_type((4, 4), dtypes.float32)
    values: list[Any] = [b.input(rows), b.input(tensor_type((4, 1), dtypes.float64))]
    for _ in range(8):
        x, y = (values[rng.integers(len(values))] for _ in range(2))
        made = [b.add(x, y), b.exp(x), b.cast(x, dtypes.float64), b.sum(x, (1,), True, None), b.cast(b.gt(x, y), dtypes.float32)]
        values.append(made[rng.integers(5)])
    wanted = [values[i] for i in rng.choice(len(values), 3, replace=False)]
    return wanted, [*b.graph.inputs, *[n.out for n in needed_nodes(b.graph.nodes, wanted)]]


def enough(wanted: list[Value], saved: Any) -> bool:
    """Whether light nodes lead from `saved` to all that is wanted."""
    stack, seen = list(wanted), set()
    while stack:
        v = stack.pop()
        if v in saved or v in seen:
            continue
        seen.add(v)
        if v.node.op is None or not light(v.node):
            return False
        stack += v.node.inputs
    return True


@pytest.mark.parametrize("seed", range(12))
def test_the_cut_is_the_smallest(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, values = random_graph(seed)
    found = choose(wanted, light)
    assert enough(wanted, set(found))
    best = sum(weight(v) for v in found)
    for size in range(min(len(values), 4)):
        for other in itertools.combinations(values, size):
            if sum(weight(v) for v in other) < best:
                assert not enough(wanted, set(other))
    monkeypatch.setattr(recompute, "MAX_CUT", 0)
    assert enough(wanted, set(choose(wanted, light)))


def network() -> Any:
    treadle.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.LayerNorm(24), nn.Dropout(0.2), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 5))
    return model, treadle.randn(16, 12), treadle.randint(0, 5, (16,))


def losses(compiled: bool, steps: int = 5, **options: Any) -> list[Any]:
    treadle.compiler.reset()
    model, x, y = network()
    optimizer = treadle.optim.SGD(model.parameters(), lr=0.1)

    def loss_of(x: Any, y: Any) -> Any:
        return F.cross_entropy(model(x), y)
    function = treadle.compile(loss_of, **options) if compiled else loss_of
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = function(x, y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return [found, [p.tolist() for p in model.parameters()]]


def test_values_agree_with_the_recorder() -> None:
    one, other = losses(False), losses(True)
    assert np.allclose(one[0], other[0], rtol=1e-5) and all(np.allclose(a, b, atol=1e-5) for a, b in zip(one[1], other[1], strict=True))


def test_the_rule_of_thumb_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = losses(True)
    monkeypatch.setattr(recompute, "MAX_CUT", 0)
    assert losses(True) == expected


def test_a_long_chain_takes_linear_time() -> None:
    """No recursion, and beyond a size no minimum cut."""
    x = leaf(4)
    found: list[Any] = []

    def chain(x: Any) -> Any:
        for _ in range(600):
            x = x.sin().exp()
        return x.sum()
    found = kept(cut_of(chain, x))
    assert found == [] or len(found) < 700


# -- a budget of memory --------------------------------------------------------------------------------------------------
def layers(seed: int) -> Any:
    """A random deep network, and its input."""
    choose_layer = np.random.default_rng(seed)
    width = int(choose_layer.integers(3, 9)) * 8
    made: list[Any] = []
    for _ in range(4):
        made += [nn.Linear(width, width), *choose_layer.choice([nn.GELU(), nn.Tanh(), nn.ReLU(), nn.Dropout(0.2), nn.Softplus()], 2)]
        if choose_layer.integers(3) == 0:
            made.append(nn.LayerNorm(width))
    return nn.Sequential(*made), treadle.randn(64, width)


def train(seed: int, whole: bool, budget: float) -> list[Any]:
    """Losses and parameters of three steps, bytes saved or the report, with forward or the whole step compiled."""
    treadle.compiler.reset()
    treadle.manual_seed(seed)
    model, x = layers(seed)
    optimizer = treadle.optim.SGD(model.parameters(), lr=0.01)

    def loss_of(x: Any) -> Any:
        return model(x).square().mean()

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = run(x)
        loss.backward()
        optimizer.step()
        return loss
    run = loss_of if whole else treadle.compile(loss_of, memory_budget=budget)
    once = treadle.compile(step, memory_budget=budget) if whole else step
    found = [once(x).item() for _ in range(4)]
    replay = (once if whole else run).last
    return [found, [p.tolist() for p in model.parameters()], replay.partition]


@pytest.fixture
def deterministic() -> Iterator[None]:
    """What a trace computes first is machine code already, so that equal trainings in one process are equal to the bit."""
    treadle.use_deterministic_algorithms(True)
    yield
    treadle.use_deterministic_algorithms(False)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_bits_are_equal_with_every_budget(seed: int, whole: bool, monkeypatch: pytest.MonkeyPatch, deterministic: None) -> None:
    monkeypatch.setattr(partition, "WORTH", 1)
    expected = train(seed, whole, 1.0)
    assert whole == (expected[2] is None)
    for budget in (0.5, 0.0):
        found = train(seed, whole, budget)
        assert found[:2] == expected[:2]
        assert found[2] is not None and found[2].recomputed


def deep() -> Any:
    treadle.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(12) for layer in (nn.Linear(32, 32), nn.Tanh())]), treadle.randn(512, 32)


def test_a_smaller_budget_needs_less_memory() -> None:
    """Twelve layers of 64 KiB: all saved, some, and about the root of it."""
    model, x = deep()
    peaks, arithmetic = [], []
    for budget in (1.0, 0.75, 0.0):
        compiled = treadle.compile(lambda x: model(x).square().sum(), memory_budget=budget)
        compiled(x).backward()
        parts = compiled.last.partition
        peaks.append(parts.peak)
        arithmetic.append(sum(n.op.name == "matmul" for n in parts.recomputed))
        assert "computed again" in str(treadle.explain(compiled, x))
    assert peaks[0] > 12 * 65536 and peaks[1] <= 0.75 * peaks[0] and peaks[2] <= peaks[1] and peaks[2] <= 9 * 65536
    assert arithmetic[0] == 0 < arithmetic[1] <= arithmetic[2] <= 12


def test_a_whole_step_within_a_budget() -> None:
    """The arena of a plan of forward and backward shrinks with the budget, and the report says by what."""
    model, x = deep()
    optimizer = treadle.optim.SGD(model.parameters(), lr=0.1)
    arenas = []
    for budget in (1.0, 0.0):
        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = model(x.repeat(8, 1)).square().sum()
            loss.backward()
            optimizer.step()
            return loss
        compiled = treadle.compile(step, memory_budget=budget)
        for _ in range(3):
            compiled(x)
        arenas.append(compiled.last.plan.compiled.program.arena)
    assert arenas[1] < 0.7 * arenas[0]
    assert "alive in the later part" in str(treadle.explain(compiled, x))


def test_wrong_budgets_are_refused() -> None:
    for wrong in (-0.1, 1.5, "half", True, None):
        with pytest.raises(ValueError, match="memory_budget is a number from 0 to 1"):
            treadle.compile(lambda x: x, options={"activation_memory_budget": wrong})
    assert treadle.compile(lambda x: x, options={"activation_memory_budget": 0.25}).memory_budget == 0.25
    assert treadle.compile(memory_budget=0.5)(lambda x: x).memory_budget == 0.5


def test_after_changes_nothing_but_the_order() -> None:
    """The value is computed behind the token's step, and is not one with what it would be without."""
    b = Builder()
    x = b.input(tensor_type((64, 64), dtypes.float32))
    early = b.exp(x)
    product = b.matmul(early, x)
    late = b.exp(b.after(x, product))
    b.graph.outputs = [b.matmul(product, late)]
    graph = prepare(b.graph)
    assert sum(n.op.name == "exp" for n in graph.nodes if n.op is not None) == 2
    program = compile_to_program(b.graph)
    kinds = [type(s).__name__ for s in program.steps]
    assert kinds == ["KernelStep", "GemmStep", "KernelStep", "GemmStep"]
    a = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) * np.float32(0.1)
    expected = np.exp(a) @ a @ np.exp(a)
    assert np.allclose(run_program(b.graph, [a])[0], expected, rtol=1e-4, atol=1e-4)


def test_a_compiled_step_holds_no_old_values() -> None:
    """Parameters, their gradients and Adam's two moments, once each."""
    gc.collect()
    before = memory.memory_stats()["in_use"]
    layer, x = nn.Linear(512, 512, bias=False), treadle.randn(4, 512)
    optimizer = treadle.optim.Adam(layer.parameters(), lr=0.01)

    @treadle.compile
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = layer(x).square().sum()
        loss.backward()
        optimizer.step()
        return loss
    for _ in range(4):
        step(x)
        treadle.cpu.synchronize()
    gc.collect()
    assert memory.memory_stats()["in_use"] - before < 4.5 * (1 << 20)
