"""Scaled dot product attention: softmax(scale query @ key.T + mask) @ value.

`scaled_dot_product_attention` is what is recorded. Where its operands are of the kind that the block-wise kernels take
(`_takes`), it becomes `flash_attention`, which never holds all scores (Dao et al. 2022); else the plain formula. So do their gradients.
A query without any key to look at gives zeros.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.op import Kind, declare
from treadle.ir.ops.common import Types, iota_along, need_float, number, zeros
from treadle.ir.ops.create import uniform
from treadle.ir.ops.matmul import transposed
from treadle.ir.random_reference import philox_bits
from treadle.ir.types import Shape, TensorType, broadcast_shapes

NAME = "scaled_dot_product_attention"
# Lengths of heads that the kernels take are multiples of this; others are filled up with zeros.
MULTIPLE = 8
# Scores that the references hold at once.
REFERENCE_SCORES = 1 << 22


# -- types ---------------------------------------------------------------------------------------------------------------
def _check(q: TensorType, k: TensorType, v: TensorType) -> None:
    if not q.dtype is k.dtype is v.dtype:
        raise RuntimeError(f"{NAME}: Expected query, key, and value to have the same dtype, but got query.dtype: {q.dtype.name} key.dtype: "
                           f"{k.dtype.name} and value.dtype: {v.dtype.name} instead.")
    need_float(NAME, q)
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise RuntimeError(f"{NAME}: Expected query, key, and value to all be at least 2 dimensional, but got query.dim: {q.ndim} key.dim: "
                           f"{k.ndim} and value.dim: {v.ndim} instead.")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise RuntimeError(f"{NAME}: query {list(q.shape)}, key {list(k.shape)} and value {list(v.shape)} do not fit: the last sizes "
                           "of query and key must match, and so must the second to last ones of key and value")


def _leading(q: TensorType, k: TensorType, v: TensorType, gqa: bool) -> Shape:
    """The batch axes of the result; with `gqa` heads of key and value serve several heads of the query."""
    if not gqa:
        return broadcast_shapes(NAME, q.shape[:-2], k.shape[:-2], v.shape[:-2])
    if min(q.ndim, k.ndim, v.ndim) < 3:
        raise RuntimeError(f"{NAME}: with enable_gqa query, key and value must have at least 3 dimensions, got {q}, {k} and {v}")
    heads = q.shape[-3]
    if any(t.shape[-3] == 0 or heads % t.shape[-3] for t in (k, v)):
        raise RuntimeError(f"{NAME}: Number of heads in key and value must divide the number of heads in query, got {k.shape[-3]}, "
                           f"{v.shape[-3]} and {heads}")
    return (*broadcast_shapes(NAME, q.shape[:-3], k.shape[:-3], v.shape[:-3]), heads)


def _type(types: Types, causal: bool, gqa: bool, dropout: bool) -> tuple[TensorType, TensorType]:
    q, k, v = types[:3]
    _check(q, k, v)
    lead = _leading(q, k, v, gqa)
    for mask in types[7:]:
        if mask.dtype is not dtypes.bool_ and mask.dtype is not q.dtype and mask.dtype is not dtypes.float32:
            raise RuntimeError(f"{NAME}: Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
                               f"{mask.dtype.name} and query.dtype: {q.dtype.name} instead.")
        scores = (*lead, q.shape[-2], k.shape[-2])
        lead = broadcast_shapes(NAME, scores, mask.shape)[:-2]
        if broadcast_shapes(NAME, scores, mask.shape)[-2:] != scores[-2:]:
            raise RuntimeError(f"{NAME}: a mask of shape {list(mask.shape)} does not fit scores of shape {list(scores)}")
    wide = dtypes.float64 if q.dtype is dtypes.float64 else dtypes.float32
    return q.with_((*lead, q.shape[-2], v.shape[-1])), q.with_((*lead, q.shape[-2]), wide)


def _gradient_type(types: Types, causal: bool, gqa: bool, dropout: bool) -> tuple[TensorType, ...]:
    """The gradients have the shapes to which the operands are broadcast."""
    g, q, k, v = types[:4]
    need_float(f"{NAME}_backward", q)
    wide = dtypes.float64 if q.dtype is dtypes.float64 else dtypes.float32
    if len(types) > 5 and types[5].dtype is not wide:
        raise RuntimeError(f"{NAME}_backward: the logarithms of sums must be {wide.name}, got {types[5].dtype.name}")
    lead = g.shape[:-2]
    inner = [(*lead[:-1], x.shape[-3]) if gqa else lead for x in (k, v)]
    return q.with_((*lead, *q.shape[-2:])), k.with_((*inner[0], *k.shape[-2:])), v.with_((*inner[1], *v.shape[-2:]))


# -- the plain formula -------------------------------------------------------------------------------------------------------
def _spread(b: Any, x: Any, lead: Shape, gqa: bool) -> Any:
    """Key or value with batch axes `lead`; heads repeated for `gqa`."""
    shape = x.type.shape
    if gqa and shape[-3] != lead[-1]:
        repeats = lead[-1] // shape[-3]
        x = b.reshape(x, (*shape[:-2], 1, *shape[-2:]))
        x = b.expand(x, (*shape[:-2], repeats, *shape[-2:]))
        x = b.reshape(x, (*shape[:-3], lead[-1], *shape[-2:]))
    return x if x.type.shape[:-2] == lead else b.expand(x, (*lead, *shape[-2:]))


def _gathered(b: Any, x: Any, like: TensorType, gqa: bool) -> Any:
    """The transpose of `_spread` along the heads: gradients of repeated heads added up."""
    if not gqa or x.type.shape[-3] == like.shape[-3]:
        return x
    *lead, heads, rows, size = x.type.shape
    return b.sum(b.reshape(x, (*lead, like.shape[-3], heads // like.shape[-3], rows, size)), (len(lead) + 1,), False, None)


def _scores(b: Any, q: Any, k: Any, scale: Any, mask: tuple[Any, ...], causal: bool) -> Any:
    scores = b.matmul(b.mul(q, scale), transposed(b, k))
    if causal:
        n = len(scores.type.shape)
        seen = b.ge(iota_along(b, scores.type, n - 2), iota_along(b, scores.type, n - 1))
        return b.where(seen, scores, -math.inf)
    for term in mask:
        boolean = term.type.dtype is dtypes.bool_
        scores = b.where(term, scores, -math.inf) if boolean else b.add(scores, b.cast(term, scores.type.dtype))
    return scores


def _logsumexp(b: Any, scores: Any, wide: Any) -> Any:
    """Over keys; inf where none is seen, so that the exponential of scores minus it is 0 there."""
    scores = b.cast(scores, wide)
    if not scores.type.shape[-1]:
        return b.full(math.inf, scores.type.shape[:-1], wide, scores.type.device)
    found = b.logsumexp(scores, (len(scores.type.shape) - 1,), False)
    return b.where(b.eq(found, -math.inf), math.inf, found)


def _kept(b: Any, shape: Shape, device: str, p: Any, seed: Any, offset: Any) -> Any:
    """Which weights dropout keeps. Rows are drawn as if their length were a multiple of 4."""
    keys = shape[-1]
    draw = uniform(b, seed, offset, (*shape[:-1], -(-keys // 4) * 4), dtypes.float32, device)
    kept = b.ge(draw, b.cast(p, dtypes.float32))
    return kept if keys % 4 == 0 else b.slice(kept, (0,) * len(shape), shape, (1,) * len(shape))


def _dropped(b: Any, x: Any, p: Any, seed: Any, offset: Any) -> Any:
    rescale = b.cast(b.div(1.0, b.sub(1.0, number(b, p))), x.type.dtype)
    return b.where(_kept(b, x.type.shape, x.type.device, p, seed, offset), b.mul(x, rescale), 0.0)


def _plain(b: Any, q: Any, k: Any, v: Any, scale: Any, p: Any, seed: Any, offset: Any, *rest: Any) -> tuple[Any, Any]:
    """(result, logarithm of the sum of exponentials)."""
    *mask, causal, gqa, dropout = rest
    out, lse = _type(tuple([x.type for x in (q, k, v, q, q, q, q, *mask)]), causal, gqa, dropout)
    lead = lse.shape[:-1]
    k, v = _spread(b, k, lead, gqa), _spread(b, v, lead, gqa)
    scores = _scores(b, q, k, scale, tuple(mask), causal)
    total = _logsumexp(b, scores, lse.dtype)
    if not scores.type.shape[-1]:
        return b.full(0, out.shape, out.dtype, out.device), total
    last = len(scores.type.shape) - 1
    if mask:
        unseen = b.eq(b.amax(scores, (last,), True), -math.inf)
        weights = b.where(unseen, 0.0, b.softmax(b.where(unseen, 0.0, scores), last))
    else:
        weights = b.softmax(scores, last)
    weights = _dropped(b, weights, p, seed, offset) if dropout else weights
    return b.matmul(weights, v), total


def by_parts(b: Any, *args: Any) -> Any:
    """The result alone by the plain formula, every op of it recorded: what a gradient of the mask goes through."""
    return _plain(b, *args)[0]


def _plain_gradient(b: Any, g: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, scale: Any, p: Any, seed: Any, offset: Any,
                    *rest: Any, of_lse: Any = None) -> tuple[Any, Any, Any]:
    """From the gradient of the result and, if any, `of_lse`, that of the logarithms."""
    *mask, causal, gqa, dropout = rest
    wide, lead = lse.type.dtype, lse.type.shape[:-1]
    last = len(lead) + 1
    spread_k, spread_v = _spread(b, k, lead, gqa), _spread(b, v, lead, gqa)
    scores = b.cast(_scores(b, q, spread_k, scale, tuple(mask), causal), wide)
    weights = b.exp(b.sub(scores, b.reshape(lse, (*lse.type.shape, 1))))
    dw = b.cast(b.matmul(g, transposed(b, spread_v)), wide)
    used = weights
    if dropout:
        used, dw = _dropped(b, weights, p, seed, offset), _dropped(b, dw, p, seed, offset)
    delta = b.sum(b.mul(b.cast(g, wide), b.cast(out, wide)), (last,), True, None)
    if of_lse is not None:
        delta = b.sub(delta, b.reshape(of_lse, delta.type.shape))
    ds = b.cast(b.mul(b.mul(weights, b.sub(dw, delta)), scale), q.type.dtype)
    dk = b.matmul(transposed(b, ds), q)
    dv = b.matmul(transposed(b, b.cast(used, q.type.dtype)), g)
    return b.matmul(ds, spread_k), _gathered(b, dk, k.type, gqa), _gathered(b, dv, v.type, gqa)


# -- what the kernels take ---------------------------------------------------------------------------------------------------
def _takes(q: TensorType, v: TensorType, lead: Shape, mask: list[TensorType]) -> bool:
    """float32 and 16-bit floats of at most 4 axes, with something to compute for more than one query: a vector times a matrix does better
    by the plain formula, and all other lengths take the same kernels."""
    return (q.dtype is not dtypes.float64 and len(lead) <= 2 and q.shape[-2] != 1 and all(n > 0 for n in (*lead, *q.shape, *v.shape))
            and all(m.ndim <= 4 for m in mask))


def _operand(b: Any, x: Any, lead: Shape, gqa: bool) -> Any:
    """Key, value or what has the shape of the query: float32, 4 axes, batch axes expanded, heads filled up to a multiple of 8."""
    x = x if x.type.dtype is dtypes.float32 else b.cast(x, dtypes.float32)
    *front, rows, size = x.type.shape
    front = [1] * (2 - len(front)) + list(front)
    x = x if len(x.type.shape) == 4 else b.reshape(x, (*front, rows, size))
    wanted = ((1, 1) + lead)[-2:]
    full = (wanted[0], front[1] if gqa else wanted[1], rows, size)
    x = x if x.type.shape == full else b.expand(x, full)
    more = -size % MULTIPLE
    return b.pad(x, 0.0, (0, 0, 0, 0), (0, 0, 0, more)) if more else x


def _mask_operand(b: Any, mask: Any, rows: int, keys: int) -> Any:
    """As the kernels read it: (batch or 1, heads or 1, keys, queries or 1)."""
    mask = mask if mask.type.dtype in (dtypes.bool_, dtypes.float32) else b.cast(mask, dtypes.float32)
    shape = (1,) * (4 - len(mask.type.shape)) + mask.type.shape
    mask = b.reshape(mask, shape) if shape != mask.type.shape else mask
    mask = transposed(b, mask)
    return mask if shape[-1] == keys else b.expand(mask, (*shape[:2], keys, shape[2]))


def _shaped(b: Any, x: Any, type: TensorType) -> Any:
    """A result of the kernels as the recorded op gives it."""
    if x.type.shape[-1] != type.shape[-1]:
        x = b.slice(x, (0,) * len(x.type.shape), (*x.type.shape[:-1], type.shape[-1]), (1,) * len(x.type.shape))
    x = x if x.type.shape == type.shape else b.reshape(x, type.shape)
    return x if x.type.dtype is type.dtype else b.cast(x, type.dtype)


def _attention(b: Any, q: Any, k: Any, v: Any, scale: Any, p: Any, seed: Any, offset: Any, *rest: Any) -> tuple[Any, Any]:
    *mask, causal, gqa, dropout = rest
    out, lse = _type(tuple([x.type for x in (q, k, v, q, q, q, q, *mask)]), causal, gqa, dropout)
    lead = lse.shape[:-1]
    if not _takes(q.type, v.type, lead, [m.type for m in mask]) or (gqa and k.type.shape[-3] != v.type.shape[-3]):
        return _plain(b, q, k, v, scale, p, seed, offset, *rest)
    q, k, v = _operand(b, q, lead, False), _operand(b, k, lead, gqa), _operand(b, v, lead, gqa)
    terms = [_mask_operand(b, m, q.type.shape[2], k.type.shape[2]) for m in mask]
    found = b.flash_attention(q, k, v, scale, p, seed, offset, *terms, causal=causal, dropout=dropout)
    return _shaped(b, found[0], out), _shaped(b, found[1], lse)


def _attention_gradient(b: Any, g: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, scale: Any, p: Any, seed: Any, offset: Any,
                        *rest: Any) -> tuple[Any, Any, Any]:
    *mask, causal, gqa, dropout = rest
    types = _gradient_type((g.type, q.type, k.type, v.type), causal, gqa, dropout)
    lead = lse.type.shape[:-1]
    if not _takes(q.type, v.type, lead, [m.type for m in mask]) or (gqa and k.type.shape[-3] != v.type.shape[-3]):
        return _plain_gradient(b, g, q, k, v, out, lse, scale, p, seed, offset, *rest)
    g, q, out = (_operand(b, x, lead, False) for x in (g, q, out))
    k, v = _operand(b, k, lead, gqa), _operand(b, v, lead, gqa)
    terms = [_mask_operand(b, m, q.type.shape[2], k.type.shape[2]) for m in mask]
    lse = b.reshape(lse, q.type.shape[:3])
    found = b.flash_attention_backward(g, q, k, v, out, lse, scale, p, seed, offset, *terms, causal=causal, dropout=dropout)
    return tuple([_shaped(b, x, t) for x, t in zip(found, types, strict=True)])


def _vjp(b: Any, g: Any, query: Any, key: Any, value: Any, scale: Any, p: Any, seed: Any, offset: Any, mask: tuple[Any, ...], out: Any,
         given: tuple[bool, bool], causal: bool, gqa: bool, dropout: bool) -> tuple[Any, ...]:
    """A mask gets no gradient here: the frontend computes attention by parts for one that wants it.

    The logarithms have a gradient only when a gradient is differentiated, which goes by the plain formula anyway.
    """
    of_result = g[0] if given[0] else zeros(b, out[0].type)
    args = (of_result, query, key, value, *out, scale, p, seed, offset, *mask)
    if given[1]:
        found = _plain_gradient(b, *args, causal, gqa, dropout, of_lse=g[1])
    else:
        found = b.scaled_dot_product_attention_backward(*args, causal=causal, gqa=gqa, dropout=dropout)
    return (*found, *[None] * (4 + len(mask)))


_SEEN = np.array([[True, False, True], [False, True, False], [True, True, True]] * 4)
_SAMPLES = [
    (((2, 2, 9, 4), (2, 2, 5, 4), (2, 2, 5, 3), 0.5, 0.0, 0, 0), (False, False, False)),
    (((3, 4), (5, 4), (5, 4), 0.5, 0.0, 0, 0), (True, False, False)),
    (((4, 10, 4), (2, 7, 4), (2, 7, 8), 0.7, 0.3, 5, 2), (True, True, True)),
    (((1, 2, 12, 4), (2, 1, 3, 4), (2, 3, 4), 0.5, 0.0, 0, 0, _SEEN), (False, False, False)),
    (((12, 4), (3, 4), (3, 4), 0.5, 0.4, 1, 2, _SEEN[1:2]), (False, False, True)),
]
declare(NAME, Kind.COMPOSITE, "query key value scale p seed offset mask*", "causal gqa dropout", type_rule=_type, decompose=_attention,
        vjp=_vjp, samples=_SAMPLES,
        doc="(softmax(scale query @ key.T + mask) @ value, logarithm of the sums of exponentials). A bool mask holds where a key is seen; "
            "`dropout`: weights are dropped with probability p, by (seed, offset).")
declare(f"{NAME}_backward", Kind.COMPOSITE, "g query key value out lse scale p seed offset mask*", "causal gqa dropout",
        type_rule=_gradient_type, decompose=_attention_gradient,
        samples=[(((2, 9, 4), (2, 9, 4), (2, 3, 4), (2, 3, 4), (2, 9, 4), (2, 9), 0.5, 0.0, 0, 0), (False, False, False))],
        doc="Gradients of query, key and value, from the gradient of the result.")


# -- what the kernels compute ------------------------------------------------------------------------------------------------
def _np_scores(q: np.ndarray, k: np.ndarray, scale: Any, mask: tuple[np.ndarray, ...], causal: bool, first: int) -> np.ndarray:
    """Of queries `first` and on of one head; k has all keys, mask (keys, queries or 1)."""
    scores = np.matmul(q * scale, k.T)
    for term in mask:
        term = (term if term.shape[-1] == 1 else term[:, first:first + len(q)]).T
        scores = np.where(term, scores, -np.inf) if term.dtype == np.bool_ else scores + term
    if causal:
        scores = np.where(np.arange(first, first + len(q))[:, None] >= np.arange(len(k)), scores, -np.inf)
    return scores


def _np_kept(head: int, rows: int, first: int, shape: Shape, p: Any, seed: Any, offset: Any) -> np.ndarray:
    blocks = -(-shape[1] // 4)
    start = int(offset) + (head * rows + first) * blocks
    bits = philox_bits(int(seed), start, shape[0] * blocks * 4).reshape(shape[0], -1)[:, :shape[1]]
    return (bits >> 8).astype(np.float32) * np.float32(2.0 ** -24) >= np.float32(p)


def _np_blocks(q: np.ndarray, k: np.ndarray) -> Any:
    """(number of the head, index of batch and head, of those of the key, queries) for pieces whose scores are few."""
    batch, heads, rows, _ = q.shape
    step = max(1, REFERENCE_SCORES // k.shape[2])
    for count in range(batch * heads):
        n, h = divmod(count, heads)
        for first in range(0, rows, step):
            yield count, (n, h), (n, h * k.shape[1] // heads), slice(first, min(first + step, rows))


def _np_mask(mask: tuple[np.ndarray, ...], n: int, h: int) -> tuple[np.ndarray, ...]:
    return tuple([m[n if m.shape[0] > 1 else 0, h if m.shape[1] > 1 else 0] for m in mask])


def _np_flash(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: Any, p: Any, seed: Any, offset: Any, *rest: Any) -> tuple[Any, Any]:
    *mask, causal, dropout = rest
    out, lse = np.zeros((*q.shape[:3], v.shape[3]), q.dtype), np.zeros(q.shape[:3], q.dtype)
    scale = q.dtype.type(scale)
    for head, at, inner, rows in _np_blocks(q, k):
        scores = _np_scores(q[at][rows], k[inner], scale, _np_mask(tuple(mask), *at), causal, rows.start)
        top = scores.max(1, keepdims=True)
        e = np.exp(scores - np.where(np.isneginf(top), 0, top))
        total = e.sum(1, keepdims=True)
        unseen = total == 0
        lse[at][rows] = np.where(unseen, np.inf, top + np.log(total))[:, 0]
        weights = e / np.where(unseen, 1, total)
        if dropout:
            weights = np.where(_np_kept(head, q.shape[2], rows.start, weights.shape, p, seed, offset), weights / q.dtype.type(1 - p), 0)
        out[at][rows] = weights @ v[inner]
    return out, lse


def _np_flash_backward(g: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray, lse: np.ndarray, scale: Any, p: Any,
                       seed: Any, offset: Any, *rest: Any) -> tuple[Any, ...]:
    *mask, causal, dropout = rest
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    scale = q.dtype.type(scale)
    for head, at, inner, rows in _np_blocks(q, k):
        scores = _np_scores(q[at][rows], k[inner], scale, _np_mask(tuple(mask), *at), causal, rows.start)
        weights = np.exp(scores - lse[at][rows][:, None])
        dw, used = g[at][rows] @ v[inner].T, weights
        if dropout:
            kept = _np_kept(head, q.shape[2], rows.start, weights.shape, p, seed, offset) / q.dtype.type(1 - p)
            dw, used = dw * kept, used * kept
        ds = weights * (dw - (g[at][rows] * out[at][rows]).sum(1, keepdims=True)) * scale
        dq[at][rows] = ds @ k[inner]
        dk[inner] += ds.T @ q[at][rows]
        dv[inner] += used.T @ g[at][rows]
    return dq, dk, dv


def _flash_type(types: Types, causal: bool, dropout: bool) -> tuple[TensorType, TensorType]:
    q, k, v = types[:3]
    _check_flash(q, k, v, types[7:])
    return q.with_((*q.shape[:3], v.shape[3])), q.with_(q.shape[:3])


def _check_flash(q: TensorType, k: TensorType, v: TensorType, mask: Types) -> None:
    _check(q, k, v)
    rows, keys = q.shape[-2], k.shape[-2]
    same = q.ndim == k.ndim == v.ndim == 4 and q.shape[0] == k.shape[0] and k.shape[:2] == v.shape[:2] and q.shape[1] % k.shape[1] == 0
    if not same or any(m.ndim != 4 or m.shape[2] != keys or m.shape[3] not in (1, rows) or m.shape[0] not in (1, q.shape[0])
                       or m.shape[1] not in (1, q.shape[1]) for m in mask):
        raise RuntimeError(f"flash_attention: operands do not fit: {', '.join(map(str, (q, k, v, *mask)))}")


def _flash_backward_type(types: Types, causal: bool, dropout: bool) -> tuple[TensorType, ...]:
    q, k, v = types[1:4]
    _check_flash(q, k, v, types[10:])
    return types[1], types[2], types[3]


def _flash(b: Any, q: Any, k: Any, v: Any, scale: Any, p: Any, seed: Any, offset: Any, *rest: Any) -> tuple[Any, Any]:
    *mask, causal, dropout = rest
    return _plain(b, q, k, v, scale, p, seed, offset, *[transposed(b, m) for m in mask], causal, True, dropout)


def _flash_gradient(b: Any, *args: Any) -> tuple[Any, Any, Any]:
    *operands, causal, dropout = args
    return _plain_gradient(b, *operands[:10], *[transposed(b, m) for m in operands[10:]], causal, True, dropout)


_FLASH_SAMPLES = [(((2, 2, 9, 8), (2, 2, 5, 8), (2, 2, 5, 16), 0.5, 0.0, 0, 0), (False, False)),
                  (((1, 4, 17, 8), (1, 2, 66, 8), (1, 2, 66, 8), 0.5, 0.3, 3, 4), (True, True)),
                  (((1, 2, 12, 8), (1, 2, 3, 8), (1, 2, 3, 8), 0.5, 0.0, 0, 0, np.ascontiguousarray(_SEEN.T)[None, None]), (False, False))]
declare("flash_attention", Kind.ATTENTION, "query key value scale p seed offset mask*", "causal dropout", routine="attention",
        type_rule=_flash_type, reference=_np_flash, decompose=_flash, samples=_FLASH_SAMPLES,
        doc="Attention over (batch, heads, queries, size) and (batch, heads or fewer, keys, size), block by block; the mask, "
            "(batch or 1, heads or 1, keys, queries or 1), lies as the scores do in the kernel.")
declare("flash_attention_backward", Kind.ATTENTION, "g query key value out lse scale p seed offset mask*", "causal dropout",
        routine="attention_backward", type_rule=_flash_backward_type, reference=_np_flash_backward, decompose=_flash_gradient,
        samples=[(((1, 2, 9, 8), (1, 2, 9, 8), (1, 1, 5, 8), (1, 1, 5, 8), (1, 2, 9, 8), (1, 2, 9), 0.5, 0.3, 3, 4), (True, True))],
        doc="Gradients of query, key and value, block by block; scores are computed again and `lse` makes them weights.")
