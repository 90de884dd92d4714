"""`treadle.inspect(fn, *args)`: everything between a line of Python and machine code, as text."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from treadle.codegen import jit
from treadle.ir.graph import Graph
from treadle.ir.text import print_graph
from treadle.passes.pipeline import compile_to_program, prepare
from treadle.passes.program import Program
from treadle.runtime import compiled, dump, engine


class Inspection:
    """The stages of what a call recorded. Each attribute is computed when asked for.

    graph: the recorded IR (of the last flush, when the call needed several; all are in `graphs`); optimized: after the
    graph passes; mlir: the graph as text; kernels: kernel IR by name; llvm: their LLVM IR; asm: the host's assembly;
    plan: the launches in order with sizes and memory; html: a page with all of it, for every graph of the call.

    On a CUDA device (`device="cuda"`, which needs none to be there): ptx: PTX by kernel name; sass: what the device executes,
    where ptxas and nvdisasm are installed; on_host: what would not run on the device.
    """

    def __init__(self, result: Any, graphs: list[Graph], device: str = "cpu") -> None:
        self.result = result
        self.graphs = graphs
        self.device = device

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
    def linalg(self) -> str:
        """The optimized graph in func, linalg, tensor, arith, math and scf: what upstream MLIR tools compile."""
        from treadle.codegen.linalg import print_linalg  # not needed to run anything
        return print_linalg(self.optimized)

    def dynamic_linalg(self, other: "Inspection") -> str:
        """One such function for all sizes in which this and `other`, the same call with other sizes, differ."""
        from treadle.codegen.linalg import print_linalg  # not needed to run anything
        return print_linalg(self.optimized, other.optimized)

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

    @cached_property
    def _cuda(self) -> tuple[dict[str, str], list[str]]:
        from treadle.runtime.cuda_plan import kernel_texts
        from treadle.runtime.placement import without_device
        if not self.device.startswith("cuda"):
            raise RuntimeError(f'inspect: there is no PTX for device {self.device!r}; ask for it with inspect(fn, ..., device="cuda")')
        return kernel_texts(without_device(self.graph), self._architecture)

    @cached_property
    def _architecture(self) -> str:
        from treadle import cuda
        from treadle.codegen.ptx_target import architecture_for
        return architecture_for(*cuda.get_device_capability()) if cuda.is_available() else "sm_80"

    @property
    def ptx(self) -> dict[str, str]:
        return self._cuda[0]

    @property
    def on_host(self) -> list[str]:
        return self._cuda[1]

    @cached_property
    def sass(self) -> dict[str, str]:
        from treadle.runtime.cuda_tools import disassemble
        return {name: disassemble(text, self._architecture) for name, text in self.ptx.items()}

    @cached_property
    def html(self) -> str:
        return page("inspect", self.graphs)

    def __repr__(self) -> str:
        return f"{self.mlir}\n\n{self.plan}"


def page(title: str, graphs: Sequence[Graph], note: str = "",
         times: Callable[[Graph], Sequence[tuple[int, int]]] = lambda graph: ()) -> str:
    """A self-contained HTML page that shows how these recorded graphs compile.

    times(graph): for each launch of its program, how often it ran and how many nanoseconds that took in all.
    """
    from treadle.runtime import html
    return html.page(title, [_describe(graph, times(graph)) for graph in graphs], note)


def _describe(graph: Graph, times: Sequence[tuple[int, int]]) -> dict[str, Any]:
    from treadle.runtime import report
    graph = report.tagged(graph)
    stages = [("recorded", graph)]
    program = compile_to_program(graph, lambda name, result: stages.append((name, result)))
    text = compiled.module_text(compiled.named_kernels(program))
    return report.describe(dump.title(graph), stages, program, text, jit.assembly(text), times)


def inspect(fn: Callable[..., Any], *args: Any, device: str = "cpu", **kwargs: Any) -> Inspection:
    """Call `fn(*args, **kwargs)` and show what it recorded. What was pending before is computed first.

    device="cuda" shows the same computation on a CUDA device, wherever the arguments are.

    Of a compiled function, the function itself is called: a replay would record nothing. RuntimeError when nothing is recorded.
    """
    fn = getattr(fn, "__treadle_compiled__", fn)
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
    return Inspection(result, seen, device)
