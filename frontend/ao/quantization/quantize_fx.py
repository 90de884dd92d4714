"""Static quantization in PyTorch's three steps: `prepare_fx`, calibration by calling the model, `convert_fx`."""
from __future__ import annotations

import copy
from typing import Any

from treadle.nn.module import Module
from treadle.quantization import QConfig
from treadle.quantization.convert import KINDS, Range, _convert, _hooks
from treadle.quantization.report import Report

__all__ = ["convert_fx", "prepare_fx"]


def prepare_fx(model: Module, qconfig_mapping: Any = None, example_inputs: Any = None, prepare_custom_config: Any = None,
               backend_config: Any = None) -> Module:
    """A copy of the model that notes the ranges of its layers' inputs whenever it is called.

    qconfig_mapping: a `QConfig` or what `get_default_qconfig_mapping` gives. The other arguments are accepted and have nothing to do.
    ValueError for a QConfig that is not static.
    """
    config = qconfig_mapping if qconfig_mapping is not None else QConfig(activation="static")
    if not isinstance(config, QConfig) or config.activation != "static":
        raise ValueError(f'prepare_fx: expected a QConfig(activation="static"), got {config!r}')
    prepared = copy.deepcopy(model)
    ranges: dict[str, Range] = {}
    inputs: dict[str, Any] = {}
    object.__setattr__(prepared, "_observed", (config, ranges, inputs, _hooks(prepared, config, ranges, inputs)))
    return prepared


def convert_fx(graph_module: Module, *args: Any, **kwargs: Any) -> Module:
    """The model that `prepare_fx` made, in int8 by the ranges met so far. Its `report` says what became of each layer.

    RuntimeError for a model that was not prepared, or was never called on calibration data.
    """
    observed = graph_module.__dict__.get("_observed")
    if observed is None:
        raise RuntimeError("convert_fx: the model was not made by prepare_fx")
    config, ranges, inputs, handles = observed
    if not ranges:
        raise RuntimeError("convert_fx: no calibration data reached a layer: call the prepared model on some inputs first")
    for handle in handles:
        handle.remove()
    object.__delattr__(graph_module, "_observed")
    report = Report()
    result = _convert(graph_module, config, ranges, inputs, report, lambda name, layer: isinstance(layer, KINDS))
    object.__setattr__(result, "report", report)
    return result
