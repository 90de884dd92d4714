"""Every function that PyTorch's CPU autocast lists, and others that it does not, gives PyTorch's type and values under autocast."""
from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import treadle as td

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")

Call = Callable[[Any, Any], Any]  # (the package, numbers of a shape as its tensor) -> result
SEQUENCE, IMAGE, VOLUME = (2, 3, 8), (2, 3, 6, 6), (1, 2, 4, 4, 4)
CLASSES = [0, 1, 2, 3]


def _positive(t: Any, c: Any) -> Any:
    x = c(4, 4)
    return x @ x.t() + 4 * t.eye(4, dtype=x.dtype)


def _plain(call: Call) -> Call:
    """Operands made without autocast."""
    def made(t: Any, c: Any) -> Any:
        with t.autocast("cpu", enabled=False):
            s = _positive(t, c)
        return call(t, s)
    return made


LISTED: dict[str, Call] = {
    "conv1d": lambda t, c: t.conv1d(c(*SEQUENCE), c(4, 3, 3)), "conv2d": lambda t, c: t.conv2d(c(*IMAGE), c(4, 3, 3, 3)),
    "conv3d": lambda t, c: t.conv3d(c(*VOLUME), c(2, 2, 2, 2, 2)),
    "conv_transpose1d": lambda t, c: t.conv_transpose1d(c(*SEQUENCE), c(3, 4, 3)),
    "conv_transpose2d": lambda t, c: t.conv_transpose2d(c(*IMAGE), c(3, 4, 3, 3)),
    "conv_transpose3d": lambda t, c: t.conv_transpose3d(c(*VOLUME), c(2, 2, 2, 2, 2)),
    "bmm": lambda t, c: t.bmm(c(2, 4, 4), c(2, 4, 4)), "mm": lambda t, c: t.mm(c(4, 4), c(4, 4)),
    "baddbmm": lambda t, c: t.baddbmm(c(2, 4, 4), c(2, 4, 4), c(2, 4, 4)), "addmm": lambda t, c: t.addmm(c(4, 4), c(4, 4), c(4, 4)),
    "addbmm": lambda t, c: t.addbmm(c(4, 4), c(2, 4, 4), c(2, 4, 4)), "matmul": lambda t, c: t.matmul(c(4, 4), c(4, 4)),
    "linear": lambda t, c: t.nn.functional.linear(c(4, 4), c(3, 4), c(3)), "linalg_vecdot": lambda t, c: t.linalg.vecdot(c(4, 4), c(4, 4)),
    "prelu": lambda t, c: t.nn.functional.prelu(c(4, 4), c(1)),
    "scaled_dot_product_attention": lambda t, c: t.nn.functional.scaled_dot_product_attention(*[c(1, 2, 4, 4) for _ in range(3)]),
    "avg_pool3d": lambda t, c: t.nn.functional.avg_pool3d(c(*VOLUME), 2),
    "max_pool3d": lambda t, c: t.nn.functional.max_pool3d(c(*VOLUME), 2),
    "adaptive_avg_pool3d": lambda t, c: t.nn.functional.adaptive_avg_pool3d(c(*VOLUME), 2),
    "adaptive_max_pool3d": lambda t, c: t.nn.functional.adaptive_max_pool3d(c(*VOLUME), 2),
    "max_unpool2d": lambda t, c: t.nn.functional.max_unpool2d(*t.nn.functional.max_pool2d(c(*IMAGE), 2, return_indices=True), 2),
    "max_unpool3d": lambda t, c: t.nn.functional.max_unpool3d(*t.nn.functional.max_pool3d(c(*VOLUME), 2, return_indices=True), 2),
    "grid_sampler": lambda t, c: t.nn.functional.grid_sample(c(*IMAGE), c(2, 3, 3, 2).tanh(), align_corners=False),
    "prod": lambda t, c: t.prod(c(4, 4)), "prod.dim_int": lambda t, c: t.prod(c(4, 4), 0),
    "quantile": lambda t, c: t.quantile(c(4, 4), 0.5), "nanquantile": lambda t, c: t.nanquantile(c(4, 4), 0.5),
    "cdist": lambda t, c: t.cdist(c(4, 4), c(4, 4)), "trace": lambda t, c: t.trace(c(4, 4)),
    "reflection_pad1d": lambda t, c: t.nn.functional.pad(c(*SEQUENCE), (1, 1), "reflect"),
    "reflection_pad2d": lambda t, c: t.nn.functional.pad(c(*IMAGE), (1, 1, 1, 1), "reflect"),
    "replication_pad1d": lambda t, c: t.nn.functional.pad(c(*SEQUENCE), (1, 1), "replicate"),
    "replication_pad2d": lambda t, c: t.nn.functional.pad(c(*IMAGE), (1, 1, 1, 1), "replicate"),
    "replication_pad3d": lambda t, c: t.nn.functional.pad(c(*VOLUME), (1,) * 6, "replicate"),
    "binary_cross_entropy": lambda t, c: t.nn.functional.binary_cross_entropy(c(4, 4).sigmoid(), c(4, 4).sigmoid()),
    "binary_cross_entropy_with_logits": lambda t, c: t.nn.functional.binary_cross_entropy_with_logits(c(4, 4), c(4, 4).sigmoid()),
    "mse_loss": lambda t, c: t.nn.functional.mse_loss(c(4, 4), c(4, 4)), "l1_loss": lambda t, c: t.nn.functional.l1_loss(c(4, 4), c(4, 4)),
    "smooth_l1_loss": lambda t, c: t.nn.functional.smooth_l1_loss(c(4, 4), c(4, 4)),
    "huber_loss": lambda t, c: t.nn.functional.huber_loss(c(4, 4), c(4, 4)),
    "cosine_embedding_loss": lambda t, c: t.nn.functional.cosine_embedding_loss(c(4, 4), c(4, 4), t.tensor([1, -1, 1, 1])),
    "nll_loss": lambda t, c: t.nn.functional.nll_loss(c(4, 4), t.tensor(CLASSES)),
    "nll_loss2d": lambda t, c: t.nn.functional.nll_loss(c(2, 4, 3, 3), t.zeros(2, 3, 3, dtype=t.int64)),
    "cross_entropy_loss": lambda t, c: t.nn.functional.cross_entropy(c(4, 4), t.tensor(CLASSES)),
    "hinge_embedding_loss": lambda t, c: t.nn.functional.hinge_embedding_loss(c(4, 4), t.ones(4, 4, dtype=t.int64)),
    "poisson_nll_loss": lambda t, c: t.nn.functional.poisson_nll_loss(c(4, 4), c(4, 4).abs()),
    "margin_ranking_loss": lambda t, c: t.nn.functional.margin_ranking_loss(c(4), c(4), c(4).sign()),
    "soft_margin_loss": lambda t, c: t.nn.functional.soft_margin_loss(c(4, 4), c(4, 4).sign()),
    "triplet_margin_loss": lambda t, c: t.nn.functional.triplet_margin_loss(c(4, 4), c(4, 4), c(4, 4)),
    "multi_margin_loss": lambda t, c: t.nn.functional.multi_margin_loss(c(4, 4), t.tensor(CLASSES)),
    "multilabel_margin_loss": lambda t, c: t.nn.functional.multilabel_margin_loss(c(4, 4), t.tensor([[1, 2, -1, 0]] * 4)),
    "ctc_loss.Tensor": lambda t, c: t.nn.functional.ctc_loss(c(5, 2, 4).log_softmax(-1), t.tensor([[1, 2], [2, 3]]), t.tensor([5, 5]),
                                                             t.tensor([2, 2])),
    "kl_div": lambda t, c: t.nn.functional.kl_div(c(4, 4), c(4, 4).sigmoid()),
    "linalg_cond": _plain(lambda t, s: t.linalg.cond(s)), "linalg_matrix_rank": _plain(lambda t, s: t.linalg.matrix_rank(s)),
    "linalg_solve": _plain(lambda t, s: t.linalg.solve(s, s)), "linalg_cholesky": _plain(lambda t, s: t.linalg.cholesky(s)),
    "linalg_cholesky_ex": _plain(lambda t, s: t.linalg.cholesky_ex(s)[0]), "cholesky": _plain(lambda t, s: t.cholesky(s)),
    "cholesky_inverse": _plain(lambda t, s: t.cholesky_inverse(s.tril())),
    "cholesky_solve": _plain(lambda t, s: t.cholesky_solve(s, s.tril())), "linalg_svdvals": _plain(lambda t, s: t.linalg.svdvals(s)),
    "linalg_eigvalsh": _plain(lambda t, s: t.linalg.eigvalsh(s)), "linalg_eigh": _plain(lambda t, s: t.linalg.eigh(s)[0]),
    "linalg_inv": _plain(lambda t, s: t.linalg.inv(s)), "linalg_inv_ex": _plain(lambda t, s: t.linalg.inv_ex(s)[0]),
    "inverse": _plain(lambda t, s: t.inverse(s)), "pinverse": _plain(lambda t, s: t.pinverse(s)),
    "linalg_qr": _plain(lambda t, s: t.linalg.qr(s)[1].abs()), "qr": _plain(lambda t, s: t.qr(s)[1].abs()),
    "linalg_svd": _plain(lambda t, s: t.linalg.svd(s)[1]), "svd": _plain(lambda t, s: t.svd(s)[1]),
    "linalg_lstsq": _plain(lambda t, s: t.linalg.lstsq(s, s)[0]), "linalg_tensorinv": lambda t, c: t.linalg.tensorinv(c(2, 2, 4)),
    "linalg_tensorsolve": lambda t, c: t.linalg.tensorsolve(c(2, 2, 4), c(2, 2)),
    "triangular_solve": _plain(lambda t, s: t.triangular_solve(s, s)[0]),
    "cat": lambda t, c: t.cat([c(4, 4), c(4, 4).float()]), "stack": lambda t, c: t.stack([c(4, 4), c(4, 4).float()]),
    "index_copy": lambda t, c: c(4, 4).index_copy(0, t.tensor([1]), c(1, 4).float()),
}
# Names of the same lists that Treadle has no function for, or reaches by another name of them.
ELSEWHERE = re.compile(r"_.*|fft_.*|stft|polar|view_as_complex|linalg_eig(vals)?|.*householder.*|geqrf|ormqr|orgqr|lu_solve|conv_tbc|"
                       r"fake_quantize.*|fractional_max_pool.d|mkldnn_rnn_layer|grid_sampler_.d|multilabel_margin_loss_forward")
