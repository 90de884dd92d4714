"""What a compiled call must not replay blindly: state that changed, side effects, data-dependent branches, aliases."""
from __future__ import annotations

import copy
import dataclasses
import functools
import math
import random
from collections import namedtuple

import numpy as np
import pytest

import treadle as torch
import treadle.nn.functional as F
from treadle import nn


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) if a.dtype is not torch.float32 else torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def replays(f):
    return sum(r.hits for known in f.replays.values() for r in known)


# -- what must not be replayed blindly ---------------------------------------------------------------------------------------------
COUNT = 0
FLAG = True
TABLE = {"k": 2.0}
ITEMS = [1.0, 2.0]


def test_globals_are_guarded_and_written():
    global COUNT, FLAG

    @torch.compile
    def f(x):
        global COUNT
        COUNT += 1
        return x * COUNT if FLAG else x - COUNT

    COUNT, FLAG = 0, True
    x = torch.ones(2)
    for i in range(1, 6):
        assert same(f(x), x * i) and COUNT == i and type(COUNT) is int
    FLAG = False
    assert same(f(x), x - 6) and COUNT == 6
    assert f.captures == 2


def test_dictionaries_and_lists_are_guarded():
    @torch.compile
    def f(x):
        total = x * TABLE["k"]
        for item in ITEMS:
            total = total + item
        return total, len(ITEMS), "z" in TABLE

    x = torch.ones(3)

    def check():
        total = x * TABLE["k"]
        for item in ITEMS:
            total = total + item
        got = f(x)
        assert same(got, (total, len(ITEMS), "z" in TABLE))

    check()
    check()
    TABLE["k"] = 5.0
    check()
    ITEMS.append(7.0)
    check()
    ITEMS[0] = -3.0
    check()
    TABLE["z"] = 1
    check()
    ITEMS.pop()
    del TABLE["z"]
    check()


def test_appending_to_a_list_outside_is_done_every_time():
    log = []

    @torch.compile
    def f(x):
        y = x + 1
        log.append(float(len(log)))
        return y

    for i in range(4):
        f(torch.ones(2))
        assert len(log) == i + 1
    assert f.reasons


def test_print_and_random_state_are_not_replayed(capsys):
    @torch.compile
    def f(x):
        print("called")
        return x * random.random()

    random.seed(0)
    got = [f(torch.ones(1)).item() for _ in range(4)]
    random.seed(0)
    assert np.allclose(got, [random.random() for _ in range(4)])
    assert capsys.readouterr().out == "called\n" * 4


def test_branches_on_data_are_taken_each_time():
    @torch.compile
    def f(x):
        if x.sum() > 0:
            return x * 2
        return x - 1

    for v in (1.0, -1.0, 2.0, -2.0, 3.0):
        x = torch.full((3,), v)
        assert same(f(x), x * 2 if v > 0 else x - 1)
    assert f.reasons


def test_item_of_a_computed_input_is_noticed():
    @torch.compile
    def f(x):
        return x * x.max().item() if x[0].item() > 0 else x

    for v in (2.0, 3.0, -1.0, 4.0):
        x = torch.tensor([v, 1.0])
        assert same(f(x), x * x.max() if v > 0 else x)


def test_closures_counters_and_attributes():
    class Box:
        pass

    box = Box()
    box.n, box.items, box.last = 0, [], None
    power = 2.0

    @torch.compile
    def f(x):
        box.n += 1
        box.last = x * 2
        return x**power + box.n

    for i in range(1, 5):
        x = torch.full((2,), float(i))
        assert same(f(x), x**power + i)
        assert box.n == i and same(box.last, x * 2)
    power = 3.0
    x = torch.full((2,), 2.0)
    assert same(f(x), x**3 + 5)


def test_state_kept_between_calls():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 3)
            self.hidden = None
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self, x):
            self.steps += 1
            self.hidden = torch.tanh(self.lin(x) if self.hidden is None else self.lin(x) + self.hidden)
            return self.hidden

    torch.manual_seed(0)
    a = Cell()
    b = copy.deepcopy(a)
    fast = torch.compile(a)
    with torch.no_grad():
        for i in range(8):
            x = torch.randn(2, 3)
            assert same(fast(x), b(x))
            assert a.steps.item() == i + 1
    assert fast._compiled_forward.captures <= 4


