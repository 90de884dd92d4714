"""More of nn: margin and CTC losses, EmbeddingBag, adaptive softmax, lazy layers, packed sequences; against PyTorch where marked."""
from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import nn
from treadle.nn import functional as F
from treadle.nn.utils import rnn
from treadle.runtime import engine, recorder

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 5))
REDUCTIONS = ("none", "mean", "sum")


def close(a: Any, b: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


def compare(run: Any, *arrays: np.ndarray, tolerance: float = 1e-9) -> None:
    """`run(library, *tensors)` in both libraries: results and the gradients of the floating arguments."""
    import torch

    ours = [treadle.tensor(a).requires_grad_(a.dtype.kind == "f") for a in arrays]
    theirs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    a, b = run(treadle, *ours), run(torch, *theirs)
    close(a, b, tolerance)
    factors = RNG.standard_normal(tuple(a.shape))
    (a * treadle.tensor(factors)).sum().backward()
    (b * torch.tensor(factors)).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        if y.grad is not None:
            close(x.grad, y.grad, tolerance)


@pytest.mark.oracle
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name,target,kwargs", [
    ("multi_margin_loss", np.array([0, 4, 2, 2]), {}), ("multi_margin_loss", np.array([0, 4, 2, 2]), {"p": 2, "margin": 0.5}),
    ("multilabel_margin_loss", np.array([[0, 3, -1, 1, 1], [1, -1, 0, 0, 0], [-1, 0, 0, 0, 0], [0, 1, 2, 3, 4]]), {}),
    ("multilabel_soft_margin_loss", (X > 0).astype(np.float64), {})])
def test_margin_losses_oracle(name: str, target: np.ndarray, kwargs: dict[str, Any], reduction: str) -> None:
    compare(lambda lib, x: getattr(lib.nn.functional, name)(x, lib.tensor(target), reduction=reduction, **kwargs), X)


@pytest.mark.oracle
@pytest.mark.parametrize("swap", [False, True])
def test_triplet_with_distance_oracle(swap: bool) -> None:
    arrays = [RNG.standard_normal((6, 3)) for _ in range(3)]
    compare(lambda lib, *xs: lib.nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: (a - b).abs().sum(-1), swap=swap)(*xs),
            *arrays)


@pytest.mark.oracle
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("flat", [False, True])
def test_ctc_oracle(reduction: str, flat: bool) -> None:
    logits = RNG.standard_normal((9, 3, 5))
    labels, lengths, counts = np.array([[1, 1, 2, 4], [3, 0, 0, 0], [2, 3, 2, 0]]), [9, 7, 8], [4, 1, 3]
    targets = np.concatenate([row[:n] for row, n in zip(labels, counts, strict=True)]) if flat else labels
    compare(lambda lib, x: lib.nn.CTCLoss(reduction=reduction)(x.log_softmax(2), lib.tensor(targets), lib.tensor(lengths),
                                                               lib.tensor(counts)), logits)


@pytest.mark.oracle
def test_ctc_edges_oracle() -> None:
    logits = RNG.standard_normal((3, 3, 4))
    targets = np.array([[1, 1, 2], [1, 2, 3], [0, 0, 0]])  # too long with its repeat; just fits; empty
    for zero in (False, True):
        def run(lib: Any, x: Any, zero: bool = zero) -> Any:
            return lib.nn.functional.ctc_loss(x.log_softmax(2), lib.tensor(targets), (3, 3, 2), (3, 3, 0), reduction="none",
                                              zero_infinity=zero)
        if zero:
            compare(run, logits)
        else:
            assert run(treadle, treadle.tensor(logits)).isinf().tolist() == [True, False, False]
    compare(lambda lib, x: lib.nn.functional.ctc_loss(x.log_softmax(1), lib.tensor([1, 2]), lib.tensor(3), lib.tensor(2)),
            logits[:, 0].copy())


def test_ctc_errors() -> None:
    x = treadle.zeros(4, 2, 3)
    with pytest.raises(RuntimeError, match="at most 4, got 5"):
        F.ctc_loss(x, treadle.ones(2, 2), [5, 4], [1, 1])
    with pytest.raises(RuntimeError, match="blank must be in label range"):
        F.ctc_loss(x, treadle.ones(2, 2), [4, 4], [1, 1], blank=3)
    with pytest.raises(RuntimeError, match="expected 2 input_lengths"):
        F.ctc_loss(x, treadle.ones(2, 2), [4], [1, 1])


