"""`treadle.nn.functional`: PyTorch's functions on tensors. Layers call these; only these call the op table."""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import treadle
from treadle import ops, random
from treadle.arguments import Choice, direct, guard, misfit
from treadle.convolution import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d, fold, unfold
from treadle.emitter import EMITTER
from treadle.ir.op import TABLE
from treadle.ir.ops import attention
from treadle.ir.ops.common import need_float, need_real
from treadle.nn.activation_functions import (
    celu,
    celu_,
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
    rrelu,
    rrelu_,
    selu,
    selu_,
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
    threshold_,
)
from treadle.nn.dropout_functions import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from treadle.nn.fractional_pooling import fractional_max_pool2d, fractional_max_pool3d
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
from treadle.nn.margin_losses import (
    ctc_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    triplet_margin_with_distance_loss,
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
    adaptive_max_pool1d_with_indices,
    adaptive_max_pool2d,
    adaptive_max_pool2d_with_indices,
    adaptive_max_pool3d,
    adaptive_max_pool3d_with_indices,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool1d_with_indices,
    max_pool2d,
    max_pool2d_with_indices,
    max_pool3d,
    max_pool3d_with_indices,
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
from treadle.results import into
from treadle.runtime.recorder import STATE
from treadle.tensor import Tensor, apply, is_hidden, may_be_differentiated

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices", "adaptive_max_pool3d", "adaptive_max_pool3d_with_indices", "affine_grid",
    "alpha_dropout", "avg_pool1d", "avg_pool2d", "avg_pool3d", "batch_norm", "bilinear", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "celu", "channel_shuffle", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "cosine_embedding_loss", "cosine_similarity", "cross_entropy", "dropout", "dropout1d", "dropout2d", "dropout3d",
    "elu", "elu_", "embedding", "feature_alpha_dropout", "fold", "gaussian_nll_loss", "gelu", "glu", "grid_sample", "group_norm",
    "gumbel_softmax", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "hardtanh_", "hinge_embedding_loss", "huber_loss",
    "instance_norm", "interpolate", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "leaky_relu_", "linear", "local_response_norm",
    "log_softmax", "logsigmoid", "lp_pool1d", "lp_pool2d", "lp_pool3d", "margin_ranking_loss", "max_pool1d", "max_pool1d_with_indices",
    "max_pool2d", "max_pool2d_with_indices", "max_pool3d", "max_pool3d_with_indices", "max_unpool1d", "max_unpool2d", "max_unpool3d",
    "mish", "mse_loss", "nll_loss", "normalize", "one_hot", "pad", "pairwise_distance", "pixel_shuffle", "pixel_unshuffle",
    "poisson_nll_loss", "prelu", "relu", "relu6", "relu_", "rms_norm", "scaled_dot_product_attention", "selu", "sigmoid", "silu",
    "smooth_l1_loss", "soft_margin_loss", "softmax", "softmin", "softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
    "triplet_margin_loss", "unfold", "upsample", "upsample_bilinear", "upsample_nearest",
]

__all__ += [
    "celu_",
    "ctc_loss",
    "embedding_bag",
    "feature_alpha_dropout",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "linear_cross_entropy",
    "multi_head_attention_forward",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "pdist",
    "rrelu",
    "rrelu_",
    "selu_",
    "threshold_",
    "triplet_margin_with_distance_loss",
]


