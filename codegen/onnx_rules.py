"""How ops of the table become ONNX operations: elementwise functions, views, reductions, indexing. One rule an op, in `RULES`.

Elementwise ops with an operation of their own name it in their record (`Op.onnx`). An op without a rule, and one whose rule declines,
is what it is made of.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.codegen.onnx_networks import NETWORKS
from treadle.codegen.onnx_sizes import Vector, is_constant
from treadle.codegen.onnx_writer import Declined, Ref, Result, Rule, Site, Writer, is_bool, number_of
from treadle.ir import dtypes
from treadle.ir.dtypes import FLOAT, DType
from treadle.ir.op import TABLE, Kind
from treadle.ir.ops.elementwise import compute_dtype
from treadle.ir.types import result_dtype

INT_MAX = (1 << 63) - 1


# -- elementwise -------------------------------------------------------------------------------------------------------------
_OF_BOOLS = {"Add": "Or", "Mul": "And", "Max": "Or", "Min": "And", "Abs": "Identity", "Sign": "Identity", "BitwiseAnd": "And",
             "BitwiseOr": "Or", "BitwiseXor": "Xor", "BitwiseNot": "Not"}
_ORDER = frozenset(("Less", "LessOrEqual", "Greater", "GreaterOrEqual"))
_SINCE = {"Max": 12, "Min": 12, "LessOrEqual": 12, "GreaterOrEqual": 12, "BitwiseAnd": 18, "BitwiseOr": 18, "BitwiseXor": 18,
          "BitwiseNot": 18, "Pow": 12}
_WHOLE = frozenset(("Floor", "Ceil", "Round"))  # of integers, these are the integers


def elementwise(w: Writer, s: Site) -> Result:
    """An op whose record names an operation for it: operands in the type in which they are combined."""
    types = tuple([v.type for v in s.node.inputs])
    dtype = compute_dtype(s.op, types) or (dtypes.bool_ if s.dtype is dtypes.bool_ else s.dtype)
    name = _OF_BOOLS.get(s.op.onnx, s.op.onnx) if is_bool(dtype) else s.op.onnx
    if name in _WHOLE and dtype.category < FLOAT:
        return w.Identity(s.x(0))
    if name in ("IsNaN", "IsInf") and dtype.category < FLOAT:
        return w.Not(w.Equal(s.x(0), s.x(0)))
    if dtype.category < FLOAT or name not in ("Max", "Min", "Pow"):
        w.need(_SINCE.get(name, 0))
    if is_bool(dtype) and name in _ORDER:
        dtype = dtypes.int32
    return w.cast(w.emit(name, *[s.x(i, dtype) for i in range(len(s.operands))]), s.dtype)


def formula(function: Callable[..., Ref]) -> Rule:
    """A rule from `(w, *operands) -> result`, the operands in the type in which they are combined."""
    def rule(w: Writer, s: Site) -> Result:
        dtype = compute_dtype(s.op, tuple([v.type for v in s.node.inputs]))
        return w.cast(function(w, *[s.x(i, dtype) for i in range(len(s.operands))]), s.dtype)
    return rule


def _trunc(w: Writer, x: Ref) -> Ref:
    return w.Identity(x) if x.dtype.category < FLOAT else w.Mul(w.Sign(x), w.Floor(w.Abs(x)))


def _floor_divide(w: Writer, x: Ref, y: Ref) -> Ref:
    if x.dtype.category >= FLOAT:
        return w.Floor(w.Div(x, y))
    return w.Div(w.Sub(x, w.Mod(x, y)), y)  # ONNX's Div of integers drops the fraction, and here is none


def _remainder(w: Writer, x: Ref, y: Ref) -> Ref:
    return w.Mod(x, y) if x.dtype.category < FLOAT else w.Sub(x, w.Mul(w.Floor(w.Div(x, y)), y))


def _atan2(w: Writer, y: Ref, x: Ref) -> Ref:
    half = w.constant(math.pi / 2, x.dtype)
    up = w.Where(w.Less(y, 0), w.Neg(half), w.Where(w.Greater(y, 0), half, 0.0))
    turn = w.Where(w.Less(y, 0), w.constant(-math.pi, x.dtype), math.pi)
    inside = w.Add(w.Atan(w.Div(y, x)), w.Where(w.Less(x, 0), turn, 0.0))
    return w.Where(w.Equal(x, 0), up, inside)


def _truth(w: Writer, s: Site) -> list[Ref]:
    """The operands as bools."""
    return [s.x(i, dtypes.bool_) for i in range(len(s.operands))]


def _where(w: Writer, s: Site) -> Result:
    dtype = result_dtype(tuple([v.type for v in s.node.inputs[1:]]))
    return w.cast(w.Where(s.x(0), s.x(1, dtype), s.x(2, dtype)), s.dtype)


_OF_OPERANDS: dict[str, Callable[..., Ref]] = {
    "exp2": lambda w, x: w.Pow(w.constant(2.0, x.dtype), x),
    "expm1": lambda w, x: w.Sub(w.Exp(x), 1.0),
    "log2": lambda w, x: w.Div(w.Log(x), math.log(2.0)),
    "log10": lambda w, x: w.Div(w.Log(x), math.log(10.0)),
    "log1p": lambda w, x: w.Log(w.Add(x, 1.0)),
    "rsqrt": lambda w, x: w.Reciprocal(w.Sqrt(x)),
    "erfc": lambda w, x: w.Sub(w.constant(1.0, x.dtype), w.Erf(x)),
    "trunc": _trunc,
    "floor_divide": _floor_divide,
    "trunc_divide": lambda w, x, y: w.Div(x, y) if x.dtype.category < FLOAT else _trunc(w, w.Div(x, y)),
    "remainder": _remainder,
    "fmod": lambda w, x, y: w.Mod(x, y, fmod=1),
    "atan2": _atan2,
    "isfinite": lambda w, x: w.Not(w.Or(w.IsInf(x), w.IsNaN(x))) if x.dtype.category >= FLOAT else w.Equal(x, x),
    "ne": lambda w, x, y: w.Not(w.Equal(x, y)),
}
FORMULAS: dict[str, Rule] = {name: formula(function) for name, function in _OF_OPERANDS.items()} | {
    "logical_not": lambda w, s: w.Not(*_truth(w, s)),
    "logical_and": lambda w, s: w.And(*_truth(w, s)),
    "logical_or": lambda w, s: w.Or(*_truth(w, s)),
    "logical_xor": lambda w, s: w.Xor(*_truth(w, s)),
    "where": _where,
    "cast": lambda w, s: w.cast(s.operands[0], s.dtype) if s.node.inputs[0].dtype is not s.dtype else w.Identity(s.x(0)),
    "copy": lambda w, s: w.Identity(s.x(0)),
    "to_device": lambda w, s: w.Identity(s.x(0)),
    "after": lambda w, s: w.Identity(s.x(0)),
}


# -- creation and views ---------------------------------------------------------------------------------------------------------
def _full(w: Writer, s: Site) -> Result:
    return w.Expand(s.x(0, s.dtype), w.size_list(s.out_shape()))


def _iota(w: Writer, s: Site) -> Result:
    (size,) = s.out_shape()
    if is_constant(size):
        return w.constant(np.arange(size[0]), s.dtype)
    zero, one = w.constant(0, dtypes.int64), w.constant(1, dtypes.int64)
    return w.cast(w.Range(zero, w.Reshape(w.sizes.scalar(size), w.ints([])), one), s.dtype)


def _expand(w: Writer, s: Site) -> Result:
    return w.Expand(s.x(0), w.size_list(s.out_shape()))


def _from_end(positions: list[Vector], shape: list[Vector]) -> list[Vector]:
    """Positions along axes; those that keep their distance from the end of a dynamic axis count from there."""
    found = []
    for at, size in zip(positions, shape, strict=True):
        distance = tuple([a - n for a, n in zip(at, size, strict=True)])
        end = not is_constant(at) and is_constant(distance)
        found.append(tuple([n or INT_MAX for n in distance]) if end else at)
    return found


def cut(w: Writer, x: Ref, shape: list[Vector], starts: list[Vector], stops: list[Vector], steps: list[int]) -> Ref:
    """A slice of x, which has these sizes; axes taken whole are left out."""
    axes = [i for i, (lo, hi, step) in enumerate(zip(starts, stops, steps, strict=True)) if any(lo) or hi != shape[i] or step != 1]
    if not axes:
        return w.Identity(x)
    low, high = [[_from_end(p, shape)[i] for i in axes] for p in (starts, stops)]
    return w.Slice(x, w.size_list(low), w.size_list(high), w.ints(axes), w.ints([steps[i] for i in axes]))


def _flip(w: Writer, s: Site) -> Result:
    dims = list(s.attr("dims"))
    if not dims:
        return w.Identity(s.x(0))
    return w.Slice(s.x(0), w.ints([-1] * len(dims)), w.ints([-INT_MAX] * len(dims)), w.ints(dims), w.ints([-1] * len(dims)))


def _slice_scatter(w: Writer, s: Site) -> Result:
    """Axis by axis: the part of x that is written to is made first, then joined with the rest."""
    starts, stops, steps = s.sizes("starts"), s.sizes("stops"), [v[0] for v in s.sizes("steps")]
    shape, rank = s.shape(0), s.rank()
    axes = [i for i in range(rank) if any(starts[i]) or stops[i] != shape[i] or steps[i] != 1]
    zeros, ones = [tuple([0] * len(s.nodes))] * rank, [1] * rank

    def part(x: Ref, have: list[Vector], axis: int, low: Vector, high: Vector, step: int = 1) -> Ref:
        return cut(w, x, have, [*zeros[:axis], low, *zeros[axis + 1:]], [*have[:axis], high, *have[axis + 1:]],
                   [*ones[:axis], step, *ones[axis + 1:]])
    # From the last axis inwards: `levels` are the parts of x that are narrowed along ever more axes.
    levels, have = [(s.x(0), list(shape))], list(shape)
    for axis in axes:
        inner = part(levels[-1][0], have, axis, starts[axis], stops[axis], steps[axis])
        have = [*have[:axis], s.shape(1)[axis], *have[axis + 1:]]
        levels.append((inner, have))
    y = s.x(1)
    for axis, (x, sizes) in reversed(list(zip(axes, levels, strict=False))):
        if steps[axis] == 1:
            pieces = [part(x, sizes, axis, zeros[0], starts[axis])] if any(starts[axis]) else []
            pieces += [y, *([part(x, sizes, axis, stops[axis], sizes[axis])] if stops[axis] != sizes[axis] else [])]
            y = w.Concat(*pieces, axis=axis)
        else:
            if not (is_constant(starts[axis]) and is_constant(stops[axis])):
                raise Declined("it writes to a dynamic number of places that do not lie side by side")
            places = np.arange(starts[axis][0], stops[axis][0], steps[axis]).reshape([-1 if i == axis else 1 for i in range(rank)])
            y = w.ScatterElements(x, w.Expand(w.constant(places, dtypes.int64), w.Shape(y)), y, axis=axis)
    return y


def _whole_axes(s: Site) -> int:
    """How many leading axes a strided view takes as they are: those may be dynamic."""
    have, want, count = s.shape(), s.sizes("shape"), 0
    steps = [tuple([math.prod(node.inputs[0].shape[i + 1:]) for node in s.nodes]) for i in range(len(have))]
    while count < len(have) and have[count:count + 1] == want[count:count + 1] and s.sizes("strides")[count] == steps[count]:
        count += 1
    inside = all(node.attr("offset") < math.prod(node.inputs[0].shape[count:]) for node in s.nodes)
    return count if inside else 0


def _strided(s: Site, first: int = 0) -> np.ndarray:
    """The places that a strided view of fixed sizes reads; `first`: by its axes from this one on, in those of the operand."""
    parts = [[node.attr(name)[first:] for name in ("shape", "strides")] for node in s.nodes]
    if any(p != parts[0] for p in parts):
        raise Declined("it reads a dynamic number of places")
    (shape, strides), offset = parts[0], s.attr("offset")
    index = np.full(shape, offset, np.int64)
    for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        index += (np.arange(n) * stride).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return index


def _as_strided(w: Writer, s: Site) -> Result:
    lead = _whole_axes(s)
    index, have = _strided(s, lead), s.shape()
    inner = tuple([math.prod(node.inputs[0].shape[lead:]) for node in s.nodes])
    return w.Gather(w.reshape(s.x(0), have, [*have[:lead], inner]), w.constant(index, dtypes.int64), axis=lead)


def _strided_write(reduction: str) -> Rule:
    def rule(w: Writer, s: Site) -> Result:
        how, index = _reduction(w, reduction), w.constant(_strided(s).reshape(-1), dtypes.int64)
        flat, written = [w.Reshape(s.x(i), w.ints([-1])) for i in range(2)]
        return w.Reshape(w.ScatterElements(flat, index, written, axis=0, **how), w.size_list(s.out_shape()))
    return rule


def _pad(w: Writer, s: Site) -> Result:
    pads = [v for name in ("low", "high") for v in s.sizes(name)]
    dtype = dtypes.uint8 if is_bool(s.dtype) else s.dtype
    return w.cast(w.Pad(s.x(0, dtype), w.size_list(pads), s.x(1, dtype), mode="constant"), s.dtype)


def _pad_mode(w: Writer, s: Site) -> Result:
    mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[s.attr("mode")]
    if mode == "wrap":
        w.need(19)
    pads = [v for name in ("low", "high") for v in s.sizes(name)]
    if any(n < 0 for v in pads for n in v):
        raise Declined("it crops and pads at once")
    return w.Pad(s.x(0), w.size_list(pads), mode=mode)


VIEWS: dict[str, Rule] = {
    "constant": number_of,
    "full": _full,
    "iota": _iota,
    "reshape": lambda w, s: w.Identity(s.x(0)) if s.shape() == s.out_shape() else w.reshape(s.x(0), s.shape(), s.out_shape()),
    "permute": lambda w, s: w.Transpose(s.x(0), perm=list(s.attr("dims"))),
    "expand": _expand,
    "slice": lambda w, s: cut(w, s.x(0), s.shape(), s.sizes("starts"), s.sizes("stops"), list(s.attr("steps"))),
    "flip": _flip,
    "slice_scatter": _slice_scatter,
    "as_strided": _as_strided,
    "as_strided_add": _strided_write("add"),
    "as_strided_scatter": _strided_write("none"),
    "cat": lambda w, s: w.Concat(*[s.x(i, s.dtype) for i in range(len(s.operands))], axis=s.attr("dim")),
    "pad": _pad,
    "pad_mode": _pad_mode,
}


# -- reductions, scans, sorting --------------------------------------------------------------------------------------------------
def reduced(w: Writer, name: str, x: Ref, dims: Any, keepdim: bool) -> Ref:
    """A reduction; axes are an operand or an attribute, by ONNX's version."""
    if not dims:
        return w.Identity(x)
    if w.opset >= (13 if name == "ReduceSum" else 18):
        return w.emit(name, x, w.ints(dims), keepdims=int(keepdim))
    return w.emit(name, x, axes=list(dims), keepdims=int(keepdim))