OTHERS: dict[str, Call] = {
    "mv": lambda t, c: t.mv(c(4, 4), c(4)), "addmv": lambda t, c: t.addmv(c(4), c(4, 4), c(4)), "dot": lambda t, c: t.dot(c(4), c(4)),
    "inner": lambda t, c: t.inner(c(4), c(4)), "inner of matrices": lambda t, c: t.inner(c(4, 4), c(4, 4)),
    "outer": lambda t, c: t.outer(c(4), c(4)), "addr": lambda t, c: t.addr(c(4, 4), c(4), c(4)),
    "matrix @ vector": lambda t, c: c(4, 4) @ c(4), "vector @ matrix": lambda t, c: c(4) @ c(4, 4),
    "vector @ vector": lambda t, c: c(4) @ c(4),
    "einsum": lambda t, c: t.einsum("ij,jk->ik", c(4, 4), c(4, 4)), "tensordot": lambda t, c: t.tensordot(c(4, 4), c(4, 4), 1),
    "multi_dot": lambda t, c: t.linalg.multi_dot([c(4, 4), c(4, 4), c(4, 4)]), "kron": lambda t, c: t.kron(c(4, 4), c(4, 4)),
    "bilinear": lambda t, c: t.nn.functional.bilinear(c(4, 4), c(4, 4), c(3, 4, 4)),
    "double": lambda t, c: c(4, 4).double() @ c(4, 4).double(),
    "mixed": lambda t, c: t.mm(c(4, 4).float(), c(4, 4)), "add": lambda t, c: c(4, 4) + c(4, 4).float(),
    "relu": lambda t, c: t.relu(c(4, 4)),
    "exp": lambda t, c: c(4, 4).exp(), "softmax": lambda t, c: t.softmax(c(4, 4), -1),
    "log_softmax": lambda t, c: t.log_softmax(c(4, 4), -1),
    "sum": lambda t, c: c(4, 4).sum(), "mean": lambda t, c: c(4, 4).mean(), "var": lambda t, c: c(4, 4).var(),
    "norm": lambda t, c: c(4, 4).norm(),
    "cumsum": lambda t, c: c(4, 4).cumsum(0), "logsumexp": lambda t, c: t.logsumexp(c(4, 4), 0),
    "dist": lambda t, c: t.dist(c(4, 4), c(4, 4)),
    "gelu": lambda t, c: t.nn.functional.gelu(c(4, 4)), "layer_norm": lambda t, c: t.nn.functional.layer_norm(c(4, 4), (4,)),
    "group_norm": lambda t, c: t.nn.functional.group_norm(c(4, 4), 2), "avg_pool2d": lambda t, c: t.nn.functional.avg_pool2d(c(*IMAGE), 2),
    "batch_norm": lambda t, c: t.nn.functional.batch_norm(c(4, 4), None, None, training=True),
    "max_pool2d": lambda t, c: t.nn.functional.max_pool2d(c(*IMAGE), 2), "constant pad": lambda t, c: t.nn.functional.pad(c(4, 4), (1, 1)),
    "circular pad": lambda t, c: t.nn.functional.pad(c(*SEQUENCE), (1, 1), "circular"),
    "reflect pad of three": lambda t, c: t.nn.functional.pad(c(*VOLUME), (1,) * 6, "reflect"),
    "cosine_similarity": lambda t, c: t.nn.functional.cosine_similarity(c(4, 4), c(4, 4)),
    "gaussian_nll_loss": lambda t, c: t.nn.functional.gaussian_nll_loss(c(4, 4), c(4, 4), c(4, 4).abs()),
    "interpolate": lambda t, c: t.nn.functional.interpolate(c(*IMAGE), scale_factor=2, mode="bilinear"),
    "embedding": lambda t, c: t.nn.functional.embedding(t.tensor(CLASSES), c(4, 4)), "renorm": lambda t, c: t.renorm(c(4, 4), 2, 0, 1.0),
}
MODULES: dict[str, Call] = {  # their weights are random: only the types are compared
    "LSTM": lambda t, c: t.nn.LSTM(4, 3)(c(5, 2, 4))[0], "GRU": lambda t, c: t.nn.GRU(4, 3)(c(5, 2, 4))[0],
    "RNN": lambda t, c: t.nn.RNN(4, 3)(c(5, 2, 4))[0], "LSTMCell": lambda t, c: t.nn.LSTMCell(4, 3)(c(2, 4), (c(2, 3), c(2, 3)))[0],
    "GRUCell": lambda t, c: t.nn.GRUCell(4, 3)(c(2, 4), c(2, 3)), "RNNCell": lambda t, c: t.nn.RNNCell(4, 3)(c(2, 4), c(2, 3)),
    "MultiheadAttention": lambda t, c: t.nn.MultiheadAttention(4, 2)(*[c(5, 2, 4)] * 3)[0],
}


