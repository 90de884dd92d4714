"""Fusion: decides which values are computed together in one kernel and which are written to memory.

One sweep from the last node to the first. By the time a node is visited every consumer has said where it wants the value
(a `Site`) and whether it wants it in memory. The value is then computed inside the units that want it, or inside one of them
and stored, or in a new unit. A row reduction joins the unit that consumes it: the axis it folds becomes a reduce axis there,
which is how softmax or layer_norm become one kernel.
"""
from __future__ import annotations

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.kernel import INTEGER_FAULTS
from treadle.ir.size import at_least, usually
from treadle.passes.attention import attention_operands, has_numbers, is_attention
from treadle.passes.cost import EXPENSIVE, Cost, costs
from treadle.passes.demand import (
    ARG_REDUCES,
    GATHERS,
    MAX_INLINE_CAT,
    cat_starts,
    is_reduce,
    is_strided_write,
    is_view,
    lowerable,
    overwrites,
    reads,
    reduced_dims,
)
from treadle.passes.index import ZERO, Axes, Expr, Index, by_coefficient, combine, covers, linearize, shifted, split_linear
from treadle.passes.product import Operand, fold_operands, has_kernel
from treadle.passes.unit import Site, Store, Unit, extent, reaches, unify

MAX_INSTRUCTIONS = 160
MAX_LOADS = 18
MAX_STORES = 8
# Instructions for operands that a cat takes in turn, and that are chosen among for each element: a product of complex numbers has so many.
MOST_IN_TURN = 6
SHORT_LINES = 4  # elements; what joins lines no longer than this is not read in reductions


