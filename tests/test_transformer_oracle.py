"""Attention and Transformer layers with PyTorch's weights: outputs, attention weights and gradients."""
from __future__ import annotations

import numpy as np
import pytest

import treadle

pytestmark = pytest.mark.oracle


def copied(theirs, ours):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: treadle.tensor(v.tolist()) for k, v in theirs.state_dict().items()})


def check(build, call, tolerance=2e-5):
    import torch
    torch.manual_seed(0)
    theirs, ours = build(torch), build(treadle)
    copied(theirs, ours)
    results = []
    for T, m in ((torch, theirs), (treadle, ours)):
        rng = np.random.default_rng(0)
        leaves = []

        def tensor(*shape, T=T, rng=rng, leaves=leaves):
            leaves.append(T.tensor(rng.standard_normal(shape).astype(np.float32).tolist()).requires_grad_())
            return leaves[-1]
        outs = [o for o in call(T, m, tensor) if o is not None]
        sum((o * o).mean() for o in outs).backward()
        results.append([o.detach().numpy() for o in outs] + [t.grad.numpy() for t in leaves]
                       + [p.grad.numpy() for p in m.parameters() if p.grad is not None])
    assert len(results[0]) == len(results[1])
    for want, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=tolerance)


ATTENTION = {
    "plain": (dict(), lambda T, m, t: (lambda x: m(x, x, x))(t(5, 2, 8))),
    "batch first": (dict(batch_first=True), lambda T, m, t: m(t(2, 5, 8), t(2, 7, 8), t(2, 7, 8))),
    "no weights": (dict(batch_first=True), lambda T, m, t: m(t(2, 5, 8), t(2, 7, 8), t(2, 7, 8), need_weights=False)),
    "per head": (dict(), lambda T, m, t: m(t(5, 2, 8), t(3, 2, 8), t(3, 2, 8), average_attn_weights=False)),
    "unbatched": (dict(), lambda T, m, t: m(t(5, 8), t(3, 8), t(3, 8))),
    "no bias": (dict(bias=False), lambda T, m, t: m(t(5, 2, 8), t(3, 2, 8), t(3, 2, 8))),
    "bias kv": (dict(add_bias_kv=True, add_zero_attn=True), lambda T, m, t: m(t(5, 2, 8), t(3, 2, 8), t(3, 2, 8))),
    "kdim": (dict(kdim=6, vdim=4), lambda T, m, t: m(t(5, 2, 8), t(3, 2, 6), t(3, 2, 4))),
    "masks": (dict(), lambda T, m, t: m(t(5, 2, 8), t(3, 2, 8), t(3, 2, 8),
                                        key_padding_mask=T.tensor([[False, False, True], [False, True, False]]),
                                        attn_mask=T.tensor([[False, True, False]] * 5))),
    "float mask": (dict(), lambda T, m, t: m(t(5, 2, 8), t(3, 2, 8), t(3, 2, 8), attn_mask=t(5, 3))),
    "3-d mask": (dict(), lambda T, m, t: m(t(5, 2, 8), t(3, 2, 8), t(3, 2, 8), attn_mask=t(8, 5, 3))),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_multihead_attention(name):
    settings, call = ATTENTION[name]
    check(lambda T: T.nn.MultiheadAttention(8, 4, **settings), call)


@pytest.mark.parametrize("settings", [dict(), dict(norm_first=True), dict(activation="gelu", batch_first=True), dict(bias=False)])
def test_encoder_and_decoder_layers(settings):
    def mask(T):
        return T.nn.Transformer.generate_square_subsequent_mask(4)
    check(lambda T: T.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, **settings), lambda T, m, t: [m(t(4, 4, 8), src_mask=mask(T))])
    check(lambda T: T.nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, **settings),
          lambda T, m, t: [m(t(4, 4, 8), t(4, 4, 8), tgt_mask=mask(T))])


def test_whole_transformer():
    check(lambda T: T.nn.Transformer(8, 2, 2, 2, 16, dropout=0.0, batch_first=True),
          lambda T, m, t: [m(t(2, 5, 8), t(2, 4, 8), tgt_mask=T.nn.Transformer.generate_square_subsequent_mask(4),
                             src_key_padding_mask=T.tensor([[False] * 5, [False, False, False, True, True]]))])
    check(lambda T: T.nn.TransformerEncoder(T.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), 2, T.nn.LayerNorm(8)),
          lambda T, m, t: [m(t(5, 2, 8))])
