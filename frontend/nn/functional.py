"""`treadle.nn.functional`: PyTorch's functions on tensors. Layers call these; only these call the op table."""
from __future__ import annotations

import math
from collections.abc import Sequence

import treadle
from treadle import ops, random
from treadle.convolution import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d, fold, unfold
from treadle.nn.activation_functions import (
    celu,
    elu,
    elu_,
    gelu,
    glu,
    gumbel_softmax,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    hardtanh_,
    leaky_relu,
    leaky_relu_,
    log_softmax,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    relu_,
    selu,
    sigmoid,
    silu,
    softmax,
    softmin,
    softplus,
    softshrink,
    softsign,
    tanh,
    tanhshrink,
    threshold,
)
from treadle.nn.loss_functions import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cosine_embedding_loss,
    cosine_similarity,
    cross_entropy,
    gaussian_nll_loss,
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    margin_ranking_loss,
    mse_loss,
    nll_loss,
    pairwise_distance,
    poisson_nll_loss,
    smooth_l1_loss,
    soft_margin_loss,
    triplet_margin_loss,
)
from treadle.nn.normalization_functions import (
    batch_norm,
    group_norm,
    instance_norm,
    local_response_norm,
)
from treadle.nn.padding_functions import (
    pad,
)
from treadle.nn.pooling_functions import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from treadle.nn.resizing_functions import (
    affine_grid,
    channel_shuffle,
    grid_sample,
    interpolate,
    pixel_shuffle,
    pixel_unshuffle,
    upsample,
    upsample_bilinear,
    upsample_nearest,
)
from treadle.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "affine_grid", "alpha_dropout", "avg_pool1d", "avg_pool2d", "avg_pool3d", "batch_norm", "bilinear",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "celu", "channel_shuffle", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cosine_embedding_loss", "cosine_similarity", "cross_entropy", "dropout",
    "dropout1d", "dropout2d", "dropout3d", "elu", "elu_", "embedding", "fold", "gaussian_nll_loss", "gelu", "glu", "grid_sample",
    "group_norm", "gumbel_softmax", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "hardtanh_", "hinge_embedding_loss",
    "huber_loss", "instance_norm", "interpolate", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "leaky_relu_", "linear",
    "local_response_norm", "log_softmax", "logsigmoid", "lp_pool1d", "lp_pool2d", "lp_pool3d", "margin_ranking_loss", "max_pool1d",
    "max_pool2d", "max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d", "mish", "mse_loss", "nll_loss", "normalize", "one_hot",
    "pad", "pairwise_distance", "pixel_shuffle", "pixel_unshuffle", "poisson_nll_loss", "prelu", "relu", "relu6", "relu_", "rms_norm",
    "scaled_dot_product_attention", "selu", "sigmoid", "silu", "smooth_l1_loss", "soft_margin_loss", "softmax", "softmin", "softplus",
    "softshrink", "softsign", "tanh", "tanhshrink", "threshold", "triplet_margin_loss", "unfold", "upsample", "upsample_bilinear",
    "upsample_nearest",
]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input (..., in) @ weight (out, in).T + bias (out) -> (..., out)."""
    return ops.linear(input, weight) if bias is None else ops.linear_bias(input, weight, bias)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input1 (..., i), input2 (..., j), weight (out, i, j), bias (out) -> (..., out)."""
    if input1.shape[:-1] != input2.shape[:-1]:
        raise RuntimeError(f"bilinear(): input batch dimensions do not match: got {list(input1.shape)} and {list(input2.shape)}")
    out, n, m = weight.shape
    mixed = (input1 @ weight.reshape(out * n, m).t().reshape(m, out, n).permute(2, 1, 0).reshape(n, out * m))
    mixed = mixed.reshape(*input1.shape[:-1], out, m)
    found = (mixed * input2.unsqueeze(-2)).sum(-1)
    return found if bias is None else found + bias


