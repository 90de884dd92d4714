"""What the HTML page shows of a compiled graph, as plain data: every stage, which launch each op went into, the launches' code.

A pass builds new nodes, so an op is followed by its location: before the passes run, `tagged` numbers the locations, and passes
carry a location from a node to what replaces it.
"""
from __future__ import annotations

import difflib
import functools
import linecache
import re
from collections.abc import Iterator, Sequence
from typing import Any

from treadle.codegen import gemm, jit, work
from treadle.codegen.target import host
from treadle.ir.builder import Builder
from treadle.ir.graph import Graph, Node, Value, rewrite
from treadle.ir.text import format_type, print_graph
from treadle.passes.program import GemmStep, KernelStep, Program, RoutineStep, Step, walk
from treadle.runtime import compiled
from treadle.runtime.machine import machine

Stages = Sequence[tuple[str, Graph]]
Times = Sequence[tuple[int, int]]

CONTEXT = 4  # lines of the program shown above and below an op's
_NODE_LINE = re.compile(r'^\s*(?:%\d+(?::\d+)? = )?"treadle\.(?!yield")')
_DEFINE = re.compile(r"^define [^@\n]*@([\w.$]+)\(", re.M)


class Place(tuple[str, int]):
    """A location that remembers which op of the recorded graph it belongs to."""

    origin: int


def tagged(graph: Graph) -> Graph:
    """A copy of the graph, and of the graphs inside it, whose ops have numbered locations."""
    return _Tagger().copy(graph)


