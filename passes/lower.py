"""Graph -> Program: fused units become steps, values in memory become buffers."""
from __future__ import annotations

from functools import partial

from treadle.ir.builder import Builder
from treadle.ir.dtypes import DType
from treadle.ir.graph import Graph, Node, Value
from treadle.passes.attention import is_attention, lower_attention
from treadle.passes.build import KernelBuilder, Place
from treadle.passes.epilogue import build_epilogue, only_readers, same_elements
from treadle.passes.fuse import Fuser
from treadle.passes.product import FORMS, shape_product
from treadle.passes.program import BufferInfo, GemmStep, HostStep, Matrix, Program, Ref, ScalarInfo, ScalarRef
from treadle.passes.routines import lower_routine
from treadle.passes.scan import lower_scan
from treadle.passes.unit import Unit


def lower(graph: Graph, windows: bool = True) -> Program:
    """Lower a graph that `treadle.passes.pipeline.prepare` has simplified; every shape in it is concrete.

    windows: the target's matrix kernels read windows of images, and bfloat16 that is contiguous across K, where they are; and its maps
    and reductions work on vectors, which lines of images may be too short for.
    """
    graph, follows = untie(graph)
    return _Lowering(own_outputs(graph), windows, follows).run()


def untie(graph: Graph) -> tuple[Graph, dict[Node, list[Value]]]:
    """The graph without `after`, and which values a node has to follow."""
    if not any(node.op is not None and node.op.name == "after" for node in graph.nodes):
        return graph, {}
    new = Graph(graph.name)
    new.inputs = graph.inputs
    mapped: dict[Value, Value] = {}
    tokens: dict[Value, Value] = {}
    follows: dict[Node, list[Value]] = {}
    for node in graph.nodes:
        inputs = tuple([mapped.get(v, v) for v in node.inputs])
        if node.op is not None and node.op.name == "after":
            mapped[node.out], tokens[node.out] = inputs
            continue
        made = new.again(node, inputs)
        mapped.update(zip(node.outputs, made.outputs, strict=True))
        found = [tokens[v] for v in node.inputs if v in tokens]
        if found:
            follows[made] = list(dict.fromkeys(found))
    new.outputs = [mapped.get(v, v) for v in graph.outputs]
    return new, follows


def own_outputs(graph: Graph) -> Graph:
    """Outputs that are inputs, numbers or repeated become copies, so that each output has memory of its own."""
    seen: set[Value] = set()
    b = Builder(graph)
    copy = Graph(graph.name)
    copy.inputs, copy.nodes = graph.inputs, list(graph.nodes)
    b.graph = copy
    for value in graph.outputs:
        if value.node.op is None or value in seen:
            value = b.full(value, (), value.dtype, value.type.device) if value.type.weak else b.reshape(value, value.shape)
        seen.add(value)
        copy.outputs.append(value)
    return copy


