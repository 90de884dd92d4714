"""What becomes of an op on sparse tensors: ops on places and values. What is not here is refused, never taken as dense."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from treadle.creation import adopt, to_array
from treadle.emitter import EMITTER
from treadle.ir import dtypes
from treadle.ir.dtypes import DType
from treadle.ir.op import Attrs, Kind, Op
from treadle.ir.types import result_dtype
from treadle.results import cast
from treadle.sparse.pattern import (
    BACKENDS,
    COO,
    CSC,
    CSR,
    Pattern,
    coalesced,
    make,
    mark_of,
    pattern_of,
    scattered,
    values_of,
)
from treadle.tensor import Tensor, apply

Rule = Callable[[Op, Sequence[Any], Attrs], Any]


def compose(pattern: Pattern, op: Op, inputs: Sequence[Any], attrs: Attrs) -> Any:
    """`op` on operands of which some are sparse, that of `pattern` among them. NotImplementedError where there is no rule."""
    rule = RULES.get(op.name)
    if rule is None and op.kind is Kind.ELEMENTWISE and len(inputs) == 1 and keeps_zero(op, inputs[0]._data.type.dtype, attrs):
        rule = _each
    if rule is None:
        raise unsupported(op.name, pattern)
    return rule(op, inputs, attrs)


def unsupported(name: str, pattern: Pattern, why: str = "") -> NotImplementedError:
    kind = BACKENDS[pattern.layout] + ("CPU" if pattern.device == "cpu" else "CUDA")
    why = why or "there is no such operation"
    return NotImplementedError(f"Could not run 'aten::{name}' with arguments from the '{kind}' backend: {why} on tensors of layout "
                               f"treadle.{pattern.layout}. to_dense() makes a tensor that has all operations.")


@lru_cache(4096)
def keeps_zero(op: Op, dtype: DType, attrs: Attrs) -> bool:
    """Whether the op's result is zero where its operand is."""
    if op.reference is None:
        return False
    with np.errstate(all="ignore"):
        found = op.reference(np.zeros((), dtypes.float32.np if dtype.category < dtypes.FLOAT else dtype.np), *attrs)
    return not isinstance(found, tuple) and bool(np.asarray(found) == 0)


def _parts(x: Tensor) -> tuple[Pattern, Tensor]:
    mark = mark_of(x)
    assert mark is not None
    return mark.level, values_of(x)


def as_layout(x: Tensor, layout: str) -> Tensor:
    """A sparse matrix in another layout; elements in its order, each place once."""
    pattern = pattern_of(x)
    assert pattern is not None
    if pattern.layout == layout:
        return x
    if len(pattern.axes) != 2:
        raise RuntimeError(f"to_sparse: a tensor with {len(pattern.axes)} sparse axes has no layout treadle.{layout}")
    plain = make(pattern.like(pattern.axes, pattern.coalesced, COO), values_of(x))
    if layout == CSC:
        return _flip(as_layout(_flip(plain), CSR))
    p, values = _parts(coalesced(plain))
    return make(p.like(p.axes, True, layout), values)


def _flip(x: Tensor) -> Tensor:
    p, values = _parts(x)
    return make(p.flipped(), values)