def _reduce(dtype_of: Callable[[DType], DType] = lambda d: d) -> Rule:
    """`dtype_of` gives the type to reduce in from that of the result."""
    def rule(w: Writer, s: Site) -> Result:
        if any(0 in v for v in s.shape()):
            raise Declined("there is nothing to reduce")
        x = s.x(0, dtype_of(s.dtype))
        return w.cast(reduced(w, s.op.onnx, x, s.attr("dims"), s.attr("keepdim")), s.dtype)
    return rule


def _as_number(dtype: DType) -> DType:
    return dtypes.int32 if is_bool(dtype) else dtype


def _truths(w: Writer, s: Site) -> Result:
    x = w.cast(s.x(0, dtypes.bool_), dtypes.int32)
    return w.cast(reduced(w, s.op.onnx, x, s.attr("dims"), s.attr("keepdim")), dtypes.bool_)


def _arg(w: Writer, s: Site) -> Result:
    x = s.x(0) if s.rank() else w.Reshape(s.x(0), w.ints([1]))
    found = w.emit(s.op.onnx, x, axis=s.attr("dim"), keepdims=int(s.attr("keepdim")) if s.rank() else 0)
    return found


def _sum_like(w: Writer, s: Site) -> Result:
    """Sums and products of no axes are the operand in the result's type."""
    x = s.x(0, s.dtype)
    if is_bool(s.dtype):
        raise Declined("sums of bools")
    return reduced(w, s.op.onnx, x, s.attr("dims"), s.attr("keepdim"))


