"""Tensor's methods: operators, Python's protocols, views and strides, in-place writes, the tape's corners."""
from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import treadle
from treadle.layout import contiguous_strides, viewed_strides


@pytest.fixture
def x() -> Any:
    return treadle.arange(12.0).reshape(3, 4).clone()


# -- operators -----------------------------------------------------------------------------------------------------------------
def test_operators_with_numbers_on_either_side() -> None:
    t = treadle.tensor([4.0, 8.0])
    assert (t + 1).tolist() == [5, 9] and (1 + t).tolist() == [5, 9]
    assert (t - 1).tolist() == [3, 7] and (1 - t).tolist() == [-3, -7]
    assert (t / 2).tolist() == [2, 4] and (16 / t).tolist() == [4, 2]
    assert (t // 3).tolist() == [1, 2] and (9 // t).tolist() == [2, 1]
    assert (t % 3).tolist() == [1, 2] and (9 % t).tolist() == [1, 1]
    assert (-t).tolist() == [-4, -8] and abs(-t).tolist() == [4, 8] and (+t).tolist() == [4, 8]


def test_integer_and_boolean_operators() -> None:
    n, m = treadle.tensor([5, 6]), treadle.tensor([True, False])
    assert (n & 4).tolist() == [4, 4] and (n | 1).tolist() == [5, 7] and (n ^ 1).tolist() == [4, 7]
    assert (~n).tolist() == [-6, -7] and (~m).tolist() == [False, True]
    assert (n << 1).tolist() == [10, 12] and (n >> 1).tolist() == [2, 3] and (1 << treadle.tensor([3])).tolist() == [8]
    assert (m & True).tolist() == [True, False]


def test_operators_take_numpy_and_refuse_others() -> None:
    t = treadle.ones(2)
    assert (t + np.float32(2)).tolist() == [3, 3] and (t * np.array([1.0, 2.0])).tolist() == [1, 2]
    assert (np.array([1.0, 2.0]) * t).tolist() == [1, 2]
    assert (t == None) is False and (t != None) is True  # noqa: E711
    with pytest.raises(TypeError, match="unsupported operand"):
        t + "a"


def test_in_place_operators_keep_the_tensor() -> None:
    t = treadle.ones(2)
    same = t
    t += 1
    t *= 3
    t -= 2
    t /= 2
    t **= 2
    assert t is same and t.tolist() == [4, 4] and t._version == 5


# -- Python's protocols ------------------------------------------------------------------------------------------------------------
def test_numbers_and_truth() -> None:
    assert float(treadle.tensor(2.5)) == 2.5 and int(treadle.tensor(2.9)) == 2 and [1, 2, 3][treadle.tensor(1)] == 2
    assert bool(treadle.tensor([[1]])) and not treadle.tensor(0.0)
    with pytest.raises(RuntimeError, match="Boolean value of Tensor with more than one value is ambiguous"):
        bool(treadle.ones(2))
    with pytest.raises(RuntimeError, match="Boolean value of Tensor with no values is ambiguous"):
        bool(treadle.ones(0))
    with pytest.raises(RuntimeError, match="a Tensor with 2 elements cannot be converted to Scalar"):
        treadle.ones(2).item()
    with pytest.raises(TypeError, match="only integer tensors"):
        range(treadle.tensor(2.0))  # type: ignore[arg-type]


def test_containers(x: Any) -> None:
    assert len(x) == 3 and [row.sum().item() for row in x] == [6, 22, 38]
    assert 5.0 in x and 50.0 not in x
    *_, c = x
    assert c.tolist() == [8, 9, 10, 11]
    with pytest.raises(TypeError, match="iteration over a 0-d tensor"):
        iter(treadle.tensor(1))
    with pytest.raises(IndexError, match="index 3 is out of bounds for dimension 0 with size 3"):
        x[3]


def test_format_and_conversion(x: Any) -> None:
    assert f"{treadle.tensor(2.5):.3f}" == "2.500"
    assert np.asarray(x).tolist() == x.tolist() and x.numpy().dtype == np.float32
    with pytest.raises(RuntimeError, match=r"Use tensor.detach\(\).numpy\(\)"):
        x.requires_grad_().numpy()


def test_copies_and_pickles() -> None:
    leaf = treadle.tensor([1.0, 2.0], requires_grad=True)
    twin = copy.deepcopy(leaf)
    assert twin.requires_grad and twin is not leaf
    with treadle.no_grad():
        twin.add_(1)
    assert leaf.tolist() == [1, 2] and twin.tolist() == [2, 3]
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(leaf * 2)
    for dtype in (treadle.bfloat16, treadle.bool, treadle.int8, treadle.float64):
        t = treadle.tensor([[1, 0]], dtype=dtype)
        back = pickle.loads(pickle.dumps(t))
        assert back.dtype is dtype and back.tolist() == t.tolist()


def test_size() -> None:
    size = treadle.ones(2, 3).shape
    assert size == (2, 3) and repr(size) == "treadle.Size([2, 3])" and size.numel() == 6
    assert isinstance(size[:1], treadle.Size) and isinstance(size + (1,), treadle.Size) and size[-1] == 3
    assert treadle.ones(2, 3).size(1) == 3
    assert pickle.loads(pickle.dumps(size)) == size


# -- views and strides -----------------------------------------------------------------------------------------------------------
def test_strides_follow_the_views() -> None:
    t = treadle.arange(24).reshape(2, 3, 4)
    as_numpy = np.arange(24).reshape(2, 3, 4)

    def elements(a: np.ndarray) -> tuple[int, ...]:
        return tuple(s // a.itemsize for s in a.strides)
    pairs = [
        (t.permute(2, 0, 1), as_numpy.transpose(2, 0, 1)),
        (t[:, 1:, ::2], as_numpy[:, 1:, ::2]),
        (t.permute(2, 0, 1)[1:, :, 1], as_numpy.transpose(2, 0, 1)[1:, :, 1]),
        (t[:, 1].unsqueeze(1).expand(2, 5, 4), np.broadcast_to(as_numpy[:, 1][:, None], (2, 5, 4))),
        (t.mT.diagonal(0, 1, 2), as_numpy.swapaxes(1, 2).diagonal(0, 1, 2)),
    ]
    for ours, theirs in pairs:
        assert ours.stride() == elements(theirs)
        assert ours.tolist() == theirs.tolist()
        assert ours.is_contiguous() == theirs.flags.c_contiguous
    assert t[1, 1:].storage_offset() == 16 and t[1].data_ptr() == t.data_ptr() + 12 * 8


def test_reshape_shares_when_it_can_and_view_says_when_it_cannot(x: Any) -> None:
    x.view(2, 6)[0, 5] = 50
    x.t().view(2, 2, 3)  # the columns of four split into 2 x 2
    assert x[1, 1] == 50
    copied = x.t().reshape(12)
    copied[0] = -1
    assert x[0, 0] == 0
    with pytest.raises(RuntimeError, match=r"Use .reshape\(...\) instead"):
        x.t().view(12)
    assert x.t().contiguous().view(12).shape == (12,)


def test_viewed_strides_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 4), (6, 4), (2, 12), (24,), (1, 6, 4), (2, 1, 12), (3, 2, 2, 2), (4, 6), (24, 1)]
    for _ in range(300):
        whole = np.zeros((4, 6, 8), np.int8)
        part = whole[rng.integers(0, 2)::2, rng.integers(0, 2):, :][:2, :3, :4]
        part = part.transpose(rng.permutation(3)) if rng.random() < 0.7 else np.ascontiguousarray(part)
        new = shapes[rng.integers(len(shapes))]
        found = viewed_strides(part.shape, part.strides, new)
        moved = part.view()
        try:
            moved.shape = new
        except AttributeError:
            assert found is None
            continue
        assert found is not None
        assert [s for s, n in zip(found, new, strict=True) if n > 1] == [s for s, n in zip(moved.strides, new, strict=True) if n > 1]


