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
    """Without annotations, which the tests have and programs seldom, and as if PyTorch spelt out no default and had one name for einsum."""
    for old, new in ((" : _Any_", ""), (" -> _Any_", ""), (" : 'Any' [", " : ["), (", inplace = False", ""), ("{inplace: False}", "{}"),
                     ("treadle", "torch"), ("torch.functional.einsum", "torch.einsum")):
        text = text.replace(old, new)
    return text.splitlines()


@pytest.mark.parametrize("make", [branches, attention, function])
def test_graphs_and_code_are_pytorchs(make: Any) -> None:
    mine, theirs = sides(make)
    assert plain(str(mine.graph)) == plain(str(theirs.graph))
    assert plain(mine.code) == plain(theirs.code)


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
