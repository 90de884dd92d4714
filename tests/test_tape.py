"""The tape: what a leaf keeps alive, what an op without a derivative says, what recording undoes when it is refused."""
from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

import treadle as torch
import treadle.nn.functional as F
from treadle.runtime.recorder import STATE


def test_what_pytorch_refuses_is_refused() -> None:
    flags, numbers = torch.tensor([True, False]), torch.tensor([1, 2])
    for difference in (lambda: flags - flags, lambda: flags - True, lambda: True - flags):
        with pytest.raises(RuntimeError, match=r"with two bool tensors is not supported\. Use the `\^`"):
            difference()
    for difference in (lambda: flags - 1, lambda: 1.5 - flags, lambda: numbers - flags, lambda: numbers - True):
        with pytest.raises(RuntimeError, match=r"with a bool tensor is not supported\. If you are trying to invert a mask"):
            difference()
    with pytest.raises(RuntimeError, match="Negation"):
        torch.neg(flags)
    x = torch.tensor([3.0, -5.0], requires_grad=True)
    for quotient in (x // 2, 7 // x, torch.floor_divide(x, 2)):
        assert quotient.requires_grad
        with pytest.raises(RuntimeError, match="derivative for aten::floor_divide is not implemented"):
            quotient.sum().backward()
    for mode in ("floor", "trunc"):
        x.grad = None
        torch.div(x, 2, rounding_mode=mode).sum().backward()
        assert x.grad.tolist() == [0, 0]


def test_hooks_of_a_leaf_nobody_holds_still_run() -> None:
    seen = []

    def loss() -> torch.Tensor:
        x = torch.ones(3, requires_grad=True)
        x.register_hook(lambda g: seen.append(g.tolist()))
        return (x * 2).sum()
    loss().backward()
    assert seen == [[2, 2, 2]]
    (torch.ones(3, requires_grad=True) * 2).sum().backward()


def test_leaves_leave_no_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        x = torch.ones(3, requires_grad=True)
        ref = weakref.ref(x)
        y = (x * 2).exp().sum()
        y.backward()
        torch.cpu.synchronize()
        del x, y
        assert ref() is None
    finally:
        gc.enable()


def test_a_refused_call_is_undone() -> None:
    x, y, z = torch.ones(2), torch.ones(3), torch.ones(2)
    torch.cpu.synchronize()
    kept = x * 2
    trace = STATE.here.trace
    before = len(trace.values), len(trace.scalars), dict(trace.leaves)
    for wrong in (lambda: z + y, lambda: torch.matmul(z, y), lambda: torch.addcmul(z, y, y, value=2.0), lambda: torch.where(z, y, 1.0)):
        with pytest.raises(RuntimeError):
            wrong()
        assert (len(trace.values), len(trace.scalars), dict(trace.leaves)) == before
    assert (kept + z).tolist() == [3, 3]


def test_nodes_are_visited_consumers_first() -> None:
    x = torch.tensor([2.0], requires_grad=True)
    a = x * 3
    b = a * a
    c = b + a
    d = c * b
    d.sum().backward()   # (9 x^2 + 3 x) * 9 x^2
    assert x.grad.tolist() == [4 * 81 * 8.0 + 3 * 27 * 4.0]


def test_requires_grad_follows_the_edge() -> None:
    x = torch.ones(2)
    assert x.is_leaf and not x.requires_grad and x.grad_fn is None
    x.requires_grad_()
    y = x * 2
    assert x.is_leaf and x.requires_grad and x.grad_fn is None
    assert not y.is_leaf and y.requires_grad and y.grad_fn.next_functions[0][0].variable is x
    x.requires_grad_(False)
    assert not x.requires_grad and y.requires_grad
    with pytest.raises(RuntimeError, match="only change requires_grad flags of leaf variables"):
        y.requires_grad = False
    assert not y.detach().requires_grad and y.detach().is_leaf


def test_rows_are_views() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    for source in (x, x.clone().requires_grad_(), x * 1.0):
        for i in (0, 2, -1, -3):
            assert source[i].tolist() == source.tolist()[i] and source[i].shape == (2,)
    torch.cpu.synchronize()
    y = x.clone()
    torch.cpu.synchronize()
    first, last = y[0], y[-1]
    first += 10
    last[1] = 7
    assert y.tolist() == [[10, 11], [2, 3], [4, 7]] and y[0][1].item() == 11
    y.mul_(2)
    assert first.tolist() == [20, 22] and last.tolist() == [8, 14]
    with pytest.raises(IndexError):
        y[3]
    z = x.clone().requires_grad_()
    (z[1] * 3).sum().backward()
    assert z.grad.tolist() == [[0, 0], [3, 3], [0, 0]]
    detached = z.detach()[1]
    assert not detached.requires_grad and detached.tolist() == [2, 3]


_PLACES = [0, 2]
REWRITTEN = {
    "quotient": lambda x: x / (x + 3), "erfinv": lambda x: torch.erfinv(x / 40), "max_pool": lambda x: F.max_pool1d(x, 2),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool1d(x, 3), "max": lambda x: x.max(1)[0], "cummin": lambda x: x.cummin(1)[0],
    "sort": lambda x: x.sort(1)[0], "topk": lambda x: x.topk(2, 1)[0], "normalize": lambda x: F.normalize(x),
}
READ = {
    "index": lambda x: x[:, _PLACES], "pairs": lambda x: x[torch.tensor([0, 1]), torch.tensor([2, 1])],
    "lerp": lambda x: torch.lerp(x, x.detach() * 2, 0.3), "cross_entropy": lambda x: F.cross_entropy(x, torch.tensor([3, 0])),
    "l1_loss": lambda x: F.l1_loss(x, torch.ones(2, 6) * 5),
}


def _gradient(function: Any, write: str) -> list[list[float]]:
    leaf = ((torch.arange(12.0).reshape(2, 6) * 5) % 13 + 1).requires_grad_()
    x = leaf * 1
    y = function(x)
    z = y * 2 if write == "no" else y
    if write == "result":
        z.mul_(2)
    elif write == "operand":
        with torch.no_grad():
            x.mul_(7)
        z = y * 2
    z.sum().backward()
    assert leaf.grad is not None
    return leaf.grad.tolist()


@pytest.mark.parametrize("name", REWRITTEN)
def test_results_that_pytorch_does_not_keep_may_be_written_over(name: str) -> None:
    assert _gradient(REWRITTEN[name], "result") == _gradient(REWRITTEN[name], "no")


@pytest.mark.parametrize("name", READ)
def test_operands_that_pytorch_does_not_keep_may_be_written_over(name: str) -> None:
    assert _gradient(READ[name], "operand") == _gradient(READ[name], "no")


def test_what_was_looked_up_need_not_be_kept() -> None:
    table = torch.ones(100, 4, requires_grad=True) * 1
    node = table[torch.tensor([1, 5])]._edge[0]
    assert node.op.name == "index" and node.saved[0] is None and node.saved[1] is not None


def test_a_gradient_that_is_differentiable_once_says_so_the_second_time() -> None:
    from treadle.autograd.function import Function, once_differentiable

    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.saved_tensors[0] * 2
    x = torch.tensor(3.0, requires_grad=True)
    found, = torch.autograd.grad(Square.apply(x), x)
    assert found.item() == 6.0 and not found.requires_grad
    w = torch.tensor(2.0, requires_grad=True)
    found, = torch.autograd.grad(Square.apply(x) * w, x, create_graph=True)
    assert found.item() == 12.0
    with pytest.raises(RuntimeError, match="once_differentiable"):
        found.backward()


def test_an_empty_scatter_is_on_the_tape_where_its_source_is() -> None:
    source, none = torch.ones(3, 5, requires_grad=True), torch.zeros(3, 0, dtype=torch.int64)
    for name, more in (("scatter", ()), ("scatter_add", ()), ("scatter_reduce", ("amax",))):
        source.grad = None
        found = getattr(torch.full((3, 5), 2.0), name)(1, none, source, *more)
        found.sum().backward()
        assert found.tolist() == [[2.0] * 5] * 3 and source.grad.tolist() == [[0.0] * 5] * 3
