"""`treadle.onnx`: ONNX files are not written yet."""
from __future__ import annotations

from typing import Any

__all__ = ["export", "is_in_onnx_export"]


def export(model: Any, args: Any = (), f: Any = None, **kwargs: Any) -> Any:
    """NotImplementedError, naming what there is instead."""
    raise NotImplementedError("onnx.export: Treadle has no ONNX writer. For other compilers, treadle.inspect(model, *args) gives the "
                              "graph as MLIR; for weights, treadle.save(model.state_dict(), 'model.safetensors').")


def is_in_onnx_export() -> bool:
    return False
