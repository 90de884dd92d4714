"""Process groups of one process."""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

NOT_INITIALIZED = "Default process group has not been initialized, please make sure to call init_process_group."


class ProcessGroup:
    """A group whose only member is this process."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"ProcessGroup(backend={self.backend!r}, size=1)"


class _Members(type):
    """`group.WORLD`: the default group, or None."""

    _world: ProcessGroup | None = None

    @property
    def WORLD(cls) -> ProcessGroup | None:
        return _Members._world


class group(metaclass=_Members):
    """`group.WORLD` is the default group, None before `init_process_group`."""


class GroupMember(metaclass=_Members):
    """`GroupMember.NON_GROUP_MEMBER` is what `new_group` returns to processes outside the group."""

    NON_GROUP_MEMBER = object()


def is_available() -> bool:
    """True: groups of one process are there."""
    return True


def is_initialized() -> bool:
    """Whether `init_process_group` was called."""
    return _Members._world is not None


def is_nccl_available() -> bool:
    return False


is_gloo_available = is_mpi_available = is_nccl_available


def is_torchelastic_launched() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def init_process_group(backend: str | None = None, init_method: str | None = None, timeout: Any = None, world_size: int = -1,
                       rank: int = -1, store: Any = None, group_name: str = "", pg_options: Any = None, device_id: Any = None) -> None:
    """Start the default group, of this process alone.

    The size is `world_size`, else the environment's WORLD_SIZE, else 1. NotImplementedError when it is larger than 1; ValueError for a
    rank outside it or a second call.
    """
    if is_initialized():
        raise ValueError("trying to initialize the default process group twice!")
    size = world_size if world_size != -1 else int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        raise NotImplementedError(f"init_process_group: {size} processes were asked for, but treadle.distributed works in one process only "
                                  "so far. Start the program without a launcher, or set WORLD_SIZE=1.")
    found = rank if rank != -1 else int(os.environ.get("RANK", "0"))
    if found != 0 or size < 1:
        raise ValueError(f"init_process_group: rank {found} is not in a group of {size}")
    _Members._world = ProcessGroup((backend or "gloo").lower())


def destroy_process_group(group: ProcessGroup | None = None) -> None:
    """End the default group (or only `group`)."""
    member(group)
    if group is None or group is _Members._world:
        _Members._world = None


def member(group: Any) -> ProcessGroup:
    """The group that an argument means. ValueError before `init_process_group`."""
    if _Members._world is None:
        raise ValueError(NOT_INITIALIZED)
    return _Members._world if group is None else group


def get_rank(group: ProcessGroup | None = None) -> int:
    """This process's number in a group. ValueError before `init_process_group`."""
    return member(group).rank()


def get_world_size(group: ProcessGroup | None = None) -> int:
    """How many processes a group has. ValueError before `init_process_group`."""
    return member(group).size()


def get_backend(group: ProcessGroup | None = None) -> str:
    """The name given to `init_process_group`."""
    return member(group).backend


def new_group(ranks: Sequence[int] | None = None, timeout: Any = None, backend: str | None = None, pg_options: Any = None,
              use_local_synchronization: bool = False, group_desc: str | None = None, device_id: Any = None) -> Any:
    """A further group; `GroupMember.NON_GROUP_MEMBER` where `ranks` leaves this process out. ValueError for ranks that there are not."""
    world = member(None)
    if ranks is None or list(ranks) == [0]:
        return ProcessGroup(backend or world.backend)
    if any(r != 0 for r in ranks):
        raise ValueError(f"new_group: ranks {list(ranks)} are not all in the default group, which has rank 0 only")
    return GroupMember.NON_GROUP_MEMBER


def get_process_group_ranks(group: ProcessGroup | None = None) -> list[int]:
    """The ranks of a group's processes."""
    member(group)
    return [0]


def get_global_rank(group: ProcessGroup, group_rank: int) -> int:
    """The rank in the world of a rank in a group."""
    return check_rank("get_global_rank", group_rank)


def get_group_rank(group: ProcessGroup, global_rank: int) -> int:
    """The rank in a group of a rank in the world."""
    return check_rank("get_group_rank", global_rank)


def check_rank(name: str, rank: int | None) -> int:
    """ValueError unless it is the only rank."""
    if rank not in (0, None):
        raise ValueError(f"{name}: rank {rank} is not in the group, which has rank 0 only")
    return 0
