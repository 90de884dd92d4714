"""Programs from templates are those that planning gives, and planning with unknown sizes asks about them what it decides by."""
from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import random_functions as programs
from op_cases import CASES, build, float_inputs, gradient_graph, random_array, samples_of
from test_compile_random import op_by_op

import treadle
import treadle.nn.functional as F
from treadle import nn
from treadle.ir import dtypes
from treadle.ir.autodiff import has_gradient
from treadle.ir.graph import Graph
from treadle.ir.interpreter import DataError, run
from treadle.ir.op import TABLE, result_types
from treadle.ir.size import ABOVE, Size, Sizes, at_least, beyond, evaluated, in_order, roughly, surely
from treadle.passes import memory, pipeline
from treadle.passes.family import TEMPLATES, Family, Templates, Unfit, skeleton, with_numbers
from treadle.passes.memory import plan_memory
from treadle.passes.pipeline import compile_to_program, steps_of
from treadle.passes.program import Block, GemmStep, GroupStep, HostStep, KernelStep, LoopStep, Packing, Program, RoutineStep, Step
from treadle.passes.template import Template
from treadle.runtime import compiled, engine
from treadle.runtime.memory import array_of, own_copy

# -- sizes -------------------------------------------------------------------------------------------------------------
OPERATIONS: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: -a,
    lambda a, b: a // (b if b != 0 else 7), lambda a, b: a % (b if b != 0 else 5), lambda a, b: divmod(a, 4)[1],
    lambda a, b: -(-a // 16) * 16,
    lambda a, b: a if a < b else b, lambda a, b: max(a, b), lambda a, b: a + 1 if a == b else a - b, lambda a, b: abs(a - b),
]


def compute(seed: int, unknown: list[Any]) -> list[Any]:
    rng = random.Random(seed)
    values = [*unknown, 1, 2, 32]
    for _ in range(12):
        values.append(rng.choice(OPERATIONS)(rng.choice(values), rng.choice(values)))
    return values


@pytest.mark.parametrize("seed", range(60))
def test_a_computation_holds_wherever_its_conditions_do(seed: int) -> None:
    sizes = Sizes()
    symbolic = compute(seed, [sizes.unknown("s0", 6), sizes.unknown("s1", 10)])
    assert [v.value if isinstance(v, Size) else v for v in symbolic] == compute(seed, [6, 10])
    held = 0
    for a in range(1, 14):
        for b in range(1, 14):
            names: dict[str, int] = {"s0": a, "s1": b}
            for line in sizes.definitions:
                exec(line, {}, names)
            if all(eval(condition, {}, names) for condition, _ in sizes.conditions()):
                held += 1
                assert [evaluated(v, names) for v in symbolic] == compute(seed, [a, b])
    assert held >= 1


def test_sizes_that_are_pinned() -> None:
    sizes = Sizes()
    n = sizes.unknown("s0", 6)
    assert list(range(n)) == [0, 1, 2, 3, 4, 5]
    assert sizes.special and [c for c, _ in sizes.conditions()] == ["-6 + s0 == 0"]
    assert n / 4 == 1.5 and float(n) == 6.0 and f"{n}" == "6"
    assert (8 * n + 4) // 4 == 2 * n + 1 and (8 * n) % 4 == 0 and not sizes.definitions
    with pytest.raises(ZeroDivisionError):
        n // (n - n)
    assert (n + 1.5, 1.5 - n, n * 0.5) == (7.5, -4.5, 3.0)


def test_choices_of_speed_have_slack() -> None:
    def holds(sizes: Sizes, n: int) -> bool:
        return all(eval(condition, {}, {"s0": n}) for condition, _ in sizes.conditions())
    big, small, exact, special = Sizes(), Sizes(), Sizes(exact=True), Sizes(special=True)
    assert at_least(big.unknown("s0", 100), 100) and not at_least(small.unknown("s0", 99), 100)
    assert not list(big.conditions())
    assert [holds(small, n) for n in (1, 100 * ABOVE - 1, 100 * ABOVE)] == [True, True, False]
    pair = Sizes()
    assert not at_least(pair.unknown("s0", 99), pair.unknown("s1", 100))  # of two sizes neither is a threshold
    assert all(eval(c, {}, {"s0": 4000 * 99, "s1": 100}) for c, _ in pair.conditions())
    assert at_least(exact.unknown("s0", 100), 100) and not holds(exact, 99) and holds(exact, 100)
    assert at_least(special.unknown("s0", 1, 100), 100) and not list(special.conditions())
    assert at_least(3, 2) and not at_least(2, 3)
    some = Sizes()
    assert roughly(some.unknown("s0", 10)) == 10
    assert [holds(some, n) for n in (1, 10 * ABOVE, 10 * ABOVE + 1)] == [True, True, False]


