"""Pruning: a parameter multiplied by a mask before every call, `name_orig` and `name_mask` in its place."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import treadle
from treadle.nn.module import Module
from treadle.tensor import Tensor

Pair = tuple[Module, str]


class BasePruningMethod(ABC):
    """What says which elements go: `compute_mask(t, default_mask)` gives a mask, 0 where an element is pruned.

    PRUNING_TYPE: "unstructured", "structured" along `dim`, or "global" over several parameters.
    """

    _tensor_name: str
    PRUNING_TYPE = "unstructured"

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self._tensor_name, self.apply_mask(module))

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask for a tensor of scores, whose elements pruned before are 0 in `default_mask`."""

    def apply_mask(self, module: Module) -> Tensor:
        """The parameter times its mask."""
        name = self._tensor_name
        mask: Tensor = getattr(module, f"{name}_mask")
        return mask.to(getattr(module, f"{name}_orig").dtype) * getattr(module, f"{name}_orig")

    @classmethod
    def apply(cls, module: Module, name: str, *args: Any, importance_scores: Tensor | None = None, **kwargs: Any) -> BasePruningMethod:
        """Prune a parameter, after those methods that did before. Returns the method, which is a hook of the module now."""
        method = cls(*args, **kwargs)
        method._tensor_name = name
        key, before = next(((k, h) for k, h in module._forward_pre_hooks.items()
                            if isinstance(h, BasePruningMethod) and h._tensor_name == name), (None, None))
        kept: Any = method
        if key is not None and before is not None:
            kept = before if isinstance(before, PruningContainer) else PruningContainer(before)
            kept.add_pruning_method(method)
            del module._forward_pre_hooks[key]
        original = getattr(module, f"{name}_orig") if key is not None else getattr(module, name)
        scores = original.detach() if importance_scores is None else importance_scores
        if tuple(scores.shape) != tuple(original.shape):
            raise AssertionError(f"importance_scores should have the same shape as parameter {name} of {module}")
        mask = getattr(module, f"{name}_mask") if key is not None else treadle.ones_like(original.detach())
        found = method.compute_mask(scores, mask)
        if key is None:
            del module._parameters[name]
            module.register_parameter(f"{name}_orig", original)
        module.register_buffer(f"{name}_mask", found)
        setattr(module, name, kept.apply_mask(module))
        module.register_forward_pre_hook(kept)
        return method

    def prune(self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None) -> Tensor:
        """A tensor with what is pruned set to 0."""
        scores = t if importance_scores is None else importance_scores
        return t * self.compute_mask(scores, treadle.ones_like(t) if default_mask is None else default_mask).to(t.dtype)

    def remove(self, module: Module) -> None:
        """The parameter as one again, with zeros where it was pruned."""
        name = self._tensor_name
        weight = self.apply_mask(module).detach()
        original = module._parameters[f"{name}_orig"]
        assert original is not None
        original.data = weight
        for place, part in ((module._parameters, "_orig"), (module._buffers, "_mask"), (module.__dict__, "")):
            place.pop(f"{name}{part}", None)
        module.register_parameter(name, original)


class PruningContainer(BasePruningMethod):
    """Several methods, one after the other: each looks at what those before it left."""

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        for method in args:
            self._tensor_name = method._tensor_name
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod) -> None:
        """One more. ValueError for a method of another parameter."""
        if method._tensor_name != self._tensor_name:
            raise ValueError(f"Can only add pruning methods acting on the parameter named '{self._tensor_name}' to PruningContainer "
                             f"{self}. Found '{method._tensor_name}'")
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Any:
        return iter(self._pruning_methods)

    def __getitem__(self, i: int) -> BasePruningMethod:
        return self._pruning_methods[i]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """That of the last method: it keeps what is pruned already."""
        return self._pruning_methods[-1].compute_mask(t, default_mask)


def _count(amount: float, size: int) -> int:
    """How many elements, of a number of them or a part. ValueError where there are not so many."""
    if isinstance(amount, int) and not isinstance(amount, bool):
        if amount < 0 or amount > size:
            raise ValueError(f"amount={amount} should be at least 0 and at most the number of parameters to prune={size}")
        return amount
    if not 0.0 <= amount <= 1.0:
        raise ValueError(f"amount={amount} should be a number of parameters or a part of them in the range [0, 1]")
    return round(amount * size)


class Identity(BasePruningMethod):
    """Prunes nothing."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask


class CustomFromMask(BasePruningMethod):
    """Prunes what a mask says."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask * self.mask.to(default_mask.dtype)


class _Unstructured(BasePruningMethod):
    """Prunes single elements, those with the least score among the ones that are left."""

    def __init__(self, amount: float) -> None:
        _count(amount, 2 ** 62 if isinstance(amount, int) else 1)
        self.amount = amount

    def score(self, left: Tensor) -> Tensor:
        raise NotImplementedError

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        left = default_mask.reshape(-1).nonzero().reshape(-1)
        count = _count(self.amount, left.numel())
        mask = default_mask.clone()
        if count:
            gone = treadle.topk(self.score(t.reshape(-1)[left]), count, largest=False).indices
            mask.view(-1)[left[gone]] = 0
        return mask


