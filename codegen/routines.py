"""Routines to LLVM IR: `void routine(ptr args, i64 lo, i64 hi, ptr scratch)`, called as kernels are."""
from __future__ import annotations

from collections.abc import Callable

from treadle.codegen.attention_gradient import emit_attention_gradient
from treadle.codegen.attention_kernel import emit_attention
from treadle.codegen.llvm_text import Function, Module, Val
from treadle.codegen.scan_kernel import emit_scan
from treadle.codegen.scatter_kernel import emit_bincount, emit_scatter
from treadle.codegen.sort_kernel import emit_sort, emit_topk
from treadle.codegen.sparse_kernel import emit_sparse_matmul
from treadle.codegen.target import Target
from treadle.ir.routine import ARGUMENTS, Routine

Body = Callable[[Function, Routine, dict[str, Val], Val, Val, Val], None]

_BODIES: dict[str, Body] = {"scan": emit_scan, "sort": emit_sort, "topk": emit_topk, "scatter": emit_scatter,
                            "sparse_matmul": emit_sparse_matmul, "bincount": emit_bincount}
# Families that are several functions.
_MODULES: dict[str, Callable[[Module, Routine, str, Target], None]] = {"attention": emit_attention,
                                                                                "attention_backward": emit_attention_gradient}
_POINTERS = frozenset(("error", "x", "out", "index", "values", "totals", "place", "src", "workspace", "cols", "starts",
                       "order"))


def emit_routine(module: Module, routine: Routine, name: str, target: Target) -> None:
    """Add the routine's function to the module."""
    if routine.family in _MODULES:
        _MODULES[routine.family](module, routine, name, target)
        return
    low, high, scratch = Val("i64", "%lo"), Val("i64", "%hi"), Val("ptr", "%scratch")
    table = Val("ptr", "%args")
    f = Function(module, name, [table, low, high, scratch])
    module.software_half = target.arch == "x86_64" and not target.has("f16c")
    args = {what: f.load(f.gep(table, i, "i64"), "ptr" if what in _POINTERS else "i64")
            for i, what in enumerate(ARGUMENTS[routine.family])}
    _BODIES[routine.family](f, routine, args, low, high, scratch)
    f.line("ret void")
    f.finish()
