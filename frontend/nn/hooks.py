"""Hooks of modules: removable handles, the process-wide tables, and the gates that call backward hooks."""
from __future__ import annotations

import itertools
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import treadle
from treadle.tensor import Tensor

Hooks = MutableMapping[int, Callable[..., Any]]

_next_id = itertools.count()


class RemovableHandle:
    """What registering a hook returns: `remove()`, or leaving a `with` block, takes the hook away again."""

    def __init__(self, hooks: MutableMapping[int, Any], *, extra: Sequence[MutableMapping[int, Any]] = ()) -> None:
        self.id = next(_next_id)
        # Weak references: a handle kept by the user must not keep the module alive.
        self._tables = tuple(weakref.ref(table) for table in (hooks, *extra))

    def remove(self) -> None:
        for reference in self._tables:
            table = reference()
            if table is not None:
                table.pop(self.id, None)

    def __getstate__(self) -> tuple:
        return tuple(reference() for reference in self._tables), self.id

    def __setstate__(self, state: tuple) -> None:
        tables, self.id = state
        self._tables = tuple(weakref.ref(OrderedDict() if table is None else table) for table in tables)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.remove()


def add_hook(hooks: Any, hook: Callable[..., Any], flags: Sequence[tuple[Any, bool]] = (), prepend: bool = False) -> RemovableHandle:
    """Put `hook` in `hooks`, its id in each flag table whose value is true; returns the handle."""
    handle = RemovableHandle(hooks, extra=[table for table, _ in flags])
    hooks[handle.id] = hook
    for table, wanted in flags:
        if wanted:
            table[handle.id] = True
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


class ModuleHook:
    """A state-dict hook that gets the module (held weakly) as its first argument."""

    def __init__(self, hook: Callable[..., Any], module: Any) -> None:
        self.hook, self.module = hook, weakref.ref(module)

    def __call__(self, *args: Any) -> Any:
        module = self.module()
        if module is None:
            raise RuntimeError("You are trying to call the hook of a dead Module!")
        return self.hook(module, *args)

    def __getstate__(self) -> dict[str, Any]:
        return {"hook": self.hook, "module": self.module()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.hook, self.module = saved["hook"], weakref.ref(saved["module"])


class GlobalHooks:
    """Tables that apply to every module; they run before a module's own."""

    forward_pre: OrderedDict[int, Callable[..., Any]] = OrderedDict()
    forward: OrderedDict[int, Callable[..., Any]] = OrderedDict()
    forward_with_kwargs: OrderedDict[int, bool] = OrderedDict()
    forward_always: OrderedDict[int, bool] = OrderedDict()
    backward_pre: OrderedDict[int, Callable[..., Any]] = OrderedDict()
    backward: OrderedDict[int, Callable[..., Any]] = OrderedDict()
    register_parameter: OrderedDict[int, Callable[..., Any]] = OrderedDict()
    register_buffer: OrderedDict[int, Callable[..., Any]] = OrderedDict()
    register_module: OrderedDict[int, Callable[..., Any]] = OrderedDict()


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`hook(module, args)` before every module's forward; it may return changed arguments."""
    return add_hook(GlobalHooks.forward_pre, hook)


def register_module_forward_hook(hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False) -> RemovableHandle:
    """`hook(module, args, output)` after every module's forward; it may return a changed output."""
    flags = [(GlobalHooks.forward_with_kwargs, with_kwargs), (GlobalHooks.forward_always, always_call)]
    return add_hook(GlobalHooks.forward, hook, flags)


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`hook(module, grad_output)` before the gradient of every module's inputs is computed."""
    return add_hook(GlobalHooks.backward_pre, hook)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`hook(module, grad_input, grad_output)` when every module's input gradients are known."""
    return add_hook(GlobalHooks.backward, hook)


def register_module_parameter_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`hook(module, name, parameter)` whenever a parameter is registered; it may return another one."""
    return add_hook(GlobalHooks.register_parameter, hook)


def register_module_buffer_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`hook(module, name, buffer)` whenever a buffer is registered; it may return another one."""
    return add_hook(GlobalHooks.register_buffer, hook)


def register_module_module_registration_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """`hook(module, name, submodule)` whenever a submodule is registered; it may return another one."""
    return add_hook(GlobalHooks.register_module, hook)


def filtered(hooks: Hooks, module: Any, name: str, value: Any) -> Any:
    """`value` after the registration hooks have had their say."""
    for hook in hooks.values():
        changed = hook(module, name, value)
        if changed is not None:
            value = changed
    return value


class BackwardGates:
    """A pair of identities around a module's forward, through which its full backward hooks see the gradients."""

    def __init__(self, module: Any, hooks: list[Callable[..., Any]], pre_hooks: list[Callable[..., Any]]) -> None:
        self.module, self.hooks, self.pre_hooks = module, hooks, pre_hooks
        self.grad_output: tuple | None = None
        self.n_inputs = self.n_outputs = 0
        self.input_places: list[int] | None = None
        self.output_places: list[int] | None = None

    def inputs(self, args: tuple) -> tuple:
        self.n_inputs = len(args)
        args, self.input_places = _through_gate(self._on_grad_input, args)
        return args

    def outputs(self, result: Any) -> Any:
        if not isinstance(result, (Tensor, tuple)):
            warnings.warn("For backward hooks to be called, module output should be a Tensor or a tuple of Tensors"
                          f" but received {type(result)}", stacklevel=4)
            return result
        values = result if isinstance(result, tuple) else (result,)
        self.n_outputs = len(values)
        values, self.output_places = _through_gate(self._on_grad_output, values)
        return values if isinstance(result, tuple) else values[0]

    def _on_grad_output(self, grads: tuple) -> tuple:
        assert self.output_places is not None
        full = _spread(self.output_places, grads, self.n_outputs)
        for hook in self.pre_hooks:
            changed = hook(self.module, full)
            if changed is not None:
                full = _same_length(_as_tuple(changed), full, "Backward pre hook returned an invalid number of grad_output")
        self.grad_output = full
        if self.input_places is None:
            self._without_inputs(full)
        return tuple(full[i] for i in self.output_places)

    def _without_inputs(self, grad_output: tuple) -> None:
        """No input needs a gradient, so nothing flows through the input gate: the hooks run now."""
        if self.hooks:
            warnings.warn("Full backward hook is firing when gradients are computed with respect to module outputs "
                          "since no inputs require gradients.", stacklevel=3)
        for hook in self.hooks:
            changed = hook(self.module, (None,) * self.n_inputs, grad_output)
            if changed is not None and not (isinstance(changed, tuple) and all(g is None for g in changed)):
                raise RuntimeError("Backward hook for Modules where no input requires "
                                   "gradient should always return None or None for all gradients.")
        self.grad_output = None

    def _on_grad_input(self, grads: tuple) -> tuple:
        assert self.input_places is not None
        if self.grad_output is None:  # a gradient that did not come through the module's output
            return grads
        full = _spread(self.input_places, grads, self.n_inputs)
        for hook in self.hooks:
            changed = hook(self.module, full, self.grad_output)
            if changed is not None:
                full = _same_length(_as_tuple(changed), full, "Backward hook returned an invalid number of grad_input")
        self.grad_output = None
        return tuple(full[i] for i in self.input_places)


def _as_tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,) if isinstance(value, Tensor) else tuple(value)


