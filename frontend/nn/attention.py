"""MultiheadAttention ("Attention Is All You Need", Vaswani et al., 2017), and PyTorch's choice of attention kernels."""
from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Iterator
from typing import Any

import treadle
from treadle.nn import functional as F
from treadle.nn import init
from treadle.nn.linear import Linear
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter
from treadle.tensor import Tensor


class SDPBackend(enum.IntEnum):
    """Names of PyTorch's attention kernels. Treadle chooses by itself: block by block, or the plain formula where that does better."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


@contextlib.contextmanager
def sdpa_kernel(backends: Any, set_priority: bool = False) -> Iterator[None]:
    """Accepts one SDPBackend or a list of them, of no effect: all of them compute the same."""
    chosen = [backends] if isinstance(backends, SDPBackend) else list(backends)
    if not chosen or not all(isinstance(b, SDPBackend) for b in chosen):
        raise AssertionError(f"sdpa_kernel: expected an SDPBackend or a list of them, got {backends!r}")
    yield


class NonDynamicallyQuantizableLinear(Linear):
    """PyTorch's name for the output projection, a plain Linear."""


def as_bias(mask: Tensor | None, name: str, like: Tensor) -> Tensor | None:
    """A mask as a term of the scores: True becomes -inf; floats stay. RuntimeError for other dtypes."""
    if mask is None or mask.is_floating_point():
        return mask
    if mask.dtype is not treadle.bool:
        raise RuntimeError(f"{name}: only bool and floating types of mask are supported, got {mask.dtype}")
    return treadle.zeros(mask.shape, dtype=like.dtype).masked_fill(mask, -math.inf)


class MultiheadAttention(Module):
    """query (L, N, E), key (S, N, K), value (S, N, V), or batch first, or without N -> (output like query, weights (N, L, S) or None).

    `key_padding_mask` (N, S) and `attn_mask` (L, S) or (N * heads, L, S): True, or -inf added to the scores, hides a key.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
                 add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None, batch_first: bool = False,
                 device: Any = None, dtype: Any = None) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and num_heads={num_heads} instead")
        super().__init__()
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")

        def made(*shape: int) -> Parameter:
            return Parameter(treadle.empty(shape, device=device, dtype=dtype))
        if self._qkv_same_embed_dim:
            self.in_proj_weight = made(3 * embed_dim, embed_dim)
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.q_proj_weight, self.k_proj_weight = made(embed_dim, embed_dim), made(embed_dim, self.kdim)
            self.v_proj_weight = made(embed_dim, self.vdim)
            self.register_parameter("in_proj_weight", None)
        self.register_parameter("in_proj_bias", made(3 * embed_dim) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self.register_parameter("bias_k", made(1, 1, embed_dim) if add_bias_kv else None)
        self.register_parameter("bias_v", made(1, 1, embed_dim) if add_bias_kv else None)
        self._reset_parameters()

    @classmethod
    def from_weights(cls, embed_dim: int, num_heads: int, projections: Any, in_proj_bias: Tensor | None, extra: Any, out: Any,
                     add_zero_attn: bool, dropout: float, separate: bool) -> MultiheadAttention:
        """A layer around given tensors, which computes with them and owns none: what `F.multi_head_attention_forward` needs."""
        made = cls.__new__(cls)
        Module.__init__(made)
        made.embed_dim, made.num_heads, made.dropout, made.add_zero_attn = embed_dim, num_heads, dropout, add_zero_attn
        made.batch_first, made.head_dim, made._qkv_same_embed_dim = False, embed_dim // num_heads, not separate
        fields = made.__dict__  # plain attributes: no registration of what belongs to others
        for name, value in zip(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), projections, strict=True):
            fields[name] = value
        fields["in_proj_bias"], (fields["bias_k"], fields["bias_v"]) = in_proj_bias, extra
        fields["out_proj"] = lambda x: F.linear(x, *out)
        return made

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.constant_(self.in_proj_bias, 0.0)
            init.constant_(self.out_proj.bias, 0.0)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, need_weights: bool = True,
                attn_mask: Tensor | None = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[Tensor, Tensor | None]:
        if query.dim() not in (2, 3):
            raise AssertionError(f"For batched (3-D) or unbatched (2-D) `query`, expected 2 or 3 dimensions but got {query.dim()}-D tensor")
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        if query.size(-1) != self.embed_dim:
            raise AssertionError(f"was expecting embedding dimension of {self.embed_dim}, but got {query.size(-1)}")
        output, weights = self._attend(query, key, value, key_padding_mask, need_weights, attn_mask)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        e = self.embed_dim
        bias: Any = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.split(e)
        if self._qkv_same_embed_dim and query is key and key is value:
            return list(F.linear(query, self.in_proj_weight, self.in_proj_bias).split(e, dim=-1))
        weights = self.in_proj_weight.split(e) if self._qkv_same_embed_dim else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, bias, strict=True)]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, need_weights: bool,
                mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Batch first; weights (N, heads, L, S)."""
        q, k, v = self._projected(query, key, value)
        n, length = q.size(0), q.size(1)
        extra = 0
        if self.bias_k is not None:
            k = treadle.cat([k, self.bias_k.expand(n, 1, -1)], 1)
            v = treadle.cat([v, self.bias_v.expand(n, 1, -1)], 1)
            extra += 1
        if self.add_zero_attn:
            nothing = treadle.zeros(n, 1, self.embed_dim, dtype=k.dtype)
            k, v = treadle.cat([k, nothing], 1), treadle.cat([v, nothing], 1)
            extra += 1
        bias = self._bias(q, padding, mask, n, length, extra)
        q, k, v = (t.reshape(n, -1, self.num_heads, self.head_dim).transpose(1, 2) for t in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * (1.0 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)
            weights = F.softmax(scores if bias is None else scores + bias, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            out = weights @ v
        else:
            weights, out = None, F.scaled_dot_product_attention(q, k, v, bias, dropout)
        return self.out_proj(out.transpose(1, 2).reshape(n, length, self.embed_dim)), weights

    def _bias(self, q: Tensor, padding: Tensor | None, mask: Tensor | None, n: int, length: int, extra: int) -> Tensor | None:
        """Both masks as one term of the scores (N, heads or 1, L or 1, S + extra)."""
        bias = as_bias(mask, "attn_mask", q)
        if bias is not None:
            bias = bias.reshape(n, self.num_heads, length, -1) if bias.dim() == 3 else bias
            bias = F.pad(bias, (0, extra)) if extra else bias
        if padding is not None and padding.shape[0] != n:
            raise AssertionError(f"Expected key_padding_mask.shape[0] to be {n}, but got {padding.shape[0]}")
        hidden = as_bias(padding, "key_padding_mask", q)
        if hidden is not None:
            hidden = (F.pad(hidden, (0, extra)) if extra else hidden).reshape(n, 1, 1, -1)
            bias = hidden if bias is None else bias + hidden
        return bias