def test_questions_whose_answers_bind_less() -> None:
    sizes = Sizes()
    n = sizes.unknown("s0", 6)
    assert not surely(n, 7) and not list(sizes.conditions())
    assert surely(n, 6) and [c for c, _ in sizes.conditions()] == ["-6 + s0 >= 0"]
    sizes = Sizes()
    n = sizes.unknown("s0", 67, 5)  # a sentence that is planned with more words than it has
    assert not surely(n, 6) and not list(sizes.conditions())
    assert surely(n, 5) and [c for c, _ in sizes.conditions()] == ["-5 + s0 >= 0"]
    sizes = Sizes()
    n = sizes.unknown("s0", 6)
    assert beyond(4 * n, 4) and not beyond(4, 4 * n)
    assert in_order([(0, 4 * n), (1, 4), (2, n)], key=lambda item: item[1]) == [(1, 4), (2, n), (0, 4 * n)]
    checks = [condition for condition, _ in sizes.conditions()]
    assert all(eval(c, {}, {"s0": m}) == (m >= 4 or c != "-4 + s0 >= 0") for c in checks for m in (1, 4)), checks


# -- programs ----------------------------------------------------------------------------------------------------------
def plain(step: Step) -> tuple:
    """A step without its nodes, which compare by identity."""
    if isinstance(step, KernelStep):
        return step.kernel, step.sizes, step.arguments
    if isinstance(step, GroupStep):
        return tuple([plain(s) for s in step.members])
    if isinstance(step, GemmStep):
        return step.dtype, step.batch, step.m, step.n, step.k, step.a, step.b, step.c, step.epilogue and plain(step.epilogue), step.form
    if isinstance(step, RoutineStep):
        return step.routine, step.arguments, step.units, step.grain, step.inputs, step.outputs
    if isinstance(step, LoopStep):
        return step.trip, tuple([plain(s) for s in step.body])
    assert isinstance(step, HostStep)
    types = tuple([v.type for v in (*step.node.inputs, *step.node.outputs)])
    return step.node.op, step.node.attrs, types, step.inputs, step.outputs


def same(a: Program, b: Program) -> bool:
    return ([plain(s) for s in a.steps] == [plain(s) for s in b.steps] and a.buffers == b.buffers
            and (a.inputs, a.outputs, a.scalars) == (b.inputs, b.outputs, b.scalars))


def check_results(program: Program, graph: Graph) -> None:
    """The program computes what the graph means."""
    rng = np.random.default_rng(0)
    arrays = [random_array(v.type.shape, v.type.dtype, rng, TABLE[graph.name.removesuffix("_vjp")].domain) for v in graph.inputs]
    named = compiled.named_kernels(plan_memory(program))
    compiled.compile_kernels(named)
    plan = compiled.CompiledPlan(program, [], {compiled._MODULES[form] for form in named.values()}, {})
    results = plan.run([own_copy(a, v.type) for a, v in zip(arrays, graph.inputs, strict=True)], [])
    assert results is not None
    for buffer, value, want in zip(results, graph.outputs, run(graph, arrays), strict=True):
        np.testing.assert_allclose(array_of(buffer, value.type), want, rtol=1e-4, atol=1e-5)


def other(n: int) -> int:
    """Another size for each, products for products: every prime factor becomes the next prime."""
    total, factor = 1, 2
    while n > 1:
        while n % factor == 0:
            n //= factor
            total *= next(p for p in range(factor + 1, 2 * factor + 2) if all(p % d for d in range(2, p)))
        factor += 1
    return total


def with_unknowns(graph: Graph) -> Template:
    """A template in which every number from 2 on is unknown."""
    numbers = skeleton(graph)[1]
    varies = {i for i, n in enumerate(numbers) if n >= 2}
    return Template(graph, [[other(n) if i in varies else n for i, n in enumerate(numbers)], numbers], varies, steps_of)


def graphs_of(name: str, sample: Any, dtype: dtypes.DType) -> list[tuple[Graph, list[int]]] | None:
    """An op's graph and that of its gradient, each with its numbers, but those without; None where the op has no such dtype."""
    try:
        graph, _ = build(TABLE[name], sample, dtype)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
        return None
    graphs = [graph]
    if has_gradient(TABLE[name]) and float_inputs(graph):
        graphs.append(gradient_graph(graph, float_inputs(graph)))
    found = []
    for g in graphs:
        with contextlib.suppress(Unfit):
            found.append((g, skeleton(g)[1]))
    return found


