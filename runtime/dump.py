"""Compiling, step by step: files under `TREADLE_DUMP`, and the log channels `passes`, `kernels`, `memory` and `recompile`.

Each compiled graph gets a directory of its own, numbered in order:

    0000/00-recorded.mlir       the graph as recorded
    0000/01-decompose.mlir      after the first pass, and 01-decompose.diff when the pass changed it; and so on
    0000/plan.txt               launches, matrix products and host calls in order
    0000/kernels.txt            the kernels' loops
    0000/kernels.ll, .s         their LLVM IR and assembly
    0000/index.html             all of that in one page; `index.html` above it lists the pages
"""
from __future__ import annotations

import difflib
import itertools
from pathlib import Path

from treadle.codegen import jit
from treadle.ir.graph import Graph, Location
from treadle.ir.text import print_graph, print_node
from treadle.passes.program import Program
from treadle.runtime import log


class Watch:
    """Follows one graph from its recording to its plan. `directory` is None when nothing is to be written."""

    def __init__(self, graph: Graph, directory: Path | None) -> None:
        self.directory = directory
        self.passes = 0
        self.graph = graph  # what is to be compiled
        if directory is not None:
            from treadle.runtime import report
            self.graph = report.tagged(graph)
        self.stages = [("recorded", self.graph)]
        graph = self.graph
        self.text = print_graph(graph)
        self.write("00-recorded.mlir", self.text)

    def after(self, name: str, graph: Graph) -> None:
        """Called with the result of each pass."""
        self.passes += 1
        self.stages.append((name, graph))
        before, self.text = self.text, print_graph(graph)
        stem = f"{self.passes:02d}-{name}"
        self.write(f"{stem}.mlir", self.text)
        if self.text != before:
            log.log("passes", f"{name}: {len(self.graph.nodes)} -> {len(graph.nodes)} nodes")
            if self.directory is not None:
                self.write(f"{stem}.diff", "".join(difflib.unified_diff(
                    before.splitlines(True), self.text.splitlines(True), f"before {name}", f"after {name}")))
        self.graph = graph

    def planned(self, program: Program, plan: str, kernels: str, llvm: str) -> None:
        """The end: the program, and its plan, kernels and LLVM IR as text."""
        log.log("kernels", f"{plan}\n{kernels}")
        log.log("memory", _memory(program))
        self.write("plan.txt", plan + "\n")
        self.write("kernels.txt", kernels + "\n")
        self.write("kernels.ll", llvm)
        if self.directory is not None:
            assembly = jit.assembly(llvm)
            self.write("kernels.s", assembly)
            self.write_page(program, llvm, assembly)

    def write_page(self, program: Program, llvm: str, assembly: str) -> None:
        """The page of this graph, and the list of all pages."""
        from treadle.runtime import html, report
        assert self.directory is not None
        heading = title(self.stages[0][1])
        self.write("index.html", html.page(heading, [report.describe(heading, self.stages, program, llvm, assembly)]))
        _TITLES[self.directory] = heading
        entries = [(f"{path.name}/index.html", _TITLES.get(path, path.name)) for path in sorted(self.directory.parent.iterdir())
                   if (path / "index.html").is_file()]
        partial = self.directory / "list.html"
        partial.write_text(html.index("compiled graphs", entries), encoding="utf-8")
        partial.replace(self.directory.parent / "index.html")

    def write(self, name: str, text: str) -> None:
        if self.directory is not None:
            (self.directory / name).write_text(text, encoding="utf-8", errors="surrogateescape")


_TITLES: dict[Path, str] = {}  # of the pages that this process wrote


def title(graph: Graph) -> str:
    """For people: how many operations, and the lines they come from."""
    lines = dict.fromkeys([node.loc for node in graph.nodes if node.loc])
    first, last = next(iter(lines), None), next(reversed(lines), None)
    where = "" if first is None or last is None else f"{Path(first[0]).name}:{first[1]}"
    if first != last and last is not None:
        where += f" to {Path(last[0]).name}:{last[1]}"
    return f"{len(graph.nodes)} operations" + (f", {where}" if where else "")


def watch(graph: Graph) -> Watch | None:
    """A `Watch` when somebody wants to see how `graph` is compiled."""
    parent = log.dump_dir()
    if parent is None and not any(map(log.enabled, ("passes", "kernels", "memory"))):
        return None
    return Watch(graph, None if parent is None else _next_directory(parent))


def _next_directory(parent: Path) -> Path:
    """The first number that is free; other processes may write to the same place."""
    for number in itertools.count(sum(1 for path in parent.iterdir() if path.is_dir())):
        path = parent / f"{number:04d}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def _memory(program: Program) -> str:
    size = {"input": 0, "output": 0, "temp": 0}
    for info in program.buffers:
        size[info.kind] += info.nbytes
    return (f"inputs {size['input']} bytes, outputs {size['output']}, temporaries {size['temp']} in an arena of {program.arena} "
            f"(lower bound {program.arena_bound})")


_LATEST: dict[Location, Graph] = {}  # the graph last planned at each line that makes work run


def explain_new_plan(where: Location, graph: Graph) -> None:
    """Log what differs from the graph planned before at the same line, if there was one."""
    before = _LATEST.get(where)
    _LATEST[where] = graph
    if before is not None:
        place = f" at {where[0]}:{where[1]}" if where else ""
        log.log("recompile", f"new plan{place}: {first_difference(before, graph)}")


def first_difference(before: Graph, after: Graph) -> str:
    """In words: the first node that differs, else how the graphs' ends differ."""
    for a, b in zip(map(print_node, before.nodes), map(print_node, after.nodes), strict=False):
        if a != b:
            return f"{b} instead of {a}"
    if len(before.nodes) != len(after.nodes):
        return f"{len(after.nodes)} operations instead of {len(before.nodes)}"
    return "other results are wanted"
