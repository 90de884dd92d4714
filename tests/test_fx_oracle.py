"""Traced graphs and their code compared with PyTorch's, for the same modules."""
from __future__ import annotations

import operator
from typing import Any

import pytest

import treadle
import treadle.fx

pytestmark = pytest.mark.oracle


def branches(torch: Any) -> Any:
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(4))
            self.register_buffer("shift", torch.zeros(4))

        def forward(self, x: Any, flip: bool = False) -> Any:
            y = F.relu(self.linear(x)) * self.scale + self.shift
            a, b = torch.chunk(y, 2, dim=-1)
            return torch.cat([b, a], dim=-1).view(x.shape[0], -1), {"neg": -a, "half": 1 - b / 2}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5))
            self.block = Block()

        def forward(self, x: Any) -> Any:
            x = self.features(x)
            y, parts = self.block(x)
            z = y.add_(1).softmax(dim=-1)[:, 1:3]
            return torch.einsum("ij,ij->i", z, parts["half"]).sum() + z.size(0) ** 2
    return Net()


def attention(torch: Any) -> Any:
    nn = torch.nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24, bias=False)
            self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])

        def forward(self, x: Any, mask: Any = None) -> Any:
            q, k, v = self.qkv(self.norms[0](x)).split(8, dim=-1)
            scores = q @ k.transpose(-2, -1) / 8 ** 0.5
            return self.norms[1](torch.softmax(scores, dim=-1) @ v + x)
    return Attention()


def function(torch: Any) -> Any:
    def f(x: Any, *, weight: Any = 2.0) -> Any:
        y = torch.sigmoid(x).masked_fill(x > 0, 0.0)
        return y.mean(dim=0, keepdim=True) @ (x.t() // weight), ~(x < 1)
    return f


def sides(make: Any) -> tuple[Any, Any]:
    import torch
    import torch.fx
    return treadle.fx.symbolic_trace(make(treadle)), torch.fx.symbolic_trace(make(torch))


def plain(text: str) -> list[str]:
    """As if PyTorch spelt out no default and had one name for einsum."""
    for old, new in ((", inplace = False", ""), ("{inplace: False}", "{}"),
                     ("treadle", "torch"), ("torch.functional.einsum", "torch.einsum")):
        text = text.replace(old, new)
    return text.splitlines()


def annotated(torch: Any) -> Any:
    class Typed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(2, 2))
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, x, n=3, y=None, z=(1,)):  # type: ignore[no-untyped-def]
            a = self.body(x).to(torch.float64) * n + float("inf")
            return a + z[0], torch.zeros(2, device=torch.device("cpu")) + self.weight
    Typed.forward.__annotations__ = {"x": torch.Tensor, "n": int | None, "y": torch.Tensor | None, "z": list[int],
                                     "return": tuple[torch.Tensor, ...]}
    return Typed()


def variable(torch: Any) -> Any:
    def f(x, n=3, *rest, k=2.0, **named) -> None:  # type: ignore[no-untyped-def]
        return x * k + n, rest, named
    return f


def constants(torch: Any) -> Any:
    t = torch.ones(2, 2)

    def f(x):  # type: ignore[no-untyped-def]
        return [t + x, t - x, t * x, t / x, t // x, t % x, t ** x, t @ x, t & x, t | x, t ^ x, t << x, t >> x, t < x, t <= x, t > x,
                t == x, t != x, t.add(x), torch.add(t, x), t[x], x[t], x[..., 1], x[1:None], -x, +x, ~x, abs(x)]
    return f


@pytest.mark.parametrize("make", [branches, attention, function, annotated, variable, constants])
def test_graphs_and_code_are_pytorchs(make: Any) -> None:
    mine, theirs = sides(make)
    assert plain(str(mine.graph)) == plain(str(theirs.graph))
    assert plain(mine.code) == plain(theirs.code)
    assert plain(str(mine)) == plain(str(theirs))
    assert plain(mine.print_readable(print_output=False)) == plain(theirs.print_readable(print_output=False))


def test_shapes_are_found_and_shown() -> None:
    import torch
    from torch.fx.passes.shape_prop import ShapeProp
    mine, theirs = sides(attention)
    treadle.fx.passes.shape_prop.ShapeProp(mine).propagate(treadle.ones(2, 3, 8))
    ShapeProp(theirs).propagate(torch.ones(2, 3, 8))
    for a, b in zip(mine.graph.nodes, theirs.graph.nodes, strict=True):
        assert plain(str(a.meta.get("tensor_meta"))) == plain(str(b.meta.get("tensor_meta")))
    assert plain(mine.print_readable(print_output=False)) == plain(theirs.print_readable(print_output=False))


