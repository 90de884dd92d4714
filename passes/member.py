"""A graph with another size in it, followed through its ops.

An axis of an input changes, and with it what the type rules say. Where types do not go together, something else has that size too: another
input, or what makes, repeats or cuts out something; it is changed as well, until all goes together (`treadle.passes.imagine`).
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from math import gcd, isqrt, prod
from typing import Any, TypeVar

from treadle.ir import op as op_table
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.interpreter import decomposed
from treadle.ir.op import EXTENTS, Kind, Op, result_types
from treadle.ir.types import Shape, TensorType, tensor_type
from treadle.passes.family import FEW
from treadle.passes.index import suffix_strides

HALVES = 16         # sizes are imagined that are the same modulo this
MOST_CHANGES = 30   # beside the data
MOST_VISITS = 3     # of an op, on average

CONVOLUTION, CONVOLUTION_INPUT = op_table.get("convolution"), op_table.get("convolution_input")
_WINDOWS = "size kernel stride padding dilation".split()

Attrs = tuple[Any, ...]
T = TypeVar("T")


class Member:
    """The graph again, where a size of the data has `become` another. `inputs`: axes of inputs that have changed; `made`: nodes that make,
    repeat or cut out something, with sizes, what they have become and in how many places; `types` and `attrs` that follow from that."""

    def __init__(self, graph: Graph, weights: set[Value], axes: int, least: int, changed: Sequence[tuple[int, int]] = ()) -> None:
        self.graph, self.weights = graph, weights
        self.loss = any([o.type.shape == () and not o.type.weak for node in graph.nodes for o in node.outputs])
        self.places = {node: i for i, node in enumerate(graph.nodes)}
        self.users = {v: i for i, node in reversed(list(enumerate(graph.nodes))) for v in node.inputs}  # the first ones
        self.left = 0                   # visits of ops
        self.axes = axes                # so many leading axes of inputs may have the size
        self.least, self.changed = least, changed
        self.become: dict[int, int] = {}
        self.inputs: dict[Value, dict[int, int]] = {}
        self.made: dict[Node, dict[int, tuple[int, int]]] = {}
        self.types: dict[Value, TensorType] = {}
        self.attrs: dict[Node, Attrs] = {}
        self.open: set[tuple] = set()   # what is made, by lines, that may have the size in several places
        self.last: set[tuple] = set()   # they have it in the last one
        self.seen: dict[int, int] = {}  # sizes of results, and what they became first

    # -- what changes ------------------------------------------------------------------------------------------------
    def change(self, start: Value, axis: int, size: int = 0) -> bool:
        """Change this axis, to that size if any, and what has to change with it, until all goes together; if it does not, all stays as it
        was."""
        if axis in self.inputs.get(start, ()):
            return True
        before = self.become, self.inputs, self.made, self.types, self.attrs, self.seen
        given = start.type.shape[axis]
        if not self.become:
            taken = {*self.numbers(), *[given + m - n for n, m in self.changed]}  # no neighbour of another one
            self.become = {given: size or _unlike(given, self.least, taken)}
        self.inputs, self.made = dict(self.inputs), dict(self.made)
        self.types, self.attrs, self.seen = dict(self.types), dict(self.attrs), dict(self.seen)
        self.left = MOST_VISITS * len(self.graph.nodes)
        if self._settle(self._change_input(start, axis, self.become[given])):
            return True
        self.become, self.inputs, self.made, self.types, self.attrs, self.seen = before
        return False

    def _settle(self, start: int) -> bool:
        for _ in range(MOST_CHANGES):
            self.types = {v: t for v, t in self.types.items() if self.places.get(v.node, -1) < start}
            self.attrs = {n: a for n, a in self.attrs.items() if self.places[n] < start}
            stuck = next((node for node in self.graph.nodes[start:] if not self._follow(node)), None)
            if stuck is None:
                return True
            found = self._mend(stuck)
            if found is None or self.left <= 0:
                return False
            start = found
        return False

    def _mend(self, stuck: Node) -> int | None:
        """Change something else for an op that does not go together; the first place where that matters. What has not changed at all comes
        first; then other places for a batch, and for a length what has the batch."""
        found = self._change_more(stuck, False)
        if found is None and (self.axes == 1 or 1 in self.become):
            found = self._place_otherwise(stuck)
        return self._change_more(stuck, True) if found is None else found

    def _change_input(self, value: Value, axis: int, new: int) -> int:
        """The first place where that matters."""
        axes = self.inputs[value] = {**self.inputs.get(value, {}), axis: new}
        shape = tuple([axes.get(i, n) for i, n in enumerate(value.type.shape)])
        self.types[value] = tensor_type(shape, value.type.dtype, value.type.device, value.type.weak)
        return self.users[value]

    def _change_more(self, stuck: Node, again: bool) -> int | None:
        """Change what an op is computed from and has a size that became another: an input, or what makes, repeats or cuts out something,
        and all that is made alike. `again`: also what has changed in some way already."""
        local: dict[int, int] = {}
        for v in stuck.inputs:
            for n, m in zip(v.type.shape, self._shape(v), strict=True):
                if n != m and self.become.get(n) != m:
                    local[n] = max(m, local.get(n, 0))
        for become in (local | self.become, self.become | local, *[self.seen] * (self.axes > 1)):
            waiting, seen = [*reversed(stuck.inputs)], set()
            while waiting:
                value = waiting.pop()
                sizes = [n for n, m in zip(value.type.shape, self._shape(value), strict=True) if become.get(n, m) != m]
                if value in seen or (value in self.types and not (again and sizes)):
                    continue
                seen.add(value)
                for n in sizes:
                    found = self._change_source(value, n, become[n])
                    if found is not None:
                        return found
                waiting += reversed(value.node.inputs)
        return None

    def _change_source(self, value: Value, n: int, m: int) -> int | None:
        """Let an axis of n become m, of an input or of what a node makes; the first place where that matters, None if there is none."""
        node = value.node
        if node.op is None:
            changed = self.inputs.get(value, {})
            axis = next((i for i, k in enumerate(value.type.shape[:self.axes]) if k == n and changed.get(i) != m), None)
            if axis is None or value in self.weights or not (n > 1 or self.loss):
                return None
            return self._change_input(value, axis, m)
        places = self._makes(node, n)
        if len(places) <= self.made.get(node, {}).get(n, (0, 0))[1]:
            return None
        if n == 1 and node.op.name == "expand" and self._has_source(node.inputs[0], False):
            return None  # rather that
        more = 2 if self.axes > 1 and value.type.shape == (1, 1) and len(places) == 2 else 1  # a mask of one word has both axes
        alike = [k for k in self.graph.nodes if k.op is node.op and k.attrs == node.attrs and k.out.type == value.type]
        for k in alike:
            sizes = self.made.get(k, {})
            self.made[k] = {**sizes, n: (m, sizes.get(n, (0, 0))[1] + more)}
        return self.places[alike[0]]

    def _place_otherwise(self, stuck: Node) -> int | None:
        """Put the size in another place where that was open, for what is nearest to an op that does not go together, and all like it."""
        waiting, seen = [*stuck.inputs], set()
        for value in waiting:
            node = value.node
            if node.op is None or node in seen:
                continue
            seen.add(node)
            key = _key(node)
            if key in self.open and key not in self.last:
                self.last.add(key)
                return next(i for i, n in enumerate(self.graph.nodes) if _key(n) == key)
            waiting += node.inputs
        return None

    def _in_order(self, node: Node, places: list[T]) -> list[T]:
        """Places that may have the size: the first one has it, or the last one if the first would not go together."""
        key = _key(node)
        if len(places) > 1:
            self.open.add(key)
        return places[::-1] if key in self.last else places

    def _steps_last(self, axes: list[int]) -> list[int]:
        """Axes in the order in which they are likely to have the size: samples come before steps."""
        return axes if self.axes == 1 else axes[::-1]

    def _makes(self, node: Node, size: int) -> list[int]:
        """The axes to which an op itself gives a size: it makes something, repeats an axis, or cuts so much out of one."""
        assert node.op is not None
        attrs = dict(zip(node.op.attrs, node.attrs, strict=True))
        shape = node.outputs[0].type.shape
        given = node.inputs[0].type.shape if node.inputs else ()
        if node.op.name == "expand":
            before = (1,) * (len(shape) - len(given)) + given
            return [i for i, (n, k) in enumerate(zip(shape, before, strict=True)) if n == size and k == 1]
        if node.op.name == "slice":
            table = self.axes > 1 and node.inputs[0].node.op is None  # of positions, say
            cut = enumerate(zip(shape, given, attrs["starts"], attrs["steps"], strict=True))
            return [i for i, (n, k, start, step) in cut if n == size and step == 1 and (n > 1 or (start == 0 and table))
                    and (n != k or (shape == given and n > 1 and table))]  # all of it is recorded only of what is cut
        if node.op.name == "adaptive_sum_pool":  # a gradient is given the size of what was pooled
            return [i for i, n in enumerate(shape) if n == size and i >= len(shape) - len(attrs["size"])]
        if ("shape" not in attrs and "size" not in attrs) or any([v.type.shape and not v.type.weak for v in node.inputs]):
            return []
        found = [i for i, n in enumerate(shape) if n == size]
        # Samples come second in what a layer keeps, (layers, samples, features).
        return found[::-1] if len(shape) == 3 and found == [0, 1] else found

    # -- what follows ------------------------------------------------------------------------------------------------
    def _shape(self, value: Value) -> Shape:
        return self.types.get(value, value.type).shape

    def numbers(self) -> list[int]:
        found: list[int] = []
        for value in self.graph.inputs:
            found += self._shape(value)
        for node in self.graph.nodes:
            assert node.op is not None
            for name, attr in zip(node.op.attrs, self.attrs.get(node, node.attrs), strict=True):
                if name in EXTENTS:
                    found += _integers(attr)
            for value in node.outputs:
                found += self._shape(value)
        return found

    def _follow(self, node: Node) -> bool:
        """Find the attributes under which the op goes together with its operands; False if there are none."""
        if node not in self.made and not any([v in self.types for v in node.inputs]):
            return True
        assert node.op is not None
        self.left -= 1
        operands = tuple([self.types.get(v, v.type) for v in node.inputs])
        for attrs in self._attributes(node, operands):
            try:
                found = _checked_types(node.op, operands, attrs)
            except (IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
                continue
            if all([len(a.shape) == len(o.type.shape) and a.dtype is o.type.dtype for a, o in zip(found, node.outputs, strict=True)]) \
                    and _as_whole(node, operands, attrs):
                if (1 in self.become or 1 in self.seen) and self._repeats(node, found[0].shape):
                    return False
                self.attrs[node] = attrs
                self._note(node, found)
                return True
        return False

    def _note(self, node: Node, found: Sequence[TensorType]) -> None:
        for value, type in zip(node.outputs, found, strict=True):
            if type.shape != value.type.shape:
                self.types[value] = type
                for n, m in zip(value.type.shape, type.shape, strict=True):
                    if n != m:
                        self.seen.setdefault(n, m)

    def _repeats(self, node: Node, shape: Shape) -> bool:
        """Whether what had the shape of something that has changed would be repeated: a single label for many samples. For a length also
        what was made with an axis that the result, which has this shape now, has longer: the mask of a single word, say."""
        assert node.op is not None
        if node.op.name == "gather":
            return node.inputs[0] in self.types and self._has_source(node.inputs[1], True)
        if node.op.kind not in (Kind.ELEMENTWISE, Kind.COMPOSITE):
            return False
        changed = {v.type.shape for v in node.inputs if v in self.types}
        single = [v for v in node.inputs if v not in self.types and v.type.shape in changed][:1]
        if self.axes > 1:
            axes = [i for i, n in enumerate(reversed(node.out.type.shape)) if n == 1 != shape[-1 - i]]
            single += [v for v in node.inputs if v not in self.types and any([v.type.shape[::-1][i:i + 1] == (1,) for i in axes])]
        return any([self._has_source(v, True) for v in single])

    def _has_source(self, value: Value, made: bool) -> bool:
        """Whether it could have changed with an input of a single sample, or something that is made."""
        waiting, seen = [value], set()
        while waiting:
            v = waiting.pop()
            if v in seen or v in self.types:
                continue
            seen.add(v)
            if v.node.op is None:
                if 1 in v.type.shape[:self.axes] and self.loss and v not in self.weights:
                    return True
            elif made and self._makes(v.node, 1):
                return True
            waiting += v.node.inputs
        return False

    # -- attributes --------------------------------------------------------------------------------------------------
    def _attributes(self, node: Node, operands: tuple[TensorType, ...]) -> Iterator[Attrs]:
        """First what is likely: sizes and places along an axis follow it. Then with sizes changed wherever they stand, and as it was."""
        assert node.op is not None
        extents = [name in EXTENTS for name in node.op.attrs]
        if not any(extents):
            yield node.attrs
        elif node in self.made:
            yield self._made(node, operands)
        else:
            if "shape" in node.op.attrs and "stride" in node.op.attrs and node.op.name != "convolution_weight":
                yield self._wide(node, operands[0].shape)
            if "kernel" in node.op.attrs and operands[0].shape[2:] != node.inputs[0].type.shape[2:]:  # of pooling, and its gradient
                yield _pooled(node, operands[0].shape) if "shape" not in node.op.attrs else self._changed(node, extents)
            yield self._along(node, operands)
            if 1 not in self.become:
                yield tuple([_each(a, self._multiple) if e else a for e, a in zip(extents, node.attrs, strict=True)])
            yield self._changed(node, extents)
            yield node.attrs

    def _changed(self, node: Node, extents: list[bool]) -> Attrs:
        """With sizes as results that had them have changed first."""
        return tuple([_each(a, lambda n: self.seen.get(n, n)) if e else a for e, a in zip(extents, node.attrs, strict=True)])

    def _wide(self, node: Node, new: Shape) -> Attrs:
        """Of gradients of data (N, C, ...) from those of a result, of the shape `new`: channels stay, however many."""
        assert node.op is not None
        attrs = dict(zip(node.op.attrs, node.attrs, strict=True))
        shape = attrs["shape"]
        attrs["shape"] = (new[0], *shape[1:])
        if self.axes > 1:
            attrs["shape"] = (*attrs["shape"][:2], *[self.seen.get(n, n) for n in shape[2:]])
            if "size" in attrs:
                attrs["size"] = tuple([self.seen.get(n, n) for n in attrs["size"]])
        return tuple(attrs.values())

    def _made(self, node: Node, operands: tuple[TensorType, ...]) -> Attrs:
        """Of what is made, repeated or cut out with sizes that have changed."""
        assert node.op is not None
        attrs = dict(zip(node.op.attrs, self._along(node, operands), strict=True))
        for n, (m, times) in self.made[node].items():
            places = self._in_order(node, self._steps_last(self._makes(node, n)) if n == 1 else self._makes(node, n))
            for axis in places[:times]:
                if attrs.get("size").__class__ is int:
                    attrs["size"] = m
                    continue
                if "size" in attrs:
                    at = axis - (len(node.out.type.shape) - len(attrs["size"]))
                    attrs["size"] = (*attrs["size"][:at], m, *attrs["size"][at + 1:])
                    continue
                name = "stops" if "stops" in attrs else "shape"
                start = attrs["starts"][axis] if name == "stops" else 0
                attrs[name] = (*attrs[name][:axis], start + m, *attrs[name][axis + 1:])
        return tuple(attrs.values())

    def _along(self, node: Node, operands: tuple[TensorType, ...]) -> Attrs:
        """With sizes of, and places along, axes of the first operand as these have changed."""
        assert node.op is not None
        old = node.inputs[0].type.shape if operands else ()
        new = operands[0].shape if operands else ()
        if node.op.name == "reshape":
            return (self._regrouped(node, old, new),)
        if node.op.name.startswith("as_strided"):
            return _restrided(old, new, *node.attrs)
        moved = tuple([self._moved(old, new, a, name == "stops") if name in EXTENTS and a.__class__ is tuple else a
                       for name, a in zip(node.op.attrs, node.attrs, strict=True)])
        if node.op.name not in ("slice", "slice_scatter"):
            return moved
        starts, stops, steps = moved
        cut = node.inputs[-1].type.shape if node.op.name == "slice_scatter" else node.out.type.shape
        now = operands[-1].shape if node.op.name == "slice_scatter" else cut
        if cut == old and (self.axes > 1 or old.count(1) == 1):  # all that there is is recorded only of what takes a single place
            starts = tuple([m - 1 if n == k == 1 != m else lo for lo, n, m, k in zip(starts, old, new, now, strict=True)])
        if node.op.name == "slice":
            return starts, stops, steps
        part = zip(starts, stops, steps, node.inputs[1].type.shape, operands[1].shape, strict=True)
        return starts, tuple([lo + m if n != m and step == 1 else hi for lo, hi, step, n, m in part]), steps

    def _moved(self, old: Shape, new: Shape, places: tuple[int, ...], stops: bool) -> tuple[int, ...]:
        """Places along the last axes of a shape, or all of them, that has become another."""
        lead = len(places) - len(old)
        if lead < 0:
            return places
        axes = zip(places[lead:], old, new, strict=True)
        return (*places[:lead], *[p if n == m else self._moved_place(n, m, p, stops) for p, n, m in axes])

    def _moved_place(self, n: int, m: int, place: int, stops: bool) -> int:
        """A place along an axis of n that has become m: that of a part of several equal ones, or else so far from the nearer end."""
        for size, other in self.become.items():
            if size > 1 and n % size == 0 and m == n // size * other and place % size == 0:
                return place // size * other
        before_last = stops and n == 2 and self.axes > 1  # the first of two words is all but one
        return place + m - n if place * 2 > n or before_last else place

    def _multiple(self, n: int) -> int:
        found = self.become.get(n)
        return next((n // s * m for s, m in self.become.items() if n and n % s == 0), n) if found is None else found

    def _regrouped(self, node: Node, old: Shape, new: Shape) -> Shape:
        """The shape that a reshape of `old` has, for `new`: axes that are joined or split change together."""
        shape: Shape = node.attrs[0]
        squeezed = self._squeezed(node, old, new) if 1 in self.become or 1 in self.seen else None
        if squeezed is not None:
            return squeezed
        found: list[int] = []
        i = j = 0
        while i < len(old) or j < len(shape):
            start, first = i, j
            while i == start or j == first or prod(old[start:i]) != prod(shape[first:j]):
                if i < len(old) and (i == start or j == len(shape) or prod(old[start:i]) < prod(shape[first:j])):
                    i += 1
                elif j < len(shape):
                    j += 1
                else:
                    break
            if shape[j:j + 1] != (1,) or _key(node) in self.last:
                while i < len(old) and old[i] == 1 != new[i]:  # samples of a step are rows, not features
                    i += 1
            found += self._group(old[start:i], new[start:i], shape[first:j])
        return tuple(found)

    def _group(self, old: Shape, new: Shape, axes: Shape) -> Shape:
        """Axes that are the axes `old` joined or split, when these have become `new`."""
        if old == new:
            return axes
        whole = prod(new)
        for known in (self.become, self.seen):
            found = [known.get(n, n) for n in axes]
            if prod(found) == whole:
                return tuple(found)
        found = list(axes)
        for n, m in zip(old, new, strict=True):
            if n != m and n:
                fits = [k for k, a in enumerate(found) if a % n == 0 and a == axes[k]] or [k for k, a in enumerate(found) if a * m % n == 0]
                if fits:
                    found[fits[0]] = found[fits[0]] * m // n
        return tuple(found) if prod(found) == whole else axes

    def _squeezed(self, node: Node, old: Shape, new: Shape) -> Shape | None:
        """The shape of a reshape of `old` that has other axes of 1, where that has become `new`; None if it is another one, or what has
        changed is gone. Rows that were one sample's are again so many of each sample, if there is an axis for samples."""
        shape: Shape = node.attrs[0]
        if [n for n in old if n != 1] != [n for n in shape if n != 1]:
            return None
        found = list(shape)
        for i, (n, m) in enumerate(zip(old, new, strict=True)):
            if n == m:
                continue
            before = sum([k != 1 for k in old[:i]])  # axes of other sizes
            places = [j for j, k in enumerate(shape) if k == n and sum([s != 1 for s in shape[:j]]) == before]
            joined = [None] if n == 1 and i and len(shape) < len(old) else []
            at = next(iter(self._in_order(node, [*self._steps_last(places), *joined])), None)
            if at is None:
                return None
            one = self.become.get(1) or self.seen[1]
            ones = [k for k in (at - 1, at + 1) if shape[max(k, 0):k + 1] == (1,)]
            if n != 1 and m % one == 0 and ones:
                where = self._steps_last(ones)[0]
                found[where], m = one, m // one
            found[at] = m
        return tuple(found)


