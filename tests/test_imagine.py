"""What is imagined of other data is what is recorded with it."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from zoo import ZOO

import treadle
import treadle.nn.functional as F
from treadle import nn
from treadle.ir.graph import Graph
from treadle.ir.kernel import REDUCE
from treadle.passes import imagine, member, pipeline
from treadle.passes.family import skeleton
from treadle.passes.pipeline import steps_of
from treadle.passes.program import KernelStep, walk
from treadle.runtime import engine

MANY = 16  # ops of a graph that is looked at


def graphs_of(step: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> dict[tuple, tuple[Graph, list[int]]]:
    """The graphs that a step records, with their numbers, by what they are but for these."""
    found: list[Graph] = []
    monkeypatch.setattr(engine, "COMPILE", lambda graph: bool(found.append(graph)))
    treadle.compiler.reset()
    for _ in range(2):
        step()
    return {skeleton(g)[0]: (g, skeleton(g)[1]) for g in found if len(g.nodes) >= MANY}


def trained(model: nn.Module, loss: Callable[..., Any], *data: Any) -> Callable[[], Any]:
    optimizer = treadle.optim.SGD(model.parameters(), lr=0.01)

    def step() -> float:
        optimizer.zero_grad()
        found = loss(model, *data)
        found.backward()
        optimizer.step()
        return found.item()
    return step


def resized(arrays: tuple[Any, ...], n: int) -> list[Any]:
    batch = arrays[0].shape[0]
    return [treadle.tensor(np.resize(a, (n, *a.shape[1:])) if a.ndim and a.shape[0] == batch else a) for a in arrays]


def check(small: dict, large: dict, batches: dict[int, int], lengths: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> int:
    """Graphs recorded in both cases: what is imagined of the first is the second. How many there are."""
    monkeypatch.setattr(member, "_unlike", lambda size, least, _: (batches if least == imagine.LEAST else lengths).get(size, 31))
    both = [key for key in small if key in large]
    for key in both:
        graph, numbers = small[key]
        found = imagine.imagined(graph, numbers)
        assert found is not None and found[0][-1] == large[key][1]
    return len(both)


@pytest.mark.parametrize("first", [1, 2, 4, 16])  # also the sizes of weights, of images, and how many layers there are
@pytest.mark.parametrize("name", "mlp vae lstm transformer gpt lenet resnet mobilenet unet vit dcgan actor_critic".split())
def test_other_batches(name: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program = ZOO[name]
    monkeypatch.setattr(imagine, "_longer", lambda *_: None)

    def recorded(n: int) -> dict:
        treadle.manual_seed(0)
        model = program.make(treadle)
        data = resized(program.data(np.random.default_rng(0)), n)
        return graphs_of(trained(model, lambda net, *d: program.loss(treadle, net, *d), *data), monkeypatch)
    assert check(recorded(first), recorded(37), {first: 37}, {}, monkeypatch)


class Shared(nn.Module):
    """Parameters that have the shape of one sample, or of a part of one."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.places = nn.Parameter(treadle.ones(1, 1, 6)), nn.Parameter(treadle.ones(1, 9, 6))
        self.scale, self.bias = nn.Parameter(treadle.ones(6)), nn.Parameter(treadle.ones(1, 6))
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Any) -> Any:
        x = treadle.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places[:, :x.shape[1] + 1]
        return self.layer(x * self.scale.reshape(1, 1, 6)).sum(1) * self.bias


def test_what_belongs_to_all_samples() -> None:
    """The gradient of a parameter is that of all samples, also of one; what is recorded for one is what is recorded for many."""
    def graph(model: nn.Module, x: Any) -> Graph:
        def gradients(x: Any) -> Any:
            return treadle.autograd.grad(model(x).square().sum(), list(model.parameters()))
        return treadle.inspect(gradients, x).graph
    model, x = Shared(), vectors(5, 4, 6)
    shapes = [skeleton(graph(model, part))[0] for part in (x, x[:1], x[:2, :1])]
    assert shapes[0] == shapes[1] == shapes[2]
    each = []
    for part in (x, *x.split(1)):
        found = treadle.autograd.grad(model(part).sum(), list(model.parameters()))
        assert all(g.shape == p.shape for g, p in zip(found, model.parameters(), strict=True))
        each.append([g.numpy() for g in found])
    for whole, parts in zip(each[0], zip(*each[1:], strict=True), strict=True):
        np.testing.assert_allclose(whole, sum(parts), rtol=1e-4)
    leaf = treadle.ones(1, 3, 6, requires_grad=True)  # data, as in an attack
    (leaf * 2 + leaf[:, :1]).sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == [[[5.0] * 6, [2.0] * 6, [2.0] * 6]]