def _same_length(changed: tuple, old: tuple, complaint: str) -> tuple:
    if len(changed) != len(old):
        raise RuntimeError(f"{complaint}, got {len(changed)}, but expected {len(old)}")
    return changed


def _spread(places: list[int], values: Sequence[Any], size: int) -> tuple:
    full: list[Any] = [None] * size
    for place, value in zip(places, values, strict=True):
        full[place] = value
    return tuple(full)


def _through_gate(callback: Callable[[tuple], tuple], values: tuple) -> tuple[tuple, list[int] | None]:
    """Pass the tensors among `values` through one identity whose backward calls `callback` with all their gradients."""
    places = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    if not (treadle.is_grad_enabled() and any(values[i].requires_grad for i in places)):
        return values, None
    changed = list(values)
    gated = _gate_function().apply(callback, *(values[i] for i in places))
    for place, value in zip(places, gated if isinstance(gated, tuple) else (gated,), strict=True):
        changed[place] = value
    return tuple(changed), places


_gate: Any = None


def _gate_function() -> Any:
    """The autograd.Function behind the gates, made on first use so that importing nn needs no autograd."""
    global _gate
    if _gate is None:
        class Gate(treadle.autograd.Function):
            """Identity on its tensors; its backward hands all gradients to a callback."""

            @staticmethod
            def forward(ctx: Any, callback: Callable[[tuple], tuple], *tensors: Tensor) -> tuple:
                ctx.callback = callback
                ctx.mark_non_differentiable(*(t for t in tensors if not t.requires_grad))
                return tuple(t.view_as(t) for t in tensors)

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> tuple:
                return (None, *ctx.callback(grads))

        _gate = Gate
    return _gate