def test_contiguous_strides() -> None:
    assert contiguous_strides((2, 3, 4)) == (12, 4, 1) and contiguous_strides(()) == () and contiguous_strides((2, 0, 3)) == (3, 3, 1)


def test_writes_through_every_kind_of_view() -> None:
    steps: list[tuple[Any, Any]] = [
        (lambda t: t.t()[1], lambda a: a.T[1]),
        (lambda t: t.view(-1)[3:9], lambda a: a.reshape(-1)[3:9]),
        (lambda t: t.diagonal(), lambda a: np.einsum("ii->i", a[:, :3])),
        (lambda t: t[1:, ::2], lambda a: a[1:, ::2]),
        (lambda t: t.unsqueeze(0).permute(2, 0, 1)[2], lambda a: a[None].transpose(2, 0, 1)[2]),
        (lambda t: t.unfold(1, 2, 2)[0], lambda a: a.reshape(3, 2, 2)[0]),
        (lambda t: t.chunk(2, 1)[1], lambda a: a[:, 2:]),
        (lambda t: t.as_strided((2, 2), (4, 1), 2), lambda a: np.lib.stride_tricks.as_strided(a.reshape(-1)[2:], (2, 2), (16, 4))),
    ]
    for ours, theirs in steps:
        t, a = treadle.arange(12.0).reshape(3, 4).clone(), np.arange(12, dtype=np.float32).reshape(3, 4)
        ours(t).mul_(10).add_(1)
        part = theirs(a)
        part[...] = part * 10 + 1
        assert t.tolist() == a.tolist()


