"""Collectives in a group of one process: the sum over all processes is the tensor itself, gathering copies it."""
from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Sequence
from typing import Any

import treadle
from treadle.distributed.groups import GroupMember, ProcessGroup, check_rank, member
from treadle.tensor import Tensor

Group = ProcessGroup | None


class ReduceOp(enum.Enum):
    """How values of several processes are combined; all of them leave a single value as it is."""

    SUM = 0
    AVG = 1
    PRODUCT = 2
    MIN = 3
    MAX = 4
    BAND = 5
    BOR = 6
    BXOR = 7


class Work:
    """The handle of an asynchronous collective, which has already ended."""

    def wait(self, timeout: Any = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True


def _done(group: Any, async_op: bool, action: Callable[[], Any] | None = None) -> Work | None:
    if group is GroupMember.NON_GROUP_MEMBER:
        return None
    member(group)
    if action is not None:
        with treadle.no_grad():
            action()
    return Work() if async_op else None


def _only(name: str, values: Sequence[Any] | None, what: str) -> Any:
    if values is None or len(values) != 1:
        raise ValueError(f"{name}: expected {what} to have one element, for one process, got {0 if values is None else len(values)}")
    return values[0]


def _same_count(name: str, output: Tensor, input: Tensor) -> None:
    if output.numel() != input.numel():
        raise ValueError(f"{name}: expected output and input to have the same number of elements in a group of one, "
                         f"got {output.numel()} and {input.numel()}")


def all_reduce(tensor: Tensor, op: ReduceOp = ReduceOp.SUM, group: Group = None, async_op: bool = False) -> Work | None:
    """Combine `tensor` over all processes, in place: of one, it stays as it is."""
    return _done(group, async_op)


def reduce(tensor: Tensor, dst: int | None = None, op: ReduceOp = ReduceOp.SUM, group: Group = None, async_op: bool = False,
           group_dst: int | None = None) -> Work | None:
    """Combine a tensor over all processes, in the process `dst`."""
    check_rank("reduce", dst)
    return _done(group, async_op)


def broadcast(tensor: Tensor, src: int | None = None, group: Group = None, async_op: bool = False,
              group_src: int | None = None) -> Work | None:
    """`src`'s tensor for everyone. ValueError unless `src` is 0."""
    check_rank("broadcast", src)
    return _done(group, async_op)


def all_gather(tensor_list: list[Tensor], tensor: Tensor, group: Group = None, async_op: bool = False) -> Work | None:
    """Every process's tensor into `tensor_list`, which has one element."""
    target = _only("all_gather", tensor_list, "tensor_list")
    return _done(group, async_op, lambda: target.copy_(tensor))


def all_gather_into_tensor(output_tensor: Tensor, input_tensor: Tensor, group: Group = None, async_op: bool = False) -> Work | None:
    """Every process's tensor, joined or stacked along the first axis, into `output_tensor`."""
    _same_count("all_gather_into_tensor", output_tensor, input_tensor)
    return _done(group, async_op, lambda: output_tensor.copy_(input_tensor.reshape(output_tensor.shape)))


def gather(tensor: Tensor, gather_list: list[Tensor] | None = None, dst: int | None = None, group: Group = None, async_op: bool = False,
           group_dst: int | None = None) -> Work | None:
    """The tensors of all processes, in the process `dst`."""
    check_rank("gather", dst)
    target = _only("gather", gather_list, "gather_list")
    return _done(group, async_op, lambda: target.copy_(tensor))


def scatter(tensor: Tensor, scatter_list: list[Tensor] | None = None, src: int | None = None, group: Group = None, async_op: bool = False,
            group_src: int | None = None) -> Work | None:
    """Tensor i of the process `src`, in process i."""
    check_rank("scatter", src)
    source = _only("scatter", scatter_list, "scatter_list")
    return _done(group, async_op, lambda: tensor.copy_(source))


def reduce_scatter(output: Tensor, input_list: list[Tensor], op: ReduceOp = ReduceOp.SUM, group: Group = None,
                   async_op: bool = False) -> Work | None:
    """Combine tensor i of all processes, in process i."""
    source = _only("reduce_scatter", input_list, "input_list")
    return _done(group, async_op, lambda: output.copy_(source))


def reduce_scatter_tensor(output: Tensor, input: Tensor, op: ReduceOp = ReduceOp.SUM, group: Group = None,
                          async_op: bool = False) -> Work | None:
    """As `reduce_scatter`, of equal parts of one tensor."""
    _same_count("reduce_scatter_tensor", output, input)
    return _done(group, async_op, lambda: output.copy_(input.reshape(output.shape)))


def all_to_all(output_tensor_list: list[Tensor], input_tensor_list: list[Tensor], group: Group = None,
               async_op: bool = False) -> Work | None:
    """Tensor i of `input_tensor_list` goes to process i; what they send is written to `output_tensor_list`."""
    target, source = _only("all_to_all", output_tensor_list, "outputs"), _only("all_to_all", input_tensor_list, "inputs")
    return _done(group, async_op, lambda: target.copy_(source))


def all_to_all_single(output: Tensor, input: Tensor, output_split_sizes: Any = None, input_split_sizes: Any = None, group: Group = None,
                      async_op: bool = False) -> Work | None:
    """As `all_to_all`, of equal parts of one tensor."""
    _same_count("all_to_all_single", output, input)
    return _done(group, async_op, lambda: output.copy_(input))


def barrier(group: Group = None, async_op: bool = False, device_ids: Any = None) -> Work | None:
    """Wait for all processes: there is only this one."""
    return _done(group, async_op)


def monitored_barrier(group: Group = None, timeout: Any = None, wait_all_ranks: bool = False) -> None:
    """Wait for all processes."""
    _done(group, False)


def all_gather_object(object_list: list[Any], obj: Any, group: Group = None) -> None:
    """Copies of every process's object into `object_list`."""
    _only("all_gather_object", object_list, "object_list")
    member(group)
    object_list[0] = copy.deepcopy(obj)


def gather_object(obj: Any, object_gather_list: list[Any] | None = None, dst: int | None = None, group: Group = None,
                  group_dst: int | None = None) -> None:
    """Objects of all processes, in the process `dst`."""
    check_rank("gather_object", dst)
    _only("gather_object", object_gather_list, "object_gather_list")
    member(group)
    assert object_gather_list is not None
    object_gather_list[0] = copy.deepcopy(obj)


def broadcast_object_list(object_list: list[Any], src: int | None = None, group: Group = None, device: Any = None,
                          group_src: int | None = None) -> None:
    """Objects of the process `src`, in all."""
    check_rank("broadcast_object_list", src)
    member(group)


def scatter_object_list(scatter_object_output_list: list[Any], scatter_object_input_list: list[Any] | None = None,
                        src: int | None = None, group: Group = None, group_src: int | None = None) -> None:
    """Object i of the process `src`, in process i."""
    check_rank("scatter_object_list", src)
    member(group)
    scatter_object_output_list[0] = copy.deepcopy(_only("scatter_object_list", scatter_object_input_list, "scatter_object_input_list"))


def _no_other(name: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        member(None)
        raise ValueError(f"{name}: there is no other process to talk to in a group of one")
    refuse.__name__ = refuse.__qualname__ = name
    return refuse


send, recv, isend, irecv = (_no_other(name) for name in ("send", "recv", "isend", "irecv"))
