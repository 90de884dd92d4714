"""Memory of a CUDA device: a caching allocator over cuMemAlloc, and copies to and from the host.

The classes of block sizes are those of host memory (runtime/memory.py). Every block is an allocation of its own, so that the
driver's (or a simulator's) bounds checks see each tensor. A freed block is reused by the stream that used it: in its order.
"""
from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from treadle.runtime import memory
from treadle.runtime.memory import Buffer, Pool, SizeClass

if TYPE_CHECKING:
    from treadle.runtime.cuda_driver import Device


class DeviceBuffer(Buffer):
    """Memory of a tensor on a device."""

    __slots__ = ("device",)

    def __init__(self, ptr: int, nbytes: int, owner: Any, size_class: SizeClass | None, device: Device) -> None:
        super().__init__(ptr, nbytes, owner, size_class)
        self.device = device

    @property
    def __array_interface__(self) -> dict[str, Any]:
        raise TypeError(f"memory on cuda:{self.device.index} cannot be seen by numpy: copy it with cpu() first")

    def host(self) -> Buffer:
        """A copy in the host's memory."""
        return download(self)


class DevicePool(Pool):
    """The blocks of one device and stream."""

    def __init__(self, device: Device) -> None:
        super().__init__(1 << 62)
        self.device = device

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """A block of at least `nbytes`, 256-byte aligned. `OutOfMemoryError` when the device has none left."""
        size_class = self._by_request.get(nbytes) or self._class_for(nbytes)
        try:
            ptr = size_class.free.pop()
        except IndexError:
            ptr = self._grow(size_class, nbytes)
        self.in_use += size_class.size
        if self.in_use > self.peak:
            self.peak = self.in_use
        return DeviceBuffer(ptr, nbytes, None, size_class, self.device)

    def _class_for(self, nbytes: int) -> SizeClass:
        found = super()._class_for(nbytes)
        found.slab = 0
        return found

    def _grow(self, size_class: SizeClass, nbytes: int) -> int:
        from treadle.runtime.cuda_driver import OutOfMemoryError, call
        try:
            ptr = call("cuMemAlloc", size_class.size)
        except OutOfMemoryError:
            for pool in list(self.device.pools.values()):
                pool.trim(0)
            try:
                ptr = call("cuMemAlloc", size_class.size)
            except OutOfMemoryError:
                raise OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {nbytes / 2**20:.2f} MiB on cuda:{self.device.index}, which has "
                    f"{self.device.total_memory / 2**20:.0f} MiB; {self.in_use / 2**20:.2f} MiB are in use by tensors.") from None
        self.reserved += size_class.size
        return int(ptr)

    def _unmap(self, ptr: int, size: int) -> None:
        from treadle.runtime.cuda_driver import call
        self.device.enter()
        call("cuMemFree", ptr)
        self.reserved -= size


class _Pinned:
    """Page-locked host memory, freed with this object."""

    def __init__(self, nbytes: int) -> None:
        from treadle.runtime.cuda_driver import call, device
        self.ptr = 0
        device().enter()
        self.ptr = int(call("cuMemHostAlloc", max(nbytes, 1), 0))

    def __del__(self) -> None:
        from treadle.runtime import cuda_driver
        if cuda_driver._DRIVER is not None and self.ptr:
            cuda_driver._DRIVER.cuMemFreeHost(self.ptr)


def pinned(nbytes: int) -> Buffer:
    """Page-locked memory of the host, from which and to which copies run beside other work."""
    owner = _Pinned(nbytes)
    return Buffer(owner.ptr, nbytes, owner)


def is_pinned(buffer: Any) -> bool:
    return isinstance(getattr(buffer, "owner", None), _Pinned)


def upload(buffer: Buffer, device: Device, wait: bool = True) -> DeviceBuffer:
    """A copy of host memory on the device. Without `wait`, and from pinned memory, the copy may still be under way."""
    from treadle.runtime.cuda_driver import call
    made = device.allocate(buffer.nbytes)
    if buffer.nbytes:
        call("cuMemcpyHtoDAsync", made.ptr, buffer.ptr, buffer.nbytes, device.stream())
        if wait or not is_pinned(buffer):
            device.wait()
        else:
            made.owner = buffer  # until the copy is done, and as long as the tensor lives
    return made


def download(buffer: DeviceBuffer) -> Buffer:
    """A copy of device memory on the host; waits for what the current stream has to do before."""
    from treadle.runtime.cuda_driver import call
    made = memory.allocate(buffer.nbytes)
    if buffer.nbytes:
        buffer.device.enter()
        call("cuMemcpyDtoHAsync", made.ptr, buffer.ptr, buffer.nbytes, buffer.device.stream())
        buffer.device.wait()
    return made


def duplicate(buffer: DeviceBuffer, device: Device) -> DeviceBuffer:
    """A copy of device memory on the same or another device."""
    from treadle.runtime.cuda_driver import call
    if device is not buffer.device:
        buffer.device.wait()
    made = device.allocate(buffer.nbytes)
    if not buffer.nbytes:
        return made
    if device is buffer.device:
        call("cuMemcpyDtoDAsync", made.ptr, buffer.ptr, buffer.nbytes, device.stream())
    else:
        call("cuMemcpyPeerAsync", made.ptr, device.context, buffer.ptr, buffer.device.context, buffer.nbytes, device.stream())
    return made


def read_bytes(device: Device, address: int, nbytes: int) -> bytes:
    """Bytes of device memory, after the current stream's work."""
    from treadle.runtime.cuda_driver import call
    made = ctypes.create_string_buffer(max(nbytes, 1))
    device.enter()
    call("cuMemcpyDtoHAsync", made, address, nbytes, device.stream())
    device.wait()
    return made.raw[:nbytes]


def write_bytes(device: Device, address: int, data: bytes) -> None:
    """Bytes into device memory, after the current stream's work."""
    from treadle.runtime.cuda_driver import call
    device.enter()
    call("cuMemcpyHtoDAsync", address, data, len(data), device.stream())
    device.wait()