class RandomUnstructured(_Unstructured):
    """Prunes elements drawn."""

    def score(self, left: Tensor) -> Tensor:
        return treadle.rand_like(left)


class L1Unstructured(_Unstructured):
    """Prunes the elements nearest to 0."""

    def score(self, left: Tensor) -> Tensor:
        return left.abs()


class _Structured(BasePruningMethod):
    """Prunes whole slices along an axis, those with the least score among the ones that are left."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = -1) -> None:
        _count(amount, 2 ** 62 if isinstance(amount, int) else 1)
        self.amount, self.dim = amount, dim

    def score(self, slices: Tensor) -> Tensor:
        raise NotImplementedError

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if t.dim() <= 1:
            raise ValueError(f"Structured pruning can only be applied to a multidimensional tensor, got {t.dim()} dimensions")
        there = default_mask.movedim(self.dim, 0).reshape(default_mask.size(self.dim), -1).any(1).nonzero().reshape(-1)
        count = _count(self.amount, there.numel())
        mask = default_mask.clone()
        if count:
            scores = self.score(t.movedim(self.dim, 0).reshape(t.size(self.dim), -1)[there])
            mask.movedim(self.dim, 0)[there[treadle.topk(scores, count, largest=False).indices]] = 0
        return mask


class RandomStructured(_Structured):
    """Prunes slices drawn."""

    def score(self, slices: Tensor) -> Tensor:
        return treadle.rand(slices.size(0))


class LnStructured(_Structured):
    """Prunes the slices with the least n-norm."""

    def __init__(self, amount: float, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def score(self, slices: Tensor) -> Tensor:
        return slices.norm(self.n, dim=1)


def identity(module: Module, name: str) -> Module:
    """A mask that prunes nothing."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Module, name: str, amount: float) -> Module:
    """Prune `amount` elements (a number of them, or a part) drawn."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: Module, name: str, amount: float, importance_scores: Tensor | None = None) -> Module:
    """Prune the `amount` elements (a number of them, or a part) nearest to 0."""
    L1Unstructured.apply(module, name, amount, importance_scores=importance_scores)
    return module


def random_structured(module: Module, name: str, amount: float, dim: int) -> Module:
    """Prune `amount` slices along an axis, drawn."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(module: Module, name: str, amount: float, n: Any, dim: int, importance_scores: Tensor | None = None) -> Module:
    """Prune the `amount` slices along an axis with the least n-norm."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: Module, name: str, mask: Tensor) -> Module:
    """Prune what is 0 in a mask."""
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(parameters: Iterable[Pair], pruning_method: type[BasePruningMethod],
                        importance_scores: dict[Pair, Tensor] | None = None, **kwargs: Any) -> None:
    """Prune single elements of several parameters, `(module, name)`, as if they were one."""
    pairs: Sequence[Pair] = list(parameters)
    if not pairs:
        return
    if pruning_method.PRUNING_TYPE != "unstructured":
        raise TypeError('Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found method '
                        f"{pruning_method} of type {pruning_method.PRUNING_TYPE}")
    given = importance_scores or {}
    weights: list[Tensor] = [getattr(m, f"{n}_orig" if hasattr(m, f"{n}_orig") else n) for m, n in pairs]
    masks = [getattr(m, f"{n}_mask", treadle.ones_like(w.detach())) for (m, n), w in zip(pairs, weights, strict=True)]
    scores = [given.get(pair, w.detach()) for pair, w in zip(pairs, weights, strict=True)]
    method = pruning_method(**kwargs)
    mask = method.compute_mask(treadle.cat([s.reshape(-1) for s in scores]), treadle.cat([m.reshape(-1) for m in masks]))
    parts = mask.split([w.numel() for w in weights])
    for (module, name), weight, part in zip(pairs, weights, parts, strict=True):
        custom_from_mask(module, name, part.reshape(weight.shape))


def remove(module: Module, name: str) -> Module:
    """Make pruning lasting: the parameter `name` again, with zeros. ValueError if it is not pruned."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")


def is_pruned(module: Module) -> bool:
    """Whether any parameter of the module or of one in it is pruned."""
    return any(isinstance(h, BasePruningMethod) for m in module.modules() for h in m._forward_pre_hooks.values())


__all__ = ["BasePruningMethod", "CustomFromMask", "Identity", "L1Unstructured", "LnStructured", "PruningContainer",
           "RandomStructured", "RandomUnstructured", "custom_from_mask", "global_unstructured", "identity", "is_pruned", "l1_unstructured",
           "ln_structured", "random_structured", "random_unstructured", "remove"]
