"""Random Python functions over tensors: views, in-place writes, control flow, state, modules, optimizers, autograd, hooks, random numbers.

`source(seed)` is the text of `step(T, world, x, y, k)`. A `World` holds what the function reads and writes outside.
"""
from __future__ import annotations

import linecache
import random
from typing import Any

import numpy as np


class World:
    """State outside the function: parameters, modules, an optimizer, a dictionary, attributes, a list."""

    def __init__(self, T: Any, seed: int) -> None:
        numbers = np.random.default_rng(seed)

        def tensor(*shape: int) -> Any:
            return T.tensor(numbers.standard_normal(shape).astype(np.float32).tolist())
        self.w = tensor(3, 3).requires_grad_()
        self.b = tensor(3).requires_grad_()
        self.kept = tensor(3)
        self.count = 0
        self.rate = 0.05
        self.flag = True
        self.table = {"a": 1.5, "b": tensor(3)}
        self.items = [0.5, -1.0]
        self.training = True
        self.norm = T.nn.BatchNorm1d(3, eps=0.1)  # two rows that are close must not make noise large, nor small gradients
        self.u = tensor(3, 3).requires_grad_()
        learned = [self.u, self.norm.weight]
        self.optimizer = T.optim.Adam(learned, lr=0.05, eps=0.1) if seed % 2 else T.optim.SGD(learned, lr=0.05, momentum=0.5)
        self.draws: list[Any] = []

    def scaled(self, t: Any) -> Any:
        return t * self.rate

    @property
    def double(self) -> float:
        return self.rate * 2

    def values(self) -> list[Any]:
        grads = [None if t.grad is None else t.grad.tolist() for t in (self.w, self.b, self.u)]
        modules = [t.tolist() for t in (self.u, *self.norm.parameters(), *self.norm.buffers())]
        return [self.w.tolist(), self.b.tolist(), self.kept.detach().tolist(), self.count, self.rate, self.table["a"],
                self.table["b"].detach().tolist(), list(self.items), sorted(self.table), *modules, *grads]


