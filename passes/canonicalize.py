"""Algebraic simplification: rules in one table, indexed by the op at the root. Every rule is exact to the bit unless it says so.

A rule is `(b, node, inputs) -> value or None`; `inputs` are values of the graph being built, already in simplest form.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.ir import dtypes
from treadle.ir.builder import Builder
from treadle.ir.dtypes import BOOL, FLOAT, INT, DType, complex32
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.ir.interpreter import evaluate
from treadle.ir.op import Kind
from treadle.ir.ops.reduce import reduced_shape
from treadle.passes.basic import dce
from treadle.passes.demand import on_host
from treadle.passes.index import suffix_strides
from treadle.passes.promote import Rule, uniform

Values = tuple[Value, ...]
_EXPONENT_BITS = {"bfloat16": (8, 8), "float16": (11, 5), "float32": (24, 8), "float64": (53, 11)}  # significand, exponent


def canonicalize(graph: Graph) -> Graph:
    def rule(b: Builder, node: Node, inputs: Values) -> Values | None:
        return None if len(node.outputs) != 1 else _simplest(b, node, inputs)
    return dce(rewrite(graph, rule, Builder()))  # without what rules made on the way


def _simplest(b: Builder, node: Node, inputs: Values) -> Values | None:
    """Apply rules to the node, and to what they make of it, until none applies."""
    found: Value | None = None
    for _ in range(16):
        value = _once(b, node, inputs)
        if value is None:
            break
        found = value
        if value.node.op is None or b.graph.nodes[-1] is not value.node:
            break
        node, inputs = value.node, value.node.inputs
    return None if found is None else (found,)


def _once(b: Builder, node: Node, inputs: Values) -> Value | None:
    assert node.op is not None
    if node.op.name in _REAL_ONLY and node.out.dtype.is_complex:
        return None
    for rule in RULES.get(node.op.name, ()):
        value = rule(b, node, inputs)
        if value is not None:
            return value
    return None


def fold(graph: Graph) -> Graph:
    """Elementwise ops on known numbers are computed now."""
    def rule(b: Builder, node: Node, inputs: Values) -> Values | None:
        if node.op is None or node.op.kind is not Kind.ELEMENTWISE or not isinstance(node.op.scalar, str) or not inputs:
            return None
        numbers = []
        for v in inputs:
            number = number_of(v)
            if number is None:
                return None
            numbers.append(number)
        if node.out.type.numel == 0 or on_host(node) or complex32 in [v.dtype for v in (node.out, *inputs)]:
            return None
        arrays = [np.asarray(n).astype(v.dtype.np) for n, v in zip(numbers, inputs, strict=True)]
        types = tuple([v.type.with_(shape=()) for v in inputs])
        try:
            with np.errstate(all="ignore"):
                result = evaluate(node.op, arrays, node.attrs, types, (node.out.type.with_(shape=()),))
        except (RuntimeError, ArithmeticError):
            return None  # the fault is reported when the program runs
        return (uniform(b, _python(result[0]), node.out.shape, node.out.dtype, node.out.type.device),)
    return rewrite(graph, rule, Builder())


def _python(array: np.ndarray) -> float | int | bool:
    if array.dtype == bool:
        return bool(array)
    return int(array) if array.dtype.kind in "iu" else float(array)


def source_of_uniform(value: Value) -> Value | None:
    """The 0-d value of which every element of `value` is a copy, or None."""
    node = value.node
    while node.op is not None and node.op.name in ("expand", "reshape", "permute") and value.shape:
        value = node.inputs[0]
        node = value.node
    return None if value.shape else value


def number_of(value: Value) -> float | int | bool | None:
    """The number that every element of `value` is known to be."""
    found = source_of_uniform(value)
    if found is None or found.node.op is None or found.node.op.name != "full":
        return None
    number = found.node.inputs[0].node
    return number.attrs[0] if number.op is not None and number.op.name == "constant" else None


def lossless(source: DType, to: DType) -> bool:
    """Whether every value of `source` is one of `to`."""
    if source is to or source.category == BOOL:
        return True
    if to.is_complex or source.is_complex:
        return False
    if source.category == INT:
        bits = source.itemsize * 8 - source.signed
        if to.category == FLOAT:
            return bits <= _EXPONENT_BITS[to.name][0] and to is not dtypes.float16
        return to.category == INT and (to.signed or not source.signed) and bits <= to.itemsize * 8 - to.signed
    if to.category != FLOAT:
        return False
    return all(a <= c for a, c in zip(_EXPONENT_BITS[source.name], _EXPONENT_BITS[to.name], strict=True))


def _made_by(value: Value, name: str) -> bool:
    return value.node.op is not None and value.node.op.name == name


def _fits(node: Node, value: Value) -> Value | None:
    """`value` as the whole result, if it has the result's type."""
    return value if value.shape == node.out.shape and value.dtype is node.out.dtype else None