def test_in_place_writes_views_and_aliases():
    @torch.compile
    def f(x, y):
        x.add_(1)
        x[0] = y[1] * 2
        v = x[1:]
        v.mul_(3)
        return x, v, y

    for shared in (False, True, False, True):
        xs = [torch.arange(4).float() for _ in range(2)]
        results = []
        for x, g in zip(xs, (f, f.function), strict=True):
            y = x if shared else torch.arange(4).float() + 10
            out = g(x, y)
            out[1].add_(100)
            assert out[0] is x and out[2] is y
            results.append((x.clone(), out[1].clone(), y.clone()))
        assert all(torch.equal(p, q) for p, q in zip(*results, strict=True)), shared


def test_views_of_one_storage_as_arguments():
    @torch.compile
    def f(a, b):
        a += 1
        return a * b

    base, other = torch.zeros(4), torch.zeros(4)
    for _ in range(3):
        got = f(base[:2], base[1:3])
        want = f.function(other[:2], other[1:3])
        assert same(got, want) and same(base, other)
        assert same(f(base[:2].clone(), base[1:3].clone()), f.function(other[:2].clone(), other[1:3].clone()))


def test_tensors_kept_from_earlier_calls_keep_their_values():
    f = torch.compile(lambda x: x * 2 + 1)
    kept = [f(torch.full((3,), float(i))) for i in range(5)]
    assert [t[0].item() for t in kept] == [1.0, 3.0, 5.0, 7.0, 9.0]


def test_gradients_accumulate():
    w = torch.ones(3, requires_grad=True)

    @torch.compile
    def f(x):
        (w * x).sum().backward()

    for i in range(1, 5):
        f(torch.ones(3))
        assert same(w.grad, torch.full((3,), float(i)))
    assert not f.reasons


def test_tensor_hooks_run_each_time():
    seen = []
    w = torch.ones(3, requires_grad=True)
    w.register_hook(lambda g: seen.append(1) or g * 2)

    @torch.compile
    def f(x):
        w.grad = None
        (w * x).sum().backward()
        return w.grad

    for i in range(1, 4):
        assert same(f(torch.ones(3)), torch.full((3,), 2.0)) and len(seen) == i


def test_exceptions_in_the_middle():
    state = {"n": 0}

    @torch.compile
    def f(x, fail):
        state["n"] += 1
        y = x * 2
        if fail:
            raise ValueError("no")
        return y

    for i, fail in enumerate((False, True, False, True, False), 1):
        if fail:
            with pytest.raises(ValueError, match="no"):
                f(torch.ones(2), fail)
        else:
            assert same(f(torch.ones(2), fail), torch.full((2,), 2.0))
        assert state["n"] == i

    @torch.compile
    def g(x):
        try:
            return x @ torch.ones(7)
        except RuntimeError:
            return x

    assert same(g(torch.ones(3)), torch.ones(3)) and same(g(torch.ones(3)), torch.ones(3))


def test_generators_context_managers_and_comprehensions():
    def produce(x):
        for i in range(3):
            yield x * i

    class Scope:
        def __init__(self, box):
            self.box = box

        def __enter__(self):
            self.box.append(1)
            return self

        def __exit__(self, *error):
            self.box.append(2)

    @torch.compile
    def f(x):
        box = []
        with Scope(box), torch.no_grad():
            parts = [p + 1 for p in produce(x) if p is not None]
        first, *rest = parts
        return first + sum(rest), {i: p for i, p in enumerate(parts)}, tuple(box)

    x = torch.ones(2)
    for _ in range(3):
        assert same(f(x), f.function(x))
    assert not f.reasons, f._explain_reasons()


Pair = namedtuple("Pair", "a b")


@dataclasses.dataclass
class Out:
    value: object
    count: int = 0

    @property
    def twice(self):
        return self.value * 2