def _sort(w: Writer, s: Site) -> Result:
    dim = s.attr("dim")
    return _top(w, s, w.size_list(s.shape()[dim:dim + 1]), dim, s.attr("descending"))


def _top(w: Writer, s: Site, k: Ref, dim: int, largest: bool) -> Result:
    if not s.rank():
        return w.Identity(s.x(0)), w.constant(0, dtypes.int64)
    dtype = dtypes.int32 if s.dtype.itemsize < 4 and s.dtype.category < FLOAT else s.dtype
    values, places = w.TopK(s.x(0, dtype), k, outputs=2, axis=dim, largest=int(largest), sorted=1)
    return w.cast(values, s.dtype), Ref(places.name, dtypes.int64)


REDUCTIONS: dict[str, Rule] = {
    "sum": _sum_like,
    "prod": _sum_like,
    "mean": _sum_like,
    "amax": _reduce(_as_number),
    "amin": _reduce(_as_number),
    "logsumexp": _reduce(),
    "any": _truths,
    "all": _truths,
    "argmax": _arg,
    "argmin": _arg,
    "cumsum": lambda w, s: w.CumSum(s.x(0, s.dtype), w.constant(s.attr("dim"), dtypes.int64)) if s.rank() else w.Identity(s.x(0, s.dtype)),
    "sort": _sort,
    "topk": lambda w, s: _top(w, s, w.size_list([tuple([n.attr("k") for n in s.nodes])]), s.attr("dim"), s.attr("largest")),
}