@pytest.mark.parametrize("name", list(dict.fromkeys(name for name, _ in CASES)))
def test_planning_with_unknown_sizes(name: str) -> None:
    """Every sample of the table, and its gradient, gives the same program with and without."""
    for sample in samples_of(TABLE[name])[:3]:
        for dtype in (dtypes.float32, dtypes.int64, dtypes.bool_):
            graphs = graphs_of(name, sample, dtype)
            if graphs is None:
                continue
            for g, numbers in graphs:
                template = with_unknowns(g)
                found = template.program(numbers)
                assert found
                if not same(found, steps_of(g)):  # planning alone takes numbers that happen to be equal for one
                    check_results(found, g)
            break


def consistent(graph: Graph) -> bool:
    """Whether every node has the types that its op's rule gives it."""
    try:
        found = [result_types(n.op, tuple([v.type for v in n.inputs]), n.attrs) for n in graph.nodes if n.op is not None]
        run(graph, [np.zeros(v.type.shape, v.type.dtype.np) for v in graph.inputs])
        return found == [tuple([o.type for o in n.outputs]) for n in graph.nodes]
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError, DataError):
        return False


def with_one(graph: Graph, size: int, to: int) -> Iterator[tuple[Graph, list[int]]]:
    """The graph with `to` in place of a size, and in what is a multiple of it or not; and its numbers."""
    numbers = skeleton(graph)[1]
    for made in ([to if n == size else n for n in numbers], [n // size * to if n and n % size == 0 else n for n in numbers]):
        small = with_numbers(graph, iter(made))
        if made != numbers and consistent(small):
            yield small, made


def suits(graph: Graph) -> bool:
    """Whether random inputs do not fail, by themselves, what the graph computes."""
    try:
        check_results(steps_of(graph), graph)
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError, DataError):
        return False
    return True


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("name", list(dict.fromkeys(name for name, _ in CASES)))
def test_a_special_size_as_a_usual_one(name: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of the table and their gradients with other sizes, one after another: those of 1 and 2 are planned as if they were not.
    The first is planned for other sizes as well, or is not."""
    for sample in samples_of(TABLE[name])[:2 if few else 1]:
        for g, usual in graphs_of(name, sample, dtypes.float32) or []:
            family = Family()
            monkeypatch.setattr("treadle.passes.family.MANY_NODES", few)
            first = family.program(g, usual, steps_of)
            if first is not None and suits(g):
                check_results(first, g)
            for size, to in ((n, to) for n in sorted(set(usual)) for to in (1, n + 1, 2, 2 * n)[:4 if few else 2] if n > 2):
                for small, numbers in with_one(g, size, to):
                    if suits(small):
                        found = family.program(small, numbers, steps_of)
                        if found is not None:
                            check_results(found, small)


def test_families_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further sizes are planned by templates; all sizes give right results, and none compiles anything new."""
    model = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(0, 1), nn.LayerNorm(8), nn.Linear(8, 5))

    def program(x: Any, y: Any, picks: Any) -> Any:
        h = model(x.reshape(-1, 3, 8)).softmax(-1)
        wide = F.pad(x.transpose(1, 2), (1, 2)).cumsum(1)
        rows = treadle.cat([y[picks], y.flip(0)[1:]], 0).sort(0)[0]
        scores = (x @ x.mT / 7).tril().amax(-1)
        loss = h.log().mean() + (wide.std() * rows.var(0).sum()) + scores.abs().sum() + x[:, 1:, ::2].logsumexp(1).mean()
        return loss, treadle.autograd.grad(loss, [x, y])

    def both(n: int, m: int) -> tuple[list[Any], list[Any]]:
        rng = np.random.default_rng(n)
        given = [rng.standard_normal((n, 3 * m, 8)).astype(np.float32), rng.standard_normal((m + 2, 4)).astype(np.float32)]
        picks = treadle.tensor(rng.integers(0, m + 2, n))
        results = []
        for _ in range(3):
            x, y = [treadle.tensor(a, requires_grad=True) for a in given]
            loss, gradients = program(x, y, picks)
            results.append([loss.detach().numpy(), *[g.numpy() for g in gradients]])
        return results[0], results[-1]  # interpreted, and by the plan

    monkeypatch.setattr(engine, "MANY_OPS", 10**6)  # every first run is numpy's, to compare with
    before = dict(TEMPLATES.failures)
    for n, m in ((3, 2), (4, 3), (5, 4)):
        both(n, m)
    used, compiles = TEMPLATES.used, treadle.stats()["llvm_compiles"]
    for n, m in ((6, 5), (7, 4), (11, 6), (4, 9), (13, 2), (20, 7)):
        for got, want in zip(*both(n, m), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    assert TEMPLATES.used > used and dict(TEMPLATES.failures) == before
    assert treadle.stats()["llvm_compiles"] == compiles


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.Flatten(),
                         nn.Linear(54, 5))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(x)[0][:, -1])


