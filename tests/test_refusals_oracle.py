"""What PyTorch refuses is refused here, with its type of exception: axes of tensors with few or none, and dtypes in every combination."""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import treadle

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

# `x` is a tensor of ones, `d` an axis.
WITH_AXES = [line.strip() for line in """
    m.sum(x, d); m.nansum(x, d); m.mean(x, d); m.nanmean(x, d); m.prod(x, d); m.amax(x, d); m.amin(x, d); m.max(x, d); m.min(x, d)
    m.argmax(x, d); m.argmin(x, d); m.all(x, d); m.any(x, d); m.std(x, d); m.var(x, d); m.median(x, d); m.nanmedian(x, d); m.mode(x, d)
    m.logsumexp(x, d); m.cumsum(x, d); m.cumprod(x, d); m.logcumsumexp(x, d); m.sort(x, d); m.argsort(x, d); m.softmax(x, d)
    m.log_softmax(x, d); F.softmin(x, d); m.squeeze(x, d); m.unsqueeze(x, d); m.unbind(x, d); m.flip(x, (d,)); m.norm(x, 2, d)
    m.count_nonzero(x, d); m.aminmax(x, dim=d); m.diff(x, 1, d); m.unique(x, dim=d); m.unique_consecutive(x, dim=d); m.topk(x, 1, d)
    m.kthvalue(x, 1, d); m.quantile(x, .5, d); m.nanquantile(x, .5, d); m.movedim(x, d, 0); m.transpose(x, d, 0); m.swapaxes(x, d, 0)
    m.select(x, d, 0); m.narrow(x, d, 0, 1); m.split(x, 1, d); m.chunk(x, 1, d); m.tensor_split(x, 1, d); m.unflatten(x, d, (1, 1))
    m.flatten(x, d); m.flatten(x, 0, d); m.index_select(x, d, one); m.index_add(x, d, one, x); m.index_copy(x, d, one, x)
    m.index_fill(x, d, one, 1); m.index_reduce(x, d, one, x, 'amax'); m.gather(x, d, zero); m.scatter(x, d, zero, 1.)
    m.scatter_add(x, d, zero, x); m.scatter_reduce(x, d, zero, x, 'amax'); m.take_along_dim(x, zero, d); m.repeat_interleave(x, 2, d)
    m.stack([x, x], d); x.size(d); x.stride(d); x.unfold(d, 1, 1); m.renorm(x, 2, d, 1.); F.normalize(x, 2., d); F.glu(x, d)
    F.cosine_similarity(x, x, d); m.linalg.cross(x, x, dim=d); m.linalg.vecdot(x, x, dim=d); m.linalg.vector_norm(x, 2, d)
    m.linalg.norm(x, 2, d); m.linalg.matrix_norm(x, 'fro', (d, d - 1)); m.diagonal(x, 0, d, 0); m.diag_embed(x, 0, d, -2)
    m.trapezoid(x, dim=d); m.cumulative_trapezoid(x, dim=d); m.gradient(x, dim=d); F.gumbel_softmax(x, dim=d); m.fft.fft(x, dim=d)
    m.fft.rfft(x, dim=d); m.fft.fftshift(x, dim=d); m.fft.fftn(x, dim=(d,)); m.select_scatter(x, x, d, 0); m.slice_scatter(x, x, d)
    m.diagonal_scatter(x, x, 0, d, 0); m.permute(x, (d,)); m.tensordot(x, x, dims=([d], [d])); m.sum(x, (d, d)); m.mean(x, (d, d))
    m.std(x, (d, d)); m.all(x, (d, d)); m.norm(x, 2, (d, d)); m.flip(x, (d, d)); m.count_nonzero(x, (d, d)); m.squeeze(x, (d, d))
""".replace("\n", ";").split(";") if line.strip()]

