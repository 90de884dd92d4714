"""The exported model as ONNX's protocol buffer, made and checked by the `onnx` package."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from treadle.codegen.onnx_writer import CODES, Operation
from treadle.ir.dtypes import DType

MOST_BYTES = (1 << 31) - 1  # of a protocol buffer
HOW = "onnx.export needs the onnx package: pip install 'treadle[onnx]'"


@dataclass
class Port:
    """An input or output of the model; sizes that are not known have names, or None."""

    name: str
    dtype: DType
    shape: list[int | str | None]


@dataclass
class Model:
    """All there is to write. Initializers in `as_inputs` are inputs too, which whoever runs the model may give."""

    opset: int
    inputs: list[Port]
    outputs: list[Port]
    operations: list[Operation]
    initializers: dict[str, np.ndarray]
    as_inputs: list[str] = field(default_factory=list)


def library() -> Any:
    """The onnx package; ModuleNotFoundError, naming the extra, where it is not installed."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(HOW) from error
    return onnx


def proto(model: Model, name: str, producer: str) -> Any:
    """The ModelProto, checked. RuntimeError when it is larger than a protocol buffer may be."""
    onnx = library()
    size = sum(a.nbytes for a in model.initializers.values())
    if size > MOST_BYTES:
        raise RuntimeError(f"onnx.export: the parameters take {size / 2**30:.1f} GiB, and an ONNX file holds at most 2 GiB. Export with "
                           "export_params=False, and give them to the model as inputs.")
    make = onnx.helper
    initializers = [onnx.numpy_helper.from_array(a, n) for n, a in model.initializers.items()]
    nodes = [make.make_node(o.type, o.inputs, o.outputs, name=f"{o.type}_{i}", **o.attributes) for i, o in enumerate(model.operations)]
    more = [make.make_tensor_value_info(n, _code(onnx, model.initializers[n]), model.initializers[n].shape) for n in model.as_inputs]
    graph = make.make_graph(nodes, name, [_port(make, p) for p in model.inputs] + more, [_port(make, p) for p in model.outputs],
                            initializers)
    opsets = [make.make_opsetid("", model.opset)]
    found = make.make_model(graph, opset_imports=opsets, producer_name="treadle", producer_version=producer,
                            ir_version=max(4, make.find_min_ir_version_for(opsets)))
    onnx.checker.check_model(found, full_check=True)
    return found


def _port(make: Any, port: Port) -> Any:
    return make.make_tensor_value_info(port.name, CODES[port.dtype.name], port.shape)


def _code(onnx: Any, array: np.ndarray) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
