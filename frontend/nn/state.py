"""State dicts of modules: collecting them, loading them, and the messages when something does not fit."""
from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import treadle
from treadle.nn.parameter import Parameter
from treadle.tensor import Tensor

if TYPE_CHECKING:
    from treadle.nn.module import Module

EXTRA_STATE = "_extra_state"


class _IncompatibleKeys(namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    """What `load_state_dict` returns: the keys that did not match."""

    __slots__ = ()

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return super().__repr__()

    __str__ = __repr__


def new_destination() -> Any:
    destination: Any = OrderedDict()
    destination._metadata = OrderedDict()
    return destination


def collect(module: Module, args: tuple, destination: Any, prefix: str, keep_vars: bool) -> Any:
    """The work of `Module.state_dict`; `args` are its deprecated positional arguments."""
    if args:
        warnings.warn("Positional args are being deprecated, use kwargs instead.", FutureWarning, stacklevel=3)
        given = (*args, None, None, None)
        destination = given[0] if destination is None else destination
        prefix = given[1] if len(args) > 1 and prefix == "" else prefix
        keep_vars = given[2] if len(args) > 2 and keep_vars is False else keep_vars
    destination = new_destination() if destination is None else destination
    metadata = {"version": module._version}
    if hasattr(destination, "_metadata"):
        destination._metadata[prefix[:-1]] = metadata
    for hook in module._state_dict_pre_hooks.values():
        hook(module, prefix, keep_vars)
    module._save_to_state_dict(destination, prefix, keep_vars)
    for name, child in module._modules.items():
        if child is not None:
            child.state_dict(destination=destination, prefix=prefix + name + ".", keep_vars=keep_vars)
    for hook in module._state_dict_hooks.values():
        changed = hook(module, destination, prefix, metadata)
        if changed is not None:
            if getattr(hook, "_from_public_api", False):
                raise RuntimeError("state_dict post-hook must return None")
            destination = changed
    return destination


def save_own(module: Module, destination: Any, prefix: str, keep_vars: bool) -> None:
    """Put the module's own parameters, persistent buffers and extra state, not its children's, into `destination`."""
    for name, param in module._parameters.items():
        if param is not None:
            destination[prefix + name] = param if keep_vars else param.detach()
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            destination[prefix + name] = buffer if keep_vars else buffer.detach()
    if _overrides(module, "get_extra_state"):
        destination[prefix + EXTRA_STATE] = module.get_extra_state()


def _overrides(module: Module, method: str) -> bool:
    from treadle.nn.module import Module

    return getattr(type(module), method) is not getattr(Module, method)


def load_own(module: Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], strict: bool,
             missing: list[str], unexpected: list[str], errors: list[str]) -> None:
    """Copy the entries of `state` that belong to this module; what goes wrong is added to the three lists."""
    for hook in module._load_state_dict_pre_hooks.values():
        hook(state, prefix, metadata, strict, missing, unexpected, errors)
    own: dict[str, Tensor] = {k: v for k, v in module._parameters.items() if v is not None}
    own |= {k: v for k, v in module._buffers.items() if v is not None and k not in module._non_persistent_buffers_set}
    assign = metadata.get("assign_to_params_buffers", False)
    for name, value in own.items():
        if prefix + name in state:
            _load_one(module, name, prefix + name, value, state[prefix + name], assign, errors)
        elif strict:
            missing.append(prefix + name)
    _load_extra(module, state, prefix + EXTRA_STATE, strict, missing, unexpected)
    if strict:
        unexpected.extend(_unknown_keys(module, state, prefix, own))


def _load_one(module: Module, name: str, key: str, value: Any, given: Any, assign: bool, errors: list[str]) -> None:
    if not isinstance(given, Tensor):
        errors.append(f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object from '
                      f"checkpoint but received {type(given)}")
        return
    if len(value.shape) == 0 and tuple(given.shape) == (1,):  # files from before there were 0-d tensors
        given = given[0]
    if given.shape != value.shape:
        errors.append(f"size mismatch for {key}: copying a param with shape {given.shape} from checkpoint, "
                      f"the shape in current model is {value.shape}.")
        return
    try:
        with treadle.no_grad():
            if assign:
                setattr(module, name, _as_kind(value, given))
            else:
                value.copy_(given)
    except Exception as problem:
        errors.append(f'While copying the parameter named "{key}", whose dimensions in the model are {value.size()} and '
                      f"whose dimensions in the checkpoint are {given.size()}, an exception occurred : {problem.args}.")


def _as_kind(old: Any, new: Tensor) -> Tensor:
    """`new`, as a Parameter where `old` is one."""
    if not isinstance(old, Parameter):
        return new
    if isinstance(new, Parameter):
        return new.requires_grad_(old.requires_grad)
    return Parameter(new, requires_grad=old.requires_grad)


def _load_extra(module: Module, state: dict[str, Any], key: str, strict: bool, missing: list[str], unexpected: list[str]) -> None:
    if _overrides(module, "set_extra_state"):
        if key in state:
            module.set_extra_state(state[key])
        elif strict:
            missing.append(key)
    elif strict and key in state:
        unexpected.append(key)


def _unknown_keys(module: Module, state: dict[str, Any], prefix: str, own: dict[str, Any]) -> list[str]:
    found = []
    for key in state:
        if key.startswith(prefix) and key != prefix + EXTRA_STATE:
            first, *rest = key[len(prefix):].split(".", 1)
            if first not in (module._modules if rest else own):
                found.append(key)
    return found


def load(module: Module, state_dict: Mapping[str, Any], strict: bool, assign: bool) -> _IncompatibleKeys:
    """Load `state_dict` into `module` and its children.

    Raises TypeError when it is no mapping, RuntimeError listing every size mismatch and, if `strict`, every missing and
    unexpected key.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []
    metadata = getattr(state_dict, "_metadata", None)
    state: Any = OrderedDict(state_dict)  # hooks may change it
    if metadata is not None:
        state._metadata = metadata
    _load_tree(module, state, "", metadata, assign, missing, unexpected, errors)
    if strict:
        for keys, word in ((unexpected, "Unexpected"), (missing, "Missing")):
            if keys:
                errors.insert(0, "{} key(s) in state_dict: {}. ".format(word, ", ".join(f'"{k}"' for k in keys)))
    if errors:
        raise RuntimeError("Error(s) in loading state_dict for {}:\n\t{}".format(type(module).__name__, "\n\t".join(errors)))
    return _IncompatibleKeys(missing, unexpected)


def _load_tree(module: Module, state: Any, prefix: str, metadata: Any, assign: bool,
               missing: list[str], unexpected: list[str], errors: list[str]) -> None:
    local = {} if metadata is None else dict(metadata.get(prefix[:-1], {}))
    if assign:
        local["assign_to_params_buffers"] = assign
    module._load_from_state_dict(state, prefix, local, True, missing, unexpected, errors)
    for name, child in module._modules.items():
        if child is not None:
            start = prefix + name + "."
            part = {k: v for k, v in state.items() if k.startswith(start)}
            _load_tree(child, part, start, metadata, assign, missing, unexpected, errors)
    for hook in module._load_state_dict_post_hooks.values():
        if hook(module, _IncompatibleKeys(missing, unexpected)) is not None:
            raise AssertionError(
                "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return new values, "
                "if incompatible_keys need to be modified, it should be done inplace.")