@direct
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input (..., in) @ weight (out, in).T + bias (out) -> (..., out); or with a weight (in) and a bias () -> (...)."""
    try:
        return ops.linear(input, weight) if bias is None else ops.linear_bias(input, weight, bias)
    except RuntimeError as error:
        for position, (name, x) in enumerate((("input", input), ("weight", weight)), 1):
            if not isinstance(x, Tensor):
                raise misfit("linear", name, position, "Tensor", x) from error
        if weight.dim() != 1:
            raise
    product = input @ weight
    return product if bias is None else product + bias


def linear_cross_entropy(input: Tensor, linear_weight: Tensor, target: Tensor, *, linear_bias: Tensor | None = None,
                         weight: Tensor | None = None, reduction: Choice = "mean", ignore_index: int | None = None,
                         label_smoothing: float = 0.0, options: Any = None) -> Tensor:
    """`cross_entropy(linear(input, linear_weight, linear_bias), target, ...)`.

    linear_weight (C, in), or (C, d1, ..., in) for a loss over further axes. `options` chooses among PyTorch's ways to compute it, which
    are one here.
    """
    if not input.dim():
        raise RuntimeError("linear_cross_entropy: expected input with dimensionality 1 or 2, got 0")
    if linear_weight.dim() < 2:
        raise RuntimeError(f"linear_cross_entropy: expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}")
    if linear_weight.dim() > 2 and input.dim() < 2:
        raise RuntimeError(f"linear_cross_entropy: K-dimensional loss defined by linear_weight shape {list(linear_weight.shape)} requires "
                           f"batched input, got input of shape {list(input.shape)}")
    classes, width = tuple(linear_weight.shape[:-1]), linear_weight.shape[-1]
    logits = linear(input, linear_weight.reshape(math.prod(classes), width), None if linear_bias is None else linear_bias.reshape(-1))
    logits = logits.reshape(*input.shape[:-1], *classes)
    return cross_entropy(logits, target, weight, ignore_index=-100 if ignore_index is None else ignore_index, reduction=reduction,
                         label_smoothing=label_smoothing)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input1 (..., i), input2 (..., j), weight (out, i, j), bias (out) -> (..., out)."""
    if input1.dim() != input2.dim():
        raise RuntimeError(f"bilinear(): input dimensions do not match: got {input1.dim()} and {input2.dim()}")
    if weight.dim() > 3:
        raise RuntimeError(f"bilinear(): expected weight (out, in1, in2), got one of size {list(weight.shape)}")
    for x in (weight, input1, input2):
        if not x.dim() or (x.dim() < 3 and x is weight):
            raise IndexError(f"bilinear(): Dimension out of range: got input1 {list(input1.shape)}, input2 {list(input2.shape)} and weight "
                             f"{list(weight.shape)}")
    if len({x.dtype for x in (input1, input2, weight, bias) if x is not None}) > 1:
        raise RuntimeError(f"bilinear(): All tensors must have the same dtype, got input1: {input1.dtype}, input2: {input2.dtype}, weight: "
                           f"{weight.dtype}" + ("" if bias is None else f", bias: {bias.dtype}"))
    if bias is not None and tuple(bias.shape) != weight.shape[:1]:
        raise (RuntimeError if bias.dim() else IndexError)(
            f"bilinear(): bias size does not match weight size: got {list(bias.shape)} but expected {weight.shape[0]}")
    if input1.shape[:-1] != input2.shape[:-1]:
        raise RuntimeError(f"bilinear(): input batch dimensions do not match: got {list(input1.shape)} and {list(input2.shape)}")
    out, n, m = weight.shape
    mixed = (input1 @ weight.reshape(out * n, m).t().reshape(m, out, n).permute(2, 1, 0).reshape(n, out * m))
    mixed = mixed.reshape(*input1.shape[:-1], out, m)
    products = mixed * input2.unsqueeze(-2)
    found = products.sum(-1, dtype=products.dtype)  # integers keep their dtype, as in a matrix product
    return found if bias is None else found + bias


@direct
def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
              scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:
    """Rows of `weight` (V, D) at the integer indices `input` (...) -> (..., D).

    Row `padding_idx` gets no gradient; with `scale_grad_by_freq` the others' are divided by how often `input` holds their index.
    With `max_norm`, rows looked up are first renormalized in place. With `sparse` the gradient of `weight` is a
    sparse tensor, with one element for each index.
    """
    if padding_idx is not None:
        if not -weight.size(0) <= padding_idx < weight.size(0):
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= weight.size(0)
    else:
        padding_idx = -1
    if max_norm is not None:
        _renormalize_rows(weight, input, max_norm, norm_type)
    if sparse and weight._edge is not None and STATE.here.grad and not STATE.here.levels:
        from treadle.sparse.lookup import lookup
        return lookup(weight, input, padding_idx, bool(scale_grad_by_freq))
    return ops.embedding(weight, input, padding_idx, bool(scale_grad_by_freq))


def embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None, norm_type: float = 2,
                  scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, per_sample_weights: Tensor | None = None,
                  include_last_offset: bool = False, padding_idx: int | None = None) -> Tensor:
    """The "sum", "mean" or "max" of the rows of `weight` (V, D) in each bag -> (B, D); an empty bag gives zeros.

    Bags are the rows of `input` (B, N), or begin in `input` (total) at `offsets` (B). ValueError for other combinations.
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if sparse and mode == "max":
        raise ValueError("max mode does not support sparse weights")
    if per_sample_weights is not None and mode != "sum":
        raise NotImplementedError(f"embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' "
                                  f"(got mode='{mode}').")
    if (input.dim() == 2) is (offsets is not None) or input.dim() not in (1, 2):
        raise ValueError(f"embedding_bag: expected a 2-D input, or a 1-D input with offsets, got {input.dim()}-D "
                         f"{'without' if offsets is None else 'with'} offsets")
    if weight.dim() != 2:
        raise ValueError(f"weight has to be a 2D Tensor, but got Tensor of dimension {weight.dim()}")
    need_float("embedding_bag", weight._data.type)
    if per_sample_weights is not None and per_sample_weights.shape != input.shape:
        raise ValueError(f"embedding_bag: If per_sample_weights ({per_sample_weights.shape}) is not None, then it must have the same shape "
                         f"as the input ({input.shape})")
    if per_sample_weights is not None and per_sample_weights.dtype is not weight.dtype:
        raise RuntimeError(f"embedding_bag: Expected per_sample_weights to have the dtype of weight, {weight.dtype}, but got "
                           f"{per_sample_weights.dtype}")
    if offsets is not None and offsets.dim() != 1:
        raise ValueError("offsets has to be a 1D Tensor")
    if offsets is not None and offsets.dtype not in (treadle.int32, treadle.int64):
        raise RuntimeError(f"embedding_bag: Expected offsets of dtype int32 or int64, but got {offsets.dtype}")
    flat = input.reshape(-1)
    if offsets is None:
        n_bags = input.size(0)
        bag = treadle.arange(n_bags, device=input.device).unsqueeze(1).expand(n_bags, input.size(1)).reshape(-1)
    else:
        n_bags = offsets.size(0) - int(include_last_offset)
        bag = (treadle.arange(flat.size(0), device=input.device).unsqueeze(1) >= offsets[:n_bags]).sum(1) - 1
    rows = embedding(flat, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    kept = treadle.ones_like(flat, dtype=treadle.bool) if padding_idx is None else flat != padding_idx % weight.size(0)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    empty = treadle.zeros(n_bags, weight.size(1), dtype=rows.dtype, device=rows.device)
    counts = treadle.zeros(n_bags, dtype=treadle.int64, device=rows.device).index_add(0, bag, kept.to(treadle.int64)).unsqueeze(1)
    if mode == "max":
        shown = treadle.where(kept.unsqueeze(1), rows, float("-inf"))
        largest = empty.scatter_reduce(0, bag.unsqueeze(1).expand(rows.size(0), rows.size(1)), shown, "amax", include_self=False)
        return treadle.where(counts > 0, largest, 0.0)
    total = empty.index_add(0, bag, treadle.where(kept.unsqueeze(1), rows, 0.0))
    return total / counts.clamp(min=1) if mode == "mean" else total


def multi_head_attention_forward(
        query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float,
        out_proj_weight: Tensor, out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, use_separate_proj_weight: bool = False,
        q_proj_weight: Tensor | None = None, k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
        static_k: Tensor | None = None, static_v: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False) -> tuple[Tensor, Tensor | None]:
    """What nn.MultiheadAttention computes, with its weights as arguments: query (L, N, E) -> (output (L, N, E), weights (N, L, S))."""
    if static_k is not None or static_v is not None:
        raise NotImplementedError("multi_head_attention_forward: static_k and static_v are not supported")
    from treadle.nn.attention import MultiheadAttention  # layers import this module
    layer = MultiheadAttention.from_weights(
        embed_dim_to_check, num_heads, (in_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight), in_proj_bias, (bias_k, bias_v),
        (out_proj_weight, out_proj_bias), add_zero_attn, dropout_p if training else 0.0, use_separate_proj_weight)
    return layer.forward(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)


def _renormalize_rows(weight: Tensor, index: Tensor, max_norm: float, norm_type: float) -> None:
    with treadle.no_grad():
        length = treadle.norm(weight, norm_type, 1, True)
        used = treadle.zeros(weight.size(0), device=weight.device).scatter(0, index.reshape(-1).to(treadle.int64), 1.0) > 0
        shrink = used.unsqueeze(1) & (length > max_norm)
        weight.copy_(treadle.where(shrink, weight * (max_norm / (length + 1e-7)), weight))


def layer_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:
    """Normalize over the last dimensions, whose sizes are `normalized_shape`, then scale by weight and add bias of that shape."""
    ndims = len(_check_normalized("layer_norm", input, normalized_shape, weight, bias))
    if weight is None:
        result: Tensor = apply(TABLE["layer_norm"], (input, eps), (ndims,))
        return result if bias is None else result + bias
    result = apply(TABLE["layer_norm"], (input, eps, weight) if bias is None else (input, eps, weight, bias), (ndims,))
    return result


def rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """input / sqrt(mean(input^2) + eps) over the last dimensions, scaled by weight; eps None is the dtype's epsilon, of 16-bit floats
    float32's, in which they are computed."""
    if input.dim() < len(normalized_shape):
        raise ValueError(f"Input tensor must have at least {len(normalized_shape)} dimensions, but got {input.dim()}")
    if weight is not None and weight.dtype is not input.dtype and weight.dtype is not treadle.float32:
        weight = weight.to(input.dtype)
    elif weight is not None and weight.dtype.itemsize < input.dtype.itemsize:
        weight = weight.to(input.dtype)
    shape = _check_normalized("rms_norm", input, normalized_shape, weight, None)
    if eps is None:
        need_float("rms_norm", input._data.type)
    floor = treadle.finfo(treadle.promote_types(input.dtype, treadle.float32)).eps if eps is None else eps
    return ops.rms_norm(input, floor, ndims=len(shape)) if weight is None else ops.rms_norm(input, floor, weight, ndims=len(shape))