def _drop(number: float, *, left: bool = False, unless_float: bool = False) -> Rule:
    """x op number -> x (and number op x with `left`)."""
    def rule(b: Any, node: Node, inputs: Values) -> Value | None:
        if unless_float and node.out.dtype.category >= FLOAT:  # -0.0 + 0 is 0
            return None
        if number_of(inputs[1]) == number:
            return _fits(node, inputs[0])
        return _fits(node, inputs[1]) if left and number_of(inputs[0]) == number else None
    return rule


def _twice(b: Any, node: Node, inputs: Values) -> Value | None:
    """An involution applied twice."""
    assert node.op is not None
    return inputs[0].node.inputs[0] if _made_by(inputs[0], node.op.name) else None


def _add_negated(b: Any, node: Node, inputs: Values) -> Value | None:
    if _made_by(inputs[1], "neg"):
        return b.sub(inputs[0], inputs[1].node.inputs[0])
    return b.sub(inputs[1], inputs[0].node.inputs[0]) if _made_by(inputs[0], "neg") else None


def _sub_negated(b: Any, node: Node, inputs: Values) -> Value | None:
    return b.add(inputs[0], inputs[1].node.inputs[0]) if _made_by(inputs[1], "neg") else None


def _power(b: Any, node: Node, inputs: Values) -> Value | None:
    """Small exponents, as PyTorch computes them."""
    x, exponent = inputs[0], number_of(inputs[1])
    if exponent is None or x.shape != node.out.shape:
        return None
    if exponent == 2:
        return b.mul(x, x)
    if exponent == 3:
        return b.mul(b.mul(x, x), x)
    if exponent == 1:
        return x
    if x.dtype.category != FLOAT:
        return None
    return {0.5: b.sqrt, -0.5: b.rsqrt, -1: b.reciprocal}[exponent](x) if exponent in (0.5, -0.5, -1) else None


def _cast(b: Any, node: Node, inputs: Values) -> Value | None:
    x = inputs[0]
    if x.dtype is node.out.dtype and not x.type.weak:
        return x
    if _made_by(x, "cast") and lossless(x.node.inputs[0].dtype, x.dtype):
        return b.cast(x.node.inputs[0], node.out.dtype)
    return None


def _where(b: Any, node: Node, inputs: Values) -> Value | None:
    condition = number_of(inputs[0])
    chosen = inputs[1] if condition else inputs[2]
    if condition is None and inputs[1] is not inputs[2]:
        return None
    return chosen if chosen.shape == node.out.shape else b.expand(chosen, node.out.shape)


# -- views -------------------------------------------------------------------------------------------------------------
def _same_shape(b: Any, node: Node, inputs: Values) -> Value | None:
    return inputs[0] if inputs[0].shape == node.out.shape else None


def _of_uniform(b: Any, node: Node, inputs: Values) -> Value | None:
    """Any view of copies of one element is copies of that element."""
    if not _made_by(inputs[0], "expand") or inputs[0].node.inputs[0].shape:
        return None
    source = inputs[0].node.inputs[0]
    return b.expand(source, node.out.shape) if node.out.shape else source


def _reshape_reshape(b: Any, node: Node, inputs: Values) -> Value | None:
    return b.reshape(inputs[0].node.inputs[0], node.out.shape) if _made_by(inputs[0], "reshape") else None


def _permute(b: Any, node: Node, inputs: Values) -> Value | None:
    x, dims = inputs[0], node.attr("dims")
    moved = [d for d in dims if x.shape[d] != 1]
    if moved == sorted(moved):
        return x if x.shape == node.out.shape else b.reshape(x, node.out.shape)
    if _made_by(x, "permute"):
        inner = x.node.attr("dims")
        return b.permute(x.node.inputs[0], tuple([inner[d] for d in dims]))
    return None


def _expand_expand(b: Any, node: Node, inputs: Values) -> Value | None:
    return b.expand(inputs[0].node.inputs[0], node.out.shape) if _made_by(inputs[0], "expand") else None


def _slice_slice(b: Any, node: Node, inputs: Values) -> Value | None:
    x = inputs[0]
    if not _made_by(x, "slice"):
        return None
    starts, steps = x.node.attr("starts"), x.node.attr("steps")
    begin = tuple([s + a * t for s, t, a in zip(starts, steps, node.attr("starts"), strict=True)])
    step = tuple([t * u for t, u in zip(steps, node.attr("steps"), strict=True)])
    stop = tuple([a + (n - 1) * t + 1 if n else a for a, n, t in zip(begin, node.out.shape, step, strict=True)])
    return b.slice(x.node.inputs[0], begin, stop, step)


def _flip(b: Any, node: Node, inputs: Values) -> Value | None:
    return inputs[0] if all(inputs[0].shape[d] <= 1 for d in node.attr("dims")) else None


