"""`rearrange`: axes moved, split and joined as a pattern of their names says, in the notation of einops."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence

import treadle
from treadle.tensor import Tensor

Group = list[str]  # the names of the axes that one dimension is made of, "1" for one of size 1, "..." for those that the dots stand for
DOTS = ["*"]  # not in brackets: as many dimensions


def rearrange(tensor: Tensor | Sequence[Tensor], pattern: str, **axes_lengths: int) -> Tensor:
    """`rearrange(x, "b (c k) ... -> b k ... c", k=3)`: the axes of the left side in the order of the right side.

    Names in parentheses share a dimension; `...` stands for any dimensions, 1 for one of size 1. A list of tensors is stacked along a
    new first axis. ValueError for a pattern that does not fit.
    """
    x = tensor if isinstance(tensor, Tensor) else treadle.stack(list(tensor))
    left, right = _sides(pattern)
    unknown = set(axes_lengths) - {name for group in left for name in group}
    if unknown:
        raise ValueError(f"rearrange: {pattern!r} has no axis {sorted(unknown)} on its left side")
    left, right = _spelt_out(left, right, x.dim(), pattern)
    sizes = _sizes(left, list(x.shape), axes_lengths, pattern)
    names = [name for group in left for name in group if name != "1"]
    wanted = [name for group in right for name in group if name != "1"]
    split = x.reshape([sizes[name] for name in names])
    moved = split.permute(*[names.index(name) for name in wanted]) if names else split
    return moved.reshape([math.prod(sizes[name] for name in group if name != "1") for group in right])


def _sides(pattern: str) -> tuple[list[Group], list[Group]]:
    if pattern.count("->") != 1:
        raise ValueError(f"rearrange: expected one '->' in the pattern, got {pattern!r}")
    left, right = (_groups(side, pattern) for side in pattern.split("->"))
    names = [["..." if group == DOTS else n for group in side for n in group if n != "1"] for side in (left, right)]
    for side in names:
        if len(set(side)) != len(side):
            raise ValueError(f"rearrange: an axis occurs twice on one side of {pattern!r}")
    if set(names[0]) != set(names[1]):
        raise ValueError(f"rearrange: identifiers only on one side of {pattern!r}: {sorted(set(names[0]) ^ set(names[1]))}")
    return left, right


def _groups(side: str, pattern: str) -> list[Group]:
    found: list[Group] = []
    rest = side.strip()
    while rest:
        part = re.match(r"\(([^()]*)\)|([^\s()]+)", rest)
        if part is None:
            raise ValueError(f"rearrange: brackets of {pattern!r} do not match")
        group = part[1].split() if part[2] is None else [part[2]]
        for name in group:
            if name not in ("...", "1") and not name.isidentifier():
                raise ValueError(f"rearrange: {name!r} in {pattern!r} is no axis")
        found.append(group if part[0] != "..." else DOTS)
        rest = rest[part.end():].strip()
    return found


def _spelt_out(left: list[Group], right: list[Group], dims: int, pattern: str) -> tuple[list[Group], list[Group]]:
    """The sides with a name for each dimension of the dots."""
    dots = DOTS in left
    if any("..." in group for group in left):
        raise ValueError(f"rearrange: dots within brackets on the left side of {pattern!r}")
    rest = dims - len(left) + dots
    if rest < 0 or (rest and not dots):
        raise ValueError(f"rearrange: {pattern!r} has {len(left) - dots} dimensions on its left side, the tensor has {dims}")
    names = [f"...{i}" for i in range(rest)]
    both = []
    for side in (left, right):
        full = [[m for n in group for m in (names if n == "..." else [n])] for group in side]
        both.append([g for group in full for g in ([[n] for n in names] if group == DOTS else [group])])
    return both[0], both[1]


def _sizes(left: list[Group], shape: list[int], given: dict[str, int], pattern: str) -> dict[str, int]:
    """The size of each axis; in each dimension one may be left to be found."""
    sizes: dict[str, int] = dict(given)
    for group, extent in zip(left, shape, strict=True):
        open_ones = [n for n in group if n != "1" and n not in given]
        known = math.prod(given[n] for n in group if n in given)
        if len(open_ones) > 1:
            raise ValueError(f"rearrange: cannot infer sizes of {open_ones} in {pattern!r}")
        if known == 0 or extent % known or (not open_ones and extent != known):
            raise ValueError(f"rearrange: a dimension of size {extent} cannot be {' * '.join(group) or '1'} in {pattern!r} with {given}")
        sizes.update({n: extent // known for n in open_ones})
    return sizes


__all__ = ["rearrange"]
