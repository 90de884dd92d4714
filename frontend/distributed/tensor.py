"""`distributed.tensor`: tensors spread over a mesh of one process, where each is its own only shard.

Operations on a DTensor give ordinary tensors, which are whole here whatever their placement.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import treadle
from treadle.distributed.device_mesh import DeviceMesh, default_mesh
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter
from treadle.tensor import Tensor

__all__ = ["DTensor", "DeviceMesh", "Partial", "Placement", "Replicate", "Shard", "distribute_module", "distribute_tensor",
           "empty", "full", "ones", "rand", "randn", "zeros"]


class Placement:
    """How a tensor lies along one dimension of a mesh."""

    def is_shard(self, dim: int | None = None) -> bool:
        """Whether it is split (along `dim`)."""
        return isinstance(self, Shard) and (dim is None or dim == self.dim)

    def is_replicate(self) -> bool:
        """Whether every process has all of it."""
        return isinstance(self, Replicate)

    def is_partial(self) -> bool:
        """Whether the processes' values have yet to be combined."""
        return isinstance(self, Partial)


@dataclass(frozen=True)
class Shard(Placement):
    """Split along a dimension of the tensor."""

    dim: int


@dataclass(frozen=True)
class Replicate(Placement):
    """The same on each process."""


@dataclass(frozen=True)
class Partial(Placement):
    """To be combined by `reduce_op`."""

    reduce_op: str = "sum"


class DTensor(Tensor):
    """A tensor on a mesh. `to_local()` and `full_tensor()` are the tensor itself, on the same memory and the same tape."""

    _mesh: DeviceMesh
    _placements: tuple[Placement, ...]

    @staticmethod
    def from_local(local_tensor: Tensor, device_mesh: DeviceMesh | None = None, placements: Sequence[Placement] | None = None, *,
                   run_check: bool = False, shape: Any = None, stride: Any = None, grad_placements: Any = None) -> DTensor:
        """The tensor of which `local_tensor` is this process's part. ValueError when `shape` is not its shape: there are no other parts."""
        mesh = default_mesh() if device_mesh is None else device_mesh
        if shape is not None and tuple(shape) != tuple(local_tensor.shape):
            raise ValueError(f"DTensor.from_local: expected the shape of the only part, {tuple(local_tensor.shape)}, got {tuple(shape)}")
        made = local_tensor.view_as(local_tensor)
        made.__class__ = DTensor
        return _placed(made, mesh, placements)

    @property
    def device_mesh(self) -> DeviceMesh:
        """The mesh it lies on."""
        return self._mesh

    @property
    def placements(self) -> tuple[Placement, ...]:
        """How it lies along each dimension of the mesh."""
        return self._placements

    def to_local(self, *, grad_placements: Any = None) -> Tensor:
        """This process's part, all of it; gradients flow through."""
        return self.view_as(self)

    def full_tensor(self, *, grad_placements: Any = None) -> Tensor:
        """All of it; gradients flow through."""
        return self.view_as(self)

    def redistribute(self, device_mesh: DeviceMesh | None = None, placements: Sequence[Placement] | None = None, *, async_op: bool = False,
                     forward_dtype: Any = None, backward_dtype: Any = None) -> DTensor:
        """The same tensor with other placements. RuntimeError when a placement is Partial, as in PyTorch."""
        if any(p.is_partial() for p in placements or ()):
            raise RuntimeError("Can not redistribute to Partial, redistributing to Partial is for internal use only!")
        local = self.to_local() if forward_dtype is None else self.to_local().to(forward_dtype)
        return DTensor.from_local(local, device_mesh or self._mesh, placements)


class _DistributedParameter(DTensor, Parameter):
    """A parameter on a mesh."""


def _placed(made: Any, mesh: DeviceMesh, placements: Sequence[Placement] | None) -> Any:
    found = tuple(placements) if placements is not None else (Replicate(),) * mesh.ndim
    if len(found) != mesh.ndim:
        raise ValueError(f"`placements` must have the same length as `device_mesh.ndim`! Found placements length: {len(found)}, and "
                         f"device_mesh.ndim: {mesh.ndim}.")
    for p in found:
        if isinstance(p, Shard) and not -made.ndim <= p.dim < max(made.ndim, 1):
            raise IndexError(f"DTensor: {p} is out of range for a tensor of {made.ndim} dimensions")
    made._mesh = mesh
    made._placements = tuple(Shard(p.dim % made.ndim) if isinstance(p, Shard) and made.ndim else p for p in found)
    return made


def distribute_tensor(tensor: Tensor, device_mesh: DeviceMesh | None = None, placements: Sequence[Placement] | None = None, *,
                      src_data_rank: int | None = 0) -> DTensor:
    """A leaf tensor, or parameter, laid out over a mesh. RuntimeError for tensors that are on the tape."""
    if not tensor.is_leaf:
        raise RuntimeError("`distribute_tensor` should be used to distribute leaf tensors! but found non-leaf tensor!")
    mesh = default_mesh() if device_mesh is None else device_mesh
    kind = _DistributedParameter if isinstance(tensor, Parameter) else DTensor
    return _placed(Tensor._make_subclass(kind, tensor.detach(), tensor.requires_grad), mesh, placements)


def distribute_module(module: Module, device_mesh: DeviceMesh | None = None, partition_fn: Callable[..., None] | None = None,
                      input_fn: Callable[..., Any] | None = None, output_fn: Callable[..., Any] | None = None) -> Module:
    """`partition_fn(name, submodule, mesh)` is called for each submodule; the parameters it leaves are replicated.

    input_fn(module, inputs, mesh) and output_fn(module, outputs, mesh) change what goes in and comes out.
    """
    mesh = default_mesh() if device_mesh is None else device_mesh
    for name, part in module.named_modules():
        if partition_fn is not None:
            partition_fn(name, part, mesh)
        for key, p in part._parameters.items():
            if p is not None and not isinstance(p, DTensor):
                part._parameters[key] = distribute_tensor(p, mesh)  # type: ignore[assignment]
    if input_fn is not None:
        module.register_forward_pre_hook(lambda m, inputs: input_fn(m, inputs, mesh))
    if output_fn is not None:
        module.register_forward_hook(lambda m, inputs, outputs: output_fn(m, outputs, mesh))
    return module


def _maker(name: str) -> Callable[..., DTensor]:
    def make(*args: Any, device_mesh: DeviceMesh | None = None, placements: Sequence[Placement] | None = None, **kwargs: Any) -> DTensor:
        return distribute_tensor(getattr(treadle, name)(*args, **kwargs), device_mesh, placements)
    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"`treadle.{name}` of the same arguments, on a mesh."
    return make


empty, full, ones, rand, randn, zeros = map(_maker, ("empty", "full", "ones", "rand", "randn", "zeros"))