def _check_probability(p: float) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability `p` when training, scaling the others by 1 / (1 - p)."""
    _check_probability(p)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        result = input * 0.0
    else:
        result = ops.dropout(input, p, *random.reserve(input.numel()))
    return input.copy_(result) if inplace else result


def _feature_dropout(input: Tensor, n_spatial: int, p: float, training: bool, inplace: bool) -> Tensor:
    _check_probability(p)
    if input.dim() not in (n_spatial + 1, n_spatial + 2):
        raise RuntimeError(f"dropout{n_spatial}d: Expected {n_spatial + 1}D or {n_spatial + 2}D input, "
                           f"but received a {input.dim()}D input.")
    if not training or p == 0.0:
        return input
    channels = tuple(input.shape[:input.dim() - n_spatial]) + (1,) * n_spatial
    mask = dropout(treadle.ones(channels, dtype=input.dtype, device=input.device), p)
    return input.copy_(input * mask) if inplace else input * mask


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L)."""
    return _feature_dropout(input, 1, p, training, inplace)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, H, W) or (C, H, W)."""
    return _feature_dropout(input, 2, p, training, inplace)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    return _feature_dropout(input, 3, p, training, inplace)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean and variance of SELU outputs: dropped elements take SELU's negative limit."""
    _check_probability(p)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return input * 0.0
    limit = -1.7580993408473766
    scale = 1.0 / math.sqrt((1 - p) * (1 + p * limit * limit))
    keep = treadle.rand(tuple(input.shape), device=input.device) >= p
    result = treadle.where(keep, input, limit) * scale - scale * limit * p
    return input.copy_(result) if inplace else result


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
              scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:
    """Rows of `weight` (V, D) at the integer indices `input` (...) -> (..., D).

    Row `padding_idx` gets no gradient. With `max_norm`, rows looked up are first renormalized in place. Gradients are dense.
    """
    if scale_grad_by_freq:
        raise NotImplementedError("embedding(): scale_grad_by_freq=True is not supported")
    if padding_idx is not None:
        if not -weight.size(0) <= padding_idx < weight.size(0):
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= weight.size(0)
    else:
        padding_idx = -1
    if max_norm is not None:
        _renormalize_rows(weight, input, max_norm, norm_type)
    return ops.embedding(weight, input, padding_idx)


def _renormalize_rows(weight: Tensor, index: Tensor, max_norm: float, norm_type: float) -> None:
    with treadle.no_grad():
        length = treadle.norm(weight, norm_type, 1, True)
        used = treadle.zeros(weight.size(0), device=weight.device).scatter(0, index.reshape(-1).to(treadle.int64), 1.0) > 0
        shrink = used.unsqueeze(1) & (length > max_norm)
        weight.copy_(treadle.where(shrink, weight * (max_norm / (length + 1e-7)), weight))


