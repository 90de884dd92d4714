"""Sparse tensors without PyTorch beside them: compiled calls, indices that do not fit, what is refused, memory that is shared."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import treadle
from treadle import Tensor, nn


def adjacency(seed: int, n: int = 12, count: int = 20) -> Tensor:
    rng = np.random.default_rng(seed)
    places = rng.choice(n * n, count, replace=False)
    return treadle.sparse_coo_tensor(np.stack([places // n, places % n]), rng.standard_normal(count).astype(np.float32), (n, n))


def test_a_compiled_call_takes_another_graph() -> None:
    """Graphs with as many edges replay; one with more, or a dense matrix in its place, does not, and is right too."""
    @treadle.compile(fullgraph=True)
    def convolved(adj: Tensor, x: Tensor) -> Tensor:
        return (adj @ x).relu() @ x.t()
    x = treadle.randn(12, 4)
    others = [adjacency(s) for s in range(5)]
    for adj in (*others, adjacency(9, count=30), others[0].coalesce(), others[1].to_dense(), others[2].to_sparse_csr(), *others):
        want = (adj.to_dense() @ x).relu() @ x.t()
        np.testing.assert_allclose(convolved(adj, x).numpy(), want.numpy(), rtol=1e-5, atol=1e-5)
    assert convolved.captures == 5  # COO, more edges, coalesced, dense, CSR


def test_a_compiled_call_sees_what_two_graphs_share() -> None:
    """Tensors with one pattern add up value by value; others in their place are not taken for such."""
    @treadle.compile
    def both(a: Tensor, b: Tensor) -> Tensor:
        return (a + b).to_dense()
    one, other = adjacency(0), adjacency(1)
    for a, b in ((one, one * 2), (one, other), (other, other * 3), (other, one), (one, one)):
        np.testing.assert_allclose(both(a, b).numpy(), a.to_dense().numpy() + b.to_dense().numpy(), rtol=1e-6)


def test_a_compiled_call_gives_a_sparse_tensor() -> None:
    @treadle.compile(fullgraph=True)
    def scaled(adj: Tensor, by: Tensor) -> Tensor:
        return adj * by
    for seed in range(3):
        adj, by = adjacency(seed), treadle.randn(12, 1)
        found = scaled(adj, by)
        assert found.is_sparse and found._nnz() == 20
        np.testing.assert_allclose(found.to_dense().numpy(), (adj.to_dense() * by).numpy(), rtol=1e-6)


def test_edge_weights_learn_in_a_compiled_step() -> None:
    """A graph made anew in every call, of weights that have gradients, with an edge that is there twice."""
    edges, x, want = treadle.tensor([[0, 1, 2, 0], [1, 2, 0, 1]]), treadle.randn(3, 2), treadle.randn(3, 2)
    curves = []
    for compiled in (False, True):
        weights = treadle.ones(4).requires_grad_()
        optimizer = treadle.optim.SGD([weights], lr=0.05)

        def step(edges: Tensor, weights: Tensor = weights, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (treadle.sparse.mm(treadle.sparse_coo_tensor(edges, weights, (3, 3)), x) - want).square().mean()
            loss.backward()
            optimizer.step()
            return loss
        run = treadle.compile(step) if compiled else step
        curves.append([run(edges).item() for _ in range(8)])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    assert curves[0][-1] < curves[0][0]


def test_indices_that_do_not_fit() -> None:
    for places in ([[3], [0]], [[-1], [0]], [[0], [2]]):
        with pytest.raises(RuntimeError, match="index"):
            treadle.sparse_coo_tensor(places, [1.0], (3, 2))

    @treadle.compile
    def product(places: Tensor) -> Tensor:
        return treadle.sparse_coo_tensor(places, treadle.ones(2), (3, 3)) @ treadle.ones(3, 2)
    good = treadle.tensor([[0, 2], [1, 1]])
    for _ in range(4):
        assert product(good).tolist() == [[1, 1], [0, 0], [1, 1]]
    for bad in ([[0, 3], [1, 1]], [[0, 2], [1, 3]], [[-1, 2], [1, 1]], [[0, 2], [-2, 1]]):
        with pytest.raises((RuntimeError, IndexError), match=r"out of bounds|index"):
            product(treadle.tensor(bad)).tolist()
    for starts, columns in (([0, 2], [0, 1]), ([0, 1, 3], [0, 1]), ([0, 2, 1], [0]), ([0, 1, 2], [0, 2]), ([0, 1, 2], [0, -1])):
        with pytest.raises(RuntimeError, match="indices"):
            treadle.sparse_csr_tensor(starts, columns, [1.0] * len(columns), (2, 2))


def test_products_of_every_type_and_shape() -> None:
    for dtype in (treadle.float64, treadle.float32, treadle.float16, treadle.bfloat16, treadle.int64, treadle.int32):
        for width in (1, 3, 16, 65, 130):
            adj, x = (adjacency(3) * 4).to(dtype), (treadle.randn(12, width) * 4).to(dtype)
            want = adj.to_dense().double().numpy() @ x.double().numpy()
            for m in (adj, adj.coalesce(), adj.t().coalesce().t(), adj.to_sparse_csr(), adj.to_sparse_csc()):
                for _ in range(2):
                    np.testing.assert_allclose((m @ x).double().numpy(), want, rtol=1e-5 if dtype.itemsize > 2 else 2e-2, atol=1e-2)
    empty = treadle.sparse_coo_tensor(size=(3, 4))
    assert (empty @ treadle.ones(4, 2)).tolist() == [[0, 0]] * 3 and empty.to_dense().tolist() == [[0] * 4] * 3
    assert (adjacency(0) @ treadle.ones(12, 0)).shape == (12, 0)


def test_values_share_memory() -> None:
    values = treadle.ones(2)
    s = treadle.sparse_coo_tensor([[0, 1], [1, 0]], values, (2, 2), is_coalesced=True)
    values.mul_(3)
    assert s.to_dense().tolist() == [[0, 3], [3, 0]]
    s.values().add_(1)
    assert values.tolist() == [4, 4] and s.to_dense().tolist() == [[0, 4], [4, 0]]
    s.mul_(2)
    assert s.to_dense().tolist() == [[0, 8], [8, 0]]
    assert s.zero_()._nnz() == 0 and s.to_dense().tolist() == [[0, 0], [0, 0]]


def test_layouts_do_not_mix_in_place() -> None:
    s, d = adjacency(0), treadle.ones(12, 12)
    for write in (lambda: d.copy_(s), lambda: s.copy_(d), lambda: s.fill_(1.0), lambda: d.mul_(s), lambda: s.add_(d)):
        with pytest.raises(RuntimeError, match="sparse"):
            write()
    d.add_(s)
    np.testing.assert_allclose(d.numpy(), 1 + s.to_dense().numpy())


def test_second_derivatives_and_hooks() -> None:
    values, x = treadle.tensor([2.0, 3.0]).requires_grad_(), treadle.tensor([[1.0], [4.0]]).requires_grad_()
    s = treadle.sparse_coo_tensor([[0, 1], [1, 0]], values, (2, 2))
    seen = []
    s.register_hook(lambda g: seen.append(g.is_sparse))
    (g,) = treadle.autograd.grad((s @ x).square().sum(), values, create_graph=True)
    assert g.tolist() == [2 * 2 * 16, 2 * 3 * 1] and seen == [True]
    (again,) = treadle.autograd.grad(g.sum(), x)
    assert again.reshape(-1).tolist() == [4 * 3 * 1, 4 * 2 * 4]


def test_one_table_with_both_kinds_of_gradient() -> None:
    table = nn.Parameter(treadle.ones(4, 2))
    (nn.functional.embedding(treadle.tensor([1, 1]), table, sparse=True).sum() + table.sum()).backward()
    assert not table.grad.is_sparse and table.grad.tolist() == [[1, 1], [3, 3], [1, 1], [1, 1]]
    nn.functional.embedding(treadle.tensor([0]), table, sparse=True).sum().backward()
    assert table.grad[0].tolist() == [2, 2]


def test_a_module_with_a_sparse_buffer() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("adj", adjacency(0))

        def forward(self, x: Tensor) -> Tensor:
            return self.adj @ x
    one, other = Graph(), Graph()
    other.adj.mul_(0)
    other.load_state_dict(one.state_dict())
    x = treadle.ones(12, 2)
    assert (other(x) == one(x)).all() and other.double().adj.dtype is treadle.float64


def test_clipping_scales_a_sparse_gradient() -> None:
    e = nn.Embedding(5, 2, sparse=True)
    (e(treadle.tensor([1, 1, 2])) * 3).sum().backward()
    norm = nn.utils.clip_grad_norm_(e.parameters(), 1.0)
    assert norm.item() == pytest.approx(np.sqrt(2 * 36 + 2 * 9)) and e.weight.grad.norm().item() == pytest.approx(1, rel=1e-4)