# `x` is a tensor of ones.
OF_RANK = [line.strip() for line in """
    F.nll_loss(x, zero); F.cross_entropy(x, zero); m.hsplit(x, 1); m.vsplit(x, 1); m.dsplit(x, 1); F.layer_norm(x, ())
    F.layer_norm(x, (1,))
    F.rms_norm(x, (1,)); F.group_norm(x, 1); F.instance_norm(x); F.batch_norm(x, m.zeros(1), m.ones(1)); F.local_response_norm(x, 1)
    F.avg_pool1d(x, 1); F.avg_pool2d(x, 1); F.avg_pool3d(x, 1); F.max_pool1d(x, 1); F.max_pool2d(x, 1); F.max_pool3d(x, 1)
    F.adaptive_avg_pool1d(x, 1); F.adaptive_avg_pool3d(x, 1); F.adaptive_max_pool1d(x, 1); F.adaptive_max_pool2d(x, 1)
    F.adaptive_max_pool3d(x, 1); F.lp_pool1d(x, 2., 1); F.lp_pool2d(x, 2., 1); F.lp_pool3d(x, 2., 1); F.conv1d(x, m.ones(1, 1, 1))
    F.conv2d(x, m.ones(1, 1, 1, 1)); F.conv3d(x, m.ones(1, 1, 1, 1, 1)); m.mm(x, x); m.bmm(x, x); m.mv(x, x); m.dot(x, x); m.matmul(x, x)
    m.outer(x, x); m.inner(x, x); m.kron(x, x); m.vdot(x, x); m.cross(x, x); m.addmm(x, x, x); m.addmv(x, x, x); m.addr(x, x, x)
    m.addbmm(x, x, x); m.baddbmm(x, x, x); m.linalg.inv(x); m.linalg.det(x); m.linalg.slogdet(x); m.linalg.qr(x); m.linalg.eig(x)
    m.linalg.svd(x); m.linalg.pinv(x); m.linalg.matrix_exp(x); m.linalg.solve(x, x); m.linalg.lstsq(x, x); m.tril(x); m.diag(x); m.t(x)
    m.adjoint(x); x.mT; x.T; x.H; x.mH; m.bincount(x); m.msort(x); m.cdist(x, x); F.embedding(zero, x); F.linear(x, x); F.bilinear(x, x, x)
    F.prelu(x, x); F.interpolate(x, scale_factor=2); F.pixel_shuffle(x, 1); F.channel_shuffle(x, 1); F.fold(x, 1, 1); F.unfold(x, 1)
    F.pad(x, (1, 1)); m.multinomial(x, 1); x[0]; len(x); list(x); F.triplet_margin_loss(x, x, x); F.cosine_embedding_loss(x, x, x)
    F.multi_margin_loss(x, zero); F.multilabel_margin_loss(x, zero); F.multilabel_soft_margin_loss(x, x); m.trace(x); m.logdet(x)
    m.kthvalue(x, 1); m.mode(x); m.median(x); m.stft(x, 1, return_complex=True); F.dropout1d(x); F.dropout2d(x, 0.); F.dropout3d(x, 0.)
""".replace("\n", ";").split(";") if line.strip()]

