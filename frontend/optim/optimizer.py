"""Optimizer: parameter groups, per-parameter state, and state dicts in PyTorch's layout."""
from __future__ import annotations

import functools
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import treadle
from treadle.ir.op import TABLE
from treadle.nn.arguments import type_name
from treadle.nn.hooks import RemovableHandle, add_hook
from treadle.tensor import Tensor, apply, assign


class _Required:
    """The default of a setting that every group must give."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()

_global_step_pre_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
_global_step_post_hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()


def register_optimizer_step_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`hook(optimizer, args, kwargs)` before every optimizer's step."""
    return add_hook(_global_step_pre_hooks, hook)


def register_optimizer_step_post_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`hook(optimizer, args, kwargs)` after every optimizer's step."""
    return add_hook(_global_step_post_hooks, hook)


def _hooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` with the optimizer's hooks around it; a step that calls its parent's runs them once."""
    @functools.wraps(step)
    def run(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if getattr(type(self).step, "__wrapped__", None) is not step:
            return step(self, *args, **kwargs)
        for hook in (*_global_step_pre_hooks.values(), *self._optimizer_step_pre_hooks.values()):
            changed = hook(self, args, kwargs)
            if changed is not None:
                if not (isinstance(changed, tuple) and len(changed) == 2):
                    raise RuntimeError(f"{step} must return None or a tuple of (new_args, new_kwargs), but got {changed}.")
                args, kwargs = changed
        self._opt_called = True
        result = step(self, *args, **kwargs)
        for hook in (*self._optimizer_step_post_hooks.values(), *_global_step_post_hooks.values()):
            hook(self, args, kwargs)
        return result

    return run


class Optimizer:
    """Base of all optimizers.

    `params` is an iterable of tensors, of (name, tensor) pairs or of group dicts; `defaults` holds what groups leave out.
    TypeError for anything else, ValueError for an empty list, a non-leaf or a parameter in two groups.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self._make_hooks()
        if isinstance(params, Tensor):
            raise TypeError("params argument given to the optimizer should be an iterable of Tensors or dicts, "
                            f"but got {type_name(params)}")
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _hooked(cls.step)  # type: ignore[method-assign]

    def _make_hooks(self) -> None:
        self._opt_called = False
        for name in ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"):
            setattr(self, f"_optimizer_{name}_hooks", OrderedDict())

    _optimizer_step_pre_hooks: OrderedDict[int, Callable[..., Any]]
    _optimizer_step_post_hooks: OrderedDict[int, Callable[..., Any]]
    _optimizer_state_dict_pre_hooks: OrderedDict[int, Callable[..., Any]]
    _optimizer_state_dict_post_hooks: OrderedDict[int, Callable[..., Any]]
    _optimizer_load_state_dict_pre_hooks: OrderedDict[int, Callable[..., Any]]
    _optimizer_load_state_dict_post_hooks: OrderedDict[int, Callable[..., Any]]

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__dict__.update(saved)
        if "_optimizer_step_pre_hooks" not in self.__dict__:
            self._make_hooks()
        for group in self.param_groups:
            for name, value in getattr(self, "defaults", {}).items():
                group.setdefault(name, value)

    def __repr__(self) -> str:
        text = type(self).__name__ + " ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            text += "".join(f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params")
        return text + ")"

    # Groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: a dict with "params" and any settings that differ from the defaults."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        _unpack_params(param_group)
        for param in param_group["params"]:
            if not isinstance(param, Tensor):
                raise TypeError("optimizer can only optimize Tensors, but one of the params is " + type_name(param))
            if not (param.is_leaf or param.retains_grad):
                raise ValueError("can't optimize a non-leaf Tensor")
        for name, default in self.defaults.items():
            if default is required and name not in param_group:
                raise ValueError(f"parameter group didn't specify a value of required optimization parameter {name}")
            param_group.setdefault(name, default)
        ids = [id(param) for param in param_group["params"]]
        if len(ids) != len(set(ids)):
            warnings.warn("optimizer contains a parameter group with duplicate parameters; in future, this will cause an error",
                          stacklevel=3)
        for group in self.param_groups:
            if ("param_names" in param_group) != ("param_names" in group):
                kind = "with names" if "param_names" in param_group else "without names"
                raise ValueError("all optimizer param groups should be with/without names. "
                                 f"cannot add param group {kind} to the optimizer")
            if not {id(param) for param in group["params"]}.isdisjoint(ids):
                raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or set them to zero."""
        for group in self.param_groups:
            for param in group["params"]:
                grad = param.grad
                if grad is None:
                    continue
                if set_to_none:
                    param.grad = None
                else:
                    grad.detach_() if grad.grad_fn is not None else grad.requires_grad_(False)
                    grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters; `closure`, if given, recomputes the loss and its gradients first."""
        raise NotImplementedError

    # State dicts

    def state_dict(self) -> dict[str, Any]:
        """{"state": {index: state}, "param_groups": [...]}, parameters numbered in the order of the groups."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        number: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for param in group["params"]:
                number.setdefault(id(param), len(number))
            packed = {key: value for key, value in group.items() if key != "params"}
            groups.append({**packed, "params": [number[id(param)] for param in group["params"]]})
        state = {number[id(key)] if isinstance(key, Tensor) else key: value for key, value in self.state.items()}
        result: dict[str, Any] = {"state": state, "param_groups": groups}
        for hook in self._optimizer_state_dict_post_hooks.values():
            changed = hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; ValueError when the groups do not match."""
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        saved_groups = deepcopy(state_dict["param_groups"])
        if len(self.param_groups) != len(saved_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(self.param_groups, saved_groups, strict=True)):
            raise ValueError("loaded state dict contains a parameter group that doesn't match the size of optimizer's group")
        by_number = dict(zip(chain.from_iterable(g["params"] for g in saved_groups),
                             chain.from_iterable(g["params"] for g in self.param_groups), strict=True))
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            param = by_number.get(key)
            state[key if param is None else param] = value if param is None else _fitted(param, value)
        groups = []
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            saved["params"] = group["params"]
            if "param_names" in group and "param_names" not in saved:
                saved["param_names"] = group["param_names"]
            groups.append(saved)
        self.__setstate__({"state": state, "param_groups": groups})
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    # Hooks

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """`hook(optimizer, args, kwargs)` before step; it may return changed (args, kwargs)."""
        return add_hook(self._optimizer_step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """`hook(optimizer, args, kwargs)` after step."""
        return add_hook(self._optimizer_step_post_hooks, hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """`hook(optimizer)` before the state dict is collected."""
        return add_hook(self._optimizer_state_dict_pre_hooks, hook, prepend=prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """`hook(optimizer, state_dict)`, which may return another one."""
        return add_hook(self._optimizer_state_dict_post_hooks, hook, prepend=prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """`hook(optimizer, state_dict)` before loading; it may return another one."""
        return add_hook(self._optimizer_load_state_dict_pre_hooks, hook, prepend=prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """`hook(optimizer)` after loading."""
        return add_hook(self._optimizer_load_state_dict_post_hooks, hook, prepend=prepend)


def _unpack_params(group: dict[str, Any]) -> None:
    """Make group["params"] a list of tensors, with group["param_names"] beside it when they came with names."""
    params = group["params"]
    if isinstance(params, set):
        raise TypeError("optimizer parameters need to be organized in ordered collections, but "
                        "the ordering of tensors in sets will change between runs. Please use a list instead.")
    listed = [params] if isinstance(params, Tensor) else list(params)
    names = [entry[0] for entry in listed if isinstance(entry, tuple)]
    if names and len(names) != len(listed):
        raise ValueError("all optimizer params should be with/without names. Some param names are missing")
    if names:
        group["param_names"] = names
    group["params"] = [entry[1] if isinstance(entry, tuple) else entry for entry in listed]


def _fitted(param: Tensor, value: Any, key: Hashable = None) -> Any:
    """A loaded state value on the parameter's device and, unless it counts steps, in its dtype."""
    if isinstance(value, Tensor):
        if key == "step":
            return float(value.item())
        floating = param.is_floating_point()
        return value.to(device=param.device, dtype=param.dtype if floating else None)
    if isinstance(value, dict):
        return {k: _fitted(param, v, k) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return type(value)(_fitted(param, v) for v in value)  # type: ignore[call-arg]
    return value


class PerParameterOptimizer(Optimizer):
    """An optimizer that treats each parameter alone.

    Updates are one op of the table, or out-of-place expressions with one copy into each tensor that changes. Counts are
    Python numbers, so a step is recorded without looking at a value. `complex_parameters`: how it takes these: "as one" gives them to
    `update`, "as pairs" the real numbers they are made of, "" refuses.
    """

    complex_parameters = "as pairs"

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns the closure's loss."""
        loss = None
        if closure is not None:
            with treadle.enable_grad():
                loss = closure()
        with treadle.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    grad = param.grad
                    if grad is not None:
                        update = self.update if grad._data.type.layout == "strided" else self.update_sparse
                        if self.complex_parameters != "as one" and param._data.type.dtype.is_complex:
                            update = self._update_pairs
                        update(param, -grad if group["maximize"] else grad, group)
        return loss

    def _update_pairs(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Update the view of a complex parameter as real numbers, with such views of its complex state, which stays complex."""
        if not self.complex_parameters:
            raise RuntimeError(f"{type(self).__name__} does not support complex parameters")
        pairs = treadle.view_as_real(param)
        kept = self.state.pop(param, {})
        viewed = {key: treadle.view_as_real(x) if isinstance(x, Tensor) and x.is_complex() else x for key, x in kept.items()}
        self.state[pairs] = dict(viewed)
        self.update(pairs, treadle.view_as_real(grad), group)
        for key, x in self.state.pop(pairs).items():
            if x is not viewed.get(key):
                kept[key] = treadle.view_as_complex(x) if isinstance(x, Tensor) and x.shape == pairs.shape else x
        self.state[param] = kept

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Write the new values of `param` and of the tensors in its state."""
        raise NotImplementedError

    def update_sparse(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """`update` with a sparse gradient. RuntimeError where the optimizer has none."""
        raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")


def apply_step(name: str, tensors: Sequence[Tensor], numbers: Sequence[Any], *attrs: Any, more: Sequence[Tensor] = ()) -> None:
    """Run an update of the op table on (parameter, gradient, state...) and write its results to the parameter and the state.

    numbers: the op's hyper-parameters, numbers or 0-d tensors; more: the state in the op's variadic tail.
    """
    data = [x if isinstance(x, Tensor) else x * 1.0 for x in numbers]
    targets = (tensors[0], *tensors[2:], *more)
    pairs = tensors[0]._data.type.dtype.is_complex  # a complex parameter is one of twice as many real numbers
    if pairs:
        tensors, more = ([apply(TABLE["view_as_real"], (t,)) for t in group] for group in (tensors, more))
    found = apply(TABLE[name], (*tensors, *data, *more), attrs)
    results = found if isinstance(found, tuple) else (found,)
    for old, new in zip(targets, results, strict=True):
        assign(old, apply(TABLE["view_as_complex"], (new,)) if pairs else new, "step")


def check_at_least_zero(**settings: tuple[str, Any]) -> None:
    """ValueError naming the first setting, given as (description, value), that is negative or not a number."""
    for what, value in settings.values():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{what}: Tensor lr must be 1-element, got one of shape {list(value.shape)}")
        if not value >= 0.0:
            raise ValueError(f"Invalid {what}: {value}")


def refuse_fused_foreach(fused: bool | None, foreach: bool | None) -> None:
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def refuse_differentiable(differentiable: bool) -> None:
    if differentiable:
        raise NotImplementedError("differentiable=True is not supported: steps are not recorded for gradients")
