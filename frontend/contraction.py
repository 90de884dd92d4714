"""Einstein summation by pairwise contraction: every step is a permutation, a reshape and one matrix product."""
from __future__ import annotations

import math
import string
from functools import lru_cache
from typing import Any

import numpy as np

from treadle.functions import MUL, TABLE
from treadle.layout import AS_STRIDED, PERMUTE, RESHAPE, contiguous_strides
from treadle.tensor import Tensor, apply

SUM, MATMUL, EXPAND = TABLE["sum"], TABLE["matmul"], TABLE["expand"]

Labels = tuple[str, ...]
Operand = tuple[Tensor, Labels]


def _split(term: str) -> tuple[list[str], bool]:
    """A term's labels, with "..." as one of them, and whether it is there."""
    head, dots, tail = term.partition("...")
    for c in head + tail:
        if c not in string.ascii_letters:
            raise RuntimeError(f"einsum(): invalid subscript {c!r} in the equation's term {term!r}, subscripts must be in [a-zA-Z]")
    return [*head, *(["..."] if dots else []), *tail], bool(dots)


@lru_cache(maxsize=1024)
def parse(equation: str, ndims: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    """Labels of each operand and of the result; an ellipsis becomes labels of its own, aligned at the right.

    RuntimeError, in PyTorch's words, for equations that do not fit the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        more = "more" if len(terms) < len(ndims) else "fewer"
        raise RuntimeError(f"einsum(): {more} operands were provided than specified in the equation")
    split = [_split(t) for t in terms]
    extra = 0
    for i, ((labels, dots), ndim) in enumerate(zip(split, ndims, strict=True)):
        named = len(labels) - dots
        if named > ndim or (named != ndim and not dots):
            raise RuntimeError(f"einsum(): the number of subscripts in the equation ({named}) does not match the number of dimensions "
                               f"({ndim}) for operand {i} and no ellipsis was given" if not dots else
                               f"einsum(): the number of subscripts in the equation ({named}) is more than the number of dimensions "
                               f"({ndim}) for operand {i}")
        extra = max(extra, ndim - named if dots else 0)
    broad = [f".{i}" for i in range(extra)]

    def spell(labels: list[str], width: int) -> Labels:
        return tuple([c for label in labels for c in (broad[extra - width:] if label == "..." else [label])])
    operands = tuple([spell(labels, ndim - len(labels) + 1) for (labels, _), ndim in zip(split, ndims, strict=True)])
    if arrow:
        output = spell(_split(right)[0], extra)
    else:
        flat = [c for labels in operands for c in labels if not c.startswith(".")]
        output = (*broad, *sorted([c for c in set(flat) if flat.count(c) == 1]))
    for c in output:
        if output.count(c) > 1:
            raise RuntimeError(f"einsum(): output subscript {c} appears more than once in the output")
        if not any(c in labels for labels in operands):
            raise RuntimeError(f"einsum(): output subscript {c} does not appear in the equation for any input operand")
    return operands, output


def _sizes(operands: list[Operand]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for i, (x, labels) in enumerate(operands):
        for axis, (c, n) in enumerate(zip(labels, x._data.type.shape, strict=True)):
            known = sizes.get(c, 1)
            if known != 1 and n not in (1, known):
                raise RuntimeError(f"einsum(): subscript {c} has size {n} for operand {i} which does not broadcast with previously "
                                   f"seen size {known} (axis {axis})")
            sizes[c] = n if known == 1 else known
    return sizes


def _diagonals(x: Tensor, labels: Labels) -> Operand:
    """Repeated labels of one operand become one axis, its diagonal."""
    if len(set(labels)) == len(labels):
        return x, labels
    shape = x._data.type.shape
    strides: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for c, n, s in zip(labels, shape, contiguous_strides(shape), strict=True):
        if sizes.setdefault(c, n) != n:
            raise RuntimeError(f"einsum(): subscript {c} is repeated for one operand but the sizes don't match, {n} != {sizes[c]}")
        strides[c] = strides.get(c, 0) + s
    return apply(AS_STRIDED, (x,), (tuple(sizes.values()), tuple(strides.values()), 0)), tuple(sizes)


def _without_ones(operand: Operand, sizes: dict[str, int]) -> Operand:
    """Without axes of size 1 that broadcast against another operand."""
    x, labels = operand
    shape = x._data.type.shape
    keep = [i for i, (c, n) in enumerate(zip(labels, shape, strict=True)) if n == sizes[c]]
    if len(keep) == len(shape):
        return operand
    return apply(RESHAPE, (x,), (tuple([shape[i] for i in keep]),)), tuple([labels[i] for i in keep])


def _sum_out(operand: Operand, keep: set[str]) -> Operand:
    """Sum the axes nobody else needs."""
    x, labels = operand
    gone = tuple([i for i, c in enumerate(labels) if c not in keep])
    if not gone:
        return operand
    return apply(SUM, (x,), (gone, False, None)), tuple([c for c in labels if c in keep])


def _arrange(operand: Operand, groups: list[list[str]], sizes: dict[str, int], merge: list[bool]) -> Tensor:
    """Axes in the order of the groups; groups to be merged become one axis each."""
    x, labels = operand
    order = tuple([labels.index(c) for group in groups for c in group])
    if order != tuple(range(len(labels))):
        x = apply(PERMUTE, (x,), (order,))
    shape: list[int] = []
    for group, merged in zip(groups, merge, strict=True):
        each = [sizes[c] for c in group]
        shape += [math.prod(each)] if merged else each
    return x if x._data.type.shape == tuple(shape) else apply(RESHAPE, (x,), (tuple(shape),))


def _contract(a: Operand, b: Operand, keep: set[str], sizes: dict[str, int]) -> Operand:
    """The product of two operands, summed over what is not in `keep`."""
    a, b = _sum_out(a, keep | set(b[1])), _sum_out(b, keep | set(a[1]))
    both = [c for c in a[1] if c in b[1]]
    batch, summed = [c for c in both if c in keep], [c for c in both if c not in keep]
    rows, columns = [c for c in a[1] if c not in both], [c for c in b[1] if c not in both]
    labels = (*batch, *rows, *columns)
    if not summed or not (rows or columns):
        ones = (1,) * len(columns)
        x = _arrange(a, [batch, rows, summed], sizes, [False] * 3)
        y = _arrange(b, [batch, columns, summed], sizes, [False] * 3)
        if rows and columns:
            x = apply(RESHAPE, (x,), (x._data.type.shape + ones,))
            y = apply(RESHAPE, (y,), (tuple([sizes[c] for c in batch]) + (1,) * len(rows) + tuple([sizes[c] for c in columns]),))
        elif rows or columns:
            short = tuple([sizes[c] for c in batch]) + (1,) * len(rows or columns)
            x, y = (x, apply(RESHAPE, (y,), (short,))) if rows else (apply(RESHAPE, (x,), (short,)), y)
        return _sum_out((apply(MUL, (x, y)), (*labels, *summed)), set(labels))
    x = _arrange(a, [batch, rows, summed], sizes, [False, True, True])
    y = _arrange(b, [batch, summed, columns], sizes, [False, True, True])
    out = apply(MATMUL, (x, y))
    shape = tuple([sizes[c] for c in labels])
    return (out if out._data.type.shape == shape else apply(RESHAPE, (out,), (shape,))), labels


@lru_cache(maxsize=1024)
def _order(labels: tuple[Labels, ...], output: Labels, shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Which operands to contract, step by step: numpy's greedy path."""
    letters = {c: string.ascii_letters[i] for i, c in enumerate(dict.fromkeys([c for term in labels for c in term]))}
    spelled = ",".join(["".join([letters[c] for c in term]) for term in labels]) + "->" + "".join([letters[c] for c in output])
    arrays = [np.broadcast_to(np.float32(0), s) for s in shapes]
    path: Any = np.einsum_path(spelled, *arrays, optimize="greedy")[0]
    return tuple([tuple(step) for step in path[1:]])


def evaluate(equation: str, tensors: list[Tensor]) -> Tensor:
    """The value of an equation on tensors."""
    if not tensors:
        raise RuntimeError("einsum(): must provide at least one operand")
    labels, output = parse(equation, tuple([x._data.type.ndim for x in tensors]))
    operands = [_diagonals(x, term) for x, term in zip(tensors, labels, strict=True)]
    sizes = _sizes(operands)
    operands = [_without_ones(o, sizes) for o in operands]
    steps: Any = [(0, 1)] if len(operands) == 2 else []
    if len(operands) > 2:
        steps = _order(tuple([o[1] for o in operands]), output, tuple([o[0]._data.type.shape for o in operands]))
    for step in steps:
        chosen = [operands[i] for i in sorted(step)]
        operands = [o for i, o in enumerate(operands) if i not in step]
        while len(chosen) > 1:
            needed = set(output).union(*[o[1] for o in operands + chosen[2:]])
            chosen = [_contract(chosen[0], chosen[1], needed, sizes), *chosen[2:]]
        operands.append(chosen[0])
    return _finish(_sum_out(operands[0], set(output)), output, sizes, tensors)


def _finish(operand: Operand, output: Labels, sizes: dict[str, int], tensors: list[Tensor]) -> Tensor:
    x, labels = operand
    order = tuple([labels.index(c) for c in output])
    if order != tuple(range(len(order))):
        x = apply(PERMUTE, (x,), (order,))
    return apply(TABLE["copy"], (x,)) if any(x is t for t in tensors) else x
