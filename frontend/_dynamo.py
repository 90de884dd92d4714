"""`treadle._dynamo`: what programs say to PyTorch's compiler by this name, for `treadle.compile`."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from treadle._inductor import Settings
from treadle.compiler import allow_in_graph, compile, disable, explain, is_compiling, reset
from treadle.tensor import Tensor

__all__ = ["allow_in_graph", "config", "disable", "explain", "graph_break", "is_compiling", "mark_dynamic", "mark_static",
           "maybe_mark_dynamic", "optimize", "reset"]

config = Settings()


def optimize(*args: Any, nopython: bool = False, **kwargs: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `treadle.compile`, refusing what it cannot follow when `nopython`."""
    return lambda function: compile(function, fullgraph=nopython)


def mark_dynamic(t: Tensor, index: Any, **kwargs: Any) -> None:
    """Accepted: no size is ever compiled in."""


mark_static = maybe_mark_dynamic = mark_dynamic


def graph_break(msg: str = "") -> None:
    """Accepted: what a call records is one graph until a value is looked at."""
