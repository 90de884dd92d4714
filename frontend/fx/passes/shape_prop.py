"""ShapeProp: a graph run on example inputs, to note the shape and dtype of each value."""
from __future__ import annotations

from typing import Any, NamedTuple

import treadle
from treadle.fx.interpreter import Interpreter
from treadle.fx.node import Node
from treadle.tensor import Tensor

__all__ = ["ShapeProp", "TensorMetadata"]


class TensorMetadata(NamedTuple):
    """What is known of a tensor without its elements."""

    shape: Any
    dtype: Any
    requires_grad: bool
    stride: tuple[int, ...]
    memory_format: Any
    is_quantized: bool
    qparams: dict[str, Any]


def _described(value: Any) -> Any:
    """TensorMetadata in place of tensors; None where there are none."""
    if isinstance(value, Tensor):
        formats = (treadle.contiguous_format, treadle.channels_last, treadle.channels_last_3d)
        wide = {treadle.channels_last: 4, treadle.channels_last_3d: 5}
        form = next((f for f in formats if wide.get(f, value.dim()) == value.dim() and value.is_contiguous(memory_format=f)), None)
        return TensorMetadata(value.shape, value.dtype, value.requires_grad, tuple(value.stride()), form, False, {})
    if isinstance(value, list | tuple):
        items = [_described(v) for v in value]
        return tuple(items) if any(i is not None for i in items) else None
    if isinstance(value, dict):
        found = {k: _described(v) for k, v in value.items()}
        return found if any(v is not None for v in found.values()) else None
    return None


class ShapeProp(Interpreter):
    """Leaves a TensorMetadata in each node's `meta["tensor_meta"]`, and the value's type in `meta["type"]`."""

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        described = _described(result)
        if described is not None:
            n.meta["tensor_meta"] = described
        n.meta["type"] = type(result)
        return result

    def propagate(self, *args: Any) -> Any:
        """Run on these inputs; returns what the graph returns."""
        return super().run(*args)