class Decoder(nn.Module):
    """Positions are cut out of a table, and each word sees those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(19, 12), nn.Parameter(treadle.zeros(1, 64, 12))
        self.layer, self.out = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True), nn.Linear(12, 19)

    def forward(self, x: Any) -> Any:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.out(self.layer(self.words(x) + self.places[:, :length], src_mask=mask))


class Tagger(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer, self.out = nn.LSTM(5, 8, batch_first=batch_first, bidirectional=True), nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        return self.out(self.layer(x)[0])


def next_words(model: nn.Module, x: Any) -> Any:
    return F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())


def words(n: int, length: int) -> Any:
    return treadle.tensor(np.random.default_rng(0).integers(0, 19, (n, length)))


def vectors(*shape: int) -> Any:
    return treadle.tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def squares(model: nn.Module, x: Any) -> Any:
    return model(x).square().mean()


def spoken(model: nn.Module, x: Any) -> Any:
    """CTC is loops with regions of their own, in the record too."""
    n, length, _ = x.shape
    return F.ctc_loss(model(x).log_softmax(-1).transpose(0, 1), treadle.ones(n, 1, dtype=treadle.int64), (length,) * n, (1,) * n)


class Masked(nn.Module):
    """Words of a sentence that is shorter are left out; a second sequence has another length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(19, 12), nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True)
        self.other, self.out = nn.MultiheadAttention(12, 2, batch_first=True), nn.Linear(12, 19)

    def forward(self, x: Any, memory: Any) -> Any:
        h = self.layer(self.words(x), src_key_padding_mask=x == 0)
        return self.out(h + self.other(h, memory, memory)[0])


SEQUENCES: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Any], Callable[..., Any]]] = {
    "decoder": (Decoder, words, next_words),
    "tagger": (lambda: Tagger(True), lambda n, t: vectors(n, t, 5), squares),
    "time first": (lambda: Tagger(False), lambda n, t: vectors(t, n, 5), squares),
    "signals": (lambda: nn.Sequential(nn.Conv1d(3, 6, 5, padding=2), nn.ReLU(), nn.Conv1d(6, 4, 3)),
                lambda n, t: vectors(n, 3, t + 2), squares),
    "halved": (lambda: nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.GELU(), nn.MaxPool1d(2), nn.Conv1d(6, 4, 3, stride=2)),
               lambda n, t: vectors(n, 3, t + 6), squares),
    "spoken": (lambda: Tagger(True), lambda n, t: vectors(n, t, 5), spoken),
    "waves": (lambda: nn.Sequential(nn.Conv1d(3, 6, 5, stride=3, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.AvgPool1d(3, 2, padding=1),
                                    nn.Conv1d(6, 6, 3, padding=2, dilation=2, groups=6), nn.SiLU(), nn.Conv1d(6, 5, 2, stride=2)),
              lambda n, t: vectors(n, 3, t + 20), squares),
    "two": (Masked, lambda n, t: [words(n, t), vectors(n, t + 3, 12)], lambda model, x, y: model(x, y).square().mean()),
}


# 12 and 24 are sizes of weights of the decoder.
LENGTHS = [(name, sizes) for name in SEQUENCES if name not in ("spoken", "waves")
           for sizes in ((9, 14), (4, 7), (12, 24), (1, 9), (8, 2), (9, 9), (4, 1), (1, 1))
           if (name, sizes) not in (("decoder", (4, 1)), ("decoder", (1, 1)), ("signals", (8, 2)))
           and (name != "halved" or sizes in ((12, 24), (1, 9)))]  # else there are as many steps as channels, or samples