def _key(node: Node) -> tuple[Any, ...]:
    """What nodes have in common that make alike things at the same line."""
    return node.op, node.loc, node.attrs


def _checked_types(op: Op, operands: tuple[TensorType, ...], attrs: Attrs) -> tuple[TensorType, ...]:
    """The types of results. What an op is made of may ask for more than its type rule, which trusts that gradients have their shapes."""
    found = result_types(op, operands, attrs)
    if op.decompose is not None:
        parts = decomposed(op, operands, attrs).outputs
        if [v.type.shape for v in parts] != [t.shape for t in found]:
            raise ValueError(op.name)
    return found


def _as_whole(node: Node, operands: tuple[TensorType, ...], attrs: Attrs) -> bool:
    """Whether the gradient that a gradient of a convolution is made from is still that of its whole result, if it was; for that of a
    pooling, whether all has as many windows."""
    assert node.op is not None
    if "kernel" in node.op.attrs and "shape" in node.op.attrs:
        size = attrs[node.op.attrs.index("size")]
        return all([v.shape[-len(size):] == size for v in operands])
    if node.op.name not in ("convolution_input", "convolution_weight"):
        return True

    def whole(a: TensorType, b: TensorType, attrs: Attrs) -> bool:
        x, w, y = (a.with_(attrs[0]), b, a) if node.op is CONVOLUTION_INPUT else (a, b.with_(attrs[0]), b)
        return result_types(CONVOLUTION, (x, w), attrs[1:])[0].shape == y.shape
    return whole(operands[0], operands[1], attrs) or not whole(node.inputs[0].type, node.inputs[1].type, node.attrs)


