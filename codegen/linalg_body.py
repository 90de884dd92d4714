"""One node of a graph as a `linalg.generic`: which operand elements it reads, and its scalar function on them."""
from __future__ import annotations

from typing import TYPE_CHECKING

from treadle.codegen.expressions import constant
from treadle.codegen.llvm_text import Val
from treadle.codegen.mlir_scalar import ScalarBody, element_type, literal, mlir_type
from treadle.codegen.philox import random_bits
from treadle.codegen.reductions import Fold, finish, identity, start, update
from treadle.ir.graph import Node, Value
from treadle.ir.op import Kind
from treadle.ir.types import Shape
from treadle.passes.demand import ARG_REDUCES, Read, is_reduce, own_conditions, reads, reduced_dims
from treadle.passes.index import ZERO, Axes, Condition, Expr, Index, linearize

if TYPE_CHECKING:
    from treadle.codegen.linalg import _Writer

# Reductions that scalar functions do; codegen's own accumulators remember NaNs apart, which is faster and less readable.
_EXTREMES = {"amax": "maximum", "amin": "minimum"}


class Element:
    """Writes one node. The domain is the axes of the result and then, for a reduction, those reduced."""

    def __init__(self, writer: "_Writer", node: Node) -> None:
        self.writer = writer
        self.node = node
        self.twin = writer.twin[node.out].node
        self.axes = Axes()
        self.extents: list[tuple[int, int]] = []  # the axes' sizes in both recordings
        self.index = self._axes(node.out.shape, self.twin.out.shape)
        self.body = ScalarBody(writer.indent + "  ", writer.names)
        self.operands: list[tuple[Value, str]] = []  # (value, affine map)
        self.arguments: list[str] = []
        self.indices: dict[int, str] = {}

    @staticmethod
    def literal(value: float | int | bool, dtype: str) -> str:
        """A number as an MLIR attribute of a dtype's element type; 16-bit floats in decimal digits."""
        if dtype in ("float16", "bfloat16"):
            return f"{float(value):e} : {mlir_type(element_type(dtype))}"
        return literal(constant(dtype, value))

    def _axes(self, shape: Shape, other: Shape) -> Index:
        self.extents += zip(shape, other, strict=True)
        return tuple([Expr(0, ((self.axes.new(n), 1),)) for n in shape])

    # -- what is read ------------------------------------------------------------------------------------------------------
    def _reads(self) -> list[tuple[Read, Read]]:
        """The operand elements behind the result's, in both recordings: the same axes, but other coefficients."""
        node, twin = self.node, self.twin
        reduced: Index = ()
        if is_reduce(node):
            inner = [tuple([n.inputs[0].shape[d] for d in reduced_dims(n)] if n.inputs[0].shape else []) for n in (node, twin)]
            if node.attr("keepdim"):  # axes that the reduction leaves with size 1 have a loop already
                self.index = tuple([ZERO if i in reduced_dims(node) else e for i, e in enumerate(self.index)])
            reduced = self._axes(*inner)
        never = lambda value: False
        ours = reads(self.axes, node, self.index, (), reduced, never)
        theirs = reads(self.axes, twin, self.index, (), reduced, never)
        return list(zip(ours, theirs, strict=True))

    def operand(self, read: Read, other: Read) -> Val:
        """The element as a register value: a block argument, or read at a computed index."""
        value = read.value
        dtype = value.dtype.name
        if read.along < 0 and not read.guard and not read.memory and self._whole(read):
            name = self.body.fresh()
            self.arguments.append(f"{name}: {mlir_type(element_type(dtype))}")
            self.operands.append((value, ", ".join([f"d{e.terms[0][0]}" if e.terms else "0" for e in read.index])))
            return self.body.from_memory(Val(element_type(dtype), name), dtype)
        return self.extract(read, other)

    def _whole(self, read: Read) -> bool:
        """Whether every axis of the operand is walked through by one axis of the domain, from its start to its end, or stays at 0."""
        sizes = zip(read.value.shape, self.writer.twin[read.value].shape, strict=True)
        return all(e == ZERO or (e.const == 0 and len(e.terms) == 1 and e.terms[0][1] == 1 and self.extents[e.terms[0][0]] == size)
                   for e, size in zip(read.index, sizes, strict=True))

    def extract(self, read: Read, other: Read, along: str = "") -> Val:
        value, writer = read.value, self.writer
        inside = self.holds(list(read.guard), list(other.guard))
        name, kind = writer.flat(value) if read.memory else (writer.env[value], writer.value_type(value))
        places = [self.affine(e, o) for e, o in zip(read.index, other.index, strict=True)]
        if along:
            places[read.along] = along
        if inside is not None:
            zero = self._index_constant(0)
            places = [self.body.write(f"arith.select {inside.name}, {p}, {zero} : index", "index").name for p in places]
        dtype = value.dtype.name
        found = self.body.write(f"tensor.extract {name}[{', '.join(places)}] : {kind}", element_type(dtype))
        return self.body.from_memory(found, dtype)

    # -- index arithmetic ----------------------------------------------------------------------------------------------------
    def size(self, a: int, b: int) -> int | str:
        return self.writer.sizes.size(a, b)

    def _index_constant(self, value: int | str) -> str:
        return value if isinstance(value, str) else self.body.write(f"arith.constant {value} : index", "index").name

    def _axis(self, axis: int) -> str:
        if axis not in self.indices:
            self.indices[axis] = self.body.write(f"linalg.index {axis} : index", "index").name
        return self.indices[axis]

    def affine(self, expr: Expr, other: Expr) -> str:
        """An index expression as a value of type `index`."""
        total = ""
        theirs = dict(other.terms)
        for axis, c in expr.terms:
            factor = self.size(c, theirs.get(axis, 0))
            term = self._axis(axis)
            if factor != 1:
                term = self.body.write(f"arith.muli {term}, {self._index_constant(factor)} : index", "index").name
            total = self.body.write(f"arith.addi {total}, {term} : index", "index").name if total else term
        offset = self.size(expr.const, other.const)
        if offset == 0 and total:
            return total
        base = self._index_constant(offset)
        return self.body.write(f"arith.addi {total}, {base} : index", "index").name if total else base

    def holds(self, conditions: list[Condition], others: list[Condition]) -> Val | None:
        """All conditions as one i1; None when there are none."""
        total: Val | None = None
        for c, o in zip(conditions, others, strict=True):
            at, tests = self.affine(c.expr, o.expr), []
            if c.low:
                tests.append(("sge", self._index_constant(0)))
            if c.bound >= 0:
                tests.append(("slt", self._index_constant(self.size(c.bound, o.bound))))
            for predicate, bound in tests:
                test = self.body.write(f"arith.cmpi {predicate}, {at}, {bound} : index", "i1")
                total = test if total is None else self.body.binary("and", total, test)
        return total

    # -- the node ------------------------------------------------------------------------------------------------------------
    def emit(self) -> str:
        pairs = self._reads()
        if is_reduce(self.node):
            return self._reduction(*pairs[0])
        dtype = self.node.out.dtype.name
        result = self.body.to_memory(self._value(pairs), dtype)
        return self._generic([(self.node.out, self.writer.empty(self.node.out))], [self.body.known(result)], [self.body.fresh()])

    def _value(self, pairs: list[tuple[Read, Read]]) -> Val:
        node, op = self.node, self.node.op
        assert op is not None
        dtype = node.out.dtype.name
        if op.name in ("gather", "index_select"):
            return self._gathered(pairs)
        if op.name in ("iota", "full"):
            return self._created(dtype)
        if op.name == "random_bits":
            place = self.affine(linearize(self.index, node.out.shape), linearize(self.index, self.twin.out.shape))
            at = self.body.write(f"arith.index_cast {place} : index to i64", "i64")
            seed, offset = [self.operand(a, b) for a, b in pairs]
            return random_bits(self.body, seed, offset, at)
        args = [self.operand(a, b) for a, b in pairs]
        if op.name in ("cat", "pad", "slice_scatter"):
            return self._chosen(args)
        if op.kind is not Kind.ELEMENTWISE:
            if op.kind is Kind.VIEW:
                return args[0]
            raise NotImplementedError("it has no form in MLIR's upstream dialects")
        if not isinstance(op.scalar, str):
            raise NotImplementedError("its scalar function is written in LLVM IR")
        return self.body.apply(op.scalar, tuple([v.dtype.name for v in node.inputs]), dtype, args)

    def _created(self, dtype: str) -> Val:
        node = self.node
        if node.op is not None and node.op.name == "full":
            value = node.inputs[0]
            kind = self.writer.value_type(value)
            have = self.body.write(f"tensor.extract {self.writer.env[value]}[] : {kind}", element_type(value.dtype.name))
            have = self.body.from_memory(have, value.dtype.name)
            return self.body.apply("cast", (value.dtype.name,), dtype, [have])
        at = self.body.write(f"arith.index_cast {self._axis(0)} : index to i64", "i64")
        return self.body.apply("cast", ("int64",), dtype, [at])

    def _chosen(self, args: list[Val]) -> Val:
        """The operand that is right at this index, as the conditions say."""
        choices = list(zip(own_conditions(self.node, self.index), own_conditions(self.twin, self.index), strict=True))
        assert self.node.op is not None
        if self.node.op.name != "cat":
            inside = self.holds(*choices[0])
            yes, no = args if self.node.op.name == "pad" else args[::-1]
            return yes if inside is None else self.body.select(inside, yes, no)
        result = args[-1]
        for value, (ours, theirs) in zip(reversed(args[:-1]), reversed(choices), strict=True):
            before = self.holds(ours, theirs)
            assert before is not None
            result = self.body.select(before, value, result)
        return result

    def _gathered(self, pairs: list[tuple[Read, Read]]) -> Val:
        """A negative index counts from the end. One out of range reads the first or last element: there is no error cell."""
        where, source = pairs
        at = self.operand(*where)
        at = at if at.ty == "i64" else self.body.apply("cast", (where[0].value.dtype.name,), "int64", [at])
        dim = source[0].along
        value = source[0].value
        size = self._index_constant(self.size(value.shape[dim], self.writer.twin[value].shape[dim]))
        bound = self.body.write(f"arith.index_cast {size} : index to i64", "i64")
        zero, one = self.body.constant("i64", 0), self.body.constant("i64", 1)
        at = self.body.select(self.body.compare("slt", at, zero), self.body.add(at, bound), at)
        at = self.body.intrinsic("smin", self.body.intrinsic("smax", at, zero), self.body.sub(bound, one))
        place = self.body.write(f"arith.index_cast {at.name} : i64 to index", "index").name
        return self.extract(*source, along=place)

    # -- reductions ------------------------------------------------------------------------------------------------------------
    def _reduction(self, read: Read, other: Read) -> str:
        """Folds with codegen's accumulators; those with more than a value finish in an operation of their own."""
        node = self.node
        assert node.op is not None
        out, dtype = node.out, node.inputs[0].dtype.name
        fold = Fold(node.op.name, dtype)
        initial = [identity(fold, 1)] if node.op.name in _EXTREMES else start(fold, 1)
        types = [v.ty for v in initial]
        states = [self.body.fresh() for _ in initial]
        x = self.operand(read, other)
        index = None
        if node.op.name in ARG_REDUCES:
            axis = len(out.shape) if node.inputs[0].shape else -1
            index = (self.body.constant("i64", 0) if axis < 0 else
                     self.body.write(f"arith.index_cast {self._axis(axis)} : index to i64", "i64"))
        state = [Val(t, s) for t, s in zip(types, states, strict=True)]
        if node.op.name in _EXTREMES:
            new = [self.body.apply(_EXTREMES[node.op.name], (dtype, dtype), dtype, [*state, x])]
        else:
            new = update(self.body, fold, state, x, index, None)
        starts = [(out, self._start(v)) for v in initial]
        result = self._generic(starts, [self.body.known(v) for v in new], states, types)
        names = [result] if len(initial) == 1 else [f"{result}#{i}" for i in range(len(initial))]
        if len(names) == 1 and element_type(out.dtype.name) == types[0]:
            return names[0]
        return self._finish(fold, names, types)

    def _start(self, value: Val) -> str:
        writer, out = self.writer, self.node.out
        kind = self._kind(value.ty)
        scalar = writer.write(f"arith.constant {literal(value)}")
        dynamic = [n for n in writer.shape(out) if not isinstance(n, int)]
        fresh = writer.write(f"tensor.empty({', '.join(dynamic)}) : {kind}")
        return writer.write(f"linalg.fill ins({scalar} : {mlir_type(value.ty)}) outs({fresh} : {kind}) -> {kind}")

    def _kind(self, llvm: str) -> str:
        sizes = "".join([f"{n}x" if isinstance(n, int) else "?x" for n in self.writer.shape(self.node.out)])
        return f"tensor<{sizes}{mlir_type(llvm)}>"

    def _finish(self, fold: Fold, names: list[str], types: list[str]) -> str:
        writer, out = self.writer, self.node.out
        body = ScalarBody(writer.indent + "  ", writer.names)
        arguments = [body.fresh() for _ in names]
        value = finish(body, fold, [Val(t, a) for t, a in zip(types, arguments, strict=True)])
        final = body.known(body.to_memory(value, out.dtype.name))
        rank = len(out.shape)
        domain = ", ".join([f"d{i}" for i in range(rank)])
        same = f"affine_map<({domain}) -> ({domain})>"
        kinds = ", ".join(['"parallel"'] * rank)
        result, kind, end = writer.fresh(), writer.value_type(out), body.fresh()
        element = mlir_type(element_type(out.dtype.name))
        blocks = [f"{a}: {mlir_type(t)}" for a, t in zip(arguments, types, strict=True)] + [f"{end}: {element}"]
        ins = f"ins({', '.join(names)} : {', '.join([self._kind(t) for t in types])})"
        fresh = writer.empty(out)
        writer.line(f"{result} = linalg.generic {{indexing_maps = [{', '.join([same] * (len(names) + 1))}], iterator_types = [{kinds}]}} "
                    f"{ins} outs({fresh} : {kind}) {{")
        writer.line(f"^bb0({', '.join(blocks)}):")
        writer.lines += body.lines
        writer.line(f"  linalg.yield {final} : {element}")
        writer.line(f"}} -> {kind}{writer.location(self.node)}")
        return result

    # -- text ------------------------------------------------------------------------------------------------------------------
    def _generic(self, outs: list[tuple[Value, str]], yields: list[str], states: list[str], types: list[str] | None = None) -> str:
        """The operation around the body; `states` are the names that the body gives the elements of `outs`."""
        writer, node = self.writer, self.node
        out = node.out
        elements = types or [element_type(out.dtype.name)]
        kinds = [self._kind(t) for t in elements]
        domain = ", ".join([f"d{i}" for i in range(len(self.axes.size))])
        rank = len(out.shape)
        own = ", ".join([f"d{i}" for i in range(rank)])
        maps = [m for _, m in self.operands] + [own] * len(outs)
        text = ", ".join([f"affine_map<({domain}) -> ({m})>" for m in maps])
        loops = ['"parallel"'] * rank + ['"reduction"'] * (len(self.axes.size) - rank)
        ins = ""
        if self.operands:
            names = ", ".join([writer.env[v] for v, _ in self.operands])
            ins = f"ins({names} : {', '.join([writer.value_type(v) for v, _ in self.operands])}) "
        result = writer.fresh()
        many = f":{len(outs)}" if len(outs) > 1 else ""
        arguments = self.arguments + [f"{s}: {mlir_type(t)}" for s, t in zip(states, elements, strict=True)]
        writer.line(f"{result}{many} = linalg.generic {{indexing_maps = [{text}], iterator_types = [{', '.join(loops)}]}} "
                    f"{ins}outs({', '.join([n for _, n in outs])} : {', '.join(kinds)}) {{")
        writer.line(f"^bb0({', '.join(arguments)}):")
        writer.lines += self.body.lines
        writer.line(f"  linalg.yield {', '.join(yields)} : {', '.join([mlir_type(t) for t in elements])}")
        target = kinds[0] if len(kinds) == 1 else f"({', '.join(kinds)})"
        writer.line(f"}} -> {target}{writer.location(node)}")
        return result