def test_nested_containers_and_objects_in_and_out():
    @torch.compile
    def f(batch, *rest, scale, **more):
        out = Out(batch["x"][0] * scale, len(rest))
        return Pair(out, [out.twice, more["z"], rest])

    for scale in (1.0, 2.0, 3.0):
        x, z = torch.randn(3), torch.randn(2)
        got = f({"x": [x, x + 1]}, z, x, scale=scale, z=z)
        assert same(got.a.value, x * scale) and got.a.count == 2 and type(got.a) is Out
        assert same(got.b[0], x * scale * 2) and got.b[1] is z and got.b[2][1] is x
    assert f.captures == 1


def test_methods_partials_lambdas_and_nested_compiles():
    class Model:
        def __init__(self):
            self.w = torch.ones(3)

        @torch.compile
        def run(self, x):
            return inner(x, 2.0) * self.w

    @torch.compile
    def inner(x, k):
        return functools.partial(lambda a, b: a * b, x)(k) + math.sqrt(4.0)

    m = Model()
    for v in (1.0, 2.0, 3.0):
        x = torch.full((3,), v)
        assert same(m.run(x), x * 2 + 2)
    m.w = torch.full((3,), 5.0)
    assert same(m.run(torch.ones(3)), torch.full((3,), 20.0))


def test_custom_autograd_functions():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 2 * x

    w = torch.ones(2, requires_grad=True)

    @torch.compile
    def f(x):
        w.grad = None
        Square.apply(w * x).sum().backward()
        return w.grad

    for v in (1.0, 2.0, 3.0):
        x = torch.full((2,), v)
        assert same(f(x), 2 * x * x)


def test_random_numbers_continue_the_stream():
    f = torch.compile(lambda x: x + torch.randn(3) + F.dropout(torch.ones(3), 0.5))
    torch.manual_seed(3)
    a = [f(torch.zeros(3)) for _ in range(5)]
    torch.manual_seed(3)
    b = [f.function(torch.zeros(3)) for _ in range(5)]
    assert all(same(x, y) for x, y in zip(a, b, strict=True))
    assert replays(f) == 4


def test_memory_shared_with_numpy():
    array = np.zeros(3, np.float32)
    x = torch.from_numpy(array)
    f = torch.compile(lambda t: t.mul_(2) + 1)
    for i in range(1, 5):
        array[:] = i
        assert same(f(x), torch.full((3,), 2.0 * i + 1))
        assert (array == 2 * i).all()


def test_fullgraph_lists_every_reason_with_its_line():
    @torch.compile(fullgraph=True)
    def f(x):
        print("x")
        y = x.sum().item()
        return x * y

    with pytest.raises(RuntimeError) as caught:
        f(torch.ones(2))
    text = str(caught.value)
    assert "calls print" in text and "looks at a value" in text and text.count("test_compile_guards.py:") >= 2


def test_explain_and_reset():
    def f(x):
        return (x * 2).sum() + x.exp().sum()

    text = str(torch.explain(f, torch.ones(4)))
    assert "1 plan(s)" in text and "guard" in text
    g = torch.compile(f)
    g(torch.ones(4))
    torch.compiler.reset()
    assert not g.replays
    assert same(g(torch.ones(4)), f(torch.ones(4)))


def test_a_function_that_never_pays_is_left_to_the_recorder():
    counter = iter(range(1000))

    class Config:
        n = 0

    @torch.compile
    def f(x):
        return x.reshape(-1) * (2 if Config.n % 2 else 3)

    for _ in range(40):
        Config.n = next(counter)
        assert same(f(torch.ones(2)), torch.full((2,), 2.0 if Config.n % 2 else 3.0))
    assert f.captures < 30


def test_source_that_is_not_there():
    scope = {}
    exec("def g(x):\n    return x * 2\n", scope)
    f = torch.compile(scope["g"])
    assert same(f(torch.ones(2)), torch.full((2,), 2.0)) and same(f(torch.ones(2)), torch.full((2,), 2.0))
    assert "source" in f.reasons[0][0]