def _flip_flip(b: Any, node: Node, inputs: Values) -> Value | None:
    return _twice(b, node, inputs) if _made_by(inputs[0], "flip") and inputs[0].node.attrs == node.attrs else None


def _strided_contiguous(b: Any, node: Node, inputs: Values) -> Value | None:
    shape, strides, offset = node.attrs
    whole = inputs[0].type.numel == node.out.type.numel and offset == 0
    plain = all(n == 1 or s == t for n, s, t in zip(shape, strides, suffix_strides(shape), strict=True))
    return b.reshape(inputs[0], shape) if whole and plain else None


# -- reductions and joins ------------------------------------------------------------------------------------------------
_IDENTITY = {"sum": 0, "prod": 1, "any": False, "all": True}


def _reduce_nothing(b: Any, node: Node, inputs: Values) -> Value | None:
    """Reductions over no element, or one."""
    x, out = inputs[0], node.out
    assert node.op is not None
    if x.type.numel == 0 and out.type.numel and node.op.name in _IDENTITY:
        return uniform(b, _IDENTITY[node.op.name], out.shape, out.dtype, out.type.device)
    if any(x.shape[d] != 1 for d in node.attr("dims")) or x.dtype is not out.dtype:
        return None
    return b.reshape(x, out.shape)


def _index_of_one(b: Any, node: Node, inputs: Values) -> Value | None:
    x, dim = inputs[0], node.attr("dim")
    if x.shape and x.shape[dim] != 1:
        return None
    return uniform(b, 0, node.out.shape, dtypes.int64, node.out.type.device)


def _reduce_expanded(b: Any, node: Node, inputs: Values) -> Value | None:
    """Copies made by an expand are counted, not summed (a sum differs in rounding only)."""
    x, dims = inputs[0], node.attr("dims")
    assert node.op is not None
    if not _made_by(x, "expand") or x.type.numel == 0 or node.op.name == "prod":
        return None
    source = x.node.inputs[0]
    lead = len(x.shape) - len(source.shape)
    wide = (1,) * lead + source.shape
    copied = [d for d in dims if wide[d] == 1 and x.shape[d] != 1]
    if not copied:
        return None
    rest = tuple([d for d in dims if d not in copied])
    value = source if not lead else b.reshape(source, wide)
    if rest:
        value = getattr(b, node.op.name)(value, rest, True, *([node.out.dtype] if node.op.name == "sum" else []))
    kept = reduced_shape(x.shape, dims, True)
    if value.shape != kept:
        value = b.expand(value, kept)
    if node.op.name == "sum":
        count = math.prod(x.shape[d] for d in copied)
        value = b.mul(value, b.full(count, (), node.out.dtype, x.type.device))
    return value if node.out.shape == kept else b.reshape(value, node.out.shape)


def _cat(b: Any, node: Node, inputs: Values) -> Value | None:
    filled = [v for v in inputs if v.type.numel]
    if len(filled) == len(inputs) > 1 or not filled:
        return None
    return filled[0] if len(filled) == 1 else b.apply(node.op, tuple(filled), node.attrs)


def _pad(b: Any, node: Node, inputs: Values) -> Value | None:
    x, value = inputs
    if x.shape == node.out.shape:
        return x
    return b.expand(value, node.out.shape) if x.type.numel == 0 and not value.type.weak and value.shape == () else None


def _slice_scatter(b: Any, node: Node, inputs: Values) -> Value | None:
    x, y = inputs
    if y.type.numel == 0:
        return x
    return y if y.shape == x.shape and y.dtype is x.dtype else None


_VIEW_RULES: tuple[Rule, ...] = (_same_shape, _of_uniform)
_REDUCE_RULES: tuple[Rule, ...] = (_reduce_nothing, _reduce_expanded)

_REAL_ONLY = frozenset({"add", "sub", "mul", "div", "pow"})  # inf + 0i times 1 + 0i has the imaginary part NaN

RULES: dict[str, tuple[Callable[[Any, Node, Values], Value | None], ...]] = {
    "add": (_drop(0, left=True, unless_float=True), _add_negated),
    "sub": (_drop(0), _sub_negated),
    "mul": (_drop(1, left=True),),
    "div": (_drop(1),),
    "pow": (_power,),
    "neg": (_twice,),
    "logical_not": (_twice,),
    "cast": (_cast,),
    "where": (_where,),
    "reshape": (*_VIEW_RULES, _reshape_reshape),
    "permute": (_of_uniform, _permute),
    "expand": (_same_shape, _expand_expand),
    "slice": (*_VIEW_RULES, _slice_slice),
    "flip": (_of_uniform, _flip, _flip_flip),
    "as_strided": (_of_uniform, _strided_contiguous),
    **{name: _REDUCE_RULES for name in ("sum", "prod", "amax", "amin", "any", "all")},
    "argmax": (_index_of_one,), "argmin": (_index_of_one,),
    "cat": (_cat,), "pad": (_pad,), "slice_scatter": (_slice_scatter,),
}
