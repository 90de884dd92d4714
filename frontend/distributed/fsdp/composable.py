"""`fully_shard`: sharding added to a module in place; with one process, its mixed precision."""
from __future__ import annotations

from typing import Any

from treadle import distributed
from treadle.distributed.device_mesh import DeviceMesh
from treadle.distributed.fsdp.api import MixedPrecisionPolicy, OffloadPolicy
from treadle.distributed.fsdp.precision import cast, parameters_as
from treadle.nn.module import Module


class UnshardHandle:
    """Waits for parameters, which are always there."""

    def wait(self) -> None:
        """Returns at once."""


class FSDPModule:
    """What `fully_shard` adds to the class of a module. With one process nothing is split, so these methods have nothing to do."""

    _fsdp_policy: MixedPrecisionPolicy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        policy = self._fsdp_policy
        call = super().__call__  # type: ignore[misc]
        if policy.cast_forward_inputs:
            args, kwargs = cast(args, policy.param_dtype), cast(kwargs, policy.param_dtype)
        if policy.param_dtype is None:
            return cast(call(*args, **kwargs), policy.output_dtype)
        assert isinstance(self, Module)
        with parameters_as(self, policy.param_dtype, None):
            return cast(call(*args, **kwargs), policy.output_dtype)

    def unshard(self, async_op: bool = False) -> UnshardHandle | None:
        """Make parameters whole."""
        return UnshardHandle() if async_op else None

    def reshard(self) -> None:
        """Split parameters again."""

    def set_requires_gradient_sync(self, requires_gradient_sync: bool, *, recurse: bool = True) -> None:
        """Whether a backward pass combines gradients over processes."""

    def set_is_last_backward(self, is_last_backward: bool) -> None:
        """Whether the next backward pass is the last of a step."""

    def set_requires_all_reduce(self, requires_all_reduce: bool, *, recurse: bool = True) -> None:
        """Whether replicas combine their gradients."""

    def set_reshard_after_backward(self, reshard_after_backward: bool, *, recurse: bool = True) -> None:
        """Whether parameters are split again after a backward pass."""

    def set_reshard_after_forward(self, reshard_after_forward: bool, recurse: bool = True) -> None:
        """Whether parameters are split again after a forward pass."""

    def set_modules_to_forward_prefetch(self, modules: list[Any]) -> None:
        """Whose parameters to fetch during a forward pass."""

    def set_modules_to_backward_prefetch(self, modules: list[Any]) -> None:
        """Whose parameters to fetch during a backward pass."""


def fully_shard(module: Any, *, mesh: DeviceMesh | None = None, reshard_after_forward: bool | int | None = None,
                shard_placement_fn: Any = None, mp_policy: MixedPrecisionPolicy | None = None, offload_policy: OffloadPolicy | None = None,
                ignored_params: Any = None) -> Any:
    """Shard a module (or each of a list of modules) in place: its class becomes one of an FSDPModule too. Returns it.

    mp_policy: dtypes of parameters, inputs and results while the module runs. ValueError before `distributed.init_process_group` when
    no mesh is given; a mesh starts the group.
    """
    if mesh is None:
        distributed.get_world_size()
    for part in module if isinstance(module, list | tuple) else [module]:
        cls = type(part)
        if not isinstance(part, FSDPModule):
            part.__class__ = type(f"FSDP{cls.__name__}", (FSDPModule, cls), {})
        part._fsdp_policy = mp_policy or MixedPrecisionPolicy()
    return module


def register_fsdp_forward_method(module: Module, method_name: str) -> None:
    """Let another method than `forward` run like it. AttributeError when the module has no such method."""
    inner = getattr(module, method_name)
    if not isinstance(module, FSDPModule):
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        policy = module._fsdp_policy
        if policy.cast_forward_inputs:
            args, kwargs = cast(args, policy.param_dtype), cast(kwargs, policy.param_dtype)
        with parameters_as(module, policy.param_dtype, None):
            return cast(inner(*args, **kwargs), policy.output_dtype)
    object.__setattr__(module, method_name, call)