def layer_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:
    """Normalize over the last dimensions, whose sizes are `normalized_shape`, then scale by weight and add bias of that shape."""
    shape = _check_normalized("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    if weight is None:
        result = ops.layer_norm(input, eps, ndims=len(shape))
        return result if bias is None else result + bias
    affine = (weight,) if bias is None else (weight, bias)
    return ops.layer_norm(input, eps, *affine, ndims=len(shape))


def rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """input / sqrt(mean(input^2) + eps) over the last dimensions, scaled by weight; eps None is the dtype's epsilon."""
    shape = _check_normalized("rms_norm", input, normalized_shape, weight=weight)
    floor = treadle.finfo(input.dtype).eps if eps is None else eps
    return ops.rms_norm(input, floor, ndims=len(shape)) if weight is None else ops.rms_norm(input, floor, weight, ndims=len(shape))


def _check_normalized(name: str, input: Tensor, normalized_shape: Sequence[int], **affine: Tensor | None) -> tuple[int, ...]:
    shape = tuple(normalized_shape)
    if not shape:
        raise RuntimeError(f"{name}(): expected normalized_shape to be at least 1-dimensional, but got {list(shape)}")
    for label, value in affine.items():
        if value is not None and value._data.type.shape != shape:
            raise RuntimeError(f"Expected {label} to be of same shape as normalized_shape, but got {label} of shape "
                               f"{list(value.shape)} and normalized_shape = {list(shape)}")
    if tuple(input.shape[-len(shape):]) != shape:
        raise RuntimeError(f"Given normalized_shape={list(shape)}, expected input with shape "
                           f"[*, {', '.join(map(str, shape))}], but got input of size{list(input.shape)}")
    return shape


def normalize(input: Tensor, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12, out: Tensor | None = None) -> Tensor:
    """input divided by its p-norm along `dim`, the norm held at `eps`."""
    result = input / treadle.norm(input, p, dim, True).clamp(min=eps)
    return result if out is None else out.copy_(result)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 indices (...) -> int64 zeros and ones (..., num_classes); -1 takes one more than the largest index."""
    if tensor.dtype is not treadle.int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if num_classes == -1:
        if tensor.numel() == 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        num_classes = int(tensor.max().item()) + 1
    elif num_classes < 1 and tensor.numel():
        raise RuntimeError("num_classes should be positive")
    if tensor.numel():
        if tensor.min().item() < 0:
            raise RuntimeError("Class values must be non-negative.")
        if tensor.max().item() >= num_classes:
            raise RuntimeError("Class values must be smaller than num_classes.")
    return ops.one_hot(tensor, num_classes)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
                                 is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:
    """softmax(query @ key.T * scale + mask) @ value for (..., L, E), (..., S, E), (..., S, V) -> (..., L, V).

    A bool mask is true where attention is allowed, a float one is added. `enable_gqa` repeats key and value heads (dimension -3).
    """
    if is_causal and attn_mask is not None:
        raise RuntimeError("_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True")
    scale = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    if enable_gqa:
        repeats = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        rows = treadle.arange(query.size(-2), device=query.device).unsqueeze(1)
        attn_mask = rows >= treadle.arange(key.size(-2), device=query.device)
    if attn_mask is not None:
        if attn_mask.dtype is treadle.bool:
            scores = treadle.where(attn_mask, scores, float("-inf"))
        else:
            scores = scores + attn_mask
    weights = treadle.softmax(scores, -1)
    return dropout(weights, dropout_p) @ value


def _rnn_layer(mode: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
               b_hh: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """One direction of one recurrent layer: x (T, N, I), h0 (N, H or P), c0 (N, H) for LSTM -> outputs (T, N, H), last h, last c.

    `mode` is "RNN_TANH", "RNN_RELU", "LSTM" or "GRU". Recorded as one op, whatever the length (at least 1).
    """
    weights = (w_ih, w_hh) if b_ih is None else (w_ih, w_hh, b_ih, b_hh)
    # What the backward pass would otherwise compute again is an extra result.
    save = treadle.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, h0, c0, *weights))
    if mode == "LSTM":
        ys, h, c, *_ = ops.lstm_layer(x, h0, c0, *weights, reverse=reverse, save=save)
        return ys, h, c
    if mode == "GRU":
        ys, h, *_ = ops.gru_layer(x, h0, *weights, reverse=reverse, save=save)
    else:
        ys, h, *_ = ops.rnn_layer(x, h0, *weights, nonlinearity=mode[4:].lower(), reverse=reverse, save=save)
    return ys, h, None


def _rnn_step(mode: str, projected: Tensor, h: Tensor, c: Tensor | None, w_hh: Tensor,
              b_hh: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One time step from the input already multiplied by w_ih: (new h, new c)."""
    recurrent = linear(h, w_hh, b_hh)
    if mode == "LSTM":
        assert c is not None
        i, f, g, o = (projected + recurrent).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if mode == "GRU":
        x_r, x_z, x_n = projected.chunk(3, -1)
        h_r, h_z, h_n = recurrent.chunk(3, -1)
        update = (x_z + h_z).sigmoid()
        candidate = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
        return candidate + update * (h - candidate), None
    total = projected + recurrent
    return total.tanh() if mode == "RNN_TANH" else relu(total), None
