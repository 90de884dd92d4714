"""FullyShardedDataParallel around a module, in one process."""
from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from treadle import distributed
from treadle.distributed.fsdp.api import (
    BackwardPrefetch,
    CPUOffload,
    FullOptimStateDictConfig,
    FullStateDictConfig,
    LocalOptimStateDictConfig,
    LocalStateDictConfig,
    MixedPrecision,
    OptimStateDictConfig,
    OptimStateKeyType,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
    ShardingStrategy,
    StateDictConfig,
    StateDictSettings,
    StateDictType,
)
from treadle.distributed.fsdp.precision import cast, parameters_as
from treadle.nn.module import Module
from treadle.nn.utils import clip_grad_norm_
from treadle.tensor import Tensor

__all__ = [
    "BackwardPrefetch", "CPUOffload", "FullOptimStateDictConfig", "FullStateDictConfig", "FullyShardedDataParallel",
    "LocalOptimStateDictConfig", "LocalStateDictConfig", "MixedPrecision", "OptimStateKeyType", "ShardedOptimStateDictConfig",
    "ShardedStateDictConfig", "ShardingStrategy", "StateDictSettings", "StateDictType",
]


class FullyShardedDataParallel(Module):
    """Calls `module`, whose parameters keep their names and shapes, as with `use_orig_params=True`.

    mixed_precision: dtypes of parameters, buffers and inputs while the module runs; gradients arrive in the parameters' own dtype.
    Everything about splitting, fetching and wrapping submodules has no effect with one process. ValueError before
    `distributed.init_process_group`. State dicts, and names of parameters, are those of `module`.
    """

    def __init__(self, module: Module, process_group: Any = None, sharding_strategy: ShardingStrategy | None = None,
                 cpu_offload: CPUOffload | None = None, auto_wrap_policy: Any = None,
                 backward_prefetch: BackwardPrefetch | None = BackwardPrefetch.BACKWARD_PRE, mixed_precision: MixedPrecision | None = None,
                 ignored_modules: Iterable[Module] | None = None, param_init_fn: Any = None, device_id: Any = None,
                 sync_module_states: bool = False, forward_prefetch: bool = False, limit_all_gathers: bool = True,
                 use_orig_params: bool = False, ignored_states: Any = None, device_mesh: Any = None) -> None:
        super().__init__()
        distributed.get_world_size(process_group)
        self.process_group = process_group or distributed.group.WORLD
        self.sharding_strategy = ShardingStrategy.NO_SHARD  # as PyTorch does when the group has one process
        self.mixed_precision = mixed_precision
        self._settings = StateDictSettings()
        self._fsdp_wrapped_module = module
        if device_id is not None:
            module.to(f"cuda:{device_id}" if isinstance(device_id, int) else device_id)

    @property
    def module(self) -> Module:
        """The module inside."""
        return self._fsdp_wrapped_module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        mixed = self.mixed_precision
        if mixed is None:
            return self.module(*args, **kwargs)
        if mixed.cast_root_forward_inputs or mixed.cast_forward_inputs:
            args, kwargs = cast(args, mixed.param_dtype), cast(kwargs, mixed.param_dtype)
        with parameters_as(self.module, mixed.param_dtype, mixed.buffer_dtype, tuple(mixed._module_classes_to_ignore)):
            return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_fsdp_wrapped_module"), name)

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, Any]]:
        return self.module.named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        return self.module.named_buffers(prefix, recurse, remove_duplicate)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return self.module.load_state_dict(state_dict, strict, assign)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Scale all gradients so that their joint norm is at most `max_norm`; returns the norm before."""
        return clip_grad_norm_(self.parameters(), max_norm, norm_type)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Inside, gradients are only accumulated; with one process that is all there is to do."""
        yield

    @staticmethod
    @contextlib.contextmanager
    def summon_full_params(module: Module, recurse: bool = True, writeback: bool = True, rank0_only: bool = False,
                           offload_to_cpu: bool = False, with_grads: bool = False) -> Iterator[None]:
        """Inside, parameters are whole; with one process they always are."""
        yield

    @staticmethod
    def fsdp_modules(module: Module, root_only: bool = False) -> list[FullyShardedDataParallel]:
        """The wrapped modules in `module`, itself included."""
        found = [m for m in module.modules() if isinstance(m, FullyShardedDataParallel)]
        return found[:1] if root_only else found

    @staticmethod
    def set_state_dict_type(module: Module, state_dict_type: StateDictType, state_dict_config: StateDictConfig | None = None,
                            optim_state_dict_config: OptimStateDictConfig | None = None) -> StateDictSettings:
        """How wrapped modules make state dicts from now on: with one process, all ways give the same. Returns what was set before."""
        parts = FullyShardedDataParallel.fsdp_modules(module)
        before = parts[0]._settings if parts else StateDictSettings()
        for part in parts:
            part._settings = StateDictSettings(state_dict_type, state_dict_config or FullStateDictConfig(),
                                               optim_state_dict_config or FullOptimStateDictConfig())
        return before

    @staticmethod
    def get_state_dict_type(module: Module) -> StateDictSettings:
        """How wrapped modules make state dicts."""
        parts = FullyShardedDataParallel.fsdp_modules(module)
        return parts[0]._settings if parts else StateDictSettings()

    @staticmethod
    @contextlib.contextmanager
    def state_dict_type(module: Module, state_dict_type: StateDictType, state_dict_config: StateDictConfig | None = None,
                        optim_state_dict_config: OptimStateDictConfig | None = None) -> Iterator[None]:
        """`set_state_dict_type` for a while."""
        before = FullyShardedDataParallel.set_state_dict_type(module, state_dict_type, state_dict_config, optim_state_dict_config)
        try:
            yield
        finally:
            for part in FullyShardedDataParallel.fsdp_modules(module):
                part._settings = before

    @staticmethod
    def optim_state_dict(model: Module, optim: Any, optim_state_dict: Any = None, group: Any = None) -> dict[str, Any]:
        """The optimizer's state, keyed by the names of the model's parameters."""
        state = optim.state_dict() if optim_state_dict is None else optim_state_dict
        names = {id(p): name for name, p in model.named_parameters()}
        order = [names[id(p)] for g in optim.param_groups for p in g["params"]]
        return {"state": {order[i]: s for i, s in state["state"].items()},
                "param_groups": [{**g, "params": [order[i] for i in g["params"]]} for g in state["param_groups"]]}

    full_optim_state_dict = sharded_optim_state_dict = optim_state_dict

    @staticmethod
    def optim_state_dict_to_load(model: Module, optim: Any, optim_state_dict: dict[str, Any], is_named_optimizer: bool = False,
                                 load_directly: bool = False, group: Any = None) -> dict[str, Any]:
        """What `optim.load_state_dict` takes, from what `optim_state_dict` gave."""
        names = {id(p): name for name, p in model.named_parameters()}
        numbers = {names[id(p)]: i for i, p in enumerate(p for g in optim.param_groups for p in g["params"])}
        found = {"state": {numbers[name]: s for name, s in optim_state_dict["state"].items()},
                 "param_groups": [{**g, "params": [numbers[name] for name in g["params"]]} for g in optim_state_dict["param_groups"]]}
        if load_directly:
            optim.load_state_dict(found)
        return found
