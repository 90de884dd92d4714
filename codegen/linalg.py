"""Graph -> MLIR's upstream dialects: func, linalg, tensor, arith, math and, for control flow, scf.

Every node becomes one operation over tensors. Where an element of a result comes from is what fusion knows already
(`treadle.passes.demand.reads`), so views, reductions, joins and gathers share one rule: an operand read evenly is an `ins` with an
affine map, any other is a `tensor.extract` at a computed index. What is done with it is the op's scalar function
(`treadle.codegen.mlir_scalar`). Two graphs of one function, recorded at different sizes, give one with dynamic sizes where they differ.
"""
from __future__ import annotations

import math
from typing import Any

from treadle.codegen.linalg_body import Element
from treadle.codegen.linalg_sizes import Size, Sizes
from treadle.codegen.llvm_text import Val, const
from treadle.codegen.mlir_scalar import ScalarBody, element_type, mlir_type
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.op import Kind
from treadle.ir.text import quote
from treadle.passes.basic import decompose
from treadle.passes.demand import is_reduce, is_strided_write, is_view, lowerable, on_host
from treadle.passes.pipeline import prepare

# What `scatter_rows` does with the old and the new element.
_COMBINE = {"set": "", "add": "add", "prod": "mul", "amax": "maximum", "amin": "minimum"}


def print_linalg(graph: Graph, twin: Graph | None = None) -> str:
    """The graph, as `treadle.passes.pipeline.prepare` leaves it, as an MLIR module of one function.

    twin: the same function recorded at other sizes; where sizes differ the result has `?`.
    Raises NotImplementedError naming an op without a form in these dialects, or a size that follows from no operand's.
    """
    graph, twin = _by_parts(graph), _by_parts(twin or graph)
    return _Writer(_pairs(graph, twin)).module(graph)


def _by_parts(graph: Graph) -> Graph:
    """What only our own routines compute as a whole, in simpler ops."""
    whole = any(node.op is not None and node.op.routine and node.op.decompose is not None for node in graph.nodes)
    return prepare(decompose(graph, routines=False)) if whole else graph


def _pairs(graph: Graph, twin: Graph) -> dict[Value, Value]:
    """Each value of `graph` with its counterpart; RuntimeError when the graphs are not of one function."""
    same = len(graph.nodes) == len(twin.nodes) and len(graph.inputs) == len(twin.inputs)
    found = dict(zip(graph.inputs, twin.inputs, strict=False))
    for a, b in zip(graph.nodes, twin.nodes, strict=False):
        same = same and a.op is b.op and [found.get(v) for v in a.inputs] == list(b.inputs)
        found.update(zip(a.outputs, b.outputs, strict=False))
        for inner, other in zip(a.regions, b.regions, strict=False):
            found.update(_pairs(inner, other))
    if not same or any(len(v.shape) != len(w.shape) or v.dtype is not w.dtype for v, w in found.items()):
        raise RuntimeError("linalg: the two recordings are of different functions, so that no dynamic sizes can be read off them")
    return found