# `a` and `b` make tensors of two dtypes.
OF_DTYPES = [line.strip() for line in """
    F.linear(a(2, 3), b(4, 3)); F.linear(a(2, 3), a(4, 3), b(4)); F.bilinear(a(2, 3), a(2, 3), b(4, 3, 3)); F.prelu(a(2, 3), b(1))
    F.batch_norm(a(2, 3), b(3), b(3), training=True); F.batch_norm(a(2, 3), b(3), b(3)); F.batch_norm(a(2, 3), b(3), b(3), b(3), b(3))
    F.batch_norm(a(2, 3), None, None, a(3), b(3), training=True); F.instance_norm(a(2, 3, 4), b(3), b(3), use_input_stats=False)
    F.instance_norm(a(2, 3, 4), weight=b(3), bias=b(3)); F.group_norm(a(2, 4, 4), 2, b(4), b(4)); F.group_norm(a(2, 4, 4), 2, a(4), b(4))
    F.layer_norm(a(2, 4), (4,), b(4), b(4)); F.rms_norm(a(2, 4), (4,), b(4)); F.mse_loss(a(2, 3), b(2, 3))
    F.l1_loss(a(2, 3), b(2, 3)); F.smooth_l1_loss(a(2, 3), b(2, 3)); F.huber_loss(a(2, 3), b(2, 3)); F.kl_div(a(2, 3), b(2, 3))
    F.binary_cross_entropy(a(2, 3), b(2, 3)); F.binary_cross_entropy_with_logits(a(2, 3), b(2, 3)); F.soft_margin_loss(a(2, 3), b(2, 3))
    F.hinge_embedding_loss(a(2, 3), b(2, 3)); F.gaussian_nll_loss(a(2, 3), a(2, 3), b(2, 3)); F.cosine_similarity(a(2, 3), b(2, 3))
    F.cross_entropy(a(2, 3), b(2)); F.cross_entropy(a(2, 3), b(2, 3)); F.cross_entropy(a(2, 3), two, b(3)); F.nll_loss(a(2, 3), two, b(3))
    m.matmul(a(3, 3), b(3, 3)); m.fmod(a(3), b(3)); m.atan2(a(3), b(3)); m.copysign(a(3), b(3)); m.logaddexp(a(3), b(3))
    m.logaddexp2(a(3), b(3)); m.ldexp(a(3), b(3)); m.xlogy(a(3), b(3)); m.heaviside(a(3), b(3)); m.lerp(a(3), b(3), .5)
    m.lerp(a(3), a(3), b(3)); m.addcmul(a(3), b(3), b(3)); m.addcdiv(a(3), b(3), b(3)); m.addmm(a(3, 3), b(3, 3), b(3, 3))
    m.baddbmm(a(3, 3, 3), b(3, 3, 3), b(3, 3, 3)); m.addmv(a(3), b(3, 3), b(3)); F.conv1d(a(1, 1, 3), b(1, 1, 1)); m.dot(a(3), b(3))
    F.conv1d(a(1, 1, 3), a(1, 1, 1), b(1)); m.cat([a(3), b(3)]); m.where(yes, a(3), b(3)); m.einsum('ij,jk->ik', a(3, 3), b(3, 3))
    F.scaled_dot_product_attention(a(1, 3, 3), b(1, 3, 3), b(1, 3, 3)); F.grid_sample(a(1, 1, 3, 3), b(1, 3, 3, 2))
    m.clamp(a(3), b(3), b(3))
    m.scatter(a(3), 0, three, b(3)); m.index_add(a(3), 0, one, b(1)); m.index_put(a(3), (one,), b(1)); a(3).add_(b(3))
    a(3).__setitem__(one, b(1)); a(3).__setitem__(one, b()); a(3).__setitem__(slice(0, 1), b(1)); a(3).__setitem__(yes, b())
    m.gather(a(3), 0, b(3)); m.index_select(a(3), 0, b(1)); m.take(a(3), b(1)); m.index_fill(a(3), 0, b(1), 1)
    m.index_copy(a(3), 0, b(1), a(1))
    m.scatter_add(a(3), 0, b(3), a(3)); m.take_along_dim(a(3), b(3), 0); m.quantile(a(3), b(1)); m.searchsorted(a(3), a(3), sorter=b(3))
    F.embedding(b(1), a(3, 3)); m.repeat_interleave(a(3), b(3)); m.linalg.vecdot(a(3), b(3)); m.linalg.solve(a(3, 3) + m.eye(3), b(3))
""".replace("\n", ";").split(";") if line.strip()]

DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")

# Deliberate: pattern of the call, and of what differs.
DELIBERATE = [
    (r".*", r"computes, .*NotImplementedError"),  # dtypes for which PyTorch has no kernel
    (r"m\.einsum", r"NotImplementedError"),  # it looks at the dtypes in another order
]


def outcome(m: Any, call: str, names: dict[str, Any]) -> tuple[type | None, str]:
    """The exception's type, or None with the dtypes of what was computed."""
    try:
        found = eval(call, {"m": m, "F": m.nn.functional, **names})
        parts = list(found) if isinstance(found, tuple | list) else [found]
        return None, " ".join([str(p.dtype).split(".")[1] for p in parts if isinstance(p, m.Tensor)])
    except Exception as error:
        return type(error), f"{error}"


def problems(call: str, told: str, make: Callable[[Any], dict[str, Any]]) -> list[str]:
    import torch
    want, text = outcome(torch, call, make(torch))
    got, mine = outcome(treadle, call, make(treadle))
    if want is None and got is None and text == mine:
        return []
    if want is not None and got is not None and (issubclass(got, want) or got.__name__ == want.__name__.strip("_")):
        return []
    said = f"{'computes' if got is None else got.__name__}, not {want.__name__ if want else 'computing'}: {mine} | {text}"[:250]
    known = any(re.match(pattern, call) and re.search(what, said) for pattern, what in DELIBERATE)
    return [] if known else [f"{call} {told}: {said}"]