# -- gather and scatter ------------------------------------------------------------------------------------------------------------
def _index(s: Site, i: int = 1) -> Ref:
    return s.x(i, dtypes.int64)


def _gather(w: Writer, s: Site) -> Result:
    return w.GatherElements(s.x(0), _index(s), axis=s.attr("dim")) if s.rank() else w.Identity(s.x(0))


def _reduction(w: Writer, how: str) -> dict[str, str]:
    if how != "none":
        w.need(16 if how in ("add", "mul") else 18)
    return {} if how == "none" else {"reduction": how}


_HOW = {"prod": "mul", "amax": "max", "amin": "min"}
_NEUTRAL = {"prod": 1, "amax": -math.inf, "amin": math.inf}


def _spread(w: Writer, s: Site, index: Ref) -> Ref:
    """The source of a scatter, one element or one for each of the index."""
    src = s.x(2, s.dtype)
    return src if s.shape(2) == s.shape(1) and s.rank(2) else w.Expand(src, w.Shape(index))


def _scatter(how: str = "none") -> Rule:
    def rule(w: Writer, s: Site) -> Result:
        if not s.rank():
            raise Declined("it writes to a 0-d tensor")
        kind = _reduction(w, how)
        return w.ScatterElements(s.x(0), _index(s), _spread(w, s, _index(s)), axis=s.attr("dim"), **kind)
    return rule


