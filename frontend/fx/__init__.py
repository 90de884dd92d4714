"""`treadle.fx`: a module's Python as a graph of calls that programs read, change and run again.

A graph here is made of the calls a program writes (`call_module`, `call_function`, ...), before shapes and values are known. For the IR
that Treadle runs, with types and kernels, see `treadle.inspect`.
"""
from treadle.fx import passes, subgraph_rewriter
from treadle.fx.graph import Graph
from treadle.fx.graph_module import GraphModule
from treadle.fx.interpreter import Interpreter, Transformer
from treadle.fx.node import Node, has_side_effect, map_arg
from treadle.fx.proxy import Proxy, TraceError
from treadle.fx.subgraph_rewriter import replace_pattern
from treadle.fx.tracer import Tracer, symbolic_trace, wrap

__all__ = ["Graph", "GraphModule", "Interpreter", "Node", "Proxy", "TraceError", "Tracer", "Transformer", "has_side_effect",
           "map_arg", "passes", "replace_pattern", "subgraph_rewriter", "symbolic_trace", "wrap"]