# -- element by element ------------------------------------------------------------------------------------------------------------------
def _each(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    """A function that keeps zero, of the sum of the values of each place."""
    p, values = _parts(coalesced(inputs[0]))
    return make(p, apply(op, (values,), attrs))


def _linear(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    p, values = _parts(inputs[0])
    return make(p, apply(op, (values,), attrs))


def _to_device(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    p, values = _parts(inputs[0])
    return make(p.like(tuple([apply(op, (a,), attrs) for a in p.axes]), p.coalesced), apply(op, (values,), attrs))


def _is_number(x: Any) -> bool:
    return not isinstance(x, Tensor) or (not x._data.type.shape and pattern_of(x) is None)


def _same_shape(name: str, x: Tensor, y: Tensor) -> None:
    a, b = x._data.type.shape, y._data.type.shape
    if a != b:
        raise RuntimeError(f"{name}: expected sizes of 'self' and 'other' to match, but {list(a)} != {list(b)}")


def _add(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    """Two sparse tensors, or a sparse and a dense one of its shape, which gives a dense one."""
    x, y = inputs
    shapes = [t._data.type.shape if isinstance(t, Tensor) else None for t in inputs]
    if None in shapes or (shapes[0] != shapes[1] and None in map(pattern_of, inputs)):
        named = " and ".join(["a number" if n is None else str(list(n)) for n in shapes])
        raise RuntimeError(f"{op.name}(sparse, dense) is not supported: numbers, and dense tensors of another shape than the sparse one's "
                           f"(here {named}) would change the elements that it does not have")
    _same_shape(op.name, x, y)
    dtype, sign = result_dtype((x._data.type, y._data.type)), op.name == "sub"
    p, q = pattern_of(x), pattern_of(y)
    a = x if p is None else values_of(x)
    b = y if q is None else values_of(y)
    if p is None or q is None:
        b = EMITTER.neg(b) if sign else b
        dense, pattern, values = (a, q, b) if p is None else (b, p, a)
        assert pattern is not None
        return scattered(cast(dense, dtype), pattern, cast(values, dtype))
    if p is q:
        return make(p, apply(op, (a, b)))
    if len(p.axes) != len(q.axes):
        raise RuntimeError(f"{op.name}: expected tensors with as many sparse axes, but got {len(p.axes)} and {len(q.axes)}")
    joined = tuple([EMITTER.cat(one, two, dim=0) for one, two in zip(p.axes, q.axes, strict=True)])
    values = EMITTER.cat(cast(a, dtype), cast(EMITTER.neg(b) if sign else b, dtype), dim=0)
    found = make(Pattern(joined, p.shape, False), values)
    return found if p.layout == COO else as_layout(found, p.layout)


def _mul(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    x, y = inputs
    if pattern_of(x) is None:
        x, y = y, x
    p, values = _parts(x)
    q = pattern_of(y)
    if _is_number(y):
        return make(p, apply(op, (values, y)))
    if q is None:
        return make(p, apply(op, (values, _beside(op.name, x, p, y))))
    _same_shape(op.name, x, y)
    (p, a), (q, b) = _parts(coalesced(x)), _parts(coalesced(y))
    if p is q:
        return make(p, apply(op, (a, b)))
    if len(p.axes) != len(q.axes):
        raise RuntimeError(f"mul: expected tensors with as many sparse axes, but got {len(p.axes)} and {len(q.axes)}")
    _, i, j = np.intersect1d(p.flat(), q.flat(), assume_unique=True, return_indices=True)
    first, second = adopt(i, p.axes[0]), adopt(j, p.axes[0])
    both = p.like(tuple([EMITTER.index_select(axis, first, 0) for axis in p.axes]), True)
    return make(both, apply(op, (EMITTER.index_select(a, first, 0), EMITTER.index_select(b, second, 0))))


def _beside(name: str, x: Tensor, p: Pattern, dense: Tensor) -> Tensor:
    """The elements of a dense tensor, broadcast to the shape of `x`, at the places of `p`."""
    shape, have = x._data.type.shape, dense._data.type.shape
    missing = len(shape) - len(have)
    if missing < 0 or any(n not in (1, m) for n, m in zip(have, shape[missing:], strict=True)):
        raise RuntimeError(f"{name}: a dense tensor of shape {list(have)} cannot be broadcast to the shape {list(shape)} of the sparse one")
    sizes = (1,) * missing + have
    k = len(p.axes)
    used = [d for d in range(k) if sizes[d] != 1]
    dense = EMITTER.reshape(dense, (*[sizes[d] for d in used], *sizes[k:]))
    if not used:
        return EMITTER.reshape(dense, (1, *sizes[k:]))
    found: Tensor = EMITTER.index(dense, *[p.axes[d] for d in used], dims=tuple(range(len(used))))
    return found


def _by_number(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    """Quotients and powers by a number that keep zero."""
    x, y = inputs
    p = pattern_of(x)
    if p is None or not _is_number(y):
        shape = list(y._data.type.shape) if isinstance(y, Tensor) else []
        raise RuntimeError(f"{op.name}: Sparse division requires a scalar or zero-dim dense tensor divisor (got shape {shape} for divisor)")
    if op.name == "pow" and (isinstance(y, Tensor) or not y > 0):
        raise unsupported("pow", p, f"there is no power {'of a tensor' if isinstance(y, Tensor) else y}")
    if op.name != "div":
        x = coalesced(x)
    p, values = _parts(x)
    return make(p, apply(op, (values, y)))


# -- shapes --------------------------------------------------------------------------------------------------------------------------------
def _permute(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    (order,) = attrs
    p, values = _parts(inputs[0])
    k = len(p.axes)
    if any(d >= k for d in order[:k]):
        raise RuntimeError(f"transpose: sparse axes (the first {k}) and dense ones cannot change places")
    if order == tuple(range(len(order))):
        return make(p, values)
    if k != len(order):
        values = EMITTER.permute(values, (0, *[d - k + 1 for d in order[k:]]))
    if order[:k] == (1, 0):
        return make(p.flipped(), values)
    return make(Pattern(tuple([p.axes[d] for d in order[:k]]), [p.shape[d] for d in order[:k]], p.nnz < 2), values)


def _reshape(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    """The sparse axes in another shape; dense ones stay."""
    p, values = _parts(inputs[0])
    tail = values._data.type.shape[1:]
    shape = attrs[0][:len(attrs[0]) - len(tail)]
    if attrs[0][len(shape):] != tail or math.prod(shape) != math.prod(p.shape):
        raise RuntimeError(f"reshape is not implemented for sparse tensors whose dense axes {list(tail)} would change")
    if not shape:
        return EMITTER.sum(values, (0,), False, values._data.type.dtype)
    total: Any = 0
    for axis, n in zip(p.axes, p.shape, strict=True):
        total = axis if total.__class__ is int else EMITTER.add(EMITTER.mul(total, n), axis)
    axes = []
    for d, n in enumerate(shape):
        step = math.prod(shape[d + 1:])
        at = total if step == 1 else EMITTER.floor_divide(total, max(step, 1))
        axes.append(at if d == 0 else EMITTER.remainder(at, max(n, 1)))
    return make(Pattern(tuple(axes), shape, p.coalesced), values)


def _picked(p: Pattern, values: Tensor, kept: np.ndarray, changed: dict[int, np.ndarray], shape: Sequence[int]) -> Tensor:
    """The elements `kept`, some of their places changed."""
    where = adopt(kept.astype(np.int64), p.axes[0])
    axes = [adopt(np.ascontiguousarray(changed[d].astype(np.int64)), p.axes[0]) if d in changed else EMITTER.index_select(a, where, 0)
            for d, a in enumerate(p.axes)]
    found = Pattern(tuple(axes), shape, p.coalesced)
    if p.coalesced and len(kept) > 1:
        flat = found.flat()
        found.coalesced = bool((flat[1:] > flat[:-1]).all())
    return make(found, EMITTER.index_select(values, where, 0))


def _slice(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    starts, stops, steps = attrs
    p, values = _parts(inputs[0])
    kept, changed, shape, k = np.ones(p.nnz, bool), {}, [], len(p.axes)
    for d, places in enumerate(p.host()):
        kept &= (places >= starts[d]) & (places < stops[d]) & ((places - starts[d]) % steps[d] == 0)
        changed[d] = (places - starts[d]) // steps[d]
        shape.append(max(0, -(-(stops[d] - starts[d]) // steps[d])))
    if len(starts) > k:
        values = EMITTER.slice(values, (0, *starts[k:]), (p.nnz, *stops[k:]), (1, *steps[k:]))
    where = np.flatnonzero(kept)
    return _picked(p, values, where, {d: a[where] for d, a in changed.items()}, shape)


def _index_select(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    x, index = inputs
    (dim,) = attrs
    if pattern_of(index) is not None or pattern_of(x) is None:
        raise RuntimeError("index_select: the index is a dense tensor")
    p, values = _parts(x)
    if dim >= len(p.axes):
        return make(p, apply(op, (values, index), (dim - len(p.axes) + 1,)))
    wanted, n = to_array(index).astype(np.int64), p.shape[dim]
    for i in wanted[(wanted < -n) | (wanted >= n)]:
        raise IndexError(f"index {i} is out of bounds for dimension {dim} with size {n}")
    wanted = np.where(wanted < 0, wanted + n, wanted)
    places = p.host()[dim]
    order = np.argsort(places, kind="stable")
    low, high = (np.searchsorted(places[order], wanted, side) for side in ("left", "right"))
    counts = high - low
    kept = order[np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
    shape = [len(wanted) if d == dim else m for d, m in enumerate(p.shape)]
    return _picked(p, values, kept, {dim: np.repeat(np.arange(len(wanted)), counts)}, shape)


def _cat(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    (dim,) = attrs
    for i, x in enumerate(inputs):
        if pattern_of(x) is None:
            raise RuntimeError(f"Concatenating sparse tensors, but a dense tensor was found at position {i}.")
    parts = [_parts(x) for x in inputs]
    shapes = [x._data.type.shape for x in inputs]
    k = len(parts[0][0].axes)
    for shape, (p, _) in zip(shapes, parts, strict=True):
        if len(p.axes) != k or len(shape) != len(shapes[0]) or any(n != m for d, (n, m) in enumerate(zip(shape, shapes[0], strict=True))
                                                                   if d != dim) or dim >= k:
            raise RuntimeError(f"cat: sparse tensors of shapes {[list(s) for s in shapes]} cannot be joined along axis {dim}")
    dtype, at, columns = result_dtype(tuple([x._data.type for x in inputs])), 0, []
    for p, _ in parts:
        columns.append([EMITTER.add(a, at) if d == dim and at else a for d, a in enumerate(p.axes)])
        at += p.shape[dim]
    axes = tuple([EMITTER.cat(*column, dim=0) for column in zip(*columns, strict=True)])
    whole = [at if d == dim else n for d, n in enumerate(parts[0][0].shape)]
    ordered = dim == 0 and all(p.coalesced for p, _ in parts)
    return make(Pattern(axes, whole, ordered), EMITTER.cat(*[cast(v, dtype) for _, v in parts], dim=0))


# -- sums and products ---------------------------------------------------------------------------------------------------------------------
def _sum(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    dims, keepdim, dtype = attrs
    p, values = _parts(inputs[0])
    k, have = len(p.axes), inputs[0]._data.type.dtype
    values = cast(values, dtype or (dtypes.int64 if have.category < dtypes.FLOAT else have))
    inner = tuple([d - k + 1 for d in dims if d >= k])
    if inner:
        values = EMITTER.sum(values, inner, keepdim, values._data.type.dtype)
    left = [d for d in range(k) if d not in dims]
    if not left:
        found: Tensor = EMITTER.sum(values, (0,), False, values._data.type.dtype)
        return EMITTER.reshape(found, (*(1,) * k, *found._data.type.shape)) if keepdim else found
    if len(left) == k:
        return make(p, values)
    axes = [p.axes[d] if d in left else EMITTER.full(0, (p.nnz,), dtypes.int64, p.device) for d in (range(k) if keepdim else left)]
    shape = [p.shape[d] if d in left else 1 for d in (range(k) if keepdim else left)]
    summed = make(Pattern(tuple(axes), shape, False), values)
    from treadle.runtime.recorder import STATE
    return summed if STATE.here.capture is not None else coalesced(summed)


def _matmul(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Tensor:
    x, y = inputs
    a, b = x._data.type, y._data.type
    p, q = pattern_of(x), pattern_of(y)
    name = "addmm" if a.ndim == 2 else "bmm"
    if a.ndim != b.ndim or a.ndim not in (2, 3) or (q is not None and a.ndim == 3):
        raise unsupported("matmul", p or q, f"there is no product of tensors of shapes {list(a.shape)} and {list(b.shape)}")  # type: ignore[arg-type]
    if a.dtype is not b.dtype:
        raise RuntimeError(f"{name}: expected both operands to have the same dtype, but got {a.dtype.name} and {b.dtype.name}")
    if a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        raise RuntimeError(f"{name}: Argument #3 (dense): Expected dim 0 size {a.shape[-1]}, got {b.shape[-2]} (shapes {list(a.shape)} and "
                           f"{list(b.shape)})")
    for t, pattern in ((x, p), (y, q)):
        if pattern is not None and len(pattern.axes) != t._data.type.ndim:
            raise unsupported("matmul", pattern, "there is no product of matrices with dense axes")
    if p is None:
        return EMITTER.permute(_product(_flip(y), EMITTER.permute(x, (1, 0))), (1, 0))
    if q is not None:
        return _both_sparse(x, y)
    return _product(x, y) if a.ndim == 2 else _stacked(x, y)


def _product(x: Tensor, dense: Tensor) -> Tensor:
    """A sparse matrix times a dense one."""
    p, values = _parts(x)
    if dense._data.type.dtype.is_complex:
        type = dense._data.type
        terms = EMITTER.mul(EMITTER.reshape(values, (p.nnz, 1)), EMITTER.index_select(dense, p.axes[1], 0))
        zeros = EMITTER.full(0, (p.shape[0], type.shape[1]), type.dtype, type.device)
        summed: Tensor = EMITTER.index_add(zeros, p.axes[0], terms, 0)
        return summed
    starts, order, columns, by_column = p.products()
    found: Tensor = EMITTER.sparse_matmul(values, dense, *p.axes, starts, order, columns, by_column)
    return found


def _stacked(x: Tensor, y: Tensor) -> Tensor:
    """A stack of sparse matrices times one of dense ones: the product of a matrix with these as blocks."""
    (n, rows, k), width = x._data.type.shape, y._data.type.shape[2]
    p, values = _parts(x)
    axes = tuple([EMITTER.add(EMITTER.mul(p.axes[0], size), axis) for size, axis in ((rows, p.axes[1]), (k, p.axes[2]))])
    blocks = make(Pattern(axes, (n * rows, n * k), p.coalesced), values)
    return EMITTER.reshape(_product(blocks, EMITTER.reshape(y, (n * k, width))), (n, rows, width))


def _both_sparse(x: Tensor, y: Tensor) -> Tensor:
    """The product of two sparse matrices, sparse: every element of the first meets the row of the second that its column names."""
    (p, a), (q, b) = _parts(x), _parts(y)
    starts, by_row, *_ = [to_array(t) for t in q.products()]
    columns = p.host()[1]
    counts = np.diff(starts)[columns]
    first = np.repeat(np.arange(p.nnz), counts)
    second = by_row[np.repeat(starts[:-1][columns] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
    i, j = adopt(first, p.axes[0]), adopt(second.astype(np.int64), p.axes[0])
    axes = EMITTER.index_select(p.axes[0], i, 0), EMITTER.index_select(q.axes[1], j, 0)
    values = EMITTER.mul(EMITTER.index_select(a, i, 0), EMITTER.index_select(b, j, 0))
    found = coalesced(make(Pattern(axes, (p.shape[0], q.shape[1]), False), values))
    return found if p.layout == COO else as_layout(found, CSR)


def _decomposed(op: Op, inputs: Sequence[Any], attrs: Attrs) -> Any:
    assert op.decompose is not None
    return op.decompose(EMITTER, *inputs, *attrs)


def softmax(x: Tensor, dim: int, logarithm: bool) -> Tensor:
    """Along a sparse axis, over the elements that there are; or along a dense one."""
    p, values = _parts(coalesced(x))
    if dim >= len(p.axes):
        return make(p, (EMITTER.log_softmax if logarithm else EMITTER.softmax)(values, dim - len(p.axes) + 1))
    groups, inverse = np.unique(p.flat(leave=dim), return_inverse=True)
    which, type = adopt(inverse.astype(np.int64), p.axes[0]), values._data.type

    def of_groups(value: float) -> Tensor:
        found: Tensor = EMITTER.full(value, (len(groups), *type.shape[1:]), type.dtype, type.device)
        return found
    from treadle.tensor import detached
    places = EMITTER.expand(EMITTER.reshape(which, (p.nnz, *(1,) * (type.ndim - 1))), type.shape) if type.ndim > 1 else which
    largest = EMITTER.scatter_reduce(of_groups(-math.inf), places, detached(values), 0, "amax", True)
    shifted = EMITTER.sub(values, EMITTER.index_select(largest, which, 0))
    size = EMITTER.exp(shifted)
    total = EMITTER.index_select(EMITTER.index_add(of_groups(0.0), which, size, 0), which, 0)
    return make(p, EMITTER.sub(shifted, EMITTER.log(total)) if logarithm else EMITTER.div(size, total))


RULES: dict[str, Rule] = {
    "add": _add, "sub": _add, "mul": _mul, "div": _by_number, "floor_divide": _by_number, "pow": _by_number, "square": _each,
    "neg": _linear, "cast": _linear, "copy": _linear, "to_device": _to_device, "permute": _permute, "reshape": _reshape, "slice": _slice,
    "index_select": _index_select, "cat": _cat, "sum": _sum, "matmul": _matmul, "linear": _decomposed, "linear_bias": _decomposed,
    "addmm": _decomposed,
}