class _Lowering:
    def __init__(self, graph: Graph, windows: bool, follows: dict[Node, list[Value]]) -> None:
        self.graph = graph
        self.windows = windows
        self.program = Program()
        self.buffers: dict[Value, int] = {}
        self.scalars: dict[tuple[Value, DType], int] = {}
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.fuser = Fuser(graph, windows, follows)
        self.epilogues: dict[Unit, Unit] = {}
        self.place = Place(self.buffer, self.scalar)

    def run(self) -> Program:
        self.fuser.run()
        outputs = set(self.graph.outputs)
        for value in self.graph.inputs:
            self.program.inputs.append(-1 if value.type.weak else self.new_buffer(value, "input"))
        for value in self.graph.outputs:
            self.new_buffer(value, "output")
        units = self.fuser.ordered()
        same = same_elements(units, outputs, self.fuser.stored, self.place, self.order)
        units = [unit for unit in units if unit not in same]
        shared = dict(same.values())
        for value in [v for v in self.fuser.stored if v not in self.buffers and v not in outputs and v not in shared]:
            self.new_buffer(value, "temp")
        for value, target in shared.items():
            self.buffers[value] = self.buffers[target]
        self.epilogues = only_readers(units, set(self.graph.outputs))
        waiting = set(self.epilogues.values())
        for unit in units:
            if unit in self.epilogues:
                self.product_with_map(unit)
            elif unit not in waiting:
                self.steps(unit)
        self.program.outputs = [self.buffers[v] for v in self.graph.outputs]
        return self.program

    def new_buffer(self, value: Value, kind: str) -> int:
        number = self.buffers[value] = len(self.program.buffers)
        self.program.buffers.append(BufferInfo(value.type.nbytes, kind, value.dtype, value.shape))
        return number

    def buffer(self, value: Value) -> int:
        return self.buffers[value]

    def scalar(self, value: Value, dtype: DType) -> int:
        """The number of the run-time scalar that is graph input `value` as `dtype`."""
        found = self.scalars.get((value, dtype))
        if found is None:
            found = self.scalars[value, dtype] = len(self.program.scalars)
            self.program.scalars.append(ScalarInfo(self.graph.inputs.index(value), dtype))
        return found

    def steps(self, unit: Unit) -> None:
        node = unit.node
        if node is None:
            self.program.steps.append(KernelBuilder(unit, self.place, self.order, wraps=self.windows).build())
        elif unit in self.fuser.folded and is_attention(node):
            lower_attention(self, node, self.fuser.folded[unit])
        elif unit in self.fuser.folded:
            self.product(unit, node)
        else:
            self.alone(node)

    def product_with_map(self, unit: Unit) -> None:
        """A product and the map that reads it: one step if the map walks through the product as its tiles do."""
        self.steps(self.epilogues[unit])
        product = self.program.steps[-1]
        assert isinstance(product, GemmStep)
        product.epilogue = build_epilogue(unit, self.place, self.order, product)
        if product.epilogue is None:
            self.steps(unit)

    def alone(self, node: Node) -> None:
        """A node that no kernel computes: a native loop, a routine or, failing these, its numpy reference."""
        if node.op is not None and node.op.name == "scan" and lower_scan(self, node, partial(lower, windows=self.windows)):
            return
        if lower_routine(self, node):
            return
        inputs: list[Ref | ScalarRef] = []
        for v in node.inputs:
            number = v.type.weak and v.node.op is None
            inputs.append(ScalarRef(self.scalar(v, v.dtype)) if number else Ref(self.buffer(v)))
        self.program.steps.append(HostStep(node, tuple(inputs), tuple([Ref(self.buffer(o)) for o in node.outputs])))

    def product(self, unit: Unit, node: Node) -> None:
        a, b = self.fuser.folded[unit]
        assert node.op is not None
        form = FORMS.get(node.op.name, "")
        if form == "int8":
            m, n, k = node.out.shape[0], node.attr("n"), node.inputs[0].shape[1]
            self.program.steps.append(GemmStep(node.out.dtype, (), m, n, k, Matrix(Ref(self.buffer(a.base)), (k, 1)),
                                               Matrix(Ref(self.buffer(b.base)), (0, 0)), Matrix(Ref(self.buffer(node.out)), (n, 1)), None,
                                               node, form))
            return
        batch, m, n, k, rows_a, rows_b = shape_product(node, a, b)
        size_a, size_b, size = node.inputs[0].dtype.itemsize, node.inputs[1].dtype.itemsize, node.out.dtype.itemsize
        offsets = [(a.offset, b.offset, 0)]
        while len(batch.sizes) > 2:  # more axes than a product step has: one step for each index along the first
            offsets = [(x + i * batch.a[0], y + i * batch.b[0], z + i * batch.c[0]) for x, y, z in offsets for i in range(batch.sizes[0])]
            batch = type(batch)(*[part[1:] for part in batch])
        for at_a, at_b, at_c in offsets:
            self.program.steps.append(GemmStep(
                node.out.dtype, batch.sizes, m, n, k, Matrix(Ref(self.buffer(a.base), at_a * size_a), (*batch.a, *rows_a)),
                Matrix(Ref(self.buffer(b.base), at_b * size_b), (*batch.b, *rows_b), b.windows),
                Matrix(Ref(self.buffer(node.out), at_c * size), (*batch.c, n, 1)), None, node, form))
