"""Parametrizations: a parameter computed from others at every use, as PyTorch's `nn.utils.parametrize`."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import treadle
from treadle.nn.container import ModuleDict, ModuleList
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter
from treadle.tensor import Tensor

_cache: dict[tuple[int, str], Tensor] | None = None


@contextmanager
def cached() -> Iterator[None]:
    """Within the block each parametrized tensor is computed once."""
    global _cache
    before, _cache = _cache, {} if _cache is None else _cache
    try:
        yield
    finally:
        _cache = before


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, applied in order to `original` (or `original0`, `original1`, ...)."""

    def __init__(self, modules: list[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        value: Any = original.detach()
        with treadle.no_grad():
            for module in reversed(modules):
                if hasattr(module, "right_inverse"):
                    with suppress(NotImplementedError):  # then `original` is the tensor as it was
                        value = module.right_inverse(*value) if isinstance(value, tuple) else module.right_inverse(value)
        self.is_tensor = isinstance(value, Tensor)
        values = (value,) if self.is_tensor else tuple(value)
        self.ntensors = len(values)
        for i, v in enumerate(values):
            name = "original" if self.is_tensor else f"original{i}"
            if isinstance(original, Parameter):
                self.register_parameter(name, Parameter(v.clone(), original.requires_grad))
            else:
                self.register_buffer(name, v.clone())

    def forward(self) -> Tensor:
        originals = (self.original,) if self.is_tensor else tuple(getattr(self, f"original{i}") for i in range(self.ntensors))
        first, *others = self._modules.values()
        assert first is not None
        value = first(*originals)
        for module in others:
            assert module is not None
            value = module(value)
        return value


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the module (or its tensor of that name) is computed from others."""
    lists: Any = module._modules.get("parametrizations")
    return lists is not None and (len(lists) > 0 if tensor_name is None else tensor_name in lists)


def _property(name: str) -> property:
    def get(self: Any) -> Tensor:
        lists = self.parametrizations[name]
        if _cache is None:
            return lists()
        key = (id(self), name)
        if key not in _cache:
            _cache[key] = lists()
        return _cache[key]

    def set(self: Any, value: Tensor) -> None:
        lists: Any = self.parametrizations[name]
        inverse: Any = value
        with treadle.no_grad():
            for module in reversed(list(lists)):
                inverse = module.right_inverse(inverse)
            for i, v in enumerate((inverse,) if lists.is_tensor else inverse):
                getattr(lists, "original" if lists.is_tensor else f"original{i}").copy_(v)
    return property(get, set)


def register_parametrization(module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> Module:
    """From now on `module.<tensor_name>` is `parametrization(original)`, computed at every use. ValueError for an unknown name."""
    if is_parametrized(module, tensor_name):
        lists = module.parametrizations[tensor_name]
        if hasattr(parametrization, "right_inverse") and lists.is_tensor:
            with treadle.no_grad():
                lists.original.copy_(_inverted(lists, parametrization))
        lists.append(parametrization)
        return module
    if tensor_name not in module._parameters and tensor_name not in module._buffers:
        raise ValueError(f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name '{tensor_name}'")
    original = getattr(module, tensor_name)
    lists = ParametrizationList([parametrization], original, unsafe)
    shape = lists().shape
    if not unsafe and shape != original.shape:
        raise ValueError(f"A parametrization may not change the shape of the tensor: {tuple(original.shape)} became {tuple(shape)}")
    if not is_parametrized(module):
        cls = type(module)
        module.__class__ = type(f"Parametrized{cls.__name__}", (cls,), {"__module__": cls.__module__})
        module.parametrizations = ModuleDict()
    delattr(module, tensor_name)
    module.parametrizations[tensor_name] = lists
    setattr(type(module), tensor_name, _property(tensor_name))
    return module


def _inverted(lists: Any, last: Module) -> Tensor:
    value = last.right_inverse(lists())
    for module in reversed(list(lists)):
        if hasattr(module, "right_inverse"):
            value = module.right_inverse(value)
    return value


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """The tensor is a plain one again: its computed value, or its original."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    lists = module.parametrizations[tensor_name]
    if not leave_parametrized and not lists.is_tensor:
        raise ValueError("Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a sequence of "
                         "tensors.")
    first = lists.original if lists.is_tensor else lists.original0
    value = lists().detach() if leave_parametrized else lists.original.detach()
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    if isinstance(first, Parameter):
        module.register_parameter(tensor_name, Parameter(value.clone(), first.requires_grad))
    else:
        module.register_buffer(tensor_name, value.clone())
    if len(module.parametrizations) == 0:
        del module.parametrizations
        module.__class__ = type(module).__mro__[1]
    return module


__all__ = ["ParametrizationList", "cached", "is_parametrized", "register_parametrization", "remove_parametrizations"]
