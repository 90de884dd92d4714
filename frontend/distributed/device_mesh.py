"""`distributed.device_mesh`: meshes of one process, whatever the number of their dimensions."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import treadle
from treadle.distributed.groups import ProcessGroup, get_world_size, group, init_process_group, is_initialized
from treadle.tensor import Tensor

__all__ = ["DeviceMesh", "init_device_mesh"]


class DeviceMesh:
    """Processes arranged along named dimensions. There is one process, so each dimension has one place.

    device_type: "cpu" or "cuda". mesh: the ranks, as a tensor or nested lists. Starts the default group where the program has not.
    RuntimeError for more ranks than there are processes, ValueError for another rank than 0.
    """

    def __init__(self, device_type: str, mesh: Any, *, mesh_dim_names: Sequence[str] | None = None) -> None:
        self.device_type = device_type
        self.mesh: Tensor = mesh if isinstance(mesh, Tensor) else treadle.tensor(mesh, dtype=treadle.int32)
        self.mesh_dim_names = None if mesh_dim_names is None else tuple(mesh_dim_names)
        if not is_initialized():
            init_process_group()
        if self.mesh.numel() > get_world_size():
            raise RuntimeError(f"Mesh should not be bigger than default world size {get_world_size()}, but found "
                               f"{self.mesh.numel()} ranks!")
        if self.mesh.flatten().tolist() != [0]:
            raise ValueError(f"DeviceMesh: ranks {self.mesh.tolist()} are not all in the default group, which has rank 0 only")
        if self.mesh_dim_names is not None and len(self.mesh_dim_names) != self.mesh.ndim:
            raise RuntimeError(f"mesh_dim_names must have one name for each of {self.mesh.ndim} dimensions, got {self.mesh_dim_names}")

    @property
    def ndim(self) -> int:
        return self.mesh.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mesh.shape)

    def size(self, mesh_dim: int | None = None) -> int:
        """How many processes the mesh has, or one of its dimensions."""
        return self.mesh.numel() if mesh_dim is None else self.mesh.size(mesh_dim)

    def _dimension(self, mesh_dim: int | str | None) -> int:
        if isinstance(mesh_dim, str):
            if mesh_dim not in (self.mesh_dim_names or ()):
                raise KeyError(f"Invalid mesh_dim_name {mesh_dim!r}: the mesh has {self.mesh_dim_names}")
            return (self.mesh_dim_names or ()).index(mesh_dim)
        if mesh_dim is None and self.ndim > 1:
            raise RuntimeError(f"Found the DeviceMesh have {self.ndim} dimensions, but mesh_dim was not given")
        return mesh_dim or 0

    def get_group(self, mesh_dim: int | str | None = None) -> ProcessGroup:
        """The process group along a dimension, which has to be named when there are several."""
        self._dimension(mesh_dim)
        assert group.WORLD is not None
        return group.WORLD

    def get_all_groups(self) -> list[ProcessGroup]:
        """One process group for each dimension."""
        return [self.get_group(i) for i in range(self.ndim)]

    def get_rank(self) -> int:
        """This process's rank in the world."""
        return 0

    def get_local_rank(self, mesh_dim: int | str | None = None) -> int:
        """This process's place along a dimension."""
        self._dimension(mesh_dim)
        return 0

    def get_coordinate(self) -> list[int]:
        """This process's place along each dimension."""
        return [0] * self.ndim

    def __getitem__(self, names: str | tuple[str, ...]) -> DeviceMesh:
        """The mesh of the named dimensions. KeyError for names it does not have."""
        names = (names,) if isinstance(names, str) else names
        for name in names:
            self._dimension(name)
        return DeviceMesh(self.device_type, self.mesh.reshape([1] * len(names)), mesh_dim_names=names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeviceMesh) and (self.device_type, self.shape, self.mesh_dim_names) == (
            other.device_type, other.shape, other.mesh_dim_names)

    def __hash__(self) -> int:
        return hash((self.device_type, self.shape, self.mesh_dim_names))

    def __repr__(self) -> str:
        names = [f"{n}=" for n in self.mesh_dim_names] if self.mesh_dim_names is not None else [""] * self.ndim
        return f"DeviceMesh(({', '.join(f'{n}{s}' for n, s in zip(names, self.shape, strict=True))}), {self.device_type!r})"


def init_device_mesh(device_type: str, mesh_shape: Sequence[int], *, mesh_dim_names: Sequence[str] | None = None,
                     backend_override: Any = None) -> DeviceMesh:
    """A mesh over all processes, of the given shape. RuntimeError when there are fewer, or when names are missing or repeated."""
    if mesh_dim_names is not None and len(set(mesh_dim_names)) != len(mesh_dim_names):
        raise RuntimeError(f"Each mesh_dim_name must be unique, got {tuple(mesh_dim_names)}")
    if mesh_dim_names is not None and len(mesh_dim_names) != len(mesh_shape):
        raise RuntimeError(f"mesh_shape and mesh_dim_names should have same length, got {len(mesh_shape)} and {len(mesh_dim_names)}")
    ranks = treadle.arange(math.prod(mesh_shape), dtype=treadle.int32).reshape(list(mesh_shape))
    return DeviceMesh(device_type, ranks, mesh_dim_names=mesh_dim_names)


def default_mesh() -> DeviceMesh:
    """The mesh of all processes along one dimension."""
    return init_device_mesh("cpu", (1,))