def sums(torch: Any) -> Any:
    def f(x, w1, w2):  # type: ignore[no-untyped-def]
        m1 = torch.cat([w1, w2]).sum()
        m2 = torch.cat([w1, w2]).sum()
        return x + torch.max(m1) + torch.max(m2)
    return f, (lambda a, b: torch.cat([a, b])), (lambda a, b: torch.stack([a, b]))


def activations(torch: Any) -> Any:
    F = torch.nn.functional

    def f(x, y):  # type: ignore[no-untyped-def]
        a = torch.sigmoid(x) * x
        b = torch.sigmoid(a) * a
        c = torch.sigmoid(b) * a  # not the pattern
        d = torch.sigmoid(y)
        return c, d * y, d  # d is used elsewhere
    return f, (lambda x: torch.sigmoid(x) * x), (lambda x: F.silu(x))


def chains(torch: Any) -> Any:
    def f(x):  # type: ignore[no-untyped-def]
        return torch.relu(torch.relu(torch.relu(torch.relu(torch.relu(x)))))
    return f, (lambda x: torch.relu(torch.relu(x))), (lambda x: torch.tanh(x))


def pairs(torch: Any) -> Any:
    def f(x, y):  # type: ignore[no-untyped-def]
        s = x + y
        a, b = s.relu(), s.neg()
        return a * b + torch.clamp(x, min=0.5) + torch.clamp(y, min=0.25)

    def pattern(x, y):  # type: ignore[no-untyped-def]
        s = x + y
        return s.relu(), s.neg()

    def replacement(x, y):  # type: ignore[no-untyped-def]
        return (x + y).clamp(0), -x - y
    return f, pattern, replacement


def literals(torch: Any) -> Any:
    return ((lambda x: torch.clamp(x, 0.0, 1.0) + torch.clamp(x, 0.0, 2.0)), (lambda x: torch.clamp(x, 0.0, 1.0)),
            (lambda x: torch.sigmoid(x)))


def layers(torch: Any) -> Any:
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.last(self.act(self.first(x)))

    class Pattern(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.act(x)

    class Replacement(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Softplus()

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.gate(x) * 2
    return Net(), Pattern(), Replacement()


@pytest.mark.parametrize("make", [sums, activations, chains, pairs, literals, layers])
def test_patterns_are_replaced_at_the_same_places(make: Any) -> None:
    import torch
    import torch.fx
    seen = []
    for library in (treadle, torch):
        root, pattern, replacement = make(library)
        module = library.fx.symbolic_trace(root)
        trace = library.fx.symbolic_trace
        replacement = trace(replacement) if isinstance(replacement, library.nn.Module) else replacement
        matches = library.fx.replace_pattern(module, trace(pattern) if isinstance(pattern, library.nn.Module) else pattern, replacement)
        module.graph.lint()
        seen.append((plain(module.code), plain(str(module)), [(str(m.anchor), {str(a): str(b) for a, b in m.nodes_map.items()})
                                                              for m in matches]))
    assert seen[0] == seen[1] and seen[0][2]


def test_filters_and_callbacks_of_replacement() -> None:
    import torch
    import torch.fx
    import torch.fx.subgraph_rewriter
    seen = []
    for library in (treadle, torch):
        root, pattern, replacement = literals(library)
        module = library.fx.symbolic_trace(root)
        replaced = library.fx.subgraph_rewriter.replace_pattern_with_filters(
            module, pattern, replacement, [lambda match, graph, pattern: match.returning_nodes[0].args[2] == 2.0], ignore_literals=True)
        seen.append((plain(module.code), [str(r.replacements) for r in replaced]))
    assert seen[0] == seen[1] and len(seen[0][1]) == 1


def test_transformed_values() -> None:
    import torch
    import torch.fx
    x = torch.randn(5, 3)

    def double(library: Any) -> Any:
        class Double(library.fx.Transformer):
            def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
                return super().call_function(operator.sub if target is operator.add else target, args, kwargs)
        return Double
    mine, theirs = sides(branches)
    mine.load_state_dict({k: treadle.from_numpy(v.numpy()) for k, v in theirs.state_dict().items()})
    mine.eval(), theirs.eval()
    for library, module, data in ((treadle, mine, treadle.from_numpy(x.numpy())), (torch, theirs, x)):
        module.result = [float(m(data).detach()) for m in (module, double(library)(module).transform())] + [
            float(library.fx.Interpreter(module).run(data).detach())]
    assert mine.result == pytest.approx(theirs.result, rel=1e-5)
