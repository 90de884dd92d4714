"""Runs every example for a moment and assembles the kernels of all it compiled, for each architecture; prints what is wrong.

`python tests/example_kernels.py`, in a process of its own: what another program has compiled would not be compiled again.
"""
from __future__ import annotations

import contextlib
import io
import runpy
import sys
from pathlib import Path

from treadle.codegen.ptx_target import ARCHITECTURES
from treadle.ir.graph import Graph
from treadle.runtime import compiled, cuda_plan, cuda_tools, engine

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
BRIEF = {"charlm": ["--steps", "3"], "cnn": ["--epochs", "1"], "detection": ["--steps", "3"], "digits": ["--epochs", "1"],
         "translate": ["--steps", "3"], "vae": ["--epochs", "1"]}


def graphs_of(path: Path) -> list[Graph]:
    """What the example had compiled."""
    found: list[Graph] = []
    real = compiled.compile_graph

    def note(graph: Graph) -> compiled.CompiledPlan:
        found.append(graph)
        return real(graph)
    engine.COMPILE = compiled.compile_graph = note
    arguments, sys.argv = sys.argv, [str(path), *BRIEF.get(path.stem, [])]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, compiled.compile_graph = arguments, real
        engine.COMPILE = real
    return found


def main() -> None:
    graphs = {path.stem: graphs_of(path) for path in EXAMPLES}
    for architecture in ARCHITECTURES:
        seen: set[str] = set()
        for name, found in graphs.items():
            for graph in found:
                for kernel, text in cuda_plan.kernel_texts(graph, architecture)[0].items():
                    if kernel not in seen:
                        seen.add(kernel)
                        usage = cuda_tools.assemble(text, architecture)
                        if usage.registers == 0 or usage.stack or usage.spilled:
                            print(f"{name}: {kernel} for {architecture}: {usage}", flush=True)
        print(f"{len(seen)} kernels for {architecture}", file=sys.stderr)
    print({name: len(found) for name, found in graphs.items()}, file=sys.stderr)


if __name__ == "__main__":
    main()
