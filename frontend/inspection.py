"""`treadle.inspect(fn, *args)`: everything between a line of Python and machine code, as text."""
from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from treadle.codegen import jit
from treadle.ir.graph import Graph
from treadle.ir.text import print_graph
from treadle.passes.pipeline import compile_to_program, prepare
from treadle.passes.program import Program
from treadle.runtime import compiled, engine


class Inspection:
    """The stages of what a call recorded. Each attribute is computed when asked for.

    graph: the recorded IR (of the last flush, when the call needed several; all are in `graphs`); optimized: after the
    graph passes; mlir: the graph as text; kernels: kernel IR by name; llvm: their LLVM IR; asm: the host's assembly;
    plan: the launches in order with sizes and memory.
    """

    def __init__(self, result: Any, graphs: list[Graph]) -> None:
        self.result = result
        self.graphs = graphs

    @property
    def graph(self) -> Graph:
        return self.graphs[-1]

    @cached_property
    def optimized(self) -> Graph:
        return prepare(self.graph)

    @property
    def mlir(self) -> str:
        return print_graph(self.graph)

    @cached_property
    def program(self) -> Program:
        return compile_to_program(self.graph)

    @cached_property
    def kernels(self) -> dict[str, str]:
        return {name: compiled.print_form(form, name) for name, form in compiled.named_kernels(self.program).items()}

    @cached_property
    def llvm(self) -> str:
        return compiled.module_text(compiled.named_kernels(self.program))

    @cached_property
    def asm(self) -> str:
        return jit.assembly(self.llvm)

    @cached_property
    def plan(self) -> str:
        return compiled.print_program(self.program)

    def __repr__(self) -> str:
        return f"{self.mlir}\n\n{self.plan}"


def inspect(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Inspection:
    """Call `fn(*args, **kwargs)` and show what it recorded. What was pending before is computed first."""
    engine.flush("inspect")
    seen: list[Graph] = []
    engine.observers.append(seen.append)
    try:
        result = fn(*args, **kwargs)
        engine.flush("inspect")
    finally:
        engine.observers.remove(seen.append)
    if not seen:
        raise RuntimeError("inspect: the call recorded no operation whose result is kept")
    return Inspection(result, seen)
