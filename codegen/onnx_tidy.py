"""Exported models made shorter: equal operations once, no detours through Identity, biases inside their convolutions."""
from __future__ import annotations

from collections import Counter
from typing import Any

from treadle.codegen.onnx_model import Model
from treadle.codegen.onnx_writer import Operation

_BIASED = ("Conv", "ConvTranspose")


def tidy(model: Model) -> Model:
    """The same model in fewer operations, without initializers that nothing leads to."""
    model.operations = _direct(model, _biased(model, _distinct(model.operations)))
    return _pruned(model)


def _renamed(operation: Operation, names: dict[str, str]) -> Operation:
    return operation._replace(inputs=tuple([names.get(n, n) for n in operation.inputs]))


def _distinct(operations: list[Operation]) -> list[Operation]:
    """Of operations that compute the same, the first."""
    seen: dict[Any, Operation] = {}
    names: dict[str, str] = {}
    kept = []
    for operation in operations:
        operation = _renamed(operation, names)
        key = (operation.type, operation.inputs, len(operation.outputs), repr(sorted(operation.attributes.items())))
        first = None if operation.type == "Identity" else seen.setdefault(key, operation)
        if first is None or first is operation:
            kept.append(operation)
        else:
            names.update(zip(operation.outputs, first.outputs, strict=True))
    return kept


def _direct(model: Model, operations: list[Operation]) -> list[Operation]:
    """Without Identity, but for outputs that are inputs, initializers or other outputs."""
    outputs = {p.name for p in model.outputs}
    names: dict[str, str] = {}
    inner = []
    for operation in operations:
        operation = _renamed(operation, names)
        if operation.type == "Identity" and operation.outputs[0] not in outputs:
            names[operation.outputs[0]] = operation.inputs[0]
        else:
            inner.append(operation)
    made = {n for o in inner for n in o.outputs}
    last: dict[str, str] = {}  # what is computed under another name, by the name of the output
    kept = []
    for operation in inner:
        source = operation.inputs[0] if operation.inputs else ""
        if operation.type == "Identity" and source in made and source not in last and source not in outputs:
            last[source] = operation.outputs[0]
        else:
            kept.append(operation)
    return [_renamed(o, last)._replace(outputs=tuple([last.get(n, n) for n in o.outputs])) for o in kept]


def _biased(model: Model, operations: list[Operation]) -> list[Operation]:
    """Convolutions with what is added to their channels, when that is all that becomes of them."""
    uses = Counter([n for o in operations for n in o.inputs])
    made = {o.outputs[0]: i for i, o in enumerate(operations)}
    found = list(operations)
    for i, operation in enumerate(operations):
        if operation.type != "Add":
            continue
        for one, other in (operation.inputs, operation.inputs[::-1]):
            at = made.get(one)
            product = None if at is None else found[at]
            if at is None or product is None or product.type not in _BIASED or len(product.inputs) != 2 or uses[one] != 1:
                continue
            bias = _vector(model, operations, made, product, other)
            if bias is not None:
                found[i] = product._replace(inputs=(*product.inputs, bias), outputs=operation.outputs)
                found[at] = product._replace(type="Identity", inputs=product.inputs[:1], attributes={})  # nobody reads it
                break
    return found


def _vector(model: Model, operations: list[Operation], made: dict[str, int], product: Operation, added: str) -> str | None:
    """The initializer of one element for each channel that `added` is, reshaped to [1, channels, 1, ...]."""
    shaped = operations[made[added]] if added in made else None
    weight = model.initializers.get(product.inputs[1])
    if shaped is None or shaped.type != "Reshape" or weight is None:
        return None
    vector, target = [model.initializers.get(n) for n in shaped.inputs]
    channels = weight.shape[0] if product.type == "Conv" else weight.shape[1] * product.attributes["group"]
    whole = vector is not None and vector.shape == (channels,)
    if whole and target is not None and target.tolist() in ([1, channels] + [1] * (weight.ndim - 2), [channels] + [1] * (weight.ndim - 2)):
        return shaped.inputs[0]
    return None


def _pruned(model: Model) -> Model:
    needed = {p.name for p in model.outputs}
    kept = []
    for operation in reversed(model.operations):
        if needed.intersection(operation.outputs):
            kept.append(operation._replace(outputs=_used(operation.outputs, needed)))
            needed.update(operation.inputs)
    model.operations = kept[::-1]
    model.initializers = {n: a for n, a in model.initializers.items() if n in needed}
    return model


def _used(names: tuple[str, ...], needed: set[str]) -> tuple[str, ...]:
    """Results that nobody uses are optional: they lose their names, but the first keeps its."""
    found = [n if n in needed or i == 0 else "" for i, n in enumerate(names)]
    while len(found) > 1 and not found[-1]:
        found.pop()
    return tuple(found)