@pytest.mark.oracle
@pytest.mark.parametrize("padding", [None, 2])
def test_embedding_divides_gradients_by_how_often_a_row_is_taken(padding: int | None) -> None:
    index = np.array([[1, 2, 1], [4, 1, 2]])
    compare(lambda lib, w: lib.nn.functional.embedding(lib.tensor(index), w, padding_idx=padding, scale_grad_by_freq=True),
            RNG.standard_normal((6, 3)))


@pytest.mark.oracle
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2])
def test_embedding_bag_oracle(mode: str, padding: int | None) -> None:
    weight, flat, offsets = RNG.standard_normal((6, 3)), np.array([1, 2, 4, 5, 2, 0, 2]), np.array([0, 3, 3, 5])

    def run(lib: Any, w: Any) -> Any:
        return lib.nn.functional.embedding_bag(lib.tensor(flat), w, lib.tensor(offsets), mode=mode, padding_idx=padding)
    compare(run, weight)
    compare(lambda lib, w: lib.nn.functional.embedding_bag(lib.tensor(flat[:6].reshape(2, 3)), w, mode=mode, padding_idx=padding), weight)
    if mode == "sum":
        compare(lambda lib, w, s: lib.nn.functional.embedding_bag(lib.tensor(flat), w, lib.tensor([*offsets, 7]), mode=mode,
                                                                  per_sample_weights=s, include_last_offset=True),
                weight, RNG.standard_normal(7))