class _Writer:
    """Writes statements; variables are kept by shape: m (n, 3), v (3,), s (); those in `free` need no gradient."""

    def __init__(self, seed: int, with_random: bool) -> None:
        self.choose = random.Random(seed)
        self.with_random = with_random
        self.lines: list[str] = []
        self.shapes: dict[str, list[str]] = {"m": ["x", "y"], "v": ["world.kept.detach()"], "s": []}
        self.free = ["a0"]
        self.indent = 1
        self.count = 0

    def put(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def new(self, shape: str, text: str) -> str:
        self.count += 1
        name = f"t{self.count}"
        self.put(f"{name} = {text}")
        if self.indent == 1:
            self.shapes[shape].append(name)
        return name

    def any(self, shape: str) -> str:
        return self.choose.choice(self.shapes[shape])

    def number(self) -> str:
        return self.choose.choice(["k", "world.rate", "world.table['a']", "world.double", "2.0", "0.5", "float(world.count)",
                                   "len(world.items)", "world.items[0]", "max(k, 0.25)"])

    def expression(self) -> tuple[str, str]:
        c, m, v, n = self.choose, self.any("m"), self.any("v"), self.number()
        if c.random() < 0.45:
            return self.further_expression(m, v, n)
        options = [
            ("m", f"{m} * {self.any('m')} + {n}"), ("m", f"({m} - {v}) * 0.5"), ("m", f"{m}.tanh()"), ("m", f"T.relu({m} + {n})"),
            ("m", f"T.sigmoid({m} @ world.w + world.b)"), ("m", f"T.where({m} > 0, {m}, {self.any('m')} * {n})"),
            ("v", f"{m}.sum(0)"), ("v", f"{m}.mean(dim=0) * {n}"), ("v", f"{m}[0] + {v}"), ("v", f"{m}.max(0)[0]"),
            ("v", f"world.scaled({v})"),
            ("s", f"({m} * {n}).sum()"), ("s", f"({v} ** 2).mean()"), ("m", f"T.stack([{v}, {self.any('v')}])[0] + {m}"),
            ("m", f"T.cat([{m}, {m}], 1)[:, {c.choice([0, 1, 2])}:][:, :3]"), ("m", f"{m}.t().contiguous().t() + world.table['b']"),
            ("v", f"{v}.flip(0)"), ("v", f"sum([{v} * j for j in range({c.randint(1, 3)})], {v})"), ("m", f"helper({m}, {n})"),
            ("v", f"{{'p': {v}, 'q': {n}}}['p'] * 2"), ("m", f"T.softmax({m}, -1)"), ("m", f"{m}.clamp(-1, 1)"),
            ("v", f"(lambda z: z * {n})({v})"), ("m", f"[{m} * q for q in world.items][-1]"),
        ]
        if self.with_random:
            options += [("v", f"{v} + T.rand(3)"), ("m", f"T.nn.functional.dropout({m}, 0.5, world.training)")] * 3
        return c.choice(options)

    def further_expression(self, m: str, v: str, n: str) -> tuple[str, str]:
        """Joins, picks, products, normalizations, scans, sorts, dtypes, modules."""
        order = f"T.tensor([[2, 0, 1]]).expand({m}.shape[0], 3)"
        return self.choose.choice([
            ("m", f"T.cat({m}.split(1, 1)[::-1], 1)"), ("m", f"T.stack({m}.unbind(1), 1) * {n}"), ("m", f"{m}.chunk(3, 1)[1] + {m}"),
            ("m", f"{m}.gather(1, {order})"), ("m", f"T.zeros_like({m}).scatter(1, {order}, {m})"), ("m", f"{m}[:, [2, 0, 1]]"),
            ("m", f"{m}.scatter_add(1, {order}, {self.any('m')})"), ("m", f"{m}.index_add(1, T.tensor([0, 2, 0]), {m})"),
            ("m", f"{m}[T.arange({m}.shape[0]).flip(0)]"), ("m", f"{m}.index_select(0, T.arange({m}.shape[0] - 1, -1, -1))"),
            ("m", f"T.nn.functional.embedding(({m} > 0).long().sum(1) % 3, world.w)"), ("m", f"({m} @ {m}.t()) @ {self.any('m')} * 0.1"),
            ("m", f"T.nn.functional.linear({m}, world.u, {v})"), ("m", f"T.einsum('ij,kj->ik', {m}, world.w)"),
            ("m", f"T.nn.functional.conv1d({m}[:, None], world.w[:1, None], padding=1)[:, 0]"),
            ("m", f"T.nn.functional.conv2d({m}[None, None], world.u[None, None], padding=1)[0, 0]"),
            ("m", f"T.nn.functional.max_pool1d({m}[:, None], 3, 1, 1)[:, 0]"), ("m", f"T.nn.functional.layer_norm({m}, (3,), {v})"),
            ("m", f"world.norm({m})"), ("m", f"T.log_softmax({m}, 1)"), ("m", f"{m}.cumsum({self.choose.choice([0, 1])}) * 0.5"),
            ("m", f"{m}.sort(1)[0]"), ("m", f"{m}.topk(3, 1)[0]"), ("m", f"{m}.double().exp().clamp(max=9.0).float()"),
            ("m", f"({m} > {v}).to(T.bfloat16).mul(2.0).float() + {m}"), ("m", f"({m} * 4).long().clamp(-9, 9).float()"),
            ("m", f"T.where(({m} > 0) & ({self.any('m')} < 1), {m}.half().float(), {v})"),
            ("m", f"{m}.unfold(1, 2, 1).sum(-1).repeat(1, 2)[:, :3]"),
            ("v", f"{m}.logsumexp(0)"), ("v", f"{m}.var(0) * {n}"), ("v", f"{m}.sort(0)[0][-1]"), ("v", f"{m}.argmax(0).float()"),
            ("v", f"({m} * {m}).sum(0).add(1.0).sqrt()"), ("v", f"T.outer({v}, {self.any('v')})[1]"),
            ("v", f"{v}.expand(2, 3).reshape(3, 2).t()[0]"),
            ("s", f"T.nn.functional.mse_loss({m}, {self.any('m')})"), ("s", f"{v}.dot({self.any('v')})"),
            ("s", f"T.nn.functional.cross_entropy({m}, ({m} > 0).long().sum(1) % 3)"), ("s", f"{m}.tril().norm()"),
        ])

    def view_write(self) -> None:
        """An in-place write through a view of something on the tape, or off it."""
        name = self.new("m", f"({self.any('m')} * 1.0).contiguous()")
        self.put(self.choose.choice([
            f"{name}[0] *= {self.number()}", f"{name}[:, 1:].add_({self.any('v')}[1:])", f"{name}.t()[0] = 0.5",
            f"{name}.view(-1)[::2].mul_(0.5)", f"{name}[1:].copy_({name}[:-1].clone())", f"{name}[{name} > 1] = 0.5",
            f"{name}.masked_fill_({name} < -1, -0.5)",
            f"{name}.diagonal().add_(1.0)", f"{name}.narrow(1, 1, 2).zero_()", f"{name}.unsqueeze(0).transpose(1, 2)[0, 2].tanh_()",
            f"{name}[-1] = {self.any('v')}", f"{name}.index_fill_(1, T.tensor([1]), 0.25)", f"{name}[:, 2:].sub_({name}[:, :1])"]))

    def derivative(self) -> None:
        """First derivatives that are differentiated again, with hooks along the way."""
        self.count += 1
        z, h = f"z{self.count}", f"h{self.count}"
        self.put(f"{z} = {self.any('m')}.detach().requires_grad_()")
        value = [f"({z} @ world.w).tanh()", f"{z}.exp().clamp(max=3.0)", f"T.softmax({z}, 1) * {z}", f"{z}[:, 1:] ** 3"]
        self.put(f"{h} = {self.choose.choice(value)}")
        if self.choose.random() < 0.5:
            self.put(f"{h}.register_hook(lambda g: g * {self.choose.choice(['2.0', 'k', 'world.rate'])})")
        self.put(f"g, = T.autograd.grad({h}.sum() + ({z} ** 2).sum(), {z}, create_graph=True)")
        self.new("m", f"T.autograd.grad((g ** 2).sum(), {z})[0] * 0.1")

    def train(self) -> None:
        """An optimizer's step, the gradient seen by a hook."""
        self.count += 1
        seen = f"seen{self.count}"
        self.put(f"{seen} = []")
        self.put("world.optimizer.zero_grad()")
        if self.choose.random() < 0.5:
            self.put(f"handle = world.u.register_hook(lambda g: {seen}.append(g.detach().sum(0)))")
        else:
            self.put(f"handle = world.norm.register_forward_hook(lambda module, given, out: {seen}.append(out.detach().mean(0)))")
        self.put(f"world.norm({self.any('m')}.detach() @ world.u).tanh().pow(2).mean().backward()")
        self.put("world.optimizer.step()")
        self.put("handle.remove()")
        self.new("v", f"{seen}[0] * 1.0")

    def flow(self) -> None:
        """Control flow by values and over rows."""
        kind = self.choose.randrange(4)
        name = self.new(*(("v", f"{self.any('v')}.detach() * 1.0") if kind else ("m", f"{self.any('m')} * 1.0")))
        if kind == 0:
            self.put(f"while {name}.abs().max() > 1.0:\n{'    ' * (self.indent + 1)}{name} = {name} * 0.4")
        elif kind == 1:
            self.put(f"for row in {self.any('m')}:\n{'    ' * (self.indent + 1)}{name} = {name} * 0.5 + row")
        elif kind == 2:
            self.put(f"for i, q in enumerate(world.items):\n{'    ' * (self.indent + 1)}if q < 0:\n{'    ' * (self.indent + 2)}continue\n"
                     f"{'    ' * (self.indent + 1)}{name} = {name} + q * i")
        else:
            self.put(f"if {name}.sum().item() > k:\n{'    ' * (self.indent + 1)}{name} = -{name}")

    def draw(self) -> None:
        """Random numbers that every way has to give to the bit."""
        self.put("world.draws.append(" + self.choose.choice([
            "T.rand(4)", "T.randn(x.shape[0], 3)", "T.randint(0, 9, (5,))", "T.randperm(6)", "T.bernoulli(T.full((7,), 0.4))",
            "T.empty(5).exponential_()", "T.nn.functional.dropout(T.ones(6), 0.5)", "T.rand_like(x)", "T.empty(3).uniform_(-1, k)",
            "T.empty(4).log_normal_()", "T.empty(4).cauchy_()", "T.normal(0.0, 2.0, (3,))"]) + ")")

    def statement(self) -> None:
        c = self.choose
        if c.random() < 0.25:
            c.choice([self.view_write, self.view_write, self.derivative, self.train, self.flow] + [self.draw] * 3 * self.with_random)()
            return
        kind = c.randrange(22)
        if kind < 9:
            self.new(*self.expression())
        elif kind == 9:
            name = self.new("m", f"{self.any('m')}.detach() * 1.0")
            self.put(f"{name}.mul_({self.number()})")
            self.put(c.choice([f"{name}[0] = {self.any('v')}.detach()", f"{name}[:, 1] += 1", f"{name}.t().add_(0.5)",
                               f"{name}[1:].zero_()"]))
        elif kind == 10:
            self.block(f"if {c.choice(['k > 1.0', 'world.flag', 'world.count % 2 == 0', 'x.shape[0] > 3', 'not world.items'])}:")
        elif kind == 11:
            self.block(f"for i in range({c.choice(['2', 'len(world.items)', 'world.count % 3'])}):")
        elif kind == 12:
            self.put(c.choice(["world.count += 1", "world.rate = world.rate * 0.9", "world.table['a'] = world.table['a'] + 0.25",
                               "world.items[0] = world.items[0] + 1.0"]))
        elif kind == 13:
            self.put(f"world.{c.choice(['kept'])} = {self.any('v')}.detach() * 0.5")
        elif kind == 14:
            self.put(f"world.table['b'] = ({self.any('v')} + 1.0).detach()")
        elif kind == 15 and self.indent == 1:
            self.put("world.w.grad = world.b.grad = None" if c.random() < 0.7 else "pass")
            self.put(f"loss = ({self.any('m')} @ world.w + world.b).tanh().pow(2).mean()")
            if c.random() < 0.3:
                self.put("h = (loss * 1.0)")
                self.put("h.register_hook(lambda g: g * 2.0)")
                self.put("loss = h + 0.0")
            self.put("loss.backward()")
            self.put("with T.no_grad():")
            self.put("    world.w -= world.rate * world.w.grad")
        elif kind == 16 and c.random() < 0.3:
            self.block(f"if {self.any('m')}.sum() > 0:")
        elif kind == 17:
            self.put("try:")
            self.put(f"    world.table['{c.choice(['a', 'zz'])}']")
            self.put("except KeyError:")
            self.put("    world.count += 2")
        elif kind == 18:
            name = self.new("v", f"{self.any('v')} * 1.0")
            self.put(f"{name} += {self.number()}")
        elif kind == 19 and c.random() < 0.2:
            self.put("world.items.append(0.25)")
        elif kind == 20:
            self.put(f"with T.no_grad():\n{'    ' * (self.indent + 1)}world.kept.add_({self.any('v')}.detach() * 0.1)")
        else:
            self.new(*self.expression())

    def block(self, head: str) -> None:
        if self.indent > 2:
            return
        before = {k: list(v) for k, v in self.shapes.items()}
        self.put(head)
        self.indent += 1
        for _ in range(self.choose.randint(1, 2)):
            self.statement()
        self.put("world.count += 0")
        self.indent -= 1
        self.shapes = before


def source(seed: int, with_random: bool = False) -> str:
    w = _Writer(seed, with_random)
    for _ in range(w.choose.randint(3, 8)):
        w.statement()
    results = [w.any("m"), w.any("v"), *w.shapes["s"][-1:]]
    body = "\n".join(w.lines)
    return (f"def helper(t, n):\n    return t * n if n < 2 else t - n\n\n\ndef step(T, world, x, y, k):\n{body}\n"
            f"    return [{', '.join(results)}], {{'k': k, 'n': world.count}}\n")


def load(seed: int, with_random: bool = False) -> Any:
    """The function, its source where tracebacks and `inspect` find it."""
    text = source(seed, with_random)
    name = f"<random function {seed}{' random' if with_random else ''}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    scope: dict[str, Any] = {"__name__": f"random_function_{seed}"}
    exec(compile(text, name, "exec", dont_inherit=True), scope)
    return scope["step"]


def meddle(world: World, call: int) -> None:
    """What somebody else does to the state between two calls: a replay must notice."""
    if call == 2:
        world.flag = not world.flag
    elif call == 3:
        world.items.append(0.75)
    elif call == 4:
        world.table["zz"] = 1.0
        world.training = not world.training
        world.norm.train(world.training)


# Rows and k of each call: the first size again and again, then others, of which templates plan those from the third on.
CALLS = ((2, 0.5), (2, 0.5), (2, 0.6), (2, 1.5), (4, 1.5), (2, 0.75), (4, 0.5), (5, 0.5), (5, 0.75), (7, 0.75), (7, 0.5))


def run(seed: int, T: Any, wrap: Any, with_random: bool = False) -> list[Any]:
    """What a sequence of calls returns and leaves behind; an exception ends it with its class's name."""
    step = wrap(load(seed, with_random))
    world = World(T, seed)
    numbers = np.random.default_rng(seed + 1)
    T.manual_seed(seed)
    out: list[Any] = []
    for call, (rows, k) in enumerate(CALLS):
        meddle(world, call)
        x, y = (T.tensor(numbers.standard_normal((rows, 3)).astype(np.float32).tolist()) for _ in range(2))
        try:
            results, numbers_out = step(T, world, x, y, k)
        except (RuntimeError, IndexError, ValueError) as error:
            out.append(type(error).__name__)
            break
        out.append([[r.detach().tolist() for r in results], numbers_out, world.values()])
        out.append([repr(d.tolist()) for d in world.draws])  # compared to the bit
    return out


def close(a: Any, b: Any) -> bool:
    """Equal structure, floats close (NaN equal)."""
    numbers: list[tuple[float, float]] = []
    if not _alike(a, b, numbers):
        return False
    x, y = np.array(numbers, np.float64).reshape(-1, 2).T
    with np.errstate(invalid="ignore"):
        return bool((np.isclose(x, y, rtol=2e-3, atol=2e-4, equal_nan=True) | ((abs(x) > 1e6) & (abs(y) > 1e6))).all())


def _alike(a: Any, b: Any, numbers: list[tuple[float, float]]) -> bool:
    """Equal in all but floats; those are put into `numbers`, in pairs."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all([_alike(a[k], b[k], numbers) for k in a])
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all([_alike(x, y, numbers) for x, y in zip(a, b, strict=True)])
    if isinstance(a, float) and isinstance(b, float):
        numbers.append((a, b))
        return True
    return bool(a == b)
