"""`treadle.device`."""
from __future__ import annotations

from typing import Any


class device:
    """Where a tensor lives: `device("cpu")`, `device("cuda", 1)`, `device("cuda:1")`. RuntimeError for an unknown type."""

    __slots__ = ("index", "type")
    KNOWN = ("cpu", "cuda", "meta")

    def __init__(self, type: Any, index: int | None = None) -> None:
        if isinstance(type, device):
            type, index = type.type, type.index if index is None else index
        elif isinstance(type, int):
            type, index = "cuda", type
        elif ":" in str(type):
            type, _, number = str(type).partition(":")
            if not number.isdigit() or index is not None:
                raise RuntimeError(f"Invalid device string: '{type}:{number}'")
            index = int(number)
        if type not in self.KNOWN:
            raise RuntimeError(f"Expected one of {', '.join(self.KNOWN)} device type at start of device string: {type}")
        self.type: str = type
        self.index = index

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{index})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __reduce__(self) -> tuple:
        return device, (self.type, self.index)


_default: device | None = None  # None: the CPU


def get_default_device() -> device:
    """Where tensors are made when nothing is said."""
    return _default or device("cpu")


def set_default_device(where: Any) -> None:
    """Make new tensors on `where` (None: the CPU) from now on. RuntimeError when this process cannot use it."""
    global _default
    found = None if where is None else device(where)
    device_name(found)
    _default = None if found is None or found.type == "cpu" else found


def device_name(where: Any) -> str:
    """The IR's name of a device argument (None: the default). RuntimeError when this process cannot use it."""
    if where is None:
        if _default is None:
            return "cpu"
        where = _default
    found = where if isinstance(where, device) else device(where)
    if found.type == "cuda":
        from treadle.runtime import cuda_driver
        return cuda_driver.device(found.index).name_in_ir
    if found.type != "cpu":
        raise RuntimeError(f"device '{found}' is not supported")
    return "cpu"
