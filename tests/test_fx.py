"""`treadle.fx`: graphs of calls traced, changed and run."""
from __future__ import annotations

import copy
from typing import Any

import pytest

import treadle as torch
import treadle.nn.functional as F
from treadle import fx, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.scale = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x: Any, bias: Any = None) -> Any:
        return F.softmax(self.body(x) * self.scale, dim=-1)


@fx.wrap
def opaque(x: Any) -> Any:
    return x * 2 if float(x.sum()) > 0 else x


def test_a_traced_module_is_the_same_module() -> None:
    net = Net()
    traced = fx.symbolic_trace(net)
    x = torch.randn(2, 3)
    assert torch.equal(traced(x), net(x)) and isinstance(traced, nn.Module) and type(traced).__name__ == "Net"
    assert dict(traced.named_parameters()).keys() == dict(net.named_parameters()).keys()
    assert traced.scale is net.scale
    traced(x).sum().backward()
    assert net.body[0].weight.grad is not None
    traced.graph.lint()
    again = copy.deepcopy(traced)
    assert torch.equal(again(x), net(x)) and again.scale is not net.scale
    assert torch.equal(torch.compile(traced)(x), net(x))
    assert torch.relu is torch.functions.relu and nn.Module.__call__.__name__ == "__call__"  # nothing stays patched


def test_a_graph_is_rewritten() -> None:
    net = Net()
    traced = fx.symbolic_trace(net)
    for node in traced.graph.nodes:
        if node.op == "call_module" and node.target == "body.1":
            with traced.graph.inserting_after(node):
                new = traced.graph.call_function(torch.tanh, node.args)
            node.replace_all_uses_with(new)
            traced.graph.erase_node(node)
    with pytest.raises(RuntimeError, match="users"):
        traced.graph.erase_node(traced.graph.nodes[0])
    traced.recompile()
    traced.delete_all_unused_submodules()
    x = torch.randn(2, 3)
    assert torch.allclose(traced(x), F.softmax(torch.tanh(net.body[0](x)) * 2, -1)) and "tanh" in traced.code
    assert [n for n, _ in traced.named_modules()] == ["", "body", "body.0"]
    with traced.graph.inserting_before(traced.graph.output_node()):
        traced.graph.call_function(torch.exp, (traced.graph.nodes[0],))
    assert traced.graph.eliminate_dead_code() and not traced.graph.eliminate_dead_code()


def test_what_cannot_be_traced_says_so() -> None:
    with pytest.raises(fx.TraceError, match="control flow"):
        fx.symbolic_trace(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(fx.TraceError, match="iterated"):
        fx.symbolic_trace(lambda x: [y for y in x])
    with pytest.raises(RuntimeError, match="len"):
        fx.symbolic_trace(lambda x: x * len(x))
    traced = fx.symbolic_trace(lambda x: opaque(x) + 1)
    assert traced(torch.ones(2)).tolist() == [3.0, 3.0] and traced(-torch.ones(2)).tolist() == [0.0, 0.0]
    assert fx.symbolic_trace(lambda x, flip: -x if flip else x, concrete_args={"flip": True})(torch.ones(1)).item() == -1.0
    assert torch.relu(torch.tensor([-1.0])).item() == 0.0


def test_tensors_from_elsewhere_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    weights = torch.arange(3.0)
    traced = fx.symbolic_trace(lambda x: (weights + x, torch.stack([x, weights])))
    assert traced(torch.ones(3))[0].tolist() == [1.0, 2.0, 3.0]
    assert [n.op for n in traced.graph.nodes] == ["placeholder", "get_attr", "call_method", "get_attr", "call_function", "output"]
    traced.graph.print_tabular()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["opcode", "name", "target", "args", "kwargs"] and "_tensor_constant0" in lines[3]
    assert "def forward(self, x):" in traced.print_readable(print_output=False)


def test_leaves_and_interpreters() -> None:
    class Coarse(fx.Tracer):
        def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
            return True
    net = Net()
    graph = Coarse().trace(net)
    assert [n.target for n in graph.nodes if n.op == "call_module"] == ["body"]
    module = fx.GraphModule(net, graph)
    seen: list[str] = []

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            seen.append(n.name)
            return super().run_node(n)
    x = torch.randn(2, 3)
    assert torch.equal(Watching(module).run(x), net(x)) and seen == ["x", "bias", "body", "scale", "mul", "softmax", "output"]
    with pytest.raises(RuntimeError, match="positional"):
        fx.Interpreter(module).run()


def test_patterns_are_replaced() -> None:
    net = Net()
    traced = fx.symbolic_trace(net)
    found = fx.replace_pattern(traced, lambda x, w: F.softmax(x * w, dim=-1), lambda x, w: torch.log_softmax(x + w, dim=-1))
    x = torch.randn(2, 3)
    assert [m.anchor.name for m in found] == ["softmax"] and torch.allclose(traced(x), torch.log_softmax(net.body(x) + net.scale, -1))
    assert not fx.replace_pattern(traced, lambda x, w: x * w, lambda x, w: x)
    with pytest.raises(ValueError, match="1 parameters, the replacement 2"):
        fx.replace_pattern(traced, lambda x: torch.log_softmax(x, dim=-1), lambda x, y: x)


def test_code_wraps_what_was_wrapped_and_is_traced_again() -> None:
    traced = fx.symbolic_trace(fx.symbolic_trace(lambda x: opaque(x) + 1))
    assert 'wrap("' in traced.code and traced(-torch.ones(2)).tolist() == [0.0, 0.0]
    assert [n.op for n in traced.graph.nodes] == ["placeholder", "call_function", "call_function", "output"]


def test_parameters_of_any_kind() -> None:
    def f(x: Any, *rest: Any, scale: Any = 2.0, **named: Any) -> Any:
        return x * scale, rest, named
    f.__annotations__ = {"x": torch.Tensor, "scale": float}
    traced = fx.symbolic_trace(f)
    result = traced(torch.ones(1), 3.0, 5, name=6)
    assert result[0].item() == 3.0 and result[1:] == ((5,), {"name": 6})
    assert "x : treadle.Tensor, scale : float = 2.0, *rest, **named)" in traced.code
    with pytest.raises(fx.TraceError, match="iterated"):
        fx.symbolic_trace(lambda *args: torch.stack(*args))
