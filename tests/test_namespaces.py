"""Namespaces of PyTorch programs: distributed in one process, jit, hub, foreach functions, trees, import paths."""
from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import distributed as dist
from treadle import hub, jit, nn
from treadle.utils import _pytree


@pytest.fixture
def world() -> Any:
    dist.init_process_group("gloo", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_has_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dist.is_available() and not dist.is_initialized() and dist.group.WORLD is None
    for call in (dist.get_rank, dist.get_world_size, dist.barrier, dist.destroy_process_group):
        with pytest.raises(ValueError, match="Default process group has not been initialized"):
            call()
    with pytest.raises(NotImplementedError, match="4 processes were asked for"):
        dist.init_process_group("nccl", world_size=4, rank=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NotImplementedError, match="one process only"):
        dist.init_process_group()


def test_collectives_of_one(world: Any) -> None:
    assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
    x, parts, joined = treadle.arange(4.0), [treadle.zeros(4)], treadle.zeros(1, 4)
    dist.all_reduce(x, op=dist.ReduceOp.AVG)
    dist.broadcast(x, src=0)
    dist.all_gather(parts, x)
    dist.all_gather_into_tensor(joined, x)
    assert x.tolist() == parts[0].tolist() == joined[0].tolist() == [0, 1, 2, 3]
    work = dist.all_reduce(x, async_op=True)
    assert work is not None and work.wait() and work.is_completed()
    found: list[Any] = [None]
    given = {"a": [1]}
    dist.all_gather_object(found, given)
    assert found == [given] and found[0] is not given
    with pytest.raises(ValueError, match="rank 3 is not in the group"):
        dist.broadcast(x, src=3)
    with pytest.raises(ValueError, match="to have one element, for one process, got 2"):
        dist.all_gather([x, x], x)
    with pytest.raises(ValueError, match="no other process"):
        dist.send(x, 1)
    assert dist.new_group([]) is dist.GroupMember.NON_GROUP_MEMBER and dist.new_group([0]).size() == 1
    with pytest.raises(ValueError, match="twice"):
        dist.init_process_group()


def test_data_parallel_wrappers(world: Any) -> None:
    net = nn.Linear(3, 2)
    x = treadle.ones(4, 3)
    wrapped = nn.parallel.DistributedDataParallel(net, device_ids=None, find_unused_parameters=True)
    with wrapped.no_sync():
        wrapped(x).sum().backward()
    assert wrapped.module is net and net.bias.grad.tolist() == [4.0, 4.0]
    state = dict(wrapped.state_dict())
    assert list(state) == ["module.weight", "module.bias"]
    treadle.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    net.load_state_dict(state)
    assert nn.DataParallel(net)(x).tolist() == net(x).tolist()
    with pytest.raises(RuntimeError, match="doesn't have any parameter that requires a gradient"):
        nn.parallel.DistributedDataParallel(nn.ReLU())
    with pytest.raises(NotImplementedError, match="one device"):
        nn.DataParallel(net, device_ids=[0, 1])


def test_jit() -> None:
    @jit.script
    def f(x: Any) -> Any:
        return x * 2 + 1

    class Net(jit.ScriptModule):
        @jit.script_method
        def forward(self, x: Any) -> Any:
            return self.helper(x) if not jit.is_scripting() else x

        @jit.ignore(drop=True)
        def helper(self, x: Any) -> Any:
            return x + 1

        @jit.unused
        def never(self) -> None: ...

    assert f(treadle.ones(2)).tolist() == [3, 3]
    net = jit.trace(Net(), treadle.ones(1))
    assert isinstance(net, Net) and net(treadle.ones(2)).tolist() == [2, 2] and not jit.is_tracing()
    with pytest.raises(NotImplementedError, match="no TorchScript"):
        jit.save(net, "x.pt")
    assert jit._script_if_tracing(test_jit) is jit._overload_method(test_jit) is test_jit


def test_hub_downloads_once_and_checks(tmp_path: Path) -> None:
    source = tmp_path / "weights.pth"
    treadle.save({"w": treadle.arange(3)}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    source = source.rename(tmp_path / f"weights-{digest[:8]}.pth")
    state = hub.load_state_dict_from_url(source.as_uri(), str(tmp_path / "kept"), check_hash=True, progress=False)
    assert state["w"].tolist() == [0, 1, 2]
    url = source.as_uri()
    source.unlink()
    assert hub.load_state_dict_from_url(url, str(tmp_path / "kept"))["w"].tolist() == [0, 1, 2]
    other = tmp_path / "other"
    other.write_bytes(b"x")
    with pytest.raises(RuntimeError, match=r'invalid hash value \(expected "00"'):
        hub.download_url_to_file(other.as_uri(), tmp_path / "target", "00", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "other"]
    assert treadle.utils.model_zoo.load_url is hub.load_state_dict_from_url
    assert os.path.dirname(hub.get_dir()) == hub._get_torch_home() and hub.urlparse(url).scheme == "file"


def test_assertions_of_libraries() -> None:
    treadle._assert(treadle.ones(1) > 0, "positive")
    treadle._check(True)
    treadle._check_tensor_all(treadle.ones(2) > 0)
    treadle._assert_async(treadle.tensor([True]))
    with pytest.raises(AssertionError, match="positive"):
        treadle._assert(False, "positive")
    with pytest.raises(RuntimeError, match="Expected cond to be True"):
        treadle._check(False)
    with pytest.raises(RuntimeError, match="one of 3"):
        treadle._assert_async(treadle.tensor(0), "one of 3")
    with pytest.raises(RuntimeError, match="Expected cond"):
        treadle._check_is_size(-1)
    with pytest.raises(ValueError, match="bad 3"):
        treadle._check_value(False, lambda: "bad 3")
    with pytest.raises(TypeError, match="cond must be a bool, but got a Tensor"):
        treadle._check(treadle.tensor(True))  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        treadle._check_tensor_all_with(IndexError, treadle.tensor([True, False]))


def test_what_is_said_to_other_compilers_is_accepted() -> None:
    treadle._dynamo.config.suppress_errors = True
    treadle._inductor.config.triton.unique_kernel_names = True
    assert treadle._inductor.config.triton.unique_kernel_names and not treadle._dynamo.config.never_set
    treadle._dynamo.reset()
    x = treadle.ones(2)
    treadle._dynamo.mark_dynamic(x, 0)
    treadle.compiler.cudagraph_mark_step_begin()
    assert treadle._dynamo.optimize(nopython=True)(treadle.compiler.allow_in_graph(lambda x: x + 1))(x).tolist() == [2, 2]
    treadle.backends.cuda.enable_flash_sdp(False)
    with treadle.backends.cuda.sdp_kernel(enable_math=False), treadle.backends.cudnn.flags(enabled=True):
        assert not treadle.compiler.is_exporting() and treadle.backends.cuda.math_sdp_enabled()


def test_accelerators_that_are_not_there() -> None:
    assert not treadle.xpu.is_available() and treadle.mps.device_count() == 0
    assert treadle.version.cuda is None and treadle.version.hip is None
    assert treadle.get_default_device() == treadle.device("cpu")
    assert (treadle.accelerator.current_accelerator() is None) is not treadle.cuda.is_available()
    assert isinstance(treadle.cuda.is_bf16_supported(), bool) and not isinstance(treadle.ones(1), treadle.cuda.FloatTensor)
    from treadle.cuda.amp import GradScaler, autocast
    with autocast(enabled=False):
        assert GradScaler(enabled=False).scale(2.0) == 2.0


def test_foreach() -> None:
    xs = [treadle.ones(2), treadle.full((3,), 2.0)]
    treadle._foreach_mul_(xs, 3.0)
    treadle._foreach_add_(xs, [treadle.ones(2), treadle.zeros(3)], alpha=2)
    assert [x.tolist() for x in xs] == [[5, 5], [6, 6, 6]]
    assert [x.item() for x in treadle._foreach_norm(xs)] == pytest.approx([50**0.5, 108**0.5])
    treadle._foreach_lerp_(xs, [treadle.zeros(2), treadle.zeros(3)], 0.5)
    treadle._foreach_addcdiv_(xs, xs, [treadle.ones(2), treadle.ones(3)], [1.0, 2.0])
    assert [x.tolist() for x in xs] == [[5, 5], [9, 9, 9]]
    treadle._foreach_maximum_(xs, [treadle.full((2,), 6.0), treadle.zeros(3)])
    assert [x.tolist() for x in xs] == [[6, 6], [9, 9, 9]]
    treadle._foreach_zero_(xs)
    assert sum(x.sum().item() for x in xs) == 0
    with pytest.raises(RuntimeError, match="same number of tensors, got 2 and 1"):
        treadle._foreach_add(xs, [xs[0]])
    with pytest.raises(AttributeError):
        treadle._foreach_nothing  # noqa: B018


def test_trees() -> None:
    Pair = namedtuple("Pair", "a b")
    tree = {"x": [1, (2, None)], "y": Pair(3, OrderedDict(z=4))}
    leaves, spec = _pytree.tree_flatten(tree)
    assert leaves == [1, 2, None, 3, 4] and _pytree.tree_unflatten(leaves, spec) == tree and spec.num_leaves == 5
    assert _pytree.tree_map(lambda a, b: (a, b), [1, 2], [3, 4]) == [(1, 3), (2, 4)]
    assert _pytree.tree_map_only(int, lambda x: -x, [1, "a"]) == [-1, "a"] and _pytree.tree_any(lambda x: x == 4, tree)
    with pytest.raises(ValueError, match="holds 5 items"):
        _pytree.tree_unflatten([1], spec)
    with pytest.raises(ValueError, match="same structure"):
        _pytree.tree_map(max, [1], (1,))


def test_import_paths() -> None:
    from treadle.nn.attention import SDPBackend, sdpa_kernel
    from treadle.nn.modules.loss import _Loss
    from treadle.nn.modules.module import _IncompatibleKeys
    from treadle.nn.modules.utils import _pair
    from treadle.utils.hooks import RemovableHandle
    assert issubclass(nn.MSELoss, _Loss) and _pair(3) == (3, 3) and _pair([1, 2]) == (1, 2)
    assert treadle.nn.modules.linear.Linear is nn.Linear and _IncompatibleKeys([], []).missing_keys == []
    assert isinstance(nn.ReLU().register_forward_hook(print), RemovableHandle)
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
        pass
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        treadle.nn.modules.loss.nothing  # noqa: B018


def test_safe_globals(tmp_path: Path) -> None:
    before = treadle.serialization.get_safe_globals()
    with treadle.serialization.safe_globals([Path]):
        assert Path in treadle.serialization.get_safe_globals()
    assert treadle.serialization.get_safe_globals() == before


def test_spawn(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
import treadle as torch
import treadle.multiprocessing as mp

def work(rank, folder, x):
    if rank == 1 and x is None:
        raise KeyError("lost")
    if x is not None:
        torch.save(x + rank, f"{folder}/{rank}.pt")

if __name__ == "__main__":
    import sys
    mp.spawn(work, (sys.argv[1], torch.ones(2)), nprocs=2)
    try:
        mp.spawn(work, (sys.argv[1], None), nprocs=2)
    except mp.ProcessRaisedException as e:
        print("KeyError: 'lost'" in str(e), e.error_index)
""")
    done = subprocess.run([sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.stdout == "True 1\n", done.stderr
    np.testing.assert_array_equal(treadle.load(tmp_path / "1.pt").numpy(), [2, 2])


def test_importing_loads_no_compiler() -> None:
    """What compiles, reads files or computes special functions loads when it is first needed: a program that only imports starts fast."""
    heavy = ("llvmlite", "networkx", "scipy", "zipfile", "hashlib", "treadle.passes.lower", "treadle.runtime.compiled",
             "treadle.inspection")
    program = f"import numpy, sys; before = set(sys.modules); import treadle; print([m for m in {heavy} if m in set(sys.modules) - before])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_names_that_are_loaded_later_are_listed() -> None:
    code = "import treadle; names = dir(treadle); assert {'compile', 'explain', 'compiler', 'load', 'vmap', 'fft', 'Tensor'} <= {*names}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ops_by_their_inner_names() -> None:
    torch, aten = treadle, treadle.ops.aten
    x = torch.arange(12.0).reshape(3, 4)
    assert aten.mm.default is aten.mm.default and aten.mm in {aten.mm} and aten.mm.default(x, x.t()).tolist() == (x @ x.t()).tolist()
    assert repr(aten.mm) == "<OpOverloadPacket(op='aten.mm')>" and repr(aten.mm.default) == "<OpOverload(op='aten.mm.default')>"
    assert aten.slice.Tensor(x, 1, 1, 4, 2).tolist() == x[:, 1:4:2].tolist() and aten.slice(x)[0, 0].item() == 0
    aten.slice(x, 0, 0, 1).zero_()
    assert x[0].tolist() == [0.0] * 4 and aten._local_scalar_dense(x[1, 1]) == 5.0
    assert aten.linalg_inv(torch.eye(2)).tolist() == [[1.0, 0.0], [0.0, 1.0]] and aten.sym_size.int(x, 1) == 4
    assert aten._to_copy(x, dtype=torch.int64).dtype is torch.int64 and aten.constant_pad_nd(x, [1, 0], 2.0)[0, 0].item() == 2.0
    convolved = aten.convolution(torch.ones(1, 1, 3), torch.ones(1, 1, 2), None, [1], [0], [1], False, [0], 1)
    assert convolved.tolist() == [[[2.0, 2.0]]]
    rows = torch.tensor([[1.0, 2.0], [float("-inf")] * 2], requires_grad=True)
    aten._safe_softmax(rows, -1).sum().backward()
    assert rows.grad.tolist()[1] == [0.0, 0.0] and torch.torch.ops is torch.ops
    pooled, places = torch.nn.functional.max_pool2d(x.reshape(1, 3, 4), 2, return_indices=True)
    back = aten.max_pool2d_with_indices_backward(torch.ones_like(pooled), x.reshape(1, 3, 4), 2, 2, 0, 1, False, places)
    assert back.sum().item() == 2.0 and back.flatten()[5].item() == 1.0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = aten.nothing
    with pytest.raises(IndexError, match="out of range"):
        aten.slice(x, 2)


def test_names_that_few_programs_use() -> None:
    torch = treadle
    torch.manual_seed(0)
    rates = torch.full((4000,), 3.0)
    drawn = torch.poisson(rates)
    assert drawn.dtype is torch.float32 and abs(drawn.mean().item() - 3) < 0.15 and torch.equal(drawn, drawn.round())
    heads = torch.binomial(torch.full((4000,), 10.0), torch.tensor(0.25))
    assert abs(heads.mean().item() - 2.5) < 0.15 and heads.max() <= 10
    torch.manual_seed(0)
    assert torch.equal(torch.poisson(rates), drawn)
    with pytest.raises(RuntimeError, match="non-negative"):
        torch.poisson(torch.tensor([-1.0]))
    assert torch.vander(torch.arange(3)).tolist() == [[0, 0, 1], [1, 1, 1], [4, 2, 1]]
    assert torch.vander(torch.tensor([2.0]), 3, True).tolist() == [[1.0, 2.0, 4.0]]
    assert torch.typename(torch.ones(1)).endswith(".FloatTensor") and torch.typename([]) == "list" and not torch.is_storage(1)
    x = torch.arange(3.0)
    assert x.apply_(lambda v: v + 1) is x and x.map_(torch.ones(1), lambda a, b: a * 2 + b).tolist() == [3.0, 5.0, 7.0]
    with pytest.raises(RuntimeError, match="requires grad"):
        torch.ones(1, requires_grad=True).apply_(abs)
    wide = torch.conv_tbc(torch.ones(4, 2, 3), torch.ones(2, 3, 5), torch.zeros(5), pad=1)
    assert wide.shape == (5, 2, 5) and wide[1, 0, 0].item() == 6.0
    torch.testing.assert_allclose(torch.ones(2), torch.ones(2, dtype=torch.float64))
    from treadle.nn.parallel.distributed import DistributedDataParallel
    from treadle.nn.utils.stateless import functional_call
    from treadle.types import Number
    from treadle.utils.data.distributed import DistributedSampler
    assert isinstance(1, Number) and all((DistributedDataParallel, functional_call, DistributedSampler))