def small(m: Any) -> dict[str, Any]:
    return {"one": m.tensor([0]), "zero": m.tensor(0), "two": m.tensor([0, 1]), "three": m.tensor([0, 1, 2]), "yes": m.tensor([True] * 3)}


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_axes(shape: tuple[int, ...]) -> None:
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    found = []
    for call in WITH_AXES:
        for d in (0, -1, 1, -2, 2):
            found += problems(call, f"of {shape}, d = {d}", lambda m, d=d: {"x": m.ones(shape), "d": d, **small(m)})  # type: ignore[misc]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_ranks(shape: tuple[int, ...]) -> None:
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    found = [p for call in OF_RANK for p in problems(call, f"of {shape}", lambda m: {"x": m.ones(shape), **small(m)})]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("first", DTYPES)
def test_dtypes(first: str) -> None:
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")

    def names(m: Any, second: str) -> dict[str, Any]:
        makers = [lambda *shape, dtype=dtype: m.ones(shape, dtype=getattr(m, dtype)) for dtype in (first, second)]
        return {"a": makers[0], "b": makers[1], **small(m)}
    found = [p for call in OF_DTYPES for second in DTYPES for p in problems(call, f"of {first}, {second}", lambda m, s=second: names(m, s))]
    assert not found, "\n".join(found)


# `b` is a vector 0 .. 5, `i` one of places.
DESTINATIONS = [line.strip() for line in """
    m.abs(b[:5], out=b[1:]); m.abs(b, out=b); m.abs(b[::2], out=b[1::2]); m.abs(b[:3], out=b[3:]); m.abs(b[:3], out=b[:3])
    m.add(b[:5], 2., out=b[1:]); m.add(b, b, out=b); m.add(b[:3], b[1:4], out=b[3:]); m.add(b[:3], b[2:5], out=b[3:])
    m.sub(b[:5], 2., out=b[1:]); m.mul(b[:5], 2., out=b[1:]); m.div(b[:5], 2., out=b[1:]); m.sqrt(b[:5], out=b[1:])
    m.floor(b[:5], out=b[1:])
    m.clamp(b[:5], 0, 1, out=b[1:]); m.cumsum(b, 0, out=b); m.gather(b, 0, i, out=b); m.take(b, i, out=b); m.index_select(b, 0, i, out=b)
    m.cat([b[:2], b[:2]], out=b[:4]); m.cat([b], out=b); m.cat([b[:2], b[2:3]], out=b[3:]); m.masked_select(b, b >= 0, out=b)
    m.kthvalue(b, 1, out=(b, i)); m.sort(b, out=(b, i)); m.topk(b, 3, out=(b, i)); m.where(b > 0, b, b, out=b)
    m.stack([b[:1], b[1:2]], out=b[:2].view(2, 1)); m.neg(b.view(2, 3), out=b.view(2, 3)); m.abs(b.view(2, 3).t(), out=b.view(3, 2))
    m.abs(b, out=d); m.ceil(b, out=d); m.round(b, out=d); m.neg(b, out=d); m.sign(b, out=d); m.exp(b, out=d); m.add(b, 1, out=d)
    m.cumsum(b, 0, out=d); m.softmax(b, 0, out=d); m.sort(b, out=(d, i)); m.sort(b, out=(b.clone(), d)); m.topk(b, 6, out=(d, i))
    m.gather(b, 0, i, out=d); m.take(b, i, out=d); m.index_select(b, 0, i, out=d); m.masked_select(b, b >= 0, out=d); m.isin(b, b, out=d)
    m.max(b, 0, out=(d.sum(), i.sum())); m.maximum(b, b, out=d); m.amax(b, 0, out=d.sum()); m.sum(b, 0, out=d.sum())
    m.lerp(b, b, .5, out=d)
    m.mean(b, 0, out=d.sum()); m.mv(b.view(2, 3), b[:3], out=d[:2]); m.mm(b.view(2, 3), b.view(3, 2), out=d[:4].view(2, 2))
    m.cat([b], out=d)
    m.dot(b, b, out=d.sum()); m.norm(b, 2, 0, out=d.sum()); m.argmax(b, 0, out=d.sum()); m.where(b > 0, b, b, out=d)
    m.logcumsumexp(b, 0, out=d)
    m.tril(b.view(2, 3), out=d.view(2, 3)); m.quantile(b, .5, out=d.sum()); m.kthvalue(b, 1, out=(d.sum(), i.sum())); m.nan_to_num(b, out=d)
""".replace("\n", ";").split(";") if line.strip()]


def test_destinations() -> None:
    """`out=` of another dtype, and in the memory of operands: refused or written, as in PyTorch."""
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")

    def names(m: Any) -> dict[str, Any]:
        return {"b": m.arange(6.), "d": m.zeros(6, dtype=m.float64), "i": m.tensor([2, 0, 1, 5, 4, 3])}
    found = [p for call in DESTINATIONS for p in problems(call, "", names)]
    assert not found, "\n".join(found)
