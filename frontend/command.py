"""`python -m treadle inspect SCRIPT [args]`: run a program, and write a page that shows how everything it ran is compiled."""
from __future__ import annotations

import argparse
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from treadle.inspection import page
from treadle.ir.graph import Graph
from treadle.passes.program import walk
from treadle.runtime import engine, timing


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m treadle", description="Tools around Treadle programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("inspect", help="run a program and write a page about what it ran",
                               description="Run a program as `python SCRIPT args` would, and write one HTML page: every graph it ran, "
                                           "what each pass made of it, and the kernels, LLVM IR and assembly it becomes.")
    show.add_argument("-o", "--output", type=Path, default=None, metavar="FILE", help="the page (default: SCRIPT.html in this directory)")
    show.add_argument("-n", "--graphs", type=int, default=50, metavar="N", help="how many graphs to show, most work first (default: 50)")
    show.add_argument("script", type=Path, metavar="SCRIPT")
    show.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the program")
    options = parser.parse_args(arguments)
    if options.graphs < 1:
        parser.error("-n expects at least 1")
    if not options.script.is_file():
        parser.error(f"there is no program {options.script}")
    return _inspect(options.script, options.args, options.output or Path(f"{options.script.stem}.html"), options.graphs)


class Seen:
    """The distinct graphs that were run, and how often."""

    def __init__(self) -> None:
        self.graphs: dict[int, Graph] = {}
        self.runs: dict[int, int] = {}

    def note(self, graph: Graph) -> None:
        self.graphs[id(graph)] = graph
        self.runs[id(graph)] = self.runs.get(id(graph), 0) + 1

    def most(self, count: int) -> list[Graph]:
        """The graphs that ran most operations in all, in the order in which they first ran."""
        nodes = {key: len(graph.nodes) * self.runs[key] for key, graph in self.graphs.items() if graph.outputs}
        kept = set(sorted(nodes, key=lambda key: -nodes[key])[:count])
        return [graph for key, graph in self.graphs.items() if key in kept]


def _inspect(script: Path, arguments: list[str], output: Path, count: int) -> int:
    seen = Seen()
    recording = timing.Recording(totals=True)
    engine.observers.append(seen.note)
    recording.begin()
    try:
        status = _run(script, arguments)
        engine.flush("inspect")
    finally:
        engine.observers.remove(seen.note)
        recording.finish()
    graphs = seen.most(count)
    total = sum(1 for graph in seen.graphs.values() if graph.outputs)
    note = "" if len(graphs) == total else f"{len(graphs)} of {total} graphs, those that ran most operations"
    output.write_text(page(script.name, graphs, note, _times(recording)), encoding="utf-8", errors="replace")
    print(f"{output}: {len(graphs)} of {total} graphs that {script} ran", file=sys.stderr)
    return status


def _times(recording: timing.Recording) -> Callable[[Graph], list[tuple[int, int]]]:
    """For each launch of a graph's program, as it ran: how often, and nanoseconds in all."""
    programs = {id(graph): program for graph, program in recording.programs}
    totals = recording.totals or {}

    def of(graph: Graph) -> list[tuple[int, int]]:
        program = programs.get(id(graph))
        entries = [totals.get(id(step)) for step in walk(program.steps)] if program is not None else []
        return [(0, 0) if entry is None else (entry[1], entry[2]) for entry in entries]
    return of


def _run(script: Path, arguments: list[str]) -> int:
    """Run the program; its exit status. An exception is printed as Python would print it."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [os.fspath(script), *arguments]
    sys.path[0:1] = [os.fspath(script.resolve().parent)]
    try:
        runpy.run_path(os.fspath(script), run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0