def _unlike(size: int, least: int, numbers: set[int]) -> int:
    """A prime from the size on that is none of the numbers, or a power of 2 times a prime: what is halved leaves what it left."""
    times = gcd(size, HALVES) if size > FEW else 1
    primes = (n for n in count(max(size, least) // times) if n > 1 and all(n % d for d in range(2, isqrt(n) + 1)))
    return next(n * times for n in primes if n * times not in numbers and (size <= FEW or (n * times - size) % HALVES == 0))


def _restrided(old: Shape, new: Shape, shape: Shape, strides: tuple[int, ...], offset: int) -> Attrs:
    """Axes of memory of the shape `old`, which has become `new`."""
    axes = {(n, s): (m, t) for n, s, m, t in zip(old, suffix_strides(old), new, suffix_strides(new), strict=True)}
    steps = {s: t for (_, s), (_, t) in axes.items()}
    found = [axes.get((n, s), (n, steps.get(s, s))) for n, s in zip(shape, strides, strict=True)]
    return tuple([n for n, _ in found]), tuple([s for _, s in found]), offset


def _pooled(node: Node, new: Shape) -> Attrs:
    """Of windows that move over the last axes: there are as many more as fit."""
    assert node.op is not None
    attrs = dict(zip(node.op.attrs, node.attrs, strict=True))
    rank = len(attrs["kernel"])
    old, sizes = node.inputs[0].type.shape[-rank:], []
    for n, m, size, k, step, pad, apart in zip(old, new[-rank:], *[attrs[name] for name in _WINDOWS], strict=True):
        span = apart * (k - 1) + 1 - 2 * pad
        last = (n - span) // step + 1 == size  # only whole ones
        sizes.append((m - span) // step + 1 if last else -(-(m - span) // step) + 1)
    return tuple((attrs | {"size": tuple(sizes)}).values())


def _each(attr: Any, change: Any) -> Any:
    if attr.__class__ is tuple:
        return tuple([_each(a, change) for a in attr])
    return change(attr) if attr.__class__ is int else attr


def _integers(attr: Any) -> list[int]:
    if attr.__class__ is tuple:
        return [n for a in attr for n in _integers(a)]
    return [attr] if attr.__class__ is int else []