def test_views_see_later_writes_and_in_place_views_move(x: Any) -> None:
    row, transposed = x[1], x.t()
    x.add_(1)
    assert row.tolist() == [5, 6, 7, 8] and transposed[0].tolist() == [1, 5, 9]
    x.t_()
    assert x.shape == (4, 3) and x.unsqueeze_(0).shape == (1, 4, 3) and x.squeeze_().shape == (4, 3)
    x.zero_()
    assert row.tolist() == [0, 0, 0, 0]


# -- in place --------------------------------------------------------------------------------------------------------------------
def test_in_place_refuses_what_pytorch_refuses() -> None:
    n, leaf = treadle.arange(3), treadle.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="can't be cast"):
        n.add_(1.5)
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        treadle.ones(3).add_(treadle.ones(2, 3))
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        leaf.add_(1)
    with pytest.raises(RuntimeError, match="a view of a leaf Variable"):
        leaf[0].fill_(1)
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        treadle.ones(1).expand(3).add_(1)
    with pytest.raises(RuntimeError, match="floating point dtype"):
        n.requires_grad_()


def test_fills_and_copies(x: Any) -> None:
    assert x.fill_(2).sum() == 24 and x.zero_().sum() == 0
    x.copy_(treadle.arange(4))
    assert x[2].tolist() == [0, 1, 2, 3] and x.dtype is treadle.float32
    x.fill_diagonal_(9)
    assert x.diagonal().tolist() == [9, 9, 9]
    assert x.resize_(2, 2).tolist() == [[9, 1], [2, 3]]
    x.set_(treadle.ones(1))
    assert x.tolist() == [1]


@pytest.mark.parametrize(("name", "arguments", "low", "high", "mean"), [
    ("uniform_", (2, 4), 2, 4, 3), ("normal_", (5, 0.1), 3, 7, 5), ("bernoulli_", (0.25,), 0, 1, 0.25),
    ("exponential_", (2.0,), 0, 20, 0.5),
    ("random_", (0, 10), 0, 9, 4.5),
    ("log_normal_", (0, 0.1), 0.5, 2, math.exp(0.005)),
])
def test_random_draws(name: str, arguments: tuple[float, ...], low: float, high: float, mean: float) -> None:
    treadle.manual_seed(1)
    t = getattr(treadle.empty(4000), name)(*arguments)
    assert low <= t.min() and t.max() <= high and abs(t.mean().item() - mean) < 0.06 * max(1, mean)
    treadle.manual_seed(1)
    assert treadle.equal(t, getattr(treadle.empty(4000), name)(*arguments))


# -- the tape --------------------------------------------------------------------------------------------------------------------
def test_an_in_place_op_may_use_what_it_replaces() -> None:
    a = treadle.tensor([1.0, 2.0, 3.0], requires_grad=True)
    b = treadle.tensor([4.0, 5.0, 6.0], requires_grad=True)
    t = a * 1
    t.mul_(b)
    t[1:].mul_(b[1:])
    t.sum().backward()
    assert a.grad.tolist() == [4, 25, 36] and b.grad.tolist() == [1, 20, 36]


def test_an_older_op_may_not() -> None:
    a = treadle.ones(2, requires_grad=True)
    t = a * 1
    u = t * t
    t.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        u.sum().backward()


def test_writes_off_the_tape_leave_history_alone() -> None:
    for write in (lambda t: t.detach().add_(5), lambda t: t.data.mul_(2), lambda t: t.detach()[0].fill_(3)):
        a = treadle.ones(2, requires_grad=True)
        t = a * 3
        write(t)
        (t * 2).sum().backward()
        assert a.grad.tolist() == [6, 6]
    a = treadle.ones(2, requires_grad=True)
    t = a * 3
    with treadle.no_grad():
        t.add_(1)
    assert t.tolist() == [4, 4] and t.requires_grad
    t.sum().backward()
    assert a.grad.tolist() == [3, 3]


def test_detached_stays_detached_after_tracked_writes() -> None:
    a = treadle.ones(2, requires_grad=True)
    t = a * 1
    shared = t.detach()
    t.mul_(a * 2)
    assert shared.tolist() == [2, 2] and not shared.requires_grad and shared.is_leaf


def test_hooks_and_retained_gradients() -> None:
    a = treadle.ones(2, requires_grad=True)
    t = a * 3
    t.retain_grad()
    seen: list[Any] = []
    handle = t.register_hook(lambda g: seen.append(g.tolist()) or g * 2)
    a.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.tolist()))
    t.sum().backward()
    assert seen == [[1, 1], [6, 6]] and t.retains_grad and t.grad.tolist() == [2, 2]
    handle.remove()
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        treadle.ones(1).register_hook(print)