def _scatter_reduce(w: Writer, s: Site) -> Result:
    how, x, index = s.attr("reduce"), s.x(0), _index(s)
    kind, include = _reduction(w, _HOW[how]), s.attr("include_self")
    if not s.rank() or (not include and s.dtype.category < FLOAT and how != "prod"):
        raise Declined("it has no neutral number in ONNX")
    if not include:
        x = w.ScatterElements(x, index, w.Expand(w.constant(_NEUTRAL[how], s.dtype), w.Shape(index)), axis=s.attr("dim"))
    return w.ScatterElements(x, index, _spread(w, s, index), axis=s.attr("dim"), **kind)


def _into_axis(how: str) -> Rule:
    """index_add and index_copy: the index, of one axis, repeated over the others."""
    def rule(w: Writer, s: Site) -> Result:
        kind, dim, rank = _reduction(w, how), s.attr("dim"), s.rank()
        if s.rank(1) != 1 or not rank:
            raise Declined("its index has not one axis")
        want = [*s.shape(0)[:dim], s.shape(1)[0], *s.shape(0)[dim + 1:]]
        index = w.Reshape(_index(s), w.ints([-1 if i == dim else 1 for i in range(rank)]))
        sizes = w.size_list(want)
        src = s.x(2, s.dtype)
        return w.ScatterElements(s.x(0), w.Expand(index, sizes), src if s.rank(2) else w.Expand(src, sizes), axis=dim, **kind)
    return rule


