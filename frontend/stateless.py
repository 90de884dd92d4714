"""Modules as functions of their parameters: `functional_call` and `stack_module_state`."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import treadle
from treadle.tensor import Tensor


def _merged(dicts: Any) -> dict[str, Any]:
    """One dict of all; ValueError when a name is in two."""
    if isinstance(dicts, dict):
        return dict(dicts)
    if not isinstance(dicts, Sequence) or not all(isinstance(d, dict) for d in dicts):
        raise ValueError(f"Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got {type(dicts)}")
    names = [name for d in dicts for name in d]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{repeated} appeared in multiple dictionaries; behavior of functional call is ambiguous")
    return {name: value for d in dicts for name, value in d.items()}


def _places(module: Any) -> dict[str, tuple[dict[str, Any], str]]:
    """Where each parameter and buffer stands, by its full name; tied ones under each of their names."""
    found = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for table in (owner._parameters, owner._buffers):
            for name, value in table.items():
                if value is not None:
                    found[f"{prefix}.{name}" if prefix else name] = (table, name)
    return found


def _with_ties(given: dict[str, Any], places: dict[str, tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """Names of the same tensor get the same value; ValueError when two of them are given different ones."""
    by_tensor: dict[int, list[str]] = {}
    for name, (table, last) in places.items():
        by_tensor.setdefault(id(table[last]), []).append(name)
    out = dict(given)
    for names in by_tensor.values():
        values = [given[n] for n in names if n in given]
        if any(v is not values[0] for v in values[1:]):
            raise ValueError(f"functional_call got multiple values for keys {names}, which are tied. Consider using tie_weights=False")
        if values:
            out.update(dict.fromkeys(names, values[0]))
    return out


def functional_call(module: Any, parameter_and_buffer_dicts: Any, args: Any = None, kwargs: dict[str, Any] | None = None, *,
                    tie_weights: bool = True, strict: bool = False) -> Any:
    """Call `module` with the given tensors in place of its parameters and buffers, named as in its state dict.

    tie_weights: a tensor that the module has under several names is replaced under all of them. strict: RuntimeError unless every
    parameter and buffer is given. RuntimeError for names that the module does not have.
    """
    given = _merged(parameter_and_buffer_dicts)
    places = _places(module)
    for name in given:
        if name not in places:
            raise RuntimeError(f"functional_call: the module has no parameter or buffer {name!r}")
    if tie_weights:
        given = _with_ties(given, places)
    missing = sorted(set(places) - set(given))
    if strict and missing:
        raise RuntimeError(f"functional_call: missing key(s): {', '.join(map(repr, missing))}")
    saved = [(*places[name], places[name][0][places[name][1]]) for name in given]
    try:
        for name, value in given.items():
            table, last = places[name]
            table[last] = value
        given_args = () if args is None else args if isinstance(args, tuple) else (args,)
        return module(*given_args, **(kwargs or {}))
    finally:
        for table, last, value in saved:
            table[last] = value


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters and the buffers of models of one kind, stacked along a new first axis. RuntimeError when they differ in kind."""
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if not (all(m.training for m in models) or all(not m.training for m in models)):
        raise RuntimeError("stack_module_state: Expected all models to have the same training/eval mode.")
    if not all(type(m) is type(models[0]) for m in models):
        raise RuntimeError("stack_module_state: Expected all models to be of the same class.")
    return (_stacked([dict(m.named_parameters()) for m in models]), _stacked([dict(m.named_buffers()) for m in models]))


def _stacked(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    out = {}
    for name, first in states[0].items():
        if any(s[name].requires_grad != first.requires_grad for s in states):
            raise RuntimeError(f"Expected {name} from each model to have the same .requires_grad")
        out[name] = treadle.stack([s[name].detach() for s in states]).detach().requires_grad_(first.requires_grad)
    return out
