"""Meshes, distributed tensors and fully sharded modules, in a group of one process."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

import treadle as torch
import treadle.nn.functional as F
from treadle import distributed as dist
from treadle import nn
from treadle.distributed.device_mesh import DeviceMesh, init_device_mesh
from treadle.distributed.fsdp import (
    FSDPModule,
    FullStateDictConfig,
    MixedPrecision,
    MixedPrecisionPolicy,
    ShardingStrategy,
    StateDictType,
    fully_shard,
)
from treadle.distributed.fsdp import FullyShardedDataParallel as FSDP
from treadle.distributed.fsdp.wrap import ModuleWrapPolicy, enable_wrap, size_based_auto_wrap_policy, transformer_auto_wrap_policy, wrap
from treadle.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_meshes() -> None:
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "tp"))
    assert mesh.ndim == 2 and mesh.size() == 1 and mesh.shape == (1, 1) and mesh.get_coordinate() == [0, 0]
    assert mesh["dp"].get_local_rank() == 0 and mesh["dp"].mesh_dim_names == ("dp",)
    assert mesh.get_group("tp").size() == 1 and mesh["dp", "tp"] == mesh
    with pytest.raises(KeyError, match="pp"):
        mesh["pp"]
    with pytest.raises(RuntimeError, match="mesh_dim"):
        mesh.get_group()
    with pytest.raises(RuntimeError, match="world size 1"):
        init_device_mesh("cpu", (2,))
    with pytest.raises(RuntimeError, match="unique"):
        init_device_mesh("cpu", (1, 1), mesh_dim_names=("a", "a"))
    dist.destroy_process_group()
    DeviceMesh("cpu", [0])
    assert dist.is_initialized()


def test_distributed_tensors() -> None:
    mesh = init_device_mesh("cpu", (1,))
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    d = DTensor.from_local(x, mesh, [Shard(-1)], run_check=False)
    assert d.placements == (Shard(1),) and d.device_mesh is mesh and d.placements[0].is_shard(1)
    ((d.to_local() * 2).sum() + (d * 3).sum() + d.redistribute(placements=[Replicate()]).full_tensor().sum()).backward()
    assert x.grad is not None and x.grad.tolist() == [[6.0] * 3] * 2
    p = distribute_tensor(nn.Parameter(torch.ones(2)), mesh, [Shard(0)])
    assert isinstance(p, nn.Parameter) and isinstance(p, DTensor) and p.requires_grad and p.is_leaf
    with pytest.raises(RuntimeError, match="leaf"):
        distribute_tensor(x * 2)
    with pytest.raises(ValueError, match=r"device_mesh\.ndim"):
        distribute_tensor(torch.ones(2), mesh, [Shard(0), Shard(0)])
    with pytest.raises(RuntimeError, match="Partial"):
        d.redistribute(placements=[Partial()])
    with pytest.raises(ValueError, match="only part"):
        DTensor.from_local(torch.ones(2), mesh, [Shard(0)], shape=(4,))
    model = distribute_module(nn.Linear(3, 2), mesh)
    assert all(isinstance(q, DTensor) for q in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.weight.full_tensor().clone()
    model(x.detach()).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.weight)
    assert torch.distributed.tensor.zeros(2, placements=[Replicate()]).placements == (Replicate(),)


def model_and_data() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(16, 4), torch.arange(16) % 3


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int = 3) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_fsdp_trains_like_its_module() -> None:
    expected = trained(*model_and_data())
    model, x, y = model_and_data()
    wrapped = FSDP(model, sharding_strategy=ShardingStrategy.FULL_SHARD, use_orig_params=True,
                   auto_wrap_policy=ModuleWrapPolicy({nn.Linear}))
    assert trained(wrapped, x, y) == expected
    assert wrapped.module is model and wrapped.sharding_strategy is ShardingStrategy.NO_SHARD
    assert list(wrapped.state_dict()) == list(model.state_dict())
    assert [n for n, _ in wrapped.named_parameters()] == [n for n, _ in model.named_parameters()]
    with FSDP.state_dict_type(wrapped, StateDictType.FULL_STATE_DICT, FullStateDictConfig(offload_to_cpu=True, rank0_only=True)):
        model.load_state_dict(wrapped.state_dict())
    optimizer = torch.optim.Adam(wrapped.parameters())
    F.cross_entropy(wrapped(x), y).backward()
    assert float(wrapped.clip_grad_norm_(1e-3)) > 1e-3
    optimizer.step()
    state = FSDP.optim_state_dict(wrapped, optimizer)
    assert "0.weight" in state["state"]
    assert FSDP.optim_state_dict_to_load(wrapped, optimizer, state)["param_groups"] == optimizer.state_dict()["param_groups"]
    dist.destroy_process_group()
    with pytest.raises(ValueError, match="init_process_group"):
        FSDP(model)


def test_mixed_precision() -> None:
    expected = trained(*model_and_data())
    model, x, y = model_and_data()
    seen = []
    model[3].register_forward_hook(lambda m, inputs, out: seen.append((inputs[0].dtype, m.weight.dtype, out.dtype)))
    model[1].register_forward_hook(lambda m, inputs, out: seen.append((m.weight.dtype, m.running_mean.dtype)))
    wrapped = FSDP(model, mixed_precision=MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    found = trained(wrapped, x, y)
    assert found != expected and all(abs(a - b) < 0.02 for a, b in zip(found, expected, strict=True))
    assert seen[:2] == [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16, torch.bfloat16)]
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in model.parameters())


def test_fully_shard() -> None:
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("dp",))
    model, x, y = model_and_data()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)
    for layer in (model[0], model[3]):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    assert fully_shard(model, mesh=mesh) is model and isinstance(model, FSDPModule) and isinstance(model, nn.Sequential)
    assert type(model).__name__ == "FSDPSequential" and model(x).dtype == torch.float32
    model.set_requires_gradient_sync(False)
    expected = trained(*model_and_data())
    assert all(abs(a - b) < 0.02 for a, b in zip(trained(model, x, y), expected, strict=True))


def test_wrapping_policies() -> None:
    with enable_wrap(wrapper_cls=FSDP, use_orig_params=True):
        assert isinstance(wrap(nn.Linear(2, 2)), FSDP)
    assert isinstance(wrap(nn.Linear(2, 2)), nn.Linear)
    assert transformer_auto_wrap_policy(nn.Linear(1, 1), False, 0, {nn.Linear})
    assert not size_based_auto_wrap_policy(nn.Linear(1, 1), False, 10)
    from treadle.distributed._composable.fsdp import fully_shard as earlier
    assert earlier is fully_shard