class _Writer:
    def __init__(self, twin: dict[Value, Value]) -> None:
        self.twin = twin
        self.lines: list[str] = []
        self.names = [0]
        self.env: dict[Value, str] = {}
        self.indent = "    "
        self.sizes = Sizes(self.write)

    # -- text --------------------------------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        self.lines.append(self.indent + text)

    def fresh(self) -> str:
        self.names[0] += 1
        return f"%{self.names[0] - 1}"

    def write(self, text: str) -> str:
        name = self.fresh()
        self.line(f"{name} = {text}")
        return name

    def shape(self, value: Value) -> list[Size]:
        return [self.sizes.size(a, b) for a, b in zip(value.shape, self.twin[value].shape, strict=True)]

    def type_of(self, shape: list[Size], dtype: str) -> str:
        return f"tensor<{''.join([f'{n}x' if isinstance(n, int) else '?x' for n in shape])}{mlir_type(element_type(dtype))}>"

    def value_type(self, value: Value) -> str:
        return self.type_of(self.shape(value), value.dtype.name)

    # -- functions ---------------------------------------------------------------------------------------------------
    def module(self, graph: Graph) -> str:
        arguments = []
        for i, value in enumerate(graph.inputs):
            self.env[value] = f"%arg{i}"
            pairs = zip(value.shape, self.twin[value].shape, strict=True)
            dims = [a if a == b else f"%arg{i}" for a, b in pairs]
            arguments.append(f"%arg{i}: {self.type_of(dims, value.dtype.name)}")
            for axis, n in enumerate(dims):
                if not isinstance(n, int):
                    kind = self.type_of(dims, value.dtype.name)
                    self.sizes.define(value.shape[axis], self.twin[value].shape[axis], f"%arg{i}", kind, axis)
        results = self.region(graph, [self.env[v] for v in graph.inputs])
        types = [self.value_type(v) for v in graph.outputs]
        self.line(f"return {', '.join(results)} : {', '.join(types)}")
        head = f"  func.func @{graph.name}({', '.join(arguments)}) -> ({', '.join(types)}) {{"
        return "\n".join(["module {", head, *self.lines, "  }", "}", ""])

    def region(self, graph: Graph, arguments: list[str]) -> list[str]:
        """Write the nodes of a graph whose inputs have these names; the names of its outputs."""
        self.env.update(zip(graph.inputs, arguments, strict=True))
        for node in graph.nodes:
            self.node(node)
        return [self.env[v] for v in graph.outputs]

    def node(self, node: Node) -> None:
        assert node.op is not None
        rule = getattr(self, f"_{node.op.name}", None)
        try:
            if on_host(node):
                raise NotImplementedError("complex numbers have no form here")
            if rule is not None:
                rule(node)
            elif all(v.type.numel == 0 == self.twin[v].type.numel for v in node.outputs):
                self.env.update({v: self.empty(v) for v in node.outputs})
            elif node.op.kind is Kind.ELEMENTWISE or is_view(node) or is_reduce(node) or lowerable(node):
                self.element_by_element(node)
            else:
                raise NotImplementedError("it has no form in MLIR's upstream dialects")
        except NotImplementedError as error:
            where = f" ({node.loc[0]}:{node.loc[1]})" if node.loc else ""
            types = ", ".join([str(v.type) for v in node.inputs])
            raise NotImplementedError(f"linalg: op {node.op.name!r} on {types}{where}: {error}") from None

    def empty(self, value: Value) -> str:
        dynamic = [n for n in self.shape(value) if not isinstance(n, int)]
        return self.write(f"tensor.empty({', '.join(dynamic)}) : {self.value_type(value)}")

    def filled(self, value: Value, literal: str) -> str:
        """A new tensor of `value`'s type whose elements are a constant."""
        return self.fill(value, self.write(f"arith.constant {literal}"))

    def fill(self, value: Value, scalar: str) -> str:
        element, kind = mlir_type(element_type(value.dtype.name)), self.value_type(value)
        return self.write(f"linalg.fill ins({scalar} : {element}) outs({self.empty(value)} : {kind}) -> {kind}")

    def location(self, node: Node) -> str:
        return f" loc({quote(node.loc[0])}:{node.loc[1]}:0)" if node.loc else ""

    # -- the general rule ----------------------------------------------------------------------------------------------
    def element_by_element(self, node: Node) -> None:
        self.env[node.out] = Element(self, node).emit()

    # -- nodes with an operation of their own ----------------------------------------------------------------------------
    def _constant(self, node: Node) -> None:
        self.env[node.out] = self.number(node)

    def number(self, node: Node) -> str:
        """A Python number as a 0-d tensor. Numbers taken from sizes are different numbers in the two recordings."""
        value, other = node.attrs[0], self.twin[node.out].node.attrs[0]
        if value != other and not (value != value and other != other):
            return self._from_size(node, value, other)
        return self.filled(node.out, Element.literal(value, node.out.dtype.name))

    def _from_size(self, node: Node, value: Any, other: Any) -> str:
        if value != int(value) or other != int(other):
            raise NotImplementedError(f"the number {value} ({other} at the other sizes) follows from no operand's size")
        index = self.sizes.name(self.sizes.size(int(value), int(other)))
        wide = self.write(f"arith.index_cast {index} : index to i64")
        if node.out.dtype.is_floating_point:
            wide = self.write(f"arith.sitofp {wide} : i64 to {mlir_type(element_type(node.out.dtype.name))}")
        return self.fill(node.out, wide)

    def _reshape(self, node: Node) -> None:
        """Collapse, then expand, the smallest groups of axes that hold as many elements on both sides."""
        source, target = self.shape(node.inputs[0]), self.shape(node.out)
        name, dtype = self.env[node.inputs[0]], node.out.dtype.name
        ours = [(a, b) for a, b in zip(node.inputs[0].shape, self.twin[node.inputs[0]].shape, strict=True)]
        wanted = [(a, b) for a, b in zip(node.out.shape, self.twin[node.out].shape, strict=True)]
        left, right = _groups(ours, wanted)
        middle = [self.sizes.size(*_product([ours[i] for i in group])) for group in left]
        if any(len(g) != 1 for g in left) or (not left and source):
            name = self.write(f"tensor.collapse_shape {name} {left} : {self.type_of(source, dtype)} into {self.type_of(middle, dtype)}")
        if any(len(g) != 1 for g in right) or (not right and target):
            sizes = ", ".join(map(str, target))
            name = self.write(f"tensor.expand_shape {name} {right} output_shape [{sizes}] : "
                              f"{self.type_of(middle, dtype)} into {self.type_of(target, dtype)}")
        self.env[node.out] = name

    def flat(self, value: Value) -> tuple[str, str]:
        """A value's elements as one axis, and their type."""
        shape, dtype, have = self.shape(value), value.dtype.name, self.value_type(value)
        if len(shape) == 1:
            return self.env[value], have
        pairs = list(zip(value.shape, self.twin[value].shape, strict=True))
        kind = self.type_of([self.sizes.size(*_product(pairs))], dtype)
        if shape:
            return self.write(f"tensor.collapse_shape {self.env[value]} [{list(range(len(shape)))}] : {have} into {kind}"), kind
        return self.write(f"tensor.expand_shape {self.env[value]} [] output_shape [1] : {have} into {kind}"), kind

    def _matmul(self, node: Node) -> None:
        x, y = node.inputs
        start = self.filled(node.out, Element.literal(0, node.out.dtype.name))
        operands = f"ins({self.env[x]}, {self.env[y]} : {self.value_type(x)}, {self.value_type(y)})"
        kind = self.value_type(node.out)
        name = "linalg.matmul" if len(x.shape) == len(y.shape) == 2 else _batched(node)
        if name.startswith("linalg.generic"):
            self.env[node.out] = self.contraction(node, name, operands, start)
        else:
            self.env[node.out] = self.write(f"{name} {operands} outs({start} : {kind}) -> {kind}{self.location(node)}")

    def contraction(self, node: Node, head: str, operands: str, start: str) -> str:
        """Sums of products; factors are widened to the type of the sums first."""
        out, kind = node.out.dtype.name, self.value_type(node.out)
        body = ScalarBody(self.indent + "  ", self.names)
        kinds = [element_type(d) for d in (*[v.dtype.name for v in node.inputs], out)]
        x, y, total = [Val(k, body.fresh()) for k in kinds]
        factors = [body.from_memory(v, n.dtype.name) for v, n in zip((x, y), node.inputs, strict=True)]
        wide = [body.apply("cast", (n.dtype.name,), out, [v]) if v.ty != total.ty else v for v, n in zip(factors, node.inputs, strict=True)]
        product = body.apply("mul", (out, out), out, wide)
        result = body.apply("add", (out, out), out, [total, product])
        name = self.fresh()
        self.line(f"{name} = {head} {operands} outs({start} : {kind}) {{")
        self.line(f"^bb0({', '.join([f'{v.name}: {mlir_type(v.ty)}' for v in (x, y, total)])}):")
        self.lines += body.lines
        self.line(f"  linalg.yield {result.name} : {mlir_type(result.ty)}")
        self.line(f"}} -> {kind}{self.location(node)}")
        return name

    def _bfloat16_matmul(self, node: Node) -> None:
        x, y = node.inputs
        start = self.filled(node.out, Element.literal(0, node.out.dtype.name))
        operands = f"ins({self.env[x]}, {self.env[y]} : {self.value_type(x)}, {self.value_type(y)})"
        self.env[node.out] = self.contraction(node, _batched(node, True), operands, start)

    def _int8_matmul(self, node: Node) -> None:
        """The packed weights are put back in rows, and those that only fill the last panel dropped."""
        x, w = node.inputs
        panels, words, width, group = w.shape
        n, k = node.attr("n"), words * group
        rows, flat = f"tensor<{panels}x{width}x{words}x{group}xi8>", f"tensor<{panels * width}x{k}xi8>"
        fresh = self.write(f"tensor.empty() : {rows}")
        name = self.write(f"linalg.transpose ins({self.env[w]} : {self.value_type(w)}) outs({fresh} : {rows}) permutation = [0, 2, 1, 3]")
        name = self.write(f"tensor.collapse_shape {name} [[0, 1], [2, 3]] : {rows} into {flat}")
        name = self.write(f"tensor.extract_slice {name}[0, 0] [{n}, {k}] [1, 1] : {flat} to tensor<{n}x{k}xi8>")
        start = self.filled(node.out, Element.literal(0, node.out.dtype.name))
        operands = f"ins({self.env[x]}, {name} : {self.value_type(x)}, tensor<{n}x{k}xi8>)"
        self.env[node.out] = self.contraction(node, _batched(node, True), operands, start)

    def _slice(self, node: Node) -> None:
        x = node.inputs[0]
        self.env[node.out] = self.write(f"tensor.extract_slice {self.env[x]}{self.box(node, node.out)} : {self.value_type(x)} to "
                                        f"{self.value_type(node.out)}{self.location(node)}")

    def _slice_scatter(self, node: Node) -> None:
        x, y = node.inputs
        if not is_strided_write(node):
            self.element_by_element(node)
            return
        self.env[node.out] = self.write(f"tensor.insert_slice {self.env[y]} into {self.env[x]}{self.box(node, y)} : {self.value_type(y)} "
                                        f"into {self.value_type(x)}{self.location(node)}")

    def box(self, node: Node, part: Value) -> str:
        """Offsets, sizes and strides of a slice."""
        twin = self.twin[node.out].node
        parts = [[self.sizes.size(a, b) for a, b in zip(node.attr(name), twin.attr(name), strict=True)] for name in ("starts", "steps")]
        return " ".join([f"[{', '.join(map(str, sizes))}]" for sizes in (parts[0], self.shape(part), parts[1])])

    def _scatter_rows(self, node: Node) -> None:
        """Each element of the result folds the rows whose place it is, in order; a place out of range is no element's."""
        x, place, source = node.inputs
        kinds = [self.value_type(v) for v in (place, source, x)]
        dtype, element = x.dtype.name, element_type(x.dtype.name)
        body = ScalarBody(self.indent + "  ", self.names)
        blocks = [Val(element_type(place.dtype.name), body.fresh()), Val(element, body.fresh()), Val(element, body.fresh())]
        at = body.apply("cast", (place.dtype.name,), "int64", blocks[:1])
        height = body.write(f"arith.index_cast {self.sizes.name(self.shape(x)[0])} : index to i64", "i64")
        at = body.select(body.compare("slt", at, const("i64", 0)), body.add(at, height), at)
        row = body.write("linalg.index 0 : index", "index").name
        hit = body.compare("eq", at, body.write(f"arith.index_cast {row} : index to i64", "i64"))
        new, old = [body.from_memory(v, dtype) for v in blocks[1:]]
        scalar = _COMBINE[node.attr("reduce")]
        found = body.apply(scalar, (dtype, dtype), dtype, [old, new]) if scalar else new
        found = body.to_memory(body.select(hit, found, old), dtype)
        reads = ["d2", "0" if source.shape == (1,) else "d2, d1", "d0, d1"]
        maps = ", ".join([f"affine_map<(d0, d1, d2) -> ({r})>" for r in reads])
        result = self.fresh()
        self.line(f'{result} = linalg.generic {{indexing_maps = [{maps}], iterator_types = ["parallel", "parallel", "reduction"]}} '
                  f"ins({self.env[place]}, {self.env[source]} : {kinds[0]}, {kinds[1]}) outs({self.env[x]} : {kinds[2]}) {{")
        self.line(f"^bb0({', '.join([f'{v.name}: {mlir_type(v.ty)}' for v in blocks])}):")
        self.lines += body.lines
        self.line(f"  linalg.yield {body.known(found)} : {mlir_type(element)}")
        self.line(f"}} -> {kinds[2]}{self.location(node)}")
        self.env[node.out] = result

    # -- control flow ----------------------------------------------------------------------------------------------------
    def _scan(self, node: Node) -> None:
        """A loop over steps that carries the states and the stacked outputs as tensors."""
        body, n_carry, n_seq, length, reverse = node.attrs
        names = [self.env[v] for v in node.inputs]
        stacked = [self.empty(v) for v in node.outputs[n_carry:]]
        steps = self.sizes.name(self.sizes.size(length, self.twin[node.out].node.attrs[3]))
        zero, one = self.write("arith.constant 0 : index"), self.write("arith.constant 1 : index")
        state = [self.fresh() for _ in node.outputs]
        types = [self.value_type(v) for v in node.outputs]
        result, step = self.fresh(), self.fresh()
        start = ", ".join([f"{s} = {v}" for s, v in zip(state, names[:n_carry] + stacked, strict=True)])
        self.line(f"{result}:{len(state)} = scf.for {step} = {zero} to {steps} step {one} iter_args({start}) -> ({', '.join(types)}) {{")
        self.indent += "  "
        if reverse:
            last = self.write(f"arith.subi {steps}, {one} : index")
            step = self.write(f"arith.subi {last}, {step} : index")
        slices = [self.row(v, inner, step) for v, inner in zip(node.inputs[n_carry:n_carry + n_seq], body.inputs[n_carry:], strict=False)]
        found = self.region(body, state[:n_carry] + slices + names[n_carry + n_seq:])
        for i, value in enumerate(node.outputs[n_carry:], n_carry):
            found[i] = self.write(f"tensor.insert_slice {found[i]} into {state[i]}{self.window(value, step)} : "
                                  f"{self.value_type(body.outputs[i])} into {types[i]}")
        self.line(f"scf.yield {', '.join(found)} : {', '.join(types)}")
        self.indent = self.indent[:-2]
        self.line("}")
        for i, value in enumerate(node.outputs):
            self.env[value] = f"{result}#{i}"

    def window(self, value: Value, step: str) -> str:
        """Offsets, sizes and strides of row `step`."""
        rest = self.shape(value)[1:]
        return (f"[{', '.join([step, *['0'] * len(rest)])}] [{', '.join(['1', *map(str, rest)])}] "
                f"[{', '.join(['1'] * (len(rest) + 1))}]")

    def row(self, value: Value, inner: Value, step: str) -> str:
        return self.write(f"tensor.extract_slice {self.env[value]}{self.window(value, step)} : {self.value_type(value)} to "
                          f"{self.value_type(inner)}")

    def _cond(self, node: Node) -> None:
        chosen = self.write(f"tensor.extract {self.env[node.inputs[0]]}[] : tensor<i1>")
        names = [self.env[v] for v in node.inputs[1:]]
        result, types = self.fresh(), ", ".join([self.value_type(v) for v in node.outputs])
        self.line(f"{result}:{len(node.outputs)} = scf.if {chosen} -> ({types}) {{")
        for i, branch in enumerate(node.regions):
            if i:
                self.line("} else {")
            self.indent += "  "
            found = self.region(branch, names)
            self.line(f"scf.yield {', '.join(found)} : {types}")
            self.indent = self.indent[:-2]
        self.line("}")
        for i, value in enumerate(node.outputs):
            self.env[value] = f"{result}#{i}"

    def _while_loop(self, node: Node) -> None:
        condition, body, n_carry = node.attrs
        names = [self.env[v] for v in node.inputs]
        result, types = self.fresh(), ", ".join([self.value_type(v) for v in node.outputs])
        before, after = [[self.fresh() for _ in range(n_carry)] for _ in range(2)]
        start = ", ".join([f"{b} = {v}" for b, v in zip(before, names[:n_carry], strict=True)])
        self.line(f"{result}:{n_carry} = scf.while ({start}) : ({types}) -> ({types}) {{")
        self.indent += "  "
        (more,) = self.region(condition, before + names[n_carry:])
        flag = self.write(f"tensor.extract {more}[] : tensor<i1>")
        self.line(f"scf.condition({flag}) {', '.join(before)} : {types}")
        self.line("} do {")
        blocks = zip(after, node.outputs, strict=True)
        self.line(f"^bb0({', '.join([f'{a}: {self.value_type(v)}' for a, v in blocks])}):")
        found = self.region(body, after + names[n_carry:])
        self.line(f"scf.yield {', '.join(found)} : {types}")
        self.indent = self.indent[:-2]
        self.line("}")
        for i, value in enumerate(node.outputs):
            self.env[value] = f"{result}#{i}"