def _check_normalized(name: str, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None
                      ) -> tuple[int, ...]:
    shape, dtype = tuple(normalized_shape), input._data.type.dtype
    if not shape:
        raise RuntimeError(f"{name}(): expected normalized_shape to be at least 1-dimensional, but got {list(shape)}")
    for label, value in (("weight", weight), ("bias", bias)):
        if value is not None and dtype.itemsize > value._data.type.dtype.itemsize:
            raise RuntimeError(f"{name}(): mixed dtype: {dtype.title} input with {label} of {value._data.type.dtype.title}")
        if value is not None and value._data.type.shape != shape:
            raise RuntimeError(f"Expected {label} to be of same shape as normalized_shape, but got {label} of shape "
                               f"{list(value.shape)} and normalized_shape = {list(shape)}")
    if input._data.type.shape[-len(shape):] != shape:
        raise RuntimeError(f"Given normalized_shape={list(shape)}, expected input with shape "
                           f"[*, {', '.join(map(str, shape))}], but got input of size{list(input.shape)}")
    return shape


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distances of all pairs of rows i < j of (N, D) -> (N (N - 1) / 2)."""
    if input.dim() != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {input.dim()}D")
    if p < 0:
        raise RuntimeError("pdist only supports non-negative p values")
    need_float("pdist", input._data.type)
    need_real("pdist", input._data.type)
    first, second = treadle.triu_indices(input.size(0), input.size(0), 1).to(input.device)
    return treadle.norm(input[first] - input[second], p, -1)


def normalize(input: Tensor, p: float | None = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12,
              out: Tensor | None = None) -> Tensor:
    """input divided by its p-norm along `dim`, the norm held at `eps`."""
    result = input / treadle.norm(input, p, dim, True).clamp(min=eps)
    found: Tensor = into(out, result, "normalize")
    return found


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
    if tensor.numel() and not is_hidden(tensor):
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
    if not 0.0 <= dropout_p <= 1.0:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if query.dim() < 2:
        raise RuntimeError("scaled_dot_product_attention: Expected query, key, and value to all be at least 2 dimensional, but got "
                           f"query.dim: {query.dim()} key.dim: {key.dim()} and value.dim: {value.dim()} instead.")
    scale = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    drops = 0.0 < dropout_p < 1.0
    draw = (0, 0)
    if drops:
        lead = treadle.broadcast_shapes(query.shape[:-2], (*key.shape[:-3], 1) if enable_gqa else key.shape[:-2])
        draw = random.reserve(math.prod(lead) * query.size(-2) * -(-key.size(-2) // 4) * 4)
    mask = () if attn_mask is None else (attn_mask,)
    operands = (query, key, value, scale, dropout_p if drops else 0.0, *draw, *mask)
    if attn_mask is not None and may_be_differentiated(attn_mask):
        out = attention.by_parts(EMITTER, *operands, is_causal, enable_gqa, drops)
    else:
        out = ops.scaled_dot_product_attention(*operands, causal=is_causal, gqa=enable_gqa, dropout=drops)[0]
    return out * 0.0 if dropout_p == 1.0 else out


def _rnn_layer(mode: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
               b_hh: Tensor | None, reverse: bool, ends: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """One direction of one recurrent layer: x (T, N, I), h0 (N, H or P), c0 (N, H) for LSTM -> outputs (T, N, H), last h, last c.

    `mode` is "RNN_TANH", "RNN_RELU", "LSTM" or "GRU". Recorded as one op, whatever the length (at least 1). `ends` (N): the last states
    are those in these rows of (T * N, H).
    """
    weights = (w_ih, w_hh) if b_ih is None else (w_ih, w_hh, b_ih, b_hh)
    # What the backward pass would otherwise compute again is an extra result.
    save = treadle.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, h0, c0, *weights))
    if mode == "LSTM":
        ys, h, c, *saved = ops.lstm_layer(x, h0, c0, *weights, reverse=reverse, save=save or ends is not None)
        if ends is None:
            return ys, h, c
        return ys, *[rows.flatten(0, 1).index_select(0, ends) for rows in (ys, saved[1])]
    if mode == "GRU":
        ys, h, *_ = ops.gru_layer(x, h0, *weights, reverse=reverse, save=save)
        ys, h = ys.to(h0.dtype), h.to(h0.dtype)  # under autocast the state's type is the wider one
    else:
        ys, h, *_ = ops.rnn_layer(x, h0, *weights, nonlinearity=mode[4:].lower(), reverse=reverse, save=save)
    return ys, h if ends is None else ys.flatten(0, 1).index_select(0, ends), None


def _packed_rnn_layer(mode: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
                      b_hh: Tensor | None, reverse: bool, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor | None]:
    """`_rnn_layer` of a PackedSequence's data (sum of `sizes`, I): one op for each run of steps with equally many sequences."""
    runs: list[tuple[int, int, int]] = []  # (sequences, steps, first row)
    place = 0
    for n, steps in ((n, len(list(group))) for n, group in itertools.groupby(sizes)):
        runs.append((n, steps, place))
        place += n * steps
    states = [h0] if c0 is None else [h0, c0]
    current = [s[:runs[-1][0]] for s in states] if reverse else states
    ended: list[list[Tensor]] = [[] for _ in states]
    outputs: list[Tensor] = []
    for n, steps, first in reversed(runs) if reverse else runs:
        have = current[0].size(0)
        if n > have:  # backwards, longer sequences come first and others join
            current = [treadle.cat([now, s[have:n]]) for now, s in zip(current, states, strict=True)]
        elif n < have:
            for parts, now in zip(ended, current, strict=True):
                parts.append(now[n:])
            current = [now[:n] for now in current]
        part = x[first:first + n * steps].reshape(steps, n, x.size(-1))
        c = current[1] if c0 is not None else None
        y, h, c = _rnn_layer(mode, part, current[0], c, w_ih, w_hh, b_ih, b_hh, reverse)
        current = [h] if c is None else [h, c]
        outputs.append(y.reshape(n * steps, y.size(-1)))
    last = [treadle.cat([now, *reversed(parts)]) if parts else now for now, parts in zip(current, ended, strict=True)]
    return treadle.cat(outputs[::-1] if reverse else outputs), last[0], None if c0 is None else last[1]


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


guard(globals(), __all__)