@pytest.mark.oracle
def test_adaptive_softmax_oracle() -> None:
    import torch

    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], div_value=2.0, head_bias=True).double()
    ours = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], div_value=2.0, head_bias=True).double()
    ours.load_state_dict({k: treadle.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    x, y = RNG.standard_normal((5, 8)), np.array([0, 3, 11, 7, 2])
    a, b = ours(treadle.tensor(x), treadle.tensor(y)), theirs(torch.tensor(x), torch.tensor(y))
    close(a.output, b.output)
    close(a.loss, b.loss)
    close(ours.log_prob(treadle.tensor(x)), theirs.log_prob(torch.tensor(x)))
    assert ours.predict(treadle.tensor(x)).tolist() == theirs.predict(torch.tensor(x)).tolist()


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("lengths", [[5, 3, 3, 1], [2, 5, 1, 4]])
@pytest.mark.parametrize("padding", [0, 3])
def test_packed_recurrent_oracle(kind: str, settings: dict[str, Any], lengths: list[int], padding: int,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded within, and run by run of steps with equally many sequences."""
    import torch

    monkeypatch.setattr("treadle.nn.rnn.MOST_PADDING", padding)
    theirs = getattr(torch.nn, kind)(3, 4, batch_first=True, **settings).double()
    ours = getattr(nn, kind)(3, 4, batch_first=True, **settings).double()
    ours.load_state_dict({k: treadle.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    ordered = lengths == sorted(lengths, reverse=True)

    def run(lib: Any, x: Any) -> Any:
        packed = lib.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=ordered)
        out, last = (ours if lib is treadle else theirs)(packed)
        padded, counts = lib.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, padding_value=-1.0, total_length=6)
        assert counts.tolist() == lengths
        return lib.cat([padded.reshape(-1), *(s.reshape(-1) for s in (last if kind == "LSTM" else [last]))])
    compare(run, RNG.standard_normal((4, 5, 3)))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(p.grad, q.grad)


@pytest.mark.parametrize("settings", [{}, {"proj_size": 3, "bidirectional": True}])
def test_lengths_of_packed_sequences_make_no_difference_to_the_program(settings: dict[str, Any]) -> None:
    """Every sequence is computed as if it were alone, and other lengths compile nothing."""
    treadle.compiler.reset()
    layer = nn.LSTM(4, 6, num_layers=2, batch_first=True, **settings)
    kernels = []
    for lengths in ([7, 5, 5, 2], [6, 6, 4, 1], [9, 8, 3], [4, 4, 4, 4, 3], [8, 2, 2, 2, 1, 1]):
        x = treadle.tensor(RNG.standard_normal((len(lengths), max(lengths), 4)).astype(np.float32))
        before = engine.counters["kernels"]
        for _ in range(3):
            layer.zero_grad()
            out, (h, c) = layer(rnn.pack_padded_sequence(x, lengths, batch_first=True))
            (out.data.square().mean() + h.sum() + c.square().sum()).backward()
            assert layer.weight_ih_l0.grad is not None
            layer.weight_ih_l0.grad.tolist()
        kernels.append(engine.counters["kernels"] - before)
        padded, _ = rnn.pad_packed_sequence(out, batch_first=True)
        for i, n in enumerate(lengths):
            alone, (h1, c1) = layer(x[i:i + 1, :n])
            for got, want in ((padded[i:i + 1, :n], alone), (h[:, i:i + 1], h1), (c[:, i:i + 1], c1)):
                close(got, want, 1e-5)
    assert kernels[0] and not any(kernels[1:]) and layer.weight_ih_l0.grad.isfinite().all()


def test_packing() -> None:
    sequences = [treadle.arange(3), treadle.arange(10, 11), treadle.arange(20, 22)]
    packed = rnn.pack_sequence(sequences, enforce_sorted=False)
    assert packed.data.tolist() == [0, 20, 10, 1, 21, 2] and packed.batch_sizes.tolist() == [3, 2, 1]
    assert [s.tolist() for s in rnn.unpack_sequence(packed)] == [s.tolist() for s in sequences]
    with pytest.raises(RuntimeError, match="must be sorted in decreasing order"):
        rnn.pack_sequence(sequences)
    with pytest.raises(RuntimeError, match="greater than 0"):
        rnn.pack_padded_sequence(treadle.ones(2, 1), [0])
    with pytest.raises(ValueError, match="total_length=2"):
        rnn.pad_packed_sequence(packed, total_length=2)
    for sizes in ([3, 3], [2, 3], [5, 0], [3, 1], []):  # made by hand: more rows than there are, increasing, none, fewer, no steps
        with pytest.raises(RuntimeError, match=r"GRU: expected batch_sizes of a PackedSequence .* but got .* for data of shape \[5, 4\]"):
            nn.GRU(4, 6)(rnn.PackedSequence(treadle.ones(5, 4), treadle.tensor(sizes, dtype=treadle.int64)))


@pytest.mark.oracle
def test_attention_forward_oracle() -> None:
    arrays = [RNG.standard_normal(s) for s in ((5, 2, 8), (24, 8), (24,), (8, 8), (8,))]

    def run(lib: Any, x: Any, w: Any, b: Any, wo: Any, bo: Any) -> Any:
        out, weights = lib.nn.functional.multi_head_attention_forward(x, x, x, 8, 2, w, b, None, None, False, 0.0, wo, bo, training=True)
        return lib.cat([out.reshape(-1), weights.reshape(-1)])
    compare(run, *arrays, tolerance=1e-7)


def test_lazy_layers() -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 3, groups=2), nn.Flatten(), nn.LazyLinear(3))
    weight = net[2].weight
    assert "Uninitialized" in repr(weight) and net[2].has_uninitialized_params()
    fresh = copy.deepcopy(net)
    with pytest.raises(RuntimeError, match="uninitialized parameter in shape"):
        weight.shape  # noqa: B018
    assert net(treadle.ones(2, 6, 5, 5)).shape == (2, 3)
    assert type(net[0]) is nn.Conv2d and type(net[2]) is nn.Linear and net[2].weight is weight and net[2].in_features == 36
    assert net[0].weight.shape == (4, 3, 3, 3) and bool(weight.abs().max() <= 1 / 6) and bool(weight.abs().max() > 0)
    fresh.load_state_dict(net.state_dict())
    x = treadle.rand(1, 6, 5, 5)
    assert fresh(x).tolist() == net(x).tolist()
    file = io.BytesIO()
    treadle.save(net.state_dict(), file)
    with pytest.raises(RuntimeError, match=r"Expected 3D \(unbatched\) or 4D"):
        nn.LazyConv2d(1, 1)(treadle.ones(1, 1))


@pytest.mark.parametrize("name,shape", [("BatchNorm1d", (3, 4)), ("BatchNorm2d", (2, 4, 3, 3)), ("InstanceNorm2d", (4, 3, 3))])
def test_lazy_norms(name: str, shape: tuple[int, ...]) -> None:
    lazy, again = getattr(nn, "Lazy" + name)(affine=True), getattr(nn, "Lazy" + name)(affine=True)
    x = treadle.rand(shape)
    ready = getattr(nn, name)(4, affine=True)
    assert lazy(x).tolist() == ready(x).tolist() and repr(lazy) == repr(ready) and type(lazy) is type(ready)
    again.load_state_dict(lazy.state_dict())
    assert again.num_features == 4 and again.weight.tolist() == [1.0] * 4


def test_projected_lstm_and_random_windows() -> None:
    import treadle
    from treadle import nn
    treadle.manual_seed(0)
    layer = nn.LSTM(4, 6, num_layers=2, proj_size=3, bidirectional=True)
    assert layer.weight_hr_l1_reverse.shape == (3, 6) and layer.weight_ih_l1.shape == (24, 6)
    out, (h, c) = layer(treadle.randn(5, 2, 4))
    assert out.shape == (5, 2, 6) and h.shape == (4, 2, 3) and c.shape == (4, 2, 6)
    assert treadle.equal(out[-1, :, :3], h[2]) and treadle.equal(out[0, :, 3:], h[3])
    pool = nn.FractionalMaxPool2d(2, output_size=(3, 2), return_indices=True)
    x = treadle.randn(2, 3, 7, 5, requires_grad=True)
    values, places = pool(x)
    assert values.shape == (2, 3, 3, 2) and treadle.equal(x.flatten(2).gather(2, places.flatten(2)), values.flatten(2))
    values.sum().backward()
    assert x.grad is not None and x.grad.sum().item() == 36
    assert nn.CrossMapLRN2d(3)(x).shape == x.shape and nn.FractionalMaxPool3d(2, output_ratio=0.5)(treadle.randn(1, 4, 4, 4)).numel() == 8


def test_layers_of_the_last_releases() -> None:
    nn = treadle.nn
    loss = nn.LinearCrossEntropyLoss(4, 3, out_features=(2,), bias=True, options=nn.LinearCrossEntropyOptions(batch_chunk_size=2))
    x, target = treadle.randn(5, 4), treadle.randint(0, 3, (5, 2))
    logits = (x @ loss.linear.weight.t() + loss.linear.bias).reshape(5, 3, 2)
    assert treadle.allclose(loss(x, target), nn.functional.cross_entropy(logits, target))
    with pytest.raises(RuntimeError, match="weight shape"):
        nn.LinearCrossEntropyLoss(4, 3, weight=treadle.ones(4))


def test_sizes_of_variance_and_of_nothing() -> None:
    x, target = treadle.randn(4, 3), treadle.randn(4, 3)
    assert F.gaussian_nll_loss(x, target, treadle.ones(1, 3), reduction="none").shape == (4, 3)
    with pytest.raises(ValueError, match="incorrect size"):
        F.gaussian_nll_loss(x, target, treadle.ones(2, 3))
    norm = nn.BatchNorm1d(3)
    assert norm(treadle.ones(0, 3, 2)).shape == (0, 3, 2)
    assert norm.running_mean.tolist() == [0.0] * 3 and norm.running_var.tolist() == [1.0] * 3  # nothing learnt from nothing


def test_ctc_loss_is_as_many_ops_for_any_length() -> None:
    def count(steps: int) -> int:
        treadle.cpu.synchronize()
        before = recorder.counters["ops_recorded"]
        scores = treadle.zeros(steps, 2, 5).requires_grad_()
        lengths = treadle.full((2,), steps, dtype=treadle.int64)
        F.ctc_loss(scores.log_softmax(-1), treadle.tensor([[1, 2], [3, 3]]), lengths, treadle.tensor([2, 2])).backward()
        assert scores.grad.isfinite().all()
        return recorder.counters["ops_recorded"] - before
    count(7)
    assert count(20) == count(40)


def test_ctc_loss_names_targets_that_do_not_fit() -> None:
    scores, labels = treadle.zeros(4, 2, 5), treadle.ones(3, 1, dtype=treadle.int64)
    with pytest.raises(RuntimeError, match=r"ctc_loss: expected targets of 2 samples, as many as log_probs has, got shape \[3, 1\]"):
        treadle.nn.functional.ctc_loss(scores, labels, (4, 4), (1, 1))