class Fuser:
    """The state of the sweep. `units` holds kernel, product and host units in the order in which they were made."""

    def __init__(self, graph: Graph, windows: bool = False, follows: dict[Node, list[Value]] | None = None) -> None:
        self.graph = graph
        self.windows = windows
        self.follows = follows or {}                        # what has to be there before a node is computed, though it does not read it
        self.behind: dict[Value, list[Unit]] = {}           # and the units that hold such nodes
        self.axes = Axes()
        self.cost = costs(graph)
        self.units: list[Unit] = []
        self.sites: dict[Value, list[Site]] = {}
        self.flat_sites: dict[Value, list[Site]] = {}       # reads by position in memory; they only matter for merging
        self.wanted: dict[Value, list[Unit]] = {value: [] for value in graph.outputs}   # in memory, and by whom
        self.stored: dict[Value, list[Unit]] = {}                                       # who writes it
        self.position = 0
        self.folded: dict[Unit, list[Operand]] = {}

    def run(self) -> None:
        nodes = self.graph.nodes
        for self.position in range(len(nodes) - 1, -1, -1):
            self.visit(nodes[self.position])
        self.position = -1
        for value in dict.fromkeys([*self.graph.inputs, *self.sites]):
            if not value.type.weak:
                self.merge_readers(value)
                self.load_everywhere(value, self.sites.pop(value, []), [])

    # -- one node ----------------------------------------------------------------------------------------------------
    def visit(self, node: Node) -> None:
        if not any(o in self.sites or o in self.wanted for o in node.outputs):
            return
        if lowerable(node) and not (node.op is not None and node.op.name == "cat" and self.visit_cat(node)):
            self.place(node, node.out)
        elif overwrites(node):
            self.overwrite(node)
        elif not lowerable(node):
            self.outside(node)

    def outside(self, node: Node) -> None:
        """A node that is a step of its own: a matrix product, or an op that runs on the host."""
        unit = Unit(self.axes, node, self.position)
        self.follow(unit, node)
        if all(o.type.numel == 0 for o in node.outputs) and node.op is not None and len(node.outputs) == 1:
            self.stored[node.out] = []
            self.sites.pop(node.out, None)
            self.wanted.pop(node.out, None)
            return
        self.units.append(unit)
        for value in node.outputs:
            self.merge_readers(value)
            self.load_everywhere(value, self.sites.pop(value, []), [unit])
        operands = self.fold_product(unit, node)
        for value in operands:
            if not (value.type.weak and value.node.op is None):
                self.want(value, unit)

    def fold_product(self, unit: Unit, node: Node) -> list[Value]:
        """What a matrix product (or attention) reads: views of its operands that its strides can express are looked through."""
        if is_attention(node) and has_numbers(node):
            self.folded[unit] = attention_operands(node)
            return [operand.base for operand in self.folded[unit]]
        if not has_kernel(node):
            return list(node.inputs)
        self.folded[unit] = fold_operands(node, self.windows)
        return [operand.base for operand in self.folded[unit]]

    def want(self, value: Value, unit: Unit) -> None:
        """`unit` reads `value` in memory."""
        self.wanted.setdefault(value, []).append(unit)

    def load_everywhere(self, value: Value, sites: list[Site], writers: list[Unit]) -> None:
        """The value is in memory, written by `writers`; whoever wants it loads it."""
        self.stored[value] = writers
        for unit in [*[s.unit.find() for s in sites], *[u.find() for u in self.wanted.pop(value, [])]]:
            if unit in writers:
                continue
            unit.loads[value] = None
            for writer in writers:
                unit.deps[writer] = None
        for unit in [u.find() for u in self.behind.pop(value, ())]:
            for writer in writers:
                if writer is not unit:
                    unit.deps[writer] = None

    def follow(self, unit: Unit, node: Node) -> None:
        """`unit` computes `node`: it comes behind what the node has to follow."""
        for value in self.follows.get(node, ()):
            self.behind.setdefault(value, []).append(unit)

    def current_sites(self, value: Value) -> list[Site]:
        """The sites with merged units and split axes brought up to date, equal ones once."""
        found: dict[Site, None] = {}
        for s in self.sites.get(value, []):
            found[Site(s.unit.find(), self.axes.resolve_index(s.index), self.axes.resolve_guard(s.guard))] = None
        return list(found)

    def place(self, node: Node, value: Value) -> None:
        self.merge_readers(value)
        sites = self.current_sites(value)
        self.sites.pop(value, None)
        wanted = value in self.wanted
        if not wanted and self.may_repeat(node, sites) and all(self.can_absorb(s, node) for s in sites):
            for s in sites:
                self.absorb(s, node)
            return
        host = self.store_host(node, value, sites) if sites else None
        if host is not None:
            host.unit.stores.append(host.unit.place(value, host.index))
            host.unit.low = min(host.unit.low, self.position)
            self.absorb(host, node)
            self.load_everywhere(value, [s for s in sites if s.unit is not host.unit], [host.unit])
            return
        self.root(node, value, sites)

    def may_repeat(self, node: Node, sites: list[Site]) -> bool:
        """Whether computing the value at every site beats storing it."""
        if len(sites) == 1:
            return not self._wasteful(node, sites[0]) or self._foresee(sites[0], node)
        return self._cheap(node) and (is_view(node) or not any(self._wasteful(node, s) for s in sites))

    def _cheap(self, node: Node) -> bool:
        cost: Cost = self.cost[node.out]
        if is_view(node):
            return True
        if is_reduce(node):
            return False
        if not cost.touches:  # numbers, ranges, random bits: a store and a load would cost as much
            return cost.ops <= 40
        return cost.ops <= 3 and (cost.heavy <= 1 or node.out.type.numel == 1)

    def _wasteful(self, node: Node, site: Site) -> bool:
        """An expensive value of few elements wanted over a big domain is worth a kernel of its own."""
        if self.cost[node.out].ops < EXPENSIVE or is_reduce(node) or node.out.type.numel == 1:
            return False
        axes = self.axes
        size, rows = node.out.type.numel, extent(axes, site.unit.parallel_atoms())
        domain = rows * extent(axes, site.unit.reduce_atoms())
        if not at_least(domain, 4096) or not at_least(domain, size * 4):
            return False
        return not (site.unit.reduce and at_least(size, rows))

    # -- joining a unit ------------------------------------------------------------------------------------------------
    def can_absorb(self, site: Site, node: Node) -> bool:
        """Whether `node` may be computed in the unit. For a reduction, the unit gets its reduce axes."""
        unit = site.unit
        if unit.count >= MAX_INSTRUCTIONS and not is_view(node):
            return False
        if len(unit.leaves) + len(node.inputs) > MAX_LOADS and len(node.inputs) > 1:
            return False
        assert node.op is not None
        if node.op.name == "cat" and len(node.inputs) > MAX_INLINE_CAT:
            return False
        if unit.reduce and _joins_short_lines(node):
            return False
        if site.guard and (is_reduce(node) or node.op.name in GATHERS or node.op.name in INTEGER_FAULTS):
            return False
        return not is_reduce(node) or self._join_reduce(unit, node, site.index)

    def _join_reduce(self, unit: Unit, node: Node, index: Index) -> bool:
        """Find or make the reduce axes in `unit` for a reduction read at `index`."""
        axes = self.axes
        used = {a for e in index for a, _ in e.terms}
        parallel, reduce = unit.parallel_atoms(), unit.reduce_atoms()
        sizes = tuple([node.inputs[0].shape[d] for d in reduced_dims(node)])
        length = extent(axes, []) if not sizes else _product(sizes)
        if length == 1 or used & set(reduce):
            return False
        free = [a for a in parallel if a not in used]
        argument = node.op is not None and node.op.name in ARG_REDUCES
        if reduce:
            return not free and extent(axes, reduce) == length and self._bind(unit, node, reduce, sizes, argument)
        if not free:
            unit.reduce = axes.fresh(sizes)[1]
            return self._bind(unit, node, unit.reduce, sizes, argument)
        if extent(axes, free) != length:
            return False
        if not self._bind(unit, node, free, sizes, argument):
            return False
        unit.reduce = axes.atoms(free)
        unit.parallel = [a for a in unit.parallel_atoms() if a not in set(unit.reduce)]
        return True

    def _bind(self, unit: Unit, node: Node, reduce: list[int], sizes: tuple[int, ...], argument: bool) -> bool:
        """Express the index over the reduced dims by the axes `reduce`."""
        if argument or unit.argument:
            if len(reduce) != 1:
                return False
            self.axes.frozen.add(reduce[0])
        linear = linearize(tuple([Expr(0, ((a, 1),)) for a in reduce]), tuple([self.axes.size[a] for a in reduce]))
        found = split_linear(self.axes, linear, sizes)
        if found is None:
            return False
        unit.reduced[node] = found
        unit.argument = unit.argument or argument
        return True

    def absorb(self, site: Site, node: Node) -> None:
        """Compute `node` in the unit; its operands become wanted there."""
        unit = site.unit
        unit.inside[node] = self.position
        self.follow(unit, node)
        if not is_view(node):
            unit.count += 1
        index, guard = self.axes.resolve_index(site.index), self.axes.resolve_guard(site.guard)
        reduced = self.axes.resolve_index(unit.reduced.get(node, ()))
        unit.leaves.pop(node.out, None)
        for read in reads(self.axes, node, index, guard, reduced, self.surely_in_memory):
            if read.value.type.weak:
                continue
            unit.leaves[read.value] = None
            if read.memory or read.along >= 0:
                self.want(read.value, unit)
                if read.memory:
                    self.flat_sites.setdefault(read.value, []).append(Site(unit, read.index, read.guard))
            else:
                self.sites.setdefault(read.value, []).append(Site(unit, read.index, read.guard))

    def surely_in_memory(self, value: Value) -> bool:
        return value.node.op is None or not lowerable(value.node)

    def store_host(self, node: Node, value: Value, sites: list[Site]) -> Site | None:
        """A site whose unit can compute the value once for everybody and store it."""
        units = [s.unit for s in sites]
        readers = {u.find() for u in self.wanted.get(value, [])}
        for s in sorted(sites, key=lambda s: s.unit.low):
            unit = s.unit
            if units.count(unit) > 1 or unit in readers or len(unit.stores) >= MAX_STORES or s.guard:
                continue
            foreseen = False
            if not (self._one_per_row(s, value) if is_reduce(node) else unit.covered(s.index, value.shape)):
                foreseen = self._foreseeable(s, node)
                if not foreseen:
                    continue
            others = (readers | set(units)) - {unit}
            if self._outer_reduce(unit, s.index) or (not foreseen and self._wasteful(node, s)) or (others and reaches(unit, others)):
                continue
            if self.can_absorb(s, node):
                if foreseen:
                    self._fold_free(unit, s.index)
                return s
        return None

    def _foreseeable(self, site: Site, node: Node) -> bool:
        """Whether the value is one per row of a map that will turn out to be a row program."""
        if is_reduce(node) or site.unit.reduce or site.guard:
            return False
        return self._one_per_row(site, node.out) and self._comes_from_reduce(site, node)

    def _foresee(self, site: Site, node: Node) -> bool:
        """Make the unit a row program already, for a row value met before the reduction it comes from."""
        if not self._foreseeable(site, node):
            return False
        self._fold_free(site.unit, site.index)
        return True

    def _comes_from_reduce(self, site: Site, node: Node) -> bool:
        """Whether a value that varies by row only is made from a reduction over the rest of the unit's domain."""
        domain = extent(self.axes, site.unit.parallel_atoms())
        stack, budget = [node], 24
        while stack and budget:
            budget -= 1
            for v in stack.pop().inputs:
                if is_reduce(v.node) and v.type.numel == node.out.type.numel and v.node.inputs[0].type.numel == domain:
                    return True
                if v in self.cost and v.type.numel == node.out.type.numel:
                    stack.append(v.node)
        return False

    def _fold_free(self, unit: Unit, index: Index) -> None:
        """The parallel axes that `index` does not mention become reduce axes."""
        used = {a for e in self.axes.resolve_index(index) for a, _ in e.terms}
        parallel = unit.parallel_atoms()
        unit.parallel, unit.reduce = [a for a in parallel if a in used], [a for a in parallel if a not in used]

    def _one_per_row(self, site: Site, value: Value) -> bool:
        """Whether a reduction read here is read once per row, when the other parallel axes are those it folds."""
        used = {a for e in self.axes.resolve_index(site.index) for a, _ in e.terms}
        return covers(self.axes, self.axes.resolve_index(site.index), value.shape, [a for a in site.unit.parallel_atoms() if a in used])

    def _outer_reduce(self, unit: Unit, index: Index) -> bool:
        """Whether a value over the whole domain would be stored column by column."""
        if not unit.reduce:
            return False
        reduce = set(unit.reduce_atoms())
        inner = [a for e in self.axes.resolve_index(index) for a, _ in reversed(by_coefficient(e.terms))]
        return any(a in reduce for a in inner) and inner[-1] not in reduce

    def root(self, node: Node, value: Value, sites: list[Site]) -> None:
        """A new unit for the value, which everybody loads."""
        unit = Unit(self.axes, None, self.position)
        self.units.append(unit)
        index, unit.parallel = self.axes.fresh(value.shape)
        unit.stores.append(unit.place(value, index))
        if is_reduce(node):
            joined = self._join_reduce(unit, node, index)
            if not joined:  # a single element is folded: there is nothing to reduce
                unit.reduced[node] = tuple([ZERO for _ in reduced_dims(node)])
        self.load_everywhere(value, sites, [unit])
        self.absorb(Site(unit, index, ()), node)

    # -- cat -----------------------------------------------------------------------------------------------------------
    def visit_cat(self, node: Node) -> bool:
        """A cat that goes to memory is written by one unit per operand, or by one for all if their elements lie in turn; True when
        that was done."""
        value = node.out
        sites = self.current_sites(value)
        if value not in self.wanted and len(sites) == 1:
            if self._store_in_turn(node, sites[0]):
                return True
            if len(node.inputs) <= MAX_INLINE_CAT and not self._dear_in_turn(node) and self.can_absorb(sites[0], node):
                return False
        self.merge_readers(value)
        sites = self.current_sites(value)
        self.sites.pop(value, None)
        writers: list[Unit] = []
        for operand, start in zip(node.inputs, cat_starts(node), strict=True):
            if not writers or not _interleaves(node):
                unit = Unit(self.axes, None, self.position)
                index, unit.parallel = self.axes.fresh(operand.shape)
                self.units.append(unit)
                self.follow(unit, node)
                writers.append(unit)
            place = tuple([shifted(e, start) if d == node.attr("dim") else e for d, e in enumerate(index)])
            unit.stores.append(Store(operand, index, value, linearize(place, value.shape)))
            self.sites.setdefault(operand, []).append(Site(unit, index, ()))
        self.load_everywhere(value, sites, writers)
        return True

    def _dear_in_turn(self, node: Node) -> bool:
        """A cat of single elements in turn, of products or what takes as much to compute. Where it is read, each element would be computed
        for all operands and chosen, by vectors no longer than there are operands."""
        if not _interleaves(node):
            return False
        if sum([self.cost[v].ops for v in node.inputs if v in self.cost]) > MOST_IN_TURN:
            return True
        bases = list(node.inputs)
        while any([is_view(v.node) for v in bases]):
            bases = [v.node.inputs[0] if is_view(v.node) else v for v in bases]
        return any([has_kernel(v.node) for v in bases])

    def _store_in_turn(self, node: Node, site: Site) -> bool:
        """A unit that only copies elements which a cat takes from its operands in turn: each operand is stored to its own places, all of
        them together where these are neighbours, and by units of their own otherwise."""
        unit, axes, dim = site.unit, self.axes, node.attr("dim")
        copies = not (site.guard or unit.reduce) and len(unit.stores) == 1 and list(unit.leaves) == [node.out]
        if not copies or not all([is_view(n) for n in unit.inside]) or any([v.shape[dim] != 1 for v in node.inputs]):
            return False
        (turn, step), *more = site.index[dim].terms or ((-1, 0),)
        elsewhere = [e for d, e in enumerate(site.index) if d != dim and turn in dict(e.terms)]
        if more or elsewhere or step != 1 or site.index[dim].const or axes.size[turn] != len(node.inputs):
            return False
        (_, _, target, place), index = unit.stores[0], tuple([ZERO if d == dim else e for d, e in enumerate(site.index)])
        place = axes.resolve(place)
        step = dict(place.terms)[turn]
        rest = tuple([t for t in place.terms if t[0] != turn])
        stores = [Store(v, index, target, Expr(place.const + i * step, rest)) for i, v in enumerate(node.inputs)]
        unit.parallel = [axis for axis in unit.parallel_atoms() if axis != turn]
        together = len(stores) <= MAX_STORES and all([step < c for _, c in rest])
        self._take_over(unit, node, stores if together else stores[:1])
        for store in [] if together else stores[1:]:
            self._take_over(self._twin(unit, target), node, [store], unit.parallel)
        return True

    def _take_over(self, unit: Unit, node: Node, stores: list[Store], axes: list[int] | None = None) -> None:
        """The unit does these stores, which are over `axes` if not its own, and nothing else."""
        made = dict(zip(axes or (), unit.parallel, strict=True)) if axes else {}
        moved = lambda e: Expr(e.const, tuple(sorted([(made.get(a, a), c) for a, c in e.terms])))
        unit.stores = [Store(s.value, tuple([moved(e) for e in s.index]), s.target, moved(s.place)) for s in stores]
        unit.inside.clear()
        unit.leaves = dict.fromkeys([s.value for s in stores])
        self.follow(unit, node)
        for s in unit.stores:
            self.sites.setdefault(s.value, []).append(Site(unit, s.index, ()))

    def _twin(self, unit: Unit, target: Value) -> Unit:
        """One more writer of the target, over axes of the same sizes: whoever comes behind the unit comes behind it too."""
        twin = Unit(self.axes, None, unit.high)
        twin.low = unit.low
        twin.parallel = [self.axes.new(self.axes.size[a]) for a in unit.parallel]
        for other in self.units:
            if other.merged is None and unit in other.neighbours():
                other.deps[twin] = None
        self.units.append(twin)
        self.stored[target] = [*self.stored[target], twin]
        return twin

    # -- writing over a copy -------------------------------------------------------------------------------------------
    def overwrite(self, node: Node) -> None:
        """The first operand is computed straight into the result's memory; then the node writes over part of it."""
        value, source = node.out, node.inputs[0]
        self.merge_readers(value)
        sites = self.current_sites(value)
        self.sites.pop(value, None)
        base, unit = Unit(self.axes, None, self.position), Unit(self.axes, node, self.position)
        self.follow(base, node)
        index, base.parallel = self.axes.fresh(source.shape)
        base.stores.append(Store(source, index, value, linearize(index, value.shape)))
        self.sites.setdefault(source, []).append(Site(base, index, ()))
        if is_strided_write(node):
            unit.node = None
            patch = node.inputs[1]
            index, unit.parallel = self.axes.fresh(patch.shape)
            place = tuple([combine([(e, s)], at) for e, at, s in zip(index, node.attr("starts"), node.attr("steps"), strict=True)])
            unit.stores.append(Store(patch, index, value, linearize(place, value.shape)))
            self.sites.setdefault(patch, []).append(Site(unit, index, ()))
        else:
            for operand in node.inputs[1:]:
                self.want(operand, unit)
        unit.deps[base] = None
        self.units += [base, unit]
        self.load_everywhere(value, sites, [base, unit])

    # -- merging -------------------------------------------------------------------------------------------------------
    def merge_readers(self, value: Value) -> None:
        """Units that read the same elements in the same way become one, where no order forbids it; also those that read both halves of
        pairs: the parts of complex numbers."""
        flat = self.flat_sites.get(value, [])
        if len(self.sites.get(value, ())) + len(flat) < 2:
            return
        axes, size = self.axes, (value.type.numel,)
        sites = [Site(s.unit, (linearize(s.index, value.shape),), s.guard) for s in self.current_sites(value)]
        sites += [Site(s.unit.find(), axes.resolve_index(s.index), s.guard) for s in flat]
        firsts: dict[int, Site] = {}
        for site in sites:
            unit = site.unit.find()
            if site.guard or any([unit is first.unit for first in firsts.values()]):
                continue
            step = 1 if unit.covered(site.index, size, whole=True) else 2 if unit.halves(site.index[0], value.type.numel) else 0
            first = firsts.setdefault(step, site) if step else site
            if first is not site and self.mergeable(first.unit, unit) and unify(axes, first.unit, unit, first.index, site.index):
                self.merge(first.unit, unit)

    def mergeable(self, a: Unit, b: Unit) -> bool:
        if a.argument or b.argument or a.count + b.count > MAX_INSTRUCTIONS or len(a.stores) + len(b.stores) > MAX_STORES:
            return False
        if len(a.leaves.keys() | b.leaves.keys()) > MAX_LOADS or bool(a.reduce) != bool(b.reduce):
            return False
        return not reaches(a, {b}) and not reaches(b, {a})

    def merge(self, kept: Unit, other: Unit) -> None:
        other.merged = kept
        kept.stores += other.stores
        kept.loads.update(other.loads)
        kept.leaves.update(other.leaves)
        kept.inside.update(other.inside)
        kept.reduced.update(other.reduced)
        kept.deps.update(other.deps)
        kept.count += other.count
        kept.low, kept.high = min(kept.low, other.low), max(kept.high, other.high)
        for store in other.stores:
            self.stored[store.target] = [u.find() for u in self.stored[store.target]]

    # -- results -------------------------------------------------------------------------------------------------------
    def ordered(self) -> list[Unit]:
        """The units that remain, each after those it reads from."""
        units = [u for u in self.units if u.merged is None]
        ready: list[Unit] = []
        seen: set[Unit] = set()
        for unit in sorted(units, key=lambda u: u.high):
            stack = [(unit, iter(unit.neighbours()))]
            if unit in seen:
                continue
            seen.add(unit)
            while stack:
                top, rest = stack[-1]
                following = next((u for u in rest if u not in seen), None)
                if following is None:
                    ready.append(top)
                    stack.pop()
                else:
                    seen.add(following)
                    stack.append((following, iter(following.neighbours())))
        return ready


def _interleaves(node: Node) -> bool:
    """Whether a cat puts single elements in turn: parts of complex numbers, a stack along a last axis."""
    dim = node.attr("dim")
    return len(node.inputs) <= MAX_STORES and dim == len(node.out.shape) - 1 and all([v.shape[dim] == 1 for v in node.inputs])


def _joins_short_lines(node: Node) -> bool:
    """Whether a view joins lines of a few elements, the windows of a pooling, say: a sweep over it would go line by line, and reductions
    sweep several times."""
    assert node.op is not None
    x = node.inputs[0].shape if node.op.name == "reshape" else ()
    return bool(x) and x[-1].__class__ is int and 1 < x[-1] <= SHORT_LINES and x[-1] < usually(node.out.shape[-1] if node.out.shape else 0)


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for n in sizes:
        total *= n
    return total