def _stacked(w: Writer, s: Site, first: int) -> tuple[Ref, int]:
    """The index tensors, broadcast together, as [..., number of them]; and the rank of what they were broadcast to."""
    count = len(s.operands) - first
    rank = max(s.rank(i) for i in range(first, first + count))
    common = None
    shapes = [s.shape(i) for i in range(first, first + count)]
    wide = [(tuple([1] * len(s.nodes)),) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    common = [next((v for v in column if set(v) != {1}), column[0]) for column in zip(*wide, strict=True)]
    one = tuple([1] * len(s.nodes))
    sizes = w.size_list(common)
    parts = []
    for i in range(first, first + count):
        whole = w.Expand(_index(s, i), sizes)
        parts.append(w.reshape(whole, common, [*common, one]))
    return (parts[0] if count == 1 else w.Concat(*parts, axis=rank)), rank


def _order(s: Site, common: int) -> tuple[list[int], list[int]]:
    """Axes of the operand with the indexed ones first; and of a result with the index's axes first, where these belong."""
    dims, rank = list(s.attr("dims")), s.rank()
    front = dims + [d for d in range(rank) if d not in dims]
    at = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    rest = list(range(common, common + rank - len(dims)))
    return front, rest[:at] + list(range(common)) + rest[at:]


def _moved(w: Writer, x: Ref, perm: list[int]) -> Ref:
    return x if perm == list(range(len(perm))) else w.Transpose(x, perm=perm)


def _advanced(w: Writer, s: Site) -> Result:
    dims = s.attr("dims")
    if len(dims) == 1:
        return w.Gather(s.x(0), _index(s), axis=dims[0])
    index, common = _stacked(w, s, 1)
    front, back = _order(s, common)
    return _moved(w, w.GatherND(_moved(w, s.x(0), front), index), back)


def _index_put(w: Writer, s: Site) -> Result:
    kind = _reduction(w, "add" if s.attr("accumulate") else "none")
    index, common = _stacked(w, s, 2)
    front, back = _order(s, common)
    x = _moved(w, s.x(0), front)
    like = _moved(w, w.GatherND(x, index), back)  # of the shape that the value is broadcast to
    value = _moved(w, w.Expand(s.x(1, s.dtype), w.Shape(like)), list(np.argsort(back)))
    return _moved(w, w.ScatterND(x, index, value, **kind), [int(i) for i in np.argsort(front)])


INDEXING: dict[str, Rule] = {
    "gather": _gather,
    "scatter": _scatter(),
    "scatter_add": _scatter("add"),
    "scatter_reduce": _scatter_reduce,
    "index_select": lambda w, s: w.Gather(s.x(0) if s.rank() else w.Reshape(s.x(0), w.ints([1])), _index(s), axis=s.attr("dim")),
    "index_add": _into_axis("add"),
    "index_copy": _into_axis("none"),
    "index": _advanced,
    "index_put": _index_put,
    "embedding": lambda w, s: w.Gather(s.x(0), _index(s), axis=0),
}


def _all_rules() -> dict[str, Rule]:
    named = {name: elementwise for name, op in TABLE.items() if op.kind is Kind.ELEMENTWISE and op.onnx}
    return named | FORMULAS | VIEWS | REDUCTIONS | INDEXING | NETWORKS


RULES: dict[str, Rule] = _all_rules()