@pytest.mark.parametrize(("name", "sizes"), LENGTHS)
def test_other_lengths(name: str, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    make, data, loss = SEQUENCES[name]

    def recorded(n: int, length: int) -> dict:
        treadle.manual_seed(0)
        given = data(n, length)
        return graphs_of(trained(make(), loss, *(given if isinstance(given, list) else [given])), monkeypatch)
    n, length = sizes
    more = {"halved": 6, "signals": 2}.get(name, 0)
    both = {n: 37}, {length + more: 29 + more, length + 3: 32}
    assert check(recorded(n, length), recorded(37, 29), *(both[::-1] if name == "time first" else both), monkeypatch)


def test_a_product_has_two_sizes_and_weights_none() -> None:
    """The data is known by what is computed from it; without types that go together nothing is imagined."""
    def recorded(f: Callable[..., Any], *arguments: Any) -> Graph:
        return treadle.inspect(f, *arguments).graph
    w = treadle.ones(8, 8)
    graph = recorded(lambda x, w: treadle.relu(x @ w) @ w, treadle.ones(8, 8), w)
    numbers = skeleton(graph)[1]
    found = imagine.imagined(graph, numbers)
    assert found is not None and found[1] == [8] and sum(a != b for a, b in zip(found[0][-1], numbers, strict=True)) == 4
    graph = recorded(lambda x: x.reshape(2, 3, 4).sum(0) + treadle.ones(3, 4), treadle.ones(6, 4))
    assert skeleton(graph)[1] and imagine.imagined(graph, skeleton(graph)[1]) is None


@pytest.mark.parametrize("name", list(SEQUENCES))
def test_steps_of_all_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and lengths one after another, even and odd, equal and single ones: what is computed is what the interpreter computes."""
    make, data, loss = SEQUENCES[name]
    sizes = [(4, 9), (16, 9), (3, 12), (1, 5), (12, 12), (2, 31), (5, 4), (6, 2), (1, 3)]

    def steps() -> list[list[Any]]:
        treadle.compiler.reset()
        treadle.manual_seed(0)
        model = make()
        start = {k: v.clone() for k, v in model.state_dict().items()}
        found = []
        for n, length in sizes:
            given = data(n, length)
            step = trained(model, loss, *(given if isinstance(given, list) else [given]))
            for _ in range(3):
                model.load_state_dict(start)
                value = step()
            found.append([value, *[p.tolist() for p in model.parameters()]])
        return found
    compiled = steps()
    monkeypatch.setattr(engine, "COMPILE", lambda graph: False)
    monkeypatch.setattr(engine, "one_of_many", lambda graph: False)
    for got, want in zip(compiled, steps(), strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


# Samples, steps and words that are equally many are not always told apart.
FIRST = [(name, first) for name in SEQUENCES if name != "spoken" for first in ((4, 9), (9, 9), (4, 1), (1, 1), (16, 24))
         if (name, first) not in (("decoder", (1, 1)), ("time first", (9, 9)), ("time first", (1, 1)))]


@pytest.mark.parametrize(("name", "first"), FIRST)
def test_nothing_is_compiled_or_planned_for_other_sizes(name: str, first: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes first: one sample, one step, as many steps as samples; and whether lengths can be halved or not."""
    make, data, loss = SEQUENCES[name]
    if name == "decoder":
        first = first[0], first[1] + 1  # the next word of one
    planned: list[int] = []
    monkeypatch.setattr(pipeline, "steps_of", lambda graph, *rest: planned.append(len(graph.nodes)) or steps_of(graph, *rest))
    treadle.compiler.reset()
    treadle.manual_seed(0)
    model = make()
    counts = []
    few = 3 if name == "decoder" else 1  # one sentence of two words is recorded otherwise
    for n, length in (first, (7, 30), (16, 9), (2, 31), (1, 33), (5, few), (1, few), (3, 50), (12, 12), (1, 17)):
        given = data(n, length)
        step = trained(model, loss, *(given if isinstance(given, list) else [given]))
        for _ in range(3):
            step()
        counts.append((engine.counters["kernels"], sum(count > 9 for count in planned)))
    assert len(set(counts)) == 1, (counts, planned)


def test_loops_are_planned_once_for_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not imagined, but the second size makes a template."""
    planned: list[int] = []
    monkeypatch.setattr(pipeline, "steps_of", lambda graph, *rest: planned.append(len(graph.nodes)) or steps_of(graph, *rest))
    treadle.compiler.reset()
    model = Tagger(True)
    kernels = []
    for n, length in ((4, 9), (6, 12), (1, 7), (16, 30), (5, 8)):
        step = trained(model, spoken, vectors(n, length, 5))
        for _ in range(3):
            step()
        kernels.append(engine.counters["kernels"])
    assert sum(count > 50 for count in planned) == 2 and len(set(kernels)) == 1


def test_what_is_planned_for_many_serves_the_few_it_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of 8 positions is covered by the words that are imagined, but not by the 5 that there are."""
    planned: list[int] = []
    monkeypatch.setattr(pipeline, "steps_of", lambda graph, *rest: planned.append(len(graph.nodes)) or steps_of(graph, *rest))
    treadle.compiler.reset()
    program = ZOO["transformer"]
    model = program.make(treadle)
    data = program.data(np.random.default_rng(0))
    loss = treadle.compile(lambda *d: program.loss(treadle, model, *d))
    for n in (32, 7, 1):
        for _ in range(3):
            with treadle.no_grad():
                loss(*resized(data, n)).item()
    assert sum(count > 100 for count in planned) == 1


def test_reductions_do_not_sweep_over_windows_of_two() -> None:
    """The gradient of a pooling is put together once, in memory, not again in every sweep of batch norm's."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    program = treadle.inspect(lambda x: treadle.autograd.grad(squares(model, x), list(model.parameters())), vectors(2, 3, 8, 8)).program
    sweeping = [step for step in walk(program.steps) if isinstance(step, KernelStep) and any(a.kind == REDUCE for a in step.kernel.axes)]
    assert sweeping and all(step.sizes[-1] > 2 for step in sweeping)