class _Tagger:
    def __init__(self) -> None:
        self.count = 0

    def copy(self, graph: Graph) -> Graph:
        return rewrite(graph, self.rule, Builder())

    def rule(self, builder: Any, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        loc = node.loc
        if loc is not None:
            loc = Place(loc)
            loc.origin = self.count
        self.count += 1
        attrs = tuple([self.copy(a) if isinstance(a, Graph) else a for a in node.attrs])
        made: tuple[Value, ...] = builder.graph.append(Node(node.op, inputs, attrs, tuple([o.type for o in node.outputs]), loc)).outputs
        return made


def origin(node: Node) -> int:
    """The number of the recorded op that `node` stems from, -1 when it is not known."""
    return node.loc.origin if isinstance(node.loc, Place) else -1


def every_node(graph: Graph) -> Iterator[Node]:
    """The graph's nodes in the order of its text: the nodes of inner graphs follow the node that has them."""
    for node in graph.nodes:
        yield node
        for region in node.regions:
            yield from every_node(region)


# -- one graph -------------------------------------------------------------------------------------------------------------
def describe(title: str, stages: Stages, program: Program, llvm: str, assembly: str, times: Times = ()) -> dict[str, Any]:
    """The graph's part of the page. `stages` begins with the (tagged) graph as recorded; llvm and assembly are of its kernels; `times`
    says of each launch, if anything is known, how often it ran and how many nanoseconds that took in all."""
    places = _Places()
    steps = list(walk(program.steps))
    homes = _Homes(steps)
    shown: list[dict[str, Any]] = []
    before = ""
    previous: list[tuple[str, str]] = []
    for number, (name, graph) in enumerate(stages):
        text = print_graph(graph)
        if number and text == before:
            shown.append({"name": name, "same": shown[-1].get("same", number - 1), "count": shown[-1]["count"]})
            continue
        keyed = _keyed(graph, text)
        shown.append({"name": name, "diff": _difference(previous, keyed) if number else [], "count": len(graph.nodes),
                      **_lines(graph, text, homes, places)})
        before, previous = text, keyed
    named = {form: name for name, form in compiled.named_kernels(program).items()}
    codes = {**_functions(llvm, assembly, list(named.values())), **_products(steps)}
    plan = compiled.print_program(program).splitlines()
    launches = [_launch(program, step, line.strip(), named, places) for step, line in zip(steps, plan[1:], strict=True)]
    for (runs, taken), step, launch in zip(times, steps, launches, strict=False):
        if runs:
            best = machine().seconds(*work.work_of(program, step))
            launch.update(runs=runs, us=taken / runs / 1e3, roofline=best * 1e9 * runs / taken)
    return {"title": title, "stages": shown, "plan": plan, "steps": launches, "codes": codes, "places": places.found}


class _Places:
    """Locations with the lines of the program around them, each once."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._index: dict[tuple[str, int], int] = {}

    def add(self, loc: tuple[str, int] | None) -> int:
        if loc is None:
            return -1
        key = (loc[0], loc[1])
        if key not in self._index:
            self._index[key] = len(self.found)
            lines = linecache.getlines(key[0])
            first = max(1, key[1] - CONTEXT)
            self.found.append({"file": key[0], "line": key[1], "first": first,
                               "text": [s.rstrip("\n") for s in lines[first - 1:key[1] + CONTEXT]]})
        return self._index[key]


class _Homes:
    """Which launches an op went into: by the node itself, else by the recorded op it stems from, else by its line."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.by_node: dict[int, list[int]] = {}
        self.by_origin: dict[int, list[int]] = {}
        self.by_line: dict[Any, list[int]] = {}
        for number, step in enumerate(steps):
            for node in work.nodes_of(step):
                places: tuple[tuple[dict[Any, list[int]], Any], ...] = (
                    (self.by_node, id(node)), (self.by_origin, origin(node)), (self.by_line, node.loc))
                for table, key in places:
                    found = table.setdefault(key, [])
                    if number not in found:
                        found.append(number)

    def find(self, node: Node) -> tuple[list[int], bool]:
        """The launches' numbers, and whether that is exact."""
        exact = self.by_node.get(id(node)) or (self.by_origin.get(origin(node)) if origin(node) >= 0 else None)
        return (exact, True) if exact else (self.by_line.get(node.loc, []) if node.loc else [], False)


def _lines(graph: Graph, text: str, homes: _Homes, places: _Places) -> dict[str, Any]:
    """The text with, for each line, the number of its node (-1: none), and the nodes."""
    nodes = list(every_node(graph))
    lines: list[list[Any]] = []
    at = 0
    for line in text.splitlines():
        is_node = at < len(nodes) and _NODE_LINE.match(line) is not None
        lines.append([line, at if is_node else -1])
        at += is_node
    top = {node: i for i, node in enumerate(nodes)}
    outer = set(graph.nodes)
    entries = []
    for node in nodes:
        steps, exact = homes.find(node)
        feeds = [top[v.node] for v in dict.fromkeys(node.inputs) if v.node in top and v.node in outer] if node in outer else []
        entries.append({"op": node.op.name if node.op else "input", "type": ", ".join(format_type(o.type) for o in node.outputs),
                        "origin": origin(node), "place": places.add(node.loc), "steps": steps, "exact": exact, "inputs": feeds,
                        "inner": node not in outer})
    return {"lines": lines, "nodes": entries}


_RESULT = re.compile(r"%\d+")


def _keyed(graph: Graph, text: str) -> list[tuple[str, str]]:
    """Each line with what to compare it by: numbers of values, which change when anything before them does, give way to the number of
    the recorded op that the value stems from (or else to the name of its op)."""
    nodes = every_node(graph)
    names: dict[str, str] = {}
    found = []
    for line in text.splitlines():
        if _NODE_LINE.match(line):
            node = next(nodes, None)
            result = _RESULT.match(line.strip())
            if node is not None and result:
                names[result[0]] = f"%{origin(node)}" if origin(node) >= 0 else f"%{node.op.name if node.op else ''}"
        found.append((_RESULT.sub(lambda m: names.get(m[0], m[0]), line), line))
    return found


def _difference(before: list[tuple[str, str]], after: list[tuple[str, str]]) -> list[str]:
    """A unified diff of lines compared by their keys."""
    lines: list[str] = []
    matcher = difflib.SequenceMatcher(None, [key for key, _ in before], [key for key, _ in after], autojunk=False)
    for group in matcher.get_grouped_opcodes(2):
        lines.append(f"@@ -{group[0][1] + 1} +{group[0][3] + 1} @@")
        for kind, low, high, new_low, new_high in group:
            if kind == "equal":
                lines += [" " + line for _, line in after[new_low:new_high]]
            else:
                lines += ["-" + line for _, line in before[low:high]] + ["+" + line for _, line in after[new_low:new_high]]
    return lines


def _launch(program: Program, step: Step, line: str, named: dict[compiled.Form, str], places: _Places) -> dict[str, Any]:
    code, text = [], ""
    if isinstance(step, GemmStep):
        code.append(_product_key(step))
        if step.epilogue is not None:
            code.append(named["tile", step.epilogue.kernel])
            text = compiled.print_form(("tile", step.epilogue.kernel), code[-1])
    elif isinstance(step, KernelStep | RoutineStep):
        form: compiled.Form = ("loop", step.kernel) if isinstance(step, KernelStep) else ("routine", step.routine)
        code.append(named[form])
        text = compiled.print_form(form, code[-1])
    amount = work.work_of(program, step)
    return {"title": work.title(step), "line": line, "kernel": text, "code": code, "flops": amount.flops, "bytes": amount.bytes,
            "origins": sorted({origin(n) for n in work.nodes_of(step)} - {-1}), "places": [places.add(loc) for loc in work.sources(step)]}


# -- machine code ------------------------------------------------------------------------------------------------------------
def _functions(llvm: str, assembly: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The LLVM IR and the assembly of each of these functions."""
    return {name: {"llvm": _llvm_of(llvm, name), "asm": _assembly_of(assembly, name)} for name in names}


def _llvm_of(text: str, name: str) -> str:
    found = re.search(rf"^define [^@\n]*@{re.escape(name)}\(.*?^}}", text, re.M | re.S)
    return found[0] if found else ""


def _assembly_of(text: str, name: str) -> str:
    """From the label to the end that the assembler is told of."""
    found = re.search(rf"^_?{re.escape(name)}:.*?(?=^\s*\.size\s+{re.escape(name)},|^\.?L?func_end|^\.Lfunc_end|\Z)", text, re.M | re.S)
    return found[0].rstrip() if found else ""


@functools.cache
def _product_texts(dtype: str) -> tuple[str, str]:
    text = gemm.gemm_text(host(), dtype)
    return text, jit.assembly(text, passes=False)


def _product_key(step: GemmStep) -> str:
    return f"{compiled.matrix_call(step).symbol}, {min(step.m, 8)} rows"


def _products(steps: Sequence[Step]) -> dict[str, dict[str, str]]:
    """The code of matrix products: the entry and what it calls, of kernels that differ in their size only one."""
    found: dict[str, dict[str, str]] = {}
    for step in steps:
        if isinstance(step, GemmStep) and _product_key(step) not in found:
            symbol = compiled.matrix_call(step).symbol
            llvm, assembly = _product_texts(symbol.rsplit("_", 1)[1])
            names = _called(llvm, symbol, min(step.m, 8))
            found[_product_key(step)] = {"llvm": "\n\n".join(_llvm_of(llvm, n) for n in names),
                                         "asm": "\n\n".join(_assembly_of(assembly, n) for n in names)}
    return found


_FAMILY = re.compile(r"(.*_)(\d+|\d+x\d+)$")


def _called(llvm: str, symbol: str, rows: int) -> list[str]:
    """`symbol` and the functions of the module that it calls. Of a family numbered by rows the one for `rows`, of one numbered by rows and
    columns the largest."""
    defined = _DEFINE.findall(llvm)
    families: dict[str, list[str]] = {}
    for name in defined:
        family = _FAMILY.match(name)
        families.setdefault(family[1] if family else name, []).append(name)
    chosen = {name: members[-1] if "x" in name.rsplit("_", 1)[1:][-1] else members[min(rows, len(members)) - 1]
              for members in families.values() for name in members if len(members) > 1}
    tables = {table: re.findall(r"@([\w.$]+)", line) for table, line in re.findall(r"^@([\w.$]+) = (.*)$", llvm, re.M)}
    order, known = [symbol], {symbol}
    for name in order:  # grows while it is walked
        text = _llvm_of(llvm, name)
        for used in dict.fromkeys(re.findall(r"@([\w.$]+)", text)):
            for target in tables.get(used, [used]):
                target = chosen.get(target, target)
                if target in defined and target not in known:
                    known.add(target)
                    order.append(target)
    return order
