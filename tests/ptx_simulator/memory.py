"""Device memory: separate allocations with exact bounds, and one array of shared memory for many blocks.

Every byte knows whether it was ever written. Addresses of freed memory are not given out again while others are left.
"""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np

from ptx_simulator.floating import Array

FIRST_ADDRESS = 0x7F00_0000_0000
SHARED_WINDOW = 1 << 56
LOCAL_WINDOW = 2 << 56
UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
GUARD = 512
_FILLED = 1 << 20
_SCANNED = 1 << 24


class OutOfMemoryError(Exception):
    """An allocation beyond the device's memory."""


class Bytes:
    """`size` bytes with, for each byte, whether it was written; both can be seen as wider elements."""

    def __init__(self, size: int) -> None:
        padded = -(-size // 16) * 16 + 16
        self.size = size
        # Large memory stays untouched: the system gives zeroed pages as they are used.
        self.data = np.full(padded, 0xCD, np.uint8) if size <= _FILLED else np.zeros(padded, np.uint8)
        self.written = np.zeros(padded, np.bool_)
        self._views = {width: (self.data.view(kind), self.written.view(kind)) for width, kind in UNSIGNED.items()}

    def elements(self, width: int) -> Array:
        return self._views[width][0]

    def flags(self, width: int) -> Array:
        """Written-flags of `width` bytes as one integer; all set is 0x0101...01."""
        return self._views[width][1]

    def unwritten(self, width: int, index: Array) -> Array:
        """For each element: is one of its bytes not written?"""
        return self.flags(width)[index] != UNSIGNED[width](int.from_bytes(b"\1" * width, "little"))

    def mark(self, width: int, index: Array) -> None:
        self.flags(width)[index] = UNSIGNED[width](int.from_bytes(b"\1" * width, "little"))


class Allocation(Bytes):
    """Device memory [base, base + size)."""

    def __init__(self, base: int, size: int) -> None:
        super().__init__(size)
        self.base = base
        self.complete = False

    @property
    def end(self) -> int:
        return self.base + self.size

    def scan(self) -> None:
        """Notes whether every byte was written: reads need no check then."""
        if not self.complete and self.size <= _SCANNED:
            self.complete = bool(self.written[: self.size].all())


class DeviceMemory:
    """All allocations of a device, at most `limit` bytes at a time."""

    def __init__(self, limit: int = 1 << 31) -> None:
        self.limit = limit
        self.used = 0
        self._top = FIRST_ADDRESS
        self._bases: list[int] = []
        self._live: dict[int, Allocation] = {}

    def allocate(self, size: int) -> Allocation:
        """Memory aligned to 512 bytes. OutOfMemoryError beyond the limit."""
        if self.used + size > self.limit:
            raise OutOfMemoryError(f"{size} bytes asked, {self.limit - self.used} of {self.limit} left")
        allocation = Allocation(self._top, size)
        self._top += -(-size // GUARD) * GUARD + GUARD
        self._bases.append(allocation.base)
        self._live[allocation.base] = allocation
        self.used += size
        return allocation

    def free(self, base: int) -> None:
        """KeyError if no allocation starts at `base`."""
        allocation = self._live.pop(base)
        self._bases.pop(bisect.bisect_left(self._bases, base))
        self.used -= allocation.size

    def find(self, address: int) -> Allocation | None:
        """The allocation that holds the byte at `address`."""
        place = bisect.bisect_right(self._bases, address) - 1
        if place < 0:
            return None
        allocation = self._live[self._bases[place]]
        return allocation if address < allocation.end else None

    def span(self, address: int, size: int) -> tuple[Allocation, int]:
        """The allocation and offset of `size` bytes at `address`. IndexError if they are not in one allocation."""
        allocation = self.find(address)
        if allocation is None or address + size > allocation.end:
            raise IndexError(f"{size} bytes at {address:#x} are not in one allocation")
        return allocation, address - allocation.base

    def write(self, address: int, data: Array) -> None:
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        allocation, offset = self.span(address, raw.size)
        allocation.data[offset : offset + raw.size] = raw
        allocation.written[offset : offset + raw.size] = True

    def read(self, address: int, size: int) -> Array:
        allocation, offset = self.span(address, size)
        return allocation.data[offset : offset + size]

    def copy(self, target: int, source: int, size: int) -> None:
        """Device to device; bytes that were never written stay so."""
        to, to_offset = self.span(target, size)
        origin, offset = self.span(source, size)
        to.data[to_offset : to_offset + size] = origin.data[offset : offset + size].copy()
        to.written[to_offset : to_offset + size] = origin.written[offset : offset + size].copy()
        to.complete = False

    def describe(self, address: int) -> str:
        """Words for an address that no allocation holds."""
        place = bisect.bisect_right(self._bases, address) - 1
        if place < 0:
            return "no allocation lies before it"
        before = self._live[self._bases[place]]
        return f"{address - before.end} bytes behind the end of the {before.size}-byte allocation at {before.base:#x}"
