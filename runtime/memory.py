"""A caching allocator for tensor storage: 64-byte aligned blocks that are reused instead of returned to the system.

Reuse matters as much as the kernels: the first touch of fresh pages costs more than most element-wise operations. Sizes
are rounded to classes (eight per power of two). Small classes are cut from slabs, large blocks have a mapping each;
from 2 MiB on blocks are aligned to, and ask for, huge pages.
"""
from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from treadle.ir.types import TensorType

ALIGNMENT = 64
LARGE = 1 << 16  # bytes of an array from which on it matters where it lies
HUGE_PAGE = 2 << 20
# Larger classes have a mapping of their own, which can be given back block by block.
LARGEST_SLAB_CLASS = 256 << 10
SMALLEST_SLAB = 64 << 10
MADV_HUGEPAGE = 14
MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class SizeClass:
    """Blocks of one size: the free ones, and how to make more."""

    __slots__ = ("free", "pool", "size", "slab")

    def __init__(self, size: int, pool: Pool) -> None:
        self.size = size
        self.slab = slab_bytes(size) if size <= LARGEST_SLAB_CLASS else 0
        self.free: list[int] = []
        self.pool = pool


class Buffer:
    """Memory of a tensor: `ptr` (address), `nbytes`. The block goes back to the pool when this object dies.

    `owner` is the object whose memory is borrowed (an ndarray), or None for a block of the pool.
    """

    __slots__ = ("__weakref__", "_class", "nbytes", "owner", "ptr")

    def __init__(self, ptr: int, nbytes: int, owner: Any = None, size_class: SizeClass | None = None) -> None:
        self.ptr = ptr
        self.nbytes = nbytes
        self.owner = owner
        self._class = size_class

    def __del__(self) -> None:
        # May run in any thread, inside a collection, or at exit: list.append and integer += are atomic, no locks.
        size_class = self._class
        if size_class is not None:
            pool = size_class.pool
            pool.in_use -= size_class.size
            size_class.free.append(self.ptr)
            if pool.reserved - pool.in_use > pool.limit:
                pool.trim(pool.limit // 2)

    def __repr__(self) -> str:
        return f"Buffer(ptr={self.ptr:#x}, nbytes={self.nbytes})"

    def host(self) -> Buffer:
        """The content in the host's memory."""
        return self

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The bytes as numpy sees them; an array made from it keeps this buffer alive."""
        return {"data": (self.ptr, False), "shape": (self.nbytes,), "typestr": "|u1", "version": 3}


def slab_bytes(size: int) -> int:
    """Bytes mapped at a time for a small class: a power of two, sixteen blocks or more where 2 MiB allows."""
    return min(HUGE_PAGE, max(SMALLEST_SLAB, 1 << (16 * size - 1).bit_length()))


def class_size(nbytes: int) -> int:
    """The block size that serves a request: at most an eighth larger, a multiple of 64."""
    if nbytes <= 8 * ALIGNMENT:
        return max(ALIGNMENT, -(-nbytes // ALIGNMENT) * ALIGNMENT)
    step = max(ALIGNMENT, 1 << ((nbytes - 1).bit_length() - 4))
    if nbytes > LARGEST_SLAB_CLASS:
        step = max(step, mmap.PAGESIZE)
    return -(-nbytes // step) * step


class Pool:
    """All blocks of the process. `in_use`, `peak` and `reserved` count bytes of whole blocks."""

    def __init__(self, limit: int) -> None:
        self.in_use = 0
        self.peak = 0
        self.reserved = 0
        self.limit = limit
        # How much may stay cached when a new large block is mapped. It grows, so that programs whose sizes alternate soon keep them all.
        self.slack = 0
        self._classes: dict[int, SizeClass] = {}
        # Requests repeat: remember which class served a size.
        self._by_request: dict[int, SizeClass] = {}
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> Buffer:
        """A block of at least `nbytes` (0 is legal), 64-byte aligned, contents undefined. RuntimeError when out of memory."""
        size_class = self._by_request.get(nbytes)
        if size_class is None:
            size_class = self._class_for(nbytes)
        try:
            ptr = size_class.free.pop()
        except IndexError:
            ptr = self._grow(size_class, nbytes)
        self.in_use += size_class.size
        if self.in_use > self.peak:
            self.peak = self.in_use
        return Buffer(ptr, nbytes, None, size_class)

    def trim(self, keep: int) -> None:
        """Give free memory back to the system, largest blocks first, until at most `keep` bytes stay cached."""
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it, or this is a destructor inside our own code
        try:
            for size in sorted(self._classes, reverse=True):
                size_class = self._classes[size]
                if size_class.slab:
                    if self.reserved - self.in_use > keep:
                        self._release_slabs(size_class)
                    continue
                while size_class.free and self.reserved - self.in_use > keep:
                    self._unmap(size_class.free.pop(), size)
        finally:
            self._lock.release()

    def _class_for(self, nbytes: int) -> SizeClass:
        if nbytes < 0:
            raise ValueError(f"cannot allocate a negative number of bytes: {nbytes}")
        size = class_size(nbytes)
        size_class = self._classes.setdefault(size, SizeClass(size, self))
        if len(self._by_request) > 8192:
            self._by_request.clear()
        self._by_request[nbytes] = size_class
        return size_class

    def _grow(self, size_class: SizeClass, nbytes: int) -> int:
        """A fresh block; a slab leaves the rest of its blocks in the free list."""
        size = size_class.slab or size_class.size
        if size >= HUGE_PAGE and self.reserved - self.in_use > self.slack:
            self.trim(self.slack)
            self.slack += size // 8
        try:
            base = _map(size)
        except MemoryError:
            self.trim(0)
            try:
                base = _map(size)
            except MemoryError:
                raise RuntimeError(
                    f"not enough memory: you tried to allocate {nbytes} bytes "
                    f"({self.in_use} bytes in use, {self.reserved} reserved)"
                ) from None
        self.reserved += size
        if not size_class.slab:
            return base
        # The tail that is too short for a block would count as cached for ever.
        count = size // size_class.size
        self.reserved -= size - count * size_class.size
        size_class.free.extend(base + i * size_class.size for i in range(count - 1, 0, -1))
        return base

    def _release_slabs(self, size_class: SizeClass) -> None:
        """Unmap the slabs all of whose blocks are free."""
        blocks = []
        while size_class.free:
            blocks.append(size_class.free.pop())
        count = size_class.slab // size_class.size
        bases = Counter(block & -size_class.slab for block in blocks)
        full = {base for base, free in bases.items() if free == count}
        size_class.free.extend(block for block in blocks if block & -size_class.slab not in full)
        for base in full:
            _libc.munmap(base, size_class.slab)
            self.reserved -= count * size_class.size

    def _unmap(self, ptr: int, size: int) -> None:
        _libc.munmap(ptr, size)
        self.reserved -= size

    def after_fork(self) -> None:
        """The child may have inherited the lock held by a thread that does not exist there."""
        self._lock = threading.Lock()


def _map(size: int) -> int:
    """Fresh zeroed pages. Aligned to 2 MiB (huge pages) from that size on, and a slab to its own size; MemoryError."""
    align = HUGE_PAGE if size >= HUGE_PAGE else 1 << (size - 1).bit_length()
    total = size + align
    start = _libc.mmap(None, total, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if start == MAP_FAILED:
        raise MemoryError
    base = -(-start // align) * align
    end = -(-(base + size) // mmap.PAGESIZE) * mmap.PAGESIZE
    if base > start:
        _libc.munmap(start, base - start)
    if end < start + total:
        _libc.munmap(end, start + total - end)
    if size >= HUGE_PAGE:
        # Advice only: kernels without huge pages answer with an error that changes nothing.
        _libc.madvise(base, size, MADV_HUGEPAGE)
    return base


def _default_limit() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


_pool = Pool(_default_limit())
os.register_at_fork(after_in_child=_pool.after_fork)
allocate = _pool.allocate


def empty_cache() -> None:
    """Return all cached free memory to the system."""
    _pool.trim(0)


def set_cache_limit(nbytes: int) -> None:
    """Keep at most `nbytes` of free memory cached (default: a quarter of the machine's memory)."""
    _pool.limit = nbytes
    if _pool.reserved - _pool.in_use > nbytes:
        _pool.trim(nbytes)


def memory_stats() -> dict[str, int]:
    """Bytes `in_use` by live buffers, their `peak`, bytes `reserved` from the system and free ones `cached`."""
    return {"in_use": _pool.in_use, "peak": _pool.peak, "reserved": _pool.reserved, "cached": _pool.reserved - _pool.in_use}


def reset_peak() -> None:
    """Start measuring the peak anew."""
    _pool.peak = _pool.in_use


def from_numpy(array: np.ndarray) -> Buffer:
    """The memory of a C-contiguous array, kept alive by the buffer; ValueError when it is not contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError(f"from_numpy needs a C-contiguous array, got strides {array.strides} for shape {array.shape}")
    return Buffer(array.__array_interface__["data"][0], array.nbytes, array)


def as_numpy(buffer: Buffer, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """The start of the buffer as an array that shares its memory and keeps it alive; ValueError when it does not fit."""
    dtype = np.dtype(dtype)
    nbytes = dtype.itemsize
    for size in shape:
        nbytes *= size
    if nbytes > buffer.nbytes:
        raise ValueError(f"an array of shape {tuple(shape)} and type {dtype} needs {nbytes} bytes, the buffer has {buffer.nbytes}")
    return np.asarray(buffer)[:nbytes].view(dtype).reshape(shape)


def own_copy(array: np.ndarray, type: TensorType) -> Buffer:
    """A block of the pool with the content, on the type's device: aligned, and shared with nothing else."""
    buffer = allocate(type.nbytes)
    np.copyto(as_numpy(buffer, type.shape, type.dtype.np), array, casting="unsafe")
    return placed(buffer, type.device)


def taken(array: np.ndarray, type: TensorType) -> Buffer:
    """The memory of an array nobody else uses; of a large one that lies badly, a copy: every kernel would read across cache lines."""
    if array.nbytes >= LARGE and array.__array_interface__["data"][0] % ALIGNMENT:
        return own_copy(array, type)
    return from_numpy(np.ascontiguousarray(array, type.dtype.np).reshape(array.shape))


def align(data: Any) -> None:
    """Give a computed value that holds a large borrowed block which lies badly a copy of it (a `Data` of the recorder)."""
    held = data.buffer
    if held.__class__ is Buffer and held.owner is not None and held.nbytes >= LARGE and held.ptr % ALIGNMENT:
        data.buffer = own_copy(as_numpy(held, data.type.shape, data.type.dtype.np), data.type)


def trim_heap() -> None:
    """Give memory that the C library holds free back to the system. Does nothing where the library has no such call."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def _same_bytes(first: int, second: int, nbytes: int) -> bool:
    return bool(_libc.memcmp(first, second, nbytes) == 0)


# Whether so many bytes at two addresses are equal. `treadle.runtime.native` puts a faster one here.
same_bytes: Callable[[int, int, int], bool] = _same_bytes


def array_of(buffer: Buffer, type: TensorType) -> np.ndarray:
    """The value in `buffer` as an array that shares its memory; of a value on another device, a copy."""
    return as_numpy(buffer if type.device == "cpu" else buffer.host(), type.shape, type.dtype.np)


def placed(buffer: Buffer, device: str) -> Buffer:
    """The buffer, or a copy of it on the device."""
    if device == "cpu":
        return buffer
    from treadle.runtime.placement import move
    found: Buffer = move(buffer, device)
    return found