def attention() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True), nn.Linear(16, 5))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[int, ...]]]] = {
    "rows": (lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.LayerNorm(20), nn.Linear(20, 5)), lambda n: (n, 12)),
    "images": (convolutions, lambda n: (n, 3, 10, 10)), "sequences": (Recurrent, lambda n: (n, 7, 6)),
    "sentences": (attention, lambda n: (n, 9, 16)), "words": (attention, lambda n: (3, n, 16)),
}


# A step at each of these batches in turn. 16 and 5 are sizes of weights too.
BATCHES = [(8, 1, 9, 2, 1, 10), (1, 8, 90, 2), (2, 70, 1, 3), (16, 5, 1, 200), (2, 1000, 1)]
# One word is not told from one sentence.
BATCHES_OF = [(name, batches) for name in NETWORKS for batches in BATCHES if name != "words" or batches[0] > 1]


@pytest.mark.parametrize(("name", "batches"), BATCHES_OF)
def test_all_batches_take_the_same_kernels(name: str, batches: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes first, a last batch of one compiles nothing, nor a short sentence; and the training step is right."""
    monkeypatch.setattr(engine, "MANY_OPS", 10**6)  # every first run is numpy's, to compare with
    treadle.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make()
    start = {k: v.clone() for k, v in model.state_dict().items()}

    def step(x: Any) -> list[Any]:
        model.load_state_dict(start)
        optimizer = treadle.optim.SGD(model.parameters(), lr=0.1)
        optimizer.zero_grad()
        loss = model(x).logsumexp(-1).square().mean()
        loss.backward()
        optimizer.step()
        return [loss.item(), *[p.tolist() for p in model.parameters()]]

    kernels = []
    for n in batches:
        x = treadle.tensor(np.random.default_rng(n).standard_normal(shape(n)).astype(np.float32))
        first, *_, last = [step(x) for _ in range(4)]  # interpreted, and by the plan
        for got, want in zip(last, first, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
        kernels.append(engine.counters["kernels"])
    assert len(set(kernels)) == 1


@pytest.mark.parametrize(("name", "batches"), BATCHES_OF)
def test_the_second_batch_is_not_planned(name: str, batches: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step is planned for other batches and lengths at once, also for ones of quite other sizes."""
    planned: list[int] = []
    treadle.compiler.reset()
    monkeypatch.setattr(pipeline, "steps_of", lambda graph, *rest: planned.append(len(graph.nodes)) or steps_of(graph, *rest))
    treadle.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make()
    optimizer = treadle.optim.Adam(model.parameters())
    counts, interpreted = [], []
    for n in batches:
        x = treadle.tensor(np.random.default_rng(n).standard_normal(shape(n)).astype(np.float32))
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(x).logsumexp(-1).square().mean()
            loss.backward()
            optimizer.step()
            loss.item()
        counts.append(sum(count > 20 for count in planned))
        interpreted.append(engine.counters["interpreted"])
    assert interpreted[-1] == interpreted[-2], "nothing new is left to interpret"
    assert counts == [1] * len(batches)


def test_other_sizes_of_a_program_are_not_interpreted() -> None:
    """From the fifth on they come from a template at once, however many picks there are and whatever other sizes happen to be equal."""
    w = treadle.randn(6, 6, requires_grad=True)

    def step(n: int, m: int) -> float:
        x, y = treadle.ones(n, 6), treadle.zeros(6, 6)
        mask = treadle.arange(6) < m
        for _ in range(3):
            x = (x @ w).tanh()
        y[mask] = treadle.ones(m, 6) * 2.0
        loss = (treadle.cat([x, y[:m]]).sum(1) * 0.5).sum()
        loss.backward()
        found: float = (loss + w.grad.sum()).item()
        w.grad = None
        return found

    def expected(n: int, m: int) -> float:
        treadle.use_deterministic_algorithms(True)
        try:
            return step(n, m)
        finally:
            treadle.use_deterministic_algorithms(False)
    cases = [(7, 2), (9, 5), (8, 3), (6, 4), (13, 3), (4, 4), (12, 5), (5, 2), (10, 3), (3, 3)]
    runs = []
    for case in cases:
        before = engine.counters["interpreted"]
        runs.append((step(*case), engine.counters["interpreted"] - before))
    assert [count for _, count in runs[:4]] == [2, 2, 2, 2]  # up to the picks, and the rest
    assert all(count <= 1 for _, count in runs[4:]), runs  # the few ops of the first half may be interpreted
    for case, (found, _) in zip(cases, runs, strict=True):
        np.testing.assert_allclose(found, expected(*case), rtol=1e-5)


def test_what_goes_together_is_told_by_several_members() -> None:
    """Two sizes that are neighbours in two members, and not in a third, are two."""
    def graph(n: int, m: int) -> Graph:
        return build(TABLE["cat"], (((n, 4), (m, 4)), (0,)), dtypes.float32)[0]
    templates = Templates()
    found = [templates.program(graph(n, m), steps_of) is not None for n, m in ((3, 4), (5, 6), (7, 9), (8, 30), (6, 2))]
    assert found == [False, True, True, True, True]
    assert [f.made for f in templates.families.values()] == [2]


def test_a_failure_falls_back_to_planning_alone() -> None:
    graphs = [build(TABLE["add"], (((n, 4), (n, 4)), ()), dtypes.float32)[0] for n in (3, 5, 7, 9)]
    templates = Templates()

    def fails(graph: Graph) -> Program:
        raise TypeError("a size where a number is needed")
    assert [templates.program(g, fails) for g in graphs] == [None] * 4
    assert templates.failures == {"TypeError: a size where a number is needed": 1}


def test_families_are_told_apart_by_all_but_sizes() -> None:
    a, b = (build(TABLE["add"], (((3, 4), (3, 4)), ()), d)[0] for d in (dtypes.float32, dtypes.float64))
    c = build(TABLE["add"], (((3, 4), (4,)), ()), dtypes.float32)[0]
    d = build(TABLE["add"], (((5, 2), (5, 2)), ()), dtypes.float32)[0]
    keys = [skeleton(g)[0] for g in (a, b, c, d)]
    assert keys[0] == keys[3] and len(set(keys)) == 3
    assert same(compile_to_program(a), compile_to_program(a))


@pytest.mark.parametrize("part", range(2))
def test_random_programs_of_many_sizes(part: int) -> None:
    """Random functions on more and more rows: planned alone twice, then by templates; each result is that of the interpreter."""
    used = TEMPLATES.used
    for seed in range(part * 10, part * 10 + 10):
        step = programs.load(seed)
        for rows in (2, 4, 5, 1, 7, 11, 8, 3):
            numbers = np.random.default_rng(rows).standard_normal((2, rows, 3)).astype(np.float32)
            found = []
            for mode in (op_by_op(step), step, step):
                world = programs.World(treadle, seed)
                try:
                    results, counts = mode(treadle, world, treadle.tensor(numbers[0]), treadle.tensor(numbers[1]), 0.75)
                except (RuntimeError, IndexError, ValueError) as error:
                    found.append(type(error).__name__)
                    continue
                found.append([[r.detach().tolist() for r in results], counts, world.values()])
            assert programs.close(found[0], found[2]), f"seed {seed}, {rows} rows\n{programs.source(seed)}"
    assert TEMPLATES.used > used and not TEMPLATES.failures


def test_blocks_stand_where_they_stood_for_other_sizes() -> None:
    """Nothing that is alive at the same time overlaps, and the arena is as near its bound, or blocks are packed anew."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        spans = [sorted(rng.integers(0, 40, 2).tolist()) for _ in range(60)]
        packing = Packing([Block(first, last, (i,)) for i, (first, last) in enumerate(spans)])
        widths = rng.integers(1, 50, 60)
        again = 0
        for scale, other in ((64, 64), (128, 128), (192, 64), (64, 6400)):
            sizes = [int(w) * (scale if i % 2 else other) for i, w in enumerate(widths)]
            bound = memory._bound(packing.blocks, sizes, 40)
            offsets = memory._packed_again(packing, sizes, bound)
            again += offsets is not None
            if offsets is None:
                offsets = memory._pack_by_size(packing, sizes, bound)
            for i, (first, last) in enumerate(spans):
                for j, (f, n) in enumerate(spans[:i]):
                    assert f > last or n < first or offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
        assert again >= 1