def test_leaves_and_flags() -> None:
    a = treadle.ones(2, requires_grad=True)
    b = a.exp()
    assert a.is_leaf and a.grad_fn is None and not b.is_leaf and b.requires_grad and b.grad_fn.name() == "ExpBackward0"
    with pytest.raises(RuntimeError, match="leaf variables"):
        b.requires_grad = False
    with pytest.raises(RuntimeError, match="different size"):
        a.grad = treadle.ones(3)
    a.data = treadle.zeros(2)
    assert a.tolist() == [0, 0] and a.requires_grad


def test_python_floats_keep_their_precision() -> None:
    assert treadle.tensor(0.1, dtype=treadle.float64).item() == 0.1
    assert treadle.tensor([0.1, 1e20], dtype=treadle.float64).tolist() == [0.1, 1e20]
    assert treadle.tensor([0.1]).dtype is treadle.float32


def test_conversions() -> None:
    t = treadle.tensor([1.7, -1.7])
    assert t.long().tolist() == [1, -1] and t.bool().tolist() == [True, True] and t.half().dtype is treadle.float16
    assert t.to(treadle.float64).dtype is treadle.float64 and t.to("cpu") is t and t.to(t.long()).dtype is treadle.int64
    assert t.type() == "treadle.FloatTensor" and t.type(treadle.LongTensor).dtype is treadle.int64
    assert isinstance(t, treadle.FloatTensor) and not isinstance(t, treadle.LongTensor)
    assert t.new_zeros(2, 2).shape == (2, 2) and t.new_full((1,), 3).tolist() == [3] and t.new_tensor([1, 2]).dtype is treadle.float32
    with pytest.raises(RuntimeError, match="not available"):
        t.cuda()


def test_only_functions_of_an_input_are_methods() -> None:
    for name in ("cat", "stack", "meshgrid", "einsum", "tril_indices", "block_diag", "broadcast_shapes"):
        assert not hasattr(treadle.Tensor, name)
    for name in ("softmax", "add_", "clamp_", "masked_fill_", "index_add_", "topk", "matmul", "dot", "mv", "addmv_", "quantile"):
        assert hasattr(treadle.Tensor, name)


@pytest.mark.parametrize("include_self", [True, False])
def test_gradient_of_scattered_products_with_zeros(include_self: bool) -> None:
    import treadle
    x = treadle.tensor([[2.0, 0.0, 3.0], [1.5, 4.0, 0.5]], dtype=treadle.float64, requires_grad=True)
    src = treadle.tensor([[0.0, 3.0, 0.0], [0.0, 2.0, 5.0]], dtype=treadle.float64, requires_grad=True)
    index = treadle.tensor([[0, 0, 1], [1, 2, 2]])
    assert treadle.autograd.gradcheck(lambda a, c: a.scatter_reduce(1, index, c, "prod", include_self=include_self), (x, src))


def test_variables_of_old_programs() -> None:
    import treadle
    from treadle.autograd import Variable
    x = treadle.ones(2)
    v = Variable(x, requires_grad=True)
    v.data.add_(1)
    assert isinstance(x, Variable) and v.requires_grad and not x.requires_grad and x.tolist() == [2.0, 2.0]
    assert not Variable(v).requires_grad and not Variable(x, volatile=True).requires_grad


def test_what_is_put_in_the_place_of_data_leaves_the_old_memory_alone() -> None:
    p, shadow = treadle.nn.Parameter(treadle.ones(3)), treadle.full((3,), 5.0)
    kept = p.data
    p.data = shadow
    assert p.tolist() == [5.0] * 3 and kept.tolist() == [1.0] * 3
    p.data = kept
    assert p.tolist() == [1.0] * 3 and shadow.tolist() == [5.0] * 3
    other = treadle.nn.Parameter(treadle.zeros(3))
    p.data, other.data = other.data, p.data
    assert p.tolist() == [0.0] * 3 and other.tolist() == [1.0] * 3
    plain = treadle.ones(3)
    before, tail = plain.data, plain[1:]
    plain.data = shadow
    shadow.add_(1)
    tail.fill_(4)
    assert plain.tolist() == [6.0] * 3 and before.tolist() == [1.0, 4.0, 4.0]
    (p * 2).sum().backward()
    assert p.grad.tolist() == [2.0] * 3
    p.data = treadle.ones(5)
    assert p.shape == (5,) and p.is_leaf and p.requires_grad


def test_parts_of_a_parameters_data_are_written() -> None:
    p = treadle.nn.Parameter(treadle.ones(2, 2))
    p.data[0].fill_(9)
    p.detach()[1][0] = 7
    p.data.view(-1)[3:].zero_()
    assert p.tolist() == [[9.0, 9.0], [7.0, 0.0]] and p.requires_grad and p.grad_fn is None
    with pytest.raises(RuntimeError, match="view of a leaf"):
        p[0].fill_(1)
    (p * p).sum().backward()
    assert p.grad.tolist() == [[18.0, 18.0], [14.0, 0.0]]
