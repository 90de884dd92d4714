"""`weight_norm` and `spectral_norm` under their older names of parameters: `weight_g` and `weight_v`, `weight_orig` and `weight_u`.

The weight is computed by a hook before every call. `nn.utils.parametrizations` has the same as parametrizations.
"""
from __future__ import annotations

from typing import Any

import treadle
from treadle.nn import functional as F
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter
from treadle.nn.utils.parametrizations import _norm_except
from treadle.tensor import Tensor


class WeightNorm:
    """The hook of `weight_norm`: weight = g * v / |v| (Salimans and Kingma, 2016)."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.dim = name, None if dim == -1 else dim

    def compute_weight(self, module: Module) -> Tensor:
        """The weight of the module's length and direction."""
        v: Tensor = getattr(module, f"{self.name}_v")
        return v * (getattr(module, f"{self.name}_g") / _norm_except(v, self.dim))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Split the parameter `name` into `name_g`, a length for each slice along `dim`, and `name_v`, a direction. RuntimeError if it is."""
    _check_new(module, name, WeightNorm, "weight_norm")
    hook, weight = WeightNorm(name, dim), getattr(module, name)
    del module._parameters[name]
    module.register_parameter(f"{name}_g", Parameter(_norm_except(weight, hook.dim).detach()))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))
    setattr(module, name, hook.compute_weight(module))
    module.register_forward_pre_hook(hook)
    return module


class SpectralNorm:
    """The hook of `spectral_norm`: weight / (its largest singular value), by power iteration (Miyato et al., 2018)."""

    def __init__(self, name: str = "weight", n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        if n_power_iterations <= 0:
            raise ValueError(f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}")
        self.name, self.dim, self.n_power_iterations, self.eps = name, dim, n_power_iterations, eps

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight with the axis `dim` first and the others as one."""
        moved = weight.movedim(self.dim, 0) if self.dim else weight
        return moved.reshape(moved.size(0), -1)

    def compute_weight(self, module: Module, do_power_iteration: bool) -> Tensor:
        """The weight, after iterations in training."""
        weight, u, v = (getattr(module, f"{self.name}_{part}") for part in ("orig", "u", "v"))
        matrix = self.matrix(weight)
        if do_power_iteration:
            with treadle.no_grad():
                for _ in range(self.n_power_iterations):
                    v.copy_(F.normalize(treadle.mv(matrix.t(), u), dim=0, eps=self.eps))
                    u.copy_(F.normalize(treadle.mv(matrix, v), dim=0, eps=self.eps))
                u, v = u.clone(), v.clone()  # the next iteration may come before the backward pass
        normalized: Tensor = weight / treadle.dot(u, treadle.mv(matrix, v))  # not `@`, which autocast would round
        return normalized

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module, module.training))


def spectral_norm(module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None) -> Module:
    """Divide the parameter `name`, now `name_orig`, by its largest singular value; buffers `name_u`, `name_v` keep its vectors.

    dim: the axis of outputs, 1 for transposed convolutions and 0 for others unless given. RuntimeError if it is normalised already.
    """
    _check_new(module, name, SpectralNorm, "spectral_norm")
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    hook, weight = SpectralNorm(name, n_power_iterations, dim, eps), module._parameters[name]
    if weight is None:
        raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
    rows, columns = hook.matrix(weight.detach()).shape
    del module._parameters[name]
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.detach())
    for part, size in (("u", rows), ("v", columns)):
        module.register_buffer(f"{name}_{part}", F.normalize(treadle.randn(size, dtype=weight.dtype, device=weight.device), dim=0, eps=eps))
    module.register_forward_pre_hook(hook)
    return module


def _check_new(module: Module, name: str, kind: type, what: str) -> None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, kind) and hook.name == name:  # type: ignore[attr-defined]
            raise RuntimeError(f"Cannot register two {what} hooks on the same parameter {name}")


def _removed(module: Module, name: str, kind: type, what: str, parts: tuple[str, ...]) -> Module:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, kind) and hook.name == name:  # type: ignore[attr-defined]
            with treadle.no_grad():
                weight = hook.compute_weight(module) if kind is WeightNorm else hook.compute_weight(module, False)  # type: ignore[attr-defined]
            for part in (name, *[f"{name}_{p}" for p in parts]):
                delattr(module, part)
            module.register_parameter(name, Parameter(weight.detach()))
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"{what} of '{name}' not found in {module}")


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """The parameter `name` as one again. ValueError if it is not normalised."""
    return _removed(module, name, WeightNorm, "weight_norm", ("g", "v"))


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """The parameter `name`, as it is normalised now, as a plain one. ValueError if it is not normalised."""
    return _removed(module, name, SpectralNorm, "spectral_norm", ("u", "v", "orig"))


__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]