def _product(pairs: list[tuple[int, int]]) -> tuple[int, int]:
    return math.prod([a for a, _ in pairs]), math.prod([b for _, b in pairs])


def _groups(ours: list[tuple[int, int]], wanted: list[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Consecutive axes of both sides with equal products, as few at a time as possible; sizes come in pairs, one for each recording."""
    if not ours or not wanted:
        return [], []
    if 0 in _product(ours):
        return [list(range(len(ours)))], [list(range(len(wanted)))]
    left: list[list[int]] = []
    right: list[list[int]] = []
    i = j = 0
    while i < len(ours) and j < len(wanted):
        a, b = [i], [j]
        while (p := _product([ours[k] for k in a])) != (q := _product([wanted[k] for k in b])):
            short = a if math.prod(p) < math.prod(q) or b[-1] + 1 == len(wanted) else b
            short.append(short[-1] + 1)
            if a[-1] == len(ours) or b[-1] == len(wanted):
                raise NotImplementedError("the sizes of the two shapes cannot be matched")
        left.append(a)
        right.append(b)
        i, j = a[-1] + 1, b[-1] + 1
    left[-1] += range(i, len(ours))      # what is left over are axes of size 1
    right[-1] += range(j, len(wanted))
    return left, right


def _batched(node: Node, rows: bool = False) -> str:
    """The head of a generic contraction whose operands' leading axes may be broadcast; `rows`: the second is [..., n, k]."""
    rank = len(node.out.shape)
    batch = [f"d{i}" for i in range(rank - 2)]
    m, n, k = f"d{rank - 2}", f"d{rank - 1}", f"d{rank}"
    maps = []
    for value, inner in [(node.inputs[0], [m, k]), (node.inputs[1], [n, k] if rows else [k, n])]:
        lead = value.shape[:-2] if rank > 2 else ()
        axes = ["0" if size == 1 and node.out.shape[i] != 1 else batch[i] for i, size in enumerate(lead, rank - 2 - len(lead))]
        maps.append(axes + inner)
    maps.append([*batch, m, n])
    domain = ", ".join([*batch, m, n, k])
    text = ", ".join([f"affine_map<({domain}) -> ({', '.join(axes)})>" for axes in maps])
    kinds = ", ".join(['"parallel"'] * rank + ['"reduction"'])
    return f"linalg.generic {{indexing_maps = [{text}], iterator_types = [{kinds}]}}"