def run(t: Any, call: Call, low: bool) -> Any:
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> Any:
        x = t.from_numpy(rng.standard_normal(shape).astype(np.float32))
        return x.bfloat16() if low else x
    with warnings.catch_warnings(), t.autocast("cpu", dtype=t.bfloat16):
        warnings.simplefilter("ignore")
        return call(t, numbers)


def name_of(dtype: Any) -> str:
    return str(dtype).split(".")[-1]


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*LISTED, *OTHERS])
def test_types_and_values(name: str, low: bool) -> None:
    call = {**LISTED, **OTHERS}[name]
    wanted, found = run(torch, call, low), run(td, call, low)
    assert name_of(found.dtype) == name_of(wanted.dtype)
    rough = low or name_of(wanted.dtype) == "bfloat16" or name == "bilinear"
    np.testing.assert_allclose(found.float().numpy(), wanted.float().numpy(), rtol=4e-2 if rough else 1e-4, atol=6e-2 if rough else 1e-4)


@pytest.mark.parametrize("name", MODULES)
def test_types_of_modules(name: str) -> None:
    try:
        want = run(torch, MODULES[name], False).dtype
    except RuntimeError as error:
        if "primitive" not in str(error):
            raise
        pytest.skip(f"PyTorch has no bfloat16 {name} on this CPU")
    assert name_of(run(td, MODULES[name], False).dtype) == name_of(want)


def test_the_lists_are_covered() -> None:
    names = [name.removeprefix("aten::") for name in torch._C._dispatch_get_all_op_names()
             if torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCPU")]
    assert len(names) > 100
    left = {n.split(".")[0] for n in names} - {n.split(".")[0] for n in LISTED}
    assert not [n for n in left if not ELSEWHERE.fullmatch(n)]
